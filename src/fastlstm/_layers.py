"""Layers: their options, parameters and names. All arithmetic is the engine's (`_core`)."""

import math

import numpy as np

from fastlstm._checks import as_anything, as_choice, as_dtype_name, as_flag, as_number, as_size, shown
from fastlstm._layer import Layer

LSTM_KIND, LINEAR_KIND, GRU_KIND, RNN_KIND = 0, 1, 2, 3
INPUT_GATE, FORGET_GATE, OUTPUT_GATE, COUPLED_GATES = 1, 2, 4, 8

# name -> what `fastlstm_activation` has: kind, alpha, beta; and how many of the constants a user may give.
ACTIVATIONS = {
    "sigmoid": (0, 0.0, 0.0, 0),
    "tanh": (1, 0.0, 0.0, 0),
    "identity": (2, 0.0, 0.0, 0),
    "relu": (3, 0.0, 0.0, 0),
    "g1997": (4, 0.0, 0.0, 0),
    "h1997": (5, 0.0, 0.0, 0),
    "affine": (6, 1.0, 0.0, 2),
    "leaky_relu": (7, 0.01, 0.0, 1),
    "thresholded_relu": (8, 1.0, 0.0, 1),
    "scaled_tanh": (9, 1.7159, 2 / 3, 2),  # LeCun et al. 1998
    "hard_sigmoid": (10, 0.2, 0.5, 2),
    "elu": (11, 1.0, 1.0, 1),
    "selu": (11, 1.6732632423543772, 1.0507009873554805, 0),  # Klambauer et al. 2017
    "softsign": (12, 0.0, 0.0, 0),
    "softplus": (13, 0.0, 0.0, 0),
}

OFFSETS = ("weight_ih", "weight_hh", "weight_gh", "weight_hr", "bias_ih", "bias_hh", "weight_peephole")
STATES = ("state_h", "state_c", "state_a")
NOISE = ("dropout", "recurrent_dropout", "zoneout_h", "zoneout_c")
# The fields of `fastlstm_layer` that a kind of layer does not have.
NONE = (
    dict.fromkeys(("gates", "peepholes", "gate_recurrence", "reverse", "reset_after", "proj_size", "stream"), 0)
    | dict.fromkeys(NOISE, 0.0)
    | dict.fromkeys((*OFFSETS, *STATES), -1)
    | dict.fromkeys(("gate_activation", "input_activation", "output_activation"), ACTIVATIONS["identity"][:3])
    | {"clip": None, "block_size": 1}
)


def as_activation(value, name):
    """A name, or a tuple of a name and its constants; returns it, and what the engine takes."""
    given = value if isinstance(value, tuple) and value else (value,)
    if not isinstance(given[0], str) or given[0] not in ACTIVATIONS:
        raise ValueError(
            f"{name} is {shown(value)} and must be an activation that LSTM knows, such as 'tanh' or ('elu', 1)"
        )
    kind, alpha, beta, most = ACTIVATIONS[given[0]]
    if len(given) - 1 > most:
        raise ValueError(f"{name} is {shown(value)}: {given[0]} has {most} constants")
    constants = [as_number(number, f"a constant of {name}") for number in given[1:]]
    alpha, beta = (*constants, *(alpha, beta)[len(constants) :])
    if (given[0] in ("leaky_relu", "elu") and alpha < 0) or (given[0] == "scaled_tanh" and alpha == 0):
        raise ValueError(f"{name} is {shown(value)}: alpha must {'not be 0' if alpha == 0 else 'be 0 or more'}")
    return (given[0] if len(given) == 1 else (given[0], *constants)), (kind, alpha, beta)


