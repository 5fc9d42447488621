"""fastlstm beside PyTorch, ONNX Runtime and OpenVINO: `python benchmarks/peers.py [--threads N] [--out DIR]`.

Inference in float32, every engine with the same number of threads and the same network, whose outputs are compared
before anything is timed. The engines take turns in one process: a round times each of them, and what the machine can
do at all (`limits.py`), for some 20 ms, in an order that rotates; so all of them see the same swings of a shared
machine's clock. A peer that is not installed is left out; ONNX Runtime and OpenVINO need `onnx` too.

How the peers are called. PyTorch: `nn.LSTM` in inference mode, for single steps `nn.LSTMCell` too, the better counts.
ONNX Runtime and OpenVINO: one call that takes NumPy arrays and returns them; and, for short calls, "bound": inputs
and outputs bound to buffers once, which the user then writes and reads in place.
"""

import argparse
import gc
import json
import os
import platform
import re
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib import metadata
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep

import numpy as np

import fastlstm as fl

sys.path.insert(0, str(Path(__file__).parent))  # asv imports every module here, from elsewhere
from limits import Limits, cache_sizes, level_of, timed  # noqa: E402

# ---- what is measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """A call to measure, and the ratios (peer's time over ours) that it should reach.

    `kind`: "step" (one step per call), "run" and "sequence" (one call for all steps), "ragged" (lengths uniform in
    1..steps). `targets` by the name of our engine, for one thread; `two` the same with two threads; `over_own` by our
    engine and the other engine of ours that it is compared with, the latter as long as it is part of the run.
    """

    kind: str
    lanes: int
    steps: int
    hidden: int
    targets: dict = field(default_factory=dict)
    inputs: int = 0
    two: dict = field(default_factory=dict)
    compact: tuple = ()  # formats of weights without a target of their own

    @property
    def name(self):
        shape = f"B={self.lanes} T={self.steps} H={self.hidden}"
        return {"step": f"step H={self.hidden}", "run": f"run I={self.n_inputs} H={self.hidden} T={self.steps}",
                "sequence": shape, "ragged": f"ragged {shape}"}[self.kind]  # fmt: skip

    @property
    def n_inputs(self):
        return self.inputs or self.hidden


WORKLOADS = [
    Workload("step", 1, 1, 16, {"float32": 60}),
    Workload("step", 1, 1, 32, {"float32": 40}),
    Workload("step", 1, 1, 64, {"float32": 12}, compact=("int16", "int8")),
    Workload("step", 1, 1, 128, {"float32": 5, "int8": 12}, compact=("int16",)),
    Workload("step", 1, 1, 256, {"float32": 1.5, "float16": 4, "int16": 4, "int8": 14}),
    Workload("step", 1, 1, 512, {"float32": 1.4, "float16": 2.7, "int16": 2.7, "int8": 5}),
    Workload("step", 1, 1, 1024, {"float32": 1.1, "float16": 2, "int16": 2, "int8": 6}),
    Workload("run", 1, 48_000, 24, {"float32": 10}, inputs=1),
    Workload("sequence", 1, 100, 32, {"float32": 3}),
    Workload("sequence", 1, 100, 128, {"float32": 1.8}),
    Workload("sequence", 1, 100, 256, {"float32": 1.6}, two={"float32": 2.5}),
    Workload("sequence", 1, 100, 512, {"float32": 1.1, "float16": 2, "int16": 2, "int8": 3.5}),
    Workload("sequence", 8, 100, 32, {"float32": 2}),
    Workload("sequence", 8, 100, 128, {"float32": 1.7}),
    Workload("sequence", 8, 100, 512, {"float32": 1.3}),
    Workload("sequence", 32, 50, 32, {"float32": 2}),
    Workload("sequence", 32, 50, 128, {"float32": 1.5}),
    Workload("sequence", 32, 50, 256, {"float32": 1.4}),
    Workload("sequence", 32, 50, 512, {"float32": 1.4}),
    Workload("sequence", 32, 50, 1024, {"float32": 1.4}),
    Workload("sequence", 256, 20, 128, {"float32": 1.4}),
    Workload("sequence", 256, 20, 512, {"float32": 1.4}),
    Workload("ragged", 32, 100, 64, {"lengths": 2, "list": 2}),  # over PyTorch's packed sequences
    Workload("ragged", 32, 100, 128, {"lengths": 2, "list": 2}),
    Workload("ragged", 128, 100, 64, {"lengths": 2, "list": 2}),
]
OVER_PADDED = 1.0  # time of our padded batch over that of our ragged batch, as many valid steps in both
OVER_FLOAT32 = {"float16": 1.9, "int16": 1.9, "int8": 4.0}  # time of our float32 over ours, steps from hidden 256 up
OVER_FLOAT32_SMALL = {"int8": 3.0}  # at 64 and 128
OVER_ONE_THREAD = 1.8  # time of one thread over that of two, from 8 lanes up

PEERS = ["PyTorch", "ONNX Runtime", "OpenVINO"]
BOUND = " bound"
WEIGHT_BYTES = {"float32": 4, "float16": 2, "int16": 2, "int8": 1}
TOLERANCES = {"float16": 5e-3, "int16": 5e-3, "int8": 5e-2}
SHORT_CALL = 5e-3  # beyond it, what binding saves (0.15 ms at most) does not show
STEPS_CHECKED = 5


@dataclass(frozen=True)
class Engine:
    """`call()` is what is timed; its result may be any array or list of arrays. `before()` precedes a timing."""

    name: str
    call: object
    before: object = nullcontext
    tolerance: float = 1e-4


class Problem:
    """The network of a workload, an input and, when ragged, lengths."""

    def __init__(self, work):
        rng = np.random.default_rng(0)
        self.work = work
        self.layer = fl.LSTM(work.n_inputs, work.hidden, seed=0)
        self.weights = self.layer.state_dict()
        self.x = rng.standard_normal((work.steps, work.lanes, work.n_inputs), dtype=np.float32)
        self.lengths = None
        while work.kind == "ragged":  # until a padded batch can have as many valid steps
            self.lengths = rng.integers(1, work.steps + 1, work.lanes)
            if self.lengths.sum() % work.lanes == 0:
                break

    def zeros(self):
        """A state (h or c) as PyTorch and ONNX shape it."""
        return np.zeros((1, self.work.lanes, self.work.hidden), np.float32)


# ---- fastlstm ---------------------------------------------------------------------------------------------------


def own_engines(problem, threads):
    """fastlstm in all ways that the workload asks for; "1 thread" beside the others in a run with more."""
    work, layer, x = problem.work, problem.layer, problem.x
    use_threads = partial(fl.set_num_threads, threads)
    if work.kind == "step":
        calls = {"float32": partial(layer.stream().step, x[0, 0])}
    elif work.kind == "run":
        calls = {"float32": partial(layer.stream().run, x[:, 0])}
    elif work.kind == "sequence":
        calls = {"float32": partial(layer, x)}
    else:
        sequences = [x[:length, lane].copy() for lane, length in enumerate(problem.lengths)]
        padded = x[: problem.lengths.sum() // work.lanes].copy()
        calls = {"lengths": partial(layer, x, lengths=problem.lengths), "list": partial(layer, sequences)}
        calls["padded"] = partial(layer, padded)
    for name, call in calls.items():
        yield Engine(name, call, use_threads)
    for weights in TOLERANCES:
        if weights in work.targets or weights in work.compact:
            try:
                stream = layer.stream(weights=weights)
            except (TypeError, ValueError):  # this version has none
                continue
            call = partial(stream.step, x[0, 0]) if work.kind == "step" else partial(stream.run, x[:, 0])
            yield Engine(weights, call, use_threads, TOLERANCES[weights])
    if threads > 1 and (work.lanes > 1 or work.hidden >= 256):
        name, call = next(iter(calls.items()))
        if work.kind == "step":
            call = partial(layer.stream().step, x[0, 0])
        yield Engine("1 thread", call, partial(fl.set_num_threads, 1))


# ---- PyTorch ----------------------------------------------------------------------------------------------------


def pytorch_engines(problem, threads):
    import torch

    torch.set_num_threads(threads)
    work = problem.work
    net = torch.nn.LSTM(work.n_inputs, work.hidden)
    net.load_state_dict({name: torch.from_numpy(w) for name, w in problem.weights.items()})
    x = torch.from_numpy(problem.x)
    if work.kind == "step":
        yield Engine("PyTorch", pytorch_stepper(net, x, problem))
        cell = torch.nn.LSTMCell(work.n_inputs, work.hidden)
        cell.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(w) for name, w in problem.weights.items()})
        yield Engine("PyTorch cell", pytorch_cell_stepper(cell, x[0], problem))
    elif work.kind == "ragged":
        yield Engine("PyTorch", pytorch_packed(net, x, problem))
    else:
        yield Engine("PyTorch", lambda: net(x)[0])


def pytorch_stepper(net, x, problem):
    import torch

    state = torch.from_numpy(problem.zeros()), torch.from_numpy(problem.zeros())

    def call():
        nonlocal state
        y, state = net(x, state)
        return y

    return call


def pytorch_cell_stepper(cell, x, problem):
    import torch

    state = torch.from_numpy(problem.zeros()[0]), torch.from_numpy(problem.zeros()[0])

    def call():
        nonlocal state
        state = cell(x, state)
        return state[0]

    return call


def pytorch_packed(net, x, problem):
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    lengths = torch.from_numpy(problem.lengths)

    def call():
        packed, _ = net(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(packed, total_length=len(x))[0]

    return call


# ---- ONNX Runtime and OpenVINO ------------------------------------------------------------------------------------


def onnx_model(problem):
    """The network as a serialized ONNX model: X (T, B, I), optional lengths or state in, Y, Y_h, Y_c out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    work = problem.work

    def onnx_order(name):
        i, f, g, o = np.split(problem.weights[name], 4)
        return np.concatenate([i, o, f, g])[None]

    constants = {
        "W": onnx_order("weight_ih_l0"),
        "R": onnx_order("weight_hh_l0"),
        "biases": np.concatenate([onnx_order("bias_ih_l0"), onnx_order("bias_hh_l0")], axis=1),
    }
    state, outputs = [1, work.lanes, work.hidden], [work.steps, 1, work.lanes, work.hidden]
    tensor, real = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [tensor("X", real, problem.x.shape)]
    names = ["X", *constants]
    if work.kind == "ragged":
        inputs.append(tensor("lengths", TensorProto.INT32, [work.lanes]))
        names.append("lengths")
    if work.kind == "step":
        inputs += [tensor(name, real, state) for name in ("initial_h", "initial_c")]
        names += ["", "initial_h", "initial_c"]
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], hidden_size=work.hidden)
    graph = helper.make_graph(
        [node], "lstm", inputs, [tensor("Y", real, outputs), tensor("Y_h", real, state), tensor("Y_c", real, state)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    model.ir_version = 8  # the newest may be newer than what the peers read
    onnx.checker.check_model(model)
    return model.SerializeToString()


def onnx_inputs(problem):
    """Inputs of the model by name, but for the state."""
    lengths = {} if problem.lengths is None else {"lengths": problem.lengths.astype(np.int32)}
    return {"X": problem.x} | lengths


def onnxruntime_engines(problem, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_model(problem), options, providers=["CPUExecutionProvider"])
    inputs = onnx_inputs(problem)
    if problem.work.kind == "step":
        yield Engine("ONNX Runtime", onnxruntime_stepper(session, inputs, problem))
    else:
        yield Engine("ONNX Runtime", lambda: session.run(None, inputs)[0])
    yield Engine("ONNX Runtime" + BOUND, onnxruntime_bound(session, inputs, problem))


def onnxruntime_stepper(session, inputs, problem):
    h, c = problem.zeros(), problem.zeros()

    def call():
        nonlocal h, c
        y, h, c = session.run(None, inputs | {"initial_h": h, "initial_c": c})
        return y

    return call


def onnxruntime_bound(session, inputs, problem):
    """Two bindings take turns, the one's final state the other's initial one."""
    import onnxruntime

    work = problem.work
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    y = np.zeros((work.steps, 1, work.lanes, work.hidden), np.float32)
    states = [(problem.zeros(), problem.zeros()) for _ in range(2)]
    bindings = []
    for before, after in (states, states[::-1]):
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, value(array))
        if work.kind == "step":
            for name, array in zip(("initial_h", "initial_c"), before, strict=True):
                binding.bind_ortvalue_input(name, value(array))
        for name, array in zip(("Y", "Y_h", "Y_c"), (y, *after), strict=True):
            binding.bind_ortvalue_output(name, value(array))
        bindings.append(binding)
    turns = cycle(bindings)

    def call():
        session.run_with_iobinding(next(turns))
        return y

    return call


def openvino_engines(problem, threads):
    import openvino

    core = openvino.Core()
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(onnx_model(problem)), "CPU", config)
    inputs = onnx_inputs(problem)
    yield Engine("OpenVINO", openvino_call(model.create_infer_request(), inputs, problem))
    yield Engine("OpenVINO" + BOUND, openvino_bound(model.create_infer_request(), inputs, problem))


