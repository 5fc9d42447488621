/* Sources of which few are not zero, as one-hot symbols have and an h at rest has none: products with these alone.

   What is left out would add 0 w to a sum, so sums keep their bits, as long as weights and errors are finite. */
#ifndef FL_SPARSE_H
#define FL_SPARSE_H

enum { FL_SPARSE_ROWS = 512 }; /* of a forward call, at most */

/* Where a row is not zero, up to FL_SPARSE_MOST places; returns how many there are, or one more. */
static int fl_nonzero(const REAL *x, ptrdiff_t n, int32_t *at) {
    int found = 0;
    for (ptrdiff_t from = 0; from < n; from += 16) {
        const ptrdiff_t to = n - from < 16 ? n : from + 16;
        int any = 0;
        for (ptrdiff_t k = from; k < to; k++)
            any |= x[k] != 0;
        for (ptrdiff_t k = from; any && k < to; k++) {
            if (x[k] == 0) continue;
            if (found == FL_SPARSE_MOST) return found + 1;
            at[found++] = (int32_t)k;
        }
    }
    return found;
}

/* ---- Forward ---- */

typedef struct fl_sparse {
    int32_t at[FL_SPARSE_ROWS][FL_SPARSE_MOST];
    int8_t n[FL_SPARSE_ROWS];
} fl_sparse;

/* `count` sources of these rows, which feed G row-vectors, or NULL if they are not sparse. */
static const fl_sparse *fl_find_sparse(const REAL *const *s, ptrdiff_t count, ptrdiff_t G, ptrdiff_t rows, fl_sparse *found) {
    if (count < FL_SPARSE_INPUTS || count > INT32_MAX || G > FL_TILE || rows > FL_SPARSE_ROWS) return NULL;
    for (ptrdiff_t r = 0; r < rows; r++) {
        const int n = fl_nonzero(s[r], count, found->at[r]);
        if (n > FL_SPARSE_MOST) return NULL;
        found->n[r] = (int8_t)n;
    }
    return found;
}

/* fl_add_sources of product.h for such sources. */
FL_INLINE void fl_sparse_add_tile(const fl_tile *t, const fl_sparse *sparse, const REAL *const *s, ptrdiff_t count, ptrdiff_t rows, int P, int G) {
    for (int p = 0; p < P; p++)
        for (ptrdiff_t r = 0; r < rows; r++) {
            REAL *total = t->net + p * t->net_panel + r * t->net_row;
            const REAL *w = t->w + p * t->panel, *start = t->bias ? t->bias + p * G * VW : total;
            V sum[FL_TILE];
            FL_UNROLL
            for (int n = 0; n < G; n++)
                sum[n] = v_load(start + n * VW);
            int e = 0;
            for (ptrdiff_t end = FL_BLOCK; end - FL_BLOCK < count; end += FL_BLOCK) {
                V acc[FL_TILE];
                FL_UNROLL
                for (int n = 0; n < G; n++)
                    acc[n] = v_zero();
                for (; e < sparse->n[r] && sparse->at[r][e] < end; e++) {
                    const ptrdiff_t k = sparse->at[r][e];
                    const V value = v_bcast(s[r] + k);
                    FL_UNROLL
                    for (int n = 0; n < G; n++)
                        acc[n] = v_fma(value, v_load(w + (k * G + n) * VW), acc[n]);
                }
                FL_UNROLL
                for (int n = 0; n < G; n++)
                    sum[n] = v_add(sum[n], acc[n]);
            }
            FL_UNROLL
            for (int n = 0; n < G; n++)
                v_store(total + n * VW, sum[n]);
        }
}

FL_NOINLINE void fl_sparse_add(const fl_tile *t, const fl_sparse *sparse, const REAL *const *s, ptrdiff_t count, ptrdiff_t rows, int P, int G) {
    switch (G) {
    case 4: fl_sparse_add_tile(t, sparse, s, count, rows, P, 4); break;
    case 3: fl_sparse_add_tile(t, sparse, s, count, rows, P, 3); break;
    case 2: fl_sparse_add_tile(t, sparse, s, count, rows, P, 2); break;
    default: fl_sparse_add_tile(t, sparse, s, count, rows, P, 1);
    }
}

/* ---- The gradient of the input weights ---- */

/* An input that is not zero. */
typedef struct fl_filled {
    ptrdiff_t column, row;
    const REAL *x;
} fl_filled;

