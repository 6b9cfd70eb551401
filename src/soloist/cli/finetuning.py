"""The verbs that learn from true labels: `finetune` and `finetune-table`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soloist.cli.arguments import (
    ConfigFile,
    Device,
    DryRun,
    FinetuneOptions,
    FinetuneTableOptions,
    Flat,
    Overwrite,
    Precision,
    Preset,
)
from soloist.cli.options import given
from soloist.cli.runs import DONE, finish, open_command, tell_plan

logger = logging.getLogger("soloist")

Several = Parameter(consume_multiple=True, negative="")


def finetune(
    data: Path,
    *,
    init: str,
    out: Path,
    labels: str = "100%",
    images: str | None = None,
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
        data: COCO file of true masks with categories; its images lie beside it.
        init: Where to start: the run folder or file of a segmenter, `backbone` (only that is
            pretrained) or `scratch` (nothing is).
        out: Run folder; the same command again resumes it.
        labels: How many of the labelled images are used: a percentage such as 5%, or a number.
        images: Folder of the images where they do not lie beside the file.
        gt: COCO file of a validation set with the same categories, to evaluate on at the end.
    """
    from soloist.data.sources import find_images
    from soloist.dry_run import plan_finetune
    from soloist.engine.distributed import join, on_main
    from soloist.engine.runtime import choose_runtime
    from soloist.finetuning import choose_labelled, finetune_config, with_classes
    from soloist.finetuning import finetune as run_finetune
    from soloist.run_report import print_results, write_run_report

    settings = finetune_config(preset, config, given(options), init=init)
    chosen = choose_labelled(find_images(images or data), data, labels, settings.seed)
    settings = with_classes(settings, chosen.labels)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan(
            "finetune",
            out,
            lambda: plan_finetune(chosen, settings, runtime, init=init, ground_truth=gt),
        )
    join(runtime.device)
    inputs = {"labels": labels, "init": init, "folder": images, "gt": gt}
    with open_command("finetune", [str(data)], out, settings, overwrite, **inputs) as run:
        logger.info("finetune: %d images on %s", len(chosen.images), runtime)
        result = run_finetune(chosen, run, settings, runtime, init=init, ground_truth=gt)
        on_main(lambda: write_run_report(run, result.images, result.gallery, ground_truth=gt))
        print_results(result.metrics, title="percent")
        return finish(run)


def finetune_table(
    data: Path,
    *,
    run: Path,
    gt: Path,
    out: Path,
    labels: Annotated[tuple[str, ...], Several] = ("2%", "5%", "10%", "100%"),
    steps: Annotated[tuple[int, ...], Several] = (),
    seeds: Annotated[tuple[int, ...], Several] = (0, 1, 2),
    preset: Preset = "tiny",
    device: Device = "auto",
    precision: Precision = "auto",
    options: Annotated[FinetuneTableOptions, Flat] = FinetuneTableOptions(),  # noqa: B008
) -> int:
    """Compare starts of `finetune` by their AP: scratch, backbone alone, and a segmenter's run.

    Args:
        data: COCO file of true masks with categories; its images lie beside it.
        run: Run folder of the segmenter.
        gt: COCO file of a validation set with the same categories; never trained on.
        out: Folder for the runs, table.md and table.csv; the same command again does what is
            left.
        labels: Shares of labelled images, as for `finetune`.
        steps: Steps of a training with each of the shares; 2%, 5%, 10% and 100% have some.
        seeds: Each share is drawn and trained on once with each.
    """
    from soloist.engine.stopping import listening
    from soloist.finetune_table import make_table, plan_cells

    cells = plan_cells(str(run), labels, steps, seeds)
    with listening():
        table = make_table(
            cells,
            data,
            gt,
            out,
            preset=preset,
            options=given(options),
            device=device,
            precision=precision,
        )
    sys.stdout.write(f"{table}\n")
    return DONE
