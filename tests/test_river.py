"""The estimators for River: its own checks, its pipelines, and streams whose features and classes come and go."""

import copy
import doctest
import importlib
import math
import pickle
import random
import statistics

import numpy as np
import pytest

river = pytest.importorskip("river")

from river import checks, datasets, evaluate, metrics, preprocessing, stream, time_series  # noqa: E402

from fastlstm.river import LSTMClassifier, LSTMForecaster, LSTMRegressor  # noqa: E402

MODELS = [
    LSTMRegressor(seed=0),
    LSTMRegressor(hidden_size=5, num_layers=2, chunk=4, standardize=False),
    LSTMClassifier(seed=0),
    LSTMForecaster(seed=0),
    LSTMForecaster(differences=None),
    LSTMForecaster(differences=(1, 3), chunk=3, seed=1),
]


@pytest.mark.parametrize(
    "model, check",
    [
        pytest.param(m, c, id=f"{type(m).__name__}{k}-{c.__name__}")
        for k, m in enumerate(MODELS)
        for c in checks.yield_checks(m)
    ],
)
def test_its_own_checks(model, check):
    random.seed(0)
    check(model.clone())


def test_docstrings():
    result = doctest.testmod(importlib.import_module("fastlstm.river"))
    assert result.attempted and not result.failed


def echoes(count, lag=1, seed=0):
    """Random bits, and what the bit was `lag` samples before: only those who remember can tell."""
    bits = np.random.default_rng(seed).integers(0, 2, count)
    for t in range(lag, count):
        yield {"bit": int(bits[t])}, int(bits[t - lag])


def test_state_goes_on():
    right = []
    model = LSTMClassifier(hidden_size=16, seed=0)
    for x, y in echoes(4000):
        right.append(model.predict_one(x) == y)
        model.learn_one(x, y)
    assert np.mean(right[-1000:]) > 0.95

    errors = []
    model = LSTMRegressor(hidden_size=16, seed=0)
    for x, y in echoes(4000):
        errors.append(abs(model.predict_one(x) - y))
        model.learn_one(x, y)
    assert np.mean(errors[-1000:]) < 0.1


@pytest.mark.parametrize("chunk", [1, 4])
def test_predictions_change_nothing(chunk):
    quiet, asked = (LSTMRegressor(chunk=chunk, seed=0) for _ in range(2))
    for k, (x, y) in enumerate(datasets.TrumpApproval().take(100)):
        first = asked.predict_one(x)
        asked.predict_one({name: value + k for name, value in x.items()} | {"other": 1})
        assert asked.predict_one(x) == first == quiet.predict_one(x)
        asked.learn_one(x, y)
        quiet.learn_one(x, y)
    assert (asked.net.parameters == quiet.net.parameters).all()

    quiet, asked = (LSTMForecaster(chunk=chunk, seed=0) for _ in range(2))
    for x, y in datasets.TrumpApproval().take(100):
        assert asked.forecast(5, [x] * 5)[:2] == asked.forecast(2, [x] * 2)
        asked.learn_one(y, x)
        quiet.learn_one(y, x)
    assert asked.forecast(3) == quiet.forecast(3)


@pytest.mark.parametrize("options", [{}, {"chunk": 4}, {"standardize": False, "lr": 0.001}])
def test_copies_go_on_alike(options):
    for model in (LSTMRegressor(seed=0, **options), LSTMClassifier(seed=0, **options)):
        samples = list(preprocessed(60))
        for x, y in samples[:30]:
            model.learn_one(x, y)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for x, y in samples[30:]:
            for one in (model, *copies):
                one.learn_one(x, y)
            assert model.predict_one(x) == copies[0].predict_one(x) == copies[1].predict_one(x)


def preprocessed(count):
    scaler = preprocessing.StandardScaler()
    for x, y in datasets.TrumpApproval().take(count):
        scaler.learn_one(x)
        yield scaler.transform_one(x), round(y)


