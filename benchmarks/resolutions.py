"""What a segmenter finds, and how long it takes, at several resolutions: a Markdown table.

    python benchmarks/resolutions.py SCENES [--model RUN] [--short-sides 256 320]
    python benchmarks/resolutions.py masks SCENES [--preset tiny] [--short-sides 288 576]

SCENES is a folder with `images/` and `annotations.json`, as `soloist.data.scenes.write_scenes`
makes it. Times are of `Segmenter.predict` on pixels in memory: resizing, network, post-processing.
`masks` times Free Mask instead: what grows with the pixels, and what with their square.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import App, Parameter

import soloist
from soloist.config.presets import load_config
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import instances_to_annotations, write_coco
from soloist.data.images import read_image
from soloist.data.sources import find_images
from soloist.free_mask import free_masks
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.device import choose_runtime

SHORT_SIDES = [192, 224, 256, 288, 320, 384, 448]
EXTRACTION_SIDES = [192, 288, 384, 576, 800]
WARM_UP = 3

Sides = Annotated[list[int], Parameter(consume_multiple=True, negative="")]

app = App(help=__doc__)


@app.default
def main(scenes: Path, *, model: str | None = None, short_sides: Sides = SHORT_SIDES) -> None:
    """Prints the table.

    Args:
        scenes: Folder of labelled scenes; not those a segmenter learned from.
        model: What `soloist predict --model` takes; without it the bundled one.
        short_sides: Resolutions to try, pixels.
    """
    segmenter = soloist.load(model)
    own = segmenter.config.inference
    truth = load_coco(scenes / "annotations.json")
    pixels_of = {
        image.id: read_image(scenes / "images" / image.file_name) for image in truth.images
    }
    print("| short side | ms an image (median) | mask AP | AP50 | AR100 | AP50 / 100 ms |")
    print("|---|---|---|---|---|---|")
    for side in short_sides:
        changed = replace(own, short_side=side, max_side=2 * side)
        segmenter.config = replace(segmenter.config, inference=changed)
        for pixels in list(pixels_of.values())[:WARM_UP]:
            segmenter.predict(pixels)
        records, seconds = [], []
        for image in truth.images:
            start = time.perf_counter()
            (result,) = segmenter.predict(pixels_of[image.id])
            seconds.append(time.perf_counter() - start)
            records += instances_to_annotations(result, image.id, len(records) + 1)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "predictions.json"
            images = [CocoImage(i.id, i.file_name, i.height, i.width) for i in truth.images]
            write_coco(out, images, records)
            figures = soloist.evaluate(out, scenes / "annotations.json")
        ap, ap50, recall = (100 * figures[key] for key in ("mask_ap", "mask_ap50", "mask_ar100"))
        median = 1000 * statistics.median(seconds)
        print(f"| {side} | {median:.0f} | {ap:.1f} | {ap50:.1f} | {recall:.1f} "
              f"| {100 * ap50 / median:.1f} |")  # fmt: skip


@app.command
def masks(scenes: Path, *, preset: str = "tiny", short_sides: Sides = EXTRACTION_SIDES) -> None:
    """Prints the table of Free Mask.

    Args:
        scenes: Folder of scenes.
        preset: Whose backbone and options.
        short_sides: Resolutions to try, pixels.
    """
    paths = [image.path for image in find_images(scenes / "images")]
    print("| short side | cells | ms an image (median) | backbone | Free Mask | ratio |")
    print("|---|---|---|---|---|---|")
    for side in short_sides:
        sizes = {"short_side": side, "max_side": 2 * side}
        config = load_config(preset, None, {"extract": sizes})
        extractor = FreeMaskExtractor(config, choose_runtime("cpu"))
        cells, backbone, rest = [], [], []
        for path in [*paths[:WARM_UP], *paths]:
            pixels = read_image(path)
            image = torch.from_numpy(pixels).permute(2, 0, 1)
            start = time.perf_counter()
            with torch.inference_mode():
                features = extractor.features(image)
            middle = time.perf_counter()
            free_masks(features, pixels.shape[:2], config.free_mask)
            rest.append(time.perf_counter() - middle)
            backbone.append(middle - start)
            cells.append(features[0].numel())
        first, second = (
            1000 * statistics.median(seconds[WARM_UP:]) for seconds in (backbone, rest)
        )
        print(f"| {side} | {statistics.median(cells):.0f} | {first + second:.0f} | {first:.0f} "
              f"| {second:.0f} | {(first + second) / first:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    app()
