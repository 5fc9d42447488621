"""Tables in the paper's form, and plots, from files of results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from fastlstm.experiments._stream import StreamTask
from fastlstm.experiments.catalogue import METHODS, TASKS, find, method
from fastlstm.experiments.runner import load

BEGIN, END = "<!-- made by fastlstm experiment report -->", "<!-- end of what is made -->"
PAGES = tuple(dict.fromkeys(task.experiment for task in TASKS))


def _number(value):
    return "-" if value is None else f"{value:,.0f}"


def _seconds(value):
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def _time(results):
    """Mean seconds at work on a CPU of the trials that have measured it, as text."""
    times = [result["cpu"] for result in results if "cpu" in result]
    return _seconds(float(np.mean(times))) if times else "-"


def _pace(results):
    """Microseconds at work on a CPU per step, as text."""
    timed = [result for result in results if "cpu" in result]
    steps = sum(result["steps"] for result in timed)
    return f"{sum(result['cpu'] for result in timed) / steps * 1e6:.2f}" if steps else "-"


@dataclasses.dataclass
class Row:
    """What came out for one task, method and milestone."""

    task: object
    method: str
    milestone: str
    results: list

    @property
    def solved(self):
        """The milestones' figures of the trials that reached it."""
        return [r["milestones"][self.milestone] for r in self.results if self.milestone in r["milestones"]]

    @property
    def sequences(self):
        """Mean over the trials that reached it; None if none did."""
        return float(np.mean([figures["sequences"] for figures in self.solved])) if self.solved else None

    def mean(self, name):
        """Mean of a test figure, or None."""
        values = [figures[name] for figures in self.solved if name in figures]
        return float(np.mean(values)) if values else None

    def describe(self):
        """``sequences (success %, spread)``; of streams not learnt, as <n>, the mean length in tests."""
        if not self.solved:
            lengths = [result["best length"] for result in self.results if "best length" in result]
            length = f" <{np.mean(lengths):.3g}>" if lengths else ""
            caps = [_number(cap) for cap in sorted({result["cap"] for result in self.results})]
            return f"0 of {len(self.results)} in {' to '.join(caps[:1] + caps[1:][-1:])}{length}"
        counts = [figures["sequences"] for figures in self.solved]
        spread = f", {_number(min(counts))} to {_number(max(counts))}" if len(counts) > 1 else ""
        return f"{_number(self.sequences)} ({len(counts)} of {len(self.results)}{spread})"


def rows(results):
    """A Row for each task, method and milestone of `results`, in the order of the catalogue."""
    groups = {}
    for result in results:
        key = result["task"], result["method"]
        trials = groups.setdefault(key, {})
        old = trials.get((result["seed"], result["trial"]))
        if old is None or result["success"] or result["cap"] > old["cap"]:  # a later run with a larger cap
            trials[result["seed"], result["trial"]] = result
    made = []
    for task in TASKS:
        for (name, text), trials in groups.items():
            if name == task.name:
                trials = list(trials.values())
                names = [m.name for m in task.milestones] or ["perfect"]
                made += [Row(task, text, milestone, trials) for milestone in names]
    return made


def _published(task, milestone, text):
    """The published figures of a method, for one milestone."""
    found = [p for p in task.paper if p.method == text]
    return next((p for p in found if p.label == milestone), found[0] if len(found) == 1 else None)


def _paper(row):
    if row is None:
        return "-"
    success = row.label if row.success is None else f"{row.success:g} %"
    more = f", {row.label}" if row.label and row.sequences is None and row.success is not None else ""
    return f"{_number(row.sequences)} ({success}{more})"


