"""A run's folder: settings, log, metrics, checkpoints; resumed by the same command."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

from soloist.config import Config
from soloist.config.presets import differences, load_config_file
from soloist.data.inputs import Changes, changes_between, states_of
from soloist.data.sources import ImageRef
from soloist.errors import RunError
from soloist.runtime.distributed import is_main, on_main
from soloist.runtime.environment import environment
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.files import (
    appending,
    cannot_write,
    is_leftover,
    remove_leftovers,
    shown,
    write_json,
    write_text,
)
from soloist.runtime.lock import Lock

STATE = "state.json"
VERDICT = "verdict"
"""Key of the state: which of several models was kept, and why."""
LOCK = ".lock"
IMAGES = "images.json"
# What a run has before anything is made.
_BARE = {
    STATE,
    LOCK,
    IMAGES,
    "config.yaml",
    "environment.json",
    "run.log",
    "errors.jsonl",
    "checkpoints",
    "labelled_images.txt",
}

logger = logging.getLogger(__name__)


class RunFolder:
    """The folder of one run; made by `open_run`. As a context it is closed at the end.

    Of several processes the main one alone writes into it.

    Args:
        path: The folder.
        lock: What keeps other commands out until it is closed.
        names: Of the images it began with; None where it is not known.
    """

    def __init__(
        self, path: Path, lock: Lock | None = None, names: frozenset[str] | None = None
    ) -> None:
        self.path = path
        self._names = names
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.errors = ErrorLog(path / "errors.jsonl" if is_main() else None)
        self._lock = lock
        self._handler: logging.Handler | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def state(self) -> dict[str, Any]:
        """What is known about the run: command, whether it is finished, plans."""
        content: dict[str, Any] = json.loads((self.path / STATE).read_text(encoding="utf-8"))
        return content

    def update_state(self, **values: object) -> None:
        """Adds to the run's state, whole or not at all."""
        if is_main():
            write_json(self.path / STATE, {**self.state, **values})

    def own(self, images: Sequence[ImageRef]) -> list[ImageRef]:
        """Those of the images that the run began with: a resumed one learns from no others."""
        return [one for one in images if self._names is None or one.name in self._names]

    @contextmanager
    def timed(self, stage: str, *, done: bool = False) -> Iterator[None]:
        """Records the time of a stage in the run's state; a finished one keeps its time."""
        start = time.monotonic()
        yield
        if not done:
            on_main(partial(self._add_time, stage, time.monotonic() - start))

    def _add_time(self, stage: str, seconds: float) -> None:
        self.update_state(timing={**self.state.get("timing", {}), stage: seconds})

    def finish(self) -> None:
        """Marks the run as done: from now on it is refused unless overwritten."""
        self.update_state(finished=True)
        self.close()

    def close(self) -> None:
        """Stops writing to run.log, and lets others have the folder."""
        if self._handler is not None:
            logging.getLogger("soloist").removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def start_log(self) -> None:
        """Copies all log lines into run.log."""
        if not is_main():
            return
        path = self.path / "run.log"
        with appending(path):
            self._handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("soloist").addHandler(self._handler)


class _LogFile(logging.FileHandler):
    """A log that a full disk ends, but not the work: that has its own files to fail with."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Stops writing, and says so once."""
        logging.getLogger("soloist").removeHandler(self)
        logger.warning("%s cannot be written any more", shown(self.baseFilename))

    def close(self) -> None:
        """Ends the file; lines that found no room are lost, which was said."""
        with suppress(OSError):
            super().close()


def open_run(
    path: Path,
    *,
    command: str,
    inputs: Mapping[str, str],
    config: Config,
    overwrite: bool,
    images: Sequence[ImageRef] = (),
    labels_file: Path | None = None,
) -> RunFolder:
    """Makes a run folder, or opens the unfinished one that the same command left.

    A run that was stopped before it made anything is no obstacle: it is begun anew. A resumed one
    keeps to the images it began with; how those that are there now differ is logged.

    Args:
        path: The folder.
        command: The verb, such as `train`.
        inputs: What the command reads, as the user named it.
        config: The resolved options.
        overwrite: Throw away a run that is there.
        images: What it learns from.
        labels_file: The file of masks or true labels it learns from.

    Raises:
        RunError: If the folder holds a finished run, a run of another command, options or labels,
            or files that are not a run's.
    """
    locks: list[Lock] = []
    given = _Given(command, inputs, config, images, labels_file)

    def prepare() -> None:
        _check_place(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot make {path} ({error.strerror}); choose another --out"
            ) from error
        lock = Lock(path / LOCK, path)
        with ExitStack() as refused:
            refused.callback(lock.release)
            _prepare(path, given, overwrite=overwrite)
            refused.pop_all()
        locks.append(lock)

    on_main(prepare)
    names = on_main(partial(_names, path))
    run = RunFolder(path, locks[0] if locks else None, names)
    try:
        on_main(run.start_log)
    except RunError:
        run.close()
        raise
    return run


