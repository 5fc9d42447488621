/* The table of one engine: everything that is compiled once per instruction set and element type. */
#ifndef FL_ENGINE_H
#define FL_ENGINE_H

#include "fastlstm.h"
#include "share.h"

/* Scratch of the backward pass, in bytes (scratch.h): what threads share, then for each from `own` on, `each` apart. */
typedef struct fl_back_plan {
    ptrdiff_t by_h, by_x, by_tail, zeros, net_rows, peepholes; /* shared, the first three transposed weights */
    ptrdiff_t own, each;
    ptrdiff_t lane, start, d, to, dh, dc, ds, noise, net, gathered, sum, block, bias, columns, sources, factors, sparse; /* in each */
} fl_back_plan;

/* Eligibility traces of a layer whose batch is the chunk of a learner (carry.h). */
typedef struct fl_carry {
    const fastlstm_batch *batch; /* all steps of the chunk; that of fl_back ends, for each lane, with its last error */
    int truncated;               /* errors are cut at every net input; else they go back through time inside the chunk */
    const uint8_t *error;        /* (T, B) 0: no error of its episode reaches a row; odd: it has one from outside */
    void *traces;                /* (B, traced, H, width), then of peepholes (B, i and f, H, S) */
    void *terms;                 /* scratch: (B, T, traced, S, groups, VW) what is left of each step's new part at the end, */
    void *shrink;                /*   and (B, S, groups, VW) of the traces at the start, less 1 */
} fl_carry;

/* The backward pass of one layer and direction (backward.h). Row (t, b) of an array lies at t * step + b * lane. */
typedef struct fl_back {
    const fastlstm_layer *l;
    void *packed;                /* the layer's weights */
    const fastlstm_batch *batch; /* steps, lanes, lengths, reset; not x and y */
    const void *x, *y, *dy;      /* inputs, this direction's outputs and their errors */
    void *dx;                    /* or NULL */
    ptrdiff_t x_step, x_lane, y_step, y_lane, dy_step, dy_lane, dx_step, dx_lane;
    int add_dx;                  /* this direction's errors of the inputs are added to what is there */
    const void *state;           /* of the network before the first step */
    void *dstate;                /* of the network: error of the last state -> of the first; */
    int need_dh;                 /*   its h only where this is not 0, or else zero (that takes a product) */
    void *tape, *gradient;       /* this layer's; of the network, as its parameters lie */
    int add_gradient;            /* it is added to what is there */
    const void *errors_x;        /* of the net inputs as dx needs them (rows, groups, N, VW), where not those on the tape */
    const fastlstm_optimizer *optimizer; /* updates the weights, group by group, as soon as their gradient is there; or NULL */
    void *params;                /* then: the network's, flat; they are packed anew */
    const fl_carry *carry;       /* what goes on beyond the steps of the batch (carry.h), or NULL */
    const ptrdiff_t *rows;       /* (n_rows,) valid t * lanes + b */
    ptrdiff_t n_rows;
    const ptrdiff_t *order;      /* lanes by falling length, or NULL */
    void *filled;                /* room for the inputs that are not zero (sparse.h), or NULL */
    void *scratch;
    fl_back_plan plan;
} fl_back;

struct fastlstm_engine {
    const char *isa;
    int bits;     /* 32 or 64 */
    ptrdiff_t vw; /* elements in a vector register */
    void (*pack)(const fastlstm_layer *layers, ptrdiff_t n, const void *params, void *packed);
    void (*unpack)(const fastlstm_layer *layers, ptrdiff_t n, const void *packed, void *params);
    void (*trace_convert)(const fastlstm_layer *layers, ptrdiff_t n, ptrdiff_t lanes, void *packed, void *canonical, int back);
    void (*prepare)(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n, const void *packed, ptrdiff_t steps,
                    ptrdiff_t lanes, void *scratch);
    fastlstm_status (*run)(void *scratch, const fastlstm_batch *batch, const fl_share *share, fastlstm_poll poll, void *context);
    void (*learner_prepare)(fastlstm_learner *learner);
    fastlstm_status (*learner_run)(fastlstm_learner *learner, ptrdiff_t steps, const void *x, const void *targets,
                                   const uint8_t *reset, void *y, ptrdiff_t *done, fastlstm_poll poll, void *context);
    void (*learner_forward)(fastlstm_learner *learner, const void *x, void *y);
    void (*learner_backward)(fastlstm_learner *learner, const void *dy);
    void (*learner_learn)(fastlstm_learner *learner, const void *targets);
    void (*learner_reset)(fastlstm_learner *learner, const uint8_t *mask);
    void (*learner_apply)(fastlstm_learner *learner);
    void (*learner_settle)(fastlstm_learner *learner);
    int (*step_loss)(int loss, int fused_sigmoid, ptrdiff_t lanes, ptrdiff_t width, const void *y, const void *targets, ptrdiff_t t,
                     void *dy, int *error, double *value);
    void (*bound)(ptrdiff_t n, void *a, double bound);
    double (*elementwise_loss)(int loss, ptrdiff_t rows, ptrdiff_t width, const void *y, const void *target, const void *pos_weight, void *dy);
    double (*cross_entropy)(ptrdiff_t rows, ptrdiff_t classes, const void *y, const int64_t *target, const void *weight, double smoothing,
                            void *dy);
    fastlstm_status (*ctc)(const fastlstm_ctc_batch *batch, void *scratch, double *value, fastlstm_poll poll, void *context);
    void (*update)(fastlstm_optimizer *optimizer, ptrdiff_t n, void *weights, const void *gradient);
    int (*backward)(const fl_back *b, int phase, int part, int parts, fastlstm_poll poll, void *context);
};

/* Rows of a forward call whose input products are made together (forward.h); of a stack, rows of a layer's outputs that
   the next one reads before either goes on. */
enum { FL_ROWS_AHEAD = 128 };
/* Weights that a core's first-level cache holds. */
enum { FL_NEAREST_BYTES = 32 * 1024 };
/* Weights that a core's second-level cache holds beside all else, on most machines. */
enum { FL_NEAR_BYTES = 640 * 1024 };
/* Sources, or rows, in one chain of additions (kernels/product.h). */
enum { FL_BLOCK = 64 };
/* Rows of at least so many inputs, of which at most so many are not zero, are sparse (sparse.h). */
enum { FL_SPARSE_INPUTS = 32, FL_SPARSE_MOST = 4 };
/* Inputs so few that making their products ahead costs more than it saves. */
enum { FL_FEW_INPUTS = 8 };

/* Whether the derivatives of a binary cross-entropy and of the logistic outputs before it are one. */
static inline int fl_fuses_sigmoid(int loss, const fastlstm_layer *last) {
    return loss == FASTLSTM_BINARY_CROSS_ENTROPY && last->kind == FASTLSTM_LINEAR && last->output_activation.kind == FASTLSTM_SIGMOID;
}

extern const fastlstm_engine fl_engine_generic_f32, fl_engine_generic_f64;
extern const fastlstm_engine fl_engine_avx2_f32, fl_engine_avx2_f64;
extern const fastlstm_engine fl_engine_avx512_f32, fl_engine_avx512_f64;
extern const fastlstm_engine fl_engine_neon_f32, fl_engine_neon_f64;

#endif
