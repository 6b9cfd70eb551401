"""Kinds of image files: those that are read, and those that people have and that are not."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterable
from functools import cache

from PIL import Image

from soloist.runtime.files import shown

logger = logging.getLogger(__name__)

# Formats Pillow names but cannot decode by itself (stubs), or decodes by running Ghostscript.
_UNSUPPORTED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_HEIF = {".heic", ".heics", ".heif", ".heifs", ".hif"}
# Of cameras. Many are TIFFs inside, of which other readers would take the preview.
_RAW = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25"),
    *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
    *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}
_HEIF_REMEDY = "pip install pillow-heif"
_RAW_REMEDY = "export them as TIFF or JPEG"


@cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read; HEIF is where pillow-heif is installed."""
    Image.init()
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        logger.debug("HEIF is not read: %s", error)
    return tuple(name for name in Image.OPEN if name not in _UNSUPPORTED_FORMATS)


@cache
def _suffixes() -> frozenset[str]:
    formats = readable_formats()
    known = Image.registered_extensions().items()
    # MPO (pairs of JPEGs from phones) is opened by the JPEG reader.
    return frozenset(suffix for suffix, name in known if name in formats) | {".mpo"}


def is_image_name(name: str) -> bool:
    """Whether a file is called like an image that can be read."""
    suffix = _suffix(name)
    return suffix in _suffixes() and suffix not in _RAW


def why_not_read(name: str) -> str | None:
    """What an image of this name is that is not read, and the remedy; None if it is read."""
    suffix = _suffix(name)
    if suffix in _RAW:
        return f"it is a camera's RAW file; {_RAW_REMEDY.replace('them', 'it')}"
    if suffix in _HEIF and "HEIF" not in readable_formats():
        return f"it is a HEIC file; {_HEIF_REMEDY}"
    return None


def not_read(names: Iterable[str]) -> str:
    """How many names are those of images that are not read, by their kind; empty if none are."""
    found: dict[str, list[str]] = {}
    for name in names:
        if why_not_read(name) is not None:
            found.setdefault("RAW" if _suffix(name) in _RAW else "HEIC", []).append(name)
    return ", ".join(
        f"{len(ones):,} {kind} files (such as {shown(min(ones))}: "
        f"{_RAW_REMEDY if kind == 'RAW' else _HEIF_REMEDY})"
        for kind, ones in sorted(found.items())
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
