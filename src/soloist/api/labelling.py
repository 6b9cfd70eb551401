"""What finds masks: `extract_masks`, `predict` on images and on a video, and `merge` for shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

from soloist.api.dry_run import plan_masks, plan_predict
from soloist.api.labelled_sets import LabelledSet, Labelling, Sharding
from soloist.api.plans import (
    ModelSetup,
    Plan,
    Setup,
    Sources,
    as_it_is,
    check_known,
    configured,
    named,
    path_or_none,
    planned,
    runtime_of,
)
from soloist.config import TileConfig, TrackConfig
from soloist.config.idle import refuse_idle_inference, refuse_idle_values
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.inputs import state_of
from soloist.errors import ConfigError, require
from soloist.inference.label import LabelSummary, report_labels
from soloist.inference.output_file import check_output, opened_output, refuse_other
from soloist.inference.reading_ahead import Labeler
from soloist.inference.segmenter import Segmenter, load
from soloist.inference.tiles import TiledLabeler
from soloist.proposals.extract import FreeMaskExtractor, settings_of
from soloist.proposals.propose import decoded_side
from soloist.runtime.distributed import join
from soloist.runtime.launch import launched


def _summary(made: LabelledSet) -> LabelSummary:
    if made.summary is not None:
        return made.summary
    file = load_coco(made.out)
    return LabelSummary(len(file.images), len(file), made.failed, seconds=0.0)


@planned(_summary)
def extract_masks(
    images: Sources,
    out: str | Path,
    *,
    overlays: str | Path | None = None,
    sharding: Sharding | None = None,
    overwrite: bool = False,
    **setup: Unpack[Setup],
) -> Plan[LabelledSet]:
    """Free Mask on images into a COCO file; see `soloist masks`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: The COCO file; embeddings go beside it, failed images to `<stem>.errors.jsonl`. With
            sharding a folder.
        overlays: Folder for images of the masks.
        sharding: For very large sets.
        overwrite: Replace a finished file.
        setup: `preset`, `file`, `options`, `device` and `precision`: `soloist.api.plans.Setup`.

    Returns:
        What the file holds.

    Raises:
        SoloistError: For what a caller can cause.
    """
    config, runtime = configured(setup)
    labelling = Labelling(
        "masks",
        named(images),
        Path(out),
        # On Ray the worker's machine is asked, not this one.
        lambda: FreeMaskExtractor(config, runtime_of(setup)),
        decoded_side(config),
        config.reading,
        {**settings_of(config), **_weights_file(config.backbone.weights)},
        overlays=path_or_none(overlays),
        sharding=sharding,
        overwrite=overwrite,
    )

    def run() -> LabelledSet:
        join(runtime.device)
        return labelling.run()

    return Plan(lambda: plan_masks(labelling.found(), config, runtime), run)


@dataclass(frozen=True)
class Predicting:
    """How a segmenter looks at images.

    Attributes:
        options: Nested values of the sections `reading` and `inference` that win over the model's.
        tiles: Tiles for large images; None for none.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    tiles: TileConfig | None = None

    def loaded(self, setup: ModelSetup) -> Segmenter:
        """A segmenter with these options."""
        segmenter = _load(setup)
        segmenter.config = override(segmenter.config, self.options, where="options")
        refuse_idle_inference(
            self.options.get("inference", {}),
            segmenter.config.inference,
            judged=segmenter.judge is not None,
        )
        return segmenter

    def labeler(self, segmenter: Segmenter) -> Labeler:
        """What gives the objects of one image."""
        whole = segmenter.labeler
        return whole if self.tiles is None else TiledLabeler(whole, self.tiles)

    def settings(self, segmenter: Segmenter, setup: ModelSetup) -> dict[str, Any]:
        """What results depend on."""
        return {
            "model": _model_name(setup),
            "weights": segmenter.fingerprint,
            "reading": asdict(segmenter.config.reading),
            "inference": asdict(segmenter.config.inference),
            **({"tiles": asdict(self.tiles)} if self.tiles else {}),
        }


def _model_name(setup: ModelSetup) -> str:
    return str(setup.get("model") or "bundled")


def _weights_file(weights: str) -> dict[str, Any]:
    """What tells a file of a backbone's weights from one that is put in its place later."""
    path = Path(weights).expanduser()
    return {"backbone_file": state_of(path)} if path.is_file() else {}


def _load(setup: ModelSetup) -> Segmenter:
    check_known(setup, ModelSetup)
    return load(
        setup.get("model"),
        preset=setup.get("preset"),
        device=setup.get("device", "auto"),
        precision=setup.get("precision", "auto"),
    )


