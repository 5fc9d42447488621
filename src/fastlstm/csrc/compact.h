/* Compact weights: net inputs from halves or bytes, for any number of rows; a cell goes on from them as from any others.

   Halves are widened and everything is then computed as product.h says, in the same order: the bits are those of a
   native layer whose weights are the rounded ones.

   Bytes: for each row of weights and kind of sources (x, h, gate activations), and for each lane and step and kind,

       w ~ scale_w q_w     s ~ scale_s q_s     q = round(. / scale) in [-127, 127]

       net = bias + sum over kinds of (float)(q_w . q_s) * (scale_s * scale_w)

   one kind after the other, each operation rounded by itself. The dot product is exact in int32, so neither tiles, lanes
   nor instruction sets change a bit. A source vector with infinity or NaN has the scale NaN and spoils its own lane. */
#ifndef FL_COMPACT_H
#define FL_COMPACT_H

/* Scratch of compact layers. */
typedef struct fl_compact {
    REAL *block;   /* one block of a tile's halves, widened: (P, FL_BLOCK, N, VW) */
    int8_t *bytes; /* quantised sources: (rows, stride), each kind from a 64-byte boundary on */
    ptrdiff_t stride;
    REAL *scales;      /* (rows, FL_KINDS) */
    int unsigned_dots; /* the processor has vi_dot_unsigned: bytes of sources are stored with 128 added */
} fl_compact;

#ifndef FL_F64

/* Net inputs to be made, of all rows: of these kinds of sources, for panels from one group on. */
typedef struct fl_job {
    const fl_cell *cell;
    const fl_compact *scratch;
    fl_compact_geometry c;
    ptrdiff_t rows;
    const REAL *const *s[FL_KINDS]; /* (rows,) */
    int first, end;                 /* kinds; the totals start from the biases if x is among them, or go on */
    REAL *net;                      /* (P, net_panel), in each (rows, G, VW) */
    ptrdiff_t net_panel;
} fl_job;

/* What the totals of a row-vector start from. */
FL_INLINE V fl_job_start(const fl_job *job, int kind, ptrdiff_t group, ptrdiff_t n, const REAL *total) {
    const fl_geometry *q = &job->cell->q;
    return kind > FL_X ? v_load(total) : fl_bias(job->cell->w + group * q->biases * job->c.row + n * VW, job->c.row, q->biases);
}

/* ---- Halves ---- */

static const uint16_t *fl_halves(const fl_job *job, ptrdiff_t group, int kind) {
    return (const uint16_t *)(job->cell->w + job->c.weights + group * job->c.at[FL_KINDS] + job->c.at[kind]);
}

/* One row: fl_chain of product.h, widening as it goes. */
FL_INLINE void fl_half_chain(V *acc, int P, int N, const uint16_t *w, ptrdiff_t panel, const REAL *s, ptrdiff_t count) {
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        acc[j] = v_zero();
    for (ptrdiff_t k = 0; k < count; k++, w += N * VW) {
        const V x = v_bcast(s + k);
        FL_UNROLL
        for (int p = 0; p < P; p++) {
            FL_UNROLL
            for (int n = 0; n < N; n++)
                acc[p * N + n] = v_fma(x, v_load_half(w + p * panel + n * VW), acc[p * N + n]);
        }
    }
}

FL_INLINE void fl_half_single(const fl_job *job, ptrdiff_t group, int P, int N) {
    V total[2 * FL_TILE], acc[2 * FL_TILE];
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        total[j] = fl_job_start(job, job->first, group + j / N, j % N, job->net + j / N * job->net_panel + j % N * VW);
    for (int kind = job->first; kind < job->end; kind++) {
        const ptrdiff_t count = fl_sources(&job->cell->q, kind);
        for (ptrdiff_t from = 0; from < count; from += FL_BLOCK) {
            fl_half_chain(acc, P, N, fl_halves(job, group, kind) + from * N * VW, 2 * job->c.at[FL_KINDS], job->s[kind][0] + from,
                          count - from < FL_BLOCK ? count - from : FL_BLOCK);
            FL_UNROLL
            for (int j = 0; j < P * N; j++)
                total[j] = v_add(total[j], acc[j]);
        }
    }
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        v_store(job->net + j / N * job->net_panel + j % N * VW, total[j]);
}

