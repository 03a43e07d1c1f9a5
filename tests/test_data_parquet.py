"""Parquet files: encoded images and lists of numbers, classes with names, and what is refused."""
import io
import json
import sys

import numpy as np
import pytest

from cnn_numba.data import load_dataset, load_images
from cnn_numba.errors import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

random = np.random.default_rng(4)
LABELS = np.arange(24) % 3
IMAGES = random.integers(0, 256, (24, 1, 5, 4), np.uint8)
COLOURS = random.integers(0, 256, (24, 3, 5, 4), np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, columns, names=None):
    """A Parquet file; names : of the classes of the column "label", as the library `datasets` writes them."""
    table = pa.table(columns)
    if names:
        facts = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    pq.write_table(table, path)
    return path


def structures(images):
    return [{"bytes": png(image), "path": f"{k}.png"} for k, image in enumerate(images)]


def everything(path, **options):
    """The images and labels of all parts of a data set, in the order of the file."""
    part = load_images(path, **options)
    return part.images, [part.classes[label] for label in part.labels], part.classes


@pytest.mark.parametrize("images", [IMAGES, COLOURS])
def test_encoded_images_with_named_classes(tmp_path, images):
    path = write(tmp_path / "some.parquet", {"image": structures(images), "label": LABELS}, ["dog", "cat", "emu"])
    pixels, labels, classes = everything(path)
    assert np.array_equal(pixels, images) and pixels.dtype == np.uint8
    assert labels == [("dog", "cat", "emu")[k] for k in LABELS] and set(classes) == {"dog", "cat", "emu"}


@pytest.mark.parametrize("columns", [
    {"img": [png(image) for image in IMAGES], "id": np.arange(24), "class": [f"c{k}" for k in LABELS]},
    {"y": [f"c{k}" for k in LABELS], "x": IMAGES[:, 0].tolist()},
    {"pixels": IMAGES.reshape(24, -1).tolist(), "target": [f"c{k}" for k in LABELS]},
    {"data": IMAGES.astype(float).tolist(), "label": [f"c{k}" for k in LABELS]}])
def test_images_and_labels_under_other_names(tmp_path, columns):
    path = write(tmp_path / "some.parquet", columns)
    pixels, labels, _ = everything(path, image_shape=(1, 5, 4) if "pixels" in columns else None)
    assert np.array_equal(pixels, IMAGES) and labels == [f"c{k}" for k in LABELS]


def test_numbers_are_labels_and_a_column_can_be_chosen(tmp_path):
    path = write(tmp_path / "some.parquet", {"image": structures(IMAGES), "coarse": LABELS % 2, "fine": LABELS})
    with pytest.raises(InputError, match="has the columns image, coarse, fine, expected one of labels, .*label-column"):
        load_dataset(path)
    for column, labels in ("fine", LABELS), ("2", LABELS % 2):
        assert everything(path, label_column=column)[1] == [str(k) for k in labels]
    with pytest.raises(InputError, match="has no label column 'x', expected one of image, coarse, fine"):
        load_dataset(path, label_column="x")


def test_the_parts_of_a_folder_and_images_without_labels(tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", {"image": structures(IMAGES), "label": LABELS})
    write(tmp_path / "test-00000-of-00001.parquet", {"image": structures(IMAGES[:6]), "label": LABELS[:6]})
    data = load_dataset(tmp_path)
    assert np.array_equal(data.train_images, IMAGES) and np.array_equal(data.test_images, IMAGES[:6])
    assert np.array_equal(data.test_labels, LABELS[:6])
    path = write(tmp_path / "new.parquet", {"image": structures(IMAGES)})
    assert np.array_equal(load_images(path, labelled=False).images, IMAGES)


def test_encoded_images_are_resized_and_broken_ones_left_out_when_asked(tmp_path):
    images = structures(IMAGES)
    images[3], images[5] = {"bytes": b"nonsense", "path": "3.png"}, {"bytes": None, "path": "5.png"}
    path = write(tmp_path / "some.parquet", {"image": images, "label": LABELS})
    with pytest.raises(InputError, match=r"2 of 24 image files are broken: .*, row 4 cannot be read as an image .*"
                                         "row 6 holds no image: --skip-broken"):
        load_dataset(path)
    said = []
    part = load_images(path, skip_broken=True, report=said.append)
    assert np.array_equal(part.images, np.delete(IMAGES, (3, 5), 0))
    assert np.array_equal(part.labels, np.delete(LABELS, (3, 5))) and "left out 2 broken images of 24" in said[0]
    path = write(tmp_path / "other.parquet", {"image": structures(IMAGES), "label": LABELS})
    assert load_dataset(path, image_size=(8, 7)).train_images.shape[1:] == (1, 8, 7)
    assert everything(path, like=(3, 5, 4), report=said.append)[0].shape == (24, 3, 5, 4)
    assert "24 of 24 images were brought to 3x5x4" in said[1]


@pytest.mark.parametrize("columns, words", [
    ({"image": ["a", "b"], "label": [0, 1]}, "image holds string, expected the bytes of image files or numbers"),
    ({"image": [[1, 2], [1]], "label": [0, 1]}, "expected the bytes of image files or numbers, as many for each image"),
    ({"image": [[1.0], [float("nan")]], "label": [0, 1]}, "NaN"),
    ({"image": [[1], [2]], "label": [0, None]}, "label: the label of row 2 is missing"),
    ({"image": [[1], [2]], "label": [0.5, 1]}, "expected whole numbers"),
    ({"image": [[1], [2]], "label": [[1, 2], [1]]}, "label holds list<.*>, expected whole numbers or names"),
    ({"image": [[1], [2]], "label": pa.array([b"\xa0", b"a"]).view(pa.string())}, "holds text that is not UTF-8"),
    ({"image": [[1], [2]], "img": [[1], [2]], "label": [0, 1]}, "several columns that can be the images, image, img"),
    ({"image": [[1], [2]], "label": [0, 1], "y": [0, 1]}, "can be the labels, label, y: choose one"),
    ({"label": [0, 1]}, "expected one of images"),
    ({"image": pa.array([], pa.list_(pa.int64())), "label": pa.array([], pa.int64())}, "holds no images")])
def test_what_cannot_be_meant_is_refused(tmp_path, columns, words):
    with pytest.raises(InputError, match=words) as caught:
        load_dataset(write(tmp_path / "some.parquet", columns))
    assert "some.parquet" in str(caught.value)


def test_damaged_files_and_a_missing_library_are_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "some.parquet", {"image": structures(IMAGES), "label": LABELS})
    whole = path.read_bytes()
    for content in b"", whole[:40], whole[:-4], b"x" * 400, whole[:200] + b"\xff" * 60 + whole[260:]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^[^\n]*some\.parquet[^\n]*$"):
            load_dataset(path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pyarrow, which is missing: pip install pyarrow$"):
        load_dataset(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    rows = 1 << 17
    columns = {"image": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 1024, np.uint8)), 1024),
               "label": np.zeros(rows, np.uint8)}
    pq.write_table(pa.table(columns), tmp_path / "some.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(InputError, match="unpacks to .* bytes, more than 200 times its size"):
        load_dataset(tmp_path / "some.parquet")
