"""Starts `soloist` commands as processes of their own, without importing torch for each.

Run by `processes.py`; talks JSON, a line a message. It imports everything once and forks: each
command is a whole process that can be killed, and ends through the interpreter's own shutdown.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PRELOADED = (
    "accelerate",
    "soloist.api",
    "soloist.cli",
    "soloist.evaluation.explore.groups",
    "soloist.training.experiments.demo",
    "soloist.training.dry_run",
    "soloist.report.run",
    "soloist.inference.segmenter",
    "soloist.training.self_training",
    "soloist.training.pretrain",
    "timm",
)
EXTRAS = ("pyarrow.parquet", "sklearn.cluster", "sklearn.metrics")


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    for name in EXTRAS:
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(**request["start"]) if "start" in request else ended(request["wait"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def start(arguments: list[str], out: str, err: str, inject: dict[str, Any]) -> int:
    """Process id of a command that has begun."""
    pid = os.fork()
    if pid:
        return pid
    # Its own group: what it leaves behind can be found.
    os.setsid()
    for descriptor, path in enumerate((os.devnull, out, err)):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        file = os.open(path, flags, 0o666)
        os.dup2(file, descriptor)
        os.close(file)
    for name, value in inject.items():
        INJECTIONS[name](value)
    from soloist.cli import main as command

    sys.argv = ["soloist", *arguments]
    command()
    raise AssertionError("a command exits")


def ended(pid: int) -> int:
    """Waits for a process and gives its exit code; negative is the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def limit_files(size: int) -> None:
    """No file may grow beyond this size: a disk that is full for large files only."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def break_losses(steps: list[int]) -> None:
    """The semantic loss of these steps is not a number."""
    from soloist.training import train

    original = train.batch_losses

    def broken(*arguments: Any) -> Any:
        losses = original(*arguments)
        if arguments[-1] in steps:
            losses["loss_semantic"] = losses["loss_semantic"] * float("nan")
        return losses

    train.batch_losses = broken  # type: ignore[assignment]  # a stand-in


def ask_to_stop(where: str) -> None:
    """The command gets SIGTERM when it calls a function, `module:name` or `module:class.name`."""
    module, _, name = where.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, last)

    def asked(*arguments: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **more)

    setattr(owner, last, asked)


INJECTIONS: dict[str, Callable[[Any], None]] = {
    "limit_files": limit_files,
    "break_losses": break_losses,
    "ask_to_stop": ask_to_stop,
}

if __name__ == "__main__":
    main()
