/* A whole network over the steps of a batch. Layers take turns on FL_STEPS_AHEAD steps, so memory between them stays
   small; with a reverse layer each takes all steps at once. The scratch is laid out here and sized by fl_forward_scratch. */
#ifndef FL_FORWARD_H
#define FL_FORWARD_H

#include "scratch.h"

/* One layer (one direction) over steps [t0, t0 + steps) of the batch. */
typedef struct fl_span {
    const fastlstm_batch *batch;
    ptrdiff_t t0, steps;
    const REAL *const *x;   /* (B,) where the inputs of a place begin */
    REAL *y;
    ptrdiff_t x_step, y_step, y_lane;
    const ptrdiff_t *y_row; /* (B,) which row of a step a place has */
    REAL *tape;             /* or NULL */
} fl_span;

/* The row that noise is drawn for, of row t * lanes + lane of this call. */
static ptrdiff_t fl_row_drawn(const fastlstm_batch *batch, ptrdiff_t row) { return batch->first_step * batch->lanes + row; }

/* Where a step of a lane is saved. */
static REAL *fl_taped_act(const fl_span *s, const fl_geometry *q, ptrdiff_t time, ptrdiff_t lane) {
    return s->tape ? s->tape + (time * s->batch->lanes + lane) * q->acts : NULL;
}

/* What a step of n lanes touches of a tape whose rows for it begin at `acts`, if they lie together. */
static fl_wanted fl_wanted_tape(const REAL *acts, const fl_geometry *q, const ptrdiff_t *lane, ptrdiff_t n) {
    fl_wanted w = {0, 0};
    if (acts && n > 0 && lane[n - 1] - lane[0] == n - 1) {
        w.at = (uintptr_t)(acts + lane[0] * q->acts);
        w.end = w.at + (uintptr_t)(n * q->acts) * sizeof(REAL);
    }
    return w;
}

/* Inputs of a lane as the layer reads them, of which x is the row. */
static const REAL *fl_read_x(const fl_cell *cell, const fl_span *s, ptrdiff_t time, ptrdiff_t lane, const REAL *x) {
    const fastlstm_layer *l = cell->l;
    if (!s->tape || !(l->dropout > 0)) return x;
    return fl_dropped(cell, s->batch->seed, FL_DROP_X, fl_row_drawn(s->batch, time * s->batch->lanes + lane), l->dropout, x,
                      fl_taped_act(s, &cell->q, time, lane) + fl_act_x(&cell->q), l->input_size);
}

/* When to ask `poll`; the caller's FPU mode is in force while it runs. */
typedef struct fl_patience {
    fastlstm_poll poll; /* or NULL */
    void *context;
    ptrdiff_t work; /* multiply-adds since it was asked */
    fl_fpu mode;    /* the caller's */
} fl_patience;

static int fl_interrupted(fl_patience *p, ptrdiff_t work) {
    p->work += work;
    if (!p->poll || p->work < FL_POLL_WORK) return 0;
    p->work = 0;
    fl_fpu_leave(p->mode);
    const int stop = p->poll(p->context);
    p->mode = fl_fpu_enter();
    return stop;
}

/* Lanes of this call have places 0..B-1, longest first: those that still run at any step are the first ones. */
typedef struct fl_work {
    ptrdiff_t lanes;           /* B */
    ptrdiff_t *lane, *place;   /* (B,) the lane at a place; 0..B-1, rows of `between`; */
    ptrdiff_t *start;          /*   rows of the batch's x and y */
    const REAL **from;         /* (B,) where the inputs of a layer begin, in this span */
    fl_row *rows;              /* (B,) */
    const REAL **x, **h, **a;  /* x as many as are made ahead and (B,), (B,), (B,) */
    const REAL **h_read;       /* (B,) h as net inputs read it */
    REAL *zone;                /* (B, H) c before a step, with zoneout */
    REAL **y;                  /* (B,) */
    REAL *own;                 /* (2, B, H) the newest outputs, if those of other threads lie between them; or NULL */
    REAL *zeros;               /* as wide as the widest h */
    REAL *gate_acts;           /* (2, B, A) */
    REAL *net;                 /* net inputs: of one tile, or with input products made ahead of all groups */
    ptrdiff_t ahead;           /* rows of the latter; 0: none are made ahead */
    ptrdiff_t room;            /* rows that there is room for in `net`, of all groups */
    REAL *tail, *tail_net;     /* sources of a second product (B, H), if they are not taped; its net inputs */
    const REAL **tail_x;       /* (B,) */
    fl_compact compact;
    fl_patience patience;
    fl_barrier *barrier;       /* of those who share the units with this thread, or NULL */
} fl_work;

