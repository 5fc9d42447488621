"""Training beside PyTorch: `python benchmarks/peers_training.py [--threads N] [--only REGEX] [--out DIR]`.

Backpropagation through time in float32: forward, backward and the gradients of all weights, not of the inputs; and
whole steps of a character language model, with loss and optimizer. Same weights, same data, same number of threads;
gradients are compared before anything is timed. Both take turns in one process as in `peers.py`, whose rounds and
limits these are; PyTorch's products of matrices alone, of the same sizes, are timed beside them. Peak memory is that
of fresh processes, one for each engine and workload.
"""

import argparse
import gc
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

import fastlstm as fl

sys.path.insert(0, str(Path(__file__).parent))  # asv imports every module here, from elsewhere
from peers import (  # noqa: E402
    ACTIVATION,
    FLOOR_HEAD,
    FLOOR_TEXT,
    ROWS_AHEAD,
    Effort,
    Engine,
    caches_of,
    cell,
    charts,
    find_limits,
    floor_cells,
    floor_of,
    heading,
    measure,
    measure_of,
    number,
    once,
    parser,
    peak_share,
    product_of,
    publish,
    ratios,
    set_threads,
    step_stages,
    table,
    times_of,
)

# ---- what is measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """`target`: PyTorch's time over ours, one thread. `classes`: a language model of so many characters, with Adam."""

    cell: str
    lanes: int
    steps: int
    hidden: int
    target: float
    inputs: int = 0
    classes: int = 0
    clip_norm: float = 0.0

    @property
    def n_inputs(self):
        return self.classes or self.inputs or self.hidden

    @property
    def name(self):
        size = f"B={self.lanes} T={self.steps} H={self.hidden}" + f" I={self.n_inputs}" * bool(self.inputs)
        if not self.classes:
            return f"{self.cell} {size}"
        return f"characters {size}, Adam" + ", clip_norm" * bool(self.clip_norm)

    @property
    def net_inputs(self):
        return {"LSTM": 4, "GRU": 3}[self.cell] * self.hidden

    @property
    def rows(self):
        return self.lanes * self.steps

    @property
    def products(self):
        """Products of matrices, (rows, sources, outputs): how many.

        Net inputs, errors of h, gradients; a last layer has them all. A character is one input of 1: nothing is to be
        multiplied. Nor with the first h, which is 0, and its error is not wanted.
        """
        hidden, wide, lanes, rows, steps = self.hidden, self.net_inputs, self.lanes, self.rows, self.steps - 1
        found = {(lanes, hidden, wide): steps, (lanes, wide, hidden): steps, (wide, rows - lanes, hidden): 1}
        inputs, classes = self.n_inputs, self.classes
        if classes:
            return found | {(rows, hidden, classes): 1, (rows, classes, hidden): 1, (classes, rows, hidden): 1}
        return Counter(found) + Counter([(rows, inputs, wide), (wide, rows, inputs)])

    @property
    def operations(self):
        """Floating-point operations of the products."""
        return sum(2 * times * n * k * m for (n, k, m), times in self.products.items())

    def needs(self):
        """What a step needs at least, as `needs` in peers.py has it; a sequence alone reads weights at each step, and
        all else may be done meanwhile.
        """
        activations = 2 * ACTIVATION * {"LSTM": 5, "GRU": 3}[self.cell] * self.hidden * self.rows
        recurrent, steps = self.net_inputs * self.hidden, 2 * (self.steps - 1)  # forward and back
        products = 2 * recurrent * steps * self.lanes
        if self.lanes > 1:
            stages = [{product_of(ROWS_AHEAD, self.hidden, self.net_inputs): self.operations - products}]
            stages += [{product_of(self.lanes, self.hidden, self.net_inputs): products}, {"fma": activations}]
        else:
            stages = step_stages(self.hidden, 4 * recurrent, steps, {"fma": self.operations + activations})
        return [{name: count / 1e9 for name, count in stage.items()} for stage in stages]


