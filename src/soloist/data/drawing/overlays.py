"""Masks drawn over their images, one file per image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.drawing.rendering import (
    draw_large,
    draw_masks,
    jpeg_bytes,
    resize_masks,
)
from soloist.data.sources import ImageRef
from soloist.runtime.files import atomic_path, inner_path
from soloist.structures import Instances

if TYPE_CHECKING:
    from torch import Tensor

MANY_PIXELS = 2**28
"""Masks of more together are drawn one by one on a reduced image, without scores."""
_ENDING = ".overlay.jpg"


class OverlayWriter:
    """Writes each image with its masks as a JPEG below a folder.

    Args:
        folder: Where to; the images' own folders are kept below it.
        score_threshold: Masks of a lower score are not drawn.
    """

    def __init__(self, folder: Path, *, score_threshold: float = 0.0) -> None:
        self._folder = folder
        self._score_threshold = score_threshold

    def __call__(
        self,
        image: ImageRef,
        pixels: NDArray[np.uint8],
        instances: Instances[Tensor, Any],
    ) -> None:
        """Draws the instances of one image; of a large one a reduced image, without scores.

        Args:
            image: The image; its name gives the drawing's name.
            pixels: (H', W', 3) uint8 RGB, perhaps smaller than the masks.
            instances: The objects.
        """
        shown = instances.filter(instances.scores >= self._score_threshold)
        pixels_of_masks = len(shown) * shown.image_size[0] * shown.image_size[1]
        if isinstance(shown.masks, EncodedMasks) and pixels_of_masks > MANY_PIXELS:
            drawn = draw_large(pixels, shown.masks.largest_first())
        else:
            whole = np.asarray(shown.cpu().masks)
            masks = resize_masks(whole, (pixels.shape[0], pixels.shape[1]))
            drawn = draw_masks(pixels, masks, scores=shown.scores.tolist())
        with atomic_path(self._folder / overlay_name(image.name)) as temporary:
            temporary.write_bytes(jpeg_bytes(drawn, quality=90))


def overlay_name(name: str) -> Path:
    """A relative path for the drawing of an image: never outside the folder it is put in.

    The suffix is kept inside the name, so that `a.png` and `a.jpg` make different images.
    """
    return inner_path(name, ending=_ENDING)
