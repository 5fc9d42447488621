/* One step of a recurrent cell: its net inputs and its end, of one lane in registers or of many lanes. */
#ifndef FL_STEP_H
#define FL_STEP_H

/* A cell's end, of one row; net (N, VW), overwritten; h: as it is read. */
FL_NOINLINE void fl_finish(const fl_cell *cell, ptrdiff_t group, REAL *net, const fl_row *row, const REAL *h) {
    if (cell->l->kind == FASTLSTM_LSTM) fl_lstm_finish(cell, group, net, row, 1);
    else if (cell->l->kind == FASTLSTM_RNN) fl_rnn_finish(cell, group, net, row);
    else if (cell->l->reset_after) fl_gru_finish(cell, group, net, row);
    else fl_gru_gates(cell, group, net, row, h);
}

/* The end of P groups of one row, whose N net inputs each are in registers. */
FL_INLINE void fl_single_end(const fl_cell *cell, ptrdiff_t group, const fl_rows *rows, const V *total, int P, int N) {
    const fl_row *row = rows->row;
    if (N == 4 && cell->plain) {
        V c[2];
        FL_UNROLL
        for (int p = 0; p < P; p++)
            c[p] = fl_plain_state(cell, group + p, row, total[p * N], total[p * N + 1], total[p * N + 3]);
        FL_UNROLL
        for (int p = 0; p < P; p++)
            fl_plain_output(cell, group + p, row, total[p * N + 2], c[p]);
        return;
    }
    FL_UNROLL
    for (int p = 0; p < P; p++) {
        REAL net[4 * VW];
        FL_UNROLL
        for (int n = 0; n < N; n++)
            v_store(net + n * VW, total[p * N + n]);
        fl_finish(cell, group + p, net, row, rows->h[0]);
    }
}

/* All of a cell's net inputs and its end, for one row and P groups, in registers: short chains side by side. */
FL_INLINE void fl_cell_single(const fl_cell *cell, ptrdiff_t group, const fl_rows *rows, int P, int N, int G, int shift) {
    V total[8];
    fl_net_single(total, cell, group, rows->net_panel ? rows->net + group * rows->net_panel : NULL, rows->net_panel, rows->x[0],
                  rows->h[0], cell->q.A ? rows->a[0] : NULL, P, N, G, shift);
    fl_single_end(cell, group, rows, total, P, N);
}

/* As many groups at a time as make 8 net inputs. */
FL_INLINE void fl_cell_row(const fl_cell *cell, const fl_rows *rows, int N, int G, int shift) {
    const int P = N > 2 ? 2 : 8 / N;
    const ptrdiff_t first = cell->first, whole = (cell->end - first) / P * P;
    for (ptrdiff_t at = 0; at < whole; at += P)
        fl_cell_single(cell, first + (rows->back ? whole - P - at : at), rows, P, N, G, shift);
    ptrdiff_t group = first + whole;
    if (P > 2)
        for (; group + 2 <= cell->end; group += 2)
            fl_cell_single(cell, group, rows, 2, N, G, shift);
    for (; group < cell->end; group++)
        fl_cell_single(cell, group, rows, 1, N, G, shift);
}

/* Whether one row of a plain cell is made by fl_plain_row: the weights of one group fit into the first-level cache, those of
   all do not, and the vectors of a group are as many bytes as keep a core busy. */
static int fl_is_plain_row(const fl_cell *cell, const fl_rows *rows) {
    const ptrdiff_t group = fl_group_bytes(cell, rows);
    return cell->plain && VW * sizeof(REAL) >= FL_LINE && group <= FL_NEAREST_BYTES && group * (cell->end - cell->first) > FL_NEAREST_BYTES;
}

/* One group at a time, so that a step that goes back finds more of the last ones in the first-level cache than of two, and its
   end amid the products of the next one, whose weights arrive meanwhile. */
FL_NOINLINE void fl_plain_row(const fl_cell *cell, const fl_rows *rows) {
    enum { N = 4 };
    const fl_geometry *q = &cell->q;
    const fl_row *row = rows->row;
    const ptrdiff_t groups = cell->end - cell->first, block = q->P < FL_BLOCK ? q->P : FL_BLOCK, half = block / 2;
    V net[N] = {v_zero()}, c = v_zero(); /* of the group before */
    ptrdiff_t before = -1;
    for (ptrdiff_t at = 0; at < groups; at++) {
        const ptrdiff_t group = rows->back ? cell->end - 1 - at : cell->first + at;
        const REAL *w = cell->w + group * q->panel + (q->biases + q->I) * N * VW;
        const REAL *made = rows->net_panel ? rows->net + group * rows->net_panel : NULL;
        V total[N], acc[N];
        fl_net_single(total, cell, group, made, rows->net_panel, rows->x[0], NULL, NULL, 1, N, N, 0);
        fl_chain(acc, 1, 1, N, w, q->panel, N * VW, rows->h, 0, half, 0);
        if (before >= 0) c = fl_plain_state(cell, before, row, net[0], net[1], net[3]);
        fl_chain_on(acc, 1, 1, N, w + half * N * VW, q->panel, N * VW, rows->h, half, block - half, 0);
        if (before >= 0) fl_plain_output(cell, before, row, net[2], c);
        FL_UNROLL
        for (int n = 0; n < N; n++)
            total[n] = v_add(total[n], acc[n]);
        fl_single_add(total, w + block * N * VW, q->panel, rows->h[0] + block, q->P - block, 1, N, N);
        FL_UNROLL
        for (int n = 0; n < N; n++)
            net[n] = total[n];
        before = group;
    }
    fl_plain_output(cell, before, row, net[2], fl_plain_state(cell, before, row, net[0], net[1], net[3]));
}

