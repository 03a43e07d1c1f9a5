"""The house of docs/CONTRIBUTING.md: what the modules of each folder may import and do, by their syntax trees."""
import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for top in ("cnn_numba", "kernels") for path in (ROOT / top).rglob("*.py")
               if path.resolve() == path and not path.is_relative_to(ROOT / "cnn_numba" / "kernels"))

# Folder: what its modules may import of the package, besides the folder itself.  A module whose name begins with one of
# these is one of them; "library" is what stands at the top of the package.
LIBRARY = ("augment", "buffer", "callbacks", "choices", "dataloader", "escaping", "execution", "extensions", "feed",
           "few_images", "forward_pass", "functional", "fusion", "history", "inference", "init", "kinds", "losses",
           "lr_range", "lr_scheduler", "model", "notebook", "optim", "parameter", "plan", "presets", "recipe",
           "recipe_file", "reuse", "run_folder", "table", "team", "training", "transforms", "errors", "data", "files",
           "interchange", "kernels", "layers")
HOUSE = {
    "kernels": (),
    "layers": ("errors", "init", "buffer", "parameter", "kernels"),
    "data": ("errors", "escaping", "init", "notebook", "files.atomic", "files.opening", "kernels.cache",
             "kernels.lock"),
    "files": ("errors", "layers", "model", "parameter", "presets", "kinds", "kernels.lock"),
    "interchange": ("errors", "escaping", "layers", "model", "files", "presets"),
    "library": (*LIBRARY, "commands.main"),                         # __main__ starts the command
    "inspection": LIBRARY,
    "benchmark": (*LIBRARY, "inspection"),
    "draw": (*LIBRARY, "inspection"),
    "pictures": (*LIBRARY, "inspection"),
    "report": (*LIBRARY, "inspection", "pictures"),
    "commands": (*LIBRARY, "mpi", "inspection", "benchmark", "draw", "pictures", "report"),
}
EXCEPTIONS = {("layers.base", "model")}         # a layer that is called is a network of one layer
ENGINE = {"kernels.lanes", "kernels.matrix", "kernels.program", "kernels.driver", "kernels.compiled", "kernels.cache",
          "kernels.lock", "kernels.pace", "kernels.assistants"}
OPTIONAL = {"PIL", "matplotlib", "requests", "progress", "torch", "jax", "sklearn", "pandas", "onnx", "onnxruntime",
            "google", "safetensors", "tqdm", "mpi4py"}
BRIDGES = {"sklearn", "mpi"}        # need an optional package; no other module of the library imports them
CONTENDERS = {"benchmark.torch_cnn", "benchmark.jax_cnn", "benchmark.onnxruntime_cnn"}       # in processes of their own
NUMBA = {"numba", "llvmlite"}


def module_of(path):
    """The name of a module below the package: "kernels.conv", "training", "layers" for the folder itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "cnn_numba" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module):
    top = module.split(".")[0]
    return top if top in HOUSE else "library"


MODULES = {module_of(path): path for path in FILES}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def at_import(tree):
    """The nodes that run when a module is imported: neither in functions nor for type checkers only."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += list(ast.iter_child_nodes(node))


