"""Little shared memory, pipes that nobody reads, folders that grow and shrink between commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.faults.processes import (
    RUNS,
    Outcome,
    Server,
    Whole,
    assert_finishes,
    command_of,
    has_made_something,
    logged_once,
    out_of,
    result,
    wait_for,
)

from soloist.cli import CLOSED_PIPE
from soloist.data.coco.read import load_coco

# Docker gives 64 MB, and networks here are small.
LITTLE = 256 * 1024
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a /dev/shm of its own needs root"
)


# Shared memory


@needs_root
@pytest.mark.parametrize(
    "verb", [pytest.param("train"), pytest.param("pretrain", marks=pytest.mark.faults)]
)
def test_little_shared_memory_is_gone_on_without(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
) -> None:
    whole, row = unbroken(verb), faults("small /dev/shm")
    outcome = server.run(*command_of(verbs, tmp_path, verb), small_shared_memory=LITTLE)
    row.injected += 1
    row.lost += outcome.status != 0
    assert outcome.status == 0, outcome.err
    assert "continuing with 0; give the container more (docker run --shm-size 2g)" in outcome.err
    left = result(out_of(tmp_path, verb))
    row.differing += left != whole.result
    assert left == whole.result


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_a_wait_that_never_ends_ends_when_asked(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
) -> None:
    whole, row = unbroken(verb), faults("SIGTERM while workers give nothing")
    command, out = command_of(verbs, tmp_path, verb), out_of(tmp_path, verb)
    running = server.start(*command, silent_workers=3600)
    wait_for(running.children)
    time.sleep(2)
    row.injected += 1
    asked = time.monotonic()
    running.signal(signal.SIGTERM)
    outcome = running.wait()
    assert time.monotonic() - asked < 60
    assert outcome.status == 0, outcome.err
    assert logged_once(outcome, "stopped by SIGTERM; the same command resumes")
    assert_finishes(server, command, out, whole, row)


# Pipes


OUT, ERR = 1, 2


@pytest.fixture(scope="module")
def commands(
    tmp_path_factory: pytest.TempPathFactory,
    server: Server,
    scenes: Path,
    verbs: Mapping[str, list[str]],
) -> Mapping[str, tuple[list[str], Outcome]]:
    """Commands that print, and what becomes of them where somebody reads it."""
    truth, folder = str(scenes / "annotations.json"), tmp_path_factory.mktemp("found")
    commands = {
        "masks": [*verbs["masks"], "--overwrite", "--out", str(folder / "found.json")],
        "check": ["data", "check", truth],
        "eval": ["eval", str(folder / "found.json"), truth],
        "lines": [*verbs["predict"], "--overwrite", "--json", "--out", str(folder / "p.json")],
        "error": ["data", "check", "nowhere"],
    }
    return {name: (command, server.run(*command)) for name, command in commands.items()}


@pytest.mark.parametrize("closed", [[OUT], [ERR], [OUT, ERR]], ids=["out", "err", "both"])
@pytest.mark.parametrize(
    "name",
    [
        "check",
        "eval",
        *(pytest.param(one, marks=pytest.mark.faults) for one in ("masks", "lines", "error")),
    ],
)
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(
    server: Server,
    commands: Mapping[str, tuple[list[str], Outcome]],
    faults: Callable[[str], Any],
    name: str,
    closed: list[int],
) -> None:
    row = faults("closed pipe")
    command, whole = commands[name]
    outcome = server.run(*command, close_pipes=closed)
    row.injected += 1
    assert "Traceback" not in outcome.err + outcome.out
    assert "BrokenPipe" not in outcome.err + outcome.out
    if OUT in closed and whole.out:
        assert outcome.status == CLOSED_PIPE
    else:
        assert outcome.status == whole.status
        assert outcome.out == whole.out


# Folders


def grow_and_shrink(folder: Path) -> None:
    """One image is gone, one is another, two are new: before all others, and after them."""
    first, second, third = sorted(folder.iterdir())[:3]
    for name in ("0 new", "zz new"):
        shutil.copy(third, folder / f"{name}{third.suffix}")
    first.unlink()
    with Image.open(third) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(second)


def masks_by_name(path: Path) -> dict[str, list[Any]]:
    file = load_coco(path)
    return {
        image.file_name: [(one.rle, one.score) for one in file.annotations[image.id]]
        for image in file.images
    }


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        pytest.param("masks", [], id="masks"),
        pytest.param("predict", [], id="predict", marks=pytest.mark.faults),
        pytest.param("predict", ["--format", "yolo"], id="format", marks=pytest.mark.faults),
        pytest.param("masks", ["--shard-size", "2"], id="shards"),
    ],
)
def test_the_same_command_follows_a_folder_that_grows_and_shrinks(
    tmp_path: Path,
    server: Server,
    scenes: Path,
    verbs: Mapping[str, list[str]],
    faults: Callable[[str], Any],
    verb: str,
    more: list[str],
) -> None:
    row = faults("folder that grows and shrinks")
    sharded = "--shard-size" in more
    if sharded:
        pytest.importorskip("pyarrow", reason="shards need it: pip install '.[parquet]'")
    images = tmp_path / "images"
    shutil.copytree(scenes / "images", images)
    command = [*verbs[verb], *more]
    command[1] = str(images)

    def made(folder: str) -> tuple[Path, Outcome]:
        out = tmp_path / folder / ("out" if sharded else "out.json")
        return out, server.run(*command, "--out", out)

    assert made("kept")[1].status == 0
    grow_and_shrink(images)
    out, outcome = made("kept")
    row.injected += 1
    row.lost += outcome.status not in (0, 1)
    assert "2 new (such as '0 new" in outcome.err
    assert "1 changed" in outcome.err
    assert "1 vanished" in outcome.err
    whole, fresh = made("fresh")
    assert fresh.status == 0, fresh.err
    if sharded:
        for one in (out, whole):
            assert server.run("merge", one, "--out", one.with_suffix(".json")).status == 0
        kept, made_anew = (masks_by_name(one.with_suffix(".json")) for one in (out, whole))
        # Of shards nothing is taken away; what vanished from one that is made again has failed.
        shared = {name: kept.get(name) for name in made_anew}
        row.differing += shared != made_anew
        assert shared == made_anew
        return
    assert outcome.status == 0, outcome.err
    skipped = "soloist-export.json"
    ours, theirs = (
        {name: data for name, data in result(one).items() if not name.endswith(skipped)}
        for one in (out, whole)
    )
    gone = {name for name in ours if name not in theirs}
    row.differing += {name: data for name, data in ours.items() if name not in gone} != theirs
    assert {name: data for name, data in ours.items() if name not in gone} == theirs
    # An export keeps the labels and the link of an image that has vanished.
    assert len(gone) == (2 if "yolo" in more else 0)
    quiet = server.run(*command, "--out", out)
    assert quiet.status == 0
    assert "finished already" in quiet.err


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["pretrain", "fit"])
def test_a_resumed_run_keeps_to_its_images(
    tmp_path: Path,
    server: Server,
    scenes: Path,
    verbs: Mapping[str, list[str]],
    faults: Callable[[str], Any],
    verb: str,
) -> None:
    assert verb in RUNS
    row = faults("folder that grows during a run")
    images = tmp_path / "images"
    shutil.copytree(scenes / "images", images)
    command = [part for part in verbs[verb] if "--gt" not in part]
    command[1] = str(images)
    assert server.run(*command, "--out", tmp_path / "whole").status == 0
    whole = Whole(result(tmp_path / "whole"), 0.0)
    out = tmp_path / "run"
    running = server.start(*command, "--out", out)
    wait_for(partial(has_made_something, out))
    running.signal(signal.SIGKILL)
    assert running.wait().status == -signal.SIGKILL
    image = next(images.iterdir())
    shutil.copy(image, images / f"0 new{image.suffix}")
    row.injected += 1
    outcome = assert_finishes(server, [*command, "--out", str(out)], out, whole, row)
    assert "1 new (such as '0 new" in outcome.err
    assert "it resumes with the images it began with" in outcome.err
    assert json.loads((out / "state.json").read_text())["finished"]
