"""Random changes of an image's colours and framing, drawn from torch's global generator.

Callers seed that generator for each batch (`runtime/seeding.py`), so that a batch depends on its
step alone.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms import v2


def color_distortion(*, jitter: float, gray: float, blur: float) -> v2.Transform:
    """Jitter, grey and blur, each applied with its probability, for (3, H, W) uint8 images.

    The strengths are those of MoCo v2, which DenseCL and FreeSOLO share.
    """
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=jitter),
            v2.RandomGrayscale(p=gray),
            v2.RandomApply([v2.GaussianBlur(9, sigma=(0.1, 2.0))], p=blur),
        ]
    )


class CropPair:
    """Two random crops of one image with different colours, for contrastive learning."""

    def __init__(self, *, size: int, scale: tuple[float, float]) -> None:
        self._view = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=scale, antialias=True),
                v2.RandomHorizontalFlip(),
                color_distortion(jitter=0.8, gray=0.2, blur=0.5),
            ]
        )

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Crops a (3, H, W) uint8 image twice: two (3, size, size) uint8 views."""
        return self._view(image), self._view(image)
