/* Updates at every step whose writing is put off: exact, and a step only reads weights and traces.

   After t steps from weights W, traces E and velocity V (of momentum m; rate eta),

       E(t) = pi E + sum_u kappa(u) z(u)^T           pi and kappa(u): per unit, times mu at each step; kappa(t) = u(t)
       V(t) = m^t V + rv E + sum_u phi(u) z(u)^T     rv = m rv + e pi;  phi(u) = m phi(u) + e kappa(u), of the output gate d_o(t)
       W(t) = W - a V - r E - sum_u psi(u) z(u)^T    a += eta m^t;  r += eta rv;  psi(u) += eta phi(u)

   with z = (biases 1, x, h, gate activations) and e, mu, u(t) of lstm.h. So net inputs are W z - a (V z) - r (E z) - sum_u psi(u)
   (z(u) . z): products with matrices that stand still, and K scalars. Every FL_LAZY steps all is written, in products of rank K.
   (To our knowledge not published for LSTM; the like for linear attention: DeltaNet.) Without momentum phi(u) = e kappa(u)
   of the step alone, and V is not there. A step without a target moves kappa and pi alone.

   It is for the first layer of a learner with one lane, whose blocks have one cell, if its weights and traces are too many for
   a second-level cache (FL_LAZY_WEIGHTS): beyond it a step is bound by what it moves, and this moves a third. */
#ifndef FL_LAZY_H
#define FL_LAZY_H

typedef struct fl_lazy {
    int on;
    ptrdiff_t held;     /* steps that are put off */
    ptrdiff_t at_phi, each; /* elements of one group's vectors, and where phi begins there */
    REAL *z, *turned, *dots; /* (K, M), (M, K), (K,) */
    REAL *group;        /* pi, r, rv; kappa (K, traced); psi (K, G); phi (K, G) */
    double kept, a;     /* m^t, a */
} fl_lazy;

enum { FL_LAZY_PI, FL_LAZY_R, FL_LAZY_RV, FL_LAZY_VECTORS };

static void fl_lazy_init(fl_lazy *z, const fl_geometry *q, REAL *buffer, int on) {
    const ptrdiff_t M = fl_padded(q->M, VW);
    z->on = on;
    z->held = 0;
    z->kept = 1;
    z->a = 0;
    z->at_phi = (FL_LAZY_VECTORS + FL_LAZY * (q->traced + q->G)) * VW;
    z->each = z->at_phi + FL_LAZY * q->G * VW;
    z->z = buffer;
    z->turned = z->z + FL_LAZY * M;
    z->dots = z->turned + FL_LAZY * M;
    z->group = z->dots + fl_padded(FL_LAZY, VW);
    for (ptrdiff_t g = 0; on && g < q->groups; g++) {
        v_store(z->group + g * z->each + FL_LAZY_PI * VW, v_set1(1));
        v_store(z->group + g * z->each + FL_LAZY_R * VW, v_zero());
        v_store(z->group + g * z->each + FL_LAZY_RV * VW, v_zero());
    }
}

/* Which of G row-vectors trace kind j (g, i, f, as they lie) belongs to. */
FL_INLINE int fl_lazy_vector(int G, int j) { return j == 0 ? G - 1 : j - 1; }

/* Net inputs of P groups in registers. T trace kinds, G row-vectors. */
FL_INLINE void fl_lazy_nets(const fl_lazy *z, const fl_cell *cell, const REAL *traces, const REAL *velocity, ptrdiff_t group, const REAL *s,
                            REAL *net, int P, int T, int G) {
    const fl_geometry *q = &cell->q;
    V w[2 * FL_TILE], e[2 * FL_TILE], v[2 * FL_TILE];
    for (int j = 0; j < P * FL_TILE; j++)
        w[j] = e[j] = v[j] = v_zero();
    fl_single_add(w, cell->w + group * q->panel, q->panel, s, q->M, P, G, G);
    fl_single_add(e, traces + group * q->trace, q->trace, s, q->M, P, T, T);
    if (velocity) fl_single_add(v, velocity + group * q->panel, q->panel, s, q->M, P, G, G);
    for (int p = 0; p < P; p++) {
        const REAL *own = z->group + (group + p) * z->each, *psi = own + (FL_LAZY_VECTORS + FL_LAZY * T) * VW;
        const V r = v_load(own + FL_LAZY_R * VW), a = v_set1((REAL)z->a);
        V *total = w + p * G;
        for (int j = 0; j < T; j++) {
            const int n = fl_lazy_vector(G, j);
            total[n] = v_fnma(r, e[p * T + j], total[n]);
        }
        for (int n = 0; n < G; n++) {
            V sum = v_zero();
            for (ptrdiff_t u = 0; u < z->held; u++)
                sum = v_fma(v_bcast(z->dots + u), v_load(psi + (u * G + n) * VW), sum);
            if (velocity) total[n] = v_fnma(a, v[p * G + n], total[n]);
            v_store(net + (p * G + n) * VW, v_sub(total[n], sum));
        }
    }
}

