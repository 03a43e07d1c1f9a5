"""Ctrl-C and SIGTERM while something should come to a good end first."""
import signal
import threading


class Terminated(KeyboardInterrupt):
    """SIGTERM, for the second time."""


class Interruption:
    """While it is entered, a first Ctrl-C or SIGTERM is noted only, and a second one raises KeyboardInterrupt.

    number : the signal that came, or None
    """

    number = None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():       # others cannot handle signals
            for number in signal.SIGINT, signal.SIGTERM:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        if self.number is not None:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.number = number

    def noted(self):
        """Whether a signal came."""
        return self.number is not None
