"""The command line: ``fastlstm`` or ``python -m fastlstm``."""

from __future__ import annotations

import argparse
import os
import sys
import time

import fastlstm as fl

__all__ = ["main"]

SUFFIX = ".lstm"  # of compressed files
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended: 128 + SIGINT


def _seed(text):
    """Read a seed as argparse wants it: NumPy takes no negative ones."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_seed.__name__ = "seed"  # argparse names the type in its error message


def _demo(parser):
    parser.add_argument("--seed", type=_seed, default=1, help="seed of weights and training sequences (default 1)")
    parser.add_argument("--quick", action="store_true", help="a few seconds only: part 1 stops before it has learned")

    def run(args):
        from . import _demo as demo

        return demo.run(seed=args.seed, quick=args.quick)

    return run


def _paths(parser, default):
    parser.add_argument("file", help="the file to read, - for standard input")
    parser.add_argument("-o", "--output", help=f"the file to write, - for standard output (default: {default})")
    parser.add_argument("-f", "--force", action="store_true", help="write the file even if it exists")


def _convert(args, target, convert):
    """Have `convert` make one file of another, where - stands for standard input and output."""
    import shutil
    import tempfile

    try:
        if target is None:
            raise ValueError(f"file is {args.file} and does not end with {SUFFIX}: name a file to write, with -o")
        if target != "-" and not args.force and os.path.lexists(target):
            raise ValueError(f"output is {target}, which exists: -f writes over it")
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            source, result = args.file, target
            if source == "-":
                source = os.path.join(folder, "source")
                with open(source, "wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
            if result == "-":
                result = os.path.join(folder, "result")
            convert(source, result)
            sizes = os.path.getsize(source), os.path.getsize(result)
            if target == "-":
                with open(result, "rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
        seconds = time.perf_counter() - began
        print(f"{args.file}: {sizes[0]:,} to {sizes[1]:,} bytes in {seconds:.1f} s", file=sys.stderr)
        return 0
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"fastlstm {args.command}: {error}", file=sys.stderr)
        return 1


def _compress(parser):
    _paths(parser, f"FILE{SUFFIX}")
    names = ("fast", "default", "best")
    parser.add_argument(
        "-p", "--preset", choices=names, default="default", help="speed against size (default: default)"
    )

    def run(args):
        target = args.output or ("-" if args.file == "-" else args.file + SUFFIX)
        return _convert(args, target, lambda a, b: fl.compress_file(a, b, preset=args.preset))

    return run


def _decompress(parser):
    _paths(parser, f"FILE without {SUFFIX}")

    def run(args):
        name = args.file.removesuffix(SUFFIX)
        target = args.output or ("-" if args.file == "-" else name if name != args.file else None)
        return _convert(args, target, fl.decompress_file)

    return run


def _info(parser):
    def run(args):
        info = fl.build_info()
        width = max(map(len, info))
        for name, value in info.items():
            if isinstance(value, (list, tuple, set)):
                value = ", ".join(map(str, value)) or "none"
            print(f"{name:<{width}}  {value}")
        return 0

    return run


def _count(text):
    """Read a number of trials, sequences or jobs."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_count.__name__ = "number"


def _experiment(parser):
    actions = parser.add_subparsers(title="actions", metavar="action", dest="action", required=True)
    actions.add_parser("list", help="show all experiments and methods")

    run = actions.add_parser("run", help="run trials; a killed run goes on where it was")
    run.add_argument("name", metavar="NAME", help="an experiment: 4-1, 2c (all that begin so), all")
    run.add_argument("--method", default="lstm1997", metavar="M", help="lstm1997 (default), best, elman, ...; see list")
    run.add_argument("--trials", type=_count, default=10, metavar="N", help="number of trials (default 10)")
    run.add_argument("--seed", type=_seed, default=0, metavar="S", help="seed of all trials (default 0)")
    run.add_argument("--jobs", type=_count, default=1, metavar="J", help="trials side by side, by joblib (default 1)")
    run.add_argument("--max-sequences", type=_count, metavar="M", help="training sequences after which a trial ends")
    run.add_argument("--out", metavar="FILE", help="where results go, as JSON lines (default NAME.jsonl)")

    report = actions.add_parser("report", help="write tables and plots of the results in a directory")
    report.add_argument("directory", metavar="DIR", help="directory with *.jsonl files")

    def go(args):
        from . import experiments

        try:
            if args.action == "list":
                print(experiments.listing())
            elif args.action == "report":
                for path in experiments.report(args.directory):
                    print(path)
            else:
                out = args.out or f"{args.name}.jsonl"
                options = {"trials": args.trials, "seed": args.seed, "jobs": args.jobs, "most": args.max_sequences}
                experiments.run(args.name, args.method, out=out, say=lambda line: print(line, flush=True), **options)
        except ValueError as error:
            print(f"fastlstm experiment: {error}", file=sys.stderr)
            return 2
        return 0

    return go


# One line per sub-command: its name, what --help says, and a function that adds the sub-command's arguments to
# the parser it is given and returns the function that runs it (parsed arguments in, exit code out). What a
# sub-command needs is imported when it runs, so that --version and --help stay quick.
COMMANDS = (
    ("demo", "learn a long memory, forecast sunspots, time streaming (under a minute)", _demo),
    ("compress", "compress a file with a network that learns it on the way", _compress),
    ("decompress", "decompress what compress has written", _decompress),
    ("experiment", "run the 1997 paper's experiments and their rivals", _experiment),
    ("info", "show version, instruction set and threads", _info),
)


def _parser():
    parser = argparse.ArgumentParser(prog="fastlstm", description="LSTM networks on CPUs.")
    parser.add_argument("--version", action="version", version=f"fastlstm {fl.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", dest="command", required=True)
    for name, text, configure in COMMANDS:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(run=configure(command))
    return parser


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments without the program's name; those of the process if not given.

    Returns
    -------
    int
        The exit code: 0 if all went well, 1 for files that are wrong, 2 for arguments that are wrong, 130 after Ctrl-C.
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as end:  # argparse leaves this way: 0 for --help and --version, 2 for errors
        return end.code or 0
    try:
        code = args.run(args)
        sys.stdout.flush()  # a reader that has gone is to be noticed here, not at the interpreter's end
        return code
    except KeyboardInterrupt:
        # The terminal shows ^C at the cursor: the message gets a line of its own.
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`fastlstm info | head -1`) has all it wanted. What is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
