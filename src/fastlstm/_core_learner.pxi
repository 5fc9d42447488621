# Learning online: what all learners have in common, and the one that updates at every step. Part of _core.pyx.

cdef extern from "fastlstm.h" nogil:
    ctypedef struct fastlstm_learner:
        const fastlstm_engine *engine
        const fastlstm_layer *layers
        Py_ssize_t n_layers, lanes
        void *weights
        void *velocity
        void *gradient
        void *traces
        void *state
        void *scratch
        int32_t prepared
        int32_t loss, update
        double lr, momentum, decay
        Py_ssize_t chunk
        int32_t lazy
        Py_ssize_t pending
        int32_t has_error
        double loss_sum
        int64_t loss_steps
    Py_ssize_t fastlstm_trace_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t)
    Py_ssize_t fastlstm_trace_canonical_size(const fastlstm_layer *, Py_ssize_t, Py_ssize_t)
    fastlstm_status fastlstm_trace_convert(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, void *, void *, int)
    Py_ssize_t fastlstm_learner_scratch_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t)
    fastlstm_status fastlstm_learner_run(fastlstm_learner *, Py_ssize_t, const void *, const void *, const uint8_t *, void *,
                                         Py_ssize_t *, fastlstm_poll, void *)
    fastlstm_status fastlstm_learner_forward(fastlstm_learner *, const void *, void *)
    fastlstm_status fastlstm_learner_backward(fastlstm_learner *, const void *)
    fastlstm_status fastlstm_learner_learn(fastlstm_learner *, const void *)
    fastlstm_status fastlstm_learner_reset(fastlstm_learner *, const uint8_t *)
    fastlstm_status fastlstm_learner_apply(fastlstm_learner *)
    fastlstm_status fastlstm_learner_settle(fastlstm_learner *)
    int fastlstm_learner_lazy(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t)
    ctypedef struct fastlstm_streams:
        Py_ssize_t steps
        const void *x
        const void *targets
        const uint8_t *reset
        const uint8_t *starts
        double tolerance
        void *y
        uint8_t *followed
    fastlstm_status fastlstm_learner_follow(fastlstm_learner *, const fastlstm_streams *, fastlstm_poll, void *)

LOSSES = {None: 0, "mse": 1, "sse": 2, "cross_entropy": 3, "binary_cross_entropy": 4,
          "binary_cross_entropy_with_logits": 5}


