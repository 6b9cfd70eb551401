"""Surfaces for generated scenes, cut from the photographs that ship inside scikit-image.

The files are read from the installed package: nothing is downloaded. Each photo is divided in two
parts, so that no pixel of a train scene appears in a val scene.
"""

from __future__ import annotations

import colorsys
import functools
import importlib.util
import math
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from soloist.data.scene_shapes import Floats

Split = Literal["train", "val"]

_TRAIN_PART = 0.6
"""The first part of each photo's longer side belongs to train, the remainder to val."""

_PHOTO_SIDE = 640
"""Longest side of a decoded photo part: enough for every crop, and quick to resample."""

_TEXTURES = ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png")
_SIGHTS = (
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
)

BACKGROUND_PHOTOS = (*_TEXTURES, *_SIGHTS)
OBJECT_PHOTOS = (*BACKGROUND_PHOTOS, "coins.png", "moon.png", "retina.jpg")

_TEXTURE_ZOOM = (0.45, 1.0)
_SIGHT_ZOOM = (0.25, 0.65)
"""A background that shows a whole thing would hold an object that no mask covers."""

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Brightness and two colour axes; turning the latter turns the hue."""

_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@functools.cache
def available(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the photos that this release of scikit-image bundles."""
    found = tuple(name for name in names if (_photo_folder() / name).is_file())
    if len(found) < 6:
        raise FileNotFoundError(
            f"wanted at least 6 of {', '.join(names)} in {_photo_folder()}, got {len(found)}: "
            "reinstall scikit-image"
        )
    return found


@functools.cache
def _photo_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("scikit-image is not installed: pip install scikit-image")
    return Path(spec.origin).parent / "data"


@functools.cache
def photo_box(name: str, split: Split) -> tuple[int, int, int, int]:
    """The (left, top, right, bottom) box of a bundled photo that belongs to a split."""
    with Image.open(_photo_folder() / name) as file:
        width, height = file.size
    if width > height:
        cut = round(width * _TRAIN_PART)
        return (0, 0, cut, height) if split == "train" else (cut, 0, width, height)
    cut = round(height * _TRAIN_PART)
    return (0, 0, width, cut) if split == "train" else (0, cut, width, height)


@functools.cache
def _photo(name: str, split: Split) -> Image.Image:
    """The split's part of a bundled photo, RGB."""
    with Image.open(_photo_folder() / name) as file:
        # Cropped before it is made smaller, so that no pixel mixes the two splits.
        part = file.convert("RGB").crop(photo_box(name, split))
    part.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE), Image.Resampling.LANCZOS)
    return part


