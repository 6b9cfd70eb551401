"""Class-agnostic average precision and recall of masks and boxes, as COCO defines them."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.table import Table

from soloist.data.coco import CocoAnnotation, CocoFile, CocoImage, load_coco
from soloist.data.rle import mask_area
from soloist.errors import ConfigError, DataError
from soloist.files import shown

logger = logging.getLogger(__name__)

Metrics = dict[str, float | None]
"""Fractions in [0, 1] by name; None where the ground truth has no object of that size."""

_KINDS: tuple[tuple[str, Literal["segm", "bbox"]], ...] = (("mask", "segm"), ("box", "bbox"))
_ALL_SIZES, _SMALL, _MEDIUM, _LARGE = range(4)  # pycocotools' area ranges.
_IOU_50, _IOU_75 = 0, 5  # Indices of its IoU thresholds .50, .55, ... .95.
_STAGES = {"free_masks": "Free Mask", "segmenter": "SOLO", "self_trained": "self-trained"}
_COLUMNS = {
    "mask_ap": "mask AP",
    "mask_ap50": "AP50",
    "mask_ap75": "AP75",
    "mask_ap_s": "S",
    "mask_ap_m": "M",
    "mask_ap_l": "L",
    "mask_ar100": "AR100",
    "box_ap": "box AP",
    "box_ap50": "AP50",
    "box_ar100": "AR100",
}


def evaluate(
    predictions: str | Path | CocoFile,
    ground_truth: str | Path | CocoFile,
    *,
    max_dets: int = 100,
) -> Metrics:
    """Average precision and recall with all classes taken as one.

    pycocotools does the matching. Crowd regions of the ground truth stay and are ignored as it
    defines. As usual, a mask's size is its own area and a box's its box area; the size of a
    true object is the `area` in the file.

    Images are matched by file name, else by name without suffix where one file's path ends
    with the other's; a bare result list by id. True images without predictions count as missed;
    predictions on other images are left out. Both are reported as a warning.

    Args:
        predictions: A COCO file with scores, or a bare COCO result list; a missing score is 1.
        ground_truth: A COCO file.
        max_dets: Predictions per image that count, best first; more than 10.

    Returns:
        mask_ap, mask_ap50, mask_ap75, mask_ap_s, mask_ap_m, mask_ap_l, mask_ar1, mask_ar10,
        mask_ar100 (its number is `max_dets`), and the same with box_, as fractions in [0, 1].
        No prediction at all gives zeros. A size the ground truth has no object of gives None,
        since JSON knows no NaN.

    Raises:
        DataError: If a file is malformed, the ground truth has no object, no image of the two
            matches, or images that match differ in size.
        ConfigError: If max_dets is 10 or less.
    """
    if max_dets <= 10:
        raise ConfigError(f"max_dets must be more than 10, got {max_dets}")
    truth = load_ground_truth(ground_truth)
    predicted = (
        predictions
        if isinstance(predictions, CocoFile)
        else load_coco(predictions, images=truth.images)
    )
    true_ids = _match_images(predicted, truth)
    metrics: Metrics = {}
    for kind, iou_type in _KINDS:
        accumulated = _run_pycocotools(predicted, truth, true_ids, iou_type, max_dets)
        precision = accumulated["precision"]  # (10 IoUs, 101 recalls, 1, 4 sizes, 3 max_dets)
        recall = accumulated["recall"]  # (10 IoUs, 1, 4 sizes, 3 max_dets)
        metrics |= {
            f"{kind}_ap": _mean(precision[:, :, :, _ALL_SIZES, -1]),
            f"{kind}_ap50": _mean(precision[_IOU_50, :, :, _ALL_SIZES, -1]),
            f"{kind}_ap75": _mean(precision[_IOU_75, :, :, _ALL_SIZES, -1]),
            f"{kind}_ap_s": _mean(precision[:, :, :, _SMALL, -1]),
            f"{kind}_ap_m": _mean(precision[:, :, :, _MEDIUM, -1]),
            f"{kind}_ap_l": _mean(precision[:, :, :, _LARGE, -1]),
        }
        for index, count in enumerate((1, 10, max_dets)):
            metrics[f"{kind}_ar{count}"] = _mean(recall[:, :, _ALL_SIZES, index])
    return metrics


def load_ground_truth(source: str | Path | CocoFile) -> CocoFile:
    """A COCO file that can be evaluated against.

    Args:
        source: Its path, or the file if it is read already.

    Raises:
        DataError: If it is malformed or has no object but crowd regions.
    """
    truth = source if isinstance(source, CocoFile) else load_coco(source)
    if truth.bare or all(
        annotation.iscrowd
        for annotations in truth.annotations.values()
        for annotation in annotations
    ):
        raise DataError(
            f"wanted a ground truth with objects, got {shown(truth.path)} without any; "
            "check that predictions and ground truth come in this order"
        )
    return truth


def format_table(results: Mapping[str, Mapping[str, float | None]]) -> Table:
    """The staircase of stages as a table in percent.

    Args:
        results: Metrics by stage (`free_masks`, `segmenter`, `self_trained` or any other
            name), in the order of the rows.

    Returns:
        A table for rich's console; a missing value is a dash.
    """
    table = Table(title="class-agnostic, percent")
    table.add_column("stage")
    for name in _COLUMNS.values():
        table.add_column(name, justify="right")
    for stage, metrics in results.items():
        cells = (_percent(metrics.get(key)) for key in _COLUMNS)
        table.add_row(_STAGES.get(stage, stage), *cells)
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what is defined; pycocotools marks what is not by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _match_images(predicted: CocoFile, truth: CocoFile) -> dict[int, int]:
    """The id in the ground truth of each image of the predictions that has one."""
    if predicted.bare:
        own = {image.id for image in truth.images}
        matches = {image.id: image.id for image in predicted.images if image.id in own}
    else:
        matches = _match_names(predicted.images, truth.images)
    # An empty result list is not a mistake: nothing was found.
    if not matches and predicted.images:
        raise DataError(
            f"wanted predictions on the images of {shown(truth.path)}, got {shown(predicted.path)} "
            f"with none of them (such as {shown(truth.images[0].file_name)}); check that the two "
            "files belong together"
        )
    true_images = {image.id: image for image in truth.images}
    for image in predicted.images:
        if image.id not in matches:
            continue
        true_image = true_images[matches[image.id]]
        if (image.height, image.width) != (true_image.height, true_image.width):
            raise DataError(
                f"wanted predictions of {true_image.height} x {true_image.width} (height x width) "
                f"for {shown(true_image.file_name)}, got {image.height} x {image.width}; predict "
                "on the images of the ground truth, not on resized ones"
            )
    missed = len(truth.images) - len(set(matches.values()))
    extra = len(predicted.images) - len(matches)
    if missed or extra:
        logger.warning(
            "%d of %d images of %s have no predictions and count as missed; predictions on %d "
            "images that it does not have were left out",
            missed,
            len(truth.images),
            shown(truth.path),
            extra,
        )
    return matches


def _match_names(predicted: tuple[CocoImage, ...], truth: tuple[CocoImage, ...]) -> dict[int, int]:
    by_name = {image.file_name: image.id for image in truth}
    matches = {
        image.id: by_name[image.file_name] for image in predicted if image.file_name in by_name
    }
    taken = set(matches.values())
    by_stem: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for image in truth:
        if image.id not in taken:
            parts = _parts(image.file_name)
            by_stem.setdefault(parts[-1], []).append((parts, image.id))
    for image in predicted:
        if image.id in matches:
            continue
        parts = _parts(image.file_name)
        candidates = [
            true_id
            for true_parts, true_id in by_stem.get(parts[-1], [])
            if true_id not in taken and _is_suffix(parts, true_parts)
        ]
        if len(candidates) == 1:  # More than one: no telling which.
            matches[image.id] = candidates[0]
            taken.add(candidates[0])
    return matches


def _parts(name: str) -> tuple[str, ...]:
    """Parts of a path, the last without its suffix."""
    *folders, last = name.replace("\\", "/").split("/")
    return (*(part for part in folders if part not in ("", ".")), os.path.splitext(last)[0])


def _is_suffix(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[-shared:] == other[-shared:]


def _run_pycocotools(
    predicted: CocoFile,
    truth: CocoFile,
    true_ids: Mapping[int, int],
    iou_type: Literal["segm", "bbox"],
    max_dets: int,
) -> dict[str, NDArray[np.float64]]:
    true_records = [
        _record(annotation, image.id, annotation.area)
        for image in truth.images
        for annotation in truth.annotations[image.id]
    ]
    records = []
    for image_id, true_id in true_ids.items():
        for annotation in predicted.annotations[image_id]:
            box_area = annotation.box_xywh[2] * annotation.box_xywh[3]
            area = mask_area(annotation.segmentation) if iou_type == "segm" else box_area
            records.append(_record(annotation, true_id, area) | {"iscrowd": 0})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress.
        evaluation = COCOeval(
            _coco(truth.images, true_records), _coco(truth.images, records), iouType=iou_type
        )
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    accumulated: dict[str, NDArray[np.float64]] = evaluation.eval
    return accumulated


def _coco(images: tuple[CocoImage, ...], records: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": image.id, "height": image.height, "width": image.width} for image in images
        ],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**record, "id": index} for index, record in enumerate(records, start=1)],
    }
    coco.createIndex()
    return coco


def _record(annotation: CocoAnnotation, image_id: int, area: float) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": 1,
        "segmentation": annotation.segmentation,
        "bbox": list(annotation.box_xywh),
        "area": area,
        "score": annotation.score,
        "iscrowd": int(annotation.iscrowd),
    }
