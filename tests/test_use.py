"""The commands that look at data and use a model, on what people bring: `inspect`, `evaluate` and `predict`."""

import csv
import json
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from cnn_numba import Flatten, Linear, Sequential
from cnn_numba.commands import main as cli
from cnn_numba.data import Dataset
from cnn_numba.data.drawing import dark_on_light, is_of_mnist, like_mnist, off_centre
from cnn_numba.data.survey import moments, survey, suspicions

random = np.random.default_rng(3)
LABELS = np.arange(60) % 10
IMAGES = random.integers(0, 30, (60, 28, 28), np.uint8)
for image, label in zip(IMAGES, LABELS, strict=True):
    image[2 * label + 4:2 * label + 6, 6:22] = 220 + label


def save_model(path, mean, std):
    """Save a model that finds the bright bar in an image, whose row is the class, and return its path."""
    network = Sequential(Flatten(), Linear(784, 10))
    weight = np.zeros((10, 28, 28), np.float32)
    for k in range(10):
        weight[k, 2 * k + 4:2 * k + 6, 6:22] = 0.2
    state = network.state_dict()
    network.load_state_dict({name: weight.reshape(10, 784) if array.ndim == 2 else array * 0
                             for name, array in state.items()})
    network.save(path, input_shape=(1, 28, 28), mean=[float(mean)], std=[float(std)], classes=list("0123456789"))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "model.npz", IMAGES.mean(), IMAGES.std())


@pytest.fixture(scope="module")
def mnist_model(tmp_path_factory):
    """A model that was trained on images with the statistics of MNIST."""
    return save_model(tmp_path_factory.mktemp("model") / "mnist.npz", 33.3, 78.6)


@pytest.fixture
def run(capsys):
    """run(word, ...) gives the exit code, the lines on stdout and those on stderr."""
    def run(*words):
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()
    return run


def table(path, images=IMAGES, labels=LABELS, header=True):
    columns = ([labels[:, None]] if labels is not None else []) + [images.reshape(len(images), -1)]
    names = ["label"] * (labels is not None) + [f"pixel{i}" for i in range(images[0].size)]
    lines = [",".join(map(str, row)) for row in np.concatenate(columns, 1).tolist()]
    path.write_text("\n".join(([",".join(names)] if header else []) + lines) + "\n")
    return path


def written(path, name):
    """A file of the images without labels."""
    match name:
        case "npz":
            np.savez(path / "some.npz", x_test=IMAGES)
            return path / "some.npz"
        case "npy":
            np.save(path / "some.npy", IMAGES)
            return path / "some.npy"
        case "idx":
            content = bytes((0, 0, 8, 3)) + np.array(IMAGES.shape, ">u4").tobytes() + IMAGES.tobytes()
            (path / "some.idx3").write_bytes(content)
            return path / "some.idx3"
    header, labels = {"header": (True, None), "no header": (False, None), "header and labels": (True, LABELS),
                      "labels": (False, LABELS)}[name]
    return table(path / "some.csv", labels=labels, header=header)


# ---- predict -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["header", "no header", "header and labels", "labels", "npz", "npy", "idx"])
def test_images_of_data_files_are_classified_in_their_order(model, run, tmp_path, name):
    path = written(tmp_path, name)
    code, out, err = run("predict", "--load", model, "--serial", path)
    assert (code, err) == (0, []) and len(out) == 60
    assert [line.split()[1] for line in out] == [str(k) for k in LABELS]
    assert out[0].startswith(f"{path}:1: 0 (") and out[59].startswith(f"{path}:60: 9 (")


def test_predictions_are_written_to_a_file(model, run, tmp_path):
    path = written(tmp_path, "header")
    predict = "predict", "--load", model, "--serial", path, "--output"
    assert run(*predict, tmp_path / "a.csv") == (0, [f"Wrote 60 predictions to {tmp_path / 'a.csv'}"], [])
    with open(tmp_path / "a.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [str(k) for k in LABELS] and 0.5 < float(rows[0]["probability"]) <= 1
    assert run(*predict, tmp_path / "a.jsonl")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["class"] for line in lines] == [str(k) for k in LABELS] and lines[1]["file"] == f"{path}:2"
    assert run(*predict, tmp_path / "k.csv", "--format", "kaggle")[0] == 0
    assert (tmp_path / "k.csv").read_text().splitlines()[:3] == ["ImageId,Label", "1,0", "2,1"]
    code, out, err = run(*predict, tmp_path / "a.txt")
    assert (code, out) == (2, []) and err == [f"error: argument --output: expected a .csv or .jsonl file, got "
                                              f"{tmp_path / 'a.txt'}"]
    code, _, err = run(*predict, tmp_path / "nowhere" / "a.csv")
    assert code == 2 and "nowhere" in err[0]


