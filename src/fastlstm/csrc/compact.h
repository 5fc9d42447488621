/* Compact weights: net inputs from halves or integers, for any number of rows; a cell goes on from them as from any others.

   Halves are widened and everything is then computed as product.h says, in the same order: the bits are those of a
   native layer whose weights are the rounded ones.

   Integers: for each row of weights and kind of sources (x, h, gate activations), and for each lane and step and kind,

       w ~ scale_w q_w     s ~ scale_s q_s     q = round(. / scale) in [-127, 127] (bytes) or [-8191, 8191] (16 bits)

       net = bias + sum over kinds of (float)(q_w . q_s) * (scale_s * scale_w)

   one kind after the other, each operation rounded by itself. The dot product is exact in int32, so neither tiles, lanes
   nor instruction sets change a bit; with 16 bits it is the sum of (float) dot products of 32 sources each. A source
   vector with infinity or NaN has the scale NaN and spoils its own lane.

   Where the processor multiplies unsigned by signed bytes, those of weights are stored with 128 added, and a dot product
   begins at -128 times the sum of the q_s, which is one number for all weights. */
#ifndef FL_COMPACT_H
#define FL_COMPACT_H

/* Scratch of compact layers. */
typedef struct fl_compact {
    REAL *block;   /* one block of a tile's halves, widened, (P, FL_BLOCK, N, VW); or sums of products of integers, (rows, P, N, VW) */
    int8_t *bytes; /* quantised sources, of 8 or 16 bits: (rows, stride), each kind from a 64-byte boundary on */
    ptrdiff_t stride;
    REAL *scales;      /* (rows, FL_KINDS) */
    int32_t *starts;   /* (rows, FL_KINDS): what dot products begin at */
    int vnni;          /* fl_vnni() */
} fl_compact;

#ifndef FL_F64

/* Net inputs to be made, of all rows: of these kinds of sources, for panels from one group on. */
typedef struct fl_job {
    const fl_cell *cell;
    const fl_compact *scratch;
    ptrdiff_t rows;
    const REAL *const *s[FL_KINDS]; /* (rows,) */
    int first, end;                 /* kinds */
    int started;                    /* the totals go on; otherwise they start from the biases */
    ptrdiff_t G, row;               /* row-vectors that these kinds feed: how many, and G * VW */
    ptrdiff_t shift;                /* where those begin that h feeds, if one job has both */
    REAL *net;                      /* (P, net_panel), in each (rows, net_row), in each what they feed */
    ptrdiff_t net_panel, net_row;
    const fl_rows *step;            /* one row: a cell's step, which goes on from registers; or NULL */
} fl_job;

/* What one row's N net inputs of P panels start from, of which each kind of sources feeds G, in registers; and what becomes of
   the totals. */
FL_INLINE void fl_job_open(const fl_job *job, ptrdiff_t group, V *total, int P, int N, int G) {
    const fl_geometry *q = &job->cell->q;
    const ptrdiff_t row = job->cell->c.row, biases = q->biases;
    const REAL *bias = job->cell->w + group * biases * row;
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        total[j] = job->started ? v_load(job->net + j / N * job->net_panel + j % N * VW)
                   : N == G     ? fl_bias(bias + j / N * biases * row + j % N * VW, row, biases)
                                : fl_start(q, bias + j / N * biases * row, j % N);
}

FL_INLINE void fl_job_close(const fl_job *job, ptrdiff_t group, const V *total, int P, int N) {
    if (job->step) {
        fl_single_end(job->cell, group, job->step, total, P, N);
        return;
    }
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        v_store(job->net + j / N * job->net_panel + j % N * VW, total[j]);
}

/* What all rows of P panels start from, before the first kind of sources. */
static void fl_job_start_rows(const fl_job *job, ptrdiff_t group, ptrdiff_t P) {
    for (ptrdiff_t p = 0; p < P && !job->started; p++)
        for (ptrdiff_t n = 0; n < job->cell->q.N; n++) {
            const V bias = fl_start(&job->cell->q, job->cell->w + (group + p) * job->cell->q.biases * job->cell->c.row, n);
            for (ptrdiff_t r = 0; r < job->rows; r++)
                v_store(job->net + p * job->net_panel + r * job->net_row + n * VW, bias);
        }
}

