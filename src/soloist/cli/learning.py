"""The verbs that train: `pretrain`, `train` and `fit`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from soloist.cli.arguments import (
    ConfigFile,
    Device,
    DryRun,
    Exif,
    FitOptions,
    Flat,
    Images,
    Overwrite,
    Precision,
    Preset,
    PretrainOptions,
    Strict,
    TrainOptions,
)
from soloist.cli.options import given, refuse_idle, refuse_idle_values
from soloist.cli.runs import finish, open_command, parse_duration, tell_plan
from soloist.config.presets import load_config

logger = logging.getLogger("soloist")


def pretrain(
    images: Images,
    *,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    options: Annotated[PretrainOptions, Flat] = PretrainOptions(),  # noqa: B008  # immutable
) -> int:
    """Learn a backbone from your own images by DenseCL, from scratch unless told otherwise.

    Args:
        out: Run folder; the same command again resumes it.
    """
    from soloist.data.sources import find_images
    from soloist.report.run import finish_pretrain
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join, on_main
    from soloist.training.dry_run import plan_pretrain
    from soloist.training.pretrain import pretrain as run_pretrain

    values = given(options)
    # From scratch and with all stages unless asked for: the global loss acts on the last one.
    values["backbone"] = {"weights": "none", "stages": 4, **values.get("backbone", {})}
    settings = load_config(preset, config, values)
    found = find_images(images, settings.reading)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("pretrain", out, lambda: plan_pretrain(found, settings, runtime))
    join(runtime.device)
    with open_command("pretrain", images, out, settings, overwrite, images=found) as run:
        found = run.own(found)
        logger.info("pretrain: %d images on %s", len(found), runtime)
        backbone = run_pretrain(found, run, settings, runtime)
        on_main(lambda: finish_pretrain(run, backbone, found, settings, runtime))
        return finish(run)


def train(
    images: Images,
    *,
    masks: Path,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    init: Path | None = None,
    exif: Exif = None,
    strict: Strict = False,
    options: Annotated[TrainOptions, Flat] = TrainOptions(),  # noqa: B008  # immutable
) -> int:
    """Train one round of self-supervised SOLO on coarse masks.

    Args:
        masks: COCO file of `soloist masks`, of an earlier segmenter's `predict` or of another tool.
        out: Run folder; the same command again resumes it.
        init: Run folder of an earlier segmenter to start from, instead of the backbone.
    """
    from soloist.data.datasets.labels import Reading
    from soloist.data.sources import find_images
    from soloist.models.build import model_folder
    from soloist.report.run import write_run_report
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join, on_main
    from soloist.training.data.masks_file import read_masks
    from soloist.training.dry_run import plan_train
    from soloist.training.train import train as run_train

    values = given(options)
    settings = load_config(preset, config, values)
    refuse_idle_values(values, settings)
    if init is not None:
        weights = {"--backbone.weights": values.get("backbone", {}).get("weights")}
        refuse_idle(weights, "with --init, which has its own")
    found = find_images(images, settings.reading)
    start_from = None if init is None else model_folder(init)
    labels = read_masks(masks, found, Reading(images=images, strict=strict, exif=exif))
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("train", out, lambda: plan_train(found, labels, settings, runtime))
    join(runtime.device)
    given_files = {"masks": masks, "init": init}
    with open_command(
        "train", images, out, settings, overwrite, images=found, labels_file=masks, **given_files
    ) as run:
        found = run.own(found)
        logger.info("train: %d images on %s", len(found), runtime)
        run_train(
            found, labels, run, settings, runtime, model_folder=run.model, start_from=start_from
        )
        on_main(lambda: write_run_report(run, found, []))
        return finish(run)


def fit(
    images: Images,
    *,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    rounds: int | None = None,
    budget: str | None = None,
    gt: Path | None = None,
    options: Annotated[FitOptions, Flat] = FitOptions(),  # noqa: B008  # immutable
) -> int:
    """Do it all: free masks, train, pseudo-labels, train again. Images in, segmenter out.

    Args:
        out: Run folder; the same command again resumes it.
        rounds: Rounds of self-training after the first segmenter.
        budget: Time for everything, such as 90m or 1h30m; the trainings are planned to fill it.
        gt: COCO file of a validation set, to evaluate each stage on; never trained on.
    """
    from soloist.data.sources import find_images
    from soloist.report.run import print_results, write_run_report
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join, on_main
    from soloist.training.dry_run import plan_fit
    from soloist.training.self_training import fit as run_fit

    values = given(options)
    if rounds is not None:
        refuse_idle(
            {"--self-training.rounds": values.get("self_training", {}).get("rounds")},
            "beside --rounds",
        )
        values["self_training"] = {**values.get("self_training", {}), "rounds": rounds}
    settings = load_config(preset, config, values)
    refuse_idle_values(values, settings)
    if budget is not None:
        steps = {"--train.steps": values.get("train", {}).get("steps")}
        refuse_idle(steps, "with --budget, which plans the steps")
    seconds = None if budget is None else parse_duration(budget)
    found = find_images(images, settings.reading)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("fit", out, lambda: plan_fit(found, settings, runtime, budget=budget))
    join(runtime.device)
    with open_command(
        "fit", images, out, settings, overwrite, images=found, budget=budget, gt=gt
    ) as run:
        found = run.own(found)
        logger.info("fit: %d images on %s", len(found), runtime)
        result = run_fit(found, run, settings, runtime, budget_seconds=seconds, ground_truth=gt)
        on_main(lambda: write_run_report(run, result.images, result.gallery, ground_truth=gt))
        print_results(result.metrics)
        return finish(run, on_main(result.warning))
