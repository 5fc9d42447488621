"""Ten million learning steps: `python benchmarks/soak.py [--steps N] [--out DIR]`.

A small network learns from an endless stream, and the program ends with an error unless, for each gradient, resident
memory stays flat, all numbers stay finite, the median and the 99th percentile of the time of a step are at the end what
they are for a fresh learner beside it, and what float32 learns stays close to what a twin in float64 learns. The twin
starts every block of steps with the weights of the first, but its states and traces are its own from the first step to
the last; compared is the change of all weights over a block, which is the gradient that was used, summed up. With a
chunk as long as a block it is one gradient; with shorter ones the two learn apart until the next block, and differ more
where learning itself is unsteady.
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
BLOCK = 2000  # steps, whole chunks: a twin whose weights are set within a chunk ends it there
TIMED = 10  # blocks, first and last, in which single steps are timed
SETTLED = 100_000  # steps after which memory must not grow
MODES = [("truncated-rtrl", 1), ("truncated-rtrl", 16), ("truncated-rtrl", BLOCK), ("carried-bptt", 16)]
ERROR, APART = 1e-4, 2e-2  # most of relative error: of one gradient, and after a block of learning apart
GROWTH, SLOWER = 1 << 20, 1.1  # most of: bytes, time over that of a fresh learner


def stream(steps):
    """Blocks of inputs and targets: two noisy waves whose product is asked for, a step later."""
    rng = np.random.default_rng(0)
    for start in range(0, steps, BLOCK):
        t = np.arange(start, start + BLOCK + 1)
        waves = np.stack([np.sin(t * 0.1), np.sin(t * 0.013)], 1)
        x = waves + 0.1 * rng.standard_normal(waves.shape)
        yield x[:-1].astype(np.float32), waves[1:].prod(1, keepdims=True).astype(np.float32)


def learner_of(gradient, chunk, dtype):
    net = fl.Sequential(fl.LSTM(INPUTS, HIDDEN, dtype=dtype, seed=0), fl.Linear(HIDDEN, 1, dtype=dtype, seed=1))
    rate = RATE / max(1, chunk / 16)  # a chunk's gradient is a sum over its steps
    return fl.OnlineLearner(net, "mse", fl.SGD(net, rate), gradient=gradient, chunk=chunk)


def follow(twin, learner):
    """The twin takes the learner's weights; its state and traces stay."""
    twin.net.load_state_dict({name: w.astype(np.float64) for name, w in learner.net.state_dict().items()})


def step_by_step(learner, x, targets, times):
    step = learner.step
    for t in range(len(x)):
        start = perf_counter()
        step(x[t], targets[t])
        times[t] = perf_counter() - start


def soak(gradient, chunk, steps):
    """One learner and its twin over the stream; the figures."""
    learner, twin = learner_of(gradient, chunk, "float32"), learner_of(gradient, chunk, "float64")
    fresh = learner_of(gradient, chunk, "float32")
    blocks = steps // BLOCK
    errors, losses = np.zeros(blocks), np.zeros(blocks)
    times = {when: np.ones((TIMED, BLOCK)) for when in ("first", "last", "fresh")}
    memory = {0: resident("VmRSS")}
    for block, (x, targets) in enumerate(stream(steps)):
        follow(twin, learner)
        before = learner.net.parameters.astype(np.float64)
        ending = block - (blocks - TIMED)
        if block < TIMED:
            step_by_step(learner, x, targets, times["first"][block])
        elif ending >= 0:
            step_by_step(learner, x, targets, times["last"][ending])
            step_by_step(fresh, x, targets, times["fresh"][ending])
        else:
            learner.run(x, targets)
        losses[block] = learner.loss
        twin.run(x.astype(np.float64), targets.astype(np.float64))
        moved = learner.net.parameters - before, twin.net.parameters - before
        errors[block] = np.abs(moved[0] - moved[1]).max() / np.abs(moved[1]).max()
        if (block + 1) * BLOCK in (SETTLED, steps // 2, steps):
            memory[(block + 1) * BLOCK] = resident("VmRSS")
    finite = all(np.isfinite(array).all() for array in (*learner.state[0], learner.net.parameters))
    found = {"gradient": gradient, "chunk": chunk, "steps": steps, "memory": memory, "finite": finite}
    found |= {"loss": [float(losses[block]) for block in (TIMED, -TIMED - 1)], "errors": decades(errors)}
    found["seconds"] = {
        when: {"median": float(np.median(t)), "p99": float(np.percentile(t, 99))} for when, t in times.items()
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
    bound = ERROR if found["chunk"] == BLOCK else APART
    return [
        *[f"memory grew by {grown} bytes"] * (grown > GROWTH),
        *["a number is not finite"] * (not found["finite"]),
        *[f"{p} of a step is {last[p] / fresh[p]:.2f} of a fresh one's" for p in last if last[p] > SLOWER * fresh[p]],
        *[f"error {most:.2g} until step {step}" for step, (_, most) in found["errors"].items() if not most <= bound],
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
        f"## Relative difference of float32 and float64, of the weights' change over {BLOCK:,} steps, median / largest",
        f"In each stretch of steps, up to the one named. Promised: at most {ERROR:g} where chunk={BLOCK}, which is one "
        f"gradient; at most {APART:g} elsewhere, where the twins learn apart for {BLOCK:,} steps.",
        table(["learner", *(f"to {step:,}" for step in runs[0]["errors"])], errors),
        "## Microseconds of a step called from Python, median / 99th percentile",
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
