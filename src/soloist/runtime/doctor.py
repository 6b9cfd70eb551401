"""What `soloist doctor` finds out about this machine."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from soloist.runtime.device import choose_runtime, has_fast_bf16, usable_cores
from soloist.runtime.environment import PACKAGES, environment

MIN_FREE_GB = 2.0


def examine() -> tuple[list[str], bool]:
    """Looks at versions, devices and settings.

    Returns:
        Lines to print, and whether nothing is misconfigured.
    """
    facts = environment()
    runtime = choose_runtime()
    lines = [
        f"python        {facts['python']} on {facts['platform']}",
        *(f"{name:<13} {_version(name)}" for name in PACKAGES),
        f"runs on       {runtime}",
        f"cores         {usable_cores()} usable of {os.cpu_count()}",
        f"bfloat16      {'fast here' if has_fast_bf16(runtime.device) else 'not used here'}",
        f"free disk     {_free_gb():.1f} GB",
    ]
    problems = _problems()
    lines += [f"problem       {problem}" for problem in problems] or ["all is well"]
    return lines, not problems


def _problems() -> list[str]:
    problems = []
    try:
        import torchvision.transforms.v2  # noqa: F401  # the import itself is the check
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        problems.append(
            f"torchvision does not import ({reason}); install torch and torchvision of one "
            "release and one kind (both CPU or both CUDA)"
        )
    # A list gives the threads of nested levels, outermost first.
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if threads and not threads.isdigit():
        problems.append(f"OMP_NUM_THREADS is {threads!r}, which is not a number; unset it")
    elif threads and int(threads) < usable_cores():
        problems.append(
            f"OMP_NUM_THREADS is {threads} on {usable_cores()} cores; unset it for full speed"
        )
    if _free_gb() < MIN_FREE_GB:
        problems.append(f"less than {MIN_FREE_GB:.0f} GB free here; runs may not fit")
    return problems


def _free_gb() -> float:
    return shutil.disk_usage(Path.cwd()).free / 1e9


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
