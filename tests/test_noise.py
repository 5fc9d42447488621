"""Dropout, recurrent dropout and zoneout: what is drawn, its gradient, and that runs which learn nothing have none."""

import copy
import pickle

import numpy as np
import pytest
from conftest import assert_same_bits, map_state, numbers, random_state, state_of, state_parts, with_weights

import fastlstm as fl

T, B = 7, 5
LENGTHS = [7, 1, 4, 7, 3]
NOISY = {
    "dropout": lambda dtype: fl.LSTM(3, 6, 3, dropout=0.4, bidirectional=True, dtype=dtype, seed=0),
    "recurrent": lambda dtype: fl.LSTM(
        3, 6, recurrent_dropout=0.4, peepholes=True, gate_recurrence=True, dtype=dtype, seed=0
    ),
    "zoneout": lambda dtype: fl.LSTM(3, 6, 2, zoneout=(0.2, 0.5), bidirectional=True, dtype=dtype, seed=0),
    "projected": lambda dtype: fl.LSTM(
        3, 6, zoneout=0.3, recurrent_dropout=0.3, proj_size=4, clip=0.5, dtype=dtype, seed=0
    ),
    "gru": lambda dtype: fl.GRU(3, 6, 2, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3, dtype=dtype, seed=0),
    "gru-before": lambda dtype: fl.GRU(
        3, 6, 2, reset_after=False, recurrent_dropout=0.3, zoneout=0.3, dtype=dtype, seed=0
    ),
    "rnn": lambda dtype: fl.RNN(3, 6, 2, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3, dtype=dtype, seed=0),
    "network": lambda dtype: fl.Sequential(
        fl.Linear(3, 4, dropout=0.3, activation="tanh", dtype=dtype, seed=0),
        fl.LSTM(4, 5, zoneout=0.1, dtype=dtype, seed=1),
        fl.GRU(5, 6, recurrent_dropout=0.5, dtype=dtype, seed=2),
        fl.Linear(6, 6, dropout=0.5, dtype=dtype, seed=3),
    ),
}
noisy = pytest.mark.parametrize("make", NOISY.values(), ids=NOISY)


@pytest.fixture(autouse=True)
def one_thread():
    yield
    fl.set_num_threads(1)


@noisy
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_gradients_are_those_of_what_was_drawn(make, lengths):
    net = with_weights(make("float64"))
    x, state, dstate = numbers((T, B, 3)), random_state(net, B), random_state(net, B, 9)
    reset = np.random.default_rng(5).random((T, B)) < 0.2
    start, mask = net._rng_state(), np.arange(T)[:, None, None] < np.reshape(lengths or [T] * B, (1, B, 1))
    entries = lambda s: [a for e in (s if isinstance(net, fl.Sequential) else [s]) for a in state_parts(e)]  # noqa: E731

    def forward(x, state):
        net._set_rng_state(start)
        return net.forward(x, state, lengths, reset)

    y, after, backward = forward(x, state)
    dy = numbers(y.shape, 3)
    dx, dfirst = backward(dy, dstate)

    def value(x, state):
        y, after, _ = forward(x, state)
        return (y * dy * mask).sum() + sum((a * d).sum() for a, d in zip(entries(after), entries(dstate), strict=True))

    r = np.random.default_rng(0)
    for _ in range(3):
        way = r.normal(size=x.shape)
        slope = (value(x + 1e-6 * way, state) - value(x - 1e-6 * way, state)) / 2e-6
        np.testing.assert_allclose((dx * way).sum(), slope, rtol=1e-6, atol=1e-7)
        ways = map_state(lambda a: r.normal(size=a.shape), state)
        moved = [
            random_like(state, [a + e * w for a, w in zip(entries(state), entries(ways), strict=True)])
            for e in (1e-6, -1e-6)
        ]
        slope = (value(x, moved[0]) - value(x, moved[1])) / 2e-6
        total = sum((d * w).sum() for d, w in zip(entries(dfirst), entries(ways), strict=True))
        np.testing.assert_allclose(total, slope, rtol=1e-6, atol=1e-7)
        flat, way, sides = net.parameters.copy(), r.normal(size=net.parameters.size), []
        for sign in (1, -1):
            net._parameters.fetch()[:] = flat + sign * 1e-6 * way
            net._parameters.changed()
            sides.append(value(x, state))
        net._parameters.fetch()[:] = flat
        net._parameters.changed()
        np.testing.assert_allclose(net.grad @ way, (sides[0] - sides[1]) / 2e-6, rtol=1e-6, atol=1e-7)


def random_like(state, arrays):
    """A state of the same form with these arrays."""
    arrays = iter(arrays)
    fill = lambda entry: state_of([next(arrays) for _ in state_parts(entry)])  # noqa: E731
    return [fill(entry) for entry in state] if isinstance(state, list) else fill(state)


