"""Small first layers, kept with their rows side by side (csrc/small.h): the same bits as in the packed layout."""

import numpy as np
import pytest
from test_lazy import flat, learner, learnt, lesson

OPTIONS = [
    {},
    {"bias": "single"},
    {"bias": False},
    {"forget_gate": False},
    {"input_gate": False},
    {"output_gate": False},
    {"input_gate": False, "forget_gate": False, "output_gate": False},
    {"coupled_gates": True},
    {"gate_recurrence": True},
    {"forget_gate": False, "gate_recurrence": True, "block_size": 2},
    {"block_size": 3},
    {"block_size": 4, "output_gate": False},
    {"clip": 0.4},
]


def small(blocks, size, dtype, isa):
    """Whether packed row-vectors would be half empty."""
    lanes = {"avx512": 64, "avx2": 32}.get(isa, 16) // np.dtype(dtype).itemsize
    return blocks <= lanes // 2 and blocks * size <= lanes


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_same_bits_as_packed(options, momentum, dtype, isa):
    size = options.get("block_size", 1)
    for blocks, inputs in ((1, 3), (2, 8), (3, 70), (4, 129), (5, 1), (8, 17)):
        if not small(blocks, size, dtype, isa):
            continue
        x, targets, reset = lesson(dtype, inputs)
        x[np.abs(x) < 0.8] = 0  # inputs that are passed over
        x[7] = 0
        pair = [learner(lazy, options, dtype, momentum, blocks * size, inputs) for lazy in (False, None)]
        assert pair[1]._core.lazy
        for made in pair:
            made.x = made.run(x, targets, reset)
        np.testing.assert_array_equal(pair[1].x, pair[0].x)
        np.testing.assert_array_equal(flat(learnt(pair[1])), flat(learnt(pair[0])))


def test_reset_and_looks_in_the_middle(dtype):
    x, targets, reset = lesson(dtype)
    whole, cut = (learner(None, {"block_size": 2, "gate_recurrence": True}, dtype, 0.9, 4) for _ in range(2))
    ys = whole.run(x, targets, reset)
    for t in range(len(x)):
        if reset[t]:
            cut.reset()
        np.testing.assert_array_equal(cut.predict(x[t]), ys[t])
        cut.learn(targets[t])
        cut.net.parameters.sum()
        cut.peek(x[t])
    np.testing.assert_array_equal(flat(learnt(cut)), flat(learnt(whole)))


def test_assigned_weights_and_state_are_taken_between_the_halves_of_a_step(dtype):
    x, targets, _ = lesson(dtype)
    pair = [learner(lazy, {}, dtype, 0.9, 4) for lazy in (False, None)]
    for made in pair:
        made.run(x[:21], targets[:21])
        made.predict(x[21])
        made.net[0].weight_hh_l0 = made.net[0].weight_hh_l0 * 0.9
        made.learn(targets[21])
        made.run(x[22:30], targets[22:30])
        made.state = made.state
        made.run(x[30:], targets[30:])
    np.testing.assert_array_equal(flat(learnt(pair[1])), flat(learnt(pair[0])))
