from __future__ import annotations

import pytest
import torch
from torch import Tensor

from soloist.ops.parts import largest_component


def drawn(*rows: str) -> Tensor:
    """One mask (1, H, W) from text, `#` is foreground."""
    return torch.tensor([[character == "#" for character in row] for row in rows])[None]


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        pytest.param(drawn("##..#", "##..."), drawn("##...", "##..."), id="a-stray-pixel"),
        pytest.param(drawn("#.###", "#...."), drawn("..###", "....."), id="the-larger-one"),
        pytest.param(drawn("##.", "..#"), drawn("##.", "..."), id="corners-do-not-connect"),
        pytest.param(drawn("##.", ".##"), drawn("##.", ".##"), id="one-part"),
        pytest.param(drawn("...", "..."), drawn("...", "..."), id="empty"),
    ],
)
def test_largest_parts(mask: Tensor, kept: Tensor) -> None:
    before = mask.clone()
    assert torch.equal(largest_component(mask), kept)
    assert torch.equal(mask, before)


def test_each_mask_keeps_its_own_part() -> None:
    masks = torch.cat([drawn("#.##"), drawn("##.#"), drawn("....")])
    assert torch.equal(
        largest_component(masks), torch.cat([drawn("..##"), drawn("##.."), drawn("....")])
    )


def test_no_masks_are_empty() -> None:
    assert largest_component(torch.zeros((0, 3, 4), dtype=torch.bool)).shape == (0, 3, 4)
