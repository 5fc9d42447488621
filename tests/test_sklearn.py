"""The estimators for scikit-learn: its own checks, its tools, and the forms that sequences come in."""

import doctest
import importlib
import pickle

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer, StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import fastlstm as fl  # noqa: E402
from fastlstm.sklearn import SequenceClassifier, SequenceRegressor  # noqa: E402

QUICK = {"hidden_size": 8, "epochs": 20, "lr": 0.05, "bidirectional": False}


LONGER = QUICK | {"hidden_size": 16, "epochs": 60, "batch_size": 16}


@parametrize_with_checks([SequenceClassifier(**QUICK), SequenceRegressor(**LONGER)])
def test_its_own_checks(estimator, check):
    check(estimator)


def walks(count=60, channels=2, seed=0, equal=False):
    """Random walks, and whether one ends above the other."""
    r = np.random.default_rng(seed)
    lengths = np.full(count, 12) if equal else r.integers(5, 20, count)
    X = [r.normal(size=(n, channels)).cumsum(0) for n in lengths]
    return X, ["above" if x[-1, 0] > x[-1, -1] else "below" for x in X]


def test_docstrings():
    result = doctest.testmod(importlib.import_module("fastlstm.sklearn"))
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": False, "readout": "last"}, {"early_stopping": True}, {"cell": "gru"}, {"cell": "rnn"}],
)
def test_classifier(options):
    X, y = walks(160)
    model = SequenceClassifier(hidden_size=16, random_state=0, **options).fit(X[:120], y[:120])
    assert model.score(X[120:], y[120:]) > 0.75
    shares = model.predict_proba(X)
    assert shares.shape == (160, 2) and np.allclose(shares.sum(1), 1)
    assert list(model.classes_) == ["above", "below"]
    assert (model.classes_[shares.argmax(1)] == model.predict(X)).all()
    assert model.n_features_in_ == 2 and model.n_iter_ == len(model.history_) <= 60
    assert bool(model.history_.val_loss) == bool(options.get("early_stopping"))


def test_regressor():
    X, _ = walks(160)
    y = np.array([x[-1] for x in X])
    one = SequenceRegressor(hidden_size=16, random_state=0).fit(X[:120], 1e6 + 1e3 * y[:120, 0])
    assert one.score(X[120:], 1e6 + 1e3 * y[120:, 0]) > 0.5
    both = SequenceRegressor(hidden_size=16, random_state=0).fit(X[:120], y[:120])
    assert both.predict(X).shape == (160, 2) and both.score(X[120:], y[120:]) > 0.5


def test_forms_of_the_same_sequences():
    X, y = walks(30, equal=True)
    objects = np.empty(30, object)
    objects[:] = X
    model = SequenceClassifier(**QUICK, random_state=0)
    wanted = model.fit(X, y).predict_proba(X)
    for form in (np.array(X), objects, tuple(X), [x.tolist() for x in X]):
        np.testing.assert_array_equal(clone(model).fit(form, y).predict_proba(form), wanted)
    table = np.array([x[:, 0] for x in X])
    series = clone(model).fit([x[:, :1] for x in X], y)
    rows = clone(model).fit(table, y)
    assert (series.n_features_in_, rows.n_features_in_) == (1, 12)
    np.testing.assert_array_equal(rows.predict_proba(table), series.predict_proba(table))
    np.testing.assert_array_equal(rows.predict_proba([x[:, :1] for x in X]), series.predict_proba(table))
    unequal = [x[: 5 + k % 3, 0] for k, x in enumerate(X)]
    one, other = clone(model).fit(unequal, y), clone(model).fit([x[:, None] for x in unequal], y)
    np.testing.assert_array_equal(one.predict_proba(unequal), other.predict_proba(unequal))
    step = clone(model).set_params(table="step").fit(table, y)
    assert step.net_[0].input_size == 12
    np.testing.assert_array_equal(step.predict_proba(table), step.predict_proba(table[:, None, :]))


