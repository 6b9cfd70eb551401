"""The processes of one run: which one this is, how they share work, and how they agree.

A launcher starts the same command several times; all of them go through the same calls in the same
order. On one process each function here returns what it was given, and nothing is set up.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from soloist.errors import ConfigError, SoloistError
from soloist.runtime.launch import launched

T = TypeVar("T")

WAIT = timedelta(days=7)
"""How long processes wait for the main one, which may write and evaluate for hours."""
STEP_WAIT = timedelta(hours=1)
"""How long they wait for each other within a training step."""

# Small messages travel on the processor, whatever the tensors of a training travel on.
_messages: Any = None


def join(device: torch.device) -> None:
    """Connects this process with the others it was launched with; a second call does nothing.

    Args:
        device: Where this process computes: NCCL connects CUDA devices, gloo processors.
    """
    global _messages
    if _messages is not None or launched().world_size == 1:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=STEP_WAIT)
        atexit.register(_leave)
    _messages = distributed.new_group(backend="gloo", timeout=WAIT)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def processes() -> int:
    """Processes that are connected; 1 without a launcher."""
    return 1 if _messages is None else distributed.get_world_size()


def rank() -> int:
    """Number of this process, from 0."""
    return 0 if _messages is None else distributed.get_rank()


def is_main() -> bool:
    """Whether this process is the one that writes files, logs and reports."""
    return rank() == 0


def rank_slice(count: int, name: str) -> range:
    """This process's places among `count` of a batch.

    Args:
        count: Places in all.
        name: The option that says so.

    Raises:
        ConfigError: If the processes cannot have equally many.
    """
    each, rest = divmod(count, processes())
    if rest:
        raise ConfigError(
            f"{name} must be a multiple of the {processes()} processes, got {count}; it counts "
            "the images of all processes together"
        )
    return range(rank() * each, (rank() + 1) * each)


def on_main(make: Callable[[], T]) -> T:
    """Does something on the main process alone and gives its result to all, as to itself.

    Raises:
        SoloistError: On every process, if the main one raised it.
    """
    if processes() == 1:
        return make()
    made: list[Any] = [None, None]
    if is_main():
        try:
            made[0] = make()
        except SoloistError as error:
            made[1] = error
    distributed.broadcast_object_list(made, src=0, group=_messages)
    if made[1] is not None:
        raise made[1]
    result: T = made[0]
    return result


def run_on_all_ranks(make: Callable[[], T]) -> T:
    """Does something on every process, and continues when all have done it.

    Raises:
        SoloistError: On every process the same one, if any process raised it.
    """
    if processes() == 1:
        return make()
    error: SoloistError | None = None
    try:
        made = make()
    except SoloistError as caught:
        error = caught
    for first in gather([] if error is None else [error]):
        raise first
    return made


def gather(items: Sequence[T]) -> list[T]:
    """The items of all processes, in the order of their ranks."""
    if processes() == 1:
        return list(items)
    parts: list[Any] = [None] * processes()
    distributed.all_gather_object(parts, list(items), group=_messages)
    return [item for part in parts for item in part]


def gather_rare(items: Sequence[T]) -> list[T]:
    """`gather` for what is nearly always empty: then only a number travels."""
    return gather(items) if all_reduce_max([len(items)])[0] else []


def all_reduce_max(values: Sequence[int]) -> list[int]:
    """The largest of all processes, number by number."""
    if processes() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.int64)
    distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX, group=_messages)
    most: list[int] = numbers.tolist()
    return most


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over the processes, without gradient, of a tensor of any shape."""
    if processes() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, without gradient, of a float tensor of any shape."""
    return all_reduce_sum(values) / processes()


def gather_rows(values: Tensor) -> Tensor:
    """The (B, ...) rows of all processes as (processes * B, ...), without gradient."""
    if processes() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(processes())]
    distributed.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def synchronize_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """Lets batch norms see the batch of all processes, which torch can do on CUDA only."""
    if processes() == 1 or device.type != "cuda":
        return network
    # timm's, since some of its batch norms carry their activation with them.
    from timm.layers.norm_act import convert_sync_batchnorm

    # timm ships no types.
    converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted
