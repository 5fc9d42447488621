"""Learning in chunks: the gradient of 1997 whatever the chunk, carried backpropagation, optimisers, the same bits."""

import copy
import pickle
import tracemalloc
from dataclasses import replace
from functools import cache
from itertools import cycle

import numpy as np
import pytest
import reference as ref
from conftest import (
    ALL,
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
    has_target,
    make_targets,
    numbers,
    over,
    reference_layers,
    with_weights,
)

import fastlstm as fl

GRADIENTS = ("truncated-rtrl", "carried-bptt", "bptt")
WINDOW = 32  # steps whose truncated gradient is made at once
T = 70


@pytest.fixture(autouse=True)
def one_thread():
    yield
    fl.set_num_threads(1)


# Learners and what is known of them -----------------------------------------------------------------------------------

RULES = {  # weights move far enough to tell, and a denominator is not so small that it magnifies roundings
    "SGD": lambda net: fl.SGD(net, 0.05),
    "momentum": lambda net: fl.SGD(net, 0.02, 0.9, decay=0.97),
    "nesterov": lambda net: fl.SGD(net, 0.02, 0.9, nesterov=True),
    "weight decay": lambda net: fl.SGD(net, 0.05, weight_decay=0.1),
    "clip_norm": lambda net: fl.SGD(net, 0.3, clip_norm=0.2),
    "RMSprop": lambda net: fl.RMSprop(net, 0.01, alpha=0.9, eps=0.1, momentum=0.5),
    "Adam": lambda net: fl.Adam(net, 0.02, eps=0.1),
    "AdamW": lambda net: fl.AdamW(net, 0.02, eps=0.1, weight_decay=0.1, clip_norm=1.0),
}
rules = pytest.mark.parametrize("rule", RULES)


def learner_of(case, dtype, rule=None, loss=None, **options):
    """A learner of a case, and its data."""
    net, *data = case.make(dtype)
    optimizer = RULES[rule](net) if rule else None
    return fl.OnlineLearner(net, loss or case.loss, optimizer, lanes=case.lanes, **options), *data


def reference_of(case, gradient="truncated-rtrl", chunk=1, **options):
    """The reference's learner and the names of its parameters."""
    layers, names = reference_layers(case.make("float64")[0])
    if gradient == "truncated-rtrl":
        return ref.TruncatedRTRL(layers, case.loss, case.lanes, **options), names
    return ref.ChunkedBPTT(layers, case.loss, case.lanes, chunk, gradient == "carried-bptt", **options), names


def settled(reference):
    """The reference's gradients, of the steps of an unfinished chunk too."""
    if isinstance(reference, ref.ChunkedBPTT):
        reference = copy.deepcopy(reference)
        reference.settle()
    return reference.grads


def follow(reference, xs, targets, reset):
    """Let the reference make these steps."""
    ys = []
    for x, target, start in zip(xs.astype(float), targets, reset, strict=True):
        reference.reset(start)
        ys.append(reference.step(x, target if has_target(target) else None))
    return np.array(ys)


@cache
def expected(case, gradient="truncated-rtrl", chunk=1):
    """Outputs and gradients by name after all steps."""
    reference, names = reference_of(case, gradient, chunk)
    return follow(reference, *case.make("float64")[1:]), by_name(settled(reference), names)


def feed(learner, xs, targets, reset, how=(0,)):
    """Outputs of "step"s, steps by "halves" and runs of so many steps (0: all the rest), in turns."""
    t, ys = 0, []
    for n in cycle(how):
        if t == len(xs):
            return np.concatenate(ys)
        end = len(xs) if n == 0 else t + 1 if isinstance(n, str) else min(t + n, len(xs))
        if isinstance(n, str):
            if reset[t].any():
                learner.reset(reset[t])
            target = targets[t] if has_target(targets[t]) else None
            ys.append((learner.predict(xs[t]) if n == "halves" else learner.step(xs[t], target))[None])
            if n == "halves":
                learner.learn(target)
        else:
            ys.append(learner.run(xs[t:end], targets[t:end], reset[t:end]))
        t = end
    raise ValueError("how is empty")


def seen(learner):
    """All there is to see of a learner but its last loss."""
    rest = learner.optimizer.state_dict() if learner.optimizer else None
    return learner.net.state_dict(), learner.gradients(), learner.state, rest


def settled_here(reference):
    """A chunk of backpropagation ends now."""
    if isinstance(reference, ref.ChunkedBPTT):
        reference.settle()


def flat(grads, net):
    """Gradients by name in the order of the parameters."""
    return np.concatenate([grads[name].ravel() for name in net.state_dict()])


# The truncated gradient -----------------------------------------------------------------------------------------------