def openvino_call(request, inputs, problem):
    if problem.work.kind != "step":
        return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)["Y"]
    h, c = problem.zeros(), problem.zeros()

    def call():
        nonlocal h, c
        results = request.infer(inputs | {"initial_h": h, "initial_c": c}, share_inputs=True)
        h, c = results["Y_h"], results["Y_c"]
        return results["Y"]

    return call


def openvino_bound(request, inputs, problem):
    import openvino

    stepping = problem.work.kind == "step"
    h, c = problem.zeros(), problem.zeros()
    for name, array in (inputs | ({"initial_h": h, "initial_c": c} if stepping else {})).items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    y, y_h, y_c = (request.get_tensor(name).data for name in ("Y", "Y_h", "Y_c"))

    def call():
        request.infer(share_outputs=True)
        if stepping:
            h[:], c[:] = y_h, y_c
        return y

    return call


# ---- outputs must agree -------------------------------------------------------------------------------------------


def answer(engine, problem):
    """What an engine that has not run yet gives, as (T, B, H)."""
    for _ in range(STEPS_CHECKED if problem.work.kind == "step" else 1):
        result = engine.call()
    result = result[0] if isinstance(result, tuple) else result  # the other is the state
    if not isinstance(result, list):
        return np.asarray(result).reshape(-1, problem.work.lanes, problem.work.hidden).copy()
    y = np.zeros((problem.work.steps, problem.work.lanes, problem.work.hidden), np.float32)
    for lane, sequence in enumerate(result):
        y[: len(sequence), lane] = sequence
    return y


