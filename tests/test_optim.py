"""SGD: v = momentum v + gradient; w -= lr v; lr *= decay. RMSprop, Adam and AdamW: as PyTorch."""

import copy
import pickle

import numpy as np
import pytest
from conftest import FUSED, assert_close, assert_same_bits, numbers, with_weights

import fastlstm as fl

SETTINGS = [(0.1, 0.0, 1.0), (0.5, 0.9, 1.0), (0.25, 0.0, 0.9), (0.1, 0.5, 0.5)]
settings = pytest.mark.parametrize(("lr", "momentum", "decay"), SETTINGS)


def network(dtype):
    return with_weights(fl.Sequential(fl.LSTM(2, 3, dtype=dtype), fl.Linear(3, 2, dtype=dtype)))


def updates(net, optimizer, gradients):
    """The parameters after an update with each of the gradients."""
    for gradient in gradients:
        net.grad[:] = gradient
        optimizer.step()
    return net.parameters.copy()


@settings
def test_formula(lr, momentum, decay, isa, dtype):
    net = network(dtype)
    w, v = net.parameters.astype(float), np.zeros(net.parameters.size)
    optimizer = fl.SGD(net, lr, momentum, decay=decay)
    rate = lr
    for k in range(7):
        g = numbers(w.size, k, dtype)
        net.grad[:] = g
        optimizer.step()
        v = momentum * v + g
        w -= rate * v
        rate *= decay
        assert_close(net.parameters, w, "training")
        assert_same_bits(net.grad, g)  # it is the user who clears it
        assert optimizer.lr == pytest.approx(rate, rel=1e-12)
        if momentum:
            assert_close(optimizer.state_dict()["velocity"], v, "training")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
def test_sizes(size, isa, dtype):
    net = with_weights(fl.Linear(size, 1, bias=False, dtype=dtype))
    before, g = net.parameters.astype(float), numbers((2, size), 1, dtype)
    updates(net, fl.SGD(net, 0.5, 0.5), g)
    assert_close(net.parameters, before - 0.5 * g[0] - 0.5 * (0.5 * g[0] + g[1]), "training")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_gradient_no_change(momentum, dtype):
    net = network(dtype)
    before = net.parameters.copy()
    assert_same_bits(updates(net, fl.SGD(net, 0.5, momentum), [0.0]), before)


def test_a_layer_of_a_network(isa, dtype):
    net = network(dtype)
    before = net.state_dict()
    net.grad[:] = 1
    fl.SGD(net[0], 0.5).step()
    after = net.state_dict()
    for name, a in before.items():
        assert_close(after[name], a.astype(float) - (0.5 if name.startswith("0.") else 0.0), "training")
    x = numbers((4, 2), 1, dtype)
    assert_same_bits(net(x)[0], net[1](net[0](x)[0])[0])  # nobody computes with old weights


def test_the_rate_is_an_attribute(dtype):
    net = network(dtype)
    optimizer, before = fl.SGD(net, 0.5, decay=0.5), net.parameters.copy()
    optimizer.lr = 0.0
    assert_same_bits(updates(net, optimizer, [1.0]), before)
    optimizer.lr = 2.0
    assert_close(updates(net, optimizer, [1.0]), before.astype(float) - 2.0, "training")
    assert optimizer.lr == 1.0


