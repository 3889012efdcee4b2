"""The layers as replacements for torch.nn's: construction, state, printing, padding modes and training."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from conftest import LAYOUTS, assert_close, exact, random

import torch_convops
from torch_convops import nn

TRANSPOSED: list[dict[str, Any]] = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3},
    {"in_channels": 3, "out_channels": 4, "kernel_size": (2, 3), "stride": 2, "padding": (1, 0), "output_padding": 1},
    {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "groups": 3, "dilation": 2, "bias": False},
]
CONVOLUTIONS: list[dict[str, Any]] = [
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3},
    {"in_channels": 3, "out_channels": 4, "kernel_size": (2, 3), "stride": 2, "padding": (1, 0), "bias": False},
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "dilation": 2, "groups": 2, "padding": "same"},
    {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": "valid"},
    {"in_channels": 3, "out_channels": 4, "kernel_size": (4, 3), "padding": "same"},
    {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "groups": 3, "padding": 1},
    *(
        {
            "in_channels": 3,
            "out_channels": 4,
            "kernel_size": 3,
            "padding": padding,
            "padding_mode": mode,
            "stride": stride,
        }
        for mode in ("reflect", "circular", "replicate")
        for padding, stride in ((2, 2), ((1, 2), 1), ("same", 1))
    ),
]
MAX_POOLINGS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True},
    {"kernel_size": 3, "stride": (1, 2), "padding": 1, "dilation": 2, "return_indices": True},
]
AVG_POOLINGS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    {"kernel_size": 3, "stride": (1, 2), "padding": 1, "divisor_override": 4},
]
ADAPTIVE_MAX: list[dict[str, Any]] = [{"output_size": 3}, {"output_size": (4, None), "return_indices": True}]
ADAPTIVE_AVG: list[dict[str, Any]] = [{"output_size": 3}, {"output_size": (4, None)}, {"output_size": 1}]
LP_POOLINGS: list[dict[str, Any]] = [
    {"norm_type": 2, "kernel_size": 3},
    {"norm_type": 2.0, "kernel_size": (3, 2), "stride": 2, "ceil_mode": True},
    {"norm_type": 4, "kernel_size": 2, "stride": (1, 2)},
]
LAYERS = [
    *(("Conv2d", options) for options in CONVOLUTIONS),
    *(("ConvTranspose2d", options) for options in TRANSPOSED),
    *(("MaxPool2d", options) for options in MAX_POOLINGS),
    *(("AvgPool2d", options) for options in AVG_POOLINGS),
    *(("AdaptiveMaxPool2d", options) for options in ADAPTIVE_MAX),
    *(("AdaptiveAvgPool2d", options) for options in ADAPTIVE_AVG),
    *(("LPPool2d", options) for options in LP_POOLINGS),
]
OWN: list[tuple[str, dict[str, Any]]] = [
    ("GlobalAvgPool2d", {}),
    ("GlobalMaxPool2d", {}),
    ("BlurPool2d", {"filter": 3}),
    ("MaxBlurPool2d", {"kernel_size": 3, "padding": 1}),
    ("ConvBlurPool2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 3}),
]


def pair_of(name: str, options: dict[str, Any], device: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our layer and torch's with the same float64 parameters."""
    ours = getattr(nn, name)(**options).to(device, torch.float64)
    torchs = getattr(torch.nn, name)(**options).double()
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def assert_outputs_close(actual: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        assert_close(actual[0], expected[0])
        assert torch.equal(actual[1].cpu(), expected[1])
    else:
        assert_close(actual, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name, options", LAYERS, ids=str)
def test_matches_torch(device: str, name: str, options: dict[str, Any], layout: str) -> None:
    ours, torchs = pair_of(name, options, device)
    x = random(2, options.get("in_channels", 3), 9, 10, dtype=torch.float64, device=device, layout=layout, grad=True)
    expected_x = exact(x, grad=True)
    y, expected = ours(x), torchs(expected_x)
    assert_outputs_close(y, expected)
    first, expected_first = (t[0] if isinstance(t, tuple) else t for t in (y, expected))
    first.square().sum().backward()
    expected_first.square().sum().backward()
    assert_close(x.grad, expected_x.grad)
    for parameter, expected_parameter in zip(ours.parameters(), torchs.parameters(), strict=True):
        assert_close(parameter.grad, expected_parameter.grad)
    assert_outputs_close(ours(x[0]), torchs(expected_x[0]))


@pytest.mark.parametrize("name, options", LAYERS, ids=str)
def test_is_a_torch_layer_in_all_but_its_kernels(name: str, options: dict[str, Any]) -> None:
    ours, torchs = pair_of(name, options, "cpu")
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(torchs)
    signatures = [inspect.signature(type(layer)).parameters.values() for layer in (ours, torchs)]
    names_and_defaults = [[(p.name, p.kind, p.default) for p in parameters] for parameters in signatures]
    assert names_and_defaults[0] == names_and_defaults[1]
    assert list(ours.state_dict()) == list(torchs.state_dict())
    ours.load_state_dict(torchs.state_dict())
    torchs.load_state_dict(ours.state_dict())
    for key, value in torchs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])


@pytest.mark.parametrize("name, options", LAYERS, ids=str)
def test_same_initialisation(name: str, options: dict[str, Any]) -> None:
    layers = []
    for module in (nn, torch.nn):
        torch.manual_seed(3)
        layers.append(getattr(module, name)(**options))
    for ours, torchs in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("name, options", [*LAYERS, *OWN], ids=str)
