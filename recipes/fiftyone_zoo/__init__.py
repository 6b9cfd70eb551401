"""Soloist's bundled segmenter as a model of FiftyOne's zoo; see `manifest.json` beside this."""

from __future__ import annotations

import shutil
from typing import Any

from soloist.inference.segmenter import BUNDLED
from soloist.integrations.fiftyone import SegmenterModel, create


def download_model(model_name: str, model_path: str) -> None:
    """Lays the segmenter where the zoo keeps it; the package has it."""
    shutil.copytree(BUNDLED, model_path, dirs_exist_ok=True)


def load_model(model_name: str, model_path: str, **options: Any) -> SegmenterModel:
    """The segmenter; options are those of `soloist.integrations.fiftyone.create`."""
    return create(model_path, **options)
