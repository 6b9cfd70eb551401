"""The verbs that make tables out of many trainings: `finetune-table` and `ablate`."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soloist.cli.arguments import (
    AblateOptions,
    Device,
    DryRun,
    FinetuneTableOptions,
    Flat,
    Images,
    Precision,
    Preset,
)
from soloist.cli.options import given
from soloist.cli.runs import DONE, parse_duration, tell_plan
from soloist.config.presets import load_config

Several = Parameter(consume_multiple=True, negative="")


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
    from soloist.experiments.finetune_table import make_table, plan_cells
    from soloist.runtime.stopping import listening

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


def ablate(
    images: Images,
    *,
    gt: Path,
    out: Path,
    table: Annotated[tuple[str, ...], Several] = ("all",),
    masks: Path | None = None,
    labelled: Path | None = None,
    labels: str = "10%",
    backbones: Annotated[tuple[str, ...], Several] = (),
    steps: int | None = None,
    seeds: Annotated[tuple[int, ...], Several] = (0,),
    budget: str | None = None,
    preset: Preset = "tiny",
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: DryRun = False,
    options: Annotated[AblateOptions, Flat] = AblateOptions(),  # noqa: B008  # immutable
) -> int:
    """Repeat the paper's ablations on your images, as tables beside the paper's own figures.

    Args:
        gt: COCO file of a validation set; never trained on.
        out: Folder for a Markdown and a CSV file a table, and for the trainings; the same command
            again does what is left.
        table: `masks`, `pretrain`, `losses`, `inference`, `selftrain`, `semantic`, or `all`.
        masks: COCO file of the images' free masks; made first where it is not given.
        labelled: COCO file of true masks with categories, for the finetuning of the table
            `semantic`; without it only masks are compared there.
        labels: How many of the labelled images it uses: a percentage or a number.
        backbones: More rows of the table `pretrain`, as for `--backbone`.
        steps: Steps of each training; its warm-ups change with it. The preset's if left out.
        seeds: Each training is done once with each.
        budget: No trial is begun after this time, such as 90m or 1h30m; one under way is finished.
    """
    from soloist.api import extract_masks
    from soloist.data.coco.partial import is_finished
    from soloist.data.coco.read import load_coco
    from soloist.data.sources import find_images
    from soloist.evaluation.evaluate import load_ground_truth
    from soloist.experiments.ablate import make_tables
    from soloist.experiments.ablations import plan_tables, trials_of, with_steps
    from soloist.experiments.trials import Materials, check_backbones
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join, on_main
    from soloist.runtime.stopping import listening
    from soloist.training.finetuning import choose_labelled

    config = load_config(preset, None, given(options))
    if steps is not None:
        config = with_steps(config, steps)
    finetuning = labelled is not None
    tables = plan_tables(table, config, seeds=seeds, backbones=backbones, finetuning=finetuning)
    seconds = None if budget is None else parse_duration(budget)
    found = find_images(images)
    load_ground_truth(gt)
    if masks is not None:
        load_coco(masks)
    if labelled is not None:
        choose_labelled(labelled, labels, seeds[0])
    trials = trials_of(tables)
    check_backbones(trials)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("ablate", out, lambda: [trial.name for trial in trials])
    join(runtime.device)
    with listening():
        coarse = out / "free_masks.json" if masks is None else masks
        trains = any(trial.kind == "training" for trial in trials)
        if masks is None and trains and not on_main(lambda: is_finished(coarse)):
            extract_masks(
                images,
                coarse,
                preset=preset,
                options=given(options),
                device=device,
                precision=precision,
            )
        written = make_tables(
            tables,
            Materials(found, coarse, gt, labelled, labels),
            out,
            runtime,
            heading=[
                f"`soloist {shlex.join(sys.argv[1:])}`",
                "",
                f"{time.strftime('%Y-%m-%d')}, {runtime}, preset `{preset}`, {len(found):,} "
                f"images, {config.train.steps} steps a training, seeds "
                f"{', '.join(map(str, seeds))}; validation on `{gt.name}`.",
            ],
            budget_seconds=seconds,
        )
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return DONE
