/* Forward passes of every engine of this machine against a naive reference in double: their bits, memory and manners.

   Engines with fused multiply-add must agree bit for bit, and however a batch is cut into calls, its bits stay. */
#include "reference.h"

/* y (T, B, O) zeroed, and state, of all lanes over their lengths. */
static void ref_forward(const task *k, double *y, double *state) {
    const ptrdiff_t B = k->B;
    const double *in = k->x;
    for (ptrdiff_t d = 0; d < k->m.n;) {
        const int directions = d + 1 < k->m.n && k->m.l[d + 1].reverse ? 2 : 1;
        const ptrdiff_t width = outputs(k->m.l + d) + (directions == 2 ? outputs(k->m.l + d + 1) : 0);
        double *out = d + directions == k->m.n ? y : memory_zeros(k->T * B * width), *to = out;
        for (int direction = 0; direction < directions; direction++, d++) {
            const shape q = shape_of(k->m.l + d);
            const moment forget = moment_new(&q);
            double *s = memory_zeros(q.M);
            for (ptrdiff_t b = 0; b < B; b++) {
                const ptrdiff_t length = k->lengths ? k->lengths[b] : k->T;
                double *h = state + q.l->state_h * B + b * q.P, *c = state + q.l->state_c * B + b * q.C;
                double *a = state + q.l->state_a * B + b * q.A;
                for (ptrdiff_t n = 0; n < length; n++) {
                    const ptrdiff_t t = direction ? length - 1 - n : n;
                    /* An episode that starts at t + 1 ends there for who comes from behind. */
                    const ptrdiff_t start = direction ? t + 1 : t;
                    if (q.recurrent && k->reset && start < length && k->reset[start * B + b]) {
                        memset(h, 0, (size_t)q.P * sizeof *h);
                        memset(c, 0, (size_t)q.C * sizeof *c);
                        memset(a, 0, (size_t)q.A * sizeof *a);
                    }
                    gather_sources(&q, s, in + (t * B + b) * q.I, h, a);
                    ref_step(&q, k->w, s, to + (t * B + b) * width, h, c, a, &forget);
                }
            }
            to += q.P;
        }
        in = out;
    }
}

/* A part of a task that one call makes, and how it is made. */
typedef struct cut {
    ptrdiff_t t0, steps, b0, lanes;
    int spread;     /* lanes outermost, and gaps between the rows of x and y */
    int threads, by_units;
    int turned;     /* the last lane's rows come first, which `starts` tells */
    int apart;      /* the inputs of each lane are somewhere else, which `xs` tells */
    void *prepared; /* scratch that is prepared */
} cut;

