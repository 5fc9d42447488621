"""Streams with compact weights: float16 is exactly a layer with rounded weights, int16 and int8 are exactly their
arithmetic written in NumPy, and all keep every promise that a float32 stream makes."""

import copy
import pickle

import numpy as np
import pytest
import reference as ref
from conftest import FAMILIES, FUSED, PAPER, assert_same_bits, describe, families, map_state, numbers, with_weights

import fastlstm as fl

formats = pytest.mark.parametrize("weights", ["float16", "int16", "int8"])
integers = pytest.mark.parametrize("weights", ["int16", "int8"])
SIZES = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65, 257)


def network(options, hidden=18, inputs=5):
    """The variant under a plain LSTM and a linear layer."""
    lower, upper = fl.LSTM(inputs, hidden, **options), fl.LSTM(hidden, 7)
    return with_weights(fl.Sequential(lower, upper, fl.Linear(7, 3, activation="sigmoid")))


def rounded(layer, weights):
    """A copy of the layer with the values that its compact weights stand for."""
    other = copy.deepcopy(layer)
    state = other.state_dict()
    for name, w in state.items():
        if w.ndim == 2 and "peephole" not in name:
            if weights == "float16":
                state[name] = w.astype(np.float16).astype(np.float32)
            else:
                q, scale = ref.quantised_weights(w, weights)
                state[name] = (q * scale[:, None]).astype(np.float32)
    other.load_state_dict(state)
    return other


# float16: the bits of a float32 stream with rounded weights -----------------------------------------------------------


@families
@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 6, 7, 13])
def test_float16_is_float32_with_rounded_weights(options, lanes, isa):
    net, x = network(options), numbers((70, lanes, 5), 1, "float32")
    stream, wanted = net.stream(lanes, weights="float16"), rounded(net, "float16").stream(lanes)
    assert_same_bits((stream.run(x), stream.state), (wanted.run(x), wanted.state))
    for row in x[:5]:
        assert_same_bits(stream.step(row), wanted.step(row))


@pytest.mark.parametrize("hidden", SIZES)
def test_float16_at_awkward_sizes(hidden, isa):
    for layer in (fl.LSTM(hidden, hidden), fl.Linear(hidden, 33), fl.LSTM(65, hidden, output_gate=False, bias=False)):
        with_weights(layer, scale=0.3)
        x = numbers((9, 3, layer._network.input_size), 1, "float32")
        other = rounded(layer, "float16")
        for lanes in (1, 3):
            a, b = layer.stream(lanes, weights="float16"), other.stream(lanes)
            assert_same_bits(a.run(x[:, :lanes]), b.run(x[:, :lanes]))
            assert_same_bits(a.step(x[0, :lanes]), b.step(x[0, :lanes]))


