"""The reference against hand-computed values, against itself by independent routes, and against finite differences."""

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import reference as ref
from reference import Cell

PAPER = {
    "forget_gate": False,
    "gate_recurrence": True,
    "input_activation": "g1997",
    "output_activation": "h1997",
}
ACTIVATIONS = ("sigmoid", "tanh", "identity", "relu", "g1997", "h1997")


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def rng(seed=0):
    return np.random.default_rng(seed)


# Activations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_through_the_value(name):
    x = np.linspace(-4.03, 4.03, 41)[np.r_[0:20, 21:41]]
    eps = 1e-5
    numeric = (ref.activation(name, x + eps) - ref.activation(name, x - eps)) / (2 * eps)
    np.testing.assert_allclose(ref.derivative(name, ref.activation(name, x)), numeric, atol=1e-9)


def test_activations_of_1997():
    x = np.linspace(-5, 5, 21)
    np.testing.assert_allclose(ref.activation("h1997", x), 2 * sigmoid(x) - 1, atol=1e-15)
    np.testing.assert_allclose(ref.activation("g1997", x), 4 * sigmoid(x) - 2, atol=1e-15)
    np.testing.assert_allclose(ref.activation("sigmoid", x), sigmoid(x), rtol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_saturate_and_pass_nan(name):
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = ref.activation(name, np.array([-1e4, 1e4]))
    assert np.isfinite(y).all()
    assert np.isnan(ref.activation(name, np.array([np.nan]))).all()


def test_unknown_activation():
    with pytest.raises(ValueError, match="swish"):
        ref.activation("swish", np.zeros(1))


# Forward --------------------------------------------------------------------------------------------------------------


def test_worked_value_of_1997():
    """One cell: net_in = 2, net_c = 1, net_out = 0; then net_in = -6."""
    cell = Cell(3, 1, **PAPER)
    params = {"weight_ih": np.eye(3), "weight_hh": np.zeros((3, 1)), "weight_gh": np.zeros((3, 2))}  # rows i, g, o
    s = ref.lstm_step(cell, params, np.array([2.0, 1.0, 0.0]), np.zeros(1), np.zeros(1), np.zeros(2))
    for key, value in {"i": 0.880797, "g": 0.924234, "c": 0.814063, "hc": 0.385949, "h": 0.192975}.items():
        assert s[key].item() == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(s["a"], [0.880797, 0.5], atol=1e-6)
    s = ref.lstm_step(cell, params, np.array([-6.0, 1.0, 0.0]), s["h"], s["c"], s["a"])
    assert s["c"].item() == pytest.approx(0.816348, abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "blocks", "size", "outputs", "bias", "output_bias", "count"),
    [
        (8, 2, 2, 4, "single", True, 156),  # 6a
        (2, 2, 2, 1, "single", True, 93),  # 4, 5
        (8, 3, 2, 8, "single", True, 308),  # 6b
        (1, 3, 1, 1, "single", False, 102),  # 3
        (54, 2, 1, 2, False, False, 364),  # 2c
    ],
)
def test_weight_counts_of_1997(inputs, blocks, size, outputs, bias, output_bias, count):
    shapes = ref.parameter_shapes(Cell(inputs, blocks * size, block_size=size, **PAPER), bias)
    hidden = sum(np.prod(s) for s in shapes.values())
    assert hidden + outputs * blocks * size + output_bias * outputs == count


