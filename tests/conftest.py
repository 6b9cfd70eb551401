"""Fixtures every test may ask for."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor, nn

from soloist.checkpoints.names import to_detectron2
from soloist.config import BackboneConfig, Config, ModelConfig
from soloist.config.presets import PRESETS, load_config, override
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.scenes import write_scenes
from soloist.inference.onnx.export import export_onnx
from soloist.inference.segmenter import load
from soloist.models import SOLO
from soloist.models.build import build_solo, save_solo
from soloist.models.heads import CategoryBranch, KernelBranch, MaskFeatureBranch
from soloist.runtime.device import Runtime

# Several workers share the cores, and what they start does as well; small networks gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
OWN_GOLDENS = Path(__file__).parent / "goldens"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
BROWSER_PATIENCE = 120_000  # Milliseconds; on a busy machine everything takes long.


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


# Fixtures that take long to make.
SLOW_FIXTURES = {"browser_page", "built", "exported_file", "fitted", "server", "two"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a slow fixture is slow."""
    for item in items:
        if isinstance(item, pytest.Function) and SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


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
    "inference": {"short_side": 64, "max_side": 128, "recommended_score": 0.0},
    "pretrain": {
        "steps": 4,
        "batch_size": 4,
        "crop_size": 64,
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
    """A network without training that finds something on every image."""
    seen = {
        "category_threshold": 0.0,
        "score_threshold": 0.0,
        "recommended_score": 0.0,
        "max_per_image": 8,
    }
    config = load_config(
        "tiny", None, {**TINY_OPTIONS, "inference": {**TINY_OPTIONS["inference"], **seen}}
    )
    torch.manual_seed(0)
    network = build_solo(config.backbone, config.model)
    folder = tmp_path_factory.mktemp("run") / "model"
    save_solo(folder, network.state_dict(), config)
    return folder


CLASS_NAMES = {7: "cat", 3: "dog", 12: "tree"}


@pytest.fixture(scope="session")
def classes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three named classes without training, which finds something everywhere."""
    seen = {
        "category_threshold": 0.0,
        "score_threshold": 0.0,
        "recommended_score": 0.0,
        "max_per_image": 8,
    }
    options = {
        **TINY_OPTIONS,
        "model": {**TINY_OPTIONS["model"], "num_classes": len(CLASS_NAMES)},
        "inference": {**TINY_OPTIONS["inference"], **seen},
    }
    config = load_config("tiny", None, options)
    torch.manual_seed(0)
    network = build_solo(config.backbone, config.model)
    folder = tmp_path_factory.mktemp("classes") / "model"
    save_solo(folder, network.state_dict(), config, CLASS_NAMES)
    return folder


@pytest.fixture(scope="session")
def exported_file(classes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of `classes_folder` as `soloist export` writes it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    # It takes half a minute: of several workers the first makes it for all.
    path = shared_folder(tmp_path_factory) / "exported" / "model.onnx"
    with FileLock(path.parent.with_suffix(".lock")):
        if not path.is_file():
            export_onnx(load(classes_folder, device="cpu", precision="fp32"), path)
    return path


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that its workers share."""
    own = factory.getbasetemp()
    folder = own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    return shared


# The released code's names of what follows the backbone: of modules, from ours.
OFFICIAL_NAMES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"fpn\.(\w+)\.(\d)", lambda m: f"backbone.fpn_{m[1]}{int(m[2]) + 2}"),
    (
        r"category_branch\.tower\.(\d)\.(\d)",
        lambda m: f"ins_head.cate_tower.{3 * int(m[1]) + int(m[2])}",
    ),
    (
        r"kernel_branch\.tower\.(\d)\.(\d)",
        lambda m: f"ins_head.kernel_tower.{3 * int(m[1]) + int(m[2])}",
    ),
    (r"category_branch\.category", lambda _: "ins_head.cate_pred"),
    (r"category_branch\.embedding", lambda _: "ins_head.emb_pred"),
    (r"kernel_branch\.kernel", lambda _: "ins_head.kernel_pred"),
    (
        r"mask_feature_branch\.levels\.(\d)\.blocks\.(\d)",
        lambda m: f"mask_head.convs_all_levels.{m[1]}.conv{m[2]}",
    ),
    (r"mask_feature_branch\.merge", lambda _: "mask_head.conv_pred"),
)


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A segmenter's tensors under the released names; frozen norms have no counters."""
    named = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.startswith("backbone."):
            official = f"backbone.bottom_up.{to_detectron2(name.removeprefix('backbone.network.'))}"
        else:
            pattern, write = next(row for row in OFFICIAL_NAMES if re.match(row[0], name))
            official = re.sub(pattern, write, name)
        named[official] = tensor
    return named


