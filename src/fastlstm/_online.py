"""Learning while running."""

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_anything, as_choice, as_input, as_loss, as_mask, as_number, as_size, ndim_of
from fastlstm._layer import Layer
from fastlstm._layers import LINEAR_KIND, LSTM_KIND, NOISE
from fastlstm._optim import SGD, Optimizer

WINDOW = 32  # steps whose truncated gradient is made at once: traces are read and written once for all of them


class OnlineLearner:
    """Learns while it runs, one step after the other, in memory that is fixed when it is made.

    Parameters
    ----------
    net : Layer
        A layer or a `Sequential` of layers in one direction; its parameters change.
    loss : str or callable
        "mse", "sse" (half the sum of squared errors, the paper's), "cross_entropy" (y are scores before the softmax,
        targets integer classes), "binary_cross_entropy" (y are probabilities) or "binary_cross_entropy_with_logits"
        (y are scores before the sigmoid); all as in `fastlstm.losses`. A callable gets ``(y, target)``, arrays
        (lanes, O), and returns ``(loss, dy)``.
    optimizer : Optimizer or None
        `SGD`, `RMSprop`, `Adam` or `AdamW`; None leaves the weights alone and gathers the gradient.
    gradient : "truncated-rtrl", "carried-bptt" or "bptt"
        The gradient of the 1997 paper, whatever `chunk`; full backpropagation inside the chunk, plus the eligibility
        traces that carry the constant error carousel's path from before it; plain truncated backpropagation over
        the chunk, for comparison. The last is all there is for a GRU, an RNN or a projection.
    chunk : int or "episode"
        Weights change after every `chunk` steps, or at `reset` and `apply` only (the first gradient alone).
    lanes : int
        Independent streams that learn one shared network. Each has traces of its own: for an LSTM layer of I
        inputs and H units about 3 H (I + H + 1) numbers; `memory_for` tells before they are taken, `nbytes` after.
    error_bound : float, optional
        The errors of each unit's output, in all layers and at each step, are kept in [-error_bound, error_bound]
        (of a logistic last layer under "binary_cross_entropy" those of its net inputs).

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

    def __init__(
        self, net, loss="mse", optimizer=None, gradient="truncated-rtrl", chunk=1, lanes=1, *, error_bound=None
    ):
        check_network(net, as_choice(gradient, "gradient", tuple(_core.GRADIENTS)))
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an optimizer of fastlstm or None, not {type(optimizer).__name__}")
        if optimizer is not None and optimizer.net is not net:
            raise ValueError("optimizer was made for another network than net")
        if not callable(loss):
            as_choice(loss, "loss", [name for name in _core.LOSSES if name])
        steps, window = chunk_and_window(gradient, chunk)
        bound = np.inf if error_bound is None else as_number(error_bound, "error_bound", 0, low_in=False)
        each = isinstance(optimizer, SGD) and not (optimizer.weight_decay or optimizer.nesterov or optimizer.clip_norm)
        kind = 0 if callable(loss) else _core.LOSSES[loss]
        lanes = as_size(lanes, "lanes")
        if gradient == "truncated-rtrl" and chunk == 1 and each and bound == np.inf:
            self._core = _core.StepLearner(net._network, net._parameters, kind, optimizer, lanes)
        else:
            self._core = _core.ChunkLearner(
                net._network, net._parameters, kind, optimizer, lanes, gradient, steps, window, bound
            )
        self.net, self.optimizer, self.lanes = net, optimizer, lanes
        self.gradient, self.chunk, self.error_bound, self._loss = gradient, chunk, error_bound, loss
        self._y = None  # of a prediction that a callable loss will judge

    @staticmethod
    def memory_for(net, gradient="truncated-rtrl", chunk=1, lanes=1):
        """Bytes that such a learner would hold, about; none are taken.

        Parameters
        ----------
        net : Layer
        gradient, chunk, lanes
            As for a learner.

        Returns
        -------
        int
        """
        check_network(net, as_choice(gradient, "gradient", tuple(_core.GRADIENTS)))
        size = _core.chunk_nbytes(net._network, gradient, chunk_and_window(gradient, chunk)[1], as_size(lanes, "lanes"))
        if size < 0:
            raise ValueError(f"a learner of {lanes} lanes does not fit into memory")
        return size

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
        y = self._core.step(x, target)
        if y is not None:
            return y
        x, lead = self._input(x)
        if target is not None:
            target = self._targets(target, lead, "target")
        return self._learn(x[None], target, None)[0]

    def predict(self, x):
        """The first half of a step: what comes out, before its target is known; `learn` is the second half.

        Parameters
        ----------
        x : array (I,) for one lane, or (lanes, I)

        Returns
        -------
        y : array (O,) or (lanes, O)
            The state has moved on. A prediction without `learn` before the next call is a step without a target.
        """
        y = self._core.predict(x)
        if y is None:
            y = self._core.predict(self._input(x)[0])
        if not callable(self._loss):
            return y
        self._y = y
        return y.copy()

    def learn(self, target=None):
        """The second half of a step: learn from the target of the last prediction; both together are `step`.

        Parameters
        ----------
        target : array as for `step`, or (lanes, ...) whatever the form of x; optional
        """
        if self._core.learn_ready(target):
            return
        if not self._core.open:
            raise ValueError("there is no prediction to learn from: call predict first")
        if target is not None:
            flat = self.lanes == 1 and ndim_of(target) == (0 if self._classes(target) else 1)
            target = self._targets(target, () if flat else (self.lanes,), "target")
        if not callable(self._loss):
            self._core.learn(target)
            return
        y, dy, losses = self._y.reshape(self.lanes, -1), None, []
        if target is not None and not missing(target[0]):
            loss, dy = as_loss(self._loss(y.copy(), target[0]), y.dtype, y.shape)
            losses.append(loss)
        self._core.backward(dy)
        self._core.set_loss(sum(losses), len(losses))

    def peek(self, x):
        """What `predict` would give, without moving on: nothing changes.

        Parameters
        ----------
        x : array (I,) for one lane, or (lanes, I)

        Returns
        -------
        y : array (O,) or (lanes, O)
        """
        x = self._input(x)[0]
        self._core.close()
        before = self._core.flat_state.copy()
        y = self._core.predict(x)
        self._core.undo(before)
        return y

    def _input(self, x):
        lead = () if self.lanes == 1 and ndim_of(x) == 1 else (self.lanes,)
        return as_input(x, "x", self._core.network.dtype, (*lead, self._core.network.input_size)), lead

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
        xs = as_input(xs, "xs", self._core.network.dtype, (-1, *lead, self._core.network.input_size))
        if targets is not None:
            targets = self._targets(targets, (len(xs), *lead), "targets")
        return self._learn(xs, targets, self._mask(reset, "reset", len(xs)))

    def follow(self, xs, targets, tolerance, starts=None, reset=None):
        """Learn as `run` does, from streams that end with their first wrong prediction (Gers et al. 2000); one lane.

        A prediction is wrong if an output that has a target is off by `tolerance` or more, or NaN. It is still learnt
        from; then state and traces are zero, and what follows is skipped up to where the next stream may begin.

        Parameters
        ----------
        xs : array (T, I)
        targets : array (T, O)
            NaN where there is none. Not classes: the loss must not be "cross_entropy", nor a callable.
        tolerance : float
            Above 0.
        starts : booleans (T,), optional
            Where a stream may begin if the one before has ended; none: nothing follows the first wrong prediction.
        reset : booleans (T,), optional
            As for `run`, whether or not anything was wrong.

        Returns
        -------
        ys : array (T, O)
            Each prediction made before learning from its target; 0 where skipped.
        followed : bool array (T,)
            False where skipped.

        Examples
        --------
        >>> import numpy as np, fastlstm as fl
        >>> net = fl.Sequential(fl.LSTM(1, 4, seed=0), fl.Linear(4, 1, seed=1))
        >>> learner = fl.OnlineLearner(net, loss="sse", optimizer=fl.SGD(net, lr=0.1))
        >>> x, targets = np.zeros((6, 1), "f4"), np.array([[0.2], [9], [0.2], [0.2], [9], [0.2]], "f4")
        >>> learner.follow(x, targets, tolerance=2, starts=np.array([1, 0, 0, 1, 0, 0], bool))[1]
        array([ True,  True, False,  True,  True, False])
        """
        if self.lanes != 1:
            raise ValueError(f"follow is for one lane, and this learner has {self.lanes}")
        if callable(self._loss) or self._loss == "cross_entropy":
            raise ValueError("follow is for a loss of numbers by name, not for cross_entropy or a callable")
        tolerance = as_number(tolerance, "tolerance", 0, low_in=False)
        network = self._core.network
        xs = as_input(xs, "xs", network.dtype, (-1, network.input_size))
        steps = len(xs)
        targets = self._targets(targets, (steps,), "targets")
        starts, reset = self._mask(starts, "starts", steps), self._mask(reset, "reset", steps)
        ys, followed = np.zeros((steps, network.output_size), network.dtype), np.empty(steps, dtype=bool)
        self._core.follow(xs, targets, reset, starts, tolerance, ys, followed)
        return ys, followed

    def _mask(self, mask, name, steps):
        """Booleans (T, lanes), or (T,) for one lane, as C reads them."""
        if mask is None:
            return None
        mask = as_anything(mask, name, "b")
        return as_mask(mask[:, None] if self.lanes == 1 and mask.shape == (steps,) else mask, name, (steps, self.lanes))


    def _learn(self, x, targets, reset):
        y = np.empty((*x.shape[:-1], self._core.network.output_size), self._core.network.dtype)
        x, out = x.reshape(len(x), self.lanes, -1), y.reshape(len(x), self.lanes, -1)
        if callable(self._loss):
            self._run_callable(x, targets, reset, out)
        else:
            self._core.run(x, targets, reset, out)
        return y

    def _classes(self, targets, name="target"):
        """Whether these are classes: a callable loss takes both kinds."""
        if not callable(self._loss):
            return self._loss == "cross_entropy"
        return as_anything(targets, name, "biuf").dtype.kind in "iu"

    def _targets(self, targets, lead, name):
        """Targets for outputs (*lead, O), as (T, lanes) classes or (T, lanes, O) real numbers."""
        shape = (*lead, self._core.network.output_size)
        classes = self._classes(targets, name)
        if callable(self._loss):  # integers are classes, unless they have the outputs' shape
            targets = as_anything(targets, name, "biuf")
            if classes and targets.shape == shape:
                return targets.reshape(-1, self.lanes, shape[-1])
        if not classes:
            return as_input(targets, name, self._core.network.dtype, shape).reshape(-1, self.lanes, shape[-1])
        targets = as_anything(targets, name, "iu")
        if targets.shape == (*lead, 1) and self.lanes == 1:
            targets = targets[..., 0]
        if targets.shape != lead:
            raise ValueError(f"{name} has shape {targets.shape} and must have {lead}")
        low, high, last = targets.min(), targets.max(), self._core.network.output_size - 1
        if low < -1 or high > last:
            raise ValueError(f"{name} has classes from {low} to {high} and must have -1 to {last}")
        return np.ascontiguousarray(targets, np.int64).reshape(-1, self.lanes)

    def _run_callable(self, x, targets, reset, y):
        losses = []
        for t in range(len(x)):
            if reset is not None and reset[t].any():
                self._core.reset(reset[t])
            target = None if targets is None or missing(targets[t]) else targets[t]
            before = self._core.flat_state.copy()
            self._core.forward(x[t], y[t])
            dy = None
            if target is not None:
                try:
                    loss, dy = as_loss(self._loss(y[t].copy(), target), y.dtype, y[t].shape)
                except BaseException:
                    self._core.undo(before)  # as if the step had not been asked for
                    raise
                losses.append(loss)
            self._core.backward(dy)
        self._core.set_loss(sum(losses), len(losses))

    def reset(self, mask=None):
        """An episode ends: zero the state and the traces of all lanes, or of those where `mask` (lanes,) is true.

        With ``chunk="episode"`` the gathered gradient is applied first.
        """
        self._core.reset(None if mask is None else as_mask(mask, "mask", (self.lanes,)))

    def apply(self):
        """Update the weights now with the gradient gathered since the last update, and clear it."""
        if self.optimizer is None:
            raise ValueError("this learner has no optimizer to apply")
        self._core.apply()

    def gradients(self):
        """The gradient gathered since the last update: parameter name -> array copy.

        Zeros with ``chunk=1`` and an optimizer, which uses up the gradient of every step.
        """
        flat = self._core.gradients()
        return {
            name: flat[at : at + int(np.prod(shape))].reshape(shape) for name, (at, shape) in self.net._shapes.items()
        }

    def zero_grad(self):
        """Forget the gathered gradient."""
        self._core.zero_gradient()

    @property
    def loss(self):
        """Mean loss of the last call over its steps with a target; NaN if it had none."""
        return self._core.loss

    def nbytes(self):
        """Bytes that this learner holds beside the network; all were taken when it was made."""
        return self._core.nbytes()

    @property
    def state(self):
        """The state, a copy, as a stream's; setting it clears the traces."""
        self._core.idle()
        return self.net._state_of(self._core.flat_state.copy(), self.lanes)

    @state.setter
    def state(self, state):
        self._core.idle()
        flat = self._core.network.new_state(self.lanes)
        self.net._fill_state(flat, self.lanes, state)
        self._core.set_state(flat)

    def __getstate__(self):
        self._core.idle()
        return {
            "net": self.net,
            "optimizer": self.optimizer,
            "loss": self._loss,
            "gradient": self.gradient,
            "chunk": self.chunk,
            "lanes": self.lanes,
            "error_bound": self.error_bound,
            "memory": self._core.memory(),
        }

    def __reduce__(self):
        self._core.sync()
        return _restore, (type(self), self.__getstate__())


