"""Tiles, by a labeler that finds each colour exactly, so that what should come out is known."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from soloist.config import TileConfig
from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.rle import decode_mask
from soloist.errors import ConfigError
from soloist.inference.tiles import TiledLabeler, enlarged_mask, tile_boxes
from soloist.ops.masks import masks_to_boxes
from soloist.structures import Instances

Pixels = NDArray[np.uint8]
TILES = TileConfig(size=64, overlap=16)


def scene(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Pixels:
    """Black with a rectangle of grey value k + 1 at the k-th box (xyxy), later ones on top."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    for value, (left, top, right, bottom) in enumerate(boxes, start=1):
        pixels[top:bottom, left:right] = value
    return pixels


def find_colours(pixels: Pixels, size: tuple[int, int]) -> Instances:
    """An object for each grey value but 0; scores, embeddings and classes tell it."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, pixels.shape[:2], strict=True))
    grey = pixels[rows][:, columns, 0]
    values = [int(value) for value in np.unique(grey) if value]
    masks = torch.from_numpy(np.stack([grey == value for value in values] or [grey[:0] == 0]))
    masks = masks.reshape(len(values), *size)
    return Instances(
        image_size=size,
        masks=masks,
        scores=torch.tensor([1 - value / 100 for value in values]),
        boxes=masks_to_boxes(masks),
        embeddings=torch.nn.functional.one_hot(torch.tensor(values, dtype=torch.int64), 40).float(),
    )


Encoded = Instances[torch.Tensor, EncodedMasks]


def decoded(found: Encoded) -> Instances:
    masks = torch.from_numpy(np.stack([found.masks[k] for k in range(len(found))]))
    return Instances(found.image_size, masks, found.scores, found.boxes, found.embeddings)


def assert_same(found: Encoded, wanted: Instances) -> None:
    assert len(found) == len(wanted)
    if len(wanted):
        for name in ("masks", "boxes", "scores", "embeddings"):
            torch.testing.assert_close(getattr(decoded(found), name), getattr(wanted, name))


def tiled(pixels: Pixels, config: TileConfig = TILES) -> Encoded:
    return TiledLabeler(find_colours, config)(pixels, (pixels.shape[0], pixels.shape[1]))


def untiled(pixels: Pixels) -> Instances:
    return find_colours(pixels, (pixels.shape[0], pixels.shape[1]))


# Where tiles lie


@settings(deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(64, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size // 2))),
)
def test_tiles_cover_the_image_and_share_what_they_should(
    height: int, width: int, sizes: tuple[int, int]
) -> None:
    config = TileConfig(size=sizes[0], overlap=sizes[1])
    boxes = tile_boxes((height, width), config)
    for first, side in ((0, width), (1, height)):
        spans = sorted({(box[first], box[first + 2]) for box in boxes})
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        assert {end - start for start, end in spans} == {min(side, config.size)}
        assert all(end - start >= sizes[1] for (_, end), (start, _) in pairwise(spans))
    assert len(boxes) == len(set(boxes))


# What comes back


@pytest.mark.parametrize("whole", [True, False], ids=["whole-too", "tiles-alone"])
@pytest.mark.parametrize(
    "box",
    [
        pytest.param((5, 5, 30, 40), id="inside-one"),
        pytest.param((50, 10, 60, 20), id="inside-one-and-the-overlap"),
        pytest.param((40, 10, 62, 30), id="whole-in-one-cut-in-the-next"),
        pytest.param((30, 20, 90, 40), id="across-two"),
        pytest.param((30, 30, 90, 90), id="across-four"),
        pytest.param((5, 20, 155, 30), id="across-a-row"),
        pytest.param((0, 0, 160, 160), id="all-of-the-image"),
        pytest.param((56, 56, 57, 57), id="one-pixel"),
    ],
)
def test_an_object_comes_back_as_one(box: tuple[int, int, int, int], whole: bool) -> None:
    pixels = scene((160, 160), box)
    config = TileConfig(size=64, overlap=16, whole=whole)
    assert len(tile_boxes((160, 160), config)) == 9
    assert_same(tiled(pixels, config), untiled(pixels))


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_objects_anywhere_come_back_as_they_are(data: st.DataObject) -> None:
    """Rectangles in cells of their own, so that none hides another; tiles know nothing of cells."""
    rectangles = []
    for left, top in product(range(0, 200, 50), range(0, 150, 50)):
        if data.draw(st.booleans()):
            width, height = data.draw(st.integers(14, 49)), data.draw(st.integers(14, 49))
            x, y = data.draw(st.integers(0, 49 - width)), data.draw(st.integers(0, 49 - height))
            rectangles.append((left + x, top + y, left + x + width, top + y + height))
    pixels = scene((150, 200), *rectangles)
    assert_same(tiled(pixels, TileConfig(size=64, overlap=20)), untiled(pixels))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 64), st.integers(1, 64))
def test_one_tile_as_large_as_the_image_is_no_tiling(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (height, width, 3), dtype=np.uint8)
    assert_same(tiled(pixels), untiled(pixels))


def test_nothing_found_is_empty() -> None:
    found = tiled(scene((160, 160)))
    assert len(found) == 0
    assert found.embeddings.shape == (0, 40)
    assert found.boxes.shape == (0, 4)


def test_a_thing_that_only_the_whole_image_shows_is_found() -> None:
    """A labeler that cannot see what fills more than half of its image."""

    def nearsighted(pixels: Pixels, size: tuple[int, int]) -> Instances:
        found = find_colours(pixels, size)
        return found.filter(found.masks.flatten(1).float().mean(dim=1) < 0.5)

    pixels = scene((240, 240), (40, 40, 180, 180))
    size = (240, 240)
    alone = TiledLabeler(nearsighted, TileConfig(size=64, overlap=16, whole=False))(pixels, size)
    both = TiledLabeler(nearsighted, TILES)(pixels, size)
    truth = untiled(pixels).masks[0].numpy()
    best = max(iou(alone.masks[k], truth) for k in range(len(alone)))
    assert best < 0.5 < 0.9 < iou(both.masks[0], truth)
    # The fragments are parts of it.
    assert len(both) == 1


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def with_scores(
    values: Callable[[Pixels], float],
) -> Callable[[Pixels, tuple[int, int]], Instances]:
    def find(pixels: Pixels, size: tuple[int, int]) -> Instances:
        found = find_colours(pixels, size)
        return Instances(
            size, found.masks, torch.full((len(found),), values(pixels)), found.boxes,
            found.embeddings,
        )  # fmt: skip

    return find


def test_a_fine_mask_takes_over_the_score_of_the_coarse_one() -> None:
    pixels = scene((160, 160), (5, 5, 30, 40))
    labeler = with_scores(lambda seen: 0.9 if seen.shape[0] == 160 else 0.3)
    found = TiledLabeler(labeler, TILES)(pixels, (160, 160))
    assert found.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_array_equal(found.masks[0], pixels[..., 0] == 1)


def test_a_joined_mask_has_the_mean_score_of_its_parts_by_area() -> None:
    pixels = scene((64, 112), (32, 20, 90, 40))
    pixels[0, :20, 1] = 1  # Tells the left tile.
    labeler = with_scores(lambda seen: 0.8 if seen[0, 0, 1] else 0.4)
    config = TileConfig(size=64, overlap=16, whole=False)
    (score,) = TiledLabeler(labeler, config)(pixels, (64, 112)).scores.tolist()
    assert score == pytest.approx((0.8 * 32 + 0.4 * 42) / 74)


def test_neighbours_that_touch_at_a_border_stay_two() -> None:
    pixels = scene((64, 112), (20, 10, 90, 30), (20, 30, 90, 50))
    assert_same(tiled(pixels), untiled(pixels))


def test_classes_are_never_joined() -> None:
    """The same object, but each tile takes it for another class."""

    def labeler(pixels: Pixels, size: tuple[int, int]) -> Instances:
        found = find_colours(pixels, size)
        kind = torch.full((len(found),), int(pixels[0, 0, 1]))
        return Instances(
            size, found.masks, found.scores, found.boxes, found.embeddings, labels=kind
        )

    pixels = scene((64, 112), (32, 20, 90, 40))
    pixels[0, :20, 1] = 1
    config = TileConfig(size=64, overlap=16, whole=False)
    found = TiledLabeler(labeler, config)(pixels, (64, 112))
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == [0, 1]


def test_what_the_labeler_leaves_doubled_in_a_tile_stays() -> None:
    def twice(pixels: Pixels, size: tuple[int, int]) -> Instances:
        return find_colours(pixels, size).filter(torch.tensor([0, 0]))

    pixels = scene((64, 112), (5, 5, 30, 40), (70, 5, 100, 40))
    config = TileConfig(size=64, overlap=16, whole=False)
    assert len(TiledLabeler(twice, config)(pixels, (64, 112))) == 4


def test_reduced_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="whole image"):
        TiledLabeler(find_colours, TILES)(scene((80, 80)), (160, 160))


# Parts


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        pytest.param((20, 30), (200, 300), id="ten-times"),
        pytest.param((21, 30), (400, 571), id="uneven"),
        pytest.param((20, 30), (20, 30), id="as-it-is"),
    ],
)
def test_enlarging_a_part_is_enlarging_the_whole(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    mask = np.zeros(shape, dtype=np.bool_)
    mask[3:12, 4:25] = True
    mask[8:, 20:] = True
    box = masks_to_boxes(torch.from_numpy(mask[None])).numpy()[0]
    whole = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR
    )
    part = decode_mask(enlarged_mask(mask, box, size))
    assert iou(part, np.asarray(whole) >= 128) > 0.995


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"size": 63}, "tile.size must be at least 64", id="small"),
        pytest.param({"size": 100, "overlap": 51}, "half of tile.size (50), got 51", id="overlap"),
        pytest.param({"overlap": -1}, "tile.overlap", id="negative"),
        pytest.param({"agreement": 1.5}, "tile.agreement must lie in [0, 1]", id="share"),
    ],
)
def test_options_out_of_range_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TileConfig(**options)
    assert message in str(caught.value)


# Memory


@pytest.mark.slow
def test_masks_of_a_large_image_never_take_a_byte_a_pixel() -> None:
    """6000 x 6000 pixels, 225 objects: bitmaps would be 8 GB. torch borrows numpy's memory."""
    side, step = 6000, 400

    def grid(pixels: Pixels, size: tuple[int, int]) -> Instances:
        if size[0] < pixels.shape[0]:
            return Instances.empty(size, 4)
        values = np.flatnonzero(np.bincount(pixels[..., 0].ravel())[1:]) + 1
        masks = torch.from_numpy(np.stack([pixels[..., 0] == value for value in values]))
        n = len(masks)
        embeddings = torch.ones(n, 4)
        return Instances(size, masks, torch.full((n,), 0.5), masks_to_boxes(masks), embeddings)

    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    for row in range(side // step):
        for column in range(side // step):
            value = 1 + column % 4 + 4 * (row % 4)  # A tile sees at most four in a row.
            top, left = row * step + 20, column * step + 20
            pixels[top : top + 300, left : left + 300] = value
    tracemalloc.start()
    try:
        found = TiledLabeler(grid, TileConfig())(pixels, (side, side))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == (side // step) ** 2
    assert set((found.boxes[:, 2:] - found.boxes[:, :2]).flatten().tolist()) == {300.0}
    # A tile has at most 16 masks of a megabyte, and a copy of them is encoded.
    assert peak < 60e6
