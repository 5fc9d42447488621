/* The public functions of learners in chunks. A window of steps is kept as a tape; when it is full, or an update
   is due, its gradient is made as a training call makes it (backward.h), and traces go past it (carry.h). */
#include <math.h>
#include <string.h>

#include "api.h"
#include "kernels/fpu.h"
#include "threads.h"

/* Where a learner keeps its window, in bytes of `kept`, and what else it needs, in bytes of `scratch`. */
typedef struct fl_chunk_plan {
    ptrdiff_t x, dy, start, error, reset, tape, kept;
    ptrdiff_t open, layer, backward, lengths, rows, order, lane_error, dstate, errors[2], errors_x, terms, shrink, runners, call, filled, size;
} fl_chunk_plan;

/* One layer's places. */
typedef struct fl_chunk_layer {
    fl_geometry q;
    char *tape, *y, *weights, *traces, *runner;
    const char *x;
} fl_chunk_layer;

/* What every call needs: at the start of the scratch, once it is laid out. */
typedef struct fl_chunk {
    fastlstm_chunk_learner *m;
    fl_chunk_plan p;
    ptrdiff_t real, B, I, O;
    ptrdiff_t params, weights, state; /* elements */
    char *kept, *scratch, *dy;
    uint8_t *error, *reset;
    fl_chunk_layer *layer;
    fastlstm_layer *backward; /* the layers as their backward pass sees them */
    int fused_sigmoid, has_tail;
} fl_chunk;

/* Weights of a network from which on they are updated and packed group by group. */
enum { FL_LARGE_UPDATE = 65536 };

enum { FL_CHUNK_BYTES = (sizeof(fl_chunk) + 63) / 64 * 64 };

static ptrdiff_t runner_size(const fastlstm_engine *engine, const fastlstm_layer *l, ptrdiff_t steps, ptrdiff_t lanes) {
    return (fl_plan_forward(l, 1, steps, lanes, engine->vw, engine->bits / 8).size + 63) / 64 * 64;
}

static ptrdiff_t chunk_tape_of(const fl_geometry *q, ptrdiff_t window, ptrdiff_t lanes) {
    return rounded(fl_tape_size(q, window, lanes)) + rounded(window * lanes * q->P);
}

static int chunk_fits(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t window, ptrdiff_t lanes) {
    return window > 0 && lanes > 0 && fl_training_fits(engine, layers, n, window, lanes) &&
           fastlstm_chunk_trace_size(engine, layers, n, lanes) >= 0;
}

/* Of sizes that fit. */
static fl_chunk_plan chunk_plan(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t window, ptrdiff_t lanes,
                                int threads) {
    fl_chunk_plan p = {0};
    const ptrdiff_t real = engine->bits / 8, rows = window * lanes, count = (ptrdiff_t)sizeof(ptrdiff_t);
    ptrdiff_t tape = 0, width = 0, errors_x = 0, terms = 0, shrink = 0, call = 0, runners = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, engine->vw);
        const fl_back_plan back = fl_plan_back(layers + i, lanes, engine->vw, real);
        int by_units = 0;
        const int parts = fastlstm_divide(engine, layers + i, 1, window, lanes, threads, &by_units);
        tape += chunk_tape_of(&q, window, lanes) * real;
        runners += runner_size(engine, layers + i, window, lanes);
        call = FL_MAX(call, back.own + back.each * threads);
        if (parts > 1) call = FL_MAX(call, fastlstm_parallel_scratch_size(engine, layers + i, 1, window, lanes, parts, by_units) * real);
        if (i > 0) width = FL_MAX(width, q.I);
        if (i > 0) errors_x = FL_MAX(errors_x, q.groups * q.N * engine->vw);
        terms = FL_MAX(terms, q.traced * q.S * q.groups * engine->vw);
        shrink = FL_MAX(shrink, q.S * q.groups * engine->vw);
    }
    p.x = fl_take(&p.kept, rows * layers[0].input_size * real);
    p.dy = fl_take(&p.kept, rows * outputs_of(layers + n - 1) * real);
    p.start = fl_take(&p.kept, fastlstm_state_size(layers, n, lanes) * real);
    p.error = fl_take(&p.kept, rows);
    p.reset = fl_take(&p.kept, rows + lanes); /* the next step's too */
    p.tape = fl_take(&p.kept, tape);
    p.open = fl_take(&p.size, FL_CHUNK_BYTES); /* first, so that it is found */
    p.layer = fl_take(&p.size, n * (ptrdiff_t)sizeof(fl_chunk_layer));
    p.backward = fl_take(&p.size, n * (ptrdiff_t)sizeof(fastlstm_layer));
    p.lengths = fl_take(&p.size, lanes * (ptrdiff_t)sizeof(int64_t));
    p.rows = fl_take(&p.size, rows * count);
    p.order = fl_take(&p.size, lanes * count);
    p.lane_error = fl_take(&p.size, lanes * (ptrdiff_t)sizeof(int));
    p.dstate = fl_take(&p.size, fastlstm_state_size(layers, n, lanes) * real);
    p.errors[0] = fl_take(&p.size, rows * width * real);
    p.errors[1] = fl_take(&p.size, rows * width * real);
    p.errors_x = fl_take(&p.size, rows * errors_x * real);
    p.terms = fl_take(&p.size, rows * terms * real);
    p.shrink = fl_take(&p.size, lanes * shrink * real);
    p.runners = fl_take(&p.size, runners);
    p.call = fl_take(&p.size, call);
    p.filled = fl_take(&p.size, layers[0].input_size < FL_SPARSE_INPUTS ? 0 : fl_filled_size(rows));
    return p;
}