class Recurrent(Layer):
    """Cells of one kind, in `num_layers` layers and one or two directions. A subclass reads its options, calls
    `_read` for those that all have, and `_describe`."""

    def _read(self, input_size, hidden_size, num_layers, bias, noise, flags):
        self.input_size = as_size(input_size, "input_size")
        self.hidden_size = as_size(hidden_size, "hidden_size")
        self.num_layers = as_size(num_layers, "num_layers", most=4096)
        self.bias = as_choice(bias, "bias", (True, "single", False))
        for name, value in noise.items():
            if name == "zoneout" and isinstance(value, tuple) and len(value) == 2 and isinstance(self, LSTM):
                self.zoneout = tuple(as_rate(part, f"zoneout of {of}") for part, of in zip(value, "hc", strict=True))
            else:
                setattr(self, name, as_rate(value, name))
        for name, value in flags.items():
            setattr(self, name, as_flag(value, name))

    def _activation(self, name, value, spec):
        """Keep a named activation, and put what the engine takes into `spec`."""
        plain, spec[name] = as_activation(value, name)
        setattr(self, name, plain)

    def _describe(self, spec, rows, parts, more, dtype, seed):
        """Name the parameters, describe the cells, and begin.

        `spec`: fields that all cells have; `rows` of parameters; `parts`: widths of the state's h, c and a; `more`:
        shapes of parameters beside the usual ones, or None.
        """
        directions = 2 if self.bidirectional else 1
        zones = self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,) * (2 if "c" in parts else 1)
        cells, outputs = self.num_layers * directions, parts["h"]
        self._specs, self._shapes, size = [], {}, 0
        self._recurrent = [(cells, parts)]
        starts = dict(zip(parts, np.cumsum([0, *parts.values()]).tolist(), strict=False))
        for k in range(cells):
            layer, reverse = divmod(k, directions)
            width = self.input_size if layer == 0 else outputs * directions
            suffix = f"_l{layer}" + ("_reverse" if reverse else "")
            shapes = {
                "weight_ih": (rows, width),
                "weight_hh": (rows, outputs),
                "bias_ih": (rows,) if self.bias else None,
                "bias_hh": (rows,) if self.bias is True else None,
            } | more
            own = {"input_size": width, "hidden_size": self.hidden_size, "reverse": reverse, "stream": layer}
            own |= {"dropout": self.dropout if layer else 0.0, "recurrent_dropout": self.recurrent_dropout}
            own |= dict(zip(("zoneout_h", "zoneout_c"), zones, strict=False))
            own |= {f"state_{part}": starts[part] * cells + k * wide for part, wide in parts.items()}
            for name, shape in shapes.items():
                if shape is not None:
                    own[name] = size
                    self._shapes[name + suffix] = (size, shape)
                    size += math.prod(shape)
            self._specs.append(NONE | spec | own)
        bound = 1 / math.sqrt(self.hidden_size)
        self._finish(dtype, random_parameters(size, dtype, seed, bound, "input_size and hidden_size"))
        self._draws = draws_of(self._specs, seed)

    def __repr__(self):
        more = f", {self.num_layers}" if self.num_layers > 1 else ""
        return f"{type(self).__name__}({self.input_size}, {self.hidden_size}{more})"


