"""Masks without learning, a few lines of scikit-image each: what a method has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from benchmarks.photographs.proposals import Proposals
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, feature, filters, segmentation

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.rle import encode_masks
from soloist.data.drawing.rendering import thumbnail

MIN_AREA = 20
"""Smaller segments are dropped, in pixels of the image the segments were found on."""
MAX_MASKS = 1000
"""Most masks an image: more never count."""
MIN_DISTANCE = 5
"""Least distance of two peaks of the distance transform, in pixels."""
FELZENSZWALB_SCALES = (300.0, 1000.0)
"""Scales of the segmentations whose segments are taken together; scikit-image's unit."""
FELZENSZWALB_SIDE = 320
"""Images are reduced to this long side before, in pixels."""
RING = 3
"""Width of the strip around a segment that its colour is compared with, in pixels."""

Labels = NDArray[np.int64]


def otsu_watershed(pixels: NDArray[np.uint8]) -> Proposals:
    """A threshold, and a watershed that parts what touches.

    The foreground is the side of Otsu's threshold that has less of the image's border; its
    distance transform has a peak in each object. A mask's score is the difference between its
    mean grey and that of the background.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """
    grey = filters.gaussian(color.rgb2gray(pixels), 1)
    bright = grey > filters.threshold_otsu(grey)
    border = np.concatenate((bright[0], bright[-1], bright[:, 0], bright[:, -1]))
    foreground = bright if border.mean() < 0.5 else ~bright
    distance = filters.gaussian(ndimage.distance_transform_edt(foreground), 1)
    peaks = feature.peak_local_max(
        distance,
        min_distance=MIN_DISTANCE,
        labels=ndimage.label(foreground)[0],
        exclude_border=False,
    )
    markers = np.zeros(foreground.shape, dtype=np.int64)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = segmentation.watershed(-distance, markers, mask=foreground)
    means = ndimage.mean(grey, labels, np.arange(1, len(peaks) + 1))
    scores = np.abs(means - grey[~foreground].mean()) if len(peaks) else np.zeros(0)
    return _best([(labels, scores)], (pixels.shape[0], pixels.shape[1]))


def felzenszwalb(pixels: NDArray[np.uint8]) -> Proposals:
    """Segments of Felzenszwalb and Huttenlocher's graph segmentation, at several scales.

    A mask's score is the distance of its mean CIE-Lab colour from that of the strip around it,
    over 100, halved for each side of the image that it touches.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """
    reduced = thumbnail(pixels, FELZENSZWALB_SIDE)
    lab = color.rgb2lab(reduced)
    found = []
    for scale in FELZENSZWALB_SCALES:
        labels = 1 + segmentation.felzenszwalb(reduced, scale=scale, sigma=0.8, min_size=MIN_AREA)
        found.append((labels, _contrasts(lab, labels)))
    return _best(found, (pixels.shape[0], pixels.shape[1]))


def _contrasts(lab: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """The score of each of the labels 1, 2, ... as `felzenszwalb` defines it."""
    scores = np.zeros(labels.max())
    for index, box in enumerate(ndimage.find_objects(labels)):
        window = tuple(slice(max(0, side.start - RING), side.stop + RING) for side in box)
        inside = labels[window] == index + 1
        ring = ndimage.binary_dilation(inside, iterations=RING) & ~inside
        if not ring.any():  # It is the whole image.
            continue
        distance = np.linalg.norm(lab[window][inside].mean(axis=0) - lab[window][ring].mean(axis=0))
        sides = sum(
            (side.start == 0) + (side.stop == length)
            for side, length in zip(box, labels.shape, strict=True)
        )
        scores[index] = min(distance / 100, 1.0) / 2**sides
    return scores


def _best(found: Sequence[tuple[Labels, NDArray[np.float64]]], size: tuple[int, int]) -> Proposals:
    """The best segments of maps, at the image's size; equal ones once.

    Args:
        found: (h, w) maps of labels 1, 2, ..., 0 elsewhere, and the score of each label.
        size: (height, width) of the masks, in pixels.
    """
    candidates = [
        (float(scores[label - 1]), number, label)
        for number, (labels, scores) in enumerate(found)
        for label, area in enumerate(np.bincount(labels.ravel()))
        if label > 0 and area >= MIN_AREA
    ]
    candidates.sort(key=lambda one: -one[0])
    # Column by column, as run lengths are: no mask need be turned.
    whole = [np.ascontiguousarray(_resized(labels, size).T, dtype=np.int32) for labels, _ in found]
    kept: dict[str, tuple[dict[str, object], float]] = {}
    for score, number, label in candidates[:MAX_MASKS]:
        rle = encode_masks((whole[number] == label).T[None])[0]
        kept.setdefault(rle["counts"], (rle, score))
    return Proposals.of(
        EncodedMasks(tuple(rle for rle, _ in kept.values()), size),
        np.array([score for _, score in kept.values()], dtype=np.float32),
    )


def _resized(labels: Labels, size: tuple[int, int]) -> Labels:
    """(height, width) map: the label of the nearest pixel."""
    rows, columns = (
        np.minimum((np.arange(wanted) + 0.5) * has / wanted, has - 1).astype(np.int64)
        for wanted, has in zip(size, labels.shape, strict=True)
    )
    resized: Labels = labels[rows[:, None], columns]
    return resized
