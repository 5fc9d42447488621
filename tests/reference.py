"""The law: every equation of the LSTM in plain NumPy float64, one loop per time step and lane.

The engine is tested against this file, so it is written to be read beside the papers and not to be fast. It imports
nothing but NumPy.

The papers, as the comments name them:

- 1990: Elman, "Finding Structure in Time", Cognitive Science 14.
- 1997: Hochreiter and Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8).
- 2000: Gers, Schmidhuber and Cummins, "Learning to Forget", Neural Computation 12(10).
- 2002: Gers, Schraudolph and Schmidhuber, "Learning Precise Timing with LSTM Recurrent Networks", JMLR 3.
- 2005: Graves and Schmidhuber, "Framewise Phoneme Classification", Neural Networks 18.
- 2014: Sak, Senior and Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures", Interspeech.
- 2014, Cho et al.: "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP.
- 2017: Greff et al., "LSTM: A Search Space Odyssey", IEEE TNNLS 28(10).

Sizes: T steps, B lanes, I inputs, O outputs, H cells, S cells in a block, J = H / S blocks (a gate has one unit for
each block), n gates present, R rows = H + n J, and A = n J gate activations that feed back under gate recurrence
(0 without it). Cell u belongs to block u // S.

Parameters of one layer and direction are a dict, rows stacked in the order i, f, g, o (rows of absent gates absent):
``weight_ih`` (R, I), ``weight_hh`` (R, H), optional ``bias_ih`` and ``bias_hh`` (R,), ``weight_peephole`` (n, H) in the
order i, f, o, and ``weight_gh`` (R, A). A linear layer has ``weight`` (O, I) and optional ``bias`` (O,).
"""

import copy
from dataclasses import dataclass, replace

import numpy as np

# Activations ----------------------------------------------------------------------------------------------------------


def activation(name, x):
    """Value of the activation called `name`, elementwise; any shape."""
    if name is None or name == "identity":
        return x
    if name == "sigmoid":
        # f(x) = 1 / (1 + exp(-x))                                   (1997, eq. 3); as e^x / (1 + e^x) for x < 0
        e = np.exp(-np.abs(x))
        return np.where(x < 0.0, e, 1.0) / (1.0 + e)
    if name == "tanh":
        return np.tanh(x)
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "h1997":
        # h(x) = 2 / (1 + exp(-x)) - 1 = tanh(x / 2)                 (1997, eq. 4)
        return np.tanh(x / 2.0)
    if name == "g1997":
        # g(x) = 4 / (1 + exp(-x)) - 2 = 2 tanh(x / 2)               (1997, eq. 5)
        return 2.0 * np.tanh(x / 2.0)
    name, alpha, beta = constants(name)  # the operators of ONNX, as its specification defines them
    if name == "affine":
        return alpha * x + beta
    if name == "leaky_relu":
        return np.where(x > 0.0, x, alpha * x)
    if name == "thresholded_relu":
        return np.where(x > alpha, x, 0.0)
    if name == "scaled_tanh":
        return alpha * np.tanh(beta * x)
    if name == "hard_sigmoid":
        return np.clip(alpha * x + beta, 0.0, 1.0)
    if name == "elu":
        return np.where(x > 0.0, beta * x, beta * alpha * np.expm1(np.minimum(x, 0.0)))
    if name == "softsign":
        return x / (1.0 + np.abs(x))
    if name == "softplus":
        return np.logaddexp(0.0, x)
    raise ValueError(f"activation is {name!r}, which is not known")


DEFAULTS = {"affine": (1.0, 0.0), "leaky_relu": (0.01,), "thresholded_relu": (1.0,), "scaled_tanh": (1.7159, 2 / 3)}
DEFAULTS |= {"hard_sigmoid": (0.2, 0.5), "elu": (1.0, 1.0)}


def constants(name):
    """Name, alpha and beta of an activation given as a name or as (name, alpha, beta)."""
    if name == "selu":  # an elu that is scaled
        return "elu", 1.6732632423543772, 1.0507009873554805
    name, *given = name if isinstance(name, tuple) else (name,)
    default = DEFAULTS.get(name, ())
    return (name, *given, *default[len(given) :], 0.0, 0.0)[:3]


def derivative(name, y):
    """Derivative of the activation called `name`, through its value `y`; any shape."""
    if name is None or name == "identity":
        return np.ones_like(y)
    if name == "sigmoid":
        return y * (1.0 - y)
    if name == "tanh":
        return 1.0 - y * y
    if name == "relu":
        return np.where(y > 0.0, 1.0, 0.0)
    if name == "h1997":
        return (1.0 - y * y) / 2.0
    if name == "g1997":
        return 1.0 - y * y / 4.0
    name, alpha, beta = constants(name)
    if name == "affine":
        return np.full_like(y, alpha)
    if name == "leaky_relu":
        return np.where(y > 0.0, 1.0, alpha)
    if name == "thresholded_relu":
        return np.where(y != 0.0, 1.0, 0.0)
    if name == "scaled_tanh":
        return beta * (alpha - y * y / alpha)
    if name == "hard_sigmoid":
        return np.where((y > 0.0) & (y < 1.0), alpha, 0.0)
    if name == "elu":
        return np.where(y > 0.0, beta, y + beta * alpha)
    if name == "softsign":
        return (1.0 - np.abs(y)) ** 2
    if name == "softplus":
        return -np.expm1(-y)
    raise ValueError(f"activation is {name!r}, which is not known")


# The cell -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Sizes and options of one LSTM layer and direction; the names are those of ``fastlstm.LSTM``."""

    input_size: int
    hidden_size: int
    block_size: int = 1
    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    coupled_gates: bool = False
    peepholes: bool = False
    gate_recurrence: bool = False
    input_activation: str = "tanh"
    output_activation: str = "tanh"
    gate_activation: str = "sigmoid"
    clip: float | None = None
    proj_size: int = 0

    @property
    def outputs(self):
        """P, how wide h is."""
        return self.proj_size or self.hidden_size

    @property
    def blocks(self):
        """J, the number of units of each gate."""
        return self.hidden_size // self.block_size

    @property
    def gates(self):
        """The gates that have rows of their own, in the order i, f, o; coupled gates have no f rows."""
        present = {
            "i": self.input_gate,
            "f": self.forget_gate and not self.coupled_gates,
            "o": self.output_gate,
        }
        return tuple(k for k in "ifo" if present[k])

    @property
    def rows(self):
        """Name ("i", "f", "g", "o") -> slice of the stacked rows; absent gates are not in it."""
        slices, start = {}, 0
        for k in "ifgo":
            if k == "g" or k in self.gates:
                size = self.hidden_size if k == "g" else self.blocks
                slices[k] = slice(start, start + size)
                start += size
        return slices

    @property
    def sources(self):
        """A, the number of gate activations that feed back."""
        return len(self.gates) * self.blocks if self.gate_recurrence else 0


