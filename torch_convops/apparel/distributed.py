"""One training on several processes, as ``torchrun`` starts them: each takes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """This process's number among those that torchrun started; 0 without torchrun."""
    return int(os.environ["RANK"]) if torch.distributed.is_torchelastic_launched() else 0


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"]) if torch.distributed.is_torchelastic_launched() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connects the processes: NCCL between GPUs, gloo between CPUs. Nothing happens for a single process."""
    if world_size() == 1:
        yield
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch, the same pictures for any draw of the others; possibly empty."""
    return batch.tensor_split(world_size())[rank()]


def total(values: Tensor) -> Tensor:
    """The sum over the processes."""
    if world_size() > 1:
        torch.distributed.all_reduce(values)
    return values


def agreed(value: T) -> T:
    """The first process's value, for all: they must not part over a rounding."""
    box = [value]
    if world_size() > 1:
        torch.distributed.broadcast_object_list(box)
    return box[0]


def barrier() -> None:
    if world_size() > 1:
        torch.distributed.barrier()


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """The model whose gradients are means over the processes, and whose norms see the whole batch."""
    if world_size() == 1:
        return model
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _GlobalBatchNorm2d
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


class _Total(torch.autograd.Function):
    """:func:`total` with a gradient: each process's part has that of all the sums it went into."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values.clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return total(grads[0].clone())


class _GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, as torch's SyncBatchNorm, which runs on CUDA only."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        count, sums = input.new_tensor([input.numel() / self.num_features]), input.float().sum((0, 2, 3))
        counted = _Total.apply(torch.cat([count.float(), sums]))
        count, mean = counted[0], counted[1:] / counted[0]
        centred = input - mean.to(input.dtype).view(1, -1, 1, 1)
        variance = _Total.apply(centred.float().square().sum((0, 2, 3))) / count
        assert self.momentum and self.running_mean is not None and self.running_var is not None  # their defaults
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale.to(input.dtype).view(1, -1, 1, 1) + self.bias.to(input.dtype).view(1, -1, 1, 1)
