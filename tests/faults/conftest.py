"""Fixtures of the tests that break things, and the table they end with."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from tests.faults.processes import Server, Whole, command_of, out_of, result
from tests.faults.table import FAULTS, INPUTS, Fault, fault, inputs

from soloist.errors import SoloistError

# A slow machine is no failure, and every run of `make test` tries the same inputs.
_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
settings.register_profile("quick", max_examples=30, derandomize=True, **_COMMON)
settings.register_profile("faults", max_examples=2000, **_COMMON)


# Bytes.
MAX_MEMORY = 2e9


@pytest.fixture(scope="session")
def faults() -> Callable[[str], Fault]:
    """The row of a fault."""
    return fault


@pytest.fixture(scope="session")
def hostile() -> Callable[[str], Any]:
    """`with hostile(kind):` around the use of an input that may be refused in one line."""

    @contextmanager
    def trying(kind: str) -> Iterator[None]:
        row = inputs(kind)
        row.tried += 1
        row.crashes += 1
        try:
            yield
        except SoloistError as error:
            message = str(error)
            assert message, "it is refused without a word"
            assert len(message) < 2000, f"it is refused in {len(message)} characters"
            assert message.isprintable() or "\n" not in message, "it is refused in several lines"
        row.crashes -= 1

    return trying


@pytest.fixture(scope="session")
def tried() -> Callable[[str, int], None]:
    """Notes inputs that another process tried without a crash."""

    def note(kind: str, count: int) -> None:
        inputs(kind).tried += count

    return note


@pytest.fixture(scope="module")
def bounded_memory() -> Iterator[None]:
    """What no small file may take, over all tests of a module."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MAX_MEMORY


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("quick")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("markexpr") or not (FAULTS or INPUTS):
        return
    rows = [("fault", "injected", "runs lost", "results differing")]
    rows += [(n, str(f.injected), str(f.lost), str(f.differing)) for n, f in FAULTS.items()]
    hostile_inputs = [("hostile input", "tried", "crashes", "")]
    # What is in brackets tries the judge.
    judged = {name: row for name, row in INPUTS.items() if not name.startswith("(")}
    hostile_inputs += [(name, str(row.tried), str(row.crashes), "") for name, row in judged.items()]
    terminalreporter.write_sep("=", "faults")
    for first, *numbers in [*rows, ("", "", "", ""), *hostile_inputs]:
        terminalreporter.write_line(f"{first:46}" + "".join(f"{text:>19}" for text in numbers))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts commands as processes."""
    started = Server(tmp_path_factory.mktemp("commands"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def how(tmp_path_factory: pytest.TempPathFactory, tiny_defaults: Mapping[str, Any]) -> list[str]:
    """Arguments of a verb that builds a network: tiny, and sure of what it finds."""
    options = {
        **tiny_defaults,
        "train": {**tiny_defaults["train"], "steps": 6, "ema_decay": 0.9},
        "pretrain": {**tiny_defaults["pretrain"], "steps": 6},
        "inference": {
            **tiny_defaults["inference"],
            "category_threshold": 0.0,
            "score_threshold": 0.0,
        },
        "self_training": {"score_threshold": 0.0, "max_per_image": 3, "max_box_width": 2.0},
    }
    path = tmp_path_factory.mktemp("options") / "tiny.yaml"
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return ["--config", str(path), "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="session")
def verbs(scenes: Path, model_folder: Path, how: list[str]) -> Mapping[str, list[str]]:
    """Each verb that works for long, without its --out."""
    images, truth = str(scenes / "images"), str(scenes / "annotations.json")
    return {
        "pretrain": ["pretrain", images, *how, "--pretrain.workers", "1"],
        "masks": ["masks", images, *how],
        "train": ["train", images, "--masks", truth, *how, "--train.workers", "1"],
        "fit": ["fit", images, "--preset", "tiny", *how, f"--gt={truth}"],
        "predict": ["predict", images, "--model", str(model_folder), *how[2:]],
    }


@pytest.fixture(scope="session")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, server: Server, verbs: Mapping[str, list[str]]
) -> Callable[[str], Whole]:
    """A run of a verb that nothing disturbs, made once."""

    @cache
    def run(verb: str) -> Whole:
        folder = tmp_path_factory.mktemp("unbroken")
        start = time.monotonic()
        outcome = server.run(*command_of(verbs, folder, verb))
        assert outcome.status == 0, outcome.err
        return Whole(result(out_of(folder, verb)), time.monotonic() - start)

    return run
