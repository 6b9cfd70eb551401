"""Drawings as arrays: masks over images, contact sheets, matched points.

Drawing with NumPy and Pillow only, so that reports and documents need no plotting library.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_BASE_COLORS = (
    (0, 158, 255),
    (255, 145, 0),
    (0, 190, 130),
    (240, 95, 190),
    (245, 225, 50),
    (225, 60, 20),
    (130, 100, 255),
)
"""Okabe and Ito's colours, distinct for colour-blind readers too, made vivid for photographs."""

LARGE_SIDE = 2048
"""A larger image is reduced to this side when masks are drawn one by one, in pixels."""
_OVERSAMPLING = 3  # Lines are drawn this much larger and shrunk, which smooths them.


def mask_colors(count: int) -> NDArray[np.uint8]:
    """Colours of masks by their index: always the same, neighbours easy to tell apart.

    After the seven base colours come their light and then their dark variants; then they repeat.

    Args:
        count: N, how many.

    Returns:
        (N, 3) uint8 RGB.
    """
    base = np.array(_BASE_COLORS, dtype=np.float64)
    palette = np.concatenate((base, base + 0.5 * (255 - base), 0.6 * base))
    rounded: NDArray[np.uint8] = np.rint(palette).astype(np.uint8)
    return rounded[np.arange(count) % len(rounded)]


def draw_masks(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    *,
    scores: Sequence[float] | None = None,
    colors: NDArray[np.uint8] | None = None,
    alpha: float = 0.45,
    outline: bool = True,
    line_width: int | None = None,
) -> NDArray[np.uint8]:
    """Lays masks over an image as tinted areas with an outline.

    The largest mask is painted first, so that none hides a smaller one. Outlines lie inside
    their mask, and the image's own border has none. Without `scores`, pixels under no mask
    keep their value.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool.
        scores: N numbers written on the masks with two digits; None writes nothing.
        colors: (N, 3) uint8 RGB; None gives mask k colour k of `mask_colors`.
        alpha: Share of the colour inside a mask, in [0, 1].
        outline: Draw the mask's border in the full colour.
        line_width: Of the outline, in pixels; None grows with the image: 1 up to 450 pixels
            of short side, 2 up to 750, and so on.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    _check_image(image, "image")
    height, width = image.shape[:2]
    if masks.ndim != 3 or masks.shape[1:] != (height, width) or masks.dtype != np.bool_:
        raise ValueError(
            f"masks must be (N, {height}, {width}) bool like the image, "
            f"got {masks.shape} {masks.dtype}"
        )
    if scores is not None and len(scores) != len(masks):
        raise ValueError(f"scores must have one entry per mask ({len(masks)}), got {len(scores)}")
    if line_width is None:
        line_width = max(1, round(min(height, width) / 300))
    canvas = image.copy()
    if colors is None:
        colors = mask_colors(len(masks))
    areas = np.array([np.count_nonzero(mask) for mask in masks], dtype=np.int64)
    largest_first = np.argsort(-areas, kind="stable")
    for index in largest_first:
        window = _window(masks[index])
        if window is None:
            continue
        mask, color, under = masks[index][window], colors[index], canvas[window]
        tinted = under[mask] * (1.0 - alpha) + color * alpha  # (pixels of the mask, 3)
        under[mask] = np.rint(tinted).astype(np.uint8)
        if outline:
            under[_outline(mask, line_width)] = color
    if scores is None:
        return canvas
    return _write_scores(canvas, masks, scores)


def draw_large(
    image: NDArray[np.uint8],
    masks: Iterable[tuple[int, NDArray[np.bool_]]],
    *,
    max_side: int = LARGE_SIDE,
) -> NDArray[np.uint8]:
    """`draw_masks` on an image that is reduced first; one mask is in memory at a time.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: Number and (H, W) bool of each mask, in the order of painting; the number chooses its
            colour.
        max_side: Largest height and width of the result, in pixels.

    Returns:
        (height, width, 3) uint8.
    """
    canvas = thumbnail(image, max_side)
    size = (canvas.shape[0], canvas.shape[1])
    for number, mask in masks:
        color = mask_colors(number + 1)[number:]
        canvas = draw_masks(canvas, resize_masks(mask[None], size), colors=color)
    return canvas


def draw_outlines(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    color: tuple[int, int, int],
    *,
    line_width: int = 2,
) -> NDArray[np.uint8]:
    """Draws the borders of masks in one colour, inside of each mask.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (N, H, W) bool.
        color: RGB.
        line_width: In pixels.

    Returns:
        (H, W, 3) uint8, a new array.
    """
    _check_image(image, "image")
    canvas = image.copy()
    for mask in masks:
        window = _window(mask)
        if window is not None:
            canvas[window][_outline(mask[window], line_width)] = color
    return canvas


def draw_matches(
    left: NDArray[np.uint8],
    right: NDArray[np.uint8],
    points_left: NDArray[np.floating] | NDArray[np.integer],
    points_right: NDArray[np.floating] | NDArray[np.integer],
    *,
    scale: int = 1,
    gap: int = 16,
    background: tuple[int, int, int] = (255, 255, 255),
) -> NDArray[np.uint8]:
    """Two images side by side with a coloured line between the points that match.

    Args:
        left: (H, W, 3) uint8 RGB.
        right: (H', W', 3) uint8 RGB.
        points_left: (K, 2) of y, x in pixels of the left image; whole numbers are the centres
            of pixels.
        points_right: (K, 2) of y, x in pixels of the right image.
        scale: Both images are enlarged this many times, so that small crops leave room for
            lines.
        gap: Pixels between the enlarged images.
        background: RGB beside the smaller image.

    Returns:
        (max(H, H') * scale, (W + W') * scale + gap, 3) uint8.

    Raises:
        ValueError: If an image is not (H, W, 3), or the points are not two equal (K, 2).
    """
    _check_image(left, "left")
    _check_image(right, "right")
    if points_left.shape != points_right.shape or points_left.shape[1:] != (2,):
        raise ValueError(
            "points_left and points_right must both be (K, 2), got "
            f"{points_left.shape} and {points_right.shape}"
        )
    enlarged = [_enlarge(image, scale) for image in (left, right)]
    height = max(image.height for image in enlarged)
    start = enlarged[0].width + gap
    drawn = Image.new("RGB", (start + enlarged[1].width, height), background)
    drawn.paste(enlarged[0], (0, 0))
    drawn.paste(enlarged[1], (start, 0))
    size = (drawn.width * _OVERSAMPLING, drawn.height * _OVERSAMPLING)
    lines = Image.new("RGBA", size)
    draw = ImageDraw.Draw(lines)
    width = _OVERSAMPLING * max(1, round(height / 150))
    colors = mask_colors(len(points_left)).tolist()
    grown = scale * _OVERSAMPLING
    for color, (y0, x0), (y1, x1) in zip(
        colors, points_left.tolist(), points_right.tolist(), strict=True
    ):
        begin, end = (
            ((x + 0.5) * grown + offset * _OVERSAMPLING, (y + 0.5) * grown)
            for y, x, offset in ((y0, x0, 0), (y1, x1, start))
        )
        draw.line((begin, end), fill=(*color, 200), width=width)
        for x, y in (begin, end):
            radius = 2.2 * width
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=(*color, 255), outline=(255, 255, 255, 255), width=width // 2)
    smooth = lines.resize(drawn.size, Image.Resampling.BOX)
    drawn.paste(smooth, (0, 0), smooth)
    return np.asarray(drawn).copy()


def thumbnail(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Shrinks an image to a long side; smaller images stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        max_side: Largest height and width of the result, in pixels.

    Returns:
        (height, width, 3) uint8, proportions kept, each side at least 1.
    """
    height, width = image.shape[:2]
    if max(height, width) <= max_side:
        return image
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(resized)


