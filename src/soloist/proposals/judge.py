"""A judge of candidates: which nodes of the hierarchies are objects, learned from a few labels.

The hierarchies hold most objects; what an object is depends on the task. A handful of labelled
images hold millions of labelled pixels (`pixels`) and thousands of labelled candidates, enough for
small networks on what is known of a pixel and of a node. They learn in seconds and only correct the
rank without learning, which they start from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.partition import Floats
from soloist.proposals.pixels import (
    Agreement,
    PixelClassifier,
    agreement,
    packed,
    unpacked,
    with_maps,
)
from soloist.proposals.ranking import (
    FLOORS,
    Attributes,
    Candidates,
    attributes,
    best_nodes,
    logit,
    object_scores,
    without_overlaps,
)

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
ALIKE = 0.6
"""Nodes that overlap (IoU) by more are one candidate."""
JUDGED_OVERLAP = 0.3
"""Judged ones that overlap by more are one object: the better fit is kept."""


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
class NodeRanker:
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
        """Its values by name, for a model's record."""
        return {field.name: packed(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> NodeRanker:
        """The networks of such a record.

        Raises:
            KeyError: If a value is missing.
            TypeError: If one is of another type.
            ValueError: If its shapes do not fit each other.
        """
        found = cls(**{item.name: unpacked(record[item.name]) for item in fields(cls)})
        wanted = {
            "mean": (size := found.mean.numel(),),
            "deviation": (size,),
            "hidden": (MEMBERS, size, HIDDEN),
            "hidden_bias": (MEMBERS, 1, HIDDEN),
            "output": (MEMBERS, HIDDEN, 1),
            "output_bias": (MEMBERS, 1, 1),
            "trust": (),
        }
        for name, shape in wanted.items():
            if (got := tuple(getattr(found, name).shape)) != shape:
                raise ValueError(f"{name} must be {shape}, got {got}")
        return found


@dataclass(frozen=True)
class Judge:
    """What was learned from a few labelled images.

    Attributes:
        pixels: Which pixels are inside an object or on an outline.
        nodes: Which candidates are objects.
    """

    pixels: PixelClassifier
    nodes: NodeRanker

    def candidates(
        self, plain: Hierarchies, image_size: tuple[int, int], most: int
    ) -> tuple[Hierarchies, Candidates]:
        """The objects of an image.

        Args:
            plain: Its trees.
            image_size: (height, width) of the image itself, whose pixels sizes are told in.
            most: Nodes that are judged, once the best without learning, once by the pixels.

        Returns:
            The trees, those of the maps among them, and the judged candidates, best first.
        """
        found = with_maps(plain, self.pixels.maps(plain.lab))
        drawn = draw_candidates(found, image_size, most)
        if len(drawn.candidates) == 0:
            return found, drawn.candidates
        scores = self.nodes.scores(drawn.described, drawn.candidates.scores)
        judged = replace(drawn.candidates, scores=scores)
        judged = judged.filter(np.argsort(-scores, kind="stable"))
        return found, without_overlaps(judged, JUDGED_OVERLAP, within_trees=True)

    def scores(
        self, plain: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
    ) -> Floats:
        """(N,) scores in [0, 1] of nodes of an image's own trees, whose scores are the rank's.

        Args:
            plain: The trees.
            candidates: N of their nodes.
            image_size: As in `candidates`.
        """
        found = replace(plain, maps=self.pixels.maps(plain.lab))
        described = describe(found, candidates, image_size, *known_of(found))
        return self.nodes.scores(described, candidates.scores)

    def classes(self, found: Hierarchies, candidates: Candidates) -> NDArray[np.int64] | None:
        """(N,) class of each candidate in [0, K), that of most of its pixels; None for one class.

        Args:
            found: The trees as `candidates` returned them.
            candidates: N of their nodes.
        """
        if self.pixels.classes == 1:
            return None
        assert found.maps is not None
        labels = np.zeros(len(candidates), dtype=np.int64)
        for number, tree in enumerate(found.trees):
            own = np.flatnonzero(candidates.trees == number)
            means = agreement(tree, found.maps).classes[candidates.nodes[own]]
            labels[own] = means.argmax(axis=1)
        return labels

    def record(self) -> dict[str, Any]:
        """Its values by name, for a model's record."""
        return {"pixels": self.pixels.record(), "nodes": self.nodes.record()}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Judge:
        """The judge of such a record; raises as `NodeRanker.of_record` does."""
        return cls(
            PixelClassifier.of_record(record["pixels"]), NodeRanker.of_record(record["nodes"])
        )


@dataclass(frozen=True)
class Drawn:
    """Candidates before they are judged.

    Attributes:
        candidates: N of them; scores are those without learning.
        described: (N, D) float32 of `describe`.
    """

    candidates: Candidates
    described: NDArray[np.float32]


def draw_candidates(found: Hierarchies, image_size: tuple[int, int], most: int) -> Drawn:
    """The best nodes without learning, and the best by what was learned of the pixels.

    Args:
        found: The trees, with maps.
        image_size: (height, width) of the image itself.
        most: How many of each, before those that are alike are left out.
    """
    known, fits = known_of(found)
    prior = [object_scores(one) for one in known]
    by_pixels = [fit.scores * (own > 0) for fit, own in zip(fits, prior, strict=True)]
    joined = Candidates.join(
        [
            without_overlaps(best_nodes(found, known, scores, most, ALIKE), ALIKE)
            for scores in (prior, by_pixels)
        ]
    )
    nodes = np.stack((joined.trees, joined.nodes), axis=1)
    _, firsts = np.unique(nodes, axis=0, return_index=True)
    joined = joined.filter(np.sort(firsts))
    scores = np.zeros(len(joined))
    for number, own in enumerate(prior):
        places = joined.trees == number
        scores[places] = own[joined.nodes[places]]
    candidates = replace(joined, scores=scores)
    return Drawn(candidates, describe(found, candidates, image_size, known, fits))


def known_of(found: Hierarchies) -> tuple[list[Attributes], list[Agreement]]:
    """What is known of the nodes of each tree of an image with maps."""
    assert found.maps is not None
    return (
        [attributes(tree) for tree in found.trees],
        [agreement(tree, found.maps) for tree in found.trees],
    )


def describe(
    found: Hierarchies,
    candidates: Candidates,
    image_size: tuple[int, int],
    known: Sequence[Attributes],
    fits: Sequence[Agreement],
) -> NDArray[np.float32]:
    """(N, D) what is known of candidates: attributes, colours, size, what the pixels say.

    Args:
        found: The trees they are nodes of.
        candidates: N of them.
        image_size: (height, width) of the image itself, whose pixels sizes are told in.
        known: The attributes of the nodes of each tree.
        fits: How they agree with the maps.
    """
    rows = np.zeros((len(candidates), len(FLOORS) + 15), dtype=np.float32)
    scale = np.log(image_size[0] * image_size[1] / (found.size[0] * found.size[1]))
    first_of_maps = len(found.trees) - found.trees_of_maps
    for number, (tree, own, fit) in enumerate(zip(found.trees, known, fits, strict=True)):
        places = np.flatnonzero(candidates.trees == number)
        nodes = candidates.nodes[places]
        leaves = tree.partition
        colors = tree.sums(leaves.colors * leaves.sizes[:, None]) / own.areas[:, None]
        rows[places] = np.column_stack(
            [np.log(getattr(own, name)[nodes] + floor + 1e-12) for name, floor in FLOORS.items()]
            + [own.border[nodes], own.sides[nodes]]
            + [colors[nodes], colors[tree.parents[nodes]]]
            + [fit.described[nodes], np.full(len(nodes), float(number >= first_of_maps))]
            + [np.log(own.areas[nodes]), np.log(own.areas[nodes]) + scale]
        )
    return rows


def learn_nodes(examples: Sequence[Example], *, seed: int = 0) -> NodeRanker:
    """Learns from the candidates of labelled images.

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
    generator = torch.Generator().manual_seed(seed)
    size = described.shape[1]
    networks = NodeRanker(
        mean=described.mean(dim=0),
        deviation=described.std(dim=0, correction=0) + 1e-3,
        hidden=torch.randn((MEMBERS, size, HIDDEN), generator=generator) / size**0.5,
        hidden_bias=torch.zeros(MEMBERS, 1, HIDDEN),
        # Zero at first: it begins with the prior and learns what to correct.
        output=torch.zeros(MEMBERS, HIDDEN, 1),
        output_bias=torch.zeros(MEMBERS, 1, 1),
        trust=torch.tensor(len(examples) / (len(examples) + PRIOR_IMAGES)),
    )
    learned = (networks.hidden, networks.hidden_bias, networks.output, networks.output_bias)
    for parameter in learned:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(STEPS):
        logits = networks._logits(described, prior)
        loss = functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
    for parameter in learned:
        parameter.requires_grad_(False)
    return networks
