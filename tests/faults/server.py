"""Starts `soloist` commands as processes of their own, without importing torch for each.

Run by `processes.py`; talks JSON, a line a message. It imports everything once and forks: each
command is a whole process that can be killed, and ends through the interpreter's own shutdown.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PRELOADED = (
    "accelerate",
    "soloist.api",
    "soloist.cli",
    "soloist.evaluation.explore.groups",
    "soloist.training.experiments.demo",
    "soloist.api.dry_run",
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


def small_shared_memory(size: int) -> None:
    """The command has a /dev/shm of its own, of N bytes, as containers have; needs root."""
    system = ctypes.CDLL(None, use_errno=True)
    new_mounts, private = 0x0002_0000, 0x4_4000  # CLONE_NEWNS; MS_PRIVATE | MS_REC.
    options = f"size={size}".encode()
    for done in (
        system.unshare(new_mounts),
        system.mount(b"none", b"/", None, private, None),
        system.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options),
    ):
        if done != 0:
            raise OSError(ctypes.get_errno(), "no /dev/shm of its own")


def silent_workers(seconds: float) -> None:
    """Processes that prepare batches give none."""
    from soloist.runtime.workers import Work

    def silent(dataset: object, step: int) -> Any:
        time.sleep(seconds)

    Work.__getitem__ = silent  # type: ignore[method-assign]  # a stand-in


def close_pipes(descriptors: list[int]) -> None:
    """Nobody reads what the command writes there."""
    for descriptor in descriptors:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, descriptor)
        os.close(write)
    # Those of the server were made for something else.
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, os.fdopen(os.dup(descriptor), "w", encoding="utf-8", buffering=1))


INJECTIONS: dict[str, Callable[[Any], None]] = {
    "limit_files": limit_files,
    "break_losses": break_losses,
    "ask_to_stop": ask_to_stop,
    "small_shared_memory": small_shared_memory,
    "silent_workers": silent_workers,
    "close_pipes": close_pipes,
}

if __name__ == "__main__":
    main()