def resize_masks(masks: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks at the size of a thumbnail: a pixel belongs to a mask that covers half of it.

    Args:
        masks: (N, H, W) bool.
        size: (height, width) in pixels.

    Returns:
        (N, height, width) bool.
    """
    if masks.shape[1:] == size:
        return masks
    resized = np.zeros((len(masks), *size), dtype=np.bool_)
    for target, mask in zip(resized, masks, strict=True):
        grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
        shrunk = grey.resize((size[1], size[0]), Image.Resampling.BOX)
        target[:] = np.asarray(shrunk) >= 128
    return resized


def jpeg_bytes(image: NDArray[np.uint8], quality: int = 80) -> bytes:
    """An image as a JPEG file.

    Args:
        image: (H, W, 3) uint8 RGB.
        quality: Pillow's 1 to 95.

    Returns:
        The file's bytes.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


def _check_image(image: NDArray[np.uint8], name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"{name} must be (H, W, 3) uint8, got {image.shape} {image.dtype}")


def _window(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """The part of the image a mask needs: its box and one pixel more; None without a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return (
        slice(max(0, rows[0] - 1), rows[-1] + 2),
        slice(max(0, columns[0] - 1), columns[-1] + 2),
    )


def _outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """(h, w) bool: the mask's pixels within `width` steps of a pixel outside it."""
    inside = mask
    for _ in range(width):
        around = np.pad(inside, 1, mode="edge")
        inside = (
            inside & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        )
    return mask & ~inside


def _write_scores(
    canvas: NDArray[np.uint8], masks: NDArray[np.bool_], scores: Sequence[float]
) -> NDArray[np.uint8]:
    """Writes each score on the pixel of its mask that is nearest to the centre of mass."""
    height, width = canvas.shape[:2]
    font = _font(max(10, round(min(height, width) / 26)))
    drawn = Image.fromarray(canvas)
    draw = ImageDraw.Draw(drawn, "RGBA")
    for mask, score in zip(masks, scores, strict=True):
        pixels = np.argwhere(mask)  # (M, 2) y, x
        if len(pixels) == 0:
            continue
        distances = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
        y, x = pixels[distances.argmin()].tolist()
        text = f"{score:.2f}"
        half_width, half_height = (side / 2 + 3 for side in _text_size(font, text))
        x = min(max(x, half_width), max(width - 1 - half_width, half_width))
        y = min(max(y, half_height), max(height - 1 - half_height, half_height))
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        draw.rounded_rectangle(box, radius=4, fill=(0, 0, 0, 170))
        draw.text((x, y), text, fill=(255, 255, 255, 255), font=font, anchor="mm")
    return np.asarray(drawn).copy()


def _enlarge(image: NDArray[np.uint8], scale: int) -> Image.Image:
    drawn = Image.fromarray(image)
    size = (drawn.width * scale, drawn.height * scale)
    return drawn if scale == 1 else drawn.resize(size, Image.Resampling.BICUBIC)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_size(
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str
) -> tuple[float, float]:
    """(width, height) in pixels."""
    left, top, right, bottom = font.getbbox(text)
    return right - left, bottom - top
