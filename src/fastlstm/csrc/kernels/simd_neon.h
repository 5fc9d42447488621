/* Vector vocabulary, aarch64 NEON.

   name                   f32                          f64
   v_load, v_store        ldr, str q                   ldr, str q
   v_load_n, v_store_n    ld1, st1 {v.s}[i]            ld1, st1 {v.d}[i]
   v_bcast                ld1r {v.4s}                  ld1r {v.2d}
   v_add/sub/mul/div      fadd ... 4s                  fadd ... 2d
   v_sqrt                 fsqrt 4s                     fsqrt 2d
   v_fma, v_fnma          fmla, fmls 4s                fmla, fmls 2d
   v_max, v_min           fcmgt, bsl                   fcmgt, bsl
   v_abs                  fabs                         fabs
   v_copysign             bsl                          bsl
   v_lt, v_select         fcmgt, bsl                   fcmgt, bsl
   v_pow2                 shl, add 4s                  shl, add 2d

   v_max and v_min give the second operand where either is NaN, and where both are zeros; fmax and
   fmin would give NaN, and would order the zeros.
   v_pow2 takes n + 1.5 * 2^23 (f32) or n + 1.5 * 2^52 (f64), 2^n a normal number. */
#ifndef FL_SIMD_H
#define FL_SIMD_H

#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "simd_neon.h needs aarch64 NEON"
#endif

#include <arm_neon.h>

#include "real.h"

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

#ifdef FL_F64

typedef float64x2_t V;
typedef uint64x2_t VM;
#define VW 2

FL_INLINE V v_load(const REAL *p) { return vld1q_f64(p); }
FL_INLINE void v_store(REAL *p, V v) { vst1q_f64(p, v); }
FL_INLINE V v_load_n(const REAL *p, int n) {
    V v = vdupq_n_f64(0.0);
    if (n > 0) v = vld1q_lane_f64(p, v, 0);
    if (n > 1) v = vld1q_lane_f64(p + 1, v, 1);
    return v;
}
FL_INLINE void v_store_n(REAL *p, V v, int n) {
    if (n > 0) vst1q_lane_f64(p, v, 0);
    if (n > 1) vst1q_lane_f64(p + 1, v, 1);
}
FL_INLINE V v_bcast(const REAL *p) { return vld1q_dup_f64(p); }
FL_INLINE V v_set1(REAL x) { return vdupq_n_f64(x); }
FL_INLINE V v_zero(void) { return vdupq_n_f64(0.0); }
FL_INLINE V v_add(V a, V b) { return vaddq_f64(a, b); }
FL_INLINE V v_sub(V a, V b) { return vsubq_f64(a, b); }
FL_INLINE V v_mul(V a, V b) { return vmulq_f64(a, b); }
FL_INLINE V v_div(V a, V b) { return vdivq_f64(a, b); }
FL_INLINE V v_sqrt(V a) { return vsqrtq_f64(a); }
FL_INLINE V v_fma(V a, V b, V c) { return vfmaq_f64(c, a, b); }
FL_INLINE V v_fnma(V a, V b, V c) { return vfmsq_f64(c, a, b); }
FL_INLINE V v_max(V a, V b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
FL_INLINE V v_min(V a, V b) { return vbslq_f64(vcltq_f64(a, b), a, b); }
FL_INLINE V v_abs(V a) { return vabsq_f64(a); }
FL_INLINE V v_copysign(V magnitude, V sign) {
    return vbslq_f64(vdupq_n_u64(0x8000000000000000u), sign, magnitude);
}
FL_INLINE VM v_lt(V a, V b) { return vcltq_f64(a, b); }
FL_INLINE V v_select(VM m, V a, V b) { return vbslq_f64(m, a, b); }
FL_INLINE V v_pow2(V r) {
    return vreinterpretq_f64_s64(vaddq_s64(vshlq_n_s64(vreinterpretq_s64_f64(r), 52), vdupq_n_s64(1023LL << 52)));
}

#else

typedef float32x4_t V;
typedef uint32x4_t VM;
#define VW 4

FL_INLINE V v_load(const REAL *p) { return vld1q_f32(p); }
FL_INLINE void v_store(REAL *p, V v) { vst1q_f32(p, v); }
FL_INLINE V v_load_n(const REAL *p, int n) {
    V v = vdupq_n_f32(0.0f);
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    if (n > 3) v = vld1q_lane_f32(p + 3, v, 3);
    return v;
}
FL_INLINE void v_store_n(REAL *p, V v, int n) {
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
    if (n > 3) vst1q_lane_f32(p + 3, v, 3);
}
FL_INLINE V v_bcast(const REAL *p) { return vld1q_dup_f32(p); }
FL_INLINE V v_set1(REAL x) { return vdupq_n_f32(x); }
FL_INLINE V v_zero(void) { return vdupq_n_f32(0.0f); }
FL_INLINE V v_add(V a, V b) { return vaddq_f32(a, b); }
FL_INLINE V v_sub(V a, V b) { return vsubq_f32(a, b); }
FL_INLINE V v_mul(V a, V b) { return vmulq_f32(a, b); }
FL_INLINE V v_div(V a, V b) { return vdivq_f32(a, b); }
FL_INLINE V v_sqrt(V a) { return vsqrtq_f32(a); }
FL_INLINE V v_fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
FL_INLINE V v_fnma(V a, V b, V c) { return vfmsq_f32(c, a, b); }
FL_INLINE V v_max(V a, V b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
FL_INLINE V v_min(V a, V b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
FL_INLINE V v_abs(V a) { return vabsq_f32(a); }
FL_INLINE V v_copysign(V magnitude, V sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
FL_INLINE VM v_lt(V a, V b) { return vcltq_f32(a, b); }
FL_INLINE V v_select(VM m, V a, V b) { return vbslq_f32(m, a, b); }
FL_INLINE V v_pow2(V r) {
    return vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(r), 23), vdupq_n_s32(127 << 23)));
}

#endif
#endif