def parameter_shapes(cell, bias=True):
    """Name -> shape of the parameters of `cell`; bias is True (two vectors), "single" or False, as in fastlstm."""
    r = cell.hidden_size + len(cell.gates) * cell.blocks
    shapes = {"weight_ih": (r, cell.input_size), "weight_hh": (r, cell.outputs)}
    if cell.proj_size:
        shapes["weight_hr"] = (cell.proj_size, cell.hidden_size)
    if bias:
        shapes["bias_ih"] = (r,)
    if bias is True:
        shapes["bias_hh"] = (r,)
    if cell.peepholes and cell.gates:
        shapes["weight_peephole"] = (len(cell.gates), cell.hidden_size)
    if cell.sources:
        shapes["weight_gh"] = (r, cell.sources)
    return shapes


def random_parameters(shapes, rng, scale=0.5):
    """Name -> array drawn from U(-scale, scale), for a dict name -> shape."""
    return {name: rng.uniform(-scale, scale, shape) for name, shape in shapes.items()}


def block_sum(v, size):
    """(H,) -> (J,): the sum over the cells of each block."""
    return v.reshape(-1, size).sum(axis=1)


def spread(v, size):
    """(J,) -> (H,): each cell gets the value of its block."""
    return np.repeat(v, size)


def lstm_step(cell, params, x, h, c, a, c_before=None, c_after=None):
    """One step of one lane.

    Parameters
    ----------
    cell : Cell
    params : dict of the layer's parameters
    x : (I,) input
    h, c : (P,) hidden state and (H,) cell state of the step before
    a : (A,) gate activations of the step before
    c_before, c_after : (H,), optional
        What the peepholes of i and f, and of o, see in place of c_{t-1} and c_t (to hold them constant).

    Returns
    -------
    dict
        ``i``, ``f``, ``o`` (J,); ``g``, ``c``, ``hc`` = h(c_t), ``m`` = o hc (H,); ``h`` (P,); ``a`` (A,); ``keep``
        (H,), 0 where c was clipped, else 1.
    """
    size, rows, gates = cell.block_size, cell.rows, cell.gates
    c_before = c if c_before is None else c_before
    peephole = dict(zip(gates, params["weight_peephole"], strict=True)) if "weight_peephole" in params else {}

    # net = W_ih x_t + W_hh h_{t-1} + W_gh a_{t-1} + b     (1997, sec. 4 and A.1; a: all hidden-layer units are sources)
    net = params["weight_ih"] @ x + params["weight_hh"] @ h
    if cell.sources:
        net = net + params["weight_gh"] @ a
    for name in ("bias_ih", "bias_hh"):
        if name in params:
            net = net + params[name]

    def gate(k, seen):
        # gate_j = f(net_j + sum_{v in block j} p_v c_v)             (1997, sec. 4; the peepholes' sum: 2002)
        if k not in gates:
            return np.ones(cell.blocks)
        total = net[rows[k]]
        if k in peephole:
            total = total + block_sum(peephole[k] * seen, size)
        return activation(cell.gate_activation, total)

    i = gate("i", c_before)
    # f = 1 - i with coupled gates                                   (2017, CIFG); f = 1 without a forget gate (1997)
    f = 1.0 - i if cell.coupled_gates else gate("f", c_before)
    # g_u = g(net_u)                                                 (1997, sec. 4)
    g = activation(cell.input_activation, net[rows["g"]])
    # c_t = f c_{t-1} + i g                                          (1997, sec. 4, with f = 1; 2000, eq. for s_c)
    free = spread(f, size) * c + spread(i, size) * g
    keep = np.ones(cell.hidden_size)
    new = free
    if cell.clip is not None:
        # c_t in [-clip, clip]; nothing flows through a clipped cell
        new = np.clip(free, -cell.clip, cell.clip)
        keep = np.where(np.abs(free) > cell.clip, 0.0, 1.0)
    # the output gate sees c_t                                       (2002)
    o = gate("o", new if c_after is None else c_after)
    # h_t = o h(c_t)                                                 (1997, sec. 4)
    hc = activation(cell.output_activation, new)
    m = spread(o, size) * hc
    # h_t = W_hr (o h(c_t))                                          (2014, with a recurrent projection layer)
    out = params["weight_hr"] @ m if cell.proj_size else m
    values = {"i": i, "f": f, "o": o}
    fed_back = np.concatenate([values[k] for k in gates]) if cell.sources else np.zeros(0)
    return {"i": i, "f": f, "o": o, "g": g, "c": new, "hc": hc, "m": m, "h": out, "a": fed_back, "keep": keep}


# Whole sequences ------------------------------------------------------------------------------------------------------


def _visits(steps, b, lengths, reset, reverse):
    """The steps lane b visits, in order, as (t, fresh); fresh: the state is zero before that visit."""
    length = steps if lengths is None else int(lengths[b])
    visits = []
    for t in reversed(range(length)) if reverse else range(length):
        # An episode starts at t where reset is true: forwards the state is zero before t; backwards, t is the episode's
        # last visit, and the state is zero before t - 1.
        start = t + 1 if reverse else t
        fresh = reset is not None and start < length and bool(reset[start, b])
        visits.append((t, fresh))
    return visits


def _initial_state(cell, lanes, state):
    """Copies of (h (B, H), c (B, H), a (B, A)); zeros for what is not given."""
    state = () if state is None else tuple(state)
    sizes = (cell.outputs, cell.hidden_size, cell.sources)
    given = state + (None,) * (3 - len(state))
    return tuple(np.zeros((lanes, n)) if s is None else np.array(s, float) for s, n in zip(given, sizes, strict=True))


def lstm_forward(cell, params, x, state=None, lengths=None, reset=None, reverse=False):
    """One layer and direction over whole sequences.

    Parameters
    ----------
    x : (T, B, I)
    state : (h (B, H), c (B, H)) or (h, c, a (B, A)), optional
        Before the first step visited; zeros if not given.
    lengths : (B,) integers, optional
        Steps beyond are never read; their outputs are zero.
    reset : (T, B) booleans, optional
        Where true, an episode starts at that step.
    reverse : bool
        Visit the steps from each lane's last valid one down to 0.

    Returns
    -------
    y : (T, B, H)
    state : (h (B, H), c (B, H), a (B, A)) after the last step visited
    """
    steps, lanes, _ = x.shape
    h, c, a = _initial_state(cell, lanes, state)
    y = np.zeros((steps, lanes, cell.outputs))
    for b in range(lanes):
        for t, fresh in _visits(steps, b, lengths, reset, reverse):
            if fresh:
                h[b], c[b], a[b] = 0.0, 0.0, 0.0
            s = lstm_step(cell, params, x[t, b], h[b], c[b], a[b])
            h[b], c[b], a[b] = s["h"], s["c"], s["a"]
            y[t, b] = s["h"]
    return y, (h, c, a)


