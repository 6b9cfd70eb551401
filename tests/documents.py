"""What the documents say: their commands, code and links, for the tests that try them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    **{name: ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")},
    "MODEL_CARD.md": ROOT / "src" / "soloist" / "weights" / "MODEL_CARD.md",
    **{path.name: path for path in sorted(DOCS.glob("*.md"))},
}
"""Every document by its name."""

# What may stand before the name of the command.
_LAUNCHERS = {"soloist", "torchrun", "accelerate", "srun", "/usr/bin/time"}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, `sh` or `python`; those inside of lists too."""
    text = page.read_text(encoding="utf-8")
    fenced = re.compile(rf"^( *)```{language}\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
    return [dedent(block) for _, block in fenced.findall(text)]


def shell_commands(page: Path) -> list[list[str]]:
    """The words of each command of a page, in order; what spans several lines is joined."""
    return [
        command for block in blocks(page, "sh") for command in _commands(block) if command != []
    ]


def _commands(block: str) -> Iterator[list[str]]:
    waiting = ""
    for line in block.splitlines():
        waiting += line
        if waiting.endswith("\\"):
            waiting = waiting.removesuffix("\\")
            continue
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # A quotation that continues.
            waiting += "\n"
            continue
        waiting = ""
        while "&&" in words:
            end = words.index("&&")
            yield words[:end]
            words = words[end + 1 :]
        yield words


def soloist_arguments(command: list[str]) -> list[str] | None:
    """What a command gives to `soloist`, whatever launches it; None if it is another one."""
    if command[0] not in _LAUNCHERS:
        return None
    return command[command.index("soloist") + 1 :]


def soloist_commands(page: Path) -> list[list[str]]:
    """The arguments of each `soloist` command of a page, in order."""
    found = map(soloist_arguments, shell_commands(page))
    return [arguments for arguments in found if arguments is not None]
