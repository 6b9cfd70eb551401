"""Serves the page to this machine alone, asks nobody outside and leaves no file behind."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from soloist.errors import ConfigError, RunError
from soloist.inference.segmenter import Segmenter

LOOPBACK = "127.0.0.1"
_OTHER = "choose another with --port"


def check_ready(port: int) -> None:
    """Finds out whether the page can be served, before anything is loaded for it.

    Args:
        port: On the loopback interface.

    Raises:
        ConfigError: If Gradio is not installed, or the port is no port.
        RunError: If the port cannot be had.
    """
    if find_spec("gradio") is None:
        raise ConfigError(
            "soloist app wants gradio, which is absent; pip install '.[app]' in Soloist's folder"
        )
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port must be from 1 to 65535, got {port}")
    with socket.socket() as probe:
        # A port that a server left a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise RunError(f"cannot serve on port {port}: {error.strerror}; {_OTHER}") from error


@contextmanager
def serve(segmenter: Segmenter, *, port: int) -> Iterator[str]:
    """Serves the page on the loopback interface until the block ends.

    All files, uploads too, lie in a temporary folder that is removed with it.

    Args:
        segmenter: The network to try.
        port: One that `check_ready` found free.

    Yields:
        The page's address.

    Raises:
        RunError: If the server does not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="soloist-app-", ignore_cleanup_errors=True) as folder,
        _environment(folder),
    ):
        # Gradio reads a part of the environment when it is imported.
        from soloist.cli.studio.page import CSS, THEME, build_page

        page = build_page(segmenter, Path(folder))
        try:
            _, address, _ = page.launch(
                server_name=LOOPBACK,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                inline=False,
                ssr_mode=False,
                num_workers=0,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                run_history=False,
                state_session_capacity=8,
                footer_links=[],
                theme=THEME,
                css=CSS,
            )
        except OSError as error:
            raise RunError(
                f"the page's server did not start on port {port}; try again, or {_OTHER}"
            ) from error
        try:
            yield address
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """What Gradio takes from the environment alone, until the block ends."""
    # It asks its own server whether it is up, in which a proxy has no part.
    proxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    direct = f"{proxied},{LOOPBACK}" if proxied else LOOPBACK
    changes = {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "no_proxy": direct,
        "NO_PROXY": direct,
    }
    before = {name: os.environ[name] for name in changes if name in os.environ}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]
        os.environ.update(before)
