/* What all cells have in common: how the engine sees a layer, a step of lanes, and the sums that are their net inputs. */
#ifndef FL_CELL_H
#define FL_CELL_H

/* What one lane's step reads besides its sources, and writes. */
typedef struct fl_row {
    REAL *c;     /* inout (H,); of an LSTM */
    const REAL *h; /* h of the step before, as it was */
    REAL *y;     /* out (H,): h of this step; never overlaps the h that is read. With a second product: its sources */
    REAL *a_out; /* out (A,); never overlaps the a that is read */
    REAL *act;   /* out (acts,): what the gradient needs; or NULL */
} fl_row;

/* A step of n lanes. */
typedef struct fl_rows {
    ptrdiff_t n;
    const fl_row *row;
    const REAL *const *x, *const *h, *const *a; /* (n,) inputs (I,), h (P,) and gate activations (A,) of the step before, as read */
    REAL *net;           /* net inputs, (n, N, VW) for each group of a tile, scratch; or, */
    ptrdiff_t net_panel; /*   if not 0, for all groups, so far apart, with biases and input products already in */
    int back;            /* from the last group to the first */
    fl_wanted *wanted;   /* as of fl_tile */
} fl_rows;

/* A layer as its kernels see it. */
typedef struct fl_cell {
    fl_geometry q;
    fl_compact_geometry c; /* if the weights are compact */
    const fastlstm_layer *l;
    const REAL *w;       /* packed */
    ptrdiff_t first, end; /* the groups to be computed: all, or one thread's */
    ptrdiff_t most;      /* lanes that take a step together: all, unless Ctrl-C would wait too long for them */
    int near;            /* whether the weights fit into the second-level cache: of many rows no use in going backwards, or in asking for them early */
    int usual;           /* LSTM: sigmoid and tanh, blocks of one cell; */
    int plain;           /*   and three gates, nothing else */
    const struct fl_cell *tail; /* the second product of a step (fl_tail_layer), or NULL */
} fl_cell;

static void fl_cell_init(fl_cell *cell, const fastlstm_layer *l, const REAL *w) {
    cell->q = fl_layer_geometry(l, VW);
    cell->c = fl_layer_compact(l, &cell->q, VW);
    cell->l = l;
    cell->w = w;
    cell->first = 0;
    cell->end = cell->q.groups;
    cell->tail = NULL;
    cell->most = FL_STEP_WORK / cell->q.packed > 96 ? FL_STEP_WORK / cell->q.packed : 96;
    cell->near = cell->q.packed * (ptrdiff_t)sizeof(REAL) <= FL_NEAR_BYTES;
    cell->usual = l->kind == FASTLSTM_LSTM && cell->q.S == 1 && l->gate_activation.kind == FASTLSTM_SIGMOID &&
                  l->input_activation.kind == FASTLSTM_TANH && l->output_activation.kind == FASTLSTM_TANH;
    cell->plain = cell->usual && l->gates == (FASTLSTM_INPUT_GATE | FASTLSTM_FORGET_GATE | FASTLSTM_OUTPUT_GATE) &&
                  !l->peepholes && cell->q.A == 0 && !(l->clip < INFINITY);
}

/* A pass over the groups of a cell, `most` (a power of two) at a time. Every other pass goes backwards: weights that do not fit
   into a cache would drive one another out if each were read when all the others have been; so those that were read last, about
   as many as fit, are still there. No sum depends on it. */
static ptrdiff_t fl_pass_turns(const fl_cell *cell, ptrdiff_t most) { return fl_vectors(cell->end - cell->first, most); }
static ptrdiff_t fl_pass_group(const fl_cell *cell, ptrdiff_t most, ptrdiff_t turn, ptrdiff_t turns, int back) {
    return cell->first + (back ? turns - 1 - turn : turn) * most;
}
static ptrdiff_t fl_pass_panels(const fl_cell *cell, ptrdiff_t most, ptrdiff_t group) {
    return cell->end - group < most ? cell->end - group : most;
}

