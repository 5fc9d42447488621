"""Losses: each returns ``(loss, dy)``, the loss as a float and its derivative with respect to y.

All take `mask`, booleans of the targets' shape: where false there is no target. NaN in a float target, and -1 in a
class target, say the same.
"""

import numpy as np

from fastlstm._checks import as_anything


def _elementwise(y, target, mask):
    y, target = as_anything(y, "y", "f"), as_anything(target, "target", "biuf")
    if y.shape != target.shape:
        raise ValueError(f"target has shape {target.shape} and must have {y.shape}")
    valid = ~np.isnan(target)
    if mask is not None:
        mask = as_anything(mask, "mask", "b")
        if mask.shape != y.shape[: mask.ndim]:
            raise ValueError(f"mask must be booleans of shape {y.shape} or its leading part")
        valid = valid & mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))
    zero = y.dtype.type(0)
    y, target = (
        np.where(valid, y, zero),
        np.where(valid, target, zero).astype(y.dtype),
    )  # what has no target is not looked at
    return y, target, valid, max(int(valid.sum()), 1)


def mse(y, target, mask=None):
    """Mean of (y - target)^2 over the elements that have a target.

    >>> import numpy as np, fastlstm as fl
    >>> fl.losses.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    y, target, _, n = _elementwise(y, target, mask)
    d = y - target
    return float(np.sum(np.square(d, dtype=np.float64)) / n), d * y.dtype.type(2 / n)


def sse(y, target, mask=None):
    """Half the sum of (y - target)^2: what the update rules of the 1997 paper (appendix A.1) descend."""
    y, target, _, _ = _elementwise(y, target, mask)
    d = y - target
    return 0.5 * float(np.sum(np.square(d, dtype=np.float64))), d


def binary_cross_entropy(y, target, mask=None):
    """Mean of -target log y - (1 - target) log(1 - y) for probabilities y, such as a sigmoid's outputs.

    As in PyTorch, logarithms are no lower than -100.
    """
    y, target, valid, n = _elementwise(y, target, mask)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_y = np.maximum(np.log(y, dtype=np.float64), -100)
        log_1 = np.maximum(np.log1p(-y, dtype=np.float64), -100)
    terms = np.where(valid, target * log_y + (1 - target) * log_1, 0)
    d = (y - target) / np.maximum(y * (1 - y), y.dtype.type(1e-12)) * y.dtype.type(1 / n)
    return float(-np.sum(terms) / n), np.where(valid, d, y.dtype.type(0))


def cross_entropy(y, target, mask=None):
    """Mean of -log softmax(y)[target] over the targets; y (..., classes) are scores before the softmax.

    `target` (...,) holds integer classes, -1 for none.
    """
    y, target = as_anything(y, "y", "f"), as_anything(target, "target", "iu")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"y has shape {y.shape} and must have one score or more in its last dimension")
    if target.shape != y.shape[:-1]:
        raise ValueError(f"target has shape {target.shape} and must have {y.shape[:-1]}")
    if target.size and not (-1 <= target.min() and target.max() < y.shape[-1]):
        raise ValueError(
            f"target has classes from {target.min()} to {target.max()} and must have -1 to {y.shape[-1] - 1}"
        )
    valid = target >= 0
    if mask is not None:
        mask = as_anything(mask, "mask", "b")
        if mask.shape != target.shape:
            raise ValueError(f"mask must be booleans of shape {target.shape}")
        valid = valid & mask
    n = max(int(valid.sum()), 1)
    y = np.where(valid[..., None], y, y.dtype.type(0))
    shifted = y - y.max(axis=-1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=-1, keepdims=True)
    classes = np.where(valid, target, 0)[..., None]
    log_p = np.take_along_axis(shifted, classes, -1)[..., 0].astype(np.float64) - np.log(
        total[..., 0], dtype=np.float64
    )
    d = p / total
    np.put_along_axis(d, classes, np.take_along_axis(d, classes, -1) - 1, -1)
    return float(-np.sum(log_p[valid]) / n), np.where(valid[..., None], d, 0).astype(y.dtype) * y.dtype.type(1 / n)
