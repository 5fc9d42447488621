/* Every public function with every argument bad in turn: the right status, and nothing written. The sizes of any network
   against sums made here; what is told to be enough is enough. */
#include "reference.h" /* first: it says which POSIX it wants */

#include <limits.h>

#define TWO31 ((ptrdiff_t)INT32_MAX + 1)
#define TWO62 (PTRDIFF_MAX / 2 + 1)

static int watched; /* memory blocks made since are those of a call */

static uint64_t watch_before;

/* A hash of theirs: of words first, then of the bytes left. */
static uint64_t watch(void) {
    uint64_t hash = FNV_BEGIN, word;
    for (int j = watched; j < memory_blocks; j++) {
        const unsigned char *at = (const unsigned char *)memory_block[j].base + MEMORY_GUARD, *end = at + memory_block[j].bytes;
        for (; end - at >= 8; at += 8) {
            memcpy(&word, at, 8);
            hash = (hash ^ word ^ hash >> 29) * 0x9e3779b97f4a7c15u;
        }
        hash = fnv(hash, at, (size_t)(end - at));
    }
    return hash;
}

#define REFUSED(want, call) (watch_before = watch(), CHECK(CALL(call) == (want)), CHECK(watch() == watch_before && "nothing is written: " #call))
static const fastlstm_status wrong = FASTLSTM_BAD_ARGUMENT, large = FASTLSTM_TOO_LARGE, bad_layer = FASTLSTM_BAD_LAYER;
static const ptrdiff_t below[3] = {0, -1, PTRDIFF_MIN}, beyond[3] = {TWO62, PTRDIFF_MAX - 1, PTRDIFF_MAX};
/* In a loop over `bad`: the bad-th pointer is NULL. */
#define OR(j, pointer) (bad == (j) ? NULL : (pointer))

/* ---- All that the calls on one network need, in memory of exactly the sizes told ---- */

typedef struct kit {
    const fastlstm_engine *e;
    int bits, threads;
    ptrdiff_t n, T, B, O, *done;
    fastlstm_layer *l;
    void *params, *packed, *x, *y, *state, *scratch, *ready, *shared, *traces, *canonical;
    int64_t *lengths, *classes;
    fastlstm_batch *batch, good;
    fastlstm_learner *learner, pupil;
} kit;

static void *filled(int bits, ptrdiff_t n) {
    void *a = real_new(bits, n);
    for (ptrdiff_t j = 0; j < n; j++) real_put(bits, a, j, random_number(-1));
    return a;
}

static kit kit_new(const fastlstm_engine *e, const net *m, ptrdiff_t T, ptrdiff_t B, int threads) {
    kit k = {.e = e, .bits = fastlstm_engine_bits(e), .threads = threads, .n = m->n, .T = T, .B = B, .O = width_out(m)};
    const ptrdiff_t n = m->n;
    k.l = memcpy(memory_new((size_t)n * sizeof *k.l), m->l, (size_t)n * sizeof *k.l);
    k.params = filled(k.bits, fastlstm_params_size(k.l, n));
    k.packed = real_new(k.bits, fastlstm_packed_size(e, k.l, n));
    k.x = filled(k.bits, T * B * width_in(m));
    k.y = real_new(k.bits, T * B * k.O);
    k.state = filled(k.bits, fastlstm_state_size(k.l, n, B));
    k.ready = real_new(k.bits, fastlstm_forward_scratch_size(e, k.l, n, T, B)), k.scratch = real_new(k.bits, fastlstm_forward_scratch_size(e, k.l, n, T, B));
    k.shared = real_new(k.bits, fastlstm_parallel_scratch_size(e, k.l, n, T, B, threads, 0));
    k.traces = memset(real_new(k.bits, fastlstm_trace_size(e, k.l, n, B)), 0, (size_t)(fastlstm_trace_size(e, k.l, n, B) * k.bits / 8));
    k.canonical = filled(k.bits, fastlstm_trace_canonical_size(k.l, n, B));
    k.lengths = memory_new((size_t)B * sizeof *k.lengths);
    k.classes = memory_new((size_t)(T * B) * sizeof *k.classes);
    k.done = memory_new(sizeof *k.done);
    for (ptrdiff_t b = 0; b < B; b++) k.lengths[b] = 1 + random_below(T);
    for (ptrdiff_t j = 0; j < T * B; j++) k.classes[j] = random_below(k.O + 1) - 1;
    CHECK(CALL(fastlstm_pack(e, k.l, n, k.params, k.packed)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_prepare(e, k.l, n, k.packed, T, B, k.ready)) == FASTLSTM_OK);
    k.good = (fastlstm_batch){.steps = T, .lanes = B, .x = k.x, .x_step = B * width_in(m), .x_lane = width_in(m),
                              .y = k.y, .y_step = B * k.O, .y_lane = k.O, .state = k.state};
    k.pupil = (fastlstm_learner){.engine = e, .layers = k.l, .n_layers = n, .lanes = B, .weights = k.packed, .traces = k.traces,
                                 .state = k.state, .loss = FASTLSTM_CROSS_ENTROPY, .update = 1, .lr = 0.125, .decay = 1, .chunk = 1};
    k.batch = memcpy(memory_new(sizeof k.good), &k.good, sizeof k.good);
    k.learner = memcpy(memory_new(sizeof k.pupil), &k.pupil, sizeof k.pupil);
    return k;
}

/* The network F has all that a learner may have; R reads in both directions, of unequal widths; G has every other kind. */
static net net_f(void) {
    net m = {0};
    fastlstm_layer l = lstm(3, 6, 2, IFO);
    l.peepholes = l.gate_recurrence = 1;
    add(&m, l, 2);
    add(&m, lstm(6, 5, 1, IFO), 1);
    add(&m, linear(5, 4, FASTLSTM_IDENTITY), 1);
    return m;
}

static net net_r(ptrdiff_t forth, ptrdiff_t back) {
    net m = {0};
    fastlstm_layer l = lstm(3, back, 1, FASTLSTM_INPUT_GATE | FASTLSTM_COUPLED_GATES);
    l.reverse = 1;
    add(&m, lstm(3, forth, 1, IFO), 2);
    add(&m, l, 0);
    add(&m, linear(forth + back, 2, FASTLSTM_TANH), 1);
    return m;
}

static net net_g(void) {
    net m = {0};
    fastlstm_layer l = lstm(5, 6, 2, IFO);
    l.proj_size = 3;
    add(&m, recurrent(FASTLSTM_GRU, 3, 5, 1), 2);
    add(&m, l, 2);
    add(&m, recurrent(FASTLSTM_RNN, 3, 7, 0), 1);
    add(&m, recurrent(FASTLSTM_GRU, 7, 4, 0), 1);
    return m;
}

/* Layers other than an LSTM, all of which are divisible by units, in both directions. */
static net net_u(ptrdiff_t forth, ptrdiff_t back) {
    net m = {0};
    fastlstm_layer l = recurrent(FASTLSTM_RNN, 3, back, 0);
    l.reverse = 1;
    add(&m, recurrent(FASTLSTM_GRU, 3, forth, 1), 2);
    add(&m, l, 1);
    add(&m, recurrent(FASTLSTM_GRU, forth + back, 2, 1), 0);
    return m;
}

