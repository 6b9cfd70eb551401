"""Weights: files read without running their code, and public files under our names."""

from soloist.checkpoints.files import (
    load_state,
    load_tensors,
    resumed_from,
    save_state,
    save_tensors,
)
from soloist.checkpoints.official import OfficialWeights, load_official

__all__ = [
    "OfficialWeights",
    "load_official",
    "load_state",
    "load_tensors",
    "resumed_from",
    "save_state",
    "save_tensors",
]