ptrdiff_t fastlstm_chunk_trace_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes) {
    ptrdiff_t size = 0;
    if (fl_engine_check(engine, layers, n_layers) || any_compact(layers, n_layers) || lanes <= 0 || !fl_counts_fit(layers, n_layers, 1, lanes)) return -1;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, engine->vw);
        size = plus(size, times(lanes, fl_carry_size(layers + i, &q, engine->bits / 8)));
    }
    return times(size, engine->bits / 8) < 0 ? -1 : size;
}

ptrdiff_t fastlstm_chunk_kept_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t window,
                                   ptrdiff_t lanes) {
    if (!chunk_fits(engine, layers, n_layers, window, lanes)) return -1;
    return chunk_plan(engine, layers, n_layers, window, lanes, 1).kept / (engine->bits / 8);
}

ptrdiff_t fastlstm_chunk_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t window,
                                      ptrdiff_t lanes, int threads) {
    if (threads < 1 || threads > FL_MOST_THREADS || !chunk_fits(engine, layers, n_layers, window, lanes)) return -1;
    return chunk_plan(engine, layers, n_layers, window, lanes, threads).size / (engine->bits / 8);
}

fastlstm_status fastlstm_chunk_kept_parts(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t window,
                                          ptrdiff_t lanes, ptrdiff_t part[5]) {
    const fastlstm_status status = fl_engine_check(engine, layers, n_layers);
    if (status) return status;
    if (!part || window <= 0 || lanes <= 0) return FASTLSTM_BAD_ARGUMENT;
    if (!chunk_fits(engine, layers, n_layers, window, lanes)) return FASTLSTM_TOO_LARGE;
    const fl_chunk_plan p = chunk_plan(engine, layers, n_layers, window, lanes, 1);
    const ptrdiff_t at[5] = {p.x, p.dy, p.start, p.error, p.reset};
    memcpy(part, at, sizeof at);
    return FASTLSTM_OK;
}

