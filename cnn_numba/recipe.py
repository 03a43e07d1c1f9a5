"""Everything that decides the result of a training, as one value: checked, stored as JSON, and built into a Trainer.

A recipe does not say how and where a training runs.  The command line makes its flags from the fields.  Importing this
module imports neither NumPy nor Numba.
"""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cnn_numba.kinds as kinds
from cnn_numba.choices import (
    CHOICES,
    MOMENTUM_RANGE,
    REQUIRED,
    SMALL,
    BySize,
    argument_of,
    choice_kind,
    dependent_fields,
    find_choice,
)
from cnn_numba.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from cnn_numba.augment import Augment
    from cnn_numba.callbacks import Callback
    from cnn_numba.data import Dataset
    from cnn_numba.data.files import Part
    from cnn_numba.losses import ClassLoss
    from cnn_numba.lr_scheduler import LRScheduler, ReduceLROnPlateau
    from cnn_numba.model import Sequential
    from cnn_numba.optim import Optimizer
    from cnn_numba.training import Trainer

__all__ = ["RECIPES", "Recipe"]

NEEDS_VALIDATION = "needs validation images"
OF_FILES = "test_data", "image_shape", "image_layout", "image_size", "label_column", "skip_broken"      # not of names
BATCH_SIZE, EPOCHS, STEPS = BySize(16, 64), 5, 2000     # as many epochs as give so many steps, but EPOCHS at least
HEAVIEST = 10           # balanced weight of an image of a rare class, where the mean of all images is 1