/* ---- Halves ---- */

static const uint16_t *fl_halves(const fl_job *job, ptrdiff_t group, int kind) {
    return (const uint16_t *)(job->cell->w + job->cell->c.weights + group * job->cell->c.at[FL_KINDS] + job->cell->c.at[kind]);
}

/* One row: fl_chain of product.h, widening as it goes. */
FL_INLINE void fl_half_chain(V *acc, int P, int N, const uint16_t *w, ptrdiff_t panel, const REAL *s, ptrdiff_t count) {
    const uint16_t *of[2 * FL_TILE];
    FL_UNROLL
    for (int p = 0; p < P; p++)
        of[p] = w + p * panel;
    FL_UNROLL
    for (int j = 0; j < P * N; j++)
        acc[j] = v_zero();
    for (ptrdiff_t k = 0; k < count; k++) {
        const V x = v_bcast(s + k);
        FL_UNROLL
        for (int j = 0; j < P * N; j++)
            acc[j] = v_fma(x, v_load_half(of[j / N] + (k * N + j % N) * VW), acc[j]);
    }
}

/* total[p][from + n] += the products of one kind of sources, n < G. */
FL_INLINE void fl_half_add(V *total, const fl_job *job, ptrdiff_t group, int kind, int P, int N, int G, int from) {
    const ptrdiff_t count = fl_sources(&job->cell->q, kind);
    for (ptrdiff_t k = 0; k < count; k += FL_BLOCK) {
        V acc[2 * FL_TILE];
        fl_half_chain(acc, P, G, fl_halves(job, group, kind) + k * G * VW, 2 * job->cell->c.at[FL_KINDS], job->s[kind][0] + k,
                      count - k < FL_BLOCK ? count - k : FL_BLOCK);
        FL_UNROLL
        for (int j = 0; j < P * G; j++)
            total[j / G * N + from + j % G] = v_add(total[j / G * N + from + j % G], acc[j]);
    }
}

FL_INLINE void fl_half_single(const fl_job *job, ptrdiff_t group, int P, int N, int G) {
    V total[2 * FL_TILE];
    fl_job_open(job, group, total, P, N, G);
    for (int kind = job->first; kind < job->end; kind++) {
        if (N > G && kind > FL_X) fl_half_add(total, job, group, kind, P, N, G, N - G);
        else fl_half_add(total, job, group, kind, P, N, G, 0);
    }
    fl_job_close(job, group, total, P, N);
}

/* Many rows share what is widened: N row-vectors from n0 on. */
static void fl_half_rows(const fl_job *job, ptrdiff_t group, ptrdiff_t P, ptrdiff_t n0, ptrdiff_t N) {
    const ptrdiff_t row = job->row;
    fl_tile t = {job->scratch->block, FL_BLOCK * N * VW, N * VW, job->net + n0 * VW, job->net_panel, job->net_row, NULL, NULL, 1, NULL};
    for (int kind = job->first; kind < job->end; kind++) {
        const ptrdiff_t count = fl_sources(&job->cell->q, kind);
        for (ptrdiff_t from = 0; from < count; from += FL_BLOCK) {
            const ptrdiff_t n = count - from < FL_BLOCK ? count - from : FL_BLOCK;
            const uint16_t *w = fl_halves(job, group, kind) + from * row + n0 * VW;
            for (ptrdiff_t p = 0; p < P; p++, w += 2 * job->cell->c.at[FL_KINDS])
                for (ptrdiff_t k = 0; k < n; k++)
                    for (ptrdiff_t j = 0; j < N; j++)
                        v_store(job->scratch->block + ((p * FL_BLOCK + k) * N + j) * VW, v_load_half(w + k * row + j * VW));
            fl_add_block(&t, job->s[kind], from, n, job->rows, (const REAL *)(w + n * row), (int)P, (int)N);
        }
    }
}

/* ---- Integers ---- */

