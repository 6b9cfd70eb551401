"""The verbs that learn: `pretrain`, `train`, `fit` and `finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from soloist.cli.arguments import (
    Exif,
    FinetuneOptions,
    FitOptions,
    FitRunning,
    Flat,
    Images,
    Labels,
    PretrainOptions,
    Running,
    Strict,
    TrainOptions,
)
from soloist.cli.options import given
from soloist.cli.runs import parse_duration, teach
from soloist.config.idle import refuse_idle


def pretrain(
    images: Images,
    *,
    out: Path,
    running: Annotated[Running, Flat] = Running(),
    options: Annotated[PretrainOptions, Flat] = PretrainOptions(),
) -> int:
    """Learn a backbone from your own images by DenseCL, from scratch without a checkpoint.

    Args:
        out: Run folder; the same command again resumes it.
    """
    from soloist import api

    setup = running.setup(options)
    plan = api.pretrain.plan(images, out, overwrite=running.overwrite, **setup)
    return teach("pretrain", out, plan, dry_run=running.dry_run)


def train(
    images: Images,
    *,
    masks: Path,
    out: Path,
    init: Path | None = None,
    exif: Exif = None,
    strict: Strict = False,
    running: Annotated[Running, Flat] = Running(),
    options: Annotated[TrainOptions, Flat] = TrainOptions(),
) -> int:
    """Train one round of self-supervised SOLO on coarse masks.

    Args:
        masks: COCO file of `soloist masks`, of an earlier segmenter's `predict` or of another tool.
        out: Run folder; the same command again resumes it.
        init: Run folder of an earlier segmenter to start from, instead of the backbone.
    """
    from soloist import api
    from soloist.data.datasets.labels import Reading

    plan = api.train.plan(
        images,
        out,
        masks=masks,
        init=init,
        how=Reading(strict=strict, exif=exif),
        overwrite=running.overwrite,
        **running.setup(options),
    )
    return teach("train", out, plan, dry_run=running.dry_run)


def fit(
    images: Images,
    *,
    out: Path,
    init: str | None = None,
    learn: Literal["auto", "regions", "network"] = "auto",
    rounds: int | None = None,
    budget: str | None = None,
    gt: Path | None = None,
    running: Annotated[FitRunning, Flat] = FitRunning(),
    options: Annotated[FitOptions, Flat] = FitOptions(),
) -> int:
    """Adapt to your images without labels; the start is kept unless something steadier is learned.

    Args:
        out: Run folder; the same command again resumes it.
        init: Where to start: `bundled`, the run folder or file of a segmenter, `backbone` (only
            that is pretrained) or `scratch` (nothing is). By default `bundled` for the preset
            `soloist`, `backbone` for the others, as in the paper.
        learn: `regions`: in minutes, what the images' objects look like, from the masks that the
            start finds; `network`: coarse masks, a training, pseudo-labels, another training, as in
            the paper; `auto`: the former where there is a segmenter to start from, unless options
            of a training are given.
        rounds: Rounds of self-training: for regions 2 by default, for a network, after its first
            training, those of the preset.
        budget: Time for everything, such as 90m or 1h30m; what is learned is planned to fit it.
        gt: COCO file of a validation set, to evaluate each stage on; never trained on.
    """
    from soloist import api

    setup = running.setup(options)
    if rounds is not None:
        values = given(options)
        own = values.get("self_training", {})
        refuse_idle({"--self-training.rounds": own.get("rounds")}, "beside --rounds")
        setup["options"] = {**values, "self_training": {**own, "rounds": rounds}}
    plan = api.fit.plan(
        images,
        out,
        init=init,
        learn=learn,
        budget_seconds=None if budget is None else parse_duration(budget),
        ground_truth=gt,
        overwrite=running.overwrite,
        **setup,
    )
    return teach("fit", out, plan, dry_run=running.dry_run)


def finetune(
    data: Path,
    *,
    init: str = "bundled",
    out: Path,
    labels: str = "100%",
    learn: Literal["auto", "regions", "network"] = "auto",
    images: str | None = None,
    how: Annotated[Labels, Flat] = Labels(),
    gt: Path | None = None,
    running: Annotated[Running, Flat] = Running(),
    options: Annotated[FinetuneOptions, Flat] = FinetuneOptions(),
) -> int:
    """Learn from a few true labels: which regions are objects, or with many, the network.

    Args:
        data: COCO file of true masks with categories, or a data set of another format; its images
            lie beside it.
        init: Where to start: the run folder or file of a segmenter, `bundled`, `backbone` (only
            that is pretrained) or `scratch` (nothing is).
        out: Run folder; the same command again resumes it.
        labels: How many of the labelled images are used: a percentage such as 5%, a number, or the
            path of a text list of them, such as `soloist estimate --select` writes.
        learn: `regions`: a judge finds and orders regions, in seconds; `network`: supervised SOLO;
            `auto`: the former for up to 64 images of up to 32 classes, unless options of a training
            are given.
        images: Folder of the images where they do not lie beside the file.
        gt: COCO file of a validation set with the same categories, to evaluate on at the end.
    """
    from soloist import api
    from soloist.data.datasets.labels import Reading

    plan = api.finetune.plan(
        data,
        out,
        init=init,
        labels=labels,
        learn=learn,
        how=Reading(split=how.split, images=images, strict=how.strict, exif=how.exif),
        ground_truth=gt,
        overwrite=running.overwrite,
        **running.setup(options),
    )
    return teach("finetune", out, plan, dry_run=running.dry_run, title="percent")
