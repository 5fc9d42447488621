"""What does a whole sequence or batch cost in one call?"""

import numpy as np

import fastlstm as fl


class Sequence:
    """One sequence, as many inputs as hidden units."""

    params = ["1x100x32", "1x100x128", "1x100x256", "1x100x512", "1x100x1024"]
    param_names = ["BxTxH"]
    rounds = 4

    def setup(self, shape):
        lanes, steps, hidden = map(int, shape.split("x"))
        self.layer = fl.LSTM(hidden, hidden, seed=0)
        self.x = np.random.default_rng(0).standard_normal((steps, lanes, hidden), dtype=np.float32)
        self.layer(self.x)

    def time_layer(self, shape):
        self.layer(self.x)


class Batch(Sequence):
    """The same for many sequences at once."""

    params = ["8x100x32", "8x100x128", "8x100x512", "32x50x32", "32x50x128", "32x50x256", "32x50x512", "32x50x1024"]
    params += ["256x20x128", "256x20x512"]


class AudioCell:
    """One second of audio through one LSTM and a linear output: one input, one sequence, 48,000 steps."""

    params = [1, 8, 16, 24, 32, 40]
    param_names = ["H"]

    def setup(self, H):
        self.stream = fl.Sequential(fl.LSTM(1, H, seed=0), fl.Linear(H, 1, seed=1)).stream()
        self.xs = np.random.default_rng(0).standard_normal((48_000, 1), dtype=np.float32)
        self.stream.run(self.xs[:1000])

    def time_run(self, H):
        self.stream.run(self.xs)
