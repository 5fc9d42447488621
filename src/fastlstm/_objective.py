"""From the outputs of a network to its loss: which outputs are read, and which loss it is."""

import functools
import inspect

import numpy as np

from fastlstm import losses
from fastlstm._checks import as_choice, as_loss, shown

BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
NAMES = ("mse", "sse", "cross_entropy", *BINARY, "ctc")


def takes(function, name):
    """Whether a callable has an argument of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some are not written in Python
        return False


class Loss:
    """One of `fastlstm.losses`, by its name or as it is or as a `functools.partial`; or any other callable.

    Attributes
    ----------
    name : str or None
        That of `fastlstm.losses`.
    options : dict
        Those of the partial.
    """

    def __init__(self, loss):
        if isinstance(loss, str):
            loss = getattr(losses, as_choice(loss, "loss", NAMES))
        if not callable(loss):
            raise TypeError(f"loss must be a name or a callable, not {shown(loss)}")
        self.function, base, self.options = loss, loss, {}
        if isinstance(loss, functools.partial):
            base, self.options = loss.func, loss.keywords
        self.name = next((name for name in NAMES if base is getattr(losses, name)), None)
        self.takes_mask = takes(loss, "mask")

    @property
    def blank(self):
        """The class that stands for no label, of "ctc"."""
        return self.options.get("blank", 0)

    def __str__(self):
        options = ", ".join(f"{name}={shown(value)}" for name, value in sorted(self.options.items()))
        return f"{self.name or getattr(self.function, '__qualname__', type(self.function).__name__)}({options})"

    def __call__(self, y, target):
        """(loss, dy, weight): how much the loss, a mean, counts in a mean over more of them."""
        classes = target.ndim < y.ndim
        present = target >= 0 if classes else ~np.isnan(target)
        rows = present if classes else present.any(-1)
        weight = np.count_nonzero(present if self.name in ("mse", *BINARY) else rows)
        if not weight:
            return 0.0, None, 0.0
        if self.name == "cross_entropy" and self.options.get("weight") is not None:
            weight = np.asarray(self.options["weight"], np.float64)[target[present]].sum()
        if self.name is not None:
            value, dy = self.function(y, target)
        elif self.takes_mask:
            value, dy = as_loss(self.function(y, target, mask=rows), y.dtype, y.shape)
        else:
            chosen = y[rows]
            value, part = as_loss(self.function(chosen, target[rows]), y.dtype, chosen.shape)
            dy = np.zeros_like(y)
            dy[rows] = part
        return value, dy, float(weight)


class Objective:
    """The loss of a batch, and its derivative with respect to the outputs."""

    def __init__(self, net, loss, per, classes, readout):
        self.batch_first, self.loss, self.per, self.classes, self.readout = net.batch_first, loss, per, classes, readout

    def __call__(self, y, last, target):
        """Of a window as `Data.window` gives it.

        Returns
        -------
        value : float
        dy : array like y, or None if there is no target
        sums : array of four float
            Sum of losses, its weight; right classes, of how many.
        """
        if self.per == "labels":
            value, dy = self.loss.function(y.swapaxes(0, 1) if self.batch_first else y, target, last + 1)
            dy = dy.swapaxes(0, 1) if self.batch_first else dy
            return value, dy, np.array([value * len(target), len(target), 0, 0])
        time, lanes = (1 if self.batch_first else 0), np.arange(len(last))
        read, place = y, (lanes, last) if self.batch_first else (last, lanes)
        if self.per == "sequence":
            read = y[place] if self.readout == "last" else y.sum(time) / (last + 1)[:, None].astype(y.dtype)
        value, dy, weight = self.loss(read, target)
        if self.per == "sequence" and dy is not None:
            if self.readout == "last":
                part, dy = dy, np.zeros_like(y)
                dy[place] = part
            else:
                part = np.expand_dims(dy / (last + 1)[:, None].astype(y.dtype), time)
                dy = np.broadcast_to(part, y.shape)
        hits = seen = 0
        if self.classes:
            hits, seen = np.count_nonzero(read.argmax(-1) == target), np.count_nonzero(target >= 0)
        return value, dy, np.array([value if self.loss.name == "sse" else value * weight, weight, hits, seen])
