"""The programs under examples/ run and learn; on made-up data where the real is not installed."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm as fl

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def threads():
    before = fl.get_num_threads()
    yield
    fl.set_num_threads(before)


# --- Japanese vowels --------------------------------------------------------------------------------------------------
def write_speakers(path, rng, each):
    """Utterances of speakers who differ in the mean of their channels, in the format of the real files."""
    lines = ["#made up", "@classLabel true 1 2 3 4 5 6 7 8 9", "@data"]
    for speaker in np.tile(np.arange(9), each):
        mean = np.random.default_rng(speaker).normal(size=(12, 1))
        utterance = mean + 0.5 * rng.normal(size=(12, rng.integers(7, 30)))
        lines.append(":".join([*(",".join(f"{v:.6f}" for v in channel) for channel in utterance), str(speaker + 1)]))
    path.write_text("\n".join(lines) + "\n")


def test_japanese_vowels_made_up(tmp_path, capsys):
    example = load("japanese_vowels")
    write_speakers(tmp_path / "JapaneseVowels_TRAIN.ts", np.random.default_rng(10), 6)
    write_speakers(tmp_path / "JapaneseVowels_TEST.ts", np.random.default_rng(11), 4)
    xs, speakers = example.load(tmp_path / "JapaneseVowels_TRAIN.ts")
    assert np.bincount(speakers).tolist() == [6] * 9
    assert {x.shape[1] for x in xs} == {12} and 7 <= min(map(len, xs)) < max(map(len, xs)) < 30
    accuracy = example.main(["--quick", "--data", str(tmp_path)])
    assert accuracy > 80
    assert re.search(rf"MiniRocket +98\.9\n.*mean of 1 +{accuracy:.1f}\n", capsys.readouterr().out)


def test_japanese_vowels_cross_validation_holds_out(monkeypatch):
    """Each utterance is judged once a round, by a network that has not seen it."""
    example = load("japanese_vowels")
    xs = [np.full((7, 12), b, np.float32) + np.arange(7)[:, None] for b in range(90)]
    speakers, seen, judged = np.arange(90) % 9, [], []
    monkeypatch.setattr(example, "standardised", lambda *lists: list(lists))
    monkeypatch.setattr(example, "train", lambda known, *_, **__: seen.append({x[0, 0] for x in known}))

    def evaluate(net, held_out, speakers):
        judged.extend(x[0, 0] for x in held_out)
        assert np.bincount(speakers).tolist() == [2] * 9
        assert not seen[-1] & {x[0, 0] for x in held_out} and len(seen[-1]) == 72
        return 1, 0.5

    monkeypatch.setattr(example, "evaluate", evaluate)
    assert example.cross_validate(xs, speakers, 0, 1, {}) == (10, 0.5)
    assert sorted(judged) == sorted([*range(90)] * 2)


def test_japanese_vowels():
    if not any(map(importlib.util.find_spec, ("aeon", "sktime"))):
        pytest.skip("neither aeon nor sktime is installed")
    example = load("japanese_vowels")
    assert len(example.load(example.data_folder() / "JapaneseVowels_TEST.ts")[0]) == 370
    assert example.main(["--seeds", "1", "--epochs", "60"]) > 95


# --- character language model -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def characters():
    return load("char_lm")


def test_char_lm(characters, tmp_path, capsys, monkeypatch):
    """It learns which character follows which, and beats frequencies alone."""
    rng, text = np.random.default_rng(0), [0]
    for _ in range(119_999):  # each letter is followed by one of two: one bit per character
        text.append((3 * text[-1] + 1 + rng.integers(2)) % 20)
    path = tmp_path / "text"
    path.write_bytes(bytes(np.array(text, np.uint8) + ord("a")))
    monkeypatch.setattr(characters, "HIDDEN", 64)
    bits = characters.main(["--quick", "--text", str(path)])
    assert 0.95 < bits < 1.6
    out = capsys.readouterr().out
    first = float(re.search(r"n-gram model, 0 preceding characters +([\d.]+)", out)[1])
    second = float(re.search(r"n-gram model, 1 preceding characters +([\d.]+)", out)[1])
    assert 0.95 < second < 1.05 and bits < first - 2
    assert re.search(r"bz2.*\d\.\d{3}\n +xz.*\d\.\d{3}\n", out)


def test_char_lm_without_the_bible(characters, monkeypatch):
    monkeypatch.setattr(characters.shutil, "which", lambda name: None)
    text, name = characters.read_text(None)
    assert name == "Python's help topics" and len(text) > 300_000


def test_char_lm_holds_out(characters):
    symbols = np.arange(characters.PIECE * 45) // characters.PIECE
    train, held_out = characters.split(symbols)
    assert set(held_out.ravel()) == {10, 30} and held_out.shape == (characters.PIECE, 2)
    assert set(train) == set(range(45)) - {10, 30} and len(train) == 43 * characters.PIECE


def test_ngram_bits(characters):
    """Against the formula, character by character."""
    rng = np.random.default_rng(0)
    train, held_out, classes, orders = rng.integers(0, 4, 300), rng.integers(0, 5, (40, 1)), 5, (0, 1, 3)

    def probability(context, c):
        shorter = probability(context[1:], c) if context else 1 / classes
        n = len(context)
        follows = [train[k] for k in range(max(orders), len(train)) if list(train[k - n : k]) == context]
        kinds = len(set(follows))
        return (follows.count(c) + kinds * shorter) / (len(follows) + kinds) if follows else shorter

    text = held_out[:, 0].tolist()
    for order, bits in characters.ngram_bits(train, held_out, classes, orders).items():
        ps = [probability(text[k - order : k], text[k]) for k in range(max(orders), len(text))]
        assert bits == pytest.approx(-np.mean(np.log2(ps)))


# --- forecast ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def forecast():
    return load("forecast")


@pytest.fixture
def monthly(tmp_path):
    """A season that grows; 30 years of two values a month, some missing."""
    rng, lines = np.random.default_rng(0), ["date,value"]
    for month in range(360):
        value = 0.1 * month + 3 * np.sin(2 * np.pi * month / 12) + 0.3 * rng.normal()
        day = f"{1960 + month // 12}-{month % 12 + 1:02d}"
        lines += [f"{day}-01,{value - 1:.6f}", f"{day}-15,{value + 1:.6f}" if month % 50 != 7 else f"{day}-15,"]
    path = tmp_path / "monthly.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_forecast(forecast, monthly, capsys):
    y = forecast.read_csv(monthly)
    assert y.shape == (360,) and y[6] == pytest.approx(0.6, abs=2)
    error = forecast.main(["--csv", str(monthly), "--epochs", "15", "--networks", "1"])
    rows = dict(re.findall(r"^(\S.*?)  +([\d.]+)  [\d.]+$", capsys.readouterr().out, re.M))
    assert float(rows["LSTM, mean of 1"]) == pytest.approx(error, abs=1e-3)
    assert error < 0.6 * float(rows["seasonal-naive"])


@pytest.mark.parametrize("forecaster", ["autoregression", "network"])
def test_forecasts_know_the_past_alone(forecast, forecaster):
    """What comes after an origin changes none of its forecasts."""
    rng = np.random.default_rng(0)
    y = np.sin(np.arange(300) * 2 * np.pi / 12) + 0.1 * rng.normal(size=300)
    changed, first, origin = y.copy(), 200, 20
    changed[first + origin :] += 5 + rng.normal(size=300 - first - origin)
    options = {"autoregression": {"order": 12}, "network": {"seed": 0, "epochs": 2, "hidden": 4, "noise": 0.1}}
    a, b = (
        getattr(forecast, forecaster)(forecast.Series(series, first), **options[forecaster]) for series in (y, changed)
    )
    np.testing.assert_array_equal(a[: origin + 1], b[: origin + 1])
    assert np.abs(a[origin + 1 :] - b[origin + 1 :]).min(axis=1).max() > 0


def test_forecast_of_carbon_dioxide(forecast):
    if importlib.util.find_spec("statsmodels") is None:
        pytest.skip("statsmodels is not installed")
    assert forecast.main(["--networks", "1"]) < 0.5  # seasonal-naive: 1.28


# --- pen strokes ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def strokes():
    pytest.importorskip("HersheyFonts")
    return load("ctc_strokes")


def test_ctc_strokes(strokes, capsys):
    strokes.main(["--quick"])
    assert re.search(r"always the empty word +100\.0", capsys.readouterr().out)


def test_ctc_strokes_learns(strokes, monkeypatch):
    """Five letters, in a few seconds."""
    monkeypatch.setattr(strokes, "LETTERS", "aeilo")
    assert strokes.main(["--words", "400", "--epochs", "10"]) < 15


def test_best_path_and_edit_distance(strokes):
    best = [1, 1, 0, 1, 2, 2, 0, 0, 3, 0]
    assert strokes.best_path(np.eye(4)[best]).tolist() == [1, 1, 2, 3]
    for a, b, distance in (
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
    ):
        assert strokes.edit_distance(a, b) == distance
    assert strokes.error_rate([[1, 2], []], [[1, 3], [4, 5]]) == 75


# --- compression ------------------------------------------------------------------------------------------------------
def test_compress(capsys):
    sizes = load("compress").main(["--quick"])
    assert 4000 < sizes["bz2 -9"] < sizes["fastlstm fast"] < 6000  # so early, counting is better
    assert re.search(r"fastlstm fast +5,\d\d\d +2\.\d\d\d ", capsys.readouterr().out)


# --- MPI --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "processes, dtype, tolerance", [(2, "float32", 1e-4), (2, "float64", 1e-12), (3, "float64", 1e-12)]
)
def test_mpi_training(processes, dtype, tolerance):
    """The same weights in all processes, and those of one process with whole batches but for rounding."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # more processes than cores: names of Open MPI 4 and 5
    allowed |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    program = [sys.executable, str(EXAMPLES / "mpi_training.py"), "--quick", "--dtype", dtype]
    done = subprocess.run(
        [mpiexec, "-n", str(processes), *program], env=os.environ | allowed, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{processes} processes " in done.stdout
    between, alone = (float(number) for number in re.findall(r"largest difference.*: +([\d.e+-]+)", done.stdout))
    assert between == 0 and alone < tolerance
