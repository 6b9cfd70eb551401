from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from soloist.config import Config
from soloist.config.presets import override
from soloist.data.sources import find_images
from soloist.errors import DataError, StoppedError, TrainingError
from soloist.models.backbones import create_backbone
from soloist.models.densecl import DenseCL
from soloist.runtime.device import Runtime
from soloist.training import pretrain as pretrain_module
from soloist.training.pretrain import CropBatches, pretrain
from soloist.training.run_folder import RunFolder, open_run, read_metrics

STEPS = 6
Outcome = tuple[bytes, list[dict[str, float]]]


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return changed(tiny_config, steps=STEPS)


def changed(config: Config, **options: object) -> Config:
    return override(config, {"pretrain": options}, where="test")


def run_in(path: Path, config: Config, images: Path) -> RunFolder:
    """Pretrains in a folder, resuming where an earlier call was killed."""
    runtime = Runtime(device=torch.device("cpu"), precision="fp32")
    with open_run(path, command="pretrain", inputs={}, config=config, overwrite=False) as run:
        pretrain(find_images(images), run, config, runtime)
    return run


def result(run: RunFolder) -> Outcome:
    """The weights to the bit, and the metrics."""
    weights = (run.model / "backbone.safetensors").read_bytes()
    return weights, read_metrics(run.path / "metrics.jsonl")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Callable[[Config], Outcome]:
    """The result of a run nothing interrupted, made once for each configuration."""

    @cache
    def run(config: Config) -> Outcome:
        folder = tmp_path_factory.mktemp("unbroken") / "run"
        return result(run_in(folder, config, scenes / "images"))

    return run


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_to_the_bit(
    tmp_path: Path, config: Config, scenes: Path, unbroken: Callable[[Config], Outcome]
) -> None:
    torch.rand(7)
    assert result(run_in(tmp_path / "again", config, scenes / "images")) == unbroken(config)
    other = override(config, {"seed": 1}, where="test")
    assert unbroken(other)[0] != unbroken(config)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        pytest.param(DenseCL, "forward", 4, id="after-a-checkpoint"),
        pytest.param(DenseCL, "forward", 5, id="right-after-a-checkpoint"),
        pytest.param(DenseCL, "forward", 2, id="before-the-first-checkpoint"),
        pytest.param(DenseCL, "update_key_encoder", 4, id="within-a-step"),
        pytest.param(pretrain_module, "save_state", 2, id="while-a-checkpoint-is-written"),
        pytest.param(pretrain_module, "save_tensors", 1, id="after-the-last-checkpoint"),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(
    tmp_path: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    config: Config,
    scenes: Path,
    unbroken: Callable[[Config], Outcome],
    owner: Any,
    name: str,
    call: int,
) -> None:
    with killed_at(owner, name, call):
        run_in(tmp_path / "run", config, scenes / "images")
    assert not (tmp_path / "run" / "model").exists()
    assert result(run_in(tmp_path / "run", config, scenes / "images")) == unbroken(config)


def test_metrics_name_every_term(config: Config, unbroken: Callable[[Config], Outcome]) -> None:
    rows = unbroken(changed(config, log_every=4))[1]
    assert [row["step"] for row in rows] == [4, STEPS]
    for row in rows:
        assert row.keys() == {
            "round",
            "step",
            "learning_rate",
            "loss_global",
            "loss_dense",
            "metric_accuracy",
        }
        assert all(np.isfinite(value) for value in row.values())


@pytest.mark.slow
def test_the_backbone_loads_from_the_run_folder(
    tmp_path: Path, config: Config, scenes: Path, runtime: Runtime
) -> None:
    with open_run(
        tmp_path / "run", command="pretrain", inputs={}, config=config, overwrite=False
    ) as run:
        trained = pretrain(find_images(scenes / "images"), run, config, runtime)
    assert not trained.training
    loaded = create_backbone("resnet10t", weights=str(run.path), stages=config.backbone.stages)
    weights = trained.network.state_dict()
    for name, tensor in loaded.network.state_dict().items():
        expected = (
            weights[name].half().to(tensor.dtype) if tensor.is_floating_point() else weights[name]
        )
        assert torch.equal(tensor, expected), name
    record = json.loads((run.model / "config.json").read_text(encoding="utf-8"))
    assert (record["name"], record["method"], record["images"]) == ("resnet10t", "DenseCL", 6)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, config: Config, scenes: Path
) -> None:
    wild = changed(config, learning_rate=1e30, warmup_steps=0, steps=50, log_every=20)
    with pytest.raises(TrainingError) as caught:
        run_in(tmp_path / "run", wild, scenes / "images")
    message = str(caught.value)
    assert message.startswith("loss_")
    assert "--pretrain.learning-rate" in message
    assert "\n" not in message
    assert not (tmp_path / "run" / "model").exists()


