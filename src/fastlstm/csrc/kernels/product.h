/* The one matrix product of forward passes: net inputs of many rows for a few row-vectors at a time, in registers.

   Every net input is summed in the order of fl_geometry, bias first, then for each kind of sources (inputs, h, gate
   activations) blocks of FL_BLOCK of them: a block is one chain of fused multiply-adds from zero, and blocks are added
   to the total in turn. Short chains keep rounding errors small, and a block of a panel stays in the first-level cache
   while all rows pass over it. How rows and panels are tiled never changes an output's own operations: that is why one
   step, a sequence, a batch, any number of threads and every register width give the same bits. */
#ifndef FL_PRODUCT_H
#define FL_PRODUCT_H

/* Rows per tile: R * 4 accumulators, 4 weight vectors and a broadcast fit the register file (32 or 16 names). */
#if defined(FL_ISA_AVX512) || defined(FL_ISA_NEON)
#define FL_ROWS 6
#else
#define FL_ROWS 3
#endif

/* Memory beyond the second-level cache that will be touched when a product has ended, from `at` on: it is asked for where no
   weights are, so that it arrives while others are at work. */
typedef struct fl_wanted {
    uintptr_t at, end;
} fl_wanted;

/* Panels as a product reads them: source k of panel p, row-vector n is at w + p * panel + k * stride + n * VW. Totals
   likewise: row r of panel p is at net + p * net_panel + r * net_row. */
typedef struct fl_tile {
    const REAL *w;
    ptrdiff_t panel, stride;
    REAL *net;
    ptrdiff_t net_panel, net_row;
    const REAL *bias; /* what all rows start from, [panel][row-vector][VW], read by the first block; or NULL: the net */
    const REAL *next; /* weights that will be read after these */
    int near;         /* whether all fit into the second-level cache, so that there is no need to ask for them */
    fl_wanted *wanted; /* or NULL */
} fl_tile;

/* How many lines of the block after this one a tile of R rows asks for with each source: about all of it together, when a
   few tiles read the same block (those of four rows are at most two or three). Weights beyond the second-level cache then
   arrive while others are at work. */
#define FL_SOON(R) ((R) == 4 ? 2 : (R) > 2)
#define FL_LINE 64

/* acc[p][r][n] += sum_{k < count} s[r][from + k] w[p][k][n]: one chain each. (Unrolling the loop gains nothing.) */
FL_INLINE void fl_chain_on(V *acc, int P, int R, int N, const REAL *w, ptrdiff_t panel, ptrdiff_t stride, const REAL *const *s,
                           ptrdiff_t from, ptrdiff_t count, uintptr_t soon) {
    const REAL *row[FL_ROWS];
    FL_UNROLL
    for (int r = 0; r < R; r++)
        row[r] = s[r] + from;
    for (ptrdiff_t k = 0; k < count; k++, w += stride) {
        if (FL_SOON(R) > 1) v_prefetch((const void *)(soon + FL_BLOCK * FL_LINE));
        if (FL_SOON(R) > 0) v_prefetch((const void *)soon), soon += FL_LINE;
        FL_UNROLL
        for (int p = 0; p < P; p++) {
            V wk[FL_TILE];
            FL_UNROLL
            for (int n = 0; n < N; n++)
                wk[n] = v_load(w + p * panel + n * VW);
            FL_UNROLL
            for (int r = 0; r < R; r++) {
                const V x = v_bcast(row[r] + k);
                FL_UNROLL
                for (int n = 0; n < N; n++)
                    acc[(p * R + r) * N + n] = v_fma(x, wk[n], acc[(p * R + r) * N + n]);
            }
        }
    }
}

/* The same from zero. */
FL_INLINE void fl_chain(V *acc, int P, int R, int N, const REAL *w, ptrdiff_t panel, ptrdiff_t stride, const REAL *const *s,
                        ptrdiff_t from, ptrdiff_t count, uintptr_t soon) {
    FL_UNROLL
    for (int j = 0; j < P * R * N; j++)
        acc[j] = v_zero();
    fl_chain_on(acc, P, R, N, w, panel, stride, s, from, count, soon);
}

