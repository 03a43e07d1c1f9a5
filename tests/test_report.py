"""The report of a run, the comparison of runs, and the commands for single pictures and learning rates."""
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from trainings import dataset, network, optimizer_of, trained  # noqa: E402

from cnn_numba import CrossEntropyLoss, InputError, Recipe, Trainer  # noqa: E402
from cnn_numba.commands import main as cli  # noqa: E402
from cnn_numba.kernels.lock import locked  # noqa: E402
from cnn_numba.lr_range import lr_range_test  # noqa: E402
from cnn_numba.pictures import as_svg, style  # noqa: E402
from cnn_numba.report import PICTURES, LiveReport, Study, comparison_page, page, report_page  # noqa: E402
from cnn_numba.run_folder import RunFiles, RunFolder  # noqa: E402

SHORT = ["--dataset", "digits", "--train-size", "200", "--test-size", "100", "--serial", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "first"
    assert cli.main(["--run", str(path), *SHORT, "--epochs", "2"]) == 0
    return RunFolder(path)


def figures(text):
    return re.findall(r"<h3>([^<]*)</h3>", text)


def test_a_training_leaves_a_report_with_all_pictures(run):
    text = run.report.read_text()
    for title, _ in page.TITLES.values():
        assert title in figures(text)
    names = {path.stem for path in run.pictures.iterdir()}
    assert names == set(PICTURES) | {"features-2", "features-3"}
    for path in run.pictures.iterdir():
        ET.parse(path)
    assert len(text) < 1_500_000 and "Finished, 2 of 2 epochs, test accuracy" in text
    assert "refresh" not in text


def test_the_page_needs_nothing_from_elsewhere(run):
    text = run.report.read_text()
    assert "default-src 'none'" in text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
    assert addresses and all(each.startswith(("#", "data:")) for each in addresses)
    assert len(re.findall(r'\bid="([^"]+)"', text)) == len(set(re.findall(r'\bid="([^"]+)"', text)))


def test_the_report_is_written_again_from_the_files(run, capsys):
    run.report.unlink()
    assert cli.main(["report", str(run.path), "--serial"]) == 0
    assert f"Wrote {run.report}" in capsys.readouterr().out and "Most wrong" in run.report.read_text()


def test_a_run_without_its_data_has_the_other_pictures(run):
    def gone(recipe):
        raise InputError("the data set has moved")
    study = Study.of_run(run, gone)
    svgs = {name: as_svg(study.picture(name)) for name in ("curves", "architecture", "filters")}
    text = report_page(study, svgs, ["Most wrong: the data set has moved"])
    assert "Loss and accuracy" in text and "Left out: Most wrong: the data set has moved" in text
    with pytest.raises(InputError, match="the data set has moved"):
        study.picture("errors")


def test_names_are_escaped_wherever_they_occur(run):
    bad = "<img src=x onerror=alert(1)>&\"'\x1b[2J"
    data = dataset(classes=(bad, "b", "c", "d", "e"))
    model, history = trained(data, epochs=1)
    recipe = replace(Recipe(dataset="digits"), model=f"{bad}.json")
    study = Study(bad, recipe, history, {}, model.eval(), data, info=bad)
    svgs = {name: as_svg(study.picture(name)) for name in PICTURES if name not in ("filters", "times")}
    text = report_page(study, svgs, [bad]) + comparison_page([study, study])
    assert "<img" not in text and "\x1b" not in text and "&lt;img src=x" in text
    for svg in svgs.values():
        ET.fromstring(svg)


def test_a_running_training_reloads_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_numba.report.live.LEAST", 0)
    run, model = RunFolder(tmp_path / "run"), network()
    run.path.mkdir()
    trainer, files = Trainer(model, dataset(), optimizer_of(model), measure_norm=True), RunFiles(run)
    recipe = Recipe(dataset="digits", epochs=3)
    seen = []
    trainer.fit(2, [files, LiveReport(run, recipe, files), lambda *_: seen.append(run.report.read_text())])
    assert '<meta http-equiv="refresh" content="5">' in seen[0] and "Running, 1 of 3 epochs done" in seen[0]
    assert figures(seen[0]) == ["Loss and accuracy", "Learning rate and gradient", "Epochs", "The network, to scale",
                                "Filters of the first convolution", "Settings"]


def test_a_run_whose_lock_is_held_is_running(run):
    assert not Study.of_run(run).running
    with locked(run.path / ".lock", 0):
        assert Study.of_run(run).running
    assert not Study.of_run(run).running


def test_the_last_report_is_written_once_in_a_while(tmp_path):
    run, model = RunFolder(tmp_path), network()
    trainer, files = Trainer(model, dataset(), optimizer_of(model)), RunFiles(run)
    trainer.fit(2, [files, LiveReport(run, Recipe(), files)])
    assert not run.report.exists()                      # within the first seconds


def test_several_runs_are_compared(run, tmp_path, monkeypatch, capsys):
    other = tmp_path / "first"
    assert cli.main(["--run", str(other), *SHORT, "--epochs", "1", "--lr", "0.01", "--no-report"]) == 0
    assert not (other / "report.html").exists()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", str(run.path), str(other)]) == 0
    text = (tmp_path / "comparison.html").read_text()
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr.*?</tr>", text)]
    assert ["first (1)", "first (2)"] == [row[0] for row in rows if row and row[0].startswith("first")]
    assert ["lr", "0.03", "0.01"] in rows and ["epochs", "2", "1"] in rows
    assert not any(row and row[0] == "dataset" for row in rows)
    assert f"{RunFolder(other).read_result()['test_accuracy']:.2f} %" in text


def test_a_page_that_would_be_too_large_names_its_pictures(run, monkeypatch):
    study = Study.of_run(run)
    monkeypatch.setattr(page, "LARGEST", 20_000)
    text = report_page(study, {name: as_svg(study.picture(name)) for name in ("curves", "rates", "architecture")})
    assert "The picture is large: see pictures/rates.svg" in text and len(text) < 40_000


# ---- single pictures ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("words", (["curves"], ["errors"], ["filters"]))
def test_single_pictures_of_a_run(run, tmp_path, words, capsys):
    file = tmp_path / "a.svg"
    assert cli.main(["plot", *words, str(run.path), "--output", str(file), "--serial"]) == 0
    ET.parse(file)
    assert capsys.readouterr().out == f"Wrote {file}\n"


def test_pictures_of_a_model_a_network_and_augmentation(run, tmp_path):
    data = ["--dataset", "digits", "--serial", "--output", str(tmp_path / "a.png")]
    for words in (["confusion", "--load", str(run.model)], ["architecture", "--model", "lenet5"], ["data"],
                  ["augmentation", "--augment", "shift=1,flip"]):
        if words[0] == "architecture":
            words = [*words, "--dataset", "mnist"][:3]
            assert cli.main(["plot", *words, "--output", str(tmp_path / "a.png")]) == 0
        else:
            assert cli.main(["plot", *words, *data]) == 0
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "a.png").unlink()


