"""The network of experiments 2a and 2b: logistic outputs that read the inputs and one hidden unit."""

from __future__ import annotations

import math

import numpy as np


def sigmoid(x):
    """The logistic function."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def logistic(x):
    """The same of a Python float."""
    return 0.5 + 0.5 * math.tanh(0.5 * x)


class ShortcutNet:
    """Outputs ``y = sigma(U x + v h)``; one unit h that sees the inputs and is a memory cell or a logistic unit.

    The memory cell has an input gate, g logistic, h the identity, no output gate, no recurrent weights: (p + 1)(p + 2)
    + 2 (p + 1) weights. The logistic unit sees itself: (p + 1)(p + 2) + p + 2. All inputs are one-hot.

    Parameters
    ----------
    rng : numpy.random.Generator
    size : int
        p + 1 symbols.
    unit : "cell" or "logistic"
        The gradient is exact: for the memory cell of this net the paper's is.
    update : "step" or "sequence"
        When the weights change: after each step, the gradient computed forward in time as in real-time recurrent
        learning; or after each sequence, computed backward through time. The logistic unit is thus RTRL or BPTT.
    rate : float
    init : float
        Weights start uniform in [-init, init].
    patience : int
        The cell is added when the mean error of so many sequences is not below `falling` times that of as many before
        ("when the error has stopped decreasing"; the paper does not say more). 0: at once.
    falling : float
    low : float
        The cell's g is logistic between `low` and 1: the paper's is 0, with which the state of long sequences drifts.
    igb : float
        Added to the initial weights into the input gate, which has no bias: below 0 it is closed at first.
    entropy : bool
        Outputs follow the gradient of the cross-entropy, not of the squared error: without the factor f'(net).

    Attributes
    ----------
    last : bool
        Only the last step of a sequence has errors; false at first.
    """

    def __init__(self, rng, size, unit="cell", update="step", rate=1.0, init=0.2, patience=100,
                 falling=0.95, low=0.0, igb=0.0, entropy=False):  # fmt: skip
        self.unit, self.update, self.rate, self._low, self._entropy = unit, update, rate, low, entropy
        self.last = False
        self.shortcut = rng.uniform(-init, init, (size, size))  # U, one row for each input
        self.out = rng.uniform(-init, init, size)  # v
        self.cell = rng.uniform(-init, init, size)  # into the cell, or into the logistic unit
        self.gate = igb + rng.uniform(-init, init, size)
        self.loop = rng.uniform(-init, init)
        self._errors, self._patience, self._falling = [], patience, falling
        self.present = unit != "cell" or not patience

    @property
    def weights(self):
        """How many there are."""
        size = len(self.out)
        return size * size + size + (2 * size if self.unit == "cell" else size + 1)

    def _states(self, symbols):
        """The unit's output at each step, and what its gradient needs."""
        if not self.present:
            return np.zeros(len(symbols)), None, None
        if self.unit == "cell":
            gate, value = sigmoid(self.gate[symbols]), self._g(self.cell[symbols])
            return np.cumsum(gate * value), gate, value
        h, states = 0.0, []
        for net in self.cell[symbols].tolist():
            h = 1.0 / (1.0 + np.exp(-(net + self.loop * h)))
            states.append(h)
        return np.array(states), None, None

    def _g(self, net, squash=sigmoid):
        return self._low + (1.0 - self._low) * squash(net)

    def _slope(self, value):
        return (value - self._low) * (1.0 - value) / (1.0 - self._low)  # g' by its value

    def predict(self, batch):
        """The outputs (T, K), without learning."""
        return np.concatenate([self._outputs(xs.argmax(axis=1))[0] for xs, _ in batch]).astype(np.float32)

    def _outputs(self, symbols):
        states, *rest = self._states(symbols)
        return sigmoid(self.shortcut[symbols] + states[:, None] * self.out), states, *rest

    def learn(self, batch):
        """Learn from sequences, one after the other; the outputs (T, K) before learning from each."""
        step = self._stepwise if self.update == "step" else self._sequence
        return np.concatenate([step(xs.argmax(axis=1), ts.argmax(axis=1)) for xs, ts in batch]).astype(np.float32)

    def _sequence(self, symbols, following):
        """The weights change at the end, by the gradient of the whole sequence."""
        ys, states, gate, value = self._outputs(symbols)
        error = self._errors_of(ys, following)
        delta = self._delta(ys, error)
        if self.present:
            down = delta @ self.out
            self.out += states @ delta
            if self.unit == "cell":  # the carousel: the error at the state is the sum of all later ones
                later = np.cumsum(down[::-1])[::-1]
                np.add.at(self.cell, symbols, later * gate * self._slope(value))
                np.add.at(self.gate, symbols, later * value * gate * (1.0 - gate))
            else:
                slope, before, back = states * (1.0 - states), np.append(0.0, states[:-1]), 0.0
                thetas = np.empty(len(symbols))
                for t in range(len(symbols) - 1, -1, -1):
                    back = thetas[t] = slope[t] * (down[t] + self.loop * back)
                np.add.at(self.cell, symbols, thetas)
                self.loop += thetas @ before
        np.add.at(self.shortcut, symbols, delta)
        if not self.present:
            self._grow(float(np.abs(error).mean()))
        return ys

    def _errors_of(self, ys, following):
        """t_k - y_k at each step, or at the last one."""
        error = -ys
        error[np.arange(len(ys)), following] += 1.0
        if self.last:
            error[:-1] = 0.0
        return error

    def _delta(self, y, error):
        """e_k = f'(net_k) (t_k - y_k), times the rate."""
        return self.rate * error if self._entropy else self.rate * y * (1.0 - y) * error

    def _grow(self, error):
        """Add the unit when the error has stopped falling."""
        n = self._patience
        self._errors = [*self._errors[1 - 2 * n :], error]
        if len(self._errors) == 2 * n:
            self.present = sum(self._errors[n:]) >= self._falling * sum(self._errors[:n])

    def _stepwise(self, symbols, following):
        """The weights change at every step; the unit's sensitivities are carried along (Williams and Zipser 1989)."""
        state, ys = 0.0, np.empty((len(symbols), len(self.out)))
        to_cell, to_gate, to_loop = np.zeros(len(self.out)), np.zeros(len(self.out)), 0.0  # d state / d weights
        for t, (symbol, target) in enumerate(zip(symbols.tolist(), following.tolist(), strict=True)):
            if not self.present:
                pass
            elif self.unit == "cell":
                gate, value = logistic(self.gate.item(symbol)), self._g(self.cell.item(symbol), logistic)
                state += gate * value
                to_cell[symbol] += gate * self._slope(value)
                to_gate[symbol] += value * gate * (1.0 - gate)
            else:
                before, state = state, logistic(self.cell.item(symbol) + self.loop * state)
                slope = state * (1.0 - state)
                to_cell *= slope * self.loop
                to_cell[symbol] += slope
                to_loop = slope * (before + self.loop * to_loop)
            row = self.shortcut[symbol]
            y = ys[t] = sigmoid(row + state * self.out)
            if self.last and t < len(symbols) - 1:
                continue
            error = -y
            error[target] += 1.0
            delta = self._delta(y, error)
            row += delta
            if self.present:
                down = float(delta @ self.out)
                self.out += state * delta
                self.cell += down * to_cell
                if self.unit == "cell":
                    self.gate += down * to_gate
                else:
                    self.loop += down * to_loop
        if not self.present:
            self._grow(float(np.abs(self._errors_of(ys, following)).mean()))
        return ys
