"""Values of our own, so that a clone without the released ones notices any change of a stage.

`pytest tests/test_goldens.py --accept-golden` writes `tests/goldens/` anew. Inputs and weights
are sines, which are the same with every version of every library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soloist.config import Config, FreeMaskConfig, InferenceConfig, ModelConfig
from soloist.free_mask import free_masks
from soloist.losses import FreeSOLOCriterion
from soloist.models import SOLO
from soloist.postprocess import postprocess
from soloist.structures import Instances, SOLOOutputs
from soloist.training.data.train_data import collate
from soloist.training.data.views import View
from soloist.training.train import batch_losses

CheckGolden = Callable[[str, Mapping[str, Tensor]], None]
GRIDS = (8, 6, 5, 4, 3)
RANGES = ((1.0, 16.0), (8.0, 32.0), (16.0, 64.0), (32.0, 96.0), (64.0, 2048.0))
SIZE = (64, 96)


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Float32 values in [-1, 1] without a pattern."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(0.7 * numbers**1.5 + phase).float().view(shape)


def ellipses(count: int, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool, of growing size."""
    rows = torch.arange(size[0])[:, None] / size[0]
    columns = torch.arange(size[1]) / size[1]
    return torch.stack(
        [
            ((rows - 0.25 - 0.5 * (n % 2)) / (0.1 + 0.06 * n)) ** 2
            + ((columns - 0.2 - 0.25 * n) / (0.12 + 0.05 * n)) ** 2
            < 1
            for n in range(count)
        ]
    )


def objects_of(found: Instances) -> dict[str, Tensor]:
    return {
        "masks": found.masks,
        "scores": found.scores,
        "boxes": found.boxes,
        "embeddings": found.embeddings,
    }


class Pooled(nn.Module):
    """Four levels of pooled pixels, each through one 1x1 convolution."""

    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 6, 1) for _ in self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            conv(F.avg_pool2d(images, stride))
            for conv, stride in zip(self.convs, self.strides, strict=True)
        ]


@pytest.fixture
def network() -> SOLO:
    network = SOLO(
        Pooled(),
        backbone_channels=[6] * 4,
        fpn_channels=8,
        head_channels=32,
        mask_channels=32,
        kernel_channels=6,
        tower_depth=2,
        embedding_size=5,
        grids=GRIDS,
    )
    with torch.no_grad():
        for number, weights in enumerate(network.parameters()):
            values = waves(*weights.shape, phase=number)
            inputs = weights[0].numel()
            weights.copy_(2 * values / inputs**0.5 if weights.ndim > 1 else 0.5 + 0.3 * values)
    return network


@pytest.fixture
def outputs(network: SOLO) -> SOLOOutputs:
    coarse = waves(2, 3, 5, 7)
    outputs: SOLOOutputs = network(F.interpolate(coarse, SIZE, mode="bilinear") * 2)
    return outputs


@pytest.mark.parametrize("compat", ["none", "released"])
def test_free_masks_are_as_they_were(check_golden: CheckGolden, compat: str) -> None:
    labels = torch.zeros(11, 15, dtype=torch.long)
    for number, mask in enumerate(ellipses(3, (11, 15)), start=1):
        labels[mask] = number
    prototypes = (waves(4, 12) + 1) ** 2
    features = prototypes[labels].permute(2, 0, 1) + 0.2 * (waves(12, 11, 15, phase=1) + 1)
    config = FreeMaskConfig(embedding_size=8, max_masks=6, score_threshold=0.5)
    found = free_masks(features, (44, 61), replace(config, compat=compat))  # type: ignore[arg-type]
    assert len(found) >= 3
    check_golden(f"free_masks_{compat}", objects_of(found))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("matrix", InferenceConfig(), id="matrix-nms"),
        pytest.param("mask", InferenceConfig(nms="mask"), id="mask-nms"),
        pytest.param("released", InferenceConfig(compat="released"), id="compat"),
    ],
)
def test_inference_is_as_it_was(
    check_golden: CheckGolden, outputs: SOLOOutputs, name: str, config: InferenceConfig
) -> None:
    found = postprocess(
        outputs,
        input_sizes=[(60, 93)] * 2,
        original_sizes=[(45, 70)] * 2,
        config=replace(config, max_per_image=6, category_threshold=0.4),
        strides=(8, 8, 16, 32, 32),
    )[0]
    assert len(found) >= 3
    check_golden(f"inference_{name}", objects_of(found))


def test_the_network_is_as_it_was(check_golden: CheckGolden, outputs: SOLOOutputs) -> None:
    levels = {
        "category": outputs.category_logits,
        "kernels": outputs.kernels,
        "embeddings": outputs.semantic_embeddings,
    }
    values = {
        f"{name}_{number}": level[0]
        for name, maps in levels.items()
        for number, level in enumerate(maps)
        if number in (2, 4)
    }
    check_golden("network", {**values, "mask_features": outputs.mask_features[0, :, ::4, ::4]})


def views(masks: Sequence[Tensor]) -> list[View]:
    result = []
    for number, of_view in enumerate(masks):
        # So smooth that some pairs of colours are alike, and some are not.
        coarse = waves(1, 3, 3, 4, phase=number)
        smooth = F.interpolate(coarse, SIZE, mode="bilinear")[0]
        image = (smooth * 40 + 3 * waves(3, *SIZE) + 128).to(torch.uint8)
        embeddings = waves(len(of_view), 5, phase=number)
        labels = torch.zeros(len(of_view), dtype=torch.int64)
        result.append(
            View(
                image,
                image,
                of_view,
                embeddings,
                labels,
                unread_rows=6,
            )
        )
    return result


@pytest.mark.parametrize("compat", ["none", "released"])
def test_the_whole_criterion_is_as_it_was(
    check_golden: CheckGolden, network: SOLO, outputs: SOLOOutputs, compat: str
) -> None:
    """Colours, targets, every term, and the gradient of their sum in each part of the network."""
    batch = collate(
        views([ellipses(3, SIZE), ellipses(1, SIZE)]), [], released_colors=compat == "released"
    )
    config = Config(model=ModelConfig(grids=GRIDS, scale_ranges=RANGES))
    losses = batch_losses(FreeSOLOCriterion(config.loss), outputs, batch, config, step=499)
    torch.autograd.backward(list(losses.values()))
    gradients = {
        f"gradient of {name}": torch.stack(
            [weights.grad.norm() for weights in part.parameters() if weights.grad is not None]
        ).norm()
        for name, part in network.named_children()
    }
    assert min(loss.item() for loss in losses.values()) > 0
    check_golden(f"criterion_{compat}", {**losses, **gradients})