def crop(
    rng: np.random.Generator,
    name: str,
    split: Split,
    size: tuple[int, int],
    zoom: tuple[float, float],
) -> Floats:
    """Cut a randomly turned, flipped and scaled window of a photo part.

    Args:
        rng: Source of every choice.
        name: File name of the photo.
        split: Which part of it.
        size: (height, width) of the result.
        zoom: Range of the scale, as fractions of the largest window that fits.

    Returns:
        (height, width, 3) float32 in [0, 1].
    """
    photo = _photo(name, split)
    height, width = size
    angle = math.pi / 2 * int(rng.integers(4))
    if rng.random() < 0.5:
        angle += rng.uniform(-0.25, 0.25)
    cos, sin = math.cos(angle), math.sin(angle)
    spread_x = width * abs(cos) + height * abs(sin)
    spread_y = width * abs(sin) + height * abs(cos)
    largest = min((photo.width - 2) / spread_x, (photo.height - 2) / spread_y)
    # Past 1.5 source pixels per pixel, bilinear sampling would alias.
    scale = min(largest * rng.uniform(*zoom), 1.5)
    centre_x = photo.width / 2 + rng.uniform(-0.5, 0.5) * (photo.width - 2 - scale * spread_x)
    centre_y = photo.height / 2 + rng.uniform(-0.5, 0.5) * (photo.height - 2 - scale * spread_y)
    flip = 1 if rng.random() < 0.5 else -1
    a, b, d, e = scale * cos * flip, -scale * sin, scale * sin * flip, scale * cos
    offset_x = centre_x - a * width / 2 - b * height / 2
    offset_y = centre_y - d * width / 2 - e * height / 2
    window = photo.transform(
        (width, height),
        Image.Transform.AFFINE,
        (a, b, offset_x, d, e, offset_y),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(np.asarray(window, dtype=np.float32) / 255.0)


def colour(rng: np.random.Generator, saturation: tuple[float, float]) -> Floats:
    """(3,) a random colour in [0, 1]."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(0.25, 0.95))
    return np.array(rgb, dtype=np.float32)


def recolour(
    rng: np.random.Generator, pixels: Floats, turn: float, saturation: tuple[float, float]
) -> Floats:
    """Turn the hues, scale the saturation, and change contrast, tint and brightness.

    Args:
        rng: Source of every choice.
        pixels: (H, W, 3) float32 in [0, 1].
        turn: Largest turn of the hue, in radians.
        saturation: Range of the factor on the saturation.

    Returns:
        (H, W, 3) float32, at places a little outside [0, 1].
    """
    angle, factor = rng.uniform(-turn, turn), rng.uniform(*saturation)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    rotation = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    contrast = rng.uniform(0.7, 1.3)
    matrix = _FROM_YIQ @ rotation @ _TO_YIQ * rng.uniform(0.8, 1.2, (3, 1)) * contrast
    mean = _sample(pixels).mean(axis=0) @ matrix.T / contrast
    shift = mean * (1.0 - contrast) + rng.uniform(-0.12, 0.15)
    return np.asarray(pixels @ matrix.T.astype(np.float32) + shift.astype(np.float32))


def duotone(
    rng: np.random.Generator, pixels: Floats, saturation: tuple[float, float], depth: float
) -> Floats:
    """Paint the brightness of a photo with shades around one random colour.

    Args:
        rng: Source of every choice.
        pixels: (H, W, 3) float32 in [0, 1].
        saturation: Range of the colour's saturation.
        depth: How far the shades spread; near 0 the surface is plain.

    Returns:
        (H, W, 3) float32, at places a little outside [0, 1].
    """
    brightness = pixels @ _TO_YIQ[0].astype(np.float32)
    middle = colour(rng, saturation)
    spread = max(float(brightness.std()), 0.06)
    level = np.clip((brightness - float(brightness.mean())) / spread, -2.5, 2.5)
    shade = depth * (0.12 + 0.25 * middle) + rng.normal(0.0, 0.02, 3)
    return np.asarray(middle + level[..., None] * shade.astype(np.float32))


def _sample(pixels: Floats) -> Floats:
    """(M, 3) every fourth pixel of each row and column: enough for a mean, and quick."""
    return pixels[::4, ::4].reshape(-1, 3)


def smooth_field(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """(H, W) float32 smooth random values, about in [0, 1]."""
    coarse = Image.fromarray(rng.random((3, 3), dtype=np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def blur(pixels: Floats, sigma: float) -> Floats:
    """Blur (H, W) or (H, W, 3) values in [0, 1]."""
    image = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8))
    blurred = image.filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(np.asarray(blurred, dtype=np.float32) / 255.0)


def background(
    rng: np.random.Generator, split: Split, photos: tuple[str, str], size: tuple[int, int]
) -> Floats:
    """Make what objects lie on: one photo, or a wall and a ground of two.

    Args:
        rng: Source of every choice.
        split: Which parts of the photos.
        photos: File names of the only or upper surface, and of the lower one.
        size: (height, width).

    Returns:
        (height, width, 3) float32 in [0, 1].
    """
    height, width = size
    canvas = _background_surface(rng, split, photos[0], size)
    if rng.random() < 0.35:
        lower = _background_surface(rng, split, photos[1], size)
        rows, columns = np.ogrid[:height, :width]
        level = height * rng.uniform(0.3, 0.7) + (columns - width / 2) * rng.uniform(-0.2, 0.2)
        ground = np.clip((rows - level) / rng.uniform(1.0, 6.0) + 0.5, 0.0, 1.0)
        canvas = canvas + ground[..., None].astype(np.float32) * (lower - canvas)
    return np.clip(canvas, 0.0, 1.0)


def _background_surface(
    rng: np.random.Generator, split: Split, name: str, size: tuple[int, int]
) -> Floats:
    pixels = crop(rng, name, split, size, _TEXTURE_ZOOM if name in _TEXTURES else _SIGHT_ZOOM)
    colours = _sample(pixels)
    is_grey = float((colours.max(axis=1) - colours.min(axis=1)).mean()) < 0.02
    if rng.random() < (0.8 if is_grey else 0.2):
        pixels = duotone(rng, pixels, (0.05, 0.6), rng.uniform(0.4, 1.0))
    else:
        turn = math.pi if rng.random() < 0.4 else 0.4
        pixels = recolour(rng, pixels, turn, (0.3, 1.1))
    if rng.random() < 0.35:
        mix = rng.uniform(0.2, 0.6)
        first, second = colour(rng, (0.0, 0.6)), colour(rng, (0.0, 0.6))
        gradient = first + smooth_field(rng, size)[..., None] * (second - first)
        pixels = (1.0 - mix) * pixels + mix * gradient
    if rng.random() < 0.45:
        pixels = blur(pixels, rng.uniform(0.6, 2.5))
    return pixels
