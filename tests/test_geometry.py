"""Sizes and argument checks: operators, fake kernels and formulas agree for any argument, good or hostile."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import random
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torch_convops
from torch_convops import avg_pool2d, conv2d, global_avg_pool2d, global_max_pool2d, max_pool2d, reference

ops = torch.ops.torch_convops
# Derandomised, so that a run says the same thing twice; without a deadline, for machines under load.
hypothesis = settings(
    max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

# --- sizes of good arguments ---

small = st.integers(1, 9)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
sides = st.tuples(*[st.integers(0, 5)] * 4)


def to_meta(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def expected_size(n: int, k: int, s: int, d: int, lower: int, upper: int, ceil_mode: bool = False) -> int:
    """The formula of the documentation."""
    room = n + lower + upper - d * (k - 1) - 1
    size = room // s + 1
    return size + (ceil_mode and room % s > 0 and size * s < n + lower)


@hypothesis
@given(st.tuples(small, small), pairs, pairs, sides, pairs, st.booleans())
def test_axis_formula_is_the_reference(
    image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, ...],
    dilation: tuple[int, int], ceil_mode: bool,
) -> None:  # fmt: skip
    for axis in (0, 1):
        lower, upper = pads[2 * axis : 2 * axis + 2]
        if dilation[axis] * (kernel[axis] - 1) < image[axis] + lower + upper:
            arguments = (image[axis], kernel[axis], stride[axis], dilation[axis], lower, upper, ceil_mode)
            assert reference.output_size(*arguments) == expected_size(*arguments)


@hypothesis
@given(
    st.integers(0, 2), st.tuples(small, small), pairs, pairs, sides, pairs, st.sampled_from([1, 2, 4]), st.booleans()
)
def test_conv2d_sizes(
    N: int, image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, ...],
    dilation: tuple[int, int], groups: int, unbatched: bool,
) -> None:  # fmt: skip
    x, w = torch.zeros(N, 4, *image), torch.zeros(8, 4 // groups, *kernel)
    x = torch.zeros(4, *image) if unbatched else x
    arguments = (None, stride, pads, dilation, groups)
    fits = [d * (k - 1) < n + sum(pads[i : i + 2]) for i, n, k, d in zip((0, 2), image, kernel, dilation, strict=True)]
    if not all(fits):
        for device_x, device_w in ((x, w), (to_meta(x), to_meta(w))):
            with pytest.raises(RuntimeError, match="which is larger than the padded input's"):
                ops.conv2d(device_x, device_w, *arguments)
        return
    y = ops.conv2d(x, w, *arguments)
    axes = zip(image, kernel, stride, dilation, (0, 2), strict=True)
    expected = [expected_size(n, k, s, d, *pads[i : i + 2]) for n, k, s, d, i in axes]
    assert list(y.shape[-2:]) == expected
    assert ops.conv2d(to_meta(x), to_meta(w), *arguments).shape == y.shape
    window = arguments[1:]
    for a, b in ((y, w), (to_meta(y), to_meta(w))):
        assert ops.conv2d_grad_input(a, b, image, *window).shape == x.shape
    for a, b in ((y, x), (to_meta(y), to_meta(x))):
        assert ops.conv2d_grad_weight(a, b, kernel, *window).shape == w.shape


@hypothesis
@given(st.integers(0, 2), st.tuples(small, small), pairs, pairs, sides, pairs, st.booleans())
def test_pool_sizes(
    N: int, image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, ...],
    dilation: tuple[int, int], ceil_mode: bool,
) -> None:  # fmt: skip
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = tuple(min(pad, extents[i // 2] // 2) for i, pad in enumerate(pads))
    if any(e > n + sum(pads[i : i + 2]) for e, n, i in zip(extents, image, (0, 2), strict=True)):
        return
    x = torch.zeros(N, 3, *image)
    axes = list(zip(image, kernel, stride, dilation, (0, 2), strict=True))
    expected = (N, 3, *(expected_size(n, k, s, d, *pads[i : i + 2], ceil_mode) for n, k, s, d, i in axes))
    window = (kernel, stride, pads, dilation, ceil_mode)
    y, offsets = ops.max_pool2d_with_offsets(x, *window)
    meta_y, meta_offsets = ops.max_pool2d_with_offsets(to_meta(x), *window)
    assert (
        y.shape == offsets.shape == meta_y.shape == meta_offsets.shape == ops.max_pool2d(x, *window).shape == expected
    )
    for a, b in ((y, offsets), (meta_y, meta_offsets)):
        assert ops.max_pool2d_grad_input(a, b, image, *window).shape == x.shape
        assert ops.max_pool2d_indices(b, image, *window).shape == expected
    if dilation == (1, 1):
        y = ops.avg_pool2d(x, kernel, stride, pads, ceil_mode)
        assert y.shape == ops.avg_pool2d(to_meta(x), kernel, stride, pads, ceil_mode).shape == expected
        for a in (y, to_meta(y)):
            assert ops.avg_pool2d_grad_input(a, image, kernel, stride, pads, ceil_mode).shape == x.shape
    if pads[0] == pads[1] <= kernel[0] // 2 and pads[2] == pads[3] <= kernel[1] // 2 and N:
        assert F.max_pool2d(x, kernel, stride, (pads[0], pads[2]), dilation, ceil_mode).shape == expected


@hypothesis
@given(st.tuples(small, small), pairs, pairs, pairs, st.sampled_from(["same", "same_lower", "full", "valid"]))
def test_mode_sizes(
    image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], mode: str
) -> None:
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if mode == "valid" and any(e > n for e, n in zip(extents, image, strict=True)):
        return
    axes = list(zip(image, extents, stride, strict=True))
    expected = {
        "valid": [(n - e) // s + 1 for n, e, s in axes],
        "full": [(n + e - 2) // s + 1 for n, e, s in axes],
    }.get(mode, [math.ceil(n / s) for n, _, s in axes])
    for device in ("cpu", "meta"):
        x, w = torch.zeros(1, 1, *image, device=device), torch.zeros(1, 1, *kernel, device=device)
        assert list(conv2d(x, w, None, stride, mode, dilation).shape[-2:]) == expected


# --- hostile arguments: the operators ---

X, W, B = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 2), torch.randn(6)
CONV = ([2, 1], [1, 0, 2, 1], [1, 2], 2)
POOL = ([3, 2], [2, 1], [1, 1, 0, 1], [1, 2], True)
AVG = ([3, 2], [2, 1], [1, 1, 0, 1], True, False, None)
Y = ops.conv2d(X, W, B, *CONV)
MAXIMA, OFFSETS = ops.max_pool2d_with_offsets(X, *POOL)
MEANS = ops.avg_pool2d(X, *AVG)

CALLS: dict[str, tuple[Any, ...]] = {
    "conv2d": (X, W, B, *CONV),
    "conv2d_grad_input": (Y, W, [6, 5], *CONV),
    "conv2d_grad_weight": (Y, X, [3, 2], *CONV),
    "conv2d_grad_bias": (Y,),
    "max_pool2d": (X, *POOL),
    "max_pool2d_with_offsets": (X, *POOL),
    "max_pool2d_grad_input": (MAXIMA, OFFSETS, [6, 5], *POOL),
    "max_pool2d_gather": (X, OFFSETS, *POOL),
    "max_pool2d_indices": (OFFSETS, [6, 5], *POOL),
    "avg_pool2d": (X, *AVG),
    "avg_pool2d_grad_input": (MEANS, [6, 5], *AVG),
    "global_max_pool2d": (X,),
    "global_avg_pool2d": (X,),
}
# Results beyond this are computed on the meta device only.
LARGEST = 100_000

hostile_int = st.one_of(
    st.integers(-2, 8), st.sampled_from([2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63)])
)
hostile_list = st.lists(hostile_int, max_size=5)
hostile_tensor = st.builds(
    lambda size, dtype, last: torch.ones(size).to(dtype).contiguous(
        memory_format=torch.channels_last if last and len(size) == 4 else torch.contiguous_format
    ),
    st.lists(st.integers(0, 7), max_size=5),
    st.sampled_from([torch.float32] * 4 + [torch.float64, torch.uint8, torch.int32, torch.bool, torch.complex64]),
    st.booleans(),
)  # fmt: skip


def hostile_like(value: Any) -> st.SearchStrategy[Any]:
    """Mutations that pass the dispatcher's schema, so that the operator's own checks meet them."""
    if isinstance(value, torch.Tensor):
        return hostile_tensor
    if isinstance(value, list):
        # One changed entry gets past more checks than a list that is all wrong.
        changed = st.builds(
            lambda i, entry: [*value[:i], entry, *value[i + 1 :]], st.integers(0, len(value) - 1), hostile_int
        )
        return st.one_of(changed, changed, hostile_list)
    if isinstance(value, bool):
        return st.booleans()
    return hostile_int


@st.composite
def hostile_calls(draw: st.DrawFn) -> tuple[str, set[int], tuple[Any, ...]]:
    """An operator, the positions of its changed arguments, and all arguments."""
    name = draw(st.sampled_from(sorted(CALLS)))
    arguments = list(CALLS[name])
    positions = draw(st.sets(st.integers(0, len(arguments) - 1), min_size=1, max_size=3))
    for position in positions:
        arguments[position] = draw(hostile_like(arguments[position]))
    return name, positions, tuple(arguments)


def outcome(call: Any, arguments: tuple[Any, ...], **options: Any) -> Any:
    """Sizes and strides of the results, or the error's type and message."""
    try:
        results = call(*arguments, **options)
    except Exception as error:
        return type(error), str(error).splitlines()[0]
    results = results if isinstance(results, tuple) else (results,)
    return [(tuple(t.shape), t.stride(), t.dtype) for t in results]


