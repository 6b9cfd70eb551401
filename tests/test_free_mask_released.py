"""Free Mask against the released code's values: the whole, every step, and `compat`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from soloist import free_mask
from soloist.config import FreeMaskConfig
from soloist.data.coco.rle import encode_masks
from soloist.free_mask import free_masks
from soloist.ops.masks import extents, mask_areas
from soloist.ops.nms import matrix_nms
from soloist.structures import Instances

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]

PAPER = FreeMaskConfig()
RELEASED = replace(PAPER, compat="released")
UNFILTERED = replace(
    RELEASED, score_threshold=0, max_box_width=float("inf"), min_center_height=-1.0
)
# At most one pixel of 128,000 differs, which rounding decides.
PIXELS = 3


class Case:
    """One case of the reference: its arrays as tensors, and what Free Mask gives for it."""

    def __init__(self, archive: Mapping[str, npt.NDArray[Any]], name: str) -> None:
        self._archive = archive
        self._name = name
        self.features = self["feat"]
        height, width = self["size"].tolist()
        self.size = (height, width)

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.asarray(self._archive[f"{self._name}_{key}"]))

    def text(self, key: str) -> Any:
        """An array of text as a list, or a single text."""
        return self._archive[f"{self._name}_{key}"].tolist()

    def masks(self, key: str) -> Tensor:
        """(N, H, W) bool."""
        bits = np.unpackbits(self._archive[f"{self._name}_{key}"], axis=-1)
        return torch.from_numpy(bits[..., : self.size[1]]).bool()

    def found(self, config: FreeMaskConfig) -> Instances:
        return free_masks(self.features, self.size, config)


@pytest.fixture
def case(golden: Golden, request: pytest.FixtureRequest) -> Case:
    return Case(golden("freemask"), request.param)


def cases(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True)


def assert_near(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def assert_masks(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got != wanted).sum(dim=(1, 2)).max() <= PIXELS


# The whole


@cases("c0", "c1")
def test_free_masks_equal_the_released_code(case: Case) -> None:
    found = case.found(PAPER)
    assert case.text("stop") == "none"
    assert_near(found.scores, case["out_maskness"])
    assert_near(found.embeddings, case["out_embs"])
    assert_masks(found.masks, case.masks("out_masks_packed"))
    # The released box of a solid run a..b is [a - 0.5, b + 0.5]; ours is [a, b + 1].
    torch.testing.assert_close(found.boxes, case["out_boxes"] + 0.5, rtol=0, atol=1)


@cases("c0", "c1")
def test_files_hold_the_released_run_lengths(case: Case) -> None:
    assert [rle["counts"] for rle in encode_masks(case.found(PAPER).masks)] == case.text("out_rle")


@pytest.mark.parametrize(
    ("filters", "key"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"max_box_width": 0.95}, "keep_width", id="width"),
        pytest.param({"min_center_height": 0.2}, "keep_center", id="centre"),
        pytest.param({"score_threshold": 0.7}, "keep_maskness", id="score"),
    ],
)
@cases("c0", "c1", "c2")
def test_each_filter_equals_the_released_code(
    case: Case, filters: dict[str, float], key: str | None
) -> None:
    found = case.found(replace(UNFILTERED, **filters))  # type: ignore[arg-type]  # all floats
    top = case["top_maskness"]
    keep = case[key] if key else torch.ones(len(top), dtype=torch.bool)
    assert_near(found.scores, top[keep])
    assert_near(found.embeddings, case["top_queries"][keep])
    assert_masks(found.masks, case.masks("top_masks_packed")[keep])


@pytest.mark.parametrize("config", [PAPER, RELEASED], ids=["ours", "compat"])
@pytest.mark.parametrize(
    ("case", "stop"),
    [
        pytest.param("c2", "final_filters", id="filtered"),
        pytest.param("c3", "sum_masks", id="all-zero"),
    ],
    indirect=["case"],
)
def test_images_the_released_code_rejects_are_empty(
    case: Case, stop: str, config: FreeMaskConfig
) -> None:
    found = case.found(config)
    assert case.text("stop") == stop
    assert found.masks.shape == (0, *case.size)
    assert found.embeddings.shape == (0, 128)


# Step by step


@cases("c0", "c1", "c2", "c3", "c4")
def test_queries_equal_the_released_code(case: Case) -> None:
    products, norms = free_mask._compare(case.features, PAPER.query_scales)
    embeddings = free_mask._embeddings(case.features, norms, PAPER)
    assert len(products) == len(embeddings) == case["n_queries"]
    # A zero query is NaN there, and zero here.
    assert_near(embeddings, case["queries_128"].nan_to_num(0))


@cases("c0", "c1", "c2")
def test_soft_masks_and_their_areas_equal_the_released_code(case: Case) -> None:
    resized = [free_mask._resize(case.features, scale) for scale in PAPER.query_scales]
    assert torch.equal(torch.cat(resized, dim=1).T, case["queries_raw"])
    products, norms = free_mask._compare(case.features, PAPER.query_scales)
    coarse = free_mask._coarse_masks(products, norms, PAPER)
    scores = coarse.scores
    assert_near(coarse.soft(products, torch.arange(len(scores))), case["attn_soft"].flatten(1))
    areas = coarse.masks.sum(dim=1)
    assert torch.equal(areas, case["sum_masks_all"])
    kept = areas >= PAPER.min_cells
    assert torch.equal(kept, case["keep_sum"])
    assert kept.sum() == case["n_keep_sum"]
    assert_near(scores[kept], case["maskness_unsorted"])
    assert not scores[~kept].any()


@cases("c0", "c1", "c2")
def test_order_and_suppression_equal_the_released_code(case: Case) -> None:
    """Its sorted masks are taken as they are, so that ties are broken the same way."""
    kept = case["attn_soft"][case["keep_sum"]]
    scores = case["maskness_unsorted"]
    order = case["sort_inds_1"]
    assert torch.equal(scores[order], case["maskness_pre_nms"])
    # Equal scores may stand in either order; nothing else may.
    own = torch.argsort(scores, descending=True, stable=True)
    assert torch.equal(scores[own], scores[order])
    masks = kept[order] >= PAPER.mask_threshold
    assert torch.equal(masks.sum(dim=(1, 2)), case["sum_masks_sorted"])
    decayed = matrix_nms(masks, case["maskness_pre_nms"], sigma=PAPER.nms_sigma)
    assert_near(decayed, case["maskness_post_nms"])
    best = torch.argsort(decayed, descending=True, stable=True)[: PAPER.max_masks]
    assert best.tolist() == case["sort_inds_2"].tolist()
    assert_near(kept[order][best], case["top_soft_lowres"])


@cases("c0", "c1", "c2")
def test_full_size_masks_equal_the_released_code(case: Case) -> None:
    soft_masks = case["top_soft_lowres"]
    masks = free_mask._upsample(soft_masks, case.size, PAPER.mask_threshold)
    assert_masks(masks, case.masks("top_masks_packed"))
    areas = case["top_sum_full"]
    torch.testing.assert_close(mask_areas(masks), areas, rtol=0, atol=PIXELS)
    full = functional.interpolate(soft_masks[None], case.size, mode="bilinear")[0]
    torch.testing.assert_close(
        full.double().sum(dim=(1, 2)), case["top_soft_full_sum"], rtol=1e-5, atol=0
    )


@cases("c0", "c1", "c2")
def test_centres_and_sides_equal_the_released_code(case: Case) -> None:
    centers, sizes = extents(case.masks("top_masks_packed"))
    assert_near(centers, torch.stack((case["top_center_hs"], case["top_center_ws"]), dim=1))
    sides = torch.stack((case["top_box_height"], case["top_box_width"]), dim=1)
    assert torch.equal(sizes, sides)


# Zero locations, and what `compat` brings back


@cases("c4")
def test_one_zero_location_does_not_lose_the_image(case: Case) -> None:
    found = case.found(PAPER)
    assert len(found) >= 1
    assert torch.isfinite(found.embeddings).all()


@cases("c3", "c4")
def test_compat_loses_an_image_with_a_zero_location(case: Case) -> None:
    assert case.text("stop") == "sum_masks"
    assert case["n_keep_sum"] == case["keep_sum"].sum() == case["sum_masks_all"].sum() == 0
    assert len(case.found(RELEASED)) == 0


@cases("c0", "c1", "c2")
def test_compat_boxes_equal_the_released_code(case: Case) -> None:
    assert torch.equal(case.found(UNFILTERED).boxes, case["top_boxes"])
    if case.text("stop") == "none":
        assert torch.equal(case.found(RELEASED).boxes, case["out_boxes"])


@cases("c0", "c1")
def test_compat_changes_boxes_only(case: Case) -> None:
    ours, theirs = case.found(PAPER), case.found(RELEASED)
    assert torch.equal(ours.masks, theirs.masks)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.embeddings, theirs.embeddings)
    assert not torch.equal(ours.boxes, theirs.boxes)
