"""Loads the compiled library and asks it about itself."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

PATH = Path(__file__).with_name("libtorch_convops.so")
OPERATORS = ("conv2d", "max_pool2d", "avg_pool2d", "max_unpool2d")
_REBUILD = "run `pip install --no-build-isolation .` in a checkout of torch_convops, or `make build`"


def _load() -> ctypes.CDLL:
    if not PATH.exists():
        raise ImportError(f"torch_convops: the compiled library {PATH} is missing; {_REBUILD}")
    try:
        torch.ops.load_library(str(PATH))
        return ctypes.CDLL(str(PATH))
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"torch_convops: the compiled library {PATH} does not load with torch {torch.__version__} "
            f"({str(error).splitlines()[0]}); {_REBUILD}"
        ) from error


_library = _load()


def _text(name: str, *arguments: object) -> str:
    function = getattr(_library, name)
    function.restype = ctypes.c_char_p
    return str(function(*arguments).decode())


@dataclass(frozen=True)
class BuildInfo:
    """How the library was built and what it runs with here.

    Attributes:
        isa: instruction set that the CPU kernels use on this machine: ``amx`` (AVX-512 with tiles of bfloat16),
            ``avx512``, ``avx2`` or ``baseline``.
        built_with_torch: version of torch whose headers it was compiled against.
        cuda_archs: CUDA architectures in the library, such as ``8.0;9.0a;9.0+PTX``; empty for a CPU-only build.
        no_cuda_reason: why a CPU-only build is one; empty otherwise.
    """

    isa: str
    built_with_torch: str
    cuda_archs: str
    no_cuda_reason: str


def build_info() -> BuildInfo:
    """Returns how the compiled library was built."""
    return BuildInfo(
        isa=_text("torch_convops_isa"),
        built_with_torch=_text("torch_convops_built_with_torch"),
        cuda_archs=_text("torch_convops_cuda_archs"),
        no_cuda_reason=_text("torch_convops_no_cuda_reason"),
    )


def algorithms(operator: str, device: str = "cpu") -> list[str]:
    """Returns the names of an operator's algorithms, in the order in which ``"auto"`` prefers them.

    Args:
        operator: ``"conv2d"``, ``"max_pool2d"``, ``"avg_pool2d"`` or ``"max_unpool2d"``; the others are built on these.
        device: ``"cpu"`` or ``"cuda"``; a CPU-only build has no CUDA algorithms.
    """
    names = _text("torch_convops_algorithms", operator.encode(), int(device == "cuda"))
    if not names and operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(map(repr, OPERATORS))}, got {operator!r}")
    return names.split(",") if names else []


def _chosen(name: str) -> str:
    if name.startswith("error: "):
        raise ValueError(name.removeprefix("error: "))
    return name


def conv2d_choice(
    cuda: bool, pass_: int, dtype: int, sizes: Sequence[int], formats: tuple[bool, bool], allow_tf32: bool
) -> str:
    """The algorithm that ``"auto"`` takes; see ``torch_convops_conv2d_choice`` in csrc/info.cpp."""
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    return _chosen(
        _text("torch_convops_conv2d_choice", int(cuda), pass_, dtype, array, *map(int, formats), int(allow_tf32))
    )


def pool2d_choice(op: str, cuda: bool, pass_: int, dtype: int, sizes: Sequence[int], channels_last: bool) -> str:
    """The algorithm that ``"auto"`` takes; see ``torch_convops_pool2d_choice`` in csrc/info.cpp."""
    array = (ctypes.c_int64 * len(sizes))(*sizes)
    return _chosen(
        _text("torch_convops_pool2d_choice", op.encode(), int(cuda), pass_, dtype, array, int(channels_last))
    )