static fastlstm_status chunk_check(const fastlstm_chunk_learner *m) {
    if (!m || !m->engine || m->held < 0 || m->held > m->window || m->pending < 0 || m->pending > FL_LIMIT) return FASTLSTM_BAD_ARGUMENT;
    if (m->prepared) return FASTLSTM_OK;
    const fastlstm_status status = fastlstm_net_check(m->layers, m->n_layers);
    if (status) return status;
    if (any_reverse(m->layers, m->n_layers) || any_compact(m->layers, m->n_layers)) return FASTLSTM_BAD_LAYER;
    for (ptrdiff_t i = 0; i < m->n_layers; i++)
        if (fl_layer_geometry(m->layers + i, 1).has_noise) return FASTLSTM_BAD_LAYER;
    if (m->gradient_rule < FASTLSTM_TRUNCATED_RTRL || m->gradient_rule > FASTLSTM_BPTT) return FASTLSTM_BAD_ARGUMENT;
    if (m->gradient_rule != FASTLSTM_BPTT && !fl_all_traced(m->layers, m->n_layers)) return FASTLSTM_BAD_LAYER;
    if (!m->params || !m->weights || !m->gradient || !m->kept || !m->state || !m->scratch || (m->gradient_rule != FASTLSTM_BPTT && !m->traces) ||
        m->lanes <= 0 || m->window <= 0 || m->chunk < 0 || (m->gradient_rule != FASTLSTM_TRUNCATED_RTRL && m->window < FL_MAX(m->chunk, 1)) ||
        (m->gradient_rule != FASTLSTM_TRUNCATED_RTRL && m->chunk == 0) || m->threads < 1 || m->threads > FL_MOST_THREADS ||
        m->loss < FASTLSTM_NO_LOSS || m->loss > FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS || !(m->error_bound > 0))
        return FASTLSTM_BAD_ARGUMENT;
    return chunk_fits(m->engine, m->layers, m->n_layers, m->window, m->lanes) ? FASTLSTM_OK : FASTLSTM_TOO_LARGE;
}

static const fl_chunk *chunk_open(fastlstm_chunk_learner *m) {
    fl_chunk *c = (fl_chunk *)m->scratch;
    if (m->prepared) {
        c->m = m; /* it may have been copied */
        c->kept = (char *)m->kept;
        return c;
    }
    *c = (fl_chunk){.m = m, .p = chunk_plan(m->engine, m->layers, m->n_layers, m->window, m->lanes, m->threads)};
    c->real = m->engine->bits / 8;
    c->B = m->lanes;
    c->I = m->layers[0].input_size;
    c->O = outputs_of(m->layers + m->n_layers - 1);
    c->state = fastlstm_state_size(m->layers, m->n_layers, m->lanes);
    c->params = fastlstm_params_size(m->layers, m->n_layers);
    c->fused_sigmoid = fl_fuses_sigmoid(m->loss, m->layers + m->n_layers - 1);
    c->kept = (char *)m->kept;
    c->scratch = (char *)m->scratch;
    c->dy = c->kept + c->p.dy;
    c->error = (uint8_t *)(c->kept + c->p.error);
    c->reset = (uint8_t *)(c->kept + c->p.reset);
    c->layer = (fl_chunk_layer *)(c->scratch + c->p.layer);
    c->backward = (fastlstm_layer *)(c->scratch + c->p.backward);
    memcpy(c->backward, m->layers, (size_t)m->n_layers * sizeof *c->backward);
    if (c->fused_sigmoid) c->backward[m->n_layers - 1].output_activation.kind = FASTLSTM_IDENTITY;
    char *tape = c->kept + c->p.tape, *runner = c->scratch + c->p.runners, *traces = (char *)m->traces;
    for (ptrdiff_t i = 0; i < m->n_layers; i++) {
        fl_chunk_layer *p = c->layer + i;
        p->q = fl_layer_geometry(m->layers + i, m->engine->vw);
        p->x = i ? p[-1].y : c->kept + c->p.x;
        p->tape = tape;
        p->y = tape + rounded(fl_tape_size(&p->q, m->window, m->lanes)) * c->real;
        p->weights = (char *)m->weights + c->weights * c->real;
        p->runner = runner;
        p->traces = traces;
        fl_prepare(m->engine, m->layers + i, 1, p->weights, m->window, m->lanes, runner);
        tape += chunk_tape_of(&p->q, m->window, m->lanes) * c->real;
        runner += runner_size(m->engine, m->layers + i, m->window, m->lanes);
        if (m->gradient_rule != FASTLSTM_BPTT) traces += m->lanes * fl_carry_size(m->layers + i, &p->q, c->real) * c->real;
        c->weights += p->q.packed;
        c->has_tail |= p->q.has_tail;
    }
    m->prepared = 1;
    return c;
}

