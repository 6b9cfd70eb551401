"""Where the images of a COCO file are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soloist.data.coco.types import CocoFile
from soloist.data.names import NameMatches, match_names
from soloist.data.places import find_beside
from soloist.data.sources import ImageRef, find_images
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
        Paths by image id; images nobody has are left out, and counted in the log.

    Raises:
        DataError: If a source does not exist, none of the images is there, or a name could mean
            several.
    """
    names = [image.file_name for image in file.images]
    sources = list(sources) or recorded_sources(file.info)
    if sources:
        found, matches = named_images(names, sources)
        paths = {place: ref.path for place, ref in found.items()}
        where = ", ".join(shown(one) for one in sources)
    else:
        beside, matches = find_beside(file.path, names)
        paths = {place: beside[place] for place in matches.found}
        where = f"the folder of {shown(file.path)}"
    matches.refuse_ambiguous(where)
    if not paths:
        raise DataError(
            f"wanted the {len(file.images)} images of {shown(file.path)}, found none of them in "
            f"{where}{matches.hint()}; add --images FOLDER"
        )
    if len(paths) < len(names) or matches.by_ending:
        logger.warning("%s: %s", shown(file.path), matches.account())
    return {file.images[place].id: path for place, path in paths.items()}


def named_images(
    names: Sequence[str], sources: str | Path | Sequence[str | Path]
) -> tuple[dict[int, ImageRef], NameMatches]:
    """The images of sources that names mean, those alone that are there.

    Args:
        names: As a file of labels has them.
        sources: As for `find_images`.

    Returns:
        found: By the place of the name.
        matches: The account.

    Raises:
        DataError: If a source does not exist.
    """
    refs = [ref for ref in find_images(sources) if ref.path.is_file()]
    matches = match_names(names, [ref.name for ref in refs])
    return {place: refs[other] for place, other in matches.found.items()}, matches


def recorded_sources(info: Mapping[str, Any]) -> list[str]:
    """The sources that the `info` of a COCO file says it was made from, if they are still there."""
    sources = info.get("images")
    if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources):
        return []
    return sources if all(Path(one).expanduser().exists() for one in sources) else []
