"""What large sets of images would cost, from counted operations and bytes: Markdown tables.

    python benchmarks/costs.py [--products 300] [--ratio 1.6]

Operations are counted on networks without values. `--products` is the machine's ceiling (billions
of bfloat16 multiplications and additions a second) and `--ratio` how much longer than their floor
its networks take, both as `make bench` prints them. The figures of GPUs are arithmetic, not
measurements: the data sheet's peak, of which a share is assumed to be reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from cyclopts import App
from torch.utils.flop_counter import FlopCounterMode

from soloist.config import Config
from soloist.config.presets import load_config
from soloist.models.build import build_backbone, build_solo

SETS = {"COCO train2017 and unlabeled2017": 241_000, "ten million images": 10_000_000}
GPU_PEAK = 989e12
"""bfloat16 operations a second of an H100 SXM without sparsity, by NVIDIA's data sheet."""
GPU_SHARE = 0.3
"""Of the peak: an assumption, usual for convolutions of this size."""
VIEWS = 2
"""A weak and a strong view of each image and pass."""
IMAGE_BYTES = 150_000
"""Of a JPEG of 640 x 480 pixels, roughly."""
SIZES = {"paper-r50": (800, 1088), "small": (576, 768), "tiny": (576, 768)}
"""(height, width) Free Mask's backbone sees of a 480 x 640 image, by preset."""

app = App(help=__doc__)


@app.default
def main(*, products: float = 300.0, ratio: float = 1.6) -> None:
    """Prints the tables.

    Args:
        products: The machine's ceiling of bfloat16 products, in billions a second.
        ratio: How much longer than its floor a network takes here.
    """
    rate = 1e9 * products / ratio
    print(
        "| preset | G operations: backbone of `masks` | training, an image and pass | prediction |"
    )
    print("|---|---|---|---|")
    costs = {}
    for preset in SIZES:
        costs[preset] = extraction, training, prediction = operations(load_config(preset))
        shown = " | ".join(f"{value / 1e9:.1f}" for value in (extraction, training, prediction))
        print(f"| `{preset}` | {shown} |")
    print()
    print("| set | preset, stage | this machine | one H100 | 64 GPUs |")
    print("|---|---|---|---|---|")
    for title, images in SETS.items():
        for preset, (extraction, training, _) in costs.items():
            for stage, each in (("masks", extraction), ("training, one pass", training)):
                total = images * each
                times = [total / rate, total / (GPU_SHARE * GPU_PEAK)]
                times.append(times[1] / 64)
                print(f"| {title} | `{preset}`, {stage} | {' | '.join(map(_time, times))} |")
        print(f"| {title} | reading, {images * IMAGE_BYTES / 1e9:,.0f} GB | | | |")


def operations(config: Config) -> tuple[float, float, float]:
    """Multiplications and additions of an image of 480 x 640.

    Returns:
        Of Free Mask's backbone, of training on the image once, and of prediction's network.
    """
    preset = next(name for name in SIZES if load_config(name) == config)
    with torch.device("meta"):
        backbone = build_backbone(_bare(config).backbone)
        solo = build_solo(_bare(config).backbone, config.model)
        height, width = SIZES[preset]
        extraction = _count(lambda: backbone(torch.empty(1, 3, height, width)))
        side = config.augment.crop_size
        trained = (side, side) if side else (_round(config.augment.short_side[1]), 960)
        training = 3 * VIEWS * _count(lambda: solo(torch.empty(1, 3, *trained)))
        short = _round(config.inference.short_side)
        prediction = _count(lambda: solo(torch.empty(1, 3, short, _round(short * 4 / 3))))
    return extraction, training, prediction


def _bare(config: Config) -> Config:
    """Without weights: networks on the meta device have no values."""
    return replace(config, backbone=replace(config.backbone, weights="none"))


def _round(side: float) -> int:
    return 32 * round(side / 32)


def _count(run: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _time(seconds: float) -> str:
    for name, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


if __name__ == "__main__":
    app()
