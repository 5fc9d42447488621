/* Learning while running: forward through the stack, the loss, the error down through the stack inside the step, then
   traces, gradient and update of every layer. In a stack the states of the layers above count as constants for the
   layers below: the error of step t travels down at step t alone. */
#ifndef FL_LEARN_H
#define FL_LEARN_H

/* What a layer keeps between the halves of a step. */
typedef struct fl_learn_layer {
    fl_cell cell;
    REAL *s;   /* (B, M) sources */
    REAL *y;   /* (B, H) outputs of a linear layer */
    REAL *dy;  /* (B, H) error of the outputs */
    REAL *act; /* (B, acts) */
    REAL *traces;
    ptrdiff_t at; /* of its weights in the packed arrays */
} fl_learn_layer;

typedef struct fl_learn_work {
    fl_learn_layer *layer, *last;
    ptrdiff_t weights; /* packed elements of all layers */
    fl_row *rows;
    const REAL **x, **h, **a; /* (B,) sources of a layer */
    REAL **y;                 /* (B,) */
    REAL *net;
    fl_trace_lane *lane;
    const REAL **act, **c;
    int *error; /* (B,) lanes that have a target at this step */
    REAL *factors, *d;
    fl_lazy lazy;   /* of the first layer, */
    fl_small small; /*   either or none */
} fl_learn_work;

typedef char fl_learn_fits[sizeof(fl_learn_layer) <= FL_LEARN_LAYER_BYTES && sizeof(fl_learn_work) <= FL_LEARN_WORK_BYTES ? 1 : -1];

/* Lay out the scratch; all other functions find the work at its start. */
static void fl_learner_prepare(fastlstm_learner *m) {
    const fl_learn_plan plan = fl_plan_learn(m->layers, m->n_layers, m->lanes, VW, (ptrdiff_t)sizeof(REAL));
    char *base = (char *)m->scratch;
    REAL *buffer = (REAL *)(base + plan.buffers), *traces = m->traces;
    fl_learn_work w = {
        .layer = (fl_learn_layer *)(base + plan.layers),
        .rows = (fl_row *)(base + plan.rows),
        .x = (const REAL **)(base + plan.x),
        .h = (const REAL **)(base + plan.h),
        .a = (const REAL **)(base + plan.a),
        .y = (REAL **)(base + plan.y),
        .net = (REAL *)(base + plan.net),
        .lane = (fl_trace_lane *)(base + plan.lane),
        .act = (const REAL **)(base + plan.act),
        .c = (const REAL **)(base + plan.c),
        .error = (int *)(base + plan.error),
        .factors = (REAL *)(base + plan.factors),
        .d = (REAL *)(base + plan.d),
    };
    for (ptrdiff_t i = 0; i < m->n_layers; i++) {
        fl_learn_layer *p = w.layer + i;
        p->at = w.weights;
        fl_cell_init(&p->cell, m->layers + i, (const REAL *)m->weights + p->at);
        const fl_geometry *q = &p->cell.q;
        p->act = buffer;
        p->s = p->act + m->lanes * q->acts;
        p->y = p->s + m->lanes * q->M;
        p->dy = p->y + m->lanes * q->H;
        p->traces = traces;
        buffer += fl_learn_buffers(q, m->lanes, VW);
        traces += m->lanes * q->groups * q->trace;
        w.weights += q->packed;
        w.last = p;
    }
    const int small = fl_may_be_small(m->layers, m->lanes, VW);
    fl_small_init(&w.small, &w.layer->cell.q, base, &plan.small, m->lazy && small);
    fl_lazy_init(&w.lazy, &w.layer->cell.q, (REAL *)(base + plan.lazy), m->lazy && fl_may_be_lazy(m->layers, m->lanes, (ptrdiff_t)sizeof(REAL)));
    *(fl_learn_work *)m->scratch = w;
}

static REAL *fl_learn_velocity(const fastlstm_learner *m, const fl_learn_layer *p) { return m->velocity ? (REAL *)m->velocity + p->at : NULL; }

