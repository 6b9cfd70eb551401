from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from soloist import free_mask
from soloist.config import FreeMaskConfig
from soloist.free_mask import free_masks
from soloist.ops.masks import extent_boxes, masks_to_boxes
from soloist.ops.nms import matrix_nms
from soloist.ops.parts import largest_component
from soloist.structures import Instances

PAPER = FreeMaskConfig()
UNFILTERED = FreeMaskConfig(
    score_threshold=0, max_box_width=float("inf"), min_center_height=-1, embedding_size=16
)


def two_blobs(channels: int = 16, height: int = 12, width: int = 16, noise: float = 0.1) -> Tensor:
    """A background and two rectangles, each with a feature of its own."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(3, channels, generator=generator) ** 3
    labels = torch.zeros(height, width, dtype=torch.long)
    labels[height // 2 : height - 1, 1 : width // 4 + 1] = 1
    labels[height // 3 : height // 2 + 2, width // 2 : width - 2] = 2
    features = prototypes[labels].permute(2, 0, 1)
    return features + noise * torch.rand(features.shape, generator=generator)


def free_masks_by_loops(
    features: Tensor, image_size: tuple[int, int], config: FreeMaskConfig
) -> Instances:
    """Section 3.2 of the paper step by step, one query after another; no zeros, no ties."""
    _, height, width = features.shape
    keys = [features[:, y, x] for y in range(height) for x in range(width)]
    queries = []
    for scale in config.query_scales:
        small = functional.interpolate(features[None], scale_factor=scale, mode="bilinear")[0]
        queries += [small[:, y, x] for y in range(small.shape[1]) for x in range(small.shape[2])]
    soft_masks, scores, embeddings = [], [], []
    for query in queries:
        cosine = [float(query @ key / query.norm() / key.norm()) for key in keys]
        soft = (torch.tensor(cosine) - min(cosine)) / (max(cosine) - min(cosine))
        mask = soft >= config.mask_threshold
        if mask.sum() < config.min_cells:
            continue
        soft_masks.append(soft.view(height, width))
        scores.append(soft[mask].mean())
        unit = query / query.norm()
        embeddings.append(
            functional.interpolate(unit[None, None], config.embedding_size, mode="linear")[0, 0]
        )
    soft, score = torch.stack(soft_masks), torch.stack(scores)
    score = matrix_nms(soft >= config.mask_threshold, score, sigma=config.nms_sigma)
    best = score.argsort(descending=True)[: config.max_masks]
    full = functional.interpolate(soft[best][None], image_size, mode="bilinear")[0]
    masks = full >= config.mask_threshold
    found = Instances(
        image_size, masks, score[best], masks_to_boxes(masks), torch.stack(embeddings)[best]
    )
    keep = []
    for mask, mask_score in zip(masks, found.scores, strict=True):
        rows = mask.any(dim=1).nonzero().float()
        keep.append(
            bool(mask_score >= config.score_threshold)
            and float(mask.any(dim=0).sum()) < config.max_box_width * image_size[1]
            and float(rows.mean()) > config.min_center_height * image_size[0]
        )
    return found.filter(torch.tensor(keep))


def assert_same(found: Instances, expected: Instances) -> None:
    assert len(found) == len(expected)
    assert torch.equal(found.masks, expected.masks)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.embeddings, expected.embeddings, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(replace(PAPER, embedding_size=16), id="paper"),
        pytest.param(replace(UNFILTERED, max_masks=5), id="no-filters"),
        pytest.param(replace(PAPER, query_scales=(0.5,), embedding_size=8), id="one-scale"),
        pytest.param(replace(PAPER, mask_threshold=0.7, min_cells=9), id="other-thresholds"),
    ],
)
def test_free_masks_equal_the_paper_step_by_step(config: FreeMaskConfig) -> None:
    features = two_blobs()
    found = free_masks(features, (96, 128), config)
    assert len(found) >= 2
    assert_same(found, free_masks_by_loops(features, (96, 128), config))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(13, 17), (11, 9), (15, 18)])
def test_odd_maps_equal_the_paper_step_by_step(size: tuple[int, int]) -> None:
    """The scales do not divide the sides, so it matters where the resized maps are sampled."""
    features = two_blobs(height=size[0], width=size[1])
    config = replace(UNFILTERED, max_masks=8)
    found = free_masks(features, (96, 128), config)
    assert len(found) == 8
    assert_same(found, free_masks_by_loops(features, (96, 128), config))


def test_the_largest_part_is_an_option() -> None:
    features = two_blobs()
    features[:, 0, 15] = features[:, 8, 2]  # A stray cell of the first blob.
    whole, parts = (
        free_masks(features, (48, 64), replace(UNFILTERED, largest_part=switch))
        for switch in (False, True)
    )
    assert torch.equal(parts.masks, largest_component(whole.masks))
    assert torch.equal(parts.boxes, masks_to_boxes(parts.masks))
    assert not torch.equal(parts.masks, whole.masks)


def test_a_soft_value_at_the_threshold_is_foreground() -> None:
    # The cosines with the left third are 1, 0 and -1, so the middle's soft value is 0.5.
    features = torch.tensor([[1.0, 1, 0, 0, -1, -1], [0, 0, 1, 1, 0, 0]])[:, None].expand(2, 2, 6)
    found = free_masks(features, (2, 6), replace(UNFILTERED, query_scales=(1.0,)))
    left = torch.tensor([True, True, True, True, False, False]).expand(2, 6)
    assert any(torch.equal(mask, left) for mask in found.masks)


def test_compat_boxes_are_those_of_the_released_code() -> None:
    released = free_masks(two_blobs(), (60, 80), replace(PAPER, compat="released"))
    assert len(released) >= 2
    assert torch.equal(released.boxes, extent_boxes(released.masks))
    assert_same(
        replace(released, boxes=masks_to_boxes(released.masks)),
        free_masks(two_blobs(), (60, 80), PAPER),
    )


def test_compat_keeps_nothing_on_an_image_with_a_zero_location() -> None:
    features = two_blobs()
    features[:, 8, 2] = 0
    found = free_masks(features, (12, 16), replace(UNFILTERED, compat="released"))
    assert found.masks.shape == (0, 12, 16)
    assert found.embeddings.shape == (0, 16)


def test_a_zero_location_is_background_of_every_mask() -> None:
    features = two_blobs()
    features[:, 8, 2] = 0
    found = free_masks(features, (12, 16), UNFILTERED)
    assert len(found) == 20
    assert not found.masks[:, 8, 2].any()


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(torch.zeros(16, 6, 8), id="all-zero"),
        pytest.param(torch.ones(16, 6, 8), id="constant"),
        pytest.param(
            torch.linspace(0.1, 1, 333)[:, None, None].expand(333, 9, 11), id="one-vector"
        ),
        pytest.param(torch.rand(16, 1, 1), id="one-cell"),
    ],
)
def test_a_map_without_contrast_has_no_masks(features: Tensor) -> None:
    found = free_masks(features, (48, 64), UNFILTERED)
    assert found.masks.shape == (0, 48, 64)
    assert found.embeddings.shape == (0, 16)


@pytest.mark.parametrize("size", [(1, 2), (2, 3), (3, 3), (3, 9), (4, 4)])
def test_small_maps_leave_out_the_scales_that_vanish(size: tuple[int, int]) -> None:
    features = torch.rand(16, *size, generator=torch.Generator().manual_seed(0))
    every = free_masks(features, (30, 30), replace(UNFILTERED, max_masks=100, min_cells=1))
    rows, columns = size
    shares = [(int(rows * s), int(columns * s)) for s in (1, 0.5, 0.25)]
    assert len(every) == sum(height * width for height, width in shares)


def test_cells_of_opposite_features_make_no_query_of_noise() -> None:
    features = torch.ones(3, 4, 4)
    features[:, ::2] = -1
    found = free_masks(features, (16, 16), replace(UNFILTERED, query_scales=(0.5,)))
    assert len(found) == 0


def test_the_size_of_the_features_does_not_matter() -> None:
    features = two_blobs()
    assert_same(free_masks(1000 * features, (60, 80), PAPER), free_masks(features, (60, 80), PAPER))


def test_a_mirrored_map_gives_mirrored_masks() -> None:
    features = two_blobs()
    found = free_masks(features, (60, 80), PAPER)
    mirrored = free_masks(features.flip(2), (60, 80), PAPER)
    assert len(found) >= 2
    assert torch.equal(mirrored.masks, found.masks.flip(2))
    torch.testing.assert_close(mirrored.scores, found.scores, rtol=0, atol=1e-5)


def test_masks_are_ordered_limited_and_boxed() -> None:
    found = free_masks(two_blobs(noise=0.5), (60, 80), replace(UNFILTERED, max_masks=7))
    assert len(found) == 7
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert torch.equal(found.boxes, masks_to_boxes(found.masks))


def test_a_limit_of_box_height_drops_tall_masks() -> None:
    features = two_blobs()
    every = free_masks(features, (60, 80), UNFILTERED)
    heights = every.masks.any(dim=2).sum(dim=1)
    low = free_masks(features, (60, 80), replace(UNFILTERED, max_box_height=0.5))
    assert 0 < len(low) < len(every)
    torch.testing.assert_close(low.scores, every.scores[heights < 30])


def test_half_precision_features_give_float32_results() -> None:
    found = free_masks(two_blobs().bfloat16(), (60, 80), PAPER)
    assert len(found) >= 2
    assert {found.scores.dtype, found.boxes.dtype, found.embeddings.dtype} == {torch.float32}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_and_gradients_around_the_call_change_nothing(precision: torch.dtype) -> None:
    features = two_blobs()
    expected = free_masks(features, (60, 80), PAPER)
    with torch.autocast("cpu", precision):
        found = free_masks(features.requires_grad_(), (60, 80), PAPER)
    assert_same(found, expected)
    assert not found.embeddings.requires_grad


def test_the_memory_layout_of_the_features_does_not_matter() -> None:
    features = two_blobs()
    channels_last = features.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert_same(free_masks(channels_last, (60, 80), PAPER), free_masks(features, (60, 80), PAPER))


def test_embeddings_of_the_features_own_size_are_unit_queries() -> None:
    features = two_blobs()
    found = free_masks(features, (60, 80), replace(PAPER, query_scales=(1.0,), embedding_size=16))
    queries = functional.normalize(features.flatten(1), dim=0).T
    distances = torch.cdist(found.embeddings, queries).amin(dim=1)
    torch.testing.assert_close(distances, torch.zeros(len(found)), rtol=0, atol=1e-3)


def test_an_image_smaller_than_the_map_keeps_no_empty_mask() -> None:
    found = free_masks(two_blobs(noise=0.5), (2, 3), UNFILTERED)
    assert len(found) >= 1
    assert found.masks.flatten(1).any(dim=1).all()


def test_chunks_do_not_change_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = two_blobs()
    expected = free_masks(features, (60, 80), UNFILTERED)
    monkeypatch.setattr(free_mask, "_BLOCK", 50)
    assert_same(free_masks(features, (60, 80), UNFILTERED), expected)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        pytest.param(torch.zeros(4, 4), r"must be \(C, H, W\)", id="no-channels"),
        pytest.param(torch.zeros(4, 0, 4), "none of them 0", id="no-rows"),
        pytest.param(torch.full((4, 4, 4), torch.nan), "finite", id="nan"),
        pytest.param(torch.full((4, 4, 4), torch.inf), "finite", id="infinity"),
    ],
)
def test_wrong_features_are_refused(features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        free_masks(features, (8, 8))