/* One call in fresh memory of exactly the told sizes. What no one may read stays NaN. y (T, B, O) and state are the task's. */
static void part(const task *k, const fastlstm_engine *e, const void *packed, cut at, char *y, char *state) {
    const int bits = fastlstm_engine_bits(e), mark = memory_mark();
    const ptrdiff_t real = bits / 8, I = width_in(&k->m), O = width_out(&k->m);
    const ptrdiff_t all = at.lanes;
    fastlstm_batch batch = {.steps = at.steps, .lanes = at.lanes};
    batch.x_step = at.spread ? I + 2 : all * I;
    batch.x_lane = at.spread ? at.steps * batch.x_step + 1 : I;
    batch.y_step = at.spread ? O + 3 : all * O;
    batch.y_lane = at.spread ? at.steps * batch.y_step + 5 : O;
    const ptrdiff_t x_size = (at.steps - 1) * batch.x_step + (all - 1) * batch.x_lane + I;
    const ptrdiff_t y_size = (at.steps - 1) * batch.y_step + (all - 1) * batch.y_lane + O;
    void *x = real_new(bits, x_size), *scratch = at.prepared;
    char *out = real_new(bits, y_size), *own_state = real_new(bits, fastlstm_state_size(k->m.l, k->m.n, all));
    uint8_t *reset = k->reset ? memory_new((size_t)(at.steps * all)) : NULL;
    int64_t *lengths = k->lengths && at.steps == k->T ? memory_new((size_t)all * sizeof *lengths) : NULL;
    int64_t *starts = at.turned ? memory_new((size_t)all * sizeof *starts) : NULL;
    const void **xs = at.apart ? memory_new((size_t)all * sizeof *xs) : NULL;
    for (ptrdiff_t b = 0; b < at.lanes; b++) {
        const ptrdiff_t place = at.turned ? at.lanes - 1 - b : b, left = k->lengths ? k->lengths[at.b0 + b] - at.t0 : at.steps;
        void *lane = xs ? real_new(bits, (left < 0 ? 0 : left < at.steps ? left : at.steps) * batch.x_step) : NULL;
        if (starts) starts[b] = place;
        if (xs) xs[b] = lane;
        for (ptrdiff_t t = 0; t < at.steps; t++) {
            const ptrdiff_t from = (at.t0 + t) * k->B + at.b0 + b;
            for (ptrdiff_t j = 0; j < I && (!k->lengths || at.t0 + t < k->lengths[at.b0 + b]); j++)
                feed(bits, xs ? lane : x, t * batch.x_step + (xs ? 0 : place * batch.x_lane) + j, k->x[from * I + j]);
            if (reset) reset[t * all + b] = k->reset[from];
        }
        if (lengths) lengths[b] = k->lengths[at.b0 + b];
    }
    copy_lanes(&k->m, (size_t)real, own_state, all, 0, state, k->B, at.b0, at.lanes);
    batch.x = xs ? NULL : x;
    batch.xs = xs;
    batch.y = out;
    batch.lengths = lengths;
    batch.starts = starts;
    batch.reset = reset;
    batch.state = own_state;
    const uint64_t before = fnv(FNV_BEGIN, x, (size_t)(x_size * real));
    if (at.prepared) {
        CHECK(CALL(fastlstm_run(scratch, &batch, NULL, NULL)) == FASTLSTM_OK);
    } else if (at.threads) {
        const ptrdiff_t told = fastlstm_parallel_scratch_size(e, k->m.l, k->m.n, at.steps, at.lanes, at.threads, at.by_units);
        scratch = real_new(bits, told);
        CHECK(CALL(fastlstm_forward_parallel(e, k->m.l, k->m.n, packed, &batch, scratch, at.threads, at.by_units, NULL, NULL)) == FASTLSTM_OK);
    } else {
        scratch = real_new(bits, fastlstm_forward_scratch_size(e, k->m.l, k->m.n, at.steps, at.lanes));
        CHECK(CALL(fastlstm_forward(e, k->m.l, k->m.n, packed, &batch, scratch, NULL, NULL)) == FASTLSTM_OK);
    }
    CHECK(before == fnv(FNV_BEGIN, x, (size_t)(x_size * real)));
    copy_lanes(&k->m, (size_t)real, state, k->B, at.b0, own_state, all, 0, at.lanes);
    for (ptrdiff_t t = 0; t < at.steps; t++)
        for (ptrdiff_t b = 0; b < at.lanes; b++) {
            char *row = out + (t * batch.y_step + (at.turned ? at.lanes - 1 - b : b) * batch.y_lane) * real;
            if (at.turned && lengths && t >= lengths[b]) {
                for (ptrdiff_t j = 0; j < O * real; j++)
                    CHECK(row[j] == (char)0xff);
                memset(row, 0, (size_t)(O * real));
            }
            memcpy(y + ((at.t0 + t) * k->B + at.b0 + b) * O * real, row, (size_t)(O * real));
            memset(row, 0xff, (size_t)(O * real));
        }
    int clean = 1;
    for (ptrdiff_t j = 0; j < y_size * real; j++)
        clean &= out[j] == (char)0xff;
    CHECK(clean && "nothing is written but the rows of y");
    memory_release(mark);
}

typedef struct result { char *y, *state; size_t y_bytes, state_bytes; } result;

enum { WHOLE, SPREAD, TURNED, APART, THREADS, UNITS, LANE_BY_LANE, STEP_BY_STEP, PREPARED };

