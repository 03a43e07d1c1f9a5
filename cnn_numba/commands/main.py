"""The program: which command, and exit codes.

Commands import Numba and requests when they run, so that `--help` and a mistyped flag answer at once.
"""
import argparse
import os
import sys
import time
from collections.abc import Callable

from cnn_numba import __version__
from cnn_numba.commands import interrupt, output
from cnn_numba.commands.check_gradients import check_gradients
from cnn_numba.commands.draw import draw
from cnn_numba.commands.evaluate import evaluate
from cnn_numba.commands.export import export
from cnn_numba.commands.flags import (
    COUNT,
    add_extension_flag,
    check_data_dir,
    check_environment,
    flag_of,
    load_extensions,
)
from cnn_numba.commands.inspect import inspect
from cnn_numba.commands.lr_find import lr_find
from cnn_numba.commands.parser import Parser
from cnn_numba.commands.plot import plot
from cnn_numba.commands.predict import predict
from cnn_numba.commands.profile import profile
from cnn_numba.commands.ranks import in_all_ranks
from cnn_numba.commands.report import report
from cnn_numba.commands.summary import summary
from cnn_numba.commands.train import train
from cnn_numba.errors import InputError
from cnn_numba.kinds import nearest
from cnn_numba.recipe import FieldError


def benchmark(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Compare this program with NumPy, PyTorch, JAX and the limits of the machine."""
    from cnn_numba.commands import benchmark as command

    command.add_flags(parser, COUNT)
    return command.run


def modes(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Show in a minute what the JIT and parallel=True buy on this machine, as a table and a picture."""
    from cnn_numba.commands import benchmark as command

    return command.modes(parser)


# {name: (function, what it does)}
COMMANDS = {
    "train": (train, "train a network (also without a command)"),
    "evaluate": (evaluate, "measure a saved model on a data set"),
    "predict": (predict, "classify images with a saved model"),
    "draw": (draw, "draw for a saved model and see its layers at work"),
    "export": (export, "write a saved model as ONNX or safetensors"),
    "report": (report, "write the report of a run again, or compare runs"),
    "plot": (plot, "draw one picture of a run, a model or a data set"),
    "lr-find": (lr_find, "find a learning rate by a range test"),
    "inspect": (inspect, "show what a data set holds and how it is read"),
    "summary": (summary, "list the layers of a network, with shapes and costs"),
    "check-gradients": (check_gradients, "compare gradients with finite differences"),
    "profile": (profile, "measure the time of each layer"),
    "modes": (modes, "show in a minute what the JIT and parallel=True buy"),
    "benchmark": (benchmark, "compare with NumPy, PyTorch, JAX and the machine"),
}

# {name: what needs less memory}
FRUGAL = {
    "train": "a smaller --batch-size, --train-size or network", "evaluate": "a --test-size",
    "inspect": "a --train-size", "predict": "a smaller data file",
    "profile": "a smaller --batch-size or --image-shape", "check-gradients": "a smaller --batch-size or --image-shape",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line (`sys.argv` when `argv` is None) and return its exit code.

    0: success.  With one sentence on stderr: 1, the loss is no longer finite, or memory is used up; 2, bad input, or a
    file or output that cannot be read or written; 130, Ctrl-C; 143, SIGTERM; 129, SIGHUP.  Silently: 141, the reader of
    the output is gone.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--mpi" in argv:
        return in_all_ranks(in_one_process, argv)
    return in_one_process(argv)


def in_one_process(argv: list[str]) -> int:
    """`main`, without the other processes of --mpi."""
    started = time.perf_counter()
    output.begin()
    with interrupt.handled():
        try:
            code = run(argv, started)
        except KeyboardInterrupt as interruption:
            output.tell("Interrupted")
            code = interrupt.exit_code(interruption)
        except output.OutputFailed:
            code = 0                            # `end` says it
    return output.end(code)


def run(argv: list[str], started: float) -> int:
    """Run one command line; the exit codes of `main`, for what is not about its output."""
    name = "train"
    try:
        if text := help_text(argv):
            output.put_all(text.splitlines())
            return 0
        name, words = split_command(argv)
        check_environment()
        extensions = load_extensions(words)
        args = make_parser(name).parse(words)
        args.extensions = extensions
        check_data_dir(args)
        return args.run(args, started)
    except FieldError as error:
        output.fail(f"argument {flag_of(error.field)}: {error.reason}")
    except InputError as error:
        output.fail(str(error))
    except MemoryError:
        output.fail(f"memory is used up: {FRUGAL.get(name, 'a smaller network')} needs less")
        return 1
    except Exception as error:
        compiled = sys.modules.get("cnn_numba.kernels.compiled")
        if compiled is None or not isinstance(error, compiled.KernelError):
            raise
        output.fail(str(error))
    return 2


def split_command(argv: list[str]) -> tuple[str, list[str]]:
    """The command, which is train when none is given, and its words."""
    if not argv or argv[0].startswith("-"):
        return "train", argv
    name = argv[0].lower()
    if name in COMMANDS:
        return name, argv[1:]
    similar = nearest(name, COMMANDS)
    if similar:
        raise InputError(f"unknown command {argv[0]!r}: did you mean {similar}?")
    raise InputError(f"unknown command {argv[0]!r}{hints().get(argv[0]) or ': expected one of ' + ', '.join(COMMANDS)}")


def hints() -> dict[str, str]:
    """{word that a command does not know: the end of the sentence that refuses it}"""
    from cnn_numba.data.catalogue import NAMES

    return {name: f": did you mean --dataset {name}?" for name in NAMES} | {
        name: ": the command comes first" for name in COMMANDS} | {
        "--load": ": it is a flag of evaluate, predict and draw; --resume continues a training"}


def make_parser(name: str, full: bool = False) -> Parser:
    """The parser of a command; full : with all that `--help-all` prints."""
    add_flags = COMMANDS[name][0]
    parser = Parser(program_name(), name, add_flags.__doc__, hints, full)
    parser.set_defaults(run=add_flags(parser))
    add_extension_flag(parser)
    group = parser.group("help")
    group.add_argument("-h", "--help", action="store_true", help="print the main flags, or those of a command")
    group.add_argument("--help-all", action="store_true", help="print all flags")
    group.add_argument("--version", action="store_true", help="print the version")
    return parser


def help_text(argv: list[str]) -> str:
    """What a command line that asks for help or the version prints; "" for another one."""
    if "--version" in argv:
        return f"cnn-numba {__version__}\n"
    asked = argv[:1] == ["help"]
    if not asked and not {"-h", "--help", "--help-all"} & set(argv):
        return ""
    words = argv[1:] if asked else argv
    if words and not words[0].startswith("-"):
        return make_parser(split_command(words)[0], full=True).format_help()
    if "--help-all" in argv:
        return make_parser("train", full=True).format_help()
    return make_parser("train").short_help((name, what) for name, (_, what) in COMMANDS.items())


def program_name() -> str:
    """How the program was started."""
    name = os.path.basename(sys.argv[0])
    return "python -m cnn_numba" if name == "__main__.py" else name
