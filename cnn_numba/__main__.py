"""`python -m cnn_numba` is `python main.py`, and so is the installed command."""
import signal


def main() -> int:
    """Run the command line and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)        # Ctrl-C during the imports ends without a traceback
    from cnn_numba.commands.main import main

    return main()


if __name__ == "__main__":
    raise SystemExit(main())
