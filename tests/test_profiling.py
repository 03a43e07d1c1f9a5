"""The profile: its parts are the whole step, and their numbers are right.  No test depends on the speed of anything."""
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba.commands import main as cli
from cnn_numba.commands.profile import lines as lines_of
from cnn_numba.inspection import peak, timing
from cnn_numba.inspection import profile as profiling
from cnn_numba.kernels.compiled import JIT

SHAPE, CLASSES, BATCH = (2, 8, 8), 5, 19
ROOT = Path(__file__).resolve().parents[1]


def model(*before_flatten):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Residual([nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)],
                    nn.Conv2d(4, 6, 1, stride=2)), nn.ReLU(), *before_flatten,
        nn.Flatten(), nn.Linear(24, CLASSES), seed=1)


def step():
    return profiling.Step(model(), SHAPE, CLASSES, BATCH)


def test_the_parts_have_every_call_of_the_whole_step_once():
    whole = step()

    def calls(programs):
        return [call for program in programs for call in program.calls]

    def kernels(calls):
        """`reuse` has put calls that work on memory of the workers in the place of some."""
        return Counter(call.kernel.__name__ for call in calls)

    parts, all_of_it = calls(program for _, program in whole.parts), calls([whole.whole])
    assert kernels(parts) == kernels(all_of_it)
    plan, times = whole.plan, Counter(map(id, parts))
    for call in (*plan.calls.prepare, *plan.calls.forward, *plan.calls.backward, *plan.calls.gradients):
        assert times[id(call)] == call.items


@pytest.mark.parametrize("before_flatten", [nn.ReLU, nn.Tanh])
def test_the_parts_in_their_order_do_what_the_whole_step_does(before_flatten):
    """Before a Tanh, the backward pass of the container begins with the gradient of its ReLU."""
    networks = []
    for in_parts in False, True:
        network = model(before_flatten())
        steps = profiling.Step(network, SHAPE, CLASSES, BATCH)
        before = network.values.copy()
        for _ in range(3):
            for program in [program for _, program in steps.parts] if in_parts else [steps.whole]:
                program()
        assert np.any(network.grads) and np.any(network.values != before)
        networks.append(network)
    for name in "values", "grads", "statistics":
        np.testing.assert_array_equal(*(getattr(network, name) for network in networks))


def test_operations_are_those_of_the_textbook():
    found = step().operations()
    assert found["0"] == 2 * 2 * (4 * 2 * 9) * 64 * BATCH           # the gradient of the images is not computed
    assert found["4.body.0"] == 3 * 2 * (6 * 4 * 9) * 4 * BATCH
    assert found["4.shortcut.0"] == 3 * 2 * (6 * 4) * 4 * BATCH
    assert found["7"] == 3 * 2 * (24 * CLASSES) * BATCH
    assert found["1"] == 3 * 2 * 4 * 64 * BATCH
    assert all(found[name] == 0 for name in ("2", "3", "4", "4.body.1", "5", "6"))


def test_times_are_the_fastest_without_the_start_of_a_program(monkeypatch):
    """Each part takes as many seconds as its position, but twice as long in all iterations but one, and half as long in
    those that do not count; a start takes half a second."""
    steps, clock, calls = step(), [0.0], Counter()

    def part(seconds):
        def program():
            calls[seconds] += 1
            counted = calls[seconds] - profiling.WARM
            clock[0] += 0.5 + seconds * (0.5 if counted < 1 else 1 if counted == 2 else 2)
        return program

    keys = [key for key, _ in steps.parts]
    steps.parts = [(key, part(k)) for k, key in enumerate(keys)]
    steps.whole = part(300.0)
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(profiling, "measure_peak", lambda threads, seconds: (3e9, 0))
    monkeypatch.setattr(profiling, "Program", lambda phases: part(0))
    profile = profiling.measure(steps, 3)
    assert (profile.step, profile.start, profile.peak) == (300, 0.5, 3e9 if JIT else None)
    rows = {part.name: part for part in profile.parts}
    expected = {key: float(sum(k for k, other in enumerate(keys) if other == key)) for key in keys}
    assert rows["gather"].forward == expected["gather", "forward"] and rows["gather"].backward is None
    assert rows["0 Conv2d"].forward == expected["0", "forward"]
    assert rows["0 Conv2d"].backward == expected["0", "backward"]
    assert rows["update"].backward == expected["update", "backward"] == len(keys) - 1
    assert sum(part.seconds for part in profile.parts) == sum(expected.values())
    copies = any(name == "6" and wires.backward for name, _, wires in steps.plan.stages)     # where tiles are wide
    assert [name for name, row in rows.items() if not row.runs] == [
        "2 ReLU", "3 MaxPool2d", "4.body.1 ReLU", "5 ReLU", *["6 Flatten"][copies:]]


def test_the_command_lists_every_part(capsys):
    flags = "--model", "lenet5", "--image-shape", "1x12x12", "--batch-size", "3", "--iterations", "2", "--classes", "4"
    assert cli.main(["profile", *flags, "--threads", "1"]) == 0     # other tests hold up the second of two workers
    lines = capsys.readouterr().out.splitlines()
    first, end = 5, lines.index("", 5)
    rows = [re.split(r"  +", line) for line in lines[first:end] if line.strip("- ")]
    names = [row[0] for row in rows]
    assert names == ["gather", "0 Conv2d", "1 ReLU", "2 MaxPool2d", "3 Conv2d", "4 ReLU", "5 MaxPool2d", "6 Flatten",
                     "7 Linear", "8 ReLU", "9 Linear", "10 ReLU", "11 Linear", "loss", "update", "sum"]
    number = r"(<?\d[\d,.]*|-)"
    assert re.fullmatch(rf"The parts take {number} ms, a whole training step {number} ms: {number} images/s", lines[-1])


