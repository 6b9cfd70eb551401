"""Runs one entry on one set, in this process, and says what it cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.photographs.proposals import Proposer
from benchmarks.photographs.sets import PhotoSet

from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.coco.write import instances_to_annotations, write_coco
from soloist.runtime.progress import track


@dataclass(frozen=True)
class Costs:
    """What an image costs.

    Attributes:
        seconds: Wall time from the file to run lengths, mean over the images.
        base_mb: Memory of the process with all that the entry has loaded, before the first image.
        peak_mb: Peak memory of the process over all images.
    """

    seconds: float
    base_mb: float
    peak_mb: float


def run_proposer(
    proposer: Proposer, photos: PhotoSet, out: Path, title: str
) -> tuple[CocoFile, set[int], Costs]:
    """Masks of all images, written to a COCO file and read again, as a user's would be.

    The first image is done once before the clock starts.

    Args:
        proposer: Finds the masks.
        photos: The images.
        out: The COCO file.
        title: Of the progress bar.

    Returns:
        The masks, the ids of those a user sees, and the costs.
    """
    base = _memory_mb("VmRSS")
    _reset_peak()
    proposer(photos.images[0])
    seconds = 0.0
    records: list[dict[str, Any]] = []
    shown: set[int] = set()
    true_ids = {image.file_name: image.id for image in photos.truth.images}
    with track(title, len(photos.images)) as tracker:
        for image in photos.images:
            start = time.perf_counter()
            found = proposer(image)
            seconds += time.perf_counter() - start
            own = instances_to_annotations(
                found.instances(), true_ids[image.name], len(records) + 1
            )
            shown |= {record["id"] for record, seen in zip(own, found.shown, strict=True) if seen}
            records += own
            tracker.advance(note=f"{len(own)} masks")
    peak = _memory_mb("VmHWM")
    write_coco(out, photos.truth.images, records)
    return load_coco(out), shown, Costs(seconds / len(photos.images), base, peak)


def _memory_mb(key: str) -> float:
    """Of this process: `VmRSS` now or `VmHWM` at its peak; the peak alone where there is no /proc.

    The system's own record of the peak would begin with that of the process that started this one.
    """
    with suppress(OSError):
        for name, value in _status():
            if name == key:
                return int(value.split()[0]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        yield name, value


def _reset_peak() -> None:
    """Forgets what loading took, where the system lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
