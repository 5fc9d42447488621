/* The LSTM cell: forward equations, and the local factors of its truncated gradient. Each equation stands here once.

   For a block with gates i, f, o and cells v = 1..S (Hochreiter & Schmidhuber 1997, eqs 7-9; forget gate: Gers et al.
   2000, eq. 3.1; peepholes: Gers et al. 2002, eqs 2-5; coupled gates f = 1 - i: Greff et al. 2017):

       i = sigma(net_i + sum_v p_i[v] c_v(t-1))        f likewise        g_v = g(net_g[v])
       c_v = f c_v(t-1) + i g_v                        (absent gates are 1; clipped to [-clip, clip])
       o = sigma(net_o + sum_v p_o[v] c_v)             h_v = o h(c_v) */
#ifndef FL_LSTM_H
#define FL_LSTM_H

/* One lane at one step. */
typedef struct fl_row {
    const REAL *x;   /* (I,), or the whole source vector (M,) when learning */
    const REAL *pre; /* (groups, G, VW) biases and input products made ahead, or NULL */
    const REAL *h;   /* (H,) of the step before */
    const REAL *a;   /* (A,) gate activations of the step before */
    REAL *c;         /* inout (H,) */
    REAL *y;         /* out (H,): h of this step; never overlaps h */
    REAL *a_out;     /* out (A,); never overlaps a */
    REAL *act;       /* out (groups, acts): gates, g, h(c), c(t-1) for the gradient; or NULL */
} fl_row;

/* A layer as its kernels see it. */
typedef struct fl_cell {
    fl_geometry q;
    const fastlstm_layer *l;
    const REAL *w; /* packed */
    REAL *net;     /* (G, VW) scratch for blocks of more than four row-vectors */
    ptrdiff_t n_x, n_h, n_a; /* sources behind row.x (biases included if whole), row.h, row.a */
    int whole;     /* row.x is the whole source vector, biases first */
    int plain;     /* three gates, sigmoid and tanh, blocks of one cell, nothing else */
} fl_cell;

static void fl_cell_init(fl_cell *cell, const fastlstm_layer *l, const REAL *w, REAL *net, int whole) {
    cell->q = fl_layer_geometry(l, VW);
    cell->l = l;
    cell->w = w;
    cell->net = net;
    cell->whole = whole;
    cell->n_x = whole ? cell->q.M : cell->q.I;
    cell->n_h = whole ? 0 : cell->q.H;
    cell->n_a = whole ? 0 : cell->q.A;
    cell->plain = l->kind == FASTLSTM_LSTM && l->gates == (FASTLSTM_INPUT_GATE | FASTLSTM_FORGET_GATE | FASTLSTM_OUTPUT_GATE) &&
                  !l->peepholes && cell->q.A == 0 && cell->q.S == 1 && !(l->clip < INFINITY) &&
                  l->gate_activation == FASTLSTM_SIGMOID && l->input_activation == FASTLSTM_TANH &&
                  l->output_activation == FASTLSTM_TANH;
}

/* c(t) = f c(t-1) + i g: one rounding for f c, one for the sum. */
FL_INLINE V fl_state(V f, V c_prev, V i, V g) { return v_fma(i, g, v_mul(f, c_prev)); }

/* The plain cell's end, all in registers: net = i, f, o, g of VW units. */
FL_INLINE void fl_finish_plain(V i, V f, V o, V g, const fl_row *row, ptrdiff_t u, ptrdiff_t n, REAL *act) {
    V c_prev = fl_load_units(row->c + u, 1, n);
    i = v_sigmoid(i);
    f = v_sigmoid(f);
    g = v_tanh(g);
    o = v_sigmoid(o);
    V c = fl_state(f, c_prev, i, g);
    fl_store_units(row->c + u, c, 1, n);
    V hc = v_tanh(c);
    fl_store_units(row->y + u, v_mul(o, hc), 1, n);
    if (act) {
        v_store(act, i);
        v_store(act + VW, f);
        v_store(act + 2 * VW, o);
        v_store(act + 3 * VW, g);
        v_store(act + 4 * VW, hc);
        v_store(act + 5 * VW, c_prev);
    }
}

