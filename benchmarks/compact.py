"""What do compact weights save? Beside `step.Step` and `sequence.Sequence`, which have float32."""

import numpy as np

import fastlstm as fl


class Compact:
    """One step, and 100 steps in one call, of one lane with as many inputs as hidden units."""

    params = ([128, 256, 512, 1024], ["float16", "int16", "int8"])
    param_names = ["H", "weights"]
    rounds = 4

    def setup(self, H, weights):
        try:
            self.stream = fl.LSTM(H, H, seed=0).stream(weights=weights)
        except ValueError as error:
            raise NotImplementedError(f"no {weights} weights in this version") from error
        self.xs = np.random.default_rng(0).standard_normal((100, H), dtype=np.float32)
        self.x, self.y = self.xs[0].copy(), np.zeros(H, np.float32)
        self.stream.run(self.xs)

    def time_step(self, H, weights):
        self.stream.step(self.x, out=self.y)

    def time_run(self, H, weights):
        self.stream.run(self.xs)
