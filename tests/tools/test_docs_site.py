from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import soloist
from soloist.cli import app
from tools import docs_site

CONFIG = docs_site.ROOT / "zensical.toml"


def in_navigation(entries: Any) -> Iterator[str]:
    """Pages of a navigation, which nests lists of named entries."""
    for entry in entries:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else in_navigation(value)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place like the checkout, with its pages staged."""
    root = tmp_path_factory.mktemp("checkout")
    docs_site.stage(root / "build" / "site-pages")
    shutil.copy(CONFIG, root)
    (root / "src").symlink_to(docs_site.ROOT / "src")
    return root


def build(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.mark.documents
def test_each_page_is_in_the_navigation_once(staged: Path) -> None:
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]
    pages = {path.name for path in (staged / config["docs_dir"]).glob("*.md")}
    listed = list(in_navigation(config["nav"]))
    assert sorted(listed) == sorted(pages)
    assert set(docs_site.sources()) < pages


@pytest.mark.documents
def test_the_reference_has_every_name_and_verb(staged: Path) -> None:
    assert sorted(docs_site.NAMES) == soloist.__all__
    commands = (staged / "build/site-pages/commands.md").read_text(encoding="utf-8")
    verbs = [name for name in app if not name.startswith("-")]
    assert [verb for verb in verbs if f"\n## soloist {verb}\n" not in commands] == []
    assert "--free-mask.score-threshold FLOAT" in commands
    assert "Table of Contents" not in commands


def test_links_lead_to_pages_of_the_site() -> None:
    pages = docs_site.sources()
    text = (
        "[card](../src/soloist/weights/MODEL_CARD.md) [part](results.md#stamps) [here](#below)\n"
        "![image](images/studio.jpg) [notebook](quickstart.ipynb) [away](https://example.org)\n"
        "```python\nrows[0](results.md)\n```\n"
    )
    assert docs_site.relinked(text, docs_site.ROOT / "docs" / "method.md", pages) == (
        "[card](model-card.md) [part](results.md#stamps) [here](#below)\n"
        "![image](images/studio.jpg) [notebook](quickstart.md) [away](https://example.org)\n"
        "```python\nrows[0](results.md)\n```\n"
    )
    readme = docs_site.relinked("[a](docs/studio.md)", docs_site.ROOT / "README.md", pages)
    assert readme == "[a](studio.md)"


@pytest.mark.parametrize("target", ["../Makefile", "gone.md", "images", "../docs"])
def test_a_link_that_the_site_cannot_follow_is_reported(target: str) -> None:
    source = docs_site.ROOT / "docs" / "method.md"
    with pytest.raises(SystemExit, match="which is no page of the site"):
        docs_site.relinked(f"[a]({target})", source, docs_site.sources())


def test_a_notebook_becomes_a_page() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["a = 1\n", "a"]},
    ]
    assert (
        docs_site.from_notebook({"cells": cells}) == "# Title\ntext\n\n```python\na = 1\na\n```\n"
    )


@pytest.mark.documents
def test_the_site_builds_and_needs_nothing_from_elsewhere(staged: Path) -> None:
    pytest.importorskip("zensical")
    done = build(staged)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((staged / "site").glob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", text)
        assert [tag for tag in tags if re.search(r"(src|href)=\"?(https?:)?//", tag)] == []
    python = (staged / "site" / "python.html").read_text(encoding="utf-8")
    for name in docs_site.NAMES:
        assert f'id="soloist.{name}"' in python
    # The site is strict: a link to nowhere ends it.
    broken = staged / "build/site-pages/studio.md"
    broken.write_text("# Page\n\n[nowhere](no-such-page.md)\n", encoding="utf-8")
    assert build(staged).returncode != 0
