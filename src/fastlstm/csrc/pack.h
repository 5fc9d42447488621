/* Between the flat parameter array (PyTorch's shapes) and the packed layout of geometry.h. Every parameter has one
   packed place, so unpacking is exact. */
#ifndef FL_PACK_H
#define FL_PACK_H

/* The parameter row of a row-vector's lane; the order there is i, f, g, o. -1 in the padding. */
static ptrdiff_t fl_param_row(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, ptrdiff_t lane, ptrdiff_t n) {
    const ptrdiff_t j = group * VW + lane;
    if (j >= q->J) return -1;
    if (l->kind == FASTLSTM_LINEAR) return j;
    if (n >= q->gates) return (q->i + q->f) * q->J + j * q->S + (n - q->gates); /* cell input of slot n - gates */
    if (q->o && n == q->gates - 1) return (q->i + q->f) * q->J + q->H + j;
    return n * q->J + j;
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
    FL_UNROLL
    for (int k = 0; k < VW; k++)
        if (k < n) v_store(to + k * stride, m[k]);
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

/* Copies between one kind of sources, `count` columns of a parameter matrix from offset `at`, and a group's panel, where
   they begin at source k0. */
FL_NOINLINE void fl_copy_sources(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, REAL *params, REAL *panel, int back,
                            ptrdiff_t at, ptrdiff_t k0, ptrdiff_t count) {
    const ptrdiff_t stride = q->G * VW;
    for (ptrdiff_t n = 0; n < q->G; n++) {
        REAL *row[VW];
        for (ptrdiff_t lane = 0; lane < VW; lane++) {
            const ptrdiff_t r = fl_param_row(l, q, group, lane, n);
            row[lane] = r < 0 ? NULL : params + at + r * count;
        }
        for (ptrdiff_t k = 0; k < count; k += VW) {
            REAL *w = panel + (k0 + k) * stride + n * VW;
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

#include "compact_pack.h"

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

/* Copies params to packed, or packed to params where `back`. */
FL_NOINLINE void fl_copy_packed(const fastlstm_layer *layers, ptrdiff_t n_layers, REAL *params, REAL *packed, int back) {
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fastlstm_layer *l = layers + i;
        const fl_geometry q = fl_layer_geometry(l, VW);
        REAL *w = packed;
        if (l->weights != FASTLSTM_NATIVE) fl_copy_compact_layer(l, &q, params, packed, back);
        for (ptrdiff_t group = 0; group < q.groups && l->weights == FASTLSTM_NATIVE; group++, w += q.panel) {
            ptrdiff_t k = 0;
            if (l->bias_ih >= 0) fl_copy_sources(l, &q, group, params, w, back, l->bias_ih, k++, 1);
            if (l->bias_hh >= 0) fl_copy_sources(l, &q, group, params, w, back, l->bias_hh, k++, 1);
            fl_copy_sources(l, &q, group, params, w, back, l->weight_ih, k, q.I);
            if (l->kind == FASTLSTM_LINEAR) continue;
            fl_copy_sources(l, &q, group, params, w, back, l->weight_hh, k + q.I, q.H);
            fl_copy_sources(l, &q, group, params, w, back, l->weight_gh, k + q.I + q.H, q.A);
        }
        fl_copy_peepholes(l, &q, params, packed + q.peephole, 0, q.groups, back);
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
        if (layers[i].kind == FASTLSTM_LINEAR) continue;
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
