"""From images to a trained segmenter: masks, training, pseudo-labels, training again.

The stages of one run folder, each with its file, so that a killed run resumes where it stopped:
free_masks.json -> rounds/0 -> pseudo_labels_1.json -> rounds/1 -> ... -> model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from soloist.config import Config
from soloist.data.coco.partial import is_finished
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CATEGORIES
from soloist.data.sources import ImageRef, find_images, spread
from soloist.evaluation.evaluate import Metrics, evaluate, load_ground_truth
from soloist.evaluation.stage_titles import stage_title
from soloist.inference.label import LabelSummary, label_images, report_labels
from soloist.inference.reading_ahead import Labeler
from soloist.models.build import CONFIG_FILE, copy_solo, load_categories
from soloist.proposals.extract import FreeMaskExtractor, settings_of, without_floor
from soloist.proposals.propose import decoded_side
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import on_main
from soloist.runtime.files import write_json
from soloist.training.keeping import keep_steadiest, segmenter_of, shown_counts
from soloist.training.prospects import warn_of_few_masks
from soloist.training.pseudo_labels import write_pseudo_labels
from soloist.training.run_folder import VERDICT, RunFolder
from soloist.training.stages import FitResult, Stage, StageGallery
from soloist.training.train import train

logger = logging.getLogger(__name__)

FREE_MASKS = "free masks"
"""The stage whose pace says how long labelling takes."""
TRAINING_SHARE = 0.93
"""Of the time that labelling leaves, what trainings plan with; the rest is for their beginnings."""
SHOWING = 2.0
"""Evaluating and drawing an image takes as long as labelling N images."""

# Images of the gallery where there is no validation set.
PREVIEW_IMAGES = 24


def fit(
    images: Sequence[ImageRef],
    run: RunFolder,
    config: Config,
    runtime: Runtime,
    *,
    start: Path | None = None,
    budget_seconds: float | None = None,
    ground_truth: Path | None = None,
) -> FitResult:
    """Learns to segment from images alone, and writes the segmenter to the run's model folder.

    Args:
        images: Images to learn from.
        run: The run folder; finished stages in it are kept.
        config: Options.
        runtime: Device and precision.
        start: Model folder of a segmenter whose network the first training starts from, and which
            is kept if the trained ones are not steadier; None starts from the backbone.
        budget_seconds: Time for everything together; the steps of each training are planned to
            fill it. None keeps `train.steps`.
        ground_truth: COCO file of a validation set; each stage is evaluated on its images.

    Returns:
        Metrics, and where the masks of each stage are.

    Raises:
        DataError: If no image can be read or has a mask, or the ground truth has no object.
        CheckpointError: If the start is of another architecture.
        TrainingError: If too many losses in a row are not finite; see `train`.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    # A mistake in it shows now, not after hours of training.
    truth = None if ground_truth is None else load_ground_truth(ground_truth)
    evaluated = min(len(images), PREVIEW_IMAGES) if truth is None else len(truth.images)
    free = run.path / "free_masks.json"
    extracted = on_main(partial(is_finished, free))
    with run.timed(FREE_MASKS, done=extracted):
        if not extracted:
            extract_masks(images, free, run, config, runtime)
    stages = [*([] if start is None else [Stage("start", start)]), Stage("free_masks", None)]
    rounds = config.self_training.rounds
    shown = evaluated * (len(stages) + rounds + 1)
    previous: Path | None = None
    for number in range(rounds + 1):
        labels = free if previous is None else run.path / f"pseudo_labels_{number}.json"
        if previous is not None and not on_main(partial(is_finished, labels)):
            with run.timed(f"pseudo-labels {number}"):
                write_pseudo_labels(images, labels, previous, run, config, runtime)
        coarse = load_coco(labels)
        if previous is None:
            on_main(partial(warn_of_few_masks, coarse, images, config))
        if previous is not None and len(coarse) == 0:
            logger.warning(
                "no mask reaches self_training.score_threshold %s: the segmenter before round %d "
                "is the result; more training or a lower threshold helps",
                config.self_training.score_threshold,
                number,
            )
            break
        folder = run.path / "rounds" / str(number)
        finished = on_main((folder / CONFIG_FILE).is_file)
        if not finished:
            budget = None
            if budget_seconds is not None:
                left = budget_seconds - on_main(partial(seconds_used, run))
                pace = on_main(partial(_labelling_pace, run, len(images)))
                later = pace * ((rounds - number) * len(images) + SHOWING * shown)
                budget = training_budget(left, later, rounds + 1 - number)
            from_previous = config.self_training.start_from == "previous"
            start_from = start if previous is None else previous if from_previous else None
            with run.timed(f"training {number}"):
                train(
                    images,
                    coarse,
                    run,
                    config,
                    runtime,
                    model_folder=folder,
                    round_number=number,
                    start_from=start_from,
                    budget_seconds=budget,
                )
        stages.append(Stage(stage_key(number), folder))
        previous = folder
    result = show_stages(stages, images, ground_truth, run, config, runtime)
    assert previous is not None  # Round 0 ends or raises.
    if start is None:
        on_main(partial(copy_solo, previous, run.model))
        return result
    models = [stages[0], stages[-1]]
    counts = on_main(partial(shown_counts, models[0], images, runtime))
    kept = on_main(partial(keep_steadiest, models, images, counts, run, runtime))
    verdict = on_main(lambda: str(run.state[VERDICT]))
    return replace(result, verdict=verdict, fell_back=kept == "start")


