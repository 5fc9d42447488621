/* Learners in chunks, of every engine of this machine: the truncated gradient against a naive learner in double; the bits of
   all gradients, which no cut into calls, no number of threads and no instruction set with fma may change; copies; refusals. */
#include "school.h"

typedef struct plan {
    int rule, threads;
    ptrdiff_t window;
    double bound;
} plan;

/* ---- The library's learner ---- */

typedef struct pupil {
    fastlstm_chunk_learner m;
    fastlstm_optimizer sgd;
    const lesson *u;
    char *y;                 /* (T, B, O) */
    ptrdiff_t kept, traces;  /* elements */
} pupil;

static void *zeros_new(int bits, ptrdiff_t n) { return memset(real_new(bits, n), 0, (size_t)(n * bits / 8)); }

/* Parameters as the library has them; of unused places the bits are kept. */
static void *params_new(int bits, const double *w, ptrdiff_t n) {
    void *params = feed_all(bits, w, n);
    for (ptrdiff_t j = 0; j < n; j++)
        if (w[j] != w[j]) memset((char *)params + j * (bits / 8), 0xff, (size_t)(bits / 8));
    return params;
}

/* The optimiser is in the pupil, which may move: see `ready`. */
static pupil pupil_new(const lesson *u, const plan *a, const fastlstm_engine *e) {
    const net *m = &u->k.m;
    const int bits = fastlstm_engine_bits(e);
    const ptrdiff_t B = u->k.B;
    pupil p = {.u = u,
               .m = {.engine = e, .layers = m->l, .n_layers = m->n, .lanes = B, .gradient_rule = a->rule, .threads = a->threads,
                     .window = a->window, .decay = u->decay, .error_bound = a->bound, .chunk = u->chunk, .loss = u->loss},
               .sgd = {.kind = FASTLSTM_SGD, .lr = u->lr, .momentum = u->momentum}};
    p.kept = fastlstm_chunk_kept_size(e, m->l, m->n, a->window, B);
    p.traces = a->rule == FASTLSTM_BPTT ? 0 : fastlstm_chunk_trace_size(e, m->l, m->n, B);
    p.m.params = params_new(bits, u->k.w, m->params);
    p.m.weights = pack(m, u->k.w, e);
    p.m.gradient = zeros_new(bits, m->params);
    p.m.kept = zeros_new(bits, p.kept);
    p.m.traces = a->rule == FASTLSTM_BPTT ? NULL : zeros_new(bits, p.traces);
    p.m.state = zeros_new(bits, m->state * B);
    p.m.scratch = real_new(bits, fastlstm_chunk_scratch_size(e, m->l, m->n, a->window, B, a->threads));
    if (u->momentum != 0) p.sgd.first = zeros_new(bits, m->params);
    p.y = real_new(bits, u->k.T * B * width_out(m));
    return p;
}

static fastlstm_chunk_learner *ready(pupil *p) {
    p->m.optimizer = p->u->update ? &p->sgd : NULL;
    return &p->m;
}

/* An array like the parameters, but for places that nobody uses: NaN there may get any sign. */
static uint64_t used_hash(uint64_t hash, const pupil *p, const void *array) {
    const ptrdiff_t real = fastlstm_engine_bits(p->m.engine) / 8;
    const double *w = p->u->k.w;
    for (ptrdiff_t j = 0; j < p->u->k.m.params; j++)
        if (w[j] == w[j]) hash = fnv(hash, (const char *)array + j * real, (size_t)real);
    return hash;
}

