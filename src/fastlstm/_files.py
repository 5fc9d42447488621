"""Files in the safetensors layout: 8 bytes, the length of a JSON header (little-endian), then it, then raw arrays.

A file is written beside its target, flushed to the disk and renamed: a reader finds the old file or the new one, whole,
whenever the writer is killed. What is read is checked before it is used, and never executed.
"""

import contextlib
import json
import math
import os
import zlib

import numpy as np

from fastlstm._checks import shown

DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I8": "|i1", "U8": "|u1"}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 10**8  # the format's own limit


def as_path(path, name):
    """An absolute path in a folder that exists."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{name} must be a path, not {shown(path)}")
    path = os.path.abspath(path)  # wherever the process goes meanwhile
    if os.path.isdir(path):
        why = "it is a folder"
    elif not os.path.isdir(os.path.dirname(path)):
        why = "the folder does not exist"
    elif os.path.exists(path) and not os.path.isfile(path):  # a device is not to be replaced
        why = "it is no regular file"
    else:
        return path
    raise ValueError(f"{name} is {shown(path)} and must be the path of a file: {why}")


def write(path, arrays, metadata):
    """Write a dict of arrays and a dict of strings, atomically."""
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    arrays = {name: a.astype(a.dtype.newbyteorder("<"), copy=False) for name, a in arrays.items()}
    checksum = 0
    for a in arrays.values():
        checksum = zlib.crc32(a.reshape(-1).view(np.uint8), checksum)
    for name in sorted(metadata):
        checksum = zlib.crc32(f"{name}={metadata[name]}".encode(), checksum)
    header, at = {"__metadata__": metadata | {"crc32": f"{checksum:08x}"}}, 0
    for name, a in arrays.items():
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)  # the arrays begin aligned
    with new_file(path) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for a in arrays.values():
            file.write(a.reshape(-1).view(np.uint8))


@contextlib.contextmanager
def new_file(path):
    """A binary file to write, which becomes `path` when all went well, and is removed when not."""
    folder, start = os.path.dirname(path), f".{os.path.basename(path)}."
    _sweep(folder, start)
    unfinished = os.path.join(folder, f"{start}{os.getpid()}.tmp")
    try:
        with open(unfinished, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise
    if os.name == "posix":  # the name too has reached the disk
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _sweep(folder, start):
    """Remove what killed writers of the same file have left."""
    for name in os.listdir(folder):
        writer = name.removeprefix(start).removesuffix(".tmp")
        if name == f"{start}{writer}.tmp" and writer.isdecimal() and not _lives(int(writer)):
            _remove(os.path.join(folder, name))


def _remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _lives(process):
    if os.name != "posix":
        return True  # there the question itself would end the process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def read(path):
    """(arrays, metadata) of a file; ValueError in one line if it is damaged or something else."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        return _parse(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:80]
        raise ValueError(f"the file is damaged, or not of this format: {why}") from None


def _parse(content):
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, LONGEST_HEADER):
        raise ValueError("its header is not whole")
    header, data = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not strings")
    arrays, ends = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = np.dtype(DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError(f"sizes of {shown(name)} are not integers")
        if begin != ends or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"sizes of {shown(name)} do not fit")
        if end > len(data):
            raise ValueError("it ends too early")
        arrays[name] = np.frombuffer(data[begin:end], dtype).reshape(shape).astype(dtype.newbyteorder("="))
        ends = end
    if ends != len(data):
        raise ValueError("it has more data than its header says")
    checksum = metadata.pop("crc32", None)
    if checksum is not None:
        found = zlib.crc32(data)
        for name in sorted(metadata):
            found = zlib.crc32(f"{name}={metadata[name]}".encode(), found)
        if checksum != f"{found:08x}":
            raise ValueError("its checksum is wrong")
    return arrays, metadata
