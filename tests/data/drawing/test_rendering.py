from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soloist.data.drawing.rendering import (
    draw_masks,
    draw_matches,
    draw_outlines,
    jpeg_bytes,
    mask_colors,
    resize_masks,
    thumbnail,
)

FIRST_COLOR = [0, 158, 255]
SECOND_COLOR = [255, 145, 0]


def grey(height: int, width: int, value: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, dtype=np.uint8)


def block(height: int, width: int, rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def test_colours_differ_and_repeat_after_three_rounds() -> None:
    colors = mask_colors(22)
    assert colors[:2].tolist() == [FIRST_COLOR, SECOND_COLOR]
    assert len({tuple(color) for color in colors[:21].tolist()}) == 21
    assert colors[21].tolist() == colors[0].tolist()
    assert mask_colors(0).shape == (0, 3)


def test_draw_masks_tints_inside_and_touches_nothing_else() -> None:
    image = grey(6, 8)
    mask = block(6, 8, slice(1, 4), slice(2, 6))
    drawn = draw_masks(image, mask[None], alpha=0.5, outline=False)
    assert drawn[mask].tolist() == [[50, 129, 178]] * 12
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    assert image.min() == image.max() == 100


def test_the_outline_is_one_pixel_inside_the_mask() -> None:
    drawn = draw_masks(grey(7, 7), block(7, 7, slice(1, 6), slice(1, 6))[None], alpha=0.0)
    expected = block(7, 7, slice(1, 6), slice(1, 6)) & ~block(7, 7, slice(2, 5), slice(2, 5))
    np.testing.assert_array_equal((drawn == FIRST_COLOR).all(axis=-1), expected)
    np.testing.assert_array_equal((drawn == 100).all(axis=-1), ~expected)


def test_a_wider_outline_grows_inwards() -> None:
    mask = block(9, 9, slice(1, 8), slice(1, 8))
    drawn = draw_masks(grey(9, 9), mask[None], alpha=0.0, line_width=2)
    expected = mask & ~block(9, 9, slice(3, 6), slice(3, 6))
    np.testing.assert_array_equal((drawn == FIRST_COLOR).all(axis=-1), expected)


def test_the_image_border_has_no_outline() -> None:
    drawn = draw_masks(grey(5, 5), block(5, 5, slice(0, 5), slice(0, 3))[None], alpha=0.0)
    expected = block(5, 5, slice(0, 5), slice(2, 3))
    np.testing.assert_array_equal((drawn == FIRST_COLOR).all(axis=-1), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["small-first", "large-first"])
def test_a_small_mask_lies_over_a_large_one_whatever_the_order(order: tuple[int, int]) -> None:
    pair = np.stack([block(6, 6, slice(2, 4), slice(2, 4)), block(6, 6, slice(0, 6), slice(0, 6))])
    drawn = draw_masks(grey(6, 6), pair[list(order)], alpha=1.0, outline=False)
    small = [FIRST_COLOR, SECOND_COLOR][order[0]]
    large = [FIRST_COLOR, SECOND_COLOR][order[1]]
    assert drawn[2, 2].tolist() == small
    assert drawn[0, 0].tolist() == large


def test_draw_masks_takes_colours_of_the_masks() -> None:
    masks = np.stack([block(4, 6, slice(0, 4), slice(0, 2)), block(4, 6, slice(0, 4), slice(3, 5))])
    drawn = draw_masks(grey(4, 6), masks, colors=mask_colors(9)[[4, 7]], alpha=1.0)
    assert np.array_equal(drawn[masks[0]], np.tile(mask_colors(9)[4], (8, 1)))
    assert np.array_equal(drawn[masks[1]], np.tile(mask_colors(9)[7], (8, 1)))


def test_draw_masks_without_masks_copies_the_image() -> None:
    image = grey(4, 5)
    drawn = draw_masks(image, np.zeros((0, 4, 5), dtype=np.bool_), scores=[])
    np.testing.assert_array_equal(drawn, image)
    drawn[0, 0] = 0
    assert image[0, 0].tolist() == [100, 100, 100]


def test_a_mask_without_a_pixel_paints_nothing() -> None:
    drawn = draw_masks(grey(4, 5), np.zeros((1, 4, 5), dtype=np.bool_), scores=[0.5])
    np.testing.assert_array_equal(drawn, grey(4, 5))


def test_draw_masks_on_one_pixel() -> None:
    drawn = draw_masks(grey(1, 1), np.ones((1, 1, 1), dtype=np.bool_), alpha=0.5)
    assert drawn.tolist() == [[[50, 129, 178]]]


def test_scores_are_written_on_their_mask() -> None:
    image, mask = grey(80, 120), block(80, 120, slice(20, 60), slice(60, 110))
    plain = draw_masks(image, mask[None])
    labelled = draw_masks(image, mask[None], scores=[0.87])
    rows, columns = np.nonzero((plain != labelled).any(axis=-1))
    assert 20 < rows.min() <= rows.max() < 60
    assert 60 < columns.min() <= columns.max() < 110
    assert labelled[rows, columns].max() > 240


def test_scores_fit_on_one_pixel() -> None:
    mask = np.ones((1, 1, 1), dtype=np.bool_)
    assert draw_masks(grey(1, 1), mask, scores=[0.5]).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("masks", "scores"),
    [
        pytest.param(np.zeros((1, 4, 4), dtype=np.bool_), None, id="another-size"),
        pytest.param(np.zeros((4, 5), dtype=np.bool_), None, id="two-dimensions"),
        pytest.param(np.zeros((1, 4, 5), dtype=np.float32), None, id="not-bool"),
        pytest.param(np.zeros((2, 4, 5), dtype=np.bool_), [0.5], id="too-few-scores"),
    ],
)
def test_draw_masks_refuses(masks: NDArray[np.bool_], scores: list[float] | None) -> None:
    with pytest.raises(ValueError, match="must"):
        draw_masks(grey(4, 5), masks, scores=scores)


