from __future__ import annotations

import io
import os
import pickle
import struct
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from soloist.checkpoints.files import load_tensors
from soloist.checkpoints.pickles import load_pickle
from soloist.errors import CheckpointError


def write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def detectron2_file(weights: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {"model": weights, "__author__": "third_party", "matching_heuristics": True}


# What may be in a file


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(6, dtype=np.float32).reshape(2, 3), id="float32"),
        pytest.param(np.arange(6, dtype=np.float16).reshape(1, 6, 1), id="float16"),
        pytest.param(np.linspace(-1, 1, 5), id="float64"),
        pytest.param(np.array([-3, 2**40]), id="int64"),
        pytest.param(np.array([0, 255], dtype=np.uint8), id="uint8"),
        pytest.param(np.array([True, False]), id="bool"),
        pytest.param(np.array(7), id="counter-without-sides"),
        pytest.param(np.zeros((0, 3), dtype=np.float32), id="empty"),
        pytest.param(np.arange(6.0).reshape(2, 3).T, id="columns-first"),
        pytest.param(np.asfortranarray(np.arange(6.0).reshape(2, 3)), id="fortran"),
        pytest.param(np.arange(4, dtype=">f4"), id="big-endian"),
    ],
)
def test_arrays_come_back(tmp_path: Path, protocol: int, array: npt.NDArray[Any]) -> None:
    path = write(tmp_path / "w.pkl", detectron2_file({"a": array, "b": array}), protocol)
    loaded = load_tensors(path)
    assert list(loaded) == ["a", "b"]
    for tensor in loaded.values():
        native = array.astype(array.dtype.newbyteorder("="))
        assert tensor.shape == native.shape
        np.testing.assert_array_equal(tensor.numpy(), native)
        assert tensor.numpy().dtype == native.dtype


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_plain_values_and_containers_come_back(tmp_path: Path, protocol: int) -> None:
    content = {"a": [1, 2.5, None, "x", True, b"\x00\xff", b""], "b": OrderedDict(c={"d": (4,)})}
    loaded = load_pickle(write(tmp_path / "w.pkl", content, protocol))
    assert loaded == {"a": content["a"], "b": {"c": {"d": [4]}}}


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_numbers_of_numpy_are_tensors_without_sides(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path / "w.pkl", {"a": np.float32(2.5), "b": np.int64(-4)}, protocol)
    assert load_pickle(path) == {"a": torch.tensor(2.5), "b": torch.tensor(-4)}


class State:
    """Pickled as an array with a state of its own."""

    def __init__(self, *state: object) -> None:
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: Any = np.zeros(1).__reduce__()
        return reduced[0], reduced[1], self.state


def test_bytes_that_python_2_wrote_as_text_are_read(tmp_path: Path) -> None:
    raw = np.array([1.5, -2.0], dtype="<f4").tobytes()
    old = State(1, (2,), np.dtype("<f4"), False, raw.decode("latin1"))
    assert load_pickle(write(tmp_path / "w.pkl", old)).tolist() == [1.5, -2.0]


# What may not


