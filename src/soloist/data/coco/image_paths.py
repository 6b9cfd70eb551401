"""Where the images of a COCO file are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from soloist.data.coco.types import CocoFile
from soloist.data.sources import find_images
from soloist.errors import DataError
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)


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
