/* The manners of training calls on every engine of this machine: the same bits with fused multiply-add and for any number of
   threads, in memory of exactly the sizes told; nothing written but what is asked for; interrupted when asked; every bad
   argument refused. Whether the gradients are right is test_backward.c's question. */
#include "reference.h"

static long cases;

/* What a training call takes and gives: x (T, B, I), y (T, B, O), states of all lanes, gradient as the parameters lie. */
typedef struct lesson {
    void *packed, *x, *before, *state, *y, *tape, *dy, *dx, *dstate, *gradient, *scratch;
    fastlstm_batch batch;
    ptrdiff_t n_x, n_y, n_state;
} lesson;

static lesson lesson_new(const task *k, const fastlstm_engine *e, int threads, const double *dy, const double *dstate) {
    const int bits = fastlstm_engine_bits(e);
    const ptrdiff_t I = width_in(&k->m), O = width_out(&k->m), T = k->T, B = k->B;
    lesson o = {.n_x = T * B * I, .n_y = T * B * O, .n_state = k->m.state * B};
    o.packed = pack(&k->m, k->w, e);
    o.x = feed_all(bits, k->x, o.n_x);
    o.before = feed_all(bits, k->state, o.n_state);
    o.state = feed_all(bits, k->state, o.n_state);
    o.dy = feed_all(bits, dy, o.n_y);
    o.dstate = feed_all(bits, dstate, o.n_state);
    o.y = real_new(bits, o.n_y);
    o.dx = real_new(bits, o.n_x);
    o.gradient = real_new(bits, k->m.params);
    o.tape = real_new(bits, fastlstm_tape_size(e, k->m.l, k->m.n, T, B));
    o.scratch = real_new(bits, fastlstm_training_scratch_size(e, k->m.l, k->m.n, T, B, threads));
    o.batch = (fastlstm_batch){.steps = T, .lanes = B, .x = o.x, .x_step = B * I, .x_lane = I, .y = o.y, .y_step = B * O, .y_lane = O,
                               .lengths = k->lengths, .reset = k->reset, .state = o.state};
    return o;
}

static fastlstm_status forward(const task *k, const fastlstm_engine *e, lesson *o, int threads, fastlstm_poll poll, void *context) {
    return fastlstm_training_forward(e, k->m.l, k->m.n, o->packed, &o->batch, o->tape, o->scratch, threads, poll, context);
}

static fastlstm_status backward(const task *k, const fastlstm_engine *e, lesson *o, int threads, fastlstm_poll poll, void *context) {
    return fastlstm_backward(e, k->m.l, k->m.n, o->packed, &o->batch, o->before, o->tape, o->dy, o->dx, o->dstate, 1, o->gradient, 0, o->scratch,
                             threads, poll, context);
}

/* Unused places of the gradient, of dx and of states. */
static void check_unused(const task *k, int bits, const lesson *o) {
    int clean = 1;
    for (ptrdiff_t j = 0; j < k->m.params; j++)
        clean &= (k->w[j] == k->w[j]) == (real_get(bits, o->gradient, j) == real_get(bits, o->gradient, j));
    CHECK(clean && "every parameter has its gradient, and nothing else is written");
    clean = 1;
    for (ptrdiff_t t = 0; k->lengths && t < k->T; t++)
        for (ptrdiff_t j = 0; j < k->B * width_in(&k->m); j++)
            if (t >= k->lengths[j / width_in(&k->m)]) clean &= real_get(bits, o->dx, t * k->B * width_in(&k->m) + j) == 0;
    CHECK(clean && "no error reaches the padding");
}

static void check_task(const task *k) {
    const ptrdiff_t n_y = k->T * k->B * width_out(&k->m), n_state = k->m.state * k->B;
    const int outer = memory_mark();
    double *dy = memory_zeros(n_y), *dstate = memory_zeros(n_state);
    const char *isa;
    for (ptrdiff_t j = 0; j < n_y; j++) {
        const ptrdiff_t t = j / (k->B * width_out(&k->m)), b = j / width_out(&k->m) % k->B;
        dy[j] = k->lengths && t >= k->lengths[b] ? NAN : random_number(0); /* not read */
    }
    for (ptrdiff_t j = 0; j < n_state; j++) dstate[j] = random_number(0);
    for (int bits = 32; bits <= 64; bits += 32) {
        uint64_t seen = 0;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
            uint64_t first = 0;
            describe("tape", k, isa, bits);
            for (int threads = 1; threads <= 3; threads++) {
                const int mark = memory_mark();
                lesson o = lesson_new(k, e, threads, dy, dstate);
                CHECK(CALL(forward(k, e, &o, threads, NULL, NULL)) == FASTLSTM_OK);
                CHECK(CALL(backward(k, e, &o, threads, NULL, NULL)) == FASTLSTM_OK);
                const void *const parts[] = {o.y, o.state, o.dx, o.dstate, o.gradient};
                const ptrdiff_t sizes[] = {o.n_y, n_state, o.n_x, n_state, k->m.params};
                uint64_t hash = FNV_BEGIN;
                for (int j = 0; j < 5; j++) hash = fnv(hash, parts[j], (size_t)(sizes[j] * bits / 8));
                if (threads == 1) check_unused(k, bits, &o), first = hash;
                CHECK(hash == first && "any number of threads gives the same bits");
                cases++;
                memory_release(mark);
            }
            if (!is_fused(isa)) continue;
            CHECK((seen == 0 || seen == first) && "instruction sets agree");
            seen = first;
        }
    }
    memory_release(outer);
}

