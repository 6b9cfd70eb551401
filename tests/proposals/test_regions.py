from __future__ import annotations

import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.proposals.references import mask_of as node_mask
from tests.proposals.references import noise
from torch import Tensor
from torch.nn import functional

from soloist.config import RegionConfig
from soloist.ops.features import unit_embeddings, unit_features
from soloist.ops.masks import mask_iou, masks_to_boxes
from soloist.proposals import regions, scale
from soloist.proposals.hierarchy import hierarchies
from soloist.proposals.likeness import ranked
from soloist.proposals.ranking import candidates_at
from soloist.proposals.regions import (
    candidate_masks,
    encoded_regions,
    region_candidates,
    region_masks,
)
from soloist.proposals.scale import working_size

Pixels = NDArray[np.uint8]
SIZE = (96, 128)
NOTHING = torch.ones(3, 6, 8)
ALL = RegionConfig(score_threshold=0.0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are not enlarged to sizes that take long."""
    monkeypatch.setattr(scale, "MIN_SIDE", 96)
    monkeypatch.setattr(scale, "REFERENCE_SIDE", 96)


def image(*objects: tuple[slice, slice, tuple[int, int, int]]) -> Pixels:
    """Objects of one colour each on grey, with a little noise so that nothing is exactly even."""
    pixels = np.full((*SIZE, 3), 128, dtype=np.int64)
    for rows, columns, color in objects:
        pixels[rows, columns] = color
    pixels += np.random.default_rng(0).integers(-4, 5, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def mask_of(rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros((1, *SIZE), dtype=torch.bool)
    mask[0, rows, columns] = True
    return mask


RED = (slice(20, 52), slice(16, 56), (200, 40, 40))
BLUE = (slice(40, 84), slice(76, 112), (30, 60, 200))


def test_the_objects_of_a_image_are_the_best_masks() -> None:
    found = region_masks(image(RED, BLUE), NOTHING, SIZE, ALL)
    wanted = torch.cat([mask_of(*RED[:2]), mask_of(*BLUE[:2])])
    assert (mask_iou(wanted, found.masks[:2]).amax(dim=1) > 0.9).all()
    assert found.scores[1] > 1.2 * found.scores[2]


def test_masks_scores_and_boxes_are_what_instances_promise() -> None:
    found = region_masks(image(RED, BLUE), torch.randn(5, 6, 8), SIZE, ALL)
    assert 0 < len(found) <= ALL.max_masks
    assert (found.scores.diff() <= 0).all()
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert found.embeddings.shape == (len(found), ALL.embedding_size)
    assert torch.allclose(found.embeddings.norm(dim=1), torch.ones(len(found)), atol=1e-4)
    for mask, box in zip(found.masks, found.boxes, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == [float(value) for value in tight]


def test_two_runs_are_equal() -> None:
    one, other = (region_masks(image(RED, BLUE), NOTHING, SIZE, ALL) for _ in range(2))
    assert torch.equal(one.masks, other.masks)
    assert torch.equal(one.scores, other.scores)


def test_embeddings_are_the_mean_features_of_the_pixels_of_a_mask() -> None:
    features = torch.randn(5, 6, 8)
    found = region_masks(image(RED, BLUE), features, SIZE, ALL)
    unit = unit_features(features)
    # A pixel has the features of the cell it lies in.
    whole = unit.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    sums = torch.stack([whole[:, mask].sum(dim=1) for mask in found.masks])
    wanted = unit_embeddings(sums, ALL.embedding_size)
    torch.testing.assert_close(found.embeddings, wanted, rtol=1e-3, atol=1e-3)


def test_a_mirrored_image_gives_mirrored_masks_about() -> None:
    """Of equally low neighbours water takes the first, so outlines may move by some pixels."""
    pixels = image(RED, BLUE)
    found = region_masks(pixels, NOTHING, SIZE, ALL)
    mirrored = region_masks(pixels[:, ::-1].copy(), NOTHING, SIZE, ALL)
    overlap = mask_iou(found.masks[:2], mirrored.masks[:2].flip(-1)).amax(dim=1)
    assert (overlap > 0.9).all()


def score_at(rows: slice, columns: slice) -> float:
    wanted = mask_of(rows, columns)
    found, candidates = region_candidates(image((rows, columns, RED[2])), most=100)
    masks, _ = candidate_masks(found, candidates, SIZE)
    same = (mask_iou(wanted, masks)[0] > 0.9).numpy()
    return float(candidates.scores[same].max()) if same.any() else 0.0


def test_what_touches_the_border_is_found_and_scores_less() -> None:
    free = score_at(slice(30, 60), slice(30, 80))
    one_side = score_at(slice(0, 30), slice(30, 80))
    three_sides = score_at(slice(0, 30), slice(0, 128))
    assert free > one_side > three_sides > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (40, 1), (3, 200)])
def test_tiny_images_have_no_error(shape: tuple[int, int]) -> None:
    for pixels in (np.zeros((*shape, 3), dtype=np.uint8), noise(*shape)):
        found = region_masks(pixels, torch.ones(2, 1, 1), shape, ALL)
        assert found.masks.shape[1:] == shape
        assert found.scores.isfinite().all()


def test_a_image_of_one_colour_has_no_mask() -> None:
    pixels = np.full((*SIZE, 3), 90, dtype=np.uint8)
    assert len(region_masks(pixels, NOTHING, SIZE)) == 0


def test_masks_are_made_at_the_size_asked_for() -> None:
    """Pixels may have been read at reduced size."""
    whole = region_masks(image(RED, BLUE), NOTHING, (192, 256), ALL)
    small = region_masks(image(RED, BLUE), NOTHING, SIZE, ALL)
    assert whole.masks.shape[1:] == (192, 256)
    shrunk = whole.masks[:, ::2, ::2]
    assert (mask_iou(small.masks[:2], shrunk[:2]).amax(dim=1) > 0.93).all()


@pytest.mark.parametrize("size", [(20, 30), (27, 31), (50, 90), (7, 5)])
def test_masks_of_candidates_are_interpolated_nodes(size: tuple[int, int]) -> None:
    pixels = noise(20, 30)
    found = hierarchies(pixels)
    candidates = ranked(found, 40, 0.7)
    assert len(candidates) > 32
    masks = candidate_masks(found, candidates, size)[0]
    for place, mask in enumerate(masks):
        node = node_mask(found.trees[candidates.trees[place]], int(candidates.nodes[place]))
        soft = functional.interpolate(
            torch.from_numpy(node)[None, None].float(), size, mode="bilinear", align_corners=False
        )[0, 0]
        clear = (soft - 0.5).abs() > 1e-4  # Sums in another order may end beside the threshold.
        assert torch.equal(mask[clear], (soft >= 0.5)[clear])


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (RegionConfig(score_threshold=0.0, max_masks=3), 3),
        (RegionConfig(score_threshold=0.99999), 0),
    ],
    ids=["max_masks", "score_threshold"],
)
def test_options_bound_what_is_kept(options: RegionConfig, most: int) -> None:
    assert len(region_masks(image(RED, BLUE), NOTHING, SIZE, options)) == most


def test_a_lower_threshold_of_overlap_keeps_fewer() -> None:
    counts = [
        len(
            region_masks(
                image(RED, BLUE),
                NOTHING,
                SIZE,
                replace(ALL, max_masks=9999, nms_threshold=threshold),
            )
        )
        for threshold in (0.5, 0.9)
    ]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("size", [SIZE, (50, 60), (192, 256), (5, 4)])
def test_encoded_regions_are_the_same_objects(size: tuple[int, int]) -> None:
    whole = region_masks(image(RED, BLUE), NOTHING, size, ALL)
    made = encoded_regions(image(RED, BLUE), (6, 8), size, ALL)
    found = pickle.loads(pickle.dumps(made)).described(NOTHING, ALL.embedding_size)
    assert torch.equal(torch.from_numpy(np.asarray(found.masks)), whole.masks)
    for name in ("boxes", "scores", "embeddings"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert torch.equal(whole.boxes, masks_to_boxes(whole.masks))
    assert whole.masks.flatten(1).any(dim=1).all()


def test_masks_that_take_too_much_memory_are_left_out_and_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = region_masks(image(RED, BLUE), NOTHING, SIZE, ALL)
    monkeypatch.setattr(regions, "MAX_BYTES", 2 * SIZE[0] * SIZE[1])
    with caplog.at_level(logging.WARNING):
        found = region_masks(image(RED, BLUE), NOTHING, SIZE, ALL)
    assert torch.equal(found.masks, whole.masks[:2])
    assert "--tile" in caplog.text
    encoded = encoded_regions(image(RED, BLUE), (6, 8), SIZE, ALL)
    assert len(encoded.masks) == len(whole)


def test_hundreds_of_cells_are_hundreds_of_masks() -> None:
    """Discs of 7 pixels on a grid; the ground touches every border, cells at the edge do too."""
    rows, columns = np.indices((192, 256))
    cells = (rows % 12 - 6) ** 2 + (columns % 12 - 6) ** 2 < 14
    pixels = np.where(cells, 40, 8) + np.random.default_rng(0).integers(0, 4, cells.shape)
    grey = pixels.astype(np.uint8)[:, :, None].repeat(3, axis=2)
    found, candidates = region_candidates(grey, most=2000)
    scale = found.size[0] / 192
    hit = 0
    for row in range(6, 192, 12):
        for column in range(6, 252, 12):
            truth = np.zeros(cells.shape, dtype=bool)
            truth[row - 5 : row + 6, column - 5 : column + 6] = True
            truth &= cells
            places = candidates_at(found, candidates, int(row * scale), int(column * scale))
            ratios = candidates.areas[places] / (truth.sum() * scale**2)
            hit += bool((np.abs(ratios - 1) < 0.5).any())
    assert hit >= 0.95 * 16 * 21


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        pytest.param((320, 427), (384, 512), id="enlarged"),
        pytest.param((427, 320), (512, 384), id="upright"),
        pytest.param((64, 64), (384, 384), id="small"),
        pytest.param((3000, 4000), (980, 1306), id="12 megapixels"),
        pytest.param((10_000, 10_000), (1448, 1448), id="bounded"),
        pytest.param((1, 5000), (20, 102_400), id="a line is enlarged less"),
    ],
)
def test_images_are_cut_up_between_their_own_size_and_the_usual_one(
    size: tuple[int, int], wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert working_size(size) == wanted


@pytest.mark.parametrize(
    ("pixels", "features", "message"),
    [
        (np.zeros((4, 4), np.uint8), NOTHING, "pixels must be"),
        (np.zeros((4, 4, 3), np.float32), NOTHING, "pixels must be"),
        (np.zeros((4, 4, 3), np.uint8), torch.ones(3, 0, 2), "features must be"),
        (np.zeros((4, 4, 3), np.uint8), torch.full((3, 2, 2), torch.nan), "finite"),
    ],
)
def test_wrong_input_is_told(pixels: Pixels, features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        region_masks(pixels, features, (4, 4))
