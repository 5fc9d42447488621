/* The LSTM cell: forward equations, and the local factors of its truncated gradient. Each equation stands here once.

   For a block with gates i, f, o and cells v = 1..S (Hochreiter & Schmidhuber 1997, eqs 7-9; forget gate: Gers et al.
   2000, eq. 3.1; peepholes: Gers et al. 2002, eqs 2-5; coupled gates f = 1 - i: Greff et al. 2017):

       i = sigma(net_i + sum_v p_i[v] c_v(t-1))        f likewise        g_v = g(net_g[v])
       c_v = f c_v(t-1) + i g_v                        (absent gates are 1; clipped to [-clip, clip])
       o = sigma(net_o + sum_v p_o[v] c_v)             h_v = o h(c_v) */
#ifndef FL_LSTM_H
#define FL_LSTM_H

#include "plain.h"

/* What of a step's end the gradient needs of each cell. */
typedef struct fl_local {
    V mu, u_g, u_i, u_f;
} fl_local;

/* A cell's local factors, from what its gates and activations were; d_i, d_f: derivatives of its gates. See fl_lstm_factors. */
FL_INLINE fl_local fl_lstm_local(const fl_geometry *q, const fastlstm_layer *l, V i, V f, V g, V c_prev, V d_i, V d_f) {
    fl_local u = {f, v_mul(i, v_activate_grad(&l->input_activation, g)), v_mul(q->coupled ? v_sub(g, c_prev) : g, d_i), v_mul(c_prev, d_f)};
    if (l->clip < INFINITY) {
        const VM inside = v_lt(v_abs(fl_state(f, c_prev, i, g)), v_set1((REAL)l->clip));
        u.mu = v_select(inside, u.mu, v_zero());
        u.u_g = v_select(inside, u.u_g, v_zero());
        u.u_i = v_select(inside, u.u_i, v_zero());
        u.u_f = v_select(inside, u.u_f, v_zero());
    }
    return u;
}

/* The error of its state, from that of its output. */
FL_INLINE V fl_lstm_error(const fastlstm_layer *l, V dh, V o, V hc) {
    return v_mul(v_mul(dh, o), v_activate_grad(&l->output_activation, hc));
}

/* Any LSTM's state. */
FL_INLINE V fl_clipped_state(const fastlstm_layer *l, V f, V c_prev, V i, V g) {
    return v_max(v_set1((REAL)-l->clip), v_min(v_set1((REAL)l->clip), fl_state(f, c_prev, i, g)));
}

/* Activations and cells per block that most LSTMs have (fl_cell): constants, where `usual` is one. */
typedef struct fl_lstm_kind {
    fastlstm_activation gate, in, out;
    ptrdiff_t S;
} fl_lstm_kind;

FL_INLINE fl_lstm_kind fl_lstm_kind_of(const fl_cell *cell, int usual) {
    const fl_lstm_kind kind = {{FASTLSTM_SIGMOID, 0, 0}, {FASTLSTM_TANH, 0, 0}, {FASTLSTM_TANH, 0, 0}, 1};
    const fastlstm_layer *l = cell->l;
    return usual ? kind : (fl_lstm_kind){l->gate_activation, l->input_activation, l->output_activation, cell->q.S};
}

