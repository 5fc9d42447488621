"""What layers and networks have in common: parameters by name, calls, gradients, streams, copies."""

import math
from functools import partial

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_anything, as_choice, as_flag, as_input, as_mask, as_size, listed, ndim_of, shown
from fastlstm._stream import Stream

# Stored weights: format and largest element.
COMPACT = {"int16": (3, 2.0**126), "int8": (2, 2.0**126), "float16": (1, 65504.0)}
MOST_INT8_SOURCES = 2**17
BRIEF = 2**28  # multiply-adds forward, some hundredths of a second back: Ctrl-C waits, sums go straight into `grad`


class State(tuple):
    """(h, c) of a recurrent layer whose net inputs also read the gate activations of the step before.

    A plain pair to everyone; `gates` (L*D, B, A) makes it complete, so that a sequence may be continued exactly.
    Given back as a plain tuple, the gate activations start from zero.
    """

    def __new__(cls, items, gates):
        self = super().__new__(cls, items)
        self.gates = gates
        return self

    def __getnewargs__(self):
        return tuple(self), self.gates


def _entries(parts):
    """Of the parts of each recurrent layer's state what users see."""
    return [State((p["h"], p["c"]), p["a"]) if "a" in p else (p["h"], p["c"]) if "c" in p else p["h"] for p in parts]


class _Spans:
    """A tape in spans of steps: kept are the states between them, and a span is run again when errors come back to it.

    (Chen et al. 2016.) All spans but the first have `length` steps, so that sums over steps are those of one call.
    """

    def __init__(self, network, packed, x, state, lengths, reset, batch_first, seed, length):
        self.steps, self.batch_first = x.shape[1 if batch_first else 0], batch_first
        last = self.steps if lengths is None else int(lengths.max())
        self.spans = [(max(end - length, 0), end) for end in range(last, 0, -length)]  # the last one first
        self.network, self.lengths, self.reset = network, lengths, reset
        self.new_tape = lambda state, lengths, reset, begin, end: _core.Tape(
            network, packed, x, state, lengths, reset, batch_first, seed, begin, end - begin
        )
        self.states, self.tape = {}, None

    def _open(self, begin, end):
        lengths = None if self.lengths is None else np.clip(self.lengths - begin, 0, end - begin)
        reset = None if self.reset is None else self.reset[begin:end]
        return self.new_tape(self.states[begin], lengths, reset, begin, end)

    def _clear(self, array):
        """What lies beyond the longest sequence."""
        end = self.spans[0][1]
        (array[:, end:] if self.batch_first else array[end:])[:] = 0

    def forward(self, y, state):
        self._clear(y)
        for begin, end in reversed(self.spans):
            self.tape = None  # its memory is the next one's
            self.states[begin] = state.copy()
            self.tape = self._open(begin, end)
            self.tape.forward(y, state)

    def backward(self, dy, dx, dstate, need_dstate, gradient, add, polled=True):
        if dx is not None:
            self._clear(dx)
        for begin, end in self.spans:
            tape, self.tape = self.tape, None
            if begin != self.spans[0][0]:
                shape = list(dy.shape)
                shape[1 if self.batch_first else 0] = end - begin
                tape = self._open(begin, end)
                tape.forward(np.empty(shape, dy.dtype), self.states[begin].copy(), polled)
            elif tape is None:
                raise RuntimeError("backward was called before: a forward call has one gradient")
            gradient = tape.backward(dy, dx, dstate, need_dstate or begin > 0, gradient, add, polled)
            tape, add = None, True
        return gradient


