"""The verbs that write masks of images: `masks` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from soloist.cli.arguments import (
    ConfigFile,
    Device,
    DryRun,
    Flat,
    Images,
    MasksOptions,
    Overwrite,
    Precision,
    PredictOptions,
    Preset,
)
from soloist.cli.options import given
from soloist.cli.runs import folder_for, label, tell_plan
from soloist.presets import load_config


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
    options: Annotated[MasksOptions, Flat] = MasksOptions(),  # noqa: B008  # immutable
) -> int:
    """Take coarse object masks out of a backbone's features (Free Mask): COCO JSON out.

    Args:
        out: COCO file to write; its embeddings go beside it.
        overlays: Folder for pictures of the masks.
    """
    from dataclasses import asdict

    from soloist.data.sources import find_images
    from soloist.dry_run import plan_masks
    from soloist.engine.distributed import join
    from soloist.engine.extract import FreeMaskExtractor
    from soloist.engine.runtime import choose_runtime

    settings = load_config(preset, config, given(options))
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("masks", out, lambda: plan_masks(find_images(images), settings, runtime))
    join(runtime.device)
    chosen = asdict(settings)
    return label(
        "masks",
        images,
        lambda: FreeMaskExtractor(settings, runtime),
        out=out,
        overlays=overlays,
        short_side=settings.extract.short_side,
        settings={name: chosen[name] for name in ("backbone", "extract", "free_mask")},
        overwrite=overwrite,
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
    options: Annotated[PredictOptions, Flat] = PredictOptions(),  # noqa: B008  # immutable
) -> int:
    """Segment images: COCO JSON and pictures out.

    Args:
        model: Run folder of `fit`, `train` or `demo`, a file such as the released FreeSOLO's, or
            `owner/name` on the hub; without it the segmenter that comes with the package.
        out: COCO file to write; its embeddings go beside it. Without it
            `runs/predict/NAME/masks.json` after the first of the images, with pictures beside it.
        preset: What a file was trained with, such as `paper-r101`; a run folder knows its own.
        overlays: Folder for pictures of the masks.
    """
    from dataclasses import asdict, replace

    from soloist.data.sources import find_images
    from soloist.dry_run import plan_predict
    from soloist.engine.distributed import join
    from soloist.presets import override
    from soloist.segmenter import load

    if out is None:
        folder = folder_for(images)
        out = folder / "masks.json"
        overlays = overlays or folder / "pictures"
    segmenter = load(model, preset=preset, device=device, precision=precision)
    if dry_run:
        return tell_plan("predict", out, lambda: plan_predict(find_images(images), segmenter))
    join(segmenter.runtime.device)
    inference = override(
        segmenter.config.inference, given(options).get("inference", {}), where="options"
    )
    segmenter.config = replace(segmenter.config, inference=inference)
    return label(
        "predict",
        images,
        lambda: segmenter,
        out=out,
        overlays=overlays,
        short_side=inference.short_side,
        settings={"model": model or "bundled", "inference": asdict(inference)},
        overwrite=overwrite,
    )