ROUGH = {"input_activation": "relu", "output_activation": "identity"}
CASES = [
    *(
        Case(describe(options), over(options, 6), lanes=1 + k % 3, steps=T, resets=0.02 if k % 3 else 0.15)
        for k, options in enumerate(FAMILIES)
    ),
    Case("wide", over({}, 33, 17, 5), lanes=2, steps=T, resets=0.02),
    Case("no resets", over(PAPER, 6), lanes=1, steps=T, resets=0),
    *(Case("losses", over({}, activation="sigmoid"), loss, 3, T, 0.02) for loss in LOSSES),
    *(replace(case, steps=T, resets=0.04) for case in STACKS),
]
CHUNKS = (1, 2, 5, 31, 32, 33, 64, T, "episode")
LOOKS = (1, 2, 31, 32, 33, 63, 64, 65, T)  # steps after which gradients are compared


@cache
def truncated_gradients(case):
    """By steps made: the gradients by name, step by step."""
    reference, names = reference_of(case)
    xs, targets, reset = case.make("float64")[1:]
    found, before = {}, 0
    for t in LOOKS:
        follow(reference, xs[before:t], targets[before:t], reset[before:t])
        found[t] = by_name(copy.deepcopy(reference.grads), names)
        before = t
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_truncated_gradient_is_the_same_for_any_chunk(case, isa, dtype):
    for chunk in CHUNKS:
        learner, xs, targets, reset = learner_of(case, dtype, chunk=chunk)
        assert_close(learner.run(xs, targets, reset), expected(case)[0], "forward")
        assert_close(learner.gradients(), truncated_gradients(case)[T], "chunks")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_truncated_gradient_at_the_ends_of_windows(case, dtype):
    """Of calls that end before, at and after the end of a window, with an optimizer that has not moved anything yet."""
    learner, *data = learner_of(case, dtype, "Adam", chunk=T + 1)
    before = 0
    for t in LOOKS:
        learner.run(*(a[before:t] for a in data))
        assert_close(learner.gradients(), truncated_gradients(case)[t], "chunks")
        before = t


LONG = [
    Case("default", over({}, 5), "mse", steps=500, resets=0),
    Case("1997", over(PAPER, 4), "mse", 2, 500, 0.005),
    Case("all", over(ALL, 4), "mse", 2, 500, 0.005),
    Case("two layers", ((fl.LSTM, (2, 4, 2), {}), (fl.Linear, (4, 2), {})), "mse", 1, 500, 0.002),
]


@pytest.mark.parametrize("case", LONG, ids=str)
def test_truncated_gradient_of_long_runs(case, isa, dtype):
    for chunk in (1, 7, 32):
        learner, *data = learner_of(case, dtype, chunk=chunk)
        ys, grads = expected(case)
        assert_close(feed(learner, *data, (45, 100, 3)), ys, "forward")
        assert_close(learner.gradients(), grads, "chunks")


# Carried backpropagation, and backpropagation alone -------------------------------------------------------------------


SHORTER = [replace(case, steps=44) for case in CASES]
BACK = [("carried-bptt", case) for case in SHORTER] + [
    ("bptt", case) for case in (SHORTER[0], *SHORTER[-len(STACKS) :])
]


