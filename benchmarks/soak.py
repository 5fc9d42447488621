"""Ten million learning steps: `python benchmarks/soak.py [--steps N] [--out DIR]`.

A small network learns from an endless stream, and the program ends with an error unless, for each gradient, resident
memory stays flat, all numbers stay finite, and the median and the 99th percentile of the time of a step are at the end
what they are for a fresh learner beside it. Two more learners, in float32 and in float64, run the same stream with
weights that stand still (a network that learns may become chaotic, and then no rounding is small), forget gates open
for up to 1,000 steps, and states and traces of their own from the first step to the last. Their gradients, added up
with a memory of some 1,000 updates as the velocity of `fl.SGD`, must stay close.
"""

import argparse
import json
import os
import sys
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np

import fastlstm as fl

sys.path.insert(0, str(Path(__file__).parent))  # asv imports every module here, from elsewhere
from peers import machine, number, table, versions  # noqa: E402
from peers_training import resident  # noqa: E402

INPUTS, HIDDEN, RATE = 2, 16, 0.02
BLOCK = 2000  # steps
TIMED = 10  # blocks, first and last, in which single steps are timed
SETTLED = 100_000  # steps after which memory must not grow
MODES = [("truncated-rtrl", 1), ("truncated-rtrl", 16), ("carried-bptt", 16)]
MEMORY = 0.999  # of the velocity
ERROR, GROWTH, SLOWER = 1e-4, 1 << 20, 1.1  # most of: relative error, bytes, time over that of a fresh learner


def stream(steps):
    """Blocks of inputs and targets: two noisy waves whose product is asked for, a step later."""
    rng = np.random.default_rng(0)
    for start in range(0, steps, BLOCK):
        t = np.arange(start, start + BLOCK + 1)
        waves = np.stack([np.sin(t * 0.1), np.sin(t * 0.013)], 1)
        x = waves + 0.1 * rng.standard_normal(waves.shape)
        yield x[:-1].astype(np.float32), waves[1:].prod(1, keepdims=True).astype(np.float32)


def network(dtype="float32"):
    return fl.Sequential(fl.LSTM(INPUTS, HIDDEN, dtype=dtype, seed=0), fl.Linear(HIDDEN, 1, dtype=dtype, seed=1))


def learner_of(gradient, chunk):
    net = network()
    return fl.OnlineLearner(net, "mse", fl.SGD(net, RATE), gradient=gradient, chunk=chunk)


def still(gradient, chunk, dtype):
    """A learner whose optimizer gathers gradients in its velocity and moves no weight."""
    net = network(dtype)
    weights = {name: w.astype(np.float32).astype(dtype) for name, w in net.state_dict().items()}  # the same in both
    opening = np.log(np.geomspace(1, 1000, HIDDEN)).astype(np.float32)
    weights["0.bias_ih_l0"][HIDDEN : 2 * HIDDEN] = opening  # rows: input, forget, cell, output
    net.load_state_dict(weights)
    optimizer = fl.SGD(net, 0, momentum=MEMORY)
    return fl.OnlineLearner(net, "mse", optimizer, gradient=gradient, chunk=chunk)


def step_by_step(learner, x, targets, times):
    step = learner.step
    for t in range(len(x)):
        start = perf_counter()
        step(x[t], targets[t])
        times[t] = perf_counter() - start


