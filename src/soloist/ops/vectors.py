"""Vectors as arrays, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit_vectors(vectors: NDArray[np.floating]) -> NDArray[Any]:
    """Vectors scaled to length 1; one that is zero or not finite becomes zero.

    Args:
        vectors: (N, E) float.

    Returns:
        (N, E) float32, or float64 where the vectors are.
    """
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    rows = np.where(finite, vectors, 0).astype(np.result_type(vectors, np.float32))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[Any] = rows / np.where(lengths > 0, lengths, 1).astype(rows.dtype)
    return units
