/* What goes from chunk to chunk beside the state: eligibility traces, in matrix products.

   traces.h has the truncated gradient of 1997 step by step: E(t) = mu(t) E(t-1) + u(t) s(t)^T, G += e(t) E(t). With weights that
   stand still for steps 1..K, both sums over time can be turned around. Run backwards, without a division anywhere,

       lambda(t) = e(t) + mu(t+1) lambda(t+1)        q(t) = mu(t+1) q(t+1), q(K) = 1

   and then, with E as it was when the chunk began,

       G = mu(1) lambda(1) E + sum_t lambda(t) u(t) s(t)^T        E(K) = mu(1) q(1) E + sum_t q(t) u(t) s(t)^T

   for each cell's row of E: two products over all steps, and E is read and written once a chunk (blocks: Schmidhuber 1992; for
   spiking cells: HYPR 2025). mu(1) q(1) is kept less 1, so that a carousel that hardly decays loses nothing to rounding.

   Carried backpropagation takes lambda and the errors of all net inputs from backpropagation in full inside the chunk, and
   mu(1) lambda(1) is its dL/dc before the first step: what truncated backpropagation throws away, but for the constant error
   carousel's part.

   Traces of a lane are (traced, H, width), traced in the order i, f, g of those that exist, width: inputs, h, gate
   activations, 1 if there is a bias; then of peepholes (i and f, H, S). No register width shapes them. */
#ifndef FL_CARRY_H
#define FL_CARRY_H

/* Where the terms of a step's row-vector lie: those of a trace kind's slot are consecutive blocks. */
static ptrdiff_t fl_carry_term(const fl_geometry *q, ptrdiff_t row, ptrdiff_t kind, ptrdiff_t slot) {
    return ((row * q->traced + kind) * q->S + slot) * q->groups * VW;
}

/* One group of one lane, from the last step to the first: terms and shrink, and with `truncated` the errors of net inputs for
   the weights, on the tape, and for dx, in errors_x, and dL/dc before the first step. */
static void fl_carry_group(const fl_back *b, const fl_back_view *v, ptrdiff_t lane, ptrdiff_t group, REAL *factors) {
    const fl_cell *cell = &v->cell;
    const fl_geometry *q = &cell->q;
    const fl_carry *c = b->carry;
    const ptrdiff_t B = b->batch->lanes, K = c->batch->steps, S = q->S, u = group * VW, n = q->J - u;
    REAL *keep = factors + q->factors, *shrink = (REAL *)c->shrink + lane * S * q->groups * VW + u; /* keep: S each of q, lambda */
    REAL *dc = (REAL *)b->dstate + b->l->state_c * B + lane * q->H + u * S;
    const V one = v_set1(1), zero = v_zero();
    for (ptrdiff_t s = 0; s < S; s++) {
        v_store(keep + s * VW, one);
        v_store(keep + (S + s) * VW, zero);
        v_store(shrink + s * q->groups * VW, zero);
    }
    for (ptrdiff_t t = K - 1; t >= 0; t--) {
        const ptrdiff_t row = t * B + lane;
        const int begins = c->batch->reset && c->batch->reset[row], known = c->truncated && c->error[row], error = known && (c->error[row] & 1);
        REAL *acts = fl_back_errors(b, q, row), *d = acts + fl_act_net(q, group, VW);
        fl_lstm_factors(cell, group, acts, error ? (const REAL *)b->dy + t * b->dy_step + lane * b->dy_lane : NULL, factors);
        if (known && b->errors_x) {
            REAL *now = (REAL *)b->errors_x + row * q->groups * q->N * VW + fl_act_net(q, group, VW);
            for (ptrdiff_t k = 0; !error && k < q->N; k++)
                v_store(now + k * VW, zero);
            if (error) fl_lstm_group_errors(q, factors, now);
        }
        V d_i = zero, d_f = zero;
        for (ptrdiff_t s = 0; s < S; s++) {
            const V mu = begins ? zero : v_load(factors + s * VW), left = v_load(keep + s * VW);
            const V by[3] = {v_load(factors + (3 * S + s) * VW), v_load(factors + (4 * S + s) * VW), v_load(factors + (2 * S + s) * VW)};
            const int exists[3] = {q->i, q->f, 1};
            V lambda = v_load(keep + (S + s) * VW);
            for (ptrdiff_t j = 0, kind = 0; j < 3; j++)
                if (exists[j])
                    v_store((REAL *)c->terms + fl_carry_term(q, lane * K + t, kind++, s) + u, v_mul(left, by[j]));
            if (known) {
                if (error) lambda = v_add(lambda, v_load(factors + (S + s) * VW));
                d_i = v_fma(lambda, by[0], d_i);
                d_f = v_fma(lambda, by[1], d_f);
                v_store(d + (q->gates + s) * VW, v_mul(lambda, by[2]));
            }
            v_store(keep + s * VW, v_mul(mu, left));
            v_store(keep + (S + s) * VW, known ? v_mul(mu, lambda) : zero); /* what is not a number stays before its reset */
            REAL *less = shrink + s * q->groups * VW; /* mu p - 1 = mu (p - 1) + (mu - 1) */
            v_store(less, v_fma(mu, v_load(less), v_sub(mu, one)));
        }
        if (!known) continue;
        if (q->i) v_store(d, d_i), d += VW;
        if (q->f) v_store(d, d_f), d += VW;
        if (q->o) v_store(d, error ? v_load(factors + (6 * S + 2) * VW) : zero);
    }
    for (ptrdiff_t s = 0; c->truncated && s < S; s++)
        fl_store_units(dc + s, v_load(keep + (S + s) * VW), S, n);
}

