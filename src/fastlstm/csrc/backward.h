/* Backpropagation through time: the full gradient of one layer (one direction) over all steps, from what forward.h saved.

   Three phases, each divided among threads without ever dividing a sum:
   0  the weights are transposed, so that errors of net inputs can be sources of products (by units);
   1  errors run back through time and become errors d of all net inputs, in the tape (by lanes);
   2  dx = W_x^T d for all rows in one product (by rows), dW = sum_rows d s^T in another (by groups), with what a learner
      carries on (carry.h). */
#ifndef FL_BACKWARD_H
#define FL_BACKWARD_H

/* Errors of net inputs are gathered as sources of products: (row-vectors, J rounded up to FL_W), zero in the padding, an order
   that no register width shapes, so that sums over them are the same on every instruction set. */
static ptrdiff_t fl_error_units(const fl_geometry *q) { return fl_padded(q->J, FL_W); }

/* One group of one lane at one step. Gates and activations in, errors of net inputs out, in place:

       da_o = sum_v dh_v h(c_v)                d_o = o' da_o              dc_v += dh_v o h'(c_v) + p_o[v] d_o
       da_i = sum_v dc_v g_v                   d_i = i' da_i              (0 where c was clipped)
       da_f = sum_v dc_v c_v(t-1)              d_f = f' da_f              d_g,v = dc_v i g'
       coupled gates: da_i = sum_v dc_v (g_v - c_v(t-1))                  dc_v(t-1) = dc_v f + p_i[v] d_i + p_f[v] d_f

   dh: (H,) error of the outputs from above; dh_next, da_next: from the net inputs of the step after, (H,) and (A,) or NULL;
   dc: inout (H,); gathered: of a plain cell those errors once more, as fl_gather_errors has them, or NULL. */
FL_INLINE void fl_lstm_back(const fl_cell *cell, ptrdiff_t group, REAL *acts, const REAL *dh, const REAL *dh_next, const REAL *da_next,
                            REAL *dc, REAL *gathered, int usual, int plain) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const fl_lstm_kind kind = fl_lstm_kind_of(cell, usual);
    const ptrdiff_t S = kind.S, block = group * VW, n = q->J - block < VW ? q->J - block : VW, J = fl_error_units(q);
    const int has_i = plain || q->i, has_f = plain || q->f, has_o = plain || q->o;
    const fastlstm_activation *gate = &kind.gate, *in = &kind.in, *out = &kind.out;
    const REAL *peep = !plain && l->peepholes ? cell->w + q->peephole + group * 3 * S * VW : NULL, *kept = acts + fl_act_cell(q, group, VW);
    const REAL *da = !plain && da_next ? da_next + block : NULL; /* gate by gate */
    REAL *act = acts + fl_act_net(q, group, VW), *act_i = act, *act_f = act + has_i * VW, *act_o = act_f + has_f * VW, *act_g = act_o + has_o * VW;
    const V one = v_set1(1), zero = v_zero();
    const int clipped = !plain && l->clip < INFINITY;
    const V i = has_i ? v_load(act_i) : one, o = has_o ? v_load(act_o) : one;
    const V f = has_f ? v_load(act_f) : !plain && q->coupled ? v_sub(one, i) : one;
    V da_i = zero, da_f = zero, da_o = zero, d_o = zero;
    if (da) {
        if (has_i) da_i = fl_load_units(da, 1, n), da += q->J;
        if (has_f) da_f = fl_load_units(da, 1, n), da += q->J;
        if (has_o) da_o = fl_load_units(da, 1, n);
    }
    if (has_o) {
        for (ptrdiff_t v = 0; v < S; v++)
            da_o = v_fma(v_add(fl_load_units(dh + block * S + v, S, n), fl_load_units(dh_next + block * S + v, S, n)), v_load(kept + v * VW), da_o);
        d_o = v_mul(v_activate_grad(gate, o), da_o);
        v_store(act_o, d_o);
    }
    for (ptrdiff_t v = 0; v < S; v++) {
        const V g = v_load(act_g + v * VW), hc = v_load(kept + v * VW), c_prev = v_load(kept + (S + v) * VW);
        const V dh_v = v_add(fl_load_units(dh + block * S + v, S, n), fl_load_units(dh_next + block * S + v, S, n));
        V e = v_fma(v_mul(dh_v, o), v_activate_grad(out, hc), fl_load_units(dc + block * S + v, S, n));
        if (peep && has_o) e = v_fma(v_load(peep + (2 * S + v) * VW), d_o, e);
        if (clipped) e = v_select(v_lt(v_abs(fl_state(f, c_prev, i, g)), v_set1((REAL)l->clip)), e, zero);
        da_i = v_fma(e, !plain && q->coupled ? v_sub(g, c_prev) : g, da_i);
        da_f = v_fma(e, c_prev, da_f);
        const V d_g = v_mul(v_mul(e, i), v_activate_grad(in, g));
        v_store(act_g + v * VW, d_g);
        if (gathered) fl_store_units(gathered + 3 * J + block, d_g, 1, J - block);
        fl_store_units(dc + block * S + v, v_mul(e, f), S, n);
    }
    const V d_i = v_mul(v_activate_grad(gate, i), da_i), d_f = v_mul(v_activate_grad(gate, f), da_f);
    if (has_i) v_store(act_i, d_i);
    if (has_f) v_store(act_f, d_f);
    if (gathered) {
        fl_store_units(gathered + block, d_i, 1, J - block);
        fl_store_units(gathered + J + block, d_f, 1, J - block);
        fl_store_units(gathered + 2 * J + block, d_o, 1, J - block);
    }
    for (ptrdiff_t v = 0; peep && v < S; v++) {
        V e = fl_load_units(dc + block * S + v, S, n);
        if (has_i) e = v_fma(v_load(peep + v * VW), d_i, e);
        if (has_f) e = v_fma(v_load(peep + (S + v) * VW), d_f, e);
        fl_store_units(dc + block * S + v, e, S, n);
    }
}

FL_NOINLINE void fl_lstm_back_groups(const fl_cell *cell, REAL *acts, const REAL *dh, const REAL *dh_next, const REAL *da_next, REAL *dc, REAL *gathered) {
    for (ptrdiff_t group = 0; group < cell->q.groups; group++) {
        if (cell->plain) fl_lstm_back(cell, group, acts, dh, dh_next, NULL, dc, gathered, 1, 1);
        else if (cell->usual) fl_lstm_back(cell, group, acts, dh, dh_next, da_next, dc, NULL, 1, 0);
        else fl_lstm_back(cell, group, acts, dh, dh_next, da_next, dc, NULL, 0, 0);
    }
}

