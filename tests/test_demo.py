"""The command line and the parts of `fastlstm demo`."""

import io
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastlstm as fl
from fastlstm import _demo as demo
from fastlstm.__main__ import COMMANDS, main


def command(*arguments, **options):
    options = {"capture_output": True, "text": True, "timeout": 300} | options
    return subprocess.run([sys.executable, "-m", "fastlstm", *arguments], **options)


# --- temporal order (experiment 6a) -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sequences():
    xs, targets, reset, ends, classes = demo.temporal_order(np.random.default_rng(3), 4000)
    starts = np.flatnonzero(reset[:, 0])
    symbols = xs.argmax(axis=1)
    return xs, targets, symbols, starts, ends, classes


def test_sequences_have_the_shapes_and_types_the_learner_wants(sequences):
    xs, targets, symbols, starts, ends, classes = sequences
    assert xs.shape == (ends[-1] + 1, 8) and xs.dtype == np.float32
    assert targets.shape == (len(xs), 4) and targets.dtype == np.float32
    assert np.array_equal(np.sort(xs, axis=1)[:, -2:], np.tile([0, 1], (len(xs), 1))) and xs.sum() == len(xs)
    assert len(starts) == len(ends) == len(classes) == 4000
    assert np.array_equal(starts[1:], ends[:-1] + 1) and starts[0] == 0


def test_lengths_are_uniform_from_100_to_110(sequences):
    *_, starts, ends, _ = sequences
    counts = np.bincount(ends - starts + 1, minlength=111)
    assert counts[:100].sum() == 0 and len(counts) == 111
    assert counts[100:].min() > 4000 / 11 * 0.75


def test_start_and_end_symbols_occur_there_only(sequences):
    _, _, symbols, starts, ends, _ = sequences
    assert np.array_equal(np.flatnonzero(symbols == demo.SYMBOLS.index("E")), starts)
    assert np.array_equal(np.flatnonzero(symbols == demo.SYMBOLS.index("B")), ends)


def test_each_sequence_has_its_two_symbols_in_the_papers_places(sequences):
    _, _, symbols, starts, ends, classes = sequences
    where = np.flatnonzero(symbols >= 6).reshape(-1, 2)
    place = where - starts[:, None] + 1  # counted from 1
    assert set(place[:, 0]) == set(range(10, 21)) and set(place[:, 1]) == set(range(50, 61))
    assert (ends - where[:, 1]).min() >= 40
    spelled = ["".join(demo.SYMBOLS[s] for s in pair) for pair in symbols[where]]
    assert spelled == [demo.CLASSES[c] for c in classes]
    assert np.bincount(classes).min() > 900


def test_distractors_are_uniform(sequences):
    symbols = sequences[2]
    counts = np.bincount(symbols, minlength=8)[2:6]
    assert np.all(np.abs(counts / counts.sum() - 0.25) < 0.005)


def test_targets_are_at_the_ends_only(sequences):
    _, targets, _, _, ends, classes = sequences
    assert np.array_equal(np.flatnonzero(~np.isnan(targets).any(axis=1)), ends)
    assert np.isnan(targets).all(axis=1).sum() == len(targets) - len(ends)
    assert np.array_equal(targets[ends], np.eye(4)[classes])


def test_the_generator_depends_on_its_rng_alone():
    one, two = (demo.temporal_order(np.random.default_rng(7), 20) for _ in range(2))
    assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, two, strict=True))
    other = demo.temporal_order(np.random.default_rng(8), 20)
    assert one[0].shape != other[0].shape or not np.array_equal(one[0], other[0])


def test_the_network_is_the_papers():
    weights = demo.temporal_order_network(np.random.default_rng(0)).state_dict()
    assert sum(a.size for a in weights.values()) == 156
    bias = weights["0.bias_ih_l0"]
    assert list(bias[:2]) == [-2, -4]
    rest = np.concatenate([bias[2:]] + [a.ravel() for name, a in weights.items() if name != "0.bias_ih_l0"])
    assert np.abs(rest).max() <= 0.1 and np.abs(rest).max() > 0.09 and len(np.unique(rest)) > 150


# --- the stop criterion -------------------------------------------------------------------------------------------
def test_stopping_point_counts_the_sequence_that_completes_the_window():
    worst, mean = np.full(50, 0.2), np.full(50, 0.05)
    assert demo.stopping_point(worst, mean, window=10) == 10
    worst[12] = 0.3  # not below: wrong
    assert demo.stopping_point(worst[5:], mean[5:], window=10) == 18  # 13 + 10 - 5
    assert demo.stopping_point(worst[:22], mean[:22], window=20) is None
    assert demo.stopping_point(worst[:9], mean[:9], window=10) is None


def test_stopping_point_wants_the_mean_error_too_and_takes_no_nan_for_right():
    worst, mean = np.full(40, 0.2), np.full(40, 0.15)
    assert demo.stopping_point(worst, mean, window=10) is None
    mean[20:] = 0.01
    stop = demo.stopping_point(worst, mean, window=10)
    assert mean[stop - 10 : stop].mean() < 0.1 <= mean[stop - 11 : stop - 1].mean()
    worst[35] = np.nan
    assert demo.stopping_point(worst[26:], mean[26:], window=10) is None


