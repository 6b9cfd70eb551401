"""Batches as a function of the step, so that a resumed run sees what an unbroken one sees."""

from __future__ import annotations

import logging
import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from soloist.errors import SoloistError, TrainingError
from soloist.runtime import stopping
from soloist.runtime.files import one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PREFETCHED = 4  # Batches a worker makes ahead.
_PLENTY = 2e9
"""Free bytes of shared memory above which nobody measures batches."""
_LARGER = 1.5
"""How much larger than the first batch others may be."""
_PATIENCE = 10.0
"""Seconds that a batch is waited for once the process is asked to stop."""


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
    if workers and _shared_memory() < _PLENTY:
        # The first batch tells how much of it the others take.
        if first >= end:
            return
        sample = make_batch(first)
        yield sample
        first += 1
        workers = _fitting_workers(_bytes_of(sample), workers)
    loader: DataLoader[T | SoloistError] = DataLoader(
        StepDataset(make_batch),
        batch_size=None,
        sampler=_Steps(first, end),
        num_workers=workers,
        prefetch_factor=_PREFETCHED if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    for batch in _stoppable(loader) if workers else loader:
        if isinstance(batch, SoloistError):
            raise batch
        yield batch


def _shared_memory() -> float:
    """Free bytes where workers leave batches; endless where there is no such place."""
    try:
        return float(shutil.disk_usage("/dev/shm").free)
    except OSError:
        return math.inf


def _fitting_workers(batch: int, workers: int) -> int:
    """As many workers as shared memory has room for.

    Args:
        batch: Bytes of a batch.
        workers: Those that are wanted.
    """
    free = _shared_memory()
    fitting = min(workers, int(free / (_PREFETCHED + 1) / max(batch, 1) / _LARGER))
    if fitting < workers:
        logger.warning(
            "wanted room for the batches of %d workers in /dev/shm, got %.0f MB free for batches "
            "of %.1f MB: going on with %d; give the container more (docker run --shm-size 2g)",
            workers,
            free / 1e6,
            batch / 1e6,
            fitting,
        )
    return fitting


def _bytes_of(value: object) -> int:
    """Bytes of the tensors in a batch."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_bytes_of, value)) if isinstance(value, (list, tuple)) else 0


def _stoppable(loader: DataLoader[T | SoloistError]) -> Iterator[T | SoloistError]:
    """The batches of a loader; waiting for one ends some time after this process is asked to stop.

    Raises:
        StoppedError: If none comes any more.
    """
    batches = iter(loader)
    arrived: queue.SimpleQueue[T | SoloistError | BaseException | None] = queue.SimpleQueue()

    def wait() -> None:
        try:
            arrived.put(next(batches, None))
        except (Exception, SystemExit) as error:
            # Raised where the batch is taken.
            arrived.put(error)

    while True:
        threading.Thread(target=wait, daemon=True).start()
        asked_since: float | None = None
        while True:
            try:
                batch = arrived.get(timeout=1.0)
                break
            except queue.Empty:
                if not stopping.is_asked():
                    continue
                asked_since = asked_since or time.monotonic()
                if time.monotonic() - asked_since > _PATIENCE:
                    _kill(getattr(batches, "_workers", ()))
                    raise stopping.stopped() from None
        if batch is None:
            return
        if isinstance(batch, BaseException) and not isinstance(batch, SoloistError):
            raise batch
        yield batch


def _kill(workers: Sequence[BaseProcess]) -> None:
    """Ends workers that do not hear the signal that asks them to end."""
    for worker in workers:
        # torch tells of each that was killed, once, wherever this process happens to be.
        with suppress(RuntimeError):
            worker.kill()
            worker.join()


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """Around a whole training: torch tells of a lost worker wherever this process happens to be.

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
