"""One round of SOLO: the loop behind `soloist train`, and behind `soloist finetune`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from soloist.checkpoints.files import load_state, resumed_from, save_state
from soloist.config import Config, TrainConfig
from soloist.data.coco.types import CocoFile
from soloist.data.sources import ImageRef
from soloist.losses import FreeSOLOCriterion
from soloist.models.backbones import Backbone
from soloist.models.build import build_solo, carry_over, load_solo_weights, normalize, save_solo
from soloist.models.solo import SOLO
from soloist.ops.affinity import color_similarity, rgb_to_lab
from soloist.runtime.device import Runtime, check_compiler, loader_workers
from soloist.runtime.distributed import (
    all_reduce_max,
    all_reduce_sum,
    gather_rare,
    mean,
    on_main,
    processes,
    rank_slice,
    synchronize_norms,
)
from soloist.runtime.launch import launched
from soloist.runtime.progress import track
from soloist.runtime.stopping import is_asked, stopped
from soloist.runtime.workers import done_ahead, report_lost_workers
from soloist.structures import SOLOOutputs
from soloist.training.bad_steps import BadSteps
from soloist.training.data.step_targets import batch_targets, targets_to
from soloist.training.data.train_data import TrainBatch, TrainBatches, pad_batch, padded_side
from soloist.training.prospects import least_steps, warn_of_few_steps
from soloist.training.run_folder import Metrics, RunFolder
from soloist.training.schedule import learning_rate, make_optimizer, set_rate

logger = logging.getLogger(__name__)

SCHEDULE_BATCH = 16


@report_lost_workers()
def train(
    images: Sequence[ImageRef],
    labels: CocoFile,
    run: RunFolder,
    config: Config,
    runtime: Runtime,
    *,
    model_folder: Path,
    round_number: int = 0,
    start_from: Path | None = None,
    budget_seconds: float | None = None,
    categories: Mapping[int, str] | None = None,
) -> None:
    """Trains SOLO on coarse masks, pseudo-labels or true masks and writes it to a model folder.

    Resumes from the round's checkpoint if there is one. Several processes share each batch; the
    main one writes.

    Args:
        images: Images to learn from.
        labels: Their masks.
        run: Where metrics, checkpoints and errors go.
        config: Options.
        runtime: Device and precision.
        model_folder: Where the trained network goes.
        round_number: 0 for free masks, k for the k-th round of self-training.
        start_from: Model folder of an earlier round to start from; None starts from the backbone.
        budget_seconds: Time for this round; the number of steps is planned to fill it, from the
            pace of the first ones and again when that changes. None keeps `train.steps`.
        categories: Names of true classes by category id: the network's k-th class is the k-th of
            these, and it may start from a segmenter without classes or with others. None: all
            objects are one class.

    Raises:
        TrainingError: If `train.max_bad_steps` losses or gradients in a row are not finite, or a
            process that prepares batches died.
        DataError: If no image has a mask, or none can be read.
        CheckpointError: If the checkpoint is damaged or of another training.
        ConfigError: If the batch cannot be shared by the processes.
        StoppedError: If a process was asked to stop; a checkpoint is saved.
    """
    options = config.train
    seed = config.seed + 1000 * round_number
    accelerator = runtime.accelerator()
    workers = loader_workers(options.workers, runtime.device)
    batches = TrainBatches(
        images,
        labels,
        config,
        seed,
        workers=max(workers, 1) * launched().local_world_size,
        places=rank_slice(options.batch_size, "train.batch_size"),
        categories=categories,
    )
    torch.manual_seed(seed)
    solo = build_solo(config.backbone, config.model)
    if start_from is not None and categories is None:
        load_solo_weights(solo, start_from)
    elif start_from is not None and categories is not None:
        logger.info(carry_over(solo, start_from, categories))
    if categories is not None:
        # Nothing true is known of embeddings.
        solo.category_branch.embedding.requires_grad_(False)
    if not options.freeze_norm:
        synchronize_norms(solo.backbone, runtime.device)
    set_training_mode(solo, options)
    if options.compile:
        check_compiler()
        # In place: the weights keep their names.
        solo.compile(dynamic=False)
    optimizer = make_optimizer(
        solo, kind=options.optimizer, rate=options.learning_rate, weight_decay=options.weight_decay
    )
    model, optimizer = accelerator.prepare(solo, optimizer)
    average = AveragedWeights(solo, options.ema_decay)
    checkpoint = run.checkpoints / f"round-{round_number}.pt"
    bad_steps = BadSteps(solo, run, limit=options.max_bad_steps, section="train")
    state = TrainingState(solo, average, optimizer, bad_steps)
    first = state.load(checkpoint) if on_main(checkpoint.is_file) else 0
    metrics = Metrics(run.path / "metrics.jsonl", resume_step=first, round_number=round_number)
    criterion = FreeSOLOCriterion(config.loss, sum_over_ranks=all_reduce_sum, processes=processes())
    peak = options.learning_rate * options.batch_size / SCHEDULE_BATCH
    # A round that starts from the network of the one before adds its steps to those.
    continued = round_number > 0 and start_from is not None
    wanted = 0 if continued else least_steps(len(images), options.batch_size)
    plan = StepPlan(run, round_number, options.steps, budget_seconds, first=first, wanted=wanted)
    prepared = done_ahead(
        batches, first=first, end=plan.end, workers=workers, pinned=runtime.device.type == "cuda"
    )
    started = time.monotonic()
    title = f"train round {round_number}"
    with track(title, plan.steps, done=first) as tracker:
        for step, batch in enumerate(prepared, start=first):
            for name, reason in gather_rare(batch.failures):
                run.errors.add(name, "train", ValueError(reason))
            rate = learning_rate(
                step,
                peak=peak,
                steps=plan.steps,
                warmup_steps=options.warmup_steps,
                schedule=options.schedule,
            )
            set_rate(optimizer, rate)
            batch = batch_to(pad_batch(batch, padded_size(batch, config)), runtime.device)
            bad_steps.begin()
            with runtime.autocast():
                outputs = model(normalize(solo, batch.images))
            losses = batch_losses(criterion, outputs, batch, config, step)
            stacked = torch.stack(list(losses.values()))
            accelerator.backward(stacked.sum())
            norm = accelerator.clip_grad_norm_(solo.parameters(), options.clip_norm)
            # The one place where a step waits for the device; a bad loss has cost a backward pass.
            *values, length = torch.cat([mean(stacked.detach()), norm.view(1)]).tolist()
            row = dict(zip(losses, values, strict=True))
            bad = bad_steps.is_bad(step, row, stacked, batch.content) or bad_steps.is_bad(
                step, {"gradient": length}, stacked, batch.content
            )
            if not bad:
                optimizer.step()
                average.update(solo, step)
                bad_steps.good()
            optimizer.zero_grad()
            done = step + 1
            if not bad and (done % options.log_every == 0 or done == plan.steps):
                seconds = (time.monotonic() - started) / (done - first)
                metrics.write(
                    {
                        "step": done,
                        "learning_rate": rate,
                        "seconds_per_step": seconds,
                        **row,
                        **bad_steps.count,
                    }
                )
                tracker.advance(0, note=f"loss {sum(row.values()):.3f}")
            stopping = bool(all_reduce_max([is_asked()])[0])
            if done % options.checkpoint_every == 0 or done == plan.steps or stopping:
                on_main(partial(save_state, checkpoint, state.at(done)))
            tracker.advance()
            if plan.update(done):
                tracker.set_total(plan.steps)
            if stopping:
                raise stopped()
            if done >= plan.steps:
                break
    on_main(partial(save_solo, model_folder, average.weights, config, categories))


class TrainingState:
    """What a checkpoint of a training holds."""

    def __init__(
        self,
        network: SOLO,
        average: AveragedWeights,
        optimizer: torch.optim.Optimizer,
        bad_steps: BadSteps,
    ) -> None:
        self._network = network
        self._average = average
        self._optimizer = optimizer
        self._bad_steps = bad_steps

    def at(self, step: int) -> dict[str, Any]:
        """The state after N steps, for `save_state`."""
        return {
            "step": step,
            "model": self._network.state_dict(),
            "average": self._average.weights,
            "optimizer": self._optimizer.state_dict(),
            "bad_steps": self._bad_steps.state,
        }

    def load(self, checkpoint: Path) -> int:
        """Resumes from a checkpoint; gives the steps that are done.

        Raises:
            CheckpointError: If it is damaged or of another training.
        """
        state = load_state(checkpoint)
        with resumed_from(checkpoint):
            self._network.load_state_dict(state["model"])
            self._average.load(state["average"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._bad_steps.load(state.get("bad_steps", {}))
            return int(state["step"])


class StepPlan:
    """How many steps a round takes; with a budget, as many as fill it, by the pace measured so far.

    The main process plans for all, after the first steps and again after each twentieth of the
    plan, since a machine may get other work to do, and keeps the plan in the run's state. Steps
    before `first` were done by an earlier session; a plan of fewer than `wanted` is warned of.

    The learning rate depends on the plan only after the warm-up. Where the pace is steady the plan
    stays, and a resumed run repeats what an unbroken one does.
    """

    MEASURED = 12
    """Steps whose pace the first plan rests on; the first ones, which are slower, are left out."""
    CHECKS = 20
    """How often a plan is checked, after `MEASURED` steps at the soonest."""
    DRIFT = 0.15
    """A plan stays where as many of the steps to come as fit differ by no larger share."""
    LEAST = 20
    """Steps a round takes however small the budget is."""
    MOST = 1_000_000
    """End of the prepared batches where there is a budget."""

    def __init__(
        self,
        run: RunFolder,
        round_number: int,
        steps: int,
        budget_seconds: float | None,
        *,
        first: int = 0,
        wanted: int = 0,
    ) -> None:
        self._run = run
        self._wanted = wanted
        self._key = f"steps of round {round_number}"
        self._budget = budget_seconds
        planned = on_main(lambda: run.state.get("plan", {}).get(self._key))
        self.steps: int = planned or steps
        self._planned = planned is not None
        self.end = self.steps if budget_seconds is None else self.MOST
        self._warm = first + self.MEASURED // 2
        self._next = first + self.MEASURED
        self._start = time.monotonic()
        self._measured_from = (first, self._start)

    def update(self, done: int) -> bool:
        """Plans when enough steps were measured; True when the number of steps changed."""
        if self._budget is None:
            return False
        if done == self._warm:
            self._measured_from = (done, time.monotonic())
        if done < self._next:
            return False
        steps = on_main(partial(self._plan, done, self._budget))
        changed = not self._planned or steps != self.steps
        self.steps, self._planned = steps, True
        self._measured_from = (done, time.monotonic())
        self._next = done + max(self.MEASURED, steps // self.CHECKS)
        return changed

    def _plan(self, done: int, budget: float) -> int:
        now = time.monotonic()
        since, start = self._measured_from
        pace = (now - start) / (done - since)
        fitting = done + max(1, int((budget - (now - self._start)) / pace))
        steps = max(self.LEAST, fitting)
        if not self._planned:
            logger.info("%.2f s a step: planned %d steps", pace, steps)
        elif abs(fitting - self.steps) <= self.DRIFT * (self.steps - done):
            return self.steps
        else:
            logger.debug("%.2f s a step now: %d steps instead of %d", pace, steps, self.steps)
        plans = {**self._run.state.get("plan", {}), self._key: steps}
        self._run.update_state(plan=plans)
        if not self._planned or steps < self._wanted <= self.steps:
            warn_of_few_steps(steps, self._wanted, pace)
        return steps


def batch_losses(
    criterion: FreeSOLOCriterion,
    outputs: SOLOOutputs,
    batch: TrainBatch,
    config: Config,
    step: int,
) -> dict[str, Tensor]:
    """Joins network outputs, grid targets and the criterion for one batch."""
    lab = rgb_to_lab(batch.colors.float() / 255)
    targets = batch_targets(batch, config.model)
    return criterion(
        outputs,
        targets_to(targets, batch.images.device),
        torch.split(batch.masks, batch.counts),
        torch.split(batch.embeddings, batch.counts),
        color_similarity(lab, batch.valid.float()),
        step,
    )


def padded_size(batch: TrainBatch, config: Config) -> tuple[int, int]:
    """(height, width) that the views of all processes are padded to."""
    if config.train.compile:
        # Each other size would be compiled anew.
        side = padded_side(config.augment.crop_size)
        return side, side
    height, width = all_reduce_max(batch.images.shape[-2:])
    return height, width


def batch_to(batch: TrainBatch, device: torch.device) -> TrainBatch:
    """The batch with its tensors on a device, but for those that grid targets are made of."""
    moved: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name, value in batch._asdict().items()
        if isinstance(value, Tensor) and name not in ("boxes", "centers", "labels")
    }
    return batch._replace(**moved)


def set_training_mode(network: SOLO, options: TrainConfig) -> None:
    """Training mode, but for what is kept as pretrained: batch norms, and the first stages."""
    network.train()
    backbone = cast(Backbone, network.backbone)
    backbone.freeze(options.frozen_stages)
    if options.freeze_norm:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)


class AveragedWeights:
    """An exponential average of a network's weights; with decay 0 simply its latest weights.

    The decay starts small and grows, so that a short training is not held back by its start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {
            name: tensor.detach().clone() for name, tensor in network.state_dict().items()
        }

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Resumes from the weights of a checkpoint, on the network's device."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves the average towards the network after a step."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)
