"""The benchmark: its numbers add up and are printed.  No test depends on the speed of anything."""
import contextlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba.benchmark import bench, busy, experiments, latency, networks, numba_cnn, numpy_cnn, plots, process
from cnn_numba.commands import benchmark as command
from cnn_numba.commands import main as cli
from cnn_numba.inspection import timing
from cnn_numba.inspection.summary import multiply_adds
from cnn_numba.kernels import pace
from cnn_numba.kernels.compiled import JIT
from cnn_numba.kernels.driver import max_threads
from cnn_numba.kernels.lanes import LANES
from cnn_numba.table import number

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--quick", "--rounds", "1", "--threads", "1", "--dataset", "digits", "--model", "two-conv",
        "--train-size", "48", "--batch-size", "16")
compiled = pytest.mark.skipif(not JIT, reason="the benchmark starts processes that compile")


# ---- the network in NumPy ---------------------- ------------------------------------------------------------
def fresh(layers, shape):
    """Our Sequential, and NumPy's network with the same weights in float64."""
    model = nn.Sequential(*layers)
    weights = [p.value.astype(np.float64) for p in model.parameters()]
    return model, numpy_cnn.Network(networks.description(model.layers), weights)


@pytest.mark.parametrize("layers, shape", [
    ([nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(36, 5)],
     (3, 11, 9)),
    ([nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), groups=2, bias=False), nn.MaxPool2d(2), nn.ReLU()], (4, 9, 8)),
    ([nn.Conv2d(1, 5, 5, padding=(2, 1)), nn.ReLU(), nn.Conv2d(5, 5, 3, groups=5), nn.Flatten(), nn.ReLU()], (1, 8, 9)),
    (networks.online((1, 8, 8), 10).layers, (1, 8, 8)),
    ([nn.Conv2d(1, 4, 4, padding="same"), nn.MaxPool2d(2, dilation=2, ceil_mode=True),
      nn.MaxPool2d(3, (2, 3), 1, ceil_mode=True)], (1, 8, 9)),
], ids=["strides", "groups", "depthwise", "online", "rounded up"])
def test_numpy_and_our_kernels_agree_forward_and_backward(layers, shape):
    model, network = fresh(layers, shape)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, *shape))
    y = network.forward(x)
    dy = rng.normal(size=y.shape)
    np.testing.assert_allclose(model(x), y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.backward(dy), network.backward(dy), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(model.parameters(), network.gradients(), strict=True):
        np.testing.assert_allclose(ours.grad, theirs, rtol=1e-4, atol=1e-4, err_msg=ours.name)


def test_numpy_and_our_loss_agree():
    z, labels = np.random.default_rng(2).normal(0, 30, (7, 10)), np.arange(7)
    loss, dz = numpy_cnn.cross_entropy(z, labels)
    ours = nn.CrossEntropyLoss()(z, labels)
    assert ours == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(ours.dlogits, dz, atol=1e-6)


def test_numpy_gradients_are_those_of_central_differences():
    _, network = fresh([nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(12, 4)], (2, 8, 8))
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(3, 2, 8, 8)), np.array([0, 3, 1])

    def loss():
        return numpy_cnn.cross_entropy(network.forward(x), labels)[0]

    network.backward(numpy_cnn.cross_entropy(network.forward(x), labels)[1])
    gradients = network.gradients()
    for weight, gradient in zip(network.weights, gradients, strict=True):
        element = tuple(rng.integers(0, n) for n in weight.shape)
        middle, delta = weight[element], 1e-6
        weight[element] = middle + delta
        above = loss()
        weight[element] = middle - delta
        slope = (above - loss()) / (2 * delta)
        weight[element] = middle
        assert gradient[element] == pytest.approx(slope, rel=1e-4, abs=1e-8)


@compiled
@pytest.mark.parametrize("layer, shape", [(nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8)),
                                          (nn.Conv2d(3, 4, 3, stride=2), (3, 9, 9)), (nn.Linear(40, 12), (40,))])
