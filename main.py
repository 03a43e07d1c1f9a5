"""Train a convolutional network: `python main.py`, or `python main.py --help`."""
from cnn_numba.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
