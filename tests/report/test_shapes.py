from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from soloist.data.coco.rle import encode_masks
from soloist.report.shapes import MAX_CHARACTERS, svg_path

masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled(path: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A path filled by the even-odd rule, in a drawing four times as large, then shrunk."""
    height, width = size
    inside = np.zeros((4 * height, 4 * width), dtype=np.bool_)
    for part in re.findall(r"M[^z]*z", path):
        numbers = [int(number) for number in re.findall(r"-?\d+", part)]
        corners = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0)
        image = Image.new("1", (4 * width, 4 * height))
        # Pillow fills the border too: it is drawn half a pixel inside.
        ImageDraw.Draw(image).polygon([(4 * x, 4 * y) for x, y in corners.tolist()], fill=1)
        inside ^= np.asarray(image)
    shrunk: NDArray[np.bool_] = inside[2::4, 2::4]
    return shrunk


def test_a_path_is_short() -> None:
    mask = np.zeros((8, 10), dtype=np.bool_)
    mask[2:5, 3:9] = True
    assert svg_path(encode_masks(mask[None])[0], (8, 10)) == "M9 2l0 3-6 0 0-3z"


@settings(deadline=None, max_examples=50)
@given(masks)
def test_a_small_mask_is_drawn_as_it_is(mask: NDArray[np.bool_]) -> None:
    size = (mask.shape[0], mask.shape[1])
    drawn = filled(svg_path(encode_masks(mask[None])[0], size), size)
    assert np.array_equal(drawn, mask)


def test_a_ragged_mask_is_short_and_nearly_itself() -> None:
    yy, xx = np.mgrid[:200, :200]
    radius = np.hypot(yy - 100, xx - 100) + 4 * np.random.default_rng(0).random((200, 200))
    mask = radius < 80
    path = svg_path(encode_masks(mask[None])[0], (200, 200))
    assert len(path) < MAX_CHARACTERS
    drawn = filled(path, (200, 200))
    assert np.count_nonzero(drawn & mask) > 0.93 * np.count_nonzero(drawn | mask)


def test_noise_is_drawn_short_too() -> None:
    noise = np.random.default_rng(0).random((1, 120, 120)) < 0.5
    assert 100 < len(svg_path(encode_masks(noise)[0], (120, 120))) < 2 * MAX_CHARACTERS


def test_holes_stay_holes() -> None:
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[5:35, 5:35] = True
    mask[15:25, 15:25] = False
    path = svg_path(encode_masks(mask[None])[0], (40, 40))
    assert path.count("M") == 2
    assert not filled(path, (40, 40))[20, 20]
    assert filled(path, (40, 40))[10, 10]


def test_large_masks_are_drawn_small() -> None:
    mask = np.zeros((400, 800), dtype=np.bool_)
    mask[100:200, 200:600] = True
    assert svg_path(encode_masks(mask[None])[0], (40, 80)) == "M60 10l0 10-40 0 0-10z"


@pytest.mark.parametrize(
    ("place", "path"),
    [
        pytest.param((0, 0), "M0 0l1 0 0 1-1 0z", id="first-corner"),
        pytest.param((399, 799), "M79 39l1 0 0 1-1 0z", id="last-corner"),
    ],
)
def test_a_mask_that_would_vanish_is_drawn_as_its_box(place: tuple[int, int], path: str) -> None:
    mask = np.zeros((400, 800), dtype=np.bool_)
    mask[place] = True
    assert svg_path(encode_masks(mask[None])[0], (40, 80)) == path


def test_a_mask_without_a_pixel_has_no_path() -> None:
    assert svg_path(encode_masks(np.zeros((1, 4, 4), dtype=np.bool_))[0], (4, 4)) == ""
