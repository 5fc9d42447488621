"""The choice of instruction set (FASTLSTM_ISA) and what build_info() says about it."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import fastlstm as fl

BEST_FIRST = ["avx512", "avx2", "neon", "generic"]
AVAILABLE = fl.build_info()["available"]
WITH_FMA = [isa for isa in AVAILABLE if isa != "generic"]


def python(code, isa=None):
    """Run `code` in a fresh interpreter with FASTLSTM_ISA set to `isa` (None: not set)."""
    environment = {name: value for name, value in os.environ.items() if name != "FASTLSTM_ISA"}
    if isa is not None:
        environment["FASTLSTM_ISA"] = isa
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def output(code, isa=None):
    done = python(code, isa)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CHOSEN = "import fastlstm; print(fastlstm.build_info()['isa'])"
BITS = """
import hashlib, numpy as np, fastlstm as fl
x = np.random.default_rng(0).standard_normal((40, 3, 5)).astype(np.float32)
net = fl.Sequential(fl.LSTM(5, 21, seed=1), fl.LSTM1997(21, 5, 3, seed=2), fl.Linear(15, 3, seed=3))
y, _ = net(x)
learner = fl.OnlineLearner(net, optimizer=fl.SGD(net, lr=0.1, momentum=0.5), lanes=3)
digest = hashlib.sha256(y.tobytes() + learner.run(x, np.tanh(x[..., :3])).tobytes() + net.parameters.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("isa", AVAILABLE)
def test_every_available_instruction_set_can_be_forced(isa):
    assert output(CHOSEN, isa) == isa


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_the_default_is_the_best(value):
    assert output(CHOSEN, value) == AVAILABLE[0]


@pytest.mark.parametrize("value", ["sse9", "AVX2", " avx2", "avx2,generic", "0", "gen", "é"])
def test_an_unknown_name_is_refused_at_import(value):
    done = python("import fastlstm", value)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(("ValueError: ", "ImportError: ")) and "FASTLSTM_ISA" in last
    assert all(name in last for name in AVAILABLE) and len(last) <= 200


def test_a_known_name_that_this_machine_lacks_is_refused_too():
    for isa in set(BEST_FIRST) - set(AVAILABLE):
        done = python("import fastlstm", isa)
        assert done.returncode == 1 and "FASTLSTM_ISA" in done.stderr.strip().splitlines()[-1]


def test_a_refused_import_can_be_repeated_with_another_name():
    code = """
import os
try:
    import fastlstm
except (ImportError, ValueError):
    os.environ["FASTLSTM_ISA"] = "generic"
    import fastlstm
print(fastlstm.build_info()["isa"])
"""
    assert output(code, "sse9") == "generic"


def test_the_variable_is_read_at_import_only():
    code = "import os, fastlstm; os.environ['FASTLSTM_ISA'] = 'sse9'; fastlstm.LSTM(1, 1); " + CHOSEN
    assert output(code, "generic") == "generic"


@pytest.mark.parametrize("isa", WITH_FMA)
def test_instruction_sets_with_fused_multiply_add_give_the_same_bits(isa):
    assert output(BITS, isa) == output(BITS, WITH_FMA[0])


def test_build_info():
    info = fl.build_info()
    assert list(info)[:5] == ["version", "isa", "available", "blas", "threads"]
    assert info["version"] == fl.__version__ and isinstance(fl.__version__, str)
    assert info["isa"] in info["available"]
    assert info["blas"] is None or isinstance(info["blas"], str)
    assert type(info["threads"]) is int and info["threads"] == fl.get_num_threads()


def test_one_thread_unless_asked():
    code = "import os; os.environ.pop('FASTLSTM_NUM_THREADS', None); import fastlstm; print(fastlstm.get_num_threads())"
    assert output(code) == "1"


def test_available_sets_come_best_first_and_end_with_generic():
    assert AVAILABLE == sorted(set(AVAILABLE), key=BEST_FIRST.index)
    assert AVAILABLE[-1] == "generic"
    machine = platform.machine().lower()
    assert ("neon" in AVAILABLE) == (machine in ("aarch64", "arm64"))


def test_build_info_is_a_fresh_copy():
    fl.build_info()["available"].clear()
    assert fl.build_info()["available"] == AVAILABLE


def test_float64_works_on_the_chosen_set():
    y, _ = fl.LSTM(2, 3, dtype="float64", seed=0)(np.ones((4, 2)))
    assert y.dtype == np.float64 and np.isfinite(y).all()
