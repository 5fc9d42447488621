/* Between the flat parameter array (PyTorch's shapes) and the packed layout of geometry.h. Every parameter has one
   packed place, so unpacking is exact. */
#ifndef FL_PACK_H
#define FL_PACK_H

/* The parameter row of a row-vector's lane; the order there is i, f, g, o, or r, z, n. -1 in the padding.
   from: the net input that the first row-vector feeds. */
static ptrdiff_t fl_param_row(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, ptrdiff_t lane, ptrdiff_t n, ptrdiff_t from) {
    const ptrdiff_t j = group * VW + lane;
    if (j >= q->J) return -1;
    if (l->kind == FASTLSTM_GRU) return (n + from + 2) % 3 * q->J + j; /* net inputs are n, r, z, n */
    if (l->kind != FASTLSTM_LSTM) return j;
    if (n >= q->gates) return (q->i + q->f) * q->J + j * q->S + (n - q->gates); /* cell input of slot n - gates */
    if (q->o && n == q->gates - 1) return (q->i + q->f) * q->J + q->H + j;
    return n * q->J + j;
}

/* The same of all its lanes. */
static void fl_param_rows(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, ptrdiff_t n, ptrdiff_t from, ptrdiff_t *row) {
    const ptrdiff_t first = fl_param_row(l, q, group, 0, n, from), lanes = q->J - group * VW;
    const ptrdiff_t apart = l->kind == FASTLSTM_LSTM && n >= q->gates ? q->S : 1;
    for (ptrdiff_t lane = 0; lane < VW; lane++)
        row[lane] = lane < lanes ? first + lane * apart : -1;
}

/* m[j][k] <-> m[k][j] */
FL_INLINE void fl_turn(V *m) {
    FL_UNROLL
    for (int width = VW; width > 1; width /= 2) {
        V t[VW];
        FL_UNROLL
        for (int j = 0; j < VW / 2; j++) {
            t[2 * j] = v_zip_low(m[j], m[j + VW / 2]);
            t[2 * j + 1] = v_zip_high(m[j], m[j + VW / 2]);
        }
        FL_UNROLL
        for (int j = 0; j < VW; j++)
            m[j] = t[j];
    }
}

FL_INLINE V fl_load_first(const REAL *p, ptrdiff_t n) { return n >= VW ? v_load(p) : v_load_n(p, (int)n); }

/* Turns rows of length n, at most VW, into n columns of a panel, which are `stride` apart; an absent row is zero. */
FL_NOINLINE void fl_turn_in(const REAL *const *row, ptrdiff_t from, ptrdiff_t n, REAL *to, ptrdiff_t stride) {
    V m[VW];
    FL_UNROLL
    for (int j = 0; j < VW; j++)
        m[j] = row[j] ? fl_load_first(row[j] + from, n) : v_zero();
    fl_turn(m);
    if (n < VW) {
        for (int k = 0; k < n; k++)
            v_store(to + k * stride, m[k]);
        return;
    }
    FL_UNROLL
    for (int k = 0; k < VW; k++)
        v_store(to + k * stride, m[k]);
}

/* And back; columns from n on are zero. */
FL_INLINE void fl_turn_load(V *m, const REAL *panel, ptrdiff_t stride, ptrdiff_t n) {
    FL_UNROLL
    for (int k = 0; k < VW; k++)
        m[k] = k < n ? v_load(panel + k * stride) : v_zero();
    fl_turn(m);
}

FL_NOINLINE void fl_turn_out(REAL *const *row, ptrdiff_t from, ptrdiff_t n, const REAL *panel, ptrdiff_t stride) {
    V m[VW];
    fl_turn_load(m, panel, stride, n);
    FL_UNROLL
    for (int j = 0; j < VW; j++) {
        if (row[j] && n >= VW) v_store(row[j] + from, m[j]);
        else if (row[j]) v_store_n(row[j] + from, m[j], (int)n);
    }
}

/* Copies between one kind of sources, `count` columns of a parameter matrix from offset `at`, and a group's weights of G
   row-vectors, the first of which feeds net input `first`. */
FL_NOINLINE void fl_copy_sources(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, REAL *params, REAL *weights, int back,
                            ptrdiff_t at, ptrdiff_t count, ptrdiff_t G, ptrdiff_t first) {
    const ptrdiff_t stride = G * VW;
    for (ptrdiff_t n = 0; n < G; n++) {
        ptrdiff_t place[VW];
        REAL *row[VW];
        fl_param_rows(l, q, group, n, first, place);
        for (ptrdiff_t lane = 0; lane < VW; lane++)
            row[lane] = place[lane] < 0 ? NULL : params + at + place[lane] * count;
        for (ptrdiff_t lane = 0; lane < VW && count == 1; lane++) {
            REAL *w = weights + n * VW + lane;
            if (!back) *w = row[lane] ? *row[lane] : 0;
            else if (row[lane]) *row[lane] = *w;
        }
        if (count == 1) continue;
        for (ptrdiff_t k = 0; k < count; k += VW) {
            REAL *w = weights + k * stride + n * VW;
            const ptrdiff_t some = count - k < VW ? count - k : VW;
            if (back) fl_turn_out(row, k, some, w, stride);
            else fl_turn_in((const REAL *const *)row, k, some, w, stride);
        }
    }
}

