"""The command line: which command, and exit codes.

Commands import NumPy, Numba and requests when they run, so that `--help` and a mistyped flag answer at once.
"""
import argparse
import os
import sys
import time

from cnn_numba.commands.check_gradients import check_gradients
from cnn_numba.commands.flags import COUNT
from cnn_numba.commands.interrupt import Terminated
from cnn_numba.commands.profile import profile
from cnn_numba.commands.saved import evaluate, predict
from cnn_numba.commands.summary import summary
from cnn_numba.commands.train import train
from cnn_numba.errors import InputError


def main(argv=None):
    """Run one command line (`sys.argv` when `argv` is None) and return its exit code.

    0: done. After one sentence on stderr: 1 the loss is no longer finite, or memory is used up; 2 bad input, or a file
    that cannot be read or written; 130 Ctrl-C; 143 SIGTERM. In silence: 141 nobody reads the output any more.
    `--help` raises SystemExit(0), as argparse does.
    """
    started = time.perf_counter()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return run(argv, started)
        finally:
            print(end="", flush=True)  # notice here that the reader has gone, not while the interpreter exits
    except BrokenPipeError:
        sink = os.open(os.devnull, os.O_WRONLY)
        for output in 1, 2:
            os.dup2(sink, output)
        return 141


def run(argv, started):
    """Run one command line; the exit codes of `main`, without the last."""
    try:
        args = parse(argv)
        return args.run(args, started)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: memory is used up: a smaller --batch-size needs less", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("Interrupted", file=sys.stderr)
        return 143 if isinstance(interrupt, Terminated) else 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors: one sentence, without the usage in front of it."""

    def error(self, message):
        raise InputError(message)


def parse(argv):
    """Flags of one command; its name may be left out when it is `train`."""
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "train"
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}: expected one of {', '.join(COMMANDS)}, or flags only")
    parser = Parser(
        usage="%(prog)s [command] [flags]",
        description=COMMANDS[name].__doc__,
        epilog=f"Commands: {', '.join(COMMANDS)} (train when none is given).",
        allow_abbrev=False,
    )
    parser.set_defaults(run=COMMANDS[name](parser), parse=parser.parse_args, argv=argv)
    return parser.parse_args(argv)


def benchmark(parser):
    """Measure this program against other ways to run it, PyTorch, JAX, and what the machine can do at most."""
    from cnn_numba.commands import benchmark as command

    command.add_flags(parser, COUNT)
    return command.run


COMMANDS = {"train": train, "evaluate": evaluate, "predict": predict, "summary": summary,
            "check-gradients": check_gradients, "profile": profile, "benchmark": benchmark}