/* The lanes of this call, longest first. */
static void fl_deal_lanes(const fastlstm_batch *batch, const fl_share *share, fl_work *work) {
    if (!share || share->barrier) fl_sort_lanes(work->lane, batch->lengths, work->lanes);
    else if (!share->order)
        for (ptrdiff_t b = 0; b < work->lanes; b++)
            work->lane[b] = fl_share_start(batch->lanes, share->part, share->parts) + b;
    else
        for (ptrdiff_t b = 0; b < work->lanes; b++)
            work->lane[b] = share->order[share->part + b * share->parts];
    for (ptrdiff_t b = 0; b < work->lanes; b++)
        work->start[b] = batch->starts ? (ptrdiff_t)batch->starts[work->lane[b]] : work->lane[b];
}

/* How many places run at time t; `n` is the number at a neighbouring step. */
static ptrdiff_t fl_running(const fastlstm_batch *batch, const fl_work *work, ptrdiff_t t, ptrdiff_t n) {
    if (!batch->lengths) return work->lanes;
    while (n > 0 && batch->lengths[work->lane[n - 1]] <= t) n--;
    while (n < work->lanes && batch->lengths[work->lane[n]] > t) n++;
    return n;
}

/* An episode starts at `time`; read backwards it ends there, so the next one below starts at time - 1. */
static int fl_starts(const fastlstm_batch *batch, int reverse, ptrdiff_t time, ptrdiff_t lane) {
    const ptrdiff_t at = time + reverse;
    return at < (batch->lengths ? batch->lengths[lane] : batch->steps) && batch->reset[at * batch->lanes + lane];
}

static void fl_zero(REAL *a, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n; k++)
        a[k] = 0;
}

static void fl_add(REAL *to, const REAL *more, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n; k++)
        to[k] += more[k];
}

static void fl_copy(REAL *to, const REAL *from, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n && to != from; k += VW)
        fl_store_units(to + k, fl_load_units(from + k, 1, n - k), 1, n - k);
}

/* The end of work that other threads need: returns whether to stop, to all of them alike. */
static int fl_done(fl_work *work, ptrdiff_t multiply_adds) {
    const int stop = fl_interrupted(&work->patience, multiply_adds);
    return work->barrier ? fl_barrier_wait(work->barrier, stop) : stop;
}

/* Native or compact weights. */
static void fl_make_step(const fl_cell *cell, const fl_rows *rows, const fl_work *work) {
    if (cell->l->weights) fl_compact_cell_rows(cell, rows, &work->compact);
    else fl_cell_rows(cell, rows);
}

static void fl_make_inputs(const fl_cell *cell, const fl_work *work, ptrdiff_t rows) {
    const ptrdiff_t net_panel = work->room * cell->q.N * VW;
    if (cell->l->weights) fl_compact_input_rows(cell, work->x, rows, work->net, net_panel, &work->compact);
    else fl_input_rows(cell, work->x, rows, work->net, net_panel);
}