/* Whether a learner may have these layers. */
static int traced(const net *m) {
    int good = 1;
    for (ptrdiff_t d = 0; d < m->n; d++)
        good &= m->l[d].kind != FASTLSTM_GRU && m->l[d].kind != FASTLSTM_RNN && !m->l[d].proj_size && !m->l[d].reverse && !noisy(m->l + d);
    return good;
}

static void refuse_learner(const kit *k, fastlstm_status want) {
    fastlstm_learner *m = k->learner;
    REFUSED(want, fastlstm_learner_run(m, k->T, k->x, k->classes, NULL, k->y, k->done, NULL, NULL));
    REFUSED(want, fastlstm_learner_forward(m, k->x, k->y));
    REFUSED(want, fastlstm_learner_backward(m, NULL));
    REFUSED(want, fastlstm_learner_reset(m, NULL));
    REFUSED(want, fastlstm_learner_apply(m));
}

/* ---- Networks: every function that takes layers refuses them alike ---- */

static void refuse_net(const kit *k, const fastlstm_layer *l, ptrdiff_t n, fastlstm_status want) {
    REFUSED(want, fastlstm_net_check(l, n));
    CHECK(fastlstm_params_size(l, n) == -1 && fastlstm_state_size(l, n, k->B) == -1);
    CHECK(fastlstm_packed_size(k->e, l, n) == -1 && fastlstm_forward_scratch_size(k->e, l, n, k->T, k->B) == -1);
    CHECK(fastlstm_parallel_scratch_size(k->e, l, n, k->T, k->B, 1, 0) == -1 && fastlstm_trace_size(k->e, l, n, k->B) == -1);
    CHECK(fastlstm_trace_canonical_size(l, n, k->B) == -1 && fastlstm_learner_scratch_size(k->e, l, n, k->B) == -1);
    CHECK(fastlstm_tape_size(k->e, l, n, k->T, k->B) == -1 && fastlstm_training_scratch_size(k->e, l, n, k->T, k->B, 1) == -1);
    REFUSED(want, fastlstm_pack(k->e, l, n, k->params, k->packed));
    REFUSED(want, fastlstm_unpack(k->e, l, n, k->packed, k->params));
    REFUSED(want, fastlstm_forward(k->e, l, n, k->packed, k->batch, k->scratch, NULL, NULL));
    REFUSED(want, fastlstm_forward_parallel(k->e, l, n, k->packed, k->batch, k->shared, 1, 0, NULL, NULL));
    REFUSED(want, fastlstm_prepare(k->e, l, n, k->packed, k->T, k->B, k->scratch));
    REFUSED(want, fastlstm_trace_convert(k->e, l, n, k->B, k->traces, k->canonical, 0));
    REFUSED(want, fastlstm_trace_convert(k->e, l, n, k->B, k->traces, k->canonical, 1));
    k->learner->layers = l, k->learner->n_layers = n;
    refuse_learner(k, want);
    *k->learner = k->pupil;
}

/* Fields by type. Of activations the kinds, then the constants. */
enum { KIND, GATES, FLAGS, ACTIVATION = FLAGS + 4, STREAM = ACTIVATION + 3, SWITCHES, CLIP = SWITCHES, RATES = CLIP + 7, SIZES = RATES + 4,
       PROJ = SIZES + 3, OFFSETS, STATES = OFFSETS + 7, FIELDS = STATES + 3 };
#define AT(name) offsetof(fastlstm_layer, name)
static const size_t field[FIELDS] = {
    AT(kind), AT(gates), AT(peepholes), AT(gate_recurrence), AT(reverse), AT(reset_after), AT(gate_activation.kind), AT(input_activation.kind),
    AT(output_activation.kind), AT(stream), AT(clip), AT(gate_activation.alpha), AT(gate_activation.beta), AT(input_activation.alpha),
    AT(input_activation.beta), AT(output_activation.alpha), AT(output_activation.beta), AT(dropout), AT(recurrent_dropout), AT(zoneout_h), AT(zoneout_c), AT(input_size), AT(hidden_size), AT(block_size),
    AT(proj_size), AT(weight_ih), AT(weight_hh), AT(weight_gh), AT(weight_hr), AT(bias_ih), AT(bias_hh), AT(weight_peephole), AT(state_h),
    AT(state_c), AT(state_a)};

static double *double_field(const fastlstm_layer *l, int j) { return (double *)(void *)((char *)l + field[j]); }
static ptrdiff_t *size_field(const fastlstm_layer *l, int j) { return (ptrdiff_t *)(void *)((char *)l + field[j]); }
static int32_t *switch_field(const fastlstm_layer *l, int j) { return (int32_t *)(void *)((char *)l + field[j]); }

/* One field of layer d changed. */
static void change(const kit *k, ptrdiff_t d, size_t at, double value, ptrdiff_t size, fastlstm_status want) {
    const fastlstm_layer before = k->l[d];
    int known = 0;
    for (int j = 0; j < FIELDS; j++)
        if (field[j] == at) {
            known = 1;
            if (j < SWITCHES) *switch_field(k->l + d, j) = (int32_t)size;
            else if (j < SIZES) *double_field(k->l + d, j) = value;
            else *size_field(k->l + d, j) = size;
            snprintf(check_case, sizeof check_case, "layer %ld, field %d = %g or %ld", (long)d, j, value, (long)size);
        }
    CHECK(known);
    if (want) refuse_net(k, k->l, k->n, want);
    else CHECK(fastlstm_net_check(k->l, k->n) == FASTLSTM_OK);
    k->l[d] = before;
}

/* Activations with constants, everywhere in layer d. */
static void change_activations(const kit *k, ptrdiff_t d) {
    enum { OK, BAD = FASTLSTM_BAD_LAYER };
    static const struct { int kind; double alpha, beta; int want; } activations[] = {
        {FASTLSTM_AFFINE, -1e300, 1e300, OK}, {FASTLSTM_LEAKY_RELU, 0, -1, OK}, {FASTLSTM_LEAKY_RELU, -0.0, 0, OK},
        {FASTLSTM_LEAKY_RELU, -1e-300, 0, BAD}, {FASTLSTM_THRESHOLDED_RELU, -1, 0, OK}, {FASTLSTM_SCALED_TANH, 0, 1, BAD},
        {FASTLSTM_SCALED_TANH, -0.0, 1, BAD}, {FASTLSTM_SCALED_TANH, -1, 0, OK}, {FASTLSTM_HARD_SIGMOID, -1, -1, OK},
        {FASTLSTM_ELU, 0, 1, OK}, {FASTLSTM_ELU, -1, 1, BAD}, {FASTLSTM_ELU, 1, 0, BAD}, {FASTLSTM_ELU, 1, -1, BAD}};
    const fastlstm_layer before = k->l[d];
    for (int where = 0; where < 3; where++) {
        fastlstm_activation *f = (fastlstm_activation *)(void *)((char *)(k->l + d) + field[ACTIVATION + where]);
        for (ptrdiff_t j = 0; j < COUNT(activations) + ACTIVATIONS * 5; j++) {
            static const double ends[] = {INFINITY, -INFINITY, NAN, 0, 1}; /* even of those that ignore them */
            const ptrdiff_t n = j - COUNT(activations), kind = n / 5, needs = kind == FASTLSTM_SCALED_TANH || kind == FASTLSTM_ELU;
            int want = n < 0 ? activations[j].want : n % 5 < 3 ? BAD : n % 5 == 3 && needs ? BAD : OK;
            if (n < 0) *f = (fastlstm_activation){activations[j].kind, activations[j].alpha, activations[j].beta};
            else *f = (fastlstm_activation){(int32_t)kind, n % 2 ? 1 : ends[n % 5], ends[n % 5]};
            if (n >= 0 && n % 5 == 3) f->alpha = 0;
            snprintf(check_case, sizeof check_case, "layer %ld, activation %d: %d %g %g", (long)d, where, f->kind, f->alpha, f->beta);
            if (want) refuse_net(k, k->l, k->n, bad_layer);
            else CHECK(fastlstm_net_check(k->l, k->n) == FASTLSTM_OK);
            k->l[d] = before;
        }
    }
}

