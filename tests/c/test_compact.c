/* Compact weights: float16 against native layers with the rounded weights, int8 against its arithmetic in plain C, both bit
   for bit, on every instruction set and however a sequence is cut into calls. */
#include "reference.h"

enum { STEPS = 7 };
static const ptrdiff_t sizes[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65, 257};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* y (T, B, O) and after it the state, of a fresh run. */
typedef struct outcome { float *y; size_t bytes; } outcome;

enum { WHOLE, STEP_BY_STEP, LANE_BY_LANE, PREPARED, UNITS };

static outcome run(const net *m, const fastlstm_engine *e, const float *packed, const float *x, ptrdiff_t T, ptrdiff_t B,
                   int way) {
    const ptrdiff_t I = width_in(m), O = width_out(m), state_size = m->state ? m->state * B : 1;
    outcome r = {memory_new((size_t)(T * B * O + state_size) * sizeof(float)), (size_t)(T * B * O + state_size) * sizeof(float)};
    float *state = r.y + T * B * O;
    const ptrdiff_t lanes = way == LANE_BY_LANE ? 1 : B, steps = way == STEP_BY_STEP ? 1 : T;
    memset(state, 0, (size_t)state_size * sizeof(float));
    for (ptrdiff_t b = 0; b < B; b += lanes)
        for (ptrdiff_t t = 0; t < T; t += steps) {
            const int mark = memory_mark(), threads = way == UNITS ? 2 : 1;
            float *own = way == LANE_BY_LANE ? memory_new((size_t)state_size / (size_t)B * sizeof(float) + 4) : state;
            if (own != state) memset(own, 0, (size_t)(state_size / B) * sizeof(float));
            fastlstm_batch batch = {.steps = steps, .lanes = lanes, .x = x + (t * B + b) * I, .x_step = B * I, .x_lane = I,
                                    .y = r.y + (t * B + b) * O, .y_step = B * O, .y_lane = O, .state = own};
            if (way == PREPARED || way == STEP_BY_STEP) {
                void *scratch = real_new(32, fastlstm_forward_scratch_size(e, m->l, m->n, 3, lanes));
                CHECK(fastlstm_prepare(e, m->l, m->n, packed, 3, lanes, scratch) == FASTLSTM_OK);
                CHECK(CALL(fastlstm_run(scratch, &batch, NULL, NULL)) == FASTLSTM_OK);
            } else {
                void *scratch = real_new(32, fastlstm_parallel_scratch_size(e, m->l, m->n, steps, lanes, threads, way == UNITS));
                CHECK(CALL(fastlstm_forward_parallel(e, m->l, m->n, packed, &batch, scratch, threads, way == UNITS, NULL,
                                                     NULL)) == FASTLSTM_OK);
            }
            if (own != state) /* each array of a layer's state is (B, width) */
                for (ptrdiff_t d = 0; d < m->n; d++) {
                    const shape q = shape_of(m->l + d);
                    if (q.l->kind != FASTLSTM_LSTM) continue;
                    memcpy(state + q.l->state_h * B + b * q.H, own + q.l->state_h, (size_t)q.H * sizeof(float));
                    memcpy(state + q.l->state_c * B + b * q.H, own + q.l->state_c, (size_t)q.H * sizeof(float));
                    if (q.A) memcpy(state + q.l->state_a * B + b * q.A, own + q.l->state_a, (size_t)q.A * sizeof(float));
                }
            memory_release(mark);
        }
    return r;
}

static int same(outcome a, outcome b) { return memcmp(a.y, b.y, a.bytes) == 0; }

static float *pack_floats(const net *m, const fastlstm_engine *e, const float *w) {
    float *packed = real_new(32, fastlstm_packed_size(e, m->l, m->n));
    CHECK(CALL(fastlstm_pack(e, m->l, m->n, w, packed)) == FASTLSTM_OK);
    return packed;
}

static float *random_floats(ptrdiff_t n, int exponent) {
    float *a = real_new(32, n);
    for (ptrdiff_t j = 0; j < n; j++)
        a[j] = (float)random_number(exponent);
    return a;
}

static net with_format(const net *m, int weights) {
    net other = *m;
    for (ptrdiff_t d = 0; d < m->n; d++)
        other.l[d].weights = weights;
    return other;
}

