"""Derivatives of every order and kind: gradcheck, gradgradcheck, forward mode and torch.func."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, algorithm_params, assert_close, exact, random
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import torch_convops
from torch_convops import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    binomial_filter,
    blur_pool2d,
    conv2d,
    conv_transpose2d,
    convolve2d,
    correlate2d,
    global_avg_pool2d,
    global_max_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
)

ops = torch.ops.torch_convops
random64 = partial(random, dtype=torch.float64)
FORMATS = ("contiguous", "channels_last")


def check(function: Callable[..., Any], *inputs: torch.Tensor) -> None:
    """First and second order, reverse and forward mode, one by one and batched, against finite differences.

    Fast mode compares one random projection of each Jacobian, in which a wrong entry shows as surely as in itself.
    """
    batched = {"check_batched_grad": True, "fast_mode": True}
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_forward_grad=True, **batched)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, **batched)


def spread(*shape: int, device: str, layout: str = "contiguous") -> torch.Tensor:
    """Distinct values with gaps, so that finite differences never change which one is the maximum."""
    count = torch.Size(shape).numel()
    values = (torch.randperm(count).double() / count).reshape(shape).to(device)
    if layout == "channels_last" and len(shape) == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    return values.requires_grad_()


def with_auto(operator: str) -> list[tuple[str, str]]:
    """Every algorithm, and "auto", whose passes may each take another."""
    return [*((device, "auto") for device in DEVICES), *algorithm_params(operator)]


CONVOLUTIONS = {
    "dense": ((2, 2, 4, 3), (3, 2, 3, 2), {"padding": ((1, 0), (2, 1))}),
    "strided": ((1, 2, 5, 4), (2, 2, 2, 3), {"stride": (2, 3), "padding": 1}),
    "dilated": ((1, 2, 5, 4), (2, 2, 2, 2), {"dilation": (2, 1), "padding": "same"}),
    "same_strided": ((1, 1, 5, 4), (2, 1, 3, 2), {"stride": 2, "padding": "same_lower"}),
    "full": ((1, 2, 3, 2), (1, 2, 2, 3), {"padding": "full"}),
    "pointwise": ((2, 3, 2, 2), (2, 3, 1, 1), {}),
    "grouped": ((1, 4, 3, 3), (2, 2, 2, 2), {"groups": 2}),
    "depthwise": ((1, 3, 4, 3), (3, 1, 3, 2), {"groups": 3, "padding": 1}),
    "multiplier": ((1, 2, 3, 3), (4, 1, 2, 2), {"groups": 2, "stride": 2, "padding": "same"}),
    "unbatched": ((2, 4, 3), (2, 2, 3, 2), {"padding": 1}),
    **{
        border: ((1, 2, 3, 4), (2, 2, 3, 3), {"padding": ((2, 1), (0, 2)), "stride": (1, 2), "padding_mode": border})
        for border in ("reflect", "replicate", "circular", "symmetric")
    },
    "depthwise_circular": (
        (2, 3, 4, 3),
        (3, 1, 3, 2),
        {"groups": 3, "padding": "same", "dilation": (1, 2), "padding_mode": "circular"},
    ),
    "full_symmetric": ((1, 2, 3, 3), (2, 1, 3, 2), {"groups": 2, "padding": "full", "padding_mode": "symmetric"}),
}
TRANSPOSED = {
    "plain": ((1, 2, 3, 2), (2, 3, 2, 3), {}),
    "strided": ((2, 2, 2, 3), (2, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "grouped": ((1, 4, 3, 2), (4, 1, 2, 2), {"stride": (1, 2), "groups": 2, "padding": ((0, 1), (1, 0))}),
    "beyond": ((1, 2, 2, 2), (2, 1, 2, 2), {"dilation": 3, "output_padding": 2}),
    "same": ((1, 2, 2, 3), (2, 2, 3, 2), {"stride": (2, 3), "padding": "same"}),
    "unbatched": ((2, 2, 3), (2, 2, 3, 3), {"stride": 2}),
}


def check_algorithm(algorithm: str, function: Callable[..., Any], *inputs: torch.Tensor) -> None:
    """All checks for "auto"; reverse mode for a forced algorithm, which may refuse a problem in its dtype or format."""
    if algorithm == "auto":
        return check(function, *inputs)
    try:
        assert gradcheck(function, inputs, fast_mode=True)
        assert gradgradcheck(function, inputs, fast_mode=True)
    except (ValueError, RuntimeError) as error:
        if f"algorithm '{algorithm}' does not support this problem" not in str(error):
            raise


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("device, algorithm", with_auto("conv2d"))
def test_conv2d(device: str, algorithm: str, layout: str) -> None:
    for name, (input_size, weight_size, options) in CONVOLUTIONS.items():
        x, w = (random64(*size, device=device, layout=layout, grad=True) for size in (input_size, weight_size))
        b = random64(weight_size[0], device=device, grad=True)
        function = partial(conv2d, **options, algorithm=algorithm)
        check_algorithm(algorithm, function, x, w, b)
        if name == "dense":
            check_algorithm(algorithm, function, x, w)


@pytest.mark.parametrize("name", ["same_strided", "unbatched"])
def test_conv2d_in_full(device: str, name: str) -> None:
    """Every entry of the Jacobians, on the smallest problems."""
    input_size, weight_size, options = CONVOLUTIONS[name]
    x, w = (random64(*size, device=device, grad=True) for size in (input_size, weight_size))
    b = random64(weight_size[0], device=device, grad=True)
    assert gradcheck(partial(conv2d, **options), (x, w, b), check_forward_ad=True)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose2d(device: str, name: str, layout: str) -> None:
    input_size, weight_size, options = TRANSPOSED[name]
    x, w = (random64(*size, device=device, layout=layout, grad=True) for size in (input_size, weight_size))
    b = random64(weight_size[1] * options.get("groups", 1), device=device, grad=True)
    check(partial(conv_transpose2d, **options), x, w, b)
    check(partial(conv_transpose2d, **options), x, w)


@pytest.mark.parametrize("layout", FORMATS)
def test_conv2d_internal_operators(device: str, layout: str) -> None:
    """torch.ops.* under autograd, the gradients' own operators included."""
    x, w = (random64(*size, device=device, layout=layout, grad=True) for size in ((1, 4, 4, 3), (4, 2, 2, 3)))
    window = ([2, 1], [1, 0, 1, 2], [1, 1], 2)
    dy = random64(*ops.conv2d(x, w, None, *window).shape, device=device, layout=layout, grad=True)
    check(lambda x, w: ops.conv2d(x, w, None, *window), x, w)
    check(lambda dy, w: ops.conv2d_grad_input(dy, w, [4, 3], *window), dy, w)
    check(lambda dy, x: ops.conv2d_grad_weight(dy, x, [2, 3], *window), dy, x)
    options = {"padding_mode": "symmetric"}
    check(lambda x, w: ops.conv2d(x, w, None, *window, **options), x, w)
    check(lambda dy, w, x: ops.conv2d_grad_input(dy, w, [4, 3], *window, x.mean((0, 2, 3)), **options), dy, w, x)
    check(lambda dy, x: ops.conv2d_grad_weight(dy, x, [2, 3], *window, **options), dy, x)
    check(lambda x, w: ops.conv2d(x, w, None, [2, 1], "same", [1, 1], 2), x, w)
    check(lambda dy, w: ops.conv_transpose2d(dy, w, None, *window[:2], [0, 0], 2, output_size=[4, 3]), dy, w)
    check(ops.conv2d_grad_bias, dy)
    check(ops.conv2d_grad_bias, random64(3, 2, 2, device=device, grad=True))


