"""Weights and models that somebody made up to do harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.faults.inputs import JSON, damaged, replaced

from soloist.checkpoints.files import load_tensors
from soloist.errors import CheckpointError
from soloist.models.build import load_solo

Hostile = Callable[[str], Any]
pytestmark = [
    pytest.mark.usefixtures("bounded_memory"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
]


class Trap:
    """Does harm when it is unpickled, in one of the ways that are known."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self._made = (call, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._made


def traps(sprung: Path) -> list[Trap]:
    code = f"open({str(sprung)!r}, 'w')"
    return [
        Trap(os.system, f"touch {sprung}"),
        Trap(eval, code),
        Trap(exec, code),
        Trap(open, str(sprung), "w"),
        Trap(Path.touch, sprung),
        Trap(getattr, Trap(__import__, "os"), "system"),
        Trap(torch.save, torch.zeros(1), str(sprung)),
        Trap(np.save, str(sprung), 0),
        Trap(pickle.loads, pickle.dumps(Trap(os.system, f"touch {sprung}"))),
    ]


TRAPS = len(traps(Path("x")))


@given(
    number=st.integers(0, TRAPS - 1),
    kind=st.sampled_from(["new.pt", "old.pth", "plain.pkl", "plain.pt"]),
    protocol=st.integers(2, 5),
    where=st.sampled_from(["alone", "beside", "key", "within"]),
)
def test_weights_that_run_code(
    tmp_path: Path, hostile: Hostile, number: int, kind: str, protocol: int, where: str
) -> None:
    sprung = tmp_path / "sprung"
    trap: Any = traps(sprung)[number]
    weights = torch.zeros(3)
    content: Any = {
        "alone": trap,
        "beside": {"weight": weights, "trap": trap},
        "key": {"weight": weights, "model": {"a": [trap]}},
        "within": {"state_dict": {"weight": weights, "epoch": trap}},
    }[where]
    path = tmp_path / kind
    if kind.startswith("plain"):
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(
            content,
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=kind.startswith("new"),
        )
    sprung.unlink(missing_ok=True)
    with hostile("weights that run code"), pytest.raises(CheckpointError):
        load_tensors(path)
    assert not sprung.exists()


def saved(kind: str) -> bytes:
    tensors = {"a.weight": torch.ones(2, 3), "b": torch.arange(4)}
    buffer = io.BytesIO()
    if kind == "old.pth":
        torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    elif kind == "new.pt":
        torch.save(tensors, buffer)
    else:
        pickle.dump({name: tensor.numpy() for name, tensor in tensors.items()}, buffer, 2)
    return buffer.getvalue()


WEIGHTS = {kind: saved(kind) for kind in ("new.pt", "old.pth", "plain.pkl")}


@given(data=st.data(), kind=st.sampled_from(sorted(WEIGHTS)))
def test_weights_of_other_bytes(
    tmp_path: Path, hostile: Hostile, data: st.DataObject, kind: str
) -> None:
    path = tmp_path / kind
    path.write_bytes(data.draw(damaged(WEIGHTS[kind]) | st.binary(max_size=64)))
    with hostile("weights"):
        assert load_tensors(path)


@given(data=st.data())
def test_safetensors_of_other_bytes(tmp_path: Path, hostile: Hostile, data: st.DataObject) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2, 3)}, path)
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary(max_size=64)))
    with hostile("weights"):
        load_tensors(path)


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    """A few kilobytes may stand for all the memory there is."""
    path = tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="it is compressed"):
        load_tensors(path)


def test_weights_that_repeat_their_numbers_without_end_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**40)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="save them without repetition"):
        load_tensors(tmp_path / "a.pt")


@pytest.fixture
def model(tmp_path: Path, model_folder: Path) -> Path:
    """A copy of a model folder, to be spoilt."""
    copy = tmp_path / "model"
    shutil.copytree(model_folder, copy)
    return copy


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model: Path, value: float) -> None:
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if name.endswith("conv1.0.weight"))
    tensors[name].view(-1)[7] = value
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(CheckpointError, match="must hold finite numbers, got others in"):
        load_solo(model)


@pytest.mark.slow
# A model is built for each.
@settings(max_examples=15 if settings().max_examples < 100 else 150)
@given(
    place=st.sampled_from(
        [
            (section, name)
            for section, names in {
                "backbone": ("name", "weights", "output_stride", "stages"),
                "model": ("fpn_channels", "tower_depth", "grids", "embedding_size"),
                "inference": ("short_side", "max_before_nms", "score_threshold"),
            }.items()
            for name in names
        ]
        + [("backbone",), ("model",), ("inference",), ()]
    ),
    value=JSON,
)
@example(place=("model", "fpn_channels"), value=2**40)
@example(place=("model", "tower_depth"), value=2**40)
@example(place=("model", "grids"), value=[2**40] * 5)
@example(place=("inference", "short_side"), value=2**40)
@example(place=("backbone", "weights"), value="hf:somebody/something/weights.pth")
@example(place=("backbone", "name"), value="hf_hub:somebody/something")
@example(place=("backbone", "name"), value="vit_giant_patch14_224")
def test_records_of_other_content(
    model_folder: Path, tmp_path: Path, hostile: Hostile, place: tuple[str, ...], value: Any
) -> None:
    copy = tmp_path / "model"
    if not copy.exists():
        shutil.copytree(model_folder, copy)
    record = json.loads((model_folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(replaced(record, place, value)))
    with hostile("records of models"):
        _, config = load_solo(copy)
        assert config.backbone.weights == "none"
