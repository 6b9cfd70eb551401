"""Sets that no constant was searched on, from public repositories whose clones lie in one folder.

git clone https://github.com/Tony607/mmdetection_instance_segmentation_demo clones/nuts
git clone https://github.com/cdavidgutierrez/2D-Microscopy-Segmentation clones/flakes
git clone https://github.com/risingmin/embryo_model_train clones/embryos
python benchmarks/photographs/others.py clones sets
python benchmarks/photographs/bench.py bundled --sets sets/nuts sets/flakes sets/embryos
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import copyfile
from typing import Any

SETS = {
    "nuts": [("data/trainval.json", "data/images")],
    "flakes": [
        (f"data/{part}/_annotations.coco.json", f"data/{part}") for part in ("test", "valid")
    ],
    "embryos": [
        (f"data/{part}/_annotations.coco.json", f"data/{part}") for part in ("test", "valid")
    ],
}
"""Of each set its files of annotations, and the folder that the images of each are in."""


def collect(clone: Path, parts: list[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """One file of annotations from several, of one class; copies their images.

    Args:
        clone: The repository's work tree.
        parts: As in `SETS`.
        folder: Where the images go.

    Returns:
        What `annotations.json` holds.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file, place in parts:
        found = json.loads((clone / file).read_text())
        ids = {}
        for image in found["images"]:
            copyfile(clone / place / image["file_name"], folder / image["file_name"])
            ids[image["id"]] = len(images) + 1
            images.append({**image, "id": ids[image["id"]]})
        annotations += [
            {**one, "id": number, "image_id": ids[one["image_id"]], "category_id": 1}
            for number, one in enumerate(found["annotations"], start=len(annotations) + 1)
        ]
    categories = [{"id": 1, "name": "object"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def main(clones: Path, out: Path) -> None:
    """Writes a folder of `images/` and `annotations.json` for each set."""
    for name, parts in SETS.items():
        folder = out / name / "images"
        folder.mkdir(parents=True, exist_ok=True)
        content = collect(clones / name, parts, folder)
        (out / name / "annotations.json").write_text(json.dumps(content))
        print(f"{name}: {len(content['images'])} images, {len(content['annotations'])} masks")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
