"""What a command would do, before it does it: `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from soloist.config import Config, TileConfig
from soloist.data.coco.types import CocoFile
from soloist.data.sources import ImageRef
from soloist.evaluation.survey import survey
from soloist.inference.segmenter import Segmenter
from soloist.models.backbones import Backbone
from soloist.models.build import (
    build_backbone,
    build_solo,
    carry_over,
    load_solo,
    load_solo_weights,
)
from soloist.runtime.device import Runtime
from soloist.runtime.progress import duration
from soloist.training.data.train_data import match_labels
from soloist.training.finetuning import Labelled, check_truth, new_parts
from soloist.training.keeping import segmenter_of
from soloist.training.prospects import least_steps
from soloist.training.self_judging import Wanted, affordable
from soloist.training.starts import start_from


def plan_pretrain(images: Sequence[ImageRef], config: Config, runtime: Runtime) -> list[str]:
    """Lines about `soloist pretrain`; the backbone is built and its weights are read.

    Raises:
        SoloistError: For what would end the command as well.
    """
    backbone = build_backbone(config.backbone)
    return [
        _images(images, runtime),
        _backbone(config, backbone),
        _training("DenseCL", config.pretrain.steps, config.pretrain.batch_size, len(images)),
    ]


def plan_masks(images: Sequence[ImageRef], config: Config, runtime: Runtime) -> list[str]:
    """Lines about `soloist masks`; the backbone is built and its weights are read.

    Raises:
        SoloistError: For what would end the command as well.
    """
    backbone = build_backbone(config.backbone)
    backbone.level(config.backbone.feature_stride)
    return [
        _images(images, runtime),
        _backbone(config, backbone),
        f"free masks: features of stride {config.backbone.feature_stride}, images of short side "
        f"{config.extract.short_side}, at most {config.free_mask.max_masks} masks each",
    ]


def plan_train(
    images: Sequence[ImageRef], labels: CocoFile, config: Config, runtime: Runtime
) -> list[str]:
    """Lines about `soloist train`; the network is built and its weights are read.

    Raises:
        SoloistError: For what would end the command as well.
    """
    pairs = match_labels(images, labels)
    return [
        _images(images, runtime),
        f"masks: {len(labels)} in {labels.path.name}; {len(pairs)} of the images have some",
        _network(config),
        _training("SOLO", config.train.steps, config.train.batch_size, len(pairs)),
    ]


def plan_finetune(
    chosen: Labelled,
    config: Config,
    runtime: Runtime,
    *,
    init: str,
    regions: bool,
    ground_truth: Path | None,
) -> list[str]:
    """Lines about `soloist finetune`; the network is built and its weights are read.

    Raises:
        SoloistError: For what would end the command as well.
    """
    if ground_truth is not None:
        check_truth(chosen, ground_truth)
    start = start_from(init)
    if regions:
        assert start is not None
        load_solo(start)
        return [
            _images(chosen.images, runtime),
            chosen.summary(),
            "few labels: a judge learns which pixels and regions are objects; the network of "
            f"{init} stays as it is (--learn network trains it)",
        ]
    solo = build_solo(config.backbone, config.model)
    parts = (
        new_parts(init, config)
        if start is None
        else carry_over(solo, start, chosen.labels.categories)
    )
    return [
        _images(chosen.images, runtime),
        chosen.summary(),
        f"network: SOLO, {_parameters(solo)} parameters",
        f"start: {parts}",
        _training("SOLO", config.train.steps, config.train.batch_size, len(chosen.images)),
    ]


def plan_fit(
    images: Sequence[ImageRef],
    config: Config,
    runtime: Runtime,
    *,
    budget_seconds: float | None,
    start: Path | None,
) -> list[str]:
    """Lines about `soloist fit` of a network; it is built and its weights are read.

    Raises:
        SoloistError: For what would end the command as well.
    """
    rounds = config.self_training.rounds
    training = _training("SOLO", config.train.steps, config.train.batch_size, len(images))
    if budget_seconds is not None:
        least = least_steps(len(images), config.train.batch_size)
        training = (
            f"SOLO: steps of {config.train.batch_size} images, as many as "
            f"{duration(budget_seconds)} allow; fewer than {least} find next to nothing"
        )
    solo = build_solo(config.backbone, config.model)
    if start is not None:
        load_solo_weights(solo, start)
    begun = (
        [] if start is None else [f"start: the network of {start}, kept unless it gets steadier"]
    )
    return [
        *plan_masks(images, config, runtime),
        f"network: SOLO, {_parameters(solo)} parameters",
        *begun,
        training,
        f"pseudo-labels and the training again: {rounds} round{'' if rounds == 1 else 's'}",
    ]


def plan_regions(
    images: Sequence[ImageRef], runtime: Runtime, *, start: Path, wanted: Wanted
) -> list[str]:
    """Lines about `soloist fit` of regions; the start predicts some of the images.

    Raises:
        SoloistError: For what would end the command as well.
    """
    segmenter = segmenter_of(start, runtime)
    count, seconds = affordable(segmenter, images, wanted)
    return [
        _images(images, runtime),
        *survey(images, segmenter).lines(),
        f"start: the segmenter of {start}, kept if nothing steadier is learned",
        f"regions: what objects look like is learned from its masks on {count} of the images, in "
        f"{wanted.rounds} round{'' if wanted.rounds == 1 else 's'}; about {duration(seconds)}",
    ]


def plan_predict(
    images: Sequence[ImageRef], segmenter: Segmenter, tiles: TileConfig | None = None
) -> list[str]:
    """Lines about `soloist predict` with a segmenter that is loaded."""
    options = segmenter.config.inference
    cut = "" if tiles is None else f", tiles of {tiles.size} pixels that share {tiles.shared}"
    return [
        _images(images, segmenter.runtime),
        f"network: SOLO, {_parameters(segmenter.network)} parameters",
        f"masks: images of short side {options.short_side}, at most {options.max_per_image} each, "
        f"score at least {options.score_threshold:g}{cut}",
    ]


def _images(images: Sequence[ImageRef], runtime: Runtime) -> str:
    return f"images: {len(images):,}, on {runtime}"


def _backbone(config: Config, backbone: Backbone) -> str:
    name, weights = config.backbone.name, config.backbone.weights
    return f"backbone: {name}, weights {weights}, {_parameters(backbone)} parameters"


def _network(config: Config) -> str:
    solo = build_solo(config.backbone, config.model)
    return f"network: SOLO, {_parameters(solo)} parameters"


def _parameters(network: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()):,}"


def _training(what: str, steps: int, batch_size: int, images: int) -> str:
    passes = steps * batch_size / max(images, 1)
    return f"{what}: {steps:,} steps of {batch_size} images, {passes:.1f} passes over them"
