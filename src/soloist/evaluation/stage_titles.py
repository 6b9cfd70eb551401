"""What readers call the stages of a run."""

from __future__ import annotations

from collections.abc import Mapping

STAGE_TITLES: Mapping[str, str] = {
    "start": "At the start",
    "free_masks": "Free Mask",
    "segmenter": "SOLO",
    "self_trained": "Self-trained",
    "regions": "Regions",
    "confirmed": "Regions, confirmed",
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
