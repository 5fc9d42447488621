"""Checkpoints of `fit`: a run that was ended in any way goes on with the same bits; files are whole.

Run as a program, this file kills trainings at random moments: ``python tests/test_checkpoint.py [kills]``.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import assert_same_bits, numbers

import fastlstm as fl
from fastlstm import _files

RULES = {
    "SGD": lambda net: fl.SGD(net, lr=0.05, momentum=0.9, decay=0.999),
    "RMSprop": lambda net: fl.RMSprop(net, lr=0.001, momentum=0.5),
    "Adam": lambda net: fl.Adam(net, lr=0.01, clip_norm=1.0),
    "AdamW": lambda net: fl.AdamW(net, lr=0.01),
}


class Stop(Exception):
    pass


class Counter:
    """A callback with a memory."""

    def __init__(self):
        self.seen = np.zeros(2)

    def __call__(self, history):
        self.seen = self.seen + [1, history.loss[-1]]

    def state_dict(self):
        return {"seen": self.seen, "note": ["a", 1.5]}

    def load_state_dict(self, state):
        assert state["note"] == ["a", 1.5]
        self.seen = state["seen"]


def run(path, rule="Adam", more=None, seed=0, **options):
    """A training with something of everything; (network, optimizer, history, counter)."""
    net = fl.Sequential(fl.LSTM(2, 5, num_layers=2, seed=None), fl.Linear(5, 3, seed=None))
    if seed is not None:
        state = {name: numbers(a.shape, seed=3, dtype="float32") / 4 for name, a in net.state_dict().items()}
        net.load_state_dict(state)
    optimizer, counter = RULES[rule](net), Counter()
    xs = [numbers((n, 2), seed=n, dtype="float32") for n in range(1, 15)]
    ys = [np.arange(len(x)) % 3 for x in xs]
    arguments = {
        "loss": "cross_entropy", "optimizer": optimizer, "epochs": 5, "batch_size": 3, "truncate": 4, "validation": 0.3,
        "callbacks": [counter, fl.EarlyStopping(patience=4), *(more or [])], "seed": seed, "checkpoint": path,
        "schedule": fl.schedules.Plateau(0.01, 0.5, patience=1), "checkpoint_every": 0.0,
    } | options  # fmt: skip
    history = fl.fit(net, xs, ys, **arguments)
    return net, optimizer, history, counter


def same(one, other):
    for a, b in zip(one[:2], other[:2], strict=True):
        assert_same_bits({k: v for k, v in a.state_dict().items() if isinstance(v, np.ndarray)},
                         {k: v for k, v in b.state_dict().items() if isinstance(v, np.ndarray)})  # fmt: skip
    assert one[1].lr == other[1].lr and one[1].state_dict()["steps"] == other[1].state_dict()["steps"]
    for name in ("loss", "val_loss", "accuracy", "val_accuracy", "lr"):
        assert getattr(one[2], name) == getattr(other[2], name)
    assert len(one[2].seconds) == len(other[2].seconds)
    assert_same_bits(one[3].seen, other[3].seen)


@pytest.mark.parametrize("rule", RULES)
def test_ended_after_any_update(rule, tmp_path, monkeypatch):
    """A copy of the checkpoint after each write; a new run goes on from each of them to the same end."""
    copies, write = [], _files.write

    def writing(path, arrays, metadata):
        write(path, arrays, metadata)
        with open(path, "rb") as file:
            copies.append(file.read())

    monkeypatch.setattr(_files, "write", writing)
    whole = run(tmp_path / "whole", rule)
    monkeypatch.undo()
    same(run(None, rule), whole)  # a checkpoint changes nothing
    assert len(copies) > 40
    for k in range(0, len(copies), 2 if rule == "Adam" else 9):
        path = tmp_path / "again"
        path.write_bytes(copies[k])
        same(run(path, rule, checkpoint_every=1000.0), whole)


def test_seed_and_weights_that_nobody_knows_are_kept(tmp_path):
    path = tmp_path / "checkpoint"
    calls = []

    def leave(history):
        calls.append(len(history))
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        run(path, seed=None, more=[leave])
    content = path.read_bytes()
    first = run(path, seed=None, more=[leave])
    path.write_bytes(content)
    second = run(path, seed=None, more=[leave])
    same(first, second)


def test_a_finished_run_is_not_run_again_but_may_go_on(tmp_path):
    path = tmp_path / "checkpoint"
    whole = run(path, callbacks=[counter := Counter()], epochs=6)
    assert counter.seen[0] == 6
    again = run(path, callbacks=[counter := Counter()], epochs=6, more=None)
    assert counter.seen[0] == 6 and again[2].loss == whole[2].loss
    assert_same_bits(again[0].parameters.copy(), whole[0].parameters.copy())
    path.unlink()
    run(path, callbacks=[Counter()], epochs=2)
    longer = run(path, callbacks=[Counter()], epochs=6)
    assert_same_bits(longer[0].parameters.copy(), whole[0].parameters.copy())
    assert longer[2].loss == whole[2].loss


def test_stopped_early_stays_stopped_with_the_best_weights(tmp_path):
    path = tmp_path / "checkpoint"
    stop = fl.EarlyStopping(patience=1, min_delta=100.0)
    whole = run(path, callbacks=[stop], epochs=50)
    assert len(whole[2]) == 2 and stop.best_epoch == 0
    again = run(path, callbacks=[again_stop := fl.EarlyStopping(patience=1, min_delta=100.0)], epochs=50)
    assert_same_bits(again[0].parameters.copy(), whole[0].parameters.copy())
    assert (again_stop.best, again_stop.best_epoch) == (stop.best, 0)


def test_randomness_of_a_network_is_kept(tmp_path):
    """Where the draws of dropout stand after the last whole update, not after a forward call that came to nothing."""

    class Leaving(fl.LSTM):
        leave = 0

        def forward(self, *arguments, **options):
            result = super().forward(*arguments, **options)
            self.leave -= 1
            if self.leave == 0:
                raise KeyboardInterrupt
            return result

    def go(path, seed=0, leave=0):
        net = Leaving(2, 3, num_layers=2, dropout=0.5, seed=seed)
        net.load_state_dict({name: np.full_like(a, 0.1) for name, a in net.state_dict().items()})
        net.leave = leave
        x = numbers((6, 4, 2), dtype="float32")
        fl.fit(net, x, numbers((4, 3)), loss="mse", optimizer=fl.Adam(net), epochs=4, batch_size=3, seed=0,
               checkpoint=path)  # fmt: skip
        return net.parameters.copy()

    path = tmp_path / "checkpoint"
    whole = go(None)
    assert not np.array_equal(go(None, seed=1), whole)
    with pytest.raises(KeyboardInterrupt):
        go(path, leave=4)
    assert_same_bits(go(path, seed=1), whole)


def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    path, whole = tmp_path / "checkpoint", run(None)
    r, done = random.Random(0), None
    before = signal.signal(signal.SIGALRM, lambda *event: os.kill(os.getpid(), signal.SIGINT))
    for _ in range(60):
        try:  # around all that an alarm may hit
            signal.setitimer(signal.ITIMER_REAL, r.uniform(0.001, 0.02))
            done = run(path, checkpoint_every=1000)
            signal.setitimer(signal.ITIMER_REAL, 0)
            break
        except KeyboardInterrupt:
            continue
    signal.signal(signal.SIGALRM, before)
    if done is None:
        done = run(path)
    same(done, whole)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_callback_that_interrupts_is_called_again(tmp_path):
    path, left = tmp_path / "checkpoint", []

    def leave(history):
        if not left:
            left.append(len(history))
            raise KeyboardInterrupt

    whole = run(None, more=[lambda history: None])
    with pytest.raises(KeyboardInterrupt):
        run(path, more=[leave])
    resumed = run(path, more=[leave])
    same(resumed, whole)


# ---- kill -9 ----


def killed(folder, kills, seed=0):
    """Kill a training at random moments, start it again with other threads until it ends; how often it was killed."""
    r = random.Random(seed)
    command = [sys.executable, __file__, "train", os.path.join(folder, "checkpoint"), os.path.join(folder, "result")]
    start = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"FASTLSTM_NUM_THREADS": "1"}, stdout=subprocess.PIPE)
    process.stdout.readline()
    begun = time.monotonic()
    assert process.wait() == 0
    most = time.monotonic() - begun
    with open(os.path.join(folder, "result"), "rb") as file:
        undisturbed = file.read()
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    done = 0
    for k in range(50 * kills):
        environment = os.environ | {"FASTLSTM_NUM_THREADS": str(1 + k % 3)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        process.stdout.readline()  # it trains
        if done < kills:
            time.sleep(r.uniform(0, most / 3))
            done += process.poll() is None
            process.kill()
            process.wait()
        elif process.wait() == 0:
            break
        process.stdout.close()
        if os.path.exists(os.path.join(folder, "result")):
            if done < kills:  # again from the beginning
                with open(os.path.join(folder, "result"), "rb") as file:
                    assert file.read() == undisturbed
                for name in os.listdir(folder):
                    os.unlink(os.path.join(folder, name))
    with open(os.path.join(folder, "result"), "rb") as file:
        assert file.read() == undisturbed
    assert sorted(os.listdir(folder)) == ["checkpoint", "result"]
    return done, time.monotonic() - start


def train(checkpoint, result):
    import fastlstm._fit

    go = fastlstm._fit._Run.go
    fastlstm._fit._Run.go = lambda self: print("begins", flush=True) or go(self)
    net, _, history, counter = run(checkpoint, epochs=8)
    content = net.parameters.tobytes() + repr((history.loss, history.val_loss, history.lr, counter.seen)).encode()
    with open(result + ".new", "wb") as file:
        file.write(content)
    os.replace(result + ".new", result)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_at_random_moments(tmp_path):
    assert killed(tmp_path, 5)[0] == 5


# ---- files ----


def damaged(content):
    yield b""
    yield content[:7]
    for k in range(0, len(content), max(len(content) // 40, 1)):
        yield content[:k]
        yield content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :]
    yield content + b"\0"
    yield b"PK\x03\x04" + content
    yield (2**63).to_bytes(8, "little") + content[8:]
    for header in (b"[]", b"{}", b"3", b"null", b'{"a": 3}', b'{"__metadata__": 3}', b'{"__metadata__": {"format": 3}}',
                   b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', b"[" * 100_000,
                   b'{"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}}'):  # fmt: skip
        yield len(header).to_bytes(8, "little") + header + b"\0" * 4


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint"
    run(path, epochs=2)
    good = path.read_bytes()
    for content in damaged(good):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="checkpoint") as caught:
            run(path, epochs=2)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    path.write_bytes(good)
    run(path, epochs=2)
    _files.write(str(path), {"a": np.zeros(3)}, {})
    with pytest.raises(ValueError, match="it is not a checkpoint of fit"):
        run(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda run, arrays: run.pop("epoch"),
        lambda run, arrays: run.update(epoch="1"),
        lambda run, arrays: run.update(batch=-1),
        lambda run, arrays: run.update(sums=[1, 2]),
        lambda run, arrays: run.update(history={}),
        lambda run, arrays: run.update(objects={}),
        lambda run, arrays: run["objects"].update(optimizer={}),
        lambda run, arrays: run["objects"]["callback 0"].pop("note"),
        lambda run, arrays: run["objects"]["callback 1"].pop("best"),
        lambda run, arrays: arrays.pop("parameters"),
        lambda run, arrays: arrays.update(parameters=arrays["parameters"][1:]),
        lambda run, arrays: run.update(epoch=0, batch=0, begin=4),
        lambda run, arrays: run.update(epoch=0, batch=0, begin=4) or arrays.update(state=np.zeros(7, np.float32)),
        lambda run, arrays: run.update(epoch=0, batch=0, begin=16),
        lambda run, arrays: run.update(epoch=0, batch=0, begin=3),
        lambda run, arrays: run.update(epoch=0, batch=99, begin=4),
        lambda run, arrays: arrays.pop("optimizer.mean"),
        lambda run, arrays: run.update(identity=[]),
    ],
)
def test_a_wrong_description_changes_nothing(change, tmp_path):
    path = tmp_path / "checkpoint"
    run(path, epochs=2)
    arrays, metadata = _files.read(path)
    described = json.loads(metadata["run"])
    change(described, arrays)
    _files.write(str(path), arrays, metadata | {"run": json.dumps(described)})
    net = fl.Sequential(fl.LSTM(2, 5, num_layers=2, seed=0), fl.Linear(5, 3, seed=0))
    optimizer, before = fl.Adam(net, lr=0.01, clip_norm=1.0), net.parameters.copy()
    with pytest.raises(ValueError, match="^checkpoint .*"):
        run(path, epochs=2)
    xs = [numbers((n, 2), seed=n, dtype="float32") for n in range(1, 15)]
    with pytest.raises(ValueError):
        fl.fit(net, xs, [np.arange(len(x)) % 3 for x in xs], loss="cross_entropy", optimizer=optimizer, epochs=2,
               batch_size=3, truncate=4, validation=0.3, seed=0, callbacks=[Counter(), fl.EarlyStopping(4)],
               schedule=fl.schedules.Plateau(0.01, 0.5, patience=1), checkpoint=path)  # fmt: skip
    assert_same_bits(net.parameters.copy(), before)
    assert optimizer.lr == 0.01 and optimizer.state_dict()["steps"] == 0 and not optimizer.state_dict()["mean"].any()


OTHERS = {
    "the optimizer": {"rule": "AdamW"},
    "the loss": {"loss": lambda y, target: fl.losses.cross_entropy(y, target)},
    "batch_size": {"batch_size": 4},
    "truncate": {"truncate": 5},
    "recompute": {"recompute": 2},
    "seed": {"seed": 1},
    "the schedule": {"schedule": None},
    "callbacks": {"callbacks": []},
    "the validation data": {"validation": 0.2},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_refused(what, tmp_path):
    path = tmp_path / "checkpoint"
    run(path, epochs=1)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=f"^checkpoint .*: it is of another run: {what} was .* and is .* now"):
        run(path, epochs=1, **OTHERS[what])
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("what", "change"),
    [("the network", {"hidden": 4}), ("the network", {"peepholes": True}), ("the data", {"x": 1}),
     ("the data", {"y": 1}), ("the learning rate", {"lr": 0.5}), ("readout", {"readout": "mean"})],
)  # fmt: skip
def test_another_network_or_data_are_refused(what, change, tmp_path):
    def go(hidden=3, peepholes=False, x=0, y=0, lr=0.1, readout="last"):
        net = fl.LSTM(2, hidden, peepholes=peepholes, seed=0)
        data = np.full((4, 5, 2), x, np.float32)
        fl.fit(net, data, np.full((5, hidden), y), loss="mse", optimizer=fl.SGD(net, lr=lr), epochs=1, batch_size=2,
               seed=0, readout=readout, checkpoint=tmp_path / "checkpoint")  # fmt: skip

    go()
    with pytest.raises(ValueError, match=f"is of another run: {what} was"):
        go(**change)


def test_padding_does_not_count_as_data(tmp_path):
    def go(fill):
        net = fl.LSTM(2, 3, batch_first=True, seed=0)
        x, y = np.ones((2, 4, 2), np.float32), np.ones((2, 4, 3))
        x[1, 2:] = y[1, 2:] = fill
        fl.fit(net, x, y, lengths=[4, 2], loss="mse", optimizer=fl.SGD(net, lr=0.1), epochs=1, batch_size=2, seed=0,
               checkpoint=tmp_path / "checkpoint")  # fmt: skip

    go(0)
    go(np.nan)


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = _files.as_path(tmp_path / "file", "path")
    one, two = (
        {"a": np.arange(3.0)},
        {"b": np.arange(4, dtype=np.float32).reshape(2, 2), "none": np.zeros((0, 2), np.int8)},
    )
    _files.write(path, one, {"who": "one"})
    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                _files.write(path, two, {"who": "two"})
        assert os.listdir(tmp_path) == ["file"]
        arrays, metadata = _files.read(path)
        assert metadata == {"who": "one"}
        assert_same_bits(arrays, one)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    others = [f".file.{gone.pid}.tmp", f".file.{os.getppid()}.tmp", ".file.x.tmp", f".files.{gone.pid}.tmp"]
    for name in others:
        (tmp_path / name).touch()
    _files.write(path, two, {"who": "two"})
    assert sorted(os.listdir(tmp_path)) == sorted(["file", *others[1:]])
    arrays, metadata = _files.read(path)
    assert_same_bits(arrays, two)


def test_the_layout_is_that_of_safetensors(tmp_path):
    load = pytest.importorskip("safetensors.numpy").load_file
    arrays = {"a": np.arange(3.0), "b": numbers((2, 3), dtype="float32")}
    _files.write(_files.as_path(tmp_path / "file", "path"), arrays, {"who": "me"})
    assert_same_bits(load(tmp_path / "file"), arrays)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train(*sys.argv[2:])
    else:
        import tempfile

        count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
        with tempfile.TemporaryDirectory() as folder:
            count, seconds = killed(folder, count, seed=None)
        print(f"killed {count} times in {seconds:.0f} s: the same bits as undisturbed, and nothing left behind")
