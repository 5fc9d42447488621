"""Training a network on sequences: `fit`."""

import contextlib
import copy
import json
import math
import os
import signal
import sys
import threading
import time
import zlib
from types import SimpleNamespace

import numpy as np

from fastlstm import _files
from fastlstm._checks import as_choice, as_flag, as_input, as_number, as_size, shown
from fastlstm._data import Data
from fastlstm._history import CURVES, EarlyStopping, History
from fastlstm._layer import Layer, State
from fastlstm._objective import Loss, Objective, takes
from fastlstm._optim import Optimizer

FORMAT = "fastlstm checkpoint 1"


def fit(
    net,
    x,
    y,
    *,
    loss,
    optimizer,
    epochs,
    batch_size,
    validation=None,
    lengths=None,
    gradient="bptt",
    truncate=None,
    callbacks=(),
    checkpoint=None,
    progress=True,
    seed=None,
    schedule=None,
    targets=None,
    readout="last",
    checkpoint_every=30.0,
    recompute=None,
):
    """Train a network on sequences by backpropagation through time.

    Parameters
    ----------
    net : Layer
        A layer or `Sequential`; its parameters change.
    x : list of N arrays (T_b, I), array (T, N, I), or (N, T, I) with `net.batch_first`, or (T, I)
        Sequences, of the dtype of the network. They must not change meanwhile.
    y : list or array
        Targets, either at every step: a list of N arrays (T_b, O), or an array like x; or one for each sequence: (N,
        O); for the loss "cross_entropy", integers without the last dimension: classes. With O = 1 the last dimension
        may be left out too. NaN or class -1: no target there. For the loss "ctc", a list of N sequences of labels.
    loss : str or callable
        "mse", "sse", "cross_entropy" (outputs are scores before the softmax), "binary_cross_entropy" (outputs are
        probabilities), "binary_cross_entropy_with_logits" (they are before the sigmoid) or "ctc", as in
        `fastlstm.losses`; one of these functions with options, such as
        ``functools.partial(fl.losses.cross_entropy, weight=[1, 5])``; or any ``loss(y, target)`` that returns
        ``(loss, dy)``: it gets the outputs that have a target, (n, O), and these, (n, O) or (n,). If it has an
        argument `mask`, it gets whole batches in the layer's layout, and `mask` says which steps have a target.
    optimizer : SGD, RMSprop, Adam or AdamW
        Made for `net`.
    epochs, batch_size : int
        Passes through the data, and sequences in a batch. Batches are made of sequences of similar length, drawn from
        `seed`; the last may be smaller.
    validation : (x, y), (x, y, lengths) or float, optional
        Data to be judged after every epoch, or the share of sequences to set aside for it, drawn from `seed`.
    lengths : (N,) integers, optional
        Valid steps of padded sequences.
    gradient : "bptt"
        The full gradient within a sequence, or within the windows of `truncate`. (`OnlineLearner` has others.)
    truncate : int, optional
        Cut sequences into windows of so many steps: the weights change after each, the state is carried on, the
        gradient is not (truncated backpropagation through time).
    callbacks : sequence of callables
        Called with the `History` after every epoch; training ends when one returns true. `EarlyStopping` is one. With
        ``state_dict()`` and ``load_state_dict(state)`` (a flat dict of arrays and what JSON can hold) a callback's
        state is kept in the checkpoint; a method ``finish(history)`` is called at the end.
    checkpoint : path, optional
        A file that is written now and then, at the end and on Ctrl-C. If it exists, training goes on from there, with
        the same bits as if it had never ended.
    progress : bool
        Show a progress bar, if tqdm is installed and the output is a terminal or notebook.
    seed : int, numpy Generator or None
        Of the order of sequences.
    schedule : callable, optional
        ``schedule(epoch, loss=None)`` gives the learning rate of an epoch (from 0), as those of `fastlstm.schedules`
        do; `loss` is that of the epoch before, on the validation data if there are any. A copy of it is used.
    targets : "step", "sequence" or None
        What y is, where shapes leave it open, which is so only for a callable loss with integer targets.
    readout : "last" or "mean"
        With one target for each sequence, what is held against it: the output of the last step, or the mean over all
        steps.
    checkpoint_every : float
        Least number of seconds between two checkpoints; 0 writes one after every update.
    recompute : int or True, optional
        Keep less for the gradient and compute it again on the way back, as `Layer.forward` does.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError
        An argument is wrong; or the checkpoint is damaged, or of a run with another network, other data or options.
        Nothing has happened then.
    FloatingPointError
        The loss or the gradient has become NaN or infinite. The message names epoch and step; the network has the
        weights before that step, and the checkpoint is an earlier one.

    Notes
    -----
    The loss of an epoch is the mean over all its targets, each counted once, whatever the batches ("sse":
    the sum divided by the number of steps or sequences with a target).

    The bits of the result depend on data, options and seed alone, not on the number of threads, nor on when and how
    often the training was interrupted. Ctrl-C leaves a network with the parameters of the last whole update.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> rng = np.random.default_rng(0)
    >>> x = [rng.normal(size=(n, 1)).astype(np.float32) for n in rng.integers(5, 15, 200)]
    >>> y = np.array([int(series.sum() > 0) for series in x])   # the sign of the sum
    >>> net = fl.Sequential(fl.LSTM(1, 16, seed=0), fl.Linear(16, 2, seed=1))
    >>> history = fl.fit(net, x, y, loss="cross_entropy", optimizer=fl.Adam(net, lr=0.01), epochs=15, batch_size=10,
    ...                  validation=0.2, seed=0)
    >>> history.val_accuracy[-1] > 0.9
    True
    """
    return _Run(SimpleNamespace(**locals())).go()