/* Errors of a row's net inputs that some kind of sources feeds: `n` row-vectors of each group, from net input `from` on. */
typedef struct fl_errors {
    ptrdiff_t n, from;
} fl_errors;

static void fl_gather_errors(const fl_geometry *q, const fl_errors *e, const REAL *d, REAL *to) {
    const ptrdiff_t J = fl_error_units(q);
    for (ptrdiff_t n = 0; n < e->n; n++, to += J) {
        const REAL *from = d + (e->from + n) * q->by_vector * VW;
        for (ptrdiff_t group = 0; group < q->groups; group++)
            v_store(to + group * VW, v_load(from + fl_act_net(q, group, VW)));
        for (ptrdiff_t j = q->groups * VW; j < J; j += VW)
            v_store(to + j, v_zero());
    }
}

/* Transposed weights: outputs lie in panels of FL_TILE row-vectors, of which the last may have fewer, (panel, R, N, VW), with
   the R gathered errors of a step as their sources. One stream of weights for a tile, as cells have it, is read 1.1 to 1.3 times
   as fast as a stream for each row-vector. */
typedef struct fl_transposed {
    const REAL *w;
    ptrdiff_t R, outputs, vectors;
    int near; /* as of fl_cell */
} fl_transposed;

static fl_transposed fl_transposed_weights(const fl_geometry *q, const fl_errors *e, const REAL *w, ptrdiff_t outputs) {
    fl_transposed t = {w, e->n * fl_error_units(q), outputs, fl_vectors(outputs, VW), 0};
    t.near = t.R * t.vectors * VW * (ptrdiff_t)sizeof(REAL) <= FL_NEAR_BYTES;
    return t;
}

static ptrdiff_t fl_transposed_size(const fl_transposed *t) { return t->R * t->vectors * VW; }
static ptrdiff_t fl_transposed_wide(const fl_transposed *t, ptrdiff_t panel) { /* N */
    return t->vectors - panel * FL_TILE < FL_TILE ? t->vectors - panel * FL_TILE : FL_TILE;
}

/* A thread's part of them, from those of a cell's sources that begin at w in the first group's panel. */
static void fl_transpose(const fl_geometry *q, const REAL *w, const fl_errors *e, const fl_transposed *to, int part, int parts) {
    const ptrdiff_t stride = e->n * VW, J = fl_error_units(q);
    for (ptrdiff_t g = to->vectors * part / parts; g < to->vectors * (part + 1) / parts; g++) {
        const ptrdiff_t panel = g / FL_TILE, apart = fl_transposed_wide(to, panel) * VW;
        REAL *t = (REAL *)to->w + panel * FL_TILE * to->R * VW + g % FL_TILE * VW;
        for (ptrdiff_t n = 0; n < e->n; n++) {
            for (ptrdiff_t group = 0; group < q->groups; group++) {
                V m[VW];
                fl_turn_load(m, w + group * q->panel + g * VW * stride + n * VW, stride, to->outputs - g * VW);
                FL_UNROLL
                for (int j = 0; j < VW; j++, t += apart)
                    v_store(t, m[j]);
            }
            for (ptrdiff_t j = q->groups * VW; j < J; j++, t += apart)
                v_store(t, v_zero());
        }
    }
}

FL_INLINE void fl_transposed_single(const fl_transposed *t, ptrdiff_t panel, const REAL *d, REAL *to, int P, int N) {
    V total[2 * FL_TILE];
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        total[j] = v_zero();
    fl_single_add(total, t->w + panel * FL_TILE * t->R * VW, FL_TILE * t->R * VW, d, t->R, P, N, N);
    for (int j = 0; j < P * N; j++)
        fl_store_units(to + (panel * FL_TILE + j) * VW, total[j], 1, t->outputs - (panel * FL_TILE + j) * VW);
}

/* to = W^T d for one row; d: gathered errors (R,); back: as of fl_rows. */
FL_NOINLINE void fl_transposed_row(const fl_transposed *t, const REAL *d, REAL *to, int back) {
    const ptrdiff_t panels = fl_vectors(t->vectors, FL_TILE), pairs = t->vectors / (2 * FL_TILE); /* of whole panels, for eight chains */
    for (ptrdiff_t turn = 0; turn < pairs; turn++)
        fl_transposed_single(t, 2 * (back ? pairs - 1 - turn : turn), d, to, 2, FL_TILE);
    for (ptrdiff_t panel = 2 * pairs; panel < panels; panel++)
        switch (fl_transposed_wide(t, panel)) {
        case 4: fl_transposed_single(t, panel, d, to, 1, 4); break;
        case 3: fl_transposed_single(t, panel, d, to, 1, 3); break;
        case 2: fl_transposed_single(t, panel, d, to, 1, 2); break;
        default: fl_transposed_single(t, panel, d, to, 1, 1);
        }
}

/* The same for many: d, to: (rows,); net: scratch, (rows, FL_TILE, VW); wanted: as of fl_rows. */
static void fl_transposed_rows(const fl_transposed *t, const REAL *const *d, REAL *const *to, ptrdiff_t rows, REAL *net, int back, fl_wanted *wanted) {
    const ptrdiff_t panels = fl_vectors(t->vectors, FL_TILE), size = FL_TILE * t->R * VW;
    REAL zero[FL_TILE * VW];
    if (rows == 1) {
        fl_transposed_row(t, d[0], to[0], back);
        return;
    }
    fl_zero(zero, FL_TILE * VW);
    for (ptrdiff_t turn = 0; turn < panels; turn++) {
        const ptrdiff_t panel = back ? panels - 1 - turn : turn, N = fl_transposed_wide(t, panel);
        const ptrdiff_t soon = turn + 1 == panels ? panel : back ? panel - 1 : panel + 1;
        const fl_tile tile = {t->w + panel * size, 0, N * VW, net, 0, N * VW, zero, t->w + soon * size, t->near, wanted};
        fl_add_sources(&tile, d, t->R, rows, 1, (int)N);
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t n = 0, u = panel * FL_TILE * VW; n < N; n++, u += VW)
                fl_store_units(to[r] + u, v_load(net + (r * N + n) * VW), 1, t->outputs - u);
    }
}

/* ---- Where things lie ---- */

