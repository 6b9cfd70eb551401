from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soloist.data.coco.journal import Journal, is_finished
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoImage
from soloist.errors import RunError
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


def add(journal: Journal, *names: str) -> None:
    for name in names:
        journal.add(CocoImage(ORDER[name], name, *SIZE), instances(name))


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


def partial(folder: Path, suffix: str) -> Path:
    return folder / f"masks.partial.{suffix}"


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(NAMES, id="in-order"),
        pytest.param(NAMES[::-1], id="backwards"),
        pytest.param(("c.jpg", "a.jpg", "d.jpg", "b/ü.jpg"), id="mixed"),
    ],
)
def test_the_file_is_in_order_however_images_were_added(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    journal = Journal(tmp_path / "masks.json", SETTINGS)
    add(journal, *names)
    assert len(journal) == 6
    journal.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")
    assert files(tmp_path) == ["masks.embeddings.npy", "masks.json"]


@pytest.mark.parametrize(
    "first", [pytest.param(NAMES[:2], id="start"), pytest.param(("d.jpg", "b/ü.jpg"), id="mixed")]
)
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, first: tuple[str, ...]) -> None:
    add(Journal(tmp_path / "masks.json", SETTINGS), *first)
    resumed = Journal(tmp_path / "masks.json", SETTINGS)
    assert resumed.done == set(first)
    add(resumed, *(name for name in NAMES if name not in resumed.done))
    resumed.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")


@pytest.mark.parametrize("cut", [1, 2, 40, 10_000])
def test_a_line_half_written_is_cut_off(tmp_path: Path, cut: int) -> None:
    add(Journal(tmp_path / "masks.json", SETTINGS), "b/ü.jpg", "d.jpg", "c.jpg")
    lines = partial(tmp_path, "jsonl")
    whole = lines.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    lines.write_bytes(whole[: max(last + 1, len(whole) - cut)])
    resumed = Journal(tmp_path / "masks.json", SETTINGS)
    assert resumed.done == {"b/ü.jpg", "d.jpg"}
    assert len(resumed) == 4
    add(resumed, "c.jpg", "a.jpg")
    resumed.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")


@pytest.mark.parametrize("rest", [1, 4, 13])
def test_embeddings_without_their_line_are_cut_off(tmp_path: Path, rest: int) -> None:
    add(Journal(tmp_path / "masks.json", SETTINGS), "b/ü.jpg")
    with partial(tmp_path, "embeddings").open("ab") as file:
        file.write(b"x" * rest)
    resumed = Journal(tmp_path / "masks.json", SETTINGS)
    add(resumed, "c.jpg", "a.jpg", "d.jpg")
    resumed.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")


def test_results_of_other_settings_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="soloist")
    add(Journal(tmp_path / "masks.json", {**SETTINGS, "short_side": 1}), *NAMES[:3])
    other = Journal(tmp_path / "masks.json", SETTINGS)
    assert other.done == frozenset()
    assert len(other) == 0
    assert "other settings are dropped" in caplog.text
    add(other, *NAMES)
    other.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"sizes": (1, 2), "deep": {"list": [1]}}, id="tuples"),
        pytest.param({"limit": float("inf")}, id="infinite"),
        pytest.param({"name": "ü\ud800"}, id="broken-characters"),
        pytest.param({}, id="none"),
    ],
)
def test_equal_settings_of_any_kind_resume(tmp_path: Path, settings: dict[str, object]) -> None:
    add(Journal(tmp_path / "masks.json", settings), "a.jpg", "b/ü.jpg")
    resumed = Journal(tmp_path / "masks.json", settings)
    assert resumed.done == {"a.jpg", "b/ü.jpg"}
    resumed.finish(settings, order=ORDER)
    # JSON as every reader takes it: without Python's Infinity.
    text = (tmp_path / "masks.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=pytest.fail)


def test_nothing_added_gives_an_empty_file(tmp_path: Path) -> None:
    Journal(tmp_path / "masks.json", SETTINGS).finish(SETTINGS, order=ORDER)
    coco = load_coco(tmp_path / "masks.json")
    assert coco.images == ()
    assert len(coco) == 0


def test_images_without_objects_are_in_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "masks.json", SETTINGS)
    add(journal, "a.jpg")
    journal.finish(SETTINGS, order=ORDER)
    coco = load_coco(tmp_path / "masks.json")
    assert [image.file_name for image in coco.images] == ["a.jpg"]
    assert coco.annotations == {1: ()}


def test_the_file_tells_its_settings(tmp_path: Path) -> None:
    Journal(tmp_path / "masks.json", SETTINGS).finish(SETTINGS, order=ORDER)
    info = json.loads((tmp_path / "masks.json").read_text())["info"]
    assert {key: info[key] for key in SETTINGS} == SETTINGS


