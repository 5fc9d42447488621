"""Experiments 2a, 2b and 2c: long time lags, without noise and with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._shortcut import ShortcutNet
from fastlstm.experiments._task import Batch, Check, Published, Task, at_the_end, paper_network


@dataclass(frozen=True)
class NoiseFree(Task):
    """Two sequences only, y a1 ... a(p-1) y and x a1 ... a(p-1) x: which of them, is told by the first symbol alone.

    The next symbol is to be predicted at every step. A sequence is right if no output is ever off by 0.25.
    """

    experiment: ClassVar[str] = "2"
    about: ClassVar[str] = "long time lags: predict the last symbol, which equals the first"
    tolerance: ClassVar[float] = 0.25
    milestones: ClassVar[tuple] = (Check("10,000 right", every=10),)
    test_sequences: ClassVar[int] = 10_000

    delay: int = 100  # p
    rate: float = 1.0
    best: str = "lstm1997:entropy=True,igb=-3.0,low=-1,patience=20,rate=3.0,update=sequence"

    @property
    def inputs(self):
        """a1, ..., a(p-1), x, y: one-hot."""
        return self.delay + 1

    outputs = inputs

    @property
    def steps(self):
        """Predictions in a sequence."""
        return self.delay

    def network(self, rng, **options):
        """Outputs that read the inputs and one unit, which is added when the error has stopped falling."""
        return ShortcutNet(rng, self.inputs, **({"rate": self.rate} | options))

    def middle(self, rng, n):
        """(n, p - 1) symbols between the first and the last."""
        return np.tile(np.arange(self.delay - 1), (n, 1))

    def draw(self, rng, n, test=False):
        """One-hot symbols and, at each step, the next one."""
        outer = rng.integers(self.delay - 1, self.delay + 1, (n, 1))
        symbols = np.concatenate([outer, self.middle(rng, n), outer], axis=1)
        one_hot = np.eye(self.inputs, dtype=np.float32)
        ends = np.arange(1, n + 1) * self.delay - 1
        return Batch(one_hot[symbols[:, :-1].ravel()], one_hot[symbols[:, 1:].ravel()], ends)

    def judge(self, batch, ys):
        """Right if the counted outputs are never off by more than the tolerance."""
        error = np.abs(ys - batch.targets).reshape(len(batch), self.delay, -1)[:, self.counted]
        return error.max(axis=(1, 2)) < self.tolerance, error.mean(axis=(1, 2))

    counted: ClassVar[slice] = slice(None)

    def passes(self, name, learner, rng):
        """Both sequences are right (so that 10,000 random ones would be)."""
        return self.errors(learner, rng, 16, 0) is not None

    def test(self, learner, rng):
        """10,000 sequences of two kinds: the few that are drawn stand for all."""
        right, mean = self.errors(learner, rng, 16)
        return {"wrong": int(np.sum(~right)), "error": float(mean.mean())}


@dataclass(frozen=True)
class NoRegularities(NoiseFree):
    """As `NoiseFree`, but the middle is random. All elements are to be predicted, and only the last one can be.

    A sequence is right if at its end no output is off by 0.25.
    """

    milestones: ClassVar[tuple] = (Check("10,000 right", every=20),)
    counted: ClassVar[slice] = slice(-1, None)

    best: str = "lstm:hidden=16,lr=0.03,last=True,chrono=1000,gradient=carried-bptt,update=100"

    def middle(self, rng, n):
        """(n, p - 1) symbols between the first and the last."""
        return rng.integers(0, self.delay - 1, (n, self.delay - 1))

    def passes(self, name, learner, rng):
        """10,000 fresh sequences are right."""
        return self.errors(learner, rng, self.test_sequences, 0) is not None

    def test(self, learner, rng):
        """Wrong sequences of 2560, that is of more than nobody has asked for."""
        return Task.test(self, learner, rng)

    test_sequences: ClassVar[int] = 10_000


@dataclass(frozen=True)
class LongLag(Task):
    """b, x or y, at least q random distractors, e, the same x or y: the last is to be predicted, from its beginning."""

    experiment: ClassVar[str] = "2"
    about: ClassVar[str] = NoiseFree.about
    outputs: ClassVar[int] = 2
    at_the_end: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.2
    milestones: ClassVar[tuple] = (Check("10,000 right", every=500, promising=0.99),)
    test_sequences: ClassVar[int] = 10_000

    distractors: int = 50  # p
    lag: int = 50  # q
    rate: float = 0.01
    best: str = "lstm1997:optimizer=adam,lr=0.003,bias=hidden,igb=(-4.0;-4.0)"

    @property
    def inputs(self):
        """a1, ..., ap, e, b, x, y: one-hot."""
        return self.distractors + 4

    @property
    def steps(self):
        """Mean length without the last symbol, which is no input."""
        return self.lag + 12

    def network(self, rng, **changes):
        """Two cells; no biases at all."""
        options = {"blocks": 2, "init": 0.2, "bias": "none"} | changes
        net = paper_network(rng, self.inputs, 2, **options)
        net.narrow = paper_network(np.random.default_rng(0), len(net[0].weight_ih_l0), 2, **options)
        return net

    def symbols(self, rng, n):
        """(T,) symbols up to e; lengths (n,), and (n,) classes: whether x or y is due."""
        p = self.distractors
        lengths = self.lag + rng.geometric(0.1, n) + 2
        ends = np.cumsum(lengths) - 1
        starts = ends - lengths + 1
        symbols = rng.integers(0, p, ends[-1] + 1)
        classes = rng.integers(0, 2, n)
        symbols[ends], symbols[starts], symbols[starts + 1] = p, p + 1, p + 2 + classes
        return symbols, lengths, classes

    def draw(self, rng, n, test=False):
        """One-hot symbols up to e; then x or y is due."""
        symbols, lengths, classes = self.symbols(rng, n)
        xs = np.zeros((len(symbols), self.inputs), dtype=np.float32)
        xs[np.arange(len(symbols)), symbols] = 1.0
        return at_the_end(xs, lengths, np.eye(2)[classes])

    def passes(self, name, learner, rng):
        """10,000 fresh sequences are right."""
        return self.errors(learner, rng, 10_000, 0) is not None

    def errors(self, learner, rng, n, most_wrong=None):
        """As of all tasks; the paper's network gets, instead of a thousand inputs, what its weights make of them."""
        net = getattr(learner, "net", None)
        if not hasattr(net, "narrow"):
            return super().errors(learner, rng, n, most_wrong)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Task.errors(_Spelt(**fields), _Narrow(net), rng, n, most_wrong)


