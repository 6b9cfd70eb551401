"""Unsupervised instance segmentation: finds objects, learned from unlabelled images.

The names below are imported on first use, because torch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from soloist.api import evaluate, extract_masks, finetune, fit
    from soloist.inference.results import Result
    from soloist.inference.segmenter import Segmenter, load

_HOMES = {
    "Result": "soloist.inference.results",
    "Segmenter": "soloist.inference.segmenter",
    "evaluate": "soloist.api",
    "extract_masks": "soloist.api",
    "finetune": "soloist.api",
    "fit": "soloist.api",
    "load": "soloist.inference.segmenter",
}

__all__ = ["Result", "Segmenter", "evaluate", "extract_masks", "finetune", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'soloist' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