class Call:
    """Calls a function when it is unpickled without care."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.called


def hostile(target: Path) -> dict[str, object]:
    """Contents that would make a folder at `target`, each in its own way."""
    make = f"__import__('os').mkdir({str(target)!r})"
    mkdir = Call(os.mkdir, str(target))
    # The classical trick: torch reads the bytes inside without restriction.
    inside = io.BytesIO()
    torch.save({"a": mkdir}, inside)
    storage = Call(torch.storage._load_from_bytes, inside.getvalue())
    weights: dict[object, object] = {"a": np.zeros(2, dtype=np.float32)}
    return {
        "system": Call(os.system, f"mkdir {target}"),
        "mkdir": mkdir,
        "eval": Call(eval, make),
        "exec": Call(exec, make),
        "import": Call(__import__, "os"),
        "getattr": Call(getattr, "text", "upper"),
        "torch-storage": storage,
        "torch-tensor": torch.zeros(2),
        "in-the-model": {"model": {**weights, "b": mkdir}},
        "beside-the-model": {"model": weights, "optimizer": [1, {"x": (mkdir,)}]},
        "in-ordered-dict": OrderedDict(model=OrderedDict(weights), extra=mkdir),
        "in-object-array": {"model": {"a": np.array([mkdir], dtype=object)}},
        "as-dtype": {"model": {"a": Call(np.dtype, mkdir)}},
        "as-codec": Call(__import__("_codecs").encode, mkdir, "latin1"),
        "other-container": {"model": Counter(a=1)},
        "path": {"model": target},
    }


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", hostile(Path("x")))
def test_everything_else_is_refused_before_it_runs(
    tmp_path: Path, name: str, protocol: int
) -> None:
    target = tmp_path / "made-by-the-file"
    path = write(tmp_path / "w.pkl", hostile(target)[name], protocol)
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values") as caught:
        load_tensors(path)
    assert not target.exists()
    assert str(path) in str(caught.value)
    assert "save only its tensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["system", "eval", "torch-storage", "in-ordered-dict"])
def test_the_hostile_files_would_have_done_it(tmp_path: Path, name: str) -> None:
    target = tmp_path / "made-by-the-file"
    path = write(tmp_path / "w.pkl", hostile(target)[name])
    pickle.loads(path.read_bytes())
    assert target.is_dir()


def operations(name: str, *, suffix: bytes = b".") -> bytes:
    """A pickle that does something to what it finds under a name, then gives an empty dict."""
    module, _, attribute = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + suffix


@pytest.mark.parametrize(
    "content",
    [
        # BUILD with a state: plain, and as (None, attributes), on everything that can be named.
        *(
            pytest.param(operations(name, suffix=state), id=f"{name}-{kind}")
            for name in (
                "numpy.ndarray",
                "numpy.dtype",
                "numpy.core.multiarray._reconstruct",
                "collections.OrderedDict",
            )
            for kind, state in (
                ("state", b"}U\x0c__setstate__K\x01sb."),
                ("attributes", b"N}U\x0c__setstate__K\x01s\x86b."),
            )
        ),
        pytest.param(operations("numpy.dtype", suffix=b"U\x01O\x85R."), id="dtype-of-objects"),
        pytest.param(operations("builtins.bytes", suffix=b"J\xff\xff\xff\x7f\x85R."), id="bytes"),
        pytest.param(b"\x80\x02" + b"}r\xff\xff\xff\x7f.", id="memo-of-gigabytes"),
        pytest.param(b"}p4000000000\n.", id="memo-of-gigabytes-as-text"),
        pytest.param(b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.", id="frame-of-terabytes"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".", id="bytes-of-exabytes"),
        pytest.param(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", id="deep-lists"),
        pytest.param(b"\x80\x02}q\x00U\x01ah\x00s.", id="dict-in-itself"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension"),
        pytest.param(b"\x80\x02U\x01aQ.", id="persistent-object"),
        pytest.param(b"", id="empty"),
        pytest.param(b"PK\x03\x04", id="archive"),
    ],
)
def test_odd_pickles_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)
    good = write(tmp_path / "good.pkl", detectron2_file({"a": np.ones(2)}))
    assert load_tensors(good)["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "state",
    [
        pytest.param((1, (3,), np.dtype("f4"), False, b"1234"), id="few-bytes"),
        pytest.param((1, (2**40,), np.dtype("f4"), False, b""), id="terabytes"),
        pytest.param((1, (-1,), np.dtype("f4"), False, b"1234"), id="negative-side"),
        pytest.param((1, ("x",), np.dtype("f4"), False, b"1234"), id="text-as-side"),
        pytest.param((1, 4, np.dtype("f4"), False, b"1234"), id="no-shape"),
        pytest.param((1, (1,), "f4", False, b"1234"), id="no-dtype"),
        pytest.param((1, (1,), np.dtype("f4"), False, 3), id="no-bytes"),
        pytest.param((1,), id="no-state"),
    ],
)
def test_arrays_that_do_not_add_up_are_refused(tmp_path: Path, state: tuple[Any, ...]) -> None:
    path = write(tmp_path / "w.pkl", {"model": {"a": State(*state)}})
    with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
        load_tensors(path)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_damaged_pickle_is_reported(tmp_path: Path, protocol: int) -> None:
    content = detectron2_file({"a": np.arange(4.0), "b": np.arange(3)})
    whole = pickle.dumps(content, protocol=protocol)
    path = tmp_path / "w.pkl"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_tensors(path)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            load_tensors(path)
        except CheckpointError:
            refused += 1
    assert refused > 100
