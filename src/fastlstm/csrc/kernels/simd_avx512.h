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
   v_zip_low, v_zip_high  vpermt2ps                    vpermt2pd
   v_permute              vpermps                      vpermpd
   v_sum                  vextract, vaddps             vextract, vaddpd

   Compact weights, f32 alone:
   v_load_half            vcvtph2ps
   vi_load, vi_bcast      vmovdqu32, vpbroadcastd
   vi_add, vi_sum         vpaddd
   vi_round               vcvtps2dq
   vi_store_bytes, shorts vpmovdb, vpmovdw
   vi_max_abs, vi_largest vpandd, vpmaxsd
   vi_dot                 vpabsb, vpsubb {k}, vpmaddubsw, vpmaddwd
   vi_dot_shorts          vpmaddwd, vpaddd
   vi_dot_unsigned, fused vpdpbusd, vpdpwssd (AVX-512 VNNI)
   vi_real                vcvtdq2ps

   vi_round: to the nearest even integer, for values in [-8191, 8191]; vi_store_bytes, vi_store_shorts: integers of 8 and 16 bits.
   vi_max_abs: the larger of m and the bits of |x|, which are ordered as the values are, infinity and NaN above all.
   vi_dot(acc, a, w): each lane of acc plus the dot product of four bytes of a and w, in [-127, 127] both.
   vi_dot_shorts: plus that of two 16-bit integers of a and w, in [-8191, 8191] both.
   vi_dot_unsigned: as vi_dot for unsigned w; vi_dot_fused: as vi_dot_shorts; for those who ask the processor first, where V_VNNI is 1.

   v_max and v_min give the second operand where either is NaN, and where both are zeros.
   v_pow2 takes n + 1.5 * 2^23 (f32) or n + 1.5 * 2^52 (f64), 2^n a normal number.
   v_zip_low and v_zip_high: a[0], b[0], a[1], b[1], ...: the first half of it and the second.
   v_permute: lane j is a[from[j]]. v_sum: by halves, a[j] + a[j + VW/2] first. */
#ifndef FL_SIMD_H
#define FL_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "real.h"

#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__)
#error "simd_avx512.h needs AVX-512 F, VL, BW and DQ"
#endif

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#define V_VNNI 1

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
FL_INLINE V v_zip_low(V a, V b) {
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b);
}
FL_INLINE V v_zip_high(V a, V b) {
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b);
}
FL_INLINE V v_permute(V a, const int32_t *from) {
    return _mm512_permutexvar_pd(_mm512_cvtepi32_epi64(_mm256_loadu_si256((const __m256i *)from)), a);
}
FL_INLINE REAL v_sum(V a) {
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
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
FL_INLINE V v_zip_low(V a, V b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
FL_INLINE V v_zip_high(V a, V b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
}
FL_INLINE V v_permute(V a, const int32_t *from) { return _mm512_permutexvar_ps(_mm512_loadu_si512(from), a); }
FL_INLINE REAL v_sum(V a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

FL_INLINE V v_load_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

typedef __m512i VI;

FL_INLINE VI vi_zero(void) { return _mm512_setzero_si512(); }
FL_INLINE VI vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
FL_INLINE VI vi_bcast(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}
FL_INLINE V vi_real(VI a) { return _mm512_cvtepi32_ps(a); }
FL_INLINE VI vi_max_abs(VI m, V x) { return _mm512_max_epi32(m, _mm512_castps_si512(v_abs(x))); }
FL_INLINE int32_t vi_largest(VI a) { return _mm512_reduce_max_epi32(a); }
FL_INLINE VI vi_add(VI a, VI b) { return _mm512_add_epi32(a, b); }
FL_INLINE int32_t vi_sum(VI a) { return _mm512_reduce_add_epi32(a); }
FL_INLINE VI vi_round(V x) { return _mm512_cvtps_epi32(x); }
FL_INLINE void vi_store_bytes(int8_t *p, VI a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }
FL_INLINE void vi_store_shorts(int16_t *p, VI a) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a)); }
FL_INLINE VI vi_dot(VI acc, VI a, VI w) {
    const VI same_sign = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(a), _mm512_setzero_si512(), w);
    const VI pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(a), same_sign); /* at most 2 * 127 * 127: no saturation */
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
FL_INLINE VI vi_dot_shorts(VI acc, VI a, VI w) { return _mm512_add_epi32(acc, _mm512_madd_epi16(a, w)); }
/* As instructions: the intrinsics would want the flag for the whole file, and with it every machine the extension. */
#if defined(_MSC_VER) && !defined(__clang__)
FL_INLINE VI vi_dot_unsigned(VI acc, VI a, VI w) { return _mm512_dpbusd_epi32(acc, w, a); }
FL_INLINE VI vi_dot_fused(VI acc, VI a, VI w) { return _mm512_dpwssd_epi32(acc, a, w); }
#else
FL_INLINE VI vi_dot_unsigned(VI acc, VI a, VI w) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "vm"(a));
    return acc;
}
FL_INLINE VI vi_dot_fused(VI acc, VI a, VI w) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "vm"(w));
    return acc;
}
#endif

#endif
#endif
