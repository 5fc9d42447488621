"""Estimators for River: recurrent networks that learn from a stream, one sample at a time, while it runs.

The samples are one sequence, in the order in which they are learnt. `learn_one` makes a step in time and learns from it
(`fastlstm.OnlineLearner`); `predict_one` says what this step would give and changes nothing. State and eligibility
traces go on from sample to sample, so a prediction may depend on the whole stream before it, and not on a window.

Features and classes may appear at any time, and features may be missing. A feature that is missing, or has not
appeared yet, counts as its mean (as zero, if features are not standardized). The network has more inputs than features,
and twice as many when these are used up; a new class is one output more, with a score of zero. When it grows, it keeps
what it has learnt: weights, optimizer and state go on; the eligibility traces start anew.
"""

import math
from operator import itemgetter, mul

import numpy as np
from river import base
from river.time_series.base import Forecaster

import fastlstm as fl

OPTIMIZERS = {"rmsprop": fl.RMSprop, "adam": fl.Adam, "sgd": fl.SGD}
LEAST_INPUTS = 8
FARTHEST = 5.0  # standard deviations: no outlier shall undo what was learnt,
LARGEST_ERROR = 1.0  # nor shall an error
UNKNOWN = (0, 0.0, 0.0)  # moments of nothing


def _number(value, name):
    """A finite number, or None if it is missing."""
    if value is None:
        return None
    try:
        if math.isfinite(value):
            return float(value)
    except (TypeError, OverflowError):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}") from None
    if math.isnan(value):
        return None
    raise ValueError(f"{name} is {value} and must be finite")


def _scaled(moments, values):
    """Values scaled by running moments, (count, mean, variance) of each (Welford 1962), and the moments after them.

    These include the values themselves: even the second one lies within one deviation. None is scaled to zero.
    """
    scaled, after = [], []
    for old, value in zip(moments, values, strict=True):
        if value is None:
            scaled.append(0.0)
            after.append(old)
            continue
        count, mean, variance = old
        count += 1
        change = value - mean
        mean += change / count
        rest = value - mean
        variance += (change * rest - variance) / count
        z = rest / math.sqrt(variance) if variance > 0 else 0.0
        scaled.append(FARTHEST if z > FARTHEST else -FARTHEST if z < -FARTHEST else z)
        after.append((count, mean, variance))
    return scaled, after


class _Series:
    """A number that is scaled by its running moments."""

    def __init__(self, standardize):
        self._moments = [UNKNOWN if standardize else None]

    def scaled(self, value, learn=False):
        if self._moments[0] is None:
            return value
        (z,), after = _scaled(self._moments, [value])
        if learn:
            self._moments = after
        return z

    def restored(self, z):
        if self._moments[0] is None:
            return z
        _, mean, variance = self._moments[0]
        return mean + math.sqrt(variance) * z


class _Features:
    """Samples, dicts of numbers, as arrays with a column for each feature."""

    def __init__(self, width, standardize=True):
        self.width, self.standardize = width, standardize
        self._names, self._moments = [], []  # of each column
        self._values = None  # takes the values of all columns from a sample
        self._latest = None, None, None  # values, what became of them, and the moments after them

    def inputs(self, x, learn):
        """A sample as an array (width,); with `learn`, new features get columns, and the moments move on."""
        values = self._read(x, learn)
        if values != self._latest[0]:
            inputs, after = np.zeros(self.width, np.float32), self._moments
            if self.standardize:
                inputs[: len(values)], after = _scaled(self._moments, values)
            else:
                inputs[: len(values)] = [value or 0.0 for value in values]
            self._latest = values, inputs, after
        _, inputs, after = self._latest
        if learn:
            self._moments, self._latest = after, (None, None, None)
        return inputs

    def _read(self, x, learn):
        """The values of all columns, None where there is none."""
        if not x:
            return (None,) * len(self._names)
        if len(x) == len(self._names) > 1:  # an itemgetter of one name gives no tuple
            try:
                values = self._values(x)
                if math.isfinite(sum(values)):
                    return values
            except (KeyError, TypeError):
                pass
        found = {name: _number(value, f"x[{name!r}]") for name, value in x.items()}
        new = {name for name, value in found.items() if value is not None}.difference(self._names)
        if learn and new:
            self._names += sorted(new, key=lambda name: (type(name).__name__, str(name)))  # not in a dict's order
            self._moments += [UNKNOWN] * len(new)
            self._values = itemgetter(*self._names)
            while self.width < len(self._names):
                self.width = max(LEAST_INPUTS, 2 * self.width)
        return tuple(map(found.get, self._names))


