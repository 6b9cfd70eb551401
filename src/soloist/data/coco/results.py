"""COCO's bare result lists, which name images by id alone, or by what a tool took for one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from soloist.data.coco.entries import mapping, read_annotation_entry
from soloist.data.coco.faults import Fault, OddEntryError, Report
from soloist.data.coco.objects import read_segmentation
from soloist.data.coco.types import CATEGORIES, CocoAnnotation, CocoFile, CocoImage
from soloist.data.names import match_names
from soloist.data.sources import Identity, identity
from soloist.errors import DataError
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)

_Places = list[tuple[int, Any, CocoImage]]
"""Entries with their places in the list and their images."""


def read_results(
    path: Path,
    records: Sequence[Any],
    images: Sequence[CocoImage] | None,
    report: Report,
    *,
    need_masks: bool,
) -> CocoFile:
    """A result list.

    Entries that name a file belong to the image of that name, whatever their ids are. Others are
    matched by id; where these are not all known, but all are those of file names without suffix,
    as ultralytics writes them, by that.

    Args:
        path: The file.
        records: What it holds.
        images: The images it refers to; None takes them from its run lengths.
        report: Receives what is wrong with single entries, which are left out.
        need_masks: Leave out entries with a box alone.

    Raises:
        DataError: If there is no telling which images it refers to.
    """
    keyed = _keyed(path, records, report)
    placed = (
        _own_images(path, keyed, report) if images is None else _placed(path, keyed, images, report)
    )
    grouped: dict[int, list[CocoAnnotation]] = {}
    found: dict[int, CocoImage] = {} if images is None else {one.id: one for one in images}
    for index, record, image in placed:
        found.setdefault(image.id, image)
        own = grouped.setdefault(image.id, [])
        where = f"annotations[{index}] of {shown(path)}"
        try:
            own.append(
                read_annotation_entry(
                    record, image, index, where, need_masks=need_masks, report=report
                )
            )
        except OddEntryError as error:
            report(error.fault, str(error))
    return CocoFile(
        path=path,
        images=tuple(found.values()),
        annotations={key: tuple(grouped.get(key, ())) for key in found},
        categories=CATEGORIES,
        embeddings=None,
        bare=True,
    )


def _keyed(
    path: Path, records: Sequence[Any], report: Report
) -> list[tuple[int, dict[str, Any], Identity]]:
    """Entries with their places and image ids."""
    keyed = []
    for index, record in enumerate(records):
        where = f"annotations[{index}] of {shown(path)}"
        try:
            fields = mapping(record, where)
        except DataError as error:
            report(Fault.BROKEN_ENTRY, str(error))
            continue
        key = identity(fields.get("image_id"))
        if key is None and not isinstance(fields.get("file_name"), str):
            got = fields.get("image_id")
            report(Fault.BROKEN_ENTRY, f"{where}: wanted an id under image_id, got {got!r:.60}")
            continue
        keyed.append((index, fields, "" if key is None else key))
    return keyed


def _own_images(
    path: Path, keyed: Sequence[tuple[int, dict[str, Any], Identity]], report: Report
) -> _Places:
    """Images as the run lengths of their first mask have them."""
    images: dict[Identity, CocoImage] = {}
    placed: _Places = []
    for index, record, key in keyed:
        where = f"[{index}] of {shown(path)}"
        if key not in images:
            try:
                rle = read_segmentation(record, None, where, report)
            except OddEntryError as error:
                report(error.fault, str(error))
                continue
            if rle is None:
                report(Fault.BOX_ALONE, where)
                continue
            number = key if isinstance(key, int) else -1 - len(images)
            images[key] = CocoImage(number, "", *rle["size"])
        placed.append((index, record, images[key]))
    return placed


def _placed(
    path: Path,
    keyed: Sequence[tuple[int, dict[str, Any], Identity]],
    images: Sequence[CocoImage],
    report: Report,
) -> _Places:
    by_name = _by_name(path, keyed, images)
    unnamed = [key for _, record, key in keyed if record.get("file_name") not in by_name]
    by_id = _by_id(path, list(dict.fromkeys(unnamed)), images) if unnamed else {}
    placed: _Places = []
    for index, record, key in keyed:
        name = record.get("file_name")
        image = by_name[name] if name in by_name else by_id.get(key)
        if image is None:
            where = f"annotations[{index}] of {shown(path)}"
            report(Fault.ORPHAN, f"{where}: {f'image_id {key!r}' if name is None else shown(name)}")
            continue
        placed.append((index, record, image))
    return placed


def _by_name(
    path: Path,
    keyed: Sequence[tuple[int, dict[str, Any], Identity]],
    images: Sequence[CocoImage],
) -> dict[object, CocoImage | None]:
    """Images by the names in the list; None for those that the images have not."""
    names = list(
        dict.fromkeys(
            name for _, record, _ in keyed if isinstance(name := record.get("file_name"), str)
        )
    )
    if not names:
        return {}
    matches = match_names(names, [image.file_name for image in images], any_suffix=True)
    matches.refuse_ambiguous(shown(path))
    logger.info("%s, by their file names: %s", shown(path), matches.account())
    if not matches.found:
        raise DataError(
            f"wanted results on images such as {shown(images[0].file_name)}, got {shown(path)} "
            f"with file_name {shown(names[0])} and none of the others{matches.hint()}; check that "
            "the two belong together"
        )
    return {
        name: images[matches.found[place]] if place in matches.found else None
        for place, name in enumerate(names)
    }


def _by_id(
    path: Path, keys: Sequence[Identity], images: Sequence[CocoImage]
) -> Mapping[Identity, CocoImage]:
    """Images by the ids in the list.

    Raises:
        DataError: If most of them are no image's.
    """
    ids: dict[Identity, CocoImage] = {
        image.id if image.source_id is None else image.source_id: image for image in images
    }
    stems = _stems(images)
    named = {key: stems[key] for key in keys if key in stems}
    known = {key: ids[key] for key in keys if key in ids}
    if len(named) == len(keys):
        if len(known) < len(keys):
            logger.warning(
                "%s: image ids are those of file names, such as %r of %s: matched by these",
                shown(path),
                keys[0],
                shown(named[keys[0]].file_name),
            )
            return named
        other = next((key for key in keys if named[key] is not known[key]), None)
        if other is not None:
            logger.warning(
                "%s names no files: image ids are taken for those of the ground truth, where %r "
                "is %s; as numbers of file names they would be other images, such as %s",
                shown(path),
                other,
                shown(known[other].file_name),
                shown(named[other].file_name),
            )
    if 2 * len(known) < len(keys):
        stray = next(key for key in keys if key not in ids)
        raise DataError(
            f"wanted results on the {len(images)} images, got {shown(path)}, where {len(known)} of "
            f"{len(keys)} image ids are one of theirs, and image_id {stray!r} is not; check that "
            "the two belong together"
        )
    return known


def _stems(images: Sequence[CocoImage]) -> dict[Identity, CocoImage]:
    """Images by their file names without folders and suffix, as text and as numbers.

    Those that two images share are left out.
    """
    found: dict[Identity, CocoImage] = {}
    twice: set[Identity] = set()
    for image in images:
        stem = PurePosixPath(image.file_name.replace("\\", "/")).stem
        keys: set[Identity] = {stem} if stem else set()
        if stem.isdecimal() and len(stem) < 20:
            keys.add(int(stem))
        for key in keys:
            if key in found:
                twice.add(key)
            found[key] = image
    return {key: image for key, image in found.items() if key not in twice}
