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
AdaptiveSize: TypeAlias = "Int | Sequence[Int | None] | None"
Padding: TypeAlias = "Int | Sequence[Int] | Sequence[Sequence[Int]] | str"

MODES = ("valid", "same", "same_lower", "full")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular", "symmetric")
_INT64_MAX = 2**63 - 1


def integer(name: str, value: Any, kind: str = "an int") -> Int:
    """An int, or what has an __index__ as one; but no bool."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not (isinstance(value, (int, torch.SymInt)) or hasattr(value, "__index__")):
        raise TypeError(f"{name} must be {kind}, got {value!r}")
    return value if isinstance(value, (int, torch.SymInt)) else _index(name, value, kind)


def _index(name: str, value: Any, kind: str) -> int:
    try:
        return operator.index(value)
    except TypeError:  # a tensor that is no single integer
        raise TypeError(f"{name} must be {kind}, got {value!r}") from None


def _int(name: str, value: Any) -> Int:
    return integer(name, value, "an int or a pair of ints")


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
    """Padding of any accepted form as [top, bottom, left, right]; sizes end in (height, width).

    With n input, k kernel, s stride, d dilation and e = d (k - 1) + 1, the modes are, per axis::

        "valid"       no padding                               output floor((n - e) / s) + 1
        "same"        total max(0, (ceil(n / s) - 1) s + e - n), the odd one below/right     ceil(n / s)
        "same_lower"  the same total, the odd one above/left                                 ceil(n / s)
        "full"        e - 1 on each side                       floor((n + e - 2) / s) + 1
    """
    if type(padding) is int:
        return [padding] * 4
    if isinstance(padding, str):
        check_mode(padding)
        if len(input_size) < 2 or len(kernel_size) < 2:
            return [0, 0, 0, 0]  # the operator says what is wrong with the rank
        result: list[Int] = []
        for n, k, s, d in zip(input_size[-2:], kernel_size[-2:], stride, dilation, strict=True):
            if s <= 0:
                raise ValueError(f"stride must be positive, got {tuple(stride)}")
            result += mode_pads(padding, d * (k - 1) + 1, ((n + s - 1) // s - 1) * s, n)
        return result
    if isinstance(padding, Sequence) and len(padding) == 2 and all(isinstance(side, Sequence) for side in padding):
        (top, bottom), (left, right) = (pair("padding", side) for side in padding)
        return [top, bottom, left, right]
    if isinstance(padding, Sequence) and len(padding) == 4:
        return [_int("padding", side) for side in padding]
    height, width = pair("padding", padding)
    return [height, height, width, width]


def check_mode(padding: str) -> None:
    if padding not in MODES:
        raise ValueError(
            f"padding must be an int, a pair, four sides or one of {', '.join(map(repr, MODES))}; got {padding!r}"
        )


def larger(a: Int, b: Int) -> Int:
    """max that leaves symbolic sizes symbolic."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else torch.sym_max(a, b)


def smaller(a: Int, b: Int) -> Int:
    """min that leaves symbolic sizes symbolic."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else torch.sym_min(a, b)


def mode_pads(mode: str, extent: Int, last_start: Int, size: Int) -> list[Int]:
    """[lower, upper] of a padding mode along an axis of that size, whose last "same" window starts at last_start."""
    if mode == "valid":
        return [0, 0]
    if mode == "full":
        return [extent - 1, extent - 1]
    total = larger(0, last_start + extent - size)
    less, more = total // 2, total - total // 2
    return [less, more] if mode == "same" else [more, less]


def expand(op: str, name: str, values: Sequence[Int]) -> tuple[Int, Int]:
    if len(values) not in (1, 2):
        raise ValueError(f"{op}: {name} must have 1 or 2 values, got {as_tuple(values)}")
    return values[0], values[-1]


def expand_sides(op: str, padding: Sequence[Int]) -> tuple[Int, Int, Int, Int]:
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


def _window_extent(
    op: str, name: str, size: Int, kernel: Int, stride: Int, dilation: Int, pad_lower: Int, pad_upper: Int
) -> Int:
    """Pixels from a window's first tap to its last; checks that every number is one that a window can have."""
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
    return checked(op, "dilation * (kernel - 1) + 1", extent + 1)


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
    extent = _window_extent(op, name, size, kernel, stride, dilation, pad_lower, pad_upper)
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


