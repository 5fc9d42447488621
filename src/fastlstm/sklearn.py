"""Estimators for scikit-learn: a recurrent network that reads a sequence and says what it is, or a number.

They take what scikit-learn's own do, and more: a list of N arrays (T_b, I) of unequal length, an array (N, T, I), or a
table (N, columns).
"""

import functools

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

import fastlstm as fl

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator, X, **options):
        return estimator._validate_data(X, **options)


CELLS = {"lstm": fl.LSTM, "gru": fl.GRU, "rnn": fl.RNN}
OPTIMIZERS = {"adam": fl.Adam, "adamw": fl.AdamW, "rmsprop": fl.RMSprop, "sgd": fl.SGD}
AT_ONCE = 256  # sequences in a prediction's call


def _choice(value, name, choices):
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {value!r} and must be one of {', '.join(map(repr, choices))}")
    return value


def _listed(X, table):
    """X as a list of arrays (T_b, I) if it is one, or of series of unequal length; otherwise None."""
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = list(X)
    if not isinstance(X, (list, tuple)):
        return None
    try:
        dims = {np.ndim(x) for x in X}
    except ValueError:  # a nested list without a shape
        return None
    if dims == {1} and table == "series" and len({len(x) for x in X}) > 1:
        return [np.reshape(x, (-1, 1)) for x in X]
    return list(X) if dims == {2} else None


def _require(y):
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")


def _threaded(method):
    """The method, run with `n_threads` threads."""

    @functools.wraps(method)
    def wrapped(self, *arguments):
        before = fl.get_num_threads()
        try:
            if self.n_threads is not None:
                fl.set_num_threads(self.n_threads)
            return method(self, *arguments)
        finally:
            fl.set_num_threads(before)

    return wrapped


class _SequenceEstimator(BaseEstimator):
    def __init__(
        self,
        hidden_size=64,
        num_layers=1,
        *,
        cell="lstm",
        bidirectional=True,
        readout="mean",
        epochs=60,
        batch_size=32,
        lr=0.01,
        optimizer="adamw",
        weight_decay=0.01,
        clip_norm=1.0,
        dropout=0.0,
        standardize=True,
        table="series",
        early_stopping=False,
        validation_fraction=0.15,
        patience=10,
        random_state=None,
        n_threads=None,
        verbose=False,
    ):
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.readout = readout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.dropout = dropout
        self.standardize = standardize
        self.table = table
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.n_threads = n_threads
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _more_tags(self):  # scikit-learn before 1.6
        return {"X_types": ["2darray", "3darray"]}

    # ---- sequences ----

    def _sequences(self, X, reset):
        """X as a list of arrays (T_b, I); with `reset` learn what all later ones must be like."""
        _choice(self.table, "table", ("series", "step"))
        listed = _listed(X, self.table)
        tabular = listed is None and getattr(X, "ndim", 0) != 3
        if tabular and (reset or self._tabular):
            X = validate_data(self, X, reset=reset)
        elif tabular:
            X = check_array(X)
        if tabular:
            series = list(X[:, :, None] if self.table == "series" else X[:, None, :])
        else:
            series = list(check_array(X, allow_nd=True)) if listed is None else [check_array(x) for x in listed]
        channels = {x.shape[1] for x in series}
        if len(channels) > 1:
            raise ValueError(
                f"X has sequences of {min(channels)} and of {max(channels)} channels: all must have as many"
            )
        (channels,) = channels
        if reset:
            self._tabular, self._channels = tabular, channels
            if not tabular:
                self.n_features_in_ = channels
                self.__dict__.pop("feature_names_in_", None)
        elif channels != self._channels:
            name = type(self).__name__
            raise ValueError(f"X has {channels} features, but {name} is expecting {self._channels} features as input")
        return series

    def _scaled(self, series):
        return [((x - self._mean) / self._scale).astype(np.float32) for x in series]

    # ---- training ----

    def _train(self, X, y, outputs, loss, seed):
        _choice(self.cell, "cell", CELLS)
        _choice(self.optimizer, "optimizer", OPTIMIZERS)
        _choice(self.readout, "readout", ("last", "mean"))
        steps = np.concatenate(X)
        self._mean, self._scale = np.zeros(steps.shape[1]), np.ones(steps.shape[1])
        if self.standardize:
            self._mean, self._scale = steps.mean(0), steps.std(0)
            self._scale[self._scale < 1e-12 * np.maximum(abs(self._mean), 1e-300)] = 1  # a constant channel
        options = {"bidirectional": self.bidirectional, "dropout": self.dropout}
        first, second, third = seed.randint(2**31 - 1, size=3).tolist()
        cells = CELLS[self.cell](self._channels, self.hidden_size, self.num_layers, seed=first, **options)
        width = self.hidden_size * (2 if self.bidirectional else 1)
        self.net_ = fl.Sequential(cells, fl.Linear(width, outputs, dropout=self.dropout, seed=second))
        rule = OPTIMIZERS[self.optimizer]
        optimizer = rule(self.net_, self.lr, weight_decay=self.weight_decay, clip_norm=self.clip_norm)
        self.history_ = fl.fit(
            self.net_,
            self._scaled(X),
            y,
            loss=loss,
            optimizer=optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            readout=self.readout,
            validation=float(self.validation_fraction) if self.early_stopping else None,
            callbacks=[fl.EarlyStopping(self.patience)] if self.early_stopping else [],
            schedule=fl.schedules.Cosine(self.lr, self.epochs, warmup=min(3, self.epochs / 4)),
            progress=bool(self.verbose),
            seed=third,
        )
        self.n_iter_ = len(self.history_)
        return self

    @_threaded
    def _outputs(self, X):
        """What the network says of each sequence, (N, O)."""
        check_is_fitted(self)
        series = self._scaled(self._sequences(X, reset=False))
        found = []
        for k in range(0, len(series), AT_ONCE):
            ys, _ = self.net_(series[k : k + AT_ONCE])
            found += [y[-1] if self.readout == "last" else y.mean(0) for y in ys]
        return np.array(found, np.float64)


