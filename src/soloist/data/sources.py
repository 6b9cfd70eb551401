"""Finding the images a folder, pattern, list or COCO file names."""

from __future__ import annotations

import glob
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soloist.config import DEFAULT_READING, ReadingConfig
from soloist.data.archives import is_archive, unpacked
from soloist.data.kinds import is_image_name, not_read
from soloist.data.places import find_beside
from soloist.data.web import fetch_image, is_address
from soloist.errors import DataError
from soloist.runtime.files import one_line, shown

logger = logging.getLogger(__name__)

Identity = int | str
"""An id as a file from outside has it."""
_MAX_DIGITS = 4000  # Python refuses longer numbers.
MAP_FOLDERS = ("masks", "labels", "label_maps")
"""Folders of label maps, beside `images`."""
_MAX_BITS = 64  # Larger ids do not fit the tables of shards; their images are numbered anew.


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that was found, not yet read.

    Attributes:
        path: Where the file is, or where it was expected.
        name: Path relative to the source, with forward slashes: COCO's `file_name`.
        id: The image's id in the COCO file that names it, else None.
        reading: How it is to be read.
        stated: (height, width) in pixels that the COCO file states.
    """

    path: Path
    name: str
    id: int | None = None
    reading: ReadingConfig = DEFAULT_READING
    stated: tuple[int, int] | None = None


def find_images(
    source: str | Path | Sequence[str | Path],
    reading: ReadingConfig = DEFAULT_READING,
) -> list[ImageRef]:
    """The images a source names, without opening any of them.

    - An image file: that image, whatever its suffix; its name is the file's.
    - A folder: every file below it with an image suffix, in the order of their names; hidden
      files and folders are skipped, links followed. Images of kinds that are not read are counted
      in the log.
    - A glob pattern (`*`, `?`, `[...]`, `**` for folders below): matching files with an image
      suffix; names are relative to the folder before the first wildcard. A path that exists
      is never taken for a pattern.
    - A `.txt` list: one path a line, relative to the list's folder.
    - A COCO `.json`: its images, in its order; annotations are never read. File names are
      looked for in the file's folder, in `images/` and `<stem>/` beside it, in the standard
      layout's `../<stem without instances_>/`, in CVAT's `../images/<that>/`, and in the folder
      above.
    - A `.tar`, `.tar.gz` or `.zip` file: the images in it, unpacked for as long as the process
      runs; so are those of a folder or pattern of such files, the shards of WebDataset.
    - An http or https address: the image there, which is fetched; in lists and COCO files such
      addresses are not.
    - A sequence of those, one after the other; a file found twice is kept once. If two names
      or ids would be equal, names become relative to the files' common folder, or ids None.

    Images a list or COCO file names but nobody has are returned too: they fail one by one
    when they are read.

    Args:
        source: The source or sources.
        reading: How all of them are to be read.

    Returns:
        At least one image; names are unique.

    Raises:
        DataError: If a source does not exist, holds no image, or is a malformed file.
    """
    refs = _find_all(source)
    if reading != ReadingConfig():
        refs = [replace(ref, reading=reading) for ref in refs]
    return refs


def _find_all(source: str | Path | Sequence[str | Path]) -> list[ImageRef]:
    if isinstance(source, (str, Path)):
        return _find_in(source)
    if not source:
        raise DataError("wanted an image, folder, glob pattern, list or COCO file, got none")
    found: dict[Path, ImageRef] = {}
    for one in source:
        for ref in _find_in(one):
            found.setdefault(ref.path, ref)
    refs = told_apart(list(found.values()))
    if len({ref.id for ref in refs}) < len(refs):
        refs = [replace(ref, id=None) for ref in refs]
    return refs


def told_apart(images: list[ImageRef]) -> list[ImageRef]:
    """The images with names that differ: if two are equal, all are relative to a common folder."""
    if len({image.name for image in images}) == len(images):
        return images
    names = _names_below_common_folder([image.path for image in images])
    return [replace(image, name=name) for image, name in zip(images, names, strict=True)]


def spread(images: Sequence[ImageRef], count: int) -> list[ImageRef]:
    """At most `count` of the images, evenly spread over their order."""
    if len(images) <= count:
        return list(images)
    return [images[index * len(images) // count] for index in range(count)]


def _find_in(source: str | Path) -> list[ImageRef]:
    if is_address(source):
        fetched = fetch_image(str(source))
        return [ImageRef(fetched, fetched.name)]
    path = Path(os.path.expanduser(source))
    # These take names of any length, which pathlib refuses.
    if os.path.isdir(path):
        return _find_in_folder(path)
    if os.path.isfile(path):
        suffix = path.suffix.lower()
        if suffix == ".json":
            return _find_in_coco(path)
        if suffix == ".txt":
            return _find_in_list(path)
        if is_archive(path.name):
            return [ImageRef(image, name) for image, name in unpacked(path)]
        return [ImageRef(path, path.name)]
    if glob.has_magic(str(path)):
        return _find_by_pattern(path)
    raise DataError(
        f"wanted an image, folder, glob pattern, list (.txt), COCO file (.json) or https address, "
        f"got {shown(path)}, which does not exist; check the path"
    )


def _find_in_folder(folder: Path) -> list[ImageRef]:
    problems: list[OSError] = []
    seen: set[str] = set()
    names: list[str] = []
    others: list[str] = []
    for root, folders, files in os.walk(folder, onerror=problems.append, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # A link that leads back here.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        # Cutting off the root is far quicker than Path.relative_to for a million files.
        below = Path(root).relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in files:
            if not name.startswith("."):
                (names if is_image_name(name) else others).append(prefix + name)
    for problem in problems:
        logger.warning("skipped folder %s: %s", shown(problem.filename), problem.strerror)
    left_out = not_read(others)
    if not names and (archives := [name for name in others if is_archive(name)]):
        return _find_all([folder / name for name in sorted(archives)])
    if not names:
        reason = left_out or (problems[0].strerror if problems else "")
        reason = f" ({reason})" if reason else ""
        raise DataError(
            f"wanted images, got folder {shown(folder)} with none in it or below{reason}; "
            f"give a folder with files such as .jpg, .png or .tif"
        )
    if left_out:
        logger.warning("folder %s: left out %s", shown(folder), left_out)
    maps = [name for name in names if name.split("/")[0] in MAP_FOLDERS]
    if maps and any(name.startswith("images/") for name in names):
        logger.warning(
            "folder %s: %d of %d images look like label maps (such as %s); give %s, if the others "
            "are meant",
            shown(folder),
            len(maps),
            len(names),
            shown(min(maps)),
            shown(folder / "images"),
        )
    return [ImageRef(folder / name, name) for name in sorted(names)]


def _find_by_pattern(pattern: Path) -> list[ImageRef]:
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    try:
        matches = sorted(glob.glob(str(pattern), recursive=True))
    except ValueError:  # Characters that no file name can hold.
        matches = []
    paths = [Path(match) for match in matches if is_image_name(match) and os.path.isfile(match)]
    archives = [Path(match) for match in matches if is_archive(match) and os.path.isfile(match)]
    if archives:
        return _find_all([*paths, *archives])
    left_out = not_read(Path(match).name for match in matches)
    if not paths:
        raise DataError(
            f"wanted images, got pattern {shown(pattern)} that matches {len(matches)} paths and "
            f"no image among them{f' ({left_out})' if left_out else ''}; check the pattern (** "
            "stands for any folders)"
        )
    if left_out:
        logger.warning("pattern %s: left out %s", shown(pattern), left_out)
    return [ImageRef(path, path.relative_to(root).as_posix()) for path in paths]


def _find_in_list(file: Path) -> list[ImageRef]:
    # Bytes that are no UTF-8 survive as the file system's own way of writing them.
    text = _read_text(file, "a list of images", errors="surrogateescape")
    if "\0" in text:
        raise DataError(
            f"wanted a list with one image path a line, got {shown(file)}, which is not text; "
            "give a plain text file"
        )
    lines = [line.rstrip("\r") for line in text.split("\n")]
    refs = {
        line: ImageRef(file.parent / line, _list_name(file.parent, line)) for line in lines if line
    }
    if not refs:
        raise DataError(
            f"wanted a list with one image path a line, got {shown(file)} without any; "
            "write paths relative to its folder"
        )
    return list(refs.values())


def _list_name(folder: Path, line: str) -> str:
    path = Path(line)
    for base in (folder, folder.absolute()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return path.as_posix()


def _find_in_coco(file: Path) -> list[ImageRef]:
    try:
        content = json.loads(_read_text(file, "a COCO file"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"wanted a COCO file, got {shown(file)}, which is not JSON: {one_line(error)}; "
            "check how it was made"
        ) from error
    records = content.get("images") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise DataError(
            f"wanted a COCO file with a list `images`, got {shown(file)} without one; "
            "give the folder of the images instead"
        )
    names: dict[str, int] = {}
    keys: list[Identity] = []
    sizes: list[tuple[int, int] | None] = []
    for index, record in enumerate(records):
        name = image_name(record) if isinstance(record, dict) else None
        key = identity(record.get("id")) if isinstance(record, dict) else None
        if name is None or "\0" in name or key is None:
            raise DataError(
                f"wanted a string `file_name` and an integer `id` in {shown(file)}, got "
                f"images[{index}] = {_shortened(record)}; correct that entry"
            )
        if name in names:
            raise DataError(
                f"wanted different images in {shown(file)}, got images[{index}] with the "
                f"file_name {shown(name)} again, as images[{names[name]}]; see which of the two "
                "the annotations refer to, and join them"
            )
        names[name] = index
        keys.append(key)
        sizes.append(_stated_size(record))
    paths, matches = find_beside(file, list(names))
    matches.refuse_ambiguous(f"the folder of {shown(file)}")
    if matches.missing or matches.by_ending:
        logger.warning("%s: %s", shown(file), matches.account())
    kept = all(isinstance(key, int) and key.bit_length() < _MAX_BITS for key in keys)
    return [
        ImageRef(path, name, key if kept and isinstance(key, int) else None, stated=size)
        for path, name, key, size in zip(paths, names, keys, sizes, strict=True)
    ]


def _stated_size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width), if an entry has both."""
    height, width = (identity(record.get(key)) for key in ("height", "width"))
    known = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    return (height, width) if known else None  # type: ignore[return-value]  # `known` says so


