"""Continual tasks: streams without marks between sequences, each followed until the first wrong prediction."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastlstm.experiments._task import Curve, Task

FEW_STEPS = 300  # of a stream that is learnt from one step at a time: most end early


@dataclass(frozen=True)
class StreamTask(Task):
    """A task of Gers, Schmidhuber and Cummins (2000) or Gers, Schraudolph and Schmidhuber (2002).

    A training stream ends with the first wrong prediction, which is still learnt from, or when it is `length` long.
    After `every` training streams, if the latest came to `promising` (which saves hopeless tests), ten test streams are
    followed, without learning, up to `test_length`. It is solved when all ten are free of errors.
    """

    tolerance: ClassVar[float] = 0.49
    tests: ClassVar[int] = 10
    unit: ClassVar[str] = "steps"  # what lengths count: steps or sequences
    last_alone: ClassVar[bool] = False  # whether targets stand at the ends of sequences alone

    length: int = 100_000
    test_length: int = 100_000
    every: int = 1
    promising: int = 1

    def source(self, rng):
        """An endless stream: a function that gives its next `n` sequences, as a Batch."""
        pool, at = self.draw(rng, 256), 0

        def following(n):
            nonlocal pool, at
            if at + n > len(pool):
                pool, at = self.draw(rng, max(256, n)), 0
            at += n
            return pool.part(at - n, at)

        return following

    def judge(self, batch, ys):
        """(T,) bool: whether each step is right; one without target is."""
        return self._right(batch.targets, ys)

    def _right(self, targets, ys):
        return ~(np.abs(ys - targets) >= self.tolerance).any(axis=-1)

    def follow(self, run, draw, limit, learner=None):
        """Follow one stream to its first wrong prediction, or to `limit`.

        Parameters
        ----------
        run : callable
            ``run(learner, batch) -> ys``.
        draw : callable
            Of `source`.
        limit : int
        learner : optional
            One that learns: it is brought to the very step of the error.

        Returns
        -------
        length, steps : int
            How far it came, in `unit` and in steps.
        learner
        """
        done, steps, n = 0, 0, 1
        while done < limit:
            batch = draw(n)
            few = learner is not None and steps < FEW_STEPS and not self.last_alone
            if self.unit == "steps" and done + len(batch.xs) > limit:
                batch = batch.steps(limit - done)
            elif self.unit != "steps" and done + len(batch) > limit:
                batch = batch.part(0, limit - done)
            before = None if few or (self.last_alone and n == 1) else copy.deepcopy(learner)
            first = self._walk(learner, batch) if few else self._first(batch, run(learner, batch))
            if first is not None:
                if before is not None and first + 1 < len(batch.xs):
                    learner = before
                    run(learner, batch.steps(first + 1))
                done += first if self.unit == "steps" else int(np.sum(batch.ends < first))
                return done, steps + first + 1, learner
            done += len(batch.xs) if self.unit == "steps" else len(batch)
            steps, n = steps + len(batch.xs), 1 if few else min(2 * n, 256)
        return done, steps, learner

    def _first(self, batch, ys):
        """The index of the first wrong step, or None."""
        wrong = ~self.judge(batch, ys)
        return int(np.argmax(wrong)) if wrong.any() else None

    def _walk(self, learner, batch):
        """Learn step by step until one is wrong: its index, or None."""
        resets = np.zeros(len(batch.xs), dtype=bool) if batch.continual else batch.reset[:, 0]
        for t, (x, target, reset) in enumerate(zip(batch.xs, batch.targets, resets.tolist(), strict=True)):
            if not self._right(target, learner.step(x, target, reset)):
                return t
        return None

    def test(self, learner, draw):
        """Mean length of the ten test streams from a `source`, and how many had no error."""
        lengths = []
        for _ in range(self.tests):
            runner = learner.runner()
            lengths.append(self.follow(lambda _, batch, run=runner: run(batch), draw, self.test_length)[0])
        return {"length": float(np.mean(lengths)), "perfect": int(np.sum(np.array(lengths) == self.test_length))}

    def train(self, learner, rng, most, progress=None):
        """Train for at most `most` streams; as `Task.train`, where sequences are streams."""
        draw, test = map(self.source, rng.spawn(2))
        curve, best, done, steps, found = Curve(), {"length": 0.0, "perfect": 0}, 0, 0, {}
        while not found and done < most:
            learner.begin()
            length, more, learner = self.follow(lambda it, batch: it.learn(batch), draw, self.length, learner)
            done, steps = done + 1, steps + more
            curve.add([length])
            if done % self.every == 0 and length >= self.promising:
                result = self.test(learner, test)
                best = max(best, result, key=lambda figures: figures["length"])
                if result["perfect"] == self.tests:
                    found["perfect"] = {"sequences": done} | result
            if progress and progress(done, length):
                break
        result = {"success": bool(found), "sequences": done, "steps": steps, "milestones": found}
        return result | {"best length": best["length"], "curve": curve.points()}, learner
