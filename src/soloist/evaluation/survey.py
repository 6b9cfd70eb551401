"""What the images of a folder are like, by a look at a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from soloist.data.images import read_with_size
from soloist.data.sources import ImageRef, spread
from soloist.errors import DataError
from soloist.inference.segmenter import Segmenter
from soloist.proposals.scale import working_pixels

LOOKED_AT = 6
"""Images that are looked at, drawn evenly."""
DARK, FAINT = 50.0, 15.0
"""Mean and standard deviation of grey below which images are called so, of 255."""
SMALL = 8.0
"""Objects of fewer pixels across, on the size that images are cut up on, are easily lost."""


@dataclass(frozen=True)
class Survey:
    """Medians over the images that were looked at.

    Attributes:
        images: How many they were.
        size: (height, width) in pixels.
        reduced: By how much they are reduced before they are cut up; below 1 they are enlarged.
        grey: Mean and standard deviation of an image's grey levels, in [0, 255].
        objects: Objects that are shown of one.
        across: Square root of an object's area, in the image's pixels; 0 without an object.
    """

    images: int
    size: tuple[int, int]
    reduced: float
    grey: tuple[float, float]
    objects: float
    across: float

    def lines(self) -> list[str]:
        """For people: what was measured, how images are cut up, what to do about small objects."""
        if self.images == 0:
            return []
        mean, spread = self.grey
        light = ("dark, " if mean < DARK else "") + ("low in contrast, " if spread < FAINT else "")
        enlarged = self.reduced < 1
        scale = 1 / self.reduced if enlarged else self.reduced
        shown = f"{self.objects:.0f} objects are shown, {self.across:.0f} pixels across"
        found = [
            f"median of {self.images}: {self.size[0]} x {self.size[1]} pixels, {light}"
            f"{'enlarged' if enlarged else 'reduced'} {scale:.1f} times to be cut up; "
            f"{shown if self.objects > 0 else 'no object is shown'}"
        ]
        left = self.across / self.reduced
        if self.objects > 0 and not enlarged and left < SMALL:
            found.append(
                f"objects are {left:.0f} pixels across where images are cut up: see what `soloist "
                "predict --tile 1024` finds"
            )
        return found


def survey(images: Sequence[ImageRef], segmenter: Segmenter) -> Survey:
    """Looks at a few images, with what a segmenter shows of them.

    Args:
        images: Images of a folder; those that cannot be read are left out.
        segmenter: Finds the objects.
    """
    sizes, reduced, means, spreads, counts, across = [], [], [], [], [], []
    for image in spread(images, LOOKED_AT):
        try:
            pixels, size = read_with_size(image.path, reading=image.reading)
        except DataError:
            # Listed where the images are labelled.
            continue
        found = segmenter.labeler(pixels, size)
        keep = found.scores >= segmenter.config.inference.recommended_score
        shown = found.filter(keep.nonzero().flatten())
        grey = pixels.mean(axis=2)
        sizes.append(size)
        reduced.append(size[0] / len(working_pixels(pixels)))
        means.append(float(grey.mean()))
        spreads.append(float(grey.std()))
        counts.append(len(shown))
        across += [float(mask.sum()) ** 0.5 for mask in shown.masks]
    if not sizes:
        return Survey(0, (0, 0), 1.0, (0.0, 0.0), 0.0, 0.0)
    height, width = np.median(sizes, axis=0)
    return Survey(
        images=len(sizes),
        size=(round(height), round(width)),
        reduced=median(reduced),
        grey=(median(means), median(spreads)),
        objects=median(counts),
        across=median(across) if across else 0.0,
    )
