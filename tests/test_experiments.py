"""The experiments of the 1997 paper: sequences, networks, stop criteria, trials."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest

import fastlstm as fl
from fastlstm import experiments
from fastlstm.experiments import noise, order, reber, timing
from fastlstm.experiments._task import Batch, Curve, Task
from fastlstm.experiments.catalogue import find, method
from fastlstm.experiments.report import _by_gate, _gates


def rng(seed=0):
    return np.random.default_rng(seed)


def task(name):
    return experiments.find(name)[0]


# --- the catalogue ------------------------------------------------------------------------------------------------
def test_all_rows_of_the_papers_tables_are_there():
    names = [t.name for t in experiments.TASKS]
    assert len(set(names)) == len(names)
    own = [f"1-{k}" for k in range(1, 6)] + ["2a-1", "2a-2", "2a-3", "2b"] + [f"2c-{k}" for k in range(1, 10)]
    own += [f"3a-{k}" for k in (1, 2, 3)] + [f"3b-{k}" for k in (1, 2, 3)] + ["3c-1", "3c-2"]
    assert names[: len(own) + 6] == [*own, "4-1", "4-2", "4-3", "5", "6a", "6b"]
    assert {"cerg-1", "cnto-1", "msd", "gts", "pfg-1"} < set(names)


@pytest.mark.parametrize("name", [t.name for t in experiments.TASKS if not t.name.startswith(("cerg", "2a-1", "2a-2"))])
def test_networks_have_the_papers_number_of_weights(name):
    if task(name).weights is not None:
        learner = experiments.METHODS["lstm1997"](task(name), rng())
        assert learner.weights == task(name).weights


def test_counts_of_the_rivals():
    expected = [("1-1", "rtrl:hidden=3", 170), ("1-1", "rtrl:hidden=12", 494), ("1-1", "elman:hidden=15", 435)]
    expected += [("2a-1", "rtrl", 36), ("2a-2", "rtrl", 144), ("2a-3", "bptt", 10404), ("2a-3", "chunker", 10506)]
    for name, text, weights in expected:
        make, options, _ = experiments.method(task(name), text)
        assert make(task(name), rng(), **options).weights == weights, text


def test_find_takes_a_row_or_what_rows_begin_with():
    assert [t.name for t in experiments.find("4")] == ["4-1", "4-2", "4-3"]
    assert [t.name for t in experiments.find("2c-1")] == ["2c-1"]
    assert len(experiments.find("2c")) == 9 and len(experiments.find("all")) == len(experiments.TASKS)
    for wrong in ("7", "", "x"):
        with pytest.raises(ValueError, match="name is"):
            experiments.find(wrong)
    with pytest.raises(TypeError, match="name must be a str"):
        experiments.find(4)


def test_methods_are_named_with_options():
    make, options, text = experiments.method(task("4-1"), "lstm:hidden=16,lr=0.003,optimizer=sgd")
    assert make is experiments.METHODS["lstm"] and text == "lstm:hidden=16,lr=0.003,optimizer=sgd"
    assert options == {"hidden": 16, "lr": 0.003, "optimizer": "sgd"}
    assert experiments.method(task("4-1"), "best")[2] == task("4-1").best
    assert experiments.method(task("4-1"), "lstm1997:igb=(-1;-2)")[1] == {"igb": (-1, -2)}
    wrongs = ("nonsense", "method is"), ("lstm:hidden", "option=value"), ("lstm:nonsense=1", "wrong option")
    for wrong, words in wrongs:
        with pytest.raises(ValueError, match=words):
            experiments.trial(task("4-1"), wrong, most=1)
    with pytest.raises(TypeError, match="method must be a str"):
        experiments.method(task("4-1"), 3)


# --- sequences ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [t.name for t in experiments.TASKS])
def test_sequences_have_the_shapes_that_learners_want_and_depend_on_the_generator_alone(name):
    its = task(name).trial(3, 0)
    one, two = its.draw(rng(7), 9), its.draw(rng(7), 9)
    for batch in (one, its.draw(rng(7), 9, test=True)):
        assert batch.xs.dtype == batch.targets.dtype == np.float32
        assert batch.xs.shape == (len(batch.targets), its.inputs) and batch.targets.shape[1] == its.outputs
        assert len(batch) == 9 and batch.ends[-1] == len(batch.xs) - 1 and (batch.lengths > 0).all()
    assert np.array_equal(one.xs, two.xs) and np.array_equal(one.targets, two.targets, equal_nan=True)
    other = its.draw(rng(8), 9)
    assert other.xs.shape != one.xs.shape or not np.array_equal(other.xs, one.xs) or name.startswith(("pfg", "2a"))
    assert (one.reset is None) == one.continual
    if not one.continual:
        assert np.array_equal(np.flatnonzero(one.reset[:, 0]), one.starts)


def test_batches_can_be_cut_and_padded():
    batch = Batch(np.arange(10.0)[:, None], np.zeros((10, 1)), np.array([2, 3, 9]), np.arange(10))
    assert list(batch.lengths) == [3, 1, 6] and list(batch.starts) == [0, 3, 4]
    part = batch.part(1, 3)
    assert list(part.xs[:, 0]) == list(part.extra) == list(range(3, 10)) and list(part.ends) == [0, 6]
    assert len(batch.part(2, 2)) == 0 and len(batch.part(2, 2).xs) == 0
    assert list(batch.steps(5).ends) == [2, 3] and len(batch.steps(5).xs) == 5
    for n, starts in ((6, [0, 3, 4]), (5, [0, 3, 4]), (4, [0, 3]), (2, [0]), (0, [])):  # an unfinished one too
        assert list(np.flatnonzero(batch.steps(n).reset)) == starts
    taken = batch.take([2, 0, 0])
    assert list(taken.xs[:, 0]) == [4, 5, 6, 7, 8, 9, 0, 1, 2, 0, 1, 2] and list(taken.ends) == [5, 8, 11]
    padded = batch.padded(batch.xs + 1)
    assert padded.shape == (6, 3, 1) and list(padded[:, 0, 0]) == [1, 2, 3, 0, 0, 0]
    assert np.array_equal(padded[batch.places], batch.xs + 1)


def reber_accepts(text):
    """Whether a text is an embedded Reber string, by Figure 3 written as a regular expression."""
    inner = r"B(?:TS*X(?:XT*V(?:PXT*V)*(?:V|PS)|S)|PT*V(?:PXT*V)*(?:V|PS))E"
    return re.fullmatch(f"BT{inner}TE|BP{inner}PE", text) is not None


def test_embedded_reber_strings():
    symbols, legal, lengths = reber.strings(rng(1), 20_000)
    text = "".join(reber.SYMBOLS[s] for s in symbols)
    ends = np.cumsum(lengths)
    strings = [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    assert all(map(reber_accepts, set(strings)))
    assert lengths.min() == 9 and abs(lengths.mean() - 12.0) < 0.1 and abs((lengths == 9).mean() - 0.25) < 0.01
    following = np.append(symbols[1:], reber.B)
    assert legal[np.arange(len(legal)), following].all() and set(legal.sum(axis=1)) == {1, 2}
    for string, end, length in list(zip(strings, ends, lengths, strict=True))[:50]:
        allowed = legal[end - 2]  # after the second T or P, and before it the same symbol alone
        assert allowed.sum() == 1 and allowed[reber.E]
        assert list(np.flatnonzero(legal[end - 3])) == [reber.SYMBOLS.index(string[1])] and length == len(string)


def test_embedded_reber_has_three_pairs_of_sets_that_do_not_overlap():
    trials = [task("1-5").trial(4, number) for number in range(4)]
    assert np.array_equal(trials[0].training.xs, trials[3].training.xs)
    assert trials[0].training.xs.shape != trials[1].training.xs.shape
    for its in trials[:3]:
        training, testing = ({xs.tobytes() for xs, _ in b} for b in (its.training, its.testing))
        assert len(its.training) == len(its.testing) == 256 and not training & testing


def test_embedded_reber_is_right_if_legal_symbols_are_most_active():
    its = task("1-5").trial(0, 0)
    batch = its.training.part(0, 40)
    ys = np.where(batch.extra, 0.2, 0.1)
    assert its.judge(batch, ys)[0].all()
    at = batch.starts[7] + 3
    ys[at, np.argmin(batch.extra[at])] = 0.2  # as active as the legal ones: wrong
    assert list(np.flatnonzero(~its.judge(batch, ys)[0])) == [7]


def test_two_sequences_without_noise():
    its = task("2a-3")
    batch = its.draw(rng(), 50)
    symbols, following = batch.xs.argmax(axis=1).reshape(50, 100), batch.targets.argmax(axis=1).reshape(50, 100)
    assert (symbols[:, 1:] == np.arange(99)).all() and (following[:, :-1] == np.arange(99)).all()
    assert np.array_equal(symbols[:, 0], following[:, -1]) and set(symbols[:, 0]) == {99, 100}
    middle = task("2b").draw(rng(), 50).xs.argmax(axis=1).reshape(50, 100)[:, 1:]
    assert middle.max() == 98 and len(np.unique(middle)) == 99


def test_long_lags():
    its = task("2c-1")
    batch = its.draw(rng(2), 5000)
    symbols = batch.xs.argmax(axis=1)
    first, second, last = symbols[batch.starts], symbols[batch.starts + 1], symbols[batch.ends]
    assert (first == 51).all() and (last == 50).all() and set(second) == {52, 53}
    assert np.array_equal(batch.targets[batch.ends].argmax(axis=1), second - 52)
    # With the last symbol, which is not fed, a sequence has q + 4 symbols at least, and q + 13 in the mean.
    assert batch.lengths.min() == 53 and abs(batch.lengths.mean() - 62) < 0.5
    assert np.isnan(batch.targets).sum() == 2 * (len(symbols) - 5000)


@pytest.mark.parametrize("name, low, neutral", [("4-1", -1.0, 0.0), ("5", 0.0, 1.0)])
def test_marked_pairs(name, low, neutral):
    batch = task(name).draw(rng(3), 4000)
    values, markers = batch.xs.T
    assert batch.lengths.min() == 100 and batch.lengths.max() == 110
    assert low <= values.min() < low + 0.01 and values.max() < 1
    assert (markers[batch.starts] == -1).all() and (markers[batch.ends] == -1).all()
    hidden = 0
    for start, end in zip(batch.starts, batch.ends, strict=True):
        at = start + np.flatnonzero(markers[start : end + 1] == 1)
        places, marked = at - start, list(values[at].astype(float))
        hidden += len(at) == 1
        assert len(at) in (1, 2) and (places < 49).all()
        marked += [neutral] * (2 - len(at))
        goal = 0.5 + sum(marked) / 4 if name == "4-1" else marked[0] * marked[1]
        assert batch.targets[end, 0] == pytest.approx(goal, abs=1e-6)
        assert len(at) == 1 or (places < 10).any()
    assert 0.08 < hidden / 4000 < 0.16  # 1/10 by the first draw, 9/10 * 1/48 by the second


def test_noise_and_signal_on_one_channel():
    for name, informative in (("3a-1", 3), ("3a-2", 1), ("3c-1", 3)):
        its = task(name)
        batch = its.draw(rng(4), 3000, test=True)
        classes = batch.xs[batch.starts, 0]
        assert set(classes) == {-1.0, 1.0}
        for k in range(informative):
            assert np.array_equal(batch.xs[batch.starts + k, 0], classes)
        rest = batch.xs[batch.starts + informative, 0]
        assert abs(rest.mean()) < 0.05 and rest.var() == pytest.approx(0.2, rel=0.1)
        goal = np.where(classes > 0, its.values[1], its.values[0])
        assert np.allclose(batch.targets[batch.ends, 0], goal)
        assert batch.lengths.min() == 100 and batch.lengths.max() == 110
    assert (noise.NoisyTarget.values, noise.TwoSequences.values) == ((0.8, 0.2), (0.0, 1.0))  # class 1 is the second
    noisy = task("3b-1").draw(rng(4), 3000)
    assert np.abs(noisy.xs[noisy.starts, 0]).var() > 0.1
    targets = task("3c-1").draw(rng(4), 6000)
    last = targets.targets[targets.ends, 0]
    assert last.var() == pytest.approx(0.1 + 0.09, rel=0.1)
    assert np.isnan(targets.targets).sum() == len(targets.xs) - 6000


def test_temporal_order():
    for name, windows in (("6a", [(10, 20), (50, 60)]), ("6b", [(10, 20), (33, 43), (66, 76)])):
        batch = task(name).draw(rng(3), 4000)
        symbols = batch.xs.argmax(axis=1)
        assert np.array_equal(np.flatnonzero(symbols == order.SYMBOLS.index("E")), batch.starts)
        assert np.array_equal(np.flatnonzero(symbols == order.SYMBOLS.index("B")), batch.ends)
        where = np.flatnonzero(symbols >= 6).reshape(4000, -1)
        for (first, last), place in zip(windows, (where - batch.starts[:, None] + 1).T, strict=True):
            assert set(place) == set(range(first, last + 1))
        spelled = (symbols[where] - 6) @ (2 ** np.arange(len(windows))[::-1])  # X is 0, Y is 1
        assert np.array_equal(batch.targets[batch.ends].argmax(axis=1), spelled)
        assert np.array_equal(np.flatnonzero(~np.isnan(batch.targets).any(axis=1)), batch.ends)
        counts = np.bincount(symbols, minlength=8)[2:6]
        assert np.all(np.abs(counts / counts.sum() - 0.25) < 0.005)
        assert np.bincount(batch.lengths)[100:].min() > 4000 / 11 * 0.75 and batch.lengths.max() == 110


def test_timing():
    batch = task("msd").draw(rng(5), 1000)
    assert set(batch.lengths) == {10, 11} and np.array_equal(np.flatnonzero(batch.xs[:, 0]), batch.ends)
    assert np.array_equal(batch.targets[batch.ends, 0], batch.lengths - 10) and batch.targets.sum() > 400
    batch = task("gts").draw(rng(5), 1000)
    assert np.array_equal(batch.xs[batch.starts, 0], batch.lengths - 10)
    assert np.array_equal(np.flatnonzero(batch.targets[:, 0]), batch.ends)
    for name in ("pfg-1", "pfg-3", "pfg-4"):
        values = timing.Periodic.function(task(name))
        assert values.min() == 0 and values.max() == 1 and len(values) == 10


# --- networks and criteria ----------------------------------------------------------------------------------------
def test_the_network_of_6a_is_the_papers():
    weights = task("6a").network(rng()).state_dict()
    bias = weights["0.bias_ih_l0"]
    assert list(bias[:2]) == [-2, -4]
    rest = np.concatenate([bias[2:]] + [a.ravel() for name, a in weights.items() if name != "0.bias_ih_l0"])
    assert np.abs(rest).max() <= 0.1 and np.abs(rest).max() > 0.09 and len(np.unique(rest)) > 150


def test_gates_alone_have_biases_in_experiment_1_also_after_learning():
    its = task("1-5").trial(0, 0)
    for update in ("step", "sequence"):
        learner = experiments.METHODS["lstm1997"](its, rng(), update=update)
        bias = learner.net.state_dict()["0.bias_ih_l0"]
        assert (bias[3:9] == 0).all() and list(bias[9:]) == [-1, -2, -3]
        learner.learn(its.training.part(0, 3))
        after = learner.net.state_dict()["0.bias_ih_l0"]
        assert (after[3:9] == 0).all() and (after[:3] != bias[:3]).all() and (after[9:] != bias[9:]).all()


def test_a_window_counts_the_sequence_that_completes_it():
    window = experiments.Window("w", mean=0.1, size=10)
    right, mean = np.ones(50, bool), np.full(50, 0.05)
    assert window.met(right, mean) == 10
    right[12] = False
    assert window.met(right[5:], mean[5:]) == 18  # 13 + 10 - 5
    assert window.met(right[:9], mean[:9]) is None and window.met(right[10:22], mean[10:22]) is None
    assert experiments.Window("w", wrong=1, size=10).met(right, mean) == 10
    mean[:] = 0.15
    assert window.met(np.ones(50, bool), mean) is None
    mean[20:] = 0.01
    stop = window.met(np.ones(50, bool), mean)
    assert mean[stop - 10 : stop].mean() < 0.1 <= mean[stop - 11 : stop - 1].mean()


def test_errors_are_judged_where_targets_are_and_nan_is_wrong():
    its, nan = task("6a"), np.nan
    batch = Batch(np.zeros((4, 8)), np.array([[nan] * 4, [0, 1, 0, 0], [nan] * 4, [1, 0, 0, 0]]), np.array([1, 3]))
    ys = np.array([[9.0] * 4, [0.2, 0.75, 0.1, 0.1], [nan] * 4, [nan, 0, 0, 0]])
    right, mean = its.judge(batch, ys)
    assert list(right) == [True, False] and mean[0] == pytest.approx(0.65 / 4) and np.isnan(mean[1])


def test_training_ends_with_the_network_of_the_moment_the_criterion_is_met(monkeypatch):
    """The same weights as training on exactly so many sequences."""
    its = task("6a")
    monkeypatch.setattr(type(its), "milestones", (experiments.Window("few", mean=0.6, wrong=30, size=30),))
    monkeypatch.setattr(type(its), "test_sequences", 20)
    learner = experiments.METHODS["lstm1997"](its, rng(1))
    copy = experiments.METHODS["lstm1997"](its, rng(1))
    result, learner = its.train(learner, rng(2), 1000)
    assert result["success"] and result["sequences"] == 30 < its.block()
    batch = its.draw(rng(2).spawn(2)[0], its.block()).part(0, 30)
    copy.learn(batch)
    assert np.array_equal(copy.net.parameters, learner.net.parameters) and result["steps"] == len(batch.xs)
    assert set(result["milestones"]["few"]) == {"sequences", "wrong", "error"}


def test_tests_come_every_so_many_sequences_whatever_the_block(monkeypatch):
    its, tried = task("3a-1"), []
    monkeypatch.setattr(type(its), "milestones", (experiments.Check("c", every=30, promising=0.0),))
    monkeypatch.setattr(type(its), "test_sequences", 20)
    monkeypatch.setattr(type(its), "block", lambda self: 12)
    monkeypatch.setattr(type(its), "passes", lambda *_: tried.append(1) or len(tried) == 3)
    result, _ = its.train(experiments.METHODS["lstm1997"](its, rng(1)), rng(2), 1000)
    assert result["sequences"] == 96 and result["milestones"]["c"]["sequences"] == 96  # tried at 36, 60 and 96


def test_a_curve_keeps_the_mean():
    curve, values = Curve(most=10), rng().uniform(size=1234)
    for part in np.array_split(values, 17):
        curve.add(part)
    points = curve.points()
    every = points[0][0]
    assert len(points) <= 10 and [x for x, _ in points] == [every * (k + 1) for k in range(len(points))]
    for k, (_, y) in enumerate(points[:-1]):
        assert y == pytest.approx(values[k * every : (k + 1) * every].mean(), abs=1e-6)


# --- trials -------------------------------------------------------------------------------------------------------
def test_a_trial_depends_on_seed_and_number_alone():
    one, two, other = (experiments.trial(task("4-1"), "lstm1997", 5, k, 300)[0] for k in (1, 1, 2))
    for result in (one, two, other):
        del result["seconds"], result["cpu"]
    assert one == two and one["error"] != other["error"]
    assert json.loads(json.dumps(one)) == one
    assert not one["success"] and one["sequences"] == 300 and one["steps"] > 30_000


@pytest.mark.parametrize("text", ["lstm1997:gradient=bptt,optimizer=adam,lr=0.01", "lstm:batch=4", "gru", "bptt",
                                  "lstm1997:optimizer=adam,update=sequence", "lstm:gradient=carried-bptt,update=10",
                                  "lstm:chrono=100", "elman", "rtrl"])  # fmt: skip
def test_any_network_gradient_and_optimiser_can_be_tried(text):
    result, learner = experiments.trial(task("3a-1"), text, 1, 0, 100)
    assert result["sequences"] == 100 and np.isfinite(result["error"]) and result["method"] == text


def test_targets_at_the_ends_alone_need_no_update_at_each_step():
    texts = "lstm1997:optimizer=adam", "lstm1997:optimizer=adam,update=1"
    ends, steps = (experiments.trial(task("4-1"), text, 1, 0, 100) for text in texts)
    assert ends[0]["error"] == pytest.approx(steps[0]["error"], abs=1e-4)
    assert np.allclose(ends[1].net.parameters, steps[1].net.parameters, atol=1e-3)


def test_a_rate_can_fall():
    _, learner = experiments.trial(task("3a-1"), "lstm1997:optimizer=adam,lr=0.01,cool=500", 1, 0, 2000)
    assert learner._optimizer.lr == pytest.approx(0.01 / (1 + 1000 / 500))  # of the latest thousand


def test_long_lags_are_tested_without_their_inputs():
    its = task("2c-4")
    make, options, _ = experiments.method(its, "best")
    learner = make(its, rng(1), **options)
    learner.learn(its.draw(rng(2), 20))
    (right, mean), (all_right, all_mean) = its.errors(learner, rng(3), 20), Task.errors(its, learner, rng(3), 20)
    assert np.array_equal(right, all_right) and np.allclose(mean, all_mean, atol=1e-6)


def test_closed_gates_and_cross_entropy_of_2a():
    _, learner = experiments.trial(task("2a-2"), "lstm1997:igb=-30,entropy=True,patience=0", 1, 0, 10)
    assert abs(learner._states(np.arange(10))[0]).max() < 1e-6
    assert (learner._delta(np.full(3, 0.25), np.full(3, 0.5)) == 0.5).all()


def test_methods_for_one_training_set_say_so():
    for text in ("rcc", "hmm"):
        with pytest.raises(ValueError, match="has none"):
            experiments.trial(task("4-1"), text, most=1)
    with pytest.raises(ValueError, match="sequences that end"):
        experiments.trial(task("cerg-3"), "lstm1997:last=True", most=1)
    for text in ("lstm", "elman"):
        with pytest.raises(ValueError, match="no end to wait for"):
            experiments.trial(task("cerg-3"), text, most=1)
    with pytest.raises(ValueError, match="2a and 2b"):
        experiments.trial(task("4-1"), "chunker", most=1)


def test_output_units_that_see_the_inputs_follow_the_gradient():
    its = task("1-5").trial(0, 0)

    def make(text, lr):
        method, options, _ = experiments.method(its, text)
        return method(its, rng(3), shortcut=True, lr=lr, **options)

    batch = its.draw(rng(1), 1)

    def loss(learner):
        return 0.5 * float(np.sum((learner.predict(batch).astype(float) - batch.targets) ** 2))

    full, eps = make("lstm1997:gradient=bptt", 1e-3), 1e-2
    assert full.weights == 276 + 7 * 7 + 7
    before, body = loss(full), full.net.parameters.copy()
    out = full._out.copy()
    full.learn(batch)
    gradient = np.concatenate([(body - full.net.parameters).ravel(), (out - full._out).ravel()]) / 1e-3
    frozen = full._frozen
    assert (gradient[frozen] == 0).all() and np.linalg.norm(gradient) > 0.1
    assert loss(full) == pytest.approx(before - 1e-3 * gradient @ gradient, abs=2e-6)
    for index in ((0, 0), (3, 8), (6, 13)):  # of a cell, an input, the bias
        probe = make("lstm1997:gradient=bptt", 1e-3)
        probe._out[index] += eps
        up = loss(probe)
        probe._out[index] -= 2 * eps
        expected = (up - loss(probe)) / (2 * eps)
        assert gradient[body.size + np.ravel_multi_index(index, out.shape)] == pytest.approx(expected, abs=1e-3)
    # In the first step nothing has been truncated yet.
    first = Batch(batch.xs[:1], batch.targets[:1], np.array([0]))
    full, truncated = make("lstm1997:gradient=bptt", 0.5), make("lstm1997", 0.5)
    assert np.allclose(full.learn(first), truncated.learn(first))
    assert np.allclose(full.net.parameters, truncated.net.parameters, atol=1e-6)
    assert np.allclose(full._out, truncated._out, atol=1e-6) and not np.allclose(full._out, out)
    with pytest.raises(ValueError, match="plain gradient descent"):
        make("lstm1997:optimizer=adam", 0.1)


def by_hand(its, learner, source, most):
    """As `StreamTask.train` says, one step after the other: how far each stream came without an error."""
    lengths = []
    for _ in range(most):
        learner.begin()
        steps, sequences, first = 0, 0, None
        while (first is None or its.whole) and (steps if its.unit == "steps" else sequences) < its.length:
            batch = source(1)
            for t, (x, target) in enumerate(zip(batch.xs, batch.targets, strict=True)):
                y = learner.step(x, target, not batch.continual and t == 0)
                has = ~np.isnan(target)
                if first is None and not (np.abs(y - target)[has] < its.tolerance).all():
                    first = steps if its.unit == "steps" else sequences
                if first is not None and not its.whole:
                    break
                steps += 1
                if its.unit == "steps" and steps == its.length:
                    break
            sequences += 1
        lengths.append(its.length if first is None else first)
    return lengths


@pytest.mark.parametrize("name", ["cerg-1", "cerg-3", "cerg-4", "msd", "nmsd", "gts", "pfg-4", "cnto-2"])
@pytest.mark.parametrize("text", ["lstm1997", "lstm:hidden=4,lr=0.01,gradient=carried-bptt,update=5"])
@pytest.mark.parametrize("wide", [False, True])
def test_streams_are_followed_as_by_hand(name, text, wide, monkeypatch):
    """Blocks of several streams, and of one that goes well, bring the same nets as one step after the other."""
    its = dataclasses.replace(task(name), length=40 if task(name).unit == "steps" else 3, promising=1000)  # no tests
    if wide:  # so that streams come far, and to their limits
        monkeypatch.setattr(type(its), "tolerance", 1.1 if name == "pfg-4" else 0.8)
    text += ":decay=0.99" if name == "cerg-4" and text == "lstm1997" else ""
    make, options, _ = method(its, text)
    net, other = (make(its, rng(1), **options) for _ in range(2))
    result, net = its.train(net, rng(3), 33)
    lengths = by_hand(its, other, its.source(rng(3).spawn(2)[0]), 33)
    assert np.array_equal(net.net.parameters, other.net.parameters) and result["sequences"] == 33
    assert result["curve"][0][1] == round(np.mean(lengths[:25]), 6)
    assert max(lengths) == its.length or not wide


@pytest.mark.parametrize("name", ["cerg-1", "cerg-4", "cnto-2", "msd", "gts", "pfg-1"])
@pytest.mark.parametrize("text", ["lstm1997", "best", "rtrl:hidden=2,lr=0.1"])
def test_continual_tasks_run(name, text):
    result, _ = experiments.trial(task(name), text, 0, 0, 3)
    assert result["sequences"] == 3 and result["steps"] >= 3 and result["best length"] >= 0


@pytest.mark.parametrize("name", ["cerg-1", "cerg-4", "cnto-2"])
def test_continual_tasks_run_with_shortcuts(name):
    result, learner = experiments.trial(task(name), "lstm1997:shortcut=True,decay=0.99", 0, 0, 3)
    assert result["sequences"] == 3 and np.isfinite(learner._out).all()


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_gates_of_the_plots_are_those_of_the_net(peepholes, size):
    lstm = fl.LSTM(3, 4, block_size=size, peepholes=peepholes, gate_recurrence=True, seed=1)
    if peepholes:
        lstm.weight_peephole_l0 = rng(2).normal(size=lstm.weight_peephole_l0.shape).astype("f4")
    stream, blocks = lstm.stream(), 4 // size
    cells = slice(2 * blocks, 2 * blocks + 4)  # after the rows of input and forget gates
    for x in rng(3).normal(size=(5, 3)).astype("f4"):
        before = stream.state
        net = lstm.weight_ih_l0 @ x + lstm.weight_hh_l0 @ np.ravel(before[0]) + lstm.bias_ih_l0 + lstm.bias_hh_l0
        net = net + lstm.weight_gh_l0 @ np.ravel(before.gates)
        h = stream.step(x)
        after = stream.state
        gates = _by_gate(lstm, _gates(lstm, x, before, np.ravel(after[1]))[None])
        i, f, o = (np.repeat(gates[name][0], size) for name in ("input gates", "forget gates", "output gates"))
        c = f * np.ravel(before[1]) + i * np.tanh(net[cells])
        assert np.allclose(c, np.ravel(after[1]), atol=1e-6)
        assert np.allclose(o * np.tanh(c), h, atol=1e-6)


def test_a_copy_of_a_net_with_shortcuts_learns_by_itself():
    its = task("cerg-1")
    _, learner = experiments.trial(its, "lstm1997:shortcut=True", 0, 0, 3)
    batch = its.source(rng(5))(3)
    copied = copy.deepcopy(learner)
    assert np.array_equal(learner.learn(batch), copied.learn(batch))
    assert np.array_equal(learner.net.parameters, copied.net.parameters)


def test_a_stream_that_is_never_wrong_ends_at_its_limit():
    its = dataclasses.replace(task("cerg-3"), test_length=1000)
    assert its.walk(lambda batch: batch.targets, its.source(rng(1))) == 1000
    its = dataclasses.replace(task("cnto-1"), test_length=40)
    assert its.walk(lambda batch: batch.targets, its.source(rng(1))) == 40


def test_a_net_without_a_number_is_wrong_from_the_start():
    its = task("cnto-1")
    assert its.walk(lambda batch: np.full_like(batch.targets, np.nan), its.source(rng(1))) == 0


def test_a_net_that_leaves_t_or_p_to_chance_is_wrong():
    """Of the continual grammar: what may follow by the local rules alone is not enough."""
    its = task("cerg-3")
    batch = its.source(rng(1))(20)
    ys = batch.targets.copy()
    last = batch.ends - 2
    ys[last] = 0
    ys[np.ix_(last, [1, 2])] = 0.5
    assert np.array_equal(np.flatnonzero(its.wrong(batch, ys)), last)


# --- runs ---------------------------------------------------------------------------------------------------------
def small(monkeypatch):
    """3a-1 solved at once: any mean error will do."""
    monkeypatch.setattr(noise.TwoSequences, "limits", {"ST1": (256, np.inf), "ST2": (256, np.inf)})
    checks = tuple(experiments.Check(name, every=30, promising=0.0) for name in ("ST1", "ST2"))
    monkeypatch.setattr(noise.TwoSequences, "milestones", checks)
    monkeypatch.setattr(noise.TwoSequences, "test_sequences", 20)


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    small(monkeypatch)
    out, said = tmp_path / "r.jsonl", []
    assert [r["trial"] for r in experiments.run("3a-1", trials=3, most=50, out=out)] == [0, 1, 2]
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(lines[0] + lines[1] + lines[2][: len(lines[2]) // 2])  # killed while it wrote
    assert len(experiments.load(out)) == 2
    again = experiments.run("3a-1", trials=4, most=50, out=out, say=said.append)
    assert [r["trial"] for r in again] == [2, 3] and len(said) == 2 and "3a-1 lstm1997 trial 3: solved" in said[1]
    assert sorted(r["trial"] for r in experiments.load(out)) == [0, 1, 2, 3]
    assert experiments.run("3a-1", trials=4, most=50, out=out) == []
    assert len(experiments.run("3a-1", trials=1, seed=1, most=50, out=out)) == 1
    assert len(experiments.run("3a-1", "lstm1997:lr=0.5", trials=1, most=50, out=out)) == 1
    assert len(experiments.load(tmp_path)) == 6


def test_unsolved_trials_are_run_again_if_they_may_take_longer(tmp_path):
    out = tmp_path / "r.jsonl"
    for most, new in ((40, 1), (40, 0), (30, 0), (60, 1)):
        assert len(experiments.run("4-1", trials=1, most=most, out=out)) == new


def test_a_damaged_file_is_refused(tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_text('{"task": "4-1"}\nnonsense\nmore nonsense\n')
    with pytest.raises(ValueError, match="line 2: no JSON"):
        experiments.load(out)


def results_of(trials):
    return {(r["trial"], r["sequences"], r["milestones"]["ST2"]["error"]) for r in trials}


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_trials_side_by_side_are_the_same(backend, tmp_path):
    joblib = pytest.importorskip("joblib")
    alone = experiments.run("3a-1", trials=3, most=60)
    with joblib.parallel_config(backend=backend):
        beside = experiments.run("3a-1", trials=3, most=60, jobs=2, out=tmp_path / "r.jsonl")
    figures = [{(r["trial"], r["error"]) for r in results} for results in (alone, beside)]
    assert figures[0] == figures[1] and len(experiments.load(tmp_path)) == 3


def test_trials_on_a_dask_cluster(tmp_path):
    joblib = pytest.importorskip("joblib")
    distributed = pytest.importorskip("distributed")
    alone = experiments.run("3a-1", trials=3, most=60)
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None):
        with joblib.parallel_config(backend="dask"):
            beside = experiments.run("3a-1", trials=3, most=60, jobs=None, out=tmp_path / "r.jsonl")
    assert {(r["trial"], r["error"]) for r in alone} == {(r["trial"], r["error"]) for r in beside}
    assert len(experiments.load(tmp_path)) == 3


# --- the report and the command line ------------------------------------------------------------------------------
def test_report(tmp_path, monkeypatch):
    small(monkeypatch)
    experiments.run("3a-1", trials=2, most=50, out=tmp_path / "r.jsonl")
    experiments.run("3a-1", "gru:hidden=3", trials=1, most=50, out=tmp_path / "r.jsonl")
    written = [path.name for path in experiments.report(tmp_path)]
    page = (tmp_path / "3.md").read_text()
    row = next(line for line in page.splitlines() if "ST2" in line and "`lstm1997`" in line).split(" | ")
    assert row[2:5] == ["102", "39,850 (100 %)", "30 (2 of 2, 30 to 30)"]
    assert "gru:hidden=3" in page and "39,850" in (tmp_path / "README.md").read_text()
    (tmp_path / "3.md").write_text(page.replace("# Experiment 3", "My words.\n# Experiment 3") + "\nMy conclusion.\n")
    experiments.report(tmp_path, plots=False)
    page = (tmp_path / "3.md").read_text()
    assert "My words." in page and "My conclusion." in page and page.count("`lstm1997`") == 2
    pytest.importorskip("matplotlib")
    assert {"3.md", "README.md", "3-curves.svg", "3-activity-3a-1.svg"} == set(written)
    svg = (tmp_path / "3-activity-3a-1.svg").read_text()
    assert all(words in svg for words in ("input gates", "output gates", "cell states", "error that reaches"))


def test_report_says_what_is_wrong(tmp_path):
    for directory, words in ((tmp_path / "no", "must be a directory"), (tmp_path, r"no \*.jsonl")):
        with pytest.raises(ValueError, match=words):
            experiments.report(directory)


def test_command_line(tmp_path, capsys):
    from fastlstm.__main__ import main

    assert main(["experiment", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(t.name in shown for t in experiments.TASKS) and all(m in shown for m in experiments.METHODS)
    assert all(len(line) <= 120 for line in shown.splitlines())
    out = str(tmp_path / "4.jsonl")
    run = ["experiment", "run", "4-1", "--trials", "2", "--seed", "3", "--max-sequences", "40", "--out", out]
    assert main(run) == 0 and "4-1 lstm1997 trial 1: not solved in 40 sequences" in capsys.readouterr().out
    assert main(run) == 0 and capsys.readouterr().out == ""
    assert main(["experiment", "report", str(tmp_path)]) == 0 and "README.md" in capsys.readouterr().out
    for wrong in (["run", "7"], ["run", "4-1", "--method", "x"], ["report", str(tmp_path / "no")]):
        assert main(["experiment", *wrong]) == 2
        assert capsys.readouterr().err.startswith("fastlstm experiment: ")
    for wrong in ([], ["run"], ["run", "4-1", "--trials", "0"], ["run", "4-1", "--jobs", "x"]):
        assert main(["experiment", *wrong]) == 2
        assert "usage: fastlstm experiment" in capsys.readouterr().err


@pytest.mark.slow
def test_6a_is_learnt_as_fast_as_in_the_paper():
    result, _ = experiments.trial(task("6a"), "lstm1997", seed=1, most=60_000)
    assert result["success"] and 10_000 < result["sequences"] < 60_000
    assert result["milestones"]["ST3(0.1)"]["wrong"] <= 10


@pytest.mark.parametrize("text", ["lstm1997:last=True", "lstm:last=True,hidden=2"])
def test_last_learns_from_the_last_target_alone(text):
    """Sequences that differ in their other targets are learnt alike."""
    task = find("2b")[0]
    made, options, _ = method(task, text)
    batch = task.draw(np.random.default_rng(1), 2)
    other = dataclasses.replace(batch, targets=np.roll(batch.targets, 1, axis=1))
    other.targets[batch.ends] = batch.targets[batch.ends]
    learners = [made(task, np.random.default_rng(0), **options) for _ in range(2)]
    for learner, data in zip(learners, (batch, other), strict=True):
        learner.learn(data)
    one, two = (learner.predict(batch) for learner in learners)
    assert one.tobytes() == two.tobytes()
