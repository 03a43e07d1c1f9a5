"""The number of workers follows what replays take, whatever else the machine does."""
import numpy as np
import pytest

from cnn_numba.kernels.pace import CLEAR, GAIN, LOST, WINDOW, Pace


class Machine:
    """A clock: replays take `all` or `one` seconds with all workers and with one, or up to `noise` times that more or
    less."""

    def __init__(self, everyone, one, noise=0.0):
        self.pace, self.all, self.one = Pace(), everyone, one
        self.noise, self.rng = noise, np.random.default_rng(0)

    def run(self, seconds, replays=64):
        """The share of the time that one worker ran alone."""
        spent = alone = 0.0
        while spent < seconds:
            left = replays
            while left:
                count = self.pace.room(left)
                took = count * (self.one if self.pace.alone else self.all) * self.rng.uniform(
                    1 - self.noise, 1 + self.noise)
                alone += took * self.pace.alone
                self.pace.note(took, count)
                spent += took
                left -= count
        return alone / spent


@pytest.mark.parametrize("replay", [1e-5, 1e-3, 0.2])
def test_an_idle_machine_runs_with_all_workers(replay):
    machine = Machine(replay, 1.9 * replay)
    machine.run(50 * max(replay, WINDOW))
    assert machine.run(5000 * max(replay, WINDOW)) < 0.01, "trials become rare"


@pytest.mark.parametrize("replay", [1e-5, 1e-3, 0.2])
@pytest.mark.parametrize("delay", [1.2, 30])
def test_one_worker_runs_alone_where_the_others_hold_it_up(replay, delay):
    machine = Machine(delay * replay, replay)
    machine.run(10 * max(delay * replay, WINDOW))
    alone = machine.run(500 * max(delay * replay, WINDOW))
    assert (1 - alone) * (1 - 1 / delay) < LOST, "trials lose little of the time"


@pytest.mark.parametrize("everyone, one, alone", [(1e-3, 1.5e-3, 0), (1e-3, 0.7e-3, 1), (30e-3, 20e-3, 1)])
def test_replays_whose_times_differ_by_half_are_told_apart(everyone, one, alone):
    machine = Machine(everyone, one, noise=0.5)
    machine.run(1)
    assert abs(machine.run(60) - alone) < 0.1


def test_the_choice_follows_the_machine():
    machine = Machine(1e-3, 1.9e-3)
    machine.run(2)
    machine.all = 30e-3                                     # another program wants the processors
    assert machine.run(4) > 0.8
    machine.all = 1e-3                                      # and ends
    machine.run(10)
    assert machine.run(2) < 0.1


def test_a_trial_of_what_is_slow_is_short():
    machine = Machine(1e-3, 0.5e-3)
    machine.run(1)
    machine.all = 1.0
    while machine.pace.alone:
        machine.pace.note(machine.one, 1)
    assert machine.pace.room(64) == 1
    machine.pace.note(machine.all, 1)
    assert machine.pace.alone


def test_the_replays_of_a_window_run_at_once():
    choice = Pace()
    assert choice.room(64) == 1, "how long they take is not known yet"
    choice.note(WINDOW / 100, 1)
    assert choice.room(64) == 64
    assert choice.room(1000) == 99


def test_what_is_hardly_faster_changes_nothing():
    machine = Machine(1e-3, 1.01 * GAIN * 1e-3)
    machine.run(1)
    assert machine.run(60) < 0.1
    assert CLEAR > 1 > GAIN
