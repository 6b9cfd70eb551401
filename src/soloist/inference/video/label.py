"""Labels the frames of a video into a COCO file whose masks have identities."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soloist.config import ReadingConfig, TrackConfig
from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.coco.partial import PartialShards
from soloist.data.coco.shard_rows import ShardRow, facts_of_all, write_shards
from soloist.data.coco.types import CATEGORIES, CocoImage
from soloist.data.drawing.rendering import draw_masks, mask_colors
from soloist.errors import DataError
from soloist.inference.label import LabelSummary, row_of
from soloist.inference.reading_ahead import Labeler
from soloist.inference.video.files import Frame, VideoReader, VideoWriter
from soloist.inference.video.tracking import Linker
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.files import atomic_path, plain_json
from soloist.runtime.progress import track
from soloist.runtime.stopping import stop_if_asked

# Results of N frames wait in memory for being written together.
FRAMES_PER_SHARD = 50


def label_video(
    path: Path,
    labeler: Labeler,
    out: Path,
    *,
    config: TrackConfig,
    reading: ReadingConfig,
    settings: Mapping[str, Any],
    errors: ErrorLog,
    categories: Mapping[int, str] = CATEGORIES,
    drawn: Path | None = None,
) -> LabelSummary:
    """Labels a video, from its beginning: identities depend on all frames before.

    Args:
        path: The video.
        labeler: Gives the instances of one frame.
        out: The COCO file; an image of it is a frame, `clip.mp4/frame_000012`, an annotation has a
            `track_id`.
        config: Which frames and masks, and how masks are linked.
        reading: The largest frame.
        settings: What the result depends on; part of the file's `info`.
        errors: Receives a damaged video; the frames before the damage are kept.
        categories: Names of the labeler's classes by category id, in the order of its labels.
        drawn: A video to write of the frames with their masks, a steady colour for each identity.

    Raises:
        DataError: If not one frame can be read.
        StoppedError: If the process was asked to stop; the same call starts over.
    """
    start = time.monotonic()
    shards = PartialShards(out)
    shards.open(settings, resume=False)
    linker = Linker(config)
    rows: list[ShardRow] = []
    masks = 0
    with ExitStack() as stack:
        video = stack.enter_context(
            VideoReader(path, every=config.every, max_pixels=reading.max_pixels)
        )
        writer = None
        if drawn is not None:
            temporary = stack.enter_context(atomic_path(drawn))
            writer = stack.enter_context(VideoWriter(temporary, video.facts.rate / config.every))
        total = -(-video.facts.frames // config.every)
        tracker = stack.enter_context(track(path.name, total))
        for frame in _sound(video, path.name, errors):
            size = (frame.pixels.shape[0], frame.pixels.shape[1])
            found = labeler(frame.pixels, size)
            found = found.filter(found.scores >= config.score)
            objects = encoded(found)
            labels = None if objects.labels is None else objects.labels.tolist()
            ids = linker(objects.masks.rles, objects.embeddings.numpy(), labels)
            objects = replace(objects, track_ids=torch.tensor(ids, dtype=torch.int64))
            name = f"{path.name}/frame_{frame.number:06d}"
            rows.append(row_of(CocoImage(frame.number + 1, name, *size), objects, categories))
            masks += len(ids)
            if len(rows) == FRAMES_PER_SHARD:
                shards.add(rows)
                rows.clear()
            if writer is not None:
                writer.add(_drawn(frame.pixels, objects.masks, ids))
            tracker.advance(note=f"{masks} masks")
            stop_if_asked()
        if rows:
            shards.add(rows)
        numbers = shards.finished()
        if not numbers:
            raise DataError(f"no frame of {path} can be read; see {errors.path or 'the log'}")
    facts = facts_of_all(shards, numbers)
    times = {"frames": video.facts.frames, "frames_per_second": float(video.facts.rate)}
    info = plain_json({**settings, "video": times})
    seconds = time.monotonic() - start
    write_shards(out, shards, numbers, facts, info=info, categories=categories)
    shards.remove()
    return LabelSummary(facts.images, facts.instances, errors.count, seconds)


def _sound(video: VideoReader, name: str, errors: ErrorLog) -> Iterator[Frame]:
    """The frames up to where the video is damaged."""
    try:
        yield from video.frames()
    except DataError as error:
        errors.add(name, "predict", error)


def _drawn(pixels: NDArray[np.uint8], masks: EncodedMasks, ids: list[int]) -> NDArray[np.uint8]:
    if not ids:
        return pixels
    colors = mask_colors(max(ids))[np.array(ids) - 1]
    return draw_masks(pixels, np.stack([*masks]), colors=colors)
