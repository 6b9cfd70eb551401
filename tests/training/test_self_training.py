from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import soloist
from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.errors import DataError, RunError
from soloist.inference.label import label_images
from soloist.runtime.device import Runtime
from soloist.training import self_training
from soloist.training.run_folder import RunFolder, open_run
from soloist.training.self_training import fit, stage_key, training_budget
from soloist.training.stages import FitResult
from soloist.training.train import train

RUNTIME = Runtime(device=torch.device("cpu"), precision="fp32")
# A network of a few steps is sure of nothing: every mask is taken.
SURE_OF_ALL = {
    "inference": {"category_threshold": 0.0, "score_threshold": 0.0},
    "self_training": {"score_threshold": 0.0, "max_per_image": 3, "max_box_width": 2.0},
}


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return override(tiny_config, SURE_OF_ALL, where="test")


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """Two of the scenes as a validation set of its own."""
    folder = tmp_path_factory.mktemp("val")
    shutil.copytree(scenes / "images", folder / "images")
    content = json.loads((scenes / "annotations.json").read_text())
    content["images"] = content["images"][:2]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] <= 2]
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def fit_in(
    path: Path, config: Config, images: Path, truth: Path | None = None
) -> tuple[RunFolder, FitResult]:
    """Fits in a folder, resuming where an earlier call was killed."""
    with open_run(path, command="fit", inputs={}, config=config, overwrite=False) as run:
        return run, fit(find_images(images), run, config, RUNTIME, ground_truth=truth)


def outcome(run: RunFolder) -> tuple[bytes, Any]:
    weights = (run.model / "model.safetensors").read_bytes()
    return weights, json.loads((run.path / "results.json").read_text())


# Stages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "keys"),
    [
        pytest.param(0, ["free_masks", "segmenter"], id="no-self-training"),
        pytest.param(1, ["free_masks", "segmenter", "self_trained"], id="the-papers"),
        pytest.param(
            2, ["free_masks", "segmenter", "self_trained", "self_trained_2"], id="two-rounds"
        ),
    ],
)
def test_each_stage_is_evaluated_and_shown(
    tmp_path: Path, config: Config, scenes: Path, truth: Path, rounds: int, keys: list[str]
) -> None:
    config = override(config, {"self_training": {"rounds": rounds}}, where="test")
    run, result = fit_in(tmp_path / "run", config, scenes / "images", truth)
    assert list(result.metrics) == keys
    assert [stage.key for stage in result.gallery] == keys
    assert [image.name for image in result.images] == ["000001.jpg", "000002.jpg"]
    assert outcome(run)[1] == result.metrics
    for metrics in result.metrics.values():
        assert len(metrics) == 18
    last = run.path / "rounds" / str(rounds) / "model.safetensors"
    assert (run.model / "model.safetensors").read_bytes() == last.read_bytes()
    assert len(load_coco(run.path / "free_masks.json").images) == 6


@pytest.mark.slow
def test_without_a_truth_training_images_are_shown(
    tmp_path: Path, config: Config, scenes: Path
) -> None:
    run, result = fit_in(tmp_path / "run", config, scenes / "images")
    assert result.metrics == {}
    assert len(result.images) == 6
    assert not (run.path / "results.json").exists()
    assert set(run.state["timing"]) >= {"free masks", "training 0", "pseudo-labels 1", "training 1"}


@pytest.mark.parametrize(
    ("left", "later", "trainings", "wanted"),
    [
        pytest.param(1000.0, 0.0, 1, 930.0, id="nothing-later"),
        pytest.param(1000.0, 200.0, 2, 372.0, id="two-trainings"),
        pytest.param(1000.0, 900.0, 1, 465.0, id="much-later"),
        pytest.param(-5.0, 10.0, 1, 0.0, id="too-late"),
    ],
)
def test_a_budget_keeps_time_for_what_comes_after_a_training(
    left: float, later: float, trainings: int, wanted: float
) -> None:
    assert training_budget(left, later, trainings) == pytest.approx(wanted)


