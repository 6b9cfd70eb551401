"""Peak memory of a process and all that it starts, sampled by another process meanwhile.

The record that the system keeps is of one process. Here pages that forked processes share are
counted once, and so are files that several map, such as torch's libraries: those of the process
that maps most. A process counts from its second sample on: until it has begun its own program, what
it has is its parent's. Linux only; elsewhere the peak is that of the largest process so far.
"""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

INTERVAL = 0.05
"""Seconds between two samples."""
PROC = Path("/proc")


def peak_mb(work: Callable[[], object], *, started_only: bool = False) -> float:
    """Peak memory in MB (2**20 bytes) while some work is done.

    Args:
        work: What is done.
        started_only: Count the processes that it starts, without this one.
    """
    if not all((PROC / name).is_file() for name in ("self/smaps_rollup", "thread-self/children")):
        work()
        return _largest_so_far(started_only)
    command = [sys.executable, "-I", __file__, str(os.getpid()), str(int(started_only))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sampler:
        assert sampler.stdin is not None
        assert sampler.stdout is not None
        # It is ready.
        sampler.stdout.readline()
        try:
            work()
        finally:
            sampler.stdin.close()
        return float(sampler.stdout.read())


def _sample(process: int, started_only: bool) -> float:
    """The largest sum until standard input ends."""
    largest, before = 0.0, {process}
    print("ready", flush=True)
    while True:
        tree = _tree(process) - {os.getpid()}
        known = tree & before
        largest = max(largest, _memory_mb(known - {process} if started_only else known))
        before = tree
        if select.select([sys.stdin], [], [], INTERVAL)[0]:
            return largest


def _tree(process: int) -> set[int]:
    """A process and all that it and its children started."""
    tree, new = set[int](), [process]
    while new:
        tree.add(process := new.pop())
        for thread in PROC.glob(f"{process}/task/*/children"):
            # Of one that has just ended.
            with suppress(OSError):
                new += map(int, thread.read_text(encoding="ascii").split())
    return tree


def _memory_mb(processes: Iterable[int]) -> float:
    """Memory of processes at this moment, in MB."""
    own, mapped = 0, 0
    for process in processes:
        with suppress(OSError):
            rollup = _kilobytes(PROC / str(process) / "smaps_rollup")
            status = _kilobytes(PROC / str(process) / "status")
            own += rollup.get("Pss_Anon", 0) + rollup.get("Pss_Shmem", 0)
            mapped = max(mapped, status.get("RssFile", 0))
    return (own + mapped) / 2**10


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines of a file that end with kB."""
    lines = (line.split() for line in path.read_text(errors="replace").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[2:] == ["kB"]}


def _largest_so_far(started_only: bool) -> float:
    # Linux counts kilobytes, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    whose = [resource.RUSAGE_CHILDREN] + [resource.RUSAGE_SELF] * (not started_only)
    return max(resource.getrusage(one).ru_maxrss for one in whose) / unit


if __name__ == "__main__":
    print(_sample(int(sys.argv[1]), started_only=sys.argv[2] == "1"))
