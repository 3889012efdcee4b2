"""conv2d: cross-correlation of images with filters, and its gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import _geometry as geometry
from .. import _library
from .._geometry import Int, Padding, Pair
from . import _dispatch as dispatch
from ._complex import complex_as_real
from ._dispatch import Arguments, below_autograd, ops

# The convolution pairs three tensors; each pass computes one of them from the other two.
OUTPUT, INPUT, WEIGHT = range(3)
_OPERANDS = {OUTPUT: (INPUT, WEIGHT), INPUT: (OUTPUT, WEIGHT), WEIGHT: (OUTPUT, INPUT)}
# The dimension that two of them share and the third lacks.
_SHARED = {frozenset((OUTPUT, INPUT)): "N", frozenset((INPUT, WEIGHT)): "C", frozenset((OUTPUT, WEIGHT)): "K"}
PASSES = ("forward", "grad_input", "grad_weight")  # computing OUTPUT, INPUT, WEIGHT


@dataclass(slots=True)
class Parameters:
    """What fixes a convolution besides its tensors."""

    window: tuple[Any, ...]  # stride, padding (top, bottom, left, right), dilation, groups
    options: dict[str, Any]  # padding_mode, allow_tf32, algorithm, where they are not the defaults
    input_size: Sequence[Int]  # ends in (height, width), as does kernel_size
    kernel_size: Sequence[Int]
    memory_format: torch.memory_format
    weight_memory_format: torch.memory_format


def given(window: tuple[Any, ...]) -> tuple[Any, ...]:
    """A window without the last arguments that are the operators' defaults."""
    return dispatch.given(window, ((1, 1), dispatch.NO_PADDING, (1, 1), 1))


def _call_pass(
    computed: int, first: torch.Tensor, second: torch.Tensor, bias: torch.Tensor | None, p: Parameters
) -> torch.Tensor:
    """Calls the operator of a pass on its operands, in the order of _OPERANDS."""
    if computed == OUTPUT:
        return ops.conv2d.default(first, second, bias, *given(p.window), **p.options)
    if computed == INPUT:
        return ops.conv2d_grad_input.default(
            first, second, p.input_size[-2:], *given(p.window), bias=bias, memory_format=p.memory_format, **p.options
        )
    return ops.conv2d_grad_weight.default(
        first, second, p.kernel_size[-2:], *given(p.window), memory_format=p.weight_memory_format, **p.options
    )


class Contraction(dispatch.Function):
    """One pass of a convolution. The passes are the derivatives of one trilinear form, so the gradient of each with
    respect to an operand is the pass that computes that operand: all orders of differentiation close on these three.
    The two that compute an image add a bias to its channels."""

    @staticmethod
    def forward(
        first: torch.Tensor, second: torch.Tensor, bias: torch.Tensor | None, computed: int, p: Parameters
    ) -> torch.Tensor:
        with below_autograd():
            return _call_pass(computed, first, second, bias, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        first, second, _, ctx.computed, ctx.parameters = inputs
        # The gradient of one operand reads only the other.
        needs = ctx.needs_input_grad
        ctx.save_for_backward(first if needs[1] else None, second if needs[0] else None)
        ctx.save_for_forward(first, second)
        ctx.output_size = output.shape

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        first_slot, second_slot = _OPERANDS[ctx.computed]
        first, second = ctx.saved_tensors
        values = {ctx.computed: grad, first_slot: first, second_slot: second}

        def derivative(slot: int) -> torch.Tensor:
            a, b = _OPERANDS[slot]
            return Contraction.call(values[a], values[b], None, slot, ctx.parameters)

        needs = ctx.needs_input_grad
        return (
            derivative(first_slot) if needs[0] else None,
            derivative(second_slot) if needs[1] else None,
            BiasGradient.call(grad) if needs[2] else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, first_tangent: Any, second_tangent: Any, bias_tangent: Any, *_: None) -> torch.Tensor:
        first, second = Contraction.primals(ctx)
        terms = []
        for tangent, operands in ((first_tangent, (first_tangent, second)), (second_tangent, (first, second_tangent))):
            if tangent is not None:
                terms.append(Contraction.call(*operands, bias_tangent, ctx.computed, ctx.parameters))
                bias_tangent = None
        if bias_tangent is not None:
            terms.append(bias_tangent[:, None, None].expand(ctx.output_size))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        first: torch.Tensor,
        second: torch.Tensor,
        bias: torch.Tensor | None,
        computed: int,
        p: Parameters,
    ) -> tuple[torch.Tensor, int]:
        """Folds the mapped dimension V into a dimension that the convolution has.

        Images share N, the input and the weight share C, the output and the weight share K. V folds into the one that
        the mapped operand shares with the result; where both operands are mapped, every sample gets groups of its own.
        """
        V, groups = info.batch_size, p.window[-1]
        operands = list(zip(_OPERANDS[computed], (first, second), in_dims, strict=False))
        mapped = [slot for slot, _, dim in operands if dim is not None]
        fold = None if not mapped else "groups" if len(mapped) == 2 else _SHARED[frozenset((*mapped, computed))]
        bias_dim = in_dims[2] if bias is not None else None

        def place(slot: int, rank: int) -> tuple[int, int]:
            """The dimension of a sample that V folds into, and the product of what stands before V in it."""
            if fold == "groups":
                return (0 if slot == WEIGHT else rank - 3), 1
            if slot != WEIGHT:
                return rank - 3, groups
            return (0, groups) if fold == "K" else (1, 1)

        def folded(slot: int, tensor: torch.Tensor, dim: int | None) -> torch.Tensor:
            if dim is None:
                return tensor
            if fold == "N":
                return dispatch.fold_into_batch(tensor, dim, V)
            return dispatch.fold_dimension(tensor.movedim(dim, 0), *place(slot, tensor.dim() - 1))

        added = None  # a mapped bias, where the result's channels are not
        if bias is not None and fold in (None, "N"):
            if bias_dim is not None:
                added, bias = bias.movedim(bias_dim, 0), None
        elif bias is not None:
            stacked = bias.expand(V, -1) if bias_dim is None else bias.movedim(bias_dim, 0)
            bias = dispatch.fold_dimension(stacked, 0, 1 if fold == "groups" else groups)
        if fold == "groups":
            p = replace(p, window=(*p.window[:-1], groups * V))
        result = Contraction.call(*(folded(*operand) for operand in operands), bias, computed, p)
        image_rank = next(dispatch.sample_rank(tensor, dim) for slot, tensor, dim in operands if slot != WEIGHT)
        rank = 4 if computed == WEIGHT else image_rank
        if fold == "N":
            result = dispatch.unfold_from_batch(result, V, rank)
        elif fold is not None:
            result = dispatch.unfold_dimension(result, *place(computed, rank), V)
        return result if added is None else result + added.reshape(V, *(1,) * (rank - 3), -1, 1, 1), 0


class BiasGradient(dispatch.Function):
    """Sums grad_output over all but channels; its transpose expands, which torch does without a copy."""

    @staticmethod
    def forward(grad_output: torch.Tensor) -> torch.Tensor:
        with below_autograd():
            return ops.conv2d_grad_bias.default(grad_output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad[:, None, None].expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return BiasGradient.call(tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], grad_output: torch.Tensor) -> tuple[torch.Tensor, int]:
        moved = grad_output.movedim(in_dims[0], -4)
        return BiasGradient.call(moved.flatten(-4, -3)).unflatten(0, (info.batch_size, -1)), 0


