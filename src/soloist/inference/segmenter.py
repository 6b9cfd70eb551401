"""The public face of a trained network: `soloist.load(...).predict(...)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast, overload

import numpy as np
import torch
from huggingface_hub import ModelHubMixin
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from soloist.checkpoints.download import fetch_model
from soloist.checkpoints.hub_reference import model_reference
from soloist.config import Config, RegionConfig, TileConfig
from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.coco.types import CATEGORIES
from soloist.data.images import read_with_size, resized_size
from soloist.data.sources import ImageRef
from soloist.errors import CheckpointError
from soloist.inference.results import Result
from soloist.inference.sources import Source, each_source
from soloist.inference.tiles import TiledLabeler
from soloist.models.backbones import Backbone, NameFormat
from soloist.models.build import (
    fingerprint,
    load_categories,
    load_judge,
    load_solo,
    normalize,
    save_solo,
)
from soloist.models.folding import for_prediction
from soloist.models.solo import SOLO
from soloist.postprocess import postprocess
from soloist.proposals.judge import Judge
from soloist.proposals.propose import rerank_proposals
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import (
    Masks,
    Regions,
    dense_regions,
    encoded_regions,
    region_masks,
)
from soloist.runtime.device import Runtime, choose_runtime
from soloist.runtime.files import one_line
from soloist.structures import Instances

# What a published model's page says; the licence is for whoever publishes it to choose.
MODEL_CARD = """---
{{ card_data }}
---

Cuts every object out of an image; learned without labels by Soloist (`pip install soloist`),
after FreeSOLO (arXiv 2202.12181).

