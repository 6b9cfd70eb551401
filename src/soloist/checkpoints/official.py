"""Weights that others published, under the names of our network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from soloist.checkpoints.files import load_tensors
from soloist.checkpoints.names import (
    BACKBONE,
    COUNTER,
    RELEASED_MEAN,
    RELEASED_STD,
    Kind,
    flat_name,
    kind_of,
    our_name,
)
from soloist.errors import CheckpointError

_CATEGORY = "category_branch.category.bias"


@dataclass(frozen=True)
class OfficialWeights:
    """Tensors of a public file by their names in `SOLO.state_dict()`.

    Attributes:
        path: The file.
        kind: Which way of naming it follows.
        tensors: What is used of it. Those of a backbone start with `backbone.network.`.
        names: What the file calls each of them.
        missing: Names that a network has and the file lacks; known once it is `fitted` to one.
        left_over: What the file calls the tensors that are not used.
    """

    path: Path
    kind: Kind
    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]
    missing: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """Classes of the category branch; None if the file holds no segmenter."""
        return len(self.tensors[_CATEGORY]) if _CATEGORY in self.tensors else None

    def fitted(self, own: Mapping[str, Tensor]) -> OfficialWeights:
        """What a network has use for, under its own names.

        Counters of batch norms are not missed: nothing reads them, and frozen norms have none.

        Args:
            own: State of a SOLO, or part of it, under SOLO's names.

        Raises:
            CheckpointError: If a tensor has another shape there.
        """
        flat = {flat_name(name): name for name in self.tensors}
        sources = {name: name for name in own if name in self.tensors}
        sources |= {
            name: flat[flat_name(name)]
            for name in own
            if name not in sources and flat_name(name) in flat
        }
        for name, source in sources.items():
            if own[name].shape != self.tensors[source].shape:
                raise CheckpointError(
                    f"{self.path}: {name.removeprefix(BACKBONE)!r} must be "
                    f"{tuple(own[name].shape)}, got {tuple(self.tensors[source].shape)}; "
                    "is it a file for another network?"
                )
        unused = self.tensors.keys() - sources.values()
        left_over = tuple(self.names[name] for name in self.tensors if name in unused)
        return replace(
            self,
            tensors={name: self.tensors[source] for name, source in sources.items()},
            names={name: self.names[source] for name, source in sources.items()},
            missing=tuple(name for name in own if name not in sources and not is_counter(name)),
            left_over=self.left_over + left_over,
        )

    def summary(self) -> str:
        """One line on what was found, for people."""
        parts = [f"{len(self.tensors)} tensors used"]
        for title, names in (("missing", self.missing), ("left over", self.left_over)):
            parts.append(f"{len(names)} {title}" + (f" ({_few(names)})" if names else ""))
        return f"{self.path}: {self.kind.title}; {', '.join(parts)}"


def load_official(path: str | Path) -> OfficialWeights:
    """Reads a public file of weights, whatever it calls its tensors; no code in it runs.

    Known are the released FreeSOLO (detectron2's names, `.pth` or `.pkl`) and other networks of
    detectron2, DenseCL, MoCo, DINO, SwAV, OpenMMLab, torchvision, timm, and Soloist's own files.
    A file does not say which pixels it expects unless it keeps `pixel_mean`: RGB with ImageNet's
    statistics is assumed, and stride in the 3x3 convolution of a block, as DenseCL has both.

    Args:
        path: `.pth`, `.pth.tar`, `.pt`, `.pkl` or `.safetensors`.

    Raises:
        CheckpointError: If the file cannot be read, is for other pixels, names a tensor twice, or
            holds one that is not finite.
    """
    path = Path(path)
    found = load_tensors(path)
    kind = kind_of(found)
    _check_pixels(path, found)
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    left_over = []
    for name, tensor in found.items():
        ours = our_name(name, kind)
        if ours is None:
            left_over.append(name)
        elif ours in tensors:
            raise CheckpointError(
                f"{path} must hold one network, got {names[ours]!r} and {name!r}, which mean the "
                "same; save one of them to a file of its own"
            )
        elif tensor.is_floating_point() and not _is_finite(tensor):
            raise CheckpointError(
                f"{path} must hold finite numbers, got others in {name!r}; a network of them finds "
                "nothing: use an earlier checkpoint, or train again with a lower learning rate"
            )
        else:
            tensors[ours], names[ours] = tensor, name
    return OfficialWeights(path, kind, tensors, names, left_over=tuple(left_over))


def is_counter(name: str) -> bool:
    """Whether a tensor counts the batches of a batch norm."""
    return name.endswith(COUNTER)


def _check_pixels(path: Path, found: Mapping[str, Tensor]) -> None:
    """Refuses weights whose own pixel statistics are not those that images get here."""
    for name, wanted in (("pixel_mean", RELEASED_MEAN), ("pixel_std", RELEASED_STD)):
        if name not in found:
            continue
        got = found[name].flatten().float() if found[name].numel() == 3 else None
        if got is None or not torch.allclose(got, torch.tensor(wanted), atol=0.5):
            values = tuple(found[name].shape) if got is None else got.tolist()
            raise CheckpointError(
                f"{path} must be for RGB pixels with {name} {wanted}, got {values}; "
                "such weights, often for BGR, cannot be used"
            )


def _is_finite(tensor: Tensor) -> bool:
    # Types of 8 bits know no such question.
    wide = tensor.float() if tensor.itemsize == 1 else tensor
    return bool(torch.isfinite(wide).all())


def _few(names: tuple[str, ...], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