static uint64_t pupil_hash(const pupil *p) {
    const net *m = &p->u->k.m;
    const ptrdiff_t B = p->u->k.B, real = fastlstm_engine_bits(p->m.engine) / 8;
    uint64_t hash = fnv(FNV_BEGIN, p->y, (size_t)(p->u->k.T * B * width_out(m) * real));
    hash = used_hash(hash, p, p->m.params);
    if (p->sgd.first) hash = used_hash(hash, p, p->sgd.first);
    if (p->m.gathered) hash = used_hash(hash, p, p->m.gradient);
    if (p->m.traces) hash = fnv(hash, p->m.traces, (size_t)(p->traces * real));
    hash = fnv(hash, p->m.state, (size_t)(m->state * B * real));
    hash = fnv(hash, &p->sgd.lr, sizeof p->sgd.lr);
    hash = fnv(hash, &p->sgd.steps, sizeof p->sgd.steps);
    hash = fnv(hash, &p->m.held, sizeof p->m.held);
    hash = fnv(hash, &p->m.pending, sizeof p->m.pending);
    hash = fnv(hash, &p->m.gathered, sizeof p->m.gathered);
    return fnv(hash, &p->m.has_error, sizeof p->m.has_error);
}

/* A new pupil who knows what this one does: the window's steps are run again. */
static pupil move(pupil *p, const plan *a) {
    const lesson *u = p->u;
    const net *m = &u->k.m;
    const ptrdiff_t B = u->k.B, real = fastlstm_engine_bits(p->m.engine) / 8, held = p->m.held;
    const ptrdiff_t size[5] = {held * B * width_in(m) * real, held * B * width_out(m) * real, m->state * B * real, held * B, (held + 1) * B};
    ptrdiff_t part[5], done;
    pupil to = pupil_new(u, a, p->m.engine);
    const int mark = memory_mark();
    CHECK(fastlstm_chunk_kept_parts(p->m.engine, m->l, m->n, a->window, B, part) == FASTLSTM_OK);
    memcpy(to.m.params, p->m.params, (size_t)(m->params * real));
    memcpy(to.m.weights, p->m.weights, (size_t)(fastlstm_packed_size(p->m.engine, m->l, m->n) * real));
    memcpy(to.m.gradient, p->m.gradient, (size_t)(m->params * real));
    if (to.m.traces) memcpy(to.m.traces, p->m.traces, (size_t)(p->traces * real));
    if (to.sgd.first) memcpy(to.sgd.first, p->sgd.first, (size_t)(m->params * real));
    memcpy(to.y, p->y, (size_t)(u->k.T * B * width_out(m) * real));
    memcpy(to.m.state, (char *)p->m.kept + part[2], (size_t)size[2]);
    memcpy((char *)to.m.kept + part[4], (char *)p->m.kept + part[4], (size_t)size[4]);
    if (held) {
        void *y = memory_new((size_t)size[1]);
        CHECK(CALL(fastlstm_chunk_run(ready(&to), held, (char *)p->m.kept + part[0], NULL, NULL, y, &done, NULL, NULL)) == FASTLSTM_OK);
    }
    for (int j = 0; j < 5; j++)
        memcpy((char *)to.m.kept + part[j], (char *)p->m.kept + part[j], (size_t)size[j]);
    memcpy(to.m.state, p->m.state, (size_t)size[2]);
    memory_release(mark);
    to.sgd.lr = p->sgd.lr;
    to.sgd.steps = p->sgd.steps;
    to.m.held = held;
    to.m.pending = p->m.pending;
    to.m.gathered = p->m.gathered;
    to.m.has_error = p->m.has_error;
    to.m.loss_sum = p->m.loss_sum;
    to.m.loss_steps = p->m.loss_steps;
    return to;
}

/* One call, steps [t, t + steps). */
static void study(pupil *p, ptrdiff_t t, ptrdiff_t steps) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(p->m.engine);
    const lesson *u = p->u;
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m);
    void *x = feed_all(bits, u->k.x + t * B * I, steps * B * I), *y = real_new(bits, steps * B * O), *targets = feed_targets(u, bits, t, steps);
    const uint8_t *reset = feed_resets(u, t, steps);
    ptrdiff_t done = -1;
    CHECK(CALL(fastlstm_chunk_run(ready(p), steps, x, targets, reset, y, &done, NULL, NULL)) == FASTLSTM_OK);
    CHECK(done == steps);
    memcpy(p->y + t * B * O * (bits / 8), y, (size_t)(steps * B * O * bits / 8));
    memory_release(mark);
}