/* Those of all rows, in blocks of FL_BLOCK rows from the last one to the first; in a block column by column, rows in their order. */
typedef struct fl_filled_list {
    ptrdiff_t n, blocks; /* no blocks: the inputs are not sparse */
    ptrdiff_t *end;      /* (blocks,) */
    fl_filled *at;
} fl_filled_list;

typedef char fl_filled_fits[sizeof(fl_filled) <= FL_FILLED_BYTES && sizeof(fl_filled_list) <= FL_FILLED_LIST_BYTES ? 1 : -1];

static void fl_find_filled(const fl_back *b, const fl_geometry *q) {
    fl_filled_list *list = (fl_filled_list *)b->filled;
    const ptrdiff_t B = b->batch->lanes;
    *list = (fl_filled_list){0, 0, (ptrdiff_t *)(list + 1), NULL};
    list->at = (fl_filled *)(list->end + (b->n_rows + FL_BLOCK - 1) / FL_BLOCK);
    if (q->I < FL_SPARSE_INPUTS || q->I > INT32_MAX || q->G > FL_TILE || b->l->kind == FASTLSTM_LINEAR || b->l->dropout > 0) return;
    for (ptrdiff_t end = b->n_rows; end > 0; end -= FL_BLOCK) {
        const ptrdiff_t first = list->n;
        for (ptrdiff_t r = end > FL_BLOCK ? end - FL_BLOCK : 0; r < end; r++) {
            const ptrdiff_t row = b->rows[r];
            const REAL *x = (const REAL *)b->x + row / B * b->x_step + row % B * b->x_lane;
            int32_t at[FL_SPARSE_MOST];
            const int n = fl_nonzero(x, q->I, at);
            if (n > FL_SPARSE_MOST) {
                list->blocks = 0;
                return;
            }
            for (int e = 0; e < n; e++) {
                ptrdiff_t to = list->n++; /* insertion sort: columns of earlier rows before equal ones */
                for (; to > first && list->at[to - 1].column > at[e]; to--)
                    list->at[to] = list->at[to - 1];
                list->at[to] = (fl_filled){at[e], row, x + at[e]};
            }
        }
        list->end[list->blocks++] = list->n;
    }
}

/* panel[column] += sum of d x over its rows, one chain from zero, for each column of a block; offset: of a group's errors on the tape. */
FL_INLINE void fl_sparse_block(const fl_back *b, const fl_geometry *q, ptrdiff_t offset, const fl_filled *e, const fl_filled *end, REAL *panel, int G) {
    while (e < end) {
        const ptrdiff_t column = e->column;
        REAL *to = panel + column * G * VW;
        V acc[FL_TILE];
        FL_UNROLL
        for (int n = 0; n < G; n++)
            acc[n] = v_zero();
        for (; e < end && e->column == column; e++) {
            const REAL *d = (const REAL *)b->tape + e->row * q->acts + offset;
            const V x = v_bcast(e->x);
            FL_UNROLL
            for (int n = 0; n < G; n++)
                acc[n] = v_fma(x, v_load(d + n * q->by_vector * VW), acc[n]);
        }
        FL_UNROLL
        for (int n = 0; n < G; n++)
            v_store(to + n * VW, v_add(v_load(to + n * VW), acc[n]));
    }
}

/* The gradient of a group's input weights; panel: scratch, (I, G, VW). */
FL_NOINLINE void fl_sparse_gradient(const fl_back *b, const fl_geometry *q, ptrdiff_t group, REAL *panel) {
    const fl_filled_list *list = (const fl_filled_list *)b->filled;
    const ptrdiff_t offset = fl_act_net(q, group, VW);
    REAL *gradient = (REAL *)b->gradient;
    for (ptrdiff_t k = 0; !b->add_gradient && k < q->I * q->G; k++)
        v_store(panel + k * VW, v_zero());
    if (b->add_gradient) fl_copy_sources(b->l, q, group, gradient, panel, 0, b->l->weight_ih, q->I, q->G, 0);
    for (ptrdiff_t block = 0; block < list->blocks; block++) {
        const fl_filled *e = list->at + (block ? list->end[block - 1] : 0), *end = list->at + list->end[block];
        switch (q->G) {
        case 4: fl_sparse_block(b, q, offset, e, end, panel, 4); break;
        case 3: fl_sparse_block(b, q, offset, e, end, panel, 3); break;
        case 2: fl_sparse_block(b, q, offset, e, end, panel, 2); break;
        default: fl_sparse_block(b, q, offset, e, end, panel, 1);
        }
    }
    fl_copy_sources(b->l, q, group, gradient, panel, 1, b->l->weight_ih, q->I, q->G, 0);
}

#endif
