"""The verb that learns from true labels: `finetune`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from soloist.cli.arguments import (
    ConfigFile,
    Device,
    DryRun,
    Exif,
    FinetuneOptions,
    Flat,
    Overwrite,
    Precision,
    Preset,
    Strict,
)
from soloist.cli.options import given, refuse_idle_values
from soloist.cli.runs import finish, open_command, tell_plan

logger = logging.getLogger("soloist")


def finetune(
    data: Path,
    *,
    init: str,
    out: Path,
    labels: str = "100%",
    images: str | None = None,
    split: str | None = None,
    exif: Exif = None,
    strict: Strict = False,
    gt: Path | None = None,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    options: Annotated[FinetuneOptions, Flat] = FinetuneOptions(),  # noqa: B008  # immutable
) -> int:
    """Learn classes from a few true labels: supervised SOLO, from a segmenter of `fit` or without.

    Args:
        data: COCO file of true masks with categories, or a data set of another format; its images
            lie beside it.
        init: Where to start: the run folder or file of a segmenter, `backbone` (only that is
            pretrained) or `scratch` (nothing is).
        out: Run folder; the same command again resumes it.
        labels: How many of the labelled images are used: a percentage such as 5%, or a number.
        images: Folder of the images where they do not lie beside the file.
        split: Of a data set with several, such as `train2017`.
        gt: COCO file of a validation set with the same categories, to evaluate on at the end.
    """
    from dataclasses import replace

    from soloist.data.datasets.labels import Reading
    from soloist.report.run import print_results, write_run_report
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join, on_main
    from soloist.training.dry_run import plan_finetune
    from soloist.training.finetuning import choose_labelled, finetune_config, with_classes
    from soloist.training.finetuning import finetune as run_finetune

    values = given(options)
    settings = finetune_config(preset, config, values, init=init)
    refuse_idle_values(values, settings)
    how = Reading(split=split, images=images, strict=strict, exif=exif)
    chosen = choose_labelled(data, labels, settings.seed, how, reading=settings.reading)
    settings = with_classes(settings, chosen.labels)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan(
            "finetune",
            out,
            lambda: plan_finetune(chosen, settings, runtime, init=init, ground_truth=gt),
        )
    join(runtime.device)
    inputs = {"labels": labels, "init": init, "folder": images, "gt": gt, "split": split}
    with open_command(
        "finetune",
        [str(data)],
        out,
        settings,
        overwrite,
        images=chosen.images,
        labels_file=data,
        **inputs,
    ) as run:
        chosen = replace(chosen, images=run.own(chosen.images))
        logger.info("finetune: %d images on %s", len(chosen.images), runtime)
        result = run_finetune(chosen, run, settings, runtime, init=init, ground_truth=gt)
        on_main(lambda: write_run_report(run, result.images, result.gallery, ground_truth=gt))
        print_results(result.metrics, title="percent")
        return finish(run, on_main(result.warning))