@pytest.mark.parametrize("gradient, case", BACK, ids=str)
def test_backpropagation_in_chunks(case, gradient, isa, dtype):
    for chunk in (4, 30):
        learner, *data = learner_of(case, dtype, gradient=gradient, chunk=chunk)
        ys, grads = expected(case, gradient, chunk)
        assert_close(learner.run(*data), ys, "forward")
        assert_close(learner.gradients(), grads, "chunks")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_carried_gradients_are_derivatives(case):
    """Central differences: full inside each chunk, and through the cell states from before it with sources held."""
    case = replace(case, lanes=1, steps=9, resets=0.08)
    learner, *data = learner_of(case, "float64", gradient="carried-bptt", chunk=4)
    learner.run(*data)
    gradients = learner.gradients()
    assert {name for name, _, _ in case.numeric(4)} == set(gradients)
    for name, direction, derivative in case.numeric(4):
        assert (gradients[name] * direction).sum() == pytest.approx(derivative, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_chunk_is_backpropagation_through_time(case, dtype):
    """That of `layer.forward` and `backward`, with nothing before the chunk to carry."""
    case = replace(case, loss="sse")
    results = []
    for gradient in ("carried-bptt", "bptt"):
        learner, xs, targets, reset = learner_of(case, dtype, gradient=gradient, chunk=T)
        results.append((learner.run(xs, targets, reset), learner.gradients()))
    assert_same_bits(*results)
    net = case.make(dtype)[0]
    y, _, backward = net.forward(xs, reset=reset)
    backward(np.nan_to_num(y - targets))
    assert_same_bits(results[0][0], y)
    assert_close(results[0][1], {name: a.astype(float) for name, a in net.gradients().items()}, "gradient")


WITHOUT_PEEPHOLES = [c for c in CASES if not any(options.get("peepholes") for _, _, options in c.layers)]


@pytest.mark.parametrize("case", WITHOUT_PEEPHOLES, ids=str)
def test_chunks_of_one_step_are_truncated(case, dtype):
    """What carried backpropagation adds to the truncated gradient goes through peepholes, or takes two steps."""
    learner, *data = learner_of(case, dtype, gradient="carried-bptt", chunk=1)
    learner.run(*data)
    assert_close(learner.gradients(), expected(case)[1], "chunks")


def test_the_three_gradients_differ():
    """Else the tests above could not tell one from the other."""
    case = Case("", over({}, 6), steps=40, resets=0)
    found = []
    for gradient in GRADIENTS:
        learner, *data = learner_of(case, "float64", gradient=gradient, chunk=8)
        learner.run(*data)
        found.append(flat(learner.gradients(), learner.net))
    for k in range(3):
        assert np.abs(found[k] - found[k - 1]).max() > 1e-3


OTHERS = {
    "GRU": lambda d: fl.GRU(3, 6, 2, dtype=d),
    "GRU, reset before": lambda d: fl.GRU(3, 6, reset_after=False, bias="single", dtype=d),
    "RNN": lambda d: fl.RNN(3, 6, 2, dtype=d),
    "projection": lambda d: fl.LSTM(3, 6, 2, proj_size=4, dtype=d),
    "projection, all": lambda d: fl.LSTM(3, 6, proj_size=4, dtype=d, **ALL),
    "mixed": lambda d: fl.Sequential(
        fl.Linear(3, 5, activation="tanh", dtype=d),
        fl.GRU(5, 6, dtype=d),
        fl.LSTM(6, 7, dtype=d),
        fl.RNN(7, 4, dtype=d),
    ),
}


@pytest.mark.parametrize("chunk", [1, 7, 40])
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_backpropagation_of_other_cells(make, chunk, dtype):
    """That of `layer.forward` and `backward` over each chunk, from the state where the last one ended."""
    net, steps = with_weights(make(dtype), 1, 0.5), 40
    learner, xs = fl.OnlineLearner(net, "sse", gradient="bptt", chunk=chunk, lanes=2), numbers((steps, 2, 3), 2, dtype)
    targets = make_targets("sse", steps, 2, net._network.output_size).astype(dtype)
    reset = np.random.default_rng(4).random((steps, 2)) < 0.05
    ys, state = [], None
    for t in range(0, steps, chunk):
        now = slice(t, t + chunk)
        y, state, backward = net.forward(xs[now], state, reset=reset[now])
        backward(np.nan_to_num(y - targets[now]))
        ys.append(y)
    assert_same_bits(
        (feed(learner, xs, targets, reset, (9, "step", "halves")), learner.state), (np.concatenate(ys), state)
    )
    assert_close(learner.gradients(), {name: a.astype(float) for name, a in net.gradients().items()}, "gradient")


# Training -------------------------------------------------------------------------------------------------------------

TRAINED = [
    Case("default", over({}, 5), lanes=2, steps=T, resets=0.03),
    Case("all on all", STACKS[3].layers, "cross_entropy", 1, T, 0.03),
]
LARGE = Case("large", over({}, 130, 3), lanes=2, steps=10, resets=0.1)
LESSONS = [("truncated-rtrl", chunk) for chunk in (1, 5, 33, "episode")] + [(g, 6) for g in GRADIENTS[1:]]


@cache
def reference_training(case, rule, gradient, chunk):
    """Outputs, weights by name at the end, and the rate: gradients of the reference, steps of an optimizer by hand."""
    net, *data = case.make("float64")
    optimizer, (reference, names) = RULES[rule](net), reference_of(case, gradient, chunk)
    ys, pending, any_error = [], 0, False

    def update():
        nonlocal pending, any_error
        if any_error:
            net.grad[:] = flat(by_name(settled(reference), names), net)
            optimizer.step()
            reference.zero_grad()
            for (_, _, params), keys in zip(reference.layers, names, strict=True):
                for name in params:
                    params[name][:] = net.state_dict()[keys[name]]
        pending, any_error = 0, False

    for x, target, start in zip(*data, strict=True):
        if chunk == "episode" and start.any():
            update()
        ys.append(follow(reference, x[None], target[None], start[None])[0])
        pending, any_error = pending + 1, any_error or has_target(target)
        if pending == chunk:
            update()
    return np.array(ys), net.state_dict(), optimizer.lr


@rules
@pytest.mark.parametrize("lesson", LESSONS, ids=str)
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_training(case, lesson, rule, dtype):
    gradient, chunk = lesson
    learner, *data = learner_of(case, dtype, rule, gradient=gradient, chunk=chunk)
    ys, weights, rate = reference_training(case, rule, *lesson)
    assert_close((feed(learner, *data, (20, 0)), learner.net.state_dict()), (ys, weights), "training")
    assert learner.optimizer.lr == pytest.approx(rate)
    before = case.make("float64")[0].state_dict()
    if chunk != "episode" or data[-1].any():  # an episode without an end changes nothing
        assert max(np.abs(weights[name] - before[name]).max() for name in before) > 1e-3


@rules
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_of_a_large_network(gradient, rule, isa, dtype):
    """So large that its weights change while their gradient is in the cache."""
    for chunk in (4, 7):
        learner, *data = learner_of(LARGE, dtype, rule, gradient=gradient, chunk=chunk)
        ys, weights, _ = reference_training(LARGE, rule, gradient, chunk)
        assert_close((learner.run(*data), learner.net.state_dict()), (ys, weights), "training")


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_errors_are_bounded(gradient, dtype):
    for case in (TRAINED[0], replace(STACKS[0], steps=T, resets=0.04), replace(STACKS[2], steps=T, resets=0.04)):
        bound = 0.02  # of errors about 0.3
        learner, *data = learner_of(case, dtype, gradient=gradient, chunk=6, error_bound=bound)
        reference, names = reference_of(case, gradient, 6, error_bound=bound)
        assert_close(learner.run(*data), follow(reference, *case.make("float64")[1:]), "forward")
        grads = by_name(settled(reference), names)
        assert_close(learner.gradients(), grads, "chunks")
        assert np.abs(flat(grads, learner.net) - flat(expected(case, gradient, 6)[1], learner.net)).max() > 1e-2


@rules
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_without_a_target_nothing_moves(gradient, rule):
    """Not by a momentum, not by a decay of weights."""
    learner, xs, targets, reset = learner_of(TRAINED[0], "float32", rule, gradient=gradient, chunk=3)
    learner.run(xs, targets, reset)
    learner.apply()
    before = learner.net.state_dict(), learner.optimizer.state_dict()
    learner.run(xs)
    assert np.isnan(learner.loss)
    learner.run(xs, np.full_like(targets, np.nan), reset)
    learner.apply()
    learner.apply()
    assert_same_bits((learner.net.state_dict(), learner.optimizer.state_dict()), before)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_learns_what_takes_longer_than_a_chunk(gradient):
    """The first of 12 steps tells which of two symbols came; the answer is due at the last, three chunks later."""
    r, n, lag = np.random.default_rng(0), 1500, 12
    net = fl.Sequential(fl.LSTM1997(3, 2, init=0.2, seed=1), fl.Linear(2, 1, activation="sigmoid", seed=1))
    bits, xs = r.integers(0, 2, n), np.zeros((n, lag, 3), np.float32)
    xs[np.arange(n), 0, bits] = 1
    xs[:, 1:, 2] = r.uniform(-1, 1, (n, lag - 1))
    targets, reset = np.full((n, lag, 1), np.nan, np.float32), np.zeros((n, lag), bool)
    targets[:, -1, 0], reset[:, 0] = bits, True
    learner = fl.OnlineLearner(net, "sse", fl.Adam(net, 0.01), gradient, 4)
    ys = learner.run(xs.reshape(-1, 3), targets.reshape(-1, 1), reset.reshape(-1)).reshape(n, lag)
    error = np.abs(ys[-500:, -1] - bits[-500:])
    assert error.max() < 0.2 if gradient != "bptt" else error.mean() > 0.4


# The same bits --------------------------------------------------------------------------------------------------------

SETTINGS = [
    ("truncated-rtrl", 1, "Adam"),
    ("truncated-rtrl", 5, "momentum"),
    ("truncated-rtrl", 40, None),
    ("truncated-rtrl", 40, "RMSprop"),
    ("truncated-rtrl", "episode", "nesterov"),
    ("carried-bptt", 7, "AdamW"),
    ("carried-bptt", 40, None),
    ("bptt", 7, "momentum"),
]
settings = pytest.mark.parametrize("setting", SETTINGS, ids=str)
# All settings of the plain cell; the other families take the settings in turns.
PAIRS = [({}, setting) for setting in SETTINGS]
PAIRS += [(options, SETTINGS[k % len(SETTINGS)]) for k, options in enumerate(FAMILIES[1:])]
pairs = pytest.mark.parametrize("options, setting", PAIRS, ids=lambda p: describe(p) if isinstance(p, dict) else str(p))
EACH = ("truncated-rtrl", 1, "SGD")  # learns at every step, by another path
BITS = Case("", (*over({}, 12)[:1], (fl.LSTM, (12, 4), {}), (fl.Linear, (4, 2), {})), "sse", 2, T, 0.03)


def result(case, setting, dtype, how=(0,), **options):
    gradient, chunk, rule = setting
    learner, *data = learner_of(case, dtype, rule, gradient=gradient, chunk=chunk, **options)
    return feed(learner, *data, how), seen(learner)


def variant(options, lanes=2):
    return replace(BITS, layers=((fl.LSTM, (2, 12), options), *BITS.layers[1:]), lanes=lanes)


@pairs
def test_step_run_pieces_and_halves_give_the_same_bits(options, setting, isa, dtype):
    case = variant(options, 1 + FAMILIES.index(options) % 3)
    wanted = result(case, setting, dtype)
    for how in (("step",), ("halves",), (3, "step", 33, "halves")):
        assert_same_bits(result(case, setting, dtype, how), wanted)


@settings
def test_a_callable_has_the_bits_of_a_name(setting, dtype):
    def sse(y, target):
        return 0.0, np.where(np.isnan(target), 0, y - target).astype(y.dtype)

    for how in ((0,), ("halves", 5, "step")):
        assert_same_bits(result(BITS, setting, dtype, how, loss=sse), result(BITS, setting, dtype, how))


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@pairs
def test_same_bits_on_every_instruction_set_with_fma(options, setting, dtype, select_isa):
    results = []
    for isa in FUSED:
        select_isa(isa)
        results.append(result(variant(options), setting, dtype))
    for other in results[1:]:
        assert_same_bits(other, results[0])


WORKS = [  # enough work to be divided by lanes, by lanes of several layers, by units
    Case("lanes", over({}, 64, 20), "sse", 3, 96, 0.03),
    Case("stack", ((fl.LSTM, (20, 64), ALL), (fl.LSTM, (64, 48), {}), (fl.Linear, (48, 30), {})), "sse", 5, 64, 0.03),
    Case("units", ((fl.LSTM, (33, 160), {}), (fl.Linear, (160, 5), {})), "sse", 1, 64, 0.03),
]


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s[1] in (40, 7)], ids=str)
@pytest.mark.parametrize("case", WORKS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case, setting):
    if setting[1] == 7:
        setting = (setting[0], 32, setting[2])
    wanted = result(case, setting, "float32")
    for threads in (2, 3):
        fl.set_num_threads(threads)
        assert_same_bits(result(case, setting, "float32"), wanted)


