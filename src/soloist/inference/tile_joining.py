"""Objects of an image from those of its tiles: what borders cut is joined, duplicates go.

A mask that reaches a border inside the image is *cut*: the object may continue in the next tile.
Where two tiles overlap both see the same pixels, so that two masks of one object agree there.

- A cut mask that agrees with an uncut one of another tile, and lies mostly within it, goes.
- Else masks that agree are joined if a border cuts one of them, the best agreement first; a joined
  mask has at most one of each tile.
- Among all that is whole now, of two masks of different tiles that overlap too much the better goes
  on. A mask seen on the whole, reduced image yields to a finer one, which takes over its score if
  that is better.
- What is still cut goes if it lies mostly within something whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from soloist.config import TileConfig
from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.rle import box_mask, joined_mask, mask_area, mask_box_xywh, rle_iou
from soloist.structures import Instances

Box = tuple[int, int, int, int]
"""xyxy with an exclusive end, in pixels of the image."""

_BORDER = 100
"""A mask that comes as near to a tile's border as this part of its side is cut by it."""
_COVERED = 0.5
"""A cut is closed where a joined mask has a piece from a tile that shows more of it than this."""


@dataclass(frozen=True)
class Cut:
    """Where a border of a tile, inside the image, cuts a mask.

    Attributes:
        side: 0 left, 1 top, 2 right, 3 bottom.
        border: Where that side of the tile is, in pixels of the image.
        strip: Box around what the mask has of the tile's last pixels there.
    """

    side: int
    border: int
    strip: Box

    def is_closed_by(self, tile: Box) -> bool:
        """Whether a tile continues beyond the border and shows most of the strip."""
        beyond = tile[self.side] < self.border if self.side < 2 else tile[self.side] > self.border
        common = _common(tile, self.strip)
        return beyond and common is not None and _size(common) > _COVERED * _size(self.strip)


@dataclass(frozen=True)
class Piece:
    """A mask of one tile, or of several that were joined.

    Attributes:
        rle: The mask at the image's size.
        box: Tight around it.
        area: Pixels.
        score: In [0, 1].
        embedding: (E,) float32.
        label: Its class.
        tiles: Numbers of the tiles it was seen in; none: on the whole image.
        cuts: Where the object may continue beyond these tiles.
    """

    rle: dict[str, Any]
    box: Box
    area: int
    score: float
    embedding: Tensor
    label: int
    tiles: tuple[int, ...] = ()
    cuts: tuple[Cut, ...] = ()


def pieces_of(
    found: Instances[Tensor, Any],
    rles: Sequence[dict[str, Any]],
    *,
    tile: int | None = None,
    tiles: Sequence[Box] = (),
    overlap: int = 0,
) -> Iterator[Piece]:
    """The objects of a tile, those without a pixel left out.

    Args:
        found: N objects.
        rles: Their masks at the image's size.
        tile: Its number; None for the whole image.
        tiles: The tiles by their numbers.
        overlap: Pixels that neighbouring tiles share at least.
    """
    embeddings = found.embeddings.detach().cpu().float()
    labels = [0] * len(found) if found.labels is None else found.labels.tolist()
    for row, (rle, score, label) in enumerate(
        zip(rles, found.scores.tolist(), labels, strict=True)
    ):
        area = mask_area(rle)
        if area == 0:
            continue
        piece = Piece(rle, _box(rle), area, score, embeddings[row], label)
        if tile is not None:
            cuts = tuple(_cuts(piece, tiles[tile], overlap))
            piece = replace(piece, tiles=(tile,), cuts=cuts)
        yield piece


def join_pieces(
    pieces: Sequence[Piece],
    tiles: Sequence[Box],
    size: tuple[int, int],
    config: TileConfig,
    *,
    embedding_size: int,
    labelled: bool,
) -> Instances[Tensor, EncodedMasks]:
    """The objects of an image.

    Args:
        pieces: What was found on tiles, and on the whole image.
        tiles: The tiles by their numbers.
        size: (height, width) of the image.
        config: Thresholds.
        embedding_size: E.
        labelled: Objects have classes.

    Returns:
        N objects, best first.
    """
    whole = [piece for piece in pieces if not piece.tiles]
    seen = _joined([piece for piece in pieces if piece.tiles], tiles, size, config.agreement)
    complete = [piece for piece in seen if not piece.cuts]
    rest = [piece for piece in seen if piece.cuts]
    kept: list[Piece] = []
    for group in (complete, whole, rest):
        for piece in sorted(group, key=lambda one: -one.score):
            _add(kept, piece, config.duplicates, cut=group is rest)
    kept.sort(key=lambda one: -one.score)
    boxes = np.array([piece.box for piece in kept], dtype=np.float32).reshape(-1, 4)
    embeddings = [piece.embedding for piece in kept]
    return Instances(
        image_size=size,
        masks=EncodedMasks(tuple(piece.rle for piece in kept), size),
        scores=torch.tensor([piece.score for piece in kept], dtype=torch.float32),
        boxes=torch.from_numpy(boxes),
        embeddings=torch.stack(embeddings) if kept else torch.zeros(0, embedding_size),
        labels=torch.tensor([piece.label for piece in kept]) if labelled else None,
    )