def test_the_passes_of_a_layer_leave_nothing_out(layer, shape):
    model, network = fresh([layer], shape)
    passes = numba_cnn.passes(model, shape, 2 * LANES)
    rng = np.random.default_rng(0)                      # as `passes` fills its buffers
    x, dy = (np.moveaxis(rng.normal(size=(2, *s, LANES)), -1, 1).reshape(-1, *s)
             for s in (shape, model.output_shape(shape)))
    network.forward(x)
    network.backward(dy)
    for name in "forward", "to weights":                # without the pass between them
        passes[name]()
    for ours, theirs in zip(model.parameters(), network.gradients(), strict=True):
        np.testing.assert_allclose(ours.grad, theirs, rtol=1e-3, atol=1e-3, err_msg=ours.name)


# ---- what is counted ---------------------------------------------------------------------------------------
def test_the_flags_know_all_experiments():
    assert list(command.EXPERIMENTS) == list(experiments.EXPERIMENTS)


def test_contenders_take_turns(monkeypatch):
    monkeypatch.setattr(process, "PAUSE", 0)
    order = []
    workers = [type("Worker", (), {"label": label}) for label in "AB"]
    values = process.alternate(3, workers, lambda worker: order.append(worker.label) or len(order))
    assert "".join(order) == "ABABAB"
    assert values == [[1, 3, 5], [2, 4, 6]]


def test_spread_is_median_least_and_most():
    assert process.spread([5, 1, 2]) == {"median": 2, "min": 1, "max": 5, "rounds": [5, 1, 2]}


@pytest.mark.parametrize("value, text", [(123456.7, "123,457"), (99.94, "99.9"), (1.5, "1.50"), (0.01234, "0.0123")])
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


# ---- the experiments, each with next to nothing to do ------------------------------------------------------
@pytest.fixture
def measure(tmp_path, capfd):
    """Run an experiment: (its report from JSON, what it printed)."""
    def measure(experiment, *flags):
        picture = tmp_path / "picture.png"
        plot = ("--plot", str(picture)) if find_spec("matplotlib") else ()
        code = cli.main(["benchmark", experiment, *TINY, "--json", str(tmp_path / "report.json"), *plot, *flags])
        out, err = capfd.readouterr()
        assert (code, err) == (0, "")
        assert not plot or picture.stat().st_size > 10_000
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["experiment"] == experiment
        assert report["settings"]["images"] == 48
        assert set(report["machine"]) == {"CPU", "execution", "software", "system", "date", "command"}
        assert report["machine"]["CPU"] in out
        for table in report["tables"]:
            assert table["title"] in out
        return report, out
    return measure


def is_spread(value, rounds=1):
    return 0 < value["min"] <= value["median"] <= value["max"] and len(value["rounds"]) == rounds


def rate(report, row):
    """GF/s of a row if each image took a forward pass, or a training step."""
    shape, settings = (1, 8, 8), report["settings"]
    work = multiply_adds(networks.NETWORKS[settings["model"]](shape, 10).layers, shape)
    return [2e-9 * each * settings["images"] / row["seconds"]["median"] for each in work]


@pytest.mark.slow
@compiled
def test_modes_put_all_ways_side_by_side(measure):
    report, out = measure("modes", "--contenders", "numba", "numpy")
    rows = report["tables"][0]["rows"]
    assert [row["label"] for row in rows] == ["interpreted", "NumPy (im2col, BLAS), 1 thread", "serial, textbook",
                                              "serial", "parallel, textbook", "parallel, 1 thread"]
    assert all(is_spread(row["images_per_second"]) and row["label"] in out for row in rows)
    assert all(row["images"] in (16, 32, 48) and row["compile_seconds"] >= 0 for row in rows)
    assert rows[0]["speed_up"] == 1
    assert "trains the same network" in out


@compiled
def test_a_textbook_worker_runs_the_plain_loops(tmp_path):
    with process.Worker(process.Entrant("textbook", "numba", 1, options={"textbook": True}), {}) as worker:
        (execution, _), _ = worker.ask("describe")
    assert "convolutions by the textbook" in execution


