"""Makes the backbone and the segmenter that come with the package, from images alone.

    python recipes/bundled_model.py STAMPS POOL OUT [--quick] [--install]

STAMPS is the stamps benchmark: the images of its folder `train` are used, its labels are not.
POOL is a folder of photographs that composites are made of. OUT is a folder for the runs; each
step resumes. More photographs come from Debian's package gcompris-qt-data, which `apt-get` fetches
unless OUT/photographs is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from composites import make as make_composites
from cyclopts import App
from free_photographs import main as take_photographs

from soloist import load
from soloist.checkpoints.files import load_tensors, save_tensors
from soloist.config.presets import override
from soloist.data.scenes import write_scenes

WEIGHTS = Path(__file__).parents[1] / "src" / "soloist" / "weights"
SCENES, SCENES_SEED, SCENES_TO_FIT = 1600, 100, 300
PHOTOGRAPHS, COMPOSITES = 1400, 2200
PRETRAIN_STEPS, TRAIN_STEPS, COMPOSITE_STEPS = 900, 2000, 2100
# A quick run takes one image in N, and these numbers of steps.
QUICK_IMAGES, QUICK_PRETRAIN_STEPS, QUICK_TRAIN_STEPS, QUICK_COMPOSITE_STEPS = 8, 150, 100, 100
# What the segmenter shows: the image's regions, of which the network says how likely they are.
SHOWN = {"masks": "reranked", "short_side": 288, "max_side": 576, "nms_sigma": 2.0,
         "score_threshold": 0.003, "max_per_image": 400}  # fmt: skip

app = App(help=__doc__, result_action="return_value")


@app.default
def make(
    stamps: Path, pool: Path, out: Path, *, quick: bool = False, install: bool = False
) -> None:
    """Makes both.

    Args:
        stamps: Folder of the stamps benchmark.
        pool: Folder of photographs, with subfolders.
        out: Folder for the data and the runs.
        quick: Far fewer images and steps, to see that the recipe runs.
        install: Put the results into the package, in place of those there.
    """
    photographs = fetch_photographs(out)
    scenes = out / "scenes"
    if not scenes.exists():
        write_scenes(scenes, SCENES, seed=SCENES_SEED, split="train")
    pasted, generated = images_in(stamps / "train"), images_in(scenes / "images")
    every = QUICK_IMAGES if quick else 1
    to_pretrain = listed(out / "to_pretrain.txt", (pasted + generated)[::every])
    to_fit = listed(
        out / "to_fit.txt",
        (pasted + images_in(photographs) + generated[:SCENES_TO_FIT])[::every],
    )
    steps = QUICK_PRETRAIN_STEPS if quick else PRETRAIN_STEPS
    backbone, segmenter = out / "backbone", out / "segmenter"
    soloist("pretrain", to_pretrain, "--out", backbone, "--pretrain.steps", steps)
    steps = QUICK_TRAIN_STEPS if quick else TRAIN_STEPS
    soloist("fit", to_fit, "--out", segmenter, "--preset", "soloist",
            "--backbone.weights", backbone, "--train.steps", steps)  # fmt: skip
    composed = composites(pool, segmenter, out, every)
    taught = out / "taught"
    steps = QUICK_COMPOSITE_STEPS if quick else COMPOSITE_STEPS
    soloist("finetune", composed / "annotations.json", "--out", taught, "--learn", "network",
            "--init", segmenter, "--train.steps", steps)  # fmt: skip
    if install:
        install_backbone(backbone / "model")
        install_segmenter(taught)


def composites(pool: Path, segmenter: Path, out: Path, every: int) -> Path:
    """Composites of photographs of a pool, by the regions that a segmenter finds on them."""
    images = sorted(path for path in pool.rglob("*") if path.suffix == ".jpg")
    chosen = images[:: max(1, len(images) // PHOTOGRAPHS)][:PHOTOGRAPHS:every]
    regions, folder = out / "regions.json", out / "composites"
    soloist("predict", listed(out / "pool.txt", chosen), "--model", segmenter, "--out", regions,
            "--inference.masks", "regions")  # fmt: skip
    if not (folder / "annotations.json").is_file():
        make_composites(regions, folder, images=Path("/"), count=COMPOSITES // every)
    return folder


def fetch_photographs(out: Path) -> Path:
    """The photographs of Debian's package, fetched and unpacked if they are not there."""
    folder = out / "photographs"
    if not folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "gcompris-qt-data"], cwd=out, check=True)
        (package,) = out.glob("gcompris-qt-data_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, out / "unpacked"], check=True)
        take_photographs(out / "unpacked", folder)
    return folder


def images_in(folder: Path) -> list[Path]:
    """All files of a folder, in the order of their names."""
    return sorted(folder.iterdir())


def listed(path: Path, images: list[Path]) -> Path:
    """Writes a list of images that the verbs read."""
    path.write_text("\n".join(str(image.absolute()) for image in images), encoding="utf-8")
    return path


def soloist(verb: str, *arguments: object) -> None:
    """Runs a command that resumes, unless it has finished before."""
    out = Path(str(arguments[arguments.index("--out") + 1]))
    if out.is_file() or (out / "report.html").is_file():
        print(f"{out} is finished")
        return
    command = [sys.executable, "-m", "soloist", verb, *map(str, arguments)]
    subprocess.run(command, check=True)


def install_backbone(model: Path) -> None:
    """Three stages of the backbone, as the package has them: the last served pretraining alone."""
    tensors = load_tensors(model / "backbone.safetensors")
    shipped = {name: tensor for name, tensor in tensors.items() if not name.startswith("layer4")}
    record = (model / "config.json").read_text(encoding="utf-8")
    save_tensors(WEIGHTS / "resnet18-densecl.safetensors", shipped, metadata={"soloist": record})


def install_segmenter(model: Path) -> None:
    """The segmenter's folder, with what it shows in its record."""
    segmenter = load(model)
    segmenter.config = override(segmenter.config, {"inference": SHOWN}, where="SHOWN")
    shipped = model / "shipped"
    segmenter.save_pretrained(shipped)
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(shipped / name, WEIGHTS / "segmenter" / name)


if __name__ == "__main__":
    app()
