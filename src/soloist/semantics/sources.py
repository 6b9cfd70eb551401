"""What groups and searches start from: the masks of a file, their vectors and their images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from soloist.clusters import unit_vectors
from soloist.data.coco import CocoAnnotation, CocoFile
from soloist.data.sources import find_images
from soloist.errors import DataError
from soloist.files import shown

logger = logging.getLogger(__name__)


def in_order(file: CocoFile) -> tuple[CocoAnnotation, ...]:
    """All annotations in the order of the file, which is that of its embeddings."""
    every = (one for annotations in file.annotations.values() for one in annotations)
    return tuple(sorted(every, key=lambda one: one.index))


def embeddings_of(file: CocoFile) -> NDArray[np.float32]:
    """(A, E) unit vectors of a file's masks.

    Raises:
        DataError: If it has no masks or no embeddings.
    """
    if len(file) == 0:
        raise DataError(
            f"wanted masks to compare, got {shown(file.path)} without any; lower the score "
            "threshold they were made with"
        )
    if file.embeddings is None or file.embeddings.shape[1] == 0:
        raise DataError(
            f"wanted embeddings beside {shown(file.path)}, got none; make it with `soloist "
            "predict` or `soloist masks`, or keep its .embeddings.npy beside it"
        )
    return unit_vectors(file.embeddings)


def image_paths(file: CocoFile, sources: Sequence[str]) -> dict[int, Path]:
    """Where the images of a COCO file are.

    Args:
        file: The file.
        sources: Folders, patterns, lists or COCO files; if empty, those the file was made from,
            else what lies beside it.

    Returns:
        Paths by image id; images nobody has are left out, with a warning.

    Raises:
        DataError: If a source does not exist, or none of the images is there.
    """
    refs = find_images(list(sources) or _recorded(file) or [str(file.path)])
    there = [ref for ref in refs if ref.path.is_file()]
    by_name = {ref.name: ref.path for ref in there}
    last_parts = Counter(PurePosixPath(ref.name).name for ref in there)
    by_last_part = {
        PurePosixPath(ref.name).name: ref.path
        for ref in there
        if last_parts[PurePosixPath(ref.name).name] == 1
    }
    found = {}
    for image in file.images:
        last_part = PurePosixPath(image.file_name).name
        path = by_name.get(image.file_name) or by_last_part.get(last_part)
        if path is not None:
            found[image.id] = path
    if not found:
        raise DataError(
            f"wanted the {len(file.images)} images of {shown(file.path)}, found none of them; "
            "add --images FOLDER"
        )
    if len(found) < len(file.images):
        logger.warning(
            "%d of %d images were not found", len(file.images) - len(found), len(file.images)
        )
    return found


def _recorded(file: CocoFile) -> list[str]:
    """The sources a file was made from, if they are still there."""
    sources = file.info.get("images")
    if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources):
        return []
    return sources if all(Path(one).expanduser().exists() for one in sources) else []
