"""Large images cut into tiles: each is labelled by itself, and what borders cut is joined."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from soloist.config import TileConfig
from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.coco.rle import encode_part, placed_mask
from soloist.inference.tile_joining import Box, Piece, join_pieces, pieces_of
from soloist.structures import Instances


class TiledLabeler:
    """Gives the objects of an image of any size, from a labeler of images of usual size.

    An image that fits into one tile is labelled as if there were no tiles. Memory follows the
    image's pixels, the masks of one tile, and the outlines of what was found.

    Args:
        labeler: Pixels (H', W', 3) and the (height, width) of the masks to instances.
        config: Size and overlap of the tiles, and how their masks are joined.
    """

    def __init__(
        self,
        labeler: Callable[[NDArray[np.uint8], tuple[int, int]], Instances[Tensor, Any]],
        config: TileConfig,
    ) -> None:
        self._labeler = labeler
        self._config = config

    def __call__(
        self, pixels: NDArray[np.uint8], size: tuple[int, int]
    ) -> Instances[Tensor, EncodedMasks]:
        """Objects of an image.

        Args:
            pixels: (H, W, 3) uint8 RGB, not reduced.
            size: (H, W).

        Raises:
            ValueError: If the pixels are of another size.
        """
        if pixels.shape[:2] != size:
            raise ValueError(f"tiles need the whole image {size}, got {pixels.shape[:2]}")
        tiles = tile_boxes(size, self._config)
        if len(tiles) == 1:
            return encoded(self._labeler(pixels, size))
        pieces: list[Piece] = []
        embedding_size = 0
        labelled = False
        for number, (left, top, right, bottom) in enumerate(tiles):
            part = pixels[top:bottom, left:right]
            found = encoded(self._labeler(part, (bottom - top, right - left)))
            rles = [placed_mask(rle, (top, left), size) for rle in found.masks.rles]
            pieces += pieces_of(found, rles, tile=number, tiles=tiles, overlap=self._config.shared)
            embedding_size = found.embeddings.shape[1]
            labelled = found.labels is not None
        if self._config.whole:
            pieces += self._whole(pixels, size)
        return join_pieces(
            pieces,
            tiles,
            size,
            self._config,
            embedding_size=embedding_size,
            labelled=labelled,
        )

    def _whole(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> list[Piece]:
        """What is seen on the whole image; its masks are made as large as a tile at most.

        What is no larger than the overlap is left out: some tile shows all of it, and better.
        """
        scale = self._config.size / max(size)
        reduced = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        found = encoded(self._labeler(pixels, reduced))
        rles = [
            enlarged_mask(mask, box, size)
            for mask, box in zip(found.masks, found.boxes.numpy(), strict=True)
        ]
        overlap = self._config.shared
        return [
            piece
            for piece in pieces_of(found, rles)
            if max(piece.box[2] - piece.box[0], piece.box[3] - piece.box[1]) > overlap
        ]


def tile_boxes(size: tuple[int, int], config: TileConfig) -> list[Box]:
    """The tiles of an image, row by row: xyxy with an exclusive end, in pixels.

    All have the side of `config.size`, or the image's where that is shorter, and are spread
    evenly, so that neighbours share at least `config.shared` pixels.

    Args:
        size: (height, width) of the image.
        config: Size and overlap.
    """
    (height, rows), (width, columns) = (
        (min(side, config.size), _starts(side, config)) for side in size
    )
    return [(left, top, left + width, top + height) for top, left in product(rows, columns)]


def enlarged_mask(
    mask: NDArray[np.bool_], box: NDArray[np.floating], size: tuple[int, int]
) -> dict[str, object]:
    """A mask of the reduced image at full size, encoded; only its box is ever held in pixels.

    Args:
        mask: (h, w) bool.
        box: xyxy around it, in its pixels.
        size: (height, width) of the image.
    """
    scales = (size[1] / mask.shape[1], size[0] / mask.shape[0])  # x, y
    # One pixel more on each side: interpolated, a border moves by less.
    left, top = (max(0, int((box[k] - 1) * scales[k])) for k in (0, 1))
    right, bottom = (min(size[1 - k], int((box[k + 2] + 1) * scales[k]) + 1) for k in (0, 1))
    source = (left / scales[0], top / scales[1], right / scales[0], bottom / scales[1])
    grey = Image.fromarray(mask.view(np.uint8) * np.uint8(255)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=source
    )
    part = np.asarray(grey) >= 128
    return encode_part(part, (top, left), size)


def _starts(side: int, config: TileConfig) -> list[int]:
    """Where tiles begin along one side of the image."""
    room = side - config.size
    if room <= 0:
        return [0]
    steps = -(-room // (config.size - config.shared))
    return [step * room // steps for step in range(steps + 1)]
