"""Schedules: their formulas, PyTorch's, what all share, and errors."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastlstm as fl
from fastlstm.schedules import Constant, Cosine, Exponential, Plateau, Step

ALL = [Constant(0.1), Step(0.1, 3, 0.5), Exponential(0.1, 0.9), Cosine(0.1, 10, 3, 0.01), Plateau(0.1, 0.5, 2)]
every = pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)


@every
def test_with_any_optimizer(schedule):
    schedule = copy.deepcopy(schedule)
    net = fl.Linear(2, 1, seed=0)
    for optimizer in (fl.SGD(net, 1.0), fl.RMSprop(net), fl.Adam(net), fl.AdamW(net)):
        for epoch in range(12):
            optimizer.lr = schedule(epoch, 1.0)
            assert 0 < optimizer.lr <= 0.1


@every
def test_copies_go_on_alike(schedule):
    losses = [3.0, 2.0, 2.5, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    schedule = copy.deepcopy(schedule)
    for epoch in range(4):
        schedule(epoch, losses[epoch])
    others = copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))
    for epoch in range(4, 10):
        rate = schedule(epoch, losses[epoch])
        assert [other(epoch, losses[epoch]) for other in others] == [rate, rate]


def test_formulas():
    for epoch in (0, 1, 2.5, 6, 7, 100):
        assert Constant(0.3)(epoch) == 0.3
        assert Step(0.3, 3, 0.5)(epoch) == pytest.approx(0.3 * 0.5 ** math.floor(epoch / 3))
        assert Exponential(0.3, 0.9)(epoch) == pytest.approx(0.3 * 0.9**epoch)
    warm = Cosine(1.0, epochs=10, warmup=4, final=0.1)
    np.testing.assert_allclose([warm(k) for k in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert warm(7) == pytest.approx(0.55)
    assert warm(10) == warm(99) == pytest.approx(0.1)


def test_torch():
    torch = pytest.importorskip("torch")
    rates = torch.optim.lr_scheduler
    ours = [Step(0.1, 3, 0.5), Exponential(0.1, 0.9), Cosine(0.1, 12, final=0.01)]
    for k, schedule in enumerate(ours):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        make = rates.StepLR, rates.ExponentialLR, rates.CosineAnnealingLR
        theirs = make[k](optimizer, *((3, 0.5), (0.9,), (12, 0.01))[k])
        for epoch in range(13):
            assert schedule(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = rates.ReduceLROnPlateau(optimizer, factor=0.5, patience=3, min_lr=0.004)
    schedule = Plateau(0.1, 0.5, 3, least=0.004)
    for epoch, loss in enumerate(np.random.default_rng(0).normal(size=60).round(1) ** 2 + 1):
        theirs.step(loss)
        assert schedule(epoch, loss) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau():
    schedule = Plateau(1.0, 0.5, patience=0)
    assert schedule(0) == 1.0  # no loss yet
    assert [schedule(k, loss) for k, loss in enumerate([2.0, math.nan, 1.0, 1.0])] == [1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Constant(-1), "lr"),
        (lambda: Constant("x"), "lr"),
        (lambda: Step(0.1, 0), "every"),
        (lambda: Step(0.1, 2.5), "every"),
        (lambda: Step(0.1, 2, 0), "factor"),
        (lambda: Exponential(0.1, -0.5), "factor"),
        (lambda: Cosine(0.1, 0), "epochs"),
        (lambda: Cosine(0.1, 5, 5), "warmup"),
        (lambda: Cosine(0.1, 5, -1), "warmup"),
        (lambda: Cosine(0.1, 5, 1, math.nan), "final"),
        (lambda: Plateau(0.1, 1.0), "factor"),
        (lambda: Plateau(0.1, patience=-1), "patience"),
        (lambda: Plateau(0.1, threshold=2), "threshold"),
        (lambda: Plateau(0.1, least=-1), "least"),
        (lambda: Plateau(0.1)(0, "x"), "loss"),
        (lambda: Plateau(0.1)(-1, 1.0), "epoch"),
        (lambda: Constant(0.1)(-1), "epoch"),
        (lambda: Constant(0.1)(None), "epoch"),
    ],
)
def test_what_is_wrong_is_named(make, name):
    with pytest.raises((ValueError, TypeError), match=f"^{name}"):
        make()
