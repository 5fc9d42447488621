/* Truncated learning of every engine of this machine against a naive reference in double; the reference against
   differences of its own losses; the bits, which no cut into calls and no instruction set with fma may change. */
#include "reference.h"

/* ---- The reference: truncated learning (csrc/traces.h, csrc/lstm.h), densely and one parameter at a time ---- */

typedef struct lesson {
    task k; /* no lengths, LANES lanes at most */
    int loss, update;
    ptrdiff_t chunk;
    double lr, momentum, decay;
    double *target; /* (T, B, O), NaN where there is none; CROSS_ENTROPY: (T, B) classes, -1 where there is none */
} lesson;

typedef struct school {
    const lesson *u;
    double *w, *velocity, *gradient, *state; /* canonical */
    double *trace[LAYERS], *s[LAYERS], *y[LAYERS], *dy[LAYERS]; /* trace in the canonical order; (B, M), (B, H), (B, H) */
    moment keep[LAYERS][LANES];
    int error[LANES], has_error;
    ptrdiff_t pending;
    double lr, loss_sum;
    int64_t loss_steps;
} school;

static ptrdiff_t traced(const shape *q) { return 1 + q->i + q->f; }

/* Of one layer: dc_u / dw[row of kind n = g, i, f][k], then of peepholes dc_v / dp[gate][w] for the cells v, w of block j. */
static ptrdiff_t trace_at(const shape *q, ptrdiff_t b, ptrdiff_t u, ptrdiff_t n, ptrdiff_t k) {
    return ((b * q->H + u) * traced(q) + n) * q->M + k;
}
static ptrdiff_t peephole_trace_at(const shape *q, ptrdiff_t B, ptrdiff_t b, ptrdiff_t gate, ptrdiff_t v, ptrdiff_t w, ptrdiff_t j) {
    return B * q->H * traced(q) * q->M + (((b * 2 + gate) * q->S + v) * q->S + w) * q->J + j;
}
static ptrdiff_t trace_size(const shape *q, ptrdiff_t B) {
    if (q->l->kind == FASTLSTM_LINEAR) return 0;
    return B * q->H * traced(q) * q->M + (q->l->peepholes ? B * 2 * q->S * q->H : 0);
}

static school school_new(const lesson *u, const double *w) {
    const net *m = &u->k.m;
    school c = {.u = u, .lr = u->lr};
    c.w = memory_zeros(m->params);
    c.velocity = memory_zeros(m->params);
    c.gradient = memory_zeros(m->params);
    c.state = memory_zeros(m->state * u->k.B);
    for (ptrdiff_t j = 0; j < m->params; j++) {
        c.w[j] = w[j];
        if (w[j] != w[j]) c.velocity[j] = c.gradient[j] = NAN; /* unused */
    }
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        c.trace[d] = memory_zeros(trace_size(&q, u->k.B));
        c.s[d] = memory_zeros(u->k.B * q.M);
        c.y[d] = memory_zeros(u->k.B * q.H);
        c.dy[d] = memory_zeros(u->k.B * q.H);
        for (ptrdiff_t b = 0; b < u->k.B; b++)
            c.keep[d][b] = moment_new(&q);
    }
    return c;
}

static void school_apply(school *c) {
    if (c->u->update && c->has_error) {
        for (ptrdiff_t j = 0; j < c->u->k.m.params; j++) {
            c->velocity[j] = c->u->momentum * c->velocity[j] + c->gradient[j];
            c->w[j] -= c->lr * c->velocity[j];
            c->gradient[j] *= 0;
        }
        c->lr *= c->u->decay;
    }
    c->has_error = 0;
    c->pending = 0;
}

/* With chunk 0 an episode's end is where its gradient is applied. */
static void school_reset(school *c, const uint8_t *mask) {
    const ptrdiff_t B = c->u->k.B;
    int any = 0;
    for (ptrdiff_t b = 0; b < B; b++)
        any |= mask[b];
    if (any && c->u->chunk == 0) school_apply(c);
    for (ptrdiff_t d = 0; d < c->u->k.m.n; d++) {
        const shape q = shape_of(c->u->k.m.l + d);
        for (ptrdiff_t b = 0; b < B && q.l->kind == FASTLSTM_LSTM; b++) {
            if (!mask[b]) continue;
            memset(c->state + q.l->state_h * B + b * q.H, 0, (size_t)q.H * sizeof(double));
            memset(c->state + q.l->state_c * B + b * q.H, 0, (size_t)q.H * sizeof(double));
            memset(c->state + q.l->state_a * B + b * q.A, 0, (size_t)q.A * sizeof(double));
            for (ptrdiff_t j = 0; j < q.H * traced(&q) * q.M; j++)
                c->trace[d][trace_at(&q, b, 0, 0, 0) + j] = 0;
            for (ptrdiff_t j = 0; q.l->peepholes && j < 2 * q.S * q.H; j++)
                c->trace[d][peephole_trace_at(&q, B, b, 0, 0, 0, 0) + j] = 0;
        }
    }
}

