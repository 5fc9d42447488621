/* Networks, tasks and a naive cell in double for the tests: parameters in their canonical places, one sum at a time, no code
   shared with the library. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "check.h"

/* ---- Networks ---- */

enum { LAYERS = 6, LANES = 3 }; /* LANES: of lessons */

typedef struct net {
    fastlstm_layer l[LAYERS];
    ptrdiff_t n, params, state; /* layers, parameters, state of one lane */
} net;

/* Sizes of a layer and the first rows of i, f, g, o in an LSTM's parameter matrices. C: cell states; P: what h has. */
typedef struct shape {
    const fastlstm_layer *l;
    int recurrent, i, f, o, coupled;
    ptrdiff_t I, H, P, C, S, J, A, M, gates, biases, rows, row_f, row_g, row_o;
} shape;

static inline shape shape_of(const fastlstm_layer *l) {
    shape q = {.l = l, .I = l->input_size, .H = l->hidden_size, .S = l->block_size};
    const int lstm = l->kind == FASTLSTM_LSTM, gates = lstm ? l->gates : 0;
    q.recurrent = l->kind != FASTLSTM_LINEAR;
    q.P = l->proj_size ? l->proj_size : q.H;
    q.C = lstm ? q.H : 0;
    q.i = (gates & FASTLSTM_INPUT_GATE) != 0;
    q.f = (gates & FASTLSTM_FORGET_GATE) != 0;
    q.o = (gates & FASTLSTM_OUTPUT_GATE) != 0;
    q.coupled = (gates & FASTLSTM_COUPLED_GATES) != 0;
    q.J = q.H / q.S;
    q.gates = q.i + q.f + q.o;
    q.A = lstm && l->gate_recurrence ? q.gates * q.J : 0;
    q.biases = (l->bias_ih >= 0) + (l->bias_hh >= 0);
    q.M = q.biases + q.I + (q.recurrent ? q.P + q.A : 0);
    q.row_f = q.i * q.J;
    q.row_g = q.row_f + q.f * q.J;
    q.row_o = q.row_g + q.H;
    q.rows = l->kind == FASTLSTM_GRU ? 3 * q.H : q.row_o + q.o * q.J;
    return q;
}

/* The next place for an array; one unused element before each. */
static inline ptrdiff_t place(ptrdiff_t *end, ptrdiff_t size) {
    const ptrdiff_t at = *end + 1;
    *end = at + size;
    return at;
}

static inline void add(net *m, fastlstm_layer l, int biases) {
    shape q;
    l.weight_hh = l.weight_gh = l.weight_hr = l.bias_ih = l.bias_hh = l.weight_peephole = -1;
    q = shape_of(&l);
    if (biases > 0) l.bias_ih = place(&m->params, q.rows);
    l.weight_ih = place(&m->params, q.rows * q.I);
    if (q.recurrent) {
        if (biases > 1) l.bias_hh = place(&m->params, q.rows);
        l.weight_hh = place(&m->params, q.rows * q.P);
        if (q.A) l.weight_gh = place(&m->params, q.rows * q.A);
        if (l.peepholes && q.gates) l.weight_peephole = place(&m->params, q.gates * q.H);
        if (l.proj_size) l.weight_hr = place(&m->params, q.P * q.H);
        if (q.A) l.state_a = place(&m->state, q.A);
        if (q.C) l.state_c = place(&m->state, q.C);
        l.state_h = place(&m->state, q.P);
    }
    m->l[m->n++] = l;
}

/* Activations with constants that keep things small and have no steps. */
static inline fastlstm_activation activation(int kind) {
    static const double constants[][2] = {
        [FASTLSTM_AFFINE] = {-0.75, 0.25}, [FASTLSTM_LEAKY_RELU] = {0.125}, [FASTLSTM_SCALED_TANH] = {-1.25, 0.75},
        [FASTLSTM_HARD_SIGMOID] = {0.375, 0.5}, [FASTLSTM_ELU] = {0.5, 0.875}, [FASTLSTM_SOFTPLUS] = {0}};
    return (fastlstm_activation){kind, constants[kind][0], constants[kind][1]};
}

enum { ACTIVATIONS = FASTLSTM_SOFTPLUS + 1 };

static inline fastlstm_layer linear(ptrdiff_t I, ptrdiff_t H, int kind) {
    return (fastlstm_layer){.kind = FASTLSTM_LINEAR, .output_activation = activation(kind), .clip = INFINITY,
                            .input_size = I, .hidden_size = H, .block_size = 1};
}

