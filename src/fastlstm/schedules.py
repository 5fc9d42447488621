"""Schedules of the learning rate: callables ``schedule(epoch, loss=None)`` that return the rate of that epoch.

Epochs count from 0 and may be fractions, for a rate that changes from step to step. `loss` is that of the epoch before;
`Plateau` alone looks at it. All work with every optimiser, and can be pickled and copied.

>>> import fastlstm as fl
>>> optimizer = fl.Adam(fl.Linear(2, 1, seed=0))
>>> schedule = fl.schedules.Cosine(0.01, epochs=10, warmup=2)
>>> for epoch in range(10):
...     optimizer.lr = schedule(epoch)
>>> round(optimizer.lr, 5)
0.00038
"""

import math

from fastlstm._checks import as_number, as_size


class _Schedule:
    """A subclass has `_rate(epoch)`, or a call of its own."""

    def __call__(self, epoch, loss=None):
        return self._rate(as_number(epoch, "epoch", 0))

    def state_dict(self):
        """All numbers of the schedule, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state):
        """Take what `state_dict` gave."""
        if set(state) != set(vars(self)):
            raise ValueError(f"state must be a dict of {', '.join(vars(self))}")
        vars(self).update({name: type(mine)(state[name]) for name, mine in vars(self).items()})

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Constant(_Schedule):
    """Always `lr`.

    >>> import fastlstm as fl
    >>> fl.schedules.Constant(0.1)(7)
    0.1
    """

    def __init__(self, lr):
        self.lr = as_number(lr, "lr", 0)

    def _rate(self, epoch):
        return self.lr


class Step(_Schedule):
    """`lr`, multiplied by `factor` after every `every` epochs.

    >>> import fastlstm as fl
    >>> [fl.schedules.Step(1.0, every=2, factor=0.5)(epoch) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, lr, every, factor=0.1):
        self.lr = as_number(lr, "lr", 0)
        self.every = as_size(every, "every")
        self.factor = as_number(factor, "factor", 0, low_in=False)

    def _rate(self, epoch):
        return self.lr * self.factor ** (epoch // self.every)


class Exponential(_Schedule):
    """lr factor^epoch.

    >>> import fastlstm as fl
    >>> [fl.schedules.Exponential(1.0, 0.5)(epoch) for epoch in range(3)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, lr, factor):
        self.lr = as_number(lr, "lr", 0)
        self.factor = as_number(factor, "factor", 0, low_in=False)

    def _rate(self, epoch):
        return self.lr * self.factor**epoch


class Cosine(_Schedule):
    """Down from `lr` to `final` along half a cosine (Loshchilov and Hutter 2017), reached after `epochs`.

    In the first `warmup` epochs, which count among them, the rate rises evenly: lr (epoch + 1) / (warmup + 1). A
    warm-up of about a third and a small `final` make the "one cycle" of Smith and Topin (2019).

    >>> import fastlstm as fl
    >>> [round(fl.schedules.Cosine(1.0, epochs=6, warmup=2)(epoch), 3) for epoch in range(7)]
    [0.333, 0.667, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(self, lr, epochs, warmup=0, final=0.0):
        self.lr = as_number(lr, "lr", 0)
        self.epochs = as_number(epochs, "epochs", 0, low_in=False)
        self.warmup = as_number(warmup, "warmup", 0, self.epochs, high_in=False)
        self.final = as_number(final, "final", 0)

    def _rate(self, epoch):
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / (self.warmup + 1)
        done = min((epoch - self.warmup) / (self.epochs - self.warmup), 1.0)
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * done)) / 2


class Plateau(_Schedule):
    """`lr`, multiplied by `factor` whenever the loss has not improved for more than `patience` epochs.

    An improvement is a loss below (1 - threshold) times the best so far, as in PyTorch's ReduceLROnPlateau; the rate
    does not fall below `least`. Call it once per epoch; without a loss nothing changes, and a NaN is no improvement.

    >>> import fastlstm as fl
    >>> schedule = fl.schedules.Plateau(1.0, factor=0.5, patience=1)
    >>> [schedule(epoch, loss) for epoch, loss in enumerate([3.0, 2.0, 2.0, 2.0, 2.0, 2.0])]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, lr, factor=0.1, patience=10, threshold=1e-4, least=0.0):
        self.lr = as_number(lr, "lr", 0)
        self.factor = as_number(factor, "factor", 0, 1, False, False)
        self.patience = as_size(patience, "patience", 0)
        self.threshold = as_number(threshold, "threshold", 0, 1)
        self.least = as_number(least, "least", 0)
        self.best, self.waited = math.inf, 0

    def __call__(self, epoch, loss=None):
        as_number(epoch, "epoch", 0)
        if loss is None:
            return self.lr
        if isinstance(loss, bool) or not hasattr(loss, "__float__"):
            raise TypeError(f"loss must be a number, not {type(loss).__name__}")
        loss = float(loss)
        if loss < self.best * (1 - self.threshold) if math.isfinite(self.best) else loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.lr, self.waited = max(self.lr * self.factor, self.least), 0
        return self.lr
