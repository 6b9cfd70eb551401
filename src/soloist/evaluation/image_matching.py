"""Which image of one file is which of another, though folders and suffixes may differ."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from soloist.data.coco.objects import is_one_pixel_off
from soloist.data.coco.rle import refitted_mask
from soloist.data.coco.types import CocoFile, CocoImage
from soloist.data.names import NameMatches, match_names
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

logger = logging.getLogger(__name__)


def match_images(predicted: CocoFile, truth: CocoFile) -> tuple[CocoFile, dict[int, int]]:
    """Which image of the ground truth each image of the predictions is.

    Names are compared by the rule of `match_names`, suffixes aside; a bare result list was matched
    when it was read. The account is logged.

    Args:
        predicted: The predictions.
        truth: The ground truth.

    Returns:
        predicted: The predictions on images of the ground truth's sizes: a pixel more or less at
            the right or bottom is cut or added.
        true_ids: Ids of the ground truth by ids of the predictions.

    Raises:
        DataError: If none matches, a name could mean several images, or images that match differ
            in size.
    """
    if predicted.bare:
        own = {image.id for image in truth.images}
        matches = {image.id: image.id for image in predicted.images if image.id in own}
        extra, hint = len(predicted.images) - len(matches), ""
    else:
        names = _match_names(predicted.images, truth.images)
        names.refuse_ambiguous(shown(truth.path))
        matches = {
            predicted.images[place].id: truth.images[other].id
            for place, other in names.found.items()
        }
        extra, hint = len(names.missing), names.hint()
        if names.by_ending:
            logger.info("%s: %s", shown(predicted.path), names.account())
    # An empty result list is not a mistake: nothing was found.
    if not matches and predicted.images:
        raise DataError(
            f"wanted predictions on the images of {shown(truth.path)}, got {shown(predicted.path)} "
            f"with none of them (such as {shown(truth.images[0].file_name)}){hint}; check that the "
            "two files belong together"
        )
    fitted = _on_true_sizes(predicted, truth, matches)
    missed = len(truth.images) - len(set(matches.values()))
    if missed:
        logger.warning(
            "%d of %d images of %s have no predictions and count as missed%s",
            missed,
            len(truth.images),
            shown(truth.path),
            hint,
        )
    if extra:
        logger.warning(
            "predictions on %d images that %s does not have were left out%s",
            extra,
            shown(truth.path),
            "" if missed else hint,
        )
    return fitted, matches


def _on_true_sizes(predicted: CocoFile, truth: CocoFile, matches: Mapping[int, int]) -> CocoFile:
    """The predictions on images of the ground truth's sizes.

    Raises:
        DataError: If one differs by more than a pixel.
    """
    true_images = {image.id: image for image in truth.images}
    images: list[CocoImage] = []
    annotations = dict(predicted.annotations)
    off: list[str] = []
    for image in predicted.images:
        true_image = true_images[matches[image.id]] if image.id in matches else image
        size, own = (true_image.height, true_image.width), (image.height, image.width)
        if size != own:
            if not is_one_pixel_off(size, own):
                raise DataError(_other_size(true_image.file_name, size, own))
            off.append(f"{shown(true_image.file_name)}, {size} and {own}")
            annotations[image.id] = tuple(
                one
                if one.segmentation is None
                else replace(one, segmentation=refitted_mask(one.segmentation, size))
                for one in annotations[image.id]
            )
        images.append(replace(image, height=size[0], width=size[1]))
    if not off:
        return predicted
    logger.warning(
        "%d images are one pixel larger or smaller in %s than in %s, such as %s: masks were cut or "
        "continued there",
        len(off),
        shown(predicted.path),
        shown(truth.path),
        off[0],
    )
    return replace(predicted, images=tuple(images), annotations=annotations)


def _other_size(name: str, size: tuple[int, int], own: tuple[int, int]) -> str:
    remedy = "compare with predictions on the images that were annotated, at their size"
    if own == size[::-1]:
        remedy = (
            "height and width are exchanged in one of the two files, or the image is turned in "
            "one (EXIF): `soloist data check` tells which"
        )
    return (
        f"wanted predictions of {size[0]} x {size[1]} (height x width) for {shown(name)}, got "
        f"{own[0]} x {own[1]}; {remedy}"
    )


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
    matches = _match_names(wanted, file.images)
    matches.refuse_ambiguous(shown(file.path))
    kept = {file.images[place].id for place in matches.found.values()}
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


def _match_names(predicted: Sequence[CocoImage], truth: Sequence[CocoImage]) -> NameMatches:
    return match_names(
        [image.file_name for image in predicted],
        [image.file_name for image in truth],
        any_suffix=True,
    )
