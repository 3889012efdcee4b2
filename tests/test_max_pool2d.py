"""max_pool2d: values, indices and gradients against torch and the reference; ties, NaN, infinities and extremes."""

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
    INTEGERS,
    LAYOUTS,
    algorithm_params,
    assert_close,
    exact,
    in_layout,
    is_channels_last,
    random,
)

from torch_convops import max_pool2d, reference

ops = torch.ops.torch_convops
INF, NAN = float("inf"), float("nan")


def as_pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Case:
    input: tuple[int, ...]
    kernel: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False

    def __str__(self) -> str:
        size = "x".join(map(str, self.input))
        ceil = "-ceil" if self.ceil_mode else ""
        return f"{size}-k{self.kernel}-s{self.stride}-p{self.padding}-d{self.dilation}{ceil}".replace(" ", "")

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode

    @property
    def window(self) -> tuple[Any, ...]:
        """The arguments as the registered operators and the reference take them."""
        return (
            as_pair(self.kernel),
            as_pair(self.stride or self.kernel),
            self.sides,
            as_pair(self.dilation),
            self.ceil_mode,
        )

    @property
    def sides(self) -> tuple[int, int, int, int]:
        if isinstance(self.padding, int):
            return (self.padding,) * 4
        if isinstance(self.padding[0], int):
            return (self.padding[0], self.padding[0], self.padding[1], self.padding[1])
        return (*self.padding[0], *self.padding[1])