static void fl_carry_terms(const fl_back *b, const fl_back_view *v, int part, int parts) {
    const fl_share share = {part, parts, b->order, NULL, NULL};
    fl_work work = {.lanes = fl_share_lanes(b->batch->lanes, part, parts), .lane = (ptrdiff_t *)(v->own + b->plan.lane),
                    .start = (ptrdiff_t *)(v->own + b->plan.start)};
    fl_deal_lanes(b->batch, &share, &work);
    for (ptrdiff_t k = 0; k < work.lanes; k++)
        for (ptrdiff_t group = 0; group < v->cell.q.groups; group++)
            fl_carry_group(b, v, work.lane[k], group, (REAL *)(v->own + b->plan.factors));
}

/* to += scale from */
static void fl_carry_add(REAL *to, const REAL *from, ptrdiff_t n, REAL scale) {
    const V x = v_set1(scale);
    for (ptrdiff_t k = 0; k < n; k += VW)
        fl_store_units(to + k, v_fma(x, fl_load_units(from + k, 1, n - k), fl_load_units(to + k, 1, n - k)), 1, n - k);
}

/* The traces' part of the gradient of a cell's net inputs: dL/dc before the first step times dc/dw. */
static void fl_carry_gradient(const fl_back *b, const fl_geometry *q, ptrdiff_t lane, ptrdiff_t kind, ptrdiff_t unit, const REAL *E) {
    const fastlstm_layer *l = b->l;
    const ptrdiff_t gates = q->i + q->f, row = kind < gates ? kind * q->J + unit / q->S : gates * q->J + unit;
    const REAL dc = ((const REAL *)b->dstate)[l->state_c * b->batch->lanes + lane * q->H + unit];
    REAL *g = (REAL *)b->gradient;
    fl_carry_add(g + l->weight_ih + row * q->I, E, q->I, dc);
    fl_carry_add(g + l->weight_hh + row * q->P, E + q->I, q->P, dc);
    if (q->A) fl_carry_add(g + l->weight_gh + row * q->A, E + q->I + q->P, q->A, dc);
    if (q->biases > 0) g[l->bias_ih + row] += dc * E[q->I + q->P + q->A];
    if (q->biases > 1) g[l->bias_hh + row] += dc * E[q->I + q->P + q->A];
}

/* The first step of the lane's last episode: no trace goes past it, whatever it was. */
static ptrdiff_t fl_carry_start(const fl_carry *c, ptrdiff_t lane) {
    ptrdiff_t t = c->batch->reset ? c->batch->steps - 1 : 0;
    while (t > 0 && !c->batch->reset[t * c->batch->lanes + lane])
        t--;
    return t;
}

/* Peepholes of blocks [first, end): few, and one at a time. */
static void fl_carry_peepholes(const fl_back *b, const fl_geometry *q, ptrdiff_t lane, REAL *traces, ptrdiff_t first, ptrdiff_t end) {
    const fastlstm_layer *l = b->l;
    const fl_carry *c = b->carry;
    const ptrdiff_t B = b->batch->lanes, K = c->batch->steps, S = q->S;
    const REAL *shrink = (const REAL *)c->shrink + lane * S * q->groups * VW, *dc = (const REAL *)b->dstate + l->state_c * B + lane * q->H;
    const ptrdiff_t start = fl_carry_start(c, lane);
    for (ptrdiff_t gate = 0; gate < q->i + q->f; gate++)
        for (ptrdiff_t unit = first * S; unit < end * S; unit++) {
            const ptrdiff_t j = unit / S, v = unit % S;
            for (ptrdiff_t w = 0; w < S; w++) {
                REAL *E = traces + ((q->i ? gate : 1) * q->H + unit) * S + w, sum = 0;
                if (c->error[lane]) ((REAL *)b->gradient)[l->weight_peephole + gate * q->H + j * S + w] += dc[unit] * *E;
                for (ptrdiff_t t = start; t < K; t++)
                    sum += ((const REAL *)c->terms)[fl_carry_term(q, lane * K + t, gate, v) + j] *
                           (fl_back_errors(b, q, t * B + lane) + fl_act_cell(q, j / VW, VW))[(S + w) * VW + j % VW];
                *E = start > 0 ? sum : *E + (shrink[v * q->groups * VW + j] * *E + sum);
            }
        }
}

