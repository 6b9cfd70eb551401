"""Weak and strong views of an image and its masks (paper section 3.3).

All draws come from torch's global generator; see `augment.seeded`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms import v2

from soloist.config import AugmentConfig
from soloist.data.images import resized_size
from soloist.ops.masks import masks_to_boxes
from soloist.training.data.augment import color_distortion

# A mask cut to fewer pixels by a crop or by a pasted object teaches nothing.
MIN_AREA = 16

# Rows of the original image, at its bottom, that the released code keeps from the affinity loss.
RELEASED_BOTTOM = 10


@dataclass(frozen=True)
class View:
    """One augmented image and the objects on it.

    Attributes:
        image: (3, H, W) uint8 RGB, what the network sees.
        colors: (3, H, W) uint8 RGB before colour distortion: the affinity loss reads these.
        masks: (N, H, W) bool.
        embeddings: (N, E) float32.
        labels: (N,) int64 class of each object.
        unread_rows: Rows at the bottom that the affinity loss leaves out.
    """

    image: Tensor
    colors: Tensor
    masks: Tensor
    embeddings: Tensor
    labels: Tensor
    unread_rows: int = 0

    def filter(self, keep: Tensor) -> View:
        """The view with the objects a (N,) bool mask chooses."""
        return replace(
            self,
            masks=self.masks[keep],
            embeddings=self.embeddings[keep],
            labels=self.labels[keep],
        )


class ViewMaker:
    """Makes the weak and strong views of a batch."""

    def __init__(self, options: AugmentConfig) -> None:
        self._options = options
        self._distort = color_distortion(
            jitter=options.color_jitter, gray=options.gray, blur=options.blur
        )
        # Erasing hides part of an object from the network, never from its target.
        self._erase = v2.RandomErasing(p=options.erase, scale=(0.02, 0.1), value=0)

    def weak(
        self,
        image: Tensor,
        masks: Tensor,
        embeddings: Tensor,
        *,
        labels: Tensor | None = None,
        released_height: int | None = None,
    ) -> View:
        """Resizes, crops and flips.

        Args:
            image: (3, H, W) uint8 RGB of any size.
            masks: (N, H', W') bool; may be of another resolution than the image.
            embeddings: (N, E) float32.
            labels: (N,) int64 class of each object; None: all are one, 0.
            released_height: Height of the original image; given, the view leaves its bottom
                rows unread as the released code does.

        Returns:
            A view of at most `max_side`, or of at most `crop_size` square.
        """
        size = (image.shape[1], image.shape[2])
        low, high = self._options.short_side
        short_side = int(torch.randint(low, high + 1, ()))
        resized = resized_size(size, short_side, self._options.max_side)
        crop = self._options.crop_size
        out = (min(crop, resized[0]), min(crop, resized[1])) if crop else resized
        offset = [
            float(torch.rand(())) * (full - part) for full, part in zip(resized, out, strict=True)
        ]
        image = _window(image, resized, offset, out)
        masks = _window(masks.to(torch.uint8) * 255, resized, offset, out) > 127
        if float(torch.rand(())) < self._options.flip:
            image, masks = image.flip(-1), masks.flip(-1)
        if labels is None:
            labels = torch.zeros(len(masks), dtype=torch.int64)
        view = View(
            image=image,
            colors=image,
            masks=masks,
            embeddings=embeddings,
            labels=labels,
        )
        if released_height is not None:
            unread = int(RELEASED_BOTTOM * resized[0] / released_height)
            cut_below = resized[0] - out[0] - round(offset[0])
            view = replace(view, unread_rows=min(max(0, unread - cut_below), out[0]))
        return view.filter(masks.flatten(1).sum(1) >= MIN_AREA)

    def strong(self, view: View, donors: Sequence[View]) -> View:
        """Pastes objects of other weak views and distorts the colours."""
        pasted = paste_objects(
            view, donors, at_most=self._options.copy_paste, scale=self._options.paste_scale
        )
        return replace(pasted, image=self._erase(self._distort(pasted.image)))


def paste_objects(
    view: View,
    donors: Sequence[View],
    *,
    at_most: int,
    scale: tuple[float, float] = (1.0, 1.0),
) -> View:
    """Copies some objects of other views over this one, at a random place.

    What they hide is taken from the masks below; objects hidden all but wholly are dropped.

    Args:
        view: The view that is pasted on.
        donors: Views to take objects from.
        at_most: Number of objects pasted, drawn from 0 to this.
        scale: Range of the factor an object is resized by, drawn evenly in its logarithm.
    """
    count = int(torch.randint(0, at_most + 1, ())) if donors else 0
    for _ in range(count):
        donor = donors[int(torch.randint(0, len(donors), ()))]
        if len(donor.masks) == 0:
            continue
        view = _paste(view, donor, int(torch.randint(0, len(donor.masks), ())), scale)
    return view


def _paste(view: View, donor: View, chosen: int, scale: tuple[float, float]) -> View:
    size = (view.image.shape[1], view.image.shape[2])
    mask, colors = donor.masks[chosen][None], donor.colors
    if scale == (1.0, 1.0):
        place = [int(torch.randint(-side // 3, side // 3 + 1, ())) for side in size]
    else:
        mask, colors = _resized_object(mask, colors, scale)
        place = [
            int(torch.randint(0, full, ())) - side // 2
            for full, side in zip(size, mask.shape[1:], strict=True)
        ]
    mask, colors = (_placed(maps, place, size) for maps in (mask, colors))
    pixels = torch.where(mask, colors, view.colors)
    masks = torch.cat([view.masks & ~mask, mask])
    pasted = replace(
        view,
        image=pixels,
        colors=pixels,
        masks=masks,
        embeddings=torch.cat([view.embeddings, donor.embeddings[chosen][None]]),
        labels=torch.cat([view.labels, donor.labels[chosen][None]]),
    )
    return pasted.filter(masks.flatten(1).sum(1) >= MIN_AREA)


def _resized_object(
    mask: Tensor, colors: Tensor, scale: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The window around a (1, h, w) mask and that of its (3, h, w) image, both resized."""
    left, top, right, bottom = masks_to_boxes(mask)[0].int().tolist()
    low, high = (math.log(factor) for factor in scale)
    factor = math.exp(low + (high - low) * float(torch.rand(())))
    size = [max(1, round(side * factor)) for side in (bottom - top, right - left)]
    window = torch.cat([mask.to(torch.uint8) * 255, colors])[:, top:bottom, left:right]
    resized: Tensor = v2.functional.resize(window, size, antialias=True)
    return resized[:1] > 127, resized[1:]