def _check_padding_mode(op: str, name: str, mode: str, size: Int, pad_lower: Int, pad_upper: Int) -> None:
    if mode in ("zeros", "replicate"):
        return
    most = size - 1 if mode == "reflect" else size
    _require(
        pad_lower <= most and pad_upper <= most,
        op,
        f"padding must be at most {most} for padding_mode {mode!r} and an input {name} of {size}, "
        f"got {as_tuple((pad_lower, pad_upper))}",
    )


def check_numel(op: str, what: str, sizes: Sequence[Int]) -> None:
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
    padding_mode: str = "zeros",
) -> tuple[Int, Int, Int, Int]:
    """(N, K, P, Q) for an input of (N, C, H, W) and a weight of (K, C / groups, R, S)."""
    N, C, H, W = input_size
    K, C_per_group, R, S = weight_size
    stride, dilation = expand(op, "stride", stride), expand(op, "dilation", dilation)
    top, bottom, left, right = expand_sides(op, padding)
    _require(
        padding_mode in PADDING_MODES,
        op,
        f"padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}; got '{padding_mode}'",
    )
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
    _check_padding_mode(op, "height", padding_mode, H, top, bottom)
    _check_padding_mode(op, "width", padding_mode, W, left, right)
    size = (N, K, h.output, w.output)
    check_numel(op, "output", size)
    return size


class Transposed(NamedTuple):
    """A transposed convolution as the gradient of a convolution with respect to its input."""

    output_size: tuple[Int, Int]
    input_size: tuple[Int, Int]  # of the convolution
    padding: list[Int]  # of the convolution, four sides
    beyond: tuple[Int, Int]  # output_size - input_size: rows and columns of the output that no window reaches


