"""The verbs that explore masks: `cluster` and `estimate`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from soloist.cli.arguments import (
    PRESETS_HELP,
    ConfigFile,
    Device,
    FeatureOptions,
    Flat,
    Images,
    MaskImages,
    ModelChoice,
    Overwrite,
    Precision,
)
from soloist.cli.options import given
from soloist.cli.runs import DONE, failures_status
from soloist.config.idle import flags_of, refuse_idle

SHOWN_IMAGES = 10
"""Images that `estimate` prints; its file has all."""


@dataclass(frozen=True)
class Groups:
    """How `cluster` groups."""

    groups: Annotated[
        int | Literal["auto"],
        Parameter(help="How many; `auto` takes the number of the highest silhouette."),
    ] = "auto"
    min_score: Annotated[
        float | None,
        Parameter(
            help="Masks below it do not shape the groups; they get the nearest one. Without it the "
            "score that the model recommends."
        ),
    ] = None


@dataclass(frozen=True)
class LookAlikes:
    """What `cluster` does for one mask instead of groups of all."""

    like: Annotated[
        int | None,
        Parameter(
            help="Id of an annotation: find the masks that look most like it, instead of groups."
        ),
    ] = None
    count: Annotated[
        PositiveInt | None, Parameter(help="With --like: how many to find. [default: 20]")
    ] = None
    elsewhere: Annotated[
        bool,
        Parameter(negative="", help="With --like: leave out the other masks of the same image."),
    ] = False


@dataclass(frozen=True)
class Features:
    """What `cluster` compares."""

    features: Annotated[
        Literal["embeddings", "backbone"],
        Parameter(
            help="What is compared: the masks' embeddings, or the mean of a backbone's features "
            "under each mask. The options below choose that backbone."
        ),
    ] = "embeddings"
    preset: Annotated[str | None, Parameter(help=f"{PRESETS_HELP} [default: tiny]")] = None
    config: ConfigFile = None
    device: Device = "auto"
    precision: Precision = "auto"

    def refuse_unused(self, options: object) -> None:
        """Refuses what only a backbone has."""
        refuse_idle(
            {
                "--preset": self.preset,
                "--config": self.config,
                "--device": None if self.device == "auto" else self.device,
                "--precision": None if self.precision == "auto" else self.precision,
                **flags_of(given(options), "backbone", "extract"),
            },
            "on embeddings: add --features backbone",
        )


def cluster(
    predictions: Path,
    *,
    grouping: Annotated[Groups, Flat] = Groups(),  # immutable
    out: Path | None = None,
    sheets: Path | None = None,
    gt: Path | None = None,
    images: MaskImages = None,
    alike: Annotated[LookAlikes, Flat] = LookAlikes(),  # immutable
    overwrite: Overwrite = False,
    compared: Annotated[Features, Flat] = Features(),  # immutable
    options: Annotated[FeatureOptions, Flat] = FeatureOptions(),
) -> int:
    """Group masks that look alike: a COCO file with the groups as its categories.

    Args:
        predictions: COCO file of `soloist predict` or `masks`, its embeddings beside it.
        out: COCO file to write; without it `NAME-groups.json` beside the predictions.
        sheets: Folder for contact sheets, one a group and one of all; with --like a sheet of those.
        gt: COCO file with classes, to compare the groups with; nothing is learned from it.
    """
    from soloist import api
    from soloist.api.exploring import Grouping
    from soloist.evaluation.explore.groups import group_table
    from soloist.evaluation.explore.search import match_table
    from soloist.runtime.console import Console
    from soloist.runtime.stopping import STARTS_OVER, listening

    from_backbone = compared.features == "backbone"
    if not from_backbone:
        compared.refuse_unused(options)
        if sheets is None:
            refuse_idle({"--images": images}, "without --sheets: no image is opened")
    console = Console(width=100)
    if alike.like is not None:
        refuse_idle(
            {
                "--groups": None if grouping.groups == "auto" else grouping.groups,
                "--out": out,
                "--gt": gt,
                "--min-score": grouping.min_score,
                "--features": from_backbone,
            },
            "with --like",
        )
        found, sheet = api.look_alikes(
            predictions,
            alike.like,
            count=alike.count or 20,
            elsewhere=alike.elsewhere,
            sheets=sheets,
            images=images or [],
        )
        console.print(match_table(found))
        if sheet is not None:
            sys.stdout.write(f"{sheet}\n")
        return DONE
    refuse_idle({"--count": alike.count, "--elsewhere": alike.elsewhere}, "without --like")
    out = out or predictions.with_name(f"{predictions.stem}-groups.json")
    count = None if grouping.groups == "auto" else grouping.groups
    how = Grouping(count, grouping.min_score, compared.features)
    with listening(STARTS_OVER):
        made = api.cluster(
            predictions,
            out,
            how=how,
            sheets=sheets,
            images=images or [],
            ground_truth=gt,
            overwrite=overwrite,
            preset=compared.preset or "tiny",
            file=compared.config,
            options=given(options),
            device=compared.device,
            precision=compared.precision,
        )
    console.print(group_table(made.groups))
    if made.scores is not None:
        sys.stdout.write(
            "{matched} of {objects} objects matched, {classes} classes in {groups} groups: "
            "NMI {nmi:.3f}, adjusted for chance {ami:.3f}, purity {purity:.3f}\n".format(
                **made.scores
            )
        )
    sys.stdout.write("".join(f"{path}\n" for path in (*made.sheets[:1], out)))
    return failures_status(made.failed, made.errors)


def estimate(
    images: Images,
    *,
    out: Path,
    against: str | None = None,
    gt: Path | None = None,
    select: int | None = None,
    model: Annotated[ModelChoice, Flat] = ModelChoice(),
    overwrite: Overwrite = False,
) -> int:
    """Estimate without labels how good a model's masks are, and which images need a look.

    Each image is segmented as it is, mirrored, smaller, larger and in other colours; masks that
    come back are likely right.

    Args:
        out: JSON file for the estimates; the masks go to `NAME.masks.json` beside it.
        against: A second model, such as the run's `rounds/0`; its masks count as one more view.
        gt: COCO file of the true masks, to compare the estimates with; they do not depend on it.
        select: Pick N images that are worth labelling first: different ones, doubtful before
            others. `NAME.selected.txt` lists them; `soloist studio --order` begins with them.
    """
    from soloist import api
    from soloist.evaluation.quality import bin_table, comparison_lines, image_table
    from soloist.runtime.console import Console
    from soloist.runtime.distributed import is_main
    from soloist.runtime.stopping import listening

    with listening():
        made = api.estimate(
            images,
            out,
            against=against,
            ground_truth=gt,
            select=select,
            overwrite=overwrite,
            **model.setup(),
        )
    if is_main():
        console = Console(width=100)
        console.print(bin_table(made.report))
        console.print(image_table(made.report, SHOWN_IMAGES))
        for number, name in enumerate(made.report.get("selected", ()), start=1):
            console.print(f"label {number}: {name}", markup=False, highlight=False)
        lines = [] if gt is None else comparison_lines(made.report["comparison"])
        sys.stdout.write("\n".join([*lines, str(out)]) + "\n")
    return failures_status(made.failed, made.errors)