/* Every field of every layer changed alone. */
static void change_all(const kit *k) {
    const fastlstm_status bad = bad_layer;
    for (ptrdiff_t d = 0; d < k->n; d++) {
        const fastlstm_layer was = k->l[d];
        const int lstm = was.kind == FASTLSTM_LSTM, recurrent = was.kind != FASTLSTM_LINEAR;
        for (int j = 0; j < ACTIVATION; j++) { /* kind, gates and switches */
            static const int32_t values[] = {-1, 2, 16, INT32_MAX, INT32_MIN};
            for (ptrdiff_t v = 0; v < COUNT(values); v++)
                if (j > GATES || (j == GATES ? lstm && values[v] != 2 : values[v] != 2)) change(k, d, field[j], 0, values[v], bad);
        }
        if (was.kind != FASTLSTM_GRU) change(k, d, AT(reset_after), 0, 1, bad);
        else change(k, d, AT(reset_after), 0, !was.reset_after, FASTLSTM_OK);
        for (int j = ACTIVATION; j < STREAM; j++)
            for (int32_t v = 0; v < 4; v++) change(k, d, field[j], 0, v < 2 ? -1 - v : v < 3 ? ACTIVATIONS : INT32_MIN, bad);
        change_activations(k, d);
        for (int j = RATES; j < SIZES; j++) {
            const double rates[] = {NAN, -1e-300, 1, INFINITY, -INFINITY, 1e300, 0.5};
            const int may = j == RATES || (recurrent && (j < RATES + 3 || lstm));
            for (int v = 0; v < 7 - may; v++) change(k, d, field[j], rates[v], 0, bad);
            if (may) change(k, d, field[j], 0.5, 0, FASTLSTM_OK);
        }
        change(k, d, AT(stream), 0, -1, bad);
        change(k, d, AT(stream), 0, INT32_MAX, FASTLSTM_OK);
        for (int j = 0; j < 9; j++) change(k, d, field[SIZES + j / 3], 0, below[j % 3], bad);
        for (int j = 1; j < 3; j++) change(k, d, AT(proj_size), 0, below[j], bad);
        change(k, d, AT(proj_size), 0, was.proj_size ? 0 : 1, bad);
        change(k, d, AT(proj_size), 0, was.hidden_size + 1, bad);
        for (int j = OFFSETS; j < FIELDS; j++) {
            const int stands = j < STATES || (j == STATES + 1 ? lstm : recurrent); /* a state that is there, or may be with other switches */
            const int exists = *size_field(&was, j) >= 0 && stands && (j < STATES + 2 || was.gate_recurrence);
            const int needed = exists && field[j] != AT(bias_ih) && field[j] != AT(bias_hh);
            for (int v = 0; v < 2 && stands; v++) change(k, d, field[j], 0, v ? PTRDIFF_MIN : -2, bad);
            if (needed) change(k, d, field[j], 0, -1, bad);
            if (exists) change(k, d, field[j], 0, TWO31, FASTLSTM_OK);
            for (int v = 0; exists && v < 3; v++) change(k, d, field[j], 0, beyond[v], large);
        }
        for (int off = -1; off <= 1; off += 2) { /* widths that do not chain, blocks that do not divide */
            if (d) change(k, d, AT(input_size), 0, was.input_size + off, bad);
            if (was.proj_size) change(k, d, AT(proj_size), 0, was.proj_size + off, bad);
            else if (d + 1 < k->n) change(k, d, AT(hidden_size), 0, was.hidden_size + 2 * off, bad);
        }
        if (!lstm) continue;
        const double clips[] = {NAN, 0, -0.0, -1, -INFINITY};
        for (int v = 0; v < 5; v++) change(k, d, AT(clip), clips[v], 0, bad);
        change(k, d, AT(clip), 5e-324, 0, FASTLSTM_OK);
        const ptrdiff_t blocks[] = {4, 2 * was.hidden_size, TWO31}, gates[] = {15, 8, 2 | 8, 4 | 8, 6 | 8}; /* 8: coupled */
        for (int v = 0; v < 3; v++) change(k, d, AT(block_size), 0, blocks[v], bad);
        for (int v = 0; v < 5; v++) change(k, d, AT(gates), 0, gates[v], bad);
    }
}

