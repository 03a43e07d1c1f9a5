"""What may happen in which folder: who prints, who leaves the process, and who imports whom."""
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = "cnn_numba.commands", "cnn_numba.__main__"               # all that prints and ends the process
PRINTING = {"print", "input", "breakpoint", "exit", "quit", "SystemExit",
            "sys.exit", "sys.argv", "sys.stdout", "os._exit"}


def name_of(path):
    """The name of a module in an installation."""
    folder = () if path.is_relative_to(ROOT / "cnn_numba") else ("cnn_numba",)
    return ".".join([*folder, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {name_of(path): path for folder in ("cnn_numba", "kernels") for path in sorted((ROOT / folder).rglob("*.py"))}


def inside(name, *packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def imported(source, name, is_package=False):
    """The full names that a module imports, also inside functions: of modules, and of what is taken from them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[:len(name.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def used(source):
    """Every name and attribute that a module reads, as it is written: "print", "sys.exit"."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Name, ast.Attribute))}


def prints_or_ends(source):
    """What a module of the library must not do."""
    return (used(source) & PRINTING) | {name for name in imported(source, "m") if inside(name, "argparse")}


def of(*packages, without=()):
    return pytest.mark.parametrize("name", [
        name for name in MODULES if inside(name, *packages) and not inside(name, *without)])


def imports(name):
    return imported(MODULES[name].read_text(), name, MODULES[name].name == "__init__.py")


@of("cnn_numba", without=(*PROGRAMS, "cnn_numba.benchmark"))
def test_the_library_does_not_print_or_parse_flags_or_end_the_process(name):
    assert not prints_or_ends(MODULES[name].read_text())


@pytest.mark.parametrize("source", (
    "print('done')", "def f():\n    import argparse", "from argparse import ArgumentParser", "import sys\nsys.exit(2)",
    "raise SystemExit(1)", "import sys\nsys.stdout.write('x')", "show = print", "import os\nos._exit(0)"))
def test_negative_control_of_printing(source):
    assert prints_or_ends(source)


def test_text_that_only_mentions_it_is_no_printing():
    assert not prints_or_ends('"""print(x), sys.exit, argparse"""\nprint_later, argparse_like = f("print(1)"), 2')


@of("cnn_numba", without=("cnn_numba.benchmark", "cnn_numba.commands"))
def test_the_library_imports_no_command_and_no_benchmark(name):
    programs = {other for other in imports(name) if inside(other, "cnn_numba.commands", "cnn_numba.benchmark")}
    assert programs == ({"cnn_numba.commands.main.main"} if name == "cnn_numba.__main__" else set())


@of("cnn_numba.benchmark")
def test_the_benchmark_imports_no_command(name):
    assert not [other for other in imports(name) if inside(other, "cnn_numba.commands")]


@of("cnn_numba.kernels")
def test_kernels_import_numpy_numba_llvmlite_and_the_standard_library(name):
    allowed = {"cnn_numba.kernels", "numpy", "numba", "llvmlite", *sys.stdlib_module_names}
    assert not [other for other in imports(name) if not inside(other, *allowed)]


def test_relative_and_late_imports_are_found():
    """Negative control of the tests of imports."""
    source = "def f():\n    from . import cache\n    from ..layers import Layer\n    import cnn_numba.benchmark.bench"
    assert imported(source, "cnn_numba.kernels.driver") == {
        "cnn_numba.kernels.cache", "cnn_numba.layers.Layer", "cnn_numba.benchmark.bench"}
    assert imported("from .shapes import Tile", "cnn_numba.kernels.lanes", is_package=True) == {
        "cnn_numba.kernels.lanes.shapes.Tile"}
    assert imports("cnn_numba.commands.benchmark") >= {"cnn_numba.benchmark.plots", "cnn_numba.benchmark.experiments"}
    assert {"numpy", "numba.njit", "cnn_numba.kernels.compiled.KERNEL"} <= imports("cnn_numba.kernels.batch")


def test_test_modules_do_not_import_each_other():
    """Helpers are in files of their own."""
    for path in (ROOT / "tests").glob("*.py"):
        tests = [name for name in imported(path.read_text(), path.stem) if name.startswith("test_")]
        assert not tests, f"{path.name} imports {tests}"
