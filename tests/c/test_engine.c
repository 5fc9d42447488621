/* Every engine of this machine against a naive reference in double: forward passes and truncated learning, their bits,
   their memory and their manners.

   The reference keeps parameters in their canonical places, loops over time, and shares no code with the library.
   Engines with fused multiply-add must agree bit for bit, and however a sequence is cut into calls, its bits stay. */
#include "check.h"

/* ---- Networks ---- */

enum { LAYERS = 6, LANES = 3 }; /* LANES: of lessons */

typedef struct net {
    fastlstm_layer l[LAYERS];
    ptrdiff_t n, params, state; /* layers, parameters, state of one lane */
} net;

/* Sizes of a layer and the first rows of i, f, g, o in its parameter matrices. */
typedef struct shape {
    const fastlstm_layer *l;
    int i, f, o, coupled;
    ptrdiff_t I, H, S, J, A, M, gates, biases, rows, row_f, row_g, row_o;
} shape;

static shape shape_of(const fastlstm_layer *l) {
    shape q = {.l = l, .I = l->input_size, .H = l->hidden_size, .S = l->block_size};
    const int lstm = l->kind == FASTLSTM_LSTM, gates = lstm ? l->gates : 0;
    q.i = (gates & FASTLSTM_INPUT_GATE) != 0;
    q.f = (gates & FASTLSTM_FORGET_GATE) != 0;
    q.o = (gates & FASTLSTM_OUTPUT_GATE) != 0;
    q.coupled = (gates & FASTLSTM_COUPLED_GATES) != 0;
    q.J = q.H / q.S;
    q.gates = q.i + q.f + q.o;
    q.A = lstm && l->gate_recurrence ? q.gates * q.J : 0;
    q.biases = (l->bias_ih >= 0) + (l->bias_hh >= 0);
    q.M = q.biases + q.I + (lstm ? q.H + q.A : 0);
    q.row_f = q.i * q.J;
    q.row_g = q.row_f + q.f * q.J;
    q.row_o = q.row_g + q.H;
    q.rows = q.row_o + q.o * q.J;
    return q;
}

/* The next place for an array; one unused element before each. */
static ptrdiff_t place(ptrdiff_t *end, ptrdiff_t size) {
    const ptrdiff_t at = *end + 1;
    *end = at + size;
    return at;
}

static void add(net *m, fastlstm_layer l, int biases) {
    shape q;
    l.weight_hh = l.weight_gh = l.bias_ih = l.bias_hh = l.weight_peephole = -1;
    q = shape_of(&l);
    if (biases > 0) l.bias_ih = place(&m->params, q.rows);
    l.weight_ih = place(&m->params, q.rows * q.I);
    if (l.kind == FASTLSTM_LSTM) {
        if (biases > 1) l.bias_hh = place(&m->params, q.rows);
        l.weight_hh = place(&m->params, q.rows * q.H);
        if (q.A) l.weight_gh = place(&m->params, q.rows * q.A);
        if (l.peepholes && q.gates) l.weight_peephole = place(&m->params, q.gates * q.H);
        if (q.A) l.state_a = place(&m->state, q.A);
        l.state_c = place(&m->state, q.H);
        l.state_h = place(&m->state, q.H);
    }
    m->l[m->n++] = l;
}

static fastlstm_layer linear(ptrdiff_t I, ptrdiff_t H, int activation) {
    return (fastlstm_layer){.kind = FASTLSTM_LINEAR, .output_activation = activation, .clip = INFINITY,
                            .input_size = I, .hidden_size = H, .block_size = 1};
}

static fastlstm_layer lstm(ptrdiff_t I, ptrdiff_t H, ptrdiff_t S, int gates) {
    return (fastlstm_layer){.kind = FASTLSTM_LSTM, .gates = gates, .gate_activation = FASTLSTM_SIGMOID,
                            .input_activation = FASTLSTM_TANH, .output_activation = FASTLSTM_TANH, .clip = INFINITY,
                            .input_size = I, .hidden_size = H, .block_size = S};
}

enum { IFO = FASTLSTM_INPUT_GATE | FASTLSTM_FORGET_GATE | FASTLSTM_OUTPUT_GATE };

static ptrdiff_t width_in(const net *m) { return m->l[0].input_size; }

static ptrdiff_t width_out(const net *m) {
    const fastlstm_layer *last = m->l + m->n - 1;
    return last->hidden_size + (last->reverse ? last[-1].hidden_size : 0);
}

/* ---- The reference: one cell ---- */

static double activate(int kind, double x) {
    switch (kind) {
    case FASTLSTM_SIGMOID: return 1 / (1 + exp(-x));
    case FASTLSTM_TANH: return tanh(x);
    case FASTLSTM_RELU: return x > 0 ? x : 0;
    case FASTLSTM_G1997: return 4 / (1 + exp(-x)) - 2; /* as the paper writes it */
    case FASTLSTM_H1997: return 2 / (1 + exp(-x)) - 1;
    default: return x;
    }
}

/* The derivative, from the value: g = 4 s - 2 has 4 s (1 - s) = (4 - g^2) / 4, h = 2 s - 1 has (1 - h^2) / 2. */
static double slope(int kind, double y) {
    switch (kind) {
    case FASTLSTM_SIGMOID: return y * (1 - y);
    case FASTLSTM_TANH: return 1 - y * y;
    case FASTLSTM_RELU: return y > 0;
    case FASTLSTM_G1997: return (4 - y * y) / 4;
    case FASTLSTM_H1997: return (1 - y * y) / 2;
    default: return 1;
    }
}

/* Where the weight of a row and a source lies; sources: biases, x, h(t-1), gate activations(t-1). */
static ptrdiff_t weight_at(const shape *q, ptrdiff_t row, ptrdiff_t k) {
    if (k < q->biases) return (k ? q->l->bias_hh : q->l->bias_ih) + row;
    k -= q->biases;
    if (k < q->I) return q->l->weight_ih + row * q->I + k;
    k -= q->I;
    return k < q->H ? q->l->weight_hh + row * q->H + k : q->l->weight_gh + row * q->A + k - q->H;
}

static double net_input(const shape *q, const double *w, const double *s, ptrdiff_t row) {
    double sum = 0;
    for (ptrdiff_t k = 0; k < q->M; k++)
        sum += w[weight_at(q, row, k)] * s[k];
    return sum;
}

/* sum_v p[v] c[v] of a block; `gate` counts existing gates. */
static double peephole(const shape *q, const double *w, const double *c, ptrdiff_t gate, ptrdiff_t j) {
    double sum = 0;
    for (ptrdiff_t u = j * q->S; q->l->peepholes && u < (j + 1) * q->S; u++)
        sum += w[q->l->weight_peephole + gate * q->H + u] * c[u];
    return sum;
}

