"""The pictures, by what is in them: axes, labels, numbers of marks, and that the worst image is the worst."""
import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from networks import batch_norm, conv, flatten, linear, make, pool, relu, residual  # noqa: E402
from trainings import dataset, trained  # noqa: E402

from cnn_numba import Augment, InputError, Recipe, Sequential, pictures  # noqa: E402
from cnn_numba.data.survey import survey  # noqa: E402
from cnn_numba.history import EpochResult, History  # noqa: E402
from cnn_numba.lr_range import RateRange  # noqa: E402
from cnn_numba.pictures import network as of_network  # noqa: E402
from cnn_numba.pictures import style  # noqa: E402
from cnn_numba.pictures.data import augmented  # noqa: E402
from cnn_numba.report.study import Study, percent, without_softmax  # noqa: E402


def history(epochs=3, **more):
    return History([EpochResult(k, 1 / k, 100 - 10 / k, 0.5, 70, 5, 0.1 / k, 2.0 * k, **more)
                    for k in range(1, epochs + 1)])


@pytest.fixture(scope="module")
def study():
    data = dataset(train=70, test=60)
    model, history = trained(data, epochs=3)
    study = Study("made up", Recipe(dataset="digits"), history, model=model.eval(), data=data)
    study.epochs, study.filters = [0, 1], np.stack([p.value for p in model.parameters() if p.value.ndim == 4][:1] * 2)
    return study


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# ---- of a training --------------------------------------------------------------------------------------------------
def test_curves_have_a_mark_for_each_epoch_and_say_what_they_are():
    figure = pictures.curves(history(validation_loss=0.5, validation_accuracy=90.0, test_loss=0.1, test_accuracy=1.0))
    losses, accuracies = figure.axes
    assert (losses.get_ylabel(), accuracies.get_ylabel(), accuracies.get_xlabel()) == ("loss", "accuracy, %", "epoch")
    assert [line.get_label() for line in losses.lines] == ["training", "validation"]        # not the test
    assert list(losses.lines[0].get_xdata()) == [1, 2, 3] and list(losses.lines[0].get_ydata()) == [1, 1 / 2, 1 / 3]
    assert list(accuracies.lines[1].get_ydata()) == [90] * 3
    assert [line.get_label() for line in pictures.curves(history(test_loss=0.1, test_accuracy=1.0)).axes[0].lines] == [
        "training", "test"]


def test_several_runs_have_a_colour_each():
    losses = pictures.curves({"a": history(), "b": history(5, validation_loss=0.5, validation_accuracy=90.0)}).axes[0]
    assert len(losses.lines) == 3 and len({line.get_color() for line in losses.lines}) == 2
    assert {text.get_text() for text in losses.get_legend().get_texts()} == {"a", "b"}
    with pytest.raises(InputError, match="no curves before the first epoch"):
        pictures.curves({"a": History()})


def test_rates_show_the_gradient_where_it_was_measured():
    figure = pictures.rates(history())
    assert [axes.get_ylabel() for axes in figure.axes] == ["learning rate", "norm of the gradient"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [2, 4, 6]
    without = History([EpochResult(1, 1.0, 50.0, 0.5, 70, 5, 0.1)])
    assert len(pictures.rates(without).axes) == 1


def test_the_range_test_marks_its_suggestion():
    found = RateRange([0.01, 0.1, 1.0], [2.0, 1.0, 3.0], [2.0, 1.5, 2.5], 0.1)
    axes, = pictures.rate_range(found).axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "learning rate"
    assert any(list(line.get_xdata()) == [0.1] and list(line.get_ydata()) == [1.5] for line in axes.lines)


# ---- of the results -------------------------------------------------------------------------------------------------
def test_the_confusion_matrix_has_a_number_in_each_cell_that_is_not_empty():
    matrix = np.array([[5, 1, 0], [0, 4, 0], [2, 0, 3]])
    axes, = pictures.confusion(matrix, ("cat", "dog", "a name that is much too long")).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in axes.texts} == {
        (0, 0): 5, (0, 1): 1, (1, 1): 4, (2, 0): 2, (2, 2): 3}
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["cat", "dog"]
    many = pictures.confusion(np.eye(50, dtype=int), [str(k) for k in range(50)]).axes[0]
    assert not many.texts and len(many.get_xticks()) <= 20


def test_precision_and_recall_of_each_class():
    axes, = pictures.precision_and_recall(np.array([[3, 1], [0, 4]]), ("a", "b")).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert lines["precision"] == [100, 80] and lines["recall"] == [75, 100]