def test_every_half(isa):
    """Half precision weights of all kinds, subnormal, infinite and NaN ones too, survive packing exactly."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    layer = fl.Linear(256, 256, bias=False)
    layer.weight = halves.reshape(256, 256)
    stream = layer.stream(weights="float16")
    flat = np.empty(65536, np.float32)
    stream.network.unpack(stream.packed, flat)
    quiet = np.where(np.isnan(halves), 0x400000, 0).astype(np.uint32)  # as every conversion makes a NaN
    assert_same_bits(flat.view(np.uint32), halves.view(np.uint32) | quiet)


def test_rounding_to_half(isa):
    """As NumPy rounds: ties to even, into the subnormal halves and to zero below them."""
    r = np.random.default_rng(0)
    bits = r.integers(0, 2**16, 60000).astype(np.uint16)
    half = np.abs(bits.view(np.float16)[np.isfinite(bits.view(np.float16))].astype(np.float32))
    half = half[half < 65504]
    above = np.nextafter(half.astype(np.float16), np.float16(np.inf)).astype(np.float32)
    middle = (half.astype(float) + above) / 2  # a tie, exact in float32
    w = np.concatenate([half, middle, np.nextafter(middle.astype("f"), np.float32(0)), r.normal(size=9000) * 1e-7])
    w = w.astype(np.float32)
    w = w[w <= 65504]
    w = w[: len(w) // 100 * 100] * r.choice([-1, 1], len(w) // 100 * 100).astype("f")
    layer = fl.Linear(100, len(w) // 100, bias=False)
    layer.weight = w.reshape(-1, 100)
    stream = layer.stream(weights="float16")
    flat = np.empty(w.size, np.float32)
    stream.network.unpack(stream.packed, flat)
    assert_same_bits(flat, w.astype(np.float16).astype(np.float32))


# int16 and int8: the bits of their arithmetic in NumPy ----------------------------------------------------------------


@integers
@pytest.mark.parametrize("inputs", SIZES)
def test_integer_linear_is_the_reference_bit_for_bit(inputs, weights, isa):
    for outputs, bias in ((1, True), (17, False), (70, True)):
        layer = with_weights(fl.Linear(inputs, outputs, bias=bias))
        x = numbers((9, inputs), 1, "float32") * np.float32(10.0) ** np.arange(-4, 5, dtype="f")[:, None]
        biases = [layer.bias] if bias else []
        wanted = np.stack([ref.integer_net_inputs([layer.weight], biases, [row], weights) for row in x])
        one, many = layer.stream(weights=weights), layer.stream(9, weights=weights)
        assert_same_bits(one.run(x), wanted)
        assert_same_bits(many.step(x), wanted)
        off = np.abs(wanted - (x.astype(float) @ layer.weight.T.astype(float) + (layer.bias if bias else 0)))
        bound = np.stack([ref.integer_error_bound(layer.weight, row, weights) for row in x])
        assert (off <= bound * (1 + 1e-5) + 1e-6).all()


@integers
@pytest.mark.parametrize("options", [o for o in FAMILIES if o.get("block_size", 1) == 1], ids=describe)
def test_integer_cell_is_the_reference(options, weights, isa):
    """The net inputs of a step are those of the reference: seen through a float32 cell that gets them as biases."""
    layer = with_weights(fl.LSTM(39, 37, **options), scale=0.2)
    stream = layer.stream(weights=weights)
    x = numbers((6, 39), 1, "float32")
    given = copy.deepcopy(layer)  # net inputs come in as its biases
    given.load_state_dict({k: v if "peephole" in k else np.zeros_like(v) for k, v in layer.state_dict().items()})
    for row in x:
        h, gates = stream.state[0], getattr(stream.state, "gates", None)
        sources = [row, h[0, 0]] + ([gates[0, 0]] if gates is not None else [])
        names = ["weight_ih_l0", "weight_hh_l0", "weight_gh_l0"][: len(sources)]
        biases = [getattr(layer, name) for name in ("bias_ih_l0", "bias_hh_l0") if name in layer.state_dict()]
        net = ref.integer_net_inputs([getattr(layer, name) for name in names], biases, sources, weights)
        state, y = stream.state, stream.step(row)
        if not biases:
            net_layer = fl.LSTM(39, 37, **(options | {"bias": "single"}))
            net_layer.load_state_dict({"bias_ih_l0": net} | given.state_dict())
        else:
            net_layer = copy.deepcopy(given)
            net_layer.bias_ih_l0 = net
        other = net_layer.stream()
        other.state = state
        assert_same_bits((other.step(row), other.state), (y, stream.state))


@integers
@families
def test_integers_are_close(options, weights, isa):
    net, x = with_weights(network(options, 36), scale=0.15), numbers((30, 3, 5), 1, "float32")
    exact, got = net.stream(3).run(x), net.stream(3, weights=weights).run(x)
    assert 0 < np.abs(got - exact).max() < {"int8": 0.02, "int16": 0.0005}[weights] * np.ptp(exact)


@integers
def test_integers_on_every_instruction_set(weights, select_isa):
    """Linear layers agree on all; cells on those with a fused multiply-add, whose activations agree."""
    x, linear, cells = numbers((20, 7, 37), 1, "float32"), [], []
    for isa in fl.build_info()["available"]:
        select_isa(isa)
        linear.append(with_weights(fl.Linear(37, 41)).stream(7, weights=weights).run(x))
        if isa in FUSED:
            stream = network({}, inputs=37).stream(7, weights=weights)
            cells.append((stream.run(x), stream.state))
    for results in (linear, cells):
        for other in results[1:]:
            assert_same_bits(other, results[0])


# All: what every stream promises -------------------------------------------------------------------------------------


@formats
@families
def test_step_run_and_lanes_give_the_same_bits(options, weights, isa):
    net, x = network(options), numbers((8, 13, 5), 1, "float32")
    stream = net.stream(13, weights=weights)
    whole, after = stream.run(x), stream.state
    for lanes in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        stream = net.stream(lanes, weights=weights)
        part, wanted = x[:, :lanes], (whole[:, :lanes], map_state(lambda a, n=lanes: a[:, :n], after))
        assert_same_bits((stream.run(part), stream.state), wanted)
        stream.reset()
        assert_same_bits((np.stack([stream.step(row) for row in part]), stream.state), wanted)


@formats
@pytest.mark.parametrize("hidden", SIZES)
def test_same_bits_at_awkward_sizes(hidden, weights, isa):
    layer, x = with_weights(fl.LSTM(hidden, hidden), scale=0.2), numbers((5, 7, hidden), 1, "float32")
    whole = layer.stream(7, weights=weights).run(x)
    for b in (0, 6):
        stream = layer.stream(weights=weights)
        assert_same_bits(stream.run(x[:, b]), whole[:, b])
        stream.reset()
        assert_same_bits(np.stack([stream.step(row) for row in x[:, b]]), whole[:, b])


@formats
@pytest.mark.parametrize("lanes", [1, 6])
def test_threads_do_not_change_bits(weights, lanes):
    net, x = with_weights(fl.LSTM(70, 257), scale=0.1), numbers((40, lanes, 70), 1, "float32")
    one = net.stream(lanes, weights=weights)
    wanted = one.run(x), one.state
    try:
        for threads in (2, 3):
            fl.set_num_threads(threads)
            stream = net.stream(lanes, weights=weights)
            assert_same_bits((stream.run(x), stream.state), wanted)
    finally:
        fl.set_num_threads(1)


@formats
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{}, PAPER | {"block_size": 2}, {"peepholes": True}], ids=describe)
def test_what_is_not_finite_spoils_its_lane_alone(options, weights, bad, isa):
    net, x = network(options), numbers((12, 5, 5), 1, "float32")
    good = net.stream(5, weights=weights).run(x)
    x[4, 2, 3] = bad
    got = net.stream(5, weights=weights).run(x)
    assert_same_bits(got[:4], good[:4])
    assert_same_bits(np.delete(got, 2, 1), np.delete(good, 2, 1))
    if weights != "float16" or np.isnan(bad):
        assert np.isnan(got[4:, 2]).all()
    single = net.stream(weights=weights)
    assert_same_bits(np.stack([single.step(row) for row in x[:, 2]]), got[:, 2])


@formats
def test_zeros_and_tiny_numbers(weights, isa):
    layer = with_weights(fl.LSTM(5, 18))
    wanted = layer.stream().step(np.zeros(5, np.float32))  # biases alone
    for value in (0.0, -0.0, 1e-42, 1e-31):
        assert_same_bits(layer.stream(weights=weights).step(np.full(5, value, np.float32)), wanted)
    layer.weight_ih_l0 = np.zeros_like(layer.weight_ih_l0)
    layer.weight_hh_l0 = np.full_like(layer.weight_hh_l0, 1e-42)
    x = numbers((9, 5), 1, "float32")
    assert_same_bits(layer.stream(weights=weights).run(x), layer.stream().run(x))


@formats
def test_extremes(weights, isa):
    """The largest weights and sources do not overflow anything."""
    layer = fl.Linear(515, 37, bias=False)
    r = np.random.default_rng(0)
    layer.weight = np.where(r.integers(0, 2, (37, 515)), 65504, -65504).astype(np.float32)
    for x in (np.ones((7, 515), "f"), -np.ones((7, 515), "f"), r.choice([-1, 1], (7, 515)).astype("f")):
        for wanted in (x.astype(float) @ layer.weight.T.astype(float),):
            np.testing.assert_allclose(layer.stream(7, weights=weights).step(x), wanted, rtol=1e-5, atol=64)
            np.testing.assert_allclose(layer.stream(weights=weights).run(x), wanted, rtol=1e-5, atol=64)


# Objects --------------------------------------------------------------------------------------------------------------


@formats
def test_name_and_size(weights):
    layer = fl.LSTM(64, 64)
    stream = layer.stream(weights=weights)
    assert (stream.weights, layer.stream().weights, fl.LSTM(2, 3, dtype="float64").stream().weights) == (
        weights,
        "float32",
        "float64",
    )
    assert stream.packed.nbytes < layer.stream().packed.nbytes * {"float16": 0.55, "int16": 0.6, "int8": 0.35}[weights]


@formats
@families
def test_refresh_copy_and_pickle(options, weights):
    net, x = network(options), numbers((20, 2, 5), 1, "float32")
    stream = net.stream(2, weights=weights)
    stream.run(x)
    with_weights(net, seed=5)  # none of these sees it
    others = [stream.copy(), copy.copy(stream), pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)]
    wanted = stream.run(x), stream.state
    for other in others:
        assert other.weights == weights
        assert_same_bits(other.packed, stream.packed)
        assert_same_bits((other.run(x), other.state), wanted)
    for other in (stream, *others[:2]):
        state = other.state
        other.refresh()
        fresh = net.stream(2, weights=weights)
        fresh.state = state
        assert_same_bits((other.run(x), other.state), (fresh.run(x), fresh.state))


@formats
def test_packing_again_gives_the_same_bits(weights, isa):
    net = network({"block_size": 3, "peepholes": True, "gate_recurrence": True}, 33)
    for scale in (1e-30, 1e-3, 1.0, 1e4):
        with_weights(net, seed=3, scale=scale)
        stream = net.stream(weights=weights)
        flat = np.empty(stream.network.n_params, np.float32)
        stream.network.unpack(stream.packed, flat)
        assert_same_bits(flat, rounded(net, weights).parameters)
        assert_same_bits(stream.network.pack(flat), stream.packed)


@formats
def test_errors(weights):
    with pytest.raises(ValueError, match=r"weights is 'float1?6?.*float64"):
        fl.LSTM(2, 3, dtype="float64").stream(weights="float16")
    with pytest.raises(ValueError, match="weights is 'int4'"):
        fl.LSTM(2, 3).stream(weights="int4")
    with pytest.raises(ValueError, match="bidirectional"):
        fl.LSTM(2, 3, bidirectional=True).stream(weights=weights)
    net = fl.Sequential(fl.LSTM(2, 3, peepholes=True, seed=0), fl.Linear(3, 1, seed=0))
    stream = net.stream(weights=weights)
    before = stream.packed.tobytes()
    net[1].weight = np.array([[0, 65505 if weights == "float16" else 1e38, 0]], "f")
    net[0].bias_ih_l0 = np.full(12, 1e6, "f")
    net[0].weight_peephole_l0 = np.full((3, 3), 1e6, "f")
    for call in (lambda: net.stream(weights=weights), stream.refresh):
        with pytest.raises(ValueError, match=r"^1\.weight does not fit into " + weights + r"[^\n]*$"):
            call()
    assert stream.packed.tobytes() == before
    net[1].weight = np.array([[0, 65504, 0]], "f")
    stream.refresh()
    if weights != "float16":
        net[1].weight = np.array([[0, np.nan, 0]], "f")
        with pytest.raises(ValueError, match=r"1\.weight"):
            stream.refresh()


def test_int8_refuses_too_many_sources():
    with pytest.raises(ValueError, match="weight has 131073 columns"):
        fl.Linear(2**17 + 1, 1).stream(weights="int8")
    layer = fl.Linear(2**17, 1, bias=False)
    layer.weight = np.full((1, 2**17), -1, "f")
    assert fl.Linear(2**17 + 1, 1, seed=0).stream(weights="int16").step(np.zeros(2**17 + 1, "f")).shape == (1,)
    assert layer.stream(weights="int8").step(np.ones(2**17, "f")) == pytest.approx(-(2.0**17), rel=2e-5)


@formats
def test_a_step_allocates_only_its_result(weights):
    import tracemalloc

    stream, x = fl.LSTM(40, 40).stream(3, weights=weights), numbers((3, 40), 1, "float32")
    out = np.empty((3, 40), np.float32)
    stream.step(x, out)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100):
        stream.step(x, out)
    assert tracemalloc.get_traced_memory()[0] - before < 500
    tracemalloc.stop()
