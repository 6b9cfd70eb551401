"""From images alone to a judge of their regions: the segmenter that one starts from teaches it.

What the start shows on images of a kind is right often enough to say what their objects look like:
a judge (`judging`) learns from these masks as from labels, labels the images anew, and a second one
learns from that. Where images do not show many objects alike, what is learned from some does not
hold for others, and the start is kept; else the steadiest of all. The stages of a run folder:
rounds/0 -> pseudo_labels_1.json -> rounds/1 -> pseudo_labels_2.json -> rounds/2 -> model.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from soloist.config import Config
from soloist.data.coco.partial import is_finished
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.images import image_size, read_image, read_with_size
from soloist.data.sources import ImageRef, spread
from soloist.errors import ConfigError, DataError
from soloist.evaluation.evaluate import load_ground_truth
from soloist.evaluation.quality import SCALES
from soloist.inference.label import label_images
from soloist.inference.segmenter import Segmenter
from soloist.models.build import CONFIG_FILE, load_categories, load_judge, load_solo, save_solo
from soloist.proposals.likeness import evidence
from soloist.proposals.scale import image_hierarchies, working_size
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import on_main
from soloist.runtime.progress import duration
from soloist.training.judging import MAX_IMAGES, judge_of, save_judged, settings_of
from soloist.training.keeping import COMPARED, keep, keep_steadiest, segmenter_of, stage_steadiness
from soloist.training.run_folder import VERDICT, RunFolder
from soloist.training.self_training import PREVIEW_IMAGES, seconds_used, show_stages, stage_key
from soloist.training.stages import FitResult, Stage
from soloist.training.starts import Learner, against_regions, start_from, takes_regions

logger = logging.getLogger(__name__)

ROUNDS = 2
"""Judges that are learned, each from what the one before it shows."""
ALIKE = 3.0
"""Images must show this much of many objects alike on the average (`likeness.evidence`). Chosen on
photographs: nuclei 4.1 and mushrooms 5.2, where judges gain; everyday scenes 1.8, fruits 2.6 and
tiles 2.2, where they lose or gain nothing (docs/fit.md)."""
TRUSTED = 0.65
"""The start's masks must be as steady as this to teach. Chosen on photographs: on mushrooms they
are 0.74, on nuclei 0.89; on scratched tiles 0.54, where judges lose."""
FEWEST = 4
"""Images below which a budget is called too small."""
MEASURED = 5
"""Images on which the pace of predicting is measured, after a first."""
LEARNING, JUDGED = 4.0, 2.2
"""Time of learning from an image, and of predicting it with a judge, over that of predicting it
with the start. Measured on nuclei with 1 and 2 cores; plans are corrected on the way."""
SHARE = 0.9
"""Of the budget is planned with."""


@dataclass(frozen=True)
class Wanted:
    """How much is learned.

    Attributes:
        rounds: Judges, at least 1.
        budget_seconds: Time for everything; None takes what `MAX_IMAGES` images take.
        options: Values given by the user, nested by section, that win over the start's.
        evaluated: Images of the validation set that the models are evaluated on; 0 without one.
    """

    rounds: int = ROUNDS
    budget_seconds: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    evaluated: int = 0


def fit_regions(
    images: Sequence[ImageRef],
    run: RunFolder,
    config: Config,
    runtime: Runtime,
    *,
    start: Path,
    wanted: Wanted,
    ground_truth: Path | None = None,
) -> FitResult:
    """Learns from images alone which of their regions are objects, and writes the better segmenter.

    Args:
        images: Images to learn from; up to `MAX_IMAGES` of them are, evenly spread.
        run: The run folder; finished stages in it are kept.
        config: Options; the section reading and the seed are read.
        runtime: Device and precision.
        start: The segmenter to start from.
        wanted: How much is learned.
        ground_truth: COCO file of a validation set; each stage is evaluated on its images.

    Returns:
        Metrics, where the masks of each stage are, and which of the models was kept.

    Raises:
        DataError: If no image can be read, or the ground truth has no object.
        StoppedError: If the process was asked to stop; finished work is kept.
    """
    if ground_truth is not None:
        # A mistake in it shows now, not after the learning.
        load_ground_truth(ground_truth)
    begun = on_main(partial(_begin, start, run.path / "rounds" / "0", config, wanted.options))
    segmenter = segmenter_of(begun, runtime)
    chosen = spread(images, on_main(partial(_images_learned_from, segmenter, images, run, wanted)))
    least = segmenter.config.inference.recommended_score
    stages, taught = [Stage("start", begun)], _labelled(1, chosen, begun, run, runtime)
    sure = _sure(taught, least)
    counts = {one.file_name: len(sure.annotations[one.id]) for one in sure.images}
    verdict = ""
    if len(sure) == 0:
        verdict = f"the start is kept, for none of its masks has the score {least:g} that is shown"
    elif (
        steady := on_main(partial(stage_steadiness, stages[0], chosen, counts, run, runtime))
    ) < TRUSTED:
        verdict = (
            f"the start is kept, for its masks are too unsteady to teach: mean IoU {steady:.3f} "
            f"with those at other scales, at least {TRUSTED:g} where that helps"
        )
    elif (alike := on_main(partial(_evidence, chosen, counts))) < ALIKE:
        verdict = (
            "the start is kept, for the images do not show many objects alike: "
            f"{alike:.1f}, at least {ALIKE:g} where learning from them helps"
        )
    if not verdict:
        chosen = on_main(partial(_on_time, chosen, run, wanted))
    for number in range(1, 1 if verdict else wanted.rounds + 1):
        sure = _of(chosen, _sure(taught, least))
        if len(sure) == 0:
            break
        if number > 1 and not on_main(partial(_fits, number, run, wanted)):
            logger.warning("judge %d is left out: the budget has no time for it", number)
            break
        folder = run.path / "rounds" / str(number)
        finished = on_main((folder / CONFIG_FILE).is_file)
        with run.timed(f"judge {number}", done=finished):
            if not finished and not on_main(
                partial(_learn, chosen, sure, folder, begun, config, wanted.options)
            ):
                verdict = "the start is kept, for the images are of one colour"
                break
        stages.append(Stage(stage_key(number), folder))
        if number < wanted.rounds:
            taught = _labelled(number + 1, chosen, folder, run, runtime)
    if verdict:
        on_main(partial(keep, "start", verdict, stages, run))
        kept = "start"
    else:
        kept = on_main(partial(keep_steadiest, stages, chosen, counts, run, runtime))
    # A report ends with the model that was kept.
    shown = [one for one in stages if one.key in ("start", kept)]
    result = show_stages(shown, images, ground_truth, run, config, runtime)
    return replace(result, verdict=on_main(lambda: run.state[VERDICT]), fell_back=kept == "start")


def _begin(start: Path, model: Path, config: Config, options: Mapping[str, Any]) -> Path:
    """The segmenter to start from, with the run's settings, as a model folder of the run."""
    if not (model / CONFIG_FILE).is_file():
        network, own = load_solo(start)
        settings = settings_of(own, config, options)
        save_solo(model, network.state_dict(), settings, load_categories(start), load_judge(start))
    return model


