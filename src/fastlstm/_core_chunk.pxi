# Learning online in chunks: any optimiser, any gradient. Part of _core.pyx.

cdef extern from "fastlstm.h" nogil:
    ctypedef struct fastlstm_chunk_learner:
        const fastlstm_engine *engine
        const fastlstm_layer *layers
        Py_ssize_t n_layers, lanes
        int32_t gradient_rule, threads
        Py_ssize_t window
        void *params
        void *weights
        void *gradient
        void *kept
        void *traces
        void *state
        void *scratch
        fastlstm_optimizer *optimizer
        double decay, error_bound
        Py_ssize_t chunk
        int32_t loss, prepared
        Py_ssize_t held, pending
        int32_t gathered, has_error, open
        double loss_sum
        int64_t loss_steps
    Py_ssize_t fastlstm_chunk_kept_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    Py_ssize_t fastlstm_chunk_trace_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t)
    Py_ssize_t fastlstm_chunk_scratch_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t, int)
    fastlstm_status fastlstm_chunk_kept_parts(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                              Py_ssize_t *)
    fastlstm_status fastlstm_chunk_run(fastlstm_chunk_learner *, Py_ssize_t, const void *, const void *, const uint8_t *, void *,
                                       Py_ssize_t *, fastlstm_poll, void *)
    fastlstm_status fastlstm_chunk_follow(fastlstm_chunk_learner *, const fastlstm_streams *, fastlstm_poll, void *)
    fastlstm_status fastlstm_chunk_forward(fastlstm_chunk_learner *, const void *, void *)
    fastlstm_status fastlstm_chunk_backward(fastlstm_chunk_learner *, const void *)
    fastlstm_status fastlstm_chunk_learn(fastlstm_chunk_learner *, const void *)
    fastlstm_status fastlstm_chunk_reset(fastlstm_chunk_learner *, const uint8_t *)
    fastlstm_status fastlstm_chunk_apply(fastlstm_chunk_learner *)
    fastlstm_status fastlstm_chunk_settle(fastlstm_chunk_learner *)

GRADIENTS = {"truncated-rtrl": 0, "carried-bptt": 1, "bptt": 2}


