"""What do sequences of different lengths, and episodes within them, cost?"""

import numpy as np

import fastlstm as fl


class Ragged:
    """As many valid steps three times: a full batch, a padded one with `lengths`, and a list of sequences.

    Lengths are uniform in 1..T.
    """

    params = (["32x100x64", "32x100x128", "128x100x64"], ["full", "lengths", "list"])
    param_names = ["BxTxH", "form"]
    rounds = 4

    def setup(self, shape, form):
        lanes, steps, hidden = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        self.layer, self.lengths = fl.LSTM(hidden, hidden, seed=0), None
        lengths = rng.integers(1, steps + 1, lanes)
        lengths[0] += -lengths.sum() % lanes  # a full batch can have as many; one sequence may be longer than T
        x = rng.standard_normal((lengths.max(), lanes, hidden), dtype=np.float32)
        if form == "full":
            self.x = x[: lengths.sum() // lanes].copy()
        elif form == "lengths":
            self.x, self.lengths = x, lengths
        else:
            self.x = [x[:n, b].copy() for b, n in enumerate(lengths)]
        self.layer(self.x, lengths=self.lengths)

    def time_layer(self, shape, form):
        self.layer(self.x, lengths=self.lengths)


class Episodes:
    """A mask with an episode's start at one step in twenty of each sequence, beside no mask."""

    params = (["1x100x64", "8x100x64", "32x100x64", "32x100x128"], ["none", "mask"])
    param_names = ["BxTxH", "reset"]
    rounds = 4

    def setup(self, shape, reset):
        lanes, steps, hidden = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        self.layer = fl.LSTM(hidden, hidden, seed=0)
        self.x = rng.standard_normal((steps, lanes, hidden), dtype=np.float32)
        self.reset = rng.random((steps, lanes)) < 0.05 if reset == "mask" else None
        self.layer(self.x, reset=self.reset)

    def time_layer(self, shape, reset):
        self.layer(self.x, reset=self.reset)
