"""Losses: values and derivatives against the reference and finite differences; masks and missing targets."""

import numpy as np
import pytest
import reference as ref
from conftest import TOLERANCES, assert_close, assert_same_bits, numbers

import fastlstm as fl

LOSSES = ("mse", "sse", "binary_cross_entropy", "cross_entropy")
ELEMENTWISE = LOSSES[:3]
losses = pytest.mark.parametrize("loss", LOSSES)
elementwise = pytest.mark.parametrize("loss", ELEMENTWISE)


def example(loss, shape, dtype="float64"):
    """y of that shape, and targets, a fourth of them missing."""
    r = np.random.default_rng(0)
    if loss == "cross_entropy":
        target = r.integers(0, shape[-1], shape[:-1])
        target[r.random(target.shape) < 0.25] = -1
        return numbers(shape, 1, dtype, 2.0), target
    y, target = (r.uniform(0.05, 0.95, shape).astype(np.float32).astype(dtype) for _ in range(2))
    target[r.random(shape) < 0.25] = np.nan
    return y, target


def without(loss, target, mask):
    """The targets, those missing where the mask is false."""
    mask = mask.reshape(mask.shape + (1,) * (target.ndim - mask.ndim))
    return np.where(mask, target, -1 if loss == "cross_entropy" else np.nan).astype(target.dtype)


def reference_loss(loss, y, target):
    """The reference takes (B, O); every axis before the last is one of lanes here."""
    flat = target.reshape(-1) if loss == "cross_entropy" else target.astype(float).reshape(-1, y.shape[-1])
    value, dy = ref.LOSSES[loss](y.astype(float).reshape(-1, y.shape[-1]), flat)
    return value, dy.reshape(y.shape)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (9, 17), (5, 4, 3)], ids=str)
@losses
def test_reference(loss, shape, dtype):
    y, target = example(loss, shape, dtype)
    value, dy = getattr(fl.losses, loss)(y, target)
    wanted, wanted_dy = reference_loss(loss, y, target)
    assert type(value) is float
    assert dy.dtype == dtype
    assert value == pytest.approx(wanted, rel=TOLERANCES["loss"][dtype == "float64"])
    assert_close(dy, wanted_dy, "loss")


@losses
def test_derivative(loss):
    function = getattr(fl.losses, loss)
    y, target = example(loss, (4, 3))
    _, dy = function(y, target)
    for index in np.ndindex(y.shape):
        shift = np.zeros_like(y)
        shift[index] = 1e-6
        numeric = (function(y + shift, target)[0] - function(y - shift, target)[0]) / 2e-6
        assert dy[index] == pytest.approx(numeric, abs=1e-8)


def test_values_by_hand():
    y, target = np.array([[0.5, 0.25], [0.75, 0.1]]), np.array([[1.0, 0.0], [0.0, np.nan]])
    square = 0.25 + 0.0625 + 0.5625
    assert fl.losses.mse(y, target)[0] == pytest.approx(square / 3)
    assert fl.losses.sse(y, target)[0] == pytest.approx(square / 2)
    logs = np.log(0.5) + np.log(0.75) + np.log(0.25)
    assert fl.losses.binary_cross_entropy(y, target)[0] == pytest.approx(-logs / 3)
    scores = np.log([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]) + 3.0
    assert fl.losses.cross_entropy(scores, np.array([1, -1, 0]))[0] == pytest.approx(-(np.log(0.8) + np.log(0.9)) / 2)


# Masks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2, 3])
@losses
def test_a_mask_says_what_a_missing_target_says(loss, axes, dtype):
    y, target = example(loss, (6, 5, 4), dtype)
    if axes > target.ndim or (loss == "cross_entropy" and axes < 2):
        pytest.skip("a mask of classes has the shape of the classes")
    mask = np.random.default_rng(1).random(target.shape[:axes]) < 0.6
    function = getattr(fl.losses, loss)
    assert_same_bits(function(y, target, mask), function(y, without(loss, target, mask)))
    assert_same_bits(function(y, target, np.ones_like(mask)), function(y, target))
    assert_same_bits(function(y, target, mask=mask)[1][~mask], np.zeros_like(y[~mask]))