/* The ways to make their dot products, of four bytes in a word or of two numbers of 16 bits; one of either with VNNI. */
enum { FL_BYTES, FL_UNSIGNED, FL_SHORTS, FL_FUSED };
FL_INLINE int fl_shorts(int dots) { return dots >= FL_SHORTS; }

FL_INLINE int fl_dots(const fl_cell *cell, const fl_compact *scratch) {
    const int vnni = V_VNNI && scratch->vnni;
    return cell->l->weights == FASTLSTM_INT16 ? vnni ? FL_FUSED : FL_SHORTS : vnni ? FL_UNSIGNED : FL_BYTES;
}

/* Words of 16-bit numbers whose products int32 can add up: 32 * 8191^2 < 2^31. */
enum { FL_SHORT_BLOCK = 16 };

/* Quantises the sources of a row: their scale is max|s| / most. Vectors of nothing but tiny numbers count as zero. */
FL_INLINE void fl_quantise(const REAL *s, ptrdiff_t count, int8_t *to, REAL *scale, int32_t *start, int dots) {
    const REAL most = fl_shorts(dots) ? FL_MOST_SHORT : FL_MOST_BYTE;
    const ptrdiff_t whole = count - count % VW;
    VI bits = vi_zero();
    for (ptrdiff_t k = 0; k < whole; k += VW)
        bits = vi_max_abs(bits, v_load(s + k));
    if (whole < count) bits = vi_max_abs(bits, v_load_n(s + whole, (int)(count - whole)));
    const union { int32_t bits; REAL value; } largest = {vi_largest(bits)};
    const int finite = largest.value < INFINITY, zero = largest.value < FL_TINY;
    const V inverse = v_set1(finite && !zero ? most / largest.value : 0);
    VI sum = vi_zero();
    for (ptrdiff_t k = 0; k < count; k += VW) {
        const VI rounded = vi_round(v_mul(k < whole ? v_load(s + k) : v_load_n(s + k, (int)(count - k)), inverse));
        if (dots == FL_UNSIGNED) sum = vi_add(sum, rounded);
        if (fl_shorts(dots)) vi_store_shorts((int16_t *)to + k, rounded);
        else vi_store_bytes(to + k, rounded);
    }
    *scale = !finite ? (REAL)NAN : zero ? 0 : largest.value / most;
    *start = dots == FL_UNSIGNED ? (int32_t)(-128 * (uint32_t)vi_sum(sum)) : 0; /* of NaN any number */
}

/* Where a kind of sources begins in a row of them, in bytes. */
FL_INLINE ptrdiff_t fl_integers_at(const fl_geometry *q, int kind, int dots) {
    const ptrdiff_t in_64 = fl_shorts(dots) ? 32 : 64;
    const ptrdiff_t x = (q->I + in_64 - 1) / in_64 * 64, h = (q->P + in_64 - 1) / in_64 * 64;
    return kind == FL_X ? 0 : kind == FL_H ? x : x + h;
}

FL_INLINE void fl_quantise_rows(const fl_job *job, int dots) {
    const fl_compact *scratch = job->scratch;
    for (int kind = job->first; kind < job->end; kind++)
        for (ptrdiff_t r = 0, at = fl_integers_at(&job->cell->q, kind, dots); r < job->rows; r++)
            fl_quantise(job->s[kind][r], fl_sources(&job->cell->q, kind), scratch->bytes + r * scratch->stride + at,
                        scratch->scales + r * FL_KINDS + kind, scratch->starts + r * FL_KINDS + kind, dots);
}

/* A group's weights of one kind of sources, and their scales. */
static const REAL *fl_integer_weights(const fl_job *job, ptrdiff_t group, int kind) {
    return job->cell->w + job->cell->c.weights + group * job->cell->c.at[FL_KINDS] + job->cell->c.at[kind];
}

static const REAL *fl_integer_scales(const fl_job *job, ptrdiff_t group, int kind) {
    return fl_integer_weights(job, group, kind + 1) - fl_fed(&job->cell->q, kind) * VW;
}

