"""Writes docs/licences.md: the licence of every package that Soloist needs, by what needs it.

    python tools/licences.py

Licences are what the installed packages say of themselves. Rows of packages that are not installed
here stay as they are: those of other systems, as long as the lock names them, and those of Ray.
The row of a package that no Linux needs is written by hand, from the page of the package.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from email.message import Message
from functools import cache
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCK = ROOT / "requirements-dev.txt"

SECTIONS = {
    "": "To run",
    "explore": "Extra `explore`",
    "fast": "Extra `fast`",
    "onnx": "Extra `onnx`",
    "parquet": "Extra `parquet`",
    "video": "Extra `video`",
    "supervision": "Extra `supervision`",
    "science": "Extra `science`",
    "cvat": "Extra `cvat`",
    "dev": "Development",
    # Last, so that it does not matter to the others whether Ray is installed.
    "ray": "What the extra `ray` adds to all of these",
}
"""Headings by the extra that a package is needed for; the first that needs it has it."""

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CECILL-B",
    "ISC",
    "MIT",
    "MIT-CMU",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
"""What a package that users install may have, beside NVIDIA's own."""

# What packages write instead of the name in the list of SPDX; in small letters.
_SPELLINGS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "cecill-b": "CECILL-B",
    "freebsd": "BSD-2-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit licence": "MIT",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "nvidia proprietary software": NVIDIA,
    "other/proprietary license": NVIDIA,
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
}
# Their metadata names none: from the licence file inside, or the page of the package.
_BY_HAND = {
    "cuda-toolkit": NVIDIA,
    "faster-coco-eval": "Apache-2.0",
    "mergedeep": "MIT",
    "scikit-image": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
}

_INTRODUCTION = """\
# Licences of what Soloist needs

Soloist is Apache-2.0, and so are the weights that come with it
([their card](../src/soloist/weights/MODEL_CARD.md)). It contains no code of the packages below;
`pip` installs them beside it. The tables are what the packages say of themselves. `make licences`
writes them; `make test` compares them with what is installed, and refuses what is not permissive
unless only development needs it. MPL-2.0 counts as permissive here: it asks for the source of
changed files of the package itself, nothing of programs that use it.

- **NVIDIA.** On Linux, PyTorch's wheels of the package index need NVIDIA's CUDA libraries: the rows
  with `{nvidia}`. They are not free software. NVIDIA lets everyone use
  them, and pass them on under the conditions of its own licence agreements, which lie in the
  packages. They are no part of Soloist; it runs without them, and a PyTorch without CUDA does not
  install them.
- **Inside the wheels.** Those of NumPy, SciPy, Pillow, PyArrow, PyTorch and others contain further
  libraries, such as OpenBLAS (BSD-3-Clause) and GCC's runtime libraries (GPL-3.0 with the exception
  that lets any program use them). Each wheel has their licences with it. **PyAV's wheels** (extra
  `video`) contain FFmpeg built with x264 and x265, which are GPL-2.0-or-later: to use them asks for
  nothing, to pass them on does. A PyAV built on another FFmpeg serves as well.
- `CECILL-B` (higra) is the French licence after the model of BSD: it asks those who pass the
  package on to credit its authors.
- `BSD` means that a package does not say which of the BSD licences, but for the file in it.
"""


class Package(NamedTuple):
    """A row.

    Attributes:
        name: As the package index normalises it.
        licence: An expression of SPDX names.
        extra: What of Soloist needs it: a key of `SECTIONS`.
    """

    name: str
    licence: str
    extra: str


