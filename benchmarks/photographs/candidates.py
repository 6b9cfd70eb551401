"""How many true objects are among the candidates, and what candidates cost.

    python benchmarks/photographs/candidates.py [--sets NAME_OR_FOLDER ...] [--limit N]

Recall is the share of true masks (crowds left out) that a node overlaps with IoU of at least 0.5:
among the best `--most` nodes of an image, and among all nodes of its trees. Small, medium and large
objects are COCO's (below 32 x 32 pixels, below 96 x 96, others). Costs are processor time and peak
memory of one thread on mosaics of photographs up to 12 megapixels, each size in a process of its
own. Sets are the folders of `../shared/photos/dev`, or any others of images/ and annotations.json.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from numpy.typing import NDArray

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoAnnotation
from soloist.data.images import read_image
from soloist.proposals.hierarchy import Hierarchies, Tree
from soloist.proposals.ranking import Candidates
from soloist.proposals.regions import region_candidates
from soloist.report.charts import line_chart_svg

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT.parent / "shared" / "photos" / "dev"
SETS = ("coco", "nuclei", "mushrooms")
LIMITS = {"coco": 60, "nuclei": 20, "mushrooms": 8}
SIZES = ((320, 427), (640, 854), (1000, 1334), (1500, 2000), (2121, 2828), (3000, 4000))
"""(height, width) of the mosaics that costs are measured on: the last has 12 megapixels."""
REPEATS = 5
SMALL, MEDIUM = 32**2, 96**2
OVERLAP = 0.5

Masks = NDArray[np.bool_]
Several = Parameter(consume_multiple=True, negative="")

app = App(help=__doc__)


@app.default
def main(
    *,
    sets: Annotated[tuple[str, ...], Several] = SETS,
    limit: int | None = None,
    most: int = 2000,
    costs: bool = True,
    results: Path | None = None,
    chart: Path | None = None,
) -> None:
    """Prints tables, and writes a line of JSON for each row and a chart if wanted.

    Args:
        sets: Names of sets, or folders.
        limit: Images a set, spread evenly; by default 60 of coco, 20 of nuclei, 8 of mushrooms
            and all of any other.
        most: Candidates an image.
        costs: Measure time and memory too.
        results: File that rows are appended to.
        chart: Where the chart of costs is written, as SVG.
    """
    torch.set_num_threads(1)
    rows = []
    print("| set | images | objects | all | S | M | L | of all nodes | nodes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in sets:
        folder = Path(name) if Path(name).is_dir() else DEV / name
        count = limit or LIMITS.get(folder.name)
        row = {"set": folder.name, "most": most, **recalls(folder, count, most)}
        rows.append(row)
        shares = " | ".join(_percent(row[key]) for key in ("all", "S", "M", "L", "nodes_all"))
        print(
            f"| {row['set']} | {row['images']} | {row['objects']} | {shares} | {row['nodes']:.0f} |"
        )
    if costs:
        rows += _print_costs(chart)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**row, **_circumstances()}) + "\n" for row in rows)


def recalls(folder: Path, limit: int | None, most: int) -> dict[str, Any]:
    """Recall of the candidates of a set's images, and of all nodes of their trees."""
    truth = load_coco(folder / "annotations.json")
    count = min(limit or len(truth.images), len(truth.images))
    drawn = [truth.images[place * len(truth.images) // count] for place in range(count)]
    areas, best, ceiling, nodes = [], [], [], []
    for image in drawn:
        pixels = read_image(folder / "images" / image.file_name)
        found, candidates = region_candidates(pixels, most=most)
        objects = [one for one in truth.annotations.get(image.id, ()) if not one.iscrowd]
        of_candidates, of_nodes = best_overlaps(found, candidates, objects, pixels.shape[:2])
        areas += [one.area for one in objects]
        best += of_candidates.tolist()
        ceiling += of_nodes.tolist()
        nodes.append(sum(len(tree) for tree in found.trees))
    hits, sizes = np.array(best) >= OVERLAP, np.array(areas)
    groups = {
        "all": sizes >= 0,
        "S": sizes < SMALL,
        "M": (sizes >= SMALL) & (sizes < MEDIUM),
        "L": sizes >= MEDIUM,
    }
    return {
        "images": count,
        "objects": len(areas),
        **{key: float(hits[of].mean()) if of.any() else None for key, of in groups.items()},
        "nodes_all": float((np.array(ceiling) >= OVERLAP).mean()),
        "nodes": float(np.mean(nodes)),
    }


def best_overlaps(
    found: Hierarchies,
    candidates: Candidates,
    objects: Sequence[CocoAnnotation],
    size: tuple[int, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(T,) greatest IoU of each true mask with a candidate, and with any node.

    Trees are enlarged to the image's pixels by their nearest neighbours. What a node shares with a
    true mask is the sum of what its leaves share with it.
    """
    rows, columns = (
        np.arange(pixels) * own // pixels for pixels, own in zip(size, found.size, strict=True)
    )
    masks = [one.rle for one in objects]
    of_candidates, of_nodes = np.zeros(len(objects)), np.zeros(len(objects))
    for number, tree in enumerate(found.trees):
        labels = tree.partition.labels[rows[:, None], columns]
        own = candidates.nodes[candidates.trees == number]
        overlaps = _overlaps(tree, labels, masks)
        of_nodes = np.maximum(of_nodes, overlaps.max(axis=0))
        of_candidates = np.maximum(of_candidates, overlaps[own].max(axis=0, initial=0))
    return of_candidates, of_nodes


def _overlaps(
    tree: Tree, labels: NDArray[np.int32], masks: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    """(N, T) IoU of nodes and true masks."""
    areas = tree.sums(np.bincount(labels.ravel(), minlength=tree.count).astype(np.float64))
    shared = np.zeros((tree.count, len(masks)))
    true_areas = np.zeros(len(masks))
    for place, rle in enumerate(masks):
        inside = labels[decode_mask(rle)]
        shared[:, place] = np.bincount(inside, minlength=tree.count)
        true_areas[place] = len(inside)
    shared = tree.sums(shared)
    unions = areas[:, None] + true_areas - shared
    return shared / np.maximum(unions, 1)


def _print_costs(chart: Path | None) -> list[dict[str, Any]]:
    print("\n| pixels | trees live on | ms | MB more |\n|---|---|---|---|")
    rows = []
    for size in SIZES:
        arguments = [sys.executable, __file__, "cost", str(size[0]), str(size[1])]
        done = subprocess.run(arguments, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout)
        rows.append(row)
        print(
            f"| {size[0]} x {size[1]} | {row['working'][0]} x {row['working'][1]} | "
            f"{1000 * row['seconds']:.0f} | {row['peak_mb']:.0f} |",
            flush=True,
        )
    if chart is not None:
        points = [(row["size"][0] * row["size"][1] / 1e6, 1000 * row["seconds"]) for row in rows]
        drawn = line_chart_svg(
            {"milliseconds": points},
            "Candidates of an image: time of one core",
            "megapixels",
            "milliseconds",
            from_zero=True,
        )
        chart.write_text(drawn + "\n", encoding="utf-8")
    return rows


@app.command(show=False)
def cost(height: int, width: int) -> None:
    """Prints the processor time and the growth of peak memory of the candidates of one mosaic.

    Args:
        height: In pixels.
        width: In pixels.
    """
    torch.set_num_threads(1)
    pixels = _mosaic(height, width)
    region_candidates(pixels[:64, :64].copy(), most=10)  # Loads what is loaded on first use.
    before = _peak_mb()
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        found, _ = region_candidates(pixels, most=2000)
        seconds.append(time.process_time() - start)
    row = {
        "size": (height, width),
        "working": found.size,
        "seconds": min(seconds),
        "peak_mb": _peak_mb() - before,
    }
    print(json.dumps(row))


def _mosaic(height: int, width: int) -> NDArray[np.uint8]:
    """Photographs side by side, each as it is."""
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    photographs = (read_image(path) for path in sorted((DEV / "coco" / "images").iterdir()))
    top = 0
    while top < height:
        left, bottom = 0, height
        while left < width:
            photograph = next(photographs)
            part = photograph[: bottom - top, : width - left]
            canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
            bottom, left = min(bottom, top + part.shape[0]), left + part.shape[1]
        top = bottom
    return canvas


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        # What a process was before it ran this program counts for getrusage, not here.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    # Linux counts kilobytes, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _circumstances() -> dict[str, Any]:
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "commit": commit.strip(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


if __name__ == "__main__":
    app()
