"""Commands as processes that tests can kill, and what they left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from soloist.checkpoints.files import load_state

VERBS = ["pretrain", "masks", "train", "fit", "predict"]
RUNS = {"pretrain", "train", "fit"}
SOURCE = Path(__file__).parents[2] / "src"
# Above what a busy machine needs.
LONGEST_WAIT = 300.0


class Outcome(NamedTuple):
    """How a command ended; a negative status is the signal that ended it."""

    status: int
    out: str
    err: str

    @property
    def logged(self) -> str:
        """The one line a command ended with."""
        return self.err.splitlines()[-1] if self.err else ""


class Command:
    """A command that runs."""

    def __init__(self, server: Server, pid: int, folder: Path) -> None:
        self.pid = pid
        self._server = server
        self._folder = folder

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it is still there."""
        os.kill(self.pid, number)

    def wait(self) -> Outcome:
        """Waits for its end."""
        status = self._server.ask({"wait": self.pid})
        out, err = ((self._folder / name).read_text("utf-8", "replace") for name in ("out", "err"))
        return Outcome(status, out, err)

    def children(self) -> list[int]:
        """Its worker processes."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]


class Server:
    """Starts commands; see `server.py`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(SOURCE),
            # Workers of Ray stand back by default, and starve where a machine has other work.
            "RAY_worker_niceness": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        # It has imported everything once it answers.
        assert self.run("--version").status == 0

    def start(self, *arguments: str | Path, **inject: Any) -> Command:
        """Begins a command, with faults of `server.INJECTIONS`."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        request = {
            "arguments": [str(argument) for argument in arguments],
            "out": str(folder / "out"),
            "err": str(folder / "err"),
            "inject": inject,
        }
        return Command(self, self.ask({"start": request}), folder)

    def run(self, *arguments: str | Path, **inject: Any) -> Outcome:
        """Does a command from its start to its end."""
        return self.start(*arguments, **inject).wait()

    def ask(self, request: dict[str, Any]) -> int:
        """Sends a request and gives the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: int = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """Ends the server."""
        self._process.communicate()


def wait_for(happened: Callable[[], object]) -> None:
    """Waits for something another process does."""
    end = time.monotonic() + LONGEST_WAIT
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


# Times, machines, and pages that show them.
_DIFFERENT = {"run.log", "environment.json", "state.json", "report.html", "report.json"}


def result(out: Path) -> dict[str, bytes]:
    """What a finished command left at its --out, times left out, by the name of the file."""
    if out.is_dir():
        paths = [path for path in out.rglob("*") if path.is_file() and path.name not in _DIFFERENT]
    else:
        paths = [path for path in out.parent.rglob("*") if path.is_file()]
    base = out if out.is_dir() else out.parent
    return {str(path.relative_to(base)): _content(path) for path in sorted(paths)}


def _content(path: Path) -> bytes:
    """The bytes of a file, but for times and for how torch shares values in its files."""
    if path.suffix == ".pt":
        return b"".join(_values(load_state(path)))
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return json.dumps([{**row, "seconds_per_step": 0} for row in rows]).encode()
    return path.read_bytes()


def _values(value: Any) -> Iterator[bytes]:
    """Every value inside a checkpoint, with its place."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes()
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield f"{key}: ".encode()
            yield from _values(inner)
    else:
        yield repr(value).encode()


class Whole(NamedTuple):
    """An unbroken run.

    Attributes:
        result: What it left.
        seconds: How long it took.
    """

    result: Mapping[str, bytes]
    seconds: float


def out_of(folder: Path, verb: str) -> Path:
    """Where a verb writes: everything below the folder of it is its own."""
    return folder / verb if verb in RUNS else folder / verb / "out.json"


def command_of(verbs: Mapping[str, list[str]], folder: Path, verb: str) -> list[str]:
    out = out_of(folder, verb)
    more = [] if verb in RUNS else ["--overlays", str(out.parent / "overlays")]
    return [*verbs[verb], "--out", str(out), *more]


def is_done(out: Path) -> bool:
    """Whether nothing is left to do for a verb, however it ended."""
    if out.suffix == ".json":
        return out.is_file() and not list(out.parent.glob("out.partial*"))
    state = out / "state.json"
    return state.is_file() and bool(json.loads(state.read_text())["finished"])


def has_made_something(out: Path) -> bool:
    """Whether a verb that runs has something to lose."""
    if out.suffix == ".json":
        return any(out.parent.glob("out.partial/*.rows"))
    return any(out.glob("checkpoints/*.pt"))


def assert_finishes(
    server: Server, command: list[str], out: Path, whole: Whole, row: Any, status: int = 0
) -> Outcome:
    """The same command again finishes with the result of an unbroken run."""
    outcome = server.run(*command)
    row.lost += outcome.status != status
    assert outcome.status == status, outcome.err
    left = result(out)
    row.differing += left != whole.result
    assert left.keys() == whole.result.keys()
    assert [name for name in left if left[name] != whole.result[name]] == []
    return outcome


def logged_once(outcome: Outcome, *parts: str) -> bool:
    """Whether a command ended in one line that says so, and in no traceback."""
    own = [line for line in outcome.err.splitlines() if line.startswith("soloist: ")]
    clean = len(own) == 1 and "Traceback" not in outcome.err
    return clean and all(part in own[0] for part in parts)
