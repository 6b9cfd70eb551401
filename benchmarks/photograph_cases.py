"""Cases of `bench.py` on photographs: what a user waits for, beside what cannot be done without.

A floor is timed in turns with its case. That of all that predicts is `forward`: decoding each
photograph, the backbone and the heads. That of a new process is the import of torch in another one.
Photographs are those of `../shared/photos` beside the checkout, enlarged where a case wants more
pixels.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from cases import Case, Prepared, Stopwatch
from PIL import Image

import soloist
from soloist import api
from soloist.cli.studio.open_image import open_image
from soloist.cli.studio.workspace import Workspace
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask, encode_masks
from soloist.data.images import read_image, read_with_size
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.inference.segmenter import Segmenter
from soloist.proposals.regions import region_candidates

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos" / "dev"
NUCLEI = PHOTOS / "nuclei"
SMALLEST, SMALL, MEDIUM, LARGE = (320, 427), (427, 640), (960, 1280), (3000, 4000)
COUNT = 24
"""Photographs of a folder."""
LABELLED, FITTED = 4, 4
"""Images that something is learned from, with labels and without."""

COLD = "import sys, soloist; print(len(soloist.load().predict(sys.argv[1])[0]))"


def missing_photographs() -> str | None:
    """One line on why there are none; None if they are there."""
    wanted = (PHOTOS / "coco" / "images", NUCLEI / "images")
    if all(folder.is_dir() for folder in wanted):
        return None
    return f"wanted photographs in {PHOTOS}, found none; put shared/photos beside the checkout"


def photograph(number: int, size: tuple[int, int]) -> Path:
    """A JPEG of a (height, width).

    Raises:
        DataError: If there are no photographs.
    """
    missing = missing_photographs()
    if missing is not None:
        raise DataError(missing)
    found = sorted((PHOTOS / "coco" / "images").glob("*.jpg"))
    image = Image.open(found[number % len(found)]).convert("RGB")
    path = Path(tempfile.mkdtemp()) / f"{number}.jpg"
    image.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path, quality=92)
    return path


@cache
def _bundled() -> Segmenter:
    return soloist.load(device="cpu")


def forward(
    paths: Sequence[Path], loaded: Callable[[], Segmenter] = _bundled
) -> Callable[[], None]:
    """A floor: decoding photographs, and the backbone and the heads for each.

    Args:
        paths: The photographs.
        loaded: Gives the segmenter once it is needed, so that no peak of memory has it.
    """

    @torch.inference_mode()
    def floor() -> None:
        segmenter = loaded()
        for path in paths:
            pixels, _ = read_with_size(path, short_side=segmenter.decoded_side)
            segmenter._raw(segmenter._seen(pixels))

    return floor


def import_of_torch() -> None:
    """A floor: what every new process that computes begins with."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def prediction(size: tuple[int, int], masks: str = "regions") -> Prepared:
    """From the file to run lengths, in this process."""
    path = photograph(3, size)
    segmenter = soloist.load(device="cpu")
    segmenter.config = override(segmenter.config, {"inference": {"masks": masks}}, where="options")

    def repeat(watch: Stopwatch) -> object:
        return segmenter.labeler(*read_with_size(path, short_side=segmenter.decoded_side))

    return Prepared(repeat, floor=forward([path], lambda: segmenter))


def candidates(size: tuple[int, int]) -> Prepared:
    """Hierarchies and the rank of their nodes, without masks."""
    path = photograph(3, size)
    pixels = np.asarray(Image.open(path))

    def repeat(watch: Stopwatch) -> object:
        return region_candidates(pixels, most=2000)

    return Prepared(repeat, floor=forward([path]))


def folder() -> Prepared:
    """`soloist predict` of a folder, model loading and overlays included, all processes."""
    photos, out = _folder(), Path(tempfile.mkdtemp())

    def repeat(watch: Stopwatch) -> object:
        shutil.rmtree(out)
        return api.predict(photos, out / "masks.json", overlays=out / "overlays", device="cpu")

    return Prepared(repeat, floor=forward(sorted(photos.iterdir())))


def _folder() -> Path:
    photos = Path(tempfile.mkdtemp())
    for number in range(COUNT):
        shutil.copy(photograph(number, SMALL), photos)
    return photos


def cold() -> Prepared:
    """A new process, from its start to the masks of one photograph, in Python."""
    return _new_process("-c", COLD, str(photograph(3, SMALL)))


def command() -> Prepared:
    """The same by `soloist predict`, with its output."""
    out = Path(tempfile.mkdtemp()) / "masks.json"
    photo = str(photograph(3, SMALL))
    return _new_process("-m", "soloist", "predict", photo, "--out", str(out), "--overwrite")


def _new_process(*arguments: str) -> Prepared:
    """A fresh Python each time: nothing is imported; its files are in memory since the warm-up."""

    def repeat(watch: Stopwatch) -> object:
        return subprocess.run([sys.executable, *arguments], capture_output=True, check=True)

    return Prepared(repeat, floor=import_of_torch, elsewhere=True)


def estimate() -> Prepared:
    """`soloist estimate` of four photographs."""
    photos = [photograph(number, SMALL) for number in range(4)]
    out = Path(tempfile.mkdtemp()) / "estimate.json"

    def repeat(watch: Stopwatch) -> object:
        return api.estimate(photos, out, overwrite=True, device="cpu")

    return Prepared(repeat, floor=forward(photos))