class _Run:
    """One training: what stays, and where it is.

    It is at window `begin` of batch `batch` of epoch `epoch`. After the last batch the epoch is judged and entered into
    the history, then callbacks are called, `called` of them so far. What changes with the weights changes together
    with them, while Ctrl-C is held back.
    """

    def __init__(self, given):
        self.net = net = given.net
        if not isinstance(net, Layer):
            raise TypeError(f"net must be a fastlstm layer, not {type(net).__name__}")
        self.epochs, self.batch_size = as_size(given.epochs, "epochs"), as_size(given.batch_size, "batch_size")
        self.loss = Loss(given.loss)
        self.optimizer = optimizer = given.optimizer
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be one of fastlstm, such as fl.Adam(net), not {shown(optimizer)}")
        if optimizer.net is not net:
            raise ValueError("optimizer was made for another network than net")
        if not isinstance(given.gradient, str) or given.gradient != "bptt":
            raise ValueError(
                f"gradient is {shown(given.gradient)} and must be 'bptt'; fastlstm.OnlineLearner has others"
            )
        as_choice(given.readout, "readout", ("last", "mean"))
        self.data = Data(net, given.x, given.y, given.lengths, self.loss, given.targets)
        self.truncate = self._checked_truncate(given.truncate, given.readout)
        net._span(given.recompute, 1, 1)
        self.recompute = given.recompute
        self.progress = as_flag(given.progress, "progress")
        self.checkpoint_every = as_number(given.checkpoint_every, "checkpoint_every", 0)
        self.path = None if given.checkpoint is None else _files.as_path(given.checkpoint, "checkpoint")
        if given.schedule is not None and not callable(given.schedule):
            raise TypeError(f"schedule must be a callable, as in fastlstm.schedules, not {shown(given.schedule)}")
        self.schedule = copy.deepcopy(given.schedule)  # some have a memory
        self.callbacks = self._checked_callbacks(given.callbacks, given.validation is not None)
        self.objective = Objective(net, self.loss, self.data.per, self.data.classes, given.readout)
        self._read_validation(given.validation, given.targets)
        self._read_seed(given.seed)
        self.history = History(net)
        self.epoch = self.batch = self.begin = self.step = self.called = 0
        self.state, self.sums, self.elapsed, self.stopped = None, np.zeros(4), 0.0, False
        self.since, self.rng = time.monotonic(), net._rng_state()
        self.interrupts, self.saved_at = _Interrupts(), -math.inf
        self.identity = None if self.path is None else self._identity(given)
        if self.path is not None and os.path.exists(self.path):
            self._load()
        else:
            self._split()
            self._set_rate()

    # ---- what fit was given ----

    def _checked_truncate(self, truncate, readout):
        if truncate is None:
            return None
        if any(spec["reverse"] for spec in self.net._specs):
            raise ValueError("truncate must be None: the backward direction of the network needs whole sequences")
        if self.data.per == "labels" or (self.data.per == "sequence" and readout == "mean"):
            why = "readout is 'mean'" if self.data.per == "sequence" else "loss is 'ctc'"
            raise ValueError(f"truncate must be None: {why}, which needs whole sequences")
        return as_size(truncate, "truncate")

    def _checked_callbacks(self, callbacks, validated):
        if not isinstance(callbacks, (list, tuple)):
            raise TypeError(f"callbacks must be a list or tuple, not {shown(callbacks)}")
        for k, callback in enumerate(callbacks):
            if not callable(callback):
                raise TypeError(f"callbacks[{k}] must be a callable, not {shown(callback)}")
            if isinstance(callback, EarlyStopping):
                if "val" in callback.monitor and not validated:
                    raise ValueError(f"callbacks[{k}] monitors {callback.monitor!r}, which needs validation")
                if "accuracy" in callback.monitor and not self.data.classes:
                    raise ValueError(f"callbacks[{k}] monitors {callback.monitor!r}, but the targets are not classes")
        return list(callbacks)

    def _read_seed(self, seed):
        if isinstance(seed, np.random.Generator):
            self.seed = int(seed.integers(2**63))
        else:
            self.seed = np.random.SeedSequence().entropy if seed is None else as_size(seed, "seed", 0, 2**128)

    def _read_validation(self, validation, targets):
        self.share, self.judged = 0.0, None
        if isinstance(validation, (float, np.floating)):
            self.share, self.judged = as_number(validation, "validation", 0, 1, False, False), self.data
            if len(self.data) < 2:
                raise ValueError(f"validation is {self.share}, a share of one sequence only; give other data")
        elif validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
                raise TypeError(f"validation must be (x, y[, lengths]) or a number in (0, 1), not {shown(validation)}")
            names, lengths = ("validation[0]", "validation[1]"), validation[2] if len(validation) == 3 else None
            self.judged = Data(self.net, *validation[:2], lengths, self.loss, targets, names)
            if (self.judged.per, self.judged.classes) != (self.data.per, self.data.classes):
                raise ValueError("validation[1] has targets of another kind than y")

    def _split(self):
        """Which sequences are learned and which are judged; after the seed is known."""
        self.among = np.arange(len(self.data))
        if self.share:
            order = self._rng(1).permutation(self.among)
            count = min(max(round(self.share * len(order)), 1), len(order) - 1)
            self.among, self.held_out = np.sort(order[count:]), np.sort(order[:count])
        elif self.judged is not None:
            self.held_out = np.arange(len(self.judged))

    def _rng(self, *key):
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    # ---- training ----

    def go(self):
        with self.interrupts, _Bar(self) as bar:
            try:
                if self.path is not None and not os.path.exists(self.path):
                    self._save()
                while self.epoch < self.epochs and not self.stopped:
                    self._one_epoch(bar)
            except KeyboardInterrupt:
                if self.path is not None:
                    with self.interrupts.held:
                        self._save()
                raise
            for callback in self.callbacks:
                if hasattr(callback, "finish"):
                    callback.finish(self.history)
        return self.history

    def _one_epoch(self, bar):
        self.since = time.monotonic()
        batches = self._batches()
        while self.batch < len(batches):
            self._one_window(batches[self.batch])
            bar.show(self.epoch * len(batches) + self.batch)
            self._save_if_due()
        if len(self.history) == self.epoch:
            judged = None if self.judged is None else self._judge()
            with self.interrupts.held:
                self._enter(judged)
        while self.called < len(self.callbacks):
            callback = self.callbacks[self.called]
            with self.interrupts.held if hasattr(callback, "state_dict") else contextlib.nullcontext():
                stop = bool(callback(self.history))
                self.stopped, self.called = self.stopped or stop, self.called + 1
        with self.interrupts.held:
            self.epoch, self.batch, self.step, self.called, self.elapsed = self.epoch + 1, 0, 0, 0, 0.0
            self._set_rate()
        self._save_if_due(last=self.stopped or self.epoch >= self.epochs)

    def _batches(self):
        return self.data.sequences.batches(self.among, self.batch_size, self._rng(0, self.epoch))

    def _one_window(self, lanes):
        """Learn from a batch, or from its next window; everything that changes, changes at the end."""
        lengths = self.data.sequences.lengths[lanes]  # the longest come first
        most = self.truncate or int(lengths[0])
        end = self.begin + most
        running = np.count_nonzero(lengths > self.begin)
        x, valid, last, target = self.data.window(lanes[:running], self.begin, most)
        before = None if self.state is None else self.net._state_of(self.state, running)
        y, after, backward = self.net.forward(x, before, valid, recompute=self.recompute)
        value, dy, sums = self.objective(y, last, target)
        where = f"in epoch {self.epoch + 1}, step {self.step + 1}; the network has the weights before it"
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} {where}")
        if dy is not None:
            self.net.zero_grad()
            backward(dy, need_dx=False, need_dstate=False)
            gradient = self.net.grad
            with np.errstate(all="ignore"):
                finite = np.isfinite(gradient.sum()) or np.isfinite(gradient).all()
            if not finite:
                raise FloatingPointError(f"the gradient is not finite {where}")
        go_on = np.count_nonzero(lengths > end)
        state = self._flat(after, go_on) if go_on and self.net._recurrent else None
        with self.interrupts.held:
            if dy is not None:
                self.optimizer.step()
            self.sums, self.state, self.step = self.sums + sums, state, self.step + 1
            self.begin, self.batch = (end, self.batch) if go_on else (0, self.batch + 1)
            self.rng = self.net._rng_state()

    def _flat(self, state, lanes):
        """The state of the first lanes in one array."""
        flat = self.net._network.new_state(lanes)
        self.net._fill_state(flat, lanes, _narrowed(state, lanes))
        return flat

    def _judge(self):
        """(loss, accuracy) on the validation data."""
        sums = np.zeros(4)
        for lanes in self.judged.sequences.batches(self.held_out, self.batch_size):
            x, valid, last, target = self.judged.window(lanes, 0, int(self.judged.sequences.lengths[lanes[0]]))
            y, _ = self.net(x, None, valid)
            sums += self.objective(y, last, target)[2]
        return _means(sums)

    def _enter(self, judged):
        """An epoch's line in the history."""
        h, (loss, accuracy) = self.history, _means(self.sums)
        now = time.monotonic()
        h.loss.append(loss)
        h.lr.append(self.optimizer.lr)
        h.seconds.append(self.elapsed + now - self.since)
        if self.data.classes:
            h.accuracy.append(accuracy)
        if judged is not None:
            h.val_loss.append(judged[0])
            if self.data.classes:
                h.val_accuracy.append(judged[1])
        self.sums, self.elapsed, self.since = np.zeros(4), 0.0, now

    def _set_rate(self):
        """The learning rate of the epoch that begins."""
        if self.schedule is not None and self.epoch < self.epochs:
            losses = self.history.loss if self.judged is None else self.history.val_loss
            more = {"loss": losses[-1] if losses else None} if takes(self.schedule, "loss") else {}
            self.optimizer.lr = self.schedule(self.epoch, **more)

    # ---- checkpoint ----

    def _identity(self, given):
        """What must be the same for a run to go on: short texts by name."""
        net, optimizer = self.net, self.optimizer
        described = json.dumps([net._specs, list(net._shapes.items())], default=str).encode()
        judged = None if self.judged is None else self.share or self.judged.digest()
        options = ", ".join(f"{name}={value}" for name, value in optimizer._options.items())
        fixed_rate = given.schedule is None and getattr(optimizer, "decay", 1) == 1
        return {
            "the network": f"{shown(net)} of {net.dtype} ({zlib.crc32(described):08x})",
            "the optimizer": f"{type(optimizer).__name__}({options})",
            "the schedule": _described(given.schedule),
            "the learning rate": str(optimizer.lr) if fixed_rate else "free",
            "the loss": str(self.loss),
            "callbacks": ", ".join(map(_described, self.callbacks)) or "none",
            "the data": self.data.digest(),
            "the validation data": str(judged).lower(),
            "batch_size": str(self.batch_size),
            "truncate": str(self.truncate),
            "recompute": str(self.recompute),
            "readout": given.readout,
            "seed": "drawn" if given.seed is None or isinstance(given.seed, np.random.Generator) else str(self.seed),
        }

    def _save_if_due(self, last=False):
        if self.path is not None and (last or time.monotonic() - self.saved_at >= self.checkpoint_every):
            self._save()

    def _stateful(self):
        """Objects whose state a checkpoint holds, by name."""
        found = {"optimizer": self.optimizer, "schedule": self.schedule}
        found |= {f"callback {k}": callback for k, callback in enumerate(self.callbacks)}
        return {name: thing for name, thing in found.items() if hasattr(thing, "state_dict")}

    def _save(self):
        arrays, run = {"parameters": self.net.parameters}, {"identity": self.identity, "seed": self.seed}
        for name in ("epoch", "batch", "begin", "step", "called", "stopped"):
            run[name] = getattr(self, name)
        run["sums"] = self.sums.tolist()
        run["elapsed"] = self.elapsed + (time.monotonic() - self.since if self.batch else 0.0)
        run["history"] = {name: getattr(self.history, name) for name in CURVES}
        if self.state is not None:
            arrays["state"] = self.state
        run["rng"] = self.rng
        run["objects"] = {}
        for name, thing in self._stateful().items():
            run["objects"][name] = plain = {}
            for key, value in thing.state_dict().items():
                if isinstance(value, np.ndarray):
                    arrays[f"{name}.{key}"] = value
                else:
                    plain[key] = value
        _files.write(self.path, arrays, {"format": FORMAT, "run": json.dumps(run)})
        self.saved_at = time.monotonic()

    def _load(self):
        """Go on from the checkpoint; nothing has changed if this raises."""
        try:
            arrays, metadata = _files.read(self.path)
            if metadata.get("format") != FORMAT:
                raise ValueError("it is not a checkpoint of fit; give another path")
            run = json.loads(metadata["run"])
            for name, mine in self.identity.items():
                theirs = run["identity"][name]
                if theirs != mine:
                    raise ValueError(f"it is of another run: {name} was {theirs} and is {mine} now; give another path")
            self._take(run, arrays)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            why = " ".join(str(error).split()) if isinstance(error, ValueError) else f"it is damaged ({error!r})"
            raise ValueError(f"checkpoint {self.path!r}: {why}") from None

    def _take(self, run, arrays):
        """Become what a checkpoint says."""
        parameters = as_input(arrays["parameters"], "parameters", self.net.dtype, self.net.parameters.shape)
        for name in ("epoch", "batch", "begin", "step", "called"):
            setattr(self, name, as_size(run[name], name, 0))
        self.seed, self.stopped = as_size(run["seed"], "seed", 0, 2**128), as_flag(run["stopped"], "stopped")
        self.sums, self.elapsed = np.array(run["sums"], float).reshape(4), float(run["elapsed"])
        for name in CURVES:
            setattr(self.history, name, [float(value) for value in run["history"][name]])
        self._split()
        if self.begin:
            lanes = np.count_nonzero(self.data.sequences.lengths[self._batches()[self.batch]] > self.begin)
            if not lanes or self.begin % (self.truncate or self.begin + 1):
                raise ValueError("its place in a batch does not exist")
            if self.net._recurrent:
                self.state = as_input(arrays["state"], "state", self.net.dtype, (lanes * self.net._network.n_state,))
        states = {}
        for name, plain in run["objects"].items():
            start = name + "."
            states[name] = plain | {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}
        things = self._stateful()
        for name, value in states["optimizer"].items():
            if isinstance(value, list):  # JSON knows no tuples
                states["optimizer"][name] = tuple(value)
        before = {name: thing.state_dict() for name, thing in things.items()}
        try:
            for name, thing in things.items():
                thing.load_state_dict(states[name])
            self.rng = run["rng"]
            self.net._set_rng_state(self.rng)
        except Exception:
            for name, thing in things.items():
                thing.load_state_dict(before[name])
            raise
        self.net._parameters.fetch()[:] = parameters
        self.net._parameters.changed()