/* Sources [from, from + n) of a step, in the order of a trace's row. */
static void fl_carry_sources(const fl_back *b, const fl_geometry *q, ptrdiff_t t, ptrdiff_t lane, ptrdiff_t from, ptrdiff_t n, REAL *to) {
    const ptrdiff_t count[FL_KINDS] = {q->I, q->P, q->A}, end = from + n;
    ptrdiff_t at = 0;
    for (int kind = 0; kind < FL_KINDS; at += count[kind++]) {
        const ptrdiff_t low = from > at ? from : at, high = end < at + count[kind] ? end : at + count[kind];
        if (low < high) fl_copy(to + low - from, fl_back_source(b, q, t, lane, kind) + low - at, high - low);
    }
    for (ptrdiff_t k = from > at ? from : at; k < end; k++)
        to[k - from] = k == at && q->biases > 0 ? 1 : 0;
}

/* Of groups [from_group, to_group), once their weights' gradient is made: the traces' part of it, and the traces at the end of
   the chunk. */
static void fl_carry_traces(const fl_back *b, const fl_back_view *v, ptrdiff_t from_group, ptrdiff_t to_group) {
    const fl_geometry *q = &v->cell.q;
    const fl_carry *c = b->carry;
    const ptrdiff_t B = b->batch->lanes, K = c->batch->steps, S = q->S, width = fl_carry_width(q, (ptrdiff_t)sizeof(REAL));
    const ptrdiff_t first = from_group * VW, to = to_group * VW, end = to < q->J ? to : q->J;
    const ptrdiff_t lane_size = fl_carry_size(b->l, q, (ptrdiff_t)sizeof(REAL)), stride = fl_carry_term(q, 1, 0, 0);
    REAL *sources = (REAL *)(v->own + b->plan.sources);
    /* Where fl_back_weights had these groups' rows: other threads are at theirs. */
    ptrdiff_t *row = (ptrdiff_t *)((char *)b->scratch + b->plan.net_rows) + from_group * q->G * VW;
    fl_back whole = *b;
    whole.batch = c->batch;
    for (ptrdiff_t j = first; j < end; j++)
        row[j - first] = j * S;
    for (ptrdiff_t lane = 0; lane < B; lane++) {
        REAL *E = (REAL *)c->traces + lane * lane_size;
        const REAL *shrink = (const REAL *)c->shrink + lane * S * q->groups * VW;
        const ptrdiff_t start = fl_carry_start(c, lane);
        if (c->error[lane])
            for (ptrdiff_t kind = 0; kind < q->traced; kind++)
                for (ptrdiff_t unit = first * S; unit < end * S; unit++)
                    fl_carry_gradient(b, q, lane, kind, unit, E + (kind * q->H + unit) * width);
        for (ptrdiff_t at = start; at < K; at += FL_BLOCK) {
            const ptrdiff_t n = K - at < FL_BLOCK ? K - at : FL_BLOCK;
            for (ptrdiff_t k = 0; k < width; k += FL_TILE * VW) {
                const ptrdiff_t N = width - k < FL_TILE * VW ? (width - k) / VW : FL_TILE;
                fl_column column[FL_TILE];
                for (ptrdiff_t t = 0; t < n; t++)
                    fl_carry_sources(&whole, q, at + t, lane, k, N * VW, sources + t * N * VW);
                for (ptrdiff_t kind = 0; kind < q->traced; kind++)
                    for (ptrdiff_t s = 0; s < S; s++) {
                        for (ptrdiff_t j = 0; j < N; j++)
                            column[j] = (fl_column){E + (kind * q->H + s) * width + k + j * VW, width, VW, 0, 0};
                        fl_outer_columns(column, N, row, end - first, sources,
                                         (const REAL *)c->terms + fl_carry_term(q, lane * K + at, kind, s) + first, stride, n, at == 0 || at > start,
                                         at ? NULL : shrink + s * q->groups * VW + first, NULL);
                    }
            }
        }
        if (b->l->peepholes) fl_carry_peepholes(b, q, lane, E + q->traced * q->H * width, first, end);
    }
}

#endif
