/* y = act(W x + b) for any number of rows, and plain net inputs made ahead for a recurrent layer. */
#ifndef FL_LINEAR_H
#define FL_LINEAR_H

/* One row of a product. */
typedef struct fl_product_row {
    const REAL *x;
    REAL *out; /* LINEAR: (H,) outputs; otherwise (groups, G, VW): a cell's net inputs so far, to be continued by fl_cell_rows */
} fl_product_row;

FL_INLINE void fl_product_block(const fl_cell *cell, ptrdiff_t group, const fl_product_row *row, int P, int R, int N, int linear) {
    const fl_geometry *q = &cell->q;
    const ptrdiff_t stride = N * VW;
    const REAL *w[4], *x[FL_ROWS];
    V acc[32];
    FL_UNROLL
    for (int p = 0; p < P; p++)
        w[p] = cell->w + (group + p) * q->panel;
    FL_UNROLL
    for (int r = 0; r < R; r++)
        x[r] = row[r].x;
    fl_accumulate_bias(acc, P, R, N, w, stride, cell->whole ? 0 : q->biases);
    fl_accumulate(acc, P, R, N, w, stride, x, cell->n_x);
    FL_UNROLL
    for (int p = 0; p < P; p++) {
        FL_UNROLL
        for (int r = 0; r < R; r++) {
            if (linear) {
                const ptrdiff_t u = (group + p) * VW;
                fl_store_units(row[r].out + u, acc[p * R + r], 1, q->J - u);
            } else {
                FL_UNROLL
                for (int n = 0; n < N; n++)
                    v_store(row[r].out + ((group + p) * N + n) * VW, acc[(p * R + r) * N + n]);
            }
        }
    }
}

FL_INLINE void fl_product_rows_n(const fl_cell *cell, const fl_product_row *row, ptrdiff_t n_rows, int N, int linear) {
    const ptrdiff_t groups = cell->q.groups;
    ptrdiff_t group = 0;
    if (N == 1) /* one row-vector a group: four groups make as many chains as a cell's four */
        for (; group + 4 <= groups; group += 4) {
            ptrdiff_t r = 0;
            for (; r + FL_ROWS <= n_rows; r += FL_ROWS)
                fl_product_block(cell, group, row + r, 4, FL_ROWS, N, linear);
            for (; r < n_rows; r++)
                fl_product_block(cell, group, row + r, 4, 1, N, linear);
        }
    for (; group < groups; group++) {
        ptrdiff_t r = 0;
        for (; r + FL_ROWS <= n_rows; r += FL_ROWS)
            fl_product_block(cell, group, row + r, 1, FL_ROWS, N, linear);
        for (; r < n_rows; r++)
            fl_product_block(cell, group, row + r, 1, 1, N, linear);
    }
}

static void fl_linear_rows(const fl_cell *cell, const fl_product_row *row, ptrdiff_t n_rows) {
    fl_product_rows_n(cell, row, n_rows, 1, 1);
    if (cell->l->output_activation == FASTLSTM_IDENTITY) return;
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (ptrdiff_t u = 0; u < cell->q.H; u += VW) {
            const ptrdiff_t n = cell->q.H - u;
            fl_store_units(row[r].out + u, v_activate(cell->l->output_activation, fl_load_units(row[r].out + u, 1, n)), 1, n);
        }
}

static void fl_input_rows(const fl_cell *cell, const fl_product_row *row, ptrdiff_t n_rows) {
    switch (cell->q.G) {
    case 1: fl_product_rows_n(cell, row, n_rows, 1, 0); break;
    case 2: fl_product_rows_n(cell, row, n_rows, 2, 0); break;
    case 3: fl_product_rows_n(cell, row, n_rows, 3, 0); break;
    default: fl_product_rows_n(cell, row, n_rows, 4, 0); break; /* larger G never makes products ahead (forward.h) */
    }
}

/* dx[k] (+)= sum_j W[j][k] d[j] over the inputs k of a layer, for one lane: FL_W interleaved partial sums over units,
   groups in order and row-vectors in order inside a group. d: (groups, G, VW), zero in the padding. */
static void fl_input_error(const fl_cell *cell, const REAL *d, REAL *dx) {
    const fl_geometry *q = &cell->q;
    enum { PARTS = FL_W / VW };
    for (ptrdiff_t k = 0; k < q->I; k++) {
        const REAL *w = cell->w + (q->biases + k) * q->G * VW;
        V part[PARTS];
        REAL sum[FL_W];
        for (int p = 0; p < PARTS; p++)
            part[p] = v_zero();
        for (ptrdiff_t group = 0; group < q->groups; group++, w += q->panel) {
            const int p = (int)(group % PARTS);
            for (ptrdiff_t n = 0; n < q->G; n++)
                part[p] = v_fma(v_load(w + n * VW), v_load(d + (group * q->G + n) * VW), part[p]);
        }
        for (int p = 0; p < PARTS; p++)
            v_store(sum + p * VW, part[p]);
        dx[k] = fl_sum_tree(sum);
    }
}

#endif
