"""What the verbs share: doing what was planned, telling how it went, durations, exit codes."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from soloist.errors import ConfigError
from soloist.runtime.launch import launched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soloist.api.labelled_sets import LabelledSet
    from soloist.api.learning import Learned
    from soloist.api.plans import Plan
    from soloist.cli.arguments import Shown

Made = TypeVar("Made")

DONE, SOME_FAILED, USER_ERROR = 0, 1, 2

logger = logging.getLogger("soloist")


def parse_duration(text: str) -> float:
    """Seconds of `90m`, `1h`, `1h30m` or `45s`.

    Raises:
        ConfigError: If the text is no duration.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+)s)?", text.strip())
    if not text.strip() or match is None:
        raise ConfigError(f"--budget must be a time such as 90m, 1h or 1h30m, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def folder_for(images: list[str], model: str | None, *, overwrite: bool, reuse: bool) -> Path:
    """Where predictions go without --out: `runs/predict/` and the name of the first source.

    Where other predictions are already, the name gets a number. What the same command began, or
    with `reuse` finished, is resumed.

    Args:
        images: The sources.
        model: As for `predict`.
        overwrite: Take the folder without a number, whatever is in it.
        reuse: A file that the same command finished is no obstacle.
    """
    from soloist.data.coco.partial import head_path, is_finished
    from soloist.data.coco.read import read_json
    from soloist.data.web import address_name, is_address

    first = images[0]
    if is_address(first):
        first = address_name(first)
    plain = [part for part in Path(first).absolute().parts if not re.search(r"[*?\[]", part)]
    name = Path(plain[-1]).stem or "images"
    for number in count(1):
        folder = Path("runs", "predict", name if number == 1 else f"{name}-{number}")
        file = folder / "masks.json"
        begun = head_path(file)
        if overwrite or not folder.exists():
            return folder
        if is_finished(file):
            made = read_json(file).get("info", {}) if reuse else {}
        else:
            made = read_json(begun) if begun.is_file() else None
        ours = {"images": images, "model": model or "bundled"}
        if made is None or ours.items() <= made.items():
            return folder
    raise AssertionError("there is always another number")


def carry_out(command: str, out: Path, plan: Plan[Made], *, dry_run: bool) -> Made | None:
    """Does what a plan says, while signals stop it; None if it only printed the plan.

    Args:
        command: The verb.
        out: What it writes.
        plan: What it does.
        dry_run: Print the plan instead.
    """
    from soloist.runtime.stopping import listening

    if dry_run:
        lines = [f"dry run of {command}: nothing is written to {out}", *plan.lines()]
        sys.stdout.write("\n".join(lines) + "\n")
        return None
    with listening():
        return plan.run()


def teach(
    command: str,
    out: Path,
    plan: Plan[Learned],
    *,
    dry_run: bool,
    title: str = "class-agnostic, percent",
) -> int:
    """Does what a plan of a run says, and tells how it went; see `carry_out`."""
    learned = carry_out(command, out, plan, dry_run=dry_run)
    return DONE if learned is None else finish(learned, title=title)


def finish(learned: Learned, *, title: str = "class-agnostic, percent") -> int:
    """Tells how a run went: figures, page, images that failed.

    Args:
        learned: The run.
        title: Of its table of figures.

    Returns:
        The exit code.
    """
    from soloist.report.run import print_results

    print_results(learned.metrics, title=title)
    if launched().rank == 0 and learned.report.is_file():
        sys.stdout.write(f"report: {learned.report}\n")
    status = failures_status(learned.failed, learned.errors)
    if learned.warning is None:
        return status
    logger.warning("done, but %s", learned.warning)
    return SOME_FAILED


def failures_status(count: int, path: Path | None) -> int:
    """The exit code, and a warning if images failed."""
    if count == 0:
        return DONE
    logger.warning("%d images failed; they are listed in %s", count, path)
    return SOME_FAILED


def show(title: str, made: LabelledSet, shown: Shown, remedy: str) -> int:
    """Tells what a labelling found, and prints where it is.

    Args:
        title: The verb.
        made: What it made.
        shown: What people and scripts see beside the file.
        remedy: What helps where nothing is found.

    Returns:
        The exit code.
    """
    from soloist.api.labelled_sets import MAX_IMAGES_IN_ONE_FILE

    status = failures_status(made.failed, made.errors)
    if launched().rank != 0:
        return status
    noted = made.summary is not None and made.summary.scores is not None
    # A file of more is not read again.
    if noted or 0 < len(made.images) <= MAX_IMAGES_IN_ONE_FILE:
        status = max(status, _tell_found(title, made, shown.overlays is not None, remedy))
    elif made.summary is not None and made.summary.instances == 0:
        status = _found_nothing(title, remedy)
    if shown.json:
        paths = {one.name: one.path for one in made.images}
        sys.stdout.writelines(_json_lines(made.out, paths, made.errors))
    else:
        written = (made.out, shown.overlays, shown.overlay_video)
        sys.stdout.write("".join(f"{one}\n" for one in written if one is not None))
    return status


def _tell_found(title: str, made: LabelledSet, drawn: bool, remedy: str) -> int:
    """Says how many masks of a file are shown, and what to do where there is none.

    Returns:
        The exit code.
    """
    scores = _scores_of(made)
    if len(scores) == 0:
        return _found_nothing(title, remedy)
    # A float32 that was written as 0.3 is not less than 0.3.
    good = int((scores >= scores.dtype.type(made.score)).sum())
    if good == 0:
        logger.warning(
            "%s: none of the %d masks has the score %g that is shown, the best has %.2f; "
            "--min-score %.2g shows it; %s",
            title,
            len(scores),
            made.score,
            scores.max(),
            scores.max() * 0.9,
            remedy,
        )
        return SOME_FAILED
    if made.score > 0:
        logger.info(
            "%s: %d masks of score %g or more%s; %s has all %d",
            title,
            good,
            made.score,
            " are drawn" if drawn else "",
            made.out.name,
            len(scores),
        )
    return DONE


def _scores_of(made: LabelledSet) -> NDArray[np.float32]:
    """(N,) scores of the masks of a file, which is read if they were not noted."""
    if made.summary is not None and made.summary.scores is not None:
        return made.summary.scores
    import numpy as np

    from soloist.data.coco.read import load_coco

    file = load_coco(made.out)
    found = [one.score for several in file.annotations.values() for one in several]
    return np.array(found, dtype=np.float32)


def _found_nothing(title: str, remedy: str) -> int:
    logger.warning("%s: done, but nothing was found; %s", title, remedy)
    return SOME_FAILED


def _json_lines(out: Path, paths: Mapping[str, Path], errors: Path | None) -> Iterator[str]:
    """A line of JSON for each image of a COCO file, then for each image that failed."""
    from soloist.data.coco.read import load_coco
    from soloist.runtime.error_log import read_errors

    file = load_coco(out)
    for image in file.images:
        objects = [
            {
                "id": one.id,
                "category": file.categories.get(one.category_id),
                "score": one.score,
                "box_xywh": one.box_xywh,
                "area": one.area,
                "mask": one.segmentation,
            }
            for one in file.annotations[image.id]
        ]
        path = paths.get(image.file_name)
        head = {"image": image.file_name, "path": None if path is None else path.as_posix()}
        size = {"height": image.height, "width": image.width}
        yield json.dumps({**head, **size, "objects": objects}) + "\n"
    for entry in [] if errors is None else read_errors(errors):
        yield json.dumps({"image": entry["image"], "error": entry["error"]}) + "\n"
