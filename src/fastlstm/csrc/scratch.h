/* The layout of scratch memory, in bytes from a 64-byte boundary: the sizes that api.c tells and the offsets that
   the engines use come from the same few lines. Sizes of a network that fl_net_valid (api.c) accepted, and lanes and steps
   within its limits, do not overflow. */
#ifndef FL_SCRATCH_H
#define FL_SCRATCH_H

#include "engine.h"
#include "geometry.h"

/* Multiply-adds between two calls of `poll`: a few milliseconds on the slowest engine. */
#define FL_POLL_WORK 8000000
/* The same, at most, of lanes that take a step together: some tens of milliseconds. */
#define FL_STEP_WORK 1000000000

/* At least the sizes of what the engines keep in scratch memory (forward.h, lstm.h, learn.h, backward.h; checked there). */
#define FL_RUNNER_BYTES 512
#define FL_CELL_BYTES 512
#define FL_LEARN_LAYER_BYTES 640
#define FL_LEARN_WORK_BYTES 512
#define FL_COLUMN_BYTES 40
#define FL_FILLED_BYTES 24
#define FL_FILLED_LIST_BYTES 64
/* How many pointers a fl_row has (cell.h). */
enum { FL_ROW_POINTERS = 5 };

/* What every prepared scratch starts with. */
typedef struct fl_runner_head {
    const fastlstm_engine *engine;
    ptrdiff_t lanes;
    ptrdiff_t longest; /* most steps of a batch; 0: any number */
    void *tape;        /* NULL, or what the gradient will need (fl_tape_size); to be set after preparing */
} fl_runner_head;

/* The tape of one recurrent layer and direction: what a step saves, (T, B, acts). Directions follow each other. */
static inline ptrdiff_t fl_tape_size(const fl_geometry *q, ptrdiff_t steps, ptrdiff_t lanes) { return steps * lanes * q->acts; }

/* Lanes whose newest outputs a thread keeps apart from those of others (forward.h). */
enum { FL_OWN_LANES = 8 };

typedef struct fl_forward_plan {
    ptrdiff_t steps;   /* steps of a span */
    ptrdiff_t widest;  /* of all h */
    int reverse;       /* a layer reads backwards: a span is the whole batch */
    ptrdiff_t ahead;   /* rows of input products that can be made ahead */
    ptrdiff_t room;    /* rows that there is room for net inputs of all groups of */
    ptrdiff_t runner, cells, tails, tail, tail_x, tail_net, h_read, zone, lane, place, start, from, rows, x, h, a, y, own, zeros, gate_acts, net, between[2], size;
    ptrdiff_t block, bytes, scales, starts, bytes_stride; /* of compact weights: fl_compact */
} fl_forward_plan;

static inline ptrdiff_t fl_take(ptrdiff_t *size, ptrdiff_t bytes) {
    const ptrdiff_t at = *size;
    *size += (bytes + 63) / 64 * 64;
    return at;
}

