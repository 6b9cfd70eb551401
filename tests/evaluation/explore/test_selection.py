from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.cli.studio.workspace import read_order
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.sources import ImageRef
from soloist.evaluation.explore.selection import facility_location, select, write_selected


def test_greedy_choice_is_near_the_best_of_all() -> None:
    """Of all choices of three, by trying each."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        vectors = generator.normal(size=(9, 4))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike = vectors @ vectors.T
        found = facility_location(alike, 3)
        best = max(
            alike[:, list(three)].max(axis=1).sum() for three in itertools.combinations(range(9), 3)
        )
        # Gains are over -1, where nothing is covered.
        assert alike[:, found].max(axis=1).sum() + 9 >= 0.63 * (best + 9)
        assert len(set(found)) == 3
    assert sorted(facility_location(alike, 20)) == list(range(9))


TWO_KINDS = np.array([[1, 0, 0.1], [1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1]])
NAMES = [f"{n}.png" for n in range(5)]


def test_images_of_each_kind_are_picked() -> None:
    first, second = select(TWO_KINDS, 2)
    assert {first >= 3, second >= 3} == {True, False}
    # The larger kind comes first.
    assert first < 3


def test_images_that_are_all_alike_are_picked_in_their_order() -> None:
    assert select(np.ones((5, 3)), 3) == [0, 1, 2]


COLORS = [(200, 40, 40), (205, 45, 40), (40, 60, 200), (198, 42, 41), (42, 60, 190)]


def file_of(folder: Path) -> tuple[CocoFile, list[ImageRef]]:
    """Images of the five colours with a mask each."""
    (rle,) = encode_masks(np.ones((1, 4, 5), dtype=bool))
    for name, color in zip(NAMES, COLORS, strict=True):
        Image.new("RGB", (5, 4), color).save(folder / name)
    images = tuple(CocoImage(n, name, 4, 5) for n, name in enumerate(NAMES))
    annotations = {
        n: (CocoAnnotation(n, rle, (0, 0, 5, 4), 20.0, 0.9, 1, False, n, n + 1),) for n in range(5)
    }
    file = CocoFile(Path("m.json"), images, annotations, {1: "object"}, None)
    return file, [ImageRef(folder / name, name) for name in NAMES]


def test_paths_of_the_selected_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    file, images = file_of(tmp_path)
    names = write_selected(file, images, 9, tmp_path / "e.json")
    listed = (tmp_path / "e.selected.txt").read_text().split()
    assert [Path(line).name for line in listed] == names
    # One of each colour comes first.
    assert len({COLORS[int(name[0])][0] > 100 for name in names[:2]}) == 2
    assert "wanted 9 images to label, 5 have masks" in caplog.text


def test_without_masks_nothing_is_selected(tmp_path: Path) -> None:
    file, images = file_of(tmp_path)
    nothing = replace(file, annotations={n: () for n in range(5)})
    assert write_selected(nothing, images, 2, tmp_path / "e.json") == []


def test_the_verb_and_the_order_of_the_studio(
    scenes: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e.json"
    command = ["estimate", str(scenes / "images"), "--out", str(out), "--model", str(model_folder)]
    assert run_command([*command, "--select", "0"]) == USER_ERROR
    assert "--select must be at least 1" in capsys.readouterr().err
    assert run_command([*command, "--select", "2", "--device", "cpu"]) == DONE
    selected = json.loads(out.read_text())["selected"]
    assert f"label 1: {selected[0]}" in capsys.readouterr().out
    order = read_order(out)
    assert sorted(order, key=lambda name: order[name])[:2] == selected
    assert len(load_coco(tmp_path / "e.masks.json").images) == len(order) == 6
