"""Factors rounded to bf16: every direction against the loops of `reference`, on each unit that this CPU has, on AMX as
NumPy emulates it, and interpreted with NUMBA_DISABLE_JIT=1.

Small whole numbers are bf16 numbers, and exact.  On normal numbers, "medium" is the reference of rounded factors up to
float32's rounding (see `comparing`), and "high" that of the numbers themselves up to SPLIT of the sum of products.
"""
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reference
from both_ways import rounded_training
from comparing import ROUNDING, by_plan, check, named, rejected, same
from networks import build_normal, conv, flatten, linear, make, relu, residual

import cnn_numba
from cnn_numba import InputError, execution, get_float32_matmul_precision, set_execution, set_float32_matmul_precision
from cnn_numba.commands.main import main
from cnn_numba.few_images import FewImages
from cnn_numba.kernels import compiled, conv_bf16, driver, matrix
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.lanes import LANES, aligned
from cnn_numba.kernels.matrix import Bf16, Tiles, units
from cnn_numba.kernels.program import Call, Program, in_order
from cnn_numba.layers.bf16 import suits

ROOT = Path(__file__).resolve().parents[1]
SPLIT = 2.0**-15                # of a product of two factors of 16 bits, each rounded to 2**-17, without low x low
UNITS = [unit for unit in matrix.UNITS if matrix.usable(unit)]
PARTS = {"medium": 1, "high": 2}

# Tiles of sums are 2 x 2, 2 x 1 for a single column, 4 x 1 for 64 filters and more; every size leaves a rest somewhere.
LAYERS = named(
    ("3x3", conv(16, 16, 3, padding=1), (16, 5, 6), 3),
    ("odd everything", conv(17, 19, (3, 2), padding=(1, 0)), (17, 4, 5), 17),
    ("more than one chunk of channels", conv(35, 37, 2), (35, 3, 4), 3),
    ("pointwise", conv(18, 20, 1), (18, 3, 3), 3),
    ("pointwise, one group of channels, one column", conv(16, 18, 1), (16, 3, 1), 3),
    ("stride and dilation", conv(16, 18, (2, 3), stride=2, padding=2, dilation=(1, 3)), (16, 6, 9), 17),
    ("stride larger than the kernel", conv(17, 16, 2, stride=3), (17, 6, 8), 3),
    ("stride larger than the image", conv(16, 16, 2, stride=(4, 5), padding=1), (16, 3, 3), 3),
    ("no bias, even window, same", conv(16, 17, (2, 4), padding="same", bias=False), (16, 4, 7), 3),
    ("one column, 4 x 1 tiles", conv(16, 70, (3, 1), padding=(1, 0)), (16, 4, 1), 3),
    ("dense", linear(40, 17), (40,), 17),
    ("dense, three blocks", linear(33, 70), (33,), 33),
    ("dense, few features", linear(16, 16, bias=False), (16,), 3),
)


@pytest.fixture(params=PARTS)
def precision(request):
    set_float32_matmul_precision(request.param)
    yield request.param
    set_float32_matmul_precision("highest")


@pytest.fixture(params=UNITS)
def unit(request, monkeypatch):
    monkeypatch.setenv(execution.UNIT, request.param)
    return request.param


# ---- every direction ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer, shape, images", LAYERS)
def test_whole_numbers_are_exact(layer, shape, images, precision, unit):
    name, args, options = layer
    assert suits(execution.bf16(), *args[:2]) and execution.bf16() == Bf16(unit, PARTS[precision])
    check(layer, shape, images)


def bf16(x):
    """float64 numbers rounded to 8 bits, ties to even."""
    fraction, exponent = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.rint(fraction * 2**8) / 2**8, exponent)


