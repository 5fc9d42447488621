"""Learning online beside PyTorch: `python benchmarks/peers_online.py [--quick] [--only REGEX] [--out DIR]`.

One stream, one thread, float32, an LSTM with a linear layer, squared error, SGD. PyTorch learns by truncated
backpropagation over chunks of 16 steps, as `nn.LSTM` and as `nn.LSTMCell`, the better counts; fastlstm by each gradient
of its `OnlineLearner`, and by the forward and backward of its training (`net.forward`, `SGD.step`) over the same
chunks. "At once" is `chunk=1` where it would put off what it writes (csrc/lazy.h), or keep it side by side
(csrc/small.h), without that. All do `STEPS` steps a call, and take turns in one process as in `peers.py`, whose rounds
and limits these are. Weights after the first call are compared where the gradient is the same.

Two more measures: the cost of a step and the resident memory after so many steps, the old learner in turns with a fresh
one; and a roofline (Williams, Waterman and Patterson 2009): how many operations a second, against operations per byte
that must at least be moved, between the limits of the machine in the same run.
"""

import argparse
import gc
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

import fastlstm as fl

sys.path.insert(0, str(Path(__file__).parent))  # asv imports every module here, from elsewhere
from limits import level_buffers  # noqa: E402
from peers import Effort, Engine, charts, find_limits, machine, measure, number, once, ratios, table, timed, versions  # noqa: E402
from peers_training import resident  # noqa: E402

CHUNK = 16  # steps
STEPS = 10 * CHUNK  # steps a call
RATE = 1e-4
TOLERANCE = 1e-4  # of weights' changes, relative
SIZES = [16, 32, 64, 128, 256, 512]
PAPER = {"103 weights": (1, 3, 1, 1), "156 weights": (8, 2, 2, 4)}  # nets of tasks 3 and 6a of 1997
SHARED = [(256, 1), (512, 1), (64, 32), (128, 8)]  # hidden size and lanes of what two threads learn
WAYS = {  # ours: gradient and chunk
    "truncated-rtrl, chunk=1": ("truncated-rtrl", 1),
    "truncated-rtrl": ("truncated-rtrl", CHUNK),
    "carried-bptt": ("carried-bptt", CHUNK),
    "bptt": ("bptt", CHUNK),
}
EACH, CHUNKED, NAIVE, OWN = "truncated-rtrl, chunk=1", "truncated-rtrl", "chunk=1, at once", "forward, backward"
LONG_HIDDEN, LONG_STEPS = 16, [10**3, 10**4, 10**5, 10**6]


@dataclass(frozen=True)
class Target:
    """`figure` of a row, in the network named, and what it should be. Rates are judged by the best round."""

    what: str
    network: str
    figure: object
    wanted: float
    most: bool = False
    rate: bool = False


TARGETS = [
    Target("weight-steps a second, update at every step", "H=64", lambda row: row["weights"], 3e9, rate=True),
    Target("steps a second, update at every step", "103 weights", lambda row: 1, 2e6, rate=True),
    Target("steps a second, update at every step", "156 weights", lambda row: 1, 2e6, rate=True),
    Target("time of chunk=1, at once, over chunk=16", "H=512", lambda row: ratio_of(row, CHUNKED, naive(row)), 4),
    Target("time of chunk=16 over our own bptt", "H=512", lambda row: ratio_of(row, "bptt", CHUNKED), 1.2, True),
    Target("time of PyTorch over chunk=16", "H=64", lambda row: ratio_of(row, CHUNKED, best_peer(row)), 8),
]


# ---- networks ------------------------------------------------------------------------------------------------------