static void net_tests(const fastlstm_engine *e) {
    const int mark = watched = memory_mark();
    const fastlstm_status bad = bad_layer;
    const net f = net_f(), r = net_r(5, 4);
    const kit k = kit_new(e, &f, 4, 3, 2);
    refuse_net(&k, NULL, k.n, FASTLSTM_BAD_ARGUMENT);
    for (int j = 0; j < 3; j++) {
        refuse_net(&k, k.l, below[j], FASTLSTM_BAD_ARGUMENT);
        refuse_net(&k, k.l, beyond[j], large);
    }
    refuse_net(&k, k.l, TWO31, large);
    change_all(&k);
    enum { OK, BAD = FASTLSTM_BAD_LAYER, LARGE = FASTLSTM_TOO_LARGE };
    static const struct { int d; size_t at; ptrdiff_t size; int want; } changes[] = {
        {0, AT(input_size), 1, OK}, {0, AT(input_size), TWO31, OK}, {0, AT(input_size), TWO62, LARGE}, {0, AT(input_size), PTRDIFF_MAX, LARGE},
        {2, AT(hidden_size), TWO31, OK}, {2, AT(hidden_size), TWO62, LARGE}, {2, AT(hidden_size), PTRDIFF_MAX, LARGE}, {0, AT(gates), 0, BAD},
        {0, AT(peepholes), 0, BAD}, {1, AT(peepholes), 1, BAD}, {0, AT(gate_recurrence), 0, BAD}, {1, AT(gate_recurrence), 1, BAD},
        {1, AT(weight_gh), 0, BAD}, {1, AT(weight_peephole), 0, BAD}, {0, AT(bias_ih), -1, BAD}, {0, AT(bias_hh), -1, OK},
        {1, AT(bias_ih), -1, OK}, {2, AT(bias_ih), -1, OK}, {2, AT(block_size), 2, BAD}, {2, AT(kind), FASTLSTM_LSTM, BAD},
        {1, AT(kind), FASTLSTM_LINEAR, BAD}, {0, AT(kind), FASTLSTM_GRU, BAD}, {0, AT(kind), FASTLSTM_RNN, BAD}, {1, AT(kind), FASTLSTM_GRU, OK},
        {1, AT(kind), FASTLSTM_RNN, OK}, {2, AT(kind), FASTLSTM_GRU, BAD}, {2, AT(kind), FASTLSTM_RNN, BAD}, {1, AT(weight_hr), 0, BAD},
        {2, AT(weight_hr), 0, BAD}};
    for (ptrdiff_t j = 0; j < COUNT(changes); j++) change(&k, changes[j].d, changes[j].at, 0, changes[j].size, (fastlstm_status)changes[j].want);
    for (int j = OFFSETS + 1; j < STATES; j++)
        if (field[j] != AT(bias_ih)) change(&k, 2, field[j], 0, 0, bad);
    for (ptrdiff_t d = 0; d < 3; d++) change(&k, d, AT(reverse), 0, 1, bad);
    memory_release(mark);

    const net g = net_g();
    const kit others = kit_new(e, &g, 4, 3, 2);
    others.learner->scratch = others.scratch;
    snprintf(check_case, sizeof check_case, "other kinds");
    refuse_learner(&others, bad); /* not even in parts */
    for (ptrdiff_t d = 0; d < 4; d++) others.learner->layers = others.l + d, others.learner->n_layers = 1, refuse_learner(&others, bad);
    change_all(&others);
    static const struct { int d; size_t at; ptrdiff_t size; int want; } other_changes[] = {
        {0, AT(kind), FASTLSTM_LSTM, BAD}, {0, AT(kind), FASTLSTM_RNN, BAD}, {0, AT(kind), FASTLSTM_LINEAR, BAD}, {3, AT(kind), FASTLSTM_RNN, OK},
        {1, AT(kind), FASTLSTM_GRU, BAD}, {2, AT(kind), FASTLSTM_GRU, OK}, {0, AT(peepholes), 1, BAD}, {2, AT(peepholes), 1, BAD},
        {0, AT(gate_recurrence), 1, BAD}, {2, AT(gate_recurrence), 1, BAD}, {0, AT(weight_gh), 0, BAD}, {2, AT(weight_peephole), 0, BAD},
        {0, AT(weight_hr), 0, BAD}, {1, AT(weight_hr), -1, BAD}, {0, AT(block_size), 5, BAD}, {2, AT(bias_ih), -1, OK}, {0, AT(bias_ih), -1, BAD},
        {0, AT(gates), -1, OK}, {0, AT(state_c), -1, OK}, {2, AT(state_a), -1, OK}, {3, AT(hidden_size), 6, OK}, {3, AT(hidden_size), TWO62, LARGE},
        {3, AT(hidden_size), PTRDIFF_MAX, LARGE}, {0, AT(input_size), TWO31, OK}, {0, AT(input_size), TWO62, LARGE}, {1, AT(hidden_size), TWO31, LARGE},
        {1, AT(hidden_size), 8, OK}, {1, AT(hidden_size), 2, BAD}, {3, AT(reverse), 1, BAD}};
    for (ptrdiff_t j = 0; j < COUNT(other_changes); j++)
        change(&others, other_changes[j].d, other_changes[j].at, 0, other_changes[j].size, (fastlstm_status)other_changes[j].want);
    memory_release(mark);

    const kit both = kit_new(e, &r, 4, 3, 2);
    snprintf(check_case, sizeof check_case, "both directions");
    refuse_learner(&(kit){.e = e}, FASTLSTM_BAD_ARGUMENT); /* no learner at all */
    both.learner->scratch = both.scratch;
    refuse_learner(&both, bad);
    static const struct { int d; size_t at; ptrdiff_t size; } mismatches[] = {
        {0, AT(reverse), 1}, {1, AT(reverse), 0}, {2, AT(reverse), 1}, {0, AT(kind), FASTLSTM_LINEAR}, {0, AT(input_size), 2}, {0, AT(input_size), 4},
        {1, AT(input_size), 2}, {1, AT(input_size), 4}, {1, AT(hidden_size), 3}, {1, AT(hidden_size), 5}, {2, AT(input_size), 8},
        {2, AT(input_size), 10}, {2, AT(input_size), 4}, {2, AT(input_size), 5}}; /* the last two: the width of one of them */
    for (ptrdiff_t j = 0; j < COUNT(mismatches); j++) change(&both, mismatches[j].d, mismatches[j].at, 0, mismatches[j].size, bad);
    refuse_net(&both, both.l + 1, 2, bad);
    memory_release(mark);
}

static void refuse_batch(const kit *k, fastlstm_status want, fastlstm_status parallel, fastlstm_status run) {
    REFUSED(want, fastlstm_forward(k->e, k->l, k->n, k->packed, k->batch, k->scratch, NULL, NULL));
    REFUSED(parallel, fastlstm_forward_parallel(k->e, k->l, k->n, k->packed, k->batch, k->shared, k->threads, 0, NULL, NULL));
    if (run) REFUSED(run, fastlstm_run(k->ready, k->batch, NULL, NULL));
    *k->batch = k->good;
}

static int stop(void *context) { return ++*(int *)context; }

