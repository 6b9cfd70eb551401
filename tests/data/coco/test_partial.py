from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soloist.data.coco import partial
from soloist.data.coco.partial import PartialShards, is_finished
from soloist.data.coco.read import load_coco
from soloist.data.coco.shard_rows import ShardFacts, ShardRow, facts_of_all, write_shards
from soloist.data.coco.types import CATEGORIES, CocoImage
from soloist.data.georeference import Georeference
from soloist.data.sources import ImageRef
from soloist.errors import RunError
from soloist.inference.label import row_of
from soloist.structures import Instances

SETTINGS = {"command": "masks", "short_side": 448}
SIZE = (6, 8)
EMBEDDING = 3
NAMES = ("a.jpg", "b/ü.jpg", "c.jpg", "d.jpg")
ORDER = {name: place for place, name in enumerate(NAMES, start=1)}


def instances(name: str) -> Instances:
    """As many objects as the place of the name; embeddings tell name and object."""
    place = ORDER[name]
    count = place - 1
    masks = torch.zeros((count, *SIZE), dtype=torch.bool)
    for row in range(count):
        masks[row, row : row + 2, : place + 1] = True
    boxes = torch.tensor([[0, row, place + 1, row + 2] for row in range(count)])
    return Instances(
        image_size=SIZE,
        masks=masks,
        scores=torch.linspace(0.9, 0.5, count),
        boxes=boxes.reshape(-1, 4).float(),
        embeddings=torch.tensor([[place, row, 0.5] for row in range(count)]).reshape(-1, EMBEDDING),
    )


IMAGES = [ImageRef(Path(name), name) for name in NAMES]


def row(name: str) -> ShardRow:
    return row_of(CocoImage(ORDER[name], name, *SIZE), instances(name), CATEGORIES)


def opened(
    out: Path, settings: Mapping[str, Any] = SETTINGS, images: Sequence[ImageRef] = IMAGES
) -> PartialShards:
    shards = PartialShards(out, images)
    shards.open(settings)
    return shards


def add(shards: PartialShards, *names: str) -> None:
    for name in names:
        shards.write(NAMES.index(name), [row(name)])


def done(shards: PartialShards) -> set[str]:
    return {image.file_name for number in shards.finished() for image in shards.images(number)}


def finish(shards: PartialShards, out: Path, settings: Mapping[str, Any] = SETTINGS) -> None:
    numbers = shards.finished()
    facts = facts_of_all(shards, numbers)
    scores = write_shards(out, shards, numbers, facts, info=settings, categories=CATEGORIES)
    written = json.loads(out.read_text())["annotations"]
    assert scores.tolist() == pytest.approx([one["score"] for one in written])
    shards.remove()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "masks.json"


def check_whole(path: Path) -> None:
    """The file holds every image in its order, each object with its own embedding."""
    coco = load_coco(path)
    assert tuple(image.file_name for image in coco.images) == NAMES
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [one["id"] for one in content["annotations"]] == list(range(1, 7))
    assert coco.embeddings is not None
    assert coco.embeddings.dtype == np.float32
    for image in coco.images:
        found, wanted = coco.instances(image), instances(image.file_name)
        assert torch.equal(found.masks, wanted.masks)
        assert torch.equal(found.boxes, wanted.boxes)
        torch.testing.assert_close(found.scores, wanted.scores, atol=1e-6, rtol=0)
        if len(wanted):
            assert torch.equal(found.embeddings, wanted.embeddings)


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(NAMES, id="in-order"),
        pytest.param(NAMES[::-1], id="backwards"),
        pytest.param(("c.jpg", "a.jpg", "d.jpg", "b/ü.jpg"), id="mixed"),
    ],
)
def test_the_file_is_in_order_however_images_were_added(out: Path, names: tuple[str, ...]) -> None:
    shards = opened(out)
    add(shards, *names)
    finish(shards, out)
    check_whole(out)
    assert files(out.parent) == ["masks.embeddings.npy", "masks.json"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_many_images_share_files(out: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(partial, "MAX_FILES", most)
    shards = opened(out)
    assert len(shards.missing()) <= most
    for number in shards.missing():
        shards.write(number, [row(image.name) for image in shards.entries(number)])
    finish(shards, out)
    check_whole(out)


def test_shards_that_come_one_by_one(out: Path) -> None:
    shards = PartialShards(out)
    shards.open(SETTINGS, resume=False)
    shards.add([row(name) for name in NAMES[:3]])
    shards.add([row(NAMES[3])])
    finish(shards, out)
    check_whole(out)


@pytest.mark.parametrize(
    "first", [pytest.param(NAMES[:2], id="start"), pytest.param(("d.jpg", "b/ü.jpg"), id="mixed")]
)
def test_a_killed_run_resumes(out: Path, first: tuple[str, ...]) -> None:
    add(opened(out), *first)
    resumed = opened(out)
    assert done(resumed) == set(first)
    add(resumed, *(NAMES[number] for number in resumed.missing()))
    finish(resumed, out)
    check_whole(out)


@pytest.mark.parametrize("left", [0, 1, 40, -1])
def test_a_file_that_was_cut_off_is_made_again(out: Path, left: int) -> None:
    """As a machine that fails leaves it; a process that is killed leaves whole files."""
    add(opened(out), "b/ü.jpg", "c.jpg")
    largest = max(out.with_suffix(".partial").glob("*.rows"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:left])
    resumed = opened(out)
    assert done(resumed) == {"b/ü.jpg"}
    add(resumed, "a.jpg", "c.jpg", "d.jpg")
    finish(resumed, out)
    check_whole(out)


def test_images_that_failed_are_tried_again(out: Path) -> None:
    shards = opened(out)
    add(shards, "b/ü.jpg")
    failed = ShardRow("a.jpg", None, (), np.zeros((0, 0), np.float32), "cannot read it")
    shards.write(0, [failed])
    assert shards.facts(0) == ShardFacts(images=0, instances=0, failed=1, embedding_size=0)
    assert opened(out).missing() == [0, 2, 3]


def test_results_of_other_settings_are_dropped(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="soloist")
    add(opened(out, {**SETTINGS, "short_side": 1}), *NAMES[:3])
    other = opened(out)
    assert other.finished() == []
    assert "other settings are dropped" in caplog.text
    add(other, *NAMES)
    finish(other, out)
    check_whole(out)


def test_images_that_came_or_went_cost_nothing_but_themselves(out: Path) -> None:
    add(opened(out, images=IMAGES[:3]), *NAMES[:3])
    more = opened(out)
    assert more.missing() == [3]
    add(more, NAMES[3])
    finish(more, out)
    check_whole(out)


def test_images_of_other_ids_are_made_again(out: Path) -> None:
    add(opened(out), *NAMES)
    assert opened(out, images=IMAGES[1:]).finished() == []


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"sizes": (1, 2), "deep": {"list": [1]}}, id="tuples"),
        pytest.param({"limit": float("inf")}, id="infinite"),
        pytest.param({"name": "ü\ud800"}, id="broken-characters"),
        pytest.param({}, id="none"),
    ],
)
def test_equal_settings_of_any_kind_resume(out: Path, settings: dict[str, object]) -> None:
    add(opened(out, settings), "a.jpg", "b/ü.jpg")
    assert done(opened(out, settings)) == {"a.jpg", "b/ü.jpg"}