typedef struct fl_back_view {
    fl_cell cell, tail;                /* tail: if the cell has a second product */
    fl_transposed by_h, by_x, by_tail; /* products with transposed weights; */
    fl_errors from_h, from_x, from_tail; /*   their sources */
    fastlstm_layer tail_layer;
    char *own;                         /* this thread's scratch */
} fl_back_view;

static void fl_back_open(fl_back_view *v, const fl_back *b, int part) {
    const fl_geometry *q = &v->cell.q;
    char *base = (char *)b->scratch;
    fl_cell_init(&v->cell, b->l, (const REAL *)b->packed);
    v->from_h = (fl_errors){q->G_h, q->shift};
    v->from_x = (fl_errors){q->G, 0};
    v->by_h = fl_transposed_weights(q, &v->from_h, (const REAL *)(base + b->plan.by_h), q->P + q->A);
    v->by_x = fl_transposed_weights(q, &v->from_x, (const REAL *)(base + b->plan.by_x), q->I);
    if (q->has_tail) {
        v->tail_layer = fl_tail_layer(b->l);
        fl_cell_init(&v->tail, &v->tail_layer, (const REAL *)b->packed + q->tail);
        v->from_tail = (fl_errors){1, 0};
        v->by_tail = fl_transposed_weights(&v->tail.q, &v->from_tail, (const REAL *)(base + b->plan.by_tail), q->H);
    }
    v->own = base + b->plan.own + part * b->plan.each;
}

static REAL *fl_back_errors(const fl_back *b, const fl_geometry *q, ptrdiff_t row) { return (REAL *)b->tape + row * q->acts; }

/* The errors of the second product's outputs: of the candidate's net input, or of a projection's outputs. */
static REAL *fl_back_tail_errors(const fl_geometry *q, REAL *acts) { return acts + (q->N == 3 && q->shift ? 0 : fl_act_projected(q, VW)); }

/* The h or, with `gates`, the gate activations of the step before. */
static const REAL *fl_back_before(const fl_back *b, const fl_geometry *q, ptrdiff_t t, ptrdiff_t lane, int gates) {
    const fastlstm_batch *batch = b->batch;
    const ptrdiff_t B = batch->lanes, before = b->l->reverse ? t + 1 : t - 1;
    if (batch->reset && fl_starts(batch, b->l->reverse, t, lane)) return (const REAL *)((const char *)b->scratch + b->plan.zeros);
    if (before < 0 || before >= (batch->lengths ? batch->lengths[lane] : batch->steps))
        return (const REAL *)b->state + (gates ? b->l->state_a * B + lane * q->A : b->l->state_h * B + lane * q->P);
    if (gates) return fl_back_errors(b, q, before * B + lane) + q->gates_at;
    return (const REAL *)b->y + before * b->y_step + lane * b->y_lane;
}

/* The inputs, h or gate activations that the net inputs of a step read. */
static const REAL *fl_back_source(const fl_back *b, const fl_geometry *q, ptrdiff_t t, ptrdiff_t lane, int kind) {
    const REAL *acts = fl_back_errors(b, q, t * b->batch->lanes + lane);
    if (kind == FL_X && b->l->dropout > 0) return acts + fl_act_x(q);
    if (kind == FL_X) return (const REAL *)b->x + t * b->x_step + lane * b->x_lane;
    if (kind == FL_H && b->l->recurrent_dropout > 0) return acts + fl_act_h(b->l, q, VW);
    return fl_back_before(b, q, t, lane, kind == FL_A);
}

/* ---- Phase 1: back through time ---- */

static int fl_back_linear(const fl_back *b, const fl_back_view *v, int part, int parts) {
    const fl_geometry *q = &v->cell.q;
    const ptrdiff_t B = b->batch->lanes;
    for (ptrdiff_t j = b->n_rows * part / parts; j < b->n_rows * (part + 1) / parts; j++) {
        const ptrdiff_t row = b->rows[j], t = row / B, lane = row % B;
        const REAL *dy = (const REAL *)b->dy + t * b->dy_step + lane * b->dy_lane, *y = (const REAL *)b->y + t * b->y_step + lane * b->y_lane;
        REAL *d = fl_back_errors(b, q, row);
        for (ptrdiff_t u = 0; u < q->H; u += VW)
            v_store(d + u, v_mul(fl_load_units(dy + u, 1, q->H - u), v_activate_grad(&v->cell.l->output_activation, fl_load_units(y + u, 1, q->H - u))));
    }
    return 0;
}

/* Zoneout's part of a step's gradient: dh (the error of h but for dy) becomes that of what the cell gave, dc that of its
   state; what goes past the cell is left in stays_h, stays_c. */
static void fl_back_zone(const fl_back *b, const fl_geometry *q, REAL *acts, const REAL *dy, REAL *dh, REAL *dc, REAL *stays_h, REAL *stays_c) {
    const fastlstm_layer *l = b->l;
    if (l->zoneout_h > 0) {
        fl_add(dh, dy, q->P);
        fl_zone_back(dh, acts + fl_act_zone_h(l, q, VW), stays_h, q->P);
    }
    if (l->zoneout_c > 0) fl_zone_back(dc, acts + fl_act_zone_c(l, q, VW), stays_c, q->H);
}

/* The errors of the net inputs of n lanes at step t, from those of its outputs (dy, and dh of the step after);
   d: out, gathered. */
