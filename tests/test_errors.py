"""Bad calls: each raises the right exception, says in one short line which argument is wrong, and changes nothing.

The tables are (what is called, exception, words that the message must have); the first word is the argument's name.
Run as a program, this file makes random calls: ``python tests/test_errors.py [seed] [calls]``.
"""

import faulthandler
import math
import re
import subprocess
import sys
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest

import fastlstm as fl

V, T, EITHER = ValueError, TypeError, (ValueError, TypeError)
SIZES = (ValueError, MemoryError)  # what is too large may also fail where the memory is asked for
NAN, INF = math.nan, math.inf
RIGHT = object()
HUGE = 2**39  # each below the limit of one size; their products are not


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


class World:
    """Objects of each kind that have been used a little, so that a change of any part of them shows."""

    def __init__(self):
        self.lstm = fl.LSTM(3, 4, seed=0)
        self.linear = fl.Linear(3, 2, seed=1)
        self.both = fl.LSTM(3, 4, bidirectional=True, seed=2)
        self.net = fl.Sequential(fl.LSTM(3, 4, seed=3), fl.Linear(4, 2, seed=4))
        self.x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
        self.targets = np.tanh(self.x[..., :2])
        self.one, self.two = self.lstm.stream(), self.lstm.stream(2)
        self.sgd = fl.SGD(self.net, lr=0.1, momentum=0.5, decay=0.99)
        self.learner = fl.OnlineLearner(self.net, optimizer=self.sgd, chunk=3, lanes=2)
        self.single = fl.OnlineLearner(self.lstm, loss="sse")
        self.classes = fl.OnlineLearner(self.linear, loss="cross_entropy", lanes=2)
        self.answer = RIGHT  # of the callable loss
        self.called = fl.OnlineLearner(self.lstm, loss=self.loss)
        self.out = zeros(2, 4)
        self.one.run(self.x[:, 0])
        self.two.run(self.x)
        for learner in (self.learner, self.called):
            learner.step(self.x[0, : learner.lanes], learner.net(self.x[:1, : learner.lanes])[0][0] * 0)
        self.single.step(self.x[0, 0], np.ones(4, np.float32))
        self.classes.step(self.x[0], [1, -1])
        self.lstm.grad[:] = 1

    def loss(self, y, target):
        if callable(self.answer):
            return self.answer()
        return (0.0, np.ones_like(y)) if self.answer is RIGHT else self.answer

    def everything(self):
        """All that a call might change, by name, as bytes."""
        values = {}
        for name in ("lstm", "linear", "both", "net"):
            values[name], values[name + ".grad"] = getattr(self, name).parameters, getattr(self, name).grad
        for name in ("one", "two"):
            values[name] = getattr(self, name).flat_state
        for name in ("learner", "single", "classes", "called"):
            learner = getattr(self, name)
            values |= {f"{name}.{key}": value for key, value in learner.__getstate__()["memory"].items()}
            values[name + ".loss"] = np.float64(learner.loss)
        values |= {f"sgd.{key}": value for key, value in self.sgd.state_dict().items()}
        values |= {"x": self.x, "out": self.out, "targets": self.targets}
        return {name: v.tobytes() if hasattr(v, "tobytes") else repr(v) for name, v in values.items()}


@pytest.fixture
def world():
    return World()


def rejects(call, kind, words, world=None):
    """`call` raises `kind`, in one short line that has `words`, and `world` stays as it is."""
    before = world.everything() if world else None
    with pytest.raises(kind) as caught:
        call() if world is None else call(world)
    if before:
        after = world.everything()
        assert [name for name in before if before[name] != after[name]] == []
    message = str(caught.value)
    if isinstance(caught.value, MemoryError):
        return
    assert "\n" not in message and 0 < len(message) <= 200, message
    for word in [words] if isinstance(words, str) else words:
        assert any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", message) for w in word.split("|")), message


def table(rows):
    return pytest.mark.parametrize(("call", "kind", "words"), [pytest.param(*row[1:], id=row[0]) for row in rows])


# Constructors ---------------------------------------------------------------------------------------------------------

BAD_SIZES = [("0", 0, V), ("-1", -1, V), ("True", True, T), ("1.5", 1.5, T), ("'3'", "3", T), ("None", None, T)]
BAD_SIZES += [("2**63", 2**63, V), ("-2**63", -(2**63), V), ("10**400", 10**400, V), ("nan", NAN, T), ("[3]", [3], T)]
BAD_SIZES += [("array", np.array([3, 4]), T), ("1j", 1j, T), ("float64", np.float64(3), T), ("bool_", np.True_, T)]
SIZED = {
    "input_size": [lambda n: fl.LSTM(n, 4), lambda n: fl.LSTM1997(n, 2)],
    "hidden_size": [lambda n: fl.LSTM(3, n)],
    "num_layers": [lambda n: fl.LSTM(3, 4, n)],
    "block_size": [lambda n: fl.LSTM(3, 4, block_size=n), lambda n: fl.LSTM1997(3, 2, n)],
    "blocks": [lambda n: fl.LSTM1997(3, n)],
    "in_features": [lambda n: fl.Linear(n, 2)],
    "out_features": [lambda n: fl.Linear(3, n)],
    "lanes": [lambda n: fl.LSTM(3, 4).stream(n), lambda n: fl.OnlineLearner(fl.LSTM(3, 4), lanes=n)],
    "chunk": [lambda n: fl.OnlineLearner(fl.LSTM(3, 4), chunk=n)],
}


@pytest.mark.parametrize(("value", "kind"), [pytest.param(v, k, id=name) for name, v, k in BAD_SIZES])
@pytest.mark.parametrize("name", SIZED)
def test_sizes(name, value, kind):
    for make in SIZED[name]:
        rejects(lambda make=make: make(value), kind, name)


@table([
    ("hidden 2**31", lambda: fl.LSTM(3, 2**31), V, "hidden_size"),
    ("input and hidden", lambda: fl.LSTM(HUGE, HUGE), V, "hidden_size"),
    ("blocks", lambda: fl.LSTM1997(3, HUGE, HUGE), V, "blocks"),
    ("one block", lambda: fl.LSTM(1, HUGE, block_size=HUGE), V, "hidden_size"),
    ("features", lambda: fl.Linear(HUGE, HUGE), V, "out_features"),
    ("lanes of a stream", lambda: fl.LSTM(3, 4).stream(HUGE), SIZES, "lanes"),
    ("lanes of a linear stream", lambda: fl.Linear(3, 4).stream(HUGE), SIZES, "lanes"),
    ("lanes of a learner", lambda: fl.OnlineLearner(fl.LSTM(3, 4), lanes=HUGE), SIZES, "lanes"),
    ("lanes of a linear learner", lambda: fl.OnlineLearner(fl.Linear(3, 4), lanes=HUGE), SIZES, "lanes"),
])  # fmt: skip
def test_sizes_whose_product_overflows(call, kind, words):
    rejects(call, kind, words)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits its own memory")
