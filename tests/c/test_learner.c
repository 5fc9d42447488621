/* Truncated learning of every engine of this machine against a naive reference in double; the reference against
   differences of its own losses; the bits, which no cut into calls and no instruction set with fma may change. */
#include "school.h"

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
                             .lr = u->lr, .momentum = u->momentum, .decay = u->decay, .chunk = u->chunk,
                             .lazy = u->lazy}};
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
static pupil move(pupil *p) {
    const lesson *u = p->u;
    CHECK(CALL(fastlstm_learner_settle(&p->m)) == FASTLSTM_OK);
    const net *m = &u->k.m;
    const fastlstm_engine *e = p->m.engine;
    const int bits = fastlstm_engine_bits(e);
    pupil to = pupil_new(u, e, u->k.w);
    ptrdiff_t size;
    const void *from[3] = {p->m.weights, p->m.velocity, p->m.gradient};
    void *packed[3] = {to.m.weights, to.m.velocity, to.m.gradient};
    for (int j = 0; j < 3; j++) {
        if (!packed[j]) continue;
        const void *params = unpacked(p, from[j]); /* a call too, so not inside the next one */
        CHECK(CALL(fastlstm_pack(e, m->l, m->n, params, packed[j])) == FASTLSTM_OK);
    }
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
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m);
    void *x = feed_all(bits, u->k.x + t * B * I, steps * B * I), *y = real_new(bits, steps * B * O), *targets = feed_targets(u, bits, t, steps);
    const uint8_t *reset = feed_resets(u, t, steps);
    ptrdiff_t done = -1;
    CHECK(CALL(fastlstm_learner_run(&p->m, steps, x, targets, reset, y, &done, NULL, NULL)) == FASTLSTM_OK);
    CHECK(done == steps);
    memcpy(p->y + t * B * O * (bits / 8), y, (size_t)(steps * B * O * bits / 8));
    memory_release(mark);
}

/* One step by halves; the loss is computed here. */
static void study_by_halves(pupil *p, ptrdiff_t t) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(p->m.engine);
    const lesson *u = p->u;
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m);
    void *x = feed_all(bits, u->k.x + t * B * I, B * I), *y = real_new(bits, B * O);
    if (any_reset(u, t)) CHECK(CALL(fastlstm_learner_reset(&p->m, u->k.reset + t * B)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_learner_forward(&p->m, x, y)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_learner_backward(&p->m, own_error(u, bits, t, y))) == FASTLSTM_OK);
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
    CHECK(CALL(fastlstm_learner_settle(&p.m)) == FASTLSTM_OK);
    return p;
}

static long cases;

/* As csrc/scratch.h chooses: in the widest vectors the first layer's row-vectors would be half empty. Its bits are then those of
   updates at once on every instruction set. */
static int never_put_off(const fastlstm_layer *l, const fastlstm_engine *e) {
    const ptrdiff_t wide = 64 * 8 / fastlstm_engine_bits(e);
    return l->kind == FASTLSTM_LSTM && !l->peepholes && l->block_size <= 4 && l->hidden_size <= wide && 2 * l->hidden_size / l->block_size <= wide;
}

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
            if (u->lazy) { /* what is put off has the same values to rounding, whatever the cut; what is kept side by side, the same bits */
                lesson at_once = *u;
                at_once.lazy = 0;
                const pupil other = teach(&at_once, e, ONE_RUN);
                if (never_put_off(m->l, e)) CHECK(pupil_hash(&other) == hash && pupil_hash(&pieces) == hash);
                else compare(bits, OUTPUT, pieces.y, y, T * B * O);
            }
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
            CHECK(pieces.m.loss_steps == p.m.loss_steps && (u->lazy || (pupil_hash(&pieces) == hash && pieces.m.loss_sum == p.m.loss_sum)));
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

/* ---- Streams that end with their first wrong prediction: the bits of steps, and of a reset after each that was wrong ---- */

