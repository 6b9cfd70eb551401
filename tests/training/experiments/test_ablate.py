"""The tables of the ablations: what they show, that they resume, and that they keep to a budget."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from soloist.config.presets import PRESETS
from soloist.errors import RunError
from soloist.runtime.device import Runtime
from soloist.training.experiments import ablate
from soloist.training.experiments.ablate import comma_separated, make_tables, markdown, time_left
from soloist.training.experiments.ablations import Column, Row, Table, Trial, plan_tables, trials_of
from soloist.training.experiments.trials import Materials, Outcome

TINY = PRESETS["tiny"]
MATERIALS = Materials([], Path("free.json"), Path("truth.json"))
METRICS = ("mask_ap", "mask_ap50", "mask_ap75", "mask_ar100", "box_ap50")


def outcome(value: float, seconds: float = 90.0) -> Outcome:
    return Outcome(dict.fromkeys(METRICS, value), seconds)


@pytest.fixture
def losses() -> Table:
    (table,) = plan_tables(["losses"], TINY, seeds=[0, 1])
    return table


def test_both_files_say_the_same(losses: Table) -> None:
    first, second = losses.rows[0].trials["training"], losses.rows[2].trials["training"]
    outcomes = {
        first[0]: outcome(0.1),
        first[1]: outcome(0.3, 150.0),
        second[0]: outcome(0.125),
        second[1]: Outcome({}, 3.0, "no pseudo-label of score 0.3 or more"),
    }
    text = markdown(losses, outcomes, ["made so"])
    assert "\nmade so\n" in text
    assert "| | AP | AP50 | AP75 | AR100 | box AP50 | minutes | the paper |" in text
    shown = " | ".join(["20.0 ± 14.1"] * 5)
    assert f"| the preset | {shown} | 2.0 |  |\n" in text
    assert "| dice of whole masks, no weak loss | 12.5 | 12.5 |" in text
    assert "| 1.7 AP [S] |" in text
    assert "| no average projections | – | – | – | – | – | – | 2.0 AP [S] |" in text
    message = "- dice of whole masks, no weak loss: no pseudo-label of score 0.3 or more (seed 1)"
    assert message in text
    rows = list(csv.DictReader(comma_separated(losses, outcomes).splitlines()))
    assert [row["row"] for row in rows] == [row.title for row in losses.rows]
    assert float(rows[0]["AP mean"]) == pytest.approx(0.2)
    assert float(rows[0]["AP spread"]) == pytest.approx(0.02**0.5)
    assert (rows[0]["AP seeds"], rows[2]["AP seeds"], rows[3]["AP seeds"]) == ("2", "1", "0")
    assert (rows[3]["AP mean"], rows[0]["seconds"]) == ("", "240.0")


def test_a_row_takes_each_figure_from_the_right_trial() -> None:
    trained = Trial("trained", "training", TINY)
    tuned = Trial("tuned", "finetuning", TINY, trained)
    columns = (Column("AP", "training", "mask_ap"), Column("class AP", "finetuning", "mask_ap"))
    row = Row("with", {"training": (trained,), "finetuning": (tuned,)})
    table = Table("semantic", "T", columns, (row,))
    figures = {trained: outcome(0.1, 60.0), tuned: outcome(0.2, 30.0)}
    assert "| with | 10.0 | 20.0 | 1.5 |  |" in markdown(table, figures)
    assert "| with | 10.0 | – | – |  |" in markdown(table, {trained: outcome(0.1)})


def test_the_time_left_follows_from_what_is_done() -> None:
    tables = plan_tables(["masks", "losses"], TINY, seeds=[0])
    masks, training = trials_of(tables)[:2], [t for t in trials_of(tables) if t.kind == "training"]
    assert time_left(training, {}) == ""
    assert time_left(training[1:3], {training[0]: outcome(0.1, 300.0)}) == "; about 10 min left"
    left = [masks[0], *training[1:3]]
    assert time_left(left, {training[0]: outcome(0.1, 300.0)}) == "; more than 10 min left"
    assert time_left(left[:1], {masks[1]: Outcome({}, 5.0, "failed")}) == ""


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for the trials: notes their names, and is killed at the third."""
    names: list[str] = []
    kept: dict[Trial, Outcome] = {}

    def stand_in(trial: Trial, *_: object) -> Outcome:
        names.append(trial.name)
        if len(names) == 3:
            raise KeyboardInterrupt
        kept[trial] = outcome(0.1 * len(names))
        return kept[trial]

    monkeypatch.setattr(ablate, "do_trial", stand_in)
    monkeypatch.setattr(ablate, "find_outcome", lambda trial, *_: kept.get(trial))
    return names


def test_tables_that_were_stopped_get_what_is_left(
    tmp_path: Path, done: list[str], losses: Table, runtime: Runtime
) -> None:
    def make() -> list[Path]:
        return make_tables([losses], MATERIALS, tmp_path, runtime)

    with pytest.raises(KeyboardInterrupt):
        make()
    assert "| the preset | 10.0 |" in (tmp_path / "losses.md").read_text()
    assert make() == [tmp_path / "losses.md"]
    assert done[2] == done[3]
    assert len(done) == len(trials_of([losses])) + 1
    make()
    assert len(done) == len(trials_of([losses])) + 1
    assert "–" not in (tmp_path / "losses.md").read_text()
    assert (tmp_path / "losses.csv").is_file()


def test_no_trial_begins_after_the_budget(
    tmp_path: Path,
    done: list[str],
    losses: Table,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    original: Callable[..., Outcome] = vars(ablate)["do_trial"]

    def slow(*arguments: object) -> Outcome:
        now[0] += 100.0
        return original(*arguments)

    monkeypatch.setattr(ablate, "do_trial", slow)
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        make_tables([losses], MATERIALS, tmp_path, runtime, budget_seconds=150.0)
    assert len(done) == 2
    left = len(trials_of([losses])) - 2
    assert f"{left} trials are left; the same command does them" in caplog.text


def test_a_trial_of_other_settings_is_not_mixed_in(
    tmp_path: Path, losses: Table, runtime: Runtime
) -> None:
    trial = losses.rows[0].trials["training"][0]
    folder = tmp_path / ablate.TRIALS
    folder.mkdir()
    record = '{"settings": {}, "figures": {}, "seconds": 1, "note": ""}'
    (folder / f"{trial.name}.json").write_text(record)
    with pytest.raises(RunError, match="other settings than those asked for"):
        make_tables([losses], MATERIALS, tmp_path, runtime)
