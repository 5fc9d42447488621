/* The one matrix product of forward passes: net inputs of R rows for P groups of N row-vectors in registers.

   Every net input is a single accumulator over its sources in the order of fl_geometry (biases, inputs, h, gate
   activations), one fused multiply-add each. How rows and groups are blocked never changes an output's own chain
   of operations: that is why one step, a sequence, a batch and every register width give the same bits. */
#ifndef FL_PRODUCT_H
#define FL_PRODUCT_H

/* Rows per block: R * 4 accumulators, 4 weight vectors and a broadcast fit the register file (32 or 16 names). */
#if defined(FL_ISA_AVX512) || defined(FL_ISA_NEON)
#define FL_ROWS 6
#else
#define FL_ROWS 3
#endif

/* acc[p][r][n] += sum_{k < count} row[r][k] * w[p][k][n]; w[p] advances by `stride` a source and is left behind
   the last one, so that calls for consecutive kinds of sources follow each other. */
FL_INLINE void fl_accumulate(V *acc, int P, int R, int N, const REAL **w, ptrdiff_t stride, const REAL *const *row,
                             ptrdiff_t count) {
    for (ptrdiff_t k = 0; k < count; k++) {
        FL_UNROLL
        for (int p = 0; p < P; p++) {
            V wk[8];
            FL_UNROLL
            for (int n = 0; n < N; n++)
                wk[n] = v_load(w[p] + n * VW);
            FL_UNROLL
            for (int r = 0; r < R; r++) {
                V s = v_bcast(row[r] + k);
                FL_UNROLL
                for (int n = 0; n < N; n++)
                    acc[(p * R + r) * N + n] = v_fma(s, wk[n], acc[(p * R + r) * N + n]);
            }
            w[p] += stride;
        }
    }
}

/* acc = bias_ih + bias_hh, each if it exists; w[p] is left behind the biases. */
FL_INLINE void fl_accumulate_bias(V *acc, int P, int R, int N, const REAL **w, ptrdiff_t stride, ptrdiff_t biases) {
    FL_UNROLL
    for (int p = 0; p < P; p++) {
        FL_UNROLL
        for (int n = 0; n < N; n++) {
            V b = v_zero();
            if (biases > 0) b = v_load(w[p] + n * VW);
            if (biases > 1) b = v_add(b, v_load(w[p] + stride + n * VW));
            FL_UNROLL
            for (int r = 0; r < R; r++)
                acc[(p * R + r) * N + n] = b;
        }
        w[p] += biases * stride;
    }
}

/* The vectors a[u], u = 0..n-1 at stride S from a canonical array (unit = block * S + slot), and back. */
FL_INLINE V fl_load_units(const REAL *a, ptrdiff_t S, ptrdiff_t n) {
    if (S == 1) return n >= VW ? v_load(a) : v_load_n(a, (int)n);
    REAL t[VW];
    for (ptrdiff_t j = 0; j < VW; j++)
        t[j] = j < n ? a[j * S] : 0;
    return v_load(t);
}

FL_INLINE void fl_store_units(REAL *a, V x, ptrdiff_t S, ptrdiff_t n) {
    if (S == 1) {
        if (n >= VW) v_store(a, x);
        else v_store_n(a, x, (int)n);
        return;
    }
    REAL t[VW];
    v_store(t, x);
    for (ptrdiff_t j = 0; j < n && j < VW; j++)
        a[j * S] = t[j];
}

/* x with zeros in the padding lanes n.. */
FL_INLINE V fl_unpadded(V x, ptrdiff_t n) {
    REAL t[VW];
    if (n >= VW) return x;
    v_store(t, x);
    return v_load_n(t, (int)n);
}

/* The sum of FL_W interleaved partial sums, by halves: the same tree whatever VW is. */
FL_INLINE REAL fl_sum_tree(REAL *t) {
    for (int half = FL_W / 2; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            t[j] += t[j + half];
    return t[0];
}

#endif
