"""What takes masks and networks elsewhere: `convert`, `export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.datasets.labels import Reading
from soloist.data.exports.export import ERRORS, ExportSummary, check_options
from soloist.data.exports.export import export as write_export
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import paths_of, read_source
from soloist.inference.segmenter import load
from soloist.runtime.distributed import on_main
from soloist.runtime.lock import locked_output

if TYPE_CHECKING:
    from soloist.data.coco.types import CocoFile
    from soloist.inference.onnx.export import Comparison


@dataclass(frozen=True)
class Exported:
    """Masks in the format of another tool.

    Attributes:
        out: The folder.
        format: Which format.
        summary: What it holds, and what got lost.
    """

    out: Path
    format: FormatName
    summary: ExportSummary

    @property
    def errors(self) -> Path:
        """The account of the images that could not be read."""
        return self.out / ERRORS


def convert(
    source: str | Path,
    out: str | Path,
    *,
    format: FormatName,
    how: Reading = Reading(),
    options: ExportOptions = ExportOptions(),
    overwrite: bool = False,
) -> Exported:
    """Writes masks in the format of another tool; see `soloist convert`.

    Args:
        source: COCO file of masks, or a labelled data set.
        out: Folder to write.
        format: What to write.
        how: How the source is read, and where its images are.
        options: Which masks, and how.
        overwrite: Replace what is there.

    Raises:
        SoloistError: For what a caller can cause.
    """
    check_options(format, options)
    file, paths = read_source(Path(source), how)
    return _written(file, paths, Path(out), format, options, overwrite=overwrite)


def convert_predictions(
    predictions: str | Path,
    images: Sequence[str],
    out: str | Path,
    *,
    format: FormatName,
    options: ExportOptions = ExportOptions(),
    overwrite: bool = False,
) -> Exported:
    """Writes what `predict` found in the format of another tool; see `soloist predict --format`.

    Args:
        predictions: The COCO file.
        images: The images it was made of, as they were given to `predict`.
        out: Folder to write.
        format: What to write.
        options: Which masks, and how.
        overwrite: Replace what is there.

    Raises:
        SoloistError: For what a caller can cause.
    """
    file = load_coco(predictions)
    return _written(file, paths_of(file, images), Path(out), format, options, overwrite=overwrite)


def _written(
    file: CocoFile,
    paths: Mapping[int, Path],
    out: Path,
    format: FormatName,
    options: ExportOptions,
    *,
    overwrite: bool,
) -> Exported:
    with locked_output(out):
        summary = on_main(
            lambda: write_export(file, paths, out, format, options, overwrite=overwrite)
        )
    return Exported(out, format, summary)


def export(
    model: str | Path | None,
    out: str | Path,
    *,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Writes a segmenter as one ONNX file, compared with torch; see `soloist export`.

    Args:
        model: As for `soloist.load`; None for the bundled one.
        out: File to write, such as model.onnx.
        preset: Of a file of weights, as for `soloist.load`.
        options: Values of the section `inference` that win over the model's.
        overwrite: Replace a file that is there.

    Raises:
        SoloistError: For what a caller can cause.
    """
    from soloist.inference.onnx.export import export_onnx

    segmenter = load(model, preset=preset, device="cpu", precision="fp32")
    inference = override(segmenter.config.inference, options or {}, where="options")
    segmenter.config = replace(segmenter.config, inference=inference)
    return export_onnx(segmenter, Path(out), overwrite=overwrite)
