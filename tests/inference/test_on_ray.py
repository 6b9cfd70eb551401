"""The worker on a local Ray of two processes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.faults.table import fault

pytest.importorskip("ray", reason="the engine needs Ray: pip install '.[ray]'")

import ray

from soloist.data.coco.shards import ShardFolder
from soloist.data.sources import find_images
from soloist.errors import RunError
from soloist.inference.label import label_images
from soloist.inference.label_shards import ERRORS, ShardJob, label_shards
from soloist.inference.merge import merge_shards
from soloist.inference.on_ray import work_on_ray
from soloist.inference.output_file import errors_beside
from soloist.inference.reading_ahead import Labeler
from soloist.structures import Instances

SETTINGS = {"command": "masks"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
        # Workers stand back by default, and starve where a machine has other work.
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, logging_level=logging.WARNING
        )
        yield
        ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_two_workers_of_which_one_is_killed_finish_everything(
    images: Path, tmp_path: Path, toy_labeler: Labeler
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()

    def make() -> Labeler:
        # Made within, so that it travels to the workers, which know nothing of this file.
        import contextlib
        import os
        import signal

        import torch

        from soloist.structures import Instances

        def labeler(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
            (marks / f"worker-{os.getpid()}").touch()
            with contextlib.suppress(FileExistsError):
                (marks / "killed").touch(exist_ok=False)
                # In the middle of the first shard that anyone has in work.
                os.kill(os.getpid(), signal.SIGKILL)
            count = int(pixels[0, 0, 0]) % 4
            masks = torch.zeros((count, *size), dtype=torch.bool)
            masks[:, 1:4, 2:5] = True
            boxes = torch.tensor([[2.0, 1, 5, 4]]).repeat(count, 1)
            return Instances(size, masks, torch.full((count,), 0.5), boxes, torch.ones(count, 3))

        return labeler

    out = tmp_path / "shards"
    job = ShardJob(out, "masks", make, short_side=100)
    summary = label_shards(
        job,
        lambda: find_images(images),
        settings=SETTINGS,
        shard_size=2,
        work=work_on_ray(job, workers=2),
    )
    row = fault("kill -9 of a worker of Ray")
    row.injected += 1
    row.lost += ShardFolder(out).missing() != []
    assert (marks / "killed").is_file()
    assert len(list(marks.glob("worker-*"))) >= 2
    assert ShardFolder(out).missing() == []
    assert (summary.images, summary.failed) == (10, 1)
    merge_shards(out, tmp_path / "merged" / "all.json")
    plain = tmp_path / "plain" / "all.json"
    label_images(
        find_images(images),
        make(),
        plain,
        title="masks",
        short_side=100,
        settings=SETTINGS,
        errors=errors_beside(plain, overwrite=False),
    )
    merged = json.loads((tmp_path / "merged" / "all.json").read_text())
    row.differing += merged != json.loads(plain.read_text())
    assert merged == json.loads(plain.read_text())
    assert (out / ERRORS).read_text() == plain.with_name("all.errors.jsonl").read_text()


@pytest.mark.usefixtures("cluster")
def test_a_mistake_that_a_worker_finds_is_reported_in_one_line(
    images: Path, tmp_path: Path
) -> None:
    here = os.getpid()

    def make() -> Labeler:
        import os

        from soloist.errors import ConfigError

        if os.getpid() != here:
            raise ConfigError("no weights on this machine")
        return lambda pixels, size: Instances.empty(size)

    job = ShardJob(tmp_path / "shards", "masks", make, short_side=100)
    with pytest.raises(RunError, match=r"^no weights on this machine$"):
        label_shards(
            job,
            lambda: find_images(images),
            settings=SETTINGS,
            shard_size=6,
            work=work_on_ray(job, workers=1),
        )
