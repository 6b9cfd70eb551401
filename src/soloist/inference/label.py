"""Labels a list of images one by one into a COCO file: the loop of `masks` and of `predict`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.data.coco.partial import PartialShards, is_finished
from soloist.data.coco.read import read_json
from soloist.data.coco.shard_rows import ShardRow, facts_of_all, write_shards
from soloist.data.coco.types import CATEGORIES, CocoImage
from soloist.data.coco.write import embeddings_path, instances_to_annotations
from soloist.data.georeference import read_georeference
from soloist.data.images import image_size, read_with_size
from soloist.data.inputs import Changes, FileState, changes_between, state_of, states_of
from soloist.data.sources import ImageRef, spread
from soloist.errors import DataError, RunError
from soloist.runtime.device import threads
from soloist.runtime.distributed import gather, is_main, on_main, processes, rank, run_on_all_ranks
from soloist.runtime.error_log import ErrorLog, read_errors
from soloist.runtime.files import one_line, plain_json, shown
from soloist.runtime.lock import locked_output
from soloist.runtime.progress import Tracker, duration, track
from soloist.runtime.stopping import stop_if_asked
from soloist.runtime.workers import done_ahead, helpers, lost_workers_told
from soloist.structures import Instances

logger = logging.getLogger(__name__)

# Images decoded ahead of the one in work; of those that are never reduced, which may be large, one.
LOOKAHEAD = 4
LOOKAHEAD_WHOLE = 1
# The same for each of several processes.
READ_AHEAD = 2
MEASURED = 8
"""Images whose sizes tell what memory a process takes."""
HELPER_BYTES, BYTES_PER_PIXEL = 2e8, 40.0
"""That memory, in bytes; the latter for pixels of the file."""

Objects = Instances[Tensor, Any]
"""Objects of an image; the masks of a large one are encoded."""
Labeler = Callable[[NDArray[np.uint8], tuple[int, int]], Objects]
"""Pixels (H', W', 3), perhaps decoded at reduced size, and the full (H, W) to instances."""


@runtime_checkable
class SplitLabeler(Protocol):
    """A labeler most of whose work other processes can do."""

    @property
    def prepares(self) -> bool:
        """Whether they can, by its options."""
        ...

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int], /) -> Objects:
        """Both parts at once."""
        ...

    def prepare(self, pixels: NDArray[np.uint8], size: tuple[int, int], /) -> Any:
        """The part that they do, without any accelerator; what it gives can be pickled."""
        ...

    def finish(self, pixels: NDArray[np.uint8], prepared: Any, /) -> Objects:
        """The part that is left."""
        ...


Existing = Literal["refuse", "replace", "keep"]
"""What becomes of a file that is finished."""
OnResult = Callable[[ImageRef, NDArray[np.uint8], Objects], None]
"""Called with each image, its pixels and its instances, by the process that labels it."""


class Labelled(NamedTuple):
    """What was found on an image.

    Attributes:
        pixels: (H', W', 3) uint8 RGB, perhaps reduced.
        size: (height, width) of the file, which masks refer to.
        instances: The objects.
        file_state: Of the file, before it was read.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    instances: Objects
    file_state: FileState | None


@dataclass(frozen=True)
class LabelSummary:
    """What a pass over images gave.

    Attributes:
        images: Images in the file.
        instances: Objects on them.
        failed: Images that could not be read, those of earlier runs of the file included.
        seconds: Time of this run.
    """

    images: int
    instances: int
    failed: int
    seconds: float


