"""A run's folder: settings, log, metrics, checkpoints; resumed by the same command."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import yaml

from soloist.config import Config
from soloist.config.presets import differences, load_config_file
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
LOCK = ".lock"
# What a run has before anything is made.
_BARE = {
    STATE,
    LOCK,
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
    """

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        self.path = path
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
    path: Path, *, command: str, inputs: Mapping[str, str], config: Config, overwrite: bool
) -> RunFolder:
    """Makes a run folder, or opens the unfinished one that the same command left.

    A run that was stopped before it made anything is no obstacle: it is begun anew.

    Args:
        path: The folder.
        command: The verb, such as `train`.
        inputs: What the command reads, as the user named it.
        config: The resolved options.
        overwrite: Throw away a run that is there.

    Raises:
        RunError: If the folder holds a finished run, a run of another command or options, or
            files that are not a run's.
    """
    locks: list[Lock] = []

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
            _prepare(path, command, inputs, config, overwrite=overwrite)
            refused.pop_all()
        locks.append(lock)

    on_main(prepare)
    run = RunFolder(path, locks[0] if locks else None)
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


def _prepare(
    path: Path, command: str, inputs: Mapping[str, str], config: Config, *, overwrite: bool
) -> None:
    remove_leftovers(path)
    is_run = (path / STATE).is_file()
    if is_run and (overwrite or _is_bare(path)):
        _empty(path)
        is_run = False
    run = RunFolder(path)
    if is_run:
        _check_same(run, command, inputs, config)
        logger.info("resuming %s", path)
    else:
        _create(run, command, inputs, config)


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


def _create(run: RunFolder, command: str, inputs: Mapping[str, str], config: Config) -> None:
    try:
        with appending(run.checkpoints):
            run.checkpoints.mkdir(exist_ok=True)
        options = yaml.safe_dump(_plain(asdict(config)), sort_keys=False)
        write_text(run.path / "config.yaml", options)
        write_json(run.path / "environment.json", environment())
        # Last: its presence says that the folder is a run's.
        state = {"command": command, "inputs": dict(inputs), "finished": False}
        write_json(run.path / STATE, state)
    except RunError:
        # A part of it would stand in the way of the next try.
        _empty(run.path)
        raise


def _is_bare(path: Path) -> bool:
    """Whether a run was stopped, by a mistake as a rule, before it made anything worth keeping."""
    names = {file.name for file in path.iterdir()}
    empty = names <= _BARE and not any((path / "checkpoints").glob("*"))
    return empty and not RunFolder(path).state["finished"]


def _check_same(run: RunFolder, command: str, inputs: Mapping[str, str], config: Config) -> None:
    state = run.state
    if state["finished"]:
        raise RunError(
            f"{run.path} holds a finished `{state['command']}` run; "
            "add --overwrite to replace it, or choose another --out"
        )
    changed = differences(load_config_file(run.path / "config.yaml"), config)
    if state["command"] != command:
        changed.insert(0, f"command {state['command']} -> {command}")
    for name in {**state["inputs"], **inputs}:
        old, new = state["inputs"].get(name), inputs.get(name)
        if old != new:
            changed.insert(0, f"{name} {old} -> {new}")
    if changed:
        raise RunError(
            f"{run.path} holds an unfinished run with other settings ({'; '.join(changed[:3])}); "
            "repeat its command to resume, or add --overwrite"
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
