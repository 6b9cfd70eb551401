"""What the ablations try, before anything is tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from soloist.config import Config
from soloist.config.presets import PRESETS, differences
from soloist.errors import ConfigError
from soloist.training.experiments.ablations import TABLES, Trial, plan_tables, trials_of, with_steps

TINY = PRESETS["tiny"]


def test_all_tables_have_distinct_trials_in_an_order_that_can_be_done() -> None:
    tables = plan_tables(["all"], TINY, seeds=[0, 1], backbones=["densecl-r50"], finetuning=True)
    assert tuple(table.name for table in tables) == TABLES
    trials = trials_of(tables)
    assert len({trial.name for trial in trials}) == len(trials)
    for place, trial in enumerate(trials):
        assert trial.after is None or trial.after in trials[:place], trial.name
    trained = [trial for trial in trials if trial.kind != "free masks"]
    assert {trial.config.seed for trial in trained} == {0, 1}
    assert all(trial.name.endswith(f"-seed{trial.config.seed}") for trial in trained)
    for table in tables:
        kinds = {column.kind for column in table.columns}
        for row in table.rows:
            assert row.trials.keys() == kinds, (table.name, row.title)


def test_each_loss_row_changes_what_its_title_says() -> None:
    (table,) = plan_tables(["losses"], TINY, seeds=[3])
    changed = {
        row.title: differences(replace(TINY, seed=3), row.trials["training"][0].config)
        for row in table.rows
    }
    assert changed == {
        "the preset": [],
        "average projections weighed 0.1, the paper's": ["loss.avg_projection 1.0 -> 0.1"],
        "dice of whole masks, no weak loss": [
            "loss.max_projection 1.0 -> 0.0",
            "loss.avg_projection 1.0 -> 0.0",
            "loss.pairwise_affinity 1.0 -> 0.0",
            "loss.full_mask_dice 0.0 -> 3.0",
        ],
        "no average projections": ["loss.avg_projection 1.0 -> 0.0"],
        "no maximum projections": ["loss.max_projection 1.0 -> 0.0"],
        "no pairwise affinity": ["loss.pairwise_affinity 1.0 -> 0.0"],
    }


@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_rows_that_equal_the_preset_are_its_trial(preset: str) -> None:
    losses, masks = plan_tables(["losses", "masks"], PRESETS[preset], seeds=[0])
    rows = {row.title: row.trials["training"][0] for row in losses.rows}
    same = rows["the preset"] is rows["average projections weighed 0.1, the paper's"]
    assert same == (preset == "paper")
    free = {row.title: row.trials["free masks"][0] for row in masks.rows}
    assert free["the preset"] is free["query scales 1, 1/2, 1/4"]
    part = "the largest part of a mask" if preset == "tiny" else "all parts of a mask"
    assert free["the preset"] is free[part]


def test_tables_share_the_training_of_the_preset() -> None:
    tables = plan_tables(["losses", "selftrain", "inference", "semantic"], TINY, seeds=[0])
    first = {table.name: table.rows[0].trials for table in tables}
    base = first["losses"]["training"][0]
    assert first["selftrain"]["training"][0] is base
    assert first["semantic"]["training"][0] is base
    assert first["inference"]["predictions"][0].after is base


def test_names_do_not_depend_on_the_tables_asked_for() -> None:
    def trials(name: str) -> dict[str, Trial]:
        tables = plan_tables([name], TINY, seeds=[0], finetuning=True)
        return {trial.name: trial for trial in trials_of(tables)}

    together = trials("all")
    for name in TABLES:
        assert trials(name).items() <= together.items()


def test_rounds_go_on_from_each_other() -> None:
    (table,) = plan_tables(["selftrain"], TINY, seeds=[0])
    coarse, first, second, longer = (row.trials["training"][0] for row in table.rows)
    assert coarse.after is None
    assert first.after is coarse
    assert second.after is first
    assert longer.after is None
    assert longer.config.train.steps == 2 * TINY.train.steps


def test_free_masks_are_made_once_whatever_the_seeds_and_losses() -> None:
    changed = replace(TINY, loss=replace(TINY.loss, max_projection=2.0))
    (table,) = plan_tables(["masks"], changed, seeds=[4, 5])
    trials = trials_of([table])
    assert {trial.config.seed for trial in trials} == {4}
    assert all(trial.config.loss == Config().loss for trial in trials)


def test_backbones_are_rows_of_their_own() -> None:
    (table,) = plan_tables(["pretrain"], TINY, seeds=[0], backbones=["densecl-r50"])
    assert [row.title for row in table.rows] == [
        "the preset: resnet18, bundled",
        "random weights",
        "densecl-r50",
    ]
    backbones = [row.trials["free masks"][0].config.backbone for row in table.rows]
    assert [one.weights for one in backbones] == ["bundled", "none", "densecl-r50"]
    assert backbones[2].name == "resnet50"


def test_without_true_labels_nothing_is_finetuned() -> None:
    (table,) = plan_tables(["semantic"], TINY, seeds=[0])
    assert {trial.kind for trial in trials_of([table])} == {"training"}
    assert "class AP, finetuned" not in {column.title for column in table.columns}


@pytest.mark.parametrize(
    ("names", "seeds", "message"),
    [
        pytest.param(["loses"], [0], "no table named 'loses'; did you mean losses", id="unknown"),
        pytest.param(["losses", "losses"], [0], "--table must be different ones", id="twice"),
        pytest.param([], [0], "--table must be different ones", id="none"),
        pytest.param(["losses"], [], "--seeds must be different ones", id="no-seed"),
        pytest.param(["losses"], [1, 1], "--seeds must be different ones", id="a-seed-twice"),
    ],
)
def test_plans_of_nothing_are_refused(names: list[str], seeds: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_tables(names, TINY, seeds=seeds)


def test_warm_ups_follow_the_steps() -> None:
    short = with_steps(TINY, TINY.train.steps // 2)
    assert differences(TINY, short) == [
        "loss.pairwise_warmup_steps 200 -> 100",
        "train.steps 600 -> 300",
        "train.warmup_steps 100 -> 50",
    ]
    with pytest.raises(ConfigError, match="--steps must be at least 1, got 0"):
        with_steps(TINY, 0)
