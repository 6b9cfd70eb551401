"""What the page does, without the page: predict once, then filter, draw and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from soloist.data.drawing.pictures import draw_masks, mask_colors, resize_masks, thumbnail
from soloist.data.exports.label_maps import label_map
from soloist.data.images import image_size, read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.inference.results import Result
from soloist.inference.segmenter import Segmenter
from soloist.runtime.files import atomic_path, shown, write_json

MAX_PIXELS = 25_000_000
"""Of a picture: a hundred masks of this size, kept while the page is open, are 2.5 GB.

Finding them takes about three times as much for a moment.
"""

PREVIEW_SIDE = 1024
"""Most pixels of a side of what the page shows; it is drawn anew whenever a slider moves."""


@dataclass(frozen=True)
class Choice:
    """What the sliders say; a mask must meet all three.

    Attributes:
        least_score: In [0, 1].
        least_area: As a fraction of the image, in [0, 1].
        most_area: As a fraction of the image, in [0, 1].
    """

    least_score: float = 0.0
    least_area: float = 0.0
    most_area: float = 1.0


@dataclass(frozen=True)
class Segmented:
    """A picture and all that the network found on it.

    A mask keeps its colour whatever else is shown.

    Attributes:
        result: The N objects at the size of the file, with its path.
        pixels: (H, W, 3) uint8 RGB, the file's; it may be gone meanwhile.
        areas: (N,) float32, the masks' fractions of the image.
        preview: (h, w, 3) uint8 RGB, the picture as the page shows it.
        preview_masks: (N, h, w) bool.
    """

    result: Result
    pixels: NDArray[np.uint8]
    areas: Tensor
    preview: NDArray[np.uint8]
    preview_masks: NDArray[np.bool_]

    def chosen(self, choice: Choice) -> Tensor:
        """(N,) bool: the objects to show."""
        return (
            (self.result.scores >= choice.least_score)
            & (self.areas >= choice.least_area)
            & (self.areas <= choice.most_area)
        )

    def draw(self, choice: Choice) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB: the preview with the chosen masks over it."""
        return self._drawn(self.preview, self.preview_masks, choice)

    def summary(self, choice: Choice) -> str:
        """One line about what is shown."""
        height, width = self.result.image_size
        if len(self.result) == 0:
            return f"{width} × {height} pixels: the network found nothing."
        count = int(self.chosen(choice).sum())
        masks = "1 mask" if len(self.result) == 1 else f"{len(self.result)} masks"
        line = f"{width} × {height} pixels: {count} of {masks} shown."
        best = float(self.result.scores.max())
        if best < choice.least_score:
            line += f" The best score is {best:.2f}: lower the least score to see more."
        return line

    def save_coco(self, choice: Choice, folder: Path) -> Path:
        """Writes the chosen objects as a COCO file of compressed run lengths and scores."""
        path = self._path(folder, "json")
        write_json(path, self.result.filter(self.chosen(choice)).to_coco())
        return path

    def save_overlay(self, choice: Choice, folder: Path) -> Path:
        """Writes the picture with the chosen masks over it, as a PNG of the file's size."""
        path = self._path(folder, "masks.png")
        drawn = self._drawn(self.pixels, self.result.masks.numpy(), choice)
        with atomic_path(path) as temporary:
            Image.fromarray(drawn).save(temporary)
        return path

    def save_labels(self, choice: Choice, folder: Path) -> Path:
        """Writes a grey PNG of 16 bits: k where the k-th chosen mask is, 0 elsewhere.

        k is also the id of the annotation in the COCO file. Where masks overlap, the one of
        higher score wins.
        """
        masks = self.result.filter(self.chosen(choice)).masks.numpy()
        path = self._path(folder, "labels.png")
        with atomic_path(path) as temporary:
            Image.fromarray(label_map(masks, self.result.image_size)).save(temporary)
        return path

    def _drawn(
        self, pixels: NDArray[np.uint8], masks: NDArray[np.bool_], choice: Choice
    ) -> NDArray[np.uint8]:
        chosen = self.chosen(choice).numpy()
        return draw_masks(
            pixels,
            masks[chosen],
            scores=self.result.scores.numpy()[chosen].tolist(),
            colors=mask_colors(len(masks))[chosen],
        )

    def _path(self, folder: Path, ending: str) -> Path:
        assert self.result.path is not None  # It was made of a file.
        return folder / f"{self.result.path.stem}.{ending}"


def segment_file(segmenter: Segmenter, path: Path) -> Segmented:
    """Segments an image file, as `soloist predict` does, for a page.

    Args:
        segmenter: The network; it runs once.
        path: The file; error messages give its name without its folder.

    Raises:
        DataError: If the file is missing, not an image or larger than `MAX_PIXELS`.
    """
    try:
        height, width = image_size(path)
        if height * width > MAX_PIXELS:
            raise DataError(
                f"wanted a picture of at most {MAX_PIXELS // 10**6} million pixels, got "
                f"{shown(path)} of {width} x {height}; make it smaller, or use soloist predict"
            )
        result = segmenter.predict_file(ImageRef(path, path.name))
        pixels = read_image(path)
    except DataError as error:
        raise DataError(str(error).replace(shown(path), shown(path.name))) from error
    preview = _preview(pixels)
    return Segmented(
        result=result,
        pixels=pixels,
        # One by one: summed together they would take four bytes a pixel each.
        areas=torch.tensor([int(mask.count_nonzero()) for mask in result.masks]) / (height * width),
        preview=preview,
        preview_masks=resize_masks(result.masks.numpy(), (preview.shape[0], preview.shape[1])),
    )


def _preview(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image for the page: small ones are enlarged, so that outlines and scores are sharp."""
    height, width = pixels.shape[:2]
    times = PREVIEW_SIDE // max(height, width)
    if times < 2:
        return thumbnail(pixels, PREVIEW_SIDE)
    size = (width * times, height * times)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
