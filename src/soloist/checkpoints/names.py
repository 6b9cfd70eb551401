"""What public files call their tensors, as tables.

A template holds fields in braces: `{block}` is a number, `{affine}` and `{norm}` are kinds of
tensors, and `{3*i+1}` is a number computed from `i`. Two templates with the same fields make a
row that is read in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

BACKBONE = "backbone.network."
"""Prefix of the backbone's tensors in `SOLO.state_dict()`."""
COUNTER = "num_batches_tracked"
"""Batch norms count their batches; frozen ones do not, and nothing here reads it."""

RELEASED_MEAN = (123.675, 116.28, 103.53)
RELEASED_STD = (58.395, 57.12, 57.375)
"""Pixel statistics, RGB in 0..255, that DenseCL's and FreeSOLO's weights are assumed to expect:
ImageNet's, as MoCo's detectron2 configurations state. Their files do not say."""

_WORDS = {"affine": "weight|bias", "norm": f"weight|bias|running_mean|running_var|{COUNTER}"}
_FIELD = re.compile(r"\{(?:(\d+)\*)?(\w+)(?:\+(\d+))?\}")

# Ours (torchvision's), detectron2's.
_RESNET = (
    ("conv1.weight", "stem.conv1.weight"),
    ("bn1.{norm}", "stem.conv1.norm.{norm}"),
    ("layer{n}.{block}.conv{k}.weight", "res{n+1}.{block}.conv{k}.weight"),
    ("layer{n}.{block}.bn{k}.{norm}", "res{n+1}.{block}.conv{k}.norm.{norm}"),
    ("layer{n}.{block}.downsample.0.weight", "res{n+1}.{block}.shortcut.weight"),
    ("layer{n}.{block}.downsample.1.{norm}", "res{n+1}.{block}.shortcut.norm.{norm}"),
)

# Ours, the released FreeSOLO's. A tower there numbers convolution, norm and ReLU through.
_HEADS = (
    ("fpn.lateral.{i}.{affine}", "backbone.fpn_lateral{i+2}.{affine}"),
    ("fpn.output.{i}.{affine}", "backbone.fpn_output{i+2}.{affine}"),
    ("category_branch.tower.{i}.0.weight", "ins_head.cate_tower.{3*i}.weight"),
    ("category_branch.tower.{i}.1.{affine}", "ins_head.cate_tower.{3*i+1}.{affine}"),
    ("category_branch.category.{affine}", "ins_head.cate_pred.{affine}"),
    ("category_branch.embedding.{affine}", "ins_head.emb_pred.{affine}"),
    ("kernel_branch.tower.{i}.0.weight", "ins_head.kernel_tower.{3*i}.weight"),
    ("kernel_branch.tower.{i}.1.{affine}", "ins_head.kernel_tower.{3*i+1}.{affine}"),
    ("kernel_branch.kernel.{affine}", "ins_head.kernel_pred.{affine}"),
    (
        "mask_feature_branch.levels.{level}.blocks.{block}.{layer}.{affine}",
        "mask_head.convs_all_levels.{level}.conv{block}.{layer}.{affine}",
    ),
    ("mask_feature_branch.merge.{layer}.{affine}", "mask_head.conv_pred.{layer}.{affine}"),
)


@dataclass(frozen=True)
class Kind:
    """A way in which public files name their tensors.

    Attributes:
        name: How code tells it apart.
        title: Its name in messages.
        marker: A file with a name that starts like this is of this kind.
        prefix: What precedes the backbone's names; names without it are left over. None where
            the kind has a table of names instead.
    """

    name: str
    title: str
    marker: str
    prefix: str | None = None


