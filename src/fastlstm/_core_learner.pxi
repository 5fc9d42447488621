# Learning online: the weights, traces and state of one `fastlstm_learner`. Part of _core.pyx.

LOSSES = {None: 0, "mse": 1, "sse": 2, "cross_entropy": 3, "binary_cross_entropy": 4}


cdef class Learner:
    """Base of fastlstm.OnlineLearner (docstrings there): weights, traces and state of one `fastlstm_learner`."""
    cdef readonly Network network
    cdef readonly Parameters parameters
    cdef readonly Py_ssize_t lanes
    cdef readonly object flat_state
    cdef object weights, velocity, gradient, traces, scratch
    cdef fastlstm_learner c
    cdef long long version
    cdef bint dirty, busy, elementwise
    cdef readonly object optimizer

    def __init__(self, Network network, Parameters parameters, int loss, optimizer, Py_ssize_t chunk, Py_ssize_t lanes):
        cdef Py_ssize_t traces = fastlstm_trace_size(network.engine, network.layers, network.n_layers, lanes)
        cdef Py_ssize_t scratch = fastlstm_learner_scratch_size(network.engine, network.layers, network.n_layers, lanes)
        if traces < 0 or scratch < 0:
            raise ValueError(f"the traces of {lanes} lanes do not fit into memory")
        self.network, self.parameters, self.lanes, self.optimizer = network, parameters, lanes, optimizer
        self.flat_state = network.new_state(lanes)
        self.traces = aligned(traces + 1, network.dtype)
        self.scratch = aligned(scratch, network.dtype)
        self.weights = aligned(network.n_packed, network.dtype)
        if optimizer is None or chunk != 1:
            self.gradient = aligned(network.n_packed, network.dtype)
        if optimizer is not None and optimizer.momentum:
            self.velocity = aligned(network.n_packed, network.dtype)
        self.elementwise = loss in (LOSSES["mse"], LOSSES["sse"], LOSSES["binary_cross_entropy"])
        self.version = -1
        self.c.engine, self.c.layers, self.c.n_layers, self.c.lanes = network.engine, network.layers, network.n_layers, lanes
        self.c.weights, self.c.velocity, self.c.gradient = data(self.weights), data(self.velocity), data(self.gradient)
        self.c.traces, self.c.state, self.c.scratch = data(self.traces), data(self.flat_state), data(self.scratch)
        self.c.loss, self.c.update, self.c.chunk = loss, optimizer is not None, chunk

    # Weights and velocity: the packed ones are the truth between `take` and `write_back`.

    def _idle(self):
        """Raise if a thread is in the middle of a step."""
        if self.busy:
            raise RuntimeError("this learner is in use by another thread")

    cdef int take(self) except -1:
        """Begin a call: have the newest weights, velocity and rates."""
        if self.busy:
            self._idle()
        if self.parameters.root().version != self.version:
            flat = np.ascontiguousarray(self.parameters.fetch())
            check(fastlstm_pack(self.network.engine, self.network.layers, self.network.n_layers, data(flat), data(self.weights)))
            if self.velocity is not None:  # whoever moved the weights may have moved it too
                flat = np.ascontiguousarray(self.optimizer.velocity_of(self.parameters))
                check(fastlstm_pack(self.network.engine, self.network.layers, self.network.n_layers, data(flat), data(self.velocity)))
            self.version = self.parameters.root().version
        if self.optimizer is not None:
            self.c.lr, self.c.momentum, self.c.decay = self.optimizer.lr, self.optimizer.momentum, self.optimizer.decay
        self.busy = True
        return 0

    cdef int give(self) except -1:
        """End a call that may have changed weights."""
        cdef Parameters root
        self.busy = False
        if self.optimizer is not None:
            if self.c.decay != 1:
                self.optimizer.lr = self.c.lr
            root = self.parameters.root()
            root.version += 1
            self.version = root.version
            if not self.dirty:
                self.dirty = True
                root.owners.append(self)
        return 0

    def write_back(self):
        """Write weights and velocity to the flat arrays they came from (called by Parameters.fetch)."""
        cdef object flat = self.parameters.part(self.parameters.root()._data)
        check(fastlstm_unpack(self.network.engine, self.network.layers, self.network.n_layers, data(self.weights), data(flat)))
        if self.velocity is not None:
            flat = self.optimizer.velocity_of(self.parameters)
            check(fastlstm_unpack(self.network.engine, self.network.layers, self.network.n_layers, data(self.velocity), data(flat)))
        self.dirty = False

    def sync(self):
        """Make the flat parameters and the optimizer's state current."""
        self.parameters.fetch()

    # Steps.

    @property
    def loss(self):
        return self.c.loss_sum / self.c.loss_steps if self.c.loss_steps else float("nan")

    cdef bint fits(self, object x, int typenum, Py_ssize_t width):
        """Whether x is an array (lanes, width), or (width,) for one lane, ready for C."""
        if type(x) is not np_ndarray:
            return False
        cdef cnp.ndarray a = <cnp.ndarray>x
        cdef int ndim = cnp.PyArray_NDIM(a)
        if cnp.PyArray_TYPE(a) != typenum or not cnp.PyArray_ISCARRAY_RO(a):
            return False
        if ndim == 2:
            return cnp.PyArray_DIM(a, 0) == self.lanes and cnp.PyArray_DIM(a, 1) == width
        return ndim == 1 and self.lanes == 1 and cnp.PyArray_DIM(a, 0) == width

    def _step(self, x, target):
        """One step for arguments that are ready for C as they are; None for any others."""
        cdef cnp.npy_intp shape[2]
        cdef Py_ssize_t done = 0
        cdef int ndim
        cdef cnp.ndarray y
        cdef fastlstm_status status
        cdef int typenum = self.network.dtype.num
        if not self.fits(x, typenum, self.network.input_size):
            return None
        ndim = cnp.PyArray_NDIM(<cnp.ndarray>x)
        if target is not None and not (self.elementwise and self.fits(target, typenum, self.network.output_size)
                                       and cnp.PyArray_NDIM(<cnp.ndarray>target) == ndim):
            return None
        shape[0] = self.lanes
        shape[ndim - 1] = self.network.output_size
        y = cnp.PyArray_SimpleNew(ndim, shape, typenum)
        cdef void *cx = data(x)
        cdef void *ct = data(target)
        cdef void *cy = data(y)
        self.take()
        self.c.loss_sum, self.c.loss_steps = 0, 0
        with nogil:
            status = fastlstm_learner_run(&self.c, 1, cx, ct, NULL, cy, &done, NULL, NULL)
        self.give()
        check(status)
        return y

    def _run(self, x, targets, reset, y):
        """x (T, lanes, I), checked targets and reset -> y."""
        cdef Py_ssize_t steps = x.shape[0], done = 0
        cdef list raised = []
        cdef fastlstm_status status
        cdef void *cx = data(x)
        cdef void *ct = data(targets)
        cdef void *cy = data(y)
        cdef const uint8_t *cr = <const uint8_t *>data(reset)
        cdef void *holder = <void *>raised
        self.take()
        self.c.loss_sum, self.c.loss_steps = 0, 0
        with nogil:
            status = fastlstm_learner_run(&self.c, steps, cx, ct, cr, cy, &done, poll, holder)
        self.give()
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)

    def _set_loss(self, double loss_sum, int64_t loss_steps):
        self.c.loss_sum, self.c.loss_steps = loss_sum, loss_steps

    def _forward(self, x, y):
        self.take()
        cdef fastlstm_status status = fastlstm_learner_forward(&self.c, data(x), data(y))
        self.give()
        check(status)

    def _backward(self, dy):
        self.take()
        cdef fastlstm_status status = fastlstm_learner_backward(&self.c, data(dy))
        self.give()
        check(status)

    def _reset(self, mask):
        self.take()
        cdef fastlstm_status status = fastlstm_learner_reset(&self.c, <const uint8_t *>data(mask))
        self.give()
        check(status)

    def _apply(self):
        self.take()
        cdef fastlstm_status status = fastlstm_learner_apply(&self.c)
        self.give()
        check(status)

    def _clear_traces(self):
        self.traces[:] = 0

    def _gradient(self):
        """The gathered gradient as a flat array in the parameters' order; zeros if every step updates."""
        flat = np.zeros(self.network.n_params, self.network.dtype)
        if self.gradient is not None:
            self.network.unpack(self.gradient, flat)
        return flat

    def _zero_gradient(self):
        if self.gradient is not None:
            self.gradient[:] = 0
        self.c.has_error = 0

    def _memory(self):
        """Everything but the network, the weights and the optimizer, in a form that no instruction set shapes."""
        cdef Py_ssize_t size = fastlstm_trace_canonical_size(self.network.layers, self.network.n_layers, self.lanes)
        traces = np.zeros(size, self.network.dtype)
        check(fastlstm_trace_convert(self.network.engine, self.network.layers, self.network.n_layers, self.lanes, data(self.traces), data(traces), 1))
        return {"state": np.array(self.flat_state), "traces": traces, "gradient": self._gradient(),
                "pending": self.c.pending, "has_error": self.c.has_error, "loss": (self.c.loss_sum, self.c.loss_steps)}

    def _set_memory(self, memory):
        traces = memory["traces"]
        check(fastlstm_trace_convert(self.network.engine, self.network.layers, self.network.n_layers, self.lanes, data(self.traces), data(traces), 0))
        self.flat_state[:] = memory["state"]
        if self.gradient is not None:
            check(fastlstm_pack(self.network.engine, self.network.layers, self.network.n_layers, data(memory["gradient"]), data(self.gradient)))
        self.c.pending, self.c.has_error = memory["pending"], memory["has_error"]
        self.c.loss_sum, self.c.loss_steps = memory["loss"]

    def nbytes(self):
        """Bytes that this learner holds, all taken when it is made."""
        arrays = (self.weights, self.velocity, self.gradient, self.traces, self.flat_state, self.scratch)
        return sum(a.nbytes for a in arrays if a is not None)
