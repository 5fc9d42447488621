/* The public functions: arguments checked before anything is written, sizes multiplied with overflow checks, engines
   chosen. Nothing is computed here. */
#include <math.h>
#include <string.h>

#include "api.h"
#include "cpu.h"
#include "threads.h"

/* ---- Engines ---- */

static const struct {
    const fastlstm_engine *f32, *f64;
    int feature; /* 0: runs everywhere */
} engines[] = {
#ifdef FL_HAVE_AVX512
    {&fl_engine_avx512_f32, &fl_engine_avx512_f64, FL_CPU_AVX512},
#endif
#ifdef FL_HAVE_AVX2
    {&fl_engine_avx2_f32, &fl_engine_avx2_f64, FL_CPU_AVX2},
#endif
#ifdef FL_HAVE_NEON
    {&fl_engine_neon_f32, &fl_engine_neon_f64, FL_CPU_NEON},
#endif
    {&fl_engine_generic_f32, &fl_engine_generic_f64, 0},
};
enum { N_ENGINES = sizeof engines / sizeof engines[0] };

const char *fastlstm_isa_name(int i) {
    const int features = fl_cpu_features();
    if (i < 0) return NULL;
    for (int e = 0; e < N_ENGINES; e++)
        if (!engines[e].feature || engines[e].feature & features)
            if (i-- == 0) return engines[e].f32->isa;
    return NULL;
}

const fastlstm_engine *fastlstm_engine_select(const char *isa, int bits) {
    const int features = fl_cpu_features();
    if (bits != 32 && bits != 64) return NULL;
    for (int e = 0; e < N_ENGINES; e++)
        if ((!engines[e].feature || engines[e].feature & features) && (!isa || strcmp(isa, engines[e].f32->isa) == 0))
            return bits == 32 ? engines[e].f32 : engines[e].f64;
    return NULL;
}

const char *fastlstm_engine_isa(const fastlstm_engine *engine) { return engine->isa; }
int fastlstm_engine_bits(const fastlstm_engine *engine) { return engine->bits; }

const char *fastlstm_status_string(fastlstm_status status) {
    switch (status) {
    case FASTLSTM_OK: return "ok";
    case FASTLSTM_BAD_LAYER: return "a layer's sizes, switches or offsets contradict each other";
    case FASTLSTM_BAD_ARGUMENT: return "a count is not positive, a length or class is out of range, or a pointer is missing";
    case FASTLSTM_TOO_LARGE: return "a size does not fit into memory";
    case FASTLSTM_INTERRUPTED: return "interrupted";
    }
    return "unknown status";
}

/* ---- Checks ---- */

/* Sources of one kind whose products of bytes, at most 128 * 127 each, int32 can add up. */
enum { FL_MOST_BYTES = 1 << 17 };

/* Whether an array that exists reaches no further than the limit. */
static int fits(ptrdiff_t offset, ptrdiff_t size) {
    return size >= 0 && (offset == -1 || plus(offset, size) >= 0);
}

/* Whether a layer applies this activation at all, or its constants suit it. */
static int activation_good(const fastlstm_activation *a) {
    if (a->kind < FASTLSTM_SIGMOID || a->kind > FASTLSTM_SOFTPLUS || !isfinite(a->alpha) || !isfinite(a->beta)) return 0;
    switch (a->kind) {
    case FASTLSTM_LEAKY_RELU: return a->alpha >= 0;
    case FASTLSTM_SCALED_TANH: return a->alpha != 0;
    case FASTLSTM_ELU: return a->alpha >= 0 && a->beta > 0;
    default: return 1;
    }
}

static int is_rate(double value) { return value >= 0 && value < 1; }

static int is_switch(int32_t value) { return value == 0 || value == 1; }

/* Parameter rows of a recurrent layer's net inputs. */
static ptrdiff_t rows_of(const fastlstm_layer *l, const fl_geometry *q) {
    return l->kind == FASTLSTM_GRU ? 3 * q->H : q->gates * q->J + q->H;
}

