"""Train a convolutional network: `python main.py`, or `python main.py --help`."""
import signal

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)        # Ctrl-C during the imports ends without a traceback
    from cnn_numba.commands.main import main

    raise SystemExit(main())
