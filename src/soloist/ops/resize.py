"""Images and soft masks at other sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from soloist.ops.masks import masks_to_boxes

Window = tuple[slice, slice]
"""Rows and columns of a part of an image."""
SMALL = 2**18
"""Products of matrices of fewer multiplications are numpy's, which starts them sooner; for larger
ones its threads would wait in the way of torch's."""


def reduced(pixels: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 pixels at a short side; a smaller image stays as it is."""
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return pixels
    size = [max(1, round(side * scale)) for side in (height, width)]
    image = v2.functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), size, antialias=True)
    reduced: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return reduced


def linear_weights(size: int, *, padded: int, cropped: int, target: int) -> Tensor:
    """Weights of one axis resized, cropped and resized again, as bilinear interpolation does it.

    Args:
        size: Length of the axis before.
        padded: Length after the first resize.
        cropped: Length kept from the start of that.
        target: Length after the second resize.

    Returns:
        (size, target) float32 in [0, 1]; each column sums to 1.
    """
    weights = torch.eye(size)[None]
    if padded != size:
        weights = functional.interpolate(weights, padded, mode="linear")
    weights = weights[..., :cropped]
    return functional.interpolate(weights, target, mode="linear")[0]


def resized_masks(
    soft_masks: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    threshold: float,
    *,
    inclusive: bool = False,
) -> Tensor:
    """Masks of soft masks resized along both axes by the weights of `linear_weights`.

    Interpolation is nowhere above all that it reads. So each mask is made only where it can be
    foreground: of the box around what is foreground before resizing.

    Args:
        soft_masks: (N, h, w) float32 in [0, 1].
        row_weights: (h, H) float32, on the processor.
        column_weights: (w, W) float32, on the processor.
        threshold: What foreground is above, in [0, 1].
        inclusive: Foreground may also be at the threshold.

    Returns:
        (N, H, W) bool on the device of soft_masks.
    """
    exceeds = torch.ge if inclusive else torch.gt
    resizing = Resizing(row_weights.numpy(), column_weights.numpy())
    by_row, by_column = (
        weights.to(soft_masks.device) for weights in (row_weights.T, column_weights)
    )
    size = (row_weights.shape[1], column_weights.shape[1])
    masks = soft_masks.new_zeros((len(soft_masks), *size), dtype=torch.bool)
    boxes = masks_to_boxes(exceeds(soft_masks, threshold)).int().tolist()
    for soft_mask, mask, box in zip(soft_masks, masks, boxes, strict=True):
        inputs, outputs = resizing.reach(box)
        rows, columns = by_row[outputs[0], inputs[0]], by_column[inputs[1], outputs[1]]
        exceeds(rows @ soft_mask[inputs] @ columns, threshold, out=mask[outputs])
    return masks


class Resizing:
    """Resizes parts of soft masks along both axes by the weights of `linear_weights`.

    Args:
        row_weights: (h, H) float32.
        column_weights: (w, W) float32.
    """

    def __init__(
        self, row_weights: NDArray[np.float32], column_weights: NDArray[np.float32]
    ) -> None:
        self._rows, self._columns = _Axis(row_weights), _Axis(column_weights)
        self._row_weights = np.ascontiguousarray(row_weights.T)
        self._column_weights = column_weights

    def reach(self, box: Sequence[int]) -> tuple[Window, Window]:
        """What of the resized mask reads any of a box before, and all that this reads.

        Args:
            box: xyxy, exclusive end, in pixels before resizing.

        Returns:
            The window that is read, before resizing, and the one that reads it, after it; both
            empty if none does.
        """
        left, top, right, bottom = box
        height, width = self._rows.outputs(top, bottom), self._columns.outputs(left, right)
        return (self._rows.inputs(height), self._columns.inputs(width)), (height, width)

    def __call__(
        self, soft_mask: NDArray[np.float32], inputs: Window, outputs: Window
    ) -> NDArray[np.float32]:
        """A part of the resized mask.

        Args:
            soft_mask: (h', w'): the window that is read.
            inputs: That window.
            outputs: The window to make.

        Returns:
            (H', W') of it.
        """
        rows = self._row_weights[outputs[0], inputs[0]]
        columns = self._column_weights[inputs[1], outputs[1]]
        if max(rows.shape[0], soft_mask.shape[0]) * soft_mask.shape[1] * columns.shape[1] < SMALL:
            return np.asarray(rows @ soft_mask @ columns, dtype=np.float32)
        first, soft, last = (torch.from_numpy(part) for part in (rows, soft_mask, columns))
        return np.asarray(first @ soft @ last)


class HalfCovered:
    """Resizes masks: a pixel belongs to one that covers half of it, as by `adaptive_avg_pool2d`.

    Args:
        size: (height, width) of the masks.
        target: (height, width) to make of them.
    """

    def __init__(self, size: tuple[int, int], target: tuple[int, int]) -> None:
        rows, columns = (_windows(own, other) for own, other in zip(size, target, strict=True))
        self._target = target
        self._resizing = Resizing(rows, columns)
        self._row_areas, self._column_areas = rows.sum(axis=0), columns.sum(axis=0)

    def __call__(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(h, w) bool of a (H, W) bool mask; its box alone is looked at."""
        resized = np.zeros(self._target, dtype=np.bool_)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            inputs, outputs = self._resizing.reach(box)
            counts = self._resizing(mask[inputs].astype(np.float32), inputs, outputs)
            whole = np.outer(self._row_areas[outputs[0]], self._column_areas[outputs[1]])
            # Whole numbers: no rounding decides.
            resized[outputs] = 2 * counts >= whole
        return resized


def _windows(size: int, target: int) -> NDArray[np.float32]:
    """(size, target), 1 where an output pixel lies on an input pixel, if only in part."""
    places = np.arange(target)
    first, end = places * size // target, -((places + 1) * -size // target)
    inputs = np.arange(size)[:, None]
    return ((inputs >= first) & (inputs < end)).astype(np.float32)


class _Axis:
    """Which outputs read which inputs; neighbours read neighbours.

    Args:
        weights: (inputs, outputs).
    """

    def __init__(self, weights: NDArray[np.float32]) -> None:
        used: NDArray[np.bool_] = weights != 0
        self._firsts = used.argmax(axis=0)
        self._ends = len(used) - used[::-1].argmax(axis=0)

    def outputs(self, start: int, stop: int) -> slice:
        """Those that read one of the inputs from start to stop; empty if none does."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        return slice(first, max(first, int(np.searchsorted(self._firsts, stop, side="left"))))

    def inputs(self, outputs: slice) -> slice:
        """Those that the outputs read."""
        if outputs.start == outputs.stop:
            return slice(0, 0)
        return slice(int(self._firsts[outputs.start]), int(self._ends[outputs.stop - 1]))
