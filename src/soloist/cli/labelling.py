"""The verbs that write masks of images: `masks` and `predict`, and `merge` for their shards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from soloist.cli.arguments import (
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
from soloist.cli.options import given
from soloist.cli.runs import DONE, Sharding, folder_for, label, tell_plan
from soloist.cli.videos import predict_video, wanted_video
from soloist.config import TileConfig, TrackConfig
from soloist.config.presets import load_config
from soloist.data.exports.options import ExportOptions as Chosen
from soloist.data.exports.options import FormatName
from soloist.errors import ConfigError

if TYPE_CHECKING:
    from soloist.inference.label import Labeler
    from soloist.inference.segmenter import Segmenter


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
    from soloist.data.sources import find_images
    from soloist.proposals.extract import FreeMaskExtractor, settings_of
    from soloist.proposals.propose import decoded_side
    from soloist.runtime.device import choose_runtime
    from soloist.runtime.distributed import join
    from soloist.training.dry_run import plan_masks

    sharding = Sharding.checked(out, shard_size, engine, ray_workers)
    settings = load_config(preset, config, given(options))
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan(
            "masks",
            out,
            lambda: plan_masks(find_images(images, settings.reading), settings, runtime),
        )
    join(runtime.device)
    return label(
        "masks",
        images,
        # On Ray the worker's machine is asked, not this one.
        lambda: FreeMaskExtractor(settings, choose_runtime(device, precision)),
        out=out,
        overlays=overlays,
        short_side=decoded_side(settings),
        settings=settings_of(settings),
        reading=settings.reading,
        overwrite=overwrite,
        sharding=sharding,
    )


def predict(
    images: Images,
    *,
    model: str | None = None,
    out: Path | None = None,
    preset: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    overlays: Path | None = None,
    overlay_score: float = 0.15,
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
            it `runs/predict/NAME/masks.json` after the first of the images, pictures beside it.
        preset: What a file was trained with, such as `paper-r101`; a run folder knows its own.
        overlays: Folder for pictures of the masks.
        overlay_score: Masks of a lower score are in the file, but not in the pictures.
        overlay_video: Of a video: another to write, with a colour for each object that keeps it.
        format: Write the masks in the format of another tool too, to a folder `NAME-FORMAT` beside
            the COCO file, as `soloist convert` does.
    """
    from dataclasses import asdict

    from soloist.config.presets import override
    from soloist.data.exports.export import check_options
    from soloist.data.sources import find_images
    from soloist.inference.segmenter import load
    from soloist.inference.tiles import TiledLabeler
    from soloist.runtime.distributed import join
    from soloist.training.dry_run import plan_predict

    chosen = Chosen(**given(export))
    tiles = chosen_tiles(given(tile))
    tracking = TrackConfig(**given(track))
    video = wanted_video(
        images,
        of_video={"--overlay-video": overlay_video, "--every": given(track).get("every")},
        of_images={
            "--overlays": overlays,
            "--shard-size": shard_size,
            "--format": format,
            "--dry-run": dry_run or None,
        },
    )
    if format is not None:
        check_options(format, chosen)
        if shard_size is not None:
            raise ConfigError(
                "--format makes its folder of one COCO file: leave out --shard-size, or give "
                "`soloist merge` and `soloist convert` afterwards"
            )
    if out is None:
        folder = folder_for(images)
        out = folder / ("masks.json" if shard_size is None else "shards")
        overlays = overlays or (None if video else folder / "pictures")
    sharding = Sharding.checked(out, shard_size, engine, ray_workers)

    def loaded() -> Segmenter:
        segmenter = load(model, preset=preset, device=device, precision=precision)
        chosen = {name: given(options).get(name, {}) for name in ("reading", "inference")}
        segmenter.config = override(segmenter.config, chosen, where="options")
        return segmenter

    segmenter = loaded()
    reading = segmenter.config.reading
    # On Ray the worker's machine is asked, not this one.
    make_segmenter = loaded if engine == "ray" else lambda: segmenter

    def make_labeler() -> Labeler:
        one = make_segmenter()
        return one if tiles is None else TiledLabeler(one, tiles)

    if dry_run:
        return tell_plan(
            "predict", out, lambda: plan_predict(find_images(images, reading), segmenter, tiles)
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
    status = label(
        "predict",
        images,
        make_labeler,
        out=out,
        overlays=overlays,
        overlay_score=overlay_score,
        reading=reading,
        short_side=None if tiles else segmenter.decoded_side,
        settings={
            "model": model or "bundled",
            "reading": asdict(reading),
            "inference": asdict(segmenter.config.inference),
            **({"tiles": asdict(tiles)} if tiles else {}),
        },
        overwrite=overwrite,
        sharding=sharding,
        categories=segmenter.categories,
        reuse=format is not None,
    )
    if format is None:
        return status
    folder = out.with_name(f"{out.stem}-{format}")
    converted = convert_predictions(out, images, folder, format, chosen, overwrite=overwrite)
    return max(status, converted)


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
