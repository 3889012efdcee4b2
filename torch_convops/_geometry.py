"""Arguments and sizes: what the public functions accept, and the output sizes that fake tensors need.

The rules and the wording of every error are those of csrc/common/geometry.h; tests hold the two together. Here the
sizes may be symbolic, so that shapes stay dynamic under ``torch.compile``.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

Int: TypeAlias = "int | torch.SymInt"
Pair: TypeAlias = "Int | Sequence[Int]"
Padding: TypeAlias = "Int | Sequence[Int] | Sequence[Sequence[Int]] | str"

MODES = ("valid", "same", "same_lower", "full")
_INT64_MAX = 2**63 - 1


def _int(name: str, value: Any) -> Int:
    if isinstance(value, bool) or not (isinstance(value, (int, torch.SymInt)) or hasattr(value, "__index__")):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    return value if isinstance(value, (int, torch.SymInt)) else operator.index(value)


def pair(name: str, value: Any) -> tuple[Int, Int]:
    """An int or one or two ints as (height, width)."""
    if type(value) is int:
        return value, value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    if isinstance(value, (str, torch.Tensor)) or not isinstance(value, Sequence):
        single = _int(name, value)
        return single, single
    if len(value) not in (1, 2):
        raise ValueError(f"{name} must have 1 or 2 values, got {tuple(value)}")
    return _int(name, value[0]), _int(name, value[-1])


def index_of(name: str, value: str, known: Sequence[str]) -> int:
    """The place of a name among those that are known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return known.index(value)


def pool_stride(stride: Any, kernel: tuple[Int, Int]) -> tuple[Int, Int]:
    """A pooling's stride; None or an empty sequence means the kernel size, as in torch."""
    if stride is None or (isinstance(stride, Sequence) and len(stride) == 0):
        return kernel
    return pair("stride", stride)