static fastlstm_status layer_check(const fastlstm_layer *l) {
    const ptrdiff_t I = l->input_size, H = l->hidden_size, S = l->block_size;
    const int lstm = l->kind == FASTLSTM_LSTM;
    if (I <= 0 || H <= 0 || S <= 0 || l->proj_size < 0 || l->kind < FASTLSTM_LSTM || l->kind > FASTLSTM_RNN) return FASTLSTM_BAD_LAYER;
    if (I > FL_LIMIT || H > FL_LIMIT || S > FL_LIMIT) return FASTLSTM_TOO_LARGE;
    if (!activation_good(&l->gate_activation) || !activation_good(&l->input_activation) || !activation_good(&l->output_activation))
        return FASTLSTM_BAD_LAYER;
    if (l->weight_gh < -1 || l->bias_ih < -1 || l->bias_hh < -1 || l->weight_peephole < -1 || l->weight_hr < -1 || l->state_a < -1 ||
        !is_switch(l->peepholes) || !is_switch(l->gate_recurrence) || !is_switch(l->reverse) || !is_switch(l->reset_after))
        return FASTLSTM_BAD_LAYER;
    if (l->weights < FASTLSTM_NATIVE || l->weights > FASTLSTM_INT16) return FASTLSTM_BAD_LAYER;
    if (!is_rate(l->dropout) || !is_rate(l->recurrent_dropout) || !is_rate(l->zoneout_h) || !is_rate(l->zoneout_c) || l->stream < 0 ||
        (!lstm && l->zoneout_c > 0) || (l->kind == FASTLSTM_LINEAR && (l->recurrent_dropout > 0 || l->zoneout_h > 0)))
        return FASTLSTM_BAD_LAYER;
    if (!lstm && (S != 1 || l->peepholes || l->gate_recurrence || l->proj_size || l->weight_gh != -1 || l->weight_peephole != -1))
        return FASTLSTM_BAD_LAYER;
    if ((l->proj_size > 0) != (l->weight_hr >= 0) || l->proj_size > H || (l->reset_after && l->kind != FASTLSTM_GRU)) return FASTLSTM_BAD_LAYER;
    if (l->kind == FASTLSTM_LINEAR) {
        if (l->weights == FASTLSTM_INT8 && I > FL_MOST_BYTES) return FASTLSTM_TOO_LARGE;
        if (l->reverse || l->weight_ih < 0 || l->weight_hh != -1 || l->bias_hh != -1) return FASTLSTM_BAD_LAYER;
        if (times(times(H, I), 256) < 0 || !fits(l->weight_ih, times(H, I)) || !fits(l->bias_ih, H)) return FASTLSTM_TOO_LARGE;
        return FASTLSTM_OK;
    }
    if (lstm && ((S > 1 && H % S) || !(l->clip > 0) || l->gates < 0 || l->gates > 15 ||
                 ((l->gates & FASTLSTM_COUPLED_GATES) && ((l->gates & FASTLSTM_FORGET_GATE) || !(l->gates & FASTLSTM_INPUT_GATE)))))
        return FASTLSTM_BAD_LAYER;
    if (times(H, 4) < 0) return FASTLSTM_TOO_LARGE;
    const ptrdiff_t J = S == 1 ? H : H / S, gates = lstm ? (l->gates & 1) + (l->gates >> 1 & 1) + (l->gates >> 2 & 1) : 0;
    const ptrdiff_t rows = l->kind == FASTLSTM_GRU ? 3 * H : plus(times(gates, J), H), P = l->proj_size ? l->proj_size : H;
    const ptrdiff_t A = l->gate_recurrence ? gates * J : 0, sources = plus(plus(I, H), plus(A, 2));
    if (l->weights == FASTLSTM_INT8 && (I > FL_MOST_BYTES || H > FL_MOST_BYTES || A > FL_MOST_BYTES)) return FASTLSTM_TOO_LARGE;
    if (l->weight_ih < 0 || l->weight_hh < 0 || (l->weight_gh < 0) != (A == 0) || (l->weight_peephole < 0) != (!l->peepholes || !gates) ||
        (l->bias_hh >= 0 && l->bias_ih < 0) || l->state_h < 0 || (lstm && l->state_c < 0) || (A && l->state_a < 0))
        return FASTLSTM_BAD_LAYER;
    /* Packed weights, traces and factors of a layer are at most this, in bytes. */
    const ptrdiff_t blocks = plus(J, 16);
    if (times(times(times(blocks, plus(times(S, 3), 3)), sources), 16) < 0 || times(times(times(S, S), blocks), 16) < 0 ||
        times(times(plus(H, 16), plus(H, 16)), 16) < 0)
        return FASTLSTM_TOO_LARGE;
    if (!fits(l->weight_ih, times(rows, I)) || !fits(l->weight_hh, times(rows, P)) || !fits(l->weight_gh, times(rows, A)) ||
        !fits(l->weight_hr, times(P, H)) || !fits(l->bias_ih, rows) || !fits(l->bias_hh, rows) || !fits(l->weight_peephole, times(gates, H)) ||
        !fits(l->state_h, P) || (lstm && !fits(l->state_c, H)) || !fits(l->state_a, A))
        return FASTLSTM_TOO_LARGE;
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_net_check(const fastlstm_layer *layers, ptrdiff_t n_layers) {
    ptrdiff_t width = -1, total = 0;
    if (!layers || n_layers <= 0) return FASTLSTM_BAD_ARGUMENT;
    if (n_layers > 1 << 20) return FASTLSTM_TOO_LARGE;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fastlstm_layer *l = layers + i;
        const fastlstm_status status = layer_check(l);
        if (status) return status;
        if (l->reverse) { /* the backward half of the layer before it */
            if (i == 0 || l[-1].reverse || l[-1].kind == FASTLSTM_LINEAR || l[-1].input_size != l->input_size) return FASTLSTM_BAD_LAYER;
            width = plus(outputs_of(l - 1), outputs_of(l));
        } else {
            if (width >= 0 && l->input_size != width) return FASTLSTM_BAD_LAYER;
            width = outputs_of(l);
        }
        total = plus(total, times(fl_layer_geometry(l, 16).packed, 64));
        if (total < 0 || width < 0) return FASTLSTM_TOO_LARGE;
    }
    return FASTLSTM_OK;
}

fastlstm_status fl_engine_check(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n) {
    const fastlstm_status status = fastlstm_net_check(layers, n);
    if (status) return status;
    if (!engine) return FASTLSTM_BAD_ARGUMENT;
    return engine->bits == 64 && any_compact(layers, n) ? FASTLSTM_BAD_LAYER : FASTLSTM_OK;
}

/* Elements of the state of a checked network; -1 if they do not fit. */
static ptrdiff_t state_size(const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t lanes) {
    ptrdiff_t size = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fastlstm_layer *l = layers + i;
        const fl_geometry q = fl_layer_geometry(l, 1);
        if (l->kind == FASTLSTM_LINEAR) continue;
        size = FL_MAX(size, l->state_h + q.P);
        if (l->kind == FASTLSTM_LSTM) size = FL_MAX(size, l->state_c + q.H);
        if (q.A) size = FL_MAX(size, l->state_a + q.A);
    }
    return times(times(size, lanes), 8) < 0 ? -1 : size * lanes;
}

/* Of a checked network. */
int fl_counts_fit(const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes) {
    ptrdiff_t total = 0;
    if (lanes <= 0 || state_size(layers, n, lanes) < 0) return 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, 16);
        total = plus(total, plus(plus(times(q.groups, q.trace), plus(times(q.groups, q.factors), q.acts)), q.M + 8 * q.H + 64 + 16 * q.G));
    }
    const ptrdiff_t rows = times(steps, lanes);
    return times(times(total, lanes), 64) >= 0 && (!any_reverse(layers, n) || times(times(total, rows), 64) >= 0) && rows >= 0;
}

/* ---- Sizes ---- */

ptrdiff_t fastlstm_params_size(const fastlstm_layer *layers, ptrdiff_t n_layers) {
    ptrdiff_t size = 0;
    if (fastlstm_net_check(layers, n_layers)) return -1;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fastlstm_layer *l = layers + i;
        const fl_geometry q = fl_layer_geometry(l, 1);
        const ptrdiff_t rows = rows_of(l, &q);
        size = FL_MAX(size, l->weight_ih + rows * q.I);
        if (l->weight_hh >= 0) size = FL_MAX(size, l->weight_hh + rows * q.P);
        if (l->weight_hr >= 0) size = FL_MAX(size, l->weight_hr + q.P * q.H);
        if (l->weight_gh >= 0) size = FL_MAX(size, l->weight_gh + rows * q.A);
        if (l->bias_ih >= 0) size = FL_MAX(size, l->bias_ih + rows);
        if (l->bias_hh >= 0) size = FL_MAX(size, l->bias_hh + rows);
        if (l->weight_peephole >= 0) size = FL_MAX(size, l->weight_peephole + q.gates * q.H);
    }
    return size;
}

