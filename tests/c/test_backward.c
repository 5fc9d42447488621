/* Backpropagation through time of every kind of layer, with and without noise: the engine's gradient against differences of
   its own forward passes in double, its bits on every number of threads and instruction set, in memory of exactly the
   sizes told. */
#include "reference.h"

/* What a call takes and gives, of one engine. L = sum dy y + sum dstate state(T). */
typedef struct tape_case {
    const task *k;
    const fastlstm_engine *e;
    int bits;
    void *packed, *x, *state, *dy, *dstate;
} tape_case;

/* The errors of parameters, of inputs and of the state before the first step. */
typedef struct errors { void *gradient, *dx, *dstate; uint64_t hash; } errors;

static fastlstm_batch batch_of(const tape_case *c, const void *x, void *y, void *state) {
    const task *k = c->k;
    const ptrdiff_t I = width_in(&k->m), O = width_out(&k->m);
    return (fastlstm_batch){.steps = k->T, .lanes = k->B, .x = x, .x_step = k->B * I, .x_lane = I, .y = y, .y_step = k->B * O, .y_lane = O,
                            .lengths = k->lengths, .reset = k->reset, .state = state, .seed = 1997};
}

static int any_noise(const net *m) {
    int any = 0;
    for (ptrdiff_t d = 0; d < m->n; d++)
        any |= noisy(m->l + d);
    return any;
}

static void *copy_of(const tape_case *c, const void *a, ptrdiff_t n) {
    return memcpy(real_new(c->bits, n), a, (size_t)(n * c->bits / 8));
}

static errors differentiate(const tape_case *c, int threads) {
    const task *k = c->k;
    const net *m = &k->m;
    const int bits = c->bits;
    const ptrdiff_t n_y = k->T * k->B * width_out(m), n_x = k->T * k->B * width_in(m), n_state = m->state * k->B;
    errors r = {.gradient = real_new(bits, m->params), .dx = real_new(bits, n_x), .dstate = copy_of(c, c->dstate, n_state)};
    const int mark = memory_mark();
    void *y = real_new(bits, n_y), *plain = real_new(bits, n_y), *state = copy_of(c, c->state, n_state), *plain_state = copy_of(c, c->state, n_state);
    void *tape = real_new(bits, fastlstm_tape_size(c->e, m->l, m->n, k->T, k->B));
    void *scratch = real_new(bits, fastlstm_training_scratch_size(c->e, m->l, m->n, k->T, k->B, threads));
    fastlstm_batch batch = batch_of(c, c->x, y, state), other = batch_of(c, c->x, plain, plain_state);
    CHECK(CALL(fastlstm_training_forward(c->e, m->l, m->n, c->packed, &batch, tape, scratch, threads, NULL, NULL)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_forward(c->e, m->l, m->n, c->packed, &other, real_new(bits, fastlstm_forward_scratch_size(c->e, m->l, m->n, k->T, k->B)),
                                NULL, NULL)) == FASTLSTM_OK);
    CHECK(any_noise(m) || (memcmp(y, plain, (size_t)(n_y * bits / 8)) == 0 && memcmp(state, plain_state, (size_t)(n_state * bits / 8)) == 0));
    memset(scratch, 0xff, (size_t)(fastlstm_training_scratch_size(c->e, m->l, m->n, k->T, k->B, threads) * bits / 8));
    CHECK(CALL(fastlstm_backward(c->e, m->l, m->n, c->packed, &batch, c->state, tape, c->dy, r.dx, r.dstate, 1, r.gradient, 0, scratch, threads, NULL,
                                 NULL)) == FASTLSTM_OK);
    r.hash = fnv(fnv(fnv(FNV_BEGIN, r.gradient, (size_t)(m->params * bits / 8)), r.dx, (size_t)(n_x * bits / 8)), r.dstate, (size_t)(n_state * bits / 8));
    memory_release(mark);
    return r;
}

/* L of parameters w, inputs x and a state, in double. */
static double loss_of(const tape_case *c, const double *w, const double *x, const double *state) {
    const task *k = c->k;
    const net *m = &k->m;
    const int mark = memory_mark();
    const ptrdiff_t n_y = k->T * k->B * width_out(m), n_state = m->state * k->B;
    double *y = real_new(64, n_y), *after = copy_of(c, state, n_state), sum = 0;
    fastlstm_batch batch = batch_of(c, x, y, after);
    void *packed = real_new(64, fastlstm_packed_size(c->e, m->l, m->n));
    CHECK(fastlstm_pack(c->e, m->l, m->n, w, packed) == FASTLSTM_OK);
    CHECK(fastlstm_training_forward(c->e, m->l, m->n, packed, &batch, real_new(64, fastlstm_tape_size(c->e, m->l, m->n, k->T, k->B)),
                                    real_new(64, fastlstm_training_scratch_size(c->e, m->l, m->n, k->T, k->B, 1)), 1, NULL, NULL) == FASTLSTM_OK);
    for (ptrdiff_t j = 0; j < n_y; j++)
        sum += ((const double *)c->dy)[j] * y[j];
    for (ptrdiff_t j = 0; j < n_state; j++)
        if (k->state[j] == k->state[j]) sum += ((const double *)c->dstate)[j] * after[j];
    memory_release(mark);
    return sum;
}