/* ---- Interrupted ---- */

static int asked, patience;
static int ask(void *context) {
    CHECK(context == &asked);
    return ++asked > patience;
}

static void interruptions(int bits) {
    const int mark = memory_mark();
    const fastlstm_engine *e = fastlstm_engine_select(NULL, bits);
    task k = {0};
    add(&k.m, lstm(64, 96, 1, IFO), 2);
    fill_task(&k, 200, 8, 0, 0);
    double *dy = memory_zeros(k.T * k.B * 96), *dstate = memory_zeros(k.m.state * k.B);
    describe("interrupted", &k, "best", bits);
    lesson o = lesson_new(&k, e, 2, dy, dstate);
    for (int threads = 1; threads <= 2; threads++) {
        int most = 1;
        for (patience = 0; patience < most; patience++) {
            asked = 0;
            CHECK(CALL(forward(&k, e, &o, threads, ask, &asked)) == FASTLSTM_INTERRUPTED && asked == patience + 1);
        }
        patience = 1 << 30;
        CHECK(CALL(forward(&k, e, &o, threads, ask, &asked)) == FASTLSTM_OK);
        asked = 0;
        CHECK(CALL(backward(&k, e, &o, threads, ask, &asked)) == FASTLSTM_OK);
        CHECK(asked > 3);
        most = asked;
        for (patience = 0; patience < most; patience++) {
            asked = 0;
            CHECK(CALL(forward(&k, e, &o, threads, NULL, NULL)) == FASTLSTM_OK);
            CHECK(CALL(backward(&k, e, &o, threads, ask, &asked)) == FASTLSTM_INTERRUPTED && asked >= patience + 1);
        }
        cases++;
    }
    memory_release(mark);
}

/* ---- Refused ---- */

static const void *watched[4];
static size_t watched_bytes[4];
static uint64_t watch(void) {
    uint64_t hash = FNV_BEGIN;
    for (int j = 0; j < 4; j++) hash = fnv(hash, watched[j], watched_bytes[j]);
    return hash;
}
#define REFUSED(status, call) (watched_hash = watch(), CHECK(CALL(call) == (status)), CHECK(watched_hash == watch() && "nothing is written: " #call))
#define OR(j, pointer) (bad == (j) ? NULL : (pointer))

