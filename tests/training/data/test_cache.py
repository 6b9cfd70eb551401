from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soloist.data.images import read_image
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.training.data import cache as cache_module
from soloist.training.data.cache import ImageCache

PIXELS = 3 * 20 * 30


def put(folder: Path, name: str, size: tuple[int, int] = (20, 30), value: int = 7) -> ImageRef:
    """An image of (height, width) and one value."""
    path = folder / name
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)
    return ImageRef(path, name)


def cache_of(
    *images: ImageRef, short_side: int = 400, max_side: int = 800, budget: float = 1e9
) -> ImageCache:
    return ImageCache(images, short_side=short_side, max_side=max_side, budget_bytes=budget)


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        pytest.param((20, 30), 400, 800, (20, 30), id="small-images-stay"),
        pytest.param((20, 30), 20, 30, (20, 30), id="exactly-the-size"),
        pytest.param((100, 150), 20, 800, (20, 30), id="reduced-to-the-short-side"),
        pytest.param((100, 150), 50, 60, (40, 60), id="reduced-to-the-long-side"),
        pytest.param((150, 100), 20, 800, (30, 20), id="upright"),
        pytest.param((1, 1), 20, 30, (1, 1), id="one-pixel"),
        pytest.param((1, 500), 20, 50, (1, 50), id="strip"),
    ],
)
def test_images_are_decoded_at_a_bounded_size(
    tmp_path: Path,
    size: tuple[int, int],
    short_side: int,
    max_side: int,
    expected: tuple[int, int],
) -> None:
    image = cache_of(put(tmp_path, "a.png", size), short_side=short_side, max_side=max_side)[0]
    assert image.shape == (3, *expected)
    assert bool((image == 7).all())


def test_channels_come_first_in_the_order_red_green_blue(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = cache_of(ImageRef(tmp_path / "a.png", "a.png"))[0]
    assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        pytest.param(0, 0, id="nothing-fits"),
        pytest.param(PIXELS - 1, 0, id="a-byte-too-small"),
        pytest.param(PIXELS, 1, id="one-fits"),
        pytest.param(2.5 * PIXELS, 2, id="two-fit"),
        pytest.param(1e9, 3, id="all-fit"),
    ],
)
def test_images_are_remembered_until_the_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, kept: int
) -> None:
    images = [put(tmp_path, f"{number}.png", value=number) for number in range(3)]
    decoded: list[Path] = []

    def counting(path: Path, **_: object) -> NDArray[np.uint8]:
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr(cache_module, "read_image", counting)
    cache = cache_of(*images, budget=budget)
    for _ in range(3):
        assert [int(cache[index][0, 0, 0]) for index in range(3)] == [0, 1, 2]
    assert decoded[3:] == 2 * [image.path for image in images[kept:]]


def test_what_cannot_be_read_is_passed_over_and_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    cache = cache_of(
        ImageRef(tmp_path / "missing.jpg", "missing.jpg"),
        ImageRef(tmp_path / "broken.jpg", "sub/broken.jpg"),
        put(tmp_path, "good.png"),
    )
    index, image, failures = cache.readable(0)
    assert (index, image.shape) == (2, (3, 20, 30))
    assert [name for name, _ in failures] == ["missing.jpg", "sub/broken.jpg"]
    assert "check its path" in failures[0][1]
    assert "not an image" in failures[1][1]


def test_after_the_last_image_comes_the_first(tmp_path: Path) -> None:
    cache = cache_of(put(tmp_path, "good.png"), ImageRef(tmp_path / "missing.jpg", "missing.jpg"))
    index, _, failures = cache.readable(1)
    assert (index, len(failures)) == (0, 1)
    assert cache.readable(0)[0::2] == (0, [])


def test_no_image_that_can_be_read_is_told(tmp_path: Path) -> None:
    cache = cache_of(*(ImageRef(tmp_path / name, name) for name in ("a.jpg", "b.jpg")))
    with pytest.raises(DataError, match=r"none of the 2 images can be read; first: .*b\.jpg"):
        cache.readable(1)


@pytest.mark.parametrize(
    ("now", "labelled", "taken"),
    [
        pytest.param((20, 30), (20, 30), True, id="as-it-was"),
        pytest.param((20, 30), (200, 300), True, id="a-smaller-copy"),
        pytest.param((33, 50), (333, 500), True, id="a-smaller-copy-rounded"),
        pytest.param((30, 20), (20, 30), False, id="turned"),
        pytest.param((20, 20), (20, 30), False, id="cut"),
        pytest.param((100, 156), (100, 150), False, id="a-little-wider"),
    ],
)
def test_an_image_of_other_proportions_than_its_masks_is_refused(
    tmp_path: Path, now: tuple[int, int], labelled: tuple[int, int], taken: bool
) -> None:
    images = [put(tmp_path, "a.png", now), put(tmp_path, "b.png")]
    cache = ImageCache(
        images, short_side=400, max_side=800, budget_bytes=1e9, sizes=[labelled, (20, 30)]
    )
    index, _, failures = cache.readable(0)
    assert index == (0 if taken else 1)
    assert [name for name, _ in failures] == ([] if taken else ["a.png"])
    assert all("its masks are for" in reason and "\n" not in reason for _, reason in failures)