static int any_reverse(const net *m) {
    int any = 0;
    for (ptrdiff_t d = 0; d < m->n; d++)
        any |= m->l[d].reverse;
    return any;
}

static result forward(const task *k, const fastlstm_engine *e, const void *packed, int way) {
    const int bits = fastlstm_engine_bits(e);
    const ptrdiff_t y_size = k->T * k->B * width_out(&k->m), state_size = k->m.state * k->B;
    result r = {real_new(bits, y_size), feed_all(bits, k->state, state_size), (size_t)(y_size * bits / 8), (size_t)(state_size * bits / 8)};
    cut at = {.steps = k->T, .lanes = k->B, .spread = way == SPREAD, .turned = way == TURNED || way == APART, .apart = way == APART};
    for (ptrdiff_t j = 0; j < state_size; j++)
        if (k->state[j] != k->state[j]) memset(r.state + j * (bits / 8), 0xff, (size_t)(bits / 8));
    if (way == THREADS) at.threads = k->B == 1 ? 1 : k->B == 2 || k->B % 2 ? 2 : 3; /* of 11 lanes one makes 5, one 6 */
    if (way == UNITS) at.threads = 2 + k->B % 2, at.by_units = 1;
    if (way == PREPARED) { /* for whatever number of steps comes; with reverse layers, for no more than these */
        const ptrdiff_t steps = any_reverse(&k->m) ? k->T + 1 : 1 + k->T % 3;
        at.prepared = real_new(bits, fastlstm_forward_scratch_size(e, k->m.l, k->m.n, steps, k->B));
        CHECK(CALL(fastlstm_prepare(e, k->m.l, k->m.n, packed, steps, k->B, at.prepared)) == FASTLSTM_OK);
        if (!any_reverse(&k->m) && !k->lengths) at.steps = (k->T + 1) / 2;
    }
    if (way == STEP_BY_STEP) at.steps = 1;
    if (way == LANE_BY_LANE || (k->lengths && way == STEP_BY_STEP)) { /* each as long as it is */
        memset(r.y, 0, r.y_bytes);
        at.lanes = 1;
        for (ptrdiff_t b = 0; b < k->B; b++) {
            const ptrdiff_t length = k->lengths ? k->lengths[b] : k->T;
            at.b0 = b;
            at.apart = b % 2;
            if (way == LANE_BY_LANE) at.steps = length;
            for (at.t0 = 0; at.t0 < length; at.t0 += at.steps)
                part(k, e, packed, at, r.y, r.state);
        }
        return r;
    }
    for (; at.t0 < k->T; at.t0 += at.steps) {
        if (at.t0 + at.steps > k->T) at.steps = k->T - at.t0;
        at.spread |= way == STEP_BY_STEP && at.t0 % 2;
        part(k, e, packed, at, r.y, r.state);
    }
    return r;
}

static int same(result a, result b) { return memcmp(a.y, b.y, a.y_bytes) == 0 && memcmp(a.state, b.state, a.state_bytes) == 0; }

static long cases;

static void check_forward(const task *k) {
    const int begin = memory_mark();
    const ptrdiff_t y_size = k->T * k->B * width_out(&k->m), state_size = k->m.state * k->B;
    double *y = memory_zeros(y_size), *state = memory_zeros(state_size);
    memcpy(state, k->state, (size_t)state_size * sizeof *state);
    ref_forward(k, y, state);
    cases++;
    for (int bits = 32; bits <= 64; bits += 32) {
        const int mark = memory_mark();
        const char *isa;
        result fused = {0};
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            describe("forward", k, isa, bits);
            void *packed = pack(&k->m, k->w, e);
            const size_t bytes = (size_t)(fastlstm_packed_size(e, k->m.l, k->m.n) * bits / 8);
            const uint64_t before = fnv(FNV_BEGIN, packed, bytes);
            const result whole = forward(k, e, packed, WHOLE);
            compare(bits, OUTPUT, whole.y, y, y_size);
            compare(bits, STATE, whole.state, state, state_size);
            CHECK(same(whole, forward(k, e, packed, SPREAD)));
            CHECK(same(whole, forward(k, e, packed, TURNED)));
            CHECK(same(whole, forward(k, e, packed, APART)));
            CHECK(same(whole, forward(k, e, packed, LANE_BY_LANE)));
            CHECK(same(whole, forward(k, e, packed, PREPARED)));
            CHECK(same(whole, forward(k, e, packed, THREADS)));
            if (divides(&k->m)) CHECK(same(whole, forward(k, e, packed, UNITS)));
            if (!any_reverse(&k->m)) CHECK(same(whole, forward(k, e, packed, STEP_BY_STEP)));
            CHECK(before == fnv(FNV_BEGIN, packed, bytes));
            if (!is_fused(isa)) continue;
            if (fused.y) CHECK(same(whole, fused) && "instruction sets agree");
            fused = whole;
        }
        memory_release(mark);
    }
    memory_release(begin);
}