/* The second product of a step of n lanes (their rows.y hold its sources), and what is left of the step: y (n,). */
static void fl_make_tail(const fl_cell *cell, const fl_work *work, const fl_rows *rows, REAL *const *y) {
    for (ptrdiff_t b = 0; b < rows->n; b++)
        work->tail_x[b] = rows->row[b].y;
    if (cell->l->weights) fl_compact_linear_rows(cell->tail, work->tail_x, y, rows->n, work->tail_net, &work->compact);
    else fl_linear_rows(cell->tail, work->tail_x, y, rows->n, work->tail_net);
    if (cell->l->kind != FASTLSTM_GRU) return;
    for (ptrdiff_t group = 0; group < cell->q.groups; group++)
        for (ptrdiff_t b = 0; b < rows->n; b++)
            fl_gru_candidate(cell, group, rows->net + group * rows->net_panel + b * cell->q.N * VW, rows->row + b, y[b]);
}

/* The spans return whether `poll` asked to stop. */
static int fl_linear_span(const fl_cell *cell, const fl_span *s, fl_work *work) {
    int stop = 0;
    for (ptrdiff_t t = 0, n = 0; t < s->steps && !stop; t++) {
        n = fl_running(s->batch, work, s->t0 + t, n);
        for (ptrdiff_t b = 0; b < n; b++) {
            work->x[b] = fl_read_x(cell, s, s->t0 + t, work->lane[b], s->x[b] + t * s->x_step);
            work->y[b] = s->y + t * s->y_step + s->y_row[b] * s->y_lane;
        }
        if (n && cell->l->weights) fl_compact_linear_rows(cell, work->x, work->y, n, work->net, &work->compact);
        else if (n) fl_linear_rows(cell, work->x, work->y, n, work->net);
        if (!work->barrier) stop = fl_done(work, cell->q.packed * n);
    }
    return work->barrier ? fl_done(work, cell->q.packed * s->steps * work->lanes) : stop;
}

/* Where a state stays at this step of a training call: drawn into the tape; NULL: not training. */
static const REAL *fl_zone_mask(const fl_cell *cell, const fl_span *s, int what, ptrdiff_t time, ptrdiff_t lane) {
    const fl_geometry *q = &cell->q;
    if (!s->tape) return NULL;
    REAL *mask = fl_taped_act(s, q, time, lane) + (what == FL_ZONE_H ? fl_act_zone_h(cell->l, q, VW) : fl_act_zone_c(cell->l, q, VW));
    fl_draw(cell, s->batch->seed, what, fl_row_drawn(s->batch, time * s->batch->lanes + lane), what == FL_ZONE_H ? cell->l->zoneout_h : cell->l->zoneout_c, 1, 0,
            mask, what == FL_ZONE_H ? q->P : q->H);
    return mask;
}

/* Whether a step of this cell needs nothing but its sources, in one product: of one lane they are at hand. */
static int fl_is_single(const fl_cell *cell) {
    return !cell->q.A && cell->q.N <= FL_TILE && !cell->tail && !cell->q.has_noise;
}