/* One step by halves, whose error is computed here, or by the learner where it is not plain. */
static void study_by_halves(pupil *p, ptrdiff_t t) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(p->m.engine);
    const lesson *u = p->u;
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m);
    const int plain = u->loss == FASTLSTM_NO_LOSS || u->loss == FASTLSTM_MSE || u->loss == FASTLSTM_SSE;
    void *x = feed_all(bits, u->k.x + t * B * I, B * I), *y = real_new(bits, B * O);
    if (any_reset(u, t)) CHECK(CALL(fastlstm_chunk_reset(ready(p), u->k.reset + t * B)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_chunk_forward(ready(p), x, y)) == FASTLSTM_OK && p->m.open);
    if (plain) CHECK(CALL(fastlstm_chunk_backward(ready(p), own_error(u, bits, t, y))) == FASTLSTM_OK);
    else CHECK(CALL(fastlstm_chunk_learn(ready(p), feed_targets(u, bits, t, 1))) == FASTLSTM_OK);
    CHECK(!p->m.open);
    memcpy(p->y + t * B * O * (bits / 8), y, (size_t)(B * O * bits / 8));
    memory_release(mark);
}

enum { ONE_RUN, PIECES, HALVES };

/* A whole lesson; with chunk 0 the gradient is applied in its middle and at its end. What is in the window at the end is settled. */
static pupil teach(const lesson *u, const plan *a, const fastlstm_engine *e, int way) {
    pupil p = pupil_new(u, a, e);
    const ptrdiff_t T = u->k.T, middle = T / 2;
    for (ptrdiff_t t = 0, steps; t < T; t += steps) {
        steps = way != ONE_RUN ? 1 : t == 0 && u->chunk == 0 && middle ? middle : T - t;
        if (way == PIECES && t > 2) steps = t < middle ? middle - t : T - t;
        if (way == PIECES && (t == 2 || t == middle)) p = move(&p, a);
        if (way == HALVES) study_by_halves(&p, t);
        else study(&p, t, steps);
        if (u->chunk == 0 && (t + steps == middle || t + steps == T)) CHECK(CALL(fastlstm_chunk_apply(ready(&p))) == FASTLSTM_OK);
    }
    CHECK(CALL(fastlstm_chunk_settle(ready(&p))) == FASTLSTM_OK && p.m.held == 0);
    return p;
}

/* ---- Against the naive learner ---- */

/* The naive learner's traces in the layout of csrc/carry.h, without its padding, and the library's. */
static ptrdiff_t gather_traces(const school *c, const pupil *p, double *wanted, void *got) {
    const lesson *u = c->u;
    const int bits = fastlstm_engine_bits(p->m.engine);
    const ptrdiff_t line = 512 / bits;
    ptrdiff_t from = 0, n = 0;
    for (ptrdiff_t d = 0; d < u->k.m.n; d++) {
        const shape q = shape_of(u->k.m.l + d);
        const ptrdiff_t sources = q.M - (q.biases > 1), width = (sources + line - 1) / line * line;
        if (q.l->kind == FASTLSTM_LINEAR) continue;
        for (ptrdiff_t b = 0; b < u->k.B; b++) {
            const int kind[3] = {1, 1 + q.i, 0}, exists[3] = {q.i, q.f, 1}; /* i, f, g; the school's order is g, i, f */
            for (int j = 0; j < 3; j++)
                for (ptrdiff_t unit = 0; exists[j] && unit < q.H; unit++, from += width)
                    for (ptrdiff_t k = 0; k < sources; k++, n++) {
                        const ptrdiff_t at = k < sources - (q.biases > 0) ? q.biases + k : 0; /* the school's biases come first */
                        wanted[n] = c->trace[d][trace_at(&q, b, unit, kind[j], at)];
                        real_put(bits, got, n, real_get(bits, p->m.traces, from + k));
                    }
            for (ptrdiff_t gate = 0; q.l->peepholes && gate < 2; gate++)
                for (ptrdiff_t unit = 0; unit < q.H; unit++)
                    for (ptrdiff_t w = 0; w < q.S; w++, n++) {
                        wanted[n] = c->trace[d][peephole_trace_at(&q, u->k.B, b, gate, unit % q.S, w, unit / q.S)];
                        real_put(bits, got, n, real_get(bits, p->m.traces, from + (gate * q.H + unit) * q.S + w));
                    }
            if (q.l->peepholes) from += (2 * q.H * q.S + line - 1) / line * line;
        }
    }
    CHECK(from == p->traces && "the layout is that of csrc/carry.h");
    return n;
}