@pytest.mark.slow
def test_trainings_leave_time_for_pseudo_labels_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Config, scenes: Path, truth: Path
) -> None:
    planned: list[float] = []
    original = train

    def noting(*arguments: Any, **options: Any) -> None:
        planned.append(options.pop("budget_seconds"))
        original(*arguments, **options)

    monkeypatch.setattr(self_training, "train", noting)
    monkeypatch.setattr(self_training, "_labelling_pace", lambda *_: 10.0)
    images = find_images(scenes / "images")
    with open_run(tmp_path, command="fit", inputs={}, config=config, overwrite=False) as run:
        fit(images, run, config, RUNTIME, ground_truth=truth, budget_seconds=10_000.0)
    # Three stages are shown on two images, each of which counts twice.
    later = (10.0 * (6 + 12), 10.0 * 12)
    wanted = [training_budget(10_000.0, later[0], 2), training_budget(10_000.0, later[1], 1)]
    assert planned == pytest.approx(wanted, rel=0.02)
    assert all(one < 10_000.0 for one in planned)


def test_stage_keys_are_those_of_design() -> None:
    assert [stage_key(number) for number in range(4)] == [
        "segmenter",
        "self_trained",
        "self_trained_2",
        "self_trained_3",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("start_from", ["backbone", "previous"])
def test_a_round_starts_from_where_it_is_told_to(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    scenes: Path,
    start_from: str,
) -> None:
    started: list[Path | None] = []
    original = train

    def noting(*arguments: Any, **options: Any) -> None:
        started.append(options["start_from"])
        original(*arguments, **options)

    monkeypatch.setattr(self_training, "train", noting)
    config = override(config, {"self_training": {"start_from": start_from}}, where="test")
    run, _ = fit_in(tmp_path / "run", config, scenes / "images")
    first = run.path / "rounds" / "0"
    assert started == [None, first if start_from == "previous" else None]


# Kills


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, scenes: Path, truth: Path
) -> Callable[[Config], tuple[bytes, Any]]:
    """The outcome of a fit nothing interrupted."""
    made: dict[Config, tuple[bytes, Any]] = {}

    def run(config: Config) -> tuple[bytes, Any]:
        if config not in made:
            folder = tmp_path_factory.mktemp("unbroken") / "run"
            made[config] = outcome(fit_in(folder, config, scenes / "images", truth)[0])
        return made[config]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("label_images", 1, id="before-free-masks"),
        pytest.param("train", 1, id="before-training"),
        pytest.param("label_images", 2, id="before-pseudo-labels"),
        pytest.param("train", 2, id="before-the-second-training"),
        pytest.param("label_images", 4, id="in-the-evaluation"),
        pytest.param("evaluate", 3, id="at-the-end"),
    ],
)
def test_a_killed_fit_ends_as_an_unbroken_one(
    tmp_path: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    config: Config,
    scenes: Path,
    truth: Path,
    unbroken: Callable[[Config], tuple[bytes, Any]],
    name: str,
    call: int,
) -> None:
    with killed_at(self_training, name, call):
        fit_in(tmp_path / "run", config, scenes / "images", truth)
    run, _ = fit_in(tmp_path / "run", config, scenes / "images", truth)
    assert outcome(run) == unbroken(config)


@pytest.mark.slow
def test_finished_stages_are_not_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Config,
    scenes: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
) -> None:
    with killed_at(self_training, "train", 2):
        fit_in(tmp_path / "run", config, scenes / "images")
    labelled: list[str] = []
    original = label_images

    def noting(*arguments: Any, **options: Any) -> Any:
        labelled.append(options["title"])
        return original(*arguments, **options)

    monkeypatch.setattr(self_training, "label_images", noting)
    fit_in(tmp_path / "run", config, scenes / "images")
    assert [title for title in labelled if not title.startswith("evaluation")] == []


