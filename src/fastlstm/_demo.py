"""What ``fastlstm demo`` runs: a long memory, a real series and streaming.

Three short parts, each on one thread and in float32:

1. experiment 6a (temporal order) of Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997;
2. monthly sunspot numbers, each forecast before the network learns from it, in a single pass;
3. the time that one step of a running LSTM takes.
"""

from __future__ import annotations

import sys
import time
from importlib import resources

import numpy as np

import fastlstm as fl
from fastlstm import experiments

# Part 1
TASK = experiments.find("6a")[0]
PAPER = TASK.paper[0]
MOST_SEQUENCES = 100_000
MOST_SECONDS = 35.0  # on a slow machine the demo still ends within its minute
QUICK_SEQUENCES = 3000

# Part 2: chosen on the months before SCORED_FROM alone
ORDER = 24  # past months that the network and the linear model are given
SCALE_MONTHS = 132  # one solar cycle: fixes mean and scale, and is not forecast
SCORED_FROM = "1836-01"
ANCHOR = 6  # the network forecasts the change from the mean of so many latest months
HIDDEN = 32
LEARNING_RATE = 0.008
FORGET_BIAS = 1.0

# Part 3
STREAM_SIZES = (16, 32, 64, 128, 256)


class Progress:
    """A progress bar on a terminal; a line every few seconds elsewhere.

    Parameters
    ----------
    label, unit : str
        What is going on, and what is counted.
    total : int
        The count at which the bar is full.
    out, every : file, float
        Where it goes; least seconds between two lines if that is no terminal.
    """

    def __init__(self, label, total, unit, out, every=3.0):
        self._label, self._total, self._unit, self._out, self._every = label, total, unit, out, every
        self._last = time.monotonic()
        self._terminal = out.isatty()
        self._bar = None
        if self._terminal:
            try:
                from tqdm import tqdm
            except ImportError:
                pass
            else:
                # Terminals that do not know their size (0 by 0) would show no bar: hence nrows and ncols.
                look = {"nrows": 24, "ncols": 79, "ascii": True, "leave": False}
                form = "{desc} {percentage:3.0f} % |{bar}|{postfix}"
                self._bar = tqdm(desc="   " + label, total=total, file=out, bar_format=form, **look)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.close()
        elif self._terminal:
            self._out.write("\r" + " " * 79 + "\r")
            self._out.flush()

    def show(self, done, text):
        """Report that `done` units are done; `text` is a short remark."""
        if self._bar is not None:
            # Past 100 % tqdm would drop the bar: it then stays full and only count and remark go on.
            self._bar.set_postfix_str(f"{done:,} {self._unit}, {text}", refresh=False)
            self._bar.update(min(done, self._total) - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last < (0.1 if self._terminal else self._every):
            return
        self._last = now
        if self._terminal:
            line = f"   {self._label} {min(100, 100 * done // self._total):3d} %, {done:,} {self._unit}, {text}"
            self._out.write("\r" + line[:79].ljust(79))
        else:
            self._out.write(f"   {self._label}: {done:,} {self._unit}, {text}\n")
        self._out.flush()


def learn_temporal_order(seed, most, out, seconds=MOST_SECONDS):
    """Train on experiment 6a, as the paper did, until its stop criterion is met.

    Parameters
    ----------
    seed : int
        Decides weights and sequences.
    most, seconds : int, float
        Sequences and time after which training ends in any case.
    out : file
        Where progress goes.

    Returns
    -------
    dict
        ``met`` (bool), ``sequences``, ``seconds``, and on 2560 fresh sequences ``error`` (mean absolute error) and
        ``wrong``.
    """
    began = time.perf_counter()
    # When it will have learned nobody knows; what the paper needed makes a fair 100 %.
    with Progress("learning", PAPER.sequences, "sequences", out) as progress:

        def show(done, error):
            progress.show(done, f"error {error:.3f}")
            return time.perf_counter() - began > seconds

        result, _ = experiments.trial(TASK, "lstm1997", seed, most=most, progress=show)
    figures = result["milestones"].get(TASK.milestones[-1].name, result)
    return {
        "met": result["success"],
        "sequences": result["sequences"],
        "seconds": time.perf_counter() - began,
        "error": figures["error"],
        "wrong": figures["wrong"],
    }


def load_series(name="sunspots"):
    """Read a series that comes with the package: its labels (months, as in ``1749-01``) and values."""
    path = resources.files("fastlstm") / "data" / f"{name}.csv"
    with path.open(encoding="utf-8") as file:
        rows = [line.strip().split(",") for line in file if line.strip() and not line.startswith("#")]
    return [row[0] for row in rows[1:]], np.array([float(row[1]) for row in rows[1:]])


def recursive_least_squares(inputs, targets, ridge=1.0):
    """Forecast each target by the linear model fitted to all earlier ones, then learn from it.

    Parameters
    ----------
    inputs : (n, k) array
        What each forecast is made from; a column of ones makes an offset.
    targets : (n,) array
        What is forecast.
    ridge : float
        Weight of the squared coefficients in the fit: what makes it defined from the start.

    Returns
    -------
    (n,) float64 array
        The forecasts.
    """
    inputs = np.asarray(inputs, dtype=np.float64)
    inverse = np.eye(inputs.shape[1]) / ridge
    weights = np.zeros(inputs.shape[1])
    forecasts = np.empty(len(inputs))
    for t, x in enumerate(inputs):
        forecasts[t] = weights @ x
        ahead = inverse @ x
        gain = ahead / (1.0 + x @ ahead)
        weights += gain * (targets[t] - forecasts[t])
        inverse -= np.outer(gain, ahead)
    return forecasts


def lagged(values, order, first):
    """Return the `order` values before each of ``values[first:]``, the latest in column 0."""
    return np.lib.stride_tricks.sliding_window_view(values, order)[first - order : -1, ::-1]


def forecast_online(inputs, targets, seed, out):
    """Forecast with an LSTM that starts from random weights and learns as it goes.

    `inputs` (n, k) are the latest k values before each target, standardised; `seed` decides the weights.
    Returns the (n,) forecasts, each made before its target was learned from.
    """
    order = inputs.shape[1]
    # The mean of the latest months is already a fair forecast. The network is left with what comes on top.
    anchor = inputs[:, :ANCHOR].mean(axis=1)
    xs = inputs.astype(np.float32)
    goal = (targets - anchor).astype(np.float32)[:, None]
    lstm = fl.LSTM(order, HIDDEN, bias="single", seed=seed)
    bias = np.array(lstm.bias_ih_l0)
    bias[HIDDEN : 2 * HIDDEN] += FORGET_BIAS  # remember, until it learns what to forget
    lstm.bias_ih_l0 = bias
    net = fl.Sequential(lstm, fl.Linear(HIDDEN, 1, seed=seed + 1))
    learner = fl.OnlineLearner(net, loss="mse", optimizer=fl.SGD(net, lr=LEARNING_RATE))
    said = np.empty(len(xs))
    with Progress("forecasting", len(xs), "months", out) as progress:
        for start in range(0, len(xs), 240):
            part = slice(start, start + 240)
            said[part] = learner.run(xs[part], goal[part])[:, 0]
            done = min(start + 240, len(xs))
            progress.show(done, f"error {np.sqrt(np.mean((said[part] - goal[part, 0]) ** 2)):.3f}")
    return anchor + said


def forecast_sunspots(seed, out):
    """Forecast the sunspot numbers one month ahead in three ways.

    Returns
    -------
    dict
        The normalised errors ``lstm``, ``linear`` and ``persistence``: the root of the mean squared
        error over the scored months, divided by the standard deviation of the values there.
    """
    labels, values = load_series()
    values = np.sqrt(values)  # the larger the number, the noisier; the noise of the roots is even
    mean, scale = values[:SCALE_MONTHS].mean(), values[:SCALE_MONTHS].std()
    standard = (values - mean) / scale
    inputs, targets = lagged(standard, ORDER, SCALE_MONTHS), standard[SCALE_MONTHS:]
    lstm = forecast_online(inputs, targets, seed, out)
    linear = recursive_least_squares(np.column_stack([inputs, np.ones(len(inputs))]), targets)
    scored = slice(labels.index(SCORED_FROM) - SCALE_MONTHS, None)

    def error(forecast):
        return float(np.sqrt(np.mean((forecast - targets)[scored] ** 2)) / targets[scored].std())

    return {
        "lstm": error(lstm),
        "linear": error(linear),
        "persistence": error(inputs[:, 0]),
    }


def time_step(hidden, repeats, seconds=0.03):
    """Measure a streaming step of an LSTM with `hidden` inputs and cells.

    Returns microseconds per step, call included: the median over `repeats` loops of about `seconds`.
    """
    stream = fl.LSTM(hidden, hidden, seed=0).stream()
    x = np.random.default_rng(0).standard_normal(hidden).astype(np.float32)
    y = np.empty(hidden, dtype=np.float32)

    def loop(steps):
        step = stream.step
        began = time.perf_counter()
        for _ in range(steps):  # in Python on purpose: this is how a caller with live data uses it
            step(x, out=y)
        return (time.perf_counter() - began) / steps

    loop(50)  # warm the caches
    steps = max(1, int(seconds / loop(50)))
    return 1e6 * float(np.median([loop(steps) for _ in range(repeats)]))


def run(seed=1, quick=False, out=None):
    """Run the demo.

    Parameters
    ----------
    seed : int
        Decides all weights and training sequences.
    quick : bool
        Take a few seconds only.
    out : file, optional
        Where it prints; standard output if not given.

    Returns
    -------
    int
        The exit code, 0.
    """
    out = sys.stdout if out is None else out

    def say(text=""):
        print(text, file=out, flush=True)

    info = fl.build_info()
    isa, threads = info["isa"], info["threads"]
    say(f"fastlstm {fl.__version__}, instruction set {isa}, {threads} thread{'s' if threads > 1 else ''}, seed {seed}")
    say(PART_1)
    order = learn_temporal_order(seed, QUICK_SEQUENCES if quick else MOST_SEQUENCES, out)
    if order["met"]:
        say(f"   Learned after {order['sequences']:,} sequences, in {order['seconds']:.1f} s.")
    else:
        why = "as --quick asks; a full run needs 20,000 to 40,000" if quick else "the demo's limit"
        say(f"   Not learned: stopped after {order['sequences']:,} sequences")
        say(f"   ({why}), {order['seconds']:.1f} s.")
    say(f"   Mean error of an output on new sequences: {order['error']:.3f}")
    say(f"   Wrong on new sequences: {order['wrong']:,} of {TASK.test_sequences:,}")

    say(PART_2)
    spots = forecast_sunspots(seed, out)
    say(f"   {'LSTM, learning as it goes':<44} {spots['lstm']:.3f}")
    say(f"   {'linear model, refitted every month':<44} {spots['linear']:.3f}")
    say(f"   {'next month = this month':<44} {spots['persistence']:.3f}")
    say(f"   {compare(spots)}")

    say(PART_3)
    sizes = STREAM_SIZES[:3:2] if quick else STREAM_SIZES
    say(f"   {'cells':>6}{'weights':>12}{'microseconds per step':>24}{'steps per second':>20}")
    times = {}
    for hidden in sizes:
        times[hidden] = time_step(hidden, 3 if quick else 9)
        weights = fl.LSTM(hidden, hidden).parameters.size
        say(f"   {hidden:>6}{weights:>12,}{times[hidden]:>24.2f}{1e6 / times[hidden]:>20,.0f}")

    say("\nSummary")
    say(f"   {'':<44}{'here':>12}{'1997 paper':>14}")
    largest = max(times)
    needed = f"{order['sequences']:,}" if order["met"] else "not learned"
    for name, here, paper in (
        ("1  sequences until learned", needed, f"{PAPER.sequences:,}"),
        ("   wrong of 2,560 new sequences", f"{order['wrong']:,}", PAPER.wrong),
        ("   seconds of learning", f"{order['seconds']:.1f}", ""),
        ("2  sunspot forecast error, LSTM", f"{spots['lstm']:.3f}", ""),
        ("   the same, linear model", f"{spots['linear']:.3f}", ""),
        (f"3  microseconds per step, {largest} cells", f"{times[largest]:.2f}", ""),
    ):
        say(f"   {name:<44}{here:>12}{paper:>14}".rstrip())
    say(LEARNED if order["met"] else NOT_LEARNED)
    say(SUMMARY)
    return 0


def compare(errors):
    """Say in one sentence how the LSTM did against the two simple forecasts."""
    if errors["lstm"] < errors["linear"]:
        by = 100 * (1 - errors["lstm"] / errors["linear"])
        return f"The LSTM is {by:.1f} % better than the linear model."
    by = 100 * (errors["lstm"] / errors["linear"] - 1)
    if errors["lstm"] < errors["persistence"]:
        return f"The LSTM beats repeating the month; the linear model beats it by {by:.1f} %."
    return f"The LSTM is worse than both here (than the linear model by {by:.1f} %)."


PART_1 = f"""
1. A long memory: experiment 6a of the 1997 paper that introduced the LSTM
   A sequence has 100 to 110 symbols. Two of them, one early and one in the
   middle, are X or Y; all others mean nothing. At the end the network must
   say which of XX, XY, YX, YY it saw: 40 to 100 steps later. Network and
   learning rule are the paper's: {TASK.weights} weights, and one fixed cost per step,
   however long the sequences are. It has learned when the latest {TASK.milestones[-1].size:,}
   sequences were all right (each of the 4 outputs off by less than {TASK.tolerance})
   and their mean absolute error was below {TASK.milestones[-1].mean}."""

PART_2 = f"""
2. A real series: monthly sunspot numbers, 1749 to 2008
   Every month is forecast first and learned from afterwards, in one pass
   from random weights; nothing is seen twice. Both models get the latest
   {ORDER} months (square roots, as large numbers are noisier). Scored are the
   years 1836 to 2008; those before served to choose the settings.
   Error 0 is perfect, 1 is no better than always saying the average."""

PART_3 = """
3. Streaming: one step at a time, as live data comes in
   As many inputs as cells; float32; the call from Python is included."""

LEARNED = """
   1  The network kept two symbols in mind over a long stretch of noise, and
      learned to do so while running, without storing the past."""

NOT_LEARNED = """
   1  The network had not yet learned to keep two symbols in mind: its error
      stays high for thousands of sequences before it falls."""

SUMMARY = """\
   2  A network learned to forecast from a stream that it saw only once. Some
      series are nearly linear, and there a linear model is hard to beat.
   3  A trained network of this size can follow data in real time.
   Next: the same with your own data, fl.OnlineLearner and layer.stream()."""