def profile_of(*seconds, operations=3 * 10**9, step=1.0, load=0.0):
    parts = [profiling.PartTime(f"part {k}", (3,), *both, operations=operations) for k, both in enumerate(seconds)]
    return profiling.Profile(parts, step, 1e-6, 4e9, load)


def test_shares_and_speeds_are_those_of_the_parts():
    profile = profile_of((0.5, 0.25), (0.25, None), (None, None))
    assert [profile.share(part) for part in profile.parts] == [0.75, 0.25, None]
    assert [part.speed for part in profile.parts] == [4e9, 12e9, None]
    assert profile.total.seconds == 1 and profile.total.speed == 9e9
    lines = "\n".join(map(str, lines_of(profile, 64))).splitlines()
    assert lines[2].split() == ["part", "0", "3", "500.000", "250.000", "75.0", "%", "4.00", "100", "%"]
    assert lines[4].split() == ["part", "2", "3", "-", "-", "-", "-", "-"]
    assert lines[6].split() == ["sum", "750.000", "250.000", "100.0", "%", "9.00", "225", "%"]
    assert lines[-1] == "The parts take 1000.000 ms, a whole training step 1000.000 ms: 64 images/s"


def test_parts_too_short_to_be_measured_are_said_to_be():
    """A busy machine: the start of a program took longer than some parts, or than all of them."""
    profile = profile_of((0.0, 0.0), (0.0, None), step=0.0)
    assert [profile.share(part) for part in profile.parts] == [None, None]
    assert [part.speed for part in profile.parts] == [None, None]
    lines = "\n".join(map(str, lines_of(profile, 64))).splitlines()
    assert lines[2].split() == ["part", "0", "3", "<0.001", "<0.001", "-", "-", "-"]
    assert lines[3].split() == ["part", "1", "3", "<0.001", "-", "-", "-", "-"]
    assert lines[-1] == "The parts take <0.001 ms, a whole training step <0.001 ms: - images/s"
    assert not any("inf" in line or "nan" in line for line in lines)


@pytest.mark.parametrize("load, told", [(0.1, False), (1.5, True)])
def test_other_programs_are_told_of(load, told):
    lines = "\n".join(map(str, lines_of(profile_of((0.5, 0.5), load=load), 64)))
    assert f"Other programs used {load} of" in lines
    assert ("times can be too long" in lines) == told


def test_the_load_of_other_programs_is_without_this_one(monkeypatch, tmp_path):
    """In 10 s, all processors were busy for 25 s, 4 of them for other virtual machines, and this process used 10 s."""
    clock, own, ticks = [5.0], [1.0], os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(timing, "STAT", str(tmp_path / "stat"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: own[0])
    (tmp_path / "stat").write_text(f"cpu {2 * ticks} 0 0 500 9 0 0 0 0 0\n")
    meter = timing.LoadMeter()
    clock[0] += 10
    own[0] += 10
    user, interrupts, stolen = 20 * ticks, ticks // 2, 4 * ticks
    (tmp_path / "stat").write_text(f"cpu {user} {ticks} {ticks} 900 99 {interrupts} {interrupts} {stolen} 0 0\n")
    assert meter.read() == 1.5


def test_where_the_system_does_not_count_the_load_average_tells(monkeypatch, tmp_path):
    clock, own = [5.0], [0.0]
    monkeypatch.setattr(timing, "STAT", str(tmp_path / "none"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: own[0])
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (2.5, 0, 0), raising=False)
    meter = timing.LoadMeter()
    clock[0], own[0] = 15.0, 10.0
    assert meter.read() == 1.5
    monkeypatch.delattr(timing.os, "getloadavg")
    assert meter.read() == 0.0


def test_a_profile_whose_parts_contradict_the_whole_is_measured_again_and_refused(monkeypatch):
    found = [profile_of((7.0, 0.1)), profile_of((0.1, 0.1)), profile_of((0.5, 0.4))]
    monkeypatch.setattr(profiling, "_measure", lambda *_: found.pop(0))
    assert profiling.measure(None, 1).total.seconds == 0.9
    monkeypatch.setattr(profiling, "_measure", lambda *_: profile_of((7.0, 0.1), load=1.9))
    with pytest.raises(nn.InputError, match=r"7.1 times as long as the whole, because other programs used 1.9 "):
        profiling.measure(None, 1)


@pytest.mark.skipif(not JIT, reason="the peak is that of compiled code")
def test_a_peak_that_the_threads_did_not_reach_together_is_none(monkeypatch):
    """Two threads that take turns with others reach less than one alone."""
    monkeypatch.setattr(peak, "_programs", lambda threads: (threads, 1e9, "move", 1e9))
    for seconds, reached in (0.015, (1e9 / 0.015, 1e10)), (0.1, None):
        times = {1: 0.01, 2: seconds, "move": 0.1}
        monkeypatch.setattr(peak, "fastest_call", lambda program, _, times=times: times[program])
        assert peak.measure_peak(2, 0.01) == reached


def test_a_network_that_does_not_fit_is_one_sentence(capsys):
    assert cli.main(["profile", "--model", "lenet5", "--image-shape", "1x4x4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["check-gradients", "profile", "summary", "benchmark"])
def test_help_does_not_import_numba(command):
    code = ("import sys; from cnn_numba.commands.main import main\n"
            "main(sys.argv[1:]); print(sorted({'numba', 'torch', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done
    assert "--model" in done.stdout
