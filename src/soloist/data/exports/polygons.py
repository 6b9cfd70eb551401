"""Masks as the polygons of a format, and what that changes."""

from __future__ import annotations

from soloist.data.coco.outlines import Ring, joined, outline
from soloist.data.coco.types import CocoAnnotation
from soloist.data.exports.target import Note, Target

_DIGITS = 2  # Outlines lie on quarters of pixels.


def part_rings(one: CocoAnnotation, target: Target) -> list[Ring]:
    """A ring for each part of a mask, with cuts into its holes."""
    parts = outline(one.rle, target.options.tolerance)
    target.notes[Note.CUT_HOLES] += any(part.holes for part in parts)
    return [part.ring() for part in parts]


def single_ring(one: CocoAnnotation, target: Target) -> Ring:
    """All parts and holes of a mask as one ring."""
    parts = outline(one.rle, target.options.tolerance)
    target.notes[Note.CUT_HOLES] += any(part.holes for part in parts)
    target.notes[Note.JOINED_PARTS] += len(parts) > 1
    return joined([ring for part in parts for ring in (part.outer, *part.holes)])


def corners(ring: Ring) -> list[list[float]]:
    """A ring as lists [x, y], ready for JSON."""
    rounded: list[list[float]] = ring.round(_DIGITS).tolist()
    return rounded
