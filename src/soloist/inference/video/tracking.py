"""Identities of objects across the frames of a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from soloist.config import TrackConfig
from soloist.data.coco.rle import mask_box_xywh, rle_iou
from soloist.ops.vectors import unit_vectors

_MOMENTUM = 0.5
"""Share of what an identity looked like before in what it is taken to look like."""
_REACH = 0.5
"""How far an object may have moved in a frame, as a share of its box."""


@dataclass
class _Track:
    """An identity: how it was seen last.

    Attributes:
        id: Its number, from 1.
        rle: Its mask.
        embedding: (E,) float, of length 1.
        label: Its class.
        missed: Frames since.
    """

    id: int
    rle: Mapping[str, Any]
    embedding: NDArray[np.float64]
    label: int
    missed: int = 0


class Linker:
    """Gives each mask of a frame the identity it has had so far, or a new one.

    Masks and identities are matched such that they fit best together (Kuhn, 1955). How well two fit
    is the weighted mean of the IoU of their masks and the cosine of their embeddings; only those
    of one class whose boxes are near fit at all. An identity that is hidden for some frames is
    waited for, its reach grows meanwhile.

    Args:
        config: Weights and limits.
    """

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._tracks: list[_Track] = []
        self._last = 0

    def __call__(
        self,
        rles: Sequence[Mapping[str, Any]],
        embeddings: NDArray[np.floating],
        labels: Sequence[int] | None = None,
    ) -> list[int]:
        """The identities on the next frame.

        Args:
            rles: N checked, compressed masks, none of them empty.
            embeddings: (N, E) float.
            labels: N classes; None where all are one.

        Returns:
            N different numbers.
        """
        kinds = [0] * len(rles) if labels is None else list(labels)
        units = unit_vectors(embeddings.astype(np.float64))
        fits = self._fits(rles, units, kinds)
        ids = [0] * len(rles)
        for track in self._tracks:
            track.missed += 1
        for row, column in zip(*linear_sum_assignment(fits, maximize=True), strict=True):
            if fits[row, column] > 0:
                track = self._tracks[row]
                mixed = _MOMENTUM * track.embedding + (1 - _MOMENTUM) * units[column]
                track.embedding = unit_vectors(mixed[None])[0]
                track.rle, track.missed = rles[column], 0
                ids[column] = track.id
        self._tracks = [track for track in self._tracks if track.missed <= self._config.gap]
        for place, rle in enumerate(rles):
            if ids[place] == 0:
                self._last += 1
                ids[place] = self._last
                self._tracks.append(_Track(self._last, rle, units[place], kinds[place]))
        return ids

    def _fits(
        self, rles: Sequence[Mapping[str, Any]], units: NDArray[np.float64], kinds: Sequence[int]
    ) -> NDArray[np.float64]:
        """(tracks, N) how well each identity fits each mask; 0 where it must not."""
        tracks = self._tracks
        if not tracks or not rles:
            return np.zeros((len(tracks), len(rles)))
        weight = self._config.overlap_weight
        ious = rle_iou([track.rle for track in tracks], rles)
        looks = np.stack([track.embedding for track in tracks]) @ units.T
        fits = weight * ious + (1 - weight) * np.clip(looks, 0, 1)
        reach = np.array([_REACH * (1 + track.missed) for track in tracks])
        near = _near(_boxes([track.rle for track in tracks]), _boxes(rles), reach)
        same = np.array([track.label for track in tracks])[:, None] == np.array(kinds)
        allowed: NDArray[np.bool_] = near & same & (fits >= self._config.least)
        kept: NDArray[np.float64] = fits * allowed
        return kept


def _boxes(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(N, 4) left, top, width, height."""
    return np.array([mask_box_xywh(rle) for rle in rles])


def _near(
    boxes: NDArray[np.float64], others: NDArray[np.float64], reach: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(N, M) whether boxes, grown by `reach` of their size on each side, touch others."""
    margin = boxes[:, 2:] * reach[:, None]
    low, high = boxes[:, :2] - margin, boxes[:, :2] + boxes[:, 2:] + margin
    ends = others[:, :2] + others[:, 2:]
    touch = (low[:, None] < ends) & (high[:, None] > others[:, :2])  # (N, M, 2)
    both: NDArray[np.bool_] = touch[..., 0] & touch[..., 1]
    return both
