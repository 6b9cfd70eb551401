"""What a user may choose when masks are written for another tool. Needs neither torch nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soloist.config.checks import at_least, check

FormatName = Literal[
    "coco",
    "yolo",
    "label-studio",
    "labelme",
    "via",
    "label-maps",
    "label-tiffs",
    "imagej",
    "csv",
    "parquet",
    "geojson",
    "qupath",
    "overlays",
]
"""The formats of `soloist convert`; `soloist.data.exports.formats` has their writers."""
Segmentation = Literal["mask", "polygon"]
ImageFiles = Literal["none", "link", "copy"]


@dataclass(frozen=True)
class ExportOptions:
    """Which masks are written, and how."""

    min_score: float | None = None
    """Leave out masks of a lower score; without it, for other tools, those below the score that the
    model recommends."""
    min_area: int = 0
    """Leave out masks of fewer pixels."""
    max_per_image: int | None = None
    """Keep up to N masks of an image, those of the best scores."""
    segmentation: Segmentation | None = None
    """`mask` loses nothing, `polygon` can be edited; without it what the tool takes best."""
    tolerance: float = 1.0
    """Pixels by which a polygon may leave the outline to save corners; 0 follows every pixel."""
    with_images: ImageFiles | None = None
    """Put links or copies of the images beside the labels; yolo makes links without being asked."""
    label: str | None = None
    """What objects are called where the file has a single class."""
    image_url: str = "/data/local-files/?d="
    """For label-studio: what stands before an image's name in its address."""

    def __post_init__(self) -> None:
        at_least(0, self, "export", "min_area", "tolerance")
        score = self.min_score
        check(score is None or score >= 0, f"export.min_score must be at least 0, got {score}")
        most = self.max_per_image
        check(most is None or most >= 1, f"export.max_per_image must be at least 1, got {most}")
        check(self.label is None or self.label.strip() != "", "export.label must not be empty")
