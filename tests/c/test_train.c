/* Losses and optimisers on plain arrays: against double references (CTC: the sum over all alignments), on every instruction
   set, in memory of exactly the sizes told; the same bits with fused multiply-add; every bad argument refused, nothing written. */
#include "reference.h" /* first: it says which POSIX it wants */

static long cases;
static const fastlstm_status wrong = FASTLSTM_BAD_ARGUMENT, large = FASTLSTM_TOO_LARGE;

/* Whether |a - b| <= tolerance (1 + |b|) everywhere; both NaN, or the same infinity, is equal. */
static void near(int bits, const void *a, const double *b, ptrdiff_t n, double tolerance) {
    double most = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        const double x = real_get(bits, a, j), error = fabs(x - b[j]) / (1 + fabs(b[j]));
        if (x == b[j] || (x != x && b[j] != b[j])) continue;
        if (!(error <= most)) most = error == error ? error : INFINITY;
    }
    if (!CHECK(most <= tolerance)) printf("     off by %g\n", most);
}

/* Bits of n elements agree among instruction sets that fuse; `seen` is 0 before the first. */
static void agree(const char *isa, int bits, const void *a, ptrdiff_t n, uint64_t *seen) {
    const uint64_t hash = fnv(FNV_BEGIN, a, (size_t)(n * bits / 8));
    if (!is_fused(isa)) return;
    CHECK(*seen == 0 || *seen == hash);
    *seen = hash;
}

/* ---- Losses ---- */

static void check_elementwise(int bits, int loss, ptrdiff_t rows, ptrdiff_t width, int weighted) {
    const int mark = memory_mark();
    const ptrdiff_t n = rows * width;
    double *y = memory_zeros(n), *t = memory_zeros(n), *w = memory_zeros(width), *dy = memory_zeros(n), value = 0, count = 0;
    const char *isa;
    uint64_t seen = 0;
    for (ptrdiff_t k = 0; k < width; k++) w[k] = weighted ? 0.25 + fabs(random_number(2)) : 1;
    for (ptrdiff_t j = 0; j < n; j++) {
        y[j] = 0.5 + random_number(-2);
        t[j] = random_below(4) ? fabs(random_number(0)) : NAN;
        count += t[j] == t[j];
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        const double d = y[j] - t[j], share = loss == FASTLSTM_SSE ? 1 : 1 / count;
        if (t[j] != t[j]) continue;
        if (loss == FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS) {
            const double p = 1 / (1 + exp(-y[j])), weight = w[j % width];
            value -= share * (weight * t[j] * log(p) + (1 - t[j]) * log(1 - p));
            dy[j] = share * (-weight * t[j] * (1 - p) + (1 - t[j]) * p);
        } else if (loss == FASTLSTM_BINARY_CROSS_ENTROPY) {
            value -= share * (w[j % width] * t[j] * log(y[j]) + (1 - t[j]) * log(1 - y[j]));
            dy[j] = share * (-w[j % width] * t[j] / y[j] + (1 - t[j]) / (1 - y[j]));
        } else {
            value += share * d * d * (loss == FASTLSTM_SSE ? 0.5 : 1);
            dy[j] = share * d * (loss == FASTLSTM_SSE ? 1 : 2);
        }
    }
    for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
        void *out = real_new(bits, n);
        double got = NAN;
        snprintf(check_case, sizeof check_case, "loss %d %s f%d: %ld rows of %ld%s", loss, isa, bits, (long)rows, (long)width, weighted ? ", weights" : "");
        CHECK(CALL(fastlstm_elementwise_loss(fastlstm_engine_select(isa, bits), loss, rows, width, feed_all(bits, y, n), feed_all(bits, t, n),
                                             weighted ? feed_all(bits, w, width) : NULL, out, &got)) == FASTLSTM_OK);
        near(bits, out, dy, n, bits == 32 ? 1e-6 : 1e-14);
        near(64, &got, &value, 1, bits == 32 ? 1e-6 : 1e-14);
        agree(isa, bits, out, n, &seen);
        cases++;
    }
    memory_release(mark);
}

