# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, nonecheck=True
"""The boundary between Python and C: arguments checked, the GIL released, the engine called. Nothing clever.

Nothing here loops over elements or time steps, and nothing here knows how layers are named or stacked: a network
is a list of dicts with the fields of `fastlstm_layer` (include/fastlstm.h). Docstrings for users are in the Python modules.
"""
import os
from _thread import RLock

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastlstm._checks import as_array, as_output

cnp.import_array()


cdef extern from "fastlstm.h" nogil:
    ctypedef enum fastlstm_status:
        FASTLSTM_OK
        FASTLSTM_INTERRUPTED
        FASTLSTM_TOO_LARGE
    ctypedef struct fastlstm_engine:
        pass
    ctypedef struct fastlstm_activation:
        int32_t kind
        double alpha, beta
    ctypedef struct fastlstm_layer:
        int32_t kind, gates, peepholes, gate_recurrence, reverse, reset_after, weights, stream
        fastlstm_activation gate_activation, input_activation, output_activation
        double clip, dropout, recurrent_dropout, zoneout_h, zoneout_c
        Py_ssize_t input_size, hidden_size, block_size, proj_size
        Py_ssize_t weight_ih, weight_hh, weight_gh, weight_hr, bias_ih, bias_hh, weight_peephole
        Py_ssize_t state_h, state_c, state_a
    ctypedef struct fastlstm_batch:
        Py_ssize_t steps, lanes
        const void *x
        const void *const *xs
        Py_ssize_t x_step, x_lane
        void *y
        Py_ssize_t y_step, y_lane
        const int64_t *lengths
        const int64_t *starts
        const uint8_t *reset
        void *state
        uint64_t seed
        Py_ssize_t first_step
    ctypedef int (*fastlstm_poll)(void *) noexcept nogil
    const char *fastlstm_status_string(fastlstm_status)
    const char *fastlstm_isa_name(int)
    const fastlstm_engine *fastlstm_engine_select(const char *, int)
    const char *fastlstm_engine_isa(const fastlstm_engine *)
    fastlstm_status fastlstm_net_check(const fastlstm_layer *, Py_ssize_t)
    Py_ssize_t fastlstm_params_size(const fastlstm_layer *, Py_ssize_t)
    Py_ssize_t fastlstm_state_size(const fastlstm_layer *, Py_ssize_t, Py_ssize_t)
    Py_ssize_t fastlstm_packed_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t)
    fastlstm_status fastlstm_pack(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *, void *)
    fastlstm_status fastlstm_unpack(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *, void *)
    int fastlstm_divide(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t, int, int *)
    Py_ssize_t fastlstm_parallel_scratch_size(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                                              int, int)
    fastlstm_status fastlstm_forward_parallel(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *,
                                              const fastlstm_batch *, void *, int, int, fastlstm_poll, void *)
    void fastlstm_threads_release()
    fastlstm_status fastlstm_prepare(const fastlstm_engine *, const fastlstm_layer *, Py_ssize_t, const void *, Py_ssize_t,
                                     Py_ssize_t, void *)
    fastlstm_status fastlstm_run(void *, const fastlstm_batch *, fastlstm_poll, void *)


# ---- Module init: one instruction set for the life of the process -------------------------------------------------

def isa_names():
    """Instruction sets of this build that this processor has, best first."""
    names, i = [], 0
    while fastlstm_isa_name(i) != NULL:
        names.append(fastlstm_isa_name(i).decode())
        i += 1
    return names


cdef const fastlstm_engine *engines[2]


def select_isa(isa):
    """Use `isa` from now on (None: the best); objects made before keep theirs. Returns the name."""
    names = isa_names()
    if isa is None:
        isa = names[0]
    if isa not in names:
        raise ValueError(f"FASTLSTM_ISA is {isa!r}; this build on this processor has {', '.join(names)}")
    name = isa.encode()
    engines[0] = fastlstm_engine_select(name, 32)
    engines[1] = fastlstm_engine_select(name, 64)
    return isa


select_isa(os.environ.get("FASTLSTM_ISA") or None)


def selected_isa():
    """Name of the instruction set in use."""
    return fastlstm_engine_isa(engines[0]).decode()


cdef const fastlstm_engine *engine_of(dtype):
    return engines[0] if dtype == np.float32 else engines[1]


# ---- Threads: one, unless the user says otherwise ---------------------------------------------------------------------

