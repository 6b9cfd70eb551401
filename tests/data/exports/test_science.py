"""Files for measuring, read back by the libraries that people measure with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tests.data.exports.inputs import SIZE, WriteHard

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask, encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.exports import label_maps
from soloist.data.exports.export import export
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.science import measure
from soloist.data.exports.source import read_source
from soloist.data.exports.target import Note

EXACT = ExportOptions(tolerance=0, segmentation="polygon")


def write(source: Path, out: Path, name: FormatName, options: ExportOptions) -> Any:
    file, paths = read_source(source)
    return export(file, paths, out, name, options)


def true_masks(source: Path, image: int = 1) -> list[NDArray[np.bool_]]:
    return [decode_mask(one.rle) for one in load_coco(source).annotations[image]]


def without_overlaps(masks: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """The better one keeps the pixel."""
    taken = np.zeros(SIZE, dtype=np.bool_)
    alone = []
    for mask in masks:
        alone.append(mask & ~taken)
        taken |= mask
    return alone


@pytest.mark.parametrize(
    ("most", "kind"),
    [pytest.param(2**16 - 1, np.uint16, id="16"), pytest.param(2, np.uint32, id="32")],
)
def test_tifffile_reads_label_tiffs(
    write_hard: WriteHard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    kind: type[np.unsignedinteger[Any]],
) -> None:
    monkeypatch.setattr(label_maps, "_MAX_UINT16", most)
    source = write_hard()
    write(source, tmp_path / "out", "label-tiffs", ExportOptions())
    names = {image.id: image.file_name for image in load_coco(source).images}
    path = (tmp_path / "out" / "masks" / names[1]).with_suffix(".tif")
    labels = tifffile.imread(path)
    assert labels.shape == SIZE
    assert labels.dtype == np.dtype(kind)
    for number, mask in enumerate(without_overlaps(true_masks(source)), start=1):
        assert np.array_equal(labels == number, mask)


def test_roifile_reads_roi_sets(write_hard: WriteHard, tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile", reason="wants roifile: pip install '.[science]'")
    source = write_hard()
    summary = write(source, tmp_path / "out", "imagej", EXACT)
    file = load_coco(source)
    assert summary.notes[Note.NO_SCORE] == len(file)
    image = file.images[0]
    path = (tmp_path / "out" / image.file_name).with_suffix("")
    rois = roifile.roiread(path.with_name(f"{path.name}.rois.zip"))
    objects = file.annotations[image.id]
    assert [roi.name for roi in rois] == [
        f"{one.id:06d}-{file.categories[one.category_id]}" for one in objects
    ]
    places = list(file.categories)
    for roi, one in zip(rois, objects, strict=True):
        assert roi.group == places.index(one.category_id) + 1
        ring = roi.coordinates().astype(np.float64)
        filled = decode_mask([ring.ravel().tolist()], SIZE)
        assert np.array_equal(filled, decode_mask(one.rle))


def test_qupath_gets_classes_scores_and_pixels(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    write(source, tmp_path / "out", "qupath", EXACT)
    file = load_coco(source)
    image = file.images[0]
    content = json.loads((tmp_path / "out" / image.file_name).with_suffix(".geojson").read_text())
    assert "crs" not in content
    for feature, one in zip(content["features"], file.annotations[image.id], strict=True):
        properties = feature["properties"]
        assert str(UUID(feature["id"])) == feature["id"]
        assert properties["objectType"] == "annotation"
        assert properties["classification"]["name"] == file.categories[one.category_id]
        assert all(0 <= value <= 255 for value in properties["classification"]["color"])
        assert properties["measurements"] == {"score": one.score}
        several = feature["geometry"]["coordinates"]
        if feature["geometry"]["type"] == "Polygon":
            several = [several]
        points = np.concatenate([np.array(outer) for outer, *_ in several])
        left, top, width, height = one.box_xywh
        assert (points.min(axis=0) >= (left, top)).all()
        assert (points.max(axis=0) <= (left + width, top + height)).all()
    ids = [feature["id"] for feature in content["features"]]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def microscope(tmp_path: Path) -> Path:
    """Two discs on an image of 16 bits and two channels, and a mask file."""
    rng = np.random.default_rng(0)
    values = rng.integers(100, 60_000, (2, 50, 60), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", values, metadata={"axes": "CYX"}, imagej=True)
    rows, columns = np.mgrid[:50, :60]
    masks = np.stack(
        [(rows - 20) ** 2 + (columns - 15) ** 2 <= 64, (rows - 25) ** 2 + (columns - 45) ** 2 <= 25]
    )
    entries = [
        {
            "id": at + 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": rle,
            "score": 0.5 + at / 4,
        }
        for at, rle in enumerate(encode_masks(masks))
    ]
    write_coco(
        tmp_path / "cells.json",
        [CocoImage(1, "cells.tif", 50, 60)],
        entries,
        categories={1: "cell"},
        info={"reading": {"channels": [0]}},
    )
    np.save(tmp_path / "masks.npy", masks)
    return tmp_path / "cells.json"


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_pandas_reads_tables(microscope: Path, tmp_path: Path, name: FormatName) -> None:
    pandas = pytest.importorskip("pandas", reason="wants pandas: pip install '.[science]'")
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="wants pyarrow: pip install '.[parquet]'")
    write(microscope, tmp_path / "out", name, ExportOptions(min_score=0))
    path = tmp_path / "out" / f"objects.{name}"
    table = pandas.read_csv(path) if name == "csv" else pandas.read_parquet(path)
    assert table["class"].tolist() == ["cell", "cell"]
    assert table["score"].tolist() == [0.5, 0.75]
    values = tifffile.imread(microscope.parent / "cells.tif")
    for row, mask in zip(table.to_dict("records"), np.load(tmp_path / "masks.npy"), strict=True):
        rows, columns = np.nonzero(mask)
        # The slow and obvious way.
        assert row["area"] == len(rows)
        assert row["centroid_x"] == pytest.approx(columns.mean())
        assert row["centroid_y"] == pytest.approx(rows.mean())
        assert (row["left"], row["right"]) == (columns.min(), columns.max() + 1)
        assert (row["top"], row["bottom"]) == (rows.min(), rows.max() + 1)
        for channel in range(2):
            inside = [int(values[channel, y, x]) for y, x in zip(rows, columns, strict=True)]
            assert row[f"sum_{channel}"] == sum(inside)
            assert row[f"mean_{channel}"] == pytest.approx(sum(inside) / len(inside))


def test_without_its_image_a_shape_is_measured(microscope: Path, tmp_path: Path) -> None:
    (microscope.parent / "cells.tif").unlink()
    file, _ = read_source(microscope)
    summary = export(file, {}, tmp_path / "out", "csv", ExportOptions())
    assert summary.notes[Note.NO_IMAGE] == 1
    head, *rows = (tmp_path / "out" / "objects.csv").read_text().splitlines()
    assert "mean_0" not in head
    assert len(rows) == 2


def test_an_image_of_another_size_is_listed(microscope: Path, tmp_path: Path) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "small.png")
    file, _ = read_source(microscope)
    summary = export(file, {1: tmp_path / "small.png"}, tmp_path / "out", "csv", ExportOptions())
    assert summary.failed == 1
    assert "wanted an image of 50 x 60" in (tmp_path / "out" / "errors.jsonl").read_text()


def test_a_mask_without_a_pixel_has_no_measures() -> None:
    row = measure(encode_masks(np.zeros((1, 4, 4), dtype=np.bool_))[0], np.zeros((4, 4, 1)))
    assert row.pop("area") == 0
    assert set(row.values()) == {None}