def _evidence(images: Sequence[ImageRef], counts: Mapping[str, int]) -> float:
    """The mean `evidence` of up to `COMPARED` of the images that could be read, evenly spread."""
    some = spread([one for one in images if one.name in counts], COMPARED)
    found = [image_hierarchies(read_image(one.path, reading=one.reading)) for one in some]
    mean = float(np.mean([evidence(trees) for trees in found]))
    logger.info("many objects alike: %.1f, of %d images", mean, len(some))
    return mean


def regions_wanted(
    learn: Learner, init: str, options: Mapping[str, Any], budget_seconds: float | None
) -> Wanted | None:
    """How much `fit` learns of regions; None if it trains the network.

    Args:
        learn: As asked for.
        init: Where it starts.
        options: Values given by the user, nested by section.
        budget_seconds: Time for everything.

    Raises:
        ConfigError: If regions are asked for and cannot be learned, or options have no effect.
    """
    own = dict(options)
    training = dict(own.pop("self_training", {}))
    rounds = int(training.pop("rounds", ROUNDS))
    if training:
        own["self_training"] = training
    if learn == "auto" and start_from(init) is None:
        return None
    if not takes_regions(learn, against_regions(init, own)):
        return None
    if rounds < 1:
        raise ConfigError(
            f"--rounds must be at least 1 where regions are learned, got {rounds}; leave it out, "
            "or use --learn network"
        )
    return Wanted(rounds, budget_seconds, own)


def affordable(
    segmenter: Segmenter, images: Sequence[ImageRef], wanted: Wanted
) -> tuple[int, float]:
    """How many images are learned from, and how long that takes, in seconds.

    Args:
        segmenter: The start, whose pace is measured on some of the images.
        images: All images.
        wanted: How much is learned.
    """
    most = min(len(images), MAX_IMAGES)
    pace = _seconds_per_image(segmenter, images)
    shown = wanted.evaluated or min(len(images), PREVIEW_IMAGES)
    seconds = [_seconds(count, shown, wanted.rounds, pace) for count in range(1, most + 1)]
    count, fewest = most, min(FEWEST, most)
    if wanted.budget_seconds is not None:
        limit = SHARE * wanted.budget_seconds
        count = max(1, sum(needed <= limit for needed in seconds))
    if count < fewest:
        logger.warning(
            "the budget is too small: %d of %d images is little to learn from; stop now and give "
            "--budget %s or more",
            count,
            len(images),
            duration(seconds[fewest - 1] / SHARE),
        )
    return count, seconds[count - 1]


def _images_learned_from(
    segmenter: Segmenter, images: Sequence[ImageRef], run: RunFolder, wanted: Wanted
) -> int:
    """How many, which a resumed run keeps."""
    known = run.state.get("images_learned_from")
    if known is None:
        known, seconds = affordable(segmenter, images, wanted)
        logger.info(
            "learning from %d of %d images, about %s", known, len(images), duration(seconds)
        )
        run.update_state(images_learned_from=known)
    return int(known)


