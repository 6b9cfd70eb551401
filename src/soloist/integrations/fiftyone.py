"""FiftyOne: a model for `dataset.apply_model`, by the interface of its `Model`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soloist.errors import require
from soloist.inference.segmenter import Segmenter, load

require("fiftyone", extra="fiftyone", wanted="soloist.integrations.fiftyone")
from fiftyone.core.labels import Detection, Detections  # noqa: E402  # after that message
from fiftyone.core.models import Model  # noqa: E402

if TYPE_CHECKING:
    from soloist.inference.results import Result


class SegmenterModel(Model):  # type: ignore[misc]  # FiftyOne has no types
    """A segmenter as FiftyOne calls one: pixels in, `Detections` with masks out.

    Args:
        segmenter: The model.
        min_score: Masks of a lower score are left out; None takes the score that the model
            recommends.
    """

    def __init__(self, segmenter: Segmenter, min_score: float | None = None) -> None:
        self._segmenter = segmenter
        self._min_score = min_score

    @property
    def media_type(self) -> str:
        """What it looks at."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Images of a batch may differ in size."""
        return True

    @property
    def transforms(self) -> None:
        """Images come as they are."""
        return None

    @property
    def preprocess(self) -> bool:
        """Nothing is done to them first."""
        return False

    def predict(self, arg: NDArray[np.uint8]) -> Detections:
        """Objects of an image.

        Args:
            arg: (H, W, 3) uint8 RGB, or another array that `soloist.Segmenter.predict` takes.

        Returns:
            Detections, best first: their box as shares of the image (left, top, width, height),
            the (h, w) bool mask inside it, their class and score.
        """
        (found,) = self._segmenter.predict(np.asarray(arg))
        return detections(found.filter(self._min_score))


def detections(found: Result[Any, Any]) -> Detections:
    """Objects of an image as FiftyOne keeps them."""
    height, width = found.image_size
    names = list(found.categories.values())
    boxes = np.asarray(found.boxes, dtype=np.int64).tolist()
    scores = np.asarray(found.scores).tolist()
    # Of a network whose classes have no names none are given.
    labels: Sequence[int] = [0] * len(found)
    if found.labels is not None and len(names) > 1:
        labels = np.asarray(found.labels).tolist()
    return Detections(
        detections=[
            Detection(
                label=names[label],
                confidence=score,
                bounding_box=[
                    left / width,
                    top / height,
                    (right - left) / width,
                    (bottom - top) / height,
                ],
                mask=np.asarray(mask)[top:bottom, left:right],
            )
            for (left, top, right, bottom), score, label, mask in zip(
                boxes, scores, labels, found.masks, strict=True
            )
        ]
    )


def create(
    model: str | Path | None = None,
    min_score: float | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> SegmenterModel:
    """A model for `dataset.apply_model(model, label_field="soloist")`.

    Args:
        model: As for `soloist.load`; None takes the bundled segmenter.
        min_score: As for `SegmenterModel`.
        device: As for `soloist.load`.
        precision: As for `soloist.load`.

    Raises:
        CheckpointError: If there is no such model.
    """
    return SegmenterModel(load(model, device=device, precision=precision), min_score)
