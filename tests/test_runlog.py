"""The log of a training: what is in a line, and what becomes of it when a process is killed or a disk is full."""
import json
import os
from datetime import datetime

import numpy as np
import pytest

from cnn_numba.errors import InputError
from cnn_numba.files.run_log import RunLog


def lines(path):
    return path.read_bytes().split(b"\n")


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")
    return json.loads(line, parse_constant=refuse)


def test_each_write_is_one_object_with_its_fields_in_order_and_the_time(tmp_path):
    path = tmp_path / "run.jsonl"
    log, before = RunLog(path), datetime.now().astimezone().replace(microsecond=0)
    log.write(epoch=1, loss=0.25, note="first\nline")
    log.write(epoch=2, loss=0.125, accuracy=None)
    first, second, end = lines(path)
    assert end == b""
    first, second = strict(first), strict(second)
    assert before <= datetime.fromisoformat(first.pop("time")) <= datetime.now().astimezone()
    assert list(first.items()) == [("epoch", 1), ("loss", 0.25), ("note", "first\nline")]
    assert (second["epoch"], second["loss"], second["accuracy"]) == (2, 0.125, None)


def test_a_line_is_there_for_others_as_soon_as_it_is_written(tmp_path):
    log = RunLog(tmp_path / "run.jsonl")
    for epoch in range(3):
        log.write(epoch=epoch)
        assert strict(lines(tmp_path / "run.jsonl")[epoch])["epoch"] == epoch


def test_numbers_of_numpy_are_numbers_and_those_that_json_lacks_are_null(tmp_path):
    RunLog(tmp_path / "run.jsonl").write(
        loss=np.float32(0.5), steps=np.int64(7), gradient_norm=np.float64("nan"), per_class=np.array([1.0, np.inf]),
        best={"loss": float("-inf"), "epochs": (1, 2)})
    line = strict(lines(tmp_path / "run.jsonl")[0])
    line.pop("time")
    assert line == {"loss": 0.5, "steps": 7, "gradient_norm": None, "per_class": [1.0, None],
                    "best": {"loss": None, "epochs": [1, 2]}}


def test_a_resumed_training_appends(tmp_path):
    path = tmp_path / "run.jsonl"
    RunLog(path).write(epoch=1)
    RunLog(path).write(epoch=2)
    assert [strict(line)["epoch"] for line in lines(path)[:-1]] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"epoch": 2, "lo', b'{"epoch": 2}'])
def test_a_torn_last_line_spoils_no_other(tmp_path, torn):
    path = tmp_path / "run.jsonl"
    RunLog(path).write(epoch=1)
    with open(path, "ab") as file:
        file.write(torn)
    log = RunLog(path)
    log.write(epoch=3)
    log.write(epoch=4)
    first, middle, *rest, end = lines(path)
    assert (middle, end) == (torn, b"")
    assert [strict(line)["epoch"] for line in (first, *rest)] == [1, 3, 4]


def test_an_unwritable_file_is_said_before_the_work(tmp_path):
    for path in tmp_path, tmp_path / "missing" / "run.jsonl":
        with pytest.raises(InputError) as raised:
            RunLog(path)
        assert str(raised.value).startswith(f"{path} cannot be written") and "\n" not in str(raised.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path):
    log = RunLog(tmp_path / "log")
    (tmp_path / "log").unlink()
    (tmp_path / "log").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"/log cannot be written \(No space left on device\)$"):
        log.write(epoch=1)