/* Loss of a step, dL/dy into dy, error[b]: whether lane b has a target; returns how many targets there are. */
static ptrdiff_t ref_loss(int loss, ptrdiff_t B, ptrdiff_t O, const double *y, const double *target, double *dy, int *error, double *sum) {
    ptrdiff_t n = 0;
    *sum = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        error[b] = 0;
        for (ptrdiff_t j = b * O; j < (b + 1) * O && loss != FASTLSTM_CROSS_ENTROPY; j++)
            if (target[j] == target[j]) n++, error[b] = 1;
        if (loss == FASTLSTM_CROSS_ENTROPY) n += error[b] = target[b] >= 0;
    }
    for (ptrdiff_t j = 0; j < B * O; j++) {
        const ptrdiff_t b = j / O;
        const double t = loss == FASTLSTM_CROSS_ENTROPY ? (target[b] == (double)(j % O)) : target[j], d = y[j] - t;
        dy[j] = 0;
        if (!error[b] || t != t) continue;
        if (loss == FASTLSTM_CROSS_ENTROPY) {
            double total = 0;
            for (ptrdiff_t k = b * O; k < (b + 1) * O; k++)
                total += exp(y[k] - y[j]);
            dy[j] = (1 / total - t) / (double)n;
            *sum += t * log(total) / (double)n;
        } else if (loss == FASTLSTM_MSE) {
            dy[j] = 2 * d / (double)n;
            *sum += d * d / (double)n;
        } else if (loss == FASTLSTM_SSE) {
            dy[j] = d;
            *sum += d * d / 2;
        } else {
            dy[j] = d / (y[j] * (1 - y[j])) / (double)n;
            *sum -= (t * log(y[j]) + (1 - t) * log(1 - y[j])) / (double)n;
        }
    }
    return n;
}

/* Traces, gradient and input error dx (B, I) or NULL of one layer and lane; error: 0 without a target. */
static void ref_lesson(school *c, ptrdiff_t d, ptrdiff_t b, int error, double *dx) {
    const shape q = shape_of(c->u->k.m.l + d);
    const fastlstm_layer *l = q.l;
    const ptrdiff_t B = c->u->k.B;
    const double *s = c->s[d] + b * q.M, *dh = c->dy[d] + b * q.H, *now = c->state + l->state_c * B + b * q.H;
    const moment *at = &c->keep[d][b];
    double *net_error = memory_zeros(q.rows);
    for (ptrdiff_t u = 0; u < q.H; u++) {
        const ptrdiff_t j = u / q.S, v = u % q.S;
        if (l->kind == FASTLSTM_LINEAR) {
            net_error[u] = dh[u] * slope(l->output_activation, c->y[d][b * q.H + u]);
            for (ptrdiff_t k = 0; k < q.M && error; k++)
                c->gradient[weight_at(&q, u, k)] += net_error[u] * s[k];
            continue;
        }
        /* c(t) = f c(t-1) + i g: its derivatives by c(t-1) and by the net inputs of g, i, f; none where it is clipped */
        const double on = fabs(now[u]) < l->clip, before = at->before[u], mu = on * at->f[j];
        const double by[3] = {on * at->i[j] * slope(l->input_activation, at->g[u]),
                              on * (at->g[u] - q.coupled * before) * slope(l->gate_activation, at->i[j]),
                              on * before * slope(l->gate_activation, at->f[j])};
        const int kind[3] = {0, q.i ? 1 : -1, q.f ? 1 + q.i : -1};
        const ptrdiff_t row[3] = {q.row_g + u, j, q.row_f + j};
        const double e = error ? dh[u] * at->o[j] * slope(l->output_activation, at->hc[u]) : 0;
        for (int n = 0; n < 3; n++) {
            if (kind[n] < 0) continue;
            for (ptrdiff_t k = 0; k < q.M; k++) { /* dc(t)/dw = mu dc(t-1)/dw + dc/dnet s_k */
                double *E = c->trace[d] + trace_at(&q, b, u, kind[n], k);
                *E = mu * *E + by[n] * s[k];
                c->gradient[weight_at(&q, row[n], k)] += e * *E;
            }
            for (ptrdiff_t w = 0; n && l->peepholes && w < q.S; w++) {
                double *Q = c->trace[d] + peephole_trace_at(&q, B, b, n - 1, v, w, j);
                *Q = mu * *Q + by[n] * at->before[j * q.S + w];
                c->gradient[l->weight_peephole + (n == 2 ? q.i : 0) * q.H + j * q.S + w] += e * *Q;
            }
            net_error[row[n]] += e * by[n];
        }
        if (q.o && error) net_error[q.row_o + j] += dh[u] * at->hc[u] * slope(l->gate_activation, at->o[j]);
    }
    for (ptrdiff_t j = 0; j < q.J && q.o && error; j++) { /* the output gate has no past */
        for (ptrdiff_t k = 0; k < q.M; k++)
            c->gradient[weight_at(&q, q.row_o + j, k)] += net_error[q.row_o + j] * s[k];
        for (ptrdiff_t u = j * q.S; l->peepholes && u < (j + 1) * q.S; u++)
            c->gradient[l->weight_peephole + (q.i + q.f) * q.H + u] += net_error[q.row_o + j] * now[u];
    }
    for (ptrdiff_t k = 0; k < q.I && dx; k++) {
        dx[k] = 0;
        for (ptrdiff_t r = 0; r < q.rows; r++)
            dx[k] += c->w[l->weight_ih + r * q.I + k] * net_error[r];
    }
}

