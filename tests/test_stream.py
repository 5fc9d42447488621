"""Streams: the same bits as every other way to run a network, and nothing shared between them."""

import copy
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from conftest import (
    FUSED,
    PAPER,
    assert_same_bits,
    describe,
    families,
    map_state,
    numbers,
    random_state,
    with_weights,
)

import fastlstm as fl


def network(options, dtype):
    """The variant under a plain LSTM and a linear layer."""
    lower, upper = fl.LSTM(5, 18, dtype=dtype, **options), fl.LSTM(18, 7, dtype=dtype)
    return with_weights(fl.Sequential(lower, upper, fl.Linear(7, 3, activation="sigmoid", dtype=dtype)))


# The same bits --------------------------------------------------------------------------------------------------------


@families
def test_step_run_call_and_batch_give_the_same_bits(options, isa, dtype):
    net, x = network(options, dtype), numbers((8, 33, 5), 1, dtype)
    whole, after = net(x)
    for lanes in (1, 2, 3, 4, 5, 6, 7, 8, 9, 33):
        part, wanted = x[:, :lanes], (whole[:, :lanes], map_state(lambda a, n=lanes: a[:, :n], after))
        assert_same_bits(net(part), wanted)
        stream = net.stream(lanes)
        assert_same_bits((stream.run(part), stream.state), wanted)
        stream.reset()
        assert_same_bits((np.stack([stream.step(row) for row in part]), stream.state), wanted)


@pytest.mark.parametrize("lanes", [1, 2, 5, 6, 17])
@pytest.mark.parametrize("options", [{}, {"output_gate": False}, PAPER | {"block_size": 2}], ids=describe)
def test_pieces_of_a_long_run(options, lanes, isa, dtype):
    net, x = network(options, dtype), numbers((150, lanes, 5), 1, dtype)
    whole, after = net(x)
    stream, at, pieces = net.stream(lanes), 0, []
    for n in (1, 48, 1, 7, 64, 29):
        pieces.append(stream.run(x[at : at + n]) if n > 1 else stream.step(x[at])[None])
        at += n
    assert_same_bits((np.concatenate(pieces), stream.state), (whole, after))


@pytest.mark.parametrize("hidden", [1, 7, 8, 9, 15, 16, 17, 31, 33, 257])
def test_same_bits_at_awkward_sizes(hidden, isa, dtype):
    layer, x = with_weights(fl.LSTM(3, hidden, dtype=dtype), scale=0.2), numbers((4, 13, 3), 1, dtype)
    y = layer(x)[0]
    for b in (0, 12):
        stream = layer.stream()
        assert_same_bits(stream.run(x[:, b]), y[:, b])
        stream.reset()
        assert_same_bits(np.stack([stream.step(row) for row in x[:, b]]), y[:, b])


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@families
def test_same_bits_on_every_instruction_set_with_fma(options, dtype, select_isa):
    x, results = numbers((40, 7, 5), 1, dtype), []
    for isa in FUSED:
        select_isa(isa)
        net = network(options, dtype)
        stream = net.stream(7)
        results.append((net(x), net(x[:, 0]), stream.run(x), stream.state))
    for other in results[1:]:
        assert_same_bits(other, results[0])


# One stream -----------------------------------------------------------------------------------------------------------


def test_shapes(dtype):
    layer = fl.LSTM(3, 4, dtype=dtype)
    one, two, three = layer.stream(), layer.stream(2), layer.stream(lanes=3)
    assert (one.lanes, two.lanes, three.lanes) == (1, 2, 3)
    assert one.step(np.zeros(3, dtype)).shape == (4,)
    assert one.step(np.zeros((1, 3), dtype)).shape == (1, 4)
    assert one.run(np.zeros((5, 3), dtype)).shape == (5, 4)
    assert one.run(np.zeros((5, 1, 3), dtype)).shape == (5, 1, 4)
    assert three.step(np.zeros((3, 3), dtype)).shape == (3, 4)
    assert three.run(np.zeros((5, 3, 3), dtype)).shape == (5, 3, 4)
    assert two.step(np.zeros((2, 3), dtype)).dtype == dtype


