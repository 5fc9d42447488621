"""Who speaks? Nine men say /ae/; a bidirectional LSTM tells them apart (Kudo, Toyama and Shimbo 1999).

Shows classification of whole sequences of unequal length: the scores of a sequence are the mean
over its steps, and noise keeps 270 short utterances of 12 channels from being learned by heart.

The data ships inside the time-series packages aeon and sktime; neither is imported, and nothing else of them is needed:

    pip install --no-deps aeon
    python examples/japanese_vowels.py                     five seeds, mean and spread of the test accuracy
    python examples/japanese_vowels.py --cross-validate    how SETTINGS were chosen, on the training set alone
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np

import fastlstm as fl

CHANNELS, SPEAKERS = 12, 9
BATCH, RATE = 27, 0.005
# The row of GRID with the fewest errors in cross-validation; of several, the one with the smallest loss.
SETTINGS = {"hidden": 64, "noise": 1.0, "shift": 0.4}
GRID = [
    {"hidden": hidden, "noise": noise, "shift": shift}
    for hidden in (32, 64)
    for noise, shift in ((0.0, 0.0), (0.6, 0.2), (0.8, 0.3), (1.0, 0.4), (1.2, 0.5))
]
PUBLISHED = [("dynamic time warping, 1 neighbour", 94.9), ("PyTorch, bidirectional LSTM", 98.1), ("MiniRocket", 98.9)]


def data_folder():
    """Where aeon or sktime keeps the data."""
    for package in ("aeon", "sktime"):
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations if spec else ():
            folder = Path(place) / "datasets" / "data" / "JapaneseVowels"
            if (folder / "JapaneseVowels_TRAIN.ts").exists():
                return folder
    sys.exit("JapaneseVowels_TRAIN.ts is not here: pip install --no-deps aeon, or name its folder with --data")


def load(path):
    """Sequences (T_b, 12), and the speaker of each from 0: a line is 'channel:channel:...:speaker'."""
    _, lines = path.read_text().lower().split("@data\n")
    rows = [line.split(":") for line in lines.split()]
    xs = [np.array([channel.split(",") for channel in row[:-1]], np.float32).T for row in rows]
    return xs, np.array([int(row[-1]) - 1 for row in rows])


def standardised(train, *others):
    """Each list of sequences in units of the training set's channels."""
    every_step = np.concatenate(train)
    mean, deviation = every_step.mean(axis=0), every_step.std(axis=0)
    return [[(x - mean) / deviation for x in xs] for xs in (train, *others)]


def noisy(xs, noise, shift, rng):
    """Copies of sequences with `noise` that is new at every step, and a `shift` that stays through a sequence."""
    for x in xs:
        added = noise * rng.standard_normal(x.shape, np.float32) + shift * rng.standard_normal(CHANNELS, np.float32)
        yield x + added


def train(xs, speakers, seed, epochs, hidden, noise, shift):
    """A network trained on new noisy copies in each epoch."""
    rng = np.random.default_rng(seed)
    net = fl.Sequential(
        fl.LSTM(CHANNELS, hidden, bidirectional=True, seed=rng), fl.Linear(2 * hidden, SPEAKERS, seed=rng)
    )
    optimizer = fl.Adam(net, clip_norm=1.0)
    options = {"loss": "cross_entropy", "readout": "mean", "optimizer": optimizer, "batch_size": BATCH}
    schedule = fl.schedules.Cosine(RATE, epochs, warmup=epochs / 10)
    for epoch in range(epochs):
        optimizer.lr = schedule(epoch)
        copies = list(noisy(xs, noise, shift, rng))
        fl.fit(net, copies, speakers, epochs=1, seed=rng, progress=False, **options)
    return net


def evaluate(net, xs, speakers):
    """Number of wrong answers, and the loss."""
    y, _ = net(xs)
    scores = np.array([steps.mean(axis=0) for steps in y])
    return np.count_nonzero(scores.argmax(axis=1) != speakers), fl.losses.cross_entropy(scores, speakers)[0]


def cross_validate(xs, speakers, seed, epochs, settings, folds=5, rounds=2):
    """Wrong answers of all rounds and the mean loss, each fold held out once a round."""
    wrong, losses = 0, []
    for k in range(rounds):
        rng = np.random.default_rng([seed, k])
        fold = np.empty(len(xs), int)
        for speaker in range(SPEAKERS):  # as many of each speaker in every fold
            own = rng.permutation(np.flatnonzero(speakers == speaker))
            fold[own] = np.arange(len(own)) % folds
        for f in range(folds):
            inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
            known, held_out = standardised([xs[b] for b in inside], [xs[b] for b in outside])
            net = train(known, speakers[inside], seed + k, epochs, **settings)
            errors, loss = evaluate(net, held_out, speakers[outside])
            wrong += errors
            losses.append(loss)
    return wrong, float(np.mean(losses))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, help="folder with JapaneseVowels_TRAIN.ts and _TEST.ts")
    parser.add_argument("--cross-validate", action="store_true", help="compare GRID on the training set, and stop")
    parser.add_argument("--quick", action="store_true", help="one seed, 40 epochs: a first look")
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds, args.epochs = 1, 40
    fl.set_num_threads(args.threads)
    folder = args.data or data_folder()

    xs, speakers = load(folder / "JapaneseVowels_TRAIN.ts")
    if args.cross_validate:
        for settings in GRID:
            wrong, loss = cross_validate(xs, speakers, args.seed, args.epochs, settings)
            print(f"{wrong:3d} wrong of {2 * len(xs)}, loss {loss:.4f}: {settings}", flush=True)
        return None

    test_xs, test_speakers = load(folder / "JapaneseVowels_TEST.ts")
    xs, test_xs = standardised(xs, test_xs)
    accuracies = []
    for seed in range(args.seed, args.seed + args.seeds):
        began = time.perf_counter()
        net = train(xs, speakers, seed, args.epochs, **SETTINGS)
        took = time.perf_counter() - began
        accuracies.append(100 - 100 * evaluate(net, test_xs, test_speakers)[0] / len(test_xs))
        print(f"seed {seed}: {accuracies[-1]:.2f} % of {len(test_xs)} right after {took:.1f} s of training", flush=True)
    print(f"\n{'test accuracy':36}   %")
    for name, accuracy in PUBLISHED:
        print(f"{name:36} {accuracy:.1f}")
    print(f"{'this network, mean of ' + str(args.seeds):36} {np.mean(accuracies):.1f}")
    return float(np.mean(accuracies))


if __name__ == "__main__":
    main()
