"""A command in several processes that mpiexec started: which of them prints, and how all end."""
import argparse
import functools
import io
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from cnn_numba.commands import output
from cnn_numba.commands.flags import set_jit_early
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import InputError
from cnn_numba.recipe import Recipe
from cnn_numba.team import Alone

UNTIL_READ = 0.5            # seconds: mpiexec drops what it has not read when a rank aborts

if TYPE_CHECKING:
    from cnn_numba.mpi import Ranks


def add_ranks_flags(parser: Parser, count: Callable[[str], int]) -> None:
    group = parser.group("execution")
    group.add_argument("--mpi", action="store_true",
                       help="share every batch among the processes that mpiexec started (default: no)")
    group.add_argument("--exchange-every", type=count, metavar="N",
                       help="with --mpi, train each process on its own images, and average the weights every N steps: "
                            "for slow networks (default: exchange in every step, for the same bits as one process)")


@functools.cache
def world() -> "Ranks":
    """The ranks of this program.  Raises InputError where mpi4py is missing."""
    from cnn_numba.mpi import Ranks

    return Ranks()


def team_of(args: argparse.Namespace) -> Alone:
    """Who trains.  Raises InputError for a flag without --mpi."""
    if args.mpi:
        ranks = world()
        ranks.every = args.exchange_every
        return ranks
    if args.exchange_every:
        raise InputError("argument --exchange-every: needs --mpi")
    return Alone()


def ranks_line(size: int, recipe: Recipe, every: int | None) -> str:
    """Who does what."""
    batch, blocks = recipe.batch_size or 0, math.ceil((recipe.batch_size or 0) / 16)
    ranks, images = output.count(size, "rank"), output.count(batch, "image")
    if every:
        return (f"Training in {ranks}, each on {batch // size} of the {images} of a batch, with a mean every "
                f"{output.count(every, 'step')}")
    idle = f"; {size - blocks} of the ranks have nothing to do" if size > blocks else ""
    return f"Training in {ranks}, which share {output.count(blocks, 'block')} of 16 images{idle}"


def in_all_ranks(command: Callable[[list[str]], int], words: list[str]) -> int:
    """Run a command line in every rank, of which only rank 0 prints.

    An error in one of them ends all within seconds.  Rank 0 tells its own; another rank tells its error when the others
    have not ended by themselves, for the same reason.
    """
    set_jit_early(words)                            # is read when kernels are imported
    try:
        ranks = world()
    except InputError as error:
        output.fail(str(error))
        return 2
    errors, said = sys.stderr, io.StringIO()
    if not ranks.first:
        sys.stdout, sys.stderr = open(os.devnull, "w"), said
    try:
        code = command(words)
    except Exception:
        traceback.print_exc()
        code = 1
    if not ranks.leave(code):
        sys.stderr = errors
        if said.getvalue():
            output.tell(f"rank {ranks.rank}: {said.getvalue().strip()}")
        time.sleep(UNTIL_READ)
        ranks.abort(code)
    return code