def test_draw_matches_joins_the_two_points() -> None:
    points = np.array([[10.0, 10.0]])
    drawn = draw_matches(grey(40, 40), grey(30, 40), points, points + 5.0, gap=8)
    assert drawn.shape == (40, 88, 3)
    assert drawn[10, 10].tolist() == FIRST_COLOR
    assert drawn[15, 48 + 15].tolist() == FIRST_COLOR
    changed = (drawn[:, 40:48] != 255).any(axis=(0, 2))
    assert changed.all()
    assert drawn[30:, :40].min() == drawn[30:, :40].max() == 100
    assert drawn[30:, 48:].min() == 255


def test_draw_matches_scales_images_and_points() -> None:
    points = np.array([[5, 5]])
    drawn = draw_matches(grey(20, 20), grey(20, 20), points, points, scale=3, gap=4)
    assert drawn.shape == (60, 124, 3)
    assert drawn[16, 16].tolist() == FIRST_COLOR


def test_draw_matches_without_points_shows_both_images() -> None:
    drawn = draw_matches(grey(4, 5, 1), grey(4, 6, 2), np.zeros((0, 2)), np.zeros((0, 2)), gap=1)
    assert drawn[0, :, 0].tolist() == [1] * 5 + [255] + [2] * 6


def test_draw_matches_refuses_unequal_points() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 2\) and \(3, 2\)"):
        draw_matches(grey(4, 4), grey(4, 4), np.zeros((2, 2)), np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((640, 320), (320, 160), id="shrunk"),
        pytest.param((200, 100), (200, 100), id="smaller-stays"),
        pytest.param((1, 2000), (1, 320), id="side-of-one-pixel"),
    ],
)
def test_thumbnail(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert thumbnail(grey(*size), 320).shape == (*expected, 3)


def test_resized_masks_keep_pixels_half_covered() -> None:
    masks = np.array([[[1, 1, 0, 0], [0, 0, 0, 1]]], dtype=np.bool_)
    assert resize_masks(masks, (1, 2)).tolist() == [[[True, False]]]
    assert resize_masks(masks, (2, 4)) is masks
    assert resize_masks(np.zeros((0, 4, 4), dtype=np.bool_), (2, 2)).shape == (0, 2, 2)


def test_jpeg_bytes_is_a_jpeg_of_the_same_size() -> None:
    with Image.open(io.BytesIO(jpeg_bytes(grey(5, 7)))) as image:
        assert (image.format, image.size) == ("JPEG", (7, 5))


def test_outlines_of_one_colour_leave_the_inside() -> None:
    masks = np.stack([block(8, 8, slice(1, 6), slice(1, 6)), np.zeros((8, 8), dtype=np.bool_)])
    drawn = draw_outlines(grey(8, 8), masks, (0, 200, 0), line_width=1)
    green = (drawn == (0, 200, 0)).all(axis=-1)
    assert green.sum() == 16  # The border of five by five pixels.
    assert not green[2:5, 2:5].any()
    assert (drawn[~green] == 100).all()