static void batch_tests(const fastlstm_engine *e, const net *m) {
    const int mark = watched = memory_mark(), reverse = m->l[1].reverse;
    const kit k = kit_new(e, m, 4, 3, 2);
    fastlstm_batch *const b = k.batch;
    snprintf(check_case, sizeof check_case, "batches, %s directions", reverse ? "both" : "no");
#define BATCH(name, value) (b->name = (value), refuse_batch(&k, wrong, wrong, wrong))
    for (int j = 0; j < 3; j++) {
        BATCH(steps, below[j]), BATCH(lanes, below[j]);
        b->steps = beyond[j], refuse_batch(&k, large, large, reverse ? wrong : FASTLSTM_OK);
        b->lanes = beyond[j], refuse_batch(&k, large, large, wrong);
    }
    BATCH(x, NULL), BATCH(y, NULL), BATCH(state, NULL);
    for (ptrdiff_t lane = 0; lane < k.B; lane++) {
        const int64_t was = k.lengths[lane], values[] = {-1, k.T + 1, (int64_t)1 << 32, INT64_MAX, INT64_MIN};
        for (int j = 0; j < COUNT(values); j++) k.lengths[lane] = values[j], BATCH(lengths, k.lengths);
        k.lengths[lane] = was;
        int64_t *starts = memory_new((size_t)k.B * sizeof *starts);
        for (ptrdiff_t j = 0; j < k.B; j++) starts[j] = j;
        for (int j = 0; j < COUNT(values); j++)
            if (j != 1 && j != 2) starts[lane] = values[j], BATCH(starts, starts);
        const void **xs = memory_new((size_t)k.B * sizeof *xs);
        for (ptrdiff_t j = 0; j < k.B; j++) xs[j] = j == lane ? NULL : k.good.x;
        BATCH(xs, xs);
    }
    for (int bad = 0; bad < 5; bad++) {
        REFUSED(wrong, fastlstm_forward(OR(0, e), OR(1, k.l), k.n, OR(2, k.packed), OR(3, b), OR(4, k.scratch), NULL, NULL));
        REFUSED(wrong, fastlstm_forward_parallel(OR(0, e), OR(1, k.l), k.n, OR(2, k.packed), OR(3, b), OR(4, k.shared), 2, 0, NULL, NULL));
        if (bad != 3) REFUSED(wrong, fastlstm_prepare(OR(0, e), OR(1, k.l), k.n, OR(2, k.packed), k.T, k.B, OR(4, k.scratch)));
    }
    REFUSED(wrong, fastlstm_run(NULL, b, NULL, NULL));
    REFUSED(wrong, fastlstm_run(k.ready, NULL, NULL, NULL));
    for (int j = 0; j < 3; j++) {
        REFUSED(wrong, fastlstm_prepare(e, k.l, k.n, k.packed, below[j], k.B, k.scratch));
        REFUSED(wrong, fastlstm_prepare(e, k.l, k.n, k.packed, k.T, below[j], k.scratch));
        REFUSED(large, fastlstm_prepare(e, k.l, k.n, k.packed, beyond[j], k.B, k.scratch));
        REFUSED(large, fastlstm_prepare(e, k.l, k.n, k.packed, k.T, beyond[j], k.scratch));
        b->lanes = k.B - 1 + j; /* other lanes than prepared for */
        if (j != 1) REFUSED(wrong, fastlstm_run(k.ready, b, NULL, NULL));
        *b = k.good;
    }
    const int threads[] = {0, -1, INT_MIN, (int)k.B + 1, INT_MAX};
    for (int j = 0; j < 5; j++) {
        REFUSED(wrong, fastlstm_forward_parallel(e, k.l, k.n, k.packed, b, k.shared, threads[j], 0, NULL, NULL));
        CHECK(fastlstm_parallel_scratch_size(e, k.l, k.n, k.T, k.B, threads[j], 0) == -1);
    }
    b->lanes = TWO31;
    REFUSED(wrong, fastlstm_forward_parallel(e, k.l, k.n, k.packed, b, k.shared, INT_MAX, 0, NULL, NULL));
    b->lanes = k.B;
    for (int j = 0; j < 3; j++) {
        const int other[] = {-1, 2, INT_MAX};
        REFUSED(wrong, fastlstm_forward_parallel(e, k.l, k.n, k.packed, b, k.shared, 1, other[j], NULL, NULL));
        CHECK(fastlstm_parallel_scratch_size(e, k.l, k.n, k.T, k.B, 1, other[j]) == -1);
    }
    const int gated = !divides(m); /* such layers are not divided by units */
    CHECK((fastlstm_parallel_scratch_size(e, k.l, k.n, k.T, k.B, 2, 1) == -1) == gated);
    if (gated) REFUSED(wrong, fastlstm_forward_parallel(e, k.l, k.n, k.packed, b, k.shared, 2, 1, NULL, NULL));
    *b = k.good;
    if (reverse) {
        b->steps = k.T + 1;
        REFUSED(wrong, fastlstm_run(k.ready, b, NULL, NULL));
    } else { /* any number of steps: here all of the same rows, until poll is asked */
        int calls = 0;
        b->steps = PTRDIFF_MAX, b->x_step = b->y_step = 0;
        CHECK(CALL(fastlstm_run(k.ready, b, stop, &calls)) == FASTLSTM_INTERRUPTED && calls == 1);
    }
    memory_release(mark);
}

