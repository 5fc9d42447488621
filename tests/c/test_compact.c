/* Compact weights: float16 against native layers with the rounded weights, integers against their arithmetic in plain C (where
   activations are exact), both bit for bit, on every instruction set and however a sequence is cut into calls. */
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
            if (own != state)
                copy_lanes(m, sizeof(float), state, B, b, own, 1, 0, 1);
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
    for (int weights = FASTLSTM_FLOAT16; weights <= FASTLSTM_INT16; weights++) {
        const net compact = with_format(m, weights);
        outcome fused = {0};
        const char *isa;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, 32);
            sprintf(check_case, "%s weights=%d B=%d kind=%d I=%d H=%d P=%d layers=%d", isa, weights, (int)B, m->l[0].kind,
                    (int)m->l[0].input_size, (int)m->l[0].hidden_size, (int)outputs(m->l), (int)m->n);
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
            if (divides(m)) CHECK(same(whole, run(&compact, e, packed, x, STEPS, B, UNITS)));
            if (weights == FASTLSTM_FLOAT16) CHECK(same(whole, run(m, e, pack_floats(m, e, rounded), x, STEPS, B, WHOLE)));
            if (!is_fused(isa)) continue;
            if (fused.y) CHECK(same(whole, fused) && "instruction sets agree");
            fused = whole;
        }
    }
    memory_release(begin);
}

/* ---- The integer arithmetic of csrc/compact.h in plain C ---- */

/* total + what `count` sources s and a row of weights make; `shorts`: integers of 16 bits. */
static float integer_product(float total, const float *row, const float *s, ptrdiff_t count, int shorts) {
    const float most = shorts ? 8191 : 127;
    union { float value; uint32_t bits; } step = {0};
    float largest = 0, scale, sum = 0;
    int32_t dot = 0;
    int finite = 1;
    for (ptrdiff_t k = 0; k < count; k++) {
        finite &= isfinite(s[k]) != 0;
        largest = fmaxf(largest, fabsf(s[k]));
        step.value = fmaxf(step.value, fabsf(row[k]));
    }
    scale = !finite ? NAN : largest < 0x1p-100f ? 0 : largest / most;
    step.value /= most;
    step.bits = (step.bits + 256) / 512 * 512;
    for (ptrdiff_t k = 0; k < count; k++) {
        if (finite && scale > 0 && step.value > 0)
            dot += (int32_t)lrintf(row[k] / step.value) * (int32_t)lrintf(s[k] * (most / largest));
        if (k + 1 < count && !(shorts && (k + 1) % 32 == 0)) continue;
        sum += (float)dot;
        dot = 0;
    }
    const float both = scale * step.value, product = sum * both;
    return total + product;
}

static int fused; /* whether the engine's multiply-adds round once */

static float multiply_add(float a, float b, float c) { return fused ? fmaf(a, b, c) : a * b + c; }

/* Activations without approximations. */
static float act(const fastlstm_activation *f, float x) {
    const float line = multiply_add((float)f->alpha, x, (float)f->beta);
    if (f->kind == FASTLSTM_AFFINE) return line;
    if (f->kind == FASTLSTM_HARD_SIGMOID) return line > 1 ? 1 : line < 0 ? 0 : line;
    return f->kind == FASTLSTM_RELU ? (x < 0 ? 0 : x) : x;
}