/* Adds one block of sources, whose weights t->w begins with, to the totals of R rows. */
FL_INLINE void fl_block(const fl_tile *t, ptrdiff_t stride, const REAL *const *s, ptrdiff_t from, ptrdiff_t count, ptrdiff_t first, uintptr_t soon, int P, int R, int N) {
    V acc[FL_ROWS * FL_TILE];
    fl_chain(acc, P, R, N, t->w, t->panel, stride, s + first, from, count, soon);
    FL_UNROLL
    for (int p = 0; p < P; p++) {
        FL_UNROLL
        for (int r = 0; r < R; r++) {
            REAL *total = t->net + p * t->net_panel + (first + r) * t->net_row;
            const REAL *start = t->bias ? t->bias + p * N * VW : total;
            FL_UNROLL
            for (int n = 0; n < N; n++)
                v_store(total + n * VW, v_add(v_load(start + n * VW), acc[(p * R + r) * N + n]));
        }
    }
}

/* The same for all rows, in tiles of about equal height. */
FL_INLINE void fl_block_rows(const fl_tile *t, ptrdiff_t stride, const REAL *const *s, ptrdiff_t from, ptrdiff_t count, ptrdiff_t rows, const REAL *next, int P, int N) {
    const ptrdiff_t asked = FL_BLOCK * FL_LINE, block = N * FL_BLOCK * VW * (ptrdiff_t)sizeof(REAL); /* bytes: a tile asks for, a panel has */
    ptrdiff_t at = 0; /* in the next block, panel after panel */
    for (ptrdiff_t r = 0, tiles = (rows + FL_ROWS - 1) / FL_ROWS; tiles > 0; tiles--) {
        const ptrdiff_t R = (rows - r + tiles - 1) / tiles;
        uintptr_t soon = (uintptr_t)t->w; /* what is there already */
        if (!t->near && at < P * block) {
            soon = (uintptr_t)next + (uintptr_t)(P == 1 ? at : at / block * t->panel * (ptrdiff_t)sizeof(REAL) + at % block);
        } else if (t->wanted && t->wanted->at < t->wanted->end) {
            soon = t->wanted->at;
            t->wanted->at += (uintptr_t)(FL_SOON(R) * count * FL_LINE);
        }
        switch (R) {
#if FL_ROWS > 3
        case 6: fl_block(t, stride, s, from, count, r, soon, P, 6, N); break;
        case 5: fl_block(t, stride, s, from, count, r, soon, P, 5, N); break;
        case 4: fl_block(t, stride, s, from, count, r, soon, P, 4, N); break;
#endif
        case 3: fl_block(t, stride, s, from, count, r, soon, P, 3, N); break;
        case 2: fl_block(t, stride, s, from, count, r, soon, P, 2, N); break;
        default: fl_block(t, stride, s, from, count, r, soon, P, 1, N);
        }
        r += R;
        at += FL_SOON(R) * asked;
    }
}

/* The same for P panels of N row-vectors, P * N <= FL_TILE. */
FL_NOINLINE void fl_add_block(const fl_tile *t, const REAL *const *s, ptrdiff_t from, ptrdiff_t n, ptrdiff_t rows, const REAL *next, int P, int N) {
    switch (P * 8 + N) {
    case 8 + 4: fl_block_rows(t, 4 * VW, s, from, n, rows, next, 1, 4); break;
    case 8 + 3: fl_block_rows(t, 3 * VW, s, from, n, rows, next, 1, 3); break;
    case 8 + 2: fl_block_rows(t, 2 * VW, s, from, n, rows, next, 1, 2); break;
    case 16 + 2: fl_block_rows(t, 2 * VW, s, from, n, rows, next, 2, 2); break;
    case 32 + 1: fl_block_rows(t, VW, s, from, n, rows, next, 4, 1); break;
    case 24 + 1: fl_block_rows(t, VW, s, from, n, rows, next, 3, 1); break;
    case 16 + 1: fl_block_rows(t, VW, s, from, n, rows, next, 2, 1); break;
    default: fl_block_rows(t, t->stride, s, from, n, rows, next, 1, 1);
    }
}

/* net += sum_{k < count} s[r][k] w[k] for all rows. */
static void fl_add_sources(const fl_tile *tile, const REAL *const *s, ptrdiff_t count, ptrdiff_t rows, int P, int N) {
    fl_tile t = *tile;
    for (ptrdiff_t from = 0; from < count; from += FL_BLOCK, t.w += FL_BLOCK * t.stride, t.bias = NULL) {
        const ptrdiff_t n = count - from < FL_BLOCK ? count - from : FL_BLOCK;
        fl_add_block(&t, s, from, n, rows, from + n < count ? t.w + n * t.stride : t.next, P, N);
    }
}

