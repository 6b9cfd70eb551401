from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.config import ReadingConfig
from soloist.data import kinds
from soloist.data.images import image_size, read_image, read_with_size, resized_size
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError, RunError
from soloist.runtime.error_log import ErrorLog

RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def put(path: Path, size: tuple[int, int] = (4, 3)) -> Path:
    """A red image of (width, height) at a path whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, RED).save(path)
    return path


def names(refs: list[ImageRef]) -> list[str]:
    return [ref.name for ref in refs]


def write_coco_images(path: Path, *file_names: str) -> Path:
    records = [{"id": 10 + i, "file_name": name} for i, name in enumerate(file_names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": records, "annotations": "never read"}))
    return path


# Finding


def test_a_folder_is_searched_in_order_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.JPG", "a/10.jpeg", ".hidden.png", ".thumbs/x.png", "c.TIF"):
        put(tmp_path / name)
    for name in ("notes.txt", "masks.json", "clip.mpg", "paper.pdf", "stack.h5", "noext"):
        (tmp_path / name).write_text("x")
    refs = find_images(tmp_path)
    assert names(refs) == ["a/10.jpeg", "a/2.JPG", "b.png", "c.TIF"]
    assert [ref.path for ref in refs] == [tmp_path / name for name in names(refs)]
    assert {ref.id for ref in refs} == {None}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("two words.png", id="space"),
        pytest.param("ünï/日本.png", id="not-ascii"),
        pytest.param("a\nb.png", id="line-break"),
        pytest.param("photo [1]*.png", id="glob-characters"),
        pytest.param("UPPER.PNG", id="upper-case-suffix"),
        pytest.param(" '\"$;#%.png", id="shell-characters"),
    ],
)
def test_odd_names_are_found_and_read(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name)
    assert names(find_images(tmp_path)) == [name]
    assert names(find_images(path)) == [path.name]
    assert read_image(find_images(path)[0].path).shape == (3, 4, 3)


def test_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        Path(os.fsdecode(path)).write_bytes(put(tmp_path / "a.bmp").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    ref = find_images(tmp_path)[0]
    assert json.loads(json.dumps(ref.name)) == ref.name
    assert names(find_images(tmp_path)) == ["a.bmp", "\udcff.png"]


def test_a_link_back_to_its_folder_does_not_loop(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a.png")
    put(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    assert names(find_images(tmp_path / "data")) == ["a.png", "more/b.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("*.png", ["1.png"], id="one-folder"),
        pytest.param("**/*.png", ["1.png", "x/2.png", "y/3.png"], id="folders-below"),
        pytest.param("[xy]/*", ["x/2.png", "y/3.png"], id="wildcard-in-a-folder"),
        pytest.param("x/*.png", ["2.png"], id="names-start-after-the-fixed-part"),
    ],
)
def test_a_pattern_gives_matching_images(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("1.png", "x/2.png", "y/3.png"):
        put(tmp_path / name)
    (tmp_path / "x" / "notes.txt").write_text("x")
    assert names(find_images(str(tmp_path / pattern))) == expected


def test_a_relative_pattern_starts_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "x" / "2.png")
    monkeypatch.chdir(tmp_path)
    assert find_images("*/*.png") == [ImageRef(Path("x/2.png"), "x/2.png")]


def test_a_list_gives_its_lines_in_order(tmp_path: Path) -> None:
    absolute = put(tmp_path / "far" / "c.png")
    file = tmp_path / "lists" / "train.txt"
    file.parent.mkdir()
    lines = f"sub/b ü.png\r\n\r\na.png\n../up.png\na.png\n{absolute}"
    file.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    refs = find_images(file)
    assert names(refs) == ["sub/b ü.png", "a.png", "../up.png", absolute.as_posix()]
    assert refs[0].path == tmp_path / "lists" / "sub" / "b ü.png"
    assert refs[3].path == absolute


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("d/x/a.png", id="beside-the-file"),
        pytest.param("d/images/x/a.png", id="in-images"),
        pytest.param("d/instances_val/x/a.png", id="in-the-stem's-folder"),
        pytest.param("val/x/a.png", id="standard-layout"),
    ],
)
def test_images_of_a_coco_file_are_looked_for(tmp_path: Path, place: str) -> None:
    path = put(tmp_path / place)
    file = write_coco_images(tmp_path / "d" / "instances_val.json", "x/absent.png", "x/a.png")
    absent, found = find_images(file)
    assert (found.path.resolve(), found.name, found.id) == (path.resolve(), "x/a.png", 11)
    assert (absent.path.exists(), absent.name, absent.id) == (False, "x/absent.png", 10)


def test_a_coco_file_written_with_backslashes_is_understood(tmp_path: Path) -> None:
    path = put(tmp_path / "x" / "a.png")
    file = write_coco_images(tmp_path / "c.json", "x\\a.png")
    assert find_images(file) == [ImageRef(path, "x\\a.png", 10)]


def test_images_a_coco_file_names_but_nobody_has_fail_one_by_one(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    refs = find_images(write_coco_images(tmp_path / "c.json", "gone.png", "a.png"))
    with pytest.raises(DataError, match=r"gone\.png': No such file"):
        read_image(refs[0].path)
    assert read_image(refs[1].path).shape == (3, 4, 3)


def test_several_sources_follow_each_other_without_duplicates(tmp_path: Path) -> None:
    one, two = put(tmp_path / "p" / "1.png"), put(tmp_path / "q" / "2.png")
    assert names(find_images([one, tmp_path / "q", str(two)])) == ["1.png", "2.png"]


def test_equal_names_of_several_sources_are_distinguished(tmp_path: Path) -> None:
    put(tmp_path / "p" / "1.png")
    put(tmp_path / "q" / "1.png")
    assert names(find_images([tmp_path / "p", tmp_path / "q"])) == ["p/1.png", "q/1.png"]


def test_equal_ids_of_several_coco_files_are_dropped(tmp_path: Path) -> None:
    sources = [
        write_coco_images(tmp_path / "a.json", "1.png"),
        write_coco_images(tmp_path / "b.json", "2.png"),
    ]
    assert [(ref.name, ref.id) for ref in find_images(sources)] == [
        ("1.png", None),
        ("2.png", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("absent", None, "does not exist", id="no-such-path"),
        pytest.param("*.png", None, "matches 0 paths", id="pattern-without-match"),
        pytest.param("empty.txt", b"\n\n", "without any", id="empty-list"),
        pytest.param("binary.txt", b"a\0b", "not text", id="binary-list"),
        pytest.param("c.json", b"{", "not JSON", id="broken-json"),
        pytest.param("c.json", b"\xff\xfe", "not UTF-8", id="json-of-other-encoding"),
        pytest.param("c.json", b"[]", "list `images`", id="result-list"),
        pytest.param("c.json", b'{"images": []}', "list `images`", id="coco-without-images"),
        pytest.param("c.json", b'{"images": [{"id": 1}]}', r"images\[0\]", id="no-file-name"),
        pytest.param(
            "c.json", b'{"images": [{"id": [], "file_name": "a"}]}', r"images\[0\]", id="list-as-id"
        ),
        pytest.param(
            "c.json",
            b'{"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]}',
            r"images\[1\]",
            id="name-twice",
        ),
    ],
)
def test_a_source_that_cannot_be_used_is_reported_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        find_images(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.NEF", "b.cr2", "c.dng"])
def test_raw_files_are_counted_and_not_taken_for_their_preview(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    preview = Image.new("RGB", (16, 12))
    preview.save(tmp_path / name, format="TIFF")
    preview.save(tmp_path / "plain.jpg")
    assert [ref.name for ref in find_images(tmp_path)] == ["plain.jpg"]
    message = f"left out 1 RAW files (such as '{name}': export them as TIFF or JPEG)"
    assert message in caplog.text
    assert [ref.name for ref in find_images(str(tmp_path / "*"))] == ["plain.jpg"]
    assert caplog.text.count(message) == 2
    for read in (read_image, image_size):
        with pytest.raises(DataError, match="a camera's RAW file; export it as TIFF or JPEG"):
            read(tmp_path / name)
    (tmp_path / "plain.jpg").unlink()
    with pytest.raises(DataError, match=r"none in it or below \(1 RAW files"):
        find_images(tmp_path)


def test_heic_is_counted_where_it_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kinds, "readable_formats", lambda: ("JPEG", "PNG", "TIFF"))
    kinds._suffixes.cache_clear()
    for number in range(3):
        (tmp_path / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    Image.new("RGB", (16, 12)).save(tmp_path / "plain.jpg")
    try:
        assert [ref.name for ref in find_images(tmp_path)] == ["plain.jpg"]
    finally:
        kinds._suffixes.cache_clear()
    assert "left out 3 HEIC files (such as 'IMG_0.HEIC': pip install pillow-heif)" in caplog.text
    with pytest.raises(DataError, match="it is a HEIC file; pip install pillow-heif"):
        read_image(tmp_path / "IMG_0.HEIC")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="wants pillow-heif")
    pixels = np.zeros((60, 80, 3), dtype=np.uint8)
    pixels[10:30, 20:70] = 200
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "a.heic", quality=-1)
    (found,) = find_images(tmp_path)
    assert image_size(found.path) == (60, 80)
    assert np.abs(read_image(found.path).astype(int) - pixels).mean() < 2


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="with none in it or below"):
        find_images(tmp_path)


def test_no_source_at_all_is_reported() -> None:
    with pytest.raises(DataError, match="got none"):
        find_images([])


# Reading


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, pixels)
    assert read.flags.writeable


def _palette_with_transparency() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*GREEN, *BLACK])
    image.putdata([0, 1])
    image.info["transparency"] = 1
    return image


def _sixteen_bit() -> Image.Image:
    return Image.fromarray(np.array([[1000, 3000]], dtype=np.uint16))


def _floats() -> Image.Image:
    return Image.fromarray(np.array([[-0.5, 1.5]], dtype=np.float32))


def _bilevel() -> Image.Image:
    return Image.fromarray(np.array([[False, True]]))


@pytest.mark.parametrize(
    ("make", "name", "left", "right"),
    [
        pytest.param(lambda: Image.new("L", (2, 1), 7), "a.png", (7,) * 3, (7,) * 3, id="grey"),
        pytest.param(_bilevel, "a.png", BLACK, WHITE, id="one-bit"),
        pytest.param(
            _palette_with_transparency, "a.png", GREEN, WHITE, id="palette-with-transparency"
        ),
        pytest.param(_palette_with_transparency, "a.gif", GREEN, WHITE, id="gif-with-transparency"),
        pytest.param(
            lambda: Image.new("RGBA", (2, 1), (255, 0, 0, 51)),
            "a.png",
            (255, 204, 204),
            (255, 204, 204),
            id="alpha-over-white",
        ),
        pytest.param(
            lambda: Image.new("LA", (2, 1), (0, 0)), "a.png", WHITE, WHITE, id="grey-with-alpha"
        ),
        pytest.param(
            lambda: Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "a.tif", RED, RED, id="cmyk"
        ),
        pytest.param(_sixteen_bit, "a.png", BLACK, WHITE, id="16-bit-png-is-stretched"),
        pytest.param(_sixteen_bit, "a.tif", BLACK, WHITE, id="16-bit-tiff-is-stretched"),
        pytest.param(_floats, "a.tiff", BLACK, WHITE, id="float-tiff-is-stretched"),
    ],
)
def test_every_kind_of_image_becomes_rgb(
    tmp_path: Path,
    make: Callable[[], Image.Image],
    name: str,
    left: tuple[int, ...],
    right: tuple[int, ...],
) -> None:
    make().save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8
    assert read.shape == (1, 2, 3)
    assert [tuple(pixel) for pixel in read[0].tolist()] == [left, right]


def test_a_cmyk_jpeg_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[4, 4], RED, atol=8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([[5, 5]], [0, 0], id="constant-is-black"),
        pytest.param([[0, 2**31 - 1]], [0, 255], id="32-bit"),
        pytest.param([[100, 101]], [0, 255], id="narrow-range"),
    ],
)
def test_integers_are_stretched(
    tmp_path: Path, values: list[list[int]], expected: list[int]
) -> None:
    Image.fromarray(np.array(values, dtype=np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([[1.0, np.nan, 3.0, np.inf]], [0, 0, 255, 0], id="not-finite-is-black"),
        pytest.param([[np.nan, np.nan]], [0, 0], id="nothing-finite"),
    ],
)
def test_floats_are_stretched(
    tmp_path: Path, values: list[list[float]], expected: list[int]
) -> None:
    Image.fromarray(np.array(values, dtype=np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == expected


# Where the EXIF orientation puts the pixels 0 1 2 / 3 4 5 of the file (EXIF 2.3, tag 0x0112).
UPRIGHT = [
    pytest.param(1, [[0, 1, 2], [3, 4, 5]], id="1-upright"),
    pytest.param(2, [[2, 1, 0], [5, 4, 3]], id="2-mirrored"),
    pytest.param(3, [[5, 4, 3], [2, 1, 0]], id="3-upside-down"),
    pytest.param(4, [[3, 4, 5], [0, 1, 2]], id="4-flipped"),
    pytest.param(5, [[0, 3], [1, 4], [2, 5]], id="5-transposed"),
    pytest.param(6, [[3, 0], [4, 1], [5, 2]], id="6-clockwise"),
    pytest.param(7, [[5, 2], [4, 1], [3, 0]], id="7-transverse"),
    pytest.param(8, [[2, 5], [1, 4], [0, 3]], id="8-counter-clockwise"),
    pytest.param(99, [[0, 1, 2], [3, 4, 5]], id="99-nonsense"),
]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("orientation", "expected"), UPRIGHT)
def test_exif_orientation_is_applied(
    tmp_path: Path, suffix: str, orientation: int, expected: list[list[int]]
) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(path, exif=exif.tobytes())
    assert read_image(path)[:, :, 0].tolist() == expected
    assert image_size(path) == np.array(expected).shape


def test_broken_exif_around_sound_pixels_is_ignored(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg", exif=b"Exif\0\0broken metadata")
    assert read_image(tmp_path / "a.jpg").shape == (3, 4, 3)


def test_the_first_of_several_frames_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (GREEN, RED)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert tuple(read_image(tmp_path / "a.tif")[0, 0]) == GREEN


@pytest.mark.parametrize(
    ("size", "short_side", "read_shape"),
    [
        pytest.param((640, 320), 80, (80, 160, 3), id="a-quarter"),
        pytest.param((640, 320), 81, (160, 320, 3), id="never-below-the-hint"),
        pytest.param((640, 320), 400, (320, 640, 3), id="never-enlarged"),
        pytest.param((640, 320), 1, (40, 80, 3), id="an-eighth-at-most"),
    ],
)
def test_a_jpeg_is_decoded_smaller_on_a_hint(
    tmp_path: Path, size: tuple[int, int], short_side: int, read_shape: tuple[int, ...]
) -> None:
    pixels, full = read_with_size(put(tmp_path / "a.jpg", size), short_side=short_side)
    assert (pixels.shape, full) == (read_shape, (320, 640))


def test_a_turned_jpeg_keeps_its_upright_size_when_reduced(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 320)).save(tmp_path / "a.jpg", exif=exif.tobytes())
    pixels, full = read_with_size(tmp_path / "a.jpg", short_side=80)
    assert (pixels.shape, full) == ((160, 80, 3), (640, 320))


@pytest.mark.parametrize(
    "size", [pytest.param((1, 1), id="one-pixel"), pytest.param((12_000, 40), id="panorama")]
)
@pytest.mark.parametrize("name", ["a.png", "a.JPG"])
def test_extreme_sizes_are_read(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    path = put(tmp_path / name, size)
    assert read_image(path).shape == (size[1], size[0], 3)
    assert image_size(path) == (size[1], size[0])


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = path.with_name(f"whole{path.suffix}")
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    whole.unlink()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        pytest.param("a.jpg", _truncated, "truncated", id="truncated-jpeg"),
        pytest.param("a.png", _truncated, "truncated", id="truncated-png"),
        pytest.param("a.webp", _truncated, "", id="truncated-webp"),
        pytest.param("a.tif", _truncated, "", id="truncated-tiff"),
        pytest.param(
            "t.jpg", lambda path: path.write_text("hello"), "not an image", id="text-called-jpg"
        ),
        pytest.param("e.jpg", lambda path: path.write_bytes(b""), "empty", id="empty-file"),
        pytest.param("d.jpg", lambda path: path.mkdir(), "directory", id="folder-called-jpg"),
        pytest.param("gone.jpg", lambda path: None, "No such file", id="absent"),
        pytest.param(
            "v.jpg",
            lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
            "not an image",
            id="postscript-is-never-run",
        ),
        pytest.param("l\n.tif", lambda path: Image.new("LAB", (2, 2)).save(path), "Lab", id="lab"),
    ],
)
def test_a_broken_image_is_reported_in_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], object], reason: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / name)
    message = str(caught.value)
    assert message.startswith("cannot read image ")
    assert repr(name)[1:] in message
    assert reason.lower() in message.lower()
    assert "\n" not in message


@pytest.mark.parametrize(
    ("max_pixels", "fits"),
    [
        pytest.param(100, True, id="at-the-limit"),
        pytest.param(99, False, id="above-the-limit"),
        pytest.param(10**12, True, id="far-below-the-limit"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_large_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pixels: int, fits: bool
) -> None:
    # Pillow's own limit must not stand in the way of ours, nor be changed for others.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = put(tmp_path / "a.png", (20, 5))
    reading = ReadingConfig(max_pixels=max_pixels)
    if fits:
        assert read_image(path, reading=reading).shape == (5, 20, 3)
    else:
        with pytest.raises(DataError, match=r"at most 99 pixels, got .*20 x 5; cut it"):
            read_image(path, reading=reading)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (1, 1)).save(tmp_path / "bomb.bmp")
    data = bytearray((tmp_path / "bomb.bmp").read_bytes())
    data[18:26] = np.array([60_000, 60_000], dtype="<i4").tobytes()
    (tmp_path / "bomb.bmp").write_bytes(data)
    with pytest.raises(DataError, match="60000 x 60000"):
        read_image(tmp_path / "bomb.bmp")


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        pytest.param((480, 640), 800, 1333, (800, 1067), id="short-side-decides"),
        pytest.param((320, 640), 800, 1333, (667, 1333), id="long-side-decides"),
        pytest.param((640, 480), 240, 1333, (320, 240), id="portrait"),
        pytest.param((10, 12_000), 800, 1333, (1, 1333), id="at-least-one-pixel"),
        pytest.param((1, 1), 448, 448, (448, 448), id="one-pixel"),
        pytest.param((5, 5), 5, 5, (5, 5), id="as-it-is"),
    ],
)
def test_resized_size(
    size: tuple[int, int], short_side: int, max_side: int, expected: tuple[int, int]
) -> None:
    assert resized_size(size, short_side, max_side) == expected


# Errors


def test_failures_are_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "errors.jsonl"
    log = ErrorLog(path)
    assert (log.count, path.exists()) == (0, False)
    log.add("a\nü.jpg", "masks", DataError("two\nlines"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"image": "a\nü.jpg", "stage": "masks", "error": "two lines"}
    ]


def test_an_image_is_listed_once_also_after_resuming(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    log = ErrorLog(path)
    log.add("a.jpg", "masks", DataError("x"))
    log.add("a.jpg", "train", DataError("y"))
    resumed = ErrorLog(path)
    resumed.add("a.jpg", "masks", DataError("z"))
    resumed.add("b.jpg", "masks", DataError("z"))
    assert (log.count, resumed.count) == (1, 2)
    assert resumed.images == {"a.jpg", "b.jpg"}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["image"], line["error"]) for line in lines] == [("a.jpg", "x"), ("b.jpg", "z")]


def test_a_line_cut_off_by_a_crash_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    path.write_text('{"image": "a.jpg", "stage": "masks", "error": "x"}\n{"image": "b.j')
    log = ErrorLog(path)
    log.add("b.jpg", "masks", DataError("y"))
    assert log.images == {"a.jpg", "b.jpg"}
    assert json.loads(path.read_text().splitlines()[-1])["image"] == "b.jpg"


def test_without_a_file_failures_are_counted(tmp_path: Path) -> None:
    log = ErrorLog(None)
    log.add("a.jpg", "predict", DataError("x"))
    assert log.count == 1
    assert list(tmp_path.iterdir()) == []


def test_an_error_log_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        ErrorLog(tmp_path / "file" / "errors.jsonl").add("a.jpg", "masks", DataError("x"))
