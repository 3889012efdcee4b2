"""conv2d: cross-correlation of images with filters, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .. import _geometry as geometry
from .. import _library
from .._geometry import Int, Padding, Pair
from . import _dispatch as dispatch
from ._dispatch import below_autograd, library, ops

# The convolution pairs three tensors; each pass computes one of them from the other two.
OUTPUT, INPUT, WEIGHT = range(3)
_OPERANDS = {OUTPUT: (INPUT, WEIGHT), INPUT: (OUTPUT, WEIGHT), WEIGHT: (OUTPUT, INPUT)}
PASSES = ("forward", "grad_input", "grad_weight")  # computing OUTPUT, INPUT, WEIGHT


class Parameters(NamedTuple):
    """What fixes a convolution besides its tensors. padding is (top, bottom, left, right)."""

    stride: Sequence[Int]
    padding: Sequence[Int]
    dilation: Sequence[Int]
    groups: Int
    input_size: Sequence[Int]
    kernel_size: Sequence[Int]
    memory_format: torch.memory_format
    weight_memory_format: torch.memory_format
    allow_tf32: bool
    algorithm: str


def _call(
    computed: int, first: torch.Tensor, second: torch.Tensor, bias: torch.Tensor | None, p: Parameters
) -> torch.Tensor:
    """Calls the operator of a pass on its operands, in the order of _OPERANDS."""
    window = (p.stride, p.padding, p.dilation, p.groups)
    options: dict[str, Any] = {"allow_tf32": p.allow_tf32, "algorithm": p.algorithm}
    if computed == OUTPUT:
        return ops.conv2d.default(first, second, bias, *window, **options)
    if computed == INPUT:
        return ops.conv2d_grad_input.default(
            first, second, p.input_size, *window, memory_format=p.memory_format, **options
        )
    return ops.conv2d_grad_weight.default(
        first, second, p.kernel_size, *window, memory_format=p.weight_memory_format, **options
    )


class Contraction(dispatch.Function):
    """One pass of a convolution. The passes are the derivatives of one trilinear form, so the gradient of each with
    respect to an operand is the pass that computes that operand: all orders of differentiation close on these three."""

    @staticmethod
    def forward(
        first: torch.Tensor, second: torch.Tensor, bias: torch.Tensor | None, computed: int, p: Parameters
    ) -> torch.Tensor:
        with below_autograd():
            return _call(computed, first, second, bias, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        first, second, _, ctx.computed, ctx.parameters = inputs
        # The gradient of one operand reads only the other.
        needs_first, needs_second = ctx.needs_input_grad[:2]
        ctx.save_for_backward(first if needs_second else None, second if needs_first else None)
        ctx.save_for_forward(first, second)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
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
    def jvp(ctx: Any, first_tangent: Any, second_tangent: Any, bias_tangent: Any, *_: None) -> torch.Tensor:  # type: ignore[override]
        first, second = ctx.saved_tensors
        tangent = None
        if first_tangent is not None:
            tangent = Contraction.call(first_tangent, second, bias_tangent, ctx.computed, ctx.parameters)
            bias_tangent = None
        if second_tangent is not None:
            other = Contraction.call(first, second_tangent, bias_tangent, ctx.computed, ctx.parameters)
            bias_tangent = None
            tangent = other if tangent is None else tangent + other
        if bias_tangent is not None:  # only the bias has a tangent
            tangent = Contraction.call(torch.zeros_like(first), second, bias_tangent, ctx.computed, ctx.parameters)
        assert tangent is not None
        return tangent

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
        """Samples that share the weight fold into the batch; else each sample gets groups of its own."""
        size = info.batch_size
        operands = list(zip(_OPERANDS[computed], (first, second), in_dims, strict=False))
        image_rank = next(dispatch.sample_rank(tensor, dim) for slot, tensor, dim in operands if slot != WEIGHT)
        bias_dim = in_dims[2] if bias is not None else None
        if computed != WEIGHT and in_dims[1] is None and bias_dim is None:
            folded = Contraction.call(dispatch.fold_into_batch(first, in_dims[0], size), second, bias, computed, p)
            return dispatch.unfold_from_batch(folded, size, image_rank), 0

        def into_groups(slot: int, tensor: torch.Tensor, dim: int | None) -> torch.Tensor:
            moved = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            # (V, K, C, R, S) or (V, C, H, W) join V with the channels in front; (V, N, C, H, W) move it there first.
            return moved.flatten(0, 1) if slot == WEIGHT or image_rank == 3 else moved.movedim(0, 1).flatten(1, 2)

        grouped_bias = None
        if bias is not None:
            grouped_bias = (bias.expand(size, -1) if bias_dim is None else bias.movedim(bias_dim, 0)).flatten()
        result = Contraction.call(
            *(into_groups(*operand) for operand in operands), grouped_bias, computed, p._replace(groups=p.groups * size)
        )
        if computed == WEIGHT or image_rank == 3:
            return result.unflatten(0, (size, -1)), 0
        return result.unflatten(1, (size, -1)), 1


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
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return grad[:, None, None].expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return BiasGradient.call(tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], grad_output: torch.Tensor) -> tuple[torch.Tensor, int]:
        moved = grad_output.movedim(in_dims[0], -4)
        return BiasGradient.call(moved.flatten(-4, -3)).unflatten(0, (info.batch_size, -1)), 0


def _format_of(tensor: torch.Tensor) -> torch.memory_format:
    return dispatch.memory_format(dispatch.is_channels_last(tensor))


def _tf32_allowed(tensor: torch.Tensor) -> bool:
    """torch's own switch for float32 convolutions on CUDA tensor cores."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and torch.backends.cudnn.allow_tf32


