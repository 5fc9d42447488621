"""Optimisers: rules that turn a gradient into a change of the weights. csrc/optim.h has the equations."""

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_flag, as_input, as_number, as_size, listed, shown
from fastlstm._layer import Layer


def _fixed(name, text):
    """An option, read-only: it is fixed when the optimiser is made."""
    return property(lambda self: self._options[name], doc=text)


class Optimizer:
    """What all optimisers have: a network, a rate, options that are fixed, and arrays like the parameters.

    A subclass gives its options by the names of its arguments, and of the two arrays its name and whether it is needed.
    """

    _rule = None  # as _core.OPTIMIZERS names it
    _more = ()  # rates beside lr

    def __init__(self, net, lr, options, first, second, weight_decay, clip_norm):
        if not isinstance(net, Layer):
            raise TypeError(f"net must be a fastlstm layer, not {type(net).__name__}")
        self.net = net
        self.lr = lr
        self._options = options | {
            "weight_decay": as_number(weight_decay, "weight_decay", 0),
            "clip_norm": None if clip_norm is None else as_number(clip_norm, "clip_norm", 0, low_in=False),
        }
        self._steps = 0
        self._arrays = {
            name: _core.aligned(net.parameters.size, net.dtype) if used else None
            for name, used in (first, second)
            if name is not None
        }
        self._names = first[0], second[0]

    weight_decay = _fixed("weight_decay", "Weight decay; fixed when the optimiser is made.")
    clip_norm = _fixed("clip_norm", "Largest norm of a gradient, or None; fixed when the optimiser is made.")

    @property
    def lr(self):
        """Current learning rate."""
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = as_number(value, "lr", 0)

    def _numbers(self):
        """The options as `_core.update` takes them."""
        return self._options | {"clip_norm": self.clip_norm or 0.0}

    @property
    def arrays(self):
        """The two arrays like the parameters, each None where the rule does not need it (for learners)."""
        return tuple(self._arrays.get(name) for name in self._names)

    def step(self):
        """Update the parameters of the network with its `grad`."""
        weights, gradient = self.net._parameters.fetch(), np.ascontiguousarray(self.net.grad)
        first, second = self.arrays
        _core.update(type(self)._rule, weights, gradient, first, second, self._steps, self._lr, **self._numbers())
        self._steps += 1
        self.net._parameters.changed()

    def state_dict(self):
        """All that a restart needs: the rate, the options, the number of steps and copies of the arrays."""
        self.net._parameters.fetch()
        arrays = {name: None if a is None else a.copy() for name, a in self._arrays.items()}
        return {"lr": self._lr, "steps": self._steps} | self._options | arrays

    def load_state_dict(self, state):
        """Take what `state_dict` gave; of an optimiser with the same options."""
        self._load(state, self._checked(state))

    def _checked(self, state):
        """The numbers of a state that change; raises if it does not fit."""
        names = ["lr", "steps", *self._options, *self._arrays]
        if not hasattr(state, "keys") or set(state) != {*names, *self._more}:
            raise ValueError(f"state must be a dict of {listed([*names, *self._more], 20)}")
        for name, mine in self._options.items():
            try:
                same = bool(state[name] == mine)
            except Exception:  # whatever an object's own comparison raises
                same = False
            if not same:
                raise ValueError(f"{name} is {shown(state[name])} and must be {mine}, as this optimiser has it")
        return {"_lr": as_number(state["lr"], "lr", 0), "_steps": as_size(state["steps"], "steps", 0)}

    def _load(self, state, numbers):
        arrays = {
            name: as_input(state[name], name, mine.dtype, mine.shape)
            for name, mine in self._arrays.items()
            if mine is not None
        }
        self.net._parameters.fetch()
        for name, a in arrays.items():
            self._arrays[name][:] = a
        self.__dict__.update(numbers)
        self.net._parameters.changed()


class SGD(Optimizer):
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
    weight_decay : float
        This multiple of the weights is added to the gradient.
    nesterov : bool
        w -= lr (gradient + momentum v) instead; needs a momentum.
    clip_norm : float, optional
        A gradient with a larger norm is scaled down to it, before all else; `net.grad` itself stays.

    Notes
    -----
    With a momentum of 0, this is the rule of the 1997 paper. `lr` is the current rate; assigning it sets it, as
    `fastlstm.schedules` do.

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

    _rule = "SGD"
    _more = ("decay",)

    def __init__(self, net, lr, momentum=0.0, *, decay=1.0, weight_decay=0.0, nesterov=False, clip_norm=None):
        momentum = as_number(momentum, "momentum", 0, 1, high_in=False)
        if as_flag(nesterov, "nesterov") and not momentum:
            raise ValueError("nesterov needs a momentum")
        options = {"momentum": momentum, "nesterov": bool(nesterov)}
        super().__init__(net, lr, options, ("velocity", momentum > 0), (None, False), weight_decay, clip_norm)
        self.decay = decay

    momentum = _fixed("momentum", "Momentum factor; fixed when the optimiser is made.")
    nesterov = _fixed("nesterov", "Whether the step looks ahead; fixed when the optimiser is made.")

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
        return self._arrays["velocity"]

    def step(self):
        """Update the parameters of the network with its `grad`."""
        super().step()
        self._lr *= self._decay

    def state_dict(self):
        """All that a restart needs: the rates, the options, the number of steps and the velocity."""
        return super().state_dict() | {"decay": self._decay}

    def _checked(self, state):
        numbers = super()._checked(state)
        return numbers | {"_decay": as_number(state["decay"], "decay", 0, 1, low_in=False)}