def directions(layer, values, x, dy):
    """{what: (result, sum of the absolute values of its products, number of them)} of the reference in float64."""
    name, _, options = layer
    weight, bias = values["weight"], values.get("bias", np.zeros(len(values["weight"])))
    if name == "Linear":
        both_ways, gradients, options = reference.linear, reference.linear_gradients, {}
    else:
        both_ways, gradients = reference.conv2d, reference.conv2d_gradients
        options = {key: value for key, value in options.items() if key != "bias"}
    y, products = both_ways(x, weight, bias, **options), both_ways(abs(x), abs(weight), abs(bias), **options)
    wanted, sums = gradients(dy, x, weight, **options), gradients(abs(dy), abs(x), abs(weight), **options)
    return {"y": (y, products, weight[0].size), "dx": (wanted[0], sums[0], weight[:, 0].size),
            "weight": (wanted[1], sums[1], dy[:, 0].size)}


@pytest.mark.parametrize("layer, shape, images", named(
    ("conv", conv(18, 20, 3, stride=2, padding=1), (18, 7, 9), 17), ("dense", linear(70, 21), (70,), 17)))
def test_factors_round_and_sums_do_not(layer, shape, images, precision, unit):
    rng = np.random.default_rng(2)
    model = build_normal([layer], rng)
    values = {p.name.removeprefix("0."): p.value.astype(np.float64) for p in model.parameters()}
    x = rng.normal(size=(images, *shape)).astype(np.float32)
    y = model(x)
    dy = rng.normal(size=y.shape).astype(np.float32)
    got = {"dx": model.backward(dy), "y": y, "weight": next(iter(model.parameters())).grad}
    exact = directions(layer, values, x.astype(np.float64), dy.astype(np.float64))
    rounded = directions(layer, values | {"weight": bf16(values["weight"])}, bf16(x), bf16(dy))
    for what, value in got.items():
        (want, products, n), (other, *_) = (exact, rounded) if precision == "high" else (rounded, exact)
        want, products, n = (exact if precision == "high" else rounded)[what]
        other = (rounded if precision == "high" else exact)[what][0]
        bound = (4 * np.sqrt(n + 2) * ROUNDING + SPLIT * (precision == "high")) * products
        same(value, want, what, bound)
        rejected(value, other, bound)
        rejected(value, 1.001 * want, bound)


def test_results_do_not_depend_on_the_number_of_threads(precision, unit):
    if not JIT:
        pytest.skip("interpreted kernels run in one thread")
    results = []
    for threads in {1, 2, driver.max_threads()}:
        set_execution("parallel", threads=threads)
        results.append(rounded_training(precision, unit))
    assert all(np.array_equal(results[0][name], other[name]) for other in results[1:] for name in other)


@pytest.fixture
def native():
    if matrix.DOT not in UNITS:
        pytest.skip(f"this process cannot use {matrix.UNITS[matrix.DOT]}")


@pytest.mark.parametrize("images", (1, 3, 8))
def test_few_images_per_step_are_exact(images, precision, unit):
    """They run in strips, and their layer would run by products along both axes in float32."""
    check(conv(16, 17, 3, padding=1), (16, 8, 5), images,
          partial(by_plan, bf16=Bf16(unit, PARTS[precision])))