def _placed(maps: Tensor, place: Sequence[int], size: tuple[int, int]) -> Tensor:
    """(C, H, W) zeros with (C, h, w) maps at a (row, column); what leaves the frame is lost."""
    frame = maps.new_zeros((len(maps), *size))
    into, out_of = [], []
    for first, side, full in zip(place, maps.shape[1:], size, strict=True):
        start = min(max(0, first), full)
        stop = max(start, min(full, first + side))
        into.append(slice(start, stop))
        out_of.append(slice(start - first, stop - first))
    frame[:, into[0], into[1]] = maps[:, out_of[0], out_of[1]]
    return frame


def _window(
    maps: Tensor, resized: tuple[int, int], offset: Sequence[float], out: tuple[int, int]
) -> Tensor:
    """The window `out` at `offset` of (C, H, W) uint8 maps resized to `resized`.

    The window is cut first and only what is left is resized, which is much cheaper.
    """
    if maps.shape[0] == 0:
        return maps.new_zeros((0, *out))
    scales = [full / side for full, side in zip(maps.shape[1:], resized, strict=True)]
    top, left = (round(place * scale) for place, scale in zip(offset, scales, strict=True))
    height, width = (max(1, round(side * scale)) for side, scale in zip(out, scales, strict=True))
    cut = maps[:, top : top + height, left : left + width]
    window: Tensor = v2.functional.resize(cut, list(out), antialias=True)
    return window
