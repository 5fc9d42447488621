/* The gated recurrent unit: forward equations and their gradient (Cho et al. 2014, eqs 5-8; its other form as in cuDNN):

       r = sigma(net_r)      z = sigma(net_z)      h(t) = (1 - z) n + z h(t-1)
       n = phi(net_n + r (W_hn h(t-1) + b_hn))     where the reset gate acts after the product,
       n = phi(net_n + W_hn (r h(t-1)))            where it acts before: W_hn (r h) is the cell's second product.

   net_n has the inputs' part and their bias; before, both biases. */
#ifndef FL_GRU_H
#define FL_GRU_H

/* Vectors of a group's net inputs, and of what is saved of them. */
enum { FL_GRU_N, FL_GRU_R, FL_GRU_Z, FL_GRU_NH };

/* h(t) = n + z (h(t-1) - n) */
FL_INLINE V fl_gru_output(V z, V h, V n) { return v_fma(z, v_sub(h, n), n); }

/* After the product; net (4, VW). */
FL_INLINE void fl_gru_finish(const fl_cell *cell, ptrdiff_t group, const REAL *net, const fl_row *row) {
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t u = group * VW, left = cell->q.J - u, plane = cell->q.by_vector * VW;
    const V nh = v_load(net + FL_GRU_NH * VW);
    const V r = v_activate(&l->gate_activation, v_load(net + FL_GRU_R * VW));
    const V z = v_activate(&l->gate_activation, v_load(net + FL_GRU_Z * VW));
    const V n = v_activate(&l->input_activation, v_fma(r, nh, v_load(net + FL_GRU_N * VW)));
    fl_store_units(row->y + u, fl_gru_output(z, fl_load_units(row->h + u, 1, left), n), 1, left);
    if (row->act) {
        REAL *act = row->act + fl_act_net(&cell->q, group, VW);
        v_store(act + FL_GRU_N * plane, n);
        v_store(act + FL_GRU_R * plane, r);
        v_store(act + FL_GRU_Z * plane, z);
        v_store(act + FL_GRU_NH * plane, nh);
    }
}

/* Before it: the gates, and r h (as it is read) as the second product's sources; net (3, VW) keeps z. */
FL_INLINE void fl_gru_gates(const fl_cell *cell, ptrdiff_t group, REAL *net, const fl_row *row, const REAL *h) {
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t u = group * VW, left = cell->q.J - u, plane = cell->q.by_vector * VW;
    const V r = v_activate(&l->gate_activation, v_load(net + FL_GRU_R * VW));
    const V z = v_activate(&l->gate_activation, v_load(net + FL_GRU_Z * VW));
    v_store(net + FL_GRU_Z * VW, z);
    fl_store_units(row->y + u, v_mul(r, fl_load_units(h + u, 1, left)), 1, left);
    if (row->act) {
        v_store(row->act + fl_act_net(&cell->q, group, VW) + FL_GRU_R * plane, r);
        v_store(row->act + fl_act_net(&cell->q, group, VW) + FL_GRU_Z * plane, z);
    }
}

/* And the end; y: out, before it W_hn (r h). */
FL_INLINE void fl_gru_candidate(const fl_cell *cell, ptrdiff_t group, const REAL *net, const fl_row *row, REAL *y) {
    const ptrdiff_t u = group * VW, left = cell->q.J - u;
    const V n = v_activate(&cell->l->input_activation, v_add(v_load(net + FL_GRU_N * VW), fl_load_units(y + u, 1, left)));
    fl_store_units(y + u, fl_gru_output(v_load(net + FL_GRU_Z * VW), fl_load_units(row->h + u, 1, left), n), 1, left);
    if (row->act) v_store(row->act + fl_act_net(&cell->q, group, VW) + FL_GRU_N * cell->q.by_vector * VW, n);
}

/* The gradient of one group of one lane at one step, from d, the error of h(t):

       d_z = z' d (h(t-1) - n)      d_n = n' d (1 - z)      after: d_r = r' d_n (W_hn h(t-1) + b_hn), d_nh = d_n r
       before, with d_s = W_hn^T d_n: d_r = r' d_s h(t-1)

   and directly d(h(t-1)) = d z, which is left in direct; before, d_s r beside W_hr^T d_r + W_hz^T d_z. acts: activations
   in, errors of net inputs out. dh: (H,) from above; dh_next: from the step after; direct: out. */
FL_INLINE void fl_gru_back(const fl_cell *cell, ptrdiff_t group, REAL *acts, const REAL *h, const REAL *dh, const REAL *dh_next, REAL *direct) {
    const fastlstm_layer *l = cell->l;
    const ptrdiff_t u = group * VW, left = cell->q.J - u, plane = cell->q.by_vector * VW;
    REAL *act = acts + fl_act_net(&cell->q, group, VW);
    const V d = v_add(fl_load_units(dh + u, 1, left), fl_load_units(dh_next + u, 1, left));
    const V n = v_load(act + FL_GRU_N * plane), z = v_load(act + FL_GRU_Z * plane);
    const V d_n = v_mul(v_activate_grad(&l->input_activation, n), v_mul(d, v_sub(v_set1(1), z)));
    v_store(act + FL_GRU_N * plane, d_n);
    v_store(act + FL_GRU_Z * plane, v_mul(v_activate_grad(&l->gate_activation, z), v_mul(d, v_sub(fl_load_units(h + u, 1, left), n))));
    fl_store_units(direct + u, v_mul(d, z), 1, left);
    if (!l->reset_after) return;
    const V r = v_load(act + FL_GRU_R * plane);
    v_store(act + FL_GRU_R * plane, v_mul(v_activate_grad(&l->gate_activation, r), v_mul(d_n, v_load(act + FL_GRU_NH * plane))));
    v_store(act + FL_GRU_NH * plane, v_mul(d_n, r));
}

/* The rest of it, before the product; h: as it was read; ds: (H,) d_s in, d_s r out. */
FL_INLINE void fl_gru_back_reset(const fl_cell *cell, ptrdiff_t group, REAL *acts, const REAL *h, REAL *ds) {
    const ptrdiff_t u = group * VW, left = cell->q.J - u;
    REAL *act = acts + fl_act_net(&cell->q, group, VW) + FL_GRU_R * cell->q.by_vector * VW;
    const V r = v_load(act), d = fl_load_units(ds + u, 1, left);
    v_store(act, v_mul(v_activate_grad(&cell->l->gate_activation, r), v_mul(d, fl_load_units(h + u, 1, left))));
    fl_store_units(ds + u, v_mul(d, r), 1, left);
}

#endif
