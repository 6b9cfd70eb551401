from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import soloist
from soloist.data.sources import find_images
from soloist.evaluation.survey import LOOKED_AT, Survey, survey

USUAL = Survey(6, (480, 640), 1.2, (110.0, 50.0), 12, 40.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            {},
            ["median of 6: 480 x 640 pixels, reduced 1.2 times to be cut up; "
             "12 objects are shown, 40 pixels across"],
            id="usual",
        ),
        pytest.param(
            {"reduced": 0.5, "grey": (20.0, 4.0), "objects": 0},
            ["median of 6: 480 x 640 pixels, dark, low in contrast, enlarged 2.0 times to be cut "
             "up; no object is shown"],
            id="dark",
        ),
        pytest.param({"images": 0}, [], id="unreadable"),
    ],
)  # fmt: skip
def test_a_survey_says_how_images_are_cut_up(change: dict[str, Any], said: list[str]) -> None:
    assert replace(USUAL, **change).lines() == said


def test_of_small_objects_on_large_images_tiles_are_said() -> None:
    *_, last = replace(USUAL, reduced=3.0, across=12.0).lines()
    assert last.startswith("objects are 4 pixels across")
    assert "--tile 1024" in last
    assert len(replace(USUAL, reduced=0.9, across=6.0).lines()) == 1


@pytest.mark.slow
def test_a_few_images_are_looked_at_and_unreadable_ones_left_out(tmp_path: Path) -> None:
    pixels = np.full((120, 160, 3), 30, dtype=np.uint8)
    pixels[40:80, 60:100] = (200, 60, 60)
    for number in range(9):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "0.png").write_bytes(b"nothing")
    segmenter = soloist.load()
    found = survey(find_images(tmp_path), segmenter)
    assert found.images == LOOKED_AT - 1
    assert found.size == (120, 160)
    assert found.reduced == pytest.approx(120 / 384)
    assert found.grey[0] == pytest.approx(pixels.mean(), abs=1)
    assert found.objects >= 1
    assert found.across > 20
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "0.png").write_bytes(b"nothing")
    assert survey(find_images(tmp_path / "only"), segmenter).lines() == []
