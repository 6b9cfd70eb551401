"""The verb `bench`: tables out of many trainings: `ablate`, `curve` and `finetune`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from soloist.cli.arguments import (
    AblateOptions,
    Computing,
    DryRun,
    FinetuneTableOptions,
    Flat,
    Images,
    Preset,
)
from soloist.cli.options import given
from soloist.cli.runs import DONE, carry_out, parse_duration

Several = Parameter(consume_multiple=True, negative="")
bench = App(
    name="bench", help="Compare many trainings: ablations, learning curves, starts of `finetune`."
)


@dataclass(frozen=True)
class Trials:
    """Which trainings `bench ablate` does."""

    table: Annotated[
        tuple[str, ...],
        Parameter(
            consume_multiple=True,
            negative="",
            help="`masks`, `pretrain`, `losses`, `inference`, `selftrain`, `semantic`, or `all`.",
        ),
    ] = ("all",)
    masks: Annotated[
        Path | None,
        Parameter(help="COCO file of the images' free masks; made first where it is not given."),
    ] = None
    labelled: Annotated[
        Path | None,
        Parameter(
            help="COCO file of true masks with categories, for the finetuning of the table "
            "`semantic`; without it only masks are compared there."
        ),
    ] = None
    labels: Annotated[
        str,
        Parameter(help="How many of the labelled images it uses: a percentage or a number."),
    ] = "10%"
    backbones: Annotated[
        tuple[str, ...],
        Parameter(
            consume_multiple=True,
            negative="",
            help="More rows of the table `pretrain`, as for `--backbone`.",
        ),
    ] = ()
    steps: Annotated[
        int | None,
        Parameter(
            help="Steps of each training; its warm-ups change with it. The preset's if left out."
        ),
    ] = None
    seeds: Annotated[
        tuple[int, ...],
        Parameter(consume_multiple=True, negative="", help="Each training is done once with each."),
    ] = (0,)
    budget: Annotated[
        str | None,
        Parameter(
            help="No trial is begun after this time, such as 90m or 1h30m; one under way is "
            "finished."
        ),
    ] = None


@bench.command
def finetune(
    data: Path,
    *,
    run: Path,
    gt: Path,
    out: Path,
    labels: Annotated[tuple[str, ...], Several] = ("2%", "5%", "10%", "100%"),
    steps: Annotated[tuple[int, ...], Several] = (),
    seeds: Annotated[tuple[int, ...], Several] = (0, 1, 2),
    preset: Preset = "tiny",
    where: Annotated[Computing, Flat] = Computing(),
    options: Annotated[FinetuneTableOptions, Flat] = FinetuneTableOptions(),
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
    from soloist.runtime.stopping import listening
    from soloist.training.experiments.finetune_table import make_table, plan_cells

    cells = plan_cells(str(run), labels, steps, seeds)
    with listening():
        table = make_table(
            cells,
            data,
            gt,
            out,
            preset=preset,
            options=given(options),
            device=where.device,
            precision=where.precision,
        )
    sys.stdout.write(f"{table}\n")
    return DONE


@bench.command
def curve(
    data: Path,
    *,
    gt: Path,
    out: Path,
    labels: Annotated[tuple[int, ...], Several] = (1, 4, 16, 64),
    seeds: Annotated[tuple[int, ...], Several] = (0, 1, 2),
    lists: Annotated[tuple[Path, ...], Several] = (),
    init: str = "bundled",
    learn: Literal["auto", "regions", "network"] = "auto",
    images: str | None = None,
    where: Annotated[Computing, Flat] = Computing(),
) -> int:
    """Draw a learning curve: what `finetune` reaches with more and more labelled images.

    Args:
        data: COCO file of true masks with categories, or a data set of another format.
        gt: COCO file of a validation set with the same categories; never learned from.
        out: Folder for the runs, curve.md and curve.svg; the same command again does what is left.
        labels: Numbers of labelled images.
        seeds: Each number of images is drawn and learned from once with each.
        lists: Text lists of images in the order of their labelling, such as those of `soloist
            estimate --select`: a line of the plot each, beside images drawn at random.
        init: As for `finetune`.
        learn: As for `finetune`.
        images: Folder of the images where they do not lie beside the file.
    """
    from soloist.data.datasets.labels import Reading
    from soloist.runtime.stopping import listening
    from soloist.training.experiments.curve import make_curve, plan_points

    points = plan_points(labels, seeds, lists)
    with listening():
        table = make_curve(
            points,
            data,
            gt,
            out,
            init=init,
            learn=learn,
            how=Reading(images=images),
            device=where.device,
            precision=where.precision,
        )
    sys.stdout.write(f"{table}\n{table.with_suffix('.svg')}\n")
    return DONE


@bench.command
def ablate(
    images: Images,
    *,
    gt: Path,
    out: Path,
    trials: Annotated[Trials, Flat] = Trials(),  # immutable
    preset: Preset = "tiny",
    where: Annotated[Computing, Flat] = Computing(),
    dry_run: DryRun = False,
    options: Annotated[AblateOptions, Flat] = AblateOptions(),
) -> int:
    """Repeat the paper's ablations on your images, as tables beside the paper's own figures.

    Args:
        gt: COCO file of a validation set; never trained on.
        out: Folder for a Markdown and a CSV file a table, and for the trainings; the same command
            again does what is left.
    """
    from soloist.training.experiments.ablate import Wanted
    from soloist.training.experiments.ablate import ablate as make_ablations

    wanted = Wanted(
        tables=trials.table,
        masks=trials.masks,
        labelled=trials.labelled,
        labels=trials.labels,
        backbones=trials.backbones,
        steps=trials.steps,
        seeds=trials.seeds,
        budget_seconds=None if trials.budget is None else parse_duration(trials.budget),
    )
    plan = make_ablations(
        images,
        out,
        ground_truth=gt,
        wanted=wanted,
        made_by=f"soloist {shlex.join(sys.argv[1:])}",
        preset=preset,
        options=given(options),
        device=where.device,
        precision=where.precision,
    )
    written = carry_out("ablate", out, plan, dry_run=dry_run)
    sys.stdout.write("".join(f"{path}\n" for path in written or ()))
    return DONE