def _autocast(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Casts as torch's autocast does for F.conv2d: floating tensors but float64, to the device's autocast dtype."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


@dispatch.raises_argument_errors
def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    r"""2-D convolution (cross-correlation) of images with filters; a drop-in for :func:`torch.nn.functional.conv2d`.

    .. math::
        y_{n,k,p,q} = b_k + \sum_{c,r,s} x_{n,\,c,\;p s_h + r d_h - t,\;q s_w + s d_w - l} \; w_{k,c,r,s}

    with stride :math:`(s_h, s_w)`, dilation :math:`(d_h, d_w)`, padding :math:`t` above and :math:`l` to the left,
    pixels outside the image being zero, and :math:`c` running over the channels of :math:`k`'s group.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float32, float64, bfloat16 or float16; any strides. The output keeps
            its memory format (contiguous or channels_last).
        weight: ``(K, C / groups, R, S)``, same dtype and device.
        bias: ``(K,)``, same dtype and device, or None.
        stride: positive int or (height, width).
        padding: non-negative int, (height, width), ``((top, bottom), (left, right))``, or a mode: ``"valid"`` (none),
            ``"same"`` (output ``ceil(H / stride)``, for any stride; an odd pixel goes below/right), ``"same_lower"``
            (above/left) or ``"full"`` (every position where filter and image meet).
        dilation: positive int or (height, width).
        groups: positive divisor of C and K.
        algorithm: ``"auto"`` or a name from ``torch_convops.algorithms("conv2d", device)``; never changes what is
            computed.

    Returns:
        ``(N, K, P, Q)`` or ``(K, P, Q)`` with ``P = floor((H + top + bottom - d (R - 1) - 1) / s) + 1``; so is ``Q``.
        Sums are accumulated in float32 (float64 for float64). On CUDA, float32 uses TF32 tensor cores where
        ``torch.backends.cudnn.allow_tf32`` says so.

    Raises:
        ValueError: an argument's value breaks a rule above; the message names argument, value and rule.
        TypeError: an argument is of the wrong type, or dtypes differ.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
    """
    steps, spacing = geometry.pair("stride", stride), geometry.pair("dilation", dilation)
    pads = geometry.sides(padding, input.shape[-2:], weight.shape[-2:], steps, spacing)
    window = (steps, pads, spacing, groups)
    options: dict[str, Any] = {"allow_tf32": _tf32_allowed(input), "algorithm": algorithm}
    if torch.compiler.is_compiling():
        return ops.conv2d(input, weight, bias, *window, **options)
    if torch._C._is_any_autocast_enabled():
        input, weight, bias = _autocast(input, weight, bias)  # type: ignore[assignment]
    if dispatch.is_plain(input, weight, bias):
        with below_autograd():
            return ops.conv2d.default(input, weight, bias, *window, **options)
    return _differentiable(input, weight, bias, *window, **options)


def _differentiable(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: Int = 1,
    *,
    allow_tf32: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    p = Parameters(
        stride,
        padding,
        dilation,
        groups,
        input.shape[-2:],
        weight.shape[-2:],
        _format_of(input),
        _format_of(weight),
        allow_tf32,
        algorithm,
    )
    return Contraction.call(input, weight, bias, OUTPUT, p)


def conv2d_choice(
    pass_: str,
    input: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> str:
    """Returns the algorithm that ``"auto"`` takes for a pass of this convolution.

    Args:
        pass_: ``"forward"``, ``"grad_input"`` or ``"grad_weight"``.
        input, weight, stride, padding, dilation, groups: as for :func:`conv2d`; only shapes, dtype, device and memory
            format are looked at.
    """
    steps, spacing = geometry.pair("stride", stride), geometry.pair("dilation", dilation)
    pads = geometry.sides(padding, input.shape[-2:], weight.shape[-2:], steps, spacing)
    dispatch.check_dtype("conv2d", "input", input)
    sizes = [
        *geometry.image_size("conv2d", "input", input),
        weight.shape[0],
        *weight.shape[-2:],
        *steps,
        *pads,
        *spacing,
        groups,
    ]
    formats = (dispatch.is_channels_last(input), dispatch.is_channels_last(weight))
    return _library.conv2d_choice(
        input.is_cuda,
        geometry.index_of("pass_", pass_, PASSES),
        dispatch.FLOATS.index(input.dtype),
        sizes,
        formats,
        _tf32_allowed(input),
    )


# --- registration: what torch.ops.torch_convops.* does under autograd, autocast and fake tensors ---

dispatch.register_autograd("conv2d", _differentiable)


def _grad_input_differentiable(
    grad_output: torch.Tensor,
    weight: torch.Tensor,
    input_size: Any,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: Int = 1,
    *,
    memory_format: torch.memory_format | None = None,
    allow_tf32: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    p = Parameters(
        stride,
        padding,
        dilation,
        groups,
        input_size,
        weight.shape[-2:],
        memory_format or _format_of(grad_output),
        _format_of(weight),
        allow_tf32,
        algorithm,
    )
    return Contraction.call(grad_output, weight, None, INPUT, p)


def _grad_weight_differentiable(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: Int = 1,
    *,
    memory_format: torch.memory_format | None = None,
    allow_tf32: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    p = Parameters(
        stride,
        padding,
        dilation,
        groups,
        input.shape[-2:],
        kernel_size,
        _format_of(input),
        memory_format or torch.contiguous_format,
        allow_tf32,
        algorithm,
    )
    return Contraction.call(grad_output, input, None, WEIGHT, p)


dispatch.register_autograd("conv2d_grad_input", _grad_input_differentiable)
dispatch.register_autograd("conv2d_grad_weight", _grad_weight_differentiable)


def _grad_bias_differentiable(grad_output: torch.Tensor) -> torch.Tensor:
    return BiasGradient.call(grad_output)


dispatch.register_autograd("conv2d_grad_bias", _grad_bias_differentiable)


def _conv2d_autocast(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    input, weight, bias = _autocast(input, weight, bias)  # type: ignore[assignment]
    with dispatch.excluding_autocast():
        return ops.conv2d.default(input, weight, bias, *args, **kwargs)


library.impl("conv2d", _conv2d_autocast, "AutocastCPU")
library.impl("conv2d", _conv2d_autocast, "AutocastCUDA")


@dispatch.register_fake("conv2d")
def _conv2d_fake(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: Int = 1,
    *,
    allow_tf32: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    dispatch.check_dtype("conv2d", "input", input)
    dispatch.check_same("conv2d", "weight", weight, input)
    input_size = geometry.image_size("conv2d", "input", input)
    _check_weight("conv2d", weight)
    size = geometry.conv2d_size("conv2d", input_size, weight.shape, stride, padding, dilation, groups)
    if bias is not None:
        dispatch.check_same("conv2d", "bias", bias, input)
        if bias.dim() != 1 or bias.shape[0] != size[1]:
            raise ValueError(
                f"conv2d: bias must be 1-D with one value per filter ({size[1]}), got {geometry.as_tuple(bias.shape)}"
            )
    return dispatch.empty_image(input, size, dispatch.is_channels_last(input))


@dispatch.register_fake("conv2d_grad_input")
def _grad_input_fake(
    grad_output: torch.Tensor,
    weight: torch.Tensor,
    input_size: Any,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: Int = 1,
    *,
    memory_format: torch.memory_format | None = None,
    allow_tf32: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    op = "conv2d_grad_input"
    dispatch.check_dtype(op, "grad_output", grad_output)
    dispatch.check_same(op, "weight", weight, grad_output, "grad_output")
    grad_size = geometry.image_size(op, "grad_output", grad_output)
    _check_weight(op, weight)
    H, W = geometry.expand(op, "input_size", input_size)
    if groups <= 0:
        raise ValueError(f"{op}: groups must be positive, got {groups}")
    size = (grad_size[0], geometry.checked(op, "weight channels * groups", weight.shape[1] * groups), H, W)
    geometry.check_size(
        op, "grad_output", grad_size, geometry.conv2d_size(op, size, weight.shape, stride, padding, dilation, groups)
    )
    return dispatch.empty_image(grad_output, size, dispatch.wants_channels_last(grad_output, memory_format))


@dispatch.register_fake("conv2d_grad_weight")
def _grad_weight_fake(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: Int = 1,
    *,
    memory_format: torch.memory_format | None = None,
    allow_tf32: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    op = "conv2d_grad_weight"
    dispatch.check_dtype(op, "input", input)
    dispatch.check_same(op, "grad_output", grad_output, input)
    input_size = geometry.image_size(op, "input", input)
    grad_size = geometry.image_size(op, "grad_output", grad_output)
    R, S = geometry.expand(op, "kernel_size", kernel_size)
    if groups <= 0:
        raise ValueError(f"{op}: groups must be positive, got {groups}")
    size = (grad_size[1], input_size[1] // groups, R, S)
    geometry.check_size(
        op, "grad_output", grad_size, geometry.conv2d_size(op, input_size, size, stride, padding, dilation, groups)
    )
    channels_last = memory_format is torch.channels_last
    return torch.empty(
        size, dtype=input.dtype, device=input.device, memory_format=dispatch.memory_format(channels_last)
    )


@dispatch.register_fake("conv2d_grad_bias")
def _grad_bias_fake(grad_output: torch.Tensor) -> torch.Tensor:
    dispatch.check_dtype("conv2d_grad_bias", "grad_output", grad_output)
    return grad_output.new_empty(geometry.image_size("conv2d_grad_bias", "grad_output", grad_output)[1])


def _check_weight(op: str, weight: torch.Tensor) -> None:
    if weight.dim() != 4:
        raise ValueError(f"{op}: weight must be 4-D, got {weight.dim()}-D")
