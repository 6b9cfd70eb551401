"""Networks: backbones, feature pyramid, SOLO heads, DenseCL."""

from soloist.models.solo import SOLO

__all__ = ["SOLO"]
