"""Backpropagation through time: `layer.forward` and `backward` against reference, finite differences and PyTorch."""

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import reference as ref
from conftest import (
    COMBINATIONS,
    assert_close,
    assert_same_bits,
    cell_of,
    describe,
    families,
    numbers,
    random_state,
    state_of,
    state_parts,
    with_weights,
)

import fastlstm as fl

T, B = 6, 5
LENGTHS = [6, 1, 4, 6, 3]
ACTIVATIONS = ("affine", ("affine", 0.5, -0.25), "leaky_relu", ("thresholded_relu", 0.3), ("scaled_tanh", 0.8, 1.5))
ACTIVATIONS += ("hard_sigmoid", ("hard_sigmoid", 1 / 6), ("elu", 0.7), "selu", "softsign", "softplus")


@pytest.fixture(autouse=True)
def one_thread():
    yield
    fl.set_num_threads(1)


def resets(steps=T, lanes=B):
    mask = np.random.default_rng(5).random((steps, lanes)) < 0.2
    mask[0, 0] = mask[2, 3] = True
    return mask


def reference_gradients(layer, x, dy, state, dstate, lengths, reset):
    """What `layer.forward` and `backward` should give, in float64: dx, dstate, gradients by name."""
    cell, params, D = cell_of(layer), layer.state_dict(), 2 if layer.bidirectional else 1
    run, back = (
        (ref.lstm_forward, ref.lstm_backward)
        if isinstance(layer, fl.LSTM)
        else (ref.simple_forward, ref.simple_backward)
    )
    inputs, kept, grads = [np.asarray(x, float)], {}, {}
    at = lambda state, k: tuple(a[k].astype(float) for a in state_parts(state))  # noqa: E731
    for k in range(layer.num_layers):
        outputs = []
        for d in range(D):
            own = replace(cell, input_size=inputs[k].shape[2])
            p = ref.layer_parameters(params, f"_l{k}" + "_reverse" * d)
            outputs.append(run(own, p, inputs[k], at(state, k * D + d), lengths, reset, bool(d))[0])
            kept[k, d] = own, p
        inputs.append(np.concatenate(outputs, axis=2))
    dy, first = np.asarray(dy, float), {}
    for k in reversed(range(layer.num_layers)):
        dx = 0
        for d, part in enumerate(np.split(dy, D, axis=2)):
            states = at(state, k * D + d), at(dstate, k * D + d)
            more, first[k, d], g = back(*kept[k, d], inputs[k], part, *states, lengths, reset, bool(d))
            dx = dx + more
            grads |= {f"{name}_l{k}" + "_reverse" * d: a for name, a in g.items()}
        dy = dx
    parts = zip(*(first[k, d] for k in range(layer.num_layers) for d in range(D)), strict=True)
    return dy, state_of([np.stack(part) for part in parts]), grads


def check(layer, lengths=None, reset=None, steps=T, lanes=B):
    x = numbers((steps, lanes, layer.input_size), 1, layer.dtype)
    state, dstate = random_state(layer, lanes), random_state(layer, lanes, 9)
    y, after, backward = layer.forward(x, state, lengths, reset)
    assert_same_bits((y, after), layer(x, state, lengths, reset))
    dy = numbers(y.shape, 2, layer.dtype)
    for b, length in enumerate([] if lengths is None else lengths):
        dy[length:, b] = np.nan  # not read
    got = backward(dy, dstate)
    wanted = reference_gradients(layer, x, np.nan_to_num(dy), state, dstate, lengths, reset)
    assert_close((*got, layer.gradients()), wanted, "gradient")


@pytest.mark.parametrize("options", COMBINATIONS, ids=describe)
def test_against_the_reference(options, dtype):
    lstm = with_weights(fl.LSTM(3, 6, dtype=dtype, **options))
    check(lstm, LENGTHS, resets())


@families
def test_on_every_instruction_set(isa, dtype, options):
    size = options.get("block_size", 1)
    check(with_weights(fl.LSTM(2, 17 * size, dtype=dtype, **options), scale=0.3))
    check(with_weights(fl.LSTM(2, 4 * size, 2, bidirectional=True, dtype=dtype, **options)), LENGTHS, resets())


@pytest.mark.parametrize(
    "inputs, hidden, steps, lanes", [(1, 1, 1, 1), (1, 16, 70, 1), (17, 15, 3, 2), (5, 33, 9, 13), (3, 257, 2, 2)]
)
def test_at_awkward_sizes(isa, dtype, inputs, hidden, steps, lanes):
    check(with_weights(fl.LSTM(inputs, hidden, dtype=dtype), scale=0.2), steps=steps, lanes=lanes)


