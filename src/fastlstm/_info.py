"""What this build is."""

from fastlstm import _core

__version__ = "0.1.0"


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
        "threads": 1,
    }