FL_INLINE void fl_lazy_rows(const fl_lazy *z, const fl_cell *cell, const REAL *traces, const REAL *velocity, const REAL *s, const fl_row *row,
                            int T, int G) {
    const fl_geometry *q = &cell->q;
    REAL net[2 * FL_TILE * VW];
    ptrdiff_t group = 0;
    for (; group + 2 <= q->groups; group += 2) {
        fl_lazy_nets(z, cell, traces, velocity, group, s, net, 2, T, G);
        fl_finish(cell, group, net, row, s);
        fl_finish(cell, group + 1, net + G * VW, row, s);
    }
    if (group == q->groups) return;
    fl_lazy_nets(z, cell, traces, velocity, group, s, net, 1, T, G);
    fl_finish(cell, group, net, row, s);
}

/* The forward step; s (M,): its sources. */
static void fl_lazy_forward(fl_lazy *z, const fl_cell *cell, const REAL *traces, const REAL *velocity, const REAL *s, const fl_row *row) {
    const fl_geometry *q = &cell->q;
    const ptrdiff_t M = fl_padded(q->M, VW);
    REAL *now = z->z + z->held * M;
    fl_copy(now, s, q->M);
    fl_zero(now + q->M, M - q->M);
    for (ptrdiff_t u = 0; u < z->held; u++) { /* FL_W interleaved partial sums: the same on every instruction set */
        V part[FL_PARTS];
        for (int p = 0; p < FL_PARTS; p++)
            part[p] = v_zero();
        for (ptrdiff_t k = 0; k < M; k += FL_W)
            for (int p = 0; p < FL_PARTS && k + p * VW < M; p++)
                part[p] = v_fma(v_load(now + k + p * VW), v_load(z->z + u * M + k + p * VW), part[p]);
        z->dots[u] = fl_sum_parts(part);
    }
    switch (q->traced * 8 + q->G) {
    case 8 + 1: fl_lazy_rows(z, cell, traces, velocity, s, row, 1, 1); break;
    case 8 + 2: fl_lazy_rows(z, cell, traces, velocity, s, row, 1, 2); break;
    case 16 + 2: fl_lazy_rows(z, cell, traces, velocity, s, row, 2, 2); break;
    case 16 + 3: fl_lazy_rows(z, cell, traces, velocity, s, row, 2, 3); break;
    case 24 + 3: fl_lazy_rows(z, cell, traces, velocity, s, row, 3, 3); break;
    default: fl_lazy_rows(z, cell, traces, velocity, s, row, 3, 4);
    }
}

/* One group's part of a step's end, from its factors (lstm.h). */
static void fl_lazy_learn(const fl_lazy *z, const fl_geometry *q, ptrdiff_t group, const REAL *factors, int error, REAL lr, REAL momentum, int has_v) {
    REAL *own = z->group + group * z->each, *kappa = own + FL_LAZY_VECTORS * VW, *psi = kappa + FL_LAZY * q->traced * VW, *phi = own + z->at_phi;
    const V mu = v_load(factors), e = v_load(factors + VW), eta = v_set1(lr), m = v_set1(momentum);
    const V by[3] = {v_load(factors + 2 * VW), v_load(factors + 3 * VW), v_load(factors + 4 * VW)}; /* g, i, f */
    const ptrdiff_t T = q->traced, G = q->G, t = z->held;
    const V pi = v_mul(mu, v_load(own + FL_LAZY_PI * VW));
    v_store(own + FL_LAZY_PI * VW, pi);
    if (error) {
        V rv = v_mul(e, pi);
        if (has_v) {
            rv = v_fma(m, v_load(own + FL_LAZY_RV * VW), rv);
            v_store(own + FL_LAZY_RV * VW, rv);
        }
        v_store(own + FL_LAZY_R * VW, v_fma(eta, rv, v_load(own + FL_LAZY_R * VW)));
    }
    for (ptrdiff_t n = 0; n < G; n++) {
        v_store(psi + (t * G + n) * VW, v_zero());
        v_store(phi + (t * G + n) * VW, v_zero());
    }
    for (ptrdiff_t j = 0; j < T; j++) {
        const ptrdiff_t kind = j == 0 ? 0 : j == 1 && q->i ? 1 : 2, n = fl_lazy_vector((int)G, (int)j);
        v_store(kappa + (t * T + j) * VW, by[kind]);
        for (ptrdiff_t u = 0; u <= t; u++) {
            REAL *k = kappa + (u * T + j) * VW, *p = psi + (u * G + n) * VW, *f = phi + (u * G + n) * VW;
            const V now = u < t ? v_mul(mu, v_load(k)) : v_load(k);
            v_store(k, now);
            if (!error) continue;
            V step = v_mul(e, now);
            if (has_v) {
                step = v_fma(m, v_load(f), step);
                v_store(f, step);
            }
            v_store(p, v_fma(eta, step, v_load(p)));
        }
    }
    if (!q->o || !error) return;
    for (ptrdiff_t u = has_v ? 0 : t; u <= t; u++) {
        REAL *p = psi + (u * G + q->gates - 1) * VW, *f = phi + (u * G + q->gates - 1) * VW;
        V step = u == t ? v_load(factors + 8 * VW) : v_zero(); /* d_o */
        if (has_v) {
            step = v_fma(m, v_load(f), step);
            v_store(f, step);
        }
        v_store(p, v_fma(eta, step, v_load(p)));
    }
}

