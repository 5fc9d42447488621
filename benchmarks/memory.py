"""How much memory do a call, the import and a stream take?"""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np

import fastlstm as fl


class LongCall:
    """Peak memory of a process that makes one call: with a million steps, input and output have 4 MB each."""

    params = [1_000, 1_000_000]
    param_names = ["steps"]

    def setup(self, steps):
        self.net = fl.Sequential(fl.LSTM(1, 16, seed=0), fl.Linear(16, 1, seed=1))
        self.xs = np.zeros((steps, 1), np.float32)
        self.xs[:] = 1

    def peakmem_layer(self, steps):
        self.net(self.xs)

    def peakmem_run(self, steps):
        self.net.stream().run(self.xs)


class ImportMemory:
    """Resident memory of a fresh interpreter that imports the package, beside one that imports NumPy alone."""

    params = ["numpy", "fastlstm"]
    param_names = ["module"]
    unit = "bytes"

    def setup(self, module):
        if not Path("/proc/self/statm").exists():
            raise NotImplementedError("reads /proc")

    def track_resident(self, module):
        code = f"import mmap, {module}; print(int(open('/proc/self/statm').read().split()[1]) * mmap.PAGESIZE)"
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


class StreamMemory:
    """Bytes that the first stream of a layer takes (packed weights, state, room for a step), and each one more."""

    params = ([16, 128, 512], ["float32", "float16", "int16", "int8"])
    param_names = ["H", "weights"]
    unit = "bytes"

    def setup(self, H, weights):
        try:
            fl.LSTM(H, H, seed=0).stream(weights=weights)
        except ValueError as error:
            raise NotImplementedError(f"no {weights} weights in this version") from error
        self.layer, self.streams = fl.LSTM(H, H, seed=0), []

    def bytes_of_one_more(self, weights):
        tracemalloc.start()
        self.streams.append(self.layer.stream(weights=weights))
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    def track_first(self, H, weights):
        return self.bytes_of_one_more(weights)

    def track_further(self, H, weights):
        self.layer.stream(weights=weights)
        return self.bytes_of_one_more(weights)
