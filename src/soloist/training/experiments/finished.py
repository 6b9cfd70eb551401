"""Which trainings of a table are done, by the record of its settings beside each run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soloist.errors import RunError
from soloist.runtime.files import write_text
from soloist.training.run_folder import STATE


def note_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes what a run folder is made with to a file beside it."""
    write_text(_record(folder), _dumped(settings))


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run folder is done.

    Args:
        folder: The run folder.
        settings: What it is to be made with.

    Raises:
        RunError: If it is done with other settings.
    """
    if not (folder / STATE).is_file() or not read_results(folder / STATE)["finished"]:
        return False
    record = _record(folder)
    if not record.is_file() or record.read_text(encoding="utf-8") != _dumped(settings):
        raise RunError(
            f"{folder} holds a finished training of other settings than those asked for; choose "
            "another --out, or remove it"
        )
    return True


def read_results(path: Path) -> Any:
    """A JSON file of a run."""
    return json.loads(path.read_text(encoding="utf-8"))


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _dumped(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2, default=str) + "\n"
