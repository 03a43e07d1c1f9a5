"""A recipe: its defaults and checks, its JSON, what it builds, and the flags that are made from its fields."""
import json
import math
import re

import numpy as np
import pytest

from cnn_numba import (
    RECIPES,
    Dataset,
    InputError,
    Optimizer,
    Recipe,
    Sequential,
    Trainer,
    load,
    lr_scheduler,
)
from cnn_numba.choices import CHOICES, dependent_fields
from cnn_numba.commands import main as cli
from cnn_numba.commands import train
from cnn_numba.commands.flags import flag_of, given_fields
from cnn_numba.commands.interrupt import Interruption
from cnn_numba.files import container
from cnn_numba.files.layers_json import describe_layers
from cnn_numba.init import INITS
from cnn_numba.losses import ClassLoss
from cnn_numba.presets import PRESETS
from cnn_numba.recipe import FIELDS, FieldError, balanced_weights

OVERFLOWS = pytest.mark.filterwarnings("ignore::RuntimeWarning")      # of NumPy, in interpreted kernels


def recipe_of(*words):
    """The recipe that a command line asks for."""
    return Recipe(**given_fields(cli.make_parser("train").parse(list(words))))


# ---- defaults and choices -------------------------------------------------------------------------------------------
def test_defaults_follow_the_choices():
    assert [Recipe(optimizer=name).lr for name in ("sgd", "rmsprop", "adam", "adamw")] == [0.03, 1e-3, 1e-3, 1e-3]
    assert (Recipe().momentum, Recipe(optimizer="rmsprop").momentum) == (0.9, 0.0)
    assert Recipe().betas is Recipe().eps is Recipe().gamma is None
    assert (Recipe(schedule="step").gamma, Recipe(schedule="exponential").gamma) == (0.3, 0.9)
    assert Recipe(schedule="step", gamma=0.5).gamma == 0.5
    assert Recipe(schedule="one-cycle").momentum == 0.95
    assert Recipe(schedule="one-cycle", optimizer="rmsprop").momentum == 0
    assert Recipe(schedule="one-cycle", optimizer="adam").betas == (0.95, 0.999)


UNUSED = [(choice, chosen, name) for choice, choices in CHOICES.items() for chosen, each in choices.items()
          for name in dependent_fields(choice) if name not in each.uses]
TEXTS = {"momentum": "0.5", "nesterov": "", "alpha": "0.9", "betas": "0.9,0.9", "eps": "1e-8", "step_size": "2",
         "gamma": "0.5", "patience": "2", "warm_up": "0.5", "label_smoothing": "0", "class_weights": "balanced"}


@pytest.mark.parametrize("choice, chosen, name", UNUSED)
def test_a_field_that_the_choice_does_not_use_is_refused(choice, chosen, name, capsys):
    users = ", ".join(other for other, each in CHOICES[choice].items() if name in each.uses)
    reason = f"the {choice} {chosen} does not use it; it applies to {users}"
    flag, words = flag_of(name), [TEXTS[name]] if TEXTS[name] else []
    value = FIELDS[name].metadata["kind"].read(TEXTS[name]) if words else True
    with pytest.raises(FieldError, match=f"^{name}: {reason}$"):
        Recipe(**{choice: chosen, name: value})
    assert cli.main([f"--{choice}", chosen, flag, *words]) == 2
    assert capsys.readouterr() == ("", f"error: argument {flag}: {reason}\n")


def test_there_are_unused_fields_of_all_choices():
    """A control of the test above."""
    assert len(UNUSED) == 11 + 22 + 2


