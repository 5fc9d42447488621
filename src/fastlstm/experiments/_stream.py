"""Continual tasks: streams without marks between sequences, each followed until the first wrong prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._task import Curve, Task, off

MOST = 256  # sequences in a block


class Source:
    """An endless stream: called, it gives its next sequences as a Batch, up to `n` of them."""

    def __init__(self, task, rng):
        self._task, self._rng, self._pool, self._at = task, rng, (), 0

    def __call__(self, n):
        if self._at == len(self._pool):
            self._pool, self._at = self._task.draw(self._rng, MOST), 0
        self._at += (n := min(n, len(self._pool) - self._at))
        return self._pool.part(self._at - n, self._at)

    def back(self, n):
        """Take back the last `n` sequences of the latest call."""
        self._at -= n


@dataclass(frozen=True)
class StreamTask(Task):
    """A task of Gers, Schmidhuber and Cummins (2000) or Gers, Schraudolph and Schmidhuber (2002).

    A training stream ends with the first wrong prediction, which is still learnt from, or when it is `length` long; if
    streams are `whole`, only then. After `every` training streams, if the latest came to `promising` without an error
    (which saves hopeless tests), ten test streams are followed, without learning, up to `test_length`. It is solved
    when all ten are free of errors.
    """

    tolerance: ClassVar[float] = 0.49
    tests: ClassVar[int] = 10
    unit: ClassVar[str] = "steps"  # what lengths count: steps or sequences
    whole: ClassVar[bool] = False  # of streams of so many sequences

    length: int = 100_000
    test_length: int = 100_000
    every: int = 1
    promising: int = 1

    def source(self, rng):
        """An endless stream of sequences."""
        return Source(self, rng)

    def wrong(self, batch, ys):
        """(T,) bool: whether an output with a target is off by the tolerance or more, or NaN."""
        return off(ys, batch.targets, self.tolerance)

    def _within(self, batch, came, limit):
        """As much of a block as a stream that came so far may still have."""
        if self.unit == "steps":
            return batch.steps(limit - came)
        return batch.part(0, min(len(batch), limit - came))

    def _lengths(self, batch, first, last):
        """How far streams come, in `unit`, that begin at the steps `first` and end before the steps `last`."""
        if self.unit == "steps":
            return last - first
        return np.searchsorted(batch.ends, last) - np.searchsorted(batch.ends, first)

    def _streams(self, batch, ys, followed):
        """Where the streams of a block end and begin.

        Returns
        -------
        wrong : int array
            The step of each stream's end.
        begun : int array
            The step where each begins, 0 for the one under way; one more than `wrong`, T if no stream goes on.
        """
        wrong = np.flatnonzero(self.wrong(batch, ys) & followed)
        after = np.searchsorted(batch.starts, wrong, side="right")
        begun = np.concatenate([[0], np.append(batch.starts, len(ys))[after]])
        if len(wrong) and begun[-1] < len(ys) and not followed[begun[-1]]:
            begun[-1] = len(ys)
        return wrong, begun

    def walk(self, run, draw):
        """How far a stream that is not learnt from comes, in `unit`; ``run(batch) -> ys``."""
        came, n = 0, 1
        while came < self.test_length:
            batch = self._within(draw(n), came, self.test_length)
            ys = run(batch)
            wrong = np.flatnonzero(self.wrong(batch, ys))
            came += int(self._lengths(batch, 0, wrong[0] if len(wrong) else len(ys)))
            if len(wrong):
                break
            n = min(2 * n, MOST)
        return came

    def test(self, learner, draw):
        """Mean length of the ten test streams from a `source`, and how many had no error."""
        lengths = np.array([self.walk(learner.runner(), draw) for _ in range(self.tests)])
        return {"length": float(lengths.mean()), "perfect": int(np.sum(lengths == self.test_length))}

    def _taught(self, learner, draw, most):
        """Learn from at most `most` streams: yields how far those just ended came, in `unit`, and the steps."""
        done = came = n = 0  # streams; of the one under way; sequences in a block for it alone, as it goes well
        while done < most:
            if not came:
                learner.begin()
            # A block in which streams may end early has no more sequences than there are streams left until a test.
            room = n or min(self.every - done % self.every, most - done)
            block = draw(room)
            batch = self._within(block, came, self.length)
            alone = n > 0 or len(batch.xs) < len(block.xs)
            ys, followed = learner.follow(batch, self.tolerance, alone)
            draw.back(int(np.sum(block.starts > np.flatnonzero(followed)[-1])))
            wrong, begun = self._streams(batch, ys, followed)
            ends = np.append(wrong, len(ys) if begun[-1] < len(ys) else [])
            lengths = self._lengths(batch, begun[: len(ends)], ends)
            lengths[:1] += came
            came = int(lengths[-1]) if len(ends) > len(wrong) else 0
            ended = lengths[: len(wrong)].tolist()
            n = 0 if ended else min(2 * room, MOST)
            if came == self.length:  # without an error
                ended, came, n = [*ended, came], 0, 0
            done += len(ended)
            yield ended, int(followed.sum())

    def _taught_whole(self, learner, draw, most):
        """As `_taught`, of streams that do not end with an error: how far they came before the first one."""
        for _ in range(most):
            learner.begin()
            came, right, left, steps = 0, True, self.length, 0
            while left:
                batch = draw(left)
                ys = learner.learn(batch)
                wrong = np.flatnonzero(self.wrong(batch, ys))
                if right:
                    came += int(self._lengths(batch, 0, wrong[0] if len(wrong) else len(ys)))
                right, left, steps = right and not len(wrong), left - len(batch), steps + len(ys)
            yield [came], steps

    def train(self, learner, rng, most, progress=None):
        """Train for at most `most` streams; as `Task.train`, where sequences are streams."""
        draw, test = map(self.source, rng.spawn(2))
        curve, best, done, steps, found = Curve(), {"length": 0.0, "perfect": 0}, 0, 0, {}
        for ended, more in (self._taught_whole if self.whole else self._taught)(learner, draw, most):
            steps += more
            if not ended:
                continue
            done += len(ended)
            curve.add(ended)
            if done % self.every == 0 and ended[-1] >= self.promising:
                result = self.test(learner, test)
                best = max(best, result, key=lambda figures: figures["length"])
                if result["perfect"] == self.tests:
                    found["perfect"] = {"sequences": done} | result
            if found or (progress and progress(done, ended[-1])):
                break
        result = {"success": bool(found), "sequences": done, "steps": steps, "milestones": found}
        return result | {"best length": best["length"], "curve": curve.points()}, learner
