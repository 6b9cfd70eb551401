from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soloist.data.coco.manifest import MAX_SHARD_SIZE, Manifest, write_manifest
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, DataError

NAMES = ("a.jpg", "b/ü.jpg", "c\udcff.jpg", "line\nbreak.jpg", "e.jpg")
SETTINGS = {"command": "masks", "limit": float("inf"), "sizes": (1, 2)}


def refs(names: Sequence[str] = NAMES, **options: Any) -> list[ImageRef]:
    return [ImageRef(Path("/data") / name, name, **options) for name in names]


def written(folder: Path, **options: Any) -> Manifest:
    arguments = {"images": refs(), "settings": SETTINGS, "shard_size": 2, **options}
    path = folder / "manifest.parquet"
    write_manifest(path, arguments.pop("images"), arguments.pop("settings"), **arguments)
    return Manifest(path)


@pytest.mark.parametrize(
    ("shard_size", "sizes"),
    [
        pytest.param(1, [1, 1, 1, 1, 1], id="each"),
        pytest.param(2, [2, 2, 1], id="last-shorter"),
        pytest.param(5, [5], id="exact"),
        pytest.param(100, [5], id="all"),
    ],
)
def test_shards_hold_the_images_in_order(tmp_path: Path, shard_size: int, sizes: list[int]) -> None:
    manifest = written(tmp_path, shard_size=shard_size)
    assert (manifest.images, manifest.shards) == (5, len(sizes))
    assert [manifest.size(shard) for shard in range(manifest.shards)] == sizes
    entries = [manifest.entries(shard) for shard in range(manifest.shards)]
    assert [len(shard) for shard in entries] == sizes
    together = [entry for shard in entries for entry in shard]
    assert [entry.name for entry in together] == list(NAMES)
    assert [entry.path for entry in together] == [ref.path for ref in refs()]
    assert [entry.id for entry in together] == [1, 2, 3, 4, 5]


def test_ids_of_a_coco_file_are_kept(tmp_path: Path) -> None:
    manifest = written(tmp_path, images=refs(("a", "b"), id=70) + refs(("c",)))
    assert [entry.id for shard in (0, 1) for entry in manifest.entries(shard)] == [70, 70, 3]


def test_relative_paths_do_not_depend_on_where_the_next_command_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = written(tmp_path, images=[ImageRef(Path("photos/a.jpg"), "a.jpg")])
    assert manifest.entries(0)[0].path == tmp_path / "photos" / "a.jpg"


def test_settings_come_back_as_json_has_them(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    assert manifest.settings == {"command": "masks", "limit": "Infinity", "sizes": [1, 2]}
    assert manifest.shard_size == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"settings": {"command": "predict"}}, id="settings"),
        pytest.param({"shard_size": 3}, id="shard-size"),
        pytest.param({"images": refs(NAMES[::-1])}, id="order"),
        pytest.param({"images": refs(NAMES[:4])}, id="fewer"),
        pytest.param({"images": refs(id=3)}, id="ids"),
    ],
)
def test_the_fingerprint_tells_sets_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    first = written(tmp_path / "first").fingerprint
    assert written(tmp_path / "same").fingerprint == first
    assert written(tmp_path / "other", **other).fingerprint != first


@pytest.mark.parametrize("shard_size", [0, -1, MAX_SHARD_SIZE + 1])
def test_a_shard_size_out_of_range_is_reported(tmp_path: Path, shard_size: int) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to 10,000, got {shard_size}"):
        written(tmp_path, shard_size=shard_size)
    assert list(tmp_path.iterdir()) == []


def test_too_many_shards_are_reported_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soloist.data.coco.manifest.MAX_SHARDS", 2)
    with pytest.raises(ConfigError, match="--shard-size 2 makes more than 2 shards; raise it"):
        written(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    def killed() -> Any:
        yield from refs()
        raise MemoryError

    with pytest.raises(MemoryError):
        written(tmp_path, images=killed())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "without manifest.parquet", id="absent"),
        pytest.param(b"", "cannot read the manifest", id="empty"),
        pytest.param(b"no Parquet at all", "cannot read the manifest", id="text"),
        pytest.param("cut", "cannot read the manifest", id="cut"),
        pytest.param("foreign", "cannot read the manifest", id="foreign"),
    ],
)
def test_what_is_no_manifest_is_reported_in_one_line(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    path = tmp_path / "manifest.parquet"
    if content == "cut":
        written(tmp_path)
        path.write_bytes(path.read_bytes()[:-20])
    elif content == "foreign":
        pq.write_table(pa.table({"x": [1]}), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Manifest(path)
    assert "\n" not in str(caught.value)