@pytest.mark.parametrize("given, reason", [
    ({"nesterov": True, "momentum": 0}, "nesterov: needs a momentum above 0, got 0"),
    ({"nesterov": True, "momentum": 0, "schedule": "one-cycle"}, "nesterov: needs a momentum above 0, got 0"),
    ({"early_stopping": 2}, "early_stopping: needs validation images"),
    ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
    ({"epochs": True}, "epochs: expected a whole number of at least 1, got True"),
    ({"epochs": "3"}, "epochs: expected a whole number of at least 1, got '3'"),
    ({"lr": "0.1"}, "lr: expected a number above 0, got '0.1'"),
    ({"lr": math.nan}, "lr: expected a number above 0, got nan"),
    ({"seed": 2**63}, "seed: expected a whole number from 0 to 2**63 - 1, got 9223372036854775808"),
    ({"spare_biases": 1}, "spare_biases: expected true or false, got 1"),
    ({"betas": (0.9,), "optimizer": "adam"},
     "betas: expected two numbers of at least 0 and below 1, such as 0.9,0.999, got (0.9,)"),
    ({"image_shape": (1, 2), "dataset": "a.csv"},
     "image_shape: expected CHANNELSxROWSxCOLUMNS, such as 3x32x32, got (1, 2)"),
    ({"image_size": (28, 28)}, "image_size: is for data sets from files, not for mnist"),
    ({"skip_broken": True}, "skip_broken: is for data sets from files, not for mnist"),
    ({"label_column": 0}, "label_column: expected the name of a column, or its number from 1, got 0"),
    ({"test_data": "a.csv", "dataset": "digits"}, "test_data: is for data sets from files, not for digits"),
    ({"class_weights": (1, 2)}, "class_weights: expected 10 numbers, one for each class of mnist, got 2"),
    ({"class_weights": (0, 0)}, "class_weights: expected balanced, or numbers such as 1,1,2.5, got (0, 0)"),
    ({"optimizer": "adma"}, "optimizer: unknown name 'adma': did you mean adam?"),
    ({"schedule": 5},
     "schedule: expected one of linear, constant, step, exponential, plateau, cosine, one-cycle, got 5"),
    ({"model": "net.txt"},
     f"model: expected one of {', '.join(PRESETS)}, a .json file, or a trained model, got 'net.txt'"),
    ({"augment": "shear=1"}, "augment: 'shear' is not one of shift, rotate, scale, flip"),
    ({"augment": "shift=-1"}, "augment: shift must be a whole number of at least 0, got -1"),
    ({"dataset": ()}, "dataset: "), ({"dataset": ""}, "dataset: "), ({"dataset": 3}, "dataset: ")])
def test_values_that_are_refused(given, reason):
    with pytest.raises(FieldError) as error:
        Recipe(**given)
    assert str(error.value).startswith(reason) if reason.endswith(": ") else str(error.value) == reason
    assert error.value.field == reason.partition(":")[0]


def test_names_are_found_in_any_case_and_a_path_that_exists_comes_first(tmp_path, monkeypatch):
    recipe = Recipe(optimizer="AdamW", init="Kaiming-Normal", dataset="Fashion_MNIST", model="LeNet5",
                    schedule="OneCycle", normalize="UNIT", loss="crossentropy")
    assert recipe == Recipe(optimizer="adamw", init="kaiming_normal", dataset="fashion-mnist", model="lenet5",
                            schedule="one-cycle", normalize="unit")
    (tmp_path / "MNIST").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (Recipe(dataset="MNIST").dataset, Recipe(dataset="Mnist").dataset) == ("MNIST", "mnist")


# ---- JSON -----------------------------------------------------------------------------------------------------------
EVERYTHING_IN_ONE = dict(
    dataset=["images.idx3", "labels.idx1"], test_data="test.csv", image_shape=(3, 8, 9), image_layout="HWC",
    label_column="digit", skip_broken=True, train_size=100, test_size=20,
    model="net.json", init="xavier_normal", epochs=7, batch_size=3, seed=9, normalize="none", validation=0.25,
    early_stopping=3, label_smoothing=0.1, class_weights=(1, 2.5), optimizer="adamw", lr=0.1, betas=(0.5, 0.6),
    eps=1e-3, weight_decay=0.2, spare_biases=True, clip_norm=2, schedule="one-cycle", warm_up=0.2,
    augment="flip,shift=2", extensions=("lion.py",))


@pytest.mark.parametrize("recipe", [
    Recipe(), Recipe(**EVERYTHING_IN_ONE), *map(Recipe.named, RECIPES), Recipe(class_weights="balanced", validation=50),
    *(Recipe(schedule=name) for name in CHOICES["schedule"]), Recipe(loss="mse", optimizer="rmsprop")])
def test_a_recipe_goes_through_json(recipe):
    text = json.dumps(recipe.to_json(), allow_nan=False)
    assert Recipe.from_json(json.loads(text)) == recipe
    assert list(json.loads(text)) == list(FIELDS)


def test_json_that_lacks_fields_has_their_defaults():
    assert Recipe.from_json({"optimizer": "adam", "epochs": 3}) == Recipe(optimizer="adam", epochs=3)


@pytest.mark.parametrize("value, sentence", [
    ([], "expected a recipe"), (None, "expected a recipe"),
    ({"epoch": 3}, "^unknown setting 'epoch': did you mean epochs?"), ({"help": 1}, "^unknown setting 'help'$"),
    ({"x" * 500: 1}, "^unknown setting 'x{40}'$"), ({"epochs": "3"}, "^epochs: "), ({"epochs": [3]}, "^epochs: "),
    ({"lr": {"a": 1}}, "^lr: "), ({"betas": "0.9,0.9", "optimizer": "adam"}, "^betas: "),
    ({"dataset": [["x"]]}, "^dataset: "), ({"class_weights": [1, "2"]}, "^class_weights: "),
    ({"epochs": 1e300}, "^epochs: "), ({"extensions": [1]}, "^extensions: "), ({"extensions": None}, "^extensions: "),
    ({"optimizer": "lion"}, "^optimizer: ")])
