"""What every experiment consists of: sequences, a network, a stop criterion, and the figures to compare with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import fastlstm as fl

BLOCK_STEPS = 30_000  # steps per call into C: some ten milliseconds
BLOCK_NUMBERS = 4_000_000  # most input numbers in a block


@dataclass
class Batch:
    """Sequences, one after the other in one stream.

    Attributes
    ----------
    xs : (T, I) float32 array
        T is the sum of the lengths.
    targets : (T, K) float32 array
        NaN where there is no target.
    ends : (n,) int array
        The index of each sequence's last step.
    extra : (T, ...) array or None
        What else is known of each step: the legal symbols of a grammar.
    continual : bool
        The stream is one; the network is not reset between sequences.
    """

    xs: np.ndarray
    targets: np.ndarray
    ends: np.ndarray
    extra: np.ndarray | None = None
    continual: bool = False

    def __len__(self):
        return len(self.ends)

    @property
    def lengths(self):
        """(n,) int array."""
        return self.ends - self.starts + 1

    @property
    def starts(self):
        """(n,) int array: the index of each sequence's first step; an unfinished one at the end is not among them."""
        return np.concatenate([[0], self.ends[:-1] + 1]) if len(self.ends) else self.ends

    @property
    def reset(self):
        """(T, 1) bool array, true where a sequence begins, be it finished or not; None for a continual stream."""
        if self.continual:
            return None
        reset = np.zeros((len(self.xs) + 1, 1), dtype=bool)
        reset[0] = reset[self.ends + 1] = True
        return reset[:-1]

    @property
    def resets(self):
        """(T,) bool array: as `reset`, nowhere true in a continual stream."""
        return np.zeros(len(self.xs), dtype=bool) if self.continual else self.reset[:, 0]

    def part(self, first, last):
        """Sequences `first` to `last` - 1, as a Batch."""
        starts = self.starts
        steps = slice(starts[first], self.ends[last - 1] + 1) if first < last else slice(0, 0)
        return self._rows(steps, self.ends[first:last] - steps.start)

    def _rows(self, rows, ends):
        extra = None if self.extra is None else self.extra[rows]
        return Batch(self.xs[rows], self.targets[rows], ends, extra, self.continual)

    def __iter__(self):
        """Each sequence as ``(xs, targets)``."""
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield self.xs[start : end + 1], self.targets[start : end + 1]

    @property
    def places(self):
        """``(step, sequence)`` of each row of `xs`, where sequences stand side by side in (T, n, ...) arrays."""
        lengths = self.lengths
        return np.arange(len(self.xs)) - np.repeat(self.starts, lengths), np.repeat(np.arange(len(self)), lengths)

    def padded(self, rows):
        """Rows (T, ...) of a stream as (longest, n, ...), zeros beyond each sequence's end."""
        out = np.zeros((self.lengths.max(initial=0), len(self), *rows.shape[1:]), rows.dtype)
        out[self.places] = rows
        return out

    def steps(self, n):
        """The first `n` steps of the stream, as a Batch; an unfinished sequence has no end."""
        return self._rows(slice(n), self.ends[self.ends < n])

    def take(self, which):
        """The sequences of these indices, in this order, as a Batch."""
        lengths = self.lengths[which]
        ends = np.cumsum(lengths) - 1
        rows = np.arange(ends[-1] + 1) + np.repeat(self.ends[which] - ends, lengths)
        return self._rows(rows, ends)


def off(ys, targets, tolerance):
    """Whether an output (..., K) with a target is off by the tolerance or more, or NaN: (...) bool, as C has it."""
    return (~(np.abs(ys - targets) < np.float32(tolerance)) & ~np.isnan(targets)).any(axis=-1)


def at_the_end(xs, lengths, last):
    """A Batch of sequences in a stream `xs` whose only target, a row of `last` (n, K), stands at the end."""
    ends = np.cumsum(lengths) - 1
    targets = np.full((len(xs), last.shape[1]), np.nan, dtype=np.float32)
    targets[ends] = last
    return Batch(xs, targets, ends)


@dataclass(frozen=True)
class Window:
    """A stop criterion on the training errors: of the latest `size` sequences at most `wrong` were wrong, and their
    mean error was below `mean`. The paper's ST3."""

    name: str
    mean: float = np.inf
    wrong: int = 0
    size: int = 2000

    def met(self, right, mean):
        """The number of sequences after which it is met first, or None; `right`, `mean`: (n,) arrays, in order."""
        if len(right) < self.size:
            return None
        wrong = np.concatenate([[0], np.cumsum(~np.asarray(right, dtype=bool))])
        total = np.concatenate([[0.0], np.cumsum(mean, dtype=np.float64)])
        met = (wrong[self.size :] - wrong[: -self.size] <= self.wrong) & (
            total[self.size :] - total[: -self.size] < self.mean * self.size
        )
        return self.size + int(np.argmax(met)) if met.any() else None


@dataclass(frozen=True)
class Check:
    """A stop criterion on a test: met when `task.passes(name, ...)`, tried every `every` sequences if of these at least
    the share `promising` was right in training (which saves hopeless tests)."""

    name: str
    every: int = 100
    promising: float = 1.0