@settings
def test_the_number_of_threads_may_change_in_the_middle(setting, dtype):
    learner, xs, targets, reset = learner_of(WORKS[0], dtype, setting[2], gradient=setting[0], chunk=setting[1])
    ys = []
    for t in range(0, 96, 12):
        fl.set_num_threads(1 + t // 12 % 3)
        ys.append(feed(learner, xs[t : t + 11], targets[t : t + 11], reset[t : t + 11]))
        if reset[t + 11].any():
            learner.reset(reset[t + 11])
        ys.append(learner.predict(xs[t + 11])[None])
        fl.set_num_threads(1 + t // 12 % 2)
        learner.learn(targets[t + 11])
    fl.set_num_threads(1)
    assert_same_bits((np.concatenate(ys), seen(learner)), result(WORKS[0], setting, dtype))


def by_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])
@settings
@pytest.mark.parametrize("options", [FAMILIES[0], FAMILIES[-1]], ids=describe)
def test_copies_go_on_with_the_same_bits(options, setting, duplicate, dtype):
    """From the beginning, the middle or the end of a window, with a reset that waits for the next step or without."""
    for pause in (0, 3, 7, 32, 40):
        learner, *data = learner_of(variant(options), dtype, setting[2], gradient=setting[0], chunk=setting[1])
        if pause:
            feed(learner, *(a[:pause] for a in data))
        if pause % 2:
            learner.reset([False, True])
        other = duplicate(learner)
        assert_same_bits((seen(other), other.loss), (seen(learner), learner.loss))
        results = [(feed(one, *(a[pause:] for a in data)), seen(one)) for one in (learner, other)]
        assert_same_bits(*results)


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@pairs
def test_a_copy_on_another_instruction_set_has_the_same_bits(options, setting, dtype, select_isa):
    select_isa(FUSED[0])
    learner, *data = learner_of(variant(options), dtype, setting[2], gradient=setting[0], chunk=setting[1])
    feed(learner, *(a[:40] for a in data))
    saved = pickle.dumps(learner)
    select_isa(FUSED[1])
    other = pickle.loads(saved)
    results = [(feed(one, *(a[40:] for a in data)), seen(one)) for one in (learner, other)]
    assert_same_bits(*results)


