"""The verbs that take masks and networks elsewhere: `convert` and `export`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from soloist.cli.arguments import (
    ExportOptions,
    Flat,
    ForExport,
    InferenceOptions,
    Labels,
    MaskImages,
    Model,
    ModelPreset,
    Overwrite,
)
from soloist.cli.options import given
from soloist.cli.runs import DONE, failures_status
from soloist.data.exports.options import ExportOptions as Chosen
from soloist.data.exports.options import FormatName
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    from soloist.api.writing import Exported

logger = logging.getLogger("soloist")


def convert(
    source: Path,
    *,
    format: FormatName,
    out: Path,
    images: MaskImages = None,
    source_format: str | None = None,
    how: Annotated[Labels, Flat] = Labels(),
    overwrite: Overwrite = False,
    options: Annotated[ExportOptions, ForExport] = ExportOptions(),
) -> int:
    """Write masks for another tool: CVAT, YOLO, Label Studio, labelme, VIA and others.

    What the format cannot hold is counted and logged; docs/formats.md says what each can.

    Args:
        source: COCO file of `soloist predict` or of another tool; or a labelled data set.
        format: What to write.
        out: Folder to write.
        source_format: `coco`, `voc`, `cityscapes`, `yolo`, `label-maps`, `labelme`, `via` or
            `label-studio`; found out if not given.
    """
    from soloist import api
    from soloist.data.datasets.labels import Reading
    from soloist.runtime.stopping import STARTS_OVER, listening

    reading = Reading(source_format, how.split, images or None, strict=how.strict, exif=how.exif)
    chosen = Chosen(**given(options))
    with listening(STARTS_OVER):
        made = api.convert(
            source, out, format=format, how=reading, options=chosen, overwrite=overwrite
        )
    return report_export(made)


def report_export(made: Exported) -> int:
    """Tells what an export holds and what got lost, and prints where it is.

    Returns:
        The exit code.
    """
    summary = made.summary
    if launched().rank == 0 and summary.changes is not None and not summary.changes:
        logger.info("%s is finished already", made.out)
        sys.stdout.write(f"{made.out}\n")
    elif launched().rank == 0:
        above = f" of score {summary.min_score:g} or more" if summary.min_score else ""
        counts = f"{summary.masks:,} masks{above} on {summary.images:,} images"
        if summary.changes is not None:
            counts += f"; of these {summary.changes}, the rest is left as it was"
        lost = (f"  {count:,} {note.value}" for note, count in summary.notes.items() if count)
        logger.info("\n".join([f"{made.format}: {counts}", *lost]))
        sys.stdout.write(f"{made.out}\n")
    return failures_status(summary.failed, made.errors)


def export(
    model: Model = None,
    *,
    out: Path,
    # The one format there is: commands that name it stay right when another is added.
    to: Annotated[Literal["onnx"], Parameter(help="Format of the file.")] = "onnx",
    preset: ModelPreset = None,
    overwrite: Overwrite = False,
    options: Annotated[InferenceOptions, Flat] = InferenceOptions(),
) -> int:
    """Write a segmenter as one file that runs without torch.

    soloist.inference.onnx.runtime.load(FILE) runs it. The file is compared with torch on generated
    images before it appears.

    Args:
        out: File to write, such as model.onnx; it is complete, with options and categories.
    """
    from soloist import api

    values = given(options).get("inference", {})
    comparison = api.export(model, out, preset=preset, options=values, overwrite=overwrite)
    sys.stdout.write(f"compared with torch: {comparison.summary()}\n{out}\n")
    return DONE
