"""Labels very large sets: any number of processes share the shards of a manifest.

Which process labels which shard is settled by a lock for each shard, so that processes need not
know of each other: those of a launcher, tasks of a job array, and workers of Ray can share a
folder. A shard is written whole; the lock of a process that was killed is free at once, and whoever
comes by labels that shard anew.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from soloist.config import DEFAULT_READING, ReadingConfig
from soloist.data.coco.manifest import check_shard_size, extend_manifest, write_manifest
from soloist.data.coco.shard_rows import ShardRow, facts_of_all
from soloist.data.coco.shards import MANIFEST, SHARDS, ShardFolder
from soloist.data.coco.types import CATEGORIES
from soloist.data.inputs import FileState, changes_between, states_of
from soloist.data.sources import ImageRef
from soloist.errors import DataError, RunError
from soloist.inference.label import LabelSummary, OnResult, labelled_rows
from soloist.inference.reading_ahead import Labeler
from soloist.runtime.distributed import on_main, run_on_all_ranks
from soloist.runtime.error_log import error_line
from soloist.runtime.files import plain_json, shown, write_text
from soloist.runtime.lock import claimed
from soloist.runtime.progress import Tracker, track
from soloist.runtime.stopping import stop_if_asked

logger = logging.getLogger(__name__)

ERRORS = "errors.jsonl"
_LOCKS = "locks"


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs to know, on this machine or another; it can be pickled for Ray.

    Attributes:
        folder: Where manifest and shards are, absolute.
        title: What messages call the work, such as `masks`.
        make_labeler: Makes what gives the instances of an image.
        short_side: As in `label_images`.
        on_result: Called with what was found on each image.
        categories: Names of the labeler's classes by category id, in the order of its labels.
        reading: How image files are read.
    """

    folder: Path
    title: str
    make_labeler: Callable[[], Labeler]
    short_side: int | None
    on_result: OnResult | None = None
    categories: Mapping[int, str] = field(default_factory=lambda: CATEGORIES)
    reading: ReadingConfig = DEFAULT_READING


Work = Callable[[ShardFolder, Tracker], None]
"""Labels the missing shards of a folder."""


def label_shards(
    job: ShardJob,
    find: Callable[[], Iterable[ImageRef]],
    *,
    settings: Mapping[str, Any],
    shard_size: int,
    overwrite: bool = False,
    work: Work | None = None,
) -> LabelSummary:
    """Labels what is missing in a folder of shards.

    The manifest says which images there are. Where a command finds nothing missing, they are looked
    for again: new ones become further shards, and shards with images that changed are made again.

    Args:
        job: What to do.
        find: Gives the images.
        settings: What the results depend on.
        shard_size: Images a shard.
        overwrite: Throw away what an earlier command made.
        work: Labels the missing shards; None for this process and those it was launched with.

    Returns:
        What all finished shards hold together.

    Raises:
        ConfigError: If the shard size is out of range.
        RunError: If the folder holds something else, or shards of other settings.
        DataError: If a finished shard is damaged, or no image at all can be read.
        StoppedError: If the process was asked to stop; finished shards are kept.
    """
    start = time.monotonic()
    check_shard_size(shard_size)
    folder = job.folder
    settings = plain_json(settings)
    labeler: Labeler | None = None
    planned = on_main(lambda: _needs_plan(folder, overwrite=overwrite))
    if planned:
        # First: a mistake in the options leaves nothing behind.
        labeler = run_on_all_ranks(job.make_labeler)
        on_main(partial(_plan, job, find, settings, shard_size, overwrite=overwrite))
    shards = run_on_all_ranks(lambda: ShardFolder(folder))
    on_main(lambda: _check_same(shards, settings, shard_size, job.categories))
    if not planned and on_main(lambda: not shards.missing() and _follow_images(folder, find)):
        shards = run_on_all_ranks(lambda: ShardFolder(folder))
    done = on_main(lambda: _summary(shards, start))
    if on_main(shards.missing):
        work = work or partial(_work_here, job, labeler or run_on_all_ranks(job.make_labeler))
        total = shards.manifest.images
        with track(job.title, total, done=done.images + done.failed) as tracker:
            run_on_all_ranks(lambda: work(shards, tracker))
    return on_main(lambda: _finish(shards, job.title, start))


class ShardWorker:
    """Labels one shard after the other.

    Args:
        job: What to do.
        shards: Where to.
        labeler: Gives the instances of one image.
    """

    def __init__(self, job: ShardJob, shards: ShardFolder, labeler: Labeler) -> None:
        self._job = job
        self._shards = shards
        self._labeler = labeler

    def __call__(self, shard: int, tracker: Tracker | None = None) -> bool:
        """Labels a shard, unless it is finished or another process has it in work.

        Args:
            shard: Its number.
            tracker: Counts each image.

        Returns:
            Whether this process labelled it.
        """
        file = self._shards.file(shard)
        if file.exists():
            return False
        with claimed(self._shards.path / _LOCKS / f"{shard:05d}", of=file) as mine:
            # Another may have finished it and freed its claim in between.
            if not mine or file.exists():
                return False
            self._shards.write(shard, list(self._rows(shard, tracker)))
        return True

    def _rows(self, shard: int, tracker: Tracker | None) -> Iterator[ShardRow]:
        job = self._job
        # The manifest does not say how files are read.
        entries = [
            replace(entry, reading=job.reading) for entry in self._shards.manifest.entries(shard)
        ]
        for row in labelled_rows(
            entries,
            self._labeler,
            job.short_side,
            categories=job.categories,
            on_result=job.on_result,
        ):
            if row.error is not None:
                logger.warning("%s: %s failed: %s", job.title, shown(row.file_name), row.error)
            yield row
            if tracker is not None:
                tracker.advance()
            stop_if_asked()


