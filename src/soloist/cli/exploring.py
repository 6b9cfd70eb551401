"""The verbs that explore masks: `cluster`, `search` and `estimate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from soloist.cli.arguments import (
    PRESETS_HELP,
    ConfigFile,
    Device,
    FeatureOptions,
    Flat,
    Images,
    MaskImages,
    Overwrite,
    Precision,
)
from soloist.cli.options import flags_of, given, refuse_idle
from soloist.cli.runs import DONE, failures_status
from soloist.config.presets import load_config

SHOWN_IMAGES = 10
"""Images that `estimate` prints; its file has all."""


def cluster(
    predictions: Path,
    *,
    groups: int | Literal["auto"] = "auto",
    out: Path | None = None,
    sheets: Path | None = None,
    gt: Path | None = None,
    images: MaskImages = None,
    min_score: float | None = None,
    features: Literal["embeddings", "backbone"] = "embeddings",
    center: bool = True,
    seed: NonNegativeInt = 0,
    preset: Annotated[str | None, Parameter(help=f"{PRESETS_HELP} [default: tiny]")] = None,
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    options: Annotated[FeatureOptions, Flat] = FeatureOptions(),  # noqa: B008  # immutable
) -> int:
    """Group masks that look alike: a COCO file with the groups as its categories.

    Args:
        predictions: COCO file of `soloist predict` or `masks`, its embeddings beside it.
        groups: How many; `auto` takes the number of the highest silhouette.
        out: COCO file to write; without it `NAME-groups.json` beside the predictions.
        sheets: Folder for contact sheets, one a group and one of all.
        gt: COCO file with classes, to compare the groups with; nothing is learned from it.
        min_score: Masks below it do not shape the groups; they get the nearest one. Without it the
            score that the model recommends.
        features: What is compared: the masks' embeddings, or the mean of a backbone's features
            under each mask. The options below choose that backbone.
        center: Compare without the direction that all masks share.
        seed: Of the starts of k-means.
    """
    from soloist.data.coco.read import load_coco
    from soloist.data.datasets.image_paths import image_paths
    from soloist.evaluation.evaluate import load_ground_truth
    from soloist.evaluation.explore.groups import (
        draw_groups,
        group_masks,
        group_table,
        score_groups,
        write_groups,
    )
    from soloist.evaluation.explore.sources import embeddings_of
    from soloist.inference.label import opened_output
    from soloist.proposals.extract import FreeMaskExtractor
    from soloist.proposals.pooling import pool_features
    from soloist.runtime.console import Console
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.stopping import STARTS_OVER, at_once, listening

    chosen = given(options)
    from_backbone = features == "backbone"
    if not from_backbone:
        refuse_idle(
            {
                "--preset": preset,
                "--config": config,
                "--device": None if device == "auto" else device,
                "--precision": None if precision == "auto" else precision,
                **flags_of(chosen, "backbone", "extract"),
            },
            "on embeddings: add --features backbone",
        )
        if sheets is None:
            refuse_idle({"--images": images}, "without --sheets: no image is opened")
    out = out or predictions.with_name(f"{predictions.stem}-groups.json")
    with listening(STARTS_OVER), opened_output(out, overwrite=overwrite) as errors:
        with at_once():
            file = load_coco(predictions)
            least = file.recommended_score if min_score is None else min_score
            made_with = {"features": features, "min_score": least, "center": center, "seed": seed}
            truth = None if gt is None else load_ground_truth(gt)
            paths = image_paths(file, images or []) if from_backbone or sheets is not None else {}
            if from_backbone:
                settings = load_config(preset or "tiny", config, chosen)
                extractor = FreeMaskExtractor(settings, choose_runtime(device, precision))
                vectors = pool_features(file, paths, extractor, errors)
            else:
                vectors = embeddings_of(file)
            count = None if groups == "auto" else groups
            made = group_masks(file, vectors, count, least_score=least, center=center, seed=seed)
            scores = None if truth is None else score_groups(made, file, truth)
            drawn = [] if sheets is None else draw_groups(made, paths, sheets)
        write_groups(made, file, out, {**made_with, "scores": scores})
    Console(width=100).print(group_table(made))
    if scores is not None:
        sys.stdout.write(
            "{matched} of {objects} objects matched, {classes} classes in {groups} groups: "
            "NMI {nmi:.3f}, adjusted for chance {ami:.3f}, purity {purity:.3f}\n".format(**scores)
        )
    if drawn:
        sys.stdout.write(f"{drawn[0]}\n")
    sys.stdout.write(f"{out}\n")
    return failures_status(errors.count, errors.path)


def search(
    predictions: Path,
    mask_id: int,
    *,
    count: PositiveInt = 20,
    out: Path | None = None,
    images: MaskImages = None,
    elsewhere: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Find the masks that look most like one of them, by the cosine of their embeddings.

    Args:
        predictions: COCO file of `soloist predict` or `masks`, its embeddings beside it.
        mask_id: Id of an annotation in the file.
        count: How many to find.
        out: Folder for a contact sheet, the mask itself first.
        elsewhere: Leave out the other masks of the same image.
    """
    from soloist.data.coco.read import load_coco
    from soloist.data.datasets.image_paths import image_paths
    from soloist.evaluation.explore.search import draw_look_alikes, look_alikes, match_table
    from soloist.evaluation.explore.sources import embeddings_of
    from soloist.runtime.console import Console

    if out is None:
        refuse_idle({"--images": images}, "without --out: no image is opened")
    file = load_coco(predictions)
    paths = {} if out is None else image_paths(file, images or [])
    query, found = look_alikes(file, embeddings_of(file), mask_id, count=count, elsewhere=elsewhere)
    Console(width=100).print(match_table(found))
    if out is not None:
        sys.stdout.write(f"{draw_look_alikes(query, found, paths, out)}\n")
    return DONE