static void fl_back_step(const fl_back *b, const fl_back_view *v, ptrdiff_t t, const ptrdiff_t *lane, ptrdiff_t n, REAL *const *dh,
                         REAL *const *d, REAL *dc, REAL *ds, REAL *stays, REAL **to, REAL *net) {
    const fl_cell *cell = &v->cell;
    const fl_geometry *q = &cell->q;
    const ptrdiff_t H = q->H, P = q->P;
    const REAL *zeros = (const REAL *)((const char *)b->scratch + b->plan.zeros);
    const int kind = b->l->kind, projected = kind == FASTLSTM_LSTM && q->has_tail;
    for (ptrdiff_t k = 0; k < n; k++) {
        const REAL *dy = (const REAL *)b->dy + t * b->dy_step + lane[k] * b->dy_lane;
        REAL *acts = fl_back_errors(b, q, t * b->batch->lanes + lane[k]);
        if (q->has_noise) fl_back_zone(b, q, acts, dy, dh[k], dc + k * H, stays + k * (P + H), stays + k * (P + H) + P);
        if (b->l->zoneout_h > 0) dy = zeros; /* it is in dh */
        to[k] = ds + k * H;
        if (projected)
            for (ptrdiff_t u = 0; u < P; u += VW)
                v_store(acts + fl_act_projected(q, VW) + u, v_add(fl_load_units(dy + u, 1, P - u), fl_load_units(dh[k] + u, 1, P - u)));
        else if (kind == FASTLSTM_LSTM)
            fl_lstm_back_groups(cell, acts, dy, dh[k], q->A ? dh[k] + P : NULL, dc + k * H, d[k]);
        else
            for (ptrdiff_t group = 0; group < q->groups; group++) {
                if (kind == FASTLSTM_RNN) fl_rnn_back(cell, group, acts, dy, dh[k]);
                else fl_gru_back(cell, group, acts, fl_back_before(b, q, t, lane[k], 0), dy, dh[k], dc + k * H);
            }
    }
    for (ptrdiff_t k = 0; q->has_tail && k < n; k++)
        fl_gather_errors(&v->tail.q, &v->from_tail, fl_back_tail_errors(q, fl_back_errors(b, q, t * b->batch->lanes + lane[k])), d[k]);
    if (q->has_tail) fl_transposed_rows(&v->by_tail, (const REAL *const *)d, to, n, net, 0, NULL);
    for (ptrdiff_t k = 0; k < n; k++) {
        REAL *acts = fl_back_errors(b, q, t * b->batch->lanes + lane[k]);
        if (projected) fl_lstm_back_groups(cell, acts, to[k], zeros, q->A ? dh[k] + P : NULL, dc + k * H, NULL);
        else if (q->has_tail)
            for (ptrdiff_t group = 0; group < q->groups; group++)
                fl_gru_back_reset(cell, group, acts, fl_back_source(b, q, t, lane[k], FL_H), to[k]);
        if (!cell->plain || projected) fl_gather_errors(q, &v->from_h, acts, d[k]);
    }
}

/* One lane of a plain cell, whose steps are short: the same with as little around a step as can be. */
static int fl_back_single(const fl_back *b, const fl_back_view *v, fl_patience *patience) {
    const fl_geometry *q = &v->cell.q;
    const fastlstm_batch *batch = b->batch;
    const ptrdiff_t H = q->H, steps = batch->lengths ? batch->lengths[0] : batch->steps;
    const int reverse = b->l->reverse;
    REAL *dh = (REAL *)(v->own + b->plan.dh), *dc = (REAL *)(v->own + b->plan.dc), *d = (REAL *)(v->own + b->plan.gathered);
    REAL *dstate_h = (REAL *)b->dstate + b->l->state_h, *dstate_c = (REAL *)b->dstate + b->l->state_c;
    const REAL *dy = (const REAL *)b->dy;
    int stop = 0;
    fl_zero(d, v->by_h.R);
    fl_copy(dh, dstate_h, H);
    fl_copy(dc, dstate_c, H);
    for (ptrdiff_t done = steps - 1; done >= 0 && !stop; done--) {
        const ptrdiff_t t = reverse ? steps - 1 - done : done;
        REAL *acts = fl_back_errors(b, q, t);
        for (ptrdiff_t group = 0; group < q->groups; group++)
            fl_lstm_back(&v->cell, group, acts, dy + t * b->dy_step, dh, NULL, dc, d, 1, 1);
        if (done || b->need_dh) fl_transposed_row(&v->by_h, d, dh, done & !v->by_h.near);
        else fl_zero(dh, H);
        if (batch->reset && fl_starts(batch, reverse, t, 0)) {
            fl_zero(dh, H);
            fl_zero(dc, H);
        }
        stop = fl_interrupted(patience, fl_transposed_size(&v->by_h));
    }
    fl_copy(dstate_h, dh, H);
    fl_copy(dstate_c, dc, H);
    return stop;
}

static int fl_back_time(const fl_back *b, const fl_back_view *v, int part, int parts, fl_patience *patience) {
    const fl_geometry *q = &v->cell.q;
    const fastlstm_batch *batch = b->batch;
    const ptrdiff_t H = q->H, A = q->A, P = q->P, all = batch->lanes, B = fl_share_lanes(all, part, parts), width = P + A;
    const int reverse = b->l->reverse, has_c = b->l->kind == FASTLSTM_LSTM, gru = b->l->kind == FASTLSTM_GRU;
    fl_work work = {.lanes = B, .lane = (ptrdiff_t *)(v->own + b->plan.lane), .start = (ptrdiff_t *)(v->own + b->plan.start)};
    const fl_share share = {part, parts, b->order, NULL, NULL};
    REAL *dh = (REAL *)(v->own + b->plan.dh), *dc = (REAL *)(v->own + b->plan.dc), *net = (REAL *)(v->own + b->plan.net);
    REAL *ds = (REAL *)(v->own + b->plan.ds), *noise = (REAL *)(v->own + b->plan.noise); /* a mask, then what zoneout leaves */
    const int gathers = fl_gathers(q);
    const ptrdiff_t R = v->by_h.R, tail_R = q->has_tail ? v->by_tail.R : 0, apart = R > tail_R ? R : tail_R;
    REAL **d = (REAL **)(v->own + b->plan.d), **to = (REAL **)(v->own + b->plan.to), **to_tail = to + B;
    REAL *dstate_h = (REAL *)b->dstate + b->l->state_h * all, *dstate_c = has_c ? (REAL *)b->dstate + b->l->state_c * all : NULL;
    REAL *dstate_a = A ? (REAL *)b->dstate + b->l->state_a * all : NULL;
    ptrdiff_t n = 0;
    int stop = 0;
    if (all == 1 && v->cell.plain && !q->has_tail && !q->has_noise) return fl_back_single(b, v, patience);
    fl_deal_lanes(batch, &share, &work);
    for (ptrdiff_t k = 0; k < B; k++) {
        d[k] = (REAL *)(v->own + b->plan.gathered) + k * apart;
        fl_zero(d[k], R); /* the padding of what a plain cell gathers */
        to[k] = dh + k * width;
        fl_copy(to[k], dstate_h + work.lane[k] * P, P);
        if (A) fl_copy(to[k] + P, dstate_a + work.lane[k] * A, A);
        if (has_c) fl_copy(dc + k * H, dstate_c + work.lane[k] * H, H);
        else fl_zero(dc + k * H, H);
    }
    for (ptrdiff_t done = batch->steps - 1; done >= 0 && !stop; done--) {
        const ptrdiff_t t = reverse ? batch->steps - 1 - done : done;
        n = fl_running(batch, &work, t, n);
        fl_back_step(b, v, t, work.lane, n, to, d, dc, ds, noise + P, to_tail, net);
        fl_wanted tape = fl_wanted_tape(done ? fl_back_errors(b, q, (reverse ? t + 1 : t - 1) * all) : NULL, q, work.lane, n);
        if (n && (done || b->need_dh)) fl_transposed_rows(&v->by_h, (const REAL *const *)d, to, n, net, done & !v->by_h.near, &tape);
        for (ptrdiff_t k = 0; k < n; k++) {
            if (!done && !b->need_dh) fl_zero(to[k], width);
            if (gathers) fl_add(to[k], ds + k * H, H);
            if (b->l->recurrent_dropout > 0) {
                fl_draw_dropout(&v->cell, batch->seed, FL_DROP_H, work.lane[k], b->l->recurrent_dropout, noise, P);
                fl_multiply(to[k], noise, P);
            }
            if (gru) fl_add(to[k], dc + k * H, H);
            if (b->l->zoneout_h > 0) fl_add(to[k], noise + P + k * (P + H), P);
            if (b->l->zoneout_c > 0) fl_add(dc + k * H, noise + P + k * (P + H) + P, H);
        }
        for (ptrdiff_t k = 0; batch->reset && k < n; k++)
            if (fl_starts(batch, reverse, t, work.lane[k])) {
                fl_zero(to[k], width);
                fl_zero(dc + k * H, H);
            }
        stop = fl_interrupted(patience, (fl_transposed_size(&v->by_h) + (q->has_tail ? fl_transposed_size(&v->by_tail) : 0)) * n);
    }
    for (ptrdiff_t k = 0; k < B; k++) {
        fl_copy(dstate_h + work.lane[k] * P, to[k], P);
        if (A) fl_copy(dstate_a + work.lane[k] * A, to[k] + P, A);
        if (has_c) fl_copy(dstate_c + work.lane[k] * H, dc + k * H, H);
    }
    return stop;
}