def check(engines, problem):
    """Raise SystemExit unless all engines compute what the first, ours, does."""
    truth = None
    for engine in engines:
        engine.before()
        result = answer(engine, problem)
        if engine.name != "padded":
            truth = result if truth is None else truth
            error = np.abs(result - truth).max()
            if not error <= engine.tolerance:
                raise SystemExit(f"{problem.work.name}: {engine.name} differs from fastlstm by {error:.2g}")


# ---- timing -------------------------------------------------------------------------------------------------------


@dataclass
class Effort:
    """`rounds` at most and as many as `budget` seconds allow, `least` at least; `slice` seconds for a timing."""

    rounds: int
    budget: float
    least: int
    slice: float


def settle(threads):
    """Wait until no thread of this process works: after a call, those of some peers spin for 50 ms."""
    for _ in range(50 if threads > 1 else 0):
        busy = process_time()
        sleep(0.005)
        if process_time() - busy < 0.001:
            break


def once(engine):
    """Seconds of one call; of the best of some, when they are short."""
    engine.before()
    first = timed(engine.call, 1)
    return first if first > 0.1 else min(first, *(timed(engine.call, 1) for _ in range(3)))


def measure(engines, measures, effort, threads):
    """Rounds in which all take turns.

    Parameters
    ----------
    engines : dict
        Engine -> seconds of a call, roughly.
    measures : dict
        Limit -> function that measures it.

    Returns
    -------
    dict
        Name of an engine or limit -> one figure per round: seconds per call, or the limit's unit.
    """
    repeats = {engine.name: max(1, int(effort.slice / seconds)) for engine, seconds in engines.items()}
    engines = list(engines)
    figures = {name: [] for name in [*repeats, *measures]}
    end = perf_counter() + effort.budget
    for k in range(effort.rounds):
        if k >= effort.least and perf_counter() > end:
            break
        turn = k % len(engines)
        for engine in engines[turn:] + engines[:turn]:
            settle(threads)
            engine.before()
            if repeats[engine.name] > 1:
                engine.call()  # its weights come back into the caches
            figures[engine.name].append(timed(engine.call, repeats[engine.name]))
        settle(threads)
        for name, limit in measures.items():
            figures[name].append(limit())
    return figures


