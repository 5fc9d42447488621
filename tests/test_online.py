"""Learning online: gradients and training against the reference, and the same bits however the steps are taken."""

import threading
import tracemalloc
from functools import cache

import numpy as np
import pytest
import reference as ref
from conftest import (
    ALL,
    COMBINATIONS,
    FAMILIES,
    FUSED,
    LOSSES,
    PAPER,
    STACKS,
    Case,
    assert_close,
    assert_same_bits,
    by_name,
    describe,
    families,
    has_target,
    leaves,
    make_targets,
    map_state,
    numbers,
    over,
    random_state,
    reference_layers,
    with_weights,
)

import fastlstm as fl

# Cases ----------------------------------------------------------------------------------------------------------------


def turning_cases():
    """All combinations of switches, with losses, lanes and output activations in turns."""
    for k, options in enumerate(COMBINATIONS):
        loss, lanes = LOSSES[k % 4], 1 + k % 3
        activation = {"cross_entropy": None, "binary_cross_entropy": "sigmoid"}.get(loss, ("identity", "tanh")[k % 2])
        yield Case(describe(options), over(options, activation=activation), loss, lanes)


CASES = [
    *(Case(describe(options), over(options, 18), lanes=1 + k % 2) for k, options in enumerate(FAMILIES)),
    *turning_cases(),
    *(Case(f"H={n}", over({}, n, 3, 3, "tanh")) for n in (1, 7, 8, 9, 15, 16, 17, 31, 33)),
    *(Case(f"H={n}", over(PAPER | {"peepholes": True}, n, 3, 17), lanes=2) for n in (1, 7, 8, 9, 15, 16, 17, 31, 33)),
    *(Case("losses", over({}, activation="sigmoid"), loss, lanes) for loss in LOSSES for lanes in (1, 2, 5)),
    *(Case(f"output {a}", over({}, activation=a)) for a in (None, "sigmoid", "tanh", "relu", "g1997", "h1997")),
    Case("bare", ((fl.LSTM, (2, 5), {}),), lanes=3),
    Case("bare, cross entropy", ((fl.LSTM, (2, 5), {}),), "cross_entropy", lanes=2),
    *STACKS,
]
LARGE = Case("H=257", over({}, 257, 3), steps=3)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*CASES, LARGE], ids=str)
def test_gradients(case, isa, dtype):
    net, xs, targets, reset = case.make(dtype)
    learner = fl.OnlineLearner(net, loss=case.loss, lanes=case.lanes)
    before = net.state_dict()
    ys = learner.run(xs, targets, reset)
    wanted_ys, wanted, loss = case.expected()
    assert_close(ys, wanted_ys, "forward")
    assert_close(learner.gradients(), wanted, "gradient")
    assert learner.loss == pytest.approx(loss, rel=1e-5 if dtype == "float32" else 1e-12)
    assert_same_bits(net.state_dict(), before)  # no optimizer: nothing changes
    learner.zero_grad()
    assert not any(g.any() for g in learner.gradients().values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_derivatives(case):
    """Central differences of the loss in which what the truncated gradient cuts is held constant."""
    net, xs, targets, reset = case.make("float64")
    learner = fl.OnlineLearner(net, loss=case.loss, lanes=case.lanes)
    learner.run(xs, targets, reset)
    gradients = learner.gradients()
    assert {name for name, _, _ in case.numeric()} == set(gradients)
    for name, direction, derivative in case.numeric():
        assert (gradients[name] * direction).sum() == pytest.approx(derivative, rel=1e-6, abs=1e-8), name


def test_outputs_have_the_bits_of_the_layer(isa, dtype):
    for case in CASES:
        net, xs, _, reset = case.make(dtype)
        learner = fl.OnlineLearner(net, loss="sse", lanes=case.lanes)
        y, state = net(xs, reset=reset)
        assert_same_bits((learner.run(xs, reset=reset), learner.state), (y, state))


# Training -------------------------------------------------------------------------------------------------------------

SETTINGS = [  # chunk, momentum, decay
    (1, 0.0, 1.0),
    (1, 0.9, 1.0),
    (1, 0.5, 0.9),
    (4, 0.0, 0.9),
    (4, 0.9, 1.0),
    ("episode", 0.0, 1.0),
    ("episode", 0.9, 0.8),
]
TRAINED = [
    Case("default", over({}, 9), lanes=1, steps=26),
    Case("default", over({}, 9, activation=None), "cross_entropy", lanes=3, steps=26),
    Case("1997", over(PAPER | {"block_size": 2}), lanes=2, steps=26),
    Case("all", over(ALL | {"coupled_gates": True}, 6, activation=None), "mse", lanes=2, steps=26),
    Case("two layers", ((fl.LSTM, (2, 5, 2), {}), (fl.Linear, (5, 2), {})), "mse", 1, 26),
    Case("bare", ((fl.LSTM, (2, 17), {"output_gate": False}),), lanes=2, steps=26),
]
RATE = 0.1


@cache
def reference_training(case, chunk, momentum, decay):
    """Outputs, the weights by name after half the steps and at the end, and the final learning rate."""
    net, xs, targets, reset = case.make("float64")
    layers, names = reference_layers(net)
    rtrl = ref.TruncatedRTRL(layers, case.loss, case.lanes)
    ys, weights, rate, pending, seen = [], [], RATE, 0, False

    def update():
        nonlocal rate, pending, seen
        if seen:  # without a target since the last update, nothing moves
            rtrl.step_sgd(rate, momentum)
            rate *= decay
        pending, seen = 0, False

    for t, (x, target, start) in enumerate(zip(xs, targets, reset, strict=True)):
        if t == case.steps // 2:
            weights.append(by_name([{k: p.copy() for k, p in params.items()} for _, _, params in rtrl.layers], names))
        if chunk == "episode" and start.any():
            update()
        rtrl.reset(start)
        ys.append(rtrl.step(x, target if has_target(target) else None))
        pending, seen = pending + 1, seen or has_target(target)
        if pending == chunk:
            update()
    if chunk == "episode":
        update()
    weights.append(by_name([params for _, _, params in rtrl.layers], names))
    return np.array(ys), weights, rate


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "chunk={},momentum={},decay={}".format(*s))
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_training(case, setting, isa, dtype):
    chunk, momentum, decay = setting
    net, xs, targets, reset = case.make(dtype)
    optimizer = fl.SGD(net, RATE, momentum, decay=decay)
    learner = fl.OnlineLearner(net, case.loss, optimizer, chunk=chunk, lanes=case.lanes)
    half = case.steps // 2
    first = learner.run(xs[:half], targets[:half], reset[:half])
    middle = net.state_dict()
    second = learner.run(xs[half:], targets[half:], reset[half:])
    if chunk == "episode":
        learner.apply()
    ys, weights, rate = reference_training(case, *setting)
    assert_close((np.concatenate([first, second]), [middle, net.state_dict()]), (ys, weights), "training")
    assert optimizer.lr == pytest.approx(rate)
    assert all(np.abs(weights[1][name] - weights[0][name]).max() > 1e-4 for name in weights[0])


