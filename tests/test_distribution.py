"""What people install: the wheel, the source archive, the command in a place of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata

import soloist
from soloist.data.coco.read import load_coco
from soloist.data.scenes import write_scenes

pytest.importorskip("hatchling", reason="the build back end is absent: make setup")

ROOT = Path(__file__).parents[1]
NAME = f"soloist-{soloist.__version__}"
# Tracked, and of no use to who has the source archive.
NOT_SHIPPED = {
    ".ci/run",
    ".github/ISSUE_TEMPLATE/bug_report.yml",
    ".github/ISSUE_TEMPLATE/config.yml",
    ".github/ISSUE_TEMPLATE/feature_request.yml",
    ".github/workflows/ci.yml",
    ".pre-commit-config.yaml",
}
# Bytes; nearly all of them are the bundled weights.
MAX_BYTES = 15_000_000


class Built(NamedTuple):
    """What is uploaded."""

    wheel: Path
    sdist: Path


def run(*command: str | Path, at: Path, **variables: str) -> str:
    """What a command prints that succeeds; it sees nothing of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=at,
        env={**kept, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built by the installed back end, which is the locked one."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, at=ROOT)
    return Built(folder / f"{NAME}-py3-none-any.whl", folder / f"{NAME}.tar.gz")


def names_in(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.removeprefix(f"{NAME}/") for member in archive if member.isfile()}


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    package = ROOT / "src" / "soloist"
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    with ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = set(archive.namelist()) - names
    assert names == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {"soloist/py.typed", "soloist/weights/segmenter/model.safetensors"} <= names
    facts = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert about == {f"{NAME}.dist-info/{name}" for name in facts}
    assert built.wheel.stat().st_size < MAX_BYTES


def test_the_metadata_is_valid_and_says_what_is_promised(built: Built) -> None:
    with ZipFile(built.wheel) as archive:
        facts = Metadata.from_email(archive.read(f"{NAME}.dist-info/METADATA"), validate=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (facts.name, str(facts.version)) == ("soloist", soloist.__version__)
    assert facts.license_expression == "Apache-2.0"
    assert facts.description_content_type == "text/markdown"
    assert facts.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(facts.provides_extra or ()) == set(project["optional-dependencies"])
    # Bounds from above or exact versions would bind those who use other packages beside this one.
    operators = {one.operator for need in facts.requires_dist or () for one in need.specifier}
    assert operators == {">="}


def test_the_source_archive_holds_all_that_is_tracked(built: Built) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout tells what is tracked")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", at=ROOT)
    tracked = {name for name in listed.splitlines() if (ROOT / name).is_file()}
    assert names_in(built.sdist) == tracked - NOT_SHIPPED | {"PKG-INFO"}
    assert built.sdist.stat().st_size < MAX_BYTES


@pytest.mark.slow
def test_the_source_archive_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--wheel-dir", tmp_path, built.sdist, at=tmp_path)
    again = tmp_path / built.wheel.name
    with ZipFile(built.wheel) as one, ZipFile(again) as other:
        assert set(one.namelist()) == set(other.namelist())
        assert [name for name in one.namelist() if one.read(name) != other.read(name)] == []


@pytest.fixture(
    scope="module",
    params=["locked", pytest.param("newest", marks=pytest.mark.downloads)],
)
def installed(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Commands of an environment with the wheel; the checkout is not in it.

    What it depends on is that of the tests' own environment, or for `make dist` what pip finds.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=request.param == "newest")
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    commands = Path(paths["scripts"])
    if request.param == "newest":
        run(commands / "python", "-m", "pip", "install", "--quiet", built.wheel, at=folder)
    else:
        pip = (sys.executable, "-m", "pip", "--python", commands / "python", "install", "--quiet")
        run(*pip, "--no-deps", "--no-index", built.wheel, at=folder)
        # Its packages, but not what it has in .pth files: the checkout is not followed.
        shared = Path(paths["purelib"]) / "shared.pth"
        shared.write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    yield commands
    # pytest keeps its folders for a while; with PyTorch this one has gigabytes.
    shutil.rmtree(folder)


def test_the_wheel_is_what_is_imported(installed: Path, tmp_path: Path) -> None:
    source = run(installed / "python", "-c", "import soloist; print(soloist.__file__)", at=tmp_path)
    assert Path(source).is_relative_to(installed.parent)


@pytest.mark.slow
def test_the_wheel_has_all_it_requires(installed: Path, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", installed / "python")
    assert "No broken requirements" in run(*pip, "check", at=tmp_path)


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "soloist", "--version", at=tmp_path).strip() == soloist.__version__
    assert "predict" in run(installed / "soloist", "--help", at=tmp_path)


@pytest.mark.slow
def test_the_installed_command_segments_with_the_bundled_weights(
    installed: Path, tmp_path: Path
) -> None:
    write_scenes(tmp_path, 1, seed=5, long_side=160)
    (image,) = (tmp_path / "images").iterdir()
    run(installed / "soloist", "predict", image, "--out", "masks.json", at=tmp_path)
    found = load_coco(tmp_path / "masks.json")
    assert len(found) > 0
    assert json.loads((tmp_path / "masks.json").read_text())["info"]["model"] == "bundled"
