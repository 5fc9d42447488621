/* fastlstm: long short-term memory on CPUs. The public C contract.

   A network is an array of `fastlstm_layer`, first layer first; all its parameters live in one flat array
   at the offsets the layers name, in PyTorch's shapes and gate order (i, f, g, o). Notation: T steps,
   B lanes (independent sequences), I inputs, H hidden units, S cells per memory block, J = H / S blocks,
   A = J * (number of gates) gate activations, P outputs of a recurrent layer. Arrays are row-major, elements are
   float or double as the engine's `bits` say. The caller owns all memory: the library tells sizes, and never allocates, prints, reads
   the environment or keeps a mutable global. No pointer may be NULL unless it says so. Functions that
   return a status check their arguments before they write anything. Objects are used by one thread at a
   time; packed weights may be read by many. */
#ifndef FASTLSTM_H
#define FASTLSTM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fastlstm_status {
    FASTLSTM_OK = 0,
    FASTLSTM_BAD_LAYER = 1,   /* a layer's sizes, switches or offsets contradict each other */
    FASTLSTM_BAD_ARGUMENT = 2, /* a count is not positive, a length or class is out of range, a needed pointer is NULL */
    FASTLSTM_TOO_LARGE = 3,   /* a size does not fit into ptrdiff_t */
    FASTLSTM_INTERRUPTED = 4  /* `poll` asked to stop */
} fastlstm_status;

const char *fastlstm_status_string(fastlstm_status status);

/* ---- Engines: the code for one instruction set and element type ------------------------------------- */

typedef struct fastlstm_engine fastlstm_engine;

/* Name of the i-th instruction set this build and this CPU have, best first; NULL beyond the last. */
const char *fastlstm_isa_name(int i);
/* bits: 32 or 64. isa NULL: the best. NULL if this build or this CPU lacks it. */
const fastlstm_engine *fastlstm_engine_select(const char *isa, int bits);
const char *fastlstm_engine_isa(const fastlstm_engine *engine);
int fastlstm_engine_bits(const fastlstm_engine *engine);

/* ---- Networks --------------------------------------------------------------------------------------- */

enum { FASTLSTM_LSTM = 0, FASTLSTM_LINEAR = 1, FASTLSTM_GRU = 2, FASTLSTM_RNN = 3 }; /* kind */
enum { FASTLSTM_INPUT_GATE = 1, FASTLSTM_FORGET_GATE = 2, FASTLSTM_OUTPUT_GATE = 4, FASTLSTM_COUPLED_GATES = 8 };
/* y(x), with constants alpha and beta where they are named; the others ignore them. In [] what is needed for them. */
enum {
    FASTLSTM_SIGMOID = 0,
    FASTLSTM_TANH = 1,
    FASTLSTM_IDENTITY = 2,
    FASTLSTM_RELU = 3,
    FASTLSTM_G1997 = 4,            /* 2 tanh(x/2): the cell-input squashing g of Hochreiter & Schmidhuber (1997), eq. 5 */
    FASTLSTM_H1997 = 5,            /* tanh(x/2): their cell-output squashing h, eq. 4 */
    FASTLSTM_AFFINE = 6,           /* alpha x + beta */
    FASTLSTM_LEAKY_RELU = 7,       /* x > 0: x; else alpha x [alpha >= 0] */
    FASTLSTM_THRESHOLDED_RELU = 8, /* x > alpha: x; else 0 */
    FASTLSTM_SCALED_TANH = 9,      /* alpha tanh(beta x) [alpha not 0] */
    FASTLSTM_HARD_SIGMOID = 10,    /* alpha x + beta, kept in [0, 1] */
    FASTLSTM_ELU = 11,             /* x > 0: beta x; else beta alpha (exp(x) - 1) [alpha >= 0, beta > 0] */
    FASTLSTM_SOFTSIGN = 12,        /* x / (1 + |x|) */
    FASTLSTM_SOFTPLUS = 13         /* log(1 + exp(x)) */
};

typedef struct fastlstm_activation {
    int32_t kind;
    double alpha, beta; /* finite */
} fastlstm_activation;

/* How packed weights are stored. Compact ones are for float engines, for packing and running, not for learning.
   FLOAT16: weights of inputs, h and gate activations in half precision, all arithmetic in float.
   INT8: those weights as bytes with a scale for each row and kind of sources; the sources of a step are quantised in the
   same way, and the products are exact in integers (docs/compact.md). No kind has more than 2^17 sources then.
   INT16: the same with integers in [-8191, 8191], of 16 bits, and any number of sources. */