```python
import soloist

segmenter = soloist.load("owner/name")  # the name of this repository
segmenter.predict("photo.jpg")[0].filter().save("masks.png")
```
"""

# So many masks, of at least this score, may confirm a region, whatever is asked of the result.
CONFIRMING_MASKS, CONFIRMING_SCORE = 100, 0.05

# Trained on images alone; its recipe is next to it.
BUNDLED = Path(str(files("soloist") / "weights" / "segmenter"))


TiledResult = Result[Tensor, EncodedMasks]
"""What is found on tiles: masks stay compressed."""


class Segmenter(
    ModelHubMixin,
    library_name="soloist",
    pipeline_tag="image-segmentation",
    tags=["instance-segmentation", "self-supervised", "freesolo"],
    model_card_template=MODEL_CARD,
):
    """A trained network that cuts objects out of images.

    `save_pretrained(folder)` writes `model.safetensors`, `config.json` and a README.md;
    `push_to_hub("owner/name")` publishes them; `from_pretrained` and `load` read them.

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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Loads a trained segmenter from a path or from the hub.

        Args:
            pretrained_model_name_or_path: As for `load`.
            force_download: Fetch again what the hub's cache has.
            token: For private repositories; None for the one of `hf auth login`.
            cache_dir: The hub's cache; None for its own choice.
            local_files_only: Use the cache alone.
            revision: Branch, tag or commit; wins over the one in the name.
            model_kwargs: `preset`, `device` and `precision`, as for `load`.

        Raises:
            CheckpointError: If there is no complete model, or it cannot be fetched.
        """
        path = Path(pretrained_model_name_or_path)
        reference = model_reference(pretrained_model_name_or_path)
        if reference is not None:
            path = fetch_model(
                replace(reference, revision=revision or reference.revision),
                force_download=force_download,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        return cls._from_path(path, **model_kwargs)

    @classmethod
    def _from_path(
        cls,
        path: Path,
        *,
        preset: str | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> Self:
        network, config = load_solo(path, preset)
        return cls(
            network,
            config,
            choose_runtime(device, precision),
            load_categories(path),
            read_judge(path),
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        """The part of `save_pretrained` that is ours: the model folder."""
        save_solo(
            save_directory,
            self.network.state_dict(),
            self.config,
            self.categories,
            None if self.judge is None else self.judge.record(),
        )

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        """Objects of an image.

        Args:
            pixels: (H', W', 3) uint8 RGB, perhaps reduced.
            size: (height, width) of the masks, in pixels.
        """
        options = self.config.inference
        seen = self._seen(pixels)
        if options.masks == "regions":
            own = self._own(seen)
            regions = region_masks(pixels, own, size, self._sure, self.judge)
            return self._best(regions)
        with self.runtime.autocast():
            outputs = self._ready.heads(seen.features, seen.padded)
        if options.masks == "reranked":
            # Weak masks confirm a region too.
            options = replace(
                options,
                score_threshold=min(options.score_threshold, CONFIRMING_SCORE),
                max_per_image=max(options.max_per_image, CONFIRMING_MASKS),
            )
        found = postprocess(
            outputs,
            input_sizes=[seen.size],
            original_sizes=[size],
            config=options,
            strides=self.network.level_strides,
        )[0]
        found = refine_with_guided_filter(found, pixels, options.outline_radius)
        if options.masks == "network":
            return found
        every = replace(self.config.regions, score_threshold=0.0)
        regions = region_masks(pixels, self._own(seen), size, every, self.judge)
        best = rerank_proposals(regions, found)
        return self._best(best.filter(best.scores >= self.config.inference.score_threshold))

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

    @torch.inference_mode()
    def describe(
        self, pixels: NDArray[np.uint8], regions: Regions[EncodedMasks]
    ) -> Instances[Tensor, EncodedMasks]:
        """The objects that regions are, described by the network.

        Args:
            pixels: As for a call.
            regions: As `find_regions` gives them for the same pixels.
        """
        own = self._own(self._seen(pixels))
        return self._best(regions.described(own, self.config.regions.embedding_size))

    def masks(
        self, pixels: NDArray[np.uint8], size: tuple[int, int], most: int | None = None
    ) -> Tensor:
        """The masks of a call alone, best first; of regions without the network.

        Args:
            pixels: As for a call.
            size: As for a call.
            most: How many at most; None for all.

        Returns:
            (N, H, W) bool on the processor.
        """
        options = self.config.inference
        if options.masks == "regions":
            regions = dense_regions(pixels, (1, 1), size, self._sure, self.judge)
            return regions.masks[: min(options.max_per_image, most or len(regions.masks))]
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
        return replace(self.config.regions, score_threshold=self.config.inference.score_threshold)

    def _best(self, found: Instances[Tensor, Masks]) -> Instances[Tensor, Masks]:
        """As many objects as an image may have."""
        most = self.config.inference.max_per_image
        return found if len(found) <= most else found.top_k(most)

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

    def _own(self, seen: _Seen) -> Tensor:
        """(C, h, w) float32: the features that regions are described by."""
        # What covers the padding is cut off, to the nearest cell.
        height, width = self._cells(seen.size)
        return seen.features[self._level][0, :, :height, :width].float()

    def _cells(self, resized: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of these, for a network's input before padding."""
        stride = cast(Backbone, self.network.backbone).strides[self._level]
        return max(1, round(resized[0] / stride)), max(1, round(resized[1] / stride))

    @overload
    def predict(
        self, source: Source, *, stream: Literal[False] = False, tile: None = None
    ) -> list[Result]: ...

    @overload
    def predict(
        self, source: Source, *, stream: Literal[True], tile: None = None
    ) -> Iterator[Result]: ...

    @overload
    def predict(
        self, source: Source, *, stream: Literal[False] = False, tile: int | TileConfig
    ) -> list[TiledResult]: ...

    @overload
    def predict(
        self, source: Source, *, stream: Literal[True], tile: int | TileConfig
    ) -> Iterator[TiledResult]: ...

    def predict(
        self, source: Source, *, stream: bool = False, tile: int | TileConfig | None = None
    ) -> list[Result] | list[TiledResult] | Iterator[Result] | Iterator[TiledResult]:
        """Segments an image, or all images of a folder, glob, list or COCO file.

        Args:
            source: A path, pattern or https address; an array, tensor or Pillow image (as
                `soloist.data.images.own_pixels` takes them); or several of these in a list.
            stream: Yield one result at a time, so that memory stays flat.
            tile: Cut large images into tiles of this side in pixels, or as the options say
                (docs/large-images.md); masks then stay compressed.

        Returns:
            One result per image, in order.

        Raises:
            ConfigError: If tiles cannot be of that size.
            DataError: If a source or an image cannot be read.
        """
        if tile is not None:
            options = TileConfig(size=tile) if isinstance(tile, int) else tile
            large = self._large_results(source, TiledLabeler(self.labeler, options))
            return large if stream else list(large)
        results = self._results(source)
        return results if stream else list(results)

    def _large_results(self, source: Source, labeler: TiledLabeler) -> Iterator[TiledResult]:
        origin: dict[str, Any] = {
            "categories": self.categories,
            "recommended_score": self.config.inference.recommended_score,
        }
        for image in each_source(source, self.config.reading):
            if isinstance(image, np.ndarray):
                found = labeler(image, (image.shape[0], image.shape[1]))
                yield Result.of(found, pixels=image, **origin)
                continue
            found = labeler(*read_with_size(image.path, reading=image.reading))
            yield Result.of(found, path=image.path, reading=image.reading, **origin)

    def _results(self, source: Source) -> Iterator[Result]:
        for image in each_source(source, self.config.reading):
            if isinstance(image, np.ndarray):
                size = (image.shape[0], image.shape[1])
                yield self._result(self(image, size), None, image)
            else:
                yield self.predict_file(image)

    def backbone_state_dict(self, format: NameFormat = "torchvision") -> dict[str, Tensor]:
        """Copies of the backbone's weights under another library's names.

        Args:
            format: `torchvision`, `timm` or `detectron2`; see `Backbone.named`.

        Raises:
            ConfigError: If that library has no names for this network.
        """
        return cast(Backbone, self.network.backbone).named(format)

    def predict_file(self, image: ImageRef) -> Result:
        """Segments one image file.

        Args:
            image: The file, as `soloist.data.sources.find_images` gives it.

        Raises:
            DataError: If it cannot be read.
        """
        pixels, size = read_with_size(
            image.path, reading=image.reading, short_side=self.decoded_side
        )
        return replace(self._result(self(pixels, size), image.path, None), reading=image.reading)

    def _result(
        self, instances: Instances, path: Path | None, pixels: NDArray[np.uint8] | None
    ) -> Result:
        return Result.of(
            instances.cpu(),
            path=path,
            pixels=pixels,
            categories=self.categories,
            recommended_score=self.config.inference.recommended_score,
        )


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