/* Step t; returns the outputs (B, O). */
static const double *school_step(school *c, ptrdiff_t t) {
    const lesson *u = c->u;
    const net *m = &u->k.m;
    const ptrdiff_t B = u->k.B, O = width_out(m), last = m->n - 1, wide = u->loss == FASTLSTM_CROSS_ENTROPY ? 1 : O;
    const double *x = u->k.x + t * B * width_in(m);
    const int mark = memory_mark();
    ptrdiff_t n = 0;
    double loss;
    if (u->k.reset) school_reset(c, u->k.reset + t * B);
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        for (ptrdiff_t b = 0; b < B; b++) {
            double *h = c->state + q.l->state_h * B + b * q.H, *a = c->state + q.l->state_a * B + b * q.A;
            double *s = c->s[d] + b * q.M, *y = c->y[d] + b * q.H;
            gather_sources(&q, s, x + b * q.I, h, a);
            if (q.l->kind == FASTLSTM_LSTM) ref_cell(&q, c->w, s, h, c->state + q.l->state_c * B + b * q.H, a, &c->keep[d][b]);
            for (ptrdiff_t j = 0; j < q.H; j++)
                y[j] = q.l->kind == FASTLSTM_LSTM ? h[j] : activate(q.l->output_activation, net_input(&q, c->w, s, j));
        }
        x = c->y[d];
    }
    if (u->loss != FASTLSTM_NO_LOSS) n = ref_loss(u->loss, B, O, c->y[last], u->target + t * B * wide, c->dy[last], c->error, &loss);
    if (n) {
        c->loss_sum += loss;
        c->loss_steps++;
        c->has_error = 1;
    }
    for (ptrdiff_t d = last; d >= 0; d--)
        for (ptrdiff_t b = 0; b < B; b++)
            ref_lesson(c, d, b, n && c->error[b], d ? c->dy[d - 1] + b * m->l[d].input_size : NULL);
    c->pending++;
    if (u->update && u->chunk > 0 && c->pending >= u->chunk) school_apply(c);
    memory_release(mark);
    return c->y[last];
}

/* Where nothing recurrent flows but the cell states, the truncated gradient is the gradient: the reference against
   differences of its own losses, with weights of h, gate activations and peepholes zero. */
static void check_reference(lesson *u) {
    const int mark = memory_mark();
    const double step = 1e-5;
    for (ptrdiff_t d = 0; d < u->k.m.n; d++) {
        const shape q = shape_of(u->k.m.l + d);
        if (q.l->kind == FASTLSTM_LINEAR) continue;
        for (ptrdiff_t r = 0; r < q.rows; r++)
            for (ptrdiff_t k = q.biases + q.I; k < q.M; k++)
                u->k.w[weight_at(&q, r, k)] = 0;
        for (ptrdiff_t j = 0; q.l->peepholes && j < q.gates * q.H; j++)
            u->k.w[q.l->weight_peephole + j] = 0;
    }
    school c = school_new(u, u->k.w);
    for (ptrdiff_t t = 0; t < u->k.T; t++)
        school_step(&c, t);
    for (ptrdiff_t j = 0; j < u->k.m.params; j++) {
        const double w = u->k.w[j];
        double loss[2];
        if (w != w) continue;
        for (int side = 0; side < 2; side++) {
            const int inner = memory_mark();
            u->k.w[j] = w + (side ? step : -step);
            school other = school_new(u, u->k.w);
            for (ptrdiff_t t = 0; t < u->k.T; t++)
                school_step(&other, t);
            loss[side] = other.loss_sum;
            memory_release(inner);
        }
        u->k.w[j] = w;
        CHECK(fabs((loss[1] - loss[0]) / (2 * step) - c.gradient[j]) <= 1e-7 * (1 + fabs(c.gradient[j])));
    }
    memory_release(mark);
}

