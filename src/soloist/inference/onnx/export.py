"""Exporting a trained network to ONNX, checked against torch before the file appears."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soloist import __version__
from soloist.config import Config
from soloist.config.checks import Compat
from soloist.data.scenes import make_scene
from soloist.errors import ConfigError, require
from soloist.inference.onnx.numpy_postprocess import RawOutputs
from soloist.inference.onnx.runtime import (
    EXTRA,
    INPUT,
    OUTPUTS,
    RECORD,
    SIDE_MULTIPLE,
    OnnxSegmenter,
    load,
)
from soloist.inference.output_file import check_output
from soloist.inference.segmenter import Segmenter
from soloist.models.build import normalize, solo_record
from soloist.models.solo import SOLO
from soloist.ops.masks import mask_iou
from soloist.postprocess import flat_candidates
from soloist.runtime.device import Runtime
from soloist.runtime.files import atomic_path, one_line

logger = logging.getLogger(__name__)

OPSET = 20
EXAMPLE_SIDES = (6, 9)
"""Height and width the network is traced at, in multiples of `SIDE_MULTIPLE`.

No level of the pyramid is square there, so none has the size of its grid by chance."""
SCENES = 2
"""Generated images the exported network is compared with torch on; their formats differ."""
MAX_BYTES = 2 * 10**9
"""Of the weights: a protobuf holds 2 GiB."""
MAX_KEPT_ONCE = 0.01
"""Share of the cells that point NMS may drop on one side only."""
TOLERANCE = 1e-3
"""Largest difference of raw outputs, as a share of their largest value, that is accepted."""


@dataclass(frozen=True)
class Comparison:
    """How an exported network differs from torch in float32.

    Attributes:
        images: Images compared.
        same_count: Images on which both find equally many objects.
        scores: (N,) absolute difference of each of torch's objects from the exported network's
            object of highest overlap; 1 where there is none.
        overlaps: (N,) the IoU of both masks.
        raw: Largest difference of the network's outputs on the first images, as a share of the
            largest value of each.
    """

    images: int
    same_count: int
    scores: NDArray[np.float32]
    overlaps: NDArray[np.float32]
    raw: float

    def summary(self) -> str:
        """One line for people."""
        parts = [
            f"{len(self.scores)} objects on {self.images} images, as many in both on "
            f"{self.same_count}"
        ]
        if len(self.scores) > 0:
            parts.append(f"largest difference of a score {self.scores.max():.1e}")
            parts.append(f"least IoU of a mask {self.overlaps.min():.4f}")
        parts.append(f"the network's outputs differ by at most {self.raw:.1e} of their range")
        return "; ".join(parts)


class _Raw(nn.Module):
    """The network from uint8 images to the fields of `RawOutputs`."""

    def __init__(self, network: SOLO, compat: Compat) -> None:
        super().__init__()
        self.network = network
        self.compat = compat

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs = self.network(normalize(self.network, images))
        return (*flat_candidates(outputs, self.compat), outputs.mask_features)


def export_onnx(segmenter: Segmenter, out: Path, *, overwrite: bool = False) -> Comparison:
    """Writes a network as one complete `.onnx` file, for `soloist.inference.onnx.runtime.load`.

    The file holds the network in float32, from uint8 pixels of any size and number to the scores,
    kernels and embeddings of all cells and the mask features; its metadata hold the options of
    the post-processing and the categories.

    Args:
        segmenter: A trained segmenter.
        out: The file.
        overwrite: Replace it.

    Returns:
        How the file differs from torch on generated images.

    Raises:
        ConfigError: If a package is absent, or the network cannot be exported.
        RunError: If the file exists or cannot be written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, extra=EXTRA, wanted="soloist export")
    check_output(out, overwrite=overwrite, example="model.onnx")
    name = segmenter.config.backbone.name
    size = 4 * sum(value.numel() for value in segmenter.network.parameters())
    if size > MAX_BYTES:
        raise ConfigError(
            f"one ONNX file holds networks of at most {MAX_BYTES / 1e9:.1f} GB in float32, that "
            f"of backbone {name!r} has {size / 1e9:.1f} GB; choose a smaller backbone"
        )
    config = _of_the_network(segmenter.config)
    if config != segmenter.config:
        logger.info(
            "the file gives the network's own masks as they are: inference.masks becomes "
            "`network`, inference.outline_radius 0"
        )
    record = {"soloist": __version__, **solo_record(config, segmenter.categories)}
    proto = _described(_exported(_raw_network(segmenter), name), record)
    with atomic_path(out) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        inputs = (make_scene(index, split="val").image for index in range(SCENES))
        comparison = compare(segmenter, load(temporary), inputs)
        if not comparison.raw <= TOLERANCE:
            raise ConfigError(
                f"the exported network of backbone {name!r} must do what torch does, but its "
                f"outputs differ by {comparison.raw:.1e} of their range: nothing is written; "
                "choose another backbone"
            )
    return comparison