# In the middle of a window --------------------------------------------------------------------------------------------


@settings
def test_looking_changes_no_bit(setting, dtype):
    learner, *data = learner_of(BITS, dtype, setting[2], gradient=setting[0], chunk=setting[1])
    ys = []
    for t in range(0, T, 3):
        ys.append(feed(learner, *(a[t : t + 3] for a in data)))
        first = seen(learner), learner.loss, learner.nbytes(), learner.net.parameters
        stream = learner.net.stream(2)
        stream.state = learner.state
        assert_same_bits(learner.peek(data[0][0]), stream.step(data[0][0]))
        assert_same_bits((seen(learner), learner.loss, learner.nbytes(), learner.net.parameters), first)
    assert_same_bits((np.concatenate(ys), seen(learner)), result(BITS, setting, dtype))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_zero_grad_forgets_the_steps_of_the_window(gradient, dtype):
    """And not what the traces know of them."""
    case = replace(BITS, resets=0)
    learner, *data = learner_of(case, dtype, gradient=gradient, chunk=40)
    learner.run(*(a[:13] for a in data))
    learner.zero_grad()
    assert not any(g.any() for g in learner.gradients().values())
    learner.run(*(a[13:30] for a in data))
    reference, names = reference_of(case, gradient, 40)
    data = case.make("float64")[1:]
    follow(reference, *(a[:13] for a in data))
    settled_here(reference)
    reference.zero_grad()
    follow(reference, *(a[13:30] for a in data))
    assert_close(learner.gradients(), by_name(settled(reference), names), "chunks")


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_setting_the_state_clears_the_traces(gradient, dtype):
    xs, targets, reset = BITS.make(dtype)[1:]
    learner = learner_of(BITS, dtype, gradient=gradient, chunk=40)[0]
    learner.run(xs[:13], targets[:13], reset[:13])
    middle = learner.state
    learner.reset([True, False])  # waits for the next step; the new state comes after it
    learner.state = middle
    assert_same_bits(learner.state, middle)
    before = learner.gradients()
    assert any(g.any() for g in before.values())  # what was gathered stays
    learner.zero_grad()
    fresh = learner_of(BITS, dtype, gradient=gradient, chunk=40)[0]
    fresh.state = middle
    ys = [one.run(xs[13:30], targets[13:30], reset[13:30]) for one in (learner, fresh)]
    assert_same_bits((ys[0], seen(learner)), (ys[1], seen(fresh)))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_resets_of_some_lanes(gradient, dtype):
    """A lane that starts anew has the gradient of a learner that begins there, and the others do not notice."""
    case = Case("", BITS.layers, "sse", 3, T, 0)
    xs, targets, _ = case.make(dtype)[1:]
    for t in (1, 12, 31, 32, 45):
        for lane in range(3):
            learner = learner_of(case, dtype, gradient=gradient, chunk=50)[0]
            learner.run(xs[:t])  # no targets yet
            learner.reset(np.arange(3) == lane)
            alone = np.full_like(targets, np.nan)
            alone[t:, lane] = targets[t:, lane]
            learner.run(xs[t:50], alone[t:50])
            fresh = learner_of(replace(case, lanes=1), dtype, gradient=gradient, chunk=50)[0]
            fresh.run(xs[t:50, lane], alone[t:50, lane])
            wanted = {name: g.astype(float) for name, g in fresh.gradients().items()}
            assert_close(learner.gradients(), wanted, "gradient")


