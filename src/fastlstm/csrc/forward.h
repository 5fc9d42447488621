/* A whole network over the steps of a batch. Layers take turns on FL_STEPS_AHEAD steps, so memory between them stays
   small; with a reverse layer each takes all steps at once. The scratch is laid out here and sized by fl_forward_scratch. */
#ifndef FL_FORWARD_H
#define FL_FORWARD_H

#include "scratch.h"

/* One layer (one direction) over steps [t0, t0 + steps) of the batch. */
typedef struct fl_span {
    const fastlstm_batch *batch;
    ptrdiff_t t0, steps;
    const REAL *x;
    REAL *y;
    ptrdiff_t x_step, x_lane, y_step, y_lane;
} fl_span;

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

typedef struct fl_work {
    fl_row *rows;
    fl_product_row *products;
    const REAL **h_prev; /* (B,) where h of the step before lies */
    ptrdiff_t *running;  /* (B,) lanes that take this step */
    REAL *zeros;         /* as wide as the widest h */
    REAL *gate_acts;     /* (2, B, A) */
    REAL *pre;           /* input products made ahead */
    fl_patience patience;
} fl_work;

/* Lanes that a batch's arrays are laid out for. */
static ptrdiff_t fl_all_lanes(const fastlstm_batch *batch) {
    return batch->all_lanes ? batch->all_lanes : batch->lanes;
}

static int fl_starts(const fastlstm_batch *batch, ptrdiff_t t, ptrdiff_t b) {
    return batch->reset && batch->reset[t * fl_all_lanes(batch) + batch->first_lane + b];
}

static int fl_runs(const fastlstm_batch *batch, ptrdiff_t t, ptrdiff_t b) {
    return !batch->lengths || t < batch->lengths[batch->first_lane + b];
}

static void fl_zero(REAL *a, ptrdiff_t n) {
    for (ptrdiff_t k = 0; k < n; k++)
        a[k] = 0;
}

static void fl_copy(REAL *to, const REAL *from, ptrdiff_t n) {
    if (to != from)
        for (ptrdiff_t k = 0; k < n; k++)
            to[k] = from[k];
}

/* The spans return whether `poll` asked to stop. */
static int fl_linear_span(const fl_cell *cell, const fl_span *s, fl_work *work) {
    for (ptrdiff_t t = 0; t < s->steps; t++) {
        ptrdiff_t n = 0;
        for (ptrdiff_t b = 0; b < s->batch->lanes; b++) {
            REAL *y = s->y + t * s->y_step + b * s->y_lane;
            if (fl_runs(s->batch, s->t0 + t, b)) work->products[n++] = (fl_product_row){s->x + t * s->x_step + b * s->x_lane, y};
            else fl_zero(y, cell->q.H);
        }
        fl_linear_rows(cell, work->products, n);
        if (fl_interrupted(&work->patience, cell->q.packed * n)) return 1;
    }
    return 0;
}

static int fl_recurrent_span(const fl_cell *cell, const fl_span *s, fl_work *work, REAL *state) {
    const fl_geometry *q = &cell->q;
    const fastlstm_batch *batch = s->batch;
    const ptrdiff_t B = batch->lanes, H = q->H, A = q->A;
    const int reverse = cell->l->reverse;
    const ptrdiff_t all = fl_all_lanes(batch), first = batch->first_lane;
    REAL *h = state + cell->l->state_h * all + first * H, *c = state + cell->l->state_c * all + first * H;
    REAL *a_state = A ? state + cell->l->state_a * all + first * A : NULL;
    REAL *a_prev = work->gate_acts, *a_next = work->gate_acts + B * A;
    /* With few lanes the input weights would be read again for each step's few rows: make the input products of
       many steps in one pass over them. The same accumulators go on from there, so the bits do not change. */
    const ptrdiff_t ahead = B < FL_ROWS && s->steps > 1 && q->G <= 4 ? FL_ROWS_AHEAD / B : 0;
    ptrdiff_t made_from = 0, made_to = 0; /* steps whose input products are ready, in processing order */

    for (ptrdiff_t b = 0; b < B; b++)
        work->h_prev[b] = h + b * H;
    if (A) fl_copy(a_prev, a_state, B * A);

    for (ptrdiff_t done = 0; done < s->steps; done++) {
        const ptrdiff_t t = reverse ? s->steps - 1 - done : done, time = s->t0 + t;
        if (ahead && done >= made_to) {
            ptrdiff_t n = 0;
            made_from = done;
            made_to = done + ahead < s->steps ? done + ahead : s->steps;
            for (ptrdiff_t m = made_from; m < made_to; m++)
                for (ptrdiff_t b = 0; b < B; b++) {
                    const ptrdiff_t tm = reverse ? s->steps - 1 - m : m;
                    if (fl_runs(batch, s->t0 + tm, b))
                        work->products[n++] = (fl_product_row){s->x + tm * s->x_step + b * s->x_lane,
                                                               work->pre + ((m - made_from) * B + b) * q->groups * q->G * VW};
                }
            fl_input_rows(cell, work->products, n);
        }
        ptrdiff_t n = 0;
        for (ptrdiff_t b = 0; b < B; b++) {
            REAL *y = s->y + t * s->y_step + b * s->y_lane;
            if (!fl_runs(batch, time, b)) {
                fl_zero(y, H);
                if (A) fl_copy(a_next + b * A, a_prev + b * A, A);
                continue;
            }
            /* An episode starts at `time`; read backwards it ends there, so the next one below starts at time - 1. */
            if (reverse ? time + 1 < batch->steps && fl_runs(batch, time + 1, b) && fl_starts(batch, time + 1, b) : fl_starts(batch, time, b)) {
                work->h_prev[b] = work->zeros;
                fl_zero(c + b * H, H);
                if (A) fl_zero(a_prev + b * A, A);
            }
            fl_row *row = work->rows + n;
            row->x = s->x + t * s->x_step + b * s->x_lane;
            row->pre = ahead ? work->pre + ((done - made_from) * B + b) * q->groups * q->G * VW : NULL;
            row->h = work->h_prev[b];
            row->a = A ? a_prev + b * A : NULL;
            row->c = c + b * H;
            row->y = y;
            row->a_out = A ? a_next + b * A : NULL;
            row->act = NULL;
            work->running[n++] = b;
        }
        /* All lanes at once, unless a step of them takes so long that Ctrl-C would wait. */
        const ptrdiff_t most = FL_STEP_WORK / q->packed > 96 ? FL_STEP_WORK / q->packed : 96;
        for (ptrdiff_t r = 0; r < n; r += most) {
            const ptrdiff_t rows = n - r < most ? n - r : most;
            fl_cell_rows(cell, work->rows + r, rows);
            if (fl_interrupted(&work->patience, q->packed * rows)) return 1;
        }
        for (ptrdiff_t r = 0; r < n; r++)
            work->h_prev[work->running[r]] = work->rows[r].y;
        if (A) {
            REAL *swap = a_prev;
            a_prev = a_next;
            a_next = swap;
        }
    }
    for (ptrdiff_t b = 0; b < B; b++)
        fl_copy(h + b * H, work->h_prev[b], H);
    if (A) fl_copy(a_state, a_prev, B * A);
    return 0;
}

