"""`soloist eval` against a folder of each format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.data.coco.write import annotation_records, write_coco
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.labels import Reading
from soloist.errors import DataError
from soloist.evaluation.evaluate import evaluate, measure


@pytest.fixture
def perfect(make: Callable[[str], Any], tmp_path: Path) -> Path:
    """Predictions of all objects of a kind, as `predict` names images: by their last part."""
    coco = find_dataset(make("coco").path).to_coco()
    records = annotation_records(one for image in coco.images for one in coco.annotations[image.id])
    write_coco(tmp_path / "p.json", coco.images, [one | {"score": 0.9} for one in records])
    shutil.rmtree(tmp_path / "data")
    return tmp_path / "p.json"


@pytest.mark.parametrize("kind", ["coco", "lvis", "uvo", "voc", "yolo", "label-maps"])
def test_a_folder_of_each_format_is_a_ground_truth(
    perfect: Path, make: Callable[[str], Any], kind: str
) -> None:
    made = make(kind)
    evaluation = measure(perfect, made.path, how=Reading(split=made.split))
    assert (evaluation.images, evaluation.objects) == (2, 3)
    for what in ("mask", "box"):
        assert evaluation.metrics[f"{what}_ap"] == pytest.approx(1)
    assert evaluation.corloc == 1


def test_cityscapes_is_a_ground_truth_that_ignores_groups(
    make: Callable[[str], Any], tmp_path: Path
) -> None:
    path = make("cityscapes").path
    coco = find_dataset(path).to_coco()
    records = annotation_records(one for image in coco.images for one in coco.annotations[image.id])
    # The groups are found too, with the best score: that is no mistake.
    scored = [one | {"score": 0.9 if one["iscrowd"] else 0.8, "iscrowd": 0} for one in records]
    write_coco(tmp_path / "p.json", coco.images, scored)
    assert evaluate(tmp_path / "p.json", path)["mask_ap"] == pytest.approx(1)
    assert measure(tmp_path / "p.json", path).objects == 3


def test_bare_results_refer_to_the_ids_of_voc(make: Callable[[str], Any], tmp_path: Path) -> None:
    path = make("voc").path
    results = [{"image_id": 34, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 1.0}]
    (tmp_path / "r.json").write_text(json.dumps(results))
    evaluation = measure(tmp_path / "r.json", path, how=Reading(split="val"))
    assert evaluation.metrics["box_ap"] == pytest.approx(1)
    assert evaluation.metrics["mask_ap"] is None
    assert evaluation.corloc == 1


def test_some_objects_without_masks_leave_the_boxes(
    perfect: Path, make: Callable[[str], Any]
) -> None:
    path = make("voc").path
    (path / "VOCdevkit/VOC2012/SegmentationObject/000034.png").unlink()
    evaluation = measure(perfect, path, how=Reading(split="trainval"))
    assert evaluation.notes == [
        "1 of 3 true objects are boxes alone: left out of the figures for masks"
    ]
    assert evaluation.metrics["box_ap"] == pytest.approx(1)


def test_a_plain_folder_is_no_ground_truth(perfect: Path, make: Callable[[str], Any]) -> None:
    folder = make("coco").path / "val2017"
    with pytest.raises(DataError, match="ground truth with objects"):
        evaluate(perfect, folder)


def test_the_yaml_of_yolo_is_a_ground_truth(
    perfect: Path, make: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make("yolo").path
    assert run_command(["eval", str(perfect), str(path / "data.yaml")]) == DONE
    assert "100.0" in capsys.readouterr().out


def test_broken_data_ends_an_evaluation_in_one_line(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in made.path.rglob("*"):
        if file.suffix in (".json", ".xml", ".png", ".txt") and file.parent.name != "Main":
            file.write_text("{broken")
    (tmp_path / "p.json").write_text("[]")
    command = ["eval", str(tmp_path / "p.json"), str(made.path)]
    split = ["--split", made.split] if made.split else []
    assert run_command([*command, *split]) == USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith("soloist: wanted")
    assert error.count("\n") == 1
