"""What can be scored, by name: add a proposer to `PROPOSERS`, and it is an entry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.photographs.proposals import Proposals, Proposer
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.images import read_image, read_with_size
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, DataError, near_names
from soloist.runtime.files import shown
from soloist.structures import Instances

STANDARD = ("bundled", "otsu-watershed", "felzenszwalb", "free-mask", "regions")
"""The table when no entry is named."""


def _otsu_watershed() -> Proposer:
    from benchmarks.photographs.baselines import otsu_watershed

    return on_pixels(otsu_watershed)


def _felzenszwalb() -> Proposer:
    from benchmarks.photographs.baselines import felzenszwalb

    return on_pixels(felzenszwalb)


def segmenter(path: str | Path | None = None) -> Proposer:
    """A trained model's masks as `soloist predict` writes them; without a path the bundled one's.

    Those of at least the model's recommended score are the shown ones, as on its overlays.

    Raises:
        CheckpointError: If there is no complete model.
    """
    from soloist.inference.segmenter import load

    model = load(path)

    least = model.config.inference.recommended_score

    def propose(image: ImageRef) -> Proposals:
        pixels, size = read_with_size(
            image.path, reading=image.reading, short_side=model.decoded_side
        )
        found = model.labeler(pixels, size)
        scores = found.scores.numpy()
        return Proposals.of(found.masks, scores, scores >= least)

    return propose


def coarse_masks(preset: str) -> Proposer:
    """The coarse masks of a preset, whatever their scores, up to as many as it gives an image.

    Those that `soloist masks` would write are the shown ones.
    """
    import torch

    from soloist.config.presets import load_config
    from soloist.proposals.extract import FreeMaskExtractor, without_floor
    from soloist.proposals.propose import decoded_side
    from soloist.proposals.propose import propose as propose_masks
    from soloist.proposals.regions import encoded_regions
    from soloist.runtime.device import choose_runtime

    config = load_config(preset)
    extractor = FreeMaskExtractor(config, choose_runtime())
    unlimited = without_floor(config)
    floors = {
        "free-mask": config.free_mask.score_threshold,
        "regions": config.regions.score_threshold,
    }
    floor = floors.get(config.extract.proposals, 0.0)

    @torch.inference_mode()
    def propose(image: ImageRef) -> Proposals:
        pixels, size = read_with_size(
            image.path, reading=image.reading, short_side=decoded_side(config)
        )
        features = extractor.features(torch.from_numpy(pixels).permute(2, 0, 1))
        if config.extract.proposals == "regions":
            # As run lengths from the start, which is the quicker way to the same.
            cells = (features.shape[1], features.shape[2])
            regions = encoded_regions(pixels, cells, size, unlimited.regions)
            found: Instances[Any, Any] = regions.described(features, config.regions.embedding_size)
        else:
            found = propose_masks(pixels, features, size, unlimited)
        masks = found.masks if isinstance(found.masks, EncodedMasks) else found.masks.numpy()
        shown = found.scores >= floor
        return Proposals.of(masks, found.scores.numpy(), shown.numpy())

    return propose


def on_pixels(function: Callable[[NDArray[np.uint8]], Proposals]) -> Proposer:
    """A proposer from a function of (H, W, 3) uint8 RGB."""
    return lambda image: function(read_image(image.path, reading=image.reading))


PROPOSERS: Mapping[str, Callable[[], Proposer]] = {
    "bundled": segmenter,
    "otsu-watershed": _otsu_watershed,
    "felzenszwalb": _felzenszwalb,
    "free-mask": lambda: coarse_masks("tiny"),
    "regions": lambda: coarse_masks("soloist"),
}
"""Makers of proposers by the name of their entry. They import and load what they need when they
are called, in the process that is measured."""


@dataclass(frozen=True)
class Entry:
    """Something to be scored.

    Attributes:
        name: As it was asked for.
        make: Makes its proposer; None for a file of results.
        results: The file of results.
        digest: Of the files that its name stands for; empty where the code is all there is.
    """

    name: str
    make: Callable[[], Proposer] | None
    results: Path | None = None
    digest: str = ""


def find_entry(name: str) -> Entry:
    """An entry by its name: of `PROPOSERS`, `preset:NAME`, `results:PATH` or a model's path.

    Raises:
        ConfigError: If there is none of that name.
        DataError: If a file of results is absent.
    """
    from soloist.config.presets import PRESETS

    if name in PROPOSERS:
        return Entry(name, PROPOSERS[name])
    kind, _, rest = name.partition(":")
    if kind == "preset":
        if rest not in PRESETS:
            raise ConfigError(f"no preset named {rest!r}; {near_names(rest, PRESETS)}")
        return Entry(name, lambda: coarse_masks(rest))
    if kind == "results":
        path = Path(rest)
        if not path.is_file():
            raise DataError(f"wanted a COCO file of results, got no file {shown(path)}; check it")
        return Entry(name, None, path, digest(path))
    if Path(name).exists():
        return Entry(name, lambda: segmenter(name), digest=digest(Path(name)))
    raise ConfigError(
        f"no entry named {name!r}; {near_names(name, PROPOSERS)}; or a model's path, preset:NAME, "
        "results:PATH"
    )


def digest(path: Path) -> str:
    """Tells one content from another: of a file, or of the weights in a folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    summed = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            summed.update(hashlib.file_digest(stream, "sha256").digest())
    return summed.hexdigest()[:12]
