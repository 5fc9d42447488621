"""The rivals of the 1997 paper's tables: their gradients against finite differences, and that they learn."""

import copy

import numpy as np
import pytest

from fastlstm import experiments
from fastlstm.experiments import rivals
from fastlstm.experiments._shortcut import ShortcutNet, sigmoid
from fastlstm.experiments._task import Batch
from fastlstm.experiments.cascade import Cascade, Quickprop


def rng(seed=0):
    return np.random.default_rng(seed)


def half_squares(ys, targets):
    return 0.5 * float(np.sum((ys - targets) ** 2))


def numeric(loss, array, eps=1e-6):
    """Gradient of loss() with respect to an array that it reads."""
    out = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + eps
        high = loss()
        array[index] = kept - eps
        out[index] = (high - loss()) / (2 * eps)
        array[index] = kept
    return out


@pytest.mark.parametrize("unit, low", [("cell", 0.0), ("cell", -1.0), ("logistic", 0.0)])
def test_the_net_of_2a_has_the_exact_gradient(unit, low):
    net = ShortcutNet(rng(1), 5, unit, "sequence", rate=1e-3, patience=0, low=low)
    symbols, following = rng(2).integers(0, 5, (2, 7))
    targets = np.eye(5)[following]
    names = ["shortcut", "out", "cell"] + (["gate"] if unit == "cell" else [])
    loss = lambda: half_squares(net._outputs(symbols)[0], targets)  # noqa: E731
    expected = {name: numeric(loss, getattr(net, name)) for name in names}
    before = copy.deepcopy(net)
    net._sequence(symbols, following)
    for name in names:
        change = (getattr(net, name) - getattr(before, name)) / -net.rate
        assert np.allclose(change, expected[name], atol=1e-7), name
    if unit == "logistic":
        loop = lambda: half_squares(before._outputs(symbols)[0], targets)  # noqa: E731
        before.loop = np.array(before.loop)
        assert (net.loop - float(before.loop)) / -net.rate == pytest.approx(float(numeric(loop, before.loop)), abs=1e-7)


@pytest.mark.parametrize("unit", ["cell", "logistic"])
def test_forward_and_backward_in_time_agree_for_small_rates(unit):
    nets = [ShortcutNet(rng(1), 5, unit, update, rate=1e-7, patience=0) for update in ("step", "sequence")]
    start = copy.deepcopy(nets[0])
    symbols, following = rng(2).integers(0, 5, (2, 7))
    batch = Batch(np.eye(5)[symbols], np.eye(5)[following], np.array([6]))
    for net in nets:
        net.learn(batch)
    for name in ("shortcut", "out", "cell", "gate", "loop"):
        one, two = ((getattr(net, name) - getattr(start, name)) / 1e-7 for net in nets)
        assert np.allclose(one, two, atol=1e-5), name


def test_the_cell_comes_when_the_error_has_stopped_falling():
    net = ShortcutNet(rng(), 5, patience=3, falling=0.9)
    for error in (9, 8, 7, 6, 5, 4, 3, 3, 3):
        net._grow(error)
        assert not net.present
    for _ in range(3):
        net._grow(3)
    assert net.present


def test_real_time_recurrent_learning_is_the_gradient_through_time():
    net = rivals.RealTime(rng(3), 2, 2, 1, lr=1e-8, init=0.8)
    xs, targets = rng(4).normal(size=(6, 2)), np.full((6, 1), np.nan)
    targets[[3, 5], 0] = 0.9, 0.2
    batch = Batch(xs, targets, np.array([5]))

    def loss():
        y, total = np.zeros(3), 0.0
        for x, target in zip(xs, targets, strict=True):
            y = sigmoid(net._w @ np.concatenate([y, x]))
            total += 0.0 if np.isnan(target[0]) else 0.5 * (y[-1] - target[0]) ** 2
        return total

    expected, before = numeric(loss, net._w), net._w.copy()
    ys = net.learn(batch)
    assert np.allclose((net._w - before) / -1e-8, expected, atol=1e-6) and np.abs(expected).min() > 0
    assert np.allclose(net.predict(batch), ys, atol=1e-6)