ptrdiff_t fastlstm_state_size(const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes) {
    return fastlstm_net_check(layers, n_layers) || lanes <= 0 ? -1 : state_size(layers, n_layers, lanes);
}

ptrdiff_t fastlstm_packed_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers) {
    ptrdiff_t size = 0;
    if (fl_engine_check(engine, layers, n_layers)) return -1;
    for (ptrdiff_t i = 0; i < n_layers; i++)
        size += fl_layer_geometry(layers + i, engine->vw).packed;
    return size;
}

static ptrdiff_t forward_scratch(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes) {
    if (steps <= 0 || lanes <= 0 || !fl_counts_fit(layers, n, steps, lanes)) return -1;
    const ptrdiff_t real = engine->bits / 8;
    return (fl_plan_forward(layers, n, steps, lanes, engine->vw, real).size + real - 1) / real;
}

ptrdiff_t fastlstm_forward_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                        ptrdiff_t steps, ptrdiff_t lanes) {
    return fl_engine_check(engine, layers, n_layers) ? -1 : forward_scratch(engine, layers, n_layers, steps, lanes);
}

ptrdiff_t fastlstm_trace_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes) {
    ptrdiff_t size = 0;
    if (fl_engine_check(engine, layers, n_layers) || any_compact(layers, n_layers) || lanes <= 0 || !fl_counts_fit(layers, n_layers, 1, lanes)) return -1;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, engine->vw);
        if (layers[i].kind == FASTLSTM_LSTM) size += lanes * q.groups * q.trace;
    }
    return size;
}

ptrdiff_t fastlstm_trace_canonical_size(const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes) {
    ptrdiff_t size = 0;
    if (fastlstm_net_check(layers, n_layers) || lanes <= 0 || !fl_counts_fit(layers, n_layers, 1, lanes)) return -1;
    for (ptrdiff_t i = 0; i < n_layers; i++)
        if (layers[i].kind == FASTLSTM_LSTM) size += lanes * fl_layer_geometry(layers + i, 1).trace * fl_layer_geometry(layers + i, 1).J;
    return size;
}

ptrdiff_t fastlstm_learner_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes) {
    if (fl_engine_check(engine, layers, n_layers) || any_compact(layers, n_layers) || lanes <= 0 || !fl_counts_fit(layers, n_layers, 1, lanes)) return -1;
    const ptrdiff_t real = engine->bits / 8;
    return (fl_plan_learn(layers, n_layers, lanes, engine->vw, real).size + real - 1) / real;
}

/* ---- Calls ---- */

/* Whether the elements of a parameter matrix fit into the layer's compact weights. */
static int compact_fits(const fastlstm_layer *l, const float *w, ptrdiff_t count) {
    int good = 1;
    for (ptrdiff_t k = 0; k < count; k++) {
        const float size = fabsf(w[k]);
        good &= fl_in_word(l->weights) ? size <= 0x1p126f : !(size > 65504) || size == INFINITY;
    }
    return good;
}

static int weights_fit(const fastlstm_layer *l, const float *params) {
    const fl_geometry q = fl_layer_geometry(l, 1);
    const ptrdiff_t rows = rows_of(l, &q);
    return l->weights == FASTLSTM_NATIVE ||
           (compact_fits(l, params + l->weight_ih, rows * q.I) && (l->kind == FASTLSTM_LINEAR || compact_fits(l, params + l->weight_hh, rows * q.P)) &&
            (!q.A || compact_fits(l, params + l->weight_gh, rows * q.A)) && (!l->proj_size || compact_fits(l, params + l->weight_hr, q.P * q.H)));
}

fastlstm_status fastlstm_pack(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *params, void *packed) {
    const fastlstm_status status = fl_engine_check(engine, layers, n_layers);
    if (status) return status;
    if (!params || !packed) return FASTLSTM_BAD_ARGUMENT;
    for (ptrdiff_t i = 0; i < n_layers; i++)
        if (!weights_fit(layers + i, (const float *)params)) return FASTLSTM_BAD_ARGUMENT;
    engine->pack(layers, n_layers, params, packed);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_unpack(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed, void *params) {
    const fastlstm_status status = fl_engine_check(engine, layers, n_layers);
    if (status) return status;
    if (!params || !packed) return FASTLSTM_BAD_ARGUMENT;
    engine->unpack(layers, n_layers, packed, params);
    return FASTLSTM_OK;
}

void fl_prepare(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed, ptrdiff_t steps,
                    ptrdiff_t lanes, void *scratch) {
    engine->prepare(engine, layers, n_layers, packed, steps, lanes, scratch);
}

fastlstm_status fastlstm_prepare(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                 ptrdiff_t steps, ptrdiff_t lanes, void *scratch) {
    const fastlstm_status status = fl_engine_check(engine, layers, n_layers);
    if (status) return status;
    if (!packed || !scratch || steps <= 0 || lanes <= 0) return FASTLSTM_BAD_ARGUMENT;
    if (!fl_counts_fit(layers, n_layers, steps, lanes)) return FASTLSTM_TOO_LARGE;
    fl_prepare(engine, layers, n_layers, packed, steps, lanes, scratch);
    return FASTLSTM_OK;
}

static fastlstm_status batch_check(const fastlstm_batch *batch, ptrdiff_t lanes) {
    if (!batch || !(batch->x || batch->xs) || !batch->y || !batch->state || batch->steps <= 0 || lanes <= 0 || batch->lanes != lanes)
        return FASTLSTM_BAD_ARGUMENT;
    if (batch->xs)
        for (ptrdiff_t b = 0; b < batch->lanes; b++)
            if (!batch->xs[b]) return FASTLSTM_BAD_ARGUMENT;
    if (batch->lengths)
        for (ptrdiff_t b = 0; b < batch->lanes; b++)
            if (batch->lengths[b] < 0 || batch->lengths[b] > batch->steps) return FASTLSTM_BAD_ARGUMENT;
    if (batch->starts)
        for (ptrdiff_t b = 0; b < batch->lanes; b++)
            if (batch->starts[b] < 0 || batch->starts[b] > FL_LIMIT) return FASTLSTM_BAD_ARGUMENT;
    return FASTLSTM_OK;
}

/* Sizes before anything is read that they count. */
static fastlstm_status whole_batch_check(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                         const fastlstm_batch *batch) {
    const fastlstm_status status = fl_engine_check(engine, layers, n_layers);
    if (status) return status;
    if (!batch || batch->steps <= 0 || batch->lanes <= 0) return FASTLSTM_BAD_ARGUMENT;
    return fl_counts_fit(layers, n_layers, batch->steps, batch->lanes) ? batch_check(batch, batch->lanes) : FASTLSTM_TOO_LARGE;
}

fastlstm_status fastlstm_run(void *scratch, const fastlstm_batch *batch, fastlstm_poll poll, void *context) {
    if (!scratch) return FASTLSTM_BAD_ARGUMENT;
    const fl_runner_head *head = (const fl_runner_head *)scratch;
    const fastlstm_status status = batch_check(batch, head->lanes);
    if (status) return status;
    if (head->longest && batch->steps > head->longest) return FASTLSTM_BAD_ARGUMENT;
    return head->engine->run(scratch, batch, NULL, poll, context);
}

fastlstm_status fastlstm_forward(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                 const fastlstm_batch *batch, void *scratch, fastlstm_poll poll, void *context) {
    fastlstm_status status = whole_batch_check(engine, layers, n_layers, batch);
    if (!status) status = fastlstm_prepare(engine, layers, n_layers, packed, batch->steps, batch->lanes, scratch);
    return status ? status : engine->run(scratch, batch, NULL, poll, context);
}

/* ---- Several threads ---- */

/* Gate activations, the sources of a second product in a step and what noise needs are in each thread's own memory: units
   of layers without them can be divided. */
static int units_divide(const fastlstm_layer *layers, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, 1);
        if (q.A || q.has_tail || q.has_noise) return 0;
    }
    return 1;
}