def lstm_backward(cell, params, x, dy, state=None, dstate=None, lengths=None, reset=None, reverse=False):
    """Backpropagation through time, nothing cut: the gradient of sum(y dy) + sum(final state dstate).

    Parameters
    ----------
    x, state, lengths, reset, reverse : as in `lstm_forward`
    dy : (T, B, H)
    dstate : (dh (B, H), dc (B, H)) or (dh, dc, da (B, A)), optional

    Returns
    -------
    dx : (T, B, I)
    dstate : (dh (B, H), dc (B, H), da (B, A)) of the initial state
    grads : dict, the parameters' names and shapes
    """
    steps, lanes, _ = x.shape
    size, rows, gates = cell.block_size, cell.rows, cell.gates
    h0, c0, a0 = _initial_state(cell, lanes, state)
    dh, dc, da = _initial_state(cell, lanes, dstate)
    dx = np.zeros(x.shape)
    grads = zero_gradients(params)
    peephole = dict(zip(gates, params["weight_peephole"], strict=True)) if "weight_peephole" in params else {}
    for b in range(lanes):
        visits = _visits(steps, b, lengths, reset, reverse)
        tape = []
        h, c, a = h0[b], c0[b], a0[b]
        for t, fresh in visits:
            if fresh:
                h, c, a = np.zeros_like(h), np.zeros_like(c), np.zeros_like(a)
            s = lstm_step(cell, params, x[t, b], h, c, a)
            tape.append((h, c, a, s))
            h, c, a = s["h"], s["c"], s["a"]
        for (t, fresh), (h, c, a, s) in zip(reversed(visits), reversed(tape), strict=True):
            slope = {k: derivative(cell.gate_activation, s[k]) for k in gates}
            dact = dict(zip(gates, np.split(da[b], len(gates)), strict=True)) if cell.sources else {}
            dnet = np.zeros(len(params["weight_ih"]))
            # dh_t = error from above + what came back through net_{t+1}          (2005; 1997's full gradient)
            e_h = dh[b] + dy[t, b]
            if cell.proj_size:
                grads["weight_hr"] += np.outer(e_h, s["m"])
                e_h = params["weight_hr"].T @ e_h
            # do = sum_block dh h(c) + da_o;  dnet_o = do f'
            if "o" in gates:
                dnet[rows["o"]] = (block_sum(e_h * s["hc"], size) + dact.get("o", 0.0)) * slope["o"]
            # dc_t = dh o h'(c) + p_o dnet_o + what came back from t + 1
            e_c = dc[b] + e_h * spread(s["o"], size) * derivative(cell.output_activation, s["hc"])
            if "o" in peephole:
                e_c = e_c + peephole["o"] * spread(dnet[rows["o"]], size)
            e_c = e_c * s["keep"]
            # dnet_g = dc i g'
            dnet[rows["g"]] = e_c * spread(s["i"], size) * derivative(cell.input_activation, s["g"])
            # di = sum_block dc g + da_i  (coupled: dc (g - c_{t-1}));  dnet_i = di f'
            if "i" in gates:
                pull = s["g"] - c if cell.coupled_gates else s["g"]
                dnet[rows["i"]] = (block_sum(e_c * pull, size) + dact.get("i", 0.0)) * slope["i"]
            # df = sum_block dc c_{t-1} + da_f;  dnet_f = df f'
            if "f" in gates:
                dnet[rows["f"]] = (block_sum(e_c * c, size) + dact.get("f", 0.0)) * slope["f"]
            _add_outer(grads, dnet, x[t, b], h, a)
            for k in peephole:
                # dp_v += dnet_j c_v; i and f saw c_{t-1}, o saw c_t
                grads["weight_peephole"][gates.index(k)] += spread(dnet[rows[k]], size) * (s["c"] if k == "o" else c)
            # dx_t = W_ih^T dnet;  dh_{t-1} = W_hh^T dnet;  da_{t-1} = W_gh^T dnet
            dx[t, b] = params["weight_ih"].T @ dnet
            dh[b] = params["weight_hh"].T @ dnet
            da[b] = params["weight_gh"].T @ dnet if cell.sources else 0.0
            # dc_{t-1} = dc_t f + p_i dnet_i + p_f dnet_f
            dc[b] = e_c * spread(s["f"], size)
            for k in ("i", "f"):
                if k in peephole:
                    dc[b] += peephole[k] * spread(dnet[rows[k]], size)
            if fresh:
                dh[b], dc[b], da[b] = 0.0, 0.0, 0.0
    return dx, (dh, dc, da), grads


# Cells whose state is h alone -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GRU:
    """Sizes and options of one GRU layer and direction; the names are those of ``fastlstm.GRU``."""

    input_size: int
    hidden_size: int
    reset_after: bool = True
    gate_activation: str = "sigmoid"
    input_activation: str = "tanh"

    gates = 3

    def step(self, params, x, h):
        """One step of one lane: h_t (H,), and what the gradient needs."""
        net_x, net_h = params["weight_ih"] @ x, params["weight_hh"] @ h
        net_x, net_h = net_x + params.get("bias_ih", 0.0), net_h + params.get("bias_hh", 0.0)
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(net_x, 3), np.split(net_h, 3)
        # r = sigma(W_r x + U_r h), z likewise                           (2014, Cho et al., eqs 5 and 6)
        r, z = activation(self.gate_activation, x_r + h_r), activation(self.gate_activation, x_z + h_z)
        if not self.reset_after:
            # n = phi(W x + U (r h))                                     (2014, Cho et al., eq. 8)
            h_n = h_n + np.split(params["weight_hh"], 3)[2] @ (r * h - h)
        # n = phi(W x + r (U h)) where the reset gate acts after the product
        n = activation(self.input_activation, x_n + (r * h_n if self.reset_after else h_n))
        # h_t = z h_{t-1} + (1 - z) n                                    (2014, Cho et al., eq. 7)
        return z * h + (1.0 - z) * n, {"r": r, "z": z, "n": n, "h_n": h_n}

    def back(self, params, s, h, dh):
        """Errors of the inputs' and of h's part of the net inputs (3 H,) and of h_{t-1} (H,); what U_n multiplied."""
        r, z, n = s["r"], s["z"], s["n"]
        d_z = dh * (h - n) * derivative(self.gate_activation, z)
        d_n = dh * (1.0 - z) * derivative(self.input_activation, n)
        u_n = np.split(params["weight_hh"], 3)[2]
        pulled = d_n * s["h_n"] if self.reset_after else (u_n.T @ d_n) * h
        d_r = pulled * derivative(self.gate_activation, r)
        at_x = np.concatenate([d_r, d_z, d_n])
        at_h = np.concatenate([d_r, d_z, d_n * r if self.reset_after else d_n])
        before = dh * z + params["weight_hh"].T @ at_h
        if not self.reset_after:
            before += u_n.T @ d_n * r - u_n.T @ d_n  # U_n read r h, not h
        return at_x, at_h, before, h if self.reset_after else r * h