@pytest.mark.parametrize("layers", ["2**31", "2**39"])
def test_too_many_layers_are_refused_before_they_take_memory(layers):
    code = f"""
import resource, fastlstm as fl
with open("/proc/self/statm") as file:
    limit = int(file.read().split()[0]) * 4096 + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    fl.LSTM(1, 1, num_layers={layers})
except ValueError as error:
    assert "num_layers" in str(error), error
else:
    raise SystemExit("accepted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr.splitlines()[-1:]


ACTIVATION = ("input_activation", "output_activation", "gate_activation")
FLAGS = ("batch_first", "bidirectional", "peepholes", "input_gate", "forget_gate", "output_gate", "coupled_gates")
ODD = [1, 0, "tanh ", "", "x" * 500, b"tanh", NAN, (), ["tanh"], {}, np.zeros((9, 9)), object(), np.float32(1)]


@pytest.mark.parametrize("name", (*ACTIVATION, *FLAGS, "gate_recurrence", "bias", "dtype"))
def test_options_of_a_name_or_a_flag(name):
    for value in ODD + ([None] if name != "dtype" else ["float16", "int32", np.int64, complex]):
        rejects(lambda value=value: fl.LSTM(3, 4, **{name: value}), EITHER, name)


@pytest.mark.parametrize("name", ["bias", "activation", "dtype"])
def test_options_of_a_linear_layer(name):
    for value in ODD + ["float16"] + ([] if name == "bias" else [True]):
        rejects(lambda value=value: fl.Linear(3, 4, **{name: value}), EITHER, name)


def test_no_dtype_is_not_float64():
    rejects(lambda: fl.LSTM(3, 4, dtype=None), EITHER, "dtype")


NOT_NUMBERS = ["x", "1", b"1", None, 1j, True, [1.0], np.ones(2), object(), {}, np.True_]


@table([
    *[(f"clip {v!r}", lambda v=v: fl.LSTM(3, 4, clip=v), V, "clip") for v in (NAN, 0, 0.0, INF, -1, -INF)],
    ("clip 10**400", lambda: fl.LSTM(3, 4, clip=10**400), V, "clip"),
    *[(f"clip {v!r}", lambda v=v: fl.LSTM(3, 4, clip=v), T, "clip") for v in NOT_NUMBERS if v is not None],
    ("block size", lambda: fl.LSTM(3, 4, block_size=3), V, ("block_size", "3", "4")),
    ("block size above", lambda: fl.LSTM(3, 4, block_size=8), V, "block_size"),
    ("coupled", lambda: fl.LSTM(3, 4, coupled_gates=True, input_gate=False), V, ("coupled_gates", "input_gate")),
    *[(f"dropout {v}", lambda v=v: fl.LSTM(3, 4, dropout=v), V, "dropout") for v in (-0.1, NAN, INF, 2)],
    *[(f"proj_size {v}", lambda v=v: fl.LSTM(3, 4, proj_size=v), V, "proj_size") for v in (-1, 4, 2**63)],
    ("dropout str", lambda: fl.LSTM(3, 4, dropout="x"), T, "dropout"),
    ("proj_size str", lambda: fl.LSTM(3, 4, proj_size="x"), T, "proj_size"),
    *[(f"seed {v!r}", lambda v=v: fl.LSTM(3, 4, seed=v), V, "seed") for v in (-1, -(2**63), [-1], np.int64(-1), ["x"])],
    *[(f"seed {v!r}", lambda v=v: fl.LSTM(3, 4, seed=v), T, "seed")
      for v in (True, 1.5, "x", b"x", 1j, object, {}, np.float32(1), np.zeros((2, 2)))],
    ("init -1", lambda: fl.LSTM1997(3, 2, init=-1), V, "init"),
    ("init nan", lambda: fl.LSTM1997(3, 2, init=NAN), V, "init"),
    ("init str", lambda: fl.LSTM1997(3, 2, init="x"), T, "init"),
    *[(f"{name} {v!r}", lambda name=name, v=v: fl.LSTM1997(3, 2, **{name: v}), EITHER, name)
      for name in ("input_gate_bias", "output_gate_bias") for v in ([1, 2, 3], NAN, [1, INF], "x", [[1], [2, 3]], 1j)],
    ("bias of no gate", lambda: fl.LSTM1997(3, 2, input_gate=False, input_gate_bias=-1), V, "input_gate_bias"),
    ("bias of no bias", lambda: fl.LSTM1997(3, 2, bias=False, output_gate_bias=-1), V, "output_gate_bias"),
    ("unknown option", lambda: fl.LSTM(3, 4, hidden=3), T, "hidden"),
    ("unknown option of 1997", lambda: fl.LSTM1997(3, 4, hidden=3), T, "hidden"),
    ("no sizes", lambda: fl.LSTM(), T, ("input_size", "hidden_size")),
])  # fmt: skip
def test_options_of_layers(call, kind, words):
    rejects(call, kind, words)


@table([
    ("none", lambda w: fl.Sequential(), V, "layer"),
    ("not a layer", lambda w: fl.Sequential(fl.LSTM(3, 4), "x"), T, ("layer 1", "str")),
    ("a list", lambda w: fl.Sequential([fl.LSTM(3, 4)]), T, ("layer 0", "list")),
    ("a class", lambda w: fl.Sequential(fl.LSTM), T, ("layer 0", "type")),
    ("widths", lambda w: fl.Sequential(fl.LSTM(3, 4), fl.Linear(5, 2)), V, ("layer 1", "5", "4")),
    ("both directions", lambda w: fl.Sequential(w.both, fl.Linear(4, 2)), V, ("layer 1", "4", "8")),
    ("dtypes", lambda w: fl.Sequential(fl.LSTM(3, 4), fl.Linear(4, 2, dtype="float64")), V, ("layer 1", "float64")),
    ("orders", lambda w: fl.Sequential(fl.LSTM(3, 4), fl.LSTM(4, 4, batch_first=True)), V, "batch_first"),
    ("twice", lambda w: fl.Sequential(*[fl.LSTM(3, 3)] * 2), V, "layer 1"),
    ("of another network", lambda w: fl.Sequential(w.net[0], fl.Linear(4, 2)), V, "layer 0"),
    ("of another network inside", lambda w: fl.Sequential(fl.Linear(3, 3), w.net[0]), V, "layer 1"),
    ("a stream", lambda w: fl.Sequential(w.one), T, ("layer 0", "Stream")),
])  # fmt: skip
def test_sequential(world, call, kind, words):
    rejects(call, kind, words, world)


# Calls ----------------------------------------------------------------------------------------------------------------

X = zeros(5, 2, 3)
RAGGED = [[1.0], [2.0, 3.0]]
# No array of float32: (id, value, exception). Lists of numbers are converted, arrays of another dtype are not.
NO_FLOATS = [
    ("float64", zeros(5, 2, 3, dtype="float64"), T), ("float16", zeros(5, 2, 3, dtype="float16"), T),
    ("int64", zeros(5, 2, 3, dtype="int64"), T), ("bool", zeros(5, 2, 3, dtype="bool"), T),
    ("complex", zeros(5, 2, 3, dtype="complex64"), T), ("object", zeros(5, 2, 3, dtype="object"), T),
    ("str array", zeros(5, 2, 3, dtype="U1"), T), ("big-endian", zeros(5, 2, 3, dtype=">f4"), T),
    ("structured", zeros(5, 2, 3, dtype=[("a", "f4")]), T), ("datetime", zeros(5, 2, 3, dtype="M8[s]"), T),
    ("str", "abc", T), ("None", None, T), ("dict", {}, T), ("object()", object(), T), ("set", {1.0}, T),
    ("list of str", [["a", "b", "c"]], T), ("digits", [["1", "2", "3"]], T), ("list of None", [[None] * 3], T),
    ("list of complex", [[1j, 2, 3]], T), ("generator", (i for i in range(3)), T), ("type", np.float32, T),
    ("bytes", b"abc", T), ("uneven list", RAGGED, EITHER), ("deep uneven list", [[RAGGED], [RAGGED, 1]], EITHER),
]  # fmt: skip
# float32 of a shape that no call takes; the message says the shape.
NO_SHAPES = [("0-d", zeros(), V, "()"), ("no elements", zeros(0), V, "(0,)"), ("4-d", zeros(5, 2, 1, 3), V, "(5, 2, 1, 3)"),
             ("number", 1.5, V, "()"), ("empty list", [], V, "(0,)"), ("[[]]", [[]], V, "(1, 0)")]  # fmt: skip


def arrays(name, call, allowed=None):
    """Rows for all that `call(world, value)` must refuse as its argument `name`."""
    rows = [(f"{name} {i}", lambda w, v=v: call(w, v), kind, name) for i, v, kind in NO_FLOATS if i != allowed]
    return rows + [(f"{name} {i}", lambda w, v=v: call(w, v), kind, (name, shape)) for i, v, kind, shape in NO_SHAPES]


@table([
    *arrays("x", lambda w, v: w.lstm(v)),
    ("1-d", lambda w: w.lstm(zeros(3)), V, ("x", "(3,)")),
    ("I", lambda w: w.lstm(zeros(5, 2, 4)), V, ("x", "(5, 2, 4)")),
    ("I of one sequence", lambda w: w.lstm(zeros(5, 4)), V, ("x", "(5, 4)")),
    ("T=0", lambda w: w.lstm(zeros(0, 2, 3)), V, ("x", "(0, 2, 3)")),
    ("T=0 of one sequence", lambda w: w.lstm(zeros(0, 3)), V, ("x", "(0, 3)")),
    ("B=0", lambda w: w.lstm(zeros(5, 0, 3)), V, ("x", "(5, 0, 3)")),
    ("I=0", lambda w: w.lstm(zeros(5, 2, 0)), V, ("x", "(5, 2, 0)")),
    ("float32 into float64", lambda w: fl.LSTM(3, 4, dtype="float64")(X), T, ("x", "float32", "float64")),
    ("linear", lambda w: w.linear(zeros(5, 2, 4)), V, ("x", "(5, 2, 4)")),
    ("network", lambda w: w.net(zeros(5, 2, 4)), V, ("x", "(5, 2, 4)")),
    ("ragged: width", lambda w: w.lstm([zeros(5, 3), zeros(4, 2)]), V, ("x[1]", "(4, 2)")),
    ("ragged: T=0", lambda w: w.lstm([zeros(5, 3), zeros(0, 3)]), V, ("x[1]", "(0, 3)")),
    ("ragged: dtype", lambda w: w.lstm([zeros(5, 3), zeros(4, 3, dtype="float64")]), T, ("x[1]", "float64")),
    ("ragged: 1-d", lambda w: w.lstm([zeros(5, 3), zeros(3)]), V, ("x[1]", "(3,)")),
    ("ragged: 3-d", lambda w: w.lstm([zeros(5, 3), zeros(4, 1, 3)]), V, ("x[1]", "(4, 1, 3)")),
    ("ragged: None", lambda w: w.lstm([zeros(5, 3), None]), T, "x[1]"),
    ("ragged: str", lambda w: w.lstm([zeros(5, 3), "x"]), T, "x[1]"),
    ("ragged: uneven", lambda w: w.lstm([zeros(5, 3), RAGGED]), EITHER, "x[1]"),
    ("ragged with lengths", lambda w: w.lstm([zeros(5, 3), zeros(4, 3)], lengths=[5, 4]), V, "lengths"),
    ("ragged with reset", lambda w: w.lstm([zeros(5, 3), zeros(4, 3)], reset=zeros(4, 2, dtype=bool)), V, "reset"),
    *[(f"lengths {v!r}", lambda w, v=v: w.lstm(X, lengths=v), V, ("lengths", "(2,)")) for v in ([3], [3, 3, 3], [[3, 3]], 3)],
    *[(f"lengths {v!r}", lambda w, v=v: w.lstm(X, lengths=v), V, ("lengths", "5")) for v in ([0, 3], [3, 6], [-1, 3])],
    ("lengths 2**63", lambda w: w.lstm(X, lengths=np.array([2**63, 3], np.uint64)), V, ("lengths", "5")),
    *[(f"lengths {v!r}", lambda w, v=v: w.lstm(X, lengths=v), T, "lengths")
      for v in ([3.0, 3.0], [NAN, 3], [True, True], ["3", "3"], [None, 3], "33", [1j, 3], [2**64, 3], {3}, object)],
    ("lengths uneven", lambda w: w.lstm(X, lengths=[[3], [3, 3]]), EITHER, "lengths"),
    *[(f"reset {v.shape}", lambda w, v=v: w.lstm(X, reset=v), V, ("reset", "(5, 2)"))
      for v in (zeros(5, dtype=bool), zeros(2, 5, dtype=bool), zeros(5, 2, 1, dtype=bool), zeros(dtype=bool))],
    *[(f"reset {v.dtype}", lambda w, v=v: w.lstm(X, reset=v), T, ("reset", "bool"))
      for v in (zeros(5, 2, dtype=int), zeros(5, 2), zeros(5, 2, dtype=object), zeros(5, 2, dtype="U1"))],
    ("reset str", lambda w: w.lstm(X, reset="x"), T, "reset"),
    ("reset uneven", lambda w: w.lstm(X, reset=[[True], [True, False]]), EITHER, "reset"),
    ("unknown argument", lambda w: w.lstm(X, hx=None), T, "hx"),
])  # fmt: skip
def test_calls_of_layers(world, call, kind, words):
    rejects(call, kind, words, world)


def pair(*shape, dtype="float32"):
    return zeros(*shape, dtype=dtype), zeros(*shape, dtype=dtype)


STATES = [
    ("shape", pair(1, 3, 4), V, "(1, 3, 4)"), ("layers", pair(2, 2, 4), V, "(2, 2, 4)"),
    ("H", pair(1, 2, 3), V, "(1, 2, 3)"), ("2-d", pair(2, 4), V, "(2, 4)"), ("0-d", pair(), V, "()"),
    ("dtype", pair(1, 2, 4, dtype="float64"), T, "float64"), ("integers", pair(1, 2, 4, dtype="int32"), T, "int32"),
    ("c alone wrong", (zeros(1, 2, 4), zeros(1, 2, 3)), V, "c of state"), ("h None", (None, zeros(1, 2, 4)), T, "h of state"),
    ("c None", (zeros(1, 2, 4), None), T, "c of state"), ("strings", ("ab", "cd"), T, "h of state"),
    ("uneven", (RAGGED, RAGGED), EITHER, "h of state"), ("one", (zeros(1, 2, 4),), EITHER, "(h, c)"),
    ("three", (*pair(1, 2, 4), zeros(1, 2, 4)), EITHER, "(h, c)"), ("array", zeros(2, 1, 2, 4), EITHER, "(h, c)"),
    ("dict", {"h": 1, "c": 2}, EITHER, "(h, c)"), ("number", 3, EITHER, "(h, c)"), ("string", "ab", EITHER, "(h, c)"),
]  # fmt: skip
NETWORK_STATES = [
    ("pair", pair(1, 2, 4)), ("two entries", [pair(1, 2, 4)] * 2), ("none", []), ("number", 3), ("None inside", [None]),
    ("shape", [pair(1, 2, 3)]), ("dict", {0: pair(1, 2, 4)}), ("array", zeros(1, 2, 1, 2, 4)),
]  # fmt: skip


@table([
    *[(f"call: {i}", lambda w, v=v: w.lstm(X, v), kind, ("state", word)) for i, v, kind, word in STATES],
    *[(f"stream: {i}", lambda w, v=v: setattr(w.two, "state", v), kind, ("state", word)) for i, v, kind, word in STATES],
    *[(f"network: {i}", lambda w, v=v: w.net(X, v), EITHER, "state") for i, v in NETWORK_STATES],
    *[(f"learner: {i}", lambda w, v=v: setattr(w.learner, "state", v), EITHER, "state") for i, v in NETWORK_STATES],
    ("linear", lambda w: w.linear(X, pair(1, 2, 3)), V, "state"),
    ("stream: None", lambda w: setattr(w.two, "state", None), EITHER, "state"),
    ("bidirectional", lambda w: w.both(X, pair(1, 2, 4)), V, ("state", "(1, 2, 4)", "(2, 2, 4)")),
])  # fmt: skip
def test_states(world, call, kind, words):
    rejects(call, kind, words, world)


def test_the_state_of_a_layer_without_one_can_be_given_back():
    linear = fl.Linear(3, 2, seed=0)
    stream, learner = linear.stream(), fl.OnlineLearner(linear)
    stream.state, learner.state = stream.state, learner.state
    assert linear(X, state=linear(X)[1])[1] is None


# Streams --------------------------------------------------------------------------------------------------------------


def readonly(a):
    a.flags.writeable = False
    return a


@table([
    *arrays("x", lambda w, v: w.one.step(v)),
    *arrays("xs", lambda w, v: w.two.run(v)),
    ("step: I", lambda w: w.one.step(zeros(4)), V, ("x", "(4,)", "(3,)")),
    ("step: two of one lane", lambda w: w.one.step(zeros(2, 3)), V, ("x", "(2, 3)")),
    ("step: one of two lanes", lambda w: w.two.step(zeros(3)), V, ("x", "(3,)", "(2, 3)")),
    ("step: three of two lanes", lambda w: w.two.step(zeros(3, 3)), V, ("x", "(3, 3)")),
    ("step: 3-d", lambda w: w.two.step(zeros(1, 2, 3)), V, ("x", "(1, 2, 3)")),
    ("run: I", lambda w: w.two.run(zeros(5, 2, 4)), V, ("xs", "(5, 2, 4)")),
    ("run: lanes", lambda w: w.two.run(zeros(5, 3, 3)), V, ("xs", "(5, 3, 3)")),
    ("run: 2-d of two lanes", lambda w: w.two.run(zeros(5, 3)), V, ("xs", "(5, 3)")),
    ("run: T=0", lambda w: w.two.run(zeros(0, 2, 3)), V, ("xs", "(0, 2, 3)")),
    ("run: T=0 of one lane", lambda w: w.one.run(zeros(0, 3)), V, ("xs", "(0, 3)")),
    *[(f"out: {i}", lambda w, v=v: w.two.step(X[0], out=v), kind, ("out", word)) for i, v, kind, word in [
        ("shape", zeros(2, 3), V, "(2, 3)"), ("1-d", zeros(8), V, "(8,)"), ("3-d", zeros(1, 2, 4), V, "(1, 2, 4)"),
        ("float64", zeros(2, 4, dtype="float64"), T, "float64"), ("int32", zeros(2, 4, dtype="int32"), T, "int32"),
        ("big-endian", zeros(2, 4, dtype=">f4"), T, ">f4"), ("read-only", readonly(zeros(2, 4)), V, "writeable"),
        ("strided", zeros(2, 8)[:, ::2], V, "contiguous"), ("Fortran", zeros(4, 2).T, V, "contiguous"),
        ("list", [[0.0] * 4] * 2, T, "list"), ("str", "x", T, "str"), ("bytearray", bytearray(32), T, "bytearray"),
        ("broadcast", np.broadcast_to(zeros(4), (2, 4)), V, "out"), ("0-d", zeros(), V, "()"), ("False", False, T, "bool"),
        ("misaligned", np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4), V, "aligned"),
    ]],
    ("out of one lane", lambda w: w.one.step(X[0, 0], out=zeros(1, 4)), V, ("out", "(1, 4)", "(4,)")),
    ("out with a bad x", lambda w: w.two.step(zeros(2, 4), out=w.out), V, "x"),
    *[(f"mask {v!r}", lambda w, v=v: w.two.reset(v), EITHER, "mask")
      for v in (True, [True], [True] * 3, [[True, True]], [0, 1], [1.0, 0.0], "ab", [None, True], [[True], [True, True]])],
    *[(f"weights {v!r}", lambda w, v=v: w.lstm.stream(weights=v), EITHER, "weights")
      for v in ("int7", "", "float32 ", 3, None, np.float32, ["float32"], np.zeros((9, 9)), "x" * 500)],
    ("float64 in float16", lambda w: fl.LSTM(3, 4, dtype="float64").stream(weights="float16"), V, "weights"),
    ("bidirectional", lambda w: w.both.stream(), V, "bidirectional"),
    ("unknown argument", lambda w: w.one.step(X[0, 0], mask=None), T, "mask"),
])  # fmt: skip
def test_streams(world, call, kind, words):
    rejects(call, kind, words, world)


@pytest.mark.parametrize("what", [fl.Stream, fl.OnlineLearner])
def test_an_object_that_was_never_made_is_no_crash(what):
    """As of a subclass that forgets to call __init__."""
    code = f"""
