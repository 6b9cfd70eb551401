from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from soloist.data.archives import unpacked_data_set
from soloist.data.sources import find_images
from soloist.errors import DataError

MODIFIED = 1_700_000_000


def png(color: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(content, "PNG")
    return content.getvalue()


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # a mode of a test
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), MODIFIED
            archive.addfile(info, io.BytesIO(content))
    return path


def gzipped(path: Path, files: Mapping[str, bytes]) -> Path:
    return tar(path, files, "w:gz")


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 5, 6, 7, 8, 10)), content)
    return path


MAKERS = pytest.mark.parametrize(
    ("make", "suffix"), [(tar, ".tar"), (gzipped, ".tar.gz"), (zipped, ".zip"), (zipped, ".ZIP")]
)
Make = Callable[[Path, Mapping[str, bytes]], Path]


@MAKERS
def test_images_of_an_archive_are_found_by_their_names_there(
    tmp_path: Path, make: Make, suffix: str
) -> None:
    files = {
        "b/2.png": png("red"),
        "a.png": png("blue"),
        "b/2.json": b"{}",
        "b/.hidden.png": png("red"),
        "__MACOSX/a.png": b"",
        "readme.txt": b"",
    }
    source = make(tmp_path / f"photos{suffix}", files)
    found = find_images(source)
    assert [image.name for image in found] == ["a.png", "b/2.png"]
    assert [image.path.read_bytes() for image in found] == [files["a.png"], files["b/2.png"]]
    # Twice, the same files: what was labelled is not labelled again.
    assert find_images(str(source)) == found


def test_times_are_those_in_the_archive(tmp_path: Path) -> None:
    (one,) = find_images(tar(tmp_path / "a.tar", {"a.png": png("red")}))
    assert one.path.stat().st_mtime == MODIFIED
    (other,) = find_images(zipped(tmp_path / "b.zip", {"a.png": png("red")}))
    assert other.path.stat().st_mtime < MODIFIED * 2


def test_shards_are_taken_together_by_pattern_folder_or_list(tmp_path: Path) -> None:
    for number in range(2):
        tar(tmp_path / f"shard-{number}.tar", {"0.png": png("red"), "1.png": png("blue")})
    for source in (
        tmp_path / "*.tar",
        tmp_path,
        [tmp_path / "shard-0.tar", tmp_path / "shard-1.tar"],
    ):
        names = [image.name for image in find_images(source)]
        assert len(set(names)) == 4
        assert [name.rpartition("/")[2] for name in names] == ["0.png", "1.png"] * 2
        assert all(name.startswith(f"shard-{place // 2}-") for place, name in enumerate(names))


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../../out.png"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str) -> None:
    (found,) = find_images(tar(tmp_path / "a.tar", {name: png("red")}))
    assert "soloist-archives-" in str(found.path)
    assert ".." not in found.path.parts
    assert found.name.endswith("out.png")


def test_of_two_of_one_name_the_later_is_taken_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": png("red")})
    tar(path, {"a.png": png("blue")}, "a")
    (one,) = find_images(path)
    assert one.path.read_bytes() == png("blue")
    assert "1 files are replaced by later ones" in caplog.text


def test_links_are_left_out(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": png("red")})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    assert [image.name for image in find_images(path)] == ["a.png"]


@MAKERS
def test_a_damaged_archive_is_one_line(tmp_path: Path, make: Make, suffix: str) -> None:
    path = make(tmp_path / f"a{suffix}", {f"{n}.png": os.urandom(5000) for n in range(3)})
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(DataError, match=r"^cannot unpack .*; fetch it again") as caught:
        find_images(path)
    assert "\n" not in str(caught.value)


def test_a_tar_that_is_cut_between_two_files_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": png("red"), "b.png": png("red")})
    path.write_bytes(path.read_bytes()[: 2 * 512])
    assert len(find_images(path)) == 1
    assert "it may be cut off" in caplog.text


def test_no_archive_at_all_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match="cannot unpack"):
        find_images(tmp_path / "a.zip")


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got .*a\.zip' with none in it"):
        find_images(zipped(tmp_path / "a.zip", {"readme.txt": b"none"}))


@MAKERS
def test_a_data_set_is_unpacked_with_its_labels(tmp_path: Path, make: Make, suffix: str) -> None:
    files = {"a/b.json": b"{}", "labels/c.TXT": b"0", "images/c.png": png("red")}
    others = {"run.sh": b"exit", "a/.hidden.json": b"{}", "__MACOSX/b.json": b""}
    source = make(tmp_path / f"set{suffix}", {**files, **others})
    folder = unpacked_data_set(source)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(files)
    # Their images alone are the same files.
    assert [image.path for image in find_images(source)] == [folder / "images" / "c.png"]
    assert unpacked_data_set(source) == folder


def test_labels_stay_in_the_folder(tmp_path: Path) -> None:
    folder = unpacked_data_set(zipped(tmp_path / "a.zip", {"../../out.json": b"{}"}))
    assert (folder / "out.json").is_file()


def test_an_archive_without_labels_and_images_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got .*a\.zip' with neither labels nor images in it"):
        unpacked_data_set(zipped(tmp_path / "a.zip", {"run.sh": b"none"}))


def test_one_that_does_not_fit_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "a.tar", {"a.png": png("red")})

    class Usage:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(DataError, match="set TMPDIR to a larger disk"):
        find_images(path)


def test_a_disk_that_fills_up_meanwhile_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", fill)
    with pytest.raises(DataError, match="No space left on device; check space") as caught:
        find_images(tar(tmp_path / "full.tar", {"a.png": png("red")}))
    assert "fetch it again" not in str(caught.value)