def _parts(net, flat):
    """Views of an array like `net.parameters`: one for each parameter, of its shape."""
    arrays = net.state_dict().values()
    ends = np.cumsum([array.size for array in arrays])
    return [part.reshape(array.shape) for part, array in zip(np.split(flat, ends[:-1]), arrays, strict=True)]


class _Network:
    """An LSTM and a linear layer that learn online, and may grow.

    Gates forget less at first (a bias of 1; Gers, Schmidhuber and Cummins 2000), and the first answers are zero.
    """

    def __init__(self, make, inputs, outputs):
        self._make = make  # inputs, outputs -> a learner
        self._sizes = inputs, outputs
        self.learner = make(inputs, outputs)

    def grow(self, inputs, outputs):
        """Have so many inputs and outputs, not fewer than before."""
        old = self.learner
        if self._sizes == (inputs, outputs):
            return
        if old.chunk != 1:
            old.apply()
        new = self._make(inputs, outputs)

        def grown(before, flat):
            for part, corner in zip(_parts(new.net, flat), _parts(old.net, before), strict=True):
                part[tuple(map(slice, corner.shape))] = corner
            return flat

        parameters = grown(old.net.parameters, new.net.parameters.copy())
        new.net.load_state_dict(dict(zip(new.net.state_dict(), _parts(new.net, parameters), strict=True)))
        kept = old.optimizer.state_dict()
        arrays = {name: grown(a, np.zeros_like(parameters)) for name, a in kept.items() if isinstance(a, np.ndarray)}
        new.optimizer.load_state_dict(kept | arrays)
        new.state = old.state
        self.learner, self._sizes = new, (inputs, outputs)

    def predict(self, inputs):
        """What the next step would give, (O,)."""
        return self.learner.peek(inputs).tolist()

    def learn(self, inputs, target):
        """Make a step, and learn from its target if it has one."""
        if target is not None:
            target = np.array([target], np.float32 if isinstance(target, float) else np.int64)
        self.learner.step(inputs, target)


class _Recurrent:
    """What the estimators share."""

    _loss = "mse"
    _rates = {"rmsprop": 0.01, "adam": 0.003, "sgd": 0.03}  # where the user names none
    _own = 0  # inputs beside those of features
    _room = LEAST_INPUTS  # for features, to begin with

    def __init__(
        self,
        hidden_size=32,
        num_layers=1,
        optimizer="rmsprop",
        lr=None,
        gradient="truncated-rtrl",
        chunk=1,
        standardize=True,
        seed=None,
    ):
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.optimizer = optimizer
        self.lr = lr
        self.gradient = gradient
        self.chunk = chunk
        self.standardize = standardize
        self.seed = seed
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {optimizer!r} and must be one of {', '.join(map(repr, OPTIMIZERS))}")
        self._features = _Features(self._room, standardize)
        self._network = _Network(self._learner, self._own + self._room, 1)

    def _learner(self, inputs, outputs):
        cells = fl.LSTM(inputs, self.hidden_size, self.num_layers, seed=self.seed)
        net = fl.Sequential(cells, fl.Linear(self.hidden_size, outputs, seed=0))
        start = net.state_dict()
        start["1.weight"][:] = start["1.bias"][:] = 0
        for layer in range(self.num_layers):
            start[f"0.bias_hh_l{layer}"].reshape(4, -1)[1] += 1
        net.load_state_dict(start)
        optimizer = OPTIMIZERS[self.optimizer](net, self._rates[self.optimizer] if self.lr is None else self.lr)
        return fl.OnlineLearner(
            net, self._loss, optimizer, gradient=self.gradient, chunk=self.chunk, error_bound=LARGEST_ERROR
        )

    @property
    def net(self):
        """The network as it is now, a `fastlstm.Sequential`: another one after it has grown."""
        return self._network.learner.net


