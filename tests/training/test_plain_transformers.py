"""The whole pipeline with a plain vision transformer: Free Mask, training, saving, prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soloist
from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.models.build import build_solo
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.device import Runtime
from soloist.training.pretrain import pretrain
from soloist.training.run_folder import open_run
from soloist.training.train import train

NAMES = [
    pytest.param("test_vit", 16, id="patches-of-16"),
    pytest.param("eva02_tiny_patch14_224", 14, id="patches-of-14"),
]


def with_backbone(config: Config, name: str, **sections: Any) -> Config:
    changes = {"backbone": {"name": name, "weights": "none"}, **sections}
    return override(config, changes, where="test")


@pytest.mark.parametrize(("name", "stride"), NAMES)
@pytest.mark.parametrize("margin", [0, 16])
def test_free_mask_reads_whole_patches(
    tiny_config: Config, runtime: Runtime, name: str, stride: int, margin: int
) -> None:
    config = with_backbone(tiny_config, name, extract={"margin": margin})
    extractor = FreeMaskExtractor(config, runtime)
    image = torch.zeros(3, 60, 90, dtype=torch.uint8)
    with torch.inference_mode():
        features = extractor.features(image)
    assert features.shape[1:] == (round(96 / stride), round(144 / stride))
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    found = extractor(pixels, (120, 180))
    assert len(found) >= 1
    assert found.masks.shape[1:] == (120, 180)


@pytest.mark.parametrize(("name", "stride"), NAMES)
@pytest.mark.parametrize("stages", [3, 4])
def test_solo_gives_masks_of_stride_four(
    tiny_config: Config, name: str, stride: int, stages: int
) -> None:
    config = with_backbone(tiny_config, name)
    config = override(config, {"backbone": {"stages": stages}}, where="test")
    network = build_solo(config.backbone, config.model).eval()
    assert network.neck is not None
    assert len(network.neck.channels) == stages
    assert network.backbone.strides == (stride,)
    with torch.inference_mode():
        outputs = network(torch.rand(1, 3, 64, 96))
    assert outputs.mask_features.shape[2:] == (16, 24)
    sides = [tuple(level.shape[2:]) for level in outputs.category_logits]
    assert sides == [(side, side) for side in config.model.grids]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stride"), NAMES)
def test_a_segmenter_is_trained_saved_and_used(
    tiny_config: Config, runtime: Runtime, scenes: Path, tmp_path: Path, name: str, stride: int
) -> None:
    options = {"steps": 1, "frozen_stages": 1, "checkpoint_every": 1}
    config = with_backbone(tiny_config, name, train=options)
    run = open_run(tmp_path / "run", command="train", inputs={}, config=config, overwrite=False)
    run.close()
    found = find_images(scenes / "images")
    labels = load_coco(scenes / "annotations.json")
    train(found, labels, run, config, runtime, model_folder=run.model)
    segmenter = soloist.load(tmp_path / "run", device="cpu", precision="fp32")
    assert segmenter.config.backbone.name == name
    assert segmenter.network.backbone.strides == (stride,)
    pixels = np.zeros((50, 70, 3), dtype=np.uint8)
    assert segmenter.predict(pixels)[0].image_size == (50, 70)


def test_densecl_learns_a_plain_transformer(
    tiny_config: Config, runtime: Runtime, scenes: Path, tmp_path: Path
) -> None:
    config = with_backbone(tiny_config, "test_vit", pretrain={"steps": 1})
    run = open_run(tmp_path / "run", command="pretrain", inputs={}, config=config, overwrite=False)
    run.close()
    backbone = pretrain(find_images(scenes / "images"), run, config, runtime)
    assert backbone.is_plain
    again = with_backbone(tiny_config, "test_vit")
    again = override(again, {"backbone": {"weights": str(run.path)}}, where="test")
    extractor = FreeMaskExtractor(again, runtime)
    with torch.inference_mode():
        assert extractor.features(torch.zeros(3, 64, 64, dtype=torch.uint8)).isfinite().all()