class RMSprop(Optimizer):
    """Gradient descent with each weight's gradient divided by its recent size (Tieleman and Hinton 2012).

    s = alpha s + (1 - alpha) gradient^2; step = gradient / (sqrt(s) + eps); with momentum v = momentum v + step and
    step = v; w -= lr step. As `torch.optim.RMSprop`.

    Parameters
    ----------
    net : Layer
        Whose parameters change.
    lr : float
    alpha : float
        In [0, 1): how much of the mean square stays.
    eps : float
    momentum : float
        In [0, 1).
    weight_decay : float
        This multiple of the weights is added to the gradient.
    clip_norm : float, optional
        A gradient with a larger norm is scaled down to it, before all else; `net.grad` itself stays.

    Examples
    --------
    >>> import fastlstm as fl
    >>> net = fl.Linear(2, 1, seed=0)
    >>> net.grad[:] = [100, 0.01, -1]
    >>> before = net.parameters.copy()
    >>> fl.RMSprop(net, lr=0.001).step()
    >>> (before - net.parameters).round(3)   # the first step is 1 / sqrt(1 - alpha) rates
    array([ 0.01,  0.01, -0.01], dtype=float32)
    """

    _rule = "RMSprop"

    def __init__(self, net, lr=0.01, *, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0, clip_norm=None):
        momentum = as_number(momentum, "momentum", 0, 1, high_in=False)
        alpha = as_number(alpha, "alpha", 0, 1, high_in=False)
        options = {"momentum": momentum, "alpha": alpha, "eps": as_number(eps, "eps", 0)}
        arrays = ("velocity", momentum > 0), ("mean_square", True)
        super().__init__(net, lr, options, *arrays, weight_decay, clip_norm)

    momentum = _fixed("momentum", "Momentum factor; fixed when the optimiser is made.")
    alpha = _fixed("alpha", "What stays of the mean square; fixed when the optimiser is made.")
    eps = _fixed("eps", "Least divisor; fixed when the optimiser is made.")

    def _numbers(self):
        numbers = super()._numbers()
        return numbers | {"beta2": numbers.pop("alpha")}


class Adam(Optimizer):
    """Gradient descent along a running mean, divided by the root of the mean square (Kingma and Ba 2015, algorithm 1).

    As `torch.optim.Adam`; `AdamW` decays weights in the better way.

    Parameters
    ----------
    net : Layer
        Whose parameters change.
    lr : float
    betas : (float, float)
        In [0, 1): how much of the mean and of the mean square stays.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        This multiple of the weights is added to the gradient.
    clip_norm : float, optional
        A gradient with a larger norm is scaled down to it, before all else; `net.grad` itself stays.

    Examples
    --------
    >>> import fastlstm as fl
    >>> net = fl.Linear(2, 1, seed=0)
    >>> net.grad[:] = [100, 0.01, -1]
    >>> before = net.parameters.copy()
    >>> fl.Adam(net, lr=0.001).step()
    >>> (before - net.parameters).round(5)   # the first step has the size of the rate
    array([ 0.001,  0.001, -0.001], dtype=float32)
    """

    _rule = "Adam"

    def __init__(self, net, lr=0.001, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, clip_norm=None):
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas must be two numbers, not {shown(betas)}")
        betas = tuple(as_number(beta, "betas", 0, 1, high_in=False) for beta in betas)
        options = {"betas": betas, "eps": as_number(eps, "eps", 0)}
        super().__init__(net, lr, options, ("mean", True), ("mean_square", True), weight_decay, clip_norm)

    betas = _fixed("betas", "What stays of the mean and the mean square; fixed when the optimiser is made.")
    eps = _fixed("eps", "Added to the divisor; fixed when the optimiser is made.")

    def _numbers(self):
        numbers = super()._numbers()
        beta1, beta2 = numbers.pop("betas")
        return numbers | {"beta1": beta1, "beta2": beta2}


class AdamW(Adam):
    """Adam with weight decay beside the gradient, not in it: first w -= lr weight_decay w (Loshchilov and Hutter 2019).

    As `torch.optim.AdamW`. Parameters are those of `Adam`; `weight_decay` is 0.01 unless given.

    Examples
    --------
    >>> import fastlstm as fl
    >>> net = fl.Linear(2, 1, seed=0)
    >>> before = net.parameters.copy()
    >>> fl.AdamW(net, lr=0.1, weight_decay=0.5).step()   # without a gradient only the decay is left
    >>> bool(abs(net.parameters - 0.95 * before).max() < 1e-6)
    True
    """

    _rule = "AdamW"

    def __init__(self, net, lr=0.001, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, clip_norm=None):
        super().__init__(net, lr, betas=betas, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm)
