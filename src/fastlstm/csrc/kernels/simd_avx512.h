/* Vector vocabulary, AVX-512 F/VL/BW/DQ.

   name                   f32                          f64
   v_load, v_store        vmovups                      vmovupd
   v_load_n, v_store_n    vmovups {k}                  vmovupd {k}
   v_bcast                vbroadcastss zmm, m32        vbroadcastsd zmm, m64
   v_add/sub/mul/div      vaddps ...                   vaddpd ...
   v_sqrt                 vsqrtps                      vsqrtpd
   v_fma, v_fnma          vfmadd, vfnmadd ...ps        ...pd
   v_max, v_min           vmaxps, vminps               vmaxpd, vminpd
   v_abs                  vpandd                       vpandq
   v_copysign             vpternlogd                   vpternlogq
   v_lt, v_select         vcmpps k, vblendmps          vcmppd k, vblendmpd
   v_pow2                 vpslld, vpaddd               vpsllq, vpaddq

   v_max and v_min give the second operand where either is NaN, and where both are zeros.
   v_pow2 takes n + 1.5 * 2^23 (f32) or n + 1.5 * 2^52 (f64), 2^n a normal number. */
#ifndef FL_SIMD_H
#define FL_SIMD_H

#include <immintrin.h>

#include "real.h"

#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__)
#error "simd_avx512.h needs AVX-512 F, VL, BW and DQ"
#endif

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#ifdef FL_F64

typedef __m512d V;
typedef __mmask8 VM;
#define VW 8

FL_INLINE V v_load(const REAL *p) { return _mm512_loadu_pd(p); }
FL_INLINE void v_store(REAL *p, V v) { _mm512_storeu_pd(p, v); }
FL_INLINE V v_load_n(const REAL *p, int n) { return _mm512_maskz_loadu_pd((VM)((1u << n) - 1), p); }
FL_INLINE void v_store_n(REAL *p, V v, int n) { _mm512_mask_storeu_pd(p, (VM)((1u << n) - 1), v); }
FL_INLINE V v_bcast(const REAL *p) { return _mm512_set1_pd(*p); }
FL_INLINE V v_set1(REAL x) { return _mm512_set1_pd(x); }
FL_INLINE V v_zero(void) { return _mm512_setzero_pd(); }
FL_INLINE V v_add(V a, V b) { return _mm512_add_pd(a, b); }
FL_INLINE V v_sub(V a, V b) { return _mm512_sub_pd(a, b); }
FL_INLINE V v_mul(V a, V b) { return _mm512_mul_pd(a, b); }
FL_INLINE V v_div(V a, V b) { return _mm512_div_pd(a, b); }
FL_INLINE V v_sqrt(V a) { return _mm512_sqrt_pd(a); }
FL_INLINE V v_fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
FL_INLINE V v_fnma(V a, V b, V c) { return _mm512_fnmadd_pd(a, b, c); }
FL_INLINE V v_max(V a, V b) { return _mm512_max_pd(a, b); }
FL_INLINE V v_min(V a, V b) { return _mm512_min_pd(a, b); }
FL_INLINE V v_abs(V a) {
    return _mm512_castsi512_pd(_mm512_and_si512(_mm512_castpd_si512(a), _mm512_set1_epi64(0x7fffffffffffffffLL)));
}
FL_INLINE V v_copysign(V magnitude, V sign) {
    return _mm512_castsi512_pd(_mm512_ternarylogic_epi64(_mm512_set1_epi64(0x7fffffffffffffffLL),
                                                         _mm512_castpd_si512(magnitude),
                                                         _mm512_castpd_si512(sign), 0xca));
}
FL_INLINE VM v_lt(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
FL_INLINE V v_select(VM m, V a, V b) { return _mm512_mask_blend_pd(m, b, a); }
FL_INLINE V v_pow2(V r) {
    return _mm512_castsi512_pd(_mm512_add_epi64(_mm512_slli_epi64(_mm512_castpd_si512(r), 52),
                                                _mm512_set1_epi64(1023LL << 52)));
}

#else

typedef __m512 V;
typedef __mmask16 VM;
#define VW 16

FL_INLINE V v_load(const REAL *p) { return _mm512_loadu_ps(p); }
FL_INLINE void v_store(REAL *p, V v) { _mm512_storeu_ps(p, v); }
FL_INLINE V v_load_n(const REAL *p, int n) { return _mm512_maskz_loadu_ps((VM)((1u << n) - 1), p); }
FL_INLINE void v_store_n(REAL *p, V v, int n) { _mm512_mask_storeu_ps(p, (VM)((1u << n) - 1), v); }
FL_INLINE V v_bcast(const REAL *p) { return _mm512_set1_ps(*p); }
FL_INLINE V v_set1(REAL x) { return _mm512_set1_ps(x); }
FL_INLINE V v_zero(void) { return _mm512_setzero_ps(); }
FL_INLINE V v_add(V a, V b) { return _mm512_add_ps(a, b); }
FL_INLINE V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
FL_INLINE V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
FL_INLINE V v_div(V a, V b) { return _mm512_div_ps(a, b); }
FL_INLINE V v_sqrt(V a) { return _mm512_sqrt_ps(a); }
FL_INLINE V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
FL_INLINE V v_fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
FL_INLINE V v_max(V a, V b) { return _mm512_max_ps(a, b); }
FL_INLINE V v_min(V a, V b) { return _mm512_min_ps(a, b); }
FL_INLINE V v_abs(V a) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
}
FL_INLINE V v_copysign(V magnitude, V sign) {
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7fffffff),
                                                         _mm512_castps_si512(magnitude),
                                                         _mm512_castps_si512(sign), 0xca));
}
FL_INLINE VM v_lt(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FL_INLINE V v_select(VM m, V a, V b) { return _mm512_mask_blend_ps(m, b, a); }
FL_INLINE V v_pow2(V r) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(r), 23),
                                                _mm512_set1_epi32(127 << 23)));
}

#endif
#endif
