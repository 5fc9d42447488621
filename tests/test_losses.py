"""Losses: values and derivatives against the reference and finite differences; masks and missing targets."""

import numpy as np
import pytest
import reference as ref
from conftest import FUSED, TOLERANCES, assert_close, assert_same_bits, numbers

import fastlstm as fl
from fastlstm import _core

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


# Class weights and smoothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_with_weights_and_smoothing(smoothing, weighted, isa, dtype):
    y, target = example("cross_entropy", (7, 5, 19), dtype)
    weight = np.random.default_rng(2).uniform(0, 2, 19).astype(dtype) if weighted else None
    value, dy = fl.losses.cross_entropy(y, target, weight=weight, label_smoothing=smoothing)
    z, w = y.astype(float), np.ones(19) if weight is None else weight.astype(float)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    q = np.where(np.arange(19) == target[..., None], 1 - smoothing, 0) + smoothing / 19
    q = q * w * (target >= 0)[..., None] / w[target[target >= 0]].sum()
    assert value == pytest.approx(-(q * log_p).sum(), rel=1e-6 if dtype == "float32" else 1e-13)
    assert_close(dy, q.sum(-1, keepdims=True) * np.exp(log_p) - q, "loss")


@pytest.mark.parametrize("pos_weight", [0.5, 3, [0.0, 1.0, 2.0, 5.0, 0.1]])
def test_binary_cross_entropy_with_weights_of_positives(pos_weight, isa, dtype):
    y, target = example("binary_cross_entropy", (6, 5), dtype)
    value, dy = fl.losses.binary_cross_entropy(y, target, pos_weight=pos_weight)
    z, t, w = y.astype(float), np.nan_to_num(target.astype(float)), np.asarray(pos_weight, float)
    valid = ~np.isnan(target) / (~np.isnan(target)).sum()
    wanted = -(valid * (w * t * np.log(z) + (1 - t) * np.log(1 - z))).sum()
    assert value == pytest.approx(wanted, rel=1e-6)
    assert_close(dy, valid * ((1 - t) / (1 - z) - w * t / z), "loss")


def test_binary_cross_entropy_with_logits(isa, dtype):
    """That of the sigmoid, with targets missing; and exact where a sigmoid is 0 or 1 in floating point."""
    _, target = example("binary_cross_entropy", (6, 5), dtype)
    y = 3 * numbers((6, 5), 1, dtype)
    for pos_weight in (None, 3):
        value, dy = fl.losses.binary_cross_entropy_with_logits(y, target, pos_weight=pos_weight)
        p = 1 / (1 + np.exp(-y.astype(float)))
        wanted, dp = fl.losses.binary_cross_entropy(p, target.astype(float), pos_weight=pos_weight)
        assert value == pytest.approx(wanted, rel=1e-6)
        assert_close(dy, dp * p * (1 - p), "loss")
    far = np.array([800.0, -800.0, 800.0, -800.0], dtype)
    value, dy = fl.losses.binary_cross_entropy_with_logits(far, np.array([1, 0, 0, 1], dtype))
    assert value == pytest.approx(400) and dy.tolist() == [0, 0, 0.25, -0.25]


def test_logits_in_fit_and_learners():
    """A last layer without a sigmoid learns what one with a sigmoid does with probabilities."""
    x, y = numbers((12, 20, 2), dtype="float64"), (numbers((12, 20, 1), 4) > 0).astype(float)
    found = []
    for activation, loss in (("sigmoid", "binary_cross_entropy"), (None, "binary_cross_entropy_with_logits")):
        net = fl.Linear(2, 1, activation=activation, dtype="float64", seed=0)
        history = fl.fit(net, x, y, loss=loss, optimizer=fl.SGD(net, 0.5), epochs=3, batch_size=4, seed=0)
        learners = []
        for chunk in (1, 4):
            other = fl.Linear(2, 1, activation=activation, dtype="float64", seed=0)
            learner = fl.OnlineLearner(other, loss, fl.SGD(other, 0.5), chunk=chunk)
            learner.run(x[:, 0], y[:, 0])
            learners.append((learner.loss, other.parameters.copy()))
        found.append((history.loss, net.parameters.copy(), *learners[0], *learners[1]))
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
    with pytest.raises(ValueError, match="y must be from 0 to 1"):
        fl.fit(net, x, y + 1, loss=loss, optimizer=fl.SGD(net, 0.5), epochs=1, batch_size=4)