static void check_network(const net *m, ptrdiff_t B) {
    const int begin = memory_mark();
    const float *w = random_floats(m->params, -1), *x = random_floats(STEPS * B * width_in(m), 1);
    int recurrent_gates = 0;
    for (ptrdiff_t d = 0; d < m->n; d++)
        recurrent_gates |= m->l[d].gate_recurrence;
    for (int weights = FASTLSTM_FLOAT16; weights <= FASTLSTM_INT8; weights++) {
        const net compact = with_format(m, weights);
        outcome fused = {0};
        const char *isa;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, 32);
            sprintf(check_case, "%s weights=%d B=%d I=%d H=%d layers=%d", isa, weights, (int)B, (int)m->l[0].input_size,
                    (int)m->l[0].hidden_size, (int)m->n);
            float *packed = pack_floats(&compact, e, w), *rounded = real_new(32, m->params), *again;
            memset(rounded, 0, (size_t)m->params * sizeof(float));
            CHECK(fastlstm_unpack(e, compact.l, m->n, packed, rounded) == FASTLSTM_OK);
            again = pack_floats(&compact, e, rounded);
            CHECK(memcmp(packed, again, (size_t)fastlstm_packed_size(e, compact.l, m->n) * sizeof(float)) == 0);
            float *twice = real_new(32, m->params);
            memset(twice, 0, (size_t)m->params * sizeof(float));
            CHECK(fastlstm_unpack(e, compact.l, m->n, again, twice) == FASTLSTM_OK);
            CHECK(memcmp(twice, rounded, (size_t)m->params * sizeof(float)) == 0);
            const outcome whole = run(&compact, e, packed, x, STEPS, B, WHOLE);
            CHECK(same(whole, run(&compact, e, packed, x, STEPS, B, STEP_BY_STEP)));
            CHECK(same(whole, run(&compact, e, packed, x, STEPS, B, LANE_BY_LANE)));
            CHECK(same(whole, run(&compact, e, packed, x, STEPS, B, PREPARED)));
            if (!recurrent_gates) CHECK(same(whole, run(&compact, e, packed, x, STEPS, B, UNITS)));
            if (weights == FASTLSTM_FLOAT16) CHECK(same(whole, run(m, e, pack_floats(m, e, rounded), x, STEPS, B, WHOLE)));
            if (!is_fused(isa)) continue;
            if (fused.y) CHECK(same(whole, fused) && "instruction sets agree");
            fused = whole;
        }
    }
    memory_release(begin);
}

/* The int8 arithmetic of a linear layer, as csrc/compact.h states it. */
static void check_linear(ptrdiff_t I, ptrdiff_t O, ptrdiff_t B) {
    const int begin = memory_mark();
    net m = {0};
    add(&m, linear(I, O, FASTLSTM_IDENTITY), 1);
    m.l[0].weights = FASTLSTM_INT8;
    float *w = random_floats(m.params, -2), *x = random_floats(B * I, 2), *y = real_new(32, B * O);
    x[random_below(B * I)] = random_below(3) ? 1e30f : random_below(2) ? NAN : INFINITY;
    for (ptrdiff_t k = 0; k < I; k++)
        x[random_below(B) * I + k] *= random_below(2) ? 1e-20f : 1;
    for (ptrdiff_t b = 0; b < B; b++) {
        float largest = 0, scale;
        int finite = 1;
        for (ptrdiff_t k = 0; k < I; k++) {
            finite &= isfinite(x[b * I + k]) != 0;
            largest = fmaxf(largest, fabsf(x[b * I + k]));
        }
        scale = !finite ? NAN : largest < 0x1p-100f ? 0 : largest / 127;
        for (ptrdiff_t j = 0; j < O; j++) {
            const float *row = w + m.l[0].weight_ih + j * I;
            union { float value; uint32_t bits; } step = {0};
            int32_t dot = 0;
            for (ptrdiff_t k = 0; k < I; k++)
                step.value = fmaxf(step.value, fabsf(row[k]));
            step.value /= 127;
            step.bits = (step.bits + 127) / 128 * 128;
            for (ptrdiff_t k = 0; k < I; k++)
                if (finite && scale > 0 && step.value > 0)
                    dot += (int32_t)lrintf(row[k] / step.value) * (int32_t)lrintf(x[b * I + k] * (127 / largest));
            const float both = scale * step.value, product = (float)dot * both;
            y[b * O + j] = w[m.l[0].bias_ih + j] + product;
        }
    }
    const char *isa;
    for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
        const fastlstm_engine *e = fastlstm_engine_select(isa, 32);
        sprintf(check_case, "linear %s B=%d I=%d O=%d", isa, (int)B, (int)I, (int)O);
        const outcome r = run(&m, e, pack_floats(&m, e, w), x, 1, B, WHOLE);
        int good = 1;
        for (ptrdiff_t j = 0; j < B * O; j++)
            good &= r.y[j] != r.y[j] ? y[j] != y[j] : r.y[j] == y[j];
        CHECK(good);
    }
    memory_release(begin);
}

