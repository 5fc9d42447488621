"""Which gradient learns which lag: `python benchmarks/lags.py [--quick] [--only REGEX] [--out DIR]`.

Small tasks whose answers depend on inputs long ago, or on how units mix, learnt online, one stream, one pass, by each
gradient of `fastlstm.OnlineLearner`, by full backpropagation through time, and without any memory of the past in the
gradient. All start from the same networks and see the same sequences, with Adam; each method has the learning rate of
`RATES` that served it best on seeds that are not judged. A run ends with the first block of sequences of which 99 %
are answered right, each before it is learnt from, or when the task's sequences are used up.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import process_time

import numpy as np

import fastlstm as fl

sys.path.insert(0, str(Path(__file__).parent))  # asv imports every module here, from elsewhere
from peers import machine, number, table, versions  # noqa: E402

CHUNK = 10  # steps
HIDDEN = 8
RATES = (0.003, 0.01, 0.03)
SEEDS, TUNING_SEEDS = range(10), range(100, 102)
BLOCK = 200  # sequences
RIGHT = 0.99  # of a block's answers
PASSES = 20  # over the first half of a series, before one over the other

# ---- tasks: every function returns inputs (n, T, I) and targets (n, T), classes or numbers --------------------------


def one_hot(symbols, count):
    return np.eye(count, dtype=np.float32)[symbols]


def at_the_end(answers, steps):
    """Targets at the last step alone."""
    missing = np.nan if answers.dtype.kind == "f" else -1
    targets = np.full((len(answers), steps), missing, answers.dtype)
    targets[:, -1] = answers
    return targets


def recall(rng, n, steps):
    """The first of `steps` symbols, one of 4, is asked for at the end; between are 4 other symbols at random."""
    symbols = rng.integers(4, 8, (n, steps))
    symbols[:, 0] = rng.integers(0, 4, n)
    return one_hot(symbols, 8), at_the_end(symbols[:, 0].copy(), steps)


def two_marks(rng, n, steps):
    """Places of two marks: in the first tenth, and in the tenth that begins in the middle."""
    return rng.integers(0, steps // 10, n), rng.integers(steps // 2, steps // 2 + steps // 10, n)


def two_symbols(rng, n, steps):
    """Two symbols, X or Y each, among distractors: the inputs, and which they were."""
    symbols, rows = rng.integers(2, 6, (n, steps)), np.arange(n)
    which = rng.integers(0, 2, (2, n))
    for place, symbol in zip(two_marks(rng, n, steps), which, strict=True):
        symbols[rows, place] = symbol
    return one_hot(symbols, 6), which


def order(rng, n, steps):
    """Which were the two symbols, and in which order? (1997, task 6a)."""
    x, (first, second) = two_symbols(rng, n, steps)
    return x, at_the_end(2 * first + second, steps)


def exclusive_or(rng, n, steps):
    """Were the two symbols different?"""
    x, (first, second) = two_symbols(rng, n, steps)
    return x, at_the_end(first ^ second, steps)


def adding(rng, n, steps):
    """The sum of two numbers among others, marked in a second channel (1997, task 4)."""
    x, rows = np.zeros((n, steps, 2), np.float32), np.arange(n)
    x[:, :, 0] = rng.uniform(-1, 1, (n, steps))
    places = two_marks(rng, n, steps)
    for place in places:
        x[rows, place, 1] = 1
    a, b = (x[rows, place, 0] for place in places)
    return x, at_the_end(0.5 + (a + b) / 4, steps)


def parity(rng, n, steps):
    """At each step: is the number of ones so far odd?"""
    bits = rng.integers(0, 2, (n, steps))
    return one_hot(bits, 2), bits.cumsum(1) % 2


def echo(rng, n, steps, lag):
    """At each step: the symbol of `lag` steps ago, one of 2."""
    symbols = rng.integers(0, 2, (n, steps))
    targets = np.full((n, steps), -1)
    targets[:, lag:] = symbols[:, :-lag]
    return one_hot(symbols, 2), targets


@dataclass(frozen=True)
class Task:
    """`lag`: the least number of steps that a solution must bridge; `sequences` at most; `tolerance` of a number;
    `without`: a method left out."""

    name: str
    make: object
    steps: int
    lag: int
    sequences: int
    classes: int = 0
    tolerance: float = 0.0
    without: str = ""

    @property
    def loss(self):
        return "cross_entropy" if self.classes else "mse"

    def right(self, y, targets):
        """The share of right answers."""
        if self.classes:
            asked = targets >= 0
            return float((y.argmax(-1) == targets)[asked].mean())
        asked = ~np.isnan(targets)
        return float((np.abs(y[..., 0] - targets)[asked] < self.tolerance).mean())


# With a target at the last step alone, it makes the updates of the larger chunk, at more cost: recall shows it.
EACH = "truncated-rtrl, chunk=1"


def tasks():
    recalls = [
        Task(f"recall over {steps - 1}", partial(recall, steps=steps), steps, steps - 1, 4000, classes=4)
        for steps in (10, 100, 200, 500)
    ]
    return [
        *recalls,
        Task("temporal order", partial(order, steps=300), 300, 120, 5000, classes=4, without=EACH),
        Task("delayed exclusive or", partial(exclusive_or, steps=300), 300, 120, 5000, classes=2, without=EACH),
        Task("adding", partial(adding, steps=250), 250, 100, 10000, tolerance=0.04, without=EACH),
        Task("parity at each step", partial(parity, steps=50), 50, 1, 10000, classes=2),
        Task("echo of 4 steps ago", partial(echo, steps=50, lag=4), 50, 4, 10000, classes=2),
    ]


# ---- methods ---------------------------------------------------------------------------------------------------------

METHODS = {  # name -> gradient and chunk, None for the whole sequence
    "no trace": ("bptt", 1),
    "bptt": ("bptt", CHUNK),
    EACH: ("truncated-rtrl", 1),
    "truncated-rtrl": ("truncated-rtrl", CHUNK),
    "carried-bptt": ("carried-bptt", CHUNK),
    "full BPTT": ("bptt", None),
}


def network(inputs, outputs, horizon, seed):
    """Forget gates open for times up to `horizon` (Tallec and Ollivier 2018)."""
    lstm = fl.LSTM(inputs, HIDDEN, seed=seed)
    bias = np.zeros((4, HIDDEN), np.float32)
    bias[1] = np.log(np.random.default_rng(seed).uniform(1, max(2, horizon), HIDDEN))
    bias[0] = -bias[1]
    lstm.bias_ih_l0, lstm.bias_hh_l0 = bias.ravel(), np.zeros(4 * HIDDEN, np.float32)
    return fl.Sequential(lstm, fl.Linear(HIDDEN, outputs, seed=seed + 1))


def learner_for(net, method, loss, rate, steps):
    gradient, chunk = METHODS[method]
    return fl.OnlineLearner(net, loss, fl.Adam(net, rate), gradient=gradient, chunk=chunk or steps)


def learn(task, method, rate, seed):
    """One run: whether and after how many sequences it succeeded, the share right at last, seconds of the processor."""
    rng = np.random.default_rng(seed)
    x, targets = task.make(rng, BLOCK)
    net = network(x.shape[-1], task.classes or 1, task.lag + 1, seed)
    learner = learner_for(net, method, task.loss, rate, task.steps)
    reset = np.zeros((BLOCK, task.steps), bool)
    reset[:, 0] = True
    seconds, seen, share = 0.0, 0, 0.0
    while seen < task.sequences and share < RIGHT:
        flat = targets.reshape(-1) if task.classes else targets.reshape(-1, 1)
        start = process_time()
        y = learner.run(x.reshape(-1, x.shape[-1]), flat, reset.reshape(-1))
        seconds += process_time() - start
        seen += BLOCK
        share = task.right(y.reshape(BLOCK, task.steps, -1), targets)
        x, targets = task.make(rng, BLOCK)
    return {"seed": seed, "solved": share >= RIGHT, "sequences": seen, "right": share, "seconds": seconds}


def judge(runs):
    """To be made large: how many runs succeeded, then how soon, then how right they were at last."""
    solved = [run["sequences"] for run in runs if run["solved"]]
    return len(solved), -mean(solved) if solved else 0, mean(run["right"] for run in runs)


def compare(task, quick):
    """Each method on one task, with the rate that serves it best."""
    seeds, tuning, rates = (SEEDS, TUNING_SEEDS, RATES) if not quick else (SEEDS[:2], TUNING_SEEDS[:1], RATES[1:])
    rows = []
    for method in [method for method in METHODS if method != task.without]:
        tried = {rate: judge([learn(task, method, rate, seed) for seed in tuning]) for rate in rates}
        rate = max(tried, key=tried.get)
        runs = [learn(task, method, rate, seed) for seed in seeds]
        rows.append({"method": method, "rate": rate, "runs": runs})
        print(task.name, method, rate, judge(runs), file=sys.stderr, flush=True)
    return {"task": task.name, "seeds": len(seeds), "lag": task.lag, "steps": task.steps, "rows": rows}


# ---- a real series ---------------------------------------------------------------------------------------------------


def sunspots():
    """Monthly mean numbers of sunspots, scaled; they ship with fastlstm."""
    path = Path(fl.__file__).parent / "data" / "sunspots.csv"
    lines = [line for line in path.read_text().splitlines() if line[0].isdigit()]
    return np.array([[line.split(",")[-1]] for line in lines], np.float32) / 100


def forecast(series, ahead, method, rate, seed):
    """Squared error over that of the last known value, in one pass over the later half, after some over the first."""
    net = network(1, 1, 130, seed)
    learner = learner_for(net, method, "mse", rate, 130)
    x, targets = series[:-ahead], series[ahead:]
    half, spent = len(x) // 2, 0.0
    for part in [slice(half)] * PASSES + [slice(half, None)]:
        start = process_time()
        y = learner.run(x[part], targets[part])
        spent += process_time() - start
    judged = (y - targets[part]) ** 2, (x[part] - targets[part]) ** 2
    return {"seed": seed, "error": float(judged[0].mean() / judged[1].mean()), "seconds": spent}


def series_name(ahead):
    return f"sunspots, {ahead} month{'s' * (ahead > 1)} ahead"


def compare_forecasts(ahead, quick):
    series, rows = sunspots(), []
    seeds, tuning, rates = (SEEDS, TUNING_SEEDS, RATES) if not quick else (SEEDS[:2], TUNING_SEEDS[:1], RATES[1:])
    for method in METHODS:
        tried = {rate: mean(forecast(series, ahead, method, rate, seed)["error"] for seed in tuning) for rate in rates}
        rate = min(tried, key=tried.get)
        rows.append({"method": method, "rate": rate, "runs": [forecast(series, ahead, method, rate, s) for s in seeds]})
    return {"task": series_name(ahead), "seeds": len(seeds), "rows": rows}


# ---- results ---------------------------------------------------------------------------------------------------------


def method_table(head, found, cell):
    """A row for each task, a column for each method; `cell` of what a method did."""
    lines = []
    for task in found:
        cells = {row["method"]: cell(row) for row in task["rows"]}
        lines.append(
            [task["task"], *([str(task["lag"])] if len(head) > 1 else []), *(cells.get(m, "-") for m in METHODS)]
        )
    return table([*head, *METHODS], lines)


def success(row):
    runs = row["runs"]
    solved = [run["sequences"] for run in runs if run["solved"]]
    right = f"({100 * mean(run['right'] for run in runs):.0f} %)"
    return f"{len(solved)}/{len(runs)}, {number(median(solved), 4) if solved else right}"


def seconds(row):
    each = median(1e3 * run["seconds"] / run["sequences"] for run in row["runs"])
    whole = [run["seconds"] for run in row["runs"] if run["solved"]]
    return f"{number(each, 2)} ms, {number(median(whole), 2) + ' s' if whole else '-'}"


def rate(row):
    return f"{row['rate']:g}"


def error(row):
    errors = [run["error"] for run in row["runs"]]
    return f"{mean(errors):.3f} ± {np.std(errors):.3f}, {rate(row)}"


def report(results):
    """The Markdown page; what it means is said in docs/online.md."""
    about, found, series = results["machine"], results["tasks"], results["series"]
    parts = [
        "# Which gradient learns which lag",
        f"`{results['command']}`, {results['date']}. {about['processor']}. fastlstm "
        f"{results['versions'].get('fastlstm', 'from its sources')}, {results['isa']}.",
        f'Chunks of {CHUNK} steps, except for `chunk=1`, no trace (`gradient="bptt", chunk=1`: no derivative goes '
        f"back in time) and full BPTT (one chunk for the whole sequence). LSTM with {HIDDEN} units and a linear layer, "
        "forget gates open for the task's lag at first, Adam, one stream, all weights changed after each chunk with a "
        f"target. {max(t['seeds'] for t in [*found, *series])} seeds; learning rates from "
        f"{', '.join(map(str, RATES))}, chosen for each method and task on other seeds.",
    ]
    if found:
        parts += [
            f"## Successes, and the median number of sequences to success (in blocks of {BLOCK})",
            "In brackets the share of right answers in the last block where no run succeeded.",
            method_table(["task", "lag"], found, success),
            "## Milliseconds a sequence, and seconds to success",
            "Medians, processor time of one thread.",
            method_table(["task"], found, seconds),
            "## Learning rates chosen",
            method_table(["task"], found, rate),
        ]
    if series:
        parts += [
            "## A real series: monthly sunspot numbers",
            "Squared error over that of the last known value as a forecast, mean ± deviation over seeds, and the rate "
            f"chosen. {PASSES} passes over the first half of the series, then one over the other, which is "
            "judged, each forecast before it is learnt from. Full BPTT: chunks of 130 months, a cycle.",
            method_table(["series"], series, error),
        ]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="tasks whose names contain this regex")
    parser.add_argument("--quick", action="store_true", help="2 seeds, one to choose from 2 rates")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write lags.md and .json there; keeps what --only leaves out"
    )
    options = parser.parse_args()
    results = {"command": "python benchmarks/lags.py" + " --quick" * options.quick, "date": date.today().isoformat()}
    results |= {"machine": machine(), "versions": versions(), "isa": fl.build_info()["isa"], "chunk": CHUNK}
    work = [(task.name, partial(compare, task), "tasks") for task in tasks()]
    work += [(series_name(ahead), partial(compare_forecasts, ahead), "series") for ahead in (1, 12)]
    path, known = options.out and options.out / "lags.json", {}
    if path and path.exists():
        saved = json.loads(path.read_text())
        known = {found["task"]: found for found in saved["tasks"] + saved["series"]}
    known = {name: found for name, found in known.items() if not re.search(options.only, name)}
    for name, compared, _ in work:
        if re.search(options.only, name):
            known[name] = compared(options.quick)
        for kind in ("tasks", "series"):
            results[kind] = [known[name] for name, _, its in work if its == kind and name in known]
        if options.out and any(known):  # what has been found so far
            options.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1))
            (options.out / "lags.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
