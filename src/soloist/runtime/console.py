"""Tables on standard output."""

from __future__ import annotations

import errno
import os

import rich.console


class Console(rich.console.Console):
    """Rich's, but what nobody reads any more ends a command as it does everywhere else."""

    def on_broken_pipe(self) -> None:
        """Passes on what rich makes an exit of its own, with the status of a failure.

        Raises:
            BrokenPipeError: Always.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
