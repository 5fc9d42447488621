"""What this machine can do at all: `python benchmarks/limits.py [--threads N]`; needs a C compiler.

The peak rate of float32 multiply-adds in registers, that of matrix products from each cache, how long a
chain of operations takes that wait for one another, how fast caches and memory are read, in a loop and once in each
call from Python, and float16 numbers widened, measured by `limits.c` compiled for the machine at hand. One measure is
short, to be repeated between the rounds of a benchmark: on a shared machine the clock swings, and only what was
measured at the same time can be compared. `peers.py` does that.
"""

import argparse
import ctypes
import os
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

SECONDS = 0.02  # one measure
FLAGS = ["-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-Wall", "-Wextra"]
SOURCE = Path(__file__).with_name("limits.c")
KB, MB = 1 << 10, 1 << 20
CHAIN, ROWS, FAR = 32, 24, 4 * MB  # in the report: multiply-adds, rows of products and bytes of a matrix


class Limits:
    """Measures of `threads` cores at once; each call is one measure.

    Raises
    ------
    OSError, subprocess.CalledProcessError
        There is no C compiler, or it fails.
    """

    def __init__(self, threads=1):
        self.threads = threads
        self._library = compiled()
        self._flops = self._library.limits_fma_flops()
        self._pool = ThreadPoolExecutor(threads)
        self._start = threading.Barrier(threads)
        self._buffers, self._rows = [aligned(KB) for _ in range(threads)], [aligned(KB) for _ in range(threads)]
        self._tiles = [aligned(2 * self._library.limits_half_count() + KB) for _ in range(threads)]
        self._times = {}  # what is measured -> repeats that last `SECONDS`

    def fma(self):
        """GFLOP/s of float32 multiply-adds (each counts two), all threads together."""

        def work(thread, times):
            self._library.limits_fma(times * 1000, 0.5, 1.0)

        return self._rate("fma", work, 1000 * self._flops * self.threads)

    def product(self, rows, size):
        """GFLOP/s of products of `rows` rows with a float32 matrix of `size` bytes, again and again, all threads' sum.

        Each thread has its share of the rows, as many as fill tiles of registers, and the whole matrix.
        """
        tile, panel = self._library.limits_rows(), self._library.limits_panel()
        tiles, panels = -(-rows // (self.threads * tile)), max(1, size // panel)
        self._enough(panels * panel)
        room = tiles * self._library.limits_tile()
        if self._rows[0].nbytes < room:
            self._rows = [aligned(room) for _ in range(self.threads)]

        def work(thread, times):
            w, sums = self._buffers[thread].ctypes.data, self._rows[thread].ctypes.data
            self._library.limits_product(w, sums, panels, tiles, times)

        flops = 2 * panels * (panel // 4) * tiles * tile
        return self._rate(("product", panels, tiles), work, flops * self.threads)

    def chain(self, fmas):
        """Billions of steps a second, each of so many multiply-adds, two divisions, a write and a read in a row."""

        def work(thread, times):
            self._library.limits_chain(times, fmas, self._tiles[thread].ctypes.data)

        return self._rate(("chain", fmas), work, 1)

    def half(self):
        """Billions of float16 numbers a second, widened and multiplied; infinite where it cannot be measured."""
        count = self._library.limits_half_count()

        def work(thread, times):
            self._library.limits_half(self._tiles[thread].ctypes.data, times, 0.5)

        return self._rate("half", work, count * self.threads) if count else float("inf")

    def read(self, size):
        """GB/s of reading `size` bytes over and over, each thread its share."""
        share = max(KB, size // self.threads // KB * KB)
        self._enough(share)

        def work(thread, times):
            self._library.limits_read(self._buffers[thread].ctypes.data, share, times)

        return self._rate(("read", share), work, share * self.threads)

    def once(self, size):
        """GB/s of reading `size` bytes once in each call from Python, whose own time is not counted; of several threads
        each would read its share in the time that one takes here.

        What the interpreter touches between two calls drives some of them out of the first-level cache.
        """
        share = max(KB, size // self.threads // KB * KB)
        self._enough(share)
        times, best = max(10, int(SECONDS / 10 / (1e-7 + share / 5e10))), {0: float("inf"), share: float("inf")}
        for _ in range(5):
            for count in best:  # in turns, so that both see the same moments
                self._library.limits_once_prepare(self._buffers[0].ctypes.data, count)
                best[count] = min(best[count], timed(self._library.limits_once, times))
        seconds = best[share] - best[0]
        return share * self.threads / seconds / 1e9 if seconds > 0 else float("inf")

    def _enough(self, size):
        """Make the buffer of each thread at least so long."""
        if self._buffers[0].nbytes < size:
            self._buffers = [aligned(size) for _ in range(self.threads)]

    def _rate(self, what, work, amount):
        """Billions a second of `amount`, which is done when every thread has done ``work(thread, 1)``."""
        while True:
            times = self._times.get(what, 1)
            seconds = self._seconds(work, times)
            if SECONDS / 2 < seconds or times > 1 << 40:
                break
            self._times[what] = int(times * min(20, 0.5 + SECONDS / seconds)) + 1
        if seconds > 3 * SECONDS and times > 1:
            self._times[what] = max(1, int(times * SECONDS / seconds))
        return amount * times / seconds / 1e9

    def _seconds(self, work, times):
        def once_all_are_there(thread):
            self._start.wait()
            start = perf_counter()
            work(thread, times)
            return perf_counter() - start

        if self.threads == 1:
            return once_all_are_there(0)
        return max(self._pool.map(once_all_are_there, range(self.threads)))


def timed(call, times):
    """Seconds per call."""
    turns = range(times)
    start = perf_counter()
    for _ in turns:
        call()
    return (perf_counter() - start) / times


def compiled():
    """`limits.c` as a loaded library, with the flags of this very machine that the compiler takes."""
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "limits.so")
        for native in (["-march=native"], ["-mcpu=native"], []):
            command = [*compiler, *FLAGS, *native, str(SOURCE), "-o", target]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                break
        done.check_returncode()
        library, short = ctypes.CDLL(target), ctypes.PyDLL(target)  # stay loaded without their file
    library.limits_fma_flops.restype = ctypes.c_long
    library.limits_fma.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    library.limits_fma.restype = ctypes.c_float
    for size in (library.limits_panel, library.limits_rows, library.limits_tile):
        size.restype = ctypes.c_long
    library.limits_product.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long] * 3
    library.limits_product.restype = None
    library.limits_chain.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p]
    library.limits_chain.restype = ctypes.c_float
    library.limits_half_count.restype = ctypes.c_long
    library.limits_half.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_float]
    library.limits_half.restype = ctypes.c_float
    library.limits_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    library.limits_once_prepare.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.limits_once = short.limits_once  # keeps the interpreter's lock: giving it away takes longer than the rest
    library.limits_once.argtypes, library.limits_once.restype = [], None
    return library