/* ---- The library's learner ---- */

typedef struct pupil {
    fastlstm_learner m;
    const lesson *u;
    char *y; /* (T, B, O) */
} pupil;

static pupil pupil_new(const lesson *u, const fastlstm_engine *e, const double *w) {
    const net *m = &u->k.m;
    const ptrdiff_t B = u->k.B, size = fastlstm_packed_size(e, m->l, m->n), real = fastlstm_engine_bits(e) / 8;
    pupil p = {.u = u, .m = {.engine = e, .layers = m->l, .n_layers = m->n, .lanes = B, .loss = u->loss, .update = u->update,
                             .lr = u->lr, .momentum = u->momentum, .decay = u->decay, .chunk = u->chunk}};
    const int bits = fastlstm_engine_bits(e);
    p.m.weights = pack(m, w, e);
    if (u->momentum != 0) p.m.velocity = memset(real_new(bits, size), 0, (size_t)(size * real));
    if (!u->update || u->chunk != 1) p.m.gradient = memset(real_new(bits, size), 0, (size_t)(size * real));
    p.m.traces = real_new(bits, fastlstm_trace_size(e, m->l, m->n, B));
    p.m.state = real_new(bits, fastlstm_state_size(m->l, m->n, B));
    p.m.scratch = real_new(bits, fastlstm_learner_scratch_size(e, m->l, m->n, B));
    p.y = real_new(bits, u->k.T * B * width_out(m));
    CHECK(CALL(fastlstm_learner_reset(&p.m, NULL)) == FASTLSTM_OK);
    return p;
}

static void *unpacked(const pupil *p, const void *packed) {
    const net *m = &p->u->k.m;
    void *params = real_new(fastlstm_engine_bits(p->m.engine), m->params);
    CHECK(CALL(fastlstm_unpack(p->m.engine, m->l, m->n, packed, params)) == FASTLSTM_OK);
    return params;
}

static void *canonical_traces(const pupil *p, ptrdiff_t *size) {
    const net *m = &p->u->k.m;
    *size = fastlstm_trace_canonical_size(m->l, m->n, p->u->k.B);
    void *traces = real_new(fastlstm_engine_bits(p->m.engine), *size);
    CHECK(CALL(fastlstm_trace_convert(p->m.engine, m->l, m->n, p->u->k.B, p->m.traces, traces, 1)) == FASTLSTM_OK);
    return traces;
}

/* A new pupil who knows what this one does, by way of files' layouts. */
static pupil move(const pupil *p) {
    const lesson *u = p->u;
    const net *m = &u->k.m;
    const fastlstm_engine *e = p->m.engine;
    const int bits = fastlstm_engine_bits(e);
    pupil to = pupil_new(u, e, u->k.w);
    ptrdiff_t size;
    CHECK(CALL(fastlstm_pack(e, m->l, m->n, unpacked(p, p->m.weights), to.m.weights)) == FASTLSTM_OK);
    if (to.m.velocity) CHECK(CALL(fastlstm_pack(e, m->l, m->n, unpacked(p, p->m.velocity), to.m.velocity)) == FASTLSTM_OK);
    if (to.m.gradient) CHECK(CALL(fastlstm_pack(e, m->l, m->n, unpacked(p, p->m.gradient), to.m.gradient)) == FASTLSTM_OK);
    void *traces = canonical_traces(p, &size);
    CHECK(CALL(fastlstm_trace_convert(e, m->l, m->n, u->k.B, to.m.traces, traces, 0)) == FASTLSTM_OK);
    CHECK(memcmp(traces, canonical_traces(&to, &size), (size_t)(size * bits / 8)) == 0);
    memcpy(to.m.state, p->m.state, (size_t)(m->state * u->k.B * bits / 8));
    memcpy(to.y, p->y, (size_t)(u->k.T * u->k.B * width_out(m) * bits / 8));
    to.m.lr = p->m.lr;
    to.m.pending = p->m.pending;
    to.m.has_error = p->m.has_error;
    to.m.loss_sum = p->m.loss_sum;
    to.m.loss_steps = p->m.loss_steps;
    return to;
}