/* Words of a kind of sources, and how many of them a dot product takes. */
FL_INLINE ptrdiff_t fl_words(const fl_job *job, int kind, int dots) {
    const ptrdiff_t in_word = fl_shorts(dots) ? 2 : 4;
    return (fl_sources(&job->cell->q, kind) + in_word - 1) / in_word;
}

FL_INLINE ptrdiff_t fl_block_end(ptrdiff_t from, ptrdiff_t words, int dots) {
    return fl_shorts(dots) && words - from > FL_SHORT_BLOCK ? from + FL_SHORT_BLOCK : words;
}

/* Dot products (P, R, N) of words [from, end): of R rows from r0 on with N row-vectors from n0 on, `row` words apart from
   one to the next. */
FL_INLINE void fl_integer_chain(VI *acc, int P, int R, int N, const fl_job *job, ptrdiff_t group, int kind, ptrdiff_t n0,
                                ptrdiff_t row, ptrdiff_t r0, ptrdiff_t from, ptrdiff_t end, int dots) {
    const ptrdiff_t at = fl_integers_at(&job->cell->q, kind, dots);
    const int32_t *w[2 * FL_TILE];
    const int8_t *s[FL_ROWS];
    FL_UNROLL
    for (int p = 0; p < P; p++)
        w[p] = (const int32_t *)fl_integer_weights(job, group + p, kind) + n0 * VW;
    FL_UNROLL
    for (int r = 0; r < R; r++)
        s[r] = job->scratch->bytes + (r0 + r) * job->scratch->stride + at;
    FL_UNROLL
    for (int j = 0; j < P * R * N; j++)
        acc[j] = dots == FL_UNSIGNED ? vi_bcast((const int8_t *)(job->scratch->starts + (r0 + j / N % R) * FL_KINDS + kind)) : vi_zero();
    for (ptrdiff_t k = from; k < end; k++) {
        FL_UNROLL
        for (int p = 0; p < P; p++) {
            VI wk[FL_TILE];
            FL_UNROLL
            for (int n = 0; n < N; n++)
                wk[n] = vi_load(w[p] + k * row + n * VW);
            FL_UNROLL
            for (int r = 0; r < R; r++) {
                const VI a = vi_bcast(s[r] + 4 * k);
                FL_UNROLL
                for (int n = 0; n < N; n++) {
                    VI *to = acc + (p * R + r) * N + n;
                    if (dots == FL_FUSED) *to = vi_dot_fused(*to, a, wk[n]);
                    else if (dots == FL_SHORTS) *to = vi_dot_shorts(*to, a, wk[n]);
                    else if (dots == FL_UNSIGNED) *to = vi_dot_unsigned(*to, a, wk[n]);
                    else *to = vi_dot(*to, a, wk[n]);
                }
            }
        }
    }
}

/* total + sum * (scale_s * scale_w) */
FL_INLINE V fl_integer_total(V total, V sum, const REAL *scale_s, const REAL *scale_w) {
    return v_add(total, v_mul(sum, v_mul(v_bcast(scale_s), v_load(scale_w))));
}

/* Sums (P, G) of one row's products of one kind of sources. */
FL_INLINE void fl_integer_sums(V *sum, int P, int G, const fl_job *job, ptrdiff_t group, int kind, int dots) {
    const ptrdiff_t words = fl_words(job, kind, dots);
    ptrdiff_t from = 0, end;
    do {
        VI acc[2 * FL_TILE];
        end = fl_block_end(from, words, dots);
        fl_integer_chain(acc, P, 1, G, job, group, kind, 0, G * VW, 0, from, end, dots);
        FL_UNROLL
        for (int j = 0; j < P * G; j++)
            sum[j] = from ? v_add(sum[j], vi_real(acc[j])) : vi_real(acc[j]);
        from = end;
    } while (fl_shorts(dots) && from < words);
}

