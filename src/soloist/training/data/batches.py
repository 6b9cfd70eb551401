"""Batches as a function of the step, so that a resumed run sees what an unbroken one sees."""

from __future__ import annotations

import torch


def batch_indices(step: int, *, batch_size: int, length: int, seed: int) -> list[int]:
    """Which items a step sees: a new permutation for each pass over the data.

    Args:
        step: The step.
        batch_size: Items per step.
        length: Items in the data set; may be smaller than a batch.
        seed: Of the permutations.
    """
    indices: list[int] = []
    position = step * batch_size
    while len(indices) < batch_size:
        epoch, offset = divmod(position, length)
        order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch))
        taken = order[offset : offset + batch_size - len(indices)].tolist()
        indices += taken
        position += len(taken)
    return indices
