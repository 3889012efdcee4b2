"""ONNX: what each operator is in ONNX's terms, for :func:`torch.onnx.export`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from . import _geometry as geometry
from .ops import _dispatch as dispatch
from .ops._dispatch import Arguments

__all__ = ["translation_table"]

# An int, or the one of an exported graph that holds a size known only when the model runs.
Int = Any
# Opsets and values of onnxscript, which is imported when a table is asked for.
Opset = Any
Value = Any

_TRANSLATIONS: dict[str, Callable[[Opset, Arguments], Any]] = {}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Returns the ``custom_translation_table`` that lets :func:`torch.onnx.export` export this library's operators.

    ::

        torch.onnx.export(model, args, dynamo=True, custom_translation_table=torch_convops.onnx.translation_table())

    Every operator under ``torch.ops.torch_convops`` has an entry, so models that call functions, layers or operators
    export alike; batched and unbatched images, with dynamic sizes where ``dynamic_shapes`` says so:

    * convolutions become Conv, transposed ones ConvTranspose; a ``padding_mode`` is a Pad before it (reflect, edge and,
      from opset 19 on, wrap) or slices put around the image (symmetric, and circular before opset 19);
    * poolings become MaxPool, AveragePool, LpPool and their global kin. ONNX numbers maxima over the whole tensor;
      indices are brought to ``h * W + w`` in each plane;
    * adaptive poolings whose windows are as large as the image or divide it evenly become those, uneven ones a matrix
      product (mean) or a Gather (maximum);
    * max-unpooling becomes ScatterElements, its transpose GatherElements.

    What those nodes cannot say (ONNX's pads are constants of a model, its AveragePool has no divisor and before opset
    19 no dilation, its LpPool takes the power of the magnitude) is said by composition: a Pad, a scale, a ratio of two
    means, powers.

    ONNX does not say which of equal maxima is picked, nor what becomes of NaN. Element types are those of the model;
    integers of 16 and 32 bits, which ONNX does not pool, take the way over float32 and float64, which hold them
    exactly.

    While a model is exported, an operator that ONNX cannot say raises NotImplementedError, which torch reports in its
    ConversionError; the message names operator, argument and reason. These are: integers of 64 bits in a max-pool;
    windows, strides and dilations of a size that is dynamic; adaptive windows of a dynamic size but those of the whole
    image; ``conv2d_grad_input`` with a border; and the gradients of average pools and of weights.

    Raises:
        ImportError: onnxscript is not installed: ``pip install "torch_convops[onnx]"``.

    Source: ONNX operator specifications, https://onnx.ai/onnx/operators.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'torch_convops.onnx needs onnxscript: pip install "torch_convops[onnx]"', name=error.name
        ) from error
    return {dispatch.overload(name): _translation(name, function) for name, function in _TRANSLATIONS.items()}


def _translates(
    *operators: str,
) -> Callable[[Callable[[Opset, Arguments], Any]], Callable[[Opset, Arguments], Any]]:
    def register(function: Callable[[Opset, Arguments], Any]) -> Callable[[Opset, Arguments], Any]:
        _TRANSLATIONS.update(dict.fromkeys(operators, function))
        return function

    return register


# What max-pool's offsets carry with them: the indices that they were made of.
_INDICES = "torch_convops.indices"
_IMAGES = ("input", "grad_output", "offsets", "indices")


def _translation(operator: str, function: Callable[[Opset, Arguments], Any]) -> Callable[..., Any]:
    """A translation as torch calls it, with the arguments of the operator; unbatched images get a batch of one."""

    def translate(a: Arguments) -> Any:
        from onnxscript import evaluator

        op = evaluator.default().opset  # type: ignore[attr-defined]
        a.operator = operator.partition(".")[0]
        unbatched = False
        for name in _IMAGES:
            value = getattr(a, name, None)
            if value is not None and len(value.shape) == 3:
                unbatched = True
                setattr(a, name, _batched(op, value))
        result = function(op, a)
        if not unbatched or operator == "conv2d_grad_bias":  # whose result is no image
            return result
        return tuple(_unbatched(op, value) for value in result) if isinstance(result, tuple) else _unbatched(op, result)

    return dispatch.by_name(operator, translate)


def _batched(op: Opset, value: Value) -> Value:
    batched = op.Unsqueeze(value, [0])
    batched.dtype, batched.shape = value.dtype, type(value.shape)([1, *value.shape])
    batched.meta.update(value.meta)
    return batched


def _unbatched(op: Opset, value: Value) -> Value:
    result = op.Squeeze(value, [0])
    result.meta.update(value.meta)
    return result


def _refusal(a: Arguments, argument: str, reason: str) -> NotImplementedError:
    return NotImplementedError(f"{a.operator}: {argument} cannot be exported to ONNX: {reason}")


# --- sizes, windows and pads ---


def _is_static(values: Iterable[Int]) -> bool:
    return all(isinstance(value, int) for value in values)


def _size(op: Opset, image: Value) -> tuple[Int, Int]:
    """(height, width) of an image: ints where they are known."""
    height, width = (
        size if isinstance(size, int) else op.Shape(image, start=axis, end=axis + 1)
        for axis, size in zip((2, 3), image.shape[2:], strict=True)
    )
    return height, width


def _pair(a: Arguments, name: str) -> tuple[int, int]:
    """One of a window's arguments, which attributes of ONNX have to hold."""
    values = geometry.expand(a.operator, name, getattr(a, name))
    if not _is_static(values):
        reason = "it depends on a dynamic size, and ONNX has it as a constant"
        if name == "kernel_size":
            reason += "; for a window as large as the image there are global_max_pool2d and global_avg_pool2d"
        raise _refusal(a, name, reason)
    return values  # type: ignore[return-value]


