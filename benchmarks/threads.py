"""What do more threads save: the engine's own, and those of a program with a stream each?"""

import os
import threading
from time import perf_counter

import numpy as np

import fastlstm as fl


class Threads:
    """One call with one and with two threads."""

    params = (
        ["1x100x128", "1x100x256", "1x100x512", "8x100x32", "8x100x128", "32x50x128", "32x50x512", "256x20x128"],
        [1, 2],
    )
    param_names = ["BxTxH", "threads"]
    rounds = 4

    def setup(self, shape, threads):
        if threads > (os.cpu_count() or 1):
            raise NotImplementedError("not so many processors here")
        lanes, steps, hidden = map(int, shape.split("x"))
        self.layer = fl.LSTM(hidden, hidden, seed=0)
        self.x = np.random.default_rng(0).standard_normal((steps, lanes, hidden), dtype=np.float32)
        fl.set_num_threads(threads)
        self.layer(self.x)

    def teardown(self, shape, threads):
        fl.set_num_threads(1)

    def time_layer(self, shape, threads):
        self.layer(self.x)


class SideBySide:
    """Two Python threads with a stream each: time of both at once over that of one after the other; 0.5 is ideal."""

    params = [32, 128]
    param_names = ["H"]
    unit = "ratio"

    def setup(self, H):
        layer = fl.LSTM(H, H, seed=0)
        self.streams = [layer.stream() for _ in range(2)]
        self.xs = np.random.default_rng(0).standard_normal((1_500_000 // H, H), dtype=np.float32)

    def seconds(self, *groups):
        start = perf_counter()
        for group in groups:
            workers = [threading.Thread(target=stream.run, args=(self.xs,)) for stream in group]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        return perf_counter() - start

    def track_ratio(self, H):
        a, b = self.streams
        return min(self.seconds([a, b]) / self.seconds([a], [b]) for _ in range(5))