POOLINGS = {
    "plain": ((2, 2, 4, 5), {"kernel_size": 2}),
    "overlapping": ((1, 2, 5, 4), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "strided": ((1, 2, 5, 6), {"kernel_size": (2, 3), "stride": (2, 1), "padding": ((1, 0), (0, 1))}),
    "same": ((1, 2, 5, 4), {"kernel_size": 3, "stride": 2, "padding": "same"}),
    "ceil": ((1, 1, 5, 6), {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
    "whole": ((2, 2, 3, 4), {"kernel_size": (3, 4)}),
    "unbatched": ((2, 4, 5), {"kernel_size": 2, "stride": 1}),
}
DILATED = {"dilated": ((1, 2, 5, 5), {"kernel_size": 2, "dilation": 2, "stride": 1, "padding": 1})}
DIVIDED = {
    "no_pad": ((1, 1, 5, 4), {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
    "override": ((1, 1, 5, 4), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "divisor_override": 2}),
}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("device, algorithm", with_auto("max_pool2d"))
def test_max_pool2d(device: str, algorithm: str, layout: str) -> None:
    for input_size, options in (POOLINGS | DILATED).values():
        x = spread(*input_size, device=device, layout=layout)
        function = partial(max_pool2d, **options, algorithm=algorithm)
        check_algorithm(algorithm, function, x)
        check_algorithm(algorithm, lambda x, function=function: function(x, return_indices=True)[0], x)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("device, algorithm", with_auto("avg_pool2d"))
def test_avg_pool2d(device: str, algorithm: str, layout: str) -> None:
    for input_size, options in (POOLINGS | DILATED | DIVIDED).values():
        x = random64(*input_size, device=device, layout=layout, grad=True)
        check_algorithm(algorithm, partial(avg_pool2d, **options, algorithm=algorithm), x)


ADAPTIVE = {
    "dividing": ((2, 2, 4, 6), (2, 3)),
    "overlapping": ((1, 2, 5, 7), (3, 4)),
    "one axis": ((1, 2, 4, 5), (2, 3)),
    "larger": ((1, 1, 2, 3), (3, 5)),
    "whole": ((2, 2, 3, 4), (1, 1)),
    "unbatched": ((2, 5, 4), (3, 2)),
}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("device, algorithm", with_auto("max_pool2d"))
def test_adaptive_max_pool2d(device: str, algorithm: str, layout: str) -> None:
    for input_size, output_size in ADAPTIVE.values():
        x = spread(*input_size, device=device, layout=layout)
        check_algorithm(algorithm, partial(adaptive_max_pool2d, output_size=output_size, algorithm=algorithm), x)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("device, algorithm", with_auto("avg_pool2d"))
def test_adaptive_avg_pool2d(device: str, algorithm: str, layout: str) -> None:
    for input_size, output_size in ADAPTIVE.values():
        x = random64(*input_size, device=device, layout=layout, grad=True)
        check_algorithm(algorithm, partial(adaptive_avg_pool2d, output_size=output_size, algorithm=algorithm), x)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("device, algorithm", with_auto("max_unpool2d"))
def test_max_unpool2d(device: str, algorithm: str, layout: str) -> None:
    for size, kernel, stride in (((2, 2, 4, 6), 2, None), ((1, 3, 6, 5), (3, 2), (3, 2)), ((2, 4, 6), 2, None)):
        y, indices = max_pool2d(
            spread(*size, device=device, layout=layout).detach(), kernel, stride, return_indices=True
        )
        window = {"kernel_size": kernel, "stride": stride, "output_size": size[-2:]}
        function = partial(max_unpool2d, indices=indices, **window, algorithm=algorithm)
        check_algorithm(algorithm, function, y.requires_grad_())


@pytest.mark.parametrize("layout", FORMATS)
def test_lp_and_blur_pool2d(device: str, layout: str) -> None:
    x = spread(1, 2, 5, 6, device=device, layout=layout)
    for norm_type in (1, 2, 3.5, float("inf")):
        check(lambda x, norm_type=norm_type: lp_pool2d(x + 0.5, norm_type, 3, 2), x)
    for size in (2, 3, 5):
        check(partial(blur_pool2d, filter=size), x)
        check(partial(blur_pool2d, filter=size, stride=(1, 2), padding_mode="zeros"), x)


@pytest.mark.parametrize("layout", FORMATS)
def test_pooling_internal_operators(device: str, layout: str) -> None:
    x = spread(1, 2, 5, 4, device=device, layout=layout)
    window = ([3, 2], [2, 1], [1, 0, 1, 1])
    y, offsets = ops.max_pool2d_with_offsets(x, *window)
    assert not offsets.requires_grad
    dy = random64(*y.shape, device=device, layout=layout, grad=True)
    check(lambda x: ops.max_pool2d(x, *window), x)
    check(lambda x: ops.max_pool2d_with_offsets(x, *window)[0], x)
    check(lambda dy: ops.max_pool2d_grad_input(dy, offsets, [5, 4], *window), dy)
    check(lambda x: ops.max_pool2d_gather(x, offsets, *window), x)
    check(lambda x: ops.avg_pool2d(x, *window), x)
    check(lambda dy: ops.avg_pool2d_grad_input(dy, [5, 4], *window), dy)
    check(lambda x: ops.avg_pool2d(x, *window[:2], dilation=[2]), x)
    y, offsets = ops.adaptive_max_pool2d_with_offsets(x, [3, 3])
    indices = ops.adaptive_max_pool2d_indices(offsets, [5, 4])
    dy = random64(*y.shape, device=device, layout=layout, grad=True)
    check(lambda x: ops.adaptive_max_pool2d(x, [3, 3]), x)
    check(lambda x: ops.adaptive_max_pool2d_with_offsets(x, [3, 3])[0], x)
    check(lambda dy: ops.adaptive_max_pool2d_grad_input(dy, offsets, [5, 4]), dy)
    check(lambda x: ops.adaptive_max_pool2d_gather(x, offsets), x)
    check(lambda x: ops.adaptive_avg_pool2d(x, [3, 3]), x)
    check(lambda dy: ops.adaptive_avg_pool2d_grad_input(dy, [5, 4]), dy)
    # Windows overlap, so indices meet: what adds up is linear, what keeps the last is not differentiated there.
    check(lambda dy: ops.max_unpool2d(dy, indices, [5, 4], accumulate=True), dy)
    check(lambda x: ops.max_unpool2d_gather(x, indices), x)
    check(ops.global_avg_pool2d, x)
    check(ops.global_max_pool2d, x)
    check(global_avg_pool2d, x)
    check(global_max_pool2d, x)


def test_gather_is_the_transpose_of_grad_input(device: str) -> None:
    """<gather(x), dy> = <x, grad_input(dy)> for any x and dy."""
    x, window = random64(2, 3, 9, 8, device=device), ([3, 3], [2, 1], [1, 1], [1, 1], True)
    _, offsets = ops.max_pool2d_with_offsets(x, *window)
    for _ in range(3):
        x, dy = random64(2, 3, 9, 8, device=device), random64(*offsets.shape, device=device)
        left = (ops.max_pool2d_gather(x, offsets, *window) * dy).sum()
        right = (x * ops.max_pool2d_grad_input(dy, offsets, [9, 8], *window)).sum()
        torch.testing.assert_close(left, right)


# --- torch.func, each transform against the same transform of torch's function ---


# Function, torch's function, and the shapes of the arguments.
def _places(x: torch.Tensor) -> torch.Tensor:
    """Indices such as a max-pool of 2 x 2 windows of a 5 x 5 image gives."""
    return torch.tensor([[0, 7], [11, 18]], device=x.device).expand(x.shape)


PAIRS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], list[tuple[int, ...]]]] = {
    "conv2d": (
        partial(conv2d, stride=2, padding=1),
        partial(F.conv2d, stride=2, padding=1),
        [(2, 3, 5, 4), (2, 3, 3, 2), (2,)],
    ),
    "conv2d_grouped": (
        partial(conv2d, padding=1, groups=2),
        partial(F.conv2d, padding=1, groups=2),
        [(2, 4, 5, 4), (4, 2, 3, 2), (4,)],
    ),
    "conv2d_depthwise": (partial(conv2d, groups=3), partial(F.conv2d, groups=3), [(2, 3, 5, 4), (3, 1, 3, 2), (3,)]),
    "conv2d_unbatched": (conv2d, F.conv2d, [(3, 5, 4), (2, 3, 3, 2), (2,)]),
    "conv2d_circular": (
        partial(conv2d, stride=2, padding=(1, 2), padding_mode="circular"),
        lambda x, w, b: F.conv2d(F.pad(x, (2, 2, 1, 1), mode="circular"), w, b, 2),
        [(2, 3, 5, 4), (2, 3, 3, 2), (2,)],
    ),
    "conv2d_operator": (
        lambda x, w, b=None: ops.conv2d(x, w, b, [2], [1], [1], 2),
        partial(F.conv2d, stride=2, padding=1, groups=2),
        [(2, 4, 5, 4), (4, 2, 3, 2), (4,)],
    ),
    "conv2d_operator_by_name": (
        lambda x, w, b=None: ops.conv2d(x, w, b, [1], "same"),
        partial(F.conv2d, padding="same"),
        [(2, 3, 5, 4), (2, 3, 3, 3), (2,)],
    ),
    "conv_transpose2d": (
        partial(conv_transpose2d, stride=2, padding=1, output_padding=1, groups=2),
        partial(F.conv_transpose2d, stride=2, padding=1, output_padding=1, groups=2),
        [(2, 4, 3, 4), (4, 2, 3, 2), (4,)],
    ),
    "conv_transpose2d_unbatched": (conv_transpose2d, F.conv_transpose2d, [(3, 3, 4), (3, 2, 3, 2), (2,)]),
    "conv_transpose2d_operator": (
        lambda x, w, b=None: ops.conv_transpose2d(x, w, b, [2], [1], [1]),
        partial(F.conv_transpose2d, stride=2, padding=1, output_padding=1),
        [(2, 3, 3, 4), (3, 2, 3, 2), (2,)],
    ),
    "max_pool2d_operator": (
        lambda x: ops.max_pool2d(x, [3], [2], [1]),
        partial(F.max_pool2d, kernel_size=3, stride=2, padding=1),
        [(2, 3, 5, 4)],
    ),
    "avg_pool2d_operator": (
        lambda x: ops.avg_pool2d(x, [3], [2], [1]),
        partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1),
        [(2, 3, 5, 4)],
    ),
    "global_avg_pool2d_operator": (ops.global_avg_pool2d, lambda x: F.adaptive_avg_pool2d(x, 1), [(2, 3, 5, 4)]),
    "max_pool2d": (
        partial(max_pool2d, kernel_size=3, stride=2, padding=1),
        partial(F.max_pool2d, kernel_size=3, stride=2, padding=1),
        [(2, 3, 5, 4)],
    ),
    "max_pool2d_unbatched": (partial(max_pool2d, kernel_size=2), partial(F.max_pool2d, kernel_size=2), [(3, 5, 4)]),
    "avg_pool2d": (
        partial(avg_pool2d, kernel_size=3, stride=2, padding=1, count_include_pad=False),
        partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1, count_include_pad=False),
        [(2, 3, 5, 4)],
    ),
    "adaptive_max_pool2d": (
        partial(adaptive_max_pool2d, output_size=(3, 2)),
        partial(F.adaptive_max_pool2d, output_size=(3, 2)),
        [(2, 3, 5, 4)],
    ),
    "adaptive_max_pool2d_operator": (
        lambda x: ops.adaptive_max_pool2d(x, [3, 3]),
        partial(F.adaptive_max_pool2d, output_size=3),
        [(2, 3, 5, 4)],
    ),
    "adaptive_avg_pool2d": (
        partial(adaptive_avg_pool2d, output_size=(3, 2)),
        partial(F.adaptive_avg_pool2d, output_size=(3, 2)),
        [(2, 3, 5, 4)],
    ),
    "adaptive_avg_pool2d_unbatched": (
        partial(adaptive_avg_pool2d, output_size=3),
        partial(F.adaptive_avg_pool2d, output_size=3),
        [(3, 5, 4)],
    ),
    "max_unpool2d": (
        lambda x: max_unpool2d(x, _places(x), 2, output_size=(5, 5)),
        lambda x: F.max_unpool2d(x, _places(x), 2, output_size=(5, 5)),
        [(2, 3, 2, 2)],
    ),
    "lp_pool2d": (
        lambda x: lp_pool2d(x.exp(), 3, 2, 1),
        lambda x: F.lp_pool2d(x.exp(), 3, 2, 1),
        [(2, 3, 5, 4)],
    ),
    "blur_pool2d": (
        partial(blur_pool2d, filter=3),
        lambda x: F.conv2d(
            F.pad(x, (1,) * 4, "reflect"), binomial_filter(3).to(x).expand(3, 1, 3, 3), None, 2, groups=3
        ),
        [(2, 3, 5, 4)],
    ),
    "avg_pool2d_unbatched": (partial(avg_pool2d, kernel_size=2), partial(F.avg_pool2d, kernel_size=2), [(3, 5, 4)]),
    "global_avg_pool2d": (global_avg_pool2d, lambda x: F.adaptive_avg_pool2d(x, 1), [(2, 3, 5, 4)]),
    "global_max_pool2d": (global_max_pool2d, lambda x: F.adaptive_max_pool2d(x, 1), [(2, 3, 5, 4)]),
}