def test_one_cell_by_hand():
    """Rows i, f, g, o with distinct weights, peepholes in the order i, f, o, two biases."""
    p = {
        "weight_ih": np.array([[0.1], [0.2], [0.3], [0.4]]),
        "weight_hh": np.array([[-0.5], [0.6], [0.7], [-0.8]]),
        "bias_ih": np.array([0.01, 0.02, 0.03, 0.04]),
        "bias_hh": np.array([0.5, -0.6, 0.7, 0.8]),
        "weight_peephole": np.array([[0.9], [-1.1], [1.2]]),
    }
    x, h, c = 1.5, 0.25, -0.75
    i = sigmoid(0.1 * x - 0.5 * h + 0.51 + 0.9 * c)
    f = sigmoid(0.2 * x + 0.6 * h - 0.58 - 1.1 * c)
    g = np.tanh(0.3 * x + 0.7 * h + 0.73)
    new = f * c + i * g
    o = sigmoid(0.4 * x - 0.8 * h + 0.84 + 1.2 * new)
    s = ref.lstm_step(Cell(1, 1, peepholes=True), p, *(np.array([v]) for v in (x, h, c)), np.zeros(0))
    got = [s[k].item() for k in ("i", "f", "g", "c", "o", "h")]
    np.testing.assert_allclose(got, [i, f, g, new, o, o * np.tanh(new)], rtol=1e-14)


def test_block_with_gate_recurrence_by_hand():
    """One block of two cells; sources h (2) and a = (i, f, o)."""
    cell = Cell(1, 2, block_size=2, peepholes=True, gate_recurrence=True)
    p = ref.random_parameters(ref.parameter_shapes(cell, "single"), rng(), 1.0)
    assert p["weight_ih"].shape == (5, 1)  # i, f, g, g, o
    assert p["weight_gh"].shape == (5, 3)
    x, h, c, a = np.array([0.3]), np.array([0.2, -0.4]), np.array([1.1, -0.6]), np.array([0.5, 0.9, 0.1])
    net = [p["weight_ih"][r] @ x + p["weight_hh"][r] @ h + p["weight_gh"][r] @ a + p["bias_ih"][r] for r in range(5)]
    q = p["weight_peephole"]
    i = sigmoid(net[0] + q[0, 0] * c[0] + q[0, 1] * c[1])
    f = sigmoid(net[1] + q[1, 0] * c[0] + q[1, 1] * c[1])
    new = [f * c[0] + i * np.tanh(net[2]), f * c[1] + i * np.tanh(net[3])]
    o = sigmoid(net[4] + q[2, 0] * new[0] + q[2, 1] * new[1])
    s = ref.lstm_step(cell, p, x, h, c, a)
    np.testing.assert_allclose(s["c"], new, rtol=1e-14)
    np.testing.assert_allclose(s["h"], o * np.tanh(new), rtol=1e-14)
    np.testing.assert_allclose(s["a"], [i, f, o], rtol=1e-14)


def test_absent_gates_are_one():
    cell = Cell(2, 3, input_gate=False, forget_gate=False, output_gate=False)
    assert list(cell.rows) == ["g"]
    p = ref.random_parameters(ref.parameter_shapes(cell), rng())
    x, h, c = rng(1).normal(size=2), rng(2).normal(size=3), rng(3).normal(size=3)
    s = ref.lstm_step(cell, p, x, h, c, np.zeros(0))
    net = p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias_ih"] + p["bias_hh"]
    np.testing.assert_allclose(s["c"], c + np.tanh(net), rtol=1e-14)
    np.testing.assert_allclose(s["h"], np.tanh(c + np.tanh(net)), rtol=1e-14)


def test_coupled_gates_are_a_forget_gate_of_opposite_sign():
    """1 - sigmoid(x) = sigmoid(-x)."""
    coupled = Cell(2, 4, block_size=2, coupled_gates=True, peepholes=True)
    free = replace(coupled, coupled_gates=False)
    p = ref.random_parameters(ref.parameter_shapes(coupled), rng())
    assert p["weight_ih"].shape == (2 + 4 + 2, 2)
    q = {}
    for k, v in p.items():
        n = 1 if k == "weight_peephole" else coupled.blocks  # rows of i
        q[k] = np.concatenate([v[:n], -v[:n], v[n:]])
    x = rng(1).normal(size=(5, 2, 2))
    np.testing.assert_allclose(ref.lstm_forward(coupled, p, x)[0], ref.lstm_forward(free, q, x)[0], rtol=1e-12)