/* What a step of a lane leaves for its gradient: gates (J,), g, h(c) and c(t-1) (H,). */
typedef struct moment { double *i, *f, *o, *g, *hc, *before; } moment;

static moment moment_new(const shape *q) {
    return (moment){memory_zeros(q->J), memory_zeros(q->J), memory_zeros(q->J),
                    memory_zeros(q->H), memory_zeros(q->H), memory_zeros(q->H)};
}

/* One step of one lane: c, h and a from sources s (M,). */
static void ref_cell(const shape *q, const double *w, const double *s, double *h, double *c, double *a, const moment *to) {
    const fastlstm_layer *l = q->l;
    for (ptrdiff_t j = 0; j < q->J; j++) {
        double i = 1, f = 1, o = 1;
        if (q->i) i = activate(l->gate_activation, net_input(q, w, s, j) + peephole(q, w, c, 0, j));
        if (q->f) f = activate(l->gate_activation, net_input(q, w, s, q->row_f + j) + peephole(q, w, c, q->i, j));
        if (q->coupled) f = 1 - i;
        for (ptrdiff_t u = j * q->S; u < (j + 1) * q->S; u++) {
            to->before[u] = c[u];
            to->g[u] = activate(l->input_activation, net_input(q, w, s, q->row_g + u));
            c[u] = fmax(-l->clip, fmin(l->clip, f * c[u] + i * to->g[u]));
        }
        if (q->o) o = activate(l->gate_activation, net_input(q, w, s, q->row_o + j) + peephole(q, w, c, q->i + q->f, j));
        for (ptrdiff_t u = j * q->S; u < (j + 1) * q->S; u++)
            h[u] = o * (to->hc[u] = activate(l->output_activation, c[u]));
        to->i[j] = i;
        to->f[j] = f;
        to->o[j] = o;
        if (q->A && q->i) a[j] = i;
        if (q->A && q->f) a[q->i * q->J + j] = f;
        if (q->A && q->o) a[(q->i + q->f) * q->J + j] = o;
    }
}

static void gather_sources(const shape *q, double *s, const double *x, const double *h, const double *a) {
    for (ptrdiff_t k = 0; k < q->biases; k++)
        *s++ = 1;
    memcpy(s, x, (size_t)q->I * sizeof *s);
    if (q->l->kind == FASTLSTM_LINEAR) return;
    memcpy(s + q->I, h, (size_t)q->H * sizeof *s);
    if (q->A) memcpy(s + q->I + q->H, a, (size_t)q->A * sizeof *s);
}

/* ---- Tasks: a network, its parameters and its sequences, all exact in float ---- */

typedef struct task {
    net m;
    ptrdiff_t T, B;
    double *w, *x, *state; /* NaN in the unused places of w and state; x (T, B, I) */
    int64_t *lengths;
    uint8_t *reset; /* or NULL */
} task;

/* Weights make net inputs of about 1/2. */
static void fill_task(task *k, ptrdiff_t T, ptrdiff_t B, int lengths, int resets) {
    const ptrdiff_t I = width_in(&k->m);
    k->T = T;
    k->B = B;
    k->w = memory_new((size_t)k->m.params * sizeof(double));
    k->x = memory_zeros(T * B * I);
    k->state = memory_new((size_t)(k->m.state * B) * sizeof(double));
    k->lengths = lengths ? memory_new((size_t)B * sizeof(int64_t)) : NULL;
    k->reset = resets ? memory_new((size_t)(T * B)) : NULL;
    for (ptrdiff_t d = 0; d < k->m.n; d++) {
        const shape q = shape_of(k->m.l + d);
        int exponent = 0;
        for (ptrdiff_t n = q.M; n > 2; n /= 4)
            exponent--;
        for (ptrdiff_t row = 0; row < q.rows; row++)
            for (ptrdiff_t s = 0; s < q.M; s++)
                k->w[weight_at(&q, row, s)] = random_number(exponent);
        for (ptrdiff_t u = 0; q.l->peepholes && u < q.gates * q.H; u++)
            k->w[q.l->weight_peephole + u] = random_number(-2);
        if (q.l->kind == FASTLSTM_LINEAR) continue;
        for (ptrdiff_t u = 0; u < B * q.H; u++) {
            k->state[q.l->state_h * B + u] = random_number(-1);
            k->state[q.l->state_c * B + u] = random_number(-1);
        }
        for (ptrdiff_t u = 0; u < B * q.A; u++)
            k->state[q.l->state_a * B + u] = random_number(-1);
    }
    for (ptrdiff_t j = 0; j < T * B * I; j++)
        k->x[j] = random_number(0);
    for (ptrdiff_t b = 0; lengths && b < B; b++)
        k->lengths[b] = 1 + random_below(T);
    for (ptrdiff_t j = 0; resets && j < T * B; j++)
        k->reset[j] = random_below(6) == 0;
}

/* y (T, B, O) zeroed, and state, of all lanes over their lengths. */
static void ref_forward(const task *k, double *y, double *state) {
    const ptrdiff_t B = k->B;
    const double *in = k->x;
    for (ptrdiff_t d = 0; d < k->m.n;) {
        const int directions = d + 1 < k->m.n && k->m.l[d + 1].reverse ? 2 : 1;
        const ptrdiff_t width = k->m.l[d].hidden_size + (directions == 2 ? k->m.l[d + 1].hidden_size : 0);
        double *out = d + directions == k->m.n ? y : memory_zeros(k->T * B * width), *to = out;
        for (int direction = 0; direction < directions; direction++, d++) {
            const shape q = shape_of(k->m.l + d);
            const int recurrent = q.l->kind == FASTLSTM_LSTM;
            const moment forget = moment_new(&q);
            double *s = memory_zeros(q.M);
            for (ptrdiff_t b = 0; b < B; b++) {
                const ptrdiff_t length = k->lengths ? k->lengths[b] : k->T;
                double *h = state + q.l->state_h * B + b * q.H, *c = state + q.l->state_c * B + b * q.H;
                double *a = state + q.l->state_a * B + b * q.A;
                for (ptrdiff_t n = 0; n < length; n++) {
                    const ptrdiff_t t = direction ? length - 1 - n : n;
                    /* An episode that starts at t + 1 ends there for who comes from behind. */
                    const ptrdiff_t start = direction ? t + 1 : t;
                    if (recurrent && k->reset && start < length && k->reset[start * B + b]) {
                        memset(h, 0, (size_t)q.H * sizeof *h);
                        memset(c, 0, (size_t)q.H * sizeof *c);
                        memset(a, 0, (size_t)q.A * sizeof *a);
                    }
                    gather_sources(&q, s, in + (t * B + b) * q.I, h, a);
                    if (recurrent) ref_cell(&q, k->w, s, h, c, a, &forget);
                    for (ptrdiff_t u = 0; u < q.H; u++)
                        to[(t * B + b) * width + u] = recurrent ? h[u] : activate(q.l->output_activation, net_input(&q, k->w, s, u));
                }
            }
            to += q.H;
        }
        in = out;
    }
}

