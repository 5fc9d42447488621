"""Losses: each returns ``(loss, dy)``, the loss as a float and its derivative with respect to y.

All but `ctc` take `mask`, booleans of the targets' shape: where false there is no target. NaN in a float target, and -1
in a class target, say the same.
"""

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_anything, as_array, as_number, as_size, ndim_of, shown


def _scores(y):
    """y, contiguous, as it is or, if it has no dtype, as float64."""
    a = as_anything(y, "y", "f")
    if a.dtype not in (np.float32, np.float64):
        raise TypeError(f"y is {a.dtype} and must be float32 or float64")
    return as_array(a, "y", a.dtype)


def _weights(weight, name, width, dtype):
    """Weights (width,) that are finite and not negative."""
    a = as_anything(weight, name, "iuf").astype(dtype)
    if a.shape != (width,):
        raise ValueError(f"{name} has shape {shown(a.shape)} and must have ({width},)")
    if not (np.isfinite(a) & (a >= 0)).all():
        raise ValueError(f"{name} must be finite and not negative")
    return a


def _elementwise(loss, y, target, mask, pos_weight=None):
    y, target = _scores(y), as_anything(target, "target", "biuf")
    if y.shape != target.shape:
        raise ValueError(f"target has shape {target.shape} and must have {y.shape}")
    if mask is not None:
        mask = as_anything(mask, "mask", "b")
        if mask.shape != y.shape[: mask.ndim]:
            raise ValueError(f"mask must be booleans of shape {y.shape} or its leading part")
        target = np.where(mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim)), target, y.dtype.type(np.nan))
    target = np.ascontiguousarray(target, y.dtype)
    width = y.shape[-1] if y.ndim else 1
    if pos_weight is not None:
        if ndim_of(pos_weight) == 0:
            pos_weight = np.full(width, as_number(pos_weight, "pos_weight", 0))
        pos_weight = _weights(pos_weight, "pos_weight", width, y.dtype)
    rows = (y.size // width if width else 0, max(width, 1))
    value, dy = _core.elementwise_loss(loss, y.reshape(rows), target.reshape(rows), pos_weight)
    return value, dy.reshape(y.shape)


def mse(y, target, mask=None):
    """Mean of (y - target)^2 over the elements that have a target.

    >>> import numpy as np, fastlstm as fl
    >>> fl.losses.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    return _elementwise("mse", y, target, mask)


def sse(y, target, mask=None):
    """Half the sum of (y - target)^2: what the update rules of the 1997 paper (appendix A.1) descend."""
    return _elementwise("sse", y, target, mask)


def binary_cross_entropy(y, target, mask=None, *, pos_weight=None):
    """Mean of -target log y - (1 - target) log(1 - y) for probabilities y, such as a sigmoid's outputs.

    As in PyTorch, logarithms are no lower than -100.

    Parameters
    ----------
    y, target : array (..., O)
    mask : booleans of y's shape or its leading part, optional
    pos_weight : float or (O,) floats, optional
        Factor of the first term, greater than 1 where positives are rare; 1 if not given.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> loss, dy = fl.losses.binary_cross_entropy(np.array([0.5, 0.5]), np.array([1.0, 0.0]), pos_weight=3)
    >>> round(loss, 4), dy
    (1.3863, array([-3.,  1.]))
    """
    return _elementwise("binary_cross_entropy", y, target, mask, pos_weight)


def binary_cross_entropy_with_logits(y, target, mask=None, *, pos_weight=None):
    """`binary_cross_entropy` of sigmoid(y): exact for any y, however large.

    Parameters
    ----------
    y : array (..., O)
        Logits: what a sigmoid makes probabilities of.
    target, mask, pos_weight
        As for `binary_cross_entropy`.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> loss, dy = fl.losses.binary_cross_entropy_with_logits(np.array([0.0, 200.0]), np.array([1.0, 0.0]))
    >>> round(loss, 4), dy
    (100.3466, array([-0.25,  0.5 ]))
    """
    return _elementwise("binary_cross_entropy_with_logits", y, target, mask, pos_weight)


def cross_entropy(y, target, mask=None, *, weight=None, label_smoothing=0.0):
    """Mean of -log softmax(y)[target] over the targets; y (..., classes) are scores before the softmax.

    Parameters
    ----------
    y : array (..., C)
    target : integers (...,)
        Classes, -1 for none.
    mask : booleans (...,), optional
    weight : (C,) floats, optional
        Of the classes. As in PyTorch, the mean is weighted: it is divided by the sum of the targets' weights.
    label_smoothing : float
        In [0, 1]: this share of each target is spread evenly over all classes.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> loss, dy = fl.losses.cross_entropy(np.log([[0.25, 0.75], [0.5, 0.5]]), [1, 0], weight=[1, 3])
    >>> round(loss, 4), dy.round(4)
    (0.389, array([[ 0.1875, -0.1875],
           [-0.125 ,  0.125 ]]))
    """
    y, target = _scores(y), as_anything(target, "target", "iu")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"y has shape {y.shape} and must have one score or more in its last dimension")
    if target.shape != y.shape[:-1]:
        raise ValueError(f"target has shape {target.shape} and must have {y.shape[:-1]}")
    classes = y.shape[-1]
    if target.size and not (-1 <= target.min() and target.max() < classes):
        raise ValueError(f"target has classes from {target.min()} to {target.max()} and must have -1 to {classes - 1}")
    if mask is not None:
        mask = as_anything(mask, "mask", "b")
        if mask.shape != target.shape:
            raise ValueError(f"mask must be booleans of shape {target.shape}")
        target = np.where(mask, target.astype(np.int64), -1)
    target = np.ascontiguousarray(target, np.int64).reshape(-1)
    if weight is not None:
        weight = _weights(weight, "weight", classes, y.dtype)
    smoothing = as_number(label_smoothing, "label_smoothing", 0, 1)
    value, dy = _core.cross_entropy(y.reshape(-1, classes), target, weight, smoothing)
    return value, dy.reshape(y.shape)


def ctc(y, targets, lengths=None, target_lengths=None, blank=0):
    """Connectionist temporal classification: -log of the probability of a label sequence without its alignment.

    An alignment names one class at each step; without repetitions, and then without blanks, it is a sequence of labels
    (Graves, Fernandez, Gomez and Schmidhuber 2006). The loss is PyTorch's "mean": of each sequence -log p(target), over
    all alignments, divided by the number of its labels (by 1 if it has none); then the mean over the batch.

    Parameters
    ----------
    y : array (T, B, C), or (T, C) for one sequence
        Scores before the softmax, which is part of this function, as is its derivative.
    targets : list of B sequences of integers, or integers (B, S) with `target_lengths`; for one sequence, integers (S,)
        Labels: classes other than `blank`. They may repeat, and a target may be empty.
    lengths : (B,) integers, optional
        Valid steps of each sequence, 1 to T. What lies beyond is never read; dy is zero there.
    target_lengths : (B,) integers, optional
        Labels of each row of a padded array; what lies beyond is not looked at. Default: all S.
    blank : int
        The class that stands for no label.

    Raises
    ------
    ValueError
        Also if a target cannot be: it needs a step for each label, and one more between two equal ones.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> y = np.zeros((3, 2, 4), np.float32)             # all 64 alignments are equally likely
    >>> loss, dy = fl.losses.ctc(y, [[1, 2], [3, 3]])   # 5 give 1 2, one gives 3 3
    >>> bool(np.isclose(loss, (np.log(64 / 5) / 2 + np.log(64) / 2) / 2))
    True
    """
    y = _scores(y)
    single = y.ndim == 2
    y = y[:, None] if single else y
    if y.ndim != 3 or 0 in y.shape:
        shape = (y.shape[0], y.shape[2]) if single else y.shape
        raise ValueError(f"y has shape {shown(shape)} and must have (T, B, C) or (T, C), 1 or more each")
    steps, lanes, classes = y.shape
    blank = as_size(blank, "blank", 0, classes - 1)
    labels, counts = _labels(targets, target_lengths, lanes, single)
    if lengths is not None:
        lengths = _counts([lengths] if single and ndim_of(lengths) == 0 else lengths, "lengths", lanes, 1, steps)
    have = np.full(lanes, steps) if lengths is None else lengths
    _check_labels(labels, counts, have, classes, blank, "targets")
    value, dy = _core.ctc(y, labels, counts, lengths, blank)
    return value, dy[:, 0] if single else dy


def _counts(value, name, lanes, least, most):
    """Integers (lanes,) from `least` to `most`."""
    a = as_anything(value, name, "iu")
    if a.shape != (lanes,):
        raise ValueError(f"{name} has shape {shown(a.shape)} and must have ({lanes},)")
    if a.min() < least or a.max() > most:
        raise ValueError(f"{name} are from {a.min()} to {a.max()} and must be from {least} to {most}")
    return np.ascontiguousarray(a, np.int64)


def _check_labels(labels, counts, have, classes, blank, name):
    """Labels as `_labels` gives them: are they classes, and can they be, in sequences of `have` steps?"""
    bad = (labels < 0) | (labels >= classes) | (labels == blank)
    owner = np.repeat(np.arange(len(counts)), counts)
    if bad.any():
        k = int(np.argmax(bad))
        raise ValueError(
            f"{name}[{owner[k]}] has the label {labels[k]} and must have 0 to {classes - 1} without {blank}, the blank"
        )
    again = (labels[1:] == labels[:-1]) & (owner[1:] == owner[:-1])
    repeats = np.bincount(owner[1:], again, len(counts)).astype(np.int64)
    if (counts + repeats > have).any():
        b = int(np.argmax(counts + repeats > have))
        raise ValueError(
            f"{name}[{b}] needs {counts[b] + repeats[b]} steps, for {counts[b]} labels and {repeats[b]} repetitions,"
            f" and its sequence has {have[b]}"
        )


def _labels(targets, target_lengths, lanes, single, name="targets"):
    """All labels, one sequence after the other, and how many each has."""
    if single:
        targets = [targets]
        if target_lengths is not None and ndim_of(target_lengths) == 0:
            target_lengths = [target_lengths]
    if hasattr(targets, "dtype") or (target_lengths is not None and not single):
        padded = as_anything(targets, name, "iu")
        if padded.ndim != 2 or len(padded) != lanes:
            raise ValueError(f"{name} has shape {shown(padded.shape)} and must have ({lanes}, S)")
        rows = list(padded)
    elif isinstance(targets, (list, tuple)):
        if len(targets) != lanes:
            raise ValueError(f"{name} has {len(targets)} sequences and must have {lanes}")
        none = np.zeros(0, np.int64)  # NumPy takes [] for real numbers
        rows = [
            none if isinstance(row, (list, tuple)) and not row else as_anything(row, f"{name}[{b}]", "iu")
            for b, row in enumerate(targets)
        ]
    else:
        raise TypeError(f"{name} must be a list of sequences or an array, not {type(targets).__name__}")
    for b, row in enumerate(rows):
        if row.ndim != 1:
            raise ValueError(f"{name}[{b}] has shape {shown(row.shape)} and must have one dimension")
    if target_lengths is None:
        counts = np.array([len(row) for row in rows], np.int64)
    else:
        counts = _counts(target_lengths, "target_lengths", lanes, 0, min(len(row) for row in rows))
    return np.concatenate([row[:n].astype(np.int64) for row, n in zip(rows, counts, strict=True)]), counts
