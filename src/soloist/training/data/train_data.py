"""Batches of weak and strong views with their masks, as a function of the step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from soloist.config import Config
from soloist.data.coco.types import CocoFile, CocoImage
from soloist.data.names import match_names
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.ops.masks import center_of_mass, masks_to_boxes
from soloist.runtime.files import shown
from soloist.runtime.seeding import seeded
from soloist.targets import downsample_masks
from soloist.training.data.batches import batch_indices
from soloist.training.data.cache import ImageCache
from soloist.training.data.views import View, ViewMaker

logger = logging.getLogger(__name__)

MASK_STRIDE = 4
# Padded sizes are multiples of the coarsest stride of the network.
SIZE_DIVISOR = 32


class TrainBatch(NamedTuple):
    """Views of one step: first the weak ones, then the strong ones, as far as they are wanted.

    Few and large tensors, because each one crosses from the worker by its own shared memory. Of
    the masks only what the losses read crosses, a sixteenth of them.

    Attributes:
        images: (V, 3, H, W) uint8, zero-padded at the bottom and right.
        colors: (V, 3, H/4, W/4) uint8 mean colours before distortion.
        valid: (V, H/4, W/4) bool, False in the padding. Both differ with `loss.compat`.
        masks: (sum of N, H/4, W/4) bool, view after view.
        boxes: (sum of N, 4) float32 xyxy pixels, tight around the masks at full size.
        centers: (sum of N, 2) float32 centres of mass (y, x) of these, in pixels.
        embeddings: (sum of N, E) float32.
        labels: (sum of N,) int64 class of each object.
        counts: N of each view.
        failures: (name, reason) of images that could not be read.
    """

    images: Tensor
    colors: Tensor
    valid: Tensor
    masks: Tensor
    boxes: Tensor
    centers: Tensor
    embeddings: Tensor
    labels: Tensor
    counts: list[int]
    failures: list[tuple[str, str]]

    @property
    def content(self) -> dict[str, Tensor | list[int]]:
        """What a file of the batch holds; a view after the other has `counts` masks."""
        return {name: value for name, value in self._asdict().items() if name != "failures"}


class TrainBatches:
    """Makes the batch of a step from the step's number.

    Args:
        images: Images to learn from.
        labels: Their coarse masks; images without any are left out.
        config: Options.
        seed: Of the order and of all draws.
        workers: Processes that make batches; each has its share of the cache's memory.
        places: Images of the batch to make, where several trainings share it; None makes all.
        categories: True classes by category id: the k-th has label k. None: all objects are one
            class, whatever their categories.

    Raises:
        DataError: If no image has a mask.
    """

    def __init__(
        self,
        images: Sequence[ImageRef],
        labels: CocoFile,
        config: Config,
        seed: int,
        *,
        workers: int = 0,
        places: range | None = None,
        categories: Mapping[int, str] | None = None,
    ) -> None:
        pairs = match_labels(images, labels)
        self._labels = labels
        self._records = [record for _, record in pairs]
        self._category_ids = None if categories is None else list(categories)
        self._options = config.augment
        self._released = config.loss.compat == "released"
        self._batch_size = config.train.batch_size
        self._places = range(self._batch_size) if places is None else places
        self._embedding_size = config.model.embedding_size
        self._seed = seed
        self._views = ViewMaker(config.augment)
        self._cache = ImageCache(
            [image for image, _ in pairs],
            short_side=config.augment.short_side[1],
            max_side=config.augment.max_side,
            budget_bytes=config.train.cache_gb * 1e9 / max(workers, 1),
            sizes=[(record.height, record.width) for record in self._records],
        )

    def __len__(self) -> int:
        """Images with masks."""
        return len(self._records)

    def __call__(self, step: int) -> TrainBatch:
        """The batch of a step, or this training's places in it.

        Each view draws from a generator of its own, so that it does not depend on who makes it.
        Objects are pasted from the views at the next places; one beyond this training's own is
        made only if it is drawn.
        """
        size = self._batch_size
        indices = batch_indices(step, batch_size=size, length=len(self), seed=self._seed)
        failures: list[tuple[str, str]] = []

        @cache
        def weak(place: int) -> View:
            with seeded(self._seed, step, place, 0):
                return self._weak_view(indices[place], failures)

        views = [weak(place) for place in self._places] if self._options.weak else []
        if self._options.strong:
            reach = min(self._options.copy_paste, size - 1)
            for place in self._places:
                donors = _Donors(weak, [(place + next_) % size for next_ in range(1, reach + 1)])
                with seeded(self._seed, step, place, 1):
                    views.append(self._views.strong(weak(place), donors))
        return collate(views, failures, released_colors=self._released)

    def _weak_view(self, index: int, failures: list[tuple[str, str]]) -> View:
        read, image, failed = self._cache.readable(index)
        failures += failed
        record = self._records[read]
        instances = self._labels.instances(record)
        embeddings = fit_embeddings(instances.embeddings, self._embedding_size)
        return self._views.weak(
            image,
            instances.masks,
            embeddings,
            labels=self._classes(record),
            released_height=record.height if self._released else None,
        )

    def _classes(self, record: CocoImage) -> Tensor | None:
        """(N,) int64 labels of an image's objects; None without true classes."""
        if self._category_ids is None:
            return None
        annotations = self._labels.annotations[record.id]
        return torch.tensor(
            [self._category_ids.index(one.category_id) for one in annotations], dtype=torch.int64
        )