/* ---- Forward calls of the library ---- */

static int subnormals; /* 1: what is zero becomes a subnormal of the same sign */

static void feed(int bits, void *a, ptrdiff_t at, double x) {
    real_put(bits, a, at, x == 0 && subnormals ? copysign(bits == 32 ? 1e-39 : 1e-309, x) : x);
}

static void *feed_all(int bits, const double *from, ptrdiff_t n) {
    void *a = real_new(bits, n);
    for (ptrdiff_t j = 0; j < n; j++)
        feed(bits, a, j, from[j]);
    return a;
}

/* Parameters -> packed, checked to be exact back. */
static void *pack(const net *m, const double *w, const fastlstm_engine *e) {
    const int bits = fastlstm_engine_bits(e);
    void *params = feed_all(bits, w, m->params), *back = real_new(bits, m->params);
    void *packed = real_new(bits, fastlstm_packed_size(e, m->l, m->n));
    CHECK(fastlstm_params_size(m->l, m->n) == m->params);
    for (ptrdiff_t j = 0; j < m->params; j++) /* bits of the unused places */
        if (w[j] != w[j]) memset((char *)params + j * (bits / 8), 0xff, (size_t)(bits / 8));
    CHECK(CALL(fastlstm_pack(e, m->l, m->n, params, packed)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_unpack(e, m->l, m->n, packed, back)) == FASTLSTM_OK);
    CHECK(memcmp(params, back, (size_t)(m->params * bits / 8)) == 0);
    return packed;
}

/* Copies `lanes` lanes of a state array of `from_lanes` lanes into one of `to_lanes`. */
static void copy_lanes(const net *m, size_t real, void *to, ptrdiff_t to_lanes, ptrdiff_t to_lane, const void *from,
                       ptrdiff_t from_lanes, ptrdiff_t from_lane, ptrdiff_t lanes) {
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        const ptrdiff_t at[3] = {q.l->state_h, q.l->state_c, q.l->state_a}, n[3] = {q.H, q.H, q.A};
        for (int j = 0; j < 3 && q.l->kind == FASTLSTM_LSTM; j++)
            memcpy((char *)to + (at[j] * to_lanes + to_lane * n[j]) * (ptrdiff_t)real,
                   (const char *)from + (at[j] * from_lanes + from_lane * n[j]) * (ptrdiff_t)real, (size_t)(lanes * n[j]) * real);
    }
}

/* One call over steps t0.. and lanes b0.. of a task, in fresh memory of exactly the told sizes. In: rows of x that no
   lane may read stay NaN. Out: y (T, B, O) and state, both of the whole task. spread: lanes outermost, gaps between rows. */
static void part(const task *k, const fastlstm_engine *e, const void *packed, ptrdiff_t t0, ptrdiff_t steps, ptrdiff_t b0,
                 ptrdiff_t lanes, int spread, char *y, char *state) {
    const int bits = fastlstm_engine_bits(e), mark = memory_mark();
    const ptrdiff_t real = bits / 8, I = width_in(&k->m), O = width_out(&k->m), state_size = fastlstm_state_size(k->m.l, k->m.n, lanes);
    fastlstm_batch batch = {.steps = steps, .lanes = lanes};
    batch.x_step = spread ? I + 2 : lanes * I;
    batch.x_lane = spread ? steps * batch.x_step + 1 : I;
    batch.y_step = spread ? O + 3 : lanes * O;
    batch.y_lane = spread ? steps * batch.y_step + 5 : O;
    const ptrdiff_t x_size = (steps - 1) * batch.x_step + (lanes - 1) * batch.x_lane + I;
    const ptrdiff_t y_size = (steps - 1) * batch.y_step + (lanes - 1) * batch.y_lane + O;
    void *x = real_new(bits, x_size), *scratch;
    char *out = real_new(bits, y_size), *own_state = real_new(bits, state_size);
    uint8_t *reset = k->reset ? memory_new((size_t)(steps * lanes)) : NULL;
    int64_t *lengths = k->lengths && steps == k->T ? memory_new((size_t)lanes * sizeof *lengths) : NULL;
    for (ptrdiff_t b = 0; b < lanes; b++) {
        for (ptrdiff_t t = 0; t < steps; t++) {
            for (ptrdiff_t j = 0; j < I && (!k->lengths || t0 + t < k->lengths[b0 + b]); j++)
                feed(bits, x, t * batch.x_step + b * batch.x_lane + j, k->x[((t0 + t) * k->B + b0 + b) * I + j]);
            if (reset) reset[t * lanes + b] = k->reset[(t0 + t) * k->B + b0 + b];
        }
        if (lengths) lengths[b] = k->lengths[b0 + b];
    }
    copy_lanes(&k->m, (size_t)real, own_state, lanes, 0, state, k->B, b0, lanes);
    scratch = real_new(bits, fastlstm_forward_scratch_size(e, k->m.l, k->m.n, steps, lanes));
    batch.x = x;
    batch.y = out;
    batch.lengths = lengths;
    batch.reset = reset;
    batch.state = own_state;
    const uint64_t before = fnv(FNV_BEGIN, x, (size_t)(x_size * real));
    CHECK(state_size == k->m.state * lanes);
    CHECK(CALL(fastlstm_forward(e, k->m.l, k->m.n, packed, &batch, scratch, NULL, NULL)) == FASTLSTM_OK);
    CHECK(before == fnv(FNV_BEGIN, x, (size_t)(x_size * real)));
    copy_lanes(&k->m, (size_t)real, state, k->B, b0, own_state, lanes, 0, lanes);
    for (ptrdiff_t t = 0; t < steps; t++)
        for (ptrdiff_t b = 0; b < lanes; b++) {
            char *row = out + (t * batch.y_step + b * batch.y_lane) * real;
            memcpy(y + ((t0 + t) * k->B + b0 + b) * O * real, row, (size_t)(O * real));
            memset(row, 0xff, (size_t)(O * real));
        }
    int clean = 1;
    for (ptrdiff_t j = 0; j < y_size * real; j++)
        clean &= out[j] == (char)0xff;
    CHECK(clean && "nothing is written between the rows of y");
    memory_release(mark);
}

typedef struct result { char *y, *state; size_t y_bytes, state_bytes; } result;

enum { WHOLE, SPREAD, LANE_BY_LANE, STEP_BY_STEP, WAYS };

