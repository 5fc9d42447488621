"""A good guest: an import and a call leave the process as they found it, one bad number stays where it is, processes
may fork, Ctrl-C is answered, other threads run on."""

import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import FAMILIES, assert_same_bits, describe, families, leaves, map_state, random_state, with_weights

import fastlstm as fl

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
TRIES = 5  # of a measurement on a machine that may be busy


def python(code, *options, **environment):
    """Run `code` in a fresh interpreter; returns what it printed as JSON on its last line."""
    command = [sys.executable, "-X", "faulthandler", *options, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def within(limit, measure):
    """Whether one of a few measurements is at most `limit`; prints them (pytest -s or -rP shows it)."""
    for _ in range(TRIES):
        value = measure()
        print(f"measured {value:.4g}, limit {limit}")
        if value <= limit:
            return True
    return False


# The start of most scripts below: a function for each kind of call, on sizes that take a moment.
CALLS = """
import json, os, signal, sys, threading, time
import numpy as np
import numpy.random
import fastlstm as fl

def make(hidden=24, steps=50, lanes=3, bidirectional=True):
    x = np.random.default_rng(0).standard_normal((steps, lanes, 4)).astype(np.float32)
    net = fl.Sequential(fl.LSTM(4, hidden, seed=1), fl.Linear(hidden, 2, seed=2))
    both = fl.LSTM(4, hidden, bidirectional=True, seed=3)
    stream = net.stream(lanes)
    optimizer = fl.SGD(net, lr=1e-3, momentum=0.5, decay=0.999999)
    learner = fl.OnlineLearner(net, optimizer=optimizer, lanes=lanes)
    targets = np.tanh(x[..., :2])
    return {
        "call": lambda: net(x)[0],
        "bidirectional": lambda: both(x)[0],
        "stream.run": lambda: stream.run(x),
        "stream.step": lambda: [stream.step(row) for row in x][-1],
        "learner.run": lambda: learner.run(x, targets),
        "learner.step": lambda: [learner.step(a, b) for a, b in zip(x, targets)][-1],
        "sgd": lambda: fl.SGD(net, lr=1e-3).step(),
        "learner": learner, "stream": stream, "net": net, "both": both, "x": x, "targets": targets,
        "optimizer": optimizer,
    }

NAMES = ["call", "bidirectional", "stream.run", "stream.step", "learner.run", "learner.step", "sgd"]
"""


# Import ---------------------------------------------------------------------------------------------------------------

WORLD = """
import ctypes, gc, json, locale, os, random, signal, sys, warnings
import numpy as np
import numpy.random

def c_environment():
    pointer, found = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ"), []
    while pointer[len(found)]:
        found.append(pointer[len(found)])
    return found

def world():
    return {
        "os.environ": dict(os.environ),
        "environ of C": c_environment() if os.name == "posix" else None,
        "warnings": list(warnings.filters),
        "signal handlers": [signal.getsignal(s) for s in sorted(signal.valid_signals())],
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
        "random state": random.getstate(),
        "numpy random state": repr(np.random.get_state()),
        "hooks": (sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile(), sys.meta_path[:], sys.path[:]),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold(), gc.isenabled()),
        "locale": locale.setlocale(locale.LC_ALL),
        "directory": os.getcwd(),
        "files": sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None,
        "threads": len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else None,
    }
"""


def test_import_and_use_leave_the_world_as_it_was():
    code = (
        WORLD
        + "before = world()\nimport fastlstm\nimported = world()\n"
        + CALLS
        + """
calls = make()
for name in NAMES:
    calls[name]()
used = world()
print(json.dumps([[k for k in before if before[k] != later[k]] for later in (imported, used)]))
"""
    )
    assert python(code) == [[], []]


def test_import_brings_in_numpy_alone():
    code = """
import json, sys
import numpy, numpy.random
before = set(sys.modules)
import fastlstm
fastlstm.OnlineLearner(fastlstm.LSTM(1, 1)).step([1.0])
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(new - set(sys.stdlib_module_names))))
"""
    new = [name for name in python(code) if not name.startswith(("_cython_", "cython_runtime"))]
    assert new == ["fastlstm"]


def test_import_takes_30_ms_beyond_numpy(tmp_path):
    code = """
import json, time
import numpy
start = time.perf_counter()
import fastlstm
print(json.dumps(1e3 * (time.perf_counter() - start)))
"""
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    python(code, **compiled)  # as an installed package is
    assert within(30, lambda: statistics.median(python(code, **compiled) for _ in range(5)))


@LINUX
def test_resident_memory_beyond_numpy():
    code = """
import json
import numpy as np
import numpy.random

def resident():  # MB
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

np.random.default_rng(0).uniform(-1, 1, 8).astype(np.float32).reshape(2, 4).copy()
before = resident()
"""
    assert within(5, lambda: python(code + CALLS + "c = make()\nfor n in NAMES: c[n]()\nprint(resident() - before)"))


@LINUX
def test_no_call_starts_a_thread():
    code = (
        CALLS
        + """
calls, seen, done = make(hidden=64, steps=2000, lanes=2), [], False
count = lambda: len(os.listdir("/proc/self/task"))

def watch():
    while not done:
        seen.append(count())

before = count()
watcher = threading.Thread(target=watch)
watcher.start()
for name in NAMES:
    calls[name]()
done = True
watcher.join()
for _ in range(100):  # a joined thread may be listed for a moment more
    if count() > before:
        time.sleep(0.01)
print(json.dumps([before, max(seen), count(), len(seen)]))
"""
    )
    before, most, after, looks = python(code)
    assert (most, after) == (before + 1, before) and looks > 50  # the watcher itself is the one more


# The floating-point mode ----------------------------------------------------------------------------------------------

MODE = """
import ctypes, platform
import numpy as np
libm = ctypes.CDLL(None)
X86 = platform.machine() in ("x86_64", "AMD64") and platform.system() == "Linux"
ENV = (ctypes.c_ubyte * 32)  # fenv_t of Linux on x86-64: the x87 control word first, MXCSR last

def subnormals_work():
    tiny, single = float("5e-324"), np.full(40, 1e-40, np.float32)
    return tiny * 2 != 0 and bool((single + single != 0).all()) and bool((single * np.float32(2) != 0).all())

def mode():
    if not X86:
        return subnormals_work()
    env = ENV()
    libm.fegetenv(env)
    return bytes(env[:2]).hex(), int.from_bytes(bytes(env[28:]), "little") & ~0x3f  # without the sticky flags

def set_mxcsr(bits):
    env = ENV()
    libm.fegetenv(env)
    env[28:] = (int.from_bytes(bytes(env[28:]), "little") | bits).to_bytes(4, "little")
    libm.fesetenv(env)
"""


def test_floating_point_mode_is_left_alone():
    code = (
        MODE
        + "found = [('at first', mode(), subnormals_work())]\nimport fastlstm\n"
        + "found.append(('import', mode(), subnormals_work()))\n"
        + CALLS
        + """
calls = make()
for name in NAMES:
    calls[name]()
    found.append((name, mode(), subnormals_work()))
try:
    calls["net"](calls["x"], lengths=[1])
except ValueError:
    found.append(("an error", mode(), subnormals_work()))
print(json.dumps(found))
"""
    )
    found = python(code)
    assert [mode for _, mode, _ in found] == [found[0][1]] * len(found), found
    assert all(works for _, _, works in found), found


@pytest.mark.skipif(platform.machine() != "x86_64" or platform.system() != "Linux", reason="knows one fenv_t")
@pytest.mark.parametrize("bits", [0x8040, 0x4000], ids=["flush to zero", "round upward"])
def test_a_mode_of_the_callers_own_survives(bits):
    code = (
        MODE
        + CALLS
        + f"""
calls, found = make(), []
set_mxcsr({bits})
mine = mode()
for name in NAMES:
    calls[name]()
    found.append(mode())
print(json.dumps([mine, found]))
"""
    )
    mine, found = python(code)
    assert mine[1] & bits == bits and found == [mine] * len(found)


@pytest.mark.skipif(platform.machine() != "x86_64" or platform.system() != "Linux", reason="knows its flags")
def test_no_sticky_flag_is_raised():
    """A step overflows and divides inside C; the caller's flags do not tell."""
    code = (
        MODE
        + """
import fastlstm as fl, json
layer = fl.LSTM(1, 4, input_activation="identity", forget_gate=False, output_activation="identity", seed=0)
stream, x, out = layer.stream(), np.full(1, 3e38, np.float32), np.empty(4, np.float32)
stream.step(x, out=out)
libm.feclearexcept(0x3f)
for _ in range(9):
    stream.step(x, out=out)
print(json.dumps([libm.fetestexcept(0x3f), bool(np.isfinite(stream.state[1]).all())]))
"""
    )
    assert python(code) == [0, False]


SUBNORMAL = """
import json, sys, time
import numpy as np
import fastlstm as fl

H, T = 64, 2000
layer = fl.LSTM(H, H, seed=0)
layer.load_state_dict({name: 0.1 * value for name, value in layer.state_dict().items()})
bias = layer.bias_ih_l0.copy()
bias[:2 * H] = np.repeat([-200, 200], H)  # input gates shut, forget gates open: the cell state stays what it is
layer.bias_ih_l0 = bias
stream, learner = layer.stream(), fl.OnlineLearner(layer)

def state(c):
    return np.full((1, 1, H), c, np.float32), np.full((1, 1, H), c, np.float32)

def steps(c):
    stream.state, x, y = state(c), np.full(H, c, np.float32), np.empty(H, np.float32)
    for _ in range(T):
        stream.step(x, out=y)

def run(c):
    stream.state = state(c)
    stream.run(np.full((T, H), c, np.float32))

def call(c):
    layer(np.full((T, 1, H), c, np.float32), state(c))

def learn(c):
    learner.state = state(c)
    learner.run(np.full((T // 4, H), c, np.float32), np.full((T // 4, H), c, np.float32))

def best(function, value, so_far=9.0):
    start = time.thread_time()  # of the processor: other programs do not count
    function(value)
    return min(so_far, time.thread_time() - start)

ratios = {}
for function in (steps, run, call, learn):
    small = large = 9.0
    for _ in range(9):
        small, large = best(function, 1e-39, small), best(function, 1.0, large)
    ratios[function.__name__] = small / large
print(json.dumps(ratios))
"""


def test_subnormals_take_no_longer():
    assert within(1.2, lambda: max(python(SUBNORMAL).values()))


# NaN and infinity -----------------------------------------------------------------------------------------------------

# Every kind of cell, each with two bias vectors, one and none; deep and bidirectional ones; and a linear layer.
CELLS = [family | {"bias": bias} for family in FAMILIES if "bias" not in family for bias in (True, "single", False)]
CELLS += [{"num_layers": 2}, {"bidirectional": True}, {"bidirectional": True, "batch_first": True}]
CELLS += [{"dtype": "float64"}, {"dtype": "float64", "clip": 0.4, "peepholes": True}, {"linear": True}]
cells = pytest.mark.parametrize("options", CELLS, ids=describe)

T, B, I = 9, 5, 3
PLACEMENTS = 200


def build(options):
    """A layer of the kind, and functions that bring its arrays from (T, B, .) to its form and back."""
    if options == {"linear": True}:
        layer = fl.Linear(I, 6, activation="relu", seed=0)
    else:
        layer = fl.LSTM(I, 6, seed=0, **options)
    turn = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if layer.batch_first else (lambda a: a)
    return with_weights(layer), turn


def batch(dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((T, B, I)).astype(dtype)


@cells
def test_nan_spoils_its_row_from_its_step_on_and_nothing_else(options):
    layer, turn = build(options)
    x, rng = batch(layer.dtype), np.random.default_rng(1)
    clean = turn(layer(turn(x))[0])
    assert np.isfinite(clean).all()
    for _ in range(PLACEMENTS):
        t, b, k = rng.integers((T, B, I))
        bad = x.copy()
        bad[t, b, k] = np.nan
        wanted, half = clean.copy(), clean.shape[2] // 2
        if layer.__dict__.get("bidirectional"):
            wanted[t:, b, :half] = np.nan
            wanted[: t + 1, b, half:] = np.nan
        else:
            wanted[t : t + 1 if options == {"linear": True} else T, b] = np.nan
        y, state = layer(turn(bad))
        assert np.array_equal(turn(y), wanted, equal_nan=True), f"NaN at {(t, b, k)}"
        for path, array in leaves(state):
            spoilt = np.isnan(array).any(axis=(0, 2))
            assert spoilt.tolist() == [lane == b for lane in range(B)], f"{path}, NaN at {(t, b, k)}"


@cells
def test_padding_is_never_read(options):
    layer, turn = build(options)
    x, rng = batch(layer.dtype), np.random.default_rng(2)
    for _ in range(PLACEMENTS // 4):
        lengths = rng.integers(1, T + 1, B)
        bad = x.copy()
        for b, length in enumerate(lengths):
            bad[length:, b] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
        assert_same_bits(layer(turn(bad), lengths=lengths), layer(turn(x), lengths=lengths))


@cells
@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38, -3e38])
def test_huge_inputs_stay_in_their_lane(options, value):
    layer, turn = build(options)
    x, rng = batch(layer.dtype), np.random.default_rng(3)
    clean = turn(layer(turn(x))[0])
    for _ in range(PLACEMENTS // 10):
        t, b, k = rng.integers((T, B, I))
        bad = x.copy()
        bad[t, b, k] = value
        y = turn(layer(turn(bad))[0])
        others = np.arange(B) != b
        assert np.array_equal(y[:, others], clean[:, others])
        if not layer.__dict__.get("bidirectional"):
            assert np.array_equal(y[:t], clean[:t])


def test_infinity_saturates_as_arithmetic_says():
    """One infinite input makes every net input infinite: gates 0 or 1, tanh -1 or 1, nothing NaN."""
    layer = with_weights(fl.LSTM(1, 20))
    y, (_, c) = layer(np.full((1, 1, 1), np.inf, np.float32))
    i, _, g, o = np.split(np.sign(layer.weight_ih_l0[:, 0]), 4)
    wanted = (i > 0) * g
    np.testing.assert_array_equal(c[0, 0], wanted)
    np.testing.assert_allclose(y[0, 0], (o > 0) * np.tanh(wanted), rtol=1e-6)


@families
def test_a_reset_ends_what_nan_spoilt(options):
    layer, _ = build(options)
    x = batch("float32")
    reset = np.zeros((T, B), bool)
    reset[4, 2] = True
    bad = x.copy()
    bad[1, 2] = np.nan
    y, state = layer(bad, reset=reset)
    clean, wanted = layer(x, reset=reset)
    assert np.isnan(y[1:4, 2]).all()
    y[1:4, 2] = clean[1:4, 2]
    assert_same_bits((y, state), (clean, wanted))


@families
def test_nan_in_a_state_stays_in_its_lane(options):
    layer, _ = build(options)
    x, clean, keep = batch("float32"), random_state(layer, B), np.arange(B) != 1

    def spoil(array):
        array = array.copy()
        array[:, 1] = np.nan
        return array

    y, after = layer(x, map_state(spoil, clean))
    wanted, wanted_after = layer(x, clean)
    assert np.isnan(y[:, 1]).all()
    assert_same_bits(y[:, keep], wanted[:, keep])
    assert_same_bits(map_state(lambda a: a[:, keep], after), map_state(lambda a: a[:, keep], wanted_after))


@families
def test_nan_stays_in_its_lane_of_a_stream(options):
    layer, _ = build(options)
    x = batch("float32")
    x[3, 2, 1] = np.nan
    wanted, _ = layer(x)
    stream = layer.stream(B)
    assert_same_bits(np.stack([stream.step(row) for row in x]), wanted)
    again = layer.stream(B)
    assert_same_bits(again.run(x), wanted)
    stream.reset(np.arange(B) == 2)
    assert np.isfinite(stream.step(batch("float32")[0])).all()


@families
def test_nan_without_a_target_does_not_spoil_what_is_learnt(options):
    """The lane with NaN has no target: the weights change as if its input were any other number."""
    x, targets = batch("float32"), np.tanh(batch("float32", 7))
    targets[:, 2] = np.nan

    def learn(x, **more):
        net = fl.Sequential(fl.Linear(I, 4, seed=1), fl.LSTM(4, 6, seed=2, **options), fl.Linear(6, I, seed=3))
        learner = fl.OnlineLearner(net, optimizer=fl.SGD(net, lr=0.1), lanes=B, **more)
        y = learner.run(x, targets)
        return np.delete(y, 2, axis=1), net.parameters.copy(), learner.loss

    bad = x.copy()
    bad[3, 2, 1] = np.nan
    for chunk in (1, 4):
        assert_same_bits(learn(bad, chunk=chunk)[:2], learn(x, chunk=chunk)[:2])
        assert np.isfinite(learn(bad, chunk=chunk)[2])


@pytest.mark.parametrize("hidden", [3, 8, 16, 17])
@pytest.mark.parametrize("make", [fl.LSTM, fl.LSTM1997], ids=["LSTM", "LSTM1997"])
@pytest.mark.parametrize("chunk", [1, 2])
def test_huge_inputs_leave_no_hidden_nan(make, hidden, chunk):
    """Saturated cells learn nothing from huge inputs, whether or not the units fill the vector registers."""

    def learner():
        net = fl.Sequential(fl.Linear(1, 1, seed=0), make(1, hidden, seed=1), fl.Linear(hidden, 1, seed=2))
        net[0].weight = np.ones((1, 1), np.float32)
        return fl.OnlineLearner(net, optimizer=fl.SGD(net, lr=1e-3), chunk=chunk)

    first, second = learner(), learner()
    for value in (3e38, 3e38, 3e38, 3e38, 0.0, 0.0):
        first.step(np.full(1, value, np.float32), np.zeros(1, np.float32))
    assert np.isfinite(first.net.parameters).all()
    second.net.load_state_dict(first.net.state_dict())
    for each in (first, second):
        each.reset()
        each.run(np.ones((4, 1), np.float32), np.ones((4, 1), np.float32))
    assert_same_bits(first.net.parameters, second.net.parameters)


# Fork -----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_children_of_a_fork_compute_the_same_bits(threads):
    code = (
        CALLS
        + f"fl.set_num_threads({threads})"
        + """
import hashlib, select

def digest():
    calls = make()
    return hashlib.sha256(b"".join(calls[name]().tobytes() for name in NAMES if name != "sgd")).hexdigest()

calls = make(hidden=64, lanes=8)
for name in NAMES:
    calls[name]()
wanted, pipes = digest(), []
for _ in range(20):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # fresh objects, then those that the parent has used
        calls["call"](), calls["stream.run"]()
        more = hashlib.sha256(calls["learner.run"]().tobytes()).hexdigest()
        os.write(writing, (digest() + more).encode())
        os._exit(0)
    os.close(writing)
    pipes.append((child, reading))
got, hung = set(), 0
deadline = time.monotonic() + 60
for child, reading in pipes:
    if select.select([reading], [], [], max(0, deadline - time.monotonic()))[0]:
        got.add(os.read(reading, 1000).decode())
    else:
        hung += 1
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
mine = hashlib.sha256(calls["learner.run"]().tobytes()).hexdigest()
print(json.dumps([hung, sorted(got), wanted + mine]))
"""
    )
    hung, got, wanted = python(code, "-W", "ignore::DeprecationWarning")
    assert hung == 0 and got == [wanted]


# Ctrl-C and other signals ---------------------------------------------------------------------------------------------

# Each call would take many seconds. A thread sends the signal once the call runs: that it can is half of the test.
INTERRUPT = (
    CALLS
    + """
c = make(hidden=512, steps=40_000, lanes=1)
SENT = []

def interrupt(function, number=signal.SIGINT, error=KeyboardInterrupt):
    def send():
        time.sleep(0.3)
        SENT.append(time.perf_counter())
        os.kill(os.getpid(), number)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        function()
    except error:
        late = time.perf_counter() - SENT[-1]
    else:
        raise SystemExit("the call came to its end")
    thread.join()
    return 1e3 * late

def same(a, b):
    return bool(a.tobytes() == b.tobytes())

short, targets = c["x"][:40], c["targets"][:40]
"""
)

INTERRUPTED = {
    "call": """
before = c["net"](short)[0]
late = interrupt(c["call"])
good = [same(c["net"](short)[0], before)]
""",
    "call on two threads": """
fl.set_num_threads(2)
c = make(hidden=256, steps=40_000, lanes=4)
short = c["x"][:40]
before = c["net"](short)[0]
late = interrupt(c["call"])
good = [same(c["net"](short)[0], before)]
""",
    "bidirectional": """
before = c["both"](short)[0]
late = interrupt(c["bidirectional"])
good = [same(c["both"](short)[0], before)]
""",
    "backward": """
net, good = c["net"], []
for start in (0, 1):
    net.zero_grad()
    if start:
        net.grad[:] = start
    y, _, backward = net.forward(c["x"][:8000])
    late = interrupt(lambda: backward(y, need_dx=False))
    good.append(bool((net.grad == start).all()))
""",
    "stream.run": """
stream = c["stream"]
stream.run(short)
twin = stream.copy()
late = interrupt(c["stream.run"])
good = [same(a, b) for a, b in zip(stream.state[0], twin.state[0])] + [same(stream.run(short), twin.run(short))]
""",
    # The rate decays with every update, so it tells how many steps were made: as many by a twin give the same bits.
    "learner.run": """
import copy
learner, twin = c["learner"], copy.deepcopy(c["learner"])
late = interrupt(c["learner.run"])
steps = round(np.log(c["optimizer"].lr / 1e-3) / np.log(0.999999))
twin.run(c["x"][:steps], c["targets"][:steps])
good = [steps > 0, bool(np.isfinite(learner.net.parameters).all()), same(learner.net.parameters, twin.net.parameters)]
good += [same(a, b) for a, b in zip(learner.state[0], twin.state[0])]
good += [same(learner.run(short, targets), twin.run(short, targets))]
good += [same(learner.net.parameters, twin.net.parameters)]
""",
    "learner with a callable loss": """
net = c["net"]
learner = fl.OnlineLearner(net, loss=lambda y, t: (0.0, y - t), optimizer=c["optimizer"])
late = interrupt(lambda: learner.run(c["x"], c["targets"]))
good = [bool(np.isfinite(net.parameters).all()), bool(np.isfinite(learner.run(short, targets)).all())]
""",
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_is_answered_and_leaves_objects_valid(name):
    good = []

    def measure():
        late, each = python(INTERRUPT + INTERRUPTED[name] + "print(json.dumps([late, good]))")
        good.extend(each)
        return late

    assert within(150, measure)  # ms; 50 on a machine with nothing else to do
    assert good and all(good)


HANDLER = """
class Mine(Exception):
    pass

seen = []

def handler(number, frame):
    seen.append(float("5e-324") * 2 != 0)  # the floating-point mode in a handler is the caller's
    raise Mine

signal.signal(signal.SIGUSR1, handler)
names = ["call", "bidirectional", "stream.run", "learner.run"]
late = [interrupt(c[name], signal.SIGUSR1, Mine) for name in names]
ok = [bool(np.isfinite(c["net"](short)[0]).all()), bool(np.isfinite(c["learner"].run(short, targets)).all())]
print(json.dumps([max(late), seen, ok]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1")
def test_what_a_signal_handler_raises_comes_out_of_the_call():
    late, seen, ok = python(INTERRUPT + HANDLER)
    assert seen == [True] * 4 and all(ok) and late < 1000


@pytest.mark.skipif(sys.platform == "win32", reason="no timers of signals")
def test_a_signal_handler_that_returns_disturbs_nothing():
    code = (
        CALLS
        + """
c, quiet, seen = make(hidden=96, steps=4000, lanes=2), make(hidden=96, steps=4000, lanes=2), []
names = ["call", "bidirectional", "stream.run", "learner.run"]
wanted = [quiet[name]() for name in names]
signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
got = [c[name]() for name in names]
signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps([len(seen), [a.tobytes() == b.tobytes() for a, b in zip(got, wanted)]]))
"""
    )
    seen, same = python(code)
    assert seen > 10 and all(same)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1")
def test_a_signal_handler_cannot_use_the_object_that_is_running():
    """Whatever it tries is refused; the call goes on and gives its bits."""
    code = (
        INTERRUPT
        + """
c, quiet = make(hidden=96, steps=40_000, lanes=1), make(hidden=96, steps=40_000, lanes=1)
stream, learner, x, refused = c["stream"], c["learner"], c["x"][:1], {}
state, zeros = stream.state, c["targets"][:1]

def attempt(name, function):
    try:
        function()
        refused[name] = False
    except RuntimeError:
        refused[name] = True

def during_stream(number, frame):
    c["net"][1].bias = np.zeros(2, np.float32)
    attempt("stream.step", lambda: stream.step(x[0]))
    attempt("stream.run", lambda: stream.run(x))
    attempt("stream.refresh", stream.refresh)
    attempt("stream.reset", stream.reset)
    attempt("stream.state", lambda: setattr(stream, "state", state))

def during_learner(number, frame):
    attempt("learner.step", lambda: learner.step(x[0], zeros[0]))
    attempt("learner.run", lambda: learner.run(x, zeros))
    attempt("learner.reset", learner.reset)
    attempt("learner.apply", learner.apply)
    attempt("learner.state", lambda: setattr(learner, "state", state))

same = []
for name, handler in (("stream.run", during_stream), ("learner.run", during_learner)):
    weights = c["net"].state_dict()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    got = c[name]()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if name == "stream.run":
        c["net"].load_state_dict(weights)
    same.append(got.tobytes() == quiet[name]().tobytes())
print(json.dumps([refused, same]))
"""
    )
    refused, same = python(code)
    assert len(refused) == 10 and all(refused.values()), refused
    assert all(same)


# The GIL --------------------------------------------------------------------------------------------------------------


def test_other_threads_run_while_c_does():
    """A thread that counts gets on while each of the calls runs; with the GIL held it would stand still."""
    code = (
        CALLS
        + """
c, counts = make(hidden=256, steps=3000, lanes=1), {}
for name in ("call", "bidirectional", "stream.run", "learner.run"):
    count, done = 0, False

    def counting():
        global count
        while not done:
            count += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=counting)
    thread.start()
    before, start = count, time.perf_counter()
    c[name]()
    counts[name] = [count - before, time.perf_counter() - start]
    done = True
    thread.join()
print(json.dumps(counts))
"""
    )
    for name, (count, seconds) in python(code).items():
        assert seconds > 0.02 and count > 20 * seconds, name  # some 1,000 a second with a core to itself