def check_network(net, gradient):
    """Raise unless this gradient is defined for all layers."""
    if not isinstance(net, Layer):
        raise TypeError(f"net must be a fastlstm layer, not {type(net).__name__}")
    if any(spec["reverse"] for spec in net._specs):
        raise ValueError(
            "a bidirectional layer cannot learn online: its backward direction needs the end of the sequence"
        )
    plain = all(spec["kind"] in (LSTM_KIND, LINEAR_KIND) and not spec["proj_size"] for spec in net._specs)
    if gradient != "bptt" and not plain:
        raise ValueError(
            f'net has a GRU, an RNN or a projection, for which gradient="{gradient}" is not defined: use "bptt"'
        )
    if any(spec[name] for spec in net._specs for name in NOISE):
        raise ValueError("net has dropout or zoneout, which a learner does not apply")


def chunk_and_window(gradient, chunk):
    """`chunk` in steps, 0 for an episode, and the steps that are kept until their gradient is made."""
    episode = isinstance(chunk, str) and chunk == "episode"
    if episode and gradient != "truncated-rtrl":
        raise ValueError(f'chunk="episode" has no bound, which gradient="{gradient}" needs: give a number of steps')
    steps = 0 if episode else as_size(chunk, "chunk")
    return steps, (min(steps, WINDOW) or WINDOW) if gradient == "truncated-rtrl" else steps


def missing(target):
    """Whether no element of a step's target, (lanes,) classes or (lanes, O) numbers, is one."""
    return (target < 0 if target.ndim == 1 else np.isnan(target)).all()


def _restore(cls, saved):
    memory = saved.pop("memory")
    learner = cls(**saved)
    learner._core.set_memory(memory)
    return learner
