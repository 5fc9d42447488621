"""Methods that learn an experiment with the engine: the paper's own algorithm, and what has been learnt since."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import fastlstm as fl
from fastlstm.experiments._shortcut import sigmoid
from fastlstm.experiments._task import off

OPTIMIZERS = {"sgd": fl.SGD, "adam": fl.Adam, "rmsprop": fl.RMSprop}


def follow_by_steps(learner, batch, tolerance, alone=True):
    """`Engine.follow` of a learner that has ``step(x, target, reset)``: nothing follows the first stream's end."""
    ys, followed = np.zeros(batch.targets.shape, dtype=np.float32), np.zeros(len(batch.xs), dtype=bool)
    for t, (x, target, reset) in enumerate(zip(batch.xs, batch.targets, batch.resets.tolist(), strict=True)):
        ys[t], followed[t] = learner.step(x, target, reset), True
        if off(ys[t], target, tolerance):
            break
    return ys, followed


class Engine:
    """A network of the engine that learns sequence by sequence.

    Parameters
    ----------
    task : Task
    net : Layer
    optimizer : SGD, Adam, ...
        Made for `net`.
    gradient : "truncated-rtrl", "carried-bptt" or "bptt"
    update : "step", "sequence" or int
        When the weights change: after so many steps, or at the end of a sequence (not with "carried-bptt").
    batch : int
        With "bptt" of whole sequences, so many to an update.
    cool : int
        After n sequences the rate is lr / (1 + n / cool); 0: it stays.
    last : bool
        Learn from each sequence's last target alone.
    legal : bool
        Of a grammar's strings: the targets are all symbols that may follow, not the one that does.
    """

    _cool, _last, _legal = 0, False, False

    def __init__(
        self, task, net, optimizer, gradient="truncated-rtrl", update="step", batch=1, cool=0, last=False, legal=False
    ):
        self._cool, self._seen, self._last, self._legal = cool, 0, last, legal
        self.net, self._optimizer, self._batch = net, optimizer, batch
        self._frozen = getattr(net, "frozen", np.empty(0, dtype=int))
        self._learner, self._update, self._rate = None, update, optimizer.lr
        self._stepwise = len(self._frozen) > 0  # Python has something to do after each update
        ends = task.at_the_end or last
        if ends and (gradient, update) == ("truncated-rtrl", "step") and not isinstance(optimizer, fl.SGD):
            self._update = update = "sequence"  # the same but for rounding, and faster
        if (gradient, update) != ("bptt", "sequence"):
            chunk = {"step": 1, "sequence": "episode"}.get(update, update)
            self._learner = fl.OnlineLearner(net, loss="sse", optimizer=optimizer, gradient=gradient, chunk=chunk)

    @property
    def weights(self):
        """How many numbers are learnt."""
        return self.net.parameters.size - len(self._frozen)

    def learn(self, batch):
        """Learn from sequences, one after the other; the outputs (T, K) before learning from each target."""
        batch = self._wanted(batch)
        if self._learner is None:
            return self._backpropagate(batch)
        if not self._stepwise:
            ys = self._learner.run(batch.xs, batch.targets, batch.reset)
            if self._update == "sequence":
                self._learner.apply()
            return ys
        if self._update == "sequence":
            return np.concatenate([self._episode(xs, targets) for xs, targets in batch])
        return np.array([self.step(*step) for step in zip(batch.xs, batch.targets, batch.resets.tolist(), strict=True)])

    def _wanted(self, batch):
        """A batch as it is learnt from, at the rate of now."""
        if self._cool:
            self._optimizer.lr = self._rate / (1 + self._seen / self._cool)
            self._seen += len(batch)
        if self._legal:
            return replace(batch, targets=batch.extra.astype(np.float32))
        if not self._last:
            return batch
        targets = np.full_like(batch.targets, np.nan)
        targets[batch.ends] = batch.targets[batch.ends]
        return replace(batch, targets=targets)

    def follow(self, batch, tolerance, alone=False):
        """Learn from streams that end with their first wrong prediction, and begin where a sequence does.

        With `alone`, or a rate that falls within each stream, nothing follows the first one's end. As
        `fastlstm.OnlineLearner.follow`, outputs (T, K) and which steps were followed.
        """
        if self._last:
            raise ValueError("last is for sequences that end, and a stream is followed from target to target")
        batch = self._wanted(batch)
        if self._stepwise:
            return follow_by_steps(self, batch, tolerance)
        starts = np.zeros(len(batch.xs), dtype=bool)
        starts[batch.starts] = not alone and getattr(self._optimizer, "decay", 1.0) == 1
        return self._learner.follow(batch.xs, batch.targets, tolerance, starts, batch.resets)

    def step(self, x, target, reset=False):
        """Learn from one step; with `reset` a sequence begins. The outputs (K,) before."""
        if reset:
            self._learner.reset()
        ys = self._learner.step(x, target)
        self._thaw()
        return ys

    def begin(self):
        """A stream begins: the state is cleared, and a rate that decays has its first value again."""
        if self._learner is None:
            raise ValueError("a stream has no end to wait for: bptt needs an update after so many steps, as update=20")
        self._learner.reset()
        self._optimizer.lr = self._rate

    def runner(self):
        """A function that runs the network on batches, without learning, its state going on from call to call."""
        state = None

        def run(batch):
            nonlocal state
            ys, state = self.net(batch.xs, state, reset=batch.reset)
            return self._read(ys, batch.xs)

        return run

    def _read(self, ys, xs):
        """The outputs, of what the net makes of xs."""
        return ys

    def _episode(self, xs, targets):
        ys = self._learner.run(xs, targets)
        self._learner.reset()  # applies the gradient first
        self._thaw()
        return ys

    def _thaw(self):
        """Put back the weights that are not to be learnt."""
        if len(self._frozen):
            self.net._parameters.fetch()[self._frozen] = 0.0
            self.net._parameters.changed()

    def _backpropagate(self, batch):
        out = np.empty(batch.targets.shape, dtype=np.float32)
        for first in range(0, len(batch), self._batch):
            part = batch.part(first, min(first + self._batch, len(batch)))
            y, _, backward = self.net.forward(part.padded(part.xs), lengths=part.lengths)
            targets = part.padded(part.targets)
            error = np.where(np.isnan(targets), 0, y - targets).astype(np.float32)
            error[np.arange(len(error))[:, None] >= part.lengths] = 0
            backward(error / len(part), need_dx=False)
            if len(self._frozen):
                self.net.grad[self._frozen] = 0
            self._optimizer.step()
            self.net.zero_grad()
            start = batch.starts[first]
            out[start : start + len(part.xs)] = y[part.places]
        return out

    def predict(self, batch):
        """The outputs (T, K), without learning."""
        return self._read(self.net(batch.xs, reset=batch.reset)[0], batch.xs)