/* Many rows share what is widened: N row-vectors from n0 on. */
static void fl_half_rows(const fl_job *job, ptrdiff_t group, ptrdiff_t P, ptrdiff_t n0, ptrdiff_t N) {
    const ptrdiff_t row = job->c.row;
    REAL bias[FL_TILE * VW];
    fl_tile t = {job->scratch->block, FL_BLOCK * N * VW, N * VW, job->net + n0 * VW, job->net_panel, row, NULL, NULL};
    if (job->first == FL_X) {
        t.bias = bias;
        for (ptrdiff_t j = 0; j < P * N; j++)
            v_store(bias + j * VW, fl_job_start(job, FL_X, group + j / N, n0 + j % N, NULL));
    }
    for (int kind = job->first; kind < job->end; kind++) {
        const ptrdiff_t count = fl_sources(&job->cell->q, kind);
        for (ptrdiff_t from = 0; from < count; from += FL_BLOCK, t.bias = NULL) {
            const ptrdiff_t n = count - from < FL_BLOCK ? count - from : FL_BLOCK;
            const uint16_t *w = fl_halves(job, group, kind) + from * row + n0 * VW;
            for (ptrdiff_t p = 0; p < P; p++, w += 2 * job->c.at[FL_KINDS])
                for (ptrdiff_t k = 0; k < n; k++)
                    for (ptrdiff_t j = 0; j < N; j++)
                        v_store(job->scratch->block + ((p * FL_BLOCK + k) * N + j) * VW, v_load_half(w + k * row + j * VW));
            fl_add_block(&t, job->s[kind], from, n, job->rows, (const REAL *)(w + n * row), (int)P, (int)N);
        }
    }
}

/* ---- Bytes ---- */

/* Quantises the sources of a row; returns their scale, max|s| / 127. Vectors of nothing but tiny numbers count as zero. */
static REAL fl_quantise(const REAL *s, ptrdiff_t count, int8_t *to, int offset) {
    const ptrdiff_t whole = count - count % VW;
    VI bits = vi_zero();
    for (ptrdiff_t k = 0; k < whole; k += VW)
        bits = vi_max_abs(bits, v_load(s + k));
    if (whole < count) bits = vi_max_abs(bits, v_load_n(s + whole, (int)(count - whole)));
    const union { int32_t bits; REAL value; } largest = {vi_largest(bits)};
    const int finite = largest.value < INFINITY, zero = largest.value < FL_TINY;
    const V inverse = v_set1(finite && !zero ? 127 / largest.value : 0);
    for (ptrdiff_t k = 0; k < whole; k += VW)
        v_store_bytes(to + k, v_mul(v_load(s + k), inverse), offset);
    if (whole < count) v_store_bytes(to + whole, v_mul(v_load_n(s + whole, (int)(count - whole)), inverse), offset);
    return !finite ? (REAL)NAN : zero ? 0 : largest.value / 127;
}

static ptrdiff_t fl_bytes_at(const fl_geometry *q, int kind) {
    return kind == FL_X ? 0 : fl_bytes_at(q, kind - 1) + (fl_sources(q, kind - 1) + 63) / 64 * 64;
}

static void fl_quantise_rows(const fl_job *job) {
    const fl_compact *scratch = job->scratch;
    for (int kind = job->first; kind < job->end; kind++)
        for (ptrdiff_t r = 0, at = fl_bytes_at(&job->cell->q, kind); r < job->rows; r++)
            scratch->scales[r * FL_KINDS + kind] = fl_quantise(job->s[kind][r], fl_sources(&job->cell->q, kind),
                                                               scratch->bytes + r * scratch->stride + at,
                                                               scratch->unsigned_dots ? 128 : 0);
}

/* R rows from r0 on, for P panels of N row-vectors from n0 on, `row` elements apart from source to source. */
FL_INLINE void fl_bytes_tile(const fl_job *job, ptrdiff_t group, ptrdiff_t n0, ptrdiff_t row, ptrdiff_t r0, int P, int R, int N,
                             int unsigned_dots) {
    const fl_geometry *q = &job->cell->q;
    const fl_compact *scratch = job->scratch;
    const ptrdiff_t panel = job->c.at[FL_KINDS], stride = scratch->stride;
    for (int kind = job->first; kind < job->end; kind++) {
        const REAL *scales = job->cell->w + job->c.scales + (group * FL_KINDS + kind) * row + n0 * VW;
        const int32_t *sums = (const int32_t *)(job->cell->w + job->c.sums) + (group * FL_KINDS + kind) * row + n0 * VW;
        const int32_t *w = (const int32_t *)(job->cell->w + job->c.weights + group * panel + job->c.at[kind]) + n0 * VW;
        const int8_t *s = scratch->bytes + r0 * stride + fl_bytes_at(q, kind);
        VI acc[FL_ROWS * FL_TILE + 2 * FL_TILE];
        FL_UNROLL
        for (int j = 0; j < P * R * N; j++)
            acc[j] = unsigned_dots ? vi_load(sums + j / (R * N) * FL_KINDS * row + j % N * VW) : vi_zero();
        for (ptrdiff_t k = (fl_sources(q, kind) + 3) / 4; k > 0; k--, w += row, s += 4) {
            FL_UNROLL
            for (int p = 0; p < P; p++) {
                VI wk[FL_TILE];
                FL_UNROLL
                for (int n = 0; n < N; n++)
                    wk[n] = vi_load(w + p * panel + n * VW);
                FL_UNROLL
                for (int r = 0; r < R; r++) {
                    const VI a = vi_bcast(s + r * stride);
                    FL_UNROLL
                    for (int n = 0; n < N; n++) {
                        VI *to = acc + (p * R + r) * N + n;
                        *to = unsigned_dots ? vi_dot_unsigned(*to, a, wk[n]) : vi_dot(*to, a, wk[n]);
                    }
                }
            }
        }
        FL_UNROLL
        for (int j = 0; j < P * R * N; j++) {
            const int p = j / (R * N), r = j / N % R, n = j % N;
            REAL *total = job->net + p * job->net_panel + (r0 + r) * row + (n0 + n) * VW;
            const V scale = v_mul(v_bcast(scratch->scales + (r0 + r) * FL_KINDS + kind), v_load(scales + p * FL_KINDS * row + n * VW));
            v_store(total, v_add(fl_job_start(job, kind, group + p, n0 + n, total), v_mul(vi_real(acc[j]), scale)));
        }
    }
}

