"""Does one trial of an ablation, and keeps its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from soloist.config import Config
from soloist.config.presets import supervised
from soloist.data.coco.partial import is_finished
from soloist.data.coco.read import load_coco
from soloist.data.sources import ImageRef, find_images
from soloist.errors import RunError
from soloist.evaluation.evaluate import Metrics, evaluate
from soloist.inference.label import label_images
from soloist.inference.output_file import opened_output
from soloist.inference.reading_ahead import Labeler
from soloist.inference.segmenter import Segmenter
from soloist.models.build import CONFIG_FILE, build_backbone, load_solo, model_folder
from soloist.proposals.extract import FreeMaskExtractor, without_floor
from soloist.report.run import write_run_report
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import on_main
from soloist.runtime.files import plain_json, shown, write_json
from soloist.training.experiments.ablations import Trial
from soloist.training.finetuning import choose_labelled, finetune, with_classes
from soloist.training.pseudo_labels import write_pseudo_labels
from soloist.training.run_folder import STATE, RunFolder, open_run
from soloist.training.self_training import show_stages
from soloist.training.stages import Stage
from soloist.training.train import train

RESULTS = "results.json"
NO_NETWORK = "what it resumes from has no network"
SEGMENTER, FINETUNED = "segmenter", "finetuned_by_class"
"""Stages of a run's results.json that trials are measured by."""


@dataclass(frozen=True)
class Materials:
    """What trials are made from.

    Attributes:
        images: Images to learn from.
        coarse: COCO file of their free masks, or of other masks to learn from.
        ground_truth: COCO file of the validation set.
        labelled: COCO file of true masks with categories, for finetuning; None without.
        share: How many of the labelled images are used.
    """

    images: Sequence[ImageRef]
    coarse: Path
    ground_truth: Path
    labelled: Path | None = None
    share: str = "10%"


@dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    Attributes:
        figures: Of the validation set, as `evaluate` gives them; empty if the trial could not be.
        seconds: Its time, evaluation included.
        note: Why there are no figures.
    """

    figures: Metrics
    seconds: float
    note: str = ""


def find_outcome(trial: Trial, materials: Materials, folder: Path) -> Outcome | None:
    """The outcome of a trial that is done.

    Args:
        trial: The trial.
        materials: What it would be made from.
        folder: Of all trials.

    Raises:
        RunError: If it was done with other settings.
    """
    path = _record(trial, folder)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"] != _settings(trial, materials):
        raise RunError(
            f"{shown(path)} is of a trial with other settings than those asked for; choose another "
            "--out, or remove it and what it is named after"
        )
    return Outcome(record["figures"], record["seconds"], record["note"])


def check_backbones(trials: Sequence[Trial]) -> None:
    """Builds each backbone that free masks are made with: a mistake shows now, not after hours.

    Raises:
        SoloistError: If one is unknown, or has no weights or no level to read.
    """
    for backbone in {trial.config.backbone for trial in trials if trial.kind == "free masks"}:
        build_backbone(backbone).level(backbone.feature_stride)


def do_trial(trial: Trial, materials: Materials, folder: Path, runtime: Runtime) -> Outcome:
    """Does a trial, or what is left of it, and writes its record.

    Args:
        trial: The trial; what it resumes from is done.
        materials: What it is made from.
        folder: Of all trials.
        runtime: Device and precision.

    Raises:
        SoloistError: For what the commands that do the same would refuse.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    do = {
        "free masks": _free_masks,
        "training": _training,
        "predictions": _predictions,
        "finetuning": _finetuning,
    }[trial.kind]
    outcome = do(trial, materials, folder, runtime)
    record = {
        "settings": _settings(trial, materials),
        "figures": outcome.figures,
        "seconds": round(outcome.seconds, 1),
        "note": outcome.note,
    }
    on_main(partial(write_json, _record(trial, folder), record, indent=2))
    return outcome


def _free_masks(trial: Trial, materials: Materials, folder: Path, runtime: Runtime) -> Outcome:
    config = without_floor(trial.config)
    return _pass(
        FreeMaskExtractor(config, runtime),
        folder / f"{trial.name}.masks.json",
        materials,
        config.extract.short_side,
        _settings(trial, materials),
    )


def _predictions(trial: Trial, materials: Materials, folder: Path, runtime: Runtime) -> Outcome:
    if trial.after is None or not _has_model(folder / trial.after.name):
        return Outcome({}, 0.0, NO_NETWORK)
    network, trained = load_solo(folder / trial.after.name)
    options = trial.config.inference
    return _pass(
        Segmenter(network, replace(trained, inference=options), runtime),
        folder / f"{trial.name}.masks.json",
        materials,
        options.short_side,
        _settings(trial, materials),
    )


