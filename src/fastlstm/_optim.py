"""Optimisers: rules that turn a gradient into a change of the weights."""

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_input, as_number
from fastlstm._layers import Layer


class SGD:
    """Gradient descent: v = momentum v + gradient; w -= lr v; then lr *= decay.

    Parameters
    ----------
    net : Layer
        Whose parameters change.
    lr : float
        Learning rate.
    momentum : float
        In [0, 1).
    decay : float
        Factor of the learning rate after each update, in (0, 1].

    Notes
    -----
    With a momentum of 0, this is the rule of the 1997 paper. `lr` is the current rate; assigning it sets it.

    Examples
    --------
    >>> import fastlstm as fl
    >>> net = fl.Linear(2, 1, seed=0)
    >>> net.grad[:] = 1
    >>> before = net.parameters.copy()
    >>> fl.SGD(net, lr=0.5).step()
    >>> bool(abs(before - net.parameters - 0.5).max() < 1e-6)
    True
    """

    def __init__(self, net, lr, momentum=0.0, *, decay=1.0):
        if not isinstance(net, Layer):
            raise TypeError(f"net must be a fastlstm layer, not {type(net).__name__}")
        self.net = net
        self.lr = lr
        self._momentum = as_number(momentum, "momentum", 0, 1, high_in=False)
        self.decay = decay
        self._velocity = np.zeros_like(net.parameters) if self._momentum else None

    @property
    def momentum(self):
        """Momentum factor; fixed when the optimiser is made."""
        return self._momentum

    @property
    def lr(self):
        """Current learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = as_number(value, "lr", 0)

    @property
    def decay(self):
        """Factor of the rate after each update."""
        return self._decay

    @decay.setter
    def decay(self, value):
        self._decay = as_number(value, "decay", 0, 1, low_in=False)

    def velocity_of(self, parameters):
        """The velocity array that belongs to `parameters` (for learners)."""
        if parameters is not self.net._parameters:
            raise ValueError("the optimizer was made for another network")
        return self._velocity

    def step(self):
        """Update the parameters of the network with its `grad`."""
        weights = self.net._parameters.fetch()
        _core.sgd(weights, np.ascontiguousarray(self.net.grad), self._velocity, self._lr, self._momentum)
        self.net._parameters.changed()
        self._lr *= self._decay

    def state_dict(self):
        """All that a restart needs: rates and velocity."""
        self.net._parameters.fetch()
        velocity = None if self._velocity is None else self._velocity.copy()
        return {"lr": self._lr, "momentum": self._momentum, "decay": self._decay, "velocity": velocity}

    def load_state_dict(self, state):
        """Take what `state_dict` gave; of an optimiser with the same momentum."""
        if not hasattr(state, "keys") or set(state) != {"lr", "momentum", "decay", "velocity"}:
            raise ValueError("state must be a dict of lr, momentum, decay and velocity")
        lr, decay = as_number(state["lr"], "lr", 0), as_number(state["decay"], "decay", 0, 1, low_in=False)
        if as_number(state["momentum"], "momentum") != self._momentum:
            raise ValueError(f"momentum is {state['momentum']} and must be {self._momentum}")
        self.net._parameters.fetch()
        if self._velocity is not None:
            velocity = as_input(state["velocity"], "velocity", self._velocity.dtype, self._velocity.shape)
            self._velocity[:] = velocity
        self._lr, self._decay = lr, decay
        self.net._parameters.changed()