static inline fl_forward_plan fl_plan_forward(const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes,
                                              ptrdiff_t vw, ptrdiff_t real) {
    fl_forward_plan p = {0};
    const ptrdiff_t pointer = (ptrdiff_t)sizeof(void *);
    ptrdiff_t width = 0, acts = 0, net = 0, widest = 0; /* net inputs of a tile, of a layer */
    ptrdiff_t tail = 0, zone = 0;
    int gathers = 0, compact = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, vw);
        const ptrdiff_t both = q.P + (i + 1 < n && layers[i + 1].reverse ? fl_layer_geometry(layers + i + 1, vw).P : 0);
        if (q.H > p.widest) p.widest = q.H;
        if (both > width) width = both;
        if (q.A > acts) acts = q.A;
        if (fl_tile_groups(&q) * q.N * vw > net) net = fl_tile_groups(&q) * q.N * vw;
        if (q.groups * q.N * vw > widest) widest = q.groups * q.N * vw;
        if (q.has_tail && q.H > tail) tail = q.H;
        if (layers[i].zoneout_c > 0 && q.H > zone) zone = q.H;
        gathers |= fl_gathers(&q);
        p.reverse |= layers[i].reverse;
        const int in_word = fl_in_word(layers[i].weights);
        const ptrdiff_t stride = in_word ? (q.M + q.H) * 4 / in_word / 64 * 64 + 64 * 4 : 0; /* three kinds, each rounded up; or H alone */
        if (stride > p.bytes_stride) p.bytes_stride = stride;
        compact |= layers[i].weights != FASTLSTM_NATIVE;
    }
    /* A single layer needs no memory for what passes between layers. */
    p.steps = p.reverse || n == 1 ? steps : FL_ROWS_AHEAD / lanes > 1 ? FL_ROWS_AHEAD / lanes : 1;
    if (p.steps > steps) p.steps = steps;
    p.ahead = p.steps == 1 || 2 * lanes > FL_ROWS_AHEAD ? 0 : FL_ROWS_AHEAD / lanes < p.steps ? FL_ROWS_AHEAD : p.steps * lanes;
    p.room = gathers && lanes > p.ahead ? lanes : p.ahead;
    p.runner = fl_take(&p.size, FL_RUNNER_BYTES); /* first, so that it is found */
    p.cells = fl_take(&p.size, (tail ? 2 : 1) * n * FL_CELL_BYTES);
    p.tails = fl_take(&p.size, tail ? n * (ptrdiff_t)sizeof(fastlstm_layer) : 0);
    p.tail = fl_take(&p.size, lanes * tail * real);
    p.tail_x = fl_take(&p.size, tail ? lanes * pointer : 0);
    p.tail_net = fl_take(&p.size, tail ? (lanes > 2 ? lanes : 2) * FL_TILE * vw * real : 0);
    p.lane = fl_take(&p.size, lanes * (ptrdiff_t)sizeof(ptrdiff_t));
    p.start = fl_take(&p.size, lanes * (ptrdiff_t)sizeof(ptrdiff_t));
    p.from = fl_take(&p.size, lanes * pointer);
    p.place = fl_take(&p.size, lanes * (ptrdiff_t)sizeof(ptrdiff_t));
    p.rows = fl_take(&p.size, lanes * FL_ROW_POINTERS * pointer);
    p.x = fl_take(&p.size, (lanes > p.ahead ? lanes : p.ahead) * pointer);
    p.h = fl_take(&p.size, lanes * pointer);
    p.a = fl_take(&p.size, lanes * pointer);
    p.h_read = fl_take(&p.size, lanes * pointer);
    p.zone = fl_take(&p.size, lanes * zone * real);
    p.y = fl_take(&p.size, lanes * pointer);
    p.own = fl_take(&p.size, lanes <= FL_OWN_LANES ? 2 * lanes * p.widest * real : 0);
    p.zeros = fl_take(&p.size, p.widest * real);
    p.gate_acts = fl_take(&p.size, 2 * lanes * acts * real);
    const ptrdiff_t nets = p.room * widest > lanes * net ? p.room * widest : lanes * net, two = 2 * FL_TILE * vw; /* a row alone */
    p.net = fl_take(&p.size, (nets > two ? nets : two) * real);
    const ptrdiff_t most = lanes > p.ahead ? lanes : p.ahead;
    p.block = fl_take(&p.size, compact ? (most > 64 ? most : 64) * FL_TILE * vw * real : 0); /* 64: FL_BLOCK */
    p.bytes = fl_take(&p.size, most * p.bytes_stride);
    p.scales = fl_take(&p.size, p.bytes_stride ? most * FL_KINDS * real : 0);
    p.starts = fl_take(&p.size, p.bytes_stride ? most * FL_KINDS * (ptrdiff_t)sizeof(int32_t) : 0);
    p.between[0] = fl_take(&p.size, n > 1 ? p.steps * lanes * width * real : 0);
    p.between[1] = fl_take(&p.size, n > 1 ? p.steps * lanes * width * real : 0);
    return p;
}

/* Whether it may be kept with all its rows side by side (small.h): packed, half of their vectors would be empty. */
enum { FL_SMALL_CELLS = 4 };
static inline int fl_may_be_small(const fastlstm_layer *l, ptrdiff_t lanes, ptrdiff_t vw) {
    return lanes == 1 && l->kind == FASTLSTM_LSTM && !l->proj_size && !l->peepholes && l->block_size <= FL_SMALL_CELLS &&
           l->hidden_size <= vw && l->hidden_size / l->block_size <= vw / 2;
}

/* Whether its updates can be put off: not where the widest vectors would keep it side by side, so that every instruction set has
   the same bits. */
static inline int fl_may_be_lazy(const fastlstm_layer *l, ptrdiff_t lanes, ptrdiff_t real) {
    return lanes == 1 && l->kind == FASTLSTM_LSTM && l->block_size == 1 && !l->proj_size && !fl_may_be_small(l, lanes, 64 / real);
}

/* Where a small layer's rows are: how many lanes, then bytes. */
typedef struct fl_small_plan {
    ptrdiff_t R, reals, places, list;
} fl_small_plan;

