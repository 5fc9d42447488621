"""Types of the compiled module; what it does is told in _core.pyx and, for users, in the modules above it."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LOSSES: dict[str | None, int]
OPTIMIZERS: dict[str, int]

def isa_names() -> list[str]: ...
def select_isa(isa: str | None) -> str: ...
def selected_isa() -> str: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def before_fork() -> None: ...
def aligned(size: int, dtype: npt.DTypeLike) -> Array: ...
def empty(size: int, dtype: npt.DTypeLike) -> Array: ...
def elementwise_loss(loss: str, y: Array, target: Array, pos_weight: Array | None = None) -> tuple[float, Array]: ...
def cross_entropy(
    y: Array, target: Array, weight: Array | None = None, smoothing: float = 0
) -> tuple[float, Array]: ...
def ctc(
    y: Array, targets: Array, target_lengths: Array, lengths: Array | None, blank: int
) -> tuple[float, Array]: ...
def update(
    kind: str,
    weights: Array,
    gradient: Array,
    first: Array | None,
    second: Array | None,
    steps: int,
    lr: float,
    weight_decay: float = 0,
    momentum: float = 0,
    nesterov: bool = False,
    beta1: float = 0,
    beta2: float = 0,
    eps: float = 0,
    clip_norm: float = 0,
) -> None: ...

class Parameters:
    parent: Parameters | None
    offset: int
    size: int
    version: int
    owners: list[Learner]
    def __init__(self, array: Array) -> None: ...
    def attach(self, parent: Parameters, offset: int) -> None: ...
    def fetch(self) -> Array: ...
    def changed(self) -> None: ...
    def age(self) -> int: ...
    def grad(self) -> Array: ...

class Network:
    n_layers: int
    input_size: int
    output_size: int
    n_params: int
    n_state: int
    n_packed: int
    dtype: np.dtype[Any]
    specs: list[dict[str, Any]]
    def __init__(self, specs: list[dict[str, Any]], dtype: npt.DTypeLike) -> None: ...
    def pack(self, params: Array) -> Array: ...
    def unpack(self, packed: Array, params: Array) -> None: ...
    def new_state(self, lanes: int) -> Array: ...
    def new_scratch(self, steps: int, lanes: int, threads: int = 1) -> Array: ...
    def forward(
        self,
        packed: Array,
        x: Array,
        y: Array,
        state: Array,
        lengths: Array | None = None,
        reset: Array | None = None,
        batch_first: bool = False,
    ) -> None: ...

class Stream:
    network: Network
    lanes: int
    packed: Array
    flat_state: Array
    def __init__(self, network: Network, packed: Array, lanes: int) -> None: ...
    def step(self, x: npt.ArrayLike, out: Array | None = None) -> Array: ...

class Learner:
    network: Network
    parameters: Parameters
    lanes: int
    flat_state: Array
    optimizer: Any
    loss: float
    def __init__(
        self, network: Network, parameters: Parameters, loss: int, optimizer: Any, chunk: int, lanes: int
    ) -> None: ...
    def write_back(self) -> None: ...
    def sync(self) -> None: ...
    def nbytes(self) -> int: ...

class Tape:
    network: Network
    def __init__(
        self,
        network: Network,
        packed: Array,
        x: Array,
        state: Array,
        lengths: Array | None,
        reset: Array | None,
        batch_first: bool,
        seed: int = 0,
        first: int = 0,
        steps: int = 0,
    ) -> None: ...
    def forward(self, y: Array, state: Array) -> None: ...
    def backward(self, dy: Array, dx: Array | None, dstate: Array, gradient: Array | None = None) -> Array: ...
