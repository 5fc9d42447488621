"""`fit`: its updates beside those of a loop over single sequences, its options, and errors before anything changes.

Checkpoints are in test_checkpoint.py.
"""

import functools
import math
import os
import pickle
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
from conftest import assert_same_bits, numbers

import fastlstm as fl
from fastlstm._data import Data
from fastlstm._objective import Loss

LENGTHS = (5, 2, 7, 4, 1, 7)
CLASS_WEIGHTS = np.array([1.0, 4.0, 0.5])


def network(outputs=3, dtype="float64", inputs=2, cell=fl.LSTM, **options):
    width = options.get("proj_size", 4) * (2 if options.get("bidirectional") else 1)
    end = "sigmoid" if outputs == 1 else None
    lstm = cell(inputs, 4, dtype=dtype, seed=0, **options)
    return fl.Sequential(lstm, fl.Linear(width, outputs, dtype=dtype, activation=end, seed=1))


def sequences(lengths=LENGTHS, dtype="float64", inputs=2):
    return [numbers((n, inputs), seed=k, dtype=dtype) for k, n in enumerate(lengths)]


def padded(arrays, batch_first, fill):
    """(N, T, ...) or (T, N, ...) with `fill` beyond the ends."""
    longest = max(map(len, arrays))
    whole = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, a in zip(whole, arrays, strict=True):
        row[: len(a)] = a
    return whole if batch_first else np.ascontiguousarray(whole.swapaxes(0, 1))


def squares(y, target):
    return float(((y - target) ** 2).mean()), 2 * (y - target) / y.size


def masked_squares(y, target, mask):
    error = np.where(mask[..., None], y - target, 0)
    count = mask.sum() * y.shape[-1]
    return float((error**2).sum() / count), 2 * error / count


def step_values(outputs):
    values = [numbers((n, outputs), seed=10 + k) for k, n in enumerate(LENGTHS)]
    values[2][3] = np.nan
    return values


def step_classes():
    r = np.random.default_rng(0)
    classes = [r.integers(0, 3, n) for n in LENGTHS]
    classes[0][2] = -1
    return classes


SIX_VALUES, SIX_CLASSES = numbers((6, 3), seed=5), np.array([0, 1, 2, 2, -1, 1])
CASES = {
    "mse": ("mse", step_values(3), {}),
    "sse": ("sse", step_values(3), {}),
    "bce": ("binary_cross_entropy", [np.abs(np.tanh(v)) for v in step_values(1)], {}),
    "bce, no last dimension": ("binary_cross_entropy", [np.abs(np.tanh(v[:, 0])) for v in step_values(1)], {}),
    "classes": ("cross_entropy", step_classes(), {}),
    "weighted": (functools.partial(fl.losses.cross_entropy, weight=CLASS_WEIGHTS), step_classes(), {}),
    "function": (fl.losses.mse, step_values(3), {}),
    "callable": (squares, [np.nan_to_num(v) for v in step_values(3)], {}),
    "callable, mask": (masked_squares, [np.nan_to_num(v) for v in step_values(3)], {}),
    "callable, classes": (lambda y, target: fl.losses.cross_entropy(y, target), step_classes(), {}),
    "last values": ("mse", SIX_VALUES, {}),
    "last classes": ("cross_entropy", SIX_CLASSES, {}),
    "mean values": ("mse", SIX_VALUES, {"readout": "mean"}),
    "mean classes": ("cross_entropy", SIX_CLASSES, {"readout": "mean"}),
    "last callable, classes": (lambda y, target: fl.losses.cross_entropy(y, target), SIX_CLASSES, {}),
    "ctc": ("ctc", [[1, 2], [1], [2, 2, 1], [], [2], [1, 1]], {}),
    "ctc, blank": (functools.partial(fl.losses.ctc, blank=2), [[1, 0], [1], [0, 0, 1], [], [0], [1, 1]], {}),
}
cases = pytest.mark.parametrize("case", CASES)


def outputs_of(case):
    return 1 if case.startswith("bce") else 3