# Trouble


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "which does not exist", id="missing"),
        pytest.param("{", "it is not JSON", id="no-json"),
        pytest.param('{"images": [], "annotations": []}', "without any", id="no-object"),
        pytest.param("[]", "a list of results without", id="result-list"),
    ],
)
def test_a_truth_that_cannot_be_used_is_told_before_any_work(
    tmp_path: Path, config: Config, scenes: Path, content: str | None, message: str
) -> None:
    truth = tmp_path / "truth.json"
    if content is not None:
        truth.write_text(content)
    with pytest.raises(DataError, match=message):
        fit_in(tmp_path / "run", config, scenes / "images", truth)
    assert not (tmp_path / "run" / "free_masks.json").exists()


@pytest.mark.slow
def test_a_segmenter_that_is_sure_of_nothing_is_kept_as_it_is(
    tmp_path: Path,
    config: Config,
    scenes: Path,
    truth: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, logger="soloist")
    config = override(config, {"self_training": {"score_threshold": 1.1}}, where="test")
    run, result = fit_in(tmp_path / "run", config, scenes / "images", truth)
    assert list(result.metrics) == ["free_masks", "segmenter"]
    assert "no mask reaches self_training.score_threshold 1.1" in caplog.text
    first = run.path / "rounds" / "0" / "model.safetensors"
    assert (run.model / "model.safetensors").read_bytes() == first.read_bytes()


@pytest.mark.slow
def test_an_image_that_fails_in_every_stage_is_listed_once(
    tmp_path: Path, config: Config, scenes: Path
) -> None:
    shutil.copytree(scenes / "images", tmp_path / "images")
    (tmp_path / "images" / "000003.jpg").write_text("no image")
    run, _ = fit_in(tmp_path / "run", config, tmp_path / "images")
    lines = (run.path / "errors.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["image"] for line in lines] == ["000003.jpg"]
    assert json.loads(lines[0])["stage"] == "masks"


# Pseudo-labels


@pytest.mark.slow
def test_pseudo_labels_keep_their_limits(tmp_path: Path, config: Config, scenes: Path) -> None:
    run, _ = fit_in(tmp_path / "run", config, scenes / "images")
    labels = load_coco(run.path / "pseudo_labels_1.json")
    counts = [len(annotations) for annotations in labels.annotations.values()]
    assert max(counts) == 3
    assert labels.embeddings is not None
    assert labels.embeddings.shape == (sum(counts), 16)


# From Python


@pytest.mark.slow
def test_fit_from_python(
    tmp_path: Path, tiny_options: dict[str, Any], scenes: Path, truth: Path
) -> None:
    options: Mapping[str, Any] = tiny_options
    arguments = {"preset": "tiny", "options": options, "precision": "fp32", "device": "cpu"}
    segmenter = soloist.fit(
        scenes / "images",
        tmp_path / "run",
        ground_truth=truth,
        **arguments,  # type: ignore[arg-type]
    )
    assert len(segmenter.predict(scenes / "images")) == 6
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Worst</h3>" in page
    assert 'href="evaluation/per_image.csv"' in page
    table = (tmp_path / "run" / "evaluation" / "per_image.csv").read_text().splitlines()
    assert len(table) == 1 + len(load_coco(truth).images)
    with pytest.raises(RunError, match="--overwrite"):
        soloist.fit(scenes / "images", tmp_path / "run", **arguments)  # type: ignore[arg-type]


def test_masks_from_python(tmp_path: Path, tiny_options: dict[str, Any], scenes: Path) -> None:
    out = tmp_path / "masks.json"
    summary = soloist.extract_masks(
        scenes / "images", out, options=tiny_options, device="cpu", precision="fp32"
    )
    assert (summary.images, summary.failed) == (6, 0)
    assert summary.instances == len(load_coco(out))
    # The same again is finished already; other options are not.
    again = soloist.extract_masks(
        scenes / "images", out, options=tiny_options, device="cpu", precision="fp32"
    )
    assert (again.images, again.instances) == (summary.images, summary.instances)
    with pytest.raises(RunError, match="--overwrite"):
        soloist.extract_masks(scenes / "images", out, preset="soloist")
    figures = soloist.evaluate(out, scenes / "annotations.json")
    assert len(figures) == 18
