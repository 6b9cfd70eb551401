"""The table of starts: its trainings, that it resumes, and its arithmetic."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from soloist.errors import ConfigError, RunError
from soloist.training.experiments import finetune_table
from soloist.training.experiments.finetune_table import (
    Cell,
    comma_separated,
    make_table,
    markdown,
    plan_cells,
)
from soloist.training.run_folder import STATE


def test_cells_are_all_combinations_seed_by_seed() -> None:
    cells = plan_cells("runs/mine", ["2%", "100%"], [], [0, 1])
    assert len(cells) == len({cell.name for cell in cells}) == 12
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6
    assert cells[2] == Cell("run", "runs/mine", "2%", finetune_table.STEPS["2%"], 0)
    assert [cell.name for cell in cells[3:5]] == ["scratch-100pc-seed0", "backbone-100pc-seed0"]


@pytest.mark.parametrize(
    ("labels", "steps", "seeds", "message"),
    [
        pytest.param(["7%"], [], [0], "7% has none of its own", id="no-steps"),
        pytest.param(["2%", "5%"], [100], [0], "for each of the 2 --labels", id="few-steps"),
        pytest.param(["2%"], [0], [0], "must be a positive number", id="zero-steps"),
        pytest.param(["2%", "2%"], [], [0], "--labels must be different", id="a-share-twice"),
        pytest.param(["2%"], [], [], "--seeds must be different", id="no-seed"),
    ],
)
def test_cells_that_make_no_table_are_refused(
    labels: list[str], steps: list[int], seeds: list[int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_cells("run", labels, steps, seeds)


def figures(value: float) -> dict[str, dict[str, float | None]]:
    names = ("mask_ap", "mask_ap50", "box_ap", "mask_ar100")
    return {stage: dict.fromkeys(names, value) for stage in ("finetuned", "finetuned_by_class")}


def test_both_tables_say_the_same() -> None:
    done = [
        (Cell("scratch", "scratch", "2%", 5, 0), figures(0.01)),
        (Cell("scratch", "scratch", "2%", 5, 1), figures(0.03)),
        (Cell("run", "r", "2%", 5, 0), figures(0.125)),
        (Cell("run", "r", "10%", 9, 0), figures(0.5)),
    ]
    text = markdown(done)
    assert "| class mask AP | 2% | 10% |\n|---|---|---|\n" in text
    assert "| scratch | 2.0 ± 1.4 (2) | – |\n" in text
    assert "| run | 12.5 (1) | 50.0 (1) |\n" in text
    rows = list(csv.DictReader(comma_separated(done).splitlines()))
    assert [(row["start"], row["labels"], row["seeds"]) for row in rows] == [
        ("scratch", "2%", "0 1"),
        ("run", "2%", "0"),
        ("run", "10%", "0"),
    ]
    assert float(rows[0]["class mask AP mean"]) == pytest.approx(0.02)
    assert float(rows[0]["class mask AP spread"]) == pytest.approx(0.0002**0.5)
    assert rows[1]["class mask AP spread"] == ""


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for `finetune`: notes its options and leaves a finished run; stops at the third."""
    calls: list[dict[str, Any]] = []

    def stand_in(data: Path, folder: Path, **options: Any) -> None:
        calls.append({"folder": folder.name, **options})
        if len(calls) == 3:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)
        (folder / STATE).write_text('{"finished": true}')
        (folder / "results.json").write_text(json.dumps(figures(0.1 * len(calls))))

    monkeypatch.setattr(finetune_table, "finetune", stand_in)
    return calls


def test_a_table_that_was_stopped_does_what_is_left(
    tmp_path: Path, trainings: list[dict[str, Any]]
) -> None:
    cells = plan_cells("runs/mine", ["2%"], [20], [0, 1])
    given = {"backbone": {"weights": "mine.pth"}, "train": {"batch_size": 2}}

    def make() -> Path:
        return make_table(cells, Path("t.json"), Path("v.json"), tmp_path, options=given)

    with pytest.raises(KeyboardInterrupt):
        make()
    assert "| scratch | 10.0 (1) |" in (tmp_path / "table.md").read_text()
    assert make() == tmp_path / "table.md"
    assert [call["folder"] for call in trainings[2:4]] == ["run-2pc-seed0"] * 2
    assert len(trainings) == 7
    make()
    assert len(trainings) == 7
    text = (tmp_path / "table.md").read_text()
    assert "| backbone | 40.0 ± 28.3 (2) |" in text
    assert (tmp_path / "table.csv").is_file()
    first, second = (call["options"] for call in trainings[:2])
    assert first["train"] == {"steps": 20, "warmup_steps": 2, "batch_size": 2}
    assert first["backbone"] == {}
    assert second["backbone"] == {"weights": "mine.pth"}
    assert trainings[-1]["options"]["seed"] == 1


def test_finished_trainings_of_other_settings_are_not_mixed_in(
    tmp_path: Path, trainings: list[dict[str, Any]]
) -> None:
    for steps in (20, 21):
        cells = plan_cells("runs/mine", ["2%"], [steps], [0])[:1]
        if steps == 21:
            with pytest.raises(RunError, match="other settings than those asked for"):
                make_table(cells, Path("t.json"), Path("v.json"), tmp_path)
        else:
            make_table(cells, Path("t.json"), Path("v.json"), tmp_path)
    assert len(trainings) == 1
