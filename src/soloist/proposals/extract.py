"""Coarse masks of images: backbone features, then what `proposals` makes of them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from soloist.config import Config
from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.images import resized_size
from soloist.errors import ConfigError
from soloist.models.build import build_backbone
from soloist.proposals.propose import propose
from soloist.proposals.regions import Regions, encoded_regions
from soloist.runtime.device import Runtime
from soloist.runtime.seeding import seeded
from soloist.structures import Instances

SECTIONS = ("reading", "backbone", "extract", "free_mask", "regions")
"""Options that coarse masks depend on."""


def settings_of(config: Config) -> dict[str, Any]:
    """Those options, as masks files keep them."""
    return {name: asdict(getattr(config, name)) for name in SECTIONS}


def without_floor(config: Config) -> Config:
    """The configuration with masks of any score, as precision-recall curves need them."""
    return replace(
        config,
        free_mask=replace(config.free_mask, score_threshold=0.0),
        regions=replace(config.regions, score_threshold=0.0),
    )


class FreeMaskExtractor:
    """Gives the coarse masks of one image after the other: free masks, or other proposals.

    Args:
        config: Options; the sections of `SECTIONS` are read.
        runtime: Device and precision of the backbone; what follows it is float32.

    Attributes:
        backbone: The network the features come from.

    Raises:
        ConfigError: If the margin is not a multiple of the feature stride.
    """

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self._config = config
        self._runtime = runtime
        # Random weights, where there are no others, are the seed's too: a resumed pass continues
        # with the network it began with.
        with seeded(config.seed):
            self.backbone = build_backbone(config.backbone).to(runtime.device).eval()
        self._level = self.backbone.level(config.backbone.feature_stride)
        self._stride = self.backbone.strides[self._level]
        self._margin = config.extract.margin
        if self.backbone.is_plain:
            # Presets have margins for the strides of a ResNet.
            self._margin += -self._margin % self._stride
        if self._margin % self._stride:
            raise ConfigError(
                f"extract.margin must be a multiple of backbone.feature_stride {self._stride}, "
                f"got {config.extract.margin}"
            )

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        """Coarse masks of an image.

        Args:
            pixels: (H', W', 3) uint8 RGB, perhaps reduced.
            size: (height, width) of the masks, in pixels.
        """
        return propose(pixels, self._features_of(pixels), size, self._config)

    @property
    def prepares(self) -> bool:
        """Whether features only describe what was found without them: so with regions."""
        return self._config.extract.proposals == "regions"

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Regions[EncodedMasks]:
        """The part of the work that needs no features, for other processes.

        Args:
            pixels: As for a call.
            size: As for a call.
        """
        cells = self._cells((pixels.shape[0], pixels.shape[1]))
        return encoded_regions(pixels, cells, size, self._config.regions)

    @torch.inference_mode()
    def finish(
        self, pixels: NDArray[np.uint8], prepared: Regions[EncodedMasks]
    ) -> Instances[Tensor, EncodedMasks]:
        """The part that is left: what a call gives, with masks as run lengths.

        Args:
            pixels: As for a call.
            prepared: As `prepare` gave it for them.
        """
        size = self._config.regions.embedding_size
        return encoded(prepared.described(self._features_of(pixels), size))

    def _features_of(self, pixels: NDArray[np.uint8]) -> Tensor:
        return self.features(torch.from_numpy(pixels).permute(2, 0, 1).to(self._runtime.device))

    def _cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the feature map of an image of a (height, width)."""
        options = self._config.extract
        height, width = resized_size(size, options.short_side, options.max_side)
        return max(1, round(height / self._stride)), max(1, round(width / self._stride))

    def features(self, image: Tensor) -> Tensor:
        """(C, H, W) float32 feature map of a (3, H', W') uint8 image.

        The image is resized to whole cells, so that masks line up with it, and mirrored beyond
        its border: zero-padded convolutions would give border cells features of their own.
        """
        cells = self._cells((image.shape[1], image.shape[2]))
        resized: Tensor = v2.functional.resize(
            image, [side * self._stride for side in cells], antialias=True
        )
        batch = mirrored_border(self.backbone.normalize(resized[None]), self._margin)
        with self._runtime.autocast():
            features: Tensor = self.backbone(batch)[self._level][0].float()
        first = self._margin // self._stride
        return features[:, first : first + cells[0], first : first + cells[1]]


def mirrored_border(images: Tensor, margin: int) -> Tensor:
    """(B, C, H, W) images with their border mirrored outwards by up to `margin` pixels.

    A side shorter than the margin is mirrored as far as it goes and then repeats its last row.
    """
    if margin == 0:
        return images
    vertical, horizontal = (min(margin, images.shape[axis] - 1) for axis in (2, 3))
    mirrored = functional.pad(images, (horizontal, horizontal, vertical, vertical), mode="reflect")
    rest = (margin - horizontal, margin - horizontal, margin - vertical, margin - vertical)
    return functional.pad(mirrored, rest, mode="replicate") if any(rest) else mirrored
