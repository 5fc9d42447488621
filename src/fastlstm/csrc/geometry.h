/* Where everything of a layer lies: the packed layout, stated once.

   Units are packed in groups of VW memory blocks, one block per vector lane. A block has G row-vectors. Of an LSTM they
   are its gates in the order i, f, o (absent ones absent) and its S cell inputs g; of an RNN its net input. For each
   group the packed weights are

       [k][row-vector][VW],   k over the M sources: biases (0, 1 or 2 of them), inputs, h(t-1), gate activations(t-1)

   so a kernel streams them in order and ends with all net inputs of VW blocks in registers; with S = 1 this is
   [group][k][gate][unit], and a cell of any S needs no work across vector lanes. The last group is padded with
   zero weights. After all groups follow the peephole weights, [group][i, f, o][S][VW]. A linear layer is the same
   with one row-vector and no state.

   A GRU's candidate reads inputs and h in different ways. Its row-vectors are n, r, z for inputs and r, z, n for h, and
   its net inputs are N = 4 vectors: n from the inputs, r, z, n from h. So what h feeds begins at vector `shift` = 1. Where
   the reset gate acts on h itself they are 3, h feeds r and z alone (G_h = 2), and n from r h is a second product.

   Such a second product within a step, as is a projection, is a linear layer of its own (fl_tail_layer), packed
   after the rest.

   Compact weights (FASTLSTM_FLOAT16, FASTLSTM_INT16, FASTLSTM_INT8; float engines) lie otherwise, in segments that begin
   on 64-byte boundaries: the biases as floats, [group][bias][row-vector][VW]; the weights, [group][kind of sources]; the
   peepholes as above. Kinds of sources are the inputs, h and gate activations. Weights are halves, [k][row-vector][VW], or
   integers in words of 32 bits, two or four of them, [k/4][row-vector][VW][4], in which each kind begins with a new word and
   ends with its scales, floats [row-vector][VW]. */
#ifndef FL_GEOMETRY_H
#define FL_GEOMETRY_H

#include "fastlstm.h"

/* Row-vectors that a product has in registers: of one group, or of as many groups as make so many (kernels/product.h). */
#define FL_TILE 4

typedef struct fl_geometry {
    ptrdiff_t I, H, S, J, A; /* inputs, hidden units, cells per block, blocks, gate activations as sources */
    ptrdiff_t P;             /* outputs, which are the h that is read */
    ptrdiff_t biases, gates; /* how many of each */
    ptrdiff_t G, G_h;        /* row-vectors per group: of biases and inputs, of h and gate activations */
    ptrdiff_t N, shift;      /* net inputs per group, and where among them those begin that h feeds */
    ptrdiff_t bias_shift;    /* the same of bias_hh */
    ptrdiff_t M, groups;     /* sources, groups of VW blocks */
    ptrdiff_t panel;         /* elements of one group's weights */
    ptrdiff_t peephole;      /* offset of the peephole weights */
    ptrdiff_t tail;          /* offset of the second product's weights */
    ptrdiff_t packed;        /* elements in all */
    ptrdiff_t acts;          /* what a step saves for the gradient (fl_act_net and the following) */
    ptrdiff_t gates_at, noise; /* where in it its gate activations as sources, and that of the noise, begin */
    ptrdiff_t kept;          /* what it keeps of each cell beside activations: h(c), c(t-1), and with peepholes c(t) */
    ptrdiff_t by_group, by_vector; /* how far apart net inputs' vectors lie there */
    ptrdiff_t factors;       /* local factors of one group (lstm.h): S each of mu, e, u_g, u_i, u_f, and d_i, d_f, d_o, d_g */
    ptrdiff_t traced;        /* trace row-vectors per cell: g, and i and f where they exist */
    ptrdiff_t trace;         /* trace elements of one group and lane: M * S * traced * VW, and peepholes 2 * S * S * VW */
    int i, f, o, coupled;    /* which gates exist */
    int has_tail, has_noise;
} fl_geometry;

/* The largest integers, and how many are in a word; 0: other weights. */
#define FL_MOST_BYTE 127
#define FL_MOST_SHORT 8191
static inline int fl_in_word(int weights) { return weights == FASTLSTM_INT8 ? 4 : weights == FASTLSTM_INT16 ? 2 : 0; }

/* Numbers below this are zeros to integer weights: scales stay far from the smallest float, and inverses finite. */
#define FL_TINY 0x1p-100f

