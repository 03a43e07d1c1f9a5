"""What an installation holds: one top-level name, with every module in it."""
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_modules_is_a_package_below_cnn_numba():
    folders = [folder.parent.relative_to(ROOT) for top in ("cnn_numba", "kernels")
               for folder in (ROOT / top).rglob("__init__.py")]
    names = {".".join(folder.parts) for folder in folders}
    wanted = {f"cnn_numba.{name}" if name.split(".")[0] == "kernels" else name for name in names}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == wanted
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"cnn_numba.kernels": "kernels"}


def test_every_other_file_of_the_package_is_installed():
    there = {path.relative_to(ROOT) for path in (ROOT / "cnn_numba").rglob("*")
             if path.is_file() and path.suffix not in (".py", ".pyc")}
    installed = {path.relative_to(ROOT) for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
                 for pattern in patterns for path in (ROOT / package.replace(".", "/")).glob(pattern)}
    assert there == installed and ROOT.joinpath("cnn_numba/draw/page.js").relative_to(ROOT) in there


def test_there_are_four_requirements():
    """Everything else is an extra."""
    lines = (ROOT / "requirements.txt").read_text().split()
    assert [line.split(">=")[0] for line in lines] == ["numba", "numpy", "progress", "requests"]