cdef class Learner:
    """A network that learns while it runs; docstrings for users are in _online.py."""
    cdef readonly Network network
    cdef readonly Parameters parameters
    cdef readonly Py_ssize_t lanes
    cdef readonly object flat_state, optimizer
    cdef object weights, gradient, traces, scratch
    cdef Outputs given
    cdef long long version
    cdef bint busy, elementwise, classes
    cdef readonly bint open  # a step waits for its error
    cdef double *loss_sum
    cdef int64_t *loss_steps

    def __init__(self, Network network, Parameters parameters, int loss, optimizer, Py_ssize_t lanes):
        self.network, self.parameters, self.lanes, self.optimizer = network, parameters, lanes, optimizer
        self.flat_state = network.new_state(lanes)
        self.weights = aligned(network.n_packed, network.dtype)
        self.given = Outputs()
        self.elementwise = loss != 0 and loss != LOSSES["cross_entropy"]
        self.classes = loss == LOSSES["cross_entropy"]
        self.version = -1

    # What each kind of learner does in its own way.

    cdef int pull(self) except -1:
        """Have the newest weights and rates."""
        raise NotImplementedError

    cdef int push(self) except -1:
        """Tell of weights and rates that may have changed."""
        raise NotImplementedError

    cdef fastlstm_status c_run(self, Py_ssize_t steps, void *x, void *targets, const uint8_t *reset, void *y, Py_ssize_t *done,
                               fastlstm_poll poll, void *context) noexcept nogil:
        return FASTLSTM_OK

    cdef fastlstm_status c_follow(self, const fastlstm_streams *streams, fastlstm_poll poll, void *context) noexcept nogil:
        return FASTLSTM_OK

    cdef fastlstm_status c_forward(self, void *x, void *y) noexcept nogil:
        return FASTLSTM_OK

    cdef fastlstm_status c_backward(self, void *dy) noexcept nogil:
        return FASTLSTM_OK

    cdef fastlstm_status c_learn(self, void *targets) noexcept nogil:
        return FASTLSTM_OK

    cdef fastlstm_status c_reset(self, const uint8_t *mask) noexcept nogil:
        return FASTLSTM_OK

    cdef fastlstm_status c_apply(self) noexcept nogil:
        return FASTLSTM_OK

    # Calls.

    def idle(self):
        """Raise if a thread is in the middle of a step."""
        if self.busy:
            raise RuntimeError("this learner is in use by another thread")

    cdef int take(self) except -1:
        """Begin a call. A step that waits for its error gets none."""
        if self.busy:
            self.idle()
        self.pull()
        self.busy = True
        if self.open:
            self.open = False
            check(self.c_backward(NULL))
        return 0

    cdef int give(self) except -1:
        """End a call."""
        self.busy = False
        self.push()
        return 0

    def sync(self):
        """Make the flat parameters and the optimizer's state current."""
        self.parameters.fetch()

    @property
    def loss(self):
        return self.loss_sum[0] / self.loss_steps[0] if self.loss_steps[0] else float("nan")

    def set_loss(self, double loss_sum, int64_t loss_steps):
        self.loss_sum[0], self.loss_steps[0] = loss_sum, loss_steps

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

    cdef void *ready(self, object target, int ndim, int64_t *label) except? NULL:
        """A step's target as C reads it, if it is ready; NULL if not. `ndim`: as the outputs have it, -1 if either will do."""
        cdef Py_ssize_t outputs = self.network.output_size
        if self.elementwise:
            if self.fits(target, self.network.dtype.num, outputs) and (ndim < 0 or cnp.PyArray_NDIM(<cnp.ndarray>target) == ndim):
                return data(target)
            return NULL
        if not self.classes:
            return NULL
        if type(target) is int and self.lanes == 1:
            label[0] = target if -1 <= target < outputs else -2
            return label if label[0] >= -1 else NULL
        if type(target) is not np_ndarray or cnp.PyArray_TYPE(<cnp.ndarray>target) != cnp.NPY_INT64:
            return NULL
        cdef cnp.ndarray a = <cnp.ndarray>target
        if not cnp.PyArray_ISCARRAY_RO(a) or cnp.PyArray_NDIM(a) != 1 or cnp.PyArray_DIM(a, 0) != self.lanes:
            return NULL
        cdef const int64_t *classes = <const int64_t *>cnp.PyArray_DATA(a)
        for b in range(self.lanes):
            if not -1 <= classes[b] < outputs:
                return NULL
        return <void *>classes

    cdef cnp.ndarray outputs(self, int ndim):
        cdef cnp.npy_intp shape[2]
        shape[0] = self.lanes
        shape[ndim - 1] = self.network.output_size
        return self.given.take(ndim, shape, self.network.dtype.num)

    def step(self, x, target):
        """One step for arguments that are ready for C as they are; None for any others."""
        cdef Py_ssize_t done = 0
        cdef int64_t label = 0
        cdef fastlstm_status status
        cdef void *ct = NULL
        if not self.fits(x, self.network.dtype.num, self.network.input_size):
            return None
        cdef int ndim = cnp.PyArray_NDIM(<cnp.ndarray>x)
        if target is not None:
            ct = self.ready(target, ndim, &label)
            if ct == NULL:
                return None
        cdef cnp.ndarray y = self.outputs(ndim)
        cdef void *cx = data(x)
        cdef void *cy = data(y)
        self.take()
        self.loss_sum[0], self.loss_steps[0] = 0, 0
        with nogil:
            status = self.c_run(1, cx, ct, NULL, cy, &done, NULL, NULL)
        self.give()
        check(status)
        return y

    def predict(self, x):
        """The first half of a step for x (lanes, I), or (I,) for one lane, that is ready for C; None for any other."""
        if not self.fits(x, self.network.dtype.num, self.network.input_size):
            return None
        y = self.outputs(cnp.PyArray_NDIM(<cnp.ndarray>x))
        self.forward(x, y)
        return y

    def learn_ready(self, target):
        """The second half for a target that is ready for C; False for any other."""
        cdef int64_t label = 0
        if not self.open or target is None:
            return False
        cdef void *ct = self.ready(target, -1, &label)
        if ct == NULL:
            return False
        self.loss_sum[0], self.loss_steps[0] = 0, 0
        self.finish(True, ct)
        return True

    def run(self, x, targets, reset, y):
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
        self.loss_sum[0], self.loss_steps[0] = 0, 0
        with nogil:
            status = self.c_run(steps, cx, ct, cr, cy, &done, poll, holder)
        self.give()
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)

    def follow(self, x, targets, reset, starts, double tolerance, y, followed):
        """As `run` for one lane, in streams that end with their first wrong prediction -> y, followed."""
        cdef list raised = []
        cdef fastlstm_status status
        cdef void *holder = <void *>raised
        cdef fastlstm_streams streams
        streams.steps, streams.tolerance = x.shape[0], tolerance
        streams.x, streams.targets, streams.y = data(x), data(targets), data(y)
        streams.reset, streams.starts = <const uint8_t *>data(reset), <const uint8_t *>data(starts)
        streams.followed = <uint8_t *>data(followed)
        self.take()
        self.loss_sum[0], self.loss_steps[0] = 0, 0
        with nogil:
            status = self.c_follow(&streams, poll, holder)
        self.give()
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)

    def forward(self, x, y):
        """The first half of a step, x (lanes, I) -> y."""
        cdef fastlstm_status status
        cdef void *cx = data(x)
        cdef void *cy = data(y)
        self.take()
        with nogil:
            status = self.c_forward(cx, cy)
        self.open = status == FASTLSTM_OK
        self.give()
        check(status)

    cdef int finish(self, bint named, void *errors) except -1:
        cdef fastlstm_status status
        if self.busy:
            self.idle()
        self.pull()
        self.busy = True
        self.open = False
        with nogil:
            status = self.c_learn(errors) if named else self.c_backward(errors)
        self.give()
        check(status)
        return 0

    def backward(self, dy):
        """The second half, of a loss computed elsewhere: dy (lanes, O) or None."""
        self.finish(False, data(dy))

    def learn(self, targets):
        """The second half, of the learner's own loss."""
        self.loss_sum[0], self.loss_steps[0] = 0, 0
        self.finish(True, data(targets))

    def undo(self, before):
        """Forget the first half of a step; `before`: the state before it."""
        self.open = False
        self.flat_state[:] = before

    def reset(self, mask):
        self.take()
        cdef fastlstm_status status = self.c_reset(<const uint8_t *>data(mask))
        self.give()
        check(status)

    def apply(self):
        self.take()
        cdef fastlstm_status status = self.c_apply()
        self.give()
        check(status)

    def close(self):
        """A step that waits for its error gets none."""
        if self.open:
            self.take()
            self.give()

    cdef int settle(self) except -1:
        """Have nothing left to do for the steps so far."""
        raise NotImplementedError

    def set_state(self, flat):
        """A new state, without a past."""
        self.settle()
        self.flat_state[:] = flat
        self.traces[:] = 0