def compare(
    segmenter: Segmenter, exported: OnnxSegmenter, inputs: Iterable[NDArray[np.uint8]]
) -> Comparison:
    """Runs both on the same images, torch in float32 on the processor, for the network's masks.

    Args:
        segmenter: The segmenter that was exported.
        exported: What it was exported to.
        inputs: (H, W, 3) uint8 RGB each.
    """
    raw = _raw_network(segmenter)
    config = _of_the_network(segmenter.config)
    runtime = Runtime(torch.device("cpu"), "fp32")
    reference = Segmenter(raw.network, config, runtime, segmenter.categories)
    scores, overlaps, largest, images, same = [], [], 0.0, 0, 0
    for pixels in inputs:
        if images < SCENES:
            batch, _ = exported.batch(pixels)
            with torch.inference_mode():
                wanted = raw(torch.from_numpy(batch))
            largest = max(largest, _difference(wanted, exported.raw_outputs(batch)))
        size = (pixels.shape[0], pixels.shape[1])
        ours, theirs = reference(pixels, size), exported(pixels, size)
        images += 1
        same += len(ours) == len(theirs)
        iou = mask_iou(ours.masks, torch.from_numpy(theirs.masks))
        for row, score in enumerate(ours.scores.tolist()):
            best = int(iou[row].argmax()) if len(theirs) else None
            overlaps.append(0.0 if best is None else float(iou[row, best]))
            scores.append(1.0 if best is None else abs(score - float(theirs.scores[best])))
    return Comparison(
        images,
        same,
        np.array(scores, dtype=np.float32),
        np.array(overlaps, dtype=np.float32),
        largest,
    )


def _of_the_network(config: Config) -> Config:
    """The configuration with the network's own masks, which is what is exported."""
    own = replace(config.inference, masks="network", outline_radius=0.0)
    return replace(config, inference=own)


def _raw_network(segmenter: Segmenter) -> _Raw:
    """A copy of the network in float32 on the processor, up to where the exported graph ends."""
    network = copy.deepcopy(segmenter.network).to("cpu", torch.float32)
    network = network.to(memory_format=torch.contiguous_format)
    return _Raw(network, segmenter.config.inference.compat).eval()


def _exported(raw: _Raw, name: str) -> Any:
    """The ONNX protobuf of a network whose batch, height and width are free."""
    height, width = (sides * SIDE_MULTIPLE for sides in EXAMPLE_SIDES)
    example = torch.zeros((2, 3, height, width), dtype=torch.uint8)
    dim = torch.export.Dim
    free = {0: dim("batch"), 2: SIDE_MULTIPLE * dim("rows"), 3: SIDE_MULTIPLE * dim("columns")}
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                raw,
                (example,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=(free,),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = one_line(error.__cause__ or error)[:300]
        raise ConfigError(
            f"backbone {name!r} cannot be exported to ONNX by this torch ({reason}); "
            "choose another backbone"
        ) from error
    assert program is not None
    return program.model_proto


def _described(proto: Any, record: Mapping[str, Any]) -> Any:
    """The protobuf with the record, without what the exporter notes about code on this machine."""
    import onnx

    graph = proto.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.ClearField("doc_string")
    onnx.helper.set_model_props(proto, {RECORD: json.dumps(record)})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _difference(wanted: tuple[Tensor, ...], got: RawOutputs) -> float:
    """Largest difference of the outputs, as a share of the largest value of each.

    Of two neighbouring cells of nearly equal scores rounding decides which one point NMS drops:
    where both are kept counts, unless many are dropped by one side only.
    """
    largest = 0.0
    for ours, name in zip(wanted, OUTPUTS, strict=True):
        reference, exported = ours[0].numpy(), getattr(got, name)
        apart = np.abs(reference - exported)
        if name == "scores":
            kept_once = (reference > 0) != (exported > 0)
            apart = np.where(kept_once, kept_once.mean() > MAX_KEPT_ONCE, apart)
        largest = max(largest, float(apart.max() / max(np.abs(reference).max(), 1e-12)))
    return largest
