"""Experiment 1, the embedded Reber grammar, and its continual form (Gers, Schmidhuber and Cummins 2000)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._stream import StreamTask
from fastlstm.experiments._task import Batch, Check, Published, Task, paper_network

SYMBOLS = "BTPSXVE"
# The Reber automaton: the two ways out of each state (Figure 3), as (symbol, next state); 7 is its end.
WAYS = ["B1 B1", "T2 P3", "S2 X4", "T3 V5", "X3 S6", "P4 V6", "E7 E7"]
SYMBOL = np.array([[SYMBOLS.index(way[0]) for way in ways.split()] for ways in WAYS])
NEXT = np.array([[int(way[1]) for way in ways.split()] for ways in WAYS])
LEGAL = np.array([[symbol in row for symbol in range(7)] for row in SYMBOL])
B, T, P, E = map(SYMBOLS.index, "BTPE")


def strings(rng, n):
    """Draw `n` strings of the embedded Reber grammar: B, T or P, a Reber string, the same T or P, E.

    Returns
    -------
    symbols : (T,) int array
        One string after the other.
    legal : (T, 7) bool array
        Which symbols may follow each; after the last of a string, B.
    lengths : (n,) int array
    """
    outer = rng.choice([T, P], n)
    state, inner, allowed = np.zeros(n, dtype=int), [], []
    while (state < 7).any():
        going = state < 7
        at = np.minimum(state, 6)
        way = rng.integers(0, 2, n)
        inner.append(np.where(going, SYMBOL[at, way], -1))
        allowed.append(np.where(going[:, None], LEGAL[at], False))
        state = np.where(going, NEXT[at, way], 7)
    inner, allowed = np.stack(inner, axis=1), np.stack(allowed, axis=1)
    width = inner.shape[1]
    inner_lengths = (inner >= 0).sum(axis=1)
    one_hot = np.eye(7, dtype=bool)
    symbols = np.full((n, width + 4), -1)
    may = np.zeros((n, width + 5, 7), dtype=bool)  # may stand at this place
    row = np.arange(n)
    symbols[:, 0], symbols[:, 1], symbols[:, 2 : width + 2] = B, outer, inner
    may[:, 1], may[:, 2 : width + 2] = one_hot[T] | one_hot[P], allowed
    symbols[row, inner_lengths + 2], may[row, inner_lengths + 2] = outer, one_hot[outer]
    symbols[row, inner_lengths + 3], may[row, inner_lengths + 3] = E, one_hot[E]
    may[row, inner_lengths + 4] = one_hot[B]
    there = symbols >= 0
    return symbols[there], may[:, 1:][there], inner_lengths + 4


def prediction(symbols, legal, lengths):
    """Strings as a Batch: at each symbol but the last the target is the next one; `extra` are the legal ones."""
    one_hot = np.eye(7, dtype=np.float32)[symbols]
    last = np.zeros(len(symbols), dtype=bool)
    last[np.cumsum(lengths) - 1] = True
    keep = ~last
    return Batch(one_hot[keep], one_hot[np.flatnonzero(keep) + 1], np.cumsum(lengths - 1) - 1, legal[keep])


@dataclass(frozen=True)
class EmbeddedReber(Task):
    """Predict the next symbol at every step; the last but one equals the second, however long ago that was.

    A string is right if at each step the legal symbols are the most active ones.
    """

    experiment: ClassVar[str] = "1"
    about: ClassVar[str] = "embedded Reber grammar: short lags; even conventional nets learn it sometimes"
    inputs: ClassVar[int] = 7
    outputs: ClassVar[int] = 7
    milestones: ClassVar[tuple] = (Check("all right", promising=0.9),)
    steps: ClassVar[int] = 11
    cap: ClassVar[int] = 200_000

    blocks: int = 3
    size: int = 2
    rate: float = 0.5
    best: str = "lstm:hidden=48,lr=0.005,gradient=carried-bptt,update=6"
    testing: Batch | None = None

    def trial(self, seed, number):
        """With 256 strings to train on and 256 others to test: one of three such pairs, as in the paper."""
        rng = np.random.default_rng([seed, number % 3])
        training, pool = prediction(*strings(rng, 256)), prediction(*strings(rng, 8192))
        known = {xs.tobytes() for xs, _ in training}
        new = [k for k, (xs, _) in enumerate(pool) if xs.tobytes() not in known]
        return dataclasses.replace(self, training=training, testing=pool.take(new[:256]))

    def network(self, rng, **changes):
        """Only gates have biases; the output gates' are negative, so that blocks come into use one after another."""
        own = {"blocks": self.blocks, "size": self.size, "init": 0.2, "bias": "gates"}
        return paper_network(rng, 7, 7, **(own | {"ogb": -1.0 - np.arange(self.blocks)} | changes))

    def draw(self, rng, n, test=False):
        """Strings of the training set, with replacement."""
        return self.training.take(rng.integers(0, len(self.training), n))

    def judge(self, batch, ys):
        """A string is right if at every step the least active legal symbol is more active than all others."""
        least = np.where(batch.extra, ys, np.inf).min(axis=1)
        most = np.where(batch.extra, -np.inf, ys).max(axis=1)
        error = np.abs(ys - batch.targets).mean(axis=1)
        mean = np.add.reduceat(error, batch.starts) / batch.lengths
        return np.logical_and.reduceat(least > most, batch.starts), mean

    def passes(self, name, learner, rng):
        """All strings of both sets are right."""
        few = self.testing.part(0, 32)  # soon says no
        return all(self.judge(b, learner.predict(b))[0].all() for b in (few, self.testing, self.training))

    def test(self, learner, rng):
        """Strings of both sets that are wrong."""
        sets = {"training wrong": self.training, "test wrong": self.testing}
        return {name: int(np.sum(~self.judge(b, learner.predict(b))[0])) for name, b in sets.items()}