/* All rows. */
FL_INLINE void fl_bytes_rows(const fl_job *job, ptrdiff_t group, ptrdiff_t n0, ptrdiff_t row, int P, int N, int unsigned_dots) {
    ptrdiff_t r = 0;
#if FL_ROWS > 3
    for (; r + 6 <= job->rows; r += 6)
        fl_bytes_tile(job, group, n0, row, r, P, 6, N, unsigned_dots);
    for (; r + 4 <= job->rows; r += 4)
        fl_bytes_tile(job, group, n0, row, r, P, 4, N, unsigned_dots);
#endif
    for (; r + 2 <= job->rows; r += 2)
        fl_bytes_tile(job, group, n0, row, r, P, 2, N, unsigned_dots);
    for (; r < job->rows; r++)
        fl_bytes_tile(job, group, n0, row, r, P, 1, N, unsigned_dots);
}

/* ---- Either ---- */

/* Panels that are made together; one row alone takes twice as many, for enough chains side by side. */
static ptrdiff_t fl_compact_panels(const fl_cell *cell, ptrdiff_t group, ptrdiff_t rows) {
    const ptrdiff_t G = cell->q.G, N = rows > 1 ? FL_TILE : 2 * FL_TILE, P = G > FL_TILE ? 1 : G == 3 ? N / 4 : N / G;
    return cell->end - group >= P ? P : 1;
}

FL_INLINE void fl_bytes_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P, int unsigned_dots) {
    const int one = job->rows == 1;
    switch (P * 8 + job->cell->q.G) {
    case 8 + 4: fl_bytes_rows(job, group, 0, 4 * VW, 1, 4, unsigned_dots); break;
    case 8 + 3: fl_bytes_rows(job, group, 0, 3 * VW, 1, 3, unsigned_dots); break;
    case 8 + 2: fl_bytes_rows(job, group, 0, 2 * VW, 1, 2, unsigned_dots); break;
    case 16 + 4: if (one) fl_bytes_tile(job, group, 0, 4 * VW, 0, 2, 1, 4, unsigned_dots); break;
    case 16 + 3: if (one) fl_bytes_tile(job, group, 0, 3 * VW, 0, 2, 1, 3, unsigned_dots); break;
    case 16 + 2: fl_bytes_rows(job, group, 0, 2 * VW, 2, 2, unsigned_dots); break;
    case 32 + 2: if (one) fl_bytes_tile(job, group, 0, 2 * VW, 0, 4, 1, 2, unsigned_dots); break;
    case 32 + 1: fl_bytes_rows(job, group, 0, VW, 4, 1, unsigned_dots); break;
    case 64 + 1: if (one) fl_bytes_tile(job, group, 0, VW, 0, 8, 1, 1, unsigned_dots); break;
    default:
        for (ptrdiff_t n = 0; n < job->cell->q.G; n++)
            fl_bytes_rows(job, group, n, job->c.row, 1, 1, unsigned_dots);
    }
}

FL_NOINLINE void fl_bytes_signed(const fl_job *job, ptrdiff_t group, ptrdiff_t P) { fl_bytes_panels(job, group, P, 0); }
FL_NOINLINE void fl_bytes_unsigned(const fl_job *job, ptrdiff_t group, ptrdiff_t P) { fl_bytes_panels(job, group, P, V_DOT_UNSIGNED); }

