"""The lock file against pyproject.toml: what is installed for development is what is wanted."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Backslashes continue a line.
ENTRIES = [
    " ".join(line.split())
    for line in re.sub(r"\\\n", " ", LOCK).splitlines()
    if line and not line.lstrip().startswith("#")
]
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
MACHINES = [
    {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_system": name,
        "platform_machine": "arm64" if system == "darwin" else "x86_64",
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for system, name in SYSTEMS.items()
]


def direct(group: list[str]) -> Iterator[Requirement]:
    """Requirements of a group, and of the extras of the project itself that it names."""
    for requirement in map(Requirement, group):
        if requirement.name == PROJECT["project"]["name"]:
            for extra in requirement.extras:
                yield from direct(PROJECT["project"]["optional-dependencies"][extra])
        else:
            yield requirement


WANTED = [
    *direct(PROJECT["project"]["dependencies"]),
    *direct(PROJECT["project"]["optional-dependencies"]["dev"]),
    *direct(PROJECT["build-system"]["requires"]),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.partition("==")[0])
def test_each_entry_is_one_version_by_its_hashes(entry: str) -> None:
    """No address and no path: every index has the same files."""
    pinned, _, hashes = entry.partition(" --hash=")
    assert re.fullmatch(r"[\w.-]+==[\w.!+]+( ; .+)?", pinned)
    assert re.fullmatch(r"(sha256:[0-9a-f]{64}( --hash=)?)+", hashes)


def test_the_lock_tells_how_it_is_made_and_nothing_of_the_machine() -> None:
    assert "#    make lock\n" in LOCK
    assert not re.search(r"://|(^|\s)/|--(extra-)?index|--find-links", LOCK, re.MULTILINE)


@pytest.mark.parametrize(
    "machine", MACHINES, ids=lambda one: f"{one['sys_platform']}-{one['python_version']}"
)
def test_the_lock_has_one_version_of_what_the_project_wants(machine: dict[str, str]) -> None:
    """`make lock` after a change of pyproject.toml."""
    versions: dict[str, list[str]] = defaultdict(list)
    for entry in ENTRIES:
        pinned, _, marker = entry.partition(" --hash=")[0].partition(" ; ")
        name, _, version = pinned.partition("==")
        if not marker or Marker(marker).evaluate({**machine}):
            versions[canonicalize_name(name)].append(version)
    assert [found for found in versions.items() if len(found[1]) > 1] == []
    unmet = [
        str(requirement)
        for requirement in WANTED
        if not any(
            map(requirement.specifier.contains, versions[canonicalize_name(requirement.name)])
        )
    ]
    assert unmet == []
