/* A first layer of few cells, of a learner with one lane that updates at every step: all its rows side by side, and what passes
   from step to step in whole vectors.

   A packed row-vector has a lane for each block (geometry.h), and of a network of two blocks two of its lanes do work. Here
   rows are the lanes of a vector or two, first those of i, f, o (J lanes each), then g (H lanes, block by block), none of the
   four across two vectors:

       weights, velocity   [k][R]              R lanes, whole vectors
       traces              [k][slot v][R]      in the lanes of i and f: those of cell v; of g: of the cells in slot v; of o: the source, in slot 0

   All rows learn alike, t = mu t + u s, G = sum_v e_v t, with mu, u, e of each lane (of o: 0, 1, d_o; zero where there is
   nothing). States, gates and errors are vectors of cells, H lanes; permutations lead from rows to cells and back. Each weight
   has the operations of lstm.h, traces.h and product.h in their order: the same bits. Inputs that are zero, as most of a class
   are, are passed over where they change nothing: in net inputs, and where traces do not decay (no forget gate, no clip) at
   steps without a target. */
#ifndef FL_SMALL_H
#define FL_SMALL_H

enum { FL_SMALL_I, FL_SMALL_F, FL_SMALL_O, FL_SMALL_G, FL_SMALL_KINDS };
/* Vectors of cells that a step leaves for its second half. */
enum { FL_KEPT_C = FL_SMALL_KINDS, FL_KEPT_HC, FL_SMALL_KEPT };

typedef struct fl_small {
    int on, here;                /* whether the layer is kept so; whether what it learns is here, not where it is packed */
    ptrdiff_t R, at[FL_SMALL_KINDS]; /* lanes, and of each kind the first */
    REAL *w, *velocity, *traces;
    REAL *s;                     /* (M,) sources */
    REAL *act;                   /* (R,) rows' activations */
    REAL *c, *h, *a;             /* of the step before: (VW,), (VW,), (A,) */
    REAL *kept;                  /* (FL_SMALL_KEPT, VW) */
    const REAL *kind;            /* (R,) i, f, o or g */
    const REAL *own, *source;    /* (S, R) 1 where slot v of a lane is a trace of a cell, where it is that of o; else 0 */
    const int32_t *to_cell;      /* (FL_SMALL_KINDS, VW) the lane, in its vector, in which a cell finds its i, f, o, g */
    const int32_t *to_row;       /* (S, R) the cell in slot v of a lane's block */
    const int32_t *slot;         /* (S, VW) the cell in slot v of a cell's block */
    ptrdiff_t *moved;            /* sources whose traces a step moves where none decays: all but inputs, and then */
    ptrdiff_t *filled, n_filled; /*   the inputs that are not zero; by their places among all sources */
} fl_small;

