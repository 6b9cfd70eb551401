"""What is segmented, and what a result can be made into, with torch or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soloist.config import AS_USUAL, ReadingConfig
from soloist.data.coco_types import CocoImage
from soloist.data.coco_write import instances_to_annotations, write_coco
from soloist.data.images import read_image
from soloist.pictures import draw_masks

Source = str | Path | NDArray[np.uint8] | Image.Image | Sequence[str | Path]
"""A path or several, (H, W, 3) uint8 RGB, or a Pillow image."""


class Presentable:
    """Drawing and writing, for the results of one image.

    What inherits it has these fields, of tensors on the processor or of arrays.
    """

    image_size: tuple[int, int]
    masks: Any
    scores: Any
    embeddings: Any
    labels: Any
    agreements: Any = None
    path: Path | None
    pixels: NDArray[np.uint8] | None
    categories: Mapping[int, str]
    reading: ReadingConfig = AS_USUAL

    def plot(self) -> Image.Image:
        """The image with its masks drawn over it."""
        masks = np.asarray(self.masks)
        return Image.fromarray(draw_masks(self.own_pixels(), masks, scores=self.scores.tolist()))

    def own_pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of the image, read from its file if need be.

        Raises:
            ValueError: If it has neither pixels nor a file.
            DataError: If the file cannot be read.
        """
        if self.pixels is not None:
            return self.pixels
        if self.path is None:
            raise ValueError("wanted a result with its image, got neither pixels nor a path")
        return read_image(self.path, reading=self.reading)

    def save(self, path: str | Path) -> Path:
        """Writes `plot()` as a picture, or, to a path that ends in `.json`, the COCO file."""
        path = Path(path)
        if path.suffix.lower() == ".json":
            image = CocoImage(1, self._name(), *self.image_size)
            write_coco(
                path,
                [image],
                instances_to_annotations(self, 1, 1, self.categories),
                embeddings=np.asarray(self.embeddings),
                categories=self.categories,
            )
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.plot().save(path)
        return path

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """A COCO dictionary of this one image, ready for JSON."""
        height, width = self.image_size
        return {
            "images": [
                {"id": image_id, "file_name": self._name(), "height": height, "width": width}
            ],
            "annotations": instances_to_annotations(self, image_id, 1, self.categories),
            "categories": [{"id": key, "name": name} for key, name in self.categories.items()],
        }

    def _name(self) -> str:
        return self.path.name if self.path is not None else "image"