_DOC = """
    Parameters
    ----------
    hidden_size, num_layers : int
        Units of each LSTM layer, and layers.
    optimizer : {optimizers}
    lr : float, optional
        Learning rate. Default: {rates}.
    gradient : "truncated-rtrl", "carried-bptt" or "bptt"
    chunk : int
        As in `fastlstm.OnlineLearner`: weights change after every `chunk` samples. "carried-bptt" with a `chunk` of 4
        or 8 remembers better what is not repeated soon.
    standardize : bool
        Scale {what} by their running means and standard deviations; what is farther than five of these counts as five.
    seed : int, optional
        Of the initial weights."""


def _doc(what, rates):
    return _DOC.format(
        what=what,
        optimizers=" or ".join(f'"{name}"' for name in OPTIMIZERS),
        rates=", ".join(f'{rate} for "{name}"' for name, rate in rates.items()),
    )


class LSTMRegressor(_Recurrent, base.Regressor):
    __doc__ = f"""A recurrent network that follows a stream of samples, each with a number.
{_doc("features and targets", _Recurrent._rates)}

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> from fastlstm.river import LSTMRegressor
    >>> metric = evaluate.progressive_val_score(datasets.TrumpApproval(), LSTMRegressor(seed=0), metrics.MAE())
    >>> metric.get() < 0.3  # a linear regression behind a StandardScaler: 0.56
    True
    """

    def __init__(
        self,
        hidden_size=32,
        num_layers=1,
        optimizer="rmsprop",
        lr=None,
        gradient="truncated-rtrl",
        chunk=1,
        standardize=True,
        seed=None,
    ):
        super().__init__(hidden_size, num_layers, optimizer, lr, gradient, chunk, standardize, seed)
        self._target = _Series(standardize)

    def learn_one(self, x, y):
        """Make a step and learn from it. Without a target (None or NaN) it is a step alone."""
        y = _number(y, "y")
        inputs = self._features.inputs(x, learn=True)
        self._network.grow(len(inputs), 1)
        self._network.learn(inputs, None if y is None else self._target.scaled(y, learn=True))

    def predict_one(self, x):
        """What the next step gives."""
        (y,) = self._network.predict(self._features.inputs(x, learn=False))
        return self._target.restored(y)


class LSTMClassifier(_Recurrent, base.Classifier):
    _loss = "cross_entropy"
    _rates = {"rmsprop": 0.01, "adam": 0.01, "sgd": 0.3}
    __doc__ = f"""A recurrent network that classifies the samples of a stream, into any number of classes.
{_doc("features", _rates)}

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> from fastlstm.river import LSTMClassifier
    >>> metric = evaluate.progressive_val_score(datasets.Phishing(), LSTMClassifier(seed=0), metrics.Accuracy())
    >>> metric.get() > 0.85
    True
    """

    def __init__(
        self,
        hidden_size=32,
        num_layers=1,
        optimizer="rmsprop",
        lr=None,
        gradient="truncated-rtrl",
        chunk=1,
        standardize=True,
        seed=None,
    ):
        super().__init__(hidden_size, num_layers, optimizer, lr, gradient, chunk, standardize, seed)
        self._classes = {}  # label -> output

    @property
    def _multiclass(self):
        return True

    def learn_one(self, x, y):
        """Make a step and learn from it. Without a label (None) it is a step alone."""
        target = None if y is None else self._classes.get(y, len(self._classes))
        inputs = self._features.inputs(x, learn=True)
        if target is not None:
            self._classes[y] = target
        self._network.grow(len(inputs), max(1, len(self._classes)))
        self._network.learn(inputs, target)

    def predict_proba_one(self, x):
        """Probabilities of all classes seen so far, in the next step."""
        if not self._classes:
            return {}
        scores = self._network.predict(self._features.inputs(x, learn=False))
        highest = max(scores)
        shares = [math.exp(score - highest) for score in scores]
        total = sum(shares)
        return {label: share / total for label, share in zip(self._classes, shares, strict=True)}


