"""Kill trainings at random moments, resume them, and check that they end with the same weights, to the bit.

    python scripts/kill_test.py 200

Trainings with a checkpoint every few steps are killed repeatedly by signal 9, at random moments between the start and
the end of a process, and continued with --resume (or started again, if there is no checkpoint yet).  After each kill
every checkpoint in the folder must be whole; only the file that was being written may be incomplete.
"""
import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cnn_numba.files.checkpoints import list_checkpoints, read_checkpoint  # noqa: E402

# A training whose state has everything that a state can have
FLAGS = ("--dataset", "digits", "--serial", "--predictions", "0", "--quiet", "--model", "two-conv-bn", "--optimizer",
         "adam", "--schedule", "one-cycle", "--validation", "0.2", "--clip-norm", "1", "--augment", "shift=1")
STEPS = "--checkpoint-steps", "3"


def main(argv=None):
    """Returns the exit code: 0 when every training ended with the right weights, else 1."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("kills", type=int, help="number of processes to kill")
    arguments.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments.add_argument("--epochs", type=int, default=40, help="of a training (default: %(default)s)")
    arguments.add_argument("--kills-per-training", type=int, default=8, help="at most (default: %(default)s)")
    args = arguments.parse_args(argv)
    rng, epochs = random.Random(args.seed), ("--epochs", str(args.epochs))
    counts = {"before the first checkpoint": 0, "between epochs": 0, "inside an epoch": 0, "while writing": 0}
    trainings = killed = wrong = 0
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        started = time.monotonic()
        run(*FLAGS, *epochs, *STEPS, "--checkpoint", str(place / "whole")).wait()
        began = time.monotonic()
        run(*FLAGS, *epochs, *STEPS, "--checkpoint", str(place / "warm")).wait()    # kernels are compiled by now
        seconds = time.monotonic() - began
        right = final_weights(place / "whole")
        print(f"{args.epochs} epochs take {seconds:.1f} seconds ({began - started:.1f} at first)", flush=True)
        while killed < args.kills:
            folder = place / f"run{trainings}"
            trainings += 1
            for attempt in range(args.kills_per_training + 1):
                found = folder.exists() and list_checkpoints(folder)
                how = ("--resume", str(folder)) if found else ("--checkpoint", str(folder), *epochs)
                process = run(*FLAGS, *STEPS, *how)
                if attempt == args.kills_per_training or killed == args.kills:
                    process.wait()
                    break
                if not_ended(process, rng.uniform(0, seconds)):
                    process.kill()
                    process.wait()
                    killed += 1
                    counts[look(folder)] += 1
                else:
                    break
            if process.returncode != 0:
                wrong += 1
                print(f"training {trainings}: the last process ended with {process.returncode}", flush=True)
            elif (weights := final_weights(folder)) != right:
                wrong += 1
                print(f"training {trainings}: other weights: {len(weights)} bytes", flush=True)
    places = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{killed} processes killed in {trainings} trainings ({places}): "
          f"{trainings - wrong} trainings ended with the same weights to the bit, {wrong} did not")
    return min(1, wrong)


def run(*flags):
    return subprocess.Popen([sys.executable, ROOT / "main.py", *flags], stdout=subprocess.DEVNULL)


def not_ended(process, seconds):
    """Whether a process still runs after a number of seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def look(folder):
    """Read all checkpoints, which raises when one is damaged, and return the position of the last one."""
    if not folder.exists() or not list_checkpoints(folder):
        return "before the first checkpoint"
    last = [read_checkpoint(path) for path in list_checkpoints(folder)][-1]
    if any(name.endswith(".part") for name in os.listdir(folder)):
        return "while writing"
    return "inside an epoch" if last.state["step"] else "between epochs"


def final_weights(folder):
    """The bytes of all arrays of the last checkpoint, which the end of the training wrote."""
    state = read_checkpoint(list_checkpoints(folder)[-1]).state
    return b"".join(name.encode() + value.tobytes() for name, value in sorted(state.items())
                    if isinstance(value, np.ndarray)) + f"{state['epochs']} {state['step']}".encode()


if __name__ == "__main__":
    raise SystemExit(main())