class _Spelt(LongLag):
    """The same sequences, with the numbers of the symbols as inputs."""

    def draw(self, rng, n, test=False):
        symbols, lengths, classes = self.symbols(rng, n)
        return at_the_end(symbols, lengths, np.eye(2)[classes])


class _Narrow:
    """A network whose inputs are the net inputs of another one's gates and cells."""

    def __init__(self, net):
        weights = net.state_dict()
        self._made = np.ascontiguousarray(weights["0.weight_ih_l0"].T)  # of each symbol
        weights["0.weight_ih_l0"] = np.eye(self._made.shape[1], dtype=np.float32)
        self._net = net.narrow
        self._net.load_state_dict(weights)

    def predict(self, batch):
        return self._net(self._made[batch.xs], reset=batch.reset)[0]


def _long(number, q, p, weights, sequences):
    paper = (Published("lstm1997", sequences),)
    return LongLag(f"2c-{number}", f"q = {q}, p = {p}", 0.01, paper, weights, distractors=p, lag=q)


TABLE_2 = (
    Published("lstm1997", 5_040),
    Published("bptt", None, 0, label="> 5,000,000"),
    Published("rtrl", None, 0, label="> 5,000,000"),
    Published("chunker", 32_400, 33),
)
TASKS = (
    NoiseFree(
        "2a-1", "p = 4", 1.0, (Published("rtrl", 1_043_000, 78), Published("rtrl:rate=4", 892_000, 56),
        Published("rtrl:rate=10", 254_000, 22)), 36, delay=4,
    ),
    NoiseFree("2a-2", "p = 10", 1.0, (Published("rtrl", None, 0, label="> 5,000,000"),), 144, delay=10),
    NoiseFree("2a-3", "p = 100", 1.0, TABLE_2, 10504),
    NoRegularities("2b", "p = 100", 1.0, (Published("lstm1997", 5_680),), 10504),
    _long(1, 50, 50, 364, 30_000),
    _long(2, 100, 100, 664, 31_000),
    _long(3, 200, 200, 1264, 33_000),
    _long(4, 500, 500, 3064, 38_000),
    _long(5, 1000, 1000, 6064, 49_000),
    _long(6, 1000, 500, 3064, 49_000),
    _long(7, 1000, 200, 1264, 75_000),
    _long(8, 1000, 100, 664, 135_000),
    _long(9, 1000, 50, 364, 203_000),
)  # fmt: skip
