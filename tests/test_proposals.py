from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from soloist.config import Config, ExtractConfig, FreeMaskConfig, RegionConfig
from soloist.data.scenes import make_scene
from soloist.free_mask import free_masks
from soloist.ops.masks import mask_iou
from soloist.presets import override
from soloist.proposals import PROPOSERS, propose
from soloist.regions import region_masks

SCENE = make_scene(3, long_side=128)
SIZE = (SCENE.image.shape[0], SCENE.image.shape[1])
FEATURES = torch.nn.functional.interpolate(
    torch.from_numpy(SCENE.image).permute(2, 0, 1)[None].float(), (12, 16), mode="area"
)[0]
FEATURES = FEATURES - FEATURES.mean(dim=(1, 2), keepdim=True)
CONFIG = replace(
    Config(),
    free_mask=FreeMaskConfig(score_threshold=0.0, min_center_height=0.0),
    regions=RegionConfig(superpixels=80, score_threshold=0.0),
)


def config_of(name: str) -> Config:
    return override(CONFIG, {"extract": {"proposals": name}}, where="test")


def test_each_name_of_the_option_has_a_proposer() -> None:
    assert set(PROPOSERS) == set(get_args(get_type_hints(ExtractConfig)["proposals"]))


def test_the_option_chooses() -> None:
    free = propose(SCENE.image, FEATURES, SIZE, config_of("free-mask"))
    assert torch.equal(free.masks, free_masks(FEATURES, SIZE, CONFIG.free_mask).masks)
    regions = propose(SCENE.image, FEATURES, SIZE, config_of("regions"))
    assert torch.equal(
        regions.masks, region_masks(SCENE.image, FEATURES, SIZE, CONFIG.regions).masks
    )


def test_both_are_the_regions_and_then_free_masks_that_are_none_of_them() -> None:
    regions = propose(SCENE.image, FEATURES, SIZE, config_of("regions"))
    both = propose(SCENE.image, FEATURES, SIZE, config_of("regions+free-mask"))
    assert len(both) > len(regions) > 0
    assert torch.equal(both.masks[: len(regions)], regions.masks)
    added = both.filter(torch.arange(len(regions), len(both)))
    assert mask_iou(added.masks, regions.masks).max() <= CONFIG.regions.nms_threshold
    assert (both.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", sorted(PROPOSERS))
def test_nothing_to_propose_is_no_error(name: str) -> None:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    found = propose(pixels, torch.zeros(4, 2, 3), (20, 30), config_of(name))
    assert len(found) == 0
    assert found.masks.shape == (0, 20, 30)
