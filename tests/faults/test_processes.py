"""Whole commands that are killed, stopped, starved and disturbed; then the same command again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from tests.faults.processes import (
    RUNS,
    VERBS,
    Server,
    Whole,
    assert_finishes,
    command_of,
    has_made_something,
    is_done,
    logged_once,
    out_of,
    result,
    wait_for,
)

# Kills one after the other before a run is left alone.
KILLS = 3


def has_more_rows(metrics: Path, count: int) -> bool:
    """Whether a training took more than N steps."""
    return metrics.is_file() and len(metrics.read_text().splitlines()) > count


def seeds(verb: str, count: int, quick: int) -> list[Any]:
    """`count` seeds for a verb, all but `quick` of them for `make faults` only."""
    return [
        pytest.param(verb, seed, marks=() if seed < quick else pytest.mark.faults)
        for seed in range(count)
    ]


# Ends that nobody can prepare for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "seed"),
    [
        *seeds("pretrain", 8, 0),
        *seeds("masks", 8, 0),
        *seeds("train", 8, 1),
        *seeds("fit", 6, 0),
        *seeds("predict", 8, 0),
    ],
)
def test_a_killed_command_ends_as_an_unbroken_one(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
    seed: int,
) -> None:
    whole, row = unbroken(verb), faults(f"kill -9 during {verb}")
    command = command_of(verbs, tmp_path, verb)
    draw = random.Random(f"{verb} {seed}")
    out = out_of(tmp_path, verb)
    for _ in range(KILLS):
        running = server.start(*command)
        time.sleep(draw.uniform(0, 0.5 * whole.seconds))
        running.signal(signal.SIGKILL)
        row.injected += running.wait().status == -signal.SIGKILL
        if is_done(out):
            # Killed at its very end, if at all; a command that is done is refused.
            row.differing += result(out) != whole.result
            assert result(out) == whole.result
            shutil.rmtree(tmp_path / verb)
            break
    assert_finishes(server, command, out, whole, row)


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_a_lost_worker_is_reported_in_one_line(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    faults: Callable[[str], Any],
    verb: str,
) -> None:
    row = faults("kill -9 of a worker process")
    # More steps than a worker prepares ahead.
    command = [*verbs[verb], f"--{verb}.steps", "20", "--out"]
    outcome = server.run(*command, tmp_path / "whole")
    assert outcome.status == 0, outcome.err
    whole = Whole(result(tmp_path / "whole"), 0.0)
    for number in range(3):
        out = tmp_path / f"run-{number}"
        running = server.start(*command, out)
        wait_for(partial(has_more_rows, out / "metrics.jsonl", 4 * number))
        for child in running.children():
            os.kill(child, signal.SIGKILL)
        outcome = running.wait()
        row.injected += 1
        assert outcome.status == 1, outcome.err
        assert logged_once(outcome, "a process that prepares batches died", "resumes")
        assert_finishes(server, [*command, str(out)], out, whole, row)


# Ends that are asked for


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "seed"),
    [
        *seeds("pretrain", 4, 0),
        *seeds("masks", 4, 1),
        *seeds("train", 4, 0),
        *seeds("fit", 4, 0),
        *seeds("predict", 4, 0),
    ],
)
def test_a_command_asked_to_stop_saves_and_goes_on(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
    seed: int,
) -> None:
    number = signal.SIGTERM if seed % 2 == 0 else signal.SIGUSR1
    whole, row = unbroken(verb), faults(f"{number.name} during {verb}")
    command, out = command_of(verbs, tmp_path, verb), out_of(tmp_path, verb)
    running = server.start(*command)
    lock = out / ".lock" if verb in RUNS else out.with_name("out.partial.lock")
    wait_for(lock.exists)
    time.sleep(random.Random(f"{verb} {seed}").uniform(0, 0.5 * whole.seconds))
    # All processes of the command, as SLURM does.
    os.killpg(running.pid, number)
    outcome = running.wait()
    row.injected += 1
    if "the same command resumes" in outcome.err:
        assert outcome.status == 0
        assert logged_once(outcome, f"stopped by {number.name}; the same command resumes")
        assert_finishes(server, command, out, whole, row)
    else:
        # It was about to end.
        assert outcome.status in (0, -number), outcome.err
        assert result(out) == whole.result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "where"),
    [
        pytest.param("cluster", "soloist.evaluation.explore.groups:kmeans", id="cluster"),
        pytest.param(
            "cluster", "soloist.data.drawing.contact_sheets:jpeg_bytes", id="cluster-sheets"
        ),
        pytest.param("merge", "soloist.data.coco.shards:ShardFolder.annotations", id="merge"),
    ],
)
def test_a_command_that_starts_over_leaves_nothing_when_asked_to_stop(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    faults: Callable[[str], Any],
    verb: str,
    where: str,
) -> None:
    row = faults(f"SIGTERM during {verb}")
    if verb == "cluster":
        found = tmp_path / "found.json"
        made = server.run(*verbs["masks"], "--out", found)
        command = ["cluster", str(found), "--groups", "2", "--sheets", str(tmp_path / "sheets")]
    else:
        pytest.importorskip("pyarrow", reason="shards need it: pip install '.[parquet]'")
        made = server.run(*verbs["masks"], "--out", tmp_path / "shards", "--shard-size", "2")
        command = ["merge", str(tmp_path / "shards")]
    assert made.status == 0, made.err
    whole = tmp_path / "whole" / "out.json"
    assert server.run(*command, "--out", whole).status == 0
    out = tmp_path / "stopped" / "out.json"
    outcome = server.run(*command, "--out", out, ask_to_stop=where)
    row.injected += 1
    assert outcome.status == 0, outcome.err
    assert logged_once(outcome, "stopped by SIGTERM; the same command again starts over")
    assert list(out.parent.iterdir()) == []
    outcome = server.run(*command, "--out", out)
    row.lost += outcome.status != 0
    row.differing += result(out) != result(whole)
    assert outcome.status == 0, outcome.err
    assert result(out) == result(whole)


def test_a_command_on_ray_asked_to_stop_keeps_finished_shards(
    tmp_path: Path,
    server: Server,
    scenes: Path,
    verbs: Mapping[str, list[str]],
    faults: Callable[[str], Any],
) -> None:
    pytest.importorskip("ray", reason="the engine needs Ray: pip install '.[ray]'")
    row = faults("SIGTERM during masks on Ray")
    images = tmp_path / "images"
    images.mkdir()
    image = next((scenes / "images").iterdir())
    # More than can be done before the signal.
    for number in range(400):
        (images / f"{number}{image.suffix}").symlink_to(image)
    out = tmp_path / "shards"
    command = ["masks", str(images), *verbs["masks"][2:], "--shard-size", "4", "--out", str(out)]
    running = server.start(*command, "--engine", "ray", "--ray-workers", "1")
    wait_for(lambda: any(out.glob("shards/[0-9]*")))
    running.signal(signal.SIGTERM)
    outcome = running.wait()
    row.injected += 1
    assert outcome.status == 0, outcome.err
    assert logged_once(outcome, "stopped by SIGTERM; the same command resumes")
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shards/[0-9]*")}
    assert 0 < len(kept) < 100
    outcome = server.run(*command)
    row.lost += outcome.status != 0
    assert outcome.status == 0, outcome.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((out / "shards").iterdir())) == 100


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A file system in memory, of a size in bytes that may be changed; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def tried(size: int, *more: str) -> subprocess.CompletedProcess[str]:
        options = [f"size={size // 1024}k", *more]
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )

    def mount(size: int, *more: str) -> Path:
        nonlocal mounted
        if mounted:
            # It is busy until the workers of a killed command have noticed and are gone.
            wait_for(lambda: tried(size, "remount", *more).returncode == 0)
            return folder
        done = tried(size, *more)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    yield mount
    if mounted:
        # Workers of a killed command may still have files there.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_nothing_half_written(folder: Path) -> None:
    """Temporary files are gone, and what is there can be read."""
    for path in folder.rglob("*"):
        assert not path.name.startswith("."), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".safetensors":
            load_file(path)


@pytest.mark.faults
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.45, 0.7, 0.95])
def test_a_full_disk_is_reported_and_loses_nothing(
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    small_disk: Callable[..., Path],
    verb: str,
    share: float,
) -> None:
    whole, row = unbroken(verb), faults(f"full disk during {verb}")
    needed = sum(len(content) for content in whole.result.values())
    # A page is the least a file takes.
    folder = small_disk(max(4096, int(share * needed)))
    command, out = command_of(verbs, folder, verb), out_of(folder, verb)
    outcome = server.run(*command)
    row.injected += 1
    assert outcome.status == 2, outcome.err
    assert logged_once(outcome, "No space left on device", "free some space")
    assert_nothing_half_written(folder)
    small_disk(8 * needed + 10_000_000)
    assert_finishes(server, command, out, whole, row)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "size"),
    [
        pytest.param("train", 100_000, id="train"),
        pytest.param("masks", 1_000, id="masks", marks=pytest.mark.faults),
        pytest.param("fit", 1_000_000, id="fit", marks=pytest.mark.faults),
        pytest.param("pretrain", 1_000_000, id="pretrain", marks=pytest.mark.faults),
    ],
)
def test_a_file_that_cannot_grow_is_reported_and_loses_nothing(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
    size: int,
) -> None:
    """What can be tried without root."""
    whole, row = unbroken(verb), faults(f"file size limit during {verb}")
    command, out = command_of(verbs, tmp_path, verb), out_of(tmp_path, verb)
    outcome = server.run(*command, limit_files=size)
    row.injected += 1
    assert outcome.status == 2, outcome.err
    assert logged_once(outcome, "File too large", "free some space")
    assert_nothing_half_written(tmp_path)
    assert_finishes(server, command, out, whole, row)


@pytest.mark.faults
@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_read_only_folder_is_reported_and_loses_nothing(
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    small_disk: Callable[..., Path],
    verb: str,
    begun: bool,
) -> None:
    whole, row = unbroken(verb), faults("read-only folder")
    size = 2 * sum(len(content) for content in whole.result.values()) + 100_000_000
    folder = small_disk(size)
    command, out = command_of(verbs, folder, verb), out_of(folder, verb)
    if begun:
        running = server.start(*command)
        wait_for(partial(has_made_something, out))
        running.signal(signal.SIGKILL)
        assert running.wait().status == -signal.SIGKILL
    before = sorted(folder.rglob("*"))
    small_disk(size, "ro")
    outcome = server.run(*command)
    row.injected += 1
    assert outcome.status == 2, outcome.err
    assert logged_once(outcome, "Read-only file system")
    assert sorted(folder.rglob("*")) == before
    small_disk(size, "rw")
    assert_finishes(server, command, out, whole, row)


# Company


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["masks", pytest.param("train", marks=pytest.mark.faults)])
def test_a_second_command_is_refused_and_disturbs_nothing(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
) -> None:
    whole, row = unbroken(verb), faults("two runs on one folder")
    command, out = command_of(verbs, tmp_path, verb), out_of(tmp_path, verb)
    first = server.start(*command)
    # Half-way, and not to continue until the other was refused.
    wait_for(out.parent.exists)
    lock = out / ".lock" if verb in RUNS else out.with_name("out.partial.lock")
    wait_for(lambda: lock.exists() and lock.read_text())
    first.signal(signal.SIGSTOP)
    second = server.run(*command)
    row.injected += 1
    assert second.status == 2, second.err
    assert logged_once(second, f"is being written by process {first.pid} on ", "another --out")
    first.signal(signal.SIGCONT)
    outcome = first.wait()
    row.lost += outcome.status != 0
    row.differing += result(out) != whole.result
    assert outcome.status == 0, outcome.err
    assert result(out) == whole.result


# Images


@pytest.mark.faults
@pytest.mark.parametrize("verb", ["train", "fit"])
def test_images_that_vanish_or_change_are_listed_and_skipped(
    tmp_path: Path,
    server: Server,
    scenes: Path,
    verbs: Mapping[str, list[str]],
    unbroken: Callable[[str], Whole],
    faults: Callable[[str], Any],
    verb: str,
) -> None:
    row = faults("images that vanish or change")
    images = tmp_path / "images"
    shutil.copytree(scenes / "images", images)
    # A list: what is gone from a folder is no part of it any more.
    listed = tmp_path / "images.txt"
    listed.write_text("".join(f"images/{path.name}\n" for path in sorted(images.iterdir())))
    truth = json.loads((scenes / "annotations.json").read_text())
    for record in truth["images"]:
        record["file_name"] = f"images/{record['file_name']}"
    # Masks of other tools must be of the images' sizes from the start.
    truth["info"] = {"command": "masks"}
    (tmp_path / "annotations.json").write_text(json.dumps(truth))
    new = {"images": str(listed), "annotations.json": str(tmp_path / "annotations.json")}
    # Without the truth of these images, which would not fit them any more.
    given = verbs[verb] if verb == "train" else [p for p in verbs[verb] if "--gt" not in p]
    command = [new.get(Path(part).name, part) for part in given]
    command = [*command, "--out", str(tmp_path / "run")]
    if verb == "fit":
        running = server.start(*command)
        wait_for(partial(has_made_something, tmp_path / "run"))
        running.signal(signal.SIGKILL)
        assert running.wait().status == -signal.SIGKILL
    (images / "000002.jpg").unlink()
    with Image.open(images / "000004.jpg") as image:
        image.resize((40, 90)).save(images / "000004.jpg")
    outcome = server.run(*command)
    row.injected += 2
    row.lost += outcome.status != 1
    assert outcome.status == 1, outcome.err
    lines = (tmp_path / "run" / "errors.jsonl").read_text().splitlines()
    failed = {Path(json.loads(line)["image"]).name for line in lines}
    # The labels of a later round fit the image as it is then.
    assert failed == {"000002.jpg", "000004.jpg"} or (verb == "fit" and failed == {"000002.jpg"})
    assert load_file(tmp_path / "run" / "model" / "model.safetensors")


# Numbers


@pytest.mark.faults
@pytest.mark.parametrize("steps", [[0], [2], [5], [1, 2, 3]], ids=str)
def test_a_loss_that_is_not_finite_costs_its_step_only(
    tmp_path: Path,
    server: Server,
    verbs: Mapping[str, list[str]],
    faults: Callable[[str], Any],
    steps: list[int],
) -> None:
    row = faults("loss that is not finite")
    outcome = server.run(*command_of(verbs, tmp_path, "train"), break_losses=steps)
    row.injected += len(steps)
    row.lost += outcome.status != 0
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("the step is left out") == len(steps)
    assert (tmp_path / "train" / "bad_batch.safetensors").is_file()
    assert load_file(tmp_path / "train" / "model" / "model.safetensors")
