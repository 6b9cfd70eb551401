"""The weights that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import soloist
from soloist.data.scenes import make_scene
from soloist.ops.masks import mask_iou

WEIGHTS = Path(str(files("soloist") / "weights"))
MAX_BYTES = 15_000_000  # what a download of the package may weigh more for them


def test_the_weights_are_few_and_in_half_precision() -> None:
    paths = sorted(WEIGHTS.rglob("*.safetensors"))
    assert [str(path.relative_to(WEIGHTS)) for path in paths] == [
        "resnet18-densecl.safetensors",
        "segmenter/model.safetensors",
    ]
    assert sum(path.stat().st_size for path in paths) < MAX_BYTES
    for path in paths:
        kinds = {tensor.dtype for tensor in load_file(path).values()}
        assert kinds <= {torch.float16, torch.int64}


def test_the_card_names_both_files() -> None:
    card = (WEIGHTS / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "resnet18-densecl.safetensors" in card
    assert "segmenter/model.safetensors" in card


@pytest.fixture(scope="module")
def segmenter() -> soloist.Segmenter:
    return soloist.load(device="cpu", precision="fp32")


def test_it_can_be_named(segmenter: soloist.Segmenter) -> None:
    assert soloist.load("bundled", device="cpu").fingerprint == segmenter.fingerprint


@pytest.mark.slow
def test_without_a_path_objects_are_found(segmenter: soloist.Segmenter) -> None:
    """On scenes it has not seen, most large objects are found at IoU 0.5."""
    found, wanted = 0, 0
    for index in range(4):
        scene = make_scene(index, seed=77, split="val")
        (result,) = segmenter.predict(scene.image)
        large = scene.masks[scene.masks.sum(axis=(1, 2)) > 48**2]
        iou = mask_iou(torch.from_numpy(large), result.masks)
        found += int((iou.amax(dim=1) >= 0.5).sum())
        wanted += len(large)
    assert wanted >= 6
    assert found >= wanted / 2