static void check_cross_entropy(int bits, ptrdiff_t rows, ptrdiff_t C, int weighted, double smoothing) {
    const int mark = memory_mark();
    double *y = memory_zeros(rows * C), *w = memory_zeros(C), *dy = memory_zeros(rows * C), value = 0, total = 0;
    int64_t *target = memory_new((size_t)rows * sizeof *target);
    const char *isa;
    uint64_t seen = 0;
    for (ptrdiff_t k = 0; k < C; k++) w[k] = weighted ? fabs(random_number(1)) : 1;
    for (ptrdiff_t j = 0; j < rows * C; j++) y[j] = random_number(3);
    for (ptrdiff_t b = 0; b < rows; b++) {
        target[b] = random_below(C + 1) - 1;
        if (target[b] >= 0) total += w[target[b]];
    }
    for (ptrdiff_t b = 0; b < rows && total > 0; b++) {
        double sum = 0, all = 0;
        for (ptrdiff_t k = 0; k < C; k++) sum += exp(y[b * C + k]);
        for (ptrdiff_t k = 0; k < C && target[b] >= 0; k++) {
            const double q = (k == target[b] ? 1 - smoothing : 0) + smoothing / (double)C;
            value -= q * w[k] * (y[b * C + k] - log(sum)) / total;
            dy[b * C + k] -= q * w[k] / total;
            all += q * w[k] / total;
        }
        for (ptrdiff_t k = 0; k < C; k++) dy[b * C + k] += all * exp(y[b * C + k]) / sum;
    }
    for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
        void *out = real_new(bits, rows * C);
        double got = NAN;
        snprintf(check_case, sizeof check_case, "cross-entropy %s f%d: %ld rows of %ld, smoothing %g%s", isa, bits, (long)rows, (long)C, smoothing,
                 weighted ? ", weights" : "");
        CHECK(CALL(fastlstm_cross_entropy(fastlstm_engine_select(isa, bits), rows, C, feed_all(bits, y, rows * C), target,
                                          weighted ? feed_all(bits, w, C) : NULL, smoothing, out, &got)) == FASTLSTM_OK);
        near(bits, out, dy, rows * C, bits == 32 ? 1e-6 : 1e-14);
        near(64, &got, &value, 1, bits == 32 ? 2e-6 : 1e-14);
        agree(isa, bits, out, rows * C, &seen);
        cases++;
    }
    memory_release(mark);
}

/* ---- CTC: the probability of a target, added up over all C^T alignments ---- */

static int collapses_to(const int64_t *path, ptrdiff_t T, const int64_t *target, ptrdiff_t S, int64_t blank) {
    ptrdiff_t s = 0;
    for (ptrdiff_t t = 0; t < T; t++) {
        if (path[t] == blank || (t && path[t] == path[t - 1])) continue;
        if (s == S || path[t] != target[s++]) return 0;
    }
    return s == S;
}

/* y (T, C) at `stride`; adds scale dL/dy to dy, and returns L = -log p. */
static double brute_ctc(ptrdiff_t T, ptrdiff_t C, const double *y, ptrdiff_t stride, const int64_t *target, ptrdiff_t S, int64_t blank,
                        double scale, double *dy) {
    int64_t path[8] = {0};
    double p[8][8], occupied[8][8] = {{0}}, total = 0;
    for (ptrdiff_t t = 0; t < T; t++) {
        double sum = 0;
        for (ptrdiff_t k = 0; k < C; k++) sum += exp(y[t * stride + k]);
        for (ptrdiff_t k = 0; k < C; k++) p[t][k] = exp(y[t * stride + k]) / sum;
    }
    for (ptrdiff_t t = 0; t >= 0;) {
        if (collapses_to(path, T, target, S, blank)) {
            double product = 1;
            for (t = 0; t < T; t++) product *= p[t][path[t]];
            for (t = 0; t < T; t++) occupied[t][path[t]] += product;
            total += product;
        }
        for (t = T - 1; t >= 0 && ++path[t] == C; t--) path[t] = 0;
    }
    for (ptrdiff_t t = 0; t < T; t++)
        for (ptrdiff_t k = 0; k < C; k++) dy[t * stride + k] += scale * (p[t][k] - occupied[t][k] / total);
    return -log(total);
}

