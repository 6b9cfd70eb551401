from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import box_iou, encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.evaluation.matching import overlaps, take_best


@pytest.mark.parametrize(
    ("ious", "taken"),
    [
        pytest.param([[0.9, 0.0], [0.0, 0.6]], [0, 1], id="apart"),
        pytest.param([[0.8], [0.9]], [0, -1], id="the-first-of-two-masks"),
        pytest.param([[0.7, 0.9]], [1], id="the-better-of-two-objects"),
        # Mask 1 would rather have object 0, which mask 0 has taken.
        pytest.param([[0.8, 0.0], [0.9, 0.6]], [0, 1], id="second-choice"),
        pytest.param([[0.5, 0.49]], [0], id="the-threshold-counts"),
        pytest.param([[0.49]], [-1], id="too-little"),
        pytest.param([[0.7, 0.7], [0.7, 0.7]], [1, 0], id="of-equal-ones-the-last"),
        pytest.param(np.zeros((0, 2)), [], id="no-masks"),
        pytest.param(np.zeros((2, 0)), [-1, -1], id="no-objects"),
    ],
)
def test_each_mask_takes_the_best_that_is_free(
    ious: list[list[float]] | NDArray[np.float64], taken: list[int]
) -> None:
    assert take_best(np.array(ious)).tolist() == taken


@pytest.mark.parametrize("seed", range(3))
def test_pycocotools_takes_the_same(seed: int) -> None:
    """By its own evaluation of one image of boxes, at one threshold."""
    rng = np.random.default_rng(seed)
    count = 12
    corners, sides = rng.integers(0, 20, (2 * count, 2)), rng.integers(6, 12, (2 * count, 2))
    boxes = np.concatenate([corners, sides], axis=1).astype(float).tolist()
    truth, found = COCO(), boxes[count:]
    truth.dataset = {
        "images": [{"id": 1, "width": 99, "height": 99}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3],
             "iscrowd": 0}
            for n, box in enumerate(boxes[:count], 1)
        ],
    }  # fmt: skip
    truth.createIndex()
    scores = np.linspace(0.9, 0.1, count)
    results = truth.loadRes(
        [
            {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(found, scores.tolist(), strict=True)
        ]
    )
    judge = COCOeval(truth, results, "bbox")
    judge.params.iouThrs = np.array([0.5])
    judge.evaluate()
    # Ids of the true boxes, which were counted from 1; 0 for none.
    wanted = judge.evalImgs[0]["dtMatches"][0].astype(int) - 1
    taken = take_best(box_iou(found, boxes[:count]))
    assert taken.tolist() == wanted.tolist()
    assert (taken >= 0).any()


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
