"""The file that images are labelled into: who may write it, what is in it, what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from soloist.data.coco.partial import is_finished
from soloist.data.coco.read import read_json
from soloist.data.coco.write import embeddings_path
from soloist.data.inputs import Changes, FileState, changes_between, states_of
from soloist.data.sources import ImageRef
from soloist.errors import DataError, RunError
from soloist.runtime.distributed import is_main, on_main
from soloist.runtime.error_log import ErrorLog, read_errors
from soloist.runtime.files import plain_json, shown
from soloist.runtime.lock import locked_output


@contextmanager
def opened_output(out: Path, *, overwrite: bool) -> Iterator[ErrorLog]:
    """Keeps an output file to this command, and its account of failures; see `errors_beside`.

    Raises:
        RunError: If another command is writing it, or as `errors_beside`.
    """
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
    return _made(out, settings) is not None


def _made(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is in a finished file of these settings; None if there is none."""
    if not out.is_file() or not is_finished(out):
        return None
    try:
        content = read_json(out)
    except DataError:  # Somebody else's file.
        return None
    info = content.get("info") if isinstance(content, dict) else None
    ours = isinstance(info, dict) and plain_json(settings).items() <= info.items()
    return content if ours else None


def refuse_other(out: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Checks that a file may be written, or continues with what a command of these settings made.

    Args:
        out: The file.
        settings: Those that are known so far.
        overwrite: Whether it may be replaced.

    Raises:
        RunError: As `check_output`.
    """
    check_output(out, overwrite=overwrite or is_made(out, settings))


def changes_since(
    out: Path, settings: Mapping[str, Any], images: Sequence[ImageRef]
) -> Changes | None:
    """How the images differ from those a finished file was made of.

    Args:
        out: The file.
        settings: What it depends on.
        images: The images there are now.

    Returns:
        The changes, perhaps none; None if there is no finished file of these settings.
    """

    def look() -> Changes | None:
        content = _made(out, settings)
        if content is None:
            return None
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