/* Bits of all that a pupil knows. */
static uint64_t pupil_hash(const pupil *p) {
    const int mark = memory_mark();
    const net *m = &p->u->k.m;
    const ptrdiff_t B = p->u->k.B, real = fastlstm_engine_bits(p->m.engine) / 8;
    ptrdiff_t size;
    const void *traces = canonical_traces(p, &size), *packed[3] = {p->m.weights, p->m.velocity, p->m.gradient};
    uint64_t hash = fnv(FNV_BEGIN, traces, (size_t)(size * real));
    for (int j = 0; j < 3; j++)
        if (packed[j]) hash = fnv(hash, unpacked(p, packed[j]), (size_t)(m->params * real));
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        if (q.l->kind == FASTLSTM_LINEAR) continue;
        hash = fnv(hash, (char *)p->m.state + q.l->state_h * B * real, (size_t)(q.H * B * real));
        hash = fnv(hash, (char *)p->m.state + q.l->state_c * B * real, (size_t)(q.H * B * real));
        hash = fnv(hash, (char *)p->m.state + q.l->state_a * B * real, (size_t)(q.A * B * real));
    }
    hash = fnv(hash, p->y, (size_t)(p->u->k.T * B * width_out(m) * real));
    hash = fnv(hash, &p->m.lr, sizeof p->m.lr);
    hash = fnv(hash, &p->m.pending, sizeof p->m.pending);
    memory_release(mark);
    return fnv(hash, &p->m.has_error, sizeof p->m.has_error);
}

/* One call, steps [t, t + steps). */
static void study(pupil *p, ptrdiff_t t, ptrdiff_t steps) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(p->m.engine);
    const lesson *u = p->u;
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m), wide = u->loss == FASTLSTM_CROSS_ENTROPY ? 1 : O;
    void *x = feed_all(bits, u->k.x + t * B * I, steps * B * I), *y = real_new(bits, steps * B * O), *targets = NULL;
    uint8_t *reset = u->k.reset ? memory_new((size_t)(steps * B)) : NULL;
    ptrdiff_t done = -1;
    if (u->loss == FASTLSTM_CROSS_ENTROPY) {
        int64_t *class = targets = memory_new((size_t)(steps * B) * sizeof *class);
        for (ptrdiff_t j = 0; j < steps * B; j++)
            class[j] = (int64_t)u->target[t * B + j];
    } else if (u->loss != FASTLSTM_NO_LOSS) {
        targets = feed_all(bits, u->target + t * B * wide, steps * B * O);
    }
    if (reset) memcpy(reset, u->k.reset + t * B, (size_t)(steps * B));
    CHECK(CALL(fastlstm_learner_run(&p->m, steps, x, targets, reset, y, &done, NULL, NULL)) == FASTLSTM_OK);
    CHECK(done == steps);
    memcpy(p->y + t * B * O * (bits / 8), y, (size_t)(steps * B * O * bits / 8));
    memory_release(mark);
}

/* One step by halves; the loss is computed here in the engine's type, rounding after every operation. */
static void study_by_halves(pupil *p, ptrdiff_t t) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(p->m.engine);
    const lesson *u = p->u;
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m);
    void *x = feed_all(bits, u->k.x + t * B * I, B * I), *y = real_new(bits, B * O), *dy = real_new(bits, B * O);
    ptrdiff_t n = 0;
    int any = 0;
    for (ptrdiff_t b = 0; u->k.reset && b < B; b++)
        any |= u->k.reset[t * B + b];
    if (any) CHECK(CALL(fastlstm_learner_reset(&p->m, u->k.reset + t * B)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_learner_forward(&p->m, x, y)) == FASTLSTM_OK);
    for (ptrdiff_t j = 0; j < B * O && u->loss != FASTLSTM_NO_LOSS; j++)
        n += u->target[t * B * O + j] == u->target[t * B * O + j];
    real_put(bits, dy, 0, n ? 1 / (double)n : 0);
    const double mean = real_get(bits, dy, 0);
    for (ptrdiff_t j = 0; j < B * O && n; j++) {
        const double target = u->target[t * B * O + j];
        real_put(bits, dy, j, target == target ? real_get(bits, y, j) - target : 0);
        if (u->loss == FASTLSTM_MSE) real_put(bits, dy, j, 2 * mean * real_get(bits, dy, j));
    }
    CHECK(CALL(fastlstm_learner_backward(&p->m, n ? dy : NULL)) == FASTLSTM_OK);
    memcpy(p->y + t * B * O * (bits / 8), y, (size_t)(B * O * bits / 8));
    memory_release(mark);
}