/* Bytes of one group's weights that a step reads. */
static ptrdiff_t fl_group_bytes(const fl_cell *cell, const fl_rows *rows) {
    return (rows->net_panel ? cell->q.P : cell->q.M) * cell->q.G * VW * (ptrdiff_t)sizeof(REAL);
}

/* Products of one kind of sources, which start at t->w. sparse: which of them are not zero, or NULL. */
static void fl_net_add(const fl_tile *t, const REAL *const *s, ptrdiff_t count, const fl_sparse *sparse, ptrdiff_t rows, ptrdiff_t P, ptrdiff_t G) {
    if (sparse) {
        fl_sparse_add(t, sparse, s, count, rows, (int)P, (int)G);
        return;
    }
    if (G <= FL_TILE) {
        fl_add_sources(t, s, count, rows, (int)P, (int)G);
        return;
    }
    for (ptrdiff_t n = 0; n < G; n++) { /* more row-vectors than a tile has: one at a time */
        fl_tile part = *t;
        part.w += n * VW;
        part.net += n * VW;
        fl_add_sources(&part, s, count, rows, 1, 1);
    }
}

/* What net input n of a group starts from: bias_ih + bias_hh, each if it exists and feeds it; w is at the biases. */
FL_INLINE V fl_start(const fl_geometry *q, const REAL *w, ptrdiff_t n) {
    const ptrdiff_t m = n - q->bias_shift;
    const V b = q->biases > 0 && n < q->G ? v_load(w + n * VW) : v_zero();
    if (q->biases < 2 || m < 0) return b;
    return n < q->G ? v_add(b, v_load(w + (q->G + m) * VW)) : v_load(w + (q->G + m) * VW);
}

/* Totals with biases and input products; t->w is at the biases. sparse: as of fl_net_add. */
static void fl_net_start(const fl_cell *cell, const fl_tile *t, const REAL *const *x, const fl_sparse *sparse, ptrdiff_t rows, ptrdiff_t P) {
    const fl_geometry *q = &cell->q;
    REAL bias[FL_TILE * VW];
    fl_tile inputs = *t;
    inputs.w += q->biases * t->stride;
    if (q->G <= FL_TILE) inputs.bias = bias;
    for (ptrdiff_t p = 0; p < P; p++)
        for (ptrdiff_t n = 0; n < q->N; n++) {
            const V b = fl_start(q, t->w + p * t->panel, n);
            if (inputs.bias && n < q->G) v_store(bias + (p * q->G + n) * VW, b);
            else
                for (ptrdiff_t r = 0; r < rows; r++)
                    v_store(t->net + p * t->net_panel + r * t->net_row + n * VW, b);
        }
    fl_net_add(&inputs, x, q->I, sparse, rows, P, q->G);
}

/* One row: the totals of P groups of N net inputs, from their start or from `made` (P, net_panel apart) on; inputs feed the
   first G of them, h and gate activations as many from `shift` on. */
FL_INLINE void fl_net_single(V *total, const fl_cell *cell, ptrdiff_t group, const REAL *made, ptrdiff_t net_panel, const REAL *x,
                             const REAL *h, const REAL *a, int P, int N, int G, int shift) {
    const fl_geometry *q = &cell->q;
    const ptrdiff_t stride = G * VW;
    const REAL *w = cell->w + group * q->panel;
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        total[j] = made ? v_load(made + j / N * net_panel + j % N * VW)
                        : N == G ? fl_bias(w + j / N * q->panel + j % N * VW, stride, q->biases) : fl_start(q, w + j / N * q->panel, j % N);
    w += q->biases * stride;
    if (!made) fl_single_add(total, w, q->panel, x, q->I, P, G, N);
    w += q->I * stride;
    if (h) fl_single_add(total + shift, w, q->panel, h, q->P, P, G, N);
    if (a) fl_single_add(total + shift, w + q->P * stride, q->panel, a, q->A, P, G, N);
}

#endif
