"""Fixtures every test may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


@cache
def _load(name: str) -> Mapping[str, npt.NDArray[Any]]:
    path = GOLDEN / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"reference values are absent: ../shared/golden/{name}.npz")
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Mapping[str, npt.NDArray[Any]]]:
    """Arrays of the released code by name (`golden("losses")["B_logits"]`); skips if absent."""
    return _load