class LSTM(Recurrent):
    """Long short-term memory, in all the variants of its literature, by switches of one cell.

    For memory blocks of S cells, with s = (x_t, h_{t-1}, gate activations_{t-1} if `gate_recurrence`, 1)::

        i = sigma(W_i s + p_i . c_{t-1})     f = sigma(W_f s + p_f . c_{t-1})     g = g(W_g s)
        c_t = f c_{t-1} + i g                o = sigma(W_o s + p_o . c_t)         h_t = o h(c_t)

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L layers, each reading the one below.
    bias : True, "single" or False
        Two bias vectors as in PyTorch (both are added, both learn), one, or none.
    batch_first : bool
        Batches are (B, T, I) instead of (T, B, I).
    bidirectional : bool
        A second cell reads time backwards; outputs are (..., 2H), forward half first.
    dropout, recurrent_dropout, zoneout : float
        Noise of training, in [0, 1): it acts in `forward`, whose gradient it is part of, and not in a call.
        `dropout`: of the outputs of each layer but the last, as in PyTorch. `recurrent_dropout`: of h where the next
        step reads it, the same units in all steps of a call (Gal and Ghahramani 2016). `zoneout`: the probability that
        a unit's h, and its c, stays as it was (Krueger et al. 2017), or a pair of both; a call takes the mean of both.
    proj_size : int
        P > 0: h, which is what the layer gives out and reads again, is W_hr (P, H) times the cells' outputs, as in
        PyTorch (Sak et al. 2014); smaller than H. Where outputs or h are said to have H elements, they have P.
    peepholes : bool
        Gates read the cell states of their block (Gers, Schraudolph and Schmidhuber 2002).
    input_gate, forget_gate, output_gate : bool
        False: the gate is constantly 1. Without a forget gate this is the carousel of 1997.
    coupled_gates : bool
        f = 1 - i, without parameters of its own (Greff et al. 2017); `forget_gate` does not matter then.
    gate_recurrence : bool
        Net inputs also read all gate activations of the step before, as in 1997.
    block_size : int
        S cells share their gates (1997); divides H. Unit u is cell u % S of block u // S.
    input_activation, output_activation, gate_activation : str or tuple
        g, h and sigma: "sigmoid", "tanh", "identity", "relu", "g1997" (2 tanh(x/2)), "h1997" (tanh(x/2)), "softsign",
        "softplus", "selu"; and with constants, as a name or as (name, alpha, beta): "affine" (alpha x + beta),
        "hard_sigmoid" (that, kept in [0, 1]), "scaled_tanh" (alpha tanh(beta x)), "leaky_relu", "thresholded_relu",
        "elu" (alpha alone). The constants' meaning and defaults are those of ONNX.
    clip : float or None
        Cell states are kept within [-clip, clip].
    dtype : "float32" or "float64"
    seed : int, numpy Generator or None
        Of the initial parameters, U(-1/sqrt(H), 1/sqrt(H)).

    Notes
    -----
    Parameters have PyTorch's names, shapes and gate order i, f, g, o; see `state_dict`.

    Raises
    ------
    ValueError, TypeError
        An option is out of range, of the wrong type, or contradicts another.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> lstm = fl.LSTM(2, 8, seed=0)
    >>> y, (h, c) = lstm(np.ones((10, 2), np.float32))
    >>> y.shape
    (10, 8)
    >>> stream = lstm.stream()
    >>> bool((stream.step(np.ones(2, np.float32)) == y[0]).all())
    True
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        *,
        bias=True,
        batch_first=False,
        bidirectional=False,
        dropout=0.0,
        recurrent_dropout=0.0,
        zoneout=0.0,
        proj_size=0,
        peepholes=False,
        input_gate=True,
        forget_gate=True,
        output_gate=True,
        coupled_gates=False,
        gate_recurrence=False,
        block_size=1,
        input_activation="tanh",
        output_activation="tanh",
        gate_activation="sigmoid",
        clip=None,
        dtype="float32",
        seed=None,
    ):
        flags = {
            "batch_first": batch_first,
            "bidirectional": bidirectional,
            "peepholes": peepholes,
            "input_gate": input_gate,
            "forget_gate": forget_gate,
            "output_gate": output_gate,
            "coupled_gates": coupled_gates,
            "gate_recurrence": gate_recurrence,
        }
        noise = {"dropout": dropout, "recurrent_dropout": recurrent_dropout, "zoneout": zoneout}
        self._read(input_size, hidden_size, num_layers, bias, noise, flags)
        self.block_size = as_size(block_size, "block_size")
        if self.hidden_size % self.block_size:
            raise ValueError(f"block_size is {block_size} and must divide hidden_size, which is {hidden_size}")
        self.proj_size = as_size(proj_size, "proj_size", 0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(f"proj_size is {proj_size} and must be smaller than hidden_size, which is {hidden_size}")
        if self.coupled_gates and not self.input_gate:
            raise ValueError("coupled_gates needs input_gate: the forget gate is 1 - i")
        self.clip = None if clip is None else as_number(clip, "clip", 0, low_in=False)
        present = [self.input_gate, self.forget_gate and not self.coupled_gates, self.output_gate]
        count, blocks = sum(present), self.hidden_size // self.block_size
        rows, gates = count * blocks + self.hidden_size, count * blocks if self.gate_recurrence else 0
        bits = sum(bit for bit, has in zip((INPUT_GATE, FORGET_GATE, OUTPUT_GATE), present, strict=True) if has)
        spec = {
            "kind": LSTM_KIND,
            "gates": bits | (COUPLED_GATES if self.coupled_gates else 0),
            "peepholes": int(self.peepholes and count > 0),
            "gate_recurrence": int(self.gate_recurrence),
            "block_size": self.block_size,
            "proj_size": self.proj_size,
            "clip": self.clip,
        }
        self._activation("input_activation", input_activation, spec)
        self._activation("output_activation", output_activation, spec)
        self._activation("gate_activation", gate_activation, spec)
        more = {
            "weight_gh": (rows, gates) if gates else None,
            "weight_hr": (self.proj_size, self.hidden_size) if self.proj_size else None,
            "weight_peephole": (count, self.hidden_size) if spec["peepholes"] else None,
        }
        parts = {"h": self.proj_size or self.hidden_size, "c": self.hidden_size} | ({"a": gates} if gates else {})
        self._describe(spec, rows, parts, more, as_dtype_name(dtype), seed)


class LSTM1997(LSTM):
    """The memory cell of Hochreiter and Schmidhuber (1997): a preset of `LSTM`.

    No forget gate; blocks of cells that share their gates; g in [-2, 2] and h in [-1, 1] (eqs 4 and 5); gates and
    cells read the inputs, all cell outputs and all gate activations of the step before; one bias vector.

    Parameters
    ----------
    input_size : int
    blocks : int
        Memory cell blocks.
    block_size : int
        Cells in a block; the layer has ``blocks * block_size`` outputs.
    input_gate_bias : float or sequence of `blocks` floats, optional
        Initial bias of each block's input gate, the paper's remedy against drifting states (such as -1, -3, -5).
        Default: random like all other weights.
    output_gate_bias : float or sequence of `blocks` floats, optional
        The same of the output gates, its remedy against abuse of cells (such as -1, -2, -3).
    init : float
        Weights and biases start uniform in [-init, init]: 0.1 in experiments 3 to 6, 0.2 in 1 and 2.
    dtype, seed, **options
        As for `LSTM`.

    Examples
    --------
    >>> import fastlstm as fl
    >>> fl.LSTM1997(8, blocks=2, block_size=2, seed=0).parameters.size   # experiment 6a without its output units
    136
    """

    def __init__(
        self,
        input_size,
        blocks,
        block_size=1,
        *,
        input_gate_bias=None,
        output_gate_bias=None,
        init=0.1,
        dtype="float32",
        seed=None,
        **options,
    ):
        blocks, block_size = as_size(blocks, "blocks"), as_size(block_size, "block_size")
        init = as_number(init, "init", 0)
        preset = {
            "bias": "single",
            "forget_gate": False,
            "gate_recurrence": True,
            "input_activation": "g1997",
            "output_activation": "h1997",
        }
        super().__init__(
            input_size, blocks * block_size, block_size=block_size, dtype=dtype, seed=seed, **(preset | options)
        )
        self.blocks = blocks
        self._parameters.fetch()[:] *= init * math.sqrt(self.hidden_size)
        own_forget = self.forget_gate and not self.coupled_gates
        starts = {  # first row of a gate
            "input_gate_bias": 0,
            "output_gate_bias": blocks * (self.input_gate + own_forget) + self.hidden_size,
        }
        for name, value in (("input_gate_bias", input_gate_bias), ("output_gate_bias", output_gate_bias)):
            if value is None:
                continue
            if not getattr(self, name.removesuffix("_bias")) or not self.bias:
                raise ValueError(f"{name} must be None: the gate or its bias does not exist")
            value = as_anything(value, name, "iuf").astype(np.float64)
            if value.shape not in ((), (blocks,)) or not np.isfinite(value).all():
                raise ValueError(f"{name} must be a finite number or {blocks} of them")
            for shape_name in self._shapes:
                if shape_name.startswith("bias_ih"):
                    self._view(shape_name)[starts[name] : starts[name] + blocks] = value
        self._parameters.changed()


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014)::

        r = sigma(W_r s)    z = sigma(W_z s)    h_t = (1 - z) n + z h_{t-1}        s = (x_t, h_{t-1}, 1)
        n = phi(W_n x_t + b_n + r (U_n h_{t-1} + b'_n))     `reset_after`
        n = phi(W_n x_t + b_n + U_n (r h_{t-1}) + b'_n)     otherwise

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional : as for `LSTM`
    dropout, recurrent_dropout, zoneout, dtype, seed : as for `LSTM`
    reset_after : bool
        Where the reset gate acts. True is the form of PyTorch, cuDNN and Keras, and of ONNX with
        ``linear_before_reset=1``; False that of the paper, and ONNX' default.
    gate_activation, input_activation : str or tuple
        sigma and phi, of the names that `LSTM` knows.

    Notes
    -----
    Parameters have PyTorch's names, shapes and gate order r, z, n. The state is h (L*D, B, H).

    Raises
    ------
    ValueError, TypeError
        An option is out of range or of the wrong type.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> y, h = fl.GRU(2, 8, seed=0)(np.ones((10, 2), np.float32))
    >>> y.shape, h.shape
    ((10, 8), (1, 1, 8))
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        *,
        bias=True,
        batch_first=False,
        bidirectional=False,
        dropout=0.0,
        recurrent_dropout=0.0,
        zoneout=0.0,
        reset_after=True,
        gate_activation="sigmoid",
        input_activation="tanh",
        dtype="float32",
        seed=None,
    ):
        flags = {"batch_first": batch_first, "bidirectional": bidirectional, "reset_after": reset_after}
        noise = {"dropout": dropout, "recurrent_dropout": recurrent_dropout, "zoneout": zoneout}
        self._read(input_size, hidden_size, num_layers, bias, noise, flags)
        spec = {"kind": GRU_KIND, "reset_after": int(self.reset_after)}
        self._activation("gate_activation", gate_activation, spec)
        self._activation("input_activation", input_activation, spec)
        self._describe(spec, 3 * self.hidden_size, {"h": self.hidden_size}, {}, as_dtype_name(dtype), seed)


class RNN(Recurrent):
    """The simple recurrent network of Elman (1990): h_t = phi(W x_t + U h_{t-1} + b).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional : as for `LSTM`
    dropout, recurrent_dropout, zoneout, dtype, seed : as for `LSTM`
    nonlinearity : str or tuple
        phi: "tanh", "relu", "sigmoid", or any other activation that `LSTM` knows.

    Notes
    -----
    Parameters have PyTorch's names and shapes. The state is h (L*D, B, H).

    Raises
    ------
    ValueError, TypeError
        An option is out of range or of the wrong type.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> y, h = fl.RNN(2, 8, nonlinearity="relu", seed=0)(np.ones((10, 2), np.float32))
    >>> y.shape, h.shape
    ((10, 8), (1, 1, 8))
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        *,
        nonlinearity="tanh",
        bias=True,
        batch_first=False,
        bidirectional=False,
        dropout=0.0,
        recurrent_dropout=0.0,
        zoneout=0.0,
        dtype="float32",
        seed=None,
    ):
        flags = {"batch_first": batch_first, "bidirectional": bidirectional}
        noise = {"dropout": dropout, "recurrent_dropout": recurrent_dropout, "zoneout": zoneout}
        self._read(input_size, hidden_size, num_layers, bias, noise, flags)
        self.nonlinearity, activation = as_activation(nonlinearity, "nonlinearity")
        spec = {"kind": RNN_KIND, "input_activation": activation}
        self._describe(spec, self.hidden_size, {"h": self.hidden_size}, {}, as_dtype_name(dtype), seed)