def assert_tree_close(actual: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert_close(actual, exact(expected))
        return
    for a, e in zip(actual, expected, strict=True):
        assert_tree_close(a, e)


@pytest.mark.parametrize("name", PAIRS)
def test_torch_func(device: str, name: str) -> None:
    ours, torchs, shapes = PAIRS[name]
    inputs = tuple(random64(*shape, device=device) for shape in shapes)
    argnums = tuple(range(len(inputs)))
    tangents = tuple(random64(*shape, device=device) for shape in shapes)
    dy = random64(*ours(*inputs).shape, device=device)

    def both(transform: Callable[[Callable[..., Any]], Any]) -> None:
        assert_tree_close(transform(ours), transform(torchs))

    both(lambda f: grad(lambda *inputs: f(*inputs).pow(3).sum(), argnums)(*inputs))
    both(lambda f: vjp(f, *inputs)[1](dy))
    both(lambda f: jvp(f, inputs, tangents))
    both(lambda f: jacrev(f, argnums)(*inputs))
    both(lambda f: jacfwd(f, argnums)(*inputs))
    both(lambda f: grad(lambda *i: grad(lambda *i: f(*i).pow(3).sum(), argnums)(*i)[0].pow(2).sum(), argnums)(*inputs))
    both(lambda f: jvp(lambda *i: vjp(f, *i)[1](f(*i).pow(2)), inputs, tangents))


@pytest.mark.parametrize("name", [name for name in PAIRS if "unbatched" in name or name == "conv2d_depthwise"])
def test_hessian(device: str, name: str) -> None:
    ours, torchs, shapes = PAIRS[name]
    inputs = tuple(random64(*shape, device=device) for shape in shapes)
    argnums = tuple(range(len(inputs)))
    results = [hessian(lambda *inputs, f=f: f(*inputs).pow(3).sum(), argnums)(*inputs) for f in (ours, torchs)]
    assert_tree_close(*results)


def mapped(shape: tuple[int, ...], dim: int | None, size: int, device: str) -> torch.Tensor:
    """An argument with a dimension of ``size`` to map over at ``dim``."""
    if dim is None:
        return random64(*shape, device=device)
    shape = list(shape)
    shape.insert(dim if dim >= 0 else len(shape) + 1 + dim, size)
    return random64(*shape, device=device)


IN_DIMS = [
    (0, None, None),
    (1, None, None),
    (-1, None, None),
    (None, 0, None),
    (None, 2, None),
    (None, None, 0),
    (None, None, 1),
    (0, 0, None),
    (2, -1, None),
    (0, None, 0),
    (None, 1, 1),
    (0, 0, 0),
    (3, 1, 1),
]


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("conv")])
def test_vmap_conv2d(device: str, name: str, in_dims: tuple[int | None, ...]) -> None:
    ours, torchs, shapes = PAIRS[name]
    inputs = tuple(mapped(shape, dim, 3, device) for shape, dim in zip(shapes, in_dims, strict=True))
    argnums = (0, 1, 2)

    def transforms(f: Callable[..., torch.Tensor]) -> list[Any]:
        gradient = grad(lambda *inputs: f(*inputs).pow(3).sum(), argnums)
        second = grad(lambda *inputs: sum(g.pow(2).sum() for g in gradient(*inputs)), argnums)
        return [
            vmap(f, in_dims)(*inputs),
            vmap(f, in_dims, out_dims=-1)(*inputs),
            vmap(gradient, in_dims)(*inputs),
            vmap(second, in_dims)(*inputs),
            vmap(lambda *i: jvp(f, i, i)[1], in_dims)(*inputs),
            grad(lambda *inputs: vmap(f, in_dims)(*inputs).pow(2).sum(), argnums)(*inputs),
        ]

    assert_tree_close(transforms(ours), transforms(torchs))
    if in_dims[2] is None and name != "conv2d_circular":
        without_bias = [vmap(lambda x, w, f=f: f(x, w), in_dims[:2])(*inputs[:2]) for f in (ours, torchs)] if any(
            dim is not None for dim in in_dims[:2]
        ) else [torch.zeros(1, dtype=torch.float64)] * 2  # fmt: skip
        assert_tree_close(*without_bias)


