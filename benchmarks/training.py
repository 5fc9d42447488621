"""What does a training step cost: by backpropagation through time, per weight and step, and in memory?"""

from timeit import repeat

import numpy as np

import fastlstm as fl


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
        return 1e9 * min(repeat(self.gradient, number=1, repeat=20)) / each


class TwoThreads(Gradient):
    """With two threads."""

    params = (["LSTM"], ["1x100x512", "32x50x32", "32x50x128", "32x50x512"])

    def setup(self, cell, shape):
        fl.set_num_threads(2)
        super().setup(cell, shape)

    def teardown(self, cell, shape):
        fl.set_num_threads(1)


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