enum { ONE_RUN, PIECES, HALVES };

/* A whole lesson; with chunk 0 the gradient is applied in its middle and at its end. */
static pupil teach(const lesson *u, const fastlstm_engine *e, int way) {
    pupil p = pupil_new(u, e, u->k.w);
    const ptrdiff_t T = u->k.T, middle = T / 2;
    for (ptrdiff_t t = 0, steps; t < T; t += steps) {
        steps = way != ONE_RUN ? 1 : t == 0 && u->chunk == 0 && middle ? middle : T - t;
        if (way == PIECES && t > 2) steps = t < middle ? middle - t : T - t;
        if (way == PIECES && t == middle) p = move(&p);
        if (way == HALVES) study_by_halves(&p, t);
        else study(&p, t, steps);
        if (u->chunk == 0 && (t + steps == middle || t + steps == T)) CHECK(CALL(fastlstm_learner_apply(&p.m)) == FASTLSTM_OK);
    }
    return p;
}

static long cases;

static void check_learner(const lesson *u) {
    const int begin = memory_mark();
    const net *m = &u->k.m;
    const ptrdiff_t T = u->k.T, B = u->k.B, O = width_out(m);
    const int halves = u->loss == FASTLSTM_NO_LOSS || u->loss == FASTLSTM_MSE || u->loss == FASTLSTM_SSE;
    double *y = memory_zeros(T * B * O), *traces;
    school c = school_new(u, u->k.w);
    ptrdiff_t size = 0, told;
    cases++;
    for (ptrdiff_t t = 0; t < T; t++) {
        memcpy(y + t * B * O, school_step(&c, t), (size_t)(B * O) * sizeof *y);
        if (u->chunk == 0 && (t + 1 == T / 2 || t + 1 == T)) school_apply(&c);
    }
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        size += trace_size(&q, B);
    }
    traces = memory_zeros(size);
    for (ptrdiff_t d = 0, at = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        memcpy(traces + at, c.trace[d], (size_t)trace_size(&q, B) * sizeof *traces);
        at += trace_size(&q, B);
    }
    for (int bits = 32; bits <= 64; bits += 32) {
        const int mark = memory_mark();
        const char *isa;
        uint64_t fused = 0;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            describe("learner", &u->k, isa, bits);
            const size_t used = strlen(check_case);
            snprintf(check_case + used, sizeof check_case - used, " loss %d update %d chunk %ld momentum %g", u->loss, u->update,
                     (long)u->chunk, u->momentum);
            const pupil p = teach(u, e, ONE_RUN), pieces = teach(u, e, PIECES);
            const uint64_t hash = pupil_hash(&p);
            compare(bits, OUTPUT, p.y, y, T * B * O);
            compare(bits, WEIGHT, unpacked(&p, p.m.weights), c.w, m->params);
            if (p.m.velocity) compare(bits, GRADIENT, unpacked(&p, p.m.velocity), c.velocity, m->params);
            if (p.m.gradient) compare(bits, GRADIENT, unpacked(&p, p.m.gradient), c.gradient, m->params);
            const void *canonical = canonical_traces(&p, &told);
            if (CHECK(told == size)) compare(bits, TRACE, canonical, traces, size);
            for (ptrdiff_t d = 0; d < m->n; d++) {
                const shape q = shape_of(m->l + d);
                if (q.l->kind == FASTLSTM_LINEAR) continue;
                compare(bits, STATE, (char *)p.m.state + q.l->state_h * B * (bits / 8), c.state + q.l->state_h * B, q.H * B);
                compare(bits, STATE, (char *)p.m.state + q.l->state_c * B * (bits / 8), c.state + q.l->state_c * B, q.H * B);
                compare(bits, STATE, (char *)p.m.state + q.l->state_a * B * (bits / 8), c.state + q.l->state_a * B, q.A * B);
            }
            compare(bits, LOSS, feed_all(bits, &p.m.loss_sum, 1), &c.loss_sum, 1);
            CHECK(p.m.loss_steps == c.loss_steps && p.m.lr == c.lr && p.m.pending == c.pending && p.m.has_error == c.has_error);
            CHECK(pupil_hash(&pieces) == hash && pieces.m.loss_sum == p.m.loss_sum && pieces.m.loss_steps == p.m.loss_steps);
            if (halves) {
                const pupil by_halves = teach(u, e, HALVES);
                CHECK(pupil_hash(&by_halves) == hash);
            }
            if (!is_fused(isa)) continue;
            if (fused) CHECK(hash == fused && "instruction sets agree");
            fused = hash;
        }
        memory_release(mark);
    }
    memory_release(begin);
}

