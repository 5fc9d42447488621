/* The end of a plain LSTM's step: three gates, sigmoid and tanh, blocks of one cell, nothing else. Included once for vectors of
   units and once for narrow ones (narrow.h). */

/* c(t) = f c(t-1) + i g: one rounding for f c, one for the sum. */
FL_INLINE V fl_state(V f, V c_prev, V i, V g) { return v_fma(i, g, v_mul(f, c_prev)); }

/* The plain cell's state of one group from its net inputs. */
FL_INLINE V fl_plain_state(const fl_cell *cell, ptrdiff_t group, const fl_row *row, V i, V f, V g) {
    const ptrdiff_t u = group * VW, n = cell->q.J - u;
    const V c_prev = fl_load_units(row->c + u, 1, n);
    i = v_sigmoid(i);
    f = v_sigmoid(f);
    g = v_tanh(g);
    const V c = fl_state(f, c_prev, i, g);
    fl_store_units(row->c + u, c, 1, n);
    if (row->act) {
        REAL *act = row->act + fl_act_net(&cell->q, group, VW);
        v_store(act, i);
        v_store(act + VW, f);
        v_store(act + 3 * VW, g);
        v_store(row->act + fl_act_cell(&cell->q, group, VW) + VW, c_prev);
    }
    return c;
}

/* And its output. */
FL_INLINE void fl_plain_output(const fl_cell *cell, ptrdiff_t group, const fl_row *row, V o, V c) {
    const ptrdiff_t u = group * VW, n = cell->q.J - u;
    const V hc = v_tanh(c);
    o = v_sigmoid(o);
    fl_store_units(row->y + u, v_mul(o, hc), 1, n);
    if (row->act) {
        v_store(row->act + fl_act_net(&cell->q, group, VW) + 2 * VW, o);
        v_store(row->act + fl_act_cell(&cell->q, group, VW), hc);
    }
}
