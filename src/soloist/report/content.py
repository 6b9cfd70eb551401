"""What a report tells; whatever is left empty leaves its section out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soloist.data.coco.types import CocoFile
from soloist.data.sources import ImageRef


@dataclass(frozen=True)
class ImageVerdict:
    """How a stage did on one image, by its true objects.

    Attributes:
        found: True objects that were found, as `soloist eval` counts them.
        objects: True objects, at least 1.
        overlap: Mean over the objects of the best IoU any mask has, in [0, 1].
    """

    found: int
    objects: int
    overlap: float

    @property
    def order(self) -> tuple[float, float, int]:
        """Worse images come first: less recall, then less overlap, then more objects."""
        return self.found / self.objects, self.overlap, -self.objects

    def summary(self) -> str:
        """The verdict in a few words."""
        return f"found {self.found} of {self.objects}, mean best IoU {self.overlap:.2f}"


@dataclass(frozen=True)
class ReportStage:
    """A file of masks: one view of the images, one series of the histogram.

    Attributes:
        key: As in `results`.
        title: What readers call it.
        file: The masks with their scores.
        verdicts: How it did on images with true objects, by the names of the ground truth; empty
            without one.
    """

    key: str
    title: str
    file: CocoFile
    verdicts: Mapping[str, ImageVerdict] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportContent:
    """Everything a report tells.

    Attributes:
        title: Heading of the page.
        summary: A sentence or two below it.
        results: Metrics of DESIGN 2 by stage, as fractions; None where the ground truth has no
            object of that size.
        stages: What was found, in order; the last is the one that is judged.
        images: What can be shown; `max_images` of them are, evenly spread. Their names are matched
            with those of the COCO files as in every verb.
        ground_truth: The true objects.
        per_image: Relative address of a table with a row per image; empty without one.
        metrics: Rows of metrics.jsonl: `step`, `round` (0 without), `loss`, `loss_*` and
            `learning_rate`; other keys are ignored.
        timing: Stage and seconds, in order.
        config: The resolved options, nested.
        environment: Versions and machine, nested.
        errors: Images that failed: `image`, `stage`, `error`.
        max_images: Most images shown; worst and best cases come on top.
        masks_per_image: The sliders begin where a stage's best masks over all images are left, so
            many an image on average: scores of different stages cannot be compared, their order
            can.
    """

    title: str
    summary: str = ""
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    stages: Sequence[ReportStage] = ()
    images: Sequence[ImageRef] = ()
    ground_truth: CocoFile | None = None
    per_image: str = ""
    metrics: Sequence[Mapping[str, float]] = ()
    timing: Sequence[tuple[str, float]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[Mapping[str, Any]] = ()
    max_images: int = 100
    masks_per_image: int = 4
