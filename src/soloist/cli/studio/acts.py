"""What a person does to the objects of an image, as functions from objects to objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from skimage.draw import line, polygon2mask
from skimage.measure import label
from skimage.morphology import dilation, disk
from skimage.segmentation import watershed

from soloist.cli.studio.open_image import COVERED, OpenImage
from soloist.data.coco.rle import decode_mask, encode_masks
from soloist.errors import DataError
from soloist.proposals.ranking import MIN_PIXELS

STROKE_SHARE = 0.04
"""Radius within which a cut may follow edges beside a stroke, of the side of the object."""


@dataclass(frozen=True)
class Drawn:
    """An object that somebody kept.

    Attributes:
        number: Its own within the image; a changed mask has a new one.
        rle: Its mask, of the size of the image.
        category_id: Its class.
    """

    number: int
    rle: Mapping[str, Any]
    category_id: int


@dataclass(frozen=True)
class Labelled:
    """The objects of an image.

    Attributes:
        objects: In the order they were made.
        finished: Somebody says that no object is missing.
    """

    objects: tuple[Drawn, ...] = ()
    finished: bool = False

    def named(self, numbers: Sequence[int]) -> tuple[Drawn, ...]:
        """Some of the objects.

        Raises:
            DataError: If one of them is not there.
        """
        by_number = {one.number: one for one in self.objects}
        missing = [number for number in numbers if number not in by_number]
        if missing:
            raise DataError(f"there is no object {missing[0]} any more; load the page again")
        return tuple(by_number[number] for number in numbers)

    def changed(
        self, gone: Sequence[Drawn], masks: Sequence[NDArray[np.bool_]], category_id: int
    ) -> Labelled:
        """The same without some objects and with new ones of a class; empty masks are left out."""
        kept = tuple(one for one in self.objects if one not in gone)
        new = [mask for mask in masks if mask.any()]
        first = 1 + max((one.number for one in self.objects), default=0)
        rles = encode_masks(np.stack(new)) if new else []
        made = tuple(Drawn(first + at, rle, category_id) for at, rle in enumerate(rles))
        return replace(self, objects=kept + made)


Act = Mapping[str, Any]
"""What was done: `act`, its name in `ACTS`, and its own values."""


def apply(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """The objects after something was done to them.

    Args:
        image: The image.
        state: Its objects before.
        act: What was done.

    Raises:
        DataError: If it is nothing known, or cannot be done; one line for people.
    """
    known = ACTS.get(str(act.get("act")))
    if known is None:
        raise DataError(f"wanted one of {', '.join(ACTS)}, got {act.get('act')!r}")
    try:
        return known(image, state, act)
    except (KeyError, TypeError) as error:
        raise DataError(f"{act['act']} wants other values than {sorted(act)}") from error


def _keep(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """Keeps an item without what kept objects cover of it, but for those that it encloses."""
    mask = image.mask([int(act["item"])])
    rest = mask.copy()
    for one in state.objects:
        rest &= ~decode_mask(one.rle)
    if rest.sum() < MIN_PIXELS:
        raise DataError("all of that is kept already; the wheel lights what holds it")
    # Within the box of the item, which is where its holes are.
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rest[box] = binary_fill_holes(rest[box]) & mask[box]
    return state.changed((), [rest], int(act["category"]))


def _join(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """Keeps the union of items and objects as one object."""
    gone = state.named(_numbers(act["objects"]))
    mask = image.mask(_numbers(act["items"]))
    for one in gone:
        mask |= decode_mask(one.rle)
    return state.changed(gone, [mask], int(act["category"]))


def _remove(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    return state.changed(state.named(_numbers(act["objects"])), [], 0)


def _subtract(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """Takes items out of an object."""
    (whole,) = state.named(_numbers(act["objects"]))
    rest = decode_mask(whole.rle) & ~image.mask(_numbers(act["items"]))
    return state.changed([whole], [rest], whole.category_id)


def _split(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """Cuts an object, or an item that is kept with it, along a stroke."""
    gone = state.named(_numbers(act["objects"]))
    items = _numbers(act["items"])
    mask = decode_mask(gone[0].rle) if gone else image.mask(items)
    category = gone[0].category_id if gone else int(act["category"])
    stroke = _points(act["stroke"], 2, "a stroke")
    return state.changed(gone[:1], split_mask(image, mask, stroke), category)


def _draw(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """Keeps what an outline encloses, whatever there is below it."""
    outline = _points(act["outline"], 3, "an outline")
    # Points are on corners of pixels, and a pixel is inside if its middle is.
    mask = polygon2mask(image.size, outline[:, ::-1] - 0.5)
    if mask.sum() < MIN_PIXELS:
        raise DataError(
            "an outline encloses something: drag around an object, or click its corners"
        )
    return state.changed((), [mask], int(act["category"]))


def _classify(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    chosen = state.named(_numbers(act["objects"]))
    category = int(act["category"])
    objects = tuple(
        replace(one, category_id=category) if one in chosen else one for one in state.objects
    )
    return replace(state, objects=objects)


def _keep_all(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    """Keeps what is offered from a score on, but for what kept objects cover."""
    taken = np.zeros(image.found.size, dtype=np.bool_)
    for one in state.objects:
        taken |= image.reduced(decode_mask(one.rle))
    categories = [int(one) for one in act["categories"]]
    for item in image.offered.tolist():
        if image.scores[item] < float(act["score"]):
            break
        if taken.ravel()[image.pixels(item)].mean() > COVERED:
            continue
        place = item - len(image.candidates)
        own = int(image.own.labels[place]) if place >= 0 else 0
        category = categories[own] if place >= 0 and own < len(categories) else act["category"]
        state = state.changed((), [image.mask([item])], int(category))
    return state


def _finish(image: OpenImage, state: Labelled, act: Act) -> Labelled:
    return replace(state, finished=bool(act["finished"]))


ACTS: Mapping[str, Callable[[OpenImage, Labelled, Act], Labelled]] = {
    "keep": _keep,
    "join": _join,
    "remove": _remove,
    "subtract": _subtract,
    "split": _split,
    "draw": _draw,
    "classify": _classify,
    "keep-all": _keep_all,
    "finish": _finish,
}


def split_mask(
    image: OpenImage, mask: NDArray[np.bool_], stroke: NDArray[np.float64]
) -> list[NDArray[np.bool_]]:
    """A mask cut along a stroke, which need not be exact: near it the cut follows edges.

    Args:
        image: The image.
        mask: (H, W) bool.
        stroke: (P, 2) points x, y in pixels of the image.

    Returns:
        Two masks or more, which share no pixel.

    Raises:
        DataError: If the stroke does not lead through the mask.
    """
    small = image.reduced(mask)
    height, width = small.shape
    scale = np.array([width / image.size[1], height / image.size[0]])
    corners = np.clip((stroke * scale).astype(np.int64), 0, (width - 1, height - 1))
    band = np.zeros_like(small)
    for (left, top), (right, bottom) in pairwise(corners.tolist()):
        band[line(top, left, bottom, right)] = True
    radius = max(1, round(STROKE_SHARE * float(small.sum()) ** 0.5))
    band = dilation(band, disk(radius)) & small
    sides = label(small & ~band, connectivity=1)
    # Specks at the ends of the band are no sides.
    sizes = np.bincount(sides.ravel())
    sides[np.isin(sides, np.flatnonzero(sizes < MIN_PIXELS))] = 0
    if band.any():
        # Parts of the object that the stroke leaves alone stay with the largest one.
        beside = np.unique(sides[dilation(band, disk(1))])
        sides[~np.isin(sides, beside)] = 0
    if len(np.unique(sides)) < 3:
        raise DataError("a stroke splits an object that it crosses from side to side")
    cut = watershed(image.steepness, sides, mask=small)
    parts: list[NDArray[np.bool_]] = []
    rest = mask.copy()
    numbers = np.unique(cut[cut > 0])
    by_size = numbers[np.argsort(np.bincount(cut.ravel())[numbers])]
    # The largest one has what is left, whatever the outlines between do.
    for number in by_size[:-1]:
        part = image.enlarged((cut == number).astype(np.float32)) & rest
        rest &= ~part
        parts.append(part)
    return [*parts, rest]


def _points(values: Any, least: int, what: str) -> NDArray[np.float64]:
    try:
        points = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} wants points x, y that are numbers") from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least:
        raise DataError(f"{what} wants {least} points x, y at least, got {points.shape}")
    if not np.isfinite(points).all():
        raise DataError(f"{what} wants points x, y that are numbers")
    return points


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values]
