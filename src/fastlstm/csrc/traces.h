/* Truncated real-time recurrent learning: eligibility traces, the gradient, and the update, in one pass over memory.

   Truncated here means what Hochreiter & Schmidhuber (1997, appendix A.1) mean: the derivatives of all net inputs at t with
   respect to anything recurrent (h, gate activations, and through peepholes c) are taken as zero, and the one path
   that is kept in time is the constant error carousel dc(t)/dc(t-1) = mu. With s = (biases 1, x, h(t-1), a(t-1)):

       E_j(t) = mu E_j(t-1) + u_j s^T          traces dc/dw of the groups j = g, i, f (eqs A.12; 2000, eqs 3.10-3.12)
       G_j    = e E_j(t)                       summed over the cells of a block for i, f
       G_o    = d_o s^T                        the output gate needs no trace
       Q_j[v,w](t) = mu_v Q_j[v,w](t-1) + u_j,v c_w(t-1)       peepholes of i and f (2002, eqs 22-24)

   Traces of a layer are [group][lane][k][slot][g, i, f][VW], then for each group and lane the peepholes [i, f][v][w][VW]. */
#ifndef FL_TRACES_H
#define FL_TRACES_H

/* What becomes of the gradient of a step. */
enum { FL_TRACE_ONLY = 0, FL_GATHER = 1, FL_DESCEND = 2, FL_DESCEND_MOMENTUM = 3 };

typedef struct fl_target {
    int mode;
    REAL *w, *velocity, *gradient; /* packed, at the layer's place */
    REAL lr, momentum;
} fl_target;

/* Take the gradient g of the VW weights at `at`. */
FL_INLINE void fl_descend(int mode, const fl_target *to, ptrdiff_t at, V g, V lr, V momentum) {
    if (mode == FL_GATHER) {
        v_store(to->gradient + at, v_add(v_load(to->gradient + at), g));
    } else if (mode == FL_DESCEND) {
        v_store(to->w + at, v_fnma(lr, g, v_load(to->w + at)));
    } else if (mode == FL_DESCEND_MOMENTUM) {
        g = v_fma(momentum, v_load(to->velocity + at), g);
        v_store(to->velocity + at, g);
        v_store(to->w + at, v_fnma(lr, g, v_load(to->w + at)));
    }
}

/* One lane's view of a group. */
typedef struct fl_trace_lane {
    const REAL *s;       /* (M,) sources */
    const REAL *factors; /* lstm.h */
    REAL *E;
    int error; /* an error reaches this lane at this step */
} fl_trace_lane;

/* The sources of one group: traces of all lanes, gradient, update. Arguments that are constants at the call are folded.
   S_known > 0 says: blocks of so many cells and one lane; their factors then stay in registers. */
FL_INLINE void fl_trace_group(const fl_geometry *q, const fl_trace_lane *lane, ptrdiff_t lanes, const fl_target *to,
                              ptrdiff_t weights_at, int mode, int S_known, int has_i, int has_f, int has_o, int traced) {
    enum { MU, E_C, U_G, U_I, U_F }; /* in the order of fl_lstm_factors, S vectors each; then d_g, d_i, d_f, d_o */
    const ptrdiff_t S = S_known ? S_known : q->S, B = S_known ? 1 : lanes, G = S + has_i + has_f + has_o;
    const ptrdiff_t gates = has_i + has_f + has_o;
    const V lr = v_set1(to->lr), momentum = v_set1(to->momentum);
    ptrdiff_t at = weights_at, k_trace = 0;
    V known[16], known_d_o = v_zero();
    if (S_known) {
        FL_UNROLL
        for (int j = 0; j < 5 * S_known; j++)
            known[j] = v_load(lane[0].factors + j * VW);
        known_d_o = v_load(lane[0].factors + (6 * S_known + 2) * VW);
    }
#define FL_FACTOR(which) (S_known ? known[(which) * S_known + v] : v_load(lane[b].factors + ((which) * S + v) * VW))
    for (ptrdiff_t k = 0; k < q->M; k++, at += G * VW, k_trace += S * traced * VW) {
        V g_i = v_zero(), g_f = v_zero(), g_o = v_zero();
        for (ptrdiff_t v = 0; v < S; v++) {
            V g_g = v_zero();
            for (ptrdiff_t b = 0; b < B; b++) {
                REAL *E = lane[b].E + k_trace + v * traced * VW;
                const V s = v_bcast(lane[b].s + k), mu = FL_FACTOR(MU);
                const int error = mode != FL_TRACE_ONLY && (S_known || lane[b].error);
                V t = v_fma(mu, v_load(E), v_mul(FL_FACTOR(U_G), s));
                v_store(E, t);
                if (error) g_g = v_fma(FL_FACTOR(E_C), t, g_g);
                if (has_i) {
                    E += VW;
                    t = v_fma(mu, v_load(E), v_mul(FL_FACTOR(U_I), s));
                    v_store(E, t);
                    if (error) g_i = v_fma(FL_FACTOR(E_C), t, g_i);
                }
                if (has_f) {
                    E += VW;
                    t = v_fma(mu, v_load(E), v_mul(FL_FACTOR(U_F), s));
                    v_store(E, t);
                    if (error) g_f = v_fma(FL_FACTOR(E_C), t, g_f);
                }
            }
            if (mode) fl_descend(mode, to, at + (gates + v) * VW, g_g, lr, momentum);
        }
        if (!mode) continue;
        if (has_i) fl_descend(mode, to, at, g_i, lr, momentum);
        if (has_f) fl_descend(mode, to, at + has_i * VW, g_f, lr, momentum);
        if (has_o) {
            for (ptrdiff_t b = 0; b < B; b++)
                if (S_known || lane[b].error) {
                    const V d_o = S_known ? known_d_o : v_load(lane[b].factors + (6 * S + 2) * VW);
                    g_o = v_fma(d_o, v_bcast(lane[b].s + k), g_o);
                }
            fl_descend(mode, to, at + (gates - 1) * VW, g_o, lr, momentum);
        }
    }
#undef FL_FACTOR
}

