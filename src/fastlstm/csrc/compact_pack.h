/* Packing of compact weights, and back to the values they stand for (geometry.h has the layout, compact.h the arithmetic).

   Packing what was unpacked gives the same bits: halves are floats; the scale of a row of integers has 15 significant
   bits, and is found again from scale * most, which one rounding, or none, has changed by far less than the last of them. */
#ifndef FL_COMPACT_PACK_H
#define FL_COMPACT_PACK_H

#ifndef FL_F64

/* Whether dot products are those of vi_dot_unsigned and vi_dot_fused. */
static int fl_vnni(void) { return V_VNNI && (fl_cpu_features() & FL_CPU_VNNI) != 0; }

/* Round to nearest even, as F16C and NEON do it, NaN included. */
static uint16_t fl_half(REAL x) {
    union { REAL value; uint32_t bits; } u = {x};
    const uint32_t sign = u.bits >> 16 & 0x8000;
    u.bits &= 0x7fffffff;
    if (u.bits > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (u.bits >> 13 & 0x3ff));
    if (u.bits >= 0x47800000) return (uint16_t)(sign | 0x7c00);
    if (u.bits < 0x38800000) { /* below the normal halves: 0.5 has the unit that they have in their last place */
        u.value += 0.5f;
        return (uint16_t)(sign | (u.bits - 0x3f000000));
    }
    return (uint16_t)(sign | ((u.bits - 0x38000000 + 0xfff + (u.bits >> 13 & 1)) >> 13));
}

static REAL fl_from_half(uint16_t half) {
    uint16_t halves[VW] = {half};
    REAL t[VW];
    v_store(t, v_load_half(halves));
    return t[0];
}

/* The scale of a row of weights: max|w| / most, to 15 bits. */
static REAL fl_weight_scale(const REAL *w, ptrdiff_t count, REAL most) {
    union { REAL value; uint32_t bits; } u = {0};
    for (ptrdiff_t k = 0; k < count; k++)
        u.value = u.value < (w[k] < 0 ? -w[k] : w[k]) ? (w[k] < 0 ? -w[k] : w[k]) : u.value;
    u.value /= most;
    u.bits = (u.bits + 0x100) & ~(uint32_t)0x1ff;
    return u.value < FL_TINY ? 0 : u.value;
}

static int fl_weight_integer(REAL w, REAL scale) {
    const REAL rounder = 12582912.0f, q = scale > 0 ? w / scale : 0; /* 1.5 * 2^23 */
    return (int)((q + rounder) - rounder);
}

/* One group's weights of one kind of sources, `count` columns of a parameter matrix from offset `at`; integers with
   `offset` added. In tiles, as fl_copy_sources does it. */
FL_NOINLINE void fl_copy_compact(const fastlstm_layer *l, const fl_geometry *q, ptrdiff_t group, int kind,
                                 REAL *params, REAL *packed, int offset, int back) {
    enum { TILE = 64 };
    const fl_compact_geometry c = fl_layer_compact(l, q, VW);
    const ptrdiff_t wide = fl_fed(q, kind) * VW, first = fl_fed_from(q, kind), count = fl_sources(q, kind), at = kind == FL_X ? l->weight_ih : kind == FL_H ? l->weight_hh : l->weight_gh;
    REAL *weights = packed + c.weights + group * c.at[FL_KINDS] + c.at[kind];
    REAL *scales = packed + c.weights + group * c.at[FL_KINDS] + c.at[kind + 1] - wide;
    const int in_word = fl_in_word(l->weights), halves = !in_word;
    const REAL most = in_word == 2 ? FL_MOST_SHORT : FL_MOST_BYTE;
    for (ptrdiff_t j = 0; j < wide && count > 0 && !halves && !back; j++) {
        const ptrdiff_t row = fl_param_row(l, q, group, j % VW, j / VW, first);
        scales[j] = row < 0 ? 0 : fl_weight_scale(params + at + row * count, count, most);
    }
    for (ptrdiff_t from = 0; from < count; from += TILE)
        for (ptrdiff_t j = 0; j < wide; j++) {
            const ptrdiff_t row = fl_param_row(l, q, group, j % VW, j / VW, first);
            const ptrdiff_t to = from + TILE < count ? from + TILE : (count + 3) / 4 * 4;
            REAL *p = params + at + row * count;
            for (ptrdiff_t k = from; k < to; k++) {
                const int real = row >= 0 && k < count; /* not padding */
                if (halves && k < count) {
                    uint16_t *w = (uint16_t *)weights + k * wide + j;
                    if (!back) *w = real ? fl_half(p[k]) : 0;
                    else if (real) p[k] = fl_from_half(*w);
                } else if (in_word == 4) {
                    uint8_t *w = (uint8_t *)weights + (k / 4 * wide + j) * 4 + k % 4;
                    if (!back) *w = (uint8_t)(offset + (real ? fl_weight_integer(p[k], scales[j]) : 0));
                    else if (real) p[k] = scales[j] * (offset ? *w - offset : (int8_t)*w);
                } else if (in_word == 2 && k < (count + 1) / 2 * 2) {
                    int16_t *w = (int16_t *)weights + (k / 2 * wide + j) * 2 + k % 2;
                    if (!back) *w = (int16_t)(real ? fl_weight_integer(p[k], scales[j]) : 0);
                    else if (real) p[k] = scales[j] * *w;
                }
            }
        }
}

static void fl_copy_compact_layer(const fastlstm_layer *l, const fl_geometry *q, REAL *params, REAL *packed, int back) {
    const int offset = fl_vnni() ? 128 : 0;
    const fl_fpu mode = fl_fpu_enter(); /* subnormal weights are zeros, as in native layers */
    for (ptrdiff_t group = 0; group < q->groups; group++) {
        fl_copy_biases(l, q, group, params, packed + group * q->biases * q->G * VW, back);
        for (int kind = 0; kind < FL_KINDS; kind++)
            fl_copy_compact(l, q, group, kind, params, packed, offset, back);
    }
    fl_fpu_leave(mode);
}

#else

static int fl_vnni(void) { return 0; }

static void fl_copy_compact_layer(const fastlstm_layer *l, const fl_geometry *q, REAL *params, REAL *packed, int back) {
    (void)l, (void)q, (void)params, (void)packed, (void)back;
}

#endif
#endif
