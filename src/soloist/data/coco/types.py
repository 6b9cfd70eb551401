"""What a COCO file holds, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soloist.config import DEFAULT_READING, InferenceConfig, ReadingConfig
from soloist.config.presets import override
from soloist.data.coco.rle import decode_masks, mask_box_xywh
from soloist.data.georeference import Georeference
from soloist.errors import DataError
from soloist.structures import STORED, Instances

if TYPE_CHECKING:
    from torch import Tensor

CATEGORIES: Mapping[int, str] = {1: "object"}
"""The one category of class-agnostic files."""
NO_CLASS = -1
"""Category id of an object without a class, among objects that have some."""
NO_LABEL = -1
"""Its label."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An entry of COCO's `images`.

    Attributes:
        id: What annotations refer to.
        file_name: Path relative to the images' folder, forward slashes; empty for the images
            of a bare result list, which names none.
        height: In pixels, EXIF orientation applied.
        width: In pixels, EXIF orientation applied.
        georeference: Where it is on the earth, if its file says so.
        source_id: The id it has in the file, where that is no integer.
        file_state: Size and time of the file that its objects were found in, or of the one that is
            there; see `soloist.data.inputs`.
    """

    id: int
    file_name: str
    height: int
    width: int
    georeference: Georeference | None = None
    source_id: str | None = None
    file_state: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """An entry of COCO's `annotations`, checked.

    Attributes:
        image_id: Which image it lies on.
        segmentation: Compressed run lengths: `size` [H, W] and `counts`, an ASCII string; None
            for an object that is a box alone, which only evaluation reads.
        box_xywh: (left, top, width, height) in pixels: the file's, else tight around the mask.
        area: In pixels: the file's, else the mask's, else the box's.
        score: In [0, 1] as a rule; 1 where the file has none.
        category_id: The file's, else 1; `NO_CLASS` where it lacks what others have.
        iscrowd: A region of many objects, which evaluation ignores.
        index: Its place in the file, and the row of its embedding.
        id: The file's; where that is no integer, its place counted from 1.
        outputs: What else the file has of `structures.STORED`, by key.
    """

    image_id: int
    segmentation: dict[str, Any] | None
    box_xywh: tuple[float, float, float, float]
    area: float
    score: float
    category_id: int
    iscrowd: bool
    index: int
    id: int
    outputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agreements(self) -> tuple[float, ...]:
        """Overlaps with other views of the image, as `soloist estimate` writes them; else empty."""
        return tuple(self.outputs.get("agreements", ()))

    @property
    def rle(self) -> dict[str, Any]:
        """The segmentation, where there must be one.

        Raises:
            DataError: If the object is a box alone.
        """
        if self.segmentation is None:
            raise DataError("wanted an object with a mask, got a box alone; use a file with masks")
        return self.segmentation


@dataclass(frozen=True)
class CocoFile:
    """A COCO file in memory; masks stay compressed until they are asked for.

    Attributes:
        path: Where it was read from.
        images: In the file's order.
        annotations: Those of each image id, in the file's order; images without any have an
            empty tuple.
        categories: Names by id; empty where the file names none.
        embeddings: (A, E) float of the file's A annotations in its order, read from disk as
            rows are used; None where it has none.
        bare: The file is a result list, which has ids but no file names.
        info: The file's `info`, such as what made it.
    """

    path: Path
    images: tuple[CocoImage, ...]
    annotations: Mapping[int, tuple[CocoAnnotation, ...]]
    categories: Mapping[int, str]
    embeddings: NDArray[np.floating] | None
    bare: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Annotations of all images together."""
        return sum(len(annotations) for annotations in self.annotations.values())

    @property
    def reading(self) -> ReadingConfig:
        """How its images were read when the file was made.

        Raises:
            ConfigError: If `info` names options of reading that there are not.
        """
        recorded = self.info.get("reading")
        where = f"info.reading of {self.path}"
        return override(
            DEFAULT_READING, recorded if isinstance(recorded, dict) else {}, where=where
        )

    @property
    def recommended_score(self) -> float:
        """Score from which masks are shown by default: as the model that made them records it.

        A file of a model whose record has none gets the default, one without a model 0.
        """
        inference = self.info.get("inference")
        if not isinstance(inference, dict):
            return 0.0
        score = inference.get("recommended_score", InferenceConfig().recommended_score)
        return float(score) if isinstance(score, int | float) else 0.0

    @property
    def boxes_alone(self) -> int:
        """How many annotations have no mask."""
        return sum(
            one.segmentation is None
            for annotations in self.annotations.values()
            for one in annotations
        )

    def masks(self, image: CocoImage) -> NDArray[np.bool_]:
        """(N, H, W) bool: the decoded masks of one image."""
        segmentations = [one.rle for one in self.annotations[image.id]]
        return decode_masks(segmentations, (image.height, image.width))

    def instances(self, image: CocoImage) -> Instances:
        """The objects of one image, in the file's order.

        Boxes are tight around the masks, whatever the file says; a mask without a pixel has
        the box (0, 0, 0, 0). Without embeddings E is 0. Label k is the k-th of the file's
        categories, -1 none of them; a file of one category or none has no labels.

        Args:
            image: One of `images`.

        Returns:
            N instances.
        """
        # Imported here: files are read and written without torch too.
        import torch

        annotations = self.annotations[image.id]
        boxes = torch.zeros((len(annotations), 4))
        for row, annotation in enumerate(annotations):
            left, top, width, height = mask_box_xywh(annotation.rle)
            boxes[row] = torch.tensor([left, top, left + width, top + height])
        embeddings = torch.zeros((len(annotations), 0))
        if self.embeddings is not None:
            rows = np.array([annotation.index for annotation in annotations], dtype=np.int64)
            embeddings = torch.from_numpy(self.embeddings[rows].astype(np.float32))
        return Instances(
            image_size=(image.height, image.width),
            masks=torch.from_numpy(self.masks(image)),
            scores=torch.tensor([one.score for one in annotations], dtype=torch.float32),
            boxes=boxes,
            embeddings=embeddings,
            labels=self._labels(annotations),
            **{name: _output(annotations, one.key) for name, one in STORED.items()},
        )

    def _labels(self, annotations: Sequence[CocoAnnotation]) -> Tensor | None:
        """(N,) int64; None where all objects of the file are one class."""
        import torch

        if len(self.categories) < 2:
            return None
        labels = {category: label for label, category in enumerate(self.categories)}
        return torch.tensor(
            [labels.get(one.category_id, NO_LABEL) for one in annotations], dtype=torch.int64
        )


def _output(annotations: Sequence[CocoAnnotation], key: str) -> Tensor | None:
    """An output of N objects, one row each; None if not all of them have it, and alike."""
    import torch

    values: list[Any] = [one.outputs.get(key) for one in annotations]
    if not values or None in values or len({np.shape(value) for value in values}) > 1:
        return None
    return torch.tensor(values)
