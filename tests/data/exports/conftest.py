"""A COCO file of hard masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.exports.inputs import (
    CATEGORIES,
    COPY,
    EMPTY,
    HARD,
    PLAIN,
    SIZE,
    WriteHard,
    enlarged,
    rle_of,
)

from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco


@pytest.fixture
def write_hard(tmp_path: Path) -> WriteHard:
    """Writes `masks.json` with images in `photos`: one of all hard masks, one of none, one of two.

    The masks of `a.png` have the ids 11, 12, ... in the order of `HARD`, scores that fall from
    0.99 by a hundredth, and classes that take turns. `scale` enlarges all, further keys go into
    each annotation.
    """

    def write(*, scores: bool = True, classes: bool = True, scale: int = 1, **extra: Any) -> Path:
        size = SIZE[0] * scale, SIZE[1] * scale
        images = [
            CocoImage(number, name, *size)
            for number, name in enumerate((PLAIN, EMPTY, COPY), start=1)
        ]
        for number, image in enumerate(images):
            path = tmp_path / "photos" / image.file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        masks = [(1, mask) for mask in HARD.values()]
        masks += [(3, HARD["square"]), (3, HARD["ring"])]
        records = []
        for number, (image_id, mask) in enumerate(masks):
            score = {"score": round(0.99 - 0.01 * number, 2)} if scores else {}
            record = {
                "id": 11 + number,
                "image_id": image_id,
                "segmentation": rle_of(enlarged(mask, scale)),
            }
            record["category_id"] = (3, 7)[number % 2] if classes else 1
            records.append(record | score | extra)
        write_coco(
            tmp_path / "masks.json",
            images,
            records,
            info={"images": [str(tmp_path / "photos")]},
            categories=CATEGORIES if classes else {1: "object"},
        )
        return tmp_path / "masks.json"

    return write
