from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from soloist.checkpoints.files import load_state, load_tensors
from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.coco.write import annotation_records, write_coco
from soloist.data.sources import find_images
from soloist.errors import DataError, StoppedError, TrainingError
from soloist.models.build import load_solo
from soloist.runtime.device import Runtime
from soloist.structures import SOLOOutputs
from soloist.training import train as train_module
from soloist.training.run_folder import RunFolder, open_run, read_metrics
from soloist.training.train import AveragedWeights, StepPlan, train

STEPS = 6
TERMS = {
    "loss_category",
    "loss_semantic",
    "loss_max_projection",
    "loss_avg_projection",
    "loss_pairwise_affinity",
}

Outcome = tuple[bytes, list[dict[str, float]]]


@pytest.fixture(scope="module")
def labels(scenes: Path) -> CocoFile:
    """The true masks with embeddings, as `soloist masks` would write them."""
    truth = load_coco(scenes / "annotations.json")
    records = annotation_records(
        [one for image in truth.images for one in truth.annotations[image.id]]
    )
    embeddings = np.random.default_rng(0).standard_normal((len(records), 16), dtype=np.float32)
    path = scenes / "masks.json"
    write_coco(path, truth.images, records, embeddings=embeddings)
    return load_coco(path)


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return changed(tiny_config, train={"steps": STEPS, "ema_decay": 0.9})


def changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    return override(config, sections, where="test")


def opened(path: Path, config: Config) -> RunFolder:
    run = open_run(path, command="train", inputs={}, config=config, overwrite=False)
    run.close()
    return run


@pytest.fixture
def trained(scenes: Path, labels: CocoFile, runtime: Runtime) -> Callable[..., RunFolder]:
    """Trains in a folder, resuming where an earlier call was killed."""

    def start(
        path: Path, config: Config, *, images: Path | None = None, **options: Any
    ) -> RunFolder:
        run = opened(path, config)
        found = find_images(scenes / "images" if images is None else images)
        folder = options.pop("model_folder", run.model)
        train(found, labels, run, config, runtime, model_folder=folder, **options)
        return run

    return start


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, scenes: Path, labels: CocoFile
) -> Callable[[Config], Outcome]:
    """The result of a run nothing interrupted, made once for each configuration."""

    @cache
    def run(config: Config) -> Outcome:
        runtime = Runtime(device=torch.device("cpu"), precision="fp32")
        whole = opened(tmp_path_factory.mktemp("unbroken") / "run", config)
        train(
            find_images(scenes / "images"), labels, whole, config, runtime, model_folder=whole.model
        )
        return result(whole)

    return run


def result(run: RunFolder) -> Outcome:
    """The weights to the bit, and the metrics but for the times."""
    rows = read_metrics(run.path / "metrics.jsonl")
    for row in rows:
        del row["seconds_per_step"]
    return (run.model / "model.safetensors").read_bytes(), rows