def _on_time(images: Sequence[ImageRef], run: RunFolder, wanted: Wanted) -> list[ImageRef]:
    """The images that there is time for, once it is known what labelling them took.

    Another program may have come, or gone. A resumed run keeps what was decided.
    """
    known = run.state.get("images_on_time")
    if known is None:
        known = len(images)
        if wanted.budget_seconds is not None:
            used = seconds_used(run)
            # Not noted, if it was killed just then.
            pace = run.state.get("timing", {}).get(_labelling(1), 0.0) / len(images)
            left = SHARE * wanted.budget_seconds - used
            shown = wanted.evaluated or min(len(images), PREVIEW_IMAGES)
            seconds = [
                _seconds(count, shown, wanted.rounds, pace) - count * pace
                for count in range(1, known + 1)
            ]
            known = max(min(FEWEST, known), sum(needed <= left for needed in seconds))
        if known < len(images):
            logger.warning(
                "behind the budget after %s: continuing with %d of %d images",
                duration(used),
                known,
                len(images),
            )
        run.update_state(images_on_time=known)
    return spread(images, int(known))


def _fits(number: int, run: RunFolder, wanted: Wanted) -> bool:
    """Whether there is time for a further judge: as much as the one before took."""
    timing = run.state.get("timing", {})
    if wanted.budget_seconds is None or f"judge {number}" in timing:
        return True
    left = SHARE * wanted.budget_seconds - seconds_used(run)
    return bool(timing.get(f"judge {number - 1}", 0.0) <= left)


def _of(images: Sequence[ImageRef], found: CocoFile) -> CocoFile:
    """The part of a file that is about some of its images."""
    names = {image.name for image in images}
    kept = [image for image in found.images if image.file_name in names]
    return replace(
        found,
        images=tuple(kept),
        annotations={image.id: found.annotations[image.id] for image in kept},
    )


def _seconds_per_image(segmenter: Segmenter, images: Sequence[ImageRef]) -> float:
    """Of predicting one, as some take by their sizes."""
    seconds, pixels = 0.0, 0
    for place, image in enumerate(spread(images, MEASURED + 1)):
        try:
            values, size = read_with_size(image.path, reading=image.reading)
        except DataError:
            # Listed where the images are labelled.
            continue
        started = time.monotonic()
        segmenter.labeler(values, size)
        # The first builds what the others use.
        if place > 0 or len(images) == 1:
            seconds += time.monotonic() - started
            pixels += math.prod(working_size(size))
    sizes = []
    for image in spread(images, MAX_IMAGES):
        # Listed where the images are labelled, too.
        with suppress(DataError):
            sizes.append(math.prod(working_size(image_size(image.path))))
    return seconds / max(pixels, 1) * float(np.mean(sizes or [0]))


def _seconds(count: int, shown: int, rounds: int, per_image: float) -> float:
    """Of learning from `count` images, comparing the models, and showing two of them."""
    # What the first judge finds is looked at even if no other learns from it.
    learning = count * (rounds * LEARNING + 1 + (max(rounds, 2) - 1) * JUDGED)
    comparing = min(count, COMPARED) * (1 + len(SCALES)) * (1 + rounds * JUDGED)
    return per_image * (learning + comparing + shown * (1 + JUDGED))


def _labelled(
    number: int, images: Sequence[ImageRef], model: Path, run: RunFolder, runtime: Runtime
) -> CocoFile:
    """What a model finds on the images, which a file of the run keeps."""
    out = run.path / f"pseudo_labels_{number}.json"
    done = on_main(partial(is_finished, out))
    with run.timed(_labelling(number), done=done):
        if not done:
            segmenter = segmenter_of(model, runtime)
            label_images(
                images,
                segmenter.labeler,
                out,
                title=_labelling(number),
                short_side=segmenter.decoded_side,
                settings={"round": number, "weights": segmenter.fingerprint},
                errors=run.errors,
                categories=segmenter.categories,
            )
    return load_coco(out)


def _labelling(number: int) -> str:
    """The stage of labelling before N judges were learned from."""
    return f"pseudo-labels {number}"


def _sure(found: CocoFile, least: float) -> CocoFile:
    """The masks of a file that are shown by default."""
    return replace(
        found,
        annotations={
            key: tuple(one for one in several if one.score >= least)
            for key, several in found.annotations.items()
        },
    )


def _learn(
    images: Sequence[ImageRef],
    taught: CocoFile,
    model: Path,
    start: Path,
    config: Config,
    options: Mapping[str, Any],
) -> bool:
    """Writes the model of a judge that masks taught; False if no image has a region."""
    judge = judge_of(images, taught, seed=config.seed)
    if judge is None:
        return False
    save_judged(model, start, judge, config, options, taught.categories)
    return True
