"""The determinism promise at every size of the benchmarks: each way to run a sequence gives it the same bytes.

A result is a list with ``(y, h, c)`` of each sequence. A sequence run alone, in one call, is what the other ways are
compared with.
"""

import pickle
from itertools import product

import numpy as np
import pytest
from conftest import FUSED, assert_same_bits, numbers

import fastlstm as fl

SIZES = [(1, h) for h in (8, 16, 24, 32, 40)] + [(h, h) for h in (8, 16, 24, 32, 40, 64, 128, 256, 512, 1024)]
KINDS = {"one layer": {}, "two layers": {"num_layers": 2}, "bidirectional": {"bidirectional": True}}
BATCHES = (2, 5, 8, 32)
THREADS = (1, 2, 3, 8)

sizes = pytest.mark.parametrize("inputs, hidden", SIZES)
# The largest of all once only: a second layer there costs seconds and is like that of 512.
sizes_and_kinds = pytest.mark.parametrize(
    "inputs, hidden, options",
    [
        pytest.param(*size, options, id=f"{size[0]}-{size[1]}-{kind}")
        for size in SIZES
        for kind, options in KINDS.items()
        if size[1] <= 512 or not options
    ],
)


@pytest.fixture
def set_num_threads():
    before = fl.get_num_threads()
    yield fl.set_num_threads
    fl.set_num_threads(before)


