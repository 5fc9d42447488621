"""Experiments 4 (adding) and 5 (multiplication)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._task import Published, Task, Window, at_the_end, paper_network


def marked_pairs(rng, n, minimum, low, neutral):
    """Draw the sequences of the adding problem.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
    minimum : int
        T: lengths are uniform in [T, T + T/10].
    low : float
        Values are uniform in [low, 1].
    neutral : float
        What counts as the value of the first pair if it is drawn: its marker stays -1, so that nobody can see it. (The
        paper says so of the first draw and nothing of the second; here it is the same for both.)

    Returns
    -------
    xs : (T, 2) float32 array
        Value and marker: 1 at the two marked pairs, -1 at the first and the last pair, else 0.
    lengths : (n,) int array
    marked : (2, n) float array
        The two marked values.
    """
    lengths = rng.integers(minimum, minimum + minimum // 10 + 1, n)
    ends = np.cumsum(lengths) - 1
    starts = ends - lengths + 1
    xs = np.zeros((ends[-1] + 1, 2), dtype=np.float32)
    xs[:, 0] = rng.uniform(low, 1.0, len(xs))
    first = rng.integers(0, 10, n)  # one of the first ten pairs
    second = rng.integers(0, minimum // 2 - 2, n)  # one of the first T/2 - 1 that are still unmarked
    second += second >= first
    marked = xs[starts + [[first], [second]], 0].reshape(2, n).astype(float)
    marked[np.stack([first, second]) == 0] = neutral
    xs[starts + first, 1] = xs[starts + second, 1] = 1.0
    xs[starts, 1] = xs[ends, 1] = -1.0
    return xs, lengths, marked


@dataclass(frozen=True)
class Adding(Task):
    """Two of many pairs are marked; at the end their sum is due, as a real number: 0.5 + (X1 + X2) / 4."""

    experiment: ClassVar[str] = "4"
    about: ClassVar[str] = "adding: remember two marked real numbers and give their sum"
    inputs: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    weights: int = 93
    at_the_end: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.04
    milestones: ClassVar[tuple] = (Window("ST3(0.01)", mean=0.01),)

    minimum: int = 100
    igb: tuple | None = (-3.0, -6.0)
    low: float = -1.0
    neutral: float = 0.0
    best: str = "lstm1997:optimizer=adam,lr=0.005,output=identity,blocks=4,igb=(-3.0;-4.0;-5.0;-6.0),cool=10000"

    @property
    def steps(self):
        """Mean length."""
        return int(1.05 * self.minimum)

    def network(self, rng, **changes):
        """Two blocks of two cells; all units are biased on purpose, to provoke drifting states."""
        return paper_network(rng, 2, 1, **({"blocks": 2, "size": 2, "igb": self.igb} | changes))

    def target(self, marked):
        """(2, n) values -> (n,) targets."""
        return 0.5 + marked.sum(axis=0) / 4

    def draw(self, rng, n, test=False):
        """Pairs of value and marker; the target at the end."""
        xs, lengths, marked = marked_pairs(rng, n, self.minimum, self.low, self.neutral)
        return at_the_end(xs, lengths, self.target(marked)[:, None])


@dataclass(frozen=True)
class Multiplication(Adding):
    """As `Adding`, with values in [0, 1] and their product: a task to which the net's additions are no help."""

    experiment: ClassVar[str] = "5"
    about: ClassVar[str] = "multiplication: the same with the product"
    milestones: ClassVar[tuple] = (Window("n_seq=140", wrong=139), Window("n_seq=13", wrong=12))

    igb: tuple | None = None
    low: float = 0.0
    neutral: float = 1.0
    rate: float = 0.1
    best: str = "lstm1997:optimizer=adam,lr=0.005,output=identity,igb=(-3.0;-4.0;-5.0;-6.0),blocks=4,cool=20000"

    def target(self, marked):
        """(2, n) values -> (n,) targets."""
        return marked.prod(axis=0)

    def test(self, learner, rng):
        """The paper's "MSE" fits its other figures only as a root: all three are reported."""
        batch = self.draw(rng, self.test_sequences, test=True)
        right, error = self.judge(batch, learner.predict(batch))
        square = float(np.mean(error**2))
        return {"wrong": int(np.sum(~right)), "error": float(error.mean()), "mse": square, "rmse": square**0.5}


TASKS = (
    Adding("4-1", "T = 100", paper=(Published("lstm1997", 74_000, wrong=1),)),
    Adding("4-2", "T = 500", minimum=500, paper=(Published("lstm1997", 209_000, wrong=0),)),
    Adding("4-3", "T = 1000", minimum=1000, paper=(Published("lstm1997", 853_000, wrong=1),)),
    Multiplication(
        "5",
        "T = 100",
        paper=(
            Published("lstm1997", 482_000, wrong=139, label="n_seq=140"),
            Published("lstm1997", 1_273_000, wrong=14, label="n_seq=13"),
        ),
    ),
)