static long cases;

/* All engines, ways and numbers of threads; with the naive learner if the gradient is the truncated one. */
static void check_chunks(const lesson *u, const plan *given, int most_threads) {
    const int begin = memory_mark(), naive = given->rule == FASTLSTM_TRUNCATED_RTRL && given->bound == INFINITY;
    const net *m = &u->k.m;
    const ptrdiff_t T = u->k.T, B = u->k.B, O = width_out(m);
    double *y = memory_zeros(T * B * O);
    school c = school_new(u, u->k.w);
    cases++;
    for (ptrdiff_t t = 0; t < T && naive; t++) {
        memcpy(y + t * B * O, school_step(&c, t), (size_t)(B * O) * sizeof *y);
        if (u->chunk == 0 && (t + 1 == T / 2 || t + 1 == T)) school_apply(&c);
    }
    for (int bits = 32; bits <= 64; bits += 32) {
        const int mark = memory_mark();
        const char *isa;
        uint64_t fused = 0;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            plan a = *given;
            a.threads = 1;
            describe("chunks", &u->k, isa, bits);
            const size_t used = strlen(check_case);
            snprintf(check_case + used, sizeof check_case - used, " rule %d window %ld loss %d update %d chunk %ld momentum %g bound %g", a.rule,
                     (long)a.window, u->loss, u->update, (long)u->chunk, u->momentum, a.bound);
            const pupil p = teach(u, &a, e, ONE_RUN);
            const uint64_t hash = pupil_hash(&p);
            if (naive) {
                compare(bits, OUTPUT, p.y, y, T * B * O);
                compare(bits, WEIGHT, p.m.params, c.w, m->params);
                if (p.sgd.first) compare(bits, GRADIENT, p.sgd.first, c.velocity, m->params);
                if (p.m.gathered) compare(bits, GRADIENT, p.m.gradient, c.gradient, m->params);
                double *wanted = memory_zeros(p.traces);
                void *got = real_new(bits, p.traces);
                compare(bits, TRACE, got, wanted, gather_traces(&c, &p, wanted, got));
                compare(bits, LOSS, feed_all(bits, &p.m.loss_sum, 1), &c.loss_sum, 1);
                CHECK(p.m.loss_steps == c.loss_steps && p.m.pending == c.pending && p.m.has_error == c.has_error);
                CHECK(!u->update || p.sgd.lr == c.lr);
            }
            for (int way = PIECES; way <= HALVES; way++) {
                const pupil other = teach(u, &a, e, way);
                CHECK(pupil_hash(&other) == hash && "the cut into calls changes no bit");
                if (way == PIECES) CHECK(other.m.loss_sum == p.m.loss_sum && other.m.loss_steps == p.m.loss_steps);
            }
            for (a.threads = 2; a.threads <= most_threads; a.threads++) {
                const pupil other = teach(u, &a, e, ONE_RUN);
                CHECK(pupil_hash(&other) == hash && "threads change no bit");
            }
            if (!is_fused(isa)) continue;
            if (fused) CHECK(hash == fused && "instruction sets agree");
            fused = hash;
        }
        memory_release(mark);
    }
    memory_release(begin);
}

static plan plan_of(const lesson *u, int rule, ptrdiff_t n) {
    const ptrdiff_t windows[] = {1, 2, 5, 7, 32}, window = windows[n % COUNT(windows)];
    plan a = {rule, 1, window, n % 11 == 3 ? 0.03125 : INFINITY};
    if (rule != FASTLSTM_TRUNCATED_RTRL && a.window < u->chunk) a.window = u->chunk;
    return a;
}