import numpy as np, fastlstm as fl
x = np.zeros(3, np.float32)
for use in ("step(x)", "run(x[None])", "reset()", "copy()", "refresh()", "state", "apply()", "gradients()", "zero_grad()"):
    thing = fl.{what.__name__}.__new__(fl.{what.__name__})
    try:
        eval("thing." + use)
    except Exception:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# Parameters -----------------------------------------------------------------------------------------------------------


def changed(layer, **arrays):
    return layer.state_dict() | arrays


@table([
    ("missing", lambda w: w.linear.load_state_dict({"weight": zeros(2, 3)}), V, "bias"),
    ("unknown", lambda w: w.linear.load_state_dict(changed(w.linear, more=zeros(1))), V, "more"),
    ("empty", lambda w: w.net.load_state_dict({}), V, "0.weight_ih_l0"),
    ("other names", lambda w: w.net.load_state_dict(w.lstm.state_dict()), V, "weight_ih_l0"),
    ("many names", lambda w: fl.LSTM(3, 4, 4, bidirectional=True).load_state_dict({}), V, "weight_ih_l0"),
    ("shape", lambda w: w.linear.load_state_dict(changed(w.linear, bias=zeros(3))), V, ("bias", "(3,)", "(2,)")),
    ("transposed", lambda w: w.linear.load_state_dict(changed(w.linear, weight=zeros(3, 2))), V, ("weight", "(3, 2)")),
    ("no broadcasting", lambda w: w.linear.load_state_dict(changed(w.linear, bias=1.0)), V, ("bias", "()")),
    ("float64", lambda w: w.linear.load_state_dict(changed(w.linear, bias=zeros(2, dtype="float64"))), T, ("bias", "float64")),
    ("complex", lambda w: w.linear.load_state_dict(changed(w.linear, bias=[1j, 2])), T, "bias"),
    ("str", lambda w: w.linear.load_state_dict(changed(w.linear, bias="ab")), T, "bias"),
    ("None", lambda w: w.linear.load_state_dict(changed(w.linear, bias=None)), T, "bias"),
    ("uneven", lambda w: w.linear.load_state_dict(changed(w.linear, weight=RAGGED)), EITHER, "weight"),
    ("the last of many", lambda w: w.net.load_state_dict(changed(w.net) | {"1.bias": zeros(3)}), V, "1.bias"),
    ("names that are no strings", lambda w: w.linear.load_state_dict({1: 2, None: 3}), V, "state"),
    ("any mapping", lambda w: w.linear.load_state_dict(UserDict({"weight": 1})), V, "bias"),
    *[(f"{type(v).__name__}", lambda w, v=v: w.net.load_state_dict(v), T, "state") for v in (3, None, [], "x", zeros(3))],
    *[(f"weight = {i}", lambda w, v=v: setattr(w.linear, "weight", v), kind, "weight") for i, v, kind in [
        ("shape", zeros(3, 2), V), ("scalar", 1.0, V), ("float64", zeros(2, 3, dtype="float64"), T), ("str", "x", T),
        ("None", None, T), ("uneven", RAGGED, EITHER), ("object", object(), T), ("integers", zeros(2, 3, dtype=int), T)]],
    ("weight of a layer in a network", lambda w: setattr(w.net[0], "weight_hh_l0", zeros(3)), V, "weight_hh_l0"),
])  # fmt: skip
def test_parameters(world, call, kind, words):
    rejects(call, kind, words, world)