def test_remembers_the_first_symbol(dtype):
    """The first of 30 steps tells which of two symbols came, the others are noise; the answer is due at the last."""
    r, n, lag = np.random.default_rng(0), 16_000, 30
    lstm = fl.LSTM1997(3, 2, init=0.2, dtype=dtype, seed=1)
    net = fl.Sequential(lstm, fl.Linear(2, 1, activation="sigmoid", dtype=dtype, seed=1))
    bits, xs = r.integers(0, 2, n), np.zeros((n, lag, 3), dtype)
    xs[np.arange(n), 0, bits] = 1
    xs[:, 1:, 2] = r.uniform(-1, 1, (n, lag - 1))
    targets, reset = np.full((n, lag, 1), np.nan, dtype), np.zeros((n, lag), bool)
    targets[:, -1, 0], reset[:, 0] = bits, True
    learner = fl.OnlineLearner(net, "sse", fl.SGD(net, lr=1.0))
    ys = learner.run(xs.reshape(-1, 3), targets.reshape(-1, 1), reset.reshape(-1)).reshape(n, lag)
    error = np.abs(ys[:, -1] - bits)
    assert error[:1000].mean() > 0.4
    assert error[-1000:].max() < 0.1


# The same bits --------------------------------------------------------------------------------------------------------