enum { FASTLSTM_NATIVE = 0, FASTLSTM_FLOAT16 = 1, FASTLSTM_INT8 = 2, FASTLSTM_INT16 = 3 }; /* weights */

/* One direction of one recurrent layer, or one linear layer. */
typedef struct fastlstm_layer {
    int32_t kind;
    int32_t gates;           /* LSTM: bit set of the gates that exist; COUPLED: f = 1 - i, with INPUT_GATE, without FORGET_GATE */
    int32_t peepholes;       /* 0 or 1: gates read the cell states of their block (Gers et al. 2002) */
    int32_t gate_recurrence; /* 0 or 1: net inputs read the gate activations of the step before (1997) */
    int32_t reverse;         /* 1: reads time backwards; shares input and output rows with the layer before it */
    int32_t reset_after;     /* GRU: the reset gate acts on the product with h (1) or on h itself (0) */
    int32_t weights;         /* how they are packed */
    fastlstm_activation gate_activation;   /* LSTM, GRU */
    fastlstm_activation input_activation;  /* LSTM: g; GRU: of the candidate; RNN: of h */
    fastlstm_activation output_activation; /* LSTM: of the cell state; LINEAR: of the outputs */
    int32_t stream;          /* of the draws of its noise; equal in the directions of one layer, otherwise its own */
    double dropout;           /* in training: of inputs, */
    double recurrent_dropout; /*   of h where net inputs read it, the same in all steps of a call, */
    double zoneout_h, zoneout_c; /* of h, and of an LSTM's c; all in [0, 1), csrc/noise.h; not for learners */
    double clip;             /* LSTM: cell states are kept in [-clip, clip]; INFINITY: no limit */
    ptrdiff_t input_size, hidden_size, block_size; /* I, H, S; LINEAR: inputs, outputs, 1; GRU, RNN: S = 1 */
    ptrdiff_t proj_size;     /* LSTM: P; h and the outputs are W_hr times the H cell outputs; 0: they are these, and P = H */
    /* Offsets into the flat parameter array, -1 where the parameter does not exist. R rows: LSTM: A + H in the order
       i, f, g, o, rows of absent gates absent; GRU: 3 H, r, z, n; RNN: H. */
    ptrdiff_t weight_ih;       /* (R, I); LINEAR: (H, I) */
    ptrdiff_t weight_hh;       /* (R, P) */
    ptrdiff_t weight_gh;       /* (R, A): sources in the order i, f, o */
    ptrdiff_t weight_hr;       /* (P, H) */
    ptrdiff_t bias_ih, bias_hh; /* (R,); both are added; bias_hh needs bias_ih; LINEAR: bias_ih alone */
    ptrdiff_t weight_peephole; /* (number of gates, H) in the order i, f, o */
    /* Where this layer's state lies in a state array, in elements per lane: h (B, P) starts at state_h * B. */
    ptrdiff_t state_h, state_c, state_a; /* (B, P), (B, H), (B, A); c of an LSTM alone, a with gate recurrence alone */
} fastlstm_layer;

/* Called every few milliseconds of work, between steps; anything but 0 stops the call with INTERRUPTED.
   fastlstm_forward then leaves the state and y unspecified; a learner is as after the last whole step. */
typedef int (*fastlstm_poll)(void *context);

fastlstm_status fastlstm_net_check(const fastlstm_layer *layers, ptrdiff_t n_layers);
/* Sizes in elements; -1 if the network is invalid or the size does not fit. */
ptrdiff_t fastlstm_params_size(const fastlstm_layer *layers, ptrdiff_t n_layers);
ptrdiff_t fastlstm_state_size(const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes);
ptrdiff_t fastlstm_packed_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers);
ptrdiff_t fastlstm_forward_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                        ptrdiff_t steps, ptrdiff_t lanes);

/* params -> packed: the layout the kernels read (csrc/geometry.h); unpack is its exact inverse. Compact weights unpack to
   the rounded values they stand for, and these pack to the same bits again. BAD_ARGUMENT if a weight does not fit: a
   finite one beyond 65504 for FLOAT16; for INT8 and INT16 one that is not within 2^126. */
fastlstm_status fastlstm_pack(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                              const void *params, void *packed);
fastlstm_status fastlstm_unpack(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                const void *packed, void *params);

/* The sequences of one forward call. Row (t, b) of x starts at x + t * x_step + b * x_lane, and so with y; where `starts`
   is given, b is starts[b] there: sequences of different lengths may lie one after the other. Where `xs` is given, row (t, b)
   of the inputs starts at xs[b] + t * x_step. */
