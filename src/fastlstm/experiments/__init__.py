"""The experiments of Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997), of successors, and their rivals.

Each experiment is a small class: how its sequences are drawn, the paper's network, when training stops, the published
figures. Each can be run with any method: the paper's own, a rival named in its tables, or a network of today.

>>> from fastlstm import experiments
>>> task = experiments.find("6a")[0]
>>> task.weights, task.paper[0].sequences
(156, 31390)
>>> result, learner = experiments.trial(task, "lstm1997", seed=1, most=500)
>>> result["sequences"]
500

The command line has the same: ``fastlstm experiment list``, ``run`` and ``report``.
"""

from fastlstm.experiments._task import Batch, Check, Published, Task, Window
from fastlstm.experiments.catalogue import METHODS, TASKS, find, method
from fastlstm.experiments.report import listing, report
from fastlstm.experiments.runner import load, run, trial

__all__ = [
    "METHODS",
    "TASKS",
    "Batch",
    "Check",
    "Published",
    "Task",
    "Window",
    "find",
    "listing",
    "load",
    "method",
    "report",
    "run",
    "trial",
]
