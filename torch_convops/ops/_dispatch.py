"""What every operator's page shares: the way below autograd, error types, fakes and the Function of a linear map.

Each public function takes one of three ways:

* nothing requires grad and no transform is active: straight to the kernel, below autograd;
* eager autograd or a ``torch.func`` transform: an ``autograd.Function`` with ``setup_context``, ``vmap`` and ``jvp``;
* while compiling, exporting or tracing: the registered operator, whose Autograd kernel applies that same Function
  (Dynamo does not trace a Function with a ``jvp``).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch._prims_common import suggest_memory_format
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function

from .. import _geometry as geometry
from .. import _library  # loads the operators

P = ParamSpec("P")
R = TypeVar("R")

ops = torch.ops.torch_convops
library = torch.library.Library("torch_convops", "IMPL")
below_autograd = torch._C._AutoDispatchBelowAutograd
transforms_active = torch._C._are_functorch_transforms_active


def is_traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records the call: what they record is the operator."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_plain(*tensors: torch.Tensor | None) -> bool:
    """Whether a call needs neither a graph, a tangent nor a transform."""
    if transforms_active() or forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return False
    return True


# What the operators' rules say where a type is wrong, not a value.
_TYPE_RULES = (" must have the dtype of ", " must be float32, ", " must be int64, ", " must be a Tensor, ")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Gives a public function ``__torch_function__``, as torch's own have it, and Python's error types.

    Subclasses of ``torch.Tensor``, proxies of ``torch.fx`` and ``TorchFunctionMode`` see the call before anything else.

    The operators check their arguments and raise RuntimeError, the only type that crosses the library's boundary. What
    they or the dispatcher's schema say of an argument becomes ValueError or TypeError here, at no cost to a good call.
    """
    prefix = f"{function.__name__}: "

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if has_torch_function(args) or (kwargs and has_torch_function(tuple(kwargs.values()))):
            return handle_torch_function(wrapper, (*args, *kwargs.values()), *args, **kwargs)
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            message = str(error)
            if type(error) is RuntimeError and message.startswith(prefix):
                kind = TypeError if any(text in message for text in _TYPE_RULES) else ValueError
                raise kind(message) from None
            if type(error) is RuntimeError and message.startswith("torch_convops::"):
                raise TypeError(message) from None
            raise_for_wrong_tensor(function.__name__, function, args, kwargs, TypeError)
            raise
        except AttributeError:
            raise_for_wrong_tensor(function.__name__, function, args, kwargs, TypeError)
            raise

    return wrapper


NO_PADDING = [0, 0, 0, 0]