@dispatch.public
def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""2-D convolution (cross-correlation) of images with filters; a drop-in for :func:`torch.nn.functional.conv2d`.

    .. math::
        y_{n,k,p,q} = b_k + \sum_{c,r,s} x_{n,\,c,\;p s_h + r d_h - t,\;q s_w + s d_w - l} \; w_{k,c,r,s}

    with stride :math:`(s_h, s_w)`, dilation :math:`(d_h, d_w)`, padding :math:`t` above and :math:`l` to the left,
    pixels outside the image being what ``padding_mode`` says, and :math:`c` running over the channels of :math:`k`'s
    group.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, bfloat16, float16, complex64 or complex128; any
            strides. The output keeps its memory format (contiguous or channels_last).
        weight: ``(K, C / groups, R, S)``, same dtype and device.
        bias: ``(K,)``, same dtype and device, or None.
        stride: positive int or (height, width).
        padding: non-negative int, (height, width), ``((top, bottom), (left, right))``, or a mode: ``"valid"`` (none),
            ``"same"`` (output ``ceil(H / stride)``, for any stride; an odd pixel goes below/right), ``"same_lower"``
            (above/left) or ``"full"`` (every position where filter and image meet).
        dilation: positive int or (height, width).
        groups: positive divisor of C and K.
        padding_mode: what pixels outside the image read. For a row ``a b c d`` and two on each side: ``"zeros"``
            (``0 0|a b c d|0 0``), ``"reflect"`` (``c b|a b c d|c b``; padding less than the size), ``"replicate"``
            (``a a|a b c d|d d``), ``"circular"`` (``c d|a b c d|a b``; padding at most the size) or ``"symmetric"``
            (``b a|a b c d|d c``; padding at most the size). Kernels read through an index map: no padded copy of the
            input is made, none is saved.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("conv2d", device)``; never changes what is
            computed.

    Returns:
        ``(N, K, P, Q)`` or ``(K, P, Q)`` with ``P = floor((H + top + bottom - d (R - 1) - 1) / s) + 1``; so is ``Q``.
        Sums are accumulated in float32 (float64 for float64). On CUDA, float32 uses TF32 tensor cores where
        ``torch.backends.cudnn.allow_tf32`` says so. On CPUs with AMX, whose tiles and rounding bfloat16 uses,
        denormal numbers count as zero there; ``TORCH_CONVOPS_ISA=avx512`` in the environment does without.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type, or dtypes differ.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    steps, spacing = geometry.pair("stride", stride), geometry.pair("dilation", dilation)
    groups = geometry.integer("groups", groups)  # type: ignore[assignment]
    if input.is_complex():
        real = functools.partial(
            conv2d, stride=steps, padding=padding, dilation=spacing, groups=groups, padding_mode=padding_mode
        )
        return complex_as_real(functools.partial(real, algorithm=algorithm), "conv2d", input, weight, bias)
    options = call_options(input, algorithm, padding_mode)
    traced = dispatch.is_traced()
    if traced and isinstance(padding, str):
        return ops.conv2d.padding(input, weight, bias, steps, padding, spacing, groups, **options)
    pads = geometry.sides(padding, input.shape, weight.shape, steps, spacing)
    window = (steps, pads, spacing, groups)
    if traced:
        return ops.conv2d(input, weight, bias, *window, **options)
    if torch._C._is_any_autocast_enabled():
        input, weight, bias = dispatch.autocast(input, weight, bias)  # type: ignore[assignment]
    if dispatch.is_plain(input, weight, bias):
        with below_autograd():
            return ops.conv2d.default(input, weight, bias, *given(window), **options)
    p = Parameters(window, options, input.shape, weight.shape, format_of(input), format_of(weight))
    return Contraction.call(input, weight, bias, OUTPUT, p)


def call_options(input: torch.Tensor, algorithm: str, padding_mode: str = "zeros") -> dict[str, Any]:
    """The operators' keyword arguments, without defaults."""
    options = dispatch.algorithm_option(algorithm)
    if padding_mode != "zeros":
        options["padding_mode"] = padding_mode
    if dispatch.tf32_allowed(input):
        options["allow_tf32"] = True
    return options


def format_of(tensor: torch.Tensor) -> torch.memory_format:
    return dispatch.memory_format(dispatch.is_channels_last(tensor))


