"""How each single image went: found and missed objects, and CorLoc over all of them."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.rle import box_iou, rle_iou
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.evaluation.matching import take_best
from soloist.runtime.files import write_text

FOUND_IOU = 0.5
"""IoU from which on an object counts as found."""
COLUMNS = (
    "image",
    "compared",
    "objects",
    "predictions",
    "mean_best_iou",
    "recall_50",
    "missed",
    "best_box_hits",
)


@dataclass(frozen=True, slots=True)
class ImageScore:
    """What predictions and truth have in common on one image.

    Attributes:
        name: The image's name in the ground truth.
        compared: What was: `mask` or `box`.
        objects: True objects; crowd regions do not count.
        predictions: Predictions that count, at most `max_dets`.
        found: Objects with a prediction of IoU >= 0.5 of their own, best score first, as AP50
            matches them.
        mean_best_iou: Mean over the objects of the best IoU any prediction has; None without
            objects.
        best_box_hits: Whether the box of the best score has IoU >= 0.5 with a true box; None
            without objects.
    """

    name: str
    compared: Literal["mask", "box"]
    objects: int
    predictions: int
    found: int
    mean_best_iou: float | None
    best_box_hits: bool | None

    @property
    def missed(self) -> int:
        """Objects that were not found."""
        return self.objects - self.found

    @property
    def recall(self) -> float | None:
        """Share of the objects that were found; None without objects."""
        return self.found / self.objects if self.objects else None

    def summary(self) -> str:
        """The image in one line."""
        overlap = "" if self.mean_best_iou is None else f", mean best IoU {self.mean_best_iou:.2f}"
        return f"{self.name}: found {self.found} of {self.objects}{overlap}"


def score_images(
    predicted: CocoFile,
    truth: CocoFile,
    true_ids: Mapping[int, int],
    *,
    masks: bool,
    max_dets: int,
) -> list[ImageScore]:
    """Scores each image of the ground truth, those without predictions too.

    Args:
        predicted: The predictions.
        truth: The ground truth.
        true_ids: Ids of the ground truth's images by those of the predictions.
        masks: Compare masks; else boxes.
        max_dets: Predictions an image that count, best first.

    Returns:
        In the ground truth's order.
    """
    by_image: dict[int, list[CocoAnnotation]] = defaultdict(list)
    for image_id, true_id in true_ids.items():
        by_image[true_id] += predicted.annotations[image_id]
    scores = []
    for image in truth.images:
        objects = [one for one in truth.annotations[image.id] if not one.iscrowd]
        found = sorted(by_image[image.id], key=lambda one: -one.score)[:max_dets]
        ious = _ious(found, objects, masks=masks)  # (predictions, objects)
        first_box = _ious(found[:1], objects, masks=False)
        scores.append(
            ImageScore(
                name=image.file_name,
                compared="mask" if masks else "box",
                objects=len(objects),
                predictions=len(found),
                found=int((take_best(ious, FOUND_IOU) >= 0).sum()),
                mean_best_iou=float(ious.max(axis=0, initial=0).mean()) if objects else None,
                best_box_hits=bool((first_box >= FOUND_IOU).any()) if objects else None,
            )
        )
    return scores


def corloc(scores: Iterable[ImageScore]) -> float | None:
    """Correct localisation, the measure of single-object discovery.

    The share of the images whose best-scored box has IoU >= 0.5 with any true box (Deselaers et
    al., 2010, as LOST and its successors use it). Images without an object do not count; those
    without a prediction are misses.

    Returns:
        In [0, 1]; None if no image has an object.
    """
    hits = [one.best_box_hits for one in scores if one.best_box_hits is not None]
    return sum(hits) / len(hits) if hits else None


def worst_images(scores: Sequence[ImageScore], count: int) -> list[ImageScore]:
    """Images with a missed object: least recall first, then least overlap, then most objects."""
    missing = [one for one in scores if one.missed]
    missing.sort(key=lambda one: (one.recall, one.mean_best_iou, -one.objects))
    return missing[:count]


def write_per_image(path: Path, scores: Iterable[ImageScore]) -> None:
    """Writes a table with a row per image; what an image without objects lacks stays empty.

    Raises:
        RunError: If the file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in scores:
        writer.writerow(
            (
                one.name,
                one.compared,
                one.objects,
                one.predictions,
                _digits(one.mean_best_iou),
                _digits(one.recall),
                one.missed,
                "" if one.best_box_hits is None else int(one.best_box_hits),
            )
        )
    write_text(path, buffer.getvalue())


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _ious(
    found: Sequence[CocoAnnotation], objects: Sequence[CocoAnnotation], *, masks: bool
) -> NDArray[np.float64]:
    """(F, N) of IoU of each prediction with each object."""
    if masks:
        return rle_iou([one.rle for one in found], [one.rle for one in objects])
    return box_iou([one.box_xywh for one in found], [one.box_xywh for one in objects])