cdef int num_threads = 1
cdef bint has_pool = False  # idle threads may exist


def set_num_threads(n):
    """Threads for calls with several lanes, from now on; docstring for users in _info.py."""
    global num_threads
    num_threads = n


def get_num_threads():
    return num_threads


def before_fork():
    """Idle threads do not survive a fork."""
    global has_pool
    if has_pool:
        fastlstm_threads_release()
    has_pool = False


# ---- Checks and status ----------------------------------------------------------------------------------------------

cdef int check(fastlstm_status status) except -1:
    if status != FASTLSTM_OK:
        if status == FASTLSTM_TOO_LARGE:
            raise ValueError(fastlstm_status_string(status).decode())
        raise RuntimeError(f"fastlstm engine: {fastlstm_status_string(status).decode()}")
    return 0


cdef int poll(void *holder) noexcept nogil:
    """Answer Ctrl-C inside a long call: run pending signal handlers, keep what they raise."""
    with gil:
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            (<list>holder).append(error)
            return 1
    return 0


cdef inline void *data(object a) noexcept:
    return NULL if a is None else cnp.PyArray_DATA(<cnp.ndarray>a)


include "_core_memory.pxi"


# ---- Parameters: one flat array, and whoever has newer values of it -----------------------------------------------------

cdef class Parameters:
    """The flat parameter and gradient arrays of a layer, or a slice of those of the network it is part of.

    A learner works on packed weights. While they are newer than the flat array it stands in `owners`: readers ask it
    to write them back first (`fetch`). `version` counts changes, so that packed copies know their age.
    """
    cdef readonly Parameters parent
    cdef readonly Py_ssize_t offset, size
    cdef object _data, _grad
    cdef bint blank  # the gradient is zero, whatever its array holds
    cdef object adding, pid  # a root's lock while a thread adds to the gradient, and whose it is
    cdef public long long version
    cdef public list owners

    def __init__(self, array):
        self.size = array.shape[0]
        self._data = aligned(self.size, array.dtype)  # vectors that do not cross cache lines
        self._data[:] = array
        self.owners = []
        self.adding, self.pid = RLock(), os.getpid()

    cdef Parameters root(self):
        cdef Parameters p = self
        while p.parent is not None:
            p = p.parent
        return p

    cdef object part(self, object array):
        cdef Parameters p = self
        cdef Py_ssize_t at = 0
        while p.parent is not None:
            at += p.offset
            p = p.parent
        return array[at:at + self.size]

    def attach(self, Parameters parent, Py_ssize_t offset):
        """Become elements [offset, offset + size) of `parent`, which has copies of the values."""
        cdef Parameters root = parent.root()
        root.version = max(root.version, self.version) + 1  # no copy made before may look new
        self.parent, self.offset = parent, offset
        self._data = self._grad = None

    def fetch(self):
        """The flat array with its newest values."""
        cdef Parameters root = self.root()
        for owner in root.owners:
            owner.write_back()
        root.owners.clear()
        return self.part(root._data)

    def changed(self):
        """To be called after writing to what `fetch` gave."""
        cdef Parameters root = self.root()
        root.version += 1

    def age(self):
        return self.root().version

    def grad(self):
        cdef Parameters root = self.root()
        if root._grad is None:
            root._grad = aligned(root.size, root._data.dtype)
        elif root.blank:
            root._grad[:] = 0
        root.blank = False
        return self.part(root._grad)

    def zero_grad(self):
        """Nothing is written if nobody else has the array: who reads it next, or adds to it, knows."""
        cdef Parameters root = self.root()
        if root._grad is None:
            return
        cdef void *grad = <void *>root._grad
        if root is self and fl_is_alone(grad) and fl_is_alone(<void *>cnp.PyArray_BASE(<cnp.ndarray>grad)):
            root.blank = True
        else:
            self.grad()[:] = 0

    def add_grad(self, tape, dy, dx, dstate, bint need_dstate, bint polled):
        """Add a tape's gradient; if it is interrupted, nothing."""
        cdef Parameters root = self.root()
        if root.adding.acquire(False):
            try:
                self.add_at_once(tape, dy, dx, dstate, need_dstate, polled)
            finally:
                root.adding.release()
            return
        if root.pid != os.getpid():  # a thread that this process never had
            root.adding, root.pid = RLock(), os.getpid()
        gradient = tape.backward(dy, dx, dstate, need_dstate, None, False, polled)  # beside that of another thread
        with root.adding:
            grad = self.grad()
            grad += gradient

    cdef int add_at_once(self, tape, dy, dx, dstate, bint need_dstate, bint polled) except -1:
        cdef Parameters root = self.root()
        if root is self and (root.blank or root._grad is None):
            if root._grad is None:
                self.grad()
            root.blank = False
            try:
                tape.backward(dy, dx, dstate, need_dstate, root._grad, False, polled)
            except BaseException:
                root.blank = True
                raise
        elif polled:
            grad = self.grad()
            grad += tape.backward(dy, dx, dstate, need_dstate, None, False, polled)
        else:
            tape.backward(dy, dx, dstate, need_dstate, self.grad(), True, polled)
        return 0