static inline fastlstm_layer lstm(ptrdiff_t I, ptrdiff_t H, ptrdiff_t S, int gates) {
    return (fastlstm_layer){.kind = FASTLSTM_LSTM, .gates = gates, .gate_activation = activation(FASTLSTM_SIGMOID),
                            .input_activation = activation(FASTLSTM_TANH), .output_activation = activation(FASTLSTM_TANH),
                            .clip = INFINITY, .input_size = I, .hidden_size = H, .block_size = S};
}

/* kind: GRU or RNN. */
static inline fastlstm_layer recurrent(int kind, ptrdiff_t I, ptrdiff_t H, int reset_after) {
    return (fastlstm_layer){.kind = kind, .reset_after = reset_after, .gate_activation = activation(FASTLSTM_SIGMOID),
                            .input_activation = activation(FASTLSTM_TANH), .clip = INFINITY, .input_size = I, .hidden_size = H,
                            .block_size = 1};
}

enum { IFO = FASTLSTM_INPUT_GATE | FASTLSTM_FORGET_GATE | FASTLSTM_OUTPUT_GATE };

static inline ptrdiff_t width_in(const net *m) { return m->l[0].input_size; }

static inline ptrdiff_t outputs(const fastlstm_layer *l) { return l->proj_size ? l->proj_size : l->hidden_size; }

static inline ptrdiff_t width_out(const net *m) {
    const fastlstm_layer *last = m->l + m->n - 1;
    return outputs(last) + (last->reverse ? outputs(last - 1) : 0);
}

static inline int noisy(const fastlstm_layer *l) { return l->dropout > 0 || l->recurrent_dropout > 0 || l->zoneout_h > 0 || l->zoneout_c > 0; }

/* Whether threads may share the units: what a step reads of others is h alone. */
static inline int divides(const net *m) {
    int good = 1;
    for (ptrdiff_t d = 0; d < m->n; d++)
        good &= !m->l[d].gate_recurrence && !m->l[d].proj_size && (m->l[d].kind != FASTLSTM_GRU || m->l[d].reset_after) && !noisy(m->l + d);
    return good;
}

/* ---- The reference: one cell ---- */

static inline double activate(fastlstm_activation f, double x) {
    switch (f.kind) {
    case FASTLSTM_SIGMOID: return 1 / (1 + exp(-x));
    case FASTLSTM_TANH: return tanh(x);
    case FASTLSTM_RELU: return x > 0 ? x : 0;
    case FASTLSTM_G1997: return 4 / (1 + exp(-x)) - 2; /* as the paper writes it */
    case FASTLSTM_H1997: return 2 / (1 + exp(-x)) - 1;
    case FASTLSTM_AFFINE: return f.alpha * x + f.beta;
    case FASTLSTM_LEAKY_RELU: return x > 0 ? x : f.alpha * x;
    case FASTLSTM_THRESHOLDED_RELU: return x > f.alpha ? x : 0;
    case FASTLSTM_SCALED_TANH: return f.alpha * tanh(f.beta * x);
    case FASTLSTM_HARD_SIGMOID: return fmax(0, fmin(1, f.alpha * x + f.beta));
    case FASTLSTM_ELU: return f.beta * (x > 0 ? x : f.alpha * expm1(x));
    case FASTLSTM_SOFTSIGN: return x / (1 + fabs(x));
    case FASTLSTM_SOFTPLUS: return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    default: return x;
    }
}

/* The derivative, from the value: g = 4 s - 2 has 4 s (1 - s) = (4 - g^2) / 4, h = 2 s - 1 has (1 - h^2) / 2. */
static inline double slope(fastlstm_activation f, double y) {
    switch (f.kind) {
    case FASTLSTM_SIGMOID: return y * (1 - y);
    case FASTLSTM_TANH: return 1 - y * y;
    case FASTLSTM_RELU: return y > 0;
    case FASTLSTM_G1997: return (4 - y * y) / 4;
    case FASTLSTM_H1997: return (1 - y * y) / 2;
    case FASTLSTM_AFFINE: return f.alpha;
    case FASTLSTM_LEAKY_RELU: return y > 0 ? 1 : f.alpha;
    case FASTLSTM_THRESHOLDED_RELU: return y != 0;
    case FASTLSTM_SCALED_TANH: return f.beta * (f.alpha - y * y / f.alpha);
    case FASTLSTM_HARD_SIGMOID: return y > 0 && y < 1 ? f.alpha : 0;
    case FASTLSTM_ELU: return y > 0 ? f.beta : y + f.alpha * f.beta;
    case FASTLSTM_SOFTSIGN: return (1 - fabs(y)) * (1 - fabs(y));
    case FASTLSTM_SOFTPLUS: return -expm1(-y);
    default: return 1;
    }
}