def expected_gradient(net, xs, case, among=None):
    """(loss, gradient, weight) of sequences that are run one by one."""
    loss, ys, options = CASES[case]
    among = range(len(xs)) if among is None else among
    runs = [net.forward(np.ascontiguousarray(xs[b])) for b in among]
    if "ctc" in case:
        found = [
            (loss if callable(loss) else fl.losses.ctc)(y, ys[b]) for b, (y, _, _) in zip(among, runs, strict=True)
        ]
        value, weight = np.mean([v for v, _ in found]), len(runs)
        parts = [dy / len(runs) for _, dy in found]
    else:
        if isinstance(ys, list):
            read, target = [y for y, _, _ in runs], np.concatenate([ys[b] for b in among])
        elif options:
            read, target = [y.mean(0, keepdims=True) for y, _, _ in runs], ys[list(among)]
        else:
            read, target = [y[-1:] for y, _, _ in runs], ys[list(among)]
        rows = np.concatenate(read)
        target = target.reshape(rows.shape) if target.dtype.kind == "f" else target
        if case == "callable, mask":
            value, dy = loss(rows, target, np.ones(len(rows), bool))
        else:
            value, dy = (loss if callable(loss) else getattr(fl.losses, loss))(rows, target)
        parts = np.split(dy, np.cumsum([len(r) for r in read])[:-1])
        if not isinstance(ys, list):
            whole = [np.zeros_like(y) for y, _, _ in runs]
            for to, part in zip(whole, parts, strict=True):
                to[slice(None) if options else slice(-1, None)] = part / (len(to) if options else 1)
            parts = whole
        weight = None
    net.zero_grad()
    for (_, _, backward), part in zip(runs, parts, strict=True):
        backward(np.ascontiguousarray(part))
    return value, net.grad.copy(), weight


def arranged(form, xs, ys):
    """x, y and what else `fit` is given, of the same data in another form."""
    if form == "list":
        return xs, ys, {}
    batch_first = form == "batch_first"
    x = padded(xs, batch_first, np.nan)
    if isinstance(ys, list) and isinstance(ys[0], np.ndarray):
        ys = padded(ys, batch_first, -7 if ys[0].dtype.kind == "i" else np.inf)
    return x, ys, {"lengths": LENGTHS}