WORKLOADS = [
    Workload("LSTM", 1, 100, 32, 8),
    Workload("LSTM", 1, 100, 128, 2.5),
    Workload("LSTM", 1, 100, 512, 1.5),
    Workload("LSTM", 32, 50, 32, 4),
    Workload("LSTM", 32, 50, 128, 2),
    Workload("LSTM", 32, 50, 256, 1.5),
    Workload("LSTM", 32, 50, 512, 1.4),
    Workload("LSTM", 128, 50, 128, 1.8),
    Workload("LSTM", 128, 50, 512, 1.4),
    Workload("GRU", 24, 60, 64, 6, inputs=88),
    Workload("GRU", 1, 64, 256, 6),
    Workload("LSTM", 32, 64, 256, 1.6, classes=80),
    Workload("LSTM", 32, 64, 256, 1.6, classes=80, clip_norm=1.0),
]
HALF = 0.5  # of PyTorch's peak memory
TOLERANCE = 1e-4
WARM_UP, MEASURED = 2, 3  # steps, when memory is measured


class Problem:
    """Weights by name, inputs, and errors of the outputs or the next characters."""

    def __init__(self, work):
        rng = np.random.default_rng(0)
        self.work = work
        self.layer = getattr(fl, work.cell)(work.n_inputs, work.hidden, seed=0)
        self.head = fl.Linear(work.hidden, work.classes, seed=1) if work.classes else None
        self.weights = self.layer.state_dict()
        shape = (work.steps, work.lanes)
        if work.classes:
            text = rng.integers(0, work.classes, (work.steps + 1, work.lanes))
            self.x = np.eye(work.classes, dtype=np.float32)[text[:-1]]
            self.targets = text[1:].copy()
        else:
            self.x = rng.standard_normal((*shape, work.n_inputs), dtype=np.float32)
            self.dy = rng.standard_normal((*shape, work.hidden), dtype=np.float32)


# ---- the two engines -----------------------------------------------------------------------------------------------


def own_call(problem):
    """A training step; returns all gradients of the recurrent layer by name."""
    work, layer = problem.work, problem.layer
    if not work.classes:

        def call():
            layer.zero_grad()
            layer._parameters.changed()  # as after an optimizer's step: weights are packed anew
            _, _, backward = layer.forward(problem.x)
            backward(problem.dy, need_dx=False, need_dstate=False)
            return layer.gradients

        return call
    net = fl.Sequential(layer, problem.head)
    optimizer = fl.Adam(net, 1e-3, clip_norm=work.clip_norm or None)
    loss = fl.losses.cross_entropy

    def step():
        net.zero_grad()
        y, _, backward = net.forward(problem.x)
        _, dy = loss(y, problem.targets)
        backward(dy, need_dx=False, need_dstate=False)
        optimizer.step()
        return layer.gradients

    return step


def pytorch_call(problem):
    import torch

    work = problem.work
    net = getattr(torch.nn, work.cell)(work.n_inputs, work.hidden)
    net.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in problem.weights.items()})

    def gradients():
        return {name: p.grad.numpy() for name, p in net.named_parameters()}

    x = torch.from_numpy(problem.x)
    if not work.classes:
        dy = torch.from_numpy(problem.dy)

        def call():
            net.zero_grad()
            y, _ = net(x)
            y.backward(dy)
            return gradients

        return call
    head = torch.nn.Linear(work.hidden, work.classes)
    head.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in problem.head.state_dict().items()})
    targets = torch.from_numpy(problem.targets).flatten()
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)

    def step():
        optimizer.zero_grad()
        y, _ = net(x)
        torch.nn.functional.cross_entropy(head(y).flatten(0, 1), targets).backward()
        if work.clip_norm:
            torch.nn.utils.clip_grad_norm_(parameters, work.clip_norm)
        optimizer.step()
        return gradients

    return step


def pytorch_products(work):
    """The products of a training step and nothing else, each from the same operands into the same result every time."""
    import torch

    made = []
    for (rows, sources, outputs), times in work.products.items():
        gradient = sources in (work.rows, work.rows - work.lanes)  # its left side lies row by row of the batch
        left = torch.randn(sources, rows).t() if gradient else torch.randn(rows, sources)
        made.append((left, torch.randn(sources, outputs), torch.empty(rows, outputs), times))

    def call():
        for left, right, out, times in made:
            for _ in range(times):
                torch.mm(left, right, out=out)

    return call


def check(work, ours, theirs):
    """Raise SystemExit unless the gradients of a first step agree."""
    got, wanted = ours()(), theirs()()
    for name, a in wanted.items():
        error = np.abs(got[name] - a).max() / np.abs(a).max()
        if not error <= TOLERANCE:
            raise SystemExit(f"{work.name}: gradient of {name} differs from PyTorch's by {error:.2g}")