def learn(how, options, setting, dtype, lanes=2):
    """Everything there is to see after learning by runs of the given lengths (1: a step; 0: all the rest)."""
    case = Case("", (*over(options, 12)[:1], (fl.LSTM, (12, 4), {}), (fl.Linear, (4, 2), {})), "sse", lanes, 23)
    net, xs, targets, reset = case.make(dtype)
    chunk, momentum, decay = setting or (1, 0.0, 1.0)
    optimizer = fl.SGD(net, RATE, momentum, decay=decay) if setting else None
    learner, at, ys = fl.OnlineLearner(net, case.loss, optimizer, chunk=chunk, lanes=lanes), 0, []
    while at < case.steps:
        for n in how:
            part = slice(at, at + n if n else None)
            if n == 1:
                if reset[at].any():
                    learner.reset(reset[at])
                ys.append(learner.step(xs[at], targets[at] if has_target(targets[at]) else None)[None])
            elif at < case.steps:
                ys.append(learner.run(xs[part], targets[part], reset[part]))
            at += n or case.steps
            if at >= case.steps:
                break
    gathered = learner.gradients()
    rest = optimizer.state_dict() if optimizer else {"lr": 0.0, "velocity": None}
    return np.concatenate(ys), net.state_dict(), gathered, learner.state, rest["velocity"], rest["lr"]


@pytest.mark.parametrize("setting", [None, (1, 0.0, 1.0), (1, 0.9, 0.9), (5, 0.9, 1.0), ("episode", 0.0, 0.9)], ids=str)
@families
def test_step_run_and_pieces_give_the_same_bits(options, setting, isa, dtype):
    lanes = 1 + FAMILIES.index(options) % 3
    wanted = learn((0,), options, setting, dtype, lanes)
    assert_same_bits(learn((1,), options, setting, dtype, lanes), wanted)
    assert_same_bits(learn((3, 1, 7, 2), options, setting, dtype, lanes), wanted)


# Streams that end with their first wrong prediction -------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", [{"chunk": 1}, {"chunk": 4}, {"chunk": "episode"}, {"gradient": "carried-bptt", "chunk": 3}], ids=str
)
@pytest.mark.parametrize("marks", ["no starts", "starts", "starts and resets"])
def test_streams_are_followed_to_the_first_error(setting, marks, isa, dtype):
    """The same bits as steps, and a reset after each that was wrong."""
    r = np.random.default_rng(5)
    xs, targets = numbers((60, 2), 1, dtype), r.uniform(-1, 1, (60, 3)).astype(dtype)
    targets[r.random((60, 3)) < 0.3] = np.nan
    starts = None if marks == "no starts" else r.random(60) < 0.2
    reset = r.random(60) < 0.1 if marks == "starts and resets" else None
    results, wanted, ended = [], np.zeros(60, bool), False
    for how in ("follow", "steps"):
        net = fl.Sequential(fl.LSTM(2, 5, dtype=dtype, seed=1), fl.Linear(5, 3, dtype=dtype, seed=2))
        learner = fl.OnlineLearner(net, "sse", fl.SGD(net, 0.1, 0.5), **setting)
        if how == "follow":
            ys, followed = learner.follow(xs, targets, 0.9, starts, reset)
        else:
            ys = np.zeros((60, 3), dtype)
            for t in range(60):
                ended &= starts is None or not starts[t]
                wanted[t] = not ended
                if ended:
                    continue
                if reset is not None and reset[t]:
                    learner.reset()
                ys[t] = learner.step(xs[t], targets[t])
                has = ~np.isnan(targets[t])
                if not (np.abs(ys[t] - targets[t])[has] < np.dtype(dtype).type(0.9)).all():
                    ended = True
                    learner.reset()
        results.append((ys, net.state_dict(), learner.gradients(), learner.state))
    assert np.array_equal(followed, wanted) and 0 < wanted.sum() < 60
    assert_same_bits(*results)


def test_a_stream_ends_where_an_output_is_no_number(dtype):
    net = fl.Sequential(fl.LSTM(1, 3, dtype=dtype, seed=1), fl.Linear(3, 1, dtype=dtype, seed=2))
    learner = fl.OnlineLearner(net, "sse", fl.SGD(net, 0.1))
    weight = np.array(net[1].weight)
    weight[:] = np.nan
    net[1].weight = weight
    _, followed = learner.follow(np.zeros((5, 1), dtype), np.array([[np.nan], [0], [0], [0], [0]], dtype), 1e9)
    assert followed.tolist() == [True, True, False, False, False]