static result forward(const task *k, const fastlstm_engine *e, const void *packed, int way) {
    const int bits = fastlstm_engine_bits(e);
    const ptrdiff_t y_size = k->T * k->B * width_out(&k->m), state_size = k->m.state * k->B;
    result r = {real_new(bits, y_size), feed_all(bits, k->state, state_size), (size_t)(y_size * bits / 8), (size_t)(state_size * bits / 8)};
    for (ptrdiff_t j = 0; j < state_size; j++)
        if (k->state[j] != k->state[j]) memset(r.state + j * (bits / 8), 0xff, (size_t)(bits / 8));
    if (way == WHOLE || way == SPREAD) {
        part(k, e, packed, 0, k->T, 0, k->B, way == SPREAD, r.y, r.state);
    } else if (way == STEP_BY_STEP && !k->lengths) {
        for (ptrdiff_t t = 0; t < k->T; t++)
            part(k, e, packed, t, 1, 0, k->B, t & 1, r.y, r.state);
    } else { /* each lane alone, as long as it is */
        memset(r.y, 0, r.y_bytes);
        for (ptrdiff_t b = 0; b < k->B; b++) {
            const ptrdiff_t length = k->lengths ? k->lengths[b] : k->T, steps = way == STEP_BY_STEP ? 1 : length;
            for (ptrdiff_t t = 0; t < length; t += steps)
                part(k, e, packed, t, steps, b, 1, 0, r.y, r.state);
        }
    }
    return r;
}

static int same(result a, result b) { return memcmp(a.y, b.y, a.y_bytes) == 0 && memcmp(a.state, b.state, a.state_bytes) == 0; }

/* ---- Comparing ---- */

enum { OUTPUT, STATE, WEIGHT, GRADIENT, TRACE, LOSS, KINDS };
static const char *const kind_name[KINDS] = {"y", "state", "weights", "gradient", "traces", "loss"};
static double worst[2][KINDS];
/* About four times the worst errors of this test's own cases. */
static const double allowed[2][KINDS] = {{1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4}, {1e-12, 1e-12, 1e-12, 1e-12, 1e-12, 1e-12}};

/* |a - b| / (1 + |b|); places where the reference is NaN are unused. */
static void compare(int bits, int kind, const void *a, const double *b, ptrdiff_t n) {
    double most = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        const double error = fabs(real_get(bits, a, j) - b[j]) / (1 + fabs(b[j]));
        if (b[j] == b[j] && !(error <= most)) most = error == error ? error : INFINITY;
    }
    if (!(most <= worst[bits == 64][kind])) worst[bits == 64][kind] = most;
    if (!CHECK(most <= allowed[bits == 64][kind])) printf("     %s: f%d is off by %g\n", kind_name[kind], bits, most);
}

static int is_fused(const char *isa) { return strcmp(isa, "generic") != 0; }

/* ---- (1), (2), (4), (5), (6): forward ---- */

static long forward_cases, learn_cases;

static void describe(const char *what, const task *k, const char *isa, int bits) {
    const fastlstm_layer *l = k->m.l;
    snprintf(check_case, sizeof check_case,
             "%s %s f%d: %ld layers, first: kind %d gates %d peepholes %d recurrence %d act %d%d%d clip %g I %ld H %ld S %ld; T %ld B %ld%s%s",
             what, isa, bits, (long)k->m.n, l->kind, l->gates, l->peepholes, l->gate_recurrence, l->gate_activation, l->input_activation,
             l->output_activation, l->clip, (long)l->input_size, (long)l->hidden_size, (long)l->block_size, (long)k->T, (long)k->B,
             k->lengths ? " lengths" : "", k->reset ? " resets" : "");
}

static void check_forward(const task *k) {
    const int begin = memory_mark();
    const ptrdiff_t y_size = k->T * k->B * width_out(&k->m), state_size = k->m.state * k->B;
    double *y = memory_zeros(y_size), *state = memory_zeros(state_size);
    int reverse = 0;
    for (ptrdiff_t d = 0; d < k->m.n; d++)
        reverse |= k->m.l[d].reverse;
    memcpy(state, k->state, (size_t)state_size * sizeof *state);
    ref_forward(k, y, state);
    forward_cases++;
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
            CHECK(same(whole, forward(k, e, packed, LANE_BY_LANE)));
            if (!reverse) CHECK(same(whole, forward(k, e, packed, STEP_BY_STEP)));
            CHECK(before == fnv(FNV_BEGIN, packed, bytes));
            if (!is_fused(isa)) continue;
            if (fused.y) CHECK(same(whole, fused) && "instruction sets agree");
            fused = whole;
        }
        memory_release(mark);
    }
    memory_release(begin);
}

/* (7) What happens in one lane stays there; (6) subnormal parameters, inputs and states are zeros. */
static void check_isolation(const task *k) {
    const int begin = memory_mark();
    const ptrdiff_t I = width_in(&k->m), O = width_out(&k->m), bad = random_below(k->B);
    task sick = *k, tiny = *k;
    sick.x = memory_zeros(k->T * k->B * I);
    memcpy(sick.x, k->x, (size_t)(k->T * k->B * I) * sizeof(double));
    sick.x[(random_below(k->T) * k->B + bad) * I + random_below(I)] = random_below(2) ? (double)NAN : (double)INFINITY;
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

/* ---- The reference: truncated learning (csrc/traces.h, csrc/lstm.h), densely and one parameter at a time ---- */

typedef struct lesson {
    task k; /* no lengths, LANES lanes at most */
    int loss, update;
    ptrdiff_t chunk;
    double lr, momentum, decay;
    double *target; /* (T, B, O), NaN where there is none; CROSS_ENTROPY: (T, B) classes, -1 where there is none */
} lesson;

typedef struct school {
    const lesson *u;
    double *w, *velocity, *gradient, *state; /* canonical */
    double *trace[LAYERS], *s[LAYERS], *y[LAYERS], *dy[LAYERS]; /* trace in the canonical order; (B, M), (B, H), (B, H) */
    moment keep[LAYERS][LANES];
    int error[LANES], has_error;
    ptrdiff_t pending;
    double lr, loss_sum;
    int64_t loss_steps;
} school;

static ptrdiff_t traced(const shape *q) { return 1 + q->i + q->f; }

/* Of one layer: dc_u / dw[row of kind n = g, i, f][k], then of peepholes dc_v / dp[gate][w] for the cells v, w of block j. */
static ptrdiff_t trace_at(const shape *q, ptrdiff_t b, ptrdiff_t u, ptrdiff_t n, ptrdiff_t k) {
    return ((b * q->H + u) * traced(q) + n) * q->M + k;
}
static ptrdiff_t peephole_trace_at(const shape *q, ptrdiff_t B, ptrdiff_t b, ptrdiff_t gate, ptrdiff_t v, ptrdiff_t w, ptrdiff_t j) {
    return B * q->H * traced(q) * q->M + (((b * 2 + gate) * q->S + v) * q->S + w) * q->J + j;
}
static ptrdiff_t trace_size(const shape *q, ptrdiff_t B) {
    if (q->l->kind == FASTLSTM_LINEAR) return 0;
    return B * q->H * traced(q) * q->M + (q->l->peepholes ? B * 2 * q->S * q->H : 0);
}

static school school_new(const lesson *u, const double *w) {
    const net *m = &u->k.m;
    school c = {.u = u, .lr = u->lr};
    c.w = memory_zeros(m->params);
    c.velocity = memory_zeros(m->params);
    c.gradient = memory_zeros(m->params);
    c.state = memory_zeros(m->state * u->k.B);
    for (ptrdiff_t j = 0; j < m->params; j++) {
        c.w[j] = w[j];
        if (w[j] != w[j]) c.velocity[j] = c.gradient[j] = NAN; /* unused */
    }
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        c.trace[d] = memory_zeros(trace_size(&q, u->k.B));
        c.s[d] = memory_zeros(u->k.B * q.M);
        c.y[d] = memory_zeros(u->k.B * q.H);
        c.dy[d] = memory_zeros(u->k.B * q.H);
        for (ptrdiff_t b = 0; b < u->k.B; b++)
            c.keep[d][b] = moment_new(&q);
    }
    return c;
}