OTHER_CELLS = (
    lambda *sizes, **options: fl.GRU(*sizes, **options),
    lambda *sizes, **options: fl.GRU(*sizes, reset_after=False, **options),
    lambda *sizes, **options: fl.GRU(*sizes, bias="single", **options),
    lambda *sizes, **options: fl.GRU(*sizes, reset_after=False, bias=False, gate_activation="hard_sigmoid", **options),
    lambda *sizes, **options: fl.RNN(*sizes, **options),
    lambda *sizes, **options: fl.RNN(*sizes, nonlinearity=("elu", 0.5), bias=False, **options),
    lambda *sizes, **options: fl.LSTM(*sizes, proj_size=max(1, sizes[1] // 3), **options),
    lambda *sizes, **options: fl.LSTM(
        *sizes, proj_size=3, peepholes=True, gate_recurrence=True, block_size=2, **options
    ),
)


@pytest.mark.parametrize("make", OTHER_CELLS, ids=range(len(OTHER_CELLS)))
def test_other_cells(isa, dtype, make):
    check(with_weights(make(3, 6, dtype=dtype)), LENGTHS, resets())
    check(with_weights(make(2, 4, 2, bidirectional=True, dtype=dtype)), LENGTHS, resets())
    check(with_weights(make(17, 34, dtype=dtype), scale=0.3), steps=3, lanes=13)
    check(with_weights(make(1, 16, dtype=dtype), scale=0.3), steps=70, lanes=1)
    check(with_weights(make(3, 258, dtype=dtype), scale=0.1), steps=2, lanes=2)


@pytest.mark.parametrize("name", ACTIVATIONS, ids=str)
def test_activations(isa, dtype, name):
    options = {"gate_activation": name, "input_activation": name, "output_activation": name}
    check(with_weights(fl.LSTM(3, 6, clip=2.0, dtype=dtype, **options)))
    check(with_weights(fl.RNN(3, 6, nonlinearity=name, dtype=dtype), scale=0.3))


def network(dtype="float64", **options):
    return with_weights(
        fl.Sequential(
            fl.Linear(2, 3, activation="tanh", dtype=dtype),
            fl.LSTM(3, 4, 2, bidirectional=True, dtype=dtype, **options),
            fl.Linear(8, 5, activation="sigmoid", dtype=dtype),
            fl.LSTM(5, 3, peepholes=True, dtype=dtype, **options),
            fl.Linear(3, 2, dtype=dtype),
        )
    )


def test_a_network_against_finite_differences():
    net, x = network(), numbers((T, B, 2))
    state, dstate, dy, reset = random_state(net, B), random_state(net, B, 9), numbers((T, B, 2), 3), resets()

    def value(x, state):
        y, after = net(x, state, LENGTHS, reset)
        pairs = [(a, d) for one, other in zip(after, dstate, strict=True) for a, d in zip(one, other, strict=True)]
        mask = np.arange(T)[:, None] < LENGTHS
        return (y * dy * mask[:, :, None]).sum() + sum((a * d).sum() for a, d in pairs)

    y, after, backward = net.forward(x, state, LENGTHS, reset)
    dx, dfirst = backward(dy, dstate)
    r = np.random.default_rng(0)
    for _ in range(4):
        way = r.normal(size=x.shape)
        slope = (value(x + 1e-6 * way, state) - value(x - 1e-6 * way, state)) / 2e-6
        np.testing.assert_allclose((dx * way).sum(), slope, rtol=1e-7)
        flat, way = net.parameters.copy(), r.normal(size=net.parameters.size)
        sides = []
        for sign in (1, -1):
            net._parameters.fetch()[:] = flat + sign * 1e-6 * way
            net._parameters.changed()
            sides.append(value(x, state))
        net._parameters.fetch()[:] = flat
        net._parameters.changed()
        np.testing.assert_allclose(net.grad @ way, (sides[0] - sides[1]) / 2e-6, rtol=1e-7)
    h = state[1][0]
    way = r.normal(size=h.shape)
    slope = [value(x, [state[0], (h + e * way, state[1][1])]) for e in (1e-6, -1e-6)]
    np.testing.assert_allclose((dfirst[1][0] * way).sum(), (slope[0] - slope[1]) / 2e-6, rtol=1e-7)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(isa, threads):
    results = []
    for n in (1, threads):
        fl.set_num_threads(n)
        net, x = network("float32"), numbers((40, 7, 2), dtype="float32")
        y, state, backward = net.forward(x, lengths=[40, 1, 33, 8, 40, 17, 2])
        results.append((y, state, backward(numbers(y.shape, 4, "float32")), net.grad))
        big = fl.LSTM(33, 130, 2, bidirectional=True, seed=0)
        x = numbers((9, 3, 33), dtype="float32")
        y, state, backward = big.forward(x)
        results[-1] += (backward(y), big.grad)
    assert_same_bits(results[1], results[0])


def test_single_sequences_and_batch_first():
    layer, x = fl.LSTM(2, 3, dtype="float64", seed=0), numbers((T, B, 2))
    y, _, backward = layer.forward(x)
    dx, (dh, dc) = backward(y)
    wanted = layer.grad.copy()
    first = fl.LSTM(2, 3, batch_first=True, dtype="float64", seed=0)
    y2, _, backward = first.forward(x.swapaxes(0, 1))
    dx2, dstate = backward(y2)
    assert_same_bits((dx2.swapaxes(0, 1), *dstate, first.grad), (dx, dh, dc, wanted))
    one = fl.LSTM(2, 3, dtype="float64", seed=0)
    total = np.zeros_like(wanted)
    for b in range(B):
        one.zero_grad()
        y, _, backward = one.forward(x[:, b])
        d, _ = backward(y)
        assert d.shape == (T, 2)
        with pytest.raises(ValueError, match="dy"):
            one.forward(x[:, b])[2](y[:, None])
        np.testing.assert_allclose(d, dx[:, b], rtol=1e-12)
        total += one.grad
    np.testing.assert_allclose(total, wanted, rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("hidden", [1, 7, 8, 15, 17, 33, 40, 100, 130])
def test_one_lane_has_the_bits_of_many(isa, dtype, hidden, bidirectional):
    layer = with_weights(fl.LSTM(3, hidden, bidirectional=bidirectional, dtype=dtype), scale=0.2)
    x, reset, dstate = numbers((T, B, 3), 1, dtype), resets(), random_state(layer, B, 9)
    y, _, backward = layer.forward(x, None, LENGTHS, reset)
    dy = numbers(y.shape, 2, dtype)
    dx, (dh, dc) = backward(dy, dstate)
    total, layer.grad[:] = layer.grad.copy(), 0
    for b, length in enumerate(LENGTHS):
        lane, one = slice(b, b + 1), tuple(np.ascontiguousarray(part[:, b : b + 1]) for part in dstate)
        _, _, backward = layer.forward(x[:, lane], None, [length], reset[:, lane])
        assert_same_bits(backward(dy[:, lane], one), (dx[:, lane], (dh[:, lane], dc[:, lane])))
    assert_close(layer.grad, total, "gradient")
    layer.zero_grad()
    check(layer, [4], reset[:, :1], lanes=1)


def test_gradients_add_up_and_arguments_are_checked():
    layer, x = fl.LSTM(2, 3, seed=0), np.ones((T, B, 2), np.float32)
    y, _, backward = layer.forward(x)
    for bad, error in ((y[:-1], ValueError), (y.astype(np.float64), TypeError), (None, TypeError)):
        with pytest.raises(error, match="dy"):
            backward(bad)
    with pytest.raises(ValueError, match="state"):
        backward(y, (y, y))
    assert not layer.grad.any()
    backward(y)
    once = layer.grad.copy()
    assert once.any()
    with pytest.raises(RuntimeError, match="one gradient"):
        backward(y)
    assert_same_bits(layer.grad, once)
    assert layer.forward(x)[2](y, need_dx=False)[0] is None
    assert_same_bits(layer.grad, once + once)
    with pytest.raises((ValueError, TypeError), match=r"x\[1\]"):
        layer.forward([x[:, 0], x[:3, 1, :1]])
    with pytest.raises(ValueError, match="state"):
        fl.Linear(2, 3).forward(x)[2](np.ones((T, B, 3), np.float32), (y, y))


@pytest.mark.parametrize("part", [False, True])
def test_threads_of_python_add_to_one_gradient(part):
    layer, x = fl.LSTM(32, 32, dtype="float64", seed=0), numbers((30, 4, 32))
    net = fl.Sequential(layer, fl.Linear(32, 1, dtype="float64", seed=1)) if part else layer
    y, _, backward = layer.forward(x)
    backward(y)
    once = net.grad.copy()
    net.zero_grad()

    def learn():
        for _ in range(25):
            y, _, backward = layer.forward(x)
            backward(y)

    threads = [threading.Thread(target=learn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(net.grad, 100 * once, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_list_of_sequences(batch_first):
    layer = fl.GRU(2, 3, batch_first=batch_first, dtype="float64", seed=0)
    xs, dh = [numbers((n, 2), n) for n in LENGTHS], numbers((1, B, 3), 8)
    ys, h, backward = layer.forward(xs)
    assert_same_bits((ys, h), layer(xs))
    for bad in (ys[:-1], ys[0], [ys[0][:1], *ys[1:]]):
        with pytest.raises((ValueError, TypeError), match="dy"):
            backward(bad)
    dxs, dfirst = backward(ys, dh)
    wanted, layer.grad[:] = layer.grad.copy(), 0
    for b, x in enumerate(xs):
        y, _, backward = layer.forward(x)
        dx, d = backward(y, dh[:, b])
        np.testing.assert_allclose(dxs[b], dx, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(dfirst[:, b], d[:, 0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(layer.grad, wanted, rtol=1e-12)


def test_a_nan_stays_in_its_lane():
    layer, x = fl.LSTM(2, 17, seed=0), numbers((T, B, 2), dtype="float32")
    y, _, backward = layer.forward(x)
    good = backward(y)[0]
    x[2, 1, 0] = np.nan
    y2, _, backward = layer.forward(x)
    bad = backward(y)[0]
    others = [b for b in range(B) if b != 1]
    assert_same_bits(bad[:, others], good[:, others])
    assert np.isnan(bad[:, 1]).any()


@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True), (3, False)])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize(
    "kind, options",
    [("LSTM", {}), ("LSTM", {"proj_size": 5}), ("GRU", {}), ("RNN", {}), ("RNN", {"nonlinearity": "relu"})],
)
def test_against_pytorch(dtype, kind, options, layers, bidirectional, lengths):
    torch = pytest.importorskip("torch")
    options = options | {"bidirectional": bidirectional}
    ours = getattr(fl, kind)(3, 33, layers, dtype=dtype, seed=1, **options)
    theirs = getattr(torch.nn, kind)(3, 33, layers, dtype=getattr(torch, dtype), **options)
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
    x = numbers((T, B, 3), dtype=dtype)
    state, dstate = random_state(ours, B), random_state(ours, B, 9)
    y, after, backward = ours.forward(x, state, lengths)
    dy = numbers(y.shape, 3, dtype)
    for b, length in enumerate(lengths or []):
        dy[length:, b] = 0
    dx, dfirst = backward(dy, dstate)
    tx, first = torch.from_numpy(x).requires_grad_(), [torch.from_numpy(a).requires_grad_() for a in state_parts(state)]
    rnn = torch.nn.utils.rnn
    read = tx if lengths is None else rnn.pack_padded_sequence(tx, torch.tensor(lengths), enforce_sorted=False)
    ty, last = theirs(read, state_of(first))
    if lengths is not None:
        ty = rnn.pad_packed_sequence(ty, total_length=T)[0]
    pairs = [(ty, dy), *zip(state_parts(last), state_parts(dstate), strict=True)]
    sum((a * torch.from_numpy(d)).sum() for a, d in pairs).backward()
    got = {"y": y, "dx": dx, **dict(zip("hc", state_parts(dfirst), strict=False))} | ours.gradients()
    wanted = {"y": ty.detach(), "dx": tx.grad, **{name: a.grad for name, a in zip("hc", first, strict=False)}}
    wanted |= {name: p.grad for name, p in theirs.named_parameters()}
    for name, w in wanted.items():
        largest = np.abs(w.numpy()).max()
        tolerance = (1e-5 if dtype == "float32" else 1e-10) * largest
        np.testing.assert_allclose(got[name], w.numpy(), rtol=0, atol=tolerance, err_msg=name)


# ---- recompute: spans are run again ----


def both_ways(net, x, recompute, state=None, dstate=None, **options):
    """(y, state, dx, dstate, gradient) without and with `recompute`."""
    found = []
    for again in (None, recompute):
        one = copy.deepcopy(net)  # which draws the same noise
        y, after, backward = one.forward(x, state, recompute=again, **options)
        found.append((y, after, *backward(numbers(y.shape, 4, one.dtype), dstate), one.grad))
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda d: fl.LSTM(3, 21, 2, dtype=d, seed=0),
        lambda d: fl.LSTM(3, 20, block_size=2, peepholes=True, gate_recurrence=True, clip=0.5, dtype=d, seed=0),
        lambda d: fl.LSTM(3, 20, proj_size=5, dtype=d, seed=0),
        lambda d: fl.GRU(3, 21, reset_after=False, dtype=d, seed=0),
        lambda d: fl.GRU(3, 21, 2, dropout=0.3, zoneout=0.2, dtype=d, seed=0),
        lambda d: fl.Sequential(fl.RNN(3, 20, dtype=d, seed=0), fl.Linear(20, 4, activation="tanh", dtype=d, seed=1)),
        lambda d: fl.LSTM(3, 20, 2, dropout=0.3, recurrent_dropout=0.2, zoneout=0.1, dtype=d, seed=0),
        lambda d: fl.LSTM(3, 20, batch_first=True, dtype=d, seed=0),
    ],
)
@pytest.mark.parametrize(
    "steps, lanes, recompute", [(53, 4, 16), (48, 4, 16), (100, 1, True), (40, 64, 1), (30, 3, 64)]
)
def test_recomputing_gives_the_same_bits(make, dtype, steps, lanes, recompute):
    net = make(dtype)
    shape = (lanes, steps, 3) if net.batch_first else (steps, lanes, 3)
    x, states = numbers(shape, 1, dtype), [random_state(net, lanes, k) for k in (2, 9)]
    reset = np.random.default_rng(5).random((steps, lanes)) < 0.1
    plain, again = both_ways(net, x, recompute, *states, reset=reset)
    assert_same_bits(again, plain)
    for threads in (2, 3):
        fl.set_num_threads(threads)
        assert_same_bits(both_ways(net, x, recompute, *states, reset=reset)[1], plain)


@pytest.mark.parametrize("recompute", [1, 2, 3, 7, True])
def test_recomputing_ragged_sequences(recompute):
    net = fl.LSTM(2, 17, 2, dropout=0.3, zoneout=0.1, dtype="float64", seed=0)
    x, states = numbers((9, B, 2)), [random_state(net, B, k) for k in (2, 9)]
    plain, again = both_ways(net, x, recompute, *states, lengths=LENGTHS, reset=resets(9))
    assert_same_bits(again[:4], plain[:4])  # only a sum over all lanes and steps may be made in another order
    np.testing.assert_allclose(again[4], plain[4], rtol=1e-12, atol=1e-13)
    sequences = [np.ascontiguousarray(x[:n, b]) for b, n in enumerate(LENGTHS)]
    y, state, backward = net.forward(sequences, recompute=recompute)
    assert [len(a) for a in y] == LENGTHS
    dx, _ = backward(y)
    assert [len(a) for a in dx] == LENGTHS


@pytest.mark.parametrize(
    "cell", [fl.LSTM, fl.GRU, fl.RNN, lambda *sizes, **more: fl.LSTM(*sizes, proj_size=2, zoneout=0.2, **more)]
)
@pytest.mark.parametrize("more", [{}, {"lengths": np.array(LENGTHS)}, {"reset": resets()}, {"recompute": 2}])
@pytest.mark.parametrize("lanes", [1, B])
def test_no_need_of_dstate(cell, more, lanes):
    if lanes == 1:
        more = {name: a[..., :1] if np.ndim(a) else a for name, a in more.items()}
    x, found = numbers((T, lanes, 3)), []
    for need in (True, False):
        net = fl.Sequential(
            cell(3, 5, dtype="float64", seed=0),
            cell(5 if cell in (fl.LSTM, fl.GRU, fl.RNN) else 2, 4, dtype="float64", seed=1),
        )
        y, state, backward = net.forward(x, **more)
        dx, dstate = backward(np.sin(y), state, need_dstate=need)
        assert (dstate is None) != need
        found.append((y, dx, net.grad))
    assert_same_bits(*found)


def test_no_need_of_dstate_of_a_list():
    layer, x = fl.LSTM(2, 3, seed=0), [np.ones((n, 2), np.float32) for n in LENGTHS]
    y, _, backward = layer.forward(x)
    with pytest.raises(TypeError, match="need_dstate must be True or False"):
        backward(y, need_dstate=None)
    dx, dstate = backward(y, need_dstate=False)
    assert dstate is None and len(dx) == len(x)


def test_bad_recompute():
    layer, x = fl.LSTM(2, 3, seed=0), np.ones((T, B, 2), np.float32)
    for bad, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), ("4", TypeError)):
        with pytest.raises(error, match="recompute"):
            layer.forward(x, recompute=bad)
    with pytest.raises(ValueError, match="recompute must be None: the backward direction"):
        fl.LSTM(2, 3, bidirectional=True).forward(x, recompute=2)
    y, _, backward = layer.forward(x, recompute=2)
    assert backward(y, need_dx=False)[0] is None
    once = layer.grad.copy()
    with pytest.raises(RuntimeError, match="one gradient"):
        backward(y)
    assert_same_bits(layer.grad, once)