def random_cases(count: int) -> list[Case]:
    chance = pyrandom.Random(21)
    cases = []
    while len(cases) < count:
        size = (chance.randint(1, 3), chance.choice([1, 2, 7, 16, 19]), chance.randint(1, 12), chance.randint(1, 30))
        kernel = (chance.randint(1, 5), chance.randint(1, 5))
        dilation = chance.choice([1, 1, 2, (chance.randint(1, 3), chance.randint(1, 3))])
        extents = [d * (k - 1) + 1 for k, d in zip(kernel, as_pair(dilation), strict=True)]
        sides = tuple(tuple(chance.randint(0, extent // 2) for _ in range(2)) for extent in extents)
        even = tuple(side[0] for side in sides)
        case = Case(
            size if chance.random() < 0.85 else size[1:],
            kernel,
            chance.choice([None, 1, 2, (chance.randint(1, 5), chance.randint(1, 5))]),
            chance.choice([0, even, even, sides]),
            dilation,
            chance.random() < 0.5,
        )
        top, bottom, left, right = case.sides
        fits = extents[0] <= size[2] + top + bottom and extents[1] <= size[3] + left + right
        # Dilation can step over the whole image; that has a test of its own.
        if fits and -1 not in reference.max_pool2d(torch.zeros(1, 1, *size[2:]), *case.window)[1]:
            cases.append(case)
    return cases


CASES = [
    Case((2, 3, 8, 9), 2),
    Case((2, 64, 9, 9), 3, 2, 1),
    Case((2, 5, 13, 40), 3, 1, 1),
    Case((2, 5, 13, 11), 3, 2, 1, 1, True),
    Case((2, 3, 9, 9), 2, 4),
    Case((2, 3, 9, 9), 2, (5, 3), 0, 1, True),
    Case((2, 3, 5, 6), (5, 6)),
    Case((2, 3, 5, 6), (6, 8), 1, ((1, 0), (2, 0))),
    Case((1, 4, 12, 13), 13, 1, 6),
    Case((2, 4, 11, 12), 3, 2, 2, 2),
    Case((2, 4, 11, 12), (2, 3), 1, ((1, 0), (0, 1)), (1, 2)),
    Case((2, 4, 1, 1), 1),
    Case((3, 8, 9), 3, 2, 1),
    Case((0, 3, 8, 9), 3, 2, 1),
    Case((1, 2, 20, 24), (16, 16), 2, 8),
    Case((1, 2, 20, 24), (17, 16), 7, ((8, 3), (0, 8)), 1, True),
    Case((2, 3, 40, 40), (20, 19), 5, 4, 2),
    *random_cases(32),
]


def torch_max_pool2d(x: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's values and indices where it has the case (even padding that its rule allows), else the reference's."""
    top, bottom, left, right = case.sides
    kernel = as_pair(case.kernel)
    if top == bottom <= kernel[0] // 2 and left == right <= kernel[1] // 2:
        return F.max_pool2d(x, kernel, case.stride, (top, left), case.dilation, case.ceil_mode, return_indices=True)
    batched = x if x.dim() == 4 else x.unsqueeze(0)
    results = reference.max_pool2d(batched, *case.window)
    return tuple(result if x.dim() == 4 else result.squeeze(0) for result in results)


def expected_grad(dy: torch.Tensor, indices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Adds each window's gradient to the pixel of its index, in float64."""
    planes = torch.zeros(*x.shape[:-2], x.shape[-2] * x.shape[-1], dtype=torch.float64)
    return planes.scatter_add_(-1, indices.cpu().flatten(-2), exact(dy).flatten(-2)).reshape(x.shape)


def with_ties(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Few distinct values, so that most windows have several maxima, and some NaN and infinities."""
    values = torch.randint(-2, 3, shape).to(dtype)
    if dtype.is_floating_point:
        for special in (NAN, INF, -INF):
            values[torch.rand(shape) < 0.04] = special
    return values


def bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    a, b = a.detach().cpu(), b.detach().cpu()
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@functools.cache
def examples(case: Case, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Inputs, values and indices: one without and one with ties."""
    result = []
    for values in (random(*case.input, dtype=dtype), with_ties(case.input, dtype)):
        # torch itself fails on int8 planes over 127 pixels; its int64 kernel is right for all integers.
        y, indices = torch_max_pool2d(values if dtype.is_floating_point else values.to(torch.int64), case)
        result.append((values, y.to(dtype), indices))
    return result


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(device: str, case: Case, dtype: torch.dtype) -> None:
    for layout in LAYOUTS:
        for values, expected, expected_indices in examples(case, dtype):
            x = in_layout(values.to(device), layout).requires_grad_()
            y, indices = max_pool2d(x, *case.arguments, return_indices=True)
            assert bits_equal(y, expected)
            assert torch.equal(indices.cpu(), expected_indices)
            dy = random(*y.shape, dtype=dtype, device=device, layout=layout)
            y.backward(dy)
            assert_close(x.grad, expected_grad(dy, expected_indices, values), f"grad_input, {layout}")


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_match_torch(device: str, dtype: torch.dtype) -> None:
    for case in CASES[::2]:
        for values, expected, expected_indices in examples(case, dtype):
            for layout in LAYOUTS:
                x = in_layout(values.to(device), layout)
                y, indices = max_pool2d(x, *case.arguments, return_indices=True)
                assert bits_equal(y, expected), case
                assert torch.equal(indices.cpu(), expected_indices), case
                assert torch.equal(max_pool2d(x, *case.arguments), y), case


@pytest.mark.parametrize("case", [case for case in CASES if len(case.input) == 4], ids=str)
def test_matches_reference(device: str, case: Case) -> None:
    values = with_ties(case.input, torch.float64)
    x = values.to(device).requires_grad_()
    y, indices = max_pool2d(x, *case.arguments, return_indices=True)
    expected, expected_indices = reference.max_pool2d(values, *case.window)
    assert bits_equal(y, expected)
    assert torch.equal(indices.cpu(), expected_indices)
    dy = random(*y.shape, dtype=torch.float64)
    y.backward(dy.to(device))
    # One image is enough for a loop this slow.
    expected_grad_input = reference.max_pool2d_grad_input(dy[:1], expected_indices[:1], case.input[-2:])
    assert_close(x.grad[:1], expected_grad_input)


@pytest.mark.parametrize("device, algorithm", algorithm_params("max_pool2d"))
def test_every_algorithm(device: str, algorithm: str) -> None:
    ran = 0
    for case, dtype in [(case, dtype) for case in CASES for dtype in (*FLOATS, torch.int8, torch.int64)]:
        for values, expected, expected_indices in examples(case, dtype):
            for layout in LAYOUTS:
                x = in_layout(values.to(device), layout)
                try:
                    y, offsets = ops.max_pool2d_with_offsets(x, *case.window, algorithm=algorithm)
                    indices = ops.max_pool2d_indices(offsets, x.shape[-2:], *case.window, algorithm=algorithm)
                except RuntimeError as error:
                    assert f"algorithm '{algorithm}' does not support this problem" in str(error)
                    continue
                ran += 1
                assert bits_equal(y, expected), case
                assert torch.equal(indices.cpu(), expected_indices), case
                assert bits_equal(max_pool2d(x, *case.arguments, algorithm=algorithm), expected), case
                if not dtype.is_floating_point:
                    continue
                gathered = ops.max_pool2d_gather(x, offsets, *case.window, algorithm=algorithm)
                assert bits_equal(gathered, y), case
                dy = random(*y.shape, dtype=dtype, device=device, layout=layout)
                dx = ops.max_pool2d_grad_input(dy, offsets, x.shape[-2:], *case.window, algorithm=algorithm)
                assert_close(dx, expected_grad(dy, expected_indices, values), case)
    assert ran > 0, "the algorithm was never exercised"


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 5)])
def test_modes(device: str, kernel: tuple[int, int], stride: int) -> None:
    x = random(2, 3, 9, 14, device=device)
    for mode in ("same", "same_lower"):
        y = max_pool2d(x, kernel, stride, mode)
        assert y.shape[-2:] == (-(-9 // stride), -(-14 // stride))
        totals = [max(0, (-(-n // stride) - 1) * stride + k - n) for n, k in zip((9, 14), kernel, strict=True)]
        sides = [(t // 2, t - t // 2) if mode == "same" else (t - t // 2, t // 2) for t in totals]
        assert torch.equal(y, max_pool2d(x, kernel, stride, sides))
    assert torch.equal(max_pool2d(x, kernel, stride, "valid"), F.max_pool2d(x, kernel, stride))


def test_stride_defaults_to_kernel_size(device: str) -> None:
    x = random(2, 3, 9, 14, device=device)
    expected = F.max_pool2d(x, (2, 3))
    for stride in (None, [], ()):
        assert torch.equal(max_pool2d(x, (2, 3), stride), expected)
    assert torch.equal(ops.max_pool2d(x, [2, 3]), expected)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("kernel", [3, 17])
def test_first_of_equal_maxima_wins(device: str, layout: str, kernel: int) -> None:
    """17 x 17 windows need offsets wider than a byte."""
    for dtype in (*FLOATS, *INTEGERS):
        for value in (0, 1):
            x = in_layout(torch.full((1, 3, 20, 33), value, dtype=dtype, device=device), layout)
            _, indices = max_pool2d(x, kernel, 1, return_indices=True)
            rows, columns = (torch.arange(n - kernel + 1, device=device) for n in (20, 33))
            assert torch.equal(indices[0, 1], rows[:, None] * 33 + columns)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
def test_signed_zeros_are_equal(device: str, layout: str) -> None:
    x = in_layout(torch.tensor([-0.0, 0.0, 0.0, -0.0]).reshape(1, 1, 2, 2).repeat(1, 3, 1, 1).to(device), layout)
    y, indices = max_pool2d(x, 2, return_indices=True)
    assert indices.flatten().tolist() == [0, 0, 0]
    assert torch.signbit(y).all()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_last_nan_wins(device: str, dtype: torch.dtype, layout: str) -> None:
    x = torch.tensor([[1.0, NAN, 9.0], [INF, NAN, 2.0], [7.0, 8.0, 3.0]], dtype=dtype).expand(1, 5, 3, 3)
    x = in_layout(x.to(device), layout).requires_grad_()
    y, indices = max_pool2d(x, 3, return_indices=True)
    assert y.isnan().all()
    assert indices.flatten().tolist() == [4] * 5
    y.backward(torch.full_like(y, 2))
    assert x.grad[0, 0].flatten().tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_minus_infinity_picks_the_first_tap_inside_the_image(device: str, dtype: torch.dtype, layout: str) -> None:
    x = in_layout(torch.full((1, 4, 6, 7), -INF, dtype=dtype, device=device), layout).requires_grad_()
    y, indices = max_pool2d(x, 3, 2, 1, return_indices=True)
    assert (y == -INF).all()
    rows, columns = (torch.clamp(torch.arange(0, n, 2, device=device) - 1, min=0) for n in (6, 7))
    assert torch.equal(indices[0, 3], (rows[:, None] * 7 + columns)[: y.shape[-2], : y.shape[-1]])
    y.sum().backward()
    assert x.grad.sum() == y.numel()


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (*FLOATS, *INTEGERS), ids=str)
def test_window_that_steps_over_the_image(device: str, dtype: torch.dtype, layout: str) -> None:
    """Its taps are at rows -1 and 2 of an image with rows 0 and 1: the lowest value, and no gradient."""
    x = in_layout(torch.ones(2, 3, 2, 9, dtype=dtype, device=device), layout)
    x.requires_grad_(dtype.is_floating_point)
    y = max_pool2d(x, 2, 1, (1, 0), 3)
    assert y.shape == (2, 3, 1, 6)
    assert (y == (-INF if dtype.is_floating_point else torch.iinfo(dtype).min)).all()
    if dtype.is_floating_point:
        y.backward(torch.ones_like(y))
        assert x.grad.count_nonzero() == 0


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (*FLOATS, *INTEGERS), ids=str)
def test_extremes_of_the_dtype(device: str, dtype: torch.dtype, layout: str) -> None:
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    lowest = torch.full((2, 5, 6, 7), limits.min, dtype=dtype)
    for values in (lowest, torch.where(torch.rand(lowest.shape) < 0.3, limits.max, lowest)):
        y, indices = max_pool2d(in_layout(values.to(device), layout), 3, 2, 1, return_indices=True)
        expected, expected_indices = reference.max_pool2d(values, (3, 3), (2, 2), (1, 1, 1, 1))
        assert torch.equal(y.cpu(), expected)
        assert torch.equal(indices.cpu(), expected_indices)


def test_offsets_take_a_byte_up_to_256_taps(device: str) -> None:
    x = random(1, 3, 20, 20, device=device)
    for kernel, dtype in (((16, 16), torch.uint8), ((16, 17), torch.int32), ((1, 20), torch.uint8)):
        _, offsets = ops.max_pool2d_with_offsets(x, kernel, [1])
        assert offsets.dtype == dtype
        y, indices = F.max_pool2d(x, kernel, 1, return_indices=True)
        assert torch.equal(ops.max_pool2d_indices(offsets, [20, 20], kernel, [1]), indices)
        assert torch.equal(ops.max_pool2d_gather(x, offsets, kernel, [1]), y)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_channels_last_is_kept(device: str, dtype: torch.dtype) -> None:
    for layout in ("contiguous", "channels_last"):
        x = random(2, 5, 8, 9, dtype=dtype, device=device, layout=layout, grad=True)
        y, indices = max_pool2d(x, 3, 2, 1, return_indices=True)
        for dy in (torch.ones_like(y, memory_format=torch.contiguous_format), torch.ones_like(y)):
            (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
            assert (
                is_channels_last(y) == is_channels_last(indices) == is_channels_last(dx) == (layout == "channels_last")
            )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_expanded_grad_output(device: str, layout: str) -> None:
    x = random(2, 5, 9, 8, dtype=torch.float64, device=device, layout=layout, grad=True)
    max_pool2d(x, 3, 2, 1).sum().backward()
    expected = exact(x, grad=True)
    F.max_pool2d(expected, 3, 2, 1).sum().backward()
    assert torch.equal(x.grad.cpu(), expected.grad)


def test_empty_batch(device: str) -> None:
    for layout in LAYOUTS:
        x = random(0, 3, 8, 9, device=device, layout=layout, grad=True)
        y, indices = max_pool2d(x, 3, 2, 1, return_indices=True)
        assert y.shape == indices.shape == (0, 3, 4, 5)
        y.sum().backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("kernel, bytes_each", [(3, 1), (17, 4)])
def test_saves_one_byte_an_output(device: str, kernel: int, bytes_each: int) -> None:
    x = random(2, 8, 30, 30, device=device, grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = max_pool2d(x, kernel, 2)
    assert sum(tensor.untyped_storage().nbytes() for tensor in saved) == bytes_each * y.numel()


def test_needs_no_graph_without_gradient(device: str) -> None:
    x = random(2, 3, 8, 8, device=device, grad=True)
    with torch.no_grad():
        assert not max_pool2d(x, 2).requires_grad
    assert max_pool2d(x, 2).requires_grad
    values, indices = max_pool2d(x, 2, return_indices=True)
    assert values.requires_grad and not indices.requires_grad


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "case", [Case((2, 40, 33, 35), 3, 2, 1), Case((1, 5, 40, 41), 5, 1, 2), Case((1, 70, 20, 20), 13, 1, 6)], ids=str
)
@pytest.mark.usefixtures("threads")
def test_bitwise_equal_for_any_thread_count_and_run(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    values = with_ties(case.input, dtype)
    first: list[torch.Tensor] = []
    dy = None
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        x = in_layout(values.to(device), layout).requires_grad_()
        y, indices = max_pool2d(x, *case.arguments, return_indices=True)
        dy = random(*y.shape, dtype=dtype, device=device) if dy is None else dy
        y.backward(dy)
        results = [y.detach(), indices, x.grad]
        first = first or results
        for a, b in zip(results, first, strict=True):
            assert bits_equal(a, b), f"{threads} threads"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [(3, 3), (5, 1), (17, 16)])
def test_garbage_offsets_route_nothing_and_gather_zero(device: str, kernel: tuple[int, int], layout: str) -> None:
    """Whatever the offsets say, nothing outside the image is read or written."""
    taps = kernel[0] * kernel[1]
    dtype = torch.uint8 if taps <= 256 else torch.int32
    window = (kernel, (2, 1), (1, 1, 0, 0), (1, 1), True)
    x = random(2, 19, 20, 21, device=device, layout=layout)
    y = ops.max_pool2d(x, *window)
    offsets = random(*y.shape, dtype=dtype)
    offsets[torch.rand(y.shape) < 0.5] %= taps
    offsets[0, 0, 0, 0] = torch.iinfo(dtype).max
    given = in_layout(offsets.to(device), layout)
    gathered = ops.max_pool2d_gather(x, given, *window)
    dx = ops.max_pool2d_grad_input(y, given, x.shape[-2:], *window)
    ops.max_pool2d_indices(given, x.shape[-2:], *window)

    # The pixel that each offset names, by definition.
    offset = offsets.to(torch.int64)
    rows = torch.arange(y.shape[2])[:, None] * 2 - 1 + torch.div(offset, kernel[1], rounding_mode="floor")
    columns = torch.arange(y.shape[3]) + offset % kernel[1]
    named = (offset >= 0) & (offset < taps) & (rows >= 0) & (rows < 20) & (columns >= 0) & (columns < 21)
    assert not named.all() and named.any()
    pixels = torch.where(named, rows * 21 + columns, 0).flatten(2)
    flat_named = named.flatten(2)
    read = torch.where(flat_named, exact(x).flatten(2).gather(2, pixels), 0.0)
    torch.testing.assert_close(exact(gathered).flatten(2), read)
    written = torch.zeros(2, 19, 420, dtype=torch.float64)
    written.scatter_add_(2, pixels, torch.where(flat_named, exact(y).flatten(2), 0.0))
    assert_close(dx, written.reshape(x.shape))