/* Any cell's end; net (G, VW). */
FL_NOINLINE void fl_finish(const fl_cell *cell, ptrdiff_t group, const REAL *net, const fl_row *row) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t S = q->S, block = group * VW;
    const ptrdiff_t n = q->J - block < VW ? q->J - block : VW;
    const REAL *peep = l->peepholes ? cell->w + q->peephole + group * 3 * S * VW : NULL;
    const V one = v_set1(1), limit = v_set1((REAL)l->clip), floor = v_set1((REAL)-l->clip);
    const REAL *net_g = net + q->gates * VW;
    REAL *c_units = row->c + block * S, *y_units = row->y + block * S;
    REAL *act = row->act ? row->act + group * q->acts : NULL, *act_g = act ? act + q->gates * VW : NULL;
    REAL *a_out = row->a_out && q->A ? row->a_out + block : NULL;
    V i = one, f = one, o = one;

    if (q->i) {
        V a = v_load(net);
        net += VW;
        if (peep)
            for (ptrdiff_t v = 0; v < S; v++)
                a = v_fma(v_load(peep + v * VW), fl_load_units(c_units + v, S, n), a);
        i = v_activate(l->gate_activation, a);
        if (act) v_store(act, i), act += VW;
        if (a_out) fl_store_units(a_out, i, 1, n), a_out += q->J;
    }
    if (q->f) {
        V a = v_load(net);
        net += VW;
        if (peep)
            for (ptrdiff_t v = 0; v < S; v++)
                a = v_fma(v_load(peep + (S + v) * VW), fl_load_units(c_units + v, S, n), a);
        f = v_activate(l->gate_activation, a);
        if (act) v_store(act, f), act += VW;
        if (a_out) fl_store_units(a_out, f, 1, n), a_out += q->J;
    } else if (q->coupled) {
        f = v_sub(one, i);
    }
    V a_o = q->o ? v_load(net) : one;
    for (ptrdiff_t v = 0; v < S; v++) {
        V g = v_activate(l->input_activation, v_load(net_g + v * VW));
        V c_prev = fl_load_units(c_units + v, S, n);
        V c = fl_state(f, c_prev, i, g);
        c = v_max(floor, v_min(limit, c));
        fl_store_units(c_units + v, c, S, n);
        if (peep && q->o) a_o = v_fma(v_load(peep + (2 * S + v) * VW), c, a_o);
        if (act_g) {
            v_store(act_g + v * VW, g);
            v_store(act_g + (2 * S + v) * VW, c_prev);
        }
    }
    if (q->o) {
        o = v_activate(l->gate_activation, a_o);
        if (act) v_store(act, o);
        if (a_out) fl_store_units(a_out, o, 1, n);
    }
    for (ptrdiff_t v = 0; v < S; v++) {
        V hc = v_activate(l->output_activation, fl_load_units(c_units + v, S, n));
        fl_store_units(y_units + v, v_mul(o, hc), S, n);
        if (act_g) v_store(act_g + (S + v) * VW, hc);
    }
}