cdef class StepLearner(Learner):
    """Truncated RTRL with an update at every step, in one pass over weights and traces (csrc/learn.h).

    The packed weights and velocity are the truth between `pull` and `write_back`."""
    cdef object velocity
    cdef fastlstm_learner c
    cdef bint dirty

    def __init__(self, Network network, Parameters parameters, int loss, optimizer, Py_ssize_t lanes, lazy=None):
        cdef Py_ssize_t traces = fastlstm_trace_size(network.engine, network.layers, network.n_layers, lanes)
        cdef Py_ssize_t scratch = fastlstm_learner_scratch_size(network.engine, network.layers, network.n_layers, lanes)
        if traces < 0 or scratch < 0:
            raise ValueError(f"the traces of {lanes} lanes do not fit into memory")
        super().__init__(network, parameters, loss, optimizer, lanes)
        self.traces = aligned(traces + 1, network.dtype)
        self.scratch = aligned(scratch, network.dtype)
        if optimizer.momentum:
            self.velocity = aligned(network.n_packed, network.dtype)
        self.c.engine, self.c.layers, self.c.n_layers, self.c.lanes = network.engine, network.layers, network.n_layers, lanes
        self.c.weights, self.c.velocity, self.c.scratch = data(self.weights), data(self.velocity), data(self.scratch)
        self.c.traces, self.c.state = data(self.traces), data(self.flat_state)
        self.c.loss, self.c.update, self.c.chunk = loss, 1, 1
        self.c.lazy = fastlstm_learner_lazy(network.engine, network.layers, network.n_layers, lanes) if lazy is None else lazy
        self.loss_sum, self.loss_steps = &self.c.loss_sum, &self.c.loss_steps

    cdef int pull(self) except -1:
        if self.parameters.root().version != self.version:
            check(fastlstm_learner_settle(&self.c))  # traces, of steps made with the weights of then
            flat = np.ascontiguousarray(self.parameters.fetch())
            check(fastlstm_pack(self.network.engine, self.network.layers, self.network.n_layers, data(flat), data(self.weights)))
            if self.velocity is not None:  # whoever moved the weights may have moved it too
                flat = np.ascontiguousarray(self.optimizer.velocity_of(self.parameters))
                check(fastlstm_pack(self.network.engine, self.network.layers, self.network.n_layers, data(flat), data(self.velocity)))
            self.version = self.parameters.root().version
        self.c.lr, self.c.momentum, self.c.decay = self.optimizer.lr, self.optimizer.momentum, self.optimizer.decay
        return 0

    cdef int push(self) except -1:
        cdef Parameters root = self.parameters.root()
        if self.c.decay != 1:
            self.optimizer.lr = self.c.lr
        root.version += 1
        self.version = root.version
        if not self.dirty:
            self.dirty = True
            root.owners.append(self)
        return 0

    cdef fastlstm_status c_run(self, Py_ssize_t steps, void *x, void *targets, const uint8_t *reset, void *y, Py_ssize_t *done,
                               fastlstm_poll poll, void *context) noexcept nogil:
        return fastlstm_learner_run(&self.c, steps, x, targets, reset, y, done, poll, context)

    cdef fastlstm_status c_follow(self, const fastlstm_streams *streams, fastlstm_poll poll, void *context) noexcept nogil:
        return fastlstm_learner_follow(&self.c, streams, poll, context)

    cdef fastlstm_status c_forward(self, void *x, void *y) noexcept nogil:
        return fastlstm_learner_forward(&self.c, x, y)

    cdef fastlstm_status c_backward(self, void *dy) noexcept nogil:
        return fastlstm_learner_backward(&self.c, dy)

    cdef fastlstm_status c_learn(self, void *targets) noexcept nogil:
        return fastlstm_learner_learn(&self.c, targets)

    cdef fastlstm_status c_reset(self, const uint8_t *mask) noexcept nogil:
        return fastlstm_learner_reset(&self.c, mask)

    cdef fastlstm_status c_apply(self) noexcept nogil:
        return fastlstm_learner_apply(&self.c)

    cdef int settle(self) except -1:
        self.close()
        check(fastlstm_learner_settle(&self.c))
        return 0

    def write_back(self):
        """Write weights and velocity to the flat arrays they came from (called by Parameters.fetch)."""
        arrays = [a for a in (self.weights, self.velocity, self.traces, self.scratch) if a is not None and self.c.lazy]
        before = [np.array(a) for a in arrays]  # looking changes no bit: what was put off stays so
        check(fastlstm_learner_settle(&self.c))
        cdef object flat = self.parameters.part(self.parameters.root()._data)
        check(fastlstm_unpack(self.network.engine, self.network.layers, self.network.n_layers, data(self.weights), data(flat)))
        if self.velocity is not None:
            flat = self.optimizer.velocity_of(self.parameters)
            check(fastlstm_unpack(self.network.engine, self.network.layers, self.network.n_layers, data(self.velocity), data(flat)))
        for a, old in zip(arrays, before):
            a[:] = old
        self.dirty = False

    @property
    def lazy(self):
        """Whether updates are put off (csrc/lazy.h)."""
        return bool(self.c.lazy)

    def gradients(self):
        """The gradient gathered since the last update, as a flat array in the parameters' order: there is none."""
        return np.zeros(self.network.n_params, self.network.dtype)

    def zero_gradient(self):
        pass

    def memory(self):
        """Everything but the network, the weights and the optimizer, in a form that no instruction set shapes."""
        self.close()
        check(fastlstm_learner_settle(&self.c))
        cdef Py_ssize_t size = fastlstm_trace_canonical_size(self.network.layers, self.network.n_layers, self.lanes)
        traces = np.zeros(size, self.network.dtype)
        check(fastlstm_trace_convert(self.network.engine, self.network.layers, self.network.n_layers, self.lanes, data(self.traces), data(traces), 1))
        return {"state": np.array(self.flat_state), "traces": traces, "loss": (self.c.loss_sum, self.c.loss_steps)}

    def set_memory(self, memory):
        traces = memory["traces"]
        self.settle()
        check(fastlstm_trace_convert(self.network.engine, self.network.layers, self.network.n_layers, self.lanes, data(self.traces), data(traces), 0))
        self.flat_state[:] = memory["state"]
        self.c.loss_sum, self.c.loss_steps = memory["loss"]

    def nbytes(self):
        """Bytes that this learner holds, all taken when it is made."""
        arrays = (self.weights, self.velocity, self.traces, self.flat_state, self.scratch)
        return sum(a.nbytes for a in arrays if a is not None)
