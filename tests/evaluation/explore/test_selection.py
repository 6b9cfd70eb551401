from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.cli.studio.workspace import read_order
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.sources import ImageRef
from soloist.evaluation.explore.selection import facility_location, select, write_selected


def covered(alike: NDArray[np.float64], weights: NDArray[np.float64], chosen: list[int]) -> float:
    return float(alike[:, chosen].max(axis=1) @ weights)


def test_greedy_choice_is_near_the_best_of_all() -> None:
    """Of all choices of three, by trying each."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        vectors = generator.normal(size=(9, 4))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike, weights = vectors @ vectors.T, generator.uniform(0.5, 1.5, 9)
        found = facility_location(alike, weights, 3)
        best = max(
            covered(alike, weights, list(three)) for three in itertools.combinations(range(9), 3)
        )
        # Gains are over -1, where nothing is covered.
        least = -weights.sum()
        assert covered(alike, weights, found) - least >= 0.63 * (best - least)
        assert len(set(found)) == 3
    assert sorted(facility_location(alike, weights, 20)) == list(range(9))


def file_of(looks: list[list[float]], scores: list[float]) -> CocoFile:
    """A mask an image, whose embedding is what it looks like."""
    (rle,) = encode_masks(np.ones((1, 4, 5), dtype=bool))
    images = tuple(CocoImage(n, f"{n}.png", 4, 5) for n in range(len(looks)))
    annotations = {
        n: (CocoAnnotation(n, rle, (0, 0, 5, 4), 20.0, scores[n], 1, False, n, n + 1),)
        for n in range(len(looks))
    }
    return CocoFile(
        Path("m.json"), images, annotations, {1: "object"}, np.array(looks, dtype=np.float32)
    )


TWO_KINDS: list[list[float]] = [[1, 0, 0.1], [1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1]]


def test_images_of_each_kind_are_picked() -> None:
    names = select(file_of(TWO_KINDS, [0.9] * 5), {}, 2)
    kinds = {int(name[0]) >= 3 for name in names}
    assert kinds == {True, False}


def test_doubtful_images_weigh_more() -> None:
    """Three of one kind come first, unless the two of the other are in doubt."""
    file = file_of(TWO_KINDS, [0.9] * 5)
    assert int(select(file, {}, 1)[0][0]) < 3
    sure = {f"{n}.png": 1.0 for n in range(3)}
    assert int(select(file, sure, 1)[0][0]) >= 3


def test_paths_of_the_selected_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    file = file_of(TWO_KINDS, [0.9] * 5)
    images = [ImageRef(tmp_path / one.file_name, one.file_name) for one in file.images]
    report = {"images": [{"file_name": one.file_name, "estimate": 0.5} for one in file.images]}
    names = write_selected(file, report, images, 9, tmp_path / "e.json")
    listed = (tmp_path / "e.selected.txt").read_text().split()
    assert [Path(line).name for line in listed] == names
    assert "wanted 9 images to label, 5 have masks" in caplog.text


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