@pytest.mark.parametrize("gradient", GRADIENTS)
@rules
def test_apply_in_the_middle(gradient, rule, dtype):
    """Updates now, and the next chunk begins there."""
    learner, *data = learner_of(BITS, dtype, rule, gradient=gradient, chunk=10)
    feed(learner, *(a[:4] for a in data))
    before = learner.net.state_dict()
    learner.apply()
    assert not np.array_equal(learner.net.parameters, flat(before, learner.net))
    assert not any(g.any() for g in learner.gradients().values())
    after = seen(learner)
    learner.apply()  # nothing gathered
    assert_same_bits(seen(learner), after)
    feed(learner, *(a[4:13] for a in data))
    assert_same_bits(learner.net.state_dict(), after[0])
    feed(learner, *(a[13:14] for a in data))
    assert not np.array_equal(learner.net.parameters, flat(after[0], learner.net))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_weights_assigned_in_the_middle(gradient, dtype):
    """The steps before keep the gradient that they had, those after have the new weights."""
    case = replace(BITS, resets=0.02)
    learner, *data = learner_of(case, dtype, gradient=gradient, chunk=40)
    net = learner.net
    ys = [feed(learner, *(a[:13] for a in data))]
    first = learner.gradients()
    with_weights(net, 17)
    assert_close(learner.gradients(), {name: g.astype(float) for name, g in first.items()}, "gradient")
    ys.append(feed(learner, *(a[13:30] for a in data)))
    reference, names = reference_of(case, gradient, 40)
    exact = case.make("float64")[1:]
    wanted = [follow(reference, *(a[:13] for a in exact))]
    settled_here(reference)
    for (_, _, params), keys in zip(reference.layers, names, strict=True):
        for name in params:
            params[name][:] = net.state_dict()[keys[name]]
    wanted.append(follow(reference, *(a[13:30] for a in exact)))
    assert_close(ys, wanted, "forward")
    assert_close(learner.gradients(), by_name(settled(reference), names), "chunks")


@pytest.mark.parametrize("rule", ["momentum", "Adam"])
@pytest.mark.parametrize("shared", [True, False], ids=["one optimizer", "an optimizer each"])
def test_two_learners_on_one_network(shared, rule, dtype):
    """By turns, with chunks that end at different steps; one learns at every step where its rule allows."""
    case = Case("", over({}, 9), steps=48, resets=0)
    net, xs, targets, _ = case.make(dtype)
    twin = case.make("float64")[0]
    optimizer, exact = RULES[rule](net), RULES[rule](twin)
    optimizers = [optimizer, optimizer if shared else RULES[rule](net)]
    exacts = [exact, exact if shared else RULES[rule](twin)]
    chunks, pending = (5, 1), [0, 0]
    learners = [fl.OnlineLearner(net, "sse", o, chunk=chunk) for o, chunk in zip(optimizers, chunks, strict=True)]
    layers, names = reference_layers(twin)
    references = [ref.TruncatedRTRL(layers, "sse") for _ in range(2)]
    references[1].layers = references[0].layers
    for t in range(48):
        k = t // 4 % 2
        y = learners[k].step(xs[t, 0], targets[t, 0])
        wanted = follow(references[k], xs[t, None], targets[t, None], np.zeros((1, 1), bool))
        assert_close(y, wanted[0, 0], "training")
        pending[k] += 1
        if pending[k] == chunks[k]:
            pending[k] = 0
            if any(g.any() for grads in references[k].grads for g in grads.values()):
                twin.grad[:] = flat(by_name(references[k].grads, names), twin)
                exacts[k].step()
                references[k].zero_grad()
                for (_, _, params), keys in zip(references[0].layers, names, strict=True):
                    for name in params:
                        params[name][:] = twin.state_dict()[keys[name]]
    assert_close(net.state_dict(), twin.state_dict(), "training")
    assert np.abs(twin.parameters - case.make("float64")[0].parameters).max() > 1e-2


