"""The same work on a Ray cluster: Ray Data hands the missing shards to a pool of workers.

A worker that dies is started again by Ray, and its shard is done anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from soloist.data.coco.shards import ShardFolder
from soloist.errors import RunError, SoloistError
from soloist.inference.label_shards import ShardJob, ShardWorker, Work
from soloist.runtime.progress import Tracker
from soloist.runtime.stopping import at_once

# Ray keeps each block in its books; shards of one block stay with one worker.
MAX_BLOCKS = 2_000


def work_on_ray(job: ShardJob, workers: int | None = None) -> Work:
    """Work for `label_shards` on the cluster that Ray finds, or on a local Ray.

    Args:
        job: What to do.
        workers: How many processes; None for one a GPU, or without GPUs one a core. Each takes
            a GPU if the cluster has some.

    Returns:
        What labels the missing shards; it raises RunError for a mistake that a worker finds, and
        StoppedError if this process is asked to stop: what workers have begun is then lost.
    """

    def work(shards: ShardFolder, tracker: Tracker) -> None:
        if not ray.is_initialized():
            ray.init(logging_level=logging.WARNING)
        # From here on: starting, Ray takes the signals over. The files are the workers' business.
        with at_once():
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            resources = ray.cluster_resources()
            with_gpus = resources.get("GPU", 0) > 0
            count = workers or max(1, int(resources["GPU" if with_gpus else "CPU"]))
            missing = shards.missing()
            done = ray.data.from_items(
                [{"shard": shard} for shard in missing],
                override_num_blocks=min(len(missing), MAX_BLOCKS),
            ).map_batches(
                _RayWorker,
                fn_constructor_args=(job, Path.cwd()),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(count, len(missing))),
                num_gpus=1 if with_gpus else 0,
            )
            for row in done.iter_rows():
                if row["error"]:
                    raise RunError(row["error"])
                tracker.advance(int(row["images"]))

    return work


class _RayWorker:
    """A worker of the pool: makes its labeler once and labels the shards it is given."""

    def __init__(self, job: ShardJob, folder: Path) -> None:
        # Where the command was started, so that relative paths mean the same.
        if folder.is_dir():
            os.chdir(folder)
        self._job = job
        self._shards = ShardFolder(job.folder)
        self._worker: ShardWorker | None = None

    def __call__(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
        (shard,) = (int(shard) for shard in batch["shard"])
        try:
            if self._worker is None:
                self._worker = ShardWorker(self._job, self._shards, self._job.make_labeler())
            self._worker(shard)
        except SoloistError as error:
            # As a value: Ray would wrap it in errors of its own and lose it.
            return {"images": [0], "error": [str(error)]}
        return {"images": [self._shards.manifest.size(shard)], "error": [""]}
