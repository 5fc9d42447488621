/* All that depends on instruction set or element type, in reading order; ends with the engine's table. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu.h"
#include "engine.h"
#include "geometry.h"
#include "scratch.h"
#include "kernels/activation.h"
#include "kernels/fpu.h"
#include "kernels/product.h"
#include "pack.h"
#include "sparse.h"
#include "cell.h"
#include "lstm.h"
#include "gru.h"
#include "rnn.h"
#include "narrow.h"
#include "step.h"
#include "linear.h"
#include "compact.h"
#include "noise.h"
#include "forward.h"
#include "loss.h"
#include "optim.h"
#include "backward.h"
#include "traces.h"
#include "ctc.h"
#include "lazy.h"
#include "small.h"
#include "learn.h"

#define FL_STRING2(x) #x
#define FL_STRING(x) FL_STRING2(x)

const fastlstm_engine FL_NAME(FL_PASTE1(fl_engine, FL_ISA_NAME)) = {
    .isa = FL_STRING(FL_ISA_NAME),
    .bits = 8 * (int)sizeof(REAL),
    .vw = VW,
    .pack = fl_pack,
    .unpack = fl_unpack,
    .trace_convert = fl_trace_convert,
    .prepare = fl_prepare,
    .run = fl_run,
    .learner_prepare = fl_learner_prepare,
    .learner_run = fl_learner_run,
    .learner_forward = fl_learner_forward,
    .learner_backward = fl_learner_backward,
    .learner_learn = fl_learner_learn,
    .learner_reset = fl_learner_reset,
    .learner_apply = fl_learner_apply,
    .learner_settle = fl_learner_settle,
    .step_loss = fl_step_loss,
    .bound = fl_bound,
    .elementwise_loss = fl_losses_elementwise,
    .cross_entropy = fl_losses_cross_entropy,
    .ctc = fl_ctc,
    .update = fl_update,
    .backward = fl_backward,
};
