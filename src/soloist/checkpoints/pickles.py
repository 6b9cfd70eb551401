"""Plain pickles of arrays, such as detectron2's `.pkl` files, read without running their code.

A pickle is a program that may call whatever it can name. Here it can name nothing of the real
world: the few names that arrays need lead to stand-ins, which only note what they are given. The
arrays are made afterwards, from checked shapes and bytes.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

_DTYPES = re.compile(r"[<>=|]?(f[248]|[iu][1248]|b1)")
_MODULES = {"numpy.core": "numpy", "numpy._core": "numpy", "__builtin__": "builtins"}


def load_pickle(path: Path) -> Any:
    """Reads a pickle of arrays, numbers, texts and plain containers.

    Returns:
        What the file holds, arrays as tensors.

    Raises:
        pickle.UnpicklingError: If the file names anything else.
        Exception: What damaged files make the standard library raise.
    """
    with path.open("rb") as file:
        _check_sizes(file, path.stat().st_size)
        return _plain(_Unpickler(file, encoding="latin1").load())


class _DType:
    """What a numpy dtype is read as."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"a byte order {order!r}")
        self.code = order + self.code.lstrip("<>=|")


class _Array:
    """What a numpy array or number is read as."""

    __slots__ = ("data", "dtype", "order", "shape")

    def __init__(self) -> None:
        self.shape: Any = (0,)
        self.dtype: Any = _DType("u1")
        self.order: Any = "C"
        self.data: Any = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, self.shape, self.dtype, fortran, self.data = state
        self.order = "F" if fortran else "C"

    def real(self) -> NDArray[Any]:
        """The array, once its shape is known to fit its bytes."""
        if not isinstance(self.dtype, _DType) or not isinstance(self.shape, tuple):
            raise pickle.UnpicklingError("an array without a type or a shape")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        dtype = np.dtype(self.dtype.code)
        if not all(isinstance(side, int) and side >= 0 for side in self.shape):
            raise pickle.UnpicklingError(f"an array of shape {self.shape!r}")
        if math.prod(self.shape) * dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"{len(data)} bytes for an array of shape {self.shape}")
        array = np.frombuffer(data, dtype).reshape(self.shape, order=self.order)
        return np.array(array, dtype=dtype.newbyteorder("="), order="C")


class _Unpickler(pickle.Unpickler):
    """Finds stand-ins only. They are methods, which a pickle cannot set attributes of."""

    def find_class(self, module: str, name: str) -> Any:
        for old, new in _MODULES.items():
            module = re.sub(rf"^{re.escape(old)}(?=\.|$)", new, module)
        known: dict[str, Callable[..., Any] | str] = {
            "numpy.multiarray._reconstruct": self._array,
            "numpy.multiarray.scalar": self._scalar,
            "numpy.numeric._frombuffer": self._from_buffer,
            "numpy.ndarray": "ndarray",
            "numpy.dtype": self._dtype,
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": self._encode,
            "builtins.bytes": self._no_bytes,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[f"{module}.{name}"]

    def _array(self, kind: object, shape: object, code: object) -> _Array:
        """`_reconstruct` makes an empty array, whose state follows."""
        return _Array()

    def _scalar(self, dtype: object, data: object = b"") -> _Array:
        made = _Array()
        made.shape, made.dtype, made.data = (), dtype, data
        return made

    def _from_buffer(self, data: object, dtype: object, shape: object, order: object) -> _Array:
        made = _Array()
        made.shape, made.dtype, made.data = shape, dtype, data
        made.order = "F" if order == "F" else "C"
        return made

    def _dtype(self, code: object, *options: object) -> _DType:
        if not isinstance(code, str) or not _DTYPES.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of {code!r}, not of numbers")
        return _DType(code)

    def _encode(self, text: object, encoding: object) -> bytes:
        """How old pickles write bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
        return text.encode("latin1")

    def _no_bytes(self) -> bytes:
        """How old pickles write no bytes."""
        return b""


def _plain(content: Any) -> Any:
    """Arrays as tensors, at any depth of plain containers."""
    if isinstance(content, _Array):
        return torch.from_numpy(content.real())
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content


def _check_sizes(file: BinaryIO, size: int) -> None:
    """Refuses numbers that would make the reader allocate far more than the file holds."""
    for code, argument, _ in pickletools.genops(file):
        claimed = argument if code.name in ("PUT", "LONG_BINPUT", "FRAME") else None
        if claimed is not None and claimed > size:
            raise pickle.UnpicklingError(f"{code.name} {claimed} in a file of {size} bytes")
    file.seek(0)