@planned(as_it_is)
def predict(
    images: Sources,
    out: str | Path,
    *,
    how: Predicting = Predicting(),  # immutable
    overlays: str | Path | None = None,
    overlay_score: float | None = None,
    sharding: Sharding | None = None,
    overwrite: bool = False,
    **setup: Unpack[ModelSetup],
) -> Plan[LabelledSet]:
    """Segments images into a COCO file or shards; see `soloist predict`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: The COCO file; embeddings go beside it. With sharding a folder.
        how: Options of the segmenter, and tiles.
        overlays: Folder for images of the masks.
        overlay_score: Masks of a lower score are not in the images; None for the model's
            recommended score.
        sharding: For very large sets.
        overwrite: Replace a finished file.
        setup: `model`, `preset`, `device` and `precision`: `soloist.api.plans.ModelSetup`.

    Raises:
        SoloistError: For what a caller can cause.
    """
    if sharding is None:
        # Before the model is loaded.
        known = {"command": "predict", "images": named(images), "model": _model_name(setup)}
        refuse_other(Path(out), known, overwrite=overwrite)
    segmenter = how.loaded(setup)
    refuse_idle_values(how.options, segmenter.config)
    score = segmenter.config.inference.recommended_score if overlay_score is None else overlay_score
    # On Ray the worker's machine is asked, not this one.
    elsewhere = sharding is not None and sharding.engine == "ray"
    make = (
        (lambda: how.labeler(how.loaded(setup))) if elsewhere else (lambda: how.labeler(segmenter))
    )
    labelling = Labelling(
        "predict",
        named(images),
        Path(out),
        make,
        None if how.tiles else segmenter.decoded_side,
        segmenter.config.reading,
        how.settings(segmenter, setup),
        overlays=path_or_none(overlays),
        score=score,
        categories=segmenter.categories,
        sharding=sharding,
        overwrite=overwrite,
    )

    def run() -> LabelledSet:
        join(segmenter.runtime.device)
        return labelling.run()

    return Plan(lambda: plan_predict(labelling.found(), segmenter, how.tiles), run)


def predict_video(
    video: str | Path,
    out: str | Path,
    *,
    how: Predicting = Predicting(),  # immutable
    track: TrackConfig = TrackConfig(),
    drawn: str | Path | None = None,
    overwrite: bool = False,
    **setup: Unpack[ModelSetup],
) -> LabelledSet:
    """Segments a video into a COCO file whose masks have identities; see `label_video`.

    Args:
        video: The video.
        out: The COCO file.
        how: Options of the segmenter, and tiles.
        track: Which frames and masks, and how masks are linked.
        drawn: A video to write of the frames with their masks.
        overwrite: Replace a finished file.
        setup: `model`, `preset`, `device` and `precision`: `soloist.api.plans.ModelSetup`.

    Raises:
        SoloistError: For what a caller can cause.
    """
    from soloist.inference.video.label import label_video

    require("av", extra="video", wanted="reading videos")
    if launched().world_size > 1:
        raise ConfigError("a video is segmented by one process; run it without torchrun")
    segmenter = how.loaded(setup)
    refuse_idle_values(how.options, segmenter.config)
    settings = how.settings(segmenter, setup)
    del settings["reading"]
    out, drawn = Path(out), path_or_none(drawn)
    if drawn is not None:
        check_output(drawn, overwrite=overwrite, example="masks.mp4")
    with opened_output(out, overwrite=overwrite) as errors:
        summary = label_video(
            Path(video),
            how.labeler(segmenter),
            out,
            config=track,
            reading=segmenter.config.reading,
            settings={
                "command": "predict",
                "images": [str(video)],
                **settings,
                "track": asdict(track),
            },
            errors=errors,
            categories=segmenter.categories,
            drawn=drawn,
        )
    report_labels("predict", summary)
    return LabelledSet(out, errors.count, errors.path, summary=summary)


def merge(
    folder: str | Path, out: str | Path, *, partial: bool = False, overwrite: bool = False
) -> LabelSummary:
    """One COCO file of the shards that `extract_masks` or `predict` made; see `soloist merge`.

    Args:
        folder: The folder of shards.
        out: The COCO file; its embeddings go beside it.
        partial: Leave out shards that are missing.
        overwrite: Replace a finished file.

    Raises:
        SoloistError: For what a caller can cause.
    """
    require("pyarrow", extra="parquet", wanted="soloist merge")
    from soloist.inference.merge import merge_shards

    summary = merge_shards(Path(folder), Path(out), partial=partial, overwrite=overwrite)
    report_labels("merge", summary)
    return summary