/* Write what is put off, or kept elsewhere. */
static void fl_learn_settle(fastlstm_learner *m, fl_learn_work *w) {
    fl_learn_layer *p = w->layer;
    fl_lazy_settle(&w->lazy, &p->cell.q, (REAL *)m->weights + p->at, fl_learn_velocity(m, p), p->traces);
    fl_small_settle(&w->small, &p->cell.q, (REAL *)m->weights + p->at, fl_learn_velocity(m, p), p->traces);
}

/* The state of a lane of a layer. */
static fl_row fl_learn_row(const fastlstm_learner *m, const fl_learn_layer *p, ptrdiff_t b) {
    const ptrdiff_t B = m->lanes, H = p->cell.q.H, A = p->cell.q.A;
    const fastlstm_layer *l = p->cell.l;
    REAL *state = m->state;
    return (fl_row){.c = state + l->state_c * B + b * H,
                    .y = state + l->state_h * B + b * H, /* its old value is among the sources */
                    .a_out = A ? state + l->state_a * B + b * A : NULL,
                    .act = p->act + b * p->cell.q.acts};
}

static void fl_learn_take(fastlstm_learner *m, fl_learn_work *w) {
    const fl_learn_layer *p = w->layer;
    if (w->small.on) fl_small_take(&w->small, &p->cell.q, (REAL *)m->weights + p->at, fl_learn_velocity(m, p), p->traces);
}

static void fl_learn_enter(const fastlstm_learner *m, const fl_learn_work *w) {
    if (!w->small.on) return;
    const fl_row state = fl_learn_row(m, w->layer, 0);
    fl_small_enter(&w->small, &w->layer->cell.q, &state);
}

static void fl_learn_forward_step(fastlstm_learner *m, fl_learn_work *w, const REAL *x, REAL *y) {
    const ptrdiff_t B = m->lanes;
    REAL *state = m->state;
    fl_learn_take(m, w);
    for (ptrdiff_t i = 0; i < m->n_layers; i++) {
        const fl_learn_layer *p = w->layer + i;
        const fl_geometry *q = &p->cell.q;
        const fastlstm_layer *l = p->cell.l;
        const int linear = l->kind == FASTLSTM_LINEAR;
        if (i == 0 && w->small.on) {
            const fl_row row = fl_learn_row(m, p, 0);
            fl_small_forward(&w->small, &p->cell, x, &row);
            x = w->small.h;
            continue;
        }
        for (ptrdiff_t b = 0; b < B; b++) {
            REAL *s = p->s + b * q->M;
            for (ptrdiff_t k = 0; k < q->biases; k++)
                *s++ = 1;
            fl_copy(s, x + b * q->I, q->I);
            w->x[b] = s;
            w->y[b] = p->y + b * q->H;
            if (linear) continue;
            w->h[b] = s += q->I;
            fl_copy(s, state + l->state_h * B + b * q->H, q->H);
            w->a[b] = s += q->H;
            if (q->A) fl_copy(s, state + l->state_a * B + b * q->A, q->A);
            w->rows[b] = fl_learn_row(m, p, b);
        }
        if (linear) {
            fl_linear_rows(&p->cell, w->x, w->y, B, w->net);
        } else if (i == 0 && w->lazy.on) {
            fl_lazy_forward(&w->lazy, &p->cell, p->traces, fl_learn_velocity(m, p), p->s, w->rows);
        } else {
            const fl_rows rows = {.n = B, .row = w->rows, .x = w->x, .h = w->h, .a = w->a, .net = w->net};
            fl_cell_rows(&p->cell, &rows);
        }
        x = linear ? p->y : state + l->state_h * B;
    }
    fl_copy(y, x, B * w->last->cell.q.H);
}

/* The error of a layer's net inputs, d (groups, G, VW), of one lane; the padding is zero. y NULL: dy is that error. */
static void fl_linear_errors(const fl_cell *cell, const REAL *dy, const REAL *y, REAL *d) {
    for (ptrdiff_t group = 0; group < cell->q.groups; group++) {
        const ptrdiff_t u = group * VW, n = cell->q.H - u;
        V e = fl_load_units(dy + u, 1, n);
        if (y) e = v_mul(e, v_activate_grad(&cell->l->output_activation, fl_load_units(y + u, 1, n)));
        v_store(d + u, e);
    }
}

static void fl_lstm_errors(const fl_geometry *q, const REAL *factors, REAL *d) {
    for (ptrdiff_t group = 0; group < q->groups; group++)
        fl_lstm_group_errors(q, factors + group * q->factors, d + group * q->G * VW);
}

