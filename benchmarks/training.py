"""What does a training step cost: by backpropagation through time, per weight and step, and in memory?"""

import subprocess
import sys
import timeit  # not its names: asv would take `repeat` for a setting of every benchmark here
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

import fastlstm as fl

ROOT = Path(__file__).resolve().parent.parent


def network(cell, shape):
    """A layer with as many inputs as hidden units, and inputs for it."""
    if not hasattr(fl, cell) or not hasattr(fl.LSTM, "forward"):
        raise NotImplementedError(f"no {cell} that can be trained in this version")
    lanes, steps, hidden = map(int, shape.split("x"))
    layer = getattr(fl, cell)(hidden, hidden, seed=0)
    return layer, np.random.default_rng(0).standard_normal((steps, lanes, hidden), dtype=np.float32)


class Step:
    """Forward and backward, weights packed anew as after an optimizer's step."""

    param_names = ["cell", "BxTxH"]
    rounds = 4

    def setup(self, cell, shape):
        self.layer, self.x = network(cell, shape)
        self.gradient()

    def gradient(self):
        self.layer._parameters.changed()
        y, _, backward = self.layer.forward(self.x)
        backward(y, need_dx=False)


class Gradient(Step):
    """Time of a step."""

    params = (
        ["LSTM", "GRU"],
        ["1x100x32", "1x100x128", "1x100x512", "32x50x32", "32x50x128", "32x50x512", "128x50x128"],
    )

    def time_gradient(self, cell, shape):
        self.gradient()


class GradientPerWeight(Step):
    """Time of a step by weight, step of the sequence, and lane."""

    params = (["LSTM"], ["1x100x32", "1x100x128", "32x50x32", "32x50x128"])
    unit = "ns"

    def track_nanoseconds(self, cell, shape):
        each = self.layer.parameters.size * self.x.shape[0] * self.x.shape[1]
        return 1e9 * min(timeit.repeat(self.gradient, number=1, repeat=20)) / each


class TwoThreads(Gradient):
    """With two threads."""

    params = (["LSTM"], ["1x100x512", "32x50x32", "32x50x128", "32x50x512"])

    def setup(self, cell, shape):
        fl.set_num_threads(2)
        super().setup(cell, shape)

    def teardown(self, cell, shape):
        fl.set_num_threads(1)


VARIANTS = {
    "no input gate": {"input_gate": False},
    "no forget gate": {"forget_gate": False},
    "no output gate": {"output_gate": False},
    "coupled gates": {"coupled_gates": True},
    "peepholes": {"peepholes": True},
    "clip": {"clip": 1.0},
    "no g": {"input_activation": "identity"},
    "no h": {"output_activation": "identity"},
    "hard sigmoid": {"gate_activation": "hard_sigmoid"},
    "gate recurrence": {"gate_recurrence": True},
    "blocks of 4": {"block_size": 4},
    "projection": {"proj_size": 64},
    "recurrent dropout": {"recurrent_dropout": 0.2},
    "zoneout": {"zoneout": (0.1, 0.1)},
}


class Variants:
    """Time of a variant of the LSTM over that of the plain one of the same size, in turns; the median."""

    params = (list(VARIANTS), ["call", "gradient"])
    param_names = ["variant", "what"]

    def setup(self, variant, what):
        try:
            self.layers = [fl.LSTM(128, 128, seed=0, **options) for options in ({}, VARIANTS[variant])]
        except TypeError as error:
            raise NotImplementedError(error) from error
        self.x = np.random.default_rng(0).standard_normal((50, 32, 128), dtype=np.float32)

    def track_ratio(self, variant, what):
        plain, other = (partial(getattr(self, what), layer) for layer in self.layers)
        rounds = [[min(timeit.repeat(call, number=1, repeat=2)) for call in (plain, other)] for _ in range(20)]
        return median(b / a for a, b in rounds)

    def call(self, layer):
        layer(self.x)

    def gradient(self, layer):
        y, _, backward = layer.forward(self.x)
        backward(y, need_dx=False)


