from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import instances_to_annotations
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, DataError
from soloist.report.predictions import write_prediction_report
from soloist.structures import Instances

SIZE = (30, 40)


def names_in(page: Path) -> list[str]:
    return re.findall(r'<h3 id="name-\d+" title="(.*?)">', page.read_text(encoding="utf-8"))


def sections_in(page: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page.read_text(encoding="utf-8"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", SIZE[::-1], "teal").save(folder / name)
    return folder


@pytest.fixture
def masks(tmp_path: Path, images: Path) -> Path:
    """A COCO file of two masks on the first image and one on the second."""
    mask = np.zeros((2, *SIZE), dtype=np.bool_)
    mask[0, 5:20, 5:20] = True
    mask[1, 2:8, 25:38] = True
    rles = encode_masks(mask)
    records = [(1, 0, 0.9), (1, 1, 0.4), (2, 1, 0.6)]
    content: dict[str, Any] = {
        "info": {"model": "<b>mine</b>"},
        "images": [
            {"id": at, "file_name": path.name, "height": SIZE[0], "width": SIZE[1]}
            for at, path in enumerate(sorted(images.iterdir()), start=1)
        ],
        "annotations": [
            {"id": at, "image_id": image, "category_id": 1, "score": score}
            | {"segmentation": rles[which]}
            for at, (image, which, score) in enumerate(records, start=1)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_file_of_masks_becomes_a_page_beside_it(masks: Path) -> None:
    page = write_prediction_report(masks)
    assert page == masks.with_name("masks.report.html")
    assert names_in(page) == ["a.png", "b.png", "c.png"]
    assert sections_in(page) == ["gallery", "scores", "settings", "citing"]
    text = page.read_text(encoding="utf-8")
    assert "A sample" not in text
    assert "<dt>masks, masks</dt><dd>3</dd>" in text
    assert "&lt;b&gt;mine&lt;/b&gt;" in text
    assert text.count("data-score=") == 3


def test_true_objects_bring_figures_and_cases(masks: Path, tmp_path: Path) -> None:
    content = json.loads(masks.read_text())
    # The first image is right, the mask of the second lies elsewhere.
    true = [content["annotations"][0], {**content["annotations"][0], "id": 9, "image_id": 2}]
    for image in content["images"]:
        image["file_name"] = f"val/{image['file_name']}"
    (tmp_path / "truth.json").write_text(json.dumps({**content, "annotations": true}))
    page = write_prediction_report(masks, ground_truth=tmp_path / "truth.json")
    assert sections_in(page)[:3] == ["results", "gallery", "cases"]
    text = page.read_text(encoding="utf-8")
    assert 'aria-label="b.png: Worst, found 0 of 1, mean best IoU 0.00"' in text
    assert 'aria-label="a.png: Best, found 1 of 1, mean best IoU 1.00"' in text
    assert text.count('data-recall="') == 2


def test_a_list_of_results_needs_the_file_it_belongs_to(masks: Path, tmp_path: Path) -> None:
    bare = tmp_path / "results.json"
    bare.write_text(json.dumps(json.loads(masks.read_text())["annotations"]))
    with pytest.raises(DataError, match="a list of results; add --gt"):
        write_prediction_report(bare)
    page = write_prediction_report(bare, ground_truth=masks)
    assert names_in(page) == ["a.png", "b.png", "c.png"]


def test_images_that_are_gone_are_listed(masks: Path, images: Path) -> None:
    (images / "b.png").unlink()
    page = write_prediction_report(masks, images=[str(images)])
    assert names_in(page) == ["a.png", "c.png"]
    assert "<td>b.png</td><td>report</td><td>was not found</td>" in page.read_text()


def test_without_images_there_is_no_page(masks: Path, images: Path) -> None:
    for path in images.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="found none of them in its folder"):
        write_prediction_report(masks)
    assert not masks.with_name("masks.report.html").exists()


@pytest.fixture
def shards(tmp_path: Path, images: Path) -> Path:
    """A folder of shards of two images; the third is not finished."""
    pytest.importorskip("pyarrow", reason="wants pyarrow: pip install '.[parquet]'")
    from soloist.data.coco.manifest import write_manifest
    from soloist.data.coco.shard_rows import ShardRow
    from soloist.data.coco.shards import MANIFEST, ShardFolder

    refs = [ImageRef(images / f"{at}.png", f"{at}.png") for at in range(5)]
    for ref in refs:
        Image.new("RGB", SIZE[::-1], "teal").save(ref.path)
    write_manifest(tmp_path / "shards" / MANIFEST, refs, {"command": "masks"}, shard_size=2)
    folder = ShardFolder(tmp_path / "shards")
    for shard in (0, 1):
        rows = []
        for place, ref in enumerate(refs[2 * shard : 2 * shard + 2]):
            if shard == 1 and place == 0:
                rows.append(ShardRow(ref.name, None, (), np.zeros((0, 0), np.float32), "broken"))
                continue
            found = Instances(
                image_size=SIZE,
                masks=torch.ones((shard + 1, *SIZE), dtype=torch.bool),
                scores=torch.full((shard + 1,), 0.5),
                boxes=torch.zeros((shard + 1, 4)),
                embeddings=torch.zeros((shard + 1, 0)),
            )
            image = CocoImage(2 * shard + place + 1, ref.name, *SIZE)
            made = instances_to_annotations(found, image.id, first_id=1)
            rows.append(ShardRow(ref.name, image, made, np.zeros((0, 0), np.float32)))
        folder.write(shard, rows)
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("count", "names", "masks", "message"),
    [
        pytest.param(9, ["0.png", "1.png", "3.png"], 4, "<dd>4</dd>", id="all"),
        pytest.param(2, ["0.png", "1.png"], 2, "A sample: 2 of 3 images.", id="some"),
        pytest.param(1, ["0.png"], 1, "A sample: 1 of 3 images.", id="one"),
    ],
)
def test_finished_shards_are_sampled(
    shards: Path, count: int, names: list[str], masks: int, message: str
) -> None:
    page = write_prediction_report(shards, max_images=count)
    assert page == shards.with_name("shards.report.html")
    assert names_in(page) == names
    assert page.read_text().count("data-score=") == masks
    assert message in page.read_text()


def test_shards_have_no_ground_truth(shards: Path, masks: Path) -> None:
    assert len(load_coco(masks)) == 3
    with pytest.raises(ConfigError, match="make one with `soloist merge`"):
        write_prediction_report(shards, ground_truth=masks)
