"""What learning while running costs: truncated RTRL, squared error, SGD."""

from time import perf_counter

import numpy as np

import fastlstm as fl

STEPS = 200


def learner_and_data(H, steps, chunk=1):
    net = fl.Sequential(fl.LSTM(H, H, seed=0), fl.Linear(H, 1, seed=1))
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((steps, H), dtype=np.float32)
    targets = rng.standard_normal((steps, 1), dtype=np.float32)
    optimizer = fl.SGD(net, lr=0.01)
    return fl.OnlineLearner(net, loss="mse", optimizer=optimizer, chunk=chunk), xs, targets, net.parameters.size


class Learn:
    """200 learning steps in one call; the same as nanoseconds per weight and step."""

    params = ([8, 16, 32, 64, 128, 256], [1, 16])
    param_names = ["H", "chunk"]
    rounds = 4

    def setup(self, H, chunk):
        self.learner, self.xs, self.targets, self.weights = learner_and_data(H, STEPS, chunk)
        self.learner.run(self.xs, self.targets)

    def time_run(self, H, chunk):
        self.learner.run(self.xs, self.targets)

    def track_ns_per_weight_step(self, H, chunk):
        times = []
        for _ in range(7):
            start = perf_counter()
            self.learner.run(self.xs, self.targets)
            times.append(perf_counter() - start)
        return 1e9 * min(times) / (STEPS * self.weights)

    track_ns_per_weight_step.unit = "ns"


class LearnStep:
    """One learning step per call from Python."""

    params = [1, 8, 32, 128]
    param_names = ["H"]

    def setup(self, H):
        self.learner, xs, targets, _ = learner_and_data(H, 1)
        self.x, self.target = xs[0], targets[0]
        self.learner.step(self.x, self.target)

    def time_step(self, H):
        self.learner.step(self.x, self.target)


class LearnLong:
    """Cost per step and peak memory must not depend on how many steps have gone before."""

    params = [1_000, 10_000, 100_000]
    param_names = ["steps"]
    timeout = 300

    def setup(self, steps):
        self.learner, self.xs, self.targets, _ = learner_and_data(16, 1_000)
        for _ in range(steps // 1_000):
            self.learner.run(self.xs, self.targets)

    def time_thousand_more(self, steps):
        self.learner.run(self.xs, self.targets)

    def peakmem_after(self, steps):
        self.learner.run(self.xs, self.targets)
