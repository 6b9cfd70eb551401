from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soloist.data.coco.read import load_coco
from soloist.data.coco.shards import ShardFolder
from soloist.data.coco.types import CATEGORIES
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError, DataError, RunError, StoppedError
from soloist.inference.label import LabelSummary, label_images
from soloist.inference.label_shards import ERRORS, ShardJob, label_shards
from soloist.inference.merge import merge_shards
from soloist.inference.output_file import errors_beside
from soloist.inference.reading_ahead import Labeler, Objects
from soloist.runtime.lock import claimed
from soloist.runtime.stopping import listening

SETTINGS = {"command": "masks", "images": ["images"], "free_mask": {"max_masks": 3}}
# Images that can be read, and objects on them: 4 is broken.
IMAGES, INSTANCES, FAILED = 10, 15, 1

KilledAt = Callable[[Any, str, int], AbstractContextManager[None]]


def label(
    images: Path, out: Path, labeler: Labeler, *, seen: list[str] | None = None, **options: Any
) -> LabelSummary:
    """Labels the images into shards of three."""

    def note(image: ImageRef, *_: object) -> None:
        if seen is not None:
            seen.append(image.name)

    arguments = {"settings": SETTINGS, "shard_size": 3, **options}
    categories = arguments.pop("categories", CATEGORIES)
    job = ShardJob(out, "masks", lambda: labeler, 100, note, categories)
    return label_shards(job, lambda: find_images(images), **arguments)


def label_plainly(
    images: Path, out: Path, labeler: Labeler, categories: Mapping[int, str] = CATEGORIES
) -> LabelSummary:
    return label_images(
        find_images(images),
        labeler,
        out,
        title="masks",
        short_side=100,
        settings=SETTINGS,
        errors=errors_beside(out, overwrite=False),
        categories=categories,
    )


def check_whole(
    images: Path, folder: Path, labeler: Labeler, categories: Mapping[int, str] = CATEGORIES
) -> None:
    """The merged file and the account of failures are those of the command without shards."""
    plain = folder.parent / "plain" / "masks.json"
    merged = folder.parent / "merged" / "masks.json"
    label_plainly(images, plain, labeler, categories)
    merge_shards(folder, merged)
    assert json.loads(merged.read_text()) == json.loads(plain.read_text())
    sidecar = "masks.embeddings.npy"
    assert merged.with_name(sidecar).read_bytes() == plain.with_name(sidecar).read_bytes()
    errors = plain.with_name("masks.errors.jsonl").read_text()
    assert (folder / ERRORS).read_text() == errors