def _pass(
    labeler: Labeler, out: Path, materials: Materials, short_side: int, settings: Mapping[str, Any]
) -> Outcome:
    """Labels the validation set and evaluates that."""
    start = time.monotonic()
    if not on_main(partial(is_finished, out)):
        with opened_output(out, overwrite=False) as errors:
            label_images(
                find_images(materials.ground_truth),
                labeler,
                out,
                title=out.name.removesuffix(".masks.json"),
                short_side=short_side,
                settings=settings,
                errors=errors,
            )
    figures = on_main(partial(evaluate, out, materials.ground_truth))
    return Outcome(figures, time.monotonic() - start)


def _training(trial: Trial, materials: Materials, folder: Path, runtime: Runtime) -> Outcome:
    """One training of SOLO; from a round on it learns from pseudo-labels."""
    config = trial.config
    before: Path | None = None
    if trial.after is not None:
        if not _has_model(folder / trial.after.name):
            return Outcome({}, 0.0, NO_NETWORK)
        before = model_folder(folder / trial.after.name)

    def fill(run: RunFolder) -> None:
        labels = materials.coarse
        if before is not None:
            labels = run.path / "pseudo_labels.json"
            if not on_main(partial(is_finished, labels)):
                with run.timed("pseudo-labels"):
                    write_pseudo_labels(materials.images, labels, before, run, config, runtime)
        coarse = load_coco(labels)
        if before is not None and len(coarse) == 0:
            return
        done = on_main(partial(_has_model, run.path))
        with run.timed("training", done=done):
            if not done:
                train(
                    materials.images,
                    coarse,
                    run,
                    config,
                    runtime,
                    model_folder=run.model,
                    round_number=_rounds_before(trial),
                    start_from=before if _starts_from_previous(config) else None,
                )
        stages = [Stage(SEGMENTER, run.model)]
        truth = materials.ground_truth
        result = show_stages(stages, materials.images, truth, run, config, runtime)
        gallery = result.gallery
        on_main(partial(write_run_report, run, result.images, gallery, ground_truth=truth))

    return _run(trial, "train", folder, materials, config, SEGMENTER, fill)


def _finetuning(trial: Trial, materials: Materials, folder: Path, runtime: Runtime) -> Outcome:
    """A training of the classes of some true labels."""
    # Planned so.
    assert trial.after is not None
    assert materials.labelled is not None
    if not _has_model(folder / trial.after.name):
        return Outcome({}, 0.0, NO_NETWORK)
    init = str(model_folder(folder / trial.after.name))
    chosen = choose_labelled(materials.labelled, materials.share, trial.config.seed).finished()
    config = supervised(trial.config)
    config = replace(config, backbone=replace(config.backbone, weights="none"))
    config = with_classes(config, chosen.labels)
    truth = materials.ground_truth

    def fill(run: RunFolder) -> None:
        result = finetune(chosen, run, config, runtime, init=init, ground_truth=truth)
        gallery = result.gallery
        on_main(partial(write_run_report, run, result.images, gallery, ground_truth=truth))

    return _run(trial, "finetune", folder, materials, config, FINETUNED, fill)


def _run(
    trial: Trial,
    command: str,
    folder: Path,
    materials: Materials,
    config: Config,
    stage: str,
    fill: Callable[[RunFolder], None],
) -> Outcome:
    """A trial that is a run folder of its own; one without results had nothing to learn from."""
    path = folder / trial.name
    if not on_main(partial(_is_done, path)):
        inputs = {"trial": json.dumps(_settings(trial, materials))}
        with open_run(path, command=command, inputs=inputs, config=config, overwrite=False) as run:
            fill(run)
            run.finish()
    seconds = sum(on_main(partial(_read, path / STATE)).get("timing", {}).values())
    if not on_main((path / RESULTS).is_file):
        least = config.self_training.score_threshold
        return Outcome({}, seconds, f"no pseudo-label of score {least:g} or more")
    return Outcome(on_main(partial(_read, path / RESULTS))[stage], seconds)


def _rounds_before(trial: Trial) -> int:
    return 0 if trial.after is None else 1 + _rounds_before(trial.after)


def _starts_from_previous(config: Config) -> bool:
    return config.self_training.start_from == "previous"


def _settings(trial: Trial, materials: Materials) -> dict[str, Any]:
    """What a trial's figures depend on."""
    after = trial.after
    settings: dict[str, Any] = {
        "kind": trial.kind,
        "config": asdict(trial.config),
        "gt": str(materials.ground_truth),
    }
    if trial.kind != "free masks":
        settings |= {"coarse": str(materials.coarse), "images": len(materials.images)}
    if after is not None:
        settings |= {"after": _settings(after, materials)}
    if trial.kind == "finetuning":
        settings |= {"labelled": str(materials.labelled), "labels": materials.share}
    return plain_json(settings)


def _record(trial: Trial, folder: Path) -> Path:
    return folder / f"{trial.name}.json"


def _has_model(run: Path) -> bool:
    return (run / "model" / CONFIG_FILE).is_file()


def _is_done(run: Path) -> bool:
    return (run / STATE).is_file() and bool(_read(run / STATE)["finished"])


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
