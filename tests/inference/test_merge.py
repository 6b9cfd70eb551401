from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soloist.data.coco.manifest import write_manifest
from soloist.data.coco.read import load_coco
from soloist.data.coco.shard_rows import ShardRow
from soloist.data.coco.shards import MANIFEST, ShardFolder
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import annotation_entry
from soloist.data.sources import ImageRef
from soloist.errors import DataError, RunError
from soloist.inference.merge import merge_shards
from soloist.runtime.lock import locked_output

KilledAt = Callable[[Any, str, int], AbstractContextManager[None]]


def row(name: str) -> ShardRow:
    rle = {"size": [2, 3], "counts": "222"}
    one = annotation_entry(1, 1, rle, area=2, box_xywh=[1.0, 0.0, 1.0, 2.0], score=0.5)
    return ShardRow(
        name, CocoImage(1, name, 2, 3), [one], np.full((1, 4), float(name[0]), np.float32)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty-five images, one a shard, all finished."""
    names = [f"{number % 10}-{number}.jpg" for number in range(25)]
    path = tmp_path / "shards"
    images = [ImageRef(Path(name), name) for name in names]
    write_manifest(path / MANIFEST, images, {"command": "masks"}, shard_size=1)
    shards = ShardFolder(path)
    for number, name in enumerate(names):
        shards.write(number, [row(name)])
    return path


def remove(folder: Path, *numbers: int) -> None:
    for number in numbers:
        ShardFolder(folder).file(number).unlink()


def test_objects_are_numbered_and_keep_their_embeddings(folder: Path, tmp_path: Path) -> None:
    summary = merge_shards(folder, tmp_path / "all.json")
    assert (summary.images, summary.instances, summary.failed) == (25, 25, 0)
    coco = load_coco(tmp_path / "all.json")
    for image in coco.images:
        found = coco.instances(image)
        assert found.embeddings.tolist() == [[float(image.file_name[0])] * 4]
    content = json.loads((tmp_path / "all.json").read_text())
    assert [one["id"] for one in content["annotations"]] == list(range(1, 26))
    assert content["info"] == {"command": "masks", "embeddings": "all.embeddings.npy"}


def test_a_file_that_another_command_writes_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with (
        locked_output(tmp_path / "all.json"),
        pytest.raises(RunError, match="is being written by"),
    ):
        merge_shards(folder, tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()
    merge_shards(folder, tmp_path / "all.json")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        pytest.param([7], "lacks 00007; run", id="one"),
        pytest.param([24, 0], "lacks 00000, 00024; run", id="first-and-last"),
        pytest.param(list(range(3, 15)), "00012 and 2 more; run", id="many"),
    ],
)
def test_missing_shards_are_named(
    folder: Path, tmp_path: Path, missing: list[int], message: str
) -> None:
    remove(folder, *missing)
    with pytest.raises(DataError, match=message) as caught:
        merge_shards(folder, tmp_path / "all.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "all.json").exists()


def test_a_part_is_merged_on_demand(folder: Path, tmp_path: Path) -> None:
    remove(folder, 0, 7)
    assert merge_shards(folder, tmp_path / "part.json", partial=True).images == 23
    images = load_coco(tmp_path / "part.json").images
    # Ids are those of the whole file.
    assert [image.id for image in images] == sorted(set(range(1, 26)) - {1, 8})


def test_nothing_finished_is_reported(folder: Path, tmp_path: Path) -> None:
    remove(folder, *range(25))
    with pytest.raises(DataError, match=r"no shard of .* is finished"):
        merge_shards(folder, tmp_path / "part.json", partial=True)


def test_a_file_that_exists_is_replaced_on_demand_only(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.json"
    out.write_text("mine")
    with pytest.raises(RunError, match="exists; add --overwrite"):
        merge_shards(folder, out)
    assert out.read_text() == "mine"
    merge_shards(folder, out, overwrite=True)
    assert len(load_coco(out).images) == 25


@pytest.mark.parametrize("method", ["images", "annotations", "embeddings"])
def test_a_merge_that_is_killed_leaves_nothing(
    folder: Path, tmp_path: Path, killed_at: KilledAt, method: str
) -> None:
    with killed_at(ShardFolder, method, 20):
        merge_shards(folder, tmp_path / "new" / "all.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_damaged_shard_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    file = ShardFolder(folder).file(20)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cannot read shard .*00020.parquet"):
        merge_shards(folder, tmp_path / "all.json")
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_what_is_no_folder_of_shards_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted a folder made by `masks` or `predict` with"):
        merge_shards(tmp_path, tmp_path / "all.json")