/* As fl_half_add. */
FL_INLINE void fl_integer_single_add(V *total, const fl_job *job, ptrdiff_t group, int kind, int P, int N, int G, int from, int dots) {
    V sum[2 * FL_TILE];
    fl_integer_sums(sum, P, G, job, group, kind, dots);
    FL_UNROLL
    for (int j = 0; j < P * G; j++) {
        V *to = total + j / G * N + from + j % G;
        *to = fl_integer_total(*to, sum[j], job->scratch->scales + kind, fl_integer_scales(job, group + j / G, kind) + j % G * VW);
    }
}

/* One row. */
FL_INLINE void fl_integer_single(const fl_job *job, ptrdiff_t group, int P, int N, int G, int dots) {
    V total[2 * FL_TILE];
    fl_job_open(job, group, total, P, N, G);
    for (int kind = job->first; kind < job->end; kind++) {
        if (N > G && kind > FL_X) fl_integer_single_add(total, job, group, kind, P, N, G, N - G, dots);
        else fl_integer_single_add(total, job, group, kind, P, N, G, 0, dots);
    }
    fl_job_close(job, group, total, P, N);
}

/* One row of a plain cell, one group at a time, each's end amid the products of the next one: as fl_plain_row. */
FL_INLINE void fl_integer_plain(fl_job *job, int dots) {
    enum { N = 4 };
    const fl_cell *cell = job->cell;
    const fl_row *row = job->step->row;
    const ptrdiff_t groups = cell->end - cell->first;
    V net[N] = {v_zero()}, c = v_zero(); /* of the group before */
    ptrdiff_t before = -1;
    REAL *made = job->net;
    for (ptrdiff_t at = 0; at < groups; at++) {
        const ptrdiff_t group = job->step->back ? cell->end - 1 - at : cell->first + at;
        V total[N];
        job->net = made + group * job->step->net_panel;
        fl_job_open(job, group, total, 1, N, N);
        for (int kind = job->first; kind < FL_A; kind++) {
            V sum[N];
            fl_integer_sums(sum, 1, N, job, group, kind, dots);
            if (before >= 0 && kind == job->first) c = fl_plain_state(cell, before, row, net[0], net[1], net[3]);
            FL_UNROLL
            for (int j = 0; j < N; j++)
                total[j] = fl_integer_total(total[j], sum[j], job->scratch->scales + kind, fl_integer_scales(job, group, kind) + j * VW);
        }
        if (before >= 0) fl_plain_output(cell, before, row, net[2], c);
        FL_UNROLL
        for (int n = 0; n < N; n++)
            net[n] = total[n];
        before = group;
    }
    if (before < 0) return; /* one thread of more than there are groups */
    fl_plain_output(cell, before, row, net[2], fl_plain_state(cell, before, row, net[0], net[1], net[3]));
}

/* The end of a kind of sources, for all rows and once for tiles of all shapes. */
FL_NOINLINE void fl_integer_add(const fl_job *job, int kind, ptrdiff_t group, ptrdiff_t n0, int P, int N) {
    const REAL *sum = job->scratch->block;
    for (ptrdiff_t r = 0; r < job->rows; r++)
        for (int p = 0; p < P; p++)
            for (int n = 0; n < N; n++, sum += VW) {
                REAL *total = job->net + p * job->net_panel + r * job->net_row + (n0 + n) * VW;
                v_store(total, fl_integer_total(v_load(total), v_load(sum), job->scratch->scales + r * FL_KINDS + kind,
                                                fl_integer_scales(job, group + p, kind) + (n0 + n) * VW));
            }
}

/* A tile of rows: what words [from, end) add to its sums, (rows, P, N) vectors. */
FL_INLINE void fl_integer_tile(const fl_job *job, ptrdiff_t group, int kind, ptrdiff_t n0, ptrdiff_t row, ptrdiff_t r0, int P, int R, int N,
                               ptrdiff_t from, ptrdiff_t end, int dots) {
    REAL *sums = job->scratch->block + r0 * P * N * VW;
    VI acc[FL_ROWS * FL_TILE];
    fl_integer_chain(acc, P, R, N, job, group, kind, n0, row, r0, from, end, dots);
    FL_UNROLL
    for (int j = 0; j < P * R * N; j++) {
        REAL *sum = sums + ((j / N % R * P + j / N / R) * N + j % N) * VW;
        v_store(sum, from > 0 ? v_add(v_load(sum), vi_real(acc[j])) : vi_real(acc[j]));
    }
}