def test_clip():
    cell = Cell(1, 1, forget_gate=False, input_activation="identity", output_activation="identity", clip=0.5)
    p = {"weight_ih": np.array([[0.0], [1.0], [0.0]]), "weight_hh": np.zeros((3, 1))}
    y, (_, c, _) = ref.lstm_forward(cell, p, np.array([0.4, 5.0, -0.2, -9.0]).reshape(4, 1, 1))
    np.testing.assert_allclose(y.ravel(), [0.1, 0.25, 0.2, -0.25])
    assert c.item() == -0.5


def test_lengths_resets_and_reverse():
    cell = Cell(3, 4, block_size=2, peepholes=True, gate_recurrence=True)
    p = ref.random_parameters(ref.parameter_shapes(cell), rng())
    x = rng(1).normal(size=(7, 2, 3))
    start = (rng(2).normal(size=(2, 4)), rng(3).normal(size=(2, 4)), rng(4).normal(size=(2, 6)))
    reset = np.zeros((7, 2), bool)
    reset[3, 0] = reset[6, 1] = True
    x[5:, 1] = np.nan  # never read
    y, final = ref.lstm_forward(cell, p, x, start, lengths=[7, 5], reset=reset)
    one = [s[:1] for s in start]
    first, _ = ref.lstm_forward(cell, p, x[:3, :1], one)
    second, end = ref.lstm_forward(cell, p, x[3:, :1])
    np.testing.assert_array_equal(y[:, :1], np.concatenate([first, second]))
    np.testing.assert_array_equal([f[0] for f in final[:2]], [e[0] for e in end[:2]])
    two, end = ref.lstm_forward(cell, p, x[:5, 1:], [s[1:] for s in start])
    np.testing.assert_array_equal(y[:5, 1:], two)
    np.testing.assert_array_equal(y[5:, 1], 0.0)
    np.testing.assert_array_equal(final[1][1], end[1][0])

    # Backwards: lane 0 is the episodes 0..2 and 3..6, each from its last step; lane 1 starts at step 4.
    y, final = ref.lstm_forward(cell, p, x, start, lengths=[7, 5], reset=reset, reverse=True)
    second, _ = ref.lstm_forward(cell, p, x[:2:-1, :1], one)
    first, end = ref.lstm_forward(cell, p, x[2::-1, :1])
    np.testing.assert_array_equal(y[::-1, :1], np.concatenate([second, first]))
    np.testing.assert_array_equal(final[1][0], end[1][0])
    two, end = ref.lstm_forward(cell, p, x[4::-1, 1:], [s[1:] for s in start])
    np.testing.assert_array_equal(y[4::-1, 1:], two)
    np.testing.assert_array_equal(final[2][1], end[2][0])


def test_zero_length_returns_the_state_given():
    cell = Cell(2, 3)
    p = ref.random_parameters(ref.parameter_shapes(cell), rng())
    start = (np.ones((1, 3)), np.full((1, 3), 2.0))
    y, (h, c, a) = ref.lstm_forward(cell, p, np.ones((2, 1, 2)), start, lengths=[0], reset=np.ones((2, 1), bool))
    assert (y == 0).all()
    assert (h == 1).all()
    assert (c == 2).all()
    assert a.shape == (1, 0)


def test_stack_of_two_bidirectional_layers():
    cell, flat, per = Cell(3, 2), {}, {}
    for layer, size in ((0, 3), (1, 4)):
        for suffix in ("", "_reverse"):
            p = ref.random_parameters(ref.parameter_shapes(replace(cell, input_size=size)), rng(len(per)))
            per[layer, suffix] = p
            flat.update({f"{k}_l{layer}{suffix}": v for k, v in p.items()})
    x, lengths = rng(9).normal(size=(5, 2, 3)), [5, 3]
    y, (h, c, _) = ref.stacked_forward(cell, flat, x, 2, True, lengths=lengths)
    z, states = x, []
    for layer, size in ((0, 3), (1, 4)):
        runs = [
            ref.lstm_forward(replace(cell, input_size=size), per[layer, s], z, None, lengths, reverse=bool(s))
            for s in ("", "_reverse")
        ]
        z = np.concatenate([run[0] for run in runs], axis=2)
        states += [run[1] for run in runs]
    np.testing.assert_array_equal(y, z)
    assert y.shape == (5, 2, 4)
    np.testing.assert_array_equal(h, [s[0] for s in states])
    np.testing.assert_array_equal(c, [s[1] for s in states])
    half, middle = ref.stacked_forward(Cell(3, 2), {k: v for k, v in flat.items() if "l0" in k}, x[:2])
    rest, _ = ref.stacked_forward(Cell(3, 2), {k: v for k, v in flat.items() if "l0" in k}, x[2:], state=middle)
    whole, _ = ref.stacked_forward(Cell(3, 2), {k: v for k, v in flat.items() if "l0" in k}, x)
    np.testing.assert_array_equal(np.concatenate([half, rest]), whole)


