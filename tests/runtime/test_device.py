from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from soloist.errors import ConfigError
from soloist.runtime import device as runtime_module
from soloist.runtime.device import (
    Runtime,
    choose_runtime,
    has_fast_bf16,
    loader_workers,
    usable_cores,
)
from soloist.runtime.launch import Launch, launched

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("fast", "precision", "expected"),
    [
        pytest.param(True, "auto", "bf16", id="fast-bf16-is-chosen"),
        pytest.param(False, "auto", "fp32", id="slow-bf16-is-not"),
        pytest.param(True, "fp32", "fp32", id="fp32-as-asked"),
        pytest.param(False, "bf16", "bf16", id="bf16-as-asked"),
    ],
)
def test_precision(
    monkeypatch: pytest.MonkeyPatch, fast: bool, precision: str, expected: str
) -> None:
    monkeypatch.setattr(runtime_module, "has_fast_bf16", lambda device: fast)
    assert choose_runtime("cpu", precision) == Runtime(CPU, expected)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        pytest.param(True, False, "cuda", id="cuda"),
        pytest.param(False, True, "mps", id="mps"),
        pytest.param(True, True, "cuda", id="cuda-first"),
        pytest.param(False, False, "cpu", id="neither"),
    ],
)
def test_auto_picks_the_accelerator(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_runtime("auto", "fp32").device.type == expected


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        pytest.param("gpu", "auto", "device must be auto, cpu, cuda, .* got 'gpu'", id="device"),
        pytest.param("", "auto", "device must be auto", id="empty-device"),
        pytest.param("cuda", "auto", "'cuda' is not available here; use", id="no-cuda"),
        pytest.param("cuda:1", "auto", "'cuda:1' is not available here", id="no-second-cuda"),
        pytest.param("mps", "auto", "'mps' is not available here", id="no-mps"),
        pytest.param("meta", "auto", "'meta' is not available here", id="a-device-torch-knows"),
        pytest.param("cpu", "fp16", "precision must be auto, bf16 or fp32", id="precision"),
    ],
)
def test_what_is_not_there_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, message: str
) -> None:
    no_accelerator(monkeypatch)
    with pytest.raises(ConfigError, match=message) as caught:
        choose_runtime(device, precision)
    assert "\n" not in str(caught.value)


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_runtime("cuda:1", "fp32").device == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="'cuda:2' is not available here"):
        choose_runtime("cuda:2", "fp32")


def test_threads_are_the_usable_cores_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: 2)
    choose_runtime("cpu", "fp32")
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: 3)
    choose_runtime("cpu", "fp32")
    assert torch.get_num_threads() == 2


def test_usable_cores_are_the_share_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    ("workers", "device", "cores", "expected"),
    [
        pytest.param(0, "cpu", 8, 0, id="none-as-asked"),
        pytest.param(3, "cuda", 2, 3, id="as-asked"),
        pytest.param(-1, "cpu", 2, 1, id="one-on-a-processor"),
        pytest.param(-1, "cuda", 1, 1, id="at-least-one"),
        pytest.param(-1, "cuda", 6, 5, id="one-core-left-free"),
        pytest.param(-1, "cuda", 64, 8, id="at-most-eight"),
    ],
)
def test_loader_workers(
    monkeypatch: pytest.MonkeyPatch, workers: int, device: str, cores: int, expected: int
) -> None:
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: cores)
    assert loader_workers(workers, torch.device(device)) == expected


def test_fast_bf16_is_a_plain_answer_on_any_device() -> None:
    assert isinstance(has_fast_bf16(CPU), bool)
    assert has_fast_bf16(torch.device("mps")) is False


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        pytest.param("bf16", torch.bfloat16, id="bf16"),
        pytest.param("fp32", torch.float32, id="fp32"),
    ],
)
def test_autocast_runs_matrix_products_in_the_precision(precision: str, dtype: torch.dtype) -> None:
    values = torch.ones(2, 2)
    with Runtime(CPU, precision).autocast():
        assert (values @ values).dtype == dtype
    assert (values @ values).dtype == torch.float32


# Several processes


def launch(monkeypatch: pytest.MonkeyPatch, rank: int, world: int, local: int, here: int) -> None:
    """Sets what a launcher would."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    for name, value in zip(names, (rank, world, local, here), strict=True):
        monkeypatch.setenv(name, str(value))


def test_a_launcher_numbers_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    launch(monkeypatch, 9, 16, 1, 8)
    assert launched() == Launch(9, 16, 1, 8)
    # Schedulers set some of these names for purposes of their own.
    monkeypatch.delenv("LOCAL_RANK")
    assert launched() == Launch(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        pytest.param("auto", 2, "cuda:1", id="its-own-gpu"),
        pytest.param("cuda", 8, "cuda:1", id="cuda"),
        pytest.param("cpu", 8, "cpu", id="cpu"),
        pytest.param("auto", 0, "cpu", id="no-gpu"),
    ],
)
def test_each_process_has_its_own_device(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, expected: str
) -> None:
    no_accelerator(monkeypatch)
    launch(monkeypatch, 1, 2, 1, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert str(choose_runtime(device, "fp32").device) == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        pytest.param("auto", "2 processes on this machine need a GPU each, it has 1", id="too-few"),
        pytest.param("cuda:0", "need a GPU each, got --device cuda:0", id="one-for-all"),
        pytest.param("mps", "need --device cuda or cpu, got mps", id="mps"),
    ],
)
def test_devices_that_processes_cannot_share_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    launch(monkeypatch, 1, 2, 1, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(ConfigError, match=message):
        choose_runtime(device, "fp32")


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        pytest.param(None, 3, id="their-share"),
        pytest.param("1", 3, id="what-torchrun-writes"),
        pytest.param("2", 1, id="as-asked"),
    ],
)
def test_processes_of_a_machine_share_its_cores(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, threads: int
) -> None:
    torch.set_num_threads(1)
    launch(monkeypatch, 0, 4, 0, 2)
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", asked or "")
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    runtime = choose_runtime("cpu", "fp32")
    assert torch.get_num_threads() == threads
    assert str(runtime) == f"cpu, fp32, {threads} threads in each of 4 processes"
    assert loader_workers(-1, torch.device("cuda")) == 2


def test_a_runtime_tells_what_it_is() -> None:
    torch.set_num_threads(1)
    assert str(Runtime(CPU, "fp32")) == "cpu, fp32, 1 threads"
