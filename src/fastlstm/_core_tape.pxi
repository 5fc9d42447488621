# Backpropagation through time: a forward call that saves what its gradient needs. Part of _core.pyx.

cdef extern from "fastlstm.h" nogil:
    Py_ssize_t fastlstm_tape_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    Py_ssize_t fastlstm_training_scratch_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t, int)
    fastlstm_status fastlstm_training_forward(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *,
                                              const fastlstm_batch *, void *, void *, int, fastlstm_poll, void *)
    fastlstm_status fastlstm_backward(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *, const fastlstm_batch *,
                                      const void *, void *, const void *, void *, void *, int, void *, int, void *, int, fastlstm_poll, void *)


cdef class Tape:
    """Steps [first, first + steps) of one forward call of a network, and once their gradient.

    x, y: (T, B, .) or with batch_first (B, T, .), of all steps; lengths and reset: those of the tape's steps.
    """
    cdef readonly Network network
    cdef fastlstm_batch batch
    cdef object packed, x, before, lengths, reset, tape
    cdef Py_ssize_t total, scratch_size
    cdef bint batch_first
    cdef int threads

    def __init__(self, Network network, packed, x, state, lengths, reset, bint batch_first, uint64_t seed=0,
                 Py_ssize_t first=0, Py_ssize_t steps=0):
        cdef fastlstm_batch *b = &self.batch
        self.network, self.packed, self.x, self.lengths, self.reset = network, packed, x, lengths, reset
        self.before = state.copy()  # states may be written to by then
        self.batch_first = batch_first
        b.lanes, self.total = x.shape[0 if batch_first else 1], x.shape[1 if batch_first else 0]
        b.first_step, b.steps, b.seed = first, steps or self.total, seed
        b.x = self.rows(x, network.input_size, &b.x_step, &b.x_lane)
        b.lengths, b.reset, b.starts = <const int64_t *>data(lengths), <const uint8_t *>data(reset), NULL
        b.xs = NULL
        self.threads = num_threads
        cdef Room *room = &network.training
        if not same_call(room, b.steps, b.lanes, self.threads):
            room.steps = 0
            room.tape = fastlstm_tape_size(network.engine, network.layers, network.n_layers, b.steps, b.lanes)
            room.scratch = fastlstm_training_scratch_size(network.engine, network.layers, network.n_layers, b.steps, b.lanes, self.threads)
            if room.tape < 0 or room.scratch < 0:
                raise ValueError(f"{b.steps} steps of {b.lanes} lanes do not fit into memory")
            room.steps, room.lanes, room.allowed = b.steps, b.lanes, self.threads
        self.scratch_size = room.scratch
        self.tape = network.pool.take(TAPE, room.tape, network.dtype)

    cdef void *rows(self, array, Py_ssize_t width, Py_ssize_t *step, Py_ssize_t *lane):
        """Where the tape's first row lies in an array of all steps (or None), or in one of the tape's alone."""
        cdef Py_ssize_t total = self.total
        cdef char *at = <char *>data(array)
        if array is not None:
            total = array.shape[1 if self.batch_first else 0]
        step[0], lane[0] = (width, width * total) if self.batch_first else (width * self.batch.lanes, width)
        if at != NULL and total == self.total:
            at += self.batch.first_step * step[0] * self.network.dtype.itemsize
        return at

    cdef object scratch(self):
        global has_pool
        has_pool |= self.threads > 1
        return self.network.pool.take(SCRATCH, self.scratch_size, self.network.dtype)

    def forward(self, y, state, bint polled=True):
        """Fill y; `state` is read and written. Ctrl-C is answered at the end if not `polled`."""
        cdef fastlstm_status status
        cdef list raised = []
        cdef void *holder = <void *>raised
        cdef Network n = self.network
        scratch = self.scratch()
        cdef void *weights = data(self.packed)
        cdef void *tape = data(self.tape)
        cdef void *work = data(scratch)
        self.batch.y, self.batch.state = self.rows(y, n.output_size, &self.batch.y_step, &self.batch.y_lane), data(state)
        with nogil:
            status = fastlstm_training_forward(n.engine, n.layers, n.n_layers, weights, &self.batch, tape, work, self.threads,
                                               <fastlstm_poll>poll if polled else NULL, holder)
        self.batch.y = self.batch.state = tape  # not needed any more, but no pointer may be NULL
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)

    def backward(self, dy, dx, dstate, bint need_dstate, gradient, bint add, bint polled=True):
        """The gradient, in a flat array like the parameters: in `gradient`, or added to it, or (None) in a new one. Fills dx (or
        None); with `need_dstate`, replaces `dstate` by that of the initial state."""
        cdef fastlstm_status status
        cdef list raised = []
        cdef void *holder = <void *>raised
        cdef Network n = self.network
        if self.tape is None:
            raise RuntimeError("backward was called before: a forward call has one gradient")
        held, self.tape = self.tape, None  # it is consumed, whatever comes
        if gradient is None:
            gradient = n.pool.take(GRADIENT, n.n_params, n.dtype)
        scratch = self.scratch()
        cdef void *weights = data(self.packed)
        cdef void *before = data(self.before)
        cdef void *tape = data(held)
        cdef void *out = data(gradient)
        cdef void *work = data(scratch)
        cdef void *error = self.rows(dy, n.output_size, &self.batch.y_step, &self.batch.y_lane)
        cdef void *inputs = self.rows(dx, n.input_size, &self.batch.x_step, &self.batch.x_lane)
        cdef void *state = data(dstate)
        with nogil:
            status = fastlstm_backward(n.engine, n.layers, n.n_layers, weights, &self.batch, before, tape, error, inputs, state, need_dstate,
                                       out, add, work, self.threads, <fastlstm_poll>poll if polled else NULL, holder)
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)
        return gradient
