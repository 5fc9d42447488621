"""What this build is, and how many threads it may use."""

import os

from fastlstm import _core
from fastlstm._checks import as_size

__version__ = "0.1.0"


def set_num_threads(n):
    """Let calls with several lanes use up to `n` threads; the bits are the same for any number.

    One thread unless this is called or the environment says ``FASTLSTM_NUM_THREADS``. A child after a fork starts
    with one thread.

    Raises
    ------
    ValueError, TypeError
        `n` is not an integer from 1 to 1024.

    Examples
    --------
    >>> import fastlstm as fl
    >>> fl.set_num_threads(2)
    >>> fl.get_num_threads()
    2
    >>> fl.set_num_threads(1)
    """
    _core.set_num_threads(as_size(n, "n", most=1024))


def get_num_threads():
    """Threads that calls with several lanes may use."""
    return _core.get_num_threads()


def _threads_from_environment():
    text = os.environ.get("FASTLSTM_NUM_THREADS")
    if text:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
            raise ValueError(f"FASTLSTM_NUM_THREADS is {text!r} and must be an integer from 1 to 1024")
        _core.set_num_threads(int(text))
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_core.before_fork, after_in_child=lambda: _core.set_num_threads(1))


_threads_from_environment()


def build_info():
    """Version, instruction sets, BLAS and threads of this build on this machine.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set in use; ``available``, all that this build and this processor
        have, best first; ``blas``, the BLAS that NumPy has loaded (name and version) or None; ``threads``.

    Examples
    --------
    >>> import fastlstm as fl
    >>> info = fl.build_info()
    >>> info["isa"] in info["available"]
    True
    """
    from threadpoolctl import threadpool_info  # late: an import of fastlstm stays cheap

    blas = [lib for lib in threadpool_info() if lib.get("user_api") == "blas"]
    return {
        "version": __version__,
        "isa": _core.selected_isa(),
        "available": _core.isa_names(),
        "blas": f"{blas[0]['internal_api']} {blas[0]['version']}" if blas else None,
        "threads": get_num_threads(),
    }
