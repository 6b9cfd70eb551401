"""The Python functions behind the verbs that make files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from soloist.config.presets import load_config
from soloist.data.datasets.labels import Reading
from soloist.data.sources import find_images
from soloist.evaluation.evaluate import evaluate
from soloist.inference.label import LabelSummary, label_images, opened_output
from soloist.inference.segmenter import Segmenter, load
from soloist.proposals.extract import FreeMaskExtractor, settings_of
from soloist.proposals.propose import decoded_side
from soloist.report.run import write_run_report
from soloist.runtime.device import choose_runtime
from soloist.runtime.distributed import join, on_main
from soloist.training.finetuning import choose_labelled, finetune_config, with_classes
from soloist.training.finetuning import finetune as finetune_run
from soloist.training.run_folder import open_run
from soloist.training.self_training import fit as fit_run

logger = logging.getLogger(__name__)

__all__ = ["evaluate", "extract_masks", "finetune", "fit"]

Sources = str | Path | Sequence[str | Path]


def extract_masks(
    images: Sources,
    out: str | Path,
    *,
    preset: str = "tiny",
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> LabelSummary:
    """Free Mask on images into a COCO file; see `soloist masks`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: The COCO file; embeddings go beside it, failed images to `<stem>.errors.jsonl`.
        preset: `paper` (= `paper-r50`), `paper-r101`, `small`, `tiny` or `soloist`.
        options: Nested values that win over the preset's, e.g. `{"free_mask": {"max_masks": 5}}`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.
        overwrite: Replace a finished file.

    Raises:
        SoloistError: For what a caller can cause.
    """
    out = Path(out)
    config = load_config(preset, None, options)
    runtime = choose_runtime(device, precision)
    join(runtime.device)
    found = find_images(images, config.reading)
    with opened_output(out, overwrite=overwrite) as errors:
        return label_images(
            found,
            FreeMaskExtractor(config, runtime),
            out,
            title="masks",
            short_side=decoded_side(config),
            settings=settings_of(config),
            errors=errors,
            overwrite=overwrite,
        )


def fit(
    images: Sources,
    out: str | Path,
    *,
    preset: str = "tiny",
    options: Mapping[str, Any] | None = None,
    budget_seconds: float | None = None,
    ground_truth: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> Segmenter:
    """Learns to segment from images alone; see `soloist fit`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: Run folder; the same call again resumes an unfinished run.
        preset: `paper` (= `paper-r50`), `paper-r101`, `small`, `tiny` or `soloist`.
        options: Nested values that win over the preset's.
        budget_seconds: Time for everything; None keeps the preset's number of steps.
        ground_truth: COCO file of a validation set, to evaluate each stage on.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.
        overwrite: Replace a finished run.

    Returns:
        The trained segmenter.

    Raises:
        SoloistError: For what a caller can cause.
    """
    config = load_config(preset, None, options)
    found = find_images(images, config.reading)
    truth = None if ground_truth is None else Path(ground_truth)
    inputs = {"images": str(images), "gt": str(truth), "budget": str(budget_seconds)}
    runtime = choose_runtime(device, precision)
    join(runtime.device)
    with open_run(
        Path(out), command="fit", inputs=inputs, config=config, overwrite=overwrite, images=found
    ) as run:
        found = run.own(found)
        result = fit_run(
            found, run, config, runtime, budget_seconds=budget_seconds, ground_truth=truth
        )
        on_main(partial(write_run_report, run, result.images, result.gallery, ground_truth=truth))
        _warn(on_main(result.warning))
        run.finish()
    return load(run.path, device=device, precision=precision)


def finetune(
    data: str | Path,
    out: str | Path,
    *,
    init: str | Path,
    labels: str = "100%",
    images: Sources | None = None,
    preset: str = "tiny",
    options: Mapping[str, Any] | None = None,
    ground_truth: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
) -> Segmenter:
    """Learns classes from a few true labels; see `soloist finetune`.

    Args:
        data: COCO file of true masks with categories.
        out: Run folder; the same call again resumes an unfinished run.
        init: `scratch`, `backbone`, or the run folder, model folder or file of a segmenter.
        labels: How many of the labelled images are used: a percentage or a number.
        images: Where the images are; None looks beside the file.
        preset: `paper` (= `paper-r50`), `paper-r101`, `small`, `tiny` or `soloist`.
        options: Nested values that win over the preset's.
        ground_truth: COCO file of a validation set with the same categories.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `auto`, `bf16` or `fp32`.
        overwrite: Replace a finished run.

    Returns:
        The trained segmenter.

    Raises:
        SoloistError: For what a caller can cause.
    """
    config = finetune_config(preset, None, options or {}, init=str(init))
    how = Reading(images=images)
    chosen = choose_labelled(data, labels, config.seed, how, reading=config.reading)
    config = with_classes(config, chosen.labels)
    truth = None if ground_truth is None else Path(ground_truth)
    inputs = {"data": str(data), "images": str(images), "init": str(init), "labels": labels}
    runtime = choose_runtime(device, precision)
    join(runtime.device)
    with open_run(
        Path(out),
        command="finetune",
        inputs={**inputs, "gt": str(truth)},
        config=config,
        overwrite=overwrite,
        images=chosen.images,
        labels_file=Path(data),
    ) as run:
        chosen = replace(chosen, images=run.own(chosen.images))
        result = finetune_run(chosen, run, config, runtime, init=str(init), ground_truth=truth)
        on_main(partial(write_run_report, run, result.images, result.gallery, ground_truth=truth))
        _warn(on_main(result.warning))
        run.finish()
    return load(run.path, device=device, precision=precision)


def _warn(warning: str | None) -> None:
    if warning is not None:
        logger.warning("done, but %s", warning)
