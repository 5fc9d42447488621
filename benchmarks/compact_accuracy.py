"""What compact weights cost in accuracy: outputs of streams with them beside float32, over long sequences.

Trains a few small networks online, then runs them, and larger random ones, over sequences that they have not seen, and
prints a Markdown table of errors relative to the range of the float32 outputs. ``--speed`` times single steps instead.

    python benchmarks/compact_accuracy.py [--seed 0] [--steps 10000] [--speed]
"""

import argparse
import itertools
import statistics
import time

import numpy as np

import fastlstm as fl

FORMATS = ("float16", "int16", "int8")


def sines(r, n):
    """A noisy sum of three sines, and what comes next."""
    t = np.arange(n + 1)
    x = sum(a * np.sin(t * w + r.uniform(0, 6)) for a, w in ((1.0, 0.1), (0.6, 0.37), (0.4, 0.031)))
    x = (x + 0.05 * r.normal(size=n + 1)) / 2
    return x[:-1, None], x[1:, None]


def sunspots(r, n):
    """Cycles of changing length and height, never negative, as the numbers of sunspots have; and what comes next."""
    phase = np.cumsum(2 * np.pi / 130 * (1 + 0.3 * np.sin(np.arange(n + 1) / 900) + 0.2 * r.normal(size=n + 1)))
    height = 1 + 0.5 * np.sin(np.arange(n + 1) / 1700 + 1)
    x = height * np.maximum(np.sin(phase / 2) ** 2 + 0.08 * r.normal(size=n + 1), 0)
    return x[:-1, None], x[1:, None]


def filtered(r, n):
    """A nonlinear filter with a memory of some tens of steps: y = 0.9 y + 0.3 tanh(x_t x_{t-1} + x_{t-2})."""
    x, y = r.uniform(-1, 1, (n, 2)), np.zeros(n)
    for t in range(2, n):
        y[t] = 0.9 * y[t - 1] + 0.3 * np.tanh(2 * x[t, 0] * x[t - 1, 0] + x[t - 2, 1])
    return x, y[:, None]


def latch(r, n):
    """Rare pulses of either sign; the last one is to be remembered: gates saturate."""
    pulse = np.where(r.random(n) < 0.05, r.choice([-1.0, 1.0], n), 0.0)
    pulse[0] = 1.0
    last = np.maximum.accumulate(np.where(pulse != 0, np.arange(n), 0))
    return np.stack([pulse, 0.1 * r.normal(size=n)], axis=1), pulse[last, None]


def trained(task, hidden, layers, lr, r, seed, steps):
    """A network trained online on `steps` steps of the task."""
    x, target = (a.astype(np.float32) for a in task(r, steps))
    net = fl.Sequential(fl.LSTM(x.shape[1], hidden, layers, seed=seed), fl.Linear(hidden, 1, seed=seed + 1))
    learner = fl.OnlineLearner(net, loss="mse", optimizer=fl.SGD(net, lr=lr))
    learner.run(x, target)
    return net


def errors(net, x):
    """(largest, RMS) error of each format, relative to the range of the float32 outputs."""
    exact = net.stream().run(x).astype(float)
    found = []
    for weights in FORMATS:
        off = (net.stream(weights=weights).run(x) - exact) / np.ptp(exact)
        found.append((np.abs(off).max(), np.sqrt((off**2).mean())))
    return found


def accuracy(seed, steps):
    print(f"fastlstm {fl.build_info()['version']} ({fl.build_info()['isa']}), seed {seed}, {steps:,} steps\n")
    print("| network | outputs | " + "".join(f"{name}: largest | RMS | " for name in FORMATS).rstrip())
    print("|---|---|" + "---|---|" * len(FORMATS))
    worst = dict.fromkeys(FORMATS, 0.0)
    tasks = ((sines, 0.03), (sunspots, 0.03), (filtered, 0.05), (latch, 0.05))
    shapes = ((16, 1), (32, 1), (64, 1), (24, 2))
    for (task, lr), (hidden, layers) in itertools.product(tasks, shapes):
        r = np.random.default_rng(seed)
        net = trained(task, hidden, layers, lr / layers, r, seed, 100_000)
        x, target = (a.astype(np.float32) for a in task(r, steps))
        y = net.stream().run(x)
        quality = 1 - ((y - target) ** 2).mean() / target.var()
        what = f"{task.__name__}, H={hidden}" + (f", {layers} layers" if layers > 1 else "")
        report(f"{what}, explains {quality:.0%}", y, errors(net, x), worst)
    for hidden in (64, 128, 256):
        r = np.random.default_rng(seed)
        net = fl.Sequential(fl.LSTM(hidden, hidden, seed=seed), fl.Linear(hidden, 8, seed=seed + 1))
        x = r.normal(size=(steps, hidden)).astype(np.float32)
        report(f"random, I=H={hidden}", net.stream().run(x), errors(net, x), worst)
    print("\nlargest of all: " + ", ".join(f"{name} {100 * worst[name]:.3f} %" for name in FORMATS))


def report(what, y, found, worst):
    for name, (largest, _) in zip(FORMATS, found, strict=True):
        worst[name] = max(worst[name], largest)
    cells = " | ".join(f"{100 * value:.4f} %" for pair in found for value in pair)
    print(f"| {what} | {y.min():.2f} to {y.max():.2f} | {cells} |", flush=True)


def speed():
    print("us per step at batch 1, I = H, best and median of 60 interleaved rounds\n")
    columns = ["float32", *FORMATS]
    print(f"| hidden | {' | '.join(columns)} | run: {' | '.join(columns)} |\n|---|" + "---|---|" * len(columns))
    for hidden in (32, 64, 128, 256, 512, 1024):
        net, x = fl.LSTM(hidden, hidden, seed=0), np.random.default_rng(0).normal(size=(100, hidden)).astype(np.float32)
        streams = [net.stream(weights=weights) for weights in ("float32", *FORMATS)]
        calls = max(3, 4_000_000 // (hidden * hidden))
        times, out = [[] for _ in range(2 * len(streams))], np.empty(hidden, np.float32)
        for round_ in range(60):
            row = x[round_]
            for k, stream in enumerate(streams):
                step = stream.step
                start = time.perf_counter()
                for _ in range(calls):
                    step(row, out)
                times[k].append((time.perf_counter() - start) / calls)
                if round_ % 3 == 0:
                    start = time.perf_counter()
                    stream.run(x)
                    times[len(streams) + k].append((time.perf_counter() - start) / len(x))
        cells = " | ".join(f"{1e6 * min(t):.2f}, {1e6 * statistics.median(t):.2f}" for t in times)
        print(f"| {hidden} | {cells} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    speed() if options.speed else accuracy(options.seed, options.steps)