/* One lane, whose steps are short: the same with as little around a step as can be. */
static int fl_single_span(const fl_cell *cell, const fl_span *s, fl_work *work, REAL *state) {
    const fl_geometry *q = &cell->q;
    const fastlstm_batch *batch = s->batch;
    const ptrdiff_t lane = work->lane[0], H = q->H, left = (batch->lengths ? batch->lengths[lane] : batch->steps) - s->t0;
    const ptrdiff_t steps = left < s->steps ? left : s->steps, made_most = q->I < FL_FEW_INPUTS || steps == 1 ? 0 : work->ahead;
    const ptrdiff_t first = cell->first * VW * q->S, end = cell->end * VW * q->S < H ? cell->end * VW * q->S : H; /* units */
    const int reverse = cell->l->reverse, has_c = cell->l->kind == FASTLSTM_LSTM;
    const ptrdiff_t from = reverse ? steps - 1 : 0, x_step = reverse ? -s->x_step : s->x_step, y_step = reverse ? -s->y_step : s->y_step;
    REAL *h_state = state + cell->l->state_h * batch->lanes + lane * H;
    const REAL *x = s->x[0] + from * s->x_step, *h = h_state;
    fl_row row = {.c = has_c ? state + cell->l->state_c * batch->lanes + lane * H : NULL, .y = s->y + from * s->y_step + s->y_row[0] * s->y_lane};
    fl_rows rows = {.n = 1, .row = &row, .x = &x, .h = &h, .net = work->net};
    ptrdiff_t made_to = 0;
    int stop = 0, starts = 1;

    for (ptrdiff_t done = 0; done < steps && !stop; done++, starts = 0) {
        if (made_most > 1 && done == made_to) {
            const ptrdiff_t n = steps - done < made_most ? steps - done : made_most;
            for (ptrdiff_t m = 0; m < n; m++)
                work->x[m] = x + m * x_step;
            rows.net = work->net;
            rows.net_panel = work->room * q->N * VW;
            fl_make_inputs(cell, work, n);
            made_to += n;
        }
        if (batch->reset && fl_starts(batch, reverse, s->t0 + (reverse ? steps - 1 - done : done), lane)) {
            h = work->zeros;
            starts = 1;
            if (has_c) fl_zero(row.c + first, end - first);
        }
        row.act = fl_taped_act(s, q, s->t0 + (reverse ? steps - 1 - done : done), lane);
        row.h = h;
        rows.back = done & 1;
        if (starts && !cell->l->weights && H >= FL_SPARSE_INPUTS && h[0] == 0) fl_cell_many(cell, &rows); /* at rest: nothing to multiply */
        else fl_make_step(cell, &rows, work);
        h = row.y;
        x += x_step;
        row.y += y_step;
        if (rows.net_panel) rows.net += q->N * VW;
        stop = fl_done(work, q->packed);
    }
    if (!stop) fl_copy(h_state + first, h + first, end - first);
    return stop;
}

/* Where a step of n lanes has its inputs. */
static void fl_place_inputs(const fl_cell *cell, const fl_span *s, const fl_work *work, ptrdiff_t t, ptrdiff_t n, const REAL **to) {
    const ptrdiff_t at = t * s->x_step;
    for (ptrdiff_t b = 0; b < n; b++)
        to[b] = s->x[b] + at;
    for (ptrdiff_t b = 0; b < n && s->tape && cell->l->dropout > 0; b++)
        to[b] = fl_read_x(cell, s, s->t0 + t, work->lane[b], to[b]);
}

/* And the rest, if it is read and written just as it lies there; outputs at first in `newest`, (B, P), if that is not NULL. */
static void fl_place_rows(const fl_cell *cell, const fl_span *s, const fl_work *work, REAL *c, REAL *newest, ptrdiff_t t, ptrdiff_t n) {
    REAL *const y = s->y + t * s->y_step, *const act = fl_taped_act(s, &cell->q, s->t0 + t, 0);
    const ptrdiff_t *row = s->y_row, *lane = work->lane, apart = s->y_lane, H = cell->q.H, acts = cell->q.acts;
    for (ptrdiff_t b = 0; b < n; b++) {
        work->y[b] = newest ? newest + b * cell->q.P : y + row[b] * apart;
        work->rows[b] = (fl_row){.c = c ? c + lane[b] * H : NULL, .h = work->h[b], .y = work->y[b], .act = act ? act + lane[b] * acts : NULL};
    }
}

