"""The verb `data`, and what it does: `data check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from soloist.cli.arguments import Exif
from soloist.cli.runs import DONE, SOME_FAILED

if TYPE_CHECKING:
    from soloist.data.coco.faults import FaultLog
    from soloist.data.datasets.check import Summary

data = App(name="data", help="Look at labelled data sets: COCO, VOC, Cityscapes, YOLO and others.")

_CLASSES_SHOWN = 8
_SIZES_SHOWN = 3


@data.command
def check(
    path: Path,
    *,
    format: str | None = None,
    split: str | None = None,
    images: str | None = None,
    exif: Exif = None,
) -> int:
    """Say what a data set holds, what is wrong with it and how to mend it.

    Every image is opened and every object looked at. The exit code is 0 if all is well, 1 if
    something is wrong, 2 if it is no data set.

    Args:
        path: A folder, a .zip or .tar of one, a COCO file (.json) or YOLO's data.yaml.
        format: `coco` (LVIS and UVO too), `voc`, `cityscapes`, `yolo`, `label-maps`, `labelme`,
            `via`, `label-studio` or `folder`; found out if not given.
        split: Check this split only, such as `val2017`.
        images: Folder of the images, if they are elsewhere.
    """
    from soloist.data.coco.faults import FaultLog
    from soloist.data.datasets.check import check_dataset
    from soloist.data.datasets.find import find_dataset, find_format, laid_open
    from soloist.runtime.progress import track

    known = find_format(path, format)
    names = known.splits(laid_open(path))
    chosen = [split] if split is not None else [known.whole] if known.whole else names
    healthy = True
    for name in chosen:
        log = FaultLog()
        dataset = find_dataset(path, known.name, name, images=images, report=log)
        with track("check", len(dataset.images)) as tracker:
            summary = check_dataset(dataset, log, tracker.advance, exif=exif)
        head = f"{known.name}{f', {name}' if name else ''}: {dataset.path}"
        others = [other for other in names if other not in chosen]
        remarks = list(dataset.remarks)
        if others:
            remarks.insert(0, f"splits: {', '.join(others)}")
        if dataset.matches is not None:
            remarks.append(dataset.matches.account() + dataset.matches.hint())
        if summary.turned:
            remarks.append(
                f"{summary.turned} images have an EXIF orientation; Soloist turns them upright, "
                "tools that do not will show masks in the wrong place"
            )
        sys.stdout.write("\n".join([head, *_facts(summary), *_notes(remarks), *_wrong(log)]))
        sys.stdout.write("\n")
        healthy = healthy and not log.counts
    return DONE if healthy else SOME_FAILED


def _facts(summary: Summary) -> list[str]:
    """Lines about what a data set holds."""
    lines = [f"  {_many(summary.images, 'image')}, {summary.without_objects} without an object"]
    if summary.sizes:
        sizes = [
            f"{height} x {width} ({count})"
            for (height, width), count in summary.sizes.most_common(_SIZES_SHOWN)
        ]
        more = len(summary.sizes) - len(sizes)
        lines.append(
            f"  height x width: {', '.join(sizes)}{f' and {more} other sizes' if more else ''}"
        )
    if summary.objects:
        lines.append(
            f"  {_many(summary.objects, 'object')}, {summary.masks} with masks, "
            f"{summary.crowds} crowd regions"
        )
        areas = ", ".join(
            f"{summary.area_classes[name]} {name}" for name in ("small", "medium", "large")
        )
        lines.append(f"  by area (32² and 96² pixels between them): {areas}")
        named = [f"{name} ({count})" for name, count in summary.classes.most_common(_CLASSES_SHOWN)]
        more = len(summary.classes) - len(named)
        count = _many(len(summary.classes), "class", "classes")
        lines.append(f"  {count}: {', '.join(named)}{f' and {more} more' if more else ''}")
    return lines


def _notes(remarks: list[str]) -> list[str]:
    return [f"  {remark}" for remark in remarks]


def _wrong(log: FaultLog) -> list[str]:
    """Lines about what is wrong."""
    from soloist.data.coco.faults import Effect

    if not log.counts:
        return ["  nothing is wrong"]
    lines = []
    for fault, count in log.counts.items():
        effect = "" if fault.effect is Effect.KEPT else f" ({fault.effect.value})"
        lines.append(f"wrong: {count} {fault.what}{effect}")
        lines += [f"    {' '.join(example.split())}" for example in log.examples[fault]]
        lines.append(f"  remedy: {fault.remedy}")
    return lines


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"