@noisy
def test_draws_do_not_depend_on_threads_or_copies(isa, make):
    net, x = make("float32"), numbers((40, 9, 3), dtype="float32")
    results = []
    for other, threads in ((copy.deepcopy(net), 1), (pickle.loads(pickle.dumps(net)), 2), (net, 3)):
        fl.set_num_threads(threads)
        for _ in range(2):  # the second call draws anew
            other.zero_grad()
            y, state, backward = other.forward(x)
            results.append((y, state, backward(y), other.grad.copy()))
    assert_same_bits(results[2:4] + results[4:], results[:2] * 2)
    assert (results[0][0] != results[1][0]).any()


def test_a_call_has_no_dropout_and_the_mean_of_zoneout():
    plain, x = fl.LSTM(3, 6, 2, seed=0), numbers((T, B, 3), dtype="float32")
    for options in ({"dropout": 0.5}, {"recurrent_dropout": 0.5}):
        other = fl.LSTM(3, 6, 2, seed=0, **options)
        assert_same_bits((other(x), other.stream(B).run(x)), (plain(x), plain.stream(B).run(x)))
    for make in (fl.LSTM, fl.GRU, fl.RNN):
        plain, zoned = make(3, 6, seed=0), make(3, 6, seed=0, zoneout=0.25)
        before = random_state(plain, B)
        y, state = zoned(x, before)
        for t in range(T):
            _, new = plain(x[t : t + 1], before)
            parts = zip(state_parts(before), state_parts(new), strict=True)
            before = random_like(before, [0.25 * a + 0.75 * b for a, b in parts])
            np.testing.assert_allclose(y[t], state_parts(before)[0][0], rtol=1e-5, atol=1e-6)
        stream = zoned.stream(B, weights="int8" if make is fl.LSTM else "float32")
        assert np.abs(stream.run(x) - zoned(x)[0]).max() < 0.05


@pytest.mark.parametrize("make", [fl.LSTM, fl.GRU, fl.RNN])
def test_zoneout_keeps_units_with_its_probability(make):
    plain, zoned = make(3, 50, seed=0), make(3, 50, seed=0, zoneout=0.3)
    x, state = numbers((1, 80, 3), dtype="float32"), random_state(plain, 80)
    (_, free), (_, after, _) = plain(x, state), zoned.forward(x, state)
    for before, new, got in zip(*map(state_parts, (state, free, after)), strict=True):
        stays = got == before
        assert_same_bits(got, np.where(stays, before, new))
        assert abs(stays.mean() - 0.3) < 0.03  # 4 standard deviations of 4,000 draws


def test_recurrent_dropout_drops_the_same_units_at_all_steps():
    rnn = fl.RNN(1, 60, nonlinearity="identity", bias=False, recurrent_dropout=0.25, dtype="float64", seed=0)
    rnn.weight_ih_l0, rnn.weight_hh_l0 = np.zeros((60, 1)), np.eye(60)
    y, _, _ = rnn.forward(np.zeros((3, 40, 1)), np.ones((1, 40, 60)))
    kept = y[0] != 0
    assert abs(kept.mean() - 0.75) < 0.04
    for t in range(3):
        np.testing.assert_allclose(y[t], np.where(kept, (4 / 3) ** (t + 1), 0), rtol=1e-12)
    assert len({row.tobytes() for row in kept}) == 40  # each lane has its own


def test_dropout_is_of_single_elements_and_the_same_in_float32():
    x = np.ones((50, 10, 20))
    ys = []
    for dtype in ("float32", "float64"):
        linear = fl.Linear(20, 20, bias=False, dropout=0.1, dtype=dtype, seed=0)
        linear.weight = np.eye(20, dtype=dtype)
        ys.append(linear.forward(x.astype(dtype))[0])
        np.testing.assert_allclose(ys[-1], np.where(ys[-1] != 0, 1 / 0.9, 0), rtol=1e-6)
        assert abs((ys[-1] == 0).mean() - 0.1) < 0.012
    assert ((ys[0] == 0) == (ys[1] == 0)).all()
    # Both directions read the same inputs.
    lstm = fl.LSTM(3, 4, 2, bidirectional=True, dropout=0.5, seed=0)
    assert [spec["stream"] for spec in lstm._specs] == [0, 0, 1, 1]
    assert [spec["dropout"] for spec in lstm._specs] == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "zoneout"])
@pytest.mark.parametrize("value", [1, 1.0, -0.1, float("nan"), "0.5", None, (0.1,), True])
def test_rates_are_checked(name, value):
    for make in (fl.LSTM, fl.GRU, fl.RNN):
        with pytest.raises((ValueError, TypeError), match=name):
            make(2, 3, **{name: value})
    with pytest.raises((ValueError, TypeError), match="zoneout"):
        fl.GRU(2, 3, zoneout=(0.1, 0.2))


def test_a_learner_refuses_noise():
    with pytest.raises(ValueError, match="net"):
        fl.OnlineLearner(fl.LSTM(2, 3, zoneout=0.1))