@pytest.fixture
def broken_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Calls of the network, from 1, whose dense loss is not a number."""
    original = DenseCL.forward
    calls: list[int] = []
    counter = count(1)

    def broken(self: DenseCL, *arguments: Tensor) -> dict[str, Tensor]:
        terms = original(self, *arguments)
        factor = float("nan") if next(counter) in calls else 1
        return {**terms, "loss_dense": terms["loss_dense"] * factor}

    monkeypatch.setattr(DenseCL, "forward", broken)
    return calls


def test_no_checkpoint_is_written_of_a_loss_that_is_not_finite(
    tmp_path: Path, config: Config, scenes: Path, broken_calls: list[int]
) -> None:
    """Between two log lines too: such a run could never be resumed."""
    broken_calls += [4]
    with pytest.raises(TrainingError, match="loss_dense is not finite at step 3"):
        run_in(tmp_path / "run", changed(config, log_every=100, max_bad_steps=1), scenes / "images")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 2


@pytest.mark.slow
def test_a_bad_step_leaves_no_trace_in_weights_and_queues(
    tmp_path: Path, config: Config, scenes: Path, broken_calls: list[int]
) -> None:
    broken_calls += [3, 4]
    options = changed(config, checkpoint_every=2, steps=4)
    run = run_in(tmp_path / "run", options, scenes / "images")
    state = torch.load(run.checkpoints / "last.pt", weights_only=True)
    assert state["bad_steps"] == {"skipped": 2, "in_a_row": 2}
    # Two steps of four images in queues of six places, and no third.
    assert state["model"]["queue_position"] == 2
    assert (run.path / "bad_batch.safetensors").is_file()
    assert [row["step"] for row in read_metrics(run.path / "metrics.jsonl")] == [1, 2]


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_as_an_unbroken_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    scenes: Path,
    unbroken: Callable[[Config], Outcome],
) -> None:
    calls = count(1)
    monkeypatch.setattr(pretrain_module, "is_asked", lambda: next(calls) == 3)
    with pytest.raises(StoppedError, match="the same command resumes"):
        run_in(tmp_path / "run", config, scenes / "images")
    assert not (tmp_path / "run" / "model").exists()
    assert result(run_in(tmp_path / "run", config, scenes / "images")) == unbroken(config)


def test_unreadable_images_are_listed_once_and_skipped(
    tmp_path: Path, config: Config, scenes: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(scenes / "images", folder)
    (folder / "000004.jpg").write_text("no image")
    run = run_in(tmp_path / "run", config, folder)
    lines = (run.path / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(json.loads(line)["image"], json.loads(line)["stage"]) for line in lines] == [
        ("000004.jpg", "pretrain")
    ]


def test_no_readable_image_is_told(tmp_path: Path, config: Config) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("no image")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        run_in(tmp_path / "run", config, tmp_path / "images")


def test_a_set_smaller_than_a_batch_gives_whole_batches(config: Config, scenes: Path) -> None:
    images = find_images(scenes / "images")[:1]
    batch = CropBatches(images, config.pretrain, seed=0)(0)
    assert batch.query.shape == batch.key.shape == (4, 3, 64, 64)
    assert sorted(batch.order.tolist()) == [0, 1, 2, 3]
    assert not torch.equal(batch.query, batch.key)


def test_a_batch_depends_on_its_step_alone(config: Config, scenes: Path) -> None:
    images = find_images(scenes / "images")
    forward = [CropBatches(images, config.pretrain, seed=0)(step) for step in range(3)]
    batches = CropBatches(images, config.pretrain, seed=0)
    for step in (2, 0, 1):
        again = batches(step)
        assert torch.equal(forward[step].query, again.query)
        assert torch.equal(forward[step].key, again.key)
        assert torch.equal(forward[step].order, again.order)
    assert not torch.equal(forward[0].query, forward[1].query)


def test_shares_of_a_batch_make_the_whole(config: Config, scenes: Path) -> None:
    images = find_images(scenes / "images")
    whole = CropBatches(images, config.pretrain, seed=0)(3)
    parts = [
        CropBatches(images, config.pretrain, seed=0, places=range(first, first + 2))(3)
        for first in (0, 2)
    ]
    assert torch.equal(torch.cat([part.query for part in parts]), whole.query)
    assert torch.equal(torch.cat([part.key for part in parts]), whole.key)
    assert all(torch.equal(part.order, whole.order) for part in parts)
