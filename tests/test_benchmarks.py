"""The programs beside the asv benchmarks, in small: what they claim of learning online holds, and they run."""

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_them(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_modules_name_no_setting_of_asv(path):
    """What a module calls `repeat`, asv takes for the setting of all its benchmarks, which then fail."""
    settings = set(
        """number repeat rounds setup teardown setup_cache params param_names timeout timer processes min_run_count
        warmup_time sample_time unit version type pretty_name""".split()
    )
    named, benchmarks = set(), False
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            named |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named.add(node.name)
            inside = [inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)]
            benchmarks |= any(name.startswith(("time_", "track_", "peakmem_", "mem_")) for name in inside)
        elif isinstance(node, ast.Assign):
            named |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert not benchmarks or not named & settings


def test_traces_carry_a_lag_that_truncation_cuts():
    """A symbol over ten chunks: with traces it is learnt, by backpropagation within the chunk it cannot be."""
    import lags

    task = lags.Task("recall", partial(lags.recall, steps=100), 100, 99, 3000, classes=4)
    solved = {
        method: sum(lags.learn(task, method, 0.01, seed)["solved"] for seed in range(3))
        for method in ("truncated-rtrl", "carried-bptt", "bptt")
    }
    assert solved["truncated-rtrl"] >= 2 and solved["carried-bptt"] >= 2 and solved["bptt"] == 0


@pytest.mark.parametrize("make, steps", [("order", 30), ("exclusive_or", 30), ("recall", 10), ("parity", 9)])
def test_tasks_are_answered_by_their_inputs(make, steps):
    """What the inputs say, found here in another way, is what is asked for."""
    import lags

    x, targets = getattr(lags, make)(np.random.default_rng(1), 50, steps)
    for inputs, asked in zip(x.argmax(-1), targets, strict=True):
        if make == "parity":
            assert asked.tolist() == [int(inputs[: t + 1].sum()) % 2 for t in range(steps)]
            continue
        assert (asked[:-1] == -1).all()
        if make == "recall":
            assert asked[-1] == inputs[0] < 4 and inputs[1:].min() >= 4
        else:
            first, second = (int(k) for k in inputs if k < 2)
            assert asked[-1] == (2 * first + second if make == "order" else first != second)


def test_adding_and_echo():
    import lags

    x, targets = lags.adding(np.random.default_rng(1), 20, 40)
    np.testing.assert_allclose(targets[:, -1], 0.5 + (x[..., 0] * x[..., 1]).sum(1) / 4, rtol=1e-6)
    assert (x[..., 1].sum(1) == 2).all() and np.isnan(targets[:, :-1]).all()
    x, targets = lags.echo(np.random.default_rng(1), 5, 20, lag=4)
    assert (targets[:, 4:] == x.argmax(-1)[:, :-4]).all() and (targets[:, :4] == -1).all()


def test_soak_in_small():
    """All that the soak promises but the times of steps, which a busy machine may spoil."""
    import soak

    found = soak.soak("carried-bptt", 16, 30 * soak.BLOCK)
    found["seconds"]["last"] = found["seconds"]["fresh"]
    assert soak.failures(found) == []
    found["errors"][1] = [0.0, np.nan]
    assert len(soak.failures(found)) == 1


def test_online_comparison_runs():
    import peers_online as peers

    row = peers.run("H=16", None, peers.Effort(2, 0.0, 1, 1e-4), None)
    assert set(row["figures"]) == {*peers.WAYS, peers.OWN} and all(map(all, row["figures"].values()))
    assert "| H=16 | 2,193 |" in peers.weight_table([row])
