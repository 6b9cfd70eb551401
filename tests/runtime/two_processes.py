"""What `test_distributed.py` launches twice: does things together and writes down what came out.

Run by torchrun with a folder and a folder of scenes; not a test by itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soloist.config import Config
from soloist.config.presets import load_config, override
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.errors import ConfigError, SoloistError
from soloist.inference.label import Existing, label_images
from soloist.inference.label_shards import ShardJob, label_shards
from soloist.inference.output_file import errors_beside
from soloist.inference.reading_ahead import Labeler, Objects
from soloist.models.build import build_backbone
from soloist.models.densecl import DenseCL, DenseCLEncoder
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.device import Runtime, choose_runtime
from soloist.runtime.distributed import gather, gather_rows, is_main, join, mean, processes, rank
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.stopping import is_asked
from soloist.training import train as train_module
from soloist.training.pretrain import pretrain
from soloist.training.run_folder import RunFolder, open_run
from soloist.training.train import train

CROPS = 4


def main(folder: Path, scenes: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    config = load_config("tiny", folder / "tiny.yaml")
    runtime = choose_runtime("cpu", "fp32")
    join(runtime.device)
    images = find_images(scenes / "images")
    labels = load_coco(scenes / "annotations.json")
    facts: dict[str, Any] = {"processes": processes(), "runtime": gather([str(runtime)])}

    def trained(name: str, config: Config) -> RunFolder:
        with open_run(
            folder / name, command="train", inputs={}, config=config, overwrite=False
        ) as run:
            train(images, labels, run, config, runtime, model_folder=run.model)
        return run

    trained("train", config).finish()
    facts["finished"] = errors_of(lambda: trained("train", config))
    facts["uneven"] = errors_of(
        lambda: trained("uneven", override(config, {"train": {"batch_size": 3}}, where="test"))
    )
    break_losses_of_the_second()
    few = override(config, {"train": {"steps": 3, "max_bad_steps": 1}}, where="test")
    facts["not finite"] = errors_of(lambda: trained("broken", few))
    few = override(few, {"train": {"max_bad_steps": 2}}, where="test")
    facts["one bad step"] = errors_of(lambda: trained("bad", few))

    # The second alone is asked to stop, and by its first step.
    setattr(train_module, "is_asked", lambda: rank() == 1)  # noqa: B010  # it is not exported
    facts["stopped"] = errors_of(lambda: trained("stopped", few))
    setattr(train_module, "is_asked", is_asked)  # noqa: B010

    facts["labels"] = label(folder / "masks.json", folder / "images", config, runtime)
    label(folder / "begun.json", folder / "images", config, runtime)
    label(folder / "kept.json", folder / "images", config, runtime, existing="keep")
    facts["failed alone"] = errors_of(
        lambda: label(
            folder / "cut.json",
            folder / "images",
            config,
            runtime,
            wrap=lambda labeler: FailsSecond(labeler) if rank() else labeler,
        )
    )

    job = ShardJob(
        folder / "shards",
        "masks",
        make_labeler=lambda: FreeMaskExtractor(config, runtime),
        short_side=config.extract.short_side,
    )
    summary = label_shards(
        job, lambda: find_images(folder / "images"), settings={"by": "test"}, shard_size=1
    )
    facts["shards"] = gather([[summary.images, summary.instances, summary.failed]])

    models = noted_models()
    with open_run(
        folder / "pretrain", command="pretrain", inputs={}, config=config, overwrite=False
    ) as run:
        pretrain(images, run, config, runtime)
    facts["pretrained"] = gather([digests(models[-1])])
    facts["densecl"] = gather([compare_densecl(config)])
    if is_main():
        (folder / "facts.json").write_text(json.dumps(facts))


def errors_of(act: Callable[[], object]) -> list[str]:
    """What each process raised."""
    try:
        act()
    except SoloistError as error:
        return gather([f"{type(error).__name__}: {error}"])
    return gather(["nothing"])


def break_losses_of_the_second() -> None:
    original = train_module.batch_losses

    def broken(*arguments: Any) -> dict[str, Tensor]:
        losses = original(*arguments)
        if arguments[-1] == 1 and rank() == 1:
            losses["loss_semantic"] = losses["loss_semantic"] * float("nan")
        return losses

    train_module.batch_losses = broken  # type: ignore[assignment]  # a stand-in


class FailsSecond:
    """A labeler whose second image fails in a way that ends the run."""

    def __init__(self, labeler: Labeler) -> None:
        self._labeler = labeler
        self._calls = 0

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Objects:
        self._calls += 1
        if self._calls == 2:
            raise ConfigError("the second process fails")
        return self._labeler(pixels, size)


def label(
    out: Path,
    images: Path,
    config: Config,
    runtime: Runtime,
    wrap: Callable[[Labeler], Labeler] = lambda labeler: labeler,
    existing: Existing = "refuse",
) -> list[list[int]]:
    """Labels as `soloist masks` does, and gives the counts that each process got."""
    errors: ErrorLog = errors_beside(out, overwrite=existing != "refuse")
    summary = label_images(
        find_images(images),
        wrap(FreeMaskExtractor(config, runtime)),
        out,
        title="masks",
        short_side=config.extract.short_side,
        settings={"by": "test"},
        errors=errors,
        existing=existing,
    )
    return gather([[summary.images, summary.instances, summary.failed, errors.count]])


def noted_models() -> list[DenseCL]:
    """A list that the models being trained are put into."""
    models: list[DenseCL] = []
    original = DenseCL.update_key_encoder

    def noting(self: DenseCL, momentum: float) -> None:
        models.append(self)
        original(self, momentum)

    DenseCL.update_key_encoder = noting  # type: ignore[method-assign]
    return models


def digests(model: nn.Module) -> dict[str, str]:
    """A short name for the value of each trained weight and each queue."""
    values: dict[str, Tensor] = dict(model.named_parameters())
    values |= {name: value for name, value in model.named_buffers() if "queue" in name}
    return {
        name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()
        for name, value in values.items()
    }


def compare_densecl(config: Config) -> dict[str, float]:
    """Largest differences between a shared batch and the same batch on one process."""

    def made(**options: Any) -> DenseCL:
        torch.manual_seed(0)
        encoder = DenseCLEncoder(
            build_backbone(config.backbone), dense_stride=16, hidden_size=16, projection_size=8
        )
        model = DenseCL(
            encoder,
            projection_size=8,
            queue_size=6,
            temperature=0.2,
            dense_weight=0.5,
            norm_groups=2,
            **options,
        )
        # Statistics of the queries are those of each process: the known difference.
        model.query_encoder.eval()
        return model

    query, key = torch.rand(2, CROPS, 3, 64, 64)
    order = torch.randperm(CROPS)
    whole, shared = made(), made(gather_rows=gather_rows, rank=rank(), processes=processes())
    own = slice(rank() * CROPS // processes(), (rank() + 1) * CROPS // processes())
    differences = {}
    for _ in range(2):
        expected = whole(query, key, order)
        terms = shared(query[own], key[own], order)
        for name, value in terms.items():
            differences[name] = float((mean(value) - expected[name]).abs().max())
        for name in ("image_queue", "cell_queue", "queue_position"):
            one, other = getattr(shared, name), getattr(whole, name)
            differences[name] = float((one - other).abs().max())
    return differences


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
