"""Who may import whom (STYLE.md, rule 1), and that the command line starts without torch."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

import soloist
from soloist.cli import app

PACKAGE = Path(soloist.__file__).parent

# Bottom up. A unit (a module of the root, a package, or a package within one) may import from
# lower rows only; within a unit everything may import its neighbours, across the units of one
# row nothing may.
LAYERS = (
    # The root holds the version; the names it offers are imported on first use only.
    {"root", "errors", "structures", "ops"},
    {"runtime"},
    {"checkpoints"},
    {"config"},
    {"free_mask", "targets", "losses", "postprocess", "data"},
    {"data.coco"},
    {"data.tools"},
    {"data.datasets", "data.drawing"},
    {"data.exports"},
    {"models"},
    {"proposals"},
    {"inference"},
    {"inference.onnx", "inference.video"},
    {"evaluation"},
    {"evaluation.explore"},
    {"training.data"},
    {"training"},
    {"report"},
    {"api"},
    {"training.experiments", "integrations", "cli.studio"},
    {"cli"},
    {"__main__"},
)
RANKS = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}

# Beyond the order of the rows: what the foundations may import at all.
NARROW = {
    "errors": set(),
    "ops": set(),
    "structures": set(),
    "runtime": {"root", "errors"},
    "checkpoints": {"errors", "runtime"},
    "config": {"errors", "runtime", "checkpoints"},
    "free_mask": {"config", "ops", "structures"},
    "targets": {"ops", "structures"},
    "losses": {"config", "ops", "structures"},
    "postprocess": {"config", "ops", "structures"},
}

MAX_ENTRIES = 20
"""Parts of the code at the top: modules and packages, without `NO_PARTS`."""
MAX_FILES = 15
"""Files of any kind in any folder, those of pages, templates and weights too."""
NO_PARTS = {"__init__.py", "__main__.py", "py.typed", "weights", "__pycache__"}
"""What Python or a type checker wants at the top of every package, and what is no code."""

VERBS = sorted(name for name in app if not name.startswith("-"))


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def unit_of(module: str) -> str:
    """`soloist.data.coco.read` -> `data.coco`; the package itself is `root`."""
    _, *parts = module.split(".")
    return next((unit for unit in (".".join(parts[:2]), *parts[:1]) if unit in RANKS), "root")


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import, those inside functions too."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            assert node.module is not None
            for alias in node.names:
                # `from soloist import data` names a unit, `from soloist import load` does not.
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if unit_of(whole) != unit_of(node.module) else node.module


def arrows(path: Path) -> Iterator[tuple[int, str]]:
    """Line and unit of what a file imports from the package outside its own unit."""
    own = unit_of_file(path)
    for line, module in imported_modules(path):
        if module.split(".")[0] == "soloist" and unit_of(module) != own:
            yield line, unit_of(module)


def unit_of_file(path: Path) -> str:
    """The unit that a file ought to be of, whether it is a known one or not."""
    *folders, name = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(folders) or ("root" if name == "__init__" else name)


def is_allowed(own: str, imported: str) -> bool:
    return RANKS[imported] < RANKS[own] and imported in NARROW.get(own, RANKS)


def test_every_unit_has_a_layer() -> None:
    assert {unit_of_file(path) for path in source_files()} == set(RANKS)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    own = unit_of_file(path)
    if own == "root":
        # Lazy and for the type checker only; the subprocess test below sees what really loads.
        assert {unit for _, unit in arrows(path)} <= {"api", "inference"}
        return
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line} {own} -> {unit}"
        for line, unit in arrows(path)
        if not is_allowed(own, unit)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("own", "imported", "allowed"),
    [
        pytest.param("training", "losses", True, id="downward"),
        pytest.param("losses", "training", False, id="upward"),
        pytest.param("losses", "data", False, id="sideways"),
        pytest.param("data.coco", "data", True, id="to-the-package-around"),
        pytest.param("data", "data.coco", False, id="to-a-package-within"),
        pytest.param("runtime", "ops", False, id="foundation-beyond-its-list"),
    ],
)
def test_the_rule_tells_arrows_apart(own: str, imported: str, allowed: bool) -> None:
    assert is_allowed(own, imported) == allowed


def test_imports_are_read_from_every_form(tmp_path: Path) -> None:
    source = tmp_path / "some.py"
    source.write_text(
        "import soloist.ops.nms\n"
        "from soloist import data, load\n"
        "def late():\n"
        "    from soloist.training.train import train\n"
        "    from soloist.data.coco import read\n"
        "    from soloist.data.images import read_image\n"
    )
    assert [unit_of(module) for _, module in imported_modules(source)] == [
        "ops",
        "data",
        "root",
        "training",
        "data.coco",
        "data",
    ]


def test_a_newcomer_overlooks_each_room() -> None:
    """Few entries at the top and few files in a folder; packages are two levels deep at most."""
    assert len({path.name for path in PACKAGE.iterdir()} - NO_PARTS) <= MAX_ENTRIES
    files = Counter(
        path.parent.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    )
    assert {str(folder): count for folder, count in files.items() if count > MAX_FILES} == {}
    packages = {path.parent.relative_to(PACKAGE) for path in source_files()}
    assert {package for package in packages if len(package.parts) > 2} == set()


@pytest.mark.parametrize(
    "banned",
    [
        pytest.param("torchvision.ops", id="compiled-operators"),
        pytest.param("torchvision.io", id="deprecated-decoders"),
    ],
)
def test_parts_of_torchvision_are_never_imported(banned: str) -> None:
    users = [
        str(path.relative_to(PACKAGE))
        for path in source_files()
        for _, module in imported_modules(path)
        if f"{module}.".startswith(f"{banned}.")
    ]
    assert users == []


def test_only_the_command_line_prints_and_exits() -> None:
    calls = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in source_files()
        if unit_of_file(path) != "cli"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "exit", "quit", "sys.exit", "os._exit"}
    ]
    assert calls == []


def test_no_exception_is_caught_without_a_name() -> None:
    bare = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in source_files()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    ]
    assert bare == []


@pytest.mark.parametrize("name", ["utils", "util", "misc", "common", "helpers"])
def test_no_module_is_a_drawer(name: str) -> None:
    assert [path for path in source_files() if path.stem == name] == []


def test_the_command_line_is_imported_without_torch() -> None:
    code = "import sys, soloist, soloist.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "soloist" in loaded
    assert loaded & {"torch", "torchvision", "timm", "PIL", "numpy", "skimage"} == set()


@pytest.mark.slow
def test_the_verbs_are_imported_without_what_is_slow_and_seldom_used() -> None:
    code = "import sys, gc; from soloist import api; print(gc.isenabled(), *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    collects, *loaded = done.stdout.split()
    assert collects == "True"
    assert "soloist.api.labelling" in loaded
    slow = {"scipy.stats", "scipy.signal", "pandas", "sklearn", "pyarrow", "onnx", "accelerate"}
    assert slow & set(loaded) == set()


def help_text(*arguments: str) -> str:
    """What `soloist ... --help` prints."""
    printed = io.StringIO()
    app.help_print(list(arguments), console=Console(file=printed, width=100))
    return printed.getvalue()


def test_help_lists_every_verb() -> None:
    text = help_text()
    assert [verb for verb in VERBS if f"│ {verb} " not in text] == []
    assert {"demo", "doctor", "eval", "fit", "masks", "predict", "pretrain", "report"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    assert help_text(verb).split()[:3] == ["Usage:", "soloist", verb]
