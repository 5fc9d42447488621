"""What does one step cost, and how steady is it?"""

import gc
from time import perf_counter_ns

import numpy as np

import fastlstm as fl


class OneLane:
    """A stream that has made some steps, with as many inputs as hidden units, its input and a given output."""

    param_names = ["H"]

    def inputs(self, H):
        return H

    def setup(self, H):
        self.stream = fl.LSTM(self.inputs(H), H, seed=0).stream()
        self.x = np.random.default_rng(0).standard_normal(self.inputs(H), dtype=np.float32)
        self.y = np.zeros(H, np.float32)
        for _ in range(100):
            self.stream.step(self.x, out=self.y)


class Step(OneLane):
    """Latency of one `stream.step` call."""

    params = [8, 16, 32, 64, 128, 256, 512, 1024]
    rounds = 4

    def time_step(self, H):
        self.stream.step(self.x, out=self.y)


class AudioStep(Step):
    """The same for the small cells of audio: one input."""

    params = [8, 16, 24, 32, 40]

    def inputs(self, H):
        return 1


class Lanes:
    """One step of many sequences side by side."""

    params = ([32, 128, 512], [8, 64])
    param_names = ["H", "lanes"]
    rounds = 4

    def setup(self, H, lanes):
        self.stream = fl.LSTM(H, H, seed=0).stream(lanes)
        self.x = np.random.default_rng(0).standard_normal((lanes, H), dtype=np.float32)
        self.y = np.zeros((lanes, H), np.float32)
        self.stream.step(self.x)

    def time_step(self, H, lanes):
        self.stream.step(self.x, out=self.y)


class Tail(OneLane):
    """99.9th percentile of a step's time over its median: 20,000 steps, the best of three times."""

    params = [16, 64, 256]
    unit = "ratio"

    def track_tail(self, H):
        return min(self.tail(np.zeros(20_000, np.int64)) for _ in range(3))

    def tail(self, times):
        gc.disable()
        for k in range(len(times)):
            start = perf_counter_ns()
            self.stream.step(self.x, out=self.y)
            times[k] = perf_counter_ns() - start
        gc.enable()
        return np.percentile(times, 99.9) / np.median(times)
