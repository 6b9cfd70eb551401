from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import method_figures


def test_a_point_of_the_largest_mask_is_found() -> None:
    masks = np.zeros((2, 20, 30), dtype=np.bool_)
    masks[0, 2:5, 2:5] = True
    # A ring: its centre of mass lies outside of it.
    masks[1, 5:16, 10:21] = True
    masks[1, 8:13, 13:18] = False
    y, x = method_figures.inner_point(masks)
    assert masks[1, y, x]
    assert abs(y - 10) <= 3
    assert abs(x - 15) <= 3


def test_greater_values_are_brighter() -> None:
    shown = method_figures.ramp(np.linspace(0, 1, 12, dtype=np.float32)[None])
    assert shown.shape == (1, 12, 3)
    brightness = shown.astype(np.int64).sum(axis=2)[0]
    assert (np.diff(brightness) > 0).all()


def test_tiles_stand_in_rows() -> None:
    red = np.full((40, 10, 3), (255, 0, 0), dtype=np.uint8)
    page = method_figures.sheet([[red, red, red], [red, red, red]])
    assert page.shape == (2 * 180 + 6, 3 * 240 + 2 * 6, 3)


@pytest.mark.slow
def test_the_images_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_figures, "QUERY_SCENES", (8,))
    monkeypatch.setattr(method_figures, "COLOR_SCENES", (6,))
    monkeypatch.setattr(method_figures, "REGION_SCENES", (8,))
    method_figures.main(tmp_path)
    for name, columns in {"free-mask.jpg": 5, "affinity.jpg": 3, "regions.jpg": 3}.items():
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image)
        assert pixels.shape == (180, columns * 246 - 6, 3)
        tiles = [pixels[:, left : left + 240] for left in range(0, pixels.shape[1], 246)]
        for one, other in pairwise(tiles):
            assert (one != other).mean() > 0.01
        assert (method_figures.IMAGES / name).is_file()
