"""The stages of a run: where their masks are, how the run ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soloist.data.coco.read import load_coco
from soloist.data.sources import ImageRef
from soloist.evaluation.evaluate import Metrics


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


@dataclass(frozen=True)
class Stage:
    """A stage whose masks can be looked at and evaluated.

    Attributes:
        key: Its name in results.json.
        model: Its model folder; None for free masks.
    """

    key: str
    model: Path | None


@dataclass(frozen=True)
class FitResult:
    """What `fit` made besides the model.

    Attributes:
        metrics: Metrics by stage; empty without a ground truth.
        gallery: The masks of each stage on `images`.
        images: The ground truth's images, else some of the training images.
        verdict: Which of several models was kept, and why; empty where there was no choice.
        fell_back: That is the one the run started from.
    """

    metrics: dict[str, Metrics]
    gallery: list[StageGallery]
    images: list[ImageRef]
    verdict: str = ""
    fell_back: bool = False

    def warning(self) -> str | None:
        """What is wrong with the model and what to do; None if it finds something on `images`."""
        found = len(load_coco(self.gallery[-1].predictions))
        if found == 0 and self.fell_back:
            return (
                f"the model finds nothing on any of {len(self.images)} images, as did the one it "
                "started from; label a few in `soloist studio` and learn from them by `soloist "
                "finetune`"
            )
        if found == 0:
            return (
                f"the model finds nothing on any of {len(self.images)} images; train it longer "
                "(--budget, --train.steps) or on more images, or use the bundled segmenter: "
                "`soloist predict` without --model"
            )
        if self.fell_back:
            return (
                f"nothing was gained: {self.verdict}; give more images of one kind, or correct a "
                "few in `soloist studio` and learn from them by `soloist finetune`"
            )
        return None