cdef class ChunkLearner(Learner):
    """Gradients of many steps at once (csrc/chunk.h), and updates by the optimizer's own rule. The flat parameters learn."""
    cdef object kept, params
    cdef fastlstm_chunk_learner c
    cdef fastlstm_optimizer rule
    cdef bint decays  # the rate

    def __init__(self, Network network, Parameters parameters, int loss, optimizer, Py_ssize_t lanes, str gradient, Py_ssize_t chunk,
                 Py_ssize_t window, double error_bound):
        cdef Py_ssize_t kept = fastlstm_chunk_kept_size(network.engine, network.layers, network.n_layers, window, lanes)
        cdef Py_ssize_t traces = 0 if gradient == "bptt" else fastlstm_chunk_trace_size(network.engine, network.layers, network.n_layers, lanes)
        if kept < 0 or traces < 0:
            raise ValueError(f"{window} steps and the traces of {lanes} lanes do not fit into memory")
        super().__init__(network, parameters, loss, optimizer, lanes)
        self.kept = aligned(kept, network.dtype)
        self.traces = aligned(traces + 1, network.dtype)
        self.gradient = aligned(network.n_params, network.dtype)
        self.c.engine, self.c.layers, self.c.n_layers, self.c.lanes = network.engine, network.layers, network.n_layers, lanes
        self.c.gradient_rule, self.c.chunk, self.c.window, self.c.error_bound = GRADIENTS[gradient], chunk, window, error_bound
        self.c.weights, self.c.gradient, self.c.kept = data(self.weights), data(self.gradient), data(self.kept)
        self.c.traces, self.c.state, self.c.loss = data(self.traces), data(self.flat_state), loss
        self.c.decay = 1
        if optimizer is not None:
            first, second = optimizer.arrays
            self.rule = rule_of(type(optimizer)._rule, first, second, 0, 0, optimizer._numbers())
            self.c.optimizer, self.decays = &self.rule, type(optimizer)._rule == "SGD"
        self.loss_sum, self.loss_steps = &self.c.loss_sum, &self.c.loss_steps
        self.lay_out()

    cdef int lay_out(self) except -1:
        cdef Py_ssize_t size = fastlstm_chunk_scratch_size(self.network.engine, self.network.layers, self.network.n_layers, self.c.window,
                                                           self.lanes, num_threads)
        self.scratch = None
        self.scratch = aligned(size, self.network.dtype)
        self.c.scratch, self.c.threads, self.c.prepared = data(self.scratch), num_threads, 0
        return 0

    cdef int pull(self) except -1:
        global has_pool
        if self.c.threads != num_threads:
            self.lay_out()
        has_pool |= self.c.threads > 1
        if self.parameters.root().version != self.version:
            if self.c.held or self.c.open:  # these steps were made with the weights of then
                check(fastlstm_chunk_settle(&self.c))
            self.params = self.parameters.fetch()
            self.c.params = data(self.params)
            check(fastlstm_pack(self.network.engine, self.network.layers, self.network.n_layers, self.c.params, data(self.weights)))
            self.version = self.parameters.root().version
        if self.optimizer is not None:
            self.rule.lr, self.rule.steps = self.optimizer._lr, self.optimizer._steps
            if self.decays:
                self.c.decay = self.optimizer._decay
        return 0

    cdef int push(self) except -1:
        cdef Parameters root
        if self.optimizer is not None and self.rule.steps != self.optimizer._steps:
            self.optimizer._steps = self.rule.steps
            if self.c.decay != 1:
                self.optimizer.lr = self.rule.lr
            root = self.parameters.root()
            root.version += 1
            self.version = root.version
        return 0

    cdef fastlstm_status c_run(self, Py_ssize_t steps, void *x, void *targets, const uint8_t *reset, void *y, Py_ssize_t *done,
                               fastlstm_poll poll, void *context) noexcept nogil:
        return fastlstm_chunk_run(&self.c, steps, x, targets, reset, y, done, poll, context)

    cdef fastlstm_status c_follow(self, const fastlstm_streams *streams, fastlstm_poll poll, void *context) noexcept nogil:
        return fastlstm_chunk_follow(&self.c, streams, poll, context)

    cdef fastlstm_status c_forward(self, void *x, void *y) noexcept nogil:
        return fastlstm_chunk_forward(&self.c, x, y)

    cdef fastlstm_status c_backward(self, void *dy) noexcept nogil:
        return fastlstm_chunk_backward(&self.c, dy)

    cdef fastlstm_status c_learn(self, void *targets) noexcept nogil:
        return fastlstm_chunk_learn(&self.c, targets)

    cdef fastlstm_status c_reset(self, const uint8_t *mask) noexcept nogil:
        return fastlstm_chunk_reset(&self.c, mask)

    cdef fastlstm_status c_apply(self) noexcept nogil:
        return fastlstm_chunk_apply(&self.c)

    def undo(self, before):
        Learner.undo(self, before)
        self.c.open = 0

    cdef int settle(self) except -1:
        self.take()
        cdef fastlstm_status status = fastlstm_chunk_settle(&self.c)
        self.give()
        check(status)
        return 0

    def gradients(self):
        """The gradient gathered since the last update, as a flat array in the parameters' order; looking changes no bit."""
        cdef fastlstm_status status
        cdef Py_ssize_t held
        self.take()
        before = [np.array(a) for a in (self.kept, self.traces, self.gradient)]
        cdef int32_t gathered = self.c.gathered, has_error = self.c.has_error
        held = self.c.held
        status = fastlstm_chunk_settle(&self.c)
        flat = np.array(self.gradient) if self.c.gathered else np.zeros_like(self.gradient)
        for a, old in zip((self.kept, self.traces, self.gradient), before):
            a[:] = old
        self.c.gathered, self.c.has_error, self.c.held = gathered, has_error, held
        self.give()
        check(status)
        return flat

    def zero_gradient(self):
        """Forget the gathered gradient, that of the window's steps too."""
        self.take()
        cdef fastlstm_status status = fastlstm_chunk_settle(&self.c)
        self.c.gathered = self.c.has_error = 0
        self.give()
        check(status)

    # Copies. A window is kept as what it was made from: run again, it has the same bits on any instruction set.

    def _window(self, Py_ssize_t held):
        """Views of what the window holds: x (held, lanes, I), dy (held, lanes, O), the state at its start if it is not empty,
        error (held, lanes), and reset (held + 1, lanes), the next step's too."""
        cdef Py_ssize_t part[5]
        cdef Network n = self.network
        check(fastlstm_chunk_kept_parts(n.engine, n.layers, n.n_layers, self.c.window, self.lanes, part))
        raw, B = self.kept.view(np.uint8), self.lanes
        shapes = ((held, B, n.input_size), (held, B, n.output_size), (self.flat_state.size if held else 0,), (held, B), (held + 1, B))
        views = []
        for k, (shape, dtype) in enumerate(zip(shapes, (n.dtype, n.dtype, n.dtype, np.uint8, np.uint8))):
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            views.append(raw[part[k]:part[k] + size].view(dtype).reshape(shape))
        return views

    def memory(self):
        """Everything but the network, the weights and the optimizer, in a form that no instruction set shapes."""
        self.take()
        self.give()
        return {"state": np.array(self.flat_state), "traces": np.array(self.traces), "gradient": np.array(self.gradient),
                "window": [np.array(a) for a in self._window(self.c.held)], "loss": (self.c.loss_sum, self.c.loss_steps),
                "counts": (self.c.held, self.c.pending, self.c.gathered, self.c.has_error)}

    def set_memory(self, memory):
        cdef Py_ssize_t done = 0, held, pending
        held, pending, self.c.gathered, self.c.has_error = memory["counts"]
        self.traces[:], self.gradient[:] = memory["traces"], memory["gradient"]
        window = memory["window"]
        self._window(held)[4][:] = window[4]
        if held:
            self.flat_state[:] = window[2]
            y = np.empty((held, self.lanes, self.network.output_size), self.network.dtype)
            self.take()
            status = fastlstm_chunk_run(&self.c, held, data(window[0]), NULL, NULL, data(y), &done, NULL, NULL)
            self.give()
            check(status)
            for a, b in zip(self._window(held), window):
                a[:] = b
        self.flat_state[:] = memory["state"]
        self.c.held, self.c.pending = held, pending
        self.c.loss_sum, self.c.loss_steps = memory["loss"]

    def nbytes(self):
        """Bytes that this learner holds, all taken when it is made (or when the number of threads changes)."""
        return sum(a.nbytes for a in (self.weights, self.gradient, self.traces, self.flat_state, self.scratch, self.kept))


def chunk_nbytes(Network n, str gradient, Py_ssize_t window, Py_ssize_t lanes):
    """Bytes of a ChunkLearner; -1 if they do not fit."""
    cdef Py_ssize_t kept = fastlstm_chunk_kept_size(n.engine, n.layers, n.n_layers, window, lanes)
    cdef Py_ssize_t scratch = fastlstm_chunk_scratch_size(n.engine, n.layers, n.n_layers, window, lanes, num_threads)
    cdef Py_ssize_t traces = 0 if gradient == "bptt" else fastlstm_chunk_trace_size(n.engine, n.layers, n.n_layers, lanes)
    cdef Py_ssize_t state = fastlstm_state_size(n.layers, n.n_layers, lanes)
    if kept < 0 or scratch < 0 or traces < 0 or state < 0:
        return -1
    return (kept + scratch + traces + 1 + state + n.n_packed + n.n_params) * n.dtype.itemsize