/* What happens in one lane stays there; subnormal parameters, inputs and states are zeros. */
static void check_isolation(const task *k) {
    const int begin = memory_mark();
    const ptrdiff_t I = width_in(&k->m), O = width_out(&k->m), bad = random_below(k->B);
    task sick = *k, tiny = *k;
    sick.x = memory_zeros(k->T * k->B * I);
    memcpy(sick.x, k->x, (size_t)(k->T * k->B * I) * sizeof(double));
    const ptrdiff_t when = random_below(k->T), which = random_below(I);
    sick.x[(when * k->B + bad) * I + which] = when % 2 ? (double)NAN : (double)INFINITY;
    double *const arrays[3] = {tiny.w = memory_zeros(k->m.params), tiny.x = memory_zeros(k->T * k->B * I),
                               tiny.state = memory_zeros(k->m.state * k->B)};
    const double *const from[3] = {k->w, k->x, k->state};
    const ptrdiff_t sizes[3] = {k->m.params, k->T * k->B * I, k->m.state * k->B};
    for (int a = 0; a < 3; a++)
        for (ptrdiff_t j = 0; j < sizes[a]; j++)
            arrays[a][j] = random_below(4) || from[a][j] != from[a][j] ? from[a][j] : random_below(2) ? 0.0 : -0.0;
    for (int bits = 32; bits <= 64; bits += 32) {
        const char *isa;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const int mark = memory_mark();
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            describe("isolation", k, isa, bits);
            void *packed = pack(&k->m, k->w, e);
            result good = forward(k, e, packed, WHOLE), other = forward(&sick, e, packed, WHOLE);
            const size_t row = (size_t)(O * bits / 8);
            for (ptrdiff_t t = 0; t < k->T; t++)
                memcpy(other.y + (size_t)(t * k->B + bad) * row, good.y + (size_t)(t * k->B + bad) * row, row);
            copy_lanes(&k->m, (size_t)(bits / 8), other.state, k->B, bad, good.state, k->B, bad, 1);
            CHECK(same(good, other) && "other lanes do not notice");
            good = forward(&tiny, e, pack(&k->m, tiny.w, e), WHOLE);
            subnormals = 1;
            other = forward(&tiny, e, pack(&k->m, tiny.w, e), WHOLE);
            subnormals = 0;
            CHECK(same(good, other) && "subnormals are zeros");
            memory_release(mark);
        }
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
    task task = {0}, *const k = &task;
    add(&k->m, lstm(64, 64, 1, IFO), 2);
    add(&k->m, linear(64, 2, FASTLSTM_IDENTITY), 1);
    fill_task(k, 600, 1, 0, 0);
    describe("poll", k, fastlstm_engine_isa(e), bits);
    const result calm = forward(k, e, pack(&k->m, k->w, e), WHOLE);
    result r = forward(k, e, pack(&k->m, k->w, e), WHOLE);
    fastlstm_batch batch = {.steps = k->T, .lanes = 1, .x = feed_all(bits, k->x, k->T * 64), .x_step = 64, .y = r.y, .y_step = 2,
                            .state = r.state};
    void *scratch = real_new(bits, fastlstm_forward_scratch_size(e, k->m.l, k->m.n, k->T, 1)), *packed = pack(&k->m, k->w, e);
    for (int stop_at = 0; stop_at < 2; stop_at++) {
        asked a = {.stop_at = stop_at};
        copy_lanes(&k->m, (size_t)(bits / 8), r.state, 1, 0, feed_all(bits, k->state, k->m.state), 1, 0, 1);
        CHECK(CALL(fastlstm_forward(e, k->m.l, k->m.n, packed, &batch, scratch, poll, &a)) == (stop_at ? FASTLSTM_INTERRUPTED : FASTLSTM_OK));
        CHECK(!a.wrong_mode && (stop_at ? a.calls == 1 : a.calls >= 2));
        if (!stop_at) CHECK(same(r, calm) && "asking changes nothing");
    }
    memory_release(mark);
}