def sides(
    padding: Any, input_size: Sequence[Int], kernel_size: Sequence[Int], stride: Sequence[Int], dilation: Sequence[Int]
) -> list[Int]:
    """Padding of any accepted form as [top, bottom, left, right].

    With n input, k kernel, s stride, d dilation and e = d (k - 1) + 1, the modes are, per axis::

        "valid"       no padding                               output floor((n - e) / s) + 1
        "same"        total max(0, (ceil(n / s) - 1) s + e - n), the odd one below/right     ceil(n / s)
        "same_lower"  the same total, the odd one above/left                                 ceil(n / s)
        "full"        e - 1 on each side                       floor((n + e - 2) / s) + 1
    """
    if type(padding) is int:
        return [padding] * 4
    if isinstance(padding, str):
        if padding not in MODES:
            raise ValueError(
                f"padding must be an int, a pair, four sides or one of {', '.join(map(repr, MODES))}; got {padding!r}"
            )
        if len(input_size) < 2 or len(kernel_size) < 2:
            return [0, 0, 0, 0]  # the operator says what is wrong with the rank
        result: list[Int] = []
        for n, k, s, d in zip(input_size, kernel_size, stride, dilation, strict=True):
            extent = d * (k - 1) + 1
            if padding == "valid":
                result += [0, 0]
            elif padding == "full":
                result += [extent - 1, extent - 1]
            else:
                if s <= 0:
                    raise ValueError(f"stride must be positive, got {tuple(stride)}")
                total = torch.sym_max(0, ((n + s - 1) // s - 1) * s + extent - n)
                odd_upper = padding == "same"
                result += [total // 2, total - total // 2] if odd_upper else [total - total // 2, total // 2]
        return result
    if isinstance(padding, Sequence) and len(padding) == 2 and all(isinstance(side, Sequence) for side in padding):
        (top, bottom), (left, right) = (pair("padding", side) for side in padding)
        return [top, bottom, left, right]
    if isinstance(padding, Sequence) and len(padding) == 4:
        return [_int("padding", side) for side in padding]
    height, width = pair("padding", padding)
    return [height, height, width, width]


def expand(op: str, name: str, values: Sequence[Int]) -> tuple[Int, Int]:
    if len(values) not in (1, 2):
        raise ValueError(f"{op}: {name} must have 1 or 2 values, got {as_tuple(values)}")
    return values[0], values[-1]


def _expand_sides(op: str, padding: Sequence[Int]) -> tuple[Int, Int, Int, Int]:
    if len(padding) == 4:
        return padding[0], padding[1], padding[2], padding[3]
    if len(padding) not in (1, 2):
        raise ValueError(f"{op}: padding must have 1, 2 or 4 values, got {as_tuple(padding)}")
    return padding[0], padding[0], padding[-1], padding[-1]


def as_tuple(values: Sequence[Int]) -> str:
    return "(" + ", ".join(map(str, values)) + ")"


def _require(condition: Any, op: str, message: str) -> None:
    if not condition:
        raise ValueError(f"{op}: {message}")


def checked(op: str, what: str, value: Int) -> Int:
    _require(not isinstance(value, int) or value <= _INT64_MAX, op, f"{what} overflows a 64-bit integer")
    return value


class Axis(NamedTuple):
    """One axis of a sliding window; see csrc/common/geometry.h."""

    input: Int
    output: Int
    extent: Int


def make_axis(
    op: str,
    name: str,
    size: Int,
    kernel: Int,
    stride: Int,
    dilation: Int,
    pad_lower: Int,
    pad_upper: Int,
    ceil_mode: bool = False,
) -> Axis:
    """The output size of a window along one axis, with every check that the operators make."""
    _require(size > 0, op, f"input {name} must be positive, got {size}")
    _require(kernel > 0, op, f"kernel {name} must be positive, got {kernel}")
    _require(stride > 0, op, f"stride must be positive, got {stride} for the {name}")
    _require(dilation > 0, op, f"dilation must be positive, got {dilation} for the {name}")
    _require(
        pad_lower >= 0 and pad_upper >= 0,
        op,
        f"padding must not be negative, got {as_tuple((pad_lower, pad_upper))} for the {name}",
    )
    extent = checked(op, "dilation * (kernel - 1)", dilation * (kernel - 1))
    extent = checked(op, "dilation * (kernel - 1) + 1", extent + 1)
    padded = checked(op, "input + padding", checked(op, "input + padding", size + pad_lower) + pad_upper)
    _require(
        extent <= padded,
        op,
        f"kernel {name} {kernel} with dilation {dilation} spans {extent} pixels, "
        f"which is larger than the padded input's {padded}",
    )
    room = padded - extent
    output = room // stride + 1
    # The ceiling adds a window unless it would start beyond the input and its lower pad.
    if ceil_mode and room % stride != 0 and output * stride < size + pad_lower:
        output = output + 1
    return Axis(size, output, extent)


def _check_numel(op: str, what: str, sizes: Sequence[Int]) -> None:
    size_in_bytes: Int = 16
    for size in sizes:
        size_in_bytes = size_in_bytes * size
        _require(
            not isinstance(size_in_bytes, int) or size_in_bytes <= _INT64_MAX,
            op,
            f"{what} of size {as_tuple(sizes)} is too large to allocate",
        )


def conv2d_size(
    op: str,
    input_size: Sequence[Int],
    weight_size: Sequence[Int],
    stride: Sequence[Int],
    padding: Sequence[Int],
    dilation: Sequence[Int],
    groups: Int,
) -> tuple[Int, Int, Int, Int]:
    """(N, K, P, Q) for an input of (N, C, H, W) and a weight of (K, C / groups, R, S)."""
    N, C, H, W = input_size
    K, C_per_group, R, S = weight_size
    stride, dilation = expand(op, "stride", stride), expand(op, "dilation", dilation)
    top, bottom, left, right = _expand_sides(op, padding)
    _require(groups > 0, op, f"groups must be positive, got {groups}")
    _require(K > 0, op, f"weight must have at least one filter, got weight of size {as_tuple(weight_size)}")
    _require(
        C % groups == 0 and C // groups == C_per_group,
        op,
        f"input channels must equal weight channels * groups, got input of size {as_tuple(input_size)}, "
        f"weight of size {as_tuple(weight_size)} and groups {groups}",
    )
    _require(K % groups == 0, op, f"groups must divide the number of filters, got {K} filters and groups {groups}")
    h = make_axis(op, "height", H, R, stride[0], dilation[0], top, bottom)
    w = make_axis(op, "width", W, S, stride[1], dilation[1], left, right)
    size = (N, K, h.output, w.output)
    _check_numel(op, "output", size)
    return size


def pool2d_size(
    op: str,
    input_size: Sequence[Int],
    kernel_size: Sequence[Int],
    stride: Sequence[Int],
    padding: Sequence[Int],
    dilation: Sequence[Int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Int, Int, Int, Int]:
    """(N, C, P, Q) for an input of (N, C, H, W)."""
    N, C, H, W = input_size
    kernel = expand(op, "kernel_size", kernel_size)
    steps = expand(op, "stride", stride) if len(stride) else kernel
    top, bottom, left, right = _expand_sides(op, padding)
    dilations = expand(op, "dilation", dilation)
    _require(C > 0, op, f"input must have at least one channel, got input of size {as_tuple(input_size)}")
    h = make_axis(op, "height", H, kernel[0], steps[0], dilations[0], top, bottom, ceil_mode)
    w = make_axis(op, "width", W, kernel[1], steps[1], dilations[1], left, right, ceil_mode)
    for axis, lower, upper in ((h, top, bottom), (w, left, right)):
        _require(
            lower <= axis.extent // 2 and upper <= axis.extent // 2,
            op,
            f"padding must be at most half of the window's extent, got padding {as_tuple((lower, upper))} "
            f"for an extent of {axis.extent}",
        )
    _require(
        not isinstance(kernel[0] * kernel[1], int) or kernel[0] * kernel[1] <= 2**31 - 1,
        op,
        f"kernel_size must have at most 2**31 - 1 taps, got {as_tuple(kernel)}",
    )
    size = (N, C, h.output, w.output)
    _check_numel(op, "output", size)
    return size


def check_size(op: str, name: str, actual: Sequence[Int], expected: Sequence[Int]) -> None:
    _require(
        all(a == e for a, e in zip(actual, expected, strict=True)),
        op,
        f"{name} must be of size {as_tuple(expected)}, got {as_tuple(actual)}",
    )


def image_size(op: str, name: str, tensor: torch.Tensor) -> tuple[Int, Int, Int, Int]:
    """(N, C, H, W) of a batched tensor, (1, C, H, W) of an unbatched one."""
    _require(tensor.dim() in (3, 4), op, f"{name} must be 4-D (batched) or 3-D (unbatched), got {tensor.dim()}-D")
    sizes = tuple(tensor.shape)
    return sizes if tensor.dim() == 4 else (1, *sizes)  # type: ignore[return-value]
