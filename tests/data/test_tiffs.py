"""16 bits, many channels and stacks, and how their values become colours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from soloist.config import Config, ReadingConfig
from soloist.data.images import image_size, read_image, read_with_size
from soloist.data.sources import find_images
from soloist.data.stretch import to_rgb8
from soloist.errors import ConfigError, DataError

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
        "auto": [[0, 0, 1], [3, 0, 255]],
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


def test_colour_of_16_bits_is_as_pillow_reads_it_unless_stretched(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", bands(3), photometric="rgb")
    np.testing.assert_array_equal(read_image(path), bands(3) >> 8)
    read = read_image(path, reading=ReadingConfig(stretch="minmax"))
    assert (read.min(), read.max()) == (0, 255)


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