# Multiply-adds in a row, besides two divisions, between a step's last sum and its output: a gate's activation, the
# state, its activation, the output; less the two that every chain has.
TAIL = 9 + 2 + 10 + 1 - 2


def step_stages(sources, size, times=1, more=None, called=False):
    """The stages of so many steps of a lane alone, whose weights of `sources` have so many bytes; `more`: their other
    needs, at the same time; `called`: each is a call from Python.

    Weights that do not fit into half of the first-level cache come from the second, and what follows the sums waits for
    them; otherwise it waits for sums of at most 64 in a row.
    """
    level1 = cache_sizes()[1]
    if size <= level1 / 2:
        read = f"once {size}" if called else f"read {size}"
        return [{f"chain {min(sources, 64) + TAIL}": times, read: times * size} | (more or {})]
    read = f"once {size}" if called else f"read {max(size, 2 * level1)}"
    return [{read: times * size} | (more or {}), {f"chain {TAIL}": times}]


ROWS_AHEAD = 128  # as many as share what a product has to fetch, where any number could


def product_of(rows, sources, outputs):
    """Name of the limit of a product with so many float32 weights."""
    return f"product {rows} {4 * sources * outputs}"


ACTIVATION = 22  # multiply-adds that a sigmoid or tanh of float32 precision takes besides its division