def aligned(size):
    """Zeros, `size` bytes of touched memory that begin a page."""
    buffer = np.zeros(size + 4096, np.uint8)
    buffer[:] = 0
    start = -buffer.ctypes.data % 4096
    return buffer[start : start + size]


def cache_sizes():
    """Bytes of the data caches that a core sees, by level; common ones where the system does not say."""
    sizes = {1: 32 * KB, 2: 512 * KB, 3: 16 * MB}
    units = {"K": KB, "M": MB}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size)
        except (OSError, ValueError):
            continue
    for level, name in ((1, "hw.l1dcachesize"), (2, "hw.l2cachesize"), (3, "hw.l3cachesize")):  # macOS
        try:
            done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True)
            sizes[level] = int(done.stdout) or sizes[level]
        except (OSError, ValueError):
            continue
    return sizes


def level_of(size, caches):
    """Name of the smallest cache that holds `size` bytes with a quarter to spare, or "memory"."""
    return next((f"L{level}" for level in sorted(caches) if size <= 0.75 * caches[level]), "memory")


def level_buffers():
    """Level -> bytes that certainly come from it."""
    caches = cache_sizes()
    buffers = {"L1": 16 * KB, "L2": caches[2] // 2}
    if caches[3] > 2 * caches[2]:
        buffers["L3"] = min(max(8 * MB, 2 * caches[2]), caches[3] // 2)
    return buffers | {"memory": max(256 * MB, 2 * caches[3])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="cores to measure at once (1)")
    parser.add_argument("--rounds", type=int, default=20, help="measures of each; the best counts (20)")
    options = parser.parse_args()
    limits, buffers, near = Limits(options.threads), level_buffers(), cache_sizes()[1] * options.threads
    best = dict.fromkeys(["fma", "product", "far", "chain", "half", "near", "once", *buffers], 0.0)
    for _ in range(options.rounds):
        best["fma"] = max(best["fma"], limits.fma())
        best["product"] = max(best["product"], limits.product(ROWS, 1))
        best["far"] = max(best["far"], limits.product(ROWS, FAR))
        best["chain"] = max(best["chain"], limits.chain(CHAIN))
        best["half"] = max(best["half"], limits.half())
        best["near"] = max(best["near"], limits.read(near))
        best["once"] = max(best["once"], limits.once(near))
        for level, size in buffers.items():
            best[level] = max(best[level], limits.read(size * options.threads if level != "memory" else size))
    print(f"| limit, {options.threads} thread{'s' * (options.threads > 1)} | best of {options.rounds} |\n|---|---|")
    print(f"| float32 multiply-add | {best['fma']:.0f} GFLOP/s |")
    print(f"| float32 matrix product, {ROWS} rows, from L1 | {best['product']:.0f} GFLOP/s |")
    print(f"| the same with a matrix of {FAR // MB} MB | {best['far']:.0f} GFLOP/s |")
    print(f"| {CHAIN} multiply-adds and 2 divisions in a row | {1 / best['chain']:.0f} ns |")
    print(f"| float16 widened and multiplied, from L1 | {best['half']:.1f} billion/s |")
    print(f"| read {near / KB:.0f} kB, over and over | {best['near']:.1f} GB/s |")
    print(f"| the same once in each call from Python | {best['once']:.1f} GB/s |")
    for level, size in buffers.items():
        print(f"| read from {level} ({size / KB:.0f} kB) | {best[level]:.1f} GB/s |")


if __name__ == "__main__":
    main()