def test_the_load_of_other_programs_is_noted(monkeypatch):
    for loads, noted in ([(1.0, 0.1), (9.0, 0.0)], "programs used 0.0 of "), ([(1.0, 1.0), (3.0, 2.0)], "used 1.8 of "):
        monkeypatch.setattr(process.Worker, "loads", loads)
        notes = []
        bench.Bench.note_load(type("Bench", (), {"notes": notes}))
        assert noted in notes[0] and ("times can be too long" in notes[0]) == (loads[0][1] > 0.5)


def test_a_worker_says_what_load_it_saw(monkeypatch):
    monkeypatch.setattr(process.Worker, "loads", [])
    with process.Worker(process.Entrant("NumPy", "numpy", 1), {}) as worker, busy.load(1):
        seconds = worker.ask("load", name="random", data_dir=None, images=200_000, image_shape=[1, 28, 28])[1]
    assert process.Worker.loads == [(seconds, process.Worker.loads[0][1])]
    assert (process.Worker.loads[0][1] > 0.1) == (timing.busy_seconds() is not None and seconds > timing.SHORTEST)


def test_no_process_outlives_its_load():
    code = ("import os, subprocess, sys; from cnn_numba.benchmark import busy; started = []; new = subprocess.Popen\n"
            "subprocess.Popen = lambda *a: started.append(new(*a)) or started[-1]\n"
            "busy.load(1).__enter__(); print(started[0].pid, flush=True); os._exit(1)")
    pid = int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout)
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_torch_has_a_row_for_each_setting():
    entrants = bench.torch_settings(2)
    assert [entrant.label for entrant in entrants[:4]] == [
        "PyTorch", "PyTorch, channels last", "PyTorch, bf16", "PyTorch, bf16, channels last"]
    assert len({entrant.label for entrant in entrants}) == 8
    assert entrants[-1].options == {"compiled": True, "bf16": True, "channels_last": True}
    assert not any(entrant.options["compiled"] for entrant in bench.torch_settings(1, compiled=(False,)))


def test_the_best_setting_of_torch_is_named():
    speeds = {"cnn-numba": 600, "PyTorch": 100, "PyTorch, channels last": 200, "JAX": 900}
    assert experiments.best_of_torch(speeds, "cnn-numba") == [
        "The fastest of PyTorch's settings is PyTorch, channels last: cnn-numba is 3.00 times as fast."]
    assert experiments.best_of_torch({"cnn-numba": 600, "JAX": 900}, "cnn-numba") == []


@compiled
@pytest.mark.skipif(max_threads() < 2, reason="one processor has nothing to choose")
def test_all_workers_means_that_the_choice_is_never_made(monkeypatch):
    monkeypatch.setattr(pace, "WINDOW", pace.WINDOW)
    numba_cnn.Contender(1, all_workers=True)
    choice = pace.Pace()
    for seconds in 1.0, 9.0, 1.0:
        choice.note(seconds, 1)
        assert not choice.alone and choice.room(50) == 50


@pytest.mark.slow
@compiled
def test_busy_measures_each_way_beside_each_load(measure):
    report, out = measure("busy", "--contenders", "numba", "--beside", "0", "2")
    rows = report["tables"][0]["rows"]
    assert [(row["network"], row["batch"], row["processes"]) for row in rows] == [
        ("two-conv", 16, 0), ("two-conv", 16, 2)]
    for row in rows:
        speeds = [row[label]["images_per_second"] for label in ("serial", "all workers", "default", "serial again")]
        assert all(is_spread(each, busy.TURNS) for each in speeds)
        serial, every, adaptive, again = (each["median"] for each in speeds)
        assert row["of_better"] == pytest.approx(adaptive / max(serial, every))
        assert row["control"] == pytest.approx(again / serial)
    assert all(word in out for word in ("of better", "Load:", "Control:"))


