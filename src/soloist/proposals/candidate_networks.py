"""Small networks that tell objects among described candidates, and of which class they are.

A handful of labelled images hold thousands of candidates: enough to correct the rank without
learning, which the networks start from, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soloist.proposals.descriptions import DESCRIBED
from soloist.proposals.partition import Floats
from soloist.proposals.pixels import packed, unpacked
from soloist.proposals.ranking import logit

HIDDEN, MEMBERS = 32, 4
"""Units of the hidden layer; networks whose scores are averaged."""
STEPS, LEARNING_RATE, WEIGHT_DECAY = 150, 1e-2, 1e-2
"""Of AdamW, each step on all candidates."""
RIGHT = 0.5
"""A candidate that overlaps an object (IoU) by less is worth nothing, else as much as it overlaps;
so of several the best comes first."""
PRIOR_IMAGES = 8.0
"""The rank without learning counts as much as this many labelled images of the same look."""
LIKE = 30.0
"""A labelled image that looks so unlike an image, by the distance of looks in CIE-Lab, counts e to
minus a half there. Both were chosen on `photos/dev` (docs/photographs.md)."""
LOOK = 6
"""Values of the look of an image: means and deviations of three colours."""
CLASS_FLOOR = 0.05
"""Added to the shares of classes before logarithms are taken: no class is impossible."""
LARGEST = 4.0
"""Standardised values are clipped to this."""


@dataclass(frozen=True)
class Example:
    """The candidates of a labelled image.

    Attributes:
        described: (N, 2 * DESCRIBED) float32 of `descriptions.describe`.
        prior: (N,) scores in [0, 1] without learning.
        overlaps: (N,) the best overlap (IoU) of each with a true mask.
        classes: (N,) the class of that mask, in [0, K).
        means: (N, K) shares of the classes in each by its pixels, in [0, 1].
        look: (6,) float32 of `look_of` the image.
    """

    described: NDArray[np.float32]
    prior: Floats
    overlaps: Floats
    classes: NDArray[np.int64]
    means: NDArray[np.float32]
    look: NDArray[np.float32]


def look_of(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(6,) what an image of (3, H, W) CIE-Lab colours looks like: their means and deviations."""
    return np.concatenate((lab.mean(axis=(1, 2)), lab.std(axis=(1, 2)))).astype(np.float32)


