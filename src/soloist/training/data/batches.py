"""Batches as a function of the step, so that a resumed run sees what an unbroken one sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from soloist.errors import SoloistError, TrainingError
from soloist.runtime import stopping
from soloist.runtime.files import one_line

T = TypeVar("T")


class StepDataset(Dataset[T | SoloistError]):
    """One whole batch per step, made by a function of the step alone, or why there is none."""

    def __init__(self, make_batch: Callable[[int], T]) -> None:
        self._make_batch = make_batch

    def __getitem__(self, step: int) -> T | SoloistError:
        # Raised in a worker it would come back with the worker's account of where.
        try:
            return self._make_batch(step)
        except SoloistError as error:
            return error


class _Steps(Sequence[int]):
    """The steps that are left, as a sampler."""

    def __init__(self, first: int, end: int) -> None:
        self._steps = range(first, end)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]  # slices are not asked for
        return self._steps[index]


def step_batches(
    make_batch: Callable[[int], T], *, first: int, end: int, workers: int, device: torch.device
) -> Iterator[T]:
    """Yields the batches of steps first..end-1, prepared by worker processes.

    For a CUDA device they lie in pinned memory, so that they can be sent while it computes.

    Raises:
        SoloistError: What making a batch raised.
    """
    loader: DataLoader[T | SoloistError] = DataLoader(
        StepDataset(make_batch),
        batch_size=None,
        sampler=_Steps(first, end),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        if isinstance(batch, SoloistError):
            raise batch
        yield batch


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """Around a training: torch tells of a worker that died wherever the training happens to be.

    Raises:
        TrainingError: If a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that prepares batches died ({one_line(error).rstrip('. ')}), as happens "
            "where memory runs out; the same command again goes on from the last checkpoint"
        ) from error


def _start_worker(_: int) -> None:
    stopping.ignore()


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