def steps_of(hidden):
    """Enough to cross the blocks that the engine takes steps in (48, and 64 in a stack), where that is cheap."""
    return 70 if hidden <= 64 else 50 if hidden <= 128 else max(3, 1024 // hidden)


def sequences(inputs, hidden):
    return list(numbers((max(BATCHES), steps_of(hidden), inputs), 1, "float32"))


def cut(xs):
    """The same, cut to lengths from 1 to all steps; the longest neither first nor last."""
    steps = len(xs[0])
    return [x[: 1 + (steps // 2 + 5 * b) % steps] for b, x in enumerate(xs)]


# Ways to run sequences ------------------------------------------------------------------------------------------------


def apart(ys, state):
    """A result from outputs (sequences first) and a state for all of them."""
    h, c = state
    return [(y, h[:, b], c[:, b]) for b, y in enumerate(ys)]


def alone(layer, xs):
    return [(y, h[:, 0], c[:, 0]) for y, (h, c) in map(layer, xs)]


def by_run(layer, xs):
    stream, result = layer.stream(), []
    for x in xs:
        stream.reset()
        result += apart([stream.run(x)], stream.state)
    return result


def by_step(layer, xs):
    stream, result = layer.stream(), []
    for x in xs:
        stream.reset()
        result += apart([np.stack([stream.step(row) for row in x])], stream.state)
    return result


def in_batch(layer, xs):
    y, state = layer(np.stack(xs, axis=1))
    return apart(y.swapaxes(0, 1), state)


def batch_first(layer, xs):
    layer.batch_first = True
    try:
        return apart(*layer(np.stack(xs)))
    finally:
        layer.batch_first = False


def in_lanes_by_run(layer, xs):
    stream = layer.stream(len(xs))
    y = stream.run(np.stack(xs, axis=1))
    return apart(y.swapaxes(0, 1), stream.state)


def in_lanes_by_step(layer, xs):
    stream = layer.stream(len(xs))
    y = [stream.step(rows) for rows in np.stack(xs, axis=1)]
    return apart(np.stack(y, axis=1), stream.state)


def in_list(layer, xs):
    return apart(*layer(xs))


def padded(layer, xs):
    lengths = [len(x) for x in xs]
    x = np.full((max(lengths), len(xs), xs[0].shape[1]), np.nan, np.float32)
    for b, n in enumerate(lengths):
        x[:n, b] = xs[b]
    y, state = layer(x, lengths=lengths)
    return apart([y[:n, b] for b, n in enumerate(lengths)], state)


ALONE = (alone, by_run, by_step)
TOGETHER = (in_batch, batch_first, in_lanes_by_run, in_lanes_by_step, in_list, padded)
RAGGED = (in_list, padded)
STREAMS = {by_run, by_step, in_lanes_by_run, in_lanes_by_step}


def agree(ways, layer, xs, wanted):
    for way in ways:
        if not (layer.bidirectional and way in STREAMS):
            assert_same_bits({way.__name__: way(layer, xs)}, {way.__name__: wanted[: len(xs)]})


# The promise ----------------------------------------------------------------------------------------------------------


@sizes_and_kinds
def test_every_way_to_run_a_sequence(inputs, hidden, options, isa, set_num_threads):
    layer = fl.LSTM(inputs, hidden, **options, seed=0)
    xs = sequences(inputs, hidden)
    pieces = cut(xs)
    wanted, ragged = in_batch(layer, xs), in_list(layer, pieces)
    some = range(len(xs)) if hidden <= 32 else (0, 1, 30)
    assert_same_bits(alone(layer, [xs[b] for b in some]), [wanted[b] for b in some])
    assert_same_bits(alone(layer, [pieces[b] for b in some]), [ragged[b] for b in some])
    for turn, (threads, n) in enumerate(product(THREADS, BATCHES)):
        set_num_threads(threads)
        if n == BATCHES[0]:
            agree(ALONE, layer, xs[:n], wanted)
        # Where a call takes long, the ways take turns with more than one thread.
        ways = TOGETHER if threads == 1 or hidden <= 32 else [TOGETHER[turn % len(TOGETHER)]]
        agree(ways, layer, xs[:n], wanted)
        agree([way for way in ways if way in RAGGED], layer, pieces[:n], ragged)


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with a fused multiply-add")
@sizes_and_kinds
def test_instruction_sets_with_fma(inputs, hidden, options, select_isa):
    xs, results = sequences(inputs, hidden), []
    for isa in FUSED:
        select_isa(isa)
        layer = fl.LSTM(inputs, hidden, **options, seed=0)
        results.append((alone(layer, xs[:2]), in_batch(layer, xs)))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@sizes
def test_weights_packed_again(inputs, hidden, isa):
    """By a pickled layer, by a pickled stream in the middle of its way, and by a stream that takes loaded weights."""
    layer = fl.LSTM(inputs, hidden, seed=0)
    x = np.stack(sequences(inputs, hidden)[:2], axis=1)
    wanted, stream = layer(x), layer.stream(2)
    again = pickle.loads(pickle.dumps(layer))
    assert_same_bits(again(x), wanted)
    begun = stream.run(x[:2])
    moved = pickle.loads(pickle.dumps(stream))
    layer.load_state_dict(again.state_dict())
    stream.refresh()
    for goes_on in (moved, stream):
        assert_same_bits((np.concatenate([begun, goes_on.run(x[2:])]), goes_on.state), wanted)


@sizes_and_kinds
def test_resets_are_the_pieces_apart(inputs, hidden, options, isa, set_num_threads):
    layer = fl.LSTM(inputs, hidden, **options, seed=0)
    xs = sequences(inputs, hidden)[:5]
    steps = len(xs[0])
    starts = [[], [steps - 1], [1, steps // 2], [steps // 3], [1, 2]]
    reset, wanted = np.zeros((steps, len(xs)), bool), []
    for b, (x, at) in enumerate(zip(xs, starts, strict=True)):
        reset[at, b] = True
        pieces = alone(layer, np.split(x, sorted(set(at))))
        after = [np.copy(part) for part in pieces[-1][1:]]
        for part, first in zip(after, pieces[0][1:], strict=True):
            if layer.bidirectional:  # the backward direction ends with the first piece
                part[1::2] = first[1::2]
        wanted.append((np.concatenate([y for y, _, _ in pieces]), *after))
    for threads in (1, 2):
        set_num_threads(threads)
        y, state = layer(np.stack(xs, axis=1), reset=reset)
        assert_same_bits(apart(y.swapaxes(0, 1), state), wanted)
        y, (h, c) = layer(xs[2], reset=reset[:, 2])
        assert_same_bits((y, h[:, 0], c[:, 0]), wanted[2])
