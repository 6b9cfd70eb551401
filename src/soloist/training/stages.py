"""What readers call the stages of a run, and what a run keeps of each for its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    """Where a run keeps what a stage found on the images that its report shows.

    Attributes:
        key: `free_masks`, `segmenter`, `self_trained`, `self_trained_2`, `finetuned` and so on.
        title: What readers call it.
        predictions: COCO file with scores.
    """

    key: str
    title: str
    predictions: Path