def test_the_folder_is_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "deep" / "masks.json", SETTINGS)
    add(journal, *NAMES)
    journal.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "new" / "deep" / "masks.json")


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"cannot write beside .*; choose another --out") as caught:
        Journal(tmp_path / "file" / "masks.json", SETTINGS)
    assert "\n" not in str(caught.value)


def test_two_outputs_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    one, other = (Journal(tmp_path / name, SETTINGS) for name in ("one.json", "other.json"))
    add(one, "a.jpg")
    add(other, "b/ü.jpg")
    assert one.done == {"a.jpg"}
    assert other.done == {"b/ü.jpg"}


# Several processes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(("a.jpg", "c.jpg"), ("b/ü.jpg", "d.jpg"), id="taking-turns"),
        pytest.param(("d.jpg", "a.jpg"), ("c.jpg", "b/ü.jpg"), id="mixed"),
        pytest.param((), NAMES, id="all-by-the-other"),
        pytest.param(("a.jpg",), NAMES[1:], id="one-without-objects"),
    ],
)
def test_parts_are_joined_in_order(
    tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    main = Journal(tmp_path / "masks.json", SETTINGS)
    other = Journal(tmp_path / "masks.json", SETTINGS, part=1)
    add(other, *second)
    add(main, *first)
    main.refresh(2)
    assert main.done == set(NAMES)
    assert len(main) == 6
    main.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")
    assert files(tmp_path) == ["masks.embeddings.npy", "masks.json"]


def test_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    for part, name in enumerate(("d.jpg", "b/ü.jpg", "c.jpg")):
        add(Journal(tmp_path / "masks.json", SETTINGS, part=part), name)
    ragged = tmp_path / "masks.partial-2.jsonl"
    ragged.write_bytes(ragged.read_bytes()[:-5])
    resumed = Journal(tmp_path / "masks.json", SETTINGS)
    assert resumed.done == {"d.jpg", "b/ü.jpg"}
    add(resumed, "c.jpg", "a.jpg")
    resumed.finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")
    assert files(tmp_path) == ["masks.embeddings.npy", "masks.json"]


def test_parts_of_other_settings_are_dropped(tmp_path: Path) -> None:
    for part, name in enumerate(NAMES[:2]):
        add(Journal(tmp_path / "masks.json", {"short_side": 1}, part=part), name)
    assert Journal(tmp_path / "masks.json", SETTINGS).done == frozenset()
    assert not (tmp_path / "masks.partial-1.jsonl").exists()


def test_a_run_killed_before_it_tidied_up_is_not_finished(
    tmp_path: Path, killed_at: Callable[[Any, str, int], AbstractContextManager[None]]
) -> None:
    out = tmp_path / "masks.json"
    assert not is_finished(out)
    journal = Journal(out, SETTINGS)
    add(journal, *NAMES)
    # Each of the two files removes its temporary name first.
    with killed_at(Path, "unlink", 3):
        journal.finish(SETTINGS, order=ORDER)
    check_whole(out)
    assert not is_finished(out)
    again = Journal(out, SETTINGS)
    assert again.done == set(NAMES)
    again.finish(SETTINGS, order=ORDER)
    check_whole(out)
    assert is_finished(out)


def test_a_file_that_is_being_replaced_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "masks.json"
    out.write_text("old")
    os.utime(out, (1, 1))
    add(Journal(out, SETTINGS), NAMES[0])
    assert is_finished(out)


def test_a_json_file_comes_with_its_embeddings(
    tmp_path: Path, killed_at: Callable[[Any, str, int], AbstractContextManager[None]]
) -> None:
    """A kill between the two leaves the embeddings alone, which nobody takes for a result."""
    journal = Journal(tmp_path / "masks.json", SETTINGS)
    add(journal, *NAMES)
    with killed_at(os, "replace", 2):
        journal.finish(SETTINGS, order=ORDER)
    assert not (tmp_path / "masks.json").exists()
    assert (tmp_path / "masks.embeddings.npy").exists()
    Journal(tmp_path / "masks.json", SETTINGS).finish(SETTINGS, order=ORDER)
    check_whole(tmp_path / "masks.json")


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    token = "0123456789abcdef"
    (tmp_path / f".masks.embeddings.{token}.npy").write_text("half")
    (tmp_path / f".other.{token}.json").write_text("half")
    Journal(tmp_path / "masks.json", SETTINGS)
    assert [path.name for path in tmp_path.glob(".*")] == [f".other.{token}.json"]
