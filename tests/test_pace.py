"""The number of workers follows what replays take, whatever else the machine does."""
import pytest

from cnn_numba.kernels.pace import GAIN, PAUSE, SLOWER, TRIAL, Pace


class Machine:
    """A clock: replays take `all` or `one` seconds with all workers and with one."""

    def __init__(self, everyone, one):
        self.pace, self.all, self.one = Pace(), everyone, one

    def run(self, seconds, replays=1):
        """The share of the time that one worker ran alone."""
        spent = alone = 0.0
        while spent < seconds:
            took = replays * (self.one if self.pace.alone else self.all)
            alone += took * self.pace.alone
            self.pace.note(took, replays)
            spent += took
        return alone / spent


@pytest.mark.parametrize("replay", [1e-5, 1e-3, 0.2])
def test_an_idle_machine_runs_with_all_workers(replay):
    machine = Machine(replay, 1.9 * replay)
    machine.run(50 * max(replay, TRIAL))
    assert machine.run(2000 * max(replay, TRIAL)) < 0.01, "trials become rare"


@pytest.mark.parametrize("replay", [1e-5, 1e-3, 0.2])
@pytest.mark.parametrize("delay", [1.2, 30])
def test_one_worker_runs_alone_where_the_others_hold_it_up(replay, delay):
    machine = Machine(delay * replay, replay)
    machine.run(3 * max(delay * replay, TRIAL))
    alone = machine.run(500 * max(delay * replay, TRIAL))
    assert alone > 1 - 2 / PAUSE, "trials take little of the time"


def test_the_choice_follows_the_machine():
    machine = Machine(1e-3, 1.9e-3)
    machine.run(2)
    machine.all = 30e-3                                     # another program wants the processors
    assert machine.run(2) > 0.8
    machine.all = 1e-3                                      # and ends
    machine.run(100 * 30e-3)
    assert machine.run(2) < 0.1


def test_what_is_hardly_faster_changes_nothing():
    machine = Machine(1e-3, 1.01 * GAIN * 1e-3)
    machine.run(1)
    assert machine.run(20) < 0.1
    assert SLOWER > 1 > GAIN
