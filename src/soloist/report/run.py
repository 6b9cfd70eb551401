"""The report of a run folder, from the files in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from soloist.config import Config
from soloist.config.presets import load_config_file
from soloist.data.coco.read import load_coco
from soloist.data.datasets.image_paths import named_images
from soloist.data.drawing.rendering import draw_matches, jpeg_bytes
from soloist.data.images import read_image
from soloist.data.sources import ImageRef, find_images, spread
from soloist.errors import DataError, RunError
from soloist.evaluation.compared import masks_compared
from soloist.evaluation.evaluate import Metrics, format_table, load_ground_truth
from soloist.evaluation.image_matching import match_images
from soloist.evaluation.per_image import ImageScore, score_images, write_per_image
from soloist.models.backbones import Backbone
from soloist.models.densecl import match_cells
from soloist.report.content import ImageVerdict, ReportContent, ReportStage
from soloist.report.html import shown_images, write_report
from soloist.runtime.console import Console
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import is_main
from soloist.runtime.error_log import read_errors
from soloist.runtime.files import atomic_path, write_json
from soloist.runtime.progress import track
from soloist.runtime.seeding import seeded
from soloist.training.data.augment import CropPair
from soloist.training.run_folder import STATE, VERDICT, RunFolder, read_metrics
from soloist.training.stages import StageGallery

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
# What the report shows is kept here, so that it can be written again without its command.
RECIPE_FILE = "report.json"
# The last stage's figures on each image of the ground truth.
PER_IMAGE_FILE = "evaluation/per_image.csv"
MAX_IMAGES = 500
"""Images a page has room for, some 40 kB each; a run's own page shows fewer, to be quick."""

# The image of dense matches: crop pairs, their side in pixels, and lines drawn per pair.
MATCH_PAIRS = 4
MATCH_SIDE = 256
MATCH_LINES = 12

TITLES = {
    "demo": "Soloist demo: objects found without labels",
    "fit": "From images to a segmenter",
    "train": "One round of SOLO",
    "pretrain": "A backbone from unlabelled images",
    "finetune": "A segmenter of classes, from true labels",
}
SUMMARY = "Nothing was labelled: everything below was learned from the images alone."
SUMMARIES = {
    "finetune": "The images of labelled_images.txt were labelled by hand; results are those of a "
    "validation set, with all classes taken as one, and as the mean over classes.",
}


def write_run_report(
    run: RunFolder,
    images: Sequence[ImageRef],
    stages: Sequence[StageGallery],
    *,
    ground_truth: Path | None = None,
) -> Path:
    """Writes report.html of a run and notes what it shows.

    Args:
        run: The run folder.
        images: The gallery's images; files the stages' predictions refer to.
        stages: Columns of the gallery.
        ground_truth: COCO file for the gallery's last column.

    Returns:
        The path of the page.
    """
    recipe = {
        "images": [[str(image.path), image.name] for image in spread(images, MAX_IMAGES)],
        "stages": [[one.key, one.title, str(one.predictions)] for one in stages],
        "ground_truth": None if ground_truth is None else str(ground_truth),
    }
    write_json(run.path / RECIPE_FILE, recipe, indent=2)
    return rewrite_report(run.path, max_images=ReportContent.max_images)


def rewrite_report(
    folder: Path,
    *,
    out: Path | None = None,
    images: Sequence[str] = (),
    max_images: int = MAX_IMAGES,
) -> Path:
    """Writes a run's report again from its files.

    Args:
        folder: The run folder.
        out: The page; None is report.html in the folder.
        images: Where the images are, if they were moved.
        max_images: Most images shown.

    Returns:
        The path of the page.

    Raises:
        RunError: If the folder is no run with a report.
        DataError: If its files cannot be read, or `images` holds none of its images.
    """
    if not (folder / STATE).is_file() or not (folder / RECIPE_FILE).is_file():
        raise RunError(
            f"{folder} is not a run with a report; wanted the --out folder of fit, train, "
            "pretrain or demo after it has finished, or a file or folder of masks"
        )
    state = _read_json(folder / STATE)
    recipe = _read_json(folder / RECIPE_FILE)
    results_file = folder / "results.json"
    at = recipe["ground_truth"]
    truth = None if at is None else load_ground_truth(at)
    stages = []
    for key, title, predictions in recipe["stages"]:
        predicted = load_coco(predictions)
        verdicts: Mapping[str, ImageVerdict] = {}
        if truth is not None:
            fitted, true_ids = match_images(predicted, truth)
            compared = masks_compared(fitted, truth)
            scores = score_images(
                *(compared or (fitted, truth)), true_ids, masks=compared is not None, max_dets=100
            )
            verdicts = image_verdicts(scores)
        stages.append(ReportStage(key, title, predicted, verdicts))
    reading = load_config_file(folder / "config.yaml").reading
    refs = [ImageRef(Path(path), name, reading=reading) for path, name in recipe["images"]]
    judged = truth is not None and bool(stages)
    if judged:
        write_per_image(folder / PER_IMAGE_FILE, scores)
        # The worst and the best may be any of them.
        refs = find_images(at, reading)
    return write_tracked(
        out or folder / REPORT_FILE,
        ReportContent(
            title=TITLES[state["command"]],
            summary=_summary(state),
            results=_read_json(results_file) if results_file.is_file() else {},
            stages=stages,
            images=moved(refs, images) if images else refs,
            ground_truth=truth,
            per_image=PER_IMAGE_FILE if judged and out is None else "",
            metrics=read_metrics(folder / "metrics.jsonl"),
            timing=list(state.get("timing", {}).items()),
            config=yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
            environment=_read_json(folder / "environment.json"),
            errors=read_errors(folder / "errors.jsonl"),
            max_images=max_images,
        ),
    )


