"""The file of results: a line for each entry and set that was scored, with all that it was."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from soloist.errors import DataError
from soloist.runtime.files import appending, shown

ROOT = Path(__file__).parents[2]
CODE = ("src", "benchmarks", ":(exclude)benchmarks/results")
"""What changes of the code are looked for in: figures written down are none."""
PACKAGES = ("soloist", "torch", "numpy", "scikit-image", "pycocotools", "faster-coco-eval")
SAME = ("entry", "set", "commit", "changes", "options")
"""What makes two rows the same measurement."""

Row = Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file in its order; none where there is no file.

    Raises:
        DataError: If a line is no row.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not row.keys() >= set(SAME):
            raise DataError(
                f"wanted a row of results on each line of {shown(path)}, got none on line "
                f"{number}; remove it or name another file by --out"
            )
        rows.append(row)
    return rows


def append_row(path: Path, row: Row) -> None:
    """Writes a row at the end of a file.

    Raises:
        RunError: If it cannot be written.
    """
    with appending(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def find_row(rows: Sequence[Row], wanted: Row) -> Row | None:
    """The newest row of the same measurement."""
    same = (row for row in reversed(rows) if all(row[key] == wanted[key] for key in SAME))
    return next(same, None)


@cache
def code_version() -> dict[str, str]:
    """`commit`, with `+` where the code was changed since, and a digest of the `changes`."""
    commit = _git("rev-parse", "--short=12", "HEAD").strip()
    if not commit:
        return {"commit": "unknown", "changes": ""}
    changed = [
        *_git("diff", "--name-only", "-z", "HEAD", "--", *CODE).split("\0"),
        *_git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split("\0"),
    ]
    names = sorted({name for name in changed if name})
    if not names:
        return {"commit": commit, "changes": ""}
    summed = hashlib.sha256()
    for name in names:
        path = ROOT / name
        summed.update(name.encode() + b"\0")
        summed.update(path.read_bytes() if path.is_file() else b"removed")
    return {"commit": f"{commit}+", "changes": summed.hexdigest()[:12]}


def machine(threads: int) -> dict[str, Any]:
    """What the seconds are of."""
    return {"cores": cores(), "cpu": _cpu(), "threads": threads, "system": platform.system()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    """Its model."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no repository."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