/* The weights of a linear layer, from the errors d (B, groups, VW) of the lanes that have one. */
FL_INLINE void fl_linear_learn(const fl_geometry *q, const REAL *s, const REAL *d, const int *error, ptrdiff_t B, const fl_target *to, int mode) {
    const fl_target here = *to; /* stores of vectors may be to anything, but not to locals */
    const V lr = v_set1(here.lr), momentum = v_set1(here.momentum);
    for (ptrdiff_t group = 0; group < q->groups; group++)
        for (ptrdiff_t k = 0; k < q->M; k++) {
            V g = v_zero();
            for (ptrdiff_t b = 0; b < B; b++)
                if (B == 1 || error[b]) g = v_fma(v_load(d + (b * q->groups + group) * VW), v_bcast(s + b * q->M + k), g);
            fl_descend(mode, &here, group * q->panel + k * VW, g, lr, momentum);
        }
}

/* The second half of a linear layer's step, if any lane has an error. dx (B, I), or NULL. fused: dy are the errors of net inputs. */
static void fl_learn_linear(const fl_learn_layer *p, fl_learn_work *w, ptrdiff_t B, const fl_target *to, REAL *dx, int fused) {
    const fl_geometry *q = &p->cell.q;
    REAL *d = w->factors;
    for (ptrdiff_t b = 0; b < B; b++, d += q->groups * VW) {
        if (!w->error[b]) continue;
        fl_linear_errors(&p->cell, p->dy + b * q->H, fused ? NULL : p->y + b * q->H, d);
        if (dx) fl_input_error(&p->cell, d, dx + b * q->I);
    }
    switch (to->mode) {
    case FL_GATHER: fl_linear_learn(q, p->s, w->factors, w->error, B, to, FL_GATHER); break;
    case FL_DESCEND:
        if (B == 1) fl_linear_learn(q, p->s, w->factors, w->error, 1, to, FL_DESCEND);
        else fl_linear_learn(q, p->s, w->factors, w->error, B, to, FL_DESCEND);
        break;
    default: fl_linear_learn(q, p->s, w->factors, w->error, B, to, FL_DESCEND_MOMENTUM);
    }
}

/* The second half of a step. The last layer's dy and `error` (which lanes have a target) are set; any: one has. */
static void fl_learn_backward_step(fastlstm_learner *m, fl_learn_work *w, int any, int fused_sigmoid) {
    const ptrdiff_t B = m->lanes;
    const int descends = m->update && m->chunk == 1;
    const int mode = !any ? FL_TRACE_ONLY : !descends ? FL_GATHER : m->velocity ? FL_DESCEND_MOMENTUM : FL_DESCEND;
    fl_learn_take(m, w);
    /* Top-down, so that every error passes through the weights that made the outputs. A layer's own update may come
       as soon as its error has been handed down. */
    for (ptrdiff_t i = m->n_layers - 1; i >= 0; i--) {
        const fl_learn_layer *p = w->layer + i;
        const fl_geometry *q = &p->cell.q;
        const fastlstm_layer *l = p->cell.l;
        const fl_target to = {mode, (REAL *)m->weights + p->at, fl_learn_velocity(m, p),
                              m->gradient ? (REAL *)m->gradient + p->at : NULL, (REAL)m->lr, (REAL)m->momentum};
        const ptrdiff_t per_lane = q->groups * q->factors;
        if (l->kind == FASTLSTM_LINEAR) {
            if (any) fl_learn_linear(p, w, B, &to, i > 0 ? p[-1].dy : NULL, fused_sigmoid && i == m->n_layers - 1);
            continue;
        }
        if (i == 0 && w->small.on) {
            fl_small_learn(&w->small, &p->cell, any ? p->dy : NULL, mode, to.lr, to.momentum);
            continue;
        }
        for (ptrdiff_t b = 0; b < B; b++) {
            REAL *factors = w->factors + b * per_lane;
            const int error = any && w->error[b];
            for (ptrdiff_t group = 0; group < q->groups; group++)
                fl_lstm_factors(&p->cell, group, p->act + b * q->acts, error ? p->dy + b * q->H : NULL, factors + group * q->factors);
            if (!error || i == 0) continue;
            fl_lstm_errors(q, factors, w->d);
            fl_input_error(&p->cell, w->d, p[-1].dy + b * q->I);
        }
        const int lazy = i == 0 && w->lazy.on;
        for (ptrdiff_t group = 0; group < q->groups; group++) {
            for (ptrdiff_t b = 0; b < B; b++)
                w->lane[b] = (fl_trace_lane){p->s + b * q->M, w->factors + b * per_lane + group * q->factors,
                                             p->traces + (group * B + b) * q->trace, any && w->error[b]};
            if (lazy) fl_lazy_learn(&w->lazy, q, group, w->factors + group * q->factors, mode != FL_TRACE_ONLY, to.lr, to.momentum, to.velocity != NULL);
            else fl_trace(q, w->lane, B, &to, group * q->panel);
            if (l->peepholes) {
                for (ptrdiff_t b = 0; b < B; b++) {
                    w->act[b] = p->act + b * q->acts + fl_act_cell(q, group, VW);
                    w->c[b] = (const REAL *)m->state + l->state_c * B + b * q->H;
                }
                fl_trace_peepholes(q, group, w->lane, B, w->act, w->c, &to);
            }
        }
    }
    if (w->lazy.on) {
        if (any && m->velocity) w->lazy.kept *= m->momentum;
        if (any && m->velocity) w->lazy.a += m->lr * w->lazy.kept;
        if (++w->lazy.held == FL_LAZY) fl_learn_settle(m, w);
    }
    m->has_error |= mode == FL_GATHER;
    m->pending++;
    if (descends && any) m->lr *= m->decay;
}

