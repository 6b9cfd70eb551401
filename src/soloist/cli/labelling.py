"""The verbs that write masks of images: `masks` and `predict`, and `merge` for their shards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from soloist.cli.arguments import (
    TRACK_FLAGS,
    ExportOptions,
    Flat,
    ForExport,
    ForTiles,
    ForVideo,
    Images,
    MasksOptions,
    ModelRunning,
    Overwrite,
    PredictOptions,
    Running,
    Shards,
    Shown,
    TileOptions,
    TrackOptions,
)
from soloist.cli.converting import report_export
from soloist.cli.options import given
from soloist.cli.runs import DONE, carry_out, folder_for, show
from soloist.config import TileConfig, TrackConfig
from soloist.config.idle import refuse_idle
from soloist.data.exports.options import ExportOptions as Chosen
from soloist.data.exports.options import FormatName
from soloist.errors import ConfigError

if TYPE_CHECKING:
    from soloist.api.labelling import Predicting

NO_COARSE_MASK = "try --preset soloist, or a lower --free-mask.score-threshold"
NO_OBJECT = (
    "try another --model, or keep what is right in `soloist studio FOLDER`, which learns from it"
)
"""What helps where nothing is found."""
MASKS = "masks.json"
"""The COCO file in a folder."""
NO_FOLDERS = frozenset(
    [
        ".js",
        ".jsn",
        ".jsonl",
        ".csv",
        ".txt",
        ".xml",
        ".yaml",
        ".yml",
        ".zip",
        ".tar",
        ".parquet",
        ".npy",
        ".npz",
        ".png",
        ".jpg",
        ".jpeg",
        ".tif",
        ".tiff",
        ".mp4",
    ]
)
"""Nobody names a folder for results so: a slip, or another format."""
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
"""What names of videos end in."""


def masks(
    images: Images,
    *,
    out: Path,
    overlays: Path | None = None,
    running: Annotated[Running, Flat] = Running(),
    shards: Annotated[Shards, Flat] = Shards(),
    options: Annotated[MasksOptions, Flat] = MasksOptions(),
) -> int:
    """Take coarse object masks out of a backbone's features (Free Mask): COCO JSON out.

    Args:
        out: COCO file to write, or a folder for `masks.json`; its embeddings go beside it. With
            --shard-size, the folder of shards.
        overlays: Folder for images of the masks.
    """
    from soloist import api

    if _is_folder(out, shards):
        out /= MASKS

    plan = api.extract_masks.plan(
        images,
        out,
        overlays=overlays,
        sharding=shards.sharding(out),
        overwrite=running.overwrite,
        **running.setup(options),
    )
    made = carry_out("masks", out, plan, dry_run=running.dry_run)
    return DONE if made is None else show("masks", made, Shown(overlays), NO_COARSE_MASK)


def predict(
    images: Images,
    *,
    out: Path | None = None,
    running: Annotated[ModelRunning, Flat] = ModelRunning(),
    shown: Annotated[Shown, Flat] = Shown(),
    shards: Annotated[Shards, Flat] = Shards(),
    format: FormatName | None = None,
    export: Annotated[ExportOptions, ForExport] = ExportOptions(),
    track: Annotated[TrackOptions, ForVideo] = TrackOptions(),
    tile: Annotated[TileOptions, ForTiles] = TileOptions(),
    options: Annotated[PredictOptions, Flat] = PredictOptions(),
) -> int:
    """Segment images, or a video: COCO JSON and overlays out.

    Args:
        out: Folder for `masks.json`, a COCO file, its embeddings and `overlays/`; or that file
            alone, if the name ends in .json. With --shard-size, the folder of shards. Without it
            `runs/predict/NAME` after the first of the images; `NAME-2` and so on where there is
            one already.
        format: Write the masks in the format of another tool too, to a folder `NAME-FORMAT` beside
            the COCO file, as `soloist convert` does.
    """
    from dataclasses import replace

    from soloist import api

    written = given(export)
    chosen = Chosen(**written)
    video = _wanted_video(
        images,
        of_video={
            "--overlay-video": shown.overlay_video,
            **dict(zip(TRACK_FLAGS, vars(track).values(), strict=True)),
        },
        of_images={
            "--overlays": shown.overlays,
            "--overlay-score": shown.overlay_score,
            "--min-score": chosen.min_score,
            "--shard-size": shards.shard_size,
            "--format": format,
            "--json": shown.json,
            "--dry-run": running.dry_run,
        },
    )
    _check_format(format, chosen, written, shards, shown)
    if running.model is None:
        refuse_idle({"--preset": running.preset}, "without --model")
    overwrite = running.overwrite
    if out is None:
        out = folder_for(images, running.model, overwrite=overwrite, reuse=format is not None)
        if shards.shard_size is not None:
            out /= "shards"
    if _is_folder(out, shards):
        drawn = shown.overlays or (None if video else out / "overlays")
        out, shown = out / MASKS, replace(shown, overlays=drawn)
    if shown.overlays is None:
        refuse_idle({"--overlay-score": shown.overlay_score}, "without --overlays FOLDER")
    how = _predicting(given(options), chosen.min_score, given(tile))
    setup = running.setup()
    if video is not None:
        from soloist.runtime.stopping import STARTS_OVER, listening

        with listening(STARTS_OVER):
            made = api.predict_video(
                video,
                out,
                how=how,
                track=TrackConfig(**given(track)),
                drawn=shown.overlay_video,
                overwrite=overwrite,
                **setup,
            )
        return show("predict", made, shown, NO_OBJECT)
    scores = (shown.overlay_score, chosen.min_score)
    plan = api.predict.plan(
        images,
        out,
        how=how,
        overlays=shown.overlays,
        overlay_score=next((score for score in scores if score is not None), None),
        sharding=shards.sharding(out),
        overwrite=overwrite,
        **setup,
    )
    done = carry_out("predict", out, plan, dry_run=running.dry_run)
    if done is None:
        return DONE
    status = show("predict", done, shown, NO_OBJECT)
    if format is None:
        return status
    folder = out.with_name(f"{out.stem}-{format}")
    converted = api.convert_predictions(
        out, images, folder, format=format, options=chosen, overwrite=overwrite
    )
    return max(status, report_export(converted))


def _is_folder(out: Path, shards: Shards) -> bool:
    """Whether --out names a folder for the COCO file, not the file.

    Raises:
        ConfigError: If it is a folder of other things, or named like a file of another kind.
    """
    from soloist.data.coco.partial import head_path

    if shards.shard_size is not None or out.suffix.lower() == ".json" or out.is_file():
        return False
    if out.suffix.lower() in NO_FOLDERS and not out.is_dir():
        raise ConfigError(
            f"--out must be a file such as masks.json or a folder, got {str(out)!r}; --format "
            "writes the files of other tools"
        )
    ours = (out / MASKS, head_path(out / MASKS))
    if out.is_dir() and any(out.iterdir()) and not any(path.is_file() for path in ours):
        raise ConfigError(
            f"--out must be a file such as masks.json or a folder of its own, got {str(out)!r}, "
            "where other things are"
        )
    return True


def _predicting(
    options: Mapping[str, Any], min_score: float | None, tile: Mapping[str, Any]
) -> Predicting:
    """The options of a segmenter and its tiles.

    Raises:
        ConfigError: If there are options of tiles without `--tile`, or a value is out of range.
    """
    from soloist.api.labelling import Predicting

    if tile and "size" not in tile:
        raise ConfigError("options of tiles need --tile, such as --tile 1024")
    values = {name: dict(options.get(name, {})) for name in ("reading", "inference")}
    if min_score is not None:
        least = {"--inference.score-threshold": values["inference"].get("score_threshold")}
        refuse_idle(least, "beside --min-score")
        values["inference"]["score_threshold"] = min_score
    return Predicting(values, TileConfig(**tile) if tile else None)


def _check_format(
    format: FormatName | None,
    chosen: Chosen,
    written: Mapping[str, Any],
    shards: Shards,
    shown: Shown,
) -> None:
    """Checks what is to be written beside the COCO file.

    Raises:
        ConfigError: If options do not fit each other.
    """
    from soloist.data.exports.export import check_options

    as_json = {"--json": shown.json}
    if shards.shard_size is not None:
        refuse_idle(as_json, "with --shard-size; `soloist merge` makes one file")
    if format is None:
        others = {name: value for name, value in written.items() if name != "min_score"}
        flags = {f"--{name}".replace("_", "-"): value for name, value in others.items()}
        refuse_idle(flags, "without --format, such as --format coco")
        return
    check_options(format, chosen)
    if shards.shard_size is not None:
        raise ConfigError(
            "--format makes its folder of one COCO file: leave out --shard-size, or give "
            "`soloist merge` and `soloist convert` afterwards"
        )
    refuse_idle(as_json, "beside --format")


def _wanted_video(
    sources: list[str], *, of_video: Mapping[str, object], of_images: Mapping[str, object]
) -> Path | None:
    """The video to segment; None where images are.

    Args:
        sources: What the user named.
        of_video: Options that only videos have; None where not given.
        of_images: Options that only images have.

    Raises:
        ConfigError: If they do not fit each other.
    """
    videos = [source for source in sources if Path(source).suffix.lower() in VIDEO_SUFFIXES]
    idle = of_images if videos else of_video
    unfit = [flag for flag, value in idle.items() if value is not None and value is not False]
    if unfit:
        what = "images, not for a video" if videos else "a video, such as clip.mp4"
        raise ConfigError(f"{unfit[0]} is for {what}; leave it out")
    if len(videos) > 0 and len(sources) > 1:
        raise ConfigError(f"wanted a single video, got {len(sources)} sources; name one at a time")
    return Path(videos[0]) if videos else None


def merge(
    folder: Path,
    *,
    out: Path,
    partial: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Overwrite = False,
) -> int:
    """Make one COCO file of the shards that `masks` or `predict` made with --shard-size.

    Args:
        folder: The folder of shards.
        out: COCO file to write; its embeddings go beside it.
        partial: Leave out shards that are missing.
    """
    from soloist import api
    from soloist.runtime.stopping import STARTS_OVER, listening

    with listening(STARTS_OVER):
        api.merge(folder, out, partial=partial, overwrite=overwrite)
    sys.stdout.write(f"{out}\n")
    return DONE
