"""float32 against float64, beside PyTorch: `python benchmarks/accuracy.py [--seed N]`; needs torch.

For LSTM layers as both have them and sequences of 1,000 steps, the largest error of fastlstm's float32 outputs and of
PyTorch's, each against the same network in float64, and the ratio of their root mean square errors.
"""

import argparse

import numpy as np

import fastlstm as fl


def errors(rng, inputs, hidden, layers, steps, lanes):
    """float32 outputs minus float64 outputs: of fastlstm, and of PyTorch."""
    import torch

    ours = fl.LSTM(inputs, hidden, layers, seed=int(rng.integers(2**31)))
    exact = fl.LSTM(inputs, hidden, layers, dtype="float64")
    theirs = torch.nn.LSTM(inputs, hidden, layers)
    weights = ours.state_dict()
    exact.load_state_dict({name: w.astype(np.float64) for name, w in weights.items()})
    theirs.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    x = rng.standard_normal((steps, lanes, inputs)).astype(np.float32)
    truth = exact(x.astype(np.float64))[0]
    with torch.no_grad():
        peer = theirs(torch.from_numpy(x))[0].numpy()
    return ours(x)[0] - truth, peer - truth


def main():
    import torch  # not at the top: asv imports every file here

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    rng = np.random.default_rng(parser.parse_args().seed)
    torch.set_num_threads(1)
    print(f"fastlstm {fl.__version__} ({fl.build_info()['isa']}), PyTorch {torch.__version__}, 1,000 steps\n")
    print("| inputs | hidden | layers | lanes | largest error | PyTorch's | ratio of RMS errors |")
    print("|---|---|---|---|---|---|---|")
    ratios, worst = [], 0.0
    for inputs, hidden, layers, lanes in [
        (i, h, n, b)
        for i, h in ((1, 8), (3, 16), (16, 32), (40, 64), (128, 128), (64, 256))
        for n in (1, 2)
        for b in (1, 4)
    ]:
        a, b = errors(rng, inputs, hidden, layers, 1000, lanes)
        ratios.append(np.sqrt(np.mean(a**2) / np.mean(b**2)))
        worst = max(worst, np.abs(a).max())
        row = (inputs, hidden, layers, lanes, f"{np.abs(a).max():.1e}", f"{np.abs(b).max():.1e}", f"{ratios[-1]:.2f}")
        print("|", " | ".join(map(str, row)), "|")
    print(f"\nratio: median {np.median(ratios):.2f}, worst {max(ratios):.2f}; largest error {worst:.1e}")


if __name__ == "__main__":
    main()
