"""Images and names of files that somebody made up to do harm."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tests.faults.inputs import damaged

from soloist.config import ReadingConfig
from soloist.data.drawing.overlays import OverlayWriter, overlay_name
from soloist.data.images import image_size, read_image
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError
from soloist.structures import Instances

Hostile = Callable[[str], Any]
pytestmark = pytest.mark.usefixtures("bounded_memory")


def image(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = {
    "JPEG": image("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "PNG": image("PNG"),
    "GIF": image("GIF"),
    "BMP": image("BMP"),
    "TIFF": image("TIFF", compression="tiff_lzw"),
    "PPM": image("PPM"),
    "TGA": image("TGA"),
    "ICO": image("ICO"),
    "PCX": image("PCX"),
    "SGI": image("SGI"),
    "DDS": image("DDS"),
    "WEBP": image("WEBP"),
}


@given(data=st.data(), kind=st.sampled_from(sorted(IMAGES)))
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it mends.
def test_images(tmp_path: Path, hostile: Hostile, data: st.DataObject, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data.draw(damaged(IMAGES[kind])))
    short_side = data.draw(st.none() | st.integers(1, 20))
    with hostile("images"):
        pixels = read_image(path, reading=ReadingConfig(max_pixels=10**7), short_side=short_side)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.size <= 3 * 10**7
    with hostile("images"):
        assert min(image_size(path)) >= 0


def png(width: int, height: int, rows: bytes) -> bytes:
    """A PNG of grey pixels with whatever size in its header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (20_000, 9_000)])
def test_a_image_that_would_fill_the_memory_is_refused(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size, b"\0" * 1000))
    with pytest.raises(DataError, match=r"at most|too large|cannot read"):
        read_image(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to itself"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    for read in (read_image, image_size):
        with pytest.raises(DataError):
            read(path)


# Names

PART = st.one_of(
    st.sampled_from(
        ["..", ".", "", "~", "...", "a", "a.jpg", "C:", "con", "x" * 300, "\udcff.jpg", "-rf", "*"]
    ),
    st.text(alphabet=st.characters(codec=None), max_size=6),
)
NAMES = st.tuples(
    st.lists(PART, min_size=1, max_size=6), st.sampled_from(["/", "\\", "//", "\n", ":"])
).map(lambda parts: parts[1].join(parts[0]))


@given(name=NAMES)
@example(name="/etc/passwd")
@example(name="../../outside.jpg")
@example(name="..\\..\\outside.jpg")
@example(name="C:\\Windows\\a.jpg")
@example(name="a\nb\x00c\udcff.jpg")
@example(name="\ud800.jpg")
def test_images_of_masks_stay_in_their_folder(tmp_path: Path, hostile: Hostile, name: str) -> None:
    base = tmp_path / "out" / "overlays"
    with hostile("path names"):
        inside = overlay_name(name)
        assert not inside.is_absolute()
        assert ".." not in inside.parts
        assert "\0" not in str(inside)
        assert (base / inside).resolve().is_relative_to(base.resolve())
    empty = Instances(
        image_size=(2, 2),
        masks=torch.zeros((0, 2, 2), dtype=torch.bool),
        scores=torch.zeros(0),
        boxes=torch.zeros(0, 4),
        embeddings=torch.zeros(0, 0),
    )
    with hostile("path names"):
        OverlayWriter(base)(ImageRef(Path(name), name), np.zeros((2, 2, 3), np.uint8), empty)
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"overlays"}


@pytest.mark.slow
@given(name=NAMES)
def test_images_are_found_by_any_name(tmp_path: Path, hostile: Hostile, name: str) -> None:
    """Whether they are there or not, nothing but a line comes of it."""
    content = {"images": [{"id": 1, "file_name": name}], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    with hostile("path names"):
        for ref in find_images(tmp_path / "coco.json"):
            read_image(ref.path)
    (tmp_path / "list.txt").write_bytes(name.encode(errors="surrogatepass"))
    with hostile("path names"):
        for ref in find_images(tmp_path / "list.txt"):
            read_image(ref.path)
    if not os.path.isdir(tmp_path / name):
        with hostile("path names"):
            find_images(tmp_path / name)