@cases
@pytest.mark.parametrize("form", ["list", "time_first", "batch_first"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_update_is_that_of_the_sequences_one_by_one(case, form, bidirectional):
    options = {"batch_first": form == "batch_first", "bidirectional": bidirectional}
    net, xs = network(outputs_of(case), **options), sequences()
    loss, ys, more = CASES[case]
    value, gradient, _ = expected_gradient(net, xs, case)
    before = net.parameters.copy()
    x, y, more_still = arranged(form, xs, ys)
    history = fl.fit(
        net, x, y, loss=loss, optimizer=fl.SGD(net, lr=0.5), epochs=1, batch_size=99, seed=0, **more, **more_still
    )
    np.testing.assert_allclose(net.parameters, before - 0.5 * gradient, rtol=1e-11, atol=1e-13)
    if loss == "sse":  # per step with a target
        value /= sum((~np.isnan(v)).any(1).sum() for v in ys)
    assert history.loss == [pytest.approx(value, rel=1e-11)]


@cases
def test_the_loss_of_an_epoch_does_not_depend_on_the_batches(case):
    loss, y, more = CASES[case]
    losses = []
    for size in (1, 2, 4, 6):
        net = network(outputs_of(case))
        history = fl.fit(
            net, sequences(), y, loss=loss, optimizer=fl.SGD(net, lr=0), epochs=2, batch_size=size, seed=size,
            validation=(sequences(), y), **more,
        )  # fmt: skip
        losses += history.loss + history.val_loss
        losses_too = history.accuracy + history.val_accuracy
        assert len(set(losses_too)) <= 1
        assert bool(losses_too) == ("class" in case or case == "weighted")
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)


@pytest.mark.parametrize("case", ["mse", "classes", "last classes", "last values", "callable"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "family", [{}, {"gate_recurrence": True}, {"num_layers": 2}, {"proj_size": 3}, {"cell": fl.GRU}, {"cell": fl.RNN}]
)
def test_truncated(case, batch_first, family):
    """Windows of 3 steps: one update each; a window's gradient is that of its lanes, from states that are constants."""
    xs, (loss, ys, _) = sequences(), CASES[case]
    net = network(**family, batch_first=batch_first)
    twin = network(**family)
    fl.fit(net, xs, ys, loss=loss, optimizer=fl.SGD(net, lr=0.5), epochs=1, batch_size=6, truncate=3, seed=0)
    states = [None] * 6
    for begin in (0, 3, 6):
        alive = [b for b in range(6) if LENGTHS[b] > begin]
        runs = {b: twin.forward(np.ascontiguousarray(xs[b][begin : begin + 3]), states[b]) for b in alive}
        states = [runs[b][1] if b in runs else None for b in range(6)]
        if isinstance(ys, list):
            target = np.concatenate([ys[b][begin : begin + 3] for b in alive])
        else:
            none = -1 if ys.dtype.kind == "i" else np.full(3, np.nan)
            ends = [begin + 3 >= LENGTHS[b] for b in alive]
            target = np.array([ys[b] if end else none for b, end in zip(alive, ends, strict=True)])
        rows = np.concatenate([runs[b][0] if isinstance(ys, list) else runs[b][0][-1:] for b in alive])
        if not ((target >= 0) if target.ndim == 1 else ~np.isnan(target)).any():
            continue
        _, dy = (loss if callable(loss) else getattr(fl.losses, loss))(rows, target)
        twin.zero_grad()
        at = 0
        for b in alive:
            part, whole = runs[b][0], np.zeros_like(runs[b][0])
            count = len(part) if isinstance(ys, list) else 1
            whole[-count:] = dy[at : at + count]
            at += count
            runs[b][2](whole)
        fl.SGD(twin, lr=0.5).step()
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-10, atol=1e-12)


def test_forms_of_the_same_data_give_the_same_bits():
    results = []
    for form in ("list", "time_first", "batch_first", "objects"):
        net = network(dtype="float32", batch_first=form == "batch_first")
        xs, ys = sequences(dtype="float32"), step_classes()
        if form == "objects":
            x, y = np.empty(6, object), np.empty(6, object)
            x[:], y[:] = xs, ys
            more = {}
        else:
            x, y, more = arranged(form, xs, ys)
        fl.fit(net, x, y, loss="cross_entropy", optimizer=fl.Adam(net), epochs=3, batch_size=2, seed=3, **more)
        results.append(net.parameters.copy())
    for result in results[1:]:
        assert_same_bits(result, results[0])


def trained(seed=0, threads=1, epochs=3, **options):
    before = fl.get_num_threads()
    fl.set_num_threads(threads)
    try:
        net = network(dtype="float32")
        arguments = {"loss": "cross_entropy", "optimizer": fl.Adam(net, lr=0.01), "batch_size": 2, "epochs": epochs}
        history = fl.fit(net, sequences(dtype="float32"), step_classes(), seed=seed, **arguments | options)
    finally:
        fl.set_num_threads(before)
    return net.parameters.copy(), history


def test_bits_depend_on_the_seed_and_not_on_threads():
    first, history = trained()
    for threads in (2, 3):
        again, more = trained(threads=threads)
        assert_same_bits(again, first)
        assert more.loss == history.loss
    assert not np.array_equal(trained(seed=1)[0], first)
    assert not np.array_equal(trained(seed=None)[0], trained(seed=None)[0])
    generator = np.random.default_rng(5)
    one, two = trained(seed=generator)[0], trained(seed=generator)[0]
    assert not np.array_equal(one, two)
    assert_same_bits(trained(seed=np.random.default_rng(5))[0], one)


@pytest.mark.parametrize("size", [1, 7, 32, 500])
def test_batches(size):
    r = np.random.default_rng(0)
    lengths = r.integers(1, 200, 300)
    net = fl.Linear(1, 1, seed=0)
    data = Data(net, [np.zeros((n, 1), np.float32) for n in lengths], np.zeros((300, 1)), None, Loss("mse"))
    batches = data.sequences.batches(np.arange(300), size, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(300))
    assert sorted(map(len, batches))[1:] == [min(size, 300)] * (len(batches) - 1)
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)
    if size < 300:
        means = [lengths[batch].mean() for batch in batches]
        assert means != sorted(means) and means != sorted(means, reverse=True)
    if size == 7:  # padding
        assert sum(len(b) * lengths[b].max() for b in batches) < 1.1 * lengths.sum()


def test_it_learns():
    r = np.random.default_rng(0)
    x = [r.normal(size=(n, 1)).astype(np.float32) for n in r.integers(5, 15, 200)]
    y = np.array([int(series.sum() > 0) for series in x])
    net = fl.Sequential(fl.LSTM(1, 16, seed=0), fl.Linear(16, 2, seed=1))
    history = fl.fit(net, x, y, loss="cross_entropy", optimizer=fl.Adam(net, lr=0.01), epochs=15, batch_size=10, seed=0)
    assert history.accuracy[-1] > 0.9 > 0.75 > history.accuracy[0]
    right = [int(out[-1].argmax()) == label for out, label in zip(net(x)[0], y, strict=True)]
    assert np.mean(right) > 0.9


