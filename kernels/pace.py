"""How many workers replay a program: all of them, or one where that takes less time.

The number of workers does not change the results, so it may be chosen anew at any time by what replays take.  On an
idle machine all are faster, as long as a phase has a chain for each.  Beside other programs, the worker that has to
wait for a processor holds up the others, and one alone can be several times as fast.
"""

TRIAL = 0.02                # seconds that replays are measured for, at least: several turns of the scheduler
PAUSE = 25                  # times as long as the last trial, until the next
PATIENCE = 32               # how much longer the pause becomes while trials change nothing
SLOWER = 1.5                # times the pace of the last choice, which is then tried again at once
GAIN = 0.95                 # of the time is little enough to change the choice


class Pace:
    """Chooses between one worker and all of them, by the seconds that replays take.

    Read `alone` before some replays of a program, and call `note` after them.
    """

    def __init__(self):
        self.alone = False                  # whether one worker runs the next replays
        self._trying = False                # whether they are a trial of the other choice
        self._spent, self._replays = 0.0, 0
        self._seconds = 0.0                 # that a replay took with the choice, when it was last measured
        self._chosen = 0.0                  # the same when it was chosen; 0: not yet
        self._pause, self._left = PAUSE, 3 * TRIAL          # the first measurement is that of a cold start

    def note(self, seconds, replays):
        """Take the time of some replays into account."""
        self._spent += seconds
        self._replays += replays
        self._left -= seconds
        if self._spent < TRIAL:
            return
        measured, spent = self._spent / self._replays, self._spent
        self._spent, self._replays = 0.0, 0
        if self._trying:
            self._end_trial(measured, spent)
            return
        self._seconds = measured
        if self._chosen and measured > SLOWER * self._chosen:
            self._chosen, self._pause, self._left = 0.0, PAUSE, 0.0
        if self._left <= 0:
            self._trying, self.alone = True, not self.alone

    def _end_trial(self, measured, spent):
        self._left = self._pause * spent
        if measured < GAIN * self._seconds:
            self._seconds, self._pause = measured, PAUSE
        else:
            self.alone, self._pause = not self.alone, min(2 * self._pause, PATIENCE * PAUSE)
        self._trying, self._chosen = False, self._seconds