def estimate(
    images: Images,
    *,
    model: str | None = None,
    out: Path,
    against: str | None = None,
    gt: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> int:
    """Estimate without labels how good a model's masks are, and which images need a look.

    Each image is segmented as it is, mirrored, smaller, larger and in other colours; masks that
    come back are likely right.

    Args:
        model: As for `predict`; without it the segmenter that comes with the package.
        out: JSON file for the estimates; the masks go to `NAME.masks.json` beside it.
        against: A second model, such as the run's `rounds/0`; its masks count as one more view.
        gt: COCO file of the true masks, to compare the estimates with; they do not depend on it.
    """
    from dataclasses import asdict

    from soloist.data.sources import find_images
    from soloist.evaluation.evaluate import load_ground_truth
    from soloist.evaluation.quality import (
        ViewLabeler,
        bin_table,
        comparison_lines,
        estimate_quality,
        image_table,
        label_views,
    )
    from soloist.inference.label import opened_output
    from soloist.inference.segmenter import load
    from soloist.models.build import fingerprint
    from soloist.runtime.console import Console
    from soloist.runtime.distributed import is_main, join, on_main
    from soloist.runtime.files import write_json
    from soloist.runtime.stopping import listening

    truth = None if gt is None else load_ground_truth(gt)
    segmenter = load(model, device=device, precision=precision)
    other = None if against is None else load(against, device=device, precision=precision)
    join(segmenter.runtime.device)
    with listening(), opened_output(out, overwrite=overwrite) as errors:
        file = label_views(
            find_images(images, segmenter.config.reading),
            ViewLabeler(segmenter, other),
            out.with_name(f"{out.stem}.masks.json"),
            short_side=segmenter.decoded_side,
            settings={
                "command": "estimate",
                "images": images,
                "model": model or "bundled",
                "weights": fingerprint(segmenter.network),
                "against": against,
                "against_weights": None if other is None else fingerprint(other.network),
                "inference": asdict(segmenter.config.inference),
            },
            errors=errors,
            overwrite=overwrite,
        )
        report = estimate_quality(file, truth)
        on_main(lambda: write_json(out, report, indent=2))
    if is_main():
        console = Console(width=100)
        console.print(bin_table(report))
        console.print(image_table(report, SHOWN_IMAGES))
        lines = comparison_lines(report["comparison"]) if truth is not None else []
        sys.stdout.write("\n".join([*lines, str(out)]) + "\n")
    return failures_status(errors.count, errors.path)
