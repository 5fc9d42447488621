/* Vector vocabulary, AVX2 and FMA.

   name                   f32                          f64
   v_load, v_store        vmovups                      vmovupd
   v_load_n, v_store_n    vpcmpgtd, vmaskmovps         vpcmpgtq, vmaskmovpd
   v_bcast                vbroadcastss ymm, m32        vbroadcastsd ymm, m64
   v_add/sub/mul/div      vaddps ...                   vaddpd ...
   v_sqrt                 vsqrtps                      vsqrtpd
   v_fma, v_fnma          vfmadd, vfnmadd ...ps        ...pd
   v_max, v_min           vmaxps, vminps               vmaxpd, vminpd
   v_abs                  vandnps                      vandnpd
   v_copysign             vandps, vandnps, vorps       ...pd
   v_lt, v_select         vcmpps, vblendvps            vcmppd, vblendvpd
   v_pow2                 vpslld, vpaddd               vpsllq, vpaddq
   v_zip_low, v_zip_high  vunpck*ps, vperm2f128        vunpck*pd, vperm2f128
   v_permute              vpermps                      vpermps
   v_sum                  vextractf128, vaddps         vextractf128, vaddpd

   Compact weights, f32 alone:
   v_load_half            vcvtph2ps
   vi_load, vi_bcast      vmovdqu, vpbroadcastd
   vi_add, vi_sum         vpaddd
   vi_round               vcvtps2dq
   vi_store_bytes, shorts vpackssdw, vpacksswb
   vi_max_abs, vi_largest vandps, vpmaxsd
   vi_dot                 vpabsb, vpsignb, vpmaddubsw, vpmaddwd
   vi_dot_shorts          vpmaddwd, vpaddd
   vi_dot_unsigned, fused none
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

/* MSVC has no macro for FMA: /arch:AVX2 includes it. */
#if !defined(__AVX2__) || (!defined(__FMA__) && !defined(_MSC_VER))
#error "simd_avx2.h needs AVX2 and FMA"
#endif

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }

#define V_VNNI 0

#ifdef FL_F64

typedef __m256d V;
typedef __m256d VM;
#define VW 4

