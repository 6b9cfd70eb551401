from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoFile, CocoImage
from soloist.data.coco.write import write_coco
from soloist.evaluation.coco_backends import IouType, accumulate
from soloist.evaluation.per_image import corloc, score_images, worst_images, write_per_image

SIZE = 40
Square = tuple[int, int, int, float]
"""Top, left and side in pixels, and the score."""
A, B, AWAY = (2, 2, 10, 0.9), (2, 20, 10, 0.8), (25, 25, 10, 0.95)


def file_of(path: Path, squares: list[list[Square]], crowd: int | None = None) -> CocoFile:
    """A list of squares for each image; those of image `crowd` are crowd regions."""
    images = [CocoImage(number, f"{number}.jpg", SIZE, SIZE) for number in range(len(squares))]
    records: list[dict[str, Any]] = []
    for image, group in zip(images, squares, strict=True):
        for top, left, side, score in group:
            mask = np.zeros((1, SIZE, SIZE), dtype=np.bool_)
            mask[0, top : top + side, left : left + side] = True
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": image.id,
                    "category_id": 1,
                    "segmentation": encode_masks(mask)[0],
                    "score": score,
                    "iscrowd": int(image.id == crowd),
                }
            )
    write_coco(path, images, records)
    return load_coco(path)


def same_ids(file: CocoFile) -> dict[int, int]:
    return {image.id: image.id for image in file.images}


def test_images_scored_by_hand(tmp_path: Path) -> None:
    truth = file_of(tmp_path / "t.json", [[A, B], [A], [], [A]])
    # Found both; one that overlaps by 80 of 120 pixels and one more on the same object; one on
    # an empty image; nothing.
    found = file_of(tmp_path / "p.json", [[AWAY, A, B], [(2, 4, 10, 0.9), A], [AWAY], []])
    scores = score_images(found, truth, same_ids(found), masks=True, max_dets=100)
    assert [(one.objects, one.predictions, one.found) for one in scores] == [
        (2, 3, 2),
        (1, 2, 1),
        (0, 1, 0),
        (1, 0, 0),
    ]
    assert [one.mean_best_iou for one in scores] == [1, 1, None, 0]
    # The best box of the first image lies beside both; ties go to the first in the file.
    assert [one.best_box_hits for one in scores] == [False, True, None, False]
    assert corloc(scores) == pytest.approx(1 / 3)
    assert [one.name for one in worst_images(scores, 5)] == ["3.jpg"]
    few = score_images(found, truth, same_ids(found), masks=True, max_dets=1)
    assert [one.found for one in few] == [0, 1, 0, 0]
    assert few[1].mean_best_iou == pytest.approx(80 / 120)


def test_an_image_without_predictions_is_scored_though_it_has_no_partner(tmp_path: Path) -> None:
    truth = file_of(tmp_path / "t.json", [[A], [B]])
    found = file_of(tmp_path / "p.json", [[A]])
    scores = score_images(found, truth, {0: 1}, masks=False, max_dets=100)
    assert [(one.name, one.missed, one.compared) for one in scores] == [
        ("0.jpg", 1, "box"),
        ("1.jpg", 1, "box"),
    ]
    assert corloc(scores) == 0


def test_crowds_are_no_objects(tmp_path: Path) -> None:
    truth = file_of(tmp_path / "t.json", [[A], [A]], crowd=1)
    found = file_of(tmp_path / "p.json", [[A], [A]])
    scores = score_images(found, truth, same_ids(found), masks=True, max_dets=100)
    assert [one.objects for one in scores] == [1, 0]
    assert corloc(scores) == 1
    assert corloc(scores[1:]) is None


def test_what_is_found_is_what_ap50_matches(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)

    def some(count: int) -> list[Square]:
        places = rng.integers(0, 24, (count, 2)).tolist()
        sides = rng.integers(6, 16, count).tolist()
        scores = rng.random(count).tolist()
        return [
            (top, left, side, score)
            for (top, left), side, score in zip(places, sides, scores, strict=True)
        ]

    truth = file_of(tmp_path / "t.json", [some(8) for _ in range(12)])
    found = file_of(tmp_path / "p.json", [some(40) for _ in range(12)])
    ids = same_ids(found)
    kinds: tuple[IouType, ...] = ("segm", "bbox")
    for iou_type in kinds:
        scores = score_images(found, truth, ids, masks=iou_type == "segm", max_dets=30)
        recall = accumulate(found, truth, ids, iou_type, [30])["recall"]
        objects = sum(one.objects for one in scores)
        assert 0 < sum(one.found for one in scores) < objects
        assert sum(one.found for one in scores) / objects == pytest.approx(recall[0, 0, 0, 0])


def test_the_table_has_a_row_per_image(tmp_path: Path) -> None:
    truth = file_of(tmp_path / "t.json", [[A, B], []])
    found = file_of(tmp_path / "p.json", [[A], []])
    scores = score_images(found, truth, same_ids(found), masks=True, max_dets=100)
    write_per_image(tmp_path / "table.csv", scores)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "image": "0.jpg", "compared": "mask", "objects": "2", "predictions": "1",
            "mean_best_iou": "0.5000", "recall_50": "0.5000", "missed": "1", "best_box_hits": "1",
        },
        {
            "image": "1.jpg", "compared": "mask", "objects": "0", "predictions": "0",
            "mean_best_iou": "", "recall_50": "", "missed": "0", "best_box_hits": "",
        },
    ]  # fmt: skip
    assert scores[0].summary() == "0.jpg: found 1 of 2, mean best IoU 0.50"
