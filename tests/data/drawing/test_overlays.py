from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from soloist.data.coco.encoded import encoded
from soloist.data.drawing.overlays import OverlayWriter, overlay_name
from soloist.data.sources import ImageRef
from soloist.errors import RunError
from soloist.structures import Instances


def square(size: tuple[int, int] = (40, 60), score: float = 0.9) -> Instances:
    masks = torch.zeros((1, *size), dtype=torch.bool)
    masks[0, size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    return Instances(
        image_size=size,
        masks=masks,
        scores=torch.tensor([score]),
        boxes=torch.zeros(1, 4),
        embeddings=torch.zeros(1, 2),
    )


def write(
    folder: Path, name: str, instances: Instances[Tensor, Any] | None = None, **options: float
) -> None:
    writer = OverlayWriter(folder, **options)
    pixels = np.full((40, 60, 3), 128, dtype=np.uint8)
    writer(ImageRef(Path(name), name), pixels, square() if instances is None else instances)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("a.jpg", "a.jpg.overlay.jpg", id="plain"),
        pytest.param("x/y/a.png", "x/y/a.png.overlay.jpg", id="folders"),
        pytest.param("../a.jpg", "a.jpg.overlay.jpg", id="up"),
        pytest.param("x/../../../a.jpg", "x/a.jpg.overlay.jpg", id="up-and-up"),
        pytest.param("/etc/a.jpg", "etc/a.jpg.overlay.jpg", id="absolute"),
        pytest.param("//host/a.jpg", "host/a.jpg.overlay.jpg", id="two-slashes"),
        pytest.param("./a.jpg", "a.jpg.overlay.jpg", id="here"),
        pytest.param("..", "image.overlay.jpg", id="only-up"),
        pytest.param("/", "image.overlay.jpg", id="only-root"),
        pytest.param("", "image.overlay.jpg", id="empty"),
        pytest.param("...", "image.overlay.jpg", id="only-dots"),
        pytest.param("two words.jpg", "two words.jpg.overlay.jpg", id="space"),
    ],
)
def test_a_image_never_leaves_its_folder(tmp_path: Path, name: str, expected: str) -> None:
    assert overlay_name(name) == Path(expected)
    folder = tmp_path / "a" / "b" / "overlays"
    write(folder, name)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [folder / expected]


@pytest.mark.parametrize("name", ["..\\..\\a.jpg", "C:\\photos\\a.jpg", "x\\y\\a.jpg"])
def test_names_of_windows_never_leave_it_either(tmp_path: Path, name: str) -> None:
    write(tmp_path / "overlays", name)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].is_relative_to(tmp_path / "overlays")
    assert ".." not in files[0].parts


def test_names_that_differ_in_their_suffix_make_two_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        write(tmp_path, name)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_long_name_is_cut_and_stays_unlike_others(tmp_path: Path) -> None:
    for end in ("x", "y"):
        write(tmp_path, "ü" * 120 + end + ".jpg")
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 2
    assert all(len(name.encode()) <= 255 for name in names)


def test_the_mask_is_drawn_over_the_image(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    with Image.open(tmp_path / "a.jpg.overlay.jpg") as file:
        drawn = np.asarray(file).astype(int)
    assert drawn.shape == (40, 60, 3)
    assert np.abs(drawn[12:18, 18:28] - 128).max() > 40
    assert np.abs(drawn[28:, 40:] - 128).max() < 20


def test_masks_larger_than_the_pixels_are_fitted(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", square((400, 600)))
    with Image.open(tmp_path / "a.jpg.overlay.jpg") as file:
        drawn = np.asarray(file).astype(int)
    assert drawn.shape == (40, 60, 3)
    assert np.abs(drawn[12:18, 18:28] - 128).max() > 40


def test_encoded_masks_are_drawn_as_others(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", square())
    write(tmp_path, "b.jpg", encoded(square()))
    one, other = ((tmp_path / f"{name}.jpg.overlay.jpg").read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize(
    ("score", "drawn"), [pytest.param(0.2, False, id="below"), pytest.param(0.5, True, id="at")]
)
def test_masks_of_a_low_score_are_not_drawn(tmp_path: Path, score: float, drawn: bool) -> None:
    write(tmp_path, "a.jpg", square(score=score), score_threshold=0.5)
    with Image.open(tmp_path / "a.jpg.overlay.jpg") as file:
        changed = np.abs(np.asarray(file).astype(int) - 128).max() > 40
    assert changed == drawn


def test_no_object_gives_the_image(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", Instances.empty((40, 60)))
    with Image.open(tmp_path / "a.jpg.overlay.jpg") as file:
        assert np.abs(np.asarray(file).astype(int) - 128).max() < 4


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="cannot write"):
        write(tmp_path / "file", "a.jpg")