@pytest.mark.parametrize("shard_size", [1, 4, 11, 500])
def test_the_merged_file_is_the_one_without_shards(
    images: Path, tmp_path: Path, toy_labeler: Labeler, shard_size: int
) -> None:
    out = tmp_path / "out"
    summary = label(images, out, toy_labeler, shard_size=shard_size)
    found = (summary.images, summary.instances, summary.failed)
    assert found == (IMAGES, INSTANCES, FAILED)
    assert len(ShardFolder(out).finished()) == -(-11 // shard_size)
    check_whole(images, out, toy_labeler)
    assert sorted(path.name for path in out.iterdir()) == [
        "errors.jsonl",
        "locks",
        "manifest.parquet",
        "shards",
    ]
    assert not list((out / "locks").iterdir())


def test_classes_are_those_of_the_file_without_shards(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    def classes(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Objects:
        found = toy_labeler(pixels, size)
        return replace(found, labels=torch.arange(len(found)) % 2)

    names = {7: "cat", 3: "dog"}
    out = tmp_path / "out"
    label(images, out, classes, categories=names)
    check_whole(images, out, classes, names)
    merged = load_coco(tmp_path / "merged" / "masks.json")
    assert merged.categories == names
    found = [[one.category_id for one in ones] for ones in merged.annotations.values()]
    assert found == [([7, 3] * len(ones))[: len(ones)] for ones in found]
    assert sum(map(len, found)) == INSTANCES
    with pytest.raises(RunError, match=r"shards of other settings \(categories"):
        label(images, out, classes, categories={7: "cat", 3: "wolf"})


# Resuming


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_who_is_asked_to_stop_keeps_finished_shards(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    calls = 0

    def asked_at_the_sixth(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Objects:
        nonlocal calls
        calls += 1
        if calls == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_labeler(pixels, size)

    out = tmp_path / "out"
    with listening(), pytest.raises(StoppedError, match="SIGTERM"):
        label(images, out, asked_at_the_sixth)
    assert calls == 6
    assert 1 <= len(ShardFolder(out).finished()) < 4
    label(images, out, toy_labeler)
    check_whole(images, out, toy_labeler)


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_killed_run_goes_on_with_the_shards_that_are_missing(
    images: Path, tmp_path: Path, toy_labeler: Labeler, killed_at: KilledAt, call: int
) -> None:
    out = tmp_path / "out"
    with killed_at(ShardFolder, "write", call):
        label(images, out, toy_labeler)
    before = {path: path.stat().st_mtime_ns for path in (out / "shards").glob("*")}
    assert len(before) == call - 1
    seen: list[str] = []
    label(images, out, toy_labeler, seen=seen)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    left = 11 - sum(map(ShardFolder(out).manifest.size, (int(path.stem) for path in before)))
    assert len(seen) in (left, left - 1)  # One may be the broken one.
    check_whole(images, out, toy_labeler)


def test_a_planner_that_was_killed_is_no_obstacle(
    images: Path, tmp_path: Path, toy_labeler: Labeler, killed_at: KilledAt
) -> None:
    out = tmp_path / "out"
    with killed_at(sys.modules["soloist.inference.label_shards"], "write_manifest", 1):
        label(images, out, toy_labeler)
    (out / ".manifest.0123456789abcdef.parquet").write_text("half a manifest")
    label(images, out, toy_labeler)
    check_whole(images, out, toy_labeler)
    assert not list(out.glob(".*"))


def test_what_killed_writers_left_of_a_shard_goes_with_its_next_claim(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    half = [out / "shards" / f".{shard:05d}.0123456789abcdef.parquet" for shard in (1, 2)]
    for path in half:
        path.write_text("half a shard")
        ShardFolder(out).file(int(path.name[1:6])).unlink()
    with claimed(out / "locks" / "00002"):
        label(images, out, toy_labeler)
        # Of the shard in work elsewhere, somebody may be writing it.
        assert list(out.rglob(".*")) == half[1:]
    label(images, out, toy_labeler)
    assert list(out.rglob(".*")) == []
    check_whole(images, out, toy_labeler)


def test_with_nothing_missing_nothing_is_made(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"
    first = label(images, out, toy_labeler)

    def never() -> Labeler:
        raise AssertionError("the labeler was made")

    job = ShardJob(out, "masks", never, short_side=100)
    again = label_shards(job, lambda: find_images(images), settings=SETTINGS, shard_size=3)
    assert (again.images, again.instances, again.failed) == (IMAGES, INSTANCES, FAILED)
    assert (again.images, again.failed) == (first.images, first.failed)


def test_a_shard_that_was_removed_is_made_again(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    """The way to try images again that failed."""
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    shards = ShardFolder(out)
    broken = next(shard for shard in shards.finished() if shards.facts(shard).failed)
    shards.file(broken).unlink()
    image = next(one for one in shards.manifest.entries(broken) if one.name == "1/ü04.png")
    image.path.write_bytes((images / "0" / "ü03.png").read_bytes())
    assert label(images, out, toy_labeler).failed == 0
    assert not (out / ERRORS).exists()


@pytest.mark.parametrize("name", ["zz.png", "0/a.png"])
def test_images_that_come_later_become_further_shards(
    images: Path,
    tmp_path: Path,
    toy_labeler: Labeler,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    before = {path: path.read_bytes() for path in (out / "shards").iterdir()}
    shutil.copy(images / "0" / "ü00.png", images / name)
    summary = label(images, out, toy_labeler)
    assert (summary.images, summary.failed) == (IMAGES + 1, FAILED)
    assert f"1 new (such as '{name}')" in caplog.text
    shards = ShardFolder(out)
    assert {path: path.read_bytes() for path in before} == before
    assert shards.missing() == []
    ids = [one.id for shard in shards.finished() for one in shards.images(shard)]
    assert len(set(ids)) == len(ids) == IMAGES + 1
    merge_shards(out, tmp_path / "merged.json")
    label_plainly(images, tmp_path / "whole.json", toy_labeler)
    merged, whole = (load_coco(tmp_path / one) for one in ("merged.json", "whole.json"))
    masks = [
        {image.file_name: [one.rle for one in file.annotations[image.id]] for image in file.images}
        for file in (merged, whole)
    ]
    assert masks[0] == masks[1]
    # Nothing more is to be done.
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    label(images, out, toy_labeler)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == made


def test_shards_of_changed_images_are_made_again(
    images: Path, tmp_path: Path, toy_labeler: Labeler, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    before = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    shards = ShardFolder(out)
    changed = shards.manifest.entries(1)[0]
    shutil.copy(images / "0" / "ü00.png", changed.path)
    gone = shards.manifest.entries(2)[0]
    gone.path.unlink()
    summary = label(images, out, toy_labeler)
    assert f"1 changed (such as '{changed.name}')" in caplog.text
    assert f"1 vanished (such as '{gone.name}')" in caplog.text
    assert summary.images + summary.failed == IMAGES + FAILED
    after = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["00001.parquet"]


def test_an_image_that_failed_is_tried_again_when_it_has_changed(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"
    assert label(images, out, toy_labeler).failed == FAILED == 1
    shutil.copy(images / "0" / "ü00.png", images / "1" / "ü04.png")
    later = time.time_ns() + 10**9
    os.utime(images / "1" / "ü04.png", ns=(later, later))
    assert label(images, out, toy_labeler).failed == 0


# Several processes that do not know of each other

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def start(act: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    return process


@forking
def test_processes_share_the_shards(images: Path, tmp_path: Path, toy_labeler: Labeler) -> None:
    out = tmp_path / "out"

    def work(number: int) -> None:
        seen: list[str] = []
        label(images, out, toy_labeler, seen=seen, shard_size=1)
        (tmp_path / f"seen-{number}").write_text("\n".join(seen))

    processes = [start(partial(work, number)) for number in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    parts = [(tmp_path / f"seen-{number}").read_text().split("\n") for number in range(3)]
    seen = [name for part in parts for name in part if name]
    assert len(seen) == len(set(seen)) == IMAGES
    check_whole(images, out, toy_labeler)


@forking
def test_the_shard_of_a_killed_process_is_free_at_once(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"

    def killed(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Objects:
        if ShardFolder(out).finished():
            os.kill(os.getpid(), signal.SIGKILL)
        return toy_labeler(pixels, size)

    process = start(lambda: label(images, out, killed))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((out / "locks").iterdir())) == 1
    assert len(ShardFolder(out).finished()) == 1
    label(images, out, toy_labeler)
    check_whole(images, out, toy_labeler)


@forking
def test_a_shard_in_work_elsewhere_is_left_alone(
    images: Path, tmp_path: Path, toy_labeler: Labeler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    out = tmp_path / "out"
    with claimed(out / "locks" / "00002") as mine:
        assert mine
        summary = label(images, out, toy_labeler)
    assert ShardFolder(out).missing() == [2]
    assert "1 of 4 shards are in work by other processes" in caplog.text
    assert summary.images + summary.failed == 8
    label(images, out, toy_labeler)
    check_whole(images, out, toy_labeler)


# Mistakes


def test_shards_of_other_settings_are_refused(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    other = {**SETTINGS, "free_mask": {"max_masks": 5}}
    with pytest.raises(RunError, match=r"other settings \(free_mask.max_masks 3 -> 5\); run"):
        label(images, out, toy_labeler, settings=other)
    with pytest.raises(RunError, match=r"other settings \(shard-size 3 -> 4\)"):
        label(images, out, toy_labeler, shard_size=4)
    label(images, out, toy_labeler, settings=other, shard_size=4, overwrite=True)
    manifest = ShardFolder(out).manifest
    assert (manifest.settings, manifest.shard_size) == (other, 4)
    assert ShardFolder(out).finished() == [0, 1, 2]


def test_a_foreign_folder_is_refused_and_never_overwritten(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    for overwrite in (False, True):
        with pytest.raises(RunError, match="holds files that are no shards of soloist"):
            label(images, images, toy_labeler, overwrite=overwrite)
    with pytest.raises(RunError, match=r"makes a folder, --out .* is a file"):
        label(images, images / "0" / "ü00.png", toy_labeler)
    assert len(find_images(images)) == 11


def test_overwriting_keeps_what_is_not_ours(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    merge_shards(out, out / "all.json")
    label(images, out, toy_labeler, overwrite=True)
    assert (out / "all.json").is_file()


def test_a_mistake_leaves_nothing(images: Path, tmp_path: Path, toy_labeler: Labeler) -> None:
    def mistaken() -> Labeler:
        raise ConfigError("no such backbone")

    job = ShardJob(tmp_path / "out", "masks", mistaken, short_side=100)
    with pytest.raises(ConfigError):
        label_shards(job, lambda: find_images(images), settings={}, shard_size=3)
    with pytest.raises(DataError):
        label(tmp_path / "none", tmp_path / "out", toy_labeler)
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_reported_before_the_work(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    out = tmp_path / "out"
    label(images, out, toy_labeler)
    ShardFolder(out).file(1).write_bytes(b"damaged")
    ShardFolder(out).file(2).unlink()
    seen: list[str] = []
    with pytest.raises(DataError, match=r"00001.parquet.*; remove it and run"):
        label(images, out, toy_labeler, seen=seen)
    assert seen == []


def test_when_no_image_can_be_read_it_is_reported(tmp_path: Path, toy_labeler: Labeler) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"none of the 1 images could be read; see .*errors.jsonl"):
        label(tmp_path / "images", tmp_path / "out", toy_labeler)
    assert "a.png" in (tmp_path / "out" / ERRORS).read_text()
    with pytest.raises(DataError, match="none of the images"):
        merge_shards(tmp_path / "out", tmp_path / "out.json")


# Very many

MILLION = Path(__file__).with_name("million.py")


def simulate(folder: Path, planned: int, labelled: int) -> dict[str, Any]:
    """What `million.py` measured, in a process of its own."""
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, MILLION, folder, str(planned), str(labelled)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures as Unix does")
def test_a_million_entries_are_planned_and_thousands_labelled_and_merged(tmp_path: Path) -> None:
    """Processor time of a 2-core machine, with room for a slower one; memory beyond the start's.

    `SOLOIST_MILLION=1` labels and merges the whole million; see docs/scale.md.
    """
    labelled = 1_000_000 if os.environ.get("SOLOIST_MILLION") else 20_000
    facts = simulate(tmp_path, 1_000_000, labelled)
    assert facts["planned"] == 1_000_000
    assert facts["merged"] == {"images": labelled, "annotations": labelled // 10}
    assert facts["plan"]["megabytes"] < 150
    assert facts["plan"]["seconds"] < 60
    for stage in ("label", "merge"):
        # Neither depends on how many there are.
        assert facts[stage]["megabytes"] < 150, stage
        assert facts[stage]["seconds"] < max(60, labelled * 0.002), stage
