# Backpropagation through time: a forward call that saves what its gradient needs. Part of _core.pyx.

cdef extern from "fastlstm.h" nogil:
    Py_ssize_t fastlstm_tape_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    Py_ssize_t fastlstm_training_scratch_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t, int)
    fastlstm_status fastlstm_training_forward(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *,
                                              const fastlstm_batch *, void *, void *, int, fastlstm_poll, void *)
    fastlstm_status fastlstm_backward(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *, const fastlstm_batch *,
                                      const void *, void *, const void *, void *, void *, void *, void *, int, fastlstm_poll, void *)


cdef class Tape:
    """One forward call of a network, and once its gradient. x, y: (T, B, .) or with batch_first (B, T, .)."""
    cdef readonly Network network
    cdef fastlstm_batch batch
    cdef object packed, x, before, lengths, reset, tape
    cdef int threads

    def __init__(self, Network network, packed, x, state, lengths, reset, bint batch_first):
        cdef Py_ssize_t first = x.shape[0], second = x.shape[1]
        cdef fastlstm_batch *b = &self.batch
        self.network, self.packed, self.x, self.lengths, self.reset = network, packed, x, lengths, reset
        self.before = state.copy()  # states may be written to by then
        b.steps, b.lanes = (second, first) if batch_first else (first, second)
        b.x, b.lengths, b.reset = data(x), <const int64_t *>data(lengths), <const uint8_t *>data(reset)
        b.starts = NULL
        b.x_step, b.x_lane = network.input_size * b.lanes, network.input_size
        b.y_step, b.y_lane = network.output_size * b.lanes, network.output_size
        if batch_first:
            b.x_step, b.x_lane = network.input_size, network.input_size * b.steps
            b.y_step, b.y_lane = network.output_size, network.output_size * b.steps
        self.threads = num_threads
        cdef Py_ssize_t size = fastlstm_tape_size(network.engine, network.layers, network.n_layers, b.steps, b.lanes)
        if size < 0:
            raise ValueError(f"{b.steps} steps of {b.lanes} lanes do not fit into memory")
        self.tape = network.pool.take(TAPE, size, network.dtype)

    def seed(self, uint64_t seed):
        """What dropout and zoneout are drawn from, to be set before `forward`."""
        self.batch.seed = seed

    cdef object scratch(self):
        global has_pool
        has_pool |= self.threads > 1
        cdef Network n = self.network
        cdef Py_ssize_t size = fastlstm_training_scratch_size(n.engine, n.layers, n.n_layers, self.batch.steps, self.batch.lanes, self.threads)
        return n.pool.take(SCRATCH, size, n.dtype)

    def forward(self, y, state):
        """Fill y; `state` is read and written."""
        cdef fastlstm_status status
        cdef list raised = []
        cdef void *holder = <void *>raised
        cdef Network n = self.network
        scratch = self.scratch()
        cdef void *weights = data(self.packed)
        cdef void *tape = data(self.tape)
        cdef void *work = data(scratch)
        self.batch.y, self.batch.state = data(y), data(state)
        with nogil:
            status = fastlstm_training_forward(n.engine, n.layers, n.n_layers, weights, &self.batch, tape, work, self.threads, poll, holder)
        self.batch.y = self.batch.state = tape  # not needed any more, but no pointer may be NULL
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)

    def backward(self, dy, dx, dstate):
        """The gradient, a flat array like the parameters; fills dx (or None) and replaces `dstate` by its initial value."""
        cdef fastlstm_status status
        cdef list raised = []
        cdef void *holder = <void *>raised
        cdef Network n = self.network
        if self.tape is None:
            raise RuntimeError("backward was called before: a forward call has one gradient")
        held, self.tape = self.tape, None  # it is consumed, whatever comes
        scratch, gradient = self.scratch(), n.pool.take(GRADIENT, n.n_params, n.dtype)
        cdef void *weights = data(self.packed)
        cdef void *before = data(self.before)
        cdef void *tape = data(held)
        cdef void *out = data(gradient)
        cdef void *work = data(scratch)
        cdef void *error = data(dy)
        cdef void *inputs = data(dx)
        cdef void *state = data(dstate)
        with nogil:
            status = fastlstm_backward(n.engine, n.layers, n.n_layers, weights, &self.batch, before, tape, error, inputs, state, out, work,
                                       self.threads, poll, holder)
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)
        return gradient
