"""A tiny set for what labels shards: images, and a labeler that takes no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from soloist.structures import Instances

IMAGES = 11


def squares(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
    """As many squares as the first pixel says, distinguished by its colour."""
    count = int(pixels[0, 0, 0]) % 4
    masks = torch.zeros((count, *size), dtype=torch.bool)
    for row in range(count):
        masks[row, row : row + 3, row : row + 2] = True
    corners = [[row, row, row + 2, row + 3] for row in range(count)]
    scores = torch.linspace(0.9, 0.3, count) * (1 + float(pixels[0, 0, 1])) / 256
    embeddings = torch.arange(5.0).repeat(count, 1) + float(pixels[0, 0, 2]) / 3
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, masks, scores, boxes, embeddings)


@pytest.fixture
def toy_labeler() -> Callable[[NDArray[np.uint8], tuple[int, int]], Instances]:
    return squares


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of eleven images, the first of them without objects, one of them broken."""
    folder = tmp_path / "images"
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (6 + number, 9, 3), dtype=np.uint8)
        pixels[0, 0, 0] = number
        path = folder / f"{number % 3}" / f"ü{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "1" / "ü04.png").write_text("no image")
    return folder