def test_weights_of_torch(dtype):
    torch = pytest.importorskip("torch")
    y, target = example("cross_entropy", (40, 7), dtype)
    weight = np.linspace(0.1, 3, 7).astype(dtype)
    leaf = torch.from_numpy(y).requires_grad_()
    wanted = torch.nn.functional.cross_entropy(
        leaf, torch.from_numpy(target), torch.from_numpy(weight), ignore_index=-1, label_smoothing=0.2
    )
    wanted.backward()
    value, dy = fl.losses.cross_entropy(y, target, weight=weight, label_smoothing=0.2)
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=1e-4, atol=1e-7)
    scores, signs = numbers((9, 7), 3, dtype), (numbers((9, 7), 4) > 0).astype(dtype)
    leaf = torch.from_numpy(scores).requires_grad_()
    theirs = torch.nn.functional.binary_cross_entropy_with_logits
    wanted = theirs(leaf, torch.from_numpy(signs), pos_weight=torch.from_numpy(weight))
    wanted.backward()
    p = 1 / (1 + np.exp(-scores))
    value, dy = fl.losses.binary_cross_entropy(p, signs, pos_weight=weight)
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(dy * p * (1 - p), leaf.grad.numpy(), rtol=1e-4, atol=1e-7)
    value, dy = fl.losses.binary_cross_entropy_with_logits(scores, signs, pos_weight=weight)
    assert value == pytest.approx(wanted.item(), rel=1e-6)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weight", [[1.0], np.ones((3, 1)), [1, 2, -1], [1, 2, np.nan], "x", None], ids=str)
def test_wrong_weights(weight):
    y = np.full((2, 3), 0.5)
    for loss, target, name in (("cross_entropy", [0, 1], "weight"), ("binary_cross_entropy", y, "pos_weight")):
        function = getattr(fl.losses, loss)
        if weight is None:
            function(y, target, **{name: None})
            continue
        with pytest.raises((ValueError, TypeError), match=name):
            function(y, target, **{name: weight})
    for smoothing in (-0.1, 1.1, np.nan, "x", None):
        with pytest.raises((ValueError, TypeError), match="label_smoothing"):
            fl.losses.cross_entropy(y, [0, 1], label_smoothing=smoothing)
    with pytest.raises(TypeError, match="float16"):
        fl.losses.mse(y.astype(np.float16), y)


# CTC (tests/c/test_train.c has the sum over all alignments) -----------------------------------------------------------


def ctc_example(steps, lanes, classes, longest, dtype, seed=0):
    """Scores, possible targets of 0 to `longest` labels with some repetitions, lengths."""
    r = np.random.default_rng(seed)
    lengths, targets = r.integers((steps + 1) // 2, steps + 1, lanes), []
    while len(targets) < lanes:
        target = np.clip(r.integers(-1, classes, r.integers(0, longest + 1)), 1, classes - 1)
        if len(target) + (target[1:] == target[:-1]).sum() <= lengths[len(targets)]:
            targets.append(target)
    return numbers((steps, lanes, classes), seed, dtype, 2.0), targets, lengths


@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (5, 3, 2, 2), (30, 4, 9, 12), (200, 3, 40, 70)], ids=str)
def test_ctc_derivative_and_bits(shape, isa, dtype):
    """Along random directions, in float64; float32 is near it; fused instruction sets agree."""
    y, targets, lengths = ctc_example(*shape, dtype)
    value, dy = fl.losses.ctc(y, targets, lengths)
    exact, wanted = fl.losses.ctc(y.astype(float), targets, lengths)
    assert value == pytest.approx(exact, rel=1e-6)
    np.testing.assert_allclose(dy, wanted, atol=2e-5 * np.abs(wanted).max())
    for k in range(4):
        shift = 1e-5 * numbers(shape[:3], k)
        numeric = fl.losses.ctc(y + shift, targets, lengths)[0] - fl.losses.ctc(y - shift, targets, lengths)[0]
        assert np.sum(wanted * 2 * shift) == pytest.approx(numeric, rel=1e-5, abs=1e-11)
    np.testing.assert_allclose(wanted.sum(axis=-1), 0, atol=1e-13)
    for b, length in enumerate(lengths):
        assert not dy[length:, b].any()
    if isa in FUSED:
        _core.select_isa(FUSED[0])
        assert_same_bits(fl.losses.ctc(y, targets, lengths), (value, dy))


@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (7, 5, 4, 3), (100, 8, 30, 20), (300, 2, 50, 90)], ids=str)
def test_ctc_of_torch(shape, dtype):
    torch = pytest.importorskip("torch")
    y, targets, lengths = ctc_example(*shape, dtype, seed=1)
    leaf = torch.from_numpy(y).double().requires_grad_()
    counts = torch.tensor([len(target) for target in targets])
    labels = torch.from_numpy(np.concatenate(targets))
    wanted = torch.nn.functional.ctc_loss(leaf.log_softmax(2), labels, torch.from_numpy(lengths), counts)
    wanted.backward()
    value, dy = fl.losses.ctc(y, targets, lengths)
    tolerance = 1e-5 if dtype == "float32" else 1e-11
    assert value == pytest.approx(wanted.item(), rel=tolerance)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), atol=tolerance * np.abs(leaf.grad.numpy()).max())