/* Where peephole element (gate i, f, o = 0, 1, 2; slot v; lane) lies; -1 if there is none. */
static ptrdiff_t fl_peephole_offset(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, ptrdiff_t gate, ptrdiff_t v, ptrdiff_t lane) {
    const int present[3] = {q->i, q->f, q->o};
    const ptrdiff_t j = group * VW + lane;
    ptrdiff_t row = 0;
    if (j >= q->J || !present[gate]) return -1;
    for (ptrdiff_t g = 0; g < gate; g++)
        row += present[g];
    return l->weight_peephole + row * q->H + j * q->S + v;
}

/* The peephole weights of groups [first, end), which are floats in every format; w: those of all groups. */
static void fl_copy_peepholes(const fastlstm_layer *l, const fl_geometry *q, REAL *params, REAL *w, ptrdiff_t first, ptrdiff_t end, int back) {
    if (!l->peepholes) return;
    w += first * 3 * q->S * VW;
    for (ptrdiff_t group = first; group < end; group++)
        for (ptrdiff_t gate = 0; gate < 3; gate++)
            for (ptrdiff_t v = 0; v < q->S; v++)
                for (ptrdiff_t lane = 0; lane < VW; lane++, w++) {
                    const ptrdiff_t at = fl_peephole_offset(l, q, group, gate, v, lane);
                    if (!back) *w = at < 0 ? 0 : params[at];
                    else if (at >= 0) params[at] = *w;
                }
}

/* Both bias vectors of a group. */
static void fl_copy_biases(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, REAL *params, REAL *w, int back) {
    if (l->bias_ih >= 0) fl_copy_sources(l, q, group, params, w, back, l->bias_ih, 1, q->G, 0);
    if (l->bias_hh >= 0) fl_copy_sources(l, q, group, params, w + q->G * VW, back, l->bias_hh, 1, q->G, q->bias_shift);
}

#include "compact_pack.h"

FL_NOINLINE void fl_copy_group(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, REAL *params, REAL *w, int back) {
    REAL *w_x = w + q->biases * q->G * VW, *w_h = w_x + q->I * q->G * VW;
    fl_copy_biases(l, q, group, params, w, back);
    fl_copy_sources(l, q, group, params, w_x, back, l->weight_ih, q->I, q->G, 0);
    if (l->kind == FASTLSTM_LINEAR) return;
    fl_copy_sources(l, q, group, params, w_h, back, l->weight_hh, q->P, q->G_h, q->shift);
    fl_copy_sources(l, q, group, params, w_h + q->P * q->G_h * VW, back, l->weight_gh, q->A, q->G_h, q->shift);
}

static void fl_copy_layer(const fastlstm_layer *l, const fl_geometry *q, REAL *params, REAL *packed, int back) {
    for (ptrdiff_t group = 0; group < q->groups; group++)
        fl_copy_group(l, q, group, params, packed + group * q->panel, back);
}

/* Copies params to packed, or packed to params where `back`. */
FL_NOINLINE void fl_copy_packed(const fastlstm_layer *layers, ptrdiff_t n_layers, REAL *params, REAL *packed, int back) {
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fastlstm_layer *l = layers + i;
        const fl_geometry q = fl_layer_geometry(l, VW);
        if (l->weights != FASTLSTM_NATIVE) fl_copy_compact_layer(l, &q, params, packed, back);
        else fl_copy_layer(l, &q, params, packed, back);
        fl_copy_peepholes(l, &q, params, packed + q.peephole, 0, q.groups, back);
        if (q.has_tail) {
            const fastlstm_layer tail = fl_tail_layer(l);
            fl_copy_packed(&tail, 1, params, packed + q.tail, back);
        }
        packed += q.packed;
    }
}

static void fl_pack(const fastlstm_layer *layers, ptrdiff_t n, const void *params, void *packed) {
    fl_copy_packed(layers, n, (REAL *)params, (REAL *)packed, 0);
}

static void fl_unpack(const fastlstm_layer *layers, ptrdiff_t n, const void *packed, void *params) {
    fl_copy_packed(layers, n, (REAL *)params, (REAL *)packed, 1);
}

/* Traces between their packed layout (traces.h) and one that no register width shapes: for each layer, lane, block,
   slot and traced group (g, i, f) a row of M, then [lane][i, f][v][w][block] peephole traces. The padding is zero. */
static void fl_trace_convert(const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes, void *packed, void *canonical, int back) {
    REAL *E = packed, *out = canonical;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, VW);
        const ptrdiff_t SS = layers[i].peepholes ? q.S * q.S : 0, rows = q.S * q.traced;
        if (!q.traced) continue;
        for (ptrdiff_t k = 0; !back && k < lanes * q.groups * q.trace; k++)
            E[k] = 0;
        for (ptrdiff_t b = 0; b < lanes; b++)
            for (ptrdiff_t j = 0; j < q.J; j++)
                for (ptrdiff_t n = 0; n < rows; n++)
                    for (ptrdiff_t k = 0; k < q.M; k++, out++) {
                        REAL *e = E + (j / VW * lanes + b) * q.trace + (k * rows + n) * VW + j % VW;
                        if (back) *out = *e;
                        else *e = *out;
                    }
        for (ptrdiff_t b = 0; b < lanes; b++)
            for (ptrdiff_t n = 0; n < 2 * SS; n++)
                for (ptrdiff_t j = 0; j < q.J; j++, out++) {
                    REAL *e = E + (j / VW * lanes + b) * q.trace + (q.M * rows + n) * VW + j % VW;
                    if (back) *out = *e;
                    else *e = *out;
                }
        E += lanes * q.groups * q.trace;
    }
}

#endif
