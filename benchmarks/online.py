"""What learning while running costs, by gradient: squared error, SGD; and beside it, training over the same chunks."""

from time import perf_counter

import numpy as np

import fastlstm as fl

STEPS = 192
RATE = 1e-3
WAYS = {  # gradient and chunk
    "chunk=1": ("truncated-rtrl", 1),
    "chunk=16": ("truncated-rtrl", 16),
    "episode": ("truncated-rtrl", "episode"),
    "carried-bptt": ("carried-bptt", 16),
    "bptt": ("bptt", 16),
}
TRAINING = "forward, backward"  # over chunks of 16 steps


def network(size):
    """As many inputs as hidden units; or that of task 6a of 1997, with 156 weights."""
    if size == "1997":
        return fl.Sequential(fl.LSTM1997(8, 2, 2, seed=0), fl.Linear(4, 4, activation="sigmoid", seed=1))
    return fl.Sequential(fl.LSTM(size, size, seed=0), fl.Linear(size, 1, seed=1))


def learner_and_data(size, steps, way="chunk=1"):
    net, rng = network(size), np.random.default_rng(0)
    x = rng.standard_normal((steps, net.layers[0].input_size), dtype=np.float32)
    targets = rng.random((steps, len(net.layers[-1].bias)), dtype=np.float32)
    if way == TRAINING:
        return Training(net), x, targets
    gradient, chunk = WAYS[way]
    return fl.OnlineLearner(net, "mse", fl.SGD(net, RATE), gradient=gradient, chunk=chunk), x, targets


class Training:
    """Truncated backpropagation by the functions of training, the state carried from chunk to chunk."""

    def __init__(self, net):
        self.net, self.optimizer, self.state = net, fl.SGD(net, RATE), None

    def run(self, xs, targets):
        for start in range(0, len(xs), 16):
            y, self.state, backward = self.net.forward(xs[start : start + 16], self.state)
            backward(2 * (y - targets[start : start + 16]) / y.shape[-1], need_dx=False)
            self.optimizer.step()
            self.net.zero_grad()


class Learn:
    """Nanoseconds per weight and step, in calls of 192 steps."""

    params = (["1997", 16, 32, 64, 128, 256, 512], [*WAYS, TRAINING])
    param_names = ["H", "way"]
    unit = "ns"

    def setup(self, size, way):
        self.learner, self.xs, self.targets = learner_and_data(size, STEPS, way)
        self.learner.run(self.xs, self.targets)

    def track_per_weight_step(self, size, way):
        times = []
        for _ in range(15):
            start = perf_counter()
            self.learner.run(self.xs, self.targets)
            if way == "episode":
                self.learner.apply()
            times.append(perf_counter() - start)
        return 1e9 * min(times) / (STEPS * self.learner.net.parameters.size)


class LearnStep:
    """One learning step per call from Python."""

    params = [1, 8, 32, 128]
    param_names = ["H"]

    def setup(self, size):
        self.learner, xs, targets = learner_and_data(size, 1)
        self.x, self.target = xs[0], targets[0]
        self.learner.step(self.x, self.target)

    def time_step(self, size):
        self.learner.step(self.x, self.target)


class LearnLong:
    """Cost of a step and peak memory must not depend on how many steps have gone before."""

    params = ([1_000, 10_000, 100_000, 1_000_000], ["chunk=1", "chunk=16", "carried-bptt", "bptt"])
    param_names = ["steps", "way"]
    timeout = 600

    def setup(self, steps, way):
        self.learner, self.xs, self.targets = learner_and_data(16, 1_000, way)
        for _ in range(steps // 1_000):
            self.learner.run(self.xs, self.targets)

    def time_thousand_more(self, steps, way):
        self.learner.run(self.xs, self.targets)

    def peakmem_after(self, steps, way):
        self.learner.run(self.xs, self.targets)