/* The gathered gradient becomes a step; without one seen since the last, nothing moves. */
static void fl_learn_apply(fastlstm_learner *m, const fl_learn_work *w) {
    if (m->update && m->gradient && m->has_error) {
        fl_sgd_array(w->weights, m->weights, m->gradient, m->velocity, (REAL)m->lr, (REAL)m->momentum);
        fl_zero(m->gradient, w->weights);
        m->lr *= m->decay;
    }
    m->has_error = 0;
    m->pending = 0;
}

static void fl_learn_after_step(fastlstm_learner *m, const fl_learn_work *w) {
    if (m->update && m->chunk > 0 && m->pending >= m->chunk) fl_learn_apply(m, w); /* with chunk 1 nothing was gathered */
}

static void fl_learn_reset_lane(fastlstm_learner *m, fl_learn_work *w, ptrdiff_t b) {
    const ptrdiff_t B = m->lanes;
    REAL *state = m->state;
    if (w->lazy.on) fl_learn_settle(m, w);
    fl_small_reset(&w->small, &w->layer->cell.q);
    for (const fl_learn_layer *p = w->layer; p <= w->last; p++) {
        const fastlstm_layer *l = p->cell.l;
        const fl_geometry *q = &p->cell.q;
        if (l->kind == FASTLSTM_LINEAR) continue;
        fl_zero(state + l->state_h * B + b * q->H, q->H);
        fl_zero(state + l->state_c * B + b * q->H, q->H);
        if (q->A) fl_zero(state + l->state_a * B + b * q->A, q->A);
        for (ptrdiff_t group = 0; group < q->groups; group++)
            fl_zero(p->traces + (group * B + b) * q->trace, q->trace);
    }
}

static void fl_learn_reset(fastlstm_learner *m, fl_learn_work *w, const uint8_t *mask) {
    int any = 0;
    for (ptrdiff_t b = 0; b < m->lanes; b++)
        any |= !mask || mask[b];
    if (any && m->chunk == 0) fl_learn_apply(m, w); /* an episode's end is where its gradient is applied */
    for (ptrdiff_t b = 0; b < m->lanes; b++)
        if (!mask || mask[b]) fl_learn_reset_lane(m, w, b);
}

/* Loss of a step from targets into the last layer's dy; returns whether any lane has a target. */
static int fl_learn_loss(fastlstm_learner *m, const fl_learn_work *w, const REAL *y, const void *targets, ptrdiff_t t, int fused_sigmoid) {
    double loss;
    if (!fl_step_loss(m->loss, fused_sigmoid, m->lanes, w->last->cell.q.H, y, targets, t, w->last->dy, w->error, &loss)) return 0;
    m->loss_sum += loss;
    m->loss_steps++;
    return 1;
}

