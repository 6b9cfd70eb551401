"""Which trainings of a table are done, by the record of its settings beside each run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from soloist.errors import RunError
from soloist.runtime.distributed import on_main
from soloist.runtime.files import write_text
from soloist.training.run_folder import STATE

logger = logging.getLogger(__name__)


def results_of(
    folder: Path, settings: Mapping[str, Any], title: str, make: Callable[[], object]
) -> Any:
    """The figures of a run folder, which is made unless it is done; on every process.

    Args:
        folder: The run folder.
        settings: What it is to be made with.
        title: What the log says before it is made.
        make: Makes it, or resumes where an earlier call was killed.

    Returns:
        Its results.json.

    Raises:
        RunError: If it is done with other settings.
    """
    if not on_main(partial(_is_finished, folder, settings)):
        logger.info(title)
        on_main(partial(write_text, _record(folder), _dumped(settings)))
        make()
    return on_main(partial(_read, folder / "results.json"))


def _is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    if not (folder / STATE).is_file() or not _read(folder / STATE)["finished"]:
        return False
    record = _record(folder)
    if not record.is_file() or record.read_text(encoding="utf-8") != _dumped(settings):
        raise RunError(
            f"{folder} holds a finished training of other settings than those asked for; choose "
            "another --out, or remove it"
        )
    return True


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _dumped(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2, default=str) + "\n"
