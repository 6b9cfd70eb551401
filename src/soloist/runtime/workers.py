"""Numbered work, such as the batches of a training, done ahead and in order by other processes."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from soloist.errors import SoloistError, TrainingError
from soloist.runtime import stopping
from soloist.runtime.files import one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

ITEMS_EACH = 4
"""Items below which a helper is not worth its start."""
MOST_HELPERS = 8
"""One process takes what they give; more would wait for it."""
SHARE_OF_MEMORY = 0.5
"""What of the memory helpers may take together."""
_AHEAD = 4
"""Results that a worker makes before they are asked for."""
_PLENTY = 2e9
"""Free bytes of shared memory above which nobody measures results."""
_LARGER = 1.5
"""How much larger than the first result others may be."""
_CHECKED = 1.0
"""Seconds between looks whether the process that started a worker is still there."""
_PATIENCE = 10.0
"""Seconds that a result is waited for once the process is asked to stop."""


class Work(Dataset[T | SoloistError]):
    """What a function gives for each number, or why it gives nothing."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T | SoloistError:
        # Raised in a worker it would come back with the worker's account of where.
        try:
            return self._make(number)
        except SoloistError as error:
            return error


def done_ahead(
    make: Callable[[int], T],
    *,
    first: int = 0,
    end: int,
    workers: int,
    pinned: bool = False,
    ahead: int = _AHEAD,
    tensors: bool = True,
) -> Iterator[T]:
    """Yields what a function gives for the numbers first..end-1, in order.

    Args:
        make: The function, of the number alone.
        first: The first number.
        end: The one after the last.
        workers: Processes that call it; 0 for this one.
        pinned: Tensors lie in pinned memory, so that they can be sent to a GPU while it computes.
        ahead: Results that each worker makes before they are asked for.
        tensors: Results may hold tensors, which come by shared memory: it must have room for them.

    Raises:
        SoloistError: What the function raised.
    """
    if workers and tensors and _shared_memory() < _PLENTY:
        # The first result tells how much of it the others take.
        if first >= end:
            return
        sample = make(first)
        yield sample
        first += 1
        workers = _fitting_workers(_bytes_of(sample), workers, ahead)
    loader: DataLoader[T | SoloistError] = DataLoader(
        Work(make),
        batch_size=None,
        sampler=range(first, end),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        pin_memory=pinned,
        worker_init_fn=_start_worker,
    )
    for result in _stoppable(loader) if workers else loader:
        if isinstance(result, SoloistError):
            raise result
        yield result


def helpers(items: int, bytes_each: float) -> int:
    """How many processes may help with items that are work for one core each.

    They take the cores that torch has: with `OMP_NUM_THREADS=1` there are none.

    Args:
        items: How many there are.
        bytes_each: Memory that one takes while it is in work.

    Returns:
        0 where this process does it alone: for lack of cores, items or memory, or where a new
        process would have to import everything again.
    """
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 0
    fitting = int(SHARE_OF_MEMORY * _memory() / max(bytes_each, 1))
    count = min(torch.get_num_threads(), MOST_HELPERS, items // ITEMS_EACH, fitting)
    return count if count > 1 else 0


def _memory() -> float:
    """Bytes of memory that this process may use: its container's, or the machine's."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(float(Path(path).read_text(encoding="ascii")))
    return min(limits)


def _shared_memory() -> float:
    """Free bytes where workers leave batches; endless where there is no such place."""
    try:
        return float(shutil.disk_usage("/dev/shm").free)
    except OSError:
        return math.inf


def _fitting_workers(size: int, workers: int, ahead: int) -> int:
    """As many workers as shared memory has room for.

    Args:
        size: Bytes of one result.
        workers: Those that are wanted.
        ahead: Results that each makes ahead.
    """
    free = _shared_memory()
    fitting = min(workers, int(free / (ahead + 1) / max(size, 1) / _LARGER))
    if fitting < workers:
        logger.warning(
            "wanted room for what %d workers make in /dev/shm, got %.0f MB free for batches of "
            "%.1f MB: continuing with %d; give the container more (docker run --shm-size 2g)",
            workers,
            free / 1e6,
            size / 1e6,
            fitting,
        )
    return fitting


def _bytes_of(value: object) -> int:
    """Bytes of the tensors in a batch."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_bytes_of, value)) if isinstance(value, (list, tuple)) else 0


def _stoppable(loader: DataLoader[T | SoloistError]) -> Iterator[T | SoloistError]:
    """What a loader gives; waiting for it ends some time after this process is asked to stop.

    Raises:
        StoppedError: If none comes any more.
    """
    results = iter(loader)
    # Not a SimpleQueue: a signal at the end of its wait makes that endless (CPython 3.11).
    arrived: queue.Queue[T | SoloistError | BaseException | None] = queue.Queue()

    def wait() -> None:
        try:
            arrived.put(next(results, None))
        except (Exception, SystemExit) as error:
            # Raised where the result is taken.
            arrived.put(error)

    waiting = False
    try:
        while True:
            waiting = True
            threading.Thread(target=wait, daemon=True).start()
            asked_since: float | None = None
            while True:
                try:
                    result = arrived.get(timeout=1.0)
                    waiting = False
                    break
                except queue.Empty:
                    if not stopping.is_asked():
                        continue
                    asked_since = asked_since or time.monotonic()
                    if time.monotonic() - asked_since > _PATIENCE:
                        _kill(getattr(results, "_workers", ()))
                        raise stopping.stopped() from None
            if result is None:
                return
            if isinstance(result, BaseException) and not isinstance(result, SoloistError):
                raise result
            yield result
    finally:
        # A traceback may keep the loader; its workers would keep what they inherited.
        if not waiting and hasattr(results, "_shutdown_workers"):
            results._shutdown_workers()


def _kill(workers: Sequence[BaseProcess]) -> None:
    """Ends workers that do not hear the signal that asks them to end."""
    for worker in workers:
        # torch tells of each that was killed, once, wherever this process happens to be.
        with suppress(RuntimeError):
            worker.kill()
            worker.join()


@contextmanager
def report_lost_workers(
    what: str = "prepares batches",
    remedy: str = "resumes from the last checkpoint",
    kind: type[SoloistError] = TrainingError,
) -> Iterator[None]:
    """Around all of the work: torch tells of a lost worker wherever this process happens to be.

    Args:
        what: What workers do, for the message.
        remedy: What the same command does when it is given again.
        kind: What is raised.

    Raises:
        SoloistError: If a worker died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise kind(
            f"a process that {what} died ({one_line(error).rstrip('. ')}), as happens where memory "
            f"runs out; the same command again {remedy}"
        ) from error


def _start_worker(_: int) -> None:
    stopping.ignore()
    # One that waits for room in a pipe that nobody reads any more would wait for ever.
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(parent: int) -> None:
    """Ends this process once its parent is gone, killed perhaps."""
    while os.getppid() == parent:
        time.sleep(_CHECKED)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _as_it_is(result: T) -> T:
    return result