def conv2d_choice(
    pass_: str,
    input: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> str:
    """Returns the algorithm that ``"auto"`` takes for a pass of this convolution.

    Args:
        pass_: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        input, ...: as for :func:`conv2d`; only shapes, dtype, device and memory format of the tensors are looked at.
    """
    steps, spacing = geometry.pair("stride", stride), geometry.pair("dilation", dilation)
    pads = geometry.sides(padding, input.shape, weight.shape, steps, spacing)
    dispatch.check_dtype("conv2d", "input", input)
    sizes = [
        *geometry.image_size("conv2d", "input", input),
        weight.shape[0],
        *weight.shape[-2:],
        *steps,
        *pads,
        *spacing,
        groups,
        geometry.index_of("padding_mode", padding_mode, geometry.PADDING_MODES),
    ]
    formats = (dispatch.is_channels_last(input), dispatch.is_channels_last(weight))
    return _library.conv2d_choice(
        input.is_cuda,
        geometry.index_of("pass_", pass_, PASSES),
        dispatch.FLOATS.index(input.dtype),
        sizes,
        formats,
        dispatch.tf32_allowed(input),
    )


def conv2d_output_size(
    input_size: Pair, kernel_size: Pair, stride: Pair = 1, padding: Padding = 0, dilation: Pair = 1
) -> tuple[int, int]:
    """Returns the height and width of a convolution's output.

    With n input, k kernel, s stride, d dilation and e = d (k - 1) + 1, along an axis::

        pads given     floor((n + pads - e) / s) + 1
        "valid"        floor((n - e) / s) + 1
        "same"         ceil(n / s)
        "same_lower"   ceil(n / s)
        "full"         floor((n + e - 2) / s) + 1

    Args:
        input_size: positive int or (height, width).
        kernel_size, stride, padding, dilation: as for :func:`conv2d`.

    Raises:
        ValueError: a size is not positive, or the kernel does not fit into the padded input.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    size, kernel = geometry.pair("input_size", input_size), geometry.pair("kernel_size", kernel_size)
    steps, spacing = geometry.pair("stride", stride), geometry.pair("dilation", dilation)
    pads = geometry.sides(padding, size, kernel, steps, spacing)
    _, _, P, Q = geometry.conv2d_size("conv2d_output_size", (1, 1, *size), (1, 1, *kernel), steps, pads, spacing, 1)
    return int(P), int(Q)


# --- registration: what torch.ops.torch_convops.* does under autograd, autocast and fake tensors ---


def _parameters(
    a: Arguments, input_size: Any, kernel_size: Any, memory_format: Any, weight_memory_format: Any
) -> Parameters:
    options = {"padding_mode": a.padding_mode, "allow_tf32": a.allow_tf32, "algorithm": a.algorithm}
    window = (a.stride, a.padding, a.dilation, a.groups)
    return Parameters(window, options, input_size, kernel_size, memory_format, weight_memory_format)


def _conv2d_differentiable(a: Arguments) -> torch.Tensor:
    formats = format_of(a.input), format_of(a.weight)
    p = _parameters(a, a.input.shape, a.weight.shape, *formats)
    return Contraction.call(a.input, a.weight, a.bias, OUTPUT, p)


def _grad_input_differentiable(a: Arguments) -> torch.Tensor:
    formats = a.memory_format or format_of(a.grad_output), format_of(a.weight)
    input_size = geometry.expand("conv2d_grad_input", "input_size", a.input_size)
    p = _parameters(a, input_size, a.weight.shape, *formats)
    return Contraction.call(a.grad_output, a.weight, a.bias, INPUT, p)


def _grad_weight_differentiable(a: Arguments) -> torch.Tensor:
    formats = format_of(a.input), a.memory_format or torch.contiguous_format
    kernel_size = geometry.expand("conv2d_grad_weight", "kernel_size", a.kernel_size)
    p = _parameters(a, a.input.shape, kernel_size, *formats)
    return Contraction.call(a.grad_output, a.input, None, WEIGHT, p)


def _grad_bias_differentiable(a: Arguments) -> torch.Tensor:
    return BiasGradient.call(a.grad_output)


dispatch.register_autograd("conv2d", _conv2d_differentiable)
dispatch.register_autograd("conv2d_grad_input", _grad_input_differentiable)
dispatch.register_autograd("conv2d_grad_weight", _grad_weight_differentiable)
dispatch.register_autograd("conv2d_grad_bias", _grad_bias_differentiable)
dispatch.register_autocast("conv2d")


def _padding_composite(a: Arguments) -> torch.Tensor:
    steps, spacing = geometry.expand("conv2d", "stride", a.stride), geometry.expand("conv2d", "dilation", a.dilation)
    sides = geometry.sides(a.padding, a.input.shape, a.weight.shape, steps, spacing)
    return ops.conv2d.default(**{**vars(a), "padding": sides})


dispatch.register_composite("conv2d.padding", _padding_composite)


def _window(a: Arguments) -> tuple[Any, ...]:
    return a.stride, a.padding, a.dilation, a.groups, a.padding_mode


@dispatch.register_fake("conv2d")
def _conv2d_fake(a: Arguments) -> torch.Tensor:
    dispatch.check_dtype("conv2d", "input", a.input)
    dispatch.check_same("conv2d", "weight", a.weight, a.input)
    input_size = geometry.image_size("conv2d", "input", a.input)
    geometry.check_weight_size("conv2d", a.weight.shape)
    size = geometry.conv2d_size("conv2d", input_size, a.weight.shape, *_window(a))
    _check_bias("conv2d", a.bias, a.input, "input", size[1], "filter")
    return dispatch.empty_image(a.input, size, dispatch.is_channels_last(a.input))


@dispatch.register_fake("conv2d_grad_input")
def _grad_input_fake(a: Arguments) -> torch.Tensor:
    op = "conv2d_grad_input"
    dispatch.check_dtype(op, "grad_output", a.grad_output)
    dispatch.check_same(op, "weight", a.weight, a.grad_output, "grad_output")
    grad_size = geometry.image_size(op, "grad_output", a.grad_output)
    geometry.check_weight_size(op, a.weight.shape)
    H, W = geometry.expand(op, "input_size", a.input_size)
    if a.groups <= 0:
        raise ValueError(f"{op}: groups must be positive, got {a.groups}")
    C = geometry.checked(op, "weight channels * groups", a.weight.shape[1] * a.groups)
    size = (grad_size[0], C, H, W)
    geometry.check_size(op, "grad_output", grad_size, geometry.conv2d_size(op, size, a.weight.shape, *_window(a)))
    _check_bias(op, a.bias, a.grad_output, "grad_output", C, "input channel")
    geometry.check_numel(op, "grad_input", size)
    if a.padding_mode != "zeros":  # the gradient of the padded image comes first
        top, bottom, left, right = geometry.expand_sides(op, a.padding)
        geometry.check_numel(op, "grad_input", (*size[:2], top + H + bottom, left + W + right))
    return dispatch.empty_image(a.grad_output, size, dispatch.wants_channels_last(a.grad_output, a.memory_format))


@dispatch.register_fake("conv2d_grad_weight")
def _grad_weight_fake(a: Arguments) -> torch.Tensor:
    op = "conv2d_grad_weight"
    dispatch.check_dtype(op, "input", a.input)
    dispatch.check_same(op, "grad_output", a.grad_output, a.input)
    input_size = geometry.image_size(op, "input", a.input)
    grad_size = geometry.image_size(op, "grad_output", a.grad_output)
    R, S = geometry.expand(op, "kernel_size", a.kernel_size)
    if a.groups <= 0:
        raise ValueError(f"{op}: groups must be positive, got {a.groups}")
    size = (grad_size[1], input_size[1] // a.groups, R, S)
    geometry.check_size(op, "grad_output", grad_size, geometry.conv2d_size(op, input_size, size, *_window(a)))
    geometry.check_numel(op, "grad_weight", size)
    memory_format = dispatch.memory_format(a.memory_format is torch.channels_last)
    return torch.empty(size, dtype=a.input.dtype, device=a.input.device, memory_format=memory_format)


@dispatch.register_fake("conv2d_grad_bias")
def _grad_bias_fake(a: Arguments) -> torch.Tensor:
    dispatch.check_dtype("conv2d_grad_bias", "grad_output", a.grad_output)
    return a.grad_output.new_empty(geometry.image_size("conv2d_grad_bias", "grad_output", a.grad_output)[1])


def _check_bias(
    op: str, bias: torch.Tensor | None, on: torch.Tensor, on_name: str, channels: Int, channels_name: str
) -> None:
    if bias is not None:
        dispatch.check_same(op, "bias", bias, on, on_name)
        geometry.check_bias_size(op, bias.shape, channels, channels_name)
