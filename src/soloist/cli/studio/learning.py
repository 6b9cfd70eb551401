"""Learning from corrections: `soloist finetune` on the labels, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from soloist.errors import RunError
from soloist.training.run_folder import read_metrics

PATIENCE = 10.0
"""Seconds that a training which is ended has to end by itself."""


@dataclass(frozen=True)
class Progress:
    """How far the training is.

    Attributes:
        state: What it does.
        line: The last that it said.
        step: Steps that are done.
        images: Finished images that it learns from.
    """

    state: Literal["none", "running", "done", "failed", "stopped"] = "none"
    line: str = ""
    step: int = 0
    images: int = 0

    def to_json(self) -> dict[str, Any]:
        """The same for the page."""
        return asdict(self)


class Learning:
    """One training at a time, beside the page.

    Args:
        on_done: Called with the run folder of a training that succeeded, in a thread.
    """

    def __init__(self, on_done: Callable[[Path], None]) -> None:
        self._on_done = on_done
        self._lock = threading.Lock()
        self._progress = Progress()
        self._process: subprocess.Popen[str] | None = None
        self._run: Path | None = None
        self._thread: threading.Thread | None = None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        progress, run = self._progress, self._run
        if progress.state == "running" and run is not None:
            file = run / "metrics.jsonl"
            rows = read_metrics(file) if file.is_file() else []
            return replace(progress, step=int(rows[-1].get("step", 0)) if rows else 0)
        return progress

    def start(self, arguments: Sequence[str], run: Path, images: int) -> None:
        """Starts a training.

        Args:
            arguments: Of `soloist finetune`.
            run: The run folder that they name.
            images: How many it learns from.

        Raises:
            RunError: If one is running.
        """
        with self._lock:
            if self._progress.state == "running":
                raise RunError("a training is running; wait until it is done, or stop it")
            self._run = run
            self._progress = Progress("running", "starts", images=images)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "soloist", "finetune", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self._thread = threading.Thread(target=self._follow, args=(self._process, run))
            self._thread.start()

    def stop(self) -> None:
        """Ends a training that is running, and waits for its end."""
        process, thread = self._process, self._thread
        if process is not None and process.poll() is None:
            self._progress = replace(self._progress, state="stopped")
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _follow(self, process: subprocess.Popen[str], run: Path) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip():
                self._progress = replace(self._progress, line=line.strip())
        status = process.wait()
        if self._progress.state == "stopped":
            return
        if status != 0:
            self._progress = replace(self._progress, state="failed")
            return
        try:
            self._on_done(run)
        except ValueError as error:
            self._progress = replace(self._progress, state="failed", line=str(error))
        else:
            self._progress = replace(self._progress, state="done")