/* The next n steps of the window through all layers. */
static void chunk_forward(const fl_chunk *c, ptrdiff_t n, const void *x, void *y) {
    fastlstm_chunk_learner *m = c->m;
    const ptrdiff_t from = m->held * c->B, rows = n * c->B, real = c->real;
    int resets = 0;
    if (m->held == 0) memcpy(c->kept + c->p.start, m->state, (size_t)(c->state * real));
    memcpy(c->kept + c->p.x + from * c->I * real, x, (size_t)(rows * c->I * real));
    memset(c->error + from, 0, (size_t)rows);
    memset(c->dy + from * c->O * real, 0, (size_t)(rows * c->O * real));
    for (ptrdiff_t j = 0; j < rows; j++)
        resets |= c->reset[from + j];
    fastlstm_batch batch = {.steps = n, .lanes = c->B, .reset = resets ? c->reset + from : NULL, .state = m->state};
    for (ptrdiff_t i = 0; i < m->n_layers; i++) {
        const fl_chunk_layer *p = c->layer + i;
        const fl_geometry *q = &p->q;
        char *acts = p->tape + from * q->acts * real;
        int by_units = 0;
        const int parts = m->threads == 1 ? 1 : fastlstm_divide(m->engine, m->layers + i, 1, n, c->B, m->threads, &by_units);
        batch.x = p->x + from * q->I * real;
        batch.x_step = c->B * q->I;
        batch.x_lane = q->I;
        batch.y = p->y + from * q->P * real;
        batch.y_step = c->B * q->P;
        batch.y_lane = q->P;
        if (parts > 1) {
            fl_forward_on_tape(m->engine, m->layers + i, 1, p->weights, &batch, c->scratch + c->p.call, parts, by_units, acts, NULL, NULL);
        } else {
            ((fl_runner_head *)p->runner)->tape = acts;
            m->engine->run(p->runner, &batch, NULL, NULL, NULL);
        }
    }
    memcpy(y, batch.y, (size_t)(rows * c->O * real));
}

/* With an empty window, the traces of lanes that are to be reset. */
static void chunk_forget(const fl_chunk *c) {
    const fastlstm_chunk_learner *m = c->m;
    for (ptrdiff_t b = 0; b < c->B; b++) {
        for (ptrdiff_t i = 0; c->reset[b] && m->gradient_rule != FASTLSTM_BPTT && i < m->n_layers; i++) {
            const ptrdiff_t size = fl_carry_size(m->layers + i, &c->layer[i].q, c->real) * c->real;
            memset(c->layer[i].traces + b * size, 0, (size_t)size);
        }
        c->reset[b] = 0;
    }
}

/* One phase of a layer on all threads. */
typedef struct fl_chunk_call {
    const fastlstm_engine *engine;
    const fl_back *b;
    int phase, threads;
} fl_chunk_call;

static void run_chunk(void *context, int part, int parts) {
    const fl_chunk_call *call = (const fl_chunk_call *)context;
    for (; part < call->threads; part += parts)
        call->engine->backward(call->b, call->phase, part, call->threads, NULL, NULL);
}

/* Makes the window's gradient, and with it, if it may, the update that is due (large layers: weights while they are in
   cache); returns whether it has. */