def imported(name, nodes):
    """The absolute names of what some nodes of a module import, of modules and of what is in them."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, f"cnn_numba.{package}".rstrip(".")) if node.level else base
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inside(names):
    """Those of the names that are modules of the package, below it."""
    below = {name.removeprefix("cnn_numba.") for name in names if name.startswith("cnn_numba.")}
    return {name for name in below if name in MODULES}


def begins_with(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


def arrows(trees=TREES):
    """(module, what it imports) that the table does not allow."""
    return {(name, other) for name, tree in trees.items() for other in inside(imported(name, ast.walk(tree)))
            if folder_of(other) != folder_of(name) and not begins_with(other, HOUSE[folder_of(name)])} - EXCEPTIONS


def calls_of(tree, names):
    """The names among these that a tree calls or raises."""
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called += [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return {ast.unparse(each) for each in called} & names


LEAVES = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "os.abort", "SystemExit"}


def talkers(trees=TREES):
    """(module, what it calls) of those that print, ask or leave the process, or read flags."""
    library = {name: tree for name, tree in trees.items() if folder_of(name) not in ("commands", "benchmark")}
    return ({(name, call) for name, tree in library.items() for call in calls_of(tree, LEAVES)}
            | {(name, "argparse") for name, tree in library.items() if "argparse" in imported(name, ast.walk(tree))})


# ---- the folders ----------------------------------------------------------------------------------------------------
def test_every_module_is_in_the_house():
    assert len(MODULES) > 80 and {folder_of(name) for name in MODULES} == set(HOUSE)
    tops = {name for name in MODULES if folder_of(name) == "library"} - {"", "__main__"} - BRIDGES
    assert tops == {name for name in LIBRARY if folder_of(name) == "library"}, "list what is new in LIBRARY"


def test_arrows_point_one_way():
    assert arrows() == set()


def test_the_library_knows_neither_benchmark_nor_commands_nor_inspection():
    found = {(name, other) for name, tree in TREES.items() for other in inside(imported(name, ast.walk(tree)))
             if folder_of(name) in ("kernels", "layers", "data", "files", "library") and name != "__main__"
             and folder_of(other) in ("benchmark", "commands", "inspection")}
    assert found == set()
    assert not [name for name, tree in TREES.items() if folder_of(name) not in ("benchmark", "commands")
                and any(other.startswith("cnn_numba.benchmark") for other in imported(name, ast.walk(tree)))]


def test_nothing_imports_a_bridge():
    assert not {(name, other) for name, tree in TREES.items() for other in inside(imported(name, ast.walk(tree)))
                if other in BRIDGES and folder_of(name) != "commands"}


def test_files_and_data_do_not_know_the_training():
    assert not begins_with("training", HOUSE["files"] + HOUSE["data"])
    assert not {"callbacks", "optim", "feed", "recipe"} & {*HOUSE["files"], *HOUSE["data"]}


def test_nothing_imports_in_a_circle():
    graph = {name: inside(imported(name, at_import(tree))) - {name, ""} for name, tree in TREES.items()}
    graph = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in graph.items()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name):], name])}"
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


def test_the_library_does_not_print_leave_or_read_flags():
    assert talkers() == {("__main__", "SystemExit")}


def printers_beside_output(trees=TREES):
    """Modules of commands that print past `commands.output`, which makes every line safe and notices lost output."""
    return {(name, "print") for name, tree in trees.items() if folder_of(name) == "commands"
            and name != "commands.output" and calls_of(tree, {"print", "sys.stdout.write", "sys.stderr.write"})}


def test_commands_print_in_one_place():
    assert printers_beside_output() == set()


def test_optional_packages_are_imported_where_they_are_used():
    found = {(name, other) for name, tree in TREES.items() if name not in CONTENDERS | BRIDGES
             for other in imported(name, at_import(tree)) if other.split(".")[0] in OPTIONAL}
    assert found == set()


def test_only_kernels_know_numba():
    """And who tells its version, or has kernels of its own to measure."""
    found = {name for name, tree in TREES.items() if folder_of(name) != "kernels"
             and any(other.split(".")[0] in NUMBA for other in imported(name, ast.walk(tree)))}
    assert found == {"execution", "inspection.peak", "benchmark.numba_cnn"}


def test_kernels_need_numba_and_numpy_only():
    outside = {other.split(".")[0] for name, tree in TREES.items() if folder_of(name) == "kernels"
               for other in imported(name, ast.walk(tree))} - {"cnn_numba"}
    assert outside - sys.stdlib_module_names == {"numba", "numpy", "llvmlite"}


# ---- kernels --------------------------------------------------------------------------------------------------------
ALLOCATES = {f"np.{name}" for name in ("zeros", "empty", "ones", "full", "array", "arange", "copy", "concatenate")}
FORBIDDEN = (ast.Raise, ast.Try, ast.With, ast.ListComp, ast.Dict, ast.Global, ast.Yield, ast.Assert)


def jitted(tree):
    """(function, whether it is a kernel) for what Numba compiles: under njit(**KERNEL), or njit(**INLINE) and so on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            options = " ".join(ast.unparse(each) for each in node.decorator_list)
            if "njit" in options:
                yield node, "KERNEL" in options