/* Any LSTM's states of one group; net (N, VW), where the output gate's net input is completed. */
FL_INLINE void fl_lstm_states(const fl_cell *cell, ptrdiff_t group, REAL *net, const fl_row *row, int usual) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const fl_lstm_kind kind = fl_lstm_kind_of(cell, usual);
    const ptrdiff_t S = kind.S, block = group * VW;
    const ptrdiff_t n = q->J - block < VW ? q->J - block : VW;
    const REAL *peep = l->peepholes ? cell->w + q->peephole + group * 3 * S * VW : NULL;
    const V one = v_set1(1);
    const REAL *net_g = net + q->gates * VW;
    REAL *c_units = row->c + block * S;
    REAL *act = row->act ? row->act + fl_act_net(q, group, VW) : NULL, *act_g = act ? act + q->gates * VW : NULL;
    REAL *kept = act ? row->act + fl_act_cell(q, group, VW) : NULL;
    REAL *a_out = row->a_out && q->A ? row->a_out + block : NULL;
    V i = one, f = one;

    if (q->i) {
        V a = v_load(net);
        net += VW;
        if (peep)
            for (ptrdiff_t v = 0; v < S; v++)
                a = v_fma(v_load(peep + v * VW), fl_load_units(c_units + v, S, n), a);
        i = v_activate(&kind.gate, a);
        if (act) v_store(act, i), act += VW;
        if (a_out) fl_store_units(a_out, i, 1, n), a_out += q->J;
    }
    if (q->f) {
        V a = v_load(net);
        net += VW;
        if (peep)
            for (ptrdiff_t v = 0; v < S; v++)
                a = v_fma(v_load(peep + (S + v) * VW), fl_load_units(c_units + v, S, n), a);
        f = v_activate(&kind.gate, a);
        if (act) v_store(act, f), act += VW;
        if (a_out) fl_store_units(a_out, f, 1, n), a_out += q->J;
    } else if (q->coupled) {
        f = v_sub(one, i);
    }
    for (ptrdiff_t v = 0; v < S; v++) {
        const V g = v_activate(&kind.in, v_load(net_g + v * VW)), c_prev = fl_load_units(c_units + v, S, n);
        const V c = fl_clipped_state(l, f, c_prev, i, g);
        fl_store_units(c_units + v, c, S, n);
        if (peep && q->o) v_store(net, v_fma(v_load(peep + (2 * S + v) * VW), c, v_load(net)));
        if (act_g) {
            v_store(act_g + v * VW, g);
            v_store(kept + (S + v) * VW, c_prev);
            if (peep) v_store(kept + (2 * S + v) * VW, c);
        }
    }
}

/* And its outputs. */
FL_INLINE void fl_lstm_outputs(const fl_cell *cell, ptrdiff_t group, const REAL *net, const fl_row *row, int usual) {
    const fl_geometry *q = &cell->q;
    const fl_lstm_kind kind = fl_lstm_kind_of(cell, usual);
    const ptrdiff_t S = kind.S, block = group * VW, gate = q->i + q->f;
    const ptrdiff_t n = q->J - block < VW ? q->J - block : VW;
    REAL *kept = row->act ? row->act + fl_act_cell(q, group, VW) : NULL;
    V o = v_set1(1);
    if (q->o) {
        o = v_activate(&kind.gate, v_load(net + gate * VW));
        if (row->act) v_store(row->act + fl_act_net(q, group, VW) + gate * VW, o);
        if (row->a_out && q->A) fl_store_units(row->a_out + block + gate * q->J, o, 1, n);
    }
    for (ptrdiff_t v = 0; v < S; v++) {
        const V hc = v_activate(&kind.out, fl_load_units(row->c + block * S + v, S, n));
        fl_store_units(row->y + block * S + v, v_mul(o, hc), S, n);
        if (kept) v_store(kept + v * VW, hc);
    }
}

/* The end of rows of any LSTM, their net inputs N * VW apart. In two passes: an output waits for its own states, but not for
   those of other rows. */
FL_INLINE void fl_lstm_finish_kind(const fl_cell *cell, ptrdiff_t group, REAL *net, const fl_row *row, ptrdiff_t rows, int usual) {
    for (ptrdiff_t r = 0; r < rows; r++)
        fl_lstm_states(cell, group, net + r * cell->q.N * VW, row + r, usual);
    for (ptrdiff_t r = 0; r < rows; r++)
        fl_lstm_outputs(cell, group, net + r * cell->q.N * VW, row + r, usual);
}

FL_NOINLINE void fl_lstm_finish(const fl_cell *cell, ptrdiff_t group, REAL *net, const fl_row *row, ptrdiff_t rows) {
    if (cell->usual) fl_lstm_finish_kind(cell, group, net, row, rows, 1);
    else fl_lstm_finish_kind(cell, group, net, row, rows, 0);
}