def test_read_only_views(world):
    for view in (world.lstm.parameters, world.lstm.weight_ih_l0, world.net[0].bias_hh_l0):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


@pytest.mark.parametrize("name", ["weight_ih_l1", "weight", "weight_gh_l0", "nonsense"])
def test_parameters_that_do_not_exist(world, name):
    with pytest.raises(AttributeError, match=name):
        getattr(world.lstm, name)


# Losses and optimisers ------------------------------------------------------------------------------------------------

ELEMENTWISE = [fl.losses.mse, fl.losses.sse, fl.losses.binary_cross_entropy]
Y = np.full((2, 3), 0.5, np.float32)
CE = fl.losses.cross_entropy


@table([
    *[(f"{f.__name__}: {i}", lambda f=f, a=a: f(*a), kind, words) for f in ELEMENTWISE for i, a, kind, words in [
        ("shapes", (Y, zeros(3, 2)), V, ("target", "(3, 2)", "(2, 3)")), ("no broadcasting", (Y, zeros(3)), V, "target"),
        ("str target", (Y, np.full((2, 3), "a")), T, "target"), ("object target", (Y, np.full((2, 3), None)), T, "target"),
        ("complex target", (Y, 1j * Y), T, "target"), ("no target", (Y, None), EITHER, "target"),
        ("uneven target", (Y, RAGGED), EITHER, "target"), ("str y", (np.full((2, 3), "a"), Y), T, "y"),
        ("object y", (np.full((2, 3), None), Y), T, "y"), ("complex y", (1j * Y, Y), T, "y"),
        ("bool y", (Y > 0, Y), T, "y"), ("uneven y", (RAGGED, Y), EITHER, "y"), ("no y", (None, Y), EITHER, "y"),
        ("mask of integers", (Y, Y, zeros(2, 3, dtype=int)), EITHER, "mask"), ("mask shape", (Y, Y, Y[:, :2] > 0), V, "mask"),
        ("str mask", (Y, Y, "x"), EITHER, "mask"), ("uneven mask", (Y, Y, [[True], [True, True]]), EITHER, "mask"),
    ]],
    ("classes: float", lambda: CE(Y, [0.0, 1.0]), T, "target"),
    ("classes: bool", lambda: CE(Y, [True, False]), T, "target"),
    ("classes: str", lambda: CE(Y, ["0", "1"]), T, "target"),
    ("classes: None", lambda: CE(Y, None), T, "target"),
    ("classes: uneven", lambda: CE(Y, [[0], [0, 1]]), EITHER, "target"),
    ("classes: shape", lambda: CE(Y, [0, 1, 2]), V, ("target", "(3,)", "(2,)")),
    ("classes: one-hot", lambda: CE(Y, np.eye(2, 3, dtype=int)), V, "target"),
    ("classes: above", lambda: CE(Y, [0, 3]), V, ("target", "3")),
    ("classes: below", lambda: CE(Y, [-2, 0]), V, ("target", "-2")),
    ("classes: huge", lambda: CE(Y, np.array([2**63, 0], np.uint64)), V, "target"),
    ("scores: 0-d", lambda: CE(1.0, 0), V, "y"),
    ("scores: no class", lambda: CE(zeros(2, 0), [-1, -1]), V, "y"),
    ("scores: str", lambda: CE(np.full((2, 3), "a"), [0, 1]), T, "y"),
    ("scores: complex", lambda: CE(1j * Y, [0, 1]), T, "y"),
    ("scores: None", lambda: CE(None, [0, 1]), EITHER, "y"),
    ("scores: uneven", lambda: CE(RAGGED, [0, 1]), EITHER, "y"),
    ("mask: integers", lambda: CE(Y, [0, 1], [1, 1]), EITHER, "mask"),
    ("mask: shape", lambda: CE(Y, [0, 1], [True]), V, "mask"),
    ("mask: elements", lambda: CE(Y, [0, 1], Y > 0), V, "mask"),
])  # fmt: skip
def test_losses(call, kind, words):
    rejects(call, kind, words)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [*ELEMENTWISE, CE])