def test_busy_measures_some_networks_unless_one_is_named(monkeypatch):
    def cases(*flags):
        seen = []
        monkeypatch.setattr(bench.Bench, "working", lambda self, entrants: contextlib.nullcontext([]))
        monkeypatch.setattr(busy, "beside_loads", lambda bench, workers, name, size: seen.append((name, size)) or [
            {"network": name, "of_better": 1.0, "control": 1.0}])
        args = cli.make_parser("benchmark").parse(["busy", *flags])
        busy.busy(bench.Bench(args))
        assert args.beside == (0, 1, 2, 4)
        return seen

    assert cases() == [(name, size) for name in ("lenet5", "two-conv", "resnet8") for size in (64, 16)]
    assert cases("--model", "bn-cnn") == [("bn-cnn", 64), ("bn-cnn", 16)]
    assert cases("--model", "bn-cnn", "--batch-size", "3") == [("bn-cnn", 3)]


@compiled
@pytest.mark.slow
def test_latency_is_measured_for_few_images(measure):
    libraries = [name for name in ("numba", "torch", "onnxruntime") if name not in process.missing_libraries([name])]
    report, out = measure("latency", "--contenders", *libraries)
    rows = report["tables"][0]["rows"]
    assert [row["label"] for row in rows[:3]] == [
        "cnn-numba, model(x)", "cnn-numba, Classifier.logits", "cnn-numba, model.predict"]
    assert ("onnxruntime, 1 thread" in [row["label"] for row in rows]) == ("onnxruntime" in libraries)
    assert (rows[-1]["label"] == latency.TORCH) == ("torch" in libraries)
    assert all(is_spread(row[text]) for row in rows for text in ("1 image", "2 images", "16 images"))
    assert len(libraries) == 1 or "runs the same network with the same weights" in out


def test_the_fastest_setting_is_named_for_each_number_of_images():
    assert latency.settings_note(["PyTorch, bf16, 1 thread", *["PyTorch, 2 threads"] * 4]) == (
        "PyTorch runs in inference_mode; its fastest setting is bf16, 1 thread for 1 image; 2 threads for 2, 4, 8, 16 "
        "images.")


def test_latencies_are_compared_with_the_last_row():
    rows = [{"label": label} | {latency.images_text(n): {"median": n * each} for n in latency.IMAGES}
            for label, each in (("ours", 30), ("PyTorch", 120))]
    assert latency.ratio_notes(rows) == ["Times PyTorch: ours 0.25x, 0.25x, 0.25x, 0.25x, 0.25x."]


def test_passes_that_are_slower_are_named():
    rows = [{"layer": "conv", "pass": which, "ours": {}, "A": {"times_first": a}, "B": {"times_first": b}}
            for which, a, b in (("forward", 2.0, 0.5), ("to input", 1.5, 1.2))]
    sentence, _ = experiments.slower_passes(rows, ["ours", "A", "B"])
    assert sentence == "ours is slower than the fastest of the others in 1 of 2 passes: conv forward (0.50x)."
    assert experiments.slower_passes(rows[1:], ["ours", "A", "B"])[0].endswith("in 0 of 1 passes.")


def test_a_call_takes_the_median_of_its_times(monkeypatch):
    times = iter([0, 1, 1.5, 9, 11])                    # calls of 1, 0.5, 7.5 and 2 seconds
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(times))
    calls = []
    assert timing.median_call(lambda: calls.append(1), 10) == 1.5
    assert len(calls) == 2 + 4, "two calls are for warming up"


@compiled
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_the_faster_memory_format_of_torch_stands_for_both(monkeypatch):
    found = [process.Entrant("cnn-numba", "numba", 1), *bench.torch_settings(1, (False,))]
    seconds = dict(zip((entrant.label for entrant in found), (1.0, 4.0, 3.0, 2.0, 5.0), strict=True))
    workers = [type("Worker", (), {"label": entrant.label, "library": entrant.library}) for entrant in found]
    passes = ("forward", "to input", "to weights", "update")
    for worker in workers:
        worker.ask = lambda *_, label=worker.label, **__: (dict.fromkeys(passes, seconds[label]), 0.0)
    monkeypatch.setattr(process, "PAUSE", 0)
    monkeypatch.setattr(bench.Bench, "working", lambda self, entrants: contextlib.nullcontext(workers))
    monkeypatch.setattr(experiments, "with_peak", lambda measure: lambda worker: (measure(worker), None))
    args = cli.make_parser("benchmark").parse(["kernels", "--quick"])
    table, = experiments.kernels(bench.Bench(args))
    for row in table.rows:
        assert [(row[label]["times_first"], row[label]["channels_last"]) for label in ("PyTorch", "PyTorch, bf16")] == [
            (3.0, True), (2.0, False)]


