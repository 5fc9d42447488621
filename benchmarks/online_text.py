"""How well gradients learn a text online: bits per byte, and bytes per second, in one pass from nothing.

A network reads a file once, predicts each byte and learns from it, as the compressor does (docs/compress.md), with each
gradient that `fl.OnlineLearner` has and chunks of several lengths. `--lanes 3` has two more lanes, which read earlier
parts of the file again. The rate was chosen for chunks of 16 steps and plain truncated backpropagation. Times are of
the processor.

    python benchmarks/online_text.py FILE --seeds 3
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

import fastlstm as fl

GRADIENTS = ("truncated-rtrl", "bptt", "carried-bptt")
ALPHA, RATE, DECAY = 0.9999, 0.02, 1e-4


def bits_per_byte(symbols, classes, hidden, gradient, chunk, lanes, seed):
    """Mean of -log2 p of a file's symbols, each predicted before it is learnt, and bytes per second."""
    lstm = fl.LSTM(classes, hidden, seed=seed)
    net = fl.Sequential(lstm, fl.Linear(hidden, classes, activation=("affine", 3.0, 0.0), seed=seed))
    optimizer = fl.RMSprop(net, lr=RATE, alpha=ALPHA, eps=1e-7)
    learner = fl.OnlineLearner(net, "cross_entropy", optimizer, gradient, chunk, lanes)
    rng, one_hot = np.random.default_rng(seed), np.eye(classes, dtype=np.float32)
    before = np.concatenate([[0], symbols[:-1]])
    where, bits, began = np.zeros(lanes, int), 0.0, time.process_time()
    for k, at in enumerate(range(0, len(symbols) - chunk + 1, chunk)):
        where[0] = at
        if lanes > 1 and at > 256 and (k * chunk) % 128 < chunk:
            where[1:] = rng.integers(0, at - chunk, lanes - 1)
        steps = where + np.arange(chunk)[:, None]
        targets = symbols[steps]
        if at <= 256:
            targets[:, 1:] = -1
        optimizer.lr = RATE * math.sqrt((1 - ALPHA ** (k + 1)) / (1 + DECAY * at) * min(1, chunk / 16))
        y = learner.run(one_hot[before[steps]], targets)[:, :1]
        bits += chunk * fl.losses.cross_entropy(y, targets[:, :1])[0] / math.log(2)
        where += chunk
    seen = at + chunk
    return bits / seen, seen / (time.process_time() - began)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--chunks", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--bytes", type=int, help="only so many from the start")
    args = parser.parse_args(argv)
    data = np.frombuffer(args.file.read_bytes()[: args.bytes], np.uint8)
    alphabet, symbols = np.unique(data, return_inverse=True)
    print(f"{args.file.name}, {len(data):,} bytes, H={args.hidden}, lanes={args.lanes}, {args.seeds} seeds\n")
    print("| chunk | gradient | bits per byte | kB/s |\n|---|---|---|---|")
    for chunk in args.chunks:
        for gradient in GRADIENTS:
            runs = [
                bits_per_byte(symbols, len(alphabet), args.hidden, gradient, chunk, args.lanes, seed)
                for seed in range(args.seeds)
            ]
            bits = [b for b, _ in runs]
            each = f" ({min(bits):.3f} to {max(bits):.3f})" if args.seeds > 1 else ""
            print(
                f"| {chunk} | {gradient} | {np.mean(bits):.3f}{each} | {max(s for _, s in runs) / 1000:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
