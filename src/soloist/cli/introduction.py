"""The verbs that need no images: `demo`, `backbones` and `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soloist.cli.arguments import Overwrite
from soloist.cli.runs import DONE, SOME_FAILED, finish


def demo(*, out: Path = Path("runs/demo"), overwrite: Overwrite = False) -> int:
    """See the whole pipeline at work on generated scenes: no files, no network, ten minutes.

    Args:
        out: Run folder; the same command again resumes it.
    """
    from soloist.runtime.stopping import listening
    from soloist.training.experiments.demo import demo as run_demo

    with listening():
        learned = run_demo(out, overwrite=overwrite)
    return finish(learned)


def backbones(*, measure: Annotated[bool, Parameter(negative="")] = False) -> int:
    """List backbones to choose from: licence, strides, size and what each is good for.

    Args:
        measure: Time a forward pass of each at 320 pixels on this machine, with random weights.
    """
    from soloist.models.backbone_list import print_backbones

    print_backbones(measure=measure)
    return DONE


def doctor() -> int:
    """Show versions and devices, and what is misconfigured."""
    from soloist.runtime.doctor import examine

    lines, healthy = examine()
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE if healthy else SOME_FAILED