@pytest.mark.slow
@compiled
def test_epoch_compares_contenders_that_compute_the_same(measure):
    libraries = [name for name in ("numba", "numpy", "torch", "jax") if find_spec(name)]
    report, out = measure("epoch", "--contenders", *libraries)
    rows = report["tables"][0]["rows"]
    assert len(rows) >= len(libraries) + ("torch" in libraries)
    assert all(is_spread(row["seconds"]) and row["images"] == 48 and row["percent_of_peak"] > 0 for row in rows)
    assert rows[0]["label"] == "cnn-numba" and rows[0]["times_first"] == 1
    assert rows[0]["gflops"] == pytest.approx(rate(report, rows[0])[1])
    assert "trains the same network" in out and "GF/s" in out


@pytest.mark.slow
@compiled
def test_inference_classifies_all_images(measure):
    report, _ = measure("inference", "--contenders", "numba", "numpy")
    rows = report["tables"][0]["rows"]
    assert [row["label"] for row in rows] == ["cnn-numba", "NumPy, batches of 256"]
    assert rows[0]["gflops"] == pytest.approx(rate(report, rows[0])[0])
    assert all(is_spread(row["seconds"]) and row["gflops"] > 0 for row in rows)


@pytest.mark.slow
@compiled
def test_kernels_measure_the_passes_of_layers(measure):
    report, out = measure("kernels", "--contenders", "numba")
    rows = report["tables"][0]["rows"]
    assert {row["pass"] for row in rows} == {"forward", "to input", "to weights", "update"}
    assert all(is_spread(row["cnn-numba"]["seconds"]) for row in rows)
    assert "GF/s" in out and "GB/s" in out and "of peak" in out


@pytest.mark.slow
@compiled
def test_scaling_has_batch_sizes_channels_and_threads(measure):
    report, _ = measure("scaling", "--contenders", "numba")
    batches, channels, threads = (table["rows"] for table in report["tables"])
    assert [row["batch size"] for row in batches] == [1, 8]
    assert [row["channels"] for row in channels] == [4, 32, 256]
    assert [row["threads"] for row in threads] == [1]
    assert all(is_spread(row["cnn-numba"]["images_per_second"]) for row in [*batches, *channels, *threads])


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("experiment, labels", [
    ("startup", ["cnn-numba, empty cache", "cnn-numba, warm cache", "NumPy"]),
    ("memory", ["cnn-numba", "NumPy"]),
])
def test_startup_and_memory_are_the_sums_of_their_stages(measure, experiment, labels):
    report, _ = measure(experiment, "--contenders", "numba", "numpy")
    rows = report["tables"][0]["rows"]
    assert [row["label"] for row in rows] == labels
    for row in rows:
        *stages, total = [part["median"] for part in row.values() if isinstance(part, dict)]
        assert sum(stages) == pytest.approx(total)


