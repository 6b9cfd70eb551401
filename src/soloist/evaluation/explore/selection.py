"""Which images to label first: few that between them look like all the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.images import read_with_size
from soloist.data.sources import ImageRef
from soloist.ops.affinity import rgb_to_lab
from soloist.runtime.files import write_text
from soloist.runtime.progress import track

logger = logging.getLogger(__name__)

SHORT_SIDE = 160
"""Short side that colours are taken at, in pixels."""
PERCENTILES = (10, 50, 90)
"""Of the lightness."""
BEST = 20
"""Masks of an image whose scores count."""


def select(looks: NDArray[np.floating], count: int) -> list[int]:
    """Picks images that cover what the images of a set look like.

    One after the other the image is taken that makes the nearest of those taken most similar to all
    images (facility location; greedy is within 63 % of the best choice: Nemhauser et al., 1978).
    That images of low estimate count more was tried and gains nothing (docs/quality.md).

    Args:
        looks: (N, D) float, as of `looks_of`.
        count: How many.

    Returns:
        Indices of up to `count` images, the first to be labelled first.
    """
    values = (looks - looks.mean(axis=0)) / (looks.std(axis=0) + 1e-3)
    squares = (values**2).sum(axis=1)
    apart = np.maximum(squares[:, None] + squares - 2 * values @ values.T, 0)
    alike = np.exp(-apart / max(float(np.median(apart)), 1e-6))
    return facility_location(alike, count)


def looks_of(image: ImageRef, masks: Sequence[CocoAnnotation]) -> NDArray[np.float64]:
    """(D,) what tells images of a set apart: light and colours, and size and number of objects.

    Colours of all pixels do here what embeddings of masks do not (docs/quality.md).

    Args:
        image: The image.
        masks: Masks on it, at least one.

    Raises:
        DataError: If the image cannot be read.
    """
    pixels, size = read_with_size(image.path, reading=image.reading, short_side=SHORT_SIDE)
    step = max(1, min(pixels.shape[:2]) // SHORT_SIDE)
    some = torch.from_numpy(pixels[::step, ::step].copy()).permute(2, 0, 1)
    lab = rgb_to_lab(some.float() / 255).flatten(1).double().numpy()
    scores = np.array([one.score for one in masks])
    shares = np.array([max(one.area, 1) for one in masks]) / (size[0] * size[1])
    weights = scores**2 + 1e-6
    return np.array(
        [
            *lab.mean(axis=1),
            *lab.std(axis=1),
            *np.percentile(lab[0], PERCENTILES),
            weights @ np.log(shares) / weights.sum(),
            np.log(scores.sum() + 1),
            np.sort(scores)[-BEST:].mean(),
        ]
    )


def facility_location(alike: NDArray[np.floating], count: int) -> list[int]:
    """Greedily picks items so that each item is like one that was picked.

    Args:
        alike: (N, N) how alike items are, in [-1, 1].
        count: How many to pick.

    Returns:
        Indices of `count` items, or all N, in the order they were picked.
    """
    covered = np.full(len(alike), -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(alike))):
        gains = np.maximum(alike - covered, 0).sum(axis=1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, alike[:, chosen[-1]])
    return chosen


def write_selected(file: CocoFile, images: Sequence[ImageRef], count: int, out: Path) -> list[str]:
    """Picks images and writes a list of their paths beside a file of estimates.

    Args:
        file: Masks of images.
        images: The images of the file, or more.
        count: How many.
        out: The file of estimates; the list is `NAME.selected.txt`.

    Returns:
        Their names.
    """
    by_name = {image.name: image for image in images}
    names, looks = [], []
    with track("comparing images", len(file.images)) as tracker:
        for one in file.images:
            if masks := file.annotations[one.id]:
                names.append(one.file_name)
                looks.append(looks_of(by_name[one.file_name], masks))
            tracker.advance()
    if len(names) < count:
        logger.warning("wanted %d images to label, %d have masks to choose by", count, len(names))
    chosen = [names[place] for place in select(np.array(looks), count)] if names else []
    listed = "".join(f"{by_name[name].path.absolute()}\n" for name in chosen)
    write_text(out.with_name(f"{out.stem}.selected.txt"), listed)
    return chosen