static void learner_tests(const fastlstm_engine *e) {
    const int mark = watched = memory_mark();
    const net f = net_f();
    kit k = kit_new(e, &f, 4, 3, 1);
    k.pupil.scratch = real_new(k.bits, fastlstm_learner_scratch_size(e, k.l, k.n, k.B));
    fastlstm_learner *const m = k.learner;
    *m = k.pupil;
#define LEARNER(name, value, want) \
    (snprintf(check_case, sizeof check_case, "learner: " #name " = " #value), m->name = (value), refuse_learner(&k, want), *m = k.pupil)
    for (int j = RATES; j < SIZES; j++) { /* noise */
        *double_field(k.l + 1, j) = 0.5;
        refuse_learner(&k, bad_layer);
        *double_field(k.l + 1, j) = 0;
    }
    LEARNER(engine, NULL, wrong), LEARNER(layers, NULL, wrong), LEARNER(weights, NULL, wrong);
    LEARNER(traces, NULL, wrong), LEARNER(state, NULL, wrong), LEARNER(scratch, NULL, wrong);
    for (int j = 0; j < 3; j++) {
        LEARNER(n_layers, below[j], wrong), LEARNER(n_layers, beyond[j], large);
        LEARNER(lanes, below[j], wrong), LEARNER(lanes, beyond[j], large);
        if (j) LEARNER(chunk, below[j], wrong);
    }
    /* without memory for the gradient */
    LEARNER(chunk, 0, wrong), LEARNER(chunk, 2, wrong), LEARNER(chunk, PTRDIFF_MAX, wrong), LEARNER(update, 0, wrong);
    const double momenta[] = {0.5, -1e-300, NAN};
    const int32_t losses[] = {-1, 6, INT32_MAX, INT32_MIN};
    for (int j = 0; j < 3; j++) LEARNER(momentum, momenta[j], wrong); /* without velocity */
    for (int j = 0; j < 4; j++) LEARNER(loss, losses[j], wrong);
    for (int prepared = 0; prepared < 2; prepared++) {
        snprintf(check_case, sizeof check_case, "arguments of a learner %s", prepared ? "prepared" : "not prepared");
        if (prepared) CHECK(CALL(fastlstm_learner_reset(m, NULL)) == FASTLSTM_OK && m->prepared);
        for (int bad = 0; bad < 4; bad++) {
            REFUSED(wrong, fastlstm_learner_run(OR(0, m), k.T, OR(1, k.x), k.classes, NULL, OR(2, k.y), OR(3, k.done), NULL, NULL));
            if (bad < 3) REFUSED(wrong, fastlstm_learner_forward(OR(0, m), OR(1, k.x), OR(2, k.y)));
        }
        for (int j = 0; j < 3; j++) {
            REFUSED(wrong, fastlstm_learner_run(m, below[j], k.x, k.classes, NULL, k.y, k.done, NULL, NULL));
            REFUSED(large, fastlstm_learner_run(m, beyond[j], k.x, k.classes, NULL, k.y, k.done, NULL, NULL));
            REFUSED(large, fastlstm_learner_run(m, beyond[j], k.x, NULL, NULL, k.y, k.done, NULL, NULL));
        }
        for (ptrdiff_t j = 0; j < k.T * k.B; j++) {
            const int64_t was = k.classes[j], values[] = {-2, k.O, (int64_t)1 << 32, -((int64_t)1 << 32), INT64_MAX, INT64_MIN};
            for (int v = 0; v < 6; v++) {
                k.classes[j] = values[v];
                REFUSED(wrong, fastlstm_learner_run(m, k.T, k.x, k.classes, NULL, k.y, k.done, NULL, NULL));
            }
            k.classes[j] = was;
        }
    }
    CHECK(CALL(fastlstm_learner_run(m, k.T, k.x, k.classes, NULL, k.y, k.done, NULL, NULL)) == FASTLSTM_OK && *k.done == k.T);
    m->momentum = 0.5; /* may change when prepared, but asks for velocity */
    refuse_learner(&k, wrong);
    memory_release(mark);
}

static void other_tests(const fastlstm_engine *e) {
    const int mark = watched = memory_mark();
    const ptrdiff_t refused[] = {0, -1, PTRDIFF_MIN, TWO62, PTRDIFF_MAX - 1, PTRDIFF_MAX};
    const net f = net_f();
    const kit k = kit_new(e, &f, 4, 3, 2);
    snprintf(check_case, sizeof check_case, "other functions");
    for (int bad = 0; bad < 4; bad++) {
        REFUSED(wrong, fastlstm_pack(OR(0, e), OR(1, k.l), k.n, OR(2, k.params), OR(3, k.packed)));
        REFUSED(wrong, fastlstm_unpack(OR(0, e), OR(1, k.l), k.n, OR(2, k.packed), OR(3, k.params)));
        REFUSED(wrong, fastlstm_trace_convert(OR(0, e), OR(1, k.l), k.n, k.B, OR(2, k.traces), OR(3, k.canonical), bad & 1));
    }
    for (int j = 0; j < 6; j++) {
        const ptrdiff_t n = refused[j];
        REFUSED(j < 3 ? wrong : large, fastlstm_trace_convert(e, k.l, k.n, n, k.traces, k.canonical, 1));
        CHECK(fastlstm_state_size(k.l, k.n, n) == -1 && fastlstm_trace_size(e, k.l, k.n, n) == -1);
        CHECK(fastlstm_trace_canonical_size(k.l, k.n, n) == -1 && fastlstm_learner_scratch_size(e, k.l, k.n, n) == -1);
        CHECK(fastlstm_forward_scratch_size(e, k.l, k.n, n, 3) == -1 && fastlstm_forward_scratch_size(e, k.l, k.n, 3, n) == -1);
        for (int threads = 1; threads <= 3; threads++)
            for (int way = 0; way < 2; way++)
                CHECK(fastlstm_parallel_scratch_size(e, k.l, k.n, way ? n : 3, way ? 3 : n, threads, 0) == -1);
    }
    CHECK(fastlstm_packed_size(NULL, k.l, k.n) == -1 && fastlstm_forward_scratch_size(NULL, k.l, k.n, 1, 1) == -1);
    CHECK(fastlstm_parallel_scratch_size(NULL, k.l, k.n, 1, 1, 1, 0) == -1 && fastlstm_trace_size(NULL, k.l, k.n, 1) == -1);
    CHECK(fastlstm_learner_scratch_size(NULL, k.l, k.n, 1) == -1);
    CHECK(fastlstm_forward_scratch_size(e, k.l, k.n, 3, TWO31) > TWO31 && fastlstm_learner_scratch_size(e, k.l, k.n, TWO31) > TWO31);
    memory_release(mark);
}

static void engine_tests(void) {
    const char *isa, *const names[] = {"", " ", "AVX2", "avx", "avx22", "generic ", "genericc", "gener"};
    const int bits[] = {0, 1, -1, 31, 33, -32, 63, 65, -64, 128, 96, INT_MAX, INT_MIN}, outside[] = {-1, -2, INT_MIN, INT_MAX, 100};
    int n = 0;
    snprintf(check_case, sizeof check_case, "engines");
    for (; (isa = fastlstm_isa_name(n)) != NULL; n++)
        for (int wide = 32; wide <= 64; wide += 32) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, wide);
            CHECK(e && strcmp(fastlstm_engine_isa(e), isa) == 0 && fastlstm_engine_bits(e) == wide && (n || e == fastlstm_engine_select(NULL, wide)));
        }
    CHECK(n > 0 && strcmp(fastlstm_isa_name(n - 1), "generic") == 0);
    for (int j = 0; j < 5; j++) CHECK(!fastlstm_isa_name(outside[j]) && !fastlstm_isa_name(n + j));
    for (ptrdiff_t j = 0; j < COUNT(bits); j++)
        CHECK(!fastlstm_engine_select(NULL, bits[j]) && !fastlstm_engine_select("generic", bits[j]));
    for (ptrdiff_t j = 0; j < COUNT(names); j++) CHECK(!fastlstm_engine_select(names[j], 32) && !fastlstm_engine_select(names[j], 64));
    for (int j = 0; j <= FASTLSTM_INTERRUPTED; j++) {
        CHECK(*fastlstm_status_string((fastlstm_status)j));
        for (int i = 0; i <= 6; i++)
            CHECK(i == j || strcmp(fastlstm_status_string((fastlstm_status)i), fastlstm_status_string((fastlstm_status)j)) != 0);
    }
}

/* A batch run whole and in shares, each in memory of its own size; `same`: the shares' bits must be those of the whole. */
static void check_shares(const kit *k, const net *m, int same) {
    const ptrdiff_t y_bytes = k->T * k->B * k->O * (k->bits / 8), state_bytes = fastlstm_state_size(k->l, k->n, k->B) * (k->bits / 8);
    char *state = memcpy(memory_new((size_t)state_bytes), k->state, (size_t)state_bytes), *y = memory_new((size_t)y_bytes);
    const ptrdiff_t told = fastlstm_parallel_scratch_size(k->e, k->l, k->n, k->T, k->B, k->threads, 0);
    CHECK(told > 0);
    CHECK(CALL(fastlstm_forward(k->e, k->l, k->n, k->packed, k->batch, k->scratch, NULL, NULL)) == FASTLSTM_OK);
    for (int by_units = 0; by_units < 1 + divides(m); by_units++) {
        fastlstm_batch batch = k->good;
        const ptrdiff_t size = fastlstm_parallel_scratch_size(k->e, k->l, k->n, k->T, k->B, k->threads, by_units);
        batch.y = memset(y, 0xff, (size_t)y_bytes);
        batch.state = memcpy(memory_new((size_t)state_bytes), state, (size_t)state_bytes);
        batch.lengths = k->batch->lengths;
        CHECK(CALL(fastlstm_forward_parallel(k->e, k->l, k->n, k->packed, &batch, real_new(k->bits, size), k->threads, by_units, NULL, NULL)) == FASTLSTM_OK);
        CHECK(!same || (memcmp(y, k->y, (size_t)y_bytes) == 0 && memcmp(batch.state, k->state, (size_t)state_bytes) == 0));
    }
}

static void share_tests(void) {
    const int mark = memory_mark();
    for (ptrdiff_t B = 1; B <= 11; B += 2)
        for (int threads = 1; threads <= B; threads += 1 + threads / 2)
            for (int n = 0; n < 7; n++) {
                const net nets[7] = {net_f(), net_r(5, 4), net_r(1, 17), net_r(17, 1), net_g(), net_u(5, 33), net_u(16, 1)};
                const fastlstm_engine *e = fastlstm_engine_select(threads % 3 ? NULL : "generic", (B / 2 + n) % 2 ? 32 : 64);
                const kit k = kit_new(e, nets + n, n + threads % 2 ? 3 : 66, B, threads);
                snprintf(check_case, sizeof check_case, "net %d, %d shares of %ld lanes", n, threads, (long)B);
                if (B % 3 == 0) k.batch->lengths = k.lengths;
                check_shares(&k, nets + n, 1);
                memory_release(mark);
            }
}