int fastlstm_divide(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t steps, ptrdiff_t lanes,
                    int threads, int *by_units) {
    ptrdiff_t work = 0, largest = 0;
    *by_units = 0;
    if (threads <= 1 || fl_engine_check(engine, layers, n_layers) || steps <= 0 || lanes <= 0) return 1;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const ptrdiff_t weights = fl_layer_geometry(layers + i, engine->vw).packed;
        work = plus(work, times(times(weights, steps), lanes));
        largest = FL_MAX(largest, weights);
    }
    const ptrdiff_t meeting = times(largest, lanes);
    if (work >= 0 && work < FL_CALL_WORK) return 1;
    /* One lane has nothing else to divide; of large layers each core then keeps its part of the weights in its own cache. */
    *by_units = units_divide(layers, n_layers) && (meeting < 0 || meeting >= FL_MEETING_WORK) && (lanes < threads || largest >= FL_LARGE_LAYER);
    return *by_units || threads <= lanes ? threads : (int)lanes;
}

/* Scratch of a divided call of a checked network: room for the order of lanes, then the same for each thread. */
typedef struct fl_room {
    ptrdiff_t order, each; /* elements; each is -1 if the division is impossible or its size does not fit */
} fl_room;

static fl_room room_for(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes,
                        int threads, int by_units) {
    const fl_room none = {0, -1};
    if (threads < 1 || threads > FL_MOST_THREADS || by_units < 0 || by_units > 1 || (!by_units && threads > lanes)) return none;
    /* Shares of lanes differ by one, and fewer lanes may need more: they look further ahead. */
    const ptrdiff_t parts = by_units ? 1 : threads;
    const ptrdiff_t less = forward_scratch(engine, layers, n, steps, lanes / parts);
    const ptrdiff_t more = lanes % parts ? forward_scratch(engine, layers, n, steps, lanes / parts + 1) : less;
    if (less < 0 || more < 0 || (by_units && !units_divide(layers, n))) return none;
    const ptrdiff_t real = engine->bits / 8, order = times(lanes, (ptrdiff_t)sizeof(ptrdiff_t)) / real;
    const fl_room room = {(order + 15) / 16 * 16, (FL_MAX(less, more) + 15) / 16 * 16};
    return order < 0 || times(plus(room.order, times(room.each, threads)), real) < 0 ? none : room;
}

/* A call as its threads see it. */
typedef struct fl_call {
    const fastlstm_engine *engine;
    const fastlstm_layer *layers;
    const void *packed;
    const fastlstm_batch *batch;
    const ptrdiff_t *order;
    char *scratch;
    ptrdiff_t n_layers, scratch_bytes; /* of one thread */
    int threads;
    fl_barrier *barrier;
    void *tape; /* or NULL */
    volatile int stop; /* the caller's poll asked to; a stale value only delays the others by one poll */
    fastlstm_poll poll;
    void *context;
} fl_call;

static int poll_shared(void *context) {
    fl_call *call = (fl_call *)context;
    if (call->poll && call->poll(call->context)) call->stop = 1;
    return call->stop;
}

static int poll_stop(void *context) { return ((fl_call *)context)->stop; }

static void run_share(void *context, int part, int parts) {
    fl_call *call = (fl_call *)context;
    fl_share share = {part, call->threads, call->order, call->barrier, call->scratch};
    const fastlstm_poll poll = part == 0 ? poll_shared : call->barrier ? NULL : poll_stop;
    if (call->barrier) {
        if (parts == call->threads) call->engine->run(call->scratch + part * call->scratch_bytes, call->batch, &share, poll, call);
        else if (part == 0) call->engine->run(call->scratch, call->batch, NULL, poll, call); /* not all threads came */
        return;
    }
    for (; share.part < call->threads; share.part += parts) {
        void *scratch = call->scratch + share.part * call->scratch_bytes;
        fl_prepare(call->engine, call->layers, call->n_layers, call->packed, call->batch->steps,
                fl_share_lanes(call->batch->lanes, share.part, share.parts), scratch);
        ((fl_runner_head *)scratch)->tape = call->tape;
        call->engine->run(scratch, call->batch, &share, poll, call);
    }
}

ptrdiff_t fastlstm_parallel_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                         ptrdiff_t steps, ptrdiff_t lanes, int threads, int by_units) {
    if (fl_engine_check(engine, layers, n_layers)) return -1;
    const fl_room room = room_for(engine, layers, n_layers, steps, lanes, threads, by_units);
    return room.each < 0 ? -1 : room.order + room.each * threads;
}