@losses
def test_no_target_no_loss(loss, dtype):
    y, target = example(loss, (3, 2), dtype)
    missing = without(loss, target, np.zeros(3, bool))
    for arguments in ((y, missing), (y, target, np.zeros(target.shape, bool))):
        value, dy = getattr(fl.losses, loss)(*arguments)
        assert value == 0.0
        assert not dy.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@losses
def test_what_has_no_target_is_not_looked_at(loss, bad, dtype):
    """A NaN or an infinity there, padding for one, stays without effect."""
    y, target = example(loss, (4, 3), dtype)
    target[2] = -1 if loss == "cross_entropy" else np.nan
    function = getattr(fl.losses, loss)
    wanted = function(y, target)
    y[2] = bad
    assert_same_bits(function(y, target), wanted)


@losses
def test_a_nan_with_a_target_is_seen(loss, dtype):
    y, target = example(loss, (4, 3), dtype)
    target[1] = 1
    y[1] = np.nan
    value, dy = getattr(fl.losses, loss)(y, target)
    assert np.isnan(value)
    assert np.isnan(dy[1]).all()
    assert np.isfinite(dy[[0, 2, 3]]).all()


# Extremes and errors --------------------------------------------------------------------------------------------------


def test_large_scores(dtype):
    y = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype)
    value, dy = fl.losses.cross_entropy(y, np.array([0, 0]))
    assert value == pytest.approx((0.0 + 2e4 + np.log(2)) / 2)
    np.testing.assert_allclose(dy, [[0, 0, 0], [-0.5, 0.25, 0.25]], atol=1e-7)


def test_certain_probabilities(dtype):
    """As in PyTorch: logarithms no lower than -100, denominators no smaller than 1e-12."""
    y, target = np.array([0.0, 1.0, 0.0, 1.0], dtype), np.array([0.0, 1.0, 1.0, 0.0], dtype)
    value, dy = fl.losses.binary_cross_entropy(y, target)
    assert value == pytest.approx(50.0)
    np.testing.assert_allclose(dy, [0.0, 0.0, -0.25e12, 0.25e12], rtol=1e-6)


@losses
def test_torch(loss, dtype):
    torch = pytest.importorskip("torch")
    theirs = {
        "mse": torch.nn.functional.mse_loss,
        "sse": lambda y, t: 0.5 * torch.nn.functional.mse_loss(y, t, reduction="sum"),
        "binary_cross_entropy": torch.nn.functional.binary_cross_entropy,
        "cross_entropy": torch.nn.functional.cross_entropy,
    }[loss]
    y, target = example(loss, (6, 5), dtype)
    target = np.abs(np.nan_to_num(target, nan=0.0))
    leaf = torch.from_numpy(y).requires_grad_()
    wanted = theirs(leaf, torch.from_numpy(target))
    wanted.backward()
    value, dy = getattr(fl.losses, loss)(y, target)
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=1e-4, atol=1e-7)


@losses
def test_arguments_stay(loss, dtype):
    y, target = example(loss, (4, 3), dtype)
    before = y.copy(), target.copy()
    getattr(fl.losses, loss)(y, target)
    assert_same_bits((y, target), before)


@losses
def test_wrong_arguments_are_named(loss):
    function = getattr(fl.losses, loss)
    y, target = example(loss, (4, 3))
    with pytest.raises(ValueError, match="target"):
        function(y, target[:3])
    for mask in (np.ones(target.shape), np.ones((5, 3), bool), [[True]]):
        with pytest.raises((ValueError, TypeError), match="mask"):
            function(y, target, mask)


def test_wrong_classes():
    y = np.zeros((2, 3))
    for target in (np.array([0, 3]), np.array([-2, 0])):
        with pytest.raises(ValueError, match="target"):
            fl.losses.cross_entropy(y, target)
    with pytest.raises(TypeError, match="target"):
        fl.losses.cross_entropy(y, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="target"):
        fl.losses.cross_entropy(y, np.array([[0], [1]]))


@elementwise
def test_lists(loss):
    function = getattr(fl.losses, loss)
    assert_same_bits(function([0.5, 0.25], [1.0, 0.0]), function(np.array([0.5, 0.25]), np.array([1.0, 0.0])))
