from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.rle import encode_masks
from soloist.data.drawing.contact_sheets import (
    TILE_SIDE,
    CutOut,
    contact_sheet,
    draw_cut_outs,
    write_sheet,
)


def cut_out(folder: Path, rows: slice, columns: slice, caption: str = "") -> CutOut:
    """A red mask on a green image of 60 x 90."""
    mask = np.zeros((60, 90), dtype=np.bool_)
    mask[rows, columns] = True
    pixels = np.full((60, 90, 3), (0, 200, 0), dtype=np.uint8)
    pixels[mask] = (200, 0, 0)
    path = folder / f"{rows.start}-{columns.start}.png"
    Image.fromarray(pixels).save(path)
    return CutOut(path, encode_masks(mask[None])[0], caption)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        pytest.param(slice(20, 40), slice(30, 50), id="inside"),
        pytest.param(slice(0, 30), slice(0, 30), id="corner"),
        pytest.param(slice(0, 60), slice(0, 90), id="whole-image"),
        pytest.param(slice(59, 60), slice(89, 90), id="one-pixel"),
    ],
)
def test_a_tile_shows_the_mask_in_its_middle(tmp_path: Path, rows: slice, columns: slice) -> None:
    (tile,) = draw_cut_outs([cut_out(tmp_path, rows, columns)])
    assert tile.shape == (TILE_SIDE, TILE_SIDE, 3)
    middle = TILE_SIDE // 2
    np.testing.assert_allclose(tile[middle, middle], (200, 0, 0), atol=8)
    assert tile[2, 2].min() > 100  # Faded, or beyond the image.


def test_an_empty_mask_gives_a_tile_too(tmp_path: Path) -> None:
    (tile,) = draw_cut_outs([cut_out(tmp_path, slice(3, 3), slice(3, 3))])
    assert tile.shape == (TILE_SIDE, TILE_SIDE, 3)


def test_what_cannot_be_shown_is_grey_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = cut_out(tmp_path, slice(20, 40), slice(30, 50))
    other_size = CutOut(good.path, encode_masks(np.ones((1, 9, 9), dtype=np.bool_))[0])
    missing = CutOut(tmp_path / "none.png", good.segmentation)
    tiles = draw_cut_outs([missing, good, other_size])
    assert [bool((tile == tile[0, 0]).all()) for tile in tiles] == [True, False, True]
    assert "none.png" in caplog.text
    assert "a mask of 9 x 9" in caplog.text


def test_a_sheet_has_a_place_for_each_cut_out(tmp_path: Path) -> None:
    one = cut_out(tmp_path, slice(20, 40), slice(30, 50))
    flat = contact_sheet([("three", [one] * 3)], columns=3)
    tall = contact_sheet([("three", [one] * 3)], columns=1)
    two = contact_sheet([("three", [one] * 3), ("one", [one])], columns=3)
    nothing = contact_sheet([("none", [])], columns=3)
    assert flat.shape[1] > 3 * TILE_SIDE > flat.shape[0]
    assert tall.shape[0] > 3 * TILE_SIDE > tall.shape[1]
    assert two.shape[0] > 2 * TILE_SIDE > flat.shape[0]
    assert nothing.shape[0] < TILE_SIDE
    red = (flat[:, :, 0] > 180) & (flat[:, :, 1] < 20)
    assert all(red[:, third * 118 : third * 118 + 118].sum() > 1000 for third in range(3))


def test_captions_take_room(tmp_path: Path) -> None:
    plain, named = (cut_out(tmp_path, slice(2, 4), slice(3, 5), text) for text in ("", "12: 0.9"))
    assert contact_sheet([("", [named])]).shape[0] > contact_sheet([("", [plain])]).shape[0]


def test_a_sheet_is_a_jpeg(tmp_path: Path) -> None:
    sheet = np.zeros((20, 30, 3), dtype=np.uint8)
    with Image.open(write_sheet(tmp_path / "new" / "sheet.jpg", sheet)) as image:
        assert (image.format, image.size) == ("JPEG", (30, 20))
