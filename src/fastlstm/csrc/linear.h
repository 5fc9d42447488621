/* y = act(W x + b) for any number of rows, and plain net inputs made ahead for a recurrent layer. */
#ifndef FL_LINEAR_H
#define FL_LINEAR_H

FL_INLINE void fl_linear_finish(const fl_cell *cell, ptrdiff_t group, V total, REAL *y) {
    const ptrdiff_t u = group * VW;
    fl_store_units(y + u, v_activate(&cell->l->output_activation, total), 1, cell->q.H - u);
}

FL_INLINE void fl_linear_single(const fl_cell *cell, ptrdiff_t group, const REAL *x, REAL *y, int P) {
    V total[8];
    fl_net_single(total, cell, group, NULL, 0, x, NULL, NULL, P, 1, 1, 0);
    for (int p = 0; p < P; p++)
        fl_linear_finish(cell, group + p, total[p], y);
}

/* x, y: (rows,) inputs (I,) and outputs (H,); net: scratch, (rows, VW) for each group of a tile. */
static void fl_linear_rows(const fl_cell *cell, const REAL *const *x, REAL *const *y, ptrdiff_t rows, REAL *net) {
    const fl_geometry *q = &cell->q;
    ptrdiff_t group = cell->first;
    if (rows == 1) {
        for (; group + 8 <= cell->end; group += 8)
            fl_linear_single(cell, group, x[0], y[0], 8);
        for (; group + 2 <= cell->end; group += 2)
            fl_linear_single(cell, group, x[0], y[0], 2);
        for (; group < cell->end; group++)
            fl_linear_single(cell, group, x[0], y[0], 1);
        return;
    }
    for (ptrdiff_t P; group < cell->end; group += P) {
        P = fl_pass_panels(cell, fl_tile_groups(q), group);
        const fl_tile t = {cell->w + group * q->panel, q->panel, VW, net, rows * VW, VW, NULL, cell->w + (group + P) * q->panel, cell->near, NULL};
        fl_net_start(cell, &t, x, NULL, rows, P);
        for (ptrdiff_t p = 0; p < P; p++)
            for (ptrdiff_t r = 0; r < rows; r++)
                fl_linear_finish(cell, group + p, v_load(net + (p * rows + r) * VW), y[r]);
    }
}

/* Biases and input products of a recurrent layer for many rows: net (groups, net_panel), rows (N, VW) in each. */
static void fl_input_rows(const fl_cell *cell, const REAL *const *x, ptrdiff_t rows, REAL *net, ptrdiff_t net_panel) {
    const fl_geometry *q = &cell->q;
    fl_sparse found;
    const fl_sparse *sparse = fl_find_sparse(x, q->I, q->G, rows, &found);
    for (ptrdiff_t group = cell->first, P; group < cell->end; group += P) {
        P = fl_pass_panels(cell, fl_tile_groups(&cell->q), group);
        const fl_tile t = {cell->w + group * q->panel, q->panel, q->G * VW, net + group * net_panel, net_panel, q->N * VW, NULL, cell->w + (group + P) * q->panel, cell->near, NULL};
        fl_net_start(cell, &t, x, sparse, rows, P);
    }
}

/* dx[k] (+)= sum_j W[j][k] d[j] over the inputs k of a layer, for one lane: FL_W interleaved partial sums over units,
   groups in order and row-vectors in order inside a group. d: (groups, G, VW), zero in the padding. */
FL_INLINE void fl_input_error_of(const fl_cell *cell, const REAL *d, REAL *dx, ptrdiff_t groups, ptrdiff_t G) {
    const REAL *first = cell->w + cell->q.biases * G * VW;
    const ptrdiff_t I = cell->q.I, panel = cell->q.panel;
    for (ptrdiff_t k = 0; k < I; k++) {
        V part[FL_PARTS];
        for (int p = 0; p < FL_PARTS; p++)
            part[p] = v_zero();
        for (ptrdiff_t group = 0; group < groups; group++) {
            const REAL *w = first + group * panel + k * G * VW;
            const int p = (int)(group % FL_PARTS);
            for (ptrdiff_t n = 0; n < G; n++)
                part[p] = v_fma(v_load(w + n * VW), v_load(d + (group * G + n) * VW), part[p]);
        }
        dx[k] = fl_sum_parts(part);
    }
}

static void fl_input_error(const fl_cell *cell, const REAL *d, REAL *dx) {
    const fl_geometry *q = &cell->q;
    if (q->groups == 1 && q->G == 1) fl_input_error_of(cell, d, dx, 1, 1); /* a few outputs */
    else fl_input_error_of(cell, d, dx, q->groups, q->G);
}

#endif