@dataclass(frozen=True)
class RNN:
    """Sizes and options of one Elman layer and direction; the names are those of ``fastlstm.RNN``."""

    input_size: int
    hidden_size: int
    nonlinearity: str = "tanh"

    gates = 1

    def step(self, params, x, h):
        """One step of one lane: h_t (H,), and what the gradient needs."""
        # h_t = phi(W x_t + U h_{t-1} + b)                               (1990)
        net = (
            params["weight_ih"] @ x + params["weight_hh"] @ h + params.get("bias_ih", 0.0) + params.get("bias_hh", 0.0)
        )
        h = activation(self.nonlinearity, net)
        return h, {"h": h}

    def back(self, params, s, h, dh):
        """As `GRU.back`."""
        d = dh * derivative(self.nonlinearity, s["h"])
        return d, d, params["weight_hh"].T @ d, h


def simple_forward(cell, params, x, state=None, lengths=None, reset=None, reverse=False, tape=None):
    """As `lstm_forward`, of a `GRU` or `RNN`; the state is (h (B, H),). `tape`: gets a list for each lane."""
    steps, lanes, _ = x.shape
    h = np.zeros((lanes, cell.hidden_size)) if state is None else np.array(state[0], float)
    y = np.zeros((steps, lanes, cell.hidden_size))
    for b in range(lanes):
        seen = []
        for t, fresh in _visits(steps, b, lengths, reset, reverse):
            before = np.zeros(cell.hidden_size) if fresh else h[b].copy()
            h[b], kept = cell.step(params, x[t, b], before)
            y[t, b] = h[b]
            seen.append((t, fresh, before, kept))
        if tape is not None:
            tape.append(seen)
    return y, (h,)


def simple_backward(cell, params, x, dy, state=None, dstate=None, lengths=None, reset=None, reverse=False):
    """As `lstm_backward`, of a `GRU` or `RNN`; states are (h,)."""
    tape = []
    simple_forward(cell, params, x, state, lengths, reset, reverse, tape)
    dx, grads = np.zeros(x.shape), zero_gradients(params)
    dh = np.zeros((x.shape[1], cell.hidden_size)) if dstate is None else np.array(dstate[0], float)
    for b, seen in enumerate(tape):
        for t, fresh, before, kept in reversed(seen):
            at_x, at_h, dh[b], read = cell.back(params, kept, before, dh[b] + dy[t, b])
            grads["weight_ih"] += np.outer(at_x, x[t, b])
            split = 2 * cell.hidden_size * (cell.gates == 3)  # a GRU's candidate may read something else than h
            grads["weight_hh"][:split] += np.outer(at_h[:split], before)
            grads["weight_hh"][split:] += np.outer(at_h[split:], read)
            for name, d in (("bias_ih", at_x), ("bias_hh", at_h)):
                if name in grads:
                    grads[name] += d
            dx[t, b] = params["weight_ih"].T @ at_x
            if fresh:
                dh[b] = 0.0
    return dx, (dh,), grads


def stacked_forward(cell, params, x, num_layers=1, bidirectional=False, state=None, lengths=None, reset=None):
    """Layers on layers, from a flat dict with PyTorch's names (``weight_ih_l0``, ``weight_ih_l0_reverse``, ...).

    Parameters
    ----------
    cell : Cell
        Of the first layer; the layers above read D * H inputs (D = 2 if bidirectional, else 1).
    x : (T, B, I)
    state : (h, c) or (h, c, a), each (num_layers * D, B, ...), optional

    Returns
    -------
    y : (T, B, D * H)
    state : (h (L*D, B, H), c (L*D, B, H), a (L*D, B, A)) in the order l0, l0_reverse, l1, ...
    """
    directions = ("", "_reverse") if bidirectional else ("",)
    final = []
    for layer in range(num_layers):
        size = cell.input_size if layer == 0 else len(directions) * cell.outputs
        halves = []
        for d, direction in enumerate(directions):
            k = layer * len(directions) + d
            run = lstm_forward if isinstance(cell, Cell) else simple_forward
            y, last = run(
                replace(cell, input_size=size),
                layer_parameters(params, f"_l{layer}{direction}"),
                x,
                None if state is None else [s[k] for s in state],
                lengths,
                reset,
                reverse=direction == "_reverse",
            )
            halves.append(y)
            final.append(last)
        x = np.concatenate(halves, axis=2)
    return x, tuple(np.stack(part) for part in zip(*final, strict=True))


