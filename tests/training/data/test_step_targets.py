"""Targets of a whole batch: those of its masks at full size, and unchanged by the transfer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.ops.masks import masks_to_boxes
from soloist.structures import GridTargets
from soloist.targets import downsample_masks, grid_targets
from soloist.training.data import train_data
from soloist.training.data.step_targets import batch_targets, targets_to
from soloist.training.data.train_data import SIZE_DIVISOR, TrainBatch, TrainBatches, pad_batch
from soloist.training.data.views import View

Made = list[tuple[TrainBatch, list[View]]]


@pytest.fixture
def made(scenes: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Batches of views of several sizes, with objects that are pasted, cut and hidden."""
    seen: list[list[View]] = []
    original: Callable[..., TrainBatch] = train_data.collate

    def listening(views: list[View], *arguments: object, **options: bool) -> TrainBatch:
        seen.append(views)
        return original(views, *arguments, **options)

    monkeypatch.setattr(train_data, "collate", listening)
    options = {"crop_size": 0, "copy_paste": 3, "short_side": [60, 90]}
    config = override(tiny_config, {"augment": options}, where="test")
    labels = load_coco(scenes / "annotations.json")
    batches = TrainBatches(find_images(scenes / "images"), labels, config, seed=0)
    found = [batches(step) for step in range(3)]
    return list(zip(found, seen, strict=True))


def padded(masks: Tensor, size: tuple[int, int]) -> Tensor:
    whole = masks.new_zeros((len(masks), *size))
    whole[:, : masks.shape[1], : masks.shape[2]] = masks
    return whole


def same(one: GridTargets, other: GridTargets) -> bool:
    return all(
        torch.equal(getattr(ours, name), getattr(theirs, name))
        for ours, theirs in zip(one, other, strict=True)
        for name in ("category", "cells", "instances")
    )


@pytest.mark.parametrize("wider", [0, SIZE_DIVISOR])
def test_targets_are_those_of_the_padded_masks(made: Made, tiny_config: Config, wider: int) -> None:
    """Also where another process needs a larger size."""
    model = tiny_config.model
    for batch, views in made:
        height, width = batch.images.shape[2] + wider, batch.images.shape[3]
        batch = pad_batch(batch, (height, width))
        targets = batch_targets(batch, model)
        small = torch.split(batch.masks, batch.counts)
        for view, found, found_masks in zip(views, targets, small, strict=True):
            masks = padded(view.masks, (height, width))
            wanted = grid_targets(
                masks_to_boxes(masks),
                masks,
                labels=view.labels,
                input_size=(height, width),
                grids=model.grids,
                scale_ranges=model.scale_ranges,
                num_classes=model.num_classes,
            )
            assert same(found, wanted)
            assert torch.equal(found_masks, downsample_masks(masks, (height // 4, width // 4)))


def test_boxes_are_tight_around_the_masks(made: Made) -> None:
    """Also around pasted objects, and around those a crop or a pasted object has cut."""
    for batch, views in made:
        masks = [mask for view in views for mask in view.masks]
        for mask, box in zip(masks, batch.boxes, strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [int(side) for side in tight]


def test_a_transfer_changes_nothing(made: Made, tiny_config: Config) -> None:
    for batch, _ in made:
        targets = batch_targets(batch, tiny_config.model)
        moved = targets_to(targets, torch.device("cpu"))
        assert all(same(one, other) for one, other in zip(moved, targets, strict=True))


def test_a_transfer_is_one(made: Made, tiny_config: Config) -> None:
    """All targets on the device are pieces of one tensor."""
    targets = targets_to(batch_targets(made[0][0], tiny_config.model), torch.device("cpu"))
    levels = [level for image in targets for level in image]
    parts = [part for level in levels for part in (level.category, level.cells, level.instances)]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
