"""How masks of a video are linked from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

from soloist.config.checks import at_least, check, share


@dataclass(frozen=True)
class TrackConfig:
    """Identities in a video."""

    every: int = 1
    """Read every n-th frame of a video."""
    score: float = 0.3
    """Leave out masks of a lower score in videos."""
    gap: int = 5
    """An identity ends when it was not seen in N frames that were read, one after the other,
    and more."""
    overlap_weight: float = 0.5
    """Weight of the masks' overlap (IoU) in how well two masks fit; the rest is the cosine of their
    embeddings."""
    least: float = 0.3
    """Masks that fit less are different objects."""

    def __post_init__(self) -> None:
        at_least(1, self, "track", "every")
        at_least(0, self, "track", "gap")
        share(self, "track", "overlap_weight")
        check(0 < self.least <= 1, f"track.least must lie in (0, 1], got {self.least}")
