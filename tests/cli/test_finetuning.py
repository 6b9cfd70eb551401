"""`soloist finetune` and `soloist bench finetune` as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.data.coco.read import load_coco

NAMES = {2: "wide", 5: "other"}


@pytest.fixture
def truth(scenes: Path) -> Path:
    """The scenes with two classes."""
    content = json.loads((scenes / "annotations.json").read_text(encoding="utf-8"))
    content["categories"] = [{"id": key, "name": name} for key, name in NAMES.items()]
    for annotation in content["annotations"]:
        annotation["category_id"] = 2 if annotation["bbox"][2] > annotation["bbox"][3] else 5
    path = scenes / "wide.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: Path, tiny_options: dict[str, Any]
) -> list[str]:
    """Of a training of two steps from scratch into the folder `new`."""
    monkeypatch.chdir(tmp_path)
    tiny_options["train"] |= {"steps": 2}
    tiny_options["inference"] |= {"category_threshold": 0.0, "score_threshold": 0.0}
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny_options), encoding="utf-8")
    where = ["--device", "cpu", "--precision", "fp32", "--config", "tiny.yaml"]
    return ["finetune", str(truth), "--init", "scratch", "--out", "new", *where]


@pytest.mark.slow
def test_classes_go_from_labels_to_predictions_and_figures(
    arguments: list[str], truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*arguments, "--labels", "50%", "--gt", str(truth)]) == DONE
    printed = capsys.readouterr().out
    assert "mean over classes" in printed
    assert "report: new/report.html" in printed
    assert "Nothing was labelled" not in Path("new/report.html").read_text(encoding="utf-8")
    images = str(truth.parent / "images")
    predict = ["predict", images, "--model", "new", "--out", "p.json", "--precision", "fp32"]
    assert run_command(predict) == DONE
    predicted = load_coco("p.json")
    assert predicted.categories == NAMES
    classes = [one.category_id for found in predicted.annotations.values() for one in found]
    assert set(classes) <= set(NAMES)
    assert len(classes) > 0
    command = ["eval", "p.json", str(truth), "--classes", "--out", "figures.json"]
    assert run_command(command) == DONE
    assert "mean over classes, percent" in capsys.readouterr().out
    figures = json.loads(Path("figures.json").read_text())
    results = json.loads(Path("new/results.json").read_text())
    assert figures["use_cats"] == 1
    expected = results["finetuned_by_class"]
    assert {name: figures[name] for name in expected} == expected
    shards = [*predict[:4], "--precision", "fp32", "--out", "shards", "--shard-size", "4"]
    assert run_command(shards) == DONE
    assert run_command(["merge", "shards", "--out", "merged.json"]) == DONE
    merged = load_coco("merged.json")
    assert (merged.categories, merged.annotations) == (NAMES, predicted.annotations)


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    arguments: list[str], truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*arguments, "--labels", "2", "--gt", str(truth), "--dry-run"]) == DONE
    printed = capsys.readouterr().out
    assert "labels: 2 of 6 labelled images" in printed
    assert "of 2 classes" in printed
    assert "start: random weights in every layer" in printed
    assert "2 steps of 2 images, 2.0 passes" in printed
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--labels", "0%"], "--labels must be a percentage", id="no-label"),
        pytest.param(["--labels", "7"], "from 1 to 6, got '7'", id="more-than-there-are"),
        pytest.param(["--labels", "half"], "got 'half'", id="no-number"),
        pytest.param(["--init", "runs/none"], "no trained model in runs/none", id="no-run"),
        pytest.param(["--gt", "none.json"], "got 'none.json'", id="no-truth"),
        pytest.param(["--model.num-classes", "3"], "must be that of the labels, 2, got 3",
                     id="other-number-of-classes"),
        pytest.param(["--backbone.weights", "bundled"], "scratch takes no weights",
                     id="scratch-with-weights"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    if "--init" in more:
        place = arguments.index("--init")
        arguments[place : place + 2] = []
    assert run_command([*arguments, *more]) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_labels_without_classes_end_in_one_line(
    arguments: list[str], scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((scenes / "annotations.json").read_text(encoding="utf-8"))
    del content["categories"]
    (scenes / "nameless.json").write_text(json.dumps(content), encoding="utf-8")
    arguments[1] = str(scenes / "nameless.json")
    assert run_command(arguments) == USER_ERROR
    error = capsys.readouterr().err
    assert "wanted true labels with `categories`" in error
    assert error.count("\n") == 1


def test_a_table_without_steps_ends_in_one_line(
    arguments: list[str], truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "finetune", str(truth), "--run", "r", "--gt", str(truth), "--out", "table"]
    assert run_command([*command, "--labels", "50%", "30%", "--steps", "4"]) == USER_ERROR
    error = capsys.readouterr().err
    assert "--steps must be a positive number for each of the 2 --labels, got [4]" in error
    assert not Path("table").exists()
