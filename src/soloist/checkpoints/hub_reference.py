"""How a file on the hub is named: `hf:owner/repo/file@revision#sha256`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from soloist.errors import ConfigError

PREFIX = "hf:"

_REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(
    rf"hf:(?P<repo>{_REPO})(?:/(?P<file>[^@#]+))?(?:@(?P<revision>[^@#]+))?"
    r"(?:#(?P<sha256>[0-9a-fA-F]{64}))?"
)
# Folders of runs and models, which nobody on the hub is called like.
_FOLDERS = ("runs", "model", "models", "weights", "checkpoints")
# A local file of weights; no repository is called like one.
_FILES = (".safetensors", ".pth", ".pt", ".pkl", ".tar", ".json", ".yaml")


@dataclass(frozen=True)
class HubReference:
    """A repository on the hub, or a file of it.

    Attributes:
        repo: `owner/name`.
        file: Path inside the repository; None for what the reader looks for.
        revision: Branch, tag or commit; None for the main branch as it is now.
        sha256: Checksum of the file, 64 hexadecimal digits; None is not checked.
    """

    repo: str
    file: str | None = None
    revision: str | None = None
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubReference:
        """Reads `hf:owner/repo/file@revision#sha256`; all after the repository may be left out.

        Raises:
            ConfigError: If the text is of another form.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None or ".." in (match["file"] or "").split("/"):
            raise ConfigError(
                "a file on the hub must be named hf:owner/repo/file@revision#sha256 (64 "
                "hexadecimal digits; all after the repository may be left out), "
                f"got {text!r}"
            )
        sha256 = match["sha256"]
        return cls(
            match["repo"],
            match["file"],
            match["revision"],
            None if sha256 is None else sha256.lower(),
        )

    def __str__(self) -> str:
        text = f"{PREFIX}{self.repo}"
        for mark, part in (("/", self.file), ("@", self.revision), ("#", self.sha256)):
            text += "" if part is None else f"{mark}{part}"
        return text


def model_reference(path_or_id: str | Path) -> HubReference | None:
    """What a trained model's name means on the hub; None for a path.

    `hf:owner/repo` is always a repository, `owner/repo` if it does not look like a path: there is
    nothing of that name here, nor a folder `owner`, and it is not `runs`, where runs are.

    Raises:
        ConfigError: If a text begins with `hf:` but is no reference.
    """
    text = path_or_id.as_posix() if isinstance(path_or_id, Path) else path_or_id
    if text.startswith(PREFIX):
        return HubReference.parse(text)
    if Path(text).exists() or text.endswith(_FILES) or not re.fullmatch(_REPO, text):
        return None
    owner = text.partition("/")[0]
    if owner in _FOLDERS or Path(owner).is_dir():
        return None
    return HubReference(text)
