"""What one step costs."""

import numpy as np

import fastlstm as fl


class Step:
    """Latency of one `stream.step` call, as many inputs as hidden units, one lane, into a given array."""

    params = [8, 16, 32, 64, 128, 256, 512]
    param_names = ["H"]
    rounds = 4

    def setup(self, H):
        self.stream = fl.LSTM(H, H, seed=0).stream()
        self.x = np.random.default_rng(0).standard_normal(H, dtype=np.float32)
        self.y = np.zeros(H, np.float32)
        for _ in range(100):
            self.stream.step(self.x)

    def time_step(self, H):
        self.stream.step(self.x, out=self.y)

    def time_step_fresh_array(self, H):
        self.stream.step(self.x)


class Lanes:
    """The same with many sequences side by side."""

    params = ([32, 128, 512], [1, 8, 64])
    param_names = ["H", "lanes"]
    rounds = 4

    def setup(self, H, lanes):
        self.stream = fl.LSTM(H, H, seed=0).stream(lanes=lanes)
        self.x = np.random.default_rng(0).standard_normal((lanes, H), dtype=np.float32)
        self.y = np.zeros((lanes, H), np.float32)
        self.stream.step(self.x)

    def time_step(self, H, lanes):
        self.stream.step(self.x, out=self.y)
