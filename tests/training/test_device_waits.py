"""A training step makes its device wait once: where the losses and the gradient are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.device_waits import DeviceWaits
from torch import Tensor

from soloist.config import Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.ops.affinity import rgb_to_lab
from soloist.runtime.device import Runtime
from soloist.training import pretrain as pretrain_module
from soloist.training import train as train_module
from soloist.training.pretrain import pretrain
from soloist.training.run_folder import open_run
from soloist.training.train import train

STEPS = 4


@pytest.mark.parametrize(
    ("call", "what"),
    [
        pytest.param(lambda x: x.sum().item(), "a number of a tensor is read", id="item"),
        pytest.param(lambda x: float(x.sum()), "a number of a tensor is read", id="float"),
        pytest.param(lambda x: bool((x > 0).all()), "a number of a tensor is read", id="bool"),
        pytest.param(lambda x: x.tolist(), "numbers are read", id="tolist"),
        pytest.param(lambda x: x.numpy(), "numpy", id="numpy"),
        pytest.param(lambda x: x.cpu(), "cpu", id="cpu"),
        pytest.param(lambda x: x.nonzero(), "nonzero", id="nonzero"),
        pytest.param(lambda x: x.unique(), "unique", id="unique"),
        pytest.param(lambda x: x.long().bincount(), "bincount", id="bincount"),
        pytest.param(lambda x: x[x > 0], "indexed by a mask", id="mask"),
        pytest.param(lambda x: x.new_tensor([1.0]), "numbers are sent", id="new-tensor"),
        pytest.param(lambda x: torch.tensor([1.0]), "numbers are sent", id="tensor"),
    ],
)
def test_such_calls_are_counted(call: Callable[[Tensor], object], what: str) -> None:
    waits = DeviceWaits()
    values = torch.arange(3.0)
    with waits.counting():
        call(values)
        waits.on = True
        call(values)
        waits.on = False
        call(values)
    assert waits.count == {what: 1}


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: x[x.long()] * 2 + x[0], id="indices"),
        pytest.param(lambda x: torch.where(x > 0, x, 0.0).masked_fill(x > 1, 0.0), id="where"),
        pytest.param(lambda x: torch.arange(5) + torch.zeros(5), id="made-there"),
    ],
)
def test_others_are_not(call: Callable[[Tensor], object]) -> None:
    waits = DeviceWaits()
    waits.on = True
    values = torch.arange(3.0)
    with waits.counting():
        call(values)
    assert not waits.count


def switched(
    waits: DeviceWaits, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, on: bool
) -> None:
    """Counting begins or ends after each call of a function."""
    original = getattr(owner, name)

    def then_switched(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        waits.on = on
        return result

    monkeypatch.setattr(owner, name, then_switched)


def not_counted(waits: DeviceWaits, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """A function works on tensors that stay on the processor."""
    original = getattr(owner, name)

    def paused(*arguments: Any, **options: Any) -> Any:
        before, waits.on = waits.on, False
        try:
            return original(*arguments, **options)
        finally:
            waits.on = before

    monkeypatch.setattr(owner, name, paused)


@pytest.mark.slow
@pytest.mark.parametrize("terms", ["all", "released"])
def test_a_training_step_waits_once(
    tmp_path: Path,
    tiny_config: Config,
    scenes: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    terms: str,
) -> None:
    loss = {"full_mask_dice": 1.0} if terms == "all" else {"compat": "released"}
    options = {
        # AdamW's own counts of steps lie on the processor, wherever the network is.
        "train": {"steps": STEPS, "ema_decay": 0.9, "optimizer": "sgd", "log_every": 2},
        "loss": loss,
    }
    config = override(tiny_config, options, where="test")
    waits = DeviceWaits()
    switched(waits, monkeypatch, train_module, "batch_to", on=True)
    switched(waits, monkeypatch, train_module, "is_asked", on=False)
    not_counted(waits, monkeypatch, train_module, "batch_targets")
    run = open_run(tmp_path / "run", command="train", inputs={}, config=config, overwrite=False)
    labels = load_coco(scenes / "annotations.json")
    images = find_images(scenes / "images")
    # Its constants are sent once, for all steps.
    rgb_to_lab(torch.zeros(3, 1, 1))
    with waits.counting():
        train(images, labels, run, config, runtime, model_folder=run.model)
    # Losses and the norm of the gradient, in one: a step that is not finite must not be taken.
    assert waits.count == {"numbers are read": STEPS}


def test_a_pretraining_step_waits_once(
    tmp_path: Path,
    tiny_config: Config,
    scenes: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = override(
        tiny_config, {"pretrain": {"steps": STEPS}, "backbone": {"weights": "none"}}, where="test"
    )
    waits = DeviceWaits()
    switched(waits, monkeypatch, pretrain_module, "set_rate", on=True)
    switched(waits, monkeypatch, pretrain_module, "is_asked", on=False)
    run = open_run(tmp_path / "run", command="pretrain", inputs={}, config=config, overwrite=False)
    with waits.counting():
        pretrain(find_images(scenes / "images"), run, config, runtime)
    assert waits.count == {"numbers are read": STEPS}