def label_images(
    images: Sequence[ImageRef],
    labeler: Labeler,
    out: Path,
    *,
    title: str,
    short_side: int | None,
    settings: Mapping[str, Any],
    errors: ErrorLog,
    categories: Mapping[int, str] = CATEGORIES,
    existing: Existing = "refuse",
    on_result: OnResult | None = None,
) -> LabelSummary:
    """Labels images into a COCO file, continuing what a killed run left.

    Several processes share the images; the file is the same for any number of them.

    Args:
        images: The images.
        labeler: Gives the instances of one image.
        out: The COCO file.
        title: What the progress bar says.
        short_side: JPEGs may be decoded at reduced size down to this short side, in pixels; None
            decodes them whole.
        settings: What the result depends on; part of the file's `info`.
        errors: Where unreadable images are listed.
        categories: Names of the labeler's classes by category id, in the order of its labels.
        existing: What becomes of a finished file: `refuse` ends, `replace` replaces it, `keep`
            takes from one of the same settings what it has of images that are the files they were.
        on_result: Called with what was found on each image.

    Raises:
        RunError: If the file exists and is not to be replaced, or cannot be written.
        DataError: If none of the images can be read.
        StoppedError: If the process was asked to stop; what is finished is kept.
    """
    on_main(partial(check_output, out, overwrite=existing != "refuse"))
    shards = PartialShards(out, images)
    on_main(lambda: shards.open(settings))
    if existing == "keep" and on_main(lambda: is_made(out, settings)):
        on_main(lambda: shards.adopt(out))
    left = on_main(shards.missing)
    count_left = sum(len(shards.entries(shard)) for shard in left)
    own = left[rank() :: processes()]
    own_images = [image for shard in own for image in shards.entries(shard)]
    failures: list[tuple[str, str]] = []
    start = time.monotonic()

    def noted(tracker: Tracker) -> Iterator[ShardRow]:
        found = 0
        rows = labelled_rows(
            own_images, labeler, short_side, categories=categories, on_result=on_result
        )
        for count, row in enumerate(rows, 1):
            if row.error is not None:
                failures.append((row.file_name, row.error))
                errors.add(row.file_name, title, row.error)
            found += len(row.annotations)
            # The others are about as far.
            advanced = min(processes(), count_left - (count - 1) * processes())
            tracker.advance(advanced, note=f"{found} masks")
            yield row

    def label_share() -> None:
        with track(title, len(images), done=len(images) - count_left) as tracker:
            rows = noted(tracker)
            for shard in own:
                shards.write(shard, list(islice(rows, len(shards.entries(shard)))))
                stop_if_asked()

    run_on_all_ranks(label_share)
    failed = gather(failures)
    for name, reason in failed:
        errors.add(name, title, reason)

    def finish() -> LabelSummary:
        numbers = shards.finished()
        facts = facts_of_all(shards, numbers)
        if facts.images == 0:
            raise DataError(
                f"none of the {len(images)} images could be read; see {errors.path or 'the log'}"
            )
        seconds = time.monotonic() - start
        info = plain_json(settings)
        write_shards(out, shards, numbers, facts, info=info, categories=categories)
        shards.remove()
        return LabelSummary(facts.images, facts.instances, len(failed), seconds)

    return on_main(finish)


def report_labels(what: str, summary: LabelSummary) -> None:
    """Logs what a pass over images gave."""
    logger.info(
        "%s: %d on %d images (%.1f an image) in %s, %d images failed",
        what,
        summary.instances,
        summary.images,
        summary.instances / max(summary.images, 1),
        duration(summary.seconds),
        summary.failed,
    )


def each_labelled(
    images: Sequence[ImageRef], labeler: Labeler, short_side: int | None
) -> Iterator[tuple[ImageRef, Labelled | DataError]]:
    """Each image with what was found on it, or why it could not be read.

    Raises:
        RunError: If a process that helps with it died.
    """
    splits = isinstance(labeler, SplitLabeler) and labeler.prepares
    workers = helpers(len(images), _bytes_needed(images)) if splits else 0
    if workers:
        assert isinstance(labeler, SplitLabeler)
        yield from _prepared_ahead(images, labeler, short_side, workers)
        return
    for image, decoded in _decode_ahead(images, short_side):
        try:
            pixels, size, state = decoded.result()
        except DataError as error:
            yield image, error
        else:
            yield image, Labelled(pixels, size, labeler(pixels, size), state)


def _prepared_ahead(
    images: Sequence[ImageRef], labeler: SplitLabeler, short_side: int | None, workers: int
) -> Iterator[tuple[ImageRef, Labelled | DataError]]:
    """The same by other processes: each reads images and does its part of the labeler's work."""

    def prepared(number: int) -> tuple[_Decoded | DataError, Any]:
        try:
            found = _read(images[number], short_side)
        except DataError as error:
            return error, None
        return found, labeler.prepare(found.pixels, found.size)

    told = lost_workers_told("looks at images", "goes on with what is left", RunError)
    with told, threads(max(1, torch.get_num_threads() - workers)):
        ahead = done_ahead(
            prepared, end=len(images), workers=workers, ahead=READ_AHEAD, tensors=False
        )
        for image, (decoded, part) in zip(images, ahead, strict=True):
            if isinstance(decoded, DataError):
                yield image, decoded
                continue
            pixels, size, state = decoded
            yield image, Labelled(pixels, size, labeler.finish(pixels, part), state)


def _bytes_needed(images: Sequence[ImageRef]) -> float:
    """Memory that a helper takes for one of the larger images, by some of them."""
    pixels = 0
    for image in spread(images, MEASURED):
        # Whoever reads it tells of it.
        with suppress(DataError):
            height, width = image_size(image.path)
            pixels = max(pixels, height * width)
    return HELPER_BYTES + BYTES_PER_PIXEL * pixels


def labelled_rows(
    images: Sequence[ImageRef],
    labeler: Labeler,
    short_side: int | None,
    *,
    categories: Mapping[int, str],
    on_result: OnResult | None,
) -> Iterator[ShardRow]:
    """What becomes of each image, all of which have an id; arguments as in `label_images`."""
    for image, found in each_labelled(images, labeler, short_side):
        if isinstance(found, DataError):
            reason = one_line(found)
            yield ShardRow(image.name, None, (), np.zeros((0, 0), np.float32), reason)
            continue
        # First: an image that is in a shard is not done again.
        if on_result is not None:
            on_result(image, found.pixels, found.instances)
        assert image.id is not None
        entry = CocoImage(
            image.id,
            image.name,
            *found.size,
            read_georeference(image.path),
            file_state=found.file_state,
        )
        yield row_of(entry, found.instances, categories)


