"""Train, predict from several threads, save and reload at once for a long time, and check every answer.

    python scripts/soak.py --minutes 30

One process: a training goes on, eight threads classify with one shared model, one thread saves it and another loads
what is there and compares its answers.  Every logit must have the bits that it had at first, every file must be whole,
and a training with the same seed must end with the same weights again and again.  Memory and open files are measured
every few seconds; after a tenth of the time they may no longer grow.
"""
import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cnn_numba import Recipe, load  # noqa: E402
from cnn_numba.callbacks import Checkpoint  # noqa: E402
from cnn_numba.few_images import MOST  # noqa: E402
from cnn_numba.inference import Classifier  # noqa: E402

PREDICTORS = 8
GROWTH = 24                 # MB that memory may grow by after the first tenth


def main(argv=None):
    """Returns the exit code: 0 when nothing was wrong, else 1."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--minutes", type=float, default=30, help="(default: %(default)s)")
    minutes = arguments.parse_args(argv).minutes
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder))
        samples = soak.run(60 * minutes)
    settled = samples[len(samples) // 10:]
    growth = (max(memory for memory, _ in settled) - settled[0][0]) / 2**20
    files = {files for _, files in settled}
    print(", ".join(f"{count:,} {what}" for what, count in soak.counts.items()))
    print(f"memory {settled[0][0] / 2**20:.0f} MB, then at most {growth:+.1f} MB; {min(files)} to {max(files)} open "
          "files")
    for wrong in soak.wrong[:20]:
        print(f"wrong: {wrong}")
    print(f"{len(soak.wrong)} wrong answers or failures in {minutes:g} minutes")
    return min(1, len(soak.wrong) + (growth > GROWTH) + (max(files) > min(files) + 2 * PREDICTORS))


class Soak:
    """The model that is used, the answers that it must give, and what happened."""

    def __init__(self, folder):
        self.folder = folder
        self.recipe = Recipe(dataset="digits", epochs=3, model="two-conv-bn", optimizer="adam", augment="shift=1",
                             validation=0.2)
        self.data = self.recipe.load_data()
        self.right_weights = self.trained(0)
        self.model = self.model_of_training
        self.classifier = Classifier(self.model)
        self.images = self.data.test_images
        self.right = self.classifier.logits(self.images)
        self.counts = dict.fromkeys(("trainings", "predictions", "saves", "reloads"), 0)
        self.wrong, self.counting, self.ended = [], threading.Lock(), threading.Event()

    def trained(self, number):
        """The weights after a training that is the same every time, with checkpoints."""
        self.model_of_training = self.recipe.make_model(self.data)
        trainer = self.recipe.make_trainer(self.model_of_training, self.data)
        trainer.fit(self.recipe.epochs, Checkpoint(self.folder / f"run{number}"))
        return self.model_of_training.values.tobytes()

    def train(self, number):
        if self.trained(number) != self.right_weights:
            raise AssertionError("a training ended with other weights")
        for path in (self.folder / f"run{number}").iterdir():
            path.unlink()
        (self.folder / f"run{number}").rmdir()

    def predict(self, number):
        first = number * 37 % 300
        last = first + 1 + number * 13 % 60
        want = self.right[first:last]
        tolerance = 1e-5 * np.abs(want).max() if len(want) <= MOST else 0           # few images: other kernels
        if not (np.abs(self.classifier.logits(self.images[first:last]) - want) <= tolerance).all():
            raise AssertionError(f"other logits of images {first} to {last}")

    def save(self, number):
        self.model.save(self.folder / "model.npz")

    def reload(self, number):
        again = Classifier(load(self.folder / "model.npz"))
        if not np.array_equal(again.logits(self.images[:40]), self.right[:40]):
            raise AssertionError("a reloaded model has other logits")

    def repeat(self, what, action):
        number = 0
        while not self.ended.is_set():
            number += 1
            try:
                action(number)
            except Exception as error:
                self.wrong.append(f"{what}: {type(error).__name__}: {error}")
                time.sleep(1)
            with self.counting:
                self.counts[what] += 1

    def run(self, seconds):
        """[(bytes of memory, number of open files)], every few seconds."""
        self.save(0)
        actions = [("trainings", self.train), ("saves", self.save), ("reloads", self.reload),
                   *[("predictions", self.predict)] * PREDICTORS]
        threads = [threading.Thread(target=self.repeat, args=action) for action in actions]
        samples, end = [], time.monotonic() + seconds
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(min(5, seconds / 20))
            samples.append((memory(), len(os.listdir("/proc/self/fd"))))
        self.ended.set()
        for thread in threads:
            thread.join()
        return samples


def memory():
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    raise SystemExit(main())