def test_vdpbf16ps_gives_the_same_bits_as_float32_instructions(precision, native):
    got, want = (rounded_training(precision, unit) for unit in (matrix.DOT, matrix.PLAIN))
    assert got.keys() == want.keys() and all(np.array_equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("shape, images", (((16, 5, 7), 17), ((35, 3, 1), 3)))
def test_vdpbf16ps_gives_the_same_bits_for_special_numbers(shape, images, native, monkeypatch):
    """Zeros of both signs, infinity, NaN, and sums that overflow.  Nothing is so small that it would be flushed."""
    rng = np.random.default_rng(6)
    x, dy = (rng.normal(size=(images, channels, *shape[1:])).astype(np.float32) for channels in (shape[0], 34))
    for number, share in (-0.0, 0.3), (3e38, 0.005), (-3e38, 0.005), (1e-18, 0.1):
        for array in x, dy:
            array[rng.random(array.shape) < share] = number
    results = []
    for unit in matrix.DOT, matrix.PLAIN:
        monkeypatch.setenv(execution.UNIT, unit)
        set_float32_matmul_precision("medium")
        try:
            model = build_normal([conv(shape[0], 34, 3, padding=1)], np.random.default_rng(0))
            weight = next(iter(model.parameters()))
            weight.value[3, 2, 1, 1], weight.value[5, 7, 1, 1], weight.value[:, 0] = np.inf, np.nan, -0.0
            y = np.array(model(x))
            results.append({"y": y, "dx": np.array(model.backward(dy)), "weight": np.array(weight.grad)})
        finally:
            set_float32_matmul_precision("highest")
    for name, want in results[1].items():
        got, nan = results[0][name], np.isnan(want)
        assert np.array_equal(np.isnan(got), nan), name
        assert np.array_equal(got[~nan].view(np.uint32), want[~nan].view(np.uint32)), name
    y, dx = results[1]["y"], results[1]["dx"]
    assert all(np.isnan(array).any() and np.isinf(array).any() and np.isfinite(array).any() for array in (y, dx))


def test_vdpbf16ps_flushes_tiny_factors_and_sums(native, monkeypatch):
    monkeypatch.setenv(execution.UNIT, matrix.DOT)
    set_float32_matmul_precision("medium")
    try:
        model = build_normal([linear(16, 16)], np.random.default_rng(0))
        weight, bias = (parameter.value for parameter in model.parameters())
        weight[...], bias[...] = 2.0**100, 2.0**-127
        weight[0], bias[0] = 2.0**100, 0
        x = np.full((2, 16), 2.0**-127, np.float32)
        assert not np.any(model(x))
        assert np.all(np.asarray(model(2 * x)) == 2.0**-22)
    finally:
        set_float32_matmul_precision("highest")


def test_interpreted_gives_the_same_bits_as_float32_instructions(interpreted):
    want = interpreted("rounded_training")
    got = rounded_training()
    assert got.keys() == want.keys() and all(np.array_equal(got[name], want[name]) for name in want)
    other = rounded_training("high")
    assert any(not np.array_equal(got[name], other[name]) for name in got)


# ---- rounding -------------------------------------------------------------------------------------------------------
SPECIAL = np.array([0x00000000, 0x80000000, 0x3F800000, 0x3F808000, 0x3F808001, 0x3F818000, 0x3F807FFF, 0xBF808001,
                    0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x00000001, 0x00018000],
                   np.uint32)
ROUNDED = [0x0000, 0x8000, 0x3F80, 0x3F80, 0x3F81, 0x3F82, 0x3F80, 0xBF81, 0x7F80, 0x7F80, 0xFF80, 0x7FC0, 0x7FC0,
           0xFFFF, 0x0000, 0x0002]
LEFT = [0x00000000, 0x00000000, 0x00000000, 0x3B800000, 0xBB7FFE00, 0xBB800000]      # of the first numbers


def test_numbers_round_to_the_nearest_and_nan_stays_nan():
    """Ties go to the even neighbour; what is left of a number is exact, and 0 for infinity and NaN."""
    x = aligned((1, 2, 1, 1, LANES))
    x.view(np.uint32)[0, :, 0, 0] = SPECIAL, SPECIAL[::-1]
    v = aligned((1, 1, 1, 2, LANES), np.uint32)
    Program(in_order([Call(conv_bf16.bf16_pixels, 1, v=v, x=x, parts=2)]))()
    assert (v[0, 0, 0, 0] & 0xFFFF).tolist() == ROUNDED and (v[0, 0, 0, 0] >> 16).tolist() == ROUNDED[::-1]
    left = (v[0, 0, 0, 1] & 0xFFFF).tolist()
    assert left[:6] == [bits + 0x8000 >> 16 for bits in LEFT] and left[8:14] == [0] * 6
    u = np.zeros((1, 1, 1, 2), np.uint32)
    weight = aligned((1, 2, 1, 1))
    for first, second, low, high in zip(SPECIAL, SPECIAL[::-1], ROUNDED, ROUNDED[::-1], strict=True):
        weight.view(np.uint32)[0, :, 0, 0] = first, second
        Program(in_order([Call(conv_bf16.bf16_weights, 1, u=u, weight=weight, parts=2)]))()
        assert u[0, 0, 0, 0] == low | high << 16


@pytest.mark.parametrize("number", (np.nan, np.inf))
def test_nan_and_infinity_stay_visible(number, precision, unit):
    model = build_normal([conv(16, 16, 3, padding=1)], np.random.default_rng(0))
    weight = next(iter(model.parameters())).value
    weight[3, 2, 1, 1] = number
    y = np.asarray(model(np.ones((2, 16, 3, 4), np.float32)))
    infinite = np.isinf(number) and precision == "medium"       # in two parts, one of which is 0, it becomes NaN
    assert (np.isinf if infinite else np.isnan)(y[:, 3]).all() and np.isfinite(y[:, :3]).all()


# ---- in a training --------------------------------------------------------------------------------------------------
def data_set(train=64, classes=4):
    rng = np.random.default_rng(5)
    return cnn_numba.Dataset("made up", rng.normal(size=(train, 16, 6, 6)).astype(np.float32),
                             rng.integers(0, classes, train), rng.normal(size=(20, 16, 6, 6)).astype(np.float32),
                             rng.integers(0, classes, 20), classes)


def trained(precision=None, epochs=2):
    model = cnn_numba.Sequential(cnn_numba.Conv2d(16, 16, 3), cnn_numba.ReLU(), cnn_numba.Flatten(),
                                 cnn_numba.Linear(256, 4), seed=1)
    trainer = cnn_numba.Trainer(model, data_set(), cnn_numba.SGD(model, lr=0.05), 16, precision=precision)
    return trainer, trainer.fit(epochs)["loss"]


def test_a_trainer_keeps_its_precision(precision, unit):
    """That in use when it was made, or the one it was given; copies have it, too."""
    import copy

    trainer, losses = trained()
    assert trainer.precision == precision and copy.deepcopy(trainer).precision == precision
    set_float32_matmul_precision("highest")
    exact = trained()[1]
    assert exact != losses == trained(precision)[1]
    assert losses == pytest.approx(exact, rel=0.02 if precision == "medium" else 1e-4)
    with pytest.raises(InputError, match="Trainer: expected 'highest', 'high' or 'medium', got 'low'"):
        trained("low")


def test_a_checkpoint_is_resumed_with_its_precision_only(precision, unit, tmp_path):
    trainer, _ = trained()
    trainer.fit(3, cnn_numba.Checkpoint(tmp_path))
    other, _ = trained("highest", 0)
    with pytest.raises(InputError, match=f"the training had precision '{precision}', not highest"):
        cnn_numba.Checkpoint(tmp_path).resume(other)
    again, _ = trained(precision, 0)
    cnn_numba.Checkpoint(tmp_path).resume(again)
    assert again.fit(4)["loss"] == trained(precision, 4)[1]


def test_the_command_line(tmp_path, monkeypatch, capsys):
    """The training says its precision, its model remembers it, and a resume cannot change it."""
    monkeypatch.setenv(execution.UNIT, UNITS[-1])
    model = str(tmp_path / "model.npz")

    def run(*words):
        code = main([*words, "--serial"])
        set_float32_matmul_precision("highest")
        return code, *capsys.readouterr()
    network = tmp_path / "network.json"
    network.write_text(json.dumps({"layers": [
        {"type": "Conv2d", "params": {"in_channels": 1, "out_channels": 16, "kernel_size": 3}}, {"type": "ReLU"},
        {"type": "Conv2d", "params": {"in_channels": 16, "out_channels": 16, "kernel_size": 3}}, {"type": "Flatten"},
        {"type": "Linear", "params": {"in_features": 256, "out_features": 10}}]}))
    small = ("--dataset", "digits", "--train-size", "64", "--test-size", "40", "--model", str(network))
    code, out, _ = run("train", *small, "--epochs", "1", "--precision", "medium", "--save", model, "--run",
                       str(tmp_path / "run"))
    named_unit = f"medium precision by {matrix.UNITS[UNITS[-1]]}"
    assert code == 0 and named_unit in out
    accuracy = out.partition("Test accuracy: ")[2].split()[0]
    assert cnn_numba.load(model).recipe["precision"] == "medium"
    for words in (), ("--precision", "medium"):
        code, out, _ = run("evaluate", "--load", model, "--dataset", "digits", "--test-size", "40", *words)
        assert code == 0 and f"Test accuracy: {accuracy} %" in out
    code, _, err = run("train", "--resume", str(tmp_path / "run"), "--precision", "high")
    assert code == 2 and "argument --precision: the training in" in err and "has medium" in err
    code, _, err = run("train", *small, "--precision", "low")
    assert code == 2 and "argument --precision: expected one of highest, high, medium, got 'low'" in err
    code, out, _ = run("check-gradients", "--load", model, "--precision", "medium", "--batch-size", "2", "--samples",
                       "3")
    assert code == 0 and named_unit in out and "the tolerance is 0.3" in out
    code, out, _ = run("profile", "--load", model, "--precision", "high", "--iterations", "1", "--batch-size", "2")
    assert code == 0 and f"high precision by {matrix.UNITS[UNITS[-1]]}" in out


# ---- which unit, and where ------------------------------------------------------------------------------------------
def test_precisions_by_their_names():
    assert get_float32_matmul_precision() == "highest" and execution.bf16() is None
    set_float32_matmul_precision("medium")
    try:
        assert get_float32_matmul_precision() == cnn_numba.get_float32_matmul_precision() == "medium"
        for wrong in "foo", "Medium", 3, ["high"], None:
            with pytest.raises(InputError, match="expected 'highest', 'high' or 'medium', got"):
                set_float32_matmul_precision(wrong)
        assert get_float32_matmul_precision() == "medium"
    finally:
        set_float32_matmul_precision("highest")


def test_a_unit_that_is_not_there_is_an_error(precision, monkeypatch):
    monkeypatch.setenv(execution.UNIT, "gpu")
    with pytest.raises(InputError, match=f"{execution.UNIT}: this process can use .* or 'none', got 'gpu'"):
        execution.bf16()


def test_the_banner_names_precision_and_unit(precision, unit, monkeypatch):
    assert f"{precision} precision by {matrix.UNITS[unit]}" in execution.describe()
    monkeypatch.setenv(execution.UNIT, "none")
    assert f"{precision} precision as highest: no unit of this CPU makes it faster" in execution.describe()
    execution.set_textbook(True)
    try:
        assert f"{precision} precision as highest: the textbook" in execution.describe()
    finally:
        execution.set_textbook(False)


def test_the_banner_says_that_only_some_layers_gain(monkeypatch):
    monkeypatch.setattr(execution, "bf16", lambda: Bf16(matrix.DOT, 1, everywhere=False))
    monkeypatch.setattr(execution, "_precision", "medium")
    assert "medium precision by vdpbf16ps in the layers that gain" in execution.describe()


def test_small_and_grouped_layers_stay_in_float32():
    some = Bf16(matrix.PLAIN, 1)
    assert suits(some, 16, 16) and not suits(None, 64, 64) and not suits(some, 15, 64) and not suits(some, 64, 15)
    assert not suits(some, 64, 64, groups=2)


@pytest.mark.parametrize("layer, shape, gains", named(
    ("pointwise", conv(32, 64, 1), (32, 4, 4), True), ("few channels", conv(16, 64, 1), (16, 4, 4), False),
    ("stride", conv(16, 32, 3, stride=2, padding=1), (16, 6, 6), True),
    ("dilation", conv(16, 16, 3, dilation=2), (16, 6, 6), True),
    ("Cook-Toom", conv(64, 64, 3, padding=1), (64, 4, 4), False),
    ("large dense", linear(256, 128), (256,), True), ("small dense", linear(128, 128), (128,), False)))
def test_layers_that_gain_from_vdpbf16ps(layer, shape, gains):
    for everywhere in True, False:
        plan = build_normal([layer], np.random.default_rng(0)).plan(shape, 1, bf16=Bf16(UNITS[-1], 1, everywhere))
        modules = {call.kernel.__module__.rpartition(".")[2] for call in plan.calls.forward}
        assert ("conv_bf16" in modules) == (gains or everywhere)


@pytest.mark.parametrize("layers, shape, all_layers, gaining", named(
    ("small", [conv(1, 6, 5), relu, flatten, linear(96, 15)], (1, 8, 8), True, True),
    ("Cook-Toom", [conv(16, 16, 3, padding=1), flatten, linear(256, 15)], (16, 4, 4), False, True),
    ("dense", [flatten, linear(64, 16)], (1, 8, 8), False, True),
    ("inside a block", [conv(1, 64, 1), residual(body=[conv(64, 64, 1)])], (1, 4, 4), False, False)))
def test_only_a_layer_on_the_unit_takes_a_few_images_from_channels_in_the_lanes(
        layers, shape, all_layers, gaining, monkeypatch):
    """all_layers, gaining : whether a few images have channels in the lanes, with a unit for all layers that fill its
    tiles, and with one for those that gain"""
    model = cnn_numba.Sequential(*make(layers)).eval()
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    with cnn_numba.no_grad():
        expected = model(images)
        for everywhere, few in (True, all_layers), (False, gaining):
            chosen = Bf16(UNITS[-1], 1, everywhere)
            monkeypatch.setattr(execution, "bf16", lambda chosen=chosen: chosen)
            laid = model.few_images_plan(shape, 2)
            assert (laid is not None) == few
            assert np.array_equal(model(images), expected) == few
            assert (type(next(reversed(model._plans.values())).plan) is FewImages) == few


def test_cpus_and_their_units(monkeypatch):
    """AMX, where the system permits it; vdpbf16ps for `medium` on CPUs on which it gains; else float32."""
    if not JIT:
        assert units.fastest(1) == Bf16(matrix.NUMPY, 1) and units.fastest(2) == Bf16(matrix.NUMPY, 2)
        return

    def chosen(cpu, features, permitted=True):
        monkeypatch.setattr(units.config, "CPU_NAME", cpu)
        monkeypatch.setattr(units.config, "CPU_FEATURES", features)
        monkeypatch.setattr(units, "_permitted", lambda: permitted)
        units.usable.cache_clear()
        return units.fastest(1), units.fastest(2), units.usable(matrix.DOT)
    try:
        amx = "+avx512bf16,+amx-tile,+amx-bf16"
        assert chosen("sapphirerapids", amx) == (Bf16(matrix.AMX, 1), Bf16(matrix.AMX, 2), True)
        assert chosen("sapphirerapids", amx, permitted=False) == (None, None, True)
        assert chosen("znver4", "+avx512f,+avx512bf16") == (Bf16(matrix.DOT, 1, everywhere=False), None, True)
        assert chosen("znver4", "+avx512f,-avx512bf16") == (None, None, False)
        assert chosen("znver3", None) == (None, None, False)
    finally:
        monkeypatch.undo()
        units.usable.cache_clear()


def test_the_cache_keeps_units_apart():
    """Machine code of AMX would be an illegal instruction where the system does not permit it, on the same CPU."""
    if not JIT or compiled.FOLDER is None:
        pytest.skip("needs compiled kernels and a cache")
    paths = {compiled._path(conv_bf16.bf16_forward, (compiled._typeof(Tiles(2, 2, unit)),)) for unit in matrix.UNITS}
    assert len(paths) == len(matrix.UNITS) and None not in paths


@pytest.fixture(scope="session")
def amx():
    """The emulated unit: one for all tests, because machine code keeps the addresses of its functions."""
    if not JIT:
        pytest.skip("needs compiled kernels")
    from amx import Amx

    return Amx()


# ---- AMX ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("layer, shape, images", [case for case in LAYERS if case.id in (
    "odd everything", "stride and dilation", "one column, 4 x 1 tiles", "dense, three blocks")])
