"""Labels on the disk: nothing is lost by a kill, and `finetune` takes them as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.studio.conftest import SIZE, disc

from soloist.cli.studio.acts import Drawn, Labelled
from soloist.cli.studio.labels import JOURNAL, LabelStore
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask, encode_masks
from soloist.data.sources import find_images
from soloist.errors import DataError, RunError
from soloist.training.finetuning import choose_labelled


def state_of(*names: str, finished: bool = False, category: int = 1) -> Labelled:
    rles = [encode_masks(disc(name)[None])[0] for name in names]
    objects = tuple(Drawn(at, rle, category) for at, rle in enumerate(rles, start=1))
    return Labelled(objects, finished)


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> LabelStore:
    return again(folder, tmp_path)


def again(folder: Path, tmp_path: Path) -> LabelStore:
    """The store as the next command has it."""
    return LabelStore(tmp_path / "run", find_images(folder), [str(folder)], ["cell"])


def test_what_was_put_is_there_after_a_kill(
    store: LabelStore, folder: Path, tmp_path: Path
) -> None:
    store.put("1.png", SIZE, state_of("red", "blue"))
    store.put("0.png", SIZE, state_of("green", finished=True))
    store.set_categories({1: "cell", 2: "dust"})
    # Nobody closes it.
    later = again(folder, tmp_path)
    assert later["1.png"] == state_of("red", "blue")
    assert later["0.png"] == state_of("green", finished=True)
    assert later["2.png"] == Labelled()
    assert later.categories == {1: "cell", 2: "dust"}
    assert not (tmp_path / "run" / JOURNAL).exists()
    assert again(folder, tmp_path)["1.png"] == state_of("red", "blue")


def test_a_line_that_a_kill_cut_off_is_nothing(
    store: LabelStore, folder: Path, tmp_path: Path
) -> None:
    store.put("1.png", SIZE, state_of("red"))
    with (tmp_path / "run" / JOURNAL).open("ab") as journal:
        journal.write(b'{"image": "1.png", "si')
    later = again(folder, tmp_path)
    assert later["1.png"] == state_of("red")
    later.put("1.png", SIZE, state_of("red", "blue"))
    assert again(folder, tmp_path)["1.png"] == state_of("red", "blue")


def test_a_damaged_line_is_told(store: LabelStore, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / JOURNAL).write_text('{"image": "1.png"}\n')
    with pytest.raises(DataError, match=r"line 1 of .*journal.jsonl' is damaged"):
        again(folder, tmp_path)


def test_what_cannot_be_written_has_not_happened(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.put("1.png", SIZE, state_of("red"))
    before = (tmp_path / "run" / JOURNAL).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(RunError, match="No space left"):
            store.put("1.png", SIZE, state_of("red", "blue"))
    assert store["1.png"] == state_of("red")
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_steps_are_taken_back_and_done_again(store: LabelStore) -> None:
    steps = [state_of("red"), state_of("red", "blue"), state_of("blue", finished=True)]
    for step in steps:
        store.put("1.png", SIZE, step)
    for expected in (steps[1], steps[0], Labelled(), Labelled()):
        store.undo("1.png")
        assert store["1.png"] == expected
    store.redo("1.png")
    store.redo("1.png")
    assert store["1.png"] == steps[1]
    assert store.can_undo("1.png") == (True, True)
    store.put("1.png", SIZE, steps[0])
    assert store.can_undo("1.png") == (True, False)


def test_classes_that_objects_have_stay(store: LabelStore) -> None:
    store.put("1.png", SIZE, state_of("red", category=1))
    with pytest.raises(DataError, match="'cell' has objects"):
        store.set_categories({2: "dust"})
    with pytest.raises(DataError, match="got one twice"):
        store.set_categories({1: "dust", 2: " dust"})
    with pytest.raises(DataError, match="empty one"):
        store.set_categories({1: " "})


def test_the_file_is_coco_and_finetune_takes_its_objects(store: LabelStore, tmp_path: Path) -> None:
    store.put("2.png", SIZE, state_of("red", "blue", finished=True))
    store.put("0.png", SIZE, state_of("green"))
    store.put("1.png", SIZE, state_of(finished=True))
    store.write()
    file = load_coco(store.path)
    assert [image.file_name for image in file.images] == ["0.png", "1.png", "2.png"]
    masks = [decode_mask(one.rle) for one in file.annotations[3]]
    assert all(
        np.array_equal(*pair) for pair in zip(masks, (disc("red"), disc("blue")), strict=True)
    )
    assert json.loads(store.path.read_text())["info"]["unfinished"] == ["0.png"]
    # The images are in another folder, which the file names.
    chosen = choose_labelled(store.path, "100%", seed=0)
    assert [image.path.relative_to(tmp_path).as_posix() for image in chosen.images] == [
        "images/0.png",
        "images/2.png",
    ]
    assert chosen.unfinished == 1
    assert [image.name for image in chosen.finished().images] == ["2.png"]
    assert chosen.labels.categories == {1: "cell"}