FL_INLINE __m256i v_first_n(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
FL_INLINE V v_load(const REAL *p) { return _mm256_loadu_pd(p); }
FL_INLINE void v_store(REAL *p, V v) { _mm256_storeu_pd(p, v); }
FL_INLINE V v_load_n(const REAL *p, int n) { return _mm256_maskload_pd(p, v_first_n(n)); }
FL_INLINE void v_store_n(REAL *p, V v, int n) { _mm256_maskstore_pd(p, v_first_n(n), v); }
FL_INLINE V v_bcast(const REAL *p) { return _mm256_broadcast_sd(p); }
FL_INLINE V v_set1(REAL x) { return _mm256_set1_pd(x); }
FL_INLINE V v_zero(void) { return _mm256_setzero_pd(); }
FL_INLINE V v_add(V a, V b) { return _mm256_add_pd(a, b); }
FL_INLINE V v_sub(V a, V b) { return _mm256_sub_pd(a, b); }
FL_INLINE V v_mul(V a, V b) { return _mm256_mul_pd(a, b); }
FL_INLINE V v_div(V a, V b) { return _mm256_div_pd(a, b); }
FL_INLINE V v_sqrt(V a) { return _mm256_sqrt_pd(a); }
FL_INLINE V v_fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
FL_INLINE V v_fnma(V a, V b, V c) { return _mm256_fnmadd_pd(a, b, c); }
FL_INLINE V v_max(V a, V b) { return _mm256_max_pd(a, b); }
FL_INLINE V v_min(V a, V b) { return _mm256_min_pd(a, b); }
FL_INLINE V v_abs(V a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
FL_INLINE V v_copysign(V magnitude, V sign) {
    const V bit = _mm256_set1_pd(-0.0);
    return _mm256_or_pd(_mm256_andnot_pd(bit, magnitude), _mm256_and_pd(bit, sign));
}
FL_INLINE VM v_lt(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
FL_INLINE V v_select(VM m, V a, V b) { return _mm256_blendv_pd(b, a, m); }
FL_INLINE V v_pow2(V r) {
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_slli_epi64(_mm256_castpd_si256(r), 52),
                                                _mm256_set1_epi64x(1023LL << 52)));
}
FL_INLINE V v_zip_low(V a, V b) { return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x20); }
FL_INLINE V v_zip_high(V a, V b) { return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x31); }
FL_INLINE V v_permute(V a, const int32_t *from) {
    const __m256i low = _mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)from)), 1); /* halves of doubles */
    const __m256i both = _mm256_or_si256(low, _mm256_slli_epi64(_mm256_add_epi64(low, _mm256_set1_epi64x(1)), 32));
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(a), both));
}
FL_INLINE REAL v_sum(V a) {
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#else

typedef __m256 V;
typedef __m256 VM;
#define VW 8

FL_INLINE __m256i v_first_n(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
FL_INLINE V v_load(const REAL *p) { return _mm256_loadu_ps(p); }
FL_INLINE void v_store(REAL *p, V v) { _mm256_storeu_ps(p, v); }
FL_INLINE V v_load_n(const REAL *p, int n) { return _mm256_maskload_ps(p, v_first_n(n)); }
FL_INLINE void v_store_n(REAL *p, V v, int n) { _mm256_maskstore_ps(p, v_first_n(n), v); }
FL_INLINE V v_bcast(const REAL *p) { return _mm256_broadcast_ss(p); }
FL_INLINE V v_set1(REAL x) { return _mm256_set1_ps(x); }
FL_INLINE V v_zero(void) { return _mm256_setzero_ps(); }
FL_INLINE V v_add(V a, V b) { return _mm256_add_ps(a, b); }
FL_INLINE V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
FL_INLINE V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
FL_INLINE V v_div(V a, V b) { return _mm256_div_ps(a, b); }
FL_INLINE V v_sqrt(V a) { return _mm256_sqrt_ps(a); }
FL_INLINE V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
FL_INLINE V v_fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
FL_INLINE V v_max(V a, V b) { return _mm256_max_ps(a, b); }
FL_INLINE V v_min(V a, V b) { return _mm256_min_ps(a, b); }
FL_INLINE V v_abs(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FL_INLINE V v_copysign(V magnitude, V sign) {
    const V bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
FL_INLINE VM v_lt(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
FL_INLINE V v_select(VM m, V a, V b) { return _mm256_blendv_ps(b, a, m); }
FL_INLINE V v_pow2(V r) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(r), 23),
                                                _mm256_set1_epi32(127 << 23)));
}
FL_INLINE V v_zip_low(V a, V b) { return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20); }
FL_INLINE V v_zip_high(V a, V b) { return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31); }
FL_INLINE V v_permute(V a, const int32_t *from) { return _mm256_permutevar8x32_ps(a, _mm256_loadu_si256((const __m256i *)from)); }
FL_INLINE REAL v_sum(V a) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

/* Every processor with AVX2 has F16C. */
FL_INLINE V v_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }

typedef __m256i VI;

FL_INLINE VI vi_zero(void) { return _mm256_setzero_si256(); }
FL_INLINE VI vi_load(const int32_t *p) { return _mm256_loadu_si256((const VI *)p); }
FL_INLINE VI vi_bcast(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}
FL_INLINE V vi_real(VI a) { return _mm256_cvtepi32_ps(a); }
FL_INLINE VI vi_max_abs(VI m, V x) { return _mm256_max_epi32(m, _mm256_castps_si256(v_abs(x))); }
FL_INLINE int32_t vi_largest(VI a) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}
FL_INLINE VI vi_add(VI a, VI b) { return _mm256_add_epi32(a, b); }
FL_INLINE int32_t vi_sum(VI a) {
    __m128i m = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}
FL_INLINE VI vi_round(V x) { return _mm256_cvtps_epi32(x); }
FL_INLINE void vi_store_bytes(int8_t *p, VI a) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}
FL_INLINE void vi_store_shorts(int16_t *p, VI a) {
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}
FL_INLINE VI vi_dot(VI acc, VI a, VI w) {
    const VI pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(w, a)); /* at most 2 * 127 * 127: no saturation */
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
FL_INLINE VI vi_dot_shorts(VI acc, VI a, VI w) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, w)); }
FL_INLINE VI vi_dot_unsigned(VI acc, VI a, VI w) { return vi_dot(acc, a, w); }
FL_INLINE VI vi_dot_fused(VI acc, VI a, VI w) { return vi_dot_shorts(acc, a, w); }

#endif
#endif
