/* Lessons for the tests of learners, and a naive learner in double. */
#ifndef SCHOOL_H
#define SCHOOL_H

#include "reference.h"

/* ---- The reference: truncated learning (csrc/traces.h, csrc/lstm.h), densely and one parameter at a time ---- */

typedef struct lesson {
    task k; /* no lengths, LANES lanes at most */
    int loss, update, lazy;
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

static inline ptrdiff_t traced(const shape *q) { return 1 + q->i + q->f; }

/* Of one layer: dc_u / dw[row of kind n = g, i, f][k], then of peepholes dc_v / dp[gate][w] for the cells v, w of block j. */
static inline ptrdiff_t trace_at(const shape *q, ptrdiff_t b, ptrdiff_t u, ptrdiff_t n, ptrdiff_t k) {
    return ((b * q->H + u) * traced(q) + n) * q->M + k;
}
static inline ptrdiff_t peephole_trace_at(const shape *q, ptrdiff_t B, ptrdiff_t b, ptrdiff_t gate, ptrdiff_t v, ptrdiff_t w, ptrdiff_t j) {
    return B * q->H * traced(q) * q->M + (((b * 2 + gate) * q->S + v) * q->S + w) * q->J + j;
}
static inline ptrdiff_t trace_size(const shape *q, ptrdiff_t B) {
    if (q->l->kind == FASTLSTM_LINEAR) return 0;
    return B * q->H * traced(q) * q->M + (q->l->peepholes ? B * 2 * q->S * q->H : 0);
}

static inline school school_new(const lesson *u, const double *w) {
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

static inline void school_apply(school *c) {
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
static inline void school_reset(school *c, const uint8_t *mask) {
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
static inline ptrdiff_t ref_loss(int loss, ptrdiff_t B, ptrdiff_t O, const double *y, const double *target, double *dy, int *error, double *sum) {
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
static inline void ref_lesson(school *c, ptrdiff_t d, ptrdiff_t b, int error, double *dx) {
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

/* A lesson on top of layers already there. */
static inline void fill_lesson(lesson *u, ptrdiff_t T, ptrdiff_t B, int loss, int mode, int resets) {
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

/* ---- The library's side of a lesson ---- */

static inline int any_reset(const lesson *u, ptrdiff_t t) {
    int any = 0;
    for (ptrdiff_t b = 0; u->k.reset && b < u->k.B; b++)
        any |= u->k.reset[t * u->k.B + b];
    return any;
}

/* Of steps [t, t + steps), as a learner takes them. */
static inline uint8_t *feed_resets(const lesson *u, ptrdiff_t t, ptrdiff_t steps) {
    const size_t size = (size_t)(steps * u->k.B);
    return u->k.reset ? memcpy(memory_new(size), u->k.reset + t * u->k.B, size) : NULL;
}

static inline void *feed_targets(const lesson *u, int bits, ptrdiff_t t, ptrdiff_t steps) {
    const ptrdiff_t B = u->k.B, O = width_out(&u->k.m);
    if (u->loss == FASTLSTM_NO_LOSS) return NULL;
    if (u->loss != FASTLSTM_CROSS_ENTROPY) return feed_all(bits, u->target + t * B * O, steps * B * O);
    int64_t *class = memory_new((size_t)(steps * B) * sizeof *class);
    for (ptrdiff_t j = 0; j < steps * B; j++)
        class[j] = (int64_t)u->target[t * B + j];
    return class;
}

/* dL/dy of step t with outputs y, or NULL if it has no target; MSE and SSE in the engine's type, rounding after every
   operation. */
static inline void *own_error(const lesson *u, int bits, ptrdiff_t t, const void *y) {
    const ptrdiff_t size = u->k.B * width_out(&u->k.m);
    void *dy = real_new(bits, size);
    ptrdiff_t n = 0;
    for (ptrdiff_t j = 0; j < size && u->loss != FASTLSTM_NO_LOSS; j++)
        n += u->target[t * size + j] == u->target[t * size + j];
    if (n == 0) return NULL;
    real_put(bits, dy, 0, 1 / (double)n);
    const double mean = real_get(bits, dy, 0);
    for (ptrdiff_t j = 0; j < size; j++) {
        const double target = u->target[t * size + j];
        real_put(bits, dy, j, target == target ? real_get(bits, y, j) - target : 0);
        if (u->loss == FASTLSTM_MSE) real_put(bits, dy, j, 2 * mean * real_get(bits, dy, j));
    }
    return dy;
}

/* ---- poll ---- */

typedef struct asked { int calls, stop_at, wrong_mode; } asked;

static inline int poll(void *context) {
    asked *a = context;
    a->wrong_mode |= fpu_get() != fpu_given;
    return ++a->calls == a->stop_at ? -1 : 0;
}

#endif