#ifdef FL_NARROW
/* Whether one row of a plain cell is made by fl_narrow_row: up to three groups, the last of them half empty, whose weights fit
   into the first-level cache, half empty as they are. */
static int fl_is_narrow_row(const fl_cell *cell, const fl_rows *rows) {
    const ptrdiff_t groups = cell->end - cell->first;
    return cell->plain && groups > 0 && groups <= 3 && cell->q.J - (cell->end - 1) * VW <= FL_NARROW &&
           (2 * groups - 1) * fl_group_bytes(cell, rows) <= 2 * FL_NEAREST_BYTES;
}

/* The last group goes with the one before it; a step that goes back begins with them. */
FL_NOINLINE void fl_narrow_row(const fl_cell *cell, const fl_rows *rows) {
    const ptrdiff_t groups = cell->end - cell->first;
    if (groups == 1) {
        fl_narrow_groups(cell, rows, 0);
        return;
    }
    for (int turn = 0; turn < 2; turn++) {
        if (turn == !rows->back) fl_narrow_groups(cell, rows, 1);
        else if (groups == 3) fl_cell_single(cell, cell->first, rows, 1, 4, 4, 0);
    }
}
#else
static int fl_is_narrow_row(const fl_cell *cell, const fl_rows *rows) { return (void)cell, (void)rows, 0; }
static void fl_narrow_row(const fl_cell *cell, const fl_rows *rows) { (void)cell, (void)rows; }
#endif

/* All rows of a group, once their net inputs are complete; these are overwritten. */
FL_NOINLINE void fl_finish_rows(const fl_cell *cell, ptrdiff_t group, const fl_rows *rows, REAL *net) {
    const ptrdiff_t N = cell->q.N;
    if (!cell->plain && cell->l->kind == FASTLSTM_LSTM) {
        fl_lstm_finish(cell, group, net, rows->row, rows->n);
        return;
    }
    if (!cell->plain) {
        for (ptrdiff_t r = 0; r < rows->n; r++)
            fl_finish(cell, group, net + r * N * VW, rows->row + r, rows->h[r]);
        return;
    }
    /* In two passes, as fl_lstm_finish. */
    for (ptrdiff_t r = 0; r < rows->n; r++) {
        REAL *t = net + r * 4 * VW;
        v_store(t, fl_plain_state(cell, group, rows->row + r, v_load(t), v_load(t + VW), v_load(t + 3 * VW)));
    }
    for (ptrdiff_t r = 0; r < rows->n; r++) {
        REAL *t = net + r * 4 * VW;
        fl_plain_output(cell, group, rows->row + r, v_load(t + 2 * VW), v_load(t));
    }
}

/* One step of the cell, of any number of rows. */
FL_NOINLINE void fl_cell_many(const fl_cell *cell, const fl_rows *rows) {
    const fl_geometry *q = &cell->q;
    fl_sparse of_x, of_h;
    const fl_sparse *sparse_x = rows->net_panel ? NULL : fl_find_sparse(rows->x, q->I, q->G, rows->n, &of_x);
    const fl_sparse *sparse_h = fl_find_sparse(rows->h, q->P, q->G_h, rows->n, &of_h);
    const ptrdiff_t most = fl_tile_groups(q), turns = fl_pass_turns(cell, most), before_h = (q->biases + q->I) * q->G * VW;
    for (ptrdiff_t turn = 0; turn < turns; turn++) {
        const ptrdiff_t group = fl_pass_group(cell, most, turn, turns, rows->back), P = fl_pass_panels(cell, most, group);
        const ptrdiff_t soon = turn + 1 < turns ? fl_pass_group(cell, most, turn + 1, turns, rows->back) : group;
        const REAL *w = cell->w + group * q->panel, *w_h = w + before_h;
        fl_tile t = {w, q->panel, q->G * VW, rows->net, rows->n * q->N * VW, q->N * VW, NULL, w_h, cell->near, rows->wanted};
        if (rows->net_panel) {
            t.net += group * rows->net_panel;
            t.net_panel = rows->net_panel;
        } else {
            fl_net_start(cell, &t, rows->x, sparse_x, rows->n, P);
        }
        REAL *net = t.net;
        t.w = w_h;
        t.stride = q->G_h * VW;
        t.net += q->shift * VW;
        t.next = cell->w + soon * q->panel + (rows->net_panel ? before_h : 0);
        fl_net_add(&t, rows->h, q->P, sparse_h, rows->n, P, q->G_h);
        t.w += q->P * t.stride;
        if (q->A) fl_net_add(&t, rows->a, q->A, NULL, rows->n, P, q->G_h);
        for (ptrdiff_t p = 0; p < P; p++)
            fl_finish_rows(cell, group + p, rows, net + p * t.net_panel);
    }
}

/* One step of the cell. */
static void fl_cell_rows(const fl_cell *cell, const fl_rows *rows) {
    const fl_geometry *q = &cell->q;
    if (rows->n > 1 || q->N > FL_TILE || q->G != q->G_h) {
        fl_cell_many(cell, rows);
        return;
    }
    switch (q->N * 8 + q->G) {
    case 8 + 1: fl_cell_row(cell, rows, 1, 1, 0); return;
    case 16 + 2: fl_cell_row(cell, rows, 2, 2, 0); return;
    case 24 + 3: fl_cell_row(cell, rows, 3, 3, 0); return;
    case 32 + 3: fl_cell_row(cell, rows, 4, 3, 1); return; /* a GRU */
    default:
        if (fl_is_narrow_row(cell, rows)) fl_narrow_row(cell, rows);
        else if (fl_is_plain_row(cell, rows)) fl_plain_row(cell, rows);
        else fl_cell_row(cell, rows, 4, 4, 0);
    }
}

#endif
