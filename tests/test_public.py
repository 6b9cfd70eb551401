"""What users import: documented, annotated, and understood by their type checker."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import soloist
import soloist.inference.onnx.runtime

ROOT = Path(__file__).parents[1]
USER_SCRIPT = Path(__file__).with_name("user_script.py")
WITHOUT_TORCH = ("OnnxSegmenter", "Result", "load")


def public_things() -> Iterator[tuple[str, Any]]:
    """Functions and classes that users import, and the public methods of the classes."""
    named = [(f"soloist.{name}", getattr(soloist, name)) for name in soloist.__all__]
    twins = [
        (f"onnx_runtime.{name}", getattr(soloist.inference.onnx.runtime, name))
        for name in WITHOUT_TORCH
    ]
    for name, thing in [*named, *twins]:
        yield name, thing
        if inspect.isclass(thing):
            yield from (
                (f"{name}.{method}", getattr(thing, method)) for method in public_methods(thing)
            )


def public_methods(kind: type[Any]) -> list[str]:
    """Those of ours: what a class inherits from elsewhere is documented there."""
    own = [one for one in kind.__mro__ if one.__module__.split(".")[0] == "soloist"]
    names = {name for one in own for name, value in vars(one).items() if is_method(name, value)}
    return sorted(names)


def is_method(name: str, value: Any) -> bool:
    public = not name.startswith("_") or name in {"__call__", "__getitem__", "__iter__"}
    return public and isinstance(value, Callable | classmethod | staticmethod)  # type: ignore[arg-type]  # an ABC


THINGS = list(public_things())
each_thing = pytest.mark.parametrize(("name", "thing"), THINGS, ids=[name for name, _ in THINGS])


def parameters(thing: Any) -> list[inspect.Parameter]:
    return [one for one in inspect.signature(thing).parameters.values() if one.name != "self"]


def test_every_name_that_is_offered_is_there() -> None:
    assert sorted(soloist.__all__) == soloist.__all__
    assert set(soloist.__all__) <= set(dir(soloist))
    assert "soloist.Result.to_dict" in dict(THINGS)
    assert "onnx_runtime.Result.to_supervision" in dict(THINGS)
    assert len(THINGS) > 30


@each_thing
def test_it_is_documented(name: str, thing: Any) -> None:
    text = inspect.getdoc(thing) or ""
    # Of a dataclass without a docstring Python makes one up.
    assert text.splitlines()[0].endswith((".", ":")), text
    arguments = {one.name for one in parameters(thing)} if inspect.isroutine(thing) else set()
    if "\n" in text:  # One line speaks of them all.
        assert {argument for argument in arguments if f"{argument}: " not in text} == set()


@each_thing
def test_it_is_annotated(name: str, thing: Any) -> None:
    function = thing.__init__ if inspect.isclass(thing) else thing
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    assert [one.name for one in parameters(function) if one.annotation is one.empty] == []


def check_types(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """mypy as `make check` runs it, whose cache makes this quick."""
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_a_strict_type_checker_knows_what_comes_back(tmp_path: Path) -> None:
    (ROOT / "src" / "soloist" / "py.typed").read_bytes()
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    text = USER_SCRIPT.read_text(encoding="utf-8")
    right.write_text(f"{text}\n\nreveal_type(soloist.load().predict('photo.jpg'))\n")
    wrong.write_text(f"{text}\n\nsoloist.load().predict('photo.jpg')[0].mask\n")
    said = check_types(right, wrong).stdout
    assert "Found 1 error in 1 file" in said, said
    assert 'Revealed type is "list[soloist.inference.results.Result[' in said
    assert 'has no attribute "mask"; maybe "masks"?' in said


def test_the_version_stands_in_one_place() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "version" not in citation
    for name in ("pyproject.toml", "README.md", "zensical.toml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"soloist=={soloist.__version__}" not in text
        assert f'version = "{soloist.__version__}"' not in text


def test_ci_tries_the_systems_and_pythons_of_the_lock() -> None:
    """Those that tests/test_lock.py looks at."""
    file = ROOT / ".github" / "workflows" / "ci.yml"
    if not file.is_file():
        pytest.skip("the source archive has no workflow")
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["matrix"]["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["system"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