def test_features_come():
    """A larger network goes on where the smaller one was: weights, optimizer, state."""
    model = LSTMRegressor(hidden_size=6, seed=0)
    names = "abcdefgh"
    samples = [dict(zip(names, row, strict=True)) for row in np.random.default_rng(0).normal(size=(30, 8)).tolist()]
    for x in samples:
        model.learn_one(x, x["a"])
    model._network.learner.optimizer.lr = 0.0
    small, twin = model.net, copy.deepcopy(model)
    assert small.state_dict()["0.weight_ih_l0"].shape == (24, 8)
    model.learn_one(samples[0] | {"i": 1.0}, 0.0)  # a first value is its mean, and counts as zero
    twin.learn_one(samples[0], 0.0)
    large = model.net
    assert large.state_dict()["0.weight_ih_l0"].shape == (24, 16)
    for name, old in small.state_dict().items():
        new = large.state_dict()[name]
        assert (new[tuple(map(slice, old.shape))] == old).all()
    for x in samples:  # without the new one, both say the same
        assert model.predict_one(x) == pytest.approx(twin.predict_one(x), rel=1e-5)
    assert model.predict_one(samples[1] | {"i": 9.0}) != model.predict_one(samples[1])
    model.learn_one(samples[1], 0.0)
    assert model.net is large
    model.learn_one({f"more {k}": k for k in range(100)}, 1)
    assert model.net.state_dict()["0.weight_ih_l0"].shape == (24, 128)


def test_what_was_learnt_stays_when_features_come():
    def error(extra):
        model, errors = LSTMRegressor(hidden_size=16, seed=0), []
        for k, (x, y) in enumerate(echoes(4000)):
            x = x | {f"noise {i}": 0.0 for i in range(extra if k > 3000 else 0)}
            errors.append(abs(model.predict_one(x) - y))
            model.learn_one(x, y)
        return np.mean(errors[3010:3300])

    assert error(20) == pytest.approx(error(0), abs=0.02)


def test_missing_features_are_absent():
    models = [LSTMRegressor(seed=0) for _ in range(3)]
    for k, (x, y) in enumerate(datasets.TrumpApproval().take(50)):
        without = dict(list(x.items())[: 1 + k % 5])
        for model, gap in zip(models, ("absent", None, math.nan), strict=True):
            model.learn_one(without if gap == "absent" else dict.fromkeys(x, gap) | without, y)
    first, *others = (model.predict_one(x) for model in models)
    assert others == [first, first]
    assert math.isfinite(first)


@pytest.mark.parametrize("standardize", [True, False])
def test_classes_come(standardize):
    model = LSTMClassifier(hidden_size=8, standardize=standardize, seed=0)
    assert model.predict_proba_one({"x": 1}) == {} and model.predict_one({"x": 1}) is None
    model.learn_one({"x": 0.0}, "red")
    assert model.predict_proba_one({"x": 1}) == {"red": 1.0}
    for k in range(300):
        model.learn_one({"x": float(k % 2)}, ("red", "blue")[k % 2])
    before = model.predict_proba_one({"x": 0.0})
    assert before["red"] > 0.9
    twin = copy.deepcopy(model)
    twin.learn_one({"x": 0.0}, 3)
    shares = twin.predict_proba_one({"x": 1.0})
    assert set(shares) == {"red", "blue", 3} and sum(shares.values()) == pytest.approx(1)
    assert shares["blue"] == max(shares.values())  # what was learnt is still there
    right = []
    for k in range(400):
        right.append(twin.predict_one({"x": float(k % 3)}) == ("red", "blue", 3)[k % 3])
        twin.learn_one({"x": float(k % 3)}, ("red", "blue", 3)[k % 3])
    assert all(right[-50:])


@pytest.mark.parametrize("model", [LSTMRegressor(seed=0), LSTMClassifier(seed=0)])
def test_steps_without_target(model):
    """They move the state and no weight."""
    for x, y in preprocessed(30):
        model.learn_one(x, y)
    weights, before = model.net.parameters.copy(), model.predict_one(x)
    model.learn_one(x, None)
    assert (model.net.parameters == weights).all()
    if isinstance(model, LSTMRegressor):
        assert model.predict_one(x) != before


def test_differences_are_undone():
    """With a learning rate of zero, a forecast is that of the differences alone."""
    season = [5.0, 1.0, 7.0, 2.0]
    model = LSTMForecaster(differences=(4,), lr=0.0)
    assert model.forecast(2) == [0.0, 0.0]
    for k in range(20):
        assert k > 3 or model.forecast(2) == [season[k - 1] if k else 0.0] * 2
        model.learn_one(season[k % 4])
    assert model.forecast(6) == pytest.approx([*season, *season[:2]])
    line = LSTMForecaster(lr=0.0)
    for k in range(20):
        line.learn_one(3.0 * k)
    assert line.forecast(3) == pytest.approx([60, 63, 66])
    both = LSTMForecaster(differences=(1, 4), lr=0.0)
    for k in range(24):
        both.learn_one(season[k % 4] + 2 * k)
    assert both.forecast(5) == pytest.approx([season[k % 4] + 2 * k for k in range(24, 29)])


