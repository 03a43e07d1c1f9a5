"""Training in several processes over MPI: the same bits, one voice, and one end."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cnn_numba as nn
from cnn_numba.kernels.compiled import JIT

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(sys.executable).with_name("mpiexec")         # of a wheel
MPIEXEC = str(LIBRARY) if LIBRARY.exists() else shutil.which("mpiexec")
NETWORK = """[{"type": "conv2d", "params": {"out_channels": 4, "kernel_size": 3}}, {"type": "batchnorm2d"},
{"type": "relu"}, {"type": "dropout", "params": {"p": 0.2}}, {"type": "maxpool2d", "params": {"kernel_size": 2}},
{"type": "linear", "params": {"out_features": 20}}, {"type": "relu"}, {"type": "linear"}]"""
RUNS = (("net.json", dict(batch_size=80)),
        ("net.json", dict(batch_size=16, optimizer="adam", augment="shift=1", label_smoothing=0.1, clip_norm=1.0)))
TRAIN = """
import hashlib, sys
import numpy as np
import cnn_numba as nn

def digest(model, history):
    numbers = [history[name] for name in ("loss", "accuracy", "gradient_norm", "validation_loss")]
    return hashlib.sha256(model.values.tobytes() + model.statistics.tobytes() + repr(numbers).encode()).hexdigest()

def trained(team, network, **fields):
    data = nn.load_dataset("digits").head(train_size=300).hold_out(50)
    recipe = nn.Recipe(model=network, epochs=2, seed=3, **fields)
    model = recipe.make_model(data)
    trainer = recipe.make_trainer(model, data, measure_norm=True, team=team)
    return trainer, model
"""


def need_mpi():
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    if MPIEXEC is None:
        pytest.skip("there is no mpiexec: pip install mpich")
    if not JIT:
        pytest.skip("interpreted, the trainings take minutes")


@pytest.fixture
def mpi(tmp_path):
    """mpi(ranks, *words) runs Python in so many ranks; the Popen, for `ended`."""
    need_mpi()
    (tmp_path / "net.json").write_text(NETWORK)

    def start(ranks, *words):
        # Open MPI refuses more ranks than processors, and root, unless it is told.
        return subprocess.Popen(
            [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, words)], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {
                "PYTHONPATH": str(ROOT), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMP_WAIT_POLICY": "PASSIVE"})
    return start


def ended(process, within=60):
    """(exit code, stdout, stderr)"""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def command(*words):
    return "-m", "mpi4py", "-m", "cnn_numba", "--mpi", "--dataset", "digits", "--predictions", "0", *words


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The digests of RUNS in one process without MPI, and their numbers of threads."""
    need_mpi()
    folder = tmp_path_factory.mktemp("alone")
    (folder / "net.json").write_text(NETWORK)
    names = {}
    exec(TRAIN, names)
    found = []
    for network, fields in RUNS:
        trainer, model = names["trained"](None, str(folder / network), **fields)
        found.append(names["digest"](model, trainer.fit(2)))
    return found


@pytest.mark.parametrize("ranks", (1, 2, 3))
def test_the_same_bits_on_any_number_of_ranks(mpi, alone, ranks):
    """Batch statistics, dropout, augmentation and reports, too; 16 images are one block, so other ranks are idle."""
    code = TRAIN + f"""
from cnn_numba.mpi import Ranks
ranks = Ranks()
nn.set_execution("parallel", ranks.threads(2))
found = []
for network, fields in {RUNS!r}:
    trainer, model = trained(ranks, network, **fields)
    found.append(digest(model, trainer.fit(2)))
same = ranks.once(lambda: found) == found
sys.exit(0 if ranks.first and print(*found) or same else 1)
"""
    status, out, err = ended(mpi(ranks, "-c", code))
    assert status == 0, err
    assert out.split() == alone


def weights(path):
    return nn.load(path).state_dict()


