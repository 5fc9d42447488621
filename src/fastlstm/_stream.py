"""Step-by-step running."""

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_input, as_mask, ndim_of


class Stream(_core.Stream):
    """A running copy of a network for step-by-step use, made by ``layer.stream(lanes)``.

    It holds the weights as they were when it was made (`refresh` takes the current ones) and its own state, shares
    nothing that changes with other streams, and allocates nothing per step but the array it returns (nothing at all
    with ``out=``, or once an array that it has returned is not used any more). One stream is used by one thread at a
    time; a second one gets a RuntimeError.

    ``step(x, out=None)`` takes one step: x is (I,) or (lanes, I), the result (O,) or (lanes, O), an array of your own
    or `out`. The bits are those of `run`, and with native weights of calling the layer.

    `weights` is the name of the format in which the stream stores its weights: "int16", "int8" and "float16" are
    smaller, faster and less exact; see `Layer.stream`.

    Examples
    --------
    >>> import numpy as np, fastlstm as fl
    >>> stream = fl.LSTM(2, 4, seed=0).stream()
    >>> stream.step(np.ones(2, np.float32)).shape
    (4,)
    >>> stream.run(np.ones((9, 2), np.float32)).shape
    (9, 4)
    >>> stream.reset()
    """

    def __init__(self, layer, lanes, weights):
        network, packed = layer._stored(weights)
        super().__init__(network, packed, lanes)
        self.layer, self.weights = layer, weights

    def run(self, xs):
        """Take many steps in one call that releases the GIL.

        Parameters
        ----------
        xs : array (T, I) for one lane, or (T, lanes, I)

        Returns
        -------
        array (T, O) or (T, lanes, O)
            If the call is interrupted, the state is as before it.
        """
        single = ndim_of(xs) == 2 and self.lanes == 1
        shape = (-1, self.network.input_size) if single else (-1, self.lanes, self.network.input_size)
        x = as_input(xs, "xs", self.network.dtype, shape)
        y = self.network.new_output(x)
        self._run(x.reshape(len(x), self.lanes, -1), y.reshape(len(x), self.lanes, -1))
        return y

    def reset(self, mask=None):
        """Zero the state of all lanes, or of those where `mask` (lanes,) of booleans is true."""
        self._idle()
        if mask is None:
            self.flat_state[:] = 0
            return
        mask = as_mask(mask, "mask", (self.lanes,)).view(bool)
        for parts in self.layer._state_parts(self.flat_state, self.lanes):
            for part in parts.values():
                part[:, mask] = 0

    @property
    def state(self):
        """The state, a copy; in the form that the layer takes and returns. May be set."""
        self._idle()
        return self.layer._state_of(self.flat_state.copy(), self.lanes)

    @state.setter
    def state(self, state):
        self._idle()
        flat = self.network.new_state(self.lanes)
        self.layer._fill_state(flat, self.lanes, state)
        self.flat_state[:] = flat

    def refresh(self):
        """Take the layer's current weights; the state goes on."""
        self._use(self.layer._stored(self.weights)[1])

    def copy(self):
        """A second stream with the same weights and a copy of the state."""
        self._idle()
        other = type(self).__new__(type(self))
        _core.Stream.__init__(other, self.network, self.packed, self.lanes)
        other.layer, other.weights = self.layer, self.weights
        other.flat_state[:] = self.flat_state
        return other

    __copy__ = copy

    def __getstate__(self):
        self._idle()
        flat = np.empty(self.network.n_params, self.network.dtype)
        self.network.unpack(self.packed, flat)
        state = np.array(self.flat_state)
        return {"layer": self.layer, "lanes": self.lanes, "format": self.weights, "weights": flat, "state": state}

    def __reduce__(self):
        return _restore, (type(self), self.__getstate__())


def _restore(cls, saved):
    stream = cls.__new__(cls)
    network, packed = saved["layer"]._stored(saved["format"], saved["weights"])
    _core.Stream.__init__(stream, network, packed, saved["lanes"])
    stream.layer, stream.weights = saved["layer"], saved["format"]
    stream.flat_state[:] = saved["state"]
    return stream
