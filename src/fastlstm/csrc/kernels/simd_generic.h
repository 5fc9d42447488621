/* Vector vocabulary, GCC vector extensions: any CPU the compiler knows, 16-byte vectors.

   v_fma and v_fnma round twice, product and sum: a call to fma() per lane is all that C offers where the
   instruction is missing. Results therefore differ from the other instruction sets in the last bits.
   Compact weights: f32 alone.
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

#if !defined(__GNUC__)
#error "simd_generic.h needs GCC vector extensions"
#endif

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "real.h"

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

#define V_VNNI 0

#ifdef FL_F64

typedef double V __attribute__((vector_size(16)));
typedef int64_t VM __attribute__((vector_size(16)));
typedef uint64_t v_bits __attribute__((vector_size(16)));
#define VW 2

FL_INLINE V v_load(const REAL *p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
FL_INLINE void v_store(REAL *p, V v) { __builtin_memcpy(p, &v, sizeof v); }
FL_INLINE V v_load_n(const REAL *p, int n) {
    V v = {0.0, 0.0};
    if (n > 0) v[0] = p[0];
    if (n > 1) v[1] = p[1];
    return v;
}
FL_INLINE void v_store_n(REAL *p, V v, int n) {
    if (n > 0) p[0] = v[0];
    if (n > 1) p[1] = v[1];
}
FL_INLINE V v_set1(REAL x) { return (V){x, x}; }
FL_INLINE V v_bcast(const REAL *p) { return v_set1(*p); }
FL_INLINE V v_zero(void) { return v_set1(0.0); }
FL_INLINE V v_add(V a, V b) { return a + b; }
FL_INLINE V v_sub(V a, V b) { return a - b; }
FL_INLINE V v_mul(V a, V b) { return a * b; }
FL_INLINE V v_div(V a, V b) { return a / b; }
FL_INLINE V v_sqrt(V a) { return (V){sqrt(a[0]), sqrt(a[1])}; }
FL_INLINE V v_fma(V a, V b, V c) { return a * b + c; }
FL_INLINE V v_fnma(V a, V b, V c) { return c - a * b; }
FL_INLINE VM v_lt(V a, V b) { return (VM)(a < b); }
FL_INLINE V v_select(VM m, V a, V b) { return (V)((m & (VM)a) | (~m & (VM)b)); }
FL_INLINE V v_max(V a, V b) { return v_select(v_lt(b, a), a, b); }
FL_INLINE V v_min(V a, V b) { return v_select(v_lt(a, b), a, b); }
FL_INLINE V v_copysign(V magnitude, V sign) {
    const VM bit = (VM)v_set1(-0.0);
    return v_select(bit, sign, magnitude);
}
FL_INLINE V v_abs(V a) { return v_copysign(a, v_zero()); }
FL_INLINE V v_pow2(V r) { return (V)(((v_bits)r << 52) + ((uint64_t)1023 << 52)); }
FL_INLINE V v_zip_low(V a, V b) { return (V){a[0], b[0]}; }
FL_INLINE V v_zip_high(V a, V b) { return (V){a[1], b[1]}; }
FL_INLINE V v_permute(V a, const int32_t *from) { return (V){a[from[0]], a[from[1]]}; }
FL_INLINE REAL v_sum(V a) { return a[0] + a[1]; }

#else

typedef float V __attribute__((vector_size(16)));
typedef int32_t VM __attribute__((vector_size(16)));
typedef uint32_t v_bits __attribute__((vector_size(16)));
#define VW 4

FL_INLINE V v_load(const REAL *p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
FL_INLINE void v_store(REAL *p, V v) { __builtin_memcpy(p, &v, sizeof v); }
FL_INLINE V v_load_n(const REAL *p, int n) {
    V v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (n > 0) v[0] = p[0];
    if (n > 1) v[1] = p[1];
    if (n > 2) v[2] = p[2];
    if (n > 3) v[3] = p[3];
    return v;
}
FL_INLINE void v_store_n(REAL *p, V v, int n) {
    if (n > 0) p[0] = v[0];
    if (n > 1) p[1] = v[1];
    if (n > 2) p[2] = v[2];
    if (n > 3) p[3] = v[3];
}
FL_INLINE V v_set1(REAL x) { return (V){x, x, x, x}; }
FL_INLINE V v_bcast(const REAL *p) { return v_set1(*p); }
FL_INLINE V v_zero(void) { return v_set1(0.0f); }
FL_INLINE V v_add(V a, V b) { return a + b; }
FL_INLINE V v_sub(V a, V b) { return a - b; }
FL_INLINE V v_mul(V a, V b) { return a * b; }
FL_INLINE V v_div(V a, V b) { return a / b; }
FL_INLINE V v_sqrt(V a) { return (V){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
FL_INLINE V v_fma(V a, V b, V c) { return a * b + c; }
FL_INLINE V v_fnma(V a, V b, V c) { return c - a * b; }
FL_INLINE VM v_lt(V a, V b) { return (VM)(a < b); }
FL_INLINE V v_select(VM m, V a, V b) { return (V)((m & (VM)a) | (~m & (VM)b)); }
FL_INLINE V v_max(V a, V b) { return v_select(v_lt(b, a), a, b); }
FL_INLINE V v_min(V a, V b) { return v_select(v_lt(a, b), a, b); }
FL_INLINE V v_copysign(V magnitude, V sign) {
    const VM bit = (VM)v_set1(-0.0f);
    return v_select(bit, sign, magnitude);
}
FL_INLINE V v_abs(V a) { return v_copysign(a, v_zero()); }
FL_INLINE V v_pow2(V r) { return (V)(((v_bits)r << 23) + ((uint32_t)127 << 23)); }
FL_INLINE V v_zip_low(V a, V b) { return (V){a[0], b[0], a[1], b[1]}; }
FL_INLINE V v_zip_high(V a, V b) { return (V){a[2], b[2], a[3], b[3]}; }
FL_INLINE V v_permute(V a, const int32_t *from) { return (V){a[from[0]], a[from[1]], a[from[2]], a[from[3]]}; }
FL_INLINE REAL v_sum(V a) { return (a[0] + a[2]) + (a[1] + a[3]); }

FL_INLINE V v_load_half(const uint16_t *p) {
    const v_bits h = {p[0], p[1], p[2], p[3]}, size = h & 0x7fff, sign = (h & 0x8000) << 16;
    const v_bits normal = (size << 13) + (112u << 23);
    const v_bits endless = (size << 13) | 0x7f800000 | ((v_bits)(size > 0x7c00) & 0x400000); /* infinity, quiet NaN */
    const v_bits tiny = (v_bits)(__builtin_convertvector((VM)size, V) * v_set1(0x1p-24f));
    const v_bits is_tiny = (v_bits)(size < 0x400), is_endless = (v_bits)(size >= 0x7c00);
    return (V)(sign | (tiny & is_tiny) | (endless & is_endless) | (normal & ~is_tiny & ~is_endless));
}