/* Kinds of sources, and how many of each a layer has. */
enum { FL_X, FL_H, FL_A, FL_KINDS };
static inline ptrdiff_t fl_sources(const fl_geometry *q, int kind) {
    return kind == FL_X ? q->I : kind == FL_A ? q->A : q->M - q->biases - q->I - q->A;
}

/* And how many row-vectors they feed, from which net input on. */
static inline ptrdiff_t fl_fed(const fl_geometry *q, int kind) { return kind == FL_X ? q->G : q->G_h; }
static inline ptrdiff_t fl_fed_from(const fl_geometry *q, int kind) { return kind == FL_X ? 0 : q->shift; }

/* Where the segments of compact weights begin, in floats; the biases come first. */
typedef struct fl_compact_geometry {
    ptrdiff_t weights, peephole, packed;
    ptrdiff_t row;              /* elements of a group's row-vectors that inputs feed: G * VW */
    ptrdiff_t at[FL_KINDS + 1]; /* where in a group's panel each kind begins; at the end, how long the panel is: in floats */
} fl_compact_geometry;

static inline fl_compact_geometry fl_layer_compact(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t vw) {
    fl_compact_geometry c;
    const int in_word = fl_in_word(l->weights);
    c.row = q->G * vw;
    c.at[0] = 0;
    for (int kind = 0; kind < FL_KINDS; kind++) {
        const ptrdiff_t n = fl_sources(q, kind), row = fl_fed(q, kind) * vw;
        c.at[kind + 1] = c.at[kind] + (in_word ? (n > 0 ? (n + in_word - 1) / in_word + 1 : 0) * row : n * row / 2);
    }
    c.weights = (q->groups * q->biases * c.row + 15) / 16 * 16;
    c.peephole = (c.weights + q->groups * c.at[FL_KINDS] + 15) / 16 * 16;
    c.packed = (c.peephole + (l->peepholes ? q->groups * 3 * q->S * vw : 0) + 15) / 16 * 16;
    return c;
}

/* The second product of a step, as a layer: a projection's W_hr, or a GRU's candidate from r h. */
static inline fastlstm_layer fl_tail_layer(const fastlstm_layer *l) {
    fastlstm_layer tail = {.kind = FASTLSTM_LINEAR, .output_activation = {FASTLSTM_IDENTITY, 0, 0}, .weights = l->weights,
                           .input_size = l->hidden_size, .hidden_size = l->hidden_size, .block_size = 1};
    tail.clip = l->clip;
    tail.weight_ih = l->weight_hh + 2 * l->hidden_size * l->hidden_size;
    tail.weight_hh = tail.weight_gh = tail.weight_hr = tail.bias_ih = tail.bias_hh = tail.weight_peephole = -1;
    if (l->kind == FASTLSTM_LSTM) {
        tail.hidden_size = l->proj_size;
        tail.weight_ih = l->weight_hr;
    }
    return tail;
}

/* n in vectors of vw, a power of two, rounded up: elements, and how many. (Divisions of unknown sizes took a sixth of a short call.) */
static inline ptrdiff_t fl_padded(ptrdiff_t n, ptrdiff_t vw) { return (n + vw - 1) & -vw; }
static inline ptrdiff_t fl_vectors(ptrdiff_t n, ptrdiff_t vw) {
    for (n += vw - 1; vw > 1; vw >>= 1)
        n >>= 1;
    return n;
}