/* acc[r][n] = sum_u z(u)[k + r] a(u)[n]; turned: (M, K). */
FL_INLINE void fl_lazy_sum(V *acc, const fl_lazy *z, const REAL *a, ptrdiff_t k, int R, int N) {
    const REAL *row[FL_ROWS];
    for (int r = 0; r < R; r++)
        row[r] = z->turned + (k + r) * FL_LAZY;
    fl_chain(acc, 1, R, N, a, 0, N * VW, row, 0, z->held, 0);
}

FL_INLINE void fl_lazy_write_group(const fl_lazy *z, const fl_geometry *q, ptrdiff_t group, REAL *w, REAL *velocity, REAL *traces, int T, int G) {
    const REAL *own = z->group + group * z->each, *kappa = own + FL_LAZY_VECTORS * VW, *psi = kappa + FL_LAZY * T * VW, *phi = own + z->at_phi;
    const V pi = v_load(own + FL_LAZY_PI * VW), r = v_load(own + FL_LAZY_R * VW), rv = v_load(own + FL_LAZY_RV * VW);
    const V a = v_set1((REAL)z->a), kept = v_set1((REAL)z->kept);
    enum { R = FL_ROWS > 3 ? 4 : 2 };
    for (ptrdiff_t k = 0; k < fl_padded(q->M, VW); k += R) {
        V step[R * FL_TILE], speed[R * FL_TILE], trace[R * FL_TILE];
        fl_lazy_sum(step, z, psi, k, R, G);
        fl_lazy_sum(trace, z, kappa, k, R, T);
        if (velocity) fl_lazy_sum(speed, z, phi, k, R, G);
        for (int j = 0; j < R * G && !velocity; j++)
            speed[j] = v_zero();
        for (int s = 0; s < R && k + s < q->M; s++) {
            REAL *E = traces + (k + s) * T * VW, *W = w + (k + s) * G * VW, *v = velocity ? velocity + (k + s) * G * VW : NULL;
            for (int j = 0; j < T; j++) {
                const int n = fl_lazy_vector(G, j);
                const V before = v_load(E + j * VW);
                step[s * G + n] = v_fma(r, before, step[s * G + n]);
                if (velocity) speed[s * G + n] = v_fma(rv, before, speed[s * G + n]);
                v_store(E + j * VW, v_fma(pi, before, trace[s * T + j]));
            }
            for (int n = 0; n < G; n++) {
                if (velocity) {
                    const V before = v_load(v + n * VW);
                    step[s * G + n] = v_fma(a, before, step[s * G + n]);
                    v_store(v + n * VW, v_fma(kept, before, speed[s * G + n]));
                }
                v_store(W + n * VW, v_sub(v_load(W + n * VW), step[s * G + n]));
            }
        }
    }
}

FL_INLINE void fl_lazy_write(const fl_lazy *z, const fl_geometry *q, REAL *w, REAL *velocity, REAL *traces, int T, int G) {
    for (ptrdiff_t group = 0; group < q->groups; group++)
        fl_lazy_write_group(z, q, group, w + group * q->panel, velocity ? velocity + group * q->panel : NULL, traces + group * q->trace, T, G);
}

/* Write what was put off. */
static void fl_lazy_settle(fl_lazy *z, const fl_geometry *q, REAL *w, REAL *velocity, REAL *traces) {
    const ptrdiff_t M = fl_padded(q->M, VW);
    if (!z->on || z->held == 0) return;
    for (ptrdiff_t k = 0; k < M; k++)
        for (ptrdiff_t u = 0; u < z->held; u++)
            z->turned[k * FL_LAZY + u] = z->z[u * M + k];
    switch (q->traced * 8 + q->G) {
    case 8 + 1: fl_lazy_write(z, q, w, velocity, traces, 1, 1); break;
    case 8 + 2: fl_lazy_write(z, q, w, velocity, traces, 1, 2); break;
    case 16 + 2: fl_lazy_write(z, q, w, velocity, traces, 2, 2); break;
    case 16 + 3: fl_lazy_write(z, q, w, velocity, traces, 2, 3); break;
    case 24 + 3: fl_lazy_write(z, q, w, velocity, traces, 3, 3); break;
    default: fl_lazy_write(z, q, w, velocity, traces, 3, 4);
    }
    fl_lazy_init(z, q, z->z, 1);
}

#endif