/* R rows, P groups, N = G row-vectors a group, all net inputs in registers. */
FL_INLINE void fl_cell_block(const fl_cell *cell, ptrdiff_t group, const fl_row *row, int P, int R, int N) {
    const fl_geometry *q = &cell->q;
    const ptrdiff_t stride = N * VW;
    const REAL *w[4], *x[FL_ROWS], *h[FL_ROWS], *a[FL_ROWS];
    V acc[32];
    FL_UNROLL
    for (int p = 0; p < P; p++)
        w[p] = cell->w + (group + p) * q->panel;
    FL_UNROLL
    for (int r = 0; r < R; r++) {
        x[r] = row[r].x;
        h[r] = row[r].h;
        a[r] = row[r].a;
    }
    if (row[0].pre) {
        FL_UNROLL
        for (int p = 0; p < P; p++) {
            FL_UNROLL
            for (int j = 0; j < R * N; j++)
                acc[p * R * N + j] = v_load(row[j / N].pre + ((group + p) * N + j % N) * VW);
            w[p] += (q->biases + q->I) * stride;
        }
    } else {
        fl_accumulate_bias(acc, P, R, N, w, stride, cell->whole ? 0 : q->biases);
        fl_accumulate(acc, P, R, N, w, stride, x, cell->n_x);
    }
    fl_accumulate(acc, P, R, N, w, stride, h, cell->n_h);
    if (cell->n_a) fl_accumulate(acc, P, R, N, w, stride, a, cell->n_a);

    if (N == 4 && cell->plain) {
        FL_UNROLL
        for (int p = 0; p < P; p++) {
            const ptrdiff_t u = (group + p) * VW, n = q->J - u;
            FL_UNROLL
            for (int r = 0; r < R; r++) {
                V *t = acc + (p * R + r) * N;
                fl_finish_plain(t[0], t[1], t[2], t[3], row + r, u, n, row[r].act ? row[r].act + (group + p) * q->acts : NULL);
            }
        }
        return;
    }
    FL_UNROLL
    for (int p = 0; p < P; p++) {
        FL_UNROLL
        for (int r = 0; r < R; r++) {
            REAL net[4 * VW];
            FL_UNROLL
            for (int n = 0; n < N; n++)
                v_store(net + n * VW, acc[(p * R + r) * N + n]);
            fl_finish(cell, group + p, net, row + r);
        }
    }
}

/* One row and group with any number of row-vectors, four at a time through memory. */
static void fl_cell_block_any(const fl_cell *cell, ptrdiff_t group, const fl_row *row) {
    const fl_geometry *q = &cell->q;
    const ptrdiff_t stride = q->G * VW;
    for (ptrdiff_t n0 = 0; n0 < q->G; n0++) {
        const REAL *w = cell->w + group * q->panel + n0 * VW;
        V acc[1];
        if (row->pre) {
            acc[0] = v_load(row->pre + (group * q->G + n0) * VW);
            w += (q->biases + q->I) * stride;
        } else {
            fl_accumulate_bias(acc, 1, 1, 1, &w, stride, cell->whole ? 0 : q->biases);
            fl_accumulate(acc, 1, 1, 1, &w, stride, &row->x, cell->n_x);
        }
        fl_accumulate(acc, 1, 1, 1, &w, stride, &row->h, cell->n_h);
        fl_accumulate(acc, 1, 1, 1, &w, stride, &row->a, cell->n_a);
        v_store(cell->net + n0 * VW, acc[0]);
    }
    fl_finish(cell, group, cell->net, row);
}

FL_INLINE void fl_cell_rows_n(const fl_cell *cell, const fl_row *row, ptrdiff_t n_rows, int N) {
    const ptrdiff_t groups = cell->q.groups;
    ptrdiff_t group = 0;
    if (n_rows == 1) /* two groups at once: one row alone would wait for its own four chains */
        for (; group + 2 <= groups; group += 2)
            fl_cell_block(cell, group, row, 2, 1, N);
    for (; group < groups; group++) { /* all rows pass over a panel while it is in cache */
        ptrdiff_t r = 0;
        for (; r + FL_ROWS <= n_rows; r += FL_ROWS)
            fl_cell_block(cell, group, row + r, 1, FL_ROWS, N);
        for (; r + 2 <= n_rows; r += 2)
            fl_cell_block(cell, group, row + r, 1, 2, N);
        for (; r < n_rows; r++)
            fl_cell_block(cell, group, row + r, 1, 1, N);
    }
}

/* One step of the cell for n_rows lanes. */
static void fl_cell_rows(const fl_cell *cell, const fl_row *row, ptrdiff_t n_rows) {
    switch (cell->q.G) {
    case 1: fl_cell_rows_n(cell, row, n_rows, 1); break;
    case 2: fl_cell_rows_n(cell, row, n_rows, 2); break;
    case 3: fl_cell_rows_n(cell, row, n_rows, 3); break;
    case 4: fl_cell_rows_n(cell, row, n_rows, 4); break;
    default:
        for (ptrdiff_t group = 0; group < cell->q.groups; group++)
            for (ptrdiff_t r = 0; r < n_rows; r++)
                fl_cell_block_any(cell, group, row + r);
    }
}

