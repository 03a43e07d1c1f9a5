"""An estimator for scikit-learn: `CNNClassifier`.  It needs scikit-learn (the extra `sklearn`)."""
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("cnn_numba.sklearn needs scikit-learn 1.6 or newer: pip install scikit-learn") from error

from cnn_numba.callbacks import ProgressBar
from cnn_numba.data import Dataset
from cnn_numba.errors import InputError
from cnn_numba.execution import get_float32_matmul_precision
from cnn_numba.inference import Classifier
from cnn_numba.kernels import driver
from cnn_numba.model import Sequential
from cnn_numba.recipe import Recipe
from cnn_numba.training import Trainer

__all__ = ["CNNClassifier"]

NO_LABELS = "no_validation"     # scikit-learn's word
LEAST_SIDE = 4              # pixels that two poolings need
OF_RECIPE = ("epochs", "batch_size", "lr", "optimizer", "momentum", "weight_decay", "schedule", "label_smoothing",
             "clip_norm", "augment", "normalize", "init")


class CNNClassifier(ClassifierMixin, BaseEstimator):
    """A convolutional network as a classifier of scikit-learn.

    Parameters
    ----------
    model : str or function(image_shape, num_classes, seed=...) -> Sequential
        The name of a preset, the path of a network in JSON, or what makes a network, such as one of `PRESETS`.
    image_shape : (channels, rows, columns), optional
        Of flat images.  Default: square greyscale images; where the number of features is not a square, zeros fill the
        image up to the next one, with a warning.
    epochs : int
        Passes of `fit` over the training images.
    batch_size : int
        Images per step.
    lr, optimizer, momentum, weight_decay, schedule, label_smoothing, clip_norm, augment, normalize, init
        As the fields of `Recipe`; None: the default of the optimizer, the schedule or the loss.
    validation_fraction : float, optional
        Fraction of the training images to hold out; the weights that are best on them are kept.
    early_stopping : int, optional
        Stop after so many epochs without improvement on the images that are held out.
    random_state : int, RandomState or None
        Weights, order of the images, augmentation and validation images derive from it.
    n_jobs : int, optional
        Threads; no more than there are processors, and -1 is all of them.  Default: those of `set_execution`, or in
        workers of joblib those that joblib leaves to each.
    verbose : bool or int
        Show a progress bar on stderr, where that is a terminal.

    Attributes
    ----------
    classes_ : array of the labels, sorted
    n_features_in_ : int, features of a flat image, or channels of images
    feature_names_in_ : names of the columns, where X had names
    image_shape_ : (channels, rows, columns)
    model_ : Sequential, with all that `cnn_numba.save` keeps
    history_ : {column of `History`: list with a number for each epoch}
    n_iter_ : int, epochs or calls of `partial_fit` done

    Images are (N, features) or (N, channels, rows, columns), of any number type; labels are numbers or strings.
    There are no sample weights: the losses have none.
    """

    def __init__(self, model: str | Callable[..., Sequential] = "two-conv",
                 image_shape: tuple[int, int, int] | None = None, epochs: int = 20, batch_size: int = 32,
                 lr: float | None = None, optimizer: str = "sgd", momentum: float | None = None,
                 weight_decay: float | None = None, schedule: str = "linear", label_smoothing: float | None = None,
                 clip_norm: float | None = None, augment: str | None = None, normalize: str = "standard",
                 init: str = "xavier_uniform", validation_fraction: float | None = None,
                 early_stopping: int | None = None, random_state: Any = None, n_jobs: int | None = None,
                 verbose: bool | int = False):
        self.model = model
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.augment = augment
        self.normalize = normalize
        self.init = init
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    # ---- training ---------------------------------------------------------------------------------------------------
    def fit(self, X: Any, y: Any) -> "CNNClassifier":
        """Train a new network.

        X : (N, features) or (N, channels, rows, columns)
        y : (N,) labels

        Raises InputError (a ValueError) for settings, images or labels that cannot be used, and Diverged when the loss
        is no longer finite.
        """
        images, y = self._checked(X, y, first=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        for name in "_optimizer", "_recipe":                # of `partial_fit`
            self.__dict__.pop(name, None)
        recipe = self._make_recipe(validation=self.validation_fraction, early_stopping=self.early_stopping)
        data = self._dataset(images, labels)
        if recipe.validation is not None:
            data = data.hold_out(max(1, round(recipe.validation * len(images))), recipe.seed)
        with self._execution():
            self.model_ = self._make_model(recipe, data)
            trainer = recipe.make_trainer(self.model_, data)
            history = trainer.fit(recipe.epochs, [*self._bar(), *recipe.make_callbacks()])
            trainer.restore_best()
        self._classifier = Classifier(self.model_)
        self.n_iter_ = trainer.epochs
        self.history_: dict[str, list] = {}
        for result in history:
            self._remember(result)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "CNNClassifier":
        """Train one epoch on more images, with a constant learning rate.

        Without a `fit` before, the first call starts a new network: it needs all `classes`, and its images decide how
        pixels are normalised.  `validation_fraction` and `early_stopping` do not apply.  Arguments and errors are those
        of `fit`.
        """
        first = not hasattr(self, "classes_")
        images, y = self._checked(X, y, first)
        if first:
            if classes is None:
                raise InputError("CNNClassifier: the first call of partial_fit needs the classes")
            self.classes_ = unique_labels(classes)
        elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
            raise InputError(f"CNNClassifier: partial_fit got the classes {classes!r}, before {self.classes_!r}")
        labels = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (unknown := self.classes_[labels] != y).any():
            raise InputError(f"CNNClassifier: the label {y[unknown][0]} is not one of the classes {self.classes_}")
        if not hasattr(self, "_recipe"):
            self._recipe = self._make_recipe(schedule="constant")
        recipe, statistics = self._recipe, None if first else (self.model_.mean, self.model_.std)
        data = self._dataset(images, labels, statistics)
        with self._execution():
            if first:
                self.model_, self.n_iter_, self.history_ = self._make_model(recipe, data), 0, {}
            if not hasattr(self, "_optimizer"):
                self._optimizer = recipe.make_optimizer(self.model_)
            trainer = Trainer(self.model_, data, self._optimizer, recipe.batch_size, recipe.seed + self.n_iter_,
                              recipe.make_loss(data), max_norm=recipe.clip_norm, augment=recipe.make_augment(),
                              precision=recipe.precision)
            result = trainer.fit(1, self._bar())[0]
        self._classifier = Classifier(self.model_)
        self.n_iter_ += 1
        self._remember(replace(result, epoch=self.n_iter_))
        return self

    def _make_recipe(self, **fields):
        """The recipe of the parameters."""
        given = {name: getattr(self, name) for name in OF_RECIPE} | fields
        given["precision"] = get_float32_matmul_precision()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return Recipe(model=self.model if isinstance(self.model, str) else "two-conv", seed=seed, **given)

    def _make_model(self, recipe, data):
        if not callable(self.model):
            return recipe.make_model(data)
        model = self.model(self.image_shape_, len(self.classes_), seed=recipe.seed)
        if not isinstance(model, Sequential):
            raise InputError(f"CNNClassifier: the function model must return a Sequential, got {model!r}")
        return model

    def _remember(self, result):
        for name, value in asdict(result).items():
            if value is not None:
                self.history_.setdefault(name, []).append(value)

    def _dataset(self, images, labels, statistics=None):
        # A data set has a test part, from which the trainer takes no more than the shape here.
        return Dataset("the training images", images, labels.astype(np.int64), images[:1], labels[:1].astype(np.int64),
                       len(self.classes_), tuple(map(str, self.classes_)), normalize=self.normalize,
                       statistics=statistics)

    def _bar(self):
        return [ProgressBar()] if self.verbose else []

    # ---- use --------------------------------------------------------------------------------------------------------
    def predict_proba(self, X: Any) -> np.ndarray:
        """float64 (N, classes): the probability of each class, in the order of `classes_`."""
        check_is_fitted(self)
        with self._execution():
            return self._classifier.probabilities(self._checked(X))

    def predict(self, X: Any) -> np.ndarray:
        """(N,): the label with the largest probability."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    # ---- input ------------------------------------------------------------------------------------------------------
    def _checked(self, X, y=NO_LABELS, first=False):
        """Images (N, C, H, W), and the labels if there are some; the first ones decide the shape.

        Raises InputError or what scikit-learn raises.
        """
        options = dict(reset=first, dtype=[np.float32, np.uint8], allow_nd=True)
        checked = validate_data(self, X, y, **options)
        X, y = (checked, None) if y is NO_LABELS else checked
        if y is not None:
            check_classification_targets(y)
        if X.ndim not in (2, 4):
            raise InputError("CNNClassifier: X must be (N, features) or (N, channels, rows, columns), got "
                             f"{' x '.join(map(str, X.shape))}")
        if first:
            self.image_shape_ = X.shape[1:] if X.ndim == 4 else self._shape_of(X.shape[1])
        if X.ndim == 4:
            if X.shape[1:] != self.image_shape_ or self.image_shape not in (None, self.image_shape_):
                raise InputError("CNNClassifier: X must have images of "
                                 f"{' x '.join(map(str, self.image_shape or self.image_shape_))}, got "
                                 f"{' x '.join(map(str, X.shape[1:]))}")
        else:
            missing = math.prod(self.image_shape_) - X.shape[1]
            X = np.pad(X, ((0, 0), (0, missing))) if missing else X
            X = X.reshape(-1, *self.image_shape_)
        return X if y is None else (X, y)

    def _shape_of(self, features):
        """The shape of flat images with so many features."""
        if self.image_shape is not None:
            shape = tuple(self.image_shape)
            if len(shape) != 3 or math.prod(shape) != features:
                raise InputError(f"CNNClassifier: image_shape must be three numbers whose product is {features}, the "
                                 f"features of X, got {self.image_shape!r}")
            return shape
        side = math.isqrt(features - 1) + 1
        if side * side != features:
            warnings.warn(f"CNNClassifier: {features} features are no square image, so zeros fill it up to "
                          f"{max(side, LEAST_SIDE)} x {max(side, LEAST_SIDE)}; image_shape says what it is",
                          stacklevel=4)
        return 1, max(side, LEAST_SIDE), max(side, LEAST_SIDE)

    @contextmanager
    def _execution(self) -> Iterator[None]:
        """Run with `n_jobs` threads, as far as there are so many processors."""
        mode, threads = before = driver.execution()
        most = driver.max_threads()
        if self.n_jobs is not None:
            if isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, (int, np.integer)) or self.n_jobs == 0:
                raise InputError(f"CNNClassifier: n_jobs must be a whole number other than 0, or None, got "
                                 f"{self.n_jobs!r}")
            threads = max(1, min(self.n_jobs, most) if self.n_jobs > 0 else most + 1 + self.n_jobs)
        try:
            driver.execute(mode, threads)
            yield
        finally:
            driver.execute(*before)