@pytest.mark.parametrize("words, sentence", (
    (["plot", "curvs", "."], "did you mean curves?"), (["plot", "curves"], "expected the folder that train --run made"),
    (["plot", "errors"], "expected the folder that train --run made, or --load FILE"),
    (["plot", "augmentation", "--dataset", "digits"], "augmentation needs the changes to show"),
    (["plot", "curves", "."], "is not a run folder: it has no config.json"),
    (["plot", "curves", ".", "--output", "a.gif"], "a.gif: a picture ends in .svg or .png or .pdf"),
    (["report", "no/where"], "argument RUN: no/where does not exist"), (["report", "."], "is not a run folder"),
    (["report", ".", "--output", "a.html"], "argument --output: is for the comparison of several runs"),
    (["lr-find", "--output", "a.gif"], "a.gif: a picture ends in"),
    (["--no-report"], "argument --no-report: needs --run or --resume"),
), ids=lambda value: str(value)[:30])
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, words, sentence, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_missing_matplotlib_is_said_before_the_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(style, "find_spec", lambda name: None)
    assert cli.main(["--run", str(tmp_path / "run"), *SHORT]) == 2
    error = capsys.readouterr().err
    assert "--no-report" in error and "pip install matplotlib" in error and not (tmp_path / "run").exists()
    assert cli.main(["--run", str(tmp_path / "run"), *SHORT, "--epochs", "1", "--no-report"]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 2 and "pip install" in capsys.readouterr().err


# ---- the learning rate ----------------------------------------------------------------------------------------------
def test_the_range_test_finds_where_the_loss_falls_and_leaves_all_as_it_was():
    data, model = dataset(train=300), network()
    optimizer = optimizer_of(model)
    before, state = model.state_dict(), optimizer.state()
    found = lr_range_test(model, data, optimizer, CrossEntropyLoss(), batch_size=16, lowest=1e-6, highest=10, steps=60)
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert optimizer.lr == 0.05 and str(optimizer.state()) == str(state)
    ratios = np.diff(np.log(found.rates))
    assert found.rates[0] == 1e-6 and np.allclose(ratios, ratios[0]) and len(found.losses) == len(found.smoothed)
    assert 1e-4 < found.suggestion < 1 and found.suggestion in found.rates
    assert found.smoothed[0] == pytest.approx(found.losses[0])
    k = found.rates.index(found.suggestion)
    assert found.smoothed[k + 1] < found.smoothed[k - 1]


def test_rates_that_teach_nothing_are_said():
    data, model = dataset(train=300), network()
    with pytest.raises(InputError, match="the loss does not fall|no longer finite"):
        lr_range_test(model, data, optimizer_of(model), CrossEntropyLoss(), lowest=1e3, highest=1e6, steps=30)
    with pytest.raises(InputError, match="highest must be above lowest"):
        lr_range_test(model, data, optimizer_of(model), CrossEntropyLoss(), lowest=1, highest=0.1)


def test_lr_find_prints_a_rate_to_copy(tmp_path, capsys):
    file = tmp_path / "lr.svg"
    assert cli.main(["lr-find", "--dataset", "digits", "--serial", "--output", str(file)]) == 0
    out = capsys.readouterr().out
    rate = float(re.search(r"The loss falls fastest at --lr (\S+)", out)[1])
    assert 1e-4 < rate < 1
    assert "learning rate" in file.read_text() and [path.name for path in tmp_path.iterdir()] == ["lr.svg"]