def _check_place(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunError(f"--out must be a folder, {path} is a file; choose another")
    if not path.is_dir() or (path / STATE).is_file():
        return
    names = {file.name for file in path.iterdir() if not is_leftover(file)}
    # A run killed before it had its state left its lock.
    if names and not (LOCK in names and names <= _BARE):
        raise RunError(f"{path} holds files that are not a soloist run; choose another --out")


class _Given(NamedTuple):
    """What a command gives its run."""

    command: str
    inputs: Mapping[str, str]
    config: Config
    images: Sequence[ImageRef]
    labels_file: Path | None


def _prepare(path: Path, given: _Given, *, overwrite: bool) -> None:
    remove_leftovers(path)
    is_run = (path / STATE).is_file()
    if is_run and (overwrite or _is_bare(path)):
        _empty(path)
        is_run = False
    run = RunFolder(path)
    if is_run:
        changes = _image_changes(path, given.images)
        _check_same(run, given, changes)
        logger.info("resuming %s", path)
        if changes:
            logger.warning(
                "%s: since the run began, of its images %s; it resumes with the images it began "
                "with, as far as they are there; --overwrite starts over with all",
                path,
                changes,
            )
    else:
        _create(run, given)


def _image_changes(path: Path, images: Sequence[ImageRef]) -> Changes | None:
    """How images differ from those a run began with; None where that is not known."""
    if not (path / IMAGES).is_file() or not images:
        return None
    before = json.loads((path / IMAGES).read_text(encoding="utf-8"))["images"]
    states = {name: state and (state[0], state[1]) for name, state in before.items()}
    # What never was there, as lists may name it, has not vanished.
    return changes_between(
        {name: state for name, state in states.items() if state}, states_of(images)
    )


def _names(path: Path) -> frozenset[str] | None:
    if not (path / IMAGES).is_file():
        return None
    return frozenset(json.loads((path / IMAGES).read_text(encoding="utf-8"))["images"])


def _empty(path: Path) -> None:
    """Removes a run, its state last: a folder without state is no run and is never touched."""
    files = sorted(path.iterdir(), key=lambda file: file.name == STATE)
    for file in files:
        try:
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif file.name != LOCK:
                file.unlink()
        except OSError as error:
            raise cannot_write(file, error) from error


def _create(run: RunFolder, given: _Given) -> None:
    try:
        with appending(run.checkpoints):
            run.checkpoints.mkdir(exist_ok=True)
        options = yaml.safe_dump(_plain(asdict(given.config)), sort_keys=False)
        write_text(run.path / "config.yaml", options)
        write_json(run.path / "environment.json", environment())
        if given.images:
            record = {"images": states_of(given.images), "labels": _digest(given.labels_file)}
            write_json(run.path / IMAGES, record)
        # Last: its presence says that the folder is a run's.
        state = {"command": given.command, "inputs": dict(given.inputs), "finished": False}
        write_json(run.path / STATE, state)
    except RunError:
        # A part of it would block the next try.
        _empty(run.path)
        raise


def _digest(file: Path | None) -> str | None:
    """What tells the content of a file from others; None if it is none."""
    if file is None or not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_bare(path: Path) -> bool:
    """Whether a run was stopped, by a mistake as a rule, before it made anything worth keeping."""
    names = {file.name for file in path.iterdir()}
    empty = names <= _BARE and not any((path / "checkpoints").glob("*"))
    return empty and not RunFolder(path).state["finished"]


def _check_same(run: RunFolder, given: _Given, changes: Changes | None) -> None:
    state, inputs = run.state, given.inputs
    if state["finished"]:
        since = f"; since then, of its images {changes}" if changes else ""
        raise RunError(
            f"{run.path} holds a finished `{state['command']}` run{since}; "
            "add --overwrite to replace it, or choose another --out"
        )
    changed = differences(load_config_file(run.path / "config.yaml"), given.config)
    if state["command"] != given.command:
        changed.insert(0, f"command {state['command']} -> {given.command}")
    for name in {**state["inputs"], **inputs}:
        old, new = state["inputs"].get(name), inputs.get(name)
        if old != new:
            changed.insert(0, f"{name} {old} -> {new}")
    if given.labels_file is not None and (run.path / IMAGES).is_file():
        record = json.loads((run.path / IMAGES).read_text(encoding="utf-8"))
        if record["labels"] != _digest(given.labels_file):
            changed.insert(0, f"{shown(given.labels_file)} was changed since it began")
    if changed:
        raise RunError(
            f"{run.path} holds an unfinished run with other settings ({'; '.join(changed[:3])}); "
            "run its command again to resume, or add --overwrite"
        )


def _plain(value: Any) -> Any:
    """Tuples as lists, so that YAML stays free of Python tags."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class Metrics:
    """metrics.jsonl: one JSON object a line, in order of rounds and steps also across resumes.

    Of several processes the main one alone writes it.
    """

    def __init__(self, path: Path, *, resume_step: int, round_number: int = 0) -> None:
        """Opens the file and drops lines later than the checkpoint a run resumes from."""
        self._path = path
        self._round = round_number
        if not is_main():
            return
        resume = (round_number, resume_step)
        kept = [row for row in read_metrics(path) if (row["round"], row["step"]) <= resume]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: Mapping[str, float]) -> None:
        """Appends one line."""
        if not is_main():
            return
        with appending(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"round": self._round, **row}) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics file; a line cut short by a kill is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                logger.warning("%s: left out a line cut short: %.40s", path.name, line)
    return rows
