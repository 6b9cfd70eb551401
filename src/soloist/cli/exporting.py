"""The verb that takes a network out of Soloist: `export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from soloist.cli.arguments import Flat, InferenceOptions, ModelPreset, Overwrite
from soloist.cli.options import given
from soloist.cli.runs import DONE


def export(
    model: str | None = None,
    *,
    out: Path,
    to: Annotated[Literal["onnx"], Parameter(help="Format of the file.")] = "onnx",
    preset: ModelPreset = None,
    overwrite: Overwrite = False,
    options: Annotated[InferenceOptions, Flat] = InferenceOptions(),  # noqa: B008  # immutable
) -> int:
    """Write a segmenter as one file that runs without torch.

    soloist.inference.onnx.runtime.load(FILE) runs it. The file is compared with torch on generated
    pictures before it appears.

    Args:
        model: Run folder of `fit`, `train` or `demo`, a file such as the released FreeSOLO's, or
            `owner/name` on the hub; without it the segmenter that comes with the package.
        out: File to write, such as model.onnx; it is complete, with options and categories.
    """
    from dataclasses import replace

    from soloist.config.presets import override
    from soloist.inference.onnx.export import export_onnx
    from soloist.inference.segmenter import load

    segmenter = load(model, preset=preset, device="cpu", precision="fp32")
    inference = override(
        segmenter.config.inference, given(options).get("inference", {}), where="options"
    )
    segmenter.config = replace(segmenter.config, inference=inference)
    comparison = export_onnx(segmenter, out, overwrite=overwrite)
    sys.stdout.write(f"compared with torch: {comparison.summary()}\n{out}\n")
    return DONE
