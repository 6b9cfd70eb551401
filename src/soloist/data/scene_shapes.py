"""Random smooth outlines for generated scenes.

A shape is a function of unit coordinates whose value is positive inside, zero on the outline and
negative outside. Dividing it by its slope gives a distance in pixels, from which both the exact
mask and an antialiased edge follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Field = Callable[[Floats, Floats], Floats]

_PROBE_EXTENT = 3.2
"""Half side of the square, in unit coordinates, on which a new shape is measured."""

_PROBE_SIDE = 72
"""Samples along a side of that square."""


@dataclass(frozen=True)
class Shape:
    """An outline of unit area.

    Attributes:
        field: (H, W) x and (H, W) y in unit coordinates -> (H, W), positive inside.
        radius: Distance from the origin to the farthest point inside.
    """

    field: Field
    radius: float


def star(rng: np.random.Generator) -> Field:
    """Star-convex blob: the radius is a random Fourier series of the angle."""
    amplitudes = [rng.normal() * rng.uniform(0.12, 0.36) / order**0.8 for order in range(2, 7)]
    phases = rng.uniform(0.0, 2.0 * math.pi, len(amplitudes))
    factors = [
        amplitude * complex(math.cos(phase), math.sin(phase))
        for amplitude, phase in zip(amplitudes, phases, strict=True)
    ]

    def field(x: Floats, y: Floats) -> Floats:
        # The cosine of k times the angle is the real part of a power: no trigonometry per pixel.
        radius = np.hypot(x, y)
        unit = (x + 1j * y) / np.maximum(radius, 1e-6)
        outline = np.ones_like(radius)
        power = unit
        for factor in factors:
            power = power * unit
            outline += (power * factor).real
        return np.maximum(outline, 0.25) - radius

    return field


def superellipse(rng: np.random.Generator) -> Field:
    """From an ellipse (exponent 2) to a box with round corners (exponent 7)."""
    exponent = 2.0 if rng.random() < 0.5 else rng.uniform(2.5, 7.0)

    def field(x: Floats, y: Floats) -> Floats:
        return 1.0 - (np.abs(x) ** exponent + np.abs(y) ** exponent) ** (1.0 / exponent)

    return field


def polygon(rng: np.random.Generator) -> Field:
    """Convex polygon of 3 to 7 sides with rounded corners."""
    sides = int(rng.integers(3, 8))
    turns = (np.arange(sides) + rng.uniform(-0.22, 0.22, sides)) * (2.0 * math.pi / sides)
    lines = [(math.cos(turn), math.sin(turn), rng.uniform(0.8, 1.1)) for turn in turns]
    sharpness = rng.uniform(7.0, 16.0)

    def field(x: Floats, y: Floats) -> Floats:
        total = np.full_like(x, 1e-6)
        for cos, sin, distance in lines:
            # The cap keeps float32 finite far outside.
            total += np.exp(np.minimum(sharpness * (cos * x + sin * y - distance), 60.0))
        return -np.log(total) / sharpness

    return field


def bean(rng: np.random.Generator) -> Field:
    """Ellipse bent along its long axis."""
    bend = rng.uniform(0.35, 0.9)
    slimness = rng.uniform(1.2, 1.9)
    return lambda x, y: 1.0 - np.hypot(x, (y + bend * x * x - bend * 0.4) * slimness)


def crescent(rng: np.random.Generator) -> Field:
    """Disc with a bite taken by a second disc."""
    angle = rng.uniform(0.0, 2.0 * math.pi)
    offset, bite = rng.uniform(0.55, 0.85), rng.uniform(0.6, 0.8)
    across, down = offset * math.cos(angle), offset * math.sin(angle)
    return lambda x, y: np.minimum(1.0 - np.hypot(x, y), np.hypot(x - across, y - down) - bite)


def bottle(rng: np.random.Generator) -> Field:
    """Round body with a smaller head or neck that runs smoothly into it."""
    head, height, length = rng.uniform(0.3, 0.65), rng.uniform(0.9, 1.3), rng.uniform(0.7, 1.4)
    softness = rng.uniform(4.0, 9.0)

    def field(x: Floats, y: Floats) -> Floats:
        body = 1.0 - np.hypot(x, y - 0.3)
        neck = head - np.hypot(x, (y + height) / length)
        return np.asarray(np.logaddexp(softness * body, softness * neck) / softness)

    return field


@dataclass(frozen=True)
class Kind:
    """A family of objects that look alike in outline and surface.

    Attributes:
        family: Draws the outline.
        aspect: Range of the stretch, length over width, each at least 1.
        surface: A recoloured photo, a photo's structure in shades of one colour, or nearly plain.
        two_tone: Probability of a part in another colour.
    """

    family: Callable[[np.random.Generator], Field]
    aspect: tuple[float, float]
    surface: Literal["photo", "duotone", "plain"]
    two_tone: float


KINDS = (
    Kind(star, (1.0, 1.5), "photo", 0.1),
    Kind(star, (1.0, 1.8), "duotone", 0.3),
    Kind(star, (1.0, 1.4), "plain", 0.4),
    Kind(superellipse, (1.0, 1.6), "photo", 0.2),
    Kind(superellipse, (1.0, 2.0), "plain", 0.5),
    Kind(superellipse, (2.5, 4.5), "duotone", 0.5),
    Kind(polygon, (1.0, 1.7), "photo", 0.2),
    Kind(polygon, (1.0, 2.2), "duotone", 0.4),
    Kind(bean, (1.0, 1.6), "plain", 0.2),
    Kind(crescent, (1.0, 1.3), "duotone", 0.1),
    Kind(bottle, (1.0, 1.6), "photo", 0.4),
    Kind(bottle, (1.0, 1.8), "plain", 0.6),
)


def draw_shape(rng: np.random.Generator, kind: Kind) -> Shape:
    """Draw one outline of a kind, stretched, turned, and scaled to unit area.

    Args:
        rng: Source of every choice.
        kind: What to draw.

    Returns:
        The outline; its origin is its centre of mass.
    """
    inner = kind.family(rng)
    stretch = math.sqrt(math.exp(rng.uniform(math.log(kind.aspect[0]), math.log(kind.aspect[1]))))
    if rng.random() < 0.5:
        stretch = 1.0 / stretch
    angle = rng.uniform(0.0, 2.0 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)

    def turned(x: Floats, y: Floats) -> Floats:
        return inner((cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch)

    line = np.linspace(-_PROBE_EXTENT, _PROBE_EXTENT, _PROBE_SIDE, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    inside = turned(x, y) > 0
    step = 2.0 * _PROBE_EXTENT / (_PROBE_SIDE - 1)
    side = math.sqrt(max(int(inside.sum()), 1)) * step
    centre_x, centre_y = float(x[inside].mean()), float(y[inside].mean())
    radius = float(np.hypot(x[inside] - centre_x, y[inside] - centre_y).max()) + step

    def field(x: Floats, y: Floats) -> Floats:
        return turned(x * side + centre_x, y * side + centre_y)

    return Shape(field=field, radius=radius / side)


def distance_inside(
    shape: Shape, rows: Floats, columns: Floats, centre: tuple[float, float], side: float
) -> Floats:
    """Signed distance to the outline in pixels, exact to first order near it.

    Args:
        shape: The outline.
        rows: (H,) pixel rows to evaluate, consecutive.
        columns: (W,) pixel columns to evaluate, consecutive.
        centre: (row, column) of the centre of mass.
        side: Square root of the wanted area, in pixels.

    Returns:
        (H, W) float32, positive inside.
    """
    x, y = np.meshgrid((columns - centre[1]) / side, (rows - centre[0]) / side)
    values = shape.field(x, y)
    slope_y, slope_x = np.gradient(values)
    slope = np.maximum(np.hypot(slope_x, slope_y), 1e-3)
    return np.asarray(values / slope)
