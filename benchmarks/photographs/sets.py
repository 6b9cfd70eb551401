"""Folders of photographs with true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.photographs.entries import digest

from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError, DataError, near_names
from soloist.evaluation.evaluate import load_ground_truth
from soloist.evaluation.image_matching import match_images, part_of
from soloist.runtime.files import shown

DEV = Path(__file__).parents[3] / "shared" / "photos" / "dev"
"""The sets that options are selected on."""
ORDER = ("coco", "nuclei", "mushrooms", "mandarina", "magtile")
ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class PhotoSet:
    """Images with true masks.

    Attributes:
        name: Of its folder.
        truth: The true masks of the images that were drawn.
        images: Those images.
        total: How many images the folder has.
        digest: Of the file of annotations.
    """

    name: str
    truth: CocoFile
    images: Sequence[ImageRef]
    total: int
    digest: str

    @property
    def objects(self) -> int:
        """How many true objects there are, crowd regions left out."""
        return sum(not one.iscrowd for ones in self.truth.annotations.values() for one in ones)


def find_sets(names: Sequence[str]) -> list[Path]:
    """The folders of sets, by path or by their name among the usual ones; without names, all.

    Raises:
        ConfigError: If a set is unknown.
        DataError: If the usual ones are absent.
    """
    usual = {folder.parent.name: folder.parent for folder in DEV.glob(f"*/{ANNOTATIONS}")}
    if not names and not usual:
        raise DataError(
            f"wanted photographs with true masks in {shown(DEV)}, got none; put shared/photos "
            f"beside the checkout, or name folders of images/ and {ANNOTATIONS} by --sets"
        )
    folders = []
    for name in names or [*ORDER, *sorted(usual.keys() - set(ORDER))]:
        if (Path(name) / ANNOTATIONS).is_file():
            folders.append(Path(name).resolve())
        elif name in usual:
            folders.append(usual[name])
        elif names:
            raise ConfigError(
                f"wanted a set's name or a folder with {ANNOTATIONS}, got {name!r}; "
                + (near_names(name, usual) if usual else f"there is none in {shown(DEV)} either")
            )
    return folders


def read_set(folder: Path, limit: int | None = None) -> PhotoSet:
    """A set, or a part of it.

    Args:
        folder: Has images/ and annotations.json.
        limit: Most images, drawn evenly over the file's order; None takes all.

    Raises:
        DataError: If a file is malformed or an image is absent.
    """
    file = folder / ANNOTATIONS
    whole = load_coco(file)
    count = len(whole.images)
    drawn = {whole.images[place].id for place in evenly(count, limit or count)}
    images = [image for image in find_images(file) if image.id in drawn]
    missing = [image.name for image in images if not image.path.is_file()]
    if missing:
        raise DataError(
            f"wanted the {len(images)} images of {shown(file)}, got {len(missing)} without a file, "
            f"such as {shown(missing[0])}; put them in images/ beside it"
        )
    truth = load_ground_truth(part_of(whole, drawn))
    return PhotoSet(folder.name, truth, images, count, digest(file))


def evenly(count: int, wanted: int) -> list[int]:
    """Places of up to `wanted` of `count` things, spread evenly."""
    if wanted >= count:
        return list(range(count))
    return [int((place + 0.5) * count / wanted) for place in range(wanted)]


def fitting_set(results: Path, folders: Sequence[Path]) -> Path:
    """The set that a file of results is for, by image ids and sizes or by file names.

    Args:
        results: A bare result list, or a COCO file with scores.
        folders: Of the sets in question.

    Raises:
        DataError: If it fits none, or several.
    """
    reasons, fitting = [], []
    for folder in folders:
        try:
            truth = load_coco(folder / ANNOTATIONS)
            match_images(load_coco(results, images=truth.images), truth)
        except DataError as error:
            reasons.append(str(error))
        else:
            fitting.append(folder)
    if not fitting:
        raise DataError(
            f"wanted results on one of the sets {', '.join(one.name for one in folders)}, got "
            f"{shown(results)}, which fits none: {reasons[-1]}"
        )
    if len(fitting) > 1:
        raise DataError(
            f"wanted results on one set, got {shown(results)}, which fits "
            f"{' and '.join(one.name for one in fitting)}; name the set by --sets"
        )
    return fitting[0]
