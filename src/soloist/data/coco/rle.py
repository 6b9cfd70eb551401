"""Masks as COCO run lengths: encoding, checking and decoding.

COCO stores a mask as the lengths of alternating runs of background and foreground, column by
column. The C library behind pycocotools trusts its input, so everything from outside is checked
here before it gets there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from soloist.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MAX_MASK_PIXELS = 2**31 - 1
"""Largest mask: the C library counts in 32 bits."""
_MAX_CHARACTERS = 7  # Of one run length: 35 bits, more than any image has pixels.
_MAX_COORDINATE = 1e6  # Pixels.
_MAX_OUTLINE = 4e6  # Pixels; polygons are rasterised along their outline, 80 bytes a pixel.
_MAX_DECODED = 2**32  # Pixels of all masks of an image together, a byte each.


def encode_masks(masks: Tensor | NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Compresses masks to COCO run lengths.

    Args:
        masks: (N, H, W) bool.

    Returns:
        N dicts of `size` [H, W] and `counts`, an ASCII string, ready for JSON.

    Raises:
        ValueError: If masks is not 3-D or not bool.
    """
    array: NDArray[np.bool_] = masks if isinstance(masks, np.ndarray) else masks.cpu().numpy()
    if array.ndim != 3 or array.dtype != np.bool_:
        raise ValueError(f"masks must be (N, H, W) bool, got {array.shape} {array.dtype}")
    if len(array) == 0:
        return []
    # pycocotools wants (H, W, N) in Fortran order, which is (N, W, H) in C order.
    columns = np.ascontiguousarray(array.transpose(0, 2, 1)).view(np.uint8)
    encoded = coco_mask.encode(columns.transpose(2, 1, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in encoded]


def encode_part(
    mask: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """Compresses a mask that is foreground in a part of an image alone.

    Args:
        mask: (h, w) bool of the part.
        corner: (top, left) of the part in the image, in pixels.
        size: (height, width) of the image.

    Returns:
        What `encode_masks` of the whole image gives.
    """
    # No run continues from one column to the next past a row of background.
    height, width = mask.shape
    flat = np.zeros(width * (height + 1) + 1, dtype=np.bool_)
    flat[1:].reshape(width, height + 1)[:, :-1] = mask.T
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), height + 1)
    edges = (column + corner[1]) * size[0] + corner[0] + row
    # Where that row is none of the image, a run may begin where the last one ended.
    joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])
    if len(joined):
        edges = np.delete(edges, np.concatenate((2 * joined + 1, 2 * joined + 2)))
    ends = np.empty(len(edges) + 2, dtype=np.int64)
    ends[0], ends[1:-1], ends[-1] = 0, edges, size[0] * size[1]
    lengths = ends[1:] - ends[:-1]
    if len(lengths) > 1 and lengths[-1] == 0:
        lengths = lengths[:-1]
    return _compressed(lengths.tolist(), size)


