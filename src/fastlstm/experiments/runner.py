"""Running trials, one after the other or side by side, and keeping what came out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

import fastlstm as fl
from fastlstm.experiments.catalogue import find, method

MOST_STORED = 1000  # weights of larger networks are not kept


def trial(task, text="lstm1997", seed=0, number=0, most=None, progress=None):
    """Run one trial.

    Parameters
    ----------
    task : Task
    text : str
        The method; see `method`.
    seed, number : int
        Together they decide weights and sequences.
    most : int, optional
        Training sequences after which it ends in any case; default: the task's `cap`.
    progress : callable, optional
        Called now and then with the number of sequences and the latest mean error.

    Returns
    -------
    result : dict
        What a line of the results has: task, method, seed, trial, cap, weights, success, sequences, steps, seconds
        (and of these, at work on a CPU), milestones, curve, and the trained weights of trial 0 if they are few.
    learner
        What has been trained.
    """
    make, options, text = method(task, text)
    most = task.cap if most is None else most
    weights, train = np.random.default_rng([seed, number]).spawn(2)
    task = task.trial(seed, number)
    try:
        learner = make(task, weights, **options)
    except TypeError as error:
        raise ValueError(f"method {text!r} has a wrong option: {error}") from None
    began, busy = time.perf_counter(), time.thread_time()
    result, learner = task.train(learner, train, most, progress)
    seconds, busy = time.perf_counter() - began, time.thread_time() - busy
    head = {"task": task.name, "method": text, "seed": seed, "trial": number, "cap": most, "weights": learner.weights}
    result = head | {"seconds": round(seconds, 3), "cpu": round(busy, 3)} | result | {"version": fl.__version__}
    net = getattr(learner, "net", None)
    if number == 0 and net is not None and net.parameters.size <= MOST_STORED:
        result["parameters"] = [float(f"{value:.7g}") for value in net.parameters]
    return result, learner


def load(path):
    """The results in a file, or in all ``*.jsonl`` of a directory: a list of dicts. A line cut short is left out."""
    path = Path(path)
    results = []
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                results.append(json.loads(line))
            except json.JSONDecodeError:
                if number < len(lines) and not lines[number].startswith("{"):
                    raise ValueError(f"{file}, line {number}: no JSON") from None
    return results


def append(path, result):
    """Add a line to a file of results, and see that it is on the disk."""
    with open(path, "ab+") as file:
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")  # the line before was cut short
        file.write(json.dumps(result, allow_nan=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _known(results, text, task, seed, most):
    """Trials of this task, method and seed that need not be run again."""
    return {
        result["trial"]
        for result in results
        if (result["task"], result["method"], result["seed"]) == (task.name, text, seed)
        and (result["sequences"] <= most if result["success"] else result["cap"] >= most)
    }


def _one(name, text, seed, number, most):
    """A trial for a worker, which may be another process or machine."""
    return trial(find(name)[0], text, seed, number, most)[0]


def _side_by_side(jobs, calls):
    """Results as they come, by joblib and the backend of the context."""
    from joblib import Parallel, delayed

    tasks = [delayed(_one)(*call) for call in calls]
    try:
        parallel = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")
    except (TypeError, ValueError, NotImplementedError):  # an old joblib, or a backend that gives lists only
        parallel = Parallel(n_jobs=jobs, batch_size=1)
    yield from parallel(tasks)


def run(name, method_name="lstm1997", trials=10, seed=0, jobs=1, most=None, out=None, say=None):
    """Run trials, and append each result to a file as it comes. What stands there already is not run again.

    Parameters
    ----------
    name : str
        See `find`.
    method_name : str
        See `method`.
    trials, seed : int
        How many, and the seed of them all: trial k has the same weights and sequences wherever it runs.
    jobs : int or None
        Trials side by side, by joblib if it is not 1; None: as ``joblib.parallel_config`` says, whose backends (Dask,
        Ray) may be other machines.
    most : int, optional
        Most training sequences; default: the task's.
    out : path, optional
        A file of JSON lines.
    say : callable, optional
        Gets a line of text per trial.

    Returns
    -------
    list of dict
        The new results.
    """
    say = say or (lambda text: None)
    known = load(out) if out else []
    calls = []
    for task in find(name):
        text, cap = method(task, method_name)[2], task.cap if most is None else most
        done = _known(known, text, task, seed, cap)
        calls += [(task.name, text, seed, number, cap) for number in range(trials) if number not in done]
    results = []
    for result in (_one(*call) for call in calls) if jobs == 1 or not calls else _side_by_side(jobs, calls):
        if out:
            append(out, result)
        results.append(result)
        verdict = "solved after" if result["success"] else "not solved in"
        pace = result["seconds"] / max(1, result["steps"]) * 1e6
        say(
            f"{result['task']} {result['method']} trial {result['trial']}: {verdict} {result['sequences']:,}"
            f" sequences, {result['seconds']:.1f} s, {pace:.2f} us per step"
        )
    return results