static int fl_recurrent_span(const fl_cell *cell, const fl_span *s, fl_work *work, REAL *state) {
    const fl_geometry *q = &cell->q;
    const fastlstm_batch *batch = s->batch;
    const ptrdiff_t B = work->lanes, H = q->H, A = q->A, P = q->P, *lane = work->lane;
    const fastlstm_layer *l = cell->l;
    const int reverse = l->reverse, has_c = l->kind == FASTLSTM_LSTM;
    const ptrdiff_t first = cell->first * VW * q->S, end = cell->end * VW * q->S < H ? cell->end * VW * q->S : H; /* units */
    const ptrdiff_t end_h = cell->tail ? P : end;
    REAL *h = state + cell->l->state_h * batch->lanes, *c = has_c ? state + cell->l->state_c * batch->lanes : NULL;
    REAL *a_state = A ? state + cell->l->state_a * batch->lanes : NULL;
    REAL *a_prev = work->gate_acts, *a_next = work->gate_acts + B * A;
    const int as_is = !A && !cell->tail && !q->has_noise && !batch->reset;
    /* The next step reads what this one writes. Where a few lanes of each thread lie in turns, processors fetch lines ahead that
       another thread is about to write or to read: so outputs are made apart, and copied backwards, ahead of which nobody writes. */
    REAL *const own = as_is && s->y_row == work->start && s->y_lane < s->y_step ? work->own : NULL;
    ptrdiff_t made = 0, made_to = 0, n = 0; /* rows and steps whose input products are ready, in processing order */
    int stop = 0, passes = 0;

    if (B == 1 && fl_is_single(cell)) return fl_single_span(cell, s, work, state);
    for (ptrdiff_t b = 0; b < B; b++) {
        work->h[b] = h + lane[b] * P;
        if (A) fl_copy(a_prev + b * A, a_state + lane[b] * A, A);
    }
    for (ptrdiff_t done = 0; done < s->steps && !stop; done++) {
        const ptrdiff_t t = reverse ? s->steps - 1 - done : done, time = s->t0 + t;
        n = fl_running(batch, work, time, n);
        /* Few rows are too little work for the time it takes to read the weights: make the input products of many
           steps in one pass over them. The same totals go on from there, so the bits do not change. */
        if (work->ahead && done >= made_to) {
            ptrdiff_t rows = 0, n_m = n, m = done;
            for (; m < s->steps; m++) {
                const ptrdiff_t t_m = reverse ? s->steps - 1 - m : m;
                n_m = fl_running(batch, work, s->t0 + t_m, n_m);
                if (rows + n_m > work->ahead) break;
                fl_place_inputs(cell, s, work, t_m, n_m, work->x + rows);
                rows += n_m;
            }
            made = 0;
            made_to = m > done + 1 ? m : done;
            if (made_to > done) fl_make_inputs(cell, work, rows);
        }
        const int ahead = done < made_to, ready = ahead || fl_gathers(q);
        if (!ahead) fl_place_inputs(cell, s, work, t, n, work->x);
        REAL *const newest = own ? own + (done & 1) * B * P : NULL;
        if (as_is) fl_place_rows(cell, s, work, c, newest, t, n);
        for (ptrdiff_t b = 0; b < n && !as_is; b++) {
            REAL *act = fl_taped_act(s, q, time, lane[b]);
            work->y[b] = s->y + t * s->y_step + s->y_row[b] * s->y_lane;
            if (batch->reset && fl_starts(batch, reverse, time, lane[b])) {
                work->h[b] = work->zeros;
                if (c) fl_zero(c + lane[b] * H + first, end - first);
                if (A) fl_zero(a_prev + b * A, A);
            }
            work->a[b] = a_prev + b * A;
            work->h_read[b] = work->h[b];
            if (act && l->recurrent_dropout > 0)
                work->h_read[b] = fl_dropped(cell, batch->seed, FL_DROP_H, lane[b], l->recurrent_dropout, work->h[b], act + fl_act_h(l, q, VW), P);
            if (l->zoneout_c > 0) fl_copy(work->zone + b * H, c + lane[b] * H, H);
            work->rows[b] = (fl_row){.c = c ? c + lane[b] * H : NULL, .h = work->h[b], .y = work->y[b], .a_out = A ? a_next + b * A : NULL, .act = act};
            if (cell->tail) work->rows[b].y = act ? act + fl_act_tail(q, VW) : work->tail + b * H;
        }
        if (ready && !ahead) fl_make_inputs(cell, work, n);
        for (ptrdiff_t b = n; A && b < B; b++)
            fl_copy(a_next + b * A, a_prev + b * A, A);
        fl_wanted tape = fl_wanted_tape(fl_taped_act(s, q, time, 0), q, lane, n);
        for (ptrdiff_t r = 0; r < n && !stop; r += cell->most, passes++) {
            const fl_rows rows = {.wanted = &tape,
                                  .back = passes & !cell->near,
                                  .n = n - r < cell->most ? n - r : cell->most,
                                  .row = work->rows + r,
                                  .x = work->x + r,
                                  .h = (as_is ? work->h : work->h_read) + r,
                                  .a = work->a + r,
                                  .net = work->net + (ahead ? made + r : ready ? r : 0) * q->N * VW,
                                  .net_panel = ready ? work->room * q->N * VW : 0};
            fl_make_step(cell, &rows, work);
            if (cell->tail) fl_make_tail(cell, work, &rows, work->y + r);
            stop = r + cell->most < n && !work->barrier && fl_interrupted(&work->patience, q->packed * rows.n);
        }
        made += n;
        if (as_is) memcpy(work->h, work->y, (size_t)n * sizeof *work->y);
        for (ptrdiff_t b = newest ? n : 0; b-- > 0;) {
            REAL *to = s->y + t * s->y_step + s->y_row[b] * s->y_lane;
            for (ptrdiff_t k = fl_padded(P, VW); (k -= VW) >= 0;)
                fl_store_units(to + k, fl_load_units(newest + b * P + k, 1, P - k), 1, P - k);
        }
        for (ptrdiff_t b = 0; b < n && !as_is; b++) {
            if (l->zoneout_h > 0) fl_zone(work->y[b], work->h[b], fl_zone_mask(cell, s, FL_ZONE_H, time, lane[b]), l->zoneout_h, P);
            if (l->zoneout_c > 0) fl_zone(c + lane[b] * H, work->zone + b * H, fl_zone_mask(cell, s, FL_ZONE_C, time, lane[b]), l->zoneout_c, H);
            work->h[b] = work->y[b];
            if (A && s->tape) fl_copy(fl_taped_act(s, q, time, lane[b]) + q->gates_at, a_next + b * A, A);
        }
        if (A) {
            REAL *swap = a_prev;
            a_prev = a_next;
            a_next = swap;
        }
        stop |= fl_done(work, q->packed * n);
    }
    for (ptrdiff_t b = 0; b < B && !stop; b++) {
        fl_copy(h + lane[b] * P + first, work->h[b] + first, end_h - first);
        if (A) fl_copy(a_state + lane[b] * A, a_prev + b * A, A);
    }
    return stop;
}