/* One source of the layer's sizes; products cannot overflow once fl_net_valid (api.c) has accepted the layer. */
static inline fl_geometry fl_layer_geometry(const fastlstm_layer *l, ptrdiff_t vw) {
    fl_geometry q = {0};
    const int lstm = l->kind == FASTLSTM_LSTM;
    q.I = l->input_size;
    q.H = l->hidden_size;
    q.P = lstm && l->proj_size ? l->proj_size : q.H;
    q.S = lstm ? l->block_size : 1;
    q.J = q.S == 1 ? q.H : q.H / q.S;
    q.biases = (l->bias_ih >= 0) + (l->bias_hh >= 0);
    q.G = q.G_h = q.N = 1;
    if (lstm) {
        q.i = (l->gates & FASTLSTM_INPUT_GATE) != 0;
        q.f = (l->gates & FASTLSTM_FORGET_GATE) != 0;
        q.o = (l->gates & FASTLSTM_OUTPUT_GATE) != 0;
        q.coupled = (l->gates & FASTLSTM_COUPLED_GATES) != 0;
        q.gates = q.i + q.f + q.o;
        q.A = l->gate_recurrence ? q.gates * q.J : 0;
        q.G = q.G_h = q.N = q.gates + q.S;
        q.has_tail = l->proj_size > 0;
    } else if (l->kind == FASTLSTM_GRU) {
        q.has_tail = !l->reset_after;
        q.G = 3;
        q.G_h = l->reset_after ? 3 : 2;
        q.N = l->reset_after ? 4 : 3;
        q.shift = 1;
        q.bias_shift = l->reset_after;
    }
    q.M = q.biases + q.I + (l->kind == FASTLSTM_LINEAR ? 0 : q.P + q.A);
    q.groups = fl_vectors(q.J, vw);
    q.panel = ((q.biases + q.I) * q.G + (q.M - q.biases - q.I) * q.G_h) * vw;
    q.peephole = q.groups * q.panel;
    q.packed = q.peephole + (l->peepholes ? q.groups * 3 * q.S * vw : 0);
    if (l->weights != FASTLSTM_NATIVE) {
        const fl_compact_geometry c = fl_layer_compact(l, &q, vw);
        q.peephole = c.peephole;
        q.packed = c.packed;
    }
    q.tail = q.packed;
    if (q.has_tail) {
        const fastlstm_layer tail = fl_tail_layer(l);
        q.packed += fl_layer_geometry(&tail, vw).packed;
    }
    q.kept = lstm ? 2 + l->peepholes : 0;
    q.by_group = l->kind == FASTLSTM_GRU ? 1 : q.N;
    q.by_vector = l->kind == FASTLSTM_GRU ? q.groups : 1;
    q.acts = q.groups * (q.N + (q.kept + q.has_tail) * q.S) * vw + fl_padded(lstm && q.has_tail ? q.P : 0, vw);
    q.gates_at = q.acts;
    q.noise = q.gates_at + fl_padded(q.A, vw);
    q.acts = q.noise + fl_padded(l->dropout > 0 ? q.I : 0, vw) + fl_padded(l->recurrent_dropout > 0 ? q.P : 0, vw) +
              fl_padded(l->zoneout_h > 0 ? q.P : 0, vw) + fl_padded(l->zoneout_c > 0 ? q.H : 0, vw);
    q.has_noise = l->dropout > 0 || l->recurrent_dropout > 0 || l->zoneout_h > 0 || l->zoneout_c > 0;
    q.factors = (6 * q.S + 3) * vw;
    q.traced = lstm ? 1 + q.i + q.f : 0;
    q.trace = q.M * q.S * q.traced * vw + (l->peepholes ? 2 * q.S * q.S * vw : 0);
    return q;
}

/* Whether a step needs all its net inputs before the first end: a GRU's gates before r h. */
static inline int fl_gathers(const fl_geometry *q) { return q->G != q->G_h; }

static inline ptrdiff_t fl_tile_groups(const fl_geometry *q) { return q->G < FL_TILE ? FL_TILE / q->G : 1; }

/* What a step saves for the gradient: the net inputs' activations, later their errors; what is kept of the cells,
   [group][kept][S][VW]; the sources of the second product, (H,); with a projection, the errors of its outputs, (P,); gate
   activations as the next step reads them, (A,), if it does; inputs and h as dropout leaves them, and where h and c stay by zoneout, each if there is any.
   Errors of a GRU lie vector by vector, [N][group][VW]; all others [group][N][VW]. */
static inline ptrdiff_t fl_act_net(const fl_geometry *q, ptrdiff_t group, ptrdiff_t vw) { return group * q->by_group * vw; }
static inline ptrdiff_t fl_act_cell(const fl_geometry *q, ptrdiff_t group, ptrdiff_t vw) {
    return (q->groups * q->N + group * q->kept * q->S) * vw;
}
static inline ptrdiff_t fl_act_tail(const fl_geometry *q, ptrdiff_t vw) { return q->groups * (q->N + q->kept * q->S) * vw; }
static inline ptrdiff_t fl_act_projected(const fl_geometry *q, ptrdiff_t vw) { return fl_act_tail(q, vw) + q->groups * q->S * vw; }
static inline ptrdiff_t fl_act_x(const fl_geometry *q) { return q->noise; }
static inline ptrdiff_t fl_act_h(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t vw) {
    return fl_act_x(q) + fl_padded(l->dropout > 0 ? q->I : 0, vw);
}
static inline ptrdiff_t fl_act_zone_h(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t vw) {
    return fl_act_h(l, q, vw) + fl_padded(l->recurrent_dropout > 0 ? q->P : 0, vw);
}
static inline ptrdiff_t fl_act_zone_c(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t vw) {
    return fl_act_zone_h(l, q, vw) + fl_padded(l->zoneout_h > 0 ? q->P : 0, vw);
}

#endif
