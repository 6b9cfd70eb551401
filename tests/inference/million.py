"""A simulated very large set: planned, labelled and merged; prints time and memory as JSON.

    python tests/inference/million.py FOLDER IMAGES_PLANNED IMAGES_LABELLED

Images are not read: a stand-in gives the same few pixels for each, and a mask for each tenth.
Seconds are those of the processor, megabytes the growth of the process's peak since the imports.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soloist.data.coco.manifest import Manifest, write_manifest
from soloist.data.sources import ImageRef
from soloist.inference import reading_ahead
from soloist.inference.label_shards import ShardJob, label_shards
from soloist.inference.merge import merge_shards
from soloist.structures import Instances

SIZE = (48, 64)
PIXELS = np.zeros((6, 8, 3), dtype=np.uint8)
ROOT = Path("/data/photos")


def main(folder: Path, planned: int, labelled: int) -> None:
    setattr(reading_ahead, "read_with_size", read)  # noqa: B010  # a stand-in, as monkeypatch would
    start = peak()
    facts: dict[str, Any] = {"start": {"megabytes": round(start)}}

    def measured(stage: str, act: Callable[[], object]) -> None:
        before = time.process_time()
        act()
        seconds = time.process_time() - before
        facts[stage] = {"seconds": round(seconds, 1), "megabytes": round(peak() - start)}

    plan = folder / "planned.parquet"
    measured("plan", lambda: write_manifest(plan, images(planned), {}, shard_size=1000))
    facts["planned"] = Manifest(plan).images
    job = ShardJob(folder / "shards", "masks", now_and_then, short_side=100)
    find = partial(images, labelled)
    measured("label", lambda: label_shards(job, find, settings={}, shard_size=1000))
    merged = folder / "merged.json"
    measured("merge", lambda: merge_shards(folder / "shards", merged))
    with merged.open(encoding="utf-8") as lines:
        kinds = [("images", '{"id": ', '"file_name"'), ("annotations", '{"id": ', '"image_id"')]
        facts["merged"] = dict.fromkeys(("images", "annotations"), 0)
        for line in lines:
            for kind, beginning, key in kinds:
                facts["merged"][kind] += line.startswith(beginning) and key in line
    sys.stdout.write(json.dumps(facts) + "\n")


def read(path: Path, **_: object) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """In place of `read_with_size`: the pixels of an image that is not there."""
    return PIXELS, SIZE


def images(count: int) -> Iterator[ImageRef]:
    for number in range(count):
        name = f"{number // 1000:04d}/photo-of-something-{number:07d}.jpg"
        yield ImageRef(ROOT / name, name)


def now_and_then() -> reading_ahead.Labeler:
    """One small mask on each tenth image."""
    calls = 0

    def labeler(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        nonlocal calls
        calls += 1
        count = int(calls % 10 == 0)
        masks = torch.zeros((count, *size), dtype=torch.bool)
        masks[:, 3:9, 5:9] = True
        boxes = torch.tensor([[5.0, 3, 9, 9]]).repeat(count, 1)
        return Instances(size, masks, torch.full((count,), 0.5), boxes, torch.rand(count, 128))

    return labeler


def peak() -> float:
    """Megabytes of memory this process had at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
