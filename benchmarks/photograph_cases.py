"""Cases of `bench.py` on photographs: what a user waits for, beside what cannot be done without.

The floor of a prediction is decoding and the backbone, timed before it: at work it overlaps with
what else there is to do. Photographs are those of `../shared/photos` beside the checkout, enlarged
where a case wants more pixels; scenes of the generator where there are none.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cases import Case, Prepared, Stopwatch
from numpy.typing import NDArray
from PIL import Image

import soloist
from soloist import api
from soloist.cli.studio.open_image import open_image
from soloist.config.presets import override
from soloist.data.images import read_with_size
from soloist.data.scenes import make_scene
from soloist.data.sources import ImageRef
from soloist.proposals.regions import region_candidates

PHOTOS = Path(__file__).parents[2] / "shared" / "photos" / "dev"
NUCLEI = PHOTOS / "nuclei" / "annotations.json"
SMALLEST, SMALL, MEDIUM, LARGE = (320, 427), (427, 640), (960, 1280), (3000, 4000)
FLOORS = 9
"""The floor is the median of N times."""
COUNT = 24
"""Photographs of a folder."""
LABELLED = 4

COLD = "import sys, soloist; print(len(soloist.load().predict(sys.argv[1])[0]))"


def photograph(number: int, size: tuple[int, int]) -> Path:
    """A JPEG of a (height, width)."""
    found = sorted((PHOTOS / "coco" / "images").glob("*.jpg"))
    if found:
        image = Image.open(found[number % len(found)]).convert("RGB")
    else:
        image = Image.fromarray(make_scene(number, seed=1, long_side=640).image)
    path = Path(tempfile.mkdtemp()) / f"{number}.jpg"
    image.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path, quality=92)
    return path


def prediction(size: tuple[int, int], masks: str = "regions") -> Prepared:
    """From the file to run lengths, in this process."""
    path = photograph(3, size)
    segmenter = soloist.load()
    segmenter.config = override(segmenter.config, {"inference": {"masks": masks}}, where="options")
    labeler = segmenter.labeler

    def decoded() -> tuple[NDArray[np.uint8], tuple[int, int]]:
        return read_with_size(path, short_side=segmenter.decoded_side)

    def floor() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            segmenter._seen(decoded()[0])
        return time.perf_counter() - start

    floor()

    def repeat(watch: Stopwatch) -> object:
        watch.parts["backbone"] = statistics.median(floors)
        return labeler(*decoded())

    floors = [floor() for _ in range(FLOORS)]
    return Prepared(repeat, ceiling="backbone")


def candidates(size: tuple[int, int]) -> Prepared:
    """Hierarchies and the rank of their nodes, without masks."""
    pixels = np.asarray(Image.open(photograph(3, size)))

    def repeat(watch: Stopwatch) -> object:
        return region_candidates(pixels, most=2000)

    return Prepared(repeat)


def folder() -> Prepared:
    """`soloist predict` of a folder, model loading and overlays included, all processes."""
    photos, out = _folder(), Path(tempfile.mkdtemp())

    def repeat(watch: Stopwatch) -> object:
        shutil.rmtree(out)
        return api.predict(photos, out / "masks.json", overlays=out / "overlays", device="cpu")

    return Prepared(repeat)


def _folder() -> Path:
    photos = Path(tempfile.mkdtemp())
    for number in range(COUNT):
        shutil.copy(photograph(number, SMALL), photos)
    return photos


def cold() -> Prepared:
    """A new process, from its start to the masks of one photograph."""
    command = [sys.executable, "-c", COLD, str(photograph(3, SMALL))]

    def repeat(watch: Stopwatch) -> object:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True)

    return Prepared(repeat, elsewhere=True)


def estimate() -> Prepared:
    """`soloist estimate` of four photographs."""
    photos = [photograph(number, SMALL) for number in range(4)]
    out = Path(tempfile.mkdtemp()) / "estimate.json"

    def repeat(watch: Stopwatch) -> object:
        return api.estimate(photos, out, overwrite=True, device="cpu")

    return Prepared(repeat)


def finetune() -> Prepared:
    """`soloist finetune` of a judge from four labelled images; of scenes where there is no set."""
    out = Path(tempfile.mkdtemp())
    labels = NUCLEI
    if not labels.is_file():
        from soloist.data.scenes import write_scenes

        write_scenes(out / "scenes", LABELLED, seed=1)
        labels = out / "scenes" / "annotations.json"

    def repeat(watch: Stopwatch) -> object:
        run = out / "run"
        return api.finetune(labels, run, labels=str(LABELLED), overwrite=True, device="cpu")

    return Prepared(repeat)


def studio() -> Prepared:
    """The studio opens a photograph: its trees and all that can lie under the pointer."""
    image = ImageRef(photograph(3, LARGE), "photo.jpg")
    segmenter = soloist.load()

    def repeat(watch: Stopwatch) -> object:
        return open_image(image, segmenter)

    return Prepared(repeat)


def _masks_file() -> Path:
    out = Path(tempfile.mkdtemp()) / "masks.json"
    api.predict(_folder(), out, device="cpu")
    return out


def convert() -> Prepared:
    """`soloist convert` of those masks to YOLO's polygons."""
    masks, out = _masks_file(), Path(tempfile.mkdtemp())

    def repeat(watch: Stopwatch) -> object:
        shutil.rmtree(out)
        return api.convert(masks, out, format="yolo")

    return Prepared(repeat)


def report() -> Prepared:
    """`soloist report` of those masks."""
    masks = _masks_file()

    def repeat(watch: Stopwatch) -> object:
        return api.report(masks, masks.with_suffix(".html"))

    return Prepared(repeat)


def _case(name: str, says: str, prepare: Callable[[], Prepared], repeats: int = 5) -> Case:
    return Case(name, says, prepare, repeats=repeats)


PHOTOGRAPH_CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        _case("photo", "photograph of 427 x 640", partial(prediction, SMALL), repeats=9),
        _case("photo_medium", "photograph of 960 x 1280", partial(prediction, MEDIUM)),
        _case("photo_large", "photograph of 3000 x 4000", partial(prediction, LARGE), repeats=3),
        _case(
            "photo_network",
            "photograph of 427 x 640, `--inference.masks network`",
            partial(prediction, SMALL, "network"),
        ),
        _case("photo_candidates", "candidates alone, 427 x 640", partial(candidates, SMALL)),
        _case(
            "photo_candidates_320", "candidates alone, 320 x 427", partial(candidates, (320, 427))
        ),
        _case("photo_folder", f"`predict` of {COUNT} photographs with overlays", folder, repeats=3),
        _case("photo_cold", "a new process to the masks of one photograph", cold, repeats=3),
        _case("photo_estimate", "`estimate` of 4 photographs", estimate, repeats=3),
        _case("photo_finetune", f"`finetune` from {LABELLED} labelled images", finetune, repeats=1),
        _case("photo_studio", "the studio opens 3000 x 4000", studio, repeats=3),
        _case("photo_convert", f"`convert` of {COUNT} photographs' masks to YOLO", convert),
        _case("photo_report", f"`report` of {COUNT} photographs' masks", report, repeats=3),
    )
}
