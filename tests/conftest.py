"""What the tests of layers, streams and learners share: fixtures, tolerances, families of variants, comparisons.

Parameters, inputs and states are float32 numbers, also where the arithmetic is float64: one reference then serves both.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import reference as ref

import fastlstm as fl
from fastlstm import _core
from fastlstm._layer import State

# Largest error of an element in float32 and in float64, relative to the largest element of its array, or to the floor
# where that is smaller. Each is about twice the largest error seen on any instruction set.
TOLERANCES = {
    "forward": (3e-6, 6e-15, 1.0),  # a net input is a chain of I + H roundings, and some steps feed them back
    "gradient": (6e-6, 1e-14, 0.01),  # products of those, gathered over steps and lanes
    "chunks": (1e-5, 1e-12, 1e-3),  # what is promised of gradients in chunks, whatever their number
    "training": (3e-6, 1e-14, 1.0),  # the weights of a step carry the errors of all steps before
    "loss": (5e-7, 2e-15, 0.01),  # an exponential or a logarithm, and a sum
}
DTYPES = ("float32", "float64")
# Instruction sets whose multiply-add rounds once: they promise the same bits.
FUSED = tuple(name for name in _core.isa_names() if name in ("avx512", "avx2", "neon"))

PAPER = {
    "bias": "single",
    "forget_gate": False,
    "gate_recurrence": True,
    "input_activation": "g1997",
    "output_activation": "h1997",
}

# One of each kind of code path, for tests of what must hold for all of them.
FAMILIES = (
    {},
    {"bias": "single"},
    {"bias": False},
    {"input_gate": False},
    {"forget_gate": False},
    {"output_gate": False},
    {"input_gate": False, "forget_gate": False, "output_gate": False},
    {"coupled_gates": True},
    {"peepholes": True},
    {"gate_recurrence": True},
    {"block_size": 2},
    {"block_size": 3},
    {"clip": 0.4},
    {"input_activation": "relu", "output_activation": "identity"},
    PAPER | {"block_size": 2},
    {"coupled_gates": True, "peepholes": True, "gate_recurrence": True, "bias": "single"},
    {"block_size": 3, "peepholes": True, "gate_recurrence": True, "clip": 0.6},
    {"block_size": 2, "peepholes": True, "forget_gate": False, "gate_activation": "h1997"},
)


def all_combinations():
    """Every way to switch gates, coupling, peepholes and gate recurrence; the other options take turns."""
    names = ("input_gate", "forget_gate", "output_gate", "coupled_gates", "peepholes", "gate_recurrence")
    turns = {
        "block_size": (1, 2, 3),
        "bias": (True, "single", False),
        "clip": (None, None, 0.5),
        "input_activation": ("tanh", "g1997", "sigmoid", "relu", "identity"),
        "output_activation": ("tanh", "h1997", "identity", "relu", "sigmoid"),
        "gate_activation": ("sigmoid", "sigmoid", "h1997", "tanh"),
    }
    r = np.random.default_rng(0)
    for switches in product((True, False), repeat=len(names)):
        options = dict(zip(names, switches, strict=True))
        if options["input_gate"] or not options["coupled_gates"]:
            yield options | {name: values[r.integers(len(values))] for name, values in turns.items()}


COMBINATIONS = tuple(all_combinations())
DEFAULTS = {field.name: field.default for field in fields(ref.Cell)} | {"bias": True}


def describe(value):
    """A case id: the options that differ from the defaults."""
    if isinstance(value, dict):
        changed = [(name, v) for name, v in value.items() if v != DEFAULTS.get(name, False)]
        return ",".join(name if v is True else f"{name}={v}" for name, v in changed) or "default"
    return getattr(value, "__name__", str(value))


families = pytest.mark.parametrize("options", FAMILIES, ids=describe)


# Fixtures -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def select_isa():
    """The function that chooses the instruction set of objects made from then on; undone after the test."""
    before = _core.selected_isa()
    yield _core.select_isa
    _core.select_isa(before)


@pytest.fixture(params=_core.isa_names())
def isa(request, select_isa):
    """Each instruction set of this build and this processor."""
    return select_isa(request.param)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Data -----------------------------------------------------------------------------------------------------------------


def numbers(shape, seed=0, dtype="float64", scale=1.0):
    """Normal numbers that float32 can hold."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32).astype(dtype)


