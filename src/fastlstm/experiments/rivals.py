"""The rivals named in the paper's tables, each as small as it can be, and a hidden Markov model.

All have the interface of `fastlstm.experiments.methods.Engine`: ``learn(batch)``, ``predict(batch)`` and ``weights``.
"""

from __future__ import annotations

import numpy as np

import fastlstm as fl
from fastlstm.experiments._shortcut import ShortcutNet, sigmoid
from fastlstm.experiments.cascade import Cascade
from fastlstm.experiments.methods import Engine, follow_by_steps, rnn


class Elman:
    """Elman's net (1990): the hidden units' last outputs are inputs like all others; the gradient goes back one step.

    The engine runs the net; the gradient is written out here. Weights change after each sequence.
    """

    def __init__(self, rng, inputs, hidden, outputs, lr, init):
        body = fl.RNN(inputs, hidden, nonlinearity="sigmoid", bias=False, seed=0)
        self.net = fl.Sequential(body, fl.Linear(hidden, outputs, activation="sigmoid", bias=False, seed=0))
        self.net.load_state_dict(
            {name: rng.uniform(-init, init, a.shape).astype("f4") for name, a in sorted(self.net.state_dict().items())}
        )
        self._lr = lr

    weights = property(lambda self: self.net.parameters.size)
    predict, _read = Engine.predict, Engine._read

    def begin(self):
        """A stream would begin."""
        raise ValueError("a stream has no end to wait for, and Elman's net learns from whole sequences")

    def learn(self, batch):
        """Learn from sequences, one after the other; the outputs (T, K) before."""
        return np.concatenate([self._learn(xs, targets) for xs, targets in batch])

    def _learn(self, xs, targets):
        weights = self.net.state_dict()
        h = self.net[0](xs)[0]
        y = sigmoid(h @ weights["1.weight"].T)
        error = self._lr * y * (1 - y) * np.where(np.isnan(targets), 0, targets - y)
        delta = h * (1 - h) * (error @ weights["1.weight"])
        before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
        weights["1.weight"] += error.T @ h
        weights["0.weight_ih_l0"] += delta.T @ xs
        weights["0.weight_hh_l0"] += delta.T @ before
        self.net.load_state_dict(weights)
        return y


class RealTime:
    """Real-time recurrent learning (Robinson and Fallside 1987; Williams and Zipser 1989) of a fully recurrent net.

    All units, hidden and output, see all inputs and all units: ``y(t) = sigma(W [y(t-1); x(t)])``. The sensitivities
    p[k, i, j] = dy_k / dw_ij are carried forward, at a cost of O(n^4); weights change at every step.
    """

    def __init__(self, rng, inputs, hidden, outputs, lr, init):
        self._n, self._outputs, self._lr = hidden + outputs, outputs, lr
        self._w = rng.uniform(-init, init, (self._n, self._n + inputs))
        self.begin()

    weights = property(lambda self: self._w.size)
    follow = follow_by_steps

    def begin(self):
        """A sequence or a stream begins."""
        self._y, self._p = np.zeros(self._n), np.zeros((self._n, self._w.size))

    def learn(self, batch):
        """Learn from sequences, one after the other; the outputs (T, K) before each update."""
        steps = zip(batch.xs, batch.targets, batch.resets.tolist(), strict=True)
        return np.array([self.step(*step) for step in steps], dtype=np.float32)

    def step(self, x, target, reset=False):
        """Learn from one step; with `reset` a sequence begins. The outputs (K,) before."""
        if reset:
            self.begin()
        n, w, p, unit = self._n, self._w, self._p, np.arange(self._n)
        z = np.concatenate([self._y, x])
        self._y = y = sigmoid(w @ z)
        self._p = p = w[:, :n] @ p
        p.reshape(n, n, -1)[unit, unit] += z  # the explicit part: w_kj sees z_j
        p *= (y * (1 - y))[:, None]
        out = y[-self._outputs :]
        if not np.isnan(target).any():
            w += self._lr * ((target - out) @ p[-self._outputs :]).reshape(w.shape)
        return out

    def runner(self):
        """As `Engine.runner`."""
        y = np.zeros(self._n)

        def run(batch):
            nonlocal y
            ys = []
            for x, reset in zip(batch.xs, batch.resets.tolist(), strict=True):
                y = sigmoid(self._w @ np.concatenate([np.zeros(self._n) if reset else y, x]))
                ys.append(y[-self._outputs :])
            return np.array(ys, dtype=np.float32)

        return run

    def predict(self, batch):
        """The outputs (T, K)."""
        xs = batch.padded(batch.xs)
        y, ys = np.zeros((xs.shape[1], self._n)), []
        for x in xs:
            y = sigmoid(np.concatenate([y, x], axis=1) @ self._w.T)
            ys.append(y[:, -self._outputs :])
        return np.array(ys, dtype=np.float32)[batch.places]