def test_a_file_that_fails_leaves_no_output(model, run, tmp_path):
    (tmp_path / "bad.csv").write_text("1,2,3\n4,5\n")
    code, _, err = run("predict", "--load", model, tmp_path / "bad.csv", "--output", tmp_path / "out.csv")
    assert code == 2 and len(err) == 1 and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("images, words", [
    (IMAGES, ""), (255 - IMAGES, "dark on light"), ((IMAGES / 255).astype(np.float32), "multiplied by 255"),
    (np.full((20, 28, 28), 80, np.uint8), "20 of 20 images have nothing to classify"),
    (IMAGES // 12, "another range of pixels gives wrong answers"), (IMAGES[:, :14, :14], "brought to 1x28x28"),
    (np.stack([IMAGES] * 3, 3), "brought to 1x28x28")],
    ids=["same", "inverted", "0 to 1", "one colour", "dark", "small", "colour"])
def test_images_unlike_those_of_the_training_are_said(model, run, tmp_path, images, words):
    pytest.importorskip("PIL")
    np.save(tmp_path / "some.npy", images)
    code, out, err = run("predict", "--load", model, "--serial", tmp_path / "some.npy")
    assert code == 0 and len(out) == len(images)
    assert [line for line in err if words in line and line.startswith("warning: ")] if words else err == []
    if words in ("", "multiplied by 255") or images.ndim == 4:
        assert [line.split()[1] for line in out] == [str(k) for k in LABELS]


def test_one_image_of_one_colour_has_a_singular(model, run, tmp_path):
    np.save(tmp_path / "one.npy", np.full((1, 28, 28), 80, np.uint8))
    _, _, err = run("predict", "--load", model, "--serial", tmp_path / "one.npy")
    assert any("1 of 1 image has nothing to classify: it is of one colour" in line for line in err)


def test_pillow_says_nothing_before_a_bomb_is_refused(model, run, tmp_path):
    """A PNG of 41 bytes that promises 95 million pixels, of which Pillow warns."""
    pytest.importorskip("PIL")
    header = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 9_500, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">II", zlib.crc32(header), 9) + b"IDAT"
    (tmp_path / "bomb.png").write_bytes(png)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        code, out, err = run("predict", "--load", model, "--serial", tmp_path / "bomb.png")
    assert (code, out, said) == (2, [], []) and len(err) == 1
    assert "bomb.png promises 10000 x 9500 pixels in 41 bytes" in err[0]


BROKEN_TIFF = """
from io import BytesIO
from PIL import Image
file = BytesIO()
Image.new("L", (8, 8)).save(file, "TIFF", compression="tiff_lzw")
start = Image.open(file).tag_v2[273][0]
content = file.getvalue()[:start] + bytes([255] * 4) + file.getvalue()[start + 4:]
try:
    Image.open(BytesIO(content)).load()
except OSError:
    pass
"""


@pytest.mark.parametrize("what, code", (("samples", "import logging; logging.getLogger('PIL.Tiff').error('samples')"),
                                        ("tempfile.tif: ", BROKEN_TIFF)))