static int chunk_settle(const fl_chunk *c, int update) {
    fastlstm_chunk_learner *m = c->m;
    const ptrdiff_t K = m->held, B = c->B, real = c->real;
    int64_t *lengths = (int64_t *)(c->scratch + c->p.lengths);
    ptrdiff_t *rows = (ptrdiff_t *)(c->scratch + c->p.rows), *order = (ptrdiff_t *)(c->scratch + c->p.order), n_rows = 0;
    const int truncated = m->gradient_rule == FASTLSTM_TRUNCATED_RTRL, carries = m->gradient_rule != FASTLSTM_BPTT;
    int resets = 0;
    if (K == 0) return 0;
    memset(lengths, 0, (size_t)B * sizeof *lengths);
    for (ptrdiff_t t = 0; t < K; t++)
        for (ptrdiff_t b = 0; b < B; b++) {
            if (c->error[t * B + b]) lengths[b] = t + 1;
            resets |= c->reset[t * B + b];
        }
    for (ptrdiff_t row = (K - 1) * B - 1; row >= 0; row--)
        if (c->error[row + B] && !c->reset[row + B]) c->error[row] |= 2; /* it goes back to where the episode began */
    for (ptrdiff_t row = 0; row < K * B; row++)
        if (truncated ? c->error[row] != 0 : row / B < lengths[row % B]) rows[n_rows++] = row;
    fl_sort_lanes(order, lengths, B);
    const fastlstm_batch whole = {.steps = K, .lanes = B, .reset = resets ? c->reset : NULL, .state = m->state};
    fastlstm_batch batch = whole;
    batch.lengths = lengths;
    memset(c->scratch + c->p.dstate, 0, (size_t)(c->state * real));
    update = update && n_rows && !m->gathered && c->weights >= FL_LARGE_UPDATE && !c->has_tail && !(m->optimizer->clip_norm > 0);

    const char *dy = c->dy;
    for (ptrdiff_t i = m->n_layers - 1; i >= 0 && (n_rows || carries); i--) {
        const fl_chunk_layer *p = c->layer + i;
        const fl_geometry *q = &p->q;
        char *dx = i && n_rows ? c->scratch + c->p.errors[i & 1] : NULL;
        const int carry_on = carries && c->backward[i].kind == FASTLSTM_LSTM;
        const fl_carry carry = {&whole, truncated, c->error, p->traces, c->scratch + c->p.terms, c->scratch + c->p.shrink};
        const fl_back back = {
            .l = c->backward + i, .packed = p->weights, .batch = &batch, .x = p->x, .y = p->y, .dy = dy, .dx = dx,
            .x_step = B * q->I, .x_lane = q->I, .y_step = B * q->P, .y_lane = q->P, .dy_step = B * q->P, .dy_lane = q->P,
            .dx_step = B * q->I, .dx_lane = q->I, .state = c->kept + c->p.start, .dstate = c->scratch + c->p.dstate, .tape = p->tape,
            .gradient = m->gradient, .add_gradient = m->gathered, .errors_x = carry_on && truncated && dx ? c->scratch + c->p.errors_x : NULL,
            .carry = carry_on ? &carry : NULL, .optimizer = update ? m->optimizer : NULL, .params = m->params, .rows = rows, .n_rows = n_rows, .order = order,
            .filled = i || carry_on || q->I < FL_SPARSE_INPUTS ? NULL : c->scratch + c->p.filled, .scratch = c->scratch + c->p.call,
            .plan = fl_plan_back(c->backward + i, B, m->engine->vw, real)};
        const ptrdiff_t work = times(times(q->packed, K), B);
        fl_chunk_call call = {m->engine, &back, 0, work >= 0 && work < FL_CALL_WORK ? 1 : m->threads};
        memset(c->scratch + c->p.call + back.plan.zeros, 0, (size_t)(FL_MAX(q->H, q->A) * real));
        for (call.phase = n_rows ? 0 : 1; call.phase < 3; call.phase++)
            if (n_rows || carry_on) fl_parallel(call.phase == 1 && B < call.threads ? (int)B : call.threads, run_chunk, &call);
        if (dx && m->error_bound < INFINITY) {
            const fl_fpu mode = fl_fpu_enter();
            m->engine->bound(K * B * q->I, dx, m->error_bound);
            fl_fpu_leave(mode);
        }
        dy = dx;
    }
    if (n_rows) m->gathered = m->has_error = 1;
    /* A reset that waits for the next step comes after these. */
    memcpy(c->reset, c->reset + K * B, (size_t)B);
    memset(c->reset + B, 0, (size_t)(K * B));
    m->held = 0;
    chunk_forget(c);
    return update;
}

static void chunk_apply(const fl_chunk *c) {
    fastlstm_chunk_learner *m = c->m;
    const int updated = chunk_settle(c, m->optimizer != NULL);
    if (m->optimizer && m->has_error) {
        if (updated) {
            m->optimizer->steps++;
        } else {
            if (!m->gathered) memset(m->gradient, 0, (size_t)(c->params * c->real)); /* all errors were zero */
            m->engine->update(m->optimizer, c->params, m->params, m->gradient);
            m->engine->pack(m->layers, m->n_layers, m->params, m->weights);
        }
        const fl_fpu mode = fl_fpu_enter();
        m->optimizer->lr *= m->decay;
        fl_fpu_leave(mode);
        m->gathered = 0;
    }
    m->has_error = 0;
    m->pending = 0;
}

