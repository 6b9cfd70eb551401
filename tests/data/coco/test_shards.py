from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from soloist.data.coco.manifest import write_manifest
from soloist.data.coco.rle import decode_mask
from soloist.data.coco.shard_rows import ShardFacts, ShardRow
from soloist.data.coco.shards import MANIFEST, ShardFolder
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import instances_to_annotations
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.structures import Instances

SIZE = (6, 8)
NAMES = ("a.jpg", "b/ü.jpg", "c\udcff.jpg", "d.jpg")


def folder(path: Path, *, shard_size: int = 3) -> ShardFolder:
    images = [ImageRef(Path("/data") / name, name) for name in NAMES]
    write_manifest(path / MANIFEST, images, {"command": "masks"}, shard_size=shard_size)
    return ShardFolder(path)


def row(name: str, count: int, embedding_size: int = 5) -> ShardRow:
    masks = torch.zeros((count, *SIZE), dtype=torch.bool)
    for place in range(count):
        masks[place, place : place + 2, 1:4] = True
    instances = Instances(
        image_size=SIZE,
        masks=masks,
        scores=torch.linspace(0.987654321, 0.5, count),
        boxes=torch.zeros((count, 4)),
        embeddings=torch.rand(count, embedding_size),
    )
    image = CocoImage(NAMES.index(name) + 1, name, *SIZE)
    annotations = instances_to_annotations(instances, image.id, first_id=1)
    return ShardRow(name, image, annotations, instances.embeddings.numpy())


def failed(name: str) -> ShardRow:
    return ShardRow(name, None, (), np.zeros((0, 0), np.float32), f"cannot read {name}")


ROWS = (row("a.jpg", 2), row("b/ü.jpg", 0), failed("c\udcff.jpg"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shards = folder(tmp_path)
    shards.write(0, ROWS)
    assert shards.facts(0) == ShardFacts(images=2, instances=2, failed=1, embedding_size=5)
    assert list(shards.images(0)) == [CocoImage(1, "a.jpg", *SIZE), CocoImage(2, "b/ü.jpg", *SIZE)]
    assert list(shards.annotations(0)) == [{**one, "id": 0} for one in ROWS[0].annotations]
    assert np.array_equal(shards.embeddings(0), ROWS[0].embeddings)
    assert shards.errors(0) == [("c\udcff.jpg", "cannot read c\\udcff.jpg")]


def test_the_last_shard_goes_on_counting(tmp_path: Path) -> None:
    shards = folder(tmp_path)
    shards.write(1, [row("d.jpg", 3)])
    assert shards.finished() == [1]
    assert shards.missing() == [0]
    assert list(shards.images(1)) == [CocoImage(4, "d.jpg", *SIZE)]
    assert [one["image_id"] for one in shards.annotations(1)] == [4, 4, 4]
    assert pq.read_table(shards.file(1)).column("index").to_pylist() == [3]


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        pytest.param([row(name, 0) for name in NAMES[:3]], (3, 0, 0, 0), id="no-objects"),
        pytest.param([failed(name) for name in NAMES[:3]], (0, 0, 3, 0), id="no-image"),
        pytest.param(
            [row("a.jpg", 1, 0), row("b/ü.jpg", 2, 0), failed(NAMES[2])],
            (2, 3, 1, 0),
            id="no-embeddings",
        ),
    ],
)
def test_empty_is_normal(
    tmp_path: Path, rows: list[ShardRow], facts: tuple[int, int, int, int]
) -> None:
    shards = folder(tmp_path)
    shards.write(0, rows)
    assert shards.facts(0) == ShardFacts(*facts)
    assert len(list(shards.images(0))) == facts[0]
    assert len(list(shards.annotations(0))) == facts[1]
    assert shards.embeddings(0).shape == (facts[1], 0)
    assert len(shards.errors(0)) == facts[2]


def test_other_tools_read_a_shard_as_it_is(tmp_path: Path) -> None:
    """Without our code: plain lists, and masks that pycocotools takes."""
    shards = folder(tmp_path)
    shards.write(0, ROWS)
    first, second, third = pq.read_table(shards.file(0)).to_pylist()
    assert (first["index"], first["file_name"], first["error"]) == (0, "a.jpg", None)
    assert second["counts"] == second["embedding"] == []
    assert third["file_name"] == "c\\udcff.jpg"
    assert third["height"] is None
    mask = decode_mask({"size": [first["height"], first["width"]], "counts": first["counts"][1]})
    assert mask.sum() == first["area"][1] == 6
    assert first["bbox"][1] == [1.0, 1.0, 3.0, 2.0]
    assert first["score"] == [0.987654, 0.5]
    assert len(first["embedding"][0]) == 5


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda whole: b"", id="empty"),
        pytest.param(lambda whole: whole[:-30], id="cut"),
        pytest.param(lambda whole: b"no Parquet at all", id="text"),
    ],
)
def test_a_damaged_shard_is_reported_in_one_line(tmp_path: Path, damage: object) -> None:
    shards = folder(tmp_path)
    shards.write(0, ROWS)
    assert callable(damage)
    shards.file(0).write_bytes(damage(shards.file(0).read_bytes()))
    with pytest.raises(
        DataError, match=r"cannot read shard .*00000.parquet.*; remove it"
    ) as caught:
        shards.facts(0)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    shards = folder(tmp_path)
    shards.write(0, ROWS)
    whole = bytearray(shards.file(0).read_bytes())
    # Within the compressed embeddings, the last column of the file.
    last = pq.read_metadata(shards.file(0)).row_group(0).column(10)
    whole[last.data_page_offset + last.total_compressed_size - 5] ^= 4
    shards.file(0).write_bytes(whole)
    assert shards.facts(0).instances == 2
    with pytest.raises(DataError, match="cannot read shard"):
        shards.embeddings(0)


def test_a_foreign_shard_is_reported_in_one_line(tmp_path: Path) -> None:
    shards = folder(tmp_path / "own")
    other = folder(tmp_path / "other", shard_size=2)
    other.write(0, ROWS[:2])
    shards.write(0, ROWS)
    shards.file(0).write_bytes(other.file(0).read_bytes())
    with pytest.raises(DataError, match=r"belongs to other images or settings; remove it"):
        shards.facts(0)
    pq.write_table(pa.table({"x": [1]}), shards.file(0))
    with pytest.raises(DataError, match=r"cannot read shard"):
        shards.facts(0)


def test_a_shard_under_another_number_is_foreign(tmp_path: Path) -> None:
    shards = folder(tmp_path, shard_size=2)
    shards.write(0, ROWS[:2])
    shards.file(0).rename(shards.file(1))
    with pytest.raises(DataError, match="belongs to other images or settings"):
        shards.facts(1)


def test_files_of_other_names_are_no_shards(tmp_path: Path) -> None:
    shards = folder(tmp_path)
    assert shards.finished() == []
    shards.write(0, ROWS)
    for name in (".00001.parquet", "00001.parquet.bak", "1.parquet", "00001.txt"):
        (tmp_path / "shards" / name).touch()
    assert shards.finished() == [0]
