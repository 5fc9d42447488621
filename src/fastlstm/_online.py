"""Learning while running."""

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_anything, as_choice, as_input, as_loss, as_mask, as_size, ndim_of
from fastlstm._layer import Layer
from fastlstm._layers import LINEAR_KIND, LSTM_KIND, NOISE
from fastlstm._optim import SGD


class OnlineLearner(_core.Learner):
    """Learns while it runs, one step after the other, in memory that is fixed when it is made.

    Parameters
    ----------
    net : Layer
        A layer or a `Sequential` of layers in one direction; its parameters change.
    loss : str or callable
        "mse", "sse" (half the sum of squared errors, the paper's), "cross_entropy" (y are scores before the softmax,
        targets integer classes) or "binary_cross_entropy" (y are probabilities); all as in `fastlstm.losses`. A
        callable gets ``(y, target)``, arrays (lanes, O), and returns ``(loss, dy)``.
    optimizer : SGD or None
        None leaves the weights alone and gathers the gradient.
    gradient : "truncated-rtrl"
    chunk : int or "episode"
        Weights change after every `chunk` steps, or at `reset` and `apply` only.
    lanes : int
        Independent streams that learn one shared network. Each has traces of its own: for an LSTM layer of I
        inputs and H units about 3 H (I + H + 2) numbers; `nbytes()` tells.

    Notes
    -----
    The gradient is that of Hochreiter and Schmidhuber (1997, appendix A.1), forward in time, at a cost of O(1) per
    weight and step. It keeps, exactly and without limit in time, the path through the constant error carousel: how a
    weight of a cell, an input gate or a forget gate changed the cell state then and so changes the output now. It drops

    - the derivatives of all net inputs (of gates and cells) with respect to the outputs h and the gate activations
      of the step before: every recurrent connection counts as an input from outside;
    - what would flow back through peepholes into the cell states (Gers, Schraudolph and Schmidhuber 2002), also of
      the output gate's peephole at the same step;
    - in a stack, the time in the layers above: the error of step t goes down through all layers at step t alone, and
      the cell states of the step before are constants in the layers that it passes.

    `loss` is the mean loss of the last call over its steps with a target, NaN if it had none. In steps without a
    target no weight and no velocity changes. With several lanes the loss of a step is one mean over the lanes (and
    outputs) that have a target.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> net = fl.Sequential(fl.LSTM(1, 8, seed=0), fl.Linear(8, 1, seed=1))
    >>> learner = fl.OnlineLearner(net, loss="mse", optimizer=fl.SGD(net, lr=0.1))
    >>> x = np.sin(np.arange(2001) / 5).astype(np.float32)[:, None]
    >>> y = learner.run(x[:-1], x[1:])
    >>> bool(np.mean((y[-500:] - x[-500:]) ** 2) < 0.02)
    True
    """

    def __init__(self, net, loss="mse", optimizer=None, gradient="truncated-rtrl", chunk=1, lanes=1):
        if not isinstance(net, Layer):
            raise TypeError(f"net must be a fastlstm layer, not {type(net).__name__}")
        if any(spec["reverse"] for spec in net._specs):
            raise ValueError(
                "a bidirectional layer cannot learn online: its backward direction needs the end of the sequence"
            )
        if any(spec["kind"] not in (LSTM_KIND, LINEAR_KIND) or spec["proj_size"] for spec in net._specs):
            raise ValueError("net has a GRU, an RNN or a projection, for which the gradient of 1997 is not defined")
        if any(spec[name] for spec in net._specs for name in NOISE):
            raise ValueError("net has dropout or zoneout, which a learner does not apply")
        if optimizer is not None and not isinstance(optimizer, SGD):
            raise TypeError(f"optimizer must be fastlstm.SGD or None, not {type(optimizer).__name__}")
        if optimizer is not None and optimizer.net is not net:
            raise ValueError("optimizer was made for another network than net")
        if optimizer is not None and (optimizer.weight_decay or optimizer.nesterov or optimizer.clip_norm):
            raise ValueError("optimizer has weight_decay, nesterov or clip_norm, which a learner does not apply")
        if not callable(loss):
            as_choice(loss, "loss", [name for name in _core.LOSSES if name])
        as_choice(gradient, "gradient", ("truncated-rtrl",))
        steps = 0 if isinstance(chunk, str) and chunk == "episode" else as_size(chunk, "chunk")
        super().__init__(
            net._network,
            net._parameters,
            0 if callable(loss) else _core.LOSSES[loss],
            optimizer,
            steps,
            as_size(lanes, "lanes"),
        )
        self.net, self._loss, self.chunk = net, loss, chunk

    def step(self, x, target=None):
        """Run one step, and learn from its target if it has one.

        Parameters
        ----------
        x : array (I,) for one lane, or (lanes, I)
        target : array like the outputs, or integer classes () or (lanes,); optional
            NaN (a float target) or -1 (a class) says that an element has none.

        Returns
        -------
        y : array (O,) or (lanes, O)
            The prediction made before learning from `target`.
        """
        y = self._step(x, target)
        if y is not None:
            return y
        lead = () if self.lanes == 1 and ndim_of(x) == 1 else (self.lanes,)
        x = as_input(x, "x", self.network.dtype, (*lead, self.network.input_size))
        if target is not None:
            target = self._targets(target, lead, "target")
        return self._learn(x[None], target, None)[0]

    def run(self, xs, targets=None, reset=None):
        """Run many steps, learning at each that has a target: the same bits as stepping, in one call without the GIL.

        Parameters
        ----------
        xs : array (T, I) for one lane, or (T, lanes, I)
        targets : array (T, O) or (T, lanes, O), or integer classes (T,) or (T, lanes); optional
        reset : booleans (T, lanes), optional
            Where true, the lane's state and traces are zero before that step: an episode starts there.

        Returns
        -------
        ys : array (T, O) or (T, lanes, O)
            Each prediction made before learning from its target. If the call is interrupted, what was learnt until
            then stays.
        """
        lead = () if self.lanes == 1 and ndim_of(xs) == 2 else (self.lanes,)
        xs = as_input(xs, "xs", self.network.dtype, (-1, *lead, self.network.input_size))
        steps = len(xs)
        if targets is not None:
            targets = self._targets(targets, (steps, *lead), "targets")
        if reset is not None:
            reset = as_anything(reset, "reset", "b")
            reset = as_mask(
                reset[:, None] if self.lanes == 1 and reset.shape == (steps,) else reset, "reset", (steps, self.lanes)
            )
        return self._learn(xs, targets, reset)

    def _learn(self, x, targets, reset):
        y = np.empty((*x.shape[:-1], self.network.output_size), self.network.dtype)
        x, out = x.reshape(len(x), self.lanes, -1), y.reshape(len(x), self.lanes, -1)
        if callable(self._loss):
            self._run_callable(x, targets, reset, out)
        else:
            self._run(x, targets, reset, out)
        return y

    def _targets(self, targets, lead, name):
        """Targets for outputs (*lead, O), as (T, lanes) classes or (T, lanes, O) real numbers."""
        shape = (*lead, self.network.output_size)
        classes = self._loss == "cross_entropy"
        if callable(self._loss):  # integers are classes, unless they have the outputs' shape
            targets = as_anything(targets, name, "biuf")
            classes = targets.dtype.kind in "iu"
            if classes and targets.shape == shape:
                return targets.reshape(-1, self.lanes, shape[-1])
        if not classes:
            return as_input(targets, name, self.network.dtype, shape).reshape(-1, self.lanes, shape[-1])
        targets = as_anything(targets, name, "iu")
        if targets.shape == (*lead, 1) and self.lanes == 1:
            targets = targets[..., 0]
        if targets.shape != lead:
            raise ValueError(f"{name} has shape {targets.shape} and must have {lead}")
        low, high, last = targets.min(), targets.max(), self.network.output_size - 1
        if low < -1 or high > last:
            raise ValueError(f"{name} has classes from {low} to {high} and must have -1 to {last}")
        return np.ascontiguousarray(targets, np.int64).reshape(-1, self.lanes)

    def _run_callable(self, x, targets, reset, y):
        losses = []
        for t in range(len(x)):
            if reset is not None and reset[t].any():
                self._reset(reset[t])
            target = None if targets is None else targets[t]
            if target is not None and (target < 0 if target.ndim == 1 else np.isnan(target)).all():
                target = None
            before = self.flat_state.copy()
            self._forward(x[t], y[t])
            dy = None
            if target is not None:
                try:
                    loss, dy = as_loss(self._loss(y[t].copy(), target), self.network.dtype, y[t].shape)
                except BaseException:
                    self.flat_state[:] = before  # as if the step had not been asked for
                    raise
                losses.append(loss)
            self._backward(dy)
        self._set_loss(sum(losses), len(losses))

    def reset(self, mask=None):
        """An episode ends: zero the state and the traces of all lanes, or of those where `mask` (lanes,) is true.

        With ``chunk="episode"`` the gathered gradient is applied first.
        """
        self._reset(None if mask is None else as_mask(mask, "mask", (self.lanes,)))

    def apply(self):
        """Update the weights now with the gradient gathered since the last update, and clear it."""
        if self.optimizer is None:
            raise ValueError("this learner has no optimizer to apply")
        self._apply()

    def gradients(self):
        """The gradient gathered since the last update: parameter name -> array copy.

        Zeros with ``chunk=1`` and an optimizer, which uses up the gradient of every step in passing.
        """
        flat = self._gradient()
        return {
            name: flat[at : at + int(np.prod(shape))].reshape(shape) for name, (at, shape) in self.net._shapes.items()
        }

    def zero_grad(self):
        """Forget the gathered gradient."""
        self._zero_gradient()

    @property
    def state(self):
        """The state, a copy, as a stream's; setting it clears the traces."""
        self._idle()
        return self.net._wrap_state(self.net._state_views(self.flat_state.copy(), self.lanes))

    @state.setter
    def state(self, state):
        self._idle()
        flat = self.network.new_state(self.lanes)
        self.net._fill_state(flat, self.lanes, state)
        self.flat_state[:] = flat
        self._clear_traces()

    def __getstate__(self):
        self._idle()
        return {
            "net": self.net,
            "optimizer": self.optimizer,
            "loss": self._loss,
            "chunk": self.chunk,
            "lanes": self.lanes,
            "memory": self._memory(),
        }

    def __reduce__(self):
        self.sync()
        return _restore, (type(self), self.__getstate__())


def _restore(cls, saved):
    learner = cls(saved["net"], saved["loss"], saved["optimizer"], chunk=saved["chunk"], lanes=saved["lanes"])
    learner._set_memory(saved["memory"])
    return learner
