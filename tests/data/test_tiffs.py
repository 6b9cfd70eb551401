"""16 bits, many channels and stacks, and how their values become colours."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from soloist.config import Config, ReadingConfig
from soloist.config.reading import Stretch
from soloist.data.images import image_size, read_image, read_values, read_with_size
from soloist.data.sources import find_images
from soloist.data.stretch import to_rgb8
from soloist.errors import ConfigError, DataError

STRETCHES: tuple[Stretch, ...] = ("auto", "minmax", "none", "percentile")
RAMP = np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000


def bands(count: int, dtype: Any = np.uint16) -> NDArray[Any]:
    """(2, 3, count): band k is the ramp 0 1 2 / 3 4 5 times 1000, plus k."""
    return np.stack([RAMP + k for k in range(count)], axis=-1).astype(dtype)


def write(path: Path, values: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, values, **options)
    return path


# Values


def test_each_stretch_by_hand() -> None:
    values = np.array([[[0, 100, 256], [1000, 100, 65535]]], dtype=np.uint16)
    expected = {
        "none": [[0, 0, 1], [3, 0, 255]],
        # From the percentile 0.1, which is 0, to 99.9, 0.995 of the way from 1000 to 65535.
        "auto": [[0, 0, 1], [4, 0, 255]],
        "minmax": [[0, 0, 1], [4, 0, 255]],
        "percentile": [[0, 0, 0], [255, 0, 255]],
    }
    for stretch, wanted in expected.items():
        reading = ReadingConfig(stretch=stretch, percentiles=(0, 100))  # type: ignore[arg-type]
        assert to_rgb8(values, reading)[0].tolist() == wanted, stretch


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        pytest.param(np.uint8, [0, 7, 255], [0, 7, 255], id="8-bit"),
        pytest.param(np.int8, [-5, 64, 127], [0, 128, 254], id="signed-8-bit"),
        pytest.param(np.uint16, [255, 256, 65535], [0, 1, 255], id="16-bit"),
        pytest.param(np.int16, [-3, 128, 32767], [0, 1, 255], id="signed-16-bit"),
        pytest.param(np.uint32, [0, 2**24, 2**32 - 1], [0, 1, 255], id="32-bit"),
        pytest.param(np.float32, [-1, 0.5, 2], [0, 128, 255], id="float"),
        pytest.param(np.float64, [np.nan, 1, np.inf], [0, 255, 0], id="not-finite-is-black"),
        pytest.param(np.bool_, [0, 1, 1], [0, 255, 255], id="bits"),
    ],
)
def test_the_whole_range_of_a_type(dtype: Any, values: list[float], expected: list[int]) -> None:
    row = np.array(values).astype(dtype).reshape(1, -1, 1)
    assert to_rgb8(row, ReadingConfig(stretch="none"))[0, :, 0].tolist() == expected


def test_percentiles_forget_what_is_rare() -> None:
    values = np.full((100, 100, 1), 500, dtype=np.uint16)
    values[:50] = 100
    values[0, 0], values[0, 1] = 65535, 0
    black, white = (
        to_rgb8(values, ReadingConfig(stretch="percentile"))[row, 50, 0] for row in (10, 60)
    )
    assert (black, white) == (0, 255)


def ramp(least: int, most: int, *shape: int) -> NDArray[np.uint16]:
    """Values in even steps, as uint16 of a shape."""
    return np.linspace(least, most, math.prod(shape)).astype(np.uint16).reshape(shape)


def test_one_hot_pixel_leaves_grey_of_16_bits_its_levels() -> None:
    values = ramp(200, 1999, 100, 100, 1)
    values[50, 50] = 65535
    grey = to_rgb8(values, ReadingConfig())[..., 0]
    assert len(np.unique(grey)) == 256
    assert grey[50, 50] == 255


def test_colour_of_12_bits_in_16_has_all_levels_and_keeps_its_hues() -> None:
    values = np.stack([ramp(0, most, 64, 64) for most in (4095, 2047, 1023)], axis=-1)
    rgb = to_rgb8(values, ReadingConfig())
    assert len(np.unique(rgb[..., 0])) == 256
    # All but what the percentiles cut off.
    red, green, blue = (rgb[:-1, :, channel].astype(int) for channel in range(3))
    assert np.abs(green * 2 - red).max() <= 6
    assert np.abs(blue * 4 - red).max() <= 12


def test_colour_that_uses_16_bits_hardly_changes() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (90, 90, 3), dtype=np.uint16)
    assert np.abs(to_rgb8(values, ReadingConfig()).astype(int) - (values >> 8)).max() <= 2


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        pytest.param({}, {0: 0}, id="constant"),
        pytest.param({1: 9}, {0: 0, 9: 255}, id="one-pixel"),
        pytest.param({3: 1000, 4: 2000}, {0: 0, 1000: 128, 2000: 255}, id="tiny-spots"),
        pytest.param({900: 1, 1800: 2}, {0: 0, 1: 128, 2: 255}, id="label-map"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_few_values_are_all_told_apart(
    objects: dict[int, int], expected: dict[int, int], dtype: Any
) -> None:
    values = np.zeros(10_000, dtype=dtype)
    for first, (count, value) in enumerate(objects.items()):
        values[first * 4000 : first * 4000 + count] = value
    grey = to_rgb8(values.reshape(100, 100, 1), ReadingConfig())[..., 0].ravel()
    assert {int(value): int(level) for value, level in zip(values, grey, strict=True)} == expected


def test_spots_rarer_than_the_percentiles_are_white_beside_noise() -> None:
    values = np.random.default_rng(0).integers(90, 110, (200, 200, 1)).astype(np.uint16)
    values[100:104, 100:105] = 3000  # 0.05 % of the pixels.
    grey = to_rgb8(values, ReadingConfig())[..., 0]
    assert (grey[100:104, 100:105] == 255).all()
    assert np.median(grey) < 140


def test_floats_that_are_not_finite_count_for_no_percentile() -> None:
    values = np.linspace(-2, 3, 10_000, dtype=np.float32).reshape(100, 100, 1)
    values[0, 0], values[0, 1], values[0, 2:60] = np.inf, -np.inf, np.nan
    grey = to_rgb8(values, ReadingConfig())[..., 0]
    assert grey[0, :60].max() == 0
    assert len(np.unique(grey)) == 256


def test_percentiles_of_a_large_image_are_those_of_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (200, 300, 3), dtype=np.uint16)
    reading = ReadingConfig(stretch="percentile")
    whole = to_rgb8(values, reading).astype(int)
    monkeypatch.setattr("soloist.data.stretch._MAX_SORTED", 5000)
    monkeypatch.setattr("soloist.data.stretch._BLOCK", 1000)
    assert np.abs(to_rgb8(values, reading) - whole).max() <= 6


def test_colours_keep_their_hue_by_minmax_alone() -> None:
    values = np.array([[[10, 20, 40], [0, 0, 0]]], dtype=np.uint8)
    for stretch, expected in (("minmax", [64, 128, 255]), ("percentile", [255, 255, 255])):
        reading = ReadingConfig(stretch=stretch, percentiles=(0, 100))  # type: ignore[arg-type]
        assert to_rgb8(values, reading)[0, 0].tolist() == expected


# Files


@pytest.mark.parametrize(
    ("values", "options"),
    [
        pytest.param(bands(5), {"photometric": "minisblack", "planarconfig": "contig"}, id="pixel"),
        pytest.param(
            bands(5).transpose(2, 0, 1),
            {"photometric": "minisblack", "planarconfig": "separate"},
            id="planes",
        ),
        pytest.param(bands(5, np.uint8), {"photometric": "rgb", "planarconfig": "contig"},
                     id="rgb"),
        pytest.param(bands(5, np.float32), {"planarconfig": "contig"}, id="floats"),
        pytest.param(bands(5).transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}},
                     id="imagej"),
        pytest.param(bands(5)[None].transpose(0, 3, 1, 2).repeat(2, axis=0),
                     {"imagej": True, "metadata": {"axes": "ZCYX"}}, id="imagej-stack"),
        pytest.param(bands(5).transpose(2, 0, 1),
                     {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"},
                     id="ome"),
    ],
)  # fmt: skip
def test_channels_are_chosen_of_many(
    tmp_path: Path, values: NDArray[Any], options: dict[str, Any]
) -> None:
    path = write(tmp_path / ("a.ome.tif" if "ome" in options else "a.tif"), values, **options)
    assert image_size(path) == (2, 3)
    read = read_image(path, reading=ReadingConfig(channels=(4, 2, 0), stretch="minmax"))
    chosen = np.stack([bands(5)[..., k] for k in (4, 2, 0)], axis=-1).astype(values.dtype)
    np.testing.assert_array_equal(read, to_rgb8(chosen, ReadingConfig(stretch="minmax")))
    grey = read_image(path, reading=ReadingConfig(channels=(3,)))
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize(
    ("count", "dtype"), [(2, np.uint16), (4, np.uint16), (5, np.uint8), (7, np.float32)]
)
def test_too_many_channels_are_reported_in_one_line(tmp_path: Path, count: int, dtype: Any) -> None:
    path = write(tmp_path / "a.tif", bands(count, dtype), photometric="minisblack",
                 planarconfig="contig")  # fmt: skip
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert f"it has {count} channels; choose three or one, as by --channels" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=f"{count} channels, 0 to {count - 1}, wanted {count}"):
        read_image(path, reading=ReadingConfig(channels=(count,)))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colour_of_16_bits_is_read_with_all_of_them(
    tmp_path: Path, byteorder: Any, planes: str, compression: str | None
) -> None:
    colours = ramp(0, 4095, 30, 40, 3)
    path = write(tmp_path / "a.tif", colours if planes == "contig" else colours.transpose(2, 0, 1),
                 photometric="rgb", byteorder=byteorder, planarconfig=planes,
                 compression=compression)  # fmt: skip
    for stretch in STRETCHES:
        reading = ReadingConfig(stretch=stretch)
        np.testing.assert_array_equal(read_image(path, reading=reading), to_rgb8(colours, reading))
    assert len(np.unique(read_image(path))) == 256


def write_deep_png(path: Path, values: NDArray[np.uint16]) -> Path:
    """A PNG with colour of 16 bits, (H, W, 3) or with opacity (H, W, 4), which Pillow cannot write.

    Each row is stored as its difference to the pixel on the left, as most writers do.
    """
    height, width, channels = values.shape
    pixels = values.astype(">u2").view(np.uint8).reshape(height, width, 2 * channels)
    left = np.pad(pixels, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    rows = [b"\1" + row.tobytes() for row in pixels - left]
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + checksum
    path.write_bytes(content)
    return path


def test_colour_of_16_bits_in_a_png_is_read_with_all_of_them(tmp_path: Path) -> None:
    colours = ramp(0, 4095, 30, 40, 3)
    path = write_deep_png(tmp_path / "a.png", colours)
    np.testing.assert_array_equal(read_values(path), colours)
    for stretch in STRETCHES:
        reading = ReadingConfig(stretch=stretch)
        np.testing.assert_array_equal(read_image(path, reading=reading), to_rgb8(colours, reading))
    grey = read_image(path, reading=ReadingConfig(channels=(1,)))
    np.testing.assert_array_equal(grey, to_rgb8(colours[..., 1:2], ReadingConfig()))


def test_what_is_transparent_in_a_deep_png_is_white(tmp_path: Path) -> None:
    colours = ramp(0, 4095, 30, 40, 3)
    opacity = np.full((30, 40, 1), 65535, dtype=np.uint16)
    opacity[:10] = 0
    read = read_image(write_deep_png(tmp_path / "a.png", np.dstack((colours, opacity))))
    assert (read[:10] == 255).all()
    np.testing.assert_array_equal(read[10:], to_rgb8(colours, ReadingConfig())[10:])


def test_other_files_are_stretched_and_chosen_of_too(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [110, 20, 30, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(RAMP).save(tmp_path / "b.png")
    red = read_image(tmp_path / "a.png", reading=ReadingConfig(channels=(0,)))
    assert red[0].tolist() == [[10] * 3, [110] * 3]
    wide = read_image(tmp_path / "a.png", reading=ReadingConfig(stretch="minmax"))
    assert wide[0].tolist() == [[0, 26, 51], [255, 26, 51]]
    plain = read_image(tmp_path / "b.png", reading=ReadingConfig(stretch="none"))
    np.testing.assert_array_equal(plain[..., 0], RAMP >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stacks_are_turned_as_pillow_turns_images(tmp_path: Path, orientation: int) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tags = [(274, "H", 1, orientation, True)]
    plain = write(tmp_path / "plain.tif", values, extratags=tags)
    many = write(tmp_path / "many.tif", np.stack([values] * 5, axis=-1), extratags=tags,
                 photometric="minisblack", planarconfig="contig")  # fmt: skip
    wanted, size = read_with_size(plain)
    read, own_size = read_with_size(many, reading=ReadingConfig(channels=(0, 1, 2)))
    np.testing.assert_array_equal(read, wanted)
    assert (own_size, image_size(many)) == (size, size)


def test_large_stacks_are_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tif", bands(5), photometric="minisblack", planarconfig="contig")
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    with pytest.raises(DataError, match=r"at most 5 pixels, got .*3 x 2"):
        read_image(path, reading=ReadingConfig(channels=(0,), max_pixels=5))


def test_a_codec_that_is_absent_is_reported_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.tif", bands(5), photometric="minisblack", planarconfig="contig")

    def absent(*_: Any, **__: Any) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", absent)
    with pytest.raises(DataError, match=r"needs imagecodecs; pip install imagecodecs$"):
        read_image(path, reading=ReadingConfig(channels=(0,)))


@pytest.mark.parametrize("keep", [4, 8, 40, 200])
def test_a_damaged_stack_is_one_line(tmp_path: Path, keep: int) -> None:
    whole = write(tmp_path / "a.tif", np.zeros((90, 90, 5), np.uint16), photometric="minisblack",
                  planarconfig="contig").read_bytes()  # fmt: skip
    (tmp_path / "b.tif").write_bytes(whole[:keep])
    for reading in (ReadingConfig(), ReadingConfig(channels=(0,))):
        with pytest.raises(DataError) as caught:
            read_image(tmp_path / "b.tif", reading=reading)
        assert "\n" not in str(caught.value)


def test_small_images_of_usual_kinds_never_need_tifffile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tif", bands(3, np.uint8), photometric="rgb")
    monkeypatch.setattr(tifffile, "TiffFile", None)
    assert read_image(tmp_path / "a.tif").shape == (2, 3, 3)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"channels": (0, 1)}, "one or three numbers from 0 on, got (0, 1)", id="two"),
        pytest.param({"channels": (0, 1, -1)}, "one or three numbers from 0 on", id="negative"),
        pytest.param({"percentiles": (5.0, 5.0)}, "must rise within 0 to 100", id="percentiles"),
        pytest.param({"max_pixels": 0}, "reading.max_pixels must be at least 1", id="pixels"),
    ],
)
def test_options_out_of_range_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ReadingConfig(**options)
    assert message in str(caught.value)


def test_found_images_know_how_they_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", bands(5), photometric="minisblack", planarconfig="contig")
    reading = ReadingConfig(channels=(0,))
    assert [ref.reading for ref in find_images(tmp_path, reading)] == [reading]
    assert [ref.reading for ref in find_images([tmp_path])] == [ReadingConfig()]
    assert asdict(Config())["reading"] == asdict(ReadingConfig())


def test_a_fourth_channel_beside_colour_is_left_out(tmp_path: Path) -> None:
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": "contig"}
    four = write(tmp_path / "a.tif", bands(4), **options)
    np.testing.assert_array_equal(
        read_image(four, reading=ReadingConfig(stretch="none")), bands(4)[..., :3] >> 8
    )
    five = write(tmp_path / "b.tif", bands(5), **options)
    with pytest.raises(DataError, match="has 5 channels; choose"):
        read_image(five)
