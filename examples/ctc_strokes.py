"""Reading handwriting without knowing where letters begin: pen strokes, a bidirectional LSTM and CTC.

Shows training on unsegmented sequences (Graves, Fernandez, Gomez and Schmidhuber 2006): the input is a pen's path, the
target the letters alone. Random letters are written in three fonts of strokes (digitised by A. V. Hershey in 1967), one
of them a joined script, at random size, slant, width, angle and speed, by a trembling hand. Each step tells how far the
pen moved, and whether it was lifted.

Beside it stands a network without memory, trained in the same way, that sees a window of steps around each.

    pip install Hershey-Fonts
    python examples/ctc_strokes.py
"""

import argparse
import time

import numpy as np
from HersheyFonts import HersheyFonts

import fastlstm as fl

FONTS = ("scripts", "futural", "rowmans")
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # label k is LETTERS[k - 1]; 0 is CTC's blank
SPACING = 0.1  # of the pen's positions; a font's lines are 1 apart
HIDDEN, WINDOW, BATCH, RATE = 64, 9, 16, 0.01


def load_fonts():
    fonts = []
    for name in FONTS:
        font = HersheyFonts()
        font.load_default_font(name)
        font.normalize_rendering(1.0)
        fonts.append(font)
    return fonts


def write(word, font, rng):
    """A word as steps (T, 3): the pen's movement in x and y, and 1 where it was lifted on the way."""
    slant, angle, width = rng.normal(0, 0.25), rng.normal(0, 0.08), np.exp(rng.normal(0, 0.15))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    change = np.array([[width, 0], [slant, 1]]) @ turn * np.exp(rng.normal(0, 0.15))
    spacing = SPACING * np.exp(rng.normal(0, 0.15))
    points, lifted, end = [], [], None
    for stroke in font.strokes_for_text(word):
        corners = np.array(stroke) @ change
        joined = end is not None and np.abs(corners[0] - end).max() < 0.01
        end = corners[-1]
        along = np.r_[0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T))]
        places = np.linspace(0, along[-1], 1 + max(1, round(along[-1] / spacing)))[1 if joined else 0 :]
        points.append(np.stack([np.interp(places, along, corners[:, k]) for k in (0, 1)], axis=1))
        lifted.append((np.arange(len(places)) == 0) & (not joined))
    points, lifted = np.concatenate(points), np.concatenate(lifted)
    points += rng.normal(0, 0.1 * spacing, points.shape)
    steps = np.diff(points, axis=0, prepend=points[:1]) / SPACING
    return np.column_stack([steps, lifted]).astype(np.float32)


def make_words(count, fonts, rng):
    """Paths, and the labels of each: 3 to 6 letters."""
    words = [rng.integers(0, len(LETTERS), rng.integers(3, 7)) for _ in range(count)]
    paths = [write("".join(LETTERS[k] for k in word), fonts[rng.integers(len(fonts))], rng) for word in words]
    return paths, [word + 1 for word in words]


def windows(x):
    """Each step with its neighbours: (T, WINDOW * 3), for a network without memory."""
    padded = np.pad(x, ((WINDOW // 2, WINDOW // 2), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0).reshape(len(x), -1)


def train(net, paths, labels, epochs, seed):
    """Minimise the CTC loss; batches are made of words of similar length."""

    def show(history):
        print(f"  epoch {len(history)}: loss {history.loss[-1]:.3f}", flush=True)

    optimizer, schedule = fl.Adam(net, RATE, clip_norm=1.0), fl.schedules.Cosine(RATE, epochs)
    options = {"epochs": epochs, "batch_size": BATCH, "schedule": schedule, "seed": seed, "progress": False}
    fl.fit(net, paths, labels, loss="ctc", optimizer=optimizer, callbacks=[show], **options)


def best_path(scores):
    """Labels of the most probable alignment: the best class of each step, without repetitions and blanks."""
    best = scores.argmax(axis=1)
    return best[(best != 0) & (np.diff(best, prepend=0) != 0)]


def edit_distance(a, b):
    """Least number of insertions, deletions and substitutions that turn a into b (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, this in enumerate(a):
        diagonal, row[0] = row[0], i + 1
        for j, other in enumerate(b):
            diagonal, row[j + 1] = row[j + 1], min(row[j] + 1, row[j + 1] + 1, diagonal + (this != other))
    return row[-1]


def error_rate(answers, labels):
    """Label error rate in percent: edit distances over the number of labels."""
    distance = sum(edit_distance(answer, label) for answer, label in zip(answers, labels, strict=True))
    return 100 * distance / sum(map(len, labels))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--words", type=int, default=3000, help="to learn from; read are 1/6 as many others")
    parser.add_argument("--quick", action="store_true", help="1 epoch of 300 words: a first look")
    args = parser.parse_args(argv)
    if args.quick:
        args.epochs, args.words = 1, 300
    fl.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)

    fonts = load_fonts()
    paths, labels = make_words(args.words, fonts, rng)
    test_paths, test_labels = make_words(max(1, args.words // 6), fonts, rng)
    steps = np.mean([len(x) for x in paths])
    print(
        f"{len(paths)} words to learn from, {steps:.0f} steps and {np.mean([*map(len, labels)]):.1f} letters on average"
    )

    lstm = fl.LSTM(3, HIDDEN, bidirectional=True, seed=rng)
    reads_all = fl.Sequential(lstm, fl.Linear(2 * HIDDEN, 1 + len(LETTERS), seed=rng))
    hidden = fl.Linear(3 * WINDOW, 4 * HIDDEN, activation="tanh", seed=rng)
    reads_window = fl.Sequential(hidden, fl.Linear(4 * HIDDEN, 1 + len(LETTERS), seed=rng))
    results = [("always the empty word", 100.0, 0.0)]
    for name, net, view in (
        (f"window of {WINDOW} steps, no memory", reads_window, windows),
        ("bidirectional LSTM", reads_all, lambda x: x),
    ):
        print(name)
        began = time.perf_counter()
        train(net, [view(x) for x in paths], labels, args.epochs, args.seed)
        seconds = time.perf_counter() - began
        answers = [best_path(scores) for scores in net([view(x) for x in test_paths])[0]]
        results.append((name, error_rate(answers, test_labels), seconds))
    print(f"\n{'letters wrong, missing or too many, new words':50}      %  seconds")
    for name, rate, seconds in results:
        print(f"{name:50} {rate:6.1f} {seconds:8.1f}")
    for answer, label in list(zip(answers, test_labels, strict=True))[:6]:
        print("  written", "".join(LETTERS[k - 1] for k in label), "read", "".join(LETTERS[k - 1] for k in answer))
    return results[-1][1]


if __name__ == "__main__":
    main()
