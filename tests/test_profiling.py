"""torch.utils.flop_counter and torch.profiler on this library's operators."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import random
from torch.utils.flop_counter import FlopCounterMode

import torch_convops
from torch_convops import nn
from torch_convops.cli import zoo


def flops(call: Callable[[], Any]) -> list[int]:
    """Of every operator that has any, in the order of first calls."""
    with FlopCounterMode(display=False) as counter:
        call()
    return list(counter.get_flop_counts().get("Global", {}).values())


def backward(module: torch.nn.Module, input: torch.Tensor) -> Callable[[], None]:
    return lambda: module(input).sum().backward()


def test_a_model_counts_what_it_did() -> None:
    stock = zoo.build("resnet18").float()
    converted = copy.deepcopy(stock)
    torch_convops.convert(converted)
    images = random(2, 3, 64, 64)
    forward = [sum(flops(lambda model=model: model(images))) for model in (stock, converted)]
    both = [sum(flops(backward(model, images))) for model in (stock, converted)]
    assert forward[0] == forward[1] > 0
    assert both[0] == both[1] > 2 * forward[0]


LAYERS = [
    lambda: torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    lambda: torch.nn.Conv2d(4, 8, (3, 2), groups=2, dilation=2),
    lambda: torch.nn.Conv2d(4, 4, 3, groups=4, padding="same"),
    lambda: torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    lambda: torch.nn.ConvTranspose2d(4, 8, 2, groups=2),
]


@pytest.mark.parametrize("size", [(2, 4, 9, 10), (4, 9, 10)], ids=["batched", "unbatched"])
@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_layers_count_what_torchs_count(index: int, size: tuple[int, ...]) -> None:
    stock = LAYERS[index]()
    converted = copy.deepcopy(stock)
    torch_convops.convert(converted)
    expected, actual = (flops(backward(layer, random(*size, grad=True))) for layer in (stock, converted))
    assert len(expected) == 2, "forward and backward"
    assert actual[0] == expected[0]
    assert sum(actual) == sum(expected)


def test_what_torch_lacks_counts_by_the_same_formula() -> None:
    """Two operations for each tap of each output."""
    x, w = random(2, 3, 9, 9), random(5, 3, 3, 3)
    for options, outputs in (
        ({"padding": "same", "stride": 2}, 5 * 5),
        ({"padding": ((1, 0), (0, 2)), "padding_mode": "symmetric"}, 8 * 9),
        ({"padding": "full"}, 11 * 11),
    ):
        assert flops(lambda options=options: torch_convops.conv2d(x, w, **options)) == [2 * 2 * outputs * 5 * 3 * 9]
    assert flops(lambda: torch.ops.torch_convops.conv2d.padding(x, w, None, [1], "same")) == [2 * 2 * 81 * 5 * 3 * 9]
    assert flops(lambda: torch_convops.max_pool2d(x, 2)) == []


ORDERS = {
    "before": "import torch.utils.flop_counter, torch.distributed.tensor, torch_convops",
    "after": """
import sys, torch
before = set(sys.modules)
import torch_convops
assert not (set(sys.modules) - before) & {"torch.utils.flop_counter", "torch.distributed.tensor"}
import torch.utils.flop_counter, torch.distributed.tensor
""",
}
REGISTERED = """
operators = torch.ops.torch_convops
assert operators.conv2d in torch.utils.flop_counter.flop_registry
propagator = torch.distributed.tensor.DTensor._op_dispatcher.sharding_propagator
assert operators.conv2d.default in propagator.op_strategy_funcs
assert torch.utils.flop_counter.FlopCounterMode.__module__ == "torch.utils.flop_counter"
"""


@pytest.mark.parametrize("order", ORDERS)
def test_registries_of_torch_are_served_in_any_order(order: str) -> None:
    """And are not imported for it."""
    subprocess.run([sys.executable, "-c", f"import torch\n{ORDERS[order]}\n{REGISTERED}"], check=True)


def test_profiles_name_operators_and_shapes(device: str) -> None:
    model = torch.nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2)).to(device)
    images = random(2, 3, 10, 10, device=device)
    with torch.profiler.profile(record_shapes=True) as profile:
        model(images).sum().backward()
        with torch.no_grad():
            model(images)
    shapes = {
        event.key: event.input_shapes[:2]
        for event in profile.key_averages(group_by_input_shape=True)
        if event.key.startswith("torch_convops::")
    }
    assert shapes == {
        "torch_convops::conv2d": [[2, 3, 10, 10], [4, 3, 3, 3]],
        "torch_convops::max_pool2d": [[2, 4, 8, 8], []],
        "torch_convops::max_pool2d_with_offsets": [[2, 4, 8, 8], []],
        "torch_convops::adaptive_avg_pool2d": [[2, 4, 4, 4], []],
        "torch_convops::adaptive_avg_pool2d_grad_input": [[2, 4, 2, 2], []],
        "torch_convops::max_pool2d_grad_input": [[2, 4, 4, 4], [2, 4, 4, 4]],
        "torch_convops::conv2d_grad_weight": [[2, 4, 8, 8], [2, 3, 10, 10]],
        "torch_convops::conv2d_grad_bias": [[2, 4, 8, 8]],
    }
