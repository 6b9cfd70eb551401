"""Fixtures every test may ask for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from soloist.config import Config
from soloist.data.scenes import write_scenes
from soloist.engine.build import build_solo, save_solo
from soloist.engine.runtime import Runtime
from soloist.models.heads import CategoryBranch, KernelBranch, MaskFeatureBranch
from soloist.presets import load_config

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
OWN_GOLDENS = Path(__file__).parent / "goldens"


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept-golden",
        action="store_true",
        help="write tests/goldens/*.json anew instead of comparing with them",
    )


CheckGolden = Callable[[str, Mapping[str, Tensor]], None]


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> CheckGolden:
    """Compares tensors with `tests/goldens/NAME.json`: values of our own, made by this code.

    Bools may differ in 3 places a row, floats by 1e-4. `pytest --accept-golden` writes the file
    instead; the commit says why the values changed.
    """

    def check(name: str, values: Mapping[str, Tensor]) -> None:
        path = OWN_GOLDENS / f"{name}.json"
        if request.config.getoption("--accept-golden"):
            lines = [f'"{key}": {json.dumps(_as_plain(value))}' for key, value in values.items()]
            path.parent.mkdir(exist_ok=True)
            path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
            return
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert stored.keys() == values.keys()
        for key, value in values.items():
            wanted = _as_tensor(stored[key])
            assert value.shape == wanted.shape, key
            if wanted.dtype == torch.bool:
                assert ((value != wanted).flatten(1).sum(dim=1) <= 3).all(), key
            else:
                torch.testing.assert_close(
                    value, wanted, rtol=1e-4, atol=1e-4, check_dtype=False, msg=key
                )

    return check


def _as_plain(tensor: Tensor) -> dict[str, Any]:
    """A tensor as JSON: numbers to 6 digits, bools as lengths of runs that begin with False."""
    plain: dict[str, Any] = {"shape": list(tensor.shape)}
    flat = tensor.detach().flatten()
    if tensor.dtype == torch.bool:
        ends = torch.cat([torch.zeros(1, dtype=torch.bool), flat, ~flat[-1:]])
        changes = (ends[1:] != ends[:-1]).nonzero()[:, 0].tolist()
        plain["runs"] = [b - a for a, b in pairwise([0, *changes])]
    else:
        plain["values"] = [float(f"{value:.6g}") for value in flat.tolist()]
    return plain


def _as_tensor(plain: Mapping[str, Any]) -> Tensor:
    if "runs" not in plain:
        return torch.tensor(plain["values"]).view(plain["shape"])
    runs = torch.tensor(plain["runs"], dtype=torch.int64)
    odd = torch.arange(len(runs)) % 2 == 1
    return odd.repeat_interleave(runs).view(plain["shape"])


RELEASED_NAMES = (
    # The released code's names -> ours; a tower's layers are numbered through there.
    (r"ins_head\.cate_tower\.(\d+)\.(\w+)", "category_branch.tower"),
    (r"ins_head\.kernel_tower\.(\d+)\.(\w+)", "kernel_branch.tower"),
    (r"ins_head\.cate_pred\.(\w+)", "category_branch.category"),
    (r"ins_head\.emb_pred\.(\w+)", "category_branch.embedding"),
    (r"ins_head\.kernel_pred\.(\w+)", "kernel_branch.kernel"),
    (r"mask_head\.convs_all_levels\.(\d+)\.conv(\d+)\.(\d+)\.(\w+)", "levels"),
    (r"mask_head\.conv_pred\.(\d+)\.(\w+)", "mask_feature_branch.merge"),
)


def _our_name(name: str) -> str:
    for pattern, prefix in RELEASED_NAMES:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        parts = match.groups()
        if prefix.endswith("tower"):
            return f"{prefix}.{int(parts[0]) // 3}.{int(parts[0]) % 3}.{parts[1]}"
        if prefix == "levels":
            level, block, layer, kind = parts
            return f"mask_feature_branch.levels.{level}.blocks.{block}.{layer}.{kind}"
        return ".".join([prefix, *parts])
    raise AssertionError(f"unknown key {name}")


@pytest.fixture(scope="session")
def released_branches(
    golden: Callable[[str], Mapping[str, npt.NDArray[Any]]],
) -> nn.ModuleDict:
    """SOLO's three branches with the weights of the released code's values."""
    modules = nn.ModuleDict(
        {
            "category_branch": CategoryBranch(64, channels=64, num_classes=2),
            "kernel_branch": KernelBranch(64, channels=64, kernel_channels=64),
            "mask_feature_branch": MaskFeatureBranch(64, channels=32, out_channels=64),
        }
    )
    state = {_our_name(k): torch.from_numpy(v) for k, v in golden("head_state_dict").items()}
    modules.load_state_dict(state)
    return modules


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
