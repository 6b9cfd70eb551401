"""One COCO file from the shards of a very large set, in memory that does not grow with it."""

from __future__ import annotations

import time
from pathlib import Path

from soloist.data.coco.shard_rows import facts_of_all, write_shards
from soloist.data.coco.shards import ShardFolder
from soloist.data.coco.write import embeddings_path
from soloist.errors import DataError
from soloist.inference.label import LabelSummary
from soloist.inference.output_file import check_output
from soloist.runtime.files import shown
from soloist.runtime.lock import locked_output
from soloist.runtime.progress import track

# A message names up to N missing shards.
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
    facts = facts_of_all(shards, numbers)
    if facts.images == 0:
        raise DataError(f"none of the images of {shown(folder)} could be read")
    # Three columns of readers: images, objects, embeddings.
    with (
        locked_output(out, sidecars=[embeddings_path(out)]),
        track("merge", 3 * len(numbers)) as tracker,
    ):
        write_shards(
            out,
            shards,
            numbers,
            facts,
            info=shards.manifest.settings,
            categories=shards.manifest.categories,
            advance=tracker.advance,
        )
    return LabelSummary(facts.images, facts.instances, facts.failed, time.monotonic() - start)
