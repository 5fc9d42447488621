/* Where everything of a layer lies: the packed layout, stated once.

   Units are packed in groups of VW memory blocks, one block per vector lane. A block has G row-vectors: its gates
   in the order i, f, o (absent ones absent) and its S cell inputs g. For each group the packed weights are

       [k][row-vector][VW],   k over the M sources: biases (0, 1 or 2 of them), inputs, h(t-1), gate activations(t-1)

   so a kernel streams them in order and ends with all net inputs of VW blocks in registers; with S = 1 this is
   [group][k][gate][unit], and a cell of any S needs no work across vector lanes. The last group is padded with
   zero weights. After all groups follow the peephole weights, [group][i, f, o][S][VW]. A linear layer is the same
   with one row-vector and no state.

   Compact weights (FASTLSTM_FLOAT16, FASTLSTM_INT8; float engines) lie otherwise, in segments that begin on 64-byte
   boundaries: the biases as floats, [group][bias][row-vector][VW]; for int8 the scales of the weights (floats) and their
   sums (int32), [group][kind of sources][row-vector][VW]; the weights; the peepholes as above. Kinds of sources are the
   inputs, h and gate activations. Weights are halves, [group][k][row-vector][VW], or bytes, [group][k/4][row-vector][VW][4],
   in which each kind begins with a new four. */
#ifndef FL_GEOMETRY_H
#define FL_GEOMETRY_H

#include "fastlstm.h"

/* Row-vectors that a product has in registers: of one group, or of as many groups as make so many (kernels/product.h). */
#define FL_TILE 4

typedef struct fl_geometry {
    ptrdiff_t I, H, S, J, A; /* inputs, hidden units, cells per block, blocks, gate activations as sources */
    ptrdiff_t biases, gates; /* how many of each */
    ptrdiff_t G, M, groups;  /* row-vectors per group, sources, groups of VW blocks */
    ptrdiff_t panel;         /* elements of one group's weights: M * G * VW */
    ptrdiff_t peephole;      /* offset of the peephole weights */
    ptrdiff_t packed;        /* elements in all */
    ptrdiff_t acts;          /* what a step saves for the gradient: (groups, G, VW) gates and g, then (groups, kept S, VW) */
    ptrdiff_t kept;          /* what it keeps beside them: h(c), c(t-1), and with peepholes c(t) */
    ptrdiff_t factors;       /* local factors of one group (lstm.h): S each of mu, e, u_g, u_i, u_f, and d_i, d_f, d_o, d_g */
    ptrdiff_t traced;        /* trace row-vectors per cell: g, and i and f where they exist */
    ptrdiff_t trace;         /* trace elements of one group and lane: M * S * traced * VW, and peepholes 2 * S * S * VW */
    int i, f, o, coupled;    /* which gates exist */
} fl_geometry;

/* Numbers below this are zeros to int8 weights: scales stay far from the smallest float, and inverses finite. */
#define FL_TINY 0x1p-100f

/* Kinds of sources, and how many of each a layer has. */
enum { FL_X, FL_H, FL_A, FL_KINDS };
static inline ptrdiff_t fl_sources(const fl_geometry *q, int kind) {
    return kind == FL_X ? q->I : kind == FL_A ? q->A : q->M - q->biases - q->I - q->A;
}

/* Where the segments of compact weights begin, in floats; the biases come first. */
typedef struct fl_compact_geometry {
    ptrdiff_t scales, sums, weights, peephole, packed;
    ptrdiff_t row;              /* elements of a group's row-vectors: G * VW */
    ptrdiff_t at[FL_KINDS + 1]; /* where in a group's panel each kind begins; at the end, how long the panel is: in floats */
} fl_compact_geometry;

static inline fl_compact_geometry fl_layer_compact(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t vw) {
    fl_compact_geometry c;
    const int bytes = l->weights == FASTLSTM_INT8;
    c.row = q->G * vw;
    c.at[0] = 0;
    for (int kind = 0; kind < FL_KINDS; kind++) {
        const ptrdiff_t n = fl_sources(q, kind);
        c.at[kind + 1] = c.at[kind] + (bytes ? (n + 3) / 4 * c.row : n * c.row / 2);
    }
    c.scales = (q->groups * q->biases * c.row + 15) / 16 * 16;
    c.sums = c.scales + (bytes ? (q->groups * FL_KINDS * c.row + 15) / 16 * 16 : 0);
    c.weights = c.sums + (c.sums - c.scales);
    c.peephole = (c.weights + q->groups * c.at[FL_KINDS] + 15) / 16 * 16;
    c.packed = (c.peephole + (l->peepholes ? q->groups * 3 * q->S * vw : 0) + 15) / 16 * 16;
    return c;
}

/* One source of the layer's sizes; products cannot overflow once fl_net_valid (api.c) has accepted the layer. */
static inline fl_geometry fl_layer_geometry(const fastlstm_layer *l, ptrdiff_t vw) {
    fl_geometry q;
    q.I = l->input_size;
    q.H = l->hidden_size;
    q.biases = (l->bias_ih >= 0) + (l->bias_hh >= 0);
    if (l->kind == FASTLSTM_LINEAR) {
        q.S = 1;
        q.J = q.H;
        q.A = q.gates = 0;
        q.i = q.f = q.o = q.coupled = 0;
        q.G = 1;
        q.M = q.biases + q.I;
    } else {
        q.S = l->block_size;
        q.J = q.S == 1 ? q.H : q.H / q.S;
        q.i = (l->gates & FASTLSTM_INPUT_GATE) != 0;
        q.f = (l->gates & FASTLSTM_FORGET_GATE) != 0;
        q.o = (l->gates & FASTLSTM_OUTPUT_GATE) != 0;
        q.coupled = (l->gates & FASTLSTM_COUPLED_GATES) != 0;
        q.gates = q.i + q.f + q.o;
        q.A = l->gate_recurrence ? q.gates * q.J : 0;
        q.G = q.gates + q.S;
        q.M = q.biases + q.I + q.H + q.A;
    }
    q.groups = (q.J + vw - 1) / vw;
    q.panel = q.M * q.G * vw;
    q.peephole = q.groups * q.panel;
    q.packed = q.peephole + (l->peepholes ? q.groups * 3 * q.S * vw : 0);
    if (l->weights != FASTLSTM_NATIVE) {
        const fl_compact_geometry c = fl_layer_compact(l, &q, vw);
        q.peephole = c.peephole;
        q.packed = c.packed;
    }
    q.kept = l->kind == FASTLSTM_LINEAR ? 0 : 2 + l->peepholes;
    q.acts = q.groups * (q.G + q.kept * q.S) * vw;
    q.factors = (6 * q.S + 3) * vw;
    q.traced = l->kind == FASTLSTM_LINEAR ? 0 : 1 + q.i + q.f;
    q.trace = q.M * q.S * q.traced * vw + (l->peepholes ? 2 * q.S * q.S * vw : 0);
    return q;
}

static inline ptrdiff_t fl_tile_groups(const fl_geometry *q) { return q->G < FL_TILE ? FL_TILE / q->G : 1; }

/* Where a group's part of what a step saved lies. The first half later holds the errors of the net inputs. */
static inline ptrdiff_t fl_act_net(const fl_geometry *q, ptrdiff_t group, ptrdiff_t vw) { return group * q->G * vw; }
static inline ptrdiff_t fl_act_cell(const fl_geometry *q, ptrdiff_t group, ptrdiff_t vw) {
    return q->groups * q->G * vw + group * q->kept * q->S * vw;
}

#endif