def test_what_cannot_be_followed():
    net = fl.Sequential(fl.LSTM(1, 3, seed=1), fl.Linear(3, 1, seed=2))
    xs, before = np.zeros((5, 1), np.float32), net.state_dict()
    learner = fl.OnlineLearner(net, "sse", fl.SGD(net, 0.1))
    for arguments, word in [
        ((xs, xs, 0), "tolerance"),
        ((xs, xs, np.nan), "tolerance"),
        ((xs, xs[:4], 1), "targets"),
        ((xs, xs, 1, np.zeros(4, bool)), "starts"),
        ((xs, xs, 1, None, np.zeros(6, bool)), "reset"),
        ((np.zeros((5, 2), np.float32), xs, 1), "xs"),
        ((xs[:0], xs[:0], 1), "xs"),
    ]:
        with pytest.raises(ValueError, match=word):
            learner.follow(*arguments)
    with pytest.raises(ValueError, match="one lane"):
        fl.OnlineLearner(net, lanes=2).follow(xs, xs, 1)
    for loss in ("cross_entropy", lambda y, target: (0.0, y)):
        with pytest.raises(ValueError, match="loss"):
            fl.OnlineLearner(net, loss).follow(xs, xs, 1)
    assert_same_bits(net.state_dict(), before)


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@pytest.mark.parametrize("setting", [None, (1, 0.9, 0.9), (5, 0.0, 1.0)], ids=str)
@families
def test_same_bits_on_every_instruction_set_with_fma(options, setting, dtype, select_isa):
    results = []
    for isa in FUSED:
        select_isa(isa)
        results.append(learn((0,), options, setting, dtype))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_have_the_same_bits_on_every_instruction_set_with_fma(loss, dtype, select_isa):
    results = []
    for isa in FUSED:
        select_isa(isa)
        net, xs, targets, reset = Case("", over({}, 9, outputs=19), loss, 3, 20).make(dtype)
        learner = fl.OnlineLearner(net, loss, fl.SGD(net, RATE), lanes=3)
        results.append((learner.run(xs, targets, reset), net.parameters, learner.loss))
    for other in results[1:]:
        assert_same_bits(other, results[0])


# Targets and losses ---------------------------------------------------------------------------------------------------