def test_its_tools_take_lists():
    X, y = walks(48)
    search = GridSearchCV(SequenceClassifier(**QUICK, random_state=0), {"hidden_size": [2, 8], "cell": ["lstm"]}, cv=3)
    search.fit(X, y)
    assert search.best_params_["hidden_size"] in (2, 8) and search.predict(X).shape == (48,)
    scores = cross_val_score(SequenceRegressor(**QUICK), X, [x[-1, 0] for x in X], cv=3)
    assert scores.shape == (3,) and np.isfinite(scores).all()
    differences = FunctionTransformer(lambda X: [np.diff(x, axis=0) for x in X])
    make_pipeline(differences, SequenceClassifier(**QUICK)).fit(X, y).predict(X)
    table = np.array([x[:5, 0] for x in X])
    make_pipeline(StandardScaler(), SequenceClassifier(**QUICK)).fit(table, y).predict(table)


def test_processes_give_the_same_bits():
    X, y = walks(40)
    model = SequenceClassifier(**QUICK, random_state=0)
    here, there = (cross_val_score(model, X, y, cv=2, n_jobs=n) for n in (None, 2))
    np.testing.assert_array_equal(here, there)


def test_bits_depend_on_random_state_and_not_on_threads():
    X, y = walks(40)
    before = fl.get_num_threads()
    fitted = [SequenceClassifier(**QUICK, random_state=0, n_threads=n).fit(X, y) for n in (None, 1, 3)]
    assert fl.get_num_threads() == before
    for model in fitted[1:]:
        np.testing.assert_array_equal(model.predict_proba(X), fitted[0].predict_proba(X))
    other = SequenceClassifier(**QUICK, random_state=1).fit(X, y)
    assert not np.array_equal(other.predict_proba(X), fitted[0].predict_proba(X))
    again = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(again.predict_proba(X), other.predict_proba(X))


def test_standardize():
    """The result does not depend on the units of a channel; a constant channel does no harm."""
    X, y = walks(40)
    X = [np.column_stack([x, np.full(len(x), 7.0)]) for x in X]
    moved = [x * [1024, 2**-10, 1] + [0, 0, 3] for x in X]
    one, other = (SequenceClassifier(**QUICK, random_state=0).fit(A, y) for A in (X, moved))
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(moved), atol=1e-5)
    raw = SequenceClassifier(**QUICK, random_state=0, standardize=False).fit(X, y)
    assert not np.allclose(raw.predict_proba(X), one.predict_proba(X))


X0, Y0 = walks(12)


@pytest.mark.parametrize(
    ("options", "X", "y", "message"),
    [
        ({"cell": "LSTM"}, X0, Y0, "cell is 'LSTM' and must be one of 'lstm', 'gru', 'rnn'"),
        ({"optimizer": "lion"}, X0, Y0, "optimizer is 'lion'"),
        ({"readout": "max"}, X0, Y0, "readout is 'max'"),
        ({"table": "rows"}, X0, Y0, "table is 'rows'"),
        ({"epochs": 0}, X0, Y0, "epochs is 0"),
        ({"hidden_size": 0}, X0, Y0, "hidden_size is 0"),
        ({"lr": -1}, X0, Y0, "lr is -1"),
        ({"early_stopping": True, "validation_fraction": 1.5}, X0, Y0, "validation is 1.5"),
        ({}, [*X0[:-1], X0[0][:, :1]], Y0, "X has sequences of 1 and of 2 channels"),
        ({}, [*X0[:-1], np.full((3, 2), np.nan)], Y0, "contains NaN"),
        ({}, X0, Y0[:-1], "inconsistent numbers of samples"),
        ({}, X0, None, "requires y"),
        ({}, [], [], "Expected 2D array"),
        ({}, np.zeros((2, 3, 4, 5)), Y0[:2], "dim 4"),
    ],
)
def test_errors(options, X, y, message):
    model = SequenceClassifier(**{"epochs": 2, "random_state": 0} | options)
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(X, y)


def test_errors_of_predictions():
    model = SequenceClassifier(**QUICK)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        model.predict(X0)
    model.fit(X0, Y0)
    with pytest.raises(ValueError, match="X has 1 features, but SequenceClassifier is expecting 2 features"):
        model.predict([x[:, :1] for x in X0])
    with pytest.raises(ValueError, match="X has 1 features"):
        model.predict(np.zeros((3, 4)))
