"""A judge of candidates: which nodes of the hierarchies are objects, learned from a few labels.

The hierarchies hold most objects; what an object is depends on the task. A handful of labelled
images hold millions of labelled pixels (`pixels`) and thousands of labelled candidates, enough for
small networks on what is known of a pixel and of a node. They learn in seconds and only correct the
rank without learning, which they start from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soloist.proposals.hierarchy import Hierarchies
from soloist.proposals.likeness import deviations, like_others
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
PRIOR_IMAGES = 5.0
"""The rank without learning counts as much as this many labelled images; chosen on `nuclei`
(docs/photographs.md)."""
DESCRIBED = len(FLOORS) + 15
"""Values that `describe` a candidate."""
CLASS_FLOOR = 0.05
"""Added to the shares of classes before logarithms are taken: no class is impossible."""
LARGEST = 4.0
"""Standardised values are clipped to this."""
ALIKE = 0.6
"""Nodes that overlap (IoU) by more are one candidate."""
JUDGED_OVERLAP = 0.4
"""Judged ones that overlap by more are one object: the better fit is kept."""


@dataclass(frozen=True)
class Example:
    """The candidates of a labelled image.

    Attributes:
        described: (N, D) float32 of `describe`.
        context: (N, D) float32 of `in_context`.
        prior: (N,) scores in [0, 1] without learning.
        overlaps: (N,) the best overlap (IoU) of each with a true mask.
        classes: (N,) the class of that mask, in [0, K).
        means: (N, K) shares of the classes in each by its pixels, in [0, 1].
    """

    described: NDArray[np.float32]
    context: NDArray[np.float32]
    prior: Floats
    overlaps: Floats
    classes: NDArray[np.int64]
    means: NDArray[np.float32]


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
        trust: Their share in the final logit, in [0, 1); the rest is the prior's.
    """

    networks: Networks
    trust: float

    def scores(self, described: NDArray[np.float32], prior: Floats) -> Floats:
        """(N,) scores in [0, 1] of (N, D) descriptions and (N,) scores without learning."""
        logits = torch.from_numpy(logit(prior)).float()
        with torch.inference_mode():
            corrected = self.networks(torch.from_numpy(described)).squeeze(2) + logits
            own = corrected.sigmoid().mean(dim=0)
        learned = logit(own.numpy().astype(np.float64))
        mixed: Floats = 1 / (1 + np.exp(-(self.trust * learned + (1 - self.trust) * logit(prior))))
        # What cannot be an object stays none.
        return np.where(prior > 0, mixed, 0.0)

    def record(self) -> dict[str, Any]:
        """Its values by name, for a model's record."""
        return {**self.networks.record(), "trust": packed(torch.tensor(self.trust))}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> NodeRanker:
        """The ranker of such a record; raises as `Networks.of_record` does."""
        return cls(Networks.of_record(record), float(unpacked(record["trust"])))


