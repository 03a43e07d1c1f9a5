"""What a run folder says about where its training ran."""
import os
import shlex
import subprocess
import sys
from datetime import datetime

from cnn_numba import __version__


def info(execution: str) -> str:
    """Lines with the time, the command, the machine, the versions, and the git commit of the current folder.

    execution : how kernels run, as `execution.describe` says it
    """
    from cnn_numba.benchmark.report import cpu, libraries

    facts = {"started": datetime.now().astimezone().isoformat(timespec="seconds"),
             "command": shlex.join(["python", *sys.argv]), "folder": os.getcwd(),
             "machine": cpu(), "software": ", ".join([f"cnn-numba {__version__}", *libraries()]),
             "execution": execution}
    if commit := git_commit():
        facts["git"] = commit
    return "".join(f"{name + ':':<11}{text}\n" for name, text in facts.items())


def git_commit() -> str:
    """The commit of the current folder, and whether files differ from it; "" outside of a repository."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    try:
        commit = git("rev-parse", "HEAD")
        return commit + " with changes" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return ""
