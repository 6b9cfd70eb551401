from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.errors import DataError
from soloist.evaluation.evaluate import evaluate, format_table

SIZE = 40
NAMES = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "ar1", "ar10", "ar100")
Square = tuple[int, int, int]
"""Top, left and side of a square object, in pixels."""


def square(top: int, left: int, side: int, size: int = SIZE) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def record(mask: NDArray[np.bool_], number: int, image_id: int = 1, **more: Any) -> dict[str, Any]:
    rle = encode_masks(mask[None])[0]
    return {"id": number, "image_id": image_id, "category_id": 1, "segmentation": rle} | more


def truth_file(folder: Path, squares: list[Square], crowd: list[Square] | None = None) -> Path:
    records = [record(square(*one), number) for number, one in enumerate(squares, start=1)]
    records += [
        record(square(*one), number, iscrowd=1) for number, one in enumerate(crowd or [], start=50)
    ]
    write_coco(folder / "truth.json", [CocoImage(1, "a.jpg", SIZE, SIZE)], records)
    return folder / "truth.json"


def results_file(folder: Path, scored: list[tuple[float, Square]]) -> Path:
    records = [record(square(*one), n, score=score) for n, (score, one) in enumerate(scored)]
    (folder / "results.json").write_text(json.dumps(records))
    return folder / "results.json"


A, B, AWAY = (2, 2, 10), (2, 20, 10), (25, 25, 10)


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        pytest.param(
            [(0.9, A), (0.8, B)],
            {"ap": 1, "ap50": 1, "ap75": 1, "ap_s": 1, "ar1": 0.5, "ar10": 1, "ar100": 1},
            id="perfect",
        ),
        pytest.param([(0.9, AWAY)], dict.fromkeys(("ap", "ap50", "ap_s", "ar100"), 0), id="misses"),
        pytest.param([], dict.fromkeys(("ap", "ap50", "ap_s", "ar1", "ar100"), 0), id="nothing"),
        # Hit, miss, hit: precision 1 up to recall 0.5 and 2/3 from there to 1. Of the 101
        # recalls 0, .01, ..., 1 that are averaged, 51 are at most 0.5.
        pytest.param(
            [(0.9, A), (0.8, AWAY), (0.7, B)],
            {"ap": (51 + 50 * 2 / 3) / 101, "ap50": (51 + 50 * 2 / 3) / 101, "ar100": 1},
            id="hit-miss-hit",
        ),
        # The miss comes last: it costs nothing.
        pytest.param(
            [(0.9, A), (0.8, B), (0.7, AWAY)], {"ap": 1, "ar100": 1}, id="miss-at-the-end"
        ),
        # Shifted by 2 of 10 columns: intersection 80, union 120, IoU 2/3, a hit at .50, .55,
        # .60 and .65 of the ten thresholds.
        pytest.param(
            [(0.9, (2, 4, 10)), (0.8, (2, 22, 10))],
            {"ap": 0.4, "ap50": 1, "ap75": 0, "ar1": 0.2, "ar100": 0.4},
            id="shifted",
        ),
        # The same object twice: the second is a miss between two hits.
        pytest.param([(0.9, A), (0.8, A), (0.7, B)], {"ap": (51 + 50 * 2 / 3) / 101}, id="double"),
    ],
)
def test_scenes_done_by_hand(
    tmp_path: Path, scored: list[tuple[float, Square]], expected: dict[str, float]
) -> None:
    metrics = evaluate(results_file(tmp_path, scored), truth_file(tmp_path, [A, B]))
    # The masks are square, so that boxes score as masks do.
    for kind in ("mask", "box"):
        got = {name: metrics[f"{kind}_{name}"] for name in expected}
        assert got == pytest.approx(expected, abs=1e-9)


def test_names_are_the_promised_ones_and_sizes_without_objects_are_none(tmp_path: Path) -> None:
    metrics = evaluate(results_file(tmp_path, [(0.9, A)]), truth_file(tmp_path, [A]))
    assert list(metrics) == [f"{kind}_{name}" for kind in ("mask", "box") for name in NAMES]
    absent = {name for name, value in metrics.items() if value is None}
    assert absent == {"mask_ap_m", "mask_ap_l", "box_ap_m", "box_ap_l"}
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_crowds_are_ignored_not_missed(tmp_path: Path) -> None:
    truth = truth_file(tmp_path, [A], crowd=[(20, 20, 20)])
    # The better prediction lies in the crowd: without crowds it would halve the precision.
    results = results_file(tmp_path, [(0.9, AWAY), (0.8, A)])
    assert evaluate(results, truth)["mask_ap"] == pytest.approx(1)