static void fl_small_init(fl_small *z, const fl_geometry *q, char *base, const fl_small_plan *plan, int on) {
    *z = (fl_small){.on = on};
    if (!on) return;
    const ptrdiff_t S = q->S, R = plan->R;
    REAL *real = (REAL *)(base + plan->reals), *kind, *own, *source;
    int32_t *place = (int32_t *)(base + plan->places), *to_cell = place, *to_row = to_cell + FL_SMALL_KINDS * VW, *slot = to_row + S * R;
    z->R = R;
    z->w = real;
    z->velocity = z->w + q->M * R;
    z->traces = z->velocity + q->M * R;
    z->s = z->traces + q->M * S * R;
    z->a = z->s + fl_padded(q->M, VW) + VW; /* a vector is stored where the last sources are */
    z->act = z->a + fl_padded(q->A, VW) + VW;
    z->c = z->act + R;
    z->h = z->c + VW;
    z->kept = z->h + VW;
    z->kind = kind = z->kept + FL_SMALL_KEPT * VW;
    z->own = own = kind + R;
    z->source = source = own + S * R;
    z->to_cell = to_cell;
    z->to_row = to_row;
    z->slot = slot;
    z->moved = z->filled = (ptrdiff_t *)(base + plan->list);
    for (ptrdiff_t k = 0; k < q->M; k++)
        if (k < q->biases || k >= q->biases + q->I) *z->filled++ = k;
    for (ptrdiff_t k = 0; k < q->biases; k++)
        z->s[k] = 1;
    for (ptrdiff_t j = 0; j < R; j++)
        kind[j] = FL_SMALL_G; /* and in the padding, which no lane with a row reads */
    for (ptrdiff_t j = 0; j < S * R; j++)
        own[j] = source[j] = (REAL)(to_row[j] = 0);
    for (ptrdiff_t j = 0; j < S * VW; j++)
        slot[j] = (int32_t)(j % VW < q->H ? j % VW / S * S + j / VW : 0);
    ptrdiff_t lane = 0;
    for (int n = 0; n < FL_SMALL_KINDS; n++) {
        const ptrdiff_t wide = n == FL_SMALL_G ? q->H : q->J;
        for (ptrdiff_t j = 0; j < VW; j++)
            to_cell[n * VW + j] = 0;
        if ((n == FL_SMALL_I && !q->i) || (n == FL_SMALL_F && !q->f) || (n == FL_SMALL_O && !q->o)) continue;
        if (lane % VW + wide > VW) lane = fl_padded(lane, VW);
        z->at[n] = lane;
        for (ptrdiff_t j = 0; j < q->H; j++)
            to_cell[n * VW + j] = (int32_t)(lane % VW + (n == FL_SMALL_G ? j : j / S));
        for (ptrdiff_t j = 0; j < wide; j++, lane++) {
            kind[lane] = (REAL)n;
            for (ptrdiff_t v = 0; v < S; v++) {
                to_row[v * R + lane] = (int32_t)(n == FL_SMALL_G ? j : j * S + v);
                own[v * R + lane] = n == FL_SMALL_G ? j % S == v : n != FL_SMALL_O;
                source[v * R + lane] = n == FL_SMALL_O && v == 0;
            }
        }
    }
}

/* The lane of a row-vector's block. */
static ptrdiff_t fl_small_lane(const fl_small *z, const fl_geometry *q, ptrdiff_t n, ptrdiff_t j) {
    if (n >= q->gates) return z->at[FL_SMALL_G] + j * q->S + n - q->gates;
    return z->at[q->i && n == 0 ? FL_SMALL_I : q->o && n == q->gates - 1 ? FL_SMALL_O : FL_SMALL_F] + j;
}

/* Between the packed layout and this one: weights, or the velocity. */
static void fl_small_move(const fl_small *z, const fl_geometry *q, REAL *packed, REAL *here, int back) {
    for (ptrdiff_t n = 0; n < q->G; n++)
        for (ptrdiff_t j = 0; j < q->J; j++) {
            REAL *p = packed + n * VW + j, *h = here + fl_small_lane(z, q, n, j);
            for (ptrdiff_t k = 0; k < q->M; k++, p += q->G * VW, h += z->R) {
                if (back) *p = *h;
                else *h = *p;
            }
        }
}

static void fl_small_move_traces(const fl_small *z, const fl_geometry *q, REAL *packed, int back) {
    for (ptrdiff_t v = 0; v < q->S; v++)
        for (ptrdiff_t kind = 0; kind < q->traced; kind++) /* g, i, f */
            for (ptrdiff_t j = 0; j < q->J; j++) {
                REAL *p = packed + (v * q->traced + kind) * VW + j;
                REAL *h = z->traces + v * z->R + fl_small_lane(z, q, kind == 0 ? q->gates + v : kind - 1, j);
                for (ptrdiff_t k = 0; k < q->M; k++, p += q->S * q->traced * VW, h += q->S * z->R) {
                    if (back) *p = *h;
                    else *h = *p;
                }
            }
}

/* Have what is learnt here, or back where it is packed. */
static void fl_small_take(fl_small *z, const fl_geometry *q, REAL *w, REAL *velocity, REAL *traces) {
    if (z->here) return;
    fl_small_move(z, q, w, z->w, 0);
    if (velocity) fl_small_move(z, q, velocity, z->velocity, 0);
    fl_small_move_traces(z, q, traces, 0);
    z->here = 1;
}

static void fl_small_settle(fl_small *z, const fl_geometry *q, REAL *w, REAL *velocity, REAL *traces) {
    if (!z->here) return;
    fl_small_move(z, q, w, z->w, 1);
    if (velocity) fl_small_move(z, q, velocity, z->velocity, 1);
    fl_small_move_traces(z, q, traces, 1);
    z->here = 0;
}