def _names_below_common_folder(paths: list[Path]) -> list[str]:
    absolute = [path.absolute() for path in paths]
    try:
        common = Path(os.path.commonpath([path.parent for path in absolute]))
    except ValueError:  # Different drives.
        return [path.as_posix() for path in absolute]
    return [path.relative_to(common).as_posix() for path in absolute]


def _read_text(file: Path, wanted: str, errors: str = "strict") -> str:
    try:
        return file.read_text(encoding="utf-8-sig", errors=errors)
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    raise DataError(f"wanted {wanted}, got {shown(file)}, which cannot be read: {reason}")


def _shortened(value: object, length: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def identity(value: Any) -> Identity | None:
    """What an id of a file from outside stands for; None if it is no id.

    Integers of any size, also written as text or as a fraction of zero, are integers; other text
    stays text.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        plain = value.strip()
        # Not 0007, which some tool keeps apart from 7.
        is_number = plain.removeprefix("-").isdecimal() and len(plain) < _MAX_DIGITS
        return int(plain) if is_number and str(int(plain)) == plain else plain or None
    return value if type(value) is int else None


def image_name(record: Mapping[str, Any]) -> str | None:
    """The file of an entry of `images`.

    LVIS names it by the end of `coco_url` alone, COCO Annotator by `path` too.
    """
    name = record.get("file_name")
    if name is None and isinstance(record.get("coco_url"), str):
        name = "/".join(record["coco_url"].split("/")[-2:])
    if name is None:
        name = record.get("path")
    return name if isinstance(name, str) and name else None