static void check_ctc(int bits, ptrdiff_t T, ptrdiff_t B, ptrdiff_t C, int ragged) {
    const int mark = memory_mark();
    const ptrdiff_t n = T * B * C;
    double *y = memory_zeros(n), *dy = memory_zeros(n), value = 0;
    int64_t *counts = memory_new((size_t)B * sizeof *counts), *lengths = memory_new((size_t)B * sizeof *lengths), labels[64];
    const int64_t blank = random_below(C);
    ptrdiff_t all = 0, longest = 0;
    const char *isa;
    uint64_t seen = 0;
    for (ptrdiff_t j = 0; j < n; j++) y[j] = random_number(2);
    for (ptrdiff_t b = 0; b < B; b++) {
        int64_t *target = labels + all;
        ptrdiff_t needed = 0;
        lengths[b] = ragged ? 1 + random_below(T) : T;
        counts[b] = C > 1 ? random_below(lengths[b] + 1) : 0;
        for (ptrdiff_t s = 0; s < counts[b]; s++) {
            do target[s] = random_below(C);
            while (target[s] == blank);
            needed += 1 + (s && target[s] == target[s - 1]);
            if (needed > lengths[b]) counts[b] = s; /* one less is possible */
        }
        const double share = 1 / (double)(counts[b] > 1 ? counts[b] : 1) / (double)B;
        value += share * brute_ctc(lengths[b], C, y + b * C, B * C, target, counts[b], blank, share, dy + b * C);
        all += counts[b];
        if (counts[b] > longest) longest = counts[b];
    }
    int64_t *targets = memcpy(memory_new((size_t)all * sizeof *targets), labels, (size_t)all * sizeof *targets);
    for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
        const fastlstm_engine *e = fastlstm_engine_select(isa, bits);
        void *in = feed_all(bits, y, n), *out = i & 1 ? in : real_new(bits, n);
        for (ptrdiff_t b = 0; b < B; b++)
            for (ptrdiff_t j = lengths[b] * B * C; j < n; j += B * C)
                for (ptrdiff_t k = 0; k < C; k++) real_put(bits, in, j + b * C + k, NAN);
        fastlstm_ctc_batch m = {T, B, C, blank, in, ragged ? lengths : NULL, all ? targets : NULL, counts, out};
        double got = NAN;
        snprintf(check_case, sizeof check_case, "ctc %s f%d: T %ld B %ld C %ld, %ld labels", isa, bits, (long)T, (long)B, (long)C, (long)all);
        CHECK(CALL(fastlstm_ctc(e, &m, real_new(bits, fastlstm_ctc_scratch_size(e, T, longest)), &got, NULL, NULL)) == FASTLSTM_OK);
        near(bits, out, dy, n, bits == 32 ? 1e-6 : 1e-14);
        near(64, &got, &value, 1, bits == 32 ? 1e-6 : 1e-14);
        agree(isa, bits, out, n, &seen);
        cases++;
    }
    memory_release(mark);
}

/* ---- Optimisers ---- */

static void ref_update(const fastlstm_optimizer *o, double t, ptrdiff_t n, double *w, const double *gradient, double *m, double *v) {
    double norm = 0;
    for (ptrdiff_t j = 0; j < n; j++) norm += gradient[j] * gradient[j];
    const double scale = o->clip_norm > 0 ? fmin(1, o->clip_norm / (sqrt(norm) + 1e-6)) : 1;
    for (ptrdiff_t j = 0; j < n; j++) {
        double g = scale * gradient[j], step;
        if (o->kind == FASTLSTM_ADAMW) w[j] -= o->lr * o->weight_decay * w[j];
        else g += o->weight_decay * w[j];
        v[j] = o->beta2 * v[j] + (1 - o->beta2) * g * g;
        if (o->kind >= FASTLSTM_ADAM) {
            m[j] = o->beta1 * m[j] + (1 - o->beta1) * g;
            step = m[j] / (1 - pow(o->beta1, t)) / (sqrt(v[j] / (1 - pow(o->beta2, t))) + o->eps);
        } else {
            step = o->kind == FASTLSTM_RMSPROP ? g / (sqrt(v[j]) + o->eps) : g;
            if (o->momentum != 0) {
                m[j] = o->momentum * m[j] + step;
                step = o->nesterov ? g + o->momentum * m[j] : m[j];
            }
        }
        w[j] -= o->lr * step;
    }
}