@pytest.mark.parametrize("in_dim", [0, 1, -1])
@pytest.mark.parametrize("name", [name for name in PAIRS if "pool" in name])
def test_vmap_pooling(device: str, name: str, in_dim: int) -> None:
    ours, torchs, shapes = PAIRS[name]
    x = mapped(shapes[0], in_dim, 3, device)

    def transforms(f: Callable[..., torch.Tensor]) -> list[Any]:
        gradient = grad(lambda x: f(x).pow(3).sum())
        return [
            vmap(f, in_dim)(x),
            vmap(gradient, in_dim)(x),
            vmap(grad(lambda x: gradient(x).pow(2).sum()), in_dim)(x),
            vmap(lambda x: jvp(f, (x,), (x,))[1], in_dim)(x),
            grad(lambda x: vmap(f, in_dim)(x).pow(2).sum())(x),
        ]

    assert_tree_close(transforms(ours), transforms(torchs))


def test_nested_vmap(device: str) -> None:
    x, w = random64(2, 3, 4, 3, 5, 4, device=device), random64(3, 2, 3, 3, 2, device=device)
    results = [vmap(vmap(f, (0, 0)), (0, None))(x, w) for f in (conv2d, F.conv2d)]
    assert_tree_close(*results)
    results = [vmap(vmap(partial(f, kernel_size=2)))(x) for f in (avg_pool2d, F.avg_pool2d)]
    assert_tree_close(*results)


