"""Compress a file with networks that learn it on the way, and with what comes with Python, and compare.

Shows what an LSTM learns from one pass over a text, without having seen any before: `fl.compress_file` predicts each
byte, codes it with as many bits as it is surprised, and learns from it (`fl.OnlineLearner`). `fl.decompress_file`
learns the same from the bytes that it has decoded, so the file has nothing of the network in it. Each compressed file
is decompressed again and must be the same.

Printed are bits per byte, and thousands of bytes in a second of processor time, there and back. docs/compress.md has
results.

    python examples/compress.py FILE
    python examples/compress.py                 the text of Python's help
"""

import argparse
import bz2
import lzma
import pydoc_data.topics
import tempfile
import time
import zlib
from pathlib import Path

import fastlstm as fl

PRESETS = ("fast", "default", "best")
BESIDE = {
    "zlib -9": (lambda data: zlib.compress(data, 9), zlib.decompress),
    "bz2 -9": (bz2.compress, bz2.decompress),
    "xz -9e": (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
}


def seconds_of(function, *arguments):
    """Processor time of a call, and what it returns."""
    began = time.process_time()
    result = function(*arguments)
    return time.process_time() - began, result


def compare(source, folder, presets, rounds):
    """Rows (name, bytes, seconds to compress, seconds to decompress), the best of some rounds."""
    data = source.read_bytes()
    for name, (compress, decompress) in BESIDE.items():
        pairs = [(seconds_of(compress, data), seconds_of(decompress, compress(data))) for _ in range(rounds)]
        yield name, len(pairs[0][0][1]), min(there[0] for there, _ in pairs), min(back[0] for _, back in pairs)
    small, again = folder / "small", folder / "again"
    for preset in presets:
        times = []
        for _ in range(rounds):
            there, _ = seconds_of(fl.compress_file, source, small, preset)
            back, _ = seconds_of(fl.decompress_file, small, again)
            if again.read_bytes() != data:
                raise SystemExit(f"{preset}: what came back is not what went in")
            times.append((there, back))
        yield f"fastlstm {preset}", small.stat().st_size, *map(min, zip(*times, strict=True))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", help="a file that is not empty")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--rounds", type=int, default=1, help="the best time of so many")
    parser.add_argument("--quick", action="store_true", help="20,000 bytes, the fast preset: a first look")
    args = parser.parse_args(argv)
    presets = ("fast",) if args.quick else args.presets
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = args.file or Path(pydoc_data.topics.__file__)
        if args.quick:
            source, whole = folder / "start", source
            source.write_bytes(whole.read_bytes()[:20_000])
        length = source.stat().st_size
        print(f"{args.file or 'the text of the help'}: {length:,} bytes\n")
        print(f"{'':18} {'bytes':>10} {'bits/byte':>10} {'kB/s':>9} {'kB/s back':>10}")
        for name, size, there, back in compare(source, folder, presets, args.rounds):
            speeds = " ".join(f"{length / 1000 / max(t, 1e-6):9,.1f}" for t in (there, back))
            print(f"{name:18} {size:10,} {8 * size / length:10.3f} {speeds}", flush=True)
            sizes[name] = size
    return sizes


if __name__ == "__main__":
    main()