def needs(work, engine, valid):
    """What a call needs at least, whoever computes it: a list of stages, one after the other.

    A stage has amounts, in billions, by the name of the limit that bounds them: calls from Python ("call"), steps of so
    many multiply-adds in a row ("chain N"), floating-point operations of products of so many rows with a matrix of so
    many bytes ("product R N"), of activations or of all that a step does ("fma"), float16 weights to be widened
    ("half"), and bytes, where so many are read over and over ("read N") or once a call ("once N"). Within a stage they
    overlap. A sequence begins with h = 0, which takes no product; a stream goes on where it was.
    """
    hidden, inputs, steps, size = work.hidden, work.n_inputs, work.steps, WEIGHT_BYTES.get(engine, 4)
    stages, activations = [{"call": 1}], 2 * ACTIVATION * 5 * hidden
    of_floats = engine not in ("int16", "int8")
    of_inputs = 8 * hidden * inputs * valid

    def step(sources, times, meanwhile=0):
        weights = 4 * hidden * sources
        more = {"fma": times * (activations + 2 * weights * of_floats) + meanwhile}
        more |= {"half": times * weights} if engine == "float16" else {}
        return step_stages(sources, weights * size, times, more, work.kind == "step")

    if work.kind == "step":
        stages += step(hidden + inputs, 1)
    elif work.lanes == 1:
        at_rest = work.kind == "sequence" and engine == "float32"
        stages += step(hidden, steps - at_rest, of_inputs * of_floats)  # recurrent weights are read at every step
    else:
        stages += [{product_of(ROWS_AHEAD, inputs, 4 * hidden): of_inputs}]  # of many steps at once
        stages += [{product_of(work.lanes, hidden, 4 * hidden): 8 * hidden * hidden * (valid - work.lanes)}]
        stages += [{"fma": activations * valid}]
    return [{name: count / 1e9 for name, count in stage.items()} for stage in stages]


def measure_of(name, limits):
    """A function that measures the limit `name`, in billions a second."""
    kind, *count = name.split()
    if kind == "call":
        call = partial(np.ndarray.view, np.zeros(1, np.float32))
        return lambda: 1e-9 / timed(call, 10_000)
    return partial(getattr(limits, kind), *map(int, count))


def floor_of(stages, figures, ours, theirs):
    """Seconds that the stages take at the best rates measured, what takes longest, and how our times and those of peers
    stand to it; None if no limits were measured."""
    if "fma" not in figures:
        return None
    best = [max((count / max(figures[name]), name) for name, count in stage.items()) for stage in stages]
    seconds = sum(part for part, _ in best)
    found = {"seconds": seconds, "most": max(best)[1], "fraction": seconds / ours["minimum"]}
    return found | ({"ratio": min(peer["minimum"] for peer in theirs) / seconds} if theirs else {})


def run(work, peers, limits, effort, threads):
    """Check and measure one workload."""
    problem = Problem(work)
    own = list(own_engines(problem, threads))
    others = [engine for peer in peers for engine in peers[peer](problem, threads)]
    check(own + others, problem)
    engines = {engine: once(engine) for engine in own + others}
    short = {engine.name for engine, seconds in engines.items() if seconds < SHORT_CALL}
    engines = {e: s for e, s in engines.items() if not e.name.endswith(BOUND) or e.name.removesuffix(BOUND) in short}
    names = {name for engine in own for stage in needs(work, engine.name, 1) for name in stage} | {"fma"}
    measures = {name: measure_of(name, limits) for name in sorted(names)} if limits else {}
    gc.collect()
    gc.disable()
    try:
        figures = measure(engines, measures, effort, threads)
    finally:
        gc.enable()
    valid = work.lanes * work.steps if problem.lengths is None else int(problem.lengths.sum())
    return summary(work, [engine.name for engine in own], figures, valid, threads)


# ---- results ------------------------------------------------------------------------------------------------------


