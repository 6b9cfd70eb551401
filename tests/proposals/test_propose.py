from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from soloist.config import Config, ExtractConfig, FreeMaskConfig, RegionConfig
from soloist.config.presets import override
from soloist.data.scenes import make_scene
from soloist.free_mask import free_masks
from soloist.postprocess import CellMasks
from soloist.proposals.propose import (
    DOUBT,
    HEARD,
    LEAST,
    PROPOSERS,
    SUPPORT,
    UNHEARD,
    confirmed,
    decoded_side,
    looked_at,
    propose,
)
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import Regions, region_masks

SCENE = make_scene(3, long_side=128)
SIZE = (SCENE.image.shape[0], SCENE.image.shape[1])
FEATURES = torch.nn.functional.interpolate(
    torch.from_numpy(SCENE.image).permute(2, 0, 1)[None].float(), (12, 16), mode="area"
)[0]
FEATURES = FEATURES - FEATURES.mean(dim=(1, 2), keepdim=True)
CONFIG = replace(
    Config(),
    free_mask=FreeMaskConfig(score_threshold=0.0, min_center_height=0.0),
    regions=RegionConfig(score_threshold=0.0),
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


def test_outlines_of_free_masks_are_refined_if_wanted() -> None:
    plain = propose(SCENE.image, FEATURES, SIZE, config_of("free-mask"))
    config = override(config_of("free-mask"), {"free_mask": {"outline_radius": 0.1}}, where="test")
    sharp = propose(SCENE.image, FEATURES, SIZE, config)
    assert torch.equal(sharp.masks, refine_with_guided_filter(plain, SCENE.image, 0.1).masks)
    assert not torch.equal(sharp.masks, plain.masks)


def test_regions_see_every_pixel_and_free_masks_what_is_asked_for() -> None:
    assert decoded_side(config_of("regions")) is None
    assert decoded_side(config_of("free-mask")) == CONFIG.extract.short_side


@pytest.mark.parametrize("name", sorted(PROPOSERS))
def test_nothing_to_propose_is_no_error(name: str) -> None:
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    found = propose(pixels, torch.zeros(4, 2, 3), (20, 30), config_of(name))
    assert len(found) == 0
    assert found.masks.shape == (0, 20, 30)


# What a network says of regions

# Of an image of 4 x 100 pixels in 1 x 10 cells: columns 0 to 10, 20 to 40 and 60 to 100.
REGIONS = Regions(
    masks=torch.stack(
        [((torch.arange(100) >= a) & (torch.arange(100) < b)).expand(4, -1)
         for a, b in ((0, 10), (20, 40), (60, 100))]
    ),
    scores=np.array([0.5, 0.3, 0.2]),
    boxes=np.array([[0, 0, 10, 4], [20, 0, 40, 4], [60, 0, 100, 4]], dtype=np.float32),
    labels=None,
    counts=40 * np.repeat(np.eye(10, dtype=np.float32), [1] * 10, axis=0)[[0, 2, 6]],
    pixels=np.full((1, 10), 40, dtype=np.float32),
    evidence=0.0,
    agreements=np.array([[0.1], [0.2], [0.3]], dtype=np.float32),
)  # fmt: skip
REGIONS.counts[1, 3] = REGIONS.counts[2, 7] = REGIONS.counts[2, 8] = REGIONS.counts[2, 9] = 40


def seen(
    spans: Sequence[tuple[int, int]], scores: Sequence[float], labels: bool = False
) -> CellMasks:
    """A network's masks that span some of the 10 cells."""
    numbers = torch.arange(10)
    masks = [((numbers >= a) & (numbers < b)).float() for a, b in spans]
    return CellMasks(
        torch.stack(masks) if masks else torch.zeros(0, 10),
        torch.tensor(scores),
        torch.arange(len(spans)) if labels else None,
    )


def odds(score: float) -> float:
    return math.log(score / (1 - score))


def test_a_region_scores_by_itself_and_by_what_the_network_sees() -> None:
    # The last region is half of one mask and all of a weaker one; the second is a mask; nobody
    # sees the first.
    found = seen([(6, 8), (6, 10), (2, 4)], [0.9, 0.4, 0.8])
    best = confirmed(REGIONS, found)
    wanted = [
        odds(0.3) + SUPPORT * math.sqrt(0.8) - DOUBT,
        odds(0.2) + SUPPORT * math.sqrt(0.9 * 0.5) - DOUBT,
        odds(0.5) - DOUBT,
    ]
    assert [odds(score) for score in best.scores.tolist()] == pytest.approx(wanted)
    order = [1, 2, 0]
    assert torch.equal(best.masks, REGIONS.masks[order])
    assert best.boxes.tolist() == REGIONS.boxes[order].tolist()
    assert best.agreements is not None
    assert best.agreements.ravel().tolist() == pytest.approx([0.2, 0.3, 0.1])
    assert best.labels is None


def test_the_classes_are_those_of_the_masks() -> None:
    best = confirmed(REGIONS, seen([(6, 10), (2, 4)], [0.9, 0.8], labels=True))
    assert best.labels is not None
    assert best.labels.tolist()[:2] == [1, 0]


@pytest.mark.parametrize(("evidence", "say"), [(HEARD, 1), ((HEARD + UNHEARD) / 2, 0.5), (9.0, 0)])
def test_of_many_objects_alike_the_network_has_no_say(evidence: float, say: float) -> None:
    found = seen([(0, 1)], [1.0])
    best = confirmed(replace(REGIONS, evidence=evidence), found)
    assert odds(best.scores[0]) == pytest.approx(odds(0.5) + say * (SUPPORT - DOUBT))


def test_a_network_that_sees_nothing_leaves_doubt_and_regions_that_are_none_stay_none() -> None:
    best = confirmed(REGIONS, seen([], []))
    assert [odds(score) for score in best.scores] == pytest.approx(
        [odds(score) - DOUBT for score in REGIONS.scores]
    )
    none = confirmed(REGIONS.filter(np.zeros(0, dtype=np.int64)), seen([(0, 1)], [1.0]))
    assert len(none.scores) == 0


def test_what_no_support_can_lift_is_not_looked_at() -> None:
    assert looked_at(0.0) == 0
    assert looked_at(0.5) == LEAST
    assert odds(looked_at(0.001)) == pytest.approx(odds(0.001) + DOUBT)
