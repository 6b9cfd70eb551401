"""The report's columns: files of masks, where the images are in them, where sliders begin."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.names import match_names
from soloist.data.sources import ImageRef
from soloist.report.content import ImageVerdict, ReportContent
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)

SCORE_UNITS = 1000
"""Scores are whole thousandths in the page: sliders and masks are compared exactly."""
MAX_MASKS = 30
"""Masks of a stage that the page holds of an image, the best ones."""

_Value = TypeVar("_Value")

_TRUTH_TITLE = "Ground truth"
_MAX_STEPS = 200  # Of a slider.


@dataclass(frozen=True)
class ScoreRange:
    """A slider over the scores of a file, in thousandths.

    Attributes:
        low: Its lower end: no score is below.
        high: Its upper end: a step above the highest score at most.
        step: What an arrow key changes.
        start: Where it begins.
    """

    low: int
    high: int
    step: int
    start: int


@dataclass(frozen=True)
class Column:
    """A file of masks, as the page shows it.

    Attributes:
        title: Its heading.
        file: The masks.
        images: The file's images by the names of those that can be shown.
        scores: What the slider spans; None if all scores are the same.
        is_truth: Whether it holds the true objects.
        verdicts: How it did on images, by the same names.
    """

    title: str
    file: CocoFile
    images: Mapping[str, CocoImage]
    scores: ScoreRange | None = None
    is_truth: bool = False
    verdicts: Mapping[str, ImageVerdict] = field(default_factory=dict)

    def shows(self, one: CocoAnnotation) -> bool:
        """Whether a mask is shown at first, before anybody moves a slider."""
        return self.scores is None or score_units(one.score) >= self.scores.start

    def objects(self, ref: ImageRef) -> list[CocoAnnotation] | None:
        """The masks on an image, best first; None if the file does not know the image."""
        image = self.images.get(ref.name)
        if image is None:
            return None
        annotations = [
            one
            for one in self.file.annotations[image.id]
            if not one.iscrowd and one.segmentation is not None
        ]
        return sorted(annotations, key=lambda one: -one.score)

    def verdict(self, ref: ImageRef) -> ImageVerdict | None:
        """How the file did on an image; None without true objects."""
        return self.verdicts.get(ref.name)


def make_columns(content: ReportContent) -> list[Column]:
    """One column per stage, and one for the ground truth.

    Args:
        content: What the report tells.
    """
    names = [ref.name for ref in content.images]
    columns = [
        Column(
            stage.title,
            stage.file,
            _images(names, stage.file),
            score_range(stage.file, content.masks_per_image),
            verdicts=_by_meaning(names, stage.verdicts, stage.file.path),
        )
        for stage in content.stages
    ]
    if content.ground_truth is not None:
        truth = content.ground_truth
        columns.append(Column(_TRUTH_TITLE, truth, _images(names, truth), is_truth=True))
    return columns


def score_units(score: float) -> int:
    """A score in thousandths."""
    return round(score * SCORE_UNITS)


def score_range(file: CocoFile, masks_per_image: int) -> ScoreRange | None:
    """The slider of a file; None if all scores are the same, or there is none.

    Args:
        file: The file.
        masks_per_image: Best masks left where it begins, N an image on average, or a few
            more, since sliders have steps.
    """
    scores = sorted(
        (score_units(one.score) for group in file.annotations.values() for one in group),
        reverse=True,
    )
    if not scores or scores[0] == scores[-1]:
        return None
    steps = (digit * 10**power for power in range(19) for digit in (1, 2, 5))
    step = next(step for step in steps if scores[0] - scores[-1] <= _MAX_STEPS * step)
    low, high = scores[-1] // step * step, -(-scores[0] // step) * step
    wanted = masks_per_image * len(file.images)
    least = scores[wanted - 1] if 0 < wanted <= len(scores) else low
    return ScoreRange(low, high, step, least // step * step)


def _images(names: Sequence[str], file: CocoFile) -> dict[str, CocoImage]:
    return _by_meaning(names, {image.file_name: image for image in file.images}, file.path)


def _by_meaning(
    names: Sequence[str], values: Mapping[str, _Value], source: Path
) -> dict[str, _Value]:
    """Values by the names that mean the same images as theirs, by the rule of every verb."""
    theirs = list(values)
    matches = match_names(names, theirs, any_suffix=True)
    if matches.ambiguous:
        logger.warning("%s: %s", shown(source), matches.account())
    return {names[place]: values[theirs[other]] for place, other in matches.found.items()}