static void check_streams(const fastlstm_engine *e) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(e);
    lesson u = {.loss = FASTLSTM_SSE, .update = 1, .chunk = 1, .lr = 0.0625, .decay = 1};
    task *k = &u.k;
    add(&k->m, lstm(3, 5, 1, IFO), 2);
    add(&k->m, linear(5, 2, FASTLSTM_IDENTITY), 1);
    fill_task(k, 40, 1, 0, 0);
    describe("streams", k, fastlstm_engine_isa(e), bits);
    u.target = memory_zeros(k->T * 2);
    for (ptrdiff_t j = 0; j < k->T * 2; j++)
        u.target[j] = j % 5 ? random_number(0) : NAN;
    uint8_t starts[40], followed[40];
    for (ptrdiff_t t = 0; t < 40; t++)
        starts[t] = t % 4 == 2;
    pupil p = pupil_new(&u, e, k->w), wanted = pupil_new(&u, e, k->w);
    const size_t size = (size_t)(k->T * 2 * bits / 8);
    memset(p.y, 0, size);
    memset(wanted.y, 0, size);
    const fastlstm_streams s = {.steps = k->T, .x = feed_all(bits, k->x, k->T * 3), .targets = feed_all(bits, u.target, k->T * 2),
                                .starts = starts, .tolerance = 0.5, .y = p.y, .followed = followed};
    CHECK(CALL(fastlstm_learner_follow(&p.m, &s, NULL, NULL)) == FASTLSTM_OK);
    int ended = 0, skipped = 0;
    for (ptrdiff_t t = 0; t < k->T; t++) {
        ended &= !starts[t];
        CHECK(followed[t] == !ended);
        skipped += ended;
        if (ended) continue;
        study(&wanted, t, 1);
        for (ptrdiff_t j = 2 * t; j < 2 * t + 2; j++) {
            const double y = bits == 64 ? ((double *)wanted.y)[j] : ((float *)wanted.y)[j];
            const double target = bits == 64 ? u.target[j] : (float)u.target[j];
            ended |= fabs(y - target) >= 0.5;
        }
        if (ended) CHECK(CALL(fastlstm_learner_reset(&wanted.m, NULL)) == FASTLSTM_OK);
    }
    CHECK(skipped > 0 && skipped < k->T);
    CHECK(pupil_hash(&p) == pupil_hash(&wanted));
    fastlstm_streams bad = s;
    bad.tolerance = 0;
    CHECK(fastlstm_learner_follow(&p.m, &bad, NULL, NULL) == FASTLSTM_BAD_ARGUMENT);
    bad = s;
    bad.targets = NULL;
    CHECK(fastlstm_learner_follow(&p.m, &bad, NULL, NULL) == FASTLSTM_BAD_ARGUMENT);
    CHECK(fastlstm_learner_follow(&p.m, NULL, NULL, NULL) == FASTLSTM_BAD_ARGUMENT);
    CHECK(fastlstm_chunk_follow(NULL, &s, NULL, NULL) == FASTLSTM_BAD_ARGUMENT);
    p.m.lanes = 2;
    CHECK(fastlstm_learner_follow(&p.m, &s, NULL, NULL) == FASTLSTM_BAD_ARGUMENT);
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
        if (u.update && u.chunk == 1 && u.k.B == 1) {
            u.lazy = 1;
            check_learner(&u);
        }
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 60; n++) { /* few blocks, and inputs that are mostly zero */
        lesson u = {.lazy = 1};
        const ptrdiff_t S = 1 + n / 3 % 4, I = n % 3 == 2 ? 133 : 1 + n % 9;
        fastlstm_layer l = lstm(I, (1 + n % 4) * S, S, gate_sets[n % 10]);
        l.gate_recurrence = n % 2;
        if (n % 6 == 5) l.clip = 0.5;
        add(&u.k.m, l, (int)(n % 3));
        if (n % 5) add(&u.k.m, linear(l.hidden_size, 1 + n % 5, FASTLSTM_SIGMOID), 1);
        fill_lesson(&u, 21, 1, FASTLSTM_SSE, 1 + (int)(n & 1), n % 4 < 2);
        for (ptrdiff_t j = 0; j < u.k.T * I; j++)
            if (random_below(3)) u.k.x[j] = 0;
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
            check_poll(fastlstm_engine_select(isa, bits)), check_streams(fastlstm_engine_select(isa, bits));
    }
    golden_tests();
    return report("learner", cases);
}