/* One row's sums over `blocks` of `count` sources each, all side by side, and their totals in turn. */
FL_INLINE void fl_single_blocks(V *total, const REAL *w, ptrdiff_t panel, const REAL *s, ptrdiff_t count, int blocks, int P, int N, int apart) {
    V acc[2 * FL_TILE];
    FL_UNROLL
    for (int j = 0; j < blocks * P * N; j++)
        acc[j] = v_zero();
    for (ptrdiff_t k = 0; k < count; k++, w += N * VW) {
        FL_UNROLL
        for (int b = 0; b < blocks; b++) {
            const V x = v_bcast(s + b * FL_BLOCK + k);
            FL_UNROLL
            for (int j = 0; j < P * N; j++)
                acc[b * P * N + j] = v_fma(x, v_load(w + b * FL_BLOCK * N * VW + j / N * panel + j % N * VW), acc[b * P * N + j]);
        }
    }
    FL_UNROLL
    for (int b = 0; b < blocks; b++) {
        FL_UNROLL
        for (int j = 0; j < P * N; j++)
            total[j / N * apart + j % N] = v_add(total[j / N * apart + j % N], acc[b * P * N + j]);
    }
}

/* The same as fl_add_sources for one row, whose totals are in registers, each panel's N `apart` from the next one's. A chain
   waits for itself: blocks side by side make up to eight, as many as keep a core busy. */
FL_INLINE void fl_single_add(V *total, const REAL *w, ptrdiff_t panel, const REAL *s, ptrdiff_t count, int P, int N, int apart) {
    ptrdiff_t from = 0;
    if (P * N <= FL_TILE / 2)
        for (; from + 4 * FL_BLOCK <= count; from += 4 * FL_BLOCK)
            fl_single_blocks(total, w + from * N * VW, panel, s + from, FL_BLOCK, 4, P, N, apart);
    if (P * N <= FL_TILE)
        for (; from + 2 * FL_BLOCK <= count; from += 2 * FL_BLOCK)
            fl_single_blocks(total, w + from * N * VW, panel, s + from, FL_BLOCK, 2, P, N, apart);
    for (; from < count; from += FL_BLOCK)
        fl_single_blocks(total, w + from * N * VW, panel, s + from, count - from < FL_BLOCK ? count - from : FL_BLOCK, 1, P, N, apart);
}

/* The biases of one row-vector: bias_ih + bias_hh, each if it exists. */
FL_INLINE V fl_bias(const REAL *w, ptrdiff_t stride, ptrdiff_t biases) {
    V b = v_zero();
    if (biases > 0) b = v_load(w);
    if (biases > 1) b = v_add(b, v_load(w + stride));
    return b;
}

/* The vectors a[u], u = 0..n-1 at stride S from a canonical array (unit = block * S + slot), and back. */
FL_INLINE V fl_load_units(const REAL *a, ptrdiff_t S, ptrdiff_t n) {
    if (S == 1) return n >= VW ? v_load(a) : v_load_n(a, (int)n);
    REAL t[VW];
    for (ptrdiff_t j = 0; j < VW; j++)
        t[j] = j < n ? a[j * S] : 0;
    return v_load(t);
}

FL_INLINE void fl_store_units(REAL *a, V x, ptrdiff_t S, ptrdiff_t n) {
    if (S == 1) {
        if (n >= VW) v_store(a, x);
        else v_store_n(a, x, (int)n);
        return;
    }
    REAL t[VW];
    v_store(t, x);
    for (ptrdiff_t j = 0; j < n && j < VW; j++)
        a[j * S] = t[j];
}

/* x with zeros in the padding lanes n.. */
FL_INLINE V fl_unpadded(V x, ptrdiff_t n) {
    REAL t[VW];
    if (n >= VW) return x;
    v_store(t, x);
    return v_load_n(t, (int)n);
}

/* The sum of FL_W interleaved partial sums, by halves: the same tree whatever VW is. */
enum { FL_PARTS = FL_W / VW };
FL_INLINE REAL fl_sum_parts(V *part) {
    FL_UNROLL
    for (int half = FL_PARTS / 2; half > 0; half /= 2)
        for (int p = 0; p < half; p++)
            part[p] = v_add(part[p], part[p + half]);
    return v_sum(part[0]);
}

#endif
