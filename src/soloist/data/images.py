"""Reading images whatever their kind, as upright RGB."""

from __future__ import annotations

import logging
import os
import re
import stat
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from soloist.config import DEFAULT_READING, ReadingConfig
from soloist.data.kinds import readable_formats, why_not_read
from soloist.data.stretch import to_rgb8
from soloist.data.tiffs import is_tiff, read_tiff, tiff_size
from soloist.errors import DataError
from soloist.runtime.files import LFS_REMEDY, is_lfs_pointer, one_line, shown

logger = logging.getLogger(__name__)

# What Pillow's decoders raise on broken files; AVIF's raises RuntimeError.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# How to undo each EXIF orientation; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
# Pillow's modes whose bands are the channels of the file.
_PLAIN_MODES = {"L", "LA", "RGB", "RGBA", "RGBX", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_JPEG = {6, 7}  # Of a TIFF's compressions.
_DEEP_MODES = {"RGB", "RGBA", "RGBX"}
# Pillow's layouts of colour of 16 bits, of which it keeps 8: the order of bytes is big, little or
# the machine's own.
_DEEP = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# Red, green, blue and transparency.
_MAX_SAMPLES = 4
_PIXELS_WANTED = (
    "pixels must be (H, W) or (H, W, C), of a tensor also (C, H, W), with 1, 3 or 4 channels of "
    "uint8, uint16, or floats in [0, 1]"
)
_pixel_limit_lock = threading.Lock()


def read_image(
    path: str | Path,
    *,
    reading: ReadingConfig = DEFAULT_READING,
    short_side: int | None = None,
) -> NDArray[np.uint8]:
    """Reads an image of any kind as upright RGB; of several frames, the first.

    The EXIF orientation is applied. Transparent pixels are laid over white, as documents and
    browsers show them. Unless `reading` says otherwise, what has more than 8 bits (16- and 32-bit
    integers, floats) is stretched from its own percentiles 0.1 and 99.9 to 0..255, as microscopy
    viewers show it, because 12-bit cameras store almost black 16-bit files, and one hot pixel
    darkens all else; pixels that are not finite become black. Colour of 16 bits a channel that is
    neither TIFF nor PNG has 8 when it is decoded. Colour profiles are ignored.

    Args:
        path: The file.
        reading: Which channels are taken, how they are stretched, and the largest size.
        short_side: Hint that the short side will be resized to this many pixels: a JPEG is
            then decoded at 1/2, 1/4 or 1/8 of its size, but never smaller than the hint.

    Returns:
        (H, W, 3) uint8 RGB; H and W as in the upright file unless `short_side` reduced them.

    Raises:
        DataError: If the file is missing, too large, truncated or not an image, or has too many
            channels and none were chosen.
    """
    return read_with_size(path, reading=reading, short_side=short_side)[0]


def read_with_size(
    path: str | Path,
    *,
    reading: ReadingConfig = DEFAULT_READING,
    short_side: int | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """`read_image`, and the size the file has when it is not reduced.

    Args:
        path: The file.
        reading: As in `read_image`.
        short_side: As in `read_image`.

    Returns:
        pixels: (H, W, 3) uint8 RGB.
        size: Upright (height, width) of the file in pixels, which masks refer to.

    Raises:
        DataError: As `read_image`.
    """
    with _decoding(path), _open(path, reading.max_pixels) as image:
        if image is None or (image.format == "TIFF" and _needs_all_channels(image, reading)):
            values, colour = read_tiff(path, max_pixels=reading.max_pixels)
            pixels = to_rgb8(values, reading, colour=colour)
            return pixels, (pixels.shape[0], pixels.shape[1])
        low_bytes = _low_bytes(image, path)
        width, height = image.size
        if short_side is not None and image.format in ("JPEG", "MPO"):
            scale = short_side / min(width, height)
            if scale < 1:
                image.draft(None, (_ceil(width * scale), _ceil(height * scale)))
        reduced = image.size != (width, height)
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        if low_bytes is not None:
            pixels = _deep_to_rgb(_turned(image, turn), _turned(low_bytes, turn), reading)
        else:
            pixels = to_rgb(_turned(image, turn), reading)
    if reduced:
        return pixels, ((width, height) if turn in _SWAPPING else (height, width))
    return pixels, pixels.shape[:2]


def read_values(path: str | Path, *, reading: ReadingConfig = DEFAULT_READING) -> NDArray[Any]:
    """Reads all channels of an image as they are stored, upright: what intensities are taken of.

    Args:
        path: The file.
        reading: The largest size.

    Returns:
        (H, W, C) of the file's type; palettes become RGB.

    Raises:
        DataError: As `read_image`.
    """
    with _decoding(path), _open(path, reading.max_pixels) as image:
        if image is None or image.format == "TIFF":
            return read_tiff(path, max_pixels=reading.max_pixels)[0]
        low_bytes = _low_bytes(image, path)
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        upright = _turned(image, turn)
        if low_bytes is not None:
            return _joined_bytes(upright, _turned(low_bytes, turn))
        values = np.asarray(upright if upright.mode in _PLAIN_MODES else upright.convert("RGB"))
    return values if values.ndim == 3 else values[..., None]


def image_size(path: str | Path) -> tuple[int, int]:
    """Size of an image with its EXIF orientation applied, mostly from the file's header.

    Args:
        path: The file.

    Returns:
        (height, width) in pixels.

    Raises:
        DataError: If the file is missing or not an image.
    """
    (height, width), orientation = image_header(path)
    return (width, height) if _UPRIGHT.get(orientation) in _SWAPPING else (height, width)


def image_header(path: str | Path) -> tuple[tuple[int, int], int]:
    """Size of an image as it is stored, and how it is to be turned.

    Args:
        path: The file.

    Returns:
        size: (height, width) in pixels.
        orientation: As EXIF numbers it: 1 is upright, 5 to 8 swap height and width.

    Raises:
        DataError: If the file is missing or not an image.
    """
    with _decoding(path), _open(path, max_pixels=None) as image:
        if image is None:
            return tiff_size(path), 1
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Versions of Pillow differ in whether a TIFF's size is upright before loading.
            width = image.tag_v2[TiffImagePlugin.IMAGEWIDTH]
            height = image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        orientation = _orientation(image)
    return (height, width), orientation if orientation in _UPRIGHT else 1


def upright(mask: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """A mask (H, W) of an image as stored, turned as EXIF's orientation turns the image."""
    turn = _UPRIGHT.get(orientation)
    if turn is None:
        return mask
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).transpose(turn)).astype(np.bool_)


def resized_size(size: tuple[int, int], short_side: int, max_side: int) -> tuple[int, int]:
    """The size of an image resized to a short side, its proportions kept.

    Args:
        size: (height, width) in pixels.
        short_side: Wanted short side in pixels.
        max_side: Upper bound of the long side in pixels; it wins over `short_side`.

    Returns:
        (height, width) in pixels, rounded, each at least 1.
    """
    scale = min(short_side / min(size), max_side / max(size))
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


@contextmanager
def _decoding(path: str | Path) -> Iterator[None]:
    """Turns whatever a decoder raises into one line with the file's name and the reason."""
    try:
        yield
    except DataError:
        raise
    except _DECODE_ERRORS as error:
        if isinstance(error, UnidentifiedImageError):
            empty = os.path.getsize(path) == 0
            reason = "the file is empty" if empty else "it is not an image, whatever its suffix"
            known = LFS_REMEDY if is_lfs_pointer(path) else why_not_read(str(path))
            if known is not None and not empty:
                raise DataError(f"cannot read image {shown(path)}: {known}") from error
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = one_line(error)
        missing = isinstance(error, FileNotFoundError)
        remedy = "check its path" if missing else "replace or remove the file"
        raise DataError(f"cannot read image {shown(path)}: {reason}; {remedy}") from error


@contextmanager
def _open(path: str | Path, max_pixels: int | None) -> Iterator[ImageFile.ImageFile | None]:
    """The image, not yet decoded; None for a TIFF of a kind that only `tiffs` reads."""
    # Given a file and not its name, Pillow does not map it into memory, which scrambles
    # uncompressed TIFFs whose orientation swaps height and width (seen with Pillow 13.0).
    # A pipe or a device would be waited for, or never end.
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(
            f"cannot read image {shown(path)}: it is no regular file; replace or remove the file"
        )
    with Path(path).open("rb") as file, ExitStack() as stack:
        try:
            image = stack.enter_context(_open_header(file))
        except UnidentifiedImageError:
            if why_not_read(str(path)) is not None or not _is_other_tiff(path):
                raise
            yield None
            return
        if (reason := why_not_read(str(path))) is not None and image.format == "TIFF":
            # The preview in it, which is all that Pillow sees.
            raise DataError(f"cannot read image {shown(path)}: {reason}")
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            raise DataError(
                f"wanted an image of at most {max_pixels} pixels, got {shown(path)} of {width} x "
                f"{height}; cut it into tiles, or raise --max-pixels if you trust the file"
            )
        yield image


def _open_header(file: BinaryIO) -> ImageFile.ImageFile:
    # This reads the header only. Pillow's own limit is global, and a mere warning up to twice
    # its value: it is lifted for that moment.
    with _pixel_limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(file, formats=readable_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _is_other_tiff(path: str | Path) -> bool:
    """Whether a file that Pillow does not know is a TIFF with an image all the same."""
    if not is_tiff(path):
        return False
    try:
        tiff_size(path)
    except (*_DECODE_ERRORS, AssertionError) as error:
        logger.debug("%s: %s", shown(path), one_line(error))
        return False
    return True


def _needs_all_channels(image: Image.Image, reading: ReadingConfig) -> bool:
    """Whether Pillow would leave out some of what a TIFF has, or of what is wanted of it."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    tags = image.tag_v2
    note = str(tags.get(TiffImagePlugin.IMAGEDESCRIPTION, ""))
    stacked = note.startswith("ImageJ=") and "channels=" in note
    chosen = bool(reading.channels) or reading.stretch != "auto"
    # What a palette, CMYK or JPEG mean only Pillow knows.
    plain = image.mode in _PLAIN_MODES and tags.get(TiffImagePlugin.COMPRESSION) not in _JPEG
    many = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > _MAX_SAMPLES
    # Planes of 16 bits, which Pillow misreads, or of which it keeps 8.
    deep = image.mode in _DEEP_MODES and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8
    planes = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) > 1
    return many or stacked or (plain and (chosen or (deep and planes)))


def _raw_mode(tile: Any) -> str:
    """How Pillow names the layout of the bytes of a tile."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _low_bytes(image: ImageFile.ImageFile, path: str | Path) -> Image.Image | None:
    """The lower bytes of colour of 16 bits, of which Pillow decodes the upper ones alone.

    Args:
        image: The image, not yet decoded.
        path: Its file.

    Returns:
        What Pillow decodes when the order of the bytes is named the wrong way round; None if the
        file is not of this kind.
    """
    layouts = [_DEEP.fullmatch(_raw_mode(tile)) for tile in image.tile]
    if not layouts or None in layouts or "transparency" in image.info:
        return None
    with Path(path).open("rb") as file, _open_header(file) as other:
        tiles: list[Any] = []
        for tile, layout in zip(other.tile, layouts, strict=True):
            assert layout is not None  # None of them is.
            swapped = f"{layout[1]};16{_OTHER_ORDER[layout[2]]}"
            arguments = tile[3]
            changed = (swapped, *arguments[1:]) if isinstance(arguments, tuple) else swapped
            tiles.append((*tile[:3], changed))
        other.tile = tiles
        other.load()
        return other.copy()


def _joined_bytes(upper: Image.Image, lower: Image.Image) -> NDArray[np.uint16]:
    """(H, W, C) uint16 of two images of the same mode."""
    values = np.asarray(upper).astype(np.uint16) * np.uint16(256)
    values += np.asarray(lower)
    return values


def _deep_to_rgb(
    upper: Image.Image, lower: Image.Image, reading: ReadingConfig
) -> NDArray[np.uint8]:
    """`to_rgb` of colour of 16 bits, by its upper and its lower bytes."""
    rgb = to_rgb8(_joined_bytes(upper, lower), reading, colour=True)
    if reading.channels or upper.mode != "RGBA":
        return rgb
    return _opaque(Image.fromarray(np.dstack((rgb, np.asarray(upper)[..., 3]))))


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error):
        return 1  # Broken metadata around sound pixels.
    return value if isinstance(value, int) else 1


def to_rgb(
    image: Image.Image,
    reading: ReadingConfig = DEFAULT_READING,
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a decoded image of any mode, a new array; see `read_image`.

    Raises:
        ValueError: If its colours are in CIE-Lab, or a channel is wanted that is not there.
    """
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return to_rgb8(np.asarray(image)[..., None], reading)
    if reading.channels and mode in _PLAIN_MODES:
        bands = np.asarray(image)
        return to_rgb8(bands.reshape(*bands.shape[:2], -1), reading)
    rgb = _opaque(image)
    return rgb if not reading.channels and reading.stretch == "auto" else to_rgb8(rgb, reading)


def _opaque(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of 8 bits a channel, over white where it is transparent."""
    if image.mode == "LAB":
        raise ValueError("colours in CIE-Lab are not supported, convert it to RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB")).copy()


def is_pixels(source: object) -> bool:
    """Whether a source is an image in memory: an array, a tensor or a Pillow image."""
    return isinstance(source, np.ndarray | Image.Image) or _is_tensor(source)


def own_pixels(source: Any, reading: ReadingConfig = DEFAULT_READING) -> NDArray[np.uint8]:
    """A copy of an image in memory, as (H, W, 3) uint8 RGB.

    Args:
        source: A Pillow image; an array, (H, W) or (H, W, C); or a tensor, (H, W), (C, H, W) or
            (H, W, C). C is 1, 3, or 4 with opacity. Values are uint8, uint16 (read as a file of 16
            bits is) or floats in [0, 1].
        reading: As in `read_image`.

    Raises:
        DataError: If it is of another shape or type, or cannot be converted.
    """
    try:
        if isinstance(source, Image.Image):
            return to_rgb(source, reading)
        values = _plain_array(source) if _is_tensor(source) else np.asarray(source)
        channels = values[..., None] if values.ndim == 2 else values
        known = channels.ndim == 3 and channels.size and channels.shape[2] in (1, 3, 4)
        if not known or channels.dtype.kind not in "uf" or channels.dtype.itemsize > 8:
            raise ValueError(_PIXELS_WANTED)
        if channels.dtype.kind == "f":
            if not (channels.min() >= 0 and channels.max() <= 1):
                raise ValueError(f"{_PIXELS_WANTED}; divide them by their greatest value")
            channels = np.rint(channels * 255).astype(np.uint8)
        if channels.dtype != np.uint8:
            return to_rgb8(channels, reading, colour=True)
        if channels.shape[2] == 3:
            # It is RGB, whatever channels are chosen of files.
            return channels.copy()
        single = channels.shape[2] == 1
        return to_rgb(Image.fromarray(channels[..., 0] if single else channels), reading)
    except DataError:
        raise
    except _DECODE_ERRORS as error:
        got = f"{tuple(source.shape)} {source.dtype}" if hasattr(source, "shape") else source.mode
        raise DataError(f"{one_line(error)}, got {got}") from error


def _is_tensor(source: object) -> bool:
    # By its looks: torch is not imported, and may be absent.
    return hasattr(source, "detach") and hasattr(source, "numpy") and hasattr(source, "ndim")


def _plain_array(tensor: Any) -> NDArray[Any]:
    """A tensor's values as an array, its channels last."""
    if tensor.is_floating_point():
        tensor = tensor.float()
    values: NDArray[Any] = tensor.detach().cpu().numpy()
    first = values.ndim == 3 and values.shape[0] in (1, 3, 4)
    return np.moveaxis(values, 0, -1) if first else values


def _ceil(value: float) -> int:
    return int(-(-value // 1))
