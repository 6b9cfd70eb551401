from __future__ import annotations

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
from soloist.ops.masks import masks_to_boxes
from soloist.proposals.propose import PROPOSERS, decoded_side, propose, rerank_proposals
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import region_masks
from soloist.structures import Instances

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


# What a segmenter says of them


def columns(
    spans: Sequence[tuple[int, int]],
    scores: Sequence[float],
    *,
    embedding: float,
    labels: bool = True,
) -> Instances:
    """Masks that span columns of an image of 4 x 100; row k has the embedding of number k."""
    numbers = torch.arange(100)
    masks = torch.stack([((numbers >= a) & (numbers < b)).expand(4, -1) for a, b in spans])
    rows = torch.arange(len(spans))
    return Instances(
        image_size=(4, 100),
        masks=masks,
        scores=torch.tensor(scores),
        boxes=masks_to_boxes(masks),
        embeddings=embedding + rows[:, None].float(),
        labels=rows if labels else None,
    )


PROPOSED = columns([(0, 10), (20, 40), (60, 100)], [0.9, 0.6, 0.4], embedding=-9, labels=False)
FOUND = columns([(60, 84), (20, 40), (45, 55)], [0.5, 0.4, 0.3], embedding=0)


def test_a_proposal_scores_by_itself_and_by_what_the_segmenter_sees() -> None:
    best = rerank_proposals(PROPOSED, FOUND)
    # The second proposal is the second mask. Most of the third is the first mask, which is hence
    # no mask of its own; the third mask is; nobody sees the first proposal.
    wanted = [(0.6**2 * 0.4) ** (1 / 3), (0.4**2 * 0.6 * 0.5) ** (1 / 3), 0.5 * 0.3]
    assert best.scores.tolist() == pytest.approx(wanted)
    assert torch.equal(best.masks[:2], PROPOSED.masks[1:])
    assert torch.equal(best.masks[2], FOUND.masks[2])
    assert torch.equal(best.boxes, masks_to_boxes(best.masks))
    assert best.embeddings.flatten().tolist() == [1, 0, 2]
    assert best.labels is not None
    assert best.labels.tolist() == [1, 0, 2]


def test_without_masks_nothing_is_confirmed_and_without_proposals_masks_stay() -> None:
    assert len(rerank_proposals(PROPOSED, Instances.empty((4, 100)))) == 0
    alone = rerank_proposals(Instances.empty((4, 100)), FOUND)
    assert torch.equal(alone.masks, FOUND.masks)
    assert alone.scores.tolist() == pytest.approx([0.25, 0.2, 0.15])


def test_where_there_are_no_classes_none_are_made() -> None:
    assert rerank_proposals(PROPOSED, replace(FOUND, labels=None)).labels is None