class Problem:
    """A network by name, made anew at will, and its stream."""

    def __init__(self, name):
        self.name, rng = name, np.random.default_rng(0)
        net = self.net()
        self.weights, outputs = net.parameters.size, len(net.layers[-1].bias)
        self.hidden, self.inputs = net.layers[0].hidden_size, net.layers[0].input_size
        self.x = rng.standard_normal((STEPS, self.inputs), dtype=np.float32)
        self.targets = rng.random((STEPS, outputs), dtype=np.float32)

    def net(self):
        if self.name in PAPER:
            inputs, blocks, cells, outputs = PAPER[self.name]
            hidden = fl.LSTM1997(inputs, blocks, cells, seed=0)
            return fl.Sequential(hidden, fl.Linear(blocks * cells, outputs, activation="sigmoid", seed=1))
        hidden = int(self.name.removeprefix("H="))
        return fl.Sequential(fl.LSTM(hidden, hidden, seed=0), fl.Linear(hidden, 1, seed=1))


# ---- fastlstm --------------------------------------------------------------------------------------------------------


def own_call(problem, way):
    """A call that learns `STEPS` steps, and the weights after it by name."""
    net = problem.net()
    gradient, chunk = WAYS[EACH if way == NAIVE else way]
    learner = fl.OnlineLearner(net, "mse", fl.SGD(net, RATE), gradient=gradient, chunk=chunk)
    if way == NAIVE:  # no user's choice
        core = fl._core.StepLearner(
            net._network, net._parameters, fl._core.LOSSES["mse"], learner.optimizer, 1, lazy=False
        )
        learner._core = core
    return partial(learner.run, problem.x, problem.targets), net.state_dict


def has_own_form(problem):
    """Whether `chunk=1` does otherwise than at once."""
    net = problem.net()
    return fl.OnlineLearner(net, "mse", fl.SGD(net, RATE))._core.lazy


def own_training(problem):
    """The same through forward and backward, the state carried from chunk to chunk."""
    net, state = problem.net(), None
    optimizer = fl.SGD(net, RATE)

    def call():
        nonlocal state
        for start in range(0, STEPS, CHUNK):
            chunk = slice(start, start + CHUNK)
            y, state, backward = net.forward(problem.x[chunk], state)
            backward(2 * (y - problem.targets[chunk]) / y.shape[-1], need_dx=False)
            optimizer.step()
            net.zero_grad()

    return call, net.state_dict


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def pytorch_call(problem, cell):
    """Truncated backpropagation through time: nn.LSTM over a chunk, or nn.LSTMCell step by step."""
    import torch

    hidden = problem.hidden
    named = {name.split(".")[1]: torch.from_numpy(w) for name, w in problem.net().state_dict().items()}
    recurrent = {name: w for name, w in named.items() if name.endswith("_l0")}
    if cell:
        lstm = torch.nn.LSTMCell(problem.inputs, hidden)
        recurrent = {name.removesuffix("_l0"): w for name, w in recurrent.items()}
    else:
        lstm = torch.nn.LSTM(problem.inputs, hidden)
    head = torch.nn.Linear(hidden, problem.targets.shape[1])
    lstm.load_state_dict(recurrent)
    head.load_state_dict({name: w for name, w in named.items() if not name.endswith("_l0")})
    optimizer = torch.optim.SGD([*lstm.parameters(), *head.parameters()], RATE, fused=True)
    x, targets = torch.from_numpy(problem.x), torch.from_numpy(problem.targets)
    state = (torch.zeros(1, hidden), torch.zeros(1, hidden))  # layers or lanes first: the same for one of each

    def outputs(inputs):
        nonlocal state
        if not cell:
            h, state = lstm(inputs, state)
            return h
        hs = []
        for now in inputs:
            state = lstm(now[None], state)
            hs.append(state[0])
        return torch.cat(hs)

    def call():
        nonlocal state
        for start in range(0, STEPS, CHUNK):
            optimizer.zero_grad()
            y = head(outputs(x[start : start + CHUNK]))
            loss = (y - targets[start : start + CHUNK]).square().mean(-1).sum()
            loss.backward()
            optimizer.step()
            state = tuple(part.detach() for part in state)

    def weights():
        found = {f"0.{name.removesuffix('_l0')}_l0": p for name, p in lstm.named_parameters()}
        found |= {f"1.{name}": p for name, p in head.named_parameters()}
        return {name: p.detach().numpy().copy() for name, p in found.items()}

    return call, weights


