"""Figures of masks against true ones: precision, recall, calibration, and kinds of errors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from benchmarks.quality.errors import kinds
from pycocotools import mask as coco_mask

from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.evaluation.coco_backends import Backend, accumulate
from soloist.evaluation.evaluate import figures
from soloist.evaluation.image_matching import match_images
from soloist.evaluation.matching import overlaps, take_best
from soloist.evaluation.per_image import FOUND_IOU, score_images

MAX_DETS = (10, 100, 1000)
"""Predictions an image that count: the usual limit, and one for hundreds of objects."""
USUAL, MANY = 1, 2
BINS = 10
"""Of scores, for their calibration error."""


def score(
    predicted: CocoFile,
    truth: CocoFile,
    *,
    shown: Collection[int] | None = None,
    backend: Backend = "pycocotools",
) -> dict[str, Any]:
    """All figures of an entry on a set, classes taken as one.

    Args:
        predicted: Masks with scores; of other images too, which do not count.
        truth: The true masks.
        shown: Ids of the annotations that a user sees; None for all.
        backend: Who matches.

    Returns:
        `figures` by name, as fractions in [0, 1] or None where there is no object of that size;
        `objects_by_kind` and `masks_by_kind`, numbers of `benchmarks/quality/errors.py`; numbers
        of masks and of those shown.
    """
    own = renamed(predicted, truth)
    ids = {image.id: image.id for image in truth.images}
    accumulated = accumulate(own, truth, ids, "segm", MAX_DETS, backend)
    usual, many = (figures(accumulated, MAX_DETS, at=at) for at in (USUAL, MANY))
    counting = _outside_crowds(own, truth)
    seen = counting if shown is None else _chosen(counting, shown)
    images = score_images(seen, truth, ids, masks=True, max_dets=max(1, len(seen)))
    found = sum(one.found for one in images)
    objects, masks = kinds(truth, counting)
    return {
        "figures": {
            **usual,
            "ap_1000": many["ap"],
            "ap50_1000": many["ap50"],
            "precision_shown": found / len(seen) if len(seen) else None,
            "recall_shown": found / max(1, sum(one.objects for one in images)),
            "calibration_error": calibration_error(counting, truth),
        },
        "objects_by_kind": dict(objects),
        "masks_by_kind": dict(masks),
        "masks": len(own),
        "masks_shown": len(own if shown is None else _chosen(own, shown)),
    }


def calibration_error(predicted: CocoFile, truth: CocoFile) -> float | None:
    """How far scores are from the share of masks that are right: expected calibration error.

    Masks are put into `BINS` bins of equal width by their scores; the mean over all masks of the
    distance between the mean score of a bin and the share of its masks that have an object (IoU of
    0.5) of their own, best first (Guo et al., ICML 2017).

    Returns:
        In [0, 1]; None without masks.
    """
    scores, right = [], []
    for one in overlaps(predicted, truth).values():
        own = np.array([mask.score for mask in one.predicted])
        order = np.argsort(-own, kind="stable")
        scores.append(own[order])
        right.append(take_best(one.ious[order], FOUND_IOU) >= 0)
    every, hits = np.concatenate(scores), np.concatenate(right)
    if len(every) == 0:
        return None
    bins = np.minimum((every * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, every - hits, minlength=BINS)
    return float(np.abs(gaps).sum() / len(every))


def renamed(predicted: CocoFile, truth: CocoFile) -> CocoFile:
    """Predictions under the ids and names of the ground truth's images, on all of these."""
    predicted, true_ids = match_images(predicted, truth)
    moved: dict[int, list[CocoAnnotation]] = {image.id: [] for image in truth.images}
    for image_id, true_id in true_ids.items():
        moved[true_id] += predicted.annotations[image_id]
    return replace(
        predicted,
        images=truth.images,
        annotations={
            true_id: tuple(replace(one, image_id=true_id) for one in ones)
            for true_id, ones in moved.items()
        },
        bare=False,
    )


def _chosen(predicted: CocoFile, ids: Collection[int]) -> CocoFile:
    kept = {
        image_id: tuple(one for one in ones if one.id in ids)
        for image_id, ones in predicted.annotations.items()
    }
    return replace(predicted, annotations=kept)


def _outside_crowds(predicted: CocoFile, truth: CocoFile) -> CocoFile:
    """Predictions without those that COCO ignores: half inside a crowd region, and no object's."""
    kept = dict(predicted.annotations)
    for image in truth.images:
        true = truth.annotations[image.id]
        own = kept[image.id]
        if not own or not any(one.iscrowd for one in true):
            continue
        crowd = np.array([one.iscrowd for one in true])
        overlaps = coco_mask.iou(
            [one.rle for one in own], [one.rle for one in true], crowd.astype(int).tolist()
        )  # (N, M); with a crowd region, the share of the mask inside.
        ignored = (overlaps[:, crowd] >= FOUND_IOU).any(axis=1)
        ignored &= ~(overlaps[:, ~crowd] >= FOUND_IOU).any(axis=1)
        kept[image.id] = tuple(one for one, drop in zip(own, ignored, strict=True) if not drop)
    return replace(predicted, annotations=kept)
