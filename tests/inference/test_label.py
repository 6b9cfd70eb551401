"""Images that other processes look at ahead: the same file as from one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from soloist import api
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError, RunError
from soloist.inference import reading_ahead
from soloist.inference.reading_ahead import Labelled, each_labelled
from soloist.structures import Instances

COUNT = 9


@pytest.fixture
def photos(tmp_path: Path) -> list[ImageRef]:
    """Squares on noise, one of them damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(100, 120, (48, 64, 3), dtype=np.uint8)
        pixels[10:30, 10 + number : 34] = (200, 40, 30)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")
    return find_images(folder)


class Split:
    """The mean of an image by one process, the object by another."""

    prepares = True

    def __init__(self, prepare: Callable[[NDArray[np.uint8]], Any]) -> None:
        self._prepare = prepare

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        return self.finish(pixels, self.prepare(pixels, size))

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Any:
        return self._prepare(pixels)

    def finish(self, pixels: NDArray[np.uint8], prepared: Any) -> Instances:
        size = (pixels.shape[0], pixels.shape[1])
        box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        scores = torch.tensor([float(prepared[0]) / 255])
        masks = torch.ones((1, *size), dtype=torch.bool)
        # Who prepared it.
        return Instances(size, masks, scores, box, torch.tensor([[float(prepared[1])]]))


def looked_at(pixels: NDArray[np.uint8]) -> tuple[float, int]:
    return float(pixels.mean()), os.getpid()


def by(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(reading_ahead, "helpers", lambda items, bytes_each: workers)


def test_helpers_prepare_and_this_process_finishes_in_order(
    monkeypatch: pytest.MonkeyPatch, photos: list[ImageRef]
) -> None:
    by(monkeypatch, 2)
    threads = torch.get_num_threads()
    found = list(each_labelled(photos, Split(looked_at), None))
    assert [image for image, _ in found] == photos
    assert [number for number, (_, one) in enumerate(found) if isinstance(one, DataError)] == [4]
    means, others = [], set()
    for _, one in found:
        if isinstance(one, Labelled):
            means.append(float(one.instances.scores) * 255)
            others.add(int(one.instances.embeddings))
    assert means == pytest.approx(
        [np.asarray(Image.open(one.path)).mean() for one in photos if one.name != "4.png"]
    )
    assert len(others) == 2
    assert os.getpid() not in others
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [0, 2])
def test_a_labeler_that_does_not_split_is_asked_here(
    monkeypatch: pytest.MonkeyPatch, photos: list[ImageRef], workers: int
) -> None:
    by(monkeypatch, workers)
    split = Split(looked_at)
    split.prepares = False
    (_, first), *_ = each_labelled(photos[:1], split, None)
    assert isinstance(first, Labelled)
    assert int(first.instances.embeddings) == os.getpid()


def test_a_helper_that_dies_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, photos: list[ImageRef]
) -> None:
    by(monkeypatch, 2)

    def die(pixels: NDArray[np.uint8]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunError, match=r"a process that looks at images died .* continues with"):
        list(each_labelled(photos, Split(die), None))


def test_a_mistake_of_the_labeler_is_raised(
    monkeypatch: pytest.MonkeyPatch, photos: list[ImageRef]
) -> None:
    by(monkeypatch, 2)

    def fail(pixels: NDArray[np.uint8]) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        list(each_labelled(photos, Split(fail), None))


@pytest.mark.slow
def test_the_bundled_segmenter_writes_the_same_file_with_helpers(
    monkeypatch: pytest.MonkeyPatch, photos: list[ImageRef], tmp_path: Path
) -> None:
    written = []
    for workers in (0, 2):
        by(monkeypatch, workers)
        out = tmp_path / f"{workers}" / "masks.json"
        made = api.predict(
            tmp_path / "photos", out, overlays=str(out.parent / "overlays"), device="cpu"
        )
        assert made.failed == 1
        overlays = sorted((out.parent / "overlays").iterdir())
        assert len(overlays) == COUNT - 1
        written.append([out.read_text(), *(path.read_bytes() for path in overlays)])
    assert written[0] == written[1]
    assert written[0][0].count('"score"') >= COUNT - 1
