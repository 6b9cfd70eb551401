"""What `masks` and `predict` share: where to, labelling into a file or shards, and what is told."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from soloist.cli.runs import DONE, SOME_FAILED, failures_status
from soloist.config import ReadingConfig
from soloist.errors import ConfigError, require
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    from soloist.data.sources import ImageRef
    from soloist.inference.label import OnResult
    from soloist.inference.label_shards import ShardJob, Work

# Above so many images one JSON file is slow to make and to read.
MANY_IMAGES = 100_000

logger = logging.getLogger("soloist")


@dataclass(frozen=True)
class Shown:
    """What a labelling shows to people and scripts beside its file.

    Attributes:
        score: Masks of a lower one are in the file, but not shown.
        pictures: Folder for pictures of the masks; None for none.
        as_json: Lines of JSON on standard output instead of paths.
        remedy: What helps where nothing is found.
    """

    score: float = 0.0
    pictures: Path | None = None
    as_json: bool = False
    remedy: str = ""


@dataclass(frozen=True)
class Sharding:
    """How a very large set is labelled into a folder of shards.

    Attributes:
        size: Images a shard.
        engine: `local` or `ray`.
        ray_workers: Processes on Ray; None for as many as there are GPUs or cores.
    """

    size: int
    engine: str
    ray_workers: int | None

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


def folder_for(images: list[str], model: str | None, *, overwrite: bool, reuse: bool) -> Path:
    """Where predictions go without --out: `runs/predict/` and the name of the first source.

    Where other predictions are already, the name gets a number. What the same command began, or
    with `reuse` finished, is resumed.

    Args:
        images: The sources.
        model: As for `predict`.
        overwrite: Take the folder without a number, whatever is in it.
        reuse: A file that the same command finished is no obstacle.
    """
    from soloist.data.coco.partial import head_path, is_finished
    from soloist.data.coco.read import read_json
    from soloist.data.web import address_name, is_address

    first = images[0]
    if is_address(first):
        first = address_name(first)
    plain = [part for part in Path(first).absolute().parts if not re.search(r"[*?\[]", part)]
    name = Path(plain[-1]).stem or "images"
    for number in count(1):
        folder = Path("runs", "predict", name if number == 1 else f"{name}-{number}")
        file = folder / "masks.json"
        begun = head_path(file)
        if overwrite or not folder.exists():
            return folder
        if is_finished(file):
            made = read_json(file).get("info", {}) if reuse else {}
        else:
            made = read_json(begun) if begun.is_file() else None
        ours = {"images": images, "model": model or "bundled"}
        if made is None or ours.items() <= made.items():
            return folder
    raise AssertionError("there is always another number")


def images_to_label(sources: list[str], reading: ReadingConfig) -> list[ImageRef]:
    """The images of `masks` and `predict`, their sizes compared with those that sources state."""
    from soloist.data.datasets.frames import check_stated
    from soloist.data.sources import find_images

    images = find_images(sources, reading)
    check_stated(images, " ".join(sources))
    return images


def label(
    title: str,
    sources: list[str],
    make_labeler: Any,
    *,
    out: Path,
    shown: Shown,
    reading: ReadingConfig,
    short_side: int | None,
    settings: dict[str, Any],
    overwrite: bool,
    sharding: Sharding | None,
    categories: Mapping[int, str] | None = None,
) -> int:
    """Labels images into a COCO file or shards: what `masks` and `predict` share.

    A file that the same command has finished is left as it is; where images are new or have
    changed, these are labelled and the rest of it is kept.
    """
    from soloist.data.coco.types import CATEGORIES
    from soloist.data.drawing.overlays import OverlayWriter

    categories = categories or CATEGORIES
    settings = {"command": title, "images": sources, **settings}
    on_result = None
    if shown.pictures is not None:
        on_result = OverlayWriter(shown.pictures.absolute(), score_threshold=shown.score)
    images: list[ImageRef] = []
    if sharding is None:
        from soloist.inference.label import errors_path

        images = images_to_label(sources, reading)
        failed = _label_file(
            title,
            images,
            make_labeler,
            out,
            short_side=short_side,
            settings=settings,
            overwrite=overwrite,
            categories=categories,
            on_result=on_result,
        )
        path, found = errors_path(out), True
    else:
        from soloist.inference.label import report_labels
        from soloist.inference.label_shards import ERRORS, ShardJob, label_shards
        from soloist.runtime.stopping import listening

        job = ShardJob(
            out.absolute(), title, make_labeler, short_side, on_result, categories, reading
        )
        with listening():
            summary = label_shards(
                job,
                partial(images_to_label, sources, reading),
                settings=settings,
                shard_size=sharding.size,
                overwrite=overwrite,
                work=sharding.work(job),
            )
        report_labels(title, summary)
        failed, path, found = summary.failed, out / ERRORS, summary.instances > 0
    status = failures_status(failed, path)
    if launched().rank != 0:
        return status
    if sharding is None and len(images) <= MANY_IMAGES:
        status = max(status, _tell_found(title, out, shown))
    elif not found:
        status = _found_nothing(title, shown.remedy)
    if shown.as_json:
        sys.stdout.writelines(_json_lines(out, {one.name: one.path for one in images}, path))
    else:
        paths = [out] if shown.pictures is None else [out, shown.pictures]
        sys.stdout.write("".join(f"{one}\n" for one in paths))
    return status


def _label_file(
    title: str,
    images: list[ImageRef],
    make_labeler: Any,
    out: Path,
    *,
    short_side: int | None,
    settings: dict[str, Any],
    overwrite: bool,
    categories: Mapping[int, str],
    on_result: OnResult | None,
) -> int:
    """Labels images into one COCO file, unless that is finished.

    Returns:
        Images that could not be read.
    """
    from soloist.inference.label import (
        changes_since,
        errors_path,
        is_made,
        label_images,
        opened_output,
        report_labels,
    )
    from soloist.runtime.error_log import read_errors
    from soloist.runtime.stopping import listening

    keep = not overwrite and is_made(out, settings)
    if keep:
        changes = changes_since(out, images)
        if not changes:
            logger.info("%s is finished already", out)
            return len(read_errors(errors_path(out)))
        logger.warning(
            "%s: of its images %s; what is new or changed is labelled, the rest is kept",
            out,
            changes,
        )
    if len(images) > MANY_IMAGES:
        logger.warning(
            "%d images into one JSON file: --out FOLDER --shard-size 1000 needs less memory "
            "and lets more processes help; `soloist merge` then makes the file",
            len(images),
        )
    with listening(), opened_output(out, overwrite=overwrite or keep) as errors:
        summary = label_images(
            images,
            make_labeler(),
            out,
            title=title,
            short_side=short_side,
            settings=settings,
            errors=errors,
            categories=categories,
            overwrite=overwrite,
            keep=keep,
            on_result=on_result,
        )
    report_labels(title, summary)
    return errors.count


def _tell_found(title: str, out: Path, shown: Shown) -> int:
    """Says how many masks of a file are shown, and what to do where there is none.

    Returns:
        The exit code.
    """
    from soloist.data.coco.read import load_coco

    file = load_coco(out)
    scores = [one.score for several in file.annotations.values() for one in several]
    if not scores:
        return _found_nothing(title, shown.remedy)
    good = sum(score >= shown.score for score in scores)
    if good == 0:
        logger.warning(
            "%s: none of the %d masks has the score %g that is shown, the best has %.2f; "
            "--min-score %.2g shows it; %s",
            title,
            len(scores),
            shown.score,
            max(scores),
            max(scores) * 0.9,
            shown.remedy,
        )
        return SOME_FAILED
    if shown.score > 0:
        logger.info(
            "%s: %d masks of score %g or more%s; %s has all %d",
            title,
            good,
            shown.score,
            "" if shown.pictures is None else " are drawn",
            out.name,
            len(scores),
        )
    return DONE


def _found_nothing(title: str, remedy: str) -> int:
    logger.warning("%s: done, but nothing was found; %s", title, remedy)
    return SOME_FAILED


def _json_lines(out: Path, paths: Mapping[str, Path], errors: Path | None) -> Iterator[str]:
    """A line of JSON for each image of a COCO file, then for each image that failed."""
    from soloist.data.coco.read import load_coco
    from soloist.runtime.error_log import read_errors

    file = load_coco(out)
    for image in file.images:
        objects = [
            {
                "id": one.id,
                "category": file.categories.get(one.category_id),
                "score": one.score,
                "box_xywh": one.box_xywh,
                "area": one.area,
                "mask": one.segmentation,
            }
            for one in file.annotations[image.id]
        ]
        path = paths.get(image.file_name)
        head = {"image": image.file_name, "path": None if path is None else path.as_posix()}
        size = {"height": image.height, "width": image.width}
        yield json.dumps({**head, **size, "objects": objects}) + "\n"
    for entry in [] if errors is None else read_errors(errors):
        yield json.dumps({"image": entry["image"], "error": entry["error"]}) + "\n"
