"""Experiments 3a, 3b and 3c: noise and signal on one input channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._task import Check, Published, Task, at_the_end, paper_network

STD = 0.2**0.5  # the paper's "variance 0.2"
TARGET_STD = 0.1**0.5


@dataclass(frozen=True)
class TwoSequences(Task):
    """The first N of 100 or 1000 inputs tell the class (1 or -1); all others are Gaussian noise on the same channel."""

    experiment: ClassVar[str] = "3"
    about: ClassVar[str] = "noise and signal on one channel: classify by the first inputs alone"
    inputs: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    weights: int = 102
    at_the_end: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.2
    milestones: ClassVar[tuple] = (Check("ST1", every=1000, promising=0.9), Check("ST2", every=1000, promising=0.9))
    limits: ClassVar[dict] = {"ST1": (0, np.inf), "ST2": (0, 0.01)}  # of 256: most wrong, mean error below
    values: ClassVar[tuple] = (0.0, 1.0)  # targets of the classes -1 and 1

    minimum: int = 100
    informative: int = 3
    rate: float = 1.0
    best: str = "lstm1997:optimizer=adam,lr=0.01"

    @property
    def steps(self):
        """Mean length."""
        return int(1.05 * self.minimum)

    def network(self, rng, **changes):
        """Three cells; the output unit has no bias."""
        own = {"blocks": 3, "bias": "hidden", "igb": (-1.0, -3.0, -5.0), "ogb": (-2.0, -4.0, -6.0)}
        return paper_network(rng, 1, 1, **(own | changes))

    def signal(self, rng, signs):
        """(n,) signs -> (n, N) informative inputs."""
        return np.repeat(signs[:, None], self.informative, axis=1)

    def draw(self, rng, n, test=False):
        """One real number per step; the class at the end."""
        lengths = rng.integers(self.minimum, self.minimum + self.minimum // 10 + 1, n)
        ends = np.cumsum(lengths) - 1
        starts = ends - lengths + 1
        xs = STD * rng.standard_normal((ends[-1] + 1, 1), dtype=np.float32)
        classes = rng.integers(0, 2, n)
        xs[starts[:, None] + np.arange(self.informative), 0] = self.signal(rng, 2.0 * classes - 1)
        return at_the_end(xs, lengths, np.asarray(self.values)[classes][:, None])

    def passes(self, name, learner, rng):
        """Few of 256 test sequences are wrong, and the mean error is small."""
        most_wrong, mean = self.limits[name]
        errors = self.errors(learner, rng, 256, most_wrong)
        return errors is not None and errors[1].mean() < mean


@dataclass(frozen=True)
class NoisySignal(TwoSequences):
    """The informative inputs are noisy too: some sequences can't be told apart."""

    milestones: ClassVar[tuple] = (Check("ST1", every=1000, promising=0.9), Check("ST2", every=1000, promising=0.9))
    limits: ClassVar[dict] = {"ST1": (5, np.inf), "ST2": (5, 0.04)}

    def signal(self, rng, signs):
        """(n,) signs -> (n, N) informative inputs."""
        clean = super().signal(rng, signs)
        return clean + STD * rng.standard_normal(clean.shape)


@dataclass(frozen=True)
class NoisyTarget(TwoSequences):
    """The targets, 0.2 and 0.8, are noisy: what is to be learnt is their expectation."""

    tolerance: ClassVar[float] = 0.1
    milestones: ClassVar[tuple] = (Check("stop", every=1000, promising=0.0),)
    limits: ClassVar[dict] = {"stop": (0, 0.015)}
    values: ClassVar[tuple] = (0.8, 0.2)
    rate: float = 0.1
    best: str = "lstm1997:optimizer=adam,lr=0.003"

    def draw(self, rng, n, test=False):
        """As `TwoSequences`; in training, with noisy targets."""
        batch = super().draw(rng, n)
        if not test:
            batch.targets += TARGET_STD * rng.standard_normal(batch.targets.shape)  # NaN stays
        return batch


def _published(st1, st2, fraction):
    rows = (Published("lstm1997", st1, wrong=None, label="ST1"),) if st1 else ()
    return (*rows, Published("lstm1997", st2, wrong=round(2560 * fraction, 1), label="ST2" if st1 else "stop"))


SLOW = (  # input gates almost closed, since 1000 inputs are noise; and twice the cells
    "lstm1997:optimizer=adam,lr={},blocks=6,igb=(-4.0;-4.0;-5.0;-5.0;-6.0;-6.0),ogb=(-1.0;-1.0;-1.0;-1.0;-1.0;-1.0)"
)
TASKS = (
    TwoSequences("3a-1", "T = 100, N = 3", paper=_published(27_380, 39_850, 0.000195)),
    TwoSequences("3a-2", "T = 100, N = 1", informative=1, paper=_published(58_370, 64_330, 0.000117)),
    TwoSequences(
        "3a-3", "T = 1000, N = 3", minimum=1000, best=SLOW.format(0.003), paper=_published(446_850, 452_460, 0.000078)
    ),
    NoisySignal("3b-1", "T = 100, N = 3", paper=_published(41_740, 43_250, 0.00828)),
    NoisySignal("3b-2", "T = 100, N = 1", informative=1, paper=_published(74_950, 78_430, 0.01500)),
    NoisySignal(
        "3b-3",
        "T = 1000, N = 1",
        minimum=1000,
        informative=1,
        best=SLOW.format(0.001),
        paper=_published(481_060, 485_080, 0.01207),
    ),
    NoisyTarget("3c-1", "T = 100, N = 3", paper=_published(None, 269_650, 0.00558)),
    NoisyTarget("3c-2", "T = 100, N = 1", informative=1, paper=_published(None, 565_640, 0.00441)),
)
