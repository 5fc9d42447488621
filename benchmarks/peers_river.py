"""Learning from streams beside River's models and deep-river: `python benchmarks/peers_river.py [--out docs/online]`.

Every sample is predicted, then learnt, once, in order. `fastlstm.river` is as it comes, its scores the median of five
seeds; deep-river (PyTorch), which runs if it is installed, is set up as in its own benchmark. Samples per second of
processor time are those of the whole loop, data in memory, one thread, the best of a few runs.
"""

import argparse
import importlib.util
import statistics
import sys
from collections import namedtuple
from datetime import date
from importlib import metadata
from itertools import islice
from pathlib import Path
from time import process_time

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # asv imports every module here, from elsewhere
from peers import machine, table  # noqa: E402

SEEDS = range(5)
HORIZON = 3
DEEP = {"loss_fn": "mse", "optimizer_fn": "adam", "lr": 1e-3, "gradient_clip_value": 1.0}
CLASSES = {"loss_fn": "cross_entropy", "optimizer_fn": "adam", "lr": 1e-3, "is_class_incremental": True}

Model = namedtuple("Model", "name make seeds published", defaults=([0], None))
Task = namedtuple("Task", "name data score models grace", defaults=[0])  # grace: steps before the first forecast


def seeded(name, kind, **options):
    return Model(name, lambda seed: kind(seed=seed, **options), SEEDS)


def echoes(count):
    """Random bits; the label is the bit before."""
    bits = np.random.default_rng(0).integers(0, 2, count + 1).tolist()
    return [({"bit": now}, before) for before, now in zip(bits, bits[1:], strict=False)]


def one_step_tasks():
    from river import datasets, dummy, forest, linear_model, stats, tree
    from river.preprocessing import StandardScaler

    from fastlstm.river import LSTMClassifier, LSTMRegressor

    def numbers(published=None):
        yield seeded("fastlstm LSTM, 32 units", LSTMRegressor)
        yield seeded("fastlstm LSTM, 64 units", LSTMRegressor, hidden_size=64)
        yield Model("linear regression", lambda _: StandardScaler() | linear_model.LinearRegression(intercept_lr=0.1))
        yield Model("adaptive random forest", lambda seed: forest.ARFRegressor(seed=seed))
        yield Model("mean so far", lambda _: dummy.StatisticRegressor(stats.Mean()))
        if importlib.util.find_spec("deep_river"):
            from deep_river.regression.zoo import LSTMRegressor as Deep

            deep = DEEP | {"hidden_size": 64, "dropout": 0.1, "window_size": 30, "is_feature_incremental": True}
            yield Model("deep-river LSTM, 64 units", lambda _: StandardScaler() | Deep(**deep), published=published)

    def labels(linear):
        yield seeded("fastlstm LSTM, 32 units", LSTMClassifier)
        yield Model("logistic (softmax) regression", lambda _: StandardScaler() | linear())
        yield Model("Hoeffding adaptive tree", lambda seed: tree.HoeffdingAdaptiveTreeClassifier(seed=seed))
        yield Model("adaptive random forest", lambda seed: forest.ARFClassifier(seed=seed))
        if importlib.util.find_spec("deep_river"):
            from deep_river.classification.zoo import LSTMClassifier as Deep

            deep = CLASSES | {"hidden_size": 32, "window_size": 30, "is_feature_incremental": True}
            yield Model("deep-river LSTM, 32 units", lambda _: StandardScaler() | Deep(**deep))

    logistic, softmax = linear_model.LogisticRegression, linear_model.SoftmaxRegression
    yield Task("TrumpApproval", datasets.TrumpApproval(), "MAE", numbers(10.71))
    yield Task("ChickWeights", datasets.ChickWeights(), "MAE", numbers())
    yield Task("Phishing", datasets.Phishing(), "accuracy", labels(logistic))
    yield Task("ImageSegments", datasets.ImageSegments(), "accuracy", labels(softmax))
    yield Task("the bit before", echoes(3000), "accuracy", labels(logistic))


def forecast_tasks():
    from river import datasets
    from river.linear_model import LinearRegression
    from river.optim import SGD
    from river.preprocessing import StandardScaler
    from river.time_series import SNARIMAX, HoltWinters

    from fastlstm.river import LSTMForecaster

    def models(season, seasonal, snarimax, holt, deep):
        yield seeded("fastlstm LSTM, the last change", LSTMForecaster)
        if seasonal:
            yield seeded("fastlstm LSTM, a season's change", LSTMForecaster, differences=(season,))
            yield seeded("fastlstm LSTM, the last change of it", LSTMForecaster, differences=(1, season))
        yield Model("the same as last, and the mean change", lambda _: LSTMForecaster(lr=0.0))
        linear = lambda: StandardScaler() | LinearRegression(SGD(0.01))
        options = {"p": 1, "d": 1, "q": 0, "m": season, "sp": 1}
        yield Model("SNARIMAX", lambda _: SNARIMAX(**options, regressor=linear()), published=snarimax)
        rates = {"alpha": 0.3, "beta": 0.1, "gamma": 0.1}
        yield Model("Holt-Winters", lambda _: HoltWinters(**rates, seasonality=season), published=holt)
        if importlib.util.find_spec("deep_river"):
            from deep_river.forecasting import LSTMForecaster as Deep

            options = DEEP | {"n_features": 0, "window_size": 12, "hidden_size": 32}
            yield Model("deep-river LSTM, 32 units", lambda _: Deep(**options), published=deep)

    yield Task("AirlinePassengers", datasets.AirlinePassengers(), "MAE", models(12, True, 32.8, 39.4, 295), 12)
    yield Task("TrumpApproval", datasets.TrumpApproval(), "MAE", models(12, False, 0.310, None, 22.4), 12)
    yield Task("WaterFlow", datasets.WaterFlow(), "MAE", models(24, False, None, None, None), 24)


