"""Takes the photographs out of GCompris' resources, as in Debian's package `gcompris-qt-data`.

Animals, monuments, tools, fish and things about the house, by many photographers, in the public
domain or under Creative Commons licences; the package's `copyright` file names each. Usage:

    apt-get download gcompris-qt-data && dpkg-deb -x gcompris-qt-data_*.deb unpacked
    python recipes/free_photographs.py unpacked runs/photographs
"""

from __future__ import annotations

import io
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ACTIVITIES = (
    "categorization",
    "details",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
MIN_SIDE = 200  # smaller ones are buttons
START = re.compile(rb"RIFF....WEBP|\xff\xd8\xff[\xe0\xe1\xdb]", re.DOTALL)


def images(resources: bytes) -> Iterator[tuple[str, bytes]]:
    """Suffix and content of each JPEG or WebP file in a Qt resource file.

    Each file lies there whole, after its length as a big-endian 32-bit number.
    """
    for match in START.finditer(resources):
        start = match.start()
        (length,) = struct.unpack(">I", resources[start - 4 : start])
        content = resources[start : start + length]
        if len(content) == length:
            yield (".webp" if content.startswith(b"RIFF") else ".jpg"), content


def is_photograph(content: bytes) -> bool:
    """Whether a file is a whole image of some size, without transparent parts."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            opaque = "A" not in image.getbands() or image.getchannel("A").getextrema()[0] == 255
            return opaque and min(image.size) >= MIN_SIDE
    except (OSError, SyntaxError):
        # A thumbnail inside an image, or bytes that look like the start of one.
        return False


def main(unpacked: Path, out: Path) -> None:
    """Writes the photographs of the unpacked package to a folder, as they are."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for activity in ACTIVITIES:
        path = unpacked / "usr" / "share" / "gcompris-qt" / "rcc" / f"{activity}.rcc"
        found = [entry for entry in images(path.read_bytes()) if is_photograph(entry[1])]
        for number, (suffix, content) in enumerate(found, start=1):
            (out / f"{activity}_{number:03d}{suffix}").write_bytes(content)
        count += len(found)
    print(f"{count} photographs in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