def test_elmans_gradient_goes_back_one_step():
    """The gradient of the loss when the hidden units' last outputs are held as they are."""
    net = rivals.Elman(rng(5), 3, 4, 2, lr=1e-3, init=0.5)
    xs, targets = rng(6).normal(size=(5, 3)).astype("f4"), rng(7).uniform(size=(5, 2)).astype("f4")
    w = {name: a.astype(float) for name, a in net.net.state_dict().items()}
    h = net.net[0](xs)[0].astype(float)
    before = np.concatenate([np.zeros((1, 4)), h[:-1]])

    def loss():
        hidden = sigmoid(xs @ w["0.weight_ih_l0"].T + before @ w["0.weight_hh_l0"].T)
        return half_squares(sigmoid(hidden @ w["1.weight"].T), targets)

    expected = {name: numeric(loss, a) for name, a in w.items()}
    net.learn(Batch(xs, targets, np.array([4])))
    for name, a in net.net.state_dict().items():
        assert np.allclose((a - w[name]) / -1e-3, expected[name], atol=2e-4), name


def test_candidates_climb_their_covariance():
    its = experiments.find("1-5")[0].trial(0, 0)
    net = Cascade(rng(8), 7, 7, pool=2)
    batch = its.training.part(0, 12)
    sources, error = net._sources(batch), rng(9).normal(size=(batch.lengths.max(), 12, 7))
    places, there = batch.places, np.zeros((batch.lengths.max(), 12))
    there[places] = 1
    error *= there[..., None]
    net._w, net._loop = rng(10).normal(size=(2, sources.shape[2])), rng(11).normal(size=2)
    centred = (error - error.sum(axis=(0, 1)) / there.sum()) * there[..., None]

    class Keep:
        def step(self, w, gradient):
            self.gradient = gradient

    def score():
        values = net._unit(sources, net._w, net._loop)
        return float(np.abs(np.einsum("tnp,tno->po", values, centred)).sum())

    net._rules = Keep(), Keep()
    net._candidates(sources, error, places)
    scale = -10.0 / len(places[0])
    for keep, array in zip(net._rules, (net._w, net._loop), strict=True):
        assert np.allclose(keep.gradient / scale, numeric(score, array), atol=1e-4)


def test_cascade_adds_units_and_lessens_the_error():
    its = experiments.find("1-5")[0].trial(0, 0)
    net = Cascade(rng(1), 7, 7)
    errors = [half_squares(net.learn(its.training), its.training.targets) for _ in range(250)]
    assert len(net._hidden) >= 2 and errors[-1] < 0.85 * errors[20]
    assert np.allclose(net.predict(its.training), sigmoid(net._sources(its.training) @ net._out.T)[its.training.places])


def test_quickprop_finds_the_minimum_of_a_parabola():
    w, rule = np.array([3.0, -2.0]), Quickprop((2,), 0.1, decay=0.0)
    for _ in range(12):
        rule.step(w, w - np.array([1.0, 0.5]))
    assert np.allclose(w, [1.0, 0.5], atol=1e-3)


def test_the_chunker_closes_the_gap_that_the_automatizer_leaves():
    """It is shown x, ..., x or y, ..., y alone, and so predicts the last symbol from the first."""
    its = experiments.find("2a-1")[0]
    net = rivals.Chunker(rng(1), 5, 1.0)
    before = its.judge(its.draw(rng(3), 8), net.predict(its.draw(rng(3), 8)))[1].mean()
    net.learn(its.draw(rng(2), 1500))
    for symbol in (3, 4):
        assert net._forward(net._c, np.array([symbol]))[0][0].argmax() == symbol
    batch = its.draw(rng(3), 8)
    ys = net.predict(batch)
    assert its.judge(batch, ys)[1].mean() < 0.3 * before
    middle = np.ones(len(ys), bool)
    middle[batch.ends] = False
    assert np.array_equal(ys[middle].argmax(axis=1), batch.targets[middle].argmax(axis=1))


def test_the_hidden_markov_model_learns_the_local_grammar():
    pytest.importorskip("hmmlearn")
    its = experiments.find("1-5")[0].trial(0, 0)
    learner = experiments.METHODS["hmm"](its, rng(1), states=10, iterations=10)
    ys = learner.learn(its.training)
    assert np.allclose(ys.sum(axis=1), 1, atol=1e-3)
    legal = np.where(its.training.extra, ys, 0).sum(axis=1).mean()
    assert legal > 0.5  # 0.2 by chance
