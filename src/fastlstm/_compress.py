"""A lossless compressor: a network that learns a file while it reads it, and a range coder (docs/compress.md).

The network predicts each byte from those before it, then learns from it. Its predictions steer the coder: a byte that
was expected costs few bits. Nothing of the network is in the file: decompression learns the same again, from the bytes
that it has decoded so far.

Beside the lane that reads the file, others read earlier parts of it once more (experience replay, Lin 1992); all of
them learn the one network.

A file is a header (HEADER below, and its CRC-32), then the bytes in blocks. A block ends with the CRC-32 of all bytes
so far: nothing is given out before it is known to be right.
"""

import contextlib
import math
import os
import struct
import sys
import zlib

import numpy as np

from fastlstm import _core
from fastlstm._checks import as_choice, shown
from fastlstm._files import as_path, new_file
from fastlstm._info import __version__
from fastlstm._layers import LSTM, Linear, Sequential
from fastlstm._online import OnlineLearner
from fastlstm._optim import RMSprop

# magic, version, method, preset, fingerprint of the arithmetic; number of bytes; which of the 256 occur, a bit for each
HEADER = struct.Struct("<6sBBBIQ32s")
MAGIC, VERSION = b"\xffLSTM\n", 1
STORED, CODED = 0, 1
CHANGED = "source has changed while it was read"
CHUNK = 16  # bytes after which weights change
BLOCK = 2**16  # bytes, a multiple of CHUNK
REMEMBERED = 2**20  # bytes that can be read again
EPISODE = 8  # chunks that are read again in a row

# The presets of VERSION, in the order of their numbers in files. `lanes`: one reads, the others read again.
PRESETS = {
    "default": {"hidden": 128, "lanes": 2, "rate": 0.02, "decay": 2e-4},
    "fast": {"hidden": 64, "lanes": 1, "rate": 0.02, "decay": 1e-4},
    "best": {"hidden": 256, "lanes": 3, "rate": 0.01, "decay": 2e-4},
}
ALPHA, EPS = 0.9999, 1e-7  # of RMSprop
GAIN = 3.0  # scores are this multiple of the last layer's net inputs, so that it learns faster than the rest


class Model:
    """A network that learns to predict the next of `symbols` symbols while it does so, and what it has read.

    `inputs` (CHUNK, lanes, symbols) and `targets` (CHUNK, lanes) are those of the chunk that `begin` has begun; lane 0
    is filled in as far as it is known.
    """

    def __init__(self, symbols, hidden, lanes, rate, decay):
        net = Sequential(
            LSTM(symbols, hidden, seed=0), Linear(hidden, symbols, activation=("affine", GAIN, 0.0), seed=0)
        )
        net.load_state_dict(initial(net.state_dict(), hidden))
        self.optimizer = RMSprop(net, lr=rate, alpha=ALPHA, eps=EPS)
        self.learner = OnlineLearner(net, "cross_entropy", self.optimizer, "bptt", CHUNK, lanes)
        self.rate, self.decay, self.lanes = rate, decay, lanes
        self.inputs = np.zeros((CHUNK, lanes, symbols), np.float32)
        self.targets = np.empty((CHUNK, lanes), np.int64)
        self.read = 0  # symbols
        self.past = np.zeros(REMEMBERED, np.uint8)  # the last ones; symbol t is at t % REMEMBERED
        self.again = np.zeros(lanes - 1, np.int64)  # where the other lanes go on
        self.forgotten = 1.0  # alpha^updates
        self.draws = 0

    def begin(self):
        """Before a chunk: its learning rate, and what the other lanes read."""
        updates, now = self.read // CHUNK, self.read
        # RMSprop starts from a mean square of zero; this makes up for it, as in Adam (Kingma and Ba 2015, section 3).
        self.forgotten *= ALPHA
        self.optimizer.lr = self.rate * math.sqrt((1 - self.forgotten) / (1 + self.decay * now))
        self.inputs.fill(0)
        self.targets.fill(-1)
        if updates < 2 * EPISODE or self.lanes == 1:
            return
        if updates % EPISODE == 0:
            oldest = max(1, now - REMEMBERED + CHUNK)
            for lane in range(self.lanes - 1):
                self.again[lane] = oldest + self.draw(now - CHUNK - oldest)
        steps, lanes = np.arange(CHUNK)[:, None], np.arange(1, self.lanes)
        at = self.again + steps
        self.inputs[steps, lanes, self.past[(at - 1) % REMEMBERED]] = 1
        self.targets[:, 1:] = self.past[at % REMEMBERED]
        self.again += CHUNK

    def draw(self, below):
        """A number from 0 to below - 1 (Knuth's linear congruential generator)."""
        self.draws = (self.draws * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.draws >> 33) % below

    def end(self, symbols):
        """After a chunk: these were its symbols."""
        self.past[(self.read + np.arange(len(symbols))) % REMEMBERED] = symbols
        self.read += len(symbols)

    def predictions(self, symbols):
        """Scores (T, lanes, symbols) of symbols (T,), at most a chunk of them, each made before it was learnt."""
        self.begin()
        n = len(symbols)
        before = np.concatenate([[self.past[(self.read - 1) % REMEMBERED]], symbols[:-1]])
        self.inputs[np.arange(n), 0, before] = 1
        self.targets[:n, 0] = symbols
        self.end(symbols)
        return self.learner.run(self.inputs[:n], self.targets[:n])

    def decode(self, decoder, n):
        """The next n symbols, at most a chunk of them."""
        self.begin()
        predict, learn, decode = self.learner.predict, self.learner.learn, decoder.decode
        symbol = self.past[(self.read - 1) % REMEMBERED]
        for x, target in zip(self.inputs[:n], self.targets, strict=False):
            x[0, symbol] = 1
            symbol = decode(predict(x))
            target[0] = symbol
            learn(target)
        symbols = self.targets[:n, 0].copy()
        self.end(symbols)
        return symbols


