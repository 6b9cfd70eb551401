"""A trained network made ready to predict: the same function with less work."""

from __future__ import annotations

import copy
import logging
from typing import cast

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

from soloist.models.backbones import Backbone
from soloist.models.solo import SOLO

logger = logging.getLogger(__name__)


def for_prediction(network: SOLO, precision: torch.dtype) -> SOLO:
    """A copy whose batch norms are part of the convolutions before them.

    Outputs differ by rounding alone. A backbone that torch cannot trace keeps its norms.

    Args:
        network: In evaluation mode; it stays as it is.
        precision: What convolutions will compute in. Their weights are kept in it, so that
            autocast does not have to convert them for every image.
    """
    network = copy.deepcopy(network).requires_grad_(False)
    backbone = cast(Backbone, network.backbone)
    if any(isinstance(module, nn.BatchNorm2d) for module in backbone.network.modules()):
        try:
            backbone.network = fuse(backbone.network)
        except (TraceError, TypeError, RuntimeError) as error:
            # What tracing says of code that decides by values.
            logger.debug("the backbone keeps its batch norms: %s", error)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(precision)
    return network.to(memory_format=torch.channels_last)