@dataclass(frozen=True)
class Networks:
    """Small networks of one hidden layer on what is known of candidates.

    Attributes:
        mean: (D,) of the descriptions learned from.
        deviation: (D,) their standard deviation.
        hidden: (M, D, H) weights of the hidden layers of M networks.
        hidden_bias: (M, 1, H) their biases.
        output: (M, H, O) weights of the outputs.
        output_bias: (M, 1, O) their biases.
    """

    mean: Tensor
    deviation: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor

    def __call__(self, described: Tensor) -> Tensor:
        """(M, N, O) outputs for (N, D) descriptions."""
        values = ((described - self.mean) / self.deviation).clamp(-LARGEST, LARGEST)
        units = functional.relu(values @ self.hidden + self.hidden_bias)
        return units @ self.output + self.output_bias

    @classmethod
    def learned(
        cls, described: Tensor, outputs: int, loss: Callable[[Tensor], Tensor], *, seed: int
    ) -> Networks:
        """Networks that reduce a loss.

        Args:
            described: (N, D) descriptions to learn from, at least one.
            outputs: How many each network has; all are 0 at first, so that it begins with what
                the loss adds to them and learns what to correct.
            loss: Of (M, N, O) outputs.
            seed: Of the weights they start from.
        """
        generator = torch.Generator().manual_seed(seed)
        size = described.shape[1]
        made = cls(
            mean=described.mean(dim=0),
            deviation=described.std(dim=0, correction=0) + 1e-3,
            hidden=torch.randn((MEMBERS, size, HIDDEN), generator=generator) / size**0.5,
            hidden_bias=torch.zeros(MEMBERS, 1, HIDDEN),
            output=torch.zeros(MEMBERS, HIDDEN, outputs),
            output_bias=torch.zeros(MEMBERS, 1, outputs),
        )
        weights = (made.hidden, made.hidden_bias, made.output, made.output_bias)
        for weight in weights:
            weight.requires_grad_()
        optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(made(described)).backward()  # type: ignore[no-untyped-call]  # untyped in torch
            optimizer.step()
        for weight in weights:
            weight.requires_grad_(False)
        return made

    def record(self) -> dict[str, Any]:
        """Their values by name, for a model's record."""
        return {field.name: packed(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Networks:
        """The networks of such a record.

        Raises:
            KeyError: If a value is missing.
            TypeError: If one is of another type.
            ValueError: If its shapes do not fit each other.
        """
        found = cls(**{item.name: unpacked(record[item.name]) for item in fields(cls)})
        size, outputs = found.mean.numel(), found.output_bias.numel() // MEMBERS
        wanted = {
            "mean": (size,),
            "deviation": (size,),
            "hidden": (MEMBERS, size, HIDDEN),
            "hidden_bias": (MEMBERS, 1, HIDDEN),
            "output": (MEMBERS, HIDDEN, outputs),
            "output_bias": (MEMBERS, 1, outputs),
        }
        for name, shape in wanted.items():
            if (got := tuple(getattr(found, name).shape)) != shape:
                raise ValueError(f"{name} must be {shape}, got {got}")
        return found


@dataclass(frozen=True)
class NodeRanker:
    """Networks that correct the scores of candidates.

    Attributes:
        networks: Of one output.
        looks: (n, 6) float32 of the labelled images, as `look_of`.
    """

    networks: Networks
    looks: Tensor

    def trust(self, look: NDArray[np.float32]) -> float:
        """The networks' share in the final logit, in [0, 1); the rest is the prior's.

        It grows with the number of labelled images, each of which counts as far as it looks like
        the one at hand: what stained tissue teaches says little of fluorescence.

        Args:
            look: (6,) of an image, as `look_of`.
        """
        apart = (self.looks - torch.from_numpy(look)).square().sum(dim=1) / LIKE**2
        number = float(torch.exp(-apart / 2).sum())
        return number / (number + PRIOR_IMAGES)

    def scores(
        self, described: NDArray[np.float32], prior: Floats, look: NDArray[np.float32]
    ) -> Floats:
        """Scores of the candidates of an image.

        Args:
            described: (N, D) of `descriptions.describe`.
            prior: (N,) scores in [0, 1] without learning.
            look: (6,) of the image, as `look_of`.

        Returns:
            (N,) scores in [0, 1].
        """
        trust = self.trust(look)
        logits = torch.from_numpy(logit(prior)).float()
        with torch.inference_mode():
            corrected = self.networks(torch.from_numpy(described)).squeeze(2) + logits
            own = corrected.sigmoid().mean(dim=0)
        learned = logit(own.numpy().astype(np.float64))
        mixed: Floats = 1 / (1 + np.exp(-(trust * learned + (1 - trust) * logit(prior))))
        # What cannot be an object stays none.
        return np.where(prior > 0, mixed, 0.0)

    def record(self) -> dict[str, Any]:
        """Its values by name, for a model's record."""
        return {**self.networks.record(), "looks": packed(self.looks)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> NodeRanker:
        """The ranker of such a record; raises as `Networks.of_record` does."""
        looks = unpacked(record["looks"])
        if looks.ndim != 2 or looks.shape[1] != LOOK:
            raise ValueError(f"looks must be (n, 6), got {tuple(looks.shape)}")
        return cls(Networks.of_record(record), looks)


@dataclass(frozen=True)
class NodeClassifier:
    """Networks that tell the class of a candidate from its own values and its pixels.

    Attributes:
        networks: Of one output a class.
    """

    networks: Networks

    def classes(
        self, described: NDArray[np.float32], means: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """(N,) classes in [0, K) of (N, 2 * DESCRIBED) descriptions and (N, K) shares of pixels."""
        with torch.inference_mode():
            logits = self.networks(_with_means(described, means)) + _prior(means)
            found: NDArray[np.int64] = logits.softmax(dim=2).mean(dim=0).argmax(dim=1).numpy()
        return found


def _with_means(described: NDArray[np.float32], means: NDArray[np.float32]) -> Tensor:
    # How it differs from the others of its image is left to the ranker.
    return torch.from_numpy(np.hstack((described[:, :DESCRIBED], means)))


def _prior(means: NDArray[np.float32]) -> Tensor:
    """(N, K) logits of classes by the pixels alone."""
    return torch.from_numpy(np.log(means + CLASS_FLOOR))


def learn_nodes(examples: Sequence[Example], *, seed: int = 0) -> NodeRanker:
    """Learns from the candidates of labelled images which are objects.

    Args:
        examples: One a labelled image, at least one of them with a candidate.
        seed: Of the weights it starts from.

    Raises:
        ValueError: If there is no candidate.
    """
    described = torch.from_numpy(np.concatenate([one.described for one in examples]))
    if len(described) == 0:
        raise ValueError("networks learn from candidates, got none")
    prior = torch.from_numpy(np.concatenate([logit(one.prior) for one in examples])).float()
    overlaps = torch.from_numpy(np.concatenate([one.overlaps for one in examples])).float()
    wanted = torch.where(overlaps >= RIGHT, overlaps, 0)

    def loss(outputs: Tensor) -> Tensor:
        logits = outputs.squeeze(2) + prior
        return functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))

    looks = torch.from_numpy(np.stack([one.look for one in examples]))
    return NodeRanker(Networks.learned(described, 1, loss, seed=seed), looks)


def learn_classes(examples: Sequence[Example], *, seed: int = 0) -> NodeClassifier | None:
    """Learns from the candidates of labelled images that are objects of which class.

    Args:
        examples: One a labelled image, with classes.
        seed: Of the weights it starts from.

    Returns:
        The classifier; None if no candidate is an object.
    """
    right = [one.overlaps >= RIGHT for one in examples]
    pairs = list(zip(examples, right, strict=True))
    described = np.concatenate([one.described[own] for one, own in pairs])
    if len(described) == 0:
        return None
    means = np.concatenate([one.means[own] for one, own in pairs])
    classes = torch.from_numpy(np.concatenate([one.classes[own] for one, own in pairs]))
    prior = _prior(means)

    def loss(outputs: Tensor) -> Tensor:
        logits = (outputs + prior).flatten(0, 1)
        return functional.cross_entropy(logits, classes.repeat(len(outputs)))

    values = _with_means(described, means)
    return NodeClassifier(Networks.learned(values, means.shape[1], loss, seed=seed))
