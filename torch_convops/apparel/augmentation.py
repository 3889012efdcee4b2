"""More data out of the same pictures: a batch at a time, on its device, drawn anew for each batch.

A batch shares one draw: one crop, one change of colours. Over the epochs a picture is in as many batches as it would
have draws of its own, and whole batches keep data far cheaper than the step: each operation is one kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from .data import IMAGE_SIZE, normalize


class Augmentation:
    """Flip, crop, change colours, erase a patch; then half of the batches are mixed, MixUp or CutMix.

    MixUp (Zhang et al. 2018) blends each picture with its neighbour in the batch, CutMix (Yun et al. 2019) pastes a
    rectangle of it; the target is the same blend of the two classes.
    """

    def __init__(self, num_classes: int) -> None:
        self.change = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop(IMAGE_SIZE, scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3)),
                # Without hue, which costs six times as much as the three together.
                v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
                v2.Lambda(normalize),
                v2.RandomErasing(p=0.25),
            ]
        )
        mixed = [v2.MixUp(alpha=0.2, num_classes=num_classes), v2.CutMix(num_classes=num_classes)]
        self.mix = v2.RandomChoice([*mixed, v2.Identity()], p=[0.25, 0.25, 0.5])

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """What ``seed`` draws for the batch, whatever was drawn before it.

        Args:
            images: uint8 ``[B, 3, 128, 128]``.
            labels: int64 ``[B]``.

        Returns:
            Pixels, float32 ``[B, 3, 128, 128]``, and targets: the labels, or float32 ``[B, classes]`` if mixed.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            pixels, targets = self.mix(self.change(images), labels)
        return pixels.contiguous(memory_format=torch.channels_last), targets
