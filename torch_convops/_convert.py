"""Models of torch.nn's layers on this library's kernels, and back."""

from __future__ import annotations

import collections
import fnmatch
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.nn.utils import parametrize

from . import nn
from ._override import CONVOLUTION_DTYPES, is_torchs_padding

Selector: TypeAlias = "str | type | Sequence[str | type]"

_NAMES = (
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "Conv2d",
    "ConvTranspose2d",
    "LPPool2d",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "MaxPool2d",
    "MaxUnpool2d",
)
_OURS: dict[type, type] = {getattr(torch.nn, name): getattr(nn, name) for name in _NAMES}
_TORCHS = {ours: torchs for torchs, ours in _OURS.items()}
_ALL_OURS: tuple[type, ...] = tuple(getattr(nn, name) for name in nn.__all__)


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` or :func:`revert` did to a model; ``str`` of it says it in words.

    Attributes:
        converted: the layers that were swapped, by their qualified names in the model (``""`` is the model itself):
            the types that they have become.
        left: the layers that were left, and why.
    """

    converted: Mapping[str, type]
    left: Mapping[str, str]

    def __str__(self) -> str:
        counts = collections.Counter(_type_name(kind) for kind in self.converted.values())
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        lines = [
            f"{len(self.converted)} layers swapped" + (f" ({kinds})" if kinds else "") + f", {len(self.left)} left"
        ]
        lines += [f"  {name or '(the model itself)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def convert(model: torch.nn.Module, *, include: Selector | None = None, exclude: Selector | None = None) -> Conversion:
    """Puts a model's convolutions and poolings on this library's kernels, in place.

    Every ``Conv2d``, ``ConvTranspose2d``, ``MaxPool2d``, ``AvgPool2d``, ``AdaptiveMaxPool2d``, ``AdaptiveAvgPool2d``,
    ``MaxUnpool2d`` and ``LPPool2d`` of torch.nn, and ``LazyConv2d`` and ``LazyConvTranspose2d`` before or after their
    first call, becomes the layer of that name of :mod:`torch_convops.nn`. Only the type of a layer changes: parameters
    (the very same, so that optimizers go on), buffers, hooks, parametrizations, training mode, device, dtype and the
    keys of the ``state_dict`` stay. A layer that the model has at several places is one layer. Converting again does
    nothing.

    Subclasses are left, since what they add is not known; so are layers whose ``forward`` is replaced on the instance,
    or whose parameters are of a dtype or of a subclass of ``torch.Tensor`` that the kernels do not take, and layers of
    other libraries and compilers that have the name of one of torch.nn's. The result names each of them with the
    reason. What a model calls as a function is no layer: that is for :func:`torch_convops.override`.

    Layers whose parameters are sharded (``torch.distributed.tensor.DTensor``) are converted, too; a layer that
    ``fully_shard`` has wrapped itself is of a type of its own and left, so convert before it, or wrap blocks of layers.

    A model is best traced by ``torch.fx`` before it is converted, then its layers stay nodes of the graph: torch.fx
    takes only torch.nn's own modules for leaves. A trace that is made of a converted model is of functions.

    Args:
        model: a model, or a single such layer.
        include: what to convert, by default everything: glob patterns of qualified names, as in :mod:`fnmatch`
            (``"features.*"``), or types (``torch.nn.MaxPool2d``, ``Bottleneck``), or a sequence of those. A module that
            matches stands for all that it contains.
        exclude: what to leave, in the same terms; wins over ``include``.

    Returns:
        What was swapped, and what was left and why.

    Raises:
        TypeError: the model is no module, or a selector is no string or type.
    """
    return _swap(model, _to_ours, include, exclude)


def revert(model: torch.nn.Module) -> Conversion:
    """Undoes :func:`convert`, in place: the layers of :mod:`torch_convops.nn` become those of torch.nn again.

    That holds for layers made by this library's constructors, too, where torch.nn can say them: not those with four
    sides of padding, a mode of padding that torch lacks or ``padding_mode="symmetric"``, and none that are this
    library's own, such as ``BlurPool2d``. These are left and named, as are subclasses.

    Args:
        model: a model, or a single such layer.

    Returns:
        What was swapped, and what was left and why.

    Raises:
        TypeError: the model is no module.
    """
    return _swap(model, _to_torchs, None, None)


def _swap(
    model: torch.nn.Module,
    target: Callable[[torch.nn.Module], type | str | None],
    include: Selector | None,
    exclude: Selector | None,
) -> Conversion:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    included, excluded = _selectors("include", include), _selectors("exclude", exclude)
    modules = dict(model.named_modules(remove_duplicate=False))
    names: dict[torch.nn.Module, list[str]] = {}
    for name, module in modules.items():
        names.setdefault(module, []).append(name)
    converted: dict[str, type] = {}
    left: dict[str, str] = {}
    for module, paths in names.items():
        result = target(module)
        if result is None:
            continue
        if _matches(paths, modules, excluded):
            result = "excluded"
        elif include is not None and not _matches(paths, modules, included):
            result = "not included"
        if isinstance(result, str):
            left[paths[0]] = result
        else:
            _set_type(module, result)
            converted[paths[0]] = result
    return Conversion(converted, left)


def _selectors(argument: str, value: Selector | None) -> tuple[str | type, ...]:
    if value is None:
        return ()
    selectors = (value,) if isinstance(value, (str, type)) else tuple(value)
    for selector in selectors:
        if not isinstance(selector, (str, type)):
            raise TypeError(f"{argument} must be glob patterns of names or types, got {selector!r}")
    return selectors


def _matches(names: Iterable[str], modules: Mapping[str, torch.nn.Module], selectors: Sequence[str | type]) -> bool:
    """Whether a module, or one that it is part of, is selected under one of its names."""
    for name in names:
        parts = name.split(".") if name else []
        for whole in (".".join(parts[:count]) for count in range(len(parts) + 1)):
            for selector in selectors:
                if isinstance(selector, str):
                    if fnmatch.fnmatchcase(whole, selector):
                        return True
                elif isinstance(modules[whole], selector):
                    return True
    return False


def _type_of(module: torch.nn.Module) -> type:
    """A module's type, below the subclass that torch makes for each module that it parametrizes."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _set_type(module: torch.nn.Module, kind: type) -> None:
    if parametrize.is_parametrized(module):
        # The properties that compute the parametrized tensors are members of this subclass.
        members = {
            name: member for name, member in vars(type(module)).items() if name not in ("__dict__", "__weakref__")
        }
        kind = type(f"Parametrized{kind.__name__}", (kind,), members)
    module.__class__ = kind
    # torch 2.10's compiler takes a module for unchanged, its type too, while nothing was written to its attributes.
    vars(module)["_converted"] = None
    del vars(module)["_converted"]


def _type_name(kind: type) -> str:
    return f"{'torch.nn' if kind in _OURS else kind.__module__}.{kind.__qualname__}"


def _to_ours(module: torch.nn.Module) -> type | str | None:
    """The type that a module is to have, why it is left, or None for what is no layer of torch.nn's kind."""
    kind = _type_of(module)
    if kind in _OURS:
        return _obstacle(module) or _OURS[kind]
    if isinstance(module, _ALL_OURS):
        return None
    for torchs in _OURS:
        if isinstance(module, torchs):
            return f"{_type_name(kind)} is a subclass of torch.nn.{torchs.__name__}"
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript" if module.original_name in _NAMES else None
    return f"{_type_name(kind)} is not torch.nn's" if kind.__name__ in _NAMES else None


def _obstacle(module: torch.nn.Module) -> str | None:
    for method in ("forward", "_conv_forward"):
        if method in vars(module):
            return f"its {method} is replaced"
    known = [torch.nn.Parameter, torch.nn.UninitializedParameter]
    if "torch.distributed.tensor" in sys.modules:
        known.append(torch.distributed.tensor.DTensor)
    for name, parameter in module.named_parameters(recurse=False):
        if type(parameter) not in known:
            return f"its {name} is a {_type_name(type(parameter))}"
        if parameter.dtype not in CONVOLUTION_DTYPES:
            return f"its {name} is {str(parameter.dtype).removeprefix('torch.')}"
    return None


def _to_torchs(module: torch.nn.Module) -> type | str | None:
    kind = _type_of(module)
    if kind in _TORCHS:
        return _untranslatable(module) or _TORCHS[kind]
    if kind in _ALL_OURS:
        return f"torch.nn has no {kind.__name__}"
    for ours in _ALL_OURS:
        if isinstance(module, ours):
            return f"{_type_name(kind)} is a subclass of torch_convops.nn.{ours.__name__}"
    return None


def _untranslatable(module: torch.nn.Module) -> str | None:
    """What of a layer torch.nn cannot say."""
    padding = getattr(module, "padding", 0)
    if not is_torchs_padding(padding, module.stride if isinstance(module, torch.nn.Conv2d) else None):
        return f"padding={padding!r} is not torch's"
    mode = getattr(module, "padding_mode", "zeros")
    return f"padding_mode={mode!r} is not torch's" if mode == "symmetric" else None