static void school_apply(school *c) {
    if (c->u->update && c->has_error) {
        for (ptrdiff_t j = 0; j < c->u->k.m.params; j++) {
            c->velocity[j] = c->u->momentum * c->velocity[j] + c->gradient[j];
            c->w[j] -= c->lr * c->velocity[j];
            c->gradient[j] *= 0;
        }
        c->lr *= c->u->decay;
    }
    c->has_error = 0;
    c->pending = 0;
}

/* With chunk 0 an episode's end is where its gradient is applied. */
static void school_reset(school *c, const uint8_t *mask) {
    const ptrdiff_t B = c->u->k.B;
    int any = 0;
    for (ptrdiff_t b = 0; b < B; b++)
        any |= mask[b];
    if (any && c->u->chunk == 0) school_apply(c);
    for (ptrdiff_t d = 0; d < c->u->k.m.n; d++) {
        const shape q = shape_of(c->u->k.m.l + d);
        for (ptrdiff_t b = 0; b < B && q.l->kind == FASTLSTM_LSTM; b++) {
            if (!mask[b]) continue;
            memset(c->state + q.l->state_h * B + b * q.H, 0, (size_t)q.H * sizeof(double));
            memset(c->state + q.l->state_c * B + b * q.H, 0, (size_t)q.H * sizeof(double));
            memset(c->state + q.l->state_a * B + b * q.A, 0, (size_t)q.A * sizeof(double));
            for (ptrdiff_t j = 0; j < q.H * traced(&q) * q.M; j++)
                c->trace[d][trace_at(&q, b, 0, 0, 0) + j] = 0;
            for (ptrdiff_t j = 0; q.l->peepholes && j < 2 * q.S * q.H; j++)
                c->trace[d][peephole_trace_at(&q, B, b, 0, 0, 0, 0) + j] = 0;
        }
    }
}

/* Loss of a step, dL/dy into dy, error[b]: whether lane b has a target; returns how many targets there are. */
static ptrdiff_t ref_loss(int loss, ptrdiff_t B, ptrdiff_t O, const double *y, const double *target, double *dy, int *error, double *sum) {
    ptrdiff_t n = 0;
    *sum = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        error[b] = 0;
        for (ptrdiff_t j = b * O; j < (b + 1) * O && loss != FASTLSTM_CROSS_ENTROPY; j++)
            if (target[j] == target[j]) n++, error[b] = 1;
        if (loss == FASTLSTM_CROSS_ENTROPY) n += error[b] = target[b] >= 0;
    }
    for (ptrdiff_t j = 0; j < B * O; j++) {
        const ptrdiff_t b = j / O;
        const double t = loss == FASTLSTM_CROSS_ENTROPY ? (target[b] == (double)(j % O)) : target[j], d = y[j] - t;
        dy[j] = 0;
        if (!error[b] || t != t) continue;
        if (loss == FASTLSTM_CROSS_ENTROPY) {
            double total = 0;
            for (ptrdiff_t k = b * O; k < (b + 1) * O; k++)
                total += exp(y[k] - y[j]);
            dy[j] = (1 / total - t) / (double)n;
            *sum += t * log(total) / (double)n;
        } else if (loss == FASTLSTM_MSE) {
            dy[j] = 2 * d / (double)n;
            *sum += d * d / (double)n;
        } else if (loss == FASTLSTM_SSE) {
            dy[j] = d;
            *sum += d * d / 2;
        } else {
            dy[j] = d / (y[j] * (1 - y[j])) / (double)n;
            *sum -= (t * log(y[j]) + (1 - t) * log(1 - y[j])) / (double)n;
        }
    }
    return n;
}

