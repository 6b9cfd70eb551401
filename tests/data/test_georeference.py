"""Where the pixels of a GeoTIFF are, and that what is made of it still knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from soloist.cli import run_command
from soloist.data.coco.faults import Gate
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.georeference import Georeference, read_georeference
from soloist.errors import DataError

# Tags of GeoTIFF: 33550 pixel scale, 33922 tie points, 34264 transformation, 34735 keys.
SCALE = (33550, "d", 3, (2.0, 3.0, 0.0), True)
TIE = (33922, "d", 6, (10.0, 20.0, 0.0, 500000.0, 5200000.0, 0.0), True)
MATRIX = (34264, "d", 16, (2.0, 1.0, 0, 7.0, 0.5, -3.0, 0, 9.0, 0, 0, 0, 0, 0, 0, 0, 1.0), True)
UTM = Georeference((2.0, 0.0, 499980.0, 0.0, -3.0, 5200060.0), "EPSG:32633")


def keys(*entries: tuple[int, int]) -> tuple[Any, ...]:
    """A directory of keys: 1024 model, 1025 raster type, 2048 geographic, 3072 projected."""
    flat = [1, 1, 0, len(entries)]
    for key, value in entries:
        flat += [key, 0, 1, value]
    return (34735, "H", len(flat), tuple(flat), True)


PROJECTED = keys((1024, 1), (1025, 1), (3072, 32633))


def write(path: Path, *tags: tuple[Any, ...], size: tuple[int, int] = (60, 80)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=tags)
    return path


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        pytest.param((SCALE, TIE, PROJECTED), UTM, id="scale-and-tie-point"),
        pytest.param(
            (SCALE, TIE, keys((1024, 1), (1025, 2), (3072, 32633))),
            Georeference((2.0, 0.0, 499979.0, 0.0, -3.0, 5200061.5), "EPSG:32633"),
            id="pixel-is-point",
        ),
        pytest.param(
            (MATRIX, keys((1024, 2), (1025, 1), (2048, 4326))),
            Georeference((2.0, 1.0, 7.0, 0.5, -3.0, 9.0), "EPSG:4326"),
            id="matrix-of-degrees",
        ),
        pytest.param(
            (SCALE, TIE, keys((1024, 1), (1025, 1), (3072, 32767))),
            Georeference(UTM.transform, None),
            id="system-of-its-own",
        ),
        pytest.param((TIE, PROJECTED), None, id="tie-point-alone"),
        pytest.param((PROJECTED,), None, id="keys-alone"),
        pytest.param((), None, id="plain"),
        pytest.param((SCALE, TIE, PROJECTED, (274, "H", 1, 6, True)), None, id="turned"),
    ],
)
def test_what_the_tags_say(
    tmp_path: Path, tags: tuple[Any, ...], expected: Georeference | None
) -> None:
    assert read_georeference(write(tmp_path / "a.tif", *tags)) == expected


def test_other_and_broken_files_have_none(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tif", SCALE, TIE, PROJECTED).read_bytes()
    for name, content in (("b.tif", whole[:30]), ("c.tif", b""), ("d.png", whole), ("e.tif", b"x")):
        (tmp_path / name).write_bytes(content)
        assert read_georeference(tmp_path / name) is None
    assert read_georeference(tmp_path / "absent.tif") is None


def test_points_by_hand() -> None:
    points = np.array([[0.0, 0.0], [10.0, 20.0], [11.0, 21.0]])
    expected = [[499980.0, 5200060.0], [500000.0, 5200000.0], [500002.0, 5199997.0]]
    assert UTM.on_map(points).tolist() == expected
    turned = Georeference((2.0, 1.0, 7.0, 0.5, -3.0, 9.0))
    assert turned.on_map(np.array([[1.0, 2.0]])).tolist() == [[11.0, 3.5]]


def test_coco_files_keep_it(tmp_path: Path) -> None:
    images = [CocoImage(1, "a.tif", 2, 3, UTM), CocoImage(2, "b.tif", 2, 3)]
    write_coco(tmp_path / "a.json", images, [])
    assert list(load_coco(tmp_path / "a.json").images) == images


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param([1], "georeference of images", id="list"),
        pytest.param({"transform": [1, 2]}, "as six numbers, got [1, 2]", id="short"),
        pytest.param({"transform": [1] * 5 + [None]}, "as six numbers", id="no-number"),
        pytest.param({"transform": [1] * 6, "crs": 4326}, "such as EPSG:32633, got 4326", id="crs"),
    ],
)
def test_a_malformed_entry_is_reported(tmp_path: Path, value: Any, message: str) -> None:
    image = {"id": 1, "file_name": "a.tif", "height": 2, "width": 3, "georeference": value}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": []}))
    with pytest.raises(DataError) as caught:
        load_coco(tmp_path / "a.json", report=Gate(strict=True))
    assert message in str(caught.value)


def test_predictions_become_polygons_on_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tif", SCALE, TIE, PROJECTED)
    how = f"--model {model_folder} --device cpu --precision fp32 --format geojson --tolerance 0"
    assert run_command(f"predict a.tif --out masks.json {how}".split()) == 0
    file = load_coco(tmp_path / "masks.json")
    assert file.images[0].georeference == UTM
    content = json.loads((tmp_path / "masks-geojson" / "a.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert len(content["features"]) == len(file) > 0
    for feature, one in zip(content["features"], file.annotations[1], strict=True):
        several = feature["geometry"]["coordinates"]
        if feature["geometry"]["type"] == "Polygon":
            several = [several]
        points = np.concatenate([ring for polygon in several for ring in polygon])
        left, top, width, height = one.box_xywh
        corners = UTM.on_map(np.array([[left, top + height], [left + width, top]]))
        # A quarter of a pixel inside.
        np.testing.assert_allclose(points.min(axis=0), corners[0] + [0.5, 0.75])
        np.testing.assert_allclose(points.max(axis=0), corners[1] - [0.5, 0.75])