def _means(sums):
    """(loss, accuracy) from the sums of `Objective`; NaN of nothing."""
    total, weight, hits, seen = sums.tolist()
    return total / weight if weight else math.nan, hits / seen if seen else math.nan


def _described(thing):
    """A callback or schedule in a few words: as it shows itself, unless that is an address."""
    if thing is None:
        return "none"
    own = type(thing).__repr__ is not object.__repr__ and " at 0x" not in repr(thing)
    return shown(thing) if own else getattr(thing, "__qualname__", type(thing).__qualname__)


def _narrowed(state, lanes):
    """The state of the first lanes."""
    if state is None:
        return None
    if isinstance(state, State):
        return State(_narrowed(tuple(state), lanes), state.gates[:, :lanes])
    if isinstance(state, (list, tuple)):
        return type(state)([_narrowed(part, lanes) for part in state])
    return state[:, :lanes]


class _Interrupts:
    """Ctrl-C as always, but held back while `held`: an update is whole or has not been."""

    def __init__(self):
        self.held, self._inside, self._waiting, self._before = self._Held(self), False, None, None

    class _Held:
        def __init__(self, owner):
            self.owner = owner

        def __enter__(self):
            self.owner._inside = True

        def __exit__(self, *error):
            self.owner._inside = False
            waiting, self.owner._waiting = self.owner._waiting, None
            if waiting is not None:
                self.owner._before(*waiting)

    def _handle(self, *event):
        if self._inside:
            self._waiting = event
        else:
            self._before(*event)

    def __enter__(self):
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._handle)

    def __exit__(self, *error):
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class _Bar:
    """A progress bar over all batches, if one can be shown."""

    def __init__(self, run):
        self.run, self.bar = run, None

    def __enter__(self):
        if self.run.progress and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return self
            batches = -(-len(self.run.among) // self.run.batch_size)
            done = self.run.epoch * batches + self.run.batch
            self.bar = tqdm(total=self.run.epochs * batches, initial=done, unit="batch", dynamic_ncols=True)
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()

    def show(self, done):
        if self.bar is None:
            return
        h = self.run.history
        text = {name: f"{getattr(h, name)[-1]:.4g}" for name in CURVES[:4] if getattr(h, name)}
        self.bar.set_description(f"epoch {self.run.epoch + 1}/{self.run.epochs}", refresh=False)
        self.bar.set_postfix(text, refresh=False)
        self.bar.update(done - self.bar.n)
