"""Layers: outputs and states against the float64 reference, and parameters by name."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from conftest import (
    COMBINATIONS,
    DEFAULTS,
    PAPER,
    assert_close,
    assert_same_bits,
    describe,
    families,
    map_state,
    numbers,
    random_state,
    reference_forward,
    with_weights,
)

import fastlstm as fl

ACTIVATIONS = ("sigmoid", "tanh", "identity", "relu", "g1997", "h1997")


# Forward --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """A layer and its data. With `given`, an initial state, lengths and resets."""

    options: dict
    inputs: int = 3
    hidden: int = 12
    layers: int = 1
    steps: int = 6
    lanes: int = 3
    given: bool = True

    def __str__(self):
        start = "" if self.given else ",from zero"
        return f"{self.inputs}-{self.hidden}x{self.layers},{describe(self.options)}{start}"

    def make(self, dtype):
        """The layer and the arguments of a call of it, x (T, B, I) or (B, T, I)."""
        options = {"dtype": dtype, "seed": 0} | self.options
        scale = min(0.6, 3 / self.hidden**0.5)
        layer = with_weights(fl.LSTM(self.inputs, self.hidden, self.layers, **options), 1, scale)
        arguments = {"x": numbers((self.steps, self.lanes, self.inputs), 2, dtype)}
        if self.given:
            arguments["state"] = random_state(layer, self.lanes)
            arguments["lengths"] = np.arange(self.steps, self.steps - self.lanes, -1)
            arguments["reset"] = np.random.default_rng(3).random((self.steps, self.lanes)) < 0.2
        return layer, arguments

    @cache  # noqa: B019 (the cases live as long as the module)
    def expected(self):
        layer, arguments = self.make("float64")
        return reference_forward(layer, **arguments)


SINGLE = [
    {},
    {"bias": "single"},
    {"bias": False},
    {"bidirectional": True},
    {"batch_first": True},
    {"input_gate": False},
    {"forget_gate": False},
    {"output_gate": False},
    {"coupled_gates": True},
    {"peepholes": True},
    {"gate_recurrence": True},
    {"block_size": 2},
    {"block_size": 3},
    {"block_size": 12},
    {"clip": 0.3},
    PAPER,
    *({name: a} for name in ("input_activation", "output_activation", "gate_activation") for a in ACTIVATIONS),
]
SINGLE = [options for k, options in enumerate(SINGLE) if not k or any(DEFAULTS.get(n) != v for n, v in options.items())]
EVERYTHING = {"peepholes": True, "gate_recurrence": True, "coupled_gates": True, "clip": 0.7, "bias": "single"}
SIZES = (1, 7, 8, 9, 15, 16, 17, 31, 33, 257)

CASES = [
    *(Case(options) for options in SINGLE),
    *(Case(options) for options in COMBINATIONS),
    *(Case({}, inputs, hidden) for inputs, hidden in zip((1, 2, 3, 5, 7, 8, 9, 16, 17, 33), SIZES, strict=True)),
    *(Case(EVERYTHING, 3, hidden) for hidden in SIZES),
    *(Case(PAPER | {"block_size": 3}, 2, hidden) for hidden in (3, 9, 15, 33, 51)),
    *(Case({"bidirectional": d}, 3, 5, layers) for layers in (1, 2, 3) for d in (False, True)),
    Case(EVERYTHING | {"bidirectional": True, "batch_first": True}, 3, 6, 2),
    Case(PAPER | {"bidirectional": True, "block_size": 2}, 3, 10, 3),
    Case({}, given=False),
    Case(EVERYTHING, given=False),
    Case({"batch_first": True, "bidirectional": True}, 3, 9, 2, given=False, lanes=8),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case, isa, dtype):
    layer, arguments = case.make(dtype)
    if layer.batch_first:
        arguments["x"] = arguments["x"].transpose(1, 0, 2)
    y, state = layer(**arguments)
    assert_close((y.transpose(1, 0, 2) if layer.batch_first else y, state), case.expected(), "forward")


@cache
def long_run(lanes):
    """Data and reference of a run that is longer than anything the engine does in one go."""
    net, x = network("float64"), numbers((150, lanes, 4), 5)
    return x, reference_forward(net, x, random_state(net, lanes))


@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_a_long_run_through_a_stack(lanes, isa, dtype):
    x, wanted = long_run(lanes)
    net = network(dtype)
    assert_close(net(x.astype(dtype), random_state(net, lanes)), wanted, "forward")


def network(dtype, **options):
    """All kinds of layers, nested."""
    options["dtype"] = dtype
    inner = fl.Sequential(fl.Linear(10, 6, activation="tanh", **options), fl.LSTM1997(6, 3, 2, **options))
    lower, upper = fl.LSTM(4, 10, 2, peepholes=True, **options), fl.LSTM(6, 9, **options)
    return with_weights(fl.Sequential(lower, inner, upper, fl.Linear(9, 5, bias=False, **options)))


def test_sequential(isa, dtype, rng):
    net = network(dtype)
    x, state = numbers((7, 3, 4), 5, dtype), random_state(net, 3)
    assert [h.shape for h, _ in state] == [(2, 3, 10), (1, 3, 6), (1, 3, 9)]
    lengths, reset = np.array([5, 7, 1]), rng.random((7, 3)) < 0.3
    assert_close(net(x), reference_forward(net, x), "forward")
    assert_close(net(x, state, lengths, reset), reference_forward(net, x, state, lengths, reset), "forward")


def test_sequential_with_two_directions(isa, dtype, rng):
    lower = fl.LSTM(3, 9, 2, bidirectional=True, batch_first=True, dtype=dtype)
    net = with_weights(fl.Sequential(lower, fl.LSTM(18, 4, batch_first=True, dtype=dtype)))
    x, state, reset = numbers((3, 7, 3), 5, dtype), random_state(net, 3), rng.random((7, 3)) < 0.3
    y, after = net(x, state, np.array([5, 7, 1]), reset)
    wanted = reference_forward(net, x.transpose(1, 0, 2), state, [5, 7, 1], reset)
    assert_close((y.transpose(1, 0, 2), after), wanted, "forward")


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 7), (9, 8), (5, 17), (16, 33), (33, 257)], ids=str)
def test_linear(sizes, activation, isa, dtype):
    layer = with_weights(fl.Linear(*sizes, activation=activation, bias=sizes != (3, 7), dtype=dtype))
    x = numbers((5, 7, sizes[0]), 1, dtype)
    y, state = layer(x)
    assert state is None
    assert_close(y, reference_forward(layer, x)[0], "forward")
    assert_same_bits(layer(x[:, 0])[0], y[:, 0])


def test_lstm1997_is_a_preset(isa, dtype):
    preset = with_weights(fl.LSTM1997(3, 4, 2, dtype=dtype))
    plain = with_weights(fl.LSTM(3, 8, block_size=2, dtype=dtype, **PAPER))
    x = numbers((6, 2, 3), 1, dtype)
    assert isinstance(preset, fl.LSTM)
    assert_same_bits(preset.state_dict(), plain.state_dict())
    assert_same_bits(preset(x), plain(x))
    assert_close(preset(x), reference_forward(plain, x), "forward")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{}, {"peepholes": True}, {"coupled_gates": True}, PAPER], ids=describe)
def test_float32_stays_near_float64(options, seed, isa):
    """Within 2e-6 after 1,000 steps, with weights as they are initialised."""
    single, double = (fl.LSTM(8, 32, dtype=d, seed=seed, **options) for d in ("float32", "float64"))
    double.load_state_dict({name: a.astype(float) for name, a in single.state_dict().items()})
    x = numbers((1000, 8), seed)
    assert np.abs(single(x.astype(np.float32))[0] - double(x)[0]).max() < 2e-6


# States, lengths, resets ----------------------------------------------------------------------------------------------


@families
def test_continuing_is_the_whole_run(options, isa, dtype):
    layer = with_weights(fl.LSTM(3, 18, 2, dtype=dtype, **options))
    x = numbers((9, 4, 3), 1, dtype)
    whole, end = layer(x, random_state(layer, 4))
    state, parts = random_state(layer, 4), []
    for part in (x[:1], x[1:6], x[6:]):
        y, state = layer(part, state)
        parts.append(y)
    assert_same_bits((np.concatenate(parts), state), (whole, end))


def test_gate_activations_are_part_of_the_state(isa, dtype):
    layer = with_weights(fl.LSTM1997(3, 4, 2, dtype=dtype))
    x = numbers((6, 2, 3), 1, dtype)
    _, state = layer(x[:3])
    assert isinstance(state, tuple)
    assert state.gates.shape == (1, 2, 8)
    h, c = state  # a plain pair to those who do not care; the gate activations are then zero
    plain = layer(x[3:], (h, c))
    assert_close(plain, reference_forward(layer, x[3:], (h, c)), "forward")
    assert np.abs(plain[0] - layer(x[3:], state)[0]).max() > 1e-3


def test_state_shapes(dtype):
    layer = fl.LSTM(3, 5, 2, bidirectional=True, dtype=dtype)
    _, (h, c) = layer(np.zeros((4, 6, 3), dtype))
    assert h.shape == c.shape == (4, 6, 5)
    assert h.dtype == c.dtype == dtype
    assert layer(np.zeros((4, 3), dtype))[1][0].shape == (4, 1, 5)
    assert fl.Linear(3, 2, dtype=dtype)(np.zeros((4, 3), dtype))[1] is None


def test_calls_do_not_change_their_arguments(rng):
    layer = fl.LSTM(3, 9, 2, gate_recurrence=True, seed=0)
    x, state, reset = numbers((5, 2, 3), 0, "float32"), random_state(layer, 2), np.ones((5, 2), bool)
    before = x.copy(), map_state(np.copy, state)
    first = layer(x, state, reset=reset)
    assert_same_bits((x, state), before)
    layer(numbers((5, 2, 3), 9, "float32"))
    assert_same_bits(layer(x, state, reset=reset), first)  # nothing is left behind by a call


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths_are_shorter_sequences(bidirectional, isa, dtype):
    layer = with_weights(fl.LSTM(3, 9, 2, bidirectional=bidirectional, dtype=dtype))
    x, state, lengths = numbers((7, 5, 3), 1, dtype), random_state(layer, 5), [3, 7, 1, 6, 2]
    for b, n in enumerate(lengths):
        x[n:, b] = np.nan  # never read
    y, after = layer(x, state, lengths=np.array(lengths))
    for b, n in enumerate(lengths):
        one = layer(x[:n, b : b + 1], map_state(lambda a, b=b: a[:, b : b + 1], state))
        assert_same_bits((y[:n, b : b + 1], map_state(lambda a, b=b: a[:, b : b + 1], after)), one)
        assert_same_bits(y[n:, b], np.zeros_like(y[n:, b]))
    assert_same_bits(layer(x, state, lengths=lengths), (y, after))
    ragged, ragged_after = layer([x[:n, b] for b, n in enumerate(lengths)], state)
    assert_same_bits((ragged, ragged_after), ([y[:n, b] for b, n in enumerate(lengths)], after))


def test_ragged_lists_do_not_mind_batch_first(dtype):
    layer = with_weights(fl.LSTM(3, 4, batch_first=True, dtype=dtype))
    xs = [numbers((n, 3), n, dtype) for n in (4, 2, 5)]
    ys, (h, _) = layer(xs)
    for b, x in enumerate(xs):
        y, (last, _) = layer(x)
        assert_same_bits((ys[b], h[:, b]), (y, last[:, 0]))
    assert layer(tuple(xs))[0][1].shape == (2, 4)


def test_sequences_of_a_list_may_lie_anywhere(isa, dtype):
    layer = with_weights(fl.LSTM(3, 9, 2, bidirectional=True, dtype=dtype))
    whole = numbers((20, 3), 1, dtype)
    whole.flags.writeable = False
    views = [whole[4:], whole, whole[19:], whole[::-2], np.asfortranarray(whole[2:9]), whole[3:12]]
    ys, _ = layer(views)
    for x, y in zip(views, ys, strict=True):
        assert_same_bits(y, layer(x.copy())[0])


@families
def test_resets_are_separate_sequences(options, isa, dtype):
    layer = with_weights(fl.LSTM(3, 6, 2, dtype=dtype, **options))
    x, state = numbers((8, 2, 3), 1, dtype), random_state(layer, 2)
    reset = np.zeros((8, 2), bool)
    reset[3] = True
    y, after = layer(x, state, reset=reset)
    assert_same_bits(y[:3], layer(x[:3], state)[0])
    assert_same_bits((y[3:], after), layer(x[3:]))
    reset[3, 1] = False  # one lane alone
    mixed = layer(x, state, reset=reset)[0]
    assert_same_bits(mixed, np.stack([y[:, 0], layer(x, state)[0][:, 1]], axis=1))


def test_reset_of_one_sequence(dtype):
    layer = with_weights(fl.LSTM(3, 6, dtype=dtype))
    x, reset = numbers((8, 3), 1, dtype), np.arange(8) == 5
    y = layer(x, reset=reset)[0]
    assert_same_bits(y, np.concatenate([layer(x[:5])[0], layer(x[5:])[0]]))
    assert_same_bits(layer(x, reset=reset[:, None])[0], y)


def test_backward_direction_has_the_same_episodes(isa, dtype):
    layer = with_weights(fl.LSTM(3, 6, bidirectional=True, dtype=dtype))
    x = numbers((8, 1, 3), 1, dtype)
    y = layer(x, reset=(np.arange(8) == 5)[:, None])[0]
    assert_same_bits(y, np.concatenate([layer(x[:5])[0], layer(x[5:])[0]]))


# Forms of input -------------------------------------------------------------------------------------------------------


def test_one_sequence_is_a_batch_of_one(isa, dtype):
    for layer in (with_weights(fl.LSTM(3, 9, batch_first=b, bidirectional=True, dtype=dtype)) for b in (False, True)):
        x = numbers((5, 3), 1, dtype)
        y, state = layer(x)
        assert y.shape == (5, 18)
        batch, batch_state = layer(x[None] if layer.batch_first else x[:, None])
        assert_same_bits((y, state), (batch.reshape(5, 18), batch_state))
        assert_same_bits(layer(x, map_state(lambda a: a[:, 0], state)), layer(x, state))  # PyTorch's unbatched state


def test_batch_first_is_transposed(isa, dtype):
    plain, other = (with_weights(fl.LSTM(3, 9, 2, batch_first=b, dtype=dtype)) for b in (False, True))
    x, state, reset = numbers((5, 7, 3), 1, dtype), random_state(plain, 7), np.zeros((5, 7), bool)
    reset[2, 3] = True
    y, after = other(x.transpose(1, 0, 2), state, reset=reset)
    assert_same_bits((y.transpose(1, 0, 2), after), plain(x, state, reset=reset))


def test_memory_layouts_of_x(dtype):
    layer = with_weights(fl.LSTM(3, 9, dtype=dtype))
    x = numbers((6, 4, 3), 1, dtype)
    y = layer(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.full((12, 4, 6), np.nan, dtype)
    wide[::2, :, 1::2] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    for form in (read_only, wide[::2, :, 1::2], np.asfortranarray(x), x[::-1].copy()[::-1], unaligned):
        assert_same_bits(layer(form), y)


def test_lists_instead_of_arrays(dtype):
    layer = with_weights(fl.LSTM(2, 3, dtype=dtype))
    x = [[0.5, 1.0], [2.0, 0.0], [1.0, 1.0]]
    as_array = np.array(x, dtype)
    assert_same_bits(layer(x), layer(as_array))
    assert_same_bits(layer([[0, 1], [2, 3]])[0], layer(np.array([[0, 1], [2, 3]], dtype))[0])
    assert_same_bits(layer(x, reset=[False, True, False]), layer(as_array, reset=np.array([False, True, False])))
    state = layer(as_array)[1]
    assert_same_bits(layer(x, [a.tolist() for a in state]), layer(as_array, state))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"x": np.zeros((4, 2, 3))}, "x"),
        ({"x": np.zeros((4, 2, 5), np.float32)}, "x"),
        ({"x": np.zeros(3, np.float32)}, "x"),
        ({"x": np.zeros((0, 2, 3), np.float32)}, "x"),
        ({"lengths": [4]}, "lengths"),
        ({"lengths": [4, 5]}, "lengths"),
        ({"lengths": [0, 4]}, "lengths"),
        ({"lengths": [1.0, 4.0]}, "lengths"),
        ({"reset": np.zeros((2, 4), bool)}, "reset"),
        ({"reset": np.zeros((4, 2))}, "reset"),
        ({"state": np.zeros((1, 2, 6), np.float32)}, "state"),
        ({"state": (np.zeros((1, 2, 6), np.float32),)}, "state"),
        ({"state": (np.zeros((1, 2, 6), np.float32), np.zeros((1, 2, 5), np.float32))}, "state"),
        ({"state": (np.zeros((1, 2, 6)), np.zeros((1, 2, 6)))}, "state"),
    ],
)
def test_wrong_arguments_are_named(arguments, name):
    layer = fl.LSTM(3, 6)
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        layer(**{"x": np.zeros((4, 2, 3), np.float32)} | arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_size": 0},
        {"hidden_size": 2.0},
        {"block_size": 4},
        {"bias": "double"},
        {"gate_activation": "swish"},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"coupled_gates": True, "input_gate": False},
        {"peepholes": 1},
        {"dtype": "float16"},
        {"seed": -1},
    ],
    ids=describe,
)
def test_wrong_options_are_named(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        fl.LSTM(**{"input_size": 3, "hidden_size": 6} | options)


# PyTorch --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": True}, {"bias": False}], ids=describe)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_torch(layers, options, dtype):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 17, layers, dtype=getattr(torch, dtype), **options)
    ours = fl.LSTM(5, 17, layers, dtype=dtype, **options)
    assert {name: tuple(p.shape) for name, p in theirs.state_dict().items()} == {
        name: a.shape for name, a in ours.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    x, state = numbers((6, 4, 5), 1, dtype), random_state(ours, 6 if ours.batch_first else 4)
    for given in (None, state):
        y, after = ours(x, given)
        with torch.no_grad():
            wanted, last = theirs(torch.from_numpy(x), given and tuple(torch.from_numpy(a) for a in given))
        assert_close((y, after), (wanted.double().numpy(), tuple(a.double().numpy() for a in last)), "forward")


# Parameters -----------------------------------------------------------------------------------------------------------

SHAPES = [
    (fl.LSTM, (3, 4), {}, {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,), "bias_hh_l0": (16,)}),
    (fl.LSTM, (3, 4), {"bias": "single"}, {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,)}),
    (fl.LSTM, (3, 4), {"bias": False}, {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4)}),
    (
        fl.LSTM,
        (3, 4, 2),
        {"bidirectional": True, "bias": False},
        {
            "weight_ih_l0": (16, 3),
            "weight_hh_l0": (16, 4),
            "weight_ih_l0_reverse": (16, 3),
            "weight_hh_l0_reverse": (16, 4),
            "weight_ih_l1": (16, 8),
            "weight_hh_l1": (16, 4),
            "weight_ih_l1_reverse": (16, 8),
            "weight_hh_l1_reverse": (16, 4),
        },
    ),
    *(
        (fl.LSTM, (3, 4), {"bias": False, **o}, {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4)})
        for o in ({"input_gate": False}, {"forget_gate": False}, {"output_gate": False}, {"coupled_gates": True})
    ),
    (
        fl.LSTM,
        (3, 4),
        {"input_gate": False, "forget_gate": False, "output_gate": False, "peepholes": True, "gate_recurrence": True},
        {"weight_ih_l0": (4, 3), "weight_hh_l0": (4, 4), "bias_ih_l0": (4,), "bias_hh_l0": (4,)},
    ),
    (
        fl.LSTM,
        (3, 6),
        {"block_size": 2, "peepholes": True, "gate_recurrence": True, "bias": False},
        {"weight_ih_l0": (15, 3), "weight_hh_l0": (15, 6), "weight_peephole_l0": (3, 6), "weight_gh_l0": (15, 9)},
    ),
    (
        fl.LSTM,
        (3, 6),
        {"coupled_gates": True, "peepholes": True, "gate_recurrence": True, "bias": False},
        {"weight_ih_l0": (18, 3), "weight_hh_l0": (18, 6), "weight_peephole_l0": (2, 6), "weight_gh_l0": (18, 12)},
    ),
    (
        fl.LSTM1997,
        (8, 2, 2),
        {},
        {"weight_ih_l0": (8, 8), "weight_hh_l0": (8, 4), "weight_gh_l0": (8, 4), "bias_ih_l0": (8,)},
    ),
    (fl.Linear, (3, 4), {}, {"weight": (4, 3), "bias": (4,)}),
    (fl.Linear, (3, 4), {"bias": False}, {"weight": (4, 3)}),
]


@pytest.mark.parametrize(
    ("kind", "sizes", "options", "shapes"), SHAPES, ids=[f"{k.__name__}{s},{describe(o)}" for k, s, o, _ in SHAPES]
)
def test_names_and_shapes(kind, sizes, options, shapes, dtype):
    layer = kind(*sizes, dtype=dtype, **options)
    state = layer.state_dict()
    assert {name: a.shape for name, a in state.items()} == shapes
    assert {a.dtype.name for a in state.values()} == {dtype}
    assert {name: a.shape for name, a in layer.gradients().items()} == shapes
    assert layer.parameters.shape == layer.grad.shape == (sum(a.size for a in state.values()),)
    for name, a in state.items():
        assert_same_bits(getattr(layer, name), a)


def test_names_of_a_network():
    net = fl.Sequential(fl.LSTM(2, 3, bias=False), fl.Sequential(fl.LSTM(3, 4, bias=False), fl.Linear(4, 1)))
    assert set(net.state_dict()) == {
        "0.weight_ih_l0",
        "0.weight_hh_l0",
        "1.0.weight_ih_l0",
        "1.0.weight_hh_l0",
        "1.1.weight",
        "1.1.bias",
    }
    assert len(net) == 2
    assert net[1] is list(net)[1]
    assert_same_bits(net.state_dict()["1.1.weight"], net[1][1].weight)


def test_rows_are_in_the_order_i_f_g_o(dtype):
    """One cell, one step, by hand: x = 1, h = c = 0."""
    layer = fl.LSTM(1, 1, bias=False, peepholes=True, dtype=dtype)
    layer.weight_ih_l0 = np.array([[0.1], [0.2], [0.3], [0.4]], dtype)
    layer.weight_peephole_l0 = np.array([[9.0], [9.0], [0.7]], dtype)  # i and f see c = 0
    y, (_, c) = layer(np.ones((1, 1), dtype))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    state = sigmoid(0.1) * np.tanh(0.3)
    assert c.item() == pytest.approx(state, rel=1e-6)
    assert y.item() == pytest.approx(sigmoid(0.4 + 0.7 * state) * np.tanh(state), rel=1e-6)


def layers_of_each_kind(dtype):
    return [
        fl.LSTM(3, 5, 2, peepholes=True, gate_recurrence=True, dtype=dtype, seed=0),
        fl.LSTM1997(3, 3, 2, dtype=dtype, seed=0),
        fl.Linear(3, 5, dtype=dtype, seed=0),
        network(dtype),
    ]


def test_state_dict_is_a_copy_that_loads(dtype):
    for layer in layers_of_each_kind(dtype):
        x = numbers((4, layer._network.input_size), 1, dtype)
        y, before = layer(x)[0], layer.state_dict()
        for a in layer.state_dict().values():
            a += 1.0
        assert_same_bits(layer.state_dict(), before)
        layer.load_state_dict({name: np.zeros_like(a) for name, a in before.items()})
        assert not layer.parameters.any()
        assert np.abs(layer(x)[0] - y).max() > 1e-3
        layer.load_state_dict(before)
        assert_same_bits(layer(x)[0], y)
        assert_same_bits(layer.parameters, np.concatenate([a.ravel() for a in layer.state_dict().values()]))


def test_load_state_dict_takes_what_has_array(dtype):
    class Tensor:
        def __init__(self, a):
            self.a = a

        def __array__(self, dtype=None, copy=None):
            return self.a

    layer = fl.Linear(2, 3, dtype=dtype)
    layer.load_state_dict({"weight": Tensor(np.ones((3, 2), dtype)), "bias": [1, 2, 3]})
    assert layer.parameters.tolist() == [1.0] * 6 + [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"weight_hh_l0": None}, "weight_hh_l0"),
        ({"weight_xx": np.zeros(1, np.float32)}, "weight_xx"),
        ({"bias_hh_l0": np.zeros(19, np.float32)}, "bias_hh_l0"),
        ({"bias_hh_l0": np.zeros((1, 20), np.float32)}, "bias_hh_l0"),
        ({"bias_hh_l0": np.zeros(20)}, "bias_hh_l0"),
        ({"bias_hh_l0": np.zeros(20, np.int32)}, "bias_hh_l0"),
    ],
)
def test_load_state_dict_changes_nothing_if_it_raises(change, name):
    layer = fl.LSTM(3, 5)
    before = layer.state_dict()
    new = {key: np.ones_like(a) for key, a in before.items()} | change
    with pytest.raises((ValueError, TypeError), match=name):
        layer.load_state_dict({key: a for key, a in new.items() if a is not None})
    assert_same_bits(layer.state_dict(), before)


def test_attributes_are_read_only_views_and_may_be_assigned(dtype):
    layer = fl.LSTM(3, 5, dtype=dtype, seed=0)
    x = numbers((4, 3), 1, dtype)
    y, view = layer(x)[0], layer.weight_ih_l0
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        layer.parameters[0] = 1
    layer.weight_ih_l0 = 2 * view
    assert_same_bits(layer.weight_ih_l0, layer.state_dict()["weight_ih_l0"])
    assert np.abs(layer(x)[0] - y).max() > 1e-3
    layer.bias_ih_l0 = [1.0] * 20
    assert (layer.bias_ih_l0 == 1).all()
    for wrong in (np.zeros((20, 4), dtype), np.zeros((20, 3), np.int64), np.float16(1)):
        with pytest.raises((ValueError, TypeError), match="weight_ih_l0"):
            layer.weight_ih_l0 = wrong
    with pytest.raises(AttributeError, match="weight_ih_l1"):
        _ = layer.weight_ih_l1
    assert "weight_hh_l0" in dir(layer)


def test_layers_and_their_network_share_parameters(dtype):
    layer = with_weights(fl.LSTM(3, 5, dtype=dtype))
    x = numbers((4, 3), 1, dtype)
    net = fl.Sequential(layer, fl.Linear(5, 2, dtype=dtype, seed=0))
    layer.weight_ih_l0 = np.zeros((20, 3), dtype)
    assert not net.state_dict()["0.weight_ih_l0"].any()
    with_weights(net, 7)
    assert_same_bits(layer.weight_ih_l0, net.state_dict()["0.weight_ih_l0"])
    assert_same_bits(net(x)[0], net[1](layer(x)[0])[0])
    layer.grad[:] = 1
    assert net.grad.sum() == layer.parameters.size


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_layer_that_joins_a_network_misses_no_change(before, after):
    """However often it changed before it joined, and since."""
    layer, x = fl.Linear(2, 2, bias=False), np.ones((1, 2), np.float32)
    for k in range(before):
        layer.weight = np.full((2, 2), k, np.float32)
    layer(x)
    net = fl.Sequential(layer)
    for k in range(after):
        layer.weight = np.full((2, 2), 10 + k, np.float32)
    assert layer(x)[0].tolist() == net(x)[0].tolist() == [[2 * (9 + after)] * 2]


def test_a_layer_is_part_of_one_network_only():
    layer = fl.Linear(2, 2)
    fl.Sequential(layer)
    with pytest.raises(ValueError, match="layer 0"):
        fl.Sequential(layer)
    with pytest.raises(ValueError, match="layer 1"):
        fl.Sequential(fl.Linear(2, 3), fl.Linear(4, 1))
    with pytest.raises(ValueError, match="layer 1"):
        fl.Sequential(fl.Linear(2, 3), fl.Linear(3, 1, dtype="float64"))


def test_gradients_are_views_of_grad(dtype):
    for layer in layers_of_each_kind(dtype):
        assert not layer.grad.any()
        layer.grad[:] = layer.parameters
        assert_same_bits(layer.gradients(), layer.state_dict())  # in the same order
        for view in layer.gradients().values():
            view += 1
        assert_same_bits(layer.grad, layer.parameters + np.ones((), dtype))
        layer.zero_grad()
        assert not layer.grad.any()


@pytest.mark.parametrize("hold", [None, lambda net: net.grad, lambda net: net.grad[3:], lambda net: net.gradients()])
def test_zero_grad(hold):
    net, x = fl.Sequential(fl.LSTM(2, 3, seed=0), fl.Linear(3, 1, seed=1)), np.ones((4, 2, 2), np.float32)

    def add():
        y, _, backward = net.forward(x)
        backward(np.ones_like(y))

    add()
    once = net.grad.copy()
    held = hold and hold(net)  # who has a view sees what happens
    net.zero_grad()
    for array in held.values() if isinstance(held, dict) else () if held is None else (held,):
        assert not array.any()
    add()
    assert_same_bits(net.grad, once)
    if isinstance(held, np.ndarray):
        assert_same_bits(held, once[len(once) - len(held) :])
    add()
    assert_same_bits(net.grad, once + once)
    net.zero_grad()
    net.zero_grad()
    assert not net.grad.any()
    net.grad[:] = 1
    net[0].zero_grad()  # a part of it
    assert not net[0].grad.any() and (net[1].grad == 1).all()
    net.zero_grad()
    net[1].grad[0] = 2
    assert net.grad.sum() == 2
    net.zero_grad()
    y, _, backward = net[0].forward(x)
    backward(np.ones_like(y))
    assert net[0].grad.any() and not net[1].grad.any()


# Initialisation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fl.LSTM, fl.LSTM1997, fl.Linear])
def test_seeds(kind):
    def drawn(seed):
        return kind(3, 5, seed=seed).parameters

    assert_same_bits(drawn(1), drawn(1))
    assert_same_bits(drawn(np.random.default_rng(1)), drawn(1))
    one = np.random.default_rng(1)
    for a, b in ((1, 2), (None, None), (1, None), (one, one)):
        assert not np.array_equal(drawn(a), drawn(b))


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (fl.LSTM(50, 64, 2, peepholes=True, bidirectional=True, seed=0), 1 / 8),
        (fl.Linear(100, 60, seed=0), 1 / 10),
        (fl.LSTM1997(20, 15, 2, seed=0), 0.1),
        (fl.LSTM1997(20, 15, 2, init=0.2, seed=0), 0.2),
    ],
    ids=repr,
)
def test_initial_parameters_are_uniform(layer, bound):
    for name, a in layer.state_dict().items():
        assert np.abs(a).max() <= bound * (1 + 1e-6), name
        assert np.abs(a).max() > 0.9 * bound, name
        assert abs(a.mean()) < 3 * bound / np.sqrt(3 * a.size), name
        assert a.std() == pytest.approx(bound / np.sqrt(3), rel=0.2), name


def test_biases_of_1997(dtype):
    """Rows are input gates (3), cells (6), output gates (3)."""
    layer = fl.LSTM1997(4, 3, 2, input_gate_bias=[-1, -3, -5], output_gate_bias=-2, dtype=dtype, seed=0)
    plain = fl.LSTM1997(4, 3, 2, dtype=dtype, seed=0)
    assert layer.bias_ih_l0[:3].tolist() == [-1.0, -3.0, -5.0]
    assert layer.bias_ih_l0[9:].tolist() == [-2.0, -2.0, -2.0]
    assert_same_bits(layer.bias_ih_l0[3:9], plain.bias_ih_l0[3:9])
    assert_same_bits(layer.weight_ih_l0, plain.weight_ih_l0)
    with pytest.raises(ValueError, match="input_gate_bias"):
        fl.LSTM1997(4, 3, input_gate_bias=[-1, -3])
    with pytest.raises(ValueError, match="output_gate_bias"):
        fl.LSTM1997(4, 3, output_gate=False, output_gate_bias=-1)


def test_count_of_1997():
    assert fl.LSTM1997(8, 2, 2).parameters.size == 136  # experiment 6a: 156 with its 20 output weights
