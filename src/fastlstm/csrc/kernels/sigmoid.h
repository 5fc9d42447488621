/* Sigmoid, tanh and the part of an exponential that they share (activation.h says how). Included once for vectors and once for
   narrow ones (narrow.h). */

/* p and 2^n for |t| <= FL_EXP_END, k = FL_ROUND - t log2 e. The callers compute k from what they have
   first, and select the limits after all arithmetic: clamping t would lengthen the chain. */
FL_INLINE V v_exp_parts(V t, V k, V *pow2) {
    const V n = v_sub(k, v_set1(FL_ROUND));
    const V r = v_fma(n, v_set1(FL_LN2_LO), v_fma(n, v_set1(FL_LN2_HI), t)), r2 = v_mul(r, r);
    *pow2 = v_pow2(k);
#ifdef FL_F64
    const V q01 = v_fma(r, v_set1(-0x1.5555555555542p-3), v_set1(0x1.0000000000005p-1));
    const V q23 = v_fma(r, v_set1(-0x1.1111111116d4ap-7), v_set1(0x1.5555555552109p-5));
    const V q45 = v_fma(r, v_set1(-0x1.a01a0180c6e18p-13), v_set1(0x1.6c16c17f3155dp-10));
    const V q67 = v_fma(r, v_set1(-0x1.71de6dc61ce53p-19), v_set1(0x1.a019a6966ccaep-16));
    const V q89 = v_fma(r, v_set1(-0x1.ae9568130c9cbp-26), v_set1(0x1.28a29e01ed55ap-22));
    const V r4 = v_mul(r2, r2), q03 = v_fma(r2, q23, q01), q47 = v_fma(r2, q67, q45);
    const V q = v_fma(r4, v_fma(r4, q89, q47), q03);
#else
    const V q01 = v_fma(r, v_set1(-0x1.5554b4p-3f), v_set1(0x1.fffffep-2f));
    const V q23 = v_fma(r, v_set1(-0x1.122544p-7f), v_set1(0x1.5556f2p-5f));
    const V q = v_fma(r2, v_fma(r2, v_set1(0x1.6b9c6cp-10f), q23), q01);
#endif
    return v_fnma(r2, q, r);
}

FL_INLINE V v_sigmoid(V x) {
    const V one = v_set1(1), limit = v_max(v_zero(), v_min(one, x));
    const V k = v_fnma(x, v_set1(FL_LOG2E), v_set1(FL_ROUND));
    V s;
    const V p = v_exp_parts(x, k, &s);
    const V y = v_div(one, v_fnma(s, p, v_add(one, s)));
    return v_select(v_lt(v_set1(FL_EXP_END), v_abs(x)), limit, y);
}

FL_INLINE V v_tanh(V x) {
    const V one = v_set1(1), a = v_abs(x);
    const V k = v_fnma(a, v_set1(2 * FL_LOG2E), v_set1(FL_ROUND));
    V s;
    const V p = v_exp_parts(v_add(a, a), k, &s);
    const V y = v_div(v_fma(s, p, v_sub(one, s)), v_fnma(s, p, v_add(one, s)));
    return v_copysign(v_select(v_lt(v_set1(FL_TANH_END), a), one, y), x);
}