# ---- Networks ------------------------------------------------------------------------------------------------------

cdef fastlstm_activation activation_of(object constants) except *:
    cdef fastlstm_activation a
    a.kind, a.alpha, a.beta = constants
    return a


cdef struct Room:
    Py_ssize_t steps, lanes  # of a call, if steps > 0,
    int allowed              # and the threads it was allowed;
    int threads, by_units    # how it is divided among them, and
    Py_ssize_t scratch, tape # the elements it takes


cdef inline bint same_call(const Room *room, Py_ssize_t steps, Py_ssize_t lanes, int allowed) noexcept:
    return steps > 0 and room.steps == steps and room.lanes == lanes and room.allowed == allowed


cdef Py_ssize_t width_of(const fastlstm_layer *l):
    return l.proj_size if l.proj_size else l.hidden_size


cdef class Network:
    """A checked array of `fastlstm_layer`, and the engine for its dtype."""
    cdef const fastlstm_engine *engine
    cdef fastlstm_layer *layers
    cdef readonly Py_ssize_t n_layers, input_size, output_size, n_params, n_state, n_packed
    cdef readonly cnp.dtype dtype
    cdef readonly list specs
    cdef object storage
    cdef bint compact
    cdef Pool pool
    cdef Room calls, training  # of the last call of its kind; most calls are like the one before

    def __init__(self, list specs, dtype):
        cdef fastlstm_layer *l
        self.specs = specs
        self.compact = any([spec.get("weights") for spec in specs])
        self.pool = Pool()
        self.dtype = np.dtype(dtype)
        self.engine = engine_of(self.dtype)
        self.n_layers = len(specs)
        self.storage = np.zeros(self.n_layers * sizeof(fastlstm_layer), np.uint8)
        self.layers = <fastlstm_layer *>data(self.storage)
        for i, spec in enumerate(specs):
            l = &self.layers[i]
            l.kind, l.gates, l.peepholes, l.gate_recurrence, l.reverse, l.reset_after = (
                spec["kind"], spec["gates"], spec["peepholes"], spec["gate_recurrence"], spec["reverse"], spec["reset_after"])
            l.gate_activation = activation_of(spec["gate_activation"])
            l.input_activation = activation_of(spec["input_activation"])
            l.output_activation = activation_of(spec["output_activation"])
            l.weights = spec.get("weights", 0)
            l.clip = INFINITY if spec["clip"] is None else spec["clip"]
            l.stream, l.dropout, l.recurrent_dropout = spec["stream"], spec["dropout"], spec["recurrent_dropout"]
            l.zoneout_h, l.zoneout_c = spec["zoneout_h"], spec["zoneout_c"]
            l.input_size, l.hidden_size, l.block_size, l.proj_size = (
                spec["input_size"], spec["hidden_size"], spec["block_size"], spec["proj_size"])
            l.weight_ih, l.weight_hh, l.weight_gh, l.weight_hr = (
                spec["weight_ih"], spec["weight_hh"], spec["weight_gh"], spec["weight_hr"])
            l.bias_ih, l.bias_hh, l.weight_peephole = spec["bias_ih"], spec["bias_hh"], spec["weight_peephole"]
            l.state_h, l.state_c, l.state_a = spec["state_h"], spec["state_c"], spec["state_a"]
        check(fastlstm_net_check(self.layers, self.n_layers))
        self.n_params = fastlstm_params_size(self.layers, self.n_layers)
        self.n_state = fastlstm_state_size(self.layers, self.n_layers, 1)
        self.n_packed = fastlstm_packed_size(self.engine, self.layers, self.n_layers)
        self.input_size = self.layers[0].input_size
        l = &self.layers[self.n_layers - 1]
        self.output_size = width_of(l) + (width_of(l - 1) if l.reverse else 0)

    def __reduce__(self):
        return Network, (self.specs, self.dtype)

    def pack(self, params):
        # Compact segments have gaps between them, which nobody writes.
        packed = aligned(self.n_packed, self.dtype) if self.compact else self.pool.take(WEIGHTS, self.n_packed, self.dtype)
        check(fastlstm_pack(self.engine, self.layers, self.n_layers, data(params), data(packed)))
        return packed

    def unpack(self, packed, params):
        check(fastlstm_unpack(self.engine, self.layers, self.n_layers, data(packed), data(params)))

    def new_state(self, Py_ssize_t lanes):
        cdef Py_ssize_t size = fastlstm_state_size(self.layers, self.n_layers, lanes)
        if size < 0:
            raise ValueError(f"{lanes} lanes do not fit into memory")
        return aligned(size, self.dtype)

    cdef Py_ssize_t scratch_size(self, Py_ssize_t steps, Py_ssize_t lanes, int threads, int by_units) except -1:
        cdef Py_ssize_t size = fastlstm_parallel_scratch_size(self.engine, self.layers, self.n_layers, steps, lanes, threads, by_units)
        if size < 0:
            raise ValueError(f"{steps} steps of {lanes} lanes do not fit into memory")
        return size

    def new_scratch(self, Py_ssize_t steps, Py_ssize_t lanes):
        return aligned(self.scratch_size(steps, lanes, 1, 0), self.dtype)

    def ready(self, x):
        """Dimensions of x if it is (T, I), (T, B, I) or (B, T, I) just as C reads it; 0 if not."""
        if type(x) is not np_ndarray:
            return 0
        cdef cnp.ndarray a = <cnp.ndarray>x
        cdef int ndim = cnp.PyArray_NDIM(a)
        if cnp.PyArray_TYPE(a) != self.dtype.num or not cnp.PyArray_ISCARRAY_RO(a) or not 2 <= ndim <= 3:
            return 0
        return ndim if cnp.PyArray_DIM(a, ndim - 1) == self.input_size and cnp.PyArray_SIZE(a) > 0 else 0

    def new_output(self, cnp.ndarray x):
        """An array like x, but for its last dimension."""
        cdef cnp.npy_intp sizes[3]
        cdef int last = cnp.PyArray_NDIM(x) - 1
        sizes[0], sizes[last - 1], sizes[last] = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, last - 1), self.output_size
        return cnp.PyArray_EMPTY(last + 1, sizes, self.dtype.num, 0)

    cdef int divide(self, Py_ssize_t steps, Py_ssize_t lanes) except -1:
        """How a call is divided among threads, and its scratch."""
        cdef Room *room = &self.calls
        if same_call(room, steps, lanes, num_threads):
            return 0
        room.steps = 0
        room.threads = fastlstm_divide(self.engine, self.layers, self.n_layers, steps, lanes, num_threads, &room.by_units)
        room.scratch = self.scratch_size(steps, lanes, room.threads, room.by_units)
        room.steps, room.lanes, room.allowed = steps, lanes, num_threads
        return 0

    def forward(self, packed, cnp.ndarray x not None, y, state, lengths=None, reset=None, bint batch_first=False):
        """Run x (T, B, I) into y (T, B, O), both (B, T, .) with batch_first; `state` is read and written."""
        cdef Py_ssize_t first = cnp.PyArray_DIM(x, 0), second = cnp.PyArray_DIM(x, 1)
        cdef Py_ssize_t steps = second if batch_first else first, lanes = first if batch_first else second
        self.run(packed, data(x), data(y), state, steps, lanes, lengths, reset, batch_first, None)

    def forward_list(self, packed, list sequences, state, cnp.ndarray lengths not None, cnp.ndarray starts not None, reset=None):
        """Run sequences, each (T_b, I) as C reads it, where they lie; y (rows, O), where their outputs begin at rows `starts`."""
        cdef cnp.npy_intp sizes[2]
        cdef cnp.npy_intp lanes = len(sequences), b
        cdef cnp.ndarray places = cnp.PyArray_EMPTY(1, &lanes, cnp.NPY_INTP, 0)
        cdef void **xs = <void **>data(places)
        for b in range(lanes):
            xs[b] = data(sequences[b])
        sizes[0], sizes[1] = starts[lanes - 1] + lengths[lanes - 1], self.output_size
        y = cnp.PyArray_EMPTY(2, sizes, self.dtype.num, 0)
        self.run(packed, xs, data(y), state, lengths.max(), lanes, lengths, reset, False, starts)
        return y

    def call(self, packed, x, bint batch_first, list recurrent):
        """Most calls, from zeros and without lengths or resets: y, and the parts of the state; None if x is not `ready`."""
        cdef int ndim = self.ready(x)
        if ndim == 0:
            return None
        cdef cnp.ndarray y = self.new_output(<cnp.ndarray>x)
        cdef bint swapped = batch_first and ndim == 3
        cdef Py_ssize_t first = cnp.PyArray_DIM(y, 0), second = cnp.PyArray_DIM(y, 1) if ndim == 3 else 1
        cdef Py_ssize_t steps = second if swapped else first, lanes = first if swapped else second
        state = self.new_state(lanes)
        self.run(packed, data(x), data(y), state, steps, lanes, None, None, swapped, None)
        return y, parts_of(state, lanes, recurrent)

    cdef int run(self, packed, void *x, void *y, state, Py_ssize_t steps, Py_ssize_t lanes, lengths, reset, bint batch_first,
                 starts) except -1:
        """With `starts`, x is an array of pointers: batch.xs."""
        cdef fastlstm_batch batch
        cdef fastlstm_status status
        cdef list raised = []
        self.divide(steps, lanes)
        cdef int threads = self.calls.threads, by_units = self.calls.by_units
        global has_pool
        has_pool |= threads > 1
        scratch = self.pool.take(SCRATCH, self.calls.scratch, self.dtype)
        batch.steps, batch.lanes = steps, lanes
        batch.x, batch.xs, batch.y, batch.state = x, NULL, y, data(state)
        batch.x_step, batch.x_lane = self.input_size * lanes, self.input_size
        batch.y_step, batch.y_lane = self.output_size * lanes, self.output_size
        if batch_first:
            batch.x_step, batch.x_lane = self.input_size, self.input_size * steps
            batch.y_step, batch.y_lane = self.output_size, self.output_size * steps
        if starts is not None:
            batch.x, batch.xs, batch.x_step = NULL, <const void *const *>x, self.input_size
            batch.y_step = batch.y_lane = self.output_size
        batch.lengths, batch.starts = <const int64_t *>data(lengths), <const int64_t *>data(starts)
        batch.reset = <const uint8_t *>data(reset)
        cdef void *weights = data(packed)
        cdef void *work = data(scratch)
        cdef void *holder = <void *>raised
        with nogil:
            status = fastlstm_forward_parallel(self.engine, self.layers, self.n_layers, weights, &batch, work, threads, by_units,
                                               poll, holder)
        if status == FASTLSTM_INTERRUPTED:
            raise raised[0]
        check(status)
        return 0


