"""Files of weights: read without running their code, written whole or not at all."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from soloist.checkpoints.pickles import load_pickle
from soloist.errors import CheckpointError
from soloist.runtime.files import LFS_REMEDY, atomic_path, is_lfs_pointer, one_line, shown

WRAPPERS = ("state_dict", "model", "teacher", "student")
"""Where files keep their tensors: MoCo and OpenMMLab; detectron2; DINO, whose teacher is its
result."""

# A tensor may repeat its numbers, and so stand for more than its file holds.
_REPEATED_BYTES = 2**30

# What torch.load and pickle raise on damaged files, found by damaging some.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    MemoryError,
    OverflowError,
    RecursionError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a flat dictionary of tensors from `.safetensors`, `.pth`, `.pt` or `.pkl`.

    All but `.safetensors` may keep their tensors under one of `WRAPPERS`. Nothing in a file is
    executed: torch reads with `weights_only=True`, `.pkl` files are read by `load_pickle`.

    Raises:
        CheckpointError: If the file is missing, malformed or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no file of weights at {path}; check the path")
    if is_lfs_pointer(path):
        raise CheckpointError(f"wanted a file of weights, got {shown(path)}: {LFS_REMEDY}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    content: Any = _read(path, load_pickle) if path.suffix == ".pkl" else load_state(path)
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, got {type(content)}")
    tensors = {str(key): value for key, value in content.items() if _is_plain(value)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; is it a file of weights?")
    claimed = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if claimed > path.stat().st_size + _REPEATED_BYTES:
        raise CheckpointError(
            f"{path} must hold its tensors, got {path.stat().st_size} bytes that stand for "
            f"{claimed}; save them without repetition"
        )
    return tensors


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether this is a tensor with its numbers: not sparse, quantised or without values."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def save_tensors(path: Path, tensors: dict[str, Tensor], *, metadata: dict[str, str]) -> None:
    """Writes a safetensors file with its record, through a temporary name."""
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # `save_file` makes a file that only its owner may read.
        temporary.write_bytes(save(contiguous, metadata=metadata))


def load_state(path: Path) -> Any:
    """Reads what `save_state` wrote; nothing in the file is executed.

    Raises:
        CheckpointError: If the file is damaged or holds more than tensors and plain values.
    """
    return _read(path, _load_torch)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a dictionary of tensors and plain values, through a temporary name."""
    # Given a file, torch turns a full disk into an error of its own that does not name it.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


@contextmanager
def resumed_from(path: Path) -> Iterator[None]:
    """Around taking a training's state from a file of `save_state`.

    Raises:
        CheckpointError: If it is the state of another training, or of another version.
    """
    try:
        yield
    except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} does not fit this training ({one_line(error)[:200]}); continue with the "
            "version and options that wrote it, or remove it to train from the start"
        ) from error


def _load_torch(path: Path) -> Any:
    # torch stores tensors as they are; a compressed one may be of any size.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise pickle.UnpicklingError("it is compressed")
    # A Namespace is a bag of plain values; DINO's checkpoints keep their arguments in one.
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What a reader makes of a file, or a one-line error that says how to mend it."""
    try:
        return reader(path)
    except _LOAD_ERRORS as error:
        named = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f"it names {named[1]}" if named else (str(error) or type(error).__name__)
        if "weights_only" in reason:  # torch advises to run what is in it.
            reason = "it is no file of torch, or holds other objects"
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors and plain values "
            f"({reason.splitlines()[0]}); fetch it again, or save only its tensors"
        ) from error