/* All rows: from block to block of weights, which stay in the first-level cache. (Products apart from their sums need
   registers of their own: no tiles of six rows.) */
FL_INLINE void fl_integer_rows(const fl_job *job, ptrdiff_t group, ptrdiff_t n0, ptrdiff_t row, int P, int N, int dots) {
    for (int kind = job->first; kind < job->end; kind++) {
        const ptrdiff_t words = fl_words(job, kind, dots);
        ptrdiff_t from = 0, end;
        do {
            ptrdiff_t r = 0;
            end = fl_block_end(from, words, dots);
#if FL_ROWS > 3
            for (; r + 6 <= job->rows && dots != FL_SHORTS; r += 6)
                fl_integer_tile(job, group, kind, n0, row, r, P, 6, N, from, end, dots);
            for (; r + 4 <= job->rows; r += 4)
                fl_integer_tile(job, group, kind, n0, row, r, P, 4, N, from, end, dots);
#endif
            for (; r + 2 <= job->rows; r += 2)
                fl_integer_tile(job, group, kind, n0, row, r, P, 2, N, from, end, dots);
            for (; r < job->rows; r++)
                fl_integer_tile(job, group, kind, n0, row, r, P, 1, N, from, end, dots);
            from = end;
        } while (fl_shorts(dots) && from < words);
        fl_integer_add(job, kind, group, n0, P, N);
    }
}

/* ---- All ---- */

/* Panels that are made together; one row alone takes twice as many, for enough chains side by side. */
static ptrdiff_t fl_compact_most(const fl_cell *cell, ptrdiff_t rows) {
    static const ptrdiff_t of_tile[FL_TILE + 1] = {1, 4, 2, 1, 1};
    return cell->q.G > FL_TILE || fl_gathers(&cell->q) ? 1 : of_tile[cell->q.G] << (rows == 1);
}

/* As many as that, or one. */
static ptrdiff_t fl_compact_panels(const fl_cell *cell, ptrdiff_t group, ptrdiff_t rows) {
    const ptrdiff_t P = fl_compact_most(cell, rows);
    return cell->end - group >= P ? P : 1;
}

FL_INLINE void fl_integer_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P, int dots) {
    const ptrdiff_t G = job->G;
    if (job->rows == 1 && G <= FL_TILE) switch (P * 8 + G + job->shift * 128) {
        case 16 + 4: fl_integer_single(job, group, 2, 4, 4, dots); return;
        case 8 + 4: fl_integer_single(job, group, 1, 4, 4, dots); return;
        case 128 + 16 + 3: fl_integer_single(job, group, 2, 4, 3, dots); return;
        case 128 + 8 + 3: fl_integer_single(job, group, 1, 4, 3, dots); return;
        case 16 + 3: fl_integer_single(job, group, 2, 3, 3, dots); return;
        case 8 + 3: fl_integer_single(job, group, 1, 3, 3, dots); return;
        case 32 + 2: fl_integer_single(job, group, 4, 2, 2, dots); return;
        case 8 + 2: fl_integer_single(job, group, 1, 2, 2, dots); return;
        case 64 + 1: fl_integer_single(job, group, 8, 1, 1, dots); return;
        default: fl_integer_single(job, group, 1, 1, 1, dots); return;
        }
    fl_job_start_rows(job, group, P);
    switch (P * 8 + G) {
    case 8 + 4: fl_integer_rows(job, group, 0, 4 * VW, 1, 4, dots); break;
    case 8 + 3: fl_integer_rows(job, group, 0, 3 * VW, 1, 3, dots); break;
    case 8 + 2: fl_integer_rows(job, group, 0, 2 * VW, 1, 2, dots); break;
    case 16 + 2: fl_integer_rows(job, group, 0, 2 * VW, 2, 2, dots); break;
    case 32 + 1: fl_integer_rows(job, group, 0, VW, 4, 1, dots); break;
    default:
        for (ptrdiff_t n = 0; n < G; n++)
            fl_integer_rows(job, group, n, G * VW, 1, 1, dots);
    }
}