def test_losses_of_integers_are_refused_or_right(loss):
    """Never the right loss with a derivative cut off to integers."""
    y = np.array([[1, 0, 1]])
    target = np.array([0]) if loss is CE else np.array([[1, 1, 0]])
    try:
        value, dy = loss(y, target)
    except TypeError:
        return
    wanted, wanted_dy = loss(y.astype(float), target if loss is CE else target.astype(float))
    assert value == wanted
    np.testing.assert_allclose(dy, wanted_dy)


@table([
    *[(f"net {v!r:.20}", lambda w, v=v: fl.SGD(v, 0.1), T, "net") for v in (None, 3, "x", [], {}, fl.LSTM, zeros(3))],
    ("a stream", lambda w: fl.SGD(w.one, 0.1), T, ("net", "Stream")),
    *[(f"lr {v!r}", lambda w, v=v: fl.SGD(w.net, v), V, "lr") for v in (NAN, -0.1, INF, -INF, 10**400, np.float32(NAN))],
    *[(f"lr {v!r:.20}", lambda w, v=v: fl.SGD(w.net, v), T, "lr") for v in NOT_NUMBERS],
    *[(f"lr = {v!r}", lambda w, v=v: setattr(w.sgd, "lr", v), EITHER, "lr") for v in (NAN, -1, "x", None)],
    *[(f"momentum {v!r}", lambda w, v=v: fl.SGD(w.net, 0.1, v), V, "momentum") for v in (1, -0.1, NAN, 2, INF, 10**400)],
    *[(f"momentum {v!r:.20}", lambda w, v=v: fl.SGD(w.net, 0.1, v), T, "momentum") for v in NOT_NUMBERS],
    *[(f"decay {v!r}", lambda w, v=v: fl.SGD(w.net, 0.1, decay=v), V, "decay") for v in (0, 2, -1, NAN, INF, 10**400)],
    *[(f"decay {v!r:.20}", lambda w, v=v: fl.SGD(w.net, 0.1, decay=v), T, "decay") for v in NOT_NUMBERS],
    *[(f"decay = {v!r}", lambda w, v=v: setattr(w.sgd, "decay", v), EITHER, "decay") for v in (NAN, 0, 2, "x", None)],
    ("no lr", lambda w: fl.SGD(w.net), T, "lr"),
    *[(f"state {v!r:.20}", lambda w, v=v: w.sgd.load_state_dict(v), EITHER, "state") for v in (3, None, [], "x", {}, ["lr"])],
    *[(f"state with {k}={v!r:.20}", lambda w, k=k, v=v: w.sgd.load_state_dict(w.sgd.state_dict() | {k: v}), EITHER, k)
      for k, v in [("lr", NAN), ("lr", "x"), ("momentum", 0.9), ("momentum", np.zeros(3)), ("momentum", None), ("decay", 2),
                   ("velocity", None), ("velocity", zeros(3)), ("velocity", "x"), ("velocity", RAGGED)]],
    ("state of other kind", lambda w: w.sgd.load_state_dict(fl.SGD(fl.Linear(1, 1), 0.1).state_dict()), V, "momentum"),
])  # fmt: skip
def test_sgd(world, call, kind, words):
    rejects(call, kind, words, world)


