"""The verbs that write for other programs: `convert`, `predict --format` too, and `export`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from soloist.cli.arguments import (
    Exif,
    ExportOptions,
    Flat,
    ForExport,
    InferenceOptions,
    MaskImages,
    ModelPreset,
    Overwrite,
    Strict,
)
from soloist.cli.options import given
from soloist.cli.runs import DONE, failures_status
from soloist.data.exports.options import ExportOptions as Chosen
from soloist.data.exports.options import FormatName
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    from soloist.data.coco.types import CocoFile
    from soloist.data.exports.export import ExportSummary

logger = logging.getLogger("soloist")


def convert(
    source: Path,
    *,
    format: FormatName,
    out: Path,
    images: MaskImages = None,
    source_format: str | None = None,
    split: str | None = None,
    exif: Exif = None,
    strict: Strict = False,
    overwrite: Overwrite = False,
    options: Annotated[ExportOptions, ForExport] = ExportOptions(),  # noqa: B008  # immutable
) -> int:
    """Write masks for another tool: CVAT, YOLO, Label Studio, labelme, VIA and others.

    What the format cannot hold is counted and told; docs/formats.md says what each can.

    Args:
        source: COCO file of `soloist predict` or of another tool; or a labelled data set.
        format: What to write.
        out: Folder to write.
        source_format: `coco`, `voc`, `cityscapes`, `yolo`, `label-maps`, `labelme`, `via` or
            `label-studio`; found out if not given.
        split: Of a data set with several, such as `val2017`.
    """
    from soloist.data.datasets.labels import Reading
    from soloist.data.exports.export import check_options
    from soloist.data.exports.source import read_source
    from soloist.runtime.stopping import STARTS_OVER, listening

    chosen = Chosen(**given(options))
    check_options(format, chosen)
    how = Reading(source_format, split, images or None, strict=strict, exif=exif)
    file, paths = read_source(source, how)
    with listening(STARTS_OVER):
        return write_format(file, paths, out, format, chosen, overwrite=overwrite)


def convert_predictions(
    predictions: Path,
    sources: Sequence[str],
    out: Path,
    format: FormatName,
    options: Chosen,
    *,
    overwrite: bool,
) -> int:
    """The folder of `predict --format`, made of the file of masks."""
    from soloist.data.coco.read import load_coco
    from soloist.data.exports.source import paths_of
    from soloist.runtime.stopping import STARTS_OVER, listening

    file = load_coco(predictions)
    with listening(STARTS_OVER):
        return write_format(
            file, paths_of(file, sources), out, format, options, overwrite=overwrite
        )


def write_format(
    file: CocoFile,
    paths: Mapping[int, Path],
    out: Path,
    format: FormatName,
    options: Chosen,
    *,
    overwrite: bool,
) -> int:
    """Writes a format on the main process and tells what it holds and what got lost."""
    from soloist.data.exports.export import ERRORS, export
    from soloist.runtime.distributed import on_main
    from soloist.runtime.lock import locked_output

    with locked_output(out):
        summary = on_main(lambda: export(file, paths, out, format, options, overwrite=overwrite))
    if launched().rank == 0:
        logger.info("\n".join(_told(format, out, summary)))
        sys.stdout.write(f"{out}\n")
    return failures_status(summary.failed, out / ERRORS)


def _told(format: str, out: Path, summary: ExportSummary) -> list[str]:
    if summary.changes is not None and not summary.changes:
        return [f"{out} is finished already"]
    above = f" of score {summary.min_score:g} or more" if summary.min_score else ""
    head = f"{format}: {summary.masks:,} masks{above} on {summary.images:,} images"
    if summary.changes is not None:
        head += f"; of these {summary.changes}, the rest is left as it was"
    return [head, *(f"  {count:,} {note.value}" for note, count in summary.notes.items() if count)]


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