def test_missing_values_of_a_series():
    season = [5.0, 1.0, 7.0, 2.0]
    model = LSTMForecaster(differences=(4,), seed=0)
    for k in range(40):
        model.learn_one((None, math.nan)[k % 2] if k in (21, 30) else season[k % 4])
    assert model.forecast(4) == pytest.approx(season, abs=0.5)


def test_exogenous_features():
    """What moves the series is known one step before: only those who read it can tell."""
    pushes = np.random.default_rng(0).normal(size=3000)
    series = np.cumsum(pushes)

    def error(xs):
        model, errors = LSTMForecaster(hidden_size=8, lr=0.01, seed=0), []
        for y, x in zip(series, xs, strict=True):
            errors.append(abs(model.forecast(1, [x])[0] - y))
            model.learn_one(float(y), x)
        return np.mean(errors[-500:])

    assert error([{"push": p} for p in pushes]) < 0.2 < 0.7 < error([{}] * 3000)


def horizon_error(model, dataset):
    run = getattr(evaluate, "evaluate", time_series.evaluate)  # River before 0.26 has it elsewhere
    metric = run(dataset, model, metrics.MAE(), horizon=3, agg_func=statistics.mean)
    return metric.get()


def test_scores():
    """docs/online/river.md has the table; these are its figures with a margin."""
    trump = evaluate.progressive_val_score(datasets.TrumpApproval(), LSTMRegressor(seed=0), metrics.MAE())
    assert trump.get() < 0.35
    pipeline = preprocessing.StandardScaler() | LSTMRegressor(seed=0)
    assert evaluate.progressive_val_score(datasets.TrumpApproval(), pipeline, metrics.MAE()).get() < 0.4
    passengers = [({}, y) for _, y in datasets.AirlinePassengers()]
    assert horizon_error(LSTMForecaster(differences=(12,), seed=0), passengers) < 32.8
    approval = [({}, y) for _, y in datasets.TrumpApproval()]
    assert horizon_error(LSTMForecaster(seed=0), approval) < 0.33


def test_bad_input():
    with pytest.raises(ValueError, match="optimizer is 'x' and must be one of"):
        LSTMRegressor(optimizer="x")
    with pytest.raises(ValueError, match="hidden_size"):
        LSTMRegressor(hidden_size=0)
    with pytest.raises(ValueError, match="differences is"):
        LSTMForecaster(differences=(0,))
    model = LSTMRegressor(seed=0)
    model.learn_one({"a": 1, "b": 2}, 3)
    before = pickle.dumps(model)
    for x, y, message in (
        ({"a": "1", "b": 2}, 3, r"x\['a'\] must be a number, not str"),
        ({"a": 1, "b": math.inf}, 3, r"x\['b'\] is inf and must be finite"),
        ({"new": 1j}, 3, r"x\['new'\] must be a number, not complex"),
        ({"a": 1}, "3", "y must be a number, not str"),
        ({"a": 1}, -math.inf, "y is -inf and must be finite"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model.learn_one(x, y)
        assert pickle.dumps(model) == before
    model = LSTMClassifier(seed=0)
    before = pickle.dumps(model)
    for x, y in (({"a": 1}, [1]), ({"a": "1"}, "one")):
        with pytest.raises(TypeError):
            model.learn_one(x, y)
        assert pickle.dumps(model) == before
    model = LSTMForecaster(seed=0)
    with pytest.raises(ValueError, match="xs has 1 samples and must have 2"):
        model.forecast(2, [{}])


def test_delayed_labels():
    """Samples of an evaluation with a delay are learnt in their own order."""
    metric = metrics.MAE()
    rows = ((x | {"moment": k}, y) for k, (x, y) in enumerate(datasets.TrumpApproval().take(300)))
    model, asked = LSTMRegressor(seed=0), {}
    for k, x, y in stream.simulate_qa(rows, moment="moment", delay=5):
        x = {name: value for name, value in x.items() if name != "moment"}
        if y is None:
            asked[k] = model.predict_one(x)
        else:
            metric.update(y, asked.pop(k))
            model.learn_one(x, y)
    assert metric.get() < 1.5
