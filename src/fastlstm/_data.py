"""What `fit` learns from: sequences and targets, checked once, then cut into batches without a loop over steps."""

import zlib

import numpy as np

from fastlstm import losses
from fastlstm._checks import as_anything, as_choice, as_input, ndim_of, shown

POOL = 32  # batches: sequences of similar length are looked for among so many


class Sequences:
    """Sequences as rows of one array: step t of sequence b is ``rows[start[b] + t * stride]``.

    Parameters
    ----------
    net : Layer
    x : array in the layer's own layout, (T, I) for one sequence, or list of arrays (T_b, I)
    lengths : (B,) integers, optional
    name : str
        How messages call x.
    """

    def __init__(self, net, x, lengths, name):
        dtype, width = net.dtype, net._network.input_size
        if isinstance(x, np.ndarray) and x.dtype == object:
            x = list(x)
        self.batch_first, self.stride, self.exists = net.batch_first, 1, True
        self.lead = None  # of an array: its shape without the last dimension
        if isinstance(x, (list, tuple)) and (not x or any(ndim_of(item) == 2 for item in x)):
            if not x:
                raise ValueError(f"{name} has no sequences")
            if lengths is not None:
                raise ValueError(f"lengths must be None when {name} is a list of sequences: they have their own")
            arrays = [as_input(item, f"{name}[{b}]", dtype, (-1, width)) for b, item in enumerate(x)]
            self.lengths = np.array([len(a) for a in arrays], np.int64)
            self.start = np.cumsum(self.lengths) - self.lengths
            self.rows = np.concatenate(arrays)
        else:
            x = as_input(x, name, dtype, (-1, width) if ndim_of(x) == 2 else (-1, -1, width))
            self.lead, by_lane = x.shape[:-1], net.batch_first and x.ndim == 3
            lanes, steps = x.shape[:2] if by_lane else (1 if x.ndim == 2 else x.shape[1], len(x))
            self.start, self.stride = (np.arange(lanes) * steps, 1) if by_lane else (np.arange(lanes), lanes)
            self.lengths = np.full(lanes, steps) if lengths is None else net._lengths(lengths, lanes, steps)
            if lengths is not None:
                t = np.arange(steps)
                self.exists = (t < self.lengths[:, None] if by_lane else t[:, None] < self.lengths).reshape(-1)
            self.rows = x.reshape(-1, width)
        self.refuse(~np.isfinite(self.rows).all(1), lambda row: f"{name} has NaN or infinity")

    def __len__(self):
        return len(self.lengths)

    def refuse(self, bad, message):
        """ValueError about the first row that is bad, unless it lies in the padding."""
        bad = bad & self.exists
        if bad.any():
            row = int(np.argmax(bad))
            if self.stride == 1:
                b = int(np.searchsorted(self.start, row, "right")) - 1
                t = row - self.start[b]
            else:
                t, b = divmod(row, self.stride)
            raise ValueError(f"{message(row)} at step {t} of sequence {b}")

    def index(self, lanes, begin, steps):
        """Rows of steps [begin, begin + steps) of these sequences, in the layer's layout, and which of them exist.

        Where a sequence has ended, the row is that of its last step.
        """
        t, start, last = np.arange(begin, begin + steps), self.start[lanes], self.lengths[lanes] - 1
        if self.batch_first:
            start, last = start[:, None], last[:, None]
        else:
            t = t[:, None]
        return start + np.minimum(t, last) * self.stride, t <= last

    def batches(self, among, size, rng=None):
        """Batches of these sequences, of similar length, the longest first: a list of arrays of their numbers.

        With `rng`, sequences are shuffled, cut into pools and sorted in these, and the batches are shuffled.
        """
        order, batches, pool_size = among, [], len(among)
        if rng is not None:
            order, pool_size = rng.permutation(among), POOL * size
        for k in range(0, len(order), pool_size):
            pool = order[k : k + pool_size]
            pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
            batches += [pool[j : j + size] for j in range(0, len(pool), size)]
        return batches if rng is None else [batches[k] for k in rng.permutation(len(batches))]


