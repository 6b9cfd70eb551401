"""Masks as polygons, such that filling the polygons gives the masks back.

Tools disagree on whether whole numbers are corners or centres of pixels. An outline here runs a
quarter of a pixel inside the edges of the mask's pixels. Unless it is simplified, COCO's way of
filling it, which asks for centres of pixels, gives exactly the mask, and so does that of Pillow and
OpenCV, which cut off decimals and fill the border too (Pillow but for some pixels along cuts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import label

from soloist.data.coco.rle import decode_mask, encode_masks, mask_box_xywh, rle_iou, to_rle
from soloist.errors import DataError

Ring = NDArray[np.float64]
"""(P, 2) corners as x, y in pixels, the first not repeated at the end."""

INSET = 0.25
MIN_IOU = 0.97
"""Of a simplified outline with its mask; below it the tolerance is halved, twice, then 0."""

# Directions along the edges of pixels, each a right turn from the one before, as (x, y).
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
_RIGHT, _STRAIGHT, _LEFT = 1, 0, 3  # What is added to a direction.


@dataclass(frozen=True)
class Part:
    """A piece of a mask whose pixels share edges.

    Attributes:
        outer: Its outline.
        holes: Outlines of what is missing inside.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()

    def ring(self) -> Ring:
        """One ring: cuts of no width lead into the holes."""
        return joined([self.outer, *self.holes])


def outline(rle: Mapping[str, Any], tolerance: float = 0.0) -> list[Part]:
    """The outlines of a mask.

    Args:
        rle: Its run lengths, as from `to_rle`.
        tolerance: Pixels by which a line may leave the outline to save corners. It is lowered
            for a mask that it would change by more than `MIN_IOU` allows.

    Returns:
        Its parts, the largest first; none for a mask without a pixel.
    """
    left, top, width, height = (int(side) for side in mask_box_xywh(rle))
    mask = decode_mask(rle)[top : top + height, left : left + width]
    exact = exact_parts(mask)
    shift = np.array([left, top])
    return [
        Part(part.outer + shift, tuple(hole + shift for hole in part.holes))
        for part in _simplified_parts(exact, mask, tolerance)
    ]