def small(dtype="float32", loss="sse", lanes=1, optimizer=True, **keywords):
    """A network of an LSTM and a linear layer, its optimizer and learner."""
    net = with_weights(fl.Sequential(fl.LSTM(2, 5, dtype=dtype), fl.Linear(5, 3, activation="sigmoid", dtype=dtype)))
    optimizer = fl.SGD(net, RATE, momentum=0.9, decay=0.99) if optimizer else None
    return net, optimizer, fl.OnlineLearner(net, loss, optimizer, lanes=lanes, **keywords)


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("how", ["named", "callable"])
@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_target_nothing_moves(loss, how, lanes, chunk, isa, dtype):
    net, optimizer, learner = small(dtype, loss if how == "named" else getattr(fl.losses, loss), lanes, chunk=chunk)
    xs, targets = numbers((8, lanes, 2), 1, dtype), make_targets(loss, 8, lanes, 3)
    targets = targets if loss == "cross_entropy" else targets.astype(dtype)
    learner.run(xs, targets)  # there is a velocity now
    before = net.state_dict(), optimizer.state_dict()
    missing = np.full_like(targets, -1 if loss == "cross_entropy" else np.nan)
    learner.run(xs)
    assert np.isnan(learner.loss)
    learner.run(xs, missing)
    assert np.isnan(learner.loss)
    for x, target in zip(xs, missing, strict=True):
        learner.step(x)
        learner.step(x, target)
    assert_same_bits((net.state_dict(), optimizer.state_dict()), before)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("chunk", [1, 3, "episode"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_callable_is_as_good_as_a_name(loss, chunk, lanes, dtype):
    results = []
    for given in (loss, getattr(fl.losses, loss)):
        net, _, learner = small(dtype, given, lanes, chunk=chunk)
        xs, targets = numbers((12, lanes, 2), 1, dtype), make_targets(loss, 12, lanes, 3)
        targets = targets if loss == "cross_entropy" else targets.astype(dtype)
        if lanes == 1:  # one sequence without an axis of lanes
            xs, targets = xs[:, 0], targets[:, 0]
        ys = learner.run(xs, targets, np.random.default_rng(4).random((12, lanes)) < 0.15)
        results.append((ys, net.state_dict(), learner.gradients(), learner.state, learner.loss))
    named, called = results
    assert_close(called[:4], named[:4], "training")
    assert called[4] == pytest.approx(named[4], rel=1e-5 if dtype == "float32" else 1e-12)


def test_a_callable_may_gather_too(dtype):
    results = []
    for given in ("sse", lambda y, target: (0.0, y - target)):
        net, _, learner = small(dtype, given, 2, optimizer=False)
        targets = np.random.default_rng(0).random((6, 2, 3)).astype(dtype)
        learner.run(numbers((6, 2, 2), 1, dtype), targets)
        results.append(learner.gradients())
    assert_same_bits(*results)


def test_a_prediction_is_made_before_learning(isa, dtype):
    net, _, learner = small(dtype)
    stream, xs, targets = net.stream(), numbers((9, 2), 1, dtype), np.full((9, 3), 0.9, dtype)
    for x, target in zip(xs, targets, strict=True):
        stream.state = learner.state
        stream.refresh()
        wanted = stream.step(x)
        assert_same_bits(learner.step(x, target), wanted)
        stream.refresh()
        assert np.abs(stream.step(x) - wanted).max() > 1e-6  # it did learn


def test_forms_of_targets(dtype):
    """Lists, other memory layouts and other integers mean the same."""
    xs, targets = numbers((5, 2), 1, dtype), np.array([[0, 0.5, 1]] * 5, dtype)
    net, _, learner = small(dtype)
    learner.run(xs, targets)
    wanted = net.state_dict()
    for x, t in ((xs.tolist(), targets.tolist()), (np.asfortranarray(xs), np.repeat(targets, 2, axis=1)[:, ::2])):
        net, _, learner = small(dtype)
        learner.run(x, t)
        assert_same_bits(net.state_dict(), wanted)
    net, _, learner = small(dtype)
    for x, t in zip(xs.tolist(), targets.tolist(), strict=True):
        learner.step(x, t)
    assert_same_bits(net.state_dict(), wanted)


def test_forms_of_classes(dtype):
    xs, classes = numbers((4, 2), 1, dtype), [2, -1, 0, 1]
    results = []
    for form in (classes, np.array(classes), np.array(classes, np.int8), np.array(classes)[:, None]):
        net, _, learner = small(dtype, "cross_entropy")
        learner.run(xs, form)
        results.append(net.state_dict())
    net, _, learner = small(dtype, "cross_entropy")
    for x, target in zip(xs, classes, strict=True):
        learner.step(x, target)
    for other in (*results[1:], net.state_dict()):
        assert_same_bits(other, results[0])


def test_saturated_probabilities_teach_something_finite(isa, dtype):
    """The logistic's derivative cancels the denominator of the binary cross-entropy, also where it is zero."""
    net = fl.Linear(1, 1, activation="sigmoid", dtype=dtype)
    net.load_state_dict({"weight": np.full((1, 1), 200, dtype), "bias": np.zeros(1, dtype)})
    learner = fl.OnlineLearner(net, "binary_cross_entropy")
    y = learner.step(np.ones(1, dtype), np.zeros(1, dtype))
    assert y.item() == 1.0
    assert learner.gradients()["weight"].item() == pytest.approx(1.0)
    assert learner.loss == pytest.approx(100.0)  # as PyTorch: logarithms no lower than -100
    learner.zero_grad()
    learner.step(np.ones(1, dtype), np.ones(1, dtype))
    assert learner.gradients()["weight"].item() == 0.0


def test_loss_is_the_mean_of_the_last_call(dtype):
    _, _, learner = small(dtype, "mse", optimizer=False)
    assert np.isnan(learner.loss)
    xs, targets = numbers((5, 2), 1, dtype), np.full((5, 3), 0.25, dtype)
    targets[1] = np.nan
    ys = learner.run(xs, targets)
    each = np.mean((ys.astype(float) - targets) ** 2, axis=1)
    assert learner.loss == pytest.approx(np.nanmean(each), rel=1e-5)
    y = learner.step(xs[0], targets[0])
    assert learner.loss == pytest.approx(np.mean((y.astype(float) - 0.25) ** 2), rel=1e-5)


# State, resets, weights -----------------------------------------------------------------------------------------------


def test_setting_the_state_clears_the_traces(isa, dtype):
    xs, targets = numbers((9, 2, 2), 1, dtype), np.full((9, 2, 3), 0.9, dtype)
    net, _, learner = small(dtype, lanes=2, optimizer=False)
    learner.run(xs[:5])
    learner.zero_grad()
    middle = learner.state
    learner.state = middle
    assert_same_bits(learner.state, middle)
    ys = learner.run(xs[5:], targets[5:])
    cut = learner.gradients()
    fresh = fl.OnlineLearner(net, "sse", lanes=2)
    fresh.state = middle
    assert_same_bits((fresh.run(xs[5:], targets[5:]), fresh.gradients()), (ys, cut))
    whole = fl.OnlineLearner(net, "sse", lanes=2)
    whole.run(xs[:5])
    assert_same_bits(whole.run(xs[5:], targets[5:]), ys)
    assert np.abs(whole.gradients()["0.weight_ih_l0"] - cut["0.weight_ih_l0"]).max() > 1e-3
    with pytest.raises((ValueError, TypeError), match="state"):
        learner.state = [middle[0][:1]]


@families
def test_state_is_that_of_a_stream(options, dtype):
    layer = with_weights(fl.LSTM(2, 6, dtype=dtype, **options))
    learner, stream, xs = fl.OnlineLearner(layer, "sse", lanes=3), layer.stream(3), numbers((9, 3, 2), 1, dtype)
    start = random_state(layer, 3)
    learner.state = stream.state = start
    assert_same_bits(learner.run(xs), stream.run(xs))
    assert_same_bits(learner.state, stream.state)
    for part in (learner, stream):
        part.reset(np.array([True, False, True]))
    assert_same_bits(learner.state, stream.state)
    assert not any(a[:, [0, 2]].any() for _, a in leaves(learner.state))
    learner.reset()
    assert_same_bits(learner.state, map_state(np.zeros_like, start))


def test_reset_clears_the_traces_of_its_lanes(isa, dtype):
    xs, targets = numbers((9, 2, 2), 1, dtype), np.full((9, 2, 3), 0.9, dtype)
    targets[:, 1] = np.nan
    net, _, learner = small(dtype, lanes=2, optimizer=False)
    learner.run(xs[:5])
    learner.reset([True, False])
    learner.run(xs[5:], targets[5:])
    fresh = fl.OnlineLearner(net, "sse")
    fresh.run(xs[5:, 0], targets[5:, 0])
    assert_same_bits(learner.gradients(), fresh.gradients())


def test_apply_updates_now(isa, dtype):
    """And the next chunk begins there."""
    results = []
    for chunk, lengths in ((5, (2, 5, 5)), ("episode", (2, 5, 5))):
        net, optimizer, learner = small(dtype, chunk=chunk)
        xs, targets, at = numbers((12, 2), 1, dtype), np.full((12, 3), 0.9, dtype), 0
        for k, n in enumerate(lengths):
            before = net.state_dict()
            learner.run(xs[at : at + n], targets[at : at + n])
            at += n
            if k == 0 or chunk == "episode":
                assert_same_bits(net.state_dict(), before)
                learner.apply()
                assert not any(g.any() for g in learner.gradients().values())
            assert not np.array_equal(net.parameters, np.concatenate([a.ravel() for a in before.values()]))
        results.append((net.state_dict(), optimizer.state_dict()))
    assert_same_bits(*results)
    learner.apply()  # nothing gathered: nothing moves, not by its momentum either
    assert_same_bits(net.state_dict(), results[1][0])
    with pytest.raises(ValueError, match="optimizer"):
        fl.OnlineLearner(net).apply()


def test_weights_may_be_read_and_assigned_in_the_middle(isa, dtype):
    net, optimizer, learner = small(dtype)
    plain_net, _, plain = small(dtype)
    xs, targets = numbers((9, 2), 1, dtype), np.full((9, 3), 0.9, dtype)
    ys = []
    for x, target in zip(xs, targets, strict=True):
        ys.append(learner.step(x, target))
        flat = net.parameters
        assert_same_bits(net[0].weight_ih_l0, net.state_dict()["0.weight_ih_l0"])
        assert_same_bits(flat, np.concatenate([a.ravel() for a in net.state_dict().values()]))
    assert_same_bits((plain.run(xs, targets), plain_net.state_dict()), (np.stack(ys), net.state_dict()))

    def next_step_uses_the_weights():
        stream = net.stream()
        stream.state = learner.state
        assert_same_bits(learner.step(xs[0], targets[0]), stream.step(xs[0]))

    before = net[1].weight.copy()
    net[1].weight = -net[1].weight
    assert_same_bits(net[1].weight, -before)
    next_step_uses_the_weights()
    with_weights(net, 17)
    next_step_uses_the_weights()
    net.grad[:] = 1
    optimizer.step()
    next_step_uses_the_weights()
    assert_same_bits(net(xs)[0], net.stream().run(xs))


def test_the_rate_may_be_assigned_in_the_middle(dtype):
    net, optimizer, learner = small(dtype)
    x, target = numbers(2, 1, dtype), np.full(3, 0.9, dtype)
    learner.step(x, target)
    assert optimizer.lr == pytest.approx(RATE * 0.99)
    optimizer.lr = 0.0
    before = net.state_dict()
    learner.step(x, target)
    assert_same_bits(net.state_dict(), before)
    optimizer.lr = 1.0
    learner.step(x, target)
    assert optimizer.lr == pytest.approx(0.99)
    assert np.abs(net[1].weight - before["1.weight"]).max() > 1e-2


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shared", [True, False], ids=["one optimizer", "an optimizer each"])
def test_two_learners_on_one_network(shared, momentum, isa, dtype):
    """By turns; weights are common, states and traces are not, and velocities are the optimizer's."""
    case = Case("", over({}, 9), steps=24)
    net, xs, targets, _ = case.make(dtype)
    optimizer = fl.SGD(net, RATE, momentum)
    optimizers = [optimizer, optimizer if shared else fl.SGD(net, RATE, momentum)]
    learners = [fl.OnlineLearner(net, "sse", o) for o in optimizers]
    layers, names = reference_layers(case.make("float64")[0])
    references = [ref.TruncatedRTRL(layers, "sse") for _ in range(2)]
    references[1].layers = references[0].layers
    if shared:
        references[1].velocity = references[0].velocity
    for t, (x, target) in enumerate(zip(xs[:, 0], targets[:, 0], strict=True)):
        k = t // 2 % 2
        y = learners[k].step(x, target)
        wanted = references[k].step(x.astype(float)[None], target.astype(float)[None] if has_target(target) else None)
        assert_close(y, wanted[0], "training")
        if has_target(target):
            references[k].step_sgd(RATE, momentum)
    wanted = by_name([params for _, _, params in references[0].layers], names)
    assert_close(net.state_dict(), wanted, "training")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimizer_steps_by_itself_in_between(momentum, isa, dtype):
    """With `grad` of the network; weights, velocity and rate are the same ones."""
    net, xs, targets, _ = Case("", over({}, 9), steps=12).make(dtype)
    layers, names = reference_layers(net)
    rtrl, rate = ref.TruncatedRTRL(layers, "sse"), RATE
    optimizer = fl.SGD(net, RATE, momentum, decay=0.9)
    learner = fl.OnlineLearner(net, "sse", optimizer)
    for t, (x, target) in enumerate(zip(xs[:, 0], targets[:, 0], strict=True)):
        learner.step(x, target)
        rtrl.step(x.astype(float)[None], target.astype(float)[None] if has_target(target) else None)
        if has_target(target):
            rtrl.step_sgd(rate, momentum)
            rate *= 0.9
        if t % 3 == 2:
            net.grad[:] = 0.5
            optimizer.step()
            rtrl.grads = [{name: np.full_like(p, 0.5) for name, p in params.items()} for _, _, params in rtrl.layers]
            rtrl.step_sgd(rate, momentum)
            rate *= 0.9
    assert_close(net.state_dict(), by_name([params for _, _, params in rtrl.layers], names), "training")
    assert optimizer.lr == pytest.approx(rate)


def test_a_learner_for_a_layer_of_a_network(dtype):
    """It learns that layer's slice of the parameters, and it keeps learning it when the layer joins a network."""
    results = []
    for joins in (None, "before", "after"):
        layer = with_weights(fl.LSTM(2, 5, dtype=dtype))
        rest = fl.Linear(5, 3, dtype=dtype, seed=0)
        net = fl.Sequential(fl.Linear(2, 2, dtype=dtype), layer, rest) if joins == "before" else None
        learner = fl.OnlineLearner(layer, "sse", fl.SGD(layer, RATE, 0.9))
        xs, targets = numbers((9, 2), 1, dtype), np.full((9, 5), 0.9, dtype)
        learner.run(xs[:5], targets[:5])
        if joins == "after":
            net = fl.Sequential(layer, rest)
        learner.run(xs[5:], targets[5:])
        results.append(layer.state_dict())
        if net is not None:
            k = list(net).index(layer)
            assert_same_bits({name: net.state_dict()[f"{k}.{name}"] for name in results[-1]}, results[-1])
            assert_same_bits(rest.state_dict(), fl.Linear(5, 3, dtype=dtype, seed=0).state_dict())
    assert_same_bits(results[1:], [results[0]] * 2)


# Memory, threads, errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, "episode"])
def test_memory_does_not_grow(chunk):
    net, _, learner = small(chunk=chunk)
    made = learner.nbytes()
    xs, targets = numbers((10_000, 2), 1, "float32"), np.full((10_000, 3), 0.9, "float32")
    learner.run(xs[:10], targets[:10])
    assert learner.nbytes() == made
    tracemalloc.start()
    try:
        learner.run(xs[:10], targets[:10])
        before, _ = tracemalloc.get_traced_memory()
        learner.run(xs, targets)
        for x, target in zip(xs[:1000], targets, strict=False):
            learner.step(x, target)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert learner.nbytes() == made
    assert after - before < 2000


def test_two_threads_on_one_learner_raise():
    net = fl.LSTM(16, 64, seed=0)
    xs, targets = numbers((4000, 16), 1, "float32"), np.zeros((4000, 64), "float32")
    alone = fl.LSTM(16, 64, seed=0)
    wanted = fl.OnlineLearner(alone, "sse", fl.SGD(alone, 1e-3)).run(xs, targets)
    for _ in range(20):  # a busy machine may let one finish before the other begins
        with_weights(net).load_state_dict(fl.LSTM(16, 64, seed=0).state_dict())
        learner, results, barrier = fl.OnlineLearner(net, "sse", fl.SGD(net, 1e-3)), [], threading.Barrier(2)

        def work(learner=learner, results=results, barrier=barrier):
            barrier.wait()
            try:
                results.append(learner.run(xs, targets))
            except RuntimeError as error:
                results.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [r for r in results if isinstance(r, RuntimeError)]
        if errors:
            break
    assert len(errors) == 1
    assert_same_bits([r for r in results if not isinstance(r, RuntimeError)], [wanted])
    assert_same_bits(net.state_dict(), alone.state_dict())


def test_learners_in_threads_of_their_own():
    nets = [fl.LSTM(4, 32, seed=0) for _ in range(9)]
    xs, targets = numbers((500, 4), 1, "float32"), np.zeros((500, 32), "float32")
    learners = [fl.OnlineLearner(net, "sse", fl.SGD(net, 0.01)) for net in nets]
    learners[0].run(xs, targets)
    threads = [threading.Thread(target=learner.run, args=(xs, targets)) for learner in learners[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for net in nets[1:]:
        assert_same_bits(net.parameters, nets[0].parameters)


@pytest.mark.parametrize("loss", ["sse", "cross_entropy"])
def test_a_call_that_raises_changes_nothing(loss):
    net, optimizer, learner = small(loss=loss, lanes=2)
    x = np.zeros((4, 2, 2), np.float32)
    classes = loss == "cross_entropy"
    good = np.zeros((4, 2), int) if classes else np.zeros((4, 2, 3), np.float32)
    learner.run(x, good)
    before = net.state_dict(), optimizer.state_dict(), learner.state
    for arguments, name in (
        ((x[:, :1], good), "xs"),
        ((x.astype(float), good), "xs"),
        ((x, good[:3]), "targets"),
        ((x, good + 3 if classes else good[:, :, :2]), "targets"),
        ((x, good.astype(np.float64)), "targets"),
        ((x, good, np.zeros((4, 3), bool)), "reset"),
        ((x, good, np.zeros((4, 2))), "reset"),
    ):
        with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
            learner.run(*arguments)
        assert_same_bits((net.state_dict(), optimizer.state_dict(), learner.state), before)
    for wrong in (np.ones(3, bool), [1, 0]):
        with pytest.raises((ValueError, TypeError), match="mask"):
            learner.reset(wrong)
    assert_same_bits(learner.state, before[2])


def test_a_callable_that_raises_leaves_the_learner_as_it_was(isa, dtype):
    def fussy(y, target):
        if (target > 1).any():
            raise ArithmeticError("target above 1")
        return fl.losses.sse(y, target)

    xs, targets = numbers((9, 2), 1, dtype), np.full((9, 3), 0.9, dtype)
    results = []
    for disturbed in (False, True):
        net, optimizer, learner = small(dtype, fussy, chunk=4)
        learner.run(xs[:5], targets[:5])
        if disturbed:
            with pytest.raises(ArithmeticError):
                learner.step(xs[5], np.full(3, 2, dtype))
        learner.run(xs[5:], targets[5:])
        results.append((net.state_dict(), optimizer.state_dict(), learner.state, learner.gradients()))
    assert_same_bits(results[1], results[0])


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "huber"},
        {"optimizer": "sgd"},
        {"optimizer": fl.SGD(fl.LSTM(2, 3), 0.1)},
        {"gradient": "rtrl"},
        {"chunk": 0},
        {"chunk": "epoch"},
        {"lanes": 0},
        {"net": fl.LSTM(2, 3, bidirectional=True)},
        {"net": "net"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_wrong_options(options):
    with pytest.raises((ValueError, TypeError), match="bidirectional|net" if "net" in options else next(iter(options))):
        fl.OnlineLearner(**{"net": fl.LSTM(2, 3)} | options)
