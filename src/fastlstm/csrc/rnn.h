/* The simple recurrent network of Elman (1990): h(t) = phi(net). */
#ifndef FL_RNN_H
#define FL_RNN_H

FL_INLINE void fl_rnn_finish(const fl_cell *cell, ptrdiff_t group, const REAL *net, const fl_row *row) {
    const ptrdiff_t u = group * VW;
    const V h = v_activate(&cell->l->input_activation, v_load(net));
    fl_store_units(row->y + u, h, 1, cell->q.J - u);
    if (row->act) v_store(row->act + fl_act_net(&cell->q, group, VW), h);
}

/* One group of one lane at one step: h in acts becomes the error of its net input. */
FL_INLINE void fl_rnn_back(const fl_cell *cell, ptrdiff_t group, REAL *acts, const REAL *dh, const REAL *dh_next) {
    const ptrdiff_t u = group * VW, n = cell->q.J - u;
    REAL *act = acts + fl_act_net(&cell->q, group, VW);
    const V d = v_add(fl_load_units(dh + u, 1, n), fl_load_units(dh_next + u, 1, n));
    v_store(act, v_mul(v_activate_grad(&cell->l->input_activation, v_load(act)), d));
}

#endif
