"""DenseCL on the user's own images: the loop behind `soloist pretrain`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from soloist.checkpoints.files import load_state, resumed_from, save_state, save_tensors
from soloist.config import Config, PretrainConfig
from soloist.data.sources import ImageRef
from soloist.models.backbones import Backbone
from soloist.models.build import build_backbone, half_precision
from soloist.models.densecl import DenseCL, DenseCLEncoder
from soloist.runtime.device import Runtime, loader_workers
from soloist.runtime.distributed import (
    all_reduce_max,
    gather_rare,
    gather_rows,
    mean,
    on_main,
    processes,
    rank,
    rank_slice,
    synchronize_norms,
)
from soloist.runtime.files import write_json
from soloist.runtime.launch import launched
from soloist.runtime.progress import track
from soloist.runtime.seeding import seeded
from soloist.runtime.stopping import is_asked, stopped
from soloist.runtime.workers import done_ahead, report_lost_workers
from soloist.training.bad_steps import BadSteps, gradient_norm
from soloist.training.data.augment import CropPair
from soloist.training.data.batches import batch_indices
from soloist.training.data.cache import ImageCache
from soloist.training.run_folder import Metrics, RunFolder
from soloist.training.schedule import learning_rate, make_optimizer, set_rate

# Decoded images are kept this many times larger than a crop, so that small crops stay sharp.
CACHE_ENLARGEMENT = 2
SCHEDULE_BATCH = 64

PROJECTION_SIZE, HIDDEN_SIZE = 128, 512
"""Of the projected vectors, as in DenseCL, and inside the heads, a quarter of DenseCL's: the heads
are thrown away, and ResNet-18 has a quarter of ResNet-50's channels."""
MOMENTUM = 0.99
"""Decay of the key encoder at the start; DenseCL's 0.999 is for a million steps."""
TEMPERATURE = 0.2
"""Of both InfoNCE losses (DenseCL, MoCo v2)."""
WEIGHT_DECAY = 1e-4
"""Of weights of two or more dimensions (DenseCL, MoCo v2)."""


class CropBatch(NamedTuple):
    """Crop pairs of one step.

    Attributes:
        query: (B, 3, S, S) uint8.
        key: (B, 3, S, S) uint8, the other crops of the same images.
        order: int64 permutation of all keys of the step, those of other processes included.
        failures: (name, reason) of images that could not be read.
    """

    query: Tensor
    key: Tensor
    order: Tensor
    failures: list[tuple[str, str]]


class CropBatches:
    """Makes the batch of a step from the step's number.

    Args:
        images: Images to learn from.
        config: Options.
        seed: Of the order and of all draws.
        workers: Processes that make batches; each has its share of the cache's memory.
        places: Images of the batch to make, where several trainings share it; None makes all.
    """

    def __init__(
        self,
        images: Sequence[ImageRef],
        config: PretrainConfig,
        seed: int,
        *,
        workers: int = 0,
        places: range | None = None,
    ) -> None:
        self._config = config
        self._seed = seed
        self._places = range(config.batch_size) if places is None else places
        side = CACHE_ENLARGEMENT * config.crop_size
        self._cache = ImageCache(
            images,
            short_side=side,
            max_side=4 * side,
            budget_bytes=config.cache_gb * 1e9 / max(workers, 1),
        )
        self._crop = CropPair(size=config.crop_size, scale=config.crop_scale)

    def __call__(self, step: int) -> CropBatch:
        """The batch of a step, or this training's places in it."""
        size = self._config.batch_size
        indices = batch_indices(step, batch_size=size, length=len(self._cache), seed=self._seed)
        pairs, failures = [], []
        for place in self._places:
            _, image, failed = self._cache.readable(indices[place])
            failures += failed
            with seeded(self._seed, step, place):
                pairs.append(self._crop(image))
        with seeded(self._seed, step):
            order = torch.randperm(size)
        query, key = zip(*pairs, strict=True)
        return CropBatch(torch.stack(query), torch.stack(key), order, failures)


