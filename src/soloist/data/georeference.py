"""Where on the earth the pixels of a GeoTIFF are (OGC 19-008r4, GeoTIFF 1.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from soloist.data.tiffs import is_tiff
from soloist.runtime.files import one_line, shown

logger = logging.getLogger(__name__)

_SUFFIXES = {".tif", ".tiff"}
_ORIENTATION = 274
_PIXEL_IS_POINT = 2
_USER_DEFINED = 32767
# What tifffile raises on broken tags.
_TAG_ERRORS = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Georeference:
    """An affine map from pixels to a coordinate system.

    Attributes:
        transform: (a, b, c, d, e, f): a point `column, row`, where (0, 0) is the outer corner of
            the first pixel, lies at x = a column + b row + c, y = d column + e row + f.
        crs: Of x and y, such as `EPSG:32633`; None if the file does not say one by its number.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Georeference:
        """What `dataclasses.asdict` made of one, also after JSON made a list of the tuple."""
        return cls(tuple(values["transform"]), values["crs"])

    def on_map(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(P, 2) points x, y on the map of (P, 2) points column, row."""
        a, b, c, d, e, f = self.transform
        mapped: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + np.array([c, f])
        return mapped


def read_georeference(path: str | Path) -> Georeference | None:
    """The georeference of a file; None where it has none, or one of another kind than affine.

    Args:
        path: An image file of any kind. A broken one has none: reading its pixels tells.
    """
    if Path(path).suffix.lower() not in _SUFFIXES:
        return None
    try:
        if not is_tiff(path):
            return None
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tags = page.geotiff_tags
            turned = page.tags.get(_ORIENTATION)
            if not tags or (turned is not None and turned.value != 1):
                return None
            return _from_tags(tags)
    except _TAG_ERRORS as error:
        logger.debug("%s: no georeference: %s", shown(path), one_line(error))
        return None


def _from_tags(tags: Mapping[str, Any]) -> Georeference | None:
    if "ModelTransformation" in tags:
        rows = np.array(tags["ModelTransformation"], dtype=np.float64).reshape(4, 4)
        (a, b, c), (d, e, f) = rows[0, [0, 1, 3]], rows[1, [0, 1, 3]]
    elif "ModelPixelScale" in tags and "ModelTiepoint" in tags:
        scale = np.array(tags["ModelPixelScale"], dtype=np.float64)
        ties = np.array(tags["ModelTiepoint"], dtype=np.float64).reshape(-1, 6)
        column, row, _, x, y, _ = ties[0]
        # Rows count downwards, y upwards.
        a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
        c, f = x - a * column, y - e * row
    else:
        return None
    if int(tags.get("GTRasterTypeGeoKey", 1)) == _PIXEL_IS_POINT:
        # The map is that of centres of pixels.
        c, f = c - (a + b) / 2, f - (d + e) / 2
    transform = tuple(float(value) for value in (a, b, c, d, e, f))
    if not np.isfinite(transform).all() or a * e == b * d:
        return None
    return Georeference((*transform[:3], *transform[3:]), _crs(tags))  # type: ignore[arg-type]


def _crs(tags: Mapping[str, Any]) -> str | None:
    for key in ("ProjectedCSTypeGeoKey", "GeographicTypeGeoKey"):
        number = tags.get(key)
        if number is not None and 0 < int(number) < _USER_DEFINED:
            return f"EPSG:{int(number)}"
    return None