/* What fl_prepare leaves at the start of the scratch. */
typedef struct fl_runner {
    fl_runner_head head;
    ptrdiff_t n_cells, steps; /* steps of a span */
    int single;               /* whether fl_single_step will do for a step; */
    int back;                 /*   the direction of its last pass */
    fl_cell *cells;
    fl_work work;
    REAL *between[2]; /* outputs of a span on their way to the next layer */
    REAL *own;        /* as in fl_work */
} fl_runner;

typedef char fl_runner_fits[sizeof(fl_runner) <= FL_RUNNER_BYTES && sizeof(fl_cell) <= FL_CELL_BYTES &&
                            sizeof(fl_row) == FL_ROW_POINTERS * sizeof(void *) ? 1 : -1];

static void fl_prepare(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                       ptrdiff_t steps, ptrdiff_t lanes, void *scratch) {
    const fl_forward_plan plan = fl_plan_forward(layers, n_layers, steps, lanes, VW, (ptrdiff_t)sizeof(REAL));
    char *base = (char *)scratch;
    const REAL *w = (const REAL *)packed;
    fl_runner *r = (fl_runner *)(base + plan.runner);
    *r = (fl_runner){
        .head = {engine, lanes, plan.reverse ? steps : 0},
        .n_cells = n_layers,
        .steps = plan.steps,
        .single = lanes == 1 && !plan.reverse,
        .cells = (fl_cell *)(base + plan.cells),
        .work = {.lanes = lanes,
                 .lane = (ptrdiff_t *)(base + plan.lane),
                 .place = (ptrdiff_t *)(base + plan.place),
                 .start = (ptrdiff_t *)(base + plan.start),
                 .from = (const REAL **)(base + plan.from),
                 .rows = (fl_row *)(base + plan.rows),
                 .x = (const REAL **)(base + plan.x),
                 .h = (const REAL **)(base + plan.h),
                 .a = (const REAL **)(base + plan.a),
                 .h_read = (const REAL **)(base + plan.h_read),
                 .zone = (REAL *)(base + plan.zone),
                 .y = (REAL **)(base + plan.y),
                 .zeros = (REAL *)(base + plan.zeros),
                 .gate_acts = (REAL *)(base + plan.gate_acts),
                 .net = (REAL *)(base + plan.net),
                 .ahead = plan.ahead,
                 .room = plan.room,
                 .tail = (REAL *)(base + plan.tail),
                 .tail_net = (REAL *)(base + plan.tail_net),
                 .tail_x = (const REAL **)(base + plan.tail_x),
                 .compact = {(REAL *)(base + plan.block), (int8_t *)(base + plan.bytes), plan.bytes_stride, (REAL *)(base + plan.scales),
                             (int32_t *)(base + plan.starts), fl_vnni()}},
        .between = {(REAL *)(base + plan.between[0]), (REAL *)(base + plan.between[1])},
        .own = (REAL *)(base + plan.own),
    };
    fl_zero(r->work.zeros, plan.widest);
    for (ptrdiff_t b = 0; b < lanes; b++)
        r->work.place[b] = b;
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        fl_cell *cell = r->cells + i;
        fl_cell_init(cell, layers + i, w);
        if (cell->q.has_tail) {
            fastlstm_layer *tail = (fastlstm_layer *)(base + plan.tails) + i;
            *tail = fl_tail_layer(layers + i);
            fl_cell_init(r->cells + n_layers + i, tail, w + cell->q.tail);
            cell->tail = r->cells + n_layers + i;
        }
        if (layers[i].kind != FASTLSTM_LINEAR && !fl_is_single(cell)) r->single = 0;
        w += cell->q.packed;
    }
}