# ---- measuring -------------------------------------------------------------------------------------------------------


def check(problem, made):
    """Raise SystemExit unless truncated backpropagation moved all weights alike in the first call."""
    start = problem.net().state_dict()
    after = {}
    for name, (call, weights) in made.items():
        call()
        after[name] = weights()
    for name in set(after) - {*WAYS, NAIVE}:
        for key, w in after["bptt"].items():
            moved = np.abs(w - start[key]).max()
            error = np.abs(after[name][key] - w).max() / moved
            if not error <= TOLERANCE + 1e-7 / moved:  # weights themselves are rounded
                raise SystemExit(f"{problem.name}: {name} moved {key} otherwise than bptt by {error:.2g}")


def run(name, limits, effort, torch):
    """Check and measure one network: the row that goes into the JSON file."""
    problem = Problem(name)
    made = {way: own_call(problem, way) for way in WAYS} | {OWN: own_training(problem)}
    if has_own_form(problem):
        made[NAIVE] = own_call(problem, NAIVE)
    if torch and name.startswith("H="):
        made |= {"PyTorch": pytorch_call(problem, False), "PyTorch cell": pytorch_call(problem, True)}
    check(problem, made)
    engines = [Engine(way, call) for way, (call, _) in made.items()]
    measures = {"fma": limits.fma} if limits else {}
    gc.collect()
    gc.disable()
    try:
        figures = measure({engine: once(engine) for engine in engines}, measures, effort, 1)
    finally:
        gc.enable()
    row = {"network": name, "weights": problem.weights, "hidden": problem.hidden, "inputs": problem.inputs}
    return row | {"figures": figures}


def seconds_of(row, way):
    """Seconds of a step, median."""
    return median(row["figures"][way]) / STEPS


def ratio_of(row, way, other):
    return ratios(row["figures"], way, other)["median"]


def naive(row):
    """Name of the learner that writes all traces and weights at every step."""
    return NAIVE if NAIVE in row["figures"] else EACH


def best_peer(row):
    """Name of the faster PyTorch, or None."""
    found = [way for way in row["figures"] if way.startswith("PyTorch")]
    return min(found, key=partial(seconds_of, row)) if found else None


def long_run(most):
    """Cost of a step after so many, the old learner in turns with a fresh one, and resident memory."""
    problem = Problem(f"H={LONG_HIDDEN}")
    found = []
    for way in WAYS:
        old, _ = own_call(problem, way)
        done, row = 0, {"way": way, "after": [], "seconds": [], "fresh": [], "memory": []}
        for steps in LONG_STEPS:
            if steps > most:
                break
            while done < steps:
                old()
                done += STEPS
            fresh, _ = own_call(problem, way)
            fresh()
            times = [[timed(call, 4) / STEPS for call in (old, fresh)] for _ in range(40)]
            done += 160 * STEPS
            row["after"].append(steps)
            row["seconds"].append(min(pair[0] for pair in times))
            row["fresh"].append(min(pair[1] for pair in times))
            row["memory"].append(resident("VmRSS"))
        found.append(row)
    return found


def shared_run(rounds):
    """Chunks of 16 steps with one thread and with two, in turns."""
    found = []
    for hidden, lanes in SHARED:
        times = {}
        for way in (CHUNKED, "carried-bptt"):
            net = fl.Sequential(fl.LSTM(hidden, hidden, seed=0), fl.Linear(hidden, 1, seed=1))
            learner = fl.OnlineLearner(net, "mse", fl.SGD(net, RATE), gradient=way, chunk=CHUNK, lanes=lanes)
            rng = np.random.default_rng(0)
            x, targets = (rng.standard_normal((2 * CHUNK, lanes, n), dtype=np.float32) for n in (hidden, 1))
            one, two = [], []
            for _ in range(rounds):
                for threads, figures in ((1, one), (2, two)):
                    fl.set_num_threads(threads)
                    learner.run(x, targets)
                    figures.append(timed(partial(learner.run, x, targets), 1) / len(x))
            fl.set_num_threads(1)
            times[way] = [one, two]
        found.append({"network": f"H={hidden}, {lanes} lane{'s' * (lanes > 1)}", "seconds": times})
    return found