@dataclass(frozen=True)
class Published:
    """A row of a published table: success in percent, mean sequences to success, test sequences wrong of 2560."""

    method: str
    sequences: float | None
    success: float | None = 100
    wrong: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Task:
    """One row of the paper's Table 10. A subclass is an experiment: it draws sequences and may judge in its own way.

    Attributes
    ----------
    name : str
        Such as "4-1".
    title : str
        Its parameters, for tables.
    rate : float
        The paper's learning rate.
    training : Batch or None
        The training set, if there is one.
    paper : tuple of Published
        The rows of its tables, of all methods.
    weights : int
        Of the paper's network.
    best : str
        The method for the column "at best".
    """

    experiment: ClassVar[str]  # the page it stands on: "1", "2a", ...
    about: ClassVar[str]  # one line
    inputs: ClassVar[int]
    outputs: ClassVar[int]
    tolerance: ClassVar[float]  # a sequence is right if every output is off by less
    milestones: ClassVar[tuple] = ()  # training ends when the last one is met
    cap: ClassVar[int] = 5_000_000  # most training sequences
    test_sequences: ClassVar[int] = 2560
    steps: ClassVar[int] = 100  # about as many in a sequence
    at_the_end: ClassVar[bool] = False  # whether targets stand at the ends of sequences alone

    name: str
    title: str = ""
    rate: float = 0.5
    paper: tuple = ()
    weights: int | None = None
    best: str = "lstm"
    training: Batch | None = None

    def trial(self, seed, number):
        """The task of one trial: itself, or a copy with data of its own."""
        return self

    def network(self, rng, **changes):
        """The paper's network, with weights drawn from `rng`; `changes` for `paper_network`."""
        raise NotImplementedError

    def draw(self, rng, n, test=False):
        """Draw `n` training sequences, or test sequences: a Batch."""
        raise NotImplementedError

    def judge(self, batch, ys):
        """``(right, mean)``, each (n,): whether all outputs were within the tolerance, and the mean absolute error.

        Counted where there are targets. NaN is wrong.
        """
        error = np.abs(ys - batch.targets)
        has = ~np.isnan(batch.targets).any(axis=1)
        if has.sum() == len(batch) and has[batch.ends].all():
            error = error[batch.ends]
            return error.max(axis=1) < self.tolerance, error.mean(axis=1)
        good = np.where(has, error.max(axis=1) < self.tolerance, True)
        right = np.logical_and.reduceat(good, batch.starts)
        total = np.add.reduceat(np.where(has, error.mean(axis=1), 0.0), batch.starts)
        return right, total / np.maximum(np.add.reduceat(has, batch.starts), 1)

    def passes(self, name, learner, rng):
        """Whether the test of the `Check` called `name` is passed."""
        raise NotImplementedError

    def errors(self, learner, rng, n, most_wrong=None):
        """``(right, mean)`` on `n` fresh sequences; ends early, with None, at more than `most_wrong` wrong ones."""
        rights, means, done = [], [], 0
        most = max(1, min(256, BLOCK_NUMBERS // (self.steps * self.inputs)))
        part = most if most_wrong is None else min(16, most)
        while done < n:
            batch = self.draw(rng, min(part, n - done), test=True)
            right, mean = self.judge(batch, learner.predict(batch))
            rights.append(right)
            means.append(mean)
            done, part = done + len(batch), min(2 * part, most)
            if most_wrong is not None and sum(np.sum(~right) for right in rights) > most_wrong:
                return None
        return np.concatenate(rights), np.concatenate(means)

    def test(self, learner, rng):
        """Figures of a trained network on fresh sequences, as the paper's tables have them."""
        right, mean = self.errors(learner, rng, self.test_sequences)
        return {"wrong": int(np.sum(~right)), "error": float(mean.mean())}

    def block(self):
        """Sequences between two looks at the criteria."""
        every = [check.every for check in self.milestones if isinstance(check, Check)]
        size = every[0] if every else max(1, BLOCK_STEPS // self.steps)
        return max(1, min(size, BLOCK_NUMBERS // (self.steps * self.inputs)))

    def train(self, learner, rng, most, progress=None):
        """Train until the last milestone is met, or for `most` sequences.

        Parameters
        ----------
        learner
            With ``learn(batch) -> ys``, ``predict(batch) -> ys``; see `fastlstm.experiments.methods`.
        rng : numpy.random.Generator
        most : int
        progress : callable, optional
            Called with the number of sequences and the mean error of the latest ones; training ends if it returns true.

        Returns
        -------
        result : dict
            ``success``, ``sequences`` (until the last milestone), ``steps`` learnt from, ``milestones`` (name ->
            sequences and test figures) and ``curve`` (sequences, mean error).
        learner
            As it was when the last milestone was met.
        """
        draw, test = rng.spawn(2)
        window = any(isinstance(milestone, Window) for milestone in self.milestones)
        keep = max(m.size - 1 if isinstance(m, Window) else m.every for m in self.milestones)
        left, found, curve = list(self.milestones), {}, Curve()
        rights, means = np.empty(0, dtype=bool), np.empty(0)  # of the latest sequences
        done = steps = 0
        while left and done < most:
            if getattr(learner, "epochs", False):  # one that learns from the same sequences again and again
                batch = self.training
            else:
                batch = self.draw(draw, min(self.block(), most - done))
            n = len(batch)
            before = copy.deepcopy(learner) if window else None
            right, mean = self.judge(batch, learner.learn(batch))
            rights, means = np.concatenate([rights, right]), np.concatenate([means, mean])
            done, steps = done + n, steps + len(batch.xs)
            curve.add(mean)
            for milestone in list(left):
                stop, then = n, learner  # where in this batch it was met, and who met it
                if isinstance(milestone, Window):
                    if (stop := milestone.met(rights, means)) is None:
                        break
                    stop -= len(rights) - n
                    if stop < n:
                        then = copy.deepcopy(before)
                        then.learn(batch.part(0, stop))
                elif (
                    done // milestone.every == (done - n) // milestone.every
                    or rights[-milestone.every :].mean() < milestone.promising
                    or not self.passes(milestone.name, learner, test)
                ):
                    break  # those that follow ask for more
                found[milestone.name] = {"sequences": done - n + stop} | self.test(then, test)
                left.remove(milestone)
                if not left:
                    done, steps, learner = done - n + stop, steps - int(batch.lengths[stop:].sum()), then
            rights, means = rights[-keep:], means[-keep:]
            if not np.isfinite(mean).all() or (progress and progress(done, float(mean.mean()))):  # or it has diverged
                break
        result = {"success": not left, "sequences": done, "steps": steps, "milestones": found}
        if left:
            result |= self.test(learner, test)
        return result | {"curve": curve.points()}, learner


class Curve:
    """A learning curve of at most `most` points: means over equal stretches, which double when there are too many."""

    def __init__(self, most=100):
        self._most, self._every, self._sums, self._values = most, 25, [], np.empty(0)

    def add(self, values):
        """Append one value per sequence."""
        values = np.concatenate([self._values, values])
        whole = len(values) // self._every * self._every
        self._sums += list(values[:whole].reshape(-1, self._every).mean(axis=1))
        self._values = values[whole:]
        while len(self._sums) > self._most:
            half = len(self._sums) // 2
            rest = [self._sums[-1]] * self._every if len(self._sums) % 2 else []
            self._values = np.concatenate([rest, self._values])
            self._sums = list(np.reshape(self._sums[: 2 * half], (half, 2)).mean(axis=1))
            self._every *= 2

    def points(self):
        """List of [sequences, mean]."""
        return [[(k + 1) * self._every, round(float(value), 6)] for k, value in enumerate(self._sums)]


def paper_network(rng, inputs, outputs, blocks, size=1, *, init=0.1, bias="all", igb=None, ogb=None, forget=None,
                  output="sigmoid", **options):  # fmt: skip
    """The paper's network: LSTM1997 under logistic outputs, which read the cells alone.

    Parameters
    ----------
    rng : numpy.random.Generator
    inputs, outputs, blocks, size : int
    init : float
        Weights and biases start uniform in [-init, init].
    bias : "all", "hidden", "gates" or "none"
        Which units have one, as Table 10's "all", "b1", "ga", "none". The engine's cells have biases if its gates
        have; with "gates" they are 0, and `frozen` tells where they stand, so that they can stay so.
    igb, ogb : sequence of `blocks` floats, optional
        Initial biases of input and output gates.
    forget : sequence of `blocks` floats, optional
        Initial biases of forget gates (Gers et al. 2000); None: there are none.
    output : str
        Activation of the output units.
    **options
        For `fastlstm.LSTM1997`.

    Returns
    -------
    net : Sequential
        With attribute `frozen`: indices into ``net.parameters``, empty or those of the cells' biases.
    """
    options = {"bias": "single" if bias != "none" else False, "forget_gate": forget is not None} | options
    lstm = fl.LSTM1997(inputs, blocks, size, init=init, seed=0, **options)
    net = fl.Sequential(lstm, fl.Linear(blocks * size, outputs, bias=bias == "all", activation=output, seed=0))
    weights = net.state_dict()
    for name in sorted(weights):  # sorted: the draw then depends on rng alone
        weights[name] = rng.uniform(-init, init, weights[name].shape).astype(np.float32)
    gates = lstm.input_gate + (lstm.forget_gate and not lstm.coupled_gates)
    first = blocks * gates  # rows: input gates, forget gates, cells, output gates
    if bias != "none":
        b = weights["0.bias_ih_l0"]
        for start, values in ((0, igb), (blocks, forget), (first + blocks * size, ogb)):
            if values is not None:
                b[start : start + blocks] = values
    net.frozen = np.empty(0, dtype=int)
    if bias == "gates":
        b[first : first + blocks * size] = 0
        at = net._shapes["0.bias_ih_l0"][0] + first
        net.frozen = np.arange(at, at + blocks * size)
    net.load_state_dict(weights)
    return net
