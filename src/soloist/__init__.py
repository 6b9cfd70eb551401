"""Unsupervised instance segmentation: finds objects, learned from unlabelled images.

The names below are imported on first use, because torch takes seconds to import.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from soloist.api import evaluate, extract_masks, finetune, fit
    from soloist.inference.results import Result
    from soloist.inference.segmenter import Segmenter, load

_HOMES = {
    "api": "soloist.api",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'soloist' has no attribute {name!r}")
    # Importing torch makes no garbage, but looking for it takes a fifth of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        home = import_module(_HOMES[name])
    finally:
        if collects:
            gc.enable()
    return home if name == "api" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