def with_weights(layer, seed=0, scale=0.6):
    """The layer, its parameters now from U(-scale, scale) as float32 numbers."""
    r = np.random.default_rng(seed)
    new = {name: r.uniform(-scale, scale, a.shape).astype(np.float32) for name, a in layer.state_dict().items()}
    layer.load_state_dict({name: a.astype(layer.dtype) for name, a in new.items()})
    return layer


def map_state(function, state):
    """A state of the same form, each array replaced by function(array)."""
    if isinstance(state, State):
        gates = function(state.gates)
        return State([function(a) for a in state], gates)
    if isinstance(state, (list, tuple)):
        return type(state)(map_state(function, part) for part in state)
    return function(state)


def random_state(layer, lanes, seed=1):
    """A state for `lanes` sequences, of float32 numbers."""
    state = layer(np.zeros((1, lanes, layer._network.input_size), layer.dtype))[1]
    if layer.batch_first:
        state = layer(np.zeros((lanes, 1, layer._network.input_size), layer.dtype))[1]
    r = np.random.default_rng(seed)
    return map_state(lambda a: r.normal(size=a.shape, scale=0.5).astype(np.float32).astype(layer.dtype), state)


# The reference on the engine's networks -------------------------------------------------------------------------------


def cell_of(layer):
    """The reference's description of a recurrent layer."""
    kind = {fl.GRU: ref.GRU, fl.RNN: ref.RNN}.get(type(layer), ref.Cell)
    return kind(**{field.name: getattr(layer, field.name) for field in fields(kind)})


def state_parts(state):
    """A recurrent layer's state as a tuple of arrays."""
    if not isinstance(state, tuple):
        return (state,)
    return (*state, state.gates) if isinstance(state, State) else tuple(state)


def state_of(parts):
    """And back."""
    if len(parts) == 1:
        return parts[0]
    return State(parts[:2], parts[2]) if len(parts) == 3 and parts[2].shape[-1] else tuple(parts[:2])


def reference_forward(layer, x, state=None, lengths=None, reset=None):
    """What ``layer(x, state, lengths, reset)`` should be, in float64; x is (T, B, I)."""
    single = not isinstance(layer, fl.Sequential)
    y, state = _reference_forward(layer, np.asarray(x, float), iter([state] if single else state or []), lengths, reset)
    return y, (state or [None])[0] if single else state


def _reference_forward(layer, x, states, lengths, reset):
    after = []
    if isinstance(layer, fl.Sequential):
        for inner in layer:
            x, more = _reference_forward(inner, x, states, lengths, reset)
            after += more
    elif isinstance(layer, fl.Linear):
        params = {name: a.astype(float) for name, a in layer.state_dict().items()}
        x = ref.linear_forward(params, x, layer.activation)
        for b, length in enumerate([] if lengths is None else lengths):
            x[length:, b] = 0.0
    else:
        state = next(states, None)
        state = None if state is None else state_parts(state)
        options = (layer.num_layers, layer.bidirectional, state, lengths, reset)
        x, parts = ref.stacked_forward(cell_of(layer), layer.state_dict(), x, *options)
        after.append(state_of(parts))
    return x, after