include "_core_tape.pxi"


# ---- Streams -----------------------------------------------------------------------------------------------------------

cdef enum:
    RUN_STEPS = 64  # steps that pass through a stack together in `run`; the scratch is made for them once
    SMALL_WORK = 30000  # multiply-adds below which giving the GIL away costs more than the work itself


cdef class Stream:
    """Base of fastlstm.Stream (docstrings there): a network's packed weights and a running state."""
    cdef readonly Network network
    cdef readonly Py_ssize_t lanes
    cdef readonly object packed, flat_state
    cdef object scratch, y
    cdef Outputs outputs
    cdef fastlstm_batch batch
    cdef bint busy, small
    cdef int typenum

    def __init__(self, Network network, packed, Py_ssize_t lanes):
        self.network, self.lanes = network, lanes
        self.flat_state = network.new_state(lanes)
        self.scratch = network.new_scratch(RUN_STEPS, lanes)
        self._use(packed)
        self.outputs = Outputs()
        self.y = aligned(lanes * network.output_size, network.dtype)
        self.typenum = network.dtype.num
        self.small = network.n_packed * lanes < SMALL_WORK
        self.batch.steps, self.batch.lanes = 1, lanes
        self.batch.x_step, self.batch.x_lane = lanes * network.input_size, network.input_size
        self.batch.y_step, self.batch.y_lane = lanes * network.output_size, network.output_size
        self.batch.lengths = self.batch.starts = NULL
        self.batch.xs = NULL
        self.batch.reset = NULL
        self.batch.state = data(self.flat_state)
        self.batch.y = data(self.y)

    def _idle(self):
        """Raise if a thread is in the middle of a step."""
        if self.busy:
            raise RuntimeError("this stream is in use by another thread; give each thread its own (stream.copy())")

    cdef int begin(self) except -1:
        if self.busy:
            self._idle()
        self.busy = True
        return 0

    def _use(self, packed):
        self._idle()
        check(fastlstm_prepare(self.network.engine, self.network.layers, self.network.n_layers, data(packed), RUN_STEPS, self.lanes,
                               data(self.scratch)))
        self.packed = packed

    cdef bint fits(self, cnp.ndarray a):
        """Whether `a` is one step's array, ready for C: (I,) or (lanes, I)."""
        return (cnp.PyArray_TYPE(a) == self.typenum and cnp.PyArray_ISCARRAY_RO(a)
                and cnp.PyArray_DIM(a, cnp.PyArray_NDIM(a) - 1) == self.network.input_size
                and (cnp.PyArray_NDIM(a) == 2 and cnp.PyArray_DIM(a, 0) == self.lanes or cnp.PyArray_NDIM(a) == 1 and self.lanes == 1))

    def step(self, x, out=None):
        cdef cnp.ndarray a, y
        cdef cnp.npy_intp shape[2]
        cdef int ndim
        cdef fastlstm_status status
        if type(x) is not np_ndarray or cnp.PyArray_NDIM(<cnp.ndarray>x) == 0 or not self.fits(<cnp.ndarray>x):
            x = as_array(x, "x", self.network.dtype)
            if not (x.ndim and self.fits(x)):
                want = f"({self.lanes}, {self.network.input_size})" + (f" or ({self.network.input_size},)" if self.lanes == 1 else "")
                raise ValueError(f"x has shape {x.shape} and must have {want}")
        a = <cnp.ndarray>x
        ndim = cnp.PyArray_NDIM(a)
        shape[0] = self.lanes
        shape[ndim - 1] = self.network.output_size
        if out is None:
            y = self.outputs.take(ndim, shape, self.typenum)
        elif (type(out) is np_ndarray and cnp.PyArray_NDIM(<cnp.ndarray>out) == ndim and cnp.PyArray_TYPE(<cnp.ndarray>out) == self.typenum
              and cnp.PyArray_ISCARRAY(<cnp.ndarray>out) and cnp.PyArray_DIM(<cnp.ndarray>out, 0) == shape[0]
              and cnp.PyArray_DIM(<cnp.ndarray>out, ndim - 1) == shape[ndim - 1]):
            y = <cnp.ndarray>out
        else:
            y = as_output(out, "out", self.network.dtype, tuple([shape[k] for k in range(ndim)]))
        self.begin()
        self.batch.x = cnp.PyArray_DATA(a)
        cdef void *scratch = data(self.scratch)
        if self.small:
            status = fastlstm_run(scratch, &self.batch, NULL, NULL)
        else:
            with nogil:
                status = fastlstm_run(scratch, &self.batch, NULL, NULL)
        memcpy(cnp.PyArray_DATA(y), self.batch.y, cnp.PyArray_NBYTES(y))
        self.busy = False
        check(status)
        return y

    def _run(self, x, y):
        """x (T, lanes, I) -> y; a run that raises leaves the state as it was before."""
        cdef fastlstm_batch batch = self.batch
        cdef fastlstm_status status
        cdef list raised = []
        cdef void *holder = <void *>raised
        cdef void *scratch = data(self.scratch)
        cdef Py_ssize_t steps = x.shape[0]
        before = self.flat_state.copy()
        batch.steps, batch.x, batch.y = steps, data(x), data(y)
        self.begin()
        try:
            if num_threads > 1:
                self.network.forward(self.packed, x, y, self.flat_state)
                return
            with nogil:
                status = fastlstm_run(scratch, &batch, poll, holder)
            if status == FASTLSTM_INTERRUPTED:
                raise raised[0]
            check(status)
        except BaseException:
            self.flat_state[:] = before
            raise
        finally:
            self.busy = False


cdef object np_ndarray = np.ndarray


include "_core_train.pxi"
include "_core_learner.pxi"
include "_core_chunk.pxi"
include "_core_coder.pxi"