/* ---- Phase 2: sums over all rows ---- */

static int fl_back_inputs(const fl_back *b, const fl_back_view *v, int part, int parts, fl_patience *patience) {
    const fl_geometry *q = &v->cell.q;
    const ptrdiff_t B = b->batch->lanes, from = b->n_rows * part / parts, to = b->n_rows * (part + 1) / parts;
    const REAL *d[FL_ROWS_AHEAD];
    REAL *dx[FL_ROWS_AHEAD], *sum = (REAL *)(v->own + b->plan.sum), *net = (REAL *)(v->own + b->plan.net);
    REAL *gathered = (REAL *)(v->own + b->plan.gathered);
    int stop = 0;
    for (ptrdiff_t at = from; at < to && !stop; at += FL_ROWS_AHEAD) {
        const ptrdiff_t n = to - at < FL_ROWS_AHEAD ? to - at : FL_ROWS_AHEAD;
        for (ptrdiff_t j = 0; j < n; j++) {
            const ptrdiff_t row = b->rows[at + j];
            d[j] = gathered + j * v->by_x.R;
            fl_gather_errors(q, &v->from_x, b->errors_x ? (const REAL *)b->errors_x + row * q->groups * q->N * VW : fl_back_errors(b, q, row), gathered + j * v->by_x.R);
            dx[j] = b->add_dx ? sum + j * q->I : (REAL *)b->dx + row / B * b->dx_step + row % B * b->dx_lane;
        }
        fl_transposed_rows(&v->by_x, d, dx, n, net, 0, NULL);
        for (ptrdiff_t j = 0; j < n; j++) {
            const ptrdiff_t row = b->rows[at + j];
            if (b->l->dropout > 0) {
                REAL *mask = (REAL *)(v->own + b->plan.noise);
                fl_draw_dropout(&v->cell, b->batch->seed, FL_DROP_X, fl_row_drawn(b->batch, row), b->l->dropout, mask, q->I);
                fl_multiply(dx[j], mask, q->I);
            }
            if (b->add_dx) fl_add((REAL *)b->dx + row / B * b->dx_step + row % B * b->dx_lane, dx[j], q->I);
        }
        stop = fl_interrupted(patience, fl_transposed_size(&v->by_x) * n);
    }
    return stop;
}

/* VW columns of the gradient of a parameter matrix, or the last `n` of it: sources [from, from + n) of one kind. */
typedef struct fl_column {
    REAL *w;             /* in the first row */
    ptrdiff_t stride, n; /* between rows */
    ptrdiff_t kind, from;
} fl_column;

typedef char fl_column_fits[sizeof(fl_column) <= FL_COLUMN_BYTES ? 1 : -1];

/* What is there, of which sums are added: nothing, or all of it, or with `shrink` 1 + *shrink times it (carry.h). */
FL_INLINE V fl_outer_before(const REAL *w, int add, const REAL *shrink) {
    return !add ? v_zero() : shrink ? v_fma(v_bcast(shrink), v_load(w), v_load(w)) : v_load(w);
}

/* w[row[j]][n] (+)= sum[j][n] where columns are of two matrices or end a row. */
FL_NOINLINE void fl_outer_ends(const fl_column *w, const ptrdiff_t *row, const REAL *sum, int add, int R, int N) {
    for (int j = 0; j < R; j++)
        for (int n = 0; n < N; n++, sum += VW) {
            REAL *to = w[n].w + row[j] * w[n].stride;
            const V before = add ? fl_load_units(to, 1, w[n].n) : v_zero();
            fl_store_units(to, v_add(before, v_load(sum)), 1, w[n].n);
        }
}

/* w[row[j]][n] (+)= sum_{r < count} d[r][j] s[r][n] for R rows and N columns: one chain each from zero, like fl_chain.
   s: (count, N, VW), d: (count, stride). */