def test_per_sample_gradients(device: str) -> None:
    """One grouped call gives what a loop over samples gives."""
    model = torch.nn.Sequential(
        torch_convops.nn.Conv2d(2, 4, 3, padding=1),
        torch.nn.Tanh(),
        torch_convops.nn.MaxPool2d(2),
        torch_convops.nn.Conv2d(4, 4, 3, groups=2),
        torch_convops.nn.AvgPool2d(2),
        torch.nn.Flatten(),
    ).to(device, torch.float64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = random64(5, 2, 9, 8, device=device)

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (image.unsqueeze(0),)).pow(2).sum()

    mapped_gradients = vmap(grad(loss), (None, 0))(parameters, images)
    for n, image in enumerate(images):
        model.zero_grad()
        model(image.unsqueeze(0)).pow(2).sum().backward()
        for name, p in model.named_parameters():
            assert_close(mapped_gradients[name][n], exact(p.grad), name)


def test_ensemble_of_models(device: str) -> None:
    """vmap over stacked weights with an image that all share."""
    w, b, x = random64(5, 4, 3, 3, 3, device=device), random64(5, 4, device=device), random64(2, 3, 8, 8, device=device)
    y = vmap(lambda w, b: conv2d(x, w, b, padding=1))(w, b)
    for n in range(5):
        assert_close(y[n], F.conv2d(exact(x), exact(w[n]), exact(b[n]), padding=1))


