/* The end of a plain cell's step, and the sums before it, for the last few units of a layer in vectors of half the width: a core
   that makes two such in the time of a whole one, or divides them in half the time, is done earlier. No operation on an element
   changes. What sigmoid.h and plain.h say of vectors they say here of narrow ones; only kernels/narrow_*.h have these. */
#ifdef FL_NARROW

FL_INLINE VN fl_narrow_load_units(const REAL *a, ptrdiff_t S, ptrdiff_t n) {
    (void)S;
    return n >= FL_NARROW ? vn_load(a) : vn_load_n(a, (int)n);
}

FL_INLINE void fl_narrow_store_units(REAL *a, VN x, ptrdiff_t S, ptrdiff_t n) {
    (void)S;
    if (n >= FL_NARROW) vn_store(a, x);
    else vn_store_n(a, x, (int)n);
}

#define V VN
#define v_store vn_store_wide /* on a tape */
#define v_mul vn_mul
#define v_fma vn_fma
#define v_sigmoid vn_sigmoid
#define v_tanh vn_tanh
#define fl_state fl_narrow_state
#define fl_plain_state fl_narrow_plain_state
#define fl_plain_output fl_narrow_plain_output
#define fl_load_units fl_narrow_load_units
#define fl_store_units fl_narrow_store_units
#include "plain.h"
#undef V
#undef v_store
#undef v_mul
#undef v_fma
#undef v_sigmoid
#undef v_tanh
#undef fl_state
#undef fl_plain_state
#undef fl_plain_output
#undef fl_load_units
#undef fl_store_units

/* total (P, N) and narrow (N,) of one row += the products of `count` sources: those of P groups and of the one after them. */
FL_INLINE void fl_narrow_add(V *total, VN *narrow, const REAL *w, ptrdiff_t panel, const REAL *s, ptrdiff_t count, int P, int N) {
    for (ptrdiff_t from = 0; from < count; from += FL_BLOCK) {
        const ptrdiff_t end = from + FL_BLOCK < count ? from + FL_BLOCK : count;
        V acc[FL_TILE];
        VN last[FL_TILE];
        FL_UNROLL
        for (int j = 0; j < P * N; j++)
            acc[j] = v_zero();
        FL_UNROLL
        for (int n = 0; n < N; n++)
            last[n] = vn_zero();
        for (ptrdiff_t k = from; k < end; k++) {
            const V x = v_bcast(s + k);
            FL_UNROLL
            for (int j = 0; j < P * N; j++)
                acc[j] = v_fma(x, v_load(w + j / N * panel + (k * N + j % N) * VW), acc[j]);
            FL_UNROLL
            for (int n = 0; n < N; n++)
                last[n] = vn_fma(vn_low(x), vn_load(w + P * panel + (k * N + n) * VW), last[n]);
        }
        FL_UNROLL
        for (int j = 0; j < P * N; j++)
            total[j] = v_add(total[j], acc[j]);
        FL_UNROLL
        for (int n = 0; n < N; n++)
            narrow[n] = vn_add(narrow[n], last[n]);
    }
}

/* One row of a plain cell's last P + 1 groups, of which the last has no more units than a narrow vector; P is 0 or 1. */
FL_INLINE void fl_narrow_groups(const fl_cell *cell, const fl_rows *rows, int P) {
    enum { N = 4 };
    const fl_geometry *q = &cell->q;
    const ptrdiff_t group = cell->end - 1 - P, row = N * VW;
    const REAL *w = cell->w + group * q->panel, *made = rows->net_panel ? rows->net + group * rows->net_panel : NULL;
    V total[FL_TILE], c[1];
    VN narrow[N];
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        total[j] = made ? v_load(made + j / N * rows->net_panel + j % N * VW) : fl_bias(w + j / N * q->panel + j % N * VW, row, q->biases);
    FL_UNROLL
    for (int n = 0; n < N; n++)
        narrow[n] = vn_low(made ? v_load(made + P * rows->net_panel + n * VW) : fl_bias(w + P * q->panel + n * VW, row, q->biases));
    w += q->biases * row;
    if (!made) fl_narrow_add(total, narrow, w, q->panel, rows->x[0], q->I, P, N);
    fl_narrow_add(total, narrow, w + q->I * row, q->panel, rows->h[0], q->P, P, N);
    const VN last = fl_narrow_plain_state(cell, group + P, rows->row, narrow[0], narrow[1], narrow[3]);
    FL_UNROLL
    for (int p = 0; p < P; p++)
        c[p] = fl_plain_state(cell, group + p, rows->row, total[p * N], total[p * N + 1], total[p * N + 3]);
    fl_narrow_plain_output(cell, group + P, rows->row, narrow[2], last);
    FL_UNROLL
    for (int p = 0; p < P; p++)
        fl_plain_output(cell, group + p, rows->row, total[p * N + 2], c[p]);
}

#endif
