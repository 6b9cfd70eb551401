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
        DataError: If the file has no image, a source does not exist, none of the images is there,
            or a name could mean several.
    """
    refuse_without_images(file)
    names = [image.file_name for image in file.images]
    if sources:
        found, matches = named_images(names, sources)
        paths = {place: ref.path for place, ref in found.items()}
        where = ", ".join(shown(one) for one in sources)
    else:
        expected, matches = locate(file.path, names, file.info)
        paths = {place: expected[place] for place in matches.found}
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


def refuse_without_images(file: CocoFile) -> None:
    """Ends where a file lists no image.

    Raises:
        DataError: If it does not.
    """
    if not file.images:
        raise DataError(
            f"wanted a COCO file with images, got {shown(file.path)}, whose `images` are none; "
            "check how it was made"
        )


def locate(
    file: Path, names: Sequence[str], info: Mapping[str, Any]
) -> tuple[list[Path], NameMatches]:
    """The images of a COCO file, if nobody says where: those it was made from, else beside it.

    Args:
        file: The file.
        names: As it names them.
        info: What it says of itself.

    Returns:
        paths: Where each is, or was expected.
        matches: The account.
    """
    sources = _recorded(info)
    try:
        found, matches = named_images(names, sources) if sources else ({}, None)
    except DataError as error:  # No image is there any more.
        logger.debug("%s: %s", shown(file), error)
        found, matches = {}, None
    if not found or matches is None:
        return find_beside(file, names)
    paths = [
        found[place].path if place in found else Path(sources[0]) / name
        for place, name in enumerate(names)
    ]
    return paths, matches


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
    matches = match_names(names, [ref.name for ref in refs], of_files=True)
    return {place: refs[other] for place, other in matches.found.items()}, matches


def _recorded(info: Mapping[str, Any]) -> list[str]:
    """The sources a file was made from, if they are still there."""
    sources = info.get("images")
    if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources):
        return []
    return sources if all(Path(one).expanduser().exists() for one in sources) else []