static void chunk_tests(void) {
    const int begin = memory_mark();
    for (ptrdiff_t n = 0; n < 240; n++) {
        lesson u = {0};
        const int rule = n % 3 == 2 ? 1 + (int)(n / 3 % 2) : FASTLSTM_TRUNCATED_RTRL;
        int loss = (int)(n / 3 % 5);
        if (loss == FASTLSTM_NO_LOSS && n % 10) loss = FASTLSTM_SSE;
        fastlstm_layer l = n < 160 ? varied(n, input_sizes[n % 3]) : lstm(input_sizes[n % 3], 1 + (n - 160) % 35 + (n & 1), 1, IFO);
        if (rule == FASTLSTM_BPTT && n % 4 < 2) l = another(n / 4, input_sizes[n % 3], 6);
        if (n % 3 == 2) add(&u.k.m, lstm(input_sizes[random_below(3)], l.input_size, 1, IFO), 2);
        if (loss == FASTLSTM_BINARY_CROSS_ENTROPY && n % 3 == 0) { /* outputs in (0, 1) */
            l.output_activation = l.gate_activation = activation(FASTLSTM_SIGMOID);
            l.clip = 2;
            l.gates |= FASTLSTM_OUTPUT_GATE;
        }
        add(&u.k.m, l, (int)random_below(3));
        if (n % 3) add(&u.k.m, linear(outputs(&l), 1 + n * 7 % 19, loss == FASTLSTM_BINARY_CROSS_ENTROPY ? FASTLSTM_SIGMOID : (int)n / 2 % 3), (int)(n & 1));
        fill_lesson(&u, n % 5 ? 21 : n % 2 ? 1 : 40, n / 2 % 2 ? 3 : 1, loss, (int)(n % 7), n % 4 < 2);
        if (rule != FASTLSTM_TRUNCATED_RTRL && u.chunk == 0) u.chunk = 4;
        const plan a = plan_of(&u, rule, n / 2);
        check_chunks(&u, &a, 1);
        memory_release(begin);
    }
}

/* Enough work to be divided: by lanes, and of one lane by units. */
static void thread_tests(void) {
    const int begin = memory_mark();
    for (int n = 0; n < 6; n++) {
        lesson u = {0};
        const int rule = n % 3;
        fastlstm_layer l = lstm(n < 3 ? 20 : 40, n < 3 ? 60 : 150, n < 3 ? 2 : 1, IFO);
        l.peepholes = l.gate_recurrence = n < 3;
        add(&u.k.m, l, 2);
        if (n < 3) add(&u.k.m, lstm(60, 44, 1, 1 | 4 | FASTLSTM_COUPLED_GATES), 1);
        add(&u.k.m, linear(n < 3 ? 44 : 150, 3, FASTLSTM_IDENTITY), 1);
        fill_lesson(&u, 40, n < 3 ? 3 : 1, FASTLSTM_SSE, n % 2 ? 5 : 3, 1);
        if (n > 3) make_sparse(&u.k);
        u.chunk = 30;
        const plan a = {rule, 1, 30, INFINITY};
        check_chunks(&u, &a, 3);
        memory_release(begin);
    }
}

/* ---- poll ---- */

static void check_poll(const fastlstm_engine *e) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(e);
    lesson u = {.loss = FASTLSTM_MSE, .update = 1, .chunk = 7, .lr = 0.0625, .decay = 1};
    const plan a = {FASTLSTM_TRUNCATED_RTRL, 1, 32, INFINITY};
    task *k = &u.k;
    add(&k->m, lstm(64, 64, 1, IFO), 2);
    add(&k->m, linear(64, 2, FASTLSTM_IDENTITY), 1);
    fill_task(k, 150, 1, 0, 0);
    describe("poll", k, fastlstm_engine_isa(e), bits);
    u.target = memory_zeros(k->T * 2);
    const pupil whole = teach(&u, &a, e, ONE_RUN);
    const void *x = feed_all(bits, k->x, k->T * 64), *target = feed_all(bits, u.target, k->T * 2);
    pupil p = pupil_new(&u, &a, e);
    asked by = {.stop_at = 1};
    ptrdiff_t done = -1;
    CHECK(CALL(fastlstm_chunk_run(ready(&p), k->T, x, target, NULL, p.y, &done, poll, &by)) == FASTLSTM_INTERRUPTED);
    CHECK(by.calls == 1 && !by.wrong_mode && done > 0 && done < k->T && p.m.loss_steps == done);
    if (done > 0 && done < k->T) study(&p, done, k->T - done);
    CHECK(fastlstm_chunk_settle(ready(&p)) == FASTLSTM_OK);
    CHECK(pupil_hash(&p) == pupil_hash(&whole) && "what was done are whole steps");
    memory_release(mark);
}

