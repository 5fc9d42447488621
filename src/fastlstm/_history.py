"""What training leaves behind, and when to stop it."""

import math

from fastlstm._checks import as_choice, as_input, as_number, as_size

CURVES = ("loss", "val_loss", "accuracy", "val_accuracy", "lr", "seconds")


class History:
    """What `fit` returns: lists with one number per epoch.

    Attributes
    ----------
    loss, accuracy : list of float
        Over the targets of the epoch, as they were met, so while the weights changed. `accuracy` is empty if targets
        are not classes.
    val_loss, val_accuracy : list of float
        After the epoch, on the validation data; empty without.
    lr, seconds : list of float
        Learning rate, and time with validation.
    net : Layer
        What is trained.

    Notes
    -----
    ``len(history)`` is the number of epochs.
    """

    def __init__(self, net):
        self.net = net
        for name in CURVES:
            setattr(self, name, [])

    def __len__(self):
        return len(self.loss)

    def __repr__(self):
        last = ", ".join(f"{name}={getattr(self, name)[-1]:.4g}" for name in CURVES[:4] if getattr(self, name))
        return f"<History of {len(self)} epochs{': ' + last if last else ''}>"

    def plot(self, ax=None):
        """Draw losses, and accuracies if there are any, over epochs; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; default: a new figure.

        Returns
        -------
        matplotlib Axes
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ImportError("history.plot() needs matplotlib: pip install fastlstm[plot]") from None
        ax = ax if ax is not None else plt.subplots()[1]
        right = ax.twinx() if self.accuracy else None
        lines = []
        for where, names, colour in ((ax, CURVES[:2], "C0"), (right, CURVES[2:4], "C1")):
            for name, style in zip(names, ("--", "-"), strict=True):
                values = getattr(self, name)
                if where is not None and values:
                    lines += where.plot(range(1, len(values) + 1), values, style, color=colour, label=name)
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss")
        if right is not None:
            right.set_ylabel("accuracy")
        ax.legend(handles=lines)
        return ax


class EarlyStopping:
    """A callback of `fit`: ends the training when it no longer helps, and brings the best weights back.

    Parameters
    ----------
    patience : int
        Epochs without improvement after which to stop.
    min_delta : float
        What counts as an improvement is larger than this.
    monitor : str
        A list of the history: "val_loss", "loss", "val_accuracy" or "accuracy".

    Attributes
    ----------
    best, best_epoch : float, int
        The best value, and in which epoch (from 0) it was reached; None before the first.

    Notes
    -----
    The network has the weights of the best epoch after `fit`, also when all epochs were run; after Ctrl-C,
    it has those of the last update.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> net = fl.Linear(1, 1, seed=0)
    >>> x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4, 1)
    >>> stop = fl.EarlyStopping(patience=3, min_delta=1e-6)
    >>> history = fl.fit(net, x, 2 * x, loss="mse", optimizer=fl.SGD(net, lr=0.5), epochs=1000, batch_size=4,
    ...                  validation=(x, 2 * x), callbacks=[stop], seed=0)
    >>> len(history) == stop.best_epoch + 4
    True
    """

    def __init__(self, patience=10, min_delta=0.0, monitor="val_loss"):
        self.patience = as_size(patience, "patience")
        self.min_delta = as_number(min_delta, "min_delta", 0)
        self.monitor = as_choice(monitor, "monitor", CURVES[:4])
        self.best = self.best_epoch = self._weights = None

    def __repr__(self):
        return f"EarlyStopping(patience={self.patience}, min_delta={self.min_delta}, monitor={self.monitor!r})"

    def __call__(self, history):
        epoch, value = len(history) - 1, getattr(history, self.monitor)[-1]
        if epoch == 0:
            self.best = self.best_epoch = self._weights = None
        gain = math.inf if self.best is None else self.best - value if "loss" in self.monitor else value - self.best
        if gain > self.min_delta and not math.isnan(value):
            self.best, self.best_epoch, self._weights = value, epoch, history.net.parameters.copy()
        return epoch - (-1 if self.best_epoch is None else self.best_epoch) >= self.patience

    def finish(self, history):
        """Give the network its best weights."""
        if self._weights is not None:
            history.net._parameters.fetch()[:] = self._weights
            history.net._parameters.changed()

    def state_dict(self):
        """What a checkpoint keeps."""
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state):
        """Take what `state_dict` gave."""
        best, epoch, weights = state["best"], state["best_epoch"], state["weights"]
        if best is not None:
            best, epoch = as_number(best, "best"), as_size(epoch, "best_epoch", 0)
            weights = as_input(weights, "weights", weights.dtype, (-1,))
        self.best, self.best_epoch, self._weights = best, epoch, weights