def test_a_prediction_without_a_target_may_follow_another(dtype):
    """Each is a step."""
    learner, xs, targets, _ = learner_of(BITS, dtype, "Adam", chunk=4)
    other = learner_of(BITS, dtype, "Adam", chunk=4)[0]
    ys = []
    for t in range(19):
        ys.append(learner.predict(xs[t]))
        if t % 3 == 0:
            learner.learn(targets[t])
    wanted = [other.step(x, targets[t] if t % 3 == 0 else None) for t, x in enumerate(xs[:19])]
    assert_same_bits((ys, seen(learner)), (wanted, seen(other)))


@pytest.mark.parametrize("setting", [EACH, *SETTINGS], ids=str)
def test_loss_is_the_mean_of_the_last_call(setting, dtype):
    case = replace(BITS, loss="mse")
    learner, xs, targets, reset = learner_of(case, dtype, setting[2], gradient=setting[0], chunk=setting[1])
    assert np.isnan(learner.loss)
    for t in (0, 20):
        now = slice(t, t + 20)
        ys = learner.run(xs[now], targets[now], reset[now])
        each = [
            np.nanmean((y.astype(float) - target) ** 2)
            for y, target in zip(ys, targets[now], strict=True)
            if has_target(target)
        ]
        assert learner.loss == pytest.approx(np.mean(each), rel=1e-5)
    y = learner.predict(xs[50])
    learner.learn(targets[50])
    assert learner.loss == pytest.approx(np.nanmean((y.astype(float) - targets[50]) ** 2), rel=1e-5)


# What is not a number -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, setting", [({}, EACH), *PAIRS], ids=str)
def test_nan_in_a_lane_without_a_target_stays_there(options, setting, dtype):
    """What the other lane learns are the bits that it learns beside a lane of zeros."""
    gradient, chunk, rule = setting
    results = []
    for x in (0, np.nan):
        learner, xs, targets, reset = learner_of(variant(options), dtype, rule, gradient=gradient, chunk=chunk)
        xs[5:, 1], targets[:, 1], reset[:, 1] = x, np.nan, False
        ys = learner.run(xs, targets, reset)
        results.append((ys[:, 0], learner.net.state_dict(), learner.gradients()))
    assert np.isnan(ys[5:, 1]).all()
    assert_same_bits(*results)


@pytest.mark.parametrize("options, setting", [({}, EACH), *(p for p in PAIRS if p[1][0] == GRADIENTS[0])], ids=str)
def test_nan_before_a_reset_stays_there(options, setting, dtype):
    """A lane without a target since its input failed, and until it started anew."""
    gradient, chunk, rule = setting
    for fails, starts in ((3, 9), (20, 21), (30, 32), (30, 34), (0, 50)):
        results = []
        for x in (0, np.nan):
            learner, xs, targets, reset = learner_of(variant(options), dtype, rule, gradient=gradient, chunk=chunk)
            xs[fails:starts, 1], targets[fails:starts, 1] = x, np.nan
            reset[fails : starts + 1, 1] = np.arange(fails, starts + 1) == starts
            ys = learner.run(xs, targets, reset)
            results.append((ys[:, 0], ys[starts:, 1], learner.net.state_dict(), learner.gradients()))
        assert np.isnan(ys[fails:starts, 1]).all()
        assert_same_bits(*results)


def test_nan_where_there_is_a_target_is_seen():
    for gradient in GRADIENTS:
        learner, xs, targets, reset = learner_of(BITS, "float32", gradient=gradient, chunk=7)
        xs[5], targets[5] = np.nan, 0.5
        learner.run(xs, targets, reset)
        assert np.isnan(learner.gradients()["0.weight_ih_l0"]).any()


