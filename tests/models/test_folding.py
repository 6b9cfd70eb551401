"""Networks made ready to predict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from soloist.models.backbones import Backbone, create_backbone
from soloist.models.folding import for_prediction
from soloist.models.solo import SOLO


def solo(backbone: Backbone) -> SOLO:
    network = SOLO(
        backbone,
        backbone_channels=backbone.channels,
        fpn_channels=32,
        head_channels=32,
        mask_channels=32,
        kernel_channels=32,
        tower_depth=1,
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stride", "count"), [("resnet18", 32, 20), ("resnet50", 16, 53)])
def test_norms_become_part_of_convolutions(name: str, stride: int, count: int) -> None:
    torch.manual_seed(0)
    network = solo(create_backbone(name, weights="none", output_stride=stride))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(1, 3, 96, 128)
    ready = for_prediction(network, torch.float32)
    assert [norms(network), norms(ready)] == [count, 0]
    with torch.no_grad():
        wanted, found = network(images), ready(images)
    torch.testing.assert_close(found.mask_features, wanted.mask_features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.kernels, wanted.kernels, rtol=1e-4, atol=1e-4)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_weights_are_kept_in_the_precision_of_products() -> None:
    torch.manual_seed(0)
    network = solo(create_backbone("resnet18", weights="none"))
    ready = for_prediction(network, torch.bfloat16)
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        wanted = network(images).mask_features
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, usual = ready(images).mask_features, network(images).mask_features
    assert found.dtype == usual.dtype == torch.bfloat16
    error, usual_error = ((one.float() - wanted).norm() for one in (found, usual))
    assert error < 1.2 * usual_error
    kept = {one.weight.dtype for one in ready.modules() if isinstance(one, nn.Conv2d)}
    assert kept == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


class Undecided(nn.Module):
    """A norm after a convolution, in code that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.norm(self.conv(images))
        if features.mean() > 0:
            features = -features
        return [features]


def test_a_backbone_that_cannot_be_traced_keeps_its_norms() -> None:
    backbone = Backbone(Undecided(), channels=[8], strides=[4], modules_of_levels=["conv"])
    assert norms(for_prediction(solo(backbone), torch.float32)) == 1
