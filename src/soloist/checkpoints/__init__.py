"""Weights: files read without running their code, public files under our names, the hub.

The names below are imported on first use: the command line reads the table of public weights
(`published.py`) before it imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soloist.checkpoints.official import OfficialWeights, load_official

__all__ = ["OfficialWeights", "load_official"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from soloist.checkpoints import official

        return getattr(official, name)
    raise AttributeError(f"module 'soloist.checkpoints' has no attribute {name!r}")
