"""What poolings keep for backward, and what they allocate, counted against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random

import torch_convops

SHAPE = (2, 8, 30, 32)
# (module of functions) -> output; what is saved an output, in bytes: of ours, and of torch's
POOLINGS: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], int]] = {
    "max 2s2": (lambda m, x: m.max_pool2d(x, 2), 1),
    "max 3s2p1": (lambda m, x: m.max_pool2d(x, 3, 2, 1), 1),
    "max 16s1": (lambda m, x: m.max_pool2d(x, 16, 1), 1),
    "max 17s1": (lambda m, x: m.max_pool2d(x, 17, 1), 4),
    "adaptive max": (lambda m, x: m.adaptive_max_pool2d(x, (7, 9)), 1),
    "avg 2s2": (lambda m, x: m.avg_pool2d(x, 2), 0),
    "avg 13s1p6": (lambda m, x: m.avg_pool2d(x, 13, 1, 6), 0),
    "adaptive avg": (lambda m, x: m.adaptive_avg_pool2d(x, (7, 9)), 0),
    "global avg": (lambda m, x: m.adaptive_avg_pool2d(x, 1), 0),
}


def saved_bytes(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    return output, sum(saved.values())


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("name", POOLINGS)
def test_saved_for_backward(device: str, name: str, layout: str) -> None:
    function, bytes_each = POOLINGS[name]
    x = random(*SHAPE, device=device, layout=layout, grad=True)
    y, ours = saved_bytes(lambda: function(torch_convops, x))
    assert ours == bytes_each * y.numel()
    _, torchs = saved_bytes(lambda: function(F, x))
    # torch keeps the input of all but the global mean, and an int64 index an output.
    if name != "global avg":
        assert torchs == x.nbytes + (8 * y.numel() if "max" in name else 0)
        assert ours * 6 < torchs


@pytest.mark.parametrize("name", ["global max", "unpool", "blur", "lp 2"])
def test_saved_by_the_others(device: str, name: str) -> None:
    x = random(*SHAPE, device=device, grad=True)
    if name == "global max":
        y, saved = saved_bytes(lambda: torch_convops.global_max_pool2d(x))
        assert saved == 4 * y.numel()  # planes of more than 256 pixels
    elif name == "unpool":
        values, indices = torch_convops.max_pool2d(x.detach(), 2, return_indices=True)
        _, saved = saved_bytes(lambda: torch_convops.max_unpool2d(values.requires_grad_(), indices, 2))
        assert saved == indices.nbytes
    elif name == "blur":
        _, saved = saved_bytes(lambda: torch_convops.blur_pool2d(x, 3))
        assert saved == 4 * 3 * 3  # the filter
    else:
        _, saved = saved_bytes(lambda: torch_convops.lp_pool2d(x, 2, 2))
        _, torchs = saved_bytes(lambda: F.lp_pool2d(x, 2, 2))
        assert saved < torchs


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_without_gradient_only_the_output_is_allocated(layout: str) -> None:
    """No offset is written where nobody asks for it."""
    x = random(*SHAPE, layout=layout)
    calls = [
        lambda: torch_convops.max_pool2d(x, 3, 2, 1),
        lambda: torch_convops.adaptive_max_pool2d(x, (7, 9)),
        lambda: torch_convops.avg_pool2d(x, 3, 2, 1),
        lambda: torch_convops.adaptive_avg_pool2d(x, (7, 9)),
    ]
    for call in calls:
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            y = call()
        allocated = sum(event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0)
        assert allocated == -(-y.nbytes // 64) * 64 or allocated == y.nbytes
