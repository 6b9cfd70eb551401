"""What `predict` takes, and the score that a model recommends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import soloist
from soloist import Segmenter
from soloist.errors import DataError


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    return soloist.load(model_folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def image(scenes: Path) -> Path:
    return scenes / "images" / "000001.jpg"


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        pytest.param(np.zeros(5, np.uint8), r"\(5,\) uint8", id="row"),
        pytest.param(np.zeros((5, 5, 5), np.uint8), r"\(5, 5, 5\) uint8", id="five-channels"),
        pytest.param(np.zeros((3, 5, 5), np.uint8), r"\(3, 5, 5\) uint8", id="channels-first"),
        pytest.param(np.full((5, 5, 3), 90.0), r"\(5, 5, 3\) float64", id="floats-to-255"),
        pytest.param(np.full((5, 5), np.nan), r"\(5, 5\) float64", id="not-a-number"),
        pytest.param(np.zeros((5, 5), np.int64), r"\(5, 5\) int64", id="signed"),
        pytest.param(np.array([["a"]]), r"\(1, 1\) <U1", id="text"),
        pytest.param(np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\) uint8", id="no-pixel"),
        pytest.param(torch.zeros(5, 5, 5), r"\(5, 5, 5\) torch.float32", id="tensor"),
    ],
)
def test_pixels_of_another_kind_are_refused(segmenter: Segmenter, pixels: Any, got: str) -> None:
    with pytest.raises(DataError, match=rf"pixels must be \(H, W\) or .* got {got}"):
        segmenter.predict(pixels)


@pytest.mark.parametrize("source", [None, 4, {"a": 1}.get, object()])
def test_what_is_no_image_is_refused(segmenter: Segmenter, source: Any) -> None:
    with pytest.raises(DataError, match="wanted a path, pattern, https address, array, tensor"):
        segmenter.predict(source)


RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    ("source", "pixels"),
    [
        pytest.param(GREY, np.stack([GREY] * 3, -1), id="grey"),
        pytest.param(GREY[..., None], np.stack([GREY] * 3, -1), id="one-channel"),
        pytest.param(np.dstack([RGB, np.full_like(GREY, 255)]), RGB, id="opaque"),
        pytest.param(RGB / 255, RGB, id="floats"),
        pytest.param(RGB.astype(np.uint16) * 257, RGB, id="16-bit-colour"),
        pytest.param(torch.from_numpy(RGB), RGB, id="tensor-channels-last"),
        pytest.param(torch.from_numpy(RGB).permute(2, 0, 1), RGB, id="tensor-channels-first"),
        pytest.param(torch.from_numpy(RGB).permute(2, 0, 1) / 255, RGB, id="tensor-of-floats"),
        pytest.param(
            torch.from_numpy(GREY)[None], np.stack([GREY] * 3, -1), id="tensor-one-channel"
        ),
        pytest.param(Image.fromarray(GREY), np.stack([GREY] * 3, -1), id="pillow-grey"),
    ],
)
def test_images_in_memory_are_read_whatever_holds_them(
    segmenter: Segmenter, source: Any, pixels: Any
) -> None:
    (found,) = segmenter.predict(source)
    assert found.pixels is not None
    np.testing.assert_allclose(found.pixels.astype(int), pixels.astype(int), atol=1)


def test_lists_of_images_are_segmented_one_by_one(segmenter: Segmenter, image: Path) -> None:
    found = segmenter.predict([RGB, Image.fromarray(GREY), str(image), torch.from_numpy(RGB)])
    assert [one.path for one in found] == [None, None, image, None]
    assert torch.equal(found[0].masks, found[3].masks)
    batch = segmenter.predict(torch.from_numpy(np.stack([RGB, RGB])).permute(0, 3, 1, 2))
    for one in batch:
        assert torch.equal(one.masks, found[0].masks)
    assert len(segmenter.predict([RGB, GREY], tile=64)) == 2
    assert segmenter.predict(one for one in (RGB,))[0].image_size == (40, 60)


@pytest.fixture
def namesakes(tmp_path: Path) -> Path:
    """Three images that are all called 1."""
    for name in ("a/1.jpg", "b/1.jpg", "b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("sources", "saved"),
    [
        pytest.param([GREY], ["image.png"], id="one-in-memory"),
        pytest.param(
            [GREY, RGB, Image.fromarray(RGB)],
            ["image-1.png", "image-2.png", "image-3.png"],
            id="in-memory",
        ),
        pytest.param(np.stack([RGB, RGB]), ["image-1.png", "image-2.png"], id="one-array"),
        pytest.param("", ["a/1.jpg.png", "b/1.jpg.png", "b/1.png.png"], id="folder"),
        pytest.param(
            ["a/1.jpg", "b/1.jpg", "b/1.png"],
            ["a/1.jpg.png", "b/1.jpg.png", "b/1.png.png"],
            id="files",
        ),
        pytest.param(
            ["a/1.jpg", RGB, "b/1.jpg", RGB],
            ["a/1.jpg.png", "b/1.jpg.png", "image-1.png", "image-2.png"],
            id="both",
        ),
        pytest.param([RGB, ["b/1.jpg", "b/1.png"]],
                     ["1.jpg.png", "1.png.png", "image.png"], id="nested"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tile", [None, 64])
def test_no_result_of_one_call_takes_the_place_of_another(
    segmenter: Segmenter,
    namesakes: Path,
    tmp_path: Path,
    sources: Any,
    saved: list[str],
    tile: int | None,
) -> None:
    def below(source: Any) -> Any:
        if isinstance(source, list):
            return [below(one) for one in source]
        return namesakes / source if isinstance(source, str) else source

    out = tmp_path / "out"
    results: list[Any] = segmenter.predict(below(sources), tile=tile)
    written = [result.save(f"{out}/") for result in results]
    assert sorted(path.relative_to(out).as_posix() for path in written) == saved


def test_the_recommended_score_is_the_models(
    segmenter: Segmenter, tmp_path: Path, image: Path
) -> None:
    segmenter.save_pretrained(tmp_path / "model")
    record = json.loads((tmp_path / "model" / "config.json").read_text())
    assert record["inference"]["recommended_score"] == 0.0
    record["inference"]["recommended_score"] = 0.7
    (tmp_path / "model" / "config.json").write_text(json.dumps(record))
    changed = soloist.load(tmp_path / "model", device="cpu", precision="fp32")
    for found in (changed.predict(image)[0], changed.predict(image, tile=64)[0]):
        assert found.recommended_score == 0.7
    # A record of an older version has none.
    del record["inference"]["recommended_score"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(record))
    older = soloist.load(tmp_path / "model", device="cpu", precision="fp32")
    assert older.predict(image)[0].recommended_score == 0.3
