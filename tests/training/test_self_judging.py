"""`fit` of regions: what is kept, what is said, and that a killed one ends as an unbroken one."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import soloist
from soloist import api
from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.config import Config
from soloist.data.coco.types import CocoFile
from soloist.data.sources import find_images
from soloist.errors import ConfigError, StoppedError
from soloist.evaluation import steadiness as steadiness_module
from soloist.evaluation.steadiness import steadiness
from soloist.inference.segmenter import BUNDLED, load
from soloist.proposals import candidate_networks, scale
from soloist.proposals import pixels as pixels_module
from soloist.structures import Instances
from soloist.training import self_judging
from soloist.training.run_folder import RunFolder, open_run
from soloist.training.self_judging import Wanted, affordable, regions_wanted
from soloist.training.starts import fit_start

CPU = {"device": "cpu", "precision": "fp32"}
SIZE = (60, 80)


@pytest.fixture(scope="session")
def coins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of bright discs on a dark ground, all of one kind."""
    folder = tmp_path_factory.mktemp("coins")
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[0:120, 0:160]
    for number in range(2):
        pixels = np.full((120, 160, 3), 60.0)
        for place in range(6):
            row, column = 30 + 60 * (place // 3), 27 + 53 * (place % 3)
            down, right, radius = generator.integers((-5, -5, 11), (6, 6, 17))
            disc = (rows - row - down) ** 2 + (columns - column - right) ** 2 < radius**2
            pixels[disc] = (200, 170, 90)
        pixels += generator.normal(0, 4, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def fitted(folder: Path, out: Path, **more: Any) -> soloist.Segmenter:
    """A short learning: few steps, few regions and small trees are enough for bright discs."""
    few = {"regions": {"max_masks": 30}, "inference": {"short_side": 128, "max_side": 256}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels_module, "STEPS", 40)
        patch.setattr(candidate_networks, "STEPS", 40)
        patch.setattr(scale, "MIN_SIDE", 96)
        return soloist.fit(folder, out, options=few, **{**CPU, **more})


@pytest.fixture(scope="session")
def whole(coins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fitted(coins, out)
    return out


def state_of(run: Path) -> Any:
    return json.loads((run / "state.json").read_text())


# What is learned


@pytest.mark.slow
def test_objects_that_look_alike_are_learned(coins: Path, whole: Path) -> None:
    segmenter = load(whole, **CPU)
    state = state_of(whole)
    assert state["kept"] in ("start", "self_trained", "self_trained_2")
    assert "at other scales of 2 images" in state["verdict"]
    assert set(state["timing"]) >= {"pseudo-labels 1", "judge 1", "pseudo-labels 2", "judge 2"}
    assert (segmenter.judge is not None) == (state["kept"] != "start")
    found = segmenter.predict(coins / "0.png")[0]
    bright = np.asarray(Image.open(coins / "0.png"))[:, :, 0] > 130
    best = found.masks[:6].numpy().any(axis=0)
    assert (best & bright).sum() > 0.9 * max(best.sum(), bright.sum())
    page = (whole / "report.html").read_text()
    assert "at other scales of 2 images" in page


@pytest.mark.slow
def test_images_without_many_objects_alike_leave_the_start(
    coins: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here the start is a run, whose own model is left alone."""
    monkeypatch.setattr(self_judging, "evidence", lambda found: 1.26)
    out, before = tmp_path / "run", (whole / "model" / "config.json").read_bytes()
    command = ["fit", str(coins), "--out", str(out), "--device", "cpu", "--init", str(whole)]
    assert run_command(command) == SOME_FAILED
    few = f"do not show many objects alike: 1.3, at least {self_judging.ALIKE:g}"
    said = f"the start is kept, for the images {few}"
    assert f"nothing was gained: {said}" in caplog.text
    assert "soloist finetune" in caplog.text
    assert said[1:] in (out / "report.html").read_text()
    assert load(out).fingerprint == load(whole).fingerprint
    assert (whole / "model" / "config.json").read_bytes() == before


@pytest.mark.slow
def test_images_without_a_shown_mask_leave_the_start(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (90, 90, 90)).save(tmp_path / "plain.png")
    plan = api.fit.plan(tmp_path / "plain.png", tmp_path / "run", device="cpu")
    learned = plan.run()
    assert learned.warning is not None
    assert "finds nothing on any of 1 images" in learned.warning
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_start_whose_masks_are_unsteady_teaches_nothing(
    coins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_judging, "stage_steadiness", lambda *arguments: 0.4)
    learned = api.fit.plan(coins / "0.png", tmp_path / "run", device="cpu").run()
    assert learned.warning is not None
    assert "too unsteady to teach: mean IoU 0.40" in learned.warning
    assert not (tmp_path / "run" / "rounds" / "1").exists()


@pytest.mark.slow
def test_a_killed_fit_ends_as_an_unbroken_one(
    coins: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = self_judging._labelled

    def stopping(number: int, *arguments: Any) -> CocoFile:
        made = original(number, *arguments)
        if number == 2:
            raise StoppedError("asked to stop")
        return made

    monkeypatch.setattr(self_judging, "_labelled", stopping)
    with pytest.raises(StoppedError):
        fitted(coins, tmp_path / "run")
    monkeypatch.undo()
    assert fitted(coins, tmp_path / "run").fingerprint == load(whole).fingerprint


# How much is learned


@pytest.mark.parametrize(
    ("init", "preset", "options", "wanted"),
    [
        (None, "soloist", {}, "bundled"),
        (None, "soloist", {"regions": {"max_masks": 9}}, "bundled"),
        (None, "soloist", {"backbone": {"weights": "none"}}, "backbone"),
        (None, "tiny", {}, "backbone"),
        (None, "paper", {}, "backbone"),
        ("scratch", "soloist", {}, "scratch"),
        ("bundled", "tiny", {}, "bundled"),
    ],
)
def test_where_fit_starts(
    init: str | None, preset: str, options: dict[str, Any], wanted: str
) -> None:
    assert fit_start(init, preset, options) == wanted


@pytest.mark.parametrize(
    ("learn", "init", "options", "wanted"),
    [
        ("auto", "bundled", {}, Wanted(2, 60.0, {})),
        ("auto", "bundled", {"self_training": {"rounds": 3}}, Wanted(3, 60.0, {})),
        (
            "auto",
            "bundled",
            {"inference": {"max_per_image": 7}},
            Wanted(2, 60.0, {"inference": {"max_per_image": 7}}),
        ),
        ("auto", "bundled", {"train": {"steps": 5}}, None),
        ("auto", "bundled", {"self_training": {"score_threshold": 0.5}}, None),
        ("auto", "backbone", {}, None),
        ("network", "bundled", {}, None),
    ],
)
def test_what_fit_learns(
    learn: Any, init: str, options: dict[str, Any], wanted: Wanted | None
) -> None:
    assert regions_wanted(learn, init, options, 60.0) == wanted


@pytest.mark.parametrize(
    ("init", "options", "said"),
    [
        ("backbone", {}, "is no segmenter"),
        ("bundled", {"train": {"steps": 5}}, "options of train have no effect"),
        ("bundled", {"self_training": {"rounds": 0}}, "--rounds must be at least 1"),
    ],
)
def test_regions_that_cannot_be_learned_are_refused(
    init: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        regions_wanted("regions", init, options, None)


def test_a_budget_bounds_the_images(
    coins: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(self_judging, "_seconds_per_image", lambda segmenter, images: 1.0)
    images = find_images(coins) * 60
    segmenter: Any = None
    everything, seconds = affordable(segmenter, images, Wanted())
    assert everything == 64
    half, fewer = affordable(segmenter, images, Wanted(budget_seconds=seconds / 2))
    assert fewer <= seconds / 2
    assert 4 < half < 64
    assert caplog.text == ""
    one, _ = affordable(segmenter, images, Wanted(budget_seconds=1.0))
    assert one == 1
    assert "the budget is too small: 1 of 120 images" in caplog.text


def opened(path: Path) -> RunFolder:
    return open_run(path, command="fit", inputs={}, config=Config(), overwrite=False)


@pytest.mark.parametrize(
    ("took", "budget", "left"),
    [
        pytest.param(20.0, None, 20, id="no-budget"),
        pytest.param(20.0, 1000.0, 20, id="in-time"),
        pytest.param(100.0, 1000.0, 5, id="behind"),
        pytest.param(950.0, 1000.0, 4, id="no-fewer"),
    ],
)
def test_images_are_left_out_when_labelling_took_longer_than_planned(
    coins: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    took: float,
    budget: float | None,
    left: int,
) -> None:
    images = find_images(coins) * 10
    run = opened(tmp_path / "run")
    run.update_state(timing={"pseudo-labels 1": took})
    kept = self_judging._on_time(images, run, Wanted(budget_seconds=budget, evaluated=1))
    assert len(kept) == left
    assert ("behind the budget" in caplog.text) == (left < len(images))
    # What was decided is kept.
    run.update_state(timing={"pseudo-labels 1": 10 * took})
    assert len(self_judging._on_time(images, run, Wanted(budget_seconds=budget))) == left


@pytest.mark.parametrize(("budget", "fits"), [(None, True), (1000.0, True), (400.0, False)])
def test_a_further_judge_is_learned_where_there_is_time(
    tmp_path: Path, budget: float | None, fits: bool
) -> None:
    run = opened(tmp_path / "run")
    run.update_state(timing={"pseudo-labels 1": 100.0, "judge 1": 200.0})
    assert self_judging._fits(2, run, Wanted(budget_seconds=budget)) == fits
    # One that was begun and is done is not asked about.
    run.update_state(timing={"judge 1": 200.0, "judge 2": 500.0})
    assert self_judging._fits(2, run, Wanted(budget_seconds=budget))


def test_a_network_of_another_shape_is_no_start(
    coins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(coins), "--out", str(tmp_path / "run"), "--init", "bundled"]
    command += ["--preset", "small", "--train.steps", "2", "--dry-run"]
    assert run_command(command) == USER_ERROR
    assert "does not fit its network" in capsys.readouterr().err


def test_a_dry_run_says_what_is_learned(
    coins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["fit", str(coins), "--out", str(tmp_path / "run"), "--dry-run"]) == DONE
    said = capsys.readouterr().out
    assert "on 2 of the images, in 2 rounds; about" in said
    assert re.search(r"median of 2: \d+ x \d+ pixels, .* to be cut up; \d+ objects are shown", said)
    assert str(BUNDLED) in said


# Figures without labels


class Fixed:
    """Shows one of two halves of the image first: always the same, or a new one at each call."""

    def __init__(self, moves: bool) -> None:
        self.moves, self.calls = moves, 0

    def __call__(self, pixels: Any, size: tuple[int, int]) -> Instances:
        self.calls += 1
        masks = torch.zeros((2, *size), dtype=torch.bool)
        masks[0, :, : size[1] // 2], masks[1, :, size[1] // 2 :] = True, True
        order = [1, 0] if self.moves and self.calls % 2 else [0, 1]
        scores = torch.tensor([0.9, 0.1])
        return Instances(size, masks[order], scores, torch.zeros(2, 4), torch.zeros(2, 1))

    def masks(self, pixels: Any, size: tuple[int, int], most: int) -> torch.Tensor:
        return self(pixels, size).top_k(most).masks


def test_a_segmenter_that_ranks_by_chance_is_not_steady(
    coins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadiness_module, "scaled_views", lambda one: [one, one])
    images = find_images(coins)
    still, moving = Fixed(moves=False), Fixed(moves=True)
    assert steadiness(still, images, {}) == 1  # type: ignore[arg-type]
    assert steadiness(moving, images, {}) == 0.5  # type: ignore[arg-type]
    both = {image.name: 2 for image in images}
    assert steadiness(moving, images, both) == 1  # type: ignore[arg-type]
    # What is missing counts nothing.
    three = {image.name: 4 for image in images}
    assert steadiness(still, images, three) == 0.5  # type: ignore[arg-type]


def test_steadiness_of_unreadable_images_is_nothing(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    caplog.set_level(logging.WARNING)
    assert steadiness(load(), find_images(tmp_path), {}) == 0
    assert "left out: 'broken.png'" in caplog.text
