/* Vector vocabulary, GCC vector extensions: any CPU the compiler knows, 16-byte vectors.

   v_fma and v_fnma round twice, product and sum: a call to fma() per lane is all that C offers where the
   instruction is missing. Results therefore differ from the other instruction sets in the last bits.
   v_max and v_min give the second operand where either is NaN, and where both are zeros.
   v_pow2 takes n + 1.5 * 2^23 (f32) or n + 1.5 * 2^52 (f64), 2^n a normal number. */
#ifndef FL_SIMD_H
#define FL_SIMD_H

#if !defined(__GNUC__)
#error "simd_generic.h needs GCC vector extensions"
#endif

#include <math.h>
#include <stdint.h>

#include "real.h"

/* Into the second-level cache; any address will do. */
FL_INLINE void v_prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

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

#endif
#endif
