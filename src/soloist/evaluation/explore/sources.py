"""What groups and searches start from: the masks of a file and their vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.errors import DataError
from soloist.ops.vectors import unit_vectors
from soloist.runtime.files import shown


def in_order(file: CocoFile) -> tuple[CocoAnnotation, ...]:
    """All annotations in the order of the file, which is that of its embeddings."""
    every = (one for annotations in file.annotations.values() for one in annotations)
    return tuple(sorted(every, key=lambda one: one.index))


def embeddings_of(file: CocoFile) -> NDArray[np.float32]:
    """(A, E) unit vectors of a file's masks.

    Raises:
        DataError: If it has no masks or no embeddings.
    """
    if len(file) == 0:
        raise DataError(
            f"wanted masks to compare, got {shown(file.path)} without any; lower the score "
            "threshold they were made with"
        )
    if file.embeddings is None or file.embeddings.shape[1] == 0:
        raise DataError(
            f"wanted embeddings beside {shown(file.path)}, got none; make it with `soloist "
            "predict` or `soloist masks`, or keep its .embeddings.npy beside it"
        )
    return unit_vectors(file.embeddings)
