"""Processor time of `soloist VERB --help`, which promises an answer at once; part of `make bench`.

    python benchmarks/help_times.py

Prints the best of five for each verb; 1 if one needs more than `LIMIT`. Wants an idle machine.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from soloist.cli import app

LIMIT = 0.6
"""Seconds; 0.5 are promised on an idle machine."""
REPEATS = 5
COMMAND = Path(sys.executable).with_name("soloist")


def main() -> int:
    """Measures and prints all verbs."""
    verbs = sorted(name for name in app if not name.startswith("-"))
    slowest = 0.0
    for verb in ("", *verbs):
        arguments = [verb] if verb else []
        seconds = min(help_seconds(arguments) for _ in range(REPEATS))
        slowest = max(slowest, seconds)
        print(f"{seconds:.2f} s  soloist {' '.join([*arguments, '--help'])}")
    return int(slowest > LIMIT)


def help_seconds(arguments: list[str]) -> float:
    """Processor time of one call, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([COMMAND, *arguments, "--help"], stdout=subprocess.DEVNULL, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before.ru_utime


if __name__ == "__main__":
    sys.exit(main())
