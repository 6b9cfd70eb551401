"""Public weights by short names, each pinned to a commit and a checksum, with its licence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from soloist.checkpoints.hub_reference import PREFIX, HubReference


@dataclass(frozen=True)
class Published:
    """A public file of weights.

    Attributes:
        name: Its short name here.
        architecture: timm name of the network it fits.
        reference: The file, its commit and its checksum.
        origin: What learned it, on what.
        licence: What is known of its licence.
    """

    name: str
    architecture: str
    reference: HubReference
    origin: str
    licence: str

    def notice(self) -> str:
        """One line to read before the first use."""
        return f"{self.name}: {self.origin}; from {self.reference}; licence: {self.licence}"


_DENSECL_LICENCE = "none stated for the weights; DenseCL's code is GPL-3.0"

# Commits and checksums are those of the repository's own pages on the hub (docs/weights.md).
_KNOWN = (
    Published(
        name="densecl-r50",
        architecture="resnet50",
        reference=HubReference(
            "ZjuCv/AdelaiDet",
            "densecl_r50_imagenet_200ep.pth",
            "811602d39d516ef6181be837024ad936916a08f9",
            "08286baa2701cdca040e31589f4ca9875cbbe86aa00cf6896aa7a2c8994fee6f",
        ),
        origin="DenseCL, 200 epochs of ImageNet without labels",
        licence=_DENSECL_LICENCE,
    ),
    Published(
        name="densecl-r101",
        architecture="resnet101",
        reference=HubReference(
            "ZjuCv/AdelaiDet",
            "densecl_r101_imagenet_200ep.pth",
            "c4c43866d4ccc81bb522ab3cbd0389ab4b5d4ec3",
            "f13e5bedebaad08dc5d6d378ff968dfed86c52ffe79089aa9d68d7d93a581fe4",
        ),
        origin="DenseCL, 200 epochs of ImageNet without labels",
        licence=_DENSECL_LICENCE,
    ),
)
PUBLISHED: Mapping[str, Published] = MappingProxyType({one.name: one for one in _KNOWN})

_SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl", ".tar")


def backbone_choice(text: str) -> dict[str, str]:
    """The options `backbone.name` and `backbone.weights` that one word stands for.

    Args:
        text: A short name (`densecl-r50`), `bundled`, `none`, a file, a run folder, `hf:...`, or
            a timm name, which then comes with timm's weights.

    Returns:
        `weights`, and `name` where it is known.
    """
    if text in PUBLISHED:
        return {"name": PUBLISHED[text].architecture, "weights": text}
    if text in ("bundled", "none") or text.startswith(PREFIX):
        return {"weights": text}
    path = Path(text)
    if os.path.exists(text) or len(path.parts) > 1 or text.endswith(_SUFFIXES):
        return {**_recorded_name(path), "weights": text}
    return {"name": text, "weights": "timm"}


def _recorded_name(path: Path) -> dict[str, str]:
    """The network a run folder was learned with, if it says so."""
    for file in (path / "model" / "config.json", path / "config.json"):
        if not file.is_file():
            continue
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if isinstance(record, dict):
            record = record.get("backbone", record)
        name = record.get("name") if isinstance(record, dict) else None
        return {"name": name} if isinstance(name, str) else {}
    return {}
