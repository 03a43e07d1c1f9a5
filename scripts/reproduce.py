"""What others have published for programs of this kind, run again by this one: the table of docs/reproductions.md.

    python scripts/reproduce.py [names] [--seeds N] [--data-dir DIR]

Each run is a recipe with a name (`python main.py --recipe NAME`), started for a number of seeds after one short start
that leaves its kernels in the cache.  Needs an idle machine.
"""
import argparse
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cnn_numba.commands.flags import flag_of  # noqa: E402
from cnn_numba.recipe import FIELDS, RECIPES  # noqa: E402


@dataclass(frozen=True)
class Run:
    """A published run and ours: flags of `python main.py`, and the number of seeds, which are 0, 1, ..."""

    published: str
    flags: str
    seeds: int


RUNS = {
    "bn-cnn": Run("97.69 % after 1 epoch of 50,000 images", "--recipe bn-cnn", 5),
    "lenet5": Run("98.58 % after 5 epochs; 429.9 s an epoch", "--recipe lenet5", 3),
    "lenet5-momentum": Run("98.58 % after 5 epochs; 429.9 s an epoch", "--recipe lenet5-momentum", 3),
    "small": Run("8 of 10 images; 428.72 s, with Numba 69.68 s", "--recipe small --serial", 5),
    "two-conv-bn": Run("99.36 % of a validation part, about 25 hours", "--recipe two-conv-bn", 5),
    "lenet5-avg": Run("99.11 %; 2058.3 s", "--recipe lenet5-avg", 3),
    "lenet5-max": Run("98.93 %; 2058.3 s", "--recipe lenet5-max", 3),
    "fast": Run("0.76 s to 99 %, on a GTX 1660 Ti", "--recipe fast", 5),
}


@dataclass(frozen=True)
class Result:
    """Of one seed: accuracy on the test images in per cent, seconds of each epoch and of the whole program."""

    accuracy: float
    epochs: list
    program: float


def start(flags, seed, around=()):
    """Run main.py; returns what it printed, and the seconds from its start to its end.

    Raises SystemExit with the program's own sentence when it fails.
    """
    command = [sys.executable, "main.py", *flags.split(), "--seed", str(seed), *around]
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout, seconds


def read_output(text, seconds):
    """The Result that a program has printed, which ran for so many seconds."""
    epochs = [float(seconds) for seconds in re.findall(r"^Epoch .* Run in: ([\d.]+) s", text, re.MULTILINE)]
    accuracy, = re.findall(r"^Test accuracy: ([\d.]+) %$", text, re.MULTILINE)
    return Result(float(accuracy), epochs, seconds)


def measure(run, around=()):
    """(what runs, as the program says, and the Results of all seeds)

    around : flags that do not change the result
    """
    first, _ = start(f"{run.flags} --epochs 1 --train-size 200 --test-size 100", 0, around)
    results = []
    for seed in range(run.seeds):
        results.append(read_output(*start(run.flags, seed, around)))
        print(f"  seed {seed}: {results[-1].accuracy:.2f} %, {results[-1].program:.2f} s", file=sys.stderr, flush=True)
    return re.search(r"^Kernels .*numba.*$", first, re.MULTILINE)[0], results


def settings(name):
    """The settings of a recipe, as flags."""
    words = []
    for field, value in RECIPES[name].items():
        words += [flag_of(field), *([] if value is True else [FIELDS[field].metadata["kind"].write(value)])]
    return " ".join(words)


def row(name, run, results):
    """The run and its results, as a line of a Markdown table."""
    accuracies = [result.accuracy for result in results]
    seeds = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    epoch = statistics.median(seconds for result in results for seconds in result.epochs)
    training = statistics.median(sum(result.epochs) for result in results)
    program = statistics.median(result.program for result in results)
    return (f"| `{run.flags}` | `{settings(name)}` | {run.published} | {statistics.median(accuracies):.2f} % "
            f"({seeds}) | {epoch:.2f} s | {training:.2f} s | {program:.2f} s |")


HEAD = """\
| flags | settings | published | test accuracy, median (of each seed) | an epoch | training | whole program |
|---|---|---|---|---|---|---|"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(RUNS)} (default: all)")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 (default: as many as the run says)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets (default: that of main.py)")
    args = parser.parse_args()
    if unknown := set(args.names) - RUNS.keys():
        parser.error(f"unknown run {min(unknown)!r}: expected {', '.join(RUNS)}")
    around = ("--data-dir", args.data_dir) if args.data_dir else ()
    ways, lines = [], []
    for name in args.names or RUNS:
        print(name, file=sys.stderr, flush=True)
        run = RUNS[name] if args.seeds is None else replace(RUNS[name], seeds=args.seeds)
        way, results = measure(run, around)
        ways.append(way)
        lines.append(row(name, run, results))
    print(*dict.fromkeys(ways), "", HEAD, *lines, sep="\n")


if __name__ == "__main__":
    main()
