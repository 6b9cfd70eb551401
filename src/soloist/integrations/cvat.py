"""CVAT: functions that `cvat-cli` runs on this machine, of the interface of `cvat-sdk`.

`cvat-cli task auto-annotate ID --function-module soloist.integrations.cvat` annotates a task with
a model of Soloist: no Docker, no nuclio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soloist.data.coco.outlines import outline
from soloist.data.coco.rle import encode_masks
from soloist.errors import ConfigError, require
from soloist.inference.segmenter import Segmenter, load

require("cvat_sdk", extra="cvat", wanted="soloist.integrations.cvat")
import cvat_sdk.auto_annotation as cvat  # noqa: E402  # after the message that it is absent
from cvat_sdk import models  # noqa: E402
from cvat_sdk.masks import encode_mask  # noqa: E402

SCORE = "score"
"""Name of the attribute with the score: a text such as 0.83."""
TOLERANCE = 1.0
"""Pixels by which polygons may leave the outlines, unless said otherwise."""
_SCORE_ID = 0
_DIGITS = 2


class Detection:
    """Segments the images of a task.

    Args:
        segmenter: The model.
        min_score: Masks of a lower score are left out, unless `--conf-threshold` says otherwise;
            None takes the score that the model recommends.
        tolerance: Pixels by which polygons may leave the outlines, with `--conv-mask-to-poly`;
            None is `TOLERANCE`.
        label: The task's name for the objects of a model of one class; None keeps the model's.
        scores: Each mask carries its score; the task's labels need a text attribute `score`.

    Attributes:
        spec: The model's classes, each with that attribute.

    Raises:
        ConfigError: If a score or tolerance is out of range, or several classes get one name.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        min_score: float | None = None,
        tolerance: float | None = None,
        label: str | None = None,
        scores: bool = True,
    ) -> None:
        if min_score is not None and not 0 <= min_score <= 1:
            raise ConfigError(f"wanted min_score in [0, 1], got {min_score}")
        if tolerance is not None and not tolerance >= 0:
            raise ConfigError(f"wanted a tolerance of 0 pixels or more, got {tolerance}")
        names = list(segmenter.categories.values())
        if label is not None and len(names) > 1:
            raise ConfigError(
                f"wanted no label for a model of {len(names)} classes, got {label!r}; call the "
                f"task's labels {', '.join(names)}"
            )
        self._segmenter = segmenter
        self._scores = scores
        recommended = segmenter.config.inference.recommended_score
        self._min_score = recommended if min_score is None else min_score
        self._tolerance = tolerance
        attributes = [cvat.text_attribute_spec(SCORE, _SCORE_ID)] if scores else []
        self.spec = cvat.DetectionFunctionSpec(
            labels=[
                cvat.label_spec(name, place, attributes=list(attributes))
                for place, name in enumerate(names if label is None else [label])
            ]
        )

    def detect(
        self, context: cvat.DetectionFunctionContext, image: Image.Image
    ) -> list[models.LabeledShapeRequest]:
        """The masks of an image, or polygons, if CVAT asks for these; best first.

        Raises:
            ConfigError: If there is a tolerance for masks.
        """
        if self._tolerance is not None and not context.conv_mask_to_poly:
            raise ConfigError("a tolerance is of polygons: add --conv-mask-to-poly")
        threshold = context.conf_threshold
        score = self._min_score if threshold is None else threshold
        result = self._segmenter.predict(image)[0].filter(float(score))
        count = len(self._segmenter.categories)
        labels = [0] * len(result)
        if result.labels is not None and count > 1:
            labels = result.labels.tolist()
        return [
            shape
            for number, (mask, score, label) in enumerate(
                zip(result.masks.numpy(), result.scores.tolist(), labels, strict=True), start=1
            )
            for shape in self._shapes(mask, score, label, number, context.conv_mask_to_poly)
        ]

    def _shapes(
        self, mask: NDArray[np.bool_], score: float, label: int, number: int, polygons: bool
    ) -> Iterator[models.LabeledShapeRequest]:
        def attributes_of() -> list[models.AttributeValRequest]:
            # Each shape has its own: the caller changes them.
            if not self._scores:
                return []
            return [models.AttributeValRequest(spec_id=_SCORE_ID, value=f"{score:.{_DIGITS}f}")]

        if not polygons:
            yield cvat.mask(label, encode_mask(mask), attributes=attributes_of())
            return
        tolerance = TOLERANCE if self._tolerance is None else self._tolerance
        parts = outline(encode_masks(mask[None])[0], tolerance)
        # CVAT takes the shapes of a group for one object when it exports them as COCO.
        grouped: dict[str, Any] = {"group": number} if len(parts) > 1 else {}
        for part in parts:
            points = part.ring().round(1).ravel().tolist()
            yield cvat.polygon(label, points, attributes=attributes_of(), **grouped)


def create(
    model: str | None = None,
    min_score: float | None = None,
    tolerance: float | None = None,
    label: str | None = None,
    scores: bool = True,
    device: str = "auto",
    precision: str = "auto",
) -> Detection:
    """The function for `cvat-cli`; its parameters are those of `-p NAME=TYPE:VALUE`.

    Args:
        model: As for `soloist.load`; None takes the bundled segmenter.
        min_score: As for `Detection`.
        tolerance: As for `Detection`.
        label: As for `Detection`.
        scores: As for `Detection`.
        device: As for `soloist.load`.
        precision: As for `soloist.load`.

    Raises:
        CheckpointError: If there is no such model.
        ConfigError: As for `Detection`.
    """
    segmenter = load(model, device=device, precision=precision)
    return Detection(
        segmenter, min_score=min_score, tolerance=tolerance, label=label, scores=scores
    )