fastlstm_status fl_forward_on_tape(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                       const fastlstm_batch *batch, void *scratch, int threads, int by_units, void *tape, fastlstm_poll poll,
                                       void *context) {
    const fastlstm_status status = whole_batch_check(engine, layers, n_layers, batch);
    if (status) return status;
    if (!packed || !scratch || threads < 1 || threads > FL_MOST_THREADS || by_units < 0 || by_units > 1 ||
        (by_units ? !units_divide(layers, n_layers) : threads > batch->lanes))
        return FASTLSTM_BAD_ARGUMENT;
    const fl_room room = room_for(engine, layers, n_layers, batch->steps, batch->lanes, threads, by_units);
    if (room.each < 0) return FASTLSTM_TOO_LARGE;
    const ptrdiff_t real = engine->bits / 8;
    fl_barrier barrier = {.parts = threads};
    fl_call call = {.engine = engine, .layers = layers, .packed = packed, .batch = batch, .n_layers = n_layers, .threads = threads,
                    .scratch = (char *)scratch + room.order * real, .scratch_bytes = room.each * real,
                    .barrier = by_units && threads > 1 ? &barrier : NULL, .tape = tape, .poll = poll, .context = context};
    if (!call.barrier && batch->lengths) {
        fl_sort_lanes((ptrdiff_t *)scratch, batch->lengths, batch->lanes);
        call.order = (const ptrdiff_t *)scratch;
    }
    for (int part = 0; call.barrier && part < threads; part++) {
        fl_prepare(engine, layers, n_layers, packed, batch->steps, batch->lanes, call.scratch + part * call.scratch_bytes);
        ((fl_runner_head *)(call.scratch + part * call.scratch_bytes))->tape = tape;
    }
    fl_parallel(threads, run_share, &call);
    return call.stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

fastlstm_status fastlstm_forward_parallel(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                          const fastlstm_batch *batch, void *scratch, int threads, int by_units, fastlstm_poll poll,
                                          void *context) {
    return fl_forward_on_tape(engine, layers, n_layers, packed, batch, scratch, threads, by_units, NULL, poll, context);
}

/* ---- Training: forward on a tape, and back ---- */

/* Directions of the layer that starts at l, of n left. */
static ptrdiff_t directions(const fastlstm_layer *l, ptrdiff_t n) { return n > 1 && l[1].reverse ? 2 : 1; }

static ptrdiff_t width_of(const fastlstm_layer *l, ptrdiff_t n) { return outputs_of(l) + (directions(l, n) == 2 ? outputs_of(l + 1) : 0); }

/* The tape of a layer: what its directions save, then its outputs (T, B, width). */
static ptrdiff_t tape_of(const fastlstm_engine *engine, const fastlstm_layer *l, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes) {
    ptrdiff_t size = 0;
    for (ptrdiff_t d = 0; d < directions(l, n); d++) {
        const fl_geometry q = fl_layer_geometry(l + d, engine->vw);
        size += fl_tape_size(&q, steps, lanes);
    }
    return rounded(size);
}

int fl_training_fits(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes) {
    if (!engine || fastlstm_net_check(layers, n) || any_compact(layers, n) || steps <= 0 || lanes <= 0 || !fl_counts_fit(layers, n, steps, lanes)) return 0;
    ptrdiff_t total = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, engine->vw);
        total = plus(total, plus(plus(times(q.acts, 2), times(q.I, 4)), plus(times(q.H, 4), times(q.A, 4))));
        if (times(times(plus(plus(q.I, q.H), plus(q.A, 64)), times(q.groups, q.G * engine->vw)), 64) < 0) return 0;
    }
    return times(times(times(plus(total, 64), steps), lanes), 64) >= 0;
}

ptrdiff_t fastlstm_tape_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t steps, ptrdiff_t lanes) {
    ptrdiff_t size = 0;
    if (!fl_training_fits(engine, layers, n_layers, steps, lanes)) return -1;
    for (ptrdiff_t i = 0; i < n_layers; i += directions(layers + i, n_layers - i))
        size += tape_of(engine, layers + i, n_layers - i, steps, lanes) + rounded(steps * lanes * width_of(layers + i, n_layers - i));
    return size;
}

/* The scratch of either training call, in bytes: a layer's, the errors between two layers (they take turns), lists. */
typedef struct fl_training_room {
    ptrdiff_t errors[2], rows, order, filled;
    ptrdiff_t size; /* -1 if it does not fit */
} fl_training_room;

static fl_training_room training_room(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps,
                                      ptrdiff_t lanes, int threads) {
    const fl_training_room none = {{0, 0}, 0, 0, 0, -1};
    fl_training_room room = {{0, 0}, 0, 0, 0, 0};
    ptrdiff_t width = 0;
    if (threads < 1 || threads > FL_MOST_THREADS || !fl_training_fits(engine, layers, n, steps, lanes)) return none;
    const ptrdiff_t real = engine->bits / 8, pointer = (ptrdiff_t)sizeof(ptrdiff_t);
    for (ptrdiff_t i = 0, d; i < n; i += d) {
        d = directions(layers + i, n - i);
        int by_units = 0;
        const int parts = fastlstm_divide(engine, layers + i, d, steps, lanes, threads, &by_units);
        const fl_room share = room_for(engine, layers + i, d, steps, lanes, parts, by_units);
        const ptrdiff_t forward = share.each < 0 ? -1 : times(plus(share.order, times(share.each, parts)), real);
        if (forward < 0) return none;
        room.size = FL_MAX(room.size, forward);
        for (ptrdiff_t j = i; j < i + d; j++) {
            const fl_back_plan plan = fl_plan_back(layers + j, lanes, engine->vw, real);
            const ptrdiff_t back = plus(plan.own, times(plan.each, threads));
            if (back < 0) return none;
            room.size = FL_MAX(room.size, back);
        }
        if (i > 0) width = FL_MAX(width, layers[i].input_size);
    }
    const ptrdiff_t errors = times(times(times(steps, lanes), width), real), rows = times(times(steps, lanes), pointer);
    const ptrdiff_t filled = layers[0].input_size < FL_SPARSE_INPUTS ? 0 : fl_filled_size(steps * lanes); /* tapes are larger */
    if (plus(plus(plus(room.size, times(2, errors)), plus(rows, times(lanes, pointer))), filled) < 0) return none;
    room.errors[0] = fl_take(&room.size, errors);
    room.errors[1] = fl_take(&room.size, errors);
    room.rows = fl_take(&room.size, rows);
    room.order = fl_take(&room.size, lanes * pointer);
    room.filled = fl_take(&room.size, filled);
    return room;
}

ptrdiff_t fastlstm_training_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t steps,
                                         ptrdiff_t lanes, int threads) {
    const ptrdiff_t size = training_room(engine, layers, n_layers, steps, lanes, threads).size;
    return size < 0 ? -1 : size / (engine->bits / 8);
}