def test_nothing_added_gives_an_empty_file(out: Path) -> None:
    finish(opened(out), out)
    coco = load_coco(out)
    assert coco.images == ()
    assert len(coco) == 0


def test_images_without_objects_are_in_the_file(out: Path) -> None:
    shards = opened(out)
    add(shards, "a.jpg")
    finish(shards, out)
    coco = load_coco(out)
    assert [image.file_name for image in coco.images] == ["a.jpg"]
    assert coco.annotations == {1: ()}


def test_georeferences_are_kept(out: Path) -> None:
    place = Georeference((0.5, 0.0, 1.0, 0.0, -0.5, 2.0), "EPSG:32633")
    shards = opened(out)
    shards.write(0, [row_of(CocoImage(1, "a.jpg", *SIZE, place), instances("a.jpg"), CATEGORIES)])
    finish(shards, out)
    assert load_coco(out).images[0].georeference == place


def test_the_folder_is_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "masks.json"
    shards = opened(out)
    add(shards, *NAMES)
    finish(shards, out)
    check_whole(out)


def test_a_place_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"cannot write beside .*; choose another --out") as caught:
        opened(tmp_path / "file" / "masks.json")
    assert "\n" not in str(caught.value)


def test_two_outputs_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    one, other = (opened(tmp_path / name) for name in ("one.json", "other.json"))
    add(one, "a.jpg")
    add(other, "b/ü.jpg")
    assert done(one) == {"a.jpg"}
    assert done(other) == {"b/ü.jpg"}


def test_a_run_killed_before_it_tidied_up_is_not_finished(
    out: Path, killed_at: Callable[[Any, str, int], AbstractContextManager[None]]
) -> None:
    assert not is_finished(out)
    shards = opened(out)
    add(shards, *NAMES)
    # Each of the two files removes its temporary name first.
    with killed_at(Path, "unlink", 4):
        finish(shards, out)
    check_whole(out)
    assert not is_finished(out)
    again = opened(out)
    assert len(again.missing()) == 1
    add(again, *(NAMES[number] for number in again.missing()))
    finish(again, out)
    check_whole(out)
    assert is_finished(out)


def test_a_file_that_is_being_replaced_is_finished(out: Path) -> None:
    out.write_text("old")
    os.utime(out, (1, 1))
    add(opened(out), NAMES[0])
    assert is_finished(out)


def test_a_json_file_comes_with_its_embeddings(
    out: Path, killed_at: Callable[[Any, str, int], AbstractContextManager[None]]
) -> None:
    """A kill between the two leaves the embeddings alone, which nobody takes for a result."""
    shards = opened(out)
    add(shards, *NAMES)
    with killed_at(os, "replace", 2):
        finish(shards, out)
    assert not out.exists()
    assert out.with_name("masks.embeddings.npy").exists()
    finish(opened(out), out)
    check_whole(out)


def test_leftovers_of_killed_writers_are_removed(out: Path) -> None:
    token = "0123456789abcdef"
    shards = opened(out)
    (shards.folder / f".half.{token}.rows").write_text("half")
    out.with_name(f".masks.embeddings.{token}.npy").write_text("half")
    out.with_name(f".other.{token}.json").write_text("half")
    opened(out)
    assert [path.name for path in out.parent.rglob(".*")] == [f".other.{token}.json"]