# Learners -------------------------------------------------------------------------------------------------------------

STEP, TARGET = zeros(2, 3), zeros(2, 2)


@table([
    *[(f"net {v!r:.20}", lambda w, v=v: fl.OnlineLearner(v), T, "net") for v in (None, 3, "x", [], fl.LSTM, zeros(3))],
    ("bidirectional", lambda w: fl.OnlineLearner(w.both), V, "bidirectional"),
    ("bidirectional inside", lambda w: fl.OnlineLearner(fl.Sequential(w.both, fl.Linear(8, 1))), V, "bidirectional"),
    *[(f"loss {v!r:.20}", lambda w, v=v: fl.OnlineLearner(w.net, v), EITHER, "loss")
      for v in ("l1", "", "MSE", None, 3, True, [], {}, ("mse",), b"mse", np.zeros((9, 9)), "x" * 500)],
    *[(f"gradient {v!r:.20}", lambda w, v=v: fl.OnlineLearner(w.net, gradient=v), EITHER, "gradient")
      for v in ("rtrl", "", None, 3, True, [], np.zeros((9, 9)), "x" * 500)],
    *[(f"optimizer {v!r:.20}", lambda w, v=v: fl.OnlineLearner(w.net, optimizer=v), T, "optimizer")
      for v in ("sgd", 0.1, fl.SGD, [], True, {})],
    ("foreign optimizer", lambda w: fl.OnlineLearner(w.lstm, optimizer=w.sgd), V, "optimizer"),
    ("optimizer of a layer", lambda w: fl.OnlineLearner(w.net, optimizer=fl.SGD(w.net[0], 0.1)), V, "optimizer"),
    *[(f"chunk {v!r:.20}", lambda w, v=v: fl.OnlineLearner(w.net, chunk=v), EITHER, "chunk")
      for v in ("x", "Episode", "", None, b"episode", {}, np.array(["episode", "x"]), object())],
])  # fmt: skip
def test_making_learners(world, call, kind, words):
    rejects(call, kind, words, world)


