"""Average precision and recall of masks and boxes, as COCO defines them; classes on demand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from soloist.data.coco.faults import Gate
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.datasets.labels import Reading, read_labels
from soloist.errors import ConfigError, DataError
from soloist.evaluation.coco_backends import IouType, accumulate, backend_version, choose_backend
from soloist.evaluation.compared import masks_compared, notes, same_classes
from soloist.evaluation.image_matching import images_listed, match_images, part_of
from soloist.evaluation.per_image import ImageScore, corloc, score_images
from soloist.evaluation.stage_titles import stage_title
from soloist.runtime.files import shown

Metrics = dict[str, float | None]
"""Fractions in [0, 1] by name; None where the ground truth has no object of that size."""

_KINDS: tuple[tuple[str, IouType], ...] = (("mask", "segm"), ("box", "bbox"))
_ALL_SIZES, _SMALL, _MEDIUM, _LARGE = range(4)  # pycocotools' area ranges.
_IOU_50, _IOU_75 = 0, 5  # Indices of its IoU thresholds .50, .55, ... .95.
_USUAL_MAX_DETS = 100
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


@dataclass(frozen=True)
class Evaluation:
    """Everything a comparison of predictions with a ground truth gave.

    Attributes:
        metrics: As `evaluate` returns them.
        max_dets: Predictions an image that counted; by class, of each class.
        classes: Whether each class counted by itself.
        backend: Name and version of the library that matched.
        images: How many the ground truth has.
        objects: Its objects, crowd regions left out.
        predictions: Predictions on these images, all of them.
        true_ids: Ids of the ground truth's images by those of the predictions.
        images_scored: Each image of the ground truth by itself.
        notes: What a reader of the figures must know.
    """

    metrics: Metrics
    max_dets: int
    classes: bool
    backend: str
    images: int
    objects: int
    predictions: int
    true_ids: Mapping[int, int]
    images_scored: Sequence[ImageScore]
    notes: Sequence[str]

    @property
    def corloc(self) -> float | None:
        """See `soloist.evaluation.per_image.corloc`."""
        return corloc(self.images_scored)

    def protocol(self) -> list[str]:
        """Lines that say what was compared and how, CorLoc among them."""
        each = "an image and class" if self.classes else "an image"
        how = "means over classes" if self.classes else "classes taken as one"
        lines = [
            f"{self.images:,} images, {self.objects:,} objects, {self.predictions:,} predictions, "
            f"up to {self.max_dets} {each} count (maxDets)",
            f"{how} (useCats {int(self.classes)}), sizes as COCO defines them, by {self.backend}",
        ]
        if self.corloc is not None:
            lines.append(
                f"CorLoc {_percent(self.corloc)}: images whose best-scored box has IoU >= 0.5 with "
                "a true box" + (", of any class" if self.classes else "")
            )
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, object]:
        """The metrics, CorLoc and the protocol, for a file."""
        return {
            **self.metrics,
            "box_corloc": self.corloc,
            "max_dets": self.max_dets,
            "use_cats": int(self.classes),
            "backend": self.backend,
            "images": self.images,
            "objects": self.objects,
            "predictions": self.predictions,
            "notes": list(self.notes),
        }


def evaluate(
    predictions: str | Path | CocoFile,
    ground_truth: str | Path | CocoFile,
    *,
    max_dets: int = 100,
    classes: bool = False,
    backend: str = "auto",
) -> Metrics:
    """Average precision and recall, with all classes taken as one by default.

    pycocotools, or a faster library that gives the same, does the matching. Crowd regions of
    the ground truth stay and are ignored as it defines. As usual, a mask's size is its own area
    and a box's its box area; the size of a true object is the `area` in the file.

    Images are matched by file name, else where one path ends with the other, suffixes aside; a
    bare result list by the file names in it, else by id. True images without predictions count
    as missed; predictions on other images are left out. Both are reported as a warning. Objects
    that cannot be used are left out, counted by kind and logged.

    Args:
        predictions: A COCO file with scores, or a bare COCO result list of any tool; a missing
            score is 1.
        ground_truth: A COCO file, or a data set of another format that has one split.
        max_dets: Predictions per image that count, best first; more than 10. With `classes`, of
            each class.
        classes: An object counts as found by a mask of its own class only, and figures are means
            over the classes that the ground truth has objects of, as in COCO.
        backend: `auto`, `pycocotools` or `faster-coco-eval`.

    Returns:
        mask_ap, mask_ap50, mask_ap75, mask_ap_s, mask_ap_m, mask_ap_l, mask_ar1, mask_ar10,
        mask_ar100 (its number is `max_dets`; above 100, both are there), and the same with
        box_, as fractions in [0, 1]. No prediction at all gives zeros. A size the ground truth
        has no object of gives None, since JSON knows no NaN; so do all of mask_ if most objects or
        predictions are boxes alone.

    Raises:
        DataError: If a file is malformed, the ground truth has no object, no image of the two
            matches, images that match differ in size, or with `classes` theirs do.
        ConfigError: If max_dets is 10 or less, or the backend is not known or not installed.
    """
    evaluation = measure(
        predictions, ground_truth, max_dets=max_dets, classes=classes, backend=backend
    )
    return evaluation.metrics


def measure(
    predictions: str | Path | CocoFile,
    ground_truth: str | Path | CocoFile,
    *,
    max_dets: int = 100,
    classes: bool = False,
    backend: str = "auto",
    how: Reading = Reading(),
    only: Path | None = None,
) -> Evaluation:
    """`evaluate`, with CorLoc, each image by itself and the protocol.

    CorLoc and the scores of each image take classes as one, whatever `classes` says.

    Args:
        predictions: As in `evaluate`.
        ground_truth: As in `evaluate`.
        max_dets: As in `evaluate`.
        classes: As in `evaluate`.
        backend: As in `evaluate`.
        how: How the ground truth is read.
        only: Text file with the names of the images that count, such as the list of COCO20K.

    Raises:
        DataError: As `evaluate`.
        ConfigError: As `evaluate`.
    """
    if max_dets <= 10:
        raise ConfigError(f"max_dets must be more than 10, got {max_dets}")
    chosen = choose_backend(backend)
    whole = load_ground_truth(ground_truth, how)
    predicted = (
        predictions
        if isinstance(predictions, CocoFile)
        else load_predictions(predictions, whole, strict=how.strict)
    )
    truth = whole
    if only is not None:
        truth = load_ground_truth(images_listed(whole, only))
        # A result list may well be on all images.
        if predicted.bare:
            predicted = part_of(predicted, (image.id for image in truth.images))
    predicted, true_ids = match_images(predicted, truth)
    if classes:
        predicted, truth = same_classes(predicted, truth)
    shared = part_of(predicted, true_ids)
    masked = masks_compared(shared, truth)
    counts = sorted({1, 10, min(max_dets, _USUAL_MAX_DETS), max_dets})
    metrics: Metrics = {}
    for kind, iou_type in _KINDS:
        compared = masked if kind == "mask" else (shared, truth)
        if compared is None:
            metrics |= {f"{kind}_{name}": None for name in _names(counts)}
            continue
        accumulated = accumulate(*compared, true_ids, iou_type, counts, chosen, classes=classes)
        own = figures(accumulated, counts)
        metrics |= {f"{kind}_{name}": value for name, value in own.items()}
    return Evaluation(
        metrics=metrics,
        max_dets=max_dets,
        classes=classes,
        backend=backend_version(chosen),
        images=len(truth.images),
        objects=sum(not one.iscrowd for ones in truth.annotations.values() for one in ones),
        predictions=len(shared),
        true_ids=true_ids,
        images_scored=score_images(
            *(masked or (shared, truth)), true_ids, masks=masked is not None, max_dets=max_dets
        ),
        notes=notes(shared, truth, true_ids, max_dets),
    )


def load_predictions(path: str | Path, truth: CocoFile, *, strict: bool = False) -> CocoFile:
    """Predictions with or without masks; of a result list those on the ground truth's images.

    Raises:
        DataError: If they cannot be used, or anything is wrong with them and `strict` is set.
    """
    gate = Gate(strict=strict)
    predicted = load_coco(path, images=truth.images, need_masks=False, report=gate)
    gate.tell(path)
    return predicted


def load_ground_truth(
    source: str | Path | CocoFile,
    how: Reading = Reading(),
) -> CocoFile:
    """What can be evaluated against.

    Args:
        source: A COCO file, its path, or the path of another data set.
        how: How a path is read.

    Raises:
        DataError: If it is malformed or has no object but crowd regions.
    """
    truth = (
        source if isinstance(source, CocoFile) else read_labels(source, how, need_images=False)[0]
    )
    crowds = [one.iscrowd for ones in truth.annotations.values() for one in ones]
    if truth.bare or all(crowds):
        got = f"whose {len(crowds)} objects are all crowd regions" if crowds else "without any"
        raise DataError(
            f"wanted a ground truth with objects, got {shown(truth.path)} {got}; "
            "check that predictions and ground truth come in this order"
        )
    return truth


def _names(counts: Sequence[int]) -> list[str]:
    precisions = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")
    return [*precisions, *(f"ar{count}" for count in counts)]


def figures(
    accumulated: Mapping[str, NDArray[np.float64]], counts: Sequence[int], *, at: int = -1
) -> Metrics:
    """The usual figures of what `accumulate` gave.

    One matching serves several limits: predictions are matched best first, so that those up to
    a limit have the same partners whatever comes after them.

    Args:
        accumulated: Precision and recall.
        counts: M numbers of predictions an image that count, as `accumulate` had them.
        at: Which of them precisions are for; recall is given for each.

    Returns:
        ap, ap50, ap75, ap_s, ap_m, ap_l and an `arN` for each count, as fractions in [0, 1];
        None where there is no object of that size.
    """
    precision = accumulated["precision"]  # (10 IoUs, 101 recalls, classes, 4 sizes, counts)
    recall = accumulated["recall"]  # (10 IoUs, classes, 4 sizes, counts)
    values = [
        _mean(precision[:, :, :, _ALL_SIZES, at]),
        _mean(precision[_IOU_50, :, :, _ALL_SIZES, at]),
        _mean(precision[_IOU_75, :, :, _ALL_SIZES, at]),
        _mean(precision[:, :, :, _SMALL, at]),
        _mean(precision[:, :, :, _MEDIUM, at]),
        _mean(precision[:, :, :, _LARGE, at]),
        *(_mean(recall[:, :, _ALL_SIZES, index]) for index in range(recall.shape[-1])),
    ]
    return dict(zip(_names(counts), values, strict=True))


def format_table(
    results: Mapping[str, Mapping[str, float | None]], *, title: str = "class-agnostic, percent"
) -> Table:
    """The staircase of stages as a table in percent.

    Args:
        results: Metrics by stage (`free_masks`, `segmenter`, `self_trained` or any other
            name), in the order of the rows.
        title: What the figures are.

    Returns:
        A table for rich's console; a missing value is a dash.
    """
    columns: dict[str, str] = {}
    for key, heading in _COLUMNS.items():
        columns[key] = heading
        if key.endswith("ar100"):  # More predictions an image have their own recall.
            stem = key.removesuffix("100")
            others = {
                name: name.removeprefix(stem)
                for metrics in results.values()
                for name in metrics
                if name.startswith(stem) and name not in (f"{stem}1", f"{stem}10", key)
            }
            columns |= {name: f"AR{count}" for name, count in others.items()}
    table = Table(title=title)
    table.add_column("stage")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for stage, metrics in results.items():
        cells = (_percent(metrics.get(key)) for key in columns)
        table.add_row(stage_title(stage), *cells)
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what is defined; pycocotools marks what is not by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
