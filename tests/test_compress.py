"""The compressor: what goes in comes out, on any instruction set, and what is damaged is refused."""

import io
import os
import pydoc_data.topics
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import FUSED

import fastlstm as fl
from fastlstm import _compress, _core
from fastlstm.__main__ import main

HEADER = _compress.HEADER.size + 4
TEXT = b"".join(b"%d times %d is %d.\n" % (a, b, a * b) for a in range(2, 12) for b in range(2, 12))
NOISE = np.random.default_rng(0).bytes(1500)


def compressed(data, preset="fast"):
    target = io.BytesIO()
    _compress.compress(io.BytesIO(data), target, preset)
    return target.getvalue()


def decompressed(data):
    target = io.BytesIO()
    _compress.decompress(io.BytesIO(data), target)
    return target.getvalue()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_compress, "BLOCK", 256)


# --- There and back ---------------------------------------------------------------------------------------------------
CONTENTS = {
    "empty": b"",
    "one byte": b"\xff",
    "two bytes": b"ab",
    "one value": b"\0" * 3000,
    "all values": bytes(range(256)) * 3,
    "text": TEXT,
    "noise": NOISE,
    "noise after text": TEXT + NOISE,
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("preset", _compress.PRESETS)
def test_round_trip(name, preset, small_blocks):
    data = CONTENTS[name]
    small = compressed(data, preset)
    assert decompressed(small) == data
    assert len(small) <= HEADER + len(data) + 4 * -(-len(data) // 256)


@pytest.mark.parametrize("length", [15, 16, 17, 255, 256, 257, 512])
def test_lengths_around_chunks_and_blocks(length, small_blocks):
    assert decompressed(compressed(TEXT[:length])) == TEXT[:length]


def test_it_learns():
    """Two thousand bytes of a multiplication table: well below the entropy of single bytes, which is 3.9 bits."""
    assert len(compressed(TEXT)) < HEADER + 2.6 / 8 * len(TEXT)
    assert len(compressed(b"\0" * 30000)) < HEADER + 20


def test_reading_again_helps(monkeypatch):
    text = Path(pydoc_data.topics.__file__).read_bytes()[:8000]
    once = len(compressed(text))
    monkeypatch.setitem(_compress.PRESETS, "fast", _compress.PRESETS["fast"] | {"lanes": 3})
    assert len(compressed(text)) < 0.98 * once


def test_noise_grows_by_the_header_alone():
    assert len(compressed(NOISE)) == HEADER + len(NOISE) + 4


@pytest.mark.parametrize("name", ["text", "all values"])
def test_the_same_file_on_every_instruction_set(name, select_isa):
    files = set()
    for isa in FUSED:
        select_isa(isa)
        files.add(compressed(CONTENTS[name], "default"))
    assert len(files) == 1
    for isa in FUSED:
        select_isa(isa)
        assert decompressed(*files) == CONTENTS[name]


def test_other_arithmetic_is_an_error(select_isa):
    small = compressed(TEXT)
    select_isa("generic")
    with pytest.raises(ValueError, match="other arithmetic than that of fastlstm .* on generic"):
        decompressed(small)
    assert decompressed(compressed(TEXT)) == TEXT  # generic among itself


def test_threads_change_nothing():
    before = fl.get_num_threads()
    small = compressed(TEXT[:500], "default")
    try:
        fl.set_num_threads(2)
        assert compressed(TEXT[:500], "default") == small and decompressed(small) == TEXT[:500]
    finally:
        fl.set_num_threads(before)


def test_initial_weights_are_uniform():
    h = _compress.PRESETS["fast"]["hidden"]
    state = _compress.initial({"0.weight_ih_l0": np.empty((4 * h, 50)), "1.weight": np.empty((50, h))}, h)
    a = state["0.weight_ih_l0"] * np.float32(h) ** np.float32(0.5)
    assert a.dtype == np.float32 and -1 <= a.min() < -0.99 and 0.99 < a.max() < 1
    assert abs(a.mean()) < 0.02 and abs(a.var() - 1 / 3) < 0.02 and not state["1.weight"].any()


# --- Reading again ----------------------------------------------------------------------------------------------------
def test_the_other_lanes_read_the_past(monkeypatch):
    """What lanes beside the first read are consecutive bytes of before, also when the memory has gone round."""
    monkeypatch.setattr(_compress, "REMEMBERED", 512)
    model = _compress.Model(251, hidden=1, lanes=3, rate=0.01, decay=0.0)
    symbols = np.random.default_rng(1).integers(0, 251, 4000)
    starts = []
    for at in range(0, len(symbols), 16):
        model.predictions(symbols[at : at + 16])
        for lane in (1, 2):
            if at < 16 * 2 * _compress.EPISODE:
                assert (model.targets[:, lane] == -1).all() and not model.inputs[:, lane].any()
                continue
            read = np.r_[model.inputs[0, lane].argmax(), model.targets[:, lane]]
            assert (model.inputs[:, lane].argmax(axis=1) == read[:-1]).all() and (
                model.inputs[:, lane].sum(axis=1) == 1
            ).all()
            where = [k for k in range(max(0, at - 512), at - 16) if (symbols[k : k + 17] == read).all()]
            assert len(where) == 1  # 17 of 251 symbols do not occur twice
            starts.append(where[0] - at)
    assert len(set(starts)) > 20


# --- The coder --------------------------------------------------------------------------------------------------------
def test_frequencies_are_those_of_the_softmax():
    for n in (1, 2, 75, 256):
        y = np.random.default_rng(n).normal(0, 3, n).astype(np.float32)
        p = np.exp(y - y.max(), dtype=np.float64)
        found = _core.score_frequencies(y)
        assert found.sum() == 2**16 and found.min() >= 1
        assert np.allclose(found, 1 + (2**16 - n) * p / p.sum(), rtol=2e-3, atol=n)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_frequencies_of_any_bits_sum_up(value):
    for where in ([0], [2], [0, 1, 2, 3, 4], [1, 4]):
        y = np.arange(5, dtype=np.float32)
        y[where] = value
        found = _core.score_frequencies(y)
        assert found.sum() == 2**16 and found.min() >= 1


@pytest.mark.parametrize("spread", [0, 1, 30, 1000])
def test_coder_round_trip_and_size(spread):
    """Symbols come back, at the price of their probabilities; steep scores also make long carries."""
    rng, n = np.random.default_rng(spread), 17
    y = rng.normal(0, spread, (3000, 2, n)).astype(np.float32)
    likely = np.where(rng.random(3000) < 0.9, y[:, 0].argmax(axis=1), rng.integers(0, n, 3000))
    encoder = _core.RangeEncoder()
    for at in range(0, 3000, 100):
        encoder.encode(y[at : at + 100], likely[at : at + 100])
    encoder.number(65535)
    encoder.number(0)
    data = encoder.end()
    decoder = _core.RangeDecoder(io.BytesIO(data).read)
    assert [decoder.decode(row) for row in y] == likely.tolist()
    assert (decoder.number(), decoder.number()) == (65535, 0) and decoder.at_end()
    f = np.array([_core.score_frequencies(row)[s] for row, s in zip(y[:, 0], likely, strict=True)])
    assert len(data) <= 4 + 5 + 1.001 * -np.log2(f / 2**16).sum() / 8


# --- Damage -----------------------------------------------------------------------------------------------------------
def refused(data):
    """Whether this is refused in one line."""
    try:
        decompressed(data)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
        return True
    return False


@pytest.mark.parametrize("data", [TEXT[:40], NOISE[:600]], ids=["coded", "stored"])
def test_every_damaged_byte_is_noticed(data, small_blocks):
    small = compressed(data)
    assert small[7] == (_compress.CODED if data == TEXT[:40] else _compress.STORED)
    rng = np.random.default_rng(2)
    for at in range(len(small)):
        for bits in {1 << rng.integers(8), int(rng.integers(1, 256)), 255}:
            assert refused(small[:at] + bytes([small[at] ^ bits]) + small[at + 1 :]), (at, bits)


@pytest.mark.parametrize("data", [b"", TEXT[:40], NOISE[:600]], ids=["empty", "coded", "stored"])
def test_every_cut_and_extension_is_noticed(data, small_blocks):
    small = compressed(data)
    assert all(refused(small[:at]) for at in range(len(small)))
    assert all(refused(small + more) for more in (b"\0", b"\n", small))


def test_pieces_that_moved_are_noticed(small_blocks):
    small, rng = compressed(TEXT[:400]), np.random.default_rng(3)
    for _ in range(60):
        a, b, c = sorted(rng.integers(0, len(small) + 1, 3))
        for other in (small[:a] + small[b:], small[:b] + small[a:], small[:a] + small[b:c] + small[a:b] + small[c:]):
            assert other == small or refused(other)


def test_files_of_other_kinds_are_refused():
    for data in (b"", b"\x1f\x8b\x08", TEXT, NOISE, bytes(1000)):
        with pytest.raises(ValueError, match="not a file that fastlstm has compressed"):
            decompressed(data)
    newer = bytearray(compressed(b"a"))
    newer[6] = 2
    with pytest.raises(ValueError, match="version 2 of the format, and this fastlstm reads version 1"):
        decompressed(newer)


def test_damage_is_noticed_within_a_block(small_blocks):
    """What comes out before the error is right, and ends before the damaged block."""
    small = bytearray(compressed(TEXT))
    small[(HEADER + len(small)) // 2] ^= 16
    target = io.BytesIO()
    with pytest.raises(ValueError):
        _compress.decompress(io.BytesIO(small), target)
    good = target.getvalue()
    assert TEXT.startswith(good) and 256 <= len(good) < len(TEXT) and len(good) % 256 == 0


def test_a_huge_length_takes_neither_memory_nor_time():
    """A header that is whole and promises 2^63 bytes: the data end soon."""
    small = compressed(TEXT)
    header = _compress.HEADER.unpack(small[: HEADER - 4])
    lying = _compress.sealed(*header[2:5], 2**63, header[6]) + small[HEADER:]
    began = time.monotonic()
    assert refused(lying) and time.monotonic() - began < 30


# --- Files ------------------------------------------------------------------------------------------------------------
def test_files(tmp_path):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_bytes(TEXT)
    c.write_bytes(b"old")
    assert fl.compress_file(a, b, preset="fast") is None and fl.decompress_file(str(b), c) is None
    assert c.read_bytes() == TEXT and b.read_bytes() == compressed(TEXT)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_a_refused_file_leaves_the_target_as_it_was(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(compressed(TEXT)[:-9])
    b.write_bytes(b"old")
    with pytest.raises(ValueError, match="^source is '.* and cannot be decompressed: it ends too early$"):
        fl.decompress_file(a, b)
    assert b.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_wrong_arguments(tmp_path):
    a = tmp_path / "a"
    a.write_bytes(TEXT)
    for arguments, error, text in (
        ((a, 3), TypeError, "target must be a path, not 3"),
        ((a, tmp_path / "none" / "b"), ValueError, "the folder does not exist"),
        ((a, os.devnull), ValueError, "target is '.*' and must be the path of a file: it is no regular file"),
        ((b"a", tmp_path / "b"), TypeError, "source must be a path"),
        ((a, tmp_path / "b", "good"), ValueError, "preset is 'good' and must be one of 'default', 'fast', 'best'"),
        ((tmp_path / "none", tmp_path / "b"), FileNotFoundError, "none"),
    ):
        with pytest.raises(error, match=text):
            fl.compress_file(*arguments)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"t", lambda d: b"\xfe" + d[1:]])
def test_a_file_that_changes_meanwhile(change):
    class Changing(io.BytesIO):
        def seek(self, *arguments):
            whole = self.getvalue()
            super().seek(0)
            self.truncate()
            self.write(change(whole))
            return super().seek(*arguments)

    with pytest.raises(ValueError, match="^source has changed while it was read$"):
        _compress.compress(Changing(TEXT), io.BytesIO(), "fast")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_ctrl_c_leaves_nothing_behind(tmp_path, command):
    a = tmp_path / "a.lstm"
    data = np.random.default_rng(4).choice(list(b"aaaabbcd"), 30_000).astype(np.uint8).tobytes()
    a.write_bytes(data)
    options = ["--preset", "best"] if command == "compress" else []  # slow, so that the signal finds it at work
    if command == "decompress":  # the beginning of a file is enough
        a.write_bytes(compressed(data[:20_000], "best"))
    program = subprocess.Popen(
        [sys.executable, "-m", "fastlstm", command, str(a), "-o", str(tmp_path / "b"), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(os.listdir(tmp_path)) == 1 and program.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)  # NumPy imports numpy.random when it is first used, and loses a KeyboardInterrupt that comes then
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=60)[1].strip() == "Stopped by Ctrl-C." and program.returncode == 130
    assert os.listdir(tmp_path) == ["a.lstm"]


# --- The command line -------------------------------------------------------------------------------------------------
def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(TEXT)
    assert main(["compress", "a", "--preset", "fast"]) == 0
    size = os.path.getsize("a.lstm")
    assert f"a: {len(TEXT):,} to {size:,} bytes in" in capsys.readouterr().err
    assert main(["decompress", "a.lstm"]) == 1
    assert capsys.readouterr().err == "fastlstm decompress: output is a, which exists: -f writes over it\n"
    (tmp_path / "a").write_bytes(b"")
    assert main(["decompress", "a.lstm", "-f"]) == 0 and (tmp_path / "a").read_bytes() == TEXT
    assert main(["decompress", "a.lstm", "-o", "b"]) == 0 and (tmp_path / "b").read_bytes() == TEXT
    assert main(["decompress", "b"]) == 1 and "name a file to write, with -o" in capsys.readouterr().err
    assert main(["decompress", "b", "-o", "c"]) == 1 and "not a file that fastlstm" in capsys.readouterr().err
    assert main(["compress", "none"]) == 1 and "none" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["a", "a.lstm", "b"]


def test_command_line_between_pipes():
    command = [sys.executable, "-m", "fastlstm"]
    small = subprocess.run(
        [*command, "compress", "-p", "fast", "-"], input=TEXT, capture_output=True, check=True
    ).stdout
    assert small == compressed(TEXT)
    back = subprocess.run([*command, "decompress", "-"], input=small, capture_output=True, check=True).stdout
    assert back == TEXT
    cut = subprocess.run([*command, "decompress", "-"], input=small[:-1], capture_output=True)
    assert cut.returncode == 1 and cut.stdout == b"" and cut.stderr.count(b"\n") == 1