def layer_parameters(params, suffix):
    """The parameters of one layer and direction, from a flat dict: those whose names end in `suffix`, without it."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_gh", "weight_hr")
    return {name: np.asarray(params[name + suffix], float) for name in names if name + suffix in params}


def linear_forward(params, x, activation_name=None):
    """y = f(W x + b); x (..., I) -> (..., O)."""
    y = x @ params["weight"].T
    if "bias" in params:
        y = y + params["bias"]
    return activation(activation_name, y)


# Losses of one step: (loss, dy); dy has the shape of y ----------------------------------------------------------------


def mse(y, target):
    """Mean of (y - t)^2 over the elements with a target (NaN: none); y, target (B, O)."""
    has = ~np.isnan(target)
    n = max(has.sum(), 1)
    e = np.where(has, y - target, 0.0)
    return (e * e).sum() / n, 2.0 * e / n


def sse(y, target):
    """Half the sum of (y - t)^2 (NaN: no target); y, target (B, O)."""
    # E = 1/2 sum_k (t_k - y_k)^2                                    (1997, A.1; its updates drop the factor 2)
    e = np.where(np.isnan(target), 0.0, y - target)
    return 0.5 * (e * e).sum(), e


def cross_entropy(y, target):
    """Mean of -log softmax(y)[t] over the lanes with a target (-1: none); y (B, O) logits, target (B,) integers."""
    loss, dy = 0.0, np.zeros(y.shape)
    n = max(int((target >= 0).sum()), 1)
    for b, k in enumerate(target):
        if k >= 0:
            log_p = y[b] - y[b].max()
            log_p = log_p - np.log(np.exp(log_p).sum())
            # dE/dy_k = p_k - [k = t]
            loss -= log_p[k] / n
            dy[b] = np.exp(log_p) / n
            dy[b, k] -= 1.0 / n
    return loss, dy


def binary_cross_entropy(y, target):
    """Mean of -t log y - (1-t) log(1-y) over the elements with a target (NaN: none); y, target (B, O)."""
    has = ~np.isnan(target)
    n = max(has.sum(), 1)
    p, t = np.where(has, y, 0.5), np.where(has, target, 0.5)
    loss = np.where(has, -t * np.log(p) - (1.0 - t) * np.log(1.0 - p), 0.0)
    # dE/dy = (y - t) / (y (1 - y))
    return loss.sum() / n, np.where(has, (p - t) / (p * (1.0 - p)), 0.0) / n


LOSSES = {"mse": mse, "sse": sse, "cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}


def _loss(loss):
    """The loss function called `loss`, or `loss` itself if it is one."""
    return LOSSES[loss] if isinstance(loss, str) else loss


# The truncated gradient -----------------------------------------------------------------------------------------------
#
# Definition. The derivatives of every net input with respect to h_{t-1}, the gate activations of t-1 and, through
# peepholes, c_{t-1} are zero; so is that of net_o with respect to c_t. In time there remains dc_t/dc_{t-1} = f_t alone
# (1 without a forget gate, 0 where c was clipped). In a stack the error of step t goes down from layer to layer inside
# step t; for the layers below, the c_{t-1} of those above is a constant.
# (1997, A.1; 2000, eqs 3.10-3.12; 2002, eqs 22-24)
#
# A network is a list of ("lstm", Cell, params) and ("linear", activation name, params).


def zero_gradients(params):
    """Name -> zeros of the parameter's shape."""
    return {name: np.zeros(np.shape(p)) for name, p in params.items()}


def _add_outer(grads, dnet, x, h, a):
    """Add dnet (R,) times each source x (I,), h (H,), a (A,) and 1 to the gradients of a layer."""
    grads["weight_ih"] += np.outer(dnet, x)
    grads["weight_hh"] += np.outer(dnet, h)
    if "weight_gh" in grads:
        grads["weight_gh"] += np.outer(dnet, a)
    for name in ("bias_ih", "bias_hh"):
        if name in grads:
            grads[name] += dnet


def _local_factors(cell, s, c):
    """dc_t/dnet at step t, per cell (H,): name -> factor, for g and for the gates i and f that are present.

    `s` is what `lstm_step` returned, `c` (H,) is c_{t-1}.
    """
    size = cell.block_size
    # g: i g'                                                        (1997, A.1)
    factors = {"g": spread(s["i"], size) * derivative(cell.input_activation, s["g"])}
    # i: g i'                                                       (1997, A.1); coupled, f = 1 - i: (g - c_{t-1}) i'
    if "i" in cell.gates:
        pull = s["g"] - c if cell.coupled_gates else s["g"]
        factors["i"] = pull * spread(derivative(cell.gate_activation, s["i"]), size)
    # f: c_{t-1} f'                                                  (2000, eqs 3.10-3.12)
    if "f" in cell.gates:
        factors["f"] = c * spread(derivative(cell.gate_activation, s["f"]), size)
    return {k: v * s["keep"] for k, v in factors.items()}


def _output_errors(cell, s, dh):
    """The error at net_o (J,) and at c_t (H,) from the error dh (H,) at h_t of the same step."""
    size = cell.block_size
    # e_o = o' sum_{c in j} h(s_c) d_c                               (1997, A.1)
    e_o = derivative(cell.gate_activation, s["o"]) * block_sum(s["hc"] * dh, size)
    # e_s = o h'(s_c) d_c                                            (1997, A.1)
    e_c = spread(s["o"], size) * derivative(cell.output_activation, s["hc"]) * dh
    return e_o, e_c


def _net_errors(cell, s, c, e_o, e_c):
    """The error at all net inputs (R,) of a step, from e_o (J,) at net_o and e_c (H,) at c_t."""
    dnet = np.zeros(cell.hidden_size + len(cell.gates) * cell.blocks)
    for k, factor in _local_factors(cell, s, c).items():
        # dnet_g = e_c i g';  dnet_i = sum_block e_c g i';  dnet_f = sum_block e_c c_{t-1} f'
        dnet[cell.rows[k]] = e_c * factor if k == "g" else block_sum(e_c * factor, cell.block_size)
    if "o" in cell.gates:
        dnet[cell.rows["o"]] = e_o
    return dnet


