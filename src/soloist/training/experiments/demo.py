"""The whole pipeline on generated scenes: no files and no network needed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from soloist.api.learning import Learned
from soloist.config import Config
from soloist.config.presets import PRESETS
from soloist.data.scenes import write_scenes
from soloist.data.sources import find_images
from soloist.models.build import load_solo, save_solo
from soloist.report.run import write_run_report
from soloist.runtime.device import Runtime, choose_runtime
from soloist.runtime.distributed import join, on_main
from soloist.runtime.progress import duration, track
from soloist.runtime.stopping import stop_if_asked
from soloist.training.run_folder import RunFolder, open_run
from soloist.training.self_training import fit, show_stages, stage_key
from soloist.training.stages import FitResult, Stage

logger = logging.getLogger(__name__)

TRAIN_SCENES = 240
VAL_SCENES = 60
# The bundled backbone was learned on scenes of another seed.
SCENES_SEED = 7
# Of each of the two trainings. A number of steps, not a time: what a stage reaches is to depend on
# no machine's pace.
STEPS = 220
# What all of it takes on two idle cores, in seconds.
USUAL_SECONDS = 10 * 60.0
_OURS: Mapping[str, Literal["regions", "reranked"]] = {
    "regions": "regions",
    "confirmed": "reranked",
}


def demo_config() -> Config:
    """The tiny preset at two thirds of its image size, to be done in minutes."""
    tiny = PRESETS["tiny"]
    return replace(
        tiny,
        extract=replace(tiny.extract, short_side=448, max_side=896),
        model=replace(
            tiny.model,
            scale_ranges=((1, 24), (14, 42), (28, 74), (52, 128), (84, 2048)),
        ),
        augment=replace(tiny.augment, short_side=(160, 216), max_side=320, crop_size=160),
        train=replace(
            tiny.train, steps=STEPS, warmup_steps=30, ema_decay=0.98, checkpoint_every=50
        ),
        inference=replace(tiny.inference, short_side=192, max_side=384),
        loss=replace(tiny.loss, pairwise_warmup_steps=60),
        # After minutes of training scores are low.
        self_training=replace(tiny.self_training, score_threshold=0.25),
    )


def demo(out: Path, *, overwrite: bool = False) -> Learned:
    """The whole pipeline into a run folder, on generated scenes.

    Args:
        out: Run folder; the same call again resumes it.
        overwrite: Replace a finished run.
    """
    runtime = choose_runtime()
    join(runtime.device)
    with open_run(out, command="demo", inputs={}, config=demo_config(), overwrite=overwrite) as run:
        result = _run(run, runtime)
        run.finish()
        failed = on_main(lambda: run.errors.count)
        return Learned(out, runtime, result.metrics, failed=failed, errors=run.errors.path)


def _run(run: RunFolder, runtime: Runtime) -> FitResult:
    """Makes scenes, learns from them, and reports on held-out ones."""
    logger.info("demo: about %s on %s, longer beside other work", duration(USUAL_SECONDS), runtime)
    train = on_main(partial(_scenes, run.path / "scenes" / "train", TRAIN_SCENES, "train"))
    val = on_main(partial(_scenes, run.path / "scenes" / "val", VAL_SCENES, "val"))
    # The true masks of the training scenes are not read: only their images are named here.
    images = find_images(train.parent / "images")
    config = demo_config()
    fit(images, run, config, runtime, ground_truth=val)
    result = show_stages(_all_stages(run), images, val, run, config, runtime)
    on_main(partial(write_run_report, run, result.images, result.gallery, ground_truth=val))
    return result


def _all_stages(run: RunFolder) -> list[Stage]:
    """The paper's stages; then, by the same network, what the preset `soloist` finds."""
    rounds = sorted((run.path / "rounds").iterdir())
    learned = [Stage(stage_key(int(folder.name)), folder) for folder in rounds]
    on_main(partial(_write_ours, run))
    ours = [Stage(key, run.path / key) for key in _OURS]
    return [Stage("free_masks", None), *learned, *ours]


def _write_ours(run: RunFolder) -> None:
    """The run's model as the preset `soloist` uses one: for regions alone, and to confirm them."""
    network, config = load_solo(run.model)
    for key, masks in _OURS.items():
        options = replace(PRESETS["soloist"].inference, masks=masks, score_threshold=0.0)
        save_solo(run.path / key, network.state_dict(), replace(config, inference=options))


def _scenes(folder: Path, count: int, split: str) -> Path:
    annotations = folder / "annotations.json"
    if annotations.is_file():
        return annotations
    # A folder without its annotations was cut short by a kill.
    shutil.rmtree(folder, ignore_errors=True)
    with track(f"{split} scenes", count) as tracker:

        def advance(_: int) -> None:
            tracker.advance()
            stop_if_asked()

        return write_scenes(
            folder,
            count,
            seed=SCENES_SEED,
            split="train" if split == "train" else "val",
            progress=advance,
        )
