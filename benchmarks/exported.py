"""An exported network beside torch: what both find, and how long they take on one thread.

    OMP_NUM_THREADS=1 python benchmarks/exported.py model.onnx [--model RUN] [--images 50]

Images are generated scenes of 320 pixels, of the split `val`. Times are of processor time (which
other work on the machine disturbs little) for pixels in memory: resizing, network, post-processing;
of each image the least of several runs, of those the median.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from numpy.typing import NDArray

import soloist
from soloist.data.scenes import make_scene
from soloist.inference.onnx import runtime as onnx_runtime
from soloist.inference.onnx.export import compare
from soloist.models.build import normalize

SEED = 5
TIMED = 5
REPEATS = 7

app = App(help=__doc__)


@app.default
def main(file: Path, *, model: str | None = None, images: int = 50) -> None:
    """Prints a line of comparison and a table of times.

    Args:
        file: What `soloist export` wrote.
        model: What it was exported from; without it the bundled segmenter.
        images: How many to compare on.
    """
    torch.set_num_threads(1)
    scenes = [make_scene(index, seed=SEED, split="val").image for index in range(images)]
    exported = onnx_runtime.load(file, threads=1)
    exact = soloist.load(model, device="cpu", precision="fp32")
    print(compare(exact, exported, scenes).summary())
    print(f"{file.stat().st_size / 1e6:.1f} MB\n")
    print("| runs by | ms an image | of that the network |")
    print("|---|---|---|")
    timed = scenes[:TIMED]
    batches = [exported.batch(pixels)[0] for pixels in timed]
    for precision in ("bf16", "fp32"):
        segmenter = soloist.load(model, device="cpu", precision=precision)
        own = replace(segmenter.config.inference, masks="network")
        segmenter.config = replace(segmenter.config, inference=own)
        network = [_network(segmenter, batch) for batch in batches]
        whole = [_whole(segmenter, pixels) for pixels in timed]
        print(f"| torch, {precision} | {_milliseconds(whole)} | {_milliseconds(network)} |")
    network = [lambda batch=batch: exported.raw_outputs(batch) for batch in batches]
    whole = [_whole(exported, pixels) for pixels in timed]
    print(f"| ONNX Runtime, fp32 | {_milliseconds(whole)} | {_milliseconds(network)} |")


def _whole(segmenter: Any, pixels: NDArray[np.uint8]) -> Callable[[], Any]:
    return lambda: segmenter(pixels, pixels.shape[:2])


def _network(segmenter: soloist.Segmenter, batch: NDArray[np.uint8]) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        with segmenter.runtime.autocast():
            return segmenter.network(normalize(segmenter.network, torch.from_numpy(batch)))

    return run


def _milliseconds(calls: list[Callable[[], Any]]) -> str:
    """The median over the calls of each one's least processor time."""
    least = []
    for call in calls:
        call()
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        least.append(min(times))
    return f"{1000 * statistics.median(least):.0f}"


if __name__ == "__main__":
    app()
