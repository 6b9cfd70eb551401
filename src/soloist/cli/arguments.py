"""The arguments that verbs share, and the option groups each of them takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from soloist.cli.options import all_optional, option_group
from soloist.config import TileConfig, TrackConfig
from soloist.config.presets import supervised as as_supervised
from soloist.data.exports.options import ExportOptions as ExportFields

Images = Annotated[
    list[str],
    Parameter(help="Images, folders, glob patterns, .txt lists or COCO files.", negative=""),
]
MaskImages = Annotated[
    list[str] | None,
    Parameter(
        help="Where the images are; without it where they were predicted from, or beside the file.",
        negative="",
    ),
]
Strict = Annotated[
    bool,
    Parameter(
        help="Stop at anything that is wrong with the labels, instead of leaving that out.",
        negative="",
    ),
]
Exif = Annotated[
    Literal["upright", "stored"] | None,
    Parameter(
        help="What labels of images with an EXIF orientation were made on: the images as they are "
        "shown, or as they are stored; found out where the images tell."
    ),
]
PRESETS_HELP = (
    "`paper` (= `paper-r50`), `paper-r101`, `small`, `tiny` (trains on a laptop) or `soloist` (as "
    "small, but with what is not in the paper)."
)
Preset = Annotated[str, Parameter(help=PRESETS_HELP)]
ModelPreset = Annotated[
    str | None,
    Parameter(
        help="What a file of weights was trained with, such as `paper-r101`; for files only."
    ),
]
ConfigFile = Annotated[Path | None, Parameter(help="YAML file whose values win over the preset's.")]
Device = Annotated[str, Parameter(help="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.")]
Precision = Annotated[str, Parameter(help="`auto`, `bf16` or `fp32`.")]
Overwrite = Annotated[bool, Parameter(help="Replace what is at --out.", negative="")]
DryRun = Annotated[
    bool, Parameter(help="Check everything, say what would be done, stop.", negative="")
]
ShardSize = Annotated[
    int | None,
    Parameter(
        help="For very large sets: --out is a folder of Parquet files of so many images each, "
        "which any number of commands fill together; `soloist merge` makes it one file."
    ),
]
Engine = Annotated[
    Literal["local", "ray"],
    Parameter(help="Who labels the shards: this machine's process, or workers of Ray."),
]
RayWorkers = Annotated[
    int | None, Parameter(help="Processes on Ray; by default one a GPU, else one a core.")
]

TRACK_FLAGS = "--every", "--track-score", "--track-gap", "--track-overlap", "--track-least"

# A dataclass made at import has no static type; its values are checked by `load_config`.
if TYPE_CHECKING:
    PretrainOptions = Any
    MasksOptions = Any
    TrainOptions = Any
    FitOptions = Any
    AblateOptions = Any
    FinetuneOptions = Any
    FinetuneTableOptions = Any
    PredictOptions = Any
    InferenceOptions = Any
    FeatureOptions = Any
    ExportOptions = Any
    TileOptions = Any
    TrackOptions = Any
else:
    PretrainOptions = option_group("reading", "backbone", "pretrain", "seed")
    MasksOptions = option_group("reading", "backbone", "extract", "free_mask", "regions")
    TrainOptions = option_group("reading", "backbone", "model", "loss", "augment", "train", "seed")
    everything = (
        "backbone",
        "extract",
        "free_mask",
        "regions",
        "model",
        "loss",
        "augment",
        "train",
        "inference",
        "self_training",
    )
    FitOptions = option_group("reading", *everything, "seed")
    AblateOptions = option_group(*everything)
    supervised = "backbone", "model", "loss", "augment", "train", "inference"
    FinetuneOptions = option_group("reading", *supervised, "seed", change=as_supervised)
    FinetuneTableOptions = option_group(*supervised, change=as_supervised)
    PredictOptions = option_group("reading", "inference", of_model=True)
    InferenceOptions = option_group("inference", of_model=True)
    FeatureOptions = option_group("backbone", "extract")
    ExportOptions = all_optional(ExportFields)
    tile_flags = "--tile", "--tile-overlap", "--tile-agreement", "--tile-duplicates", "--tile-whole"
    TileOptions = all_optional(TileConfig, tile_flags)
    TrackOptions = all_optional(TrackConfig, TRACK_FLAGS)

Flat = Parameter(name="*")
ForExport = Parameter(name="*", group="Format")
ForTiles = Parameter(name="*", group="Tiles")
ForVideo = Parameter(name="*", group="Video")
