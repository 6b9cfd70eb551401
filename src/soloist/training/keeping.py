"""Which of the models of a run is kept: the steadiest, so that no training is for the worse."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from soloist.data.images import read_with_size
from soloist.data.sources import ImageRef, spread
from soloist.errors import DataError
from soloist.evaluation.stage_titles import stage_title
from soloist.evaluation.steadiness import steadiness
from soloist.inference.segmenter import Segmenter, read_judge
from soloist.models.build import copy_solo, load_categories, load_solo
from soloist.runtime.device import Runtime
from soloist.training.run_folder import VERDICT, RunFolder
from soloist.training.stages import Stage

logger = logging.getLogger(__name__)

COMPARED = 8
"""Images on which models are compared."""
KEPT, STEADINESS = "kept", "steadiness"
"""Keys of the run's state: the key of the stage whose model was kept; how steady stages are."""


def segmenter_of(model: Path, runtime: Runtime) -> Segmenter:
    """The segmenter of a model folder or of what `load_solo` takes."""
    network, own = load_solo(model)
    return Segmenter(network, own, runtime, load_categories(model), read_judge(model))


def stage_steadiness(
    stage: Stage,
    images: Sequence[ImageRef],
    counts: Mapping[str, int],
    run: RunFolder,
    runtime: Runtime,
) -> float:
    """How steady the model of a stage is on `COMPARED` of the images, which the run's state keeps.

    Args:
        stage: The stage.
        images: Images of the run.
        counts: As for `steadiness`.
        run: The run.
        runtime: Device and precision.
    """
    known = run.state.get(STEADINESS, {})
    if stage.key not in known:
        assert stage.model is not None
        segmenter = segmenter_of(stage.model, runtime)
        known = {**known, stage.key: steadiness(segmenter, spread(images, COMPARED), counts)}
        run.update_state(**{STEADINESS: known})
    return float(known[stage.key])


def shown_counts(stage: Stage, images: Sequence[ImageRef], runtime: Runtime) -> dict[str, int]:
    """How many masks the model of a stage shows by default on `COMPARED` of the images, by name."""
    assert stage.model is not None
    segmenter = segmenter_of(stage.model, runtime)
    least = segmenter.config.inference.recommended_score
    counts = {}
    for image in spread(images, COMPARED):
        # `steadiness` tells of one that cannot be read.
        with suppress(DataError):
            pixels, size = read_with_size(image.path, reading=image.reading)
            counts[image.name] = int((segmenter(pixels, size).scores >= least).sum())
    return counts


def keep_steadiest(
    stages: Sequence[Stage],
    images: Sequence[ImageRef],
    counts: Mapping[str, int],
    run: RunFolder,
    runtime: Runtime,
) -> str:
    """Copies the steadiest of some models to the run's model folder.

    Args:
        stages: Stages with models, first what the run started from.
        images: Images of the run, `COMPARED` of which are looked at.
        counts: As for `steadiness`.
        run: The run, whose state gets the verdict.
        runtime: Device and precision.

    Returns:
        The key of the stage.
    """
    figures = {one.key: stage_steadiness(one, images, counts, run, runtime) for one in stages}
    # Of equals the earlier.
    best = max(figures, key=lambda key: figures[key])
    listed = ", ".join(f"{stage_title(key)} {value:.3f}" for key, value in figures.items())
    verdict = (
        f"kept is {stage_title(best)!r}, which ranks the same masks first at other scales of "
        f"{min(len(images), COMPARED)} images (mean IoU: {listed})"
    )
    keep(best, verdict, stages, run)
    return best


def keep(key: str, verdict: str, stages: Sequence[Stage], run: RunFolder) -> None:
    """Copies the model of a stage to the run's model folder.

    Args:
        key: Of the stage.
        verdict: Why, for people.
        stages: Stages with models.
        run: The run, whose state gets the verdict.
    """
    (model,) = (one.model for one in stages if one.key == key)
    assert model is not None
    copy_solo(model, run.model)
    run.update_state(**{KEPT: key, VERDICT: verdict})
    if key != stages[0].key:
        logger.info(verdict)
