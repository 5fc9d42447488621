/* Between the flat parameter array (PyTorch's shapes) and the packed layout of geometry.h. Every parameter has one
   packed place, so unpacking is exact. */
#ifndef FL_PACK_H
#define FL_PACK_H

/* Where parameter element (row-vector, unit lane, source) of a layer lies in the flat array; -1 in the padding. */
FL_NOINLINE ptrdiff_t fl_param_offset(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, ptrdiff_t lane, ptrdiff_t n, ptrdiff_t k) {
    const ptrdiff_t j = group * VW + lane;
    if (j >= q->J) return -1;
    ptrdiff_t row; /* in the order i, f, g, o */
    if (l->kind == FASTLSTM_LINEAR) {
        row = j;
    } else if (n >= q->gates) { /* cell input of slot n - gates */
        row = (q->i + q->f) * q->J + j * q->S + (n - q->gates);
    } else if (q->o && n == q->gates - 1) {
        row = (q->i + q->f) * q->J + q->H + j;
    } else {
        row = n * q->J + j;
    }
    if (k < q->biases) return (k == 0 && l->bias_ih >= 0 ? l->bias_ih : l->bias_hh) + row;
    k -= q->biases;
    if (k < q->I) return l->weight_ih + row * q->I + k;
    k -= q->I;
    if (k < q->H) return l->weight_hh + row * q->H + k;
    return l->weight_gh + row * q->A + (k - q->H);
}

/* Where peephole element (gate i, f, o = 0, 1, 2; slot v; lane) lies; -1 if there is none. */
FL_NOINLINE ptrdiff_t fl_peephole_offset(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, ptrdiff_t gate, ptrdiff_t v, ptrdiff_t lane) {
    const int present[3] = {q->i, q->f, q->o};
    const ptrdiff_t j = group * VW + lane;
    ptrdiff_t row = 0;
    if (j >= q->J || !present[gate]) return -1;
    for (ptrdiff_t g = 0; g < gate; g++)
        row += present[g];
    return l->weight_peephole + row * q->H + j * q->S + v;
}

/* Copies params to packed, or packed to params where `back`. */
FL_NOINLINE void fl_copy_packed(const fastlstm_layer *layers, ptrdiff_t n_layers, REAL *params, REAL *packed, int back) {
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        const fastlstm_layer *l = layers + i;
        const fl_geometry q = fl_layer_geometry(l, VW);
        REAL *w = packed;
        for (ptrdiff_t group = 0; group < q.groups; group++)
            for (ptrdiff_t k = 0; k < q.M; k++)
                for (ptrdiff_t n = 0; n < q.G; n++)
                    for (ptrdiff_t lane = 0; lane < VW; lane++, w++) {
                        const ptrdiff_t at = fl_param_offset(l, &q, group, lane, n, k);
                        if (!back) *w = at < 0 ? 0 : params[at];
                        else if (at >= 0) params[at] = *w;
                    }
        for (ptrdiff_t group = 0; group < (l->peepholes ? q.groups : 0); group++)
            for (ptrdiff_t gate = 0; gate < 3; gate++)
                for (ptrdiff_t v = 0; v < q.S; v++)
                    for (ptrdiff_t lane = 0; lane < VW; lane++, w++) {
                        const ptrdiff_t at = fl_peephole_offset(l, &q, group, gate, v, lane);
                        if (!back) *w = at < 0 ? 0 : params[at];
                        else if (at >= 0) params[at] = *w;
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
