"""Recurrent cascade-correlation (Fahlman 1991)."""

from __future__ import annotations

import numpy as np

from fastlstm.experiments._shortcut import sigmoid


class Quickprop:
    """Fahlman's rule (1988): a parabola through the last two slopes, a step to where it has its minimum.

    Parameters
    ----------
    shape : tuple
    rate, growth, decay : float
        Of the plain gradient; most by which a step may exceed the last; weight decay.
    """

    def __init__(self, shape, rate, growth=1.75, decay=1e-4):
        self._rate, self._growth, self._decay = rate, growth, decay
        self._step, self._slope = np.zeros(shape), np.zeros(shape)

    def step(self, w, gradient):
        """Change `w` to lessen what `gradient` is of."""
        slope, before, last = gradient + self._decay * w, self._slope, self._step
        limit = self._growth / (1 + self._growth)
        with np.errstate(divide="ignore", invalid="ignore"):
            parabola = last * slope / (before - slope)
        steep = last * slope < 0  # the minimum lies ahead
        capped = np.where(np.abs(slope) >= limit * np.abs(before), self._growth * last, parabola)
        far = np.where(np.sign(slope) == np.sign(before), capped, parabola)
        step = np.where(last != 0, np.nan_to_num(far), 0.0)
        step += np.where((last == 0) | steep, -self._rate * slope, 0.0)
        step = np.clip(step, -5.0, 5.0)
        w += step
        self._step, self._slope = step, slope


class Cascade:
    """Starts without hidden units and adds one after another, each the best of a pool, its weights then frozen.

    A hidden unit sees the inputs, all hidden units before it and, through one weight, its own last output; outputs see
    inputs and hidden units. Candidates maximise the covariance of their output with the remaining errors. `learn` is
    one epoch over the sequences it is given, which must be the same ones each time: the whole training set.

    Parameters
    ----------
    rng : numpy.random.Generator
    inputs, outputs : int
    pool : int
        Candidates.
    patience, change : int, float
        A phase ends when in so many epochs its score did not change by this share.
    most : int
        Hidden units.
    rate : float
        Of Quickprop's gradient part, divided by the number of steps.
    """

    epochs = True

    def __init__(self, rng, inputs, outputs, pool=8, patience=12, change=0.01, most=20, rate=1.0):
        self._rng, self._inputs, self._outputs, self._pool = rng, inputs, outputs, pool
        self._patience, self._change, self._most, self._rate = patience, change, most, rate
        self._hidden = []  # (weights of inputs, bias and units before; self-weight)
        self._out = rng.uniform(-0.5, 0.5, (outputs, inputs + 1))
        self._phase, self._scores, self._cache = "outputs", [], None
        self._rule = Quickprop(self._out.shape, rate)

    @property
    def weights(self):
        """Of outputs and hidden units, so far."""
        return self._out.size + sum(w.size + 1 for w, _ in self._hidden)

    def _unit(self, sources, w, loop):
        """Outputs (T, n, k) of k units that see `sources` (T, n, M) and themselves."""
        nets, v, out = sources @ w.T, 0.0, []
        for net in nets:
            v = sigmoid(net + loop * v)
            out.append(v)
        return np.stack(out)

    def _sources(self, batch):
        """Inputs, the bias and the outputs of all hidden units: (T, n, M)."""
        xs = batch.padded(batch.xs).astype(float)
        sources = np.concatenate([xs, np.ones((*xs.shape[:2], 1))], axis=2)
        for w, loop in self._hidden:
            sources = np.concatenate([sources, self._unit(sources, w[None], loop)], axis=2)
        return sources

    def predict(self, batch):
        """The outputs (T, K)."""
        return sigmoid(self._sources(batch) @ self._out.T)[batch.places].astype(np.float32)

    def learn(self, batch):
        """One epoch of the present phase; the outputs (T, K) before."""
        if self._cache is None:
            self._cache = self._sources(batch)
        sources, places = self._cache, batch.places
        ys = sigmoid(sources @ self._out.T)
        error = np.zeros_like(ys)
        error[places] = batch.targets - ys[places]
        if self._phase == "outputs":
            # Fahlman's +0.1 on the derivative gets saturated outputs going again.
            delta = error * (ys * (1 - ys) + 0.1)
            self._rule.step(self._out, -np.einsum("tnk,tnm->km", delta, sources) / len(batch))
            if self._stagnates(float(np.sum(error**2))) and len(self._hidden) < self._most:
                self._phase, self._scores = "candidates", []
                self._w = self._rng.uniform(-0.5, 0.5, (self._pool, sources.shape[2]))
                self._loop = self._rng.uniform(-0.5, 0.5, self._pool)
                self._rules = Quickprop(self._w.shape, self._rate), Quickprop(self._loop.shape, self._rate)
        else:
            self._candidates(sources, error, places)
        return ys[places].astype(np.float32)

    def _stagnates(self, score):
        self._scores.append(score)
        if len(self._scores) <= self._patience:
            return False
        before = self._scores[-1 - self._patience]
        return abs(score - before) < self._change * abs(before)

    def _candidates(self, sources, error, places):
        """One epoch of the pool: S = sum_o |sum_t (V - mean V)(E_o - mean E_o)| is to grow."""
        there = np.zeros(sources.shape[:2])
        there[places] = 1.0
        count = there.sum()
        centred = (error - error.sum(axis=(0, 1)) / count) * there[..., None]
        v = dloop = np.zeros((sources.shape[1], self._pool))
        dw = np.zeros((sources.shape[1], self._pool, sources.shape[2]))
        nets, values, dloops, dws = sources @ self._w.T, [], [], []
        for net, source in zip(nets, sources, strict=True):
            before, v = v, sigmoid(net + self._loop * v)
            slope = v * (1 - v)
            dw = slope[..., None] * (source[:, None, :] + self._loop[:, None] * dw)
            dloop = slope * (before + self._loop * dloop)
            values.append(v)
            dws.append(dw)
            dloops.append(dloop)
        values = np.stack(values)
        covariance = np.einsum("tnp,tno->po", values, centred)
        pull = np.einsum("po,tno->tnp", np.sign(covariance), centred) / len(places[0]) * 10.0
        scores = np.abs(covariance).sum(axis=1)
        gradient = sum(np.einsum("np,npm->pm", a, b) for a, b in zip(pull, dws, strict=True))
        loops = sum((a * b).sum(axis=0) for a, b in zip(pull, dloops, strict=True))
        self._rules[0].step(self._w, -gradient)
        self._rules[1].step(self._loop, -loops)
        if self._stagnates(float(scores.max())) or len(self._scores) > 200:
            best = int(np.argmax(scores))
            self._hidden.append((self._w[best].copy(), self._loop[best].copy()))
            new = -np.sign(covariance[best])[:, None] * 0.1
            self._out = np.concatenate([self._out, -new], axis=1)
            self._phase, self._scores, self._cache = "outputs", [], None
            self._rule = Quickprop(self._out.shape, self._rate)
