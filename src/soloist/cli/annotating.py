"""The verb in which people keep and correct objects: `studio`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from soloist.cli.arguments import Device, Images, Precision
from soloist.cli.runs import DONE


def studio(
    images: Images,
    *,
    out: Path | None = None,
    model: str | None = None,
    classes: Annotated[str, Parameter(help="Names of classes, separated by commas.")] = "object",
    order: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    port: int = 0,
    browser: Annotated[bool, Parameter(help="Open the page in a browser.")] = True,
) -> int:
    """Keep and correct the objects of your images, on a page in the browser: this machine only.

    What is under the pointer lights up, a click keeps it, and the model learns from what you did.

    Args:
        out: Folder for labels, models and exports; without it `runs/studio/NAME` after the first of
            the images. The same folder again continues with what is in it.
        model: What offers masks until it has learned: as for `predict`; without it the segmenter
            that comes with the package.
        order: File of `soloist estimate`; without it images whose masks have low scores come
            first.
        port: Where the page is served; 0 for any that is free.
    """
    import signal
    import webbrowser
    from contextlib import suppress
    from time import sleep

    from soloist.cli.studio.labels import LABELS
    from soloist.cli.studio.server import check_port, serve
    from soloist.cli.studio.workspace import Model, Workspace, read_order
    from soloist.data.sources import find_images
    from soloist.runtime.lock import locked_output

    check_port(port)
    found = find_images(images)
    folder = out or Path("runs", "studio", Path(images[0]).absolute().stem or "images")
    names = [name.strip() for name in classes.split(",") if name.strip()] or ["object"]
    # A service's end is one like Ctrl-C: the labels are written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with locked_output(folder / LABELS):
        workspace = Workspace(
            found,
            folder,
            sources=images,
            model=Model(model, device, precision),
            names=names,
            order=None if order is None else read_order(order),
        )
        try:
            with suppress(KeyboardInterrupt), serve(workspace, port=port) as address:
                sys.stdout.write(f"{address}  (Ctrl-C ends it)\n")
                sys.stdout.flush()
                if browser:
                    webbrowser.open(address)
                while True:
                    sleep(3600)
        finally:
            workspace.close()
    sys.stdout.write(f"{folder / LABELS}\n")
    return DONE