static void check_optimizer(int bits, ptrdiff_t n, fastlstm_optimizer o) {
    enum { STEPS = 5 };
    const int mark = memory_mark();
    double *w = memory_zeros(n), *m = memory_zeros(n), *v = memory_zeros(n), *g = memory_zeros(n * STEPS), *start = memory_zeros(n);
    const char *isa;
    uint64_t seen = 0;
    for (ptrdiff_t j = 0; j < n; j++) w[j] = start[j] = random_number(0);
    for (ptrdiff_t j = 0; j < n * STEPS; j++) g[j] = random_number(j % 3 - 1);
    for (int t = 0; t < STEPS; t++) ref_update(&o, t + 1, n, w, g + t * n, m, v);
    for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
        fastlstm_optimizer own = o;
        void *weights = feed_all(bits, start, n), *zeros = memory_zeros(n), *first = feed_all(bits, zeros, n), *second = feed_all(bits, zeros, n);
        if (o.kind >= FASTLSTM_ADAM || o.momentum != 0) own.first = first;
        if (o.kind != FASTLSTM_SGD) own.second = second;
        snprintf(check_case, sizeof check_case, "optimiser %d %s f%d: n %ld momentum %g clip %g", o.kind, isa, bits, (long)n, o.momentum, o.clip_norm);
        for (int t = 0; t < STEPS; t++)
            CHECK(CALL(fastlstm_update(fastlstm_engine_select(isa, bits), &own, n, weights, feed_all(bits, g + t * n, n))) == FASTLSTM_OK);
        CHECK(own.steps == STEPS && (own.norm > 0) == (o.clip_norm > 0 && n > 0));
        near(bits, weights, w, n, bits == 32 ? 2e-6 : 1e-14);
        agree(isa, bits, weights, n, &seen);
        cases++;
    }
    memory_release(mark);
}

/* ---- Refusals ---- */