# Memory, errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_memory_is_told_before_it_is_taken(gradient, threads, dtype):
    fl.set_num_threads(threads)
    for case in (*WORKS, *STACKS, BITS):
        for chunk in (2, 9, 100):
            learner = learner_of(case, dtype, "Adam", gradient=gradient, chunk=chunk)[0]
            told = fl.OnlineLearner.memory_for(learner.net, gradient, chunk, case.lanes)
            assert told == pytest.approx(learner.nbytes(), rel=0.01)
    with pytest.raises(ValueError, match="lanes"):
        fl.OnlineLearner.memory_for(learner.net, gradient, 5, 10**16)
    with pytest.raises(ValueError, match="lanes"):
        fl.OnlineLearner(learner.net, lanes=10**16, gradient=gradient, chunk=5)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_memory_does_not_grow(setting):
    case = replace(BITS, steps=5000)
    learner, *data = learner_of(case, "float32", setting[2], gradient=setting[0], chunk=setting[1])
    made = learner.nbytes()
    learner.run(*(a[:50] for a in data))
    tracemalloc.start()
    try:
        learner.run(*(a[:50] for a in data))
        before, _ = tracemalloc.get_traced_memory()
        learner.run(*data)
        feed(learner, *(a[:300] for a in data), ("step", "halves"))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert learner.nbytes() == made
    assert after - before < 2000


@pytest.mark.parametrize(
    "options, name",
    [
        ({"gradient": "rtrl"}, "gradient"),
        ({"gradient": None}, "gradient"),
        ({"gradient": "bptt", "chunk": "episode"}, "chunk"),
        ({"gradient": "carried-bptt", "chunk": "episode"}, "chunk"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": -3}, "chunk"),
        ({"chunk": 2.5}, "chunk"),
        ({"chunk": "epoch"}, "chunk"),
        ({"chunk": None}, "chunk"),
        ({"chunk": [4]}, "chunk"),
        ({"gradient": "bptt", "chunk": 10**18}, "memory|chunk"),
        ({"lanes": 0}, "lanes"),
        ({"lanes": "two"}, "lanes"),
        ({"error_bound": 0}, "error_bound"),
        ({"error_bound": -1.0}, "error_bound"),
        ({"error_bound": np.nan}, "error_bound"),
        ({"error_bound": "small"}, "error_bound"),
        ({"net": fl.GRU(2, 3)}, "GRU.*bptt"),
        ({"net": fl.RNN(2, 3), "gradient": "carried-bptt"}, "RNN.*bptt"),
        ({"net": fl.LSTM(2, 4, proj_size=3)}, "projection.*bptt"),
        ({"net": fl.LSTM(2, 3, bidirectional=True), "gradient": "bptt"}, "bidirectional"),
        ({"net": fl.LSTM(2, 3, recurrent_dropout=0.5), "gradient": "bptt"}, "dropout"),
        ({"net": None}, "net"),
    ],
    ids=str,
)
def test_wrong_options(options, name):
    options = {"net": fl.LSTM(2, 3)} | options
    with pytest.raises((ValueError, TypeError), match=name) as raised:
        fl.OnlineLearner(**options)
    assert "\n" not in str(raised.value)
    if not {"error_bound", "loss"} & set(options):
        with pytest.raises((ValueError, TypeError), match=name):
            fl.OnlineLearner.memory_for(**options)


@settings
def test_a_call_that_raises_changes_nothing(setting, dtype):
    learner, xs, targets, reset = learner_of(BITS, dtype, setting[2], gradient=setting[0], chunk=setting[1])
    feed(learner, xs[:11], targets[:11], reset[:11])
    before, other = seen(learner), "float32" if dtype == "float64" else "float64"
    for call, name in (
        (lambda: learner.run(xs[:, :1], targets), "xs"),
        (lambda: learner.run(xs.astype(other), targets), "xs"),
        (lambda: learner.run(xs, targets[:3]), "targets"),
        (lambda: learner.run(xs, targets[:, :, :1]), "targets"),
        (lambda: learner.run(xs, targets, reset[:, :1]), "reset"),
        (lambda: learner.step(xs[0, :, :1], targets[0]), "x"),
        (lambda: learner.step(xs[0], targets[0, :1]), "target"),
        (lambda: learner.predict(xs[0, :1]), "x"),
        (lambda: learner.reset([True]), "mask"),
        (lambda: learner.learn(targets[0]), "predict"),
        (lambda: setattr(learner, "state", [learner.state[0]]), "state"),
    ):
        with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
            call()
        assert_same_bits(seen(learner), before)
    wanted = result(BITS, setting, dtype)
    feed(learner, xs[11:], targets[11:], reset[11:])
    assert_same_bits(seen(learner), wanted[1])


@settings
def test_a_target_that_is_refused_can_be_given_again(setting, dtype):
    learner, xs, targets, reset = learner_of(BITS, dtype, setting[2], gradient=setting[0], chunk=setting[1])
    for t in range(T):
        if reset[t].any():
            learner.reset(reset[t])
        learner.predict(xs[t])
        with pytest.raises(ValueError, match="target"):
            learner.learn(targets[t, :, :1])
        learner.learn(targets[t] if has_target(targets[t]) else None)
        with pytest.raises(ValueError, match="predict"):
            learner.learn(targets[t])
    assert_same_bits(seen(learner), result(BITS, setting, dtype)[1])
