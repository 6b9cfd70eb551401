"""Which device, precision and number of threads a command runs with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from soloist.errors import ConfigError
from soloist.runtime.distributed import join
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Runtime:
    """Where and how numbers are computed.

    Attributes:
        device: The torch device.
        precision: `bf16` (autocast) or `fp32`.
    """

    device: torch.device
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """What networks compute in."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Runs a network in bfloat16 where this runtime does so."""
        enabled = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            yield

    def accelerator(self) -> Accelerator:
        """What prepares a training for this runtime's device and processes.

        The loops call `autocast` themselves: Accelerate's own would turn each output of a network
        into float32 and so let the losses' large products run in it.
        """
        # Imported here: only trainings need it, and it takes a while.
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        join(self.device)
        # It would keep the first runtime of a process for good and refuse another one.
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        return Accelerator(mixed_precision="no", cpu=self.device.type == "cpu")

    def __str__(self) -> str:
        text = f"{self.device}, {self.precision}, {torch.get_num_threads()} threads"
        count = launched().world_size
        return text if count == 1 else f"{text} in each of {count} processes"


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Picks the accelerator if there is one, and bfloat16 where it is fast.

    Also sets torch's threads to the cores this process may use: containers often show more.
    Of several processes on a machine each takes its own GPU, and its share of the cores.

    Raises:
        ConfigError: If the device does not exist here or a name is unknown.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"precision must be auto, bf16 or fp32, got {precision!r}")
    _set_threads()
    chosen = torch.device(_best_device() if device == "auto" else _known_device(device))
    if launched().world_size > 1:
        chosen = _own_device(chosen, asked=device)
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(chosen) else "fp32"
    return Runtime(device=chosen, precision=precision)


def usable_cores() -> int:
    """Cores this process may run on (a container's share, not the machine's)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_share() -> int:
    """Cores for this process: those of the machine over its processes."""
    return max(1, usable_cores() // launched().local_world_size)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch works with N threads: those that wait would take the cores of other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def loader_workers(workers: int, device: torch.device) -> int:
    """Worker processes of a data loader; -1 chooses by itself.

    On a small CPU machine one worker prepares batches while the network computes.
    """
    if workers >= 0:
        return workers
    if device.type == "cpu":
        return 1
    return min(8, max(1, core_share() - 1))


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 autocast is faster than float32 on this device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    try:
        # Private, and absent from builds without oneDNN.
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def check_compiler() -> None:
    """Looks for the C++ compiler that torch.compile calls.

    Raises:
        ConfigError: If there is none.
    """
    names = [os.environ.get("CXX"), "g++", "clang++", "cl"]
    if not any(name and shutil.which(name) for name in names):
        raise ConfigError(
            "train.compile needs a C++ compiler, and none was found; install g++ or clang++, or "
            "leave the option off"
        )


def _set_threads() -> None:
    launch = launched()
    asked = os.environ.get("OMP_NUM_THREADS")
    # torchrun writes 1 where nothing was asked for.
    if asked is None or (asked == "1" and launch.local_world_size > 1):
        torch.set_num_threads(core_share())
    if launch.world_size > 1:
        # Accelerate would choose another number where there is none.
        os.environ.setdefault("OMP_NUM_THREADS", str(core_share()))


def _own_device(chosen: torch.device, *, asked: str) -> torch.device:
    """The device of this one of several processes."""
    launch = launched()
    if chosen.type == "mps":
        if asked == "auto":
            return torch.device("cpu")
        raise ConfigError("several processes need --device cuda or cpu, got mps")
    if chosen.type == "cpu":
        return chosen
    if chosen.index is not None:
        raise ConfigError(
            f"several processes need a GPU each, got --device {asked}; use --device cuda and "
            "choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    if launch.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"{launch.local_world_size} processes on this machine need a GPU each, it has "
            f"{torch.cuda.device_count()}; launch as many, or use --device cpu"
        )
    return torch.device("cuda", launch.local_rank)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _known_device(device: str) -> str:
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device must be auto, cpu, cuda, cuda:N or mps, got {device!r}"
        ) from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (wanted.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(wanted.type, False):
        raise ConfigError(f"device {device!r} is not available here; use --device auto or cpu")
    return device