def soak(gradient, chunk, steps):
    """One learner, a fresh one beside it in the end, and the twins over the stream; the figures."""
    learner, fresh = learner_of(gradient, chunk), learner_of(gradient, chunk)
    twins = [still(gradient, chunk, dtype) for dtype in ("float32", "float64")]
    blocks = steps // BLOCK
    errors, losses = np.zeros(blocks), np.zeros(blocks)
    times = {when: np.ones((TIMED, BLOCK)) for when in ("first", "last", "fresh")}
    memory = {0: resident("VmRSS")}
    for block, (x, targets) in enumerate(stream(steps)):
        ending = block - (blocks - TIMED)
        if block < TIMED:
            step_by_step(learner, x, targets, times["first"][block])
        elif ending >= 0:
            step_by_step(learner, x, targets, times["last"][ending])
            step_by_step(fresh, x, targets, times["fresh"][ending])
        else:
            learner.run(x, targets)
        losses[block] = learner.loss
        for twin in twins:
            twin.run(x.astype(twin.net.dtype), targets.astype(twin.net.dtype))
        single, double = (twin.optimizer.state_dict()["velocity"] for twin in twins)
        errors[block] = np.abs(single - double).max() / np.abs(double).max()
        if (block + 1) * BLOCK in (SETTLED, steps // 2, steps):
            memory[(block + 1) * BLOCK] = resident("VmRSS")
    finite = all(np.isfinite(array).all() for array in (*learner.state[0], learner.net.parameters))
    found = {"gradient": gradient, "chunk": chunk, "steps": steps, "memory": memory, "finite": finite}
    found |= {"loss": [float(losses[block]) for block in (TIMED, -TIMED - 1)], "errors": decades(errors)}
    found["seconds"] = {  # of blocks, the median: whatever else runs on the machine comes and goes
        when: {"median": float(np.median(t)), "p99": float(np.median(np.percentile(t, 99, axis=1)))}
        for when, t in times.items()
    }
    return found


def decades(errors):
    """Median and largest relative error until each power of ten of steps, since the one before."""
    found, start, end = {}, 0, 10_000 // BLOCK
    while start < len(errors):
        found[min(end, len(errors)) * BLOCK] = [float(np.median(errors[start:end])), float(errors[start:end].max())]
        start, end = end, end * 10
    return found


def failures(found):
    """What is not as promised, in words."""
    last, fresh = found["seconds"]["last"], found["seconds"]["fresh"]
    grown = found["memory"][found["steps"]] - found["memory"].get(SETTLED, found["memory"][0])
    return [
        *[f"memory grew by {grown} bytes"] * (grown > GROWTH),
        *["a number is not finite"] * (not found["finite"]),
        *[f"{p} of a step is {last[p] / fresh[p]:.2f} of a fresh one's" for p in last if last[p] > SLOWER * fresh[p]],
        *[f"error {most:.2g} until step {step}" for step, (_, most) in found["errors"].items() if not most <= ERROR],
    ]


def report(results):
    about, runs = results["machine"], results["runs"]

    def name(run):
        return f"{run['gradient']}, chunk={run['chunk']}"

    def pair(times):
        return " / ".join(number(1e6 * times[kind]) for kind in ("median", "p99"))

    memory = [[name(run), *(f"{size / 2**20:.2f}" for size in run["memory"].values())] for run in runs]
    errors = [[name(run), *(f"{middle:.0e} / {most:.0e}" for middle, most in run["errors"].values())] for run in runs]
    times = [[name(run), *(pair(run["seconds"][when]) for when in ("first", "last", "fresh"))] for run in runs]
    times = [
        [*row, " / ".join(f"{run['seconds']['last'][p] / run['seconds']['fresh'][p]:.2f}" for p in ("median", "p99"))]
        for row, run in zip(times, runs, strict=True)
    ]
    losses = ", ".join(f"{name(run)}: {run['loss'][0]:.3f} to {run['loss'][1]:.4f}" for run in runs)
    failed = [f"{name(run)}: {what}" for run in runs for what in failures(run)]
    parts = [
        f"# {runs[0]['steps']:,} learning steps",
        f"`{results['command']}`, {results['date']}. {about['processor']}. fastlstm "
        f"{results['versions'].get('fastlstm', 'from its sources')}, {results['isa']}. Load average: "
        f"{results['load']}. LSTM of {HIDDEN} units and a linear layer, {INPUTS} inputs, SGD.",
        f"Result: {'; '.join(failed) or 'all as promised'}. State and weights finite at the end: "
        f"{all(run['finite'] for run in runs)}. Loss early and late: {losses}.",
        "## Resident memory of the process, MB, after so many steps",
        table(["learner", *(f"{step:,}" for step in runs[0]["memory"])], memory),
        "## Relative difference of the gradients in float32 and float64, median / largest",
        f"In each stretch of steps, up to the one named; at most {ERROR:g} is promised.",
        table(["learner", *(f"to {step:,}" for step in runs[0]["errors"])], errors),
        "## Microseconds of a step called from Python, median / 99th percentile of a block",
        f"Fresh: a learner just made, in turns with the old one; at most {SLOWER:g} times its times are promised.",
        table(["learner", f"first {TIMED * BLOCK:,}", f"last {TIMED * BLOCK:,}", "fresh", "last / fresh"], times),
    ]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000_000, help="of each learner (10,000,000)")
    parser.add_argument("--quick", action="store_true", help="200,000 steps")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write soak.md and soak.json there")
    options = parser.parse_args()
    steps = max(2 * TIMED + 1, (200_000 if options.quick else options.steps) // BLOCK) * BLOCK
    command = f"python benchmarks/soak.py --steps {steps}"
    results = {"command": command, "date": date.today().isoformat(), "load": round(os.getloadavg()[0], 2)}
    results |= {"machine": machine(), "versions": versions(), "isa": fl.build_info()["isa"], "runs": []}
    for gradient, chunk in MODES:
        start = perf_counter()
        results["runs"].append(soak(gradient, chunk, steps))
        print(f"{gradient}, chunk={chunk}: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    page = report(results)
    print(page)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "soak.md").write_text(page)
        (options.out / "soak.json").write_text(json.dumps(results, indent=1))
    if any(map(failures, results["runs"])):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
