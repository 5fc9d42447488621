/* Sigmoid, tanh and the exponential they share, and a logarithm, over the vector vocabulary.

   exp(-t) = 2^n (1 - p), n = round(-t log2 e), r = t + n ln2 (two-part ln2), |r| <= ln2 / 2,
   p = 1 - exp(-r) = r - r^2 q(r), q minimax in the relative error of p: degree 4 (f32), 9 (f64).

     exp(x)     = 2^n (1 - p)                                       t = -x
     sigmoid(x) = 1 / (1 + 2^n - 2^n p)                             t = x
     tanh|x|    = (1 - 2^n + 2^n p) / (1 + 2^n - 2^n p)             t = 2|x|

   log(x) = log c + 2 atanh z, z = (x - c) / (x + c), c = 1 below 3/2 and 2 above, |z| <= 1/5,
   2 atanh z = 2z + z^3 q(z^2), q through Chebyshev nodes: degree 2 (f32), 7 (f64). Only for x in [1, 3]: sums of up to
   three exponentials of which the largest is 1.

   Largest error in ulp, by tests/c/test_activation --all: f32 every bit pattern against double libm, f64
   6.7 million values against long double libm. Without fma the bounds below hold as well.

                  exp     sigmoid  tanh    log     exp - 1  log(1 + exp)
     f32          1.05    2.45     1.99    1.97    0.99     2.80
     f64          1.04    2.39     2.14    1.89    1.22     2.71

   Of the kinds made from these, by the same test on 8 million values each (4 million in double): scaled tanh 3.5 (4.1 without
   fma), which has the rounding of beta x in it, ELU 2.2, softplus 2.8, softsign 1.5; the others round once or not at all.

   sigmoid(0) = 0.5, tanh(+-0) = +-0, tanh(x) = x for tiny x; beyond FL_EXP_END exp and sigmoid are exactly
   0 and 1 (no result of theirs is subnormal, whatever the mode of the FPU), tanh is exactly +-1 beyond
   FL_TANH_END; log(1 + exp) is 0 a little before exp is. Infinities give the limits (but alpha = 0 times infinity is NaN)
   and NaN gives NaN. Instruction sets with fma agree bit for bit. */
#ifndef FL_ACTIVATION_H
#define FL_ACTIVATION_H

#ifdef FL_F64
#define FL_ROUND 6755399441055744.0 /* 1.5 * 2^52 */
#define FL_LOG2E 1.4426950408889634
#define FL_LN2_HI 0x1.62e42feep-1 /* 32 bits: n times it is exact without fma too */
#define FL_LN2_LO 0x1.a39ef35793c76p-33
#define FL_EXP_END 0x1.6232bdd7abcd2p+9 /* exp(-FL_EXP_END) is the smallest normal number or just above */
#else
#define FL_ROUND 12582912.0f /* 1.5 * 2^23 */
#define FL_LOG2E 1.44269504f
#define FL_LN2_HI 0x1.62e4p-1f /* 15 bits: n times it is exact without fma too */
#define FL_LN2_LO 0x1.7f7d1cp-20f
#define FL_EXP_END 0x1.5d589ep+6f /* exp(-FL_EXP_END) is the smallest normal number or just above */
#endif
#define FL_TANH_END ((REAL)20)

#include "sigmoid.h"
#ifdef FL_NARROW
#include "narrow.h"
#endif

/* exp(x) for x <= 0 */
FL_INLINE V v_exp_neg(V x) {
    V s;
    const V k = v_fma(x, v_set1(FL_LOG2E), v_set1(FL_ROUND));
    const V p = v_exp_parts(v_sub(v_zero(), x), k, &s);
    const V y = v_mul(s, v_sub(v_set1(1), p));
    return v_select(v_lt(x, v_set1(-FL_EXP_END)), v_zero(), y);
}

/* exp(x) - 1 for x <= 0 */
FL_INLINE V v_expm1_neg(V x) {
    V s;
    const V one = v_set1(1), k = v_fma(x, v_set1(FL_LOG2E), v_set1(FL_ROUND));
    const V p = v_exp_parts(v_sub(v_zero(), x), k, &s);
    return v_select(v_lt(x, v_set1(-FL_EXP_END)), v_set1(-1), v_fnma(s, p, v_sub(s, one)));
}

/* log c + 2 atanh z, log c = 0 where `low` and log 2 elsewhere, |z| <= 1/5 */
FL_INLINE V v_log_c_atanh(VM low, V z) {
    const V z2 = v_mul(z, z);
#ifdef FL_F64
    const V log_c = v_select(low, v_zero(), v_set1(0x1.62e42fefa39efp-1)), z4 = v_mul(z2, z2);
    const V q01 = v_fma(z2, v_set1(0x1.9999999999f30p-2), v_set1(0x1.5555555555555p-1));
    const V q23 = v_fma(z2, v_set1(0x1.c71c72e2f78d5p-3), v_set1(0x1.24924923dba6ap-2));
    const V q45 = v_fma(z2, v_set1(0x1.3b29fcbbce66dp-3), v_set1(0x1.745cab2727663p-3));
    const V q67 = v_fma(z2, v_set1(0x1.16b68338bd78bp-3), v_set1(0x1.0e88ea4725d3dp-3));
    const V q = v_fma(z4, v_fma(z4, v_fma(z4, q67, q45), q23), q01);
#else
    const V log_c = v_select(low, v_zero(), v_set1(0x1.62e430p-1f));
    const V q = v_fma(z2, v_fma(z2, v_set1(0x1.32c83cp-2f), v_set1(0x1.996250p-2f)), v_set1(0x1.555566p-1f));
#endif
    return v_add(log_c, v_fma(v_mul(z, z2), q, v_add(z, z)));
}