def _summary(state: Mapping[str, Any]) -> str:
    """What stands below the title, and which of several models was kept."""
    verdict = state.get(VERDICT)
    summary = SUMMARIES.get(state["command"], SUMMARY)
    return summary if verdict is None else f"{summary} {verdict[0].upper()}{verdict[1:]}."


def write_tracked(path: Path, content: ReportContent) -> Path:
    """Writes a report under a progress bar, and returns its path."""
    with track("report", len(shown_images(content))) as tracker:
        write_report(path, content, advance=tracker.advance)
    return path


def image_verdicts(scores: Sequence[ImageScore]) -> dict[str, ImageVerdict]:
    """How a stage did on each image that has true objects, by the image's name among these."""
    return {
        one.name: ImageVerdict(one.found, one.objects, one.mean_best_iou)
        for one in scores
        if one.mean_best_iou is not None
    }


def moved(refs: Sequence[ImageRef], sources: Sequence[str]) -> list[ImageRef]:
    """Images looked for elsewhere, by their names.

    Args:
        refs: The images.
        sources: Folders, patterns, lists or COCO files.

    Returns:
        The images, with their new paths where they were found.

    Raises:
        DataError: If a source does not exist, holds none of them, or a name could mean several.
    """
    found, matches = named_images([ref.name for ref in refs], sources)
    matches.refuse_ambiguous("--images")
    if not found:
        raise DataError(
            f"wanted the {len(refs)} images of the run in --images, found none of them"
            f"{matches.hint()}; give the folder they are in"
        )
    if matches.missing or matches.by_ending:
        logger.warning("--images: %s", matches.account())
    return [
        replace(ref, path=found[place].path if place in found else ref.path)
        for place, ref in enumerate(refs)
    ]


def finish_pretrain(
    run: RunFolder,
    backbone: Backbone,
    images: Sequence[ImageRef],
    config: Config,
    runtime: Runtime,
) -> None:
    """Draws the dense matches of a trained backbone and writes the report with the loss curve."""
    options = config.pretrain
    rows = []
    with seeded(config.seed), runtime.autocast(), torch.inference_mode():
        for image in spread(images, MATCH_PAIRS):
            pixels = torch.from_numpy(read_image(image.path, reading=image.reading)).permute(
                2, 0, 1
            )
            views = torch.stack(CropPair(size=MATCH_SIDE, scale=options.crop_scale)(pixels))
            maps = backbone(backbone.normalize(views.to(runtime.device)))
            rows.append(_match_image(views, maps[backbone.level(options.dense_stride)]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
    with atomic_path(run.path / "matches.jpg") as temporary:
        temporary.write_bytes(jpeg_bytes(np.concatenate(padded), quality=90))
    write_run_report(run, [], [])


def _match_image(views: torch.Tensor, features: torch.Tensor) -> np.ndarray[Any, Any]:
    """The most certain matches between the cells of two (3, S, S) views."""
    side = features.shape[-1]
    unit = torch.nn.functional.normalize(features.float().flatten(2), dim=1)  # (2, C, M)
    match = match_cells(unit[:1], unit[1:])[0]  # (M,)
    back = match_cells(unit[1:], unit[:1])[0]
    similarity = (unit[0] * unit[1][:, match]).sum(dim=0)
    # Cells that choose each other are drawn; the others are guesses.
    mutual = back[match] == torch.arange(len(match), device=match.device)
    best = torch.where(mutual, similarity, -torch.ones_like(similarity))
    chosen = best.argsort(descending=True)[: min(MATCH_LINES, int(mutual.sum()))]
    cell = MATCH_SIDE / side

    def centers(cells: torch.Tensor) -> np.ndarray[Any, Any]:
        positions = torch.stack([cells // side, cells % side], dim=1)
        centred: np.ndarray[Any, Any] = ((positions.float() + 0.5) * cell).cpu().numpy()
        return centred

    left, right = (view.permute(1, 2, 0).cpu().numpy() for view in views)
    return draw_matches(left, right, centers(chosen), centers(match[chosen]))


def print_results(
    results: Mapping[str, Metrics], *, title: str = "class-agnostic, percent"
) -> None:
    """Prints the table of stages on stdout, from the main process; nothing without results."""
    if results and is_main():
        Console(width=120).print(format_table(results, title=title))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
