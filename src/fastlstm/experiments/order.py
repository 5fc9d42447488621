"""Experiments 6a and 6b: temporal order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._stream import StreamTask
from fastlstm.experiments._task import Published, Task, Window, at_the_end, paper_network

SYMBOLS = "EBabcdXY"  # E starts a sequence, B ends it, a to d carry nothing


def symbols(rng, n, windows):
    """Draw the symbols of `n` sequences of length 100 to 110.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
    windows : sequence of (first, last)
        In each, at a random place, stands an X or a Y. Places count from 1, with E the first: only then are there
        at least 40 steps from the second X or Y (60 at most) to the end (100 at least), as the paper says.

    Returns
    -------
    symbols : (T,) int array
        Indices into `SYMBOLS`, one sequence after the other.
    lengths, classes : (n,) int arrays
        The class is the number whose binary digits are the X (0) and Y (1).
    """
    lengths = rng.integers(100, 111, n)
    ends = np.cumsum(lengths) - 1
    starts = ends - lengths + 1
    drawn = rng.integers(2, 6, ends[-1] + 1)
    drawn[starts], drawn[ends] = 0, 1
    bits = rng.integers(0, 2, (len(windows), n))
    for (first, last), bit in zip(windows, bits, strict=True):
        drawn[starts + rng.integers(first, last + 1, n) - 1] = 6 + bit
    classes = np.zeros(n, dtype=int)
    for bit in bits:
        classes = 2 * classes + bit
    return drawn, lengths, classes


@dataclass(frozen=True)
class TemporalOrder(Task):
    """Which of X and Y came first, second (and third), among distractors, told some 30 to 60 steps later."""

    experiment: ClassVar[str] = "6"
    about: ClassVar[str] = "temporal order: classify by the order of two or three widely separated symbols"
    inputs: ClassVar[int] = 8
    at_the_end: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.3
    milestones: ClassVar[tuple] = (Window("ST3(0.1)", mean=0.1),)
    steps: ClassVar[int] = 105
    cap: ClassVar[int] = 3_000_000

    windows: tuple = ((10, 20), (50, 60))
    igb: tuple = (-2.0, -4.0)
    rate: float = 0.5
    weights: int = 156
    best: str = "lstm1997:optimizer=adam,lr=0.005"

    @property
    def outputs(self):
        """One for each class."""
        return 2 ** len(self.windows)

    def network(self, rng, **changes):
        """Blocks of two cells, one for each symbol that matters."""
        return paper_network(rng, 8, self.outputs, **({"blocks": len(self.igb), "size": 2, "igb": self.igb} | changes))

    def draw(self, rng, n, test=False):
        """One-hot symbols; one-hot classes at the end."""
        drawn, lengths, classes = symbols(rng, n, self.windows)
        return at_the_end(np.eye(8, dtype=np.float32)[drawn], lengths, np.eye(self.outputs)[classes])


@dataclass(frozen=True)
class ContinualOrder(StreamTask):
    """6b as one stream of 100 sequences without marks or resets. Targets stand at the sequences' ends alone.

    Training streams are followed to their end: if they ended with the first wrong prediction, a net would at first see
    one target of each, and the original's 18,077 streams were too few to learn 6b itself.
    """

    experiment: ClassVar[str] = "cnto"
    about: ClassVar[str] = "continual noisy temporal order (Gers et al. 2000): 6b as a stream without resets"
    inputs: ClassVar[int] = 8
    outputs: ClassVar[int] = 8
    steps: ClassVar[int] = 105
    unit: ClassVar[str] = "sequences"
    whole: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.3
    windows: ClassVar[tuple] = ((10, 20), (33, 43), (66, 76))
    cap: ClassVar[int] = 100_000

    length: int = 100
    test_length: int = 100
    promising: int = 50
    forget: tuple | None = None
    best: str = "lstm:hidden=24,lr=0.005,forget=3.0,gradient=carried-bptt,update=111"

    def network(self, rng, **changes):
        """6b's network, here with forget gates."""
        own = {"blocks": 3, "size": 2, "igb": (-2.0, -4.0, -6.0), "forget": self.forget}
        return paper_network(rng, 8, 8, **(own | changes))

    def draw(self, rng, n, test=False):
        """As `TemporalOrder.draw`."""
        drawn, lengths, classes = symbols(rng, n, self.windows)
        batch = at_the_end(np.eye(8, dtype=np.float32)[drawn], lengths, np.eye(8)[classes])
        return dataclasses.replace(batch, continual=True)


TASKS = (
    TemporalOrder("6a", "two symbols, 4 classes", paper=(Published("lstm1997", 31_390, wrong=1),)),
    TemporalOrder(
        "6b",
        "three symbols, 8 classes",
        rate=0.1,
        windows=((10, 20), (33, 43), (66, 76)),
        igb=(-2.0, -4.0, -6.0),
        weights=308,
        best="lstm:hidden=24,lr=0.005,forget=3.0",
        paper=(Published("lstm1997", 571_100, wrong=2),),
    ),
)

CONTINUAL = (
    ContinualOrder(
        "cnto-1", "standard LSTM", rate=0.1, weights=308, paper=(Published("lstm1997", None, 0, label="partial <4.6>"),)
    ),
    ContinualOrder(
        "cnto-2", "forget gates", rate=0.1, forget=(5.0, 5.0, 5.0), paper=(Published("lstm1997", 18_077, 24),)
    ),
)
