"""The accuracy of the published runs in onnxruntime: the table of docs/interchange.md.

    python scripts/onnx_accuracy.py [names] [--data-dir DIR]

Trains each run of scripts/reproduce.py with seed 0, exports it, and counts in how many test images the two programs
differ.  Needs the packages onnx and onnxruntime.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from reproduce import RUNS, start  # noqa: E402

from cnn_numba import export, load, load_dataset  # noqa: E402
from cnn_numba.inference import Classifier  # noqa: E402

HEAD = """\
| run | test accuracy here | in onnxruntime | images that differ | largest difference of a probability |
|---|---|---|---|---|"""


def compare(path, images, labels):
    """(accuracy here, accuracy in onnxruntime, images of different classes, largest difference) of a saved model."""
    import onnxruntime

    model = load(path)
    exported = path.with_suffix(".onnx")
    export(model, exported)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    here, there = [], []
    for first in range(0, len(images), 1000):
        batch = images[first:first + 1000].astype(np.float32)
        here.append(Classifier(model).probabilities(batch))
        there.append(session.run(None, {"images": batch})[0])
    here, there = np.concatenate(here), np.concatenate(there)
    guesses = [each.argmax(axis=1) for each in (here, there)]
    accuracies = [100 * float(np.mean(guess == labels)) for guess in guesses]
    return *accuracies, int(np.sum(guesses[0] != guesses[1])), float(np.abs(here - there).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(RUNS)} (default: all)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data sets (default: that of main.py)")
    args = parser.parse_args()
    if unknown := set(args.names) - RUNS.keys():
        parser.error(f"unknown run {min(unknown)!r}: expected {', '.join(RUNS)}")
    data = load_dataset("mnist", data_dir=args.data_dir)
    around = ("--data-dir", args.data_dir) if args.data_dir else ()
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or RUNS:
            path = Path(folder) / f"{name}.npz"
            start(RUNS[name].flags, 0, (*around, "--save", str(path)))
            here, there, differ, most = compare(path, data.test_images, data.test_labels)
            print(f"| `{name}` | {here:.2f} % | {there:.2f} % | {differ} | {most:.1e} |", flush=True)


if __name__ == "__main__":
    main()