class TruncatedRTRL:
    """The learning algorithm of 1997, step by step, with one dense trace for each weight.

    Parameters
    ----------
    layers : list of ("lstm", Cell, params) and ("linear", activation name, params)
        The parameters are copied; `self.layers` holds the copies.
    loss : str or callable
        A name in `LOSSES`, or (y, target) -> (loss, dy).
    lanes : int
        B.
    error_bound : float
        Errors of all layers' outputs are kept in [-error_bound, error_bound].

    Attributes
    ----------
    grads : list of dicts
        The gradients gathered since the last `zero_grad`, by the parameters' names; `bias_ih` and `bias_hh` each get
        the gradient.
    last_loss : float or None
        The loss of the last step; None if it had no target.
    """

    def __init__(self, layers, loss, lanes=1, error_bound=np.inf):
        self.layers = [
            (kind, what, {k: np.array(p, float) for k, p in params.items()}) for kind, what, params in layers
        ]
        self.loss, self.lanes, self.last_loss, self.error_bound = _loss(loss), lanes, None, error_bound
        self.velocity = [zero_gradients(params) for _, _, params in self.layers]
        self.zero_grad()
        self.reset()

    def zero_grad(self):
        """Clear the gradients."""
        self.grads = [zero_gradients(params) for _, _, params in self.layers]

    def reset(self, mask=None):
        """Zero the state and the traces of the lanes where `mask` (B,) is true; of all lanes without a mask."""
        if not hasattr(self, "memory"):
            self.memory = [[None] * self.lanes for _ in self.layers]
        for (kind, cell, _), memory in zip(self.layers, self.memory, strict=True):
            for b in range(self.lanes):
                if kind == "lstm" and (mask is None or mask[b]):
                    memory[b] = self._fresh(cell)

    @staticmethod
    def _fresh(cell):
        """State and traces of one lane of one layer; M = I + H + A + 1 sources (the last is the bias's 1)."""
        size, m = cell.hidden_size, cell.input_size + cell.hidden_size + cell.sources + 1
        traced = [k for k in "ifg" if k in cell.rows]
        return {
            "h": np.zeros(size),
            "c": np.zeros(size),
            "a": np.zeros(cell.sources),
            # [c, m]: dc_c / dw_m, w the row of cell c, or of its block's gate
            "trace": {k: np.zeros((size, m)) for k in traced},
            # [c, v]: dc_c / dp_v, v in the block of c
            "peephole": {k: np.zeros((size, cell.block_size)) for k in traced if k != "g"},
        }

    def step(self, x, target=None):
        """One step of all lanes.

        Parameters
        ----------
        x : (B, I)
        target : what the loss takes, or None

        Returns
        -------
        y : (B, O)
        """
        inputs, values = [], []  # by layer: (B, I), and what each lane computed
        for (kind, what, params), memory in zip(self.layers, self.memory, strict=True):
            inputs.append(x)
            if kind == "linear":
                x = linear_forward(params, x, what)
                values.append(x)
            else:
                steps = [self._lstm_lane(what, params, x[b], memory[b]) for b in range(self.lanes)]
                values.append(steps)
                x = np.stack([s["h"] for s in steps])
        self.last_loss = None
        if target is not None:
            self.last_loss, dy = self.loss(x, np.asarray(target))
            self._learn(inputs, values, dy)
        return x

    def _lstm_lane(self, cell, params, x, memory):
        """Advance state and traces of one lane of one layer; what `lstm_step` returns, "c_before" and "sources"."""
        h, c, a = memory["h"], memory["c"], memory["a"]
        s = lstm_step(cell, params, x, h, c, a)
        sources = np.concatenate([x, h, a, [1.0]])
        carry = s["keep"] * spread(s["f"], cell.block_size)
        for k, factor in _local_factors(cell, s, c).items():
            # E_t = f_t E_{t-1} + u_t s_t^T                          (1997, eqs 25 and 27, f = 1; 2000, eqs 3.10-3.12)
            memory["trace"][k] = carry[:, None] * memory["trace"][k] + np.outer(factor, sources)
            if k != "g":
                # Q_t[c, v] = f_t Q_{t-1}[c, v] + u_t[c] c_{t-1}[v]  (2002, eqs 22-24)
                for u in range(cell.hidden_size):
                    first = u // cell.block_size * cell.block_size
                    seen = c[first : first + cell.block_size]
                    memory["peephole"][k][u] = carry[u] * memory["peephole"][k][u] + factor[u] * seen
        memory["h"], memory["c"], memory["a"] = s["h"], s["c"], s["a"]
        return {**s, "c_before": c, "sources": sources}

    def _learn(self, inputs, values, dy):
        """Send the error dy (B, O) of this step down through the layers, and add to the gradients."""
        for n in reversed(range(len(self.layers))):
            kind, what, params = self.layers[n]
            grads, x = self.grads[n], inputs[n]
            dx, dy = np.zeros(x.shape), np.clip(dy, -self.error_bound, self.error_bound)
            for b in range(self.lanes):
                if kind == "linear":
                    # e_k = f'_k dE/dy_k;  dW_kc += e_k y_c;  d_c = sum_k W_kc e_k           (1997, A.1)
                    e_k = derivative(what, values[n][b]) * dy[b]
                    grads["weight"] += np.outer(e_k, x[b])
                    if "bias" in grads:
                        grads["bias"] += e_k
                    dx[b] = params["weight"].T @ e_k
                    continue
                s = values[n][b]
                e_o, e_c = _output_errors(what, s, dy[b])
                self._add_traces(what, grads, self.memory[n][b], s, e_o, e_c)
                # inside the step the error goes down through every net input
                dx[b] = params["weight_ih"].T @ _net_errors(what, s, s["c_before"], e_o, e_c)
            dy = dx

    @staticmethod
    def _add_traces(cell, grads, memory, s, e_o, e_c):
        """Add one lane's gradient of one layer: errors times traces."""
        size, rows = cell.block_size, cell.rows
        total = np.zeros((cell.hidden_size + len(cell.gates) * cell.blocks, len(s["sources"])))
        for k, trace in memory["trace"].items():
            # dW_c += e_s E_c;  dW_in, dW_phi += sum over the block's cells of e_s E                 (1997, A.1; 2000)
            each = e_c[:, None] * trace
            total[rows[k]] = each if k == "g" else each.reshape(cell.blocks, size, -1).sum(axis=1)
        if "o" in cell.gates:
            # dW_out += e_o s_t^T: no trace                                                          (1997, A.1)
            total[rows["o"]] = np.outer(e_o, s["sources"])
        i, h, a = cell.input_size, cell.hidden_size, cell.sources
        grads["weight_ih"] += total[:, :i]
        grads["weight_hh"] += total[:, i : i + h]
        if "weight_gh" in grads:
            grads["weight_gh"] += total[:, i + h : i + h + a]
        for name in ("bias_ih", "bias_hh"):
            if name in grads:
                grads[name] += total[:, -1]
        if "weight_peephole" in grads:
            for row, k in enumerate(cell.gates):
                if k == "o":
                    # dp_o[v] += e_o c_t[v]                                                          (2002)
                    grads["weight_peephole"][row] += spread(e_o, size) * s["c"]
                else:
                    # dp[v] += sum over the block's cells c of e_s[c] Q[c, v]                        (2002, eqs 22-24)
                    each = (e_c[:, None] * memory["peephole"][k]).reshape(cell.blocks, size, size)
                    grads["weight_peephole"][row] += each.sum(axis=1).reshape(-1)

    def step_sgd(self, lr, momentum=0.0):
        """v = momentum v + grad; w -= lr v; then clear the gradients. State and traces stay."""
        for (_, _, params), grads, velocity in zip(self.layers, self.grads, self.velocity, strict=True):
            for name, p in params.items():
                velocity[name] = momentum * velocity[name] + grads[name]
                p -= lr * velocity[name]
        self.zero_grad()