/* log(x) for 1 <= x <= 3; NaN gives NaN */
FL_INLINE V v_log_1_3(V x) {
    const VM low = v_lt(x, v_set1((REAL)1.5));
    const V c = v_select(low, v_set1(1), v_set1(2));
    return v_log_c_atanh(low, v_div(v_sub(x, c), v_add(x, c)));
}

/* log(1 + exp(x)) for x <= 0, of full relative precision: z from exp(x) itself */
FL_INLINE V v_log1p_exp_neg(V x) {
    const V e = v_exp_neg(x), one = v_set1(1);
    const VM low = v_lt(e, v_set1((REAL)0.5));
    return v_log_c_atanh(low, v_div(v_select(low, e, v_sub(e, one)), v_add(e, v_select(low, v_set1(2), v_set1(3)))));
}

/* The rarer ones, out of the way of the others; fastlstm.h defines them all. NaN is kept. */
FL_NOINLINE V v_activate_other(const fastlstm_activation *a, V x) {
    const V one = v_set1(1), zero = v_zero(), alpha = v_set1((REAL)a->alpha), beta = v_set1((REAL)a->beta);
    switch (a->kind) {
    case FASTLSTM_AFFINE: return v_fma(alpha, x, beta);
    case FASTLSTM_LEAKY_RELU: return v_select(v_lt(zero, x), x, v_mul(alpha, x));
    case FASTLSTM_THRESHOLDED_RELU: return v_select(v_lt(alpha, x), x, v_select(v_lt(x, alpha), zero, v_sub(x, alpha)));
    case FASTLSTM_SCALED_TANH: return v_mul(alpha, v_tanh(v_mul(beta, x)));
    case FASTLSTM_HARD_SIGMOID: return v_max(zero, v_min(one, v_fma(alpha, x, beta)));
    case FASTLSTM_ELU: return v_mul(beta, v_select(v_lt(zero, x), x, v_mul(alpha, v_expm1_neg(v_min(zero, x)))));
    case FASTLSTM_SOFTSIGN: return v_select(v_lt(v_set1((REAL)1e30), v_abs(x)), v_copysign(one, x), v_div(x, v_add(one, v_abs(x))));
    case FASTLSTM_SOFTPLUS: return v_add(v_max(zero, x), v_log1p_exp_neg(v_sub(zero, v_abs(x))));
    default: return x;
    }
}

FL_INLINE V v_activate(const fastlstm_activation *a, V x) {
    const V half = v_set1((REAL)0.5);
    switch (a->kind) {
    case FASTLSTM_SIGMOID: return v_sigmoid(x);
    case FASTLSTM_TANH: return v_tanh(x);
    case FASTLSTM_IDENTITY: return x;
    case FASTLSTM_RELU: return v_max(v_zero(), x); /* in this order NaN is kept */
    case FASTLSTM_G1997: x = v_tanh(v_mul(half, x)); return v_add(x, x);
    case FASTLSTM_H1997: return v_tanh(v_mul(half, x));
    default: return v_activate_other(a, x);
    }
}

/* The derivative, from the value y of the activation. */
FL_NOINLINE V v_activate_other_grad(const fastlstm_activation *a, V y) {
    const V one = v_set1(1), zero = v_zero(), alpha = v_set1((REAL)a->alpha), beta = v_set1((REAL)a->beta);
    switch (a->kind) {
    case FASTLSTM_AFFINE: return alpha;
    case FASTLSTM_LEAKY_RELU: return v_select(v_lt(zero, y), one, alpha);
    case FASTLSTM_THRESHOLDED_RELU: return v_select(v_lt(zero, v_abs(y)), one, zero);
    case FASTLSTM_SCALED_TANH: return v_mul(beta, v_fnma(y, v_div(y, alpha), alpha));
    case FASTLSTM_HARD_SIGMOID: return v_select(v_lt(zero, y), v_select(v_lt(y, one), alpha, zero), zero);
    case FASTLSTM_ELU: return v_select(v_lt(zero, y), beta, v_fma(alpha, beta, y));
    case FASTLSTM_SOFTSIGN: return v_mul(v_sub(one, v_abs(y)), v_sub(one, v_abs(y)));
    case FASTLSTM_SOFTPLUS: return v_sub(zero, v_expm1_neg(v_sub(zero, y)));
    default: return one;
    }
}

FL_INLINE V v_activate_grad(const fastlstm_activation *a, V y) {
    const V one = v_set1(1), half = v_set1((REAL)0.5), hy = v_mul(half, y);
    switch (a->kind) {
    case FASTLSTM_SIGMOID: return v_mul(y, v_sub(one, y));
    case FASTLSTM_TANH: return v_fnma(y, y, one);
    case FASTLSTM_IDENTITY: return one;
    case FASTLSTM_RELU: return v_select(v_lt(v_zero(), y), one, v_zero());
    case FASTLSTM_G1997: return v_fnma(hy, hy, one);
    case FASTLSTM_H1997: return v_fnma(hy, y, half);
    default: return v_activate_other_grad(a, y);
    }
}

#endif
