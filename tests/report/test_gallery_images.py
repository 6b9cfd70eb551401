from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.sources import ImageRef
from soloist.report.columns import make_columns
from soloist.report.content import ReportContent, ReportStage
from soloist.report.gallery_images import PAGE_BYTES, fitting_jpeg, make_gallery_images
from soloist.report.html import render_report

NOISE = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)


@pytest.mark.parametrize("most", [400_000, 60_000, 12_000])
def test_a_jpeg_fits_its_room_and_uses_it(most: int) -> None:
    jpeg = fitting_jpeg(NOISE, most)
    assert most / 3 < len(jpeg) <= most


def test_a_jpeg_for_no_room_is_the_smallest() -> None:
    with Image.open(io.BytesIO(fitting_jpeg(NOISE, 0))) as image:
        assert max(image.size) == 128


@pytest.mark.slow
def test_a_page_of_the_worst_images_keeps_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, in pixels and in masks, is what compresses worst."""
    Image.fromarray(NOISE).save(tmp_path / "noise.png")
    size = (140, 180)
    refs = [ImageRef(tmp_path / "noise.png", f"{number}.png", number) for number in range(2)]
    generator = np.random.default_rng(1)
    rles = encode_masks(generator.random((5, *size)) < 0.5)
    images = [CocoImage(ref.id or 0, ref.name, *size) for ref in refs]
    records = [
        {
            "id": 0,
            "image_id": ref.id,
            "category_id": 1,
            "segmentation": rle,
            "score": 0.5 + at / 100,
        }
        for ref in refs
        for at, rle in enumerate(rles)
    ]
    write_coco(tmp_path / "m.json", images, records)
    content = ReportContent(
        "Noise", stages=[ReportStage("x", "X", load_coco(tmp_path / "m.json"))], images=refs
    )
    # Two images in this budget have as much room as 500 in the real one.
    budget = 2 * PAGE_BYTES // 500
    monkeypatch.setattr("soloist.report.gallery_images.PAGE_BYTES", budget)
    frame = len(render_report(ReportContent("Noise", stages=content.stages)))
    assert len(render_report(content)) - frame < budget * 30 / 28


def test_large_images_become_drawings_of_limited_size(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 1200)).save(tmp_path / "large.png")
    ref = ImageRef(tmp_path / "large.png", "large.png", 1)
    mask = np.zeros((1, 1200, 1600), dtype=np.bool_)
    mask[0, 300:600, 400:800] = True
    record = {"id": 1, "image_id": 1, "category_id": 1, "score": 0.5}
    write_coco(
        tmp_path / "m.json",
        [CocoImage(1, "large.png", 1200, 1600)],
        [{**record, "segmentation": encode_masks(mask)[0]}],
    )
    stage = ReportStage("x", "X", load_coco(tmp_path / "m.json"))
    columns = make_columns(ReportContent("Large", stages=[stage], images=[ref]))
    (image,), errors = make_gallery_images([ref], columns, lambda: None)
    assert errors == []
    assert (image.height, image.width) == (384, 512)
    layer = image.layers[0]
    assert layer is not None
    assert layer.shapes[0].path == "M256 96l0 96-128 0 0-96z"
    assert layer.shapes[0].area == 62_500
