"""Where the images that a file of labels names are, if nobody says: in its folder, or near."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from soloist.data.names import NameMatches, match_names

_MAX_LISTED = 200_000
"""Files of a folder that are compared with names that were not found at once."""


class ImagePlaces:
    """Where the images of a COCO file may lie: in the file's folder, beside it, or below.

    The place that had the last image is looked at first.

    Args:
        file: The COCO file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        folder, stem = file.parent, file.stem
        split = stem.removeprefix("instances_")
        self._folders = [
            folder,
            folder / "images",
            folder / stem,
            folder.parent / split,
            folder.parent / "images" / split,  # CVAT's and datumaro's.
            folder.parent / "images",
            folder.parent,  # LVIS names images by their folder, beside `annotations`.
        ]

    def find(self, name: str) -> Path:
        """The first place where a file is; else the place that is most likely."""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in self._folders:
                path = folder / spelling
                if os.path.isfile(path):
                    self._folders.remove(folder)
                    self._folders.insert(0, folder)
                    return path
        return self._folders[0] / name

    def _written_otherwise(self) -> Iterator[Path]:
        """Folders called `Images`, `IMAGES` or the like, in systems that tell these apart."""
        known = {str(folder) for folder in self._folders}
        for above in (self._file.parent, self._file.parent.parent):
            try:
                folders = [one for one in os.scandir(above) if one.name.casefold() == "images"]
            except OSError:
                continue
            yield from (Path(one.path) for one in folders if one.path not in known)

    def listed(self) -> Iterator[tuple[str, Path]]:
        """Files in the folders, not below these, with the name of their folder."""
        for folder in (*self._folders, *self._written_otherwise()):
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                continue
            if len(names) <= _MAX_LISTED:
                yield from ((f"{folder.name}/{name}", folder / name) for name in names)


def find_beside(file: Path, names: Sequence[str]) -> tuple[list[Path], NameMatches]:
    """The images of a COCO file, in its folder or near.

    Args:
        file: The file.
        names: As it names them.

    Returns:
        paths: Where each is, or was expected.
        matches: The account.
    """
    places = ImagePlaces(file)
    paths = [places.find(name) for name in names]
    absent = [place for place, path in enumerate(paths) if not os.path.isfile(path)]
    there = {place: place for place in range(len(names))}
    if not absent:
        return paths, NameMatches(there, [], [], [])
    taken = {os.path.realpath(path) for path in paths if os.path.isfile(path)}
    listed = []
    for name, path in places.listed():
        real = os.path.realpath(path)
        if real not in taken and os.path.isfile(real):
            taken.add(real)
            listed.append((name, path))
    matches = match_names(
        [names[place] for place in absent], [name for name, _ in listed], of_files=True
    )
    for place, other in matches.found.items():
        paths[absent[place]] = listed[other][1]
    found = {place: place for place in there if os.path.isfile(paths[place])}
    # What else lies there is not necessarily an image.
    return paths, NameMatches(
        found, matches.missing, matches.ambiguous, [], matches.by_ending, matches.elsewhere
    )