class Chunker:
    """The neural sequence chunker (Schmidhuber 1992): a net that is only shown what another could not predict.

    Both are nets of experiment 2a with a self-recurrent unit. The automatizer sees every symbol and predicts the next.
    The chunker is shown, as its next input, only symbols that the automatizer did not expect (an output off by more
    than `surprise`; a sequence begins with a surprise), and predicts the next surprise. One more output of the
    automatizer learns the chunker's hidden state, which takes the chunker's memory over the lag into the automatizer.
    """

    def __init__(self, rng, size, rate, init=0.2, surprise=0.2):
        self._rate, self._surprise, self._size = rate, surprise, size
        shapes = {"U": (size, size + 1), "v": size + 1, "u": size, "r": ()}
        self._a = {name: rng.uniform(-init, init, shape) for name, shape in shapes.items()}
        shapes |= {"U": (size, size), "v": size}
        self._c = {name: rng.uniform(-init, init, shape) for name, shape in shapes.items()}

    weights = property(lambda self: (self._size + 1) * (self._size + 1) + self._size + 1)  # the larger net's

    def _forward(self, net, symbols):
        h, states = 0.0, []
        for value in net["u"][symbols].tolist():
            h = 1.0 / (1.0 + np.exp(-(value + float(net["r"]) * h)))
            states.append(h)
        states = np.array(states)
        return sigmoid(net["U"][symbols] + states[:, None] * net["v"]), states

    def _backward(self, net, symbols, ys, states, error):
        delta = self._rate * ys * (1 - ys) * error
        down, back, loop, before = delta @ net["v"], 0.0, float(net["r"]), np.append(0.0, states[:-1])
        slope, thetas = states * (1 - states), np.empty(len(states))
        for t in range(len(states) - 1, -1, -1):
            back = thetas[t] = slope[t] * (down[t] + loop * back)
        net["v"] = net["v"] + states @ delta
        np.add.at(net["U"], symbols, delta)
        np.add.at(net["u"], symbols, thetas)
        net["r"] = net["r"] + thetas @ before

    def learn(self, batch):
        """Learn from sequences, one after the other; the automatizer's outputs (T, K) before."""
        out = []
        for xs, targets in batch:
            symbols, following = xs.argmax(axis=1), targets.argmax(axis=1)
            ys, states = self._forward(self._a, symbols)
            error = np.concatenate([targets, np.zeros((len(ys), 1))], axis=1) - ys
            surprised = np.abs(error[:, :-1]).max(axis=1) > self._surprise
            # What the chunker is shown: the first symbol, and then every one that came unexpectedly.
            times = np.concatenate([[-1], np.flatnonzero(surprised)])
            shown = np.concatenate([symbols[:1], following[surprised]])
            guesses, inner = self._forward(self._c, shown)
            # Its latest hidden state at each step of the automatizer.
            held = inner[np.searchsorted(times, np.arange(len(ys)), side="left") - 1]
            error[:, -1] = held - ys[:, -1]
            self._backward(self._a, symbols, ys, states, error)
            if len(shown) > 1:
                wanted = np.eye(self._size)[shown[1:]] - guesses[:-1]
                self._backward(self._c, shown[:-1], guesses[:-1], inner[:-1], wanted)
            out.append(ys[:, :-1])
        return np.concatenate(out).astype(np.float32)

    def predict(self, batch):
        """The automatizer's outputs (T, K)."""
        outputs = [self._forward(self._a, xs.argmax(axis=1))[0][:, :-1] for xs, _ in batch]
        return np.concatenate(outputs).astype(np.float32)


