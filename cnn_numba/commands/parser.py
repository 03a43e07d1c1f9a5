"""The parser of a command: errors in one sentence with a suggestion, and help on one screen or in full."""
import argparse
import copy
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from cnn_numba.errors import InputError
from cnn_numba.kinds import nearest, plain

WIDTH = 80                      # of the help, at most
INDENT = 24                     # of the explanations in it

# What other programs call a flag.
OTHER_NAMES = {
    "--batch-size": "--bs --minibatch-size --train-batch-size",
    "--checkpoint": "--ckpt --checkpoint-dir --save-dir",
    "--dataset": "--data --dataset-name --train-data",
    "--data-dir": "--data-path --data-root --root",
    "--epochs": "--num-epochs --n-epochs --max-epochs",
    "--init": "--initializer --weight-init",
    "--load": "--weights --model-path",
    "--log": "--log-file --logfile",
    "--lr": "--learning-rate --eta",
    "--model": "--arch --architecture --net --network",
    "--no-jit": "--debug --python --interpreted",
    "--optimizer": "--opt --optim",
    "--predictions": "--show-predictions",
    "--quiet": "--silent -q",
    "--run": "--run-dir --project --output-dir --outdir",
    "--config": "--cfg --config-file",
    "--save": "--output --out --save-model --save-path",
    "--schedule": "--scheduler --lr-schedule --lr-scheduler",
    "--seed": "--random-seed --manual-seed",
    "--threads": "--num-threads --workers --num-workers --n-jobs --jobs",
    "--validation": "--val --val-split --validation-split",
    "--weight-decay": "--wd --l2",
}

# The flags of `--help`: those that a newcomer needs.
COMMON = {
    "data and network": ("--dataset", "--model"),
    "training": ("--recipe", "--epochs", "--batch-size", "--optimizer", "--lr", "--schedule", "--validation"),
    "files": ("--save", "--run", "--resume"),
    "how to run": ("--textbook", "--no-jit"),
}


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Its errors are InputErrors: one sentence, without the usage in front of it.

    Parameters
    ----------
    prog : str
        The program, without the command.
    command : str
    description : str
        What the command does.
    hints : callable
        Gives {word: the end of the sentence that refuses it}.
    full : bool
        Whether help texts are complete.  The short help omits the names that only NumPy modules know.
    """

    def __init__(self, prog: str, command: str, description: str | None, hints: Callable[[], Mapping[str, str]],
                 full: bool = False):
        super().__init__(prog=prog, usage=f"%(prog)s {command} [flags]", description=description, add_help=False,
                         allow_abbrev=False, formatter_class=Formatter)
        self.full, self._hints = full, hints
        self._groups: dict[str, Any] = {}

    def group(self, title: str) -> Any:
        """The flags under a heading, which is new at the first call."""
        if title not in self._groups:
            self._groups[title] = self.add_argument_group(title)
        return self._groups[title]

    def error(self, message: str) -> NoReturn:
        raise InputError(message)

    def parse(self, words: list[str]) -> argparse.Namespace:
        """The values of the flags; InputError for words that cannot be understood."""
        args, unknown = self.parse_known_args(words)
        if unknown:
            raise InputError(self._refusal(unknown))
        return args

    def _refusal(self, words: list[str]) -> str:
        """The sentence for words that the command does not know."""
        word = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
        if not word.startswith("-"):
            return f"unexpected word {word!r}{self._hints().get(word, '')}"
        flags = self._option_string_actions
        meant = {plain(flag): flag for flag in flags} | {
            plain(other): flag for flag, others in OTHER_NAMES.items() if flag in flags for other in others.split()}
        similar = plain(word) if plain(word) in meant else nearest(plain(word), meant)
        if similar:
            return f"unknown flag {word}: did you mean {meant[similar]}?"
        return f"unknown flag {word}{self._hints().get(word, ': --help-all lists all flags')}"

    def short_help(self, commands: Iterable[tuple[str, str]]) -> str:
        """The help on one screen.

        commands : (name, what it does) of each
        """
        text = Formatter(self.prog)
        text.add_usage("%(prog)s [command] [flags]", [], [])
        text.add_text(self.description)
        for title, flags in COMMON.items():
            text.start_section(title)
            text.add_arguments([self._briefly(flag) for flag in flags])
            text.end_section()
        text.start_section("commands")
        text.add_arguments([argparse.Action([], name, help=what) for name, what in commands])
        text.end_section()
        text.add_text("%(prog)s --help-all lists all flags, %(prog)s COMMAND --help those of a command.")
        return text.format_help()

    def _briefly(self, flag: str) -> argparse.Action:
        action = copy.copy(self._option_string_actions[flag])
        if action.default is not argparse.SUPPRESS:
            action.help = str(action.help).partition(" (default")[0]
        action.nargs = None if action.nargs == "+" else action.nargs        # one is enough to show
        return action


class Formatter(argparse.HelpFormatter):
    """Help that fits the terminal, and does not break names at their hyphens."""

    def __init__(self, prog: str):
        columns = min(shutil.get_terminal_size().columns, WIDTH)
        super().__init__(prog, max_help_position=INDENT, width=max(30, columns - 1))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)
