"""How large images are cut into tiles; no part of a model's own options."""

from __future__ import annotations

from dataclasses import dataclass

from soloist.config.checks import at_least, check, share


@dataclass(frozen=True)
class TileConfig:
    """Tiles of a large image."""

    size: int = 1024
    """Cut images into overlapping tiles of this side in pixels, for objects that are small in a
    large image; each tile is then resized as an image is."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share at least; by default an eighth of their side."""
    agreement: float = 0.5
    """Masks that a border between tiles cuts are one object if they overlap (IoU) by more than this
    where the tiles do."""
    duplicates: float = 0.5
    """Of masks of several tiles that overlap (IoU) by more than this the better one stays."""
    whole: bool = True
    """Look at the whole image too, at reduced size, for objects larger than a tile."""

    def __post_init__(self) -> None:
        at_least(64, self, "tile", "size")
        check(
            0 <= self.shared <= self.size // 2,
            f"tile.overlap must lie between 0 and half of tile.size ({self.size // 2}), got "
            f"{self.overlap}",
        )
        share(self, "tile", "agreement", "duplicates")

    @property
    def shared(self) -> int:
        """`overlap`, or its default."""
        return self.size // 8 if self.overlap is None else self.overlap