static fastlstm_status training_check(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, const fastlstm_batch *batch,
                                      const void *const *pointers, int n_pointers, int threads, fl_training_room *room) {
    const fastlstm_status status = whole_batch_check(engine, layers, n, batch);
    if (status) return status;
    for (int j = 0; j < n_pointers; j++)
        if (!pointers[j]) return FASTLSTM_BAD_ARGUMENT;
    if (any_compact(layers, n)) return FASTLSTM_BAD_LAYER;
    if (threads < 1 || threads > FL_MOST_THREADS || batch->starts || batch->xs || batch->first_step < 0) return FASTLSTM_BAD_ARGUMENT;
    if (times(plus(batch->first_step, batch->steps), batch->lanes) < 0) return FASTLSTM_TOO_LARGE;
    *room = training_room(engine, layers, n, batch->steps, batch->lanes, threads);
    return room->size < 0 ? FASTLSTM_TOO_LARGE : FASTLSTM_OK;
}

fastlstm_status fastlstm_training_forward(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                          const fastlstm_batch *batch, void *tape, void *scratch, int threads, fastlstm_poll poll, void *context) {
    const void *const pointers[] = {packed, tape, scratch};
    fl_training_room room;
    fastlstm_status status = training_check(engine, layers, n_layers, batch, pointers, 3, threads, &room);
    const ptrdiff_t real = status ? 0 : engine->bits / 8;
    fastlstm_batch one = status ? (fastlstm_batch){0} : *batch;
    char *at = (char *)tape;
    const char *weights = (const char *)packed;
    for (ptrdiff_t i = 0, d; i < n_layers && !status; i += d) {
        d = directions(layers + i, n_layers - i);
        const ptrdiff_t width = width_of(layers + i, n_layers - i);
        char *y = at + tape_of(engine, layers + i, n_layers - i, batch->steps, batch->lanes) * real;
        int by_units = 0;
        const int parts = fastlstm_divide(engine, layers + i, d, batch->steps, batch->lanes, threads, &by_units);
        one.y = y;
        one.y_step = batch->lanes * width;
        one.y_lane = width;
        status = fl_forward_on_tape(engine, layers + i, d, weights, &one, scratch, parts, by_units, at, poll, context);
        one.x = one.y;
        one.x_step = one.y_step;
        one.x_lane = one.y_lane;
        at = y + rounded(batch->steps * batch->lanes * width) * real;
        weights += fastlstm_packed_size(engine, layers + i, d) * real;
    }
    if (status) return status;
    const int alike = batch->y_step == one.y_step && batch->y_lane == one.y_lane;
    const ptrdiff_t copies = alike ? 1 : batch->steps * batch->lanes, width = alike ? batch->steps * one.y_step : one.y_lane;
    for (ptrdiff_t j = 0; j < copies; j++) {
        const ptrdiff_t t = j / batch->lanes, b = j % batch->lanes;
        memcpy((char *)batch->y + (t * batch->y_step + b * batch->y_lane) * real, (const char *)one.y + (t * one.y_step + b * one.y_lane) * real,
               (size_t)(width * real));
    }
    return FASTLSTM_OK;
}

typedef struct fl_back_call {
    const fastlstm_engine *engine;
    const fl_back *b;
    int phase, threads;
    volatile int stop;
    fastlstm_poll poll;
    void *context;
} fl_back_call;

static int poll_back(void *context) {
    fl_back_call *call = (fl_back_call *)context;
    if (call->poll && call->poll(call->context)) call->stop = 1;
    return call->stop;
}

static int poll_back_stop(void *context) { return ((fl_back_call *)context)->stop; }

static void run_back(void *context, int part, int parts) {
    fl_back_call *call = (fl_back_call *)context;
    for (; part < call->threads; part += parts)
        if (call->engine->backward(call->b, call->phase, part, call->threads, part == 0 ? poll_back : poll_back_stop, call)) call->stop = 1;
}

