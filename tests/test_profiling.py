"""The profile: its parts are the whole step, and what is said of each is true; how fast anything is, no test asks."""
import re
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba.commands import main as cli
from cnn_numba.inspection import profile as profiling
from cnn_numba.kernels.program import JIT

SHAPE, CLASSES, BATCH = (2, 8, 8), 5, 19
ROOT = Path(__file__).resolve().parents[1]


def model():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Residual([nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)],
                    nn.Conv2d(4, 6, 1, stride=2)), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, CLASSES), seed=1)


def step():
    return profiling.Step(model(), SHAPE, CLASSES, BATCH)


def test_the_parts_have_every_call_of_the_whole_step_once():
    whole = step()

    def calls(programs):
        return Counter(id(call) for program in programs for call in program._keep)

    parts, all_of_it = calls(whole.parts.values()), calls([whole.whole])
    assert sum(parts.values()) == sum(all_of_it.values())
    plan = whole.plan
    for call in plan.prepare_calls + plan.forward_calls + plan.backward_calls + plan.gradient_calls:
        assert parts[id(call)] == all_of_it[id(call)] == call.items


def test_the_parts_in_their_order_do_what_the_whole_step_does():
    networks = []
    for in_parts in False, True:
        network = model()
        steps = profiling.Step(network, SHAPE, CLASSES, BATCH)
        before = network.values.copy()
        for _ in range(3):
            for program in steps.parts.values() if in_parts else [steps.whole]:
                program()
        assert np.any(network.grads) and np.any(network.values != before)
        networks.append(network)
    for name in "values", "grads", "statistics":
        np.testing.assert_array_equal(*(getattr(network, name) for network in networks))


def test_operations_are_those_of_the_textbook():
    steps = step()
    found = {name: steps.operations(layer, wires) for name, layer, wires in steps.plan.layer_calls}
    assert found["0"] == 2 * 2 * (4 * 2 * 9) * 64 * BATCH           # nobody needs the gradient of the images
    assert found["4.body.0"] == 3 * 2 * (6 * 4 * 9) * 4 * BATCH
    assert found["4.shortcut.0"] == 3 * 2 * (6 * 4) * 4 * BATCH
    assert found["7"] == 3 * 2 * (24 * CLASSES) * BATCH
    assert found["1"] == 3 * 2 * 4 * 64 * BATCH
    assert all(found[name] == 0 for name in ("2", "3", "4", "4.body.1", "5", "6"))


def test_times_are_medians_without_the_start_of_a_program(monkeypatch):
    """Each part takes as many seconds as its place, twice as long in one iteration; a start takes half a second."""
    steps, clock, wait = step(), [0.0], count()
    late = {}

    def part(seconds):
        def program():
            late[seconds] = late.get(seconds, 0) + 1
            clock[0] += 0.5 + seconds * (2 if late[seconds] == profiling.WARM + 2 else 1)
        return program

    steps.parts = {key: part(next(wait)) for key in steps.parts}
    steps.whole = part(1000.0)
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(profiling, "measure_peak", lambda threads, seconds: (3e9, 0))
    monkeypatch.setattr(profiling, "Program", lambda phases: part(0))
    profile = profiling.measure(steps, 3)
    assert (profile.step, profile.start, profile.peak) == (1000, 0.5, 3e9 if JIT else None)
    rows = {row.name: row for row in profile.rows}
    expected = {key: float(k) for k, key in enumerate(steps.parts)}
    assert rows["gather"].forward == expected["gather", "forward"] and rows["gather"].backward is None
    assert rows["0 Conv2d"].forward == expected["0", "forward"]
    assert rows["0 Conv2d"].backward == expected["0", "backward"]
    assert rows["update"].backward == expected["update", "backward"] == len(expected) - 1
    assert sum(row.seconds for row in profile.rows) == sum(expected.values())
    assert [name for name, row in rows.items() if not row.runs] == ["2 ReLU", "4.body.1 ReLU", "5 ReLU"]


def test_the_command_lists_every_part(capsys):
    flags = "--model", "lenet5", "--image-shape", "1x12x12", "--batch-size", "3", "--iterations", "2", "--classes", "4"
    assert cli.main(["profile", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    end = lines.index("", 5)
    rows = [re.split(r"  +", line) for line in lines[5:end]]
    names = [row[0] for row in rows]
    assert names == ["gather", "0 Conv2d", "1 ReLU", "2 MaxPool2d", "3 Conv2d", "4 ReLU", "5 MaxPool2d", "6 Flatten",
                     "7 Linear", "8 ReLU", "9 Linear", "10 ReLU", "11 Linear", "loss", "update", "sum"]
    shares = [float(found[1]) for line in lines[5:end - 1] if (found := re.search(r"([\d.]+) %", line))]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    number = r"\d[\d,.]*"
    assert re.fullmatch(rf"The parts take {number} ms, a whole training step {number} ms: {number} images/s", lines[-1])


def test_a_network_that_does_not_fit_is_one_sentence(capsys):
    assert cli.main(["profile", "--model", "lenet5", "--image-shape", "1x4x4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["check-gradients", "profile"])
def test_help_imports_none_of_the_heavy_packages(command):
    code = ("import sys; from cnn_numba.commands.main import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit: print(sorted({'numba', 'numpy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done
    assert "--batch-size" in done.stdout