/* Along a few directions, of all parameters, inputs and states at once. */
static void check_differences(const tape_case *c, const errors *r) {
    const task *k = c->k;
    const ptrdiff_t n[3] = {k->m.params, k->T * k->B * width_in(&k->m), k->m.state * k->B};
    const double *at[3] = {k->w, k->x, k->state}, *slopes[3] = {r->gradient, r->dx, r->dstate}, step = 0x1p-21;
    for (int turn = 0; turn < 3; turn++) { /* parameters, inputs, states in turn: nothing hides behind something larger */
        const int mark = memory_mark();
        double *moved[2][3], slope_ = 0, size = 0, loss[2];
        for (int side = 0; side < 2; side++)
            for (int a = 0; a < 3; a++)
                moved[side][a] = memcpy(memory_zeros(n[a]), at[a], (size_t)n[a] * sizeof(double));
        for (ptrdiff_t j = 0; j < n[turn]; j++) {
            if (at[turn][j] != at[turn][j]) continue; /* unused */
            const double v = random_number(0);
            moved[0][turn][j] -= step * v;
            moved[1][turn][j] += step * v;
            slope_ += slopes[turn][j] * v;
            size += slopes[turn][j] * slopes[turn][j];
        }
        for (int side = 0; side < 2; side++)
            loss[side] = loss_of(c, moved[side][0], moved[side][1], moved[side][2]);
        const double found = (loss[1] - loss[0]) / (2 * step);
        if (!CHECK(fabs(found - slope_) <= 1e-7 * (1 + sqrt(size)))) printf("     %d: %.12g, not %.12g; size %g\n", turn, slope_, found, sqrt(size));
        memory_release(mark);
    }
}

static long cases;

/* Returns a hash of the gradients of engines with fused multiply-add. */
static uint64_t check_backward(const task *k) {
    const int begin = memory_mark();
    const ptrdiff_t n_y = k->T * k->B * width_out(&k->m), n_x = k->T * k->B * width_in(&k->m), n_state = k->m.state * k->B;
    double *dy = memory_zeros(n_y), *dstate = memory_zeros(n_state);
    errors exact = {0};
    uint64_t both = FNV_BEGIN;
    for (ptrdiff_t j = 0; j < n_y; j++) dy[j] = random_number(0);
    for (ptrdiff_t j = 0; j < n_state; j++) dstate[j] = k->state[j] == k->state[j] ? random_number(0) : NAN;
    cases++;
    for (int bits = 64; bits >= 32; bits -= 32) {
        const char *isa;
        uint64_t fused = 0;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const int mark = memory_mark();
            tape_case c = {.k = k, .e = fastlstm_engine_select(isa, bits), .bits = bits, .x = feed_all(bits, k->x, n_x),
                           .state = feed_all(bits, k->state, n_state), .dy = feed_all(bits, dy, n_y), .dstate = feed_all(bits, dstate, n_state)};
            describe("backward", k, isa, bits);
            c.packed = pack(&k->m, k->w, c.e);
            const errors r = differentiate(&c, 1);
            for (int threads = 2; threads <= 3; threads++) CHECK(differentiate(&c, threads).hash == r.hash && "threads agree");
            if (bits == 64) check_differences(&c, &r);
            if (exact.dx) {
                compare(bits, GRADIENT, r.gradient, exact.gradient, k->m.params);
                compare(bits, GRADIENT, r.dx, exact.dx, n_x);
                compare(bits, GRADIENT, r.dstate, exact.dstate, n_state);
            }
            if (is_fused(isa)) {
                CHECK((fused == 0 || fused == r.hash) && "instruction sets agree");
                fused = r.hash;
            }
            if (!exact.dx) exact = r; /* kept until the end */
            else memory_release(mark);
        }
        both = fnv(both, &fused, sizeof fused);
    }
    memory_release(begin);
    return both;
}

/* The bits of a fixed network's gradients, f64 and f32, on every machine with fused multiply-add. */
static const uint64_t golden = 0x4baff86159425db1u;