def test_what_pillow_says_is_not_printed(what, code):
    """Pillow logs, and its libtiff prints, what is wrong with a file."""
    PIL = pytest.importorskip("PIL.features")
    if "tif: " in what and not PIL.check("libtiff"):
        pytest.skip("Pillow reads only TIFF files that are not compressed here")
    loud, quiet = (subprocess.run([sys.executable, "-c", f"from cnn_numba.data.image import pillow\n{call}\n{code}"],
                                  cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stderr
                   for call in ("", "pillow(); pillow()"))
    assert what in loud and not quiet


def test_drawings_beside_the_middle_are_said(mnist_model, run, tmp_path):
    pytest.importorskip("PIL")
    usual = np.stack([like_mnist(digit())] * 5)
    for images, said in (usual, 0), (np.roll(usual, 6, 2), 1), (usual[:, ::2, ::2].repeat(2, 1), 1):
        np.save(tmp_path / "some.npy", images if images.shape[2] == 28 else np.pad(images, ((0, 0), (0, 0), (0, 14))))
        code, _, err = run("predict", "--load", mnist_model, "--serial", tmp_path / "some.npy")
        assert code == 0 and len(err) == said and all("not in the middle, or of another size" in line for line in err)


def test_inverted_images(model, run, tmp_path):
    np.save(tmp_path / "some.npy", 255 - IMAGES)
    code, out, err = run("predict", "--load", model, "--serial", tmp_path / "some.npy", "--invert")
    assert (code, err) == (0, []) and [line.split()[1] for line in out] == [str(k) for k in LABELS]


def test_what_image_files_had_converted_is_said_once(model, run, tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "some").mkdir()
    for k in range(20):
        grey = image.fromarray(IMAGES[k])
        coloured = image.fromarray(np.stack([IMAGES[k], IMAGES[k], IMAGES[k] // 2 * 2], 2))
        (coloured if k % 2 else grey).resize((56, 56)).save(tmp_path / "some" / f"{k:02}.png")
    code, out, err = run("predict", "--load", model, "--serial", tmp_path / "some")
    assert code == 0 and [line.split()[1] for line in out] == [str(k % 10) for k in range(20)]
    assert len(err) == 2 and "00.png and 19 more had to be converted: the model takes another size" in err[0]
    assert "01.png and 9 more had to be converted: the model takes another colour" in err[1]


def test_image_files_of_more_bits_are_read_as_one_set(model, run, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for k, factor in enumerate((256, 256, 8)):          # the last one is dark, not of 12 bits
        image.fromarray(IMAGES[k].astype(np.uint16) * factor).save(tmp_path / f"{k}.png")
    code, out, _ = run("predict", "--load", model, "--serial", tmp_path, "--format", "csv")
    sure = [float(line.split(",")[2]) for line in out[1:]]
    assert code == 0 and sure[0] > 0.99 and sure[1] > 0.99 and sure[2] < 0.5


# ---- drawings ------------------------------------------------------------------------------------------------------
def digit(scale=1, top=4, left=4, size=28):
    """A drawing of a 7 in a box of 20 pixels times scale."""
    canvas = np.zeros((size, size), np.uint8)
    canvas[top:top + 3 * scale, left:left + 12 * scale] = 250
    canvas[top:top + 20 * scale, left + 9 * scale:left + 12 * scale] = 250
    return canvas


def test_a_drawing_is_prepared_as_mnist_was():
    pytest.importorskip("PIL")
    plain = like_mnist(digit())
    rows, columns = np.nonzero(plain)
    assert np.ptp(rows) + 1 == 20 and np.ptp(columns) + 1 == 12 and plain.max() == 255
    assert (abs(np.average(rows, weights=plain[rows, columns]) - 14) <= 0.5
            and abs(np.average(columns, weights=plain[rows, columns]) - 14) <= 0.5)
    for other in (digit(top=0, left=0), 255 - digit(top=6, left=12), digit(5, 30, 100, 250), 255 - digit(3, 90, 9, 200),
                  digit() // 3 + 20):
        assert np.abs(like_mnist(other).astype(int) - plain).mean() < 3
    assert not like_mnist(np.full((9, 9), 77, np.uint8)).any()


def test_drawings_unlike_mnist_are_noticed():
    pytest.importorskip("PIL")
    usual = np.stack([like_mnist(digit())] * 3)[:, None]
    assert not off_centre(usual) and off_centre(np.roll(usual, 6, 3)) and not off_centre(usual * 0)
    assert off_centre(np.stack([digit()[::2, ::2]] * 3)[:, None])
    mean, std = np.array([33.3]), np.array([78.6])
    assert not dark_on_light(usual, mean) and dark_on_light(255 - usual, mean)
    assert is_of_mnist((1, 28, 28), mean, std) and not is_of_mnist((1, 28, 28), mean + 40, std)
    assert not is_of_mnist((3, 28, 28), mean, std)


@pytest.mark.parametrize("draw", [lambda a: a, lambda a: 255 - a, lambda a: np.pad(a, ((0, 40), (30, 0)))])
def test_drawings_are_prepared_when_asked(mnist_model, run, tmp_path, draw):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(draw(digit())).save(tmp_path / "seven.png")
    predict = "predict", "--load", mnist_model, "--serial", "--format", "csv", tmp_path / "seven.png"
    code, out, err = run(*predict, "--like-mnist")
    image.fromarray(like_mnist(digit())).save(tmp_path / "seven.png")
    assert (code, err) == (0, []) and out == run(*predict)[1]


def test_only_models_of_the_size_of_mnist_take_such_drawings(run, tmp_path):
    Sequential(Flatten(), Linear(64, 2)).save(tmp_path / "m.npz", input_shape=(1, 8, 8), mean=[1.0], std=[1.0])
    code, _, err = run("predict", "--load", tmp_path / "m.npz", "--like-mnist", tmp_path)
    assert code == 2 and "--like-mnist" in err[0] and "takes images of 1x8x8, expected 1x28x28" in err[0]


# ---- evaluate ------------------------------------------------------------------------------------------------------
def test_evaluate_measures_all_images_of_what_it_is_given(model, run, tmp_path):
    path = table(tmp_path / "some.csv")
    evaluate = "evaluate", "--load", model, "--serial", "--dataset"
    assert run(*evaluate, path)[1][0] == "Test accuracy: 100.00 % of 60 images, all of some.csv"
    assert run(*evaluate, path, "--part", "test")[1][0].endswith(" of 10 images, the test part of some.csv")
    assert run(*evaluate, path, "--part", "train")[1][0].startswith("Training accuracy: 100.00 % of 50 images, the")
    assert run(*evaluate, path, "--test-size", "7")[1][0].startswith("Test accuracy: 100.00 % of 7 images")
    np.savez(tmp_path / "test.npz", x_test=IMAGES[LABELS == 7], y_test=[7] * 6)
    assert run(*evaluate, tmp_path / "test.npz")[1][0] == (
        "Test accuracy: 100.00 % of 6 images, the test part of test.npz")


def test_evaluate_matches_classes_by_their_names(model, run, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for k in (3, 7, 13, 17):
        folder = tmp_path / "some" / str(LABELS[k])
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(IMAGES[k]).save(folder / f"{k}.png")
    evaluate = "evaluate", "--load", model, "--serial", "--dataset", tmp_path / "some"
    assert run(*evaluate)[1][0] == "Test accuracy: 100.00 % of 4 images, all of some"
    (tmp_path / "some" / "7").rename(tmp_path / "some" / "seven")
    code, _, err = run(*evaluate)
    assert code == 2 and "has the class 'seven', which is not one of the model's 10" in err[0]


def test_evaluate_says_what_it_changed(model, run, tmp_path):
    np.savez(tmp_path / "some.npz", x_test=(IMAGES / 255).astype(np.float32), y_test=LABELS)
    _, out, _ = run("evaluate", "--load", model, "--serial", "--dataset", tmp_path / "some.npz")
    assert "multiplied by 255" in out[0] and out[1].startswith("Test accuracy: 100.00 %")


def test_evaluate_remembers_the_data_set_of_the_training(run, tmp_path):
    path = table(tmp_path / "some.csv")
    train = "--dataset", path, "--serial", "--epochs", "2", "--label-column", "label", "--save", tmp_path / "m.npz"
    _, out, _ = run(*train)
    accuracy, = (line.split()[2] for line in out if line.startswith("Test accuracy"))
    evaluate = "evaluate", "--serial", "--load", tmp_path / "m.npz"
    assert run(*evaluate)[1][0] == f"Test accuracy: {accuracy} % of 10 images, the test part of some.csv"
    assert " of 50 images, the train part of some.csv" in run(*evaluate, "--part", "train")[1][0]
    assert run(*evaluate, "--dataset", path)[1][0].endswith(" of 60 images, all of some.csv")
    code, _, err = run(*evaluate, "--test-data", tmp_path / "none.csv")
    assert code == 2 and err == [f"error: argument --test-data: {tmp_path / 'none.csv'} does not exist"]
    path.rename(tmp_path / "other.csv")
    code, out, err = run(*evaluate)
    assert (code, out) == (2, []) and err == [f"error: argument --dataset: required, because {tmp_path / 'm.npz'} was "
                                              f"trained on {path}, which is not here"]
    assert run(*evaluate, "--dataset", tmp_path / "other.csv")[0] == 0


# ---- inspect -------------------------------------------------------------------------------------------------------
def test_inspect_shows_what_a_data_set_holds_and_how_it_was_read(run, tmp_path):
    images = np.concatenate([IMAGES, IMAGES[:3]])
    images[5], images[61] = 0, 99
    np.savez(tmp_path / "some.npz", x_train=images, y_train=[*LABELS, 0, 1, 2], x_test=IMAGES[2:12],
             y_test=LABELS[2:12])
    code, out, err = run("inspect", tmp_path / "some.npz")
    assert (code, err) == (0, [])
    assert out[0] == "Data set some.npz: 63 training and 10 test images, 1 x 28 x 28, 10 classes"
    assert out[1].startswith("Read as images x_train 63x28x28 of uint8, labels y_train 63 of int64; images x_test")
    assert "pixels 0 to 229" in out[1] and out[1].endswith("; 6 to 7 training images of a class")
    rows = {line.split()[0]: line.split()[1:] for line in out[3:] if line}
    assert rows["training"][0] == "63" and rows["training"][5:] == ["2", "2", "-"]
    assert rows["test"][0] == "10" and rows["test"][5:] == ["0", "0", "9"]
    assert rows["0"][1:] == ["7", "1"] and rows["9"][1:] == ["6", "1"] and len(rows["0"][0]) == 30
    assert out[-2:] == [f"warning: {tmp_path / 'some.npz'} (train part): 2 of 63 images are of one colour",
                        "warning: 9 of 10 test images are in the training part, too"]


@pytest.mark.parametrize("counts, test, words", [
    ([30, 1, 30], [5, 5, 5], "the class b has a single training image"),
    ([30, 0, 0], [5, 5, 5], "2 classes (b, c) have no training images"),
    ([100, 4, 50], [5, 5, 5], "classes have 4 to 100 training images: --class-weights balanced"),
    ([30, 30, 30], [1, 1, 1], "3 test images say little"), ([30, 30, 30], [1, 0, 0], "1 test image says little"),
    ([1, 2, 2], [5, 5, 5], "5 training images are little to learn 3 classes from"),
    ([30, 30, 30], [5, 5, 5], "")])
def test_what_looks_wrong_is_said(counts, test, words):
    parts = []
    for each in counts, test:
        labels = np.repeat(np.arange(3), each)
        parts += [random.integers(0, 256, (len(labels), 1, 5, 5), np.uint8), labels]
    data = Dataset("some", *parts, 3, ("a", "b", "c"))
    said = list(suspicions(data, survey(data)))
    assert any(words in sentence for sentence in said) if words else said == []


@pytest.mark.parametrize("channels, kind", [(1, np.uint8), (3, np.uint8), (1, np.float32)])
def test_a_sheet_of_images(run, tmp_path, channels, kind):
    image = pytest.importorskip("PIL.Image")
    pixels = random.integers(0, 256, (60, channels, 8, 8)).astype(kind) / kind(1)
    np.savez(tmp_path / "some.npz", x=pixels.astype(kind), y=np.array(["bé", "c"])[np.arange(60) % 2])
    code, out, _ = run("inspect", tmp_path / "some.npz", "--plot", tmp_path / "sheet.png")
    assert code == 0 and out[-1] == f"Wrote {tmp_path / 'sheet.png'}"
    with image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (24 + 10 * 58, 2 * 58)
    code, _, err = run("inspect", "digits", "--plot", tmp_path / "sheet.jpg")
    assert code == 2 and "--plot: expected the name of a .png file" in err[0]


def test_the_moments_of_pixels_are_those_of_numpy():
    for images in IMAGES[:, None], (IMAGES[:, None] / 7).astype(np.float32):
        assert moments(images) == pytest.approx((images.mean(dtype=float), images.std(dtype=float)))
