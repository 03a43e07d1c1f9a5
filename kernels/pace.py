"""How many workers replay a program: all of them, or one where that takes less time.

The number of workers does not change the results, so it may be chosen anew at any time by what replays take.  On an
idle machine all are faster, as long as a phase has a chain for each.  Beside other programs, the worker that has to
wait for a processor holds up the others, and one alone can be several times as fast.
"""

WINDOW = 0.02               # seconds that replays are measured for, at least: several turns of the scheduler
RECENT = 8                  # windows that the mean time of a replay is of, about
ENOUGH = 4                  # windows of a trial: beside other programs, those of one choice differ by a third
CLEAR = 1.3                 # times as long in the first windows of a trial is enough to end it
GAIN = 0.95                 # of the time is little enough to change the choice
LOST = 0.03                 # of the time may be lost in trials of what is slower
PAUSE = 3                   # times as long as the last trial, at least, until the next
PATIENCE = 8                # how much longer the pause becomes while trials change nothing


class Pace:
    """Chooses between one worker and all of them, by the seconds that replays take.

    Read `alone`, and ask `room` how many replays to run, before some replays of a program; call `note` after them.
    """

    def __init__(self):
        self.alone = False                  # whether one worker runs the next replays
        self._cold = True                   # whether the present window is the first of all
        self._trying = False                # whether this choice is on trial
        self._spent, self._replays = 0.0, 0             # of the present window
        self._means = {False: 0.0, True: 0.0}           # seconds of a replay with each choice; 0: not known
        self._windows = 0                   # that the mean of this choice is of
        self._trial = 0.0                   # seconds of the last trial
        self._patience, self._left = 1, 3 * WINDOW

    def room(self, wanted):
        """How many of the replays to run at once, 1 to all: a trial of the slower choice has to be short."""
        replay = self._spent / self._replays if self._replays else self._means[self.alone]
        left = WINDOW - self._spent
        return 1 if not replay else wanted if wanted * replay <= left else max(1, int(left / replay))

    def note(self, seconds, replays):
        """Take the time of some replays into account."""
        self._spent += seconds
        self._replays += replays
        self._trial += seconds
        self._left -= seconds
        if self._spent < WINDOW:
            return
        measured = self._spent / self._replays
        self._spent, self._replays = 0.0, 0
        if self._cold:
            self._cold = False
            return
        self._windows = min(self._windows + 1, RECENT)
        mine, other = self._means[self.alone], self._means[not self.alone]
        mine += (measured - mine) / self._windows
        self._means[self.alone] = mine
        if self._trying and (self._windows >= ENOUGH or mine > CLEAR * other):
            self._end_trial(mine, other)
        elif not self._trying and 0 < other < GAIN * mine:      # it was slower once: the machine has changed
            self._patience = 1
            self._begin_trial()
        elif not self._trying and self._left <= 0:
            self._begin_trial()

    def _begin_trial(self):
        self.alone, self._trying = not self.alone, True
        self._means[self.alone], self._windows, self._trial = 0.0, 0, 0.0

    def _end_trial(self, mine, other):
        if mine < GAIN * other:
            self._patience = 1
        else:
            self.alone, self._windows = not self.alone, RECENT
            self._patience = min(2 * self._patience, PATIENCE)
        lost = 1 - min(mine, other) / max(mine, other)
        self._trying, self._left = False, self._patience * self._trial * max(lost / LOST, PAUSE)