typedef struct fastlstm_batch {
    ptrdiff_t steps, lanes;
    const void *x;           /* rows of I elements; those beyond a lane's length are not read */
    const void *const *xs;   /* (B,) instead of x, which is then not read; or NULL */
    ptrdiff_t x_step, x_lane;
    void *y;                 /* out: rows of the last layer's width; zero beyond a lane's length; no overlap with x */
    ptrdiff_t y_step, y_lane;
    const int64_t *lengths;  /* (B,) 0..T, in fastlstm_backward not all 0; or NULL: all T */
    const int64_t *starts;   /* (B,) not negative, or NULL: 0..B-1; outputs beyond the lengths are then not written */
    const uint8_t *reset;    /* (T, B), or NULL: where not 0 the lane's state is zero before that step */
    void *state;             /* inout: the state before the first and after each lane's last step */
    uint64_t seed;           /* of dropout and zoneout in training calls; others do not read it */
    ptrdiff_t first_step;    /* their number of the first step: 0 where a sequence begins */
} fastlstm_batch;

fastlstm_status fastlstm_forward(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                 const void *packed, const fastlstm_batch *batch, void *scratch, fastlstm_poll poll,
                                 void *context); /* poll may be NULL */

/* A call on several threads, each with its share of the lanes, or (by_units) of the units of every layer: the bits are
   those of one. fastlstm_divide tells the fastest way with up to `threads`: how many, and *by_units. Shares of lanes need
   as many lanes as threads; layers with gate recurrence, a projection, a reset gate before its product, or noise of
   training cannot be divided by units. */
int fastlstm_divide(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t steps, ptrdiff_t lanes,
                    int threads, int *by_units);
ptrdiff_t fastlstm_parallel_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                         ptrdiff_t steps, ptrdiff_t lanes, int threads, int by_units);
fastlstm_status fastlstm_forward_parallel(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                          const void *packed, const fastlstm_batch *batch, void *scratch, int threads, int by_units,
                                          fastlstm_poll poll, void *context); /* poll runs on the caller's thread */
/* Ends idle threads; to be called before a fork, whose child could otherwise wait for them forever. */
void fastlstm_threads_release(void);

/* The same in two parts, for many calls: fastlstm_prepare checks everything but the batch and lays out the scratch, which
   then belongs to this network, these packed weights and this number of lanes; fastlstm_run checks the batch against it.
   A network without reverse layers runs batches of any number of steps then, others at most `steps`. */
fastlstm_status fastlstm_prepare(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                 const void *packed, ptrdiff_t steps, ptrdiff_t lanes, void *scratch);
fastlstm_status fastlstm_run(void *scratch, const fastlstm_batch *batch, fastlstm_poll poll, void *context);

/* ---- Backpropagation through time (csrc/backward.h) ------------------------------------------------- */

/* Elements of what a forward call saves for the gradient, and of the scratch of either call. */
ptrdiff_t fastlstm_tape_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t steps, ptrdiff_t lanes);
ptrdiff_t fastlstm_training_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t steps,
                                         ptrdiff_t lanes, int threads);
/* fastlstm_forward_parallel with the same bits; fills the tape. `starts` and `xs` must be NULL. */
fastlstm_status fastlstm_training_forward(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                          const fastlstm_batch *batch, void *tape, void *scratch, int threads, fastlstm_poll poll,
                                          void *context);
/* The full gradient, once for each tape, which it consumes. batch, its x and packed must be as they were; `state` is the one
   before the first step. dy is laid out as y, dx (or NULL) as x. dstate: inout, the error of the state after the last step, then,
   with `need_dstate`, of the one before the first. gradient: out, as the parameters lie; with `add`, it is added to what is there. The bits are
   those of one thread. Spans of steps of a sequence, the last one first, have the gradient of one call, and its bits if each
   span but the first has a multiple of 64 valid steps of all lanes together. */
fastlstm_status fastlstm_backward(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, const void *packed,
                                  const fastlstm_batch *batch, const void *state, void *tape, const void *dy, void *dx, void *dstate, int need_dstate,
                                  void *gradient, int add, void *scratch, int threads, fastlstm_poll poll, void *context);

/* ---- Learning online: the truncated gradient of 1997 (csrc/traces.h defines it) --------------------- */