static void *watched;
static size_t watched_bytes;
static uint64_t watched_hash;
#define REFUSED(want, call) (watched_hash = fnv(FNV_BEGIN, watched, watched_bytes), CHECK(CALL(call) == (want)), \
                             CHECK(fnv(FNV_BEGIN, watched, watched_bytes) == watched_hash && "nothing is written: " #call))
#define OR(j, pointer) (bad == (j) ? NULL : (pointer))

static void refusals(int bits) {
    const int mark = memory_mark();
    const fastlstm_engine *e = fastlstm_engine_select(NULL, bits);
    double value = 7;
    void *a = real_new(bits, 64), *out = watched = memset(real_new(bits, 64), 0, (size_t)(8 * bits)), *scratch = real_new(bits, fastlstm_ctc_scratch_size(e, 4, 3));
    int64_t classes[4] = {0, 1, 2, -1}, counts[2] = {2, 1}, lengths[2] = {4, 3}, labels[8] = {1, 2, 1, 2, 1};
    watched_bytes = (size_t)(8 * bits);
    snprintf(check_case, sizeof check_case, "refusals f%d", bits);
    for (int bad = 0; bad < 5; bad++) {
        REFUSED(wrong, fastlstm_elementwise_loss(OR(0, e), FASTLSTM_MSE, 2, 3, OR(1, a), OR(2, a), NULL, OR(3, out), OR(4, &value)));
        REFUSED(wrong, fastlstm_cross_entropy(OR(0, e), 4, 3, OR(1, a), OR(2, classes), NULL, 0, OR(3, out), OR(4, &value)));
    }
    for (int loss = -1; loss < 7; loss++)
        if (loss < FASTLSTM_MSE || loss == FASTLSTM_CROSS_ENTROPY || loss > FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS)
            REFUSED(wrong, fastlstm_elementwise_loss(e, loss, 2, 3, a, a, NULL, out, &value));
    REFUSED(wrong, fastlstm_elementwise_loss(e, FASTLSTM_MSE, 2, 3, a, a, a, out, &value));
    REFUSED(wrong, fastlstm_elementwise_loss(e, FASTLSTM_MSE, -1, 3, a, a, NULL, out, &value));
    REFUSED(wrong, fastlstm_elementwise_loss(e, FASTLSTM_MSE, 1, 0, a, a, NULL, out, &value));
    REFUSED(large, fastlstm_elementwise_loss(e, FASTLSTM_MSE, PTRDIFF_MAX / 2, 3, a, a, NULL, out, &value));
    REFUSED(large, fastlstm_cross_entropy(e, PTRDIFF_MAX / 2, 3, a, classes, NULL, 0, out, &value));
    REFUSED(wrong, fastlstm_cross_entropy(e, 4, 2, a, classes, NULL, 0, out, &value));
    REFUSED(wrong, fastlstm_cross_entropy(e, 4, 3, a, classes, NULL, -0.1, out, &value));
    REFUSED(wrong, fastlstm_cross_entropy(e, 4, 3, a, classes, NULL, NAN, out, &value));
    REFUSED(wrong, fastlstm_cross_entropy(e, 4, 0, a, classes, NULL, 0, out, &value));
    classes[3] = -2;
    REFUSED(wrong, fastlstm_cross_entropy(e, 4, 3, a, classes, NULL, 0, out, &value));
    CHECK(CALL(fastlstm_cross_entropy(e, 0, 3, NULL, NULL, NULL, 0, NULL, &value)) == FASTLSTM_OK && value == 0);

    const fastlstm_ctc_batch good = {4, 2, 3, 0, a, lengths, labels, counts, out};
    for (int bad = 0; bad < 23; bad++) {
        fastlstm_ctc_batch m = good;
        int64_t *const field[] = {lengths, lengths, counts, counts, counts, labels, labels, labels, counts};
        static const int64_t values[] = {0, 5, -1, 5, INT64_MAX, 3, -1, 0, 4};
        const int change = bad - 14;
        int64_t kept = 0;
        if (bad == 3) m.y = NULL;
        if (bad == 4) m.targets = NULL;
        if (bad == 5) m.target_lengths = NULL;
        if (bad == 6) m.dy = NULL;
        if (bad == 7) m.steps = 0;
        if (bad == 8) m.lanes = -1;
        if (bad == 9) m.classes = 0;
        if (bad == 10) m.blank = 3;
        if (bad == 11) m.blank = -1;
        if (bad == 12) m.steps = PTRDIFF_MAX / 4;
        if (bad == 13) m.blank = 1;
        if (change >= 0) kept = field[change][0], field[change][0] = values[change];
        if (change == 8) labels[1] = 1; /* 1 1 1 2 needs six steps */
        value = 7;
        REFUSED(bad == 12 ? large : wrong, fastlstm_ctc(OR(0, e), bad == 1 ? NULL : &m, OR(2, scratch), &value, NULL, NULL));
        CHECK(value == 7);
        if (change >= 0) field[change][0] = kept;
        labels[1] = 2;
    }
    REFUSED(wrong, fastlstm_ctc(e, &good, scratch, NULL, NULL, NULL));
    counts[0] = 2, labels[0] = labels[1] = 1, lengths[0] = 2; /* a blank between needs a third step */
    REFUSED(wrong, fastlstm_ctc(e, &good, scratch, &value, NULL, NULL));
    lengths[0] = 3;
    for (ptrdiff_t j = 0; j < 64; j++) real_put(bits, a, j, 0);
    CHECK(CALL(fastlstm_ctc(e, &good, scratch, &value, NULL, NULL)) == FASTLSTM_OK && value > 0);
    CHECK(fastlstm_ctc_scratch_size(NULL, 1, 1) == -1 && fastlstm_ctc_scratch_size(e, 0, 1) == -1 && fastlstm_ctc_scratch_size(e, 1, -1) == -1);
    CHECK(fastlstm_ctc_scratch_size(e, PTRDIFF_MAX, 1) == -1 && fastlstm_ctc_scratch_size(e, 1, PTRDIFF_MAX) == -1 && fastlstm_ctc_scratch_size(e, 1, 0) > 0);

    const fastlstm_optimizer adam = {.kind = FASTLSTM_ADAM, .lr = 1, .beta1 = 0.5, .beta2 = 0.5, .eps = 1e-8, .first = a, .second = a};
    for (int bad = 0; bad < 17; bad++) {
        fastlstm_optimizer o = adam;
        if (bad == 4) o.first = NULL;
        if (bad == 5) o.second = NULL;
        if (bad == 6) o.kind = -1;
        if (bad == 7) o.kind = 4;
        if (bad == 8) o.lr = NAN;
        if (bad == 9) o.beta1 = 1;
        if (bad == 10) o.beta2 = -0.5;
        if (bad == 11) o.eps = NAN;
        if (bad == 12) o.clip_norm = -1;
        if (bad == 13) o.steps = -1;
        if (bad == 14) o.weight_decay = NAN;
        if (bad == 15) o = (fastlstm_optimizer){.kind = FASTLSTM_SGD, .lr = 1, .momentum = 0.5};
        if (bad == 16) o = (fastlstm_optimizer){.kind = FASTLSTM_RMSPROP, .lr = 1, .first = a};
        const int64_t steps = o.steps;
        REFUSED(wrong, fastlstm_update(OR(0, e), bad == 1 ? NULL : &o, 3, OR(2, out), OR(3, a)));
        CHECK(o.steps == steps);
    }
    fastlstm_optimizer o = adam;
    REFUSED(wrong, fastlstm_update(e, &o, -1, out, a));
    REFUSED(large, fastlstm_update(e, &o, PTRDIFF_MAX, out, a));
    memory_release(mark);
}

int main(void) {
    for (int bits = 32; bits <= 64; bits += 32) {
        static const int kinds[] = {FASTLSTM_MSE, FASTLSTM_SSE, FASTLSTM_BINARY_CROSS_ENTROPY, FASTLSTM_BINARY_CROSS_ENTROPY,
                                    FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS, FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS};
        static const ptrdiff_t widths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 257};
        for (ptrdiff_t i = 0; i < COUNT(widths); i++)
            for (ptrdiff_t rows = 0; rows < 4; rows++) {
                for (int k = 0; k < 6; k++) check_elementwise(bits, kinds[k], rows, widths[i], k == 3 || k == 5);
                for (int k = 0; k < 4; k++) check_cross_entropy(bits, rows, widths[i], k & 1, k & 2 ? 0.125 : 0);
            }
        for (ptrdiff_t T = 1; T <= 6; T++)
            for (ptrdiff_t C = 1; C <= 4; C++)
                for (int k = 0; k < 6; k++) check_ctc(bits, T, 1 + k % 3, C, k & 1);
        for (ptrdiff_t n = 0; n < 70; n += 1 + n / 20)
            for (int k = 0; k < 12; k++) {
                fastlstm_optimizer o = {.kind = k % 4, .lr = 0.0625, .weight_decay = k & 1 ? 0.125 : 0, .clip_norm = k >= 8 ? 0.5 : 0, .eps = 1e-8,
                                        .beta1 = 0.875, .beta2 = 0.96875};
                if (o.kind <= FASTLSTM_RMSPROP && k >= 4) o.momentum = 0.75;
                o.nesterov = k == 8;
                check_optimizer(bits, n, o);
            }
        refusals(bits);
    }
    return report("training", cases);
}