class Shortcut(Engine):
    """The paper's network with more weights: its output units see the inputs too, and have biases.

    The engine learns the LSTM; the output units, which have no time in them, stand here.

    Parameters
    ----------
    rng : numpy.random.Generator
    net : Sequential
        Of `paper_network`; of its output units only the shape and the number is taken.
    lr, decay, init : float
    full : bool
        The full gradient, once for each sequence; else the paper's, truncated, at each step.
    """

    def __init__(self, rng, net, lr, decay=1.0, init=0.2, full=False):
        self.net, self._frozen, self._rate = net[0], net.frozen, lr
        self._cells, outputs = self.net.hidden_size, len(net[1].weight)
        self._out = rng.uniform(-init, init, (outputs, self._cells + self.net.input_size + 1)).astype(np.float32)
        self._optimizer = fl.SGD(self.net, lr=lr, decay=decay)
        self._learner, self._update, self._stepwise = None, "step", True
        if not full:
            self._dh = None  # of the step under way
            self._learner = fl.OnlineLearner(self.net, loss=self._given, optimizer=self._optimizer)
            self._any = np.zeros(self._cells, dtype=np.float32)  # a target, which the loss above does not look at

    def _given(self, h, target):
        """A loss that is known by its derivative alone; a method, so that a copy of this asks the copy."""
        return 0.0, self._dh

    @property
    def weights(self):
        """How many numbers are learnt."""
        return super().weights + self._out.size

    def _sources(self, h, xs):
        return np.concatenate([h, xs, np.ones((*xs.shape[:-1], 1), np.float32)], axis=-1)

    def _read(self, ys, xs):
        return sigmoid(self._sources(ys, xs) @ self._out.T)

    def _deltas(self, h, xs, targets):
        """Outputs, their net inputs' errors e_k = f'(net_k) (t_k - y_k), and the error of h, downhill."""
        ys = self._read(h, xs)
        delta = ys * (1 - ys) * np.nan_to_num(targets - ys)
        return ys, delta, -(delta @ self._out[:, : self._cells])

    def step(self, x, target, reset=False):
        """Learn from one step; the outputs (K,) before."""
        if reset:
            self._learner.reset()
        rate, h = self._optimizer.lr, self._learner.predict(x)
        y, delta, dh = self._deltas(h, x, target)
        self._dh = dh[None]
        self._learner.learn(self._any)
        self._thaw()
        self._out += rate * np.outer(delta, self._sources(h, x))
        return y

    def _backpropagate(self, batch):
        return np.concatenate([self._sequence(xs, targets) for xs, targets in batch])

    def _sequence(self, xs, targets):
        h, _, backward = self.net.forward(xs)
        ys, delta, dh = self._deltas(h, xs, targets)
        backward(dh, need_dx=False)
        self._out += self._optimizer.lr * delta.T @ self._sources(h, xs)
        self._optimizer.step()
        self.net.zero_grad()
        self._thaw()
        return ys


