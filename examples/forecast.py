"""Forecast a seasonal series a year ahead: monthly carbon dioxide at Mauna Loa, 1958 to 2001.

Shows regression with several targets at every step, some of which are not known (NaN): after each month the network
forecasts the next 12, and learns from those that lie before the last ten years. On these it is judged: from each month
in turn, it forecasts the 12 that follow, knowing the past alone (a rolling origin). What it forecasts are changes
against the same month of the year before, so that a seasonal-naive forecast is a zero.

Printed are the root of the mean squared error, and the mean absolute error in units of that of one seasonal-naive step
on the years to learn from (MASE, Hyndman and Koehler 2006). Beside it: the seasonal-naive forecast; the same with the
growth of the last year; and a linear autoregression by least squares, a strong rival on so short a series.

    pip install --no-deps statsmodels       for the data alone, or: --csv FILE
    python examples/forecast.py
    python examples/forecast.py --validate  how SETTINGS were chosen, without the last ten years
"""

import argparse
import csv
import importlib.util
import itertools
import sys
import time
from pathlib import Path

import numpy as np

import fastlstm as fl

SEASON, HORIZON, JUDGED = 12, 12, 120  # months
COPIES, BATCH, RATE = 16, 4, 0.01  # noisy copies of the one series, a remedy against overfitting
SETTINGS = {"hidden": 16, "noise": 0.1}  # the smallest error of GRID with --validate
GRID = [{"hidden": hidden, "noise": noise} for hidden in (16, 32) for noise in (0.0, 0.1, 0.3)]


def read_csv(path):
    """Monthly means of the last column, gaps bridged by straight lines; the first column begins with year and month."""
    months = {}
    with open(path, newline="") as file:
        for date, *_, value in itertools.islice(csv.reader(file), 1, None):
            months.setdefault(date.replace("-", "")[:6], []).extend([float(value)] if value else [])
    y = np.array([np.mean(values) if values else np.nan for values in months.values()])
    known = np.flatnonzero(~np.isnan(y))
    return np.interp(np.arange(len(y)), known, y[known])


def data_file():
    """Where statsmodels keeps the series; statsmodels itself is not imported."""
    spec = importlib.util.find_spec("statsmodels")
    for place in spec.submodule_search_locations if spec else ():
        file = Path(place) / "datasets" / "co2" / "co2.csv"
        if file.exists():
            return file
    sys.exit("co2.csv is not here: pip install --no-deps statsmodels, or name a file with --csv")


class Series:
    """Seasonal differences d (N,), and at each the HORIZON that follow (N, HORIZON), NaN beyond the end.

    Months from `first` on are judged and not learned.
    """

    def __init__(self, y, first):
        self.d = y[SEASON:] - y[:-SEASON]
        self.first = first - SEASON
        self.scale = self.d[: self.first].std()
        self.naive_error = np.abs(self.d[: self.first]).mean()
        self.following = np.full((len(self.d), HORIZON), np.nan)
        for h in range(HORIZON):
            self.following[: -1 - h, h] = self.d[1 + h :]
        self.origins = np.arange(self.first - 1, len(self.d) - HORIZON)

    def to_learn(self):
        """What follows each month, NaN where that is not before `first`."""
        known = self.following[: self.first].copy()
        for h in range(HORIZON):
            known[self.first - 1 - h :, h] = np.nan
        return known

    def errors(self, forecasts):
        """MASE and RMSE of forecasts (origins, HORIZON) of d."""
        wrong = forecasts - self.following[self.origins]
        return np.abs(wrong).mean() / self.naive_error, np.sqrt((wrong**2).mean())


def autoregression(series, order):
    """Each horizon as a linear function of the last `order` differences, by least squares."""
    lags = np.lib.stride_tricks.sliding_window_view(series.d, order)  # row k ends at d[k + order - 1]
    lags = np.column_stack([lags, np.ones(len(lags))])
    known = series.to_learn()[order - 1 :]
    forecasts = np.empty((len(series.origins), HORIZON))
    for h in range(HORIZON):
        rows = np.flatnonzero(~np.isnan(known[:, h]))
        weights = np.linalg.lstsq(lags[rows], known[rows, h], rcond=None)[0]
        forecasts[:, h] = lags[series.origins - order + 1] @ weights
    return forecasts


def network(series, seed, epochs, hidden, noise):
    """Forecasts of an LSTM that reads the differences one by one."""
    rng = np.random.default_rng(seed)
    net = fl.Sequential(fl.LSTM(1, hidden, seed=rng), fl.Linear(hidden, HORIZON, seed=rng))
    x = (series.d[:, None] / series.scale).astype(np.float32)
    y = (series.to_learn() / series.scale).astype(np.float32)
    past = x[: series.first]
    copies = [past + noise * rng.standard_normal(past.shape, np.float32) for _ in range(COPIES)]
    optimizer, schedule = fl.AdamW(net, weight_decay=0.1, clip_norm=1.0), fl.schedules.Cosine(RATE, epochs)
    options = {"epochs": epochs, "batch_size": BATCH, "schedule": schedule, "seed": rng, "progress": False}
    fl.fit(net, copies, [y] * COPIES, loss="mse", optimizer=optimizer, **options)
    return net(x)[0][series.origins] * series.scale


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--networks", type=int, default=5, help="how many; their forecasts are averaged")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, help="a date and a value in each line, below a line of names")
    parser.add_argument("--validate", action="store_true", help="compare GRID on the ten years before, and stop")
    parser.add_argument("--quick", action="store_true", help="one network, 5 epochs: a first look")
    args = parser.parse_args(argv)
    if args.quick:
        args.networks, args.epochs = 1, 5
    fl.set_num_threads(args.threads)
    y = read_csv(args.csv or data_file())
    seeds = range(args.seed, args.seed + args.networks)

    if args.validate:
        series = Series(y[:-JUDGED], len(y) - 2 * JUDGED)
        for settings in GRID:
            mean = np.mean([network(series, seed, args.epochs, **settings) for seed in seeds], axis=0)
            print("MASE {:.3f}  RMSE {:.3f}:".format(*series.errors(mean)), settings, flush=True)
        return None

    series = Series(y, len(y) - JUDGED)
    growth = [np.full(HORIZON, series.d[k - SEASON + 1 : k + 1].mean()) for k in series.origins]
    began = time.perf_counter()
    mean = np.mean([network(series, seed, args.epochs, **SETTINGS) for seed in seeds], axis=0)
    seconds = time.perf_counter() - began
    results = {
        "seasonal-naive": np.zeros((len(series.origins), HORIZON)),
        "seasonal-naive and last year's growth": np.array(growth),
        "linear autoregression, 12 months": autoregression(series, 12),
        "linear autoregression, 24 months": autoregression(series, 24),
        f"LSTM, mean of {args.networks}": mean,
    }
    print(f"{len(y)} months, {len(series.origins)} origins; {seconds:.1f} s of training")
    print(f"{'':40} MASE   RMSE")
    for name, forecasts in results.items():
        print("{:40} {:.3f}  {:.3f}".format(name, *series.errors(forecasts)))
    return series.errors(mean)[0]


if __name__ == "__main__":
    main()