@dataclass(frozen=True)
class SegmenterLabeler:
    """Labels images for files; where masks are regions, other processes can do most of the work.

    Attributes:
        segmenter: Finds the objects.
    """

    segmenter: Segmenter

    def __call__(
        self, pixels: NDArray[np.uint8], size: tuple[int, int]
    ) -> Instances[Tensor, EncodedMasks]:
        """Objects of an image; arguments as for `Segmenter.__call__`."""
        if self.prepares:
            return self.finish(pixels, self.prepare(pixels, size))
        return encoded(self.segmenter(pixels, size))

    @property
    def prepares(self) -> bool:
        """Whether the network only describes what was found without it."""
        return self.segmenter.config.inference.masks == "regions"

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Regions[EncodedMasks]:
        """What another process can do: `Segmenter.find_regions`."""
        return self.segmenter.find_regions(pixels, size)

    def finish(
        self, pixels: NDArray[np.uint8], prepared: Regions[EncodedMasks]
    ) -> Instances[Tensor, EncodedMasks]:
        """What is left to do: `Segmenter.describe`."""
        return encoded(self.segmenter.describe(pixels, prepared))


def read_judge(path: Path) -> Judge | None:
    """The judge of candidates of a trained model, if it has one.

    Raises:
        CheckpointError: If its record is damaged.
    """
    record = load_judge(path)
    try:
        return None if record is None else Judge.of_record(record)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the record of the judge in {path} is damaged or of another version "
            f"({one_line(error)}); copy the whole run again, or learn again with `soloist "
            "finetune` or `soloist fit`"
        ) from error


def load(
    path_or_id: str | Path | None = None,
    *,
    preset: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Segmenter:
    """Loads a trained segmenter: without a path, the one that comes with the package.

    Args:
        path_or_id: A run folder of `soloist train`, `fit` or `demo`, its model folder, a file
            such as the released FreeSOLO's (see `soloist.checkpoints.load_official`), or a
            repository on the hub: `owner/name` if there is no such path, or
            `hf:owner/name@revision#sha256`. None for the bundled one; `weights/MODEL_CARD.md`
            says what it has seen and what it is bad at.
        preset: Tells the architecture of such a file, as `paper-r101`; a folder knows its own.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.

    Raises:
        CheckpointError: If there is no complete model, or it does not fit the preset.
    """
    path_or_id = BUNDLED if path_or_id is None else path_or_id
    return Segmenter.from_pretrained(path_or_id, preset=preset, device=device, precision=precision)
