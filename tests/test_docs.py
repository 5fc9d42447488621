"""The examples of docstrings and of the README run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

MODULES = ["_fit", "_history", "_info", "_layer", "_layers", "_online", "_optim", "_stream", "losses", "schedules"]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"fastlstm.{name}"))
    assert result.attempted and not result.failed


def test_readme():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["ys"].shape == (5000, 1)