def stage_key(number: int) -> str:
    """Name of a round's segmenter in results.json."""
    if number == 0:
        return "segmenter"
    return "self_trained" if number == 1 else f"self_trained_{number}"


def extract_masks(
    images: Sequence[ImageRef], out: Path, run: RunFolder, config: Config, runtime: Runtime
) -> LabelSummary:
    """Free masks of all images, into a COCO file of the run."""
    summary = label_images(
        images,
        FreeMaskExtractor(config, runtime),
        out,
        title="masks",
        short_side=decoded_side(config),
        settings={"stage": FREE_MASKS, **settings_of(config)},
        errors=run.errors,
    )
    report_labels(FREE_MASKS, summary)
    return summary


def show_stages(
    stages: Sequence[Stage],
    images: Sequence[ImageRef],
    ground_truth: Path | None,
    run: RunFolder,
    config: Config,
    runtime: Runtime,
) -> FitResult:
    """Labels images by each stage, and evaluates them where there is a ground truth.

    Args:
        stages: The stages.
        images: Training images; some are shown where there is no ground truth.
        ground_truth: COCO file of a validation set; results.json is written with it.
        run: The run folder; masks go to its folder `evaluation`.
        config: Options.
        runtime: Device and precision.
    """
    shown = (
        find_images(ground_truth, config.reading)
        if ground_truth
        else spread(images, PREVIEW_IMAGES)
    )
    metrics: dict[str, Metrics] = {}
    gallery: list[StageGallery] = []
    for stage in stages:
        out = run.path / "evaluation" / f"{stage.key}.json"
        labelled = on_main(partial(is_finished, out))
        with run.timed(f"evaluation of {stage.key}", done=labelled):
            if not labelled:
                label_images(
                    shown,
                    _stage_labeler(stage, config, runtime),
                    out,
                    title=f"evaluation of {stage.key}",
                    short_side=decoded_side(config),
                    settings={"stage": stage.key},
                    errors=run.errors,
                    categories=load_categories(stage.model) if stage.model else CATEGORIES,
                )
        gallery.append(StageGallery(stage.key, stage_title(stage.key), out))
        if ground_truth is not None:
            metrics[stage.key] = on_main(partial(evaluate, out, ground_truth))
    if ground_truth is not None:
        on_main(partial(write_json, run.path / "results.json", metrics, indent=2))
    return FitResult(metrics, gallery, shown)


def _stage_labeler(stage: Stage, config: Config, runtime: Runtime) -> Labeler:
    """The stage with the floor on its scores that precision-recall curves need: none."""
    if stage.model is None:
        return FreeMaskExtractor(without_floor(config), runtime)
    return segmenter_of(stage.model, runtime).labeler


def training_budget(left: float, later: float, trainings: int) -> float:
    """Seconds for the next of so many trainings.

    Args:
        left: Seconds of the budget.
        later: Seconds that labelling, evaluation and report will take, as far as is known. They
            take half of what is left at most: a network that learned nothing is worth no report.
        trainings: How many there are to come.
    """
    return TRAINING_SHARE * max(left - later, left / 2, 0.0) / trainings


def _labelling_pace(run: RunFolder, images: int) -> float:
    """Seconds that free masks took an image; 0 where that is not known."""
    return float(run.state.get("timing", {}).get(FREE_MASKS, 0.0)) / max(1, images)


def seconds_used(run: RunFolder) -> float:
    """Time of the stages so far, over all sessions of the run."""
    return float(sum(run.state.get("timing", {}).values()))