def traffic(row, way):
    """Operations and bytes of a step, at least: what must be read or written if caches hold no more than a chunk.

    In units of H D, where D = I + H: there are 4 weights and 3 traces for each; a multiply-add is two operations.
    Forward: 8 operations, 16 bytes. With traces and an update at each step: 9 to decay and add to them, 8 for gradient
    and weights at once, 24 + 32 bytes read and written; put off, 6 for products with traces, 14 for those that write,
    and 12 + 56 / 16 bytes. Chunks: products, 8 for the gradient and 6 for traces, which are moved once a chunk as the
    weights are. Errors back through h: 8 H / D operations, 16 H / D bytes.
    """
    size, back = row["hidden"] * (row["inputs"] + row["hidden"]), row["hidden"] / (row["inputs"] + row["hidden"])
    operations, moved = {
        NAIVE: (8 + 9 + 8, 16 + 24 + 32),
        EACH: (8 + 6 + 14, 16 + 12 + 56 / 16) if NAIVE in row["figures"] else (8 + 9 + 8, 16 + 24 + 32),
        CHUNKED: (8 + 14 + 20 / CHUNK, 16 + 56 / CHUNK),
        "carried-bptt": (8 + 14 + 20 / CHUNK + 8 * back, 16 + 56 / CHUNK + 16 * back),
        "bptt": (8 + 8 + 8 / CHUNK + 8 * back, 16 + 32 / CHUNK + 16 * back),
    }[way]
    return size * operations, size * moved


# ---- results -------------------------------------------------------------------------------------------------------


def weight_table(rows):
    ways = [*WAYS, NAIVE, OWN, "PyTorch", "PyTorch cell"]
    lines = []
    for row in rows:
        cells = [
            f"{number(1e9 * seconds_of(row, way) / row['weights'])} "
            f"({number(1e9 * min(row['figures'][way]) / STEPS / row['weights'])})"
            if way in row["figures"]
            else "-"
            for way in ways
        ]
        lines.append([row["network"], f"{row['weights']:,}", *cells])
    return table(["network", "weights", *ways], lines)


def ratio_table(rows):
    def pairs(row):
        """What is compared -> the two ways, the second's time over the first's."""
        peer = best_peer(row)
        return {
            "PyTorch / chunk=16": (CHUNKED, peer),
            "PyTorch / carried-bptt": ("carried-bptt", peer),
            "chunk=1 / chunk=16": (CHUNKED, EACH),
            "at once / chunk=16": (CHUNKED, naive(row)),
            "chunk=16 / bptt": ("bptt", CHUNKED),
            "carried-bptt / bptt": ("bptt", "carried-bptt"),
            "chunk=16 / forward, backward": (OWN, CHUNKED),
        }

    lines = [
        [row["network"], *(number(ratio_of(row, ours, other)) if other else "-" for ours, other in pairs(row).values())]
        for row in rows
    ]
    return table(["network", *pairs(rows[0])], lines)


def target_table(rows):
    by_name, lines = {row["network"]: row for row in rows}, []
    for target in TARGETS:
        row = by_name.get(target.network)
        if row is None or ("PyTorch" in target.what and not best_peer(row)):
            continue
        value = target.figure(row)
        found, wanted = number(value), f"{target.wanted:g}"
        if target.rate:
            usual, value = value / seconds_of(row, EACH), value * STEPS / min(row["figures"][EACH])
            found, wanted = f"{value:.2e} at best, {usual:.2e} in the median", f"{target.wanted:.0e}"
        met = value <= target.wanted if target.most else value >= target.wanted
        lines.append([target.what, target.network, found, ("at most " * target.most) + wanted, "yes" if met else "no"])
    return table(["what", "network", "found", "target", "met"], lines)


