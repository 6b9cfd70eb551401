"""The verbs that write masks of images: `masks` and `predict`, and `merge` for their shards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from soloist.cli.arguments import (
    TRACK_FLAGS,
    ConfigFile,
    Device,
    DryRun,
    Engine,
    ExportOptions,
    Flat,
    ForExport,
    ForTiles,
    ForVideo,
    Images,
    MasksOptions,
    ModelPreset,
    Overwrite,
    Precision,
    PredictOptions,
    Preset,
    RayWorkers,
    ShardSize,
    TileOptions,
    TrackOptions,
)
from soloist.cli.converting import convert_predictions
from soloist.cli.labelled import Sharding, Shown, folder_for, images_to_label, label
from soloist.cli.options import given, refuse_idle, refuse_idle_values
from soloist.cli.runs import DONE, tell_plan
from soloist.cli.videos import predict_video, wanted_video
from soloist.config import TileConfig, TrackConfig
from soloist.config.presets import load_config
from soloist.data.exports.options import ExportOptions as Chosen
from soloist.data.exports.options import FormatName
from soloist.errors import ConfigError

if TYPE_CHECKING:
    from soloist.inference.label import Labeler
    from soloist.inference.segmenter import Segmenter

NO_COARSE_MASK = "try --preset soloist, or a lower --free-mask.score-threshold"
NO_OBJECT = (
    "try another --model, or learn from your own images: soloist fit FOLDER --preset soloist"
)
"""What helps where nothing is found."""


def masks(
    images: Images,
    *,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    overlays: Path | None = None,
    shard_size: ShardSize = None,
    engine: Engine = "local",
    ray_workers: RayWorkers = None,
    options: Annotated[MasksOptions, Flat] = MasksOptions(),  # noqa: B008  # immutable
) -> int:
    """Take coarse object masks out of a backbone's features (Free Mask): COCO JSON out.

    Args:
        out: COCO file to write; its embeddings go beside it. With --shard-size, a folder.
        overlays: Folder for pictures of the masks.
    """
    from soloist.proposals.extract import FreeMaskExtractor, settings_of
    from soloist.proposals.propose import decoded_side
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join
    from soloist.training.dry_run import plan_masks

    sharding = Sharding.checked(out, shard_size, engine, ray_workers)
    values = given(options)
    settings = load_config(preset, config, values)
    refuse_idle_values(values, settings)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan(
            "masks",
            out,
            lambda: plan_masks(images_to_label(images, settings.reading), settings, runtime),
        )
    join(runtime.device)
    return label(
        "masks",
        images,
        # On Ray the worker's machine is asked, not this one.
        lambda: FreeMaskExtractor(settings, choose_runtime(device, precision)),
        out=out,
        shown=Shown(pictures=overlays, remedy=NO_COARSE_MASK),
        short_side=decoded_side(settings),
        settings={**settings_of(settings), **weights_file(settings.backbone.weights)},
        reading=settings.reading,
        overwrite=overwrite,
        sharding=sharding,
    )


def predict(
    images: Images,
    *,
    model: str | None = None,
    out: Path | None = None,
    preset: ModelPreset = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    overlays: Path | None = None,
    overlay_score: float | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    shard_size: ShardSize = None,
    engine: Engine = "local",
    ray_workers: RayWorkers = None,
    format: FormatName | None = None,
    export: Annotated[ExportOptions, ForExport] = ExportOptions(),  # noqa: B008  # immutable
    overlay_video: Path | None = None,
    track: Annotated[TrackOptions, ForVideo] = TrackOptions(),  # noqa: B008  # immutable
    tile: Annotated[TileOptions, ForTiles] = TileOptions(),  # noqa: B008  # immutable
    options: Annotated[PredictOptions, Flat] = PredictOptions(),  # noqa: B008  # immutable
) -> int:
    """Segment images, or a video: COCO JSON and pictures out.

    Args:
        model: Run folder of `fit`, `train` or `demo`, a file such as the released FreeSOLO's, or
            `owner/name` on the hub; without it the segmenter that comes with the package.
        out: COCO file to write; its embeddings go beside it. With --shard-size, a folder. Without
            it `runs/predict/NAME/masks.json` after the first of the images, pictures beside it;
            `NAME-2` and so on where there is one already.
        overlays: Folder for pictures of the masks.
        overlay_score: Masks of a lower score are in the file, but not in the pictures; without it
            --min-score, else the model's recommended score.
        json: Print a line of JSON for each image instead of the paths of what was written.
        overlay_video: Of a video: another to write, with a colour for each object that keeps it.
        format: Write the masks in the format of another tool too, to a folder `NAME-FORMAT` beside
            the COCO file, as `soloist convert` does.
    """
    from dataclasses import asdict

    from soloist.config.presets import override
    from soloist.data.exports.export import check_options
    from soloist.inference.label import refuse_other
    from soloist.inference.segmenter import load
    from soloist.inference.tiles import TiledLabeler
    from soloist.models.build import fingerprint
    from soloist.runtime.distributed import join
    from soloist.training.dry_run import plan_predict

    written = given(export)
    chosen = Chosen(**written)
    tiles = chosen_tiles(given(tile))
    tracking = TrackConfig(**given(track))
    tracked = dict(zip(TRACK_FLAGS, vars(track).values(), strict=True))
    video = wanted_video(
        images,
        of_video={"--overlay-video": overlay_video, **tracked},
        of_images={
            "--overlays": overlays,
            "--overlay-score": overlay_score,
            "--min-score": chosen.min_score,
            "--shard-size": shard_size,
            "--format": format,
            "--json": json or None,
            "--dry-run": dry_run or None,
        },
    )
    if format is None:
        others = {name: value for name, value in written.items() if name != "min_score"}
        flags = {f"--{name}".replace("_", "-"): value for name, value in others.items()}
        refuse_idle(flags, "without --format, such as --format coco")
    else:
        check_options(format, chosen)
        if shard_size is not None:
            raise ConfigError(
                "--format makes its folder of one COCO file: leave out --shard-size, or give "
                "`soloist merge` and `soloist convert` afterwards"
            )
        refuse_idle({"--json": json}, "beside --format")
    if shard_size is not None:
        refuse_idle({"--json": json}, "with --shard-size; `soloist merge` makes one file")
    if model is None:
        refuse_idle({"--preset": preset}, "without --model")
    if out is None:
        folder = folder_for(images, model, overwrite=overwrite, reuse=format is not None)
        out = folder / ("masks.json" if shard_size is None else "shards")
        overlays = overlays or (None if video else folder / "pictures")
    elif shard_size is None:
        # Before the model is loaded.
        known = {"command": "predict", "images": images, "model": model or "bundled"}
        refuse_other(out, known, overwrite=overwrite)
    if overlays is None:
        refuse_idle({"--overlay-score": overlay_score}, "without --overlays FOLDER")
    sharding = Sharding.checked(out, shard_size, engine, ray_workers)
    values = {name: dict(given(options).get(name, {})) for name in ("reading", "inference")}
    if chosen.min_score is not None:
        least = {"--inference.score-threshold": values["inference"].get("score_threshold")}
        refuse_idle(least, "beside --min-score")
        values["inference"]["score_threshold"] = chosen.min_score

    def loaded() -> Segmenter:
        segmenter = load(model, preset=preset, device=device, precision=precision)
        segmenter.config = override(segmenter.config, values, where="options")
        return segmenter

    segmenter = loaded()
    refuse_idle_values(values, segmenter.config)
    reading = segmenter.config.reading
    # On Ray the worker's machine is asked, not this one.
    make_segmenter = loaded if engine == "ray" else lambda: segmenter

    def make_labeler() -> Labeler:
        one = make_segmenter()
        return one if tiles is None else TiledLabeler(one, tiles)

    if dry_run:
        return tell_plan(
            "predict", out, lambda: plan_predict(images_to_label(images, reading), segmenter, tiles)
        )
    if video is not None:
        return predict_video(
            video,
            make_labeler(),
            out,
            tracking,
            reading,
            settings={
                "model": model or "bundled",
                "inference": asdict(segmenter.config.inference),
                **({"tiles": asdict(tiles)} if tiles else {}),
            },
            categories=segmenter.categories,
            drawn=overlay_video,
            overwrite=overwrite,
        )
    join(segmenter.runtime.device)
    given_scores = (overlay_score, chosen.min_score, segmenter.config.inference.recommended_score)
    status = label(
        "predict",
        images,
        make_labeler,
        out=out,
        shown=Shown(
            score=next(score for score in given_scores if score is not None),
            pictures=overlays,
            as_json=json,
            remedy=NO_OBJECT,
        ),
        reading=reading,
        short_side=None if tiles else segmenter.decoded_side,
        settings={
            "model": model or "bundled",
            "weights": fingerprint(segmenter.network),
            "reading": asdict(reading),
            "inference": asdict(segmenter.config.inference),
            **({"tiles": asdict(tiles)} if tiles else {}),
        },
        overwrite=overwrite,
        sharding=sharding,
        categories=segmenter.categories,
    )
    if format is None:
        return status
    folder = out.with_name(f"{out.stem}-{format}")
    converted = convert_predictions(out, images, folder, format, chosen, overwrite=overwrite)
    return max(status, converted)


def weights_file(weights: str) -> dict[str, Any]:
    """What tells a file of a backbone's weights from one that is put in its place later."""
    from soloist.data.inputs import state_of

    path = Path(weights).expanduser()
    return {"backbone_file": state_of(path)} if path.is_file() else {}


def chosen_tiles(values: Mapping[str, Any]) -> TileConfig | None:
    """The tiles a user asked for.

    Raises:
        ConfigError: If there are options of tiles without `--tile`, or a value is out of range.
    """
    if values and "size" not in values:
        raise ConfigError("options of tiles need --tile, such as --tile 1024")
    return TileConfig(**values) if values else None


def merge(folder: Path, *, out: Path, partial: bool = False, overwrite: Overwrite = False) -> int:
    """Make one COCO file of the shards that `masks` or `predict` made with --shard-size.

    Args:
        folder: The folder of shards.
        out: COCO file to write; its embeddings go beside it.
        partial: Leave out shards that are missing.
    """
    from soloist.errors import require
    from soloist.runtime.stopping import STARTS_OVER, listening

    require("pyarrow", extra="parquet", wanted="soloist merge")
    from soloist.inference.label import report_labels
    from soloist.inference.merge import merge_shards

    with listening(STARTS_OVER):
        summary = merge_shards(folder, out, partial=partial, overwrite=overwrite)
    report_labels("merge", summary)
    sys.stdout.write(f"{out}\n")
    return DONE
