"""Copies, by copy.deepcopy and by pickle: they go on with the bits of the original, and by themselves."""

import copy
import pickle

import numpy as np
import pytest
from conftest import (
    FUSED,
    PAPER,
    assert_close,
    assert_same_bits,
    describe,
    families,
    map_state,
    numbers,
    random_state,
    with_weights,
)

import fastlstm as fl


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


duplicates = pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])

EVERYTHING = {"block_size": 2, "peepholes": True, "gate_recurrence": True, "coupled_gates": True, "clip": 0.6}
LAYERS = {
    "LSTM": lambda d: fl.LSTM(2, 6, 2, peepholes=True, dtype=d),
    "bidirectional": lambda d: fl.LSTM(2, 6, 2, bidirectional=True, batch_first=True, bias="single", dtype=d),
    "all": lambda d: fl.LSTM(2, 6, dtype=d, **EVERYTHING),
    "LSTM1997": lambda d: fl.LSTM1997(2, 3, 2, dtype=d),
    "Linear": lambda d: fl.Linear(2, 3, activation="relu", dtype=d),
    "Linear without bias": lambda d: fl.Linear(2, 3, bias=False, dtype=d),
    "Sequential": lambda d: fl.Sequential(fl.LSTM1997(2, 3, dtype=d), fl.Linear(3, 2, dtype=d)),
    "nested": lambda d: fl.Sequential(fl.Linear(2, 4, dtype=d), fl.Sequential(fl.LSTM(4, 3, 2, dtype=d))),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


# Layers and states ----------------------------------------------------------------------------------------------------


@duplicates
@layers
def test_layers(make, duplicate, isa, dtype):
    layer = with_weights(make(dtype))
    layer.grad[:] = 1
    x = numbers((5, 3, 2), 1, dtype)
    wanted, state = layer(x), layer.state_dict()
    other = duplicate(layer)
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert_same_bits((other(x), other.state_dict(), other.parameters), (wanted, state, layer.parameters))
    with_weights(other, 7)
    assert_same_bits((layer(x), layer.state_dict()), (wanted, state))
    with_weights(layer, 9)
    assert_same_bits(other.state_dict(), with_weights(make(dtype), 7).state_dict())
    other.zero_grad()
    assert (layer.grad == 1).all()


@duplicates
def test_a_layer_of_a_network_copies_by_itself(duplicate, dtype):
    net = with_weights(LAYERS["nested"](dtype))
    kept, x = net.state_dict(), numbers((4, 2), 1, dtype)
    other = duplicate(net)
    with_weights(other[1][0], 7)  # the copy's layers belong to the copy
    assert_same_bits(other.state_dict()["1.0.weight_ih_l0"], other[1][0].weight_ih_l0)
    assert_same_bits(other(x)[0], other[1](other[0](x)[0])[0])
    alone = duplicate(net[0])
    assert_same_bits(alone(x), net[0](x))
    with_weights(alone, 7)
    assert_same_bits(net.state_dict(), kept)
    fl.Sequential(alone)  # it is part of no network


@duplicates
def test_names_stay_shared(duplicate, dtype):
    """Two names of one layer are two names of one copy."""
    net = LAYERS["Sequential"](dtype)
    for other, inner in (duplicate((net, net[0])), duplicate((net[0], net))[::-1]):
        assert other[0] is inner
        inner.bias_ih_l0 = np.full(9, 3, dtype)
        assert (other.state_dict()["0.bias_ih_l0"] == 3).all()


@duplicates
@pytest.mark.parametrize("options", [{}, PAPER], ids=describe)
def test_states(duplicate, options, dtype):
    layer = with_weights(fl.LSTM(2, 6, dtype=dtype, **options))
    x = numbers((5, 3, 2), 1, dtype)
    _, state = layer(x[:2])
    other = duplicate(state)
    assert_same_bits(other, state)
    assert_same_bits(layer(x[2:], other), layer(x[2:], state))
    map_state(lambda a: a.fill(0), other)
    assert_same_bits(layer(x[2:], state)[0], layer(x)[0][2:])


# Streams --------------------------------------------------------------------------------------------------------------


@duplicates
@families
def test_streams(options, duplicate, isa, dtype):
    layer = with_weights(fl.LSTM(2, 18, dtype=dtype, **options))
    x = numbers((9, 3, 2), 1, dtype)
    stream = layer.stream(3)
    stream.state = random_state(layer, 3)
    stream.run(x[:4])
    with_weights(layer, 7)  # a stream has the weights of when it was made, and so has its copy
    other = duplicate(stream)
    assert other.lanes == 3
    assert_same_bits(other.state, stream.state)
    wanted = stream.run(x[4:])
    assert_same_bits(other.run(x[4:]), wanted)
    other.reset()
    assert_same_bits(other.run(x), with_weights(fl.LSTM(2, 18, dtype=dtype, **options))(x)[0])
    other.refresh()
    other.reset()
    assert_same_bits(other.run(x), layer(x)[0])


@duplicates
def test_a_stream_copied_with_its_network_refreshes_from_the_copy(duplicate, dtype):
    net, x = with_weights(LAYERS["Sequential"](dtype)), numbers((4, 2), 1, dtype)
    other, stream = duplicate((net, net.stream()))
    with_weights(other, 7)
    stream.refresh()
    assert_same_bits(stream.run(x), other(x)[0])


# Learners -------------------------------------------------------------------------------------------------------------

SETTINGS = [(1, 0.0, 1.0), (1, 0.9, 0.9), (4, 0.9, 1.0), ("episode", 0.0, 0.9), None]
settings = pytest.mark.parametrize("setting", SETTINGS, ids=str)  # chunk, momentum, decay; None: no optimizer
LEARNERS = {name: make for name, make in LAYERS.items() if name != "bidirectional"}
LEARNERS["stack"] = lambda d: fl.Sequential(fl.LSTM(2, 18, dtype=d, **EVERYTHING), fl.LSTM(18, 3, 2, dtype=d))
learners = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


def halfway(make, dtype, setting, loss="sse"):
    """A learner in the middle of an episode, and the data for the rest."""
    net = with_weights(make(dtype))
    chunk, momentum, decay = setting or (1, 0.0, 1.0)
    optimizer = fl.SGD(net, 0.1, momentum, decay=decay) if setting else None
    learner = fl.OnlineLearner(net, loss, optimizer, chunk=chunk, lanes=2)
    xs = numbers((16, 2, 2), 1, dtype)
    targets = numbers((16, 2, net._network.output_size), 2, dtype)
    targets[::3, 1] = np.nan
    targets[7] = np.nan  # with chunks of 4 the update after this step is of gathered gradients alone
    learner.run(xs[:7], targets[:7])
    return learner, xs[7:], targets[7:]


def go_on(learner, xs, targets):
    """All there is to see of the rest."""
    ys = [learner.run(xs[:5], targets[:5]), learner.step(xs[5], targets[5])[None]]
    learner.reset([True, False])
    ys.append(learner.run(xs[6:], targets[6:]))
    rest = learner.optimizer.state_dict() if learner.optimizer else {"velocity": None, "lr": 0.0}
    seen = (learner.net.state_dict(), learner.gradients(), learner.state, rest["velocity"], rest["lr"], learner.loss)
    return np.concatenate(ys), *seen


@duplicates
@settings
@learners
def test_learners(make, setting, duplicate, isa, dtype):
    wanted = go_on(*halfway(make, dtype, setting))
    learner, *data = halfway(make, dtype, setting)
    before = learner.net.state_dict(), learner.gradients(), learner.state, learner.loss
    other = duplicate(learner)
    assert other.net is not learner.net
    assert (other.lanes, other.chunk, other.nbytes()) == (learner.lanes, learner.chunk, learner.nbytes())
    assert_same_bits((other.net.state_dict(), other.gradients(), other.state, other.loss), before)
    assert_same_bits(go_on(other, *data), wanted)  # the copy goes on like the undisturbed original,
    assert_same_bits((learner.net.state_dict(), learner.gradients(), learner.state, learner.loss), before)
    assert_same_bits(go_on(learner, *data), wanted)  # and so does the original: they share nothing


@duplicates
def test_a_learner_copies_with_its_network_and_optimizer(duplicate, dtype):
    learner, xs, targets = halfway(LEARNERS["stack"], dtype, (1, 0.9, 0.9))
    net, optimizer, other = duplicate((learner.net, learner.optimizer, learner))
    assert other.net is net
    assert other.optimizer is optimizer
    assert optimizer.net is net
    other.run(xs, targets)
    learner.run(xs, targets)
    assert_same_bits(net.state_dict(), learner.net.state_dict())
    assert optimizer.lr == learner.optimizer.lr


def absolute(y, target):
    """A loss made by a user."""
    d = np.where(np.isnan(target), 0, y - target)
    return float(np.abs(d).sum()), np.sign(d)


@duplicates
def test_a_learner_with_a_callable_loss(duplicate, dtype):
    learner, *data = halfway(LEARNERS["stack"], dtype, (4, 0.9, 1.0), absolute)
    other = duplicate(learner)
    assert_same_bits(go_on(other, *data), go_on(learner, *data))


@duplicates
def test_copies_of_copies(duplicate, dtype):
    learner, *data = halfway(LEARNERS["all"], dtype, (4, 0.9, 1.0))
    assert_same_bits(go_on(duplicate(duplicate(learner)), *data), go_on(learner, *data))


# From one instruction set to another ----------------------------------------------------------------------------------


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@settings
@learners
def test_learners_move_between_instruction_sets_with_fma(make, setting, dtype, select_isa):
    for here, there in ((FUSED[0], FUSED[1]), (FUSED[1], FUSED[0])):
        select_isa(here)
        learner, *data = halfway(make, dtype, setting)
        saved = pickle.dumps(learner)
        wanted = go_on(learner, *data)
        select_isa(there)
        assert_same_bits(go_on(pickle.loads(saved), *data), wanted)


@pytest.mark.skipif(not FUSED, reason="needs an instruction set besides generic")
@settings
@learners
def test_learners_move_to_generic(make, setting, dtype, select_isa):
    for here, there in ((FUSED[0], "generic"), ("generic", FUSED[-1])):
        select_isa(here)
        learner, *data = halfway(make, dtype, setting)
        saved = pickle.dumps(learner)
        *wanted, rate, loss = go_on(learner, *data)
        select_isa(there)
        *got, other_rate, other_loss = go_on(pickle.loads(saved), *data)
        assert_close(got, wanted, "training")
        assert other_rate == rate
        assert other_loss == pytest.approx(loss, rel=1e-5, nan_ok=True)


@pytest.mark.skipif(not FUSED, reason="needs an instruction set besides generic")
@families
def test_streams_move_between_instruction_sets(options, dtype, select_isa):
    x, saved = numbers((9, 3, 2), 1, dtype), []
    for isa in FUSED:
        select_isa(isa)
        stream = with_weights(fl.LSTM(2, 18, dtype=dtype, **options)).stream(3)
        stream.run(x[:4])
        saved.append(pickle.dumps(stream))
        wanted = stream.run(x[4:])
    for pickled in saved:
        assert_same_bits(pickle.loads(pickled).run(x[4:]), wanted)
        select_isa("generic")
        assert_close(pickle.loads(pickled).run(x[4:]), wanted, "forward")
        select_isa(FUSED[-1])
