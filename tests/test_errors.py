"""Bad calls: each raises the right exception, says in one short line which argument is wrong, and changes nothing.

The tables are rows of (id, call, exception, words that the message must have); the first word is the argument's name.
Run as a program, this file makes random calls: ``python tests/test_errors.py [seed] [how many]``.
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
HUGE = 2**39  # below the limit of each size; the products are not
RIGHT = object()


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
        self.out = zeros(2, 4)
        self.one, self.two = self.lstm.stream(), self.lstm.stream(2)
        self.sgd = fl.SGD(self.net, lr=0.1, momentum=0.5, decay=0.99)
        self.adam = fl.Adam(self.net)
        self.learner = fl.OnlineLearner(self.net, optimizer=self.sgd, chunk=3, lanes=2)
        self.single = fl.OnlineLearner(self.lstm, loss="sse")
        self.classes = fl.OnlineLearner(self.linear, loss="cross_entropy", lanes=2)
        self.called = fl.OnlineLearner(self.lstm, loss=self.loss)
        self.answer = RIGHT  # what the callable loss returns; or a function that is called instead
        self.one.run(self.x[:, 0])
        self.two.run(self.x)
        self.learner.step(self.x[0], self.targets[0])
        self.single.step(self.x[0, 0], np.ones(4, np.float32))
        self.classes.step(self.x[0], [1, -1])
        self.called.step(self.x[0, 0], zeros(4))
        self.lstm.grad[:] = 1

    def loss(self, y, target):
        if callable(self.answer):
            return self.answer()
        return (0.0, np.ones_like(y)) if self.answer is RIGHT else self.answer

    def everything(self):
        """All that a call might change, by name."""
        values = {"x": self.x, "out": self.out, "targets": self.targets}
        for name in ("lstm", "linear", "both", "net"):
            values[name], values[name + ".grad"] = getattr(self, name).parameters, getattr(self, name).grad
        for name in ("one", "two"):
            values[name] = getattr(self, name).flat_state
        for name in ("learner", "single", "classes", "called"):
            learner = getattr(self, name)
            values |= {f"{name}.{key}": value for key, value in learner.__getstate__()["memory"].items()}
            values[name + ".loss"] = learner.loss
        values |= {f"sgd.{key}": value for key, value in self.sgd.state_dict().items()}
        values |= {f"adam.{key}": value for key, value in self.adam.state_dict().items()}
        return {name: v.tobytes() if isinstance(v, np.ndarray) else repr(v) for name, v in values.items()}


@pytest.fixture
def world():
    return World()


def rejects(world, call, kind, words):
    """`call(world)` raises `kind`, in one short line that has the words (``a|b``: one of them), and changes nothing."""
    before = world.everything()
    with pytest.raises(kind) as caught:
        call(world)
    after, message = world.everything(), str(caught.value)
    assert [name for name in before if before[name] != after[name]] == []
    if isinstance(caught.value, MemoryError):
        return
    assert "\n" not in message and 0 < len(message) <= 200, message
    for word in (words,) if isinstance(words, str) else words:
        assert any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", message) for w in word.split("|")), message


def short(value):
    return value.__name__ if isinstance(value, type) else " ".join(f"{value!r:.20}".split())


def each(words, call, kind, values):
    """Rows for values that `call(world, value)` must refuse."""
    name = words if isinstance(words, str) else words[0]
    return [(f"{name}: {short(v)}", lambda w, v=v: call(w, v), kind, words) for v in values]


def table(rows):
    return pytest.mark.parametrize(("call", "kind", "words"), [pytest.param(*row[1:], id=row[0]) for row in rows])


# Constructors ---------------------------------------------------------------------------------------------------------

NO_NUMBERS = ["x", "1", b"1", 1j, True, np.True_, [1.0], np.ones(2), object(), {}]
BAD_SIZES = [(V, v) for v in (0, -1, 2**63, -(2**63), 10**400)]
BAD_SIZES += [(T, v) for v in (1.5, NAN, None, np.float64(3), *NO_NUMBERS)]
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


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize(("kind", "value"), BAD_SIZES, ids=short)
def test_sizes(world, name, kind, value):
    for make in SIZED[name]:
        rejects(world, lambda w, make=make: make(value), kind, name)


@table([
    ("hidden 2**31", lambda w: fl.LSTM(3, 2**31), V, "hidden_size"),
    ("input and hidden", lambda w: fl.LSTM(HUGE, HUGE), V, "input_size|hidden_size"),
    ("blocks", lambda w: fl.LSTM1997(3, HUGE, HUGE), V, "blocks|block_size|hidden_size"),
    ("one block", lambda w: fl.LSTM(1, HUGE, block_size=HUGE), V, "hidden_size|block_size"),
    ("features", lambda w: fl.Linear(HUGE, HUGE), V, "in_features|out_features"),
    ("lanes of a stream", lambda w: fl.LSTM(3, 4).stream(HUGE), SIZES, "lanes"),
    ("lanes of a linear stream", lambda w: fl.Linear(3, 4).stream(HUGE), SIZES, "lanes"),
    ("lanes of a learner", lambda w: fl.OnlineLearner(fl.LSTM(3, 4), lanes=HUGE), SIZES, "lanes"),
    ("lanes of a linear learner", lambda w: fl.OnlineLearner(fl.Linear(3, 4), lanes=HUGE), SIZES, "lanes"),
])  # fmt: skip
def test_sizes_whose_product_is_too_large(world, call, kind, words):
    rejects(world, call, kind, words)


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


ACTIVATIONS = ("input_activation", "output_activation", "gate_activation")
FLAGS = ("batch_first", "bidirectional", "peepholes", "input_gate", "forget_gate", "output_gate", "coupled_gates")
FLAGS += ("gate_recurrence",)
ODD = [1, 0, "tanh ", "", "x" * 500, b"tanh", NAN, (), ["tanh"], {}, np.zeros((9, 9)), object(), np.float32(1)]
NO_DTYPES = [3, "float16", "int32", "x" * 500, np.int64, complex, [], {}, object(), None]


@table([
    *[row for name in (*ACTIVATIONS, *FLAGS, "bias")
      for row in each(name, lambda w, v, name=name: fl.LSTM(3, 4, **{name: v}), EITHER, [*ODD, None])],
    *each("activation", lambda w, v: fl.Linear(3, 4, activation=v), EITHER, [*ODD, True]),
    *each("bias", lambda w, v: fl.Linear(3, 4, bias=v), EITHER, [*ODD, None, "single"]),
    *each("dtype", lambda w, v: fl.LSTM(3, 4, dtype=v), EITHER, NO_DTYPES),
    *each("dtype", lambda w, v: fl.Linear(3, 4, dtype=v), EITHER, NO_DTYPES),
    *each("clip", lambda w, v: fl.LSTM(3, 4, clip=v), V, [NAN, 0, 0.0, INF, -1, -INF, 10**400]),
    *each("clip", lambda w, v: fl.LSTM(3, 4, clip=v), T, NO_NUMBERS),
    *each("dropout", lambda w, v: fl.LSTM(3, 4, dropout=v), V, [-0.1, NAN, INF, 2]),
    *each("dropout", lambda w, v: fl.LSTM(3, 4, dropout=v), T, NO_NUMBERS),
    *each("proj_size", lambda w, v: fl.LSTM(3, 4, proj_size=v), V, [-1, 4, 2**63]),
    *each("proj_size", lambda w, v: fl.LSTM(3, 4, proj_size=v), T, NO_NUMBERS),
    *each("seed", lambda w, v: fl.LSTM(3, 4, seed=v), V, [-1, -(2**63), np.int64(-1)]),
    *each("seed", lambda w, v: fl.LSTM(3, 4, seed=v), EITHER,
          [True, 1.5, "x", b"x", 1j, object, {}, ["x"], [-1], np.float32(1), np.zeros((2, 2))]),
    *each("init", lambda w, v: fl.LSTM1997(3, 2, init=v), V, [-1, NAN, INF, 10**400]),
    *each("init", lambda w, v: fl.LSTM1997(3, 2, init=v), T, [None, *NO_NUMBERS]),
    *[row for name in ("input_gate_bias", "output_gate_bias")
      for row in each(name, lambda w, v, name=name: fl.LSTM1997(3, 2, **{name: v}), EITHER,
                      [[1, 2, 3], NAN, [1, INF], "x", [[1], [2, 3]], 1j, {}, 10**400])],
    ("bias of no gate", lambda w: fl.LSTM1997(3, 2, input_gate=False, input_gate_bias=-1), V, "input_gate_bias"),
    ("bias of no bias", lambda w: fl.LSTM1997(3, 2, bias=False, output_gate_bias=-1), V, "output_gate_bias"),
    ("block size", lambda w: fl.LSTM(3, 4, block_size=3), V, ("block_size", "3", "4")),
    ("block size above", lambda w: fl.LSTM(3, 4, block_size=8), V, ("block_size", "8", "4")),
    ("coupled", lambda w: fl.LSTM(3, 4, coupled_gates=True, input_gate=False), V, ("coupled_gates", "input_gate")),
    ("unknown option", lambda w: fl.LSTM(3, 4, hidden=3), T, "hidden"),
    ("unknown option of 1997", lambda w: fl.LSTM1997(3, 4, hidden=3), T, "hidden"),
    ("no sizes", lambda w: fl.LSTM(), T, ("input_size", "hidden_size")),
])  # fmt: skip
def test_options(world, call, kind, words):
    rejects(world, call, kind, words)


@table([
    ("none", lambda w: fl.Sequential(), V, "layer"),
    ("not a layer", lambda w: fl.Sequential(fl.LSTM(3, 4), "x"), T, ("layer 1", "str")),
    ("a list", lambda w: fl.Sequential([fl.LSTM(3, 4)]), T, ("layer 0", "list")),
    ("a class", lambda w: fl.Sequential(fl.LSTM), T, ("layer 0", "type")),
    ("a stream", lambda w: fl.Sequential(w.one), T, ("layer 0", "Stream")),
    ("widths", lambda w: fl.Sequential(fl.LSTM(3, 4), fl.Linear(5, 2)), V, ("layer 1", "5", "4")),
    ("both directions", lambda w: fl.Sequential(w.both, fl.Linear(4, 2)), V, ("layer 1", "4", "8")),
    ("dtypes", lambda w: fl.Sequential(fl.LSTM(3, 4), fl.Linear(4, 2, dtype="float64")), V, ("layer 1", "float64")),
    ("orders", lambda w: fl.Sequential(fl.LSTM(3, 4), fl.LSTM(4, 4, batch_first=True)), V, "batch_first"),
    ("twice", lambda w: fl.Sequential(*[fl.LSTM(3, 3)] * 2), V, "layer 1"),
    ("of another network", lambda w: fl.Sequential(w.net[0], fl.Linear(4, 2)), V, "layer 0"),
    ("second of another network", lambda w: fl.Sequential(fl.Linear(3, 3), w.net[0]), V, "layer 1"),
])  # fmt: skip
def test_sequential(world, call, kind, words):
    rejects(world, call, kind, words)


# Calls ----------------------------------------------------------------------------------------------------------------

X = zeros(5, 2, 3)
BOOL = zeros(5, 2, dtype=bool)
RAGGED = [[1.0], [2.0, 3.0]]
# No array of float32: lists of numbers are converted, arrays of another dtype are not.
NO_FLOATS = [
    *[zeros(5, 2, 3, dtype=dtype) for dtype in ("float64", "float16", "int64", "bool", "complex64", "object", "U1")],
    *[zeros(5, 2, 3, dtype=dtype) for dtype in (">f4", [("a", "f4")], "M8[s]")],
    "abc", b"abc", {}, {1.0}, object(), np.float32, (i for i in range(3)),
    [["a", "b", "c"]], [["1", "2", "3"]], [[None] * 3], [[1j, 2, 3]],
]  # fmt: skip
UNEVEN = [RAGGED, [[RAGGED], [RAGGED, 1]]]
# float32 of a shape that no call takes; the message says the shape.
NO_SHAPES = [("()", zeros()), ("(0,)", zeros(0)), ("(5, 2, 1, 3)", zeros(5, 2, 1, 3))]
NO_SHAPES += [("()", 1.5), ("(0,)", []), ("(1, 0)", [[]])]


def no_arrays(name, call):
    """Rows for all that is no array for the argument `name`."""
    shapes = [row for shape, v in NO_SHAPES for row in each((name, shape), call, V, [v])]
    return each(name, call, T, NO_FLOATS) + each(name, call, EITHER, UNEVEN) + shapes


@table([
    *no_arrays("x", lambda w, v: w.lstm(v)),
    ("None", lambda w: w.lstm(None), T, "x"),
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
    ("list: width", lambda w: w.lstm([zeros(5, 3), zeros(4, 2)]), V, ("x[1]", "(4, 2)")),
    ("list: T=0", lambda w: w.lstm([zeros(5, 3), zeros(0, 3)]), V, ("x[1]", "(0, 3)")),
    ("list: dtype", lambda w: w.lstm([zeros(5, 3), zeros(4, 3, dtype="float64")]), T, ("x[1]", "float64")),
    ("list: 1-d", lambda w: w.lstm([zeros(5, 3), zeros(3)]), V, ("x[1]", "(3,)")),
    ("list: 3-d", lambda w: w.lstm([zeros(5, 3), zeros(4, 1, 3)]), V, ("x[1]", "(4, 1, 3)")),
    ("list: None", lambda w: w.lstm([zeros(5, 3), None]), T, "x[1]"),
    ("list: str", lambda w: w.lstm([zeros(5, 3), "x"]), T, "x[1]"),
    ("list: uneven", lambda w: w.lstm([zeros(5, 3), RAGGED]), EITHER, "x[1]"),
    ("list with lengths", lambda w: w.lstm([zeros(5, 3), zeros(4, 3)], lengths=[5, 4]), V, "lengths"),
    ("list with reset", lambda w: w.lstm([zeros(5, 3), zeros(4, 3)], reset=BOOL[:4]), V, ("reset", "(5, 2)")),
    *each(("lengths", "(2,)"), lambda w, v: w.lstm(X, lengths=v), V, [[3], [3, 3, 3], [[3, 3]], 3]),
    *each(("lengths", "5"), lambda w, v: w.lstm(X, lengths=v), V,
          [[0, 3], [3, 6], [-1, 3], np.array([2**63, 3], np.uint64)]),
    *each("lengths", lambda w, v: w.lstm(X, lengths=v), T,
          [[3.0, 3.0], [NAN, 3], [True, True], ["3", "3"], [None, 3], "33", [1j, 3], [2**64, 3], {3}, object]),
    *each("lengths", lambda w, v: w.lstm(X, lengths=v), EITHER, [[[3], [3, 3]]]),
    *each(("reset", "(5, 2)"), lambda w, v: w.lstm(X, reset=v), V, [BOOL[:, 0], BOOL.T, BOOL[..., None], BOOL[0, 0]]),
    *each(("reset", "bool"), lambda w, v: w.lstm(X, reset=v), T, [BOOL.astype(t) for t in (int, float, object, "U1")]),
    *each("reset", lambda w, v: w.lstm(X, reset=v), EITHER, ["x", [[True], [True, False]], {}]),
    ("unknown argument", lambda w: w.lstm(X, hx=None), T, "hx"),
])  # fmt: skip
def test_calls(world, call, kind, words):
    rejects(world, call, kind, words)


def pair(*shape, dtype="float32"):
    return zeros(*shape, dtype=dtype), zeros(*shape, dtype=dtype)


def states(call):
    """Rows for what is no state of two lanes of the LSTM."""
    h, short_c = zeros(1, 2, 4), zeros(1, 2, 3)
    return [
        *[row for shape in [(1, 3, 4), (2, 2, 4), (1, 2, 3), (2, 4), ()]
          for row in each(("state", str(shape)), call, V, [pair(*shape)])],
        *each(("state", "float64"), call, T, [pair(1, 2, 4, dtype="float64")]),
        *each(("state", "int32"), call, T, [pair(1, 2, 4, dtype="int32")]),
        *each("c of state", call, EITHER, [(h, short_c), (h, None), (h, "x"), (h, RAGGED)]),
        *each("h of state", call, EITHER, [(None, h), ("ab", h), (RAGGED, h), ({}, h), (None, None)]),
        *each(("state", "(h, c)"), call, EITHER, [(h,), (h, h, h), np.zeros((2, 1, 2, 4)), {"h": h}, 3, "ab"]),
    ]  # fmt: skip


PAIR = pair(1, 2, 4)
NO_NETWORK_STATES = [PAIR, [PAIR, PAIR], [], (), 3, "x", [None], [pair(1, 2, 3)], {0: PAIR}, np.zeros((1, 2, 1, 2, 4))]


@table([
    *states(lambda w, v: w.lstm(X, v)),
    *states(lambda w, v: setattr(w.two, "state", v)),
    *each("state", lambda w, v: w.net(X, v), EITHER, NO_NETWORK_STATES),
    *each("state", lambda w, v: setattr(w.learner, "state", v), EITHER, [None, *NO_NETWORK_STATES]),
    ("a stream's None", lambda w: setattr(w.two, "state", None), EITHER, "state"),
    ("linear", lambda w: w.linear(X, PAIR), V, "state"),
    ("bidirectional", lambda w: w.both(X, PAIR), V, ("state", "(1, 2, 4)", "(2, 2, 4)")),
])  # fmt: skip
def test_states(world, call, kind, words):
    rejects(world, call, kind, words)


def test_the_state_of_a_layer_without_one_can_be_given_back():
    linear = fl.Linear(3, 2, seed=0)
    stream, learner = linear.stream(), fl.OnlineLearner(linear)
    stream.state, learner.state = stream.state, learner.state
    assert linear(X, state=linear(X)[1])[1] is None


# Streams --------------------------------------------------------------------------------------------------------------


def readonly(a):
    a.flags.writeable = False
    return a


MISALIGNED = np.zeros(33, np.uint8)[1:].view(np.float32).reshape(2, 4)
BAD_OUTS = [
    (V, "(2, 3)", zeros(2, 3)), (V, "(8,)", zeros(8)), (V, "(1, 2, 4)", zeros(1, 2, 4)), (V, "()", zeros()),
    (T, "float64", zeros(2, 4, dtype="float64")), (T, "int32", zeros(2, 4, dtype="int32")),
    (T, ">f4", zeros(2, 4, dtype=">f4")), (T, "list", [[0.0] * 4] * 2), (T, "bytearray", bytearray(32)),
    (T, "bool", False), (V, "writeable", readonly(zeros(2, 4))), (V, "aligned", MISALIGNED),
    (V, "C-contiguous", zeros(2, 8)[:, ::2]), (V, "C-contiguous", zeros(4, 2).T),
    (V, "C-contiguous", np.broadcast_to(zeros(4), (2, 4))),
]  # fmt: skip
BAD_MASKS = [True, [True], [True] * 3, [[True, True]], [0, 1], [1.0, 0.0], "ab", [None, True], [[True], [True, True]]]


@table([
    *no_arrays("x", lambda w, v: w.one.step(v)),
    *no_arrays("xs", lambda w, v: w.two.run(v)),
    ("step: None", lambda w: w.one.step(None), T, "x"),
    ("step: I", lambda w: w.one.step(zeros(4)), V, ("x", "(4,)", "(3,)")),
    ("step: two of one lane", lambda w: w.one.step(zeros(2, 3)), V, ("x", "(2, 3)")),
    ("step: one of two lanes", lambda w: w.two.step(zeros(3)), V, ("x", "(3,)", "(2, 3)")),
    ("step: three of two lanes", lambda w: w.two.step(zeros(3, 3)), V, ("x", "(3, 3)")),
    ("step: 3-d", lambda w: w.two.step(zeros(1, 2, 3)), V, ("x", "(1, 2, 3)")),
    ("run: None", lambda w: w.one.run(None), T, "xs"),
    ("run: I", lambda w: w.two.run(zeros(5, 2, 4)), V, ("xs", "(5, 2, 4)")),
    ("run: lanes", lambda w: w.two.run(zeros(5, 3, 3)), V, ("xs", "(5, 3, 3)")),
    ("run: 2-d of two lanes", lambda w: w.two.run(zeros(5, 3)), V, ("xs", "(5, 3)")),
    ("run: T=0", lambda w: w.two.run(zeros(0, 2, 3)), V, ("xs", "(0, 2, 3)")),
    ("run: T=0 of one lane", lambda w: w.one.run(zeros(0, 3)), V, ("xs", "(0, 3)")),
    *[row for kind, word, v in BAD_OUTS
      for row in each(("out", word), lambda w, v: w.two.step(X[0], out=v), kind, [v])],
    ("out of one lane", lambda w: w.one.step(X[0, 0], out=zeros(1, 4)), V, ("out", "(1, 4)", "(4,)")),
    ("out with a bad x", lambda w: w.two.step(zeros(2, 4), out=w.out), V, "x"),
    *each("mask", lambda w, v: w.two.reset(v), EITHER, BAD_MASKS),
    *each("weights", lambda w, v: w.lstm.stream(weights=v), EITHER,
          ["int7", "", "float32 ", 3, None, np.float32, ["float32"], np.zeros((9, 9)), "x" * 500]),
    ("float16 of float64", lambda w: fl.LSTM(3, 4, dtype="float64").stream(weights="float16"), V, "weights"),
    ("bidirectional", lambda w: w.both.stream(), V, "bidirectional"),
    ("unknown argument", lambda w: w.one.step(X[0, 0], mask=None), T, "mask"),
])  # fmt: skip
def test_streams(world, call, kind, words):
    rejects(world, call, kind, words)


# Parameters -----------------------------------------------------------------------------------------------------------


def load(w, **changed):
    w.linear.load_state_dict(w.linear.state_dict() | changed)


@table([
    ("missing", lambda w: w.linear.load_state_dict({"weight": zeros(2, 3)}), V, "bias"),
    ("unknown", lambda w: load(w, more=zeros(1)), V, "more"),
    ("empty", lambda w: w.net.load_state_dict({}), V, "0.weight_ih_l0"),
    ("other names", lambda w: w.net.load_state_dict(w.lstm.state_dict()), V, "weight_ih_l0"),
    ("many names", lambda w: fl.LSTM(3, 4, 4, bidirectional=True).load_state_dict({}), V, "bias_hh_l0"),
    ("no strings", lambda w: w.linear.load_state_dict({1: 2, None: 3}), V, "state"),
    ("a long name", lambda w: load(w, **{"x" * 500: 1}), V, "state"),
    ("any mapping", lambda w: w.linear.load_state_dict(UserDict({"weight": 1})), V, "bias"),
    ("shape", lambda w: load(w, bias=zeros(3)), V, ("bias", "(3,)", "(2,)")),
    ("transposed", lambda w: load(w, weight=zeros(3, 2)), V, ("weight", "(3, 2)", "(2, 3)")),
    ("no broadcasting", lambda w: load(w, bias=1.0), V, ("bias", "()")),
    ("float64", lambda w: load(w, bias=zeros(2, dtype="float64")), T, ("bias", "float64", "float32")),
    *each("bias", lambda w, v: load(w, bias=v), T, [[1j, 2], "ab", None, object(), {}, zeros(2, dtype=int)]),
    *each("weight", lambda w, v: load(w, weight=v), EITHER, UNEVEN),
    ("the last of many", lambda w: w.net.load_state_dict(w.net.state_dict() | {"1.bias": zeros(3)}), V, "1.bias"),
    *each("state", lambda w, v: w.net.load_state_dict(v), T, [3, None, [], "x", zeros(3), object(), fl.LSTM]),
    *each("weight", lambda w, v: setattr(w.linear, "weight", v), V, [zeros(3, 2), 1.0, [], zeros(6)]),
    *each("weight", lambda w, v: setattr(w.linear, "weight", v), T, [zeros(2, 3, dtype=float), "x", None, object()]),
    *each("weight", lambda w, v: setattr(w.linear, "weight", v), EITHER, UNEVEN),
    ("inside a network", lambda w: setattr(w.net[0], "weight_hh_l0", zeros(3)), V, "weight_hh_l0"),
])  # fmt: skip
def test_parameters(world, call, kind, words):
    rejects(world, call, kind, words)


def test_views_are_read_only(world):
    for view in (world.lstm.parameters, world.lstm.weight_ih_l0, world.net[0].bias_hh_l0):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


@pytest.mark.parametrize("name", ["weight_ih_l1", "weight", "weight_gh_l0", "nonsense"])
def test_parameters_that_do_not_exist(world, name):
    with pytest.raises(AttributeError, match=name):
        getattr(world.lstm, name)


# Losses and optimisers ------------------------------------------------------------------------------------------------

ELEMENTWISE = [fl.losses.mse, fl.losses.sse, fl.losses.binary_cross_entropy]
CE = fl.losses.cross_entropy
Y = np.full((2, 3), 0.5, np.float32)
NO_REALS = [np.full((2, 3), "a"), np.full((2, 3), None), 1j * Y, RAGGED]
NOTHING = [None, "x", object(), {}]


@pytest.mark.parametrize("loss", ELEMENTWISE)
@table([
    ("shapes", lambda f: f(Y, Y.T), V, ("target", "(3, 2)", "(2, 3)")),
    ("no broadcasting", lambda f: f(Y, Y[0]), V, ("target", "(3,)")),
    *each("target", lambda f, v: f(Y, v), EITHER, NO_REALS + NOTHING),
    *each("y", lambda f, v: f(v, Y), EITHER, [*NO_REALS, Y > 0]),
    *each("y|target", lambda f, v: f(v, Y), EITHER, NOTHING),
    *each("mask", lambda f, v: f(Y, Y, v), EITHER, [zeros(2, 3), zeros(2, 3, dtype=int), Y[:, :2] > 0, "x"]),
    *each("mask", lambda f, v: f(Y, Y, v), EITHER, [[[True], [True, True]], np.ones((2, 3, 1), bool), {}]),
])  # fmt: skip
def test_elementwise_losses(world, loss, call, kind, words):
    rejects(world, lambda w: call(loss), kind, words)


@table([
    *each("target", lambda w, v: CE(Y, v), T, [[0.0, 1.0], [True, False], ["0", "1"], *NOTHING]),
    *each("target", lambda w, v: CE(Y, v), EITHER, [[[0], [0, 1]]]),
    ("shape", lambda w: CE(Y, [0, 1, 2]), V, ("target", "(3,)", "(2,)")),
    ("one-hot", lambda w: CE(Y, np.eye(2, 3, dtype=int)), V, ("target", "(2, 3)", "(2,)")),
    ("above", lambda w: CE(Y, [0, 3]), V, ("target", "3")),
    ("below", lambda w: CE(Y, [-2, 0]), V, ("target", "-2")),
    ("huge", lambda w: CE(Y, np.array([2**63, 0], np.uint64)), V, "target"),
    ("0-d", lambda w: CE(1.0, 0), V, "y"),
    ("no class", lambda w: CE(zeros(2, 0), [-1, -1]), V, "y"),
    *each("y", lambda w, v: CE(v, [0, 1]), EITHER, NO_REALS),
    *each("y|target", lambda w, v: CE(v, [0, 1]), EITHER, NOTHING),
    *each("mask", lambda w, v: CE(Y, [0, 1], v), EITHER, [[1, 1], [True], Y > 0, "x", [[True], [True, True]]]),
])  # fmt: skip
def test_cross_entropy(world, call, kind, words):
    rejects(world, call, kind, words)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", [*ELEMENTWISE, CE])
def test_losses_of_integers_are_refused_or_right(loss):
    """Not the right loss with a derivative that is cut off to integers."""
    y, target = np.array([[1, 0, 1]]), np.array([0]) if loss is CE else np.array([[1, 1, 0]])
    try:
        value, dy = loss(y, target)
    except TypeError:
        return
    wanted, wanted_dy = loss(y.astype(float), target if loss is CE else target.astype(float))
    assert value == wanted
    np.testing.assert_allclose(dy, wanted_dy)


BAD_ENTRIES = [("lr", NAN), ("lr", "x"), ("momentum", 0.9), ("momentum", np.zeros(3)), ("momentum", None)]
BAD_ENTRIES += [("decay", 2), ("velocity", None), ("velocity", zeros(3)), ("velocity", "x"), ("velocity", RAGGED)]


@table([
    *each("net", lambda w, v: fl.SGD(v, 0.1), T, [None, 3, "x", [], {}, fl.LSTM, zeros(3)]),
    ("a stream", lambda w: fl.SGD(w.one, 0.1), T, ("net", "Stream")),
    ("no lr", lambda w: fl.SGD(w.net), T, "lr"),
    *each("lr", lambda w, v: fl.SGD(w.net, v), V, [NAN, -0.1, INF, -INF, 10**400, np.float32(NAN)]),
    *each("lr", lambda w, v: fl.SGD(w.net, v), T, [None, *NO_NUMBERS]),
    *each("lr", lambda w, v: setattr(w.sgd, "lr", v), EITHER, [NAN, -1, "x", None]),
    *each("momentum", lambda w, v: fl.SGD(w.net, 0.1, v), V, [1, -0.1, NAN, 2, INF, 10**400]),
    *each("momentum", lambda w, v: fl.SGD(w.net, 0.1, v), T, [None, *NO_NUMBERS]),
    *each("decay", lambda w, v: fl.SGD(w.net, 0.1, decay=v), V, [0, 2, -1, NAN, INF, 10**400]),
    *each("decay", lambda w, v: fl.SGD(w.net, 0.1, decay=v), T, [None, *NO_NUMBERS]),
    *each("decay", lambda w, v: setattr(w.sgd, "decay", v), EITHER, [NAN, 0, 2, "x", None]),
    *each("state", lambda w, v: w.sgd.load_state_dict(v), EITHER, [3, None, [], "x", {}, ["lr"]]),
    *[(f"state: {name} {short(v)}", lambda w, name=name, v=v: w.sgd.load_state_dict(w.sgd.state_dict() | {name: v}),
       EITHER, name) for name, v in BAD_ENTRIES],
    ("a state of another kind", lambda w: w.sgd.load_state_dict(fl.SGD(w.linear, 0.1).state_dict()), V, "momentum"),
])  # fmt: skip
def test_sgd(world, call, kind, words):
    rejects(world, call, kind, words)


# Learners -------------------------------------------------------------------------------------------------------------

STEP = X[0]
ARRAY = np.zeros((9, 9))


@table([
    *each("net", lambda w, v: fl.OnlineLearner(v), T, [None, 3, "x", [], fl.LSTM, zeros(3)]),
    ("bidirectional", lambda w: fl.OnlineLearner(w.both), V, "bidirectional"),
    ("bidirectional inside", lambda w: fl.OnlineLearner(fl.Sequential(w.both)), V, "bidirectional"),
    *each("loss", lambda w, v: fl.OnlineLearner(w.net, v), EITHER,
          ["l1", "", "MSE", None, 3, True, [], {}, ("mse",), b"mse", ARRAY, "x" * 500]),
    *each("gradient", lambda w, v: fl.OnlineLearner(w.net, gradient=v), EITHER,
          ["rtrl", "", None, 3, True, [], ARRAY, "x" * 500]),
    *each("optimizer", lambda w, v: fl.OnlineLearner(w.net, optimizer=v), T, ["sgd", 0.1, fl.SGD, [], True, {}, ARRAY]),
    ("foreign optimizer", lambda w: fl.OnlineLearner(w.lstm, optimizer=w.sgd), V, "optimizer"),
    ("a layer's optimizer", lambda w: fl.OnlineLearner(w.net, optimizer=fl.SGD(w.net[0], 0.1)), V, "optimizer"),
    *each("chunk", lambda w, v: fl.OnlineLearner(w.net, chunk=v), EITHER,
          ["Episode", "", b"episode", np.array(["episode", "x"])]),
])  # fmt: skip
def test_making_learners(world, call, kind, words):
    rejects(world, call, kind, words)


@table([
    *no_arrays("x", lambda w, v: w.single.step(v)),
    *no_arrays("xs", lambda w, v: w.learner.run(v)),
    *no_arrays("target", lambda w, v: w.single.step(STEP[0], v)),
    *no_arrays("targets", lambda w, v: w.learner.run(X, v)),
    ("step: None", lambda w: w.single.step(None), T, "x"),
    ("step: I", lambda w: w.single.step(zeros(4)), V, ("x", "(4,)", "(3,)")),
    ("step: lanes", lambda w: w.learner.step(zeros(3)), V, ("x", "(3,)", "(2, 3)")),
    ("step: more lanes", lambda w: w.learner.step(zeros(3, 3)), V, ("x", "(3, 3)")),
    ("step: a run", lambda w: w.learner.step(X), V, ("x", "(5, 2, 3)")),
    ("step: two of one lane", lambda w: w.single.step(zeros(2, 3)), V, ("x", "(2, 3)")),
    ("step: target", lambda w: w.learner.step(STEP, zeros(2, 3)), V, ("target", "(2, 3)", "(2, 2)")),
    ("step: target of one lane", lambda w: w.learner.step(STEP, zeros(2)), V, ("target", "(2,)", "(2, 2)")),
    ("step: both wrong", lambda w: w.learner.step(zeros(2, 4), zeros(3)), V, "x|target"),
    ("run: None", lambda w: w.single.run(None), T, "xs"),
    ("run: I", lambda w: w.learner.run(zeros(5, 2, 4)), V, ("xs", "(5, 2, 4)")),
    ("run: T=0", lambda w: w.learner.run(zeros(0, 2, 3)), V, ("xs", "(0, 2, 3)")),
    ("run: 2-d of two lanes", lambda w: w.learner.run(zeros(5, 3)), V, ("xs", "(5, 3)")),
    ("run: fewer targets", lambda w: w.learner.run(X, zeros(4, 2, 2)), V, ("targets", "(4, 2, 2)", "(5, 2, 2)")),
    ("run: width of targets", lambda w: w.learner.run(X, zeros(5, 2, 3)), V, ("targets", "(5, 2, 3)")),
    *each("reset", lambda w, v: w.learner.run(X, None, v), EITHER,
          [BOOL[:, 0], BOOL[:4], BOOL[..., None], zeros(5, 2), "x", [[True], [True, True]]]),
    *each("target", lambda w, v: w.classes.step(STEP, v), V, [[2, 0], [0, -2], [2**62, 0], [0], 0]),
    *each("target", lambda w, v: w.classes.step(STEP, v), V, [np.array([2**63, 0], np.uint64)]),
    *each(("target", "(2, 2)"), lambda w, v: w.classes.step(STEP, v), V, [np.eye(2, dtype=int)]),
    *each("target", lambda w, v: w.classes.step(STEP, v), T,
          [[0.0, 1.0], [NAN, 1], [True, False], ["0", "1"], [None, 1], [2**64, 0], "01"]),
    *each("target", lambda w, v: w.classes.step(STEP, v), EITHER, [[[0], [0, 1]]]),
    ("classes: shape", lambda w: w.classes.run(X, zeros(5, dtype=int)), V, ("targets", "(5,)", "(5, 2)")),
    ("classes: range", lambda w: w.classes.run(X, np.full((5, 2), 2)), V, ("targets", "2")),
    ("classes: floats", lambda w: w.classes.run(X, zeros(5, 2)), T, ("targets", "float32")),
    *each("mask", lambda w, v: w.learner.reset(v), EITHER, BAD_MASKS),
    ("nothing to apply", lambda w: w.single.apply(), V, "optimizer"),
])  # fmt: skip
def test_learners(world, call, kind, words):
    rejects(world, call, kind, words)


def test_lists_are_as_good_as_arrays():
    """Of x, and of targets: numbers without a dtype take that of the network."""
    results = []
    for change in (np.ndarray.tolist, np.copy):
        net = fl.LSTM(3, 4, seed=0)
        learner = fl.OnlineLearner(net, optimizer=fl.SGD(net, lr=0.1))
        learner.run(change(X[:, 0]), change(np.ones((5, 4), np.float32)))
        learner.step(change(STEP[0]), change(np.ones(4, np.float32)))
        results.append(net.parameters.tobytes())
    assert results[0] == results[1]


D = np.ones((1, 4), np.float32)
NONSENSE = [None, 3, "xy", (), {}, D, zeros(2, 3), (1.0,), (1.0, D, D), (1.0, None), (1.0, "x"), (1.0, D[0])]
NONSENSE += [(1.0, D.T), (1.0, D.astype(float)), (None, D), ("x", D), (1j, D), ([1.0, 2.0], D), (1.0, RAGGED)]


def answered(w, value):
    w.answer = value
    w.called.step(STEP[0], zeros(4))


@table([
    *each("loss", answered, EITHER, NONSENSE),
    ("targets: number", lambda w: w.called.run(zeros(2, 3), 5), EITHER, "targets"),
    ("targets: shorter", lambda w: w.called.run(zeros(2, 3), zeros(1, 4)), V, "targets"),
    ("targets: longer", lambda w: w.called.run(zeros(2, 3), zeros(3, 4)), V, "targets"),
    ("targets: generator", lambda w: w.called.run(zeros(2, 3), (i for i in range(2))), EITHER, "targets"),
    ("target: width", lambda w: w.called.step(STEP[0], zeros(3)), V, "target"),
])  # fmt: skip
def test_callable_losses(world, call, kind, words):
    rejects(world, call, kind, words)


class Mine(Exception):
    pass


def test_a_loss_that_raises_leaves_the_learner_as_after_the_step_before(world):
    answers, twin, targets = iter([(0.0, D), (0.0, D)]), World(), zeros(5, 4)
    twin.answer = (0.0, D)

    def answer():
        try:
            return next(answers)
        except StopIteration:
            raise Mine from None

    world.answer = answer
    with pytest.raises(Mine):
        world.called.run(X[:, 0], targets)
    twin.called.run(X[:2, 0], targets[:2])
    world.answer = twin.answer
    for w in (world, twin):
        w.called.run(X[2:, 0], targets[2:])
    got, wanted = world.everything(), twin.everything()
    assert [name for name in wanted if name.startswith("called") and got[name] != wanted[name]] == []


@pytest.mark.skipif(not hasattr(fl, "set_num_threads"), reason="one thread")
def test_number_of_threads(world):
    before = fl.get_num_threads()
    bad = [(V, n) for n in (0, -1, 2**31, 2**63, 10**400)] + [(T, n) for n in (1.5, None, True, "2", [2])]
    for kind, value in bad:
        rejects(world, lambda w, value=value: fl.set_num_threads(value), kind, "n")
        assert fl.get_num_threads() == before


# No crash -------------------------------------------------------------------------------------------------------------


def survives(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("what", ["Stream", "OnlineLearner"])
def test_an_object_that_was_never_made_is_no_crash(what):
    """As when a subclass forgets to call __init__."""
    survives(f"""
