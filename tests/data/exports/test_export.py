"""The folder of an export: whole files, resuming after a kill, refusing what is not its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.data.exports.inputs import COPY, EMPTY, PLAIN, KilledAt, WriteHard

from soloist.data.exports import label_studio, yolo
from soloist.data.exports.export import SUMMARY, ExportSummary, export
from soloist.data.exports.formats import EXPORT_FORMATS
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import read_source
from soloist.errors import DataError, RunError, StoppedError
from soloist.runtime import stopping


def write(source: Path, out: Path, name: FormatName = "yolo", **more: Any) -> ExportSummary:
    overwrite = more.pop("overwrite", False)
    file, paths = read_source(source)
    return export(file, paths, out, name, ExportOptions(**more), overwrite=overwrite)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "module", "function", "made"),
    [
        pytest.param("yolo", yolo, "write_text", "labels/a.txt", id="a-file-an-image"),
        pytest.param("label-studio", label_studio, "_task", ".soloist-export.json", id="one-file"),
    ],
)
def test_a_killed_export_starts_over(
    write_hard: WriteHard,
    tmp_path: Path,
    killed_at: KilledAt,
    name: FormatName,
    module: Any,
    function: str,
    made: str,
) -> None:
    source, out = write_hard(), tmp_path / "out"
    whole = write(source, tmp_path / "whole", name)
    with killed_at(module, function, 3):
        write(source, out, name)
    assert made in content(out)
    assert write(source, out, name) == whole
    assert content(out) == content(tmp_path / "whole")


def test_leftovers_of_a_kill_are_removed(
    write_hard: WriteHard, tmp_path: Path, killed_at: KilledAt
) -> None:
    source, out = write_hard(), tmp_path / "out"
    with killed_at(yolo, "write_text", 3):
        write(source, out)
    leftover = out / "labels" / f".a.{'0' * 16}.txt"
    leftover.write_text("half")
    write(source, out)
    assert not leftover.exists()


def test_a_signal_stops_between_images(
    write_hard: WriteHard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_hard(), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "_noted", ["SIGTERM"])
        with pytest.raises(StoppedError, match="stopped by SIGTERM"):
            write(source, out)
    assert write(source, out).images == 3


def test_a_finished_export_is_replaced_on_demand_alone(
    write_hard: WriteHard, tmp_path: Path
) -> None:
    source, out = write_hard(), tmp_path / "out"
    write(source, out)
    record = json.loads((out / SUMMARY).read_text())
    assert (record["format"], record["masks"], record["notes"]["NO_SCORE"]) == ("yolo", 15, 15)
    before = content(out)
    again = write(source, out)
    assert again.changes is not None
    assert not again.changes
    assert (again.images, again.masks, again.failed) == (3, 15, 0)
    assert content(out) == before
    message = "holds a finished export of other settings; add --overwrite"
    with pytest.raises(RunError, match=message):
        write(source, out, min_score=0.5)
    with pytest.raises(RunError, match=message):
        write(source, out, "labelme")
    assert content(out) == before
    write(source, out, "labelme", overwrite=True)
    assert (out / "a.json").is_file()
    assert not (out / "data.yaml").exists()
    # Links were removed, not what they led to.
    assert all((tmp_path / "photos" / name).is_file() for name in (PLAIN, EMPTY, COPY))


def test_an_unfinished_export_of_other_options_is_not_gone_on_with(
    write_hard: WriteHard, tmp_path: Path, killed_at: KilledAt
) -> None:
    source, out = write_hard(), tmp_path / "out"
    with killed_at(yolo, "write_text", 2):
        write(source, out)
    with pytest.raises(RunError, match="an unfinished export of other settings; add --overwrite"):
        write(source, out, min_score=0.5)
    assert write(source, out, min_score=0.5, overwrite=True).masks == 15


def grow(source: Path, *, first: bool) -> None:
    """One more image, before or after the others, with a mask; ids are given anew."""
    made = json.loads(source.read_text())
    image = {**made["images"][0], "id": 99, "file_name": "0 new.png" if first else "z new.png"}
    mask = {**made["annotations"][0], "image_id": 99}
    made["images"].insert(0 if first else 3, image)
    made["annotations"].insert(0 if first else len(made["annotations"]), mask)
    for number, one in enumerate(made["annotations"], start=500):
        one["id"] = number
    source.write_text(json.dumps(made))
    photos = source.parent / "photos"
    (photos / image["file_name"]).write_bytes((photos / PLAIN).read_bytes())


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", [one for one in EXPORT_FORMATS if one != "overlays"])
def test_new_images_are_added_and_the_rest_is_kept(
    write_hard: WriteHard, tmp_path: Path, name: FormatName, first: bool
) -> None:
    source, out = write_hard(), tmp_path / "out"
    write(source, out, name)
    grow(source, first=first)
    known = EXPORT_FORMATS[name]
    label = out / known.label(Path(PLAIN)) if known.label else None
    if label is not None:
        label.write_bytes(label.read_bytes() + b" ")  # What somebody corrected.
    before = {} if label is None else {label: label.read_bytes()}
    added = write(source, out, name)
    assert str(added.changes) == f"1 new (such as '{'0' if first else 'z'} new.png')"
    assert {path: path.read_bytes() for path in before} == before
    if label is not None:
        label.write_bytes(label.read_bytes()[:-1])
    write(source, tmp_path / "whole", name)
    theirs = {key: value for key, value in content(tmp_path / "whole").items() if key != SUMMARY}
    ours = {key: value for key, value in content(out).items() if key != SUMMARY}
    assert ours.keys() == theirs.keys()
    if name in ("labelme", "geojson", "imagej", "qupath"):  # Numbers of objects are those of then.
        return
    assert ours == theirs
    assert not write(source, out, name).changes


def test_changed_and_vanished_images_are_reported(write_hard: WriteHard, tmp_path: Path) -> None:
    source, out = write_hard(), tmp_path / "out"
    write(source, out)
    made = json.loads(source.read_text())
    made["images"] = made["images"][:2]
    gone = {one["id"] for one in made["annotations"] if one["image_id"] == 3}
    made["annotations"] = [one for one in made["annotations"] if one["id"] not in gone][1:]
    source.write_text(json.dumps(made))
    kept = (out / "labels" / COPY).with_suffix(".txt").read_bytes()
    message = f"1 changed (such as '{PLAIN}'), 1 vanished (such as '{COPY}')"
    assert str(write(source, out).changes) == message
    assert len((out / "labels/a.txt").read_text().splitlines()) == 12
    assert (out / "labels" / COPY).with_suffix(".txt").read_bytes() == kept


@pytest.mark.parametrize("name", ["yolo", "labelme", "via"])
def test_what_somebody_changed_is_not_written_over(
    write_hard: WriteHard, tmp_path: Path, name: FormatName
) -> None:
    source, out = write_hard(), tmp_path / "out"
    write(source, out, name)
    known = EXPORT_FORMATS[name]
    place = known.label(Path(PLAIN)) if known.label and name == "labelme" else known.shared[0]
    file = out / place
    text = file.read_text() + "\n"
    file.write_text(text)
    later = (out / SUMMARY).stat().st_mtime_ns + 10**6
    os.utime(file, ns=(later, later))
    assert not write(source, out, name).changes
    made = json.loads(source.read_text())
    del made["annotations"][0]
    source.write_text(json.dumps(made))
    with pytest.raises(RunError, match="was changed since the export and would have to be"):
        write(source, out, name)
    assert file.read_text() == text
    assert write(source, out, name, overwrite=True).changes is None


def test_labels_that_somebody_made_are_not_written_over(
    write_hard: WriteHard, tmp_path: Path
) -> None:
    source, out = write_hard(), tmp_path / "out"
    write(source, out, "labelme")
    (out / "z new.json").write_text("by hand")
    grow(source, first=False)
    with pytest.raises(RunError, match="was changed since"):
        write(source, out, "labelme")
    assert (out / "z new.json").read_text() == "by hand"


def test_a_killed_addition_is_done_again(
    write_hard: WriteHard, tmp_path: Path, killed_at: KilledAt
) -> None:
    source, out = write_hard(), tmp_path / "out"
    write(source, out)
    grow(source, first=False)
    with killed_at(yolo, "write_text", 2):  # The label is there, the table is not.
        write(source, out)
    assert (out / "labels/z new.txt").is_file()
    assert write(source, out).images == 4
    write(source, tmp_path / "whole")
    assert content(out).keys() == content(tmp_path / "whole").keys()
    assert not write(source, out).changes


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(
    write_hard: WriteHard, tmp_path: Path, overwrite: bool
) -> None:
    source = write_hard()
    with pytest.raises(RunError, match="files that are no export"):
        write(source, tmp_path / "photos", "labelme", overwrite=overwrite)
    with pytest.raises(RunError, match="must be a folder"):
        write(source, source, overwrite=overwrite)
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == [
        "Straße", "a.png", "no masks.png",
    ]  # fmt: skip


def test_a_file_without_images_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "none.json"
    source.write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match="wanted a COCO file with images"):
        write(source, tmp_path / "out", "coco")


def test_a_file_without_masks_gives_empty_labels(tmp_path: Path) -> None:
    source = tmp_path / "none.json"
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}
    source.write_text(json.dumps({"images": [image], "annotations": []}))
    for name in ("coco", "yolo", "label-studio", "labelme", "label-maps"):
        assert write(source, tmp_path / name, name).masks == 0
    assert (tmp_path / "yolo" / "labels" / "a.txt").read_text() == ""
    assert (tmp_path / "label-maps" / "masks" / "a.png").is_file()
