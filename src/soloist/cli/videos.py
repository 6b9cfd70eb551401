"""What `predict` does with a video."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soloist.cli.runs import failures_status
from soloist.config import ReadingConfig, TrackConfig
from soloist.errors import ConfigError, require
from soloist.runtime.launch import launched

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
"""What names of videos end in."""


def wanted_video(
    sources: Sequence[str], *, of_video: Mapping[str, object], of_images: Mapping[str, object]
) -> Path | None:
    """The video to segment; None where images are.

    Args:
        sources: What the user named.
        of_video: Options that only videos have; None where not given.
        of_images: Options that only images have.

    Raises:
        ConfigError: If they do not fit each other, or PyAV is absent.
    """
    videos = [source for source in sources if Path(source).suffix.lower() in SUFFIXES]
    idle = of_images if videos else of_video
    unfit = [flag for flag, value in idle.items() if value is not None and value is not False]
    if unfit:
        what = "images, not for a video" if videos else "a video, such as clip.mp4"
        raise ConfigError(f"{unfit[0]} is for {what}; leave it out")
    if not videos:
        return None
    if len(sources) > 1:
        raise ConfigError(f"wanted a single video, got {len(sources)} sources; name one at a time")
    require("av", extra="video", wanted="reading videos")
    if launched().world_size > 1:
        raise ConfigError("a video is segmented by one process; run it without torchrun")
    return Path(videos[0])


def predict_video(
    video: Path,
    labeler: Any,
    out: Path,
    config: TrackConfig,
    reading: ReadingConfig,
    *,
    settings: Mapping[str, Any],
    categories: Mapping[int, str],
    drawn: Path | None,
    overwrite: bool,
) -> int:
    """Segments a video into a COCO file whose masks have identities; see `label_video`."""
    from soloist.inference.label import check_output, opened_output, report_labels
    from soloist.inference.label_video import label_video
    from soloist.runtime.stopping import STARTS_OVER, listening

    if drawn is not None:
        check_output(drawn, overwrite=overwrite, example="masks.mp4")
    recorded = {"command": "predict", "images": [str(video)], **settings}
    with listening(STARTS_OVER), opened_output(out, overwrite=overwrite) as errors:
        summary = label_video(
            video,
            labeler,
            out,
            config=config,
            reading=reading,
            settings={**recorded, "track": asdict(config)},
            errors=errors,
            categories=categories,
            drawn=drawn,
        )
    report_labels("predict", summary)
    sys.stdout.write("".join(f"{path}\n" for path in (out, drawn) if path is not None))
    return failures_status(errors.count, errors.path)