def test_ctc_by_hand():
    y = np.log([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    assert fl.losses.ctc(y, [1])[0] == pytest.approx(-np.log(0.5 * 0.6 + 0.3 * 0.1 + 0.3 * 0.6))
    assert fl.losses.ctc(y, [1, 2])[0] == pytest.approx(-np.log(0.3 * 0.3) / 2)
    assert fl.losses.ctc(y, [])[0] == pytest.approx(-np.log(0.5 * 0.1))
    assert fl.losses.ctc(y, [0], blank=2)[0] == pytest.approx(-np.log(0.5 * 0.3 + 0.2 * 0.1 + 0.5 * 0.1))


def test_ctc_targets_in_all_forms(dtype):
    y = numbers((8, 3, 5), 0, dtype)
    wanted = fl.losses.ctc(y, [[1, 2], [], (3, 3, 4)])
    padded = np.array([[1, 2, 99], [-1, -1, -1], [3, 3, 4]])
    assert_same_bits(fl.losses.ctc(y, padded, target_lengths=[2, 0, 3]), wanted)
    assert_same_bits(fl.losses.ctc(y, padded.tolist(), target_lengths=np.array([2, 0, 3])), wanted)
    assert_same_bits(fl.losses.ctc(y, [np.array([1, 2], np.uint8), [], [3, 3, 4]], [8, 8, 8]), wanted)
    loss, dy = fl.losses.ctc(y[:, :1], [[1, 2]], lengths=[6])
    for targets, options in (([1, 2], {}), (np.array([1, 2]), {}), ([1, 2, 7], {"target_lengths": 2})):
        single, d = fl.losses.ctc(y[:, 0], targets, lengths=6, **options)
        assert single == loss
        assert_same_bits(d, dy[:, 0])


def test_ctc_keeps_what_is_not_finite_in_its_lane(dtype):
    y, targets, lengths = ctc_example(9, 3, 5, 3, dtype)
    wanted = fl.losses.ctc(y, targets, lengths)
    for bad in (np.nan, np.inf, -np.inf):
        for b in range(3):  # beyond the end nothing is read
            y[lengths[b] :, b] = bad
        assert_same_bits(fl.losses.ctc(y, targets, lengths), wanted)
    y[0, 1] = np.nan
    loss, dy = fl.losses.ctc(y, targets, lengths)
    assert np.isnan(loss)
    assert np.isnan(dy[0, 1]).all()
    assert_same_bits(dy[:, [0, 2]], wanted[1][:, [0, 2]])
    y = np.zeros((2, 3), dtype)
    y[:, 1] = -np.inf
    loss, dy = fl.losses.ctc(y, [1])  # no alignment can be
    assert loss == np.inf
    assert np.isnan(dy).all()
    loss, dy = fl.losses.ctc(y, [2])  # others can
    assert loss == pytest.approx(-np.log(0.75))
    assert not dy[:, 1].any()


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("targets.1. needs 4 steps", {"targets": [[1], [2, 2, 3]]}),
        ("targets.0. needs 2 steps", {"targets": [[1, 2], []], "lengths": [1, 3]}),
        ("targets.1. has the label 4", {"targets": [[1], [4]]}),
        ("targets.0. has the label 0", {"targets": [[1, 0], [2]]}),
        ("targets.0. has the label -1", {"targets": np.array([[-1], [2]])}),
        ("targets", {"targets": [[1]]}),
        ("targets", {"targets": [[1], [[2]]]}),
        ("targets", {"targets": [1, 2]}),
        ("targets", {"targets": np.array([1, 2])}),
        ("targets", {"targets": [[1.0], [2.0]]}),
        ("targets", {"targets": None}),
        ("targets", {"targets": "ab"}),
        ("targets", {"targets": [[1, 2], [1]], "target_lengths": [1, 1]}),
        ("target_lengths", {"targets": [[1, 2], [1, 1]], "target_lengths": [1, 3]}),
        ("target_lengths", {"targets": [[1, 2], [1, 1]], "target_lengths": [1, -1]}),
        ("target_lengths", {"targets": [[1, 2], [1, 1]], "target_lengths": [1]}),
        ("target_lengths", {"targets": [[1, 2], [1, 1]], "target_lengths": [1.0, 1.0]}),
        ("lengths", {"lengths": [3]}),
        ("lengths", {"lengths": [0, 3]}),
        ("lengths", {"lengths": [3, 4]}),
        ("lengths", {"lengths": "x"}),
        ("blank", {"blank": 4}),
        ("blank", {"blank": -1}),
        ("blank", {"blank": 0.0}),
        ("y", {"y": np.zeros((3, 2, 0))}),
        ("y", {"y": np.zeros(3)}),
        ("y", {"y": np.zeros((3, 2, 4), int)}),
    ],
    ids=str,
)
def test_ctc_names_what_is_wrong(words, arguments):
    with pytest.raises((ValueError, TypeError), match=f"^{words}") as error:
        fl.losses.ctc(**{"y": np.zeros((3, 2, 4)), "targets": [[1], [2]]} | arguments)
    assert "\n" not in str(error.value)
