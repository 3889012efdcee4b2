"""conv_transpose2d: against torch over every parameter, and what torch lacks against its definition as a transpose."""

from __future__ import annotations

import itertools
import random as pyrandom
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FLOATS, LAYOUTS, assert_close, exact, in_layout, is_channels_last, random

import torch_convops
from torch_convops import conv2d, conv2d_output_size, conv_transpose2d, conv_transpose2d_output_size, reference

ops = torch.ops.torch_convops
Case = tuple[tuple[int, ...], tuple[int, int, int, int], dict[str, Any]]

CASES: list[Case] = [
    ((2, 3, 4, 5), (3, 4, 3, 3), {}),
    ((2, 3, 4, 5), (3, 4, 3, 2), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 3, 4, 5), (3, 4, 2, 2), {"stride": 2}),
    ((2, 3, 4, 5), (3, 4, 2, 2), {"stride": 2, "output_padding": 1}),
    ((2, 20, 4, 5), (20, 33, 4, 4), {"stride": 2, "padding": 1}),
    ((2, 3, 4, 5), (3, 4, 1, 1), {"stride": 3, "output_padding": (2, 0)}),
    ((2, 3, 4, 5), (3, 4, 3, 2), {"dilation": (2, 3), "padding": (3, 1)}),
    # output_padding of whole strides: rows and columns that no window reaches.
    ((2, 3, 4, 5), (3, 4, 2, 3), {"stride": (1, 2), "dilation": (3, 4), "output_padding": (2, 3)}),
    ((2, 3, 4, 5), (3, 4, 2, 3), {"stride": (1, 2), "dilation": (3, 4), "output_padding": (2, 3), "padding": 1}),
    ((2, 3, 4, 5), (3, 4, 2, 3), {"stride": (1, 2), "dilation": (4, 4), "output_padding": (3, 3), "padding": (3, 0)}),
    ((2, 4, 4, 5), (4, 3, 3, 3), {"groups": 2, "stride": 2, "padding": 1}),
    ((2, 4, 4, 5), (4, 1, 3, 3), {"groups": 4, "stride": 2, "padding": 1, "output_padding": 1}),
    ((2, 4, 4, 5), (4, 2, 3, 3), {"groups": 4}),
    ((3, 4, 5), (3, 4, 3, 3), {"stride": 2, "padding": 1}),
    ((0, 3, 4, 5), (3, 4, 3, 3), {"stride": 2}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
]  # fmt: skip


def random_cases(count: int) -> list[Case]:
    chance = pyrandom.Random(7)
    cases: list[Case] = []
    while len(cases) < count:
        groups = chance.choice([1, 1, 2, 3])
        C, K = groups * chance.randint(1, 5), chance.randint(1, 4)
        stride, dilation = ((chance.randint(1, 4), chance.randint(1, 4)) for _ in range(2))
        options = {
            "stride": stride,
            "padding": (chance.randint(0, 2), chance.randint(0, 2)),
            "output_padding": tuple(chance.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True)),
            "groups": groups,
            "dilation": dilation,
        }
        size, weight = (2, C, chance.randint(1, 6), chance.randint(1, 6)), (C, K, chance.randint(1, 4), 2)
        spans = [
            (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size[2:], stride, dilation, weight[2:], strict=True)
        ]
        if all(span > 2 * pad for span, pad in zip(spans, options["padding"], strict=True)):
            cases.append((size, weight, options))
    return cases


CASES += random_cases(40)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    size, weight_size, options = case
    K = weight_size[1] * options.get("groups", 1)
    tensors = [random(*shape, dtype=dtype) for shape in (size, weight_size, (K,))]
    leaves = [in_layout(tensor.to(device), layout).requires_grad_() for tensor in tensors]
    exact_leaves = [exact(tensor, grad=True) for tensor in tensors]
    y, expected = conv_transpose2d(*leaves, **options), F.conv_transpose2d(*exact_leaves, **options)
    assert_close(y, expected, "output")
    if layout == "channels_last" and y.dim() == 4 and min(y.shape) > 1:
        assert is_channels_last(y)
    dy = random(*y.shape, dtype=dtype)
    results = torch.autograd.grad(y, leaves, in_layout(dy.to(device), layout))
    for name, a, b in zip(
        ("input", "weight", "bias"), results, torch.autograd.grad(expected, exact_leaves, exact(dy)), strict=True
    ):
        assert a.dtype == dtype
        assert_close(a, b, f"gradient of {name}")
    with torch.no_grad():
        assert torch.equal(conv_transpose2d(*leaves, **options), y)
    listed = {
        key: value if key == "groups" or not isinstance(value, int) else [value] for key, value in options.items()
    }
    assert torch.equal(ops.conv_transpose2d(*leaves, **listed), y)


