"""The benchmark's rows: layers of well-known CNNs, with the flops and the bytes that each pass cannot do without."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F

from .. import ops

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
    def flops(self, pass_: str) -> int:
        """Floating-point operations of a pass by the textbook; 0 where only memory matters."""

    @abstractmethod
    def bytes(self, pass_: str, itemsize: int) -> int:
        """Bytes that a pass has to read and write if every value crosses the memory bus once."""

    @property
    def output(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

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
        covered = {p * self.stride + r - self.padding for p in range(self.output) for r in range(self.kernel)}
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

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        image, weight = leaves
        return ops.conv2d(image, weight, None, self.stride, self.padding, 1, self.groups, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        image, weight = leaves
        return F.conv2d(image, weight, None, self.stride, self.padding, 1, self.groups)

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
        window = (self.stride, self.padding, 1, self.groups, self.padding_mode)
        return ops.conv2d(image, weight, None, *window, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        padded = F.pad(leaves[0], (self.padding,) * 4, mode=self.padding_mode)
        return F.conv2d(padded, leaves[1], None, self.stride, 0, 1, self.groups)


@dataclass(frozen=True)
class ConvTranspose2dRow(Conv2dRow):
    """(N, C, size, size) to (N, filters, output, output)."""

    @property
    def family(self) -> str:
        return "transposed conv"

    @property
    def output(self) -> int:
        return (self.size - 1) * self.stride - 2 * self.padding + self.kernel

    @property
    def pixels_read(self) -> int:
        return self.input_numel

    @property
    def leaf_shapes(self) -> tuple[tuple[int, ...], ...]:
        return (super().leaf_shapes[0], (self.C, self.filters // self.groups, self.kernel, self.kernel))

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        image, weight = leaves
        return ops.conv_transpose2d(image, weight, None, self.stride, self.padding, 0, self.groups, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        image, weight = leaves
        return F.conv_transpose2d(image, weight, None, self.stride, self.padding, 0, self.groups)

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
        return self._gradients(super().ours, leaves)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return self._gradients(super().reference, leaves)

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
        output: torch.Tensor = ops.max_pool2d(leaves[0], self.kernel, self.stride, self.padding, algorithm=algorithm)
        return output

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(leaves[0], self.kernel, self.stride, self.padding)

    def bytes(self, pass_: str, itemsize: int) -> int:
        # The backward pass needs to know each maximum's place: a byte an output, written by a forward that trains.
        offsets = {"forward": 0, "grad_input": 1, "training": 2}[pass_] * self.output_numel
        return super().bytes(pass_, itemsize) + offsets


@dataclass(frozen=True)
class AvgPool2dRow(PoolRow):
    operator: ClassVar[str] = "avg_pool2d"

    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        return ops.avg_pool2d(leaves[0], self.kernel, self.stride, self.padding, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(leaves[0], self.kernel, self.stride, self.padding)


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


@dataclass(frozen=True)
class AdaptiveAvgPool2dRow(_Adaptive, AvgPool2dRow):
    def ours(self, *leaves: torch.Tensor, algorithm: str = "auto") -> torch.Tensor:
        return ops.adaptive_avg_pool2d(leaves[0], self.kernel, algorithm=algorithm)

    def reference(self, *leaves: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(leaves[0], self.kernel)


def _dense(name: str, N: int, C: int, K: int, size: int, kernel: int, stride: int = 1, groups: int = 1) -> Conv2dRow:
    return Conv2dRow(name, N, C, size, kernel, stride, kernel // 2, filters=K, groups=groups)


def _depthwise(name: str, N: int, C: int, size: int, kernel: int) -> Conv2dRow:
    return _dense(name, N, C, C, size, kernel, groups=C)


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


def rows(device: str = "cpu") -> list[Row]:
    """The rows that are measured on a kind of device: ``"cpu"`` or ``"cuda"``."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    return _cpu_rows() if device == "cpu" else _cuda_rows()