/* Where the weight of a row and a source lies; sources: biases, x, h(t-1), gate activations(t-1). */
static inline ptrdiff_t weight_at(const shape *q, ptrdiff_t row, ptrdiff_t k) {
    if (k < q->biases) return (k ? q->l->bias_hh : q->l->bias_ih) + row;
    k -= q->biases;
    if (k < q->I) return q->l->weight_ih + row * q->I + k;
    k -= q->I;
    return k < q->P ? q->l->weight_hh + row * q->P + k : q->l->weight_gh + row * q->A + k - q->P;
}

/* Over the sources from..to. */
static inline double net_part(const shape *q, const double *w, const double *s, ptrdiff_t row, ptrdiff_t from, ptrdiff_t to) {
    double sum = 0;
    for (ptrdiff_t k = from; k < to; k++)
        sum += w[weight_at(q, row, k)] * s[k];
    return sum;
}

static inline double net_input(const shape *q, const double *w, const double *s, ptrdiff_t row) {
    return net_part(q, w, s, row, 0, q->M);
}

/* sum_v p[v] c[v] of a block; `gate` counts existing gates. */
static inline double peephole(const shape *q, const double *w, const double *c, ptrdiff_t gate, ptrdiff_t j) {
    double sum = 0;
    for (ptrdiff_t u = j * q->S; q->l->peepholes && u < (j + 1) * q->S; u++)
        sum += w[q->l->weight_peephole + gate * q->H + u] * c[u];
    return sum;
}

/* What a step of a lane leaves for its gradient: gates (J,), g, h(c) and c(t-1) (H,). */
typedef struct moment { double *i, *f, *o, *g, *hc, *before; } moment;

static inline moment moment_new(const shape *q) {
    return (moment){memory_zeros(q->J), memory_zeros(q->J), memory_zeros(q->J),
                    memory_zeros(q->H), memory_zeros(q->H), memory_zeros(q->H)};
}

/* One step of one lane: c, h and a from sources s (M,). With a projection, h is W_hr times the cells' outputs. */
static inline void ref_cell(const shape *q, const double *w, const double *s, double *h, double *c, double *a, const moment *to) {
    const fastlstm_layer *l = q->l;
    const int mark = memory_mark();
    double *out = l->proj_size ? memory_zeros(q->H) : h;
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
            out[u] = o * (to->hc[u] = activate(l->output_activation, c[u]));
        to->i[j] = i;
        to->f[j] = f;
        to->o[j] = o;
        if (q->A && q->i) a[j] = i;
        if (q->A && q->f) a[q->i * q->J + j] = f;
        if (q->A && q->o) a[(q->i + q->f) * q->J + j] = o;
    }
    for (ptrdiff_t p = 0; p < l->proj_size; p++) {
        h[p] = 0;
        for (ptrdiff_t u = 0; u < q->H; u++)
            h[p] += w[l->weight_hr + p * q->H + u] * out[u];
    }
    memory_release(mark);
}

/* The same of a GRU: the candidate's sum over h, which ends the sources, is apart from the others. */
static inline void ref_gru(const shape *q, const double *w, const double *s, double *h) {
    const fastlstm_layer *l = q->l;
    const int mark = memory_mark();
    const ptrdiff_t H = q->H, from = q->M - H, second = q->biases - (q->biases > 1); /* bias_hh goes with it */
    double *r = memory_zeros(H), *rs = memory_zeros(q->M);
    for (ptrdiff_t u = 0; u < H; u++) {
        r[u] = activate(l->gate_activation, net_input(q, w, s, u));
        rs[from + u] = r[u] * s[from + u];
    }
    for (ptrdiff_t u = 0; u < H; u++) {
        const double z = activate(l->gate_activation, net_input(q, w, s, H + u));
        const double by_x = net_part(q, w, s, 2 * H + u, 0, second) + net_part(q, w, s, 2 * H + u, q->biases, from);
        const double b = net_part(q, w, s, 2 * H + u, second, q->biases), by_h = net_part(q, w, l->reset_after ? s : rs, 2 * H + u, from, q->M);
        h[u] = z * s[from + u] + (1 - z) * activate(l->input_activation, by_x + (l->reset_after ? r[u] * (b + by_h) : b + by_h));
    }
    memory_release(mark);
}