@table([
    *arrays("x", lambda w, v: w.single.step(v)),
    *arrays("xs", lambda w, v: w.learner.run(v)),
    *arrays("target", lambda w, v: w.single.step(zeros(3), v), "None"),
    *arrays("targets", lambda w, v: w.learner.run(X, v), "None"),
    ("step: I", lambda w: w.single.step(zeros(4)), V, ("x", "(4,)", "(3,)")),
    ("step: lanes", lambda w: w.learner.step(zeros(3)), V, ("x", "(3,)", "(2, 3)")),
    ("step: more lanes", lambda w: w.learner.step(zeros(3, 3)), V, ("x", "(3, 3)")),
    ("step: a run", lambda w: w.learner.step(X), V, ("x", "(5, 2, 3)")),
    ("step: two of one lane", lambda w: w.single.step(zeros(2, 3)), V, ("x", "(2, 3)")),
    ("step: target shape", lambda w: w.learner.step(STEP, zeros(2, 3)), V, ("target", "(2, 3)", "(2, 2)")),
    ("step: target of one lane", lambda w: w.learner.step(STEP, zeros(2)), V, ("target", "(2,)", "(2, 2)")),
    ("step: target float64", lambda w: w.learner.step(STEP, zeros(2, 2, dtype="float64")), T, ("target", "float64")),
    ("step: target first wrong", lambda w: w.learner.step(zeros(2, 4), TARGET), V, "x"),
    ("run: I", lambda w: w.learner.run(zeros(5, 2, 4)), V, ("xs", "(5, 2, 4)")),
    ("run: T=0", lambda w: w.learner.run(zeros(0, 2, 3)), V, ("xs", "(0, 2, 3)")),
    ("run: 2-d of two lanes", lambda w: w.learner.run(zeros(5, 3)), V, ("xs", "(5, 3)")),
    ("run: fewer targets", lambda w: w.learner.run(X, zeros(4, 2, 2)), V, ("targets", "(4, 2, 2)", "(5, 2, 2)")),
    ("run: width of targets", lambda w: w.learner.run(X, zeros(5, 2, 3)), V, ("targets", "(5, 2, 3)")),
    ("run: integer targets", lambda w: w.learner.run(X, zeros(5, 2, 2, dtype=int)), T, ("targets", "int64")),
    *[(f"run: reset {v.dtype} {v.shape}", lambda w, v=v: w.learner.run(X, None, v), EITHER, "reset")
      for v in (zeros(5, dtype=bool), zeros(4, 2, dtype=bool), zeros(5, 2, 1, dtype=bool), zeros(5, 2), zeros(5, 2, dtype=int))],
    ("run: reset uneven", lambda w: w.learner.run(X, None, [[True], [True, True]]), EITHER, "reset"),
    *[(f"class {v!r}", lambda w, v=v: w.classes.step(STEP, v), V, "target") for v in ([2, 0], [0, -2], [2**62, 0], [0], 0)],
    *[(f"class {v!r}", lambda w, v=v: w.classes.step(STEP, v), T, "target")
      for v in ([0.0, 1.0], [NAN, 1], [True, False], ["0", "1"], [None, 1], [2**64, 0], "01")],
    ("class uneven", lambda w: w.classes.step(STEP, [[0], [0, 1]]), EITHER, "target"),
    ("class uint64", lambda w: w.classes.step(STEP, np.array([2**63, 0], np.uint64)), V, "target"),
    ("class one-hot", lambda w: w.classes.step(STEP, np.eye(2, dtype=int)), V, ("target", "(2, 2)")),
    ("classes shape", lambda w: w.classes.run(X, zeros(5, dtype=int)), V, ("targets", "(5,)", "(5, 2)")),
    ("classes range", lambda w: w.classes.run(X, np.full((5, 2), 2)), V, ("targets", "2")),
    ("classes of floats", lambda w: w.classes.run(X, zeros(5, 2)), T, ("targets", "float32")),
    *[(f"mask {v!r}", lambda w, v=v: w.learner.reset(v), EITHER, "mask")
      for v in (True, [True], [True] * 3, [0, 1], "ab", [None, True], [[True], [True, True]])],
    ("no optimizer to apply", lambda w: w.single.apply(), V, "optimizer"),
])  # fmt: skip
def test_learners(world, call, kind, words):
    rejects(call, kind, words, world)


D = np.ones((1, 4), np.float32)
NONSENSE = [None, 3, "xy", (), (1.0,), (1.0, D, D), (1.0, None), (1.0, "x"), (1.0, D[0]), (1.0, D.T), (1.0, D.astype(float)),
            (None, D), ("x", D), (1j, D), ([1.0, 2.0], D), (1.0, RAGGED), {}, D, zeros(2, 3)]  # fmt: skip


@pytest.mark.parametrize("k", range(len(NONSENSE)), ids=lambda k: f"{NONSENSE[k]!r:.30}".replace("\n", ""))
@pytest.mark.parametrize("how", ["step", "run"])
def test_a_loss_that_answers_nonsense(world, how, k):
    def call(w):
        w.answer = NONSENSE[k]
        w.called.step(zeros(3), zeros(4)) if how == "step" else w.called.run(zeros(1, 3), zeros(1, 4))

    rejects(call, EITHER, "loss", world)


@table([
    ("number", lambda w: w.called.run(zeros(2, 3), 5), EITHER, "targets"),
    ("shorter", lambda w: w.called.run(zeros(2, 3), zeros(1, 4)), V, "targets"),
    ("longer", lambda w: w.called.run(zeros(2, 3), zeros(3, 4)), V, "targets"),
    ("generator", lambda w: w.called.run(zeros(2, 3), (i for i in range(2))), EITHER, "targets"),
    ("width", lambda w: w.called.step(zeros(3), zeros(3)), V, "target"),
])  # fmt: skip
def test_targets_of_a_callable_loss(world, call, kind, words):
    rejects(call, kind, words, world)


class Mine(Exception):
    pass


def test_a_loss_that_raises_leaves_the_steps_before_it(world):
    """What comes out is its own exception; the learner is as after the last whole step, and goes on."""
    x, targets, calls = world.x[:, 0], zeros(5, 4), []

    def answer():
        calls.append(1)
        if len(calls) == 3:
            raise Mine("loss")
        return 0.0, np.ones((1, 4), np.float32)

    world.answer = answer
    with pytest.raises(Mine):
        world.called.run(x, targets)
    twin = World()
    twin.answer = (0.0, np.ones((1, 4), np.float32))
    twin.called.run(x[:2], targets[:2])
    for learner, more in ((world.called, range(2, 5)), (twin.called, range(2, 5))):
        for t in more:
            learner.step(x[t], targets[t])
    got, wanted = (w.called.__getstate__()["memory"] for w in (world, twin))
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


def test_a_learner_refuses_a_rate_that_is_none(world):
    """Whatever becomes of the optimiser between two steps."""
    with pytest.raises(EITHER):
        world.sgd.decay = "x"
        world.learner.step(STEP, TARGET)
    world.sgd.decay = 1.0
    assert np.isfinite(world.learner.step(STEP, TARGET)).all()


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"), [(0, V), (-1, V), (2**31, V), (2**63, V), (1.5, T), ("2", T), (None, T), (True, T)]
)
def test_number_of_threads(value, kind):
    before = fl.get_num_threads()
    rejects(lambda: fl.set_num_threads(value), kind, "n")
    assert fl.get_num_threads() == before


# Random calls ---------------------------------------------------------------------------------------------------------


def pool(w):
    """Odd objects for the place of an argument. Sizes that some machine would really allocate are not among them."""
    a = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    return [
        None, True, False, 0, -1, 1, 2, 3, 7, 2**63, -(2**63), 2**70, 10**400, 0.0, -0.0, 0.5, 1.5, NAN, INF, -INF, 1e308, 1j,
        "", "x", "tanh", "mse", "episode", "float32", "float64", "é\n\0", b"x", bytearray(12), memoryview(b"abc"), range(3),
        [], [[]], [[[]]], (), {}, set(), frozenset({1}), object(), object, int, len, lambda *_: None, lambda y, t: (0.0, y),
        (i for i in range(3)), slice(None), Ellipsis, NotImplemented, RAGGED, [1, 2, 3], [1.0, 2.0, 3.0], [[0.5] * 3] * 5,
        [None] * 3, ["a"] * 3, [True] * 2, [a[:, 0], a[:3, 1]], [a[:, 0], 3], iter([]), np.float32(2), np.float64(NAN),
        np.int8(3), np.uint64(2**63), np.bool_(True), np.str_("x"), np.datetime64("2000"), np.array(3), np.array(3.5, np.float32),
        a, a[:, 0], a[0], a[0, 0], a[:0], a[:, :0], a[..., :0], a[..., :2], a[::-1], a.T, a[::2], np.asfortranarray(a),
        a.astype(float), a.astype(">f4"), a.astype(np.float16), a.astype(int), a > 3, a[..., 0] > 3, a[:, :1, 0] > 3, a.astype(object),
        a.astype("U2"), a * np.float32(NAN), a * 1j, np.zeros((5, 2), int), np.zeros(2, int), np.ones(2, int), np.zeros(2, bool),
        np.array([2**63, 1], np.uint64), np.zeros((1,) * 30, np.float32), np.zeros(3, [("a", "f4")]), np.zeros(3, "M8[s]"),
        np.ma.masked_array(a, a > 3), np.matrix([[1.0, 2.0, 3.0]], dtype=np.float32), np.broadcast_to(np.float32(1), (5, 2, 3)),
        np.zeros(37, np.uint8)[1:].view(np.float32), readonly(a.copy()), w.lstm, w.net, w.linear, w.both, w.one, w.two, w.sgd,
        w.learner, fl.LSTM, fl, w.lstm.state_dict(), w.net.state_dict(), w.sgd.state_dict(), w.one.state, w.two.state,
        w.learner.state, [w.two.state], (None, None), pair(1, 2, 4), pair(1, 1, 4), pair(2, 2, 4), w.lstm.parameters, w.out,
    ]  # fmt: skip


