/* Streams that end with their first wrong prediction, of learners of either kind. */
#include <math.h>

#include "api.h"

enum { FL_STEPS_BETWEEN_POLLS = 1024 };

/* A learner as this file needs it: one step of it, the end of a stream, and the sizes of a step. */
typedef struct fl_followed {
    void *learner;
    fastlstm_status (*step)(void *learner, const void *x, const void *targets, const uint8_t *reset, void *y);
    fastlstm_status (*end)(void *learner);
    ptrdiff_t real, I, O;
} fl_followed;

/* Whether an output is off its target by `tolerance` or more; NaN is. In float32 the difference is, and so is the tolerance. */
static int wrong(ptrdiff_t real, ptrdiff_t n, const void *y, const void *targets, double tolerance) {
    for (ptrdiff_t k = 0; k < n; k++) {
        if (real == 8) {
            const double target = ((const double *)targets)[k];
            if (!isnan(target) && !(fabs(((const double *)y)[k] - target) < tolerance)) return 1;
        } else {
            const float target = ((const float *)targets)[k];
            if (!isnan(target) && !(fabsf(((const float *)y)[k] - target) < (float)tolerance)) return 1;
        }
    }
    return 0;
}

static fastlstm_status follow(const fl_followed *f, const fastlstm_streams *s, fastlstm_poll poll, void *context) {
    int ended = 0; /* and none has begun since */
    for (ptrdiff_t t = 0; t < s->steps; t++) {
        if (ended && s->starts && s->starts[t]) ended = 0;
        s->followed[t] = (uint8_t)!ended;
        if (ended) continue;
        char *y = (char *)s->y + t * f->O * f->real;
        const char *targets = (const char *)s->targets + t * f->O * f->real;
        fastlstm_status status = f->step(f->learner, (const char *)s->x + t * f->I * f->real, targets, s->reset ? s->reset + t : NULL, y);
        ended = !status && wrong(f->real, f->O, y, targets, s->tolerance);
        if (ended) status = f->end(f->learner);
        if (status) return status;
        if (poll && t % FL_STEPS_BETWEEN_POLLS == FL_STEPS_BETWEEN_POLLS - 1 && poll(context)) return FASTLSTM_INTERRUPTED;
    }
    return FASTLSTM_OK;
}

static fastlstm_status check(const fastlstm_layer *layers, ptrdiff_t n_layers, ptrdiff_t lanes, int loss, const fastlstm_streams *s) {
    if (!layers || n_layers <= 0 || lanes != 1 || loss == FASTLSTM_CROSS_ENTROPY) return FASTLSTM_BAD_ARGUMENT;
    if (!s || s->steps <= 0 || !(s->tolerance > 0) || !s->x || !s->targets || !s->y || !s->followed) return FASTLSTM_BAD_ARGUMENT;
    const ptrdiff_t widest = FL_MAX(layers[0].input_size, outputs_of(layers + n_layers - 1));
    return times(times(s->steps, widest), 8) < 0 ? FASTLSTM_TOO_LARGE : FASTLSTM_OK;
}

#define FOLLOW(kind, type)                                                                                                         \
    static fastlstm_status kind##_step(void *learner, const void *x, const void *targets, const uint8_t *reset, void *y) {         \
        ptrdiff_t done;                                                                                                            \
        return fastlstm_##kind##_run(learner, 1, x, targets, reset, y, &done, NULL, NULL);                                         \
    }                                                                                                                              \
    static fastlstm_status kind##_end(void *learner) { return fastlstm_##kind##_reset(learner, NULL); }                            \
    fastlstm_status fastlstm_##kind##_follow(type *m, const fastlstm_streams *streams, fastlstm_poll poll, void *context) {        \
        if (!m || !m->engine) return FASTLSTM_BAD_ARGUMENT;                                                                        \
        const fastlstm_status status = check(m->layers, m->n_layers, m->lanes, m->loss, streams);                                  \
        if (status) return status;                                                                                                 \
        const fl_followed f = {m, kind##_step, kind##_end, m->engine->bits / 8, m->layers[0].input_size,                           \
                               outputs_of(m->layers + m->n_layers - 1)};                                                           \
        return follow(&f, streams, poll, context);                                                                                 \
    }

FOLLOW(learner, fastlstm_learner)
FOLLOW(chunk, fastlstm_chunk_learner)
