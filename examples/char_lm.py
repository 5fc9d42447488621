"""A character language model: an LSTM reads the King James Bible and guesses each next character.

Shows truncated backpropagation through time on one long text: 32 places of the text are read side by side, 64
characters a time, and the state goes on from chunk to chunk. Prints bits per character on held-out text beside
n-gram models and compressors that have seen the same training text, the speed, and a text that the network writes.

    apt-get install bible-kjv bible-kjv-text    else the text of Python's own help is taken
    python examples/char_lm.py
    python examples/char_lm.py --text FILE
"""

import argparse
import bz2
import lzma
import re
import shutil
import subprocess
import time
from pathlib import Path
from pydoc_data import topics

import numpy as np

import fastlstm as fl

HIDDEN, LANES, STEPS, RATE = 256, 32, 64, 0.012
PIECE, EVERY = 5000, 20  # of every 20 pieces of 5,000 characters one is held out
ORDERS = (0, 1, 2, 3, 5)  # n-gram models: preceding characters that they look at


def read_text(path):
    """The text and its name."""
    if path is not None:
        return path.read_bytes(), path.name
    if shutil.which("bible"):
        verses = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, check=True).stdout
        return re.sub(rb"(?m)^\w+:\d+ ", b"", verses), "King James Bible, a verse a line"
    return "\n".join(topics.topics[name] for name in sorted(topics.topics)).encode(), "Python's help topics"


