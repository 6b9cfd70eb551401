"""How good the masks of a recipe are, for the same training time: raw, trained, self-trained.

    python benchmarks/quality/bench.py IMAGES --gt VAL.json --out OUT --recipes paper soloist

A recipe is a file of `recipes/` beside this script, or any other YAML file: a preset by name and
options that change it. Its masks are made once, then `soloist fit` trains from them with each
seed; `--budget` is the time for training and pseudo-labels together. A recipe that says
`labels: true` is no recipe but an upper bound: the network of its preset learns for the same time
from the true masks of `--truth`, by SOLO's own losses. Rows are appended to
OUT/results.jsonl with the recipe's options, the commit and the machine; the same command does what
is left and prints the table. VAL.json is measured on, never learned from.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from cyclopts import App, Parameter

from soloist.config import Config
from soloist.config.presets import differences, load_config, supervised
from soloist.data.sources import find_images
from soloist.evaluation.evaluate import Metrics
from soloist.runtime.device import choose_runtime
from soloist.runtime.files import plain_json
from soloist.training.experiments.figures import in_percent
from soloist.training.finetuning import choose_labelled
from soloist.training.run_folder import open_run
from soloist.training.self_training import TRAINING_SHARE, extract_masks, fit, show_stages
from soloist.training.stages import Stage
from soloist.training.train import train

RECIPES = Path(__file__).parent / "recipes"
RESULTS = "results.jsonl"
MASKS = "free_masks.json"
SIDECAR = "free_masks.embeddings.npy"
METRICS = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "ar100")

app = App(help=__doc__, default_parameter=Parameter(consume_multiple=True))
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Attributes:
        name: Of its file.
        config: All options, without the seed.
        supervised: It learns from true masks.
    """

    name: str
    config: Config
    supervised: bool = False

    @classmethod
    def read(cls, name: str) -> Recipe:
        """A recipe by the name or the path of its file."""
        path = Path(name) if name.endswith(".yaml") else RECIPES / f"{name}.yaml"
        options = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        preset = options.pop("preset")
        if not options.pop("labels", False):
            return cls(path.stem, load_config(preset, None, options))
        return cls(path.stem, load_config(preset, None, options, change=supervised), True)


@app.default
def main(
    images: Path,
    *,
    gt: Path,
    out: Path,
    recipes: list[str],
    seeds: list[int] = [0],  # noqa: B006  # cyclopts reads it, nobody writes it
    budget: float = 15.0,
    truth: Path | None = None,
) -> None:
    """Runs what is left of recipes and seeds, and prints the table.

    Args:
        images: Folder, glob pattern or list of images to learn from.
        gt: COCO file of the validation set.
        out: Folder of the runs and of results.jsonl.
        recipes: Names or YAML files.
        seeds: Each recipe is trained once with each.
        budget: Minutes for training and pseudo-labels of one run, whatever its rounds.
        truth: COCO file with the true masks of the images, for upper bounds alone.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = [Recipe.read(name) for name in recipes]
    if truth is None and any(recipe.supervised for recipe in chosen):
        raise SystemExit("wanted the true masks of the images for an upper bound; add --truth")
    inputs = Inputs(images, gt, truth, out, 60 * budget)
    for recipe in chosen:
        for seed in seeds:
            if not _is_done(out, recipe, seed):
                _run(inputs, recipe, seed)
    print(table(read_rows(out), [recipe.name for recipe in chosen]))


@dataclass(frozen=True)
class Inputs:
    """What all runs share.

    Attributes:
        images: Folder, glob pattern or list of images to learn from.
        gt: COCO file of the validation set.
        truth: COCO file of the true masks of the images.
        out: Folder of the runs.
        seconds: For training and pseudo-labels of one run.
    """

    images: Path
    gt: Path
    truth: Path | None
    out: Path
    seconds: float


@dataclass(frozen=True)
class Finished:
    """A run that is done.

    Attributes:
        metrics: By stage.
        timing: Seconds of each stage.
        masks_seconds: What the masks took, which the seeds share; None for true ones.
        images: How many were learned from.
    """

    metrics: Mapping[str, Metrics]
    timing: Mapping[str, float]
    masks_seconds: float | None
    images: int


def _run(inputs: Inputs, recipe: Recipe, seed: int) -> None:
    started = time.time()
    settings = replace(recipe.config, seed=seed)
    finished = (_upper_bound if recipe.supervised else _label_free)(inputs, recipe, settings)
    row = {
        "recipe": recipe.name,
        "seed": seed,
        "budget_minutes": inputs.seconds / 60,
        "images": finished.images,
        "gt": inputs.gt.name,
        "figures": finished.metrics,
        "seconds": finished.timing,
        "masks_seconds": finished.masks_seconds,
        "against_the_paper": differences(load_config("paper"), recipe.config),
        "config": plain_json(asdict(settings)),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{choose_runtime()}",
        "date": time.strftime("%Y-%m-%d", time.localtime(started)),
    }
    with (inputs.out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _label_free(inputs: Inputs, recipe: Recipe, settings: Config) -> Finished:
    """The recipe's masks, unless an earlier seed made them, and `soloist fit` from them."""
    found = find_images(inputs.images)
    runtime = choose_runtime()
    folder = inputs.out / recipe.name
    noted = {"images": str(inputs.images)}
    masks = folder / "masks"
    if not (masks / MASKS).is_file():
        with open_run(
            masks, command="masks", inputs=noted, config=recipe.config, overwrite=False
        ) as run:
            with run.timed("masks"):
                extract_masks(found, run.path / MASKS, run, recipe.config, runtime)
            run.finish()
    noted |= {"gt": str(inputs.gt), "budget": str(inputs.seconds)}
    with open_run(
        folder / f"seed-{settings.seed}",
        command="fit",
        inputs=noted,
        config=settings,
        overwrite=False,
    ) as run:
        for name in (MASKS, SIDECAR):
            if not (run.path / name).exists():
                os.link(masks / name, run.path / name)
        result = fit(
            found, run, settings, runtime, budget_seconds=inputs.seconds, ground_truth=inputs.gt
        )
        timing = run.state["timing"]
        run.finish()
    return Finished(result.metrics, timing, _seconds_of(masks), len(found))


