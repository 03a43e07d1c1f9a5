"""What the summary counts, and how it is printed."""
import json
import re

import pytest

import cnn_numba as nn
from cnn_numba import InputError
from cnn_numba.commands import main as cli
from cnn_numba.commands.summary import bytes_text, report
from cnn_numba.inspection.summary import layer_summaries, multiply_adds
from cnn_numba.presets import PRESETS

MNIST = 1, 28, 28


def summary(*flags):
    return cli.main(["summary", *map(str, flags)])


def lines_of(layers, shape):
    return "\n".join(map(str, report(layers, shape))).splitlines()


def cells(line):
    return re.split(" {2,}", line.strip())


# ---- what is counted -----------------------------------------------------------------------------------------
def test_multiply_adds_of_lenet():
    forward, training = multiply_adds(PRESETS["lenet5"](MNIST, 10).layers, MNIST)
    assert forward == 6 * 25 * 28 * 28 + 16 * 6 * 25 * 10 * 10 + 400 * 120 + 120 * 84 + 84 * 10
    assert training == 3 * forward - 6 * 25 * 28 * 28


def test_multiply_adds_of_a_resnet_count_both_branches():
    layers, shape = PRESETS["resnet8"]((3, 32, 32), 10).layers, (3, 32, 32)
    images = 32 * 32
    convolutions = images * 9 * (3 * 16 + 2 * 16 * 16) + images // 4 * (9 * (16 * 32 + 32 * 32) + 16 * 32) \
        + images // 16 * (9 * (32 * 64 + 64 * 64) + 32 * 64)
    normalised = 3 * 16 * images + 3 * 32 * images // 4 + 3 * 64 * images // 16
    assert multiply_adds(layers, shape)[0] == convolutions + normalised + 64 * 10
    rows = {row.name: row for row in layer_summaries(layers, shape)}
    assert len(rows) == len(layer_summaries(layers, shape)) and rows["5.shortcut.0"].after == (32, 16, 16)
    assert sum(row.parameters for row in rows.values()) == 78_042


def test_the_gradient_of_the_images_is_not_computed():
    def conv(channels):
        return nn.Conv2d(2, channels, 3, groups=2, bias=False)

    first, beside = 2 * 9 * 16, 36 * 16             # of 6x6 images, 4x4 windows
    block = nn.Residual([nn.ReLU(), nn.Conv2d(2, 2, 3, groups=2)], [conv(2)])
    assert multiply_adds([block], (2, 6, 6)) == (2 * first, 4 * first)
    layers = [nn.ReLU(), conv(2), nn.Flatten(), nn.Linear(32, 18, bias=False)]
    assert multiply_adds(layers, (2, 6, 6)) == (first + beside, 2 * first + 3 * beside)
    assert multiply_adds([nn.Flatten(), nn.ReLU()], (2, 6, 6)) == (0, 0)


# ---- how it is printed ---------------------------------------------------------------------------------------
def test_every_layer_has_a_line():
    lines = lines_of(PRESETS["lenet5"](MNIST, 10).layers, MNIST)
    assert cells(lines[0]) == ["layer", "output", "parameters", "multiply-adds", "output bytes"]
    body = [cells(line) for line in lines[2:14]]
    assert body[0] == ["0", "Conv2d 5x5", "6x28x28", "156", "117,600", "18,816"]
    assert body[2] == ["2", "MaxPool2d 2x2", "6x14x14", "-", "-", "4,704"]
    assert body[6] == ["6", "Flatten", "400", "-", "-", "-"]
    assert body[11] == ["11", "Linear", "10", "850", "840", "40"]
    assert cells(lines[15]) == ["total", "61,706", "416,520", "58,408"]
    assert lines[17:] == [
        "Parameters: 61,706, 247 kB as float32",
        "Outputs of all layers: 14,602 numbers for one image, 58.4 kB as float32",
        "Multiply-adds of one image: 416,520 in the forward pass, 1,131,960 in a training step"]


