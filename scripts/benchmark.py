"""The benchmark from a checkout: `python scripts/benchmark.py modes` is `python main.py benchmark modes`."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cnn_numba.commands.main import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(["benchmark", *sys.argv[1:]]))
