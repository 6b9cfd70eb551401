"""What finds masks: `extract_masks`, `predict` on images and on a video, and `merge` for shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from soloist.api.plans import (
    ModelSetup,
    Plan,
    Setup,
    Sources,
    as_it_is,
    check_known,
    configured,
    named,
    planned,
    runtime_of,
)
from soloist.config import ReadingConfig, TileConfig, TrackConfig
from soloist.config.idle import refuse_idle_values
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CATEGORIES
from soloist.data.datasets.frames import check_stated
from soloist.data.drawing.overlays import OverlayWriter
from soloist.data.inputs import state_of
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError, require
from soloist.inference.label import (
    Labeler,
    LabelSummary,
    changes_since,
    check_output,
    errors_path,
    is_made,
    label_images,
    opened_output,
    refuse_other,
    report_labels,
)
from soloist.inference.segmenter import Segmenter, load
from soloist.inference.tiles import TiledLabeler
from soloist.models.build import fingerprint
from soloist.proposals.extract import FreeMaskExtractor, settings_of
from soloist.proposals.propose import decoded_side
from soloist.runtime.distributed import join
from soloist.runtime.error_log import read_errors
from soloist.runtime.launch import launched
from soloist.training.dry_run import plan_masks, plan_predict

if TYPE_CHECKING:
    from soloist.inference.label_shards import ShardJob, Work

MANY_IMAGES = 100_000
"""Above so many images one JSON file is slow to make and to read."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sharding:
    """How a very large set is labelled into a folder of shards.

    Attributes:
        size: Images a shard.
        engine: `local` or `ray`.
        ray_workers: Processes on Ray; None for as many as there are GPUs or cores.
    """

    size: int
    engine: str = "local"
    ray_workers: int | None = None

    @classmethod
    def checked(
        cls, out: Path, size: int | None, engine: str, ray_workers: int | None
    ) -> Self | None:
        """What the options say; None for one COCO file.

        Raises:
            ConfigError: If they do not fit each other, or need a package that is absent.
        """
        if ray_workers is not None and engine != "ray":
            raise ConfigError("--ray-workers has no effect without --engine ray; leave it out")
        if size is None:
            if engine == "ray":
                raise ConfigError("--engine ray labels shards: add --shard-size, such as 1000")
            return None
        if out.suffix.lower() == ".json":
            raise ConfigError(
                f"--shard-size makes a folder, got --out {out}; name a folder, or leave it out"
            )
        if ray_workers is not None and ray_workers < 1:
            raise ConfigError(f"--ray-workers must be at least 1, got {ray_workers}")
        require("pyarrow", extra="parquet", wanted="--shard-size")
        if engine == "ray":
            require("ray", extra="ray", wanted="--engine ray")
            if launched().world_size > 1:
                raise ConfigError("--engine ray starts its own processes; run it without torchrun")
        return cls(size, engine, ray_workers)

    def work(self, job: ShardJob) -> Work | None:
        """What labels the shards; None for this process."""
        if self.engine == "local":
            return None
        from soloist.inference.on_ray import work_on_ray

        return work_on_ray(job, self.ray_workers)


@dataclass(frozen=True)
class LabelledSet:
    """A file or folder of masks that is done.

    Attributes:
        out: The COCO file, or the folder of shards.
        failed: Images that could not be read, listed in `errors`.
        errors: The account of these.
        score: Masks of a lower one are in the file, but not shown.
        summary: What was found; None if it was finished before.
        images: The images of a COCO file.
    """

    out: Path
    failed: int
    errors: Path | None
    score: float = 0.0
    summary: LabelSummary | None = None
    images: tuple[ImageRef, ...] = ()


def images_to_label(sources: list[str], reading: ReadingConfig) -> list[ImageRef]:
    """The images of `masks` and `predict`, their sizes compared with those that sources state.

    Raises:
        DataError: If there is none, or a size is another.
    """
    images = find_images(sources, reading)
    check_stated(images, " ".join(sources))
    return images