/* The local factors of one lane and group at one step, from what fl_finish saved and the error dh of the outputs.
   With e_v = dh_v o h'(c_v), the error that reaches the cell state from the output side at this step:

       mu_v  = dc_v(t) / dc_v(t-1) = f                          (0 where the state was clipped, as are all u)
       u_g,v = dc_v / dnet_g = i g'(net_g)      u_i,v = dc_v / dnet_i = g_v i'      u_f,v = c_v(t-1) f'
       coupled gates: u_i,v = (g_v - c_v(t-1)) i'
       d_g,v = e_v u_g,v     d_i = sum_v e_v u_i,v     d_f = sum_v e_v u_f,v     d_o = o' sum_v dh_v h(c_v)

   (1997, eqs A.9-A.14; 2000, eqs 3.10-3.12.) Nothing flows back through peepholes (2002, sec. 3.2).
   factors: mu, e, u_g, u_i, u_f, d_g of S vectors each, then d_i, d_f, d_o. dh NULL: no error at this step. */
static void fl_lstm_factors(const fl_cell *cell, ptrdiff_t group, const REAL *acts, const REAL *dh, REAL *factors) {
    const fl_geometry *q = &cell->q;
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t S = q->S, block = group * VW;
    const ptrdiff_t n = q->J - block < VW ? q->J - block : VW;
    const REAL *act = acts + fl_act_net(q, group, VW), *act_g = act + q->gates * VW, *kept = acts + fl_act_cell(q, group, VW);
    const V one = v_set1(1), zero = v_zero();
    V i = one, f = one, o = one, di = zero, df = zero, dot = zero;
    V d_i = zero, d_f = zero, d_o = zero; /* derivatives of the gates, then the errors of their net inputs */
    if (q->i) i = v_load(act), act += VW, di = v_activate_grad(&l->gate_activation, i);
    if (q->f) f = v_load(act), act += VW, df = v_activate_grad(&l->gate_activation, f);
    if (q->coupled) f = v_sub(one, i);
    if (q->o) o = v_load(act);
    for (ptrdiff_t v = 0; v < S; v++) {
        const V g = v_load(act_g + v * VW), hc = v_load(kept + v * VW), c_prev = v_load(kept + (S + v) * VW);
        const fl_local u = fl_lstm_local(q, l, i, f, g, c_prev, di, df);
        /* Traces stay zero in the padding, where nothing is bounded by a gate or met by a weight. */
        v_store(factors + v * VW, fl_unpadded(u.mu, n));
        v_store(factors + (2 * S + v) * VW, fl_unpadded(u.u_g, n));
        v_store(factors + (3 * S + v) * VW, fl_unpadded(u.u_i, n));
        v_store(factors + (4 * S + v) * VW, fl_unpadded(u.u_f, n));
        if (!dh) continue;
        const V d = fl_load_units(dh + block * S + v, S, n);
        const V e = fl_lstm_error(l, d, o, hc);
        v_store(factors + (S + v) * VW, e);
        v_store(factors + (5 * S + v) * VW, v_mul(e, u.u_g));
        d_i = v_fma(e, u.u_i, d_i);
        d_f = v_fma(e, u.u_f, d_f);
        dot = v_fma(d, hc, dot);
    }
    if (!dh) return;
    if (q->o) d_o = v_mul(v_activate_grad(&l->gate_activation, o), dot);
    v_store(factors + 6 * S * VW, d_i);
    v_store(factors + (6 * S + 1) * VW, d_f);
    v_store(factors + (6 * S + 2) * VW, d_o);
}

/* The errors of a group's net inputs (G, VW), of its factors. */
static void fl_lstm_group_errors(const fl_geometry *q, const REAL *factors, REAL *d) {
    const ptrdiff_t S = q->S;
    if (q->i) v_store(d, v_load(factors + 6 * S * VW)), d += VW;
    if (q->f) v_store(d, v_load(factors + (6 * S + 1) * VW)), d += VW;
    if (q->o) v_store(d, v_load(factors + (6 * S + 2) * VW)), d += VW;
    for (ptrdiff_t v = 0; v < S; v++, d += VW)
        v_store(d, v_load(factors + (5 * S + v) * VW));
}

#endif