def test_accuracy_is_that_of_the_calls():
    net, xs, ys = network(), sequences(), step_classes()
    history = fl.fit(
        net, xs, ys, loss="cross_entropy", optimizer=fl.SGD(net, lr=0.1), epochs=2, batch_size=3, seed=0,
        validation=(xs, ys),
    )  # fmt: skip
    out = np.concatenate(net(xs)[0])
    target = np.concatenate(ys)
    assert history.val_accuracy[-1] == pytest.approx((out.argmax(-1) == target)[target >= 0].mean())
    assert history.val_loss[-1] == pytest.approx(fl.losses.cross_entropy(out, target)[0], rel=1e-12)


def test_a_share_for_validation_is_not_learned():
    """Of two sequences, one is learned: the result is that of its own training."""
    for seed in range(4):
        xs, ys = sequences((4, 4)), [numbers((4, 3), seed=k) for k in range(2)]
        results = {}
        first, second = (xs[:1], ys[:1]), (xs[1:], ys[1:])
        choices = {"share": (xs, ys, 0.5), "first": (*first, second), "second": (*second, first)}
        for name, (x, y, validation) in choices.items():
            net = network()
            h = fl.fit(
                net,
                x,
                y,
                loss="mse",
                optimizer=fl.SGD(net, lr=0.1),
                epochs=2,
                batch_size=2,
                seed=seed,
                validation=validation,
            )
            results[name] = (net.parameters.tobytes(), h.loss, h.val_loss)
        assert results["share"] in (results["first"], results["second"])


def test_padded_validation_with_lengths():
    net, xs, ys = network(batch_first=True), sequences(), step_values(3)
    x, y, more = arranged("batch_first", xs, ys)
    h = fl.fit(net, xs, ys, loss="mse", optimizer=fl.SGD(net, lr=0), epochs=1, batch_size=2, validation=(x, y, LENGTHS))
    assert h.val_loss[0] == pytest.approx(h.loss[0])


def test_one_sequence():
    x, y = numbers((50, 2), dtype="float32"), numbers((50, 3), seed=1)
    for target in (y, y[-1], y[-1:]):
        net = network(dtype="float32")
        h = fl.fit(net, x, target, loss="mse", optimizer=fl.Adam(net), epochs=2, batch_size=8)
        assert h.loss[1] < h.loss[0]
    net = network(dtype="float32")
    fl.fit(net, x, np.ones(50, int), loss="cross_entropy", optimizer=fl.Adam(net), epochs=1, batch_size=1, truncate=7)
    fl.fit(net, x, [1, 2], loss="ctc", optimizer=fl.Adam(net), epochs=1, batch_size=1)
    fl.fit(net, x, 2, loss="cross_entropy", optimizer=fl.Adam(net), epochs=1, batch_size=1)


def test_a_callable_with_integers_may_need_to_be_told():
    xs = sequences((3, 3))
    y = np.array([[0, 1, 2], [2, 1, 0]])
    net = network()
    arguments = {"optimizer": fl.SGD(net, lr=0.1), "epochs": 1, "batch_size": 2}
    with pytest.raises(ValueError, match="^y may be classes or values: say targets="):
        fl.fit(net, xs, y, loss=lambda y, t: fl.losses.mse(y, t), **arguments)
    seen = []

    def loss(y, target):
        seen.append(target.shape)
        return 0.0, np.zeros_like(y)

    fl.fit(net, xs, y, loss=loss, targets="step", **arguments)
    fl.fit(net, xs, y, loss=loss, targets="sequence", **arguments)
    assert seen == [(6,), (2, 3)]


def test_schedules():
    rates = trained(schedule=fl.schedules.Exponential(0.1, 0.5))[1].lr
    assert rates == [0.1, 0.05, 0.025]
    assert trained(schedule=lambda epoch: 0.1 / (epoch + 1))[1].lr == [0.1, 0.05, 0.1 / 3]
    plateau = fl.schedules.Plateau(1e-9, factor=0.5, patience=1)
    assert trained(schedule=plateau, epochs=6)[1].lr[-1] < 1e-9
    assert plateau.lr == 1e-9  # fit works on a copy
    seen = []
    history = trained(schedule=lambda epoch, loss=None: seen.append(loss) or 0.1, validation=0.4)[1]
    assert seen == [None, *history.val_loss[:-1]]
    assert trained()[1].lr == [0.01] * 3