_PARAMETERS = """
    Parameters
    ----------
    hidden_size, num_layers : int
        Units of each layer (and direction), and layers.
    cell : "lstm", "gru" or "rnn"
    bidirectional : bool
        Read sequences from both ends.
    readout : "mean" or "last"
        What the answer is made from: the mean over all steps, or the last step (of the sequence as it stands: with
        `bidirectional`, prefer the mean).
    epochs, batch_size : int
    lr : float
        Largest learning rate; it rises for three epochs and falls along a cosine to zero.
    optimizer : "adamw", "adam", "rmsprop" or "sgd"
    weight_decay, clip_norm : float
        As in `fastlstm.AdamW`; clip_norm may be None.
    dropout : float
        Of the outputs of each layer, in training.
    standardize : bool
        Subtract each channel's mean and divide by its standard deviation, over all steps of the training data.
    table : "series" or "step"
        How a table (N, columns) is read: a row is a series of one channel, one step per column; or one step of as many
        channels as there are columns.
    early_stopping : bool
        Set a share `validation_fraction` of the sequences aside, stop when its loss has not fallen for `patience`
        epochs, and take the weights with the lowest.
    validation_fraction : float
    patience : int
    random_state : int, RandomState or None
        Of initial weights, batches and the share set aside.
    n_threads : int or None
        None: as `fastlstm.set_num_threads` says.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    net_ : fastlstm.Sequential
        The network; it reads standardized sequences.
    history_ : fastlstm.History
    n_iter_ : int
        Epochs that were run.
    n_features_in_ : int
        Columns of a table, or channels of sequences.
"""


class SequenceClassifier(ClassifierMixin, _SequenceEstimator):
    __doc__ = f"""A recurrent network that classifies sequences.
{_PARAMETERS}
    classes_ : array
        Names of the classes.

    Examples
    --------
    >>> import numpy as np
    >>> from fastlstm.sklearn import SequenceClassifier
    >>> r = np.random.default_rng(0)
    >>> X = [r.normal(size=(n, 2)).cumsum(0) for n in r.integers(5, 20, 100)]   # random walks: does one end above?
    >>> y = ["above" if x[-1, 0] > x[-1, 1] else "below" for x in X]
    >>> model = SequenceClassifier(hidden_size=16, random_state=0).fit(X[:70], y[:70])
    >>> model.score(X[70:], y[70:]) > 0.8
    True
    """

    @_threaded
    def fit(self, X, y):
        """Train on sequences X (list of (T_b, I), array (N, T, I), or table) and their classes y (N,)."""
        series = self._sequences(X, reset=True)
        _require(y)
        y = column_or_1d(y, warn=True)
        check_consistent_length(series, y)
        check_classification_targets(y)
        self.classes_, y = np.unique(y, return_inverse=True)
        seed = check_random_state(self.random_state)
        return self._train(series, y, len(self.classes_), "cross_entropy", seed)

    def predict_proba(self, X):
        """Probabilities (N, classes), in the order of `classes_`."""
        scores = self._outputs(X)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def predict(self, X):
        """The most probable class of each sequence."""
        best = self._outputs(X).argmax(1)
        return self.classes_[best]


class SequenceRegressor(RegressorMixin, _SequenceEstimator):
    __doc__ = f"""A recurrent network that gives each sequence a number, or several.

    Targets are standardized within; the loss is the mean squared error.
{_PARAMETERS}
    Examples
    --------
    >>> import numpy as np
    >>> from fastlstm.sklearn import SequenceRegressor
    >>> r = np.random.default_rng(0)
    >>> X = [r.normal(size=(n, 1)) for n in r.integers(5, 20, 100)]
    >>> y = [x.max() for x in X]
    >>> model = SequenceRegressor(hidden_size=16, random_state=0).fit(X[:70], y[:70])
    >>> model.score(X[70:], y[70:]) > 0.7
    True
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self):
        return super()._more_tags() | {"multioutput": True}

    @_threaded
    def fit(self, X, y):
        """Train on sequences X (list of (T_b, I), array (N, T, I), or table) and their targets y, (N,) or (N, O)."""
        series = self._sequences(X, reset=True)
        _require(y)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(series, y)
        self._single = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._y_mean, self._y_scale = y.mean(0), y.std(0)
        self._y_scale[self._y_scale == 0] = 1
        y = ((y - self._y_mean) / self._y_scale).astype(np.float32)
        return self._train(series, y, y.shape[1], "mse", check_random_state(self.random_state))

    def predict(self, X):
        """The number or numbers of each sequence, (N,) or (N, O) as in training."""
        y = self._outputs(X) * self._y_scale + self._y_mean
        return y[:, 0] if self._single else y
