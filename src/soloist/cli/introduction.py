"""The verbs that need no images: `demo`, `app`, `backbones` and `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soloist.cli.arguments import Device, ModelPreset, Overwrite, Precision
from soloist.cli.runs import DONE, SOME_FAILED, finish


def demo(*, out: Path = Path("runs/demo"), overwrite: Overwrite = False) -> int:
    """See the whole pipeline at work on generated scenes: no files, no network, ten minutes.

    Args:
        out: Run folder; the same command again resumes it.
    """
    from soloist.experiments.demo import demo as run_demo
    from soloist.runtime.stopping import listening

    with listening():
        learned = run_demo(out, overwrite=overwrite)
    return finish(learned)


def app(
    *,
    model: str | None = None,
    preset: ModelPreset = None,
    device: Device = "auto",
    precision: Precision = "auto",
    port: int = 7860,
    browser: Annotated[bool, Parameter(help="Open the page in a browser.")] = True,
) -> int:
    """Try a segmenter on your own pictures, on a page in the browser: this machine only.

    Args:
        model: Run folder of `fit`, `train` or `demo`, a file such as the released FreeSOLO's, or
            `owner/name` on the hub; without it the segmenter that comes with the package.
        port: Where the page is served.
    """
    import logging
    import signal
    import webbrowser
    from contextlib import suppress
    from time import sleep

    from soloist.cli.studio.server import check_ready, serve
    from soloist.inference.segmenter import load

    check_ready(port)
    segmenter = load(model, preset=preset, device=device, precision=precision)
    # Gradio asks its own server whether it is up, which is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # A service's end is one like Ctrl-C: the temporary folder is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), serve(segmenter, port=port) as address:
        sys.stdout.write(f"{address}  (Ctrl-C ends it)\n")
        sys.stdout.flush()
        if browser:
            webbrowser.open(address)
        while True:
            sleep(3600)
    return DONE


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