def test_a_checkpoint_goes_on_with_another_number_of_ranks(mpi, tmp_path):
    """The result is that of one process; one rank prints and writes."""
    settings = "--model", "net.json", "--batch-size", "48", "--schedule", "constant", "--train-size", "300"
    status, out, err = ended(mpi(2, *command(*settings, "--epochs", "1", "--checkpoint", "run", "--log", "log")))
    assert status == 0, err
    assert out.count("Epoch 1 ") == 1 and out.count("Test accuracy") == 1 and err == ""
    assert "2 ranks, which share 3 blocks" in out
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    status, out, err = ended(mpi(3, *command("--resume", "run", "--epochs", "2", "--save", "shared.npz")))
    assert status == 0 and out.count("Resumed from") == 1, err
    run = subprocess.run([sys.executable, ROOT / "main.py", "--dataset", "digits", *settings, "--epochs", "2", "--save",
                          "alone.npz"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    one, other = weights(tmp_path / "alone.npz"), weights(tmp_path / "shared.npz")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_an_error_of_all_is_said_once(mpi):
    status, out, err = ended(mpi(3, *command("--model", "lenet5")))
    assert status == 2 and err.count("error: ") == 1 and "5x5 window" in err
    status, out, err = ended(mpi(2, *command("--epochs", "many")))
    assert status == 2 and err.count("error: ") == 1 and "--epochs" in err and out == ""
    status, out, err = ended(mpi(2, *command("--model", "net.json", "--lr", "1e30", "--epochs", "2")))
    assert status == 1 and err.count("error: ") == 1 and "at step" in err


RANK_1 = """
import os, signal, threading, time
if "1" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK")):
    {}
"""


@pytest.mark.parametrize("what, sentence", (
    ("raise OSError('no such machine')", "rank 1: error: argument --extension: .*no such machine"),
    ("threading.Timer(2, os.kill, (os.getpid(), signal.SIGKILL)).start()", "[Kk]illed|signal 9|lost")))
def test_an_error_of_one_ends_all(mpi, tmp_path, what, sentence):
    """Whether it is raised, or the rank is killed."""
    (tmp_path / "own.py").write_text(RANK_1.format(what))
    start = time.monotonic()
    status, out, err = ended(mpi(2, *command(
        "--model", "net.json", "--epochs", "1000000", "--schedule", "constant", "--extension", "own.py")))
    assert status != 0 and re.search(sentence, out + err) and "Traceback" not in err
    assert time.monotonic() - start < 30


def test_ctrl_c_ends_all_with_a_checkpoint(mpi, tmp_path):
    process = mpi(2, *command("--model", "net.json", "--epochs", "1000000", "--schedule", "constant", "--checkpoint",
                              "run", "--quiet"))
    until = time.monotonic() + 40
    while len(list((tmp_path / "run").glob("*-000*.npz"))) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process, 20)
    assert status == 130 and err.count("Interrupted: --resume run goes on from") == 1, err


def test_a_signal_to_one_rank_stops_all(mpi, tmp_path):
    (tmp_path / "own.py").write_text(RANK_1.format(
        "threading.Timer(3, os.kill, (os.getpid(), signal.SIGTERM)).start()"))
    status, out, err = ended(mpi(2, *command(
        "--model", "net.json", "--epochs", "1000000", "--schedule", "constant", "--extension", "own.py")))
    assert status == 143 and err.count("Interrupted") == 1 and "Test accuracy" not in out


def test_means_every_few_steps(mpi, tmp_path):
    """Not the bits of one process, but a network as good, and a checkpoint that goes on."""
    settings = "--model", "net.json", "--batch-size", "32", "--schedule", "constant", "--exchange-every", "5"
    status, out, err = ended(mpi(2, *command(*settings, "--epochs", "8", "--checkpoint", "run")))
    assert status == 0 and "each on 16 of the 32 images" in out, err
    losses = [float(loss) for loss in re.findall(r"Loss= (\S+)", out)]
    assert losses[-1] < 0.5 * losses[0] and float(re.search(r"Test accuracy: (\S+)", out)[1]) > 80
    status, out, err = ended(mpi(1, *command("--resume", "run", "--epochs", "9", "--exchange-every", "5")))
    assert status == 0 and float(re.search(r"Epoch 9 Loss= (\S+)", out)[1]) < losses[0], err
    status, out, err = ended(mpi(3, *command(*settings)))
    assert status == 2 and err.count("error: ") == 1 and "multiple of the 3 ranks" in err


def test_ranks_that_differ_are_noticed(mpi):
    code = TRAIN + """
from cnn_numba.mpi import Ranks
ranks = Ranks()
trainer, model = trained(ranks, "net.json", batch_size=64)
def disturb(trainer, result):
    model.parameters()[0].value[0] += ranks.rank
try:
    trainer.fit(2, disturb)
except nn.InputError as error:
    print(error)
"""
    status, out, err = ended(mpi(2, "-c", code))
    assert out.count("no longer have the same weights") == 2, err


def test_what_one_rank_finds_all_get(mpi, tmp_path):
    """Arrays, images on the disk, and errors."""
    np.save(tmp_path / "images.npy", np.arange(60, dtype=np.uint8).reshape(5, 1, 3, 4))
    code = """
import numpy as np
from cnn_numba.errors import InputError
from cnn_numba.data.on_disk import ImagesOnDisk
from cnn_numba.mpi import Ranks
ranks = Ranks()
found = ranks.once(lambda: {"big": np.arange(10**6), "text": "x", "disk": ImagesOnDisk("images.npy", 128, np.uint8, 5,
                                                                                     (1, 3, 4))[::2]})
assert np.array_equal(found["big"], np.arange(10**6)) and found["text"] == "x"
assert found["big"].flags.writeable and np.asarray(found["disk"]).sum() == np.arange(60).reshape(5, 12)[::2].sum()
def work():
    raise InputError(f"rank {ranks.rank} cannot")
try:
    ranks.once(work)
except InputError as error:
    print(error)
assert (ranks.in_first(lambda: 7) == 7) == ranks.first and ranks.largest(ranks.rank) == 1
"""
    status, out, err = ended(mpi(2, "-c", code))
    assert status == 0 and out.count("rank 0 cannot") == 2, err


def test_without_mpi4py_the_install_line_is_said():
    code = ("import sys; sys.modules['mpi4py'] = None\nfrom cnn_numba.commands.main import main\n"
            "sys.exit(main(['--mpi']))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == "error: --mpi needs mpi4py and an MPI library: pip install mpi4py mpich\n"


def test_means_need_mpi():
    run = subprocess.run([sys.executable, "main.py", "--exchange-every", "3"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2 and "--exchange-every: needs --mpi" in run.stderr