/* What fl_prepare leaves at the start of the scratch. */
typedef struct fl_runner {
    fl_runner_head head;
    ptrdiff_t n_cells, steps; /* steps of a span */
    fl_cell *cells;
    fl_work work;
    REAL *between[2]; /* outputs of a span on their way to the next layer */
} fl_runner;

typedef char fl_runner_fits[sizeof(fl_runner) <= FL_RUNNER_BYTES && sizeof(fl_cell) <= FL_CELL_BYTES ? 1 : -1];

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
        .cells = (fl_cell *)(base + plan.cells),
        .work = {.rows = (fl_row *)(base + plan.rows),
                 .products = (fl_product_row *)(base + plan.products),
                 .h_prev = (const REAL **)(base + plan.h_prev),
                 .running = (ptrdiff_t *)(base + plan.running),
                 .zeros = (REAL *)(base + plan.zeros),
                 .gate_acts = (REAL *)(base + plan.gate_acts),
                 .pre = (REAL *)(base + plan.pre)},
        .between = {(REAL *)(base + plan.between[0]), (REAL *)(base + plan.between[1])},
    };
    fl_zero(r->work.zeros, plan.widest);
    for (ptrdiff_t i = 0; i < n_layers; i++) {
        fl_cell_init(r->cells + i, layers + i, w, (REAL *)(base + plan.net), 0);
        w += r->cells[i].q.packed;
    }
}

static fastlstm_status fl_run(void *scratch, const fastlstm_batch *batch, fastlstm_poll poll, void *context) {
    fl_runner *runner = (fl_runner *)scratch;
    fl_work *work = &runner->work;
    const ptrdiff_t B = batch->lanes, n = runner->n_cells;
    int stop = 0;

    work->patience = (fl_patience){poll, context, 0, fl_fpu_enter()};
    for (ptrdiff_t t0 = 0; t0 < batch->steps && !stop; t0 += runner->steps) {
        fl_span in = {.batch = batch, .t0 = t0, .x_step = batch->x_step, .x_lane = batch->x_lane};
        in.steps = batch->steps - t0 < runner->steps ? batch->steps - t0 : runner->steps;
        in.x = (const REAL *)batch->x + t0 * batch->x_step + batch->first_lane * batch->x_lane;
        for (ptrdiff_t i = 0, turn = 0; i < n && !stop; turn ^= 1) {
            const fl_cell *cell = runner->cells + i;
            const ptrdiff_t directions = i + 1 < n && cell[1].l->reverse ? 2 : 1;
            const ptrdiff_t width = cell->q.H + (directions == 2 ? cell[1].q.H : 0);
            const int last = i + directions == n;
            in.y = last ? (REAL *)batch->y + t0 * batch->y_step + batch->first_lane * batch->y_lane : runner->between[turn];
            in.y_step = last ? batch->y_step : B * width;
            in.y_lane = last ? batch->y_lane : width;
            const REAL *next_x = in.y;
            for (ptrdiff_t d = 0; d < directions && !stop; d++, i++, cell++) {
                stop = cell->l->kind == FASTLSTM_LINEAR ? fl_linear_span(cell, &in, work)
                                                        : fl_recurrent_span(cell, &in, work, batch->state);
                in.y += cell->q.H;
            }
            in.x = next_x;
            in.x_step = in.y_step;
            in.x_lane = in.y_lane;
        }
    }
    fl_fpu_leave(work->patience.mode);
    return stop ? FASTLSTM_INTERRUPTED : FASTLSTM_OK;
}

#endif