static inline fl_small_plan fl_plan_small(const fastlstm_layer *l, ptrdiff_t vw, ptrdiff_t real, ptrdiff_t *size) {
    fl_small_plan p;
    const fl_geometry q = fl_layer_geometry(l, vw);
    p.R = 0;
    for (ptrdiff_t n = 0; n <= q.gates; n++) { /* the gates', then the cells': none in two vectors */
        const ptrdiff_t wide = n == q.gates ? q.H : q.J;
        p.R = (p.R % vw + wide > vw ? fl_padded(p.R, vw) : p.R) + wide;
    }
    p.R = fl_padded(p.R, vw);
    p.reals = fl_take(size, (q.M * p.R * (2 + q.S) + fl_padded(q.M, vw) + fl_padded(q.A, vw) + (2 + 2 * q.S) * p.R + 10 * vw) * real);
    p.places = fl_take(size, (4 * vw + q.S * (p.R + vw)) * (ptrdiff_t)sizeof(int32_t));
    p.list = fl_take(size, (q.M + 1) * (ptrdiff_t)sizeof(ptrdiff_t));
    return p;
}

typedef struct fl_learn_plan {
    ptrdiff_t work, layers, rows, x, h, a, y, lane, act, c, error, factors, d, net, buffers, lazy, size;
    fl_small_plan small;
} fl_learn_plan;

/* Steps whose updates lazy.h puts off, and the weights and traces from which on that pays. */
enum { FL_LAZY = 16, FL_LAZY_WEIGHTS = 250000 };

/* Elements that one layer keeps between the halves of a step. */
static inline ptrdiff_t fl_learn_buffers(const fl_geometry *q, ptrdiff_t lanes, ptrdiff_t vw) {
    return lanes * q->acts + fl_padded(lanes * (q->M + 2 * q->H), vw);
}

static inline fl_learn_plan fl_plan_learn(const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t lanes, ptrdiff_t vw, ptrdiff_t real) {
    fl_learn_plan p = {0};
    const ptrdiff_t pointer = (ptrdiff_t)sizeof(void *);
    ptrdiff_t buffers = 0, factors = 0, d = 0, net = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, vw);
        buffers += fl_learn_buffers(&q, lanes, vw);
        if (q.groups * q.factors > factors) factors = q.groups * q.factors;
        if (q.groups * q.G * vw > d) d = q.groups * q.G * vw;
        if (fl_tile_groups(&q) * q.G * vw > net) net = fl_tile_groups(&q) * q.G * vw;
    }
    p.work = fl_take(&p.size, FL_LEARN_WORK_BYTES); /* first, so that it is found */
    p.layers = fl_take(&p.size, n * FL_LEARN_LAYER_BYTES);
    p.rows = fl_take(&p.size, lanes * FL_ROW_POINTERS * pointer);
    p.x = fl_take(&p.size, lanes * pointer);
    p.h = fl_take(&p.size, lanes * pointer);
    p.a = fl_take(&p.size, lanes * pointer);
    p.y = fl_take(&p.size, lanes * pointer);
    p.lane = fl_take(&p.size, lanes * 4 * pointer);
    p.act = fl_take(&p.size, lanes * pointer);
    p.c = fl_take(&p.size, lanes * pointer);
    p.error = fl_take(&p.size, lanes * (ptrdiff_t)sizeof(int));
    p.factors = fl_take(&p.size, lanes * factors * real);
    p.d = fl_take(&p.size, d * real);
    p.net = fl_take(&p.size, lanes * net * real);
    p.buffers = fl_take(&p.size, buffers * real);
    if (fl_may_be_small(layers, lanes, vw)) {
        p.small = fl_plan_small(layers, vw, real, &p.size);
    } else if (fl_may_be_lazy(layers, lanes, real)) {
        const fl_geometry q = fl_layer_geometry(layers, vw);
        p.lazy = fl_take(&p.size, (FL_LAZY * 2 * fl_padded(q.M, vw) + fl_padded(FL_LAZY, vw) + q.groups * (3 + FL_LAZY * (q.traced + 2 * q.G)) * vw) * real);
    }
    return p;
}

#define FL_LARGER(a, b) ((a) > (b) ? (a) : (b))

