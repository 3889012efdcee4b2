"""avg_pool2d: values and gradients against torch in float64 and against the reference, over every parameter."""

from __future__ import annotations

import functools
import random as pyrandom
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import (
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

from torch_convops import avg_pool2d, reference

ops = torch.ops.torch_convops


def as_pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Case:
    input: tuple[int, ...]
    kernel: Any
    stride: Any = None
    padding: Any = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def __str__(self) -> str:
        size = "x".join(map(str, self.input))
        flags = f"{'-ceil' if self.ceil_mode else ''}{'' if self.count_include_pad else '-nopad'}"
        divisor = "" if self.divisor_override is None else f"-div{self.divisor_override}"
        return f"{size}-k{self.kernel}-s{self.stride}-p{self.padding}{flags}{divisor}".replace(" ", "")

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (
            self.kernel,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    @property
    def window(self) -> tuple[Any, ...]:
        """The arguments as the registered operators and the reference take them."""
        kernel, stride = as_pair(self.kernel), as_pair(self.stride or self.kernel)
        return kernel, stride, self.sides, self.ceil_mode, self.count_include_pad, self.divisor_override

    @property
    def sides(self) -> tuple[int, int, int, int]:
        if isinstance(self.padding, int):
            return (self.padding,) * 4
        if isinstance(self.padding[0], int):
            return (self.padding[0], self.padding[0], self.padding[1], self.padding[1])
        return (*self.padding[0], *self.padding[1])


def random_cases(count: int) -> list[Case]:
    chance = pyrandom.Random(22)
    cases = []
    while len(cases) < count:
        size = (chance.randint(1, 3), chance.choice([1, 2, 7, 16, 19]), chance.randint(1, 14), chance.randint(1, 30))
        kernel = (chance.randint(1, 5), chance.randint(1, 5))
        sides = tuple(tuple(chance.randint(0, k // 2) for _ in range(2)) for k in kernel)
        case = Case(
            size if chance.random() < 0.85 else size[1:],
            kernel,
            chance.choice([None, 1, 2, (chance.randint(1, 5), chance.randint(1, 5))]),
            chance.choice([0, tuple(side[0] for side in sides), sides]),
            chance.random() < 0.5,
            chance.random() < 0.5,
            chance.choice([None, None, 3, -2]),
        )
        top, bottom, left, right = case.sides
        if kernel[0] <= size[2] + top + bottom and kernel[1] <= size[3] + left + right:
            cases.append(case)
    return cases


CASES = [
    Case((2, 3, 8, 9), 2),
    Case((2, 40, 9, 9), 3, 1, 1),
    Case((2, 5, 13, 40), 3, 2, 1),
    Case((2, 5, 13, 11), 3, 2, 1, True),
    Case((2, 5, 13, 11), 3, 2, 1, True, False),
    Case((2, 5, 13, 11), 3, 2, 1, True, True, 5),
    Case((2, 3, 9, 9), 2, 4),
    Case((2, 3, 9, 9), 2, (5, 3), 0, True),
    Case((2, 3, 5, 6), (5, 6)),
    Case((2, 3, 5, 6), (6, 8), 1, ((1, 0), (2, 0)), False, False),
    Case((1, 4, 12, 13), 13, 1, 6),
    Case((2, 64, 7, 7), 7),
    Case((2, 4, 1, 1), 1),
    Case((3, 8, 9), 3, 2, 1, False, False),
    Case((0, 3, 8, 9), 3, 2, 1),
    Case((1, 2, 20, 24), (17, 16), 3, ((8, 3), (0, 8)), True),
    *random_cases(40),
]


def torch_avg_pool2d(x: torch.Tensor, case: Case) -> torch.Tensor:
    """By torch where it has the case (even padding), else torch's sum of each window over the number of its pixels."""
    top, bottom, left, right = case.sides
    kernel, stride, sides, *_ = case.window
    if top == bottom and left == right:
        return F.avg_pool2d(x, kernel, stride, (top, left), *case.arguments[3:])
    # Pixels below and right of the image let every window fit that ceil_mode adds.
    padded = F.pad(x, (left, right + stride[1], top, bottom + stride[0]))
    ones = reference.avg_pool2d(torch.ones(1, 1, *x.shape[-2:]), kernel, stride, sides, case.ceil_mode, False, 1)
    sums = F.avg_pool2d(padded, kernel, stride, divisor_override=1)[..., : ones.shape[-2], : ones.shape[-1]]
    if case.divisor_override:
        return sums / case.divisor_override
    if not case.count_include_pad:
        return sums / ones[0, 0]
    inside = F.pad(torch.ones(1, 1, *x.shape[-2:], dtype=x.dtype), (left, right, top, bottom), value=1)
    inside = F.pad(inside, (0, stride[1], 0, stride[0]))
    counts = F.avg_pool2d(inside, kernel, stride, divisor_override=1)[..., : ones.shape[-2], : ones.shape[-1]]
    return sums / counts[0, 0]


@functools.cache
def example(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, output, grad_output, grad_input; results in float64 for the exact values of the operands."""
    x = random(*case.input, dtype=dtype)
    x64 = exact(x, grad=True)
    y = torch_avg_pool2d(x64, case)
    dy = random(*y.shape, dtype=dtype)
    y.backward(exact(dy))
    return x, y.detach(), dy, x64.grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    values, expected, dy, expected_grad = example(case, dtype)
    x = in_layout(values.to(device), layout).requires_grad_()
    y = avg_pool2d(x, *case.arguments)
    y.backward(in_layout(dy.to(device), layout))
    assert y.dtype == x.grad.dtype == dtype
    assert_close(y, expected, "output")
    assert_close(x.grad, expected_grad, "grad_input")


@pytest.mark.parametrize("case", [case for case in CASES if len(case.input) == 4], ids=str)
def test_matches_reference(device: str, case: Case) -> None:
    x = random(*case.input, dtype=torch.float64)
    leaf = x.to(device).requires_grad_()
    y = avg_pool2d(leaf, *case.arguments)
    assert_close(y, reference.avg_pool2d(x, *case.window))
    dy = random(*y.shape, dtype=torch.float64)
    y.backward(dy.to(device))
    kernel, stride, sides, _, *divisor = case.window
    assert_close(leaf.grad, reference.avg_pool2d_grad_input(dy, case.input[-2:], kernel, stride, sides, *divisor))


@pytest.mark.parametrize("device, algorithm", algorithm_params("avg_pool2d"))
def test_every_algorithm(device: str, algorithm: str) -> None:
    ran = {"forward": 0, "grad_input": 0}
    for case, dtype in [(case, dtype) for case in CASES for dtype in FLOATS]:
        values, expected, grad_output, expected_grad = example(case, dtype)
        for layout in LAYOUTS:
            x, dy = (in_layout(tensor.to(device), layout) for tensor in (values, grad_output))
            passes = {
                "forward": lambda x=x, case=case: avg_pool2d(x, *case.arguments, algorithm=algorithm),
                "grad_input": lambda x=x, dy=dy, case=case: ops.avg_pool2d_grad_input(
                    dy, x.shape[-2:], *case.window, algorithm=algorithm
                ),
            }
            for name, run in passes.items():
                try:
                    result = run()
                except (ValueError, RuntimeError) as error:
                    assert f"algorithm '{algorithm}' does not support this problem" in str(error)
                    assert isinstance(error, ValueError) == (name == "forward")
                    continue
                ran[name] += 1
                assert_close(result, expected if name == "forward" else expected_grad, f"{name} of {case}, {layout}")
    assert any(ran.values()), "the algorithm was never exercised"


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 5)])
def test_modes(device: str, kernel: tuple[int, int], stride: int) -> None:
    x = random(2, 3, 9, 14, device=device)
    for mode in ("same", "same_lower"):
        y = avg_pool2d(x, kernel, stride, mode)
        assert y.shape[-2:] == (-(-9 // stride), -(-14 // stride))
        totals = [max(0, (-(-n // stride) - 1) * stride + k - n) for n, k in zip((9, 14), kernel, strict=True)]
        sides = [(t // 2, t - t // 2) if mode == "same" else (t - t // 2, t // 2) for t in totals]
        assert torch.equal(y, avg_pool2d(x, kernel, stride, sides))
    assert_close(avg_pool2d(x, kernel, stride, "valid"), F.avg_pool2d(exact(x), kernel, stride))


def test_stride_defaults_to_kernel_size(device: str) -> None:
    x = random(2, 3, 9, 14, dtype=torch.float64, device=device)
    for stride in (None, [], ()):
        assert_close(avg_pool2d(x, (2, 3), stride), F.avg_pool2d(exact(x), (2, 3)))
    assert_close(ops.avg_pool2d(x, [2, 3]), F.avg_pool2d(exact(x), (2, 3)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_mean_of_ones_is_one_without_pads(device: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, 9, 14, dtype=dtype, device=device)
    for layout in LAYOUTS:
        y = avg_pool2d(in_layout(x, layout), (3, 5), 2, (1, 2), True, False)
        assert (y == 1).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_channels_last_is_kept(device: str, dtype: torch.dtype) -> None:
    for layout in ("contiguous", "channels_last"):
        x = random(2, 5, 8, 9, dtype=dtype, device=device, layout=layout, grad=True)
        y = avg_pool2d(x, 3, 2, 1)
        for dy in (torch.ones_like(y, memory_format=torch.contiguous_format), torch.ones_like(y)):
            (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
            assert is_channels_last(y) == is_channels_last(dx) == (layout == "channels_last")


def test_padding_is_right_in_every_layout(device: str) -> None:
    """The backward of some torch versions is wrong for channels_last with padding; contiguous float64 is the oracle."""
    for case in CASES:
        values, _, dy, expected_grad = example(case, torch.float64)
        for layout in LAYOUTS:
            x = in_layout(values.to(device), layout).requires_grad_()
            avg_pool2d(x, *case.arguments).backward(in_layout(dy.to(device), layout))
            assert_close(x.grad, expected_grad, f"{case} {layout}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_expanded_grad_output(device: str, layout: str) -> None:
    x = random(2, 5, 9, 8, dtype=torch.float64, device=device, layout=layout, grad=True)
    avg_pool2d(x, 3, 2, 1).sum().backward()
    expected = exact(x, grad=True)
    F.avg_pool2d(expected, 3, 2, 1).sum().backward()
    assert_close(x.grad, expected.grad)


def test_empty_batch(device: str) -> None:
    for layout in LAYOUTS:
        x = random(0, 3, 8, 9, device=device, layout=layout, grad=True)
        y = avg_pool2d(x, 3, 2, 1)
        assert y.shape == (0, 3, 4, 5)
        y.sum().backward()
        assert x.grad.shape == x.shape


def test_saves_nothing(device: str) -> None:
    x = random(2, 8, 30, 30, device=device, grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        assert avg_pool2d(x, 3, 2).requires_grad
    assert saved == []


def test_nan_reaches_exactly_the_windows_that_read_it(device: str) -> None:
    for layout in LAYOUTS:
        x = random(2, 3, 9, 11)
        x[0, 1, 2, 3], x[1, 2, 8, 10] = float("nan"), float("inf")
        y = avg_pool2d(in_layout(x.to(device), layout), 3, 2, 1).cpu()
        expected = F.avg_pool2d(x.double(), 3, 2, 1)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(
    "case", [Case((2, 40, 56, 56), 3, 1, 1), Case((2, 64, 56, 56), 2), Case((2, 256, 7, 7), 7)], ids=str
)
def test_error_is_at_most_twice_torchs(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    values, expected, dy, expected_grad = example(case, dtype)
    floor = torch.finfo(dtype).eps
    errors = []
    for function, function_layout in ((avg_pool2d, layout), (F.avg_pool2d, "contiguous")):
        x = in_layout(values.to(device), function_layout).requires_grad_()
        y = function(x, *case.arguments)
        y.backward(in_layout(dy.to(device), function_layout))
        errors.append((relative_error(y, expected), relative_error(x.grad, expected_grad)))
    for ours, torchs in zip(*errors, strict=True):
        assert ours <= 2 * max(torchs, floor), f"{ours:.2e} against torch's {torchs:.2e}"


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 40, 33, 35), 3, 2, 1),
        Case((1, 5, 40, 41), 5, 1, 2),
        Case((2, 70, 20, 20), 20),
        Case((1, 70, 40, 41), 13, 1, 6),
        Case((1, 3, 60, 50), (15, 19), 2, 7, True, False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("threads")
def test_bitwise_equal_for_any_thread_count_and_run(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    values, _, dy, _ = example(case, dtype)
    first: list[torch.Tensor] = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        x = in_layout(values.to(device), layout).requires_grad_()
        y = avg_pool2d(x, *case.arguments)
        y.backward(dy.to(device))
        results = [y.detach(), x.grad]
        first = first or results
        for a, b in zip(results, first, strict=True):
            assert torch.equal(a, b), f"{threads} threads"


DILATED = [  # kernel, stride, sides, dilation, ceil_mode, count_include_pad
    ((2, 2), (1, 1), (0, 0, 0, 0), (2, 2), False, True),
    ((3, 2), (2, 1), (2, 1, 1, 0), (2, 3), False, False),
    ((3, 3), (3, 2), (1, 3, 2, 2), (3, 2), True, True),
    ((2, 4), (1, 3), (1, 0, 0, 4), (5, 3), True, False),
    ((9, 1), (1, 1), (4, 4, 0, 0), (1, 7), False, True),
    ((2, 3), (4, 5), (2, 2, 1, 2), (4, 2), True, False),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", DILATED, ids=str)
def test_dilation(device: str, window: tuple[Any, ...], layout: str) -> None:
    kernel, stride, (top, bottom, left, right), dilation, ceil_mode, count_include_pad = window
    for size in ((2, 5, 11, 13), (5, 11, 40)):
        x = random(*size, dtype=torch.float64, device=device, layout=layout, grad=True)
        options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad, "dilation": dilation}
        y = avg_pool2d(x, kernel, stride, ((top, bottom), (left, right)), **options)
        batched = x if x.dim() == 4 else x.unsqueeze(0)
        expected = reference.avg_pool2d(
            batched, kernel, stride, window[2], ceil_mode, count_include_pad, None, dilation
        )
        assert_close(y, expected.reshape(y.shape))
        dy = random(*y.shape, dtype=torch.float64)
        y.backward(dy.to(device))
        expected = reference.avg_pool2d_grad_input(
            dy.reshape(expected.shape), size[-2:], kernel, stride, window[2], count_include_pad, None, dilation
        )
        assert_close(x.grad, expected.reshape(x.shape))


def test_mean_of_no_pixel(device: str) -> None:
    """The taps are at rows -1 and 2 of an image with rows 0 and 1: two zeros of padding, or nothing."""
    x = torch.ones(1, 3, 2, 9, device=device, requires_grad=True)
    y = avg_pool2d(x, (2, 1), 1, (1, 0), dilation=3)
    assert y.shape == (1, 3, 1, 9) and (y == 0).all()
    y = avg_pool2d(x, (2, 1), 1, (1, 0), count_include_pad=False, dilation=3)
    assert y.isnan().all()
    y.sum().backward()
    assert x.grad.count_nonzero() == 0


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("kernel, stride", [(13, 1), ((9, 31), 1), ((31, 9), (2, 1)), (17, (3, 2)), ((25, 25), (1, 4))])
def test_large_windows_keep_infinities_to_themselves(device: str, kernel: Any, stride: Any, layout: str) -> None:
    """No window that holds no Inf or NaN is touched by one, and sums do not drift along a row."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    values = random(2, 19, 40, 45, dtype=torch.float64)
    values[0, 3, 7, 9], values[1, 0, 30, 20], values[1, 5, 39, 44] = float("inf"), float("nan"), -float("inf")
    values[0, 5, 20] = 1e30  # its neighbours' windows are of size 1
    x = in_layout(values.to(device), layout)
    y = avg_pool2d(x, kernel, stride)
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    windows = values.unfold(2, rows, steps[0]).unfold(3, columns, steps[1])
    expected = windows.mean((-2, -1))
    torch.testing.assert_close(y.cpu(), expected, rtol=1e-12, atol=1e-12, equal_nan=True)
