"""Fixtures every test may ask for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from soloist.config import Config
from soloist.data.scenes import write_scenes
from soloist.engine.build import build_solo, save_solo
from soloist.engine.runtime import Runtime
from soloist.presets import load_config

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


@cache
def _load(name: str) -> Mapping[str, npt.NDArray[Any]]:
    path = GOLDEN / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"reference values are absent: ../shared/golden/{name}.npz")
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, npt.NDArray[Any]]]:
    """Arrays of the released code by name (`golden("losses")["B_logits"]`); skips if absent."""
    return _load


# A network that trains for a few steps in a second; what the loops do does not depend on size.
TINY_OPTIONS: dict[str, Any] = {
    "backbone": {"name": "resnet10t", "weights": "none"},
    "extract": {"short_side": 96, "max_side": 192, "margin": 16},
    "free_mask": {"score_threshold": 0.0, "max_masks": 5, "embedding_size": 16},
    "model": {
        "fpn_channels": 32,
        "head_channels": 32,
        "mask_channels": 32,
        "kernel_channels": 16,
        "tower_depth": 1,
        "embedding_size": 16,
        "grids": [8, 7, 6, 4, 2],
        "scale_ranges": [[1, 16], [8, 24], [16, 48], [32, 64], [48, 2048]],
    },
    "augment": {"short_side": [64, 96], "max_side": 160, "crop_size": 64},
    "train": {
        "steps": 4,
        "batch_size": 2,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every": 2,
        "workers": 0,
    },
    "inference": {"short_side": 64, "max_side": 128},
    "pretrain": {
        "steps": 4,
        "batch_size": 4,
        "crop_size": 64,
        "hidden_size": 16,
        "projection_size": 8,
        "queue_size": 6,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every": 2,
        "workers": 0,
    },
}
SCENES = 6


@pytest.fixture(scope="session")
def tiny_defaults() -> Mapping[str, Any]:
    """What `tiny_options` starts as, for fixtures that live longer; not to be changed."""
    return TINY_OPTIONS


@pytest.fixture
def tiny_options() -> dict[str, Any]:
    """Options, nested by stage, for runs of a few steps."""
    return copy.deepcopy(TINY_OPTIONS)


@pytest.fixture
def tiny_config(tiny_options: dict[str, Any]) -> Config:
    """The tiny preset with `tiny_options`."""
    return load_config("tiny", None, tiny_options)


@pytest.fixture
def runtime() -> Runtime:
    """Float32 on the processor: what bitwise equality is promised for."""
    return Runtime(device=torch.device("cpu"), precision="fp32")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six small scenes in `images` and their true masks in `annotations.json`."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, SCENES, seed=3, long_side=96)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network without training that finds something on every picture."""
    seen = {"category_threshold": 0.0, "score_threshold": 0.0, "max_per_image": 8}
    config = load_config(
        "tiny", None, {**TINY_OPTIONS, "inference": {**TINY_OPTIONS["inference"], **seen}}
    )
    torch.manual_seed(0)
    network = build_solo(config.backbone, config.model)
    folder = tmp_path_factory.mktemp("run") / "model"
    save_solo(folder, network.state_dict(), config)
    return folder