def row_of(
    image: CocoImage,
    instances: Objects,
    categories: Mapping[int, str],
) -> ShardRow:
    """The objects of an image as shards keep them; see `instances_to_annotations`."""
    return ShardRow(
        image.file_name,
        image,
        instances_to_annotations(instances, image.id, 1, categories),
        instances.embeddings.detach().cpu().numpy().astype(np.float32),
    )


@contextmanager
def opened_output(out: Path, *, overwrite: bool) -> Iterator[ErrorLog]:
    """Keeps an output file to this command, and its account of failures; see `errors_beside`.

    Raises:
        RunError: If another command is writing it, or as `errors_beside`.
    """
    on_main(partial(check_output, out, overwrite=overwrite))
    with locked_output(out, sidecars=[embeddings_path(out)]):
        yield errors_beside(out, overwrite=overwrite)


def errors_beside(out: Path, *, overwrite: bool) -> ErrorLog:
    """The account of the images that fail on the way to an output file, `<stem>.errors.jsonl`.

    It starts anew: what failed in a run that was killed, or in one that is replaced, is tried
    again.

    Raises:
        RunError: If the output cannot be written, or exists and is not to be replaced.
    """

    def start_anew() -> Path:
        check_output(out, overwrite=overwrite)
        path = errors_path(out)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write beside {shown(out)} ({error.strerror}); choose another --out"
            ) from error
        return path

    path = on_main(start_anew)
    return ErrorLog(path if is_main() else None)


def errors_path(out: Path) -> Path:
    """The account of failures beside an output file."""
    return out.with_name(f"{out.stem}.errors.jsonl")


def is_made(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether an output file is finished and was made with these settings."""

    def look() -> bool:
        if not out.is_file() or not is_finished(out):
            return False
        try:
            content = read_json(out)
        except DataError:  # Somebody else's file.
            return False
        info = content.get("info") if isinstance(content, dict) else None
        return isinstance(info, dict) and plain_json(settings).items() <= info.items()

    return on_main(look)


def refuse_other(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Checks that a file may be written, or goes on with what a command of these settings made.

    Args:
        out: The file.
        settings: Those that are known so far.
        overwrite: Whether it may be replaced.

    Raises:
        RunError: As `check_output`.
    """
    check_output(out, overwrite=overwrite or is_made(out, settings))


def changes_since(out: Path, images: Sequence[ImageRef]) -> Changes:
    """How the images differ from those a finished file was made of.

    Args:
        out: The file.
        images: The images there are now.
    """

    def look() -> Changes:
        content = read_json(out)
        made = out.stat().st_mtime_ns // 1000
        now = states_of(images)
        before: dict[str, FileState | None] = {
            record["file_name"]: tuple(record["file_state"]) if "file_state" in record else None
            for record in content["images"]
        }
        for entry in read_errors(errors_path(out)):
            state = now.get(entry["image"])
            # Of images that failed nothing is kept but when; what never was there is not gone.
            if state is not None:
                before[entry["image"]] = (0, 0) if state[1] > made else None
        return changes_between(before, now)

    return on_main(look)


def check_output(out: Path, *, overwrite: bool, example: str = "masks.json") -> None:
    """Checks that a file may be written.

    Args:
        out: The file.
        overwrite: Whether it may be replaced.
        example: What a file might be called, for the message.

    Raises:
        RunError: If it is a folder, or exists and is not to be replaced.
    """
    if out.is_dir():
        raise RunError(f"--out must be a file such as {example}, {shown(out)} is a folder")
    if is_finished(out) and not overwrite:
        raise RunError(f"{shown(out)} exists; add --overwrite to replace it, or choose another")


class _Decoded(NamedTuple):
    """Pixels, size and state of a file."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    state: FileState | None


def _read(image: ImageRef, short_side: int | None) -> _Decoded:
    # First: what changes while it is read is noticed by the next command.
    state = state_of(image.path)
    pixels, size = read_with_size(image.path, reading=image.reading, short_side=short_side)
    return _Decoded(pixels, size, state)


def _decode_ahead(
    images: Sequence[ImageRef], short_side: int | None
) -> Iterator[tuple[ImageRef, Future[_Decoded]]]:
    """Decodes in a thread while the caller works; Pillow frees the interpreter meanwhile."""
    ahead = LOOKAHEAD if short_side is not None else LOOKAHEAD_WHOLE
    with ThreadPoolExecutor(max_workers=1) as pool:
        rest = iter(images)
        waiting = [(image, pool.submit(_read, image, short_side)) for image in islice(rest, ahead)]
        while waiting:
            current = waiting.pop(0)
            for image in islice(rest, 1):
                waiting.append((image, pool.submit(_read, image, short_side)))
            yield current
