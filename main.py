"""Train a convolutional network: `python main.py`, or `python main.py --help`."""
from cnn_numba.commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
