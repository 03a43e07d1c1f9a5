"""The scripts: they run, print every number that they promise, and notice a version that computes something else."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_numba.kernels.program import JIT, max_threads

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
compiled = pytest.mark.skipif(not JIT, reason="the scripts compare compiled code")


def run(script, *flags, **environment):
    return subprocess.run([sys.executable, SCRIPTS / script, *flags], env={**os.environ, **environment},
                          capture_output=True, text=True, timeout=300)


def module_of(script):
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(text, begin):
    """The lines below the one that begins so, up to an empty line."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(begin))
    return list(iter(lambda: next(lines, ""), ""))


def name_of(line):
    """The first column of a line, without its numbers: tiles have other sizes with AVX-512."""
    return re.sub("[0-9]+", "", line.split("  ")[0])


@compiled
def test_kernel_steps_go_from_the_plain_loops_to_the_kernel_in_use():
    done = run("kernel_steps.py", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    _, *versions = rows(done.stdout, "version ")
    assert len(versions) == 8
    assert versions[0].startswith("plain loops, interpreted") and "Conv2d runs" in versions[-1]
    _, *page = rows((SCRIPTS.parent / "docs" / "performance.md").read_text("utf-8").replace("```", ""), "version ")
    assert [*map(name_of, page)] == [*map(name_of, versions)]
    for version in versions:
        assert all(float(number.replace(",", "")) > 0 for number in version.split()[-5:])
    assert "GF/s of multiply-adds" in done.stdout


@compiled
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_a_version_that_computes_something_else_stops_kernel_steps(k, monkeypatch):
    spec = importlib.util.spec_from_file_location("kernel_steps", SCRIPTS / "kernel_steps.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kernel_steps", module)            # for its dataclass
    spec.loader.exec_module(module)
    comparison = module.Comparison()
    comparison.check()
    version = comparison.versions[k]
    right = version.run

    def one_filter_off():
        right()
        for array in comparison.outputs:
            array[:, 3] *= 1.001

    version.run = one_filter_off
    with pytest.raises(SystemExit, match="differs by") as stop:
        comparison.check()
    # the second version is the truth for all: an error in it is found in the first
    assert str(stop.value).startswith(version.name if k != 1 else comparison.versions[0].name)
    version.run = lambda: None
    with pytest.raises(SystemExit, match="differs by nan"):
        comparison.check()


@compiled
def test_the_soak_does_all_at_once_and_notices_a_wrong_answer(tmp_path):
    """Its memory settles after minutes only."""
    soak = module_of("soak").Soak(tmp_path)
    samples = soak.run(2)
    assert soak.wrong == [] and min(soak.counts.values()) > 0, soak.counts
    assert len(samples) > 10 and all(memory > 0 and files > 0 for memory, files in samples)
    soak.predict(1)
    soak.right = soak.right + 1
    with pytest.raises(AssertionError, match="other logits of images 37 to "):
        soak.predict(1)


@pytest.mark.slow
@compiled
@pytest.mark.skipif(max_threads() < 2, reason="one processor runs nothing in parallel")
def test_parallel_pitfalls_have_a_number_each():
    done = run("parallel_pitfalls.py", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    for letter, labels in {
        "a": ["no parallel loop", "omp", "tbb", "workqueue"],
        "b": ["one thread", "workqueue, every layer parallel", "workqueue, one parallel loop"],
        "c": [f"OPENBLAS_NUM_THREADS={max_threads()}", "OPENBLAS_NUM_THREADS=1"],
        "d": ["one thread, first call", "every layer parallel, first call"],
        "e": ["one thread", "every layer parallel", "one parallel loop"],
    }.items():
        table = rows(done.stdout, f"({letter})")
        for label in labels:
            assert any(label in line for line in table), (letter, label)
    assert "16 parallel loops" in done.stdout


@pytest.mark.parametrize("script", ["kernel_steps.py", "parallel_pitfalls.py"])
def test_without_the_compiler_a_sentence_says_so(script):
    done = run(script, NUMBA_DISABLE_JIT="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "NUMBA_DISABLE_JIT" in done.stderr


def test_traffic_counts_what_the_calls_read_and_write():
    """By hand: the images between the layers of bn-cnn are 32 x 26 x 26 before the pooling, 32 x 13 x 13 after it."""
    tables = {name: module_of("traffic").table(name, by_layer=True) for name in ("bn-cnn", "resnet8")}
    cells = {name: {row[0]: dict(zip(table.cells()[0], row, strict=True)) for row in table.cells()}
             for name, table in tables.items()}
    large, small = 4 * 32 * 26 * 26 / 1000, 4 * 32 * 13 * 13 / 1000
    norm, relu, pool = (cells["bn-cnn"][layer] for layer in ("1 BatchNorm2d", "2 ReLU", "3 MaxPool2d"))
    for cell, kb in (
            (norm["forward, apart"], 3 * large), (norm["forward, now"], 2 * large + small),
            (norm["backward, apart"], 5 * large), (norm["backward, now"], 3 * large + 4 * small),
            (relu["forward, apart"], 2 * large), (relu["backward, apart"], 3 * large),
            (pool["forward, apart"], large + small), (pool["backward, apart"], 3 * large + 2 * small)):
        assert float(cell.replace(",", "")) == pytest.approx(kb, rel=0.01)
    assert relu["both, now"] == pool["both, now"] == "0.00"
    for name in tables:
        both = [float(cells[name]["sum"][f"both, {when}"].replace(",", "")) for when in ("apart", "now")]
        assert both[0] > 1.15 * both[1]