def _kernel(weight: Value) -> tuple[int, int]:
    R, S = weight.shape[2:]
    return R, S


class Window(NamedTuple):
    """A sliding window, with its pads (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[Int, Int, Int, Int]
    dilation: tuple[int, int]
    ceil_mode: bool

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of ONNX, without pads."""
        dilations = {} if self.dilation == (1, 1) else {"dilations": self.dilation}
        return {"kernel_shape": self.kernel, "strides": self.stride, **dilations}

    @property
    def fits_attributes(self) -> bool:
        """Whether pads and ceil_mode can be attributes.

        Pads have to be constants and, for onnxruntime, less than the kernel. Where rounding up could add a window that
        starts beyond the image, versions of ONNX differ on whether it does.
        """
        if not _is_static(self.pads) or any(pad >= self.kernel[i // 2] for i, pad in enumerate(self.pads)):
            return False
        axes = zip(self.pads[1::2], self.kernel, self.stride, self.dilation, strict=True)
        return not self.ceil_mode or all(upper + s <= d * (k - 1) + 1 for upper, k, s, d in axes)

    def floored(self, op: Opset) -> Window:
        """The same windows without ceil_mode.

        Rounding up is what up to a stride less one of more padding does; and no more than the extent less one of it,
        that no window starts beyond the image and its upper-left padding.
        """
        if not self.ceil_mode:
            return self
        top, bottom, left, right = self.pads
        lowers = (top, left)
        uppers = []
        for upper, k, s, d in zip((bottom, right), self.kernel, self.stride, self.dilation, strict=True):
            more, most = upper + (s - 1), d * (k - 1)
            uppers.append(min(more, most) if isinstance(more, int) else op.Min(more, most))
        return self._replace(pads=(lowers[0], uppers[0], lowers[1], uppers[1]), ceil_mode=False)


def _window(a: Arguments) -> Window:
    kernel = _pair(a, "kernel_size")
    stride = _pair(a, "stride") if len(a.stride) else kernel
    pads = geometry.expand_sides(a.operator, a.padding)
    return Window(kernel, stride, pads, _pair(a, "dilation"), bool(a.ceil_mode))


def _onnx_pads(pads: Sequence[Int]) -> list[Int]:
    """ONNX's order: begins, then ends."""
    top, bottom, left, right = pads
    return [top, left, bottom, right]


def _type(name: str) -> Any:
    import onnx_ir

    return onnx_ir.DataType[name]


def _tensor(value: Any, dtype: Any) -> Any:
    import onnx_ir

    return onnx_ir.tensor(value, dtype=dtype)


def _constant(op: Opset, value: Any, dtype: Any) -> Value:
    return op.Constant(value=_tensor(value, dtype))


def _padded(op: Opset, image: Value, pads: Sequence[Int], value: float = 0) -> Value:
    """The image with a border of one value."""
    if _is_static(pads) and not any(pads):
        return image
    return op.Pad(image, _onnx_pads(pads), _constant(op, value, image.dtype), [2, 3])


def _mode_pads(op: Opset, mode: str, size: Int, k: int, s: int, d: int) -> list[Int]:
    """[lower, upper] of a padding mode along an axis, as :func:`geometry.sides` has them, of any size."""
    extent = d * (k - 1) + 1
    if isinstance(size, int):
        return geometry.mode_pads(mode, extent, ((size + s - 1) // s - 1) * s, size)
    if s == 1 or mode not in ("same", "same_lower"):  # the same for every size
        return geometry.mode_pads(mode, extent, 0, 1)
    total = op.Max(0, (op.Div(size + (s - 1), s) - 1) * s + extent - size)
    return _halves(op, mode, total)


def _halves(op: Opset, mode: str, total: Value) -> list[Value]:
    less = op.Div(total, 2)
    more = total - less
    return [less, more] if mode == "same" else [more, less]


# --- convolution ---

_AUTO_PADS = {"same": "SAME_UPPER", "same_lower": "SAME_LOWER"}
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _bordered(op: Opset, image: Value, pads: Sequence[Int], padding_mode: str) -> Value:
    """The image with a border of its own pixels."""
    if _is_static(pads) and not any(pads):
        return image
    if padding_mode in _PAD_MODES and (padding_mode != "circular" or op.version >= 19):
        return op.Pad(image, _onnx_pads(pads), None, [2, 3], mode=_PAD_MODES[padding_mode])
    for axis, lower, upper in ((2, *pads[:2]), (3, *pads[2:])):
        mirrored = _reversed(op, image, axis)
        if padding_mode == "symmetric":
            ends = _reversed(op, _first(op, image, lower, axis), axis), _first(op, mirrored, upper, axis)
        else:
            ends = _reversed(op, _first(op, mirrored, lower, axis), axis), _first(op, image, upper, axis)
        image = op.Concat(ends[0], image, ends[1], axis=axis)
    return image


def _first(op: Opset, image: Value, count: Int, axis: int) -> Value:
    return op.Slice(image, [0], [count], [axis])


def _reversed(op: Opset, image: Value, axis: int) -> Value:
    return op.Slice(image, [-1], [-(2**63) + 1], [axis], [-1])


def _convolve(
    op: Opset,
    a: Arguments,
    weight: Value,
    bias: Value | None,
    pads: Sequence[Int],
    dilation: tuple[int, int],
    groups: int,
    mode: str = "",
) -> Value:
    """Conv of an image; ``mode`` is the name of the pads, if they have one."""
    image = a.input
    attributes = {"strides": _pair(a, "stride"), "dilations": dilation, "group": groups}
    if a.padding_mode != "zeros":
        return op.Conv(_bordered(op, image, pads, a.padding_mode), weight, bias, **attributes)
    if _is_static(pads):
        return op.Conv(image, weight, bias, pads=_onnx_pads(pads), **attributes)
    if mode and dilation == (1, 1):  # onnxruntime takes no others
        return op.Conv(image, weight, bias, auto_pad=_AUTO_PADS[mode], **attributes)
    return op.Conv(_padded(op, image, pads), weight, bias, **attributes)


def _groups(a: Arguments) -> int:
    if not isinstance(a.groups, int):
        raise _refusal(a, "groups", "it depends on a dynamic size, and ONNX has it as a constant")
    return a.groups


@_translates("conv2d")
def _conv2d(op: Opset, a: Arguments) -> Value:
    pads = geometry.expand_sides(a.operator, a.padding)
    return _convolve(op, a, a.weight, a.bias, pads, _pair(a, "dilation"), _groups(a))


@_translates("conv2d.padding")
def _conv2d_padding(op: Opset, a: Arguments) -> Value:
    geometry.check_mode(a.padding)
    dilation = _pair(a, "dilation")
    axes = zip(_size(op, a.input), _kernel(a.weight), _pair(a, "stride"), dilation, strict=True)
    pads = [pad for axis in axes for pad in _mode_pads(op, a.padding, *axis)]
    return _convolve(op, a, a.weight, a.bias, pads, dilation, _groups(a), a.padding)


@_translates("blur_pool2d")
def _blur_pool2d(op: Opset, a: Arguments) -> Value:
    channels = a.input.shape[1]
    if not isinstance(channels, int):
        raise _refusal(a, "input", "its number of channels is dynamic, and Conv has it as a constant")
    R, S = a.filter.shape[-2:]
    filters = op.Unsqueeze(a.filter, [0, 1] if len(a.filter.shape) == 2 else [1])
    pads = ((R - 1) // 2, R // 2, (S - 1) // 2, S // 2)
    return _convolve(op, a, op.Expand(filters, [channels, 1, R, S]), None, pads, (1, 1), channels)


def _transpose(
    op: Opset,
    image: Value,
    weight: Value,
    bias: Value | None,
    window: tuple[tuple[int, int], tuple[int, int], int],
    pads: Sequence[Int],
) -> Value:
    """ConvTranspose; its pads take pixels away, and negative ones at the bottom/right add some."""
    stride, dilation, groups = window
    lower, upper = pads[::2], pads[1::2]
    attributes: dict[str, Any] = {"strides": stride, "dilations": dilation, "group": groups}
    if not _is_static(pads):
        # A stride less one is the most that such pads add.
        whole = op.ConvTranspose(image, weight, bias, output_padding=[s - 1 for s in stride], **attributes)
        spans = _spans(op, image, weight, stride, dilation)
        return op.Slice(whole, list(lower), [span - cut for span, cut in zip(spans, upper, strict=True)], [2, 3])
    pads = [*lower, *(max(0, cut) for cut in upper)]
    extra = [max(0, -cut) for cut in upper]
    if all(more < s for more, s in zip(extra, stride, strict=True)):
        return op.ConvTranspose(image, weight, bias, pads=pads, output_padding=extra, **attributes)
    # No window reaches a stride or more beyond the rest: these rows and columns are the bias alone.
    output = op.ConvTranspose(image, weight, pads=pads, **attributes)
    output = op.Pad(output, [0, 0, *extra], _constant(op, 0, image.dtype), [2, 3])
    return output if bias is None else op.Add(output, op.Unsqueeze(bias, [1, 2]))


def _spans(
    op: Opset, image: Value, weight: Value, stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[Int, Int]:
    """(height, width) of a transposed convolution that nothing is taken from."""
    axes = zip(_size(op, image), _kernel(weight), stride, dilation, strict=True)
    height, width = ((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in axes)
    return height, width


@_translates("conv2d_grad_input")
def _conv2d_grad_input(op: Opset, a: Arguments) -> Value:
    pads = geometry.expand_sides(a.operator, a.padding)
    if a.padding_mode != "zeros" and not (_is_static(pads) and not any(pads)):
        raise _refusal(a, f"padding_mode {a.padding_mode!r}", "ConvTranspose has no border but zeros")
    stride, dilation, groups = _pair(a, "stride"), _pair(a, "dilation"), _groups(a)
    size = geometry.expand(a.operator, "input_size", a.input_size)
    top, left = pads[::2]
    spans = _spans(op, a.grad_output, a.weight, stride, dilation)
    bottom, right = (span - lower - n for span, lower, n in zip(spans, (top, left), size, strict=True))
    window = (stride, dilation, groups)
    return _transpose(op, a.grad_output, a.weight, a.bias, window, (top, bottom, left, right))


@_translates("conv_transpose2d", "conv_transpose2d.padding")
def _conv_transpose2d(op: Opset, a: Arguments) -> Value:
    stride, dilation, groups = _pair(a, "stride"), _pair(a, "dilation"), _groups(a)
    mode = a.padding if isinstance(a.padding, str) else None
    if mode is None:
        given = geometry.expand_sides(a.operator, a.padding)
    else:
        geometry.check_mode(mode)
    extra = geometry.expand(a.operator, "output_padding", a.output_padding)
    wanted = (None, None) if a.output_size is None else geometry.expand(a.operator, "output_size", a.output_size)
    pads: list[Int] = []
    spans = _spans(op, a.input, a.weight, stride, dilation)
    axes = zip(_kernel(a.weight), stride, dilation, spans, wanted, strict=True)
    for axis, (k, s, d, span, size) in enumerate(axes):
        extent = d * (k - 1) + 1
        if mode in ("same", "same_lower"):
            # The convolution from an output of s times the input back to it; its last window starts s from the end.
            if size is None:
                lower, _ = geometry.mode_pads(mode, extent, 0, s)
                upper = extent - s - lower
            elif _is_static((span, size)):
                lower, _ = geometry.mode_pads(mode, span, 0, size)
            else:
                lower, _ = _halves(op, mode, op.Max(0, span - size))
        elif mode is None:
            lower, upper = given[2 * axis], given[2 * axis + 1] - extra[axis]
        else:
            lower, upper = geometry.mode_pads(mode, extent, 0, 0)
            upper -= extra[axis]
        pads += [lower, upper if size is None else span - lower - size]
    return _transpose(op, a.input, a.weight, a.bias, (stride, dilation, groups), pads)


# --- max-pooling ---


def _held_by(op: Opset, image: Value, holders: dict[str, str]) -> Value:
    """The image in a type that an operator of ONNX takes, where it does not take the image's own."""
    holder = holders.get(image.dtype.name)
    if holder is None:
        return image
    cast = op.Cast(image, to=_type(holder))
    cast.dtype, cast.shape = _type(holder), image.shape
    return cast


def _as(op: Opset, value: Value, like: Value) -> Value:
    return value if value.dtype == like.dtype else op.Cast(value, to=like.dtype)


def _poolable(op: Opset, a: Arguments) -> Value:
    """The input in a type that MaxPool takes and that holds every value of the input's."""
    if a.input.dtype.name == "INT64":
        raise _refusal(a, "an input of int64", "MaxPool takes floats and integers of 8 bits; none holds 64 bits")
    return _held_by(op, a.input, {"INT16": "FLOAT", "INT32": "DOUBLE"})


def _sliding_maxima(op: Opset, a: Arguments, window: Window, places: bool) -> tuple[Value, Value]:
    """Maxima and, if they are wanted, their indices in each plane."""
    image = _poolable(op, a)
    indices = None
    if not window.fits_attributes:
        window = window.floored(op)
    if window.fits_attributes:
        ceil = {"ceil_mode": 1} if window.ceil_mode else {}
        maxima, numbers = op.MaxPool(image, pads=_onnx_pads(window.pads), **window.attributes, **ceil)
        if places:  # ONNX numbers the pixels of the whole tensor
            height, width = _size(op, image)
            indices = op.Mod(numbers, height * width)
    else:
        lowest = {"INT8": -128, "UINT8": 0}.get(image.dtype.name, -math.inf)
        padded = _padded(op, image, window.pads, lowest)
        maxima, numbers = op.MaxPool(padded, **window.attributes)
        if places:
            rows, columns = (op.Shape(padded, start=axis, end=axis + 1) for axis in (2, 3))
            numbers = op.Mod(numbers, rows * columns)
            top, _, left, _ = window.pads
            _, width = _size(op, image)
            indices = (op.Div(numbers, columns) - top) * width + op.Mod(numbers, columns) - left
    maxima.dtype = image.dtype
    return _as(op, maxima, a.input), indices


def _adaptive_windows(a: Arguments, n: Int, m: Int) -> list[range]:
    """The pixels of each window along an axis."""
    if not _is_static((n, m)):
        raise _refusal(
            a, "output_size", "windows of a dynamic size are no constants of a model, but for an output_size of 1"
        )
    return [range(o * n // m, -(-(o + 1) * n // m)) for o in range(m)]


def _even_window(size: tuple[Int, Int], output_size: tuple[Int, Int]) -> Window | None:
    """The sliding window that adaptive ones are where they divide the plane."""
    if not _is_static((*size, *output_size)) or 0 in output_size:
        return None
    if any(n % m for n, m in zip(size, output_size, strict=True)):
        return None
    kernel = size[0] // output_size[0], size[1] // output_size[1]
    return Window(kernel, kernel, (0, 0, 0, 0), (1, 1), False)


def _tap_table(a: Arguments, n: Int, m: Int) -> list[list[int]]:
    """The pixels of each window along an axis; shorter windows repeat their last, which changes no maximum."""
    windows = _adaptive_windows(a, n, m)
    longest = max(map(len, windows), default=0)
    return [[*window, *[window[-1]] * (longest - len(window))] for window in windows]


def _adaptive_maxima(op: Opset, a: Arguments, places: bool) -> tuple[Value, Value]:
    size = _size(op, a.input)
    output_size = geometry.expand(a.operator, "output_size", a.output_size)
    if output_size == (1, 1):
        return _plane_maxima(op, a.input), _plane_indices(op, a.input) if places else None
    window = _even_window(size, output_size)
    if window is not None and a.input.dtype.name != "INT64":
        return _sliding_maxima(op, a, window, places)
    # Each window's taps side by side.
    image = _held_by(op, a.input, {"INT16": "INT32"})
    if places:
        rows, columns = (_tap_table(a, n, m) for n, m in zip(size, output_size, strict=True))
        taps = [[h * size[1] + w for h in r for w in c] for r in rows for c in columns]
        table = _constant(op, taps, _type("INT64"))
        gathered = op.Gather(op.Reshape(image, [0, 0, -1]), table, axis=2)
        first = op.ArgMax(gathered, axis=3, keepdims=1)
        maxima = op.GatherElements(gathered, first, axis=3)
        shape = op.Shape(gathered)
        indices = op.GatherElements(op.Expand(table, shape), first, axis=3)
        indices = op.Reshape(indices, [0, 0, *output_size])
        maxima = op.Reshape(maxima, [0, 0, *output_size])
    else:
        indices, maxima = None, image
        for axis, n, m in ((2, size[0], output_size[0]), (3, size[1], output_size[1])):
            if isinstance(m, int) and m == 1:
                maxima = op.ReduceMax(maxima, [axis], keepdims=1)
            else:
                table = _constant(op, _tap_table(a, n, m), _type("INT64"))
                maxima = op.ReduceMax(op.Gather(maxima, table, axis=axis), [axis + 1], keepdims=0)
    maxima.dtype = image.dtype
    return _as(op, maxima, a.input), indices


def _plane_maxima(op: Opset, image: Value) -> Value:
    if image.dtype.is_floating_point():
        return op.GlobalMaxPool(image)
    held = _held_by(op, image, {"INT16": "INT32"})
    maxima = op.ReduceMax(held, [2, 3], keepdims=1)
    maxima.dtype = held.dtype
    return _as(op, maxima, image)


def _plane_indices(op: Opset, image: Value) -> Value:
    held = _held_by(op, image, {"INT16": "INT32"})
    return op.Unsqueeze(op.ArgMax(op.Reshape(held, [0, 0, -1]), axis=2, keepdims=1), [3])


@_translates("max_pool2d")
def _max_pool2d(op: Opset, a: Arguments) -> Value:
    return _sliding_maxima(op, a, _window(a), False)[0]


@_translates("adaptive_max_pool2d")
def _adaptive_max_pool2d(op: Opset, a: Arguments) -> Value:
    return _adaptive_maxima(op, a, False)[0]


@_translates("global_max_pool2d")
def _global_max_pool2d(op: Opset, a: Arguments) -> Value:
    return _plane_maxima(op, a.input)


class Taps(NamedTuple):
    """Where the taps of windows are: offset r S + s of window (p, q) is pixel (rows[p] + r d_h, columns[q] + s d_w)."""

    rows: Value  # (P, 1)
    columns: Value  # (Q,)
    dilation: tuple[int, int]
    kernel: tuple[Int, Int]
    width: Int  # of the input

    def indices(self, op: Opset, offsets: Value) -> Value:
        offsets = op.Cast(offsets, to=_type("INT64"))
        row = self.rows + op.Div(offsets, self.kernel[1]) * self.dilation[0]
        return row * self.width + self.columns + op.Mod(offsets, self.kernel[1]) * self.dilation[1]

    def offsets(self, op: Opset, indices: Value) -> Value:
        row = op.Div(op.Div(indices, self.width) - self.rows, self.dilation[0])
        column = op.Div(op.Mod(indices, self.width) - self.columns, self.dilation[1])
        taps = self.kernel[0] * self.kernel[1]
        small = isinstance(taps, int) and taps <= 256
        return op.Cast(row * self.kernel[1] + column, to=_type("UINT8" if small else "INT32"))


def _taps(op: Opset, a: Arguments, size: tuple[Int, Int], pooled: Value, pooled_size: Sequence[Int]) -> Taps:
    """Those of the windows of ``pooled``, which is of that size, over a plane of ``size``."""
    counts = [op.Range(0, op.Squeeze(op.Shape(pooled, start=axis, end=axis + 1)), 1) for axis in (2, 3)]
    if hasattr(a, "kernel_size"):
        kernel, stride, pads, dilation, _ = _window(a)
        starts = [count * s - lower for count, s, lower in zip(counts, stride, pads[::2], strict=True)]
    else:
        kernel, dilation = size, (1, 1)
        if tuple(pooled_size) != (1, 1):
            for n, m in zip(size, pooled_size, strict=True):
                _adaptive_windows(a, n, m)
            kernel = tuple(map(geometry.adaptive_kernel, size, pooled_size))  # type: ignore[assignment]
        starts = [op.Div(count * n, m) for count, n, m in zip(counts, size, pooled_size, strict=True)]
    return Taps(op.Unsqueeze(starts[0], [1]), starts[1], dilation, kernel, size[1])


@_translates("max_pool2d_with_offsets", "adaptive_max_pool2d_with_offsets")
def _with_offsets(op: Opset, a: Arguments) -> tuple[Value, Value]:
    adaptive = not hasattr(a, "kernel_size")
    maxima, indices = _adaptive_maxima(op, a, True) if adaptive else _sliding_maxima(op, a, _window(a), True)
    pooled_size = geometry.expand(a.operator, "output_size", a.output_size) if adaptive else ()
    offsets = _taps(op, a, _size(op, a.input), indices, pooled_size).offsets(op, indices)
    offsets.meta[_INDICES] = indices
    return maxima, offsets


def _indices_of(op: Opset, a: Arguments, size: tuple[Int, Int]) -> Value:
    """The indices that offsets stand for, without working them out again where they are at hand."""
    known = a.offsets.meta.get(_INDICES)
    return _taps(op, a, size, a.offsets, a.offsets.shape[2:]).indices(op, a.offsets) if known is None else known


@_translates("max_pool2d_indices", "adaptive_max_pool2d_indices")
def _max_pool2d_indices(op: Opset, a: Arguments) -> Value:
    return _indices_of(op, a, geometry.expand(a.operator, "input_size", a.input_size))


@_translates("max_pool2d_gather", "adaptive_max_pool2d_gather")
def _max_pool2d_gather(op: Opset, a: Arguments) -> Value:
    return _gathered(op, a.input, _indices_of(op, a, _size(op, a.input)))


@_translates("max_pool2d_grad_input", "adaptive_max_pool2d_grad_input")
def _max_pool2d_grad_input(op: Opset, a: Arguments) -> Value:
    size = geometry.expand(a.operator, "input_size", a.input_size)
    return _scattered(op, a.grad_output, _indices_of(op, a, size), size, True)


@_translates("max_unpool2d")
def _max_unpool2d(op: Opset, a: Arguments) -> Value:
    size = geometry.expand(a.operator, "output_size", a.output_size)
    return _scattered(op, a.input, a.indices, size, a.accumulate)


@_translates("max_unpool2d_gather")
def _max_unpool2d_gather(op: Opset, a: Arguments) -> Value:
    return _gathered(op, a.input, a.indices)


def _gathered(op: Opset, image: Value, indices: Value) -> Value:
    pixels = op.GatherElements(op.Reshape(image, [0, 0, -1]), op.Reshape(indices, [0, 0, -1]), axis=2)
    return op.Reshape(pixels, op.Shape(indices))


def _scattered(op: Opset, image: Value, indices: Value, size: tuple[Int, Int], accumulate: bool) -> Value:
    height, width = size
    pixels = height * width
    plane = _constant(op, [pixels], _type("INT64")) if isinstance(pixels, int) else op.Reshape(pixels, [-1])
    shape = op.Concat(op.Shape(image, start=0, end=2), plane, axis=0)
    planes = op.ConstantOfShape(shape, value=_tensor([0], image.dtype))
    values, places = (op.Reshape(tensor, [0, 0, -1]) for tensor in (image, indices))
    reduction = "add" if accumulate else "none"
    return op.Reshape(op.ScatterElements(planes, places, values, axis=2, reduction=reduction), [0, 0, height, width])


# --- average-pooling ---


@_translates("avg_pool2d")
def _avg_pool2d(op: Opset, a: Arguments) -> Value:
    return _mean(op, a, a.input, _window(a), a.count_include_pad, a.divisor_override)


def _mean(
    op: Opset, a: Arguments, image: Value, window: Window, count_include_pad: bool, divisor: int | None = None
) -> Value:
    whole = window.floored(op)
    if divisor is None and _has_dilations(op, window):
        counted = {"count_include_pad": int(count_include_pad)}
        if window.fits_attributes:
            ceil = {"ceil_mode": 1} if window.ceil_mode else {}
            return op.AveragePool(image, pads=_onnx_pads(window.pads), **window.attributes, **counted, **ceil)
        if whole.fits_attributes and not count_include_pad:  # what overhangs is no more counted than pads are
            return op.AveragePool(image, pads=_onnx_pads(whole.pads), **whole.attributes, **counted)
    # A mean over whole windows, of whose pixels those that are not to count are zeros, then scaled to those that are.
    mean = _mean_with_pads(op, image, whole)
    if divisor is not None:
        return op.Mul(mean, _constant(op, window.kernel[0] * window.kernel[1] / divisor, image.dtype))
    if count_include_pad and not window.ceil_mode:
        return mean
    plane = op.Shape(image, start=2, end=4)
    ones = op.Expand(_constant(op, 1, image.dtype), op.Concat(_constant(op, [1, 1], _type("INT64")), plane, axis=0))
    ones.dtype = image.dtype
    ones.shape = type(image.shape)([1, 1, *image.shape[2:]])
    if count_include_pad:
        overhang = [more - pad for more, pad in zip(whole.pads, window.pads, strict=True)]
        ones = _padded(op, ones, window.pads, 1)
        ones.dtype = image.dtype
        return op.Div(mean, _mean_with_pads(op, ones, whole._replace(pads=tuple(overhang))))
    return op.Div(mean, _mean_with_pads(op, ones, whole))


def _has_dilations(op: Opset, window: Window) -> bool:
    return window.dilation == (1, 1) or op.version >= 19


def _mean_with_pads(op: Opset, image: Value, window: Window) -> Value:
    """Mean over windows whose pads are zeros like others."""
    if not _has_dilations(op, window):
        planes = op.Reshape(
            padded := _padded(op, image, window.pads),
            op.Concat(_constant(op, [-1, 1], _type("INT64")), op.Shape(padded, start=2, end=4), axis=0),
        )
        R, S = window.kernel
        filter_ = _constant(op, [[[[1 / (R * S)] * S] * R]], image.dtype)
        mean = op.Conv(planes, filter_, strides=window.stride, dilations=window.dilation)
        return op.Reshape(mean, op.Concat(op.Shape(image, start=0, end=2), op.Shape(mean, start=2, end=4), axis=0))
    if window.fits_attributes:
        return op.AveragePool(image, pads=_onnx_pads(window.pads), count_include_pad=1, **window.attributes)
    return op.AveragePool(_padded(op, image, window.pads), **window.attributes)


@_translates("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(op: Opset, a: Arguments) -> Value:
    size = _size(op, a.input)
    output_size = geometry.expand(a.operator, "output_size", a.output_size)
    if output_size == (1, 1):
        return op.GlobalAveragePool(a.input)
    window = _even_window(size, output_size)
    if window is not None:
        return op.AveragePool(a.input, **window.attributes)
    mean = a.input
    for axis, n, m in ((2, size[0], output_size[0]), (3, size[1], output_size[1])):
        if isinstance(m, int) and m == 1:
            mean = op.ReduceMean(mean, [axis], keepdims=1)
            continue
        windows = _adaptive_windows(a, n, m)
        shares = [[1 / len(window) if i in window else 0.0 for i in range(n)] for window in windows]
        matrix = _constant(op, shares, a.input.dtype)
        mean = op.MatMul(matrix, mean) if axis == 2 else op.MatMul(mean, op.Transpose(matrix, perm=[1, 0]))
    return mean


@_translates("global_avg_pool2d")
def _global_avg_pool2d(op: Opset, a: Arguments) -> Value:
    return op.GlobalAveragePool(a.input)


@_translates("lp_pool2d")
def _lp_pool2d(op: Opset, a: Arguments) -> Value:
    window, p, image = _window(a), a.norm_type, a.input
    if math.isinf(p):
        a.input = op.Abs(image) if p > 0 else op.Neg(op.Abs(image))
        a.input.dtype, a.input.shape = image.dtype, image.shape
        maxima, _ = _sliding_maxima(op, a, window, False)
        return maxima if p > 0 else op.Neg(maxima)
    # LpPool takes the power of the magnitude, and does not scale windows that overhang.
    if p > 0 and p % 2 == 0 and not window.ceil_mode and window.fits_attributes:
        return op.LpPool(image, p=int(p), pads=_onnx_pads(window.pads), **window.attributes)
    powers = op.Pow(image, _constant(op, p, image.dtype))
    powers.dtype, powers.shape = image.dtype, image.shape
    mean = _mean(op, a, powers, window, True)
    total = op.Mul(mean, _constant(op, window.kernel[0] * window.kernel[1], image.dtype))
    return op.Pow(total, _constant(op, 1 / p, image.dtype))


# --- gradients ---


@_translates("conv2d_grad_bias")
def _conv2d_grad_bias(op: Opset, a: Arguments) -> Value:
    return op.ReduceSum(a.grad_output, [0, 2, 3], keepdims=0)


@_translates("conv2d_grad_weight", "avg_pool2d_grad_input", "adaptive_avg_pool2d_grad_input")
def _gradient(op: Opset, a: Arguments) -> Value:
    raise _refusal(a, "grad_output", "ONNX has no operator for this gradient")
