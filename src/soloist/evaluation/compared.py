"""What of two files is compared: objects with masks, of the same classes; and what is said."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from soloist.data.coco.types import CocoFile
from soloist.data.names import match_classes
from soloist.errors import DataError
from soloist.evaluation.image_matching import part_of
from soloist.evaluation.per_image import score_images
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)

_FEW_BOXES = 0.5
"""Up to this share of boxes alone the masks of the others are compared."""
# Images that are tried, and boxes of one; images that another order must move; the overlap that it
# must reach, and how much better that must be.
_MAX_TRIED, _MAX_BOXES, _MIN_MOVED, _FITS, _BETTER = 200, 100, 2, 0.3, 2.0


def masks_compared(predicted: CocoFile, truth: CocoFile) -> tuple[CocoFile, CocoFile] | None:
    """Both files without objects that are boxes alone; None if most of one are."""
    files = (predicted, truth)
    if any(file.boxes_alone > _FEW_BOXES * len(file) for file in files):
        return None
    return without_boxes_alone(predicted), without_boxes_alone(truth)


def without_boxes_alone(file: CocoFile) -> CocoFile:
    """A file without the objects that are boxes alone."""
    if not file.boxes_alone:
        return file
    return replace(
        file,
        annotations={
            key: tuple(one for one in ones if one.segmentation is not None)
            for key, ones in file.annotations.items()
        },
    )


def notes(
    predicted: CocoFile, truth: CocoFile, true_ids: Mapping[int, int], max_dets: int
) -> list[str]:
    """What a reader of the figures must know.

    Args:
        predicted: Predictions on the images of the ground truth.
        truth: The ground truth.
        true_ids: Ids of the ground truth's images by those of the predictions.
        max_dets: Predictions an image that count.
    """
    lines = []
    are_compared = masks_compared(predicted, truth) is not None
    for file, what in ((truth, "true objects"), (predicted, "predictions")):
        if count := file.boxes_alone:
            effect = "left out of the figures for masks" if are_compared else "no figures for masks"
            lines.append(f"{count} of {len(file)} {what} are boxes alone: {effect}")
    if (corners := _like_corners(predicted)) is not None:
        lines.append(
            f"{corners} of {len(predicted)} predicted boxes reach out of their image, and would "
            "not as corners x1, y1, x2, y2: COCO has x, y, width, height"
        )
    if predicted.bare and (order := _better_order(predicted, truth)) is not None:
        lines.append(order)
    if (others := _other_files(predicted, truth, true_ids)) is not None:
        lines.append(others)
    having = sum(bool(ones) for ones in predicted.annotations.values())
    if len(predicted) and 2 * having < len(truth.images):
        lines.append(f"{having} of {len(truth.images)} images have predictions")
    crowded = Counter({key: len(ones) for key, ones in truth.annotations.items()}).most_common(1)
    if crowded and crowded[0][1] > max_dets:
        key, most = crowded[0]
        name = next(image.file_name for image in truth.images if image.id == key)
        lines.append(
            f"up to {most} true objects an image ({shown(name)}), of which {max_dets} predictions "
            f"cannot find all: --max-dets {_next_round(most)} counts more"
        )
    return lines


def _other_files(predicted: CocoFile, truth: CocoFile, true_ids: Mapping[int, int]) -> str | None:
    """Says if most predictions were made on other files than those of the same name.

    Of two splits that number their images alike nothing else can tell.
    """
    images = {image.id: image for image in truth.images}
    compared, others = 0, []
    for image in predicted.images:
        true_image = images.get(true_ids.get(image.id, -1))
        if true_image is None or image.file_state is None or true_image.file_state is None:
            continue
        # A copy of another kind has another size.
        if PurePath(image.file_name).suffix != PurePath(true_image.file_name).suffix:
            continue
        compared += 1
        sizes = image.file_state[0], true_image.file_state[0]
        if sizes[0] != sizes[1]:
            others.append(f"{shown(image.file_name)}, {sizes[0]:,} bytes and {sizes[1]:,}")
    if 2 * len(others) <= compared:
        return None
    return (
        f"{len(others)} of {compared} images were predicted on other files than those of the "
        f"ground truth (such as {others[0]}): see that both are of one split"
    )


def _like_corners(predicted: CocoFile) -> int | None:
    """How many boxes alone must be corners to lie on their image; None unless most must."""
    count = 0
    for image in predicted.images:
        for one in predicted.annotations[image.id]:
            left, top, width, height = one.box_xywh
            reaches_out = left + width > image.width + 1 or top + height > image.height + 1
            fits = left < width <= image.width + 1 and top < height <= image.height + 1
            count += one.segmentation is None and reaches_out and fits
    return count if 2 * count > predicted.boxes_alone else None


def _better_order(predicted: CocoFile, truth: CocoFile) -> str | None:
    """Says if a list's ids seem to be places of images in some order, not the ids they have.

    Such a list is a list of the same ids in another order: nothing but its boxes can tell.
    """
    used = [key for key, ones in predicted.annotations.items() if ones][:_MAX_TRIED]
    by_id = _mean_best_iou(predicted, truth, {key: key for key in used})
    best: tuple[float, str] | None = None
    orders = {
        "in the order of their names": sorted(truth.images, key=lambda image: image.file_name),
        "in the order of the ground truth": truth.images,
    }
    for name, images in orders.items():
        for first in (0, 1):
            places = {key: key - first for key in used}
            if not all(0 <= place < len(images) for place in places.values()):
                continue
            ids = {key: images[place].id for key, place in places.items()}
            moved = sum(key != other for key, other in ids.items())
            overlap = _mean_best_iou(predicted, truth, ids) if moved >= _MIN_MOVED else 0.0
            if best is None or overlap > best[0]:
                best = overlap, f"places {name}, counted from {first}"
    if best is None or best[0] < _FITS or best[0] < _BETTER * by_id:
        return None
    return (
        f"image ids are taken for those of the ground truth (mean best box IoU {by_id:.2f}), but "
        f"as {best[1]}, they fit better ({best[0]:.2f}): add file_name to the list, or see how its "
        "ids were made"
    )


def _mean_best_iou(predicted: CocoFile, truth: CocoFile, true_ids: Mapping[int, int]) -> float:
    """Mean over images of the mean over their objects of the best IoU that any box has."""
    part = part_of(truth, true_ids.values())
    scores = score_images(predicted, part, true_ids, masks=False, max_dets=_MAX_BOXES)
    values = [one.mean_best_iou for one in scores if one.mean_best_iou is not None]
    return sum(values) / len(values) if values else 0.0


def _next_round(count: int) -> int:
    """The next of 100, 300, 1000, ... from a count on."""
    limit = 100
    while limit < count:
        limit = limit * 3 if str(limit).startswith("1") else limit // 3 * 10
    return limit


def same_classes(predicted: CocoFile, truth: CocoFile) -> tuple[CocoFile, CocoFile]:
    """Both files with the class ids of the ground truth, paired by name.

    A result list names no classes: its ids must be those of the ground truth. Objects without a
    class that the ground truth lists are left out.

    Raises:
        DataError: If classes of the ground truth are missing among those of the predictions, or
            ids of a result list are plainly others.
    """
    truth = _listed_only(truth)
    if predicted.bare:
        _check_ids(predicted, truth)
        return predicted, truth
    numbers = check_classes(predicted.categories, predicted.path, truth)
    logger.info(
        "classes: %d of %d matched by name with %s, %d of %s unused",
        len(set(numbers.values())),
        len(truth.categories),
        shown(truth.path),
        len(predicted.categories) - len(numbers),
        shown(predicted.path),
    )
    # What is not matched must not be taken for a class of the ground truth.
    free = 1 + max(truth.categories, default=0)
    others = {key: free + place for place, key in enumerate(sorted(predicted.categories))}
    numbers = {**others, **numbers}
    annotations = {
        key: tuple(
            replace(one, category_id=numbers.get(one.category_id, free + len(others)))
            for one in ones
        )
        for key, ones in predicted.annotations.items()
    }
    return replace(predicted, annotations=annotations), truth


def check_classes(categories: Mapping[int, str], source: Path, truth: CocoFile) -> dict[int, int]:
    """Class ids of a ground truth by those of predictions or a network, paired by name.

    Args:
        categories: Names by id, of predictions or of a network.
        source: What has them.
        truth: The ground truth.

    Raises:
        DataError: If the ground truth has no names, or objects of a class that is missing among
            `categories`.
    """
    used = {one.category_id for found in truth.annotations.values() for one in found}
    named = {key: name for key, name in truth.categories.items() if key in used}
    if not named:
        raise DataError(
            f"wanted a ground truth with a name for each category, got {shown(truth.path)} "
            "without one for any of its objects; complete its `categories`"
        )
    numbers = match_classes(categories, truth.categories)
    for key in sorted(named.keys() - set(numbers.values())):
        names = ", ".join(repr(name) for name in list(categories.values())[:8]) or "none"
        raise DataError(
            f"wanted the classes of {shown(truth.path)}, got {shown(source)} without "
            f"{named[key]!r}, which the former has objects of (it has {names}); classes are "
            "paired by name: rename them in one of the two"
        )
    return numbers


def _listed_only(truth: CocoFile) -> CocoFile:
    """The ground truth without objects of classes that it does not list; the reader said so."""
    if not truth.categories:
        return truth
    return replace(
        truth,
        annotations={
            key: tuple(one for one in ones if one.category_id in truth.categories)
            for key, ones in truth.annotations.items()
        },
    )


def _check_ids(predicted: CocoFile, truth: CocoFile) -> None:
    known = set(truth.categories) or {
        one.category_id for ones in truth.annotations.values() for one in ones
    }
    counts = Counter(one.category_id for ones in predicted.annotations.values() for one in ones)
    unknown = sorted(counts.keys() - known)
    if not unknown:
        return
    shifts = {key - min(counts) for key in known}
    shifted = any(shift and {key + shift for key in counts} <= known for shift in shifts)
    named = (f"{key} {truth.categories.get(key, '')}".strip() for key in sorted(known)[:8])
    raise DataError(
        f"wanted category ids of {shown(truth.path)} ({', '.join(named)}), got "
        f"{shown(predicted.path)} with {', '.join(map(str, unknown[:8]))} among "
        f"{len(counts)} ids{', as if counted from another number' if shifted else ''}; a list "
        "names no classes: correct its ids, or give a COCO file with `categories`"
    )
