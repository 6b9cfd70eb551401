"""Versions and machine of a run."""

from __future__ import annotations

import platform
import sys
import time
from importlib.metadata import version
from typing import Any

PACKAGES = ("soloist", "torch", "torchvision", "timm", "numpy", "pillow", "pycocotools")


def environment() -> dict[str, Any]:
    """Versions and machine, for environment.json and `soloist doctor`."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in PACKAGES},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
