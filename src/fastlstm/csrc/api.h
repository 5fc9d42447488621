/* What the files of the public functions share: checked sizes, and the steps of a call. */
#ifndef FL_API_H
#define FL_API_H

#include "engine.h"
#include "geometry.h"
#include "scratch.h"

#define FL_MAX(a, b) ((a) > (b) ? (a) : (b))
#define FL_MIN(a, b) ((a) < (b) ? (a) : (b))

/* Sizes above this are refused, so that sums and products of a few of them and an element size fit into ptrdiff_t. */
#define FL_LIMIT ((ptrdiff_t)1 << (8 * sizeof(ptrdiff_t) - 10))

/* a * b, or -1 beyond the limit or if either already is -1. */
static inline ptrdiff_t times(ptrdiff_t a, ptrdiff_t b) {
    const ptrdiff_t small = (ptrdiff_t)1 << (4 * sizeof(ptrdiff_t) - 5); /* its square is the limit */
    if (a < 0 || b < 0) return -1;
    if (a < small && b < small) return a * b; /* most are; a division takes as long as a hundred additions */
    if (a == 0 || b == 0) return 0;
    return a > FL_LIMIT / b ? -1 : a * b;
}

static inline ptrdiff_t plus(ptrdiff_t a, ptrdiff_t b) {
    return a < 0 || b < 0 || a > FL_LIMIT - b ? -1 : a + b;
}

static inline ptrdiff_t rounded(ptrdiff_t elements) { return (elements + 15) / 16 * 16; }

/* Multiply-adds of a call, and of one layer's step, below which waking or meeting other threads costs more than it brings;
   weights of a layer beyond which a core's second-level cache does not hold them. */
enum { FL_CALL_WORK = 1000000, FL_MEETING_WORK = 100000, FL_LARGE_LAYER = 400000, FL_MOST_THREADS = 1 << 16 };

static inline ptrdiff_t outputs_of(const fastlstm_layer *l) { return l->proj_size ? l->proj_size : l->hidden_size; }

static inline int any_compact(const fastlstm_layer *layers, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        if (layers[i].weights != FASTLSTM_NATIVE) return 1;
    return 0;
}

static inline int any_reverse(const fastlstm_layer *layers, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        if (layers[i].reverse) return 1;
    return 0;
}

/* Whether the truncated gradient of 1997 is defined for all layers. */
static inline int fl_all_traced(const fastlstm_layer *layers, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const fl_geometry q = fl_layer_geometry(layers + i, 1);
        if (layers[i].kind == FASTLSTM_GRU || layers[i].kind == FASTLSTM_RNN || q.has_tail || q.has_noise) return 0;
    }
    return 1;
}

/* fastlstm_net_check, and whether the engine can run the network. */
fastlstm_status fl_engine_check(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n);
/* Whether `lanes` (and `steps`) of the widest things of a network, and its state, stay within the limit. */
int fl_counts_fit(const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes);
/* Whether everything of a training call stays within the limit. */
int fl_training_fits(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t steps, ptrdiff_t lanes);
/* A learner's targets of `count` rows: classes are less than O, and not less than -1. */
fastlstm_status fl_targets_check(int loss, const void *targets, ptrdiff_t count, ptrdiff_t O);
/* Lays out the scratch of a forward call. */
void fl_prepare(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed, ptrdiff_t steps,
                ptrdiff_t lanes, void *scratch);
/* fastlstm_forward_parallel; of a single layer (its directions) it may fill a tape. */
fastlstm_status fl_forward_on_tape(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                   const fastlstm_batch *batch, void *scratch, int threads, int by_units, void *tape, fastlstm_poll poll,
                                   void *context);

#endif