@dataclass(frozen=True)
class NodeClassifier:
    """Networks that tell the class of a candidate from its size, shape and pixels.

    Attributes:
        networks: Of one output a class.
    """

    networks: Networks

    def classes(
        self, described: NDArray[np.float32], means: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """(N,) classes in [0, K) of (N, D) descriptions and (N, K) shares of the pixels."""
        with torch.inference_mode():
            logits = self.networks(_with_means(described, means)) + _prior(means)
            found: NDArray[np.int64] = logits.softmax(dim=2).mean(dim=0).argmax(dim=1).numpy()
        return found


def _with_means(described: NDArray[np.float32], means: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.concatenate((described, means), axis=1))


def _prior(means: NDArray[np.float32]) -> Tensor:
    """(N, K) logits of classes by the pixels alone."""
    return torch.from_numpy(np.log(means + CLASS_FLOOR))


@dataclass(frozen=True)
class Judge:
    """What was learned from a few labelled images.

    Attributes:
        pixels: Which pixels are inside an object or on an outline.
        nodes: Which candidates are objects.
        kinds: Which class each is of; None where all are one, or none was learned from.
    """

    pixels: PixelClassifier
    nodes: NodeRanker
    kinds: NodeClassifier | None = None

    def candidates(
        self, plain: Hierarchies, image_size: tuple[int, int], most: int
    ) -> tuple[Hierarchies, Candidates]:
        """The objects of an image.

        Args:
            plain: Its trees.
            image_size: (height, width) of the image itself, in whose pixels sizes are given.
            most: Nodes that are judged, once the best without learning, once by the pixels.

        Returns:
            The trees, those of the maps among them, and the judged candidates, best first.
        """
        found = with_maps(plain, self.pixels.maps(plain.lab))
        drawn = draw_candidates(found, image_size, most)
        if len(drawn.candidates) == 0:
            return found, drawn.candidates
        known = np.hstack((drawn.described, drawn.context))
        scores = self.nodes.scores(known, drawn.candidates.scores)
        judged = replace(drawn.candidates, scores=scores)
        judged = judged.filter(np.argsort(-scores, kind="stable"))
        return found, without_overlaps(judged, JUDGED_OVERLAP, within_trees=True)

    def scores(
        self, plain: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
    ) -> Floats:
        """(N,) scores in [0, 1] of nodes of an image's own trees, whose scores are `ranked`'s.

        Args:
            plain: The trees.
            candidates: N of their nodes.
            image_size: As in `candidates`.
        """
        found = replace(plain, maps=self.pixels.maps(plain.lab))
        described = describe(found, candidates, image_size, *known_of(found))
        context = in_context(described, candidates)
        return self.nodes.scores(np.hstack((described, context)), candidates.scores)

    def classes(
        self, found: Hierarchies, candidates: Candidates, image_size: tuple[int, int]
    ) -> NDArray[np.int64] | None:
        """(N,) class of each candidate in [0, K); None where all are one.

        Args:
            found: The trees as `candidates` returned them.
            candidates: N of their nodes.
            image_size: As in `candidates`.
        """
        if self.pixels.classes == 1:
            return None
        means = class_shares(found, candidates)
        if self.kinds is None:
            labels: NDArray[np.int64] = means.argmax(axis=1)
            return labels
        described = describe(found, candidates, image_size, *known_of(found))
        return self.kinds.classes(described, means)

    def record(self) -> dict[str, Any]:
        """Its values by name, for a model's record."""
        record = {"pixels": self.pixels.record(), "nodes": self.nodes.record()}
        kinds = {} if self.kinds is None else {"kinds": self.kinds.networks.record()}
        return {**record, **kinds}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Judge:
        """The judge of such a record; raises as `Networks.of_record` does."""
        kinds = record.get("kinds")
        nodes = NodeRanker.of_record(record["nodes"])
        if (got := nodes.networks.mean.numel()) != 2 * DESCRIBED:
            raise ValueError(
                f"learned from {got} values of a region by another version, which had "
                f"other than {2 * DESCRIBED}"
            )
        return cls(
            PixelClassifier.of_record(record["pixels"]),
            nodes,
            None if kinds is None else NodeClassifier(Networks.of_record(kinds)),
        )


@dataclass(frozen=True)
class Drawn:
    """Candidates before they are judged.

    Attributes:
        candidates: N of them; scores are those without learning.
        described: (N, D) float32 of `describe`.
        context: (N, D) float32 of `in_context`.
    """

    candidates: Candidates
    described: NDArray[np.float32]
    context: NDArray[np.float32]


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
    candidates = like_others(replace(joined, scores=scores), known)
    described = describe(found, candidates, image_size, known, fits)
    return Drawn(candidates, described, in_context(described, candidates))


def known_of(found: Hierarchies) -> tuple[list[Attributes], list[Agreement]]:
    """What is known of the nodes of each tree of an image with maps."""
    assert found.maps is not None
    return (
        [attributes(tree) for tree in found.trees],
        [agreement(tree, found.maps) for tree in found.trees],
    )


def class_shares(found: Hierarchies, candidates: Candidates) -> NDArray[np.float32]:
    """(N, K) shares of the classes in each of N candidates of an image with maps."""
    assert found.maps is not None
    shares = np.zeros((len(candidates), len(found.maps.inside)), dtype=np.float32)
    for number, tree in enumerate(found.trees):
        own = np.flatnonzero(candidates.trees == number)
        shares[own] = agreement(tree, found.maps).classes[candidates.nodes[own]]
    return shares


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
        image_size: (height, width) of the image itself, in whose pixels sizes are given.
        known: The attributes of the nodes of each tree.
        fits: How they agree with the maps.
    """
    rows = np.zeros((len(candidates), DESCRIBED), dtype=np.float32)
    scale = np.log(image_size[0] * image_size[1] / (found.size[0] * found.size[1]))
    first_of_maps = len(found.trees) - found.trees_of_maps
    for number, (tree, own, fit) in enumerate(zip(found.trees, known, fits, strict=True)):
        places = np.flatnonzero(candidates.trees == number)
        nodes = candidates.nodes[places]
        rows[places] = np.column_stack(
            [np.log(getattr(own, name)[nodes] + floor + 1e-12) for name, floor in FLOORS.items()]
            + [own.border[nodes], own.sides[nodes]]
            + [own.colors[nodes], own.colors[tree.parents[nodes]]]
            + [fit.described[nodes], np.full(len(nodes), float(number >= first_of_maps))]
            + [np.log(own.areas[nodes]), np.log(own.areas[nodes]) + scale]
        )
    return rows


def in_context(described: NDArray[np.float32], candidates: Candidates) -> NDArray[np.float32]:
    """(N, D) `deviations` of described candidates from the surest of their image."""
    apart: NDArray[np.float32] = deviations(described, candidates).astype(np.float32)
    return apart


def learn_nodes(examples: Sequence[Example], *, seed: int = 0) -> NodeRanker:
    """Learns from the candidates of labelled images which are objects.

    Args:
        examples: One a labelled image, at least one of them with a candidate.
        seed: Of the weights it starts from.

    Raises:
        ValueError: If there is no candidate.
    """
    known = [np.hstack((one.described, one.context)) for one in examples]
    described = torch.from_numpy(np.concatenate(known))
    if len(described) == 0:
        raise ValueError("networks learn from candidates, got none")
    prior = torch.from_numpy(np.concatenate([logit(one.prior) for one in examples])).float()
    overlaps = torch.from_numpy(np.concatenate([one.overlaps for one in examples])).float()
    wanted = torch.where(overlaps >= RIGHT, overlaps, 0)

    def loss(outputs: Tensor) -> Tensor:
        logits = outputs.squeeze(2) + prior
        return functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))

    networks = Networks.learned(described, 1, loss, seed=seed)
    # As its record keeps it.
    trust = torch.tensor(len(examples) / (len(examples) + PRIOR_IMAGES))
    return NodeRanker(networks, float(trust))


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