FL_NOINLINE void fl_byte_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) { fl_integer_panels(job, group, P, FL_BYTES); }
FL_NOINLINE void fl_short_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) { fl_integer_panels(job, group, P, FL_SHORTS); }
FL_NOINLINE void fl_unsigned_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) { fl_integer_panels(job, group, P, FL_UNSIGNED); }
FL_NOINLINE void fl_fused_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) { fl_integer_panels(job, group, P, FL_FUSED); }

FL_NOINLINE void fl_half_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) {
    const ptrdiff_t G = job->G;
    if (job->rows == 1 && G <= FL_TILE) switch (P * 8 + G + job->shift * 128) {
        case 16 + 4: fl_half_single(job, group, 2, 4, 4); return;
        case 8 + 4: fl_half_single(job, group, 1, 4, 4); return;
        case 128 + 16 + 3: fl_half_single(job, group, 2, 4, 3); return;
        case 128 + 8 + 3: fl_half_single(job, group, 1, 4, 3); return;
        case 16 + 3: fl_half_single(job, group, 2, 3, 3); return;
        case 8 + 3: fl_half_single(job, group, 1, 3, 3); return;
        case 32 + 2: fl_half_single(job, group, 4, 2, 2); return;
        case 8 + 2: fl_half_single(job, group, 1, 2, 2); return;
        case 64 + 1: fl_half_single(job, group, 8, 1, 1); return;
        default: fl_half_single(job, group, 1, 1, 1); return;
        }
    fl_job_start_rows(job, group, P);
    for (ptrdiff_t n = 0; n < (G > FL_TILE ? G : 1); n++)
        fl_half_rows(job, group, P, n, G > FL_TILE ? 1 : G);
}

FL_NOINLINE void fl_byte_plain(fl_job *job) { fl_integer_plain(job, FL_BYTES); }
FL_NOINLINE void fl_short_plain(fl_job *job) { fl_integer_plain(job, FL_SHORTS); }
FL_NOINLINE void fl_unsigned_plain(fl_job *job) { fl_integer_plain(job, FL_UNSIGNED); }
FL_NOINLINE void fl_fused_plain(fl_job *job) { fl_integer_plain(job, FL_FUSED); }

static void fl_job_kinds(const fl_job *job, ptrdiff_t group, ptrdiff_t P) {
    if (job->cell->l->weights == FASTLSTM_FLOAT16) fl_half_panels(job, group, P);
    else switch (fl_dots(job->cell, job->scratch)) {
        case FL_BYTES: fl_byte_panels(job, group, P); return;
        case FL_SHORTS: fl_short_panels(job, group, P); return;
        case FL_UNSIGNED: fl_unsigned_panels(job, group, P); return;
        case FL_FUSED: fl_fused_panels(job, group, P); return;
        }
}

/* All kinds at once; but those of a GRU's many rows, which feed different net inputs, one after the other. */
static void fl_job_panels(const fl_job *job, ptrdiff_t group, ptrdiff_t P) {
    if (!job->cell->q.shift || job->shift) {
        fl_job_kinds(job, group, P);
        return;
    }
    fl_job_start_rows(job, group, P);
    for (int kind = job->first; kind < job->end; kind++) {
        fl_job one = *job;
        one.first = kind;
        one.end = kind + 1;
        one.started = 1;
        one.G = fl_fed(&job->cell->q, kind);
        one.row = one.G * VW;
        one.net += fl_fed_from(&job->cell->q, kind) * VW;
        fl_job_kinds(&one, group, P);
    }
}

/* Not returned by value, which compilers put together in one place and copy in wide pieces: loads that wait until the stores
   before them are in the cache. */