int main(void) {
    const ptrdiff_t sizes[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33}, lanes[] = {1, 2, 3, 5, 8};
    const int begin = memory_mark();
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (ptrdiff_t n = 0; n < 12 * COUNT(sizes); n++) {
        task k = {0};
        const ptrdiff_t H = sizes[n / 12], I = input_sizes[n % 3], T = n % 7 == 3 ? 70 : 1 + random_below(9);
        const fastlstm_layer l = n % 12 < 8 ? another(n, I, H) : varied(random_below(160), I);
        add(&k.m, l, (int)(n + n / 12) % 3);
        if (n % 4 == 1) {
            fastlstm_layer back = n % 8 == 1 ? varied(random_below(160), I) : another(n + 2, I, H);
            back.reverse = 1;
            add(&k.m, back, (int)n % 3);
        }
        if (n % 5 == 2) add(&k.m, another(n / 5, width_out(&k.m), 6), 1);
        if (n % 3 == 0) add(&k.m, linear(width_out(&k.m), 1 + n % 18, (int)n / 3 % ACTIVATIONS), (int)n % 2);
        for (ptrdiff_t d = 0; d < k.m.n && n % 7 > 4; d++) {
            fastlstm_layer *noise = k.m.l + d;
            noise->stream = (int32_t)(d - noise->reverse);
            noise->dropout = n % 2 * 0.25;
            noise->recurrent_dropout = noise->kind == FASTLSTM_LINEAR ? 0 : n / 2 % 2 * 0.5;
            noise->zoneout_h = noise->kind == FASTLSTM_LINEAR ? 0 : n / 4 % 2 * 0.375;
            noise->zoneout_c = noise->kind == FASTLSTM_LSTM ? n % 3 * 0.25 : 0;
        }
        fill_task(&k, T, lanes[n % COUNT(lanes)], n % 3 == 1, n % 2);
        check_backward(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 2 * COUNT(sizes); n++) { /* sparse inputs */
        task k = {0};
        const ptrdiff_t I = 32 + 33 * (n % 3), H = sizes[n % COUNT(sizes)];
        fastlstm_layer back = another(n + 2, I, H);
        back.reverse = 1;
        add(&k.m, n % 5 ? another(n, I, H) : lstm(I, H, 1, IFO), (int)n % 3);
        if (n % 4 == 1) add(&k.m, back, (int)n % 3);
        fill_task(&k, n % 4 ? 1 + random_below(30) : 70, lanes[n % COUNT(lanes)], n % 3 == 1, n % 2);
        make_sparse(&k);
        check_backward(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 2 * COUNT(sizes); n++) { /* one lane of a plain cell */
        task k = {0};
        const ptrdiff_t H = sizes[n % COUNT(sizes)] * (n < COUNT(sizes) ? 1 : 4);
        fastlstm_layer back = lstm(5, H, 1, IFO);
        back.reverse = 1;
        add(&k.m, lstm(5, H, 1, IFO), (int)n % 3);
        if (n % 3 == 1) add(&k.m, back, (int)n % 2);
        fill_task(&k, n % 5 ? 1 + random_below(9) : 70, 1, n % 3 == 1, n % 2);
        check_backward(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 8; n++) { /* work enough for several threads */
        task k = {0};
        fastlstm_layer back = another(n + 1, 17, 65), forth = another(n, 17, 65 + n);
        back.reverse = 1;
        if (n % 4 == 3) forth = lstm(17, 66, 1 + n % 3, IFO);
        if (n > 5) forth.zoneout_h = forth.recurrent_dropout = 0.25;
        add(&k.m, forth, 2);
        if (n % 2) add(&k.m, back, 1);
        fill_task(&k, 40, 2 + n % 2 * 5, n % 3 == 1, n % 2);
        check_backward(&k);
        memory_release(begin);
    }
    task k = {0};
    fastlstm_layer l = lstm(17, 12, 2, IFO);
    random_state = 1997;
    add(&k.m, recurrent(FASTLSTM_GRU, 3, 17, 1), 2);
    l.proj_size = 5;
    l.peepholes = l.gate_recurrence = 1;
    add(&k.m, l, 2);
    add(&k.m, recurrent(FASTLSTM_GRU, 5, 9, 0), 2);
    l = recurrent(FASTLSTM_RNN, 5, 8, 0);
    l.reverse = 1;
    add(&k.m, l, 1);
    add(&k.m, lstm(17, 33, 1, IFO), 1);
    add(&k.m, linear(33, 5, FASTLSTM_SOFTPLUS), 1);
    k.m.l[4].dropout = k.m.l[4].recurrent_dropout = k.m.l[4].zoneout_h = k.m.l[4].zoneout_c = 0.25;
    fill_task(&k, 30, 5, 1, 1);
    const uint64_t hash = check_backward(&k);
    printf("hash backward=%016llx\n", (unsigned long long)hash);
    if (is_fused(fastlstm_isa_name(0))) CHECK(hash == golden);
    memory_release(begin);
    fastlstm_threads_release();
    return report("backward", cases);
}
