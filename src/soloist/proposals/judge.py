"""A judge of candidates: which nodes of the hierarchies are objects, learned from a few labels.

The hierarchies hold most objects; what an object is depends on the task. A handful of labelled
images hold thousands of labelled candidates, enough for a small network on what is known of a
node. It learns in seconds and only corrects the rank without learning, which it starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.partition import Floats
from soloist.proposals.ranking import FLOORS, Candidates, attributes, logit

HIDDEN, MEMBERS = 32, 4
"""Units of the hidden layer; networks whose scores are averaged."""
STEPS, LEARNING_RATE, WEIGHT_DECAY = 150, 1e-2, 1e-2
"""Of AdamW, each step on all candidates."""
RIGHT = 0.5
"""A candidate that overlaps an object (IoU) by less is worth nothing, else as much as it overlaps;
so of several the best comes first."""
PRIOR_IMAGES = 3.0
"""The rank without learning counts as much as this many labelled images."""
LARGEST = 4.0
"""Standardised values are clipped to this."""


@dataclass(frozen=True)
class Example:
    """The candidates of a labelled image.

    Attributes:
        described: (N, D) float32 of `describe`.
        prior: (N,) scores in [0, 1] without learning.
        overlaps: (N,) the best overlap (IoU) of each with a true mask.
    """

    described: NDArray[np.float32]
    prior: Floats
    overlaps: Floats


@dataclass(frozen=True)
class Judge:
    """Small networks that correct the scores of candidates.

    Attributes:
        mean: (D,) of the descriptions learned from.
        deviation: (D,) their standard deviation.
        hidden: (M, D, H) weights of the hidden layers of M networks.
        hidden_bias: (M, 1, H) their biases.
        output: (M, H, 1) weights of the outputs.
        output_bias: (M, 1, 1) their biases.
        trust: () share of the networks in the final logit, in [0, 1); the rest is the prior's.
    """

    mean: Tensor
    deviation: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    trust: Tensor

    def scores(self, described: NDArray[np.float32], prior: Floats) -> Floats:
        """(N,) scores in [0, 1] of (N, D) descriptions and (N,) scores without learning."""
        logits = torch.from_numpy(logit(prior)).float()
        with torch.inference_mode():
            own = self._logits(torch.from_numpy(described), logits).sigmoid().mean(dim=0)
        learned = logit(own.numpy().astype(np.float64))
        trust = float(self.trust)
        mixed: Floats = 1 / (1 + np.exp(-(trust * learned + (1 - trust) * logit(prior))))
        # What cannot be an object stays none.
        return np.where(prior > 0, mixed, 0.0)

    def _logits(self, described: Tensor, prior: Tensor) -> Tensor:
        """(M, N) corrected logits."""
        values = ((described - self.mean) / self.deviation).clamp(-LARGEST, LARGEST)
        units = functional.relu(values @ self.hidden + self.hidden_bias)
        return (units @ self.output + self.output_bias).squeeze(2) + prior

    def record(self) -> dict[str, Any]:
        """Its values by name as nested lists, for a model's record."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Judge:
        """The judge of such a record.

        Raises:
            KeyError: If a value is missing.
            TypeError: If one is not of numbers.
            ValueError: If its shapes do not fit each other.
        """
        judge = cls(**{item.name: torch.tensor(record[item.name]).float() for item in fields(cls)})
        size = len(judge.mean)
        nothing = np.zeros((0, size), dtype=np.float32)
        try:
            judge.scores(nothing, np.zeros(0))
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"shapes of a judge that fit each other are wanted: {error}"
            ) from error
        return judge


def describe(
    found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """(N, D) what is known of candidates: attributes, own and parent's colour, size.

    Args:
        found: The trees they are nodes of.
        candidates: N of them.
        image_size: (height, width) of the image itself, whose pixels sizes are told in.
    """
    rows = np.zeros((len(candidates), len(FLOORS) + 10), dtype=np.float32)
    scale = np.log(image_size[0] * image_size[1] / (found.size[0] * found.size[1]))
    for number, tree in enumerate(found.trees):
        own = np.flatnonzero(candidates.trees == number)
        nodes = candidates.nodes[own]
        known = attributes(tree)
        leaves = tree.partition
        colors = tree.sums(leaves.colors * leaves.sizes[:, None]) / known.areas[:, None]
        rows[own] = np.column_stack(
            [np.log(getattr(known, name)[nodes] + floor + 1e-12) for name, floor in FLOORS.items()]
            + [known.border[nodes], known.sides[nodes]]
            + [colors[nodes], colors[tree.parents[nodes]]]
            + [np.log(known.areas[nodes]), np.log(known.areas[nodes]) + scale]
        )
    return rows


def learn_judge(examples: Sequence[Example], *, seed: int = 0) -> Judge:
    """Learns from the candidates of labelled images.

    Args:
        examples: One a labelled image, at least one of them with a candidate.
        seed: Of the weights it starts from.

    Raises:
        ValueError: If there is no candidate.
    """
    described = torch.from_numpy(np.concatenate([one.described for one in examples]))
    if len(described) == 0:
        raise ValueError("a judge learns from candidates, got none")
    prior = torch.from_numpy(np.concatenate([logit(one.prior) for one in examples])).float()
    overlaps = torch.from_numpy(np.concatenate([one.overlaps for one in examples])).float()
    wanted = torch.where(overlaps >= RIGHT, overlaps, 0)
    generator = torch.Generator().manual_seed(seed)
    size = described.shape[1]
    judge = Judge(
        mean=described.mean(dim=0),
        deviation=described.std(dim=0, correction=0) + 1e-3,
        hidden=torch.randn((MEMBERS, size, HIDDEN), generator=generator) / size**0.5,
        hidden_bias=torch.zeros(MEMBERS, 1, HIDDEN),
        # Zero at first: it begins with the prior and learns what to correct.
        output=torch.zeros(MEMBERS, HIDDEN, 1),
        output_bias=torch.zeros(MEMBERS, 1, 1),
        trust=torch.tensor(len(examples) / (len(examples) + PRIOR_IMAGES)),
    )
    learned = (judge.hidden, judge.hidden_bias, judge.output, judge.output_bias)
    for parameter in learned:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        logits = judge._logits(described, prior)
        loss = functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
    for parameter in learned:
        parameter.requires_grad_(False)
    return judge
