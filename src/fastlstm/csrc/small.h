/* A first layer of few blocks, of a learner with one lane that updates at every step: all its rows side by side.

   A packed row-vector has a lane for each block (geometry.h), and of a network of two blocks two of its lanes do work. Here
   lane n J + j of a source is row-vector n of block j, so that a pass over weights and traces has a vector or two for each
   source:

       weights, velocity   [k][R]              R = G J, to whole vectors
       traces              [k][slot v][R]      in the lanes of i and f: those of cell v; of g_v: its own; of o: the source, in slot 0

   All rows then learn alike, t = mu t + u s, G = sum_v e_v t, with mu, u, e of each lane (of o: 0, 1, d_o; zero where there is
   nothing), and each weight has the operations of traces.h and product.h in their order: the same bits. Inputs that are zero,
   as most of a class are, are passed over where they change nothing: in net inputs, and where traces do not decay (no forget
   gate, no clip) at steps without a target. */
#ifndef FL_SMALL_H
#define FL_SMALL_H

typedef struct fl_small {
    int on, here;                    /* whether the layer is kept so; whether what it has learnt is here, not where it is packed */
    ptrdiff_t R;
    REAL *w, *velocity, *traces;
    REAL *mu, *u, *e;                /* (S, R), and a vector more: as is `net` */
    REAL *net;                       /* (R,) */
    ptrdiff_t *moved;                /* sources whose traces a step moves where none decays: all but inputs, and then */
    ptrdiff_t *filled, n_filled;     /*   the inputs that are not zero; by their places among all sources */
} fl_small;

static void fl_small_init(fl_small *z, const fl_geometry *q, REAL *buffer, ptrdiff_t *list, int on) {
    *z = (fl_small){.on = on, .R = on ? fl_small_width(q, VW) : 0, .moved = list};
    if (!on) return;
    const ptrdiff_t some = q->S * z->R + VW;
    z->w = buffer;
    z->velocity = z->w + q->M * z->R;
    z->traces = z->velocity + q->M * z->R;
    z->mu = z->traces + q->M * q->S * z->R;
    z->u = z->mu + some;
    z->e = z->u + some;
    z->net = z->e + some;
    z->filled = list;
    for (ptrdiff_t k = 0; k < q->M; k++)
        if (k < q->biases || k >= q->biases + q->I) *z->filled++ = k;
}

/* Between the packed layout and this one: weights, or the velocity. */
static void fl_small_move(const fl_small *z, const fl_geometry *q, REAL *packed, REAL *here, int back) {
    for (ptrdiff_t k = 0; k < q->M; k++)
        for (ptrdiff_t n = 0; n < q->G; n++)
            for (ptrdiff_t j = 0; j < q->J; j++) {
                REAL *p = packed + j / VW * q->panel + (k * q->G + n) * VW + j % VW, *h = here + k * z->R + n * q->J + j;
                if (back) *p = *h;
                else *h = *p;
            }
}