def ratios(figures, ours, other):
    """Other's time over ours: the median over the rounds, and that of the minima."""
    rounds = [b / a for a, b in zip(figures[ours], figures[other], strict=True)]
    return {"median": median(rounds), "of_minima": min(figures[other]) / min(figures[ours])}


def times_of(seconds):
    return {"median": median(seconds), "minimum": min(seconds)}


def summary(work, own, figures, valid, threads):
    """What a workload's figures say: a row for each engine of ours, in the form that goes into the JSON file."""
    ways = {name: name.removesuffix(BOUND).removesuffix(" cell") for name in figures}
    plain = {peer: [n for n in ways if ways[n] == peer and not n.endswith(BOUND)] for peer in PEERS}
    peers = {peer: min(names, key=lambda n: median(figures[n])) for peer, names in plain.items() if names}
    bound = [name for name in figures if name.endswith(BOUND)]
    rows = []
    for name in {**work.targets, **dict.fromkeys(own)}:
        if name in ("padded", "1 thread"):
            continue
        row = {"workload": work.name, "ours": name, "available": name in own}
        rows.append(row)
        targets = {1: work.targets, 2: work.two}.get(threads, {})
        row["target"] = targets.get(name)
        if not row["available"]:
            continue
        row |= times_of(figures[name])
        over = {peer: ratios(figures, name, way) for peer, way in peers.items()}
        row["peers"] = {p: {"way": way} | times_of(figures[way]) | {"ratio": over[p]} for p, way in peers.items()}
        judged = {peer: r for peer, r in over.items() if work.kind != "ragged" or peer == "PyTorch"}
        if judged:
            row["best_peer"] = min(judged, key=lambda peer: judged[peer]["median"])
            row["ratio"] = {kind: min(r[kind] for r in judged.values()) for kind in ("median", "of_minima")}
        row["bound"] = {way: times_of(figures[way]) | {"ratio": ratios(figures, name, way)} for way in bound}
        row["floor"] = floor_of(needs(work, name, valid), figures, row, [row["peers"][peer] for peer in judged])
        row["over_own"] = over_own(name, own, figures, work, threads, row["floor"])
        if work.lanes > 1 and "fma" in figures:
            rate = 8 * work.hidden * (work.n_inputs + work.hidden) * valid / row["minimum"] / 1e9
            row["peak"] = {"rate": rate, "limit": max(figures["fma"])}
    return {"workload": work.name, "rows": rows, "figures": figures}


def over_own(name, own, figures, work, threads, floor):
    """Ratios over other engines of ours, and those at the floor."""
    found = {}
    if name in ("lengths", "list"):
        found["padded"] = ratios(figures, name, "padded") | {"target": OVER_PADDED}
    if name in OVER_FLOAT32:
        target = (OVER_FLOAT32 if work.hidden >= 256 else OVER_FLOAT32_SMALL).get(name)
        found["float32"] = ratios(figures, name, "float32") | {"target": target}
    if "1 thread" in own and name in ("float32", "lengths"):
        target = OVER_ONE_THREAD if work.lanes >= 8 and threads == 2 else None
        found["1 thread"] = ratios(figures, name, "1 thread") | {"target": target}
    for other, ratio in found.items():
        ratio["there"] = min(figures[other]) / floor["seconds"] if floor else None
    return found


def number(x, digits=3):
    """With so many significant digits, without an exponent."""
    if x is None:
        return "-"
    if x >= 10 ** (digits - 1):
        return f"{x:,.0f}"
    return f"{x:.{digits}g}"


def cell(times):
    return f"{number(1e6 * times['median'])} ({number(1e6 * times['minimum'])})" if times else "-"


def label(row):
    return row["workload"] if row["ours"] == "float32" else f"{row['workload']} {row['ours']}"


def table(head, rows):
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def limit_label(name, caches):
    """The limit as a reader knows it."""
    kind, *count = name.split()
    if kind in ("read", "once"):
        return f"reading {level_of(int(count[0]), caches)}"
    return {"call": "call", "chain": "waiting", "product": "products", "fma": "multiply-adds", "half": "widening"}[kind]


FLOOR_HEAD = ["limit", "reached", "ratio there"]
FLOOR_TEXT = (
    "Limit: microseconds that a call cannot do without, at the best rates of this machine in the same rounds, and "
    "what most of them are: a call from Python that returns an array (NumPy's shortest), operations of a step that "
    "wait for one another, products of as many rows with as large a matrix, reading weights over and over (those of a "
    "step once in each call from Python), multiply-adds (22 for each activation), or widening float16 weights. All "
    "else comes on top. Reached: limit over our minimum. Ratio there: minimum of the best peer over the limit. A "
    "target beyond it cannot be met on this machine. Last, multiply-adds of all products a second, of the peak of "
    "registers alone."
)


