"""Scores masks on real photographs: `command.py`, started from anywhere by this file's path."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from benchmarks.photographs.command import app

    sys.exit(app())