# Determinism


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_to_the_bit(
    tmp_path: Path,
    config: Config,
    trained: Callable[..., RunFolder],
    unbroken: Callable[[Config], Outcome],
) -> None:
    torch.rand(7)
    assert result(trained(tmp_path / "again", config)) == unbroken(config)
    other = override(config, {"seed": 1}, where="test")
    assert unbroken(other)[0] != unbroken(config)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "killed", "call"),
    [
        pytest.param({}, "batch_losses", 4, id="after-a-checkpoint"),
        pytest.param({}, "batch_losses", 5, id="right-after-a-checkpoint"),
        pytest.param({}, "batch_losses", 1, id="before-the-first-step"),
        pytest.param({}, "batch_losses", 2, id="before-the-first-checkpoint"),
        pytest.param({}, "save_state", 2, id="while-a-checkpoint-is-written"),
        pytest.param({}, "save_solo", 1, id="after-the-last-checkpoint"),
        pytest.param({"optimizer": "sgd"}, "batch_losses", 4, id="sgd"),
        pytest.param({"ema_decay": 0.0}, "batch_losses", 4, id="without-average"),
        pytest.param({"freeze_norm": True}, "batch_losses", 4, id="frozen-norms"),
        pytest.param({"frozen_stages": 1}, "batch_losses", 4, id="frozen-stage"),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(
    tmp_path: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    config: Config,
    trained: Callable[..., RunFolder],
    unbroken: Callable[[Config], Outcome],
    options: dict[str, Any],
    killed: str,
    call: int,
) -> None:
    config = changed(config, train=options)
    with killed_at(train_module, killed, call):
        trained(tmp_path / "killed", config)
    assert not (tmp_path / "killed" / "model").exists()
    assert result(trained(tmp_path / "killed", config)) == unbroken(config)


@pytest.mark.slow
def test_a_worker_process_changes_nothing(
    config: Config, unbroken: Callable[[Config], Outcome]
) -> None:
    assert unbroken(changed(config, train={"workers": 1})) == unbroken(config)


@pytest.mark.slow
def test_precision_may_change_between_runs_of_one_process(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    labels: CocoFile,
    trained: Callable[..., RunFolder],
) -> None:
    before = result(trained(tmp_path / "before", config))
    run = opened(tmp_path / "bf16", config)
    bf16 = Runtime(device=torch.device("cpu"), precision="bf16")
    train(find_images(scenes / "images"), labels, run, config, bf16, model_folder=run.model)
    assert result(trained(tmp_path / "after", config)) == before
    assert result(run)[0] != before[0]


@pytest.mark.slow
def test_the_losses_get_the_network_s_own_precision(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    labels: CocoFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The product of kernels and features is the largest of the losses: not for float32."""
    seen: set[torch.dtype] = set()
    original = train_module.batch_losses

    def listening(criterion: Any, outputs: SOLOOutputs, *arguments: Any) -> Any:
        seen.update({outputs.mask_features.dtype, *(maps.dtype for maps in outputs.kernels)})
        return original(criterion, outputs, *arguments)

    monkeypatch.setattr(train_module, "batch_losses", listening)
    run = opened(tmp_path / "run", config)
    bf16 = Runtime(device=torch.device("cpu"), precision="bf16")
    train(find_images(scenes / "images"), labels, run, config, bf16, model_folder=run.model)
    assert seen == {torch.bfloat16}


# What a run leaves


def test_metrics_name_every_term(
    tmp_path: Path, config: Config, trained: Callable[..., RunFolder]
) -> None:
    run = trained(tmp_path / "run", changed(config, train={"log_every": 2, "steps": 5}))
    rows = read_metrics(run.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 5]
    for row in rows:
        assert row.keys() == {"round", "step", "learning_rate", "seconds_per_step", *TERMS}
        assert all(np.isfinite(value) for value in row.values())


def test_the_rate_scales_with_the_images_and_not_with_the_views(
    tmp_path: Path, config: Config, trained: Callable[..., RunFolder]
) -> None:
    steady = {"steps": 1, "warmup_steps": 0, "schedule": "constant", "learning_rate": 0.008}
    for strong in (False, True):
        run = trained(
            tmp_path / str(strong), changed(config, train=steady, augment={"strong": strong})
        )
        (row,) = read_metrics(run.path / "metrics.jsonl")
        # Two images a step; the rate is that of sixteen.
        assert row["learning_rate"] == pytest.approx(0.001)


@pytest.mark.slow
def test_the_model_is_whole_and_loads(
    tmp_path: Path, config: Config, trained: Callable[..., RunFolder]
) -> None:
    run = trained(tmp_path / "run", config)
    network, loaded = load_solo(run.path)
    assert not network.training
    assert loaded.model == config.model
    assert loaded.backbone.weights == "none"
    record = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    assert record.keys() == {"backbone", "model", "inference"}


@pytest.mark.slow
def test_weights_move_and_frozen_ones_do_not(
    tmp_path: Path, config: Config, trained: Callable[..., RunFolder]
) -> None:
    frozen = changed(config, train={"freeze_norm": True, "ema_decay": 0.0, "frozen_stages": 1})
    first = trained(tmp_path / "first", changed(frozen, train={"steps": 1}))
    later = trained(tmp_path / "later", changed(frozen, train={"steps": 4}))
    before, after = (load_solo(run.path)[0].state_dict() for run in (first, later))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} >= {
        "backbone",
        "fpn",
        "category_branch",
        "kernel_branch",
        "mask_feature_branch",
    }
    assert not any(".bn1." in name or ".running_" in name for name in moved)
    assert not any(
        name.startswith(("backbone.network.conv1", "backbone.network.layer1")) for name in moved
    )
    assert any(name.startswith("backbone.network.layer2") for name in moved)


@pytest.mark.slow
def test_a_round_may_start_from_another_segmenter(
    tmp_path: Path, config: Config, trained: Callable[..., RunFolder]
) -> None:
    still = changed(config, train={"learning_rate": 0.0, "freeze_norm": True, "ema_decay": 0.0})
    first = trained(tmp_path / "first", config)
    second = trained(
        tmp_path / "second",
        override(still, {"seed": 9}, where="test"),
        start_from=first.model,
        round_number=1,
    )
    # By value: a zero may change its sign.
    before, after = (load_tensors(run.model / "model.safetensors") for run in (first, second))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {row["round"] for row in read_metrics(second.path / "metrics.jsonl")} == {1}
    assert [file.name for file in second.checkpoints.iterdir()] == ["round-1.pt"]


# Trouble


def test_losses_that_stay_not_finite_stop_the_run(
    tmp_path: Path, config: Config, trained: Callable[..., RunFolder]
) -> None:
    wild = changed(config, train={"learning_rate": 1e30, "warmup_steps": 0, "steps": 50})
    wild = changed(wild, train={"max_bad_steps": 3})
    with pytest.raises(TrainingError) as caught:
        trained(tmp_path / "run", wild)
    message = str(caught.value)
    assert "not finite at step" in message
    assert "--train.learning-rate" in message
    assert "\n" not in message
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) < 6
    assert not (tmp_path / "run" / "model").exists()


Break = Callable[[Tensor], Tensor]


def not_a_number(loss: Tensor) -> Tensor:
    return loss * float("nan")


def without_slope(loss: Tensor) -> Tensor:
    """A finite loss whose gradient is not."""
    return loss.detach() + (loss - loss.detach()).abs().sqrt()


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Breaks the semantic loss of some steps."""
    original = train_module.batch_losses

    def start(how: Break, *steps: int) -> None:
        def broken(*arguments: Any) -> dict[str, Tensor]:
            losses = original(*arguments)
            if arguments[-1] in steps:
                losses["loss_semantic"] = how(losses["loss_semantic"])
            return losses

        monkeypatch.setattr(train_module, "batch_losses", broken)

    return start


@pytest.mark.slow
def test_the_term_that_is_not_finite_is_named(
    tmp_path: Path,
    config: Config,
    breaking: Callable[..., None],
    trained: Callable[..., RunFolder],
) -> None:
    breaking(not_a_number, 1, 3, 4)
    message = r"^loss_semantic is not finite at step 4, 2 in a row; lower --train.learning-rate"
    with pytest.raises(TrainingError, match=message):
        trained(tmp_path / "run", changed(config, train={"max_bad_steps": 2}))
    with safe_open(tmp_path / "run" / "bad_batch.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["soloist"])
        counts = file.get_tensor("counts")
        images, masks = file.get_tensor("images"), file.get_tensor("masks")
    assert facts == {"section": "train", "step": 3, "process": 0, "broken": ["loss_semantic"]}
    assert len(images) == len(counts) == 2 * config.train.batch_size
    assert len(masks) == counts.sum()


@pytest.mark.slow
@pytest.mark.parametrize("how", [not_a_number, without_slope])
def test_a_bad_step_leaves_no_trace_but_its_count(
    tmp_path: Path,
    config: Config,
    breaking: Callable[..., None],
    trained: Callable[..., RunFolder],
    how: Break,
) -> None:
    config = changed(config, train={"steps": 3, "checkpoint_every": 1})
    breaking(how, 2)
    run = trained(tmp_path / "run", config)
    rows = read_metrics(run.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    after = load_state(run.checkpoints / "round-0.pt")
    shorter = changed(config, train={"steps": 2})
    before = load_state(trained(tmp_path / "shorter", shorter).checkpoints / "round-0.pt")
    assert (before["step"], after["step"]) == (2, 3)
    assert after["bad_steps"] == {"skipped": 1, "in_a_row": 1}
    for part in ("model", "average"):
        for name, tensor in before[part].items():
            assert torch.equal(after[part][name], tensor), name


@pytest.mark.slow
def test_a_resumed_run_counts_bad_steps_on(
    tmp_path: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    config: Config,
    breaking: Callable[..., None],
    trained: Callable[..., RunFolder],
) -> None:
    breaking(not_a_number, 1, 2)
    config = changed(config, train={"max_bad_steps": 2})
    with killed_at(train_module, "batch_losses", 3):
        trained(tmp_path / "run", config)
    with pytest.raises(TrainingError, match="at step 2, 2 in a row"):
        trained(tmp_path / "run", config)


@pytest.mark.slow
def test_metrics_count_the_steps_left_out(
    tmp_path: Path,
    config: Config,
    breaking: Callable[..., None],
    trained: Callable[..., RunFolder],
) -> None:
    breaking(not_a_number, 1, 3)
    rows = read_metrics(trained(tmp_path / "run", config).path / "metrics.jsonl")
    assert [row.get("skipped_steps") for row in rows] == [None, 1, 2, 2]
    assert [row["step"] for row in rows] == [1, 3, 5, 6]


# Stopping


def asked_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The process is asked to stop during that step of the next training."""
    calls = count(1)
    monkeypatch.setattr(train_module, "is_asked", lambda: next(calls) == call)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_that_is_stopped_ends_as_an_unbroken_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    trained: Callable[..., RunFolder],
    unbroken: Callable[[Config], Outcome],
    step: int,
) -> None:
    asked_at(monkeypatch, step)
    with pytest.raises(StoppedError, match="the same command resumes"):
        trained(tmp_path / "run", config)
    assert load_state(tmp_path / "run" / "checkpoints" / "round-0.pt")["step"] == step
    assert not (tmp_path / "run" / "model").exists()
    assert result(trained(tmp_path / "run", config)) == unbroken(config)


@pytest.mark.slow
def test_a_run_stopped_before_its_plan_plans_by_steps_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    trained: Callable[..., RunFolder],
) -> None:
    config = changed(config, train={"checkpoint_every": 100, "steps": 50})
    asked_at(monkeypatch, 10)
    with pytest.raises(StoppedError):
        trained(tmp_path / "run", config, budget_seconds=0.0)
    run = trained(tmp_path / "run", config, budget_seconds=0.0)
    # Measured over steps 11 to 22, and nothing is left; the last step is saved.
    assert read_metrics(run.path / "metrics.jsonl")[-1]["step"] == 23


# Images


@pytest.fixture
def damaged_images(tmp_path: Path, scenes: Path) -> Path:
    """The scenes, one of them cut short and one replaced by text."""
    folder = tmp_path / "damaged"
    shutil.copytree(scenes / "images", folder)
    whole = (folder / "000002.jpg").read_bytes()
    (folder / "000002.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "000005.jpg").write_text("no image")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_listed_once_and_skipped(
    tmp_path: Path,
    config: Config,
    damaged_images: Path,
    trained: Callable[..., RunFolder],
    workers: int,
) -> None:
    config = changed(config, train={"workers": workers})
    run = trained(tmp_path / "run", config, images=damaged_images)
    lines = (run.path / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    listed = [json.loads(line) for line in lines]
    assert sorted(line["image"] for line in listed) == ["000002.jpg", "000005.jpg"]
    assert {line["stage"] for line in listed} == {"train"}
    assert run.errors.count == 2
    assert (run.model / "config.json").is_file()


@pytest.mark.slow
def test_images_without_masks_are_left_out(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    labels: CocoFile,
    runtime: Runtime,
) -> None:
    """An image without a mask, and one the file does not name, are never opened."""
    folder = tmp_path / "images"
    shutil.copytree(scenes / "images", folder)
    (folder / "000003.jpg").write_text("no image")
    (folder / "stranger.jpg").write_text("no image")
    annotations = {
        image.id: () if image.file_name == "000003.jpg" else labels.annotations[image.id]
        for image in labels.images
    }
    fewer = CocoFile(labels.path, labels.images, annotations, labels.categories, labels.embeddings)
    run = opened(tmp_path / "run", config)
    train(find_images(folder), fewer, run, config, runtime, model_folder=run.model)
    assert run.errors.count == 0
    assert (run.model / "config.json").is_file()


def test_no_image_with_a_mask_is_told(
    tmp_path: Path, config: Config, scenes: Path, labels: CocoFile, runtime: Runtime
) -> None:
    nothing = CocoFile(
        labels.path, labels.images, {image.id: () for image in labels.images}, {}, None
    )
    run = opened(tmp_path / "run", config)
    with pytest.raises(DataError, match=r"none of the 6 images has a mask in masks\.json"):
        train(find_images(scenes), nothing, run, config, runtime, model_folder=run.model)


# A budget of time


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(train_module, "time", clock)
    return clock


def plan_after(plan: StepPlan, clock: Clock, paces: list[float]) -> list[int]:
    """Steps at which the plan changed, given the seconds each step takes."""
    changes = []
    for done, pace in enumerate(paces, start=1):
        clock.now += pace
        if plan.update(done):
            changes.append(done)
    return changes


@pytest.mark.parametrize(
    ("paces", "budget", "steps"),
    [
        # 42 of 100 seconds are gone; at a second a step, 58 more fit.
        pytest.param([6.0] * 6 + [1.0] * 6, 100.0, 12 + 58, id="slow-start-does-not-count"),
        pytest.param([1.0] * 12, 100.0, 100, id="steady"),
        pytest.param([1.0] * 12, 0.0, StepPlan.LEAST, id="no-time-left"),
    ],
)
def test_steps_are_planned_to_fill_the_budget(
    tmp_path: Path,
    config: Config,
    clock: Clock,
    paces: list[float],
    budget: float,
    steps: int,
) -> None:
    run = opened(tmp_path / "run", config)
    plan = StepPlan(run, 0, 7, budget)
    assert plan_after(plan, clock, paces) == [StepPlan.MEASURED]
    assert plan.steps == steps
    # A resumed run begins with the plan, and another round makes its own.
    assert StepPlan(run, 0, 7, budget).steps == steps
    assert StepPlan(run, 1, 7, budget).steps == 7


@pytest.mark.parametrize(
    ("pace", "changes"),
    [
        pytest.param(1.0, False, id="steady"),
        pytest.param(1.05, True, id="a-little-slower"),
        pytest.param(3.0, True, id="other-work-on-the-machine"),
        pytest.param(0.4, True, id="other-work-is-over"),
    ],
)
def test_a_budget_is_kept_when_the_pace_changes(
    tmp_path: Path, config: Config, clock: Clock, pace: float, changes: bool
) -> None:
    budget = 1000.0
    run = opened(tmp_path / "run", config)
    plan = StepPlan(run, 0, 7, budget)
    assert plan_after(plan, clock, [1.0] * 300) == [StepPlan.MEASURED]
    done = 300
    while done < plan.steps:
        done += 1
        clock.now += pace
        plan.update(done)
    assert (plan.steps != 1000) == changes
    assert clock.now == pytest.approx(budget, rel=0.08)
    assert StepPlan(run, 0, 7, budget).steps == plan.steps


def test_a_resumed_run_plans_for_the_time_that_is_left(
    tmp_path: Path, config: Config, clock: Clock
) -> None:
    run = opened(tmp_path / "run", config)
    plan_after(StepPlan(run, 0, 7, 100.0), clock, [1.0] * 12)
    resumed = StepPlan(run, 0, 7, 50.0, first=50)
    for done in range(51, 51 + StepPlan.MEASURED):
        clock.now += 2.0
        resumed.update(done)
    assert resumed.steps == 50 + 25


def test_without_a_budget_the_steps_are_those_asked_for(
    tmp_path: Path, config: Config, clock: Clock
) -> None:
    plan = StepPlan(opened(tmp_path / "run", config), 0, 7, None)
    assert (plan.steps, plan.end) == (7, 7)
    assert plan_after(plan, clock, [1.0] * 30) == []


@pytest.mark.slow
def test_a_run_with_a_budget_ends_as_planned_and_resumes(
    tmp_path: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    config: Config,
    trained: Callable[..., RunFolder],
) -> None:
    config = changed(config, train={"steps": 50})
    with killed_at(train_module, "batch_losses", 17):
        trained(tmp_path / "run", config, budget_seconds=0.0)
    run = trained(tmp_path / "run", config, budget_seconds=0.0)
    steps = [row["step"] for row in read_metrics(run.path / "metrics.jsonl")]
    assert steps == list(range(1, StepPlan.LEAST + 1))


# Averaged weights


def test_without_decay_the_average_is_the_latest() -> None:
    network = nn.Linear(2, 2)
    average = AveragedWeights(network, 0.0)
    nn.init.constant_(network.weight, 3.0)
    average.update(network, step=5)
    assert torch.equal(average.weights["weight"], torch.full((2, 2), 3.0))


def test_the_average_lags_behind_and_its_decay_grows() -> None:
    network = nn.BatchNorm1d(1)
    nn.init.constant_(network.weight, 0.0)
    average = AveragedWeights(network, 0.9)
    nn.init.constant_(network.weight, 1.0)
    assert network.num_batches_tracked is not None
    network.num_batches_tracked += 7
    average.update(network, step=0)
    # The decay starts at 1/10 and stops at 0.9.
    assert average.weights["weight"].item() == pytest.approx(0.9)
    assert average.weights["num_batches_tracked"].item() == 7
    nn.init.constant_(network.weight, 0.0)
    average.update(network, step=1000)
    assert average.weights["weight"].item() == pytest.approx(0.81)


def test_an_average_goes_on_where_a_checkpoint_left_it() -> None:
    network = nn.Linear(2, 2)
    average = AveragedWeights(network, 0.9)
    kept = average.weights["weight"]
    average.load({"weight": torch.full((2, 2), 2.0), "bias": torch.zeros(2)})
    # The values move, not the tensors: those lie on the network's device.
    assert average.weights["weight"] is kept
    assert torch.equal(kept, torch.full((2, 2), 2.0))