@pytest.mark.parametrize("count, text", [
    (0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (58_408, "58.4 kB"), (10**6, "1 MB"),
    (25 * 10**11, "2.5e+03 GB")])
def test_bytes_have_three_digits(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_is_aligned_and_its_columns_add_up(name):
    lines = lines_of(PRESETS[name](MNIST, 10).layers, MNIST)
    rows = lines[:lines.index("")]
    assert len({len(line) for line in rows}) == 1
    ends = [match.end() for match in re.finditer("-+", rows[1])][2:]
    for line in rows:
        assert all(end == len(line) or line[end] in " " and line[end - 1] != " "
                   for end in ends if line[:end].strip() and not cells(line)[0] == "total")
    columns = list(zip(*(cells(line)[-3:] for line in rows[2:-2]), strict=True))
    sums = [sum(int(cell.replace(",", "").replace("-", "0")) for cell in column) for column in columns]
    assert [f"{n:,}" for n in sums] == cells(rows[-1])[-3:]


def test_layers_inside_of_others_are_indented():
    inner = nn.Residual([nn.Conv2d(4, 4, (1, 3), padding=(0, 1))])
    block = nn.Residual([nn.Conv2d(1, 4, 3, stride=2, padding=1), inner], [nn.Conv2d(1, 4, 1, 2)])
    names = [re.match(r" *\S+ +\S+(?: \S+)*", line)[0] for line in lines_of([block], (1, 8, 8))[2:7]]
    assert names == ["0             Residual", "  body.0      Conv2d 3x3 / 2x2", "  body.1      Residual",
                     "    body.0    Conv2d 1x3", "  shortcut.0  Conv2d 1x1 / 2x2"]


def test_layers_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="layer 1: body: layer 0: Conv2d expects 3 channels"):
        lines_of([nn.ReLU(), nn.Residual(nn.Conv2d(3, 3, 1))], MNIST)


# ---- the command ---------------------------------------------------------------------------------------------
def test_a_preset_with_its_defaults(capsys):
    assert summary() == 0
    out = capsys.readouterr().out
    assert out.startswith("two-conv for images of 1x28x28 and 10 classes\n\n") and "9,098" in out
    assert summary("--model", "resnet8", "--image-shape", "3x32x32", "--classes", 100) == 0
    out = capsys.readouterr().out
    assert "resnet8 for images of 3x32x32 and 100 classes\n" in out and f"{78_042 + 90 * 65:,}" in out


def test_a_json_file(tmp_path, capsys):
    path = tmp_path / "net.json"
    path.write_text(json.dumps([{"type": "fc", "params": {"units": 20}}, {"type": "relu"}, {"type": "fc"}]))
    assert summary("--model", path, "--classes", 3) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path} for images of 1x28x28 and 3 classes\n") and f"{785 * 20 + 21 * 3:,}" in out


@pytest.fixture
def saved(tmp_path):
    """Model files with and without a known input shape."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    model.save(tmp_path / "known.npz", input_shape=(2, 6, 6))
    model.save(tmp_path / "unknown.npz")
    return tmp_path


@pytest.mark.parametrize("flags", [
    ("--load", "known.npz"), ("--model", "known.npz"), ("--load", "known.npz", "--classes", 5),
    ("--load", "unknown.npz", "--image-shape", "2x6x6")])
def test_a_saved_model(saved, monkeypatch, capsys, flags):
    monkeypatch.chdir(saved)
    assert summary(*flags) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{flags[1]} for images of 2x6x6 and 5 classes\n") and f"{4 * 19 + 65 * 5:,}" in out


@pytest.mark.parametrize("flags, sentence", [
    (["--model", "vgg"], "argument --model: expected one of two-conv, .* a .json file, or a trained model, got"),
    (["--model", "nowhere.json"], "argument --model: nowhere.json does not exist"),
    (["--load", "nowhere.npz"], "argument --load: nowhere.npz does not exist"),
    (["--load", "known.npz", "--model", "lenet5"], "not allowed with"),
    (["--load", "known.npz", "--classes", "6"], "argument --classes: known.npz has 5 outputs, got 6"),
    (["--load", "known.npz", "--image-shape", "1x6x6"], "known.npz: layer 0: Conv2d expects 2 channels, got 1"),
    (["--load", "unknown.npz"], "unknown.npz: layer 0: Conv2d expects 2 channels, got 1"),
    (["--load", "images.npz"], "images.npz: .* one number for each class"),
    (["--model", "lenet5", "--image-shape", "1x8x8"], "Conv2d"), (["--classes", "0"], "argument --classes: expected"),
])
def test_one_sentence_from_the_command(saved, monkeypatch, capsys, flags, sentence):
    monkeypatch.chdir(saved)
    nn.Sequential(nn.Conv2d(2, 4, 3)).save("images.npz")
    if "images.npz" in flags:
        flags = [*flags, "--image-shape", "2x6x6"]
    assert summary(*flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: [^\n]+\n", err) and re.search(sentence, err), err