/* ---- Refusals: nothing is written ---- */

/* All memory of a pupil but the scratch, which a new layout may fill. */
static uint64_t memory_hash(const pupil *p, const void *y, ptrdiff_t y_size) {
    const ptrdiff_t real = fastlstm_engine_bits(p->m.engine) / 8;
    uint64_t hash = pupil_hash(p);
    hash = fnv(hash, p->m.kept, (size_t)(p->kept * real));
    hash = fnv(hash, p->m.gradient, (size_t)(p->u->k.m.params * real));
    hash = fnv(hash, p->m.weights, (size_t)(fastlstm_packed_size(p->m.engine, p->u->k.m.l, p->u->k.m.n) * real));
    hash = fnv(hash, &p->m.loss_sum, sizeof p->m.loss_sum);
    return fnv(hash, y, (size_t)(y_size * real));
}

#define REFUSED(status, change)                                                                                                     \
    do {                                                                                                                            \
        const fastlstm_chunk_learner kept = p.m;                                                                                    \
        const uint64_t hash = memory_hash(&p, y, size);                                                                             \
        fastlstm_chunk_learner *m = &p.m;                                                                                           \
        m->prepared = 0;                                                                                                            \
        change;                                                                                                                     \
        done = -7;                                                                                                                  \
        CHECK(CALL(fastlstm_chunk_run(m, 2, x, target, NULL, y, &done, NULL, NULL)) == (status) && #change);                        \
        CHECK(done == -7);                                                                                                          \
        CHECK(CALL(fastlstm_chunk_forward(m, x, y)) == (status));                                                                   \
        CHECK(CALL(fastlstm_chunk_reset(m, NULL)) == (status));                                                                     \
        CHECK(CALL(fastlstm_chunk_apply(m)) == (status));                                                                           \
        CHECK(CALL(fastlstm_chunk_settle(m)) == (status));                                                                          \
        p.m = kept;                                                                                                                 \
        CHECK(memory_hash(&p, y, size) == hash && "nothing is written");                                                            \
    } while (0)

static void check_refusals(const fastlstm_engine *e, int rule) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(e);
    lesson u = {.loss = FASTLSTM_SSE, .update = 1, .chunk = 4, .lr = 0.0625, .decay = 1};
    const plan a = {rule, 1, 6, INFINITY};
    add(&u.k.m, lstm(3, 5, 1, IFO), 2);
    add(&u.k.m, linear(5, 2, FASTLSTM_SIGMOID), 1);
    fill_task(&u.k, 9, 2, 0, 0);
    u.target = memory_zeros(9 * 2 * 2);
    describe("refusals", &u.k, fastlstm_engine_isa(e), bits);
    pupil p = pupil_new(&u, &a, e);
    const ptrdiff_t size = 9 * 2 * 2;
    const void *x = feed_all(bits, u.k.x, 9 * 2 * 3), *target = feed_all(bits, u.target, size);
    void *y = real_new(bits, size);
    ptrdiff_t done = -1;
    study(&p, 0, 3); /* something is in the window, and nothing waits */
    fastlstm_layer other[2];
    memcpy(other, u.k.m.l, sizeof other);

    REFUSED(FASTLSTM_BAD_ARGUMENT, m = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->engine = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->gradient_rule = 3);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->gradient_rule = -1);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->lanes = 0);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->threads = 0);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->window = 0; m->held = 0);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->chunk = -1);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->loss = 6);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->loss = -1);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->error_bound = 0);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->error_bound = NAN);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->held = -1);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->held = 7);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->pending = -1);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->params = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->weights = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->gradient = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->kept = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->state = NULL);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->scratch = NULL);
    if (rule != FASTLSTM_BPTT) REFUSED(FASTLSTM_BAD_ARGUMENT, m->traces = NULL);
    if (rule != FASTLSTM_TRUNCATED_RTRL) {
        REFUSED(FASTLSTM_BAD_ARGUMENT, m->chunk = 0);
        REFUSED(FASTLSTM_BAD_ARGUMENT, m->chunk = 7); /* more than the window */
    }
    REFUSED(FASTLSTM_TOO_LARGE, m->window = PTRDIFF_MAX / 64);
    REFUSED(FASTLSTM_TOO_LARGE, m->lanes = PTRDIFF_MAX / 64);
    REFUSED(FASTLSTM_BAD_ARGUMENT, m->n_layers = 0);
    REFUSED(FASTLSTM_BAD_LAYER, m->layers = other; other[0].kind = 77);
    memcpy(other, u.k.m.l, sizeof other);
    REFUSED(FASTLSTM_BAD_LAYER, m->layers = other; other[0].recurrent_dropout = 0.5);
    memcpy(other, u.k.m.l, sizeof other);
    if (rule != FASTLSTM_BPTT) {
        net gru = {0};
        add(&gru, recurrent(FASTLSTM_GRU, 3, 5, 1), 2);
        REFUSED(FASTLSTM_BAD_LAYER, m->layers = gru.l; m->n_layers = 1);
        net narrow = {0};
        fastlstm_layer l = lstm(3, 5, 1, IFO);
        l.proj_size = 2;
        add(&narrow, l, 2);
        REFUSED(FASTLSTM_BAD_LAYER, m->layers = narrow.l; m->n_layers = 1);
    }

    /* Of the calls' own arguments. */
    const uint64_t hash = memory_hash(&p, y, size);
    fastlstm_chunk_learner *m = ready(&p);
    CHECK(CALL(fastlstm_chunk_run(m, 0, x, target, NULL, y, &done, NULL, NULL)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_run(m, -1, x, target, NULL, y, &done, NULL, NULL)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_run(m, 2, NULL, target, NULL, y, &done, NULL, NULL)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_run(m, 2, x, target, NULL, NULL, &done, NULL, NULL)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_run(m, 2, x, target, NULL, y, NULL, NULL, NULL)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_run(m, PTRDIFF_MAX / 2, x, target, NULL, y, &done, NULL, NULL)) == FASTLSTM_TOO_LARGE);
    CHECK(CALL(fastlstm_chunk_forward(m, NULL, y)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_forward(m, x, NULL)) == FASTLSTM_BAD_ARGUMENT);
    CHECK(CALL(fastlstm_chunk_backward(m, y)) == FASTLSTM_BAD_ARGUMENT && "no step waits for its error");
    CHECK(CALL(fastlstm_chunk_learn(m, target)) == FASTLSTM_BAD_ARGUMENT);
    m->loss = FASTLSTM_CROSS_ENTROPY;
    m->prepared = 0;
    for (int bad = 0; bad < 2; bad++) {
        const int64_t class[4] = {0, 1, bad ? -2 : 2, 0};
        CHECK(CALL(fastlstm_chunk_run(m, 2, x, class, NULL, y, &done, NULL, NULL)) == FASTLSTM_BAD_ARGUMENT);
    }
    m->loss = FASTLSTM_SSE;
    m->prepared = 0;
    CHECK(memory_hash(&p, y, size) == hash && "nothing is written");
    pupil good = pupil_new(&u, &a, e);
    study(&good, 0, 3);
    study(&good, 3, 6);
    study(&p, 3, 6);
    CHECK(pupil_hash(&p) == pupil_hash(&good) && "and it goes on as if nothing had been asked");
    memory_release(mark);
}

