"""The list of all experiments and of all methods, and how both are named."""

from __future__ import annotations

import ast

from fastlstm.experiments import adding, lags, methods, noise, order, reber, rivals, timing

TASKS = (*reber.TASKS, *lags.TASKS, *noise.TASKS, *adding.TASKS, *order.TASKS, *reber.CONTINUAL, *order.CONTINUAL,
         *timing.TASKS)  # fmt: skip
METHODS = methods.METHODS | rivals.METHODS


def find(name):
    """The tasks of a name: "4-1" is one, "4" all of experiment 4, "3a" all that begin so, "all" all."""
    names = [task.name for task in TASKS]
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    found = [task for task in TASKS if name in ("all", task.name)] or [
        task for task in TASKS if task.name.startswith(name) and not task.name[len(name) :][:1].isdigit() and name
    ]
    if not found:
        raise ValueError(f"name is {name!r} and must be all, or one of {', '.join(names)}, or what some begin with")
    return found


def method(task, text):
    """What a method's name means for a task.

    Parameters
    ----------
    task : Task
    text : str
        A name in `METHODS`, or "best" (the task's own choice); options may follow: "lstm:hidden=16,lr=0.003".

    Returns
    -------
    make : callable
        ``make(task, rng)`` gives a learner.
    options : dict
    text : str
        The name in full.
    """
    if not isinstance(text, str):
        raise TypeError(f"method must be a str, not {type(text).__name__}")
    text = task.best if text == "best" else text
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise ValueError(f"method is {text!r} and must be best or begin with one of {', '.join(METHODS)}")
    options = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"method is {text!r}: {part!r} must be option=value")
        try:
            options[key] = ast.literal_eval(value.replace(";", ","))  # (-1;-2): commas stand between options
        except (ValueError, SyntaxError):
            options[key] = value
    return METHODS[name], options, text
