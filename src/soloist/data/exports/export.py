"""Writing masks in a format, image by image; resumed by the same command."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soloist.data.coco.types import CocoFile
from soloist.data.exports.formats import EXPORT_FORMATS, ExportFormat
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import choose, places
from soloist.data.exports.target import Note, Picture, Target
from soloist.errors import ConfigError, DataError, RunError
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.files import (
    appending,
    cannot_write,
    plain_json,
    remove_leftovers,
    shown,
    write_json,
    write_text,
)
from soloist.runtime.progress import track
from soloist.runtime.stopping import stop_if_asked

SUMMARY, ERRORS = "soloist-export.json", "errors.jsonl"
_JOURNAL = ".soloist-export.jsonl"


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
        StoppedError: If the process was asked to stop; what is finished is kept.
    """
    known = EXPORT_FORMATS[format]
    check_options(format, options)
    if options.min_score is None:
        options = replace(options, min_score=file.recommended_score)
    if known.needs_images and not paths:
        raise DataError(
            f"wanted the images of {shown(file.path)} for {format}, found none of them; add "
            "--images FOLDER"
        )
    if not file.images:
        raise DataError(f"wanted a COCO file with images, got {shown(file.path)} without any")
    chosen, notes = choose(file, options, crowds=known.holds_crowds)
    places_by_id, notes[Note.RENAMED] = places(file.images)
    journal = _Journal(folder, _settings(file, format, options), overwrite=overwrite)
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
    if known.file_each:
        target.notes = journal.notes()
    known.write(target, _pictures(target, paths, journal, known, format))
    notes += target.notes
    summary = ExportSummary(
        len(file.images), len(chosen), notes, target.errors.count, options.min_score or 0.0
    )
    journal.finish(summary)
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


def _pictures(
    target: Target,
    paths: Mapping[int, Path],
    journal: _Journal,
    known: ExportFormat,
    title: str,
) -> Iterator[Picture]:
    """The images that are left, each noted as done once the next is asked for."""
    images = target.file.images
    done = journal.done if known.file_each else frozenset[int]()
    with track(title, len(images), done=len(done)) as tracker:
        for image in images:
            if image.id in done:
                continue
            stop_if_asked()
            yield Picture(
                image,
                paths.get(image.id),
                target.places[image.id],
                target.file.annotations[image.id],
            )
            if known.file_each:
                journal.add(image.id, target.notes)
            tracker.advance()


class _Journal:
    """What an export has done so far, in its folder, so that a kill loses none of it.

    Args:
        folder: The export's.
        settings: What it depends on.
        overwrite: Throw away what is of other settings, or finished.

    Raises:
        RunError: If the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        self._folder = folder
        self._path = folder / _JOURNAL
        self._settings = settings
        self._entries: list[list[Any]] = []
        try:
            self._open(overwrite)
        except OSError as error:
            raise cannot_write(folder, error) from error

    @property
    def done(self) -> frozenset[int]:
        """Ids of the images that are finished."""
        return frozenset(image_id for image_id, _ in self._entries)

    def notes(self) -> Counter[Note]:
        """The notes so far."""
        last = self._entries[-1][1] if self._entries else {}
        return Counter({Note[name]: count for name, count in last.items()})

    def add(self, image_id: int, notes: Mapping[Note, int]) -> None:
        """Notes an image as done."""
        line = json.dumps([image_id, _plain(notes)])
        with appending(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def finish(self, summary: ExportSummary) -> None:
        """Closes the export: what it was made of stays in its folder."""
        counts = {"images": summary.images, "masks": summary.masks}
        content = {**self._settings, **counts, "notes": _plain(summary.notes)}
        write_json(self._folder / SUMMARY, content, indent=2)
        self._path.unlink(missing_ok=True)

    def _open(self, overwrite: bool) -> None:
        folder = self._folder
        if folder.exists() and not folder.is_dir():
            raise RunError(f"--out must be a folder, {shown(folder)} is a file; choose another")
        folder.mkdir(parents=True, exist_ok=True)
        finished = (folder / SUMMARY).is_file()
        if finished or self._path.is_file():
            if not finished and self._resume():
                remove_leftovers(folder)
                return
            if not overwrite:
                what = "an export" if finished else "an unfinished export of other settings"
                raise RunError(
                    f"{shown(folder)} holds {what}; add --overwrite to replace it, or choose "
                    "another --out"
                )
            shutil.rmtree(folder)
        elif any(folder.iterdir()):
            raise RunError(f"{shown(folder)} holds files that are no export; choose another --out")
        write_text(self._path, json.dumps(self._settings) + "\n")

    def _resume(self) -> bool:
        """Reads what an export of the same settings left; False if it is of others."""
        lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]  # A cut line goes.
        if not lines or json.loads(lines[0]) != self._settings:
            return False
        self._entries = [json.loads(line) for line in lines[1:]]
        write_text(self._path, "".join(f"{line}\n" for line in lines))
        return True


def _plain(notes: Mapping[Note, int]) -> dict[str, int]:
    return {note.name: count for note, count in notes.items() if count}
