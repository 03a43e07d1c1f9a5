"""A run, looked at: its numbers, what its network gets wrong, and every picture of it by name."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_numba import pictures
from cnn_numba.data.survey import survey
from cnn_numba.errors import InputError
from cnn_numba.history import History
from cnn_numba.inference import Classifier, confusion_matrix
from cnn_numba.inspection.activations import Activations
from cnn_numba.inspection.profile import Profile, Step, measure
from cnn_numba.interchange.formats import load
from cnn_numba.kernels.lock import locked
from cnn_numba.losses import CrossEntropyLoss
from cnn_numba.model import Sequential
from cnn_numba.recipe import Recipe
from cnn_numba.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cnn_numba.data import Dataset

SHOWN = 12                  # images of a kind
BLOCK = 4096                # images that are read at a time
ITERATIONS = 8              # of the measurement of times
GRADIENT_IMAGES = 256
MOST_CLASSES = 2000         # of a confusion matrix
PAIRS = 8                   # most confused classes
FEATURE_IMAGES = 3


@dataclass
class Study:
    """What is known of a run.

    recipe, history, result : as in the run folder; `result` is {} for a training that runs or was killed
    model : the best network so far, or None before there is one
    data : the data set, or None where it cannot be read; `why` is then the sentence
    epochs, filters : as from `RunFolder.read_filters`
    running : whether the training runs now
    name : of the run
    """

    name: str
    recipe: Recipe
    history: History = field(default_factory=History)
    result: dict[str, Any] = field(default_factory=dict)
    model: Sequential | None = None
    data: Dataset | None = None
    why: str = ""
    epochs: Sequence[int] = ()
    filters: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0, 0, 0), np.float32))
    running: bool = False
    info: str = ""

    @classmethod
    def of_run(cls, run: RunFolder, load_data: Callable[[Recipe], Dataset] | None = None) -> Study:
        """The study of a run folder.

        load_data : gives the data set of the recipe; by default it is left out

        Raises InputError when the folder holds no run, or a file of it is damaged.  A data set that cannot be read is
        left out, too.
        """
        study = cls(run.path.resolve().name, run.recipe(), run.history(), run.read_result(), running=is_running(run))
        study.epochs, study.filters = run.read_filters()
        study.info = run.info.read_text("utf-8", "replace") if run.info.exists() else ""
        if (path := run.weights()) is not None:
            study.model = load(path)
        if load_data is not None:
            try:
                study.data = load_data(study.recipe)
            except InputError as error:
                study.why = str(error)
        if (data := study.data) and study.model and data.train_images.shape[1:] != study.model.input_shape:
            study.data, study.why = None, f"{data.name} has other images than the training had"
        return study

    # ---- what the network makes of the test images ------------------------------------------------------------------
    def need_data(self) -> Dataset:
        if self.data is None:
            raise InputError(self.why or f"{self.name}: this picture needs the data set")
        return self.data

    def need_model(self) -> Sequential:
        if self.model is None:
            raise InputError(f"{self.name} has no model yet: the first epoch is not done")
        return self.model

    @cached_property
    def classifier(self) -> Classifier:
        return Classifier(self.need_model())

    @cached_property
    def logits(self) -> np.ndarray:
        """float64 (N, K) of the test images."""
        images = self.need_data().test_images
        logits = np.concatenate([self.classifier.logits(np.asarray(images[k:k + BLOCK])).astype(np.float64)
                                 for k in range(0, len(images), BLOCK)])
        if not np.isfinite(logits).all():
            raise InputError(f"the network of {self.name} gives NaN or infinity instead of numbers")
        return logits

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """float64 (N, K): the logarithm of the softmax of the logits."""
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    @property
    def classes(self) -> Sequence[str]:
        return self.classifier.classes

    @cached_property
    def matrix(self) -> np.ndarray:
        """int (K, K): the confusion matrix of the test images."""
        if len(self.classes) > MOST_CLASSES:
            raise InputError(f"a confusion matrix is for at most {MOST_CLASSES} classes, got {len(self.classes)}")
        return confusion_matrix(self.need_data().test_labels, self.logits.argmax(axis=1), len(self.classes))

    def confused(self) -> list[tuple[int, int, int]]:
        """(images, true class, predicted class) of the pairs that are confused most often, the most frequent first."""
        wrong = self.matrix - np.diag(self.matrix.diagonal())
        pairs = sorted(zip(*np.nonzero(wrong), strict=True), key=lambda pair: (-wrong[pair], pair))[:PAIRS]
        return [(int(wrong[pair]), int(pair[0]), int(pair[1])) for pair in pairs]

    def most_wrong(self, count: int = SHOWN) -> np.ndarray:
        """Indices of the test images with the smallest probability of their class, of those that are classified
        wrongly; the worst first."""
        labels = self.need_data().test_labels
        of_truth = self.log_probabilities[np.arange(len(labels)), labels]
        order = np.argsort(of_truth, kind="stable")
        return order[self.logits.argmax(axis=1)[order] != labels[order]][:count]

    def most_unsure(self, count: int = SHOWN) -> np.ndarray:
        """Indices of the test images whose two most probable classes are nearest to each other."""
        best = np.sort(self.log_probabilities, axis=1)[:, -2:]
        return np.argsort(np.exp(best[:, 1]) - np.exp(best[:, 0]), kind="stable")[:count]

    def sample(self, count: int = SHOWN) -> np.ndarray:
        """Indices of some test images, always the same."""
        images = len(self.need_data().test_labels)
        return np.sort(np.random.default_rng(0).choice(images, min(count, images), replace=False))

    def described(self, indices: np.ndarray) -> list[str]:
        """Index, truth, prediction and its probability of some test images, in two or three lines each."""
        texts, between = [], ", " if max(map(len, self.classes)) <= 4 else "\n"
        for k in indices:
            label, said = int(self.need_data().test_labels[k]), int(self.logits[k].argmax())
            truth, answer = (pictures.short(self.classes[each], 12) for each in (label, said))
            texts.append(f"#{k}: {truth}\n{'✓' if said == label else 'says'} {answer}{between}"
                         f"{percent(math.exp(self.log_probabilities[k, said]))}")
        return texts

    # ---- the pictures ------------------------------------------------------------------------------------------------
    def picture(self, name: str) -> Figure:
        """A picture, by a name of PICTURES; InputError when something that it needs is missing."""
        return PICTURES[name](self)

    def of_images(self, indices: np.ndarray) -> Figure:
        """Some test images with their descriptions; InputError when there are none."""
        if not len(indices):
            raise InputError("no test image is classified wrongly")
        return pictures.images_with_text(np.asarray(self.need_data().test_images[indices]), self.described(indices))

    def features(self, which: int = 0) -> Figure:
        """The feature maps of a test image: of the first ones, one for each of the first classes."""
        data, model = self.need_data(), self.need_model()
        assert model.input_shape is not None and model.mean is not None
        image = data.test_images[self.feature_images()[which]]
        channel = (-1, 1, 1)
        x = (image.astype(np.float32) - model.mean.reshape(channel)) * self.classifier.scale.reshape(channel)
        activations = self._activations
        outputs = [y[0] for y in activations(x[None].astype(np.float32))]
        return pictures.features(image, activations.layers, outputs, float(data.test_images.min()),
                                 float(data.test_images.max()))

    @cached_property
    def _activations(self) -> Activations:
        model = self.need_model()
        assert model.input_shape is not None
        return Activations(model, model.input_shape)

    def feature_images(self) -> list[int]:
        """Indices of test images of different classes."""
        _, first = np.unique(self.need_data().test_labels, return_index=True)
        return [int(k) for k in np.sort(first)[:FEATURE_IMAGES]]

    def tensors(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """(name, weights, gradients) of all weights with more than one dimension, on some training images."""
        data, model = self.need_data(), self.need_model()
        loss = self.recipe.make_loss(data)
        network = without_softmax(model) if isinstance(loss, CrossEntropyLoss) else model
        chosen = slice(0, GRADIENT_IMAGES)
        channel = (-1, 1, 1)
        x = (np.asarray(data.train_images[chosen], np.float32) - self.classifier.mean.reshape(channel)) * (
            self.classifier.scale.reshape(channel))
        before = network.state_dict()
        network.train().zero_grad()
        loss(network(x), data.train_labels[chosen]).backward()
        found = [(p.name, p.value.copy(), p.grad.copy()) for p in network.parameters()
                 if p.value.ndim > 1 and p.requires_grad]
        network.eval().load_state_dict(before)
        return found

    def profile(self) -> Profile:
        """The times of the layers in a training step of the recipe's batch size."""
        model = self.need_model()
        assert model.input_shape is not None
        before = model.state_dict()
        try:
            batch = self.recipe.batch_size or 64
            return measure(Step(model.train(), model.input_shape, len(self.classes), batch),
                           ITERATIONS, with_peak=False)
        finally:
            model.eval().load_state_dict(before)

    def architecture(self) -> Figure:
        model = self.need_model()
        assert model.input_shape is not None
        return pictures.architecture(model.layers, model.input_shape)