def test_kernels_for_amx_on_emulated_instructions(layer, shape, images, precision, amx, monkeypatch):
    monkeypatch.setitem(matrix.compiled.INSTRUCTIONS, "emulated", "emulated_")
    monkeypatch.setattr(execution, "bf16", lambda: Bf16("emulated", PARTS[precision]))
    monkeypatch.setattr(compiled, "FOLDER", None)
    set_execution("serial")
    before = amx.products
    check(layer, shape, images)
    assert amx.products > before and amx.shapes is None and not amx.faults


COMPILED = """
import re, sys
from cnn_numba import Conv2d, Flatten, Linear, Sequential
from cnn_numba.kernels import compiled
from cnn_numba.kernels.matrix import Bf16

compiled.FOLDER = None
Sequential(Conv2d(16, 16, 3), Flatten(), Linear(64, 64)).plan((16, 4, 4), 2, bf16=Bf16(sys.argv[1], 1))
compiled.compile_requested()
for (kernel, _), result in compiled._compiled.items():
    text = result.library.get_asm_str()
    used = re.findall(r"\\b((?:tile|ldtile|tdp|vdpbf)\\w+)[ \\t]*(.*)", text)
    print(kernel.py_func.__name__, *(" ".join([name, *re.findall(r"%tmm\\d", rest)]) for name, rest in used), sep=";")
"""
AVX512 = "+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512bf16"


