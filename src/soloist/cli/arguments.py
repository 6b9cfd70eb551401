"""The arguments that verbs share, and the option groups each of them takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from soloist.cli.options import all_optional, given, option_group
from soloist.config import TileConfig, TrackConfig
from soloist.config.presets import supervised as as_supervised
from soloist.data.exports.options import ExportOptions as ExportFields

if TYPE_CHECKING:
    from soloist.api.labelled_sets import Sharding
    from soloist.api.plans import ModelSetup, Setup

Images = Annotated[
    list[str],
    Parameter(
        help="Images, folders, patterns, .txt lists, COCO files, tar or zip files, https "
        "addresses.",
        negative="",
    ),
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
        help="For very large sets: --out is a folder of Parquet files of N images each, "
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

MODEL_HELP = (
    "Run folder of `fit`, `finetune`, `train` or `demo`, a file such as the released FreeSOLO's, "
    "or `owner/name` on the hub; without it the segmenter that comes with the package."
)
Model = Annotated[str | None, Parameter(help=MODEL_HELP)]


@dataclass(frozen=True)
class Computing:
    """Where a verb computes."""

    device: Device = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True)
class Running:
    """How a verb runs whose options come from a preset."""

    preset: Preset = "tiny"
    config: ConfigFile = None
    device: Device = "auto"
    precision: Precision = "auto"
    overwrite: Overwrite = False
    dry_run: DryRun = False

    def setup(self, options: Any) -> Setup:
        """The same for a function of `soloist.api`, with the options given to a verb."""
        return {
            "preset": self.preset,
            "file": self.config,
            "options": given(options),
            "device": self.device,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class FitRunning(Running):
    """How `fit` runs."""

    preset: Preset = "soloist"


@dataclass(frozen=True)
class ModelChoice:
    """Which segmenter, and where it computes."""

    model: Model = None
    preset: ModelPreset = None
    device: Device = "auto"
    precision: Precision = "auto"

    def setup(self) -> ModelSetup:
        """The same for a function of `soloist.api`."""
        return {
            "model": self.model,
            "preset": self.preset,
            "device": self.device,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class ModelRunning(ModelChoice):
    """How a verb runs that has a segmenter."""

    overwrite: Overwrite = False
    dry_run: DryRun = False


@dataclass(frozen=True)
class Labels:
    """How true labels are read."""

    split: Annotated[
        str | None, Parameter(help="Of a data set with several, such as `val2017`.")
    ] = None
    exif: Exif = None
    strict: Strict = False


@dataclass(frozen=True)
class GroundTruth(Labels):
    """How the true labels of an evaluation are read."""

    format: Annotated[
        str | None,
        Parameter(
            help="Format of the ground truth, if it cannot be found out; see `soloist data check`."
        ),
    ] = None
    images: Annotated[
        str | None,
        Parameter(help="Folder of the images of the ground truth, if they are elsewhere."),
    ] = None


@dataclass(frozen=True)
class Shards:
    """How a very large set is labelled."""

    shard_size: ShardSize = None
    engine: Engine = "local"
    ray_workers: RayWorkers = None

    def sharding(self, out: Path) -> Sharding | None:
        """The same for a function of `soloist.api`; None for one file."""
        from soloist.api.labelled_sets import Sharding

        return Sharding.checked(out, self.shard_size, self.engine, self.ray_workers)


@dataclass(frozen=True)
class Shown:
    """What people and scripts see of masks beside their file."""

    overlays: Annotated[Path | None, Parameter(help="Folder for images of the masks.")] = None
    overlay_score: Annotated[
        float | None,
        Parameter(
            help="Masks of a lower score are in the file, but not in the images; without it "
            "--min-score, else the model's recommended score."
        ),
    ] = None
    overlay_video: Annotated[
        Path | None,
        Parameter(
            help="Of a video: another to write, with a colour for each object that keeps it."
        ),
    ] = None
    json: Annotated[
        bool,
        Parameter(
            name="--json",
            negative="",
            help="Print a line of JSON for each image instead of the paths of what was written.",
        ),
    ] = False


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
