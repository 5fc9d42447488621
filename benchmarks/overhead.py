"""What do the import and a call cost when there is nothing to compute?"""

import subprocess
import sys

import numpy as np

import fastlstm as fl


class Import:
    """A fresh interpreter that imports the package, beside one that imports NumPy alone."""

    params = ["numpy", "fastlstm"]
    param_names = ["module"]
    sample_time = 0.5

    def time_import(self, module):
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


class Call:
    """Calls with one hidden unit: arguments, checks, and the way down to C."""

    def setup(self):
        self.layer = fl.LSTM(1, 1, seed=0)
        self.stream = self.layer.stream()
        self.x = np.zeros(1, np.float32)
        self.xs = np.zeros((1, 1), np.float32)
        self.y = np.zeros(1, np.float32)

    def time_step(self):
        self.stream.step(self.x)

    def time_step_out(self):
        self.stream.step(self.x, out=self.y)

    def time_run_one_step(self):
        self.stream.run(self.xs)

    def time_layer_call(self):
        self.layer(self.xs)

    def time_make_stream(self):
        self.layer.stream()