class ChunkedBPTT(TruncatedRTRL):
    """Backpropagation in full over chunks of steps, whose first states are constants, but that the traces carry c.

    The chunk's gradient by backpropagation, and dL/dc_0 dc_0/dw of the cell states c_0 before it: the traces' dc_0/dw.

    Parameters
    ----------
    layers, loss, lanes, error_bound : as in `TruncatedRTRL`
    chunk : int
    carries : bool
        Without it, plain truncated backpropagation.
    """

    def __init__(self, layers, loss, lanes=1, chunk=1, carries=True, error_bound=np.inf):
        self.chunk, self.carries, self.window, self.fresh = chunk, carries, [], np.zeros(lanes, bool)
        super().__init__(layers, loss, lanes, error_bound)

    def reset(self, mask=None):
        """As that of `TruncatedRTRL`."""
        super().reset(mask)
        self.fresh |= True if mask is None else mask

    def step(self, x, target=None):
        """As that of `TruncatedRTRL`; the gradient is added after the last step of a chunk."""
        if not self.window:
            self.start, self.fresh = copy.deepcopy(self.memory), np.zeros(self.lanes, bool)
        y, loss = super().step(x), None
        dy = np.zeros(y.shape)
        if target is not None:
            loss, dy = self.loss(y, np.asarray(target))
        self.last_loss = loss
        self.window.append((x, dy, self.fresh))
        self.fresh = np.zeros(self.lanes, bool)
        if len(self.window) == self.chunk:
            self.settle()
        return y

    def settle(self):
        """The chunk ends here."""
        if not self.window:
            return
        x, dy, fresh = (np.array(part) for part in zip(*self.window, strict=True))
        inputs, states, self.window = [x], [], []
        for (kind, what, params), memory in zip(self.layers, self.start, strict=True):
            states.append([np.array([lane[k] for lane in memory]) for k in "hca"] if kind == "lstm" else None)
            if kind == "linear":
                inputs.append(linear_forward(params, inputs[-1], what))
            else:
                inputs.append(lstm_forward(what, params, inputs[-1], states[-1], reset=fresh)[0])
        for n in reversed(range(len(self.layers))):
            kind, what, params = self.layers[n]
            dy = np.clip(dy, -self.error_bound, self.error_bound)
            if kind == "linear":
                e = derivative(what, inputs[n + 1]) * dy
                more = {"weight": np.einsum("tbo,tbi->oi", e, inputs[n]), "bias": e.sum(axis=(0, 1))}
                dy = e @ params["weight"]
            else:
                dy, (_, dc, _), more = lstm_backward(what, params, inputs[n], dy, states[n], reset=fresh)
                m = what.input_size + what.hidden_size + what.sources + 1
                for b in range(self.lanes if self.carries else 0):
                    # dL/dw += dL/dc_0 dc_0/dw; the output gate has no trace, and no error here
                    now = {"sources": np.zeros(m), "c": np.zeros(what.hidden_size)}
                    self._add_traces(what, more, self.start[n][b], now, np.zeros(what.blocks), dc[b])
            for name in params:
                self.grads[n][name] += more[name]


def record_forward(layers, xs, reset=None):
    """Run a network from zero state and keep everything.

    Parameters
    ----------
    layers : as in `TruncatedRTRL`
    xs : (T, B, I)
    reset : (T, B) booleans, optional

    Returns
    -------
    ys : (T, B, O)
    record : list over layers
        Of an LSTM layer, record[n][t][b] is what `lstm_step` returned, with its input "x" and the "h_before",
        "c_before", "a_before" it started from; of a linear layer, {"x": (T, B, I), "y": (T, B, O)}.
    """
    steps, lanes, _ = xs.shape
    record = []
    for kind, what, params in layers:
        if kind == "linear":
            ys = linear_forward(params, xs, what)
            record.append({"x": xs, "y": ys})
        else:
            h, c, a = _initial_state(what, lanes, None)
            rows = []
            for t in range(steps):
                rows.append([])
                for b in range(lanes):
                    if reset is not None and reset[t][b]:
                        h[b], c[b], a[b] = 0.0, 0.0, 0.0
                    s = lstm_step(what, params, xs[t, b], h[b], c[b], a[b])
                    before = {"x": xs[t, b], "h_before": h[b].copy(), "c_before": c[b].copy(), "a_before": a[b].copy()}
                    rows[t].append({**s, **before})
                    h[b], c[b], a[b] = s["h"], s["c"], s["a"]
            record.append(rows)
            ys = np.array([[s["h"] for s in row] for row in rows])
        xs = ys
    return ys, record


def full_loss(layers, loss, xs, targets, reset=None):
    """The sum over t of the loss of step t, nothing cut; xs (T, B, I), targets[t] what the loss takes, or None."""
    ys, _ = record_forward(layers, xs, reset)
    return sum(_loss(loss)(y, np.asarray(t))[0] for y, t in zip(ys, targets, strict=True) if t is not None)


def truncated_bptt_gradient(layers, loss, xs, targets, reset=None):
    """The truncated gradient without traces: each step's error goes back in time along c alone.

    Parameters
    ----------
    layers, loss : as in `TruncatedRTRL`
    xs : (T, B, I)
    targets : sequence of T targets, each what the loss takes, or None
    reset : (T, B) booleans, optional

    Returns
    -------
    list of dicts of gradients, the parameters' names and shapes
    """
    ys, record = record_forward(layers, xs, reset)
    grads = [zero_gradients(params) for _, _, params in layers]
    for t, target in enumerate(targets):
        if target is None:
            continue
        _, dy = _loss(loss)(ys[t], np.asarray(target))
        for n in reversed(range(len(layers))):
            kind, what, params = layers[n]
            dx = []
            for b in range(xs.shape[1]):
                if kind == "linear":
                    e = derivative(what, record[n]["y"][t, b]) * dy[b]
                    grads[n]["weight"] += np.outer(e, record[n]["x"][t, b])
                    if "bias" in params:
                        grads[n]["bias"] += e
                    dx.append(params["weight"].T @ e)
                else:
                    history = [row[b] for row in record[n][: t + 1]]
                    starts = [reset is not None and bool(reset[u][b]) for u in range(t + 1)]
                    dx.append(params["weight_ih"].T @ _back_along_c(what, grads[n], history, starts, dy[b]))
            dy = np.array(dx)
    return grads


def _back_along_c(cell, grads, history, starts, dh):
    """Add one lane's gradient of the last step of `history`; returns its error (R,) at the net inputs of that step.

    `starts[u]` is true where the state was zero before step u; `dh` (H,) is the error at h of the last step.
    """
    last = len(history) - 1
    e_o, dc = _output_errors(cell, history[last], dh)
    here = None
    for u in range(last, -1, -1):
        s = history[u]
        # at earlier steps the error enters through c alone
        dnet = _net_errors(cell, s, s["c_before"], e_o if u == last else np.zeros(cell.blocks), dc)
        here = dnet if u == last else here
        _add_outer(grads, dnet, s["x"], s["h_before"], s["a_before"])
        if "weight_peephole" in grads:
            for row, k in enumerate(cell.gates):
                seen = s["c"] if k == "o" else s["c_before"]
                grads["weight_peephole"][row] += spread(dnet[cell.rows[k]], cell.block_size) * seen
        if starts[u]:
            break
        # dc_{u-1} = f_u dc_u, nothing where c_u was clipped           (1997, A.2: constant error flow, f = 1)
        dc = dc * s["keep"] * spread(s["f"], cell.block_size)
    return here