@settings
def test_continuing_after_a_reload_gives_the_same_bits(lr, momentum, decay, isa, dtype):
    net = network(dtype)
    gradients = [numbers(net.parameters.size, k, dtype) for k in range(6)]
    optimizer = fl.SGD(net, lr, momentum, decay=decay)
    updates(net, optimizer, gradients[:3])
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    wanted = updates(net, optimizer, gradients[3:])
    other = network(dtype)
    other.load_state_dict(saved[0])
    resumed = fl.SGD(other, 7.0, momentum)
    resumed.load_state_dict(saved[1])
    assert_same_bits(updates(other, resumed, gradients[3:]), wanted)
    assert resumed.lr == optimizer.lr
    assert_same_bits(resumed.state_dict()["velocity"], optimizer.state_dict()["velocity"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_learner_goes_on_after_a_reload_with_the_same_bits(momentum, isa, dtype):
    """Network and optimizer reload; a fresh learner between episodes knows no more than they."""
    xs, targets = numbers((20, 2), 1, dtype), np.full((20, 2), 0.5, dtype)
    net = network(dtype)
    optimizer = fl.SGD(net, 0.1, momentum, decay=0.9)
    learner = fl.OnlineLearner(net, "mse", optimizer)
    learner.run(xs[:9], targets[:9])
    saved = net.state_dict(), optimizer.state_dict()
    learner.reset()
    wanted = learner.run(xs[9:], targets[9:]), net.state_dict()
    other = network(dtype)
    resumed = fl.SGD(other, 1.0, momentum)
    second = fl.OnlineLearner(other, "mse", resumed)
    second.run(xs, targets)  # what it has learned is overwritten
    second.reset()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert_same_bits((second.run(xs[9:], targets[9:]), other.state_dict()), wanted)


def test_state_dict_is_a_copy(dtype):
    net = network(dtype)
    optimizer = fl.SGD(net, 0.5, 0.9)
    updates(net, optimizer, [1.0])
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    updates(net, optimizer, [1.0])
    assert_same_bits(state["velocity"], kept["velocity"])
    optimizer.load_state_dict(state)
    updates(net, optimizer, [1.0])
    assert_same_bits(state["velocity"], kept["velocity"])


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_with_its_network(how, dtype):
    net = network(dtype)
    optimizer = fl.SGD(net, 0.5, 0.9, decay=0.5)
    updates(net, optimizer, [1.0, 2.0])
    pair = net, optimizer
    other, resumed = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert resumed.net is other
    wanted = updates(net, optimizer, [3.0])
    assert_same_bits(updates(other, resumed, [3.0]), wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.5},
        {"lr": -1.0},
        {"decay": 0.0},
        {"velocity": np.zeros(3, np.float32)},
        {"velocity": None},
        {"nesterov": True},
    ],
    ids=str,
)
def test_load_state_dict_changes_nothing_if_it_raises(change):
    net = network("float32")
    optimizer = fl.SGD(net, 0.5, 0.9)
    updates(net, optimizer, [1.0])
    before = optimizer.state_dict()
    with pytest.raises((ValueError, TypeError)):
        optimizer.load_state_dict(before | {"lr": 0.1, "velocity": np.ones_like(before["velocity"])} | change)
    after = optimizer.state_dict()
    assert_same_bits(after.pop("velocity"), before.pop("velocity"))
    assert after == before