def test_json_is_not_trusted(value, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        Recipe.from_json(value)
    assert len(str(error.value)) < 300


def test_a_recipe_stays_as_it_is():
    with pytest.raises(AttributeError):
        Recipe().epochs = 3


# ---- what a recipe builds -------------------------------------------------------------------------------------------
DIGITS = {"dataset": "digits", "train_size": 64, "test_size": 20}

# {field: (the other fields, the text of a flag, what it changes)}
CHANGES = {
    "dataset": (dict(dataset="{csv}"), "{other}", {"data"}),
    "test_data": (dict(dataset="{csv}"), "{other}", {"data"}),
    "image_shape": (dict(dataset="{csv}"), "1x4x9", {"data", "layers", "weights"}),
    "image_layout": (dict(dataset="{colours}", image_shape=(3, 4, 4)), "HWC", {"data"}),
    "image_size": (dict(dataset="{folder}"), "8x12", {"data", "layers", "weights"}),
    "label_column": (dict(dataset="{csv}"), "37", {"data", "layers", "weights"}),
    "train_size": (DIGITS, "63", {"data"}),
    "test_size": (DIGITS, "19", {"data"}),
    "model": (DIGITS, "small", {"layers", "weights"}),
    "init": (DIGITS, "kaiming_normal", {"weights"}),
    "epochs": (DIGITS, "9", {"scheduler"}),
    "batch_size": (dict(DIGITS, epochs=5), "32", {"batch_size"}),
    "seed": (DIGITS, "1", {"weights", "seed"}),
    "normalize": (DIGITS, "none", {"data"}),
    "precision": (DIGITS, "medium", {"precision"}),
    "validation": (dict(DIGITS, epochs=5), "0.5", {"data"}),
    "early_stopping": (dict(DIGITS, validation=8), "2", {"callbacks"}),
    "loss": (DIGITS, "mse", {"loss"}),
    "label_smoothing": (DIGITS, "0.1", {"loss"}),
    "class_weights": (DIGITS, "1,1,1,1,1,1,1,1,1,2", {"loss"}),
    "optimizer": (DIGITS, "rmsprop", {"optimizer", "scheduler"}),
    "lr": (DIGITS, "0.5", {"optimizer", "scheduler"}),
    "momentum": (DIGITS, "0.5", {"optimizer", "scheduler"}),
    "nesterov": (DIGITS, "", {"optimizer"}),
    "alpha": (dict(DIGITS, optimizer="rmsprop"), "0.5", {"optimizer"}),
    "betas": (dict(DIGITS, optimizer="adam"), "0.5,0.6", {"optimizer", "scheduler"}),
    "eps": (dict(DIGITS, optimizer="adam"), "0.1", {"optimizer"}),
    "weight_decay": (DIGITS, "0.1", {"optimizer"}),
    "spare_biases": (DIGITS, "", {"optimizer"}),
    "clip_norm": (DIGITS, "3", {"max_norm"}),
    "schedule": (DIGITS, "cosine", {"scheduler"}),
    "step_size": (dict(DIGITS, schedule="step"), "1", {"scheduler"}),
    "gamma": (dict(DIGITS, schedule="exponential"), "0.4", {"scheduler"}),
    "patience": (dict(DIGITS, schedule="plateau"), "2", {"scheduler"}),
    "warm_up": (dict(DIGITS, schedule="one-cycle"), "0.6", {"scheduler"}),
    "augment": (DIGITS, "shift=1", {"augment"}),
    "weights": (DIGITS, "{weights}", {"weights"}),
    "freeze": (DIGITS, "0-2", {"frozen"}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: path} of small data sets of 36 or 48 pixels, as {csv}, {other}, {colours} and {folder} in CHANGES."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for name, pixels in ("csv", 36), ("other", 36), ("colours", 48):
        rows = np.column_stack([np.arange(60) % 3, rng.integers(0, 255, (60, pixels))])
        np.savetxt(folder / f"{name}.csv", rows, "%d", ",")
    for label in "ab":
        (folder / "images" / label).mkdir(parents=True)
        for k in range(6):
            (folder / "images" / label / f"{k}.pgm").write_bytes(b"P5 8 8 255\n" + rng.bytes(64))
    tables = {name: str(folder / f"{name}.csv") for name in ("csv", "other", "colours")}
    PRESETS["two-conv"]((1, 8, 8), 10, seed=9).save(folder / "weights.npz")
    return tables | {"folder": str(folder / "images"), "weights": str(folder / "weights.npz")}


def built(recipe, monkeypatch):
    """What a recipe builds, part by part, in a form that can be compared."""
    made = {}
    monkeypatch.setattr("cnn_numba.training.Trainer", lambda model, data, optimizer, **options: options | {
        "optimizer": optimizer})
    data = recipe.load_data()
    model = recipe.make_model(data)
    options = recipe.make_trainer(model, data)
    optimizer, scheduler, loss = (options[name] for name in ("optimizer", "scheduler", "loss"))
    made["data"] = [getattr(data, name).tobytes() for name in ("train_images", "test_images", "mean", "std")], str(data)
    made["frozen"] = [p.requires_grad for p in model.parameters()]
    made["layers"], made["weights"] = describe_layers(model.layers), model.values.tobytes()
    made["optimizer"] = type(optimizer), {
        name: value for name, value in optimizer.state().items() if not isinstance(value, np.ndarray)}
    made["scheduler"] = scheduler.rates(5).tolist() if isinstance(scheduler, lr_scheduler.LRScheduler) else (
        scheduler.factor, scheduler.patience)
    made["loss"] = type(loss), str(vars(loss))
    made["callbacks"] = [(type(each), vars(each)) for each in recipe.make_callbacks()]
    return made | {name: options[name] for name in ("batch_size", "seed", "max_norm", "augment", "precision")}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_flag_and_changes_what_it_names(name, files, monkeypatch):
    if name in ("extensions", "skip_broken", "begun"):
        return              # change nothing here: see test_extensions.py, test_data_parts.py and test_weights.py
    if name == "image_size":
        pytest.importorskip("PIL")
    base, text, changed = CHANGES[name]
    base = {key: value.format(**files) if isinstance(value, str) else value for key, value in base.items()}
    words = [text.format(**files)] if text else []
    given = given_fields(cli.make_parser("train").parse([flag_of(name), *words]))
    assert given.keys() == {name}
    before, after = Recipe(**base), Recipe(**base | given)
    assert getattr(before, name) != getattr(after, name)
    before, after = built(before, monkeypatch), built(after, monkeypatch)
    assert {part for part in before if before[part] != after[part]} == changed


@pytest.mark.parametrize("given, top, low", [
    ({}, 0.95, 0.85), ({"momentum": 0.5}, 0.5, 0.4), ({"momentum": 0.05}, 0.05, 0), ({"optimizer": "adam"}, 0.95, 0.85),
    ({"optimizer": "adam", "betas": (0.7, 0.99)}, 0.7, 0.6), ({"optimizer": "rmsprop"}, 0, 0)])
def test_one_cycle_has_the_momentum_that_is_given(given, top, low):
    recipe = Recipe(schedule="one-cycle", epochs=10, **given)
    momenta = recipe.make_scheduler(recipe.make_optimizer(network()), 10).rates(100)[:, 1]
    assert momenta[[0, 29, -1]] == pytest.approx([top, low, top])
    assert (momenta.max(), momenta.min()) == pytest.approx((top, low))


def network():
    from cnn_numba import Flatten, Linear

    return Sequential(Flatten(), Linear(64, 5))


def test_balanced_weights_make_classes_count_the_same():
    pixels, labels = np.zeros((70, 1, 2, 2), np.uint8), np.repeat([0, 1, 2], [10, 20, 40])
    data = Dataset("made up", pixels, labels, pixels, labels, 5)
    weight = Recipe(class_weights="balanced").make_loss(data).weight
    assert weight[:3] * [10, 20, 40] == pytest.approx([14, 14, 14]) and weight[3:].tolist() == [0, 0]


def test_a_rare_class_has_a_bounded_weight():
    assert balanced_weights(np.array([997, 1, 2, 0])).tolist() == pytest.approx([1000 / 3988, 10, 10, 0])


@pytest.mark.parametrize("counts, said", [
    ([50, 50, 50], []), ([90, 1, 50], ["the balanced weight of the class 1 is limited to 10"]),
    ([300, 1, 2], ["the balanced weight of 2 classes (1, 2) is limited to 10"])])
def test_a_balanced_weight_that_is_limited_is_said(counts, said):
    labels = np.repeat(np.arange(3), counts)
    pixels = np.zeros((len(labels), 1, 1, 1), np.uint8)
    data = Dataset("some", pixels, labels, pixels, labels, 3)
    assert list(Recipe(class_weights="balanced").suspicions(data)) == said and not list(Recipe().suspicions(data))


def test_a_recipe_and_its_trainer_are_the_command(tmp_path):
    """The same bits from Python as from the command line."""
    path = tmp_path / "m.npz"
    assert cli.main([*RUN, "--epochs", "2", "--save", str(path)]) == 0
    recipe = Recipe(dataset="digits", train_size=200, test_size=32, epochs=2)
    data = recipe.load_data()
    trainer = recipe.make_trainer(recipe.make_model(data), data)
    trainer.fit(recipe.epochs, recipe.make_callbacks())
    want = load(path).state_dict()
    assert all(np.array_equal(value, want[name]) for name, value in trainer.model.state_dict().items())


# ---- recipes with a name --------------------------------------------------------------------------------------------
PLAIN_SGD = "--momentum 0 --weight-decay 0 --schedule constant"
STUDY = ("--epochs 20 --lr 0.02 --momentum 0.9 --weight-decay 1e-4 --schedule step --step-size 6 --gamma 0.3 "
         "--init kaiming_normal")
FLAGS = {
    "bn-cnn": "--model bn-cnn --train-size 50000 --epochs 1 --optimizer rmsprop --alpha 0.9 --lr 0.0015 "
              "--schedule constant --normalize unit --init kaiming_normal",
    "lenet5": f"--model lenet5 --epochs 5 --batch-size 10 --lr 0.001 {PLAIN_SGD} --normalize none --init xavier_normal",
    "lenet5-momentum": "--model lenet5 --epochs 5 --batch-size 10 --lr 0.001 --momentum 0.9 --weight-decay 0 "
                       "--schedule constant",
    "small": f"--model small --train-size 1000 --epochs 20 --batch-size 1 --lr 0.001 {PLAIN_SGD}",
    "two-conv-bn": "--model two-conv-bn --epochs 40 --lr 0.1 --schedule one-cycle --weight-decay 5e-4 --spare-biases "
                   "--label-smoothing 0.1 --augment shift=2,rotate=10,scale=0.1 --init kaiming_uniform",
    "lenet5-avg": f"--model lenet5-avg {STUDY}",
    "lenet5-max": f"--model lenet5 {STUDY}",
    "fast": "--model fast --epochs 1 --batch-size 32 --lr 0.3 --nesterov --schedule one-cycle --weight-decay 0 "
            "--label-smoothing 0.1 --init kaiming_uniform",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_name_stands_for_its_flags(name):
    assert recipe_of(*FLAGS[name].split()) == Recipe.named(name)


def test_other_flags_win_over_a_name_and_another_choice_brings_its_own_defaults():
    assert Recipe.named("fast", epochs=3, nesterov=False) == recipe_of(
        *FLAGS["fast"].replace("--nesterov", "").replace("--epochs 1", "--epochs 3").split())
    adam = Recipe.named("fast", optimizer="Adam")
    assert (adam.lr, adam.weight_decay, adam.nesterov, adam.betas) == (1e-3, 0.0, None, (0.95, 0.999))
    assert adam.label_smoothing == 0.1
    assert Recipe.named("fast", optimizer="SGD") == Recipe.named("fast"), "the same choice changes nothing"
    assert Recipe.named("lenet5-avg", schedule="step").step_size == 6
    assert Recipe.named("lenet5-avg", schedule="cosine").step_size is None
    assert Recipe.named("fast", loss="mse").label_smoothing is None
    with pytest.raises(InputError, match="unknown name 'fsat': did you mean fast?"):
        Recipe.named("fsat")


# ---- optimizers and losses of the user's own ------------------------------------------------------------------------
@pytest.fixture
def own():
    """An optimizer Plain and a loss Gentle, of which only the constructors matter here."""
    class Plain(Optimizer):
        def __init__(self, model, lr, betas=(0.8, 0.9), alpha=0.7, decoys=3):
            self.made = model, lr, betas, alpha

    class Gentle(ClassLoss):
        def __init__(self, weight=None):
            self.weight = weight

    yield
    del Optimizer.known["Plain"], ClassLoss.known["Gentle"]


def test_an_optimizer_of_the_users_own_takes_the_fields_that_its_constructor_has(own):
    recipe = Recipe(optimizer="plain", lr=0.5)
    assert (recipe.optimizer, recipe.lr, recipe.betas, recipe.alpha) == ("Plain", 0.5, (0.8, 0.9), 0.7)
    assert recipe.momentum is recipe.nesterov is recipe.eps is recipe.weight_decay is None
    model = network()
    assert recipe.make_optimizer(model).made == (model, 0.5, (0.8, 0.9), 0.7)
    assert Recipe(optimizer="Plain", lr=0.5, schedule="one-cycle").betas == (0.95, 0.999)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe_of("--optimizer", "PLAIN", "--lr", "0.5", "--betas", "0.1,0.2").betas == (0.1, 0.2)


@pytest.mark.parametrize("given, reason", [
    ({}, "lr: the optimizer Plain requires it"),
    ({"lr": 0.1, "momentum": 0.5}, "momentum: the optimizer Plain does not use it; it applies to sgd, rmsprop"),
    ({"lr": 0.1, "spare_biases": True}, "spare_biases: the optimizer Plain has no such option")])
def test_what_an_optimizer_of_the_users_own_refuses(given, reason, own):
    with pytest.raises(FieldError, match=f"^{reason}$"):
        Recipe(optimizer="plain", **given)


def test_a_loss_of_the_users_own(own):
    recipe = Recipe(loss="gentle", class_weights=(1,) * 10)
    data = Recipe(dataset="digits").load_data()
    loss = recipe.make_loss(data)
    assert type(loss).__name__ == "Gentle" and loss.weight == (1.0,) * 10 and recipe.label_smoothing is None
    with pytest.raises(FieldError, match="label_smoothing: the loss Gentle does not use it"):
        Recipe(loss="Gentle", label_smoothing=0.1)


# ---- flags ----------------------------------------------------------------------------------------------------------
RUN = "--dataset", "digits", "--serial", "--quiet", "--train-size", "200", "--test-size", "32"
EVERYTHING = (*RUN, "--epochs", "3", "--optimizer", "adamw", "--betas", "0.8,0.99", "--spare-biases", "--eps", "1e-7",
              "--schedule", "one-cycle", "--warm-up", "0.4", "--class-weights", "balanced", "--label-smoothing", "0.1",
              "--clip-norm", "0.5", "--validation", "0.2", "--early-stopping", "9", "--augment", "shift=1,rotate=5",
              "--normalize", "unit", "--init", "kaiming_normal")
NESTEROV = (*RUN, "--epochs", "3", "--nesterov", "--schedule", "plateau", "--patience", "1", "--validation", "40",
            "--class-weights", "1,1,2,1,1,1,1,1,1,0.5")


def arrays(path):
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files if name != container.TEXT}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(line):
    return {name: value for name, value in line.items() if name not in ("time", "seconds", "images_per_second")}


def with_batch_norm(tmp_path):
    """Flags for a network with batch normalisation and dropout."""
    (tmp_path / "net.json").write_text(json.dumps({"layers": [
        {"type": "conv2d", "params": {"out_channels": 4, "kernel_size": 3}}, {"type": "batchnorm2d"}, {"type": "relu"},
        {"type": "flatten"}, {"type": "dropout", "params": {"p": 0.2}}, {"type": "linear"}]}))
    return "--model", str(tmp_path / "net.json")


class InterruptedAfter(Interruption):
    """A signal that comes when it was asked for so often."""

    def __init__(self, asked):
        self.asked = asked

    @property
    def number(self):
        self.asked -= 1
        return None if self.asked >= 0 else 2


@pytest.mark.parametrize("asked", (1, 4, 6))
@pytest.mark.parametrize("chosen", (EVERYTHING, NESTEROV), ids=("everything", "nesterov"))
def test_a_run_goes_on_with_all_of_its_flags(chosen, asked, tmp_path, monkeypatch, capsys):
    chosen = *chosen, *with_batch_norm(tmp_path)
    folder, log = str(tmp_path / "run"), tmp_path / "log"
    assert cli.main([*chosen, "--save", str(tmp_path / "whole.npz"), "--log", str(tmp_path / "whole")]) == 0
    whole = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(train, "Interruption", lambda: InterruptedAfter(asked))
        assert cli.main([*chosen, "--checkpoint", folder, "--log", str(log)]) == 130
    capsys.readouterr()
    again = "--serial", "--quiet", "--resume", folder
    assert cli.main([*again, "--log", str(log), "--save", str(tmp_path / "m.npz")]) == 0
    assert capsys.readouterr().out == whole
    assert arrays(tmp_path / "m.npz") == arrays(tmp_path / "whole.npz")
    found = [numbers(line) for line in lines(log)]
    assert found == [numbers(line) for line in lines(tmp_path / "whole")]
    assert [line["epoch"] for line in found] == [1, 2, 3]
    assert cli.main([*again, "--betas", "0.7,0.9"]) == 2
    assert re.fullmatch("error: argument --betas: the training in .* has (0.8,0.99|none), which cannot be changed, got "
                        "0.7,0.9\n", capsys.readouterr().err)


def test_a_log_may_begin_with_a_resume(tmp_path):
    chosen = *RUN, "--schedule", "constant", "--checkpoint", str(tmp_path / "run"), "--epochs", "1"
    assert cli.main([*chosen]) == 0
    resume = "--serial", "--quiet", "--resume", str(tmp_path / "run"), "--epochs", "2", "--log", str(tmp_path / "log")
    assert cli.main([*resume]) == 0
    line, = lines(tmp_path / "log")
    assert line["epoch"] == 2 and line["gradient_norm"] > 0


@pytest.mark.parametrize("validation", (False, True))
def test_the_log_says_what_was_printed_and_more(validation, tmp_path, capsys):
    log, held_out = tmp_path / "log", ["--validation", "40"] * validation
    shown = [flag for flag in RUN if flag != "--quiet"]
    assert cli.main([*shown, "--epochs", "2", *held_out, "--log", str(log)]) == 0
    printed = re.findall(r"^Epoch .*$", capsys.readouterr().out, re.MULTILINE)
    for line, text in zip(lines(log), printed, strict=True):
        start = f"Epoch {line['epoch']} Loss= {line['loss']:.6f} Acc= {line['accuracy']:.2f} % "
        part, word, other = ("validation", "Val", "test") if validation else ("test", "Test", "validation")
        start += f"{word}: {line[f'{part}_loss']:.6f} {line[f'{part}_accuracy']:.2f} % "
        assert f"{other}_loss" not in line
        seconds = re.match(re.escape(start) + r"Run in: (\d+\.\d+) s", text)[1]
        assert float(seconds) == pytest.approx(line["seconds"], rel=0.05) and len(text) <= 80
        assert (line["images"], line["steps"]) == ((160, 10) if validation else (200, 13)) and line["gradient_norm"] > 0
    assert [line["learning_rate"] for line in lines(log)] == pytest.approx([0.03, 0.015])


@pytest.mark.parametrize("images, given, expected", [
    (1437, {}, (16, 23, 5e-3)), (9999, {}, (16, 5, 5e-3)), (10_000, {}, (64, 13, 1e-4)), (60_000, {}, (64, 5, 1e-4)),
    (100, {"batch_size": 1}, (1, 20, 5e-3)), (100, {"epochs": 2, "weight_decay": 0.0}, (16, 2, 0.0)),
    (100, {"optimizer": "adamw"}, (16, 286, 0.01))])
def test_defaults_fit_the_size_of_the_data_set(images, given, expected):
    pixels, labels = np.zeros((images, 1, 1, 1), np.uint8), np.arange(images) % 2
    recipe = Recipe(**given).fitted(Dataset("any", pixels, labels, pixels[:2], labels[:2], 2))
    assert (recipe.batch_size, recipe.epochs, recipe.weight_decay) == expected
    assert recipe.fitted(Dataset("more", pixels[:1], labels[:1], pixels[:2], labels[:2], 2)) == recipe


def test_a_log_that_cannot_be_written_is_said_before_the_training(tmp_path, capsys):
    assert cli.main([*RUN, "--log", str(tmp_path / "no" / "log")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: .*log cannot be written \(No such file or directory\)\n", err)


def test_a_disk_that_becomes_full_under_the_log_does_not_end_a_training(tmp_path, capsys, monkeypatch):
    from cnn_numba.files.run_log import RunLog

    def full(log, **_):
        raise InputError(f"{log.path} cannot be written (No space left on device)")

    monkeypatch.setattr(RunLog, "write", full)
    assert cli.main([*RUN, "--epochs", "1", "--log", str(tmp_path / "log")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Test accuracy")
    assert err == f"warning: {tmp_path / 'log'} cannot be written (No space left on device); training goes on " \
                  "without this line of the log\n"


def test_early_stopping_ends_after_the_epochs_that_were_no_better(tmp_path, capsys):
    shown = [flag for flag in RUN if flag != "--quiet"]
    stop = *shown, "--epochs", "60", "--validation", "40", "--schedule", "constant", "--lr", "0.3"
    log = tmp_path / "log"
    assert cli.main([*stop, "--early-stopping", "3", "--log", str(log), "--save", str(tmp_path / "m.npz")]) == 0
    out, found = capsys.readouterr().out, lines(log)
    best = 1 + min(range(len(found)), key=lambda k: (-found[k]["validation_accuracy"], found[k]["validation_loss"]))
    assert len(found) == best + 3 < 60
    assert f"Stopped after epoch {best + 3}: no improvement for 3 epochs on the validation images\n" in out
    assert (f"Best epoch on the validation images: {best} Loss= {found[best - 1]['validation_loss']:.6f} "
            f"Acc= {found[best - 1]['validation_accuracy']:.2f} %\n") in out
    assert cli.main([*stop[:-6], "--epochs", str(best), "--validation", "40", "--schedule", "constant", "--lr", "0.3",
                     "--save", str(tmp_path / "best.npz")]) == 0
    assert arrays(tmp_path / "m.npz") == arrays(tmp_path / "best.npz")


def test_early_stopping_after_one_epoch_is_said_in_the_singular(tmp_path, capsys):
    shown = [flag for flag in RUN if flag != "--quiet"]
    assert cli.main([*shown, "--epochs", "60", "--validation", "40", "--lr", "0.3", "--early-stopping", "1"]) == 0
    assert ": no improvement for 1 epoch on the validation images\n" in capsys.readouterr().out


@OVERFLOWS
@pytest.mark.parametrize("good", (0, 2))
def test_a_run_that_diverges_saves_what_was_good_and_nothing_else(good, tmp_path, monkeypatch, capsys):
    path, fit = tmp_path / "m.npz", Trainer.fit
    path.write_bytes(earlier := b"PK\3\4" + bytes(26) + b"description.json")

    def spoiled(trainer, epochs, callbacks):
        def spoil(trainer, result=None):
            if trainer.epochs == good:
                trainer.optimizer.lr = 1e30

        spoil(trainer)
        return fit(trainer, epochs, [*callbacks, spoil])

    monkeypatch.setattr(Trainer, "fit", spoiled)
    assert cli.main([*RUN, "--schedule", "constant", "--epochs", "9", "--save", str(path)]) == 1
    out, err = capsys.readouterr()
    saved = f"; {path} has the weights after epoch {good}" if good else ""
    assert out == ""
    assert re.fullmatch(rf"error: the loss became (nan|inf) at step 2 of epoch {good + 1}: use an --lr below 0.03"
                        rf"{re.escape(saved)}\n", err)
    if not good:
        assert path.read_bytes() == earlier
        return
    monkeypatch.setattr(Trainer, "fit", fit)
    assert cli.main([*RUN, "--schedule", "constant", "--epochs", str(good), "--save", str(tmp_path / "n.npz")]) == 0
    assert arrays(path) == arrays(tmp_path / "n.npz")
    assert load(path).accuracy == load(tmp_path / "n.npz").accuracy


@pytest.mark.parametrize(("given", "sentence"), [
    (["--nesterov", "--momentum", "0"], "--nesterov: needs a momentum above 0, got 0"),
    (["--early-stopping", "2"], "--early-stopping: needs validation images"),
    (["--betas", "0.9"], "--betas: expected two numbers of at least 0 and below 1, such as 0.9,0.999, got '0.9'"),
    (["--betas", "0.9,1"], "--betas: expected two numbers of at least 0 and below 1, such as 0.9,0.999, got '0.9,1'"),
    (["--alpha", "1"], "--alpha: expected a number of at least 0 and below 1, got '1'"),
    (["--eps", "0"], "--eps: expected a number above 0, got '0'"),
    (["--clip-norm", "0"], "--clip-norm: expected a number above 0, got '0'"),
    (["--gamma", "1"], "--gamma: expected a number between 0 and 1, got '1'"),
    (["--warm-up", "0"], "--warm-up: expected a number between 0 and 1, got '0'"),
    (["--step-size", "0"], "--step-size: expected a whole number of at least 1, got '0'"),
    (["--patience", "0.5"], "--patience: expected a whole number of at least 1, got '0.5'"),
    (["--label-smoothing", "1"], "--label-smoothing: expected a number of at least 0 and below 1, got '1'"),
    (["--class-weights", "0,0"], "--class-weights: expected balanced, or numbers such as 1,1,2.5, got '0,0'"),
    (["--class-weights", "1,nan"], "--class-weights: expected balanced, or numbers such as 1,1,2.5, got '1,nan'"),
    (["--class-weights", "1,2"], "--class-weights: expected 10 numbers, one for each class of mnist, got 2"),
    (["--early-stopping", "0"], "--early-stopping: expected a whole number of at least 1, got '0'"),
    (["--augment", "shear=1"], "--augment: 'shear' is not one of shift, rotate, scale, flip"),
    *((["--validation", text], "--validation: expected a whole number of at least 1, or a fraction between 0 and 1, "
                               f"got '{text}'") for text in ("0", "1.0", "-3", "nan", "1e3", "0.0")),
])
def test_flags_that_are_out_of_range_or_that_nothing_uses(given, sentence, capsys):
    assert cli.main(given) == 2
    assert capsys.readouterr() == ("", f"error: argument {sentence}\n")


@pytest.mark.parametrize("given, sentence", [
    (["--class-weights", "1,2"], "--class-weights: expected 10 numbers, one for each class of digits, got 2"),
    (["--validation", "200"],
     "--validation: the validation part must be 1 to 199 of the 200 training images of digits, got 200"),
    (["--validation", "0.001"],
     "--validation: the validation part must be 1 to 199 of the 200 training images of digits, got 0"),
    (["--train-size", "1438"], "--train-size: must be 1 to 1437 for digits, got 1438"),
    (["--test-size", "361"], "--test-size: must be 1 to 360 for digits, got 361")])
def test_flags_that_do_not_fit_the_data(given, sentence, capsys):
    assert cli.main([*RUN, *given]) == 2
    assert capsys.readouterr() == ("", f"error: argument {sentence}\n")


def test_classes_of_a_file_are_counted_when_it_is_read(files, capsys):
    assert cli.main(["--dataset", files["csv"], "--serial", "--quiet", "--class-weights", "1,2"]) == 2
    assert capsys.readouterr().err == (
        "error: argument --class-weights: expected 3 numbers, one for each class of csv.csv, got 2\n")


def test_names_without_numpy_agree_with_the_modules_that_have_them():
    assert FIELDS["init"].metadata["kind"].names == tuple(INITS)
    assert FIELDS["init"].default == "xavier_uniform" == next(iter(INITS))
