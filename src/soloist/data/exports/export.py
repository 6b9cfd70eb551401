"""Writing masks in a format, image by image; a killed export starts over with the same command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soloist.data.coco.types import CocoFile
from soloist.data.datasets.image_paths import refuse_without_images
from soloist.data.exports.formats import EXPORT_FORMATS
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import choose, places
from soloist.data.exports.target import Note, Picture, Target
from soloist.errors import ConfigError, DataError, RunError
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.files import (
    cannot_write,
    plain_json,
    shown,
    write_json,
)
from soloist.runtime.progress import track
from soloist.runtime.stopping import stop_if_asked

SUMMARY, ERRORS = "soloist-export.json", "errors.jsonl"
_BEGUN = ".soloist-export.json"


@dataclass(frozen=True)
class ExportSummary:
    """What an export gave.

    Attributes:
        images: Images it has.
        masks: Masks it has.
        notes: What was left out or changed, and how often.
        failed: Images that could not be read.
        min_score: Masks of a lower score were left out.
    """

    images: int
    masks: int
    notes: Mapping[Note, int]
    failed: int
    min_score: float


def export(
    file: CocoFile,
    paths: Mapping[int, Path],
    folder: Path,
    format: FormatName,
    options: ExportOptions = ExportOptions(),  # noqa: B008  # immutable
    *,
    overwrite: bool = False,
) -> ExportSummary:
    """Writes the masks of a COCO file in another tool's format.

    Args:
        file: The masks.
        paths: Where the images are by their ids, as far as they are needed.
        folder: Where to; it must not hold anything else.
        format: One of `EXPORT_FORMATS`.
        options: Which masks, and how.
        overwrite: Throw away a finished export, or one of other options.

    Raises:
        ConfigError: If the format does not know an option.
        DataError: If there is no image, or images are needed and none was found.
        RunError: If the folder holds something else, or cannot be written.
        StoppedError: If the process was asked to stop; the same call starts over.
    """
    known = EXPORT_FORMATS[format]
    check_options(format, options)
    if options.min_score is None:
        options = replace(options, min_score=file.recommended_score)
    refuse_without_images(file)
    if known.needs_images and not paths:
        raise DataError(
            f"wanted the images of {shown(file.path)} for {format}, found none of them; add "
            "--images FOLDER"
        )
    chosen, notes = choose(file, options, crowds=known.holds_crowds)
    places_by_id, notes[Note.RENAMED] = places(file.images)
    settings = _settings(file, format, options)
    try:
        _open(folder, settings, overwrite=overwrite)
    except OSError as error:
        raise cannot_write(folder, error) from error
    target = Target(
        folder=folder,
        file=chosen,
        places=places_by_id,
        options=options,
        segmentation=options.segmentation or known.segmentations[0],
        images=options.with_images or known.images[0],
        scored=any(one.score != 1 for several in file.annotations.values() for one in several),
        errors=ErrorLog(folder / ERRORS),
    )
    known.write(target, _pictures(target, paths, format))
    notes += target.notes
    summary = ExportSummary(
        len(file.images), len(chosen), notes, target.errors.count, options.min_score or 0.0
    )
    counts = {"images": summary.images, "masks": summary.masks}
    told = {note.name: count for note, count in notes.items() if count}
    write_json(folder / SUMMARY, {**settings, **counts, "notes": told}, indent=2)
    (folder / _BEGUN).unlink(missing_ok=True)
    return summary


def check_options(format: FormatName, options: ExportOptions) -> None:
    """Checks that a format knows what is asked of it.

    Raises:
        ConfigError: If it does not.
    """
    known = EXPORT_FORMATS[format]
    if options.tolerance != ExportOptions().tolerance:
        asked = options.segmentation or known.segmentations[0]
        if asked != "polygon":
            raise ConfigError(f"--tolerance is for polygons, {format} has masks here; leave it out")
    if options.image_url != ExportOptions().image_url and not known.has_addresses:
        raise ConfigError(f"--image-url is for label-studio, got {format}; leave it out")
    for name, value, possible in (
        ("--segmentation", options.segmentation, known.segmentations),
        ("--with-images", options.with_images, known.images),
    ):
        if value is not None and value not in possible:
            raise ConfigError(
                f"{name} of {format} can be {' or '.join(possible)}, got {value}; leave it out"
            )


def _settings(file: CocoFile, format: FormatName, options: ExportOptions) -> dict[str, Any]:
    state = file.path.stat()
    source = [str(file.path.absolute()), state.st_size, state.st_mtime_ns]
    return plain_json({"source": source, "format": format, "options": asdict(options)})


def _pictures(target: Target, paths: Mapping[int, Path], title: str) -> Iterator[Picture]:
    """The images, each done once the next is asked for."""
    images = target.file.images
    with track(title, len(images)) as tracker:
        for image in images:
            stop_if_asked()
            yield Picture(
                image,
                paths.get(image.id),
                target.places[image.id],
                target.file.annotations[image.id],
            )
            tracker.advance()


def _open(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Makes the folder of an export, which says from what until the export is finished."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--out must be a folder, {shown(folder)} is a file; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / _BEGUN
    finished = (folder / SUMMARY).is_file()
    if finished or begun.is_file():
        ours = not finished and json.loads(begun.read_text(encoding="utf-8")) == settings
        if not ours and not overwrite:
            what = "an export" if finished else "an unfinished export of other settings"
            raise RunError(
                f"{shown(folder)} holds {what}; add --overwrite to replace it, or choose "
                "another --out"
            )
        shutil.rmtree(folder)
    elif any(folder.iterdir()):
        raise RunError(f"{shown(folder)} holds files that are no export; choose another --out")
    write_json(begun, settings)