/* After n steps whose errors are known. */
static void chunk_advance(const fl_chunk *c, ptrdiff_t n) {
    fastlstm_chunk_learner *m = c->m;
    m->held += n;
    m->pending += n;
    if (m->optimizer && m->chunk > 0 && m->pending >= m->chunk) chunk_apply(c);
    else if (m->held == m->window || (m->gradient_rule != FASTLSTM_TRUNCATED_RTRL && m->held >= m->chunk)) chunk_settle(c, 0);
}

/* Errors of the window's step at row `from`, of step t of the targets, or as they are in dy. */
static void chunk_errors(const fl_chunk *c, ptrdiff_t from, const void *y, const void *targets, ptrdiff_t t) {
    fastlstm_chunk_learner *m = c->m;
    int *error = (int *)(c->scratch + c->p.lane_error);
    char *dy = c->dy + from * c->O * c->real;
    double loss;
    const fl_fpu mode = fl_fpu_enter();
    if (m->engine->step_loss(m->loss, c->fused_sigmoid, c->B, c->O, y, targets, t, dy, error, &loss)) {
        m->loss_sum += loss;
        m->loss_steps++;
        for (ptrdiff_t b = 0; b < c->B; b++)
            c->error[from + b] = error[b] != 0;
        if (m->error_bound < INFINITY) m->engine->bound(c->B * c->O, dy, m->error_bound);
    }
    fl_fpu_leave(mode);
}

/* A step that waits for its error gets none. */
static void chunk_close(const fl_chunk *c) {
    if (c->m->open) chunk_advance(c, 1);
    c->m->open = 0;
}

static void chunk_reset(const fl_chunk *c, const uint8_t *mask) {
    fastlstm_chunk_learner *m = c->m;
    const ptrdiff_t B = c->B;
    uint8_t *next = c->reset + m->held * B;
    int any = 0;
    for (ptrdiff_t b = 0; b < B; b++)
        any |= !mask || mask[b];
    if (!any) return;
    if (m->chunk == 0) chunk_apply(c), next = c->reset; /* an episode's end is where its gradient is applied */
    for (ptrdiff_t b = 0; b < B; b++)
        if (!mask || mask[b]) next[b] = 1;
    for (ptrdiff_t i = 0; i < m->n_layers; i++) {
        const fastlstm_layer *l = m->layers + i;
        const fl_geometry q = fl_layer_geometry(l, 1);
        const ptrdiff_t at[3] = {l->state_h, l->state_c, l->state_a}, n[3] = {q.P, l->kind == FASTLSTM_LSTM ? q.H : 0, q.A};
        for (int part = 0; l->kind != FASTLSTM_LINEAR && part < 3; part++)
            for (ptrdiff_t b = 0; b < B; b++)
                if (next[b] && n[part]) memset((char *)m->state + (at[part] * B + b * n[part]) * c->real, 0, (size_t)(n[part] * c->real));
    }
    if (m->held == 0) chunk_forget(c);
}

