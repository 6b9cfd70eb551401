"""Images of small objects are cut up on more pixels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from soloist.proposals.scale import (
    SMALL_AREA,
    WANTED_AREA,
    image_hierarchies,
    working_pixels,
    working_size,
)

SIZE = (700, 800)


def discs(radius: int, apart: int) -> NDArray[np.uint8]:
    """Light discs on dark ground, in rows and columns, with a little noise."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    half = apart // 2
    inside = (rows % apart - half) ** 2 + (columns % apart - half) ** 2 < radius**2
    pixels = np.where(inside[..., None], 180, 50) + np.random.default_rng(0).integers(
        -4, 5, (*SIZE, 3)
    )
    return pixels.astype(np.uint8)


def test_small_objects_are_cut_up_finer() -> None:
    pixels = discs(8, 40)
    first = working_size(SIZE)
    reduced = np.pi * 8**2 * first[0] * first[1] / (SIZE[0] * SIZE[1])
    assert reduced < SMALL_AREA
    found = image_hierarchies(pixels)
    # As fine as the image is, which is not enough for the area that is wanted.
    assert np.pi * 8**2 < WANTED_AREA
    assert found.size == SIZE
    assert working_pixels(pixels).shape[:2] == found.size


def test_no_finer_than_needed() -> None:
    pixels = discs(10, 60)
    found = image_hierarchies(pixels)
    factor = found.size[0] / SIZE[0]
    assert working_size(SIZE)[0] < found.size[0] <= SIZE[0]
    assert np.pi * 10**2 * factor**2 == pytest.approx(WANTED_AREA, rel=0.5)


@pytest.mark.parametrize(
    "pixels",
    [discs(40, 200), discs(8, 600), np.full((*SIZE, 3), 90, dtype=np.uint8)],
    ids=["large", "few", "none"],
)
def test_others_are_cut_up_once(pixels: NDArray[np.uint8]) -> None:
    assert image_hierarchies(pixels).size == working_size(SIZE)
    assert working_pixels(pixels).shape[:2] == working_size(SIZE)


def test_an_image_that_is_hardly_reduced_is_not_looked_at() -> None:
    pixels = discs(3, 20)[:500, :600]
    assert working_pixels(pixels).shape[:2] == working_size((500, 600))