FL_INLINE void fl_outer(const fl_column *w, const ptrdiff_t *row, const REAL *s, const REAL *d, ptrdiff_t stride, ptrdiff_t count, int add,
                        const REAL *shrink, int R, int N) {
    V acc[FL_ROWS * FL_TILE];
    REAL *to[FL_ROWS]; /* as far from the first row of each column as from that of the first one */
    int alike = 1;
    FL_UNROLL
    for (int j = 0; j < R * N; j++)
        acc[j] = v_zero();
    FL_UNROLL
    for (int j = 0; j < R; j++)
        to[j] = w[0].w + row[j] * w[0].stride;
    FL_UNROLL
    for (int n = 0; n < N; n++) {
        const ptrdiff_t apart = w[n].w - w[0].w;
        alike &= w[n].stride == w[0].stride && w[n].n == VW;
        FL_UNROLL
        for (int j = 0; j < R; j++)
            v_prefetch(to[j] + apart);
    }
    for (ptrdiff_t r = 0; r < count; r++, d += stride, s += N * VW) {
        V x[FL_TILE];
        FL_UNROLL
        for (int n = 0; n < N; n++)
            x[n] = v_load(s + n * VW);
        FL_UNROLL
        for (int j = 0; j < R; j++) {
            const V e = v_bcast(d + j);
            FL_UNROLL
            for (int n = 0; n < N; n++)
                acc[j * N + n] = v_fma(e, x[n], acc[j * N + n]);
        }
    }
    if (alike) {
        FL_UNROLL
        for (int n = 0; n < N; n++) {
            const ptrdiff_t apart = w[n].w - w[0].w;
            FL_UNROLL
            for (int j = 0; j < R; j++)
                v_store(to[j] + apart, v_add(fl_outer_before(to[j] + apart, add, shrink ? shrink + j : NULL), acc[j * N + n]));
        }
        return;
    }
    REAL sum[FL_ROWS * FL_TILE * VW];
    FL_UNROLL
    for (int j = 0; j < R * N; j++)
        v_store(sum + j * VW, acc[j]);
    fl_outer_ends(w, row, sum, add, R, N);
}

/* Errors that are to be gathered when these products have ended: N row-vectors of n rows, of which each tile asks for some. */
typedef struct fl_errors_wanted {
    const REAL *const *row;
    ptrdiff_t n, at, each; /* rows, the next one, rows for a tile */
    ptrdiff_t offset, N, apart;
} fl_errors_wanted;

static void fl_want_errors(fl_errors_wanted *w) {
    for (ptrdiff_t end = w->n - w->at < w->each ? w->n : w->at + w->each; w->at < end; w->at++)
        for (ptrdiff_t n = 0; n < w->N; n++)
            v_prefetch(w->row[w->at] + w->offset + n * w->apart);
}

/* The same for any number of rows, in tiles of about equal height. */
FL_INLINE void fl_outer_rows(const fl_column *w, const ptrdiff_t *row, ptrdiff_t rows, const REAL *s, const REAL *d, ptrdiff_t stride,
                             ptrdiff_t count, int add, const REAL *shrink, fl_errors_wanted *wanted, int N) {
    for (ptrdiff_t tiles = (rows + FL_ROWS - 1) / FL_ROWS, R; tiles > 0; tiles--, row += R, rows -= R, d += R, shrink += shrink ? R : 0) {
        R = (rows + tiles - 1) / tiles;
        if (wanted) fl_want_errors(wanted);
        switch (R) {
#if FL_ROWS > 3
        case 6: fl_outer(w, row, s, d, stride, count, add, shrink, 6, N); break;
        case 5: fl_outer(w, row, s, d, stride, count, add, shrink, 5, N); break;
        case 4: fl_outer(w, row, s, d, stride, count, add, shrink, 4, N); break;
#endif
        case 3: fl_outer(w, row, s, d, stride, count, add, shrink, 3, N); break;
        case 2: fl_outer(w, row, s, d, stride, count, add, shrink, 2, N); break;
        default: fl_outer(w, row, s, d, stride, count, add, shrink, 1, N);
        }
    }
}

FL_NOINLINE void fl_outer_columns(const fl_column *w, ptrdiff_t N, const ptrdiff_t *row, ptrdiff_t rows, const REAL *s, const REAL *d,
                                  ptrdiff_t stride, ptrdiff_t count, int add, const REAL *shrink, fl_errors_wanted *wanted) {
    switch (N) {
    case 4: fl_outer_rows(w, row, rows, s, d, stride, count, add, shrink, wanted, 4); break;
    case 3: fl_outer_rows(w, row, rows, s, d, stride, count, add, shrink, wanted, 3); break;
    case 2: fl_outer_rows(w, row, rows, s, d, stride, count, add, shrink, wanted, 2); break;
    default: fl_outer_rows(w, row, rows, s, d, stride, count, add, shrink, wanted, 1);
    }
}

/* sum[n] = sum_{r < count} d[r][n] for N row-vectors, in one chain each. */
FL_INLINE void fl_sum_rows(REAL *sum, const REAL *d, ptrdiff_t stride, ptrdiff_t count, int N) {
    V acc[FL_TILE];
    FL_UNROLL
    for (int n = 0; n < N; n++)
        acc[n] = v_zero();
    for (ptrdiff_t r = 0; r < count; r++, d += stride) {
        FL_UNROLL
        for (int n = 0; n < N; n++)
            acc[n] = v_add(acc[n], v_load(d + n * VW));
    }
    FL_UNROLL
    for (int n = 0; n < N; n++)
        v_store(sum + n * VW, acc[n]);
}

static void fl_sum_all_rows(REAL *sum, const REAL *d, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t N) {
    ptrdiff_t n = 0;
    for (; n + FL_TILE <= N; n += FL_TILE)
        fl_sum_rows(sum + n * VW, d + n * VW, stride, count, FL_TILE);
    for (; n < N; n++)
        fl_sum_rows(sum + n * VW, d + n * VW, stride, count, 1);
}

/* dp_i[v] = sum d_i c_v(t-1), f likewise, dp_o[v] = sum d_o c_v(t), over n rows, whose errors d lie so far apart. */
static void fl_back_peepholes(const fl_geometry *q, ptrdiff_t group, const REAL *const *acts, const REAL *d, ptrdiff_t apart, ptrdiff_t n, REAL *to) {
    const int present[3] = {q->i, q->f, q->o};
    for (int gate = 0; gate < 3; gate++) {
        if (!present[gate]) continue;
        for (ptrdiff_t v = 0; v < q->S; v++) {
            const ptrdiff_t kept = fl_act_cell(q, group, VW) + ((gate == 2 ? 2 : 1) * q->S + v) * VW;
            REAL *p = to + (gate * q->S + v) * VW;
            V sum = v_load(p);
            for (ptrdiff_t r = 0; r < n; r++)
                sum = v_fma(v_load(d + r * apart), v_load(acts[r] + kept), sum);
            v_store(p, sum);
        }
        d += VW;
    }
}
/* Errors of row-vectors that sources of columns [first, end) feed, and the rows of the parameters that they belong to, (groups, n, VW). */
typedef struct fl_feed {
    fl_errors errors;
    ptrdiff_t first, end;
    ptrdiff_t *row;
} fl_feed;