class FieldError(InputError):
    """A field of a recipe has a value that cannot be used.

    field : its name
    reason : the sentence, without the name
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.field, self.reason = name, reason


@contextmanager
def about(name: str) -> Iterator[None]:
    """Turn an InputError into the FieldError of a field."""
    try:
        yield
    except InputError as error:
        raise FieldError(name, str(error).removeprefix(f"{name} ")) from None


# ---- the fields -----------------------------------------------------------------------------------------------------
def setting(kind: kinds.Kind, help: str = "", details: str = "", *, group: str, metavar: str = "NAME",
            default: Any = None, usual: str = "", brief: str = "", many: bool = False) -> Any:
    """A field of `Recipe`, with what a flag needs to know about it.

    kind : of its values; None means the default, where that is None
    help, details : what it is; the names of a `Name` are listed between the two
    group, metavar : the heading of the flag, and what its value is called
    default, usual : the default, and the words for None, unless the default depends on a choice
    brief : what it is in a line, where the names need NumPy
    many : whether the flag takes several values
    """
    return field(default=default, metadata=dict(
        kind=kind, help=help, details=details, group=group, metavar=metavar, usual=usual, brief=brief, many=many))


of_data = partial(setting, group="data")
of_training = partial(setting, group="network and training")
of_loss = partial(setting, group="loss")
of_optimizer = partial(setting, group="optimizer")
of_schedule = partial(setting, group="schedule of the learning rate")


@dataclass(frozen=True, repr=False)
class Recipe:
    """What is trained: data, network, loss, optimizer, schedule, and everything else that the result depends on.

    Fields that depend on the choice of the optimizer, the schedule or the loss have the default of that choice, and
    None where the choice does not use them.  `epochs`, `batch_size` and, for SGD, `weight_decay` are None unless they
    are given, until `fitted` chooses them for the number of training images.

    Raises InputError (a ValueError), naming the field, for a value that is out of range and for a field that the
    choices do not use.
    """

    dataset: str | tuple[str, ...] | None = of_data(
        kinds.DATA, "", ": .csv, .npz, .npy or IDX images and their labels, or a folder with a folder of images for "
        "each class", metavar="NAME|PATH", usual="mnist, or digits when it cannot be downloaded",
        brief="mnist (default), digits, ..., or files of your own", many=True)
    test_data: str | tuple[str, ...] | None = of_data(
        kinds.PATHS, "test part, when the data set is a path", metavar="PATH", usual="its own, or every sixth image",
        many=True)
    image_shape: tuple[int, int, int] | None = of_data(
        kinds.IMAGE_SHAPE, "channels, rows and columns of a flat image, as in a CSV file",
        ", such as 3x32x32, or 32x32x3 where the colours of a pixel are side by side", metavar="CxHxW",
        usual="a square greyscale image")
    image_layout: str | None = of_data(
        kinds.Name(("CHW", "HWC")), "channels first or last, where a file does not show it: ", metavar="NAME",
        usual="as it looks", brief="whether channels come first or last, CHW or HWC")
    image_size: tuple[int, int] | None = of_data(
        kinds.IMAGE_SIZE, "rows and columns to which image files are resized", metavar="HxW", usual="no change")
    label_column: str | None = of_data(
        kinds.COLUMN, "column of labels in a CSV file, by its name or number", metavar="NAME|N",
        usual="one called label, class, ..., or the first")
    skip_broken: bool = of_data(kinds.TRUTH, "leave broken image files out", default=False)
    train_size: int | None = of_data(
        kinds.COUNT, "use N training images", ": the first, or some of each class when the file is sorted", metavar="N",
        usual="all")
    test_size: int | None = of_data(kinds.COUNT, "use N test images", metavar="N", usual="all")

    model: str = of_training(
        kinds.NETWORK, "", ": .npz, ONNX or safetensors, of which the layers are taken", metavar="NAME|FILE",
        default="two-conv", brief="two-conv (default), lenet5, ..., or a file of yours")
    weights: str | None = of_training(
        kinds.PATH, "begin with the weights of a trained network", ": .npz, ONNX or safetensors; its layers, too, "
        "unless --model names others", metavar="FILE", usual="new ones")
    freeze: tuple[int, ...] | None = of_training(
        kinds.LAYERS, "layers to leave as they are, such as 0-3", ": they are not trained, collect no statistics and "
        "drop nothing out; summary lists the layers", metavar="N-N", usual="none")
    init: str = of_training(
        kinds.INIT, "weight initialisation: ", default="xavier_uniform", brief="weight initialisation")
    precision: str = of_training(
        kinds.PRECISION, "precision of the products in convolutions and dense layers: ", "; highest multiplies float32 "
        "numbers, medium bf16 numbers, high two bf16 numbers for each, on the matrix unit of the CPU if it has one",
        default="highest", brief="precision of products: highest, high or medium")
    epochs: int = of_training(
        kinds.COUNT, "passes over the training images", metavar="N",
        usual=f"{EPOCHS}, or as many as give {STEPS:,} steps",
        brief=f"passes over the training images (default: {EPOCHS} or more)")
    batch_size: int = of_training(
        kinds.COUNT, "images per step", metavar="N",
        usual=f"{BATCH_SIZE.many}, or {BATCH_SIZE.few} for fewer than {SMALL:,} training images",
        brief=f"images per step (default: {BATCH_SIZE.many}, or {BATCH_SIZE.few} for few)")
    seed: int = of_training(kinds.SEED, "seed of everything random", metavar="N", default=0)
    normalize: str = of_training(
        kinds.NORMALIZATION, "normalisation of pixels: ", "; standard subtracts the mean and divides by the standard "
        "deviation of the training images, unit divides by 255", default="standard", brief="normalisation of pixels")
    validation: int | float | None = of_training(
        kinds.VALIDATION, "training images to hold out, a number or a fraction",
        "; they are chosen at random, and the weights of the epoch that is best on them are the result", metavar="N",
        usual="none")
    early_stopping: int | None = of_training(
        kinds.COUNT, "stop after N epochs without improvement on the validation images", metavar="N", usual="never")

    loss: str = of_loss(
        choice_kind("loss"), "", "; mse is the mean squared error on one-hot targets", default="cross-entropy")
    label_smoothing: float | None = of_loss(
        kinds.BELOW_ONE, "fraction of the target that is spread over all classes", metavar="X")
    class_weights: str | tuple[float, ...] | None = of_loss(
        kinds.CLASS_WEIGHTS, "weight of the images of each class",
        ", or balanced: inversely proportional to the number of images", metavar="W,W,...",
        usual="1 for each class; cross-entropy")

    optimizer: str = of_optimizer(choice_kind("optimizer"), default="sgd")
    lr: float | None = of_optimizer(
        kinds.POSITIVE, "learning rate", " of the first epoch, or the highest one of one-cycle", metavar="X")
    momentum: float | None = of_optimizer(
        kinds.BELOW_ONE, "momentum: fraction of the previous update that is added", metavar="X")
    nesterov: bool | None = of_optimizer(kinds.TRUTH, "use Nesterov momentum")
    alpha: float | None = of_optimizer(kinds.BELOW_ONE, "decay rate of the mean squared gradient", metavar="X")
    betas: tuple[float, float] | None = of_optimizer(
        kinds.BETAS, "decay rates of the mean gradient and the mean squared gradient", metavar="B,B")
    eps: float | None = of_optimizer(
        kinds.POSITIVE, "number added to the root of the mean squared gradient", metavar="X")
    weight_decay: float | None = of_optimizer(
        kinds.FROM_ZERO, "factor of the L2 penalty", "; adamw keeps it apart from the gradient", metavar="X")
    spare_biases: bool = of_optimizer(
        kinds.TRUTH, "no weight decay for biases and batch normalisation", default=False)
    clip_norm: float | None = of_optimizer(
        kinds.POSITIVE, "largest norm of the gradient; longer gradients are scaled down", metavar="X",
        usual="no limit")

    schedule: str = of_schedule(
        choice_kind("schedule"), "", ".  linear: falls in equal steps, to 0 after the last epoch; step, exponential: "
        "multiplied by --gamma every --step-size epochs, or every epoch; plateau: multiplied by --gamma after more "
        "than --patience epochs without a smaller loss, on the validation images if there are any; cosine: falls "
        "along a cosine to 0; one-cycle: rises and falls to almost 0, at every step, while the momentum (or first "
        f"beta) falls by {MOMENTUM_RANGE} and rises again, from 0.95 unless given", default="linear")
    step_size: int | None = of_schedule(kinds.COUNT, "epochs between two reductions", metavar="N")
    gamma: float | None = of_schedule(kinds.BETWEEN, "factor of a reduction", metavar="X")
    patience: int | None = of_schedule(
        kinds.COUNT, "epochs without a smaller loss before a reduction", metavar="N")
    warm_up: float | None = of_schedule(
        kinds.BETWEEN, "fraction of the training in which the rate rises", metavar="X")

    augment: str | None = setting(
        kinds.AugmentText(), "random changes of the training images",
        ", such as shift=2,rotate=10,scale=0.1,flip: up to 2 pixels, 10 degrees, a tenth, and half of them mirrored",
        group="augmentation", metavar="LIST", usual="none")
    extensions: tuple[str, ...] = field(default=(), metadata={"kind": kinds.FILE_NAMES})
    begun: int = field(default=0, metadata={"kind": kinds.COUNT_OR_NONE})      # epochs before the schedule began anew

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None or each.default is not None:
                with about(each.name):
                    self._set(each.name, each.metadata["kind"].check(value))
        for choice in CHOICES:
            self._complete(choice)
        if self.begun and (self.epochs is None or self.epochs <= self.begun):
            raise FieldError("epochs", f"the schedule began after {self.begun} epochs, got {self.epochs}")
        if self.nesterov and not self.momentum:
            raise FieldError("nesterov", f"needs a momentum above 0, got {self.momentum:g}")
        if self.spare_biases and not find_choice("optimizer", self.optimizer).spares:
            raise FieldError("spare_biases", f"the optimizer {self.optimizer} has no such option")
        from cnn_numba.data.catalogue import NAMES, PUBLISHED

        if self.dataset is None or self.dataset in NAMES:
            if self.early_stopping and self.validation is None:
                raise FieldError("early_stopping", NEEDS_VALIDATION)
            for name in OF_FILES:
                if getattr(self, name):
                    raise FieldError(name, f"is for data sets from files, not for {self.dataset or 'mnist'}")
        if isinstance(self.dataset, str | None) and (published := PUBLISHED.get(self.dataset or "mnist")):
            self._check_class_weights(published.name, len(published.classes))

    def __repr__(self) -> str:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        shown = [f"{name}={value!r}" for name, value in values.items() if value != FIELDS[name].default]
        return f"Recipe({', '.join(shown)})"

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)       # only in __post_init__

    def _complete(self, choice: str) -> None:
        """Fill in the defaults of a choice; FieldError for a field that it does not use."""
        chosen = getattr(self, choice)
        uses = find_choice(choice, chosen).uses
        changes = find_choice("schedule", self.schedule).changes
        for name in dependent_fields(choice):
            given = getattr(self, name)
            if name not in uses:
                if given is not None:
                    users = ", ".join(other for other, each in CHOICES[choice].items() if name in each.uses)
                    raise FieldError(name, f"the {choice} {chosen} does not use it; it applies to {users}")
            elif given is None:
                usual = changes.get(name, uses[name]) if uses[name] else uses[name]
                if usual is REQUIRED:
                    raise FieldError(name, f"the {choice} {chosen} requires it")
                if not isinstance(usual, BySize):
                    self._set(name, tuple(usual) if isinstance(usual, list) else usual)

    def _check_class_weights(self, name: str, classes: int) -> None:
        if isinstance(self.class_weights, tuple) and len(self.class_weights) != classes:
            raise FieldError("class_weights", f"expected {classes} numbers, one for each class of {name}, "
                                              f"got {len(self.class_weights)}")

    # ---- as JSON, and by name ---------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values, for `from_json`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, value: Any) -> Recipe:
        """The recipe that gave these JSON values; a field that is missing has its default.

        Raises InputError for anything else; nothing in the values is trusted.
        """
        if not isinstance(value, dict):
            raise InputError("expected a recipe: an object with the names of settings as its keys")
        names = [each.name for each in fields(cls)]
        for name in value:
            if name not in names:
                similar = kinds.nearest(name, names)
                raise InputError(f"unknown setting {name[:40]!r}" + (f": did you mean {similar}?" if similar else ""))
        return cls(**value)

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """The recipe of a published run (a name of `RECIPES`), with some fields changed.

        Another optimizer, schedule or loss than that of the run brings its own defaults.
        """
        return cls(**named_fields(name, changes))

    @property
    def schedule_epochs(self) -> int:
        """The number of epochs that the schedule is for: all, unless it began anew in a training that was extended."""
        return self.epochs - self.begun

    @property
    def open_ended(self) -> bool:
        """Whether the schedule does not depend on the number of epochs, so that a training can be made longer."""
        return find_choice("schedule", self.schedule).open_ended

    def fitted(self, data: Dataset) -> Recipe:
        """The recipe with the settings that depend on the data set, where they are not given."""
        images = len(data.train_images)
        batch_size = self.batch_size or BATCH_SIZE.of(images)
        epochs = self.epochs or max(EPOCHS, math.ceil(STEPS / math.ceil(images / batch_size)))
        uses = find_choice("optimizer", self.optimizer).uses
        usual = {name: value.of(images) for name, value in uses.items() if isinstance(value, BySize)}
        chosen = {name: value for name, value in usual.items() if getattr(self, name) is None}
        return replace(self, epochs=epochs, batch_size=batch_size, **chosen)

    # ---- what it builds ---------------------------------------------------------------------------------------------
    def load_data(self, **options: Any) -> Dataset:
        """The data set, with its validation part; options are those of `load_dataset` that are not fields."""
        from cnn_numba.data import load_dataset

        data = load_dataset(self.dataset, **self._of_files(), **options)
        with about("train_size"):
            data = data.head(train_size=self.train_size)
        with about("test_size"):
            data = data.head(test_size=self.test_size)
        if self.validation is not None:
            if data.validation_images is not None:
                raise FieldError("validation", f"{data.name} has validation images of its own")
            images = len(data.train_images)
            count = self.validation if isinstance(self.validation, int) else round(self.validation * images)
            with about("validation"):
                data = data.hold_out(count, self.seed)
        if self.early_stopping and data.validation_images is None:
            raise FieldError("early_stopping", NEEDS_VALIDATION)
        return replace(data, normalize=self.normalize)

    def load_part(self, part: str | None, like: tuple[int, ...], **options: Any) -> Part:
        """The images that a model is measured on: see `load_images`, whose other options are not fields."""
        from cnn_numba.data import load_images

        images = load_images(self.dataset, part=part, like=like, **self._of_files(), **options)
        with about("test_size" if part != "train" else "train_size"):
            return images.head(self.train_size if part == "train" else self.test_size)

    def _of_files(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OF_FILES}

    def make_model(self, data: Dataset, report: Callable[[str], object] = lambda sentence: None) -> Sequential:
        """A new network for a data set, with the weights of a file if the recipe has one.

        report : gets the sentences of `load_weights`
        """
        from cnn_numba.interchange.formats import load_weights, make_network

        model = make_network(self.model, data.train_images.shape[1:], data.num_classes, seed=self.seed, init=self.init)
        new: tuple[int, ...] = ()
        if self.weights is not None:
            with about("weights"):
                new = load_weights(model, self.weights, report)
        if both := set(new) & set(self.freeze or ()):
            raise FieldError("freeze", f"layer {min(both)} starts anew, so it must be trained")
        self.freeze_layers(model)
        return model

    def freeze_layers(self, model: Sequential) -> None:
        """Freeze the layers of a model that the recipe leaves as they are."""
        for k in self.freeze or ():
            if k >= len(model.layers):
                raise FieldError("freeze", f"the network has the layers 0 to {len(model.layers) - 1}, got {k}")
            model.layers[k].requires_grad_(False).eval()

    def make_loss(self, data: Dataset) -> ClassLoss:
        """The loss; InputError unless there is one weight for each class of the data set."""
        import numpy as np

        options = self._options("loss")
        self._check_class_weights(data.name, data.num_classes)
        if self.class_weights == "balanced":
            options["weight"] = balanced_weights(np.bincount(data.train_labels, minlength=data.num_classes))
        return find_choice("loss", self.loss).build(**options)

    def suspicions(self, data: Dataset) -> Iterator[str]:
        """A sentence for each setting that does something else with a data set than its name says."""
        import numpy as np

        from cnn_numba.data.survey import classes_text

        if self.class_weights == "balanced":
            counts = np.bincount(data.train_labels, minlength=data.num_classes)
            limited = [data.classes[k] for k in np.flatnonzero(balanced_weights(counts) == HEAVIEST)]
            if limited:
                yield f"the balanced weight of {classes_text(limited)} is limited to {HEAVIEST}"

    def make_optimizer(self, model: Sequential) -> Optimizer:
        """The optimizer of a model; its weight decay is that for a large data set, unless given or `fitted`."""
        chosen = find_choice("optimizer", self.optimizer)
        options = {"decay_weights_only": self.spare_biases} if chosen.spares else {}
        return chosen.build(model, **self._options("optimizer"), **options)

    def make_scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler | ReduceLROnPlateau | None:
        """The schedule of an optimizer; None where the rate is constant.

        steps : number of batches of an epoch
        """
        return find_choice("schedule", self.schedule).build(optimizer, self, steps)

    def make_augment(self) -> Augment | None:
        """The random changes of the training images."""
        from cnn_numba.augment import Augment

        return None if self.augment is None else Augment.parse(self.augment)

    def make_callbacks(self) -> list[Callback]:
        """The callbacks of `Trainer.fit` that belong to the recipe."""
        from cnn_numba.callbacks import EarlyStopping

        return [] if self.early_stopping is None else [EarlyStopping(self.early_stopping)]

    def make_trainer(self, model: Sequential, data: Dataset, measure_norm: bool = False, measure_test: bool = False,
                     team: Any = None, report: Callable[[str], object] = warnings.warn) -> Trainer:
        """A trainer of a model on a data set, for `trainer.fit(epochs, recipe.make_callbacks())` with the epochs of the
        recipe, or of `fitted`.

        measure_norm, measure_test, team, report : see `Trainer`
        """
        from cnn_numba.training import Trainer

        fitted = self.fitted(data)
        optimizer = fitted.make_optimizer(model)
        steps = math.ceil(len(data.train_images) / fitted.batch_size)
        return Trainer(
            model, data, optimizer, batch_size=fitted.batch_size, seed=self.seed, loss=self.make_loss(data),
            scheduler=fitted.make_scheduler(optimizer, steps), max_norm=self.clip_norm, measure_norm=measure_norm,
            measure_test=measure_test, augment=self.make_augment(), precision=self.precision, team=team,
            report=report)

    def _options(self, choice: str) -> dict[str, Any]:
        """{argument of the constructor: value} for the fields that a choice uses."""
        uses = find_choice(choice, getattr(self, choice)).uses
        values = {name: getattr(self, name) for name in uses}
        return {argument_of(name): usual.many if values[name] is None and isinstance(usual, BySize) else values[name]
                for name, usual in uses.items()}


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights of classes, inversely proportional to their numbers of images, at most HEAVIEST, and 0 without images."""
    import numpy as np

    weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, np.minimum(weights, HEAVIEST), 0)


