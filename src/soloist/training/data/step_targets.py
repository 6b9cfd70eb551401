"""What the outputs of a step are compared with: found on the processor, sent to the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from soloist.config import ModelConfig
from soloist.structures import GridTargets, LevelTargets
from soloist.targets import assign_cells
from soloist.training.data.train_data import TrainBatch


def batch_targets(batch: TrainBatch, model: ModelConfig) -> list[GridTargets]:
    """Grid targets of each view of a batch, on the processor like its boxes.

    How many cells are positive decides the shapes of all losses of masks: on a device that
    number would have to be waited for.
    """
    height, width = batch.images.shape[-2:]
    return [
        assign_cells(
            boxes,
            centers,
            labels,
            input_size=(height, width),
            grids=model.grids,
            scale_ranges=model.scale_ranges,
            num_classes=model.num_classes,
        )
        for boxes, centers, labels in zip(
            torch.split(batch.boxes, batch.counts),
            torch.split(batch.centers, batch.counts),
            torch.split(batch.labels, batch.counts),
            strict=True,
        )
    ]


def targets_to(targets: Sequence[GridTargets], device: torch.device) -> list[GridTargets]:
    """Grid targets on a device, which some hundred small tensors reach in one transfer."""
    levels = [level for image in targets for level in image]
    parts = [part for level in levels for part in (level.category, level.cells, level.instances)]
    joined = torch.cat([part.flatten() for part in parts])
    if device.type == "cuda":
        joined = joined.pin_memory()
    sent = torch.split(joined.to(device, non_blocking=True), [part.numel() for part in parts])
    pieces = (piece.view(part.shape) for piece, part in zip(sent, parts, strict=True))
    return [
        tuple(LevelTargets(next(pieces), next(pieces), next(pieces)) for _ in image)
        for image in targets
    ]