class LSTMForecaster(_Recurrent, Forecaster):
    _rates = {"rmsprop": 0.003, "adam": 0.003, "sgd": 0.01}
    _own, _room = 2, 0
    __doc__ = f"""A recurrent network that foretells a series, and may read features of the step that it foretells.

    At each step it reads the level and the last change of the series and gives the next change. Further ahead it goes
    on from its own forecasts.
{_doc("levels, changes and features", _rates)}
    differences : tuple of int, or None
        What counts as a change (Box and Jenkins 1970): the series less itself so many steps ago, for each of these one
        after the other. None is the series itself, (1,) the change since the last step, (1, 12) with monthly data the
        change since the last month less that of a year ago. As long as too little is known, the last value is the
        forecast.

    Examples
    --------
    >>> from river import datasets
    >>> from fastlstm.river import LSTMForecaster
    >>> model = LSTMForecaster(differences=(1, 12), seed=0)
    >>> for x, passengers in datasets.AirlinePassengers():
    ...     model.learn_one(passengers)
    >>> forecasts = model.forecast(horizon=12)  # the year 1961
    >>> round(forecasts[6], -2), forecasts.index(max(forecasts)) in (6, 7)  # July and August are the highest
    (600.0, True)
    """

    def __init__(
        self,
        hidden_size=32,
        num_layers=1,
        optimizer="rmsprop",
        lr=None,
        gradient="truncated-rtrl",
        chunk=1,
        standardize=True,
        seed=None,
        differences=(1,),
    ):
        super().__init__(hidden_size, num_layers, optimizer, lr, gradient, chunk, standardize, seed)
        self.differences = differences
        factors = np.ones(1)  # of the polynomial in the lag operator B: prod (1 - B^lag)
        if differences == () or not isinstance(differences, tuple | None):
            raise ValueError(f"differences is {differences!r} and must be a tuple of positive integers, or None")
        for lag in differences or ():
            if isinstance(lag, bool) or not isinstance(lag, int) or lag < 1:
                raise ValueError(f"differences is {differences!r} and must be a tuple of positive integers, or None")
            factors = np.convolve(factors, np.r_[1, np.zeros(lag - 1), -1])
        self._factors = (-factors[1:]).tolist()
        self._past = []  # values, the latest first, as many as there are factors
        self._level, self._change = _Series(standardize), _Series(standardize)
        self._read = 0.0, 0.0  # the last change and level, scaled

    def _base(self, past):
        """What a value is less its change; None as long as too little is known."""
        if len(past) < len(self._factors):
            return None
        return sum(map(mul, self._factors, past))

    def _longer(self, past, y):
        return [y, *past][: len(self._factors)]

    def _inputs(self, read, x, learn):
        return np.array([*read, *self._features.inputs(x or {}, learn).tolist()], np.float32)

    def learn_one(self, y, x=None):
        """Make a step and learn from it. If y is missing (None or NaN), the forecast takes its place."""
        known = _number(y, "y")
        y = self.forecast(1, x and [x])[0] if known is None else known
        inputs = self._inputs(self._read, x, learn=True)
        self._network.grow(len(inputs), 1)
        level, base = self._level.scaled(y, learn=True), self._base(self._past)
        if base is not None:
            change = self._change.scaled(y - base, learn=known is not None)
            self._network.learn(inputs, None if known is None else change)
            self._read = change, level
        self._past = self._longer(self._past, y)

    def forecast(self, horizon, xs=None):
        """The next `horizon` values, a list; xs: the features of each of these steps."""
        if xs is not None and len(xs) != horizon:
            raise ValueError(f"xs has {len(xs)} samples and must have {horizon}, as many as horizon")
        read, past, found = self._read, self._past, []
        if self._base(past) is None:
            return (past[:1] or [0.0]) * horizon
        stream = self.net.stream()
        stream.state = self._network.learner.state
        for k in range(horizon):
            change = float(stream.step(self._inputs(read, xs and xs[k], learn=False))[0])
            found.append(self._base(past) + self._change.restored(change))
            past = self._longer(past, found[-1])
            read = change, self._level.scaled(found[-1])
        return found
