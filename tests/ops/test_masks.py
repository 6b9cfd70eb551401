from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from soloist.ops import masks as masks_module
from soloist.ops.masks import (
    center_of_mass,
    extent_boxes,
    extents,
    intersections,
    mask_areas,
    mask_iou,
    masks_to_boxes,
    mean_inside,
)

Golden = Callable[[str], Mapping[str, Any]]


def drawn(*rows: str) -> torch.Tensor:
    """One mask (1, H, W) from text, `#` is foreground."""
    return torch.tensor([[character == "#" for character in row] for row in rows])[None]


def random_masks(n: int, seed: int = 0, share: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 7, 9, generator=generator) < share


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([[0.9, 0.7], [0.2, 0.1]], 0.8, id="mean-of-two-foreground-pixels"),
        pytest.param([[0.4, 0.1], [0.0, 0.2]], 0.0, id="no-foreground-is-zero"),
        pytest.param([[1.0]], 1.0, id="one-pixel"),
    ],
)
def test_mean_inside(values: list[list[float]], expected: float) -> None:
    soft_masks = torch.tensor(values)[None]
    means = mean_inside(soft_masks, soft_masks >= 0.5)
    torch.testing.assert_close(means, torch.tensor([expected]))


def test_mean_inside_of_half_precision_is_float32() -> None:
    soft_masks = torch.full((1, 100, 100), 0.75, dtype=torch.bfloat16)
    means = mean_inside(soft_masks, soft_masks >= 0.5)
    assert means.tolist() == [0.75]
    assert means.dtype == torch.float32


def test_masks_without_a_mask_axis_are_refused() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masks must be \(N, H, W\), got \(4, 4\)"):
        mask_iou(mask, mask)


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        pytest.param(drawn("....", ".##.", ".##."), [1, 1, 3, 3], id="rectangle"),
        pytest.param(drawn("#..", "...", "..#"), [0, 0, 3, 3], id="two-parts"),
        pytest.param(drawn("...", "..#"), [2, 1, 3, 2], id="one-pixel-in-the-corner"),
        pytest.param(drawn("##", "##"), [0, 0, 2, 2], id="full"),
        pytest.param(drawn("...", "..."), [0, 0, 0, 0], id="empty"),
    ],
)
def test_masks_to_boxes(mask: torch.Tensor, box: list[float]) -> None:
    boxes = masks_to_boxes(mask)
    assert boxes.tolist() == [box]
    assert boxes.dtype == torch.float32


def test_boxes_follow_a_mirrored_mask() -> None:
    masks = random_masks(20, share=0.05)
    masks = masks[mask_areas(masks) > 0]
    left, top, right, bottom = masks_to_boxes(masks).unbind(1)
    mirrored = masks_to_boxes(masks.flip(2))
    torch.testing.assert_close(mirrored, torch.stack((9 - right, top, 9 - left, bottom), 1))


@pytest.mark.parametrize(
    ("mask", "center", "size", "box"),
    [
        pytest.param(
            drawn("....", ".##.", ".##."), [1.5, 1.5], [2, 2], [0.5, 0.5, 2.5, 2.5], id="rectangle"
        ),
        pytest.param(
            drawn("#...", "....", "...#"), [1, 1.5], [2, 2], [0.5, 0, 2.5, 2], id="two-parts"
        ),
        pytest.param(drawn("...", "..#"), [1, 2], [1, 1], [1.5, 0.5, 2.5, 1.5], id="one-pixel"),
        pytest.param(drawn("...", "..."), [0, 0], [0, 0], [0, 0, 0, 0], id="empty"),
    ],
)
def test_extents_and_their_boxes(
    mask: torch.Tensor, center: list[float], size: list[float], box: list[float]
) -> None:
    centers, sizes = extents(mask)
    assert centers.tolist() == [center]
    assert sizes.tolist() == [size]
    assert extent_boxes(mask).tolist() == [box]


def test_extent_boxes_of_solid_masks_are_the_tight_ones_half_a_pixel_off() -> None:
    masks = torch.zeros(2, 9, 9, dtype=torch.bool)
    masks[0, 2:5, 1:8] = True
    masks[1, 8, 0] = True
    assert torch.equal(extent_boxes(masks), masks_to_boxes(masks) - 0.5)