/* The local factors of one lane and group at one step, from what fl_finish saved and the error dh of the outputs.
   With e_v = dh_v o h'(c_v), the error that reaches the cell state from the output side at this step:

       mu_v  = dc_v(t) / dc_v(t-1) = f                          (0 where the state was clipped, as are all u)
       u_g,v = dc_v / dnet_g = i g'(net_g)      u_i,v = dc_v / dnet_i = g_v i'      u_f,v = c_v(t-1) f'
       coupled gates: u_i,v = (g_v - c_v(t-1)) i'
       d_g,v = e_v u_g,v     d_i = sum_v e_v u_i,v     d_f = sum_v e_v u_f,v     d_o = o' sum_v dh_v h(c_v)

   (1997, eqs A.9-A.14; 2000, eqs 3.10-3.12.) Nothing flows back through peepholes (2002, sec. 3.2).
   factors: mu, e, u_g, u_i, u_f, d_g of S vectors each, then d_i, d_f, d_o. dh NULL: no error at this step. */
static void fl_lstm_factors(const fl_cell *cell, ptrdiff_t group, const REAL *act, const REAL *c, const REAL *dh, REAL *factors) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t S = q->S, block = group * VW;
    const ptrdiff_t n = q->J - block < VW ? q->J - block : VW;
    const REAL *act_g = act + q->gates * VW;
    const V one = v_set1(1), zero = v_zero();
    const int clipped = l->clip < INFINITY;
    V i = one, f = one, o = one, di = zero, df = zero, dot = zero;
    V d_i = zero, d_f = zero, d_o = zero; /* derivatives of the gates, then the errors of their net inputs */
    if (q->i) i = v_load(act), act += VW, di = v_activate_grad(l->gate_activation, i);
    if (q->f) f = v_load(act), act += VW, df = v_activate_grad(l->gate_activation, f);
    if (q->coupled) f = v_sub(one, i);
    if (q->o) o = v_load(act);
    for (ptrdiff_t v = 0; v < S; v++) {
        const V g = v_load(act_g + v * VW), hc = v_load(act_g + (S + v) * VW), c_prev = v_load(act_g + (2 * S + v) * VW);
        V mu = f;
        V u_g = v_mul(i, v_activate_grad(l->input_activation, g));
        V u_i = v_mul(q->coupled ? v_sub(g, c_prev) : g, di);
        V u_f = v_mul(c_prev, df);
        if (clipped) {
            const VM inside = v_lt(v_abs(fl_load_units(c + block * S + v, S, n)), v_set1((REAL)l->clip));
            mu = v_select(inside, mu, zero);
            u_g = v_select(inside, u_g, zero);
            u_i = v_select(inside, u_i, zero);
            u_f = v_select(inside, u_f, zero);
        }
        /* Traces stay zero in the padding, where nothing is bounded by a gate or met by a weight. */
        v_store(factors + v * VW, fl_unpadded(mu, n));
        v_store(factors + (2 * S + v) * VW, fl_unpadded(u_g, n));
        v_store(factors + (3 * S + v) * VW, fl_unpadded(u_i, n));
        v_store(factors + (4 * S + v) * VW, fl_unpadded(u_f, n));
        if (!dh) continue;
        const V d = fl_load_units(dh + block * S + v, S, n);
        const V e = v_mul(v_mul(d, o), v_activate_grad(l->output_activation, hc));
        v_store(factors + (S + v) * VW, e);
        v_store(factors + (5 * S + v) * VW, v_mul(e, u_g));
        d_i = v_fma(e, u_i, d_i);
        d_f = v_fma(e, u_f, d_f);
        dot = v_fma(d, hc, dot);
    }
    if (!dh) return;
    if (q->o) d_o = v_mul(v_activate_grad(l->gate_activation, o), dot);
    v_store(factors + 6 * S * VW, d_i);
    v_store(factors + (6 * S + 1) * VW, d_f);
    v_store(factors + (6 * S + 2) * VW, d_o);
}

#endif