def reference_layers(net):
    """The network in the form of the reference's online learner, and the engine's names of each layer's parameters."""
    layers, names = [], []

    def add(layer, prefix):
        if isinstance(layer, fl.Sequential):
            for k, inner in enumerate(layer):
                add(inner, f"{prefix}{k}.")
            return
        params = layer.state_dict()
        if isinstance(layer, fl.Linear):
            layers.append(("linear", layer.activation, params))
            names.append({name: prefix + name for name in params})
            return
        for k in range(layer.num_layers):
            cell = replace(cell_of(layer), input_size=layer.hidden_size if k else layer.input_size)
            layers.append(("lstm", cell, ref.layer_parameters(params, f"_l{k}")))
            names.append({name: f"{prefix}{name}_l{k}" for name in layers[-1][2]})

    add(net, "")
    return layers, names


def by_name(dicts, names):
    """The reference's list of dicts as one dict with the engine's names."""
    return {keys[name]: array for arrays, keys in zip(dicts, names, strict=True) for name, array in arrays.items()}


# Lessons: networks, losses and data for learners ----------------------------------------------------------------------

LOSSES = ("mse", "sse", "cross_entropy", "binary_cross_entropy")


def make_targets(loss, steps, lanes, outputs, seed=3):
    """(T, B, O) with NaN, or classes (T, B) with -1, where there is none: at step 1, and in some other places."""
    r = np.random.default_rng(seed)
    if loss == "cross_entropy":
        targets = r.integers(0, outputs, (steps, lanes))
        targets[r.random(targets.shape) < 0.2] = -1
        targets[1] = -1
    else:
        targets = r.uniform(0.1, 0.9, (steps, lanes, outputs)).astype(np.float32).astype(float)
        targets[r.random(targets.shape) < 0.2] = np.nan
        targets[1] = np.nan
    return targets


def has_target(target):
    return target is not None and bool((target >= 0).any())  # a NaN is not; the targets made here are not negative


@dataclass(frozen=True, eq=False)
class Case:
    """A network, a loss and data; some lanes start anew in the middle."""

    name: str
    layers: tuple  # (class, sizes, options) of each
    loss: str = "sse"
    lanes: int = 1
    steps: int = 7
    resets: float = 0.15

    def __str__(self):
        return f"{self.name},{self.loss},B={self.lanes}"

    def make(self, dtype):
        """The network, xs, targets as the engine takes them, resets."""
        net = fl.Sequential(*(kind(*sizes, dtype=dtype, seed=0, **options) for kind, sizes, options in self.layers))
        width = max(sizes[1] for _, sizes, _ in self.layers)
        net = with_weights(net if len(net) > 1 else net[0], 1, min(0.6, 3 / width**0.5))
        xs = numbers((self.steps, self.lanes, net._network.input_size), 2, dtype)
        targets = make_targets(self.loss, self.steps, self.lanes, net._network.output_size)
        targets = targets if self.loss == "cross_entropy" else targets.astype(dtype)
        return net, xs, targets, np.random.default_rng(4).random((self.steps, self.lanes)) < self.resets

    @cache  # noqa: B019 (the cases live as long as the module)
    def expected(self):
        """Outputs, gradients by name and the mean loss, by the reference."""
        net, xs, targets, reset = self.make("float64")
        layers, names = reference_layers(net)
        rtrl, ys, losses = ref.TruncatedRTRL(layers, self.loss, self.lanes), [], []
        for x, target, start in zip(xs, targets, reset, strict=True):
            rtrl.reset(start)
            ys.append(rtrl.step(x, target if has_target(target) else None))
            losses += [] if rtrl.last_loss is None else [rtrl.last_loss]
        return np.array(ys), by_name(rtrl.grads, names), np.mean(losses)

    @cache  # noqa: B019
    def numeric(self, chunk=None):
        """(name, direction, derivative along it of the loss with the cut quantities held).

        Those that the truncated gradient cuts, or with `chunk` those of carried backpropagation.
        """
        net, xs, targets, reset = self.make("float64")
        layers, names = reference_layers(net)
        targets = [target if has_target(target) else None for target in targets]
        _, record = ref.record_forward(layers, xs, reset)
        loss, more = (ref.carried_loss, (chunk,)) if chunk else (ref.cut_loss, ())
        r, found = np.random.default_rng(5), []
        for n, (kind, what, params) in enumerate(layers):
            for name, p in params.items():
                one = np.zeros(p.size)
                one[r.integers(p.size)] = 1.0
                for direction in (one.reshape(p.shape), r.normal(size=p.shape)):
                    values = []
                    for step in (1e-5, -1e-5):
                        moved = [*layers[:n], (kind, what, params | {name: p + step * direction}), *layers[n + 1 :]]
                        values.append(loss(moved, self.loss, xs, targets, reset, record, n, *more))
                    found.append((names[n][name], direction, (values[0] - values[1]) / 2e-5))
        return found


