"""What is found in one image: the network's masks, regions, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from soloist.config import Config, RegionConfig
from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.coco.types import CATEGORIES
from soloist.data.images import resized_size
from soloist.models.backbones import Backbone
from soloist.models.build import fingerprint, normalize
from soloist.models.folding import for_prediction
from soloist.models.solo import SOLO
from soloist.postprocess import CellMasks, cell_masks, postprocess
from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.judge import Judge
from soloist.proposals.propose import LEAST, confirmed, confirmed_scores, looked_at, support_of
from soloist.proposals.ranking import Candidates
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import (
    Masks,
    NodeMasks,
    Regions,
    cell_counts,
    drawn,
    drawn_as_run_lengths,
    encoded_regions,
    undrawn_regions,
)
from soloist.runtime.device import Runtime
from soloist.structures import Instances, SOLOOutputs


class ImageSegmenter:
    """Finds the objects of one image.

    Args:
        network: The SOLO network, whose weights are not to change from the first prediction on.
        config: Its configuration; the sections inference and regions are read.
        runtime: Device and precision.
        categories: Names of its classes by category id, in their order.
        judge: What orders regions, if it was learned from labels.
    """

    def __init__(
        self,
        network: SOLO,
        config: Config,
        runtime: Runtime,
        categories: Mapping[int, str] = CATEGORIES,
        judge: Judge | None = None,
    ) -> None:
        self.categories = categories
        self.judge = judge
        self.network = network.to(runtime.device).eval()
        self.config = config
        self.runtime = runtime

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        """Objects of an image.

        Args:
            pixels: (H', W', 3) uint8 RGB, perhaps reduced.
            size: (height, width) of the masks, in pixels.
        """
        options = self.config.inference
        if options.masks != "network":
            return self._described(pixels, size, drawn)
        seen = self._seen(pixels)
        found = postprocess(
            self._raw(seen),
            input_sizes=[seen.size],
            original_sizes=[size],
            config=options,
            strides=self.network.level_strides,
        )[0]
        return refine_with_guided_filter(found, pixels, options.outline_radius)

    def find_regions(
        self, pixels: NDArray[np.uint8], size: tuple[int, int]
    ) -> Regions[EncodedMasks]:
        """Regions of an image by the trees and the judge; uses neither the network nor its device.

        Args:
            pixels: As for a call.
            size: As for a call.
        """
        cells = self._cells(self._input_size(pixels))
        return encoded_regions(pixels, cells, size, self._sure, self.judge)

    def described_regions(
        self, pixels: NDArray[np.uint8], size: tuple[int, int]
    ) -> Instances[Tensor, EncodedMasks]:
        """What a call gives where masks are regions, as run lengths; arguments as for a call."""
        return self._described(pixels, size, drawn_as_run_lengths)

    def describe(
        self, pixels: NDArray[np.uint8], regions: Regions[EncodedMasks]
    ) -> Instances[Tensor, EncodedMasks]:
        """The objects that regions are, described by the network.

        Args:
            pixels: As for a call.
            regions: As `find_regions` gives them for the same pixels.
        """
        look = self._look(pixels)
        return self._objects(self._confirmed(regions, look), look)

    def _described(
        self,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        draw: Callable[[Regions[NodeMasks]], Regions[Masks]],
    ) -> Instances[Tensor, Masks]:
        """The objects that regions are."""
        look = self._look(pixels)
        cells = self._cells(self._input_size(pixels))
        regions = undrawn_regions(pixels, cells, size, self._sure, self.judge)
        return self._objects(draw(self._confirmed(regions, look)), look)

    def rescored(
        self,
        pixels: NDArray[np.uint8],
        size: tuple[int, int],
        hierarchies: Hierarchies,
        candidates: Candidates,
    ) -> Candidates:
        """Nodes of an image's trees with the scores that this segmenter gives them.

        Args:
            pixels: As for a call.
            size: As for a call.
            hierarchies: Of these pixels.
            candidates: Any of their nodes.
        """
        if self.judge is not None:
            return replace(candidates, scores=self.judge.scores(hierarchies, candidates, size))
        seen = self._look(pixels).masks if self._confirms else None
        if seen is None:
            return candidates
        cells = self._cells(self._input_size(pixels))
        # The others have no support.
        worth = np.flatnonzero(candidates.scores >= LEAST)
        counts, whole = cell_counts(hierarchies, candidates.filter(worth), cells)
        support = np.zeros(len(candidates))
        support[worth], _ = support_of((counts / np.maximum(whole, 1)).astype(np.float32), seen)
        scores = confirmed_scores(candidates.scores, support, candidates.evidence)
        return replace(candidates, scores=scores)

    def _confirmed(self, regions: Regions[Masks], look: _Look) -> Regions[Masks]:
        """As many regions as an image may have, re-ranked if the network is to do so."""
        options = self.config.inference
        if look.masks is None:
            return regions.filter(np.arange(min(len(regions.scores), options.max_per_image)))
        return confirmed(regions, look.masks, options.max_per_image, options.score_threshold)

    @torch.inference_mode()
    def _objects(self, regions: Regions[Masks], look: _Look) -> Instances[Tensor, Masks]:
        return regions.described(look.features, self.config.regions.embedding_size)

    def masks(
        self, pixels: NDArray[np.uint8], size: tuple[int, int], most: int | None = None
    ) -> Tensor:
        """The masks of a call alone, best first; regions in the order without the network.

        Args:
            pixels: As for a call.
            size: As for a call.
            most: How many at most; None for all.

        Returns:
            (N, H, W) bool on the processor.
        """
        options = self.config.inference
        if options.masks != "network":
            most = min(options.max_per_image, most or options.max_per_image)
            regions = undrawn_regions(pixels, (1, 1), size, self._sure, self.judge)
            return drawn(regions.filter(np.arange(min(len(regions.scores), most)))).masks
        found = self(pixels, size)
        return (found if most is None else found.top_k(most)).masks.cpu()

    @property
    def labeler(self) -> SegmenterLabeler:
        """What labels images for files: the same objects with masks as run lengths."""
        return SegmenterLabeler(self)

    def _seen(self, pixels: NDArray[np.uint8]) -> _Seen:
        """What the backbone makes of (H', W', 3) uint8 RGB pixels."""
        resized = self._input_size(pixels)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        image = v2.functional.resize(image.to(self.runtime.device), list(resized), antialias=True)
        # Whole multiples of the coarsest stride, filled at the bottom and right.
        padding = [-side % 32 for side in resized]
        batch = torch.nn.functional.pad(image[None], (0, padding[1], 0, padding[0]))
        with self.runtime.autocast():
            features = self._ready.backbone(normalize(self._ready, batch))
        return _Seen(features, resized, (batch.shape[-2], batch.shape[-1]))

    def _input_size(self, pixels: NDArray[np.uint8]) -> tuple[int, int]:
        """(height, width) of the network's input for (H', W', 3) pixels, before padding."""
        options = self.config.inference
        return resized_size(
            (pixels.shape[0], pixels.shape[1]), options.short_side, options.max_side
        )

    @property
    def _sure(self) -> RegionConfig:
        threshold = self.config.inference.score_threshold
        least = looked_at(threshold) if self._confirms else threshold
        return replace(self.config.regions, score_threshold=least)

    @property
    def _confirms(self) -> bool:
        """Whether regions are re-ranked by the network; a judge knows better."""
        return self.config.inference.masks == "reranked" and self.judge is None

    @property
    def fingerprint(self) -> str:
        """What tells what it learned from what others did: 16 hexadecimal digits."""
        return fingerprint(self.network, None if self.judge is None else self.judge.record())

    @property
    def decoded_side(self) -> int | None:
        """Short side down to which images may be decoded reduced; None: regions see every pixel."""
        options = self.config.inference
        return options.short_side if options.masks == "network" else None

    @cached_property
    def _ready(self) -> SOLO:
        """The network as it predicts."""
        return for_prediction(self.network, self.runtime.dtype)

    @cached_property
    def _level(self) -> int:
        """Which feature map of the backbone regions are made from."""
        backbone = cast(Backbone, self.network.backbone)
        return backbone.level(self.config.backbone.feature_stride)

    @torch.inference_mode()
    def _look(self, pixels: NDArray[np.uint8]) -> _Look:
        """What the network makes of (H', W', 3) pixels, for the regions found on them."""
        seen = self._seen(pixels)
        features = self._own(seen)
        if not self._confirms:
            return _Look(features, None)
        cells = (features.shape[1], features.shape[2])
        options = self.config.inference
        masks = cell_masks(self._raw(seen), input_size=seen.size, cells=cells, config=options)
        return _Look(features, masks)

    def _raw(self, seen: _Seen) -> SOLOOutputs:
        """What the heads make of an image."""
        with self.runtime.autocast():
            outputs: SOLOOutputs = self._ready.heads(seen.features, seen.padded)
        return outputs

    def _own(self, seen: _Seen) -> Tensor:
        """The same, of what the backbone made of an image."""
        # What covers the padding is cut off, to the nearest cell.
        height, width = self._cells(seen.size)
        return seen.features[self._level][0, :, :height, :width].float()

    def _cells(self, resized: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of these, for a network's input before padding."""
        stride = cast(Backbone, self.network.backbone).strides[self._level]
        return max(1, round(resized[0] / stride)), max(1, round(resized[1] / stride))


class _Seen(NamedTuple):
    """What the backbone makes of an image.

    Attributes:
        features: One (1, C_i, H_i, W_i) float per level.
        size: (height, width) of the image in the network's input.
        padded: The same with its padding.
    """

    features: Sequence[Tensor]
    size: tuple[int, int]
    padded: tuple[int, int]


class _Look(NamedTuple):
    """What the network makes of an image whose regions are found.

    Attributes:
        features: (C, h, w) float32, by which they are described.
        masks: Its own, coarse ones, by which they are re-ranked; None if they are not.
    """

    features: Tensor
    masks: CellMasks | None


@dataclass(frozen=True)
class SegmenterLabeler:
    """Labels images for files; where masks are regions, other processes can do most of the work.

    Attributes:
        segmenter: Finds the objects.
    """

    segmenter: ImageSegmenter

    def __call__(
        self, pixels: NDArray[np.uint8], size: tuple[int, int]
    ) -> Instances[Tensor, EncodedMasks]:
        """Objects of an image; arguments as for `ImageSegmenter.__call__`."""
        if self.prepares:
            return encoded(self.segmenter.described_regions(pixels, size))
        return encoded(self.segmenter(pixels, size))

    @property
    def prepares(self) -> bool:
        """Whether the network only describes and re-ranks what was found without it."""
        return self.segmenter.config.inference.masks != "network"

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Regions[EncodedMasks]:
        """What another process can do: `ImageSegmenter.find_regions`."""
        return self.segmenter.find_regions(pixels, size)

    def finish(
        self, pixels: NDArray[np.uint8], prepared: Regions[EncodedMasks]
    ) -> Instances[Tensor, EncodedMasks]:
        """What is left to do: `ImageSegmenter.describe`."""
        return encoded(self.segmenter.describe(pixels, prepared))