# ---- peak memory of fresh processes --------------------------------------------------------------------------------


def resident(field):
    """Bytes from /proc/self/status: VmRSS now, or VmHWM at most so far."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def memory_of(engine, number):
    """In a process of its own: bytes after imports and making the network, and at most in some steps."""
    problem = Problem(WORKLOADS[number])
    call = {"fastlstm": own_call, "PyTorch": pytorch_call}[engine](problem)
    before = resident("VmRSS")
    for _ in range(WARM_UP + MEASURED):
        call()
    print(json.dumps({"before": before, "peak": resident("VmHWM")}))


def memory(work, threads):
    """Engine -> bytes of its fresh process, or None where the system does not tell them."""
    if not Path("/proc/self/status").exists():
        return None
    found = {}
    for engine in ("fastlstm", "PyTorch"):
        command = [sys.executable, __file__, "--threads", str(threads), "--memory", engine, str(WORKLOADS.index(work))]
        found[engine] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[engine]["step"] = found[engine]["peak"] - found[engine]["before"]
    return found


# ---- results -------------------------------------------------------------------------------------------------------


def run(work, limits, effort, threads):
    """Check and measure one workload; the row that goes into the JSON file."""
    problem = Problem(work)
    ours, theirs = own_call(problem), pytorch_call(problem)
    fl.set_num_threads(threads)
    check(work, ours, theirs)
    names = {"fastlstm": ours, "PyTorch": theirs}
    engines = [Engine(name, call, partial(fl.set_num_threads, threads)) for name, call in names.items()]
    engines.append(Engine("products", pytorch_products(work)))
    if threads > 1:
        alone = own_call(Problem(work))
        engines.append(Engine("1 thread", alone, partial(fl.set_num_threads, 1)))
    bounds = sorted({name for stage in work.needs() for name in stage} | {"fma"})
    measures = {name: measure_of(name, limits) for name in bounds} if limits else {}
    gc.collect()
    gc.disable()
    try:
        figures = measure({engine: once(engine) for engine in engines}, measures, effort, threads)
    finally:
        gc.enable()
    row = {"workload": work.name, "target": work.target, "figures": figures, "memory": memory(work, threads)}
    row |= {name: times_of(figures[name]) for name in names}
    row["ratio"] = ratios(figures, "fastlstm", "PyTorch")
    row["products"] = times_of(figures["products"]) | {"ratio": ratios(figures, "products", "PyTorch")}
    if "1 thread" in figures:
        row["over_one_thread"] = ratios(figures, "fastlstm", "1 thread")
    if measures:
        row["floor"] = floor_of(work.needs(), figures, row["fastlstm"], [row["PyTorch"]])
        row["peak"] = {"rate": work.operations / row["fastlstm"]["minimum"] / 1e9, "limit": max(figures["fma"])}
    if work.classes:
        row["characters"] = {name: work.lanes * work.steps / median(figures[name]) for name in names}
    return row


def main_table(rows, caches):
    head = ["workload", "fastlstm", "PyTorch", "ratio", "of minima", "target", *FLOOR_HEAD, "multiply-add peak"]
    lines = []
    for row in rows:
        both = [number(row["ratio"][kind]) for kind in ("median", "of_minima")]
        cells = [row["workload"], cell(row["fastlstm"]), cell(row["PyTorch"]), *both, number(row["target"])]
        lines.append([*cells, *floor_cells(row.get("floor"), caches), peak_share(row.get("peak"))])
    return table(head, lines)


def products_table(rows):
    head = ["workload", "fastlstm, the whole step", "PyTorch, products alone", "PyTorch's step over those", "target"]
    lines = []
    for row in rows:
        over = number(row["products"]["ratio"]["median"])
        lines.append([row["workload"], cell(row["fastlstm"]), cell(row["products"]), over, number(row["target"])])
    return table(head, lines)


def memory_table(rows):
    head = ["workload", "fastlstm, MB beyond the network", "PyTorch", "ratio", "target", "whole processes, MB"]
    lines = []
    for row in rows:
        if row["memory"]:
            ours, theirs = row["memory"]["fastlstm"], row["memory"]["PyTorch"]
            cells = [number(engine["step"] / 1e6) for engine in (ours, theirs)]
            whole = " / ".join(number(engine["peak"] / 1e6) for engine in (ours, theirs))
            lines.append([row["workload"], *cells, number(ours["step"] / theirs["step"]), number(HALF), whole])
    return table(head, lines) if lines else ""


def report(results):
    """The Markdown page."""
    rows, about, threads = results["rows"], results["machine"], results["threads"]
    met = sum(row["ratio"]["median"] >= row["target"] for row in rows)
    more = [row for row in rows if "over_one_thread" in row]
    parts = [
        f"# Training, {threads} thread{'s' * (threads > 1)}",
        f"`{results['command']}`, {results['date']}. {about['processor']}, {about['cores']} cores. "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f". Instruction set of fastlstm: {results['isa']}. Load average before: {results['load']}.",
        "Microseconds per training step: median, in brackets minimum. Ratio: PyTorch's time over ours, the median of "
        "all rounds' ratios. Characters: a step of a language model with its loss and Adam (PyTorch's fused), inputs "
        "one-hot.",
        FLOOR_TEXT,
        main_table(rows, caches_of(about)),
        f"Targets met (median): {met} of {len(rows)}.",
        f"Not in this version: {', '.join(results['missing'])}." if results["missing"] else "",
    ]
    for row in rows:
        if "characters" in row:
            speeds = ", ".join(f"{name} {number(speed, 6)}" for name, speed in row["characters"].items())
            parts.append(f"{row['workload']}: {speeds} characters a second.")
    if more:
        cells = [
            [row["workload"], *(number(row["over_one_thread"][k]) for k in ("median", "of_minima"))] for row in more
        ]
        parts += ["## Over our own one thread", table(["workload", "ratio", "of minima"], cells)]
    parts += [
        "## Products alone",
        "What PyTorch's library of matrix products takes for those of a step, from operands at hand and with nothing "
        "around them, and the ratio that a step would have that took no longer: a comparison, not a limit.",
        products_table(rows),
    ]
    found = memory_table(rows)
    parts += ["## Peak memory of a step, fresh processes", found] if found else []
    return "\n\n".join(filter(None, parts)) + "\n"


def draw(results, path):
    """Ratios on a log axis, the targets as ticks."""
    pyplot = charts()
    if pyplot is None:
        return
    rows = results["rows"][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.24 * len(rows)), layout="constrained")
    places = range(len(rows))
    axes.scatter([row["ratio"]["median"] for row in rows], places, color="#d1495b", s=28, label="PyTorch", zorder=3)
    axes.scatter([row["target"] for row in rows], places, marker="|", color="black", s=120, label="target", zorder=2)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(places, [row["workload"] for row in rows], fontsize=8)
    axes.set_xlabel("time of PyTorch / time of fastlstm")
    axes.set_title(f"Training, {results['threads']} thread{'s' * (results['threads'] > 1)}", fontsize=10)
    axes.grid(axis="both", color="#e5e5e5", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


# ---- the program ---------------------------------------------------------------------------------------------------


def main():
    line = parser(__doc__, "training", 40)
    line.add_argument("--memory", nargs=2, metavar=("ENGINE", "N"), help=argparse.SUPPRESS)
    options = line.parse_args()
    threads = options.threads
    set_threads(threads)
    fl.set_num_threads(threads)
    if options.memory:
        memory_of(options.memory[0], int(options.memory[1]))
        return
    import torch

    torch.set_num_threads(threads)
    effort = Effort(options.rounds, 20.0, 5, 0.02)
    if options.quick:
        effort = Effort(min(options.rounds, 6), 1.0, 2, 0.005)
    limits = find_limits(threads)
    results = heading(options, "peers_training.py") | {"rows": []}
    chosen = [work for work in WORKLOADS if re.search(options.only, work.name)]
    results["missing"] = sorted({work.cell for work in chosen if not hasattr(fl, work.cell)})
    for work in chosen:
        if hasattr(fl, work.cell):
            start = perf_counter()
            results["rows"].append(run(work, limits, effort, threads))
            print(f"{work.name}: {perf_counter() - start:.1f} s", file=sys.stderr)
    publish(options, "training", results, report(results), draw)


if __name__ == "__main__":
    main()
