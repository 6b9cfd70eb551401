"""Images of coloured discs, whose objects everybody can tell, and a workspace of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soloist.cli.studio.open_image import OpenImage, open_image
from soloist.cli.studio.workspace import Model, Workspace
from soloist.data.sources import ImageRef, find_images
from soloist.inference.segmenter import Segmenter, load
from soloist.proposals.ranking import overlaps_with

SIZE = (240, 320)
DISCS = {"red": (70, 80, 40), "green": (150, 230, 50), "blue": (180, 60, 30)}
"""Row, column and radius of each, in pixels."""
COLORS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 60, 210)}


def disc(name: str, size: tuple[int, int] = SIZE) -> NDArray[np.bool_]:
    """The true mask of a disc."""
    row, column, radius = DISCS[name]
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside: NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return inside


def draw(path: Path, seed: int, scale: int = 1) -> None:
    """An image of the three discs on grey, with a little noise."""
    pixels = np.full((*SIZE, 3), 190, dtype=np.float64)
    for name, color in COLORS.items():
        pixels[disc(name)] = color
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    pixels += np.random.default_rng(seed).normal(0, 3, pixels.shape)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images."""
    for number in range(3):
        draw(tmp_path / "images" / f"{number}.png", number)
    return tmp_path / "images"


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """The bundled one."""
    return load(device="cpu", precision="fp32")


@pytest.fixture
def image(folder: Path, segmenter: Segmenter) -> OpenImage:
    """The first of them, open."""
    return open_image(ImageRef(folder / "0.png", "0.png"), segmenter)


@pytest.fixture
def workspace(folder: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A workspace of the three, in the folder `run`."""
    made = Workspace(
        find_images(folder),
        tmp_path / "run",
        sources=[str(folder)],
        model=Model(device="cpu", precision="fp32"),
    )
    yield made
    made.close()


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Overlap of two masks."""
    return float((one & other).sum() / (one | other).sum())


def item_of(image: OpenImage, name: str) -> int:
    """The item that fits a disc best."""
    wanted = image.reduced(disc(name))[None]
    return int(overlaps_with(image.found, image.candidates, wanted)[:, 0].argmax())