def _optimizer(net, name, lr, **options):
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer is {name!r} and must be one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](net, lr=lr, **options)


def lstm1997(task, rng, *, gradient="truncated-rtrl", update=None, optimizer="sgd", lr=None, decay=None,
             momentum=None, batch=1, cool=0, last=False, legal=False, shortcut=False, **network):  # fmt: skip
    """The paper's network and algorithm; with options, readings of what the paper leaves open, and variations.

    Parameters
    ----------
    gradient, update, batch, cool, last, legal
        As for `Engine`; after each step by default, with "bptt" after each sequence.
    optimizer : "sgd", "adam" or "rmsprop"
    lr, decay, momentum : float, optional
        Default: the paper's.
    shortcut : bool
        Whether the output units see the inputs and have biases: `Shortcut`, by plain gradient descent, with "bptt" or
        the truncated gradient at each step.
    **network
        For `Task.network`: init, bias, igb, ogb, blocks, size, and options of `fastlstm.LSTM1997`.
    """
    if optimizer == "sgd" and momentum is None:
        momentum = getattr(task, "momentum", 0.0)
    net = task.network(rng, **network)
    if not isinstance(net, fl.Layer):  # it learns by itself
        net.last = last
        return net
    if shortcut:
        if (optimizer, momentum, update, batch, last, legal) != ("sgd", 0.0, None, 1, False, False):
            raise ValueError("a shortcut goes with plain gradient descent alone, without update, momentum, batch, last")
        rate, init = task.rate if lr is None else lr, network.get("init", 0.2)
        return Shortcut(rng, net, rate, 1.0 if decay is None else decay, init, full=gradient == "bptt")
    if update is None:
        update = "sequence" if gradient == "bptt" else "step"
    more = {name: value for name, value in (("decay", decay), ("momentum", momentum)) if value}
    optimizer = _optimizer(net, optimizer, task.rate if lr is None else lr, **more)
    if legal and getattr(task, "testing", None) is None:
        raise ValueError(f"legal is for experiment 1, and {task.name} has no such symbols")
    return Engine(task, net, optimizer, gradient, update, batch, cool, last, legal)


def _modern(cell):
    def make(task, rng, *, hidden=8, layers=1, lr=0.01, optimizer="adam", gradient="bptt", update="sequence", batch=1,
             cool=0, last=False, forget=1.0, chrono=0, output="sigmoid", clip=1.0):  # fmt: skip
        body = cell(task.inputs, hidden, layers, seed=rng)
        head = fl.Linear(hidden, task.outputs, activation=None if output == "linear" else output, seed=rng)
        net = fl.Sequential(body, head)
        if cell is fl.LSTM:
            for layer in range(layers):
                bias = np.array(getattr(net, f"0.bias_ih_l{layer}"))
                bias[hidden : 2 * hidden] = forget
                if chrono:
                    bias[hidden : 2 * hidden] = np.log(rng.uniform(1, chrono - 1, hidden))
                    bias[:hidden] = -bias[hidden : 2 * hidden]
                setattr(net, f"0.bias_ih_l{layer}", bias)
        options = {"clip_norm": clip} if clip and gradient == "bptt" else {}
        return Engine(task, net, _optimizer(net, optimizer, lr, **options), gradient, update, batch, cool, last)

    make.__doc__ = f"""Today's {cell.__name__} by full backpropagation through time and Adam.

    Parameters
    ----------
    hidden, layers : int
    lr : float
    optimizer : "sgd", "adam" or "rmsprop"
    gradient, update, batch, cool, last
        As for `Engine`.
    forget : float
        Initial bias of an LSTM's forget gates (Gers et al. 2000, Jozefowicz et al. 2015).
    chrono : float
        Instead, time constants between 1 and so many steps, and input gates as closed as forget gates are open (Tallec
        and Ollivier 2018).
    output : "sigmoid" or "linear"
    clip : float
        Largest norm of a gradient; 0: any.
    """
    return make


lstm, gru, rnn = _modern(fl.LSTM), _modern(fl.GRU), _modern(fl.RNN)

METHODS = {"lstm1997": lstm1997, "lstm": lstm, "gru": gru, "bptt": rnn}
