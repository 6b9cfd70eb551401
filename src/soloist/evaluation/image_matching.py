"""Which image of one file is which of another, though folders and suffixes may differ."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from soloist.data.coco.types import CocoFile, CocoImage
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

logger = logging.getLogger(__name__)


def match_images(predicted: CocoFile, truth: CocoFile) -> dict[int, int]:
    """The id in the ground truth of each image of the predictions that has one.

    Names are compared, else names without suffix where one path ends with the other; a bare
    result list is matched by id. What has no partner is reported as a warning.

    Args:
        predicted: The predictions.
        truth: The ground truth.

    Returns:
        Ids of the ground truth by ids of the predictions.

    Raises:
        DataError: If none matches, or images that match differ in size.
    """
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


def images_listed(file: CocoFile, listed: Path) -> CocoFile:
    """The part of a file that lies on the images of a list.

    Args:
        file: The file.
        listed: Text file with an image name a line; names are compared as in `match_images`.

    Returns:
        The file with these images only.

    Raises:
        DataError: If the list cannot be read or names no image of the file.
    """
    try:
        lines = listed.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"wanted a list with an image name a line, got {shown(listed)}: {one_line(error)}; "
            "check the path"
        ) from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    wanted = tuple(CocoImage(number, name, 1, 1) for number, name in enumerate(names))
    kept = set(_match_names(wanted, file.images).values())
    if not kept:
        raise DataError(
            f"wanted a list of images of {shown(file.path)} (such as "
            f"{shown(file.images[0].file_name) if file.images else 'none'}), got "
            f"{shown(listed)} with none of them; check that the two belong together"
        )
    if len(kept) < len(names):
        logger.warning(
            "%d of the %d images in %s are not in %s",
            len(names) - len(kept),
            len(names),
            shown(listed),
            shown(file.path),
        )
    return part_of(file, kept)


def part_of(file: CocoFile, image_ids: Iterable[int]) -> CocoFile:
    """The part of a file that lies on some of its images, by their ids."""
    kept = set(image_ids)
    return replace(
        file,
        images=tuple(image for image in file.images if image.id in kept),
        annotations={key: value for key, value in file.annotations.items() if key in kept},
    )


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
