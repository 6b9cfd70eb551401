"""How good the masks of a recipe are, for the same training time: raw, trained, self-trained.

    python benchmarks/quality/bench.py IMAGES --gt VAL.json --out OUT --recipes paper soloist

A recipe is a file of `recipes/` beside this script, or any other YAML file: a preset by name and
options that change it. Its masks are made once, then `soloist fit` trains from them with each
seed; `--budget` is the time for training and pseudo-labels together. Rows are appended to
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
from soloist.data.sources import find_images
from soloist.engine.evaluate import Metrics
from soloist.engine.run_folder import open_run
from soloist.engine.runtime import choose_runtime
from soloist.experiments.figures import in_percent
from soloist.files import plain_json
from soloist.presets import differences, load_config
from soloist.self_training import extract_masks, fit

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
    """

    name: str
    config: Config

    @classmethod
    def read(cls, name: str) -> Recipe:
        """A recipe by the name or the path of its file."""
        path = Path(name) if name.endswith(".yaml") else RECIPES / f"{name}.yaml"
        options = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        preset = options.pop("preset")
        return cls(path.stem, load_config(preset, None, options))


@app.default
def main(
    images: Path,
    *,
    gt: Path,
    out: Path,
    recipes: list[str],
    seeds: list[int] = [0],  # noqa: B006  # cyclopts reads it, nobody writes it
    budget: float = 15.0,
) -> None:
    """Runs what is left of recipes and seeds, and prints the table.

    Args:
        images: Folder, glob pattern or list of images to learn from.
        gt: COCO file of the validation set.
        out: Folder of the runs and of results.jsonl.
        recipes: Names or YAML files.
        seeds: Each recipe is trained once with each.
        budget: Minutes for training and pseudo-labels of one run, whatever its rounds.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = [Recipe.read(name) for name in recipes]
    for recipe in chosen:
        for seed in seeds:
            if not _is_done(out, recipe, seed):
                _run(images, gt, out, recipe, seed, 60 * budget)
    print(table(read_rows(out), [recipe.name for recipe in chosen]))


def _run(images: Path, gt: Path, out: Path, recipe: Recipe, seed: int, seconds: float) -> None:
    found = find_images(images)
    runtime = choose_runtime()
    folder = out / recipe.name
    inputs = {"images": str(images)}
    masks = folder / "masks"
    if not (masks / MASKS).is_file():
        with open_run(
            masks, command="masks", inputs=inputs, config=recipe.config, overwrite=False
        ) as run:
            with run.timed("masks"):
                extract_masks(found, run.path / MASKS, run, recipe.config, runtime)
            run.finish()
    started = time.time()
    settings = replace(recipe.config, seed=seed)
    inputs |= {"gt": str(gt), "budget": str(seconds)}
    with open_run(
        folder / f"seed-{seed}", command="fit", inputs=inputs, config=settings, overwrite=False
    ) as run:
        for name in (MASKS, SIDECAR):
            if not (run.path / name).exists():
                os.link(masks / name, run.path / name)
        result = fit(found, run, settings, runtime, budget_seconds=seconds, ground_truth=gt)
        timing = run.state["timing"]
        run.finish()
    row = {
        "recipe": recipe.name,
        "seed": seed,
        "budget_minutes": seconds / 60,
        "images": len(found),
        "gt": gt.name,
        "figures": result.metrics,
        "seconds": timing,
        "masks_seconds": _seconds_of(masks),
        "against_the_paper": differences(load_config("paper"), recipe.config),
        "config": plain_json(asdict(settings)),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {runtime}",
        "date": time.strftime("%Y-%m-%d", time.localtime(started)),
    }
    with (out / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


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