class Layer:
    """What layers and networks have in common: parameters by name, calls, streams, copies.

    A subclass sets `_specs` (dicts with the fields of the C struct `fastlstm_layer`; include/fastlstm.h says what
    they mean), `_shapes` (parameter name -> (offset, shape)), `_recurrent` (for each recurrent layer the sizes that
    its state arrays are made of), then calls `_finish`.
    """

    batch_first = False
    _draws = None  # the generator of dropout and zoneout, where a layer has any

    def _finish(self, dtype, values):
        self._network = _core.Network(self._specs, dtype)
        self._parameters = _core.Parameters(values)
        self._packed = (None, -1)

    # ---- parameters ----

    @property
    def dtype(self):
        """Element type of parameters, inputs and outputs, a `numpy.dtype`."""
        return self._network.dtype

    @property
    def parameters(self):
        """All parameters in one flat array, a read-only view of their newest values."""
        view = self._parameters.fetch().view()
        view.flags.writeable = False
        return view

    @property
    def grad(self):
        """All gradients in one flat writable array, in the order of `parameters`."""
        return self._parameters.grad()

    def gradients(self):
        """Gradients by parameter name: a dict of writable views into `grad`."""
        flat = self.grad
        return {name: flat[at : at + math.prod(shape)].reshape(shape) for name, (at, shape) in self._shapes.items()}

    def zero_grad(self):
        """Set all gradients to zero."""
        self._parameters.zero_grad()

    def _view(self, name):
        at, shape = self._shapes[name]
        return self._parameters.fetch()[at : at + math.prod(shape)].reshape(shape)

    def state_dict(self):
        """Parameter name -> copy of the array.

        >>> import fastlstm as fl
        >>> sorted(fl.Linear(3, 2, seed=0).state_dict())
        ['bias', 'weight']
        """
        return {name: self._view(name).copy() for name in self._shapes}

    def load_state_dict(self, state):
        """Take parameters from a mapping of name -> array (anything with ``__array__``).

        Every name, shape and dtype is checked before any parameter changes.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape is wrong.
        TypeError
            An array has another dtype than the layer.
        """
        if not hasattr(state, "keys"):
            raise TypeError(f"state must be a mapping of name -> array, not {type(state).__name__}")
        missing = [name for name in self._shapes if name not in state]
        unknown = [name for name in state.keys() if name not in self._shapes]
        for words, names in (("lacks", missing), ("has unknown", unknown)):
            if names:
                raise ValueError(f"state {words} {listed(names)}")
        arrays = {name: self._checked(name, state[name]) for name in self._shapes}
        for name, array in arrays.items():
            self._view(name)[...] = array
        self._parameters.changed()

    def _checked(self, name, value):
        return as_input(value, name, self.dtype, self._shapes[name][1])

    def __getattr__(self, name):
        shapes = self.__dict__.get("_shapes", {})
        if name not in shapes:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        view = self._view(name)
        view.flags.writeable = False
        return view

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_shapes", ()):
            array = self._checked(name, value)
            self._view(name)[...] = array
            self._parameters.changed()
        else:
            super().__setattr__(name, value)

    def __dir__(self):
        return [*super().__dir__(), *self._shapes]

    def __getstate__(self):
        state = {k: v for k, v in self.__dict__.items() if k not in ("_packed", "_parameters", "_network")}
        return state | {"values": self.parameters.copy(), "dtype": self.dtype.name}

    def __setstate__(self, state):
        values, dtype = state.pop("values"), state.pop("dtype")
        self.__dict__.update(state)
        self._finish(dtype, values)

    # ---- running ----

    def _weights(self):
        """Packed weights, made anew when parameters have changed."""
        packed, age = self._packed
        if age != self._parameters.age():
            flat = np.ascontiguousarray(self._parameters.fetch())
            age = self._parameters.age()
            packed = None  # nobody else's: its memory can be used again
            self.__dict__["_packed"] = (None, -1)
            packed = self._network.pack(flat)
            self.__dict__["_packed"] = (packed, age)
        return packed

    def _stored(self, weights, flat=None):
        """The network whose weights are stored in the format `weights`, and they (`flat`, or the newest), packed."""
        if weights not in COMPACT:
            return self._network, self._weights() if flat is None else self._network.pack(flat)
        code, largest = COMPACT[weights]
        if flat is None:
            flat = np.ascontiguousarray(self._parameters.fetch())
        for name, (at, shape) in self._shapes.items():
            if len(shape) == 1 or "weight_peephole" in name:
                continue
            if weights == "int8" and shape[1] > MOST_INT8_SOURCES:
                raise ValueError(f"{name} has {shape[1]} columns; int8 weights have at most {MOST_INT8_SOURCES}")
            size = np.abs(flat[at : at + math.prod(shape)])
            # a half can be infinite or NaN, an integer cannot
            bad = (size > largest) & np.isfinite(size) if weights == "float16" else ~(size <= largest)
            if bad.any():
                raise ValueError(f"{name} does not fit into {weights} weights: an element is beyond {largest:.6g}")
        network = _core.Network([spec | {"weights": code} for spec in self._specs], self.dtype)
        return network, network.pack(flat)

    def _state_parts(self, flat, lanes):
        """The parts of the engine's flat state array, as views: for each recurrent layer a dict of h, c and a."""
        return _core.parts_of(flat, lanes, self._recurrent)

    def _state_of(self, flat, lanes):
        """The state as users see it, views of the engine's flat array."""
        return self._wrap_state(_entries(_core.parts_of(flat, lanes, self._recurrent)))

    def _wrap_state(self, views):
        """A single layer's state is its entry itself."""
        return views[0] if views else None

    def _unwrap_state(self, state):
        if not self._recurrent and state is not None:
            raise ValueError("state must be None: this layer has no state")
        return [state] if self._recurrent else []

    def _fill_state(self, flat, lanes, state):
        """Write a user's state into a flat array, after checking all of it."""
        entries = self._unwrap_state(state)
        if not isinstance(entries, (list, tuple)) or len(entries) != len(self._recurrent):
            raise ValueError(f"state must be a list of {len(self._recurrent)} entries, one per recurrent layer")
        pairs = []
        for k, (entry, parts) in enumerate(zip(entries, self._state_parts(flat, lanes), strict=True)):
            name = f"state[{k}]" if len(entries) > 1 else "state"
            if "c" not in parts:
                arrays = {"h": entry}
            elif isinstance(entry, (tuple, list)) and len(entry) == 2:
                arrays = {"h": entry[0], "c": entry[1], "a": getattr(entry, "gates", None)}
            else:
                raise ValueError(f"{name} must be a pair (h, c)")
            for part, to in parts.items():
                array = arrays[part]
                if array is None:
                    if part == "a":
                        continue
                    raise TypeError(f"{part} of {name} must be an array, not None")
                if lanes == 1 and ndim_of(array) == 2:  # one sequence, as PyTorch's unbatched state
                    array = np.asarray(array)[:, None, :]
                pairs.append((to, as_input(array, f"{part} of {name}", self.dtype, to.shape)))
        flat[:] = 0
        for to, array in pairs:
            to[...] = array

    def __call__(self, x, state=None, lengths=None, reset=None):
        """Run a sequence, a batch, or a list of sequences.

        Parameters
        ----------
        x : array (T, B, I), (T, I), (B, T, I) with `batch_first`, or list of B arrays (T_b, I)
            Of the layer's dtype.
        state : optional
            ``(h, c)`` of an LSTM, each (L*D, B, H), h of a GRU or RNN; for a `Sequential` a list, one entry per
            recurrent layer. Default: zeros.
        lengths : (B,) integers, optional
            Valid steps of each sequence, 1 to T. What lies beyond is never read.
        reset : (T, B) booleans, optional
            Where true, the state is zero before that step: an episode starts there. In a backward direction the
            episodes are the same, read from their ends.

        Returns
        -------
        y : array like x with O instead of I, or list of arrays (T_b, O)
            Zero beyond a sequence's length.
        state
            After each sequence's last valid step, in the form that `state` takes; None for a layer without state.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, dtype or values; nothing has happened then.

        Examples
        --------
        >>> import numpy as np, fastlstm as fl
        >>> y, (h, c) = fl.LSTM(3, 4, seed=0)(np.zeros((5, 2, 3), np.float32))
        >>> y.shape, h.shape
        ((5, 2, 4), (1, 2, 4))
        """
        if state is None and lengths is None and reset is None:
            done = self._network.call(self._weights(), x, self.batch_first, self._recurrent)
            if done:
                return done[0], self._wrap_state(_entries(done[1]))
        if isinstance(x, (list, tuple)) and any(ndim_of(item) == 2 for item in x):
            return self._call_ragged(x, state, lengths, reset)
        x, lengths, reset, flat, batch_first, single, _, lanes = self._batch(x, state, lengths, reset)
        y = self._network.new_output(x)
        self._network.forward(self._weights(), x, y, flat, lengths, reset, batch_first)
        return (y[:, 0] if single else y), self._state_of(flat, lanes)

    def _batch(self, x, state, lengths, reset):
        """Checked arguments of a call: x (T, B, I) or, with the fifth true, (B, T, I); is it one sequence; T, B."""
        network = self._network
        ndim = network.ready(x)
        single = (ndim or ndim_of(x)) == 2
        batch_first = self.batch_first and not single
        if not ndim:
            x = as_input(x, "x", network.dtype, (-1,) * (2 - single) + (network.input_size,))
        if single:
            x = x[:, None, :]
        first, second, _ = x.shape
        lanes, steps = (first, second) if batch_first else (second, first)
        if lengths is not None:
            lengths = self._lengths(lengths, lanes, steps)
        if reset is not None:
            reset = as_anything(reset, "reset", "b")
            if single and reset.shape == (steps,):
                reset = reset[:, None]
            reset = as_mask(reset, "reset", (steps, lanes))
        flat = network.new_state(lanes)
        if state is not None:
            self._fill_state(flat, lanes, state)
        return x, lengths, reset, flat, batch_first, single, steps, lanes

    def forward(self, x, state=None, lengths=None, reset=None, *, recompute=None):
        """Run a sequence or a batch and keep what its gradient needs.

        Parameters
        ----------
        x, state, lengths, reset
            As in a call of the layer. x must not change before `backward` has been called.
        recompute : int or True, optional
            Save memory, at the cost of a second forward pass: keep the states at every `recompute`-th step alone (True:
            about the square root of the number of steps) and run the steps between again on the way back. The outputs
            have the same bits; so has the gradient, if `recompute` times the number of lanes is a multiple of 64 (with
            True it is) and all lengths are equal, and otherwise it differs by rounding. Not for bidirectional layers.

        Returns
        -------
        y, state
            As from a call: the same bits, unless a layer has dropout or zoneout. These are drawn anew in each call of
            this function, from the layer's `seed` on; a call of the layer itself has none.
        backward : callable
            ``dx, dstate = backward(dy, dstate=None, need_dx=True, need_dstate=True)`` adds the gradient of the
            parameters to `grad`: the full gradient, by backpropagation through time (Werbos 1990). dy is the gradient
            with respect to y (not read beyond the lengths), dstate that with respect to the returned state; dx and
            the returned dstate are those of x and of the initial state. Where x is a list, so are y, dy and dx. With
            ``need_dx=False`` dx is None, with ``need_dstate=False`` dstate is, and the products for it are not made.
            It can be called once; until then about 7 H numbers are kept for each step, lane and layer. The layer
            keeps this memory for its next call.

        Examples
        --------
        >>> import numpy as np, fastlstm as fl
        >>> layer = fl.LSTM(2, 4, seed=0)
        >>> x = np.ones((5, 3, 2), np.float32)
        >>> y, state, backward = layer.forward(x)
        >>> dx, dstate = backward(y)   # of half the sum of squares
        >>> dx.shape, layer.grad.size
        ((5, 3, 2), 128)
        """
        if isinstance(x, (list, tuple)) and any(ndim_of(item) == 2 for item in x):
            return self._forward_ragged(x, state, lengths, reset, recompute)
        x, lengths, reset, flat, batch_first, single, steps, lanes = self._batch(x, state, lengths, reset)
        network, span = self._network, self._span(recompute, steps, lanes)
        y = network.new_output(x)
        seed = 0 if self._draws is None else int(self._draws.integers(2**64, dtype=np.uint64))
        tape = (_core.Tape if span >= steps else partial(_Spans, length=span))(
            network, self._weights(), x, flat, lengths, reset, batch_first, seed
        )
        tape.forward(y, flat)

        def backward(dy, dstate=None, need_dx=True, need_dstate=True):
            if single or not _core.alike(dy, y):
                dy = as_input(dy, "dy", y.dtype, (y.shape[0], y.shape[2]) if single else y.shape).reshape(y.shape)
            d_flat = network.new_state(lanes)
            if dstate is not None:
                self._fill_state(d_flat, lanes, dstate)
            dx = np.empty_like(x) if as_flag(need_dx, "need_dx") else None
            need_dstate = as_flag(need_dstate, "need_dstate")
            self._parameters.add_grad(tape, dy, dx, d_flat, need_dstate, steps * lanes * network.n_packed >= BRIEF)
            return (dx[:, 0] if single and need_dx else dx), self._state_of(d_flat, lanes) if need_dstate else None

        return (y[:, 0] if single else y), self._state_of(flat, lanes), backward

    def _span(self, recompute, steps, lanes):
        """Steps of a span of a tape; as many as there are, if nothing is to be run again."""
        if recompute is None or recompute is False:
            return steps
        if any(spec["reverse"] for spec in self._specs):
            raise ValueError("recompute must be None: the backward direction of the network needs whole sequences")
        if recompute is not True:
            return as_size(recompute, "recompute")
        whole = 64 // math.gcd(64, lanes)  # steps whose rows are blocks of those sums (csrc/backward.h)
        return -(-math.isqrt(steps) // whole) * whole

    def _forward_ragged(self, sequences, state, lengths, reset, recompute):
        """A list of sequences, padded: what is saved for the gradient has a row for each step and lane."""
        arrays = self._sequences(sequences, lengths)
        lengths = np.array([len(a) for a in arrays])
        order = slice(None, None, -1) if self.batch_first else slice(None)  # of an index (step, lane)

        def padded(arrays):
            whole = np.zeros((*(int(lengths.max()), len(arrays))[order], arrays[0].shape[1]), self.dtype)
            for b, array in enumerate(arrays):
                whole[(slice(len(array)), b)[order]] = array
            return whole

        def split(whole):
            return [whole[(slice(n), b)[order]] for b, n in enumerate(lengths)]

        y, state, backward = self.forward(padded(arrays), state, lengths, reset, recompute=recompute)

        def backward_ragged(dy, dstate=None, need_dx=True, need_dstate=True):
            if not isinstance(dy, (list, tuple)) or len(dy) != len(lengths):
                raise TypeError(f"dy must be a list of {len(lengths)} arrays, as y is")
            shape = self._network.output_size
            errors = [as_input(d, f"dy[{b}]", self.dtype, (int(lengths[b]), shape)) for b, d in enumerate(dy)]
            dx, dstate = backward(padded(errors), dstate, need_dx, need_dstate)
            return (split(dx) if need_dx else None), dstate

        return split(y), state, backward_ragged

    def _rng_state(self):
        """Where the draws of dropout and zoneout stand, in a form that JSON holds; None if there are none."""
        return None if self._draws is None else self._draws.bit_generator.state

    def _set_rng_state(self, state):
        if self._draws is not None:
            self._draws.bit_generator.state = state

    def _call_ragged(self, sequences, state, lengths, reset):
        """A list of sequences, read where they lie; their outputs lie one after the other, without padding."""
        arrays = self._sequences(sequences, lengths)
        lengths = np.array([len(a) for a in arrays], np.int64)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        if reset is not None:
            reset = as_mask(as_anything(reset, "reset", "b"), "reset", (int(lengths.max()), len(arrays)))
        flat = self._network.new_state(len(arrays))
        if state is not None:
            self._fill_state(flat, len(arrays), state)
        y = self._network.forward_list(self._weights(), arrays, flat, lengths, starts, reset)
        ys = [y[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return ys, self._state_of(flat, len(arrays))

    def _sequences(self, sequences, lengths):
        """A list of sequences, checked."""
        if lengths is not None:
            raise ValueError("lengths must be None when x is a list of sequences: they have their own")
        ready, shape = self._network.ready, (-1, self._network.input_size)
        return [x if ready(x) == 2 else as_input(x, f"x[{b}]", self.dtype, shape) for b, x in enumerate(sequences)]

    @staticmethod
    def _lengths(lengths, lanes, steps):
        lengths = as_anything(lengths, "lengths", "iu")
        if lengths.shape != (lanes,):
            raise ValueError(f"lengths has shape {shown(lengths.shape)} and must have ({lanes},)")
        if lengths.min() < 1 or lengths.max() > steps:
            raise ValueError(f"lengths are from {lengths.min()} to {lengths.max()} and must be from 1 to {steps}")
        return np.ascontiguousarray(lengths, np.int64)

    def stream(self, lanes=1, weights="float32"):
        """A running copy for step-by-step use; see `Stream`.

        Parameters
        ----------
        lanes : int
            Independent sequences that run side by side.
        weights : "float32", "int16", "int8" or "float16"
            How the copy stores its weights. Biases and peepholes are never rounded. A float64 layer keeps float64.

            "int16" and "int8": half and a quarter of the memory. A weight is an integer in [-8191, 8191] or
            [-127, 127] times a scale for its row, and the inputs, h and gate activations of a step are quantised in the
            same way, each with a scale of its own. A net input is then off by at most the sum over these kinds of
            sources of a |w|_1 + b (|s|_1 + K a), where a is half a quantisation step of the K sources s (their largest
            / 16382 or 254), b that of the row's weights w, and |.|_1 sums absolute values (docs/compact.md). Where a
            source is infinite or NaN, the lane's net inputs are NaN.

            "float16": half the memory. Each weight is rounded to half precision, by at most 2**-11 of its size (2**-25
            for weights below 2**-14), and all arithmetic is float32: the bits are those of a float32 stream with these
            weights. "int16" is faster, and mostly closer to float32.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            The network is bidirectional, or float64 and `weights` compact, or a weight does not fit into the format.
        """
        if any(spec["reverse"] for spec in self._specs):
            raise ValueError(
                "a bidirectional layer cannot stream: its backward direction needs the end of the sequence"
            )
        native = self.dtype == np.float32
        weights = as_choice(weights, "weights", ("float32", *COMPACT) if native else ("float32", "float64"))
        return Stream(self, as_size(lanes, "lanes"), weights if native else "float64")
