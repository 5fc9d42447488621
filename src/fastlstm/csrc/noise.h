/* Noise of training: dropout of inputs (Hinton et al. 2012), of h as a source, the same in all steps of a call (Gal and
   Ghahramani 2016), and zoneout of h and c (Krueger et al. 2017, eqs 3-5):

       x' = m x / (1 - p)      h'(t-1) = m h(t-1) / (1 - p)      h(t) = h(t-1) with probability p, else what the cell gives

   and likewise c. Where nothing is learnt the first two are the identity, and zoneout takes its mean, p h(t-1) + (1 - p) h(t).
   It is done around a step: the cells know nothing of it. A draw is a function of the call's seed, the layer's stream, and
   the place that it is for, so that neither threads nor layouts change one. */
#ifndef FL_NOISE_H
#define FL_NOISE_H

/* What is drawn for. */
enum { FL_DROP_X, FL_DROP_H, FL_ZONE_H, FL_ZONE_C, FL_DRAWS };

/* A good hash of a counter: the finaliser of splitmix64 (Steele et al. 2014; constants: Stafford's mix 13). */
FL_INLINE uint64_t fl_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* out[k] = `hit` with probability `rate`, to within 2^-17, else `miss`. */
static void fl_draw(const fl_cell *cell, uint64_t seed, int what, ptrdiff_t row, double rate, REAL hit, REAL miss, REAL *out, ptrdiff_t n) {
    /* Both directions of a layer read the same inputs. */
    const uint64_t stream = (uint64_t)cell->l->stream * FL_DRAWS * 2 + (uint64_t)what * 2 + (what == FL_DROP_X ? 0 : (uint64_t)cell->l->reverse);
    const uint64_t key = fl_mix(seed + fl_mix(stream + 1)), golden = 0x9e3779b97f4a7c15u;
    const uint64_t first = (uint64_t)row * (uint64_t)((n + 3) / 4);
    const int32_t limit = (int32_t)(rate * 65536 + 0.5);
    enum { MANY = 64 }; /* numbers of 16 bits, four of a hash; then compared in vectors */
    for (ptrdiff_t k = 0; k < n; k += MANY) {
        uint16_t drawn[MANY];
        const ptrdiff_t more = n - k < MANY ? n - k : MANY;
        for (ptrdiff_t j = 0; j < more; j += 4) {
            const uint64_t z = fl_mix(key + (first + (uint64_t)(k + j) / 4) * golden);
            for (int i = 0; i < 4; i++)
                drawn[j + i] = (uint16_t)(z >> (16 * i));
        }
        for (ptrdiff_t j = 0; j < more; j++)
            out[k + j] = drawn[j] < limit ? hit : miss;
    }
}

/* A mask of dropout. */
static void fl_draw_dropout(const fl_cell *cell, uint64_t seed, int what, ptrdiff_t row, double rate, REAL *out, ptrdiff_t n) {
    fl_draw(cell, seed, what, row, rate, 0, (REAL)(1 / (1 - rate)), out, n);
}

static void fl_multiply(REAL *to, const REAL *by, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n; k++)
        to[k] *= by[k];
}

/* Sources as they are read in training: a copy in the tape, with dropout. row: that of the draw. */
static const REAL *fl_dropped(const fl_cell *cell, uint64_t seed, int what, ptrdiff_t row, double rate, const REAL *s, REAL *to, ptrdiff_t n) {
    fl_draw_dropout(cell, seed, what, row, rate, to, n);
    fl_multiply(to, s, n);
    return to;
}

/* Zoneout after a step: `now` of the cell, `before` of the step before; mask: where it stays (1) or not (0), or NULL. */
static void fl_zone(REAL *now, const REAL *before, const REAL *mask, double rate, ptrdiff_t n) {
    for (ptrdiff_t u = 0; u < n; u++)
        now[u] = mask ? (mask[u] != 0 ? before[u] : now[u]) : (REAL)rate * before[u] + (REAL)(1 - rate) * now[u];
}

/* Its gradient: `error` of what came out becomes that of the cell's own, and `stays` that of the step before. */
static void fl_zone_back(REAL *error, const REAL *mask, REAL *stays, ptrdiff_t n) {
    for (ptrdiff_t u = 0; u < n; u++) {
        stays[u] = mask[u] != 0 ? error[u] : 0;
        error[u] = mask[u] != 0 ? 0 : error[u];
    }
}

#endif