def test_callbacks():
    calls = []

    def two_epochs(history):
        assert isinstance(history, fl.History) and isinstance(history.net, fl.Sequential)
        calls.append(len(history))
        return len(history) == 2

    class Watcher:
        def __call__(self, history):
            calls.append("watched")

        def finish(self, history):
            calls.append("end")

    history = trained(epochs=9, callbacks=[two_epochs, Watcher()])[1]
    assert len(history) == 2
    assert calls == [1, "watched", 2, "watched", "end"]


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "loss"])
@pytest.mark.parametrize("epochs", [4, 30])
def test_early_stopping(monitor, epochs):
    kept = []
    stop = fl.EarlyStopping(patience=3, monitor=monitor)
    for _ in range(2):  # it can be used again
        kept.clear()
        keep = lambda history: kept.append(history.net.parameters.copy())
        parameters, history = trained(epochs=epochs, validation=0.5, callbacks=[keep, stop])
        values = np.array(getattr(history, monitor))
        best = int(np.argmin(values) if "loss" in monitor else np.argmax(values))
        assert stop.best_epoch == best and stop.best == values[best]
        assert_same_bits(parameters, kept[best])
        assert len(history) == min(epochs, best + 4)
    assert epochs == 4 or len(history) < 30 or monitor == "loss"


def test_min_delta():
    assert len(trained(epochs=9, callbacks=[fl.EarlyStopping(2, min_delta=100.0, monitor="loss")])[1]) == 3


def test_history():
    history = trained()[1]
    assert len(history) == 3 and history.val_loss == [] and len(history.seconds) == len(history.accuracy) == 3
    assert all(s > 0 for s in history.seconds)
    assert "3 epochs" in repr(history) and "loss=" in repr(history)
    copy = pickle.loads(pickle.dumps(history))
    assert copy.loss == history.loss and np.array_equal(copy.net.parameters, history.net.parameters)


def test_plot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = trained(validation=0.5)[1].plot()
    assert [line.get_label() for line in ax.get_lines()] == ["loss", "val_loss"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "val_loss", "accuracy", "val_accuracy"]
    assert trained()[1].plot(ax) is ax


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install fastlstm\[plot\]"):
        trained()[1].plot()