/* Traces, gradient and input error dx (B, I) or NULL of one layer and lane; error: 0 without a target. */
static void ref_lesson(school *c, ptrdiff_t d, ptrdiff_t b, int error, double *dx) {
    const shape q = shape_of(c->u->k.m.l + d);
    const fastlstm_layer *l = q.l;
    const ptrdiff_t B = c->u->k.B;
    const double *s = c->s[d] + b * q.M, *dh = c->dy[d] + b * q.H, *now = c->state + l->state_c * B + b * q.H;
    const moment *at = &c->keep[d][b];
    double *net_error = memory_zeros(q.rows);
    for (ptrdiff_t u = 0; u < q.H; u++) {
        const ptrdiff_t j = u / q.S, v = u % q.S;
        if (l->kind == FASTLSTM_LINEAR) {
            net_error[u] = dh[u] * slope(l->output_activation, c->y[d][b * q.H + u]);
            for (ptrdiff_t k = 0; k < q.M && error; k++)
                c->gradient[weight_at(&q, u, k)] += net_error[u] * s[k];
            continue;
        }
        /* c(t) = f c(t-1) + i g: its derivatives by c(t-1) and by the net inputs of g, i, f; none where it is clipped */
        const double on = fabs(now[u]) < l->clip, before = at->before[u], mu = on * at->f[j];
        const double by[3] = {on * at->i[j] * slope(l->input_activation, at->g[u]),
                              on * (at->g[u] - q.coupled * before) * slope(l->gate_activation, at->i[j]),
                              on * before * slope(l->gate_activation, at->f[j])};
        const int kind[3] = {0, q.i ? 1 : -1, q.f ? 1 + q.i : -1};
        const ptrdiff_t row[3] = {q.row_g + u, j, q.row_f + j};
        const double e = error ? dh[u] * at->o[j] * slope(l->output_activation, at->hc[u]) : 0;
        for (int n = 0; n < 3; n++) {
            if (kind[n] < 0) continue;
            for (ptrdiff_t k = 0; k < q.M; k++) { /* dc(t)/dw = mu dc(t-1)/dw + dc/dnet s_k */
                double *E = c->trace[d] + trace_at(&q, b, u, kind[n], k);
                *E = mu * *E + by[n] * s[k];
                c->gradient[weight_at(&q, row[n], k)] += e * *E;
            }
            for (ptrdiff_t w = 0; n && l->peepholes && w < q.S; w++) {
                double *Q = c->trace[d] + peephole_trace_at(&q, B, b, n - 1, v, w, j);
                *Q = mu * *Q + by[n] * at->before[j * q.S + w];
                c->gradient[l->weight_peephole + (n == 2 ? q.i : 0) * q.H + j * q.S + w] += e * *Q;
            }
            net_error[row[n]] += e * by[n];
        }
        if (q.o && error) net_error[q.row_o + j] += dh[u] * at->hc[u] * slope(l->gate_activation, at->o[j]);
    }
    for (ptrdiff_t j = 0; j < q.J && q.o && error; j++) { /* the output gate has no past */
        for (ptrdiff_t k = 0; k < q.M; k++)
            c->gradient[weight_at(&q, q.row_o + j, k)] += net_error[q.row_o + j] * s[k];
        for (ptrdiff_t u = j * q.S; l->peepholes && u < (j + 1) * q.S; u++)
            c->gradient[l->weight_peephole + (q.i + q.f) * q.H + u] += net_error[q.row_o + j] * now[u];
    }
    for (ptrdiff_t k = 0; k < q.I && dx; k++) {
        dx[k] = 0;
        for (ptrdiff_t r = 0; r < q.rows; r++)
            dx[k] += c->w[l->weight_ih + r * q.I + k] * net_error[r];
    }
}

/* Step t; returns the outputs (B, O). */
static const double *school_step(school *c, ptrdiff_t t) {
    const lesson *u = c->u;
    const net *m = &u->k.m;
    const ptrdiff_t B = u->k.B, O = width_out(m), last = m->n - 1, wide = u->loss == FASTLSTM_CROSS_ENTROPY ? 1 : O;
    const double *x = u->k.x + t * B * width_in(m);
    const int mark = memory_mark();
    ptrdiff_t n = 0;
    double loss;
    if (u->k.reset) school_reset(c, u->k.reset + t * B);
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        for (ptrdiff_t b = 0; b < B; b++) {
            double *h = c->state + q.l->state_h * B + b * q.H, *a = c->state + q.l->state_a * B + b * q.A;
            double *s = c->s[d] + b * q.M, *y = c->y[d] + b * q.H;
            gather_sources(&q, s, x + b * q.I, h, a);
            if (q.l->kind == FASTLSTM_LSTM) ref_cell(&q, c->w, s, h, c->state + q.l->state_c * B + b * q.H, a, &c->keep[d][b]);
            for (ptrdiff_t j = 0; j < q.H; j++)
                y[j] = q.l->kind == FASTLSTM_LSTM ? h[j] : activate(q.l->output_activation, net_input(&q, c->w, s, j));
        }
        x = c->y[d];
    }
    if (u->loss != FASTLSTM_NO_LOSS) n = ref_loss(u->loss, B, O, c->y[last], u->target + t * B * wide, c->dy[last], c->error, &loss);
    if (n) {
        c->loss_sum += loss;
        c->loss_steps++;
        c->has_error = 1;
    }
    for (ptrdiff_t d = last; d >= 0; d--)
        for (ptrdiff_t b = 0; b < B; b++)
            ref_lesson(c, d, b, n && c->error[b], d ? c->dy[d - 1] + b * m->l[d].input_size : NULL);
    c->pending++;
    if (u->update && u->chunk > 0 && c->pending >= u->chunk) school_apply(c);
    memory_release(mark);
    return c->y[last];
}

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

/* ---- (3) The library's learner ---- */

typedef struct pupil {
    fastlstm_learner m;
    const lesson *u;
    char *y; /* (T, B, O) */
} pupil;

static pupil pupil_new(const lesson *u, const fastlstm_engine *e, const double *w) {
    const net *m = &u->k.m;
    const ptrdiff_t B = u->k.B, size = fastlstm_packed_size(e, m->l, m->n), real = fastlstm_engine_bits(e) / 8;
    pupil p = {.u = u, .m = {.engine = e, .layers = m->l, .n_layers = m->n, .lanes = B, .loss = u->loss, .update = u->update,
                             .lr = u->lr, .momentum = u->momentum, .decay = u->decay, .chunk = u->chunk}};
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
static pupil move(const pupil *p) {
    const lesson *u = p->u;
    const net *m = &u->k.m;
    const fastlstm_engine *e = p->m.engine;
    const int bits = fastlstm_engine_bits(e);
    pupil to = pupil_new(u, e, u->k.w);
    ptrdiff_t size;
    CHECK(CALL(fastlstm_pack(e, m->l, m->n, unpacked(p, p->m.weights), to.m.weights)) == FASTLSTM_OK);
    if (to.m.velocity) CHECK(CALL(fastlstm_pack(e, m->l, m->n, unpacked(p, p->m.velocity), to.m.velocity)) == FASTLSTM_OK);
    if (to.m.gradient) CHECK(CALL(fastlstm_pack(e, m->l, m->n, unpacked(p, p->m.gradient), to.m.gradient)) == FASTLSTM_OK);
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
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m), wide = u->loss == FASTLSTM_CROSS_ENTROPY ? 1 : O;
    void *x = feed_all(bits, u->k.x + t * B * I, steps * B * I), *y = real_new(bits, steps * B * O), *targets = NULL;
    uint8_t *reset = u->k.reset ? memory_new((size_t)(steps * B)) : NULL;
    ptrdiff_t done = -1;
    if (u->loss == FASTLSTM_CROSS_ENTROPY) {
        int64_t *class = targets = memory_new((size_t)(steps * B) * sizeof *class);
        for (ptrdiff_t j = 0; j < steps * B; j++)
            class[j] = (int64_t)u->target[t * B + j];
    } else if (u->loss != FASTLSTM_NO_LOSS) {
        targets = feed_all(bits, u->target + t * B * wide, steps * B * O);
    }
    if (reset) memcpy(reset, u->k.reset + t * B, (size_t)(steps * B));
    CHECK(CALL(fastlstm_learner_run(&p->m, steps, x, targets, reset, y, &done, NULL, NULL)) == FASTLSTM_OK);
    CHECK(done == steps);
    memcpy(p->y + t * B * O * (bits / 8), y, (size_t)(steps * B * O * bits / 8));
    memory_release(mark);
}

