"""The masks that `train` learns from: Soloist's own, or any other tool's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from soloist.data.coco.read import load_coco, read_json
from soloist.data.coco.types import CocoFile
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.images import image_size
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.runtime.files import shown
from soloist.training.data.cache import are_proportional
from soloist.training.data.train_data import match_labels

logger = logging.getLogger(__name__)

_OWN = {"command", "stage", "embeddings"}
"""Keys of `info` that Soloist's files have one of."""


def read_masks(path: Path, images: Sequence[ImageRef], how: Reading) -> CocoFile:
    """Masks to learn from, their sizes compared with those of the images before anything is made.

    Masks of another tool are read as true labels are, by the rules of `data check`: their sizes
    must be those of the images. Those that Soloist made are for upright images, and good for copies
    of any size.

    Args:
        path: COCO file of `soloist masks` or `predict`, or of another tool.
        images: What will be learned from.
        how: How masks of another tool are read; its `images` say where the images are.

    Raises:
        DataError: If it cannot be used, or no image has a mask or its proportions.
    """
    file = load_coco(path) if _is_own(path) else _single_masks(read_labels(path, how)[0])
    _check_proportions(images, file)
    return file


def _is_own(path: Path) -> bool:
    """Whether a file is of Soloist, which says so, or a list of results."""
    content = read_json(path)
    info = content.get("info") if isinstance(content, dict) else {}
    return isinstance(content, list) or (isinstance(info, dict) and not _OWN.isdisjoint(info))


def _single_masks(file: CocoFile) -> CocoFile:
    """A file without boxes alone and crowd regions, which are counted in the log."""
    kept = {
        key: tuple(one for one in ones if one.segmentation is not None and not one.iscrowd)
        for key, ones in file.annotations.items()
    }
    single = replace(file, annotations=kept)
    if len(single) < len(file):
        logger.warning(
            "%s: %d of %d objects are boxes alone or crowd regions: left out",
            shown(file.path),
            len(file) - len(single),
            len(file),
        )
    return single


def _check_proportions(images: Sequence[ImageRef], file: CocoFile) -> None:
    pairs = match_labels(images, file, quiet=True)
    changed = []
    for image, record in pairs:
        try:
            size = image_size(image.path)
        except DataError:
            continue  # It is listed when it is to be learned from.
        if not are_proportional(size, (record.height, record.width)):
            changed.append(
                f"{shown(image.name)} is {size[0]} x {size[1]} (height x width), its masks are for "
                f"{record.height} x {record.width}"
            )
    if changed and len(changed) == len(pairs):
        raise DataError(
            f"wanted masks of the {len(pairs)} images, got {shown(file.path)} with masks of other "
            f"proportions: {changed[0]}; make masks of these images"
        )
    if changed:
        logger.warning(
            "%s: %d of %d images have other proportions than their masks and are left out, such as "
            "%s",
            shown(file.path),
            len(changed),
            len(pairs),
            changed[0],
        )
