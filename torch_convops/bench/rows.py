"""The benchmark's rows: layers of well-known CNNs, with the flops and the bytes that each pass cannot do without."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F

from .. import ops
from ..ops.conv2d import format_of

PASSES = ("forward", "grad_input", "grad_weight", "training")
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Operands(NamedTuple):
    """A row's random data. leaves is (input,) of a pooling, (input, weight) of a convolution."""

    leaves: tuple[torch.Tensor, ...]
    grad_output: torch.Tensor


@dataclass(frozen=True)
class Row(ABC):
    """A square window over square planes: (N, C, size, size) to (N, K, output, output)."""

    name: str
    N: int
    C: int
    size: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    operator: ClassVar[str]
    passes: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def family(self) -> str:
        """What the row's ratio is averaged with."""

    @abstractmethod
    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        """The forward pass of this library."""

    @abstractmethod
    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        """The forward pass of torch, the fastest way it has."""

    @abstractmethod
    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        """The algorithm that ``"auto"`` takes for ``"forward"``, ``"grad_input"`` or ``"grad_weight"``; None where the
        library does not tell, or takes several."""

    @abstractmethod
    def flops(self, pass_: str) -> int:
        """Floating-point operations of a pass by the textbook; 0 where only memory matters."""

    @abstractmethod
    def bytes(self, pass_: str, itemsize: int) -> int:
        """Bytes that a pass has to read and write if every value crosses the memory bus once."""

    @property
    def extent(self) -> int:
        """Pixels from the first to the last that a window covers, along an axis."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def output(self) -> int:
        return (self.size + 2 * self.padding - self.extent) // self.stride + 1

    @property
    def K(self) -> int:
        return self.C

    @property
    def leaf_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.N, self.C, self.size, self.size),)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.N, self.K, self.output, self.output)

    @property
    def input_numel(self) -> int:
        return self.N * self.C * self.size**2

    @property
    def output_numel(self) -> int:
        return math.prod(self.output_shape)

    @property
    def pixels_read(self) -> int:
        """Values of the input that some window covers: a stride beyond the kernel skips the rest."""
        taps = range(0, self.extent, self.dilation)
        covered = {p * self.stride + tap - self.padding for p in range(self.output) for tap in taps}
        return self.N * self.C * len(covered & set(range(self.size))) ** 2

    def operands(self, dtype: torch.dtype, device: str, format_: str, seed: int = 0) -> Operands:
        """Normal data; weights are scaled so that outputs are of the size of inputs."""
        generator = torch.Generator().manual_seed(seed)

        def random(shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
            values = torch.randn(shape, generator=generator).mul_(scale)
            return values.to(device, dtype).contiguous(memory_format=FORMATS[format_])

        image, *weights = self.leaf_shapes
        leaves = (random(image), *(random(shape, 1 / math.sqrt(math.prod(shape[1:]))) for shape in weights))
        return Operands(leaves, random(self.output_shape))


@dataclass(frozen=True)
class Conv2dRow(Row):
    filters: int = 0
    groups: int = 1

    operator: ClassVar[str] = "conv2d"
    passes: ClassVar[tuple[str, ...]] = PASSES

    @property
    def family(self) -> str:
        if self.groups == self.C:
            return "depthwise conv"
        if self.groups > 1:
            return "grouped conv"
        return "1x1 conv" if self.kernel == 1 else "dense conv"

    @property
    def K(self) -> int:
        return self.filters

    @property
    def leaf_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (*super().leaf_shapes, (self.filters, self.C // self.groups, self.kernel, self.kernel))

    @property
    def _window(self) -> tuple[int, int, int, int]:
        return (self.stride, self.padding, self.dilation, self.groups)

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        image, weight = leaves
        return ops.conv2d(image, weight, None, *self._window, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        image, weight = leaves
        return F.conv2d(image, weight, None, *self._window)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        image, weight = leaves
        return ops.conv2d_choice(pass_, image, weight, *self._window)

    def flops(self, pass_: str) -> int:
        once = 2 * self.output_numel * self.C // self.groups * self.kernel**2
        return 3 * once if pass_ == "training" else once

    def bytes(self, pass_: str, itemsize: int) -> int:
        weight = math.prod(self.leaf_shapes[1])
        values = {
            "forward": self.pixels_read + weight + self.output_numel,
            "grad_input": self.output_numel + weight + self.input_numel,
            "grad_weight": self.pixels_read + self.output_numel + weight,
        }
        return itemsize * (sum(values.values()) if pass_ == "training" else values[pass_])


@dataclass(frozen=True)
class BorderedConv2dRow(Conv2dRow):
    """A border other than zeros, for which torch makes a padded copy."""

    padding_mode: str = "circular"

    @property
    def family(self) -> str:
        return "bordered conv"

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        image, weight = leaves
        return ops.conv2d(image, weight, None, *self._window, self.padding_mode, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        padded = F.pad(leaves[0], (self.padding,) * 4, mode=self.padding_mode)
        return F.conv2d(padded, leaves[1], None, self.stride, 0, self.dilation, self.groups)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        image, weight = leaves
        return ops.conv2d_choice(pass_, image, weight, *self._window, self.padding_mode)


@dataclass(frozen=True)
class ConvTranspose2dRow(Conv2dRow):
    """(N, C, size, size) to (N, filters, output, output)."""

    @property
    def family(self) -> str:
        return "transposed conv"

    @property
    def output(self) -> int:
        return (self.size - 1) * self.stride - 2 * self.padding + self.extent

    @property
    def pixels_read(self) -> int:
        return self.input_numel

    @property
    def leaf_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (super().leaf_shapes[0], (self.C, self.filters // self.groups, self.kernel, self.kernel))

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        image, weight = leaves
        window = (self.stride, self.padding, 0, self.groups, self.dilation)
        return ops.conv_transpose2d(image, weight, None, *window, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        image, weight = leaves
        return F.conv_transpose2d(image, weight, None, self.stride, self.padding, 0, self.groups, self.dilation)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        # Of the convolution from the output back.
        image, weight = leaves
        output = image.new_empty(self.output_shape).contiguous(memory_format=format_of(image))
        transposed = {"forward": "grad_input", "grad_input": "forward"}.get(pass_, pass_)
        return ops.conv2d_choice(transposed, output, weight, *self._window)

    def flops(self, pass_: str) -> int:
        once = 2 * self.input_numel * self.filters // self.groups * self.kernel**2
        return 3 * once if pass_ == "training" else once


@dataclass(frozen=True)
class PerSampleRow(Conv2dRow):
    """The gradient of the weight for each image by itself, as differential privacy needs it: vmap over grad."""

    passes: ClassVar[tuple[str, ...]] = ("forward",)

    @property
    def family(self) -> str:
        return "per-sample gradients"

    @property
    def output_shape(self) -> tuple[int, ...]:
        filters, *filter_shape = self.leaf_shapes[1]
        return (self.N * filters, *filter_shape)

    @property
    def output_numel(self) -> int:
        return self.N * self.filters * self.output**2

    def _gradients(self, function: Callable[..., torch.Tensor], leaves: tuple[torch.Tensor, ...]) -> torch.Tensor:
        def loss(weight: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return function(image.unsqueeze(0), weight).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(leaves[1], leaves[0]).flatten(0, 1)

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        return self._gradients(functools.partial(super().ours, algorithm=algorithm), leaves)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return self._gradients(super().reference, leaves)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        return None

    def flops(self, pass_: str) -> int:
        return 2 * super().flops(pass_)


@dataclass(frozen=True)
class PoolRow(Row):
    passes: ClassVar[tuple[str, ...]] = ("forward", "grad_input", "training")

    @property
    def family(self) -> str:
        return self.operator

    def flops(self, pass_: str) -> int:
        return 0

    def bytes(self, pass_: str, itemsize: int) -> int:
        values = {
            "forward": self.pixels_read + self.output_numel,
            "grad_input": self.output_numel + self.input_numel,
        }
        return itemsize * (sum(values.values()) if pass_ == "training" else values[pass_])


@dataclass(frozen=True)
class MaxPool2dRow(PoolRow):
    operator: ClassVar[str] = "max_pool2d"

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        window = (self.kernel, self.stride, self.padding, self.dilation)
        output: torch.Tensor = ops.max_pool2d(leaves[0], *window, algorithm=algorithm)
        return output

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(leaves[0], self.kernel, self.stride, self.padding, self.dilation)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        return ops.max_pool2d_choice(pass_, leaves[0], self.kernel, self.stride, self.padding, self.dilation)

    def bytes(self, pass_: str, itemsize: int) -> int:
        # The backward pass needs to know each maximum's place: a byte an output, written by a forward that trains.
        offsets = {"forward": 0, "grad_input": 1, "training": 2}[pass_] * self.output_numel
        return super().bytes(pass_, itemsize) + offsets


@dataclass(frozen=True)
class AvgPool2dRow(PoolRow):
    """torch has none with a dilation."""

    operator: ClassVar[str] = "avg_pool2d"

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        window = (self.kernel, self.stride, self.padding)
        return ops.avg_pool2d(leaves[0], *window, dilation=self.dilation, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(leaves[0], self.kernel, self.stride, self.padding)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        return ops.avg_pool2d_choice(pass_, leaves[0], self.kernel, self.stride, self.padding, dilation=self.dilation)


class _Adaptive:
    """``kernel`` is the number of windows along an axis; neighbours share pixels where it does not divide the size."""

    kernel: int
    input_numel: int

    @property
    def output(self) -> int:
        return self.kernel

    @property
    def pixels_read(self) -> int:
        return self.input_numel


@dataclass(frozen=True)
class AdaptiveMaxPool2dRow(_Adaptive, MaxPool2dRow):
    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        output: torch.Tensor = ops.adaptive_max_pool2d(leaves[0], self.kernel, algorithm=algorithm)
        return output

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.adaptive_max_pool2d(leaves[0], self.kernel)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        return ops.max_pool2d_choice(pass_, leaves[0], self.size) if self.kernel == 1 else None


@dataclass(frozen=True)
class AdaptiveAvgPool2dRow(_Adaptive, AvgPool2dRow):
    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        return ops.adaptive_avg_pool2d(leaves[0], self.kernel, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(leaves[0], self.kernel)

    def choice(self, pass_: str, *leaves: torch.Tensor) -> str | None:
        return ops.avg_pool2d_choice(pass_, leaves[0], self.size) if self.kernel == 1 else None


def _dense(
    name: str, N: int, C: int, K: int, size: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> Conv2dRow:
    padding = dilation * (kernel - 1) // 2
    return Conv2dRow(name, N, C, size, kernel, stride, padding, dilation, filters=K, groups=groups)


def _depthwise(name: str, N: int, C: int, size: int, kernel: int, stride: int = 1, dilation: int = 1) -> Conv2dRow:
    return _dense(name, N, C, C, size, kernel, stride, groups=C, dilation=dilation)


def _other_convolutions(N: int) -> list[Row]:
    return [
        BorderedConv2dRow("circular 3x3 c64 @56", N, 64, 56, 3, 1, 1, filters=64),
        BorderedConv2dRow("reflect 7x7 3->64 @112", N, 3, 112, 7, 1, 3, filters=64, padding_mode="reflect"),
        BorderedConv2dRow("circular dw7x7 c96 @56", N, 96, 56, 7, 1, 3, filters=96, groups=96),
        ConvTranspose2dRow("transposed 4x4s2 64->32 @28", N, 64, 28, 4, 2, 1, filters=32),
        PerSampleRow("per-sample 3x3 c64 @28", N, 64, 28, 3, 1, 1, filters=64),
    ]


def _cpu_rows() -> list[Row]:
    conv, pool = 8, 16  # images in a batch
    return [
        _dense("7x7s2 3->64 @224", conv, 3, 64, 224, 7, 2),
        _dense("3x3 c64 @56", conv, 64, 64, 56, 3),
        _dense("3x3 c256 @14", conv, 256, 256, 14, 3),
        _dense("1x1 256->64 @56", conv, 256, 64, 56, 1),
        _dense("1x1s2 256->512 @56", conv, 256, 512, 56, 1, 2),
        _dense("3x3 3->32 @128", conv, 3, 32, 128, 3),
        _depthwise("dw3x3 c128 @56", conv, 128, 56, 3),
        _depthwise("dw7x7 c96 @56", conv, 96, 56, 7),
        _depthwise("dw31x31 c128 @28", 4, 128, 28, 31),
        MaxPool2dRow("max 3s2p1 c64 @112", pool, 64, 112, 3, 2, 1),
        MaxPool2dRow("max 2s2 c64 @112", pool, 64, 112, 2, 2),
        MaxPool2dRow("max 5s1p2 c64 @56", 4, 64, 56, 5, 1, 2),
        MaxPool2dRow("max 9s1p4 c64 @56", 4, 64, 56, 9, 1, 4),
        MaxPool2dRow("max 13s1p6 c64 @56", 4, 64, 56, 13, 1, 6),
        AdaptiveMaxPool2dRow("max 13 to 6 c256", pool, 256, 13, 6),
        AdaptiveMaxPool2dRow("global max 56x56 c256", pool, 256, 56, 1),
        AvgPool2dRow("avg 2s2 c64 @112", pool, 64, 112, 2, 2),
        AvgPool2dRow("avg 3s1p1 c192 @35", pool, 192, 35, 3, 1, 1),
        AvgPool2dRow("avg 13s1p6 c64 @56", 4, 64, 56, 13, 1, 6),
        AdaptiveAvgPool2dRow("avg 30 to 7 c256", pool, 256, 30, 7),
        AdaptiveAvgPool2dRow("global avg 7x7 c2048", pool, 2048, 7, 1),
        AdaptiveAvgPool2dRow("global avg 56x56 c256", pool, 256, 56, 1),
        *_other_convolutions(conv),
    ]


def _cuda_rows() -> list[Row]:
    N = 128
    return [
        _dense("7x7s2 3->64 @224", N, 3, 64, 224, 7, 2),
        _dense("3x3 c64 @56", N, 64, 64, 56, 3),
        _dense("3x3 c128 @28", N, 128, 128, 28, 3),
        _dense("3x3 c256 @14", N, 256, 256, 14, 3),
        _dense("3x3s2 c128 @56", N, 128, 128, 56, 3, 2),
        _dense("1x1 256->64 @56", N, 256, 64, 56, 1),
        _dense("1x1s2 256->512 @56", N, 256, 512, 56, 1, 2),
        _depthwise("dw3x3 c128 @56", N, 128, 56, 3),
        _depthwise("dw7x7 c96 @56", N, 96, 56, 7),
        _depthwise("dw31x31 c128 @28", 64, 128, 28, 31),
        _dense("3x3 3->32 @128", N, 3, 32, 128, 3),
        _dense("3x3 g32 c256 @14", N, 256, 256, 14, 3, groups=32),
        MaxPool2dRow("max 3s2p1 c64 @112", N, 64, 112, 3, 2, 1),
        MaxPool2dRow("max 2s2 c64 @112", N, 64, 112, 2, 2),
        AvgPool2dRow("avg 2s2 c64 @112", N, 64, 112, 2, 2),
        AvgPool2dRow("avg 3s1p1 c192 @35", N, 192, 35, 3, 1, 1),
        AdaptiveAvgPool2dRow("avg 30 to 7 c256", N, 256, 30, 7),
        AdaptiveAvgPool2dRow("global avg 7x7 c2048", N, 2048, 7, 1),
        *_other_convolutions(N),
    ]


def _wider_rows(conv: int, pool: int) -> list[Row]:
    """What the other layers of well-known CNNs, odd sizes and single images add, for batches of so many images."""
    return [
        # ResNet, VGG, Inception
        _dense("3x3 c128 @28", conv, 128, 128, 28, 3),
        _dense("3x3 c512 @7", conv, 512, 512, 7, 3),
        _dense("3x3s2 c128 @56", conv, 128, 128, 56, 3, 2),
        _dense("3x3s2 128->256 @28", conv, 128, 256, 28, 3, 2),
        _dense("5x5 32->64 @28", conv, 32, 64, 28, 5),
        _dense("3x3s2 3->32 @224", conv, 3, 32, 224, 3, 2),
        _dense("1x1 64->256 @56", conv, 64, 256, 56, 1),
        _dense("1x1 512->128 @28", conv, 512, 128, 28, 1),
        _dense("1x1 256->1024 @14", conv, 256, 1024, 14, 1),
        _dense("1x1 2048->512 @7", conv, 2048, 512, 7, 1),
        _dense("1x1s2 512->1024 @28", conv, 512, 1024, 28, 1, 2),
        # patches: ViT and ConvNeXt
        Conv2dRow("4x4s4 3->96 @224", conv, 3, 224, 4, 4, filters=96),
        Conv2dRow("16x16s16 3->768 @224", conv, 3, 224, 16, 16, filters=768),
        Conv2dRow("2x2s2 96->192 @56", conv, 96, 56, 2, 2, filters=192),
        # DeepLab: dilations, few filters
        _dense("3x3d2 c256 @28", conv, 256, 256, 28, 3, dilation=2),
        _dense("3x3d12 512->256 @28", conv, 512, 256, 28, 3, dilation=12),
        _dense("1x1 256->21 @56", conv, 256, 21, 56, 1),
        _dense("3x3 64->3 @128", conv, 64, 3, 128, 3),
        _dense("1x1 64->1 @128", conv, 64, 1, 128, 1),
        # ResNeXt
        _dense("3x3 g32 c128 @56", conv, 128, 128, 56, 3, groups=32),
        _dense("3x3 g32 c256 @14", conv, 256, 256, 14, 3, groups=32),
        _dense("3x3s2 g32 c512 @28", conv, 512, 512, 28, 3, 2, groups=32),
        # odd sizes and numbers of channels
        _dense("3x3 61->67 @37", conv, 61, 67, 37, 3),
        _dense("5x5s3 c35 @53", conv, 35, 35, 53, 5, 3),
        _dense("1x1 67->131 @29", conv, 67, 131, 29, 1),
        _depthwise("dw3x3 c93 @31", conv, 93, 31, 3),
        # one image
        _dense("7x7s2 3->64 @224 N1", 1, 3, 64, 224, 7, 2),
        _dense("3x3 c64 @56 N1", 1, 64, 64, 56, 3),
        _dense("3x3 c512 @7 N1", 1, 512, 512, 7, 3),
        _dense("1x1 2048->512 @7 N1", 1, 2048, 512, 7, 1),
        _depthwise("dw3x3 c512 @14 N1", 1, 512, 14, 3),
        # MobileNet, EfficientNet, ConvNeXt
        _depthwise("dw3x3 c32 @112", conv, 32, 112, 3),
        _depthwise("dw3x3s2 c144 @56", conv, 144, 56, 3, 2),
        _depthwise("dw3x3 c512 @14", conv, 512, 14, 3),
        _depthwise("dw3x3 c1024 @7", conv, 1024, 7, 3),
        _depthwise("dw5x5s2 c240 @28", conv, 240, 28, 5, 2),
        _depthwise("dw5x5 c672 @14", conv, 672, 14, 5),
        _depthwise("dw5x5 c1152 @7", conv, 1152, 7, 5),
        _depthwise("dw7x7 c384 @14", conv, 384, 14, 7),
        _depthwise("dw7x7 c768 @7", conv, 768, 7, 7),
        _depthwise("dw3x3d2 c256 @28", conv, 256, 28, 3, dilation=2),
        Conv2dRow("dw3x3 m2 c64->128 @56", conv, 64, 56, 3, 1, 1, filters=128, groups=64),
        # borders
        BorderedConv2dRow("replicate 3x3 c64 @56", conv, 64, 56, 3, 1, 1, filters=64, padding_mode="replicate"),
        BorderedConv2dRow("reflect 3x3s2 c128 @56", conv, 128, 56, 3, 2, 1, filters=128, padding_mode="reflect"),
        BorderedConv2dRow("circular 3x3d4 c64 @28", conv, 64, 28, 3, 1, 4, 4, filters=64),
        BorderedConv2dRow(
            "replicate dw3x3 c256 @14", conv, 256, 14, 3, 1, 1, filters=256, groups=256, padding_mode="replicate"
        ),
        # U-Net, DCGAN
        ConvTranspose2dRow("transposed 2x2s2 256->128 @28", conv, 256, 28, 2, 2, filters=128),
        ConvTranspose2dRow("transposed 4x4s2 512->256 @7", conv, 512, 7, 4, 2, 1, filters=256),
        ConvTranspose2dRow("transposed 4x4s2 64->3 @64", conv, 64, 64, 4, 2, 1, filters=3),
        ConvTranspose2dRow("transposed 3x3 c128 @28", conv, 128, 28, 3, 1, 1, filters=128),
        ConvTranspose2dRow("transposed dw4x4s2 c128 @28", conv, 128, 28, 4, 2, 1, filters=128, groups=128),
        # poolings
        MaxPool2dRow("max 2s2 c512 @14", pool, 512, 14, 2, 2),
        MaxPool2dRow("max 3s1p1 c256 @28", pool, 256, 28, 3, 1, 1),
        MaxPool2dRow("max 3s2 c61 @109", pool, 61, 109, 3, 2),
        MaxPool2dRow("max 3s1p1d2 c64 @56", pool, 64, 56, 3, 1, 1, 2),
        MaxPool2dRow("max 3s2p1 c64 @112 N1", 1, 64, 112, 3, 2, 1),
        AvgPool2dRow("avg 2s2 c512 @28", pool, 512, 28, 2, 2),
        AvgPool2dRow("avg 3s2p1 c128 @56", pool, 128, 56, 3, 2, 1),
        AvgPool2dRow("avg 5s3 c67 @37", pool, 67, 37, 5, 3),
        AdaptiveMaxPool2dRow("global max 7x7 c512", pool, 512, 7, 1),
        AdaptiveMaxPool2dRow("max 14 to 7 c512", pool, 512, 14, 7),
        AdaptiveAvgPool2dRow("global avg 7x7 c1280", pool, 1280, 7, 1),
        AdaptiveAvgPool2dRow("global avg 14x14 c672", pool, 672, 14, 1),
        AdaptiveAvgPool2dRow("avg 14 to 7 c512", pool, 512, 14, 7),
        AdaptiveAvgPool2dRow("avg 56 to 6 c256", pool, 256, 56, 6),
    ]


def rows(device: str = "cpu") -> list[Row]:
    """The rows that are measured on a kind of device: ``"cpu"`` or ``"cuda"``."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    return _cpu_rows() if device == "cpu" else _cuda_rows()


def wider_rows(device: str = "cpu") -> list[Row]:
    """More rows than :func:`rows` has, none of them in it."""
    known = {row.name for row in rows(device)}
    more = _wider_rows(8, 16) if device == "cpu" else _wider_rows(128, 128)
    return [row for row in more if row.name not in known]