class OneHot:
    """Time with one-hot inputs over that with any others, 256 units, 32 lanes of 50 steps, in turns; the median."""

    params = ([40, 80, 256], ["call", "gradient"])
    param_names = ["I", "what"]
    call, gradient = Variants.call, Variants.gradient

    def setup(self, I, what):
        self.layer = fl.LSTM(I, 256, seed=0)
        rng = np.random.default_rng(0)
        self.others = rng.standard_normal((50, 32, I), dtype=np.float32)
        self.symbols = np.eye(I, dtype=np.float32)[rng.integers(0, I, (50, 32))]

    def track_ratio(self, I, what):
        def seconds(x):
            self.x = x
            return min(timeit.repeat(partial(getattr(self, what), self.layer), number=1, repeat=2))

        return median(seconds(self.symbols) / seconds(self.others) for _ in range(20))


class CharacterModel:
    """A step of a language model with 80 characters, 32 lanes of 64: forward, loss, backward, Adam, clipped or not."""

    params = ([64, 256], [None, 1.0])
    param_names = ["H", "clip_norm"]
    rounds = 4

    def setup(self, H, clip_norm):
        if not hasattr(fl, "Adam"):
            raise NotImplementedError("no optimizers in this version")
        text = np.random.default_rng(0).integers(0, 80, (65, 32))
        self.x, self.targets = np.eye(80, dtype=np.float32)[text[:-1]], text[1:].copy()
        self.net = fl.Sequential(fl.LSTM(80, H, seed=0), fl.Linear(H, 80, seed=1))
        self.optimizer = fl.Adam(self.net, clip_norm=clip_norm)
        self.time_step(H, clip_norm)

    def time_step(self, H, clip_norm):
        self.net.zero_grad()
        y, _, backward = self.net.forward(self.x)
        _, dy = fl.losses.cross_entropy(y, self.targets)
        backward(dy, need_dx=False)
        self.optimizer.step()


class TrainingMemory:
    """Peak memory of a process that trains: what a step keeps grows with the steps, about 7 H numbers each."""

    params = [10, 100, 1000]
    param_names = ["steps"]

    def setup(self, steps):
        self.layer, self.x = network("LSTM", f"32x{steps}x128")

    def peakmem_gradient(self, steps):
        for _ in range(2):
            y, _, backward = self.layer.forward(self.x)
            backward(y, need_dx=False)


class Recompute:
    """A step with long sequences that keeps everything, or runs spans again: time, and what a process grows by."""

    params = [None, True, 100]
    param_names = ["recompute"]
    timeout = 300

    def setup(self, recompute):
        self.net = fl.Sequential(fl.LSTM(64, 256, seed=0), fl.Linear(256, 16, seed=1))
        self.x = np.random.default_rng(0).standard_normal((1000, 32, 64), dtype=np.float32)

    def time_step(self, recompute):
        y, _, backward = self.net.forward(self.x, recompute=recompute)
        backward(y, need_dx=False)

    def track_memory(self, recompute):
        if not Path("/proc/self/status").exists():
            raise NotImplementedError("reads /proc")
        code = (
            "from benchmarks.training import Recompute; b = Recompute(); b.setup(None);"
            "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) << 10; before = peak();"
            f"b.time_step({recompute}); print(peak() - before)"
        )
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT).stdout)

    track_memory.unit = "bytes"


class Fit:
    """Epochs of `fit` on 200 sequences of 10 to 60 steps, 16 at a time: batches, loss, optimizer and all."""

    params = [8, 64]
    param_names = ["H"]

    def setup(self, H):
        r = np.random.default_rng(0)
        self.x = [r.standard_normal((n, 8), dtype=np.float32) for n in r.integers(10, 61, 200)]
        self.y = r.integers(0, 5, 200)
        self.net = fl.Sequential(fl.LSTM(8, H, seed=0), fl.Linear(H, 5, seed=1))
        self.adam = fl.Adam(self.net, 0.001, clip_norm=1.0)

    def time_epochs(self, H):
        fl.fit(self.net, self.x, self.y, loss="cross_entropy", optimizer=self.adam, epochs=3, batch_size=16,
               progress=False, seed=0)  # fmt: skip