def split(symbols):
    """Training text, and held-out pieces side by side (PIECE, pieces)."""
    pieces = symbols[: len(symbols) // PIECE * PIECE].reshape(-1, PIECE)
    held_out = np.arange(len(pieces)) % EVERY == EVERY // 2
    if not held_out.any():
        raise SystemExit(f"the text has {len(symbols)} characters and must have at least {PIECE * (EVERY // 2 + 1)}")
    return pieces[~held_out].ravel(), pieces[held_out].T


def ngram_bits(train, held_out, classes, orders):
    """Bits per held-out character of n-gram models of each order, smoothed as Witten and Bell (1991) do.

    p(c | context) = (n(context, c) + d p(c | shorter context)) / (n(context) + d), d the number of different
    characters seen after the context; p(c | nothing shorter) = 1 / classes.
    """

    def keys(text, length):  # each run of `length` characters as one number
        runs = np.lib.stride_tricks.sliding_window_view(text, length)[max(orders) - length + 1 :]
        return runs @ classes ** np.arange(length - 1, -1, -1)

    def look_up(values, counts, wanted):
        at = np.searchsorted(values, wanted).clip(max=len(values) - 1)
        return np.where(values[at] == wanted, counts[at], 0)

    held_out, bits = held_out.T.ravel(), {}
    p = np.full(len(held_out) - max(orders), 1 / classes)
    for order in range(max(orders) + 1):
        grams, count = np.unique(keys(train, order + 1), return_counts=True)
        wanted = keys(held_out, order + 1)
        contexts, first, different = np.unique(grams // classes, return_index=True, return_counts=True)
        seen = look_up(contexts, np.add.reduceat(count, first), wanted // classes)
        kinds = look_up(contexts, different, wanted // classes)
        known = seen > 0
        p[known] = ((look_up(grams, count, wanted) + kinds * p) / np.maximum(seen + kinds, 1))[known]
        if order in orders:
            bits[order] = -np.log2(p).mean()
    return bits


def compressed_bits(train, held_out):
    """Bits per held-out character that a compressor adds for it to those of the training text."""
    train, held_out = bytes(train), bytes(held_out)
    for name, compress in (("bz2", bz2.compress), ("xz", lambda text: lzma.compress(text, preset=9))):
        yield name, 8 * (len(compress(train + held_out)) - len(compress(train))) / len(held_out)


def make_network(classes, rng):
    """LSTM and scores of the next character."""
    lstm = fl.LSTM(classes, HIDDEN, seed=rng)
    lstm.weight_ih_l0 = 8 * lstm.weight_ih_l0  # of one-hot inputs, one column at a time is at work
    bias = lstm.bias_ih_l0.copy()
    bias[HIDDEN : 2 * HIDDEN] = 1  # forget gates begin open (Gers, Schmidhuber and Cummins 2000)
    lstm.bias_ih_l0 = bias
    return fl.Sequential(lstm, fl.Linear(HIDDEN, classes, seed=rng))


def model_bits(net, one_hot, text):
    """Bits per character of text (T, B), each column from a fresh state; the first character is given."""
    total, state = 0.0, None
    for start in range(0, len(text) - 1, 500):
        chunk = text[start : start + 501]
        y, state = net(one_hot[chunk[:-1]], state)
        total += fl.losses.cross_entropy(y, chunk[1:])[0] * len(y)
    return total / (len(text) - 1) / np.log(2)


def train_network(net, one_hot, text, held_out, updates):
    """Train, print how it goes; returns characters per second and seconds until 2 bits per held-out character."""
    columns = text[: len(text) // LANES * LANES].reshape(LANES, -1).T
    chunks = (len(columns) - 1) // STEPS
    optimizer = fl.Adam(net, RATE, clip_norm=1.0)
    schedule = fl.schedules.Cosine(RATE, updates, warmup=min(50, updates / 10), final=RATE / 50)
    seconds, reached, state = 0.0, None, None
    for k in range(updates):
        began = time.perf_counter()
        start = k % chunks * STEPS
        state = state if start else None
        x, following = columns[start : start + STEPS], columns[start + 1 : start + STEPS + 1]
        y, state, backward = net.forward(one_hot[x], state)
        _, dy = fl.losses.cross_entropy(y, following)
        net.zero_grad()
        backward(dy, need_dx=False)
        optimizer.lr = schedule(k)
        optimizer.step()
        seconds += time.perf_counter() - began
        if (k + 1) % max(1, updates // 12) == 0 or k + 1 == updates:
            bits = model_bits(net, one_hot, held_out[:, :40])
            reached = seconds if reached is None and bits <= 2 else reached
            print(f"{(k + 1) * x.size:9,d} characters, {seconds:5.1f} s: {bits:.3f} bits", flush=True)
    return updates * LANES * STEPS / seconds, reached


def write(net, one_hot, rng, length, temperature):
    """Symbols that the network writes, one step at a time, each drawn from softmax(scores / temperature)."""
    stream, symbol, symbols = net.stream(), 0, []
    for _ in range(length):
        scores = stream.step(one_hot[symbol]).astype(float) / temperature
        symbol = (scores + rng.gumbel(size=len(scores))).argmax()  # a draw from the softmax
        symbols.append(symbol)
    return np.array(symbols)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=0.6, help="passes through the training text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--text", type=Path, help="a text file")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the sample: below 1 more probable text")
    parser.add_argument("--quick", action="store_true", help="40 updates on 300,000 characters: a first look")
    args = parser.parse_args(argv)
    fl.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)

    text, name = read_text(args.text)
    text = text[:300_000] if args.quick else text
    alphabet, symbols = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)
    train, held_out = split(symbols)
    one_hot = np.eye(len(alphabet), dtype=np.float32)
    print(f"{name}: {len(train):,} characters to learn from, {held_out.size:,} held out, {len(alphabet)} different")

    net = make_network(len(alphabet), rng)
    updates = 40 if args.quick else max(1, round(args.epochs * len(train) / (LANES * STEPS)))
    speed, reached = train_network(net, one_hot, train, held_out, updates)

    print("\nbits per held-out character")
    for order, bits in ngram_bits(train, held_out, len(alphabet), ORDERS).items():
        print(f"  {'n-gram model, ' + str(order) + ' preceding characters':36} {bits:.3f}")
    for name, bits in compressed_bits(alphabet[train], alphabet[held_out.T]):
        print(f"  {name + ', after the training text':36} {bits:.3f}")
    final = model_bits(net, one_hot, held_out)
    print(f"  {'this LSTM':36} {final:.3f}")
    print(f"{speed:,.0f} characters per second" + (f"; 2 bits after {reached:.0f} s" if reached else ""))
    print("\n" + bytes(alphabet[write(net, one_hot, rng, 600, args.temperature)]).decode(errors="replace"))
    return final


if __name__ == "__main__":
    main()