def simplified(ring: Ring, tolerance: float) -> Ring:
    """A ring with fewer corners; itself if fewer than three were left.

    By Douglas and Peucker (1973); two corners far apart stay, so that each half is a line.

    Args:
        ring: The ring.
        tolerance: Pixels by which the new lines may leave the old.
    """
    # Its module takes a third of a second to import; few commands write polygons.
    from skimage.measure import approximate_polygon

    first = int(((ring - ring.mean(axis=0)) ** 2).sum(axis=1).argmax())
    ring_from_first = np.roll(ring, -first, axis=0)
    second = int(((ring_from_first - ring_from_first[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([ring_from_first, ring_from_first[:1]])
    halves = (closed[: second + 1], closed[second:])
    there, back = (approximate_polygon(half, tolerance) for half in halves)
    corners = np.concatenate([there[:-1], back[:-1]])
    return corners if len(corners) >= 3 else ring


def joined(rings: Sequence[Ring]) -> Ring:
    """Rings as one, with bridges of no width between nearest corners, each walked there and back.

    Filled by the even-odd rule, a ring inside another is a hole, and the bridges vanish.

    Args:
        rings: At least one.
    """
    path = rings[0]
    rest = list(rings[1:])
    # For each ring that is left: the nearest pair of corners of the path and of it, so far.
    nearest = [(np.inf, path[0], 0)] * len(rest)
    newest = path
    while rest:
        tree = cKDTree(newest)
        for place, ring in enumerate(rest):
            distances, corners = tree.query(ring)
            at = int(distances.argmin())
            if distances[at] < nearest[place][0]:
                nearest[place] = (float(distances[at]), newest[corners[at]], at)
        chosen = min(range(len(rest)), key=lambda place: nearest[place][0])
        newest = rest.pop(chosen)
        _, bridge, at = nearest.pop(chosen)
        leave = int((path == bridge).all(axis=1).argmax())
        round_trip = np.concatenate([np.roll(newest, -at, axis=0), newest[at : at + 1]])
        path = np.concatenate([path[: leave + 1], round_trip, path[leave:]])
    return path


def exact_parts(mask: NDArray[np.bool_]) -> list[Part]:
    """The outlines of an (H, W) bool mask, corner by corner; the largest part first."""
    numbers = label(mask, connectivity=1)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for ring, (y, x) in _rings(mask):
        number = int(numbers[y, x])
        # With the mask on the right hand, outlines turn right and holes left.
        if twice_area(ring) > 0:
            outer[number] = ring
        else:
            holes.setdefault(number, []).append(ring)
    parts = [Part(ring, tuple(holes.get(number, ()))) for number, ring in outer.items()]
    return sorted(parts, key=lambda part: -twice_area(part.outer))


def twice_area(ring: Ring) -> float:
    """Twice the area of a ring in square pixels; that of a hole is negative."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def _simplified_parts(exact: list[Part], mask: NDArray[np.bool_], tolerance: float) -> list[Part]:
    if not exact or tolerance == 0:
        return exact
    wanted = encode_masks(mask[None])
    size = (mask.shape[0], mask.shape[1])
    for lowered in (tolerance, tolerance / 2, tolerance / 4):
        simple = [
            Part(
                simplified(part.outer, lowered),
                tuple(simplified(hole, lowered) for hole in part.holes),
            )
            for part in exact
        ]
        try:
            filled = to_rle([part.ring().ravel().tolist() for part in simple], size)
        except DataError:  # Longer than it fills: noise, which no line follows.
            break
        if rle_iou([filled], wanted)[0, 0] >= MIN_IOU:
            return simple
    return exact


def _rings(mask: NDArray[np.bool_]) -> list[tuple[Ring, tuple[int, int]]]:
    """Each closed line along edges of pixels, moved inwards, and a pixel (y, x) it runs along."""
    padded = np.pad(mask, 1)
    # The four pixels around each of the (H + 1) * (W + 1) corners.
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    leaving = np.stack(  # (4, H + 1, W + 1): whether an edge leaves the corner in a direction
        [
            south_east & ~north_east,
            south_west & ~south_east,
            north_west & ~south_west,
            north_east & ~north_west,
        ]
    ).reshape(4, -1)
    columns = padded.shape[1] - 1
    edges = np.flatnonzero(leaving)
    directions, starts = np.divmod(edges, leaving.shape[1])
    ends = starts + (_STEPS @ (1, columns))[directions]
    # Where two pixels touch at a corner alone, the right turn keeps them apart.
    right, left = (directions + _RIGHT) % 4, (directions + _LEFT) % 4
    onward = np.where(
        leaving[right, ends], right, np.where(leaving[directions, ends], directions, left)
    )
    following = np.searchsorted(edges, onward * leaving.shape[1] + ends).tolist()
    y, x = np.divmod(ends, columns)
    inwards = _STEPS[right] + _STEPS[(onward + _RIGHT) % 4]
    corners = np.stack([x, y], axis=1) + INSET * inwards  # (E, 2) at the end of each edge
    pixel = np.array([(0, 0), (0, -1), (-1, -1), (-1, 0)])  # (y, x) from the start of an edge
    rings = []
    seen = bytearray(len(edges))
    for first in range(len(edges)):
        if seen[first]:
            continue
        line = []
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            line.append(edge)
            edge = following[edge]
        turns = np.array(line)
        turns = turns[onward[turns] != directions[turns]]
        along = np.array(divmod(int(starts[first]), columns)) + pixel[directions[first]]
        rings.append((corners[turns], (int(along[0]), int(along[1]))))
    return rings