def test_the_worst_image_is_the_worst(study):
    probabilities = study.classifier.probabilities(study.data.test_images)
    labels, said = study.data.test_labels, probabilities.argmax(axis=1)
    of_truth = probabilities[np.arange(60), labels]
    wrong = np.flatnonzero(said != labels)
    assert len(wrong) > 3
    assert list(study.most_wrong(5)) == sorted(wrong, key=lambda k: of_truth[k])[:5]
    margins = np.sort(probabilities, axis=1)[:, -1] - np.sort(probabilities, axis=1)[:, -2]
    assert study.most_unsure(1)[0] == margins.argmin()
    first = texts(study.picture("errors"))[0]
    worst = study.most_wrong(1)[0]
    assert first == (f"#{worst}: {labels[worst]}\nsays {said[worst]}, {percent(probabilities[worst].max())}")
    assert len(study.picture("errors").axes[0].images) == min(12, len(wrong))


def test_the_most_confused_pairs_are_those_of_the_matrix(study):
    (images, true, said), *_ = study.confused()
    off = study.matrix - np.diag(study.matrix.diagonal())
    assert images == off.max() == study.matrix[true, said] and true != said
    assert study.matrix.sum() == 60


def test_a_network_without_errors_says_so(study, monkeypatch):
    monkeypatch.setattr(Study, "most_wrong", lambda self: np.empty(0, int))
    with pytest.raises(InputError, match="no test image is classified wrongly"):
        study.picture("errors")


# ---- of the network -------------------------------------------------------------------------------------------------
BODY = [conv(4, 4, 3, padding=1), batch_norm(4), relu]
LAYERS = [conv(3, 4, 3, padding=1), batch_norm(4), relu, residual(BODY), pool(2), flatten, linear(64, 5)]


def test_the_architecture_has_boxes_to_scale_with_shapes_and_an_arc_for_a_shortcut():
    axes, = pictures.architecture(make(LAYERS), (3, 8, 8)).axes
    found = [text.get_text() for text in axes.texts if text.get_text()]
    assert found == ["image\n3x8x8", *2 * ["Conv2d 3x3\n+ BatchNorm2d\n+ ReLU\n4x8x8"], "MaxPool2d 2x2\n4x4x4",
                     "Flatten\n64", "Linear\n5"]
    assert len(axes.texts) == len(found) + 1                                        # the arc
    fronts = [patch.get_xy() for patch in axes.patches[::3]]
    heights = [np.ptp(corners[:, 1]) for corners in fronts]
    assert heights[0] == pytest.approx(2 * heights[3])                              # 8 rows and 4
    widths = [np.ptp(corners[:, 0]) for corners in fronts]
    assert widths[1] / widths[0] == pytest.approx(4 / 3)                            # channels


def test_filters_have_a_row_for_each_epoch_and_share_a_scale():
    weights = np.stack([np.full((5, 1, 3, 3), value) for value in (0.5, -1.0, 0.25)])
    axes, = pictures.filters([0, 1, 2], weights).axes
    assert [text.get_text() for text in axes.texts] == ["start", "epoch 1", "epoch 2"] and len(axes.images) == 3
    red, blue, faint = (image.get_array()[0, 0].astype(int) for image in axes.images)
    assert red[0] > red[2] and blue[2] > blue[0] and red[0] - red[2] > faint[0] - faint[2] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.as_svg(pictures.filters([0], np.ones((1, 4, 3, 5, 5))))                # colours, with gaps
    assert len(pictures.filters(list(range(100)), np.zeros((100, 4, 1, 3, 3))).axes[0].images) == 8
    assert of_network.filter_tiles(np.ones((2, 4, 3, 5, 5))).shape == (2, 4, 5, 5, 3)      # colours
    assert of_network.filter_tiles(np.ones((2, 4, 6, 5, 5))).shape == (2, 24, 5, 5)
    with pytest.raises(InputError, match="no convolution"):
        pictures.filters([], np.empty((0, 0, 0, 0, 0)))


def test_features_have_a_row_for_each_layer_with_maps(study):
    axes, = study.picture("features").axes
    names = [text.get_text() for text in axes.texts]
    assert names[0] == "image" and names[1].startswith("0 Conv2d 3x3") and names[-1].endswith("Linear")
    assert not any("Flatten" in name for name in names) and len(axes.images) == len(names)