class _Donors(Sequence[View]):
    """Views that are made when they are asked for."""

    def __init__(self, make: Callable[[int], View], places: list[int]) -> None:
        self._make = make
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> View:  # type: ignore[override]  # slices are not asked for
        return self._make(self._places[index])


def match_labels(
    images: Sequence[ImageRef], labels: CocoFile, *, quiet: bool = False
) -> list[tuple[ImageRef, CocoImage]]:
    """Images and their records in the masks file, paired by name; those without masks left out.

    Args:
        images: The images.
        labels: Their masks.
        quiet: Log no account; somebody else does.

    Raises:
        DataError: If no image has a mask, or a name could mean several.
    """
    matches = match_names(
        [image.name for image in images],
        [record.file_name for record in labels.images],
        any_suffix=True,
    )
    matches.refuse_ambiguous(shown(labels.path))
    pairs = [
        (images[place], labels.images[other])
        for place, other in sorted(matches.found.items())
        if labels.annotations[labels.images[other].id]
    ]
    if not pairs:
        raise DataError(
            f"none of the {len(images)} images has a mask in {labels.path.name} "
            f"({len(matches.missing)} of them are not named there{matches.hint()}); run `soloist "
            "masks` on the same images, or lower --free-mask.score-threshold"
        )
    if quiet:
        return pairs
    logger.info("%d of %d images have masks", len(pairs), len(images))
    if matches.unused or matches.by_ending:
        logger.warning("%s: %s", labels.path.name, matches.account())
    return pairs


def fit_embeddings(embeddings: Tensor, size: int) -> Tensor:
    """(N, E') embeddings interpolated to (N, size); zeros where the file has none.

    A zero embedding has cosine 0 with everything: it adds a constant to the semantic loss and
    gives no gradient towards any direction.
    """
    if embeddings.shape[1] == size:
        return embeddings
    if embeddings.numel() == 0:
        return embeddings.new_zeros(len(embeddings), size)
    resized = functional.interpolate(embeddings[None], size=size, mode="linear")
    return resized[0]


def collate(
    views: Sequence[View], failures: list[tuple[str, str]], *, released_colors: bool = False
) -> TrainBatch:
    """Pads views to one size and joins them.

    Args:
        views: At least one.
        failures: (name, reason) of images that could not be read.
        released_colors: Give colours and their validity as the released code does.
    """
    height, width = (padded_side(max(view.image.shape[axis] for view in views)) for axis in (1, 2))
    size = (height, width)
    small = (height // MASK_STRIDE, width // MASK_STRIDE)
    images = torch.stack([_pad(view.image, size) for view in views])
    colors, valid = (_released_colors if released_colors else _colors)(views, size)
    return TrainBatch(
        images=images,
        colors=colors,
        valid=valid,
        masks=torch.cat([downsample_masks(_pad(view.masks, size), small) for view in views]),
        boxes=torch.cat([masks_to_boxes(view.masks) for view in views]),
        centers=torch.cat([center_of_mass(view.masks) for view in views]),
        embeddings=torch.cat([view.embeddings for view in views]),
        labels=torch.cat([view.labels for view in views]),
        counts=[len(view.masks) for view in views],
        failures=failures,
    )


def padded_side(side: int) -> int:
    """The next multiple of the divisor, in pixels."""
    return -(-side // SIZE_DIVISOR) * SIZE_DIVISOR


def pad_batch(batch: TrainBatch, size: tuple[int, int]) -> TrainBatch:
    """The batch padded to a (height, width), multiples of the divisor, no smaller than its own."""
    if batch.images.shape[-2:] == size:
        return batch
    small = (size[0] // MASK_STRIDE, size[1] // MASK_STRIDE)
    return batch._replace(
        images=_pad(batch.images, size),
        colors=_pad(batch.colors, small),
        valid=_pad(batch.valid, small),
        masks=_pad(batch.masks, small),
    )


def _colors(views: Sequence[View], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean colours (V, 3, h, w) uint8 of 4x4 blocks, and which blocks (V, h, w) hold no padding."""
    undistorted = torch.stack([_pad(view.colors, size) for view in views])
    colors = functional.avg_pool2d(undistorted.float(), MASK_STRIDE).round().to(torch.uint8)
    valid = torch.zeros((len(views), *colors.shape[2:]), dtype=torch.bool)
    for row, view in zip(valid, views, strict=True):
        row[: view.image.shape[1] // MASK_STRIDE, : view.image.shape[2] // MASK_STRIDE] = True
    return colors, valid


def _released_colors(views: Sequence[View], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`_colors` as the released code has it (docs/fidelity.md).

    Colours are those the network gets, cut to whole numbers; a block is valid if its pixel at
    offset 2 is one of the image that is not in the unread rows at its bottom.
    """
    images = torch.stack([_pad(view.image, size) for view in views])
    colors = functional.avg_pool2d(images.float(), MASK_STRIDE).to(torch.uint8)
    valid = torch.zeros((len(views), *size), dtype=torch.bool)
    for row, view in zip(valid, views, strict=True):
        row[: view.image.shape[1] - view.unread_rows, : view.image.shape[2]] = True
    middle = slice(MASK_STRIDE // 2, None, MASK_STRIDE)
    return colors, valid[:, middle, middle].contiguous()


def _pad(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) maps zero-padded at the bottom and right to (..., H, W)."""
    return functional.pad(maps, (0, size[1] - maps.shape[-1], 0, size[0] - maps.shape[-2]))