/* Outputs beyond the lengths are zero; written in the order in which they lie. */
static void fl_zero_padding(const fastlstm_batch *batch, const fl_work *work, ptrdiff_t width) {
    if (!batch->lengths || batch->starts) return;
    const int by_step = batch->y_step > batch->y_lane;
    const ptrdiff_t all = by_step ? batch->steps : work->lanes, each = by_step ? work->lanes : batch->steps;
    for (ptrdiff_t j = 0; j < all; j++)
        for (ptrdiff_t k = 0; k < each; k++) {
            const ptrdiff_t t = by_step ? j : k, lane = work->lane[by_step ? k : j];
            if (t >= batch->lengths[lane]) fl_zero((REAL *)batch->y + t * batch->y_step + lane * batch->y_lane, width);
        }
}

/* A stream's step of one lane: the same as below, with no more around the cells than must be. */
static void fl_single_step(fl_runner *runner, const fastlstm_batch *batch) {
    const ptrdiff_t n = runner->n_cells;
    const fl_work *work = &runner->work;
    const REAL *x = (const REAL *)batch->x;
    const fl_fpu mode = fl_fpu_enter();
    runner->back ^= 1;
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_cell *cell = runner->cells + i;
        REAL *y = i + 1 == n ? (REAL *)batch->y : runner->between[i & 1];
        if (cell->l->kind != FASTLSTM_LINEAR) {
            REAL *h = (REAL *)batch->state + cell->l->state_h;
            const REAL *h_read = h;
            const fl_row row = {.c = cell->l->kind == FASTLSTM_LSTM ? (REAL *)batch->state + cell->l->state_c : NULL, .h = h, .y = y};
            const fl_rows rows = {.n = 1, .row = &row, .x = &x, .h = &h_read, .net = work->net, .back = runner->back};
            fl_make_step(cell, &rows, work);
            fl_copy(h, y, cell->q.H);
        } else if (cell->l->weights) {
            fl_compact_linear_rows(cell, &x, &y, 1, work->net, &work->compact);
        } else {
            fl_linear_rows(cell, &x, &y, 1, work->net);
        }
        x = y;
    }
    fl_fpu_leave(mode);
}

