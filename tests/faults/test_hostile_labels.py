"""COCO files, run lengths and polygons that somebody made up to do harm."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.faults.inputs import JSON, PLAIN, damaged, places, replaced

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask, to_rle
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError

Hostile = Callable[[str], Any]
pytestmark = pytest.mark.usefixtures("bounded_memory")

# COCO files

RLE = {"size": [4, 5], "counts": [3, 4, 13]}
WHOLE: dict[str, Any] = {
    "info": {"embeddings": "coco.embeddings.npy"},
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 4, "width": 5},
        {"id": 2, "file_name": "b.jpg", "height": 4, "width": 5},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "segmentation": RLE, "score": 0.5, "bbox": [0, 0, 2, 2]},
        {"id": 2, "image_id": 2, "segmentation": [[0, 0, 4, 0, 4, 3]], "area": 3, "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "object"}],
}


def use_coco(path: Path) -> None:
    coco = load_coco(path)
    for image in coco.images:
        if image.height * image.width < 1e6:
            found = coco.instances(image)
            assert found.masks.shape == (len(found), image.height, image.width)


@pytest.mark.slow
@given(place=st.sampled_from(places(WHOLE)), value=JSON)
@example(place=("images", 0, "height"), value=10**9)
@example(place=("annotations", 0, "segmentation"), value={"size": [2**16, 2**16], "counts": "0"})
def test_coco_files_of_other_content(
    tmp_path: Path, hostile: Hostile, place: tuple[Any, ...], value: Any
) -> None:
    path = tmp_path / "coco.json"
    np.save(tmp_path / "coco.embeddings.npy", np.zeros((2, 3), dtype=np.float32))
    path.write_text(json.dumps(replaced(WHOLE, place, value)), encoding="utf-8")
    with hostile("COCO JSON"):
        use_coco(path)
    with hostile("COCO JSON"):
        assert all(isinstance(ref, ImageRef) for ref in find_images(path))


@given(content=damaged(json.dumps(WHOLE).encode()) | st.binary(max_size=64))
@example(content=b"[" * 100_000)
@example(content=b'{"images": [], "annotations": ' + b"[" * 100_000)
def test_coco_files_of_other_bytes(tmp_path: Path, hostile: Hostile, content: bytes) -> None:
    path = tmp_path / "coco.json"
    path.write_bytes(content)
    with hostile("COCO JSON"):
        use_coco(path)
    with hostile("COCO JSON"):
        find_images(path)


@given(content=st.data())
def test_embeddings_of_other_bytes(
    tmp_path: Path, hostile: Hostile, content: st.DataObject
) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 3), dtype=np.float32))
    (tmp_path / "coco.embeddings.npy").write_bytes(content.draw(damaged(buffer.getvalue())))
    (tmp_path / "coco.json").write_text(json.dumps(WHOLE), encoding="utf-8")
    with hostile("embeddings (.npy)"):
        use_coco(tmp_path / "coco.json")


# Run lengths and polygons

SIDES = st.one_of(st.integers(-3, 40), st.sampled_from([2**16, 2**31, 2**62, 10**40]), PLAIN)
LENGTHS = st.one_of(st.integers(-5, 60), st.sampled_from([2**31, 2**32 + 1, 2**63, 10**30]))
COUNTS = st.one_of(
    st.lists(LENGTHS, max_size=12),
    st.text(alphabet=[chr(code) for code in range(46, 114)], max_size=24),
    st.binary(max_size=12),
    JSON,
)


@pytest.mark.slow
@given(size=st.lists(SIDES, min_size=1, max_size=3) | JSON, counts=COUNTS)
@example(size=[1, 1], counts="o" * 1_000_000)
@example(size=[2**15, 2**15], counts=[0] * 99_999 + [2**30])
def test_run_lengths(hostile: Hostile, size: Any, counts: Any) -> None:
    with hostile("run lengths"):
        rle = to_rle({"size": size, "counts": counts})
        height, width = rle["size"]
        if height * width < 1e6:
            mask = decode_mask(rle)
            assert mask.shape == (height, width)
            again = to_rle({"size": [height, width], "counts": rle["counts"]})
            assert (decode_mask(again) == mask).all()


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=20), height=st.integers(1, 12))
def test_whole_run_lengths_are_taken(hostile: Hostile, lengths: list[int], height: int) -> None:
    """What fits is never refused."""
    assume(sum(lengths) > 0)
    lengths[-1] += -sum(lengths) % height
    width = sum(lengths) // height
    values = np.arange(len(lengths)) % 2 == 1
    expected = np.repeat(values, lengths).reshape(width, height).T
    with hostile("run lengths"):
        mask = decode_mask({"size": [height, width], "counts": lengths})
    assert (mask == expected).all()


NUMBERS = st.one_of(
    st.floats(-50, 50), st.sampled_from([1e6, -1e6, 1e300, float("nan"), float("inf"), 10**40])
)
POLYGON = st.lists(NUMBERS, max_size=12) | st.lists(PLAIN, max_size=8) | PLAIN


@given(polygons=st.lists(POLYGON, max_size=4), height=st.integers(1, 40), width=st.integers(1, 40))
@example(polygons=[[0.0, 0.0, 1e6, 1e6] * 500], height=4, width=4)
def test_polygons(hostile: Hostile, polygons: list[Any], height: int, width: int) -> None:
    with hostile("polygons"):
        assert decode_mask(polygons, (height, width)).shape == (height, width)


def test_an_endless_outline_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(DataError, match="an outline of at most"):
        to_rle([[0.0, 0.0, 1e6, 1e6] * 500], (4, 4))
    far = to_rle([[-5e5, -5e5, 5e5, -5e5, 5e5, 5e5]], (4, 4))
    assert far["size"] == [4, 4]


def test_masks_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    size = {"height": 2**14, "width": 2**14}
    rle = {"size": [2**14, 2**14], "counts": [0, 2**28]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", **size}],
        "annotations": [{"image_id": 1, "segmentation": rle}] * 17,
    }
    (tmp_path / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    coco = load_coco(tmp_path / "coco.json")
    with pytest.raises(DataError, match="wanted masks of at most 4294967296 pixels together"):
        coco.masks(coco.images[0])
