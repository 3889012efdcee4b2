"""Labelled pictures in memory: the ImageFolder reader, and the batches made from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as transforms

IMAGE_SIZE = 128
SPLITS = ("train", "validation", "test")


class ApparelError(ValueError):
    """Something a user can put right; the message is one line and says what and where."""


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        images: uint8, ``[N, 3, 128, 128]`` in channels-last memory format, RGB.
        labels: int64, ``[N]``, indices into the class names.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batch_size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(pixels, labels)`` on ``device``, the last batch possibly smaller.

        ``pixels`` is float32 ``[B, 3, 128, 128]``, see :func:`normalize`. The order is a permutation drawn
        from ``generator`` (a CPU generator), or that of the split without one.
        """
        size = len(self)
        order = torch.arange(size) if generator is None else torch.randperm(size, generator=generator)
        for index in order.split(batch_size):
            yield normalize(self.images[index].to(device)), self.labels[index].to(device)


@dataclass(frozen=True)
class ApparelData:
    """The three splits, the class names their labels index, and the directory read, None if synthetic."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    directory: Path | None

    @property
    def source(self) -> str:
        """``"synthetic"``, or the directory."""
        return "synthetic" if self.directory is None else str(self.directory)

    @property
    def splits(self) -> dict[str, Split]:
        return {name: getattr(self, name) for name in SPLITS}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the class names, labels and pixels: equal for equal data, wherever it lies."""
        sha = hashlib.sha256("\0".join(self.classes).encode())
        for split in self.splits.values():
            sha.update(split.labels.numpy().tobytes())
            sha.update(split.images.permute(0, 2, 3, 1).numpy().tobytes())
        return sha.hexdigest()


def normalize(images: Tensor) -> Tensor:
    """Map uint8 pixels 0..255 to float32 -1..1, in channels-last memory format."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)


def load_image_folder(root: str | Path) -> ApparelData:
    """Decode ``root/{train,validation,test}/<class>/<picture>`` into memory.

    Pictures become RGB and, where they have another size, are resized to 128x128. Every split has the same
    two or more classes.

    Raises:
        ApparelError: a folder is missing or empty, the classes of two splits differ, or a picture cannot be
            decoded. The message names the file or folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise ApparelError(f"no such data directory: {root}")
    missing = [name for name in SPLITS if not (root / name).is_dir()]
    if missing:
        raise ApparelError(f"{root} has no folder {missing[0]!r}; expected {' | '.join(SPLITS)}")
    folders = {name: _open_folder(root / name) for name in SPLITS}
    classes = folders["train"].classes
    if len(classes) < 2:
        raise ApparelError(f"{root / 'train'} has only the class {classes[0]!r}; two or more are needed")
    for name, folder in folders.items():
        differing = sorted(set(classes) ^ set(folder.classes))
        if differing:
            where, other = ("train", name) if differing[0] in classes else (name, "train")
            raise ApparelError(f"the class {differing[0]!r} of {root / where} is not in {root / other}")
    splits = {name: _decode(folder) for name, folder in folders.items()}
    return ApparelData(**splits, classes=tuple(classes), directory=root)


def _open_folder(folder: Path) -> ImageFolder:
    try:
        return ImageFolder(str(folder))
    except (OSError, ValueError) as error:
        # torchvision's message is several lines where a class has no picture.
        reason = str(error).splitlines()[0]
        raise ApparelError(f"cannot read {folder}: {reason}") from error


def _decode(folder: ImageFolder) -> Split:
    images = torch.empty(len(folder), IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    for row, (path, _) in zip(images, folder.samples, strict=True):
        row.copy_(_read_picture(path))
    return Split(images.permute(0, 3, 1, 2), torch.tensor(folder.targets))


def _read_picture(path: str) -> Tensor:
    """uint8 ``[128, 128, 3]``."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ApparelError(f"cannot decode the picture {path}") from error
    if picture.size != (IMAGE_SIZE, IMAGE_SIZE):
        picture = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    pixels: Tensor = transforms.pil_to_tensor(picture)
    return pixels.permute(1, 2, 0)