static void check_arguments(void) {
    const int begin = memory_mark();
    const fastlstm_engine *e = fastlstm_engine_select(NULL, 32), *wide = fastlstm_engine_select(NULL, 64);
    net m = {0};
    fastlstm_layer l = lstm(3, 5, 1, IFO);
    strcpy(check_case, "arguments");
    add(&m, l, 2);
    float *w = random_floats(m.params, 0);
    double *w64 = memory_zeros(m.params);
    float *packed = real_new(32, fastlstm_packed_size(e, m.l, 1));
    const uint64_t before = fnv(FNV_BEGIN, packed, (size_t)fastlstm_packed_size(e, m.l, 1) * sizeof(float));
    for (int weights = FASTLSTM_FLOAT16; weights <= FASTLSTM_INT8; weights++) {
        m.l[0].weights = weights;
        CHECK(fastlstm_net_check(m.l, 1) == FASTLSTM_OK);
        CHECK(fastlstm_packed_size(wide, m.l, 1) == -1 && fastlstm_forward_scratch_size(wide, m.l, 1, 1, 1) == -1);
        CHECK(fastlstm_pack(wide, m.l, 1, w64, packed) == FASTLSTM_BAD_LAYER);
        CHECK(fastlstm_prepare(wide, m.l, 1, packed, 1, 1, packed) == FASTLSTM_BAD_LAYER);
        CHECK(fastlstm_trace_size(e, m.l, 1, 1) == -1 && fastlstm_learner_scratch_size(e, m.l, 1, 1) == -1);
        for (int at = 0; at < 2; at++) {
            float *bad = w + (at ? m.l[0].weight_hh + 99 : m.l[0].weight_ih + 59);
            const float kept = *bad;
            *bad = weights == FASTLSTM_INT8 ? NAN : -65505;
            CHECK(fastlstm_pack(e, m.l, 1, w, packed) == FASTLSTM_BAD_ARGUMENT);
            *bad = kept;
        }
    }
    CHECK(before == fnv(FNV_BEGIN, packed, (size_t)(fastlstm_packed_size(e, (m.l[0].weights = 0, m.l), 1)) * sizeof(float)));
    for (int weights = -1; weights <= 3; weights += 4) {
        m.l[0].weights = weights;
        CHECK(fastlstm_net_check(m.l, 1) == FASTLSTM_BAD_LAYER);
    }
    net wide_net = {0};
    add(&wide_net, linear(((ptrdiff_t)1 << 17) + 1, 1, FASTLSTM_IDENTITY), 0);
    wide_net.l[0].weights = FASTLSTM_INT8;
    CHECK(fastlstm_net_check(wide_net.l, 1) == FASTLSTM_TOO_LARGE);
    memory_release(begin);
}

int main(void) {
    long cases = 0;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    for (int n = 0; n < SIZES * 3; n++, cases++)
        check_linear(sizes[n % SIZES], sizes[(n * 5 + n / SIZES) % SIZES], n / SIZES ? 1 + random_below(8) : 1);
    for (int n = 0; n < SIZES; n++, cases++) { /* plain cells, and a linear layer above */
        net m = {0};
        add(&m, lstm(sizes[(n * 3 + 1) % SIZES], sizes[n], 1, IFO), n % 3);
        add(&m, linear(sizes[n], sizes[(n + 5) % SIZES], FASTLSTM_TANH), n % 2);
        check_network(&m, n % 2 ? 1 : 1 + random_below(7));
    }
    for (int n = 0; n < 64; n++, cases++) { /* switches: all numbers of row-vectors, 1 to 6 */
        net m = {0};
        const ptrdiff_t S = 1 + n / 16 % 3;
        fastlstm_layer l = lstm(1 + random_below(20), S * (1 + random_below(20)), S, n % 8);
        l.gate_recurrence = n / 8 % 2;
        l.peepholes = n % 3 == 1 && l.gates;
        add(&m, l, n % 3);
        if (n % 4 == 0) add(&m, lstm(l.hidden_size, 9, 1, IFO), 2);
        check_network(&m, n % 5 ? 1 + random_below(7) : 1);
    }
    check_arguments();
    fastlstm_threads_release();
    return report("compact", cases);
}