@compiled
def test_the_script_is_the_same_command():
    run = subprocess.run([sys.executable, ROOT / "scripts" / "benchmark.py", "epoch", *TINY, "--contenders", "numpy"],
                         capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Epoch on 1 thread: two-conv" in run.stdout


# ---- what cannot be done is said in a sentence -------------------------------------------------------------
@compiled
def test_a_library_that_is_not_installed_is_a_line(measure, monkeypatch):
    monkeypatch.setattr(process, "find_spec", lambda name: None if name in ("torch", "jax") else find_spec(name))
    report, out = measure("memory")
    assert [row["label"] for row in report["tables"][0]["rows"]] == ["cnn-numba"]
    assert "PyTorch: not installed (pip install torch)\nJAX: not installed (pip install jax)" in out


@compiled
def test_a_worker_that_dies_is_refused_by_name():
    with process.Worker(process.Entrant("mine", "numpy", 1), {}) as worker:
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(process.Refusal, match="mine: its process ended"):
            worker.ask("memory")


@compiled
@pytest.mark.parametrize("flags, sentence", [
    (["modes", "--threads", "9999"], "--threads must be a whole number from 1 to"),
    (["modes", "--batch-size", "100", "--train-size", "99"], "--batch-size must be at most 99"),
    (["walk"], "invalid choice: 'walk'"),
    (["modes", "--rounds", "0"], "expected a whole number of at least 1, got '0'"),
    (["modes", "--json", os.path.join("not", "there", "x.json")], "cannot be written"),
    (["epoch", "--model", "lenet5", "--dataset", "digits"], "does not fit"),
    (["kernels", "--contenders", "numpy", "--threads", "1", "--quick"],
     "no contender is left to measure: NumPy: its layers are not measured"),
    (["latency", "--contenders", "numba", "numpy"],
     "--contenders: latency measures numba, torch, onnxruntime, got numpy"),
    (["busy", "--contenders", "numpy"], "--contenders: busy measures numba, torch, got numpy"),
    (["busy", "--beside", "-1"], "expected a whole number of at least 0, got '-1'"),
])
def test_bad_flags_are_one_sentence_and_exit_2(capfd, flags, sentence):
    assert cli.main(["benchmark", *flags]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and sentence in err


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_plot_is_a_picture(capfd):
    assert cli.main(["benchmark", "modes", "--plot", "modes.txt"]) == 2
    assert "--plot: the file must end in one of " in capfd.readouterr().err


@compiled
@pytest.mark.parametrize("library, missing, install", [
    ("jax", "jax", "JAX is not installed: pip install jax"),
    ("onnxruntime", "onnx", "onnxruntime is not installed: pip install onnx onnxruntime")])
def test_a_contender_that_is_named_must_be_installed(capfd, monkeypatch, library, missing, install):
    monkeypatch.setattr(process, "find_spec", lambda name: None if name == missing else "there")
    assert cli.main(["benchmark", "latency", *TINY, "--contenders", library]) == 2
    assert capfd.readouterr().err == f"error: --contenders: {install}\n"


def test_a_plot_needs_matplotlib(capfd, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert cli.main(["benchmark", "modes", "--plot", "x.png"]) == 2
    assert capfd.readouterr().err == "error: --plot needs matplotlib, which is not installed: pip install matplotlib\n"


# ---- the short command ----------------------------------------------------------------------------------------------
def test_modes_answers_what_the_jit_and_parallel_buy():
    speeds = {"interpreted": 10, "serial, textbook": 1000, "serial": 3000, "parallel, 1 thread": 2900,
              "parallel, 2 threads": 5400}
    rows = [{"label": label, "images_per_second": {"median": speed}} for label, speed in speeds.items()]
    assert experiments.answer(rows) == [
        "The JIT: 100 times as fast (serial, textbook against interpreted).",
        "Cook-Toom instead of the textbook's loops: 3.00 times as fast (serial against serial, textbook).",
        "parallel=True: 1.80 times as fast (parallel, 2 threads against serial)."]
    assert experiments.answer(rows[:1]) == []


def test_modes_is_the_benchmark_in_short(monkeypatch, tmp_path):
    seen = []

    def record(args):
        seen.append(args)
        raise nn.InputError("enough")
    monkeypatch.setattr(experiments, "run", record)
    assert cli.main(["modes", "--threads", "1", "--plot", str(tmp_path / "a.png")]) == 2
    args, = seen
    assert (args.experiment, args.threads, args.quick, args.warm) == ("modes", 1, True, True)
    assert args.contenders == ("numba", "numpy") and args.plot == str(tmp_path / "a.png")
    fields = vars(cli.make_parser("benchmark").parse(["modes"]))
    assert set(fields) - {"run", "extension", "help", "help_all", "version"} == set(vars(args))