def page() -> str:
    """What docs/licences.md should say, from what is installed and from what it says now."""
    found = list(installed())
    names = {one.name for one in found}
    locked = locked_names(LOCK.read_text(encoding="utf-8"))
    elsewhere = [
        one
        for one in (read(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else [])
        if one.name not in names
        and (one.name in locked or (one.extra == "ray" and "ray" not in names))
    ]
    return render([*found, *elsewhere])


def installed() -> Iterator[Package]:
    """Every package that is installed here and that Soloist needs."""
    seen: set[str] = {"soloist"}
    for extra in SECTIONS:
        for name in sorted(needed(extra) - seen):
            seen.add(name)
            yield Package(name, licence_of(name, _distributions()[name].metadata), extra)


def needed(extra: str) -> set[str]:
    """Names of the installed packages that Soloist with an extra comes to need."""
    found: set[str] = set()
    waiting = [("soloist", extra)]
    visited = set(waiting)
    while waiting:
        name, its_extra = waiting.pop()
        if name not in _distributions():
            continue
        found.add(name)
        for requirement in map(Requirement, _distributions()[name].requires or ()):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": its_extra}):
                key = canonicalize_name(requirement.name)
                more = {(key, one) for one in ("", *requirement.extras)} - visited
                visited |= more
                waiting += more
    return found


@cache
def _distributions() -> dict[str, Distribution]:
    """What is installed, by name; of two of a name the one that is imported."""
    found: dict[str, Distribution] = {}
    for one in distributions():
        found.setdefault(canonicalize_name(one.name), one)
    return found


def licence_of(name: str, facts: Message | PackageMetadata) -> str:
    """The licence a package says it has, as SPDX writes it where it is a known spelling."""
    if name in _BY_HAND:
        return _BY_HAND[name]
    expression: list[str] = facts.get_all("License-Expression", [])
    text: list[str] = facts.get_all("License", [])
    classifiers: list[str] = facts.get_all("Classifier", [])
    classes = [
        line.rpartition(" :: ")[2]
        for line in classifiers
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    # Some put the whole text of the licence into its field.
    short = [one.strip() for one in (*expression, *text, *classes) if "\n" not in one.strip()]
    if not short:
        return "unknown"
    return _SPELLINGS.get(short[0].lower(), short[0])


def is_allowed(licence: str) -> bool:
    """Whether an expression of SPDX names asks for nothing beyond `ALLOWED`."""
    # AND binds closer than OR; to take it the other way round is only stricter.
    parts = (part.strip("() ").split(" OR ") for part in licence.split(" AND "))
    return all(any(one.strip("() ") in ALLOWED for one in part) for part in parts)


def refused(packages: Iterable[Package]) -> list[Package]:
    """Packages that users install, and whose licence is neither allowed nor NVIDIA's for CUDA."""
    return [
        one
        for one in packages
        if one.extra != "dev"
        and not is_allowed(one.licence)
        and not (one.licence == NVIDIA and one.name.startswith(("nvidia-", "cuda-")))
    ]


def render(packages: Iterable[Package]) -> str:
    """The page of these packages."""
    rows = sorted(packages)
    parts = [_INTRODUCTION.format(nvidia=NVIDIA)]
    for extra, heading in SECTIONS.items():
        lines = [f"| {one.name} | {one.licence} |" for one in rows if one.extra == extra]
        if lines:
            parts.append(
                "\n".join([f"## {heading}\n", "| package | licence |", "|---|---|", *lines])
            )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def read(text: str) -> list[Package]:
    """The packages of a page."""
    extras = {heading: extra for extra, heading in SECTIONS.items()}
    extra = ""
    packages = []
    for line in text.splitlines():
        if line.startswith("## "):
            extra = extras[line.removeprefix("## ")]
        elif match := re.fullmatch(r"\| (?!package )([a-z0-9-]+) \| (.+) \|", line):
            packages.append(Package(match[1], match[2], extra))
    return packages


def locked_names(lock: str) -> set[str]:
    """Names of the packages of a lock file, those for other systems included."""
    return {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}


def main() -> None:
    """Writes the page; ends with 1 if a licence is refused."""
    text = page()
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    wrong = refused(read(text))
    for one in wrong:
        sys.stderr.write(f"{one.name} is {one.licence}, which is not among those allowed\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
