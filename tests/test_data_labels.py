"""Which column or array holds the labels, what labels are, and how images lie in a file."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from cnn_numba.data import csvfile, load_dataset
from cnn_numba.data.csvfile import read_csv
from cnn_numba.data.npz import read_npz
from cnn_numba.data.parts import part_in, part_of, role_of
from cnn_numba.data.reading import as_labels
from cnn_numba.errors import InputError

random = np.random.default_rng(5)
IMAGES = random.integers(0, 256, (60, 1, 4, 4), np.uint8)
LABELS = np.arange(60) * 7 % 5
FLAT = IMAGES.reshape(60, 16).tolist()
PIXELS = [f"pixel{i}" for i in range(16)]


def table(path, columns, header=None, separator=",", end="\n"):
    """Write a CSV file of columns: lists, or a list of rows of pixels."""
    rows = []
    for row in zip(*columns, strict=True):
        cells = [value for cell in row for value in (cell if isinstance(cell, list) else [cell])]
        rows.append(separator.join(map(str, cells)))
    lines = ([separator.join(header)] if header else []) + rows
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def refused(read, *words):
    with pytest.raises(InputError) as refusal:
        read()
    text = str(refusal.value)
    assert "\n" not in text and all(word in text for word in words), text


def holds(read, labels=LABELS):
    assert np.array_equal(read[0], IMAGES) and read[0].dtype == np.uint8
    assert read[1].tolist() == list(labels)


INDEX, NAMES = list(range(60)), ["ant", "bee", "cat", "dog", "emu"]
WORDS = [NAMES[k] for k in LABELS]


# ---- columns of a CSV file -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns, header", [
    ([LABELS, FLAT], ["label", *PIXELS]), ([FLAT, LABELS], [*PIXELS, "label"]), ([FLAT, LABELS], [*PIXELS, "Class"]),
    ([FLAT, LABELS], [*PIXELS, '"target"']), ([FLAT, LABELS], [*PIXELS, "y"]), ([FLAT, LABELS], [*PIXELS, "emotion"]),
    ([LABELS, FLAT], ["letter", *PIXELS]), ([INDEX, LABELS, FLAT], ["id", "label", *PIXELS]),
    ([INDEX, LABELS, FLAT], ["", "label", *PIXELS]), ([INDEX, FLAT, LABELS], ["Unnamed: 0", *PIXELS, "label"]),
    ([LABELS, FLAT, [""] * 60], ["label", *PIXELS, ""]), ([LABELS, FLAT], ["label", *map(str, range(16))]),
    ([FLAT, LABELS], [*map(str, range(1, 17)), "label"]), ([FLAT, LABELS], [*"abcdefghijklmnop", "label"]),
    ([LABELS, FLAT], [*map(str, range(17))]), ([LABELS, FLAT], ["0", *(f"0.{i}" for i in range(1, 17))]),
    ([LABELS, FLAT, WORDS], ["label", *PIXELS, "filename"]), ([LABELS, FLAT], None),
    ([LABELS, FLAT, [""] * 60], None), ([LABELS, FLAT], ["label", *(f"{i}x{j}" for i in range(4) for j in range(4))])],
    ids=lambda value: None if isinstance(value, list) and len(value) < 4 else (value or ["none"])[0] or "empty")
@pytest.mark.parametrize("separator, end", [(",", "\n"), (";", "\r\n"), ("\t", "\n"), (",", "\r")])
def test_the_label_is_found_by_its_name(tmp_path, columns, header, separator, end):
    holds(read_csv(table(tmp_path / "some.csv", columns, header, separator, end)))


def test_the_label_may_be_text(tmp_path):
    holds(read_csv(table(tmp_path / "a.csv", [FLAT, WORDS], [*PIXELS, "label"])), WORDS)
    holds(read_csv(table(tmp_path / "b.csv", [WORDS, FLAT])), WORDS)
    holds(read_csv(table(tmp_path / "c.csv", [FLAT, [f'"{word}"' for word in WORDS]], [*PIXELS, "label"])), WORDS)
    quoted = read_csv(table(tmp_path / "d.csv", [FLAT, [f'"{word}, it is"' for word in WORDS]], [*PIXELS, "label"]))
    assert quoted[1][0] == "ant, it is"
    mixed = ["7", *WORDS[1:]]
    holds(read_csv(table(tmp_path / "e.csv", [FLAT, mixed[::-1]], [*PIXELS, "label"])), mixed[::-1])
    refused(lambda: read_csv(table(tmp_path / "f.csv", [FLAT, [*WORDS[:-1], ""]], [*PIXELS, "label"])),
            "line 61, has no label in column 17")
    data = load_dataset(tmp_path / "a.csv", data_dir=tmp_path / "data", report=pytest.fail)
    assert data.classes == tuple(NAMES) and data.notes[0] == "CSV, label in column 17 of 17, 'label'"


def test_quick_and_slow_parsing_agree(tmp_path):
    """Lines with an index above 999, a name, an empty column, and numbers that the quick parser does not read."""
    index, names = [5000 + i for i in range(60)], [f'"file {i}.png"' for i in range(60)]
    header = ["id", "name of file", *PIXELS, "label", "Path"]
    header[1] = "filename"
    decimal = [[f"{value}.0" for value in row] for row in FLAT]
    for pixels in FLAT, decimal:
        holds(read_csv(table(tmp_path / "some.csv", [index, names, pixels, LABELS, names], header)))
        holds(read_csv(table(tmp_path / "some.csv", [index, [name[1:-1] for name in names], pixels, WORDS, index],
                             header)), WORDS)


def test_a_label_between_the_pixels(tmp_path, monkeypatch):
    """Also where it is a name in the first line, and a number in a whole block of lines after that."""
    monkeypatch.setattr(csvfile, "BLOCK", 64)
    front, back = ([row[:9] for row in FLAT], [row[9:] for row in FLAT])
    header = [*PIXELS[:9], "label", *PIXELS[9:]]
    for labels in LABELS, WORDS, [*WORDS[:1], *map(str, LABELS[1:])]:
        holds(read_csv(table(tmp_path / "some.csv", [front, labels, back], header)), labels)


def test_a_comma_is_a_decimal_point_between_semicolons(tmp_path):
    halves = [[f"{value}".replace(".", ",") for value in row] for row in (IMAGES.reshape(60, 16) / 2).tolist()]
    images, labels = read_csv(table(tmp_path / "some.csv", [LABELS, halves], ["label", *PIXELS], ";"))
    assert np.array_equal(images, (IMAGES / 2).astype(np.float32)) and labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("column", ["label", "LABEL", "17", 17])
@pytest.mark.parametrize("header", [[*PIXELS, "label"], None])
def test_the_user_chooses_the_column(tmp_path, header, column):
    path = table(tmp_path / "some.csv", [FLAT, LABELS], header)
    if header or str(column) == "17":
        holds(read_csv(path, label_column=column))
    else:
        refused(lambda: read_csv(path, label_column=column), "no label column", "a number from 1 to 17")
    refused(lambda: read_csv(path, label_column=18), "no label column '18', expected a number from 1 to 17")


def test_a_column_that_is_chosen_before_others(tmp_path):
    path = table(tmp_path / "some.csv", [LABELS, LABELS[::-1], FLAT], ["label", "class", *PIXELS])
    refused(lambda: read_csv(path), "2 columns that can be the label, label, class: choose one (--label-column)")
    holds(read_csv(path, label_column="class"), LABELS[::-1])
    indexed = table(tmp_path / "indexed.csv", [INDEX, LABELS, FLAT])
    refused(lambda: read_csv(indexed), "18 columns, one more than a label and 16 pixels", "--label-column 2")
    holds(read_csv(indexed, label_column=2))
    named = table(tmp_path / "named.csv", [WORDS, WORDS[::-1], FLAT])
    refused(lambda: read_csv(named), "text in 2 columns, 1, 2", "--label-column")
    holds(read_csv(named, label_column=2), WORDS[::-1])


ZEROS = [[0, *row[1:]] for row in FLAT]
BRIGHT = [[255 - k % 40, *row[1:-1], k % 7] for k, row in enumerate(FLAT)]
BINARY = [[value // 128 for value in row] for row in FLAT]


@pytest.mark.parametrize("columns, header, words", [
    ([INDEX, FLAT], ["id", *PIXELS], ["no label: its columns are id, pixel0"]),
    ([FLAT], PIXELS, ["no label: its columns are pixel0", "--label-column"]),
    ([FLAT], None, ["has 16 columns: an image without a label, or a label and 15 pixels"]),
    ([FLAT, LABELS, LABELS], [*PIXELS, "mood", "age"], ["does not say which column is the label, mood, age"]),
    ([INDEX, LABELS], ["id", "label"], ["2 columns (id, label) and none of pixels"]),
    ([WORDS, LABELS], ["filename", "label"], ["none of pixels: expected images, not a list of them"]),
    ([LABELS, [" ".join(map(str, row)) for row in FLAT], WORDS], ["emotion", "pixels", "Usage"],
     ["the pixels of an image as text in column 2 ('pixels')"]),
    ([ZEROS, LABELS], None, ["which column is the label: the first has 1 different values, and the last 5",
                             "--label-column 1 or 17"]),
    ([BRIGHT, LABELS], None, ["which column is the label"]),
    ([BINARY, LABELS], None, ["which column is the label"]),
    ([BRIGHT, LABELS], [*map(str, range(17))], ["which column is the label"]),
    ([ZEROS, LABELS], [f"V{i}" for i in range(1, 18)], ["which column is the label"])])
def test_a_pixel_is_never_taken_for_the_label(tmp_path, columns, header, words):
    refused(lambda: read_csv(table(tmp_path / "some.csv", columns, header)), "some.csv", *words)


def test_a_row_number_is_never_taken_for_the_label(tmp_path):
    rows = random.integers(0, 256, (150, 16)).tolist()
    refused(lambda: read_csv(table(tmp_path / "some.csv", [list(range(150)), rows])),
            "another number in the first column of every line, as row numbers are")


def test_columns_that_are_no_pixels_are_left_out_and_said(tmp_path):
    said = []
    path = table(tmp_path / "some.csv", [LABELS, WORDS, FLAT], ["label", "lesion", *PIXELS])
    holds(read_csv(path, report=said.append))
    assert said == [f"{path}: left out the columns lesion"]


def test_without_labels(tmp_path):
    for columns, header in ([FLAT], PIXELS), ([INDEX, FLAT], ["id", *PIXELS]), ([FLAT], None):
        images, labels = read_csv(table(tmp_path / "some.csv", columns, header), (1, 4, 4), labelled=False)
        assert np.array_equal(images, IMAGES) and labels is None
    for columns, header in ([LABELS, FLAT], ["label", *PIXELS]), ([LABELS, FLAT], None):
        holds(read_csv(table(tmp_path / "some.csv", columns, header), (1, 4, 4), labelled=False))


def test_colours_side_by_side(tmp_path):
    colours = random.integers(0, 256, (30, 4, 4, 3))
    path = table(tmp_path / "some.csv", [LABELS[:30], colours.reshape(30, -1).tolist()],
                 ["label", *(f"pixel{i}" for i in range(48))])
    refused(lambda: read_csv(path), "48 pixels", "3x4x4 if they are channel by channel, and 4x4x3 if the colours")
    for options in {"image_shape": (4, 4, 3)}, {"image_shape": (3, 4, 4), "image_layout": "HWC"}:
        data = load_dataset(path, data_dir=tmp_path / "data", report=pytest.fail, **options)
        assert data.train_images.shape[1:] == (3, 4, 4)
        assert np.array_equal(data.train_images[0], colours[0].transpose(2, 0, 1))
    plain = load_dataset(path, data_dir=tmp_path / "data", image_shape=(3, 4, 4))
    assert np.array_equal(plain.train_images[0], colours[0].reshape(3, 4, 4))
    refused(lambda: load_dataset(path, image_layout="WHC"), "must be CHW or HWC, got 'WHC'")


# ---- labels --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("values, want", [
    (LABELS.astype(float), LABELS), (LABELS.astype(np.float16)[:, None], LABELS), (LABELS > 2, LABELS > 2),
    (np.eye(5)[LABELS], LABELS), (np.eye(5, dtype=bool)[LABELS], LABELS), (np.array(WORDS), WORDS),
    (np.array(WORDS, "S"), WORDS), (np.array(WORDS)[:, None], WORDS), (LABELS.astype(">u2"), LABELS)])
def test_labels_of_every_type(values, want):
    assert as_labels(values, "some").tolist() == list(want)


def test_a_name_that_is_no_text_is_refused():
    refused(lambda: as_labels(np.array([b"\xff"]), "some"), "some holds a name with characters that do not exist")
    refused(lambda: as_labels(np.full(1, 2**30, np.uint32).view("U1"), "some"), "characters that do not exist")


# ---- names of arrays -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, role", [
    ("x_train", ("train", "images")), ("X_train", ("train", "images")), ("trainX", ("train", "images")),
    ("y_valid", ("validation", "labels")), ("val_labels", ("validation", "labels")), ("images", ("", "images")),
    ("test_images", ("test", "images")), ("TestLabels", ("test", "labels")), ("X", ("", "images")),
    ("target", ("", "labels")), ("training_data", ("train", "images")), ("arr_0", ("", "images")),
    ("arr_1", ("", "labels")), ("arr_2", None), ("train", None), ("class_names", None), ("x_train_test", None),
    ("y_pred", None), ("x1", None)])
def test_the_role_of_an_array_is_in_its_name(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize("name, part", [
    ("mnist_train.csv", "train"), ("trainX.npy", "train"), ("t10k-images-idx3-ubyte.gz", "test"),
    ("VAL.npz", "validation"), ("trains.csv", None), ("train_test.csv", None), ("some.csv", None)])
def test_the_part_is_a_word_of_a_file_name(name, part):
    assert part_in(name) == part


def test_the_part_that_a_folder_holds():
    assert [part_of(name) for name in ("Training", "valid", "dev", "TEST", "cat")] == [
        "train", "validation", "validation", "test", None]


@pytest.mark.parametrize("names", [
    ("x_train", "y_train", "x_test", "y_test"), ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"), ("trainX", "trainY", "testX", "testY"),
    ("images_train", "labels_train", "images_test", "labels_test"),
    ("training_data", "training_targets", "testing_data", "testing_targets")])
def test_npz_files_under_the_names_that_others_write(tmp_path, names):
    arrays = IMAGES[:, 0], LABELS[:, None], IMAGES[:9, 0, :, :, None], LABELS[:9].astype(float)
    np.savez(tmp_path / "some.npz", class_names=NAMES, **dict(zip(names, arrays, strict=True)))
    parts = read_npz(tmp_path / "some.npz")
    assert list(parts) == ["train", "test"]
    holds(parts["train"])
    assert np.array_equal(parts["test"][0], IMAGES[:9]) and parts["test"][1].tolist() == LABELS[:9].tolist()


def test_an_npz_file_of_one_part_and_one_with_validation(tmp_path):
    for names in ("images", "labels"), ("X", "y"), ("data", "target"), ("arr_0", "arr_1"):
        np.savez(tmp_path / "some.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)))
        holds(read_npz(tmp_path / "some.npz")["train"])
    three = {f"{part}_{kind}": array for part in ("train", "val", "test")
             for kind, array in (("images", IMAGES), ("labels", LABELS[:, None]))}
    np.savez(tmp_path / "medmnist.npz", **three)
    data = load_dataset(tmp_path / "medmnist.npz", data_dir=tmp_path / "data", report=pytest.fail)
    assert np.array_equal(data.validation_images, IMAGES) and np.array_equal(data.validation_labels, LABELS)
    assert len(data.train_images) == len(data.test_images) == 60
    np.savez(tmp_path / "words.npz", x=IMAGES, y=WORDS)
    assert load_dataset(tmp_path / "words.npz", data_dir=tmp_path / "data").classes == tuple(NAMES)
    images, labels = read_npz(tmp_path / "words.npz", labelled=False)["train"]
    assert np.array_equal(images, IMAGES) and labels.tolist() == WORDS
    np.savez(tmp_path / "unlabelled.npz", x_test=IMAGES)
    assert read_npz(tmp_path / "unlabelled.npz", labelled=False)["test"][1] is None


# ---- two files -----------------------------------------------------------------------------------------------------
def test_two_npy_files(tmp_path):
    arrays = {"x": IMAGES[:, 0], "fortran": np.asfortranarray(IMAGES[:, 0]), "y": LABELS, "few": LABELS[:9]}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    for name in "x", "fortran":
        data = load_dataset([tmp_path / f"{name}.npy", tmp_path / "y.npy"], data_dir=tmp_path / "data",
                            report=pytest.fail)
        assert len(data.train_images) == 50 and np.array_equal(data.train_images[0], IMAGES[0])
    refused(lambda: load_dataset(tmp_path / "x.npy"), "x.npy holds images only: give the file of their labels after it")
    refused(lambda: load_dataset([tmp_path / "x.npy", tmp_path / "few.npy"]), "few.npy holds 9 labels, but", "60 imag")
    refused(lambda: load_dataset([tmp_path / "y.npy", tmp_path / "x.npy"]), "y.npy has the shape (60,)")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    refused(lambda: load_dataset([tmp_path / "objects.npy", tmp_path / "y.npy"]), "pickled objects, which are never")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    refused(lambda: load_dataset([tmp_path / "cut.npy", tmp_path / "y.npy"]), "promises 960 bytes", "has 959")


def test_two_data_sets_are_not_one(tmp_path):
    paths = [table(tmp_path / name, [LABELS, FLAT]) for name in ("a.csv", "b.csv")]
    refused(lambda: load_dataset(paths), "a.csv and", "two data sets of the format CSV", "(--test-data)")


def test_names_and_numbers_of_classes_are_the_same_classes(tmp_path):
    """A training part with names that are numbers, and a test part with numbers, and the other way round."""
    np.savez(tmp_path / "names.npz", x=IMAGES, y=[str(k + 3) for k in LABELS])
    np.savez(tmp_path / "numbers.npz", x=IMAGES, y=LABELS + 3)
    for train, test in ("names", "numbers"), ("numbers", "names"):
        data = load_dataset(tmp_path / f"{train}.npz", test_data=tmp_path / f"{test}.npz", data_dir=tmp_path / "data")
        assert [data.classes[k] for k in data.test_labels] == [str(k + 3) for k in LABELS]


def test_a_compressed_table_under_another_ending(tmp_path):
    path = table(tmp_path / "some.tsv", [FLAT, LABELS], [*PIXELS, "label"], "\t")
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    for name in path, f"{path}.gz":
        assert load_dataset(name, data_dir=tmp_path / "data", report=pytest.fail).train_images.shape == (50, 1, 4, 4)
