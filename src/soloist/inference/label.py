"""Labels a list of images one by one into a COCO file: the loop of `masks` and of `predict`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.partial import PartialShards
from soloist.data.coco.shard_rows import ShardRow, facts_of_all, write_shards
from soloist.data.coco.types import CATEGORIES, CocoImage
from soloist.data.coco.write import instances_to_annotations
from soloist.data.georeference import read_georeference
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.inference.output_file import check_output, is_made
from soloist.inference.reading_ahead import Labeler, Objects, each_labelled
from soloist.runtime.distributed import gather, on_main, processes, rank, run_on_all_ranks
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.files import one_line, plain_json
from soloist.runtime.progress import Tracker, duration, track
from soloist.runtime.stopping import stop_if_asked

logger = logging.getLogger(__name__)

Existing = Literal["refuse", "replace", "keep"]
"""What becomes of a file that is finished."""
OnResult = Callable[[ImageRef, NDArray[np.uint8], Objects], None]
"""Called with each image, its pixels and its instances, by the process that labels it."""


@dataclass(frozen=True)
class LabelSummary:
    """What a pass over images gave.

    Attributes:
        images: Images in the file.
        instances: Objects on them.
        failed: Images that could not be read, those of earlier runs of the file included.
        seconds: Time of this run.
        scores: (N,) scores of the objects; None where they were not noted.
    """

    images: int
    instances: int
    failed: int
    seconds: float
    scores: NDArray[np.float32] | None = None


def label_images(
    images: Sequence[ImageRef],
    labeler: Labeler,
    out: Path,
    *,
    title: str,
    short_side: int | None,
    settings: Mapping[str, Any],
    errors: ErrorLog,
    categories: Mapping[int, str] = CATEGORIES,
    existing: Existing = "refuse",
    on_result: OnResult | None = None,
) -> LabelSummary:
    """Labels images into a COCO file, continuing what a killed run left.

    Several processes share the images; the file is the same for any number of them.

    Args:
        images: The images.
        labeler: Gives the instances of one image.
        out: The COCO file.
        title: What the progress bar says.
        short_side: JPEGs may be decoded at reduced size down to this short side, in pixels; None
            decodes them whole.
        settings: What the result depends on; part of the file's `info`.
        errors: Where unreadable images are listed.
        categories: Names of the labeler's classes by category id, in the order of its labels.
        existing: What becomes of a finished file: `refuse` ends, `replace` replaces it, `keep`
            takes from one of the same settings what it has of images that are the files they were.
        on_result: Called with what was found on each image.

    Raises:
        RunError: If the file exists and is not to be replaced, or cannot be written.
        DataError: If none of the images can be read.
        StoppedError: If the process was asked to stop; what is finished is kept.
    """
    shards = PartialShards(out, images)

    def begin() -> list[int]:
        check_output(out, overwrite=existing != "refuse")
        shards.open(settings)
        if existing == "keep" and is_made(out, settings):
            shards.adopt(out)
        return shards.missing()

    left = on_main(begin)
    count_left = sum(len(shards.entries(shard)) for shard in left)
    own = left[rank() :: processes()]
    own_images = [image for shard in own for image in shards.entries(shard)]
    failures: list[tuple[str, str]] = []
    start = time.monotonic()

    def noted(tracker: Tracker) -> Iterator[ShardRow]:
        found = 0
        rows = labelled_rows(
            own_images, labeler, short_side, categories=categories, on_result=on_result
        )
        for count, row in enumerate(rows, 1):
            if row.error is not None:
                failures.append((row.file_name, row.error))
                errors.add(row.file_name, title, row.error)
            found += len(row.annotations)
            # The others are about as far.
            advanced = min(processes(), count_left - (count - 1) * processes())
            tracker.advance(advanced, note=f"{found} masks")
            yield row

    def label_share() -> None:
        with track(title, len(images), done=len(images) - count_left) as tracker:
            rows = noted(tracker)
            for shard in own:
                shards.write(shard, list(islice(rows, len(shards.entries(shard)))))
                stop_if_asked()

    run_on_all_ranks(label_share)
    failed = gather(failures)
    for name, reason in failed:
        errors.add(name, title, reason)

    def finish() -> LabelSummary:
        numbers = shards.finished()
        facts = facts_of_all(shards, numbers)
        if facts.images == 0:
            raise DataError(
                f"none of the {len(images)} images could be read; see {errors.path or 'the log'}"
            )
        seconds = time.monotonic() - start
        info = plain_json(settings)
        scores = write_shards(out, shards, numbers, facts, info=info, categories=categories)
        shards.remove()
        return LabelSummary(facts.images, facts.instances, len(failed), seconds, scores)

    return on_main(finish)


def report_labels(what: str, summary: LabelSummary) -> None:
    """Logs what a pass over images gave."""
    logger.info(
        "%s: %d on %d images (%.1f an image) in %s, %d images failed",
        what,
        summary.instances,
        summary.images,
        summary.instances / max(summary.images, 1),
        duration(summary.seconds),
        summary.failed,
    )


def labelled_rows(
    images: Sequence[ImageRef],
    labeler: Labeler,
    short_side: int | None,
    *,
    categories: Mapping[int, str],
    on_result: OnResult | None,
) -> Iterator[ShardRow]:
    """What becomes of each image, all of which have an id; arguments as in `label_images`."""
    for image, found in each_labelled(images, labeler, short_side):
        if isinstance(found, DataError):
            reason = one_line(found)
            yield ShardRow(image.name, None, (), np.zeros((0, 0), np.float32), reason)
            continue
        # First: an image that is in a shard is not done again.
        if on_result is not None:
            on_result(image, found.pixels, found.instances)
        assert image.id is not None
        entry = CocoImage(
            image.id,
            image.name,
            *found.size,
            read_georeference(image.path),
            file_state=found.file_state,
        )
        yield row_of(entry, found.instances, categories)


def row_of(
    image: CocoImage,
    instances: Objects,
    categories: Mapping[int, str],
) -> ShardRow:
    """The objects of an image as shards keep them; see `instances_to_annotations`."""
    return ShardRow(
        image.file_name,
        image,
        instances_to_annotations(instances, image.id, 1, categories),
        instances.embeddings.detach().cpu().numpy().astype(np.float32),
    )