static fastlstm_status fl_run(void *scratch, const fastlstm_batch *batch, const fl_share *share, fastlstm_poll poll, void *context) {
    fl_runner *runner = (fl_runner *)scratch;
    const fl_share *units = share && share->barrier ? share : NULL;
    REAL *const *between = units ? ((fl_runner *)units->scratch)->between : runner->between;
    fl_work *work = &runner->work;
    const ptrdiff_t B = work->lanes, n = runner->n_cells;
    ptrdiff_t width = 0;
    int stop = 0;

    if (runner->single && batch->steps == 1 && !batch->lengths && !batch->reset && !batch->starts && !batch->xs && !share && !runner->head.tape && !poll) {
        fl_single_step(runner, batch);
        return FASTLSTM_OK;
    }
    work->barrier = units ? units->barrier : NULL;
    work->own = share && !units && share->parts > 1 && B <= FL_OWN_LANES ? runner->own : NULL;
    work->patience = (fl_patience){poll, context, 0, fl_fpu_enter()};
    fl_deal_lanes(batch, share, work);
    for (ptrdiff_t i = 0; units && i < n; i++) {
        fl_cell *cell = runner->cells + i;
        cell->first = cell->q.groups * units->part / units->parts;
        cell->end = cell->q.groups * (units->part + 1) / units->parts;
    }
    for (ptrdiff_t t0 = 0; t0 < batch->steps && !stop; t0 += runner->steps) {
        fl_span in = {.batch = batch, .t0 = t0, .x = work->from, .x_step = batch->x_step};
        in.steps = batch->steps - t0 < runner->steps ? batch->steps - t0 : runner->steps;
        for (ptrdiff_t b = 0; b < B; b++)
            work->from[b] = (batch->xs ? (const REAL *)batch->xs[work->lane[b]] : (const REAL *)batch->x + work->start[b] * batch->x_lane) + t0 * batch->x_step;
        for (ptrdiff_t i = 0, turn = 0; i < n && !stop; turn ^= 1) {
            const fl_cell *cell = runner->cells + i;
            const ptrdiff_t directions = i + 1 < n && cell[1].l->reverse ? 2 : 1;
            const int last = i + directions == n;
            width = cell->q.P + (directions == 2 ? cell[1].q.P : 0);
            in.y = last ? (REAL *)batch->y + t0 * batch->y_step : between[turn];
            in.y_step = last ? batch->y_step : B * width;
            in.y_lane = last ? batch->y_lane : width;
            in.y_row = last ? work->start : work->place;
            const REAL *next_x = in.y;
            in.tape = (REAL *)runner->head.tape; /* of a network of one layer alone */
            for (ptrdiff_t d = 0; d < directions && !stop; d++, i++, cell++) {
                stop = cell->l->kind == FASTLSTM_LINEAR ? fl_linear_span(cell, &in, work)
                                                        : fl_recurrent_span(cell, &in, work, batch->state);
                in.y += cell->q.P;
                if (in.tape) in.tape += fl_tape_size(&cell->q, batch->steps, batch->lanes);
            }
            for (ptrdiff_t b = 0; b < B && !last; b++)
                work->from[b] = next_x + in.y_row[b] * in.y_lane;
            in.x_step = in.y_step;
        }
    }
    if (!stop && (!units || units->part == 0)) fl_zero_padding(batch, work, width);
    fl_fpu_leave(work->patience.mode);
    return stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

#endif