/* A call begins: the state is what others see, and each step writes. */
static void fl_small_enter(const fl_small *z, const fl_geometry *q, const fl_row *state) {
    fl_copy(z->c, state->c, q->H);
    fl_copy(z->h, state->y, q->H);
    if (q->A) fl_copy(z->a, state->a_out, q->A);
}

/* A new episode. */
static void fl_small_reset(const fl_small *z, const fl_geometry *q) {
    if (!z->on) return;
    fl_zero(z->traces, q->M * q->S * z->R);
    fl_zero(z->c, VW);
    fl_zero(z->h, VW);
    fl_zero(z->a, q->A);
}

/* Which inputs x are not zero. */
static void fl_small_fill(fl_small *z, const fl_geometry *q, const REAL *x) {
    enum { AT_ONCE = 64 / sizeof(REAL) };
    ptrdiff_t n = 0;
    for (ptrdiff_t k = 0; k < q->I; k += AT_ONCE) {
        const ptrdiff_t end = q->I - k < AT_ONCE ? q->I : k + AT_ONCE;
        if (end - k == AT_ONCE) {
            uint64_t bits[8], any = 0;
            memcpy(bits, x + k, sizeof bits);
            for (int j = 0; j < 8; j++)
                any |= bits[j];
            if (!any) continue;
        }
        for (ptrdiff_t j = k; j < end; j++) {
            z->filled[n] = q->biases + j;
            n += x[j] != 0;
        }
    }
    z->n_filled = n;
}

/* total += sum_{k < count} s[k] w[k], as fl_single_add. */
FL_INLINE void fl_small_add(V *total, const fl_small *z, const REAL *w, const REAL *s, ptrdiff_t count, int N) {
    for (ptrdiff_t from = 0; from < count; from += FL_BLOCK) {
        V acc[FL_TILE];
        fl_chain(acc, 1, 1, N, w + from * z->R, 0, z->R, &s, from, count - from < FL_BLOCK ? count - from : FL_BLOCK, 0);
        FL_UNROLL
        for (int n = 0; n < N; n++)
            total[n] = v_add(total[n], acc[n]);
    }
}

/* The same of the inputs that are not zero, where they begin at source `first`. */
FL_INLINE void fl_small_add_filled(V *total, const fl_small *z, const REAL *w, ptrdiff_t first, int N) {
    for (ptrdiff_t j = 0, end = first + FL_BLOCK; j < z->n_filled; end += FL_BLOCK) {
        V acc[FL_TILE];
        FL_UNROLL
        for (int n = 0; n < N; n++)
            acc[n] = v_zero();
        for (; j < z->n_filled && z->filled[j] < end; j++) {
            const V x = v_bcast(z->s + z->filled[j]);
            FL_UNROLL
            for (int n = 0; n < N; n++)
                acc[n] = v_fma(x, v_load(w + z->filled[j] * z->R + n * VW), acc[n]);
        }
        FL_UNROLL
        for (int n = 0; n < N; n++)
            total[n] = v_add(total[n], acc[n]);
    }
}

/* N vectors of rows from lane `at` on: net inputs, and their activations. */
FL_INLINE void fl_small_rows(const fl_small *z, const fl_cell *cell, ptrdiff_t at, int N) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const REAL *w = z->w + at;
    const ptrdiff_t after = q->biases + q->I;
    V total[FL_TILE];
    FL_UNROLL
    for (int n = 0; n < N; n++)
        total[n] = fl_bias(w + n * VW, z->R, q->biases);
    if (z->n_filled == q->I) fl_small_add(total, z, w + q->biases * z->R, z->s + q->biases, q->I, N);
    else fl_small_add_filled(total, z, w, q->biases, N);
    fl_small_add(total, z, w + after * z->R, z->s + after, q->H, N);
    if (q->A) fl_small_add(total, z, w + (after + q->H) * z->R, z->s + after + q->H, q->A, N);
    for (int n = 0; n < N; n++) {
        const ptrdiff_t first = at + n * VW, g = z->at[FL_SMALL_G];
        V a = total[n];
        if (first + VW <= g) a = v_activate(&l->gate_activation, a);
        else if (first >= g) a = v_activate(&l->input_activation, a);
        else a = v_select(v_lt(v_load(z->kind + first), v_set1(FL_SMALL_G)), v_activate(&l->gate_activation, a), v_activate(&l->input_activation, a));
        v_store(z->act + first, a);
    }
}