static void refusals(int bits) {
    const int mark = memory_mark();
    const fastlstm_engine *e = fastlstm_engine_select(NULL, bits);
    const fastlstm_status wrong = FASTLSTM_BAD_ARGUMENT, large = FASTLSTM_TOO_LARGE;
    uint64_t watched_hash;
    task k = {0};
    add(&k.m, lstm(2, 3, 1, IFO), 2);
    fill_task(&k, 4, 2, 1, 0);
    double *dy = memory_zeros(k.T * k.B * 3), *dstate = memory_zeros(k.m.state * k.B);
    snprintf(check_case, sizeof check_case, "refusals f%d", bits);
    lesson o = lesson_new(&k, e, 1, dy, dstate);
    watched[0] = o.y, watched_bytes[0] = (size_t)(o.n_y * bits / 8);
    watched[1] = o.state, watched_bytes[1] = (size_t)(o.n_state * bits / 8);
    watched[2] = o.gradient, watched_bytes[2] = (size_t)(k.m.params * bits / 8);
    watched[3] = o.dstate, watched_bytes[3] = (size_t)(o.n_state * bits / 8);
#define BOTH(status, layers, n, batch, threads)                                                                                        \
    do {                                                                                                                               \
        REFUSED(status, fastlstm_training_forward(e, layers, n, o.packed, batch, o.tape, o.scratch, threads, NULL, NULL));             \
        REFUSED(status, fastlstm_backward(e, layers, n, o.packed, batch, o.before, o.tape, o.dy, o.dx, o.dstate, 1, o.gradient, 0, o.scratch, \
                                          threads, NULL, NULL));                                                                       \
    } while (0)
    for (int bad = 0; bad < 10; bad++) {
        if (bad < 6)
            REFUSED(wrong, fastlstm_training_forward(OR(0, e), OR(1, k.m.l), k.m.n, OR(2, o.packed), bad == 3 ? NULL : &o.batch, OR(4, o.tape),
                                                    OR(5, o.scratch), 1, NULL, NULL));
        REFUSED(wrong, fastlstm_backward(OR(0, e), OR(1, k.m.l), k.m.n, OR(2, o.packed), bad == 3 ? NULL : &o.batch, OR(4, o.before),
                                        OR(5, o.tape), OR(6, o.dy), o.dx, OR(7, o.dstate), 1, OR(8, o.gradient), 0, OR(9, o.scratch), 1, NULL, NULL));
    }
    static const int bad_threads[] = {0, -1, (1 << 16) + 1, INT32_MAX, INT32_MIN};
    for (ptrdiff_t j = 0; j < COUNT(bad_threads); j++) {
        BOTH(wrong, k.m.l, k.m.n, &o.batch, bad_threads[j]);
        CHECK(fastlstm_training_scratch_size(e, k.m.l, k.m.n, 4, 2, bad_threads[j]) == -1);
    }
    static const ptrdiff_t counts[] = {0, -1, PTRDIFF_MIN, PTRDIFF_MAX, PTRDIFF_MAX / 8};
    for (ptrdiff_t j = 0; j < COUNT(counts); j++) {
        fastlstm_batch more = o.batch;
        const fastlstm_status status = counts[j] <= 0 ? wrong : large;
        more.steps = counts[j];
        BOTH(status, k.m.l, k.m.n, &more, 1);
        more.steps = 4, more.lanes = counts[j];
        BOTH(status, k.m.l, k.m.n, &more, 1);
        if (counts[j] <= 0) BOTH(wrong, k.m.l, counts[j], &o.batch, 1);
        CHECK(fastlstm_tape_size(e, k.m.l, k.m.n, counts[j], 2) == -1 && fastlstm_tape_size(e, k.m.l, k.m.n, 4, counts[j]) == -1);
        CHECK(fastlstm_training_scratch_size(e, k.m.l, k.m.n, counts[j], 2, 1) == -1);
        CHECK(fastlstm_training_scratch_size(e, k.m.l, k.m.n, 4, counts[j], 1) == -1);
    }
    CHECK(fastlstm_training_scratch_size(e, k.m.l, k.m.n, (ptrdiff_t)1 << 36, 2, 1 << 16) > 0);
    static const int64_t bad_lengths[] = {-1, 5, INT64_MAX, INT64_MIN};
    for (ptrdiff_t j = 0; j < COUNT(bad_lengths); j++) {
        const int64_t kept = k.lengths[1];
        k.lengths[1] = bad_lengths[j];
        BOTH(wrong, k.m.l, k.m.n, &o.batch, 1);
        k.lengths[1] = kept;
    }
    for (int bad = 0; bad < 6; bad++) {
        const int64_t starts[2] = {0, 1};
        const void *xs[2] = {o.batch.x, o.batch.x};
        fastlstm_batch other = o.batch;
        if (bad == 0) other.x = NULL;
        if (bad == 1) other.y = NULL;
        if (bad == 2) other.state = NULL;
        if (bad == 3) other.starts = starts;
        if (bad == 4) other.first_step = -1;
        if (bad == 5) other.xs = xs;
        BOTH(wrong, k.m.l, k.m.n, &other, 1);
    }
    fastlstm_layer compact = k.m.l[0];
    compact.weights = FASTLSTM_INT8;
    BOTH(FASTLSTM_BAD_LAYER, &compact, 1, &o.batch, 1);
    CHECK(fastlstm_tape_size(e, &compact, 1, 4, 2) == -1 && fastlstm_training_scratch_size(e, &compact, 1, 4, 2, 1) == -1);
    CHECK(fastlstm_tape_size(NULL, k.m.l, 1, 4, 2) == -1 && fastlstm_training_scratch_size(NULL, k.m.l, 1, 4, 2, 1) == -1);
    CHECK(CALL(forward(&k, e, &o, 1, NULL, NULL)) == FASTLSTM_OK);
    o.dx = NULL; /* not wanted */
    CHECK(CALL(backward(&k, e, &o, 1, NULL, NULL)) == FASTLSTM_OK);
    memory_release(mark);
}

int main(void) {
    static const ptrdiff_t sizes[] = {1, 3, 8, 9, 15, 16, 17, 33, 65}, lanes[] = {1, 2, 5, 16};
    for (int bits = 32; bits <= 64; bits += 32) {
        refusals(bits);
        interruptions(bits);
    }
    for (ptrdiff_t n = 0; n < 15 * COUNT(sizes); n++) {
        const int mark = memory_mark();
        const ptrdiff_t H = sizes[n / 15], I = input_sizes[n % 3];
        task k = {0};
        add(&k.m, n % 5 == 0 ? lstm(I, H, 1, IFO) : n % 5 < 4 ? another(n, I, H) : varied(n, I), (int)n % 3);
        if (n % 4 == 1) {
            fastlstm_layer back = another(n + 2, I, H);
            back.reverse = 1;
            add(&k.m, back, (int)n % 3);
        }
        if (n % 3 == 0) add(&k.m, linear(width_out(&k.m), 1 + n % 18, FASTLSTM_TANH), (int)n % 2);
        fill_task(&k, n % 7 == 3 ? 70 : 1 + n % 9, lanes[n % COUNT(lanes)], n % 3 == 1, (int)n % 2);
        check_task(&k);
        memory_release(mark);
    }
    fastlstm_threads_release();
    return report("tape", cases);
}