def _upper_bound(inputs: Inputs, recipe: Recipe, settings: Config) -> Finished:
    """The same network, time and views with true masks."""
    assert inputs.truth is not None  # `main` has seen to it.
    runtime = choose_runtime()
    labelled = choose_labelled(find_images(inputs.images), inputs.truth, "100%", settings.seed)
    noted = {"images": str(inputs.images), "gt": str(inputs.gt), "truth": str(inputs.truth)}
    with open_run(
        inputs.out / recipe.name / f"seed-{settings.seed}",
        command="fit",
        inputs=noted | {"budget": str(inputs.seconds)},
        config=settings,
        overwrite=False,
    ) as run:
        with run.timed("training"):
            train(
                labelled.images,
                labelled.labels,
                run,
                settings,
                runtime,
                model_folder=run.model,
                budget_seconds=TRAINING_SHARE * inputs.seconds,
            )
        stage = Stage("supervised", run.model)
        result = show_stages([stage], labelled.images, inputs.gt, run, settings, runtime)
        timing = run.state["timing"]
        run.finish()
    return Finished(result.metrics, timing, None, len(labelled.images))


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is none."""
    path = out / RESULTS
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: Sequence[Mapping[str, Any]], recipes: Sequence[str]) -> str:
    """Markdown: a line for each recipe and stage, mean and spread over seeds, in percent."""
    lines = [
        "| recipe | stage | seeds | " + " | ".join(METRICS) + " |",
        "|---" * (len(METRICS) + 3) + "|",
    ]
    for recipe in recipes:
        own = [row for row in rows if row["recipe"] == recipe]
        stages = list(dict.fromkeys(stage for row in own for stage in row["figures"]))
        for stage in stages:
            figures: list[Metrics] = [r["figures"][stage] for r in own if stage in r["figures"]]
            if stage == "free_masks":
                figures = figures[:1]  # Nothing in them is random.
            cells = [in_percent([one[f"mask_{name}"] for one in figures]) for name in METRICS]
            lines.append(f"| {recipe} | {stage} | {len(figures)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_done(out: Path, recipe: Recipe, seed: int) -> bool:
    return any(row["recipe"] == recipe.name and row["seed"] == seed for row in read_rows(out))


def _seconds_of(run: Path) -> float:
    state = json.loads((run / "state.json").read_text(encoding="utf-8"))
    return float(state["timing"]["masks"])


def _commit() -> str:
    """The commit of the code, with `+` where it was changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(command, cwd=RECIPES, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    app()