/* What the rows of a kind are to each cell. */
FL_INLINE V fl_small_of(const fl_small *z, int kind) {
    return v_permute(v_load(z->act + z->at[kind] / VW * VW), z->to_cell + kind * VW);
}

/* The forward step; row: the state, as others see it. */
static void fl_small_forward(fl_small *z, const fl_cell *cell, const REAL *x, const fl_row *row) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const V one = v_set1(1);
    REAL *s = z->s + q->biases;
    ptrdiff_t at = 0;
    V i = one, f = one, o = one;
    fl_copy(s, x, q->I);
    v_store(s + q->I, v_load(z->h)); /* and beyond, where the next ones are put */
    for (ptrdiff_t k = 0; k < q->A; k += VW)
        v_store(s + q->I + q->H + k, v_load(z->a + k));
    fl_small_fill(z, q, s);
    for (; at + 4 * VW <= z->R; at += 4 * VW)
        fl_small_rows(z, cell, at, 4);
    for (; at + 2 * VW <= z->R; at += 2 * VW)
        fl_small_rows(z, cell, at, 2);
    if (at < z->R) fl_small_rows(z, cell, at, 1);
    if (q->i) i = fl_small_of(z, FL_SMALL_I);
    if (q->f) f = fl_small_of(z, FL_SMALL_F);
    else if (q->coupled) f = v_sub(one, i);
    if (q->o) o = fl_small_of(z, FL_SMALL_O);
    const V g = fl_small_of(z, FL_SMALL_G), c_prev = v_load(z->c), c = fl_clipped_state(l, f, c_prev, i, g);
    const V hc = v_activate(&l->output_activation, c), h = v_mul(o, hc);
    v_store(z->c, c);
    v_store(z->h, h);
    fl_store_units(row->c, c, 1, q->H);
    fl_store_units(row->y, h, 1, q->H);
    v_store(z->kept + FL_SMALL_I * VW, i);
    v_store(z->kept + FL_SMALL_F * VW, f);
    v_store(z->kept + FL_SMALL_O * VW, o);
    v_store(z->kept + FL_SMALL_G * VW, g);
    v_store(z->kept + FL_KEPT_C * VW, c_prev);
    v_store(z->kept + FL_KEPT_HC * VW, hc);
    for (ptrdiff_t n = 0; n < (q->A ? q->gates : 0); n++) {
        const V a = fl_load_units(z->act + fl_small_lane(z, q, n, 0), 1, q->J);
        fl_store_units(z->a + n * q->J, a, 1, q->J);
        fl_store_units(row->a_out + n * q->J, a, 1, q->J);
    }
}

/* What a step's end has of each cell. */
typedef struct fl_small_factors {
    fl_local u;
    V e, d_o;
} fl_small_factors;

