# Losses and optimisers: the part of _core.pyx for training, included by it. Arguments are arrays that the Python modules
# have checked: contiguous, of one dtype and the right shapes.

cdef extern from "fastlstm.h" nogil:
    ctypedef struct fastlstm_ctc_batch:
        Py_ssize_t steps, lanes, classes
        int64_t blank
        const void *y
        const int64_t *lengths
        const int64_t *targets
        const int64_t *target_lengths
        void *dy
    ctypedef struct fastlstm_optimizer:
        int32_t kind, nesterov
        double lr, momentum, beta1, beta2, eps, weight_decay, clip_norm, norm
        int64_t steps
        void *first
        void *second
    fastlstm_status fastlstm_elementwise_loss(const fastlstm_engine *, int, Py_ssize_t, Py_ssize_t, const void *, const void *,
                                              const void *, void *, double *)
    fastlstm_status fastlstm_cross_entropy(const fastlstm_engine *, Py_ssize_t, Py_ssize_t, const void *, const int64_t *,
                                           const void *, double, void *, double *)
    Py_ssize_t fastlstm_ctc_scratch_size(const fastlstm_engine *, Py_ssize_t, Py_ssize_t)
    fastlstm_status fastlstm_ctc(const fastlstm_engine *, const fastlstm_ctc_batch *, void *, double *, fastlstm_poll, void *)
    fastlstm_status fastlstm_update(const fastlstm_engine *, fastlstm_optimizer *, Py_ssize_t, void *, const void *)


def elementwise_loss(str loss, y, target, pos_weight=None):
    """(loss, dy) of y (rows, width) and a target alike; pos_weight (width,) or None."""
    cdef const fastlstm_engine *engine = engine_of(y.dtype)
    cdef int kind = LOSSES[loss]
    cdef double value = 0
    cdef Py_ssize_t rows = y.shape[0], width = y.shape[1]
    cdef fastlstm_status status
    dy = np.empty_like(y)
    cdef void *cy = data(y)
    cdef void *ct = data(target)
    cdef void *cw = data(pos_weight)
    cdef void *cd = data(dy)
    with nogil:
        status = fastlstm_elementwise_loss(engine, kind, rows, width, cy, ct, cw, cd, &value)
    check(status)
    return value, dy


def cross_entropy(y, target, weight=None, double smoothing=0):
    """(loss, dy) of y (rows, classes) and int64 target (rows,); weight (classes,) or None."""
    cdef const fastlstm_engine *engine = engine_of(y.dtype)
    cdef double value = 0
    cdef Py_ssize_t rows = y.shape[0], classes = y.shape[1]
    cdef fastlstm_status status
    dy = np.empty_like(y)
    cdef void *cy = data(y)
    cdef int64_t *ct = <int64_t *>data(target)
    cdef void *cw = data(weight)
    cdef void *cd = data(dy)
    with nogil:
        status = fastlstm_cross_entropy(engine, rows, classes, cy, ct, cw, smoothing, cd, &value)
    check(status)
    return value, dy


def ctc(y, targets, target_lengths, lengths, int64_t blank):
    """(loss, dy) of y (T, B, C); int64 targets one after the other, target_lengths (B,), lengths (B,) or None."""
    cdef const fastlstm_engine *engine = engine_of(y.dtype)
    cdef fastlstm_ctc_batch batch
    cdef fastlstm_status status
    cdef list raised = []
    cdef void *holder = <void *>raised
    cdef double value = 0
    cdef Py_ssize_t size = fastlstm_ctc_scratch_size(engine, y.shape[0], target_lengths.max())
    scratch = aligned(size, y.dtype)
    dy = np.empty_like(y)
    batch.steps, batch.lanes, batch.classes = y.shape
    batch.blank = blank
    batch.y, batch.dy = data(y), data(dy)
    batch.lengths, batch.targets = <const int64_t *>data(lengths), <const int64_t *>data(targets)
    batch.target_lengths = <const int64_t *>data(target_lengths)
    cdef void *work = data(scratch)
    with nogil:
        status = fastlstm_ctc(engine, &batch, work, &value, poll, holder)
    if status == FASTLSTM_INTERRUPTED:
        raise raised[0]
    check(status)
    return value, dy


OPTIMIZERS = {"SGD": 0, "RMSprop": 1, "Adam": 2, "AdamW": 3}


cdef fastlstm_optimizer rule_of(str kind, first, second, int64_t steps, double lr, dict options) except *:
    """`first` and `second` are as in fastlstm.h, or None; options by their names there."""
    cdef fastlstm_optimizer o
    o.kind, o.nesterov, o.steps = OPTIMIZERS[kind], options.get("nesterov", False), steps
    o.lr, o.momentum, o.norm = lr, options.get("momentum", 0), 0
    o.weight_decay, o.clip_norm = options.get("weight_decay", 0), options.get("clip_norm", 0)
    o.beta1, o.beta2, o.eps = options.get("beta1", 0), options.get("beta2", 0), options.get("eps", 0)
    o.first, o.second = data(first), data(second)
    return o


def update(str kind, weights, gradient, first, second, int64_t steps, double lr, **options):
    """One update, after `steps` of them, of flat arrays."""
    cdef fastlstm_optimizer o = rule_of(kind, first, second, steps, lr, options)
    cdef const fastlstm_engine *engine = engine_of(weights.dtype)
    cdef fastlstm_status status
    cdef Py_ssize_t n = weights.shape[0]
    cdef void *cw = data(weights)
    cdef void *cg = data(gradient)
    with nogil:
        status = fastlstm_update(engine, &o, n, cw, cg)
    check(status)
