"""The flags that several commands share, and what the program does with them."""
import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cnn_numba.kinds as kinds
from cnn_numba.choices import CHOICES, SMALL, BySize
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import InputError, naming
from cnn_numba.extensions import load_extension
from cnn_numba.kinds import Kind, Name, nearest
from cnn_numba.recipe import FIELDS, Recipe
from cnn_numba.team import Alone


def reader(kind: Kind) -> Callable[[str], Any]:
    """The argparse type of a kind of values."""
    def read(text: str) -> Any:
        try:
            return kind.read(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return read


def choice(*names: str) -> Callable[[str], Any]:
    """The argparse type of one of some names, in any case."""
    return reader(Name(names))


def _url(value: Any) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError
    return value


COUNT, COUNT_OR_NONE, SEED = reader(kinds.COUNT), reader(kinds.COUNT_OR_NONE), reader(kinds.SEED)
POSITIVE, IMAGE_SHAPE, CLASSES = reader(kinds.POSITIVE), reader(kinds.IMAGE_SHAPE), reader(kinds.SIZE)
URL = reader(Kind("a URL that starts with http:// or https://", str, _url))
NETWORK = reader(kinds.NETWORK)


# ---- the fields of a recipe -----------------------------------------------------------------------------------------
def flag_of(field: str) -> str:
    """The flag of a field of `Recipe`."""
    return f"--{field.replace('_', '-')}"


def help_text(name: str, brief: bool = False) -> str:
    """What a field is, with its default; brief : in a line."""
    facts, kind = FIELDS[name].metadata, FIELDS[name].metadata["kind"]
    if brief and facts["brief"]:
        return facts["brief"]
    text = facts["help"] + (kind.listing if isinstance(kind, Name) else "")
    usual = f" (default: {facts['usual'] or default_text(name)})"
    return text + usual * (not facts["usual"]) if brief else text + facts["details"] + usual


def default_text(name: str) -> str:
    """The default of a field, or those of the choices that use it."""
    kind, users = FIELDS[name].metadata["kind"], dict[str, list[str]]()
    for choice in CHOICES:
        for other, chosen in CHOICES[choice].items():
            if name in chosen.uses:
                users.setdefault(written_default(kind, chosen.uses[name]), []).append(other)
    return "; ".join(f"{value} for {', '.join(names)}" for value, names in users.items()) or kind.write(
        FIELDS[name].default)


def written_default(kind: Kind, value: Any) -> str:
    if isinstance(value, BySize):
        return f"{kind.write(value.many)}, or {kind.write(value.few)} for fewer than {SMALL:,} images,"
    return kind.write(value)


def add_recipe_flags(parser: Parser, *groups: str) -> None:
    """Add the flags of the fields of `Recipe`: all, or those in some groups.  Flags that are not given set nothing."""
    for name, field in FIELDS.items():
        facts = field.metadata
        if "group" not in facts or groups and facts["group"] not in groups:
            continue
        options = {"action": argparse.BooleanOptionalAction} if facts["kind"] is kinds.TRUTH else {
            "type": reader(facts["kind"]), "metavar": facts["metavar"], "nargs": "+" if facts["many"] else None}
        parser.group(facts["group"]).add_argument(
            flag_of(name), default=argparse.SUPPRESS, help=help_text(name, brief=not parser.full), **options)


def given_fields(args: argparse.Namespace) -> dict[str, Any]:
    """{field of `Recipe`: value} of the flags that are given."""
    facts = {name: field.metadata for name, field in FIELDS.items() if "group" in field.metadata}
    return {name: None if value is None else facts[name]["kind"].check(value)
            for name, value in vars(args).items() if name in facts}


def check_exists(flag: str, path: str) -> None:
    """InputError for a path that does not exist."""
    if not os.path.exists(path):
        raise InputError(f"argument {flag}: {path} does not exist")


def check_target(flag: str, path: str, sources: Iterable[Any]) -> None:
    """InputError unless a file can be written, which is none of those that the command reads.

    sources : paths, several paths, or None
    """
    from cnn_numba.files.atomic import check_writable

    for source in sources:
        for each in (source,) if isinstance(source, str) else source or ():
            if os.path.exists(path) and os.path.exists(each) and os.path.samefile(path, each):
                raise InputError(f"argument {flag}: {path} is read by this command: choose another name")
    with naming(f"argument {flag}"):
        check_writable(path)


def check_environment() -> None:
    """InputError for a current folder that was deleted, or a variable that Numba would refuse when it is imported."""
    try:
        os.getcwd()
    except OSError:
        raise InputError("the current folder does not exist any more: change to another one") from None
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads and not (threads.isascii() and threads.isdigit() and int(threads)):
        raise InputError(f"NUMBA_NUM_THREADS must be a whole number of at least 1, got {threads!r}")


def check_data_dir(args: argparse.Namespace) -> None:
    """InputError for a data folder that does not exist, unless a mirror is given to fill it from."""
    folder = getattr(args, "data_dir", None)
    if folder and not getattr(args, "mirror", None) and not os.path.isdir(os.path.expanduser(folder)):
        raise InputError(f"argument --data-dir: the folder {folder} does not exist: make it first, if it is no typo")


def check_data_paths(recipe: Recipe) -> None:
    """InputError for a path of the recipe's data set that does not exist."""
    from cnn_numba.data.catalogue import NAMES

    for field in "dataset", "test_data":
        value = getattr(recipe, field)
        for path in (value,) if isinstance(value, str) else value or ():
            if path in NAMES or os.path.exists(path):
                continue
            if os.path.dirname(path) or os.path.splitext(path)[1] or field == "test_data":
                check_exists(flag_of(field), path)
            similar = nearest(path, NAMES)
            raise InputError(f"argument {flag_of(field)}: " + (
                f"unknown data set {path!r}: did you mean {similar}?" if similar else
                f"expected {FIELDS[field].metadata['kind'].expected}, got {path!r}"))


# ---- where files are ------------------------------------------------------------------------------------------------
def add_location_flags(parser: Parser) -> None:
    group = parser.group("data")
    group.add_argument("--data-dir", metavar="DIR",
                       help="folder of the data sets (default: $CNN_NUMBA_DATA_DIR, or a cache folder)")
    group.add_argument("--mirror", type=URL, metavar="URL", help="folder to download from first (default: none)")


def add_load_flag(parser: Parser) -> None:
    group = parser.group("model")
    group.add_argument("--load", metavar="FILE", required=True,
                       help="trained model: .npz of train --save, ONNX or safetensors (required)")
    group.add_argument("--mean", type=reader(kinds.OF_CHANNELS), metavar="X",
                       help="mean of the pixels in files, for a network that does not normalise them itself; a number "
                            "for each channel or one for all (default: that of the model)")
    group.add_argument("--std", type=reader(kinds.POSITIVE_OF_CHANNELS), metavar="X",
                       help="their standard deviation (default: that of the model)")


# ---- how kernels run ------------------------------------------------------------------------------------------------
def add_extension_flag(parser: Parser) -> None:
    parser.group("your own code").add_argument(
        "--extension", action="append", default=[], metavar="FILE",
        help="import a Python file with layers, optimizers, losses or data formats of your own; can be repeated "
             "(default: none)")


def load_extensions(words: Sequence[str]) -> tuple[str, ...]:
    """Import the files of --extension before the other flags are read, which may name what they define.

    Returns the names of the files.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=None)
    parser.add_argument("--extension", action="append", nargs="?", default=[])
    args, _ = parser.parse_known_args(words)
    if any(args.extension):
        set_jit_early(words)                # is read when kernels are imported
    names = []
    for path in filter(None, args.extension):
        try:
            names.append(load_extension(path))
        except InputError as error:
            raise InputError(f"argument --extension: {error}") from error
    return tuple(names)


def add_execution_flags(parser: Parser) -> None:
    group = parser.group("execution")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--parallel", action="store_const", const="parallel", default="parallel", dest="mode",
                      help="use several threads (default)")
    pair.add_argument("--serial", action="store_const", const="serial", dest="mode", help="use one thread")
    group.add_argument("--threads", type=COUNT, metavar="N", help="number of threads (default: one per CPU)")
    group.add_argument("--textbook", action="store_true",
                       help="run the plain loops of kernels/conv.py (default: a faster algorithm)")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--jit", action="store_true", default=None,
                      help="compile the kernels (default: yes, unless NUMBA_DISABLE_JIT=1)")
    pair.add_argument("--no-jit", action="store_false", dest="jit",
                      help="run the kernels as plain Python: slow, for a debugger")


def add_precision_flag(parser: Parser, usual: str) -> None:
    """usual : the words for the precision without the flag"""
    parser.group("execution").add_argument(
        "--precision", type=reader(kinds.PRECISION), metavar="NAME", default=argparse.SUPPRESS,
        help="precision of the products in convolutions and dense layers: "
             f"{kinds.PRECISION.listing} (default: {usual})")


def set_jit_early(words: Sequence[str]) -> None:
    """`set_jit` before all flags are parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--jit", action="store_true", default=None)
    parser.add_argument("--no-jit", action="store_false", dest="jit")
    set_jit(parser.parse_known_args(words)[0])


def set_jit(args: argparse.Namespace) -> None:
    """Set the environment variable that kernels read when they are imported."""
    if getattr(args, "jit", None) is not None:
        os.environ["NUMBA_DISABLE_JIT"] = "0" if args.jit else "1"


def choose_execution(args: argparse.Namespace, team: Alone | None = None) -> None:
    """Set how kernels run, before anything is built; the processes of a team share the processors."""
    if args.mode == "serial" and args.threads not in (None, 1):
        raise InputError(f"argument --threads: expected 1 with --serial, got {args.threads}")
    set_jit(args)
    from cnn_numba.execution import set_execution, set_float32_matmul_precision, set_textbook
    from cnn_numba.kernels.compiled import JIT
    from cnn_numba.kernels.driver import max_threads

    if args.threads is not None and args.threads > max_threads():
        expected = f"at most {max_threads()}, the number of CPUs," if JIT else "1 with --no-jit,"
        raise InputError(f"argument --threads: expected {expected} got {args.threads}")
    shared = team.threads(max_threads()) if team and args.mode == "parallel" else None
    set_execution(args.mode, threads=args.threads or shared)
    set_textbook(args.textbook)
    set_float32_matmul_precision(getattr(args, "precision", None) or "highest")