# Losses ---------------------------------------------------------------------------------------------------------------


def example_targets(loss, lanes, outputs, seed=0):
    """A target for one step, some of it missing when there are several lanes."""
    if loss == "cross_entropy":
        target = rng(seed).integers(0, outputs, lanes)
        target[2:] = -1
        return target
    target = rng(seed).uniform(0.1, 0.9, (lanes, outputs))
    target[1:2, 0] = np.nan
    return target


@pytest.mark.parametrize("loss", ref.LOSSES)
def test_loss_derivative(loss):
    y, target = rng().uniform(0.2, 0.8, (3, 4)), example_targets(loss, 3, 4)
    _, dy = ref.LOSSES[loss](y, target)
    for index in np.ndindex(y.shape):
        shift = np.zeros_like(y)
        shift[index] = 1e-6
        numeric = (ref.LOSSES[loss](y + shift, target)[0] - ref.LOSSES[loss](y - shift, target)[0]) / 2e-6
        assert dy[index] == pytest.approx(numeric, abs=1e-8)


def test_loss_values():
    y = np.array([[0.5, 0.25], [0.75, np.nan]])
    target = np.array([[1.0, 0.0], [0.0, np.nan]])
    square = 0.25 + 0.0625 + 0.5625
    assert ref.mse(y, target)[0] == pytest.approx(square / 3)
    assert ref.sse(y, target)[0] == pytest.approx(square / 2)
    assert ref.binary_cross_entropy(y, target)[0] == pytest.approx(-(np.log(0.5) + np.log(0.75) + np.log(0.25)) / 3)
    logits, classes = np.log([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]), np.array([1, -1, 0])
    assert ref.cross_entropy(logits, classes)[0] == pytest.approx(-(np.log(0.8) + np.log(0.9)) / 2)


@pytest.mark.parametrize("loss", ref.LOSSES)
def test_no_target_no_loss(loss):
    target = np.array([-1, -1]) if loss == "cross_entropy" else np.full((2, 3), np.nan)
    value, dy = ref.LOSSES[loss](np.full((2, 3), 0.5), target)
    assert value == 0.0
    assert (dy == 0.0).all()


# The truncated gradient by three routes -------------------------------------------------------------------------------


@dataclass
class Case:
    """A network, its data, and where episodes start."""

    cells: list
    loss: str = "sse"
    lanes: int = 1
    output: str | None = "sigmoid"  # activation of the linear layer on top; None: no such layer
    reset: bool = False
    bias: object = True
    seed: int = 0
    steps: int = 6
    outputs: int = 2
    sparse: bool = False  # no target at most steps
    layers: list = field(init=False)

    def __post_init__(self):
        r = rng(self.seed)
        self.layers = []
        for cell in self.cells:
            self.layers.append(("lstm", cell, ref.random_parameters(ref.parameter_shapes(cell, self.bias), r, 0.8)))
        width = self.cells[-1].hidden_size
        if self.output is not None:
            shapes = {"weight": (self.outputs, width), "bias": (self.outputs,)}
            self.layers.append(("linear", self.output, ref.random_parameters(shapes, r, 0.8)))
            width = self.outputs
        self.xs = r.normal(size=(self.steps, self.lanes, self.cells[0].input_size))
        self.targets = [example_targets(self.loss, self.lanes, width, t) for t in range(self.steps)]
        self.targets[1] = None
        if self.sparse:
            self.targets[:-2] = [None] * (self.steps - 2)
        self.starts = np.zeros((self.steps, self.lanes), bool)
        if self.reset:
            self.starts[3, 0] = self.starts[2, -1] = True