FL_INLINE void fl_job_begin(fl_job *job, const fl_cell *cell, const fl_compact *scratch, const REAL *const *x, const REAL *const *h,
                            const REAL *const *a, ptrdiff_t rows, int first) {
    job->cell = cell;
    job->scratch = scratch;
    job->rows = rows;
    job->s[FL_X] = x;
    job->s[FL_H] = h;
    job->s[FL_A] = a;
    job->first = first;
    job->end = !h ? FL_H : !cell->q.A ? FL_A : FL_KINDS;
    job->started = first > FL_X;
    job->G = cell->q.G;
    job->row = cell->q.G * VW;
    job->shift = rows == 1 && !fl_gathers(&cell->q) ? cell->q.shift : 0;
    job->net = NULL;
    job->net_panel = 0;
    job->net_row = cell->q.N * VW;
    job->step = NULL;
    if (cell->l->weights == FASTLSTM_INT16) fl_quantise_rows(job, FL_SHORTS);
    if (cell->l->weights == FASTLSTM_INT8) fl_quantise_rows(job, fl_dots(cell, scratch));
}

/* fl_cell_rows, fl_input_rows and fl_linear_rows for compact weights. */
static void fl_compact_cell_rows(const fl_cell *cell, const fl_rows *rows, const fl_compact *scratch) {
    fl_job job;
    fl_job_begin(&job, cell, scratch, rows->x, rows->h, rows->a, rows->n, rows->net_panel ? FL_H : FL_X);
    job.net_panel = rows->net_panel ? rows->net_panel : rows->n * cell->q.N * VW;
    job.net = rows->net;
    job.step = rows->n == 1 && job.G <= FL_TILE && !fl_gathers(&cell->q) ? rows : NULL;
    if (job.step && cell->plain && cell->l->weights != FASTLSTM_FLOAT16) {
        switch (fl_dots(cell, scratch)) {
        case FL_BYTES: fl_byte_plain(&job); return;
        case FL_SHORTS: fl_short_plain(&job); return;
        case FL_UNSIGNED: fl_unsigned_plain(&job); return;
        case FL_FUSED: fl_fused_plain(&job); return;
        }
    }
    const ptrdiff_t most = fl_compact_most(cell, rows->n), turns = fl_pass_turns(cell, most);
    for (ptrdiff_t turn = 0; turn < turns; turn++) {
        const ptrdiff_t first = fl_pass_group(cell, most, turn, turns, rows->back), end = first + fl_pass_panels(cell, most, first);
        for (ptrdiff_t group = first, P; group < end; group += P) {
            P = fl_compact_panels(cell, group, rows->n);
            job.net = rows->net + group * rows->net_panel;
            fl_job_panels(&job, group, P);
            for (ptrdiff_t p = 0; p < P && !job.step; p++)
                fl_finish_rows(cell, group + p, rows, job.net + p * job.net_panel);
        }
    }
}

static void fl_compact_input_rows(const fl_cell *cell, const REAL *const *x, ptrdiff_t rows, REAL *net,
                                  ptrdiff_t net_panel, const fl_compact *scratch) {
    fl_job job;
    fl_job_begin(&job, cell, scratch, x, NULL, NULL, rows, FL_X);
    job.net_panel = net_panel;
    for (ptrdiff_t group = cell->first, P; group < cell->end; group += P) {
        P = fl_compact_panels(cell, group, rows);
        job.net = net + group * net_panel;
        fl_job_panels(&job, group, P);
    }
}

static void fl_compact_linear_rows(const fl_cell *cell, const REAL *const *x, REAL *const *y, ptrdiff_t rows,
                                   REAL *net, const fl_compact *scratch) {
    fl_job job;
    fl_job_begin(&job, cell, scratch, x, NULL, NULL, rows, FL_X);
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
static void fl_compact_input_rows(const fl_cell *cell, const REAL *const *x, ptrdiff_t rows, REAL *net,
                                  ptrdiff_t net_panel, const fl_compact *scratch) {
    (void)cell, (void)x, (void)rows, (void)net, (void)net_panel, (void)scratch;
}
static void fl_compact_linear_rows(const fl_cell *cell, const REAL *const *x, REAL *const *y, ptrdiff_t rows,
                                   REAL *net, const fl_compact *scratch) {
    (void)cell, (void)x, (void)y, (void)rows, (void)net, (void)scratch;
}

#endif
#endif