/* One step by halves; the loss is computed here in the engine's type, rounding after every operation. */
static void study_by_halves(pupil *p, ptrdiff_t t) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(p->m.engine);
    const lesson *u = p->u;
    const ptrdiff_t B = u->k.B, I = width_in(&u->k.m), O = width_out(&u->k.m);
    void *x = feed_all(bits, u->k.x + t * B * I, B * I), *y = real_new(bits, B * O), *dy = real_new(bits, B * O);
    ptrdiff_t n = 0;
    int any = 0;
    for (ptrdiff_t b = 0; u->k.reset && b < B; b++)
        any |= u->k.reset[t * B + b];
    if (any) CHECK(CALL(fastlstm_learner_reset(&p->m, u->k.reset + t * B)) == FASTLSTM_OK);
    CHECK(CALL(fastlstm_learner_forward(&p->m, x, y)) == FASTLSTM_OK);
    for (ptrdiff_t j = 0; j < B * O && u->loss != FASTLSTM_NO_LOSS; j++)
        n += u->target[t * B * O + j] == u->target[t * B * O + j];
    real_put(bits, dy, 0, n ? 1 / (double)n : 0);
    const double mean = real_get(bits, dy, 0);
    for (ptrdiff_t j = 0; j < B * O && n; j++) {
        const double target = u->target[t * B * O + j];
        real_put(bits, dy, j, target == target ? real_get(bits, y, j) - target : 0);
        if (u->loss == FASTLSTM_MSE) real_put(bits, dy, j, 2 * mean * real_get(bits, dy, j));
    }
    CHECK(CALL(fastlstm_learner_backward(&p->m, n ? dy : NULL)) == FASTLSTM_OK);
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
    return p;
}