# --- the series and the linear model ------------------------------------------------------------------------------
def test_the_series_is_complete():
    labels, values = demo.load_series()
    assert len(labels) == len(values) == 260 * 12
    assert labels == [f"{year}-{month:02d}" for year in range(1749, 2009) for month in range(1, 13)]
    assert np.isfinite(values).all() and values.min() == 0.0 and values.max() == 253.8
    assert values[0] == 58.0 and values[-1] == 0.8


def test_the_series_says_where_it_is_from():
    head = (demo.resources.files("fastlstm") / "data" / "sunspots.csv").read_text(encoding="utf-8")[:1000]
    assert "Source:" in head and "Licence: public domain" in head


def test_lagged_gives_the_values_before_the_target():
    values = np.arange(20.0)
    lags = demo.lagged(values, 3, 5)
    assert lags.shape == (15, 3)
    assert list(lags[0]) == [4, 3, 2] and list(lags[-1]) == [18, 17, 16]


def test_recursive_least_squares_is_ridge_regression_on_the_past():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    forecasts = demo.recursive_least_squares(x, y, ridge=0.5)
    assert forecasts[0] == 0
    for t in range(1, 30):
        # ridge is least squares with one more row of sqrt(ridge) per weight, whose target is 0
        a = np.vstack([x[:t], np.sqrt(0.5) * np.eye(3)])
        w = np.linalg.lstsq(a, np.concatenate([y[:t], np.zeros(3)]), rcond=None)[0]
        assert forecasts[t] == pytest.approx(x[t] @ w, abs=1e-10)


def test_the_forecasts_do_not_look_ahead():
    inputs, targets = np.random.default_rng(1).standard_normal((2, 60, demo.ORDER))[0], np.linspace(-1, 1, 60)
    changed = targets.copy()
    changed[40:] += 5
    for forecast in (demo.recursive_least_squares, lambda x, y: demo.forecast_online(x, y, 0, io.StringIO())):
        one, two = forecast(inputs, targets), forecast(inputs, changed)
        assert np.array_equal(one[:41], two[:41]) and not np.array_equal(one[41:], two[41:])


# --- progress -----------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_progress_is_a_line_now_and_then():
    out = io.StringIO()
    with demo.Progress("work", 100, "things", out, every=0.05) as progress:
        for n in range(1, 101):
            progress.show(n, "error 0.500")
            time.sleep(0.001)
    lines = out.getvalue().splitlines()
    assert 1 <= len(lines) <= 10 and "\r" not in out.getvalue()
    assert all(re.fullmatch(r"   work: \d+ things, error 0.500", line) for line in lines)


def test_on_a_terminal_without_tqdm_progress_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    out = Terminal()
    with demo.Progress("work", 100, "things", out) as progress:
        progress._last -= 1
        progress.show(150, "error 0.500" + "x" * 100)
    text = out.getvalue()
    assert "100 %" in text and "\n" not in text and all(len(part) <= 79 for part in text.split("\r"))


def test_on_a_terminal_with_tqdm_the_bar_may_be_overrun():
    pytest.importorskip("tqdm")
    out = Terminal()
    with demo.Progress("work", 100, "things", out) as progress:
        progress.show(50, "error 0.5")
        progress.show(150, "error 0.4")
    assert "work" in out.getvalue()


# --- the command line ---------------------------------------------------------------------------------------------
def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastlstm {fl.__version__}\n"


def test_info_shows_all_of_build_info(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()] == list(fl.build_info())
    assert fl.__version__ in shown


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["demo", "--seed", "x"], ["demo", "--seed", "-1"], ["demo", "--nonsense"], ["info", "x"]],
)
def test_wrong_arguments_end_with_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: fastlstm" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name, _, _ in COMMANDS)
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert main(["demo"]) == 130
    assert "Stopped" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastlstm", "demo", "--quick"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=120) == 0
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process")
def test_ctrl_c_stops_the_demo_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "fastlstm", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()  # it runs, and all is imported
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped" in error and "Traceback" not in error


@pytest.mark.slow
def test_demo_quick_from_end_to_end():
    done = command("demo", "--quick", "--seed", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 and line.isascii() for line in lines)
    assert "3,000 sequences" in done.stdout and "Summary" in done.stdout
    errors = {
        name: float(re.search(rf"{name}\D*(\d\.\d+)$", done.stdout, re.MULTILINE)[1])
        for name in ("LSTM, learning as it goes", "linear model, refitted every month", "next month = this month")
    }
    lstm, linear, persistence = errors.values()
    assert lstm < persistence and linear < persistence
    assert persistence == pytest.approx(0.3717, abs=0.001) and linear == pytest.approx(0.3312, abs=0.001)


@pytest.mark.slow
def test_temporal_order_is_learned():
    result = demo.learn_temporal_order(1, demo.MOST_SEQUENCES, io.StringIO(), seconds=240)
    assert result["met"] and result["error"] < 0.1
    assert 10_000 < result["sequences"] < 60_000
    assert result["wrong"] <= 10