def to_rle(segmentation: Any, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Checks any of COCO's kinds of segmentation and compresses it.

    Args:
        segmentation: Compressed run lengths (`counts` a string), plain ones (`counts` a list)
            or polygons (lists of x, y, x, y, ... in pixels; those of fewer than three points
            cover nothing and are ignored).
        size: (height, width) of the image; may be None for run lengths, which carry it.

    Returns:
        A dict of `size` [H, W] and `counts`, an ASCII string.

    Raises:
        DataError: If it is malformed or does not fit the size.
    """
    if isinstance(segmentation, Mapping):
        return _checked_rle(segmentation, size)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, (str, bytes)):
        if size is None:
            raise DataError("wanted run lengths, got polygons without the image's size")
        return _rasterised(segmentation, size)
    raise DataError(
        "wanted a segmentation of polygons or run lengths, got "
        f"{type(segmentation).__name__}; export the file with masks"
    )


def decode_mask(segmentation: Any, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Decodes any of COCO's kinds of segmentation.

    Args:
        segmentation: As in `to_rle`.
        size: As in `to_rle`.

    Returns:
        (H, W) bool.

    Raises:
        DataError: As `to_rle`.
    """
    decoded: NDArray[np.uint8] = coco_mask.decode(to_rle(segmentation, size))
    return np.ascontiguousarray(decoded).view(np.bool_)


def decode_masks(segmentations: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decodes the segmentations of one image.

    Args:
        segmentations: N of them, as in `to_rle`.
        size: (height, width) of the image.

    Returns:
        (N, H, W) bool.

    Raises:
        DataError: As `to_rle`.
    """
    if len(segmentations) * size[0] * size[1] > _MAX_DECODED:
        raise DataError(
            f"wanted masks of at most {_MAX_DECODED} pixels together, got {len(segmentations)} of "
            f"{size[0]} x {size[1]}; keep fewer masks on the image, or cut it into tiles"
        )
    masks = np.zeros((len(segmentations), *size), dtype=np.bool_)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask[:] = decode_mask(segmentation, size)
    return masks


def placed_mask(
    rle: Mapping[str, Any], corner: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """A mask of a part of an image as a mask of the image, without decoding either.

    Args:
        rle: A checked, compressed mask of the part.
        corner: (top, left) of the part in the image, in pixels.
        size: (height, width) of the image.

    Returns:
        A checked, compressed mask of the image, equal to `encode_masks` of the same pixels.

    Raises:
        ValueError: If the part does not lie inside the image.
    """
    (top, left), (height, width), (rows, columns) = corner, size, rle["size"]
    if not (0 <= top <= height - rows and 0 <= left <= width - columns):
        raise ValueError(f"a part {rows} x {columns} at {corner} is not inside {height} x {width}")
    ends = np.cumsum(_run_lengths(rle["counts"]))
    starts, stops = ends[0:-1:2], ends[1::2]  # (R,) of the runs of foreground, column by column
    if rows < height:
        # A run over several columns is cut where each of them ends.
        first = starts // rows
        pieces = np.where(stops > starts, (stops - 1) // rows - first + 1, 0)
        run = np.repeat(np.arange(len(pieces)), pieces)
        column = first[run] + np.arange(len(run)) - (np.cumsum(pieces) - pieces)[run]
        shift = (column + left) * height + top - column * rows
        starts = np.maximum(starts[run], column * rows) + shift
        stops = np.minimum(stops[run], (column + 1) * rows) + shift
    else:
        starts, stops = starts + left * height, stops + left * height
    borders = np.concatenate([[0], np.stack([starts, stops], axis=1).ravel(), [height * width]])
    lengths = np.diff(borders)
    if len(lengths) > 1 and lengths[-1] == 0:
        lengths = lengths[:-1]
    return _compressed(lengths.tolist(), size)


def refitted_mask(rle: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A checked mask cut, or continued by background, at the right and bottom to another size."""
    mask = np.zeros(size, dtype=np.bool_)
    own = decode_mask(rle)[: size[0], : size[1]]
    mask[: own.shape[0], : own.shape[1]] = own
    return encode_masks(mask[None])[0]


def joined_mask(masks: Sequence[Mapping[str, Any]], *, intersect: bool = False) -> dict[str, Any]:
    """What several checked, compressed masks of one size cover together, or all of them cover."""
    merged = coco_mask.merge(list(masks), intersect=intersect)
    return {"size": list(merged["size"]), "counts": merged["counts"].decode("ascii")}


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    """The pixels of a box as a compressed mask.

    Args:
        box: xyxy with an exclusive end, in pixels, inside the image.
        size: (height, width) of the image.
    """
    left, top, right, bottom = box
    rows, columns = bottom - top, right - left
    return placed_mask(_compressed([0, rows * columns], (rows, columns)), (top, left), size)


def mask_area(rle: Mapping[str, Any]) -> int:
    """Pixels of foreground of a checked, compressed mask."""
    return int(coco_mask.area(rle))


def mask_box_xywh(rle: Mapping[str, Any]) -> list[float]:
    """Tight box (left, top, width, height) in pixels of a checked, compressed mask."""
    return [float(value) for value in coco_mask.toBbox(rle)]


def rle_iou(
    masks: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    *,
    over_masks: bool = False,
) -> NDArray[np.float64]:
    """Intersection over union of every mask with every other one, without decoding them.

    Args:
        masks: N checked, compressed masks.
        others: M of them, of the same size.
        over_masks: Intersection over the area of the first of the two instead: how much of it
            the other covers.

    Returns:
        (N, M) float64 in [0, 1]; 0 between two empty masks.
    """
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    ious: NDArray[np.float64] = coco_mask.iou(
        list(masks), list(others), [int(over_masks)] * len(others)
    )
    # The C library divides by an empty union.
    return np.nan_to_num(ious, nan=0.0)


def box_iou(
    boxes: Sequence[Sequence[float]], others: Sequence[Sequence[float]]
) -> NDArray[np.float64]:
    """Intersection over union of every box with every other one.

    Args:
        boxes: N of (left, top, width, height), in pixels.
        others: M of them.

    Returns:
        (N, M) float64 in [0, 1]; 0 between two boxes without a pixel.
    """
    if not boxes or not others:
        return np.zeros((len(boxes), len(others)))
    arrays = [np.array(one, dtype=np.float64) for one in (boxes, others)]
    ious: NDArray[np.float64] = coco_mask.iou(*arrays, [0] * len(others))
    return np.nan_to_num(ious, nan=0.0)


def _checked_rle(rle: Mapping[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    own_size = rle.get("size")
    if not (
        isinstance(own_size, Sequence)
        and len(own_size) == 2
        and all(type(side) is int and side >= 1 for side in own_size)
    ):
        raise DataError(f"wanted run lengths with size [height, width], got size {own_size!r}")
    height, width = own_size
    if height * width > MAX_MASK_PIXELS:
        raise DataError(
            f"wanted a mask of at most {MAX_MASK_PIXELS} pixels, got {height} x {width}"
        )
    if size is not None and (height, width) != tuple(size):
        raise DataError(
            f"wanted a mask of {size[0]} x {size[1]} (height x width) like its image, got "
            f"{height} x {width}; check that EXIF rotation and resizing were the same"
        )
    counts = rle.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", errors="replace")
    if isinstance(counts, str):
        lengths = _run_lengths(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        lengths = np.array(counts, dtype=object)
    else:
        raise DataError("wanted run lengths as a string or a list of integers under `counts`")
    if len(lengths) and lengths.min() < 0:
        raise DataError("wanted run lengths of 0 or more, got a negative one: counts are damaged")
    total = int(lengths.sum())
    if total != height * width:
        raise DataError(
            f"wanted run lengths that sum to {height} * {width} = {height * width}, got {total}: "
            "counts are damaged"
        )
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return _compressed(counts, (height, width))


def _compressed(counts: list[int], size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths that were checked in COCO's compressed form."""
    plain = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": list(size), "counts": plain["counts"].decode("ascii")}


def _run_lengths(counts: str) -> NDArray[np.int64]:
    """Run lengths of a compressed string, what the C library would read, but checked.

    Each character carries five bits, lowest first, a flag that more follow, and in the last one
    the sign; from the fourth run on the difference to the last but one is stored.
    """
    if not counts.isascii():
        raise DataError("wanted counts in COCO's compressed form, got a damaged string")
    characters = np.frombuffer(counts.encode("ascii"), dtype=np.uint8)
    codes = characters.astype(np.int64) - 48
    if codes.size == 0:
        return codes
    ends = np.flatnonzero((codes & 0x20) == 0)  # (R,) last character of each run
    if codes.min() < 0 or codes.max() >= 64 or len(ends) == 0 or ends[-1] != len(codes) - 1:
        raise DataError("wanted counts in COCO's compressed form, got a damaged string")
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if sizes.max() > _MAX_CHARACTERS:
        raise DataError("wanted counts in COCO's compressed form, got an endless number")
    places = np.arange(len(codes)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((codes & 0x1F) << (5 * places), starts)
    lengths -= np.where(codes[ends] & 0x10, 1 << (5 * sizes), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def _rasterised(polygons: Sequence[Any], size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    usable: list[list[float]] = []
    outline = 0.0
    for index, polygon in enumerate(polygons):
        try:
            points = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"wanted polygon {index} as a list of numbers x, y, ...") from error
        if points.ndim != 1 or len(points) % 2 or not (np.abs(points) <= _MAX_COORDINATE).all():
            raise DataError(
                f"wanted polygon {index} as pixels x, y, x, y, ..., got {points.size} entries "
                "that are no such list; check the export"
            )
        if len(points) < 6:  # pycocotools takes four numbers for a box.
            continue
        corners = points.reshape(-1, 2)
        outline += float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
        if outline > _MAX_OUTLINE:
            raise DataError(
                f"wanted polygons with an outline of at most {_MAX_OUTLINE:.0f} pixels, got a "
                f"longer one with polygon {index}; check the export"
            )
        usable.append(points.tolist())
    if not usable:
        raise DataError(
            f"wanted at least one polygon of three points, got {len(polygons)} polygons without; "
            "export the file with masks, not boxes alone"
        )
    merged = coco_mask.merge(coco_mask.frPyObjects(usable, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}