@pytest.mark.parametrize("case", [case for case in CASES if len(case[0]) == 4 and case[0][0]], ids=str)
def test_matches_reference(device: str, case: Case) -> None:
    size, weight_size, options = case
    pairs = {
        key: value if key == "groups" or not isinstance(value, int) else (value,) * 2 for key, value in options.items()
    }
    top, left = pairs.pop("padding", (0, 0))
    x, w = random(*size, dtype=torch.float64), random(*weight_size, dtype=torch.float64)
    expected = reference.conv_transpose2d(x, w, padding=(top, top, left, left), **pairs)
    assert_close(conv_transpose2d(x.to(device), w.to(device), **options), expected)


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum()


@pytest.mark.parametrize("mode", ["valid", "same", "same_lower", "full", ((1, 0), (2, 1)), ((0, 2), (1, 1))], ids=str)
@pytest.mark.parametrize("stride, dilation, kernel", [*itertools.product((1, 2, 3), (1, 2), ((1, 2), (3, 4)))])
def test_is_the_transpose_of_conv2d(
    device: str, stride: int, dilation: int, kernel: tuple[int, int], mode: Any
) -> None:
    """<conv2d(y), x> = <y, conv_transpose2d(x)> for every size of y that conv2d brings to that of x."""
    P, Q = 6, 8
    x, w = (random(*size, dtype=torch.float64, device=device) for size in ((2, 3, P, Q), (3, 2, *kernel)))
    sizes = []
    for H in range(1, 24):
        for W in range(1, 32):
            try:
                if conv2d_output_size((H, W), kernel, stride, mode, dilation) == (P, Q):
                    sizes.append((H, W))
            except ValueError:
                continue
    assert len(sizes) == stride**2
    for size in sizes:
        y = random(2, 2, *size, dtype=torch.float64, device=device)
        transposed = conv_transpose2d(x, w, None, stride, mode, dilation=dilation, output_size=size)
        assert transposed.shape == y.shape
        torch.testing.assert_close(dot(conv2d(y, w, None, stride, mode, dilation), x), dot(y, transposed))
    default = conv_transpose2d_output_size((P, Q), kernel, stride, mode, 0, dilation)
    assert default == ((P * stride, Q * stride) if "same" in str(mode) else min(sizes))
    assert conv_transpose2d(x, w, None, stride, mode, dilation=dilation).shape[-2:] == default
    if isinstance(mode, str):
        by_name = ops.conv_transpose2d(x, w, None, [stride], mode, [0], 1, [dilation])
        assert torch.equal(by_name, conv_transpose2d(x, w, None, stride, mode, dilation=dilation))


def test_padding_may_leave_nothing(device: str) -> None:
    """Rows that are all padding: an empty output, as in torch's float32 kernels; more than that is an error."""
    x, w = random(2, 4, 1, 4, device=device, grad=True), random(4, 3, 4, 2, device=device, grad=True)
    y = conv_transpose2d(x, w, padding=(2, 0))
    assert y.shape == (2, 3, 0, 5)
    y.sum().backward()
    assert not x.grad.count_nonzero() and not w.grad.count_nonzero()
    with pytest.raises(ValueError, match=r"padding must be at most the output's height without it, 4, got \(3, 3\)"):
        conv_transpose2d(x, w, padding=(3, 0))


@pytest.mark.parametrize("dtype", (torch.complex64, torch.complex128), ids=str)
def test_complex(device: str, dtype: torch.dtype) -> None:
    tensors = [torch.randn(size, dtype=dtype) for size in ((2, 4, 5, 6), (4, 3, 3, 2), (6,))]
    leaves, expected_leaves = ([t.detach().to(d).requires_grad_() for t in tensors] for d in (device, "cpu"))
    options: dict[str, Any] = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}
    y, expected = conv_transpose2d(*leaves, **options), F.conv_transpose2d(*expected_leaves, **options)
    dy = torch.randn_like(expected)
    results = [y, *torch.autograd.grad(y, leaves, dy.to(device))]
    for a, b in zip(results, [expected, *torch.autograd.grad(expected, expected_leaves, dy)], strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


def test_layer_takes_an_output_size(device: str) -> None:
    layer = torch_convops.nn.ConvTranspose2d(3, 4, 3, 2, 1).to(device)
    torchs = torch.nn.ConvTranspose2d(3, 4, 3, 2, 1).to(device)
    torchs.load_state_dict(layer.state_dict())
    x = random(2, 3, 5, 6, device=device)
    for size in ((9, 11), (10, 12), (2, 4, 10, 11)):
        y, expected = layer(x, output_size=size), torchs(x, output_size=list(size))
        assert y.shape == expected.shape
        assert_close(y, exact(expected))
    with pytest.raises(ValueError, match=r"output_size must be from 9 to 10 for the height, got 11"):
        layer(x, output_size=(11, 12))
    with pytest.raises(ValueError, match="output_size must have 2 or 4 values"):
        layer(x, output_size=(1, 2, 3))
