from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from tests.data.exports.inputs import HARD, SIZE, Mask, bar, iou, rle_of

from soloist.data.coco.outlines import MIN_IOU, Ring, joined, outline, simplified
from soloist.data.coco.rle import decode_mask

masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled_by_coco(rings: list[Ring], size: tuple[int, int]) -> Mask:
    if not rings:
        return np.zeros(size, dtype=np.bool_)
    return decode_mask([ring.ravel().tolist() for ring in rings], size)


def filled_by_pillow(rings: list[Ring], size: tuple[int, int]) -> Mask:
    """Corners cut off to whole pixels, the border filled too: labelme's way, and OpenCV's."""
    filled = np.zeros(size, dtype=np.bool_)
    for ring in rings:
        image = Image.new("1", (size[1], size[0]))
        corners = [(int(x), int(y)) for x, y in ring.tolist()]
        ImageDraw.Draw(image).polygon(corners, outline=1, fill=1)
        filled |= np.asarray(image)
    return filled


def rings_of(mask: Mask, tolerance: float = 0.0) -> list[Ring]:
    return [part.ring() for part in outline(rle_of(mask), tolerance)]


@pytest.mark.parametrize("name", HARD)
def test_an_outline_filled_gives_the_mask(name: str) -> None:
    rings = rings_of(HARD[name])
    assert (filled_by_coco(rings, SIZE) == HARD[name]).all()
    holes = any(part.holes for part in outline(rle_of(HARD[name])))
    # Pillow leaves out some pixels along the cuts.
    assert iou(filled_by_pillow(rings, SIZE), HARD[name]) >= (0.99 if holes else 1)


@settings(deadline=None, max_examples=100)
@given(masks)
def test_any_mask_comes_back_from_its_outline(mask: Mask) -> None:
    size = (mask.shape[0], mask.shape[1])
    assert (filled_by_coco(rings_of(mask), size) == mask).all()


@settings(deadline=None, max_examples=100)
@given(masks)
def test_all_parts_and_holes_in_one_ring_are_the_mask_too(mask: Mask) -> None:
    parts = outline(rle_of(mask))
    if not parts:
        assert not mask.any()
        return
    ring = joined([ring for part in parts for ring in (part.outer, *part.holes)])
    assert (filled_by_coco([ring], (mask.shape[0], mask.shape[1])) == mask).all()


@settings(deadline=None, max_examples=50)
@given(masks, st.sampled_from([0.5, 1.0, 3.0]))
def test_a_simplified_outline_keeps_its_promise(mask: Mask, tolerance: float) -> None:
    filled = filled_by_coco(rings_of(mask, tolerance), (mask.shape[0], mask.shape[1]))
    assert not mask.any() or iou(filled, mask) >= MIN_IOU


def test_a_square_has_four_corners_inside_its_pixels() -> None:
    (part,) = outline(rle_of(bar(2, 3, 4, 5)))
    assert part.holes == ()
    assert sorted(part.outer.tolist()) == [[3.25, 2.25], [3.25, 5.75], [7.75, 2.25], [7.75, 5.75]]


@pytest.mark.parametrize(
    ("name", "parts", "holes"),
    [
        pytest.param("square", 1, [0], id="plain"),
        pytest.param("two holes", 1, [2], id="holes"),
        pytest.param("two parts", 2, [0, 0], id="parts"),
        pytest.param("part in a hole", 2, [1, 0], id="nested"),
        pytest.param("touching corners", 2, [0, 0], id="corners-do-not-join"),
        pytest.param("frame", 1, [1], id="border"),
        pytest.param("one pixel", 1, [0], id="pixel"),
    ],
)
def test_parts_and_holes_are_distinguished(name: str, parts: int, holes: list[int]) -> None:
    found = outline(rle_of(HARD[name]))
    assert (len(found), [len(part.holes) for part in found]) == (parts, holes)


def test_the_largest_part_comes_first() -> None:
    first, second = outline(rle_of(bar(0, 0, 2, 2) | bar(10, 10, 5, 5)))
    assert first.outer.min() > 10 > second.outer.max()


def test_no_pixel_no_part() -> None:
    assert outline(rle_of(bar(0, 0, 0, 0)), 1.0) == []


def test_a_tolerance_saves_corners() -> None:
    exact, rough = (rings_of(HARD["disk"], tolerance)[0] for tolerance in (0.0, 1.0))
    assert len(rough) < 0.4 * len(exact)
    # Corners are left out, none is moved.
    assert {tuple(corner) for corner in rough.tolist()} <= {tuple(one) for one in exact.tolist()}


def test_a_tolerance_larger_than_the_mask_keeps_the_mask() -> None:
    assert (filled_by_coco(rings_of(HARD["one pixel"], 50.0), SIZE) == HARD["one pixel"]).all()


def test_what_would_be_a_line_stays_a_ring() -> None:
    thin = np.array([[0.25, 0.25], [40.75, 0.25], [40.75, 0.75], [0.25, 0.75]])
    assert simplified(thin, 5.0).tolist() == thin.tolist()


def test_bridges_join_nearest_corners_and_are_walked_twice() -> None:
    near, far = (np.array([[x, 0.0], [x + 1, 0.0], [x + 1, 1.0], [x, 1.0]]) for x in (3.0, 10.0))
    first = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    ring = joined([first, far, near]).tolist()
    assert len(ring) == 4 + 2 * (4 + 2)
    lengths = [abs(x - u) for (x, y), (u, v) in pairwise([*ring, ring[0]]) if y == v]
    # From 1 to 3, from 4 to 10, and back; the rest are sides of the squares.
    assert sorted(length for length in lengths if length != 1) == [2, 2, 6, 6]
