"""From a few true labels to a segmenter of classes: the split, the training, the figures."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from soloist.config import DEFAULT_READING, Config, ReadingConfig
from soloist.config.presets import load_config, supervised
from soloist.data.coco.types import CocoFile
from soloist.data.datasets.label_split import label_count, labelled_order
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.names import match_names
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError, DataError
from soloist.evaluation.compared import check_classes
from soloist.evaluation.evaluate import evaluate, load_ground_truth
from soloist.models.build import CONFIG_FILE
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import on_main
from soloist.runtime.files import shown, write_json, write_text
from soloist.training.judging import MAX_CLASSES, MAX_IMAGES, judge_of, save_judged
from soloist.training.run_folder import RunFolder
from soloist.training.self_training import show_stages
from soloist.training.stages import FitResult, Stage
from soloist.training.starts import (
    BACKBONE,
    SCRATCH,
    Learner,
    against_regions,
    start_from,
    takes_regions,
)
from soloist.training.train import train

logger = logging.getLogger(__name__)

LABELLED_FILE = "labelled_images.txt"


@dataclass(frozen=True)
class Labelled:
    """The images whose labels are used.

    Attributes:
        images: Those images, in the order they were found.
        labels: The objects on them, without crowd regions.
        total: Labelled images there are.
    """

    images: list[ImageRef]
    labels: CocoFile
    total: int

    @property
    def classes(self) -> int:
        """How many of the categories the chosen images show."""
        annotations = self.labels.annotations.values()
        return len({one.category_id for found in annotations for one in found})

    @property
    def unfinished(self) -> int:
        """How many of the images lack objects."""
        return sum(image.name in self.labels.unfinished for image in self.images)

    def finished(self) -> Labelled:
        """Without unfinished images: a network would learn that what is missing is background.

        Raises:
            DataError: If none is left.
        """
        if not self.unfinished:
            return self
        images = [one for one in self.images if one.name not in self.labels.unfinished]
        if not images:
            raise DataError(
                f"wanted a finished image for a network to learn from, got {self.unfinished} "
                f"unfinished in {shown(self.labels.path)}; finish one, or learn from what is "
                "labelled by --learn regions"
            )
        logger.info("%d unfinished images are left out", self.unfinished)
        known = {image.name for image in images}
        records = tuple(one for one in self.labels.images if one.file_name in known)
        annotations = {one.id: self.labels.annotations[one.id] for one in records}
        labels = replace(self.labels, images=records, annotations=annotations)
        return replace(self, images=images, labels=labels)

    def summary(self) -> str:
        """One line on what was chosen, for people."""
        missing = self.unfinished
        return (
            f"labels: {len(self.images)} of {self.total} labelled images, {len(self.labels)} "
            f"objects of {self.classes} of {len(self.labels.categories)} classes"
            + (f"; {missing} unfinished, learned from near their objects alone" if missing else "")
        )


def choose_labelled(
    labels: str | Path,
    share: str,
    seed: int,
    how: Reading = Reading(),
    *,
    reading: ReadingConfig = DEFAULT_READING,
) -> Labelled:
    """Picks the images whose labels are used.

    Args:
        labels: COCO file or data set of true masks with categories.
        share: A percentage or a number of images, see `data.label_split.label_count`; or the path
            of a text list of them, such as `soloist estimate --select` writes.
        seed: Of the choice; a smaller share of the same seed is part of every larger one.
        how: How the labels are read.
        reading: How the images are read.

    Raises:
        DataError: If the file cannot be used, names no categories, or none of the images that are
            there has an object with a mask and a class.
        ConfigError: If the share cannot be had.
    """
    truth, paths = read_labels(labels, how)
    if not truth.categories:
        raise DataError(
            f"wanted true labels with `categories`, got {shown(truth.path)} without any; finetune "
            "learns classes, `soloist train` needs none"
        )
    objects = {
        image.id: tuple(
            one
            for one in truth.annotations[image.id]
            if not one.iscrowd
            and one.segmentation is not None
            and one.category_id in truth.categories
        )
        for image in truth.images
        if image.id in paths
    }
    _tell_unused(truth)
    names = {image.id: image.file_name for image in truth.images}
    classes = {
        names[key]: {one.category_id for one in found} for key, found in objects.items() if found
    }
    if not classes:
        raise DataError(
            f"wanted labelled images, got {len(truth.images)} images in {shown(truth.path)}, of "
            f"which {len(objects)} are there and none has an object to learn from; check --images, "
            "or see what `soloist data check` says"
        )
    if share.endswith(".txt"):
        chosen = _listed(Path(share), sorted(classes))
    else:
        chosen = set(labelled_order(classes, seed)[: label_count(share, len(classes))])
    records = tuple(record for record in truth.images if record.file_name in chosen)
    return Labelled(
        images=[ImageRef(paths[one.id], one.file_name, one.id, reading) for one in records],
        labels=replace(
            truth,
            images=records,
            annotations={record.id: objects[record.id] for record in records},
            categories=dict(sorted(truth.categories.items())),
        ),
        total=len(classes),
    )


def _listed(file: Path, labelled: Sequence[str]) -> set[str]:
    """The labelled images that a list names.

    Raises:
        DataError: If it names none of them, or what it names could be two.
    """
    wanted = [image.name for image in find_images(file)]
    matches = match_names(wanted, labelled)
    matches.refuse_ambiguous("the labels")
    if not matches.found:
        raise DataError(
            f"wanted labelled images in {shown(file)}, got {len(wanted)} that have no labels, such "
            f"as {shown(wanted[0])}; label some of them first"
        )
    if matches.missing:
        logger.warning("%s: %s", shown(file), matches.account("labelled images"))
    return {labelled[place] for place in matches.found.values()}


def _tell_unused(truth: CocoFile) -> None:
    """Logs how many objects are not learned from, by the first reason that holds."""
    ones = [one for found in truth.annotations.values() for one in found]
    reasons: Counter[str] = Counter()
    for one in ones:
        if one.iscrowd:
            reasons["crowd regions"] += 1
        elif one.segmentation is None:
            reasons["without a mask"] += 1
        elif one.category_id not in truth.categories:
            reasons["of no class that is listed"] += 1
    if reasons:
        listed = ", ".join(f"{count} {what}" for what, count in reasons.items())
        logger.warning(
            "%s: not learned from, of %d objects: %s", shown(truth.path), len(ones), listed
        )


def finetune_config(
    preset: str, file: Path | None, overrides: Mapping[str, Any], *, init: str
) -> Config:
    """A preset with SOLO's own losses, and with what a start asks for; YAML and values win.

    Args:
        preset: As for `load_config`.
        file: As for `load_config`.
        overrides: As for `load_config`.
        init: `scratch`, `backbone`, `bundled` or a segmenter's path.

    Raises:
        ConfigError: If an option is wrong or contradicts the start.
    """

    def change(config: Config) -> Config:
        config = supervised(config)
        if init == BACKBONE:
            return config
        config = replace(config, backbone=replace(config.backbone, weights="none"))
        if init != SCRATCH:
            return config
        # Nothing random is worth keeping.
        return replace(config, train=replace(config.train, frozen_stages=0, freeze_norm=False))

    config = load_config(preset, file, overrides, change=change)
    weights = config.backbone.weights
    if init == BACKBONE and weights == "none":
        raise ConfigError(
            f"--init backbone needs the backbone's weights, the preset {preset!r} has none; add "
            "--backbone.weights, or use --init scratch"
        )
    if init != BACKBONE and weights != "none":
        raise ConfigError(
            f"--init {init} takes no weights of a backbone, got --backbone.weights {weights}; "
            "leave them out, or use --init backbone"
        )
    return config


def with_classes(config: Config, labels: CocoFile) -> Config:
    """A configuration whose network has a channel for each category of the labels.

    Raises:
        ConfigError: If it asks for another number of them.
    """
    classes, asked = len(labels.categories), config.model.num_classes
    if asked not in (1, classes):
        raise ConfigError(
            f"model.num_classes must be that of the labels, {classes}, got {asked}; leave it out"
        )
    return replace(config, model=replace(config.model, num_classes=classes))


def learns_regions(
    learn: Learner, chosen: Labelled, *, init: str, options: Mapping[str, Any]
) -> bool:
    """Whether a judge of regions learns from the labels, and not the network.

    Args:
        learn: As asked for. `auto` takes a judge where there is a segmenter to start from, few
            labelled images of few classes, and no option of a training.
        chosen: The labelled images.
        init: As for `finetune_config`.
        options: Values given by the user, nested by section; see `config.presets.user_options`.

    Raises:
        ConfigError: If regions are asked for and cannot be learned, or options have no effect.
    """
    classes, few = len(chosen.labels.categories), len(chosen.images) <= MAX_IMAGES
    wrong = against_regions(init, options) or (
        f"they learn up to {MAX_CLASSES} classes, got {classes}: use --learn network"
        if classes > MAX_CLASSES
        else None
    )
    if learn == "auto" and not few:
        if wrong is None:
            logger.info(
                "%d labelled images: the network is trained; --learn regions learns from %d of "
                "them in a minute or two",
                len(chosen.images),
                MAX_IMAGES,
            )
        return False
    return takes_regions(learn, wrong)


def new_parts(init: str, config: Config) -> str:
    """What a network without a segmenter to start from is made of, for people."""
    if init == SCRATCH:
        return "random weights in every layer"
    backbone = config.backbone
    return f"backbone {backbone.name} with weights {backbone.weights}; all other layers are new"


def check_truth(chosen: Labelled, ground_truth: Path) -> None:
    """Refuses a validation set without objects or with other classes than the labels.

    Raises:
        DataError: If it is one.
    """
    truth = load_ground_truth(ground_truth)
    check_classes(chosen.labels.categories, chosen.labels.path, truth)


def finetune(
    chosen: Labelled,
    run: RunFolder,
    config: Config,
    runtime: Runtime,
    *,
    init: str,
    regions: Mapping[str, Any] | None = None,
    ground_truth: Path | None = None,
) -> FitResult:
    """Learns a segmenter of classes from true masks, and writes it to the run's model folder.

    Args:
        chosen: The labelled images; their names go to `labelled_images.txt`.
        run: The run folder; what is finished in it is kept.
        config: Options, of `finetune_config`.
        runtime: Device and precision.
        init: `scratch`, `backbone`, `bundled`, or the run folder, model folder or file of a
            segmenter.
        regions: Learn a judge of regions, and leave the network of the start as it is: the options
            given by the user, which win over the start's. None trains the network; see
            `learns_regions`.
        ground_truth: COCO file of a validation set with the same categories.

    Returns:
        Metrics `finetuned` (all classes taken as one) and `finetuned_by_class` (means over the
        classes), which results.json has too; and where the masks are.

    Raises:
        DataError: If no image can be read, or the ground truth has no object or other classes.
        CheckpointError: If the segmenter to start from is of another architecture.
        TrainingError: If too many losses in a row are not finite; see `train`.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    if ground_truth is not None:
        # A mistake in it shows now, not after the training.
        check_truth(chosen, ground_truth)
    names = "".join(f"{image.name}\n" for image in chosen.images)
    on_main(partial(write_text, run.path / LABELLED_FILE, names))
    logger.info(chosen.summary())
    start = start_from(init)
    if start is None:
        logger.info("start: %s", new_parts(init, config))
    finished = on_main((run.model / CONFIG_FILE).is_file)
    with run.timed("training", done=finished):
        if finished:
            pass
        elif regions is not None:
            assert start is not None
            on_main(partial(_learn_regions, chosen, start, run.model, config, regions))
        else:
            train(
                chosen.images,
                chosen.labels,
                run,
                config,
                runtime,
                model_folder=run.model,
                start_from=start,
                categories=chosen.labels.categories,
            )
    stage = Stage("finetuned", run.model)
    result = show_stages([stage], chosen.images, ground_truth, run, config, runtime)
    if ground_truth is None:
        return result
    predicted = result.gallery[0].predictions
    by_class = on_main(partial(evaluate, predicted, ground_truth, classes=True))
    metrics = {**result.metrics, "finetuned_by_class": by_class}
    on_main(partial(write_json, run.path / "results.json", metrics, indent=2))
    return replace(result, metrics=metrics)


def _learn_regions(
    chosen: Labelled, start: Path, model: Path, config: Config, options: Mapping[str, Any]
) -> None:
    """Writes the model of a start that shows regions as a judge of the labels finds them."""
    if chosen.unfinished == len(chosen.images):
        logger.warning(
            "none of the labelled images is finished: what background looks like is not learned; "
            "finish one of them"
        )
    judge = judge_of(chosen.images, chosen.labels, seed=config.seed)
    if judge is None:
        raise DataError(
            f"wanted labelled images with regions to learn from, got {len(chosen.images)} that "
            "cannot be read or are of one colour; check them with `soloist data check`"
        )
    save_judged(model, start, judge, config, options, chosen.labels.categories)
    logger.info("few labels: regions of the image are found and ordered as the labels taught")