def caches_of(machine):
    return {int(level[1:]): size for level, size in machine["caches"].items()}


def peak_share(peak):
    return f"{100 * peak['rate'] / peak['limit']:.0f} % of {number(peak['limit'])} GFLOP/s" if peak else "-"


def floor_cells(floor, caches):
    """Under `FLOOR_HEAD`."""
    if not floor:
        return ["-"] * 3
    seconds, kind = number(1e6 * floor["seconds"]), limit_label(floor["most"], caches)
    return [f"{seconds} ({kind})", f"{100 * floor['fraction']:.0f} %", number(floor.get("ratio"))]


def main_table(rows, caches):
    head = ["workload", "fastlstm", *PEERS, "ratio", "of minima", "target", *FLOOR_HEAD, "multiply-add peak"]
    lines = []
    for row in rows:
        target = number(row["target"])
        if not row["available"]:
            lines.append([label(row), "not available", *["-"] * (len(PEERS) + 2), target, *["-"] * 4])
            continue
        ratio = row.get("ratio", {"median": None, "of_minima": None})
        peers = [cell(row["peers"].get(peer)) for peer in PEERS]
        both = [number(ratio["median"]), number(ratio["of_minima"])]
        floor, peak = floor_cells(row.get("floor"), caches), peak_share(row.get("peak"))
        lines.append([label(row), cell(row), *peers, *both, target, *floor, peak])
    return table(head, lines)


def bound_table(rows):
    ways = [peer + BOUND for peer in PEERS if any(peer + BOUND in row.get("bound", ()) for row in rows)]
    lines = []
    for row in rows:
        if row.get("bound"):
            found = [row["bound"].get(way) for way in ways]
            best = [min(way["ratio"][kind] for way in found if way) for kind in ("median", "of_minima")]
            lines.append([label(row), cell(row), *map(cell, found), *map(number, best)])
    return table(["workload", "fastlstm", *ways, "ratio", "of minima"], lines) if lines else ""


def own_table(rows):
    lines = []
    for row in rows:
        for other, ratio in row.get("over_own", {}).items():
            cells = [number(ratio[key]) for key in ("median", "of_minima", "target", "there")]
            lines.append([label(row), f"fastlstm, {other}", *cells])
    head = ["workload", "time of", "over ours", "of minima", "target", "ratio there"]
    return table(head, lines) if lines else ""


def report(results):
    """The Markdown page."""
    rows = [row for result in results["workloads"] for row in result["rows"]]
    machine, threads = results["machine"], results["threads"]
    judged = [row for row in rows if row.get("target") and row.get("ratio")]
    met = sum(row["ratio"]["median"] >= row["target"] for row in judged)
    missing = f" Not installed: {', '.join(results['missing'])}." if results["missing"] else ""
    sizes = ", ".join(f"{level} {size >> 10:,} kB" for level, size in machine["caches"].items())
    parts = [
        f"# Inference, {threads} thread{'s' * (threads > 1)}",
        f"`{results['command']}`, {results['date']}. {machine['processor']}, {machine['cores']} cores, {sizes}. "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f". Instruction set of fastlstm: {results['isa']}. Load average before: {results['load']}.{missing}",
        "Microseconds per call: median, in brackets minimum. Ratio: time of the best peer over ours, the median of all "
        "rounds' ratios; ragged batches: PyTorch's packed sequences over ours.",
        FLOOR_TEXT,
        main_table(rows, caches_of(machine)),
        f"Targets met (median): {met} of {len(judged)}.",
    ]
    for title, found in (
        ("Peers with buffers bound once, written and read in place", bound_table(rows)),
        ("Beside ourselves", own_table(rows)),
    ):
        parts += [f"## {title}", found] if found else []
    return "\n\n".join(parts) + "\n"