def is_large(sizes: Any) -> bool:
    return isinstance(sizes, list) and any(math.prod(size) > LARGEST for size, _, _ in sizes)


@settings(hypothesis, max_examples=3000)
@given(hostile_calls())
def test_operators_and_fakes_agree_on_hostile_arguments(call: tuple[str, set[int], tuple[Any, ...]]) -> None:
    name, positions, arguments = call
    operator = getattr(ops, name)
    fake = outcome(operator, tuple(map(to_meta, arguments)))
    real = fake if is_large(fake) else outcome(operator, arguments)
    if isinstance(fake, list) or len(positions) == 1:
        assert real == fake
    # Of several bad arguments each may name another.
    for error in (real, fake):
        if isinstance(error, tuple):
            assert error[0] is RuntimeError, error
            # max_pool2d_with_offsets is max_pool2d to its users, and so is each global pooling its pooling.
            # A global pooling checks the rank itself and leaves the rest to the pooling it is made of.
            family = name.removesuffix("_with_offsets")
            assert error[1].startswith((f"{family}: ", f"{family.removeprefix('global_')}: "))


def changed(name: str, position: int, value: Any) -> tuple[Any, ...]:
    arguments = list(CALLS[name])
    arguments[position] = value
    return tuple(arguments)


# What each check says: operator, position of the bad argument, its value, and the message.
OPERATOR_ERRORS: list[tuple[str, int, Any, str]] = [
    ("conv2d", 0, X[0, 0], "input must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("conv2d", 0, X.int(), "input must be float32, float64, bfloat16 or float16, got int32"),
    ("conv2d", 0, X.bool(), "input must be float32, float64, bfloat16 or float16, got bool"),
    ("conv2d", 0, X.cfloat(), "input must be float32, float64, bfloat16 or float16, got complex64"),
    ("conv2d", 0, X[:, :, :0], "input height must be positive, got 0"),
    ("conv2d", 0, X[:, :, :, :0], "input width must be positive, got 0"),
    ("conv2d", 0, X[:, :3], "input channels must equal weight channels * groups, got input of size (2, 3, 6, 5), "
     "weight of size (6, 2, 3, 2) and groups 2"),
    ("conv2d", 1, W[0], "weight must be 4-D, got 3-D"),
    ("conv2d", 1, W.double(), "weight must have the dtype of input (float32), got float64"),
    ("conv2d", 1, W[:0], "weight must have at least one filter, got weight of size (0, 2, 3, 2)"),
    ("conv2d", 1, W[:5], "groups must divide the number of filters, got 5 filters and groups 2"),
    ("conv2d", 1, W[:, :, :0], "kernel height must be positive, got 0"),
    ("conv2d", 2, B[:5], "bias must be 1-D with one value per filter (6), got (5)"),
    ("conv2d", 2, B[None], "bias must be 1-D with one value per filter (6), got (1, 6)"),
    ("conv2d", 2, B.half(), "bias must have the dtype of input (float32), got float16"),
    ("conv2d", 3, [0, 1], "stride must be positive, got 0 for the height"),
    ("conv2d", 3, [1, -2], "stride must be positive, got -2 for the width"),
    ("conv2d", 3, [1, 1, 1], "stride must have 1 or 2 values, got (1, 1, 1)"),
    ("conv2d", 3, [], "stride must have 1 or 2 values, got ()"),
    ("conv2d", 4, [-1], "padding must not be negative, got (-1, -1) for the height"),
    ("conv2d", 4, [0, 0, 0], "padding must have 1, 2 or 4 values, got (0, 0, 0)"),
    ("conv2d", 4, [2**62, 2**62, 0, 0], "input + padding overflows a 64-bit integer"),
    ("conv2d", 4, [2**63 - 1], "input + padding overflows a 64-bit integer"),
    ("conv2d", 4, [2**40], "output of size (2, 6, 1099511627778, 2199023255555) is too large to allocate"),
    ("conv2d", 5, [0], "dilation must be positive, got 0 for the height"),
    ("conv2d", 5, [2**62], "dilation * (kernel - 1) overflows a 64-bit integer"),
    ("conv2d", 5, [9], "kernel height 3 with dilation 9 spans 19 pixels, which is larger than the padded input's 7"),
    ("conv2d", 6, 0, "groups must be positive, got 0"),
    ("conv2d", 6, -2, "groups must be positive, got -2"),
    ("conv2d_grad_input", 0, Y[:, :, :1], "grad_output must be of size (2, 6, 3, 6), got (2, 6, 1, 6)"),
    ("conv2d_grad_input", 0, Y[0, 0], "grad_output must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("conv2d_grad_input", 0, Y.double(), "weight must have the dtype of grad_output (float64), got float32"),
    ("conv2d_grad_input", 0, Y.int(), "grad_output must be float32, float64, bfloat16 or float16, got int32"),
    ("conv2d_grad_input", 1, W[0], "weight must be 4-D, got 3-D"),
    ("conv2d_grad_input", 2, [6, 5, 4], "input_size must have 1 or 2 values, got (6, 5, 4)"),
    ("conv2d_grad_input", 2, [6, -5], "input width must be positive, got -5"),
    ("conv2d_grad_input", 6, 2**62, "weight channels * groups overflows a 64-bit integer"),
    ("conv2d_grad_weight", 0, Y.double(), "grad_output must have the dtype of input (float32), got float64"),
    ("conv2d_grad_weight", 0, Y[..., :1], "grad_output must be of size (2, 6, 3, 6), got (2, 6, 3, 1)"),
    ("conv2d_grad_weight", 1, X[:1], "grad_output must be of size (1, 6, 3, 6), got (2, 6, 3, 6)"),
    ("conv2d_grad_weight", 2, [0, 2], "kernel height must be positive, got 0"),
    ("conv2d_grad_weight", 6, 0, "groups must be positive, got 0"),
    ("conv2d_grad_bias", 0, Y[0, 0], "grad_output must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("conv2d_grad_bias", 0, Y.long(), "grad_output must be float32, float64, bfloat16 or float16, got int64"),
    ("max_pool2d", 0, X[0, 0], "input must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("max_pool2d", 0, X.bool(), "input must be float32, float64, bfloat16, float16 or an integer of 8 to 64 "
     "bits, got bool"),
    ("max_pool2d", 0, X[:, :0], "input must have at least one channel, got input of size (2, 0, 6, 5)"),
    ("max_pool2d", 1, [0], "kernel height must be positive, got 0"),
    ("max_pool2d", 1, [], "kernel_size must have 1 or 2 values, got ()"),
    ("max_pool2d", 2, [2, 0], "stride must be positive, got 0 for the width"),
    ("max_pool2d", 3, [2, 1], "padding must be at most half of the window's extent, got padding (2, 2) for an "
     "extent of 3"),
    ("max_pool2d", 4, [2**63 - 1], "dilation * (kernel - 1) overflows a 64-bit integer"),
    ("max_pool2d_grad_input", 0, MAXIMA[..., :1], "grad_output must be of size (2, 4, 4, 4), got (2, 4, 4, 1)"),
    ("max_pool2d_grad_input", 0, MAXIMA.int(), "grad_output must be float32, float64, bfloat16 or float16, got int32"),
    ("max_pool2d_grad_input", 1, OFFSETS.int(), "offsets must be uint8 for a window of 6 taps, got int32"),
    ("max_pool2d_grad_input", 1, OFFSETS[:1], "offsets must be of size (2, 4, 4, 4), got (1, 4, 4, 4)"),
    ("max_pool2d_grad_input", 1, OFFSETS[0, 0], "offsets must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("max_pool2d_grad_input", 2, [6], "grad_output must be of size (2, 4, 4, 5), got (2, 4, 4, 4)"),
    ("max_pool2d_gather", 0, X.int(), "input must be float32, float64, bfloat16 or float16, got int32"),
    ("max_pool2d_gather", 1, OFFSETS.float(), "offsets must be uint8 for a window of 6 taps, got float32"),
    ("max_pool2d_gather", 1, OFFSETS[..., :2], "offsets must be of size (2, 4, 4, 4), got (2, 4, 4, 2)"),
    ("max_pool2d_indices", 0, OFFSETS.short(), "offsets must be uint8 for a window of 6 taps, got int16"),
    ("max_pool2d_indices", 0, OFFSETS[0, 0], "offsets must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("max_pool2d_indices", 1, [-6, 5], "input height must be positive, got -6"),
    ("avg_pool2d", 0, X.int(), "input must be float32, float64, bfloat16 or float16, got int32"),
    ("avg_pool2d", 1, [9, 2], "kernel height 9 with dilation 1 spans 9 pixels, which is larger than the padded "
     "input's 8"),
    ("avg_pool2d", 3, [0, 2], "padding must be at most half of the window's extent, got padding (2, 2) for an "
     "extent of 2"),
    ("avg_pool2d", 6, 0, "divisor_override must not be zero"),
    ("avg_pool2d_grad_input", 0, MEANS[..., :1], "grad_output must be of size (2, 4, 4, 5), got (2, 4, 4, 1)"),
    ("avg_pool2d_grad_input", 0, MEANS[0, 0], "grad_output must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("avg_pool2d_grad_input", 1, [2**63 - 1, 5], "input + padding overflows a 64-bit integer"),
    ("avg_pool2d_grad_input", 7, 0, "divisor_override must not be zero"),
]  # fmt: skip


@pytest.mark.parametrize(
    "name, position, value, message", OPERATOR_ERRORS, ids=[f"{name}-{p}-{m[:40]}" for name, p, _, m in OPERATOR_ERRORS]
)
def test_operator_errors(name: str, position: int, value: Any, message: str) -> None:
    arguments = changed(name, position, value)
    real = outcome(getattr(ops, name), arguments)
    assert real == outcome(getattr(ops, name), tuple(map(to_meta, arguments)))
    assert real == (RuntimeError, f"{name}: {message}")


@pytest.mark.parametrize(
    "value",
    [None, "3", 1.5, [1.5], X, 1j, [None], [[1]], 2**64, [2**64]],
    ids=lambda v: "tensor" if isinstance(v, torch.Tensor) else str(v),
)
@pytest.mark.parametrize("name", sorted(CALLS))
def test_operators_refuse_wrong_types(name: str, value: Any) -> None:
    """The dispatcher's schema refuses these; nothing reaches a kernel."""
    for position, good in enumerate(CALLS[name]):
        tensor_for_tensor = isinstance(value, torch.Tensor) and isinstance(good, torch.Tensor)
        # None is a bias or a divisor, and a bool or a number where the schema takes either.
        allowed = value is None and (name, position) in (("conv2d", 2), ("avg_pool2d", 6), ("avg_pool2d_grad_input", 7))
        if tensor_for_tensor or allowed or isinstance(good, bool):
            continue
        with pytest.raises((RuntimeError, TypeError, ValueError, OverflowError)):
            getattr(ops, name)(*changed(name, position, value))


# --- hostile arguments: the public functions ---

PUBLIC: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "conv2d": (conv2d, (X, W, B, (2, 1), ((1, 0), (2, 1)), (1, 2), 2)),
    "max_pool2d": (max_pool2d, (X, (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), True, False)),
    "avg_pool2d": (avg_pool2d, (X, (3, 2), (2, 1), ((1, 1), (0, 1)), True, False, 3)),
    "global_avg_pool2d": (global_avg_pool2d, (X,)),
    "global_max_pool2d": (global_max_pool2d, (X,)),
}
hostile_object = st.recursive(
    st.one_of(
        hostile_int,
        st.sampled_from(
            [None, True, 1.0, float("nan"), "", "same", "SAME", "full", b"1", 2**64, -(2**70), object(), 1j]
        ),
        hostile_tensor,
    ),
    lambda children: st.one_of(st.lists(children, max_size=3), st.tuples(children, children)),
    max_leaves=4,
)


@settings(hypothesis, max_examples=2000)
@given(st.data())
def test_public_functions_raise_only_value_and_type_errors(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(PUBLIC)))
    function, good = PUBLIC[name]
    arguments = list(good)
    for position in data.draw(st.sets(st.integers(0, len(arguments) - 1), min_size=1, max_size=3)):
        arguments[position] = data.draw(hostile_object)
    # Only images and filters move to the meta device; a tensor in the place of a size keeps its value.
    pairs = zip(arguments, good, strict=True)
    fake = outcome(function, tuple(to_meta(a) if isinstance(g, torch.Tensor) else a for a, g in pairs))
    if is_large(fake):
        return
    real = outcome(function, tuple(arguments))
    assert isinstance(real, list) or (real[0] in (ValueError, TypeError) and real[1])
    assert isinstance(real, list) == isinstance(fake, list)


PUBLIC_ERRORS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("conv2d", {"stride": "2"}, TypeError, "stride must be an int or a pair of ints, got '2'"),
    ("conv2d", {"stride": 1.0}, TypeError, "stride must be an int or a pair of ints, got 1.0"),
    ("conv2d", {"stride": True}, TypeError, "stride must be an int or a pair of ints, got True"),
    ("conv2d", {"stride": None}, TypeError, "stride must be an int or a pair of ints, got None"),
    ("conv2d", {"stride": (1, 2, 3)}, ValueError, "stride must have 1 or 2 values, got (1, 2, 3)"),
    ("conv2d", {"stride": (1, None)}, TypeError, "stride must be an int or a pair of ints, got None"),
    ("conv2d", {"stride": 0}, ValueError, "stride must be positive, got 0"),
    ("conv2d", {"stride": 0, "padding": "same"}, ValueError, "stride must be positive, got (0, 0)"),
    ("conv2d", {"dilation": "1"}, TypeError, "dilation must be an int or a pair of ints, got '1'"),
    ("conv2d", {"dilation": -1}, ValueError, "dilation must be positive, got -1 for the height"),
    ("conv2d", {"padding": "SAME"}, ValueError, "padding must be an int, a pair, four sides or one of 'valid', 'same', "
     "'same_lower', 'full'; got 'SAME'"),
    ("conv2d", {"padding": -1}, ValueError, "padding must not be negative, got (-1, -1) for the height"),
    ("conv2d", {"padding": 0.5}, TypeError, "padding must be an int or a pair of ints, got 0.5"),
    ("conv2d", {"padding": (1, 2, 3)}, ValueError, "padding must have 1 or 2 values, got (1, 2, 3)"),
    ("conv2d", {"padding": ((1, 2), (3, "4"))}, TypeError, "padding must be an int or a pair of ints, got '4'"),
    ("conv2d", {"groups": 3}, ValueError, "input channels must equal weight channels * groups"),
    ("conv2d", {"groups": 0}, ValueError, "groups must be positive, got 0"),
    ("conv2d", {"groups": "1"}, TypeError, "groups"),
    ("conv2d", {"bias": torch.zeros(5)}, ValueError, "bias must be 1-D with one value per filter (6), got (5)"),
    ("conv2d", {"bias": torch.zeros(6).double()}, TypeError, "bias must have the dtype of input (float32), got "
     "float64"),
    ("conv2d", {"weight": W.half()}, TypeError, "weight must have the dtype of input (float32), got float16"),
    ("conv2d", {"input": X.int()}, TypeError, "input must be float32, float64, bfloat16 or float16, got int32"),
    ("conv2d", {"input": X[0, 0]}, ValueError, "input must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("conv2d", {"input": X[0, 0, 0, 0]}, ValueError, "input must be 4-D (batched) or 3-D (unbatched), got 0-D"),
    ("conv2d", {"weight": W[0, 0, 0, 0]}, ValueError, "weight must be 4-D, got 0-D"),
    ("conv2d", {"input": X[0, 0, 0, 0], "padding": "same"}, ValueError, "input must be 4-D"),
    ("conv2d", {"weight": W[0, 0, 0, 0], "padding": "full"}, ValueError, "weight must be 4-D"),
    ("conv2d", {"input": None}, TypeError, "input"),
    ("conv2d", {"input": [[1.0]]}, TypeError, "input"),
    ("conv2d", {"weight": "kernel"}, TypeError, "weight"),
    ("conv2d", {"bias": 1.0}, TypeError, "bias"),
    ("conv2d", {"algorithm": "fastest"}, ValueError, "algorithm must be one of 'auto'"),
    ("conv2d", {"algorithm": None}, TypeError, "algorithm"),
    ("max_pool2d", {"kernel_size": None}, TypeError, "kernel_size must be an int or a pair of ints, got None"),
    ("max_pool2d", {"kernel_size": 0}, ValueError, "kernel height must be positive, got 0"),
    ("max_pool2d", {"kernel_size": (2, 2, 2)}, ValueError, "kernel_size must have 1 or 2 values, got (2, 2, 2)"),
    ("max_pool2d", {"stride": 0}, ValueError, "stride must be positive, got 0 for the height"),
    ("max_pool2d", {"stride": 1.5}, TypeError, "stride must be an int or a pair of ints, got 1.5"),
    ("max_pool2d", {"padding": 2}, ValueError, "padding must be at most half of the window's extent, got "
     "padding (2, 2) "
     "for an extent of 2"),
    ("max_pool2d", {"kernel_size": 3, "padding": "full"}, ValueError, "padding must be at most half of the "
     "window's extent"),
    ("max_pool2d", {"input": X.bool()}, TypeError, "input must be float32, float64, bfloat16, float16 or an integer"),
    ("max_pool2d", {"input": None}, TypeError, "input"),
    ("max_pool2d", {"ceil_mode": "yes"}, TypeError, "ceil_mode"),
    ("avg_pool2d", {"divisor_override": 0}, ValueError, "divisor_override must not be zero"),
    ("avg_pool2d", {"divisor_override": 1.5}, TypeError, "divisor_override"),
    ("avg_pool2d", {"kernel_size": 9}, ValueError, "which is larger than the padded input's"),
    ("avg_pool2d", {"input": X.long()}, TypeError, "input must be float32, float64, bfloat16 or float16, got int64"),
    ("avg_pool2d", {"stride": "2"}, TypeError, "stride must be an int or a pair of ints, got '2'"),
    ("avg_pool2d", {"input": 3}, TypeError, "input"),
    ("global_avg_pool2d", {"input": X[0, 0]}, ValueError, "input must be 4-D (batched) or 3-D (unbatched), got 2-D"),
    ("global_avg_pool2d", {"input": X.int()}, TypeError, "input must be float32, float64, bfloat16 or float16, "
     "got int32"),
    ("global_max_pool2d", {"input": X[:, :, :0]}, ValueError, "input height must be positive, got 0"),
    ("global_max_pool2d", {"input": None}, TypeError, "input"),
]  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "conv2d": {"input": X, "weight": W, "bias": B, "groups": 2},
    "max_pool2d": {"input": X, "kernel_size": 2},
    "avg_pool2d": {"input": X, "kernel_size": 2},
    "global_avg_pool2d": {},
    "global_max_pool2d": {},
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    "name, bad, kind, message", PUBLIC_ERRORS, ids=[f"{n}-{m[:45]}" for n, _, _, m in PUBLIC_ERRORS]
)
def test_public_errors(
    name: str, bad: dict[str, Any], kind: type[Exception], message: str, requires_grad: bool
) -> None:
    arguments = DEFAULTS[name] | bad
    if requires_grad and isinstance(arguments["input"], torch.Tensor) and arguments["input"].is_floating_point():
        arguments["input"] = arguments["input"].clone().requires_grad_()
    with pytest.raises((ValueError, TypeError)) as caught:
        PUBLIC[name][0](**arguments)
    assert caught.type is kind
    assert message in str(caught.value)


def test_forcing_an_algorithm_that_cannot(device: str) -> None:
    x, w = random(1, 4, 6, 6, device=device), random(4, 4, 3, 3, device=device)
    with pytest.raises(ValueError, match=r"^conv2d: algorithm 'depthwise' does not support this problem$"):
        conv2d(x, w, algorithm="depthwise")


def test_integers_of_any_kind_are_sizes(device: str) -> None:
    """What has an __index__ is an int, such as a NumPy integer or a 0-D tensor of integers."""
    numpy = pytest.importorskip("numpy")
    x, w = random(1, 2, 8, 8, device=device), random(2, 2, 3, 3, device=device)
    expected = conv2d(x, w, stride=2, padding=1)
    for two, one in ((numpy.int64(2), numpy.int32(1)), (torch.tensor(2), torch.tensor(1))):
        assert torch.equal(conv2d(x, w, stride=two, padding=one), expected)
        assert torch.equal(conv2d(x, w, stride=(two, two), padding=[one, one]), expected)
    assert torch.equal(max_pool2d(x, torch.Size([2, 2])), max_pool2d(x, 2))


FAR_LARGER = """
import resource, torch, torch_convops
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
half = 2**30 - 1
for memory_format in (torch.contiguous_format, torch.channels_last):
    x = torch.randn(1, 2, 5, 4).contiguous(memory_format=memory_format)
    for kernel, padding in (((2 * half + 1, 1), (half, 0)), ((1, 2 * half + 1), (0, half))):
        rows = kernel[0] > 1
        y = torch_convops.max_pool2d(x, kernel, 1, padding)
        assert torch.equal(y, x.amax(2 if rows else 3, keepdim=True).expand_as(x))
        y = torch_convops.avg_pool2d(x, kernel, 1, padding, divisor_override=1)
        torch.testing.assert_close(y, x.sum(2 if rows else 3, keepdim=True).expand_as(x))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process's memory as Linux does")
def test_memory_does_not_grow_with_a_window_beyond_the_image() -> None:
    """A window of 2**31 - 1 taps around an image of 20 pixels."""
    result = subprocess.run(
        [sys.executable, "-c", FAR_LARGER],
        cwd=Path(torch_convops.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
