"""What is compared and how: numbers of predictions, boxes alone, lists of images, libraries."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.errors import ConfigError, DataError
from soloist.evaluation.coco_backends import FASTER, REFERENCE, choose_backend
from soloist.evaluation.evaluate import evaluate, measure

SIZE = 120
FASTER_INSTALLED = importlib.util.find_spec("faster_coco_eval") is not None


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Four images with objects of all three sizes, two classes and a crowd."""
    rng = np.random.default_rng(11)
    images = [CocoImage(4 + n, f"train2014/COCO_{n}.jpg", SIZE, SIZE) for n in range(4)]
    records: list[dict[str, Any]] = []
    for image in images:
        for side in (8, 14, 30, 40, 100):
            top, left = (int(value) for value in rng.integers(0, SIZE - side, 2))
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": image.id,
                    "category_id": 1 + side % 3,
                    "segmentation": encode_masks(_square(top, left, side)[None])[0],
                    "bbox": [left, top, side, side],
                    "area": side**2,
                    "iscrowd": int(side == 30),
                }
            )
    write_coco(tmp_path / "truth.json", images, records, categories={1: "a", 2: "b", 3: "c"})
    return tmp_path / "truth.json"


def _square(top: int, left: int, side: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def results(truth: Path) -> Path:
    """A result list: each object a few times, moved a little; scores repeat."""
    rng = np.random.default_rng(12)
    records = []
    for one in json.loads(truth.read_text())["annotations"]:
        left, top, side, _ = one["bbox"]
        for shift in rng.integers(0, 1 + side // 4, 3).tolist():
            moved = _square(top, min(left + shift, SIZE - side), side)
            records.append(
                {
                    "image_id": one["image_id"],
                    "category_id": one["category_id"],
                    "segmentation": encode_masks(moved[None])[0],
                    "bbox": [min(left + shift, SIZE - side), top, side, side],
                    "score": round(float(rng.random()), 1),
                }
            )
    path = truth.parent / "results.json"
    path.write_text(json.dumps(records))
    return path


def changed(path: Path, name: str, *, drop: str) -> Path:
    """A copy without a key of its annotations."""
    content = json.loads(path.read_text())
    records = content if isinstance(content, list) else content["annotations"]
    for one in records:
        del one[drop]
    copy = path.with_name(name)
    copy.write_text(json.dumps(content))
    return copy


def masks_of(metrics: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in metrics.items() if name.startswith("mask")}


def boxes_of(metrics: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in metrics.items() if name.startswith("box")}


@pytest.mark.skipif(not FASTER_INSTALLED, reason="faster-coco-eval is not installed")
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("max_dets", [11, 100, 1000])
def test_the_faster_library_equals_the_reference(
    truth: Path, results: Path, max_dets: int, classes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        faster = evaluate(results, truth, max_dets=max_dets, classes=classes, backend=FASTER)
    assert caplog.text == ""
    reference = evaluate(results, truth, max_dets=max_dets, classes=classes, backend=REFERENCE)
    assert faster == pytest.approx(reference, abs=1e-6)
    assert 0.1 < (reference["mask_ap"] or 0) < 0.9


def test_the_library_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("auto") == (FASTER if FASTER_INSTALLED else REFERENCE)
    assert choose_backend("pycocotools") == REFERENCE
    with pytest.raises(ConfigError, match="did you mean pycocotools"):
        choose_backend("pycocotool")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto") == REFERENCE
    with pytest.raises(ConfigError, match=r"pip install '.\[fast\]'"):
        choose_backend("faster-coco-eval")


def test_a_thousand_predictions_have_their_own_recall(truth: Path, results: Path) -> None:
    # 150 misses of high score push all else behind the first hundred.
    miss = {"image_id": 4, "category_id": 1, "score": 1.0}
    nowhere = miss | {"segmentation": encode_masks(_square(0, 0, 1)[None])[0], "bbox": [0, 0, 1, 1]}
    records = json.loads(results.read_text())
    results.write_text(json.dumps([nowhere] * 150 + records))
    usual, many = evaluate(results, truth), evaluate(results, truth, max_dets=1000)
    assert "mask_ar1000" not in usual
    assert many["mask_ar100"] == usual["mask_ar100"]
    assert (many["mask_ar1000"] or 0) > (many["mask_ar100"] or 0)
    assert (many["box_ap"] or 0) > (usual["box_ap"] or 0)


def test_a_ground_truth_of_boxes_alone_has_no_figures_for_masks(truth: Path, results: Path) -> None:
    whole = measure(results, truth)
    boxes = measure(results, changed(truth, "boxes.json", drop="segmentation"))
    assert boxes_of(boxes.metrics) == boxes_of(whole.metrics)
    assert list(boxes.metrics) == list(whole.metrics)
    assert set(masks_of(boxes.metrics).values()) == {None}
    assert boxes.notes == ["20 of 20 true objects are boxes alone: no figures for masks"]
    assert boxes.corloc == whole.corloc
    assert {one.compared for one in boxes.images_scored} == {"box"}


def test_results_of_boxes_alone_have_no_figures_for_masks(truth: Path, results: Path) -> None:
    whole = measure(results, truth)
    boxes = measure(changed(results, "boxes.json", drop="segmentation"), truth)
    assert boxes_of(boxes.metrics) == boxes_of(whole.metrics)
    assert set(masks_of(boxes.metrics).values()) == {None}
    assert boxes.notes == ["60 of 60 predictions are boxes alone: no figures for masks"]


def test_only_the_images_of_a_list_count(truth: Path, results: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("COCO_1.jpg\ntrain2014/COCO_3.jpg\n\nCOCO_1.jpg\n")
    part = measure(results, truth, only=listed)
    assert (part.images, part.objects, part.predictions) == (2, 8, 30)
    content = json.loads(truth.read_text())
    content["images"] = content["images"][1::2]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in (5, 7)]
    (tmp_path / "part.json").write_text(json.dumps(content))
    kept = [one for one in json.loads(results.read_text()) if one["image_id"] in (5, 7)]
    results.write_text(json.dumps(kept))
    assert part.metrics == evaluate(results, tmp_path / "part.json")


def test_a_list_of_other_images_is_reported(
    truth: Path, results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("a.jpg\n")
    with pytest.raises(DataError, match="with none of them; check that the two belong together"):
        measure(results, truth, only=listed)
    listed.write_text("a.jpg\nCOCO_1.jpg\n")
    with caplog.at_level(logging.WARNING):
        measure(results, truth, only=listed)
    assert "1 of the 2 images in" in caplog.text
    with pytest.raises(DataError, match="a list with an image name a line"):
        measure(results, truth, only=tmp_path / "none.txt")


def test_the_command_states_its_protocol(
    truth: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "figures.json", tmp_path / "table.csv"
    command = ["eval", str(results), str(truth), "--max-dets", "1000", "--backend", REFERENCE]
    assert run_command([*command, "--out", str(out), "--per-image", str(table)]) == DONE
    printed = capsys.readouterr().out
    assert "4 images, 16 objects, 60 predictions, up to 1000 an image count (maxDets)" in printed
    assert "useCats 0" in printed
    assert "by pycocotools 2" in printed
    assert "AR1000" in printed
    assert "CorLoc" in printed
    assert len(table.read_text().splitlines()) == 5
    figures = json.loads(out.read_text())
    assert figures["max_dets"] == 1000
    assert figures["use_cats"] == 0
    assert figures["backend"].startswith("pycocotools 2")
    assert 0 <= figures["box_corloc"] <= 1
    assert figures["notes"] == []
    assert {"mask_ar1", "mask_ar10", "mask_ar100", "mask_ar1000", "box_ap_l"} <= set(figures)


def test_the_command_counts_classes_by_themselves(
    truth: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    command = ["eval", str(results), str(truth), "--classes", "--out", str(out)]
    assert run_command(command) == DONE
    printed = capsys.readouterr().out
    assert "mean over classes, percent" in printed
    assert "up to 100 an image and class count (maxDets)" in printed
    assert "means over classes (useCats 1)" in printed
    figures = json.loads(out.read_text())
    assert figures["use_cats"] == 1
    expected = evaluate(results, truth, classes=True)
    assert expected != evaluate(results, truth)
    assert {name: figures[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--backend", "fast"], "no backend named 'fast'", id="backend"),
        pytest.param(["--format", "voc"], "wanted a data set of format voc", id="format"),
        pytest.param(["--split", "val"], "which has truth; choose", id="split"),
    ],
)
def test_a_wrong_choice_ends_in_one_line(
    truth: Path,
    results: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run_command(["eval", str(results), str(truth), *arguments]) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
