"""Settings that must be in force before any test module imports the kernels."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Compiled kernels stay out of the user's cache, in a folder that outlives the run: the next compiles nothing.
os.environ.setdefault("CNN_NUMBA_CACHE_DIR", str(ROOT / ".cache" / "kernels"))
