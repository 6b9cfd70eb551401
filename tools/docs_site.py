"""Builds the site of the documents in site/, as `make docs` does.

    python tools/docs_site.py

The documents are written for whoever reads them in the repository; Zensical wants all pages in one
folder. So they are copied to build/site-pages with their links led there, beside pages made from
the code: the commands from the verbs' help, the Python names from their docstrings. A warning of
Zensical's, or a link to a file that is no page, ends it with an error.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from soloist.cli import app

ROOT = Path(__file__).parents[1]
STAGED = ROOT / "build" / "site-pages"

# Pages that do not lie in docs/, by their names in the site.
_ELSEWHERE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "model-card.md": "src/soloist/weights/MODEL_CARD.md",
}
_LINK = re.compile(r"(\]\()(?!https?://|#)([^)#\s]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)

NAMES = ("load", "Segmenter", "Result", "fit", "finetune", "extract_masks", "evaluate")
"""What `import soloist` offers, in the order of the page."""

_PYTHON_PAGE = """\
# Python

torch is imported when a name of `soloist` is used first, not before.

## What `import soloist` offers

{names}

## Options of these functions

`fit`, `finetune` and `extract_masks` take the keywords of `Setup` beside their own;
`NAME.plan(...)` takes the same arguments, checks them, and does nothing yet. `soloist.api` has a
function for every other command too.

::: soloist.api.plans.Setup

::: soloist.api.plans.Plan

## The fields of a result

::: soloist.structures.Instances
    options:
      members: []

## Without torch

What `soloist export` writes runs with ONNX Runtime and NumPy alone ([how](onnx.md)).

::: soloist.inference.onnx.runtime.load

::: soloist.inference.onnx.runtime.OnnxSegmenter

## Errors

::: soloist.errors
    options:
      filters: ["!^[a-z_]"]
      show_root_heading: false
      show_root_toc_entry: false
"""

_CONFIG_PAGE = """\
# Options in Python

The sections of a configuration, as `options` of `soloist.fit` and others takes them, nested by
section: `{"train": {"steps": 100}}`. Defaults are the paper's; presets change some of them. The
command line has the same names: `--train.steps 100`.

## The method

::: soloist.config.method
    options:
      filters: ["!^_"]
      show_root_heading: false
      show_root_toc_entry: false
      show_signature_annotations: true

## Training

::: soloist.config.training
    options:
      filters: ["!^_"]
      show_root_heading: false
      show_root_toc_entry: false
      show_signature_annotations: true
"""


def sources(root: Path = ROOT) -> dict[str, Path]:
    """The documents by their names in the site."""
    pages = {name: root / place for name, place in _ELSEWHERE.items()}
    pages |= {path.name: path for path in sorted((root / "docs").glob("*.md"))}
    return pages | {
        path.with_suffix(".md").name: path for path in sorted((root / "docs").glob("*.ipynb"))
    }


def stage(folder: Path = STAGED) -> None:
    """Writes all pages to a folder, in place of what it held."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "images", folder / "images")
    shutil.copy(ROOT / "docs" / "site.css", folder)
    pages = sources()
    for name, source in pages.items():
        text = source.read_text(encoding="utf-8")
        if source.suffix == ".ipynb":
            text = from_notebook(json.loads(text))
        write(folder / name, relinked(text, source, pages))
    write(folder / "commands.md", command_page())
    names = "\n\n".join(f"::: soloist.{name}" for name in NAMES)
    write(folder / "python.md", _PYTHON_PAGE.format(names=names))
    write(folder / "config.md", _CONFIG_PAGE)


def relinked(text: str, source: Path, pages: dict[str, Path]) -> str:
    """A page whose links to files of the repository lead to pages of the site.

    Raises:
        SystemExit: If a link leads to a file that the site does not have.
    """
    names = {path.resolve(): name for name, path in pages.items()}
    docs = ROOT / "docs"

    def lead(link: re.Match[str]) -> str:
        before, target, anchor, after = link.groups(default="")
        path = (source.parent / target).resolve()
        name = names.get(path)
        if name is None and path.is_file() and path.is_relative_to(docs / "images"):
            name = PurePosixPath(path.relative_to(docs)).as_posix()
        if name is None:
            raise SystemExit(f"{source.name}: a link to {target}, which is no page of the site")
        return f"{before}{name}{anchor}{after}"

    parts = _FENCE.split(text)
    # What is in fences is code.
    parts[::2] = [_LINK.sub(lead, part) for part in parts[::2]]
    return "".join(parts)


def from_notebook(content: dict[str, Any]) -> str:
    """A notebook without outputs as a page."""
    cells = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        cells.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(cells) + "\n"


def command_page() -> str:
    """Every verb with its options, from the help that the command line itself prints."""
    page = app.generate_docs(output_format="markdown")
    page = page.replace("# soloist\n", "# Command line\n", 1)
    # The site has a table of contents of its own.
    return re.sub(r"## Table of Contents\n.*?(?=\*\*Commands\*\*)", "", page, flags=re.DOTALL)


def write(path: Path, text: str) -> None:
    """Writes a page."""
    path.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Stages and builds; ends with Zensical's exit status."""
    stage()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