class Data:
    """Sequences and their targets.

    Attributes
    ----------
    sequences : Sequences
    per : "step", "sequence" or "labels"
    classes : bool
        Targets are integers from -1 (none) to C - 1; otherwise real numbers, of which NaN is none.
    values : array (rows of x or sequences, O) or without O, or a list of arrays of labels
    """

    def __init__(self, net, x, y, lengths, loss, per=None, names=("x", "y")):
        self.sequences = s = Sequences(net, x, lengths, names[0])
        self.name, outputs = names[1], net._network.output_size
        as_choice(per, "targets", (None, "step", "sequence"))
        if isinstance(y, np.ndarray) and y.dtype == object:
            y = list(y)
        if loss.name == "ctc":
            if per is not None:
                raise ValueError(f"targets is {per!r} and must be None with the loss 'ctc', which takes labels")
            self.per, self.classes = "labels", False
            one = s.lead is not None and len(s.lead) == 1 and ndim_of(y) == 1
            labels, counts = losses._labels([y] if one else y, None, len(s), False, self.name)
            losses._check_labels(labels, counts, s.lengths, outputs, loss.blank, self.name)
            self.values = np.split(labels, np.cumsum(counts)[:-1])
        else:
            self.per, self.classes, values = self._read(y, outputs, loss, per)
            if not self.classes:
                with np.errstate(over="ignore"):  # what becomes infinite is refused
                    values = np.ascontiguousarray(values, net.dtype)
            self._check(values, outputs, loss)
            self.values = np.ascontiguousarray(values, np.int64 if self.classes else net.dtype)
        self._buffer = np.empty(0, net.dtype)

    def digest(self):
        """A short text that differs where sequences or targets do; padding does not count."""
        s, known = self.sequences, 0
        parts = [s.lengths, s.rows] + (self.values if self.per == "labels" else [self.values])
        for part in parts:
            if s.exists is not True and len(part) == len(s.rows):
                part = part[s.exists]
            known = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8), known)
        return f"{s.lengths.sum()} steps in {len(s)} sequences ({known:08x})"

    def __len__(self):
        return len(self.sequences)

    def _read(self, y, outputs, loss, per):
        """(per, classes, values): the shapes say which."""
        s, n = self.sequences, len(self.sequences)
        if s.lead is None:
            if ndim_of(y) == 0 or not hasattr(y, "__len__") or len(y) != n:
                found = f"{len(y)} entries" if hasattr(y, "__len__") else f"the value {shown(y)}"
                raise ValueError(f"{self.name} has {found} and must have {n}, one for each sequence")
            items = [as_anything(item, f"{self.name}[{b}]", "biuf") for b, item in enumerate(y)]
            dtype = np.result_type(*{a.dtype for a in items})
        else:
            items, y = [], as_anything(y, self.name, "biuf")
            dtype = y.dtype
        may_be = [loss.name == "cross_entropy" or (loss.name is None and dtype.kind in "iu" and outputs > 1)]
        may_be = [True] * may_be[0] + [False] * (loss.name != "cross_entropy")
        if loss.name == "cross_entropy" and dtype.kind not in "iu":
            raise TypeError(f"{self.name} must be integers, the classes, with the loss 'cross_entropy', not {dtype}")
        found = {}
        for classes in may_be:
            for tail in [()] if classes else [(outputs,)] + [()] * (outputs == 1):
                if s.lead is None:
                    at_steps = all(a.shape == (m, *tail) for a, m in zip(items, s.lengths, strict=True))
                    at_ends = all(a.shape == tail for a in items)
                else:
                    at_steps = y.shape == (*s.lead, *tail)
                    at_ends = y.shape == (n, *tail) or (len(s.lead) == 1 and y.shape == tail)
                if at_steps and per != "sequence":
                    found.setdefault(classes, "step")
                if at_ends and per != "step":
                    found.setdefault(classes, "sequence")
        if not found:
            raise ValueError(f"{self.name} {self._misfit(y, items, True in may_be, False in may_be, outputs, per)}")
        if len(found) > 1:
            raise ValueError(f"{self.name} may be classes or values: say targets='step' or targets='sequence'")
        ((classes, per),) = found.items()
        if items:
            y = np.concatenate(items) if per == "step" else np.stack(items)
        return per, classes, y.reshape((-1,) if classes else (-1, outputs))

    def _misfit(self, y, items, may_be_classes, may_be_values, outputs, per):
        """What shape the targets have, and which they must have."""
        s, n = self.sequences, len(self.sequences)
        tails = ["()"] * may_be_classes + [f"({outputs},)"] * may_be_values
        if s.lead is None:
            want = ["(steps of the sequence,)"] * may_be_classes + [f"(steps, {outputs})"] * may_be_values
            b = next((b for b, a in enumerate(items) if a.shape[:1] != (s.lengths[b],) and a.ndim), 0)
            return (
                f"has in entry {b}, for {s.lengths[b]} steps, the shape {shown(items[b].shape)}; all must be "
                f"{' or '.join(want * (per != 'sequence') + tails * (per != 'step'))}"
            )
        steps = [str(s.lead)] * may_be_classes + [str((*s.lead, outputs))] * may_be_values
        ends = [f"({n},)"] * may_be_classes + [f"({n}, {outputs})"] * may_be_values
        want = " or ".join(steps * (per != "sequence") + ends * (per != "step"))
        return f"has shape {shown(y.shape)} and must have {want}"

    def _check(self, values, outputs, loss):
        """Ranges; at least one target."""
        if self.classes:
            none = values < 0
            bad, rule = (values < -1) | (values >= outputs), f"classes from 0 to {outputs - 1}, or -1 for none"
        else:
            none, bad, rule = np.isnan(values), np.isinf(values), "finite, or NaN for none"
            if str(loss.name).startswith("binary"):
                bad, rule = (values < 0) | (values > 1), "from 0 to 1, or NaN for none"
            none, bad = none.all(1), bad.any(1)

        def message(row):
            return f"{self.name} must be {rule}; it is {shown(values[row].tolist())}"

        if self.per == "step":
            self.sequences.refuse(bad, message)
            none = none | ~np.asarray(self.sequences.exists)
        elif bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"{message(row)} for sequence {row}")
        if none.all():
            raise ValueError(f"{self.name} has no target: all are {'-1' if self.classes else 'NaN'}")

    def window(self, lanes, begin, most):
        """At most so many steps of a batch from `begin` on, in the layer's layout.

        Parameters
        ----------
        lanes : integers (B,)
            Sequences, the longest first; all are longer than `begin`.
        begin, most : int

        Returns
        -------
        x : array (T, B, I) or (B, T, I)
            Valid until the next call.
        lengths : (B,) integers or None
            None if all sequences have T steps.
        last : (B,) integers
            The last step of each.
        target : array or list
            Of every step (T, B, ...) or (B, T, ...), of the sequences (B, ...), or labels; where there is none, -1 or
            NaN.
        """
        s = self.sequences
        left = s.lengths[lanes] - begin
        steps = int(min(most, left[0]))
        lengths = np.minimum(left, steps)
        index, exists = s.index(lanes, begin, steps)
        size = index.size * s.rows.shape[1]
        if size > self._buffer.size:
            self._buffer = np.empty(size, s.rows.dtype)
        x = self._buffer[:size].reshape(*index.shape, -1)
        np.take(s.rows, index, 0, x, mode="clip")  # the default mode would copy twice
        if self.per == "labels":
            target = [self.values[b] for b in lanes]
        else:
            target = self.values[index if self.per == "step" else lanes]
            missing = ~exists if self.per == "step" else left > steps
            if lengths[-1] < steps or self.per == "sequence":
                target[missing] = -1 if self.classes else np.nan
        return x, lengths if lengths[-1] < steps else None, lengths - 1, target