enum { FASTLSTM_NO_LOSS = 0, FASTLSTM_MSE = 1, FASTLSTM_SSE = 2, FASTLSTM_CROSS_ENTROPY = 3, FASTLSTM_BINARY_CROSS_ENTROPY = 4,
       FASTLSTM_BINARY_CROSS_ENTROPY_WITH_LOGITS = 5 };

typedef struct fastlstm_learner {
    const fastlstm_engine *engine;
    const fastlstm_layer *layers; /* none reverse */
    ptrdiff_t n_layers, lanes;
    void *weights;  /* packed */
    void *velocity; /* packed; NULL without momentum */
    void *gradient; /* packed; not used, and may be NULL, if every step updates (chunk == 1 and update != 0) */
    void *traces;   /* fastlstm_trace_size */
    void *state;    /* fastlstm_state_size */
    void *scratch;  /* fastlstm_learner_scratch_size */
    int32_t prepared; /* inout: 0 at first and after any field but the inouts, lr, momentum and decay has changed: the next
                         call then checks everything and lays out the scratch */
    int32_t loss;
    int32_t update;     /* 0: the gradient is gathered in `gradient` and weights stay */
    double lr, momentum, decay; /* v = momentum v + gradient; w -= lr v; lr *= decay */
    ptrdiff_t chunk;    /* weights change every so many steps; 0: when a lane is reset, and at fastlstm_learner_apply */
    int32_t lazy;       /* with update != 0 and chunk == 1: weights, velocity and traces need be current only after
                           fastlstm_learner_settle, which is due before `prepared` is set to 0. The first layer of one lane may then
                           put off writing (csrc/lazy.h: the same to rounding) or, if it is small, keep all that elsewhere
                           (csrc/small.h: the same bits) */
    ptrdiff_t pending;  /* inout: steps since the last update */
    int32_t has_error;  /* inout: a target was seen since the last update */
    double loss_sum;    /* inout: sum of the losses of steps with a target */
    int64_t loss_steps; /* inout: how many */
} fastlstm_learner;

/* Elements for B lanes; -1 as above. */
ptrdiff_t fastlstm_trace_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes);
/* Traces in a layout that is the same for every engine (csrc/pack.h), for files and copies: packed -> canonical where
   `back` is not 0, else canonical -> packed. */
ptrdiff_t fastlstm_trace_canonical_size(const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes);
fastlstm_status fastlstm_trace_convert(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                       ptrdiff_t lanes, void *packed, void *canonical, int back);
ptrdiff_t fastlstm_learner_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                        ptrdiff_t lanes);

/* x (T, B, I); targets NULL, or (T, B, O) elements with NaN where there is none, or for CROSS_ENTROPY int64 (T, B)
   classes with -1 where there is none; reset (T, B) or NULL; y (T, B, O). *done receives the whole steps made. */
fastlstm_status fastlstm_learner_run(fastlstm_learner *learner, ptrdiff_t steps, const void *x, const void *targets,
                                     const uint8_t *reset, void *y, ptrdiff_t *done, fastlstm_poll poll, void *context);
/* The two halves of a step, for a loss computed elsewhere: dy (B, O), or NULL for a step without target. */
fastlstm_status fastlstm_learner_forward(fastlstm_learner *learner, const void *x, void *y);
fastlstm_status fastlstm_learner_backward(fastlstm_learner *learner, const void *dy);
/* The second half for the learner's own loss: targets of one step, or NULL. */
fastlstm_status fastlstm_learner_learn(fastlstm_learner *learner, const void *targets);
/* Zero the state and traces of the lanes where mask (B,) is not 0; NULL: all lanes. */
fastlstm_status fastlstm_learner_reset(fastlstm_learner *learner, const uint8_t *mask);
/* Update the weights with the gathered gradient and clear it. */
fastlstm_status fastlstm_learner_apply(fastlstm_learner *learner);
/* Write what was put off. fastlstm_learner_lazy tells whether `lazy` is faster, by sizes alone. */
fastlstm_status fastlstm_learner_settle(fastlstm_learner *learner);
int fastlstm_learner_lazy(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes);

/* ---- Learning online in chunks: any optimiser, the same gradient in matrix products (csrc/carry.h) ---- */

enum {
    FASTLSTM_TRUNCATED_RTRL = 0, /* the gradient of 1997, whatever the chunk */
    FASTLSTM_CARRIED_BPTT = 1,   /* backpropagation in full inside the chunk, and the traces of what came before it */
    FASTLSTM_BPTT = 2            /* the former alone */
};