def given(arguments: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of an operator without the last ones that are its defaults, each of which costs a call some time.

    The first arguments may have no default.
    """
    if is_traced():  # where a comparison of symbolic sizes would fix them
        return arguments
    count = len(arguments)
    required = count - len(defaults)
    while count > required:
        argument, default = arguments[count - 1], defaults[count - 1 - required]
        if type(argument) is not type(default):
            break
        if isinstance(argument, (list, tuple)) and type(argument[0]) is not int:  # symbolic: comparing would fix it
            break
        if argument != default:
            break
        count -= 1
    return arguments[:count]


def algorithm_option(algorithm: str) -> dict[str, Any]:
    """The keyword, where it is not the operators' default."""
    return {} if algorithm == "auto" else {"algorithm": algorithm}


def pool2d_choice(op: str, pass_: int, input: torch.Tensor, window: Sequence[Any], ceil_mode: bool) -> str:
    """The algorithm that ``"auto"`` takes for a pooling; window is kernel, stride, four sides and dilation."""
    check_dtype(op, "input", input, integers=op == "max_pool2d")
    sizes = [*geometry.image_size(op, "input", input), *(size for sizes in window for size in sizes), int(ceil_mode)]
    dtype = (FLOATS + INTEGERS).index(input.dtype)
    return _library.pool2d_choice(op, input.is_cuda, pass_, dtype, sizes, is_channels_last(input))


def raise_for_wrong_tensor(
    op: str, function: Callable[..., Any], args: Any, kwargs: Any, error: type[Exception]
) -> None:
    """Names the argument that should have been a tensor, or a dense one, once using it as one has failed."""
    for name, value in inspect.signature(function).bind_partial(*args, **kwargs).arguments.items():
        if name not in ("input", "weight", "bias", "grad_output", "offsets", "indices", "filter", "in1", "in2"):
            continue
        if name == "bias" and value is None:
            continue
        if not isinstance(value, torch.Tensor):
            raise error(f"{op}: {name} must be a Tensor, got {value!r}") from None
        if value.layout is not torch.strided or value.is_quantized or value.is_nested:
            kind = "quantized" if value.is_quantized else "nested" if value.is_nested else value.layout
            raise error(f"{op}: {name} must be a dense Tensor, got a {kind} one") from None


def raises_operator_errors(op: str, function: Callable[P, R]) -> Callable[P, R]:
    """Gives Python code behind an operator the error type of the compiled code: RuntimeError."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError) as error:
            raise RuntimeError(str(error)) from None
        except AttributeError:
            raise_for_wrong_tensor(op, function, args, kwargs, RuntimeError)
            raise

    return wrapper


E = TypeVar("E", bound=Exception)


def renamed(error: E, operator: str, name: str) -> E:
    """What an operator says of its arguments, as said by the one that called it."""
    message = str(error)
    return type(error)(name + message.removeprefix(operator)) if message.startswith(f"{operator}: ") else error


@contextmanager
def speaking_as(name: str, *operators: str) -> Iterator[None]:
    """Lets what those operators say of arguments be said by the composition that calls them."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        for operator in operators:
            error = renamed(error, operator, name)
        raise error from None


class Arguments(SimpleNamespace):
    """The arguments of a call of an operator, by the names of its schema."""


def overload(operator: str) -> Any:
    """The operator of a name such as ``conv2d`` or ``conv2d.padding``."""
    name, _, overload = operator.partition(".")
    return getattr(getattr(ops, name), overload or "default")


def by_name(operator: str, function: Callable[[Arguments], R]) -> Callable[..., R]:
    """A function of an operator's arguments, called as the operator is: defaults stand in the schema alone."""
    schema = overload(operator)._schema
    names = [argument.name for argument in schema.arguments]
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}

    def call(*args: Any, **kwargs: Any) -> R:
        return function(Arguments(**{**defaults, **dict(zip(names, args, strict=False)), **kwargs}))

    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return raises_operator_errors(operator.partition(".")[0], call)


def _check_algorithm(operator: str, a: Arguments) -> None:
    """Refuses an algorithm that no device has; which ones can do a problem is known where it runs."""
    if getattr(a, "algorithm", "auto") == "auto":
        return
    family = operator.partition("2d")[0] + "2d"
    known = dict.fromkeys(name for device in ("cpu", "cuda") for name in _library.algorithms(family, device))
    if a.algorithm not in known:
        names = "".join(f", {name!r}" for name in known)
        raise ValueError(f"{operator}: algorithm must be one of 'auto'{names}; got {a.algorithm!r}")


def register_fake(operator: str) -> Callable[[Callable[[Arguments], R]], Callable[[Arguments], R]]:
    def register(fake: Callable[[Arguments], R]) -> Callable[[Arguments], R]:
        def checked(a: Arguments) -> R:
            result = fake(a)
            _check_algorithm(operator, a)
            return result

        torch.library.register_fake(f"torch_convops::{operator}", by_name(operator, checked))
        return fake

    return register


def register(operator: str, key: str, function: Callable[[Arguments], Any]) -> None:
    """Makes a function an operator's kernel for a dispatch key."""
    library.impl(operator, by_name(operator, function), key)


def register_autograd(operator: str, function: Callable[[Arguments], Any]) -> None:
    """Registers what applies an operator's autograd.Function.

    A torch.func transform has to see that Function too, not what it calls: on the key of the transforms' dynamic layer
    the function runs while they are still active.
    """
    register(operator, "Autograd", function)
    register(operator, "FuncTorchDynamicLayerFrontMode", function)


def register_composite(operator: str, function: Callable[[Arguments], Any]) -> None:
    """Registers an operator that is a composition of others, which do its differentiation and transforms."""
    register(operator, "CompositeImplicitAutograd", function)
    register(operator, "FuncTorchDynamicLayerFrontMode", function)


