from __future__ import annotations

from email.message import Message

import pytest
from tools.licences import Package

from tools import licences


@pytest.mark.slow
def test_the_page_tells_what_is_installed() -> None:
    """Names and licences, not versions; `make licences` writes it anew."""
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page()


def test_the_page_names_all_that_the_lock_does() -> None:
    """Those of other systems too."""
    named = {one.name for one in licences.read(licences.PAGE.read_text(encoding="utf-8"))}
    assert licences.locked_names(licences.LOCK.read_text(encoding="utf-8")) - named == set()


def test_what_users_install_has_an_allowed_licence() -> None:
    packages = licences.read(licences.PAGE.read_text(encoding="utf-8"))
    assert {"torch", "cvat-sdk", "pyarrow", "ray", "pytest"} <= {one.name for one in packages}
    assert licences.refused(packages) == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        pytest.param(Package("a", "MIT", ""), True, id="permissive"),
        pytest.param(Package("a", "GPL-3.0-or-later", ""), False, id="copyleft"),
        pytest.param(Package("a", "GPL-3.0-or-later", "cvat"), False, id="by-an-extra"),
        pytest.param(Package("a", "GPL-3.0-or-later", "dev"), True, id="for-development"),
        pytest.param(Package("a", "unknown", ""), False, id="unknown"),
        pytest.param(Package("a", "MPL-2.0 AND MIT", ""), True, id="both"),
        pytest.param(Package("a", "MIT AND GPL-2.0-only", ""), False, id="both-with-one-refused"),
        pytest.param(Package("a", "MIT AND (GPL-2.0-only OR ISC)", ""), True, id="a-choice"),
        pytest.param(Package("a", "GPL-2.0-only OR AGPL-3.0-only", ""), False, id="no-choice"),
        pytest.param(Package("nvidia-nccl-cu13", licences.NVIDIA, ""), True, id="cuda"),
        pytest.param(Package("a", licences.NVIDIA, ""), False, id="elsewhere"),
    ],
)
def test_licences_are_distinguished(package: Package, allowed: bool) -> None:
    assert (licences.refused([package]) == []) == allowed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"License-Expression": "MIT", "License": "BSD"}, "MIT", id="expression-first"),
        pytest.param({"License": "Apache 2.0"}, "Apache-2.0", id="spelling"),
        pytest.param(
            {"License": "Copyright\n  All of it", "Classifier": "License :: OSI Approved :: MIT"},
            "MIT",
            id="whole-text",
        ),
        pytest.param(
            {"Classifier": "License :: OSI Approved :: Apache Software License"},
            "Apache-2.0",
            id="classifier",
        ),
        pytest.param({"Classifier": "License :: OSI Approved"}, "unknown", id="says-nothing"),
        pytest.param({"License": "My own"}, "My own", id="of-its-own"),
    ],
)
def test_a_licence_is_read_from_what_a_package_says(fields: dict[str, str], expected: str) -> None:
    facts = Message()
    for name, value in fields.items():
        facts[name] = value
    assert licences.licence_of("some", facts) == expected


def test_a_page_is_read_as_it_was_written() -> None:
    packages = [Package("a", "MIT", ""), Package("b", "ISC", "cvat"), Package("a-b", "0BSD", "dev")]
    assert sorted(licences.read(licences.render(packages))) == sorted(packages)


def test_a_lock_names_packages_of_all_systems() -> None:
    lock = (
        "# by make lock\n"
        "colorama==0.4.6 ; sys_platform == 'win32' \\\n"
        "    --hash=sha256:0 \\\n"
        "Jinja2==3.1\n"
        "    # via torch==2\n"
    )
    assert licences.locked_names(lock) == {"colorama", "jinja2"}
