"""Files of weights: read without running their code, written whole or not at all."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from soloist.errors import CheckpointError
from soloist.files import atomic_path

# What torch.load raises on damaged files, found by damaging some.
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
    struct.error,
)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a flat dictionary of tensors from `.safetensors`, `.pth` or `.pt`.

    A `.pth` may keep its tensors under `state_dict` or `model`; it is read with
    `weights_only=True`, so nothing in it is executed.

    Raises:
        CheckpointError: If the file is missing, malformed or holds no tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"no file of weights at {path}; check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    content: Any = load_state(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, got {type(content)}")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; is it a file of weights?")
    return tensors


def save_tensors(path: Path, tensors: dict[str, Tensor], *, metadata: dict[str, str]) -> None:
    """Writes a safetensors file with its record, through a temporary name."""
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata=metadata)


def load_state(path: Path) -> Any:
    """Reads what `save_state` wrote; nothing in the file is executed.

    Raises:
        CheckpointError: If the file is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors and plain values ({reason})"
        ) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a dictionary of tensors and plain values, through a temporary name."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