def charts():
    """matplotlib.pyplot, drawing to files, or None if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no chart", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(results, path):
    """Ratios on a log axis: one mark per peer, the target as a tick."""
    pyplot = charts()
    if pyplot is None:
        return
    rows = [row for result in results["workloads"] for row in result["rows"] if row["available"]][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.24 * len(rows)), layout="constrained")
    for peer, mark, color in zip(PEERS, "o^s", ("#d1495b", "#30638e", "#3c9d6f"), strict=True):
        points = [(row["peers"][peer]["ratio"]["median"], y) for y, row in enumerate(rows) if peer in row["peers"]]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=mark, color=color, s=28, label=peer, zorder=3)
    targets = [(row["target"], y) for y, row in enumerate(rows) if row["target"]]
    if targets:
        axes.scatter(*zip(*targets, strict=True), marker="|", color="black", s=120, label="target", zorder=2)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    axes.set_xlabel("time of peer / time of fastlstm")
    axes.set_title(f"Inference, {results['threads']} thread{'s' * (results['threads'] > 1)}", fontsize=10)
    axes.grid(axis="both", color="#e5e5e5", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


# ---- the program --------------------------------------------------------------------------------------------------


def installed():
    """Peers that can be imported (name -> maker of engines), and what is missing."""
    makers = {"PyTorch": (pytorch_engines, ["torch"]),
              "ONNX Runtime": (onnxruntime_engines, ["onnxruntime", "onnx"]),
              "OpenVINO": (openvino_engines, ["openvino", "onnx"])}  # fmt: skip
    found, missing = {}, []
    for peer, (maker, modules) in makers.items():
        try:
            for module in modules:
                __import__(module)
            found[peer] = maker
        except ImportError as error:
            missing.append(f"{peer} ({error.name})")
    return found, missing


def machine():
    """Processor, cores and caches."""
    name = platform.processor() or platform.machine()
    try:
        name = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1]
    except (OSError, TypeError):
        pass
    caches = {f"L{level}": size for level, size in sorted(cache_sizes().items())}
    return {"processor": " ".join(name.split()), "cores": os.cpu_count(), "caches": caches}


def versions():
    found = {"Python": platform.python_version()}
    for name in ("fastlstm", "numpy", "torch", "onnxruntime", "openvino"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def find_limits(threads):
    import subprocess

    try:
        return Limits(threads)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no limits measured: {error}", file=sys.stderr)
        return None


def parser(description, stem, rounds):
    """The command line of a comparison whose results are files of this stem."""
    found = argparse.ArgumentParser(description=description.splitlines()[0])
    found.add_argument("--threads", type=int, default=1, help="of every engine (1)")
    found.add_argument("--rounds", type=int, default=rounds, help=f"at most, per workload ({rounds})")
    found.add_argument("--only", default="", metavar="PATTERN", help="workloads whose names contain this regex")
    found.add_argument("--quick", action="store_true", help="a minute instead of minutes, for a first look")
    found.add_argument("--out", type=Path, metavar="DIR", help=f"write {stem}-N-threads.md, .json and .svg there")
    return found


def set_threads(threads):
    """For the peers, before they are imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def heading(options, program):
    """What results begin with: how, when and where. The command line is without the place of the output."""
    words = [f"python benchmarks/{program}", f"--threads {options.threads}", f"--rounds {options.rounds}"]
    words += [f"--only '{options.only}'"] * bool(options.only) + ["--quick"] * options.quick
    return {
        "threads": options.threads,
        "command": " ".join(words),
        "date": date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "machine": machine(),
        "versions": versions(),
        "isa": fl.build_info()["isa"],
    }


def publish(options, stem, results, page, draw):
    print(page)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        stem = f"{stem}-{options.threads}-threads"
        (options.out / f"{stem}.md").write_text(page)
        (options.out / f"{stem}.json").write_text(json.dumps(results, indent=1))
        draw(results, options.out / f"{stem}.svg")


def main():
    options = parser(__doc__, "inference", 60).parse_args()
    threads = options.threads
    set_threads(threads)
    effort = Effort(options.rounds, 12.0, 5, 0.02)
    if options.quick:
        effort = Effort(min(options.rounds, 8), 0.8, 2, 0.005)
    peers, missing = installed()
    limits = find_limits(threads)
    results = heading(options, "peers.py") | {"missing": missing, "workloads": []}
    with ExitStack() as stack:
        if "PyTorch" in peers:
            import torch

            torch.set_num_interop_threads(1)
            stack.enter_context(torch.inference_mode())
        for work in WORKLOADS:
            if re.search(options.only, work.name):
                start = perf_counter()
                results["workloads"].append(run(work, peers, limits, effort, threads))
                print(f"{work.name}: {perf_counter() - start:.1f} s", file=sys.stderr)
    publish(options, "inference", results, report(results), draw)


if __name__ == "__main__":
    main()
