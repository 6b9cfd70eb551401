"""The public face of a trained network: `soloist.load(...).predict(...)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, cast, overload

from huggingface_hub import ModelHubMixin
from torch import Tensor

from soloist.checkpoints.download import fetch_model
from soloist.checkpoints.hub_reference import model_reference
from soloist.config import TileConfig
from soloist.data.coco.encoded import EncodedMasks
from soloist.data.images import read_with_size
from soloist.data.sources import ImageRef
from soloist.errors import CheckpointError
from soloist.inference.image_segmenter import ImageSegmenter
from soloist.inference.results import Result
from soloist.inference.sources import ImageInMemory, Source, each_source
from soloist.inference.tiles import TiledLabeler
from soloist.models.backbones import Backbone, NameFormat
from soloist.models.build import (
    load_categories,
    load_judge,
    load_solo,
    save_solo,
)
from soloist.proposals.judge import Judge
from soloist.runtime.device import choose_runtime
from soloist.runtime.files import one_line
from soloist.structures import Instances

# What a published model's page says; the licence is for whoever publishes it to choose.
MODEL_CARD = """---
{{ card_data }}
---

Unsupervised instance segmentation, learned without labels by Soloist, after FreeSOLO
(arXiv 2202.12181). Soloist is installed from its source: `pip install .` in its folder.

```python
import soloist

segmenter = soloist.load("owner/name")  # the name of this repository
segmenter.predict("photo.jpg")[0].filter().save("masks.png")
```
"""

# Trained on images alone; its recipe is next to it.
BUNDLED = Path(str(files("soloist") / "weights" / "segmenter"))


TiledResult = Result[Tensor, EncodedMasks]
"""What is found on tiles: masks stay compressed."""


class Segmenter(
    ImageSegmenter,
    ModelHubMixin,
    library_name="soloist",
    pipeline_tag="image-segmentation",
    tags=["instance-segmentation", "self-supervised", "freesolo"],
    model_card_template=MODEL_CARD,
):
    """A trained network for instance segmentation.

    `save_pretrained(folder)` writes `model.safetensors`, `config.json` and a README.md;
    `push_to_hub("owner/name")` publishes them; `from_pretrained` and `load` read them.

    Args:
        network: The SOLO network, whose weights are not to change from the first prediction on.
        config: Its configuration; the sections inference and regions are read.
        runtime: Device and precision.
        categories: Names of its classes by category id, in their order.
        judge: What orders regions, if it was learned from labels.
    """

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
            if isinstance(image, ImageInMemory):
                found = labeler(image.pixels, (image.pixels.shape[0], image.pixels.shape[1]))
                yield Result.of(found, name=image.name, pixels=image.pixels, **origin)
                continue
            found = labeler(*read_with_size(image.path, reading=image.reading))
            file = {"name": image.name, "path": image.path, "reading": image.reading}
            yield Result.of(found, **file, **origin)

    def _results(self, source: Source) -> Iterator[Result]:
        for image in each_source(source, self.config.reading):
            if isinstance(image, ImageInMemory):
                size = (image.pixels.shape[0], image.pixels.shape[1])
                found = self(image.pixels, size)
                yield self._result(found, name=image.name, pixels=image.pixels)
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
        found = self(pixels, size)
        return self._result(found, name=image.name, path=image.path, reading=image.reading)

    def _result(self, instances: Instances, **image: Any) -> Result:
        return Result.of(
            instances.cpu(),
            **image,
            categories=self.categories,
            recommended_score=self.config.inference.recommended_score,
        )


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
        path_or_id: A run folder of `soloist fit`, `finetune`, `train` or `demo`, its model folder,
            a file such as the released FreeSOLO's (see `soloist.checkpoints.load_official`), or a
            repository on the hub: `owner/name` if there is no such path, or
            `hf:owner/name@revision#sha256`. None, or `bundled` if there is no such path, for the
            bundled one; `weights/MODEL_CARD.md` says what it has seen and what it is bad at.
        preset: Tells the architecture of such a file, as `paper-r101`; a folder knows its own.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.

    Raises:
        CheckpointError: If there is no complete model, or it does not fit the preset.
    """
    if path_or_id is None or (path_or_id == "bundled" and not Path("bundled").exists()):
        path_or_id = BUNDLED
    return Segmenter.from_pretrained(path_or_id, preset=preset, device=device, precision=precision)