/* A step of one lane of a layer without peepholes and gate recurrence, blocks of one cell: h (P,) and c (H,), or y (H,). */
static void integer_step(const shape *q, const float *w, const float *x, float *h, float *c) {
    const fastlstm_layer *l = q->l;
    const int shorts = l->weights == FASTLSTM_INT16;
    const int mark = memory_mark(), gru = l->kind == FASTLSTM_GRU;
    float *net = memory_new((size_t)q->rows * sizeof *net), *by_h = memory_new((size_t)q->rows * sizeof *net), *out = memory_new((size_t)q->H * sizeof *net);
    for (ptrdiff_t row = 0; row < q->rows; row++) {
        const int apart = gru && row >= 2 * q->H; /* a candidate's sum over h */
        const float *w_h = w + l->weight_hh + row * q->P;
        net[row] = q->biases ? w[l->bias_ih + row] : 0;
        by_h[row] = apart && l->reset_after && q->biases > 1 ? w[l->bias_hh + row] : 0;
        if (q->biases > 1 && !(apart && l->reset_after)) net[row] += w[l->bias_hh + row];
        net[row] = integer_product(net[row], w + l->weight_ih + row * q->I, x, q->I, shorts);
        if (apart && l->reset_after) by_h[row] = integer_product(by_h[row], w_h, h, q->P, shorts);
        else if (q->recurrent && !apart) net[row] = integer_product(net[row], w_h, h, q->P, shorts);
    }
    for (ptrdiff_t u = 0; u < q->H && gru; u++) /* r h */
        out[u] = act(&l->gate_activation, net[u]) * h[u];
    for (ptrdiff_t u = 0; u < q->H && gru && !l->reset_after; u++) {
        const ptrdiff_t row = 2 * q->H + u;
        net[row] += integer_product(0, w + l->weight_hh + row * q->P, out, q->H, shorts);
    }
    for (ptrdiff_t u = 0; u < q->H; u++) {
        if (gru) {
            const float r = act(&l->gate_activation, net[u]), z = act(&l->gate_activation, net[q->H + u]), n = net[2 * q->H + u];
            const float g = act(&l->input_activation, l->reset_after ? multiply_add(r, by_h[2 * q->H + u], n) : n);
            h[u] = multiply_add(z, h[u] - g, g);
        } else if (q->C) {
            const float i = q->i ? act(&l->gate_activation, net[u]) : 1, f = q->f ? act(&l->gate_activation, net[q->row_f + u]) : 1;
            const float o = q->o ? act(&l->gate_activation, net[q->row_o + u]) : 1, before = f * c[u];
            c[u] = multiply_add(i, act(&l->input_activation, net[q->row_g + u]), before);
            out[u] = o * act(&l->output_activation, c[u]);
        } else {
            h[u] = act(q->recurrent ? &l->input_activation : &l->output_activation, net[u]);
        }
    }
    for (ptrdiff_t p = 0; p < q->P && q->C; p++)
        h[p] = l->proj_size ? integer_product(0, w + l->weight_hr + p * q->H, out, q->H, shorts) : out[p];
    memory_release(mark);
}

/* Some steps of one layer, bit for bit; `wild`: inputs of all sizes, and one that is large, NaN or infinite. */
static void check_integers(fastlstm_layer l, int weights, int biases, ptrdiff_t T, ptrdiff_t B, int wild) {
    const int begin = memory_mark();
    net m = {0};
    l.weights = weights;
    add(&m, l, biases);
    const shape q = shape_of(m.l);
    const ptrdiff_t n = T * B * q.P;
    float *w = random_floats(m.params, -2), *x = random_floats(T * B * q.I, wild ? 2 : 0), *y = real_new(32, n);
    if (wild) x[random_below(T * B * q.I)] = random_below(3) ? 1e30f : random_below(2) ? NAN : INFINITY;
    for (ptrdiff_t k = 0; wild && k < q.I; k++)
        x[random_below(T * B) * q.I + k] *= random_below(2) ? 1e-20f : 1;
    for (fused = 0; fused < 2; fused++) {
        float *h = real_new(32, q.P), *c = real_new(32, q.H);
        for (ptrdiff_t b = 0; b < B; b++) {
            memset(h, 0, (size_t)q.P * sizeof *h);
            memset(c, 0, (size_t)q.H * sizeof *c);
            for (ptrdiff_t t = 0; t < T; t++) {
                integer_step(&q, w, x + (t * B + b) * q.I, h, c);
                memcpy(y + (t * B + b) * q.P, h, (size_t)q.P * sizeof *h);
            }
        }
        const char *isa;
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++) {
            const fastlstm_engine *e = fastlstm_engine_select(isa, 32);
            if (is_fused(isa) != fused) continue;
            sprintf(check_case, "weights=%d %s kind=%d after=%d T=%d B=%d I=%d H=%d P=%d", weights, isa, l.kind, l.reset_after, (int)T, (int)B, (int)q.I,
                    (int)q.H, (int)q.P);
            const outcome r = run(&m, e, pack_floats(&m, e, w), x, T, B, WHOLE);
            int good = 1;
            for (ptrdiff_t j = 0; j < n; j++)
                good &= r.y[j] != r.y[j] ? y[j] != y[j] : r.y[j] == y[j];
            CHECK(good);
        }
    }
    memory_release(begin);
}