static void check_learner(const lesson *u) {
    const int begin = memory_mark();
    const net *m = &u->k.m;
    const ptrdiff_t T = u->k.T, B = u->k.B, O = width_out(m);
    const int halves = u->loss == FASTLSTM_NO_LOSS || u->loss == FASTLSTM_MSE || u->loss == FASTLSTM_SSE;
    double *y = memory_zeros(T * B * O), *traces;
    school c = school_new(u, u->k.w);
    ptrdiff_t size = 0, told;
    learn_cases++;
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
            CHECK(pupil_hash(&pieces) == hash && pieces.m.loss_sum == p.m.loss_sum && pieces.m.loss_steps == p.m.loss_steps);
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

/* ---- (8) poll ---- */

typedef struct asked { int calls, stop_at, wrong_mode; } asked;

static int poll(void *context) {
    asked *a = context;
    a->wrong_mode |= fpu_get() != fpu_given;
    return ++a->calls == a->stop_at ? -1 : 0;
}

static void check_poll(const fastlstm_engine *e) {
    const int mark = memory_mark(), bits = fastlstm_engine_bits(e);
    lesson u = {.loss = FASTLSTM_MSE, .update = 1, .chunk = 1, .lr = 0.05, .decay = 1};
    task *k = &u.k;
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
    k->T = 150;
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
                CHECK(CALL(fastlstm_sgd(fastlstm_engine_select(isa, bits), n, own, gradient, with_velocity ? velocity : NULL, 0.125, momentum)) == FASTLSTM_OK);
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

static const int gate_sets[] = {IFO, 0, 1, 2, 3, 4, 5, 6, 1 | FASTLSTM_COUPLED_GATES, 1 | 4 | FASTLSTM_COUPLED_GATES};
static const ptrdiff_t block_sizes[] = {1, 2, 3, 5}, step_counts[] = {1, 2, 50, 70}, input_sizes[] = {1, 3, 17};
static const ptrdiff_t around_vectors[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17};
#define COUNT(array) ((ptrdiff_t)(sizeof(array) / sizeof *(array)))

/* The n-th of 160 combinations of switches; activations and clip by lot. */
static fastlstm_layer varied(ptrdiff_t n, ptrdiff_t I) {
    const ptrdiff_t S = block_sizes[n / 40 % COUNT(block_sizes)], J = around_vectors[random_below(S == 1 ? COUNT(around_vectors) : 6)];
    fastlstm_layer l = lstm(I, J * S, S, gate_sets[n % 10]);
    l.peepholes = n / 10 % 2;
    l.gate_recurrence = n / 20 % 2;
    if (n % 7 == 0) return l;
    l.gate_activation = random_below(3) ? FASTLSTM_SIGMOID : (int32_t)random_below(6);
    l.input_activation = (int32_t)random_below(6);
    l.output_activation = (int32_t)random_below(6);
    if (random_below(2) || l.gate_activation != FASTLSTM_SIGMOID || l.gates != IFO) l.clip = 0.5 + (double)random_below(4) / 4;
    return l;
}

static void forward_tests(void) {
    const ptrdiff_t hidden[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63}, lanes[] = {1, 2, 3, 4, 5, 6, 7, 8, 13};
    const int begin = memory_mark();
    for (ptrdiff_t n = 0; n < COUNT(hidden) * COUNT(lanes); n++) { /* sizes: the plain cell, and linear layers */
        task k = {0};
        const ptrdiff_t I = input_sizes[random_below(3)], H = hidden[n / COUNT(lanes)], B = lanes[n % COUNT(lanes)];
        add(&k.m, n % 4 == 3 ? linear(I, H + n % 3 * 70, (int)(n / 4 % 6)) : lstm(I, H, 1, IFO), (int)random_below(n % 4 == 3 ? 2 : 3));
        fill_task(&k, step_counts[(n + n / COUNT(lanes)) % 4], B, n % 5 == 4, n % 3 == 2);
        check_forward(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 160; n++) { /* switches, alone or in both directions */
        task k = {0};
        add(&k.m, varied(n, input_sizes[n % 3]), (int)random_below(3));
        if (n % 4 == 1) {
            fastlstm_layer back = varied(n * 7, input_sizes[n % 3]);
            back.reverse = 1;
            add(&k.m, back, (int)random_below(3));
        }
        fill_task(&k, step_counts[random_below(4)], lanes[random_below(COUNT(lanes))], n % 3 == 1, n % 4 >= 2 || n % 8 == 1);
        check_forward(&k);
        if (k.B > 1 && n % 3 == 0) check_isolation(&k);
        memory_release(begin);
    }
    for (ptrdiff_t n = 0; n < 40; n++) { /* stacks */
        task k = {0};
        for (ptrdiff_t width = input_sizes[n % 3]; k.m.n < LAYERS - 1 && (k.m.n < 2 || random_below(3)); width = width_out(&k.m)) {
            const int kind = (int)random_below(3);
            add(&k.m, kind ? varied(random_below(160), width) : linear(width, 1 + random_below(20), (int)random_below(6)), (int)random_below(2));
            if (kind != 2) continue;
            fastlstm_layer back = varied(random_below(160), width);
            back.reverse = 1;
            add(&k.m, back, (int)random_below(3));
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

/* A lesson on top of layers already there. */
static void fill_lesson(lesson *u, ptrdiff_t T, ptrdiff_t B, int loss, int mode, int resets) {
    static const struct { int update; ptrdiff_t chunk; double momentum, decay; } modes[] = {
        {0, 0, 0, 1}, {1, 1, 0, 1}, {1, 1, 0.75, 0.96875}, {1, 5, 0, 0.96875}, {1, 5, 0.5, 1}, {1, 0, 0.5, 0.9375}, {0, 1, 0, 1}};
    const ptrdiff_t O = width_out(&u->k.m), wide = loss == FASTLSTM_CROSS_ENTROPY ? 1 : O;
    fill_task(&u->k, T, B, 0, resets);
    u->loss = loss;
    u->lr = 0.0625;
    u->update = modes[mode].update;
    u->chunk = modes[mode].chunk;
    u->momentum = modes[mode].momentum;
    u->decay = modes[mode].decay;
    u->target = memory_zeros(T * B * wide);
    for (ptrdiff_t j = 0; j < T * B * wide; j++) {
        const int none = random_below(4) == 0 || j / (B * wide) % 5 == 2; /* here and there, and whole steps */
        if (loss == FASTLSTM_CROSS_ENTROPY) u->target[j] = none ? -1 : (double)random_below(O);
        else u->target[j] = none ? NAN : loss == FASTLSTM_BINARY_CROSS_ENTROPY ? fabs(random_number(0)) : random_number(0);
    }
}

static void learner_tests(void) {
    const int begin = memory_mark();
    for (ptrdiff_t n = 0; n < 200; n++) {
        lesson u = {0};
        int loss = (int)(n / 3 % 5);
        if (loss == FASTLSTM_NO_LOSS && n % 10) loss = FASTLSTM_SSE;
        fastlstm_layer l = n < 160 ? varied(n, input_sizes[n % 3]) : lstm(input_sizes[n % 3], (n - 159) * 2 % 35 + (n & 1), 1, IFO);
        if (n % 3 == 2) add(&u.k.m, lstm(input_sizes[random_below(3)], l.input_size, 1, IFO), 2);
        if (loss == FASTLSTM_BINARY_CROSS_ENTROPY && n % 3 == 0) { /* outputs in (0, 1) */
            l.output_activation = l.gate_activation = FASTLSTM_SIGMOID;
            l.clip = 2;
            l.gates |= FASTLSTM_OUTPUT_GATE;
        }
        add(&u.k.m, l, (int)random_below(3));
        if (n % 3) add(&u.k.m, linear(l.hidden_size, 1 + random_below(19), loss == FASTLSTM_BINARY_CROSS_ENTROPY ? FASTLSTM_SIGMOID : (int)random_below(3)), (int)(n & 1));
        fill_lesson(&u, n % 5 ? 21 : 1, n / 2 % 2 ? 3 : 1, loss, (int)(n % 7), n % 4 < 2);
        check_learner(&u);
        memory_release(begin);
    }
    for (int n = 0; n < 40; n++) { /* the reference itself; without kinks */
        lesson u = {0};
        fastlstm_layer l = lstm(2, n % 3 == 2 ? 4 : 2, n % 3 == 2 ? 2 : 1, gate_sets[n % 10]);
        l.peepholes = n / 10 % 2;
        l.gate_recurrence = n / 20 % 2;
        l.input_activation = n % 4 ? FASTLSTM_G1997 : FASTLSTM_IDENTITY;
        l.output_activation = n % 4 ? FASTLSTM_H1997 : FASTLSTM_TANH;
        add(&u.k.m, l, 2);
        add(&u.k.m, linear(l.hidden_size, 3, FASTLSTM_SIGMOID), 1);
        fill_lesson(&u, 6, 2, 1 + n % 4, 0, n & 1);
        snprintf(check_case, sizeof check_case, "reference %d", n);
        check_reference(&u);
        memory_release(begin);
    }
}

/* (9) The bits of fixed networks, on every machine with fused multiply-add. */
static const uint64_t golden[2][2] = {{0, 0}, {0, 0}}; /* f32, f64: forward, learn */

static void golden_tests(void) {
    const int begin = memory_mark();
    task k = {0};
    lesson u = {0};
    fastlstm_layer l = lstm(3, 17, 1, IFO);
    random_state = 1997;
    add(&k.m, l, 2);
    l.reverse = 1;
    add(&k.m, l, 1);
    l = lstm(34, 12, 2, IFO);
    l.peepholes = l.gate_recurrence = 1;
    l.input_activation = FASTLSTM_G1997;
    l.output_activation = FASTLSTM_H1997;
    l.clip = 1;
    add(&k.m, l, 1);
    add(&k.m, linear(12, 5, FASTLSTM_TANH), 1);
    fill_task(&k, 40, 5, 1, 1);
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
            describe("golden", &k, isa, bits);
            const result r = forward(&k, e, pack(&k.m, k.w, e), WHOLE);
            const pupil p = teach(&u, e, ONE_RUN);
            const uint64_t run = fnv(fnv(FNV_BEGIN, r.y, r.y_bytes), r.state, r.state_bytes), learnt = pupil_hash(&p);
            printf("hash forward=%016llx learn=%016llx f%d %s\n", (unsigned long long)run, (unsigned long long)learnt, bits, isa);
            if (is_fused(isa)) CHECK(run == golden[bits == 64][0] && learnt == golden[bits == 64][1]);
        }
    }
    memory_release(begin);
}

int main(void) {
    const char *isa;
    forward_tests();
    learner_tests();
    for (int bits = 32; bits <= 64; bits += 32) {
        check_sgd(bits);
        for (int i = 0; (isa = fastlstm_isa_name(i)) != NULL; i++)
            check_poll(fastlstm_engine_select(isa, bits));
    }
    golden_tests();
    for (int j = 0; j < KINDS; j++)
        printf("largest error of %-8s f32 %.1e, f64 %.1e\n", kind_name[j], worst[0][j], worst[1][j]);
    printf("%s: %ld checks, %ld failures, %ld forward cases, %ld learner cases\n", check_failures ? "FAIL" : "ok", check_count,
           check_failures, forward_cases, learn_cases);
    return check_failures != 0;
}