FIELDS = {each.name: each for each in fields(Recipe)}


# ---- the recipes that have a name: docs/reproductions.md ------------------------------------------------------------
_PLAIN_SGD = dict(momentum=0, weight_decay=0, schedule="constant")
_STUDY = dict(epochs=20, lr=0.02, momentum=0.9, weight_decay=1e-4, schedule="step", step_size=6, gamma=0.3,
              init="kaiming_normal")
RECIPES: dict[str, dict[str, Any]] = {
    "fast": dict(model="fast", epochs=1, batch_size=32, lr=0.3, nesterov=True, schedule="one-cycle", weight_decay=0,
                 label_smoothing=0.1, init="kaiming_uniform"),
    "bn-cnn": dict(model="bn-cnn", train_size=50_000, epochs=1, optimizer="rmsprop", alpha=0.9, lr=0.0015,
                   schedule="constant", normalize="unit", init="kaiming_normal"),
    "lenet5": dict(model="lenet5", epochs=5, batch_size=10, lr=0.001, **_PLAIN_SGD, normalize="none",
                   init="xavier_normal"),
    "lenet5-momentum": dict(model="lenet5", epochs=5, batch_size=10, lr=0.001, momentum=0.9, weight_decay=0,
                            schedule="constant"),
    "small": dict(model="small", train_size=1000, epochs=20, batch_size=1, lr=0.001, **_PLAIN_SGD),
    "two-conv-bn": dict(model="two-conv-bn", epochs=40, lr=0.1, schedule="one-cycle", weight_decay=5e-4,
                        spare_biases=True, label_smoothing=0.1, augment="shift=2,rotate=10,scale=0.1",
                        init="kaiming_uniform"),
    "lenet5-avg": dict(model="lenet5-avg", **_STUDY),
    "lenet5-max": dict(model="lenet5", **_STUDY),
}
NAMED = kinds.Name(RECIPES)


def named_fields(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Recipe.named`."""
    return changed_fields(RECIPES[NAMED.check(name)], changes)


def changed_fields(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with some changes; another optimizer, schedule or loss drops those that depend on the one before."""
    found = dict(fields)
    for choice in CHOICES:
        usual = found.get(choice, FIELDS[choice].default)
        if kinds.plain(str(changes.get(choice, usual))) != kinds.plain(usual):
            for dependent in dependent_fields(choice):
                found.pop(dependent, None)
    return found | dict(changes)
