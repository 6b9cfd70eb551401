"""`soloist bench ablate` from end to end, and its mistakes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.config.presets import PRESETS, load_config
from soloist.training.run_folder import STATE


@pytest.fixture
def arguments(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_options: dict[str, Any]
) -> list[str]:
    """A command on six scenes with networks of two steps, without its tables."""
    monkeypatch.chdir(tmp_path)
    seen = {**tiny_options["inference"], "category_threshold": 0.0, "score_threshold": 0.0}
    options = {**tiny_options, "inference": seen}
    monkeypatch.setitem(PRESETS, "tiny", load_config("tiny", None, options))
    truth = str(scenes / "annotations.json")
    command = ["bench", "ablate", str(scenes / "images"), "--gt", truth, "--out", "tables"]
    return [*command, "--precision", "fp32", "--train.steps", "2"]


def rows(path: str) -> dict[str, Mapping[str, str]]:
    return {row["row"]: row for row in csv.DictReader(Path(path).read_text().splitlines())}


@pytest.mark.slow
def test_tables_of_trainings_from_end_to_end(arguments: list[str], scenes: Path) -> None:
    truth = str(scenes / "annotations.json")
    command = [*arguments, "--labelled", truth, "--labels", "3"]
    command += ["--self-training.score-threshold", "0.001"]
    assert run_command([*command, "--table", "selftrain", "semantic"]) == DONE
    trials = Path("tables/trials")
    rounds = rows("tables/selftrain.csv")
    semantic = rows("tables/semantic.csv")
    assert [row["AP50 seeds"] for row in rounds.values()] == ["1"] * 4
    assert [row["class AP, finetuned seeds"] for row in semantic.values()] == ["1", "1"]
    results = json.loads((trials / "round-1-seed0" / "results.json").read_text())["segmenter"]
    assert float(rounds["one round"]["AR100 mean"]) == results["mask_ar100"]
    assert (trials / "round-2-seed0" / "pseudo_labels.json").is_file()
    assert (trials / "round-2-seed0" / "report.html").is_file()
    tuned = json.loads((trials / "finetune-the-preset-seed0" / "results.json").read_text())
    expected = tuned["finetuned_by_class"]["mask_ap"]
    assert float(semantic["with, weight 4"]["class AP, finetuned mean"]) == expected
    # What a kill may leave undone is done again, nothing else.
    (trials / "round-2-seed0.json").unlink()
    before = (trials / "round-2-seed0" / STATE).stat().st_mtime_ns
    assert run_command([*command, "--table", "selftrain", "semantic"]) == DONE
    assert (trials / "round-2-seed0" / STATE).stat().st_mtime_ns == before
    assert rows("tables/selftrain.csv") == rounds


@pytest.mark.slow
def test_free_masks_and_networks_that_find_nothing(arguments: list[str]) -> None:
    command = [*arguments, "--self-training.score-threshold", "0.9999"]
    assert run_command([*command, "--table", "masks", "pretrain", "selftrain"]) == DONE
    masks = rows("tables/masks.csv")
    assert all(row["AR100 seeds"] == "1" for row in masks.values())
    same = dict(masks["query scales 1, 1/2, 1/4"])
    assert masks["the preset"] == {**same, "row": "the preset", "paper": ""}
    # The preset of the tests has random weights.
    first, second = rows("tables/pretrain.csv").values()
    assert first["AR100 mean"] == second["AR100 mean"] == masks["the preset"]["AR100 mean"]
    text = Path("tables/selftrain.md").read_text()
    assert "- one round: no pseudo-label of score 0.9999 or more (seed 0)" in text
    assert "- two rounds: what it resumes from has no network (seed 0)" in text


def test_a_dry_run_names_the_trials_and_writes_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*arguments, "--table", "losses", "--seeds", "0", "7", "--dry-run"]) == DONE
    printed = capsys.readouterr().out
    assert "no-average-projections-seed7" in printed
    assert not Path("tables").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param(["--table", "loss"], "no table named 'loss'", id="unknown-table"),
        pytest.param(["--steps", "0"], "--steps must be at least 1, got 0", id="no-step"),
        pytest.param(["--masks", "none.json"], "none.json", id="no-masks"),
        pytest.param(["--gt", "none.json"], "none.json", id="no-truth"),
        pytest.param(["--budget", "soon"], "--budget must be a time", id="no-time"),
        pytest.param(["--labelled", "none.json"], "none.json", id="no-labels"),
        pytest.param(["--backbones", "none.pth"], "none.pth", id="no-backbone"),
    ],
)
def test_a_mistake_ends_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    if more[0] == "--gt":
        place = arguments.index("--gt")
        arguments[place : place + 2] = []
    assert run_command([*arguments, *more]) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("tables").exists()
