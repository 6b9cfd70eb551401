"""Peak memory of `soloist masks` and `soloist predict` against the number of images.

    python benchmarks/memory.py [--counts 100 1000] [--photographs] [--out FOLDER]

Each command runs as a process of its own over a folder of N images: a few generated scenes
under many names. They are kept small, so that thousands take minutes: what is looked for is what
grows with their number, not what one image needs. With `--photographs` it is `predict` as it comes,
on photographs of mixed sizes; the peak is that of its largest process. Linux and macOS only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from photograph_cases import missing_photographs, photograph

from soloist.data.scenes import write_scenes
from soloist.report.charts import line_chart_svg

COUNTS = (100, 500, 1000, 2500, 5000)
SCENES, LONG_SIDE = 8, 160
# As many masks as an image can have, so that their records are many too.
COMMANDS = {
    "masks": ("--free-mask.score-threshold", "0", "--extract.short-side", "160"),
    # The network's own masks are more than the regions, and sooner made.
    "predict": (
        *("--inference.score-threshold", "0", "--inference.short-side", "128"),
        *("--inference.masks", "network"),
    ),
}
MIXED = ((320, 427), (427, 640), (640, 427), (600, 900), (960, 1280), (240, 960), (1200, 1600))
"""(height, width) of the photographs, by turns."""

Several = Parameter(consume_multiple=True, negative="")

app = App(help=__doc__)


@app.default
def main(
    *,
    counts: Annotated[tuple[int, ...], Several] = COUNTS,
    photographs: bool = False,
    out: Path = Path("runs/memory"),
) -> None:
    """Prints a table and writes memory.json and memory.svg.

    Args:
        counts: Numbers of images.
        photographs: `predict` as it comes, on photographs of mixed sizes.
        out: Folder for both files.
    """
    missing = missing_photographs() if photographs else None
    if missing is not None:
        raise SystemExit(missing)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    print("| images | command | peak MB | objects | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if photographs:
            few, commands = _photographs(folder / "few"), {"predict": ()}
        else:
            write_scenes(folder / "scenes", SCENES, seed=1, long_side=LONG_SIDE)
            few, commands = folder / "scenes" / "images", COMMANDS
        for count in counts:
            images = _repeated(few, folder / str(count), count)
            for command, options in commands.items():
                measured = _measured(command, options, images, folder)
                row = {"images": count, "command": command, **measured}
                rows.append(row)
                print(
                    f"| {count:,} | `{command}` | {row['peak_mb']:.0f} | {row['objects']:,} "
                    f"| {row['seconds']:.0f} |",
                    flush=True,
                )
                _write(out, rows)


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes what has been measured so far."""
    (out / "memory.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = {
        name: [(row["images"], row["peak_mb"]) for row in rows if row["command"] == name]
        for name in dict.fromkeys(row["command"] for row in rows)
    }
    # An axis that began at the least value would show noise as growth.
    chart = line_chart_svg(lines, "Peak memory", "images", "peak memory, MB", from_zero=True)
    (out / "memory.svg").write_text(chart + "\n", encoding="utf-8")


def _photographs(folder: Path) -> Path:
    """A folder of photographs of all the sizes."""
    folder.mkdir()
    for number, size in enumerate(MIXED):
        photograph(number, size).rename(folder / f"{number}.jpg")
    return folder


def _repeated(scenes: Path, folder: Path, count: int) -> Path:
    """A folder of N names for a few images."""
    images = sorted(scenes.iterdir())
    folder.mkdir()
    for number in range(count):
        image = images[number % len(images)]
        os.link(image, folder / f"{number:06d}{image.suffix}")
    return folder


def _measured(command: str, options: Sequence[str], images: Path, folder: Path) -> dict[str, Any]:
    """Peak memory in MB, objects in the file and seconds of a command over a folder."""
    file = folder / f"{images.name}-{command}.json"
    arguments = [sys.executable, "-m", "soloist", command, str(images), "--out", str(file)]
    start = time.monotonic()
    process = subprocess.Popen(
        [*arguments, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(errors.decode())
    # Linux counts kilobytes, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "peak_mb": usage.ru_maxrss / unit,
        "objects": len(json.loads(file.read_text(encoding="utf-8"))["annotations"]),
        "seconds": time.monotonic() - start,
    }


if __name__ == "__main__":
    app()
