"""Arguments: each function returns the value it was given, in its plain form, or raises in one line that names it."""

import math

import numpy as np


def shown(value):
    """`value` as a message shows it: one line, not long."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and abs(value) >= 10**18:
        return "a huge integer" if value > 0 else "a huge negative integer"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def as_size(value, name, least=1, most=2**40):
    """An integer in [least, most]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    if not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)} and must be from {least} to {most}")
    return int(value)


def as_flag(value, name):
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def as_number(value, name, low=-math.inf, high=math.inf, low_in=True, high_in=True):
    """A finite number between `low` and `high`, which are allowed themselves or not."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    try:
        value = float(value)
    except OverflowError:
        raise ValueError(f"{name} is {shown(value)} and must be finite") from None
    inside = low <= value <= high and (low_in or value != low) and (high_in or value != high)
    if not inside or not math.isfinite(value):
        interval = f"{'[' if low_in else '('}{low}, {high}{']' if high_in else ')'}"
        raise ValueError(f"{name} is {shown(value)} and must be finite and in {interval}")
    return value


def as_choice(value, name, choices):
    """One of `choices`."""
    if not isinstance(value, (str, bool, type(None))) or value not in choices:
        raise ValueError(f"{name} is {shown(value)} and must be one of {', '.join(repr(c) for c in choices)}")
    return value


def as_dtype_name(value):
    """ "float32" or "float64", given as a name or as anything that NumPy takes for a dtype."""
    try:
        name = np.dtype(value).name if value is not None else None
    except (TypeError, ValueError):
        name = None
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype is {shown(value)} and must be 'float32' or 'float64'")
    return name


def as_anything(x, name, kinds):
    """x as an array of any dtype of these kinds (as numpy.dtype.kind names them)."""
    try:
        a = np.asarray(x)
    except Exception:  # whatever an object's own conversion raises
        a = None
    if a is None or a.dtype.kind not in kinds:
        what = {"b": "bool", "iu": "integers"}.get(kinds, "real numbers")
        found = type(x).__name__ if a is None or not hasattr(x, "dtype") else str(a.dtype)[:40]
        raise TypeError(f"{name} must be an array of {what}, not {found}")
    return a


def as_array(x, name, dtype):
    """x as a C-contiguous array of `dtype`: numbers that have no dtype are converted, a wrong dtype is an error."""
    a = as_anything(x, name, "biuf")
    if a.dtype != dtype:
        if hasattr(x, "dtype"):
            raise TypeError(f"{name} is {a.dtype} and must be {dtype}")
        a = a.astype(dtype)
    return a if a.flags.c_contiguous and a.flags.aligned else np.require(a, dtype, ["C", "A"])


def as_input(x, name, dtype, shape):
    """x as `as_array` gives it, of `shape`, in which -1 stands for any positive size."""
    a = as_array(x, name, dtype)
    if a.shape != shape and (
        a.ndim != len(shape)
        or not all(n > 0 if want == -1 else n == want for n, want in zip(a.shape, shape, strict=True))
    ):
        want = ", ".join("1 or more" if n == -1 else str(n) for n in shape)
        raise ValueError(f"{name} has shape {shown(a.shape)} and must have ({want}{',' if len(shape) == 1 else ''})")
    return a


def as_output(out, name, dtype, shape):
    """`out`, if it can be written in place as it is."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be an array, not {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"{name} is {out.dtype} and must be {dtype}")
    if out.shape != shape:
        raise ValueError(f"{name} has shape {shown(out.shape)} and must have {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous, aligned and writeable")
    return out


def as_mask(mask, name, shape):
    """Booleans of `shape`, as uint8."""
    a = as_anything(mask, name, "b")
    if a.shape != shape:
        raise ValueError(f"{name} has shape {shown(a.shape)} and must have {shape}")
    return np.ascontiguousarray(a).view(np.uint8)


def as_loss(result, dtype, shape):
    """What a callable loss has returned: a float and its derivative with respect to y."""
    if not isinstance(result, (tuple, list)) or len(result) != 2 or ndim_of(result[0]) != 0:
        raise ValueError("loss must return a pair (loss, dy), a number and an array")
    return float(as_anything(result[0], "loss", "biuf")), as_input(result[1], "dy of the loss", dtype, shape)


def ndim_of(x):
    """Dimensions of an array or nested list; -1 if it is neither."""
    try:
        return np.ndim(x)
    except Exception:  # whatever an object's own conversion raises
        return -1


def listed(names, most=4):
    """The first few of many names, for a message."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(n if isinstance(n, str) and len(n) <= 30 else shown(n)[:30] for n in names[:most]) + more