/* Peephole traces and gradient of one group. kept: h(c) and c(t-1) of the group, c: states, of each lane. */
static void fl_trace_peepholes(const fl_geometry *q, ptrdiff_t group, const fl_trace_lane *lane, ptrdiff_t lanes,
                               const REAL *const *kept, const REAL *const *c, const fl_target *to) {
    const ptrdiff_t S = q->S, at = q->peephole + group * 3 * S * VW, unit = group * VW * S;
    const ptrdiff_t n = q->J - group * VW < VW ? q->J - group * VW : VW;
    const V lr = v_set1(to->lr), momentum = v_set1(to->momentum);
    const int present[2] = {q->i, q->f};
    for (ptrdiff_t w = 0; w < S; w++) {
        for (ptrdiff_t gate = 0; gate < 2; gate++) {
            V g = v_zero();
            if (!present[gate]) continue;
            for (ptrdiff_t b = 0; b < lanes; b++) {
                const V source = v_load(kept[b] + (S + w) * VW); /* c_w(t-1) */
                for (ptrdiff_t v = 0; v < S; v++) {
                    const REAL *p = lane[b].factors + v * VW;
                    REAL *Q = lane[b].E + q->M * S * q->traced * VW + ((gate * S + v) * S + w) * VW;
                    const V t = v_fma(v_load(p), v_load(Q), v_mul(v_load(p + (3 + gate) * S * VW), source));
                    v_store(Q, t);
                    if (lane[b].error) g = v_fma(v_load(p + S * VW), t, g);
                }
            }
            fl_descend(to->mode, to, at + (gate * S + w) * VW, g, lr, momentum);
        }
        if (q->o && to->mode) {
            V g = v_zero();
            for (ptrdiff_t b = 0; b < lanes; b++)
                if (lane[b].error)
                    g = v_fma(v_load(lane[b].factors + (6 * S + 2) * VW), fl_load_units(c[b] + unit + w, S, n), g);
            fl_descend(to->mode, to, at + (2 * S + w) * VW, g, lr, momentum);
        }
    }
}

/* Compiled once for each fate of the gradient, and for the common shapes: today's cell, the cell of 1997, whatever else. */
#define FL_TRACE_MODE(NAME, MODE)                                                                                          \
    FL_NOINLINE void NAME(const fl_geometry *q, const fl_trace_lane *lane, ptrdiff_t lanes, const fl_target *to, ptrdiff_t at) { \
        const int all = q->gates == 3, one = lanes == 1, i_and_o = q->i && !q->f && q->o;                                 \
        if (one && all && q->S == 1) fl_trace_group(q, lane, 1, to, at, MODE, 1, 1, 1, 1, 3);                        \
        else if (one && i_and_o && q->S == 1) fl_trace_group(q, lane, 1, to, at, MODE, 1, 1, 0, 1, 2);                    \
        else if (one && i_and_o && q->S == 2) fl_trace_group(q, lane, 1, to, at, MODE, 2, 1, 0, 1, 2);                    \
        else fl_trace_group(q, lane, lanes, to, at, MODE, 0, q->i, q->f, q->o, (int)q->traced);                           \
    }
FL_TRACE_MODE(fl_trace_only, FL_TRACE_ONLY)
FL_TRACE_MODE(fl_trace_gather, FL_GATHER)
FL_TRACE_MODE(fl_trace_descend, FL_DESCEND)
FL_TRACE_MODE(fl_trace_descend_momentum, FL_DESCEND_MOMENTUM)

static void fl_trace(const fl_geometry *q, const fl_trace_lane *lane, ptrdiff_t lanes, const fl_target *to, ptrdiff_t at) {
    switch (to->mode) {
    case FL_TRACE_ONLY: fl_trace_only(q, lane, lanes, to, at); break;
    case FL_GATHER: fl_trace_gather(q, lane, lanes, to, at); break;
    case FL_DESCEND: fl_trace_descend(q, lane, lanes, to, at); break;
    default: fl_trace_descend_momentum(q, lane, lanes, to, at);
    }
}

#endif