import numpy as np, fastlstm as fl
x = np.zeros(3, np.float32)
for name, arguments in {{"step": [x], "run": [x[None]], "reset": [], "copy": [], "refresh": [], "apply": [],
                        "gradients": [], "zero_grad": [], "nbytes": [], "sync": [], "__reduce__": []}}.items():
    thing = fl.{what}.__new__(fl.{what})
    try:
        getattr(thing, name)(*arguments)
    except Exception:
        pass
    try:
        thing.state = thing.state
    except Exception:
        pass
""")


def test_a_seed_that_crashes_numpy_is_no_crash():
    survives("""
import numpy as np, fastlstm as fl
try:
    fl.LSTM(1, 1, seed=np.matrix([[1, 2]], dtype=np.float32))
except (TypeError, ValueError):
    pass
""")


def pool(w):
    """Odd objects in the place of an argument. Sizes that some machine would really allocate are not among them."""
    a = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    return [
        None, True, False, 0, -1, 1, 2, 3, 7, 2**63, -(2**63), 2**70, 10**400, 0.0, -0.0, 0.5, 1.5, NAN, INF, -INF,
        1e308, 1j, "", "x", "tanh", "mse", "episode", "float32", "float64", "é\n\0", b"x", bytearray(12),
        memoryview(b"abc"), range(3), [], [[]], [[[]]], (), {}, set(), frozenset({1}), object(), object, int, len,
        lambda *_: None, lambda y, t: (0.0, y), (i for i in range(3)), iter([]), slice(None), Ellipsis, NotImplemented,
        RAGGED, [1, 2, 3], [1.0, 2.0, 3.0], [[0.5] * 3] * 5, [None] * 3, ["a"] * 3, [True] * 2, [a[:, 0], a[:3, 1]],
        [a[:, 0], 3], np.float32(2), np.float64(NAN), np.int8(3), np.uint64(2**63), np.bool_(True), np.str_("x"),
        np.datetime64("2000"), np.array(3), np.array(3.5, np.float32), a, a[:, 0], a[0], a[0, 0], a[:0], a[:, :0],
        a[..., :0], a[..., :2], a[::-1], a.T, a[::2], np.asfortranarray(a), a.astype(float), a.astype(">f4"),
        a.astype(np.float16), a.astype(int), a > 3, a[..., 0] > 3, a[:, :1, 0] > 3, a.astype(object), a.astype("U2"),
        a * np.float32(NAN), a * 1j, np.zeros((5, 2), int), np.zeros(2, int), np.ones(2, int), np.zeros(2, bool),
        np.array([2**63, 1], np.uint64), np.zeros((1,) * 30, np.float32), np.zeros(3, [("a", "f4")]),
        np.zeros(3, "M8[s]"), np.ma.masked_array(a, a > 3), np.matrix([[1.0, 2.0, 3.0]], dtype=np.float32),
        np.broadcast_to(np.float32(1), (5, 2, 3)), MISALIGNED, readonly(a.copy()), w.lstm, w.net, w.linear, w.both,
        w.one, w.two, w.sgd, w.learner, fl.LSTM, fl, w.lstm.state_dict(), w.net.state_dict(), w.sgd.state_dict(),
        w.one.state, w.two.state, w.learner.state, [w.two.state], (None, None), pair(1, 2, 4), pair(1, 1, 4),
        pair(2, 2, 4), w.lstm.parameters, w.out,
    ]  # fmt: skip


def right_calls(w):
    """(name, function, arguments by name): the random calls are these with one or two arguments replaced."""
    x, targets, marks = w.x, w.targets, zeros(5, 2, dtype=bool)
    signs, classes = (x > 0).astype(np.float32), np.ones((5, 2), int)

    def setter(thing, name):
        return lambda value: setattr(thing, name, value)

    flags = dict.fromkeys((*FLAGS, "bias"), True) | {"bidirectional": False, "coupled_gates": False}
    activations = dict.fromkeys(ACTIVATIONS, "tanh")
    lstm = {"input_size": 3, "hidden_size": 4, "num_layers": 1, "block_size": 2, "dropout": 0.0, "proj_size": 0}
    lstm |= flags | activations | {"clip": 1.0, "dtype": "float32", "seed": 0}
    paper = {"input_size": 3, "blocks": 2, "block_size": 2, "init": 0.1, "input_gate_bias": -1}
    linear = {"in_features": 3, "out_features": 2, "bias": True, "activation": "tanh", "dtype": "float32", "seed": 0}
    learner = {"net": w.net, "loss": "mse", "optimizer": w.sgd, "gradient": "truncated-rtrl", "chunk": 1, "lanes": 2}
    call = {"x": x, "state": None, "lengths": [5, 3], "reset": marks}
    return [
        ("LSTM", fl.LSTM, lstm),
        ("LSTM1997", fl.LSTM1997, paper | {"output_gate_bias": [-1, -2]}),
        ("Linear", fl.Linear, linear),
        ("Sequential", lambda a, b: fl.Sequential(a, b), {"a": fl.LSTM(3, 4), "b": fl.Linear(4, 1)}),
        ("lstm", w.lstm, call),
        ("both", w.both, call),
        ("net", w.net, call),
        ("linear", w.linear, call),
        ("lstm of a list", w.lstm, {"x": [x[:, 0], x[:2, 1]], "state": pair(1, 2, 4), "reset": marks}),
        ("stream", w.lstm.stream, {"lanes": 2, "weights": "float32"}),
        ("one.step", w.one.step, {"x": x[0, 0], "out": None}),
        ("two.step", w.two.step, {"x": x[0], "out": w.out}),
        ("one.run", w.one.run, {"xs": x[:, 0]}),
        ("two.run", w.two.run, {"xs": x}),
        ("two.reset", w.two.reset, {"mask": [True, False]}),
        ("two.state", setter(w.two, "state"), {"value": w.two.state}),
        ("load", w.net.load_state_dict, {"state": w.net.state_dict()}),
        ("load linear", lambda **arrays: load(w, **arrays), {"weight": zeros(2, 3), "bias": zeros(2)}),
        ("weight", setter(w.linear, "weight"), {"value": zeros(2, 3)}),
        ("mse", fl.losses.mse, {"y": x, "target": x, "mask": None}),
        ("sse", fl.losses.sse, {"y": x, "target": x, "mask": marks}),
        ("bce", fl.losses.binary_cross_entropy, {"y": np.abs(np.tanh(x)), "target": signs, "mask": None}),
        ("bce weight", fl.losses.binary_cross_entropy, {"y": np.abs(np.tanh(x)), "target": signs, "pos_weight": 2}),
        ("ce", fl.losses.cross_entropy, {"y": x, "target": classes, "mask": marks}),
        ("ce w", fl.losses.cross_entropy, {"y": x, "target": classes, "weight": [1, 2, 3], "label_smoothing": 0.1}),
        ("ctc", fl.losses.ctc, {"y": x, "targets": [[1, 2], [1]], "lengths": [5, 3], "blank": 0}),
        ("ctc padded", fl.losses.ctc, {"y": x, "targets": np.ones((2, 2), int), "target_lengths": [2, 1]}),
        ("ctc of one", fl.losses.ctc, {"y": x[:, 0], "targets": [1, 2], "lengths": 4, "target_lengths": None}),
        ("SGD", fl.SGD, {"net": w.net, "lr": 0.1, "momentum": 0.5, "decay": 0.9, "nesterov": True, "clip_norm": 1.0}),
        ("RMSprop", fl.RMSprop, {"net": w.net, "lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.5}),
        ("Adam", fl.Adam, {"net": w.net, "lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.1, "clip_norm": None}),
        ("AdamW", fl.AdamW, {"net": w.net, "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}),
        ("adam.load", w.adam.load_state_dict, {"state": w.adam.state_dict()}),
        ("Plateau", lambda **a: fl.schedules.Plateau(**a)(0, 1.0), {"lr": 0.1, "factor": 0.5, "patience": 1}),
        ("schedule", fl.schedules.Cosine(0.1, 10), {"epoch": 3, "loss": None}),
        ("lr", setter(w.sgd, "lr"), {"value": 0.1}),
        ("decay", setter(w.sgd, "decay"), {"value": 0.9}),
        ("sgd.load", w.sgd.load_state_dict, {"state": w.sgd.state_dict()}),
        ("OnlineLearner", fl.OnlineLearner, learner),
        ("learner.step", w.learner.step, {"x": x[0], "target": targets[0]}),
        ("learner.run", w.learner.run, {"xs": x, "targets": targets, "reset": marks}),
        ("learner.reset", w.learner.reset, {"mask": [True, False]}),
        ("learner.state", setter(w.learner, "state"), {"value": w.learner.state}),
        ("single.step", w.single.step, {"x": x[0, 0], "target": zeros(4)}),
        ("classes.step", w.classes.step, {"x": x[0], "target": [0, 1]}),
        ("classes.run", w.classes.run, {"xs": x, "targets": classes}),
        ("called.step", w.called.step, {"x": x[0, 0], "target": zeros(4)}),
        ("called.run", w.called.run, {"xs": x[:, 0], "targets": zeros(5, 4)}),
        ("loss", lambda answer: answered(w, answer), {"answer": (0.0, zeros(1, 4))}),
    ]


def random_calls(seed, count):
    """Make random calls; returns what went wrong, one line per kind."""
    rng, wrong = np.random.default_rng(seed), {}
    for k in range(count):
        if k % 20 == 0:  # objects that took something odd are not used for long
            w = World()
            odd, right = pool(w), right_calls(w)
        name, function, arguments = right[rng.integers(len(right))]
        arguments, replaced = dict(arguments), {}
        for key in rng.choice(list(arguments), min(len(arguments), rng.integers(1, 3)), replace=False):
            arguments[str(key)] = odd[rng.integers(len(odd))]
            replaced[str(key)] = f"{arguments[str(key)]!r:.60}"
        w.answer, before = RIGHT, w.everything()
        try:
            function(**arguments)
        except (ValueError, TypeError, MemoryError):
            after = w.everything()
            what = [f"changed {part}" for part in before if before[part] != after[part]]
        except BaseException as error:
            what = [f"{type(error).__name__}: {error!s:.80}"]
        else:
            what = []
        for each_thing in what:
            wrong.setdefault((name, each_thing), f"{name}: {each_thing}: {replaced}")
    return list(wrong.values())


def test_random_calls_raise_errors_only_and_change_nothing():
    command = [sys.executable, "-W", "ignore", __file__, "1", "4000"]
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
