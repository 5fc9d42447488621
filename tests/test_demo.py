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