@pytest.mark.parametrize(
    "options",
    [{"net": "net"}, {"lr": -1.0}, {"lr": np.nan}, {"lr": "1"}, {"momentum": 1.0}, {"momentum": -0.1}, {"decay": 0.0}],
    ids=str,
)
def test_wrong_options_are_named(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        fl.SGD(**{"net": fl.Linear(1, 1), "lr": 0.1} | options)


# RMSprop, Adam, AdamW, and the options that all have ------------------------------------------------------------------

RULES = [
    (fl.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    (fl.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (fl.RMSprop, {"lr": 0.01}),
    (fl.RMSprop, {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.5, "weight_decay": 0.1}),
    (fl.Adam, {"lr": 0.01}),
    (fl.Adam, {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    (fl.AdamW, {"lr": 0.01}),
    (fl.AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}),
]
rules = pytest.mark.parametrize(("rule", "options"), RULES, ids=lambda value: getattr(value, "__name__", str(value)))
clips = pytest.mark.parametrize("clip_norm", [None, 2.0, 1e6])


@clips
@rules
def test_torch_goes_the_same_way(rule, options, clip_norm, dtype):
    torch = pytest.importorskip("torch")
    net = network(dtype)
    optimizer = rule(net, clip_norm=clip_norm, **options)
    parameter = torch.nn.Parameter(torch.from_numpy(net.parameters.copy()))
    theirs = getattr(torch.optim, rule.__name__)([parameter], **options)
    for k in range(50):
        gradient = numbers(net.parameters.size, k, dtype) * 2.0 ** (k % 7 - 3)
        parameter.grad = torch.from_numpy(gradient.astype(dtype))
        if clip_norm:
            torch.nn.utils.clip_grad_norm_([parameter], clip_norm)
        theirs.step()
        net.grad[:] = gradient
        optimizer.step()
        assert_same_bits(net.grad, gradient.astype(dtype))
    wanted = parameter.detach().numpy()
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(net.parameters, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


@clips
@rules
def test_every_instruction_set_goes_the_same_way(rule, options, clip_norm, isa, dtype, select_isa):
    def run(name):
        select_isa(name)
        net = network(dtype)
        optimizer = rule(net, clip_norm=clip_norm, **options)
        return updates(net, optimizer, [numbers(net.parameters.size, k, dtype) for k in range(9)])

    assert_close(run(isa), run("generic").astype(float), "training")
    if isa in FUSED:
        assert_same_bits(run(isa), run(FUSED[0]))


@rules
def test_a_gradient_is_scaled_to_the_norm(rule, options, dtype):
    """By as much as PyTorch's clip_grad_norm_ does, also where squares of floats would overflow."""
    largest = 1e30 if dtype == "float32" else 1e150
    for size in (1.0, largest):
        gradient = size * numbers(network(dtype).parameters.size, 3, dtype)
        norm = np.sqrt(np.sum((gradient / size).astype(float) ** 2)) * size
        clipped = (gradient * (0.5 / (norm + 1e-6))).astype(dtype)
        one, two = network(dtype), network(dtype)
        got = updates(one, rule(one, clip_norm=0.5, **options), [gradient])
        assert_close(got, updates(two, rule(two, **options), [clipped]).astype(float), "training")


@rules
def test_any_rule_continues_after_a_reload_with_the_same_bits(rule, options, isa, dtype):
    net = network(dtype)
    gradients = [numbers(net.parameters.size, k, dtype) for k in range(6)]
    optimizer = rule(net, clip_norm=1.0, **options)
    updates(net, optimizer, gradients[:3])
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    pair = pickle.loads(pickle.dumps((net, optimizer)))
    wanted = updates(net, optimizer, gradients[3:])
    assert_same_bits(updates(*pair, gradients[3:]), wanted)
    other = network(dtype)
    other.load_state_dict(saved[0])
    resumed = rule(other, clip_norm=1.0, **options | {"lr": 7.0})
    resumed.load_state_dict(saved[1])
    assert_same_bits(updates(other, resumed, gradients[3:]), wanted)
    assert resumed.lr == optimizer.lr


@rules
def test_a_state_that_does_not_fit_changes_nothing(rule, options):
    net = network("float32")
    optimizer = rule(net, **options)
    updates(net, optimizer, [1.0])
    before = optimizer.state_dict()
    wrong = [{"lr": -1.0}, {"steps": -1}, {"steps": 1.5}, {"clip_norm": 1.0}, {"weight_decay": 0.7}, {"extra": 1}]
    wrong += [{name: value[:-1]} for name, value in before.items() if isinstance(value, np.ndarray)]
    for change in wrong:
        with pytest.raises((ValueError, TypeError), match="state" if "extra" in change else next(iter(change))):
            optimizer.load_state_dict(before | {"lr": 0.5} | change)
        after = optimizer.state_dict()
        for name, value in before.items():
            if isinstance(value, np.ndarray):
                assert_same_bits(after[name], value)
            else:
                assert after[name] == value
    with pytest.raises(ValueError, match="state"):
        optimizer.load_state_dict({name: value for name, value in before.items() if name != "lr"})


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (fl.SGD, {"nesterov": True}),
        (fl.SGD, {"nesterov": 1}),
        (fl.RMSprop, {"alpha": 1.0}),
        (fl.RMSprop, {"eps": -1.0}),
        (fl.RMSprop, {"momentum": 1.0}),
        (fl.Adam, {"betas": (0.9, 1.0)}),
        (fl.Adam, {"betas": 0.9}),
        (fl.Adam, {"betas": (0.9, 0.9, 0.9)}),
        (fl.Adam, {"betas": ("x", 0.9)}),
        (fl.AdamW, {"eps": np.nan}),
        *[
            (rule, wrong)
            for rule in (fl.SGD, fl.RMSprop, fl.Adam, fl.AdamW)
            for wrong in (
                {"net": 3},
                {"lr": -1.0},
                {"lr": None},
                {"weight_decay": -0.1},
                {"weight_decay": None},
                {"clip_norm": 0.0},
                {"clip_norm": np.inf},
                {"clip_norm": "x"},
            )
        ],
    ],
    ids=str,
)
def test_options_that_no_rule_takes_are_named(rule, options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        rule(**{"net": fl.Linear(1, 1), "lr": 0.1} | options)


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.1}, {"momentum": 0.5, "nesterov": True}, {"clip_norm": 0.1}], ids=str
)
@pytest.mark.parametrize("rule", [fl.SGD, fl.RMSprop, fl.Adam, fl.AdamW])
def test_a_learner_applies_any_rule(rule, options, dtype):
    if rule is not fl.SGD:
        options = {name: options[name] for name in options if name not in ("nesterov", "momentum")}
    ones, nets = np.ones(1, dtype), [fl.Linear(1, 1, seed=0, dtype=dtype) for _ in range(2)]
    optimizer = rule(nets[1], lr=0.1, **options)
    learner = fl.OnlineLearner(nets[0], optimizer=rule(nets[0], lr=0.1, **options))
    for target in (3.0, -1.0, 0.5):
        learner.step(ones, np.full(1, target, dtype))
        nets[1].grad[:] = 2 * (nets[1](ones[None])[0] - np.asarray(target, dtype))  # x is 1: weight and bias alike
        optimizer.step()
        np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_a_gradient_that_is_not_finite_is_seen(dtype):
    for bad in (np.nan, np.inf):
        net = network(dtype)
        gradient = np.ones(net.parameters.size, dtype)
        gradient[3] = bad
        assert np.isnan(updates(net, fl.Adam(net, clip_norm=1.0), [gradient])[3])