def test_copies(name: str, options: dict[str, Any]) -> None:
    layer = getattr(nn, name)(**options)
    x = random(2, options.get("in_channels", 3), 9, 10)
    expected = layer(x)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(copied) is type(layer)
        y = copied(x)
        for a, b in zip(y, expected, strict=True) if isinstance(y, tuple) else [(y, expected)]:
            assert torch.equal(a, b)


@pytest.mark.parametrize("padding_mode", ["zeros", "symmetric", "circular"])
@pytest.mark.parametrize("padding", ["same", "same_lower", "full", ((1, 0), (0, 2)), (1, 0, 0, 2)], ids=str)
def test_convolution_takes_what_torchs_does_not(device: str, padding: Any, padding_mode: str) -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=padding, padding_mode=padding_mode).to(device)
    x = random(2, 3, 9, 10, device=device)
    expected = torch_convops.conv2d(x, layer.weight, layer.bias, 2, padding, 1, 1, padding_mode)
    for copied in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), expected)
    sides = "((1, 0), (0, 2))" if isinstance(padding, tuple) else padding
    assert f"padding={sides}" in repr(layer)


@pytest.mark.parametrize("padding", ["same", "same_lower", "valid", ((1, 0), (0, 1)), (1, 0, 0, 1)], ids=str)
def test_pooling_takes_what_torchs_does_not(device: str, padding: Any) -> None:
    x = random(2, 3, 9, 10, device=device)
    assert torch.equal(nn.MaxPool2d(3, 2, padding)(x), torch_convops.max_pool2d(x, 3, 2, padding))
    assert torch.equal(nn.AvgPool2d(3, 2, padding)(x), torch_convops.avg_pool2d(x, 3, 2, padding))


@pytest.mark.parametrize("options", [{"kernel_size": 2}, {"kernel_size": (3, 2), "stride": (3, 2), "padding": (1, 0)}])
def test_max_unpool2d(device: str, options: dict[str, Any]) -> None:
    ours, torchs = nn.MaxUnpool2d(**options), torch.nn.MaxUnpool2d(**options)
    assert repr(ours) == repr(torchs)
    x = random(2, 3, 10, 12, device=device)
    y, indices = nn.MaxPool2d(**options, return_indices=True)(x)
    for size in ((10, 12), (2, 3, 10, 12)):
        assert torch.equal(ours(y, indices, size).cpu(), torchs(y.cpu(), indices.cpu(), size))
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(copied(y, indices, output_size=(10, 12)), ours(y, indices, output_size=(10, 12)))


def test_blur_layers_move_with_the_model(device: str) -> None:
    """The filter is no parameter and not in the state; it follows the input's dtype."""
    for name, options in OWN[2:]:
        layer = getattr(nn, name)(**options)
        assert "filter" not in "".join(layer.state_dict())
        for dtype in (torch.float64, torch.bfloat16):
            x = random(2, 3, 9, 10, dtype=dtype, device=device)
            assert layer.to(device, dtype)(x).dtype == dtype
    with pytest.raises(ValueError, match="filter size must be from 1 to 7, got 8"):
        nn.BlurPool2d(8)
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        nn.MaxBlurPool2d(2, padding_mode="mirror")


def test_transposed_convolution_takes_modes(device: str) -> None:
    x = random(2, 3, 5, 6, device=device)
    for padding in ("valid", "same", "same_lower", "full", ((1, 0), (0, 2))):
        layer = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=padding).to(device)
        assert torch.equal(layer(x), torch_convops.conv_transpose2d(x, layer.weight, layer.bias, 2, padding))


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="padding must be one of 'valid', 'same', 'same_lower', 'full', got 'some'"):
        nn.Conv2d(3, 4, 3, padding="some")
    with pytest.raises(ValueError, match=r"padding_mode must be one of 'zeros', 'reflect', .*, got 'mirror'"):
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="mirror")
    with pytest.raises(ValueError, match=r"Only .zeros. padding mode is supported for ConvTranspose2d"):
        nn.ConvTranspose2d(3, 4, 3, padding_mode="circular")


def test_global_layers(device: str) -> None:
    x = random(2, 3, 5, 6, dtype=torch.float64, device=device)
    assert_close(nn.GlobalAvgPool2d()(x), torch.nn.AdaptiveAvgPool2d(1)(exact(x)))
    assert_close(nn.GlobalMaxPool2d()(x), torch.nn.AdaptiveMaxPool2d(1)(exact(x)))


def network(module: Any) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        module.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        module.MaxPool2d(2),
        module.Conv2d(8, 8, 3, groups=8, padding="same"),
        module.Conv2d(8, 6, 1),
        module.AvgPool2d(2, ceil_mode=True),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(4),
    )


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_training_steps_equal_torchs(device: str, layout: str) -> None:
    x, target = (
        random(6, 3, 9, 10, dtype=torch.float64, device=device, layout=layout),
        torch.arange(6, device=device) % 4,
    )
    losses, models = [], []
    for module in (nn, torch.nn):
        torch.manual_seed(5)
        model = network(module).to(device, torch.float64)
        model(x)
        if layout == "channels_last":
            model = model.to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trace = []
        for _ in range(5):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), target)
            loss.backward()
            optimiser.step()
            trace.append(loss.detach())
        losses.append(torch.stack(trace))
        models.append(model)
    assert losses[0][-1] < losses[0][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)
    for ours, torchs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-8, atol=1e-10)
