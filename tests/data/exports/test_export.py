"""The folder of an export: whole files, going on after a kill, refusing what is not its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.data.exports.inputs import COPY, EMPTY, PLAIN, KilledAt, WriteHard

from soloist.data.exports import label_studio, yolo
from soloist.data.exports.export import SUMMARY, ExportSummary, export
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
    with pytest.raises(RunError, match=r"holds an export; add --overwrite"):
        write(source, out)
    assert content(out) == before
    write(source, out, "labelme", overwrite=True)
    assert (out / "a.json").is_file()
    assert not (out / "data.yaml").exists()
    # Links were removed, not what they led to.
    assert all((tmp_path / "photos" / name).is_file() for name in (PLAIN, EMPTY, COPY))


def test_an_unfinished_export_of_other_options_or_another_file_is_not_gone_on_with(
    write_hard: WriteHard, tmp_path: Path, killed_at: KilledAt
) -> None:
    source, out = write_hard(), tmp_path / "out"
    with killed_at(yolo, "write_text", 2):
        write(source, out)
    with pytest.raises(RunError, match="an unfinished export of other settings; add --overwrite"):
        write(source, out, min_score=0.5)
    state = source.stat()
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    with pytest.raises(RunError, match="other settings"):
        write(source, out)
    assert write(source, out, overwrite=True).masks == 15


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