def test_vmap_randomly_mapped_max_pool2d_indices(device: str) -> None:
    x = random64(3, 2, 4, 6, 5, device=device)
    y, indices = vmap(lambda x: max_pool2d(x, 2, return_indices=True))(x)
    expected, expected_indices = F.max_pool2d(x.flatten(0, 1), 2, return_indices=True)
    assert torch.equal(y.flatten(0, 1), expected)
    assert torch.equal(indices.flatten(0, 1), expected_indices)


def test_no_grad_and_inference_mode(device: str) -> None:
    x, w = random64(1, 2, 5, 5, device=device, grad=True), random64(2, 2, 3, 3, device=device, grad=True)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            for y in (conv2d(x, w), max_pool2d(x, 2), avg_pool2d(x, 2), ops.conv2d(x, w), ops.avg_pool2d(x, [2])):
                assert not y.requires_grad
    with torch.inference_mode():
        y = conv2d(x.clone(), w.clone())
    assert y.is_inference()
    with pytest.raises(RuntimeError, match="Inference tensors"):
        conv2d(y, w)


def test_gradient_checkpointing(device: str) -> None:
    x, w = random64(1, 2, 6, 6, device=device, grad=True), random64(2, 2, 3, 3, device=device, grad=True)

    def block(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return avg_pool2d(max_pool2d(conv2d(x, w, padding="same"), 2, 1), 2)

    plain = torch.autograd.grad(block(x, w).sum(), (x, w))
    y = torch.utils.checkpoint.checkpoint(block, x, w, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(y.sum(), (x, w)), plain, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("function", [conv2d, ops.conv2d], ids=["public", "operator"])
def test_per_sample_gradients_are_one_call(device: str, function: Callable[..., torch.Tensor]) -> None:
    """The operators run once for all samples, however they are called."""
    x, w = random64(6, 1, 2, 8, 8, device=device), random64(3, 2, 3, 3, device=device)
    with torch.profiler.profile() as profile:
        vmap(grad(lambda w, x: function(x, w).pow(2).sum()), (None, 0))(w, x)
    calls = [event.name for event in profile.events() if event.name.startswith("torch_convops::")]
    assert calls.count("torch_convops::conv2d_grad_weight") <= 4  # the dispatcher enters a call once for each layer
    assert len(calls) < 12


def test_nested_levels_and_forward_mode(device: str) -> None:
    """Forward over reverse over forward, with and without functorch."""
    x, w, tangent = (random64(*size, device=device) for size in ((1, 2, 4, 4), (2, 2, 3, 3), (2, 2, 3, 3)))
    results = []
    for convolution in (conv2d, F.conv2d, ops.conv2d):

        def cubed(w: torch.Tensor, convolution: Callable[..., torch.Tensor] = convolution) -> torch.Tensor:
            return convolution(x, w).pow(4).sum()

        def directional(w: torch.Tensor, cubed: Callable[..., torch.Tensor] = cubed) -> torch.Tensor:
            return jvp(grad(cubed), (w,), (w,))[1].sum()

        results.append([jvp(lambda w, f=directional: grad(f)(w), (w,), (w,)), hessian(cubed)(w)])
    assert_tree_close(results[0], results[1])
    assert_tree_close(results[2], results[1])

    def network(convolution: Any, maximum: Any, average: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def apply(w: torch.Tensor) -> torch.Tensor:
            hidden = maximum(convolution(images, w, padding=1).pow(3), 2, 1)
            return average(convolution(hidden, w).pow(2), 2, 1).pow(2)

        return apply

    # Each level's tangent depends on the levels around it: torch drops those in a Function's jvp.
    images, nested = random64(1, 2, 6, 6, device=device), []
    for functions in ((conv2d, max_pool2d, avg_pool2d), (F.conv2d, F.max_pool2d, F.avg_pool2d)):
        f = network(*functions)
        for _ in range(3):
            f = partial(lambda f, w: jvp(f, (w,), (tangent,))[1], f)
            nested.append(f(w))
    tangent_count = len(nested) // 2
    assert_tree_close(nested[:tangent_count], nested[tangent_count:])
    for convolution in (conv2d, ops.conv2d):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(w, torch.ones_like(w))
            tangent = torch.autograd.forward_ad.unpack_dual(convolution(x, dual)).tangent
        assert_close(tangent, F.conv2d(exact(x), torch.ones_like(exact(w))))


def test_complex_derivatives(device: str) -> None:
    x, w = (
        torch.randn(size, dtype=torch.complex128, device=device, requires_grad=True)
        for size in ((1, 2, 3, 4), (2, 1, 2, 2))
    )
    for function in (
        lambda x, w: conv2d(x, w, None, 1, 1, 1, 2, "circular"),
        lambda x, w: conv_transpose2d(x, w, stride=2, groups=2),
    ):
        assert gradcheck(function, (x, w), fast_mode=True, check_forward_ad=True)
        assert gradgradcheck(function, (x, w), fast_mode=True)


def test_convolve2d_under_func(device: str) -> None:
    x, k = random64(3, 5, 6, device=device), random64(2, 3, device=device)
    for function in (convolve2d, correlate2d):

        def loss(k: torch.Tensor, x: torch.Tensor, function: Callable[..., torch.Tensor] = function) -> torch.Tensor:
            return function(x, k, "same", "symm").pow(2).sum()

        gradient = vmap(grad(loss), (None, 0))(k, x)
        for n in range(3):
            leaf = k.clone().requires_grad_()
            function(x[n], leaf, "same", "symm").pow(2).sum().backward()
            assert_close(gradient[n], exact(leaf.grad))


def test_anomaly_mode_names_the_call(device: str) -> None:
    x, w = random64(1, 2, 5, 5, device=device, grad=True), random64(2, 2, 3, 3, device=device, grad=True)
    with torch.autograd.set_detect_anomaly(True):
        conv2d(x, w, padding=1, padding_mode="reflect").sum().backward()
        with pytest.raises(RuntimeError, match="returned nan values"), pytest.warns(UserWarning, match="Contraction"):
            conv2d(x, w * torch.inf).sum().backward()


def test_saved_tensor_hooks(device: str) -> None:
    """Offloading what is saved changes nothing."""
    x, w = random64(1, 2, 5, 5, device=device, grad=True), random64(2, 2, 3, 3, device=device, grad=True)
    plain = torch.autograd.grad(conv2d(x, w, padding=1, padding_mode="circular").pow(2).sum(), (x, w))
    with torch.autograd.graph.save_on_cpu():
        y = conv2d(x, w, padding=1, padding_mode="circular").pow(2).sum()
    for a, b in zip(torch.autograd.grad(y, (x, w)), plain, strict=True):
        assert torch.equal(a, b)


def test_mutated_saved_tensor_is_detected(device: str) -> None:
    x, w = random64(1, 2, 6, 6, device=device, grad=True), random64(2, 2, 3, 3, device=device, grad=True)
    y = conv2d(x, w)
    with torch.no_grad():
        w += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_graph_can_be_kept_and_is_freed(device: str) -> None:
    x = random64(1, 2, 6, 6, device=device, grad=True)
    y = max_pool2d(x, 2).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert (x.grad == 2).sum() == 18
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()