static long arrays, valid, runs, isas;

static void change_any(fastlstm_layer *l) {
    static const int32_t values[] = {INT32_MIN, -1, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 9, 13, 15, 16, INT32_MAX};
    static const double clips[] = {NAN, 0, -1, -INFINITY, INFINITY, 1e-300, 1, 1e300};
    const ptrdiff_t sizes[] = {PTRDIFF_MIN, -2, -1, -1, 0, 1, 2, 3, 4, 5, 6, 8, 16, 17, 64, 1000, 1 << 20, TWO31 - 1, TWO31, TWO31 << 9, TWO31 << 15,
                               TWO31 << 22, TWO31 << 23, (TWO31 << 23) + 1, TWO31 << 25, TWO62, PTRDIFF_MAX - 1, PTRDIFF_MAX};
    const int j = (int)random_below(FIELDS);
    if (j < SWITCHES) *switch_field(l, j) = values[random_below(COUNT(values))];
    else if (j < SIZES) *double_field(l, j) = clips[random_below(COUNT(clips))];
    else *size_field(l, j) = sizes[random_below(COUNT(sizes))];
}

/* What the header says of one activation. */
static int unsuitable(const fastlstm_activation *f) {
    if (f->kind < 0 || f->kind >= ACTIVATIONS || f->alpha - f->alpha != 0 || f->beta - f->beta != 0) return 1;
    return (f->kind == FASTLSTM_LEAKY_RELU && f->alpha < 0) || (f->kind == FASTLSTM_SCALED_TANH && f->alpha == 0) ||
           (f->kind == FASTLSTM_ELU && (f->alpha < 0 || f->beta <= 0));
}

/* And of one layer; its counts in double (gates, rows, A) as far as they have a meaning. */
static int contradicts(const fastlstm_layer *l, double *gates, double *rows, double *A) {
    const int lstm = l->kind == FASTLSTM_LSTM, coupled = l->gates & 8, i = l->gates & 1, f = l->gates >> 1 & 1, o = l->gates >> 2 & 1;
    *gates = lstm ? i + f + o : 0;
    *A = lstm && l->block_size > 0 ? *gates * (double)(l->hidden_size / l->block_size) : 0;
    *rows = (l->kind == FASTLSTM_GRU ? 3 : 1) * (double)l->hidden_size + *A;
    if (!lstm || !l->gate_recurrence) *A = 0;
    for (int j = 0; j < ACTIVATION; j++)
        if (j == KIND ? l->kind < 0 || l->kind > 3 : j == GATES ? lstm && (l->gates < 0 || l->gates > 15) : *switch_field(l, j) < 0 || *switch_field(l, j) > 1)
            return 1;
    if (unsuitable(&l->gate_activation) || unsuitable(&l->input_activation) || unsuitable(&l->output_activation)) return 1;
    for (int j = RATES; j < SIZES; j++)
        if (!(*double_field(l, j) >= 0 && *double_field(l, j) < (j > RATES + (lstm ? 3 : l->kind == FASTLSTM_LINEAR ? 0 : 2) ? 1e-320 : 1))) return 1;
    if (l->stream < 0) return 1;
    for (int j = SIZES; j < PROJ; j++)
        if (*size_field(l, j) < 1) return 1;
    for (int j = OFFSETS; j < STATES; j++)
        if (*size_field(l, j) < -1) return 1;
    if (l->weight_ih < 0 || l->state_a < -1 || l->proj_size < 0 || (l->reset_after && l->kind != FASTLSTM_GRU)) return 1;
    if (!lstm && (l->block_size != 1 || l->peepholes || l->gate_recurrence || l->proj_size || l->weight_gh != -1 || l->weight_hr != -1 ||
                  l->weight_peephole != -1)) return 1;
    if (l->kind == FASTLSTM_LINEAR) return l->reverse || l->weight_hh != -1 || l->bias_hh != -1;
    if (lstm && ((coupled && (f || !i)) || l->hidden_size % l->block_size || !(l->clip > 0) || l->proj_size > l->hidden_size)) return 1;
    return l->weight_hh < 0 || (l->weight_gh >= 0) != (*A > 0) || (l->weight_hr >= 0) != (l->proj_size > 0) || (l->bias_hh >= 0 && l->bias_ih < 0) ||
           (l->weight_peephole >= 0) != (l->peepholes && *gates > 0) || l->state_h < 0 || (lstm && l->state_c < 0) || (*A > 0 && l->state_a < 0);
}

static void reach(double *most, ptrdiff_t at, double size) {
    if (at >= 0 && size > 0 && (double)at + size > *most) *most = (double)at + size;
}

/* A learner's run in memory of exactly the sizes told. */
static void check_learner(kit *k) {
    fastlstm_learner *m = k->learner;
    const ptrdiff_t packed = fastlstm_packed_size(k->e, k->l, k->n), bytes = packed * (k->bits / 8);
    m->loss = (int32_t)random_below(5);
    m->update = (int32_t)random_below(2);
    m->chunk = random_below(3);
    m->momentum = random_below(2) ? 0.5 : 0;
    m->scratch = real_new(k->bits, fastlstm_learner_scratch_size(k->e, k->l, k->n, k->B));
    if (!m->update || m->chunk != 1) m->gradient = memset(real_new(k->bits, packed), 0, (size_t)bytes);
    if (m->update && m->momentum != 0) m->velocity = memset(real_new(k->bits, packed), 0, (size_t)bytes);
    const void *targets = m->loss == FASTLSTM_CROSS_ENTROPY ? (void *)k->classes : filled(k->bits, k->T * k->B * k->O);
    const uint8_t *reset = random_below(2) ? memset(memory_new((size_t)(k->T * k->B)), 1, (size_t)(k->T * k->B / 2)) : NULL;
    CHECK(CALL(fastlstm_learner_run(m, k->T, k->x, targets, reset, k->y, k->done, NULL, NULL)) == FASTLSTM_OK && *k->done == k->T);
    CHECK(CALL(fastlstm_learner_forward(m, k->x, k->y)) == FASTLSTM_OK && CALL(fastlstm_learner_backward(m, k->y)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_learner_reset(m, reset)) == FASTLSTM_OK && CALL(fastlstm_learner_apply(m)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_trace_convert(k->e, k->l, k->n, k->B, k->traces, k->canonical, 1)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_unpack(k->e, k->l, k->n, k->packed, k->params)) == FASTLSTM_OK);
}

