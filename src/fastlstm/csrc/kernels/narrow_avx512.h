/* What narrow.h needs of the vocabulary, for vectors of half the width: AVX-512 VL. Each does for the first FL_NARROW elements what
   the one of simd_avx512.h does for all; vn_store_wide writes a whole vector, zeros in the rest, and vn_low is the first half of one. */
#ifndef FL_NARROW_H
#define FL_NARROW_H

#ifdef FL_F64

typedef __m256d VN;
typedef __mmask8 VNM;
#define FL_NARROW 4

FL_INLINE VN vn_low(V a) { return _mm512_castpd512_pd256(a); }
FL_INLINE VN vn_load(const REAL *p) { return _mm256_loadu_pd(p); }
FL_INLINE void vn_store(REAL *p, VN v) { _mm256_storeu_pd(p, v); }
FL_INLINE void vn_store_wide(REAL *p, VN v) { _mm512_storeu_pd(p, _mm512_zextpd256_pd512(v)); }
FL_INLINE VN vn_load_n(const REAL *p, int n) { return _mm256_maskz_loadu_pd((VNM)((1u << n) - 1), p); }
FL_INLINE void vn_store_n(REAL *p, VN v, int n) { _mm256_mask_storeu_pd(p, (VNM)((1u << n) - 1), v); }
FL_INLINE VN vn_set1(REAL x) { return _mm256_set1_pd(x); }
FL_INLINE VN vn_zero(void) { return _mm256_setzero_pd(); }
FL_INLINE VN vn_add(VN a, VN b) { return _mm256_add_pd(a, b); }
FL_INLINE VN vn_sub(VN a, VN b) { return _mm256_sub_pd(a, b); }
FL_INLINE VN vn_mul(VN a, VN b) { return _mm256_mul_pd(a, b); }
FL_INLINE VN vn_div(VN a, VN b) { return _mm256_div_pd(a, b); }
FL_INLINE VN vn_fma(VN a, VN b, VN c) { return _mm256_fmadd_pd(a, b, c); }
FL_INLINE VN vn_fnma(VN a, VN b, VN c) { return _mm256_fnmadd_pd(a, b, c); }
FL_INLINE VN vn_max(VN a, VN b) { return _mm256_max_pd(a, b); }
FL_INLINE VN vn_min(VN a, VN b) { return _mm256_min_pd(a, b); }
FL_INLINE VN vn_abs(VN a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
FL_INLINE VN vn_copysign(VN magnitude, VN sign) {
    const VN bit = _mm256_set1_pd(-0.0);
    return _mm256_or_pd(_mm256_andnot_pd(bit, magnitude), _mm256_and_pd(bit, sign));
}
FL_INLINE VNM vn_lt(VN a, VN b) { return _mm256_cmp_pd_mask(a, b, _CMP_LT_OQ); }
FL_INLINE VN vn_select(VNM m, VN a, VN b) { return _mm256_mask_blend_pd(m, b, a); }
FL_INLINE VN vn_pow2(VN r) {
    return _mm256_castsi256_pd(_mm256_add_epi64(_mm256_slli_epi64(_mm256_castpd_si256(r), 52), _mm256_set1_epi64x(1023LL << 52)));
}

#else

typedef __m256 VN;
typedef __mmask8 VNM;
#define FL_NARROW 8

FL_INLINE VN vn_low(V a) { return _mm512_castps512_ps256(a); }
FL_INLINE VN vn_load(const REAL *p) { return _mm256_loadu_ps(p); }
FL_INLINE void vn_store(REAL *p, VN v) { _mm256_storeu_ps(p, v); }
FL_INLINE void vn_store_wide(REAL *p, VN v) { _mm512_storeu_ps(p, _mm512_zextps256_ps512(v)); }
FL_INLINE VN vn_load_n(const REAL *p, int n) { return _mm256_maskz_loadu_ps((VNM)((1u << n) - 1), p); }
FL_INLINE void vn_store_n(REAL *p, VN v, int n) { _mm256_mask_storeu_ps(p, (VNM)((1u << n) - 1), v); }
FL_INLINE VN vn_set1(REAL x) { return _mm256_set1_ps(x); }
FL_INLINE VN vn_zero(void) { return _mm256_setzero_ps(); }
FL_INLINE VN vn_add(VN a, VN b) { return _mm256_add_ps(a, b); }
FL_INLINE VN vn_sub(VN a, VN b) { return _mm256_sub_ps(a, b); }
FL_INLINE VN vn_mul(VN a, VN b) { return _mm256_mul_ps(a, b); }
FL_INLINE VN vn_div(VN a, VN b) { return _mm256_div_ps(a, b); }
FL_INLINE VN vn_fma(VN a, VN b, VN c) { return _mm256_fmadd_ps(a, b, c); }
FL_INLINE VN vn_fnma(VN a, VN b, VN c) { return _mm256_fnmadd_ps(a, b, c); }
FL_INLINE VN vn_max(VN a, VN b) { return _mm256_max_ps(a, b); }
FL_INLINE VN vn_min(VN a, VN b) { return _mm256_min_ps(a, b); }
FL_INLINE VN vn_abs(VN a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FL_INLINE VN vn_copysign(VN magnitude, VN sign) {
    const VN bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
FL_INLINE VNM vn_lt(VN a, VN b) { return _mm256_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FL_INLINE VN vn_select(VNM m, VN a, VN b) { return _mm256_mask_blend_ps(m, b, a); }
FL_INLINE VN vn_pow2(VN r) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(r), 23), _mm256_set1_epi32(127 << 23)));
}

#endif
#endif
