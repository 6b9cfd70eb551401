"""Results as `Detections` of the supervision library, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.rle import encode_masks, mask_box_xywh
from soloist.data.coco.types import CATEGORIES
from soloist.data.images import image_size, own_pixels
from soloist.errors import DataError, require
from soloist.inference.results import Result
from soloist.structures import Instances

if TYPE_CHECKING:
    from supervision import Detections

CLASS_NAME = "class_name"
"""Where supervision's own connectors keep names of classes."""


def to_detections(
    found: Instances[Any, Any], categories: Mapping[int, str] = CATEGORIES
) -> Detections:
    """Objects for the supervision library; see `Result.to_supervision`."""
    require("supervision", extra="supervision", wanted="to_supervision()")
    from supervision import Detections
    from supervision.detection.compact_mask import CompactMask

    names = list(categories.values())
    labels = np.zeros(len(found), dtype=np.int64)
    # As in COCO files: of a network whose classes have no names none are given.
    if found.labels is not None and len(names) > 1:
        labels = np.array(found.labels, dtype=np.int64)
    boxes = np.array(found.boxes, dtype=np.float32)
    masks = found.masks
    if isinstance(masks, EncodedMasks):
        masks = CompactMask.from_coco_rle(masks.rles, boxes, masks.size)
    else:
        masks = np.array(masks, dtype=np.bool_)
    tracks = None if found.track_ids is None else np.array(found.track_ids, dtype=np.int64)
    return Detections(
        xyxy=boxes,
        mask=masks,
        confidence=np.array(found.scores, dtype=np.float32),
        class_id=labels,
        tracker_id=tracks,
        data={CLASS_NAME: np.array(names)[labels]},
    )


def from_detections(
    detections: Detections,
    *,
    image: Any = None,
    categories: Mapping[int, str] | None = None,
) -> Result[Any, Any]:
    """Objects of the supervision library as a result; see `Result.from_supervision`."""
    count = len(detections)
    if detections.mask is None and count:
        raise DataError(
            f"wanted detections with masks, got {count} boxes alone; a result needs the masks that "
            "its objects were found with"
        )
    origin: dict[str, Any] = {}
    known: tuple[int, ...] | None = None
    if isinstance(image, str | Path):
        origin, known = {"path": Path(image)}, image_size(image)
    elif image is not None:
        pixels = own_pixels(image)
        origin, known = {"pixels": pixels}, pixels.shape[:2]
    size = known if detections.mask is None else tuple(detections.mask.shape[1:])
    if size is None:
        raise DataError(
            "wanted the image of detections without a mask, got none; add image=PATH or pixels"
        )
    if known not in (None, size):
        raise DataError(
            f"wanted the image that the detections are of, {size} (height, width), got {known}; "
            "give image= the one they were found on"
        )
    scores = _scores(detections)
    order = np.argsort(-scores, kind="stable")
    masks, boxes = _masks(detections, (size[0], size[1]), order)
    names, labels = _classes(detections, categories)
    tracks = detections.tracker_id
    return Result(
        image_size=(size[0], size[1]),
        masks=masks,
        scores=scores[order],
        boxes=boxes,
        embeddings=np.zeros((count, 0), dtype=np.float32),
        labels=None if labels is None else labels[order],
        track_ids=None if tracks is None else np.asarray(tracks, dtype=np.int64)[order],
        categories=names,
        **origin,
    )


def _scores(detections: Detections) -> NDArray[np.float32]:
    if detections.confidence is None:  # Drawn by hand, or true.
        return np.ones(len(detections), dtype=np.float32)
    scores = np.asarray(detections.confidence, dtype=np.float32)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError(
            f"wanted a confidence in [0, 1] of each detection, got {scores.min()} to "
            f"{scores.max()}; scale them"
        )
    return scores


def _masks(
    detections: Detections, size: tuple[int, int], order: NDArray[np.int64]
) -> tuple[NDArray[np.bool_] | EncodedMasks, NDArray[np.float32]]:
    """Masks in an order, encoded if supervision keeps them compact, and their tight boxes."""
    masks = detections.mask
    if masks is None:
        return np.zeros((0, *size), dtype=np.bool_), np.zeros((0, 4), dtype=np.float32)
    # One after the other: compact ones may not fit into memory together.
    rles = [encode_masks(np.asarray(masks[row], dtype=np.bool_)[None])[0] for row in order.tolist()]
    boxes = np.array([mask_box_xywh(rle) for rle in rles], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    if isinstance(masks, np.ndarray):
        return masks[order].astype(np.bool_), boxes
    return EncodedMasks(tuple(rles), size), boxes


def _classes(
    detections: Detections, categories: Mapping[int, str] | None
) -> tuple[Mapping[int, str], NDArray[np.int64] | None]:
    """Names by category id, and the label of each detection; None where all are one class."""
    found = detections.class_id
    if found is None:
        return categories or CATEGORIES, None
    numbers = np.asarray(found, dtype=np.int64)
    if categories is not None:
        if ((numbers < 0) | (numbers >= len(categories))).any():
            raise DataError(
                f"wanted class ids from 0 to {len(categories) - 1}, one for each of the "
                f"categories, got {sorted(set(numbers.tolist()))}; give categories= all of them"
            )
        return categories, numbers
    given = detections.data.get(CLASS_NAME)
    names: dict[int, str] = {}
    for place, number in enumerate(numbers.tolist()):
        name = f"class {number}" if given is None else str(given[place])
        if names.setdefault(number, name) != name:
            raise DataError(
                f"wanted one name for each class id, got {names[number]!r} and {name!r} for "
                f"{number}; give categories="
            )
    if not names:
        return CATEGORIES, numbers
    known = sorted(names)
    # COCO's ids begin at 1.
    return {key + 1: names[key] for key in known}, np.searchsorted(known, numbers)
