"""Parts of a data set, and what of it is left out, brought into another form, or looks wrong."""

import os

import numpy as np
import pytest

from cnn_numba.data import load_dataset
from cnn_numba.data.dataset import representative
from cnn_numba.data.files import load_part
from cnn_numba.data.fitting import count_flat, fitted, grey, in_range
from cnn_numba.errors import InputError

random = np.random.default_rng(7)
IMAGES = random.integers(0, 256, (40, 6, 6), np.uint8)
LABELS = np.arange(40) % 4
NAMES = "ant", "bee", "cat", "dog"


@pytest.fixture
def picture():
    """picture(path, array) writes an image file."""
    image = pytest.importorskip("PIL.Image")

    def picture(path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.asarray(pixels)).save(path)
        return path
    return picture


@pytest.fixture
def classes(picture):
    """classes(folder, count=...) writes a folder of image files for each of four classes."""
    def classes(folder, count=40, images=IMAGES):
        for k in range(count):
            picture(folder / NAMES[k % 4] / f"{k:03}.png", images[k])
        return folder
    return classes


@pytest.fixture
def load(tmp_path):
    """load(path, ...) gives the data set, and the sentences that were reported as `load.said`."""
    def load(path, **options):
        load.said = []
        return load_dataset(path, data_dir=tmp_path / "data", report=load.said.append, **options)
    return load


def refused(read, *words):
    with pytest.raises(InputError) as refusal:
        read()
    text = str(refusal.value)
    assert "\n" not in text and all(word in text for word in words), text


# ---- folders and files of parts ------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [
    ("train", "test"), ("training", "testing"), ("Train", "Test"), ("TRAINING", "TEST"), ("train", "val"),
    ("train", "valid"), ("train", "validation"), ("train", "dev"), ("train", "eval"), ("train", "val", "test")])
@pytest.mark.parametrize("wrapped", ["", "archive", "archive/images"])
def test_parts_in_folders_are_known_by_their_names(tmp_path, load, classes, names, wrapped):
    place = tmp_path / "set" / wrapped
    for name, count in zip(names, (40, 12, 8), strict=False):
        classes(place / name, count)
    data = load(tmp_path / "set")
    assert load.said == [] and data.classes == NAMES and data.name == "set"
    if names[1].lower().startswith("test"):
        assert (len(data.train_images), len(data.test_images), data.validation_images) == (40, 12, None)
    else:
        parts = 40, 8 if len(names) == 3 else 4
        if len(names) == 2:
            parts = 34, 6
        assert (len(data.train_images), len(data.test_images)) == parts and len(data.validation_images) == 12


def test_a_class_may_be_called_like_a_part(tmp_path, load, classes):
    for name in "train", "bus", "car":
        classes(tmp_path / "vehicles" / name)
    assert load(tmp_path / "vehicles").classes == ("bus", "car", "train")


def test_two_folders_of_one_part_are_refused(tmp_path, load, classes):
    for name in "train", "val", "valid":
        classes(tmp_path / "set" / name)
    refused(lambda: load(tmp_path / "set"), "both val and valid, which can be the validation part")


def test_parts_leave_other_folders_out_and_say_so(tmp_path, load, classes):
    for name in "train", "test", "notes", "__MACOSX":
        classes(tmp_path / "set" / name)
    assert load(tmp_path / "set").classes == NAMES
    assert load.said == [f"{tmp_path / 'set'}: left out 1 folder of an archive program (__MACOSX), "
                         "1 folder beside the parts (notes)"]


def write(path, images=IMAGES, labels=LABELS):
    match path.suffix:
        case ".npz":
            np.savez(path, x=images, y=labels)
        case ".npy":
            np.save(path, labels if path.stem.startswith("y") else images)
        case ".csv":
            rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], 1)
            path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows.tolist()))
        case _:
            array = labels.astype(np.uint8) if "label" in path.name else images
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


@pytest.mark.parametrize("train, test", [
    (["mnist_train.csv"], ["mnist_test.csv"]), (["train.npz"], ["testing.npz"]), (["x_train.npy", "y_train.npy"],
                                                                                 ["x_test.npy", "y_test.npy"]),
    (["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
    (["train-images.idx3-ubyte", "train-labels.idx1-ubyte"], ["t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"]),
    ([f"train-{kind}-ubyte/train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")],
     [f"t10k-{kind}-ubyte/t10k-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")])],
    ids=lambda names: names[0])
def test_parts_in_files_are_known_by_their_names(tmp_path, load, train, test):
    place = tmp_path / "set"
    place.mkdir()
    for name in train:
        write(place / name)
    assert len(load(place).train_images) == 34                                  # the only file
    for name in test:
        write(place / name, IMAGES[:9], LABELS[:9])
    data = load(place)
    assert load.said == [] and np.array_equal(data.train_images[:, 0], IMAGES) and len(data.test_images) == 9
    (place / "readme.md").write_text("some")
    load(place)
    assert load.said == [f"{place}: left out 1 file (readme.md)"]
    write(place / "old_train.csv")
    refused(lambda: load(place), "2 files that can be the train part", "old_train.csv", "give the path of one")


