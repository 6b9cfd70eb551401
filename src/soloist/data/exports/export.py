"""Writing masks in a format, image by image; a killed export starts over with the same command."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soloist.data.coco.types import CocoFile
from soloist.data.datasets.image_paths import refuse_without_images
from soloist.data.exports.formats import EXPORT_FORMATS, ExportFormat
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import choose, places
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.data.inputs import Changes, state_of
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
        notes: What was left out or changed in what was written now, and how often.
        failed: Images that could not be read.
        min_score: Masks of a lower score were left out.
        changes: Of an export that was finished before: how its images and their masks differ from
            those of then; nothing was written if they do not. None for a new export.
    """

    images: int
    masks: int
    notes: Mapping[Note, int]
    failed: int
    min_score: float
    changes: Changes | None = None


def export(
    file: CocoFile,
    paths: Mapping[int, Path],
    folder: Path,
    format: FormatName,
    options: ExportOptions = ExportOptions(),
    *,
    overwrite: bool = False,
) -> ExportSummary:
    """Writes the masks of a COCO file in another tool's format.

    A finished export of the same file and options gets what is new or has changed, and keeps what
    people may have corrected.

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
        RunError: If the folder holds something else, cannot be written, or what would have to be
            written anew was changed since.
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
    images = options.with_images or known.images[0]
    reads_images = images != "none" or known.needs_images or known.measures_images
    inputs = _inputs(chosen, places_by_id, paths if reads_images else {})
    only: set[str] | None = None
    changes: Changes | None = None
    try:
        before = _begin(folder, settings, overwrite=overwrite)
        if before is not None:
            changes = _changes(before, inputs)
            if not changes:
                return _summary_of(before, changes)
            written = {*changes.new, *changes.changed}
            _check_untouched(folder, known, before, inputs, written)
            only = None if known.label is None else written
            (folder / ERRORS).unlink(missing_ok=True)
            write_json(folder / _BEGUN, {**settings, "written": sorted(written)})
    except OSError as error:
        raise cannot_write(folder, error) from error
    target = Target(
        folder=folder,
        file=chosen,
        places=places_by_id,
        options=options,
        segmentation=options.segmentation or known.segmentations[0],
        images=images,
        scored=any(one.score != 1 for several in file.annotations.values() for one in several),
        errors=ErrorLog(folder / ERRORS),
    )
    known.write(target, _labelled_images(target, paths, format, only))
    notes += target.notes
    summary = ExportSummary(
        len(file.images),
        len(chosen),
        notes,
        target.errors.count,
        options.min_score or 0.0,
        changes,
    )
    counts = {"images": summary.images, "masks": summary.masks, "failed": summary.failed}
    counted = {note.name: count for note, count in notes.items() if count}
    record = {**settings, **counts, "notes": counted, "inputs": inputs}
    # After all else: what is later was changed by somebody.
    write_json(folder / SUMMARY, record, indent=2)
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
    source = str(file.path.absolute())
    return plain_json({"source": source, "format": format, "options": asdict(options)})


def _inputs(
    file: CocoFile, places_by_id: Mapping[int, Path], paths: Mapping[int, Path]
) -> dict[str, list[str]]:
    """Where the labels of each image go, and what tells them from others; by its name.

    Ids are left out: these may be others each time a file is made.

    Args:
        file: All that is written.
        places_by_id: As in `Target`.
        paths: Of images that are put into the folder.
    """
    inputs = {}
    for image in file.images:
        objects = [
            (one.rle["counts"], one.score, file.categories[one.category_id], one.iscrowd)
            for one in file.annotations[image.id]
        ]
        state = state_of(paths[image.id]) if image.id in paths else None
        facts = json.dumps([image.height, image.width, state, objects])
        digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
        inputs[image.file_name] = [places_by_id[image.id].as_posix(), digest]
    return inputs


def _labelled_images(
    target: Target, paths: Mapping[int, Path], title: str, only: set[str] | None
) -> Iterator[LabelledImage]:
    """The images, or some of them by their names, each done once the next is asked for."""
    images = [one for one in target.file.images if only is None or one.file_name in only]
    with track(title, len(images)) as tracker:
        for image in images:
            stop_if_asked()
            yield LabelledImage(
                image,
                paths.get(image.id),
                target.places[image.id],
                target.file.annotations[image.id],
            )
            tracker.advance()


def _begin(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """Makes the folder of an export, which says from what until the export is finished.

    Returns:
        The summary of a finished export with the same settings, which stays; None for a new one.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--out must be a folder, {shown(folder)} is a file; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / _BEGUN
    finished = (folder / SUMMARY).is_file()
    if finished or begun.is_file():
        record = json.loads((folder / (SUMMARY if finished else _BEGUN)).read_text("utf-8"))
        same = settings.items() <= record.items() and (not finished or "inputs" in record)
        if not same and not overwrite:
            what = "a finished" if finished else "an unfinished"
            raise RunError(
                f"{shown(folder)} holds {what} export of other settings; add --overwrite to "
                "replace it, or choose another --out"
            )
        if finished and same and not overwrite:
            addition = json.loads(begun.read_text("utf-8")) if begun.is_file() else {}
            time = (folder / SUMMARY).stat().st_mtime_ns
            return {**record, "written": addition.get("written", []), "time": time}
        shutil.rmtree(folder)
    elif any(folder.iterdir()):
        raise RunError(f"{shown(folder)} holds files that are no export; choose another --out")
    write_json(begun, settings)
    return None


def _changes(before: Mapping[str, Any], inputs: Mapping[str, Sequence[str]]) -> Changes:
    known: Mapping[str, Sequence[str]] = before["inputs"]
    # What an addition that was killed wrote may be half of it.
    return Changes(
        new=[name for name in inputs if name not in known],
        changed=[
            name
            for name, facts in inputs.items()
            if name in known and (known[name] != facts or name in before["written"])
        ],
        vanished=[name for name in known if name not in inputs],
    )


def _check_untouched(
    folder: Path,
    known: ExportFormat,
    before: Mapping[str, Any],
    inputs: Mapping[str, Sequence[str]],
    written: set[str],
) -> None:
    """Checks that nobody changed what is to be written anew.

    Raises:
        RunError: If somebody did, or labels of an image would have another name now.
    """
    touched = [file for file in known.shared if _is_later(folder / file, before["time"])]
    for name in written if known.label is not None else ():
        facts = before["inputs"].get(name)
        if facts is not None and facts[0] != inputs[name][0]:
            raise RunError(
                f"{shown(folder)} has labels of {shown(name)} that would be called otherwise now, "
                "since names differ in the suffix alone; add --overwrite to write all anew"
            )
        assert known.label is not None
        file = known.label(Path(inputs[name][0]))
        is_ours = name in before["written"]
        is_foreign = facts is None and (folder / file).exists()
        if not is_ours and (is_foreign or _is_later(folder / file, before["time"])):
            touched.append(file)
    if touched and not before["written"]:
        raise RunError(
            f"{shown(folder / touched[0])} was changed since the export and would have to be "
            f"written anew ({len(touched)} such files); keep the folder and choose another --out, "
            "or add --overwrite to throw it away"
        )


def _is_later(file: Path, time: int) -> bool:
    return file.is_file() and file.stat().st_mtime_ns > time


def _summary_of(record: Mapping[str, Any], changes: Changes) -> ExportSummary:
    return ExportSummary(
        record["images"],
        record["masks"],
        {Note[name]: count for name, count in record["notes"].items()},
        record["failed"],
        record["options"]["min_score"] or 0.0,
        changes,
    )