class Linear(Layer):
    """y = act(W x + b), applied to every step.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    activation : str, tuple or None
        One that `LSTM` knows; None is "identity".
    dropout : float
        Of the inputs in training, as `LSTM` has it between its layers.
    dtype : "float32" or "float64"
    seed : int, numpy Generator or None
        Of the initial parameters, U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Notes
    -----
    Parameters: ``weight`` (out_features, in_features), ``bias`` (out_features,). Called like every layer, it returns
    ``(y, None)``: it has no state.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> y, _ = fl.Linear(3, 2, seed=0)(np.ones((4, 3), np.float32))
    >>> y.shape
    (4, 2)
    """

    def __init__(
        self, in_features, out_features, *, bias=True, activation=None, dropout=0.0, dtype="float32", seed=None
    ):
        self.in_features = as_size(in_features, "in_features")
        self.out_features = as_size(out_features, "out_features")
        has_bias = as_flag(bias, "bias")
        self.dropout = as_rate(dropout, "dropout")
        self.activation, activation = (None, None) if activation is None else as_activation(activation, "activation")
        dtype = as_dtype_name(dtype)
        size = self.in_features * self.out_features
        self._shapes = {"weight": (0, (self.out_features, self.in_features))}
        if has_bias:
            self._shapes["bias"] = (size, (self.out_features,))
        self._recurrent = []
        spec = {
            "kind": LINEAR_KIND,
            "input_size": self.in_features,
            "hidden_size": self.out_features,
            "weight_ih": 0,
            "bias_ih": size if has_bias else -1,
            "dropout": self.dropout,
        }
        self._specs = [NONE | spec | ({"output_activation": activation} if activation else {})]
        bound = 1 / math.sqrt(self.in_features)
        self._finish(
            dtype,
            random_parameters(size + self.out_features * has_bias, dtype, seed, bound, "in_features and out_features"),
        )
        self._draws = draws_of(self._specs, seed)

    def __repr__(self):
        more = f", activation={self.activation!r}" if self.activation else ""
        return f"Linear({self.in_features}, {self.out_features}{more})"