def speed_table(rows, best):
    """What is reached in operations, and its share of what the machine can do."""
    lines = []
    for row in rows:
        if row["network"].startswith("H="):
            for way in [way for way in [*WAYS, NAIVE] if way in row["figures"]]:
                operations, moved = traffic(row, way)
                seconds = min(row["figures"][way]) / STEPS
                cells = [operations / moved, operations / seconds / 1e9, moved / seconds / 1e9]
                share = f"{100 * cells[1] / best['fma']:.0f} %" if "fma" in best else "-"
                lines.append([row["network"], way, *map(number, cells), share])
    return table(["network", "gradient", "operations per byte", "GFLOP/s", "GB/s", "of the multiply-add peak"], lines)


def shared_table(rows):
    ways = list(rows[0]["seconds"])
    lines = []
    for row in rows:
        cells = []
        for way in ways:
            one, two = row["seconds"][way]
            ratio = median(a / b for a, b in zip(one, two, strict=True))
            cells.append(f"{number(1e6 * median(one))} / {number(1e6 * median(two))}: {ratio:.2f}")
        lines.append([row["network"], *cells])
    return table(["network", *ways], lines)


def long_table(rows):
    head = ["gradient", *(f"after {steps:,}" for steps in rows[0]["after"]), "slowest / fastest", "resident memory, MB"]
    lines = []
    for row in rows:
        cells = [
            f"{number(1e9 * old)} ({old / fresh:.2f})" for old, fresh in zip(row["seconds"], row["fresh"], strict=True)
        ]
        relative = [old / fresh for old, fresh in zip(row["seconds"], row["fresh"], strict=True)]
        memory = " / ".join(f"{size / 2**20:.1f}" for size in row["memory"])
        lines.append([row["way"], *cells, f"{max(relative) / min(relative):.2f}", memory])
    return table(head, lines)


def report(results):
    about, rows, best = results["machine"], results["rows"], results["limits"]
    limits = ", ".join(
        f"{name.replace('fma', 'float32 multiply-add')} {number(value)} {'GFLOP/s' if name == 'fma' else 'GB/s'}"
        for name, value in best.items()
    )
    parts = [
        "# Learning online",
        f"`{results['command']}`, {results['date']}. {about['processor']}, {about['cores']} cores, one used but for "
        "the table of two. "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f". Instruction set of fastlstm: {results['isa']}. Load average before: {results['load']}.",
        "An LSTM with as many inputs as hidden units and a linear layer of one output; 103 and 156 weights: networks "
        f"of tasks 3 and 6a of 1997. SGD, a target at every step, chunks of {CHUNK} steps except for `chunk=1`.",
        "## Nanoseconds per weight and step: median (minimum)",
        weight_table(rows) if rows else "",
        "## Ratios of times, medians over the rounds",
        ratio_table(rows) if rows else "",
        "## Targets",
        target_table(rows) if rows else "",
        "## Between the limits of the machine",
        f"Best measured in the same run: {limits or 'nothing'}. Operations and bytes are counts of what the algorithm "
        "must do and move at least, not of what was counted by the machine; smaller networks move it within a cache.",
        speed_table(rows, best) if rows else "",
    ]
    if results["shared"]:
        parts += [
            "## Two threads",
            f"Microseconds of a step of all lanes, chunks of {CHUNK} steps: with one thread and with two in turns, "
            "medians, and the median ratio. Bits are the same.",
            shared_table(results["shared"]),
        ]
    if results["long"]:
        parts += [
            f"## Nanoseconds of a step after so many steps, H={LONG_HIDDEN}",
            "Minimum; in brackets over that of a fresh learner in turns with it. Resident memory of the process at the "
            "same moments.",
            long_table(results["long"]),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


COLORS = {
    EACH: "#30638e", NAIVE: "#7fb2dd", CHUNKED: "#d1495b", "carried-bptt": "#3c9d6f", "bptt": "#8c5fa8", OWN: "#999999",
    "PyTorch": "#edae49", "PyTorch cell": "#c98a12",
}  # fmt: skip


def draw(results, path):
    """Time against size, and the roofline."""
    pyplot = charts()
    if pyplot is None:
        return
    rows = [row for row in results["rows"] if row["network"].startswith("H=")]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for way, color in COLORS.items():
        points = [
            (row["weights"], 1e9 * seconds_of(row, way) / row["weights"]) for row in rows if way in row["figures"]
        ]
        if points:
            left.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color, label=way)
        if way in {*WAYS, NAIVE}:
            for row in [row for row in rows if way in row["figures"]]:
                operations, moved = traffic(row, way)
                rate = operations / min(row["figures"][way]) * STEPS / 1e9
                right.plot(operations / moved, rate, marker="o", color=color, markersize=2 + row["hidden"] ** 0.4)
    best, reach = results["limits"], np.geomspace(0.1, 10, 50)
    for name, rate in best.items():
        if name == "fma":
            right.axhline(rate, color="black", linewidth=0.8)
            right.annotate("multiply-add", (reach[0], rate), fontsize=7, va="bottom")
        else:
            right.plot(reach, np.minimum(rate * reach, best["fma"]), color="grey", linewidth=0.8)
            right.annotate(name, (reach[0], rate * reach[0]), fontsize=7, rotation=38, va="bottom")
    left.set(xscale="log", yscale="log", xlabel="weights", ylabel="ns per weight and step")
    right.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s", xlim=reach[[0, -1]])
    right.set_title("larger marks: larger networks, H = 16 to 512", fontsize=9)
    for axes in (left, right):
        axes.grid(color="#e5e5e5", linewidth=0.6)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


