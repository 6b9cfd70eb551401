"""What learns: `pretrain`, `train`, `fit` and `finetune`, each into a run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from soloist.api.dry_run import (
    plan_finetune,
    plan_fit,
    plan_pretrain,
    plan_regions,
    plan_train,
)
from soloist.api.plans import (
    Plan,
    Setup,
    Sources,
    check_known,
    configured,
    named,
    path_or_none,
    planned,
    runtime_of,
)
from soloist.config.idle import refuse_idle, refuse_idle_values
from soloist.config.presets import user_options
from soloist.data.datasets.labels import Reading
from soloist.data.sources import ImageRef, find_images
from soloist.evaluation.evaluate import load_ground_truth
from soloist.inference.segmenter import Segmenter, load
from soloist.models.build import model_folder
from soloist.report.run import REPORT_FILE, finish_pretrain, write_run_report
from soloist.runtime.distributed import join, on_main
from soloist.training.data.masks_file import read_masks
from soloist.training.finetuning import (
    choose_labelled,
    finetune_config,
    learns_regions,
    with_classes,
)
from soloist.training.finetuning import finetune as finetune_run
from soloist.training.pretrain import pretrain as pretrain_run
from soloist.training.run_folder import RunFolder, open_run
from soloist.training.self_judging import fit_regions, regions_wanted
from soloist.training.self_training import fit as fit_run
from soloist.training.stages import FitResult
from soloist.training.starts import (
    BUNDLED_SEGMENTER,
    SCRATCH,
    Learner,
    fit_start,
    start_from,
)
from soloist.training.train import train as train_run

if TYPE_CHECKING:
    from soloist.config import Config
    from soloist.evaluation.evaluate import Metrics
    from soloist.runtime.device import Runtime

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """A run that is done.

    Attributes:
        run: Its folder.
        metrics: By stage; empty without a ground truth.
        warning: What is wrong with the model and what to do; None if nothing is known to be.
        failed: Images that could not be read, listed in `errors`.
        errors: The account of these.
        runtime: Device and precision of the run.
    """

    run: Path
    runtime: Runtime
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    warning: str | None = None
    failed: int = 0
    errors: Path | None = None

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.run / REPORT_FILE


def _segmenter(learned: Learned) -> Segmenter:
    if learned.warning is not None:
        logger.warning("done, but %s", learned.warning)
    runtime = learned.runtime
    return load(learned.run, device=str(runtime.device), precision=runtime.precision)


def _run_path(learned: Learned) -> Path:
    return learned.run


@planned(_run_path)
def pretrain(
    images: Sources, out: str | Path, *, overwrite: bool = False, **setup: Unpack[Setup]
) -> Plan[Learned]:
    """Learns a backbone by DenseCL, from scratch without a checkpoint; see `soloist pretrain`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: Run folder; the same call again resumes an unfinished run.
        overwrite: Replace a finished run.
        setup: `preset`, `file`, `options`, `device` and `precision`: `soloist.api.plans.Setup`.

    Returns:
        The run folder, which `backbone.weights` takes.

    Raises:
        SoloistError: For what a caller can cause.
    """
    # All stages unless asked for: the global loss acts on the last one.
    config, runtime = configured(setup, {"backbone": {"weights": "none", "stages": 4}})
    found = find_images(images, config.reading)

    def learn(run: RunFolder) -> None:
        own = run.own(found)
        logger.info("pretrain: %d images on %s", len(own), runtime)
        backbone = pretrain_run(own, run, config, runtime)
        on_main(partial(finish_pretrain, run, backbone, own, config, runtime))

    inputs = {"images": named(images)}
    opened = _Opened("pretrain", out, inputs, config, runtime, overwrite, tuple(found))
    return Plan(lambda: plan_pretrain(found, config, runtime), lambda: opened.run(learn))


@planned(_run_path)
def train(
    images: Sources,
    out: str | Path,
    *,
    masks: str | Path,
    init: str | Path | None = None,
    how: Reading = Reading(),
    overwrite: bool = False,
    **setup: Unpack[Setup],
) -> Plan[Learned]:
    """Trains one round of self-supervised SOLO on coarse masks; see `soloist train`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: Run folder; the same call again resumes an unfinished run.
        masks: COCO file of the masks.
        init: Run folder of an earlier segmenter to start from, instead of the backbone.
        how: How the masks are read; its images are those of the training.
        overwrite: Replace a finished run.
        setup: `preset`, `file`, `options`, `device` and `precision`: `soloist.api.plans.Setup`.

    Returns:
        The run folder, which `soloist.load` takes.

    Raises:
        SoloistError: For what a caller can cause.
    """
    config, runtime = configured(setup)
    if init is not None:
        options = setup.get("options") or {}
        weights = {"--backbone.weights": options.get("backbone", {}).get("weights")}
        refuse_idle(weights, "with --init, which has its own")
    found = find_images(images, config.reading)
    start_from = None if init is None else model_folder(Path(init))
    labels = read_masks(Path(masks), found, replace(how, images=named(images)))

    def learn(run: RunFolder) -> None:
        own = run.own(found)
        logger.info("train: %d images on %s", len(own), runtime)
        train_run(own, labels, run, config, runtime, model_folder=run.model, start_from=start_from)
        on_main(partial(write_run_report, run, own, []))

    inputs = {"images": named(images), "masks": masks, "init": init}
    opened = _Opened("train", out, inputs, config, runtime, overwrite, tuple(found), Path(masks))
    return Plan(lambda: plan_train(found, labels, config, runtime), lambda: opened.run(learn))


@planned(_segmenter)
def fit(
    images: Sources,
    out: str | Path,
    *,
    init: str | Path | None = None,
    learn: Learner = "auto",
    budget_seconds: float | None = None,
    ground_truth: str | Path | None = None,
    overwrite: bool = False,
    **setup: Unpack[Setup],
) -> Plan[Learned]:
    """Adapts a segmenter to images without labels; see `soloist fit`.

    Args:
        images: Images, folders, glob patterns, lists or COCO files.
        out: Run folder; the same call again resumes an unfinished run.
        init: `bundled`, `backbone`, `scratch`, or the run folder, model folder or file of a
            segmenter; None: `bundled` for the preset `soloist`, `backbone` for the others.
        learn: `regions`: a judge of regions learns from what the start finds, in minutes;
            `network`: it is trained on coarse masks and on its own; `auto`: the former where there
            is a segmenter to start from, unless options of a training are given.
        budget_seconds: Time for everything; None takes what the preset or up to 64 images take.
        ground_truth: COCO file of a validation set, to evaluate each stage on.
        overwrite: Replace a finished run.
        setup: `preset` (here `soloist` by default), `file`, `options`, `device` and `precision`:
            `soloist.api.plans.Setup`.

    Returns:
        The segmenter; that of the start if nothing steadier was learned.

    Raises:
        SoloistError: For what a caller can cause.
    """
    setup = {"preset": "soloist", **setup}
    file, values = setup.get("file"), setup.get("options") or {}
    own = user_options(path_or_none(file), values)
    begin = fit_start(None if init is None else str(init), setup["preset"], own)
    segmenter = start_from(begin)
    config, runtime = configured(
        setup, {"backbone": {"weights": "none"}} if begin == SCRATCH else {}
    )
    if segmenter is not None:
        weights = {"--backbone.weights": values.get("backbone", {}).get("weights")}
        refuse_idle(weights, "with --init, which has its own")
    wanted = regions_wanted(learn, begin, own, budget_seconds)
    if segmenter is not None and not (wanted is not None and segmenter.is_file()):
        segmenter = model_folder(segmenter)
    if budget_seconds is not None:
        refuse_idle(
            {"--train.steps": values.get("train", {}).get("steps")},
            "with --budget, which plans the steps",
        )
    found = find_images(images, config.reading)
    truth = path_or_none(ground_truth)
    if wanted is not None and truth is not None:
        wanted = replace(wanted, evaluated=len(load_ground_truth(truth).images))

    def work(run: RunFolder) -> FitResult:
        chosen = run.own(found)
        logger.info("fit: %d images on %s", len(chosen), runtime)
        if wanted is not None:
            assert segmenter is not None
            result = fit_regions(
                chosen, run, config, runtime, start=segmenter, wanted=wanted, ground_truth=truth
            )
        else:
            result = fit_run(
                chosen,
                run,
                config,
                runtime,
                start=segmenter,
                budget_seconds=budget_seconds,
                ground_truth=truth,
            )
        on_main(partial(write_run_report, run, result.images, result.gallery, ground_truth=truth))
        return result

    inputs = {"images": named(images), "budget": budget_seconds, "gt": truth, "init": begin}
    inputs["learn"] = "network" if wanted is None else "regions"
    opened = _Opened("fit", out, inputs, config, runtime, overwrite, tuple(found))

    def lines() -> list[str]:
        if wanted is None:
            return plan_fit(found, config, runtime, budget_seconds=budget_seconds, start=segmenter)
        assert segmenter is not None
        return plan_regions(found, runtime, start=segmenter, wanted=wanted)

    return Plan(lines, lambda: opened.run(work))


@planned(_segmenter)
def finetune(
    data: str | Path,
    out: str | Path,
    *,
    init: str | Path = BUNDLED_SEGMENTER,
    labels: str = "100%",
    learn: Learner = "auto",
    how: Reading = Reading(),
    ground_truth: str | Path | None = None,
    overwrite: bool = False,
    **setup: Unpack[Setup],
) -> Plan[Learned]:
    """Learns classes from a few true labels; see `soloist finetune`.

    Args:
        data: COCO file of true masks with categories, or a data set of another format.
        out: Run folder; the same call again resumes an unfinished run.
        init: `scratch`, `backbone`, `bundled`, or the run folder, model folder or file of a
            segmenter.
        labels: Which of the labelled images are used: a percentage, a number, or a text list.
        learn: `regions`: a judge finds and orders regions, in seconds; `network`: it is trained;
            `auto`: the former for up to 64 images of up to 32 classes, unless options of a training
            are given.
        how: How the labels are read, and where their images are if not beside them.
        ground_truth: COCO file of a validation set with the same categories.
        overwrite: Replace a finished run.
        setup: `preset`, `file`, `options`, `device` and `precision`: `soloist.api.plans.Setup`.

    Returns:
        The trained segmenter.

    Raises:
        SoloistError: For what a caller can cause.
    """
    check_known(setup, Setup)
    start, file, values = str(init), setup.get("file"), setup.get("options") or {}
    config = finetune_config(setup.get("preset", "tiny"), path_or_none(file), values, init=start)
    refuse_idle_values(values, config)
    chosen = choose_labelled(data, labels, config.seed, how, reading=config.reading)
    given = user_options(path_or_none(file), values)
    regions = None
    if learns_regions(learn, chosen, init=start, options=given):
        regions = given
    else:
        config = with_classes(config, chosen.labels)
    truth = path_or_none(ground_truth)
    runtime = runtime_of(setup)

    def work(run: RunFolder) -> FitResult:
        own = replace(chosen, images=run.own(chosen.images))
        logger.info("finetune: %d images on %s", len(own.images), runtime)
        result = finetune_run(
            own, run, config, runtime, init=start, regions=regions, ground_truth=truth
        )
        on_main(partial(write_run_report, run, result.images, result.gallery, ground_truth=truth))
        return result

    read = {"folder": how.images, "split": how.split}
    inputs = {"images": [str(data)], "labels": labels, "init": start, "gt": truth, **read}
    inputs["learn"] = "network" if regions is None else "regions"
    opened = _Opened(
        "finetune",
        out,
        inputs,
        config,
        runtime,
        overwrite,
        tuple(chosen.images),
        Path(data),
    )
    return Plan(
        lambda: plan_finetune(
            chosen, config, runtime, init=start, regions=regions is not None, ground_truth=truth
        ),
        lambda: opened.run(work),
    )


@dataclass(frozen=True)
class _Opened:
    """A run that is to be opened, worked on and finished.

    Attributes:
        command: The verb.
        out: The run folder.
        inputs: What it reads, as its user named it; None where not given.
        config: The resolved options.
        runtime: Device and precision.
        overwrite: Replace a finished run.
        images: What it learns from.
        labels_file: The file of masks or true labels it learns from.
    """

    command: str
    out: str | Path
    inputs: Mapping[str, Any]
    config: Config
    runtime: Runtime
    overwrite: bool
    images: tuple[ImageRef, ...] = ()
    labels_file: Path | None = None

    def run(self, learn: Callable[[RunFolder], FitResult | None]) -> Learned:
        """Opens the run, learns, and closes it."""
        join(self.runtime.device)
        given = {
            name: " ".join(value) if isinstance(value, list) else str(value)
            for name, value in self.inputs.items()
            if value is not None
        }
        with open_run(
            Path(self.out),
            command=self.command,
            inputs=given,
            config=self.config,
            overwrite=self.overwrite,
            images=self.images,
            labels_file=self.labels_file,
        ) as run:
            result = learn(run)
            warning = None if result is None else on_main(result.warning)
            run.finish()
            # What failed in an earlier session is in the main process's file alone.
            failed = on_main(lambda: run.errors.count)
            metrics = {} if result is None else result.metrics
            return Learned(run.path, self.runtime, metrics, warning, failed, run.errors.path)
