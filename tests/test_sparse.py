"""Inputs of which few are not zero (csrc/sparse.h): the bits of a network that reads them as any others."""

import numpy as np
import pytest

import fastlstm as fl

BIT = {np.float32: np.uint32, np.float64: np.uint64}
CELLS = [
    (fl.LSTM, {}),
    (fl.LSTM, {"peepholes": True, "bias": False}),
    (fl.LSTM, {"coupled_gates": True}),
    (fl.LSTM, {"gate_recurrence": True}),
    (fl.LSTM, {"block_size": 2}),
    (fl.LSTM, {"block_size": 3}),
    (fl.LSTM, {"proj_size": 5}),
    (fl.LSTM, {"bidirectional": True, "num_layers": 2}),
    (fl.LSTM, {"recurrent_dropout": 0.3, "zoneout": 0.1}),
    (fl.LSTM, {"dropout": 0.5, "num_layers": 2}),
    (fl.GRU, {}),
    (fl.GRU, {"reset_after": False}),
    (fl.RNN, {"nonlinearity": "relu"}),
]


def few(rng, shape, most, dtype):
    """Rows with 0 to `most` numbers that are not zero."""
    x = np.zeros(shape, dtype)
    for row in x.reshape(-1, shape[-1]):
        at = rng.choice(shape[-1], rng.integers(0, most + 1), replace=False)
        row[at] = rng.choice([1, 1, -0.7, 1.3], len(at))
    return x


def beside(cell, options, inputs, hidden, dtype):
    """A layer, and the same one with five inputs more, of weight zero: rows where these are ones are not sparse."""
    layer = cell(inputs, hidden, dtype=dtype, seed=1, **options)
    wide = cell(inputs + 5, hidden, dtype=dtype, seed=1, **options)
    state = layer.state_dict()
    for name in [name for name in state if name.startswith("weight_ih_l0")]:
        state[name] = np.concatenate([state[name], np.zeros((len(state[name]), 5), dtype)], 1)
    wide.load_state_dict(state)
    return layer, wide


def same(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    kind = BIT[a.dtype.type]
    return a.shape == b.shape and np.array_equal(a.view(kind), b.view(kind))


def training(layer, x, dy, **options):
    y, state, backward = layer.forward(x, **options)
    dx, _ = backward(dy)
    return y, dx, layer.gradients()


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=[f"{c.__name__}-{o}" for c, o in CELLS])
@pytest.mark.parametrize(("inputs", "hidden", "lanes", "steps"), [(80, 18, 3, 45), (32, 6, 60, 7), (130, 36, 1, 70)])
def test_bits_of_any_other_inputs(cell, options, inputs, hidden, lanes, steps, dtype, isa):
    rng = np.random.default_rng(0)
    if "block_size" in options:
        hidden = hidden // 6 * 6
    layer, wide = beside(cell, options, inputs, hidden, dtype)
    x = few(rng, (steps, lanes, inputs), 4, dtype)
    wider = np.concatenate([x, np.ones((steps, lanes, 5), dtype)], 2)
    assert same(layer(x)[0], wide(wider)[0])
    lengths = rng.integers(1, steps + 1, lanes)
    reset = rng.random((steps, lanes)) < 0.1
    dy = rng.standard_normal(layer(x)[0].shape).astype(dtype)
    for more in ({}, {"lengths": lengths}, {"reset": reset}):
        layer.grad[:] = wide.grad[:] = 0
        for _ in range(2):  # the second gradient is added to the first
            y, dx, found = training(layer, x, dy, **more)
            y_wide, dx_wide, wanted = training(wide, wider, dy, **more)
            assert same(y, y_wide) and same(dx, dx_wide[..., :inputs])
        for name, a in found.items():
            b = wanted[name]
            assert same(a, b[:, :inputs] if name.startswith("weight_ih_l0") else b), name


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_and_spans(threads):
    rng = np.random.default_rng(1)
    layer = fl.LSTM(50, 70, seed=0)
    x, dy = few(rng, (64, 32, 50), 1, np.float32), rng.standard_normal((64, 32, 70)).astype(np.float32)
    _, dx, gradients = training(layer, x, dy)
    wanted = {name: a.copy() for name, a in gradients.items()}
    fl.set_num_threads(threads)
    for more in ({}, {"recompute": 16}):
        layer.zero_grad()
        _, again, found = training(layer, x, dy, **more)
        assert same(dx, again) and all(same(found[name], a) for name, a in wanted.items())


def test_a_row_with_more_and_a_row_with_nothing():
    rng = np.random.default_rng(2)
    layer, wide = beside(fl.LSTM, {}, 40, 9, np.float32)
    x = few(rng, (20, 4, 40), 1, np.float32)
    x[3, 2] = 0
    x[11, 1, 7:12] = 1  # five of them: none of these rows is read apart
    wider = np.concatenate([x, np.ones((20, 4, 5), np.float32)], 2)
    dy = rng.standard_normal((20, 4, 9)).astype(np.float32)
    y, dx, found = training(layer, x, dy)
    y_wide, dx_wide, wanted = training(wide, wider, dy)
    assert same(y, y_wide) and same(dx, dx_wide[..., :40])
    assert same(found["weight_ih_l0"], wanted["weight_ih_l0"][:, :40])