def over(options, hidden=6, inputs=2, outputs=2, activation="sigmoid"):
    """Layers: the variant, and a linear layer on it."""
    return (fl.LSTM, (inputs, hidden), options), (fl.Linear, (hidden, outputs), {"activation": activation})


ALL = {"block_size": 2, "peepholes": True, "gate_recurrence": True, "clip": 0.6}
STACKS = [
    Case("two layers", ((fl.LSTM, (2, 5, 2), {}), (fl.Linear, (5, 2), {})), "mse", 2),
    Case("three layers, bare", ((fl.LSTM, (2, 5, 3), {"peepholes": True}),), "mse", 2),
    Case("1997 on 1997", ((fl.LSTM1997, (2, 2, 2), {}), (fl.LSTM1997, (4, 3), {}), (fl.Linear, (3, 2), {})), lanes=3),
    Case("all on all", ((fl.LSTM, (2, 6), ALL), (fl.LSTM, (6, 4), ALL), (fl.Linear, (4, 3), {})), "cross_entropy", 2),
    Case(
        "linear between",
        (
            (fl.Linear, (3, 20), {"activation": "tanh", "bias": False}),
            (fl.LSTM, (20, 18), {}),
            (fl.Linear, (18, 17), {"activation": "relu"}),
            (fl.LSTM, (17, 4), {"forget_gate": False}),
            (fl.Linear, (4, 2), {"activation": "sigmoid"}),
        ),
        "binary_cross_entropy",
        2,
    ),
]


# Comparisons ----------------------------------------------------------------------------------------------------------


def leaves(value, path="value"):
    """(path, array) of each array in nested lists, tuples, dicts and states."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from leaves(value[key], f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for k, part in enumerate(value):
            yield from leaves(part, f"{path}[{k}]")
        if isinstance(value, State):
            yield f"{path}.gates", np.asarray(value.gates)
    elif value is not None:
        yield path, np.asarray(value)


def assert_close(got, wanted, what):
    """Each array of `got` is that of `wanted` to within TOLERANCES[what] for the dtype of `got`."""
    got, wanted = list(leaves(got)), list(leaves(wanted))
    assert [path for path, _ in got] == [path for path, _ in wanted]
    for (path, g), (_, w) in zip(got, wanted, strict=True):
        assert g.shape == w.shape, path
        *tolerances, floor = TOLERANCES[what]
        tolerance = tolerances[DTYPES.index(g.dtype.name)] * max(floor, np.abs(w).max(initial=0.0))
        np.testing.assert_allclose(g.astype(float), w, rtol=0, atol=tolerance, err_msg=path)


def assert_same_bits(got, wanted):
    """Each array of `got` has the dtype, the shape and the bits of that of `wanted`."""
    got, wanted = list(leaves(got)), list(leaves(wanted))
    assert [path for path, _ in got] == [path for path, _ in wanted]
    for (path, g), (_, w) in zip(got, wanted, strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape), path
        if g.tobytes() != w.tobytes():
            np.testing.assert_array_equal(g, w, err_msg=path)
            raise AssertionError(f"{path}: zeros of different sign, or NaNs of different bits")