def cut_loss(layers, loss, xs, targets, reset, record, live):
    """The loss with the cut quantities held at recorded values: its derivative is the truncated gradient.

    Perturb the parameters of layer `live` alone: the ordinary derivative of this function with respect to them is the
    truncated gradient, by its definition. The layers below give what they gave; every net input reads the recorded
    h_{t-1}, a_{t-1} and (through peepholes) c; layer `live` carries its own c; the layers above start each step from
    the recorded c_{t-1}.

    Parameters
    ----------
    layers : the network, with the parameters of layer `live` perturbed
    loss, xs, targets, reset : as in `truncated_bptt_gradient`
    record : from `record_forward` of the unperturbed network
    live : index of the perturbed layer

    Returns
    -------
    float
    """
    steps, lanes, _ = xs.shape
    total = 0.0
    state = {}  # lane -> c of layer `live`
    for t in range(steps):
        if layers[live][0] == "linear":
            x = record[live]["x"][t]
        else:
            x = np.array([record[live][t][b]["x"] for b in range(lanes)])
        for n in range(live, len(layers)):
            kind, what, params = layers[n]
            if kind == "linear":
                x = linear_forward(params, x, what)
                continue
            out = []
            for b in range(lanes):
                r = record[n][t][b]
                c = r["c_before"]
                if n == live and b in state and not (reset is not None and reset[t][b]):
                    c = state[b]
                s = lstm_step(
                    what, params, x[b], r["h_before"], c, r["a_before"], c_before=r["c_before"], c_after=r["c"]
                )
                if n == live:
                    state[b] = s["c"]
                out.append(s["h"])
            x = np.array(out)
        if targets[t] is not None:
            total += _loss(loss)(x, np.asarray(targets[t]))[0]
    return total


def carried_loss(layers, loss, xs, targets, reset, record, live, chunk):
    """The loss whose derivative is the gradient of carried backpropagation, as `cut_loss` is for the truncated one.

    Inside a chunk nothing is cut. It starts from the recorded h, a and c, but that c of layer `live` is what the
    perturbed parameters made of it since the episode began, with all net inputs reading recorded sources.

    Parameters
    ----------
    layers, loss, xs, targets, reset, record, live : as in `cut_loss`
    chunk : int

    Returns
    -------
    float
    """
    steps, lanes, _ = xs.shape
    kind, what, params = layers[live]
    free = np.zeros((steps + 1, lanes, what.hidden_size)) if kind == "lstm" else None  # c before each step
    for t in range(steps if kind == "lstm" else 0):
        for b in range(lanes):
            if reset[t][b]:
                free[t, b] = 0.0
            r = record[live][t][b]
            held = {"c_before": r["c_before"], "c_after": r["c"]}
            free[t + 1, b] = lstm_step(what, params, r["x"], r["h_before"], free[t, b], r["a_before"], **held)["c"]
    total = 0.0
    for start in range(0, steps, chunk):
        now = slice(start, start + chunk)
        y = xs[now]
        for n, (kind, what, params) in enumerate(layers):
            if kind == "linear":
                y = linear_forward(params, y, what)
                continue
            h, c, a = (np.array([lane[k] for lane in record[n][start]]) for k in ("h_before", "c_before", "a_before"))
            y = lstm_forward(what, params, y, (h, free[start] if n == live else c, a), reset=reset[now])[0]
        for k, target in enumerate(targets[now]):
            if target is not None:
                total += _loss(loss)(y[k], np.asarray(target))[0]
    return total


# Compact weights ------------------------------------------------------------------------------------------------------

TINY = np.float32(2.0**-100)  # what is smaller counts as zero


MOST = {"int8": 127, "int16": 8191}  # the largest integers
IN_A_DOT = {"int8": 2**17, "int16": 32}  # sources whose products int32 can add up


def quantised_weights(w, form):
    """(R, K) float32 -> integers in [-most, most] (R, K), scales (R,): int8 or int16 weights of a kind of sources."""
    # scale = max|w| / most, to 15 significant bits
    scale = np.abs(w).max(axis=1) / np.float32(MOST[form])
    scale = ((scale.view(np.uint32) + np.uint32(0x100)) & ~np.uint32(0x1FF)).view(np.float32)
    scale = np.where(scale < TINY, np.float32(0), scale)
    q = np.zeros(w.shape, np.int64)
    q[scale > 0] = np.rint(w[scale > 0] / scale[scale > 0, None])
    return q, scale


def quantised_sources(s, form):
    """(K,) float32 -> integers in [-most, most] (K,) and their scale; the scale is NaN if s is not finite."""
    largest = np.abs(s).max()
    if not np.isfinite(largest):
        return np.zeros(s.shape, np.int64), np.float32(np.nan)
    if largest < TINY:
        return np.zeros(s.shape, np.int64), np.float32(0)
    most = np.float32(MOST[form])
    return np.rint(s * (most / largest)).astype(np.int64), largest / most


def integer_net_inputs(weights, biases, sources, form):
    """Net inputs (R,) with int8 or int16 weights, float32 bit for bit.

    Parameters
    ----------
    form : "int8" or "int16"
    weights, sources : lists of (R, K) and (K,) float32, one entry for each kind of sources: x, h, gate activations
    biases : list of (R,) float32
    """
    # net = bias + sum over kinds of (float)(q_w . q_s) (scale_s scale_w), kind after kind; int16 adds up the floats
    # of dot products of 32 sources
    net = sum(biases[1:], biases[0].copy()) if biases else np.zeros(len(weights[0]), np.float32)
    for w, s in zip(weights, sources, strict=True):
        (q_w, scale_w), (q_s, scale_s) = quantised_weights(w, form), quantised_sources(s, form)
        blocks = [slice(at, at + IN_A_DOT[form]) for at in range(0, len(s), IN_A_DOT[form])]
        dots = [(q_w[:, block] @ q_s[block]).astype(np.float32) for block in blocks]
        net = net + sum(dots[1:], dots[0]) * (scale_s * scale_w)
    return net


def integer_error_bound(w, s, form):
    """(R,): how far integer_net_inputs can be from w @ s for one kind of sources, but for float32 rounding."""
    scale_w, scale_s = quantised_weights(w, form)[1], quantised_sources(s, form)[1]
    # |w s - w~ s~| <= |w| |s - s~| + |w - w~| |s~|, each element off by at most half a step
    half_w, half_s = scale_w.astype(float) / 2, float(scale_s) / 2
    return np.abs(w.astype(float)).sum(axis=1) * half_s + half_w * (np.abs(s.astype(float)) + half_s).sum()
