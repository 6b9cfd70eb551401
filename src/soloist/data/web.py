"""Images at http and https addresses, fetched for as long as the process runs.

Only what a user names is fetched: addresses that are in lists and COCO files are never asked.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from soloist.errors import DataError
from soloist.runtime.files import kept_folder

logger = logging.getLogger(__name__)

MAX_BYTES = 200 * 2**20
"""Of one image."""
PATIENCE = 20.0
"""Seconds without an answer after which it is given up."""
LONGEST = 300.0
"""Seconds that one image may take."""

_CHUNK = 2**18
_REMEDY = "check the address, or save the image and give its path"


def is_address(source: object) -> bool:
    """Whether a source is an http or https address."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def address_name(address: str) -> str:
    """The file name in an address, without what a file name should not hold."""
    try:
        name = unquote(PurePosixPath(urlsplit(address).path).name)
    except ValueError:  # Fetching it tells what is wrong.
        name = ""
    return re.sub(r"[^\w.-]", "_", name)[-100:].lstrip(".") or "image"


def fetch_image(address: str) -> Path:
    """Fetches an image into a temporary folder that is removed when the process ends.

    Args:
        address: Of http or https; redirects to other schemes are not followed.

    Raises:
        DataError: If it cannot be had, is larger than `MAX_BYTES` or takes longer than `LONGEST`.
    """
    folder = kept_folder("soloist-web-")
    path = folder / hashlib.sha256(address.encode()).hexdigest()[:12] / address_name(address)
    if path.is_file():
        return path
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        asked = request.Request(address, headers={"User-Agent": "soloist"})
        with _opener().open(asked, timeout=PATIENCE) as answer, unfinished.open("wb") as file:
            _copy(answer, file, address)
    except HTTPError as error:
        raise _failed(address, f"the server answers {error.code} {error.reason}") from error
    except URLError as error:
        raise _failed(address, str(error.reason)) from error
    # An address may be malformed in many ways: http.client and idna raise errors of these kinds.
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _failed(address, str(error) or type(error).__name__) from error
    unfinished.rename(path)
    logger.info("fetched %s (%.1f MB)", address, path.stat().st_size / 1e6)
    return path


def _copy(answer: BinaryIO, file: BinaryIO, address: str) -> None:
    start, size = time.monotonic(), 0
    while chunk := answer.read(_CHUNK):
        size += len(chunk)
        if size > MAX_BYTES:
            raise _failed(address, f"it is larger than {MAX_BYTES // 2**20} MiB")
        if time.monotonic() - start > LONGEST:
            raise _failed(address, f"it takes longer than {LONGEST:.0f} s")
        file.write(chunk)


def _failed(address: str, reason: str) -> DataError:
    return DataError(f"cannot fetch {address}: {reason}; {_REMEDY}")


def _opener() -> request.OpenerDirector:
    """Of http and https alone: urllib's usual one opens local files too."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.UnknownHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