def assembly(cpu, features, unit):
    """{kernel: instructions of the unit} of kernels compiled for another CPU, which do not run."""
    if not JIT or units.platform.machine() != "x86_64":
        pytest.skip("needs compiled kernels for x86-64")
    done = subprocess.run([sys.executable, "-c", COMPILED, unit], capture_output=True, text=True, check=True,
                          env=os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features,
                                            "PYTHONPATH": str(ROOT)})
    found = (line.split(";") for line in done.stdout.splitlines())
    code = {}
    for name, *used in found:
        code.setdefault(name, set()).update(used)
    return code


OF_TILES = ("bf16_forward", "bf16_backward_input", "bf16_backward_weight", "bf16_linear_forward",
            "bf16_linear_backward_input")


@pytest.mark.slow
def test_machine_code_for_amx():
    code = assembly("sapphirerapids", f"{AVX512},+amx-tile,+amx-bf16", matrix.AMX)
    square = {"tdpbf16ps %tmm6 %tmm4 %tmm0", "tdpbf16ps %tmm7 %tmm4 %tmm1", "tdpbf16ps %tmm6 %tmm5 %tmm2",
              "tdpbf16ps %tmm7 %tmm5 %tmm3", *(f"tileloadd %tmm{t}" for t in (4, 5, 6, 7)), "ldtilecfg",
              "tilerelease", *(f"tilestored %tmm{t}" for t in range(4))}
    for name in OF_TILES:
        assert square <= code[name] and "vdpbf16ps" not in code[name], name
    assert all(not code[name] for name in ("bf16_pixels", "bf16_weights", "bf16_input_images"))


@pytest.mark.slow
def test_machine_code_for_vdpbf16ps():
    code = assembly("znver4", AVX512, matrix.DOT)
    for name in OF_TILES:
        assert code[name] == {"vdpbf16ps"}, name


@pytest.mark.parametrize("unit, flag", ((matrix.AMX, "amx_bf16"), (matrix.DOT, "avx512_bf16")))
def test_a_unit_of_this_cpu_is_found_and_so_tested(unit, flag):
    if not JIT or units.config.CPU_NAME or not sys.platform.startswith("linux"):
        pytest.skip("kernels are not compiled for this CPU, or its features are not to be read")
    if flag not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this CPU has no {flag}")
    assert unit in UNITS
