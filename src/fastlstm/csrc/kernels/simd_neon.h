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
   v_zip_low, v_zip_high  zip1, zip2 4s                zip1, zip2 2d
   v_permute              tbl 16b                      ins, ldr
   v_sum                  fadd 2s, faddp               faddp

   Compact weights, f32 alone:
   v_load_half            ldr d, fcvtl
   vi_load, vi_bcast      ldr q, ld1r
   vi_add, vi_sum         add, addv
   vi_round               fcvtns
   vi_store_bytes, shorts xtn
   vi_max_abs, vi_largest fabs, smax
   vi_dot                 sdot, or smull, addp, sadalp
   vi_dot_shorts          smull, addp, add
   vi_dot_unsigned, fused none
   vi_real                scvtf

   vi_round: to the nearest even integer, for values in [-8191, 8191]; vi_store_bytes, vi_store_shorts: integers of 8 and 16 bits.
   vi_max_abs: the larger of m and the bits of |x|, which are ordered as the values are, infinity and NaN above all.
   vi_dot(acc, a, w): each lane of acc plus the dot product of four bytes of a and w, in [-127, 127] both.
   vi_dot_shorts: plus that of two 16-bit integers of a and w, in [-8191, 8191] both.
   vi_dot_unsigned: as vi_dot for unsigned w; vi_dot_fused: as vi_dot_shorts; for those who ask the processor first, where V_VNNI is 1.

   v_max and v_min give the second operand where either is NaN, and where both are zeros; fmax and
   fmin would give NaN, and would order the zeros.
   v_pow2 takes n + 1.5 * 2^23 (f32) or n + 1.5 * 2^52 (f64), 2^n a normal number.
   v_zip_low and v_zip_high: a[0], b[0], a[1], b[1], ...: the first half of it and the second.
   v_permute: lane j is a[from[j]]. v_sum: by halves, a[j] + a[j + VW/2] first. */
#ifndef FL_SIMD_H
#define FL_SIMD_H

#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "simd_neon.h needs aarch64 NEON"
#endif

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "real.h"

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

#define V_VNNI 0

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
FL_INLINE V v_zip_low(V a, V b) { return vzip1q_f64(a, b); }
FL_INLINE V v_zip_high(V a, V b) { return vzip2q_f64(a, b); }
FL_INLINE V v_permute(V a, const int32_t *from) {
    REAL t[VW];
    v_store(t, a);
    return vcombine_f64(vld1_f64(t + from[0]), vld1_f64(t + from[1]));
}
FL_INLINE REAL v_sum(V a) { return vpaddd_f64(a); }

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
FL_INLINE V v_zip_low(V a, V b) { return vzip1q_f32(a, b); }
FL_INLINE V v_zip_high(V a, V b) { return vzip2q_f32(a, b); }
FL_INLINE V v_permute(V a, const int32_t *from) {
    const uint32x4_t first = vmulq_n_u32(vreinterpretq_u32_s32(vld1q_s32(from)), 0x04040404); /* of each lane's four bytes */
    const uint8x16_t bytes = vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x03020100)));
    return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(a), bytes));
}
FL_INLINE REAL v_sum(V a) { return vpadds_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a))); }

FL_INLINE V v_load_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

typedef int32x4_t VI;

FL_INLINE VI vi_zero(void) { return vdupq_n_s32(0); }
FL_INLINE VI vi_load(const int32_t *p) { return vld1q_s32(p); }
FL_INLINE VI vi_bcast(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return vdupq_n_s32(four);
}
FL_INLINE V vi_real(VI a) { return vcvtq_f32_s32(a); }
FL_INLINE VI vi_max_abs(VI m, V x) { return vmaxq_s32(m, vreinterpretq_s32_f32(vabsq_f32(x))); }
FL_INLINE int32_t vi_largest(VI a) { return vmaxvq_s32(a); }
FL_INLINE VI vi_add(VI a, VI b) { return vaddq_s32(a, b); }
FL_INLINE int32_t vi_sum(VI a) { return vaddvq_s32(a); }
FL_INLINE VI vi_round(V x) { return vcvtnq_s32_f32(x); }
FL_INLINE void vi_store_bytes(int8_t *p, VI a) {
    const int16x4_t words = vmovn_s32(a);
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(words, words))), 0);
    memcpy(p, &four, sizeof four);
}
FL_INLINE void vi_store_shorts(int16_t *p, VI a) { vst1_s16(p, vmovn_s32(a)); }
FL_INLINE VI vi_dot(VI acc, VI a, VI w) {
    const int8x16_t x = vreinterpretq_s8_s32(a), y = vreinterpretq_s8_s32(w);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(acc, x, y);
#else
    return vpadalq_s16(acc, vpaddq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)), vmull_high_s8(x, y)));
#endif
}
FL_INLINE VI vi_dot_shorts(VI acc, VI a, VI w) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(w);
    return vaddq_s32(acc, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
FL_INLINE VI vi_dot_unsigned(VI acc, VI a, VI w) { return vi_dot(acc, a, w); }
FL_INLINE VI vi_dot_fused(VI acc, VI a, VI w) { return vi_dot_shorts(acc, a, w); }

#endif
#endif