typedef struct fastlstm_chunk_learner {
    const fastlstm_engine *engine;
    const fastlstm_layer *layers; /* none reverse, none with noise; but for BPTT, LSTMs without projection and linear layers */
    ptrdiff_t n_layers, lanes;
    int32_t gradient_rule;        /* as above */
    int32_t threads;
    ptrdiff_t window;             /* steps that are kept until their gradient is made; but for TRUNCATED_RTRL, no less than chunk */
    void *params;   /* flat; what learns */
    void *weights;  /* packed, of params when a call begins; kept so */
    void *gradient; /* flat, zero at first; what it means while `gathered` is 0 is nothing */
    void *kept;     /* fastlstm_chunk_kept_size: the window's steps; zero at first */
    void *traces;   /* fastlstm_chunk_trace_size, zero at first; layout: csrc/carry.h; NULL for BPTT */
    void *state;    /* fastlstm_state_size */
    void *scratch;  /* fastlstm_chunk_scratch_size */
    struct fastlstm_optimizer *optimizer; /* or NULL: the gradient is gathered and the parameters stay */
    double decay;      /* lr *= decay after each update */
    double error_bound; /* errors of all layers' outputs are kept in [-bound, bound]; INFINITY: no limit */
    ptrdiff_t chunk;   /* parameters change every so many steps; 0: when a lane is reset, and at fastlstm_chunk_apply */
    int32_t loss;
    int32_t prepared;  /* inout: 0 at first and after any field but the inouts, decay and the optimiser's has changed */
    ptrdiff_t held;    /* inout: steps in the window */
    ptrdiff_t pending; /* inout: steps since the last update */
    int32_t gathered;  /* inout: the gradient has something in it */
    int32_t has_error; /* inout: a target was seen since the last update */
    int32_t open;      /* inout: a step was begun by fastlstm_chunk_forward and waits for its error */
    double loss_sum;   /* inout: sum of the losses of steps with a target */
    int64_t loss_steps; /* inout: how many */
} fastlstm_chunk_learner;

/* Elements; -1 as above. */
ptrdiff_t fastlstm_chunk_kept_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t window,
                                   ptrdiff_t lanes);
ptrdiff_t fastlstm_chunk_trace_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes);
ptrdiff_t fastlstm_chunk_scratch_size(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t window,
                                      ptrdiff_t lanes, int threads);
/* Bytes from the beginning of `kept` where the window's inputs (K, B, I), errors (K, B, O), state before its first step, bytes
   (K, B) that tell which rows have an error, and bytes (K + 1, B) that tell which lanes start anew there, begin. For copies:
   the rest is what running these steps again leaves there. */
fastlstm_status fastlstm_chunk_kept_parts(const fastlstm_engine *engine, const fastlstm_layer *layers, ptrdiff_t n_layers,
                                          ptrdiff_t window, ptrdiff_t lanes, ptrdiff_t part[5]);
/* As fastlstm_learner_run. A step without any target moves nothing; the bits are those of one thread, however steps are
   dealt out to calls. */
fastlstm_status fastlstm_chunk_run(fastlstm_chunk_learner *learner, ptrdiff_t steps, const void *x, const void *targets,
                                   const uint8_t *reset, void *y, ptrdiff_t *done, fastlstm_poll poll, void *context);
/* The two halves of a step: what comes out, and its error dy (B, O) or its targets, either NULL for a step without. */
fastlstm_status fastlstm_chunk_forward(fastlstm_chunk_learner *learner, const void *x, void *y);
fastlstm_status fastlstm_chunk_backward(fastlstm_chunk_learner *learner, const void *dy);
fastlstm_status fastlstm_chunk_learn(fastlstm_chunk_learner *learner, const void *targets);
/* As those of fastlstm_learner. */
fastlstm_status fastlstm_chunk_reset(fastlstm_chunk_learner *learner, const uint8_t *mask);
fastlstm_status fastlstm_chunk_apply(fastlstm_chunk_learner *learner);
/* Make the gradient of the steps in the window and move the traces past them; nothing else changes. */
fastlstm_status fastlstm_chunk_settle(fastlstm_chunk_learner *learner);

/* ---- Streams that end with their first wrong prediction (Gers, Schmidhuber and Cummins 2000) -------------- */

/* Steps of one lane that are learnt as by fastlstm_learner_run, until an output is off its target by `tolerance` or more, or
   NaN. That step is still learnt from; then state and traces are zero, and what follows up to the next of `starts` is passed
   over: its y stay as they are. */