def test_kernels_neither_allocate_nor_raise():
    kernels = 0
    for name, tree in TREES.items():
        for function, kernel in jitted(tree):
            kernels += kernel
            assert folder_of(name) in ("kernels", "inspection"), f"{name}: kernels belong into kernels/"
            assert not calls_of(function, ALLOCATES), f"{name}.{function.name} allocates"
            odd = [type(node).__name__ for node in ast.walk(function) if isinstance(node, FORBIDDEN)]
            assert not odd, f"{name}.{function.name} has a {odd[0]}"
    assert kernels > 50


def test_kernels_have_their_arguments_in_the_signature():
    for name, tree in TREES.items():
        for function, kernel in jitted(tree):
            arguments = function.args
            assert not (arguments.vararg or arguments.kwarg or arguments.defaults), f"{name}.{function.name}"
            if kernel:
                assert len(arguments.args) >= 2, f"{name}.{function.name} has an item and no arguments"
                assert ast.get_docstring(function), f"{name}.{function.name} has no docstring"


def test_operations_know_nothing_of_the_engine():
    """Only lanes and tiles, and the options under which they are compiled."""
    for name, tree in TREES.items():
        if folder_of(name) == "kernels" and name != "kernels" and not begins_with(name, ENGINE):
            used = inside(imported(name, ast.walk(tree)))
            assert not used & (ENGINE - {"kernels.lanes", "kernels.matrix", "kernels.compiled"}), (name, used)


# ---- the loop -------------------------------------------------------------------------------------------------------
def test_the_training_loop_is_one_function_of_at_most_forty_lines():
    fit, = (node for node in ast.walk(TREES["training"]) if isinstance(node, ast.FunctionDef) and node.name == "fit")
    documentation = fit.body[0]
    lines = fit.end_lineno - documentation.end_lineno
    assert lines <= 40
    code = " ".join(ast.unparse(node) for node in fit.body[1:])
    assert "epoch" in code and "batch" in code and "validation" in code and "scheduler" in code


# ---- the tests ------------------------------------------------------------------------------------------------------
def test_no_test_module_imports_another():
    """What several of them need is in files whose names do not begin with test_."""
    for path in (ROOT / "tests").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not [name for name in names if name.split(".")[-1].startswith("test_")], path.name


# ---- negative controls ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("module, code, check, what", (
    ("layers.conv", "import cnn_numba.training", arrows, "training"),
    ("layers.conv", "def f():\n    from cnn_numba import model", arrows, "model"),
    ("kernels.conv", "from cnn_numba.layers import Conv2d", arrows, "layers"),
    ("files.container", "from cnn_numba.files import atomic\nfrom cnn_numba.callbacks import Log", arrows, "callbacks"),
    ("data.idx", "from cnn_numba import feed", arrows, "feed"),
    ("model", "import cnn_numba.benchmark", arrows, "benchmark"),
    ("training", "def f():\n    print(1)", talkers, "print"),
    ("errors", "import sys\nsys.exit(2)", talkers, "sys.exit"),
    ("plan", "raise SystemExit(1)", talkers, "SystemExit"), ("data.npz", "import argparse", talkers, "argparse"),
    ("commands.train", "print(1)", printers_beside_output, "print"),
    ("inspection.summary", "from argparse import ArgumentParser", talkers, "argparse"),
))
def test_what_the_checks_must_notice(module, code, check, what):
    assert (module, what) in check(TREES | {module: ast.parse(code)})
