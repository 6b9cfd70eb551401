"""What a report tells; whatever is left empty leaves its section out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soloist.data.images import ImageRef

STAGE_TITLES: Mapping[str, str] = {
    "free_masks": "Free Mask",
    "segmenter": "SOLO",
    "self_trained": "Self-trained",
    "finetuned": "Finetuned",
    "finetuned_by_class": "Finetuned, mean over classes",
}
"""What readers call the stages of `results.json`."""


def stage_title(key: str) -> str:
    """A stage's name for readers: `self_trained_2` is `Self-trained, round 2`.

    Args:
        key: A stage's key; one that is not known is its own title.

    Returns:
        The title.
    """
    stem, _, number = key.rpartition("_")
    if stem in STAGE_TITLES and number.isdigit():
        return f"{STAGE_TITLES[stem]}, round {number}"
    return STAGE_TITLES.get(key, key)


@dataclass(frozen=True)
class StageGallery:
    """One column of the gallery.

    Attributes:
        key: `free_masks`, `segmenter`, `self_trained`, `self_trained_2`, `finetuned` and so on.
        title: The column's heading.
        predictions: COCO file with scores.
    """

    key: str
    title: str
    predictions: Path


@dataclass(frozen=True)
class WorstImage:
    """An image on which the last stage missed objects.

    Attributes:
        image: The image.
        summary: What was found there.
    """

    image: ImageRef
    summary: str


@dataclass(frozen=True)
class ReportContent:
    """Everything a report tells.

    Attributes:
        title: Heading of the page.
        summary: A sentence or two below it.
        results: Metrics of DESIGN 2 by stage, as fractions; None where the ground truth has no
            object of that size.
        stages: Columns of the gallery and series of the score histogram, in order.
        images: Rows of the gallery; `max_images` of them are shown, evenly spread. Their `name`
            (else their `path`'s name) is looked up in the COCO files.
        ground_truth: COCO file; the last column of the gallery.
        worst: Images that the last stage did worst on, the worst first.
        per_image: Relative address of a table with a row per image; empty without one.
        metrics: Rows of metrics.jsonl: `step`, `round` (0 without), `loss`, `loss_*` and
            `learning_rate`; other keys are ignored.
        timing: Stage and seconds, in order.
        config: The resolved options, nested.
        environment: Versions and machine, nested.
        errors: Images that failed: `image`, `stage`, `error`.
        max_images: Most rows of the gallery.
        masks_per_image: A stage's column shows its best masks over all images, so many an image
            on average: scores of different stages cannot be compared, their order can.
    """

    title: str
    summary: str = ""
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    stages: Sequence[StageGallery] = ()
    images: Sequence[ImageRef] = ()
    ground_truth: Path | None = None
    worst: Sequence[WorstImage] = ()
    per_image: str = ""
    metrics: Sequence[Mapping[str, float]] = ()
    timing: Sequence[tuple[str, float]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[Mapping[str, Any]] = ()
    max_images: int = 24
    masks_per_image: int = 4
