"""The `soloist` command: one function a verb, nothing but wiring.

torch is imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from soloist import __version__
from soloist.cli_options import given, option_group
from soloist.cli_runs import (
    DONE,
    SOME_FAILED,
    USER_ERROR,
    finish,
    label,
    open_command,
    parse_duration,
    tell_plan,
)
from soloist.engine.launch import launched
from soloist.errors import SoloistError, TrainingError
from soloist.presets import load_config

if TYPE_CHECKING:
    pass

logger = logging.getLogger("soloist")

app = App(
    name="soloist",
    version=__version__,
    help="Learns to cut every object out of a picture, from images nobody labelled.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

Images = Annotated[
    list[str],
    Parameter(help="Images, folders, glob patterns, .txt lists or COCO files.", negative=""),
]
PRESETS_HELP = "`paper` (= `paper-r50`), `paper-r101`, `small` or `tiny` (trains on a laptop)."
Preset = Annotated[str, Parameter(help=PRESETS_HELP)]
ConfigFile = Annotated[Path | None, Parameter(help="YAML file whose values win over the preset's.")]
Device = Annotated[str, Parameter(help="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.")]
Precision = Annotated[str, Parameter(help="`auto`, `bf16` or `fp32`.")]
Overwrite = Annotated[bool, Parameter(help="Replace what is at --out.", negative="")]
DryRun = Annotated[
    bool, Parameter(help="Check everything, say what would be done, stop.", negative="")
]

# A dataclass made at import has no static type; its values are checked by `load_config`.
if TYPE_CHECKING:
    PretrainOptions = Any
    MasksOptions = Any
    TrainOptions = Any
    FitOptions = Any
    PredictOptions = Any
else:
    PretrainOptions = option_group("backbone", "pretrain", "seed")
    MasksOptions = option_group("backbone", "extract", "free_mask")
    TrainOptions = option_group("backbone", "model", "loss", "augment", "train", "seed")
    FitOptions = option_group(
        "backbone",
        "extract",
        "free_mask",
        "model",
        "loss",
        "augment",
        "train",
        "inference",
        "self_training",
        "seed",
    )
    PredictOptions = option_group("inference")

Flat = Parameter(name="*")


@app.command
def pretrain(
    images: Images,
    *,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    options: Annotated[PretrainOptions, Flat] = PretrainOptions(),  # noqa: B008  # immutable
) -> int:
    """Learn a backbone from your own images by DenseCL, from scratch unless told otherwise.

    Args:
        out: Run folder; the same command again resumes it.
    """
    from soloist.data.sources import find_images
    from soloist.dry_run import plan_pretrain
    from soloist.engine.distributed import join, on_main
    from soloist.engine.pretrain import pretrain as run_pretrain
    from soloist.engine.runtime import choose_runtime
    from soloist.run_report import finish_pretrain

    values = given(options)
    # From scratch and with all stages unless asked for: the global loss acts on the last one.
    values["backbone"] = {"weights": "none", "stages": 4, **values.get("backbone", {})}
    settings = load_config(preset, config, values)
    found = find_images(images)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("pretrain", out, lambda: plan_pretrain(found, settings, runtime))
    join(runtime.device)
    with open_command("pretrain", images, out, settings, overwrite) as run:
        logger.info("pretrain: %d images on %s", len(found), runtime)
        backbone = run_pretrain(found, run, settings, runtime)
        on_main(lambda: finish_pretrain(run, backbone, found, settings, runtime))
        return finish(run)


@app.command
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


@app.command
def train(
    images: Images,
    *,
    masks: Path,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    init: Path | None = None,
    options: Annotated[TrainOptions, Flat] = TrainOptions(),  # noqa: B008  # immutable
) -> int:
    """Train one round of self-supervised SOLO on coarse masks.

    Args:
        masks: COCO file of `soloist masks`, or of an earlier segmenter's `predict`.
        out: Run folder; the same command again resumes it.
        init: Run folder of an earlier segmenter to start from, instead of the backbone.
    """
    from soloist.data.coco import load_coco
    from soloist.data.sources import find_images
    from soloist.dry_run import plan_train
    from soloist.engine.build import model_folder
    from soloist.engine.distributed import join, on_main
    from soloist.engine.runtime import choose_runtime
    from soloist.engine.train import train as run_train
    from soloist.run_report import write_run_report

    settings = load_config(preset, config, given(options))
    found = find_images(images)
    labels = load_coco(masks)
    start_from = None if init is None else model_folder(init)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("train", out, lambda: plan_train(found, labels, settings, runtime))
    join(runtime.device)
    with open_command("train", images, out, settings, overwrite, masks=masks, init=init) as run:
        logger.info("train: %d images on %s", len(found), runtime)
        run_train(
            found, labels, run, settings, runtime, model_folder=run.model, start_from=start_from
        )
        on_main(lambda: write_run_report(run, found, []))
        return finish(run)


@app.command
def fit(
    images: Images,
    *,
    out: Path,
    preset: Preset = "tiny",
    config: ConfigFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    rounds: int | None = None,
    budget: str | None = None,
    gt: Path | None = None,
    options: Annotated[FitOptions, Flat] = FitOptions(),  # noqa: B008  # immutable
) -> int:
    """Do it all: free masks, train, pseudo-labels, train again. Images in, segmenter out.

    Args:
        out: Run folder; the same command again resumes it.
        rounds: Rounds of self-training after the first segmenter.
        budget: Time for everything, such as 90m or 1h30m; the trainings are planned to fill it.
        gt: COCO file of a validation set, to evaluate each stage on; never trained on.
    """
    from soloist.data.sources import find_images
    from soloist.dry_run import plan_fit
    from soloist.engine.distributed import join, on_main
    from soloist.engine.runtime import choose_runtime
    from soloist.run_report import print_results, write_run_report
    from soloist.self_training import fit as run_fit

    values = given(options)
    if rounds is not None:
        values["self_training"] = {**values.get("self_training", {}), "rounds": rounds}
    settings = load_config(preset, config, values)
    seconds = None if budget is None else parse_duration(budget)
    found = find_images(images)
    runtime = choose_runtime(device, precision)
    if dry_run:
        return tell_plan("fit", out, lambda: plan_fit(found, settings, runtime, budget=budget))
    join(runtime.device)
    with open_command("fit", images, out, settings, overwrite, budget=budget, gt=gt) as run:
        logger.info("fit: %d images on %s", len(found), runtime)
        result = run_fit(found, run, settings, runtime, budget_seconds=seconds, ground_truth=gt)
        on_main(lambda: write_run_report(run, result.images, result.gallery, ground_truth=gt))
        print_results(result.metrics)
        return finish(run)


@app.command
def predict(
    images: Images,
    *,
    model: str,
    out: Path,
    preset: str | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    overlays: Path | None = None,
    options: Annotated[PredictOptions, Flat] = PredictOptions(),  # noqa: B008  # immutable
) -> int:
    """Segment images with a trained model: COCO JSON out.

    Args:
        model: Run folder of `fit`, `train` or `demo`, a file such as the released FreeSOLO's, or
            `owner/name` on the hub.
        out: COCO file to write; its embeddings go beside it.
        preset: What a file was trained with, such as `paper-r101`; a run folder knows its own.
        overlays: Folder for pictures of the masks.
    """
    from dataclasses import asdict, replace

    from soloist.data.sources import find_images
    from soloist.dry_run import plan_predict
    from soloist.engine.distributed import join
    from soloist.presets import override
    from soloist.segmenter import load

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
        settings={"model": model, "inference": asdict(inference)},
        overwrite=overwrite,
    )


@app.command(name="eval")
def evaluate(
    predictions: Path,
    ground_truth: Path,
    *,
    out: Path | None = None,
    max_dets: int = 100,
) -> int:
    """Class-agnostic average precision and recall of masks and boxes.

    Args:
        predictions: COCO file of masks with scores, of this or of another tool.
        ground_truth: COCO file of the true masks.
        out: JSON file for the figures, as fractions.
        max_dets: Predictions per image that count, best first.
    """
    from soloist.engine.evaluate import evaluate as run_evaluate
    from soloist.files import write_json
    from soloist.run_report import print_results

    metrics = run_evaluate(predictions, ground_truth, max_dets=max_dets)
    if out is not None:
        write_json(out, metrics, indent=2)
    print_results({predictions.stem: metrics})
    return DONE


@app.command
def report(run: Path) -> int:
    """Write the run's report.html again from its files.

    Args:
        run: Run folder of `fit`, `train`, `pretrain` or `demo`.
    """
    from soloist.run_report import rewrite_report

    sys.stdout.write(f"{rewrite_report(run)}\n")
    return DONE


@app.command
def demo(*, out: Path = Path("runs/demo"), overwrite: Overwrite = False) -> int:
    """See the whole pipeline at work on generated scenes: no files, no network, ten minutes.

    Args:
        out: Run folder; the same command again resumes it.
    """
    from soloist.demo import demo_config, run_demo
    from soloist.engine.distributed import join
    from soloist.engine.runtime import choose_runtime

    join(choose_runtime().device)
    with open_command("demo", [], out, demo_config(), overwrite) as run:
        run_demo(run)
        return finish(run)


@app.command
def backbones(*, measure: Annotated[bool, Parameter(negative="")] = False) -> int:
    """List backbones to choose from: licence, strides, size and what each is good for.

    Args:
        measure: Time a forward pass of each at 320 pixels on this machine, with random weights.
    """
    from soloist.backbone_list import print_backbones

    print_backbones(measure=measure)
    return DONE


@app.command
def doctor() -> int:
    """Show versions and devices, and what is misconfigured."""
    from soloist.doctor import examine

    lines, healthy = examine()
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE if healthy else SOME_FAILED


def main() -> None:
    """Runs the command line and exits: 0 done, 1 some images failed, 2 the user's mistake."""
    # Of several processes the main one speaks for all.
    level = logging.INFO if launched().rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Runs one command; errors a user can cause end in one line on stderr."""
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
    except (CycloptsError, SoloistError) as error:
        _tell(" ".join(str(error).split()))
        return SOME_FAILED if isinstance(error, TrainingError) else USER_ERROR
    except KeyboardInterrupt:
        _tell("stopped; the same command again goes on from here")
        return 130
    return status if isinstance(status, int) else DONE


def _tell(message: str) -> None:
    """One line on stderr, once on each machine: its files may be what is wrong."""
    if launched().local_rank == 0:
        sys.stderr.write(f"soloist: {message}\n")