class Sequential(Layer):
    """A stacked network: each layer reads the outputs of the one before.

    Parameters
    ----------
    *layers : Layer
        `LSTM`, `LSTM1997`, `GRU`, `RNN`, `Linear`, or other `Sequential`; sizes and dtypes must fit. From now on the
        layers' parameters are slices of the network's one flat array; a layer can be part of one network only.

    Notes
    -----
    Parameter names are prefixed with the position: ``0.weight_ih_l0``. A state is a list, one entry per recurrent
    layer. `net[k]` is a layer.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> net = fl.Sequential(fl.LSTM(2, 8, seed=0), fl.Linear(8, 1, seed=1))
    >>> y, state = net(np.ones((10, 2), np.float32))
    >>> y.shape, len(state)
    ((10, 1), 1)
    """

    def __init__(self, *layers):
        if not layers:
            raise ValueError("Sequential needs at least one layer")
        for k, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {k} must be a fastlstm layer, not {type(layer).__name__}")
            if layer._parameters.parent is not None or any(layer is other for other in layers[:k]):
                raise ValueError(f"layer {k} is already part of a network; copy it (copy.deepcopy) to use it again")
            if layer.dtype != layers[0].dtype:
                raise ValueError(f"layer {k} is {layer.dtype} and must be {layers[0].dtype} as the first")
            if k and layer._network.input_size != layers[k - 1]._network.output_size:
                reads, gives = layer._network.input_size, layers[k - 1]._network.output_size
                raise ValueError(f"layer {k} reads {reads} inputs and layer {k - 1} has {gives} outputs")
        orders = {layer.batch_first for layer in layers if layer._recurrent}
        if len(orders) > 1:
            raise ValueError("batch_first must be the same for all recurrent layers of a Sequential")
        self.layers = tuple(layers)
        self.batch_first = orders.pop() if orders else False
        self._shapes, self._specs, self._recurrent = {}, [], []
        size = state = stream = 0
        for k, layer in enumerate(layers):
            self._shapes |= {f"{k}.{name}": (size + at, shape) for name, (at, shape) in layer._shapes.items()}
            self._recurrent += layer._recurrent
            moves = dict.fromkeys(OFFSETS, size) | dict.fromkeys(STATES, state) | {"stream": stream}
            self._specs += [
                {name: value + moves[name] if name in moves and value != -1 else value for name, value in spec.items()}
                for spec in layer._specs
            ]
            size += layer._parameters.size
            state += layer._network.n_state
            stream = self._specs[-1]["stream"] + 1
        self._finish(layers[0].dtype.name, np.concatenate([layer.parameters for layer in layers]))
        self._attach()
        self._draws = next((layer._draws for layer in layers if layer._draws is not None), None)

    def _attach(self):
        """Make the layers' parameters slices of this network's."""
        at = 0
        for layer in self.layers:
            layer._parameters.fetch()
            layer._parameters.attach(self._parameters, at)
            at += layer._parameters.size

    def __setstate__(self, state):
        super().__setstate__(state)
        self._attach()

    def _wrap_state(self, views):
        return views

    def _unwrap_state(self, state):
        return state

    def __getitem__(self, k):
        return self.layers[k]

    def __len__(self):
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __repr__(self):
        return f"Sequential({', '.join(map(repr, self.layers))})"


def as_rate(value, name):
    """A probability below one."""
    return as_number(value, name, 0, 1, high_in=False)


def draws_of(specs, seed):
    """The generator of a layer's noise in training, if it has any; not that of its parameters."""
    if not any(spec[name] for spec in specs for name in NOISE):
        return None
    if isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed.integers(2**63))
    return np.random.default_rng(None if seed is None else (seed, 1))


def random_parameters(size, dtype, seed, bound, sizes):
    """U(-bound, bound) from `seed`, a flat array; `sizes` names the arguments that made it so large."""
    if size > 2**31:
        raise ValueError(f"{sizes} make more than 2**31 parameters")
    if not isinstance(seed, (type(None), int, np.integer, np.random.Generator)) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer, a numpy Generator or None, not {shown(seed)}")
    if isinstance(seed, (int, np.integer)) and seed < 0:
        raise ValueError(f"seed is {shown(seed)} and must not be negative")
    return np.random.default_rng(seed).uniform(-bound, bound, size).astype(dtype)
