"""A set of images that is labelled: into one COCO file or a folder of shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from soloist.config import ReadingConfig
from soloist.data.coco.types import CATEGORIES
from soloist.data.datasets.frames import check_stated
from soloist.data.drawing.overlays import OverlayWriter
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError, require
from soloist.inference.label import LabelSummary, label_images, report_labels
from soloist.inference.output_file import changes_since, errors_path, opened_output
from soloist.inference.reading_ahead import Labeler
from soloist.runtime.error_log import read_errors
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    from soloist.inference.label_shards import ShardJob, Work

MAX_IMAGES_IN_ONE_FILE = 100_000
"""Above N images one JSON file is slow to make and to read."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sharding:
    """How a very large set is labelled into a folder of shards.

    Attributes:
        size: Images a shard.
        engine: `local` or `ray`.
        ray_workers: Processes on Ray; None for as many as there are GPUs or cores.
    """

    size: int
    engine: str = "local"
    ray_workers: int | None = None

    @classmethod
    def checked(
        cls, out: Path, size: int | None, engine: str, ray_workers: int | None
    ) -> Self | None:
        """What the options say; None for one COCO file.

        Raises:
            ConfigError: If they do not fit each other, or need a package that is absent.
        """
        if ray_workers is not None and engine != "ray":
            raise ConfigError("--ray-workers has no effect without --engine ray; leave it out")
        if size is None:
            if engine == "ray":
                raise ConfigError("--engine ray labels shards: add --shard-size, such as 1000")
            return None
        if out.suffix.lower() == ".json":
            raise ConfigError(
                f"--shard-size makes a folder, got --out {out}; name a folder, or leave it out"
            )
        if ray_workers is not None and ray_workers < 1:
            raise ConfigError(f"--ray-workers must be at least 1, got {ray_workers}")
        require("pyarrow", extra="parquet", wanted="--shard-size")
        if engine == "ray":
            require("ray", extra="ray", wanted="--engine ray")
            if launched().world_size > 1:
                raise ConfigError("--engine ray starts its own processes; run it without torchrun")
        return cls(size, engine, ray_workers)

    def work(self, job: ShardJob) -> Work | None:
        """What labels the shards; None for this process."""
        if self.engine == "local":
            return None
        from soloist.inference.on_ray import work_on_ray

        return work_on_ray(job, self.ray_workers)


@dataclass(frozen=True)
class LabelledSet:
    """A file or folder of masks that is done.

    Attributes:
        out: The COCO file, or the folder of shards.
        failed: Images that could not be read, listed in `errors`.
        errors: The account of these.
        score: Masks of a lower one are in the file, but not shown.
        summary: What was found; None if it was finished before.
        images: The images of a COCO file.
    """

    out: Path
    failed: int
    errors: Path | None
    score: float = 0.0
    summary: LabelSummary | None = None
    images: tuple[ImageRef, ...] = ()


def images_to_label(sources: list[str], reading: ReadingConfig) -> list[ImageRef]:
    """The images of `masks` and `predict`, their sizes compared with those that sources state.

    Raises:
        DataError: If there is none, or a size is another.
    """
    images = find_images(sources, reading)
    check_stated(images, " ".join(sources))
    return images


@dataclass(frozen=True)
class Labelling:
    """What `extract_masks` and `predict` share.

    Attributes:
        title: The verb, for messages and the file's `info`.
        sources: What the user named.
        out: The COCO file, or the folder of shards.
        make_labeler: Makes what gives the instances of an image, on another machine too.
        short_side: As in `label_images`.
        reading: How images are read.
        settings: What the result depends on.
        overlays: Folder for images of the masks; None for none.
        score: Masks of a lower score are not in the images.
        categories: Names of the labeler's classes.
        sharding: Of a folder of shards; None for one COCO file.
        overwrite: Replace a finished file.
    """

    title: str
    sources: list[str]
    out: Path
    make_labeler: Callable[[], Labeler]
    short_side: int | None
    reading: ReadingConfig
    settings: Mapping[str, Any]
    overlays: Path | None = None
    score: float = 0.0
    categories: Mapping[int, str] = field(default_factory=lambda: CATEGORIES)
    sharding: Sharding | None = None
    overwrite: bool = False

    def run(self) -> LabelledSet:
        """Labels the images.

        A file that the same command has finished is left as it is; where images are new or have
        changed, these are labelled and the rest of it is kept.
        """
        settings = {"command": self.title, "images": self.sources, **self.settings}
        return self._into_file(settings) if self.sharding is None else self._into_shards(settings)

    def found(self) -> list[ImageRef]:
        """The images."""
        return images_to_label(self.sources, self.reading)

    @property
    def _draw(self) -> OverlayWriter | None:
        if self.overlays is None:
            return None
        return OverlayWriter(self.overlays.absolute(), score_threshold=self.score)

    def _into_file(self, settings: Mapping[str, Any]) -> LabelledSet:
        images = self.found()
        changes = None if self.overwrite else changes_since(self.out, settings, images)
        keep = changes is not None
        if keep and not changes:
            logger.info("%s is finished already", self.out)
            path = errors_path(self.out)
            failed = len(read_errors(path))
            return LabelledSet(self.out, failed, path, self.score, None, tuple(images))
        if keep:
            logger.warning(
                "%s: of its images %s; what is new or changed is labelled, the rest is kept",
                self.out,
                changes,
            )
        if len(images) > MAX_IMAGES_IN_ONE_FILE:
            logger.warning(
                "%d images into one JSON file: --out FOLDER --shard-size 1000 needs less memory "
                "and lets more processes help; `soloist merge` then makes the file",
                len(images),
            )
        with opened_output(self.out, overwrite=self.overwrite or keep) as errors:
            summary = label_images(
                images,
                self.make_labeler(),
                self.out,
                title=self.title,
                short_side=self.short_side,
                settings=settings,
                errors=errors,
                categories=self.categories,
                existing="keep" if keep else "replace" if self.overwrite else "refuse",
                on_result=self._draw,
            )
        report_labels(self.title, summary)
        return LabelledSet(self.out, errors.count, errors.path, self.score, summary, tuple(images))

    def _into_shards(self, settings: Mapping[str, Any]) -> LabelledSet:
        from soloist.inference.label_shards import ERRORS, ShardJob, label_shards

        assert self.sharding is not None
        job = ShardJob(
            self.out.absolute(),
            self.title,
            self.make_labeler,
            self.short_side,
            self._draw,
            self.categories,
            self.reading,
        )
        summary = label_shards(
            job,
            self.found,
            settings=settings,
            shard_size=self.sharding.size,
            overwrite=self.overwrite,
            work=self.sharding.work(job),
        )
        report_labels(self.title, summary)
        return LabelledSet(self.out, summary.failed, self.out / ERRORS, self.score, summary)