/* ---- Sizes ---- */

static void check_sizes(const fastlstm_engine *e) {
    const ptrdiff_t huge = PTRDIFF_MAX / 64, real = fastlstm_engine_bits(e) / 8;
    net m = {0}, gru = {0}, wide = {0};
    ptrdiff_t part[5] = {-1, -1, -1, -1, -1};
    add(&m, lstm(3, 5, 1, IFO), 2);
    add(&m, linear(5, 2, FASTLSTM_SIGMOID), 1);
    add(&gru, recurrent(FASTLSTM_GRU, 3, 5, 1), 2);
    add(&wide, lstm(3, 5, 1, IFO), 2);
    wide.l[0].hidden_size = huge;
    snprintf(check_case, sizeof check_case, "sizes %s f%ld", fastlstm_engine_isa(e), (long)real * 8);
    CHECK(fastlstm_chunk_kept_size(e, m.l, m.n, 0, 1) == -1 && fastlstm_chunk_kept_size(e, m.l, m.n, 1, 0) == -1);
    CHECK(fastlstm_chunk_kept_size(e, m.l, m.n, huge, 1) == -1 && fastlstm_chunk_kept_size(e, m.l, m.n, 1, huge) == -1);
    CHECK(fastlstm_chunk_kept_size(NULL, m.l, m.n, 1, 1) == -1 && fastlstm_chunk_kept_size(e, wide.l, 1, 1, 1) == -1);
    CHECK(fastlstm_chunk_scratch_size(e, m.l, m.n, 4, 2, 0) == -1 && fastlstm_chunk_scratch_size(e, m.l, m.n, 0, 2, 1) == -1);
    CHECK(fastlstm_chunk_scratch_size(e, m.l, m.n, huge, 2, 1) == -1 && fastlstm_chunk_scratch_size(e, m.l, m.n, 4, 2, 1 << 30) == -1);
    CHECK(fastlstm_chunk_scratch_size(NULL, m.l, m.n, 4, 2, 1) == -1);
    CHECK(fastlstm_chunk_trace_size(e, m.l, m.n, 0) == -1 && fastlstm_chunk_trace_size(e, m.l, m.n, huge) == -1);
    CHECK(fastlstm_chunk_trace_size(NULL, m.l, m.n, 1) == -1 && fastlstm_chunk_trace_size(e, NULL, 1, 1) == -1);
    CHECK(fastlstm_chunk_trace_size(e, gru.l, 1, 2) == 0 || fastlstm_chunk_trace_size(e, gru.l, 1, 2) == -1);
    /* 3 kinds of 5 cells' rows of 3 + 5 + 1 numbers, each row to the next 64 bytes: one of float, two of double */
    CHECK(fastlstm_chunk_trace_size(e, m.l, m.n, 2) == 2 * 3 * 5 * 16);
    CHECK(fastlstm_chunk_kept_parts(e, m.l, m.n, 4, 2, NULL) == FASTLSTM_BAD_ARGUMENT);
    CHECK(fastlstm_chunk_kept_parts(e, m.l, m.n, 0, 2, part) == FASTLSTM_BAD_ARGUMENT);
    CHECK(fastlstm_chunk_kept_parts(NULL, m.l, m.n, 4, 2, part) != FASTLSTM_OK);
    CHECK(fastlstm_chunk_kept_parts(e, m.l, m.n, huge, 2, part) == FASTLSTM_TOO_LARGE);
    for (int j = 0; j < 5; j++)
        CHECK(part[j] == -1);
    CHECK(fastlstm_chunk_kept_parts(e, m.l, m.n, 4, 2, part) == FASTLSTM_OK);
    const ptrdiff_t bytes[5] = {4 * 2 * 3 * real, 4 * 2 * 2 * real, m.state * 2 * real, 4 * 2, 5 * 2};
    for (int j = 0; j < 5; j++) {
        CHECK(part[j] >= 0 && part[j] + bytes[j] <= (j < 4 ? part[j + 1] : fastlstm_chunk_kept_size(e, m.l, m.n, 4, 2) * real));
        CHECK(j > 2 || part[j] % real == 0);
    }
}

int main(void) {
    const char *isa;
    chunk_tests();
    thread_tests();
    for (int bits = 32; bits <= 64; bits += 32)
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            check_poll(e);
            check_sizes(e);
            for (int rule = FASTLSTM_TRUNCATED_RTRL; rule <= FASTLSTM_BPTT; rule++)
                check_refusals(e, rule);
        }
    return report("chunk", cases);
}