/* The n-th layer that these can follow exactly. */
static fastlstm_layer exact_layer(int n, ptrdiff_t I, ptrdiff_t H) {
    fastlstm_layer l = n % 4 == 3 ? lstm(I, H, 1, n % 8) : recurrent(n % 4 == 2 ? FASTLSTM_RNN : FASTLSTM_GRU, I, H, n % 4 == 1);
    if (n % 4 == 3 && n % 3) l.proj_size = 1 + random_below(H);
    l.gate_activation = activation(FASTLSTM_HARD_SIGMOID);
    l.input_activation = activation(n % 5 < 3 ? FASTLSTM_HARD_SIGMOID : FASTLSTM_RELU);
    l.output_activation = activation(n % 2 ? FASTLSTM_AFFINE : FASTLSTM_IDENTITY);
    return l;
}

static void check_arguments(void) {
    const int begin = memory_mark();
    const fastlstm_engine *e = fastlstm_engine_select(NULL, 32), *wide = fastlstm_engine_select(NULL, 64);
    net m = {0};
    fastlstm_layer l = lstm(3, 5, 1, IFO);
    l.proj_size = 2;
    strcpy(check_case, "arguments");
    add(&m, l, 2);
    float *w = random_floats(m.params, 0);
    double *w64 = memory_zeros(m.params);
    float *packed = real_new(32, fastlstm_packed_size(e, m.l, 1));
    const uint64_t before = fnv(FNV_BEGIN, packed, (size_t)fastlstm_packed_size(e, m.l, 1) * sizeof(float));
    for (int weights = FASTLSTM_FLOAT16; weights <= FASTLSTM_INT16; weights++) {
        m.l[0].weights = weights;
        CHECK(fastlstm_net_check(m.l, 1) == FASTLSTM_OK);
        CHECK(fastlstm_packed_size(wide, m.l, 1) == -1 && fastlstm_forward_scratch_size(wide, m.l, 1, 1, 1) == -1);
        CHECK(fastlstm_pack(wide, m.l, 1, w64, packed) == FASTLSTM_BAD_LAYER);
        CHECK(fastlstm_prepare(wide, m.l, 1, packed, 1, 1, packed) == FASTLSTM_BAD_LAYER);
        CHECK(fastlstm_trace_size(e, m.l, 1, 1) == -1 && fastlstm_learner_scratch_size(e, m.l, 1, 1) == -1);
        for (int at = 0; at < 3; at++) {
            float *bad = w + (at == 0 ? m.l[0].weight_ih + 59 : at == 1 ? m.l[0].weight_hh + 39 : m.l[0].weight_hr + 9);
            const float kept = *bad;
            *bad = weights == FASTLSTM_FLOAT16 ? -65505 : NAN;
            CHECK(fastlstm_pack(e, m.l, 1, w, packed) == FASTLSTM_BAD_ARGUMENT);
            *bad = kept;
        }
    }
    CHECK(before == fnv(FNV_BEGIN, packed, (size_t)(fastlstm_packed_size(e, (m.l[0].weights = 0, m.l), 1)) * sizeof(float)));
    for (int weights = -1; weights <= 4; weights += 5) {
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
    for (int weights = FASTLSTM_INT8; weights <= FASTLSTM_INT16; weights++) {
        for (int n = 0; n < SIZES * 3; n++, cases++)
            check_integers(linear(sizes[n % SIZES], sizes[(n * 5 + n / SIZES) % SIZES], FASTLSTM_IDENTITY), weights, 1, 1,
                           n / SIZES ? 1 + random_below(8) : 1, 1);
        for (int n = 0; n < SIZES * 8; n++, cases++)
            check_integers(exact_layer(n, sizes[(n * 5 + 1) % SIZES], sizes[n / 8]), weights, n / 4 % 3, 4, n % 3 ? 1 + random_below(8) : 1, 0);
    }
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
    for (int n = 0; n < SIZES * 8; n++, cases++) { /* the other kinds, alone or below a layer */
        net m = {0};
        add(&m, another(n, sizes[(n * 3 + 1) % SIZES], sizes[n / 8]), n / 2 % 3);
        if (n % 5 == 0) add(&m, another(n / 5, outputs(m.l), 9), 2);
        if (n % 5 == 3) add(&m, linear(outputs(m.l), 5, FASTLSTM_SOFTPLUS), 1);
        check_network(&m, n % 3 ? 1 + random_below(7) : 1);
    }
    check_arguments();
    fastlstm_threads_release();
    return report("compact", cases);
}
