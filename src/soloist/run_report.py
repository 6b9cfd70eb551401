"""The report of a run folder, from the files in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from soloist.config import Config, ReadingConfig
from soloist.data.augment import CropPair, seeded
from soloist.data.coco import load_coco
from soloist.data.error_log import read_errors
from soloist.data.images import read_image
from soloist.data.sources import ImageRef, find_images, spread
from soloist.engine.distributed import is_main
from soloist.engine.evaluate import Metrics, format_table
from soloist.engine.image_matching import match_images
from soloist.engine.per_image import score_images, worst_images, write_per_image
from soloist.engine.run_folder import STATE, RunFolder, read_metrics
from soloist.engine.runtime import Runtime
from soloist.errors import RunError
from soloist.files import atomic_path, write_json
from soloist.models.backbones import Backbone
from soloist.models.densecl import match_cells
from soloist.pictures import draw_matches, jpeg_bytes
from soloist.presets import load_config_file
from soloist.report import ReportContent, StageGallery, WorstImage, write_report

REPORT_FILE = "report.html"
# What the report shows is kept here, so that it can be written again without its command.
RECIPE_FILE = "report.json"
# The last stage's figures on each image of the ground truth.
PER_IMAGE_FILE = "evaluation/per_image.csv"
WORST_SHOWN = 12

# The picture of dense matches: crop pairs, their side in pixels, and lines drawn per pair.
MATCH_PAIRS = 4
MATCH_SIDE = 256
MATCH_LINES = 12

TITLES = {
    "demo": "Soloist demo: objects nobody labelled",
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
    content = ReportContent(
        title=TITLES[run.state["command"]],
        images=spread(images, ReportContent.max_images),
        stages=stages,
        ground_truth=ground_truth,
    )
    recipe = {
        "images": [[str(image.path), image.name] for image in content.images],
        "stages": [[one.key, one.title, str(one.predictions)] for one in stages],
        "ground_truth": None if ground_truth is None else str(ground_truth),
    }
    write_json(run.path / RECIPE_FILE, recipe, indent=2)
    return rewrite_report(run.path)


def rewrite_report(folder: Path) -> Path:
    """Writes a run's report.html again from its files.

    Raises:
        RunError: If the folder is no run with a report.
    """
    if not (folder / STATE).is_file() or not (folder / RECIPE_FILE).is_file():
        raise RunError(
            f"{folder} is not a run with a report; wanted the --out folder of fit, train, "
            "pretrain or demo after it has finished"
        )
    state = _read_json(folder / STATE)
    recipe = _read_json(folder / RECIPE_FILE)
    results_file = folder / "results.json"
    truth = None if recipe["ground_truth"] is None else Path(recipe["ground_truth"])
    stages = [StageGallery(key, title, Path(at)) for key, title, at in recipe["stages"]]
    judged = truth is not None and bool(stages)
    reading = load_config_file(folder / "config.yaml").reading
    write_report(
        folder / REPORT_FILE,
        ReportContent(
            title=TITLES[state["command"]],
            summary=SUMMARIES.get(state["command"], SUMMARY),
            results=_read_json(results_file) if results_file.is_file() else {},
            stages=stages,
            images=[ImageRef(Path(path), name, reading=reading) for path, name in recipe["images"]],
            ground_truth=truth,
            worst=_judge_images(folder, stages[-1], truth, reading) if judged and truth else (),
            per_image=PER_IMAGE_FILE if judged else "",
            metrics=read_metrics(folder / "metrics.jsonl"),
            timing=list(state.get("timing", {}).items()),
            config=yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
            environment=_read_json(folder / "environment.json"),
            errors=read_errors(folder / "errors.jsonl"),
        ),
    )
    return folder / REPORT_FILE


def _judge_images(
    folder: Path, stage: StageGallery, ground_truth: Path, reading: ReadingConfig
) -> list[WorstImage]:
    """Writes the table of a stage's images, and chooses the worst."""
    predicted, truth = load_coco(stage.predictions), load_coco(ground_truth)
    true_ids = match_images(predicted, truth)
    scores = score_images(predicted, truth, true_ids, masks=True, max_dets=100)
    write_per_image(folder / PER_IMAGE_FILE, scores)
    images = {image.name: image for image in find_images(ground_truth, reading)}
    return [
        WorstImage(images[one.name], one.summary()) for one in worst_images(scores, WORST_SHOWN)
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
            rows.append(_match_picture(views, maps[backbone.level(options.dense_stride)]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
    with atomic_path(run.path / "matches.jpg") as temporary:
        temporary.write_bytes(jpeg_bytes(np.concatenate(padded), quality=90))
    write_run_report(run, [], [])


def _match_picture(views: torch.Tensor, features: torch.Tensor) -> np.ndarray[Any, Any]:
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
