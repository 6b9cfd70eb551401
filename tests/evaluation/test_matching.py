from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.evaluation.matching import overlaps, pair_up


@pytest.mark.parametrize(
    ("ious", "pairs"),
    [
        pytest.param([[0.9, 0.0], [0.0, 0.6]], [(0, 0), (1, 1)], id="apart"),
        pytest.param([[0.8], [0.9]], [(1, 0)], id="the-better-of-two-masks"),
        pytest.param([[0.7, 0.9]], [(0, 1)], id="the-better-of-two-objects"),
        # Mask 0 would rather have object 0, which mask 1 has more of.
        pytest.param([[0.8, 0.6], [0.9, 0.0]], [(1, 0), (0, 1)], id="second-choice"),
        pytest.param([[0.5, 0.49]], [(0, 0)], id="the-threshold-counts"),
        pytest.param([[0.49]], [], id="too-little"),
        pytest.param([[0.7, 0.7], [0.7, 0.7]], [(0, 0), (1, 1)], id="ties-keep-their-order"),
        pytest.param(np.zeros((0, 2)), [], id="no-masks"),
        pytest.param(np.zeros((2, 0)), [], id="no-objects"),
    ],
)
def test_pairs(ious: list[list[float]] | NDArray[np.float64], pairs: list[tuple[int, int]]) -> None:
    assert pair_up(np.array(ious)) == pairs


def strip(start: int, end: int) -> NDArray[np.bool_]:
    mask = np.zeros((4, 20), dtype=np.bool_)
    mask[:, start:end] = True
    return mask


def write(path: Path, names: list[str], strips: list[tuple[int, int, int, int]]) -> Path:
    """Strips are (image id, first column, end, iscrowd)."""
    records = [
        {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "segmentation": encode_masks(strip(start, end)[None])[0],
            "iscrowd": crowd,
        }
        for number, (image, start, end, crowd) in enumerate(strips, start=1)
    ]
    write_coco(path, [CocoImage(n, name, 4, 20) for n, name in enumerate(names, 1)], records)
    return path


def test_overlaps_are_of_images_of_one_name_and_crowds_are_no_objects(tmp_path: Path) -> None:
    predicted = write(tmp_path / "p.json", ["b.jpg", "a.jpg"], [(2, 0, 10, 0), (2, 15, 20, 0)])
    truth = write(
        tmp_path / "t.json", ["a.jpg", "b.jpg"], [(1, 5, 15, 0), (1, 0, 20, 1), (2, 0, 4, 0)]
    )
    found = overlaps(load_coco(predicted), load_coco(truth))
    assert sorted(found) == [1, 2]
    assert found[1].ious.shape == (0, 1)
    assert found[2].ious.shape == (2, 1)
    assert found[2].ious.ravel().tolist() == pytest.approx([5 / 15, 0])
    assert [one.id for one in found[2].predicted] == [1, 2]
    assert [one.id for one in found[2].objects] == [1]