/* Where the errors of the last block of rows before `end` lie; returns how many. */
static ptrdiff_t fl_place_errors(const fl_back *b, const fl_geometry *q, int tail, ptrdiff_t end, const REAL **errors) {
    const ptrdiff_t n = end < FL_BLOCK ? end : FL_BLOCK;
    for (ptrdiff_t r = 0; r < n; r++) {
        REAL *acts = fl_back_errors(b, q, b->rows[end - n + r]);
        errors[r] = tail ? fl_back_tail_errors(q, acts) : acts;
    }
    return n;
}

static ptrdiff_t fl_clamped(ptrdiff_t k, ptrdiff_t n) { return k < 0 ? 0 : k < n ? k : n; }

/* Rows [first, end) are those whose h may be other than zero. At rest, as sequences begin, it adds nothing to a gradient (of finite errors). */
typedef struct fl_moved {
    ptrdiff_t first, end;
} fl_moved;

static fl_moved fl_moved_rows(const fl_back *b, const fl_geometry *q) {
    const ptrdiff_t B = b->batch->lanes, last = (b->batch->steps - 1) * B;
    const REAL *h = (const REAL *)b->state + b->l->state_h * B;
    fl_moved m = {0, b->n_rows};
    ptrdiff_t zeros = 0;
    while (zeros < B * q->P && h[zeros] == 0)
        zeros++;
    if (zeros < B * q->P) return m;
    if (!b->l->reverse)
        while (m.first < b->n_rows && b->rows[m.first] < B)
            m.first++;
    else if (!b->batch->lengths)
        while (m.end > 0 && b->rows[m.end - 1] >= last)
            m.end--;
    return m;
}

/* The gradient of the weights of a cell's groups [first, end) or, with `tail`, of those of its second product. */
static int fl_back_weights(const fl_back *b, const fl_back_view *v, int tail, ptrdiff_t first, ptrdiff_t end, fl_patience *patience) {
    const fl_cell *cell = tail ? &v->tail : &v->cell;
    const fl_geometry *q = &cell->q, *whole = &v->cell.q;
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t B = b->batch->lanes, apart = q->N * VW;
    const ptrdiff_t P = l->peepholes ? 3 * q->S * VW : 0, matrix[FL_KINDS] = {l->weight_ih, l->weight_hh, l->weight_gh};
    const ptrdiff_t bias[2] = {l->bias_ih, l->bias_hh};
    ptrdiff_t *row = (ptrdiff_t *)((char *)b->scratch + b->plan.net_rows) + (tail ? whole->groups * (whole->G + whole->G_h) * VW : 0), C = 0;
    fl_column *column = (fl_column *)(v->own + b->plan.columns);
    REAL *peep = (REAL *)((char *)b->scratch + b->plan.peepholes);
    REAL *d = (REAL *)(v->own + b->plan.block), *sources = (REAL *)(v->own + b->plan.sources), *sum = (REAL *)(v->own + b->plan.bias);
    const ptrdiff_t each = FL_BLOCK * FL_TILE * FL_ROWS / (((q->M + FL_TILE * VW - 1) / VW) * q->N * VW) + 1; /* rows wanted, of tiles */
    const REAL *errors[2][FL_BLOCK]; /* of the rows of this block and of the next one */
    int stop = 0, turn = 0;
    if (first == end) return 0;
    /* Columns of the inputs, then those of h and of gate activations: one feed if they all feed the same, and tiles would be more. */
    fl_feed feed[2] = {{{q->G, 0}, 0, 0, row}, {{q->G_h, q->shift}, 0, 0, row + q->groups * q->G * VW}};
    const fl_filled_list *list = (const fl_filled_list *)b->filled;
    const int sparse = !tail && list && list->blocks; /* the gradient of the input weights is made apart */
    const ptrdiff_t of_x = sparse ? 0 : fl_vectors(q->I, VW), of_h = fl_vectors(fl_sources(q, FL_H), VW) + fl_vectors(q->A, VW);
    const int alone = fl_vectors(of_x, FL_TILE) + fl_vectors(of_h, FL_TILE) == fl_vectors(of_x + of_h, FL_TILE); /* no tile more */
    const int feeds = q->G == q->G_h && q->shift == 0 && !(alone && of_h) ? 1 : 2;
    for (int kind = 0; kind < FL_KINDS; kind++) {
        for (ptrdiff_t k = 0, width = fl_sources(q, kind); k < width && !(sparse && kind == FL_X); k += VW)
            column[C++] = (fl_column){(REAL *)b->gradient + matrix[kind] + k, width, width - k < VW ? width - k : VW, kind, k};
        if (kind == FL_X) feed[1].first = C;
    }
    feed[0].end = feeds == 1 ? C : feed[1].first;
    feed[1].end = C;
    for (int f = 0; f < feeds; f++)
        for (ptrdiff_t group = first; group < end; group++)
            for (ptrdiff_t n = 0; n < feed[f].errors.n; n++)
                fl_param_rows(l, q, group, n, feed[f].errors.from, feed[f].row + (group * feed[f].errors.n + n) * VW);
    const fl_moved moved = of_h ? fl_moved_rows(b, q) : (fl_moved){0, b->n_rows};
    if (b->add_gradient) fl_copy_peepholes(l, q, (REAL *)b->gradient, peep, first, end, 0);
    else fl_zero(peep + first * P, (end - first) * P);
    /* From the last block of rows to the first: so spans of steps, the last one first, make the same sum. */
    ptrdiff_t at = b->n_rows, more = fl_place_errors(b, whole, tail, at, errors[0]);
    while (at > 0 && !stop) {
        const int add = at < b->n_rows || b->add_gradient;
        const ptrdiff_t n = more;
        const REAL *const *from = errors[turn];
        at -= n;
        turn ^= 1;
        more = fl_place_errors(b, whole, tail, at, errors[turn]);
        for (ptrdiff_t r = 0; r < n; r++) { /* the sources of a tile's columns side by side: no two lines fight for a place in L1 */
            const ptrdiff_t row = b->rows[at + r], t = B == 1 ? row : row / B, lane = row - t * B;
            const REAL *s[FL_KINDS] = {NULL, NULL, NULL};
            s[FL_X] = tail ? fl_back_errors(b, whole, row) + fl_act_tail(whole, VW) : fl_back_source(b, q, t, lane, FL_X);
            if (fl_sources(q, FL_H)) s[FL_H] = fl_back_source(b, q, t, lane, FL_H);
            if (q->A) s[FL_A] = fl_back_source(b, q, t, lane, FL_A);
            for (int f = 0; f < feeds; f++)
                for (ptrdiff_t c = feed[f].first; c < feed[f].end; c += FL_TILE) {
                    const ptrdiff_t N = feed[f].end - c < FL_TILE ? feed[f].end - c : FL_TILE;
                    REAL *to = sources + (c * FL_BLOCK + r * N) * VW;
                    for (ptrdiff_t j = 0; j < N; j++)
                        v_store(to + j * VW, fl_load_units(s[column[c + j].kind] + column[c + j].from, 1, column[c + j].n));
                }
        }
        const ptrdiff_t low = fl_clamped(moved.first - at, n), high = fl_clamped(moved.end - at, n);
        for (ptrdiff_t group = first; group < end && !stop; group++) {
            const ptrdiff_t lanes = q->J - group * VW;
            const int last = group + 1 == end;
            fl_errors_wanted wanted = {errors[last ? turn : !turn], last ? more : n, 0, each, fl_act_net(q, last ? first : group + 1, VW), q->N, q->by_vector * VW};
            for (ptrdiff_t r = 0; r < n; r++)
                for (ptrdiff_t m = 0; m < q->N; m++)
                    v_store(d + r * apart + m * VW, v_load(from[r] + fl_act_net(q, group, VW) + m * q->by_vector * VW));
            for (ptrdiff_t r = 0; P && r < n; r++) /* for the peepholes, after the products */
                for (ptrdiff_t v = q->S; v < 3 * q->S; v++)
                    v_prefetch(from[r] + fl_act_cell(q, group, VW) + v * VW);
            if (q->biases) fl_sum_all_rows(sum, d, apart, n, q->N);
            for (ptrdiff_t k = 0; k < q->biases; k++) {
                const fl_feed *f = feed + (k && q->bias_shift);
                REAL *w = (REAL *)b->gradient + bias[k];
                for (ptrdiff_t j = 0; j < q->G * VW; j++) {
                    const ptrdiff_t to = f->row[group * q->G * VW + j];
                    if (to >= 0) w[to] = (add ? w[to] : 0) + sum[f->errors.from * VW + j];
                }
            }
            /* Errors of all row-vectors lie side by side, but for padding between them. */
            for (int f = 0; f < feeds; f++)
                for (ptrdiff_t c = feed[f].first, all = feed[f].errors.n * VW; c < feed[f].end; c += FL_TILE) {
                    const ptrdiff_t N = feed[f].end - c < FL_TILE ? feed[f].end - c : FL_TILE;
                    const int of_h_alone = column[c].kind == FL_H && column[c + N - 1].kind == FL_H;
                    const ptrdiff_t from_row = of_h_alone ? low : 0, count = of_h_alone ? high - low : n;
                    for (ptrdiff_t j = 0; j < all && (count || !add); j += lanes < VW ? VW : all)
                        fl_outer_columns(column + c, N, feed[f].row + group * all + j, lanes < VW ? lanes : all, sources + (c * FL_BLOCK + from_row * N) * VW,
                                         d + from_row * apart + feed[f].errors.from * VW + j, apart, count, add, NULL, &wanted);
                }
            if (P) fl_back_peepholes(q, group, from, d, apart, n, peep + group * P);
            stop = fl_interrupted(patience, q->panel * n);
        }
    }
    if (P) fl_copy_peepholes(l, q, (REAL *)b->gradient, peep, first, end, 1);
    for (ptrdiff_t group = first; sparse && group < end && !stop; group++) {
        fl_sparse_gradient(b, q, group, (REAL *)(v->own + b->plan.sparse));
        stop = fl_interrupted(patience, (list->n + 2 * q->I) * q->G * VW);
    }
    return stop;
}