def save_official(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Writes a checkpoint as detectron2's trainer does."""
    schedule = {"milestones": [24000], "base_lrs": [0.001], "last_epoch": 29999, "gamma": 0.1}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {"optimizer": optimizer, "scheduler": schedule, "iteration": 29999}
    torch.save({"model": {**official_state(state), "_iter": torch.zeros(1)}, **content}, path)
    return path


class KilledError(Exception):
    """Stands for a kill: nothing in the package catches it."""


KilledAt = Callable[[Any, str, int], AbstractContextManager[None]]


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> KilledAt:
    """`with killed_at(owner, name, call)`: that call of the owner's function kills the body."""

    @contextmanager
    def kill(owner: Any, name: str, call: int) -> Iterator[None]:
        original = getattr(owner, name)
        calls = 0

        def killed(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KilledError
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(KilledError):
                yield

    return kill


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Config:
    """A preset `narrow` of a ResNet-18 with narrow heads, which finds something everywhere."""
    options = {
        **TINY_OPTIONS,
        "backbone": {"name": "resnet18", "weights": "none", "stages": 4},
        "model": {**TINY_OPTIONS["model"], "tower_depth": 2},
        "inference": {
            **TINY_OPTIONS["inference"],
            "category_threshold": 0.0,
            "score_threshold": 0.0,
            "max_per_image": 8,
        },
    }
    config = load_config("tiny", None, options)
    monkeypatch.setitem(PRESETS, "narrow", config)
    return config


@pytest.fixture(scope="session")
def official_narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SOLO]:
    """A released-style checkpoint of two classes for the preset `narrow`, and its network."""
    torch.manual_seed(0)
    model = override(
        ModelConfig(), {**TINY_OPTIONS["model"], "tower_depth": 2, "num_classes": 2}, where="test"
    )
    network = build_solo(BackboneConfig(name="resnet18"), model).eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and ("running" in name or name.endswith("bias")):
            tensor.uniform_(0.1, 1.0)
    folder = tmp_path_factory.mktemp("official")
    return save_official(folder / "model_0000999.pth", network.state_dict()), network


@pytest.fixture(scope="session")
def official_r101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of all tensors of the released ResNet-101 segmenter; each repeats one value."""
    with torch.device("meta"):
        model = ModelConfig(num_classes=2)
        state = build_solo(BackboneConfig(name="resnet101"), model).state_dict()
    one = torch.tensor(0.01)
    repeated = {name: one.expand(tensor.shape) for name, tensor in state.items()}
    return save_official(tmp_path_factory.mktemp("official") / "model_0029999.pth", repeated)


KIND_NAMES = ("red", "green", "blue")
KIND_COLORS = ((220, 30, 30), (30, 200, 30), (30, 30, 220))
# Rows and columns of the three squares on each image; the kinds change places.
KIND_PLACES = ((2, 2), (2, 22), (22, 10))


@pytest.fixture
def write_masks(tmp_path: Path) -> Callable[..., Path]:
    """Writes `masks.json`, three squares of three kinds on each of four images in `images`.

    Annotation k is of kind k % 3 and lies on image k // 3; ids begin at 101.
    """

    def write(name: str = "masks.json", *, embedded: bool = True, classes: bool = False) -> Path:
        rng = np.random.default_rng(0)
        records = []
        for number in range(4):
            pixels = np.full((40, 40, 3), 128, dtype=np.uint8)
            for kind, color in enumerate(KIND_COLORS):
                top, left = KIND_PLACES[(kind + number) % 3]
                mask = np.zeros((40, 40), dtype=np.bool_)
                mask[top : top + 14, left : left + 14] = True
                pixels[mask] = color
                row = 3 * number + kind
                records.append(
                    {
                        "id": 101 + row,
                        "image_id": number + 1,
                        "category_id": kind + 1 if classes else 1,
                        "segmentation": encode_masks(mask[None])[0],
                        "score": round(0.9 - 0.05 * row, 2),
                        "note": f"mask {row}",
                    }
                )
            path = tmp_path / "images" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
        # One direction for all, and a little of their own: what learned embeddings look like.
        kinds = np.tile(np.eye(3, 6), (4, 1))
        embeddings = 5 + kinds + rng.normal(0, 0.02, kinds.shape)
        write_coco(
            tmp_path / name,
            [CocoImage(number + 1, f"{number}.png", 40, 40) for number in range(4)],
            records,
            info={"made": "by hand"},
            embeddings=embeddings.astype(np.float32) if embedded else None,
            categories=dict(enumerate(KIND_NAMES, start=1)) if classes else {1: "object"},
        )
        return tmp_path / name

    return write


@pytest.fixture
def browser_page() -> Iterator[Any]:
    """A page of a headless Chromium."""
    reason = "wants playwright: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    if CHROMIUM is None:
        pytest.skip("wants a Chromium or Chrome in the path")
    with ExitStack() as stack:
        driver = stack.enter_context(playwright.sync_playwright())
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=BROWSER_PATIENCE
        )
        stack.callback(browser.close)
        context = browser.new_context()
        context.set_default_timeout(BROWSER_PATIENCE)
        yield context.new_page()