@pytest.mark.parametrize(
    ("mask", "center"),
    [
        pytest.param(drawn("....", ".##.", ".##."), [1.5, 1.5], id="rectangle"),
        pytest.param(drawn("#..", "...", "..#"), [1.0, 1.0], id="two-parts"),
        pytest.param(drawn("###", "#.."), [0.25, 0.75], id="weighted-by-pixels"),
        pytest.param(drawn("...", "..#"), [1.0, 2.0], id="one-pixel"),
        pytest.param(drawn("...", "..."), [0.0, 0.0], id="empty"),
    ],
)
def test_center_of_mass(mask: torch.Tensor, center: list[float]) -> None:
    torch.testing.assert_close(center_of_mass(mask), torch.tensor([center]))


def test_center_of_mass_equals_the_released_code(golden: Golden) -> None:
    reference = golden("matrix_nms")
    centers = center_of_mass(torch.from_numpy(reference["masks"]))
    expected = torch.from_numpy(reference["com_y"]), torch.from_numpy(reference["com_x"])
    torch.testing.assert_close(centers, torch.stack(expected, dim=1))


def test_mask_iou_equals_counting_pixel_by_pixel() -> None:
    masks, others = random_masks(5), random_masks(3, seed=1)
    masks[2] = False
    others[1] = False
    expected = torch.zeros(5, 3)
    for i, mask in enumerate(masks):
        for j, other in enumerate(others):
            union = sum(
                bool(a) or bool(b) for a, b in zip(mask.flatten(), other.flatten(), strict=True)
            )
            both = sum(
                bool(a) and bool(b) for a, b in zip(mask.flatten(), other.flatten(), strict=True)
            )
            expected[i, j] = both / union if union else 0
    torch.testing.assert_close(mask_iou(masks, others), expected)


def test_mask_iou_of_masks_with_themselves() -> None:
    iou = mask_iou(random_masks(6), random_masks(6))
    torch.testing.assert_close(iou.diagonal(), torch.ones(6))
    torch.testing.assert_close(iou, iou.T)


def test_mask_iou_of_two_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        mask_iou(torch.zeros(1, 4, 6, dtype=torch.bool), torch.zeros(1, 6, 4, dtype=torch.bool))


def test_no_masks_give_empty_results() -> None:
    none = torch.zeros(0, 4, 5, dtype=torch.bool)
    assert mean_inside(none.float(), none).shape == (0,)
    assert mask_iou(none, random_masks(3)[:, :4, :5]).shape == (0, 3)
    assert masks_to_boxes(none).shape == extent_boxes(none).shape == (0, 4)
    assert center_of_mass(none).shape == (0, 2)


def test_overlaps_stay_exact_under_autocast() -> None:
    masks = torch.ones(2, 20, 20, dtype=torch.bool)
    masks[1, 0, 0] = False
    with torch.autocast("cpu", torch.bfloat16):
        iou = mask_iou(masks, masks)
    assert iou[0, 1].item() == pytest.approx(399 / 400, abs=1e-6)


@pytest.mark.parametrize("by_bytes", [True, False])
@pytest.mark.parametrize(
    ("count", "others", "pixels"),
    [
        pytest.param(5, 3, 300, id="some"),
        pytest.param(1, 1, 1, id="one"),
        pytest.param(0, 3, 10, id="no-mask"),
        pytest.param(3, 0, 10, id="no-other"),
        pytest.param(2, 2, 70_000, id="more-than-16-bits"),
    ],
)
def test_intersections_are_exact_however_they_are_counted(
    monkeypatch: pytest.MonkeyPatch, by_bytes: bool, count: int, others: int, pixels: int
) -> None:
    monkeypatch.setattr(masks_module, "_multiplies_bytes", lambda: by_bytes)
    monkeypatch.setattr(masks_module, "_FLOATS", 2 * pixels)
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(count, pixels, generator=generator) < 0.9
    right = torch.rand(others, pixels, generator=generator) < 0.9
    expected = (left[:, None] & right).sum(dim=2)
    shared = intersections(left, right)
    assert shared.dtype == torch.float32
    assert torch.equal(shared, expected.float())
