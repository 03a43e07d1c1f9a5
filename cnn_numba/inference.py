"""Use of a trained model: probabilities of images as they come, and what a test says about each class."""
import csv
import io
import json
import math
import os

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.kernels.lanes import LANES

BATCH = 512


class Classifier:
    """A model with what it needs to know about images.

    Parameters
    ----------
    model : Sequential
        With input_shape, mean and std, as after a training or `load`.

    Raises InputError when it lacks them.
    """

    def __init__(self, model):
        if model.input_shape is None or model.mean is None or model.std is None:
            raise InputError("the model does not say what images it takes: it was saved without input_shape, mean "
                             "and std, which a Trainer tells it")
        self.shape, self.mean = model.input_shape, model.mean
        self.scale = (1 / np.where(model.std > 0, model.std, 1)).astype(np.float32)
        self._plan = model.plan(self.shape, math.ceil(BATCH / LANES), logits=True, backward=False, training=False)
        self._forward, _ = self._plan.programs()
        outputs, = self._plan.z.shape
        self.classes = model.classes or tuple(map(str, range(outputs)))

    def logits(self, images):
        """float32 (N, classes) for images (N, *input_shape) in raw pixel units; InputError for others."""
        images = np.asarray(images)
        if images.shape[1:] != self.shape or images.dtype.kind not in "iuf":
            raise InputError(f"the model takes images of {'x'.join(map(str, self.shape))}, got {images.dtype} "
                             f"{'x'.join(map(str, images.shape[1:]))}")
        logits = np.empty((len(images), len(self.classes)), np.float32)
        channel = (-1, *(1 for _ in self.shape[1:]))
        for first in range(0, len(images), BATCH):
            batch = images[first:first + BATCH].astype(np.float32)
            if not np.isfinite(batch).all():
                raise InputError("the images contain NaN or infinity, expected finite numbers")
            self._plan.x.put((batch - self.mean.reshape(channel)) * self.scale.reshape(channel))
            self._plan.setup.batch[1] = len(batch)
            self._forward()
            logits[first:first + BATCH] = self._plan.z.get(len(batch))
        return logits

    def probabilities(self, images):
        """float64 (N, classes): the softmax of the logits; InputError when these are not finite."""
        logits = self.logits(images).astype(np.float64)
        if not np.isfinite(logits).all():
            raise InputError("the model gives NaN or infinity instead of numbers")
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def labels_in(classes, labels, other_classes):
    """Labels that index `classes`, for labels that index `other_classes`.

    Classes are told by their names, or by their numbers when the others have no names but "0", "1", ...
    Raises InputError for a class that is not in `classes`.
    """
    if set(other_classes) <= set(classes):
        return np.array([classes.index(name) for name in other_classes], np.int64)[labels]
    unnamed = all(name == str(k) for k, name in enumerate(other_classes))
    if unnamed and len(other_classes) <= len(classes):
        return labels
    odd = next(name for name in other_classes if name not in classes)
    raise InputError(f"the data set has the class {odd!r}, which is none of the model's {len(classes)}: "
                     f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}")


def confusion_matrix(labels, predictions, count):
    """int64 (count, count): how many images of a class (row) were taken for another (column)."""
    return np.bincount(labels * count + predictions, minlength=count * count).reshape(count, count)


def report(matrix, classes):
    """Accuracy, precision and recall of each class, and the confusion matrix, as lines of text."""
    right, total = np.diag(matrix), matrix.sum()
    width = max(len("class"), *map(len, classes))
    yield f"Test accuracy: {100 * right.sum() / total:.2f} %"
    yield ""
    yield f"{'class':<{width}}  precision    recall    images"
    for k, name in enumerate(classes):
        ratios = (f"{100 * right[k] / n:.2f} %" if n else "-" for n in (matrix[:, k].sum(), matrix[k].sum()))
        yield f"{name:<{width}}  {next(ratios):>9}  {next(ratios):>8}  {matrix[k].sum():>8}"
    yield ""
    yield "Confusion matrix: a row for each true class, a column for each predicted one, in the same order"
    cell = len(str(matrix.max()))
    for name, row in zip(classes, matrix, strict=True):
        yield f"{name:<{width}}  {' '.join(f'{n:>{cell}}' for n in row)}"


def image_paths(places):
    """The image files among some paths: files as they are, of folders all below them, sorted.

    Raises InputError for a path that is not there, a folder that cannot be read, or one without images.
    """
    from cnn_numba.data.folder import ENDINGS

    def refuse(error):
        raise InputError(f"{error.filename} cannot be read ({error.strerror})")

    for place in places:
        if not os.path.exists(place):
            raise InputError(f"{place} is not there, expected an image file or a folder of them")
        if not os.path.isdir(place):
            yield place
            continue
        found = [os.path.join(folder, name) for folder, _, names in os.walk(place, onerror=refuse) for name in names
                 if name.lower().endswith(ENDINGS) and not name.startswith(".")]
        if not found:
            raise InputError(f"{place} holds no images ({', '.join(ENDINGS)})")
        yield from sorted(found)


def text_line(path, name, probability):
    return f"{path}: {name} ({100 * probability:.2f} %)"


def csv_line(path, name, probability):
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow((path, name, f"{probability:.6f}"))
    return row.getvalue()


def json_line(path, name, probability):
    return json.dumps({"file": path, "class": name, "probability": round(probability, 6)}, ensure_ascii=False)


FORMATS = {"text": (None, text_line), "csv": ("file,class,probability", csv_line), "jsonl": (None, json_line)}