@pytest.mark.parametrize("lanes", [1, 2])
def test_wrong_shapes_change_nothing(lanes):
    stream = fl.LSTM(3, 4, seed=0).stream(lanes)
    stream.run(numbers((5, lanes, 3), 1, "float32"))
    before = stream.state
    single = np.float32
    for wrong in (np.zeros(4, single), np.zeros((3, 3), single), np.zeros((lanes, 3)), single(1), "x", None):
        with pytest.raises((ValueError, TypeError), match=r"\bx\b"):
            stream.step(wrong)
    for wrong in (np.zeros(3, single), np.zeros((2, lanes, 4), single), np.zeros((0, lanes, 3), single)):
        with pytest.raises((ValueError, TypeError), match=r"\bxs\b"):
            stream.run(wrong)
    assert_same_bits(stream.state, before)


def test_forms_of_x(dtype):
    stream = with_weights(fl.LSTM(3, 4, dtype=dtype)).stream(2)
    x = numbers((2, 3), 1, dtype)
    y = stream.step(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    for form in (read_only, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
        stream.reset()
        assert_same_bits(stream.step(form), y)
        stream.reset()
        assert_same_bits(stream.run([form] if isinstance(form, list) else form[None]), y[None])


def test_a_step_returns_a_fresh_array_or_writes_out(dtype):
    stream = with_weights(fl.LSTM(3, 3, dtype=dtype)).stream(2)
    x = numbers((4, 2, 3), 1, dtype)
    first = stream.step(x[0])
    kept, second = first.copy(), stream.step(x[1])
    assert not np.shares_memory(first, second)
    assert_same_bits(first, kept)
    stream.reset()
    out = np.full((2, 3), np.nan, dtype)
    assert stream.step(x[0], out=out) is out
    assert_same_bits(out, first)
    row = x[1].copy()
    assert_same_bits(stream.step(row, out=row), second)  # in place
    state = stream.state
    read_only, gaps = np.zeros((2, 3), dtype), np.zeros((2, 6), dtype)[:, ::2]
    read_only.flags.writeable = False
    for wrong in (np.zeros((2, 4), dtype), np.zeros(3, dtype), np.zeros((2, 3), int), gaps, read_only, [0]):
        with pytest.raises((ValueError, TypeError), match="out"):
            stream.step(x[2], out=wrong)
    assert_same_bits(stream.state, state)


@families
def test_lanes_are_separate(options, isa, dtype):
    """A NaN in one lane stays there; one lane's reset leaves the others."""
    net, x = network(options, dtype), numbers((6, 4, 5), 1, dtype)
    wanted, stream = net(x)[0], net.stream(4)
    spoilt = x.copy()
    spoilt[2:, 1] = np.nan
    y = stream.run(spoilt)
    assert_same_bits(y[:, [0, 2, 3]], wanted[:, [0, 2, 3]])
    assert np.isnan(y[2:, 1]).all()
    assert_same_bits(y[:2, 1], wanted[:2, 1])
    stream.reset(np.array([False, True, False, True]))
    y = stream.run(x)
    assert_same_bits(y[:, [1, 3]], wanted[:, [1, 3]])
    assert_same_bits(y[:, [0, 2]], net(np.concatenate([x, x]))[0][6:, [0, 2]])
    stream.reset([True] * 4)
    assert_same_bits(stream.run(x), wanted)


def test_wrong_masks(dtype):
    stream = fl.LSTM(3, 4, dtype=dtype).stream(2)
    for wrong in (np.ones(3, bool), np.ones((2, 1), bool), [0, 1], True):
        with pytest.raises((ValueError, TypeError), match="mask"):
            stream.reset(wrong)


@families
def test_state(options, isa, dtype):
    net, x = network(options, dtype), numbers((9, 3, 5), 1, dtype)
    stream, start = net.stream(3), random_state(net, 3)
    assert_same_bits(stream.state, map_state(np.zeros_like, start))
    stream.state = start
    assert_same_bits(stream.state, start)
    y = stream.run(x)
    assert_same_bits((y, stream.state), net(x, start))
    middle = net(x[:5], start)[1]
    kept = map_state(np.copy, middle)
    stream.state = middle
    assert_same_bits(stream.run(x[5:]), y[5:])
    assert_same_bits(middle, kept)
    got = stream.state  # a copy: changing it changes nothing
    before = map_state(np.copy, got)
    map_state(lambda a: a.fill(7), got)
    assert_same_bits(stream.state, before)


def test_state_of_a_single_layer_is_its_pair(dtype):
    layer = with_weights(fl.LSTM(3, 4, 2, dtype=dtype))
    stream = layer.stream(2)
    stream.state = random_state(layer, 2)
    h, c = stream.state
    assert h.shape == c.shape == (2, 2, 4)
    for wrong in ((h,), (h, c[:1]), (h.astype(np.float16), c), [h, None], h):
        with pytest.raises((ValueError, TypeError), match="state"):
            stream.state = wrong
    assert_same_bits(stream.state, (h, c))
    assert fl.Linear(2, 2).stream().state is None


@pytest.mark.parametrize("duplicate", [fl.Stream.copy, copy.copy], ids=["method", "copy"])
def test_copy_goes_on_by_itself(duplicate, isa, dtype):
    net, x = network({"gate_recurrence": True}, dtype), numbers((9, 2, 5), 1, dtype)
    stream = net.stream(2)
    stream.run(x[:4])
    other = duplicate(stream)
    wanted = net(x)[0][4:]
    assert_same_bits(other.run(x[4:]), wanted)
    assert_same_bits(stream.run(x[4:]), wanted)
    other.reset()
    with_weights(net, 9)
    assert_same_bits(other.run(x), with_weights(net, 0)(x)[0])
    with_weights(net, 9)
    other.refresh()
    other.reset()
    assert_same_bits(other.run(x), net(x)[0])


def test_a_stream_keeps_its_weights_until_refresh(isa, dtype):
    net, x = network({}, dtype), numbers((6, 2, 5), 1, dtype)
    stream, old = net.stream(2), net(x)[0]
    assert_same_bits(stream.run(x[:2]), old[:2])
    _, state = net(x[:2])
    with_weights(net, 9)
    assert_same_bits(stream.run(x[2:4]), old[2:4])
    stream.state = state
    stream.refresh()
    assert_same_bits(stream.run(x[2:]), net(x[2:], state)[0])


def test_streams_share_no_state(isa, dtype):
    net, x = network(PAPER, dtype), numbers((7, 3, 5), 1, dtype)
    wanted, streams = net(x)[0], [net.stream() for _ in range(3)]
    for t in range(7):
        for b, stream in enumerate(streams):
            assert_same_bits(stream.step(x[t, b]), wanted[t, b])
        net(x[: t + 1])  # nor with the layer
    streams[0].reset()
    assert_same_bits(streams[1].state, map_state(lambda a: a[:, 1:2], net(x)[1]))


def test_a_stream_outlives_its_layer(dtype):
    x = numbers((4, 5), 1, dtype)
    stream = network({}, dtype).stream()
    assert_same_bits(stream.run(x), network({}, dtype)(x)[0])


def test_what_cannot_stream():
    with pytest.raises(ValueError, match="bidirectional"):
        fl.LSTM(2, 3, bidirectional=True).stream()
    with pytest.raises(ValueError, match="weights"):
        fl.LSTM(2, 3).stream(weights="float8")
    for lanes in (0, -1, 1.0, True):
        with pytest.raises((ValueError, TypeError), match="lanes"):
            fl.LSTM(2, 3).stream(lanes)


def test_a_step_allocates_what_it_returns_and_no_more():
    layer = fl.LSTM(64, 64, seed=0)
    stream, x, out = layer.stream(), np.ones(64, np.float32), np.empty(64, np.float32)
    for _ in range(10):
        stream.step(x, out=out)
    tracemalloc.start()
    try:
        for _ in range(1000):
            stream.step(x, out=out)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(1000):
            stream.step(x, out=out)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500
    assert peak - before < 500  # not one array of 64 numbers more, at any moment


def streams_and_learners():
    layer = fl.LSTM(3, 4, seed=0)
    learner = fl.OnlineLearner(fl.LSTM(3, 4, seed=0), optimizer=None)
    return [("stream", layer.stream().step), ("learner", learner.step)]


KEEP = [lambda y: y, lambda y: y[1:3], lambda y: y.reshape(2, 2).T, memoryview, lambda y: [y]]


@pytest.mark.parametrize("keep", KEEP)
@pytest.mark.parametrize("name", ["stream", "learner"])
def test_outputs_are_given_out_again_only_when_nobody_has_them(name, keep):
    step = dict(streams_and_learners())[name]
    xs = numbers((40, 3), 1, np.float32)
    kept, copies = [], []
    for k, x in enumerate(xs):
        y = step(x)
        if k % 3:  # some are dropped, some stay
            kept.append(keep(y))
            copies.append(np.array(kept[-1]))
    for a, copied in zip(kept, copies, strict=True):
        assert_same_bits(np.array(a), copied)


@pytest.mark.parametrize("name", ["stream", "learner"])
def test_outputs_that_somebody_changed_are_not_given_out_again(name):
    step = dict(streams_and_learners())[name]
    x = np.ones(3, np.float32)
    for change in (
        lambda y: y.setflags(write=False),
        lambda y: setattr(y, "shape", (2, 2)),
        lambda y: setattr(y, "dtype", np.int32),
        lambda y: y.resize(2, refcheck=False),
        lambda y: y.fill(np.nan),
    ):
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                change(step(x))
        y = step(x)
        assert y.shape == (4,) and y.dtype == np.float32 and y.flags.writeable and np.isfinite(y).all()


# Threads --------------------------------------------------------------------------------------------------------------


def together(functions):
    """Call all functions at once, a thread each; their results, or what they raised."""
    barrier, results = threading.Barrier(len(functions)), [None] * len(functions)

    def work(k):
        barrier.wait()
        try:
            results[k] = functions[k]()
        except Exception as error:
            results[k] = error

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_threads_on_one_stream_raise():
    layer = with_weights(fl.LSTM(16, 128), scale=0.1)
    stream, x = layer.stream(), numbers((2000, 16), 1, "float32")
    wanted = layer(x)
    for _ in range(20):  # a busy machine may let one finish before the other begins
        stream.reset()
        results = together([lambda: stream.run(x), lambda: stream.run(x)])
        errors = [r for r in results if isinstance(r, Exception)]
        if errors:
            break
    assert [type(error) for error in errors] == [RuntimeError]
    (y,) = (r for r in results if not isinstance(r, Exception))
    assert_same_bits((y, stream.state), wanted)  # the one that had it was not disturbed
    stream.step(x[0])  # and the stream is free again


@pytest.mark.parametrize("disturb", ["reset", "state", "refresh"])
def test_a_running_stream_cannot_be_disturbed(disturb):
    """What another thread does to it raises, or came before the run began and then changed nothing."""
    layer = with_weights(fl.LSTM(16, 128), scale=0.1)
    stream, x = layer.stream(), numbers((2000, 16), 1, "float32")
    wanted, zero, result = layer(x), stream.state, []
    actions = {
        "reset": stream.reset,
        "state": lambda: setattr(stream, "state", zero),
        "refresh": stream.refresh,
    }
    thread = threading.Thread(target=lambda: result.append(stream.run(x)))
    thread.start()
    while thread.is_alive():
        try:
            actions[disturb]()
        except RuntimeError:
            pass
        thread.join(0.001)
    assert_same_bits((result, stream.state), ([wanted[0]], wanted[1]))


REFRESHING = """
import threading
import numpy as np, fastlstm as fl
layer = fl.LSTM(256, 1024)
stream, x, stop = layer.stream(), np.ones(256, np.float32), threading.Event()

def steps():
    while not stop.is_set():
        try:
            stream.step(x)
        except RuntimeError:
            pass

thread = threading.Thread(target=steps)
thread.start()
for k in range(20):
    layer.bias_ih_l0 = np.full(4096, k, np.float32)
    try:
        stream.refresh()
    except RuntimeError:
        pass
stop.set()
thread.join()
"""


def test_weights_are_not_taken_away_in_the_middle_of_a_step():
    """In a process of its own: this has crashed."""
    assert subprocess.run([sys.executable, "-c", REFRESHING], check=False).returncode == 0


def test_eight_threads_with_a_stream_each(isa, dtype):
    layer = with_weights(fl.LSTM(6, 40, dtype=dtype), scale=0.2)
    x = numbers((200, 8, 6), 1, dtype)
    wanted = layer(x)[0]
    streams = [layer.stream() for _ in range(8)]
    steps = [lambda b=b: np.stack([streams[b].step(row) for row in x[:100, b]]) for b in range(8)]
    assert_same_bits(np.stack(together(steps), axis=1), wanted[:100])
    runs = [lambda b=b: streams[b].run(x[100:, b]) for b in range(8)]
    assert_same_bits(np.stack(together(runs), axis=1), wanted[100:])
