"""GeoJSON, one file an image: polygons on the map for QGIS, polygons in pixels for QuPath."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from soloist.data.coco.outlines import Ring, outline
from soloist.data.coco.types import CocoAnnotation
from soloist.data.drawing.rendering import mask_colors
from soloist.data.exports.target import LabelledImage, Note, Target
from soloist.data.georeference import Georeference
from soloist.runtime.files import write_json

_LONGITUDE_LATITUDE = "EPSG:4326"
_DIGITS = 9  # Of degrees: a tenth of a millimetre.


def write_geojson(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `NAME.geojson` for each image, and images beside them."""
    for labelled in labelled_images:
        target.put_image(labelled, labelled.place)
        place = labelled.image.georeference
        target.notes[Note.NO_GEOREFERENCE] += place is None
        content: dict[str, Any] = {
            "type": "FeatureCollection",
            "name": labelled.image.file_name,
            "features": [_feature(one, place, target) for one in labelled.objects],
        }
        if place is not None and place.crs not in (None, _LONGITUDE_LATITUDE):
            # RFC 7946 knows longitude and latitude alone; of the rule before it GDAL and QGIS read
            # this, and the numbers would mean nothing without.
            name = f"urn:ogc:def:crs:{str(place.crs).replace(':', '::', 1)}"
            content["crs"] = {"type": "name", "properties": {"name": name}}
        write_json((target.folder / labelled.place).with_suffix(".geojson"), content)


def write_qupath(target: Target, labelled_images: Iterator[LabelledImage]) -> None:
    """Writes `NAME.geojson` for each image as QuPath imports it, and images beside them.

    In pixels of the image whatever its place on a map; a class has a colour, a score is a
    measurement.
    """
    colors = mask_colors(len(target.file.categories)).tolist()
    color_of = dict(zip(target.file.categories, colors, strict=True))
    for labelled in labelled_images:
        target.put_image(labelled, labelled.place)
        features = []
        for one in labelled.objects:
            feature = _feature(one, None, target)
            name = f"{labelled.image.file_name}/{one.id}"
            feature["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
            category = feature["properties"]["category"]
            feature["properties"] = {
                "objectType": "annotation",
                "name": str(one.id),
                "classification": {"name": category, "color": color_of[one.category_id]},
                "measurements": {"score": one.score} if target.scored else {},
            }
            features.append(feature)
        content = {"type": "FeatureCollection", "features": features}
        write_json((target.folder / labelled.place).with_suffix(".geojson"), content)


def _feature(one: CocoAnnotation, place: Georeference | None, target: Target) -> dict[str, Any]:
    parts = outline(one.rle, target.options.tolerance)
    polygons = [[_closed(ring, place) for ring in (part.outer, *part.holes)] for part in parts]
    properties: dict[str, Any] = {"id": one.id, "category": target.file.categories[one.category_id]}
    if target.scored:
        properties["score"] = one.score
    kind: dict[str, Any] = {"type": "Polygon", "coordinates": polygons[0]}
    if len(polygons) > 1:
        kind = {"type": "MultiPolygon", "coordinates": polygons}
    return {"type": "Feature", "id": one.id, "properties": properties, "geometry": kind}


def _closed(ring: Ring, place: Georeference | None) -> list[list[float]]:
    """A ring whose last point is its first, on the map where there is one."""
    points = np.concatenate([ring, ring[:1]])
    if place is not None:
        points = place.on_map(points)
    rounded: list[list[float]] = points.round(_DIGITS).tolist()
    return rounded
