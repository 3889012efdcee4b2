"""conv2d: values and gradients against torch in float64 and against the reference, over every parameter."""

from __future__ import annotations

import functools
import math
import random as pyrandom
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    DEVICES,
    FLOATS,
    LAYOUTS,
    algorithm_params,
    assert_close,
    exact,
    in_layout,
    is_channels_last,
    random,
    relative_error,
)

import torch_convops
from torch_convops import conv2d, reference

ops = torch.ops.torch_convops
PASSES = ("forward", "grad_input", "grad_weight")
# conv2d_grad_bias and what follows conv2d_grad_input where there is a border: no argument can force them.
NEVER_FORCED = {"reduction", "fold"}
BORDERS = ("reflect", "replicate", "circular", "symmetric")


@dataclass(frozen=True)
class Case:
    input: tuple[int, ...]
    weight: tuple[int, int, int, int]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"

    def __str__(self) -> str:
        x, w = ("x".join(map(str, size)) for size in (self.input, self.weight))
        border = "" if self.padding_mode == "zeros" else f"-{self.padding_mode}"
        return f"{x}-{w}-s{self.stride}-p{self.padding}-d{self.dilation}-g{self.groups}{border}".replace(" ", "")

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups, self.padding_mode

    def roundings(self, name: str) -> int:
        """The gradient of a padded image is rounded, then folded and rounded again."""
        return 1 if name != "grad_input" or self.padding_mode == "zeros" else 2

    @property
    def sides(self) -> list[int]:
        """(top, bottom, left, right), from the definition of each mode."""
        if isinstance(self.padding, int):
            return [self.padding] * 4
        if isinstance(self.padding, str):
            sides = []
            stride, dilation = as_pair(self.stride), as_pair(self.dilation)
            for n, k, s, d in zip(self.input[-2:], self.weight[-2:], stride, dilation, strict=True):
                extent = d * (k - 1) + 1
                total = max(0, (math.ceil(n / s) - 1) * s + extent - n)
                sides += {
                    "valid": (0, 0),
                    "full": (extent - 1, extent - 1),
                    "same": (total // 2, total - total // 2),
                    "same_lower": (total - total // 2, total // 2),
                }[self.padding]
            return sides
        if isinstance(self.padding[0], int):
            height, width = self.padding
            return [height, height, width, width]
        return [*self.padding[0], *self.padding[1]]


def as_pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def most_padding(padding_mode: str, size: int) -> float:
    return {"reflect": size - 1, "circular": size, "symmetric": size}.get(padding_mode, math.inf)


def random_cases(count: int) -> list[Case]:
    """Samples of the product of all parameters, with windows that may be as large as the padded image."""
    chance = pyrandom.Random(20)
    cases = []
    while len(cases) < count:
        groups = chance.choice([1, 1, 1, 2, 3])
        C, K = groups * chance.choice([1, 1, 2, 5, 9]), groups * chance.choice([1, 1, 2, 4, 17])
        H, W = chance.randint(1, 12), chance.choice([chance.randint(1, 12), chance.randint(13, 40)])
        R, S = chance.randint(1, 5), chance.randint(1, 5)
        stride = chance.choice([1, 1, 2, (chance.randint(1, 4), chance.randint(1, 4))])
        dilation = chance.choice([1, 1, 1, 2, (chance.randint(1, 3), chance.randint(1, 3))])
        pads = tuple(tuple(chance.randint(0, 4) for _ in range(2)) for _ in range(2))
        padding = chance.choice([0, 1, (2, 0), pads, pads, "valid", "same", "same_lower", "full"])
        input_size = (chance.choice([1, 2, 3]), C, H, W) if chance.random() < 0.85 else (C, H, W)
        border = chance.choice(["zeros", *BORDERS])
        bias = chance.random() < 0.5
        case = Case(input_size, (K, C // groups, R, S), stride, padding, dilation, groups, bias, border)
        (top, bottom, left, right), (dh, dw) = case.sides, as_pair(dilation)
        fits = dh * (R - 1) < H + top + bottom and dw * (S - 1) < W + left + right
        if fits and max(top, bottom) <= most_padding(border, H) and max(left, right) <= most_padding(border, W):
            cases.append(case)
    return cases


CASES = [
    Case((2, 3, 8, 9), (5, 3, 3, 3), padding=1),
    Case((2, 3, 15, 17), (8, 3, 7, 7), stride=2, padding=3, bias=False),
    Case((2, 16, 9, 9), (40, 16, 3, 3), padding=1),
    Case((1, 32, 14, 14), (33, 32, 3, 3), padding=1),
    Case((2, 20, 7, 7), (12, 20, 1, 1)),
    Case((2, 20, 7, 7), (12, 20, 1, 1), stride=2),
    Case((2, 4, 6, 6), (6, 4, 1, 1), padding=1),
    # Whole and partial vectors of channels and of pixels, with and without steps.
    Case((2, 33, 9, 70), (48, 33, 1, 1)),
    Case((2, 33, 9, 70), (48, 33, 1, 1), stride=2),
    Case((1, 64, 5, 7), (96, 64, 1, 1), stride=(1, 3)),
    Case((2, 1024, 3, 5), (7, 1024, 1, 1), stride=2),
    Case((20, 5, 7, 7), (64, 5, 1, 1)),
    # Few targets, few pixels of many channels, and weights beyond a cache.
    Case((3, 70, 4, 9), (2, 70, 1, 1)),
    Case((2, 130, 5, 7), (2, 65, 1, 1), stride=(1, 2), groups=2),
    Case((1, 200, 5, 7), (330, 200, 1, 1)),
    Case((2, 1024, 6, 6), (160, 1024, 1, 1)),
    Case((4, 500, 7, 7), (300, 500, 1, 1), stride=2),
    Case((3, 130, 5, 6), (160, 130, 3, 3), padding=1),
    Case((2, 12, 8, 9), (18, 4, 1, 1), stride=(2, 1), groups=3),
    # Targets that read through one, two and all taps, alone, in columns, in rows and over images.
    Case((2, 9, 9, 30), (40, 9, 3, 3), padding=8, dilation=8),
    Case((7, 20, 5, 5), (48, 20, 3, 3), padding=1),
    Case((1, 5, 40, 6), (33, 5, 5, 5), padding=4, stride=(1, 2)),
    Case((2, 18, 17, 16), (32, 9, 4, 4), padding=2, stride=2, groups=2),
    Case((2, 17, 7, 70), (3, 17, 3, 3), padding=1),
    Case((2, 17, 9, 70), (1, 17, 5, 3), stride=2, padding=2),
    Case((2, 3, 13, 70), (24, 3, 7, 7), stride=2, padding=3),
    Case((2, 3, 12, 40), (17, 3, 4, 4), stride=4),
    Case((2, 32, 6, 35), (64, 4, 3, 3), padding=1, groups=8),
    Case((2, 24, 7, 35), (24, 8, 3, 3), stride=2, padding=1, groups=3),
    Case((2, 3, 9, 9), (4, 3, 2, 2), stride=4),
    Case((2, 3, 9, 9), (4, 3, 1, 3), stride=(5, 4)),
    Case((2, 3, 4, 5), (4, 3, 4, 5)),
    Case((2, 3, 4, 5), (4, 3, 7, 8), padding=((1, 2), (3, 0))),
    Case((2, 3, 5, 5), (4, 3, 3, 3), padding=((0, 6), (7, 0))),
    Case((1, 2, 1, 1), (3, 2, 1, 1)),
    Case((1, 2, 1, 1), (3, 2, 3, 3), padding=1),
    Case((2, 3, 11, 13), (4, 3, 3, 2), dilation=(2, 3), padding=2),
    Case((2, 6, 13, 17), (7, 6, 2, 2), dilation=(5, 7)),
    Case((2, 6, 9, 9), (9, 2, 3, 3), groups=3, padding=1),
    Case((2, 8, 9, 30), (8, 1, 3, 3), groups=8, padding=1),
    Case((2, 8, 9, 30), (8, 1, 5, 5), groups=8, padding=2, stride=2),
    Case((1, 40, 9, 9), (40, 1, 7, 7), groups=40, padding=3),
    Case((2, 6, 9, 9), (18, 1, 3, 3), groups=6, padding=1),
    Case((2, 3, 9, 9), (30, 1, 3, 3), groups=3, padding=1),
    Case((1, 4, 12, 12), (4, 1, 11, 11), groups=4, padding=5),
    # Depthwise over vectors of columns (few or wide planes, several filters), of channels with a last one of few, in
    # bands of rows, in steps both ways, and with windows of several runs of taps.
    Case((2, 20, 9, 40), (20, 1, 3, 3), groups=20, padding=1),
    Case((2, 17, 7, 7), (17, 1, 7, 7), groups=17, padding=3),
    Case((2, 3, 15, 50), (6, 1, 13, 15), groups=3, padding=(6, 7)),
    Case((1, 2, 130, 70), (2, 1, 5, 3), groups=2, padding=1, stride=(1, 2)),
    Case((1, 19, 11, 37), (19, 1, 4, 9), groups=19, padding=((3, 5), (4, 2)), stride=(3, 2), dilation=(2, 1)),
    Case((1, 9, 20, 35), (9, 1, 9, 3), groups=9, padding=((8, 9), (3, 2)), dilation=(2, 3)),
    # Groups whose channels fill vectors, several a vector or one, and groups that leave lanes over; bands of rows.
    Case((2, 32, 9, 18), (32, 8, 3, 3), groups=4, padding=1),
    Case((2, 48, 12, 14), (48, 16, 5, 3), groups=3, padding=2, stride=2),
    Case((1, 40, 19, 9), (80, 20, 3, 3), groups=2, padding=1),
    Case((2, 35, 6, 17), (28, 5, 2, 7), groups=7, padding=((1, 0), (3, 5)), dilation=(1, 2)),
    Case((1, 26, 40, 5), (39, 2, 3, 2), groups=13, padding=((1, 2), (0, 1)), stride=(1, 3), padding_mode="circular"),
    Case((3, 8, 9), (5, 3, 3, 3), padding=1),
    Case((4, 8, 9), (4, 1, 3, 3), padding=1, groups=4, stride=2),
    Case((0, 3, 8, 9), (5, 3, 3, 3), padding=1),
    Case((0, 4, 8, 9), (8, 1, 3, 3), groups=4),
    *(Case((2, 3, 7, 10), (4, 3, 3, 4), s, m) for s in (1, 2, 3) for m in ("same", "same_lower", "full")),
    *(Case((2, 4, 7, 10), (4, 1, 4, 2), stride=s, padding=m, groups=4) for s in (1, 2) for m in ("same", "full")),
    *(Case((2, 3, 5, 18), (4, 3, 3, 3), padding=((2, 1), (1, 2)), padding_mode=border) for border in BORDERS),
    *(Case((2, 4, 6, 7), (4, 1, 3, 5), 2, ((2, 1), (4, 3)), 1, 4, padding_mode=border) for border in BORDERS),
    *(Case((2, 17, 3, 4), (33, 17, 3, 2), 1, 2, (1, 2), padding_mode=border) for border in BORDERS),
    # As far outside as each border reaches.
    Case((1, 2, 3, 4), (3, 2, 5, 7), padding=((2, 2), (3, 3)), padding_mode="reflect"),
    Case((1, 2, 3, 4), (3, 2, 7, 9), padding=((3, 3), (4, 4)), padding_mode="circular"),
    Case((1, 2, 3, 4), (3, 2, 7, 9), padding=((3, 3), (4, 4)), padding_mode="symmetric"),
    Case((1, 2, 1, 2), (3, 2, 7, 9), padding=((9, 3), (0, 20)), padding_mode="replicate"),
    Case((2, 2, 1, 2), (3, 2, 1, 2), stride=3, padding=((0, 0), (1, 1)), padding_mode="reflect"),
    Case((1, 3, 9, 10), (3, 1, 4, 4), 3, "same_lower", 2, 3, padding_mode="circular"),
    Case((3, 8, 9), (5, 3, 3, 3), padding="full", padding_mode="symmetric"),
    *random_cases(60),
]  # fmt: skip


def padded(image: torch.Tensor, sides: list[int], padding_mode: str) -> torch.Tensor:
    """The padded copy that the operators do without."""
    top, bottom, left, right = sides
    if padding_mode == "zeros":
        return F.pad(image, (left, right, top, bottom))
    return reference.padded(image, (top, bottom, left, right), padding_mode)


def torch_conv2d(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, case: Case) -> torch.Tensor:
    return F.conv2d(padded(x, case.sides, case.padding_mode), w, b, case.stride, 0, case.dilation, case.groups)


@dataclass(frozen=True)
class Example:
    """Operands of a case in some dtype, and what torch makes of their exact values in float64."""

    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    grad_output: torch.Tensor
    forward: torch.Tensor
    grad_input: torch.Tensor
    grad_weight: torch.Tensor
    grad_bias: torch.Tensor

    def leaves(self, device: str, layout: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Fresh copies of input, weight and bias that require grad."""
        x, w, b = (
            None if tensor is None else in_layout(tensor.to(device), tensor_layout).requires_grad_()
            for tensor, tensor_layout in ((self.input, layout), (self.weight, layout), (self.bias, "contiguous"))
        )
        return x, w, b


@functools.cache
def example(case: Case, dtype: torch.dtype) -> Example:
    x, w = random(*case.input, dtype=dtype), random(*case.weight, dtype=dtype)
    b = random(case.weight[0], dtype=dtype)
    x64, w64, b64 = (exact(tensor, grad=True) for tensor in (x, w, b))
    y = torch_conv2d(x64, w64, b64 if case.bias else None, case)
    dy = random(*y.shape, dtype=dtype)
    y.backward(exact(dy))
    db = exact(dy).sum([-1, -2] if dy.dim() == 3 else [0, -1, -2])
    return Example(x, w, b if case.bias else None, dy, y.detach(), x64.grad, w64.grad, db)


def run_pass(case: Case, name: str, e: Example, device: str, layout: str, weight_layout: str, algorithm: str) -> Any:
    x, dy = (in_layout(tensor.to(device), layout) for tensor in (e.input, e.grad_output))
    w = in_layout(e.weight.to(device), weight_layout)
    b = None if e.bias is None else e.bias.to(device)
    window = (as_pair(case.stride), case.sides, as_pair(case.dilation), case.groups)
    options = {"padding_mode": case.padding_mode, "algorithm": algorithm}
    if name == "forward":
        return conv2d(x, w, b, *case.arguments, algorithm=algorithm)
    if name == "grad_input":
        return ops.conv2d_grad_input(dy, w, x.shape[-2:], *window, **options)
    return ops.conv2d_grad_weight(dy, x, w.shape[-2:], *window, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    e = example(case, dtype)
    x, w, b = e.leaves(device, layout)
    y = conv2d(x, w, b, *case.arguments)
    y.backward(in_layout(e.grad_output.to(device), layout))
    assert y.dtype == x.grad.dtype == w.grad.dtype == dtype
    assert_close(y, e.forward, "output")
    assert_close(x.grad, e.grad_input, "grad_input", roundings=case.roundings("grad_input"))
    assert_close(w.grad, e.grad_weight, "grad_weight")
    if b is not None:
        assert_close(b.grad, e.grad_bias, "grad_bias")


@pytest.mark.parametrize("device, algorithm", algorithm_params("conv2d"))
def test_every_algorithm(device: str, algorithm: str) -> None:
    """Forces the algorithm through every case, dtype and pair of layouts; those it does not support must say so."""
    ran = dict.fromkeys(PASSES, 0)
    for case in CASES:
        for dtype in FLOATS:
            e = example(case, dtype)
            for layout, weight_layout in [(a, b) for a in LAYOUTS for b in LAYOUTS[:2]]:
                for name in PASSES:
                    try:
                        result = run_pass(case, name, e, device, layout, weight_layout, algorithm)
                    except (ValueError, RuntimeError) as error:
                        assert f"algorithm '{algorithm}' does not support this problem" in str(error)
                        assert isinstance(error, ValueError) == (name == "forward")
                        continue
                    ran[name] += 1
                    what = f"{name} of {case}, {layout} image, {weight_layout} weight"
                    assert_close(result, getattr(e, name), what, roundings=case.roundings(name))
    if algorithm in NEVER_FORCED:
        assert not any(ran.values())
    else:
        assert any(ran.values()), "the algorithm was never exercised"


def test_every_pass_has_an_algorithm_for_every_problem(device: str) -> None:
    names = set(torch_convops.algorithms("conv2d", device)) - NEVER_FORCED
    for case in CASES:
        x, w = random(*case.input, device=device), random(*case.weight, device=device)
        for name in PASSES:
            assert torch_convops.conv2d_choice(name, x, w, *case.arguments) in names


@pytest.mark.parametrize(
    "case", [case for case in CASES if math.prod(case.input) * math.prod(case.weight) < 20_000], ids=str
)
def test_matches_reference(device: str, case: Case) -> None:
    x, w, b = (random(*size, dtype=torch.float64, grad=True) for size in (case.input, case.weight, case.weight[:1]))
    y = conv2d(x.to(device), w.to(device), b.to(device), *case.arguments)
    dy = random(*y.shape, dtype=torch.float64)
    y.backward(dy.to(device))
    batched = [tensor.unsqueeze(0) if tensor.dim() == 3 else tensor for tensor in (x, dy)]
    window = (as_pair(case.stride), tuple(case.sides), as_pair(case.dilation), case.groups, case.padding_mode)
    input_size, kernel_size = case.input[-2:], case.weight[-2:]
    expected = reference.conv2d(batched[0], w, b, *window)
    assert_close(y, expected.reshape(y.shape), "output")
    assert_close(x.grad, reference.conv2d_grad_input(batched[1], w, input_size, *window).reshape(x.shape), "grad_input")
    assert_close(w.grad, reference.conv2d_grad_weight(batched[1], batched[0], kernel_size, *window), "grad_weight")
    assert_close(b.grad, reference.conv2d_grad_bias(batched[1]), "grad_bias")


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (4, 5)])
def test_modes_give_their_sizes(device: str, stride: Any, dilation: int, kernel: tuple[int, int]) -> None:
    for H, W in [(9, 14), (10, 13), (12, 12)]:
        x, w = random(1, 2, H, W, device=device), random(3, 2, *kernel, device=device)
        for mode in ("same", "same_lower"):
            size = conv2d(x, w, None, stride, mode, dilation).shape[-2:]
            assert size == tuple(math.ceil(n / s) for n, s in zip((H, W), as_pair(stride), strict=True))
        extents = [dilation * (k - 1) + 1 for k in kernel]
        full = conv2d(x, w, None, stride, "full", dilation).shape[-2:]
        assert full == tuple((n + e - 2) // s + 1 for n, e, s in zip((H, W), extents, as_pair(stride), strict=True))
        valid = conv2d(x, w, None, stride, "valid", dilation).shape[-2:]
        assert valid == tuple((n - e) // s + 1 for n, e, s in zip((H, W), extents, as_pair(stride), strict=True))


def test_same_is_torchs_at_stride_1(device: str) -> None:
    x, w = random(2, 3, 8, 9, device=device), random(4, 3, 4, 2, device=device)
    assert_close(conv2d(x, w, padding="same", dilation=2), F.conv2d(exact(x), exact(w), padding="same", dilation=2))


def test_odd_pixel_of_same_goes_below_and_right_or_above_and_left(device: str) -> None:
    x, w = random(1, 1, 5, 5, device=device), torch.ones(1, 1, 2, 2, device=device)
    torch.testing.assert_close(conv2d(x, w, padding="same"), F.conv2d(F.pad(x, (0, 1, 0, 1)), w))
    torch.testing.assert_close(conv2d(x, w, padding="same_lower"), F.conv2d(F.pad(x, (1, 0, 1, 0)), w))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_full_undoes_the_flip_between_grad_input_and_forward(device: str, dtype: torch.dtype) -> None:
    """At stride 1 the gradient of the input is the full convolution of grad_output with the flipped kernel."""
    w, dy = random(4, 3, 3, 2, dtype=dtype, device=device), random(2, 4, 6, 8, dtype=dtype, device=device)
    by_gradient = ops.conv2d_grad_input(dy, w, [8, 9])
    by_convolution = conv2d(dy, w.flip(-1, -2).transpose(0, 1), padding="full")
    assert_close(by_gradient, exact(by_convolution))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "case", [Case((2, 4, 9, 8), (6, 4, 3, 3), padding=1), Case((2, 6, 9, 8), (6, 1, 3, 3), groups=6)], ids=str
)
def test_channels_last_is_kept(device: str, case: Case, dtype: torch.dtype) -> None:
    for layout in ("contiguous", "channels_last"):
        for weight_layout in ("contiguous", "channels_last"):
            x = random(*case.input, dtype=dtype, device=device, layout=layout, grad=True)
            w = random(*case.weight, dtype=dtype, device=device, layout=weight_layout, grad=True)
            y = conv2d(x, w, None, *case.arguments)
            dx, dw = torch.autograd.grad(y, (x, w), torch.ones_like(y, memory_format=torch.contiguous_format))
            assert is_channels_last(y) == is_channels_last(dx) == (layout == "channels_last")
            # A weight with one channel a group has both formats, and counts as contiguous.
            assert is_channels_last(dw) == (weight_layout == "channels_last" and case.groups == 1)


def test_transposed_views_are_read_right(device: str) -> None:
    x, w = random(5, 9, 3, 8, device=device).permute(3, 2, 0, 1), random(3, 3, 3, 6, device=device).permute(3, 2, 1, 0)
    assert_close(conv2d(x, w, padding=2), F.conv2d(exact(x), exact(w), padding=2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_expanded_grad_output(device: str, layout: str) -> None:
    """y.sum().backward() hands over a gradient whose strides are all zero."""
    case = Case((2, 4, 7, 8), (6, 2, 3, 3), groups=2, padding=1, stride=2)
    x, w = (random(*size, device=device, layout=layout, grad=True) for size in (case.input, case.weight))
    b = random(6, device=device, grad=True)
    conv2d(x, w, b, *case.arguments).sum().backward()
    x64, w64, b64 = (exact(tensor, grad=True) for tensor in (x, w, b))
    torch_conv2d(x64, w64, b64, case).sum().backward()
    for actual, expected in ((x, x64), (w, w64), (b, b64)):
        assert_close(actual.grad, expected.grad)


def test_expanded_input(device: str) -> None:
    x, w = random(1, 3, 1, 8, device=device).expand(4, 3, 6, 8), random(4, 3, 3, 3, device=device)
    assert_close(conv2d(x, w), F.conv2d(exact(x), exact(w)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batch(device: str, layout: str) -> None:
    x = random(0, 4, 7, 8, device=device, layout=layout, grad=True)
    w, b = random(6, 2, 3, 3, device=device, layout=layout, grad=True), random(6, device=device, grad=True)
    y = conv2d(x, w, b, groups=2)
    assert y.shape == (0, 6, 5, 6)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert w.grad.count_nonzero() == 0 and w.grad.shape == w.shape
    assert b.grad.count_nonzero() == 0 and b.grad.shape == b.shape


def test_zero_channels(device: str) -> None:
    """A sum over no channels is zero, so the bias alone is left."""
    x, w, b = random(2, 0, 5, 5, device=device), random(3, 0, 3, 3, device=device), random(3, device=device)
    torch.testing.assert_close(conv2d(x, w, b), b[None, :, None, None].expand(2, 3, 3, 3))


@pytest.mark.parametrize(
    "input_size, weight_size, groups",
    [
        ((2, 3, 9, 9), (4, 3, 3, 3), 1),
        ((2, 64, 9, 9), (1, 64, 1, 1), 1),
        ((2, 17, 9, 9), (17, 1, 3, 5), 17),
        ((2, 3, 9, 37), (6, 1, 3, 4), 3),
        ((2, 32, 9, 9), (32, 4, 3, 5), 8),
        ((2, 30, 9, 9), (20, 3, 3, 3), 10),
    ],
    ids=["dense", "pointwise", "depthwise", "wide depthwise", "grouped", "uneven groups"],
)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_and_inf_reach_exactly_what_reads_them(
    device: str,
    input_size: tuple[int, ...],
    weight_size: tuple[int, ...],
    groups: int,
    dtype: torch.dtype,
    layout: str,
) -> None:
    x, w = random(*input_size).to(dtype), random(*weight_size).to(dtype)
    x[0, 1, 2, 3], x[1, 2, 8, -1] = float("nan"), float("inf")
    w64 = w.double().requires_grad_()
    pad = int(weight_size[-1] > 1)
    expected = F.conv2d(x.double(), w64, padding=pad, groups=groups)
    y = conv2d(in_layout(x, layout).to(device), w.to(device), padding=pad, groups=groups).cpu()
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    dy = random(*expected.shape).to(dtype)
    (dw64,) = torch.autograd.grad(expected, w64, dy.double())
    window = ([1, 1], [pad] * 4, [1, 1], groups)
    dy, x = (in_layout(tensor, layout).to(device) for tensor in (dy, x))
    dw = ops.conv2d_grad_weight(dy, x, weight_size[-2:], *window).cpu()
    assert torch.equal(dw.isfinite(), dw64.isfinite())


LARGE = [
    Case((2, 64, 28, 28), (64, 64, 3, 3), padding=1),
    Case((2, 32, 60, 60), (48, 32, 3, 3), padding=1),
    Case((2, 48, 28, 28), (64, 48, 5, 5), padding=2),
    Case((1, 256, 14, 14), (256, 256, 3, 3), padding=1),
    Case((2, 3, 96, 96), (64, 3, 7, 7), stride=2, padding=3),
    Case((2, 256, 14, 14), (64, 256, 1, 1)),
    Case((4, 64, 28, 28), (1, 64, 1, 1)),
    Case((8, 64, 24, 24), (160, 64, 1, 1), stride=2),
    Case((2, 64, 28, 28), (64, 1, 7, 7), padding=3, groups=64),
    Case((2, 64, 28, 28), (128, 4, 3, 3), padding=1, stride=2, groups=16),
    Case((2, 64, 28, 28), (64, 8, 3, 3), padding=1, groups=8),
    Case((2, 64, 28, 28), (64, 64, 3, 3), padding=1, padding_mode="circular"),
    Case((4, 256, 7, 7), (256, 256, 3, 3), padding=1, stride=2),
    Case((4, 512, 8, 8), (512, 512, 1, 1), stride=2),
]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_error_is_at_most_twice_torchs(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    """Of all algorithms but Winograd's, whose error has a bound of its own in test_winograd.py."""
    e = example(case, dtype)
    # Below the spacing of the dtype's numbers there is nothing to compare.
    floor = torch.finfo(dtype).eps
    errors = []
    for ours in (True, False):
        x, w, b = e.leaves(device, layout)
        with torch_convops.allow_winograd(False):
            y = conv2d(x, w, b, *case.arguments) if ours else torch_conv2d(x, w, b, case)
            y.backward(in_layout(e.grad_output.to(device), layout))
        results = {"forward": y, "grad_input": x.grad, "grad_weight": w.grad, "grad_bias": b.grad}
        errors.append({name: relative_error(result, getattr(e, name)) for name, result in results.items()})
    for name, error in errors[0].items():
        assert error <= 2 * max(errors[1][name], floor), f"{name}: {error:.2e} against torch's {errors[1][name]:.2e}"


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("case", [*LARGE, Case((1, 8, 40, 40), (8, 8, 3, 3), padding="same", stride=2)], ids=str)
@pytest.mark.usefixtures("threads")
def test_bitwise_equal_for_any_thread_count_and_run(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    e = example(case, dtype)
    first: list[torch.Tensor] = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        x, w, b = e.leaves(device, layout)
        y = conv2d(x, w, b, *case.arguments)
        y.backward(in_layout(e.grad_output.to(device), layout))
        results = [y.detach(), x.grad, w.grad, b.grad]
        first = first or results
        for name, a, b in zip(("output", "grad_input", "grad_weight", "grad_bias"), results, first, strict=True):
            assert torch.equal(a, b), f"{name} with {threads} threads"


@pytest.mark.parametrize("needs", ["", "i", "w", "b", "iw", "ib", "wb", "iwb"])
def test_saves_only_what_the_needed_gradients_read(device: str, needs: str) -> None:
    x, w, b = (random(*size, device=device) for size in ((2, 3, 8, 8), (4, 3, 3, 3), (4,)))
    for name, tensor in (("i", x), ("w", w), ("b", b)):
        tensor.requires_grad_(name in needs)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = conv2d(x, w, b)
    # The gradient of the input reads the weight, that of the weight the input, that of the bias neither.
    expected = {t.data_ptr() for t in ([w] if "i" in needs else []) + ([x] if "w" in needs else [])}
    assert {tensor.data_ptr() for tensor in saved} == expected
    assert len(saved) == len(expected)
    assert y.requires_grad == bool(needs)


@pytest.mark.parametrize("border", BORDERS)
def test_border_costs_no_memory(device: str, border: str) -> None:
    """No padded copy: forward allocates its output alone, and saves for backward what a border of zeros does."""
    x, w = random(4, 8, 64, 64, device=device, grad=True), random(8, 8, 7, 7, device=device, grad=True)
    saved: dict[str, int] = dict.fromkeys(("zeros", border), 0)
    for mode in saved:

        def save(tensor: torch.Tensor, mode: str = mode) -> torch.Tensor:
            saved[mode] += tensor.nbytes
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            torch.profiler.profile(profile_memory=True) as profile,
        ):
            y = conv2d(x, w, padding=3, padding_mode=mode)
        events = [event for event in profile.events() if event.name == "[memory]"]
        allocated = sum(max(0, event.cpu_memory_usage + event.device_memory_usage) for event in events)
        assert allocated <= y.nbytes + 8 * w.nbytes
    assert saved["zeros"] == saved[border] == x.nbytes + w.nbytes


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_strided_pointwise_convolution_reads_only_the_pixels_it_uses(device: str, layout: str) -> None:
    x, w = random(2, 16, 9, 8, device=device), random(24, 16, 1, 1, device=device)
    expected = F.conv2d(exact(x), exact(w), stride=2)
    used = torch.zeros(9, 8, dtype=torch.bool, device=device)
    used[::2, ::2] = True
    x = in_layout(x.where(used, torch.nan), layout)
    assert_close(conv2d(x, w, stride=2), expected)
    dw = torch.ops.torch_convops.conv2d_grad_weight(in_layout(expected.float().to(device), layout), x, [1, 1], [2, 2])
    assert dw.isfinite().all()


@pytest.mark.parametrize("dtype", (torch.complex64, torch.complex128), ids=str)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_complex(device: str, layout: str, dtype: torch.dtype) -> None:
    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.complex128).to(dtype)

    for case in (
        Case((2, 4, 6, 7), (6, 2, 3, 2), 2, 1, 1, 2),
        Case((3, 5, 6), (3, 1, 3, 3), 1, ((1, 0), (2, 1)), 1, 3),
    ):
        tensors = [values(*case.input), values(*case.weight), values(case.weight[0])]
        leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
        if layout == "channels_last" and len(case.input) == 4:
            leaves[0] = tensors[0].to(device, memory_format=torch.channels_last).requires_grad_()
        exact_leaves = [tensor.to(torch.complex128).requires_grad_() for tensor in tensors]
        y, expected = conv2d(*leaves, *case.arguments), torch_conv2d(*exact_leaves, case)
        assert y.dtype == dtype
        if y.dim() == 4:
            assert is_channels_last(y) == (layout == "channels_last")
        dy = values(*y.shape)
        results = [y, *torch.autograd.grad(y, leaves, dy.to(device))]
        wanted = [expected, *torch.autograd.grad(expected, exact_leaves, dy.to(torch.complex128))]
        for a, b in zip(results, wanted, strict=True):
            torch.testing.assert_close(
                a.cpu().to(torch.complex128), b, rtol=1e-5, atol=1e-4 if dtype.itemsize == 8 else 1e-12
            )


def test_integers_are_refused(device: str) -> None:
    x = torch.ones(1, 1, 4, 4, dtype=torch.int64, device=device)
    for function in (conv2d, torch_convops.conv_transpose2d):
        with pytest.raises(TypeError, match="input must be float32, float64, bfloat16 or float16, got int64"):
            function(x, x)


@pytest.mark.parametrize("mode", ["valid", "same", "same_lower", "full"])
def test_operator_takes_modes_by_name(device: str, mode: str) -> None:
    x, w, b = (random(*size, device=device) for size in ((2, 4, 9, 8), (6, 2, 3, 2), (6,)))
    y = ops.conv2d(x, w, b, [2, 1], mode, [1, 2], 2, padding_mode="replicate")
    assert torch.equal(y, conv2d(x, w, b, (2, 1), mode, (1, 2), 2, "replicate"))
    assert torch.equal(y, ops.conv2d.padding(x, w, b, [2, 1], mode, [1, 2], 2, padding_mode="replicate"))


@pytest.mark.parametrize("case", [case for case in CASES if len(case.input) == 4], ids=str)
def test_output_size(case: Case) -> None:
    size = torch_convops.conv2d_output_size(case.input[-2:], case.weight[-2:], case.stride, case.padding, case.dilation)
    x, w = torch.empty(case.input, device="meta"), torch.empty(case.weight, device="meta")
    assert size == conv2d(x, w, None, *case.arguments).shape[-2:]


@pytest.mark.parametrize("needs", ["i", "w", "b", "iw", "wb"])
def test_computes_only_the_needed_gradients(device: str, needs: str) -> None:
    case = Case((2, 3, 8, 8), (4, 3, 3, 3), padding=1)
    e = example(case, torch.float64)
    tensors = {"i": e.input, "w": e.weight, "b": e.bias}
    leaves = {
        name: tensor.to(device).detach().clone().requires_grad_(name in needs) for name, tensor in tensors.items()
    }
    conv2d(*leaves.values(), *case.arguments).backward(e.grad_output.to(device))
    for name, expected in {"i": e.grad_input, "w": e.grad_weight, "b": e.grad_bias}.items():
        if name in needs:
            assert_close(leaves[name].grad, expected)
        else:
            assert leaves[name].grad is None


@pytest.mark.skipif("cuda" not in DEVICES, reason="TF32 is a mode of CUDA tensor cores")
def test_tf32_follows_torchs_switch() -> None:
    e = example(LARGE[0], torch.float32)
    x, w = e.input.cuda(), e.weight.cuda()
    without = relative_error(conv2d(x, w, e.bias.cuda(), *LARGE[0].arguments), e.forward)
    torch.backends.cudnn.allow_tf32 = True
    allowed = relative_error(conv2d(x, w, e.bias.cuda(), *LARGE[0].arguments), e.forward)
    assert without < 4e-6
    # TF32 keeps 11 bits of each operand.
    assert allowed < 2e-3


def test_input_and_weight_are_not_written(device: str) -> None:
    x, w = random(2, 3, 8, 8, device=device, grad=True), random(4, 3, 3, 3, device=device, grad=True)
    before = x.detach().clone(), w.detach().clone()
    conv2d(x, w, padding="same").sum().backward()
    assert torch.equal(x, before[0]) and torch.equal(w, before[1])