# The first whose marker is found. DenseCL's published backbones, DINO's ResNet-50 and
# torchvision's own files look the same.
KINDS = (
    Kind("soloist", "Soloist segmenter", r"backbone\.network\."),
    Kind("freesolo", "FreeSOLO segmenter (detectron2 names)", r"ins_head\."),
    Kind("detectron2", "detectron2 network", r"(backbone\.)?(bottom_up\.)?res2\."),
    Kind(
        "moco",
        "MoCo or DenseCL training",
        r"(module\.)?encoder_q\.",
        r"(module\.)?encoder_q\.(0\.)?",
    ),
    Kind("swav", "SwAV", r"(module\.)?(prototypes|projection_head)\b", r"(module\.)?"),
    Kind("dino", "DINO training", r"(module\.)?head\.last_layer\.", r"(module\.)?backbone\."),
    Kind(
        "openmmlab",
        "network around a backbone (OpenMMLab names)",
        r"((module|model)\.)?backbone\.",
        r"((module|model)\.)?backbone\.",
    ),
    Kind(
        "torchvision",
        "ResNet (torchvision names)",
        r"((module|model|network)\.)*layer1\.0\.conv1\.weight",
        r"((module|model|network)\.)*",
    ),
    Kind("timm", "backbone (timm names)", "", r"((module|model|network)\.)*"),
)

# Follow the backbone under the same prefix: classifiers, projections, later parts of a sequence.
_NOT_BACKBONE = re.compile(
    r"(fc|head|classifier|predictor|projector|projection_head|prototypes|\d+)\."
)


class _Field(NamedTuple):
    """A field of a template; a number is written as `scale * value + offset`."""

    name: str
    scale: int
    offset: int


class _Template:
    """A name with fields, to read their values from and to write them into."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._fields = [
            _Field(match[2], int(match[1] or 1), int(match[3] or 0))
            for match in _FIELD.finditer(text)
        ]
        pattern, end = "", 0
        for match in _FIELD.finditer(text):
            pattern += re.escape(text[end : match.start()]) + f"({_WORDS.get(match[2], r'[0-9]+')})"
            end = match.end()
        self._pattern = re.compile(pattern + re.escape(text[end:]))

    def read(self, name: str) -> dict[str, str | int] | None:
        """The fields' values in a name; None if it is not of this form."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        values: dict[str, str | int] = {}
        for field, text in zip(self._fields, match.groups(), strict=True):
            if field.name in _WORDS:
                values[field.name] = text
                continue
            value, rest = divmod(int(text) - field.offset, field.scale)
            if rest or value < 0:
                return None
            values[field.name] = value
        return values

    def write(self, values: Mapping[str, str | int]) -> str:
        """The name with these values."""
        name = self._text
        for match, field in zip(_FIELD.finditer(self._text), self._fields, strict=True):
            value = values[field.name]
            if isinstance(value, int):
                value = field.scale * value + field.offset
            name = name.replace(match[0], str(value))
        return name


class NameTable:
    """Rows of templates that name the same tensors in two ways.

    Args:
        rows: From, to.
    """

    def __init__(self, *rows: tuple[str, str]) -> None:
        self._rows = [(_Template(source), _Template(target)) for source, target in rows]

    def __call__(self, name: str) -> str | None:
        """The other name of a tensor; None if no row knows it."""
        for source, target in self._rows:
            values = source.read(name)
            if values is not None:
                return target.write(values)
        return None


# A bare ResNet, one inside a pyramid, and one without.
_OF_DETECTRON2 = NameTable(
    *(
        (f"{prefix}{theirs}", f"{BACKBONE}{ours}")
        for prefix in ("backbone.bottom_up.", "backbone.", "bottom_up.", "")
        for ours, theirs in _RESNET
    ),
    *((theirs, ours) for ours, theirs in _HEADS),
)

to_detectron2 = NameTable(*_RESNET)
"""From torchvision's name of a ResNet's tensor to detectron2's; None for names of others."""


def kind_of(names: Mapping[str, object]) -> Kind:
    """Which way of naming a file follows."""
    return next(kind for kind in KINDS if any(re.match(kind.marker, name) for name in names))


def our_name(name: str, kind: Kind) -> str | None:
    """The name in `SOLO.state_dict()` of a file's tensor; None if it has no place there."""
    if kind.name == "soloist":
        return name
    if kind.prefix is None:
        return _OF_DETECTRON2(name)
    match = re.match(kind.prefix, name)
    if match is None or _NOT_BACKBONE.match(name[match.end() :]):
        return None
    return BACKBONE + name[match.end() :]


def flat_name(name: str) -> str:
    """A name without what timm's feature extractors change in it.

    They join the parts of a nested name by an underscore, or put `model.` before it.
    """
    return name.replace(f"{BACKBONE}model.", BACKBONE).replace(".", "_")
