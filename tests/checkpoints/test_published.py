from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from soloist.checkpoints.hub_reference import HubReference
from soloist.checkpoints.published import PUBLISHED, backbone_choice

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_short_names_are_pinned_and_documented(name: str) -> None:
    published = PUBLISHED[name]
    reference = published.reference
    assert published.name == name
    assert re.fullmatch("[0-9a-f]{40}", reference.revision or "")
    assert re.fullmatch("[0-9a-f]{64}", reference.sha256 or "")
    assert HubReference.parse(str(reference)) == reference
    page = (DOCS / "weights.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page
    assert str(reference.sha256) in page
    for part in (name, str(reference), published.licence):
        assert part in published.notice()
    assert "\n" not in published.notice()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("densecl-r50", {"name": "resnet50", "weights": "densecl-r50"}),
        ("densecl-r101", {"name": "resnet101", "weights": "densecl-r101"}),
        ("bundled", {"weights": "bundled"}),
        ("none", {"weights": "none"}),
        ("hf:me/net/w.pth", {"weights": "hf:me/net/w.pth"}),
        ("w.pth", {"weights": "w.pth"}),
        ("no/such/folder", {"weights": "no/such/folder"}),
        ("run", {"name": "resnet34", "weights": "run"}),
        ("solo", {"name": "vit_tiny_patch16_224", "weights": "solo"}),
        ("odd", {"weights": "odd"}),
        ("broken", {"weights": "broken"}),
        ("list", {"weights": "list"}),
        ("convnext_tiny.dinov3_lvd1689m", {"name": "convnext_tiny.dinov3_lvd1689m",
                                           "weights": "timm"}),
    ],
)  # fmt: skip
def test_one_word_stands_for_name_and_weights(
    text: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {
        "run/model": json.dumps({"name": "resnet34"}),
        "solo": json.dumps({"backbone": {"name": "vit_tiny_patch16_224"}}),
        "odd": json.dumps({"name": 5}),
        "broken": "{",
        "list": "[1]",
    }
    for folder, record in records.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(record)
    monkeypatch.chdir(tmp_path)
    assert backbone_choice(text) == options