def fit() -> Prepared:
    """`soloist fit` on a few photographs; its stages are the first masks and the judges."""
    photos = _nuclei(FITTED)
    run = Path(tempfile.mkdtemp()) / "run"

    def repeat(watch: Stopwatch) -> None:
        api.fit([str(photo) for photo in photos], run, overwrite=True, device="cpu")
        state = json.loads((run / "state.json").read_text(encoding="utf-8"))
        watch.parts.update(state["timing"])

    return Prepared(repeat, floor=forward(photos))


def finetune() -> Prepared:
    """`soloist finetune` of a judge from a few labelled images."""
    run = Path(tempfile.mkdtemp()) / "run"
    labels = NUCLEI / "annotations.json"

    def repeat(watch: Stopwatch) -> object:
        return api.finetune(labels, run, labels=str(LABELLED), overwrite=True, device="cpu")

    return Prepared(repeat, floor=forward(_nuclei(LABELLED)))


def _nuclei(count: int) -> list[Path]:
    return sorted(path for path in (NUCLEI / "images").iterdir())[:count]


def studio() -> Prepared:
    """The studio opens a photograph: its trees and all that can lie under the pointer."""
    image = ImageRef(photograph(3, LARGE), "photo.jpg")
    segmenter = soloist.load(device="cpu")

    def repeat(watch: Stopwatch) -> object:
        return open_image(image, segmenter)

    return Prepared(repeat, floor=forward([image.path], lambda: segmenter))


def pointer() -> Prepared:
    """What the pointer lights on an open photograph is kept: its mask, written to the disk.

    Moves of the pointer are answered by the page, from what it got when the image was opened.
    """
    image = ImageRef(photograph(3, LARGE), "photo.jpg")
    folder = Path(tempfile.mkdtemp())
    workspace = Workspace([image], folder, sources=[str(image.path)], order={image.name: 1.0})
    opened = workspace.image(0)
    item = int(opened.offered[0])
    mask = opened.mask([item])

    def repeat(watch: Stopwatch) -> None:
        with watch.part("keep"):
            workspace.act(0, {"act": "keep", "item": item, "category": 1})
        with watch.part("undo"):
            workspace.act(0, {"act": "undo"})

    return Prepared(repeat, floor=lambda: encode_masks(mask[None]))


def _masks_file() -> tuple[Path, list[Path]]:
    """What is predicted on the photographs of a folder, and these."""
    photos, out = _folder(), Path(tempfile.mkdtemp()) / "masks.json"
    # By a process that ends: what it takes is no part of what is measured.
    command = [sys.executable, "-m", "soloist", "predict", str(photos), "--out", str(out)]
    subprocess.run(command, capture_output=True, check=True)
    return out, sorted(photos.iterdir())


def convert() -> Prepared:
    """`soloist convert` of those masks to YOLO's polygons; its floor is to read and decode them."""
    masks, _ = _masks_file()
    out = Path(tempfile.mkdtemp())

    def repeat(watch: Stopwatch) -> object:
        shutil.rmtree(out)
        return api.convert(masks, out, format="yolo")

    def floor() -> None:
        for found in load_coco(masks).annotations.values():
            for one in found:
                decode_mask(one.segmentation)

    return Prepared(repeat, floor=floor)


def report() -> Prepared:
    """`soloist report` of those masks; its floor is to read them and the photographs."""
    masks, photos = _masks_file()

    def repeat(watch: Stopwatch) -> object:
        return api.report(masks, masks.with_suffix(".html"))

    def floor() -> None:
        load_coco(masks)
        for photo in photos:
            read_image(photo)

    return Prepared(repeat, floor=floor)


def _case(
    name: str, says: str, prepare: Callable[[], Prepared], repeats: int = 5, warm_ups: int = 2
) -> Case:
    return Case(name, says, prepare, repeats=repeats, warm_ups=warm_ups)


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
        _case("photo_candidates_320", "candidates alone, 320 x 427", partial(candidates, SMALLEST)),
        _case(
            "photo_folder",
            f"`predict` of {COUNT} photographs with overlays",
            folder,
            repeats=3,
            warm_ups=1,
        ),
        _case(
            "photo_cold",
            "Python to the masks of one photograph, imports cold, page cache warm",
            cold,
            repeats=3,
            warm_ups=1,
        ),
        _case(
            "photo_command",
            "`soloist predict photo.jpg`, imports cold, page cache warm",
            command,
            repeats=3,
            warm_ups=1,
        ),
        _case("photo_estimate", "`estimate` of 4 photographs", estimate, repeats=3, warm_ups=1),
        _case("photo_fit", f"`fit` on {FITTED} images of nuclei", fit, repeats=1, warm_ups=1),
        _case(
            "photo_finetune",
            f"`finetune` from {LABELLED} labelled images of nuclei",
            finetune,
            repeats=1,
            warm_ups=1,
        ),
        _case("photo_studio", "the studio opens 3000 x 4000", studio, repeats=3, warm_ups=1),
        _case(
            "photo_pointer", "the studio keeps what is lit on 3000 x 4000, and undoes it", pointer
        ),
        _case("photo_convert", f"`convert` of {COUNT} photographs' masks to YOLO", convert),
        _case("photo_report", f"`report` of {COUNT} photographs' masks", report, repeats=3),
    )
}