def test_nan_spoils_its_lane_alone():
    layer = fl.LSTM(40, 9, seed=0)
    x = few(np.random.default_rng(3), (6, 8, 40), 2, np.float32)
    clean = layer(x)[0]
    x[2, 5, 30] = np.nan
    y = layer(x)[0]
    assert np.isnan(y[2:, 5]).all() and same(y[:2], clean[:2])
    assert same(np.delete(y, 5, 1), np.delete(clean, 5, 1))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("gradient", ["bptt", "carried-bptt", "truncated-rtrl"])
@pytest.mark.parametrize("optimizer", [fl.SGD, fl.RMSprop, fl.Adam])
def test_a_chunk_of_a_learner(lanes, gradient, optimizer):
    rng = np.random.default_rng(4)
    for inputs, hidden in ((40, 7), (96, 140)):  # the second one has updates group by group
        x, targets = few(rng, (16, lanes, inputs), 1, np.float32), rng.integers(-1, 3, (16, lanes))
        wider = np.concatenate([x, np.ones((16, lanes, 5), np.float32)], 2)
        outputs, states = [], []
        for layer, read in zip(beside(fl.LSTM, {}, inputs, hidden, np.float32), (x, wider), strict=True):
            net = fl.Sequential(layer, fl.Linear(hidden, 3, seed=2))
            learner = fl.OnlineLearner(net, "cross_entropy", optimizer(net, lr=0.01), gradient, 16, lanes)
            outputs.append(learner.run(read, targets))
            states.append(net.state_dict())
        assert same(*outputs)
        for name, a in states[0].items():
            b = states[1][name]
            assert same(a, b[:, :inputs] if "weight_ih" in name else b), name


AT_REST = [
    (fl.LSTM, {}),
    (fl.LSTM, {"peepholes": True, "bias": False}),
    (fl.LSTM, {"gate_recurrence": True}),
    (fl.LSTM, {"block_size": 2}),
    (fl.LSTM, {"proj_size": 34}),
    (fl.LSTM, {"bidirectional": True, "num_layers": 2}),
    (fl.LSTM, {"recurrent_dropout": 0.3}),
    (fl.GRU, {}),
    (fl.GRU, {"reset_after": False}),
    (fl.RNN, {}),
]


@pytest.mark.parametrize(("cell", "options"), AT_REST, ids=[f"{c.__name__}-{o}" for c, o in AT_REST])
@pytest.mark.parametrize(("hidden", "lanes"), [(36, 1), (36, 3), (130, 40)])
def test_sequences_begin_at_rest(cell, options, hidden, lanes, dtype, isa):
    rng, steps = np.random.default_rng(5), 5
    layer, net = (cell(7, hidden, dtype=dtype, seed=1, **options) for _ in range(2))
    x, reset = rng.standard_normal((steps, lanes, 7)).astype(dtype), rng.random((steps, lanes)) < 0.2
    lengths = rng.integers(1, steps + 1, lanes)
    tiny = 1e-20 if dtype == np.float32 else 1e-100  # times weights, it is less than any bit of a sum
    for more in ({}, {"lengths": lengths}, {"reset": reset}):
        state = layer(x)[1]
        h = np.full_like(state[0] if isinstance(state, tuple) else state, tiny)
        moved = (h, *(np.zeros_like(a) for a in state[1:])) if isinstance(state, tuple) else h
        assert same(layer(x, **more)[0], layer(x, moved, **more)[0])
        layer.zero_grad(), net.zero_grad()
        for _ in range(2):  # the second gradient is added to the first
            y, _, backward = layer.forward(x, **more)
            dy = np.cos(y)
            dx, _ = backward(dy)
            y_moved, _, backward = net.forward(x, moved, **more)
            dx_moved, _ = backward(dy)
            assert same(y, y_moved) and same(dx, dx_moved)
        for name, a in net.gradients().items():
            assert same(layer.gradients()[name], a), name


def test_a_first_step_alone_has_no_gradient_of_recurrent_weights():
    layer, x = fl.LSTM(3, 40, seed=0), np.ones((1, 70, 3), np.float32)
    for _ in range(2):
        y, _, backward = layer.forward(x)
        backward(y)
        assert not layer.gradients()["weight_hh_l0"].any()
        assert layer.gradients()["weight_ih_l0"].any()
    moved = tuple(a + np.float32(0.5) for a in layer(x)[1])
    y, _, backward = layer.forward(x, moved)
    backward(y)
    assert layer.gradients()["weight_hh_l0"].all()