PICTURES: dict[str, Callable[[Study], Figure]] = {
    "curves": lambda study: pictures.curves(study.history),
    "rates": lambda study: pictures.rates(study.history),
    "confusion": lambda study: pictures.confusion(study.matrix, study.classes),
    "precision": lambda study: pictures.precision_and_recall(study.matrix, study.classes),
    "errors": lambda study: study.of_images(study.most_wrong()),
    "unsure": lambda study: study.of_images(study.most_unsure()),
    "sample": lambda study: study.of_images(study.sample()),
    "architecture": Study.architecture,
    "filters": lambda study: pictures.filters(study.epochs, study.filters),
    "features": Study.features,
    "histograms": lambda study: pictures.histograms(study.tensors()),
    "times": lambda study: pictures.times(study.profile()),
    "counts": lambda study: pictures.counts(survey(study.need_data()), study.need_data().classes),
    "data": lambda study: pictures.sheet(study.need_data()),
}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.9995 or share == 1 else "> 99.9 %"


def is_running(run: RunFolder) -> bool:
    """Whether a training holds the lock of a run folder."""
    path = run.path / ".lock"
    if not path.exists():
        return False
    with locked(path, 0) as free:
        return not free


def without_softmax(model: Sequential) -> Sequential:
    """A network with the same weights that gives logits."""
    if not (model.layers[-1].takes_logits and len(model.layers) > 1):
        return model
    cut = Sequential(*model.layers[:-1])
    cut.load_state_dict(model.state_dict())
    return cut
