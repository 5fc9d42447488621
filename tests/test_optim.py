"""SGD: v = momentum v + gradient; w -= lr v; lr *= decay."""

import copy
import pickle

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, numbers, with_weights

import fastlstm as fl

SETTINGS = [(0.1, 0.0, 1.0), (0.5, 0.9, 1.0), (0.25, 0.0, 0.9), (0.1, 0.5, 0.5)]
settings = pytest.mark.parametrize(("lr", "momentum", "decay"), SETTINGS)


def network(dtype):
    return with_weights(fl.Sequential(fl.LSTM(2, 3, dtype=dtype), fl.Linear(3, 2, dtype=dtype)))


def updates(net, optimizer, gradients):
    """The parameters after an update with each of the gradients."""
    for gradient in gradients:
        net.grad[:] = gradient
        optimizer.step()
    return net.parameters.copy()


@settings
def test_formula(lr, momentum, decay, isa, dtype):
    net = network(dtype)
    w, v = net.parameters.astype(float), np.zeros(net.parameters.size)
    optimizer = fl.SGD(net, lr, momentum, decay=decay)
    rate = lr
    for k in range(7):
        g = numbers(w.size, k, dtype)
        net.grad[:] = g
        optimizer.step()
        v = momentum * v + g
        w -= rate * v
        rate *= decay
        assert_close(net.parameters, w, "training")
        assert_same_bits(net.grad, g)  # it is the user who clears it
        assert optimizer.lr == pytest.approx(rate, rel=1e-12)
        if momentum:
            assert_close(optimizer.state_dict()["velocity"], v, "training")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
def test_sizes(size, isa, dtype):
    net = with_weights(fl.Linear(size, 1, bias=False, dtype=dtype))
    before, g = net.parameters.astype(float), numbers((2, size), 1, dtype)
    updates(net, fl.SGD(net, 0.5, 0.5), g)
    assert_close(net.parameters, before - 0.5 * g[0] - 0.5 * (0.5 * g[0] + g[1]), "training")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_gradient_no_change(momentum, dtype):
    net = network(dtype)
    before = net.parameters.copy()
    assert_same_bits(updates(net, fl.SGD(net, 0.5, momentum), [0.0]), before)


def test_a_layer_of_a_network(isa, dtype):
    net = network(dtype)
    before = net.state_dict()
    net.grad[:] = 1
    fl.SGD(net[0], 0.5).step()
    after = net.state_dict()
    for name, a in before.items():
        assert_close(after[name], a.astype(float) - (0.5 if name.startswith("0.") else 0.0), "training")
    x = numbers((4, 2), 1, dtype)
    assert_same_bits(net(x)[0], net[1](net[0](x)[0])[0])  # nobody computes with old weights


def test_the_rate_is_an_attribute(dtype):
    net = network(dtype)
    optimizer, before = fl.SGD(net, 0.5, decay=0.5), net.parameters.copy()
    optimizer.lr = 0.0
    assert_same_bits(updates(net, optimizer, [1.0]), before)
    optimizer.lr = 2.0
    assert_close(updates(net, optimizer, [1.0]), before.astype(float) - 2.0, "training")
    assert optimizer.lr == 1.0


@settings
def test_continuing_after_a_reload_gives_the_same_bits(lr, momentum, decay, isa, dtype):
    net = network(dtype)
    gradients = [numbers(net.parameters.size, k, dtype) for k in range(6)]
    optimizer = fl.SGD(net, lr, momentum, decay=decay)
    updates(net, optimizer, gradients[:3])
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    wanted = updates(net, optimizer, gradients[3:])
    other = network(dtype)
    other.load_state_dict(saved[0])
    resumed = fl.SGD(other, 7.0, momentum)
    resumed.load_state_dict(saved[1])
    assert_same_bits(updates(other, resumed, gradients[3:]), wanted)
    assert resumed.lr == optimizer.lr
    assert_same_bits(resumed.state_dict()["velocity"], optimizer.state_dict()["velocity"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_learner_goes_on_after_a_reload_with_the_same_bits(momentum, isa, dtype):
    """Network and optimizer reload; a fresh learner between episodes knows no more than they."""
    xs, targets = numbers((20, 2), 1, dtype), np.full((20, 2), 0.5, dtype)
    net = network(dtype)
    optimizer = fl.SGD(net, 0.1, momentum, decay=0.9)
    learner = fl.OnlineLearner(net, "mse", optimizer)
    learner.run(xs[:9], targets[:9])
    saved = net.state_dict(), optimizer.state_dict()
    learner.reset()
    wanted = learner.run(xs[9:], targets[9:]), net.state_dict()
    other = network(dtype)
    resumed = fl.SGD(other, 1.0, momentum)
    second = fl.OnlineLearner(other, "mse", resumed)
    second.run(xs, targets)  # what it has learned is overwritten
    second.reset()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert_same_bits((second.run(xs[9:], targets[9:]), other.state_dict()), wanted)


def test_state_dict_is_a_copy(dtype):
    net = network(dtype)
    optimizer = fl.SGD(net, 0.5, 0.9)
    updates(net, optimizer, [1.0])
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    updates(net, optimizer, [1.0])
    assert_same_bits(state["velocity"], kept["velocity"])
    optimizer.load_state_dict(state)
    updates(net, optimizer, [1.0])
    assert_same_bits(state["velocity"], kept["velocity"])


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_with_its_network(how, dtype):
    net = network(dtype)
    optimizer = fl.SGD(net, 0.5, 0.9, decay=0.5)
    updates(net, optimizer, [1.0, 2.0])
    pair = net, optimizer
    other, resumed = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert resumed.net is other
    wanted = updates(net, optimizer, [3.0])
    assert_same_bits(updates(other, resumed, [3.0]), wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.5},
        {"lr": -1.0},
        {"decay": 0.0},
        {"velocity": np.zeros(3, np.float32)},
        {"velocity": None},
        {"nesterov": True},
    ],
    ids=str,
)
def test_load_state_dict_changes_nothing_if_it_raises(change):
    net = network("float32")
    optimizer = fl.SGD(net, 0.5, 0.9)
    updates(net, optimizer, [1.0])
    before = optimizer.state_dict()
    with pytest.raises((ValueError, TypeError)):
        optimizer.load_state_dict(before | {"lr": 0.1, "velocity": np.ones_like(before["velocity"])} | change)
    after = optimizer.state_dict()
    assert_same_bits(after.pop("velocity"), before.pop("velocity"))
    assert after == before


@pytest.mark.parametrize(
    "options",
    [{"net": "net"}, {"lr": -1.0}, {"lr": np.nan}, {"lr": "1"}, {"momentum": 1.0}, {"momentum": -0.1}, {"decay": 0.0}],
    ids=str,
)
def test_wrong_options_are_named(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        fl.SGD(**{"net": fl.Linear(1, 1), "lr": 0.1} | options)
