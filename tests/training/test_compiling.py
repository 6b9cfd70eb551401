"""`train.compile`: the same training, under the same names of weights."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from soloist.checkpoints.files import load_state, load_tensors
from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.sources import find_images
from soloist.errors import ConfigError
from soloist.runtime.device import Runtime
from soloist.training import train as train_module
from soloist.training.run_folder import RunFolder, open_run, read_metrics
from soloist.training.train import train


@pytest.fixture(scope="module")
def labels(scenes: Path) -> CocoFile:
    return load_coco(scenes / "annotations.json")


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return override(tiny_config, {"train": {"steps": 2}}, where="test")


def compiled(config: Config) -> Config:
    return override(config, {"train": {"compile": True}}, where="test")


def trained(
    path: Path, config: Config, scenes: Path, labels: CocoFile, runtime: Runtime
) -> RunFolder:
    run = open_run(path, command="train", inputs={}, config=config, overwrite=False)
    run.close()
    train(find_images(scenes / "images"), labels, run, config, runtime, model_folder=run.model)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("aot_eager", id="without-a-compiler"),
        pytest.param(
            "inductor",
            id="with-one",
            marks=pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
        ),
    ],
)
def test_a_compiled_network_trains_as_the_plain_one(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    labels: CocoFile,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
) -> None:
    torch._dynamo.reset()
    calls: list[dict[str, Any]] = []
    original = nn.Module.compile

    def listening(module: nn.Module, **options: Any) -> None:
        calls.append(options)
        original(module, backend=backend, **options)

    monkeypatch.setattr(nn.Module, "compile", listening)
    start = partial(trained, scenes=scenes, labels=labels, runtime=runtime)
    plain, fast = start(tmp_path / "plain", config), start(tmp_path / "fast", compiled(config))
    assert calls == [{"dynamic": False}]
    rows = [read_metrics(run.path / "metrics.jsonl") for run in (plain, fast)]
    for one, other in zip(*rows, strict=True):
        for name in (name for name in one if name.startswith("loss")):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5)
    before, after = (load_tensors(run.model / "model.safetensors") for run in (plain, fast))
    assert before.keys() == after.keys()
    states = [load_state(run.checkpoints / "round-0.pt")["model"] for run in (plain, fast)]
    assert states[0].keys() == states[1].keys()


def test_all_batches_have_the_size_of_the_crop(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    labels: CocoFile,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = set()
    original = train_module.batch_to

    def listening(batch: Any, device: torch.device) -> Any:
        sizes.add(tuple(batch.images.shape))
        return original(batch, device)

    monkeypatch.setattr(train_module, "batch_to", listening)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: None)
    monkeypatch.setattr(train_module, "check_compiler", lambda: None)
    # Larger than the views, which have short sides of 64 to 96.
    larger = override(config, {"augment": {"crop_size": 150}}, where="test")
    trained(tmp_path / "run", compiled(larger), scenes, labels, runtime)
    assert sizes == {(4, 3, 160, 160)}


def test_views_of_any_size_are_refused(config: Config) -> None:
    whole = override(config, {"augment": {"crop_size": 0}}, where="test")
    with pytest.raises(ConfigError, match=r"give augment\.crop_size a side in pixels, got 0"):
        compiled(whole)


def test_a_missing_compiler_is_told(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    labels: CocoFile,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"install g\+\+ or clang\+\+, or leave"):
        trained(tmp_path / "run", compiled(config), scenes, labels, runtime)
