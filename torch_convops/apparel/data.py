"""Labelled pictures in memory: the ImageFolder reader, and the batches made from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional as transforms

IMAGE_SIZE = 128
SPLITS = ("train", "validation", "test")


# Augmented pixels and targets of uint8 images and their labels, as a seed draws them.
Augment = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


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

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(pixels, labels)`` in the order of the split, the last batch possibly smaller.

        ``pixels`` is float32 ``[B, 3, 128, 128]``, see :func:`normalize`.
        """
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield normalize(images), labels

    def shuffled(
        self, batch_size: int, generator: torch.Generator, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same in an order drawn from ``generator`` (a CPU generator), and as ``augment`` makes them."""
        order = torch.randperm(len(self), generator=generator).to(self.labels.device)
        for index in order.split(batch_size):
            images, labels = self.images[index], self.labels[index]
            if augment is None:
                yield normalize(images), labels
            else:
                yield augment(images, labels, int(torch.randint(2**62, (), generator=generator)))


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
    """Decode ``root/{train,validation,test}/<class>/<picture>`` into memory, see :func:`read_picture`.

    Every split has the same two or more classes.

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
        row.copy_(read_picture(path).permute(1, 2, 0))
    return Split(images.permute(0, 3, 1, 2), torch.tensor(folder.targets))


def read_picture(path: str | Path) -> Tensor:
    """uint8 ``[3, 128, 128]``, RGB: upright as the camera noted it, over white where it is transparent, resized.

    Raises:
        ApparelError: the file cannot be read, or is no picture.
    """
    try:
        with Image.open(path) as file:
            picture = _as_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise ApparelError(f"no such file: {path}") from None
    except UnidentifiedImageError:
        raise ApparelError(f"not a picture: {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ApparelError(f"cannot decode the picture {path}") from error
    if picture.size != (IMAGE_SIZE, IMAGE_SIZE):
        picture = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    pixels: Tensor = transforms.pil_to_tensor(picture)
    return pixels


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