@report_lost_workers()
def pretrain(
    images: Sequence[ImageRef], run: RunFolder, config: Config, runtime: Runtime
) -> Backbone:
    """Trains a backbone with DenseCL and writes it to the run's model folder.

    Resumes from the run's checkpoint if there is one. Several processes share each batch; the
    main one writes.

    Returns:
        The trained query backbone, in evaluation mode.

    Raises:
        TrainingError: If `pretrain.max_bad_steps` losses or gradients in a row are not finite, or
            a process that prepares batches died.
        DataError: If no image can be read.
        CheckpointError: If the checkpoint is damaged or of another training.
        ConfigError: If the batch cannot be shared by the processes.
        StoppedError: If a process was asked to stop; a checkpoint is saved.
    """
    options = config.pretrain
    torch.manual_seed(config.seed)
    accelerator = runtime.accelerator()
    places = rank_slice(options.batch_size, "pretrain.batch_size")
    model, optimizer = accelerator.prepare(*build_densecl(config, runtime))
    network: DenseCL = accelerator.unwrap_model(model)
    checkpoint = run.checkpoints / "last.pt"
    bad_steps = BadSteps(network, run, limit=options.max_bad_steps, section="pretrain")
    first = 0
    if on_main(checkpoint.is_file):
        state = load_state(checkpoint)
        with resumed_from(checkpoint):
            network.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            bad_steps.load(state.get("bad_steps", {}))
            first = state["step"]
    metrics = Metrics(run.path / "metrics.jsonl", resume_step=first)
    workers = loader_workers(options.workers, runtime.device)
    batches = done_ahead(
        CropBatches(
            images,
            options,
            config.seed,
            workers=max(workers, 1) * launched().local_world_size,
            places=places,
        ),
        first=first,
        end=options.steps,
        workers=workers,
        pinned=runtime.device.type == "cuda",
    )
    backbone = network.query_encoder.backbone
    peak = options.learning_rate * options.batch_size / SCHEDULE_BATCH
    model.train()
    with track("pretrain", options.steps, done=first) as tracker:
        for step, batch in enumerate(batches, start=first):
            for name, reason in gather_rare(batch.failures):
                run.errors.add(name, "pretrain", ValueError(reason))
            rate = learning_rate(
                step,
                peak=peak,
                steps=options.steps,
                warmup_steps=options.warmup_steps,
                schedule="cosine",
            )
            set_rate(optimizer, rate)
            query, key, order = (item.to(runtime.device, non_blocking=True) for item in batch[:3])
            bad_steps.begin()
            with runtime.autocast():
                terms = model(backbone.normalize(query), backbone.normalize(key), order)
            accelerator.backward(terms["loss_global"] + terms["loss_dense"])
            stacked = torch.stack(list(terms.values())).detach()
            # The one place where a step waits for the device; a bad loss has cost a backward pass.
            *values, length = torch.cat([mean(stacked), gradient_norm(network).view(1)]).tolist()
            row = dict(zip(terms, values, strict=True))
            crops = {"query": query, "key": key, "order": order}
            bad = bad_steps.is_bad(step, row, stacked, crops) or bad_steps.is_bad(
                step, {"gradient": length}, stacked, crops
            )
            if not bad:
                optimizer.step()
                network.update_key_encoder(_momentum(step / options.steps))
                bad_steps.good()
            optimizer.zero_grad()
            done = step + 1
            if not bad and (done % options.log_every == 0 or done == options.steps):
                metrics.write({"step": done, "learning_rate": rate, **row, **bad_steps.count})
                tracker.advance(0, note=f"loss {row['loss_global'] + row['loss_dense']:.3f}")
            stopping = bool(all_reduce_max([is_asked()])[0])
            if done % options.checkpoint_every == 0 or done == options.steps or stopping:
                state = {
                    "step": done,
                    "model": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "bad_steps": bad_steps.state,
                }
                on_main(partial(save_state, checkpoint, state))
            tracker.advance()
            if stopping:
                raise stopped()
    on_main(partial(_save_backbone, run, backbone, config, len(images)))
    return backbone.eval()


def build_densecl(config: Config, runtime: Runtime) -> tuple[DenseCL, torch.optim.Optimizer]:
    """The network of a configuration's pretraining, and what trains it."""
    options = config.pretrain
    encoder = DenseCLEncoder(
        build_backbone(config.backbone),
        dense_stride=options.dense_stride,
        hidden_size=HIDDEN_SIZE,
        projection_size=PROJECTION_SIZE,
    )
    model = DenseCL(
        encoder,
        projection_size=PROJECTION_SIZE,
        queue_size=options.queue_size,
        temperature=TEMPERATURE,
        dense_weight=options.dense_weight,
        norm_groups=options.norm_groups,
        gather_rows=gather_rows,
        rank=rank(),
        processes=processes(),
    ).to(memory_format=torch.channels_last)
    # Of the queries only: keys are normalised in groups.
    synchronize_norms(model.query_encoder, runtime.device)
    optimizer = make_optimizer(
        model, kind="sgd", rate=options.learning_rate, weight_decay=WEIGHT_DECAY
    )
    return model, optimizer


def _save_backbone(run: RunFolder, backbone: Backbone, config: Config, images: int) -> None:
    """Writes the weights and, beside them, what they are and how they were learned."""
    record = {
        "name": config.backbone.name,
        "output_stride": config.backbone.output_stride,
        "stages": config.backbone.stages,
        "method": "DenseCL",
        "images": images,
        "pretrain": asdict(config.pretrain),
    }
    save_tensors(
        run.model / "backbone.safetensors",
        half_precision(backbone.network.state_dict()),
        metadata={"soloist": json.dumps(record)},
    )
    write_json(run.model / "config.json", record, indent=2)


def _momentum(progress: float) -> float:
    """Decay of the key encoder: grows from `MOMENTUM` to 1 along a half cosine."""
    return 1 - (1 - MOMENTUM) * 0.5 * (1 + math.cos(math.pi * progress))