def table(page, results):
    """The table of a page: paper, ours by the same method, ours at best.

    Parameters
    ----------
    page : str
        An experiment, such as "4".
    results : list of dict

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    made = [row for row in rows(results) if row.task.experiment == page]
    lines = [
        "| task | method | weights | paper: sequences (success) | here: sequences (solved, range)"
        " | wrong in test: paper | here | CPU time per trial | us per step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in made:
        published = _published(row.task, row.milestone, row.method)
        stage = f", {row.milestone}" if len(row.task.milestones) > 1 else ""
        wrong = row.mean("wrong")
        if wrong is None and row.mean("test wrong") is not None:
            wrong = row.mean("test wrong")
        paper_wrong = published.wrong if published else None
        if row.milestone != (row.task.milestones[-1].name if row.task.milestones else "perfect"):
            times = ["", ""]
        else:
            times = [_time(row.results), _pace(row.results)]
        cells = [
            f"{row.task.name}: {row.task.title}{stage}",
            f"`{row.method}`",
            _number(row.results[0]["weights"]),
            _paper(published),
            row.describe(),
            "" if paper_wrong is None else f"{paper_wrong:g}",
            "" if wrong is None else f"{wrong:.3g}",
            *times,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    trials = {(r["task"], r["method"], r["seed"], r["trial"]): r for r in results}.values()
    clock = sum(result["seconds"] for result in trials)
    return [*lines, "", f"{len(trials)} trials, {_seconds(clock)} on the clock; times in the table are of the CPU."]


def overview(results):
    """One line for each row of the paper's tables of LSTM: paper, ours by the same algorithm, ours at best."""
    made = rows(results)
    lines = [
        "| task | paper | ours, the paper's algorithm | ours at best | by | trials | CPU time per trial |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        own = [row for row in made if row.task.name == task.name]
        for milestone in [m.name for m in task.milestones] or ["perfect"]:
            at = [row for row in own if row.milestone == milestone]
            if not at:
                continue
            own_rows = [p for p in task.paper if p.method.startswith("lstm1997")]
            published = next((p for p in own_rows if p.label == milestone), own_rows[0] if own_rows else None)
            algorithm = published.method if published else "lstm1997"
            first = next((row for row in at if row.method == algorithm), None)
            others = [row for row in at if row is not first]
            best = min(others, key=lambda row: (-len(row.solved), row.sequences or np.inf), default=None)
            stage = f", {milestone}" if len(task.milestones) > 1 else ""
            cells = [
                f"[{task.name}]({task.experiment}.md): {task.title}{stage}",
                _paper(published),
                first.describe() if first else "-",
                best.describe() if best else "-",
                f"`{best.method}`" if best else "-",
                " + ".join(str(len(row.results)) for row in (first, best) if row is not None),
                " and ".join(_time(row.results) for row in (first, best) if row is not None),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def curves(page, results, path):
    """Plot the learning curves of a page's trials: mean error (in streams: length) against sequences."""
    from matplotlib.figure import Figure

    groups = {}
    for result in results:
        if result["curve"] and find(result["task"])[0].experiment == page:
            groups.setdefault(result["task"], {}).setdefault(result["method"], []).append(result["curve"])
    if not groups:
        return False
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(4.2 * columns, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (task, methods) in zip(axes, groups.items(), strict=False):
        for number, (text, trials) in enumerate(methods.items()):
            for k, curve in enumerate(trials):
                x, y = np.transpose(curve)
                axis.plot(x, np.maximum(y, 1e-5), color=f"C{number}", linewidth=0.8, label=None if k else text)
        axis.set(title=task, xscale="log", yscale="log", xlabel="sequences")
        axis.legend(fontsize=6)
    for axis in axes[len(groups) :]:
        axis.remove()
    axes[0].set_ylabel("length of stream" if not find(next(iter(groups)))[0].milestones else "mean absolute error")
    _save(figure, path)
    return True


def activity(result, path):
    """Plot what a trained net does in a sequence, or in three of a stream.

    Inputs, gates, cell states, outputs, and the error that comes back.

    Parameters
    ----------
    result : dict
        With ``parameters``, of a method with a net of the engine.
    path : path
        Of the SVG.
    """
    from matplotlib.figure import Figure

    task = find(result["task"])[0].trial(result["seed"], result["trial"])
    make, options, _ = method(task, result["method"])
    net = make(task, np.random.default_rng(0), **options).net
    flat, at, values = np.asarray(result["parameters"], dtype=np.float32), 0, {}
    for name, array in net.state_dict().items():
        values[name] = flat[at : at + array.size].reshape(array.shape)
        at += array.size
    net.load_state_dict(values)
    batch = task.draw(np.random.default_rng(1), 3 if isinstance(task, StreamTask) else 1, test=True)
    body, ys, states, gates = net[0], [], [], []
    stream = net.stream()
    for x in batch.xs:
        before = stream.state
        ys.append(stream.step(x))
        states.append(np.ravel(stream.state[0][1]))
        gates.append(_gates(body, x, before[0], states[-1]))
    error = np.where(np.isnan(batch.targets), 0, np.array(ys) - batch.targets).astype(np.float32)
    _, _, backward = net.forward(batch.xs)
    flow = np.linalg.norm(backward(error)[0], axis=1)
    net.zero_grad()
    panels = {"input": batch.xs, **_by_gate(body, np.array(gates)), "cell states": np.array(states),
              "outputs (dots: targets)": np.array(ys), "error that reaches the input": flow[:, None]}  # fmt: skip
    figure = Figure(figsize=(9, 1.5 * len(panels)), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True):
        if title == "input" and lines.shape[1] > 2:
            axis.imshow(lines.T, aspect="auto", cmap="Greys", interpolation="nearest")
        else:
            axis.plot(lines, linewidth=0.9)
        if title.startswith("outputs"):
            axis.set_prop_cycle(None)
            axis.plot(batch.targets, ".", markersize=4)
        if title.startswith("error") and flow.max() > 0:
            axis.set_yscale("log")
        axis.set_ylabel(title, fontsize=7, rotation=0, ha="right", va="center")
        axis.tick_params(labelsize=7)
    axis.set_xlabel("step")
    figure.suptitle(f"{task.name}, {result['method']}, after {result['sequences']:,} sequences", fontsize=9)
    _save(figure, path)


def _gates(body, x, state, cells):
    """All gate activations of an LSTM layer's step from `state` to the cell states `cells`: (gates * blocks,)."""
    net = body.weight_ih_l0 @ x + body.weight_hh_l0 @ np.ravel(state[0])
    if body.gate_recurrence:
        net = net + body.weight_gh_l0 @ np.ravel(state.gates)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        if name in body._shapes:
            net = net + getattr(body, name)
    rows = _gate_rows(body)
    kept = net[np.concatenate([np.arange(first, last) for _, first, last in rows])]
    if body.peepholes:
        seen = np.array([cells if name == "output gates" else np.ravel(state[1]) for name, _, _ in rows])
        kept += (body.weight_peephole_l0 * seen).reshape(len(kept), body.block_size).sum(axis=1)
    return 1 / (1 + np.exp(-kept))


def _gate_rows(body):
    """(name, first row, last row + 1) of each gate in a layer's parameters."""
    blocks, at, found = body.hidden_size // body.block_size, 0, []
    for name, has in (("input gates", body.input_gate), ("forget gates", body.forget_gate and not body.coupled_gates)):
        if has:
            found.append((name, at, at + blocks))
            at += blocks
    at += body.hidden_size
    return found + ([("output gates", at, at + blocks)] if body.output_gate else [])


def _by_gate(body, gates):
    names, width = [name for name, _, _ in _gate_rows(body)], body.hidden_size // body.block_size
    return {name: gates[:, k * width : (k + 1) * width] for k, name in enumerate(names)}


def _save(figure, path):
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "fastlstm", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _replace(path, title, made):
    """Put `made` between the two marks of a page; what stands before and behind them is somebody's text."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# {title}\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no place for the tables: it must have the lines {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    path.write_text(f"{head}{BEGIN}\n{made}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def report(directory, plots=True):
    """Write tables, and plots if matplotlib is there, of all results in a directory.

    Parameters
    ----------
    directory : path
        With ``*.jsonl``. It gets a page ``<experiment>.md`` for each experiment, an overview ``README.md``, and SVG
        files. In pages that exist, only what stands between the two marks is replaced.
    plots : bool

    Returns
    -------
    list of pathlib.Path
        What was written.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"directory is {str(directory)!r} and must be a directory with *.jsonl files of results")
    results = load(directory)
    if not results:
        raise ValueError(f"directory {str(directory)!r} has no *.jsonl files of results of `experiment run`")
    if plots:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            plots = False
    written = []
    for page in PAGES:
        own = [result for result in results if find(result["task"])[0].experiment == page]
        if not own:
            continue
        made = table(page, own)
        if plots:
            if curves(page, own, directory / f"{page}-curves.svg"):
                made += ["", f"![learning curves]({page}-curves.svg)"]
                written.append(directory / f"{page}-curves.svg")
            for result in own:
                cell = result["method"].partition(":")[0]
                if cell == "lstm1997" and result["success"] and "parameters" in result:
                    name = f"{page}-activity-{result['task']}.svg"
                    activity(result, directory / name)
                    made += ["", f"![what the net of {result['task']} does]({name})"]
                    written.append(directory / name)
                    break
        task = next(task for task in TASKS if task.experiment == page)
        _replace(directory / f"{page}.md", f"Experiment {page}: {task.about}", "\n".join(made))
        written.append(directory / f"{page}.md")
    _replace(directory / "README.md", "The 1997 paper, reproduced", "\n".join(overview(results)))
    return [*written, directory / "README.md"]


def listing():
    """The catalogue as text: a line for each task, and the methods."""
    lines = []
    for task in TASKS:
        paper = next((p for p in task.paper if p.method.startswith("lstm1997") and p.sequences), None)
        figures = f"{task.weights or '':>6} weights, paper: {_number(paper.sequences) if paper else '-'}"
        lines.append(f"{task.name:8} {task.title:50} {figures}")
    lines += ["", "methods: best, or " + ", ".join(METHODS) + ", with options as in lstm:hidden=16,lr=0.003"]
    return "\n".join(lines)
