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
    resizing = Resizing(row_weights, column_weights, soft_masks.device)
    size = (row_weights.shape[1], column_weights.shape[1])
    masks = soft_masks.new_zeros((len(soft_masks), *size), dtype=torch.bool)
    boxes = masks_to_boxes(exceeds(soft_masks, threshold)).int().tolist()
    for soft_mask, mask, box in zip(soft_masks, masks, boxes, strict=True):
        inputs, outputs = resizing.reach(box)
        exceeds(resizing(soft_mask[inputs], inputs, outputs), threshold, out=mask[outputs])
    return masks


class Resizing:
    """Resizes parts of soft masks along both axes by the weights of `linear_weights`.

    Args:
        row_weights: (h, H) float32, on the processor.
        column_weights: (w, W) float32, on the processor.
        device: Where the soft masks are.
    """

    def __init__(
        self, row_weights: Tensor, column_weights: Tensor, device: torch.device | str = "cpu"
    ) -> None:
        self._rows, self._columns = _Axis(row_weights), _Axis(column_weights)
        self._row_weights = row_weights.T.to(device)
        self._column_weights = column_weights.to(device)

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

    def __call__(self, soft_mask: Tensor, inputs: Window, outputs: Window) -> Tensor:
        """A part of the resized mask.

        Args:
            soft_mask: (h', w') float32: the window that is read.
            inputs: That window.
            outputs: The window to make.

        Returns:
            (H', W') float32 of it.
        """
        rows = self._row_weights[outputs[0], inputs[0]]
        return rows @ soft_mask @ self._column_weights[inputs[1], outputs[1]]


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
        self._row_areas, self._column_areas = rows.sum(dim=0), columns.sum(dim=0)

    def __call__(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(h, w) bool of a (H, W) bool mask; its box alone is looked at."""
        resized = np.zeros(self._target, dtype=np.bool_)
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            inputs, outputs = self._resizing.reach(box)
            counts = self._resizing(torch.from_numpy(mask[inputs]).float(), inputs, outputs)
            whole = torch.outer(self._row_areas[outputs[0]], self._column_areas[outputs[1]])
            # Whole numbers: no rounding decides.
            resized[outputs] = (2 * counts >= whole).numpy()
        return resized


def _windows(size: int, target: int) -> Tensor:
    """(size, target) float32, 1 where an output pixel lies on an input pixel, if only in part."""
    places = torch.arange(target)
    first, end = places * size // target, -((places + 1) * -size // target)
    inputs = torch.arange(size)[:, None]
    return ((inputs >= first) & (inputs < end)).float()


class _Axis:
    """Which outputs read which inputs; neighbours read neighbours.

    Args:
        weights: (inputs, outputs) float.
    """

    def __init__(self, weights: Tensor) -> None:
        used: NDArray[np.bool_] = weights.numpy() != 0
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