static fastlstm_status fl_learner_run(fastlstm_learner *m, ptrdiff_t steps, const void *x, const void *targets, const uint8_t *reset,
                                      void *y, ptrdiff_t *done, fastlstm_poll poll, void *context) {
    fl_learn_work *w = (fl_learn_work *)m->scratch;
    const fastlstm_layer *last = m->layers + m->n_layers - 1;
    const ptrdiff_t B = m->lanes, I = m->layers[0].input_size, O = last->hidden_size;
    const ptrdiff_t work = 4 * B * w->weights;
    const int fused_sigmoid = fl_fuses_sigmoid(m->loss, last);
    fl_patience patience = {poll, context, 0, fl_fpu_enter()};
    int stop = 0;
    ptrdiff_t t = 0;
    fl_learn_enter(m, w);
    while (t < steps && !stop) {
        REAL *y_t = (REAL *)y + t * B * O;
        if (reset) fl_learn_reset(m, w, reset + t * B);
        fl_learn_forward_step(m, w, (const REAL *)x + t * B * I, y_t);
        fl_learn_backward_step(m, w, fl_learn_loss(m, w, y_t, targets, t, fused_sigmoid), fused_sigmoid);
        fl_learn_after_step(m, w);
        t++;
        stop = t < steps && fl_interrupted(&patience, work);
    }
    *done = t;
    fl_fpu_leave(patience.mode);
    return stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

static void fl_learner_forward(fastlstm_learner *m, const void *x, void *y) {
    const fl_fpu mode = fl_fpu_enter();
    fl_learn_work *w = (fl_learn_work *)m->scratch;
    fl_learn_enter(m, w);
    fl_learn_forward_step(m, w, (const REAL *)x, (REAL *)y);
    fl_fpu_leave(mode);
}

static void fl_learner_backward(fastlstm_learner *m, const void *dy) {
    const fl_fpu mode = fl_fpu_enter();
    fl_learn_work *w = (fl_learn_work *)m->scratch;
    const fl_learn_layer *p = w->last;
    if (dy) {
        fl_copy(p->dy, (const REAL *)dy, m->lanes * p->cell.q.H);
        for (ptrdiff_t b = 0; b < m->lanes; b++) { /* a lane whose error is all zero has no target */
            w->error[b] = 0;
            for (ptrdiff_t k = 0; k < p->cell.q.H; k++)
                w->error[b] |= !(p->dy[b * p->cell.q.H + k] == 0);
        }
    }
    fl_learn_backward_step(m, w, dy != NULL, 0);
    fl_learn_after_step(m, w);
    fl_fpu_leave(mode);
}

static void fl_learner_learn(fastlstm_learner *m, const void *targets) {
    const fl_fpu mode = fl_fpu_enter();
    fl_learn_work *w = (fl_learn_work *)m->scratch;
    const fastlstm_layer *last = m->layers + m->n_layers - 1;
    const int fused_sigmoid = fl_fuses_sigmoid(m->loss, last);
    const REAL *y = last->kind == FASTLSTM_LINEAR ? w->last->y : (const REAL *)m->state + last->state_h * m->lanes;
    fl_learn_backward_step(m, w, fl_learn_loss(m, w, y, targets, 0, fused_sigmoid), fused_sigmoid);
    fl_learn_after_step(m, w);
    fl_fpu_leave(mode);
}

static void fl_learner_reset(fastlstm_learner *m, const uint8_t *mask) {
    const fl_fpu mode = fl_fpu_enter();
    fl_learn_work *w = (fl_learn_work *)m->scratch;
    fl_learn_reset(m, w, mask);
    fl_fpu_leave(mode);
}

static void fl_learner_apply(fastlstm_learner *m) {
    const fl_fpu mode = fl_fpu_enter();
    fl_learn_work *w = (fl_learn_work *)m->scratch;
    fl_learn_apply(m, w);
    fl_fpu_leave(mode);
}

static void fl_learner_settle(fastlstm_learner *m) {
    const fl_fpu mode = fl_fpu_enter();
    fl_learn_settle(m, (fl_learn_work *)m->scratch);
    fl_fpu_leave(mode);
}

#endif