typedef VM VI;

FL_INLINE VI vi_zero(void) { return (VI){0, 0, 0, 0}; }
FL_INLINE VI vi_load(const int32_t *p) {
    VI v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
FL_INLINE VI vi_bcast(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return (VI){four, four, four, four};
}
FL_INLINE V vi_real(VI a) { return __builtin_convertvector(a, V); }
FL_INLINE VI vi_max_abs(VI m, V x) {
    const VI a = (VI)v_abs(x), larger = a > m;
    return (a & larger) | (m & ~larger);
}
FL_INLINE int32_t vi_largest(VI a) {
    int32_t m = a[0];
    for (int j = 1; j < VW; j++)
        m = a[j] > m ? a[j] : m;
    return m;
}
FL_INLINE VI vi_add(VI a, VI b) { return (VI)((v_bits)a + (v_bits)b); }
FL_INLINE int32_t vi_sum(VI a) {
    uint32_t sum = 0;
    for (int j = 0; j < VW; j++)
        sum += (uint32_t)a[j];
    return (int32_t)sum;
}
FL_INLINE VI vi_round(V x) {
    const V rounder = v_set1(12582912.0f); /* 1.5 * 2^23 */
    return (VI)((v_bits)(x + rounder) - (v_bits)rounder);
}
FL_INLINE void vi_store_bytes(int8_t *p, VI a) {
    for (int j = 0; j < VW; j++)
        p[j] = (int8_t)(uint8_t)(a[j] & 255);
}
FL_INLINE void vi_store_shorts(int16_t *p, VI a) {
    for (int j = 0; j < VW; j++)
        p[j] = (int16_t)(uint16_t)(a[j] & 65535);
}
FL_INLINE VI vi_dot(VI acc, VI a, VI w) {
    for (int byte = 24; byte >= 0; byte -= 8)
        acc += ((VI)((v_bits)a << byte) >> 24) * ((VI)((v_bits)w << byte) >> 24);
    return acc;
}
FL_INLINE VI vi_dot_shorts(VI acc, VI a, VI w) { /* of NaN any number, without overflow */
    const VI low = ((VI)((v_bits)a << 16) >> 16) * ((VI)((v_bits)w << 16) >> 16), high = (a >> 16) * (w >> 16);
    return (VI)((v_bits)acc + (v_bits)low + (v_bits)high);
}
FL_INLINE VI vi_dot_unsigned(VI acc, VI a, VI w) { return vi_dot(acc, a, w); }
FL_INLINE VI vi_dot_fused(VI acc, VI a, VI w) { return vi_dot_shorts(acc, a, w); }

#endif
#endif