# ---- subsets -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("labels", [np.repeat(np.arange(10), 60), np.repeat([3, 1, 0, 2], (400, 50, 100, 50))])
@pytest.mark.parametrize("size", [20, 60, 150, 599])
def test_a_subset_of_a_sorted_file_has_all_classes(labels, size):
    chosen = representative(labels, size)
    found, expected = (np.bincount(each) for each in (labels[chosen], labels))
    assert len(labels[chosen]) == size and np.abs(found - expected * size / 600).max() <= 1
    assert np.array_equal(chosen, representative(labels, size)) and len(set(chosen.tolist())) == size


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("classes, size", [(10, 1), (10, 7), (10, 100), (2, 50), (100, 500), (10, 999)])
def test_a_subset_of_a_shuffled_file_is_its_beginning(seed, classes, size):
    labels = np.random.default_rng(seed).integers(0, classes, 1000)
    assert representative(labels, size) == slice(size)


def test_train_size_and_the_split_of_a_sorted_file(tmp_path, load):
    order = np.argsort(LABELS, kind="stable")
    write(tmp_path / "sorted.csv", IMAGES[order], LABELS[order])
    data = load(tmp_path / "sorted.csv", train_size=24)
    assert np.bincount(data.train_labels).tolist() == [6] * 4 and np.bincount(data.test_labels).tolist() == [1, 2, 2, 1]


# ---- what is measured ----------------------------------------------------------------------------------------------
def test_all_images_of_a_file_are_one_part(tmp_path, classes):
    write(tmp_path / "some.csv")
    np.savez(tmp_path / "test.npz", x_test=IMAGES[:5], y_test=LABELS[:5])
    for path, count, name in (tmp_path / "some.csv", 40, ""), (tmp_path / "test.npz", 5, "test"):
        part = load_part([path], tmp_path / "data", {}, like=(1, 6, 6), report=pytest.fail)
        assert (len(part.images), part.name) == (count, name)
    one = load_part([classes(tmp_path / "one", 1)], tmp_path / "data", {}, like=(1, 6, 6), report=pytest.fail)
    assert one.classes == ("ant",) and one.labels.tolist() == [0]
    for name, count in ("train", 34), ("test", 6):
        assert len(load_part([tmp_path / "some.csv"], tmp_path / "data", {}, part=name).images) == count
    refused(lambda: load_part([tmp_path / "test.npz"], tmp_path, {}, part="train"), "has no train part, only test")


def test_images_without_labels_are_a_part_too(tmp_path):
    np.save(tmp_path / "some.npy", IMAGES)
    part = load_part([tmp_path / "some.npy"], tmp_path / "data", {}, labelled=False)
    assert np.array_equal(part.images[:, 0], IMAGES) and part.labels is None
    refused(lambda: load_part([tmp_path / "some.npy"], tmp_path, {}, labelled=False, part="test"), "has no labels")


# ---- another form --------------------------------------------------------------------------------------------------
def test_images_get_channels_and_size_as_image_files_do(picture, tmp_path):
    from cnn_numba.data.image import read_image

    colour = random.integers(0, 256, (9, 7, 3), np.uint8)
    path = picture(tmp_path / "some.png", colour)
    said = []
    for shape in (1, 9, 7), (3, 5, 4), (1, 5, 4), (1, 20, 20):
        got = fitted(np.ascontiguousarray(colour.transpose(2, 0, 1))[None], shape, "some", said.append)[0]
        assert np.array_equal(got, read_image(path, shape[0], shape[1:])), shape
    assert said[0] == "some holds images of 3x9x7: they were brought to 1x9x7" and len(said) == 4
    assert np.array_equal(fitted(IMAGES[:, None], (3, 6, 6), "some", said.append), np.stack([IMAGES] * 3, 1))
    refused(lambda: fitted(np.zeros((1, 4, 6, 6)), (3, 6, 6), "some", said.append), "4 channels cannot become 3")
    floats = (random.random((2, 3, 6, 6)) * 9).astype(np.float32)
    np.testing.assert_allclose(grey(floats)[:, 0], floats.transpose(0, 2, 3, 1) @ [0.299, 0.587, 0.114], rtol=1e-4)


def test_a_part_of_another_size_is_brought_to_that_of_the_training(tmp_path, load):
    pytest.importorskip("PIL")
    write(tmp_path / "train.csv")
    write(tmp_path / "test.csv", IMAGES[:, :4, :4])
    data = load(tmp_path / "train.csv", test_data=tmp_path / "test.csv")
    assert data.test_images.shape == (40, 1, 6, 6)
    assert load.said == [f"{tmp_path / 'test.csv'} (test part) holds images of 1x4x4: they were brought to 1x6x6"]


WIDE, UNIT = IMAGES[:, None], (IMAGES[:, None] / 255).astype(np.float32)