def test_only_the_best_predictions_count(tmp_path: Path) -> None:
    scored = [(0.9 - 0.01 * index, AWAY) for index in range(11)] + [(0.1, A)]
    results, truth = results_file(tmp_path, scored), truth_file(tmp_path, [A])
    assert evaluate(results, truth, max_dets=11)["mask_ar11"] == 0
    assert evaluate(results, truth, max_dets=12)["mask_ar12"] == 1


def test_few_predictions_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 10, got 10"):
        evaluate(tmp_path / "a.json", tmp_path / "b.json", max_dets=10)


def measured(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Area and tight box, which plain pycocotools wants in the file."""
    rows, columns = np.nonzero(mask)
    left, top = int(columns.min()), int(rows.min())
    box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
    return {"area": int(mask.sum()), "bbox": box}


def random_scene(folder: Path) -> tuple[Path, Path]:
    """Objects of all three sizes and of two classes, predictions that drift, and a crowd."""
    rng = np.random.default_rng(3)
    images = [CocoImage(image_id, f"{image_id}.jpg", 160, 160) for image_id in (4, 5, 6)]
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for side in (10, 20, 50, 70, 110):
            top, left = (int(value) for value in rng.integers(0, 160 - side, 2))
            mask = square(top, left, side, 160)
            classes = {"category_id": int(rng.integers(1, 3)), "iscrowd": int(side == 20)}
            truth.append(record(mask, len(truth) + 1, image.id) | classes | measured(mask))
            for shift in rng.integers(0, 1 + side // 4, 2):
                moved = np.roll(mask, int(shift), axis=1)
                moved[0, 0] = True  # Box and mask overlap differently.
                score = float(rng.random())
                results.append(
                    record(moved, len(results) + 1, image.id, score=score) | measured(moved)
                )
    write_coco(folder / "truth.json", images, truth, categories={1: "a", 2: "b"})
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "results.json", folder / "truth.json"


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(("kind", "iou_type"), [("mask", "segm"), ("box", "bbox")])
def test_metrics_equal_those_of_plain_pycocotools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, iou_type: str, classes: bool
) -> None:
    results, truth = random_scene(tmp_path)
    # Results with a box alone, or a mask alone: their size is that of what is compared.
    wanted = "bbox" if kind == "box" else "segmentation"
    bare = [
        {key: one[key] for key in ("image_id", "category_id", "score", wanted)}
        for one in json.loads(results.read_text())
    ]
    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(bare), iou_type)
    evaluation.params.useCats = int(classes)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    expected = dict(zip(NAMES, evaluation.stats[:9], strict=True))
    metrics = evaluate(results, truth, classes=classes)
    assert {name: metrics[f"{kind}_{name}"] for name in NAMES} == pytest.approx(expected, abs=1e-12)
    # Classes were drawn without regard to each other: most predictions are of the wrong one.
    assert (0.001 if classes else 0.05) < expected["ap"] < 0.95
    assert capsys.readouterr().out == ""


def test_an_object_found_as_another_class_is_not_found(tmp_path: Path) -> None:
    """Two objects found, one of them as the other's class: a third class has no object."""
    names = {1: "a", 2: "b", 3: "c"}
    image = CocoImage(1, "a.jpg", SIZE, SIZE)
    true = [record(square(*A), 1), record(square(*B), 2, category_id=2)]
    found = [record(square(*A), 1, score=0.9), record(square(*B), 2, score=0.8, category_id=1)]
    found.append(record(square(*AWAY), 3, score=0.7, category_id=3))
    write_coco(tmp_path / "truth.json", [image], true, categories=names)
    write_coco(tmp_path / "found.json", [image], found, categories=names)
    files = tmp_path / "found.json", tmp_path / "truth.json"
    assert evaluate(*files)["mask_ap"] == pytest.approx(1)
    assert evaluate(*files, classes=True)["mask_ap"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("own", "true", "message"),
    [
        pytest.param({1: "object"}, {1: "cat"}, "without 'cat'", id="no-classes"),
        pytest.param({1: "cat"}, {}, "a name for each category, got", id="nameless-truth"),
    ],
)
def test_classes_that_differ_are_reported(
    tmp_path: Path, own: dict[int, str], true: dict[int, str], message: str
) -> None:
    image = CocoImage(1, "a.jpg", SIZE, SIZE)
    for name, names in (("own.json", own), ("true.json", true)):
        write_coco(tmp_path / name, [image], [record(square(*A), 1, score=1)], categories=names)
    files = tmp_path / "own.json", tmp_path / "true.json"
    assert evaluate(*files)["mask_ap"] == pytest.approx(1)
    with pytest.raises(DataError, match=message) as caught:
        evaluate(*files, classes=True)
    assert "\n" not in str(caught.value)


# Matching


def predictions_named(folder: Path, *names: str, size: int = SIZE) -> Path:
    """Each image has the objects A and B; ids have nothing to do with the ground truth's."""
    images = [CocoImage(100 + index, name, size, size) for index, name in enumerate(names)]
    records = [
        record(square(*one, size), index, image.id, score=0.9)
        for image in images
        for index, one in enumerate((A, B))
    ]
    write_coco(folder / "predictions.json", images, records)
    return folder / "predictions.json"


def truth_named(folder: Path, *names: str) -> Path:
    images = [CocoImage(index, name, SIZE, SIZE) for index, name in enumerate(names, start=1)]
    records = [
        record(square(*one), 10 * image.id + index, image.id)
        for image in images
        for index, one in enumerate((A, B))
    ]
    write_coco(folder / "truth.json", images, records)
    return folder / "truth.json"


@pytest.mark.parametrize(
    ("predicted", "true", "recall"),
    [
        pytest.param(("b.jpg", "a.jpg"), ("a.jpg", "b.jpg"), 1, id="same-names-other-ids"),
        pytest.param(("a.jpg",), ("val/a.jpg",), 1, id="folder-in-the-truth-only"),
        pytest.param(("x/val/a.jpg",), ("val/a.jpg",), 1, id="folder-in-the-predictions-only"),
        pytest.param(("val\\a.jpg",), ("val/a.jpg",), 1, id="backslash"),
        pytest.param(("a.png",), ("a.jpg",), 1, id="other-suffix"),
        pytest.param(("a.jpg", "c.jpg"), ("a.jpg", "b.jpg"), 0.5, id="one-missed-one-too-many"),
        pytest.param(("a.jpg", "a.png"), ("a.png", "a.jpg"), 1, id="suffix-tells-them-apart"),
    ],
)
def test_images_are_matched_by_name(
    tmp_path: Path, predicted: tuple[str, ...], true: tuple[str, ...], recall: float
) -> None:
    metrics = evaluate(predictions_named(tmp_path, *predicted), truth_named(tmp_path, *true))
    assert metrics["mask_ar100"] == pytest.approx(recall)


def test_images_without_a_match_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictions = predictions_named(tmp_path, "a.jpg", "c.jpg", "d.jpg")
    with caplog.at_level(logging.WARNING):
        evaluate(predictions, truth_named(tmp_path, "a.jpg", "b.jpg"))
    assert "1 of 2 images" in caplog.text
    assert "on 2 images" in caplog.text


def test_a_complete_match_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(predictions_named(tmp_path, "a.jpg"), truth_named(tmp_path, "a.jpg"))
    assert caplog.text == ""


def test_predictions_on_other_images_are_reported(tmp_path: Path) -> None:
    predictions = predictions_named(tmp_path, "c.jpg")
    with pytest.raises(DataError, match=r"with none of them \(such as 'a\.jpg'\)"):
        evaluate(predictions, truth_named(tmp_path, "a.jpg"))


def test_predictions_on_resized_images_are_reported(tmp_path: Path) -> None:
    predictions = predictions_named(tmp_path, "a.jpg", size=50)
    with pytest.raises(DataError, match=r"wanted predictions of 40 x 40 .*got 50 x 50"):
        evaluate(predictions, truth_named(tmp_path, "a.jpg"))


def test_results_on_an_unknown_id_are_reported(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps([record(square(*A), 1, image_id=77, score=0.5)]))
    with pytest.raises(DataError, match="image_id 77"):
        evaluate(results, truth_file(tmp_path, [A]))


def test_a_ground_truth_without_objects_is_reported(tmp_path: Path) -> None:
    results = results_file(tmp_path, [(0.9, A)])
    with pytest.raises(DataError, match="1 objects are all crowd regions"):
        evaluate(results, truth_file(tmp_path, [], crowd=[A]))
    with pytest.raises(DataError, match="in this order"):
        evaluate(truth_file(tmp_path, [A]), results)


def test_predictions_without_images_give_zeros(tmp_path: Path) -> None:
    write_coco(tmp_path / "predictions.json", [], [])
    metrics = evaluate(tmp_path / "predictions.json", truth_file(tmp_path, [A]))
    assert {value for value in metrics.values() if value is not None} == {0.0}


def test_the_table_shows_percent_by_stage() -> None:
    results: dict[str, dict[str, float | None]] = {
        "free_masks": {"mask_ap": 0.0523, "mask_ap50": 0.159, "mask_ap_s": None},
        "self_trained": {"mask_ap": 1.0, "box_ar100": float("nan")},
        "baseline": {"box_ap": 0.25},
    }
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(format_table(results))
    lines = [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]
    dash = "–"
    assert lines == [
        ["Free Mask", "5.2", "15.9", *[dash] * 8],
        ["Self-trained", "100.0", *[dash] * 9],
        ["baseline", *[dash] * 7, "25.0", dash, dash],
    ]