/* ---- poll ---- */

typedef struct asked { int calls, stop_at, wrong_mode; } asked;

static int poll(void *context) {
    asked *a = context;
    a->wrong_mode |= fpu_get() != fpu_given;
    return ++a->calls == a->stop_at ? -1 : 0;
}

static void check_poll(const fastlstm_engine *e) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(e);
    lesson u = {.loss = FASTLSTM_MSE, .update = 1, .chunk = 1, .lr = 0.0625, .decay = 1};
    task *k = &u.k;
    add(&k->m, lstm(64, 64, 1, IFO), 2);
    add(&k->m, linear(64, 2, FASTLSTM_IDENTITY), 1);
    fill_task(k, 150, 1, 0, 0);
    describe("poll", k, fastlstm_engine_isa(e), bits);
    u.target = memory_zeros(k->T * 2);
    const pupil whole = teach(&u, e, ONE_RUN);
    const void *x = feed_all(bits, k->x, k->T * 64), *target = feed_all(bits, u.target, k->T * 2);
    pupil p = pupil_new(&u, e, k->w);
    asked a = {.stop_at = 1};
    ptrdiff_t done = -1;
    CHECK(CALL(fastlstm_learner_run(&p.m, k->T, x, target, NULL, p.y, &done, poll, &a)) == FASTLSTM_INTERRUPTED);
    CHECK(a.calls == 1 && !a.wrong_mode && done > 0 && done < k->T && p.m.loss_steps == done);
    if (done > 0 && done < k->T) study(&p, done, k->T - done);
    CHECK(pupil_hash(&p) == pupil_hash(&whole) && "what was done are whole steps");
    memory_release(mark);
}

/* ---- Plain arrays: v = momentum v + gradient; w -= lr v ---- */

static void check_sgd(int bits) {
    for (ptrdiff_t n = 0; n < 40; n++)
        for (int with_velocity = 0; with_velocity < 2; with_velocity++) {
            const int mark = memory_mark();
            const double momentum = with_velocity ? 0.75 : 0;
            double *w = memory_zeros(n), *v = memory_zeros(n), *g = memory_zeros(n), *to = memory_zeros(n);
            uint64_t fused = 0;
            const char *isa;
            for (ptrdiff_t j = 0; j < n; j++) {
                w[j] = random_number(0);
                v[j] = random_number(0);
                g[j] = random_number(0);
                to[j] = w[j] - 0.125 * (momentum * v[j] + g[j]);
            }
            for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
                void *own = feed_all(bits, w, n), *velocity = feed_all(bits, v, n), *gradient = feed_all(bits, g, n);
                snprintf(check_case, sizeof check_case, "sgd %s f%d n %ld", isa, bits, (long)n);
                fastlstm_optimizer o = {.kind = FASTLSTM_SGD, .lr = 0.125, .momentum = momentum, .first = with_velocity ? velocity : NULL};
                CHECK(CALL(fastlstm_update(fastlstm_engine_select(isa, bits), &o, n, own, gradient)) == FASTLSTM_OK);
                compare(bits, WEIGHT, own, to, n);
                const uint64_t hash = fnv(fnv(FNV_BEGIN, own, (size_t)(n * bits / 8)), velocity, (size_t)(n * bits / 8));
                if (!is_fused(isa)) continue;
                CHECK(fused == 0 || hash == fused);
                fused = hash;
            }
            memory_release(mark);
        }
}

/* ---- Cases ---- */

/* A lesson on top of layers already there. */
static void fill_lesson(lesson *u, ptrdiff_t T, ptrdiff_t B, int loss, int mode, int resets) {
    static const struct { int update; ptrdiff_t chunk; double momentum, decay; } modes[] = {
        {0, 0, 0, 1}, {1, 1, 0, 1}, {1, 1, 0.75, 0.96875}, {1, 5, 0, 0.96875}, {1, 5, 0.5, 1}, {1, 0, 0.5, 0.9375}, {0, 1, 0, 1}};
    const ptrdiff_t O = width_out(&u->k.m), wide = loss == FASTLSTM_CROSS_ENTROPY ? 1 : O;
    fill_task(&u->k, T, B, 0, resets);
    u->loss = loss;
    u->lr = 0.0625;
    u->update = modes[mode].update;
    u->chunk = modes[mode].chunk;
    u->momentum = modes[mode].momentum;
    u->decay = modes[mode].decay;
    u->target = memory_zeros(T * B * wide);
    for (ptrdiff_t j = 0; j < T * B * wide; j++) {
        const int none = random_below(4) == 0 || j / (B * wide) % 5 == 2; /* here and there, and whole steps */
        if (loss == FASTLSTM_CROSS_ENTROPY) u->target[j] = none ? -1 : (double)random_below(O);
        else u->target[j] = none ? NAN : loss == FASTLSTM_BINARY_CROSS_ENTROPY ? fabs(random_number(0)) : random_number(0);
    }
}