@pytest.mark.parametrize("images, training, words, result", [
    (WIDE, WIDE, "", WIDE), (UNIT, UNIT, "", UNIT), (WIDE // 5, WIDE, "", WIDE // 5),
    (UNIT, WIDE, "multiplied by 255", WIDE.astype(np.float32)), (WIDE, UNIT, "divided by 255", UNIT),
    (WIDE // 16, WIDE, "gives wrong answers", WIDE // 16), (WIDE, WIDE // 16, "gives wrong answers", WIDE),
    (WIDE * np.float32(257), WIDE, "gives wrong answers", WIDE * np.float32(257)), (WIDE * 0, WIDE, "", WIDE * 0)],
    ids=["same", "same, 0 to 1", "darker", "0 to 1", "0 to 255", "0 to 16", "16 to 255", "16 bits", "black"])
def test_the_range_of_pixels_is_held_against_that_of_the_training(images, training, words, result):
    said = []
    got = in_range(images, training.mean(axis=(0, 2, 3)), training.std(axis=(0, 2, 3)), "some", said.append)
    np.testing.assert_allclose(got, result, rtol=1e-6)
    assert len(said) == bool(words) and all(words in sentence and "pixels of some" in sentence for sentence in said)


def test_a_range_that_a_model_does_not_know_is_not_judged():
    said = []
    for mean, std in ((0, 1), (0, 255)):
        in_range(WIDE // 20, np.full(1, mean, np.float32), np.full(1, std, np.float32), "some", said.append)
    assert said == []
    in_range(UNIT, np.zeros(1, np.float32), np.full(1, 255, np.float32), "some", said.append)
    assert len(said) == 1 and "multiplied by 255" in said[0]


def test_parts_of_different_ranges(tmp_path, load):
    np.savez(tmp_path / "some.npz", x_train=IMAGES, y_train=LABELS, x_test=UNIT[:9], y_test=LABELS[:9])
    data = load(tmp_path / "some.npz")
    np.testing.assert_allclose(data.test_images, IMAGES[:9, None], rtol=1e-6)
    assert len(load.said) == 1 and "(test part)" in load.said[0] and "multiplied by 255" in load.said[0]


def test_images_of_one_colour_are_counted(tmp_path, load):
    images = IMAGES.copy()
    images[3], images[5], images[6, 0, 0], images[7] = 0, 255, 255, 100
    images[7, 0, 0] = 101
    assert count_flat(images[:, None]) == 3 and count_flat(images[:, None] / 255) == 3 and count_flat(images[:0]) == 0
    np.savez(tmp_path / "some.npz", x_train=images, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    load(tmp_path / "some.npz")
    assert load.said == [f"{tmp_path / 'some.npz'} (train part): 3 of 40 images are of one colour"]


# ---- what is left out ----------------------------------------------------------------------------------------------
def test_what_a_folder_holds_besides_images_is_said(tmp_path, load, classes, picture):
    place = classes(tmp_path / "set")
    (place / "ant" / "a.heic").write_bytes(b"some")
    (place / "bee" / "b.svg").write_bytes(b"some")
    (place / "cat" / "empty.png").write_bytes(b"")
    (place / "dog" / "dead.png").symlink_to(place / "nowhere.png")
    (place / "dog" / "linked").symlink_to(place / "ant", target_is_directory=True)
    (place / "Thumbs.db").write_bytes(b"some")
    (place / "emu").mkdir()
    picture(place / "fox" / "1.png", IMAGES[0])
    picture(place / "__MACOSX" / "ant" / "1.png", IMAGES[0])
    picture(place / "ant" / ".hidden" / "1.png", IMAGES[0])
    picture(place / "top.png", IMAGES[0])
    data = load(place)
    assert data.classes == (*NAMES, "fox") and len(data.train_images) + len(data.test_images) == 41
    assert len(load.said) == 2 and load.said[1] == f"{place}: 1 class has a single image (fox)"
    for words in ("2 files with other endings than images (ant/a.heic, bee/b.svg)", "1 empty file (cat/empty.png)",
                  "1 dead link (dog/dead.png)", "1 linked folder (dog/linked)", "1 class without images (emu)",
                  "1 folder of an archive program (__MACOSX)", "1 file beside the class folders (top.png)"):
        assert words in load.said[0], words
    assert "Thumbs" not in load.said[0]


def test_broken_files_are_listed_at_once_and_left_out_when_asked(tmp_path, load, classes):
    place = classes(tmp_path / "set")
    for name in "ant/000", "bee/005", "dog/007":
        path = place / f"{name}.png"
        path.write_bytes(path.read_bytes()[:50])
    refused(lambda: load(place), "3 of 40 image files are broken", "000.png cannot be read", "005.png", "007.png",
            "--skip-broken leaves them out")
    data = load(place, skip_broken=True)
    assert len(data.train_images) + len(data.test_images) == 37
    assert len(load.said) == 1 and "left out 3 broken image files of 40" in load.said[0] and "005.png" in load.said[0]
    for path in place.glob("*/*.png"):
        path.write_bytes(b"some")
    refused(lambda: load(place, skip_broken=True), "40 of 40 image files are broken", " more")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, load, classes):
    place = classes(tmp_path / "set")
    (place / "bee").chmod(0)
    if os.access(place / "bee", os.R_OK):
        pytest.skip("this user reads everything")
    refused(lambda: load(place), "bee cannot be read")