def autocast(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Casts as torch's autocast does for convolutions: floating tensors but float64, to the device's autocast dtype."""
    device = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


@contextmanager
def excluding_autocast() -> Iterator[None]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
        torch._C.DispatchKey.AutocastCUDA
    )
    with torch._C._ExcludeDispatchKeyGuard(keys):
        yield


def register_autocast(operator: str) -> None:
    """Casts input, weight and bias of an operator under autocast."""
    call = overload(operator)

    def cast(a: Arguments) -> Any:
        a.input, a.weight, a.bias = autocast(a.input, a.weight, a.bias)
        with excluding_autocast():
            return call(**vars(a))

    for key in ("AutocastCPU", "AutocastCUDA"):
        register(operator, key, cast)


def tf32_allowed(tensor: torch.Tensor) -> bool:
    """torch's own switch for float32 convolutions on CUDA tensor cores."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and torch.backends.cudnn.allow_tf32


def is_eager(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one whose sizes are surely not symbolic."""
    return type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether strides order a 4-D tensor as N, H, W, C: the rule of csrc/common/stable.h and of torch."""
    if tensor.dim() != 4:
        return False
    if not is_eager(tensor):
        return suggest_memory_format(tensor) is torch.channels_last
    N, C, H, W = tensor.shape
    n, c, h, w = tensor.stride()
    # With N of 1 and C of 1, or H and W of 1, both orders fit: such a tensor counts as contiguous.
    return w >= c * C > 0 and h >= w * W > 0 and n >= h * H > 0 and N > 0 and h * H != c


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def wants_channels_last(tensor: torch.Tensor, wanted: torch.memory_format | None) -> bool:
    """The fake of csrc/common/stable.h's function of that name."""
    if wanted is None or wanted is torch.preserve_format:
        return is_channels_last(tensor)
    return tensor.dim() == 4 and wanted is torch.channels_last


def empty_image(
    like: torch.Tensor, size: Sequence[Any], channels_last: bool, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The fake of csrc/common/stable.h's allocate: (N, C, H, W), without N where ``like`` is unbatched."""
    return torch.empty(
        tuple(size) if like.dim() == 4 else tuple(size)[1:],
        dtype=like.dtype if dtype is None else dtype,
        device=like.device,
        memory_format=memory_format(channels_last),
    )


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def dtype_name(dtype: torch.dtype) -> str:
    """The function of that name of csrc/common/stable.h."""
    known = (*FLOATS, *INTEGERS, torch.bool, torch.complex64, torch.complex128)
    return str(dtype).removeprefix("torch.") if dtype in known else "an unsupported dtype"


def check_dtype(op: str, name: str, tensor: torch.Tensor, integers: bool = False) -> None:
    if tensor.dtype not in FLOATS + (INTEGERS if integers else ()):
        accepted = "float32, float64, bfloat16" + (
            ", float16 or an integer of 8 to 64 bits" if integers else " or float16"
        )
        raise TypeError(f"{op}: {name} must be {accepted}, got {dtype_name(tensor.dtype)}")


def check_same(op: str, name: str, tensor: torch.Tensor, other: torch.Tensor, other_name: str = "input") -> None:
    if tensor.dtype != other.dtype:
        expected, actual = dtype_name(other.dtype), dtype_name(tensor.dtype)
        raise TypeError(f"{op}: {name} must have the dtype of {other_name} ({expected}), got {actual}")
    if tensor.device != other.device:
        raise ValueError(f"{op}: {name} must be on the device of {other_name}")


def fold_into_batch(tensor: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """Moves a vmapped dimension into N; unbatched samples become a batch of ``size``."""
    moved = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return moved.flatten(0, 1) if moved.dim() == 5 else moved


def unfold_from_batch(tensor: torch.Tensor, size: int, sample_rank: int) -> torch.Tensor:
    """The vmapped dimension back at the front, for samples of ``sample_rank`` dimensions."""
    return tensor.unflatten(0, (size, -1)) if sample_rank == 4 else tensor


def fold_dimension(tensor: torch.Tensor, dim: int, outer: Any) -> torch.Tensor:
    """Moves dimension 0 into dimension ``dim`` of the rest, behind the first ``outer`` parts of that dimension."""
    size = tensor.shape[1 + dim]
    return tensor.unflatten(1 + dim, (outer, size // outer)).movedim(0, 1 + dim).flatten(dim, dim + 2)


def unfold_dimension(tensor: torch.Tensor, dim: int, outer: Any, size: int) -> torch.Tensor:
    """Undoes :func:`fold_dimension` of a dimension 0 of that size."""
    inner = tensor.shape[dim] // (outer * size)
    return tensor.unflatten(dim, (outer, size, inner)).movedim(dim + 1, 0).flatten(1 + dim, 2 + dim)


def sample_rank(tensor: torch.Tensor, dim: int | None) -> int:
    return tensor.dim() - (dim is not None)


def _in_forward_mode(rule: Any) -> Any:
    @functools.wraps(rule)
    def jvp(ctx: Any, *tangents: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return rule(ctx, *tangents)

    return jvp


class Function(torch.autograd.Function):
    """An autograd.Function that is called with :meth:`call`.

    torch.func's transforms need ``setup_context``; outside them torch binds the arguments to forward's signature for
    it, which costs more than the call itself, so there a twin whose forward takes the context does the same work.

    torch switches forward mode off while it runs a Function's jvp, for the levels around it too: nested ``jvp`` would
    silently lose what the tangents themselves depend on. Here it is switched on again, and :meth:`primals` takes the
    tangents of the level that is being computed off the saved tensors.

    What it takes besides tensors is a dataclass: torch.func's transforms walk through tuples and dicts for tensors,
    again and again, half a millisecond for a call under vmap and grad.
    """

    _twin: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        rule: Any = cls.jvp
        cls.jvp = staticmethod(_in_forward_mode(rule))  # type: ignore[method-assign]

        def forward(ctx: Any, *args: Any) -> Any:
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            return output

        members: dict[str, Any] = {"forward": forward, "backward": cls.backward, "jvp": cls.jvp}
        metaclass: Any = type(torch.autograd.Function)
        cls._twin = metaclass(
            cls.__name__, (torch.autograd.Function,), {name: staticmethod(member) for name, member in members.items()}
        )

    @staticmethod
    def primals(ctx: Any) -> list[Any]:
        """The tensors saved for a jvp, without tangents."""
        unpack = torch._C._VariableFunctions._unpack_dual
        return [None if tensor is None else unpack(tensor, level=0)[0] for tensor in ctx.saved_tensors]

    @classmethod
    def call(cls, *args: Any) -> Any:
        return (cls if transforms_active() else cls._twin).apply(*args)


class Map(Protocol):
    """A linear map between tensors and its transpose, both fixed by an optional tensor of integers."""

    def __call__(self, tensor: torch.Tensor, fixed: torch.Tensor | None, transposed: bool) -> torch.Tensor: ...


class LinearMap(Function):
    """Applies a linear map of images; its backward applies the transpose, its jvp the map itself: every order works."""

    @staticmethod
    def forward(tensor: torch.Tensor, fixed: torch.Tensor | None, transposed: bool, map_: Map) -> torch.Tensor:
        with below_autograd():
            return map_(tensor, fixed, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, fixed, ctx.transposed, ctx.map = inputs
        if fixed is not None:
            ctx.save_for_backward(fixed)
            ctx.save_for_forward(fixed)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        fixed = next(iter(ctx.saved_tensors), None)
        return LinearMap.call(grad, fixed, not ctx.transposed, ctx.map), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: None) -> torch.Tensor:
        fixed = next(iter(LinearMap.primals(ctx)), None)
        return LinearMap.call(tangent, fixed, ctx.transposed, ctx.map)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        tensor: torch.Tensor,
        fixed: torch.Tensor | None,
        transposed: bool,
        map_: Map,
    ) -> tuple[torch.Tensor, int]:
        folded = fold_into_batch(tensor, in_dims[0], info.batch_size)
        folded_fixed = None if fixed is None else fold_into_batch(fixed, in_dims[1], info.batch_size)
        result = LinearMap.call(folded, folded_fixed, transposed, map_)
        return unfold_from_batch(result, info.batch_size, sample_rank(tensor, in_dims[0])), 0