static void learner_tests(void) {
    const int begin = memory_mark();
    for (ptrdiff_t n = 0; n < 200; n++) {
        lesson u = {0};
        int loss = (int)(n / 3 % 5);
        if (loss == FASTLSTM_NO_LOSS && n % 10) loss = FASTLSTM_SSE;
        fastlstm_layer l = n < 160 ? varied(n, input_sizes[n % 3]) : lstm(input_sizes[n % 3], 1 + (n - 160) * 2 % 35 + (n & 1), 1, IFO);
        if (n % 3 == 2) add(&u.k.m, lstm(input_sizes[random_below(3)], l.input_size, 1, IFO), 2);
        if (loss == FASTLSTM_BINARY_CROSS_ENTROPY && n % 3 == 0) { /* outputs in (0, 1) */
            l.output_activation = l.gate_activation = activation(FASTLSTM_SIGMOID);
            l.clip = 2;
            l.gates |= FASTLSTM_OUTPUT_GATE;
        }
        add(&u.k.m, l, (int)random_below(3));
        if (n % 3) add(&u.k.m, linear(l.hidden_size, 1 + n * 7 % 19, loss == FASTLSTM_BINARY_CROSS_ENTROPY ? FASTLSTM_SIGMOID : (int)n / 2 % 3), (int)(n & 1));
        fill_lesson(&u, n % 5 ? 21 : 1, n / 2 % 2 ? 3 : 1, loss, (int)(n % 7), n % 4 < 2);
        check_learner(&u);
        memory_release(begin);
    }
    for (int n = 0; n < 40; n++) { /* the reference itself; without kinks */
        lesson u = {0};
        fastlstm_layer l = lstm(2, n % 3 == 2 ? 4 : 2, n % 3 == 2 ? 2 : 1, gate_sets[n % 10]);
        l.peepholes = n / 10 % 2;
        l.gate_recurrence = n / 20 % 2;
        l.input_activation = activation(n % 4 ? FASTLSTM_G1997 : FASTLSTM_IDENTITY);
        l.output_activation = activation(n % 4 ? FASTLSTM_H1997 : FASTLSTM_TANH);
        add(&u.k.m, l, 2);
        add(&u.k.m, linear(l.hidden_size, 3, FASTLSTM_SIGMOID), 1);
        fill_lesson(&u, 6, 2, 1 + n % 4, 0, n & 1);
        snprintf(check_case, sizeof check_case, "reference %d", n);
        check_reference(&u);
        memory_release(begin);
    }
}

/* The bits that 200 steps leave, on every machine with fused multiply-add: f32, f64. */
static const uint64_t golden[2] = {0x25cb4b61b61440a0u, 0x4d096c9aab39051eu};

static void golden_tests(void) {
    const int begin = memory_mark();
    lesson u = {0};
    fastlstm_layer l;
    random_state = 1997;
    add(&u.k.m, lstm(3, 19, 1, IFO), 2);
    l = lstm(19, 6, 2, 1 | 4 | FASTLSTM_COUPLED_GATES);
    l.peepholes = l.gate_recurrence = 1;
    add(&u.k.m, l, 1);
    add(&u.k.m, linear(6, 4, FASTLSTM_IDENTITY), 1);
    fill_lesson(&u, 200, 3, FASTLSTM_CROSS_ENTROPY, 2, 1);
    for (int bits = 32; bits <= 64; bits += 32) {
        const char *isa;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            describe("golden", &u.k, isa, bits);
            const pupil p = teach(&u, e, ONE_RUN);
            const uint64_t hash = pupil_hash(&p);
            printf("hash learn=%016llx f%d %s\n", (unsigned long long)hash, bits, isa);
            if (is_fused(isa)) CHECK(hash == golden[bits == 64]);
        }
    }
    memory_release(begin);
}

int main(void) {
    const char *isa;
    learner_tests();
    for (int bits = 32; bits <= 64; bits += 32) {
        check_sgd(bits);
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++)
            check_poll(fastlstm_engine_select(isa, bits));
    }
    golden_tests();
    return report("learner", cases);
}
