"""How many workers replay a program: all of them, or one where that takes less time.

The number of workers does not change the results, so it may be chosen anew at any time by what replays take.  On an
idle machine all are faster, as long as a phase has a chain for each.  Beside other programs, the worker that has to
wait for a processor holds up the others, and one alone can be several times as fast.
"""

TRIAL = 0.02                # seconds that a trial of the other choice takes, at least: several turns of the scheduler
PAUSE = 50                  # times as long as the last trial, until the next
PATIENCE = 32               # how much longer the pause becomes while trials change nothing
SLOWER = 1.5                # times the pace of the last choice, which is then tried again at once
GAIN = 0.95                 # of the time is little enough to change the choice


class Pace:
    """Chooses between one worker and all of them, by the seconds that replays take.

    Ask `alone` before some replays of a program and call `note` after them.
    """

    def __init__(self):
        self.alone = False          # whether one worker runs the next replays
        self._trying = False        # whether they are a trial of the other choice
        self._spent = self._replays = 0.0
        self._seconds = 0.0         # a replay with the choice takes, recent ones weighing more; 0: not known
        self._chosen = 0.0          # the same, when it was chosen
        self._pause, self._left = PAUSE, TRIAL

    def note(self, seconds, replays):
        """Take the time of some replays into account."""
        if not self._trying:
            weight = min(1.0, seconds / (5 * TRIAL)) if self._seconds else 1.0
            self._seconds += weight * (seconds / replays - self._seconds)
            self._left -= seconds
            if self._chosen and self._seconds > SLOWER * self._chosen:
                self._chosen, self._pause, self._left = 0.0, PAUSE, 0.0
            if self._left <= 0:
                self._trying, self.alone = True, not self.alone
                self._spent = self._replays = 0.0
            return
        self._spent += seconds
        self._replays += replays
        if self._spent >= TRIAL:
            self._end_trial()

    def _end_trial(self):
        tried = self._spent / self._replays
        self._left = self._pause * self._spent
        if tried < GAIN * self._seconds:
            self._seconds, self._pause = tried, PAUSE
        else:
            self.alone, self._pause = not self.alone, min(2 * self._pause, PATIENCE * PAUSE)
        self._trying, self._chosen = False, self._seconds