static void fl_small_move_traces(const fl_small *z, const fl_geometry *q, REAL *packed, int back) {
    for (ptrdiff_t k = 0; k < q->M * q->S; k++) /* a source's slot */
        for (ptrdiff_t kind = 0; kind < q->traced; kind++) { /* g, i, f */
            const ptrdiff_t n = kind == 0 ? q->gates + k % q->S : kind - 1;
            for (ptrdiff_t j = 0; j < q->J; j++) {
                REAL *p = packed + j / VW * q->trace + (k * q->traced + kind) * VW + j % VW, *h = z->traces + k * z->R + n * q->J + j;
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

/* N vectors of net inputs from lane `at` on. */
FL_INLINE void fl_small_nets(const fl_small *z, const fl_geometry *q, const REAL *s, ptrdiff_t at, int N) {
    const REAL *w = z->w + at;
    const ptrdiff_t after = q->biases + q->I;
    V total[FL_TILE];
    FL_UNROLL
    for (int n = 0; n < N; n++)
        total[n] = fl_bias(w + n * VW, z->R, q->biases);
    for (ptrdiff_t j = 0, end = FL_BLOCK; j < z->n_filled; end += FL_BLOCK) {
        V acc[FL_TILE];
        FL_UNROLL
        for (int n = 0; n < N; n++)
            acc[n] = v_zero();
        for (; j < z->n_filled && z->filled[j] < q->biases + end; j++) {
            const V x = v_bcast(s + z->filled[j]);
            FL_UNROLL
            for (int n = 0; n < N; n++)
                acc[n] = v_fma(x, v_load(w + z->filled[j] * z->R + n * VW), acc[n]);
        }
        FL_UNROLL
        for (int n = 0; n < N; n++)
            total[n] = v_add(total[n], acc[n]);
    }
    fl_small_add(total, z, w + after * z->R, s + after, q->H, N);
    if (q->A) fl_small_add(total, z, w + (after + q->H) * z->R, s + after + q->H, q->A, N);
    FL_UNROLL
    for (int n = 0; n < N; n++)
        v_store(z->net + at + n * VW, total[n]);
}

/* The forward step; s (M,): its sources. */
static void fl_small_forward(fl_small *z, const fl_cell *cell, const REAL *s, const fl_row *row) {
    const fl_geometry *q = &cell->q;
    ptrdiff_t at = 0;
    fl_small_fill(z, q, s + q->biases);
    for (; at + 4 * VW <= z->R; at += 4 * VW)
        fl_small_nets(z, q, s, at, 4);
    for (; at + 2 * VW <= z->R; at += 2 * VW)
        fl_small_nets(z, q, s, at, 2);
    if (at < z->R) fl_small_nets(z, q, s, at, 1);
    for (ptrdiff_t group = 0; group < q->groups; group++) {
        REAL net[(3 + FL_SMALL_CELLS) * VW];
        for (ptrdiff_t n = 0; n < q->G; n++)
            v_store(net + n * VW, v_load(z->net + n * q->J + group * VW));
        fl_lstm_finish(cell, group, net, row);
    }
}

/* mu, u, e of all lanes, from the factors (lstm.h) of all groups; what a vector has beyond its J lanes, the next one covers. */
static void fl_small_spread(const fl_small *z, const fl_geometry *q, const REAL *factors) {
    const ptrdiff_t S = q->S;
    for (ptrdiff_t v = 0; v < S; v++)
        for (ptrdiff_t n = 0; n < q->G; n++) {
            const int gate_o = q->o && n == q->gates - 1, here = gate_o ? v == 0 : n < q->gates || n == q->gates + v;
            const ptrdiff_t which = n >= q->gates ? 2 : q->i && n == 0 ? 3 : 4; /* u_g, u_i, u_f */
            for (ptrdiff_t group = 0; group < q->groups; group++) {
                const REAL *f = factors + group * q->factors;
                const ptrdiff_t to = v * z->R + n * q->J + group * VW;
                const V zero = v_zero();
                v_store(z->mu + to, here && !gate_o ? v_load(f + v * VW) : zero);
                v_store(z->u + to, !here ? zero : gate_o ? v_set1(1) : v_load(f + (which * S + v) * VW));
                v_store(z->e + to, !here ? zero : v_load(f + (gate_o ? 6 * S + 2 : S + v) * VW));
            }
        }
}

/* Traces, gradient and update of a vector of lanes: of all sources, or of those in a list. */
FL_INLINE void fl_small_pass(const fl_small *z, const fl_geometry *q, const REAL *s, const fl_target *to, ptrdiff_t at,
                             const ptrdiff_t *list, ptrdiff_t count, int mode, int S_known) {
    const ptrdiff_t S = S_known ? S_known : q->S;
    const V lr = v_set1(to->lr), momentum = v_set1(to->momentum);
    V mu[FL_SMALL_CELLS], u[FL_SMALL_CELLS], e[FL_SMALL_CELLS];
    FL_UNROLL
    for (ptrdiff_t v = 0; v < S; v++) {
        mu[v] = v_load(z->mu + v * z->R + at);
        u[v] = v_load(z->u + v * z->R + at);
        e[v] = v_load(z->e + v * z->R + at);
    }
    for (ptrdiff_t j = 0; j < count; j++) {
        const ptrdiff_t k = list ? list[j] : j;
        const V x = v_bcast(s + k);
        REAL *t = z->traces + k * S * z->R + at;
        V g = v_zero();
        FL_UNROLL
        for (ptrdiff_t v = 0; v < S; v++, t += z->R) {
            const V now = v_fma(mu[v], v_load(t), v_mul(u[v], x));
            v_store(t, now);
            if (mode != FL_TRACE_ONLY) g = v_fma(e[v], now, g);
        }
        if (mode != FL_TRACE_ONLY) fl_descend(mode, to, k * z->R + at, g, lr, momentum);
    }
}

FL_INLINE void fl_small_passes(const fl_small *z, const fl_geometry *q, const REAL *s, const fl_target *to, const ptrdiff_t *list,
                               ptrdiff_t count, int mode) {
    for (ptrdiff_t at = 0; at < z->R; at += VW) {
        if (q->S == 1) fl_small_pass(z, q, s, to, at, list, count, mode, 1);
        else if (q->S == 2) fl_small_pass(z, q, s, to, at, list, count, mode, 2);
        else fl_small_pass(z, q, s, to, at, list, count, mode, 0);
    }
}

/* A step's end, from its sources and factors. */
static void fl_small_learn(const fl_small *z, const fl_cell *cell, const REAL *s, const REAL *factors, int mode, REAL lr, REAL momentum) {
    const fl_geometry *q = &cell->q;
    const fl_target to = {mode, z->w, z->velocity, NULL, lr, momentum};
    const int decays = q->f || q->coupled || cell->l->clip < INFINITY;
    fl_small_spread(z, q, factors);
    if (mode == FL_DESCEND) fl_small_passes(z, q, s, &to, NULL, q->M, FL_DESCEND);
    else if (mode == FL_DESCEND_MOMENTUM) fl_small_passes(z, q, s, &to, NULL, q->M, FL_DESCEND_MOMENTUM);
    else if (decays) fl_small_passes(z, q, s, &to, NULL, q->M, FL_TRACE_ONLY);
    else fl_small_passes(z, q, s, &to, z->moved, q->M - q->I + z->n_filled, FL_TRACE_ONLY);
}

#endif