@pytest.mark.parametrize("installed", [True, False])
def test_progress(installed, monkeypatch, capsys):
    if installed:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained()
        shown = capsys.readouterr()
        assert shown.out == "" and ("epoch 3/3" in shown.err and "9/9" in shown.err) == installed
        trained(progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_window_without_targets_changes_nothing():
    net, before = network(), network().parameters
    x, y = numbers((1, 20, 2)), np.full((1, 20, 3), np.nan)
    y[0, 3] = 1
    optimizer = fl.SGD(net, lr=0.1, momentum=0.9)
    fl.fit(net, list(x), list(y), loss="mse", optimizer=optimizer, epochs=1, batch_size=1, truncate=5)
    assert optimizer.state_dict()["steps"] == 1 and not np.array_equal(net.parameters, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops(bad):
    net, kept = network(), []

    def loss(y, target):
        kept.append(net.parameters.copy())
        value, dy = fl.losses.mse(y, target)
        return (bad if len(kept) == 8 else value), dy

    optimizer = fl.Adam(net)
    with pytest.raises(
        FloatingPointError, match=rf"^the loss is {bad} in epoch 3, step 2; the network has the weights before it$"
    ):
        fl.fit(net, sequences(), SIX_VALUES, loss=loss, optimizer=optimizer, epochs=5, batch_size=2, seed=0)
    assert_same_bits(net.parameters.copy(), kept[-1])
    assert optimizer.state_dict()["steps"] == 7


def test_a_gradient_that_is_not_finite_stops():
    net = network()
    before = net.parameters.copy()
    with pytest.raises(FloatingPointError, match="^the gradient is not finite in epoch 1, step 1"):
        fl.fit(net, sequences(), SIX_VALUES, loss=lambda y, t: (1.0, np.full_like(y, np.inf)),
               optimizer=fl.SGD(net, lr=0.1), epochs=5, batch_size=2)  # fmt: skip
    assert_same_bits(net.parameters.copy(), before)


def test_a_rate_that_is_too_large_stops():
    net = fl.Linear(2, 3, dtype="float64", seed=0)
    with pytest.raises(FloatingPointError, match=r"in epoch \d+, step \d+"):
        fl.fit(net, sequences(), step_values(3), loss="mse", optimizer=fl.SGD(net, lr=1e9), epochs=99, batch_size=2)
    assert np.isfinite(net.parameters).all()


# ---- Ctrl-C ----


def test_ctrl_c_leaves_a_whole_update():
    """Interrupted at many moments: weights, steps and velocity are those after a whole number of updates."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("needs the main thread")
    x, y = numbers((8, 6, 2), dtype="float32"), numbers((8, 3), seed=1)

    def run(after=None):
        net = network(dtype="float32", batch_first=True)
        optimizer = fl.SGD(net, lr=0.01, momentum=0.9, decay=0.999)
        kept = [net.parameters.tobytes()]

        step = optimizer.step

        def spying():
            step()
            kept.append((net.parameters.tobytes(), optimizer.lr, optimizer.state_dict()["velocity"].tobytes()))

        optimizer.step = spying if after is None else step
        try:
            if after is not None:
                threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
            fl.fit(net, x, y, loss="mse", optimizer=optimizer, epochs=10**9 if after else 400, batch_size=4, seed=0)
        except KeyboardInterrupt:
            pass
        return net, optimizer, kept

    reference = run()[2]
    handler = signal.getsignal(signal.SIGINT)
    tried = 0
    for k in range(12):
        net, optimizer, _ = run(0.005 + 0.002 * k)
        steps = optimizer.state_dict()["steps"]
        if 0 < steps < len(reference):
            tried += 1
            state = (net.parameters.tobytes(), optimizer.lr, optimizer.state_dict()["velocity"].tobytes())
            assert state == reference[steps]
    assert tried
    assert signal.getsignal(signal.SIGINT) is handler


def test_other_threads_can_fit():
    results = []
    thread = threading.Thread(target=lambda: results.append(trained()[0]))
    thread.start()
    thread.join()
    assert_same_bits(results[0], trained()[0])


def test_joblib():
    joblib = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(fitted)(seed) for seed in (0, 1))
    for seed, parameters in enumerate(found):
        assert_same_bits(parameters, fitted(seed))


def fitted(seed):
    net = fl.Sequential(fl.LSTM(2, 4, seed=0), fl.Linear(4, 3, seed=1))
    x = np.random.default_rng(0).normal(size=(5, 6, 2)).astype(np.float32)
    fl.fit(net, x, np.arange(6) % 3, loss="cross_entropy", optimizer=fl.Adam(net), epochs=2, batch_size=4, seed=seed)
    return net.parameters.copy()


def test_layers_and_optimizers_travel_together():
    net = network()
    net, optimizer = pickle.loads(pickle.dumps((net, fl.Adam(net))))
    fl.fit(net, sequences(), SIX_VALUES, loss="mse", optimizer=optimizer, epochs=1, batch_size=4)


# ---- errors ----


def xs_with(b, value):
    xs = sequences(dtype="float32")
    xs[b] = value
    return xs


def classes_with(value):
    classes = step_classes()
    classes[3][1] = value
    return classes


F = np.float32
ERRORS = [
    # changed arguments, exception, message
    ({"net": "lstm"}, TypeError, "net must be a fastlstm layer, not str"),
    ({"optimizer": "adam"}, TypeError, "optimizer must be one of fastlstm"),
    ({"optimizer": fl.Adam(network())}, ValueError, "optimizer was made for another network than net"),
    ({"loss": "hinge"}, ValueError, "loss is 'hinge' and must be one of 'mse'"),
    ({"loss": 3}, TypeError, "loss must be a name or a callable, not 3"),
    ({"epochs": 0}, ValueError, "epochs is 0"),
    ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
    ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ({"gradient": "rtrl"}, ValueError, "gradient is 'rtrl' and must be 'bptt'; fastlstm.OnlineLearner"),
    ({"truncate": 0}, ValueError, "truncate is 0"),
    ({"recompute": 0}, ValueError, "recompute is 0"),
    ({"recompute": True, "net": network(dtype="float32", bidirectional=True)}, ValueError, "recompute must be None"),
    ({"truncate": 2, "y": SIX_CLASSES, "readout": "mean"}, ValueError, "truncate must be None: readout is 'mean'"),
    ({"truncate": 2, "loss": "ctc", "y": [[1]] * 6}, ValueError, "truncate must be None: loss is 'ctc'"),
    ({"truncate": 2, "net": network(dtype="float32", bidirectional=True)}, ValueError,
     "truncate must be None: the backward"),
    ({"readout": "first"}, ValueError, "readout is 'first'"),
    ({"targets": "each"}, ValueError, "targets is 'each'"),
    ({"targets": "sequence"}, ValueError, r"y has in entry 0, for 5 steps, the shape \(5,\); all must be \(\)"),
    ({"targets": "step", "loss": "ctc", "y": [[1]] * 6}, ValueError, "targets is 'step' and must be None"),
    ({"progress": 1}, TypeError, "progress must be True or False"),
    ({"seed": -1}, ValueError, "seed is -1"),
    ({"seed": 0.5}, TypeError, "seed must be an integer"),
    ({"schedule": 0.1}, TypeError, "schedule must be a callable"),
    ({"schedule": lambda epoch: -1.0}, ValueError, "lr is -1.0"),
    ({"callbacks": print}, TypeError, "callbacks must be a list or tuple"),
    ({"callbacks": [print, 3]}, TypeError, r"callbacks\[1\] must be a callable, not 3"),
    ({"callbacks": [fl.EarlyStopping()]}, ValueError, r"callbacks\[0\] monitors 'val_loss', which needs validation"),
    ({"callbacks": [fl.EarlyStopping(monitor="accuracy")], "loss": "mse", "y": step_values(3)}, ValueError,
     r"callbacks\[0\] monitors 'accuracy', but the targets are not classes"),
    ({"checkpoint": 3}, TypeError, "checkpoint must be a path, not 3"),
    ({"checkpoint": "no/such/folder/file"}, ValueError, "checkpoint is .* the folder does not exist"),
    ({"checkpoint": "/"}, ValueError, "checkpoint is '/' and must be the path of a file"),
    ({"checkpoint_every": -1}, ValueError, "checkpoint_every is -1"),
    ({"lengths": LENGTHS}, ValueError, "lengths must be None when x is a list"),
    ({"x": []}, ValueError, "x has no sequences"),
    ({"x": xs_with(1, np.zeros((0, 2), F))}, ValueError, r"x\[1\] has shape \(0, 2\)"),
    ({"x": xs_with(1, np.zeros((2, 3), F))}, ValueError, r"x\[1\] has shape \(2, 3\) and must have \(1 or more, 2\)"),
    ({"x": xs_with(2, np.zeros((7, 2)))}, TypeError, r"x\[2\] is float64 and must be float32"),
    ({"x": xs_with(2, np.array([[0, 0], [0, np.nan]], F))}, ValueError,
     "x has NaN or infinity at step 1 of sequence 2"),
    ({"x": np.zeros((4, 3, 2), F), "y": np.zeros((4, 2), int)}, ValueError,
     r"y has shape \(4, 2\) and must have \(4, 3\) or \(3,\)"),
    ({"x": np.zeros((4, 3, 2), F), "y": np.zeros((3, 4), int)}, ValueError, r"y has shape \(3, 4\)"),
    ({"x": np.zeros((4, 3, 2), F), "y": np.zeros((4, 3), int), "lengths": [1, 2]}, ValueError,
     r"lengths has shape \(2,\)"),
    ({"x": np.zeros((4, 3, 2), F), "y": np.zeros((4, 3), int), "lengths": [1, 2, 5]}, ValueError,
     "lengths are from 1 to 5"),
    ({"y": step_classes()[:5]}, ValueError, "y has 5 entries and must have 6"),
    ({"y": 3}, ValueError, "y has the value 3 and must have 6"),
    ({"y": xs_with(3, np.zeros(3, int))}, TypeError, "y must be integers"),
    ({"y": [c if k != 3 else np.zeros(3, int) for k, c in enumerate(step_classes())]}, ValueError,
     r"y has in entry 3, for 4 steps, the shape \(3,\)"),
    ({"y": classes_with(3)}, ValueError,
     "y must be classes from 0 to 2, or -1 for none; it is 3 at step 1 of sequence 3"),
    ({"y": classes_with(-2)}, ValueError, "y must be classes .* it is -2 at step 1 of sequence 3"),
    ({"y": [0, 1, 2, 5, 0, 0]}, ValueError, "y must be classes .* it is 5 for sequence 3"),
    ({"y": [-1] * 6}, ValueError, "y has no target: all are -1"),
    ({"y": ["a"] * 6}, TypeError, r"y\[0\] must be an array of real numbers"),
    ({"loss": "mse", "y": np.full((6, 3), np.inf)}, ValueError, "y must be finite"),
    ({"loss": "mse", "y": np.full((6, 3), 1e300)}, ValueError, "y must be finite"),
    ({"loss": "mse", "y": np.full((6, 3), np.nan)}, ValueError, "y has no target: all are NaN"),
    ({"loss": "mse", "y": np.zeros((6, 2))}, ValueError, r"y has in entry 0, for 5 steps, the shape \(2,\)"),
    ({"loss": "binary_cross_entropy", "y": np.full((6, 3), 1.5)}, ValueError, "y must be from 0 to 1"),
    ({"loss": "ctc", "y": [[1]] * 5}, ValueError, "y has 5 sequences and must have 6"),
    ({"loss": "ctc", "y": [[1, 2, 1, 1, 2]] * 6}, ValueError, r"y\[0\] needs 6 steps, for 5 labels and 1 repetitions"),
    ({"loss": "ctc", "y": [[3]] * 6}, ValueError, r"y\[0\] has the label 3"),
    ({"loss": "ctc", "y": [1] * 6}, ValueError, r"y\[0\] has shape \(\)"),
    ({"loss": "ctc", "y": 1}, TypeError, "y must be a list of sequences"),
    ({"validation": 1.5}, ValueError, "validation is 1.5"),
    ({"validation": 2}, TypeError, "validation must be"),
    ({"validation": (sequences(dtype="float32"),)}, TypeError, "validation must be"),
    ({"validation": (sequences(dtype="float32"), SIX_CLASSES)}, ValueError,
     r"validation\[1\] has targets of another kind than y"),
    ({"validation": (sequences(dtype="float32"), classes_with(9))}, ValueError, r"validation\[1\] must be classes"),
    ({"validation": (sequences(), step_classes())}, TypeError, r"validation\[0\]\[0\] is float64"),
    ({"validation": 0.5, "x": sequences((4,), "float32"), "y": [[0] * 4]}, ValueError,
     "validation is 0.5, a share of one"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "error", "message"), ERRORS, ids=[str(k) for k in range(len(ERRORS))])
def test_errors_come_before_anything_changes(changed, error, message, tmp_path):
    net = changed.get("net", network(dtype="float32"))
    base = fl.Adam(net if isinstance(net, fl.Layer) else network(dtype="float32"))
    generator = np.random.default_rng(0)
    arguments = {
        "net": net, "x": sequences(dtype="float32"), "y": step_classes(), "loss": "cross_entropy", "optimizer": base,
        "epochs": 1, "batch_size": 2, "seed": generator, "checkpoint": tmp_path / "checkpoint",
    } | changed  # fmt: skip
    before = base.net.parameters.copy()
    with pytest.raises(error, match="^" + message) as caught:
        fl.fit(**arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    assert_same_bits(base.net.parameters.copy(), before)
    assert base.state_dict()["steps"] == 0 and base.lr == 0.001
    assert not list(tmp_path.iterdir())
    if "schedule" not in changed:
        assert generator.bit_generator.state == np.random.default_rng(0).bit_generator.state


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda y: 3.0, ValueError, "loss must return a pair"),
        (lambda y: (1.0, y[:1]), ValueError, "dy of the loss has shape"),
        (lambda y: (1.0, y.astype("float32")), TypeError, "dy of the loss is float32"),
    ],
)
def test_what_a_callable_returns_is_checked(answer, error, message):
    net = network()
    with pytest.raises(error, match=message):
        fl.fit(
            net, sequences(), SIX_VALUES, loss=lambda y, t: answer(y), optimizer=fl.Adam(net), epochs=1, batch_size=2
        )


def test_recompute(tmp_path):
    """The same bits as without, where the sums over all rows have the same blocks: 16 lanes, 4 steps."""
    x, y = numbers((64, 19, 2), dtype="float32"), np.arange(64) % 3
    results = []
    for recompute in (None, 4, True):
        net = network(dtype="float32")
        history = fl.fit(net, list(x), y, loss="cross_entropy", optimizer=fl.Adam(net, 0.01), epochs=2, batch_size=16,
                         seed=0, recompute=recompute)  # fmt: skip
        results.append((net.parameters.copy(), history.loss))
    assert results[0][1] == results[1][1] == results[2][1]
    assert_same_bits(results[1][0], results[0][0])
    assert_same_bits(results[2][0], results[0][0])