/* Traces, gradient and update of a vector of lanes: of all sources, or of those in a list. */
FL_INLINE void fl_small_pass(const fl_small *z, const fl_geometry *q, const fl_small_factors *by, const fl_target *to, ptrdiff_t at,
                             const ptrdiff_t *list, ptrdiff_t count, int mode, int S_known) {
    const ptrdiff_t S = S_known ? S_known : q->S;
    const V lr = v_set1(to->lr), momentum = v_set1(to->momentum), zero = v_zero(), kind = v_load(z->kind + at);
    const VM is_i = v_lt(kind, v_set1(FL_SMALL_F)), is_f = v_lt(kind, v_set1(FL_SMALL_O));
    V mu[FL_SMALL_CELLS], u[FL_SMALL_CELLS], e[FL_SMALL_CELLS];
    FL_UNROLL
    for (int v = 0; v < FL_SMALL_CELLS; v++)
        mu[v] = u[v] = e[v] = zero;
    FL_UNROLL
    for (ptrdiff_t v = 0; v < S; v++) {
        const int32_t *cells = z->to_row + v * z->R + at;
        const VM own = v_lt(zero, v_load(z->own + v * z->R + at));
        const V source = v_load(z->source + v * z->R + at);
        V u_v = v_permute(by->u.u_g, cells);
        if (q->f) u_v = v_select(is_f, v_permute(by->u.u_f, cells), u_v);
        if (q->i) u_v = v_select(is_i, v_permute(by->u.u_i, cells), u_v);
        mu[v] = v_select(own, v_permute(by->u.mu, cells), zero);
        u[v] = v_select(own, u_v, source);
        if (mode == FL_TRACE_ONLY) continue;
        e[v] = v_select(own, v_permute(by->e, cells), v_select(v_lt(zero, source), v_permute(by->d_o, cells), zero));
    }
    const fl_target here = *to; /* stores of vectors may be to anything, but not to locals */
    const ptrdiff_t R = z->R;
    const REAL *sources = z->s;
    REAL *traces = z->traces + at;
    for (ptrdiff_t j = 0; j < count; j++) {
        const ptrdiff_t k = list ? list[j] : j, from = k * R;
        const V s = v_bcast(sources + k);
        REAL *t = traces + from * S;
        V g = zero;
        FL_UNROLL
        for (ptrdiff_t v = 0; v < S; v++) {
            const V now = v_fma(mu[v], v_load(t + v * R), v_mul(u[v], s));
            v_store(t + v * R, now);
            if (mode != FL_TRACE_ONLY) g = v_fma(e[v], now, g);
        }
        if (mode != FL_TRACE_ONLY) fl_descend(mode, &here, from + at, g, lr, momentum);
    }
}

FL_INLINE void fl_small_passes(const fl_small *z, const fl_geometry *q, const fl_small_factors *by, const fl_target *to,
                               const ptrdiff_t *list, ptrdiff_t count, int mode) {
    for (ptrdiff_t at = 0; at < z->R; at += VW) {
        if (q->S == 1) fl_small_pass(z, q, by, to, at, list, count, mode, 1);
        else if (q->S == 2) fl_small_pass(z, q, by, to, at, list, count, mode, 2);
        else fl_small_pass(z, q, by, to, at, list, count, mode, 0);
    }
}

/* The second half of a step; dh (H,): error of its outputs, or NULL. */
static void fl_small_learn(const fl_small *z, const fl_cell *cell, const REAL *dh, int mode, REAL lr, REAL momentum) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const fl_target to = {mode, z->w, z->velocity, NULL, lr, momentum};
    const V i = v_load(z->kept + FL_SMALL_I * VW), f = v_load(z->kept + FL_SMALL_F * VW), o = v_load(z->kept + FL_SMALL_O * VW);
    const V g = v_load(z->kept + FL_SMALL_G * VW), c_prev = v_load(z->kept + FL_KEPT_C * VW), hc = v_load(z->kept + FL_KEPT_HC * VW);
    const V d_i = q->i ? v_activate_grad(&l->gate_activation, i) : v_zero(), d_f = q->f ? v_activate_grad(&l->gate_activation, f) : v_zero();
    fl_small_factors by = {fl_lstm_local(q, l, i, f, g, c_prev, d_i, d_f), v_zero(), v_zero()};
    if (dh) {
        const V d = fl_load_units(dh, 1, q->H);
        V dot = v_zero();
        by.e = fl_lstm_error(l, d, o, hc);
        for (ptrdiff_t v = 0; v < q->S && q->o; v++)
            dot = v_fma(v_permute(d, z->slot + v * VW), v_permute(hc, z->slot + v * VW), dot);
        if (q->o) by.d_o = v_mul(v_activate_grad(&l->gate_activation, o), dot);
    }
    if (mode == FL_DESCEND) fl_small_passes(z, q, &by, &to, NULL, q->M, FL_DESCEND);
    else if (mode == FL_DESCEND_MOMENTUM) fl_small_passes(z, q, &by, &to, NULL, q->M, FL_DESCEND_MOMENTUM);
    else if (q->f || q->coupled || l->clip < INFINITY) fl_small_passes(z, q, &by, &to, NULL, q->M, FL_TRACE_ONLY);
    else fl_small_passes(z, q, &by, &to, z->moved, q->M - q->I + z->n_filled, FL_TRACE_ONLY);
}

#endif
