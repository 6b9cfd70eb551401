"""Steps whose loss or gradient is not finite: undone, counted, and at last the reason to stop."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from soloist.checkpoints.files import save_tensors
from soloist.errors import TrainingError
from soloist.runtime.distributed import gather, rank, run_on_all_ranks
from soloist.runtime.files import shown
from soloist.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "bad_batch.safetensors"

BatchContent = Mapping[str, Tensor | list[int]]


class BadSteps:
    """Keeps one bad batch from spoiling a training, and a training that is spoilt from continuing.

    A step that is undone leaves nothing: no gradient, and the network's buffers (statistics of
    batch norms, queues) as they were. The first bad batch in a row is written to the run folder.

    Args:
        network: What is trained.
        run: The run folder.
        limit: How many in a row end the training.
        section: The options of the training, for the remedy: `train` or `pretrain`.
    """

    def __init__(self, network: nn.Module, run: RunFolder, *, limit: int, section: str) -> None:
        self._buffers = list(network.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]
        self._run = run
        self._limit = limit
        self._section = section
        self._in_a_row = 0
        self.skipped = 0

    @property
    def state(self) -> dict[str, int]:
        """What a resumed training starts from, for its checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    @property
    def count(self) -> dict[str, float]:
        """The column of metrics.jsonl; none until a step was left out."""
        return {"skipped_steps": self.skipped} if self.skipped else {}

    def load(self, state: Mapping[str, int]) -> None:
        """Resumes from `state`; checkpoints of earlier versions have none of it."""
        self.skipped = state.get("skipped", 0)
        self._in_a_row = state.get("in_a_row", 0)

    def begin(self) -> None:
        """Notes what a step that is undone goes back to; called before each step."""
        for kept, buffer in zip(self._before, self._buffers, strict=True):
            kept.copy_(buffer)

    def is_bad(
        self, step: int, values: Mapping[str, float], own: Tensor, batch: BatchContent
    ) -> bool:
        """Whether a step is to be left out; then its trace in the buffers is gone.

        Args:
            step: The step, from 0.
            values: Losses or the norm of the gradient, the same on all processes.
            own: Those of this process alone.
            batch: Its tensors and numbers of the step.

        Raises:
            TrainingError: If it is one too many in a row.
            RunError: If the batch cannot be written.
        """
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if not broken:
            return False
        for buffer, kept in zip(self._buffers, self._before, strict=True):
            buffer.copy_(kept)
        self.skipped += 1
        self._in_a_row += 1
        what = f"{' and '.join(broken)} is not finite at step {step}"
        if self._in_a_row == 1:
            # Of several processes the first whose own part is broken; else the main one.
            broken_here = not bool(torch.isfinite(own).all())
            writer = min(gather([rank()] if broken_here else []), default=0)
            facts = {"section": self._section, "step": step, "process": writer, "broken": broken}
            run_on_all_ranks(partial(self._write, writer, facts, batch))
        logger.warning(
            "%s: the step is left out, %d in a row; its batch is in %s",
            what,
            self._in_a_row,
            FILE,
        )
        if self._in_a_row >= self._limit:
            raise TrainingError(
                f"{what}, {self._in_a_row} in a row; lower --{self._section}.learning-rate or use "
                f"--precision fp32 (the first batch of them is in {shown(self._run.path / FILE)})"
            )
        return True

    def good(self) -> None:
        """Notes that a step was taken."""
        self._in_a_row = 0

    def _write(self, writer: int, facts: Mapping[str, object], batch: BatchContent) -> None:
        if rank() == writer:
            tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
            save_tensors(self._run.path / FILE, tensors, metadata={"soloist": json.dumps(facts)})


def gradient_norm(network: nn.Module) -> Tensor:
    """Norm of all gradients of a network together, a scalar on its device."""
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    return nn.utils.get_total_norm(gradients)
