"""What looks at masks: figures, pages, groups, look-alikes, estimates without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from soloist.api.labelling import Predicting
from soloist.api.plans import ModelSetup, Setup, Sources, configured, named, path_or_none
from soloist.data.coco.read import load_coco
from soloist.data.datasets.image_paths import image_paths
from soloist.data.datasets.labels import Reading
from soloist.data.sources import find_images
from soloist.errors import ConfigError, require
from soloist.evaluation.evaluate import load_ground_truth
from soloist.inference.output_file import opened_output
from soloist.inference.segmenter import load
from soloist.report.predictions import write_prediction_report
from soloist.report.run import MAX_IMAGES, rewrite_report
from soloist.runtime.distributed import join, on_main
from soloist.runtime.files import write_json
from soloist.runtime.stopping import at_once

if TYPE_CHECKING:
    from soloist.evaluation.explore.groups import MaskGroups
    from soloist.evaluation.explore.search import Match


def report(
    source: str | Path,
    out: str | Path | None = None,
    *,
    images: Sequence[str] = (),
    ground_truth: str | Path | None = None,
    how: Reading = Reading(),
    max_images: int = MAX_IMAGES,
) -> Path:
    """Writes one page that shows a run or a file of masks; see `soloist report`.

    Args:
        source: Run folder, COCO file of masks, or folder of shards.
        out: The page; None for `report.html` in the run folder, else beside the file or folder.
        images: Where the images are, if they were moved.
        ground_truth: For a file of masks: COCO file or data set of the true objects.
        how: How that is read.
        max_images: Most images shown, evenly spread.

    Returns:
        The path of the page.

    Raises:
        SoloistError: For what a caller can cause.
    """
    source, page = Path(source), None if out is None else Path(out)
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out must be a page such as report.html, got {page}")
    # `data.coco.shards` has this name; it is not imported, since it wants an extra.
    is_sharded = (source / "manifest.parquet").is_file()
    if is_sharded:
        require("pyarrow", extra="parquet", wanted="soloist report of shards")
    if is_sharded or source.is_file():
        return write_prediction_report(
            source,
            out=page,
            images=images,
            ground_truth=path_or_none(ground_truth),
            how=how,
            max_images=max_images,
        )
    if ground_truth is not None:
        raise ConfigError("--gt is for a file of masks; a run has its own, or none")
    return rewrite_report(source, out=page, images=images, max_images=max_images)


@dataclass(frozen=True)
class Estimated:
    """Estimates of how good a model's masks are.

    Attributes:
        report: What the JSON file holds.
        failed: Images that could not be read, listed in `errors`.
        errors: The account of these.
    """

    report: Mapping[str, Any]
    failed: int
    errors: Path | None


def estimate(
    images: Sources,
    out: str | Path,
    *,
    against: str | None = None,
    ground_truth: str | Path | None = None,
    select: int | None = None,
    overwrite: bool = False,
    **setup: Unpack[ModelSetup],
) -> Estimated:
    """Estimates without labels how good a model's masks are; see `soloist estimate`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: JSON file for the estimates; the masks go to `NAME.masks.json` beside it.
        against: A second model; its masks count as one more view.
        ground_truth: COCO file of the true masks, to compare the estimates with.
        select: How many images to pick for labelling first (`evaluation.explore.selection`):
            `selected` of the report, and a list of their paths in `NAME.selected.txt` beside it.
        overwrite: Replace finished estimates.
        setup: `model`, `preset`, `device` and `precision`: `soloist.api.plans.ModelSetup`.

    Raises:
        SoloistError: For what a caller can cause.
    """
    from soloist.evaluation.explore.selection import write_selected
    from soloist.evaluation.quality import ViewLabeler, estimate_quality, label_views

    if select is not None and select < 1:
        raise ConfigError(f"--select must be at least 1, got {select}")
    out = Path(out)
    truth = None if ground_truth is None else load_ground_truth(Path(ground_truth))
    segmenter = Predicting().loaded(setup)
    other = None
    if against is not None:
        how = {name: setup.get(name, "auto") for name in ("device", "precision")}
        other = load(against, **how)  # type: ignore[arg-type]  # both are texts
    join(segmenter.runtime.device)
    with opened_output(out, overwrite=overwrite) as errors:
        found = find_images(images, segmenter.config.reading)
        file = label_views(
            found,
            ViewLabeler(segmenter, other),
            out.with_name(f"{out.stem}.masks.json"),
            short_side=segmenter.decoded_side,
            settings={
                "command": "estimate",
                "images": named(images),
                "model": str(setup.get("model") or "bundled"),
                "weights": segmenter.fingerprint,
                "against": against,
                "against_weights": None if other is None else other.fingerprint,
                "inference": asdict(segmenter.config.inference),
            },
            errors=errors,
            overwrite=overwrite,
        )
        made = estimate_quality(file, truth)
        if select is not None:
            made["selected"] = on_main(partial(write_selected, file, found, select, out))
        on_main(partial(write_json, out, made, indent=2))
    return Estimated(made, errors.count, errors.path)


@dataclass(frozen=True)
class Grouping:
    """How masks are grouped.

    Attributes:
        groups: How many; None takes the number of the highest silhouette.
        min_score: Masks below it do not shape the groups; None for the score that the model
            recommends.
        features: What is compared: the masks' embeddings, or the mean of a backbone's features
            under each mask.
    """

    groups: int | None = None
    min_score: float | None = None
    features: Literal["embeddings", "backbone"] = "embeddings"


@dataclass(frozen=True)
class Grouped:
    """Groups of masks that look alike.

    Attributes:
        groups: The groups.
        scores: How they agree with true classes; None where there are none.
        sheets: Contact sheets, the overview first.
        failed: Images that could not be read, listed in `errors`.
        errors: The account of these.
    """

    groups: MaskGroups
    scores: Mapping[str, Any] | None
    sheets: Sequence[Path]
    failed: int
    errors: Path | None


def cluster(
    predictions: str | Path,
    out: str | Path,
    *,
    how: Grouping = Grouping(),  # immutable
    sheets: str | Path | None = None,
    images: Sequence[str] = (),
    ground_truth: str | Path | None = None,
    overwrite: bool = False,
    **setup: Unpack[Setup],
) -> Grouped:
    """Groups masks that look alike into a COCO file; see `soloist cluster`.

    Args:
        predictions: COCO file of masks, its embeddings beside it.
        out: COCO file to write, whose categories are the groups.
        how: How many groups, and of what.
        sheets: Folder for contact sheets, one a group and one of all.
        images: Where the images are, if they were moved.
        ground_truth: COCO file with classes, to compare the groups with.
        overwrite: Replace a finished file.
        setup: Of a backbone's features: `soloist.api.plans.Setup`.

    Raises:
        SoloistError: For what a caller can cause.
    """
    from soloist.evaluation.explore.groups import (
        draw_groups,
        group_masks,
        score_groups,
        write_groups,
    )
    from soloist.evaluation.explore.sources import embeddings_of
    from soloist.proposals.extract import FreeMaskExtractor
    from soloist.proposals.pooling import pool_features

    out = Path(out)
    from_backbone = how.features == "backbone"
    with opened_output(out, overwrite=overwrite) as errors:
        with at_once():
            file = load_coco(predictions)
            least = file.recommended_score if how.min_score is None else how.min_score
            truth = None if ground_truth is None else load_ground_truth(Path(ground_truth))
            paths = image_paths(file, images) if from_backbone or sheets is not None else {}
            if from_backbone:
                extractor = FreeMaskExtractor(*configured(setup))
                vectors = pool_features(file, paths, extractor, errors)
            else:
                vectors = embeddings_of(file)
            made = group_masks(file, vectors, how.groups, min_score=least)
            scores = None if truth is None else score_groups(made, file, truth)
            drawn = [] if sheets is None else draw_groups(made, paths, Path(sheets))
        facts = {"features": how.features, "min_score": least, "scores": scores}
        write_groups(made, file, out, facts)
    return Grouped(made, scores, drawn, errors.count, errors.path)


def look_alikes(
    predictions: str | Path,
    mask_id: int,
    *,
    count: int = 20,
    elsewhere: bool = False,
    sheets: str | Path | None = None,
    images: Sequence[str] = (),
) -> tuple[list[Match], Path | None]:
    """Finds the masks that look most like one of them; see `soloist cluster --like`.

    Args:
        predictions: COCO file of masks, its embeddings beside it.
        mask_id: Id of an annotation in the file.
        count: How many to find.
        elsewhere: Leave out the other masks of the same image.
        sheets: Folder for a contact sheet.
        images: Where the images are, if they were moved.

    Returns:
        The masks, the most alike first, and the contact sheet.

    Raises:
        SoloistError: For what a caller can cause.
    """
    from soloist.evaluation.explore.search import draw_look_alikes
    from soloist.evaluation.explore.search import look_alikes as find
    from soloist.evaluation.explore.sources import embeddings_of

    file = load_coco(predictions)
    paths = {} if sheets is None else image_paths(file, images)
    query, found = find(file, embeddings_of(file), mask_id, count=count, elsewhere=elsewhere)
    return found, None if sheets is None else draw_look_alikes(query, found, paths, Path(sheets))