def one_step(model, task, data):
    """Score of the predictions, and seconds."""
    start = process_time()
    found = []
    for x, y in data:
        found.append(model.predict_one(x))
        model.learn_one(x, y)
    seconds = process_time() - start
    pairs = [(f, y) for f, (_, y) in zip(found, data, strict=True)]
    if task.score == "MAE":
        return (float(np.mean([abs(f - y) for f, y in pairs])),), seconds
    return (float(np.mean([f == y for f, y in pairs])),), seconds


def forecasts(model, task, data):
    """Mean error of forecasts 1 to HORIZON steps ahead; the same as published; and seconds."""
    series = [float(y) for _, y in data]
    found = []
    for y in islice(series, task.grace):
        model.learn_one(y, {})
    start = process_time()
    for y in series[task.grace :]:
        found.append(model.forecast(HORIZON, [{}] * HORIZON))
        model.learn_one(y, {})
    seconds = process_time() - start

    def error(delay):
        ahead = lambda k: zip(found, series[task.grace + k + delay : len(series) - HORIZON + k + delay], strict=False)
        return statistics.mean(float(np.mean([abs(f[k] - y) for f, y in ahead(k)])) for k in range(HORIZON))

    return (error(0), error(1)), seconds


def measure(tasks, run, rounds):
    """Rows: task, model, scores, published score, samples per second."""
    for task in tasks:
        data = list(task.data)
        for model in task.models:
            scores, times = [], []
            for seed in model.seeds:
                score, seconds = run(model.make(seed), task, data)
                scores.append(score)
                times.append(seconds)
            while len(times) < rounds and sum(times) < 2:
                times.append(run(model.make(0), task, data)[1])
            row = [statistics.median(s) for s in zip(*scores, strict=True)], model.published, len(data) / min(times)
            print(f"{task.name:18} {model.name:40} {row}", flush=True)
            yield task, model, *row


def shown(value, score="MAE"):
    if value is None or not np.isfinite(value):
        return "-" if value is None else "diverges"
    return f"{100 * value:.1f} %" if score == "accuracy" else f"{value:.3g}" if value < 1e5 else "diverges"


def versions():
    for name in ("fastlstm", "river", "deep-river", "torch", "numpy"):
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue


def times_faster(rows):
    """Of fastlstm over deep-river with as many units, for each task that both have done."""
    for task, model, _, _, speed in rows:
        if model.name.startswith("deep-river"):
            ours = [v for t, m, _, _, v in rows if t is task and m.name.startswith("fastlstm")]
            same = [v for t, m, _, _, v in rows if t is task and m.name == model.name.replace("deep-river", "fastlstm")]
            yield (same or ours)[0] / speed


def page(one, ahead):
    found = machine()
    first = [[t.name, m.name, f"{t.score} {shown(s[0], t.score)}", shown(p), f"{v:,.0f}"] for t, m, s, p, v in one]
    second = [[t.name, m.name, shown(s[0]), shown(s[1]), shown(p), f"{v:,.0f}"] for t, m, s, p, v in ahead]
    ratios = [f"{min(r):.0f} to {max(r):.0f}" if r else "-" for r in map(list, map(times_faster, (one, ahead)))]
    return TEXT.format(
        machine=f"{found['processor']}, {found['cores']} cores; {', '.join(versions())}; {date.today()}",
        first=table(["data", "model", "score", "published", "samples/s"], first),
        second=table(["data", "model", "MAE", "as published", "published", "forecasts/s"], second),
        learning=ratios[0],
        forecasting=ratios[1],
    )


TEXT = """# Streams: beside River and deep-river

Written by `python benchmarks/peers_river.py --out docs/online`: {machine}. Samples per second of
processor time, of the whole loop from Python; best of a few runs, one thread, on a machine that had other work.

`fastlstm.river` has `LSTMRegressor`, `LSTMClassifier` and `LSTMForecaster`: estimators for [River](https://riverml.xyz)
with an LSTM that learns at every sample, by the truncated gradient of 1997, with its state and traces carried on.
Options are the defaults unless the table says otherwise.

```python
from river import datasets, evaluate, metrics
from fastlstm.river import LSTMRegressor

print(evaluate.progressive_val_score(datasets.TrumpApproval(), LSTMRegressor(seed=0), metrics.MAE()))
```

## One sample ahead

Predict, then learn, every sample once. Linear models and deep-river stand behind a `StandardScaler`.

{first}

Phishing and ImageSegments are no sequences: their samples come in no order, and there is nothing to remember. The last
task is nothing else: the label is the bit of the sample before.

## Forecasts

Forecasts 1, 2 and 3 steps ahead at every step after the first 12 (WaterFlow: 24); mean absolute errors, averaged over
the three. "As published" is the protocol of deep-river's benchmark and of `river.evaluate.evaluate`: the forecast is
asked for before the newest value is learnt and compared with the values after that one: its first step is the second.

{second}

## Speed

deep-river's published seconds are sums, over 50 checkpoints, of the time since the start: about 26 times the time that
was spent. The 195 s of its LSTM for TrumpApproval are 6 s (the last line of its table less the one before), 167 samples
per second. The tables above have what it does on this machine: fastlstm's LSTM with as many units learns {learning}
times as many samples per second, and makes {forecasting} times as many forecasts.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for river.md")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each model, for its speed")
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(1)
    one = list(measure(one_step_tasks(), one_step, arguments.rounds))
    ahead = list(measure(forecast_tasks(), forecasts, arguments.rounds))
    text = page(one, ahead)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "river.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