/* Of the backward pass of one layer and direction: what threads share, and what each has, `lanes` at most. */
static inline fl_back_plan fl_plan_back(const fastlstm_layer *l, ptrdiff_t lanes, ptrdiff_t vw, ptrdiff_t real) {
    fl_back_plan p = {0};
    const fl_geometry q = fl_layer_geometry(l, vw);
    const ptrdiff_t pointer = (ptrdiff_t)sizeof(void *), rows = lanes > FL_ROWS_AHEAD ? lanes : FL_ROWS_AHEAD;
    const ptrdiff_t recurrent = l->kind != FASTLSTM_LINEAR, zeros = q.H > q.A ? q.H : q.A;
    /* Units as sources of a product (fl_gather_errors in backward.h), of a step and of its second product. */
    const ptrdiff_t wide = 64 / real, R = (q.J + wide - 1) / wide * wide, tail_R = q.has_tail ? (q.P + wide - 1) / wide * wide : 0;
    const ptrdiff_t most = FL_LARGER(FL_LARGER(q.G, q.G_h) * R, tail_R);
    ptrdiff_t columns = q.has_tail ? fl_vectors(q.H, vw) : 0, own_columns = 0;
    for (int kind = 0; kind < FL_KINDS; kind++)
        own_columns += fl_vectors(fl_sources(&q, kind), vw);
    columns = FL_LARGER(columns, own_columns);
    p.by_h = fl_take(&p.own, recurrent * fl_padded(q.P + q.A, vw) * q.G_h * R * real);
    p.by_x = fl_take(&p.own, fl_padded(q.I, vw) * q.G * R * real);
    p.by_tail = fl_take(&p.own, fl_padded(q.H, vw) * tail_R * real);
    p.zeros = fl_take(&p.own, zeros * real);
    p.net_rows = fl_take(&p.own, (q.groups * (q.G + q.G_h) * vw + tail_R) * (ptrdiff_t)sizeof(ptrdiff_t));
    p.peepholes = fl_take(&p.own, l->peepholes * q.groups * 3 * q.S * vw * real);
    p.lane = fl_take(&p.each, lanes * (ptrdiff_t)sizeof(ptrdiff_t));
    p.start = fl_take(&p.each, lanes * (ptrdiff_t)sizeof(ptrdiff_t));
    p.d = fl_take(&p.each, lanes * pointer);
    p.to = fl_take(&p.each, 2 * lanes * pointer);
    p.dh = fl_take(&p.each, recurrent * lanes * (q.P + q.A) * real);
    p.dc = fl_take(&p.each, recurrent * lanes * q.H * real);
    p.ds = fl_take(&p.each, q.has_tail * lanes * q.H * real);
    p.noise = fl_take(&p.each, q.has_noise * ((lanes + 1) * (q.P + q.H) + q.I) * real);
    p.net = fl_take(&p.each, FL_TILE * rows * vw * real);
    p.gathered = fl_take(&p.each, rows * most * real);
    p.sum = fl_take(&p.each, l->reverse * FL_ROWS_AHEAD * q.I * real);
    p.block = fl_take(&p.each, FL_BLOCK * q.N * vw * real);
    p.bias = fl_take(&p.each, q.N * vw * real);
    p.columns = fl_take(&p.each, columns * FL_COLUMN_BYTES);
    p.sources = fl_take(&p.each, FL_BLOCK * FL_LARGER(columns, FL_TILE) * vw * real);
    p.factors = fl_take(&p.each, (q.factors + 3 * q.S * vw) * real);
    p.sparse = fl_take(&p.each, recurrent * (q.G <= FL_TILE && q.I >= FL_SPARSE_INPUTS) * q.I * q.G * vw * real);
    return p;
}

/* Bytes of fl_back.filled. */
static inline ptrdiff_t fl_filled_size(ptrdiff_t rows) {
    return FL_FILLED_LIST_BYTES + (rows / FL_BLOCK + 1) * (ptrdiff_t)sizeof(ptrdiff_t) + rows * FL_SPARSE_MOST * FL_FILLED_BYTES;
}

/* Sources in a trace's row, of which all biases are one, to the next multiple of 64 bytes; and elements of a lane's traces
   (fl_carry). */
static inline ptrdiff_t fl_carry_width(const fl_geometry *q, ptrdiff_t real) { return fl_padded(q->M - (q->biases > 1), 64 / real); }
static inline ptrdiff_t fl_carry_size(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t real) {
    return q->traced * q->H * fl_carry_width(q, real) + (l->peepholes ? fl_padded(2 * q->H * q->S, 64 / real) : 0);
}

/* One lane's lattice (ctc.h): rows of `width` states, with FL_CTC_PAD more on both sides of those that are read beside. */
enum { FL_CTC_PAD = 16 };
typedef struct fl_ctc_plan {
    ptrdiff_t width, row, label, skip, emission, log_alpha, log_beta, posterior, size;
} fl_ctc_plan;

static inline fl_ctc_plan fl_plan_ctc(ptrdiff_t steps, ptrdiff_t longest_target, ptrdiff_t real) {
    fl_ctc_plan p = {0};
    p.width = (2 * longest_target + 2 + FL_CTC_PAD) / FL_CTC_PAD * FL_CTC_PAD; /* more than 2 S + 1 */
    p.row = p.width + 2 * FL_CTC_PAD;
    p.label = fl_take(&p.size, p.width * (ptrdiff_t)sizeof(ptrdiff_t));
    p.skip = fl_take(&p.size, p.row * real);
    p.emission = fl_take(&p.size, steps * p.width * real);
    p.log_alpha = fl_take(&p.size, (steps + 1) * p.row * real);
    p.log_beta = fl_take(&p.size, p.row * real);
    p.posterior = fl_take(&p.size, p.width * real);
    return p;
}

#endif