def calls(w):
    """Right calls: (name, function, arguments by name). The random ones are these with some arguments replaced."""
    x, row, hot = w.x, w.x[0], zeros(5, 2, dtype=bool)
    lstm = {"input_size": 3, "hidden_size": 4, "num_layers": 1, "bias": True, "batch_first": False, "bidirectional": False,
            "dropout": 0.0, "proj_size": 0, "peepholes": True, "input_gate": True, "forget_gate": True, "output_gate": True,
            "coupled_gates": False, "gate_recurrence": True, "block_size": 2, "input_activation": "tanh",
            "output_activation": "tanh", "gate_activation": "sigmoid", "clip": 1.0, "dtype": "float32", "seed": 0}  # fmt: skip
    paper = {
        "input_size": 3,
        "blocks": 2,
        "block_size": 2,
        "input_gate_bias": -1,
        "output_gate_bias": [-1, -2],
        "init": 0.1,
    }
    linear = {"in_features": 3, "out_features": 2, "bias": True, "activation": "tanh", "dtype": "float32", "seed": 0}
    learner = {"net": w.net, "loss": "mse", "optimizer": w.sgd, "gradient": "truncated-rtrl", "chunk": 1, "lanes": 2}
    call = {"x": x, "state": None, "lengths": [5, 3], "reset": hot}

    def setter(thing, name):
        return lambda value: setattr(thing, name, value)

    return [
        ("LSTM", fl.LSTM, lstm), ("LSTM1997", fl.LSTM1997, paper), ("Linear", fl.Linear, linear),
        ("Sequential", lambda a, b: fl.Sequential(a, b), {"a": fl.LSTM(3, 4), "b": fl.Linear(4, 1)}),
        ("lstm", w.lstm, call), ("both", w.both, call), ("net", w.net, call), ("linear", w.linear, call),
        ("lstm of a list", w.lstm, {"x": [x[:, 0], x[:2, 1]], "state": pair(1, 2, 4)}),
        ("stream", w.lstm.stream, {"lanes": 2, "weights": "float32"}),
        ("one.step", w.one.step, {"x": row[0], "out": None}), ("two.step", w.two.step, {"x": row, "out": w.out}),
        ("one.run", w.one.run, {"xs": x[:, 0]}), ("two.run", w.two.run, {"xs": x}), ("two.reset", w.two.reset, {"mask": [True, False]}),
        ("two.state", setter(w.two, "state"), {"value": w.two.state}), ("learner.state", setter(w.learner, "state"), {"value": w.learner.state}),
        ("load", w.net.load_state_dict, {"state": w.net.state_dict()}), ("load linear", lambda weight, bias: w.linear.load_state_dict(
            {"weight": weight, "bias": bias}), {"weight": zeros(2, 3), "bias": zeros(2)}),
        ("weight", setter(w.linear, "weight"), {"value": zeros(2, 3)}),
        ("mse", fl.losses.mse, {"y": x, "target": x, "mask": None}), ("sse", fl.losses.sse, {"y": x, "target": x, "mask": hot}),
        ("bce", fl.losses.binary_cross_entropy, {"y": np.abs(np.tanh(x)), "target": (x > 0).astype(np.float32), "mask": None}),
        ("ce", fl.losses.cross_entropy, {"y": x, "target": np.ones((5, 2), int), "mask": hot}),
        ("SGD", fl.SGD, {"net": w.net, "lr": 0.1, "momentum": 0.5, "decay": 0.9}), ("lr", setter(w.sgd, "lr"), {"value": 0.1}),
        ("decay", setter(w.sgd, "decay"), {"value": 0.9}), ("sgd.load", w.sgd.load_state_dict, {"state": w.sgd.state_dict()}),
        ("OnlineLearner", fl.OnlineLearner, learner), ("learner.step", w.learner.step, {"x": row, "target": w.targets[0]}),
        ("learner.run", w.learner.run, {"xs": x, "targets": w.targets, "reset": hot}),
        ("learner.reset", w.learner.reset, {"mask": [True, False]}), ("single.step", w.single.step, {"x": row[0], "target": zeros(4)}),
        ("classes.step", w.classes.step, {"x": row, "target": [0, 1]}), ("classes.run", w.classes.run, {"xs": x, "targets": hot.astype(int)}),
        ("called.step", w.called.step, {"x": row[0], "target": zeros(4)}), ("called.run", w.called.run, {"xs": x[:, 0], "targets": zeros(5, 4)}),
        ("loss", lambda answer: setter(w, "answer")(answer) or w.called.step(row[0], zeros(4)), {"answer": (0.0, zeros(1, 4))}),
    ]  # fmt: skip


def random_calls(seed, count):
    """Make random calls; returns what went wrong, one line per kind."""
    rng, wrong = np.random.default_rng(seed), {}
    for k in range(count):
        if k % 20 == 0:  # objects that accepted something odd are not used for long
            w = World()
            odd, right = pool(w), calls(w)
        name, function, arguments = right[rng.integers(len(right))]
        arguments, replaced = dict(arguments), []
        for _ in range(rng.integers(1, 3)):
            key, j = list(arguments)[rng.integers(len(arguments))], rng.integers(len(odd))
            arguments[key] = odd[j]
            replaced.append(f"{key}={odd[j]!r:.60}")
        described = f"{name}({', '.join(replaced)})".replace("\n", " ")
        before = w.everything()
        w.answer = RIGHT
        try:
            function(**arguments)
        except (ValueError, TypeError, MemoryError):
            after = w.everything()
            parts = [part for part in before if before[part] != after[part]]
            if parts:
                wrong.setdefault((name, "changed", *parts), f"{described} raised and changed {', '.join(parts)}")
        except BaseException as error:
            kind = type(error).__name__
            wrong.setdefault((name, kind, str(error)[:20]), f"{described} raised {kind}: {str(error)[:80]}")
    return sorted(wrong.values())


def test_random_calls_raise_errors_only_and_change_nothing():
    command = [sys.executable, "-W", "ignore", __file__, "1", "6000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


if __name__ == "__main__":
    faulthandler.enable()
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    found = random_calls(*[int(argument) for argument in (*sys.argv[1:], "1", "2000")[:2]])
    print(*found, sep="\n")
    sys.exit(bool(found))