def _reber(name, size, rate, sequences, success, more=()):
    blocks, weights = (4, 264) if size == 1 else (3, 276)
    paper = (Published("lstm1997", sequences, success), *more)
    title = f"{blocks} blocks of {size}, rate {rate}"
    return EmbeddedReber(name, title, rate, paper, weights, blocks=blocks, size=size)


RIVALS = (
    Published("rtrl:hidden=3,lr=0.05", 173_000, None, label="some fraction"),
    Published("rtrl:hidden=12,lr=0.1", 25_000, None, label="some fraction"),
    Published("elman:hidden=15", None, 0, label="> 200,000"),
    Published("rcc", 182_000, 50),
)
TASKS = (
    _reber("1-1", 1, 0.1, 39_740, 100),
    _reber("1-2", 2, 0.1, 21_730, 100),
    _reber("1-3", 2, 0.2, 14_060, 97),
    _reber("1-4", 1, 0.5, 9_500, 97),
    _reber("1-5", 2, 0.5, 8_440, 100, RIVALS),
)


@dataclass(frozen=True)
class ContinualReber(StreamTask):
    """Strings of the embedded Reber grammar in one stream, without marks or resets.

    Targets are all symbols that may follow: a net that knows no more than they do is never wrong. The original network
    has 49 weights more, from inputs to output units.
    """

    experiment: ClassVar[str] = "cerg"
    about: ClassVar[str] = "continual embedded Reber grammar (Gers et al. 2000): the strings as an endless stream"
    inputs: ClassVar[int] = 7
    outputs: ClassVar[int] = 7
    steps: ClassVar[int] = 12
    cap: ClassVar[int] = 30_000

    promising: int = 100
    forget: tuple | None = None
    external_reset: bool = False
    best: str = "lstm:hidden=16,lr=0.003,gradient=truncated-rtrl,update=step"

    def network(self, rng, **changes):
        """Four blocks of two cells; gates do not feed the hidden layer."""
        steps = np.arange(1, 5) / 2
        own = {"blocks": 4, "size": 2, "init": 0.2, "igb": -steps, "ogb": -steps, "forget": self.forget}
        return paper_network(rng, 7, 7, **(own | {"gate_recurrence": False} | changes))

    def draw(self, rng, n, test=False):
        """`n` strings; the targets of a symbol are those that may follow, of the last one the next string's B."""
        symbols, legal, lengths = strings(rng, n)
        one_hot = np.eye(7, dtype=np.float32)[symbols]
        return Batch(one_hot, legal.astype(np.float32), np.cumsum(lengths) - 1, continual=not self.external_reset)


def _cerg(number, title, forget, **options):
    return ContinualReber(f"cerg-{number}", title, 0.5, weights=424, forget=forget, **options)


FORGET = (0.5, 1.0, 1.5, 2.0)
CONTINUAL = (
    _cerg(1, "standard LSTM, external reset", None, external_reset=True, paper=(Published("lstm1997", 7_441, 74),)),
    _cerg(2, "standard LSTM", None, paper=(Published("lstm1997", None, 0),)),
    _cerg(3, "forget gates", FORGET, paper=(Published("lstm1997", 18_889, 18),)),
    _cerg(4, "forget gates, rate decay", FORGET, paper=(Published("lstm1997:decay=0.99", 14_087, 62),)),
)