#include "carry.h"

/* Weights whose gradient is made before more is done with it: a quarter of a second-level cache. */
enum { FL_TURN_WEIGHTS = 65536 };

/* One phase, one thread's share of it; returns whether to stop. */
static int fl_backward(const fl_back *b, int phase, int part, int parts, fastlstm_poll poll, void *context) {
    fl_patience patience = {poll, context, 0, fl_fpu_enter()};
    fl_back_view v;
    int stop = 0;
    fl_back_open(&v, b, part);
    const fl_geometry *q = &v.cell.q;
    const int recurrent = b->l->kind != FASTLSTM_LINEAR, truncated = b->carry && b->carry->truncated;
    if (phase == 0) {
        if (b->filled && part == 0) fl_find_filled(b, q);
        const REAL *w = v.cell.w + q->biases * q->G * VW;
        if (b->dx) fl_transpose(q, w, &v.from_x, &v.by_x, part, parts);
        if (recurrent && !truncated) fl_transpose(q, w + q->I * q->G * VW, &v.from_h, &v.by_h, part, parts);
        if (q->has_tail) fl_transpose(&v.tail.q, v.tail.w, &v.from_tail, &v.by_tail, part, parts);
    } else if (phase == 1) {
        const int shares = parts < b->batch->lanes ? parts : (int)b->batch->lanes;
        if (b->carry && part < shares) fl_carry_terms(b, &v, part, shares);
        if (!recurrent) stop = fl_back_linear(b, &v, part, parts);
        else if (part < shares && !truncated) stop = fl_back_time(b, &v, part, shares, &patience);
    } else {
        const ptrdiff_t first = q->groups * part / parts, end = q->groups * (part + 1) / parts;
        stop = b->dx && fl_back_inputs(b, &v, part, parts, &patience);
        const ptrdiff_t turn = b->carry || b->optimizer ? (FL_TURN_WEIGHTS / q->panel > 1 ? FL_TURN_WEIGHTS / q->panel : 1) : end - first;
        for (ptrdiff_t group = first, to; group < end && !stop; group = to) {
            to = end - group < turn ? end : group + turn;
            if (b->n_rows) stop = fl_back_weights(b, &v, 0, group, to, &patience);
            if (b->carry) fl_carry_traces(b, &v, group, to);
            if (b->optimizer) fl_update_groups(b->optimizer, b->l, q, group, to, (REAL *)b->params, b->gradient, (REAL *)b->packed);
        }
        if (q->has_tail && !stop) stop = fl_back_weights(b, &v, 1, v.tail.q.groups * part / parts, v.tail.q.groups * (part + 1) / parts, &patience);
    }
    fl_fpu_leave(patience.mode);
    return stop;
}

#endif