def _joined(
    pieces: list[Piece], tiles: Sequence[Box], size: tuple[int, int], least: float
) -> list[Piece]:
    """The pieces with those that are one object made one."""
    by_tile: list[list[int]] = [[] for _ in tiles]
    for place, piece in enumerate(pieces):
        by_tile[piece.tiles[0]].append(place)
    parts: set[int] = set()
    links: list[tuple[float, int, int]] = []
    for first, second in combinations(range(len(tiles)), 2):
        band = _common(tiles[first], tiles[second])
        if band is None:
            continue
        ones, others = (
            [place for place in by_tile[tile] if _common(pieces[place].box, band) is not None]
            for tile in (first, second)
        )
        for agreement, one, other in _agreements(pieces, ones, others, band, size):
            if agreement <= least or pieces[one].label != pieces[other].label:
                continue
            if not (pieces[one].cuts or pieces[other].cuts):
                continue
            part, rest = (one, other) if pieces[one].cuts else (other, one)
            if not pieces[rest].cuts and _share_within(pieces[part], pieces[rest]) > least:
                parts.add(part)
            else:
                links.append((agreement, one, other))
    groups = {place: [place] for place in range(len(pieces)) if place not in parts}
    for _, one, other in sorted(links, key=lambda link: -link[0]):
        if one in parts or other in parts or groups[one] is groups[other]:
            continue
        members = groups[one] + groups[other]
        if len({pieces[place].tiles for place in members}) == len(members):
            groups.update(dict.fromkeys(members, members))
    return [
        _united([pieces[place] for place in members], tiles)
        for place, members in groups.items()
        if place == members[0]
    ]


def _agreements(
    pieces: Sequence[Piece], ones: list[int], others: list[int], band: Box, size: tuple[int, int]
) -> Iterator[tuple[float, int, int]]:
    """The IoU inside a band of each mask of one tile with each of another, where there is any."""
    if not ones or not others:
        return
    inside = box_mask(band, size)
    clipped = [
        [joined_mask([pieces[place].rle, inside], intersect=True) for place in places]
        for places in (ones, others)
    ]
    ious = rle_iou(*clipped)
    for row, column in np.argwhere(ious > 0).tolist():
        yield float(ious[row, column]), ones[row], others[column]


def _share_within(piece: Piece, other: Piece) -> float:
    return float(rle_iou([piece.rle], [other.rle], over_masks=True)[0, 0])


def _united(members: list[Piece], tiles: Sequence[Box]) -> Piece:
    """One object of pieces; score and embedding weigh each piece by its pixels."""
    if len(members) == 1:
        return members[0]
    rle = joined_mask([piece.rle for piece in members])
    weights = torch.tensor([float(piece.area) for piece in members])
    embeddings = torch.stack([piece.embedding for piece in members])
    scores = torch.tensor([piece.score for piece in members])
    seen = tuple(tile for piece in members for tile in piece.tiles)
    return Piece(
        rle=rle,
        box=_box(rle),
        area=mask_area(rle),
        score=float(weights @ scores / weights.sum()),
        embedding=functional.normalize(weights @ embeddings, dim=0),
        label=members[0].label,
        tiles=seen,
        cuts=tuple(
            cut
            for piece in members
            for cut in piece.cuts
            if not any(cut.is_closed_by(tiles[tile]) for tile in seen)
        ),
    )


def _add(kept: list[Piece], piece: Piece, threshold: float, *, cut: bool) -> None:
    """Keeps a piece, unless it is a duplicate or a part of what is kept already."""
    near = [
        place
        for place, other in enumerate(kept)
        if other.label == piece.label
        # The labeler has settled what it saw at once.
        and other.tiles != piece.tiles
        and _common(other.box, piece.box) is not None
    ]
    if near:
        others = [kept[place].rle for place in near]
        ious = rle_iou([piece.rle], others)[0]
        best = int(ious.argmax())
        if ious[best] > threshold:
            same = kept[near[best]]
            kept[near[best]] = replace(same, score=max(same.score, piece.score))
            return
        if cut and rle_iou([piece.rle], others, over_masks=True).max() > threshold:
            return
    kept.append(piece)


def _cuts(piece: Piece, tile: Box, overlap: int) -> Iterator[Cut]:
    height, width = piece.rle["size"]
    for side, end in enumerate((0, 0, width, height)):
        border = tile[side]
        length = tile[side % 2 + 2] - tile[side % 2]
        near = max(1, min(length // _BORDER, overlap))
        strip = list(tile)
        strip[(side + 2) % 4] = border + (near if side < 2 else -near)
        # Boxes first: most masks are far from any border.
        box = (strip[0], strip[1], strip[2], strip[3])
        if border == end or _common(piece.box, box) is None:
            continue
        inside = joined_mask([piece.rle, box_mask(box, (height, width))], intersect=True)
        if mask_area(inside):
            yield Cut(side, border, _box(inside))


def _size(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _common(one: Box, other: Box) -> Box | None:
    """What two boxes share."""
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right, bottom = min(one[2], other[2]), min(one[3], other[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _box(rle: dict[str, Any]) -> Box:
    left, top, width, height = (int(side) for side in mask_box_xywh(rle))
    return left, top, left + width, top + height
