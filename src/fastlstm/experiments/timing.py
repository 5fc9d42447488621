"""Timing tasks of Gers, Schraudolph and Schmidhuber (2002): measuring and generating intervals with one cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import fastlstm as fl
from fastlstm.experiments._stream import StreamTask
from fastlstm.experiments._task import Batch, Published


@dataclass(frozen=True)
class Timing(StreamTask):
    """One input, one cell with peepholes and without squashing, one output: 17 weights that count steps."""

    experiment: ClassVar[str] = "timing"
    about: ClassVar[str] = "timing (Gers et al. 2002): measure intervals, generate them, and periodic functions"
    inputs: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    unit: ClassVar[str] = "sequences"
    output: ClassVar[str | None] = "sigmoid"
    cap: ClassVar[int] = 10_000_000
    steps: ClassVar[int] = 11

    period: int = 10  # F
    intervals: tuple = (0, 1)  # I is one of them
    reset: bool = False
    momentum: float = 0.9999
    rate: float = 1e-5
    weights: int = 17
    length: int = 100
    test_length: int = 1000
    every: int = 10
    promising: int = 10
    best: str = "lstm:hidden=16,lr=0.003,gradient=carried-bptt,update=10"

    def network(self, rng, igb=0.0, forget=2.0, ogb=-2.0, **changes):
        """Gates see the cell's state; g and h are the identity. `igb`, `forget`, `ogb`: the gates' biases at first."""
        cell = {"peepholes": True, "input_activation": "identity", "output_activation": "identity", "bias": "single"}
        net = fl.Sequential(fl.LSTM(1, 1, seed=0, **(cell | changes)), fl.Linear(1, 1, activation=self.output, seed=0))
        weights = net.state_dict()
        for name in sorted(weights):
            weights[name] = rng.uniform(-0.1, 0.1, weights[name].shape).astype(np.float32)
        weights["0.bias_ih_l0"][[0, 1, 3]] = igb, forget, ogb
        net.load_state_dict(weights)
        return net

    def draw(self, rng, n, test=False):
        """Intervals of F + I steps, each ended by a spike; there, I is due, and before it 0."""
        intervals = rng.choice(self.intervals, n)
        ends = np.cumsum(self.period + intervals) - 1
        xs, targets = np.zeros((2, ends[-1] + 1, 1), dtype=np.float32)
        xs[ends, 0], targets[ends, 0] = 1.0, intervals
        return Batch(xs, targets, ends, continual=not self.reset)


@dataclass(frozen=True)
class Generate(Timing):
    """The reverse: I is given at the beginning of an interval, and at its end a spike is due."""

    def draw(self, rng, n, test=False):
        """Intervals of F + I steps."""
        intervals = rng.choice(self.intervals, n)
        ends = np.cumsum(self.period + intervals) - 1
        xs, targets = np.zeros((2, ends[-1] + 1, 1), dtype=np.float32)
        xs[ends - self.period - intervals + 1, 0], targets[ends, 0] = intervals, 1.0
        return Batch(xs, targets, ends, continual=True)


@dataclass(frozen=True)
class Periodic(Timing):
    """No input: the output is to be a periodic function. A sequence is a period."""

    tolerance: ClassVar[float] = 0.3
    output: ClassVar[str | None] = None

    shape: str = "cos"
    momentum: float = 0.99
    best: str = "lstm:hidden=8,lr=0.003,gradient=carried-bptt,update=10"

    def function(self):
        """One period, (F,)."""
        t = np.arange(self.period) / self.period
        shapes = {
            "cos": (1 - np.cos(2 * np.pi * t)) / 2,
            "triangle": 1 - np.abs(2 * t - 1),
            "rectangle": (t >= 0.5) * 1.0,
        }
        return shapes[self.shape].astype(np.float32)

    def draw(self, rng, n, test=False):
        """`n` periods."""
        targets = np.tile(self.function(), n)[:, None]
        return Batch(np.zeros_like(targets), targets, np.arange(1, n + 1) * self.period - 1, continual=True)


class Closer(Periodic):
    """Within half the tolerance."""

    tolerance: ClassVar[float] = 0.15


TASKS = (
    Timing("msd", "intervals of 10 or 11 steps, one after the other"),
    Timing("nmsd", "single intervals of 10 or 11 steps", reset=True, momentum=0.99),
    Generate("gts", "spikes 10 or 11 steps apart", momentum=0.999),
    Periodic("pfg-1", "cosine, period 10", paper=(Published("lstm1997", None, None, label="solved"),)),
    Periodic("pfg-2", "cosine, period 25", period=25, paper=(Published("lstm1997", None, None, label="RMSE 0.17"),)),
    Periodic("pfg-3", "triangle, period 10", shape="triangle"),
    Periodic("pfg-4", "rectangle, period 10", shape="rectangle"),
    Closer(
        "pfg-5",
        "cosine, period 25, within 0.15",
        period=25,
        paper=(Published("lstm1997", 2_704_000, None, label="RMSE 0.086"),),
    ),
)
