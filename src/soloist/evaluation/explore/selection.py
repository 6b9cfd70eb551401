"""Which images to label first: few that between them look like all the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.types import CocoFile
from soloist.data.sources import ImageRef
from soloist.evaluation.explore.sources import embeddings_of
from soloist.ops.vectors import unit_vectors
from soloist.runtime.files import write_text

logger = logging.getLogger(__name__)

DOUBT = 0.5
"""Images whose estimate is 1 count this much, those of 0 one more."""


def select(file: CocoFile, estimates: Mapping[str, float], count: int) -> list[str]:
    """Picks images that cover what the masks of a set look like, doubtful ones before others.

    Each image is the mean embedding of its masks, weighted by their scores. One after the other the
    image is taken that makes the nearest of those taken most similar to all images (facility
    location; greedy is within 63 % of the best choice: Nemhauser et al., 1978), where images of
    low estimate count more.

    Args:
        file: Masks with embeddings.
        estimates: Estimate of each image in [0, 1], by its name.
        count: How many.

    Returns:
        Names of at most `count` images that have masks, the first to be labelled first.

    Raises:
        DataError: If the file has no masks or no embeddings.
    """
    vectors = embeddings_of(file)
    names, means = [], []
    for image in file.images:
        masks = file.annotations[image.id]
        if masks:
            weights = np.array([one.score for one in masks]) + 1e-6
            means.append(weights @ vectors[[one.index for one in masks]])
            names.append(image.file_name)
    looks = unit_vectors(np.array(means, dtype=np.float32))
    # What all images share says nothing about which of them differ.
    looks = unit_vectors(looks - looks.mean(axis=0))
    doubt = np.array([DOUBT + 1 - estimates.get(name, 0.0) for name in names])
    return [names[place] for place in facility_location(looks @ looks.T, doubt, count)]


def facility_location(
    alike: NDArray[np.floating], weights: NDArray[np.floating], count: int
) -> list[int]:
    """Greedily picks items so that each item is like one that was picked.

    Args:
        alike: (N, N) how alike items are, in [-1, 1].
        weights: (N,) of the items to be covered.
        count: How many to pick.

    Returns:
        Indices of `count` items, or all N, in the order they were picked.
    """
    covered = np.full(len(weights), -1.0)
    chosen: list[int] = []
    for _ in range(min(count, len(weights))):
        gains = np.maximum(alike - covered[None], 0) @ weights
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, alike[:, chosen[-1]])
    return chosen


def write_selected(
    file: CocoFile,
    report: Mapping[str, Any],
    images: Sequence[ImageRef],
    count: int,
    out: Path,
) -> list[str]:
    """Picks images and writes a list of their paths beside a file of estimates.

    Args:
        file: Masks with agreements and embeddings.
        report: As of `quality.estimate_quality`.
        images: The images of the file, or more.
        count: How many.
        out: The file of estimates; the list is `NAME.selected.txt`.

    Returns:
        Their names.

    Raises:
        DataError: As of `select`.
    """
    estimates = {row["file_name"]: float(row["estimate"]) for row in report["images"]}
    names = select(file, estimates, count)
    if len(names) < count:
        logger.warning("wanted %d images to label, %d have masks to choose by", count, len(names))
    paths = {image.name: image.path.absolute() for image in images}
    listed = "".join(f"{paths[name]}\n" for name in names)
    write_text(out.with_name(f"{out.stem}.selected.txt"), listed)
    return names
