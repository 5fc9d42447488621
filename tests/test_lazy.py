"""Updates at every step whose writing is put off (csrc/lazy.h), against those that are written at once."""

import pickle

import numpy as np
import pytest
from conftest import FUSED

import fastlstm as fl
from fastlstm import _core

STEPS = 50  # some windows of FL_LAZY steps, and a part of one


def learner(lazy, options, dtype="float64", momentum=0.0, hidden=20, inputs=5):
    """One that puts updates off or not; None: as sizes say."""
    net = fl.Sequential(
        fl.LSTM(inputs, hidden, seed=0, dtype=dtype, **options), fl.Linear(hidden, 3, seed=1, dtype=dtype)
    )
    made = fl.OnlineLearner(net, loss="mse", optimizer=fl.SGD(net, lr=0.05, momentum=momentum, decay=0.999))
    if lazy is not None:
        made._core = _core.StepLearner(net._network, net._parameters, _core.LOSSES["mse"], made.optimizer, 1, lazy=lazy)
    return made


def lesson(dtype="float64", inputs=5, steps=STEPS):
    """Inputs, targets of most steps, and where episodes start."""
    r = np.random.default_rng(0)
    x, targets = r.normal(size=(steps, inputs)).astype(dtype), r.normal(size=(steps, 3)).astype(dtype)
    targets[r.random(steps) < 0.3] = np.nan
    return x, targets, r.random(steps) < 0.05


def learnt(made):
    velocity = made.optimizer.state_dict()["velocity"]
    return [made.net.parameters.copy(), made.state, *([] if velocity is None else [velocity])]


def flat(values):
    return np.concatenate(
        [np.ravel(leaf) for value in values for leaf in (value if isinstance(value, tuple) else [value])]
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": "single"},
        {"bias": False},
        {"forget_gate": False},
        {"input_gate": False},
        {"output_gate": False},
        {"input_gate": False, "forget_gate": False},
        {"forget_gate": False, "output_gate": False},
        {"input_gate": False, "forget_gate": False, "output_gate": False},
        {"coupled_gates": True},
        {"peepholes": True},
        {"gate_recurrence": True},
        {"clip": 0.5},
    ],
    ids=str,
)
def test_same_trajectory_to_rounding(options, momentum, isa):
    x, targets, reset = lesson()
    pair = [learner(lazy, options, momentum=momentum) for lazy in (False, True)]
    ys = [made.run(x, targets, reset) for made in pair]
    np.testing.assert_allclose(ys[1], ys[0], rtol=0, atol=1e-9)  # errors of rounding grow along the trajectory
    np.testing.assert_allclose(flat(learnt(pair[1])), flat(learnt(pair[0])), rtol=0, atol=1e-9)
    assert not np.array_equal(ys[1], ys[0]), "nothing was put off"


def test_sizes_alone_choose():
    middle, large, lanes = fl.LSTM(8, 64), fl.LSTM(8, 300), fl.LSTM(8, 300)
    for net, count, lazy in ((middle, 1, False), (large, 1, True), (lanes, 2, False)):
        made = fl.OnlineLearner(net, optimizer=fl.SGD(net, lr=0.1), lanes=count)
        assert made._core.lazy == lazy


def test_cuts_into_calls_and_looks_change_no_bit(dtype, isa):
    x, targets, reset = lesson(dtype)
    whole, cut, looked = (learner(True, {}, dtype, 0.9) for _ in range(3))
    ys = whole.run(x, targets, reset)
    for t in range(STEPS):
        if reset[t]:
            cut.reset()
            looked.reset()
        np.testing.assert_array_equal(cut.step(x[t], targets[t]), ys[t])
        np.testing.assert_array_equal(looked.predict(x[t]), ys[t])
        looked.learn(targets[t])
        looked.net.parameters.sum()
        looked.peek(x[t])
        looked.gradients()
    for other in (cut, looked):
        np.testing.assert_array_equal(flat(learnt(other)), flat(learnt(whole)))


def test_parameters_that_are_read_are_those_that_predict(dtype):
    x, targets, _ = lesson(dtype)
    made = learner(True, {}, dtype, 0.9)
    for t in range(0, STEPS, 7):
        made.run(x[t : t + 7], targets[t : t + 7])
        stream = made.net.stream()
        stream.state = made.state
        np.testing.assert_allclose(
            made.peek(x[0]), stream.step(x[0]), rtol=0, atol=1e-12 if dtype == "float64" else 1e-5
        )


def test_assigned_weights_are_taken_in_the_middle(dtype):
    x, targets, _ = lesson(dtype)
    pair = [learner(lazy, {}, dtype, 0.9) for lazy in (False, True)]
    for made in pair:
        made.run(x[:21], targets[:21])
        made.net[1].weight = made.net[1].weight * 0.5
        made.net[0].weight_hh_l0 = made.net[0].weight_hh_l0 * 0.9
        made.run(x[21:], targets[21:])
    np.testing.assert_allclose(
        flat(learnt(pair[1])), flat(learnt(pair[0])), rtol=0, atol=1e-9 if dtype == "float64" else 1e-3
    )


def test_a_copy_goes_on_with_the_same_bits(dtype):
    x, targets, _ = lesson(dtype, 8)
    made = learner(None, {}, dtype, 0.9, hidden=260, inputs=8)
    assert made._core.lazy
    made.run(x[:21], targets[:21])
    copy = pickle.loads(pickle.dumps(made))
    assert copy._core.lazy
    for other in (made, copy):
        other.run(x[21:], targets[21:])
    np.testing.assert_array_equal(flat(learnt(copy)), flat(learnt(made)))


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
def test_same_bits_on_every_instruction_set_with_fma(dtype, select_isa):
    x, targets, reset = lesson(dtype)
    found = []
    for name in FUSED:
        select_isa(name)
        made = learner(True, {"peepholes": True}, dtype, 0.9)
        found.append((made.run(x, targets, reset), *learnt(made)))
    for other in found[1:]:
        np.testing.assert_array_equal(flat(other), flat(found[0]))


def test_nothing_moves_without_a_target(dtype):
    x, targets, _ = lesson(dtype)
    made = learner(True, {}, dtype, 0.9)
    made.run(x[:21], targets[:21])
    before = made.net.parameters.copy()
    made.run(x, None)
    np.testing.assert_allclose(made.net.parameters, before, rtol=0, atol=1e-15 if dtype == "float64" else 1e-6)