/* ---- Cases ---- */

static void forward_tests(void) {
    const ptrdiff_t hidden[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 100}, lanes[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 13};
    const ptrdiff_t others[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 257}, many[] = {127, 128, 129, 191, 192, 256, 257, 449};
    const int begin = memory_mark();
    for (ptrdiff_t n = 0; n < COUNT(hidden) * COUNT(lanes); n++) { /* sizes: the plain cell, and linear layers */
        task k = {0};
        const ptrdiff_t I = input_sizes[random_below(3)], H = hidden[n / COUNT(lanes)], B = lanes[n % COUNT(lanes)];
        const int biases = (int)random_below(3);
        if (n % 4 == 3) add(&k.m, linear(I, H + n % 3 * 70, (int)(n / 4 % ACTIVATIONS)), biases / 2);
        else add(&k.m, lstm(I, H, 1, IFO), biases);
        fill_task(&k, step_counts[(n + n / COUNT(lanes)) % 4], B, n % 5 == 4, n % 3 == 2);
        check_forward(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 160; n++) { /* switches, alone or in both directions */
        task k = {0};
        const ptrdiff_t B = lanes[random_below(COUNT(lanes))], T = step_counts[random_below(4)];
        add(&k.m, varied(n, input_sizes[n % 3]), (int)(n + n / 10) % 3);
        if (n % 4 == 1) {
            fastlstm_layer back = varied(n * 7, input_sizes[n % 3]);
            back.reverse = 1;
            add(&k.m, back, (int)n / 4 % 3);
        }
        fill_task(&k, T, B, n % 3 == 1, n % 4 >= 2 || n % 8 == 1);
        check_forward(&k);
        if (k.B > 1 && n % 3 == 0) check_isolation(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 8 * COUNT(others); n++) { /* the other kinds, alone or in both directions */
        task k = {0};
        const ptrdiff_t H = others[n / 8];
        add(&k.m, another(n, input_sizes[n / 4 % 3], H), (int)(n + n / 8) % 3);
        if (n % 5 == 1) {
            fastlstm_layer back = another(n / 2, k.m.l[0].input_size, H);
            back.reverse = 1;
            add(&k.m, back, (int)n % 3);
        }
        fill_task(&k, H > 100 ? 3 : step_counts[n % 3], H > 100 ? 1 + n % 3 : lanes[(n + n / 8) % COUNT(lanes)], n % 3 == 1, n % 2);
        check_forward(&k);
        if (k.B > 1 && H < 100 && n % 3 == 0) check_isolation(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 3 * COUNT(many); n++) { /* many inputs of few outputs: blocks of sources side by side */
        task k = {0};
        const ptrdiff_t I = many[n % COUNT(many)], H = 1 + n * 7 % 40;
        add(&k.m, n % 3 == 0 ? linear(I, H, (int)(n % ACTIVATIONS)) : n % 3 == 1 ? lstm(I, H, 1, IFO) : another(n, I, H), 1);
        fill_task(&k, 2, 1 + n % 2, 0, 0);
        check_forward(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 40; n++) { /* stacks */
        task k = {0};
        for (ptrdiff_t width = input_sizes[n % 3]; k.m.n < LAYERS - 1 && (k.m.n < 2 || random_below(3)); width = width_out(&k.m)) {
            const int kind = (int)random_below(5), biases = (int)random_below(2);
            const ptrdiff_t some = random_below(160);
            if (kind == 0) add(&k.m, linear(width, 1 + some % 20, (int)(some % ACTIVATIONS)), biases);
            else add(&k.m, kind < 3 ? varied(some, width) : another(some, width, 1 + random_below(20)), biases);
            if (kind != 2 && kind != 4) continue;
            fastlstm_layer back = random_below(2) ? varied(some * 7 + 1, width) : another(some + 1, width, 1 + random_below(20));
            back.reverse = 1;
            add(&k.m, back, 2 * biases);
        }
        fill_task(&k, step_counts[n % 4], lanes[random_below(COUNT(lanes))], n % 3 == 0, n % 2);
        check_forward(&k);
        if (k.B > 1 && n % 4 == 0) check_isolation(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 3; n++) { /* large */
        task k = {0};
        add(&k.m, lstm(17, 257, 1, IFO), 2);
        fill_task(&k, n == 0 ? 50 : 2, n == 0 ? 1 : n == 1 ? 2 : 7, 0, 0);
        check_forward(&k);
        memory_release(begin);
    }
}

/* The bits of two fixed networks, on every machine with fused multiply-add: f32, f64. */
static const uint64_t golden[2][2] = {{0xcbce228cdcb17bdcu, 0x2385df643c728501u},
                                      {0x6d2b2dc41ffc9183u, 0x3b9ad025a65de51du}};

static void check_golden(const task *k, int which) {
    for (int bits = 32; bits <= 64; bits += 32) {
        const char *isa;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            describe("golden", k, isa, bits);
            const result r = forward(k, e, pack(&k->m, k->w, e), WHOLE);
            const uint64_t hash = fnv(fnv(FNV_BEGIN, r.y, r.y_bytes), r.state, r.state_bytes);
            printf("hash forward=%016llx f%d %s\n", (unsigned long long)hash, bits, isa);
            if (is_fused(isa)) CHECK(hash == golden[which][bits == 64]);
        }
    }
}

static void golden_tests(void) {
    const int begin = memory_mark();
    task k = {0}, other = {0};
    fastlstm_layer l = lstm(3, 17, 1, IFO);
    random_state = 1997;
    add(&k.m, l, 2);
    l.reverse = 1;
    add(&k.m, l, 1);
    l = lstm(34, 12, 2, IFO);
    l.peepholes = l.gate_recurrence = 1;
    l.input_activation.kind = FASTLSTM_G1997;
    l.output_activation.kind = FASTLSTM_H1997;
    l.clip = 1;
    add(&k.m, l, 1);
    add(&k.m, linear(12, 5, FASTLSTM_TANH), 1);
    fill_task(&k, 40, 5, 1, 1);
    check_golden(&k, 0);
    add(&other.m, recurrent(FASTLSTM_GRU, 3, 17, 1), 2);
    l = recurrent(FASTLSTM_GRU, 3, 9, 0);
    l.gate_activation = activation(FASTLSTM_HARD_SIGMOID);
    l.input_activation = activation(FASTLSTM_SOFTSIGN);
    l.reverse = 1;
    add(&other.m, l, 2);
    l = recurrent(FASTLSTM_RNN, 26, 16, 0);
    l.input_activation = activation(FASTLSTM_ELU);
    add(&other.m, l, 1);
    l = lstm(16, 33, 1, IFO);
    l.proj_size = 7;
    l.output_activation = activation(FASTLSTM_SCALED_TANH);
    add(&other.m, l, 2);
    add(&other.m, linear(7, 5, FASTLSTM_SOFTPLUS), 1);
    fill_task(&other, 40, 5, 1, 1);
    check_golden(&other, 1);
    memory_release(begin);
}

int main(void) {
    const char *isa;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    forward_tests();
    for (int bits = 32; bits <= 64; bits += 32)
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++)
            check_poll(fastlstm_engine_select(isa, bits));
    golden_tests();
    fastlstm_threads_release();
    return report("forward", cases);
}