@dataclass(frozen=True)
class _Labelling:
    """What `extract_masks` and `predict` share.

    Attributes:
        title: The verb, for messages and the file's `info`.
        sources: What the user named.
        out: The COCO file, or the folder of shards.
        make_labeler: Makes what gives the instances of an image, on another machine too.
        short_side: As in `label_images`.
        reading: How images are read.
        settings: What the result depends on.
        overlays: Folder for pictures of the masks; None for none.
        score: Masks of a lower score are not in the pictures.
        categories: Names of the labeler's classes.
        sharding: Of a folder of shards; None for one COCO file.
        overwrite: Replace a finished file.
    """

    title: str
    sources: list[str]
    out: Path
    make_labeler: Callable[[], Labeler]
    short_side: int | None
    reading: ReadingConfig
    settings: Mapping[str, Any]
    overlays: Path | None = None
    score: float = 0.0
    categories: Mapping[int, str] = field(default_factory=lambda: CATEGORIES)
    sharding: Sharding | None = None
    overwrite: bool = False

    def run(self) -> LabelledSet:
        """Labels the images.

        A file that the same command has finished is left as it is; where images are new or have
        changed, these are labelled and the rest of it is kept.
        """
        settings = {"command": self.title, "images": self.sources, **self.settings}
        return self._into_file(settings) if self.sharding is None else self._into_shards(settings)

    def found(self) -> list[ImageRef]:
        """The images."""
        return images_to_label(self.sources, self.reading)

    @property
    def _draw(self) -> OverlayWriter | None:
        if self.overlays is None:
            return None
        return OverlayWriter(self.overlays.absolute(), score_threshold=self.score)

    def _into_file(self, settings: Mapping[str, Any]) -> LabelledSet:
        images = self.found()
        keep = not self.overwrite and is_made(self.out, settings)
        if keep:
            changes = changes_since(self.out, images)
            if not changes:
                logger.info("%s is finished already", self.out)
                path = errors_path(self.out)
                failed = len(read_errors(path))
                return LabelledSet(self.out, failed, path, self.score, None, tuple(images))
            logger.warning(
                "%s: of its images %s; what is new or changed is labelled, the rest is kept",
                self.out,
                changes,
            )
        if len(images) > MANY_IMAGES:
            logger.warning(
                "%d images into one JSON file: --out FOLDER --shard-size 1000 needs less memory "
                "and lets more processes help; `soloist merge` then makes the file",
                len(images),
            )
        with opened_output(self.out, overwrite=self.overwrite or keep) as errors:
            summary = label_images(
                images,
                self.make_labeler(),
                self.out,
                title=self.title,
                short_side=self.short_side,
                settings=settings,
                errors=errors,
                categories=self.categories,
                existing="keep" if keep else "replace" if self.overwrite else "refuse",
                on_result=self._draw,
            )
        report_labels(self.title, summary)
        return LabelledSet(self.out, errors.count, errors.path, self.score, summary, tuple(images))

    def _into_shards(self, settings: Mapping[str, Any]) -> LabelledSet:
        from soloist.inference.label_shards import ERRORS, ShardJob, label_shards

        assert self.sharding is not None
        job = ShardJob(
            self.out.absolute(),
            self.title,
            self.make_labeler,
            self.short_side,
            self._draw,
            self.categories,
            self.reading,
        )
        summary = label_shards(
            job,
            self.found,
            settings=settings,
            shard_size=self.sharding.size,
            overwrite=self.overwrite,
            work=self.sharding.work(job),
        )
        report_labels(self.title, summary)
        return LabelledSet(self.out, summary.failed, self.out / ERRORS, self.score, summary)


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
    overlays: Path | None = None,
    sharding: Sharding | None = None,
    overwrite: bool = False,
    **setup: Unpack[Setup],
) -> Plan[LabelledSet]:
    """Free Mask on images into a COCO file; see `soloist masks`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: The COCO file; embeddings go beside it, failed images to `<stem>.errors.jsonl`. With
            sharding a folder.
        overlays: Folder for pictures of the masks.
        sharding: For very large sets.
        overwrite: Replace a finished file.
        setup: `preset`, `file`, `options`, `device` and `precision`: `soloist.api.plans.Setup`.

    Returns:
        What the file holds.

    Raises:
        SoloistError: For what a caller can cause.
    """
    config, runtime = configured(setup)
    labelling = _Labelling(
        "masks",
        named(images),
        Path(out),
        # On Ray the worker's machine is asked, not this one.
        lambda: FreeMaskExtractor(config, runtime_of(setup)),
        decoded_side(config),
        config.reading,
        {**settings_of(config), **_weights_file(config.backbone.weights)},
        overlays=overlays,
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
        return segmenter

    def labeler(self, segmenter: Segmenter) -> Labeler:
        """What gives the objects of one image."""
        return segmenter if self.tiles is None else TiledLabeler(segmenter, self.tiles)

    def settings(self, segmenter: Segmenter, setup: ModelSetup) -> dict[str, Any]:
        """What results depend on."""
        return {
            "model": _model_name(setup),
            "weights": fingerprint(segmenter.network),
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
    overlays: Path | None = None,
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
        overlays: Folder for pictures of the masks.
        overlay_score: Masks of a lower score are not in the pictures; None for the model's
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
    labelling = _Labelling(
        "predict",
        named(images),
        Path(out),
        make,
        None if how.tiles else segmenter.decoded_side,
        segmenter.config.reading,
        how.settings(segmenter, setup),
        overlays=overlays,
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
    track: TrackConfig = TrackConfig(),  # noqa: B008  # immutable
    drawn: Path | None = None,
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
    from soloist.inference.label_video import label_video

    require("av", extra="video", wanted="reading videos")
    if launched().world_size > 1:
        raise ConfigError("a video is segmented by one process; run it without torchrun")
    segmenter = how.loaded(setup)
    refuse_idle_values(how.options, segmenter.config)
    settings = how.settings(segmenter, setup)
    del settings["reading"]
    out = Path(out)
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