class HiddenMarkov:
    """A hidden Markov model of one-hot symbols, by Baum and Welch (hmmlearn): the outputs are the chances of the next.

    Each call of `learn` goes on from the parameters of the last.
    """

    epochs = True

    def __init__(self, rng, inputs, states, iterations):
        from hmmlearn.hmm import CategoricalHMM

        seed = int(rng.integers(2**31))
        self._model = CategoricalHMM(states, n_features=inputs, n_iter=iterations, random_state=seed)
        self._inputs, self.weights = inputs, states * (states + inputs + 1)

    def learn(self, batch):
        """Fit to the symbols of these sequences."""
        symbols = [np.append(xs.argmax(axis=1), targets[-1].argmax()) for xs, targets in batch]
        self._model.fit(np.concatenate(symbols)[:, None], [len(sequence) for sequence in symbols])
        self._model.init_params = ""
        return self.predict(batch)

    def predict(self, batch):
        """The chances (T, K) of each next symbol, by the forward recursion."""
        xs, model = batch.padded(batch.xs), self._model
        belief = np.tile(model.startprob_, (xs.shape[1], 1))
        ys = []
        for x in xs:
            belief = belief * (x @ model.emissionprob_.T)
            belief /= np.maximum(belief.sum(axis=1, keepdims=True), 1e-300)
            belief = belief @ model.transmat_
            ys.append(belief @ model.emissionprob_)
        return np.array(ys, dtype=np.float32)[batch.places]


def _is_lag(task):
    return task.name.startswith(("2a", "2b"))


def _needs_a_set(task, name):
    if task.training is None:
        raise ValueError(f"{name} learns from one training set again and again, and {task.name} has none")


def elman(task, rng, *, hidden=15, lr=None, init=0.2):
    """`Elman`."""
    return Elman(rng, task.inputs, hidden, task.outputs, task.rate if lr is None else lr, init)


def rtrl(task, rng, *, hidden=3, lr=None, rate=None, init=0.2):
    """Full real-time recurrent learning: `RealTime`, or in 2a and 2b the paper's net of one recurrent unit."""
    lr = next((value for value in (lr, rate) if value is not None), task.rate)
    if _is_lag(task):
        return ShortcutNet(rng, task.inputs, "logistic", "step", lr, init)
    return RealTime(rng, task.inputs, hidden, task.outputs, lr, init)


def bptt(task, rng, **options):
    """Backpropagation through time: of the engine's RNN, or in 2a and 2b of the paper's net of one recurrent unit."""
    if _is_lag(task):
        return ShortcutNet(rng, task.inputs, "logistic", "sequence", **({"rate": task.rate} | options))
    return rnn(task, rng, **({"optimizer": "sgd", "lr": task.rate} | options))


def chunker(task, rng, *, rate=None, surprise=0.2):
    """`Chunker`."""
    if not _is_lag(task):
        raise ValueError(f"the chunker is for experiments 2a and 2b, and {task.name} is none")
    return Chunker(rng, task.inputs, task.rate if rate is None else rate, surprise=surprise)


def rcc(task, rng, **options):
    """Recurrent cascade-correlation: `Cascade`."""
    _needs_a_set(task, "recurrent cascade-correlation")
    return Cascade(rng, task.inputs, task.outputs, **options)


def hmm(task, rng, *, states=12, iterations=20):
    """`HiddenMarkov`, for tasks whose targets are the next symbols."""
    _needs_a_set(task, "the hidden Markov model")
    return HiddenMarkov(rng, task.inputs, states, iterations)


METHODS = {"elman": elman, "rtrl": rtrl, "bptt": bptt, "rcc": rcc, "chunker": chunker, "hmm": hmm}