def initial(arrays, hidden):
    """Initial parameters: U(-1/sqrt(H), 1/sqrt(H)), by a generator that no version of NumPy changes.

    The last layer and the biases are zero: all symbols are equally likely at first.
    """
    state = {}
    for name, a in arrays.items():
        # splitmix64 (Steele, Lea and Flood 2014) of the elements' numbers
        z = np.arange(1, a.size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(zlib.crc32(name.encode()))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        uniform = (z >> np.uint64(41)).astype(np.float32) / np.float32(2**22) - np.float32(1)
        zero = "bias" in name or name.endswith("weight")
        state[name] = (uniform * np.float32(0 if zero else 1 / math.sqrt(hidden))).reshape(a.shape)
    return state


@contextlib.contextmanager
def progress(total=None):
    """A function that is told of bytes done, and shows a bar if that can be shown."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from tqdm import tqdm
    except ImportError:
        yield lambda size: None
        return
    with tqdm(total=total, unit="B", unit_scale=True, dynamic_ncols=True, leave=False) as bar:
        yield bar.update


def fingerprint(symbols, preset):
    """CRC-32 of what such a model predicts while it learns four chunks: other rounding has another."""
    model, checksum = Model(symbols, **PRESETS[preset]), 0
    for at in range(0, 4 * CHUNK, CHUNK):
        checksum = zlib.crc32(model.predictions(np.arange(at, at + CHUNK) ** 2 % symbols), checksum)
    return checksum


def sizes(length):
    """The sizes of the blocks of a file."""
    return (min(BLOCK, length - at) for at in range(0, length, BLOCK))


def blocks(source, length):
    """The bytes of a file to compress, from its start."""
    source.seek(0)
    for size in sizes(length):
        block = source.read(size)
        if len(block) < size:
            raise ValueError(CHANGED)
        yield block
    if source.read(1):
        raise ValueError(CHANGED)


def sealed(*fields):
    """A header of these fields, and its checksum."""
    header = HEADER.pack(MAGIC, VERSION, *fields)
    return header + zlib.crc32(header).to_bytes(4, "little")


def compress(source, target, preset, report=lambda size: None):
    """Compress one binary file into another, which is empty; both can seek. `report` hears of each block's size."""
    seen, length = np.zeros(256, bool), 0
    while block := source.read(BLOCK):
        seen[np.frombuffer(block, np.uint8)] = True
        length += len(block)
    number_of = np.where(seen, np.cumsum(seen) - 1, -1)
    count = max(1, int(seen.sum()))
    fields = list(PRESETS).index(preset), fingerprint(count, preset), length, np.packbits(seen).tobytes()
    target.write(sealed(CODED, *fields))
    most = target.tell() + length + 4 * -(-length // BLOCK)  # what storing takes
    model, encoder = Model(count, **PRESETS[preset]), _core.RangeEncoder()
    checksum = 0
    for block in blocks(source, length):
        symbols = number_of[np.frombuffer(block, np.uint8)]
        if symbols.min() < 0:
            raise ValueError(CHANGED)
        for k in range(0, len(symbols), CHUNK):
            chunk = symbols[k : k + CHUNK]
            encoder.encode(model.predictions(chunk), chunk)
        checksum = zlib.crc32(block, checksum)
        encoder.number(checksum >> 16)
        encoder.number(checksum & 0xFFFF)
        target.write(encoder.take())
        report(len(block))
    target.write(encoder.end())
    if target.tell() > most:
        store(source, target, length)


def store(source, target, length):
    """Instead of what `target` has: the bytes as they are."""
    target.seek(0)
    target.truncate()
    target.write(sealed(STORED, 0, 0, length, bytes(32)))
    checksum = 0
    for block in blocks(source, length):
        checksum = zlib.crc32(block, checksum)
        target.write(block + checksum.to_bytes(4, "little"))


def decompress(source, target, report=lambda size: None):
    """Decompress a binary file, block by block, each checked before it is written; ValueError if something is wrong."""
    header = source.read(HEADER.size + 4)
    if header[:6] != MAGIC:
        raise ValueError("it is not a file that fastlstm has compressed")
    if len(header) < HEADER.size + 4:
        raise ValueError("it ends too early")
    _, version, method, preset, arithmetic, length, alphabet = HEADER.unpack(header[:-4])
    if version != VERSION:
        raise ValueError(f"it has version {version} of the format, and this fastlstm reads version {VERSION}")
    if header != sealed(method, preset, arithmetic, length, alphabet):
        raise ValueError("its header is damaged")
    if header == sealed(STORED, 0, 0, length, bytes(32)):
        next_block = stored_blocks(source, length)
    elif method != CODED or preset >= len(PRESETS):
        raise ValueError("its header is damaged")
    else:
        next_block = coded_blocks(source, length, list(PRESETS)[preset], arithmetic, alphabet)
    checksum = 0
    for block, expected in next_block:
        checksum = zlib.crc32(block, checksum)
        if checksum != expected:
            raise ValueError("its data are damaged")
        target.write(block)
        report(len(block))


def stored_blocks(source, length):
    """(bytes, checksum) of each block."""
    for size in sizes(length):
        block, checksum = source.read(size), source.read(4)
        if len(block) < size or len(checksum) < 4:
            raise ValueError("it ends too early")
        yield block, int.from_bytes(checksum, "little")
    if source.read(1):
        raise ValueError("it has more data than its header says")


def coded_blocks(source, length, preset, arithmetic, alphabet):
    """(bytes, checksum) of each block."""
    alphabet = np.flatnonzero(np.unpackbits(np.frombuffer(alphabet, np.uint8))).astype(np.uint8)
    if len(alphabet) == 0 and length:
        raise ValueError("its header is damaged")
    count = max(1, len(alphabet))
    if arithmetic != fingerprint(count, preset):
        isa = _core.selected_isa()
        raise ValueError(f"it was written with other arithmetic than that of fastlstm {__version__} on {isa}")
    model, decoder = Model(count, **PRESETS[preset]), _core.RangeDecoder(source.read)
    for size in sizes(length):
        symbols = [model.decode(decoder, min(CHUNK, size - k)) for k in range(0, size, CHUNK)]
        yield alphabet[np.concatenate(symbols)].tobytes(), decoder.number() << 16 | decoder.number()
    if not decoder.at_end():
        raise ValueError("it has more data than its header says, or its end is damaged")


def compress_file(source, target, preset="default"):
    """Compress a file by a network that learns it while it reads it.

    Parameters
    ----------
    source, target : str or os.PathLike
        The file to read, and the one to write, whole or not at all.
    preset : "fast", "default" or "best"
        How large the network is, and how often it reads the file's past again; docs/compress.md has sizes and times.

    Raises
    ------
    ValueError, TypeError
        An argument is wrong, or the file has changed meanwhile.
    OSError
        A file cannot be read or written.

    Notes
    -----
    A megabyte takes a minute, or several with "best". Memory does not depend on the file's size. A file has
    the same bytes, and can be read, wherever fused multiply-add is.

    Examples
    --------
    >>> import fastlstm as fl, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b, c = (os.path.join(folder, name) for name in "abc")
    ...     with open(a, "w") as file:
    ...         size = file.write("to be or not to be, " * 100)
    ...     fl.compress_file(a, b, preset="fast")
    ...     fl.decompress_file(b, c)
    ...     size, os.path.getsize(b) < 300, open(a).read() == open(c).read()
    (2000, True, True)
    """
    source, target = as_path(source, "source"), as_path(target, "target")
    as_choice(preset, "preset", tuple(PRESETS))
    with open(source, "rb") as file, new_file(target) as out, progress(os.path.getsize(source)) as report:
        compress(file, out, preset, report)


def decompress_file(source, target):
    """Decompress what `compress_file` has written: the same bytes again.

    Parameters
    ----------
    source, target : str or os.PathLike
        The file to read, and the one to write, whole or not at all.

    Raises
    ------
    ValueError, TypeError
        An argument is wrong; or the file is damaged, cut off, of another kind or a newer version, or was written where
        floating-point numbers are rounded differently (one side has fused multiply-add, the other has not).
    OSError
        A file cannot be read or written.
    """
    source, target = as_path(source, "source"), as_path(target, "target")
    with open(source, "rb") as file, new_file(target) as out, progress() as report:
        try:
            decompress(file, out, report)
        except ValueError as error:
            raise ValueError(f"source is {shown(source)} and cannot be decompressed: {error}") from None