FL_NOINLINE void fl_half_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) {
    const ptrdiff_t G = job->cell->q.G;
    if (job->rows > 1) {
        for (ptrdiff_t n = 0; n < (G > FL_TILE ? G : 1); n++)
            fl_half_rows(job, group, P, n, G > FL_TILE ? 1 : G);
        return;
    }
    switch (P * 8 + G) {
    case 8 + 4: fl_half_single(job, group, 1, 4); break;
    case 8 + 3: fl_half_single(job, group, 1, 3); break;
    case 8 + 2: fl_half_single(job, group, 1, 2); break;
    case 8 + 1: fl_half_single(job, group, 1, 1); break;
    case 16 + 4: fl_half_single(job, group, 2, 4); break;
    case 16 + 3: fl_half_single(job, group, 2, 3); break;
    case 32 + 2: fl_half_single(job, group, 4, 2); break;
    case 64 + 1: fl_half_single(job, group, 8, 1); break;
    default:
        for (ptrdiff_t n = 0; n < G; n++)
            fl_half_rows(job, group, 1, n, 1);
    }
}

static void fl_job_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) {
    if (job->cell->l->weights == FASTLSTM_FLOAT16) fl_half_panels(job, group, P);
    else if (job->scratch->unsigned_dots) fl_bytes_unsigned(job, group, P);
    else fl_bytes_signed(job, group, P);
}

static fl_job fl_job_new(const fl_cell *cell, const fl_compact *scratch, const REAL *const *x, const REAL *const *h,
                         const REAL *const *a, ptrdiff_t rows, int first) {
    const fl_job job = {.cell = cell,
                        .scratch = scratch,
                        .c = fl_layer_compact(cell->l, &cell->q, VW),
                        .rows = rows,
                        .s = {x, h, a},
                        .first = first,
                        .end = !h ? FL_H : !cell->q.A ? FL_A : FL_KINDS};
    if (cell->l->weights == FASTLSTM_INT8) fl_quantise_rows(&job);
    return job;
}

/* fl_cell_rows, fl_input_rows and fl_linear_rows for either kind of weights. */
static void fl_compact_cell_rows(const fl_cell *cell, const fl_rows *rows, const fl_compact *scratch) {
    fl_job job = fl_job_new(cell, scratch, rows->x, rows->h, rows->a, rows->n, rows->net_panel ? FL_H : FL_X);
    job.net_panel = rows->net_panel ? rows->net_panel : rows->n * job.c.row;
    for (ptrdiff_t group = cell->first, P; group < cell->end; group += P) {
        P = fl_compact_panels(cell, group, rows->n);
        job.net = rows->net + group * rows->net_panel;
        fl_job_panels(&job, group, P);
        for (ptrdiff_t p = 0; p < P; p++)
            fl_finish_rows(cell, group + p, rows, job.net + p * job.net_panel);
    }
}

static void fl_compact_input_rows(const fl_cell *cell, const REAL *const *x, ptrdiff_t rows, REAL *net, ptrdiff_t net_panel, const fl_compact *scratch) {
    fl_job job = fl_job_new(cell, scratch, x, NULL, NULL, rows, FL_X);
    job.net_panel = net_panel;
    for (ptrdiff_t group = cell->first, P; group < cell->end; group += P) {
        P = fl_compact_panels(cell, group, rows);
        job.net = net + group * net_panel;
        fl_job_panels(&job, group, P);
    }
}

static void fl_compact_linear_rows(const fl_cell *cell, const REAL *const *x, REAL *const *y, ptrdiff_t rows, REAL *net, const fl_compact *scratch) {
    fl_job job = fl_job_new(cell, scratch, x, NULL, NULL, rows, FL_X);
    job.net = net;
    job.net_panel = rows * VW;
    for (ptrdiff_t group = cell->first, P; group < cell->end; group += P) {
        P = fl_compact_panels(cell, group, rows);
        fl_job_panels(&job, group, P);
        for (ptrdiff_t p = 0; p < P; p++)
            for (ptrdiff_t r = 0; r < rows; r++)
                fl_linear_finish(cell, group + p, v_load(net + (p * rows + r) * VW), y[r]);
    }
}

#else /* no compact weights for double: api.c refuses them */

static void fl_compact_cell_rows(const fl_cell *cell, const fl_rows *rows, const fl_compact *scratch) {
    (void)cell, (void)rows, (void)scratch;
}
static void fl_compact_input_rows(const fl_cell *cell, const REAL *const *x, ptrdiff_t rows, REAL *net, ptrdiff_t net_panel, const fl_compact *scratch) {
    (void)cell, (void)x, (void)rows, (void)net, (void)net_panel, (void)scratch;
}
static void fl_compact_linear_rows(const fl_cell *cell, const REAL *const *x, REAL *const *y, ptrdiff_t rows, REAL *net, const fl_compact *scratch) {
    (void)cell, (void)x, (void)y, (void)rows, (void)net, (void)scratch;
}

#endif
#endif