def test_gradients_are_those_of_the_loss(study):
    names = [p.name for p in study.model.parameters() if p.value.ndim > 1]
    before = study.model.state_dict()
    found = study.tensors()
    assert [name for name, *_ in found] == names and all(np.abs(gradient).max() > 0 for *_, gradient in found)
    again = study.tensors()                                                         # not added up
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(found, again, strict=True))
    assert all(np.array_equal(value, before[name]) for name, value in study.model.state_dict().items())
    weights, gradients = pictures.histograms(found).axes
    assert weights.get_title(loc="left") == "weights" and len(gradients.texts) == len(names)


def test_a_network_that_ends_in_a_softmax_is_cut():
    from cnn_numba import Softmax

    model = Sequential(*make([flatten, linear(4, 3)]), Softmax())
    cut = without_softmax(model)
    x = np.random.default_rng(0).normal(size=(2, 1, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(np.exp(cut(x)) / np.exp(cut(x)).sum(axis=1, keepdims=True), model(x), rtol=1e-5)
    assert without_softmax(cut) is cut


def test_times_have_a_bar_for_each_part_that_runs(study):
    before = study.model.state_dict()
    profile = study.profile()
    axes, = pictures.times(profile).axes
    running = [part for part in profile.parts if part.runs]
    assert len(axes.patches) == 2 * len(running) and axes.get_xlabel() == "milliseconds of a training step"
    assert all(np.array_equal(value, before[name]) for name, value in study.model.state_dict().items())
    assert profile.peak is None


# ---- of data --------------------------------------------------------------------------------------------------------
def test_counts_and_the_sheet_have_a_row_for_each_class():
    data = dataset()
    axes, = pictures.counts(survey(data), data.classes).axes
    assert [patch.get_width() for patch in axes.patches] == [*np.bincount(data.train_labels), *np.bincount(
        data.test_labels, minlength=5)]
    sheet, = pictures.sheet(data).axes
    assert [text.get_text() for text in sheet.texts] == list(data.classes) and len(sheet.images) == 5


def test_augmentation_shows_what_the_training_sees():
    images = dataset().train_images[:3]
    assert np.array_equal(augmented(images, Augment(flip=True)), augmented(images, Augment(flip=True)))
    for epoch in range(4):
        flipped = augmented(images, Augment(flip=True), epoch=epoch)
        assert all(np.array_equal(new, old) or np.array_equal(new, old[..., ::-1])
                   for new, old in zip(flipped, images, strict=True))
    assert not np.array_equal(augmented(images, Augment(shift=2)), images)
    axes, = pictures.augmentation(images, Augment(shift=2)).axes
    assert len(axes.images) == 6 and "as it is" in [text.get_text() for text in axes.texts]


# ---- how they are written -------------------------------------------------------------------------------------------
def test_a_file_is_of_the_kind_of_its_name(tmp_path):
    figure = pictures.curves(history())
    for name, start in ("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF"):
        pictures.save(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(InputError, match="a.gif: a picture ends in .svg or .png or .pdf"):
        pictures.save(figure, tmp_path / "a.gif")


def test_inline_pictures_follow_the_page_and_keep_their_ids_apart():
    svg = pictures.as_svg(pictures.curves(history()))
    ET.fromstring(svg)
    assert svg == pictures.as_svg(pictures.curves(history()))                       # no dates, no random ids
    one, two = pictures.inline(svg, "one"), pictures.inline(svg, "two")
    assert "currentColor" in one and style.INK not in one and style.GROUND not in one and style.GROUND in svg
    ids = re.findall(r'\bid="([^"]+)"', one)
    assert ids and not set(ids) & set(re.findall(r'\bid="([^"]+)"', two))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= set(ids)
    assert ">lr 0.12345<" in pictures.as_svg(pictures.curves({"lr 0.12345": history(), "b": history()}))


def test_images_are_made_smaller_and_larger():
    image = np.arange(3 * 100 * 50).reshape(3, 100, 50)
    small = style.pixels(image, 0, image.max(), side=32)
    assert small.shape == (25, 12, 3) and small.dtype == np.uint8
    assert style.enlarged(np.zeros((2, 3, 4)), 12).shape == (2, 9, 12)
    assert style.pixels(np.ones((5, 4, 4)), 0, 1).shape == (4, 4, 3)                # neither grey nor colours


def test_a_missing_matplotlib_is_one_sentence(monkeypatch):
    monkeypatch.setattr(style, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs matplotlib, which is not installed: pip install matplotlib"):
        pictures.curves(history())
