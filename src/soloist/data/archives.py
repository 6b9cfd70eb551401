"""Images and labels in tar and zip files: unpacked for as long as the process runs."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from soloist.data.kinds import is_image_name
from soloist.errors import DataError
from soloist.runtime.files import disk_trouble, inner_path, kept_folder, one_line, shown

logger = logging.getLogger(__name__)

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ZIPS = (".zip",)
_LABELS = (".json", ".xml", ".txt", ".yaml", ".yml", ".csv")
"""Files of labelled data sets that are no images."""
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    # A password that is missing, and a way to compress that is not known.
    *(RuntimeError, NotImplementedError),
)


class _Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: Its path there.
        size: Bytes once unpacked.
        modified: Seconds since 1970.
        unpack: Writes it to an open file.
    """

    name: str
    size: int
    modified: float
    unpack: Callable[[Path], None]


def is_archive(name: str | Path) -> bool:
    """Whether a file is called like an archive that is read."""
    return str(name).lower().endswith((*TARS, *ZIPS))


def unpacked(archive: Path) -> list[tuple[Path, str]]:
    """Unpacks the images of an archive into a temporary folder, removed when the process ends.

    Args:
        archive: The file; members that are no images, hidden ones and links are left out.

    Returns:
        Path of each image and its name in the archive, by names; at least one.

    Raises:
        DataError: If it is damaged, holds no image, or more than there is room for.
    """
    folder, found = _unpack(archive, is_image_name)
    if not found:
        raise DataError(
            f"wanted images, got {shown(archive)} with none in it; give an archive with files "
            "such as .jpg, .png or .tif"
        )
    return [(path, path.relative_to(folder).as_posix()) for path in found]


def unpacked_data_set(archive: Path) -> Path:
    """Unpacks images and files of labels, as `unpacked` does, into the same folder.

    Returns:
        The folder, which has what `unpacked` unpacked, too.

    Raises:
        DataError: If it is damaged, holds neither, or more than there is room for.
    """
    folder, found = _unpack(
        archive, lambda name: is_image_name(name) or name.lower().endswith(_LABELS)
    )
    if not found:
        raise DataError(
            f"wanted a data set, got {shown(archive)} with neither labels nor images in it; give "
            "an archive with files such as .json, .xml, .txt, .jpg or .png"
        )
    return folder


def _unpack(archive: Path, is_wanted: Callable[[str], bool]) -> tuple[Path, list[Path]]:
    """The folder that an archive's files go to, and those that are wanted, by their names."""
    # It takes torch along, which exported networks are run without.
    from soloist.runtime.progress import track

    known = hashlib.sha256(os.fsencode(archive.absolute())).hexdigest()[:8]
    room = kept_folder("soloist-archives-")
    folder = room / f"{archive.name.split('.')[0]}-{known}"
    with _with_advice(archive), _opened(archive) as every:
        wanted = [one for one in every if not _is_hidden(one.name) and is_wanted(one.name)]
        # What was added later under the same name takes its place, as when tar unpacks it.
        places = {inner_path(one.name): one for one in wanted}
        if len(places) < len(wanted):
            logger.warning(
                "%s: %d files are replaced by later ones of the same name",
                shown(archive),
                len(wanted) - len(places),
            )
        needed = sum(one.size for one in places.values())
        free = shutil.disk_usage(room).free
        if needed > free:
            raise DataError(
                f"wanted room for the files of {shown(archive)}, {needed / 1e9:.1f} GB, got "
                f"{free / 1e9:.1f} GB in {shown(room)}; set TMPDIR to a larger disk"
            )
        is_new = False
        with track(f"unpack {archive.name}", len(places)) as tracker:
            for name, member in places.items():
                path = folder / name
                if not path.is_file():
                    is_new = True
                    path.parent.mkdir(parents=True, exist_ok=True)
                    unfinished = path.with_name(f"{path.name}.part")
                    member.unpack(unfinished)
                    # The next command sees that it is the same file.
                    os.utime(unfinished, (member.modified, member.modified))
                    unfinished.rename(path)
                tracker.advance()
    if is_new:
        logger.info("unpacked %d files of %s (%.0f MB)", len(places), shown(archive), needed / 1e6)
    return folder, [folder / name for name in sorted(places, key=Path.as_posix)]


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in parts)


@contextmanager
def _with_advice(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        trouble = disk_trouble(error) if isinstance(error, OSError) else None
        if trouble is not None:
            raise DataError(f"cannot unpack {shown(archive)}: {trouble}") from error
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot unpack {shown(archive)}: {one_line(error) or type(error).__name__}; fetch it "
        "again, or unpack it and give the folder"
    )


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    if archive.name.lower().endswith(ZIPS):
        with zipfile.ZipFile(archive) as zipped:
            yield [_of_zip(zipped, one) for one in zipped.infolist() if not one.is_dir()]
    else:
        with tarfile.open(archive) as tar:
            members = [_of_tar(tar, one) for one in tar.getmembers() if one.isreg()]
            _check_end(tar, archive)
            yield members


def _check_end(tar: tarfile.TarFile, archive: Path) -> None:
    """Tarfile takes a file that was cut off for one that ends there.

    Raises:
        tarfile.ReadError: If a member's header is cut off.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = len(tar.fileobj.read(tarfile.BLOCKSIZE))
    if 0 < rest < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends within a file")
    if rest == 0:
        logger.warning("%s has no mark at its end: it may be cut off", shown(archive))


def _of_zip(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    def unpack(path: Path) -> None:
        with zipped.open(info) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)

    modified = time.mktime((*info.date_time, 0, 0, -1))
    return _Member(info.filename, info.file_size, modified, unpack)


def _of_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def unpack(path: Path) -> None:
        source = tar.extractfile(info)
        assert source is not None  # It is a regular file.
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target)

    return _Member(info.name, info.size, float(info.mtime), unpack)
