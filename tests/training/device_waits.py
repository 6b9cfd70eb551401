"""Counts the calls that would make a program wait for its GPU, or send it numbers by the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Their result's shape, or what the program does next, depends on values.
WAITING = {
    "_local_scalar_dense": "a number of a tensor is read",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "unique_consecutive": "unique",
    "unique_dim": "unique",
    "_unique": "unique",
    "_unique2": "unique",
    "bincount": "bincount",
    "repeat_interleave": "repeat_interleave",
    "equal": "equal",
    # `torch.tensor` and `new_tensor`.
    "lift_fresh": "numbers are sent",
}
# These do not pass through the dispatcher where the tensor lies on the processor.
READING = {"tolist": "numbers are read", "cpu": "cpu", "numpy": "numpy", "__array__": "numpy"}


class DeviceWaits:
    """Counts of such calls while `on`; the processor stands for the device."""

    def __init__(self) -> None:
        self.on = False
        self.count: Counter[str] = Counter()

    def note(self, what: str) -> None:
        """Counts one, if this is a time to count."""
        if self.on:
            self.count[what] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Watches all operations of its body, backward passes included."""
        with _Functions(self), _Operations(self):
            yield


class _Functions(TorchFunctionMode):
    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in READING and isinstance(args[0], Tensor):
            self._waits.note(READING[name])
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING:
            self._waits.note(WAITING[name])
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            chosen is not None and chosen.dtype in (torch.bool, torch.uint8) for chosen in args[1]
        ):
            self._waits.note("indexed by a mask")
        return func(*args, **(kwargs or {}))
