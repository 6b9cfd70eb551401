"""The report of a file of masks, or of a sample of a folder of shards."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soloist.data.coco.entries import read_annotation_entry
from soloist.data.coco.faults import Gate
from soloist.data.coco.read import load_coco, read_json
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.datasets.image_paths import image_paths, refuse_without_images
from soloist.data.datasets.labels import Reading
from soloist.data.exports.source import read_source
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, DataError
from soloist.evaluation.evaluate import Metrics, load_ground_truth, measure
from soloist.report.content import ImageVerdict, ReportContent, ReportStage
from soloist.report.run import MAX_IMAGES, image_verdicts, moved, write_tracked
from soloist.runtime.files import shown

if TYPE_CHECKING:
    from soloist.data.coco.shards import ShardFolder

logger = logging.getLogger(__name__)

MASKS_PER_IMAGE = 10
"""The slider begins where N masks an image are left: a file is looked at, not compared."""
_BEST_COUNT = 100  # Predictions an image that count, as COCO has it.


def write_prediction_report(
    predictions: Path,
    *,
    out: Path | None = None,
    images: Sequence[str] = (),
    ground_truth: Path | None = None,
    how: Reading = Reading(),
    max_images: int = MAX_IMAGES,
) -> Path:
    """Writes a page about the masks of a COCO file or of a folder of shards.

    Args:
        predictions: COCO file, COCO result list (with `ground_truth`, which has its images), or a
            folder of `predict` or `masks` with --shard-size, of which the shards that are finished
            are sampled.
        out: The page; None is `NAME.report.html` beside the file or folder.
        images: Where the images are; if empty, where the file was made from, or beside it.
        ground_truth: COCO file or data set of the true objects.
        how: How that is read.
        max_images: Most images shown.

    Returns:
        The path of the page.

    Raises:
        DataError: If a file cannot be read, or none of the images is found.
        RunError: If the page cannot be written.
        ConfigError: If a folder of shards comes with a ground truth.
    """
    truth = None if ground_truth is None else load_ground_truth(ground_truth, how)
    if predictions.is_dir():
        if truth is not None:
            raise ConfigError("--gt is for a file of masks; make one with `soloist merge`")
        file, refs, total = _sample(predictions, images, max_images)
    else:
        file, paths = _read(predictions, images, truth, how)
        refs = [
            ImageRef(paths[one.id], one.file_name, one.id) for one in file.images if one.id in paths
        ]
        total = len(file.images)
    results: dict[str, Metrics] = {}
    verdicts: Mapping[str, ImageVerdict] = {}
    title = predictions.stem
    if truth is not None:
        evaluation = measure(file, truth, max_dets=_BEST_COUNT)
        results[title] = evaluation.metrics
        verdicts = image_verdicts(evaluation.images_scored)
    known = {ref.name for ref in refs}
    absent = [image.file_name for image in file.images if image.file_name not in known]
    count = len(file.images)
    sample = f"A sample: {count:,} of {total:,} images." if count < total else ""
    return write_tracked(
        out or predictions.with_name(f"{title}.report.html"),
        ReportContent(
            title=f"Masks of {predictions.name}",
            summary=sample,
            results=results,
            stages=[ReportStage(title, title, file, verdicts)],
            images=refs,
            ground_truth=truth,
            config=file.info,
            errors=[
                {"image": name, "stage": "report", "error": "was not found"} for name in absent
            ],
            max_images=max_images,
            masks_per_image=MASKS_PER_IMAGE,
        ),
    )


def _read(
    predictions: Path, images: Sequence[str], truth: CocoFile | None, how: Reading
) -> tuple[CocoFile, dict[int, Path]]:
    """A file of masks, and where its images are.

    Raises:
        DataError: If it cannot be used, or none of its images is there.
    """
    if not isinstance(read_json(predictions), list):
        # By the rules of `data check`: it may well be a file of true objects.
        own = Reading(images=images or None, strict=how.strict, exif=how.exif)
        file, paths = read_source(predictions, own)
        if file.boxes_alone:
            logger.warning(
                "%s: %d of %d objects are boxes alone: left out",
                shown(predictions),
                file.boxes_alone,
                len(file),
            )
        refuse_without_images(file)
        if not paths:
            raise DataError(
                f"wanted the {len(file.images)} images of {shown(predictions)}, found none of them "
                "in its folder; add --images FOLDER"
            )
        return file, paths
    if truth is None:
        raise DataError(
            f"wanted a COCO file with the names of its images, got {shown(predictions)}, a list of "
            "results; add --gt with the COCO file it belongs to"
        )
    gate = Gate(strict=how.strict)
    file = load_coco(predictions, images=truth.images, report=gate)
    gate.tell(predictions)
    return file, image_paths(file, images or [str(truth.path)])


def _sample(
    folder: Path, images: Sequence[str], count: int
) -> tuple[CocoFile, list[ImageRef], int]:
    """Some images of the finished shards with their masks, evenly spread.

    Returns:
        file: What a COCO file of these images would hold.
        refs: The images.
        total: How many images the finished shards have.
    """
    # Wants an extra, which is asked for where folders of shards are.
    from soloist.data.coco.shards import ShardFolder

    shards = ShardFolder(folder)
    numbers = shards.finished()
    ends = np.cumsum([shards.facts(number).images for number in numbers])
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        raise DataError(
            f"wanted a finished shard with images in {shown(folder)}, got none; run the command "
            "that makes them"
        )
    places = np.arange(min(count, total)) * total // min(count, total)
    own = np.searchsorted(ends, places, side="right")
    found: list[CocoImage] = []
    refs: list[ImageRef] = []
    annotations: dict[int, tuple[CocoAnnotation, ...]] = {}
    for at in np.unique(own).tolist():
        first = int(ends[at - 1]) if at else 0
        wanted = {int(place) - first for place in places[own == at]}
        listed = enumerate(shards.images(numbers[at]))
        chosen = {image.id: image for place, image in listed if place in wanted}
        found += chosen.values()
        refs += [ref for ref in shards.manifest.entries(numbers[at]) if ref.id in chosen]
        annotations |= _masks_on(chosen, shards, numbers[at])
    if images:
        refs = moved(refs, images)
    settings, categories = shards.manifest.settings, shards.manifest.categories
    file = CocoFile(folder, tuple(found), annotations, categories, None, info=settings)
    return file, refs, total


def _masks_on(
    images: Mapping[int, CocoImage], shards: ShardFolder, number: int
) -> dict[int, tuple[CocoAnnotation, ...]]:
    """The masks of some images of a shard, by the images' ids."""
    grouped: dict[int, list[CocoAnnotation]] = {key: [] for key in images}
    for index, record in enumerate(shards.annotations(number)):
        key = record["image_id"]
        if key in images:
            where = f"object {index} of {shown(shards.file(number))}"
            grouped[key].append(read_annotation_entry(record, images[key], index, where))
    return {key: tuple(several) for key, several in grouped.items()}
