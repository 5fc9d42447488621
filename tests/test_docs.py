"""The examples of docstrings and of the README run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

MODULES = [
    "_compress",
    "_fit",
    "_history",
    "_info",
    "_layer",
    "_layers",
    "_online",
    "_optim",
    "_stream",
    "losses",
    "schedules",
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"fastlstm.{name}"))
    assert result.attempted and not result.failed


def test_readme():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["ys"].shape == (5000, 1)
    assert names["history"].val_loss[-1] < names["history"].val_loss[0]


def test_training_page():
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(first, names)
    assert max(names["history"].val_accuracy) > 0.8
    pytest.importorskip("sklearn")
    exec(second, names)
    assert names["search"].best_score_ > 0.8


def test_online_page():
    text = (Path(__file__).parents[1] / "docs" / "online.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["error"] < 0.03
    assert names["taken"] <= names["before"]
