"""What `soloist backbones` lists: networks worth trying, with licence, stride, size and speed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import timm
import torch
from rich.table import Table

from soloist.checkpoints.published import PUBLISHED, backbone_choice
from soloist.models.backbone_weights import BUNDLED_NAME
from soloist.models.backbones import create_backbone
from soloist.runtime.console import Console
from soloist.runtime.device import Runtime, choose_runtime

MEASURED_SIDE = 320
"""Side in pixels of the square image a forward pass is timed on."""

# What `--backbone` takes, and what for. Not a ranking: docs/choosing-a-backbone.md.
KNOWN = {
    "bundled": "a first try and the presets tiny and small: no download",
    "densecl-r50": "the paper's: `--preset paper-r50`",
    "densecl-r101": "the paper's larger one: `--preset paper-r101`",
    "convnext_tiny.dinov3_lvd1689m": "photographs; four strides, as a ResNet",
    "vit_small_patch16_224.dino": "photographs; one map of stride 16",
    "vit_small_patch8_224.dino": "the same with a map twice as fine, four times the work",
    "vit_small_patch14_reg4_dinov2.lvd142m": "photographs; registers keep the map clean",
    "vit_base_patch14_reg4_dinov2.lvd142m": "the same, larger; wants a GPU",
    "vit_small_patch16_dinov3.lvd1689m": "photographs of any size and shape",
    "vit_large_patch16_dinov3.sat493m": "satellite images; wants a GPU",
    "resnet50": "comparison only: timm learned it with ImageNet's labels",
}


@dataclass(frozen=True)
class BackboneRow:
    """A backbone as it is listed.

    Attributes:
        choice: What `--backbone` takes.
        licence: Of its weights, as far as it is known.
        strides: Strides of its feature maps in pixels, finest first.
        parameters: Numbers in the network, without a classifier.
        good_for: What it is good for.
        seconds: One forward pass at 320 pixels here; None if not measured.
    """

    choice: str
    licence: str
    strides: tuple[int, ...]
    parameters: int
    good_for: str
    seconds: float | None = None


def list_backbones(runtime: Runtime | None = None) -> list[BackboneRow]:
    """What is known of each backbone; nothing is downloaded.

    Args:
        runtime: Where to time a forward pass with random weights; None measures nothing.
    """
    rows = []
    for choice, good_for in KNOWN.items():
        # The bundled file ends at the third stage, as the presets that use it.
        name, stages = (BUNDLED_NAME, 3) if choice == "bundled" else (_name(choice), 4)
        with torch.device("meta"):
            network = create_backbone(name, stages=stages)
        rows.append(
            BackboneRow(
                choice=choice,
                licence=_licence(choice),
                strides=network.strides,
                parameters=sum(value.numel() for value in network.parameters()),
                good_for=good_for,
                seconds=None if runtime is None else _seconds(name, stages, runtime),
            )
        )
    return rows


def print_backbones(*, measure: bool) -> None:
    """Prints the table on stdout.

    Args:
        measure: Time a forward pass of each on this machine, which takes a minute or more.
    """
    runtime = choose_runtime() if measure else None
    table = Table(caption=None if runtime is None else f"one image of 320x320, {runtime}")
    table.add_column("--backbone", no_wrap=True)
    table.add_column("licence of the weights")
    table.add_column("strides", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    if measure:
        table.add_column("here", justify="right", no_wrap=True)
    table.add_column("good for")
    for row in list_backbones(runtime):
        speed = [] if row.seconds is None else [f"{row.seconds:.2f} s"]
        strides = " ".join(str(stride) for stride in row.strides)
        size = f"{row.parameters / 1e6:.0f} M"
        table.add_row(row.choice, row.licence, strides, size, *speed, row.good_for)
    Console(width=120).print(table)


def _name(choice: str) -> str:
    return backbone_choice(choice)["name"]


def _licence(choice: str) -> str:
    if choice == "bundled":
        return "apache-2.0"
    if choice in PUBLISHED:
        return PUBLISHED[choice].licence
    record = timm.get_pretrained_cfg(choice)
    return (record and record.license) or "not recorded by timm"


@torch.inference_mode()
def _seconds(name: str, stages: int, runtime: Runtime) -> float:
    """Seconds of one forward pass with random weights, after one that warms up."""
    network = create_backbone(name, stages=stages).to(runtime.device).eval()
    image = torch.zeros(1, 3, MEASURED_SIDE, MEASURED_SIDE, device=runtime.device)
    for _ in range(2):
        started = time.perf_counter()
        with runtime.autocast():
            maps = network(image)
        # Waits for the device.
        maps[-1].sum().item()
        seconds = time.perf_counter() - started
    return seconds