fastlstm_status fastlstm_chunk_run(fastlstm_chunk_learner *m, ptrdiff_t steps, const void *x, const void *targets, const uint8_t *reset,
                                   void *y, ptrdiff_t *done, fastlstm_poll poll, void *context) {
    fastlstm_status status = chunk_check(m);
    if (status) return status;
    if (steps <= 0 || !x || !y || !done) return FASTLSTM_BAD_ARGUMENT;
    const ptrdiff_t O = outputs_of(m->layers + m->n_layers - 1);
    if (times(times(steps, m->lanes), FL_MAX(m->layers[0].input_size, O)) < 0) return FASTLSTM_TOO_LARGE;
    status = fl_targets_check(m->loss, targets, steps * m->lanes, O);
    if (status) return status;
    const fl_chunk *c = chunk_open(m);
    const ptrdiff_t weights = c->weights, B = c->B;
    /* Steps whose forward pass may go on without a poll: some tens of milliseconds. In fewer, input products read their weights more often. */
    const ptrdiff_t most = FL_MAX(8 * FL_POLL_WORK / (weights * B), 1);
    ptrdiff_t t = 0, work = 0;
    int stop = 0;
    chunk_close(c);
    while (t < steps && !stop) {
        ptrdiff_t n = FL_MIN(FL_MIN(steps - t, most), m->window - m->held);
        if (m->chunk > 0 && m->optimizer) n = FL_MIN(n, m->chunk - m->pending);
        if (m->chunk > 0 && m->gradient_rule != FASTLSTM_TRUNCATED_RTRL) n = FL_MIN(n, m->chunk - m->held);
        if (reset) {
            chunk_reset(c, reset + t * B);
            ptrdiff_t same = 1;
            for (int any = 0; same < n; same++) {
                for (ptrdiff_t b = 0; b < B; b++)
                    any |= reset[(t + same) * B + b];
                if (any && m->chunk == 0) break; /* an update comes first */
            }
            n = same;
            for (ptrdiff_t j = B; j < n * B; j++)
                c->reset[m->held * B + j] = reset[t * B + j] != 0;
        }
        chunk_forward(c, n, (const char *)x + t * B * c->I * c->real, (char *)y + t * B * O * c->real);
        for (ptrdiff_t j = 0; j < n; j++)
            chunk_errors(c, (m->held + j) * B, (char *)y + (t + j) * B * O * c->real, targets, t + j);
        chunk_advance(c, n);
        t += n;
        work += 4 * n * B * weights;
        if (poll && work >= FL_POLL_WORK && t < steps) {
            work = 0;
            stop = poll(context);
        }
    }
    *done = t;
    return stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

fastlstm_status fastlstm_chunk_forward(fastlstm_chunk_learner *m, const void *x, void *y) {
    const fastlstm_status status = chunk_check(m);
    if (status) return status;
    if (!x || !y) return FASTLSTM_BAD_ARGUMENT;
    const fl_chunk *c = chunk_open(m);
    chunk_close(c);
    chunk_forward(c, 1, x, y);
    m->open = 1;
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_chunk_backward(fastlstm_chunk_learner *m, const void *dy) {
    const fastlstm_status status = chunk_check(m);
    if (status) return status;
    if (!m->open) return FASTLSTM_BAD_ARGUMENT;
    const fl_chunk *c = chunk_open(m);
    if (dy) {
        const ptrdiff_t from = m->held * c->B;
        const fl_fpu mode = fl_fpu_enter();
        char *to = memcpy(c->dy + from * c->O * c->real, dy, (size_t)(c->B * c->O * c->real));
        for (ptrdiff_t b = 0; b < c->B; b++) /* a lane whose error is all zero has no target */
            for (ptrdiff_t k = b * c->O; k < (b + 1) * c->O; k++)
                c->error[from + b] |= c->real == 8 ? !(((const double *)dy)[k] == 0) : !(((const float *)dy)[k] == 0);
        if (m->error_bound < INFINITY) m->engine->bound(c->B * c->O, to, m->error_bound);
        fl_fpu_leave(mode);
        /* A zero error is an error where it was asked for: it makes the step count. */
        m->has_error = 1;
    }
    chunk_close(c);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_chunk_learn(fastlstm_chunk_learner *m, const void *targets) {
    fastlstm_status status = chunk_check(m);
    if (status) return status;
    if (!m->open) return FASTLSTM_BAD_ARGUMENT;
    status = fl_targets_check(m->loss, targets, m->lanes, outputs_of(m->layers + m->n_layers - 1));
    if (status) return status;
    const fl_chunk *c = chunk_open(m);
    chunk_errors(c, m->held * c->B, c->layer[m->n_layers - 1].y + m->held * c->B * c->O * c->real, targets, 0);
    chunk_close(c);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_chunk_reset(fastlstm_chunk_learner *m, const uint8_t *mask) {
    const fastlstm_status status = chunk_check(m);
    if (status) return status;
    const fl_chunk *c = chunk_open(m);
    chunk_close(c);
    chunk_reset(c, mask);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_chunk_apply(fastlstm_chunk_learner *m) {
    const fastlstm_status status = chunk_check(m);
    if (status) return status;
    const fl_chunk *c = chunk_open(m);
    chunk_close(c);
    chunk_apply(c);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_chunk_settle(fastlstm_chunk_learner *m) {
    const fastlstm_status status = chunk_check(m);
    if (status) return status;
    const fl_chunk *c = chunk_open(m);
    chunk_close(c);
    chunk_settle(c, 0);
    return FASTLSTM_OK;
}
