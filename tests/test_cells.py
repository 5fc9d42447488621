"""GRU, RNN and the projected LSTM: outputs against the reference, the same bits, states, compact weights."""

import copy
import pickle

import numpy as np
import pytest
from conftest import (
    FUSED,
    assert_close,
    assert_same_bits,
    map_state,
    numbers,
    random_state,
    reference_forward,
    with_weights,
)

import fastlstm as fl

CELLS = {
    "gru": fl.GRU,
    "gru-before": lambda *sizes, **options: fl.GRU(*sizes, reset_after=False, **options),
    "rnn": fl.RNN,
    "projected": lambda *sizes, **options: fl.LSTM(*sizes, proj_size=(sizes[1] + 1) // 2, **options),
}
cells = pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
LENGTHS = [9, 1, 4, 9, 3]


@pytest.fixture(autouse=True)
def one_thread():
    yield
    fl.set_num_threads(1)


def stack(make, dtype="float32", inputs=3, hidden=33):
    """A network with the cell in one direction and in both."""
    both = make(hidden, hidden - 2, bidirectional=True, dtype=dtype, seed=2)
    one = make(inputs, hidden, dtype=dtype, seed=1)
    return fl.Sequential(one, fl.Linear(one._network.output_size, hidden, dtype=dtype, seed=3), both)


@cells
@pytest.mark.parametrize(
    "inputs, hidden, steps, lanes", [(1, 2, 1, 1), (3, 16, 40, 1), (17, 15, 9, 5), (2, 33, 9, 64), (3, 257, 3, 3)]
)
def test_outputs_are_the_references(isa, dtype, make, inputs, hidden, steps, lanes):
    layer = with_weights(make(inputs, hidden, dtype=dtype), scale=0.3)
    x, state = numbers((steps, lanes, inputs), dtype=dtype), random_state(layer, lanes)
    assert_close(layer(x, state), reference_forward(layer, x, state), "forward")


@cells
def test_lengths_resets_and_directions(isa, dtype, make):
    net = stack(make, dtype)
    x, reset = numbers((9, 5, 3), dtype=dtype), np.random.default_rng(0).random((9, 5)) < 0.2
    padded = x.copy()
    for b, length in enumerate(LENGTHS):
        padded[length:, b] = np.nan
    assert_close(net(padded, None, LENGTHS, reset), reference_forward(net, x, None, LENGTHS, reset), "forward")


@cells
@pytest.mark.parametrize("inputs, hidden, lanes", [(1, 2, 3), (3, 16, 7), (40, 100, 200), (3, 257, 5)])
def test_step_run_batch_and_threads_have_the_same_bits(make, inputs, hidden, lanes):
    layer = make(inputs, hidden, 2, seed=0)
    x, state = numbers((12, lanes, inputs), dtype="float32"), random_state(layer, lanes)
    y, after = layer(x, state)
    for b in (0, lanes - 1):
        alone = map_state(lambda a, b=b: np.ascontiguousarray(a[:, b : b + 1]), state)
        y_alone, _ = layer(x[:, b], alone)
        assert_same_bits(y_alone, y[:, b])
        stream = layer.stream()
        stream.state = alone
        assert_same_bits(np.stack([stream.step(row) for row in x[:, b]]), y[:, b])
    stream = layer.stream(lanes)
    stream.state = state
    assert_same_bits((stream.run(x), stream.state), (y, after))
    for threads in (2, 3):
        fl.set_num_threads(threads)
        assert_same_bits(layer(x, state), (y, after))
    ragged, _ = layer([x[: 1 + b % 12, b] for b in range(lanes)], state)
    for b, part in enumerate(ragged):
        assert_same_bits(part, y[: 1 + b % 12, b])


@cells
@pytest.mark.skipif(len(FUSED) < 2, reason="one instruction set alone has multiply-add here")
def test_every_instruction_set_with_multiply_add_has_the_same_bits(make, select_isa):
    results = []
    for name in FUSED:
        select_isa(name)
        results.append(stack(make)(numbers((9, 5, 3), dtype="float32"), lengths=LENGTHS))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@cells
@pytest.mark.parametrize("weights, tolerance", [("float16", 2e-3), ("int16", 2e-3), ("int8", 0.06)])
def test_compact_weights(isa, make, weights, tolerance):
    layer = make(5, 37, seed=0)
    x = numbers((30, 3, 5), dtype="float32")
    exact, compact = layer.stream(3).run(x), layer.stream(3, weights=weights)
    y = compact.run(x)
    assert 0 < np.abs(y - exact).max() < tolerance
    for b in range(3):
        assert_same_bits(np.stack([s.step(row) for s in [layer.stream(weights=weights)] for row in x[:, b]]), y[:, b])
    if weights == "float16":  # arithmetic is that of a layer with these weights
        rounded = {
            name: a.astype(np.float16).astype(np.float32) if a.ndim == 2 else a
            for name, a in layer.state_dict().items()
        }
        layer.load_state_dict(rounded)
        assert_same_bits(layer.stream(3).run(x), y)


def test_a_state_is_what_pytorch_has():
    x = np.ones((4, 2, 3), np.float32)
    for layer in (fl.GRU(3, 5, 2, bidirectional=True, seed=0), fl.RNN(3, 5, 2, bidirectional=True, seed=0)):
        y, h = layer(x)
        assert y.shape == (4, 2, 10) and isinstance(h, np.ndarray) and h.shape == (4, 2, 5)
        assert_same_bits(h[2], y[-1, :, :5])
    y, (h, c) = fl.LSTM(3, 5, 2, proj_size=2, seed=0)(x)
    assert (y.shape, h.shape, c.shape) == ((4, 2, 2), (2, 2, 2), (2, 2, 5))
    net = fl.Sequential(fl.GRU(3, 4, seed=0), fl.LSTM(4, 5, seed=0), fl.Linear(5, 1, seed=0))
    _, (first, second) = net(x)
    assert first.shape == (1, 2, 4) and [a.shape for a in second] == [(1, 2, 5)] * 2
    stream = net.stream(2)
    stream.run(x)
    stream.reset([True, False])
    h, (h2, c2) = stream.state
    assert not (h[:, 0].any() or h2[:, 0].any() or c2[:, 0].any()) and h[:, 1].all() and c2[:, 1].all()
    for bad in ((first, first), first[:, :1], None):
        with pytest.raises((ValueError, TypeError), match=r"state\[0\]"):
            net(x, [bad, second])


@cells
def test_copies_and_pickles_run_alike(make):
    layer, x = make(3, 8, 2, seed=0), numbers((5, 2, 3), dtype="float32")
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_same_bits(other(x), layer(x))
        assert repr(other) == repr(layer)
    stream = layer.stream(2)
    stream.run(x)
    assert_same_bits(pickle.loads(pickle.dumps(stream)).run(x), stream.copy().run(x))


def test_names_shapes_and_orders_are_pytorchs():
    gru = fl.GRU(3, 5, bidirectional=True, seed=0)
    assert {name: a.shape for name, a in gru.state_dict().items()} == {
        f"{name}_l0{way}": shape
        for way in ("", "_reverse")
        for name, shape in {"weight_ih": (15, 3), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,)}.items()
    }
    assert fl.LSTM(3, 5, 2, proj_size=2, seed=0).weight_hr_l1.shape == (2, 5)
    assert fl.LSTM(3, 5, 2, proj_size=2, seed=0).weight_ih_l1.shape == (20, 2)


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda: fl.LSTM(2, 4, proj_size=4), "proj_size"),
        (lambda: fl.LSTM(2, 4, proj_size=-1), "proj_size"),
        (lambda: fl.RNN(2, 4, nonlinearity="swish"), "nonlinearity"),
        (lambda: fl.RNN(2, 4, nonlinearity=("elu", -1)), "nonlinearity"),
        (lambda: fl.RNN(2, 4, nonlinearity=("tanh", 1)), "nonlinearity"),
        (lambda: fl.RNN(2, 4, nonlinearity=("scaled_tanh", 0)), "nonlinearity"),
        (lambda: fl.RNN(2, 4, nonlinearity=("affine", float("nan"))), "nonlinearity"),
        (lambda: fl.GRU(2, 4, reset_after=None), "reset_after"),
        (lambda: fl.GRU(0, 4), "input_size"),
        (lambda: fl.OnlineLearner(fl.GRU(2, 4)), "net"),
        (lambda: fl.OnlineLearner(fl.LSTM(2, 4, proj_size=2)), "net"),
    ],
)
def test_wrong_options_are_named(make, word):
    with pytest.raises((ValueError, TypeError), match=word) as caught:
        make()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_nan_is_kept_by_every_cell_and_stays_in_its_lane(isa):
    for make in CELLS.values():
        layer, x = make(2, 5, seed=0), numbers((6, 3, 2), dtype="float32")
        good, _ = layer(x)
        x[2, 1, 0] = np.nan
        y, _ = layer(x)
        assert_same_bits(y[:, [0, 2]], good[:, [0, 2]])
        assert_same_bits(y[:2], good[:2])
        assert np.isnan(y[2:, 1]).all()