CASES = {
    "plain": Case([Cell(2, 3)]),
    "1997": Case([Cell(2, 4, block_size=2, **PAPER)], bias="single"),
    "1997, 3 lanes, resets": Case([Cell(2, 3, block_size=3, **PAPER)], bias="single", lanes=3, reset=True),
    "S=2": Case([Cell(2, 4, block_size=2)]),
    "S=3": Case([Cell(1, 6, block_size=3)], lanes=3),
    "no input gate": Case([Cell(2, 4, block_size=2, input_gate=False)]),
    "no forget gate": Case([Cell(2, 3, forget_gate=False)]),
    "no output gate": Case([Cell(2, 4, block_size=2, output_gate=False)]),
    "no gates": Case(
        [Cell(2, 3, input_gate=False, forget_gate=False, output_gate=False, peepholes=True, gate_recurrence=True)]
    ),
    "2a": Case(
        [Cell(2, 1, forget_gate=False, output_gate=False, input_activation="sigmoid", output_activation="identity")],
        bias=False,
    ),
    "coupled": Case([Cell(2, 4, block_size=2, coupled_gates=True)]),
    "coupled, peepholes, recurrence": Case(
        [Cell(2, 4, block_size=2, coupled_gates=True, peepholes=True, gate_recurrence=True)], reset=True
    ),
    "peepholes": Case([Cell(2, 3, peepholes=True)]),
    "peepholes, S=2": Case([Cell(2, 4, block_size=2, peepholes=True)], lanes=3, reset=True),
    "peepholes, S=3": Case([Cell(2, 6, block_size=3, peepholes=True)], bias="single"),
    "peepholes, no input gate": Case([Cell(2, 4, block_size=2, input_gate=False, peepholes=True)]),
    "peepholes, no forget gate": Case([Cell(2, 4, block_size=2, forget_gate=False, peepholes=True)]),
    "peepholes, no output gate": Case([Cell(2, 4, block_size=2, output_gate=False, peepholes=True)]),
    "recurrence": Case([Cell(2, 3, gate_recurrence=True)]),
    "recurrence, S=2, no output gate": Case(
        [Cell(2, 4, block_size=2, output_gate=False, gate_recurrence=True)], lanes=3
    ),
    "clip": Case([Cell(2, 4, block_size=2, clip=0.4)], lanes=3),
    "clip, peepholes": Case([Cell(2, 3, forget_gate=False, peepholes=True, clip=0.5)], reset=True),
    "relu, identity": Case(
        [Cell(2, 3, input_activation="relu", output_activation="identity", gate_activation="h1997")]
    ),
    "resets": Case([Cell(2, 3)], lanes=3, reset=True),
    "sparse targets": Case([Cell(2, 4, block_size=2, peepholes=True)], sparse=True, lanes=3),
    "bare layer, mse": Case([Cell(2, 3)], output=None, loss="mse", lanes=3),
    "mse": Case([Cell(2, 3)], loss="mse", output="identity", lanes=3, reset=True),
    "cross entropy": Case([Cell(2, 3)], loss="cross_entropy", output="identity", outputs=3, lanes=3),
    "binary cross entropy": Case([Cell(2, 3)], loss="binary_cross_entropy", lanes=3),
    "stack": Case([Cell(2, 3), Cell(3, 2)]),
    "stack of 1997": Case(
        [Cell(2, 4, block_size=2, **PAPER), Cell(4, 3, block_size=3, **PAPER)], bias="single", reset=True
    ),
    "stack of all": Case(
        [
            Cell(2, 4, block_size=2, peepholes=True, gate_recurrence=True, clip=0.6),
            Cell(4, 3, coupled_gates=True, peepholes=True, gate_recurrence=True),
        ],
        lanes=3,
        reset=True,
        loss="cross_entropy",
        output="identity",
    ),
    "stack of three": Case(
        [Cell(2, 2), Cell(2, 2, peepholes=True), Cell(2, 2, forget_gate=False)], loss="mse", output="tanh"
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def run_rtrl(case):
    """The gradient by traces."""
    net = ref.TruncatedRTRL(case.layers, case.loss, case.lanes)
    ys = []
    for x, target, start in zip(case.xs, case.targets, case.starts, strict=True):
        net.reset(start)
        ys.append(net.step(x, target))
    return np.array(ys), net.grads


def assert_gradients_close(got, wanted, rtol):
    """Each array to rtol of its largest element."""
    assert [g.keys() for g in got] == [w.keys() for w in wanted]
    for n, layer in enumerate(wanted):
        for name, w in layer.items():
            scale = max(np.abs(w).max(), 1e-3)
            np.testing.assert_allclose(got[n][name], w, rtol=0, atol=rtol * scale, err_msg=f"{n}.{name}")


def numeric_derivative(function, layers, n, name, direction, eps=1e-5):
    """Central difference of function(layers) along `direction` of parameter `name` of layer n."""
    values = []
    for sign in (1, -1):
        moved = list(layers)
        kind, what, params = layers[n]
        moved[n] = (kind, what, {**params, name: params[name] + sign * eps * direction})
        values.append(function(moved))
    return (values[0] - values[1]) / (2 * eps)


def directions(shape, r, elements=4):
    """Some unit directions (all, if the array is small), and a random one."""
    size = int(np.prod(shape))
    for k in r.permutation(size)[:elements]:
        yield np.eye(1, size, k).reshape(shape)
    yield r.normal(size=shape)


@cases
def test_traces_equal_truncated_bptt(case):
    ys, grads = run_rtrl(case)
    np.testing.assert_array_equal(ys, ref.record_forward(case.layers, case.xs, case.starts)[0])
    assert_gradients_close(
        grads, ref.truncated_bptt_gradient(case.layers, case.loss, case.xs, case.targets, case.starts), 1e-12
    )


@cases
def test_traces_equal_finite_differences_of_the_cut_loss(case):
    _, grads = run_rtrl(case)
    _, record = ref.record_forward(case.layers, case.xs, case.starts)
    r = rng(1)
    for n, layer in enumerate(grads):
        for name, grad in layer.items():
            for d in directions(grad.shape, r):
                numeric = numeric_derivative(
                    lambda moved, n=n: ref.cut_loss(moved, case.loss, case.xs, case.targets, case.starts, record, n),
                    case.layers,
                    n,
                    name,
                    d,
                )
                assert (grad * d).sum() == pytest.approx(numeric, rel=1e-6, abs=1e-8), f"{n}.{name}"


@cases
def test_cut_loss_without_a_perturbation_is_the_loss(case):
    _, record = ref.record_forward(case.layers, case.xs, case.starts)
    whole = ref.full_loss(case.layers, case.loss, case.xs, case.targets, case.starts)
    for live in range(len(case.layers)):
        cut = ref.cut_loss(case.layers, case.loss, case.xs, case.targets, case.starts, record, live)
        assert cut == pytest.approx(whole, rel=1e-14)


def test_clip_cases_do_clip():
    for name in ("clip", "clip, peepholes", "stack of all"):
        case = CASES[name]
        _, record = ref.record_forward(case.layers, case.xs, case.starts)
        keep = np.array([[s["keep"] for s in row] for row in record[0]])
        assert 0.0 < keep.mean() < 1.0, name


def full_minus_truncated(case, name):
    """Largest difference of the two gradients of parameter `name` of the first layer, relative to the full one."""
    _, grads = run_rtrl(case)
    shape = grads[0][name].shape
    full = np.zeros(shape)
    for index in np.ndindex(shape):
        d = np.zeros(shape)
        d[index] = 1.0
        full[index] = numeric_derivative(
            lambda moved: ref.full_loss(moved, case.loss, case.xs, case.targets, case.starts), case.layers, 0, name, d
        )
    return np.abs(full - grads[0][name]).max() / np.abs(full).max()


def without(case, name):
    """The case with a parameter of its first layer at zero."""
    case = copy.deepcopy(case)
    case.layers[0][2][name][:] = 0.0
    return case


def test_truncated_is_not_full():
    """Recurrent weights, gate recurrence, peepholes and an upper layer's memory each carry error that is cut."""
    assert full_minus_truncated(CASES["plain"], "weight_ih") > 1e-2
    assert full_minus_truncated(without(CASES["plain"], "weight_hh"), "weight_ih") < 1e-8

    recurrence = without(CASES["recurrence"], "weight_hh")
    assert full_minus_truncated(recurrence, "weight_ih") > 1e-2
    assert full_minus_truncated(without(recurrence, "weight_gh"), "weight_ih") < 1e-8

    peepholes = without(CASES["peepholes"], "weight_hh")
    assert full_minus_truncated(peepholes, "weight_ih") > 1e-2
    assert full_minus_truncated(without(peepholes, "weight_peephole"), "weight_ih") < 1e-8

    stack = without(CASES["stack"], "weight_hh")
    stack.layers[1][2]["weight_hh"][:] = 0.0
    assert full_minus_truncated(stack, "weight_ih") > 1e-2


def test_truncated_is_full_in_one_step_but_for_the_output_peephole():
    one = Case([Cell(2, 4, block_size=2, gate_recurrence=True), Cell(4, 2)], steps=2)
    one.xs, one.targets, one.starts = one.xs[:1], one.targets[:1], one.starts[:1]
    assert full_minus_truncated(one, "weight_ih") < 1e-8
    one = Case([Cell(2, 4, block_size=2, peepholes=True)], steps=2)
    one.xs, one.targets, one.starts = one.xs[:1], one.targets[:1], one.starts[:1]
    assert full_minus_truncated(one, "weight_ih") > 1e-3


def test_error_through_the_carousel_does_not_fade():
    """After a lag of 200 steps the gradient at the first input is what it was at lag 1; with f = 1/2 it is gone."""
    p = {"weight_ih": np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), "weight_hh": np.zeros((3, 1))}
    found = []
    for lag in (1, 200):
        net = ref.TruncatedRTRL([("lstm", Cell(2, 1, forget_gate=False), p)], "sse")
        net.step(np.array([[0.7, 1.0]]))
        for _ in range(lag - 1):
            net.step(np.zeros((1, 2)))
        net.step(np.zeros((1, 2)), np.array([[1.0]]))
        found.append(net.grads[0]["weight_ih"][1, 1])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert abs(found[0]) > 1e-2
    q = {k: np.insert(v, 1, 0.0, axis=0) for k, v in p.items()}
    net = ref.TruncatedRTRL([("lstm", Cell(2, 1), q)], "sse")
    net.step(np.array([[0.7, 1.0]]))
    for _ in range(200):
        net.step(np.zeros((1, 2)))
    net.step(np.zeros((1, 2)), np.array([[1.0]]))
    assert abs(net.grads[0]["weight_ih"][2, 1]) < 1e-50


def test_lanes_add_up():
    case = CASES["1997, 3 lanes, resets"]
    _, grads = run_rtrl(case)
    total = [ref.zero_gradients(p) for _, _, p in case.layers]
    for b in range(case.lanes):
        one = copy.deepcopy(case)
        one.lanes, one.xs, one.starts = 1, case.xs[:, b : b + 1], case.starts[:, b : b + 1]
        one.targets = [None if t is None else t[b : b + 1] for t in case.targets]
        for n, layer in enumerate(run_rtrl(one)[1]):
            for name, g in layer.items():
                total[n][name] += g
    assert_gradients_close(grads, total, 1e-13)


def test_two_biases_each_get_the_gradient():
    _, grads = run_rtrl(CASES["plain"])
    np.testing.assert_array_equal(grads[0]["bias_ih"], grads[0]["bias_hh"])
    assert np.abs(grads[0]["bias_ih"]).max() > 0


def test_sgd_with_momentum():
    case = CASES["1997"]
    net = ref.TruncatedRTRL(case.layers, case.loss)
    w = case.layers[0][2]["weight_ih"].copy()
    v = np.zeros_like(w)
    for x, target in zip(case.xs, case.targets, strict=True):
        net.step(x, target)
        v = 0.9 * v + net.grads[0]["weight_ih"]
        w = w - 0.1 * v
        net.step_sgd(0.1, 0.9)
        assert not net.grads[0]["weight_ih"].any()
    np.testing.assert_array_equal(net.layers[0][2]["weight_ih"], w)
    assert not np.array_equal(w, case.layers[0][2]["weight_ih"])  # the caller's arrays are not touched


def test_learning_lowers_the_loss():
    """A cell must hold the first of four inputs to the end."""
    cell = Cell(1, 2, block_size=1, **PAPER)
    r = rng(5)
    layers = [
        ("lstm", cell, ref.random_parameters(ref.parameter_shapes(cell, "single"), r)),
        ("linear", "sigmoid", ref.random_parameters({"weight": (1, 2), "bias": (1,)}, r)),
    ]
    net, losses = ref.TruncatedRTRL(layers, "sse"), []
    for _ in range(400):
        bit = r.integers(0, 2)
        net.reset()
        for t in range(4):
            net.step(np.array([[2.0 * bit - 1.0 if t == 0 else 0.0]]), np.array([[float(bit)]]) if t == 3 else None)
        losses.append(net.last_loss)
        net.step_sgd(0.5)
    assert np.mean(losses[-50:]) < 0.1 * np.mean(losses[:50])


# The full gradient ----------------------------------------------------------------------------------------------------

FULL = {
    "plain": Cell(2, 3),
    "1997": Cell(2, 4, block_size=2, **PAPER),
    "all": Cell(2, 6, block_size=3, peepholes=True, gate_recurrence=True, clip=0.8),
    "coupled": Cell(2, 4, block_size=2, coupled_gates=True, peepholes=True, gate_recurrence=True),
    "no input gate": Cell(2, 4, block_size=2, input_gate=False, peepholes=True, gate_recurrence=True),
    "no output gate": Cell(2, 4, block_size=2, output_gate=False, peepholes=True, gate_recurrence=True),
    "no gates": Cell(2, 3, input_gate=False, forget_gate=False, output_gate=False),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", FULL.values(), ids=FULL.keys())
def test_full_gradient_equals_finite_differences(cell, reverse):
    r = rng(7)
    params = ref.random_parameters(ref.parameter_shapes(cell), r, 0.8)
    x = r.normal(size=(5, 3, cell.input_size))
    sizes = (cell.hidden_size, cell.hidden_size, cell.sources)
    state = tuple(r.normal(size=(3, n)) * 0.5 for n in sizes)
    dy, dstate = r.normal(size=(5, 3, cell.hidden_size)), tuple(r.normal(size=(3, n)) for n in sizes)
    lengths, reset = [5, 3, 0], np.zeros((5, 3), bool)
    reset[2, 0] = True

    def value(params, x, state):
        y, final = ref.lstm_forward(cell, params, x, state, lengths, reset, reverse)
        return (y * dy).sum() + sum((f * d).sum() for f, d in zip(final, dstate, strict=True))

    dx, dstart, grads = ref.lstm_backward(cell, params, x, dy, state, dstate, lengths, reset, reverse)
    arguments = {**params, "x": x, "h": state[0], "c": state[1], "a": state[2]}
    gradients = {**grads, "x": dx, "h": dstart[0], "c": dstart[1], "a": dstart[2]}
    for name, grad in gradients.items():
        assert grad.shape == arguments[name].shape
        if grad.size == 0:
            continue
        for d in directions(grad.shape, r, 8):
            values = []
            for eps in (1e-5, -1e-5):
                m = {**arguments, name: arguments[name] + eps * d}
                values.append(value({k: m[k] for k in params}, m["x"], (m["h"], m["c"], m["a"])))
            assert (grad * d).sum() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8), name
