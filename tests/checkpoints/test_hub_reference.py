from __future__ import annotations

from pathlib import Path

import pytest

from soloist.checkpoints.hub_reference import HubReference, model_reference
from soloist.errors import ConfigError

SHA = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        pytest.param("hf:me/net", HubReference("me/net"), id="repository"),
        pytest.param("hf:me/net/w.pth", HubReference("me/net", "w.pth"), id="file"),
        pytest.param("hf:me/net/a/b.pth", HubReference("me/net", "a/b.pth"), id="file-in-folder"),
        pytest.param("hf:me/net@v1.0", HubReference("me/net", None, "v1.0"), id="revision"),
        pytest.param(
            f"hf:me/n.e_t-1/w.pth@main#{SHA}",
            HubReference("me/n.e_t-1", "w.pth", "main", SHA),
            id="everything",
        ),
        pytest.param(
            "hf:me/net@refs/pr/1", HubReference("me/net", None, "refs/pr/1"), id="pull-request"
        ),
    ],
)
def test_a_reference_is_read_and_written(text: str, reference: HubReference) -> None:
    assert HubReference.parse(text) == reference
    assert str(reference) == text


def test_a_checksum_may_be_in_capitals() -> None:
    assert HubReference.parse(f"hf:me/net#{SHA.upper()}").sha256 == SHA


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:net", "me/net", "hf:me/net#0123", "hf:me/net/../w.pth", "hf:me/net@", "hf:/me/net"],
)
def test_another_form_is_reported(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be named hf:owner/repo/file@revision#sha256"):
        HubReference.parse(text)


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        pytest.param("me/net", "me/net", id="repository"),
        pytest.param(Path("me/net"), "me/net", id="as-a-path"),
        pytest.param("hf:me/net@v1", "me/net", id="marked"),
        pytest.param("runs/here", None, id="a-path-that-exists"),
        pytest.param("runs/mime", None, id="a-mistyped-run"),
        pytest.param("there/mime", None, id="in-a-folder-that-exists"),
        pytest.param("hf:there/net", "there/net", id="marked-whatever-exists"),
        pytest.param("me/net.pth", None, id="a-file"),
        pytest.param("net", None, id="one-word"),
        pytest.param("a/b/c", None, id="a-deeper-path"),
        pytest.param("/a/b", None, id="an-absolute-path"),
        pytest.param("../net", None, id="a-relative-path"),
    ],
)
def test_a_model_is_on_the_hub_or_here(
    name: str | Path, repo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    reference = model_reference(name)
    assert (reference and reference.repo) == repo