typedef struct fastlstm_streams {
    ptrdiff_t steps;
    const void *x;         /* (T, I) */
    const void *targets;   /* (T, O) elements, NaN where there is none; not for CROSS_ENTROPY */
    const uint8_t *reset;  /* (T,) as for fastlstm_learner_run, or NULL */
    const uint8_t *starts; /* (T,) where a stream may begin; NULL: nothing follows the first wrong prediction */
    double tolerance;
    void *y;               /* out: (T, O) */
    uint8_t *followed;     /* out: (T,) whether the step was made */
} fastlstm_streams;

fastlstm_status fastlstm_learner_follow(fastlstm_learner *learner, const fastlstm_streams *streams, fastlstm_poll poll, void *context);
fastlstm_status fastlstm_chunk_follow(fastlstm_chunk_learner *learner, const fastlstm_streams *streams, fastlstm_poll poll, void *context);

/* ---- Losses: *value and its derivative dy; csrc/loss.h and csrc/ctc.h define them ------------------------- */

/* MSE, SSE or BINARY_CROSS_ENTROPY (y are probabilities; WITH_LOGITS: what a sigmoid makes one of) of y (rows, width) with targets
   alike, NaN where there is none. pos_weight (width,): of the positive targets' terms of a binary cross-entropy, or NULL for
   ones. rows may be 0. */
fastlstm_status fastlstm_elementwise_loss(const fastlstm_engine *engine, int loss, ptrdiff_t rows, ptrdiff_t width, const void *y,
                                          const void *target, const void *pos_weight, void *dy, double *value);
/* Scores y (rows, classes) before the softmax, target (rows,) classes or -1; weight (classes,) not negative, or NULL for ones;
   label smoothing in [0, 1]. rows may be 0. */
fastlstm_status fastlstm_cross_entropy(const fastlstm_engine *engine, ptrdiff_t rows, ptrdiff_t classes, const void *y,
                                       const int64_t *target, const void *weight, double smoothing, void *dy, double *value);

/* Connectionist temporal classification. A target is possible if its length and the number of its immediate repetitions
   together are no more than its lane's steps. */
typedef struct fastlstm_ctc_batch {
    ptrdiff_t steps, lanes, classes;
    int64_t blank;                 /* the class between labels */
    const void *y;                 /* (T, B, classes) scores before the softmax; beyond a lane's length they are not read */
    const int64_t *lengths;        /* (B,) 1..T, or NULL: all T */
    const int64_t *targets;        /* all lanes' labels, one lane after the other, none of them blank; NULL if there is none */
    const int64_t *target_lengths; /* (B,) 0 or more */
    void *dy;                      /* out: (T, B, classes); zero beyond a lane's length; may be y */
} fastlstm_ctc_batch;

/* Elements, for targets of up to so many labels; -1 if a count is negative or the size does not fit. */
ptrdiff_t fastlstm_ctc_scratch_size(const fastlstm_engine *engine, ptrdiff_t steps, ptrdiff_t longest_target);
/* *value: the mean over the lanes of -log p(target | y) / max(target length, 1). poll may be NULL. */
fastlstm_status fastlstm_ctc(const fastlstm_engine *engine, const fastlstm_ctc_batch *batch, void *scratch, double *value,
                             fastlstm_poll poll, void *context);

/* ---- Optimisers on plain arrays; csrc/optim.h has the rules ------------------------------------------------ */

enum { FASTLSTM_SGD = 0, FASTLSTM_RMSPROP = 1, FASTLSTM_ADAM = 2, FASTLSTM_ADAMW = 3 };

typedef struct fastlstm_optimizer {
    int32_t kind;
    int32_t nesterov;    /* SGD */
    double lr, momentum; /* momentum: SGD, RMSPROP */
    double beta1, beta2; /* in [0, 1); beta2 of RMSPROP is PyTorch's alpha */
    double eps, weight_decay;
    double clip_norm;    /* a gradient whose norm is larger is scaled down to it; 0: never */
    double norm;         /* out: the gradient's norm before that, if clip_norm is not 0 */
    int64_t steps;       /* inout: updates made */
    void *first;         /* like the weights, zero at first: velocity or mean; NULL for SGD and RMSPROP without momentum */
    void *second;        /* the same: mean square; NULL for SGD */
} fastlstm_optimizer;

/* One update of n weights. */
fastlstm_status fastlstm_update(const fastlstm_engine *engine, fastlstm_optimizer *optimizer, ptrdiff_t n, void *weights,
                                const void *gradient);

#ifdef __cplusplus
}
#endif
#endif