def _work_here(job: ShardJob, labeler: Labeler, shards: ShardFolder, tracker: Tracker) -> None:
    worker = ShardWorker(job, shards, labeler)
    busy = True
    # Again while there was something to do: a process that had a shard may have been killed.
    while busy:
        busy = False
        missing = shards.missing()
        # An order of this process's own: where nothing is locked, few shards are done twice.
        for shard in random.sample(missing, len(missing)):
            if worker(shard, tracker):
                busy = True
                tracker.reach(sum(map(shards.manifest.size, shards.finished())))


def _needs_plan(folder: Path, *, overwrite: bool) -> bool:
    """Whether there is no manifest to continue with; checks that the folder is ours or new."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--shard-size makes a folder, --out {shown(folder)} is a file")
    # Looked at once: another process may write the manifest at any moment.
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST in names:
        return overwrite
    # Hidden: what a process that plans is writing.
    foreign = {name for name in names if not name.startswith(".")} - {SHARDS, _LOCKS, ERRORS}
    if foreign:
        raise RunError(
            f"{shown(folder)} holds files that are no shards of soloist; choose another --out"
        )
    return True


def _plan(
    job: ShardJob,
    find: Callable[[], Iterable[ImageRef]],
    settings: Mapping[str, Any],
    shard_size: int,
    *,
    overwrite: bool,
) -> None:
    """Writes the manifest, unless another command does."""
    images = find()
    folder = job.folder
    with claimed(folder / _LOCKS / "manifest", wait=True, of=folder / MANIFEST):
        if overwrite:
            (folder / MANIFEST).unlink(missing_ok=True)
            for file in (*(folder / SHARDS).glob("*.parquet"), folder / ERRORS):
                file.unlink(missing_ok=True)
        if not (folder / MANIFEST).exists():
            write_manifest(
                folder / MANIFEST,
                images,
                settings,
                shard_size=shard_size,
                categories=job.categories,
            )


def _follow_images(folder: Path, find: Callable[[], Iterable[ImageRef]]) -> bool:
    """Makes a finished set one of the images that are there now.

    Returns:
        Whether something is to be labelled.
    """
    with claimed(folder / _LOCKS / "manifest", wait=True, of=folder / MANIFEST):
        shards = ShardFolder(folder)
        if shards.missing():  # Another command did it.
            return True
        images = list(find())
        now = states_of(images)
        before: dict[str, FileState | None] = {}
        own: dict[str, int] = {}
        for shard in shards.finished():
            made = shards.file(shard).stat().st_mtime_ns // 1000
            for name, state in shards.states(shard):
                there = now.get(name)
                # Of images that failed nothing is kept but when.
                is_later = state is None and there is not None and there[1] > made
                before[name] = (0, 0) if is_later else state
                own[name] = shard
        changes = changes_between(before, now)
        if not changes:
            return False
        logger.warning(
            "%s: of its images %s; new ones become further shards, shards of changed ones are made "
            "again, and what vanished stays in it",
            shown(folder),
            changes,
        )
        for shard in {own[name] for name in changes.changed}:
            shards.file(shard).unlink()
        if changes.new:
            new = set(changes.new)
            extend_manifest(folder / MANIFEST, (one for one in images if one.name in new))
        return bool(changes.new or changes.changed)


def _check_same(
    shards: ShardFolder,
    settings: Mapping[str, Any],
    shard_size: int,
    categories: Mapping[int, str],
) -> None:
    manifest = shards.manifest
    old = {
        "shard-size": manifest.shard_size,
        "categories": list(manifest.categories.items()),
        **manifest.settings,
    }
    new = {"shard-size": shard_size, "categories": list(categories.items()), **settings}
    changed = list(_differences(old, new))
    if changed:
        raise RunError(
            f"{shown(shards.path)} holds shards of other settings ({'; '.join(changed[:3])}); "
            "run their command again, add --overwrite, or choose another --out"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} {old} -> {new}"


def _summary(shards: ShardFolder, start: float) -> LabelSummary:
    facts = facts_of_all(shards, shards.finished())
    return LabelSummary(facts.images, facts.instances, facts.failed, time.monotonic() - start)


def _finish(shards: ShardFolder, title: str, start: float) -> LabelSummary:
    """Writes the account of failures and tells how far the set is."""
    path = shards.path / ERRORS
    # One after the other: the last to finish a shard is also the last to write.
    with claimed(shards.path / _LOCKS / "errors", wait=True, of=path):
        summary = _summary(shards, start)
        if summary.failed:
            failed = (
                error_line(name, title, reason)
                for shard in shards.finished()
                if shards.facts(shard).failed
                for name, reason in shards.errors(shard)
            )
            write_text(path, "".join(failed))
        else:
            path.unlink(missing_ok=True)
    missing = len(shards.missing())
    if missing:
        logger.info(
            "%d of %d shards are in work by other processes", missing, shards.manifest.shards
        )
    elif summary.images == 0:
        raise DataError(f"none of the {shards.manifest.images} images could be read; see {path}")
    return summary