def conv_transpose2d_size(
    op: str,
    input_size: Sequence[Int],
    kernel_size: Sequence[Int],
    stride: Sequence[Int],
    padding: Any,
    output_padding: Sequence[Int],
    dilation: Sequence[Int],
    output_size: Sequence[Int] | None = None,
) -> Transposed:
    """The geometry of a transposed convolution, with every check on its window.

    With n input, k kernel, s stride, d dilation and e = d (k - 1) + 1, the output has ``(n - 1) s + e - pads +
    output_padding`` pixels along an axis. A padding mode is that of the convolution from the output back to the input,
    so "same" has an output of n s, or any output_size with ceil(output_size / s) = n.
    """
    mode = padding if isinstance(padding, str) else None
    if mode is not None:
        check_mode(mode)
    pads = [0] * 4 if mode else sides(padding, (), (), (), ())
    sizes: list[Int] = []
    beyonds: list[Int] = []
    inner_pads: list[Int] = []
    for axis, name in enumerate(("height", "width")):
        n, k, s, d, extra = (values[axis] for values in (input_size, kernel_size, stride, dilation, output_padding))
        wanted = None if output_size is None else output_size[axis]
        lower, upper = pads[2 * axis], pads[2 * axis + 1]
        extent = _window_extent(op, name, n, k, s, d, lower, upper)
        limit = larger(s, d)
        _require(
            extra >= 0 and extra < limit,
            op,
            f"output_padding must be at least 0 and less than stride or dilation ({limit}), got {extra} for the {name}",
        )
        span = checked(op, "(input - 1) * stride + dilation * (kernel - 1) + 1", (n - 1) * s + extent)
        if mode in ("same", "same_lower"):
            _require(extra == 0, op, f"output_padding must be 0 for padding {mode!r}, got {extra} for the {name}")
            least, size = (n - 1) * s + 1, checked(op, "input * stride", n * s) if wanted is None else wanted
            lower, upper = mode_pads(mode, extent, (n - 1) * s, size)
        else:
            if mode:
                lower, upper = mode_pads(mode, extent, 0, 0)
            least = span - lower - upper
            size = checked(op, "output size", least + extra) if wanted is None else wanted
        _require(
            wanted is None or (wanted >= least and wanted < least + s),
            op,
            f"output_size must be from {least} to {least + s - 1} for the {name}, got {wanted}",
        )
        _require(
            size >= 0,
            op,
            f"padding must be at most the output's {name} without it, {span + extra}, got {as_tuple((lower, upper))}",
        )
        if size == 0:  # nothing is left: all of the output without padding lies beyond
            sizes.append(size)
            beyonds.append(-span)
            inner_pads += [0, 0]
            continue
        # What the last window does not reach comes off the padding behind it first. What is left, in whole strides,
        # lies outside the convolution: it would fit more windows than there are.
        left_over = size - (span - lower - upper)
        sizes.append(size)
        beyonds.append(larger(0, left_over - upper) // s * s)
        inner_pads += [lower, larger(0, upper - left_over)]
    (height, width), (rows, columns) = sizes, beyonds
    return Transposed((height, width), (height - rows, width - columns), inner_pads, (rows, columns))


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
    top, bottom, left, right = expand_sides(op, padding)
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
    check_numel(op, "output", size)
    return size


def adaptive_kernel(input_size: Int, output_size: Int) -> Int:
    """The most taps that a window of an adaptive pooling has along an axis."""
    if output_size == 0:
        return input_size
    size, rest = input_size // output_size, input_size % output_size
    return size if rest == 0 else smaller(input_size, size + 2)


def adaptive_pool2d_size(op: str, input_size: Sequence[Int], output_size: Sequence[Int]) -> tuple[Int, Int, Int, Int]:
    """(N, C, P, Q) for an input of (N, C, H, W)."""
    N, C, H, W = input_size
    P, Q = expand(op, "output_size", output_size)
    _require(C > 0, op, f"input must have at least one channel, got input of size {as_tuple(input_size)}")
    for name, n, m in (("height", H, P), ("width", W, Q)):
        _require(n > 0, op, f"input {name} must be positive, got {n}")
        _require(m >= 0, op, f"output_size must not be negative, got {m} for the {name}")
        checked(op, "input * output", n * m)
    size = (N, C, P, Q)
    check_numel(op, "output", size)
    return size


def adaptive_output_size(output_size: Any, input_size: Sequence[Int]) -> tuple[Int, Int]:
    """An int, None or a pair of them as (height, width); None means as large as the input."""
    if isinstance(output_size, Sequence) and not isinstance(output_size, str):
        if len(output_size) not in (1, 2):
            raise ValueError(f"output_size must have 1 or 2 values, got {tuple(output_size)}")
        sizes = (output_size[0], output_size[-1])
    else:
        sizes = (output_size, output_size)
    kind = "an int, None or a pair of them"
    height, width = (
        n if size is None else integer("output_size", size, kind)
        for size, n in zip(sizes, input_size[-2:], strict=True)
    )
    return height, width


def unpool2d_size(
    pooled_size: Sequence[Int],
    kernel_size: Sequence[Int],
    stride: Sequence[Int],
    padding: Sequence[Int],
    output_size: Sequence[Int] | None,
) -> tuple[Int, Int]:
    """(height, width) of the image that a max-pool with that window brings to the pooled size: ``(n - 1) s + k - pads``
    along an axis, or an output_size less than a stride from it."""
    op = "max_unpool2d"
    sizes = []
    for axis, name in enumerate(("height", "width")):
        n, k, s = pooled_size[axis - 2], kernel_size[axis], stride[axis]
        lower, upper = padding[2 * axis], padding[2 * axis + 1]
        _window_extent(op, name, n, k, s, 1, lower, upper)
        default = checked(op, "(input - 1) * stride + kernel", (n - 1) * s + k) - lower - upper
        size = default if output_size is None else output_size[axis]
        _require(
            size > default - s and size < default + s,
            op,
            f"output_size must be from {default - s + 1} to {default + s - 1} for the {name}, got {size}",
        )
        _require(size > 0, op, f"output_size must be positive, got {size} for the {name}")
        sizes.append(size)
    return sizes[0], sizes[1]


def check_size(op: str, name: str, actual: Sequence[Int], expected: Sequence[Int]) -> None:
    _require(
        all(a == e for a, e in zip(actual, expected, strict=True)),
        op,
        f"{name} must be of size {as_tuple(expected)}, got {as_tuple(actual)}",
    )


def check_weight_size(op: str, size: Sequence[Int]) -> None:
    _require(len(size) == 4, op, f"weight must be 4-D, got {len(size)}-D")


def check_bias_size(op: str, size: Sequence[Int], channels: Int, channels_name: str) -> None:
    _require(
        len(size) == 1 and size[0] == channels,
        op,
        f"bias must be 1-D with one value per {channels_name} ({channels}), got {as_tuple(size)}",
    )


def batched(op: str, name: str, size: Sequence[Int]) -> tuple[Int, Int, Int, Int]:
    """(N, C, H, W) of a batched image's size, (1, C, H, W) of an unbatched one's."""
    _require(len(size) in (3, 4), op, f"{name} must be 4-D (batched) or 3-D (unbatched), got {len(size)}-D")
    return tuple(size) if len(size) == 4 else (1, *size)  # type: ignore[return-value]


def image_size(op: str, name: str, tensor: torch.Tensor) -> tuple[Int, Int, Int, Int]:
    """(N, C, H, W) of a batched tensor, (1, C, H, W) of an unbatched one."""
    return batched(op, name, tensor.shape)