static void any_net(const kit *other) {
    const ptrdiff_t widths[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 18, 33}, many[] = {0, -1, 70, TWO31, TWO31 << 10, TWO62, PTRDIFF_MAX};
    const ptrdiff_t n = 1 + random_below(4), mutations = random_below(4) ? random_below(3) : random_below(12);
    const fastlstm_engine *e = fastlstm_engine_select(fastlstm_isa_name((int)random_below(isas)), random_below(2) ? 32 : 64);
    const ptrdiff_t T = random_below(8) ? 1 + random_below(4) : many[random_below(7)], B = random_below(8) ? 1 + random_below(5) : many[random_below(7)];
    int bad = 0;
    double gates, rows, A, params = 0, state = 0, traces = 0, load = 0;
    net m = {0};
    arrays++;
    for (ptrdiff_t width = widths[random_below(15)]; m.n < n; width = width_out(&m)) {
        const ptrdiff_t H = widths[random_below(15)];
        fastlstm_layer l = lstm(width, H, H % 3 ? H % 2 ? 1 : 2 : 3, gate_sets[random_below(10)]);
        l.peepholes = (int32_t)random_below(2);
        l.gate_recurrence = (int32_t)random_below(2);
        l.gate_activation = activation((int)random_below(ACTIVATIONS));
        if (random_below(4) == 0) l.proj_size = 1 + random_below(H);
        if (random_below(4) == 0) l = recurrent(FASTLSTM_GRU + (int)random_below(2), width, H, 0);
        if (l.kind == FASTLSTM_GRU) l.reset_after = (int32_t)random_below(2);
        if (random_below(4) == 0) l = linear(width, H, (int)random_below(ACTIVATIONS));
        if (m.n && m.l[m.n - 1].kind != FASTLSTM_LINEAR && !m.l[m.n - 1].reverse && l.kind != FASTLSTM_LINEAR && random_below(4) == 0) {
            l.input_size = m.l[m.n - 1].input_size;
            l.reverse = 1;
        }
        add(&m, l, (int)random_below(3));
    }
    for (ptrdiff_t j = 0; j < mutations; j++) change_any(m.l + random_below(n));
    for (ptrdiff_t d = 0, width = 0; d < n && !bad; d++) {
        const fastlstm_layer *l = m.l + d;
        if ((bad = contradicts(l, &gates, &rows, &A))) break;
        const ptrdiff_t out = outputs(l);
        const double I = (double)l->input_size, H = (double)l->hidden_size, S = (double)l->block_size, P = (double)out;
        const double M = (l->bias_ih >= 0) + (l->bias_hh >= 0) + I + P + A;
        if (l->reverse) bad = !d || l[-1].reverse || l[-1].kind == FASTLSTM_LINEAR || l[-1].input_size != l->input_size;
        else bad = d && l->input_size != width;
        width = out > TWO62 / 4 || (l->reverse && width > TWO62 / 4) ? TWO62 : out + (l->reverse ? width : 0);
        const double sizes[] = {rows * I, rows * P, rows * A, P * H, rows, rows, gates * H};
        for (int j = 0; j < 7; j++) reach(&params, *size_field(m.l + d, OFFSETS + j), sizes[j]);
        load += (H / S + 16) * (3 * S + 3) * (M + H + S + 8) * 64;
        if (l->kind == FASTLSTM_LINEAR) continue;
        const double states[] = {P, l->kind == FASTLSTM_LSTM ? H : 0, A};
        for (int j = 0; j < 3; j++) reach(&state, *size_field(m.l + d, STATES + j), states[j]);
        load += fmax(0, (double)l->state_a); /* must be small even if it means nothing */
        if (l->kind == FASTLSTM_LSTM) traces += M * H * (1 + (l->gates & 1) + (l->gates >> 1 & 1)) + (l->peepholes ? 2 * S * H : 0);
    }
    const fastlstm_status status = fastlstm_net_check(m.l, n);
    snprintf(check_case, sizeof check_case, "array %ld: %ld layers, T %ld B %ld, status %d", arrays, (long)n, (long)T, (long)B, status);
    const double most = ldexp(1, 62), steps = (double)T, lanes = (double)B;
    CHECK(bad ? status == FASTLSTM_BAD_LAYER || status == FASTLSTM_TOO_LARGE : status == FASTLSTM_OK || status == FASTLSTM_TOO_LARGE);
    if (!bad && load < ldexp(1, 44) && params + state < ldexp(1, 44)) CHECK(status == FASTLSTM_OK);
    if (!bad && (params > most || state > most)) CHECK(status == FASTLSTM_TOO_LARGE);
    const int threads = (int)(B > 0 && B < 100 ? 1 + random_below(B) : random_below(3));
    ptrdiff_t size[] = {fastlstm_params_size(m.l, n), fastlstm_packed_size(e, m.l, n), fastlstm_state_size(m.l, n, B), fastlstm_trace_canonical_size(m.l, n, B),
                        fastlstm_trace_size(e, m.l, n, B), fastlstm_learner_scratch_size(e, m.l, n, B), fastlstm_forward_scratch_size(e, m.l, n, T, B),
                        fastlstm_parallel_scratch_size(e, m.l, n, T, B, threads, 0)};
    const double told[] = {params, 0, state * lanes, traces * lanes}, total = (load + params + state) * (lanes > 0 ? lanes : 1) * (steps > 0 ? steps : 1);
    int small = !status;
    valid += small;
    for (int j = 0; j < 8; j++) {
        const int counted = !status && (j < 2 || B > 0) && (j < 6 || T > 0) && (j < 7 || (threads > 0 && threads <= B));
        CHECK(size[j] >= -1 && (counted || size[j] == -1));
        if (counted && total < ldexp(1, 44)) CHECK(size[j] >= 0);
        if (j < 4 && j != 1 && size[j] >= 0) CHECK((double)size[j] == told[j]);
        if (j > 3 && size[j] >= 0) CHECK((double)size[j] >= (j == 4 ? traces * lanes : 1));
        small &= size[j] >= 0 && size[j] < 100000;
    }
    if (status && arrays % 256 == 0) refuse_net(other, m.l, n, status);
    if (!small || T > 70 || B > 70 || load > 64e6 || (size[4] > 3000 && random_below(8))) return;
    const int mark = memory_mark();
    kit k = kit_new(e, &m, T, B, arrays % 512 ? 1 : threads);
    runs++;
    check_shares(&k, &m, mutations == 0);
    if (traced(&m)) check_learner(&k);
    else k.learner->scratch = k.scratch, refuse_learner(&k, bad_layer);
    memory_release(mark);
}

int main(void) {
    const int mark = memory_mark();
    const net f = net_f(), r = net_r(5, 4), g = net_g();
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    engine_tests();
    for (int bits = 32; bits <= 64; bits += 32) {
        const fastlstm_engine *e = fastlstm_engine_select(NULL, bits);
        net_tests(e);
        batch_tests(e, &f);
        batch_tests(e, &r);
        batch_tests(e, &g);
        learner_tests(e);
        other_tests(e);
    }
    share_tests();
    watched = mark;
    const kit other = kit_new(fastlstm_engine_select(NULL, 32), &f, 2, 1, 1);
    while (fastlstm_isa_name((int)isas))
        isas++;
    while (arrays < 200000)
        any_net(&other);
    memory_release(mark);
    printf("%ld arrays of layers, %ld of them networks\n", arrays, valid);
    fastlstm_threads_release();
    return report("run", runs);
}
