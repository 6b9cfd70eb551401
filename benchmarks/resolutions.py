"""What a segmenter finds, and how long it takes, at several resolutions: a Markdown table.

    python benchmarks/resolutions.py SCENES [--model RUN] [--short-sides 256 320]

SCENES is a folder with `images/` and `annotations.json`, as `soloist.data.scenes.write_scenes`
makes it. Times are of `Segmenter.predict` on pixels in memory: resizing, network, post-processing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cyclopts import App

import soloist
from soloist.data.coco import CocoImage, instances_to_annotations, load_coco, write_coco
from soloist.data.images import read_image

SHORT_SIDES = [192, 224, 256, 288, 320, 384, 448]
WARM_UP = 3

app = App(help=__doc__)


@app.default
def main(scenes: Path, *, model: str | None = None, short_sides: list[int] = SHORT_SIDES) -> None:
    """Prints the table.

    Args:
        scenes: Folder of labelled scenes; not those a segmenter learned from.
        model: What `soloist predict --model` takes; without it the bundled one.
        short_sides: Resolutions to try, pixels.
    """
    segmenter = soloist.load(model)
    own = segmenter.config.inference
    truth = load_coco(scenes / "annotations.json")
    pictures = {image.id: read_image(scenes / "images" / image.file_name) for image in truth.images}
    print("| short side | ms an image (median) | mask AP | AP50 | AR100 | AP50 / 100 ms |")
    print("|---|---|---|---|---|---|")
    for side in short_sides:
        changed = replace(own, short_side=side, max_side=2 * side)
        segmenter.config = replace(segmenter.config, inference=changed)
        for pixels in list(pictures.values())[:WARM_UP]:
            segmenter.predict(pixels)
        records, seconds = [], []
        for image in truth.images:
            start = time.perf_counter()
            (result,) = segmenter.predict(pictures[image.id])
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


if __name__ == "__main__":
    app()