# ---- the program ---------------------------------------------------------------------------------------------------


def measured_limits(limits, rounds):
    """Best of some rounds: the multiply-add peak, and reads from each level."""
    measures = {"fma": limits.fma} | {f"read from {k}": partial(limits.read, n) for k, n in level_buffers().items()}
    return {name: max(call() for _ in range(rounds)) for name, call in measures.items()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="at most, per network (40)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="networks whose names contain this regex")
    parser.add_argument("--quick", action="store_true", help="a minute instead of minutes, for a first look")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write online.md, .json and .svg there")
    return parser.parse_args()


def command(options):
    """The command line, without the place of the output."""
    words = ["python benchmarks/peers_online.py", f"--rounds {options.rounds}"]
    return " ".join(words + [f"--only '{options.only}'"] * bool(options.only) + ["--quick"] * options.quick)


def main():
    options = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before PyTorch is imported
    fl.set_num_threads(1)
    results = {"command": command(options), "date": date.today().isoformat()}
    results["load"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    results |= {"machine": machine(), "versions": versions(), "isa": fl.build_info()["isa"]}
    results |= {"rows": [], "long": [], "shared": []}
    if re.search(options.only, "long"):  # first, because of what PyTorch takes in memory
        results["long"] = long_run(LONG_STEPS[2] if options.quick else LONG_STEPS[-1])
    if re.search(options.only, "shared") and (os.cpu_count() or 1) > 1:
        results["shared"] = shared_run(6 if options.quick else 60)
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        torch = None
        print("PyTorch is not installed", file=sys.stderr)
    effort = Effort(options.rounds, 20.0, 5, 0.02)
    if options.quick:
        effort = Effort(min(options.rounds, 6), 1.0, 3, 0.005)
    limits = find_limits(1)
    for name in [*PAPER, *(f"H={hidden}" for hidden in SIZES)]:
        if re.search(options.only, name):
            start = perf_counter()
            results["rows"].append(run(name, limits, effort, torch))
            print(f"{name}: {perf_counter() - start:.1f} s", file=sys.stderr)
    results["limits"] = measured_limits(limits, 5 if options.quick else 20) if limits else {}
    if limits:  # the peak of all rounds
        results["limits"]["fma"] = max([results["limits"]["fma"], *(max(r["figures"]["fma"]) for r in results["rows"])])
    page = report(results)
    print(page)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "online.md").write_text(page)
        (options.out / "online.json").write_text(json.dumps(results, indent=1))
        draw(results, options.out / "online.svg")


if __name__ == "__main__":
    main()
