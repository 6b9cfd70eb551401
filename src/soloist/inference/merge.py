"""One COCO file from the shards of a very large set, in memory that does not grow with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from soloist.data.coco.shards import ShardFolder
from soloist.data.coco.write import EmbeddingBlocks, embeddings_path, write_coco
from soloist.errors import DataError
from soloist.inference.label import LabelSummary, check_output
from soloist.runtime.files import shown
from soloist.runtime.lock import locked_output
from soloist.runtime.progress import Tracker, track
from soloist.runtime.stopping import stop_if_asked

# A message names at most so many missing shards.
_NAMED = 10


def merge_shards(
    folder: Path, out: Path, *, partial: bool = False, overwrite: bool = False
) -> LabelSummary:
    """Writes what the command would have written into one file.

    Args:
        folder: Made by `label_shards`.
        out: The COCO file; its embeddings go beside it.
        partial: Leave out shards that are missing.
        overwrite: Replace a file that is there.

    Returns:
        What the file holds; `failed` counts the images it lacks.

    Raises:
        RunError: If the file exists and is not to be replaced, cannot be written, or another
            command is writing it.
        DataError: If shards are missing or damaged, or hold no image at all.
        StoppedError: If the process was asked to stop; nothing is written.
    """
    start = time.monotonic()
    check_output(out, overwrite=overwrite)
    shards = ShardFolder(folder)
    missing = shards.missing()
    if missing and not partial:
        names = ", ".join(f"{number:05d}" for number in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError(
            f"wanted all {shards.manifest.shards} shards, {shown(folder)} lacks {names}{more}; run "
            "the command that makes them again, or add --partial"
        )
    numbers = shards.finished()
    if not numbers:
        raise DataError(f"no shard of {shown(folder)} is finished; run the command that makes them")
    facts = [shards.facts(number) for number in numbers]
    images = sum(one.images for one in facts)
    if images == 0:
        raise DataError(f"none of the images of {shown(folder)} could be read")
    instances = sum(one.instances for one in facts)
    size = max(one.embedding_size for one in facts)
    # Three columns of readers: images, objects, embeddings.
    with (
        locked_output(out, sidecars=[embeddings_path(out)]),
        track("merge", 3 * len(numbers)) as tracker,
    ):

        def each(read: Any) -> Iterator[Any]:
            return _each(numbers, read, tracker)

        write_coco(
            out,
            chain.from_iterable(each(shards.images)),
            _numbered(chain.from_iterable(each(shards.annotations))),
            info=shards.manifest.settings,
            embeddings=EmbeddingBlocks((instances, size), each(shards.embeddings)),
            categories=shards.manifest.categories,
        )
    failed = sum(one.failed for one in facts)
    return LabelSummary(images, instances, failed, time.monotonic() - start)


def _each(numbers: list[int], read: Any, tracker: Tracker) -> Iterator[Any]:
    for number in numbers:
        stop_if_asked()
        yield read(number)
        tracker.advance()


def _numbered(annotations: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
        yield annotation