static inline void gather_sources(const shape *q, double *s, const double *x, const double *h, const double *a) {
    for (ptrdiff_t k = 0; k < q->biases; k++)
        *s++ = 1;
    memcpy(s, x, (size_t)q->I * sizeof *s);
    if (!q->recurrent) return;
    memcpy(s + q->I, h, (size_t)q->P * sizeof *s);
    if (q->A) memcpy(s + q->I + q->P, a, (size_t)q->A * sizeof *s);
}

/* A step of any layer: its outputs y (P,), and its state h, c, a, from sources s (M,). */
static inline void ref_step(const shape *q, const double *w, const double *s, double *y, double *h, double *c, double *a, const moment *to) {
    const fastlstm_layer *l = q->l;
    if (l->kind == FASTLSTM_LSTM) ref_cell(q, w, s, h, c, a, to);
    else if (l->kind == FASTLSTM_GRU) ref_gru(q, w, s, h);
    else
        for (ptrdiff_t u = 0; u < q->H; u++)
            (q->recurrent ? h : y)[u] = activate(q->recurrent ? l->input_activation : l->output_activation, net_input(q, w, s, u));
    if (q->recurrent) memcpy(y, h, (size_t)q->P * sizeof *y);
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
static inline void fill_task(task *k, ptrdiff_t T, ptrdiff_t B, int lengths, int resets) {
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
        for (ptrdiff_t u = 0; u < q.l->proj_size * q.H; u++)
            k->w[q.l->weight_hr + u] = random_number(-(q.H > 2) - (q.H > 8) - (q.H > 32));
        if (!q.recurrent) continue;
        for (ptrdiff_t u = 0; u < B * (q.C ? q.C : q.P); u++) {
            if (u < B * q.P) k->state[q.l->state_h * B + u] = random_number(-1);
            if (q.C) k->state[q.l->state_c * B + u] = random_number(-1);
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

/* Of each row of inputs one to four that follow one another are left: with none a net input would lie at the kink of an activation. */
static inline void make_sparse(task *k) {
    const ptrdiff_t I = width_in(&k->m);
    for (ptrdiff_t row = 0; row < k->T * k->B; row++) {
        const ptrdiff_t left = 1 + random_below(4), first = random_below(I);
        for (ptrdiff_t j = 0; j < I; j++) /* unused rows are not numbers */
            if (k->x[row * I + j] == k->x[row * I + j] && (j + I - first) % I >= left) k->x[row * I + j] = 0;
    }
}

/* ---- The library's side of a task ---- */

static int subnormals; /* 1: what is zero becomes a subnormal of the same sign */

static inline void feed(int bits, void *a, ptrdiff_t at, double x) {
    real_put(bits, a, at, x == 0 && subnormals ? copysign(bits == 32 ? 1e-39 : 1e-309, x) : x);
}

static inline void *feed_all(int bits, const double *from, ptrdiff_t n) {
    void *a = real_new(bits, n);
    for (ptrdiff_t j = 0; j < n; j++)
        feed(bits, a, j, from[j]);
    return a;
}

/* Parameters -> packed, checked to be exact back. */
static inline void *pack(const net *m, const double *w, const fastlstm_engine *e) {
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
static inline void copy_lanes(const net *m, size_t real, void *to, ptrdiff_t to_lanes, ptrdiff_t to_lane, const void *from,
                       ptrdiff_t from_lanes, ptrdiff_t from_lane, ptrdiff_t lanes) {
    for (ptrdiff_t d = 0; d < m->n; d++) {
        const shape q = shape_of(m->l + d);
        const ptrdiff_t at[3] = {q.l->state_h, q.l->state_c, q.l->state_a}, n[3] = {q.P, q.C, q.A};
        for (int j = 0; j < 3 && q.recurrent; j++)
            if (n[j]) memcpy((char *)to + (at[j] * to_lanes + to_lane * n[j]) * (ptrdiff_t)real,
                   (const char *)from + (at[j] * from_lanes + from_lane * n[j]) * (ptrdiff_t)real, (size_t)(lanes * n[j]) * real);
    }
}

/* ---- Comparing ---- */

enum { OUTPUT, STATE, WEIGHT, GRADIENT, TRACE, LOSS, KINDS };
static const char *const kind_name[KINDS] = {"y", "state", "weights", "gradient", "traces", "loss"};
static double worst[2][KINDS];
/* A few times the worst errors of the tests' own cases. */
static const double allowed[2][KINDS] = {{2e-5, 2e-5, 1e-6, 2e-5, 1e-5, 1e-6}, {6e-14, 6e-14, 3e-15, 3e-14, 3e-14, 3e-15}};

/* |a - b| / (1 + |b|); places where the reference is NaN are unused. */
static inline void compare(int bits, int kind, const void *a, const double *b, ptrdiff_t n) {
    double most = 0;
    for (ptrdiff_t j = 0; j < n; j++) {
        const double error = fabs(real_get(bits, a, j) - b[j]) / (1 + fabs(b[j]));
        if (b[j] == b[j] && !(error <= most)) most = error == error ? error : INFINITY;
    }
    if (!(most <= worst[bits == 64][kind])) worst[bits == 64][kind] = most;
    if (!CHECK(most <= allowed[bits == 64][kind])) printf("     %s: f%d is off by %g\n", kind_name[kind], bits, most);
}

/* Prints the worst errors and a verdict; returns the program's status. */
static inline int report(const char *what, long cases) {
    for (int j = 0; j < KINDS; j++)
        if (worst[0][j] > 0) printf("largest error of %-8s f32 %.1e, f64 %.1e\n", kind_name[j], worst[0][j], worst[1][j]);
    printf("%s: %ld checks, %ld failures, %ld %s cases\n", check_failures ? "FAIL" : "ok", check_count, check_failures, cases, what);
    return check_failures != 0;
}

static inline int is_fused(const char *isa) { return strcmp(isa, "generic") != 0; }

static inline void describe(const char *what, const task *k, const char *isa, int bits) {
    const fastlstm_layer *l = k->m.l;
    snprintf(check_case, sizeof check_case,
             "%s %s f%d: %ld layers, first: kind %d gates %d peepholes %d recurrence %d after %d act %d %d %d clip %g I %ld H %ld S %ld P %ld; "
             "T %ld B %ld%s%s",
             what, isa, bits, (long)k->m.n, l->kind, l->gates, l->peepholes, l->gate_recurrence, l->reset_after, l->gate_activation.kind,
             l->input_activation.kind, l->output_activation.kind, l->clip, (long)l->input_size, (long)l->hidden_size, (long)l->block_size,
             (long)l->proj_size, (long)k->T, (long)k->B, k->lengths ? " lengths" : "", k->reset ? " resets" : "");
}

/* ---- Cases ---- */

static const int gate_sets[] = {IFO, 0, 1, 2, 3, 4, 5, 6, 1 | FASTLSTM_COUPLED_GATES, 1 | 4 | FASTLSTM_COUPLED_GATES};
static const ptrdiff_t block_sizes[] = {1, 2, 3, 5}, step_counts[] = {1, 2, 50, 70}, input_sizes[] = {1, 3, 17};
static const ptrdiff_t around_vectors[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17};
#define COUNT(array) ((ptrdiff_t)(sizeof(array) / sizeof *(array)))

/* The n-th of 160 combinations of switches; activations and clip by lot. */
static inline fastlstm_layer varied(ptrdiff_t n, ptrdiff_t I) {
    const ptrdiff_t S = block_sizes[n / 40 % COUNT(block_sizes)], J = around_vectors[random_below(S == 1 ? COUNT(around_vectors) : 6)];
    fastlstm_layer l = lstm(I, J * S, S, gate_sets[n % 10]);
    l.peepholes = n / 10 % 2;
    l.gate_recurrence = n / 20 % 2;
    if (n % 7 == 0) return l;
    l.gate_activation = activation(random_below(3) ? FASTLSTM_SIGMOID : (int)random_below(ACTIVATIONS));
    l.input_activation = activation((int)random_below(ACTIVATIONS));
    l.output_activation = activation((int)random_below(ACTIVATIONS));
    if (random_below(2) || l.gate_activation.kind != FASTLSTM_SIGMOID || l.gates != IFO) l.clip = 0.5 + (double)random_below(4) / 4;
    return l;
}

/* The n-th of the others: a GRU of either form, an RNN, or a projected LSTM, of H units. */
static inline fastlstm_layer another(ptrdiff_t n, ptrdiff_t I, ptrdiff_t H) {
    static const int bounded[] = {FASTLSTM_SIGMOID, FASTLSTM_HARD_SIGMOID, FASTLSTM_H1997, FASTLSTM_SOFTSIGN};
    if (n % 4 == 3) {
        fastlstm_layer l = n % 8 == 3 ? lstm(I, H, 1, IFO) : varied(random_below(160), I);
        l.proj_size = 1 + random_below(l.hidden_size);
        return l;
    }
    fastlstm_layer l = recurrent(n % 4 == 2 ? FASTLSTM_RNN : FASTLSTM_GRU, I, H, n % 4 == 1);
    if (n % 8 < 4) return l;
    l.gate_activation = activation(bounded[random_below(COUNT(bounded))]);
    l.input_activation = activation((int)random_below(ACTIVATIONS));
    return l;
}

#endif