fastlstm_status fastlstm_backward(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                  const fastlstm_batch *batch, const void *state, void *tape, const void *dy, void *dx, void *dstate, int need_dstate,
                                  void *gradient, int add, void *scratch, int threads, fastlstm_poll poll, void *context) {
    const void *const pointers[] = {packed, state, tape, dy, dstate, gradient, scratch};
    fl_training_room room;
    const fastlstm_status status = training_check(engine, layers, n_layers, batch, pointers, 7, threads, &room);
    if (status) return status;
    const ptrdiff_t real = engine->bits / 8, T = batch->steps, B = batch->lanes;
    char *errors[2] = {(char *)scratch + room.errors[0], (char *)scratch + room.errors[1]};
    ptrdiff_t *rows = (ptrdiff_t *)((char *)scratch + room.rows), *order = (ptrdiff_t *)((char *)scratch + room.order), n_rows = 0;
    for (ptrdiff_t t = 0; t < T; t++)
        for (ptrdiff_t b = 0; b < B; b++)
            if (!batch->lengths || t < batch->lengths[b]) rows[n_rows++] = t * B + b;
    if (!n_rows) return FASTLSTM_BAD_ARGUMENT;
    if (batch->lengths) fl_sort_lanes(order, batch->lengths, B);

    /* From the last layer to the first; where each begins on the tape and among the weights is found by walking there. */
    const char *layer_dy = (const char *)dy;
    ptrdiff_t dy_step = batch->y_step, dy_lane = batch->y_lane;
    fl_back_call call = {.engine = engine, .threads = threads, .poll = poll, .context = context};
    for (ptrdiff_t end = n_layers, turn = 0; end > 0 && !call.stop; turn ^= 1) {
        const ptrdiff_t d = layers[end - 1].reverse ? 2 : 1, i = end - d;
        char *at = (char *)tape;
        const char *x = (const char *)batch->x;
        ptrdiff_t x_step = batch->x_step, x_lane = batch->x_lane, weights = 0;
        for (ptrdiff_t j = 0, more; j < i; j += more) {
            more = directions(layers + j, n_layers - j);
            const ptrdiff_t wide = width_of(layers + j, n_layers - j);
            x = at + tape_of(engine, layers + j, n_layers - j, T, B) * real;
            x_step = B * wide;
            x_lane = wide;
            at = (char *)x + rounded(T * B * wide) * real;
            weights += fastlstm_packed_size(engine, layers + j, more);
        }
        const ptrdiff_t wide = width_of(layers + i, n_layers - i), inputs = layers[i].input_size;
        char *y = at + tape_of(engine, layers + i, n_layers - i, T, B) * real, *layer_dx = i ? errors[turn] : (char *)dx;
        const ptrdiff_t dx_step = i ? B * inputs : batch->x_step, dx_lane = i ? inputs : batch->x_lane;
        for (ptrdiff_t t = 0; layer_dx && batch->lengths && t < T; t++) /* padding */
            for (ptrdiff_t b = 0; b < B; b++)
                if (t >= batch->lengths[b]) memset(layer_dx + (t * dx_step + b * dx_lane) * real, 0, (size_t)(inputs * real));
        for (ptrdiff_t j = 0, column = 0; j < d && !call.stop; j++) {
            const fl_geometry q = fl_layer_geometry(layers + i + j, engine->vw);
            const fl_back back = {
                .l = layers + i + j, .packed = (char *)packed + weights * real, .batch = batch,
                .x = x, .y = y + column * real, .dy = layer_dy + column * real, .dx = layer_dx,
                .x_step = x_step, .x_lane = x_lane, .y_step = B * wide, .y_lane = wide, .dy_step = dy_step, .dy_lane = dy_lane,
                .dx_step = dx_step, .dx_lane = dx_lane, .add_dx = j > 0, .state = state, .dstate = dstate, .need_dh = need_dstate, .tape = at,
                .gradient = gradient, .add_gradient = add, .rows = rows, .n_rows = n_rows, .order = batch->lengths ? order : NULL,
                .filled = i || inputs < FL_SPARSE_INPUTS ? NULL : (char *)scratch + room.filled,
                .scratch = scratch, .plan = fl_plan_back(layers + i + j, B, engine->vw, real)};
            memset((char *)scratch + back.plan.zeros, 0, (size_t)(FL_MAX(q.H, q.A) * real));
            const ptrdiff_t work = times(times(q.packed, T), B);
            call.b = &back;
            call.threads = work >= 0 && work < FL_CALL_WORK ? 1 : threads;
            for (call.phase = 0; call.phase < 3 && !call.stop; call.phase++) /* phase 1 divides lanes */
                fl_parallel(call.phase == 1 && B < call.threads ? (int)B : call.threads, run_back, &call);
            column += q.P;
            weights += q.packed;
            at += fl_tape_size(&q, T, B) * real;
        }
        layer_dy = layer_dx;
        dy_step = dx_step;
        dy_lane = dx_lane;
        end = i;
    }
    return call.stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

fastlstm_status fastlstm_trace_convert(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes,
                                       void *packed, void *canonical, int back) {
    const fastlstm_status status = fastlstm_net_check(layers, n_layers);
    if (status) return status;
    if (!engine || !packed || !canonical || lanes <= 0) return FASTLSTM_BAD_ARGUMENT;
    if (!fl_counts_fit(layers, n_layers, 1, lanes)) return FASTLSTM_TOO_LARGE;
    engine->trace_convert(layers, n_layers, lanes, packed, canonical, back);
    return FASTLSTM_OK;
}

static fastlstm_status learner_check(const fastlstm_learner *m) {
    if (!m || !m->engine || m->pending < 0 || m->pending > FL_LIMIT || (m->momentum != 0 && m->update && !m->velocity)) return FASTLSTM_BAD_ARGUMENT;
    if (m->prepared) return FASTLSTM_OK;
    const fastlstm_status status = fastlstm_net_check(m->layers, m->n_layers);
    if (status) return status;
    if (any_reverse(m->layers, m->n_layers) || any_compact(m->layers, m->n_layers) || !fl_all_traced(m->layers, m->n_layers)) return FASTLSTM_BAD_LAYER;
    if (!m->weights || !m->traces || !m->state || !m->scratch || m->lanes <= 0 || m->chunk < 0 || m->loss < FASTLSTM_NO_LOSS ||
        m->loss > FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS || (!m->gradient && !(m->update && m->chunk == 1)) || (m->lazy && !(m->update && m->chunk == 1)))
        return FASTLSTM_BAD_ARGUMENT;
    return fl_counts_fit(m->layers, m->n_layers, 1, m->lanes) ? FASTLSTM_OK : FASTLSTM_TOO_LARGE;
}

/* After all checks of a call: lay out the scratch, once. */
static void learner_prepare(fastlstm_learner *m) {
    if (!m->prepared) m->engine->learner_prepare(m);
    m->prepared = 1;
}

fastlstm_status fl_targets_check(int loss, const void *targets, ptrdiff_t count, ptrdiff_t O) {
    const int64_t *classes = (const int64_t *)targets;
    for (ptrdiff_t j = 0; targets && loss == FASTLSTM_CROSS_ENTROPY && j < count; j++)
        if (classes[j] < -1 || classes[j] >= O) return FASTLSTM_BAD_ARGUMENT;
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_learner_run(fastlstm_learner *m, ptrdiff_t steps, const void *x, const void *targets, const uint8_t *reset,
                                     void *y, ptrdiff_t *done, fastlstm_poll poll, void *context) {
    fastlstm_status status = learner_check(m);
    if (status) return status;
    if (steps <= 0 || !x || !y || !done) return FASTLSTM_BAD_ARGUMENT;
    if (times(times(steps, m->lanes), FL_MAX(m->layers[0].input_size, m->layers[m->n_layers - 1].hidden_size)) < 0) return FASTLSTM_TOO_LARGE;
    status = fl_targets_check(m->loss, targets, steps * m->lanes, m->layers[m->n_layers - 1].hidden_size);
    if (status) return status;
    learner_prepare(m);
    return m->engine->learner_run(m, steps, x, targets, reset, y, done, poll, context);
}

fastlstm_status fastlstm_learner_forward(fastlstm_learner *m, const void *x, void *y) {
    const fastlstm_status status = learner_check(m);
    if (status) return status;
    if (!x || !y) return FASTLSTM_BAD_ARGUMENT;
    learner_prepare(m);
    m->engine->learner_forward(m, x, y);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_learner_backward(fastlstm_learner *m, const void *dy) {
    const fastlstm_status status = learner_check(m);
    if (status) return status;
    learner_prepare(m);
    m->engine->learner_backward(m, dy);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_learner_learn(fastlstm_learner *m, const void *targets) {
    fastlstm_status status = learner_check(m);
    if (!status) status = fl_targets_check(m->loss, targets, m->lanes, m->layers[m->n_layers - 1].hidden_size);
    if (status) return status;
    learner_prepare(m);
    m->engine->learner_learn(m, targets);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_learner_reset(fastlstm_learner *m, const uint8_t *mask) {
    const fastlstm_status status = learner_check(m);
    if (status) return status;
    learner_prepare(m);
    m->engine->learner_reset(m, mask);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_learner_apply(fastlstm_learner *m) {
    const fastlstm_status status = learner_check(m);
    if (status) return status;
    learner_prepare(m);
    m->engine->learner_apply(m);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_learner_settle(fastlstm_learner *m) {
    const fastlstm_status status = learner_check(m);
    if (status) return status;
    if (m->prepared) m->engine->learner_settle(m);
    return FASTLSTM_OK;
}

int fastlstm_learner_lazy(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes) {
    if (fl_engine_check(engine, layers, n_layers)) return 0;
    if (fl_may_be_small(layers, lanes, engine->vw)) return 1;
    if (!fl_may_be_lazy(layers, lanes, engine->bits / 8)) return 0;
    const fl_geometry q = fl_layer_geometry(layers, 1);
    return q.M * q.H * (q.G + q.traced) >= FL_LAZY_WEIGHTS;
}

/* ---- Losses and optimisers ---- */

fastlstm_status fastlstm_elementwise_loss(const fastlstm_engine *engine, int loss, ptrdiff_t rows, ptrdiff_t width, const void *y,
                                          const void *target, const void *pos_weight, void *dy, double *value) {
    if (!engine || loss < FASTLSTM_MSE || loss > FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS || loss == FASTLSTM_CROSS_ENTROPY || rows < 0 || width <= 0 ||
        (rows && (!y || !target || !dy)) || (pos_weight && loss < FASTLSTM_BINARY_CROSS_ENTROPY) || !value)
        return FASTLSTM_BAD_ARGUMENT;
    if (times(times(rows, width), 8) < 0) return FASTLSTM_TOO_LARGE;
    *value = engine->elementwise_loss(loss, rows, width, y, target, pos_weight, dy);
    return FASTLSTM_OK;
}

fastlstm_status fastlstm_cross_entropy(const fastlstm_engine *engine, ptrdiff_t rows, ptrdiff_t classes, const void *y,
                                       const int64_t *target, const void *weight, double smoothing, void *dy, double *value) {
    if (!engine || rows < 0 || classes <= 0 || (rows && (!y || !target || !dy)) || !(smoothing >= 0 && smoothing <= 1) || !value)
        return FASTLSTM_BAD_ARGUMENT;
    if (times(times(rows, classes), 8) < 0) return FASTLSTM_TOO_LARGE;
    for (ptrdiff_t j = 0; j < rows; j++)
        if (target[j] < -1 || target[j] >= classes) return FASTLSTM_BAD_ARGUMENT;
    *value = engine->cross_entropy(rows, classes, y, target, weight, smoothing, dy);
    return FASTLSTM_OK;
}

ptrdiff_t fastlstm_ctc_scratch_size(const fastlstm_engine *engine, ptrdiff_t steps, ptrdiff_t longest_target) {
    if (!engine || steps <= 0 || longest_target < 0 || times(times(plus(steps, 4), plus(longest_target, 32)), 64) < 0) return -1;
    const ptrdiff_t real = engine->bits / 8;
    return (fl_plan_ctc(steps, longest_target, real).size + real - 1) / real;
}

static fastlstm_status ctc_check(const fastlstm_ctc_batch *m) {
    if (!m || m->steps <= 0 || m->lanes <= 0 || m->classes <= 0) return FASTLSTM_BAD_ARGUMENT;
    if (times(times(times(m->steps, m->lanes), m->classes), 8) < 0) return FASTLSTM_TOO_LARGE;
    if (!m->y || !m->dy || !m->target_lengths || m->blank < 0 || m->blank >= m->classes) return FASTLSTM_BAD_ARGUMENT;
    ptrdiff_t longest = 0;
    const int64_t *label = m->targets;
    for (ptrdiff_t b = 0; b < m->lanes; b++) {
        const int64_t steps = m->lengths ? m->lengths[b] : m->steps, n = m->target_lengths[b];
        if (steps < 1 || steps > m->steps || n < 0 || n > steps || (n && !label)) return FASTLSTM_BAD_ARGUMENT;
        int64_t needed = n; /* a blank between two equal labels takes a step too */
        for (int64_t s = 0; s < n; s++) {
            if (label[s] < 0 || label[s] >= m->classes || label[s] == m->blank) return FASTLSTM_BAD_ARGUMENT;
            needed += s && label[s] == label[s - 1];
        }
        if (needed > steps) return FASTLSTM_BAD_ARGUMENT;
        if (n) label += n;
        longest = FL_MAX(longest, (ptrdiff_t)n);
    }
    return times(times(plus(m->steps, 4), plus(longest, 32)), 64) < 0 ? FASTLSTM_TOO_LARGE : FASTLSTM_OK;
}

fastlstm_status fastlstm_ctc(const fastlstm_engine *engine, const fastlstm_ctc_batch *batch, void *scratch, double *value,
                             fastlstm_poll poll, void *context) {
    const fastlstm_status status = ctc_check(batch);
    if (status) return status;
    if (!engine || !scratch || !value) return FASTLSTM_BAD_ARGUMENT;
    return engine->ctc(batch, scratch, value, poll, context);
}

fastlstm_status fastlstm_update(const fastlstm_engine *engine, fastlstm_optimizer *o, ptrdiff_t n, void *weights, const void *gradient) {
    if (!engine || !o || n < 0 || (n && (!weights || !gradient)) || o->kind < FASTLSTM_SGD || o->kind > FASTLSTM_ADAMW || o->steps < 0)
        return FASTLSTM_BAD_ARGUMENT;
    if (n > FL_LIMIT / 8 || o->steps > FL_LIMIT) return FASTLSTM_TOO_LARGE;
    const int adam = o->kind == FASTLSTM_ADAM || o->kind == FASTLSTM_ADAMW;
    if (o->lr != o->lr || o->momentum != o->momentum || o->weight_decay != o->weight_decay || !(o->clip_norm >= 0) ||
        (o->kind != FASTLSTM_SGD && !(o->beta2 >= 0 && o->beta2 < 1 && o->eps >= 0)) || (adam && !(o->beta1 >= 0 && o->beta1 < 1)))
        return FASTLSTM_BAD_ARGUMENT;
    if (n && (((adam || o->momentum != 0) && !o->first) || (o->kind != FASTLSTM_SGD && !o->second))) return FASTLSTM_BAD_ARGUMENT;
    engine->update(o, n, weights, gradient);
    return FASTLSTM_OK;
}
